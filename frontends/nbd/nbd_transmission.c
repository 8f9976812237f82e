/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transmission, the receiving half: request headers become checked requests.
 *
 * A request that is wrong in itself still yields a REQUEST event, with the error to answer, when
 * the payload that came with it has been skipped: a client that is still sending expects no answer,
 * and libnbd takes one for a server's fault.  Only what leaves the stream unreadable (a wrong
 * magic) or is out of all proportion (a payload beyond NBD_PAYLOAD_SKIP_BYTES_MAX) closes the
 * connection.
 */
#include "frontends/nbd/nbd_session.h"

#define STATUS_PAYLOAD_BYTES_MAX (8 + 4 * NBD_CONTEXTS_MAX)
#define FLAGS_ANY NBD_CMD_FLAG_FUA /* clients set it on anything; proto.md has us accept it */

static const struct command {
	uint16_t flags; /* that are valid */
	bool known;
	bool writes;      /* EPERM on a read-only export */
	bool has_payload; /* len_bytes of it, from the client */
	bool moves_data;  /* len_bytes at most NBD_PAYLOAD_BYTES_MAX */
	bool has_range;   /* offset and length; otherwise both are zero */
	enum nbd_error beyond_end;
} commands[] = {
	[NBD_CMD_READ] = {
		.known = true,
		.flags = FLAGS_ANY | NBD_CMD_FLAG_DF,
		.moves_data = true,
		.has_range = true,
		.beyond_end = NBD_EINVAL,
	},
	[NBD_CMD_WRITE] = {
		.known = true,
		.flags = FLAGS_ANY,
		.writes = true,
		.has_payload = true,
		.moves_data = true,
		.has_range = true,
		.beyond_end = NBD_ENOSPC,
	},
	[NBD_CMD_FLUSH] = {
		.known = true,
		.flags = FLAGS_ANY,
	},
	[NBD_CMD_TRIM] = {
		.known = true,
		.flags = FLAGS_ANY,
		.writes = true,
		.has_range = true,
		.beyond_end = NBD_EINVAL,
	},
	[NBD_CMD_CACHE] = {
		.known = true,
		.flags = FLAGS_ANY,
		.has_range = true,
		.beyond_end = NBD_EINVAL,
	},
	[NBD_CMD_WRITE_ZEROES] = {
		.known = true,
		.flags = FLAGS_ANY | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
		.writes = true,
		.has_range = true,
		.beyond_end = NBD_ENOSPC,
	},
	[NBD_CMD_BLOCK_STATUS] = {
		.known = true,
		.flags = FLAGS_ANY | NBD_CMD_FLAG_REQ_ONE,
		.has_range = true,
		.beyond_end = NBD_EINVAL,
	},
};

uint16_t
nbd_transmission_flags(const struct nbd_session *session, const struct nbd_export *export)
{
	return (uint16_t)(NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
			  NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
			  NBD_FLAG_SEND_FAST_ZERO | NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE |
			  (session->structured ? NBD_FLAG_SEND_DF : 0) |
			  (session->extended ? NBD_FLAG_BLOCK_STAT_PAYLOAD : 0) |
			  (export->rotational ? NBD_FLAG_ROTATIONAL : 0) |
			  (export->readonly ? NBD_FLAG_READ_ONLY : 0));
}

static void
reject(struct nbd_request *request, enum nbd_error error, const char *message)
{
	request->error = error;
	request->message = message;
}

static void
check_request(const struct nbd_session *session, struct nbd_request *request)
{
	const struct command *command =
	    request->type < ARRAY_SIZE(commands) ? &commands[request->type] : NULL;
	uint64_t size_bytes = session->export.size_bytes;
	uint16_t flags;

	if (!command || !command->known)
		return reject(request, NBD_EINVAL, "this command is not known");
	flags = command->flags;
	if (!session->structured)
		flags &= (uint16_t)~NBD_CMD_FLAG_DF;
	if (session->extended && (command->has_payload || request->type == NBD_CMD_BLOCK_STATUS))
		flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
	if (request->flags & ~flags)
		return reject(request, NBD_EINVAL, "a flag is not valid for this command");
	if (request->type == NBD_CMD_BLOCK_STATUS && session->context_count == 0)
		return reject(request, NBD_EINVAL, "no metadata context was negotiated");
	if (command->writes && session->export.readonly)
		return reject(request, NBD_EPERM, "the export is read-only");
	if (!command->has_range && (request->offset_bytes || request->len_bytes))
		return reject(request, NBD_EINVAL, "offset and length must be zero");
	if (command->moves_data && request->len_bytes > NBD_PAYLOAD_BYTES_MAX)
		return reject(request,
		    request->flags & NBD_CMD_FLAG_DF ? NBD_EOVERFLOW : NBD_EINVAL,
		    "the payload is larger than 32 MiB");
	if (command->has_range && (request->offset_bytes > size_bytes ||
				      request->len_bytes > size_bytes - request->offset_bytes))
		return reject(
		    request, command->beyond_end, "the range ends beyond the end of the export");
	if (request->type == NBD_CMD_BLOCK_STATUS && request->len_bytes == 0)
		return reject(request, NBD_EINVAL, "an empty range has no status");
}

/* Decodes the header at @bytes into session->request; false: it is none. */
static bool
decode_header(struct nbd_session *session, const uint8_t *bytes)
{
	struct nbd_request *request = &session->request;
	struct nbd_request_wire header;

	memcpy(&header, bytes, sizeof(header));
	*request = (struct nbd_request){
		.type = be16toh(header.type_be),
		.flags = be16toh(header.flags_be),
		.cookie = header.cookie,
		.offset_bytes = be64toh(header.offset_be),
		.contexts = (1u << session->context_count) - 1,
	};
	if (session->extended) {
		struct nbd_extended_request_wire extended;

		memcpy(&extended, bytes, sizeof(extended));
		request->len_bytes = be64toh(extended.len_be);
		return be32toh(header.magic_be) == NBD_EXTENDED_REQUEST_MAGIC;
	}
	request->len_bytes = be32toh(header.len_be);
	return be32toh(header.magic_be) == NBD_REQUEST_MAGIC;
}

/* The payload of a BLOCK_STATUS: the true length, and which contexts; false: it is none. */
static bool
decode_status_payload(struct nbd_session *session, const uint8_t *bytes, size_t len_bytes)
{
	struct nbd_request *request = &session->request;
	uint64_t length_be;

	if (len_bytes < sizeof(length_be) + 4 || len_bytes % 4)
		return false;
	request->contexts = 0;
	for (size_t at = sizeof(length_be); at < len_bytes; at += 4) {
		uint32_t id;

		memcpy(&id, bytes + at, sizeof(id));
		id = be32toh(id);
		if (id == 0 || id > session->context_count || request->contexts & 1u << (id - 1))
			return false;
		request->contexts |= 1u << (id - 1);
	}
	memcpy(&length_be, bytes, sizeof(length_be));
	request->len_bytes = be64toh(length_be);
	return true;
}

/* A BLOCK_STATUS with a payload, which is parsed here: with nothing consumed, it is not all here.
 */
static enum nbd_event
status_input(struct nbd_session *session, const uint8_t *bytes, size_t len_bytes, size_t *consumed)
{
	struct nbd_request *request = &session->request;
	size_t payload_bytes = request->len_bytes;

	if (len_bytes - *consumed < payload_bytes) {
		*consumed = 0;
		return NBD_EVENT_MORE;
	}
	if (decode_status_payload(session, bytes + *consumed, payload_bytes))
		check_request(session, request);
	else
		reject(
		    request, NBD_EINVAL, "the payload does not name selected contexts, once each");
	*consumed += payload_bytes;
	return NBD_EVENT_REQUEST;
}

static enum nbd_event
header_input(struct nbd_session *session, const uint8_t *bytes, size_t len_bytes, size_t *consumed)
{
	size_t header_bytes = session->extended ? sizeof(struct nbd_extended_request_wire)
						: sizeof(struct nbd_request_wire);
	struct nbd_request *request = &session->request;
	uint64_t payload_bytes = 0;

	if (len_bytes < header_bytes)
		return NBD_EVENT_MORE;
	*consumed = header_bytes;
	if (!decode_header(session, bytes) || request->type == NBD_CMD_DISC) {
		session->state = NBD_SESSION_CLOSED;
		return NBD_EVENT_CLOSE;
	}
	/* With extended headers any command may carry a payload and says so; a WRITE always does.
	 */
	if (request->type == NBD_CMD_WRITE ||
	    (session->extended && request->flags & NBD_CMD_FLAG_PAYLOAD_LEN))
		payload_bytes = request->len_bytes;
	if (request->type == NBD_CMD_BLOCK_STATUS && payload_bytes && session->context_count &&
	    payload_bytes <= STATUS_PAYLOAD_BYTES_MAX)
		return status_input(session, bytes, len_bytes, consumed);
	if (payload_bytes > NBD_PAYLOAD_SKIP_BYTES_MAX) {
		session->state = NBD_SESSION_CLOSED;
		return NBD_EVENT_CLOSE;
	}
	check_request(session, request);
	if (payload_bytes && request->type == NBD_CMD_BLOCK_STATUS && !request->error)
		reject(request, NBD_EINVAL, "the payload is too long");
	if (payload_bytes && request->error) {
		session->skip_bytes = payload_bytes;
		session->state = NBD_SESSION_SKIP_PAYLOAD;
		return NBD_EVENT_MORE;
	} else if (payload_bytes) {
		request->payload_bytes = (uint32_t)payload_bytes;
		session->payload_left = request->payload_bytes;
		session->state = NBD_SESSION_PAYLOAD;
	}
	return NBD_EVENT_REQUEST;
}

/* One step; MORE with nothing consumed means that bytes are missing. */
enum nbd_event
nbd_transmission_input(
    struct nbd_session *session, const uint8_t *bytes, size_t len_bytes, size_t *consumed)
{
	CHECK(session->state != NBD_SESSION_PAYLOAD);
	if (session->state == NBD_SESSION_SKIP_PAYLOAD) {
		*consumed = min_u64(len_bytes, session->skip_bytes);
		session->skip_bytes -= *consumed;
		if (session->skip_bytes)
			return NBD_EVENT_MORE;
		session->state = NBD_SESSION_HEADER;
		return NBD_EVENT_REQUEST;
	}
	return header_input(session, bytes, len_bytes, consumed);
}

void
nbd_session_payload_taken(struct nbd_session *session, size_t len_bytes)
{
	CHECK(session->state == NBD_SESSION_PAYLOAD);
	CHECK(len_bytes <= session->payload_left);
	session->payload_left -= (uint32_t)len_bytes;
	if (session->payload_left == 0)
		session->state = NBD_SESSION_HEADER;
}
