/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the NBD server share; see nbd_server.h for what it promises.
 *
 *   nbd_server.c             create, accept, distribute, stop
 *   nbd_server_listen.c      URIs and listening sockets
 *   nbd_server_connection.h  one client, in files of its own
 */
#ifndef QUARRY_FRONTENDS_NBD_SERVER_INTERNAL_H
#define QUARRY_FRONTENDS_NBD_SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/buffer.h"
#include "core/target.h"
#include "frontends/nbd/nbd_server.h"
#include "frontends/nbd/nbd_session.h"
#include "frontends/stream/stream_listen.h"

struct nbd_connection;

/* A request in flight: from its header until its answer is with the kernel. */
struct nbd_op {
	struct list link; /* the connection's replies or sent, the home's free_ops */
	struct nbd_connection *connection;
	struct nbd_request request;
	void *buffer; /* NULL, or buffer_bytes from the home's pool */
	size_t buffer_bytes;
	uint32_t contexts; /* BLOCK_STATUS: a bit per context that is not told yet */
	struct volume_io io;
	struct nbd_reply reply;
};

/* What the server has on one reactor; touched there only. */
struct nbd_home {
	struct nbd_server *server;
	struct reactor_uring *r;
	struct buffer_pool *buffers;
	struct list free_ops;
	struct list op_slabs;
	struct list connections;
	struct list
	    waiting; /* connections whose next request waits for a buffer, the first first */
	struct task wake_waiting;
	struct timer watchdog; /* armed while somebody waits */
	bool stopping;
	bool stopped;
	struct task stop_task;
	struct task stopped_task; /* posted to the first reactor */
};

/* What holds for the clients of a listener; outlives it, until the server is freed. */
struct nbd_listener_policy {
	struct list link; /* server->policies */
	char *name;       /* the URI as it was given */
	enum nbd_tls_policy tls;
	struct stream_tls_context *tls_context; /* NULL only if tls is off */
};

/* How many connections an address, or a user of this machine, has. */
struct nbd_client {
	struct list link; /* server->clients */
	bool is_unix;
	uint8_t address[16];
	uint32_t connections;
};

/* Touched on the first reactor only, but for the counter and the constants. */
struct nbd_server {
	struct nbd_server_config config; /* with the defaults filled in */
	struct nbd_home *homes;          /* config.reactor_count */
	struct stream_tls_context *tls_context;
	struct offload reload;
	bool reloading;
	bool reload_again; /* it was asked for once more meanwhile */
	struct error reload_error;
	struct list policies;
	struct stream_listeners listeners;
	size_t next_home;
	atomic_uint connection_count;
	pthread_mutex_t clients_mutex; /* taken when a connection comes or goes */
	struct list clients;
	bool stopping;
	size_t homes_stopped;
	struct task *stop_done;
};

/* nbd_server.c */
void nbd_server_connection_gone(
    struct nbd_home *home); /* after its last connection, when stopping */

void nbd_server_client_gone(struct nbd_server *server, struct nbd_client *client);

/* nbd_server_connection.c */
struct nbd_connection *nbd_connection_create(struct nbd_home *home,
    const struct nbd_listener_policy *policy, const struct nbd_peer *peer,
    struct nbd_client *client, int fd);
struct task *nbd_connection_arrive_task(struct nbd_connection *connection);
struct nbd_connection *nbd_connection_of(struct list *link);
/* Reads no more, answers what is in flight, closes. */
void nbd_connection_stop(struct nbd_connection *connection);

/* nbd_server_home.c */
void nbd_home_init(struct nbd_home *home, struct nbd_server *server, struct reactor_uring *r);
void nbd_home_fini(struct nbd_home *home);

#endif
