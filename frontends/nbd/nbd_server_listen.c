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
#define HOST_BYTES_MAX 255u

static void
add_listener(struct nbd_server *server, int fd, const char *unix_path)
{
	struct nbd_listener *listener = xcalloc(1, sizeof(*listener));

	listener->server = server;
	listener->fd = fd;
	listener->unix_path = unix_path ? xstrdup(unix_path) : NULL;
	list_init(&listener->link);
	nbd_listener_start(listener);
}

/* --- nbd:// --- */

struct tcp_place {
	char host[HOST_BYTES_MAX + 1]; /* "": every address */
	char port[8];
};

/* Reads ADDRESS[:PORT][/]. */
static int
parse_tcp(const char *text, struct tcp_place *place, struct error *error, const char *uri)
{
	size_t end = strcspn(text, "/?#");
	const char *host = text;
	size_t host_bytes;
	const char *port;
	size_t port_bytes;

	if (text[end] && strcmp(text + end, "/") != 0)
		return error_set(error, -EINVAL,
		    "%s: an address to listen at has no export name and no query", uri);
	if (text[0] == '[') {
		const char *bracket = memchr(text, ']', end);

		if (!bracket)
			return error_set(error, -EINVAL, "%s: a ']' is missing", uri);
		host = text + 1;
		host_bytes = (size_t)(bracket - host);
		port = bracket + 1;
	} else {
		host_bytes = strcspn(text, ":/");
		port = text + host_bytes;
	}
	port_bytes = (size_t)(text + end - port);
	if (host_bytes > HOST_BYTES_MAX)
		return error_set(error, -EINVAL, "%s: the host name is too long", uri);
	memcpy(place->host, host, host_bytes);
	place->host[host_bytes] = 0;
	strcpy(place->port, NBD_PORT_DEFAULT);
	if (port_bytes == 0)
		return 0;
	port++;
	port_bytes--;
	if (port[-1] != ':' || port_bytes == 0 || port_bytes > 5 ||
	    strspn(port, "0123456789") != port_bytes)
		return error_set(
		    error, -EINVAL, "%s: a port is a number, as in nbd://[::1]:10809", uri);
	memcpy(place->port, port, port_bytes);
	place->port[port_bytes] = 0;
	if (atoi(place->port) > 65535)
		return error_set(error, -EINVAL, "%s: there is no port %s", uri, place->port);
	return 0;
}

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
announce(int fd)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	char host[INET6_ADDRSTRLEN + 20];
	char port[8];

	if (getsockname(fd, (struct sockaddr *)&address, &len) != 0 ||
	    getnameinfo((struct sockaddr *)&address, len, host, sizeof(host), port, sizeof(port),
		NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return;
	diag_info(address.ss_family == AF_INET6 ? "nbd: listening at nbd://[%s]:%s"
						: "nbd: listening at nbd://%s:%s",
	    host, port);
}

/* Listens at every address that the name has; an address of a family that this host lacks is passed
 * over, any other failure takes the others back. */
static int
listen_tcp(struct nbd_server *server, const char *text, struct error *error, const char *uri)
{
	struct addrinfo hints = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_PASSIVE,
	};
	struct tcp_place place;
	struct addrinfo *found;
	int fds[16];
	size_t fd_count = 0;
	int fd = 0;
	int rc;

	rc = parse_tcp(text, &place, error, uri);
	if (rc)
		return rc;
	rc = getaddrinfo(place.host[0] ? place.host : NULL, place.port, &hints, &found);
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
		announce(fds[i]);
		add_listener(server, fds[i], NULL);
	}
	return rc ? error_set(error, rc, "%s: %s", uri, strerror(-rc)) : 0;
}

/* --- nbd+unix:// --- */

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Undoes %XX; false: a bad or zero one, or too long. */
static bool
unescape(const char *text, char *out, size_t out_size)
{
	size_t n = 0;

	for (; *text; text++) {
		int c = *text;

		if (c == '%') {
			int high = hex_digit(text[1]);
			int low = high < 0 ? -1 : hex_digit(text[2]);

			if (low < 0 || (high == 0 && low == 0))
				return false;
			c = high << 4 | low;
			text += 2;
		}
		if (n + 1 >= out_size)
			return false;
		out[n++] = (char)c;
	}
	out[n] = 0;
	return n > 0;
}

static int
listen_unix(struct nbd_server *server, const char *text, struct error *error, const char *uri)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	static const char query[] = "?socket=";
	int rc;
	int fd;

	text += *text == '/';
	if (strncmp(text, query, strlen(query)) != 0 || strchr(text, '&') ||
	    !unescape(text + strlen(query), address.sun_path, sizeof(address.sun_path)))
		return error_set(error, -EINVAL,
		    "%s: wanted is nbd+unix:///?socket=PATH, with a path of at most %zu bytes", uri,
		    sizeof(address.sun_path) - 1);
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
	add_listener(server, fd, address.sun_path);
	return 0;
}

int
nbd_server_listen(struct nbd_server *server, const char *uri, struct error *error)
{
	static const struct {
		const char *scheme;
		int (*listen)(struct nbd_server *server, const char *text, struct error *error,
		    const char *uri);
	} schemes[] = {
		{ "nbd://", listen_tcp },
		{ "nbd+unix://", listen_unix },
	};

	for (size_t i = 0; i < ARRAY_SIZE(schemes); i++) {
		size_t len = strlen(schemes[i].scheme);

		if (strncmp(uri, schemes[i].scheme, len) == 0)
			return schemes[i].listen(server, uri + len, error, uri);
	}
	return error_set(
	    error, -EINVAL, "%s: wanted is nbd://ADDRESS:PORT or nbd+unix:///?socket=PATH", uri);
}
