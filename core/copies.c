/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading what lies on several devices: the least busy one is asked, the others if it fails, and
 * what was bad there is written once more.
 *
 * A good copy is known by its checksum, so whichever device has one serves, and a bad one is never
 * believed.  Healing writes the same bytes to the same place.
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"
#include "core/device_watch.h"

/* More than so many at a time are left to those who read the blocks next. */
#define HEALS_MAX 64u

/* A device that is slow to answer is asked last. */
static uint64_t
busyness(const struct pool *pool, const struct slab *place)
{
	const struct device *device = pool_device(pool, place->device);

	return device->in_flight + (device_watch_is_slow(device) ? 1ull << 32 : 0);
}

void
places_hold(struct pool *pool, struct slab *leader, struct places *places)
{
	places->count = space_places(&pool->space, leader, places->slabs);
	for (unsigned i = 0; i < places->count; i++) {
		struct slab *place = places->slabs[i];

		place->readers += !MUTANT(READER_NOT_COUNTED);
		if (i > 0 && busyness(pool, place) < busyness(pool, places->slabs[0])) {
			places->slabs[i] = places->slabs[0];
			places->slabs[0] = place;
		}
	}
}

void
places_let_go(struct pool *pool, const struct places *places)
{
	for (unsigned i = 0; i < places->count; i++)
		places->slabs[i]->readers -= !MUTANT(READER_NOT_COUNTED);
	for (unsigned i = 0; i < places->count; i++)
		log_slab_unread(pool, places->slabs[i]);
}

/* --- healing --- */

struct heal {
	struct device_io io;
	struct iovec iov;
	struct pool *pool;
	struct slab *place;
	void *block;
};

static void
healed(struct device_io *io)
{
	struct heal *heal = container_of(io, struct heal, io);
	struct pool *pool = heal->pool;
	struct slab *place = heal->place;

	pool->devices[place->device].dirty = true;
	if (io->error) {
		pool->devices[place->device].errors++;
		diag_warning("pool %s: the block at byte %llu of %s could not be healed: %s",
		    pool->name, (unsigned long long)io->offset_bytes, io->device->name,
		    strerror(-io->error));
		device_lost(pool, io, place->device);
	} else {
		pool->devices[place->device].healed++;
	}
	pool->heals--;
	place->readers--;
	free(heal->block);
	free(heal);
	log_slab_unread(pool, place);
	if (pool->heals == 0)
		scrub_heals_ended(pool);
}

void
place_heal(struct pool *pool, struct slab *place, uint32_t slot, const void *block)
{
	struct heal *heal;

	if (pool->heals >= HEALS_MAX || !space_place_counts(&pool->space, place) ||
	    (pool->state != POOL_ONLINE && pool->state != POOL_STARTING))
		return;
	heal = xcalloc(1, sizeof(*heal));
	heal->pool = pool;
	heal->place = place;
	heal->block = xalloc_pages(BLOCK_BYTES);
	memcpy(heal->block, block, BLOCK_BYTES);
	heal->iov.iov_base = heal->block;
	heal->iov.iov_len = BLOCK_BYTES;
	heal->io.op = DEVICE_WRITE;
	heal->io.offset_bytes = space_offset_bytes(&pool->space, place, slot);
	heal->io.len_bytes = BLOCK_BYTES;
	heal->io.iov = &heal->iov;
	heal->io.iov_count = 1;
	heal->io.done = healed;
	pool->heals++;
	place->readers++; /* nobody opens the slab before it is done */
	device_submit(pool_device(pool, place->device), &heal->io);
}

/* --- one block --- */

static void
fetch_end(struct block_fetch *fetch, int error)
{
	struct pool *pool = fetch->pool;
	struct places places = fetch->places;

	fetch->error = error;
	fetch->done(fetch);
	places_let_go(pool, &places);
}

static void fetch_done(struct device_io *io);

static void
fetch_submit(struct block_fetch *fetch)
{
	struct pool *pool = fetch->pool;
	struct slab *place = fetch->places.slabs[fetch->at];
	struct device_io *io = &fetch->io;

	fetch->iov.iov_base = fetch->block;
	fetch->iov.iov_len = BLOCK_BYTES;
	io->op = DEVICE_READ;
	io->offset_bytes = space_offset_bytes(&pool->space, place, fetch->slot);
	io->len_bytes = BLOCK_BYTES;
	io->iov = &fetch->iov;
	io->iov_count = 1;
	io->may_give_up = false;
	for (unsigned i = 0; i < fetch->places.count; i++)
		io->may_give_up |= i != fetch->at && !(fetch->bad >> i & 1);
	io->done = fetch_done;
	device_submit(pool_device(pool, place->device), io);
}

/* The first place that is not known to be bad; false: there is none. */
static bool
choose_place(struct block_fetch *fetch)
{
	for (fetch->at = 0; fetch->at < fetch->places.count; fetch->at++)
		if (!(fetch->bad >> fetch->at & 1))
			return true;
	return false;
}

/* What of @places is known to be bad; not what was only late. */
static unsigned
bad_of(const struct block_fetch *fetch, const struct places *places, uint32_t slot)
{
	unsigned bad = 0;

	for (unsigned i = 0; i < places->count; i++)
		for (unsigned k = 0; k < fetch->places.count; k++)
			if (places->slabs[i] == fetch->places.slabs[k] && slot == fetch->slot)
				bad |= ((fetch->bad & ~fetch->late) >> k & 1) << i;
	return bad;
}

/* A device may have come back since the places were looked up, and have what the others fail to
 * give; or one that was only late is the last.  False: there is no place but bad ones. */
static bool
find_again(struct block_fetch *fetch)
{
	struct pool *pool = fetch->pool;
	struct places places = { .count = 0 }, before = fetch->places;
	uint32_t slot;
	struct slab *leader = space_place(&pool->space, fetch->addr, &slot);
	unsigned bad;

	if (!leader || pool->space.copies == 1 || MUTANT(PLACES_NOT_FOUND_AGAIN))
		return false;
	places_hold(pool, leader, &places);
	bad = bad_of(fetch, &places, slot);
	fetch->places = places;
	fetch->slot = slot;
	fetch->bad = bad;
	fetch->late = 0;
	places_let_go(pool, &before);
	return choose_place(fetch);
}

static void
fetch_next(struct block_fetch *fetch)
{
	if (choose_place(fetch) || find_again(fetch))
		return fetch_submit(fetch);
	fetch_end(fetch, -EIO);
}

static void
fetch_begin(struct task *task)
{
	fetch_next(container_of(task, struct block_fetch, task));
}

static void
fetch_done(struct device_io *io)
{
	struct block_fetch *fetch = container_of(io, struct block_fetch, io);
	struct pool *pool = fetch->pool;
	struct slab *place = fetch->places.slabs[fetch->at];
	bool good = !io->error && baddr_block_crc(fetch->addr, fetch->block) == fetch->crc;

	if (good || (!io->error && MUTANT(NODE_CRC_UNCHECKED))) {
		for (unsigned i = 0; i < fetch->places.count; i++)
			if ((fetch->bad & ~fetch->late) >> i & 1)
				place_heal(pool, fetch->places.slabs[i], fetch->slot, fetch->block);
		return fetch_end(fetch, 0);
	}
	fetch->bad |= 1u << fetch->at;
	fetch->late |= (io->error == -ETIME) << fetch->at;
	pool->checksum_errors += !io->error;
	if (io->error != -ETIME) {
		pool->devices[place->device].errors++;
		diag_error("pool %s: %s at byte %llu of %s: %s", pool->name, fetch->what,
		    (unsigned long long)io->offset_bytes, io->device->name,
		    io->error ? strerror(-io->error) : "wrong checksum");
	}
	fetch_next(fetch);
}

void
block_fetch_start(struct block_fetch *fetch, struct pool *pool, struct map_entry entry,
    const struct places *held, unsigned bad, unsigned late, uint32_t slot)
{
	struct slab *leader;

	fetch->pool = pool;
	fetch->addr = (struct baddr){ entry.addr };
	fetch->crc = entry.crc;
	fetch->bad = bad;
	fetch->late = late;
	fetch->slot = slot;
	fetch->places.count = 0;
	memset(&fetch->io, 0, sizeof(fetch->io));
	if (held) {
		fetch->places = *held;
		for (unsigned i = 0; i < held->count; i++)
			held->slabs[i]->readers += !MUTANT(READER_NOT_COUNTED);
	} else {
		leader = space_place(&pool->space, fetch->addr, &fetch->slot);
		if (leader)
			places_hold(pool, leader, &fetch->places);
	}
	if (choose_place(fetch))
		return fetch_submit(fetch);
	if (fetch->places.count == 0)
		diag_error("pool %s: %s lies at segment %llu, which does not exist", pool->name,
		    fetch->what, (unsigned long long)baddr_segment(fetch->addr));
	task_init(&fetch->task, fetch_begin);
	reactor_defer(pool->reactor, &fetch->task);
}
