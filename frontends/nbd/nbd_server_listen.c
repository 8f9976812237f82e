/* SPDX-License-Identifier: Apache-2.0 */
/* From NBD URIs, and sockets that somebody else made, to listeners and what holds for their
 * clients. */
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "frontends/nbd/nbd_server_internal.h"

static const struct nbd_listener_policy *
policy_add(struct nbd_server *server, const struct nbd_address *address, const char *uri)
{
	struct nbd_listener_policy *policy = xcalloc(1, sizeof(*policy));

	policy->name = xstrdup(uri);
	policy->tls = address->tls_given ? address->tls : server->config.tls;
	policy->tls_context = server->tls_context;
	list_push_back(&server->policies, &policy->link);
	return policy;
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
	stream_listen_socket(&server->listeners, fd, policy_add(server, &address, name));
	return 0;
}

int
nbd_server_listen(struct nbd_server *server, const char *uri, struct error *error)
{
	const struct nbd_listener_policy *policy;
	struct nbd_address address;
	int rc = nbd_address_parse(&address, uri, error);

	if (!rc)
		rc = check_tls(server, &address, uri, error);
	if (rc)
		return rc;
	policy = policy_add(server, &address, uri);
	if (address.is_unix)
		return stream_listen_unix(&server->listeners, address.path, uri, policy, error);
	return stream_listen_tcp(&server->listeners, address.tcp.host, address.tcp.port,
	    address.tls == NBD_TLS_REQUIRE ? "nbds://" : "nbd://", uri, policy, error);
}
