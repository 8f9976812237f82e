/* SPDX-License-Identifier: Apache-2.0 */
/* The server as a whole: URIs, accepting, stopping. */
#include "frontends/iscsi/iscsi_server.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "frontends/iscsi/iscsi_server_internal.h"

#define SCHEME "iscsi://"

struct place {
	char host[256];
	char port[8];
};

/* iscsi://ADDRESS[:PORT][/] */
static int
parse_uri(const char *uri, struct place *place, struct error *error)
{
	const char *host = uri + strlen(SCHEME);
	bool bracketed;
	size_t host_bytes;
	const char *after;

	if (strncmp(uri, SCHEME, strlen(SCHEME)) != 0)
		return error_set(error, -EINVAL,
		    "\"%.80s\" is not an address to listen on; write " SCHEME "ADDRESS:PORT", uri);
	bracketed = host[0] == '[';
	host += bracketed;
	host_bytes = strcspn(host, bracketed ? "]" : ":/");
	after = host + host_bytes;
	if (bracketed && *after++ != ']')
		return error_set(error, -EINVAL, "\"%.80s\": a ] is missing", uri);
	if (host_bytes == 0 || host_bytes >= sizeof(place->host))
		return error_set(error, -EINVAL,
		    "\"%.80s\" has no address; for every address of this machine write " SCHEME
		    "0.0.0.0 or " SCHEME "[::]",
		    uri);
	memcpy(place->host, host, host_bytes);
	place->host[host_bytes] = '\0';
	strcpy(place->port, ISCSI_PORT_DEFAULT);
	if (*after == ':') {
		size_t port_bytes = strspn(++after, "0123456789");

		if (port_bytes == 0 || port_bytes > 5 || atoi(after) < 1 || atoi(after) > 65535)
			return error_set(error, -EINVAL,
			    "\"%.80s\": the port must be a number from 1 to 65535", uri);
		memcpy(place->port, after, port_bytes);
		place->port[port_bytes] = '\0';
		after += port_bytes;
	}
	if (after[0] && strcmp(after, "/") != 0)
		return error_set(error, -EINVAL,
		    "\"%.80s\": a listen address ends after the port; targets are named by "
		    "initiators",
		    uri);
	return 0;
}

int
iscsi_uri_check(const char *uri, struct error *error)
{
	struct place place;

	return parse_uri(uri, &place, error);
}

int
iscsi_server_listen(struct iscsi_server *server, const char *uri, struct error *error)
{
	struct place place;
	int rc = parse_uri(uri, &place, error);

	if (rc)
		return rc;
	return stream_listen_tcp(
	    &server->listeners, place.host, place.port, SCHEME, uri, uri, error);
}

enum iscsi_access
iscsi_server_access(
    const struct iscsi_server *server, int fd, const char *listener, const struct name *name)
{
	char text[NAME_TEXT_SIZE];

	name_format(name, text);
	return server->config.access
		   ? server->config.access(server->config.owner, fd, listener, text)
		   : ISCSI_ACCESS_WRITE;
}

/* --- accepting --- */

static void
accepted(struct stream_listeners *listeners, const void *policy, int fd)
{
	struct iscsi_server *server = container_of(listeners, struct iscsi_server, listeners);

	if (server->connection_count >= server->config.connections_max) {
		diag_warning("iscsi: an initiator was turned away, %u connections are open",
		    server->connection_count);
		close(fd);
		return;
	}
	iscsi_connection_create(server, fd, policy);
}

/* --- stopping --- */

void
iscsi_server_check_stop(struct iscsi_server *server)
{
	if (!server->stop_done || !stream_listeners_stopped(&server->listeners) ||
	    server->connection_count)
		return;
	reactor_defer(&server->r->reactor, server->stop_done);
	server->stop_done = NULL;
}

static void
listeners_stopped(struct stream_listeners *listeners)
{
	iscsi_server_check_stop(container_of(listeners, struct iscsi_server, listeners));
}

void
iscsi_server_stop(struct iscsi_server *server, struct task *done)
{
	CHECK(!server->stopping);
	server->stopping = true;
	server->stop_done = done;
	stream_listeners_stop(&server->listeners);
	list_for_each_safe(link, &server->connections)
		iscsi_connection_kill(iscsi_connection_of(link));
	iscsi_server_check_stop(server);
}

/* --- life --- */

int
iscsi_server_create(const struct iscsi_server_config *config, struct iscsi_server **out)
{
	struct iscsi_server *server;

	if (!config->target || (config->block_bytes != 512 && config->block_bytes != 4096))
		return -EINVAL;
	server = xcalloc(1, sizeof(*server));
	server->config = *config;
	if (!config->connections_max)
		server->config.connections_max = 512;
	if (!config->login_timeout_ms)
		server->config.login_timeout_ms = 15000;
	if (!config->refusal_ms)
		server->config.refusal_ms = 500;
	if (!config->ping_ms)
		server->config.ping_ms = 15000;
	server->r = config->reactor;
	server->buffers =
	    buffer_pool_create(config->buffer_bytes ? config->buffer_bytes : 256 * MIB);
	scsi_port_init(&server->scsi, &server->r->reactor, server->buffers, config->block_bytes);
	server->portal.scsi = &server->scsi;
	list_init(&server->portal.sessions);
	list_init(&server->connections);
	stream_listeners_init(&server->listeners, server->r, "iscsi");
	server->listeners.accepted = accepted;
	server->listeners.stopped = listeners_stopped;
	*out = server;
	return 0;
}

void
iscsi_server_free(struct iscsi_server *server)
{
	if (!server)
		return;
	CHECK(server->connection_count == 0);
	stream_listeners_fini(&server->listeners);
	scsi_port_fini(&server->scsi);
	buffer_pool_free(server->buffers);
	free(server);
}
