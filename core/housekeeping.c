/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Free slabs: written ahead where a first write would make flushes slow, given back where the
 * device can use the space.
 *
 * - A file's flush after a write into new space waits for the filesystem's journal.  So the slab
 *   that comes next is written with zeroes beforehand, as long as clients flush.  The log cancels
 *   that when it needs the slab before it is done; the slab is opened when no write of ours is in
 *   flight any more.
 * - A slab that became free is given back (discarded, punched out of the file).  While that runs it
 *   counts as being read, so nobody opens it.
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#define AHEAD_BLOCKS 64u
/* Fewer flushes a segment than this, and writing ahead does not pay. */
#define FLUSHES_MIN 4u

struct slab_discard {
	struct list link;
	struct slab *slab;
};

static void ahead_next(struct pool *pool);
static void discard_next(struct pool *pool);

void
housekeeping_init(struct pool *pool)
{
	struct housekeeping *h = &pool->housekeeping;

	memset(h, 0, sizeof(*h));
	list_init(&h->discards);
}

void
housekeeping_fini(struct pool *pool)
{
	struct housekeeping *h = &pool->housekeeping;
	struct list *node;

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

static void
ahead_done(struct device_io *io)
{
	struct pool *pool = container_of(io, struct pool, housekeeping.io);
	struct housekeeping *h = &pool->housekeeping;

	pool->devices[h->slab->device].dirty = true;
	if (io->error)
		h->cancelled = true; /* the log meets the error itself, if it lasts */
	ahead_next(pool);
}

static void
ahead_next(struct pool *pool)
{
	struct housekeeping *h = &pool->housekeeping;
	uint32_t blocks = pool->space.slab_blocks - h->block;

	if (h->cancelled || blocks == 0 || pool->state == POOL_FAILED) {
		if (blocks == 0)
			h->slab->flags |= SLAB_WRITTEN;
		h->slab = NULL;
		waiters_wake(&pool->log.waiters, 0);
		return;
	}
	if (blocks > AHEAD_BLOCKS)
		blocks = AHEAD_BLOCKS;
	h->iov.iov_base = h->zeroes;
	h->iov.iov_len = (size_t)blocks * BLOCK_BYTES;
	h->io.op = DEVICE_WRITE;
	h->io.offset_bytes = space_offset_bytes(&pool->space, h->slab, h->block);
	h->io.len_bytes = h->iov.iov_len;
	h->io.iov = &h->iov;
	h->io.iov_count = 1;
	h->io.done = ahead_done;
	h->block += blocks;
	device_submit(pool_device(pool, h->slab->device), &h->io);
}

void
housekeeping_prepare(struct pool *pool, struct slab *slab)
{
	struct housekeeping *h = &pool->housekeeping;
	uint64_t flushes = pool->log.flush_round - h->flush_round;

	h->flush_round = pool->log.flush_round;
	if (h->slab || slab->flags & SLAB_WRITTEN || flushes < FLUSHES_MIN ||
	    pool->state != POOL_ONLINE || !pool_device(pool, slab->device)->prepare_space)
		return;
	if (!h->zeroes)
		h->zeroes = xalloc_pages((size_t)AHEAD_BLOCKS * BLOCK_BYTES);
	h->slab = slab;
	h->block = 0;
	h->cancelled = false;
	ahead_next(pool);
}

bool
housekeeping_settle(struct pool *pool, const struct slab *slab)
{
	struct housekeeping *h = &pool->housekeeping;

	if (h->slab != slab)
		return true;
	h->cancelled = true;
	return false;
}

/* --- giving back --- */

static void
discard_done(struct device_io *io)
{
	struct pool *pool = container_of(io, struct pool, housekeeping.discard_io);
	struct housekeeping *h = &pool->housekeeping;
	struct list *node = list_pop_front(&h->discards);
	struct slab_discard *discard = container_of(node, struct slab_discard, link);

	h->discarding = false;
	discard->slab->readers--;
	if (!io->error)
		discard->slab->flags &= (uint8_t)~SLAB_WRITTEN;
	free(discard);
	discard_next(pool);
}

static void
discard_next(struct pool *pool)
{
	struct housekeeping *h = &pool->housekeeping;
	struct slab_discard *discard;

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

	if (!(slab->flags & SLAB_WRITTEN) || !pool_device(pool, slab->device)->gives_back ||
	    pool->state != POOL_ONLINE)
		return;
	discard = xcalloc(1, sizeof(*discard));
	discard->slab = slab;
	slab->readers++;
	list_push_back(&pool->housekeeping.discards, &discard->link);
	discard_next(pool);
}
