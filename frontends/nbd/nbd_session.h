/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One client's conversation, without its socket: bytes in; bytes, questions and requests out.
 *
 *   FLAGS ─► OPTION ⇄ { SKIP_OPTION, TLS, NAMES, OPEN } ─► HEADER ⇄ { PAYLOAD, SKIP_PAYLOAD }
 *      └────────┴── whatever cannot be answered ──► CLOSED ◄──┘
 *
 * The owner calls nbd_session_input() with what it has received and not yet had consumed, and does
 * what the event says.  Nothing here waits, allocates per request, or knows a clock; so the same
 * bytes give the same events however they are cut (but for the cuts themselves), and a fuzzer needs
 * no more than this file.
 *
 * Invariants:
 *   - an event other than MORE is dealt with before the next call of nbd_session_input();
 *   - the owner offers all unconsumed bytes each time, up to NBD_INPUT_BYTES_MAX at least;
 *   - output (session.out) is non-empty after OUTPUT and may be after CLOSE: the owner sends it and
 *     sets out.len_bytes to 0 before it goes on, so a client cannot make us hoard answers;
 *   - what a client sends is never CHECKed.
 */
#ifndef QUARRY_FRONTENDS_NBD_SESSION_H
#define QUARRY_FRONTENDS_NBD_SESSION_H

#include "core/volume.h"
#include "frontends/nbd/nbd_proto.h"
#include "frontends/nbd/nbd_uri.h"

/* An option's data beyond this are skipped and refused, beyond the second number not even that. */
#define NBD_OPTION_BYTES_MAX (64 * KIB)
#define NBD_OPTION_SKIP_BYTES_MAX (16 * MIB)
#define NBD_INPUT_BYTES_MAX (NBD_OPTION_BYTES_MAX + sizeof(struct nbd_option_wire))

/* Payloads; what we say in INFO_BLOCK_SIZE.  A WRITE beyond the second number ends the connection.
 */
#define NBD_PAYLOAD_BYTES_MAX (32 * MIB)
#define NBD_PAYLOAD_SKIP_BYTES_MAX (64 * MIB)
static_assert(NBD_PAYLOAD_BYTES_MAX <= VOLUME_IO_BYTES_MAX, "the engine takes what we advertise");

enum nbd_event {
	NBD_EVENT_MORE,    /* what could be consumed is; come back with more bytes */
	NBD_EVENT_OUTPUT,  /* send session.out, then go on */
	NBD_EVENT_NAMES,   /* answer with nbd_session_names(); session.want_snapshots */
	NBD_EVENT_OPEN,    /* open session.open_name; answer with nbd_session_opened() */
	NBD_EVENT_TLS,     /* send session.out, secure the stream, then nbd_session_secured() */
	NBD_EVENT_REQUEST, /* session.request is new */
	NBD_EVENT_CLOSE,   /* answer what is in flight, send session.out, then close */
};

enum nbd_session_state {
	NBD_SESSION_CLIENT_FLAGS,
	NBD_SESSION_OPTION,
	NBD_SESSION_SKIP_OPTION, /* data of an option that is too long */
	NBD_SESSION_TLS,         /* waits for the owner */
	NBD_SESSION_NAMES,       /* waits for the owner */
	NBD_SESSION_OPEN,        /* waits for the owner */
	NBD_SESSION_HEADER,      /* transmission from here on */
	NBD_SESSION_PAYLOAD,     /* the owner takes the payload */
	NBD_SESSION_SKIP_PAYLOAD,
	NBD_SESSION_CLOSED,
};

/* Metadata contexts that a client may select at once; ids are their places, from 1 on. */
#define NBD_CONTEXTS_MAX 16u

enum nbd_context_kind {
	NBD_CONTEXT_ALLOCATION,
	NBD_CONTEXT_DEPTH,
	NBD_CONTEXT_BITMAP,
	NBD_CONTEXT_DIFF,
};

struct nbd_context {
	enum nbd_context_kind kind;
	char snapshot[NAME_SIZE]; /* BITMAP, DIFF: of the same volume */
};

/* What the client sees of an export. */
struct nbd_export {
	uint64_t size_bytes;
	bool readonly;
	bool rotational;
	uint32_t block_bytes; /* of 4096 it is the minimum in INFO_BLOCK_SIZE */
	char name[NAME_TEXT_SIZE];
	char description[NAME_TEXT_SIZE + 80];
};

/* A request as it was checked: with error set it is only to be answered, otherwise it is valid. */
struct nbd_request {
	uint16_t type; /* enum nbd_command; what the client sent if error is set */
	uint16_t flags;
	uint64_t cookie; /* as on the wire */
	uint64_t offset_bytes;
	uint64_t len_bytes;
	uint32_t contexts; /* BLOCK_STATUS: a bit per context that is to be told */
	uint32_t
	    payload_bytes; /* of these the owner takes charge, see nbd_session_payload_taken() */
	enum nbd_error error;
	const char *message; /* why; static */
};

struct nbd_output {
	uint8_t *bytes;
	size_t len_bytes;
	size_t capacity_bytes;
};

struct nbd_session {
	enum nbd_session_state state;
	struct nbd_output out;
	/* The owner sets them after nbd_session_init(). */
	enum nbd_tls_policy tls;
	bool tls_reveals; /* there may be exports that are only for clients with TLS */

	/* negotiated */
	bool secure; /* by TLS */
	bool no_zeroes;
	bool fixed_newstyle; /* the client speaks it; without, there is no TLS */
	bool structured;
	bool extended;
	struct nbd_context contexts[NBD_CONTEXTS_MAX]; /* selected for meta_name */
	uint32_t context_count;

	/* the option being worked on */
	uint32_t option;
	uint32_t infos;      /* bits 1 << enum nbd_info that INFO or GO asked for */
	bool want_snapshots; /* NAMES */
	uint32_t meta_all;   /* LIST_META_CONTEXT: bits 1 << kind, all of them */
	struct nbd_context queries[NBD_CONTEXTS_MAX]; /* …_META_CONTEXT: that were asked for */
	uint32_t query_count;
	struct name open_name;            /* OPEN */
	char export_name[NAME_TEXT_SIZE]; /* as the client wrote it; "" is the default export */
	char meta_name[NAME_TEXT_SIZE];

	uint64_t skip_bytes;   /* SKIP_OPTION, SKIP_PAYLOAD */
	uint32_t payload_left; /* PAYLOAD */

	struct nbd_export export; /* transmission; the owner may update size_bytes */
	struct nbd_request request;
};

/* Puts the greeting into session.out. */
void nbd_session_init(struct nbd_session *session);
void nbd_session_fini(struct nbd_session *session);

/* Consumes some of @bytes (*consumed tells how many) until there is an event. */
enum nbd_event nbd_session_input(struct nbd_session *session, const uint8_t *bytes,
    size_t len_bytes, size_t *consumed) must_check;

/* The owner's answers.  @error is 0 or a negative errno value. */
enum nbd_event nbd_session_names(
    struct nbd_session *session, int error, const struct name *names, size_t count) must_check;
enum nbd_event nbd_session_opened(
    struct nbd_session *session, int error, const struct nbd_export *export) must_check;

/* The stream is secured; all that was agreed on before is forgotten, as proto.md demands. */
void nbd_session_secured(struct nbd_session *session);

/* @len_bytes of the payload of the last REQUEST were taken from the stream, before or beside
 * nbd_session_input(). */
void nbd_session_payload_taken(struct nbd_session *session, size_t len_bytes);

/* How many contexts count for the export that is being opened. */
static inline uint32_t
nbd_session_context_count(const struct nbd_session *session)
{
	return strcmp(session->meta_name, session->export_name) == 0 ? session->context_count : 0;
}

/* Whether the present option, if it succeeds, begins transmission. */
static inline bool
nbd_session_enters(const struct nbd_session *session)
{
	return session->option == NBD_OPT_GO || session->option == NBD_OPT_EXPORT_NAME;
}

static inline bool
nbd_session_in_transmission(const struct nbd_session *session)
{
	return session->state >= NBD_SESSION_HEADER && session->state < NBD_SESSION_CLOSED;
}

/* --- replies --- */

#define NBD_REPLY_HEAD_BYTES_MAX 48u /* of a chunk */
#define NBD_REPLY_PIECES_MAX 8u

struct nbd_piece {
	void *bytes;
	uint32_t len_bytes;
};

/* What goes over the wire: head, then tail (the payload, a message: not copied), then more. */
struct nbd_reply {
	uint32_t head_bytes;
	uint32_t tail_bytes;
	const void *tail;
	uint32_t more_count;
	struct nbd_piece more[NBD_REPLY_PIECES_MAX - 1];
	uint8_t head[2 * NBD_REPLY_HEAD_BYTES_MAX]; /* a hole, and what is before data */
};

/* Success without data. */
void nbd_reply_done(
    const struct nbd_session *session, const struct nbd_request *request, struct nbd_reply *reply);
/* @error is not NBD_SUCCESS; @message is static or NULL. */
void nbd_reply_error(const struct nbd_session *session, const struct nbd_request *request,
    enum nbd_error error, const char *message, struct nbd_reply *reply);
/* READ: @data are the request's len_bytes.  In long runs of zeroes there chunks' headers take their
 * place. */
void nbd_reply_data(const struct nbd_session *session, const struct nbd_request *request,
    void *data, struct nbd_reply *reply);
/*
 * BLOCK_STATUS: one chunk per context, in order; before the first @reply is empty (head_bytes 0).
 * @extents (at least one) become descriptors where they are; those of the first context begin a
 * buffer, those of the next lie at nbd_reply_status_next() in it.  @last: no context follows.
 */
void nbd_reply_status(const struct nbd_session *session, const struct nbd_request *request,
    uint32_t context, struct volume_extent *extents, uint32_t count, bool last,
    struct nbd_reply *reply);
static inline size_t
nbd_reply_status_next(const struct nbd_reply *reply)
{
	return reply->head_bytes
		   ? round_up(reply->tail_bytes + NBD_REPLY_HEAD_BYTES_MAX, sizeof(uint64_t))
		   : 0;
}

/* The one table from the engine's errors to the protocol's; @message tells the client's user. */
enum nbd_error nbd_error_from(int error, const char **message);

/* --- for nbd_handshake.c and nbd_transmission.c alone --- */

enum nbd_event nbd_handshake_input(
    struct nbd_session *session, const uint8_t *bytes, size_t len_bytes, size_t *consumed);
enum nbd_event nbd_transmission_input(
    struct nbd_session *session, const uint8_t *bytes, size_t len_bytes, size_t *consumed);
uint16_t nbd_transmission_flags(const struct nbd_session *session, const struct nbd_export *export);

#endif
