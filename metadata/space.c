/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/space.h"

#include <stdlib.h>

#include "core/base/crc32c.h"
#include "core/base/mutant.h"

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

		for (uint32_t k = 0; k < device->slab_count; k++)
			if (device->slabs[k].pieces != &device->slabs[k].own)
				free(device->slabs[k].pieces);
		free(device->slabs);
		free(device->bits);
		free(device->page_place);
		free(device->page_checkpoint);
		free(device->page_dirty);
	}
	table_fini(&space->segments);
	table_fini(&space->numbers);
}

/* --- copies --- */

/* Whether new slabs of the device may be opened. */
static bool
takes_new(const struct space_device *device)
{
	return device->present && !device->out && !device->leaving && !device->joining;
}

uint32_t
space_copies_now(const struct space *space)
{
	uint32_t devices = 0;

	if (space->copies == 1)
		return 1;
	for (uint32_t i = 0; i < space->device_count; i++)
		devices += takes_new(&space->devices[i]);
	return (uint32_t)max_u64(1, min_u64(devices, space->copies));
}

/* How many times @copies of them can be had, each from another device, if there are @counts. */
static uint64_t
count_groups(const uint64_t *counts, uint32_t device_count, uint32_t copies)
{
	uint64_t largest[COPIES_MAX] = { 0 }; /* in falling order */
	uint64_t sum = 0, groups;

	for (uint32_t i = 0; i < device_count; i++) {
		uint64_t count = counts[i];

		sum += count;
		for (uint32_t k = 0; k < copies; k++) {
			uint64_t smaller = min_u64(count, largest[k]);

			largest[k] = max_u64(count, largest[k]);
			count = smaller;
		}
	}
	/* Each group takes at most one from a device: however many of the largest are left aside,
	 * the others must have the rest. */
	groups = sum / copies;
	for (uint32_t k = 0; k + 1 < copies; k++) {
		sum -= largest[k];
		groups = min_u64(groups, sum / (copies - 1 - k));
	}
	return groups;
}

uint64_t
space_count_free(const struct space *space, uint32_t copies)
{
	uint64_t counts[POOL_DEVICES_MAX];

	for (uint32_t i = 0; i < space->device_count; i++) {
		const struct space_device *device = &space->devices[i];

		counts[i] = takes_new(device) ? device->free_count : 0;
	}
	return count_groups(counts, space->device_count, copies);
}

static void
count_free(struct space *space)
{
	uint64_t all[POOL_DEVICES_MAX];

	for (uint32_t i = 0; i < space->device_count; i++) {
		const struct space_device *device = &space->devices[i];

		all[i] = takes_new(device) ? device->slab_count : 0;
	}
	space->free_count = space_count_free(space, space_copies_now(space));
	space->slab_count = count_groups(all, space->device_count, space_copies_now(space));
}

/* Goes once round the ring, from @leader on. */
#define for_each_place(place, leader)                                    \
	for (struct slab *place = (leader), *end_ = NULL; place != end_; \
	     end_ = (leader), place = place->twin ? place->twin : (leader))

static void
link_twin(struct slab *leader, struct slab *copy)
{
	CHECK(!copy->twin && copy != leader);
	copy->twin = leader->twin ? leader->twin : leader;
	leader->twin = copy;
}

static void
unlink_twin(struct slab *slab)
{
	struct slab *before = slab->twin;

	if (!before)
		return;
	while (before->twin != slab)
		before = before->twin;
	before->twin = slab->twin == before ? NULL : slab->twin;
	slab->twin = NULL;
}

unsigned
space_places(const struct space *space, struct slab *leader, struct slab **places)
{
	unsigned n = 0;

	for_each_place(place, leader)
	{
		if (space_place_counts(space, place) && n < COPIES_MAX)
			places[n++] = place;
	}
	return n;
}

unsigned
space_name_places(const struct space *space, struct slab *leader, uint32_t *device, uint32_t *slab,
    struct slab_place *others)
{
	struct slab *places[COPIES_MAX];
	unsigned count = space_places(space, leader, places);

	CHECK(count > 0);
	*device = places[0]->device;
	*slab = places[0]->index;
	for (unsigned i = 1; i < COPIES_MAX; i++)
		others[i - 1] = i < count
				    ? (struct slab_place){ places[i]->device, places[i]->index }
				    : (struct slab_place){ BATCH_NO_SLAB, BATCH_NO_SLAB };
	return count - 1;
}

static uint64_t
page_digest(uint32_t device, uint32_t page, uint64_t checkpoint)
{
	if (checkpoint == 0)
		return 0; /* as if it were not there */
	return mix64(mix64((uint64_t)device << 32 | page) + checkpoint);
}

static uint32_t
slab_room(const struct space *space, uint64_t slabs_block, uint32_t slab_count)
{
	uint64_t pages =
	    slabs_block > FORMAT_TABLE_BLOCK ? (slabs_block - FORMAT_TABLE_BLOCK) / 2 : 0;
	uint64_t room =
	    min_u64(pages * table_records_per_page(space->slab_blocks), 4ull * slab_count);

	return (uint32_t)max_u64(slab_count, room);
}

static void
init_slab(struct space *space, uint32_t device_index, uint32_t i)
{
	struct space_device *device = &space->devices[device_index];
	struct slab *slab = &device->slabs[i];

	slab->device = device_index;
	slab->index = i;
	slab->live_bits = device->bits + (size_t)i * (space->slab_blocks / 64);
	list_init(&slab->link);
}

void
space_add_device(struct space *space, uint32_t index, const struct uuid *uuid, uint64_t slabs_block,
    uint32_t slab_count)
{
	struct space_device *device = &space->devices[index];
	uint32_t words = space->slab_blocks / 64;

	CHECK(index < POOL_DEVICES_MAX && !device->present);
	device->present = true;
	device->uuid = *uuid;
	device->slabs_block = slabs_block;
	device->slab_count = slab_count;
	device->slab_room = slab_room(space, slabs_block, slab_count);
	/* What it may grow to takes no memory before it does. */
	device->slabs = xcalloc(device->slab_room, sizeof(struct slab));
	device->bits = xcalloc((size_t)device->slab_room * words, sizeof(uint64_t));
	list_init(&device->free);
	for (uint32_t i = 0; i < slab_count; i++) {
		init_slab(space, index, i);
		list_push_back(&device->free, &device->slabs[i].link);
	}
	device->free_count = slab_count;
	device->page_count =
	    (uint32_t)div_round_up(slab_count, table_records_per_page(space->slab_blocks));
	device->page_place = xcalloc(device->page_count, 1);
	device->page_checkpoint = xcalloc(device->page_count, sizeof(uint64_t));
	device->page_dirty = xcalloc(BITMAP_WORDS(device->page_count), sizeof(uint64_t));
	for (uint32_t page = 0; page < device->page_count; page++)
		bitmap_set(device->page_dirty, page);
	space->place_count += slab_count;
	if (index >= space->device_count)
		space->device_count = index + 1;
	if (space->copies > 1) {
		count_free(space);
		return;
	}
	space->slab_count += slab_count;
	space->free_count += slab_count;
}

static void
set_page_version(struct space *space, uint32_t index, uint32_t page, uint64_t checkpoint)
{
	struct space_device *device = &space->devices[index];
	uint64_t change = page_digest(index, page, checkpoint) -
			  page_digest(index, page, device->page_checkpoint[page]);

	device->digest += change;
	space->table_digest += change;
	device->page_checkpoint[page] = checkpoint;
}

/* Of this slab alone; of a leader whose twins' records stay as they are. */
static void
mark_place_dirty(struct space *space, const struct slab *slab)
{
	bitmap_set(space->devices[slab->device].page_dirty,
	    slab->index / table_records_per_page(space->slab_blocks));
}

static void
mark_dirty(struct space *space, struct slab *slab)
{
	for_each_place(place, slab) mark_place_dirty(space, place);
}

static void
leave_free(struct space *space, struct slab *slab)
{
	struct space_device *device = &space->devices[slab->device];

	list_remove(&slab->link);
	device->free_count--;
	device->written_free_count -= slab->flags & SLAB_WRITTEN;
	if (space->copies > 1)
		count_free(space);
	else
		space->free_count--;
}

static void
enter_free(struct space *space, struct slab *slab)
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
		count_free(space);
	else
		space->free_count++;
}

void
space_grow_device(struct space *space, uint32_t index, uint32_t slab_count)
{
	struct space_device *device = &space->devices[index];
	uint32_t old_count = device->slab_count, old_pages = device->page_count;
	uint32_t pages =
	    (uint32_t)div_round_up(slab_count, table_records_per_page(space->slab_blocks));
	size_t words = BITMAP_WORDS(pages), old_words = BITMAP_WORDS(old_pages);

	CHECK(slab_count >= old_count && slab_count <= device->slab_room);
	device->page_place = xrealloc(device->page_place, pages);
	device->page_checkpoint =
	    xrealloc(device->page_checkpoint, pages * sizeof(*device->page_checkpoint));
	device->page_dirty = xrealloc(device->page_dirty, words * sizeof(*device->page_dirty));
	memset(device->page_dirty + old_words, 0, (words - old_words) * sizeof(uint64_t));
	for (uint32_t page = old_pages; page < pages; page++) {
		device->page_place[page] = 0;
		device->page_checkpoint[page] = 0;
	}
	device->page_count = pages;
	device->slab_count = slab_count;
	space->place_count += slab_count - old_count;
	for (uint32_t i = old_count; i < slab_count; i++) {
		init_slab(space, index, i);
		enter_free(space, &device->slabs[i]);
	}
	count_free(space);
}

static void
enter_empty(struct space *space, struct slab *slab)
{
	list_push_back(&space->empty, &slab->link);
	space->empty_count++;
}

static bool
is_empty(const struct slab *slab)
{
	return (slab->state == SLAB_SEALED || slab->state == SLAB_PACKED) &&
	       !list_empty(&slab->link);
}

static void
leave_empty(struct space *space, struct slab *slab)
{
	if (!is_empty(slab))
		return;
	list_remove(&slab->link);
	space->empty_count--;
	slab->releasing = false;
}

/* --- pieces --- */

static void
enter_piece(struct space *space, struct space_piece *piece)
{
	piece->next = table_get(&space->segments, piece->segment);
	table_set(&space->segments, piece->segment, piece);
}

static void
leave_piece(struct space *space, struct space_piece *piece)
{
	struct space_piece *before = table_get(&space->segments, piece->segment);

	if (before == piece) {
		if (piece->next)
			table_set(&space->segments, piece->segment, piece->next);
		else
			table_remove(&space->segments, piece->segment);
		return;
	}
	while (before->next != piece)
		before = before->next;
	before->next = piece->next;
}

static void
set_own(struct space *space, struct slab *slab, uint64_t segment)
{
	slab->segment = segment;
	slab->own =
	    (struct space_piece){ .segment = segment, .slab = slab, .count = space->slab_blocks };
	slab->pieces = &slab->own;
	slab->piece_count = 1;
	enter_piece(space, &slab->own);
}

/* Copies @bytes of a view to *at. */
static const void *
keep_set(uint8_t **at, const void *set, uint32_t bytes)
{
	void *kept = memcpy(*at, set, bytes);

	*at += bytes;
	return kept;
}

/* Takes over the pieces that @reader has; their slots are in the same memory. */
static void
set_pieces(struct space *space, struct slab *slab, const struct packed_reader *reader)
{
	struct packed_reader measure = *reader, copy = *reader;
	uint64_t scattered[BITMAP_WORDS(SLAB_BLOCKS_MAX)];
	bool any = packed_scattered(reader, scattered);
	struct packed_view view;
	size_t bytes = reader->piece_count * sizeof(struct space_piece);
	uint8_t *at;

	while (packed_next(&measure, &view))
		bytes += (view.places ? 2 : 1) * packed_slots_bytes(view.count, space->slab_blocks);
	slab->pieces = xmalloc(bytes + (any ? space->slab_blocks / 8 : 0));
	slab->piece_count = 0;
	at = (uint8_t *)(slab->pieces + reader->piece_count);
	slab->scattered = any ? keep_set(&at, scattered, space->slab_blocks / 8) : NULL;
	while (packed_next(&copy, &view)) {
		uint32_t set_bytes = packed_slots_bytes(view.count, space->slab_blocks);
		struct space_piece *piece = &slab->pieces[slab->piece_count++];

		*piece = (struct space_piece){
			.segment = view.segment,
			.slab = slab,
			.first = view.first,
			.count = view.count,
			.slots = keep_set(&at, view.slots, set_bytes),
			.places = view.places ? keep_set(&at, view.places, set_bytes) : NULL,
		};
		enter_piece(space, piece);
	}
}

static void
drop_pieces(struct space *space, struct slab *slab)
{
	for (uint32_t i = 0; i < slab->piece_count; i++)
		leave_piece(space, &slab->pieces[i]);
	if (slab->pieces != &slab->own)
		free(slab->pieces);
	slab->pieces = NULL;
	slab->scattered = NULL;
	slab->piece_count = 0;
}

/* Where @slot of its segment lies on the piece's slab; -1: not there. */
static int64_t
slot_in(const struct space *space, const struct space_piece *piece, uint32_t slot)
{
	int32_t rank;
	int64_t at;

	if (!piece->slots)
		return slot;
	rank = packed_rank(piece->slots, piece->count, space->slab_blocks, slot);
	if (rank < 0)
		return -1;
	if (piece->places)
		return packed_nth(piece->places, piece->count, space->slab_blocks, (uint32_t)rank);
	at = (int64_t)piece->first + rank;
	return piece->slab->scattered && bitmap_test(piece->slab->scattered, (uint64_t)at) ? -1
											   : at;
}

/* As packed_places(). */
static void
list_places(const struct space *space, const struct space_piece *piece, uint16_t *places)
{
	const struct packed_view view = {
		.first = piece->first,
		.count = piece->count,
		.places = piece->places,
	};

	packed_places(&view, piece->slab->scattered, space->slab_blocks, places);
}

/* The piece where @addr is live, or one where it was: where the log wrote it, if it is still there,
 * as a replay marks it live there. */
static const struct space_piece *
find_piece(const struct space *space, struct baddr addr, uint32_t *slot)
{
	const struct space_piece *dead = NULL;

	if (baddr_slot(addr) >= space->slab_blocks)
		return NULL;
	for (const struct space_piece *piece = table_get(&space->segments, baddr_segment(addr));
	     piece; piece = piece->next) {
		int64_t at = slot_in(space, piece, baddr_slot(addr));

		if (at < 0)
			continue;
		if (bitmap_test(piece->slab->live_bits, (uint64_t)at)) {
			*slot = (uint32_t)at;
			return piece;
		}
		if (!dead || !piece->slots) {
			*slot = (uint32_t)at;
			dead = piece;
		}
	}
	return dead;
}

struct slab *
space_find(const struct space *space, uint64_t segment)
{
	for (const struct space_piece *piece = table_get(&space->segments, segment); piece;
	     piece = piece->next)
		if (!piece->slots)
			return piece->slab;
	return NULL;
}

struct slab *
space_place(const struct space *space, struct baddr addr, uint32_t *slot)
{
	const struct space_piece *piece = find_piece(space, addr, slot);

	return piece ? piece->slab : NULL;
}

uint32_t
space_run(const struct space *space, struct baddr addr, uint32_t count)
{
	uint32_t slot;
	const struct space_piece *piece = find_piece(space, addr, &slot);
	uint32_t n = 1;

	while (piece && n < count && baddr_slot(addr) + n < space->slab_blocks &&
	       slot + n < space->slab_blocks && bitmap_test(piece->slab->live_bits, slot + n) &&
	       slot_in(space, piece, baddr_slot(addr) + n) == slot + n)
		n++;
	return n;
}

/* Forgets what lay on @slab and what was live of it; it is in no list afterwards. */
static void
forget(struct space *space, struct slab *slab)
{
	drop_pieces(space, slab);
	slab->directory_blocks = 0;
	slab->filled_segment = 0;
	leave_empty(space, slab);
	list_remove(&slab->link);
	slab->releasing = false;
	slab->stuck = false;
	slab->sealed_cut = 0;
	slab->node_died_cut = 0;
	space->live_blocks -= slab->live;
	slab->live = 0;
	memset(slab->live_bits, 0, space->slab_blocks / 8);
	slab->segment = 0;
}

void
space_open_slab(struct space *space, struct slab *slab, uint64_t segment)
{
	CHECK(segment != 0);
	for_each_place(place, slab)
	{
		if (place->state == SLAB_FREE && !list_empty(&place->link))
			leave_free(space, place);
		if (place == slab)
			continue;
		place->state = SLAB_COPY;
		place->segment = segment;
	}
	if (slab->pieces == &slab->own && slab->segment == segment) {
		/* A replay: what the table says of it is of the cut or newer, and stays. */
		leave_empty(space, slab);
	} else {
		forget(space, slab);
		set_own(space, slab, segment);
	}
	slab->state = SLAB_OPEN;
	mark_dirty(space, slab);
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
	unlink_twin(slab);
	slab->state = SLAB_FREE;
	slab->segment = 0;
	slab->stale = false;
	mark_place_dirty(space, slab);
	enter_free(space, slab);
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
				forget(space, place);
				place->state = SLAB_FREE;
			}
		}
		if (!list_empty(&place->link))
			leave_free(space, place);
		link_twin(leader, place);
	}
	space_open_slab(space, leader, segment);
	return leader;
}

static void
look_empty(struct space *space, struct slab *slab)
{
	if ((slab->state == SLAB_SEALED || slab->state == SLAB_PACKED) && slab->live == 0 &&
	    list_empty(&slab->link))
		enter_empty(space, slab);
	if (MUTANT(SLAB_FREED_EARLY) && !list_empty(&slab->link) && slab->state == SLAB_SEALED) {
		forget(space, slab);
		slab->state = SLAB_FREE;
		enter_free(space, slab);
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
	mark_dirty(space, slab);
	look_empty(space, slab);
}

static void
set_live(struct space *space, struct slab *slab, uint32_t slot)
{
	if (!bitmap_set(slab->live_bits, slot))
		return;
	slab->live++;
	space->live_blocks++;
	leave_empty(space, slab);
	mark_dirty(space, slab);
}

static void
set_dead(struct space *space, struct slab *slab, uint32_t slot)
{
	if (!bitmap_clear(slab->live_bits, slot))
		return;
	slab->live--;
	space->live_blocks--;
	space->deaths++;
	mark_dirty(space, slab);
	look_empty(space, slab);
}

void
space_mark_live(struct space *space, struct baddr addr)
{
	uint32_t slot;
	const struct space_piece *piece = find_piece(space, addr, &slot);

	CHECK(piece);
	if (!piece->slots)
		set_live(space, piece->slab, slot);
}

void
space_mark_node_dead(struct space *space, struct baddr addr)
{
	uint32_t slot;
	const struct space_piece *piece = find_piece(space, addr, &slot);

	if (!piece)
		return;
	piece->slab->node_died_cut = space->cut;
	set_dead(space, piece->slab, slot);
}

void
space_mark_dead(struct space *space, struct baddr addr)
{
	uint32_t slot;
	const struct space_piece *piece = find_piece(space, addr, &slot);

	if (piece)
		set_dead(space, piece->slab, slot);
}

void
space_set_slot(struct space *space, struct slab *slab, uint32_t slot, bool live)
{
	if (live)
		set_live(space, slab, slot);
	else
		set_dead(space, slab, slot);
}

bool
space_is_live(const struct space *space, struct baddr addr)
{
	uint32_t slot;
	const struct space_piece *piece = find_piece(space, addr, &slot);

	return piece && bitmap_test(piece->slab->live_bits, slot);
}

/* --- relocation --- */

/* Nothing that begins at the last cut needs what is dead on the slab. */
static bool
is_needless(const struct space *space, const struct slab *slab)
{
	return (slab->sealed_cut < space->cut || MUTANT(SEALED_CUT_IGNORED)) &&
	       (slab->node_died_cut < space->cut || MUTANT(NODE_DEATH_IGNORED));
}

uint32_t
space_list_live(
    const struct space *space, const struct slab *slab, struct baddr *addrs, uint32_t *slots)
{
	uint16_t list[SLAB_BLOCKS_MAX], places[SLAB_BLOCKS_MAX];
	uint32_t n = 0;

	for (uint32_t i = 0; i < slab->piece_count; i++) {
		const struct space_piece *piece = &slab->pieces[i];

		if (piece->slots)
			packed_list(piece->slots, piece->count, space->slab_blocks, list);
		list_places(space, piece, places);
		for (uint32_t k = 0; k < piece->count; k++) {
			if (places[k] == PACKED_NOWHERE || !bitmap_test(slab->live_bits, places[k]))
				continue;
			addrs[n] = baddr_make(piece->segment, piece->slots ? list[k] : k);
			slots[n++] = places[k];
		}
	}
	return n;
}

static void
become_packed(struct space *space, struct slab *slab, uint64_t number, uint32_t directory_blocks,
    uint32_t age)
{
	CHECK(slab->state == SLAB_FREE && list_empty(&slab->link) && slab->live == 0);
	for_each_place(place, slab)
	{
		place->segment = number;
		place->state = place == slab ? SLAB_PACKED : SLAB_COPY;
		place->flags |= SLAB_WRITTEN;
	}
	slab->age = age;
	slab->directory_blocks = (uint16_t)directory_blocks;
	mark_dirty(space, slab);
}

/* @addr, which lies elsewhere, is moved; false: it died meanwhile. */
static bool
leave_place(struct space *space, struct baddr addr)
{
	uint32_t slot;
	const struct space_piece *old = find_piece(space, addr, &slot);

	if (!old || !bitmap_test(old->slab->live_bits, slot))
		return false;
	if (!MUTANT(MOVED_LIVE_TWICE))
		set_dead(space, old->slab, slot);
	if (old->slab->live_first > old->slab->live)
		old->slab->live_first--; /* it did not die */
	return true;
}

void
space_pack(struct space *space, struct slab *slab, uint64_t number, uint32_t directory_blocks,
    struct packed_reader *reader, uint32_t age)
{
	struct packed_reader moved = *reader;
	struct packed_view view;
	uint16_t list[SLAB_BLOCKS_MAX];

	become_packed(space, slab, number, directory_blocks, age);
	while (packed_next(&moved, &view)) {
		packed_list(view.slots, view.count, space->slab_blocks, list);
		for (uint32_t k = 0; k < view.count; k++)
			if (leave_place(space, baddr_make(view.segment, list[k])) ||
			    MUTANT(DEAD_MOVED_LIVE))
				set_live(space, slab, view.first + k);
	}
	set_pieces(space, slab, reader);
	slab->live_first = slab->live;
	slab->sealed_cut = space->cut;
	look_empty(space, slab);
}

bool
space_may_plug(const struct space *space, const struct slab *slab, bool cut)
{
	return slab->state == SLAB_PACKED && slab->live > 0 && slab->live < space->slab_blocks &&
	       !slab->stuck && !slab->releasing &&
	       (cut || is_needless(space, slab) || MUTANT(PLUGGED_EARLY));
}

void
space_begin_plugging(struct space *space, struct slab *slab)
{
	CHECK(slab->state == SLAB_PACKED);
	slab->plugging = true;
	for_each_place(place, slab)
	{
		if (space_place_counts(space, place) || MUTANT(PLUGGED_ELSEWHERE))
			continue;
		place->stale = true;
		mark_place_dirty(space, place);
	}
}

void
space_plug(struct space *space, struct slab *slab, const struct packed_reader *reader,
    const struct packed_block *blocks, const uint16_t *places, uint32_t count, uint32_t age)
{
	uint64_t live[BITMAP_WORDS(SLAB_BLOCKS_MAX)] = { 0 };

	CHECK(slab->state == SLAB_PACKED && slab->live > 0 && !slab->releasing);
	for (uint32_t i = 0; i < count; i++) {
		CHECK(!bitmap_test(slab->live_bits, places[i]));
		if (leave_place(space, blocks[i].addr))
			bitmap_set(live, places[i]);
	}
	drop_pieces(space, slab);
	set_pieces(space, slab, reader);
	for (uint32_t i = 0; i < count; i++)
		if (bitmap_test(live, places[i]))
			set_live(space, slab, places[i]);
	slab->age = age;
	slab->live_first = slab->live;
	slab->sealed_cut = space->cut;
	mark_dirty(space, slab);
}

void
space_restore_packed(struct space *space, struct slab *slab, uint64_t number,
    uint32_t directory_blocks, const struct packed_reader *reader, uint32_t age)
{
	space_reserve(space, slab);
	become_packed(space, slab, number, directory_blocks, age);
	set_pieces(space, slab, reader);
	look_empty(space, slab);
}

/* Whether a live block of @piece is live in a piece behind it, too. */
static bool
is_live_twice(const struct space *space, const struct space_piece *piece, const uint16_t *list,
    const uint16_t *places)
{
	for (uint32_t k = 0; k < piece->count; k++) {
		if (places[k] == PACKED_NOWHERE || !bitmap_test(piece->slab->live_bits, places[k]))
			continue;
		for (const struct space_piece *other = piece->next; other; other = other->next) {
			int64_t at = slot_in(space, other, list[k]);

			if (at >= 0 && bitmap_test(other->slab->live_bits, (uint64_t)at))
				return true;
		}
	}
	return false;
}

int
space_load_pieces(
    struct space *space, struct slab *slab, struct packed_reader *reader, struct error *error)
{
	uint64_t listed[BITMAP_WORDS(SLAB_BLOCKS_MAX)] = { 0 };

	CHECK(slab->state == SLAB_PACKED && !slab->pieces);
	set_pieces(space, slab, reader);
	for (uint32_t i = 0; i < slab->piece_count; i++) {
		const struct space_piece *piece = &slab->pieces[i];
		uint16_t list[SLAB_BLOCKS_MAX], places[SLAB_BLOCKS_MAX];

		list_places(space, piece, places);
		for (uint32_t k = 0; k < piece->count; k++)
			if (places[k] != PACKED_NOWHERE)
				bitmap_set(listed, places[k]);
		if (!piece->next)
			continue;
		packed_list(piece->slots, piece->count, space->slab_blocks, list);
		if (is_live_twice(space, piece, list, places))
			return error_set(error, -EUCLEAN,
			    "a block of segment %llu is live at two places",
			    (unsigned long long)piece->segment);
	}
	for (uint32_t slot = 0; slot < space->slab_blocks; slot++)
		if (bitmap_test(slab->live_bits, slot) && !bitmap_test(listed, slot))
			return error_set(error, -EUCLEAN,
			    "slot %u of packed slab %u of device %u is live, but its directory "
			    "does not have it",
			    slot, slab->index, slab->device);
	return 0;
}

/* --- emptying --- */

uint64_t
space_count_needless(const struct space *space)
{
	uint64_t n = 0;

	list_for_each(node, &space->empty) {
		n += is_needless(space, container_of(node, struct slab, link));
	}
	return n;
}

void
space_collect_needless(struct space *space)
{
	list_for_each(node, &space->empty) {
		struct slab *slab = container_of(node, struct slab, link);

		if (!is_needless(space, slab))
			continue;
		slab->releasing = true;
		mark_dirty(space, slab);
	}
}

void
space_collect_empty(struct space *space)
{
	space->cut++;
	list_for_each(node, &space->empty) {
		struct slab *slab = container_of(node, struct slab, link);

		slab->releasing = true;
		mark_dirty(space, slab); /* its table says already that they are free */
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
		CHECK(is_empty(slab) && slab->live == 0);
		forget(space, slab);
		while (slab->twin) {
			struct slab *copy = slab->twin;

			detach(space, copy);
			if (released && !space->devices[copy->device].out)
				released(context, copy);
		}
		slab->state = SLAB_FREE;
		slab->stale = false;
		enter_free(space, slab);
		if (released && !space->devices[slab->device].out)
			released(context, slab);
	}
}

static struct slab *
first_unread(struct space_device *device)
{
	list_for_each(node, &device->free) {
		struct slab *slab = container_of(node, struct slab, link);

		if (slab->readers == 0 || MUTANT(READER_IGNORED))
			return slab;
	}
	return NULL;
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
		struct space_device *device =
		    &space->devices[(after_device + i) % space->device_count];

		if (!takes_new(device) || device->free_count == 0)
			continue;
		uint64_t share = (uint64_t)device->free_count * 64 / device->slab_count;

		if (best && share <= best_share)
			continue;
		struct slab *slab = first_unread(device);

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
			if (has_one || !takes_new(device) || device->free_count == 0)
				continue;
			if (spread)
				rank += mix64(space->taken * COPIES_DEVICES_MAX + d) %
					(64 + device->slab_count);
			struct slab *slab = first_unread(device);

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
		leave_free(space, places[i]);
		if (i > 0)
			link_twin(places[0], places[i]);
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
			leave_free(space, places[i]);
		if (space->free_count + 1 >= before || attempt == 1)
			break;
		for (uint32_t i = 0; i < copies; i++)
			enter_free(space, places[i]);
	}
	for (uint32_t i = 1; i < copies; i++)
		link_twin(places[0], places[i]);
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
	slab = list_last(&device->free, struct slab, link);
	return slab->readers == 0 ? slab : NULL;
}

void
space_slab_given_back(struct space *space, struct slab *slab)
{
	if (slab->state != SLAB_FREE || list_empty(&slab->link))
		return;
	leave_free(space, slab);
	slab->flags &= (uint8_t)~SLAB_WRITTEN;
	enter_free(space, slab);
	mark_dirty(space, slab);
}

void
space_hold_device(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	CHECK(device->out || device->free_count == device->slab_count);
	for (uint32_t i = 0; i < device->slab_count; i++)
		space_reserve(space, &device->slabs[i]);
}

void
space_unhold_device(struct space *space, uint32_t index)
{
	for (uint32_t i = 0; i < space->devices[index].slab_count; i++)
		space_unreserve(space, &space->devices[index].slabs[i]);
}

void
space_slab_written(struct space *space, struct slab *slab)
{
	CHECK(slab->state == SLAB_FREE && list_empty(&slab->link));
	slab->flags |= SLAB_WRITTEN;
	mark_dirty(space, slab);
}

void
space_reserve(struct space *space, struct slab *slab)
{
	CHECK(slab->state == SLAB_FREE && !list_empty(&slab->link));
	leave_free(space, slab);
}

void
space_unreserve(struct space *space, struct slab *slab)
{
	CHECK(slab->state == SLAB_FREE && list_empty(&slab->link));
	while (slab->twin) {
		struct slab *copy = slab->twin;

		unlink_twin(copy);
		copy->stale = false;
		enter_free(space, copy);
	}
	slab->stale = false;
	enter_free(space, slab);
}

/* --- devices that are left out --- */

static unsigned
count_places(const struct space *space, struct slab *leader, uint32_t but_of)
{
	struct slab *places[COPIES_MAX];
	unsigned count = space_places(space, leader, places), n = 0;

	for (unsigned i = 0; i < count; i++)
		n += places[i]->device != but_of;
	return n;
}

/* Whether what lies at @leader can be used without device @index. */
static bool
lies_elsewhere(const struct space *space, struct slab *leader, uint32_t index)
{
	for_each_place(place, leader)
	{
		const struct space_device *device = &space->devices[place->device];

		if (place->device != index &&
		    (space_place_counts(space, place) ||
			(MUTANT(JOINING_RELIED_ON) && device->joining && !place->stale)))
			return true;
	}
	return false;
}

bool
space_can_leave_out(const struct space *space, uint32_t index)
{
	const struct space_device *device = &space->devices[index];
	bool others = false;

	for (uint32_t i = 0; i < space->device_count; i++)
		others |= i != index && space->devices[i].present && !space->devices[i].out &&
			  !space->devices[i].joining;
	for (uint32_t i = 0; others && i < device->slab_count; i++) {
		struct slab *slab = &device->slabs[i];

		if ((slab->state != SLAB_FREE || slab->twin) && !slab->stale &&
		    !lies_elsewhere(space, space_leader(slab), index))
			return false;
	}
	return others && space->copies > 1;
}

void
space_leave_out(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	for (uint32_t i = 0; i < device->slab_count; i++) {
		struct slab *slab = &device->slabs[i];

		if (slab->state == SLAB_FREE && !list_empty(&slab->link))
			leave_free(space, slab);
		slab->stale = slab->twin != NULL;
		slab->held &= device->leaving;
	}
	device->joining = false;
	device->out = true;
	count_free(space);
}

uint32_t
space_copies_min(const struct space *space)
{
	uint32_t least = space_copies_now(space);

	for (uint32_t d = 0; least > 1 && d < space->device_count; d++) {
		for (uint32_t i = 0; i < space->devices[d].slab_count; i++) {
			struct slab *slab = &space->devices[d].slabs[i];

			/* Also of what the log has named, and goes to next. */
			if ((slab->state != SLAB_FREE || (slab->twin && !MUTANT(NAMED_NOT_TOLD))) &&
			    slab->state != SLAB_COPY)
				least =
				    (uint32_t)min_u64(least, count_places(space, slab, UINT32_MAX));
		}
	}
	return least;
}

uint64_t
space_count_degraded(const struct space *space)
{
	uint64_t n = 0;

	for (uint32_t d = 0; space->copies > 1 && d < space->device_count; d++) {
		for (uint32_t i = 0; i < space->devices[d].slab_count; i++) {
			struct slab *slab = &space->devices[d].slabs[i];

			n += slab->state != SLAB_FREE && slab->state != SLAB_COPY &&
			     slab->live > 0 &&
			     count_places(space, slab, UINT32_MAX) < space->copies;
		}
	}
	return n;
}

/* --- devices that come back --- */

/* All PACKED slabs by their numbers, which are no addresses. */
static void
number_packed(const struct space *space, struct table *numbers)
{
	table_init(numbers);
	for (uint32_t d = 0; d < space->device_count; d++)
		for (uint32_t i = 0; i < space->devices[d].slab_count; i++) {
			struct slab *slab = &space->devices[d].slabs[i];

			if (slab->state == SLAB_PACKED)
				table_set(numbers, slab->segment, slab);
		}
}

/* Whether the PACKED @leader is as it was when the table had it as @was: nothing was put into its
 * holes, nor is just now.  What takes the place of a block that died shows by its age: it waits for
 * a table that has that block as dead. */
static bool
is_as_it_was(const struct space *space, const struct slab *leader, const struct slab *was)
{
	if (MUTANT(PLUGGED_ELSEWHERE))
		return true;
	if (leader->plugging || was->stuck || leader->age != was->age)
		return false;
	for (uint32_t word = 0; word < space->slab_blocks / 64; word++)
		if (leader->live_bits[word] & ~was->live_bits[word])
			return false;
	return true;
}

/* The leader of what its own table says that @slab holds, all of it; NULL: that is gone, lies on
 * enough devices, or may lack something here. */
static struct slab *
find_missed(const struct space *space, const struct table *numbers, const struct slab *slab,
    const struct slab *was)
{
	struct slab *leader = NULL;
	uint8_t state = was->state;

	if (state == SLAB_OPEN && MUTANT(OPEN_TAKEN_OVER))
		state = SLAB_SEALED;
	if (state == SLAB_SEALED)
		leader = space_find(space, was->segment);
	else if (state == SLAB_PACKED)
		leader = table_get(numbers, was->segment);
	if (leader && state == SLAB_PACKED && !is_as_it_was(space, leader, was))
		return NULL;
	if (!leader || leader->state != state ||
	    leader->directory_blocks != was->directory_blocks || leader->live == 0 ||
	    leader->releasing || count_places(space, leader, UINT32_MAX) >= space->copies)
		return NULL;
	for_each_place(place, leader)
	{
		if (place->device == slab->device && place != slab)
			return NULL;
	}
	return leader;
}

/* True: @slab is a place of @leader that has all there is. */
static bool
take_over(struct slab *leader, struct slab *slab)
{
	if (slab->state != SLAB_FREE && space_leader(slab) == leader) {
		slab->stale = false;
		return true;
	}
	if (slab->state != SLAB_FREE || slab->twin)
		return false; /* it is meant for something else */
	link_twin(leader, slab);
	slab->state = SLAB_COPY;
	slab->segment = leader->segment;
	slab->flags |= SLAB_WRITTEN;
	slab->held = false;
	return true;
}

/* The pages as they are on the device; all are to be written, each to its older place. */
static void
take_pages(struct space *space, uint32_t index, const struct space_device *was)
{
	struct space_device *device = &space->devices[index];

	CHECK(device->page_count == was->page_count);
	for (uint32_t page = 0; page < device->page_count; page++) {
		device->page_place[page] = was->page_place[page];
		set_page_version(space, index, page, was->page_checkpoint[page]);
		bitmap_set(device->page_dirty, page);
	}
}

uint32_t
space_rejoin(struct space *space, uint32_t index, const struct space *was, bool trusted)
{
	struct space_device *device = &space->devices[index];
	const struct space_device *old = &was->devices[index];
	struct table numbers;
	uint32_t taken = 0;

	CHECK(space->copies > 1 && device->out && !device->removed && !device->leaving);
	if (!device->present) {
		space_add_device(space, index, &old->uuid, old->slabs_block, old->slab_count);
		for (uint32_t i = 0; i < device->slab_count; i++)
			leave_free(space, &device->slabs[i]);
	} else if (old->slab_count > device->slab_count) {
		space_grow_device(space, index, old->slab_count);
	}
	CHECK(device->slab_count == old->slab_count && device->slabs_block == old->slabs_block);
	device->out = false;
	device->joining = true;
	take_pages(space, index, old);
	number_packed(space, &numbers);
	for (uint32_t i = 0; i < device->slab_count; i++) {
		struct slab *slab = &device->slabs[i], *leader = NULL;

		CHECK(slab->readers == 0 && (slab->state != SLAB_FREE || list_empty(&slab->link)));
		slab->held = slab->state == SLAB_FREE && !slab->twin;
		slab->stale = slab->twin && !MUTANT(STALE_FORGOTTEN);
		if (slab->held && trusted)
			slab->flags = old->slabs[i].flags;
		if (trusted)
			leader = find_missed(space, &numbers, slab, &old->slabs[i]);
		taken += leader && take_over(leader, slab);
	}
	table_fini(&numbers);
	count_free(space);
	return taken;
}

uint64_t
space_slabs_with(const struct space *space, const uint32_t *slabs)
{
	uint64_t all[POOL_DEVICES_MAX] = { 0 };
	uint32_t devices = 0;

	for (uint32_t i = 0; i < space->device_count; i++) {
		const struct space_device *device = &space->devices[i];

		if (device->removed || device->leaving)
			continue;
		all[i] = device->out ? slabs[i] : device->slab_count;
		devices += all[i] > 0;
	}
	return count_groups(
	    all, space->device_count, (uint32_t)max_u64(1, min_u64(devices, space->copies)));
}

/* The slabs of the device that were held are free. */
static void
let_held_go(struct space *space, struct space_device *device)
{
	for (uint32_t i = 0; i < device->slab_count; i++) {
		struct slab *slab = &device->slabs[i];

		if (!slab->held)
			continue;
		slab->held = false;
		enter_free(space, slab);
	}
	count_free(space);
}

void
space_joined(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	CHECK(device->joining);
	device->joining = false;
	let_held_go(space, device);
}

/* --- devices that leave --- */

void
space_start_leaving(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	CHECK(device->present && !device->leaving && !device->removed);
	device->leaving = true;
	space->leaving_count++;
	for (uint32_t i = 0; i < device->slab_count; i++) {
		struct slab *slab = &device->slabs[i];

		if (slab->state != SLAB_FREE || list_empty(&slab->link))
			continue;
		leave_free(space, slab);
		slab->held = true;
	}
	count_free(space);
}

static void
leave_no_more(struct space *space, struct space_device *device)
{
	space->leaving_count -= device->leaving;
	device->leaving = false;
}

void
space_stop_leaving(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	leave_no_more(space, device);
	let_held_go(space, device);
}

bool
space_lies_badly(const struct space *space, struct slab *leader)
{
	unsigned count = 0;

	if (space->copies == 1)
		return space->devices[leader->device].leaving;
	for_each_place(place, leader)
	{
		if (!space_place_counts(space, place))
			continue;
		if (space->devices[place->device].leaving)
			return true;
		count++;
	}
	return count < space_copies_now(space);
}

uint32_t
space_count_used(const struct space *space, uint32_t index)
{
	const struct space_device *device = &space->devices[index];
	uint32_t n = 0;

	for (uint32_t i = 0; i < device->slab_count; i++)
		n += device->slabs[i].state != SLAB_FREE;
	return n;
}

bool
space_is_unused(const struct space *space, uint32_t index)
{
	const struct space_device *device = &space->devices[index];

	for (uint32_t i = 0; i < device->slab_count; i++) {
		const struct slab *slab = &device->slabs[i];

		if (MUTANT(FORGOTTEN_IN_USE) && slab->state == SLAB_SEALED)
			continue;
		if (slab->state != SLAB_FREE || slab->readers > 0 || slab->twin ||
		    !(slab->held || !list_empty(&slab->link)))
			return false;
	}
	return true;
}

bool
space_is_read(const struct space *space, uint32_t index)
{
	const struct space_device *device = &space->devices[index];

	for (uint32_t i = 0; i < device->slab_count; i++)
		if (device->slabs[i].readers > 0)
			return true;
	return false;
}

void
space_remove_device(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	CHECK(device->out || (device->leaving && space_is_unused(space, index)));
	leave_no_more(space, device);
	device->out = true;
	device->removed = true;
	space->table_digest -= device->digest;
	device->digest = 0;
	count_free(space);
}

uint64_t
space_slabs_without(const struct space *space, uint32_t index, uint32_t more)
{
	uint64_t all[POOL_DEVICES_MAX + 1] = { 0 };
	uint32_t devices = more > 0;

	for (uint32_t i = 0; i < space->device_count; i++) {
		if (i == index || !takes_new(&space->devices[i]))
			continue;
		all[i] = space->devices[i].slab_count;
		devices++;
	}
	all[space->device_count] = more;
	return count_groups(
	    all, space->device_count + 1, (uint32_t)max_u64(1, min_u64(devices, space->copies)));
}

/* --- balance --- */

uint64_t
space_find_fuller(const struct space *space, bool *fuller)
{
	uint64_t used = 0, slabs = 0, beyond = 0;

	for (uint32_t i = 0; i < space->device_count; i++) {
		const struct space_device *device = &space->devices[i];

		if (!takes_new(device))
			continue;
		used += device->slab_count - device->free_count;
		slabs += device->slab_count;
	}
	for (uint32_t i = 0; i < space->device_count; i++) {
		const struct space_device *device = &space->devices[i];
		uint64_t own = device->slab_count - device->free_count;
		uint64_t share = slabs ? used * device->slab_count / slabs : 0;

		fuller[i] =
		    takes_new(device) && own > share + 1 + max_u64(1, device->slab_count / 32);
		beyond += fuller[i] ? own - share - 1 : 0;
	}
	return beyond;
}

bool
space_lies_on(const struct space *space, struct slab *leader, const bool *devices)
{
	bool lies = false;

	for_each_place(place, leader) lies |=
	    space_place_counts(space, place) && devices[place->device];
	return lies;
}

/* --- table pages --- */

uint64_t
space_page_block(const struct space_device *device, uint32_t page)
{
	if (MUTANT(TABLE_ONE_PLACE))
		return FORMAT_TABLE_BLOCK + 2ull * page;
	return FORMAT_TABLE_BLOCK + 2ull * page + !device->page_place[page];
}

static uint32_t
page_crc(const struct uuid *device_uuid, uint32_t page, void *block)
{
	struct table_page *header = block;
	uint32_t stored = header->crc;
	uint32_t crc;

	header->crc = 0;
	crc = crc32c(page, device_uuid, sizeof(*device_uuid));
	crc = crc32c(crc, block, FORMAT_BLOCK_BYTES);
	header->crc = stored;
	return crc;
}

void
space_encode_page(
    struct space *space, uint32_t device_index, uint32_t page, uint64_t checkpoint, void *block)
{
	struct space_device *device = &space->devices[device_index];
	uint32_t per_page = table_records_per_page(space->slab_blocks);
	struct table_page *header = block;
	uint8_t *at = (uint8_t *)block + sizeof(*header);

	memset(block, 0, FORMAT_BLOCK_BYTES);
	header->magic = TABLE_MAGIC;
	header->version = FORMAT_VERSION;
	header->checkpoint = checkpoint;
	header->index = page;
	for (uint32_t i = page * per_page; i < (page + 1) * per_page && i < device->slab_count;
	     i++) {
		const struct slab *slab = space_leader(&device->slabs[i]);
		bool stale = device->slabs[i].stale;
		bool free = slab->releasing || stale;
		struct slab_record record = {
			.segment = free ? 0 : slab->segment,
			.state = free ? SLAB_FREE : slab->state,
			.flags = device->slabs[i].flags,
			.directory_blocks = free ? 0 : slab->directory_blocks,
			.age = slab->age,
		};

		memcpy(at, &record, sizeof(record));
		if (!stale)
			memcpy(at + sizeof(record), slab->live_bits, space->slab_blocks / 8);
		at += slab_record_bytes(space->slab_blocks);
	}
	header->crc = page_crc(&device->uuid, page, block);
	set_page_version(space, device_index, page, checkpoint);
	device->page_place[page] = !device->page_place[page];
	bitmap_clear(device->page_dirty, page);
}

void
space_encode_empty_page(const struct uuid *device_uuid, uint32_t page, void *block)
{
	struct table_page *header = block;

	memset(block, 0, FORMAT_BLOCK_BYTES);
	header->magic = TABLE_MAGIC;
	header->version = FORMAT_VERSION;
	header->index = page;
	header->crc = page_crc(device_uuid, page, block);
}

bool
space_page_valid(const struct uuid *device_uuid, uint32_t page, const void *block)
{
	struct table_page header;
	uint8_t copy[FORMAT_BLOCK_BYTES];

	memcpy(&header, block, sizeof(header));
	if (header.magic != TABLE_MAGIC || header.version != FORMAT_VERSION || header.index != page)
		return false;
	memcpy(copy, block, sizeof(copy));
	return page_crc(device_uuid, page, copy) == header.crc;
}

/*
 * @slab is a further copy of what lies at @leader: what its table says of it is as true as what the
 * leader's says, but may be of another moment of the same checkpoint; the next table has both
 * alike.
 */
static int
take_copy(struct space *space, struct slab *leader, struct slab *slab,
    const struct slab_record *record, const uint8_t *bits, struct error *error)
{
	unsigned copies = 1;

	for_each_place(place, leader)
	{
		copies++;
		if (place->device == slab->device)
			copies = COPIES_MAX + 1;
	}
	if (copies > space->copies ||
	    (leader->state == SLAB_PACKED) != (record->state == SLAB_PACKED) ||
	    leader->directory_blocks != record->directory_blocks)
		return error_set(error, -EUCLEAN, "segment %llu lies on two slabs",
		    (unsigned long long)record->segment);
	link_twin(leader, slab);
	slab->state = SLAB_COPY;
	slab->segment = record->segment;
	if (leader->state != record->state || leader->age != record->age ||
	    memcmp(leader->live_bits, bits, space->slab_blocks / 8) != 0)
		mark_place_dirty(space, slab);
	return 0;
}

static int
take_record(struct space *space, struct slab *slab, const uint8_t *at, struct error *error)
{
	struct slab_record record;

	memcpy(&record, at, sizeof(record));
	if (record.state > SLAB_PACKED)
		return error_set(error, -EUCLEAN, "slab %u of device %u has the unknown state %u",
		    slab->index, slab->device, record.state);
	if ((record.state == SLAB_FREE) != (record.segment == 0) || record.segment >> 47)
		return error_set(error, -EUCLEAN, "slab %u of device %u has the wrong segment %llu",
		    slab->index, slab->device, (unsigned long long)record.segment);
	if ((record.state == SLAB_PACKED) != (record.directory_blocks != 0) ||
	    2u * record.directory_blocks >= space->slab_blocks)
		return error_set(error, -EUCLEAN,
		    "slab %u of device %u has a directory of %u blocks", slab->index, slab->device,
		    record.directory_blocks);
	leave_free(space, slab);
	slab->flags = record.flags & SLAB_WRITTEN;
	slab->age = record.age;
	if (record.state == SLAB_FREE) {
		enter_free(space, slab);
		return 0;
	}
	struct slab *leader = record.state == SLAB_PACKED
				  ? table_get(&space->numbers, record.segment)
				  : space_find(space, record.segment);

	if (leader)
		return take_copy(space, leader, slab, &record, at + sizeof(record), error);
	slab->state = record.state;
	slab->directory_blocks = record.directory_blocks;
	if (record.state == SLAB_PACKED) {
		slab->segment = record.segment; /* space_load_pieces() is still to come */
		if (space->copies > 1)
			table_set(&space->numbers, record.segment, slab);
	} else {
		set_own(space, slab, record.segment);
	}
	memcpy(slab->live_bits, at + sizeof(record), space->slab_blocks / 8);
	slab->live = (uint32_t)bitmap_count(slab->live_bits, space->slab_blocks);
	slab->live_first = space->slab_blocks - 1;
	space->live_blocks += slab->live;
	look_empty(space, slab);
	return 0;
}

int
space_decode_page(struct space *space, uint32_t device_index, uint32_t page, uint64_t checkpoint,
    const void *first_place, const void *second_place, struct error *error)
{
	struct space_device *device = &space->devices[device_index];
	const void *places[2] = { first_place, second_place };
	uint32_t per_page = table_records_per_page(space->slab_blocks);
	const uint8_t *best = NULL;
	uint64_t best_checkpoint = 0;
	bool newer_seen = false;

	for (uint8_t i = 0; i < 2; i++) {
		struct table_page header;

		if (!space_page_valid(&device->uuid, page, places[i]))
			continue;
		memcpy(&header, places[i], sizeof(header));
		if (header.checkpoint > checkpoint) {
			newer_seen = true;
			continue;
		}
		if (!best || header.checkpoint > best_checkpoint) {
			best = places[i];
			best_checkpoint = header.checkpoint;
			device->page_place[page] = i;
		}
	}
	if (!best)
		return error_set(error, -EUCLEAN,
		    "slab table page %u of device %u is damaged in both places", page,
		    device_index);
	set_page_version(space, device_index, page, best_checkpoint);
	/* A version that no superblock ever named must not be taken for a good one later. */
	if (newer_seen)
		bitmap_set(device->page_dirty, page);
	else
		bitmap_clear(device->page_dirty, page);
	best += sizeof(struct table_page);
	for (uint32_t i = page * per_page; i < (page + 1) * per_page && i < device->slab_count;
	     i++) {
		int rc = take_record(space, &device->slabs[i], best, error);

		if (rc)
			return rc;
		best += slab_record_bytes(space->slab_blocks);
	}
	return 0;
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

	for (uint32_t d = 0; d < space->device_count; d++) {
		const struct space_device *device = &space->devices[d];
		uint32_t device_free = 0;

		for (uint32_t i = 0; i < device->slab_count; i++) {
			const struct slab *slab = &device->slabs[i];

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
			if (is_empty(slab) != (slab->live == 0 && (slab->state == SLAB_SEALED ||
								      slab->state == SLAB_PACKED)))
				return false;
			if (!pieces_invariant(space, slab))
				return false;
			empty += is_empty(slab);
			if (slab->state == SLAB_FREE && !list_empty(&slab->link))
				device_free++;
			live += slab->live;
		}
		if (device_free != device->free_count)
			return false;
		free_slabs += device_free;
	}
	if (space->copies == 1 && free_slabs != space->free_count)
		return false;
	return live == space->live_blocks && empty == space->empty_count;
}
