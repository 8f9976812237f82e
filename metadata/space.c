/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/space_internal.h"

#include <stdlib.h>

#include "core/base/mutant.h"

/* So many slabs a mark grows by. */
#define MARK_STEP 8u

void
space_init(struct space *space, uint32_t slab_blocks, uint32_t copies)
{
	memset(space, 0, sizeof(*space));
	CHECK(copies >= 1 && copies <= COPIES_MAX);
	space->copies = copies;
	table_init(&space->numbers);
	CHECK(slab_blocks >= SLAB_BLOCKS_MIN && slab_blocks <= SLAB_BLOCKS_MAX);
	CHECK(slab_blocks % 64 == 0);
	space->slab_blocks = slab_blocks;
	table_init(&space->segments);
	list_init(&space->empty);
}

void
space_fini(struct space *space)
{
	for (uint32_t i = 0; i < space->device_count; i++) {
		struct space_device *device = &space->devices[i];

		for (uint32_t k = 0; k < device->mark; k++) {
			struct slab *slab = space_slab(device, k);

			if (slab->pieces != &slab->own)
				free(slab->pieces);
		}
		for (uint32_t k = 0; k < device->chunk_count; k++)
			free(device->chunks[k]);
		free(device->chunks);
		free(device->page_place);
		free(device->page_checkpoint);
		free(device->page_dirty);
	}
	table_fini(&space->segments);
	table_fini(&space->numbers);
}

static uint32_t
slab_room(const struct space *space, uint64_t slabs_block, uint32_t slab_count)
{
	uint64_t pages =
	    slabs_block > FORMAT_TABLE_BLOCK ? (slabs_block - FORMAT_TABLE_BLOCK) / 2 : 0;
	uint64_t room = pages * table_records_per_page(space->slab_blocks);

	return (uint32_t)max_u64(slab_count, min_u64(room, UINT32_MAX - 1));
}

/* --- the mark --- */

/* How many slabs of the device were never used, and are to be had. */
static uint32_t
count_fresh(const struct space_device *device)
{
	return device->fresh_held ? 0 : device->slab_count - device->mark;
}

static void
add_chunk(struct space_device *device)
{
	device->chunks =
	    xrealloc(device->chunks, (device->chunk_count + 1) * sizeof(*device->chunks));
	device->chunks[device->chunk_count++] =
	    xalloc_pages(SPACE_CHUNK_SLABS * device->slab_bytes);
}

static void
make_page_room(struct space_device *device, uint32_t pages)
{
	size_t words = BITMAP_WORDS(pages), old_words = BITMAP_WORDS(device->page_room);

	if (pages <= device->page_room)
		return;
	device->page_place = xrealloc(device->page_place, pages);
	device->page_checkpoint =
	    xrealloc(device->page_checkpoint, pages * sizeof(*device->page_checkpoint));
	device->page_dirty = xrealloc(device->page_dirty, words * sizeof(*device->page_dirty));
	memset(device->page_dirty + old_words, 0, (words - old_words) * sizeof(uint64_t));
	device->page_room = pages;
}

static void
set_span(struct space *space, struct space_device *device)
{
	space->span_count -= device->span;
	device->span = (uint32_t)max_u64(device->span, 1);
	while (device->span < device->mark)
		device->span = (uint32_t)min_u64(2ull * device->span, device->slab_count);
	space->span_count += device->span;
}

void
space_raise_mark(struct space *space, uint32_t index, uint32_t mark)
{
	struct space_device *device = &space->devices[index];
	uint32_t per_page = table_records_per_page(space->slab_blocks);
	uint32_t pages = (uint32_t)div_round_up(mark, per_page);

	if (pages > device->page_room)
		make_page_room(device, (uint32_t)max_u64(pages, 2ull * device->page_room));
	for (; device->page_count < pages; device->page_count++) {
		device->page_place[device->page_count] = 0;
		device->page_checkpoint[device->page_count] = 0;
	}
	while (device->mark < mark) {
		uint32_t i = device->mark++;

		if (i / SPACE_CHUNK_SLABS == device->chunk_count)
			add_chunk(device);
		struct slab *slab = space_slab(device, i);

		slab->device = index;
		slab->index = i;
		list_init(&slab->link);
		/* Also where a page is there: a table that no superblock ever named may have left
		 * something in it. */
		if (!MUTANT(RAISED_NOT_WRITTEN))
			bitmap_set(device->page_dirty, i / per_page);
		if (device->fresh_held)
			slab->held = device->leaving || device->joining;
		else
			list_push_back(&device->free, &slab->link);
	}
	set_span(space, device);
}

/* By a step at least, and page 0 will tell. */
static void
raise_and_tell(struct space *space, uint32_t index, uint32_t mark)
{
	struct space_device *device = &space->devices[index];

	space_raise_mark(space, index,
	    (uint32_t)min_u64(max_u64(mark, device->mark + MARK_STEP), device->slab_count));
	bitmap_set(device->page_dirty, 0);
}

struct slab *
space_reach(struct space *space, uint32_t device_index, uint32_t index)
{
	struct space_device *device = &space->devices[device_index];

	CHECK(index < device->slab_count);
	if (index >= device->mark)
		raise_and_tell(space, device_index, index + 1);
	return space_slab(device, index);
}

struct slab *
space_nth_slab(const struct space *space, uint64_t n)
{
	uint32_t index = 0;

	while (n >= space->devices[index].span)
		n -= space->devices[index++].span;
	return n < space->devices[index].mark ? space_slab(&space->devices[index], (uint32_t)n)
					      : NULL;
}

void
space_hold_fresh(struct space *space, struct space_device *device, bool hold)
{
	uint32_t count = device->slab_count - device->mark;

	if (device->fresh_held == hold)
		return;
	device->fresh_held = hold;
	device->free_count += hold ? -count : count;
	if (space->copies > 1)
		space_recount(space);
	else
		space->free_count += hold ? -(uint64_t)count : count;
}

/* --- devices and their free slabs --- */

void
space_add_device(struct space *space, uint32_t index, const struct uuid *uuid, uint64_t slabs_block,
    uint32_t slab_count)
{
	struct space_device *device = &space->devices[index];

	CHECK(index < POOL_DEVICES_MAX && !device->present);
	device->present = true;
	device->uuid = *uuid;
	device->slabs_block = slabs_block;
	device->slab_count = slab_count;
	device->slab_bytes = round_up(sizeof(struct slab) + space->slab_blocks / 8, 64);
	device->slab_room = slab_room(space, slabs_block, slab_count);
	list_init(&device->free);
	device->free_count = slab_count;
	space_raise_mark(space, index, (uint32_t)min_u64(MARK_STEP, slab_count));
	if (index >= space->device_count)
		space->device_count = index + 1;
	if (space->copies > 1) {
		space_recount(space);
		return;
	}
	space->slab_count += slab_count;
	space->free_count += slab_count;
}

void
space_grow_device(struct space *space, uint32_t index, uint32_t slab_count)
{
	struct space_device *device = &space->devices[index];

	CHECK(slab_count >= device->slab_count && slab_count <= device->slab_room);
	if (!device->fresh_held)
		device->free_count += slab_count - device->slab_count;
	device->slab_count = slab_count;
	space_recount(space);
}

void
space_leave_free(struct space *space, struct slab *slab)
{
	struct space_device *device = &space->devices[slab->device];

	list_remove(&slab->link);
	device->free_count--;
	device->written_free_count -= slab->flags & SLAB_WRITTEN;
	if (space->copies > 1)
		space_recount(space);
	else
		space->free_count--;
}

void
space_enter_free(struct space *space, struct slab *slab)
{
	struct space_device *device = &space->devices[slab->device];

	if (device->out)
		return;
	slab->held = device->joining || (device->leaving && !MUTANT(LEAVING_NOT_HELD));
	if (slab->held)
		return;
	if (slab->flags & SLAB_WRITTEN)
		list_push_front(&device->free, &slab->link);
	else
		list_push_back(&device->free, &slab->link);
	device->free_count++;
	device->written_free_count += slab->flags & SLAB_WRITTEN;
	if (space->copies > 1)
		space_recount(space);
	else
		space->free_count++;
}

static void
enter_empty(struct space *space, struct slab *slab)
{
	list_push_back(&space->empty, &slab->link);
	space->empty_count++;
}

bool
space_is_empty(const struct slab *slab)
{
	return (slab->state == SLAB_SEALED || slab->state == SLAB_PACKED) &&
	       !list_empty(&slab->link);
}

void
space_leave_empty(struct space *space, struct slab *slab)
{
	if (!space_is_empty(slab))
		return;
	list_remove(&slab->link);
	space->empty_count--;
	slab->releasing = false;
}

void
space_open_slab(struct space *space, struct slab *slab, uint64_t segment)
{
	CHECK(segment != 0);
	for_each_place(place, slab)
	{
		if (place->state == SLAB_FREE && !list_empty(&place->link))
			space_leave_free(space, place);
		if (place == slab)
			continue;
		place->state = SLAB_COPY;
		place->segment = segment;
	}
	if (slab->pieces == &slab->own && slab->segment == segment) {
		/* A replay: what the table says of it is of the cut or newer, and stays. */
		space_leave_empty(space, slab);
	} else {
		space_forget(space, slab);
		space_set_own(space, slab, segment);
	}
	slab->state = SLAB_OPEN;
	space_mark_dirty(space, slab);
}

/* Takes @slab out of whatever it is a place of. */
static void
detach(struct space *space, struct slab *slab)
{
	struct slab *leader = space_leader(slab);

	if (slab == leader) {
		while (slab->twin)
			detach(space, slab->twin);
		return;
	}
	space_unlink_twin(slab);
	slab->state = SLAB_FREE;
	slab->segment = 0;
	slab->stale = false;
	space_mark_place_dirty(space, slab);
	space_enter_free(space, slab);
}

struct slab *
space_open_places(struct space *space, struct slab **places, unsigned count, uint64_t segment)
{
	struct slab *leader = space_find(space, segment);

	if (!leader || space->copies == 1) {
		leader = places[0];
		detach(space, leader);
		count = space->copies == 1 ? 1 : count;
	}
	for (unsigned i = 0; i < count; i++) {
		struct slab *place = places[i];

		if (place == leader || (place->state == SLAB_COPY && space_leader(place) == leader))
			continue;
		if (place->state != SLAB_FREE) {
			detach(space, place);
			if (place->state != SLAB_FREE) {
				space_forget(space, place);
				place->state = SLAB_FREE;
			}
		}
		if (!list_empty(&place->link))
			space_leave_free(space, place);
		space_link_twin(leader, place);
	}
	space_open_slab(space, leader, segment);
	return leader;
}

void
space_look_empty(struct space *space, struct slab *slab)
{
	if ((slab->state == SLAB_SEALED || slab->state == SLAB_PACKED) && slab->live == 0 &&
	    list_empty(&slab->link))
		enter_empty(space, slab);
	if (MUTANT(SLAB_FREED_EARLY) && !list_empty(&slab->link) && slab->state == SLAB_SEALED) {
		space_forget(space, slab);
		slab->state = SLAB_FREE;
		space_enter_free(space, slab);
	}
}

void
space_seal_slab(struct space *space, struct slab *slab, uint32_t age)
{
	CHECK(slab->state == SLAB_OPEN);
	slab->state = SLAB_SEALED;
	for_each_place(place, slab) place->flags |= SLAB_WRITTEN;
	slab->age = age;
	slab->live_first = slab->live;
	slab->sealed_cut = space->cut;
	space_mark_dirty(space, slab);
	space_look_empty(space, slab);
}

/* --- emptying --- */

/* Nothing that begins at the last cut needs what is dead on the slab. */
bool
space_is_needless(const struct space *space, const struct slab *slab)
{
	return (slab->sealed_cut < space->cut || MUTANT(SEALED_CUT_IGNORED)) &&
	       (slab->node_died_cut < space->cut || MUTANT(NODE_DEATH_IGNORED));
}
uint64_t
space_count_needless(const struct space *space)
{
	uint64_t n = 0;

	list_for_each(node, &space->empty) {
		n += space_is_needless(space, container_of(node, struct slab, link));
	}
	return n;
}

void
space_collect_needless(struct space *space)
{
	list_for_each(node, &space->empty) {
		struct slab *slab = container_of(node, struct slab, link);

		if (!space_is_needless(space, slab))
			continue;
		slab->releasing = true;
		space_mark_dirty(space, slab);
	}
}

void
space_collect_empty(struct space *space)
{
	space->cut++;
	list_for_each(node, &space->empty) {
		struct slab *slab = container_of(node, struct slab, link);

		slab->releasing = true;
		space_mark_dirty(space, slab); /* its table says already that they are free */
	}
}

void
space_release(
    struct space *space, void (*released)(void *context, struct slab *slab), void *context)
{
	list_for_each_safe(node, &space->empty) {
		struct slab *slab = container_of(node, struct slab, link);

		if (!slab->releasing && !MUTANT(SLAB_FREED_AT_CUT))
			continue;
		CHECK(space_is_empty(slab) && slab->live == 0);
		space_forget(space, slab);
		while (slab->twin) {
			struct slab *copy = slab->twin;

			detach(space, copy);
			if (released && !space->devices[copy->device].out)
				released(context, copy);
		}
		slab->state = SLAB_FREE;
		slab->stale = false;
		space_enter_free(space, slab);
		if (released && !space->devices[slab->device].out)
			released(context, slab);
	}
}

static struct slab *
first_unread(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];
	uint32_t mark = device->mark;

	list_for_each(node, &device->free) {
		struct slab *slab = container_of(node, struct slab, link);

		if (slab->readers == 0 || MUTANT(READER_IGNORED))
			return slab;
	}
	if (count_fresh(device) == 0)
		return NULL;
	raise_and_tell(space, index, 0);
	return space_slab(device, mark);
}

struct slab *
space_pick(struct space *space, uint32_t after_device, uint64_t reserve)
{
	struct slab *best = NULL;
	uint64_t best_share = 0;

	if (space->free_count <= reserve)
		return NULL;
	/* Devices take turns, and the fuller ones are passed over, so that all fill up together. */
	for (uint32_t i = 1; i <= space->device_count; i++) {
		uint32_t d = (after_device + i) % space->device_count;
		const struct space_device *device = &space->devices[d];

		if (!space_takes_new(device) || device->free_count == 0)
			continue;
		uint64_t share = (uint64_t)device->free_count * 64 / device->slab_count;

		if (best && share <= best_share)
			continue;
		struct slab *slab = first_unread(space, d);

		if (slab) {
			best = slab;
			best_share = share;
		}
	}
	return best;
}

/* The slabs for @copies copies, of the devices with most free ones; @spread: nearly most, so that
 * each device shares segments with each other one.  False: some is being read. */
static bool
choose_places(
    struct space *space, uint32_t after_device, uint32_t copies, bool spread, struct slab **places)
{
	for (uint32_t n = 0; n < copies; n++) {
		uint64_t best_rank = 0;

		places[n] = NULL;
		for (uint32_t i = 1; i <= space->device_count; i++) {
			uint32_t d = (after_device + i) % space->device_count;
			struct space_device *device = &space->devices[d];
			uint64_t rank = 16ull * device->free_count;
			bool has_one = false;

			for (uint32_t k = 0; k < n; k++)
				has_one |= places[k]->device == d;
			if (has_one || !space_takes_new(device) || device->free_count == 0)
				continue;
			if (spread)
				rank += mix64(space->taken * COPIES_DEVICES_MAX + d) %
					(64 + device->slab_count);
			struct slab *slab = first_unread(space, d);

			if (slab && (!places[n] || rank > best_rank)) {
				places[n] = slab;
				best_rank = rank;
			}
		}
		if (!places[n])
			return false;
	}
	return true;
}

struct slab *
space_take_fewer(struct space *space, uint32_t after_device, uint32_t copies)
{
	struct slab *places[COPIES_MAX] = { NULL };

	CHECK(copies < space_copies_now(space));
	if (!choose_places(space, after_device, copies, false, places))
		return NULL;
	for (uint32_t i = 0; i < copies; i++) {
		space_leave_free(space, places[i]);
		if (i > 0)
			space_link_twin(places[0], places[i]);
	}
	space->taken++;
	return places[0];
}

struct slab *
space_take(struct space *space, uint32_t after_device)
{
	uint32_t copies = space_copies_now(space);
	struct slab *places[COPIES_MAX] = { NULL };
	uint64_t before = space->free_count;

	if (space->copies == 1) {
		places[0] = space_pick(space, after_device, 0);
		if (places[0])
			space_reserve(space, places[0]);
		return places[0];
	}
	/* What is spread must not leave slabs behind that find no partner. */
	for (unsigned attempt = 0; attempt < 2; attempt++) {
		if (before == 0 ||
		    !choose_places(space, after_device, copies, attempt == 0, places))
			return NULL;
		for (uint32_t i = 0; i < copies; i++)
			space_leave_free(space, places[i]);
		if (space->free_count + 1 >= before || attempt == 1)
			break;
		for (uint32_t i = 0; i < copies; i++)
			space_enter_free(space, places[i]);
	}
	for (uint32_t i = 1; i < copies; i++)
		space_link_twin(places[0], places[i]);
	space->taken++;
	return places[0];
}

struct slab *
space_pick_unwritten(struct space *space, uint32_t device_index)
{
	struct space_device *device = &space->devices[device_index];
	struct slab *slab;

	if (device->free_count == device->written_free_count)
		return NULL;
	if (device->free_count - count_fresh(device) == device->written_free_count)
		raise_and_tell(space, device_index, 0);
	slab = list_last(&device->free, struct slab, link);
	return slab->readers == 0 ? slab : NULL;
}

void
space_slab_given_back(struct space *space, struct slab *slab)
{
	if (slab->state != SLAB_FREE || list_empty(&slab->link))
		return;
	space_leave_free(space, slab);
	slab->flags &= (uint8_t)~SLAB_WRITTEN;
	space_enter_free(space, slab);
	space_mark_dirty(space, slab);
}

void
space_hold_device(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	CHECK(device->out || device->free_count == device->slab_count);
	space_hold_fresh(space, device, true);
	for (uint32_t i = 0; i < device->mark; i++)
		space_reserve(space, space_slab(device, i));
}

void
space_unhold_device(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	space_hold_fresh(space, device, false);
	for (uint32_t i = 0; i < device->mark; i++)
		space_unreserve(space, space_slab(device, i));
}

void
space_slab_written(struct space *space, struct slab *slab)
{
	CHECK(slab->state == SLAB_FREE && list_empty(&slab->link));
	slab->flags |= SLAB_WRITTEN;
	space_mark_dirty(space, slab);
}

void
space_reserve(struct space *space, struct slab *slab)
{
	CHECK(slab->state == SLAB_FREE && !list_empty(&slab->link));
	space_leave_free(space, slab);
}

void
space_unreserve(struct space *space, struct slab *slab)
{
	CHECK(slab->state == SLAB_FREE && list_empty(&slab->link));
	while (slab->twin) {
		struct slab *copy = slab->twin;

		space_unlink_twin(copy);
		copy->stale = false;
		space_enter_free(space, copy);
	}
	slab->stale = false;
	space_enter_free(space, slab);
}

static bool
pieces_invariant(const struct space *space, const struct slab *slab)
{
	struct baddr addrs[SLAB_BLOCKS_MAX];
	uint32_t slots[SLAB_BLOCKS_MAX];
	uint32_t n = space_list_live(space, slab, addrs, slots);

	if (n != slab->live)
		return slab->state == SLAB_PACKED && !slab->pieces; /* not loaded yet */
	for (uint32_t i = 0; i < n; i++) {
		uint32_t slot;

		if (space_place(space, addrs[i], &slot) != slab || slot != slots[i])
			return false;
	}
	return true;
}

/* A copy has one leader, and nothing of its own. */
static bool
twins_invariant(const struct slab *copy)
{
	const struct slab *at = copy->twin;

	while (at && at != copy && at->state == SLAB_COPY)
		at = at->twin;
	return at && at != copy && at->segment == copy->segment && copy->live == 0 &&
	       !copy->pieces && list_empty(&copy->link);
}

bool
space_invariant(const struct space *space)
{
	uint64_t live = 0, free_slabs = 0, empty = 0;

	if (space->dying.asked != space->dying.marked)
		return false;
	for (uint32_t d = 0; d < space->device_count; d++) {
		const struct space_device *device = &space->devices[d];
		uint32_t device_free = 0;

		if (device->mark < device->told_mark || device->mark > device->slab_count ||
		    device->span < device->mark)
			return false;
		for (uint32_t i = 0; i < device->mark; i++) {
			const struct slab *slab = space_slab(device, i);

			if (bitmap_count(slab->live_bits, space->slab_blocks) != slab->live)
				return false;
			if ((slab->state == SLAB_FREE) != (slab->segment == 0))
				return false;
			if (slab->held && (slab->state != SLAB_FREE || !list_empty(&slab->link) ||
					      !(device->leaving || device->joining ||
						  device->removed || device->out)))
				return false;
			if (slab->state == SLAB_COPY) {
				if (!twins_invariant(slab))
					return false;
				continue;
			}
			if (slab->state != SLAB_PACKED && slab->segment &&
			    space_find(space, slab->segment) != slab)
				return false;
			if (space_is_empty(slab) !=
			    (slab->live == 0 &&
				(slab->state == SLAB_SEALED || slab->state == SLAB_PACKED)))
				return false;
			if (!pieces_invariant(space, slab))
				return false;
			empty += space_is_empty(slab);
			if (slab->state == SLAB_FREE && !list_empty(&slab->link))
				device_free++;
			live += slab->live;
		}
		device_free += device->present ? count_fresh(device) : 0;
		if (device_free != device->free_count)
			return false;
		free_slabs += device_free;
	}
	if (space->copies == 1 && free_slabs != space->free_count)
		return false;
	return live == space->live_blocks && empty == space->empty_count;
}
