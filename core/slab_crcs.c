/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a slab tells about its blocks by itself, without any map: their checksums, and whose they
 * were when the log wrote them.  Relocation and scrub compare with that.
 */
#include "core/pool_internal.h"

static void
find_in_headers(const struct pool *pool, const struct slab *slab, uint32_t end_slot,
    const uint8_t *blocks, uint32_t *crcs, uint64_t *known)
{
	uint32_t slot = 0;

	while (slot < end_slot) {
		const struct batch_header *header =
		    (const void *)(blocks + (size_t)slot * BLOCK_BYTES);
		struct batch_reader reader;
		struct batch_piece piece;

		if (!batch_header_valid(
			header, &pool->uuid, slab->segment, slot, pool->space.slab_blocks)) {
			slot++; /* the next one may be */
			continue;
		}
		batch_read_begin(&reader, header);
		while (batch_read_next(&reader, &piece) == 1) {
			uint32_t at = slot + 1 + piece.block_index;

			if (piece.type == BATCH_ZERO)
				continue;
			memcpy(crcs + at, piece.crcs, piece.blocks * sizeof(*crcs));
			for (uint32_t i = 0; i < piece.blocks; i++)
				bitmap_set(known, at + i);
		}
		slot += 1 + header->block_count;
	}
}

/* False: the directory at @directory is damaged. */
static bool
find_in_directory(const struct pool *pool, const struct slab *slab, const uint8_t *directory,
    uint32_t *crcs, uint64_t *known)
{
	uint64_t scattered[BITMAP_WORDS(SLAB_BLOCKS_MAX)];
	uint16_t places[SLAB_BLOCKS_MAX];
	struct packed_reader reader;
	struct packed_view view;
	struct error error;

	if (packed_open(&reader, directory, slab->directory_blocks, pool->space.slab_blocks,
		slab->segment, &pool->uuid, &error))
		return false;
	(void)packed_scattered(&reader, scattered);
	while (packed_next(&reader, &view)) {
		packed_places(&view, scattered, pool->space.slab_blocks, places);
		for (uint32_t i = 0; i < view.count; i++) {
			if (places[i] == PACKED_NOWHERE)
				continue;
			crcs[places[i]] = view.crcs[i];
			bitmap_set(known, places[i]);
		}
	}
	return true;
}

void
slab_find_crcs(const struct pool *pool, const struct slab *slab, uint32_t end_slot,
    const uint8_t *blocks, uint32_t *crcs, uint64_t *known)
{
	uint32_t copy = pool->space.slab_blocks - slab->directory_blocks;

	if (slab->state != SLAB_PACKED)
		find_in_headers(pool, slab, end_slot, blocks, crcs, known);
	else if (!find_in_directory(pool, slab, blocks, crcs, known) &&
		 end_slot == pool->space.slab_blocks)
		(void)find_in_directory(
		    pool, slab, blocks + (size_t)copy * BLOCK_BYTES, crcs, known);
}

bool
slab_find_owner(const struct pool *pool, const struct slab *slab, uint32_t end_slot,
    const uint8_t *blocks, uint32_t slot, struct batch_piece *owner)
{
	uint32_t at = 0;

	while (slab->state != SLAB_PACKED && at < end_slot) {
		const struct batch_header *header =
		    (const void *)(blocks + (size_t)at * BLOCK_BYTES);
		struct batch_reader reader;

		if (!batch_header_valid(
			header, &pool->uuid, slab->segment, at, pool->space.slab_blocks)) {
			at++;
			continue;
		}
		batch_read_begin(&reader, header);
		while (batch_read_next(&reader, owner) == 1) {
			uint32_t first = at + 1 + owner->block_index;

			if (owner->type == BATCH_ZERO || slot < first ||
			    slot >= first + owner->blocks)
				continue;
			owner->lba += slot - first;
			owner->blocks = 1;
			return true;
		}
		at += 1 + header->block_count;
	}
	return false;
}
