/* SPDX-License-Identifier: Apache-2.0 */
/* What the connections of a reactor share: buffers, and the order in which they wait for them. */
#include "core/base/diag.h"
#include "frontends/nbd/nbd_server_connection.h"

#define WATCHDOG_PERIOD_NS 1000000000ull

static void
wake_waiting(struct task *task)
{
	struct nbd_home *home = container_of(task, struct nbd_home, wake_waiting);

	while (!list_empty(&home->waiting)) {
		struct list *first = home->waiting.next;

		nbd_connection_advance(container_of(first, struct nbd_connection, wait_link));
		if (home->waiting.next == first)
			return;
	}
}

/* A peer that holds buffers, and neither takes its answers nor sends the payload it announced. */
static bool
stuck(const struct nbd_connection *c)
{
	uint64_t limit_ns = c->home->server->config.stall_timeout_ms * 1000000ull;

	return c->payload_bytes && (c->stream.sending || c->payload_op) &&
	       nbd_connection_reactor(c)->now_ns - c->stream.progress_ns > limit_ns;
}

static void
watchdog_run(struct timer *timer)
{
	struct nbd_home *home = container_of(timer, struct nbd_home, watchdog);

	list_for_each_safe(link, &home->connections) {
		struct nbd_connection *c = container_of(link, struct nbd_connection, link);

		if (stuck(c)) {
			diag_warning(
			    "%s: disconnected: others wait for the memory it holds", c->peer);
			nbd_connection_kill(c);
		}
	}
	if (list_empty(&home->waiting))
		return;
	reactor_timer_start(&home->r->reactor, timer, WATCHDOG_PERIOD_NS);
	reactor_defer(&home->r->reactor, &home->wake_waiting); /* the system may be out of memory */
}

void
nbd_home_watch(struct nbd_home *home)
{
	if (!home->watchdog.heap_index)
		reactor_timer_start(&home->r->reactor, &home->watchdog, WATCHDOG_PERIOD_NS);
}

void
nbd_home_init(struct nbd_home *home, struct nbd_server *server, struct reactor_uring *r)
{
	home->server = server;
	home->r = r;
	home->buffers = buffer_pool_create(server->config.buffer_bytes);
	list_init(&home->free_ops);
	list_init(&home->op_slabs);
	list_init(&home->connections);
	list_init(&home->waiting);
	task_init(&home->wake_waiting, wake_waiting);
	timer_init(&home->watchdog, watchdog_run);
}

void
nbd_home_fini(struct nbd_home *home)
{
	CHECK(list_empty(&home->connections) && list_empty(&home->waiting));
	nbd_ops_free(home);
	buffer_pool_free(home->buffers);
}
