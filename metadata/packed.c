/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/packed.h"

#include <stdlib.h>

#include "core/base/crc32c.h"

/* --- sets of slots --- */

int32_t
packed_rank(const void *slots, uint32_t count, uint32_t slab_blocks, uint32_t slot)
{
	if (packed_is_bitmap(count, slab_blocks)) {
		const uint64_t *bits = slots;
		uint64_t below = bits[slot / 64] & ((1ull << slot % 64) - 1);

		if (!bitmap_test(bits, slot))
			return -1;
		return (int32_t)bitmap_count(bits, round_down(slot, 64)) +
		       __builtin_popcountll(below);
	}
	const uint16_t *list = slots;
	uint32_t from = 0, end = count;

	while (from < end) {
		uint32_t middle = (from + end) / 2;

		if (list[middle] == slot)
			return (int32_t)middle;
		if (list[middle] < slot)
			from = middle + 1;
		else
			end = middle;
	}
	return -1;
}

uint32_t
packed_nth(const void *slots, uint32_t count, uint32_t slab_blocks, uint32_t n)
{
	const uint64_t *bits = slots;
	uint64_t left;

	if (!packed_is_bitmap(count, slab_blocks))
		return ((const uint16_t *)slots)[n];
	for (uint32_t word = 0;; word++) {
		uint32_t here = (uint32_t)__builtin_popcountll(bits[word]);

		if (n >= here) {
			n -= here;
			continue;
		}
		for (left = bits[word]; n > 0; n--)
			left &= left - 1;
		return word * 64 + (uint32_t)__builtin_ctzll(left);
	}
}

void
packed_list(const void *slots, uint32_t count, uint32_t slab_blocks, uint16_t *list)
{
	const uint64_t *bits = slots;
	uint32_t n = 0;

	if (!packed_is_bitmap(count, slab_blocks)) {
		memcpy(list, slots, count * sizeof(*list));
		return;
	}
	for (uint32_t word = 0; word < slab_blocks / 64; word++)
		for (uint64_t left = bits[word]; left; left &= left - 1)
			list[n++] = (uint16_t)(word * 64 + (uint32_t)__builtin_ctzll(left));
	CHECK(n == count);
}

/* --- writing --- */

static uint32_t
piece_bytes(const struct packed_piece *piece, uint32_t slab_blocks)
{
	uint32_t sets = piece->first == PACKED_SCATTERED ? 2 : 1;

	return (uint32_t)sizeof(*piece) + sets * packed_slots_bytes(piece->count, slab_blocks) +
	       (piece->count + 1) / 2 * 8;
}

/* How many blocks from the first on are of one segment. */
static uint32_t
same_segment(const struct packed_block *blocks, uint32_t count)
{
	uint32_t n = 1;

	while (n < count && baddr_segment(blocks[n].addr) == baddr_segment(blocks[0].addr))
		n++;
	return n;
}

static uint32_t
directory_blocks_for(const struct packed_block *blocks, uint32_t count, uint32_t slab_blocks)
{
	uint64_t bytes = sizeof(struct packed_directory);
	uint32_t n;

	for (uint32_t i = 0; i < count; i += n) {
		n = same_segment(blocks + i, count - i);
		bytes += piece_bytes(&(struct packed_piece){ .count = n }, slab_blocks);
	}
	/* Of a slab that was plugged over and over a block takes about 8 bytes. */
	bytes = max_u64(bytes, slab_blocks * 8ull);
	return (uint32_t)div_round_up(bytes, FORMAT_BLOCK_BYTES);
}

uint32_t
packed_fit(const struct packed_block *blocks, uint32_t count, uint32_t slab_blocks,
    uint32_t *directory_blocks)
{
	uint32_t fit = (uint32_t)min_u64(count, slab_blocks);

	for (;;) {
		*directory_blocks = directory_blocks_for(blocks, fit, slab_blocks);
		if (fit + 2 * *directory_blocks <= slab_blocks)
			return fit;
		fit = slab_blocks - 2 * *directory_blocks;
	}
}

static uint32_t
directory_crc(
    const struct packed_directory *header, uint32_t directory_blocks, const struct uuid *pool)
{
	static const uint32_t zero = 0;
	const uint8_t *bytes = (const uint8_t *)header;
	size_t at = offsetof(struct packed_directory, crc);
	uint64_t place;
	uint32_t crc;

	memcpy(&place, pool->bytes, sizeof(place));
	place ^= header->number;
	crc = crc32c(0, &place, sizeof(place));
	crc = crc32c(crc, bytes, at);
	crc = crc32c(crc, &zero, sizeof(zero));
	return crc32c(crc, bytes + at + sizeof(zero),
	    directory_blocks * (size_t)FORMAT_BLOCK_BYTES - at - sizeof(zero));
}

/* A piece that is written: its blocks are @count of the plan's, from @at on. */
struct plan_piece {
	struct packed_piece piece;
	uint32_t at;
};

struct plan {
	struct plan_piece *pieces;
	uint32_t piece_count;
	uint16_t *slots;
	uint16_t *places;
	uint32_t *crcs;
	uint32_t count;
};

static void
plan_init(struct plan *plan, uint32_t pieces_max, uint32_t blocks_max)
{
	*plan = (struct plan){
		.pieces = xcalloc(pieces_max, sizeof(*plan->pieces)),
		.slots = xcalloc(blocks_max, sizeof(*plan->slots)),
		.places = xcalloc(blocks_max, sizeof(*plan->places)),
		.crcs = xcalloc(blocks_max, sizeof(*plan->crcs)),
	};
}

static void
plan_fini(struct plan *plan)
{
	free(plan->pieces);
	free(plan->slots);
	free(plan->places);
	free(plan->crcs);
}

static void
plan_add(struct plan *plan, uint32_t slot, uint32_t place, uint32_t crc)
{
	plan->slots[plan->count] = (uint16_t)slot;
	plan->places[plan->count] = (uint16_t)place;
	plan->crcs[plan->count++] = crc;
}

/* What was added since the piece before is a piece. */
static void
plan_end_piece(struct plan *plan, uint64_t segment, uint32_t first)
{
	uint32_t at = 0;

	if (plan->piece_count > 0) {
		const struct plan_piece *before = &plan->pieces[plan->piece_count - 1];

		at = before->at + before->piece.count;
	}
	if (at == plan->count)
		return;
	plan->pieces[plan->piece_count++] = (struct plan_piece){
		.piece = { .segment = segment, .first = first, .count = plan->count - at },
		.at = at,
	};
}

static int
by_segment(const void *left, const void *right)
{
	const struct plan_piece *a = left, *b = right;

	if (a->piece.segment != b->piece.segment)
		return a->piece.segment < b->piece.segment ? -1 : 1;
	return a->at < b->at ? -1 : a->at > b->at;
}

static uint8_t *
write_set(uint8_t *at, const uint16_t *list, uint32_t count, uint32_t slab_blocks)
{
	for (uint32_t k = 0; k < count; k++) {
		CHECK(list[k] < slab_blocks && (k == 0 || list[k] > list[k - 1]));
		if (packed_is_bitmap(count, slab_blocks))
			bitmap_set((uint64_t *)(void *)at, list[k]);
		else
			((uint16_t *)(void *)at)[k] = list[k];
	}
	return at + packed_slots_bytes(count, slab_blocks);
}

static void
plan_write(struct plan *plan, uint32_t slab_blocks, uint64_t number, const struct uuid *pool,
    uint32_t directory_blocks, void *out)
{
	struct packed_directory *header = out;
	uint8_t *at = (uint8_t *)(header + 1);

	memset(out, 0, directory_blocks * (size_t)FORMAT_BLOCK_BYTES);
	header->magic = PACKED_MAGIC;
	header->version = FORMAT_VERSION;
	header->directory_blocks = directory_blocks;
	header->number = number;
	header->piece_count = plan->piece_count;
	header->block_count = plan->count;
	qsort(plan->pieces, plan->piece_count, sizeof(*plan->pieces), by_segment);
	for (uint32_t i = 0; i < plan->piece_count; i++) {
		const struct plan_piece *from = &plan->pieces[i];
		uint32_t n = from->piece.count;

		memcpy(at, &from->piece, sizeof(from->piece));
		at = write_set(at + sizeof(from->piece), plan->slots + from->at, n, slab_blocks);
		if (from->piece.first == PACKED_SCATTERED)
			at = write_set(at, plan->places + from->at, n, slab_blocks);
		memcpy(at, plan->crcs + from->at, n * sizeof(*plan->crcs));
		at += (n + 1) / 2 * 8;
	}
	packed_seal(out, directory_blocks, pool);
}

static bool
plan_fits(const struct plan *plan, uint32_t slab_blocks, uint32_t directory_blocks)
{
	uint64_t bytes = sizeof(struct packed_directory);

	for (uint32_t i = 0; i < plan->piece_count; i++)
		bytes += piece_bytes(&plan->pieces[i].piece, slab_blocks);
	return bytes <= directory_blocks * (uint64_t)FORMAT_BLOCK_BYTES;
}

/* The blocks lie at @places, or, if that is NULL, one behind the other from @first on. */
static void
plan_blocks(struct plan *plan, const struct packed_block *blocks, const uint16_t *places,
    uint32_t first, uint32_t count)
{
	uint32_t n;

	for (uint32_t i = 0; i < count; i += n) {
		n = same_segment(blocks + i, count - i);
		for (uint32_t k = i; k < i + n; k++)
			plan_add(plan, baddr_slot(blocks[k].addr), places ? places[k] : first + k,
			    blocks[k].crc);
		plan_end_piece(
		    plan, baddr_segment(blocks[i].addr), places ? PACKED_SCATTERED : first + i);
	}
}

void
packed_encode(const struct packed_block *blocks, uint32_t count, uint32_t slab_blocks,
    uint64_t number, const struct uuid *pool, uint32_t directory_blocks, void *out)
{
	struct plan plan;

	plan_init(&plan, count, count);
	plan_blocks(&plan, blocks, NULL, directory_blocks, count);
	CHECK(plan_fits(&plan, slab_blocks, directory_blocks));
	plan_write(&plan, slab_blocks, number, pool, directory_blocks, out);
	plan_fini(&plan);
}

static bool
stays(uint16_t place, const uint64_t *holes)
{
	return place != PACKED_NOWHERE && !bitmap_test(holes, place);
}

/* What of a piece is not at @holes, nor, if it is not scattered, at @scattered.  It stays as it is
 * if that takes less: then it may list what is dead. */
static void
plan_old_piece(struct plan *plan, const struct packed_view *view, uint32_t slab_blocks,
    const uint64_t *holes, const uint64_t *scattered)
{
	struct packed_piece piece = { .first = PACKED_SCATTERED, .count = 0 };
	struct packed_piece whole = { .first = view->first, .count = view->count };
	uint16_t slots[SLAB_BLOCKS_MAX], places[SLAB_BLOCKS_MAX];
	bool is_whole;

	packed_list(view->slots, view->count, slab_blocks, slots);
	packed_places(view, scattered, slab_blocks, places);
	for (uint32_t k = 0; k < view->count; k++)
		piece.count += stays(places[k], holes);
	is_whole = !view->places && piece.count > 0 &&
		   piece_bytes(&whole, slab_blocks) <= piece_bytes(&piece, slab_blocks);
	for (uint32_t k = 0; k < view->count; k++)
		if (is_whole || stays(places[k], holes))
			plan_add(plan, slots[k], places[k], view->crcs[k]);
	plan_end_piece(plan, view->segment, is_whole ? view->first : PACKED_SCATTERED);
}

bool
packed_plug(const struct packed_reader *old, const uint64_t *holes,
    const struct packed_block *blocks, const uint16_t *places, uint32_t count, uint64_t number,
    const struct uuid *pool, uint32_t directory_blocks, void *out)
{
	uint32_t slab_blocks = old->slab_blocks;
	uint64_t scattered[BITMAP_WORDS(SLAB_BLOCKS_MAX)];
	struct packed_reader reader = *old;
	struct packed_view view;
	struct plan plan;
	bool fits;

	(void)packed_scattered(old, scattered);
	plan_init(&plan, old->piece_count + count, 2 * slab_blocks + count);
	while (packed_next(&reader, &view))
		plan_old_piece(&plan, &view, slab_blocks, holes, scattered);
	plan_blocks(&plan, blocks, places, 0, count);
	fits = plan_fits(&plan, slab_blocks, directory_blocks);
	if (fits)
		plan_write(&plan, slab_blocks, number, pool, directory_blocks, out);
	plan_fini(&plan);
	return fits;
}

void
packed_seal(void *directory, uint32_t directory_blocks, const struct uuid *pool)
{
	struct packed_directory *header = directory;

	header->crc = directory_crc(header, directory_blocks, pool);
}

/* --- reading --- */

static bool
slots_valid(const void *slots, uint32_t count, uint32_t slab_blocks)
{
	const uint16_t *list = slots;

	if (packed_is_bitmap(count, slab_blocks))
		return bitmap_count(slots, slab_blocks) == count;
	for (uint32_t i = 0; i < count; i++)
		if (list[i] >= slab_blocks || (i > 0 && list[i] <= list[i - 1]))
			return false;
	return true;
}

/* All of them in @set are slots for blocks, and in none of the sets before, which are in @taken. */
static bool
places_free(const void *set, uint32_t count, uint32_t slab_blocks, uint32_t directory_blocks,
    uint64_t *taken)
{
	uint16_t list[SLAB_BLOCKS_MAX];

	packed_list(set, count, slab_blocks, list);
	for (uint32_t i = 0; i < count; i++)
		if (list[i] < directory_blocks || list[i] >= slab_blocks - directory_blocks ||
		    !bitmap_set(taken, list[i]))
			return false;
	return true;
}

static bool
range_free(uint32_t first, uint32_t count, uint32_t slab_blocks, uint32_t directory_blocks,
    uint64_t *taken)
{
	if (first < directory_blocks || first > slab_blocks - directory_blocks ||
	    count > slab_blocks - directory_blocks - first)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (!bitmap_set(taken, first + i))
			return false;
	return true;
}

static const char *
look_at_pieces(const struct packed_directory *header, uint32_t slab_blocks)
{
	size_t left =
	    header->directory_blocks * (size_t)FORMAT_BLOCK_BYTES - sizeof(struct packed_directory);
	const uint8_t *at = (const uint8_t *)(header + 1);
	uint64_t ranges[BITMAP_WORDS(SLAB_BLOCKS_MAX)] = { 0 };
	uint64_t scattered[BITMAP_WORDS(SLAB_BLOCKS_MAX)] = { 0 };
	uint32_t directory_blocks = header->directory_blocks;
	uint64_t segment = 0;
	uint32_t sum = 0;

	for (uint32_t i = 0; i < header->piece_count; i++) {
		struct packed_piece piece;
		const uint8_t *sets = at + sizeof(piece);

		if (left < sizeof(piece))
			return "more pieces than fit it";
		memcpy(&piece, at, sizeof(piece));
		if (piece.segment == 0 || piece.segment < segment || piece.segment >> 47)
			return "pieces out of order";
		if (piece.count == 0 || piece.count > slab_blocks)
			return "a piece with an impossible count";
		if (piece_bytes(&piece, slab_blocks) > left)
			return "more pieces than fit it";
		if (!slots_valid(sets, piece.count, slab_blocks))
			return "a piece with impossible slots";
		if (piece.first != PACKED_SCATTERED) {
			if (!range_free(
				piece.first, piece.count, slab_blocks, directory_blocks, ranges))
				return "a piece at an impossible place";
		} else {
			sets += packed_slots_bytes(piece.count, slab_blocks);
			if (!slots_valid(sets, piece.count, slab_blocks) ||
			    !places_free(
				sets, piece.count, slab_blocks, directory_blocks, scattered))
				return "a piece at impossible places";
		}
		segment = piece.segment;
		sum += piece.count;
		at += piece_bytes(&piece, slab_blocks);
		left -= piece_bytes(&piece, slab_blocks);
	}
	return sum == header->block_count ? NULL : "a wrong count";
}

int
packed_open(struct packed_reader *reader, const void *directory, uint32_t directory_blocks,
    uint32_t slab_blocks, uint64_t number, const struct uuid *pool, struct error *error)
{
	const struct packed_directory *header = directory;
	const char *wrong;

	CHECK(directory_blocks > 0 && 2 * directory_blocks < slab_blocks);
	if (header->magic != PACKED_MAGIC || header->version != FORMAT_VERSION)
		return error_set(error, -EUCLEAN, "no directory of a packed slab is there");
	if (header->directory_blocks != directory_blocks || header->number != number)
		return error_set(error, -EUCLEAN,
		    "the directory is of packed slab %llu with %u blocks, not of %llu with %u",
		    (unsigned long long)header->number, header->directory_blocks,
		    (unsigned long long)number, directory_blocks);
	if (directory_crc(header, directory_blocks, pool) != header->crc)
		return error_set(error, -EUCLEAN, "the directory's checksum is wrong");
	wrong = look_at_pieces(header, slab_blocks);
	if (wrong)
		return error_set(error, -EUCLEAN, "the directory has %s", wrong);
	reader->at = (const uint8_t *)(header + 1);
	reader->pieces_left = header->piece_count;
	reader->piece_count = header->piece_count;
	reader->slab_blocks = slab_blocks;
	return 0;
}

bool
packed_next(struct packed_reader *reader, struct packed_view *view)
{
	struct packed_piece piece;
	const uint8_t *at;

	if (reader->pieces_left == 0)
		return false;
	reader->pieces_left--;
	memcpy(&piece, reader->at, sizeof(piece));
	view->segment = piece.segment;
	view->first = piece.first;
	view->count = piece.count;
	view->slots = reader->at + sizeof(piece);
	at = reader->at + sizeof(piece) + packed_slots_bytes(piece.count, reader->slab_blocks);
	view->places = NULL;
	if (piece.first == PACKED_SCATTERED) {
		view->places = at;
		at += packed_slots_bytes(piece.count, reader->slab_blocks);
	}
	view->crcs = (const void *)at;
	reader->at += piece_bytes(&piece, reader->slab_blocks);
	return true;
}

void
packed_places(const struct packed_view *view, const uint64_t *scattered, uint32_t slab_blocks,
    uint16_t *places)
{
	if (view->places) {
		packed_list(view->places, view->count, slab_blocks, places);
		return;
	}
	for (uint32_t k = 0; k < view->count; k++)
		places[k] = scattered && bitmap_test(scattered, view->first + k)
				? PACKED_NOWHERE
				: (uint16_t)(view->first + k);
}

bool
packed_scattered(const struct packed_reader *reader, uint64_t *bits)
{
	struct packed_reader all = *reader;
	uint16_t places[SLAB_BLOCKS_MAX];
	struct packed_view view;
	bool any = false;

	memset(bits, 0, reader->slab_blocks / 8);
	while (packed_next(&all, &view)) {
		if (!view.places)
			continue;
		packed_places(&view, NULL, reader->slab_blocks, places);
		for (uint32_t k = 0; k < view.count; k++)
			bitmap_set(bits, places[k]);
		any = true;
	}
	return any;
}
