/* SPDX-License-Identifier: Apache-2.0 */
/* Listeners; see stream_listen.h.  Opening one blocks; it is done at start only. */
#include "frontends/stream/stream_listen.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "frontends/stream/stream_unix.h"

/* As many as may be connected by default: beyond it a Unix client is refused, not kept waiting. */
#define LISTEN_BACKLOG 1024

#define ACCEPT_RETRY_NS 100000000ull /* 100 ms */

struct listener {
	struct list link;
	struct stream_listeners *owner;
	const void *policy;
	int fd;
	char *unix_path; /* removed when the listener ends; NULL: not a UNIX socket */
	struct stream_unix_file unix_file;
	struct task start_task;
	struct uring_op accept_op;
	struct timer retry; /* when there are no descriptors left */
	bool started;       /* start_task ran */
	bool accepting;
	bool multishot;
};

/* --- accepting --- */

static void
listener_free(struct listener *listener)
{
	list_remove(&listener->link);
	close(listener->fd);
	if (listener->unix_path)
		stream_unix_remove(&listener->unix_file, listener->unix_path);
	free(listener->unix_path);
	free(listener);
}

/* The last thing its caller does. */
static void
listener_end(struct listener *listener)
{
	struct stream_listeners *owner = listener->owner;

	listener_free(listener);
	if (stream_listeners_stopped(owner))
		owner->stopped(owner);
}

static void
listener_accept(struct listener *listener)
{
	struct io_uring_sqe *sqe = reactor_uring_sqe(listener->owner->r, &listener->accept_op);

	listener->accepting = true;
	if (listener->multishot)
		io_uring_prep_multishot_accept(sqe, listener->fd, NULL, NULL, SOCK_CLOEXEC);
	else
		io_uring_prep_accept(sqe, listener->fd, NULL, NULL, SOCK_CLOEXEC);
}

static void
accept_retry(struct timer *timer)
{
	listener_accept(container_of(timer, struct listener, retry));
}

static void
accept_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct listener *listener = container_of(op, struct listener, accept_op);
	struct stream_listeners *owner = listener->owner;

	if (result >= 0 && owner->stopping)
		close(result);
	else if (result >= 0)
		owner->accepted(owner, listener->policy, result);
	if (cqe_flags & IORING_CQE_F_MORE)
		return;
	listener->accepting = false;
	if (owner->stopping) {
		listener_end(listener);
	} else if (result == -EINVAL && listener->multishot) {
		listener->multishot = false; /* Linux before 5.19 */
		listener_accept(listener);
	} else if (result == -EMFILE || result == -ENFILE || result == -ENOMEM ||
		   result == -ENOBUFS || result == -EINVAL) {
		diag_warning("%s: cannot accept a client: %s", owner->protocol, strerror(-result));
		reactor_timer_start(&owner->r->reactor, &listener->retry, ACCEPT_RETRY_NS);
	} else {
		listener_accept(listener);
	}
}

static void
listener_started(struct task *task)
{
	struct listener *listener = container_of(task, struct listener, start_task);

	listener->started = true;
	if (listener->owner->stopping)
		listener_end(listener);
	else
		listener_accept(listener);
}

static void
add_listener(struct stream_listeners *owner, int fd, const char *unix_path, const void *policy)
{
	struct listener *listener = xcalloc(1, sizeof(*listener));

	listener->owner = owner;
	listener->policy = policy;
	listener->fd = fd;
	listener->unix_path = unix_path ? xstrdup(unix_path) : NULL;
	if (unix_path)
		stream_unix_note(&listener->unix_file, unix_path);
	task_init(&listener->start_task, listener_started);
	timer_init(&listener->retry, accept_retry);
	listener->accept_op.done = accept_done;
	listener->multishot = true;
	list_push_back(&owner->all, &listener->link);
	reactor_post(&owner->r->reactor, &listener->start_task);
}

void
stream_listeners_stop(struct stream_listeners *owner)
{
	owner->stopping = true;
	list_for_each_safe(link, &owner->all) {
		struct listener *listener = container_of(link, struct listener, link);

		reactor_timer_cancel(&owner->r->reactor, &listener->retry);
		if (listener->accepting) /* accept_done() frees it */
			io_uring_prep_cancel(
			    reactor_uring_sqe(owner->r, NULL), &listener->accept_op, 0);
		else if (listener->started) /* otherwise listener_started() will */
			listener_free(listener);
	}
	if (stream_listeners_stopped(owner))
		owner->stopped(owner);
}

void
stream_listeners_init(struct stream_listeners *owner, struct reactor_uring *r, const char *protocol)
{
	*owner = (struct stream_listeners){ .protocol = protocol, .r = r };
	list_init(&owner->all);
}

void
stream_listeners_fini(struct stream_listeners *owner)
{
	while (!list_empty(&owner->all))
		listener_free(list_first(&owner->all, struct listener, link));
}

/* --- listening --- */

/* The socket, or a negative errno value. */
static int
listen_at(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;
	int rc;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (ai->ai_family == AF_INET6) /* so that :: and 0.0.0.0 can be had side by side */
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, LISTEN_BACKLOG) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

static void
announce(const char *protocol, const char *scheme, int fd)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	char host[INET6_ADDRSTRLEN + 20];
	char port[8];

	if (getsockname(fd, (struct sockaddr *)&address, &len) != 0 ||
	    getnameinfo((struct sockaddr *)&address, len, host, sizeof(host), port, sizeof(port),
		NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return;
	diag_info(address.ss_family == AF_INET6 ? "%s: listening at %s[%s]:%s"
						: "%s: listening at %s%s:%s",
	    protocol, scheme, host, port);
}

int
stream_listen_tcp(struct stream_listeners *owner, const char *host, const char *port,
    const char *scheme, const char *uri, const void *policy, struct error *error)
{
	struct addrinfo hints = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_PASSIVE,
	};
	struct addrinfo *found;
	int fds[16];
	size_t fd_count = 0;
	int fd = 0;
	int rc = getaddrinfo(host, port, &hints, &found);

	if (rc)
		return error_set(error, -ENOENT, "%s: %s", uri, gai_strerror(rc));
	for (struct addrinfo *ai = found; ai && fd_count < ARRAY_SIZE(fds); ai = ai->ai_next) {
		fd = listen_at(ai);
		if (fd >= 0) {
			fds[fd_count++] = fd;
		} else if (fd != -EAFNOSUPPORT && fd != -EADDRNOTAVAIL) {
			rc = fd;
			break;
		}
	}
	freeaddrinfo(found);
	if (rc == 0 && fd_count == 0)
		rc = fd < 0 ? fd : -EADDRNOTAVAIL;
	for (size_t i = 0; i < fd_count; i++) {
		if (rc) {
			close(fds[i]);
			continue;
		}
		announce(owner->protocol, scheme, fds[i]);
		add_listener(owner, fds[i], NULL, policy);
	}
	return rc ? error_set(error, rc, "%s: %s", uri, strerror(-rc)) : 0;
}

int
stream_listen_unix(struct stream_listeners *owner, const char *path, const char *uri,
    const void *policy, struct error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int rc;
	int fd;

	CHECK(strlen(path) < sizeof(address.sun_path));
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(error, -errno, "%s: %s", uri, strerror(errno));
	rc = stream_unix_bind(fd, &address);
	if (rc == 0 && listen(fd, LISTEN_BACKLOG) != 0) {
		rc = -errno;
		unlink(address.sun_path);
	}
	if (rc) {
		close(fd);
		return error_set(error, rc, "%s: %s", uri,
		    rc == -EEXIST ? "there is something that is not a socket" : strerror(-rc));
	}
	diag_info("%s: listening at %s", owner->protocol, uri);
	add_listener(owner, fd, path, policy);
	return 0;
}

void
stream_listen_socket(struct stream_listeners *owner, int fd, const void *policy)
{
	add_listener(owner, fd, NULL, policy);
}
