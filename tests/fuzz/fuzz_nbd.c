/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An NBD client's bytes, from the first on or behind a good handshake, cut into pieces as the input
 * says.  The owner answers the session's questions and takes payloads; requests without an error
 * are within the export, and every answer fits its place.
 */
#include <stdlib.h>

#include "frontends/nbd/nbd_session.h"
#include "tests/fuzz/fuzz.h"

#define EXPORT_BYTES (64 * MIB)

static enum nbd_event
answer_names(struct nbd_session *session)
{
	static const struct name names[] = {
		{ .pool = "tank", .volume = "vm1" },
		{ .pool = "tank", .volume = "vm1", .snapshot = "monday" },
	};

	return nbd_session_names(session, 0, names, session->want_snapshots ? 2 : 1);
}

static enum nbd_event
answer_open(struct nbd_session *session, uint8_t how)
{
	struct nbd_export export = {
		.size_bytes = EXPORT_BYTES,
		.readonly = how & 1,
		.name = "tank/vm1",
		.description = "a volume",
	};

	return nbd_session_opened(session, how & 6 ? 0 : -ENOENT, &export);
}

/* What is read: data, with holes in it, which replies write over. */
static uint8_t *
contents(void)
{
	static uint8_t data[NBD_PAYLOAD_BYTES_MAX];

	for (size_t at = 0; at < sizeof(data); at += BLOCK_BYTES)
		data[at] = at >> 17 & 3;
	return data;
}

static void
answer_request(const struct nbd_session *session)
{
	const struct nbd_request *request = &session->request;
	struct nbd_reply reply;

	if (request->error) {
		nbd_reply_error(session, request, request->error, request->message, &reply);
	} else {
		CHECK(request->offset_bytes <= EXPORT_BYTES &&
		      request->len_bytes <= EXPORT_BYTES - request->offset_bytes);
		CHECK(request->payload_bytes <= NBD_PAYLOAD_BYTES_MAX);
		if (request->type == NBD_CMD_READ && request->len_bytes > 0) {
			CHECK(request->len_bytes <= NBD_PAYLOAD_BYTES_MAX);
			nbd_reply_data(session, request, contents(), &reply);
		} else if (request->type == NBD_CMD_BLOCK_STATUS) {
			/* as the server does, with one extent per context */
			char buffer[NBD_CONTEXTS_MAX * 96];

			reply.head_bytes = 0;
			for (uint32_t left = request->contexts; left; left &= left - 1) {
				size_t at = nbd_reply_status_next(&reply);
				struct volume_extent extent = { .len_bytes = request->len_bytes };

				CHECK(at + sizeof(extent) <= sizeof(buffer));
				memcpy(buffer + at, &extent, sizeof(extent));
				nbd_reply_status(session, request, (uint32_t)__builtin_ctz(left),
				    (void *)(buffer + at), 1, !(left & (left - 1)), &reply);
			}
		} else {
			nbd_reply_done(session, request, &reply);
		}
	}
	CHECK(reply.head_bytes <= sizeof(reply.head));
}

/* Until there is nothing more to be done with what has come so far; false: the end. */
static bool
run(struct nbd_session *session, const uint8_t *bytes, size_t *at, size_t end, uint8_t how)
{
	for (;;) {
		size_t consumed;
		enum nbd_event event;

		if (session->payload_left) { /* the owner's; what is here of it */
			size_t take = min_u64(session->payload_left, end - *at);

			if (take == 0)
				return true;
			nbd_session_payload_taken(session, take);
			*at += take;
			continue;
		}
		event = nbd_session_input(session, bytes + *at, end - *at, &consumed);
		CHECK(consumed <= end - *at);
		*at += consumed;
		while (event == NBD_EVENT_NAMES || event == NBD_EVENT_OPEN)
			event = event == NBD_EVENT_NAMES ? answer_names(session)
							 : answer_open(session, how);
		CHECK(session->out.len_bytes <= 1 * MIB);
		session->out.len_bytes = 0;
		if (event == NBD_EVENT_CLOSE)
			return false;
		if (event == NBD_EVENT_TLS)
			nbd_session_secured(session);
		if (event == NBD_EVENT_REQUEST)
			answer_request(session);
		if (event == NBD_EVENT_MORE)
			return true;
	}
}

static const uint8_t good_start[] =
    "\0\0\0\3"
    "IHAVEOPT\0\0\0\10\0\0\0\0" /* STRUCTURED_REPLY */
    "IHAVEOPT\0\0\0\12\0\0\0\43\0\0\0\10tank/vm1\0\0\0\1\0\0\0\17base:allocation"
    "IHAVEOPT\0\0\0\7\0\0\0\16\0\0\0\10tank/vm1\0\0"; /* GO */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	uint8_t how = fuzz_byte(&input);
	size_t step = (size_t)fuzz_byte(&input) + 1;
	struct nbd_session session;
	uint8_t *bytes;
	size_t len = 0, at = 0;
	bool alive = true;

	nbd_session_init(&session);
	session.out.len_bytes = 0;
	session.tls = (how >> 4) % 3; /* the good start knows of none */
	session.tls_reveals = how & 128;
	if (how & 8)
		session.tls = NBD_TLS_OFF;
	bytes = xmalloc(sizeof(good_start) + input.left + 1);
	if (how & 8) {
		how |= 2;
		memcpy(bytes, good_start, sizeof(good_start) - 1);
		len = sizeof(good_start) - 1;
		alive = run(&session, bytes, &at, len, how);
		CHECK(alive && nbd_session_in_transmission(&session) && at == len);
	}
	while (alive && input.left) {
		size_t more = min_u64(step, input.left);

		fuzz_take(&input, bytes + len, more);
		len += more;
		alive = run(&session, bytes, &at, len, how);
	}
	free(bytes);
	nbd_session_fini(&session);
	return 0;
}
