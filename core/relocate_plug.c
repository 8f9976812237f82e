/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plugging: relocation into the holes of packed slabs.
 *
 * Packing gains of a slab what is dead there: of slabs that are nine tenths live it has to move ten
 * to gain one.  The same dead blocks, if they are written over one by one, take what lives on one
 * such slab, and that one is free: each block that is gained costs less than one that is written,
 * however full the pool is.  They are small writes at random places, though: which of the two is
 * better follows from how long both took so far (plug_is_better() in relocate.c).
 *
 *   DIRECTORIES (of the slabs with holes) ─► READ and CHECK the victim ─► PLUG: blocks ─►
 *   directories ─► flush ─► their copies ─► SWITCH
 *
 * What may be written over: nothing that a recovery would read.  Holes are noted when a checkpoint
 * is cut, and may be plugged when it is durable: what was dead then is reached by no map of this
 * checkpoint or a later one.  A table without a cut serves for slabs on which nothing died that the
 * last cut still had.  What died later waits for the next note.  Reads under way when a slab is
 * chosen may be of blocks that died since they began: such a slab is passed over.
 *
 * The new directory of a slab is the old one without what was dead, and with the new blocks, which
 * are dead there by any older table: so it is good for tables from before and after the switch.
 * It is durable before its copy is written: at no time a crash can take both.
 */
#include <stdlib.h>

#include "core/base/mutant.h"
#include "core/relocate_internal.h"

#define NOTES_MAX 256u
/* Slabs that are looked at for one note. */
#define LOOK_SLABS 4096u
#define TARGETS_MAX 128u

enum plug_stage {
	PLUG_BLOCKS,
	PLUG_DIRECTORY,
	PLUG_FLUSH,
	PLUG_COPY,
	PLUG_WRITTEN,
};

struct plug_target {
	struct slab *slab;
	struct places places;
	uint64_t number;
	uint64_t *holes;
	uint32_t hole_count;
	uint8_t *directory; /* the old one; */
	bool is_read;       /* ... it is good, and this is it */
	struct packed_reader reader;
	uint8_t *changed; /* the new one */
	uint32_t first;   /* of the moves that go here, */
	uint32_t count;
	uint16_t *slots; /* ... and where to */
};

/* --- what may be plugged --- */

static int
by_holes(const void *left, const void *right)
{
	const struct plug_note *a = left, *b = right;

	if (a->hole_count != b->hole_count)
		return a->hole_count > b->hole_count ? -1 : 1;
	if (a->slab->device != b->slab->device)
		return a->slab->device < b->slab->device ? -1 : 1;
	return a->slab->index < b->slab->index ? -1 : 1;
}

void
plug_note_holes(struct pool *pool, bool is_cut)
{
	struct plug *plug = &pool->relocation.plug;
	struct plug_notes *notes = &plug->coming;
	const struct space *space = &pool->space;
	uint32_t slab_blocks = space->slab_blocks, words = slab_blocks / 64;
	uint32_t looks = (uint32_t)min_u64(space->span_count, LOOK_SLABS);
	uint32_t n = 0;
	struct plug_note *found;

	notes->count = 0;
	notes->next = 0;
	notes->deaths = space->deaths;
	/* Where packing is cheap, nothing is plugged. */
	if (space->live_blocks < space->slab_count * slab_blocks / 2)
		return;
	found = xcalloc(looks, sizeof(*found));
	for (uint32_t i = 0; i < looks; i++) {
		struct slab *slab = relocation_next_slab(pool, &plug->look_at);

		if (!slab || !space_may_plug(space, slab, is_cut) || slab->plugging ||
		    slab_blocks - 2u * slab->directory_blocks <= slab->live)
			continue;
		found[n++] = (struct plug_note){
			.slab = slab,
			.number = slab->segment,
			.hole_count = slab_blocks - 2u * slab->directory_blocks - slab->live,
		};
	}
	qsort(found, n, sizeof(*found), by_holes);
	n = (uint32_t)min_u64(n, NOTES_MAX);
	if (n > 0 && !notes->list) {
		notes->list = xcalloc(NOTES_MAX, sizeof(*notes->list));
		notes->holes = xcalloc((size_t)NOTES_MAX * words, sizeof(*notes->holes));
	}
	for (uint32_t i = 0; i < n; i++) {
		uint64_t *holes = notes->holes + (size_t)i * words;
		uint32_t directory_blocks = found[i].slab->directory_blocks;

		for (uint32_t word = 0; word < words; word++)
			holes[word] = ~found[i].slab->live_bits[word];
		for (uint32_t k = 0; k < directory_blocks; k++) {
			bitmap_clear(holes, k);
			bitmap_clear(holes, slab_blocks - 1 - k);
		}
		notes->list[i] = found[i];
		notes->list[i].holes = holes;
	}
	notes->count = n;
	free(found);
}

void
plug_notes_durable(struct pool *pool)
{
	struct plug *plug = &pool->relocation.plug;
	struct plug_notes old = plug->durable;

	plug->durable = plug->coming;
	plug->coming = old;
	plug->coming.count = 0;
}

bool
plug_may_find_more(const struct pool *pool, uint64_t worth)
{
	const struct plug *plug = &pool->relocation.plug;

	return plug->coming.count > 0 ||
	       (plug->durable.count > 0 &&
		   (plug->durable.next > 0 || pool->space.deaths - plug->durable.deaths >= worth));
}

/* --- a pass --- */

static bool
can_take(const struct pool *pool, const struct plug_note *note)
{
	const struct relocation *r = &pool->relocation;
	struct slab *slab = note->slab;

	for (uint32_t i = 0; i < r->victim_count; i++)
		if (slab == r->victims[i].slab)
			return false;

	if (note->hole_count == 0 || slab->state != SLAB_PACKED || slab->segment != note->number ||
	    slab->live == 0 || slab->stuck || slab->releasing ||
	    space_lies_badly(&pool->space, slab))
		return false;
	for (const struct slab *at = slab;;) {
		if (at->readers > 0 && !MUTANT(PLUGGED_UNDER_READER))
			return false;
		at = at->twin;
		if (!at || at == slab)
			return true;
	}
}

static void
add_target(struct pool *pool, const struct plug_note *note)
{
	struct plug *plug = &pool->relocation.plug;
	struct plug_target *target = &plug->targets[plug->target_count++];
	uint32_t bitmap_bytes = pool->space.slab_blocks / 8;

	*target = (struct plug_target){
		.slab = note->slab,
		.number = note->number,
		.hole_count = note->hole_count,
		.holes = memcpy(xmalloc(bitmap_bytes), note->holes, bitmap_bytes),
		.slots = xcalloc(note->hole_count, sizeof(uint16_t)),
	};
	/* What is noted of it now are no holes any more when that is durable. */
	for (uint32_t i = 0; i < plug->coming.count; i++)
		if (plug->coming.list[i].slab == note->slab && !MUTANT(PLUGGED_TWICE))
			plug->coming.list[i].hole_count = 0;
	space_begin_plugging(&pool->space, note->slab);
	places_hold(pool, note->slab, &target->places);
}

bool
plug_begin(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	struct plug *plug = &r->plug;
	struct plug_notes *notes = &plug->durable;
	uint32_t enough = r->move_count, sum = 0, taken = 0;
	uint32_t chosen[TARGETS_MAX];

	if (MUTANT(PLUGGED_EARLY) && plug->coming.count > 0)
		notes = &plug->coming;
	for (uint32_t i = notes->next; i < notes->count && sum < enough; i++) {
		if (taken == TARGETS_MAX)
			return false;
		if (!can_take(pool, &notes->list[i]))
			continue;
		sum += notes->list[i].hole_count;
		chosen[taken++] = i;
	}
	if (sum < enough)
		return false;
	plug->targets = xcalloc(taken, sizeof(*plug->targets));
	for (uint32_t i = 0; i < taken; i++)
		add_target(pool, &notes->list[chosen[i]]);
	notes->next = chosen[taken - 1] + 1;
	plug->active = true;
	plug->target = 0;
	plug->attempt = 0;
	plug->at = 0;
	plug->stage = PLUG_BLOCKS;
	r->directory_blocks = 0;
	return true;
}

/* All of it may have died, and it is free again. */
static bool
is_there(const struct plug_target *target)
{
	return target->slab->state == SLAB_PACKED && target->slab->segment == target->number;
}

static void
look_at_directory(struct pool *pool, struct plug_target *target)
{
	struct error error;

	target->is_read =
	    packed_open(&target->reader, target->directory, target->slab->directory_blocks,
		pool->space.slab_blocks, target->number, &pool->uuid, &error) == 0;
}

/* Those that were not read well so far, at their next place; false: none is left. */
static bool
read_round(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	struct plug *plug = &r->plug;
	unsigned attempt = plug->attempt;

	for (; plug->target < plug->target_count && r->ios_left < RELOCATION_IOS; plug->target++) {
		struct plug_target *target = &plug->targets[plug->target];
		uint32_t blocks = target->slab->directory_blocks;

		if (!is_there(target) || target->is_read)
			continue;
		if (target->directory)
			look_at_directory(pool, target);
		if (target->is_read || attempt >= 2 * target->places.count)
			continue;
		if (!target->directory)
			target->directory = xalloc_pages((size_t)blocks * BLOCK_BYTES);
		/* If it is unreadable, what is left in the buffer is none. */
		memset(target->directory, 0, BLOCK_BYTES);
		relocation_add_io(pool, DEVICE_READ, target->places.slabs[attempt / 2],
		    attempt % 2 ? pool->space.slab_blocks - blocks : 0, blocks, target->directory);
	}
	if (r->ios_left > 0)
		relocation_submit(pool);
	return r->ios_left > 0;
}

/* At the head of their first place, at its end, and so on. */
bool
plug_read(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	struct plug *plug = &r->plug;

	r->error = 0;
	if (plug->target < plug->target_count && read_round(pool))
		return true;
	plug->attempt++;
	plug->target = 0;
	if (read_round(pool))
		return true;
	plug->target = 0;
	return false;
}

/* The next @count moves go to @target, if its directory has room for them. */
static bool
fits(struct pool *pool, struct plug_target *target, uint32_t first, uint32_t count)
{
	const struct relocation *r = &pool->relocation;
	uint32_t blocks = target->slab->directory_blocks;
	struct packed_block *moved = relocation_blocks(r, first, count);
	bool fit;

	fit = packed_plug(&target->reader, target->holes, moved, target->slots, count,
	    target->number, &pool->uuid, blocks, target->changed);
	free(moved);
	return fit;
}

bool
plug_assign(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	struct plug *plug = &r->plug;
	uint32_t first = 0;

	for (uint32_t i = 0; i < plug->target_count; i++) {
		struct plug_target *target = &plug->targets[i];
		uint32_t n = 0, most = (uint32_t)min_u64(target->hole_count, r->move_count - first);

		/* If it cannot be read, scrub and readers tell what is wrong with it. */
		if (!is_there(target) || !target->is_read)
			continue;
		target->changed =
		    xalloc_pages((size_t)target->slab->directory_blocks * BLOCK_BYTES);
		for (uint32_t slot = 0; slot < pool->space.slab_blocks; slot++)
			if (bitmap_test(target->holes, slot))
				target->slots[n++] = (uint16_t)slot;
		while (most > 0 && !fits(pool, target, first, most))
			most -= most / 8 + 1;
		/* If not all go anywhere, the others stay, and are another pass's. */
		target->first = first;
		target->count = most;
		first += most;
	}
	plug->target = 0;
	return first > 0;
}

/* As many blocks as may be under way at once; false: all are written. */
static bool
write_blocks(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	struct plug *plug = &r->plug;

	while (plug->target < plug->target_count) {
		const struct plug_target *target = &plug->targets[plug->target];
		const uint16_t *slots = target->slots + plug->at;
		uint32_t left = target->count - plug->at, n = 1;

		if (left == 0) {
			plug->target++;
			plug->at = 0;
			continue;
		}
		if (r->ios_left + target->places.count > RELOCATION_IOS)
			break;
		while (n < left && slots[n] == slots[0] + n)
			n++;
		for (unsigned k = 0; k < target->places.count; k++)
			relocation_add_io(pool, DEVICE_WRITE, target->places.slabs[k], slots[0], n,
			    r->to + (size_t)(target->first + plug->at) * BLOCK_BYTES);
		plug->at += n;
		r->blocks_written += n;
	}
	if (r->ios_left == 0)
		return false;
	relocation_submit(pool);
	return true;
}

/* Of all targets, at the head or at the end; false: all are written. */
static bool
write_directories(struct pool *pool, bool copy)
{
	struct relocation *r = &pool->relocation;
	struct plug *plug = &r->plug;

	for (; plug->target < plug->target_count; plug->target++) {
		const struct plug_target *target = &plug->targets[plug->target];
		uint32_t blocks = target->slab->directory_blocks;

		if (target->count == 0 || !is_there(target))
			continue;
		if (r->ios_left + target->places.count > RELOCATION_IOS)
			break;
		for (unsigned k = 0; k < target->places.count; k++)
			relocation_add_io(pool, DEVICE_WRITE, target->places.slabs[k],
			    copy ? pool->space.slab_blocks - blocks : 0, blocks, target->changed);
		r->blocks_written += blocks;
	}
	if (r->ios_left == 0)
		return false;
	relocation_submit(pool);
	return true;
}

static void
flush_devices(struct pool *pool)
{
	struct plug *plug = &pool->relocation.plug;
	bool flushed[POOL_DEVICES_MAX] = { false };

	for (uint32_t i = 0; i < plug->target_count; i++) {
		const struct plug_target *target = &plug->targets[i];

		for (unsigned k = 0; target->count > 0 && k < target->places.count; k++) {
			struct slab *place = target->places.slabs[k];

			if (flushed[place->device])
				continue;
			flushed[place->device] = true;
			relocation_add_io(pool, DEVICE_FLUSH, place, 0, 0, NULL);
		}
	}
	relocation_submit(pool);
}

bool
plug_write(struct pool *pool)
{
	struct plug *plug = &pool->relocation.plug;

	for (;; plug->stage++, plug->target = 0) {
		switch ((enum plug_stage)plug->stage) {
		case PLUG_BLOCKS:
			if (write_blocks(pool))
				return true;
			continue;
		case PLUG_DIRECTORY:
			if (write_directories(pool, false))
				return true;
			continue;
		case PLUG_FLUSH:
			plug->stage++;
			plug->target = 0;
			if (!MUTANT(PLUG_NOT_FLUSHED)) {
				flush_devices(pool);
				return true;
			}
			/* fall through */
		case PLUG_COPY:
			if (write_directories(pool, true))
				return true;
			continue;
		case PLUG_WRITTEN:
			return false;
		}
	}
}

void
plug_switch(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	struct plug *plug = &r->plug;

	for (uint32_t i = 0; i < plug->target_count; i++) {
		struct plug_target *target = &plug->targets[i];
		struct slab *slab = target->slab;
		struct packed_block *moved;
		struct packed_reader reader;
		struct error error;

		if (target->count == 0 || !is_there(target) || slab->releasing || slab->live == 0)
			continue;
		CHECK(packed_open(&reader, target->changed, slab->directory_blocks,
			  pool->space.slab_blocks, target->number, &pool->uuid, &error) == 0);
		moved = relocation_blocks(r, target->first, target->count);
		space_plug(&pool->space, slab, &reader, moved, target->slots, target->count,
		    (uint32_t)pool->checkpoint_number);
		slab->filled_segment = pool->log.next_segment_number;
		r->blocks_moved += target->count;
		free(moved);
	}
	CHECK_SLOW(space_invariant(&pool->space));
	plug_let_go(pool);
}

static void
free_targets(struct plug *plug)
{
	for (uint32_t i = 0; i < plug->target_count; i++) {
		struct plug_target *target = &plug->targets[i];

		free(target->holes);
		free(target->slots);
		free(target->directory);
		free(target->changed);
	}
	free(plug->targets);
	plug->targets = NULL;
	plug->target_count = 0;
	plug->active = false;
}

void
plug_let_go(struct pool *pool)
{
	struct plug *plug = &pool->relocation.plug;

	for (uint32_t i = 0; i < plug->target_count; i++) {
		plug->targets[i].slab->plugging = false;
		places_let_go(pool, &plug->targets[i].places);
	}
	free_targets(plug);
}

void
plug_fini(struct pool *pool)
{
	struct plug *plug = &pool->relocation.plug;

	free_targets(plug); /* of a pool that was abandoned: slabs and log are gone, or will be */
	free(plug->durable.list);
	free(plug->durable.holes);
	free(plug->coming.list);
	free(plug->coming.holes);
	memset(&plug->durable, 0, sizeof(plug->durable));
	memset(&plug->coming, 0, sizeof(plug->coming));
}
