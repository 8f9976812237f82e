/* SPDX-License-Identifier: Apache-2.0 */
/* What lies on which slab, and what of it is live; blocks that move. */
#include "metadata/space_internal.h"

#include <stdlib.h>

#include "core/base/mutant.h"

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

void
space_set_own(struct space *space, struct slab *slab, uint64_t segment)
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
void
space_forget(struct space *space, struct slab *slab)
{
	drop_pieces(space, slab);
	slab->directory_blocks = 0;
	slab->filled_segment = 0;
	space_leave_empty(space, slab);
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

/* --- what is live --- */

static void
set_live(struct space *space, struct slab *slab, uint32_t slot)
{
	if (!bitmap_set(slab->live_bits, slot))
		return;
	slab->live++;
	space->live_blocks++;
	space_leave_empty(space, slab);
	space_mark_dirty(space, slab);
}

static void
set_dead(struct space *space, struct slab *slab, uint32_t slot)
{
	if (!bitmap_clear(slab->live_bits, slot))
		return;
	slab->live--;
	space->live_blocks--;
	space->deaths++;
	space_mark_dirty(space, slab);
	space_look_empty(space, slab);
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

/* Fetches what marking @addr will touch, if it lies where the log wrote it. */
static void
prefetch_place(const struct space *space, struct baddr addr)
{
	const struct space_piece *piece = table_get(&space->segments, baddr_segment(addr));

	if (!piece)
		return;
	const struct slab *slab = container_of(piece, const struct slab, own);

	__builtin_prefetch(slab, 1);
	__builtin_prefetch(&slab->live_bits[baddr_slot(addr) / 64], 1);
}

/*
 * Three steps for each address, so that the lines that they need come from memory side by side, and
 * not one after the other: its slot of the table of segments is fetched when it is asked for; its
 * slab, and the word of its bit, when half the ring was asked for since; and then it is marked.
 */
void
space_mark_dead_soon(struct space *space, struct baddr addr)
{
	uint32_t n = space->dying.asked++;

	if (n - space->dying.marked == SPACE_DYING)
		space_mark_dead(space, space->dying.addrs[space->dying.marked++ % SPACE_DYING]);
	space->dying.addrs[n % SPACE_DYING] = addr;
	table_prefetch(&space->segments, baddr_segment(addr));
	if (n - space->dying.marked >= SPACE_DYING / 2)
		prefetch_place(space, space->dying.addrs[(n - SPACE_DYING / 2) % SPACE_DYING]);
}

void
space_finish_dead(struct space *space)
{
	uint32_t asked = space->dying.asked;
	uint32_t n = asked - (uint32_t)min_u64(asked - space->dying.marked, SPACE_DYING / 2);

	for (; n != asked; n++)
		prefetch_place(space, space->dying.addrs[n % SPACE_DYING]);
	while (space->dying.marked != asked)
		space_mark_dead(space, space->dying.addrs[space->dying.marked++ % SPACE_DYING]);
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
	space_mark_dirty(space, slab);
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
	space_look_empty(space, slab);
}

bool
space_may_plug(const struct space *space, const struct slab *slab, bool cut)
{
	return slab->state == SLAB_PACKED && slab->live > 0 && slab->live < space->slab_blocks &&
	       !slab->stuck && !slab->releasing &&
	       (cut || space_is_needless(space, slab) || MUTANT(PLUGGED_EARLY));
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
		space_mark_place_dirty(space, place);
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
	space_mark_dirty(space, slab);
}

void
space_restore_packed(struct space *space, struct slab *slab, uint64_t number,
    uint32_t directory_blocks, const struct packed_reader *reader, uint32_t age)
{
	space_reserve(space, slab);
	become_packed(space, slab, number, directory_blocks, age);
	set_pieces(space, slab, reader);
	space_look_empty(space, slab);
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
