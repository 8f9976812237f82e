/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Map faults: reads a node and brings it into memory, once for all who wait for it.
 *
 * Waiters hold a node_pin, so a node that was loaded for them is still there when they look again.
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#include "core/base/diag.h"

struct node_load {
	struct block_fetch fetch;
	struct pool *pool;
	struct map_entry entry;
	uint8_t level;
	struct list waiters;
};

void
waiters_wake(struct list *waiters, int error)
{
	struct list now;
	struct list *node;

	list_init(&now);
	list_splice_back(&now, waiters);
	while ((node = list_pop_front(&now))) {
		struct waiter *waiter = container_of(node, struct waiter, link);

		waiter->wake(waiter, error);
	}
}

static void
load_finish(struct node_load *load, int error)
{
	struct pool *pool = load->pool;
	struct list waiters;

	table_remove(&pool->loads, load->entry.addr);
	list_init(&waiters);
	list_splice_back(&waiters, &load->waiters);
	free(load->fetch.block);
	free(load);
	waiters_wake(&waiters, error);
}

/* On disk every entry of a node is a hole or an address. */
static bool
node_plausible(const struct map_entry *entries)
{
	uint64_t bits = 0;

	for (unsigned i = 0; i < MAP_FANOUT; i++)
		bits |= entries[i].addr;
	return !(bits & NODE_VIRTUAL);
}

static void
load_done(struct block_fetch *fetch)
{
	struct node_load *load = container_of(fetch, struct node_load, fetch);
	struct pool *pool = load->pool;
	int error = fetch->error;

	if (!error && !node_plausible(fetch->block)) {
		diag_error("pool %s: the map node at segment %llu holds impossible entries",
		    pool->name,
		    (unsigned long long)baddr_segment((struct baddr){ load->entry.addr }));
		error = -EIO;
	}
	if (!error)
		node_insert(&pool->nodes, &load->entry, load->level, fetch->block);
	load_finish(load, error ? -EIO : 0);
}

bool
node_loads_pending(const struct pool *pool)
{
	return pool->loads.count > 0;
}

void
node_load(struct pool *pool, const struct map_fault *fault, struct waiter *waiter)
{
	struct node_load *load = table_get(&pool->loads, fault->entry.addr);

	if (load) {
		list_push_back(&load->waiters, &waiter->link);
		return;
	}
	load = xcalloc(1, sizeof(*load));
	load->pool = pool;
	load->entry = fault->entry;
	load->level = fault->level;
	list_init(&load->waiters);
	list_push_back(&load->waiters, &waiter->link);
	table_set(&pool->loads, load->entry.addr, load);
	load->fetch.what = "a map node";
	load->fetch.block = xalloc_pages(FORMAT_BLOCK_BYTES);
	load->fetch.done = load_done;
	block_fetch_start(&load->fetch, pool, load->entry, NULL, 0, 0, 0);
}
