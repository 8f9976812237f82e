/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The directory of a PACKED slab (metadata/format.h): which slots of which segments lie where on
 * it.
 *
 * Encoders and reader come to the same: packed_open() accepts nothing that they would not have
 * written, so who walks an opened directory meets no errors.
 */
#ifndef QUARRY_METADATA_PACKED_H
#define QUARRY_METADATA_PACKED_H

#include "core/base/bitmap.h"
#include "core/base/error.h"
#include "metadata/format.h"

/* A block that is to be packed. */
struct packed_block {
	struct baddr addr;
	uint32_t crc; /* mixed with the address */
};

/* The set of @count slots of a segment, as a list or as a bitmap by their number. */
static inline bool
packed_is_bitmap(uint32_t count, uint32_t slab_blocks)
{
	return count >= slab_blocks / 16;
}

static inline uint32_t
packed_slots_bytes(uint32_t count, uint32_t slab_blocks)
{
	return packed_is_bitmap(count, slab_blocks) ? slab_blocks / 8 : (count + 3) / 4 * 8;
}

/* Position of @slot among those in @slots; -1: it is not among them. */
int32_t packed_rank(const void *slots, uint32_t count, uint32_t slab_blocks, uint32_t slot);
/* The slot at position @n, below @count. */
uint32_t packed_nth(const void *slots, uint32_t count, uint32_t slab_blocks, uint32_t n);
/* Writes all @count slots in @slots to @list. */
void packed_list(const void *slots, uint32_t count, uint32_t slab_blocks, uint16_t *list);

/* How many of the @count blocks, in the order of their addresses, fit a slab with their directory
 * and its copy; *directory_blocks: what that takes, with room for what may be plugged in. */
uint32_t packed_fit(const struct packed_block *blocks, uint32_t count, uint32_t slab_blocks,
    uint32_t *directory_blocks);

/* Writes the directory of @count blocks (sorted by address, none twice) to @out, which has
 * @directory_blocks blocks. */
void packed_encode(const struct packed_block *blocks, uint32_t count, uint32_t slab_blocks,
    uint64_t number, const struct uuid *pool, uint32_t directory_blocks, void *out);

/* The directory at @directory was changed: its CRC again. */
void packed_seal(void *directory, uint32_t directory_blocks, const struct uuid *pool);

struct packed_reader {
	const uint8_t *at;
	uint32_t pieces_left;
	uint32_t slab_blocks;
	uint32_t piece_count;
};

struct packed_view {
	uint64_t segment;
	uint32_t first; /* slot of the packed slab */
	uint32_t count;
	const void *slots;
	const void *places; /* at which slots of the packed slab; NULL: from `first` on */
	const uint32_t *crcs;
};

/* Checks all of the directory at @directory (8-byte aligned, @directory_blocks blocks).
 * -EUCLEAN. */
int packed_open(struct packed_reader *reader, const void *directory, uint32_t directory_blocks,
    uint32_t slab_blocks, uint64_t number, const struct uuid *pool, struct error *error) must_check;
/* False: no piece is left. */
bool packed_next(struct packed_reader *reader, struct packed_view *view);
/* Where all of the view's blocks lie; PACKED_NOWHERE: a scattered piece holds there (@scattered,
 * see below; NULL: none does). */
#define PACKED_NOWHERE UINT16_MAX
void packed_places(const struct packed_view *view, const uint64_t *scattered, uint32_t slab_blocks,
    uint16_t *places);
/* Sets in @bits (slab_blocks) the slots where a scattered piece holds, whatever another says;
 * @reader was just opened.  Returns whether there are any. */
bool packed_scattered(const struct packed_reader *reader, uint64_t *bits);

/*
 * Plugging: writes to @out the directory in @old, changed.  What lies at @holes (a bitmap of slots
 * of the slab) is no longer in it; the @count @blocks (sorted by address) are, at @places, which
 * grow and are holes all.  False: it does not fit its blocks.
 */
bool packed_plug(const struct packed_reader *old, const uint64_t *holes,
    const struct packed_block *blocks, const uint16_t *places, uint32_t count, uint64_t number,
    const struct uuid *pool, uint32_t directory_blocks, void *out) must_check;

#endif
