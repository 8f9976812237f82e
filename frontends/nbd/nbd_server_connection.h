/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection of the NBD server, as its files see it; what holds of it is told in
 * nbd_server_connection.c.
 *
 *   nbd_server_connection.c  its machines: receiving, sending, its beginning and end
 *   nbd_server_request.c     requests in flight
 *   nbd_server_export.c      what it asks of the target: names and volumes
 *   nbd_server_home.c        what connections of a reactor share: buffers, and who waits for them
 */
#ifndef QUARRY_FRONTENDS_NBD_SERVER_CONNECTION_H
#define QUARRY_FRONTENDS_NBD_SERVER_CONNECTION_H

#include "frontends/nbd/nbd_server_internal.h"
#include "frontends/stream/stream_connection.h"

enum connection_phase {
	CONNECTION_LIVE,
	CONNECTION_DRAINING,
	CONNECTION_DEAD,
};

struct nbd_connection {
	struct list link;      /* home->connections */
	struct list wait_link; /* home->waiting */
	struct nbd_home *home;
	const struct nbd_listener_policy *policy;
	struct nbd_peer access_peer; /* for the rules of access */
	struct nbd_client *client;   /* NULL: its connections are not counted */
	enum connection_phase phase;
	struct stream stream; /* the socket, what is received and sent */
	char peer[STREAM_PEER_BYTES];
	struct task arrive_task;
	struct timer timer; /* LIVE: the handshake's end, or of idling; DRAINING: the answers' */
	struct nbd_session session;
	struct volume *volume; /* in transmission, or while the snapshots below are opened */
	struct volume *older[NBD_CONTEXTS_MAX]; /* the snapshots of the selected contexts */
	uint32_t contexts_opened;               /* contexts that were seen to */

	/* questions to the target and the TLS handshake; at most one at a time */
	bool asking;
	struct target_open open;
	struct task hidden_task; /* answers open without the target */
	struct target_names names;

	/* receiving */
	struct nbd_op *payload_op; /* a WRITE whose payload is not complete */
	uint32_t payload_at;
	struct nbd_op *stalled; /* a request that has no buffer yet */
	bool resting;
	struct timer rest_timer;

	/* in flight */
	uint32_t op_count;
	uint32_t engine_count; /* of those: with the engine */
	uint64_t payload_bytes;

	/* sending */
	struct task send_task;
	bool sending_output; /* session.out */
	bool securing;       /* TLS begins when it is sent */
	struct list replies; /* ready */
	struct list sent;    /* in the present sendmsg */
};

static inline struct reactor *
nbd_connection_reactor(const struct nbd_connection *c)
{
	return &c->home->r->reactor;
}

/* For a buffer. */
static inline bool
nbd_connection_waits(const struct nbd_connection *c)
{
	return !list_empty(&c->wait_link);
}

/* --- nbd_server_connection.c --- */

/* Gets as far as the input and the bounds allow. */
void nbd_connection_advance(struct nbd_connection *c);
void nbd_connection_event(struct nbd_connection *c, enum nbd_event event);
/* The socket is of no more use. */
void nbd_connection_kill(struct nbd_connection *c);
/* Frees the connection if nothing of it is in flight any more.  The last thing a caller does. */
void nbd_connection_finish(struct nbd_connection *c);
/* In the place of the handshake's time limit. */
void nbd_connection_idle_watch(struct nbd_connection *c);

/* --- nbd_server_request.c --- */

struct nbd_op *nbd_op_get(struct nbd_connection *c);
void nbd_op_put(struct nbd_op *op);
void nbd_op_put_all(struct list *ops);
/* Puts *@op, if there is one, and forgets it. */
void nbd_op_drop(struct nbd_op **op);
/* The answer is encoded: it goes out at the end of the turn. */
void nbd_op_answer(struct nbd_op *op);
/* How large a buffer the request needs. */
size_t nbd_op_buffer_bytes(const struct nbd_request *request);
/* Hands a request that has all it needs to the engine. */
void nbd_op_submit(struct nbd_op *op);
/* Frees what nbd_op_get() made for the home. */
void nbd_ops_free(struct nbd_home *home);

static inline void *
nbd_op_payload(const struct nbd_op *op)
{
	return (char *)op->buffer + op->request.offset_bytes % BLOCK_BYTES;
}

/* --- nbd_server_export.c --- */

/* Asks the target; the answer goes to the session. */
void nbd_connection_ask_names(struct nbd_connection *c);
void nbd_connection_ask_open(struct nbd_connection *c, const struct name *name);
void nbd_connection_close_volumes(struct nbd_connection *c);

/* --- nbd_server_home.c --- */

/* Somebody waits for a buffer: who holds some and does not get on is disconnected in time. */
void nbd_home_watch(struct nbd_home *home);

#endif
