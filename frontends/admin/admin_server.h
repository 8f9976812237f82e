/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The administrator's socket: accepts connections, and answers one JSON line with another.
 *
 * Everything runs on the reactor that it was created for.  A connection is strictly sequential: a
 * line is read, done, answered, then the next is looked at; so it never holds more than one request
 * (of ADMIN_REQUEST_BYTES_MAX) and one line of a reply.  There are at most ADMIN_CONNECTIONS_MAX;
 * for one more, the one that has waited longest for its client is closed, so that silent clients
 * lock nobody out.  A line that is no request is answered with an error; one that is too long, too,
 * and then the connection is closed.
 */
#ifndef QUARRY_FRONTENDS_ADMIN_SERVER_H
#define QUARRY_FRONTENDS_ADMIN_SERVER_H

#include "core/reactor_uring.h"
#include "core/target.h"
#include "frontends/admin/admin_proto.h"

enum {
	ADMIN_CONNECTIONS_MAX = 64
};

struct admin_server;

/*
 * Takes the socket at @path (see admin_socket_listen); blocks for a moment.  Clients may connect at
 * once, and are answered after admin_server_start().
 */
int admin_server_create(struct target *target, struct reactor_uring *reactor, const char *path,
    struct admin_server **server, struct error *error) must_check;

/* Lets the members of the group @gid in, too. */
int admin_server_share(struct admin_server *server, gid_t gid, struct error *error) must_check;

/* What daemon.info says; the strings must outlive the server, uptime_s is ignored. */
void admin_server_describe(struct admin_server *server, const struct admin_daemon_info *info);

void admin_server_start(struct admin_server *server);

/*
 * Stops accepting, removes the socket's file, lets requests in flight finish and be answered (for a
 * client that does not take its answer: for some seconds), then runs @done.
 */
void admin_server_stop(struct admin_server *server, struct task *done);

/* Stopped, or never started.  NULL does nothing. */
void admin_server_free(struct admin_server *server);

#endif
