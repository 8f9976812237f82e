/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets from NBD URIs.  Blocking calls; used at start only. */
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "frontends/nbd/nbd_server_internal.h"
#include "frontends/stream/stream_unix.h"

/* As many as may be connected by default: beyond it a Unix client is refused, not kept waiting. */
#define LISTEN_BACKLOG 1024

static void
add_listener(struct nbd_server *server, int fd, const struct nbd_address *address, const char *uri)
{
	struct nbd_listener *listener = xcalloc(1, sizeof(*listener));
	struct nbd_listener_policy *policy = xcalloc(1, sizeof(*policy));

	policy->name = xstrdup(uri);
	policy->tls = address->tls_given ? address->tls : server->config.tls;
	policy->tls_context = server->tls_context;
	list_push_back(&server->policies, &policy->link);
	listener->server = server;
	listener->policy = policy;
	listener->fd = fd;
	listener->unix_path = address->is_unix ? xstrdup(address->path) : NULL;
	list_init(&listener->link);
	nbd_listener_start(listener);
}

/* --- nbd:// --- */

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
announce(int fd, bool tls)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	char host[INET6_ADDRSTRLEN + 20];
	char port[8];

	if (getsockname(fd, (struct sockaddr *)&address, &len) != 0 ||
	    getnameinfo((struct sockaddr *)&address, len, host, sizeof(host), port, sizeof(port),
		NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return;
	diag_info(address.ss_family == AF_INET6 ? "nbd: listening at nbd%s://[%s]:%s"
						: "nbd: listening at nbd%s://%s:%s",
	    tls ? "s" : "", host, port);
}

/* Listens at every address that the name has; an address of a family that this host lacks is passed
 * over, any other failure takes the others back. */
static int
listen_tcp(struct nbd_server *server, const struct nbd_address *address, const char *uri,
    struct error *error)
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
	int rc;

	rc = getaddrinfo(address->host, address->port, &hints, &found);
	if (rc)
		return error_set(error, -ENOENT, "%s: %s", uri, gai_strerror(rc));
	rc = 0;
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
		announce(fds[i], address->tls == NBD_TLS_REQUIRE);
		add_listener(server, fds[i], address, uri);
	}
	return rc ? error_set(error, rc, "%s: %s", uri, strerror(-rc)) : 0;
}

/* --- nbd+unix:// --- */

static int
listen_unix(struct nbd_server *server, const struct nbd_address *place, const char *uri,
    struct error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int rc;
	int fd;

	static_assert(sizeof(place->path) == sizeof(address.sun_path), "what fits one fits both");
	memcpy(address.sun_path, place->path, sizeof(address.sun_path));
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
	diag_info("nbd: listening at %s", uri);
	add_listener(server, fd, place, uri);
	return 0;
}

static int
check_tls(const struct nbd_server *server, const struct nbd_address *address, const char *uri,
    struct error *error)
{
	if ((address->tls_given ? address->tls : server->config.tls) == NBD_TLS_OFF ||
	    server->tls_context)
		return 0;
	return error_set(
	    error, -EINVAL, "%.150s: TLS needs tls-certificates (a folder) or tls-psk-file", uri);
}

int
nbd_server_listen_socket(struct nbd_server *server, int fd, const char *name, struct error *error)
{
	struct nbd_address address = { 0 }; /* not ours to remove */
	int rc = check_tls(server, &address, name, error);
	socklen_t len = sizeof(int);
	int listens = 0;
	int type = 0;

	if (!rc && (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM ||
		       getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0 || !listens))
		rc = error_set(error, -EINVAL,
		    "%.100s is not a stream socket that listens (ListenStream=, Accept=no)", name);
	if (rc) {
		close(fd);
		return rc;
	}
	diag_info("nbd: listening at %s", name);
	add_listener(server, fd, &address, name);
	return 0;
}

int
nbd_server_listen(struct nbd_server *server, const char *uri, struct error *error)
{
	struct nbd_address address;
	int rc = nbd_address_parse(&address, uri, error);

	if (!rc)
		rc = check_tls(server, &address, uri, error);
	if (rc)
		return rc;
	return (address.is_unix ? listen_unix : listen_tcp)(server, &address, uri, error);
}
