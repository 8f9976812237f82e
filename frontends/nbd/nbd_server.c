/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server as a whole: accepting, handing connections to reactors, stopping.
 *
 * Stopping, in order: the listeners' accepts are cancelled; each reactor is told (behind the
 * connections that were posted to it before) and stops its connections; the last one to go tells
 * the first reactor; when all reactors and listeners are done, so is the server.
 */
#include "frontends/nbd/nbd_server.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "frontends/nbd/nbd_server_internal.h"

static uint64_t
or_default(uint64_t value, uint64_t value_default)
{
	return value ? value : value_default;
}

static void home_stop(struct task *task);
static void home_stopped(struct task *task);
static void accepted(struct stream_listeners *listeners, const void *arg, int fd);
static void listeners_stopped(struct stream_listeners *listeners);

int
nbd_server_create(
    const struct nbd_server_config *config, struct nbd_server **out, struct error *error)
{
	struct stream_tls_context *tls_context = NULL;
	struct nbd_server *server;

	if (!config->target || config->reactor_count == 0 ||
	    (config->buffer_bytes && config->buffer_bytes < 2 * BUFFER_BYTES_MAX))
		return error_set(error, -EINVAL, "an NBD server needs a target and buffers");
	if (config->tls_files.certificates || config->tls_files.psk_file) {
		int rc = stream_tls_context_create(&config->tls_files, &tls_context, error);

		if (rc)
			return rc;
	}
	server = xcalloc(1, sizeof(*server));
	server->tls_context = tls_context;
	server->config = *config;
	server->config.connections_max = or_default(config->connections_max, 1024);
	server->config.requests_max = or_default(config->requests_max, 256);
	server->config.payload_bytes_max = or_default(config->payload_bytes_max, 64 * MIB);
	server->config.buffer_bytes = or_default(config->buffer_bytes, 256 * MIB);
	server->config.handshake_timeout_ms = or_default(config->handshake_timeout_ms, 30000);
	server->config.stall_timeout_ms = or_default(config->stall_timeout_ms, 30000);
	server->config.stop_timeout_ms = or_default(config->stop_timeout_ms, 10000);
	server->config.reactors = NULL; /* the homes know */
	list_init(&server->policies);
	list_init(&server->clients);
	pthread_mutex_init(&server->clients_mutex, NULL);
	atomic_init(&server->connection_count, 0);
	server->homes = xcalloc(config->reactor_count, sizeof(server->homes[0]));
	for (size_t i = 0; i < config->reactor_count; i++) {
		struct nbd_home *home = &server->homes[i];

		nbd_home_init(home, server, config->reactors[i]);
		task_init(&home->stop_task, home_stop);
		task_init(&home->stopped_task, home_stopped);
	}
	stream_listeners_init(&server->listeners, server->homes[0].r, "nbd");
	server->listeners.accepted = accepted;
	server->listeners.stopped = listeners_stopped;
	*out = server;
	return 0;
}

uint32_t
nbd_server_connection_count(const struct nbd_server *server)
{
	return atomic_load(&server->connection_count);
}

/* --- stopping --- */

static void
stop_check(struct nbd_server *server)
{
	if (!server->stop_done || server->reloading ||
	    !stream_listeners_stopped(&server->listeners) ||
	    server->homes_stopped < server->config.reactor_count)
		return;
	reactor_defer(&server->homes[0].r->reactor, server->stop_done);
	server->stop_done = NULL;
}

static void
home_stopped(struct task *task)
{
	struct nbd_home *home = container_of(task, struct nbd_home, stopped_task);

	home->server->homes_stopped++;
	stop_check(home->server);
}

void
nbd_server_connection_gone(struct nbd_home *home)
{
	if (!home->stopping || home->stopped || !list_empty(&home->connections))
		return;
	home->stopped = true;
	reactor_post(&home->server->homes[0].r->reactor, &home->stopped_task);
}

static void
home_stop(struct task *task)
{
	struct nbd_home *home = container_of(task, struct nbd_home, stop_task);

	home->stopping = true;
	list_for_each_safe(link, &home->connections)
		nbd_connection_stop(nbd_connection_of(link));
	nbd_server_connection_gone(home);
}

static void
listeners_stopped(struct stream_listeners *listeners)
{
	stop_check(container_of(listeners, struct nbd_server, listeners));
}

void
nbd_server_stop(struct nbd_server *server, struct task *done)
{
	CHECK(reactor_current() == &server->homes[0].r->reactor && !server->stopping);
	server->stopping = true;
	server->stop_done = done;
	stream_listeners_stop(&server->listeners);
	for (size_t i = 0; i < server->config.reactor_count; i++)
		reactor_post(&server->homes[i].r->reactor, &server->homes[i].stop_task);
}

void
nbd_server_free(struct nbd_server *server)
{
	struct list *link;

	if (!server)
		return;
	CHECK(nbd_server_connection_count(server) == 0);
	stream_listeners_fini(&server->listeners);
	for (size_t i = 0; i < server->config.reactor_count; i++)
		nbd_home_fini(&server->homes[i]);
	while ((link = list_pop_front(&server->policies))) {
		free(container_of(link, struct nbd_listener_policy, link)->name);
		free(container_of(link, struct nbd_listener_policy, link));
	}
	CHECK(list_empty(&server->clients));
	pthread_mutex_destroy(&server->clients_mutex);
	stream_tls_context_free(server->tls_context);
	free(server->homes);
	free(server);
}

/* --- new certificates --- */

static void
reload_run(struct offload *offload)
{
	struct nbd_server *server = container_of(offload, struct nbd_server, reload);

	server->reload_error.code = 0;
	(void)!stream_tls_context_reload(server->tls_context, &server->reload_error);
}

static void
reload_done(struct offload *offload)
{
	struct nbd_server *server = container_of(offload, struct nbd_server, reload);

	server->reloading = false;
	if (server->reload_error.code)
		diag_error("TLS goes on with what it had: %s", server->reload_error.text);
	else
		diag_info("the files of TLS were read again");
	if (server->reload_again && !server->stopping)
		nbd_server_reload(server);
	stop_check(server);
}

void
nbd_server_reload(struct nbd_server *server)
{
	CHECK(reactor_current() == &server->homes[0].r->reactor);
	server->reload_again = server->reloading;
	if (server->reloading || server->stopping)
		return;
	if (!server->tls_context) {
		diag_info("nothing to read again: there is no TLS");
		return;
	}
	server->reloading = true;
	if (offload_start(&server->reload, &server->homes[0].r->reactor, reload_run, reload_done)) {
		server->reloading = false;
		diag_error("TLS goes on with what it had: no thread could be started");
	}
}

/* --- accepting --- */

/* The entry of @peer with one connection more; NULL: it has as many as it may. */
static struct nbd_client *
client_get(struct nbd_server *server, const struct nbd_peer *peer)
{
	struct nbd_client *client = NULL;

	pthread_mutex_lock(&server->clients_mutex);
	list_for_each(link, &server->clients) {
		client = container_of(link, struct nbd_client, link);
		if (client->is_unix == peer->is_unix &&
		    memcmp(client->address, peer->address, sizeof(client->address)) == 0)
			break;
		client = NULL;
	}
	if (!client) {
		client = xcalloc(1, sizeof(*client));
		client->is_unix = peer->is_unix;
		memcpy(client->address, peer->address, sizeof(client->address));
		list_push_back(&server->clients, &client->link);
	}
	if (client->connections >= server->config.connections_per_client_max)
		client = NULL;
	else
		client->connections++;
	pthread_mutex_unlock(&server->clients_mutex);
	return client;
}

void
nbd_server_client_gone(struct nbd_server *server, struct nbd_client *client)
{
	if (!client)
		return;
	pthread_mutex_lock(&server->clients_mutex);
	if (--client->connections == 0) {
		list_remove(&client->link);
		free(client);
	}
	pthread_mutex_unlock(&server->clients_mutex);
}

static void
accepted(struct stream_listeners *listeners, const void *arg, int fd)
{
	struct nbd_server *server = container_of(listeners, struct nbd_server, listeners);
	const struct nbd_listener_policy *policy = arg;
	struct nbd_home *home = &server->homes[server->next_home];
	struct nbd_connection *connection;
	struct nbd_client *client = NULL;
	struct nbd_peer peer;
	bool limited;

	if (nbd_server_connection_count(server) >= server->config.connections_max) {
		diag_warning("nbd: a client was turned away, %u connections are open",
		    nbd_server_connection_count(server));
		close(fd);
		return;
	}
	nbd_peer_of_socket(&peer, fd);
	peer.listener = policy->name;
	limited = server->config.connections_per_client_max;
	if (limited)
		client = client_get(server, &peer);
	if (limited && !client) {
		diag_warning("nbd: a client was turned away, it has %u connections",
		    server->config.connections_per_client_max);
		close(fd);
		return;
	}
	atomic_fetch_add(&server->connection_count, 1);
	server->next_home = (server->next_home + 1) % server->config.reactor_count;
	connection = nbd_connection_create(home, policy, &peer, client, fd);
	reactor_post(&home->r->reactor, nbd_connection_arrive_task(connection));
}
