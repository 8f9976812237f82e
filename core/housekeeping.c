/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Free slabs: some are written ahead where a first write is slow, and the many are given back where
 * the device can use the space.
 *
 * - A first write into a file's new space allocates, and the flush after it waits for the
 * filesystem's journal.  So a few free slabs are kept that were written with zeroes (or used
 * before), and the log takes those first.  A slab that is being written is off the free list:
 * nobody waits for it. It pays only when clients flush: without flushes it would double what is
 * written and gain nothing.
 * - A file that is preallocated is written ahead as a whole, once, whether clients flush or not:
 * the operator has given its space to the pool.  While clients work that takes a quarter of the
 * time.
 * - A slab that became free is given back (discarded, punched out of the file) unless it is one of
 *   those few.  While that runs it counts as being read, so nobody opens it.
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#include "core/base/mutant.h"
#include "core/device_stall.h"

#define AHEAD_BLOCKS 64u
#define AHEAD_VECTORS 4u /* of AHEAD_BLOCKS each, all the same zeroes */
/* Slabs of a device that are kept written. */
#define AHEAD_SLABS 4u
#define AHEAD_PAUSE_NS_MAX (20ull * 1000 * 1000)

struct slab_discard {
	struct list link;
	struct slab *slab;
};

static void ahead_step(struct pool *pool);
static void ahead_pause_over(struct timer *timer);
static void discard_next(struct pool *pool);

void
housekeeping_init(struct pool *pool)
{
	struct housekeeping *h = &pool->housekeeping;

	memset(h, 0, sizeof(*h));
	list_init(&h->discards);
	timer_init(&h->pause, ahead_pause_over);
}

void
housekeeping_fini(struct pool *pool)
{
	struct housekeeping *h = &pool->housekeeping;
	struct list *node;

	reactor_timer_cancel(pool->reactor, &h->pause);
	while ((node = list_pop_front(&h->discards)))
		free(container_of(node, struct slab_discard, link));
	free(h->zeroes);
}

bool
housekeeping_idle(const struct pool *pool)
{
	return !pool->housekeeping.slab && !pool->housekeeping.discarding;
}

/* --- writing ahead --- */

/* Whether the device's space is the pool's to keep, so that all of it is written ahead. */
static bool
keeps_space(const struct pool *pool, uint32_t device)
{
	return !pool->space.devices[device].out &&
	       pool->devices[device].label.features_compat & LABEL_PREALLOCATED &&
	       pool_device(pool, device)->prepare_space;
}

static void
ahead_done(struct device_io *io)
{
	struct pool *pool = container_of(io, struct pool, housekeeping.io);
	struct housekeeping *h = &pool->housekeeping;

	pool->devices[h->slab->device].dirty = true;
	h->failed = io->error != 0; /* the log meets the error itself, if it lasts */
	if (h->failed || pool->requests_in_flight == 0 || !keeps_space(pool, h->slab->device)) {
		ahead_step(pool);
		return;
	}
	reactor_timer_start(pool->reactor, &h->pause,
	    min_u64(3 * (pool->reactor->now_ns - h->piece_began_ns), AHEAD_PAUSE_NS_MAX));
}

static void
ahead_pause_over(struct timer *timer)
{
	ahead_step(container_of(timer, struct pool, housekeeping.pause));
}

static void
ahead_step(struct pool *pool)
{
	struct housekeeping *h = &pool->housekeeping;
	uint32_t left = pool->space.slab_blocks - h->block;
	unsigned vectors = 0;

	if (h->failed || left == 0 || pool->state != POOL_ONLINE ||
	    pool->space.devices[h->slab->device].out) {
		if (left == 0 && !h->failed)
			space_slab_written(&pool->space, h->slab);
		space_unreserve(&pool->space, h->slab);
		h->slab = NULL;
		if (!h->failed)
			housekeeping_consider(pool);
		if (pool->space.leaving_count > 0)
			device_leaving_consider(pool);
		return;
	}
	memset(&h->io, 0, sizeof(h->io));
	h->io.op = DEVICE_WRITE;
	h->io.offset_bytes = space_offset_bytes(&pool->space, h->slab, h->block);
	while (vectors < AHEAD_VECTORS && left > 0) {
		uint32_t blocks = (uint32_t)min_u64(left, AHEAD_BLOCKS);

		h->iov[vectors].iov_base = h->zeroes;
		h->iov[vectors].iov_len = (size_t)blocks * BLOCK_BYTES;
		h->io.len_bytes += h->iov[vectors].iov_len;
		vectors++;
		left -= blocks;
		h->block += blocks;
	}
	h->io.iov = h->iov;
	h->io.iov_count = vectors;
	h->io.done = ahead_done;
	h->piece_began_ns = pool->reactor->now_ns;
	device_submit(pool_device(pool, h->slab->device), &h->io);
}

/* Since the open segment was opened. */
static bool
clients_flush(const struct pool *pool)
{
	return pool->log.flush_round != pool->housekeeping.flush_round;
}

/* How many free slabs of the device are to be kept written. */
static uint32_t
ahead_slabs(const struct pool *pool, uint32_t device)
{
	if (keeps_space(pool, device))
		return UINT32_MAX;
	if (pool->space.devices[device].out || !pool_device(pool, device)->prepare_space ||
	    !clients_flush(pool) || pool->space.free_count < 2 * pool->reserve_slabs)
		return 0;
	return AHEAD_SLABS;
}

uint64_t
housekeeping_unprepared_slabs(const struct pool *pool)
{
	const struct slab *writing = pool->housekeeping.slab;
	uint64_t slabs = writing && keeps_space(pool, writing->device);

	for (uint32_t i = 0; i < pool->device_count; i++)
		if (keeps_space(pool, i))
			slabs += pool->space.devices[i].free_count -
				 pool->space.devices[i].written_free_count;
	return slabs;
}

void
housekeeping_start(struct pool *pool)
{
	device_stall_watch(pool);
	heartbeat_guard(pool);
	for (uint32_t i = 0; i < pool->device_count; i++)
		if (keeps_space(pool, i))
			pool_device(pool, i)->gives_back = false;
	housekeeping_consider(pool);
}

void
housekeeping_consider(struct pool *pool)
{
	struct housekeeping *h = &pool->housekeeping;

	if (h->slab || h->failed || pool->state != POOL_ONLINE)
		return;
	for (uint32_t i = 0; i < pool->device_count; i++) {
		struct slab *slab;

		if (pool->space.devices[i].written_free_count >= ahead_slabs(pool, i))
			continue;
		slab = space_pick_unwritten(&pool->space, i);
		if (!slab)
			continue;
		if (!h->zeroes)
			h->zeroes = xalloc_pages((size_t)AHEAD_BLOCKS * BLOCK_BYTES);
		h->slab = slab;
		h->block = 0;
		space_reserve(&pool->space, slab);
		ahead_step(pool);
		return;
	}
}

void
housekeeping_segment_opened(struct pool *pool)
{
	housekeeping_consider(pool);
	pool->housekeeping.flush_round = pool->log.flush_round;
}

/* --- giving back --- */

/* Takes the first one from the list. */
static struct slab *
discard_end(struct pool *pool)
{
	struct slab_discard *discard =
	    container_of(list_pop_front(&pool->housekeeping.discards), struct slab_discard, link);
	struct slab *slab = discard->slab;

	free(discard);
	slab->readers--;
	return slab;
}

static void
discard_done(struct device_io *io)
{
	struct pool *pool = container_of(io, struct pool, housekeeping.discard_io);
	struct slab *slab = discard_end(pool);

	pool->housekeeping.discarding = false;
	if (!io->error)
		space_slab_given_back(&pool->space, slab);
	discard_next(pool);
	log_slab_unread(pool, slab);
}

static void
discard_next(struct pool *pool)
{
	struct housekeeping *h = &pool->housekeeping;
	struct slab_discard *discard;

	/* Of a pool that failed somebody else may have the devices in service. */
	while (pool->state == POOL_FAILED && !h->discarding && !list_empty(&h->discards))
		discard_end(pool);
	if (h->discarding || list_empty(&h->discards))
		return;
	discard = list_first(&h->discards, struct slab_discard, link);
	h->discarding = true;
	memset(&h->discard_io, 0, sizeof(h->discard_io));
	h->discard_io.op = DEVICE_DISCARD;
	h->discard_io.offset_bytes = space_offset_bytes(&pool->space, discard->slab, 0);
	h->discard_io.len_bytes = (uint64_t)pool->space.slab_blocks * BLOCK_BYTES;
	h->discard_io.done = discard_done;
	device_submit(pool_device(pool, discard->slab->device), &h->discard_io);
}

void
housekeeping_slab_released(void *context, struct slab *slab)
{
	struct pool *pool = context;
	struct slab_discard *discard;

	const struct space_device *device = &pool->space.devices[slab->device];

	if (device->out || !pool_device(pool, slab->device)->gives_back ||
	    pool->state != POOL_ONLINE ||
	    (slab->readers > 0 &&
		!MUTANT(DISCARD_WHILE_READ)) || /* they look where it lay until now */
	    device->written_free_count <= max_u64(AHEAD_SLABS, device->slab_count / 32))
		return;
	discard = xcalloc(1, sizeof(*discard));
	discard->slab = slab;
	slab->readers++;
	list_push_back(&pool->housekeeping.discards, &discard->link);
	discard_next(pool);
}
