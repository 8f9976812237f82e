/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Map faults: reads a node and brings it into memory, once for all who wait for it.
 *
 * Waiters hold a node_pin, so a node that was loaded for them is still there when they look again.
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"

struct node_load {
	struct device_io io;
	struct iovec iov;
	struct pool *pool;
	struct slab *slab;
	struct map_entry entry;
	uint8_t level;
	void *block;
	struct list waiters;
	struct task failed;
	int error;
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
	free(load->block);
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
load_done(struct device_io *io)
{
	struct node_load *load = container_of(io, struct node_load, io);
	struct pool *pool = load->pool;
	uint32_t crc;
	int error = io->error;

	load->slab->readers--;
	if (!error) {
		crc = baddr_block_crc((struct baddr){ load->entry.addr }, load->block);
		if ((crc != load->entry.crc && !MUTANT(NODE_CRC_UNCHECKED)) ||
		    !node_plausible(load->block)) {
			pool->checksum_errors++;
			error = -EIO;
		}
	}
	if (error) {
		pool->devices[load->slab->device].errors++;
		diag_error("pool %s: a map node at byte %llu of %s is unreadable: %s", pool->name,
		    (unsigned long long)io->offset_bytes, io->device->name,
		    io->error ? strerror(-io->error) : "wrong checksum");
	} else {
		node_insert(&pool->nodes, &load->entry, load->level, load->block);
	}
	const struct slab *slab = load->slab;

	load_finish(load, error ? -EIO : 0);
	log_slab_unread(pool, slab);
}

static void
load_failed(struct task *task)
{
	load_finish(container_of(task, struct node_load, failed), -EIO);
}

bool
node_loads_pending(const struct pool *pool)
{
	return pool->loads.count > 0;
}

void
node_load(struct pool *pool, const struct map_fault *fault, struct waiter *waiter)
{
	struct baddr addr = { fault->entry.addr };
	struct node_load *load = table_get(&pool->loads, addr.n);
	struct device_io *io;
	uint32_t slot;

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
	table_set(&pool->loads, addr.n, load);
	load->slab = space_place(&pool->space, addr, &slot);
	if (!load->slab || !pool_device(pool, load->slab->device)) {
		diag_error("pool %s: a map node lies at segment %llu, which does not exist",
		    pool->name, (unsigned long long)baddr_segment(addr));
		task_init(&load->failed, load_failed);
		reactor_defer(pool->reactor, &load->failed);
		return;
	}
	load->slab->readers++;
	load->block = xalloc_pages(FORMAT_BLOCK_BYTES);
	load->iov.iov_base = load->block;
	load->iov.iov_len = FORMAT_BLOCK_BYTES;
	io = &load->io;
	io->op = DEVICE_READ;
	io->offset_bytes = space_offset_bytes(&pool->space, load->slab, slot);
	io->len_bytes = FORMAT_BLOCK_BYTES;
	io->iov = &load->iov;
	io->iov_count = 1;
	io->done = load_done;
	device_submit(pool_device(pool, load->slab->device), io);
}
