/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD server: listeners on the first reactor, connections spread over all of them.
 *
 * It owns its sockets, its connections and one buffer pool per reactor.  What it may hold is
 * bounded: connections in all, requests and payload bytes per connection, payload bytes per
 * reactor.  At a bound a connection is not read from until something of it (or of its reactor) was
 * answered.
 */
#ifndef QUARRY_FRONTENDS_NBD_SERVER_H
#define QUARRY_FRONTENDS_NBD_SERVER_H

#include "core/base/error.h"
#include "core/reactor_uring.h"
#include "frontends/nbd/nbd_server_access.h"
#include "frontends/nbd/nbd_uri.h"
#include "frontends/stream/stream_tls.h"

struct nbd_server;
struct target;

struct nbd_server_config {
	struct target *target;
	struct reactor_uring **reactors; /* copied; [0] accepts */
	size_t reactor_count;
	/* The caller's; they stay valid. */
	const struct nbd_access_rule *access;
	size_t access_count;
	enum nbd_tls_policy tls;            /* of listeners whose URI does not say */
	struct stream_tls_config tls_files; /* none: no TLS */
	/* limits; 0: the default */
	uint32_t connections_max;            /* 1024, of the server */
	uint32_t connections_per_client_max; /* from one address; 0: as many as there are */
	uint32_t requests_max;               /* 256, in flight per connection */
	uint64_t payload_bytes_max; /* 64 MiB, in flight per connection; one request always fits */
	uint64_t buffer_bytes;      /* 256 MiB, in flight per reactor; at least 66 MiB */
	uint32_t handshake_timeout_ms; /* 30 s, until transmission begins */
	uint32_t idle_timeout_ms;      /* a client without requests; 0: it may stay */
	uint32_t stall_timeout_ms; /* 30 s, for a peer that neither takes nor sends payload while
				      others wait for its buffers */
	uint32_t stop_timeout_ms;  /* 10 s, for clients to take their answers */
};

/* Reads the files of TLS: blocking.  0 or a negative errno value. */
int nbd_server_create(const struct nbd_server_config *config, struct nbd_server **out,
    struct error *error) must_check;

/*
 * Listens at @uri, see nbd_uri.h; of a host name at all of its addresses.  From any thread before
 * the first reactor runs, or from its thread.  Blocks for name resolution.  0 or a negative errno
 * value: -EINVAL (the URI), -EADDRINUSE …
 */
int nbd_server_listen(struct nbd_server *server, const char *uri, struct error *error) must_check;

/* The same with a socket that listens already, which is taken over even if this fails; to be known
 * in rules as @name. */
int nbd_server_listen_socket(
    struct nbd_server *server, int fd, const char *name, struct error *error) must_check;

/* Reads the files of TLS again, for connections to come; the log says how that went.  From the
 * first reactor's thread. */
void nbd_server_reload(struct nbd_server *server);

/*
 * Ends it: accepts and reads no more, lets what is in flight finish and be answered, closes all
 * connections; then runs @done on the first reactor, from whose thread it is called.  Once.
 */
void nbd_server_stop(struct nbd_server *server, struct task *done);

/* After a stop, or if no listener was ever made.  The reactors no longer run, or the caller is on
 * the first one and the stop is done. */
void nbd_server_free(struct nbd_server *server);

/* From any thread. */
uint32_t nbd_server_connection_count(const struct nbd_server *server);

#endif
