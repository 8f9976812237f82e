/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listening sockets and the accepting of clients: what every server does before its
 * protocol begins.
 *
 * The owner embeds a stream_listeners.  It belongs to the reactor that accepts; only
 * stream_listen_…() may also be called from any thread before that reactor runs.  accepted() hands
 * over a connected descriptor; stopped() comes once, from the reactor, when no listener is left
 * after stream_listeners_stop().
 */
#ifndef QUARRY_FRONTENDS_STREAM_LISTEN_H
#define QUARRY_FRONTENDS_STREAM_LISTEN_H

#include "core/base/error.h"
#include "core/reactor_uring.h"

struct stream_listeners {
	const char *protocol; /* "nbd", for the operator */
	struct reactor_uring *r;
	struct list all;
	bool stopping;
	/* @policy is what the listener was made with. */
	void (*accepted)(struct stream_listeners *listeners, const void *policy, int fd);
	void (*stopped)(struct stream_listeners *listeners);
};

void stream_listeners_init(
    struct stream_listeners *listeners, struct reactor_uring *r, const char *protocol);

/*
 * Listens at every address that @host has, an address of a family that this machine lacks is passed
 * over; blocks for name resolution.  @scheme ("nbd://") and @uri are for the operator; @policy is
 * handed to accepted(), NULL is fine.  0 or a negative errno value: -EADDRINUSE …
 */
int stream_listen_tcp(struct stream_listeners *listeners, const char *host, const char *port,
    const char *scheme, const char *uri, const void *policy, struct error *error) must_check;
/* @path fits a sockaddr_un. */
int stream_listen_unix(struct stream_listeners *listeners, const char *path, const char *uri,
    const void *policy, struct error *error) must_check;

/* The same of a socket that listens already; it is taken over. */
void stream_listen_socket(struct stream_listeners *listeners, int fd, const void *policy);

/* Accepts no more; stopped() may come from inside the call if there is nothing to wait for. */
void stream_listeners_stop(struct stream_listeners *listeners);

static inline bool
stream_listeners_stopped(const struct stream_listeners *listeners)
{
	return listeners->stopping && list_empty(&listeners->all);
}

/* Closes what is left; no reactor runs any more. */
void stream_listeners_fini(struct stream_listeners *listeners);

#endif
