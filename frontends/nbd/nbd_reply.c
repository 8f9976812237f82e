/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transmission, the sending half: heads of replies, in the form that was negotiated.
 *
 *   simple      {magic, error, cookie}, data
 *   structured  READ, BLOCK_STATUS and errors as one chunk; success without data stays simple
 *   extended    everything as one chunk, whose header is as long as a request's
 *
 * A READ is answered by content chunks: OFFSET_HOLE for all of it if it is zeroes, or for runs of
 * whole blocks that are; between them OFFSET_DATA.  With DF it is one OFFSET_DATA.
 *
 * The data stay where they are: the headers of the chunks behind a run's begin are written over
 * the zeroes, so that each run costs one piece more.
 *
 *   head        tail                 more[0]
 *   [header 1]  data 1 | [hole 1][header 2] … zeroes, not sent … | data 2 | [hole 2] …
 */
#include "frontends/nbd/nbd_session.h"

/* A shorter run of zeroes is sent: it costs less than one chunk more. */
#define HOLE_BYTES_MIN (64 * KIB)

static const struct {
	int error;
	enum nbd_error nbd;
	const char *message;
} errors[] = {
	{ -EIO, NBD_EIO, "the data or the device under them cannot be read or written" },
	{ -EUCLEAN, NBD_EIO, "a structure of the pool is damaged" },
	{ -ENOSPC, NBD_ENOSPC, "the pool is full" },
	{ -EINVAL, NBD_EINVAL, "the request is not valid" },
	{ -EROFS, NBD_EPERM, "the export is read-only" },
	{ -EPERM, NBD_EPERM, "not permitted" },
	{ -EACCES, NBD_EPERM, "not permitted" },
	{ -ENOMEM, NBD_ENOMEM, "out of memory" },
	{ -EOVERFLOW, NBD_EOVERFLOW, "too large" },
	{ -ENOTSUP, NBD_ENOTSUP, "not supported" },
	{ -ESHUTDOWN, NBD_ESHUTDOWN, "the export is going away" },
	{ -ENOENT, NBD_ESHUTDOWN, "the export is gone" },
};

enum nbd_error
nbd_error_from(int error, const char **message)
{
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		if (errors[i].error == error) {
			*message = errors[i].message;
			return errors[i].nbd;
		}
	}
	*message = "an error that has no name in this protocol";
	return NBD_EIO;
}

static void
put(struct nbd_reply *reply, const void *bytes, size_t len_bytes)
{
	CHECK(reply->head_bytes + len_bytes <= sizeof(reply->head));
	memcpy(reply->head + reply->head_bytes, bytes, len_bytes);
	reply->head_bytes += (uint32_t)len_bytes;
}

static void
reply_reset(struct nbd_reply *reply, const void *tail, size_t tail_bytes)
{
	reply->head_bytes = 0;
	reply->tail = tail;
	reply->tail_bytes = (uint32_t)tail_bytes;
	reply->more_count = 0;
}

static void
put_simple(const struct nbd_request *request, enum nbd_error error, struct nbd_reply *reply)
{
	struct nbd_simple_reply_wire simple = {
		.magic_be = htobe32(NBD_SIMPLE_REPLY_MAGIC),
		.error_be = htobe32(error),
		.cookie = request->cookie,
	};

	put(reply, &simple, sizeof(simple));
}

/* The header of a chunk; the @last one of its request says so. */
static void
put_chunk(const struct nbd_session *session, const struct nbd_request *request, enum nbd_chunk type,
    size_t len_bytes, bool last, struct nbd_reply *reply)
{
	uint16_t flags = last ? NBD_REPLY_FLAG_DONE : 0;

	if (session->extended) {
		struct nbd_extended_reply_wire header = {
			.magic_be = htobe32(NBD_EXTENDED_REPLY_MAGIC),
			.flags_be = htobe16(flags),
			.type_be = htobe16((uint16_t)type),
			.cookie = request->cookie,
			.offset_be = htobe64(request->offset_bytes),
			.len_be = htobe64(len_bytes),
		};

		put(reply, &header, sizeof(header));
	} else {
		struct nbd_chunk_wire header = {
			.magic_be = htobe32(NBD_STRUCTURED_REPLY_MAGIC),
			.flags_be = htobe16(flags),
			.type_be = htobe16((uint16_t)type),
			.cookie = request->cookie,
			.len_be = htobe32((uint32_t)len_bytes),
		};

		put(reply, &header, sizeof(header));
	}
}

void
nbd_reply_done(
    const struct nbd_session *session, const struct nbd_request *request, struct nbd_reply *reply)
{
	reply_reset(reply, NULL, 0);
	/* A READ of nothing must not have a content chunk, nor a simple reply. */
	if (session->extended || (session->structured && request->type == NBD_CMD_READ))
		put_chunk(session, request, NBD_REPLY_TYPE_NONE, 0, true, reply);
	else
		put_simple(request, NBD_SUCCESS, reply);
}

void
nbd_reply_error(const struct nbd_session *session, const struct nbd_request *request,
    enum nbd_error error, const char *message, struct nbd_reply *reply)
{
	size_t message_bytes = message ? strlen(message) : 0;
	struct nbd_chunk_error_wire chunk = {
		.error_be = htobe32(error),
		.message_len_be = htobe16((uint16_t)message_bytes),
	};

	CHECK(error != NBD_SUCCESS);
	if (!session->structured) {
		reply_reset(reply, NULL, 0);
		put_simple(request, error, reply);
		return;
	}
	reply_reset(reply, message, message_bytes);
	put_chunk(
	    session, request, NBD_REPLY_TYPE_ERROR, sizeof(chunk) + message_bytes, true, reply);
	put(reply, &chunk, sizeof(chunk));
}

/* Ends with the first word that is not zero, so it costs nothing where it is of no use. */
static bool
all_zero(const uint8_t *data, size_t len_bytes)
{
	uint64_t word;

	if (len_bytes < sizeof(word))
		return false;
	memcpy(&word, data, sizeof(word));
	return word == 0 && memcmp(data, data + sizeof(word), len_bytes - sizeof(word)) == 0;
}

static void
put_hole(const struct nbd_session *session, const struct nbd_request *request, uint64_t at,
    size_t len_bytes, bool last, struct nbd_reply *reply)
{
	struct nbd_chunk_hole_wire hole = {
		.offset_be = htobe64(request->offset_bytes + at),
		.len_be = htobe32((uint32_t)len_bytes),
	};

	put_chunk(session, request, NBD_REPLY_TYPE_OFFSET_HOLE, sizeof(hole), last, reply);
	put(reply, &hole, sizeof(hole));
}

/* What stands before data. */
static void
put_data(const struct nbd_session *session, const struct nbd_request *request, uint64_t at,
    size_t len_bytes, bool last, struct nbd_reply *reply)
{
	uint64_t offset_be = htobe64(request->offset_bytes + at);

	put_chunk(session, request, NBD_REPLY_TYPE_OFFSET_DATA, sizeof(offset_be) + len_bytes, last,
	    reply);
	put(reply, &offset_be, sizeof(offset_be));
}

/* The first run of zeroes from @from on that is worth a chunk, else the end of the data. */
static void
find_hole(const struct nbd_request *request, const uint8_t *data, size_t from, size_t *hole,
    size_t *hole_end)
{
	size_t len_bytes = request->len_bytes;
	size_t at = round_up(request->offset_bytes + from, BLOCK_BYTES) - request->offset_bytes;

	*hole = *hole_end = at;
	for (; at + BLOCK_BYTES <= len_bytes; at += BLOCK_BYTES) {
		if (all_zero(data + at, BLOCK_BYTES))
			*hole_end = at + BLOCK_BYTES;
		else if (*hole_end - *hole >= HOLE_BYTES_MIN)
			return;
		else
			*hole = *hole_end = at + BLOCK_BYTES;
	}
	if (*hole_end - *hole < HOLE_BYTES_MIN)
		*hole = *hole_end = len_bytes;
}

/* Puts headers behind the last piece of data, over zeroes, or into the head before the first. */
static void
put_behind(struct nbd_reply *reply, const struct nbd_reply *headers)
{
	if (reply->more_count) {
		struct nbd_piece *last = &reply->more[reply->more_count - 1];

		memcpy((char *)last->bytes + last->len_bytes, headers->head, headers->head_bytes);
		last->len_bytes += headers->head_bytes;
	} else if (reply->tail_bytes) {
		memcpy((char *)(uintptr_t)reply->tail + reply->tail_bytes, headers->head,
		    headers->head_bytes);
		reply->tail_bytes += headers->head_bytes;
	} else {
		put(reply, headers->head, headers->head_bytes);
	}
}

static void
add_piece(struct nbd_reply *reply, void *bytes, size_t len_bytes)
{
	if (reply->tail_bytes) {
		reply->more[reply->more_count++] = (struct nbd_piece){ bytes, (uint32_t)len_bytes };
	} else {
		reply->tail = bytes;
		reply->tail_bytes = (uint32_t)len_bytes;
	}
}

/*
 * Data and holes in turn, from the hole [@hole, @hole_end) on, which is the first:
 *
 *   1. what is before the hole: its header behind the last piece, then a piece of its own;
 *   2. the hole's header behind it, over the zeroes;
 *   3. the next hole; none, if there can be only one piece more.
 */
static void
put_sparse(const struct nbd_session *session, const struct nbd_request *request, uint8_t *data,
    size_t hole, size_t hole_end, struct nbd_reply *reply)
{
	size_t len_bytes = request->len_bytes;
	size_t at = 0;

	static_assert(HOLE_BYTES_MIN >= sizeof(reply->head), "the headers fit into a hole");
	reply_reset(reply, NULL, 0);
	while (at < len_bytes) {
		struct nbd_reply headers = { 0 };

		if (hole > at) {
			put_data(session, request, at, hole - at, hole == len_bytes, &headers);
			put_behind(reply, &headers);
			add_piece(reply, data + at, hole - at);
			headers.head_bytes = 0;
		}
		if (hole_end > hole) {
			put_hole(session, request, hole, hole_end - hole, hole_end == len_bytes,
			    &headers);
			put_behind(reply, &headers);
		}
		at = hole_end;
		if (reply->more_count + 2 < NBD_REPLY_PIECES_MAX)
			find_hole(request, data, at, &hole, &hole_end);
		else
			hole = hole_end = len_bytes;
	}
}

void
nbd_reply_data(const struct nbd_session *session, const struct nbd_request *request, void *data,
    struct nbd_reply *reply)
{
	size_t len_bytes = request->len_bytes;
	bool whole = request->flags & NBD_CMD_FLAG_DF;
	size_t hole, hole_end;

	CHECK(len_bytes > 0 && len_bytes <= NBD_PAYLOAD_BYTES_MAX);
	if (!session->structured) {
		reply_reset(reply, data, len_bytes);
		put_simple(request, NBD_SUCCESS, reply);
		return;
	}
	if (!whole && all_zero(data, len_bytes)) {
		reply_reset(reply, NULL, 0);
		put_hole(session, request, 0, len_bytes, true, reply);
		return;
	}
	if (!whole && len_bytes > HOLE_BYTES_MIN) {
		find_hole(request, data, 0, &hole, &hole_end);
		if (hole < len_bytes) {
			put_sparse(session, request, data, hole, hole_end, reply);
			return;
		}
	}
	reply_reset(reply, data, len_bytes);
	put_data(session, request, 0, len_bytes, true, reply);
}

static uint32_t
extent_flags(enum nbd_context_kind kind, const struct volume_extent *extent)
{
	switch (kind) {
	case NBD_CONTEXT_ALLOCATION:
		return extent->hole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
	case NBD_CONTEXT_DEPTH:
		return extent->depth;
	case NBD_CONTEXT_BITMAP:
		return extent->changed ? NBD_DIFF_CHANGED : 0;
	case NBD_CONTEXT_DIFF:
		return (extent->changed ? NBD_DIFF_CHANGED : 0) |
		       (extent->changed && extent->hole ? NBD_DIFF_ZERO : 0);
	}
	return 0;
}

/* Writes a descriptor. */
static size_t
put_extent(bool extended, void *at, uint64_t len_bytes, uint32_t flags)
{
	if (extended) {
		struct nbd_extent_ext_wire wire = { htobe64(len_bytes), htobe64(flags) };

		memcpy(at, &wire, sizeof(wire));
		return sizeof(wire);
	} else {
		struct nbd_extent_wire wire = { htobe32((uint32_t)len_bytes), htobe32(flags) };

		memcpy(at, &wire, sizeof(wire));
		return sizeof(wire);
	}
}

/* Turns extents into descriptors from @at on: over them, or before them, but never over what is
 * still unread.  How many bytes there are. */
static size_t
put_extents(const struct nbd_session *session, const struct nbd_request *request,
    enum nbd_context_kind kind, const struct volume_extent *extents, uint32_t count, char *at)
{
	uint64_t left_bytes = request->len_bytes;
	uint64_t run_bytes = 0;
	uint32_t run_flags = 0;
	char *start = at;

	static_assert(sizeof(struct nbd_extent_wire) <= sizeof(*extents), "in place");
	static_assert(sizeof(struct nbd_extent_ext_wire) <= sizeof(*extents), "in place");
	/* Together they are no longer than what was asked for. */
	for (uint32_t i = 0; i < count && left_bytes; i++) {
		struct volume_extent extent;
		uint32_t flags;

		memcpy(&extent, extents + i, sizeof(extent));
		flags = extent_flags(kind, &extent);
		if (run_bytes && flags != run_flags) {
			at += put_extent(session->extended, at, run_bytes, run_flags);
			run_bytes = 0;
			if (request->flags & NBD_CMD_FLAG_REQ_ONE)
				return (size_t)(at - start);
		}
		run_flags = flags;
		run_bytes += min_u64(extent.len_bytes, left_bytes);
		left_bytes -= min_u64(extent.len_bytes, left_bytes);
	}
	CHECK(run_bytes > 0);
	at += put_extent(session->extended, at, run_bytes, run_flags);
	return (size_t)(at - start);
}

void
nbd_reply_status(const struct nbd_session *session, const struct nbd_request *request,
    uint32_t context, struct volume_extent *extents, uint32_t count, bool last,
    struct nbd_reply *reply)
{
	size_t header_bytes = session->extended
				  ? sizeof(struct nbd_extended_reply_wire) + 2 * sizeof(uint32_t)
				  : sizeof(struct nbd_chunk_wire) + sizeof(uint32_t);
	bool first = reply->head_bytes == 0;
	char *end = first ? (char *)extents : (char *)(uintptr_t)reply->tail + reply->tail_bytes;
	size_t len_bytes = put_extents(session, request, session->contexts[context].kind, extents,
	    count, first ? end : end + header_bytes);
	uint32_t id_be = htobe32(context + 1);
	uint32_t count_be = htobe32((uint32_t)(len_bytes / sizeof(struct nbd_extent_ext_wire)));
	struct nbd_reply head = { 0 };

	put_chunk(session, request,
	    session->extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS,
	    sizeof(id_be) + (session->extended ? sizeof(count_be) : 0) + len_bytes, last, &head);
	put(&head, &id_be, sizeof(id_be));
	if (session->extended)
		put(&head, &count_be, sizeof(count_be));
	CHECK(head.head_bytes == header_bytes);
	if (first) {
		reply_reset(reply, extents, len_bytes);
		put(reply, head.head, head.head_bytes);
	} else {
		memcpy(end, head.head, header_bytes);
		reply->tail_bytes += (uint32_t)(header_bytes + len_bytes);
	}
}
