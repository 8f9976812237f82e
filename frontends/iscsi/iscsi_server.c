/* SPDX-License-Identifier: Apache-2.0 */
/* The server as a whole: URIs, accepting, stopping. */
#include "frontends/iscsi/iscsi_server.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "frontends/iscsi/iscsi_server_internal.h"
#include "frontends/stream/stream_address.h"

#define SCHEME "iscsi://"

/* iscsi://ADDRESS[:PORT][/] */
static int
parse_uri(const char *uri, struct stream_address *address, struct error *error)
{
	const char *rest;
	int rc;

	if (strncmp(uri, SCHEME, strlen(SCHEME)) != 0)
		return error_set(error, -EINVAL,
		    "\"%.80s\" is not an address to listen on; write " SCHEME "ADDRESS:PORT", uri);
	rc = stream_address_parse(address, uri, uri + strlen(SCHEME), SCHEME, ISCSI_PORT_DEFAULT,
	    "targets are named by initiators", &rest, error);
	if (rc == 0 && *rest)
		return error_set(error, -EINVAL,
		    "\"%.80s\": nothing may stand behind the ?, there are no options", uri);
	return rc;
}

int
iscsi_uri_check(const char *uri, struct error *error)
{
	struct stream_address address;

	return parse_uri(uri, &address, error);
}

int
iscsi_server_listen(struct iscsi_server *server, const char *uri, struct error *error)
{
	struct stream_address address;
	int rc = parse_uri(uri, &address, error);

	if (rc)
		return rc;
	return stream_listen_tcp(
	    &server->listeners, address.host, address.port, SCHEME, uri, uri, error);
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
	    server->connection_count || scsi_port_busy(&server->scsi))
		return;
	reactor_defer(&server->r->reactor, server->stop_done);
	server->stop_done = NULL;
}

static void
port_idle(struct scsi_port *port)
{
	iscsi_server_check_stop(container_of(port, struct iscsi_server, scsi));
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
	scsi_port_stop(&server->scsi);
	iscsi_server_check_stop(server);
}

/* --- life --- */

int
iscsi_server_create(const struct iscsi_server_config *config, struct iscsi_server **out)
{
	struct iscsi_server *server;

	if (!config->target)
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
	scsi_port_init(&server->scsi, &server->r->reactor, server->buffers, config->target);
	server->scsi.idle = port_idle;
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
