/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One initiator's session, without its socket: bytes in, PDUs out.
 *
 *   LOGIN ⇄ (OFFERING, REINSTATING, OPENING: waits for the owner) ─► FULL ─► CLOSED
 *
 * OFFERING: the owner says what the initiator may use (iscsi_access.h), then CHAP may be asked for;
 * OPENING: the volumes of what it has proven to be allowed.  A login that is refused for who asks
 * is answered when the owner says, so that its time tells nothing.
 *
 * A session has one connection (MaxConnections=1) and error recovery level 0: what cannot be
 * continued ends it.  The owner gives what it receives to iscsi_session_input(), and payloads, if
 * it likes, straight into iscsi_session_payload(); it sends what iscsi_session_gather() names, and
 * says iscsi_session_sent().  Nothing here knows a socket.
 *
 * Invariants:
 *   - commands in flight are at most ISCSI_TASKS_MAX (MaxCmdSN says so) and ISCSI_IMMEDIATE_MAX
 * more; answers to other requests at most ISCSI_CONTROLS_MAX: beyond those nothing is parsed;
 *   - a task is in session->tasks from its command until its answer was sent; it is with the SCSI
 *     layer exactly while `executing`; a session ends when no task is;
 *   - StatSN is given to a PDU when it is gathered, so it grows in the order of the stream;
 *   - what an initiator sends is never CHECKed.
 */
#ifndef QUARRY_FRONTENDS_ISCSI_SESSION_H
#define QUARRY_FRONTENDS_ISCSI_SESSION_H

#include "frontends/iscsi/iscsi_access.h"
#include "frontends/iscsi/iscsi_keys.h"
#include "frontends/scsi/scsi.h"

#define ISCSI_TASKS_MAX 128u
#define ISCSI_IMMEDIATE_MAX 16u
#define ISCSI_CONTROLS_MAX 32u
#define ISCSI_OUTS_MAX 128u

struct iscsi_session;

/* What sessions of one server share: the initiators that are logged in. */
struct iscsi_portal {
	struct scsi_port *scsi;
	struct list sessions;
	uint16_t next_tsih;
	char
	    address[64]; /* "192.0.2.1:3260,1" is made of the connection's own; see TargetAddress */
};

/* What a session asks of its owner; not called from inside each other. */
struct iscsi_session_events {
	/* What may session->initiator use, of params.target_name or (discovery) of all?  Answer
	 * with iscsi_session_offered(). */
	void (*offer)(struct iscsi_session *session);
	/* Open a volume; answer with iscsi_session_opened(). */
	void (*open)(struct iscsi_session *session, const struct iscsi_grant *grant);
	/* The login is refused: call iscsi_session_refuse() a fixed time after its last request. */
	void (*refused)(struct iscsi_session *session);
	/* There is something to gather. */
	void (*output)(struct iscsi_session *session);
	/* Send what there is to gather, then close.  @flush: otherwise close at once. */
	void (*close)(struct iscsi_session *session, bool flush);
	/* No task of a session that ends is left: iscsi_session_fini() may be called. */
	void (*idle)(struct iscsi_session *session);
};

enum iscsi_phase {
	ISCSI_PHASE_LOGIN,
	ISCSI_PHASE_OFFERING,
	ISCSI_PHASE_REINSTATING,
	ISCSI_PHASE_OPENING,
	ISCSI_PHASE_REFUSED, /* waits to say so */
	ISCSI_PHASE_FULL,
	ISCSI_PHASE_CLOSED, /* nothing more is parsed */
};

enum iscsi_auth {
	ISCSI_AUTH_METHOD, /* nothing is agreed on yet */
	ISCSI_AUTH_ALGORITHM,
	ISCSI_AUTH_ANSWER,
	ISCSI_AUTH_DONE,
};

enum iscsi_input {
	ISCSI_INPUT_HEADER,
	ISCSI_INPUT_PAYLOAD,
	ISCSI_INPUT_SKIP,
	ISCSI_INPUT_TRAILER,
};

/* A SCSI command in flight. */
struct iscsi_task {
	struct list link;  /* session->tasks; or free */
	struct list ready; /* session->ready: there is something to send */
	struct iscsi_session *session;
	struct scsi_task scsi;
	bool immediate;
	bool executing;
	bool answered; /* done: data and status are to be sent */
	bool wants_r2t;
	bool unsolicited; /* Data-Out without R2T is still coming */
	uint32_t received_bytes;
	uint32_t solicited_end; /* of the outstanding R2T */
	uint32_t r2t_sn;
	uint32_t data_out_sn;
	uint32_t data_in_sn;
	uint32_t sent_bytes;
};

/* An answer that is not a SCSI command's. */
struct iscsi_control {
	struct list link;
	uint8_t bhs[ISCSI_BHS_BYTES];
	uint8_t *data; /* free() */
	uint32_t data_bytes;
	bool takes_stat_sn;
	bool waits;  /* TASK MANAGEMENT RESPONSE: for aborted tasks */
	bool closes; /* the connection, once it was sent */
};

/* A PDU as it goes out. */
struct iscsi_out {
	uint8_t head[ISCSI_BHS_BYTES + ISCSI_DIGEST_BYTES];
	uint8_t tail[3 + ISCSI_DIGEST_BYTES];
	const uint8_t *data;
	uint32_t head_bytes, data_bytes, tail_bytes;
	struct iscsi_task *last_of;    /* released once sent */
	struct iscsi_control *control; /* likewise */
	uint8_t sense[2 + SCSI_SENSE_BYTES_MAX];
};

struct iscsi_session {
	struct list link; /* portal->sessions */
	struct iscsi_portal *portal;
	const struct iscsi_session_events *events;
	const char *peer;
	char local_address[80]; /* for TargetAddress: host:port */
	enum iscsi_phase phase;
	bool ending;

	/* login */
	struct iscsi_params params;
	enum iscsi_stage stage;
	bool leading; /* the first login request came */
	bool digests; /* of full feature phase: header and data are covered */
	uint32_t login_tag;
	enum iscsi_login_status refusal;
	enum iscsi_auth auth;
	enum chap_algorithm chap_algorithm;
	uint8_t chap_identifier;
	uint8_t chap_challenge[CHAP_CHALLENGE_BYTES];
	struct iscsi_proof proof; /* what was proven; user "": nothing */
	struct iscsi_offer offer;
	uint16_t cid;
	uint16_t tsih;
	struct scsi_initiator initiator;
	struct iscsi_text keys; /* gathered from requests with C */
	struct iscsi_text answer;
	struct iscsi_session *awaits; /* the older session of the same initiator port */

	/* numbers */
	uint32_t exp_cmd_sn;
	uint32_t stat_sn;
	uint32_t tasks_used; /* not immediate */
	uint32_t immediates_used;
	uint32_t controls_used;
	uint32_t next_ttt;
	bool pinged; /* and nothing was heard since */

	/* input: the PDU being received */
	enum iscsi_input input;
	uint8_t bhs[ISCSI_BHS_BYTES];
	uint32_t data_bytes; /* of its data segment */
	uint8_t *payload;    /* where what is left of it goes */
	uint32_t payload_left;
	uint32_t skip_left;
	uint32_t crc;
	uint8_t *control_data;   /* free() */
	struct iscsi_task *task; /* that the data are of; NULL: dropped */

	/* text */
	uint32_t text_tag;
	bool text_pending;

	/* full feature */
	struct scsi_luns luns;
	struct scsi_nexus *nexuses[SCSI_LUNS_MAX]; /* luns.count, in the order of opening */
	bool opening;                              /* a volume, for the owner */
	struct list tasks;
	struct list ready;
	struct list controls;
	struct list free_tasks;
	void *task_slab;

	struct iscsi_out outs[ISCSI_OUTS_MAX];
	uint32_t out_count;
	bool closes; /* after what is gathered */
};

void iscsi_session_init(struct iscsi_session *session, struct iscsi_portal *portal,
    const struct iscsi_session_events *events, const char *peer);
/* Aborts what is in flight; events->idle() comes, perhaps from inside, when none of it is left. */
void iscsi_session_end(struct iscsi_session *session);
void iscsi_session_fini(struct iscsi_session *session);

/* Consumes some of @bytes; less than all: the rest is wanted again with more behind it, or after an
 * event that the session waits for. */
size_t iscsi_session_input(
    struct iscsi_session *session, const uint8_t *bytes, size_t len_bytes) must_check;
/* Where the next bytes of the stream belong, if they are payload; NULL: nowhere. */
uint8_t *iscsi_session_payload(const struct iscsi_session *session, uint32_t *left_bytes);
void iscsi_session_payload_received(struct iscsi_session *session, size_t len_bytes);
/* Whether it waits for something other than input. */
bool iscsi_session_rests(const struct iscsi_session *session);

/* The owner's answers; @offer and @volume become the session's. */
void iscsi_session_offered(struct iscsi_session *session, struct iscsi_offer *offer);
void iscsi_session_opened(struct iscsi_session *session, int error, struct volume *volume);
void iscsi_session_refuse(struct iscsi_session *session);
/* Exports changed under a session in full feature phase.  False: it has lost a unit, and is to be
 * ended.  @offer becomes the session's. */
bool iscsi_session_reoffered(struct iscsi_session *session, struct iscsi_offer *offer) must_check;

/* Of a session in full feature phase that is silent: asks whether its initiator is there. */
void iscsi_session_ping(struct iscsi_session *session);
/* From time to time: tells the initiator what has changed that no command of its noticed. */
void iscsi_session_poll(struct iscsi_session *session);

/* Fills session->outs; how many. */
uint32_t iscsi_session_gather(struct iscsi_session *session);
void iscsi_session_sent(struct iscsi_session *session);

/* --- for the files of the session alone --- */

struct iscsi_control *iscsi_control_new(struct iscsi_session *session, enum iscsi_opcode opcode);
/* NULL: the session has no such unit. */
struct scsi_nexus *iscsi_session_nexus(const struct iscsi_session *session, const uint8_t lun[8]);
void iscsi_control_queue(struct iscsi_session *session, struct iscsi_control *control);
void iscsi_session_fatal(struct iscsi_session *session, const char *why);
/* iscsi_login.c */
void iscsi_login_request(struct iscsi_session *session);
void iscsi_login_reinstated(struct iscsi_session *session);
void iscsi_text_request(struct iscsi_session *session);
/* iscsi_task.c */
void iscsi_command_begin(struct iscsi_session *session);
void iscsi_data_out_begin(struct iscsi_session *session);
void iscsi_data_out_end(struct iscsi_session *session);
void iscsi_task_management(struct iscsi_session *session);
void iscsi_tasks_abandon(struct iscsi_session *session);
bool iscsi_task_gather(struct iscsi_session *session, struct iscsi_task *task);
void iscsi_task_free(struct iscsi_task *task);
struct iscsi_out *iscsi_out_begin(struct iscsi_session *session);
void iscsi_out_end(struct iscsi_session *session, struct iscsi_out *out, bool takes_stat_sn);

#endif
