/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/packed.h"

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
piece_bytes(uint32_t count, uint32_t slab_blocks)
{
	return (uint32_t)sizeof(struct packed_piece) + packed_slots_bytes(count, slab_blocks) +
	       (count + 1) / 2 * 8;
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
		bytes += piece_bytes(n, slab_blocks);
	}
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

void
packed_encode(const struct packed_block *blocks, uint32_t count, uint32_t slab_blocks,
    uint64_t number, const struct uuid *pool, uint32_t directory_blocks, void *out)
{
	struct packed_directory *header = out;
	uint8_t *at = (uint8_t *)(header + 1);
	uint32_t n;

	memset(out, 0, directory_blocks * (size_t)FORMAT_BLOCK_BYTES);
	header->magic = PACKED_MAGIC;
	header->version = FORMAT_VERSION;
	header->directory_blocks = directory_blocks;
	header->number = number;
	header->block_count = count;
	for (uint32_t i = 0; i < count; i += n) {
		struct packed_piece piece;
		uint32_t *crcs;

		n = same_segment(blocks + i, count - i);
		piece.segment = baddr_segment(blocks[i].addr);
		piece.first = directory_blocks + i;
		piece.count = n;
		memcpy(at, &piece, sizeof(piece));
		at += sizeof(piece);
		crcs = (uint32_t *)(void *)(at + packed_slots_bytes(n, slab_blocks));
		for (uint32_t k = 0; k < n; k++) {
			uint32_t slot = baddr_slot(blocks[i + k].addr);

			CHECK(slot < slab_blocks);
			if (packed_is_bitmap(n, slab_blocks))
				CHECK(bitmap_set((uint64_t *)(void *)at, slot));
			else
				((uint16_t *)(void *)at)[k] = (uint16_t)slot;
			crcs[k] = blocks[i + k].crc;
		}
		at += piece_bytes(n, slab_blocks) - sizeof(piece);
		header->piece_count++;
	}
	CHECK(at <= (uint8_t *)out + directory_blocks * (size_t)FORMAT_BLOCK_BYTES);
	packed_seal(out, directory_blocks, pool);
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

static const char *
look_at_pieces(const struct packed_directory *header, uint32_t slab_blocks)
{
	size_t left =
	    header->directory_blocks * (size_t)FORMAT_BLOCK_BYTES - sizeof(struct packed_directory);
	const uint8_t *at = (const uint8_t *)(header + 1);
	uint32_t next = header->directory_blocks;
	uint64_t segment = 0;

	for (uint32_t i = 0; i < header->piece_count; i++) {
		struct packed_piece piece;

		if (left < sizeof(piece))
			return "more pieces than fit it";
		memcpy(&piece, at, sizeof(piece));
		if (piece.segment <= segment || piece.segment >> 47)
			return "pieces out of order";
		if (piece.first != next || piece.count == 0 ||
		    piece.count > slab_blocks - header->directory_blocks - next)
			return "a piece at an impossible place";
		if (piece_bytes(piece.count, slab_blocks) > left)
			return "more pieces than fit it";
		if (!slots_valid(at + sizeof(piece), piece.count, slab_blocks))
			return "a piece with impossible slots";
		segment = piece.segment;
		next += piece.count;
		at += piece_bytes(piece.count, slab_blocks);
		left -= piece_bytes(piece.count, slab_blocks);
	}
	return next - header->directory_blocks == header->block_count ? NULL : "a wrong count";
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

	if (reader->pieces_left == 0)
		return false;
	reader->pieces_left--;
	memcpy(&piece, reader->at, sizeof(piece));
	view->segment = piece.segment;
	view->first = piece.first;
	view->count = piece.count;
	view->slots = reader->at + sizeof(piece);
	view->crcs = (const void *)((const uint8_t *)view->slots +
				    packed_slots_bytes(piece.count, reader->slab_blocks));
	reader->at += piece_bytes(piece.count, reader->slab_blocks);
	return true;
}
