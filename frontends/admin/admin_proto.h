/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The administrator's protocol, version 1: JSON text to a struct admin_request, and a finished one
 * to JSON text.  docs/ADMIN-PROTOCOL.md is the contract; this is its only implementation.
 *
 * Pure: no socket, no clock, no allocation that outlives a call but what the caller is given.
 * Whatever bytes come in, the answer is a request that the engine can trust to be well formed
 * (names parsed and of the right kind, lists within their bounds, nothing unknown), or an error
 * that names the field.
 */
#ifndef QUARRY_FRONTENDS_ADMIN_PROTO_H
#define QUARRY_FRONTENDS_ADMIN_PROTO_H

#include "core/target.h"

enum {
	ADMIN_PROTO_VERSION = 1,
	ADMIN_REQUEST_BYTES_MAX = 1 << 20, /* one line, without its newline */
	ADMIN_NAMES_MAX = 4096,            /* in one request */
	ADMIN_DEVICES_MAX = 1024,
	ADMIN_REPLY_RANGES_MAX = 4096, /* in one line of a reply; more follow in further lines */
};

/* What the "exit" of an error says: the exit status of a command that fails by it. */
enum admin_exit {
	ADMIN_EXIT_FAILED = 1, /* refused or failed, with a reason */
	ADMIN_EXIT_USAGE = 2,  /* the request itself is wrong */
};

enum admin_message_kind {
	ADMIN_MESSAGE_TARGET,      /* request is for target_admin() */
	ADMIN_MESSAGE_DAEMON_INFO, /* request is empty */
};

struct admin_message {
	enum admin_message_kind kind;
	struct admin_request request; /* done and created_s are left to the caller */
};

/* What daemon.info tells. */
struct admin_daemon_info {
	const char *version;
	int64_t pid;
	uint64_t uptime_s;
	const char *const *listeners; /* URIs */
	size_t listener_count;
};

/*
 * Takes one line apart.  0: the caller owns message->request (admin_request_fini).  -EPROTO: it is
 * no request of this protocol; -EINVAL: a value is out of range or no name.  Nothing is left to
 * free.
 */
int admin_proto_decode(const char *line, size_t len_bytes, struct admin_message *message,
    struct error *error) must_check;

/*
 * The lines that answer a finished request, one a call, each with its newline; the caller frees
 * them.  NULL: there are no more.  The request must live until then.
 */
struct admin_reply {
	const struct admin_request *request;
	size_t next_range;
	bool finished;
};
void admin_reply_init(struct admin_reply *reply, const struct admin_request *request);
char *admin_reply_next(struct admin_reply *reply, size_t *len_bytes) must_check;

/* Whole replies, one line each; the caller frees them. */
char *admin_proto_error(
    enum admin_exit exit_status, const struct error *error, size_t *len_bytes) must_check;
char *admin_proto_daemon_info(const struct admin_daemon_info *info, size_t *len_bytes) must_check;

/* "volume.create" …, for messages and tests. */
const char *admin_verb_name(enum admin_verb verb);

#endif
