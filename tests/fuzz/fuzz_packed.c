/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories of packed slabs, raw or with their CRC made right.  What is accepted has all its
 * blocks within the slab, none twice, and is found again when encoded.
 */
#include "core/base/crc32c.h"
#include "metadata/packed.h"
#include "tests/fuzz/fuzz.h"

#define SLAB_BLOCKS 256u

static const struct uuid pool_uuid = { { 1, 2, 3 } };

static void
seal(uint8_t *block)
{
	struct packed_directory *header = (struct packed_directory *)(void *)block;
	static const uint32_t zero = 0;
	uint64_t place;
	uint32_t crc;

	header->magic = PACKED_MAGIC;
	header->version = FORMAT_VERSION;
	header->directory_blocks = 1;
	header->number = 9;
	memcpy(&place, pool_uuid.bytes, sizeof(place));
	place ^= header->number;
	crc = crc32c(0, &place, sizeof(place));
	crc = crc32c(crc, block, offsetof(struct packed_directory, crc));
	crc = crc32c(crc, &zero, sizeof(zero));
	header->crc = crc32c(crc, block + 12, FORMAT_BLOCK_BYTES - 12);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	bool sealed = fuzz_byte(&input) & 1;
	static _Alignas(8) uint8_t block[FORMAT_BLOCK_BYTES], again[FORMAT_BLOCK_BYTES];
	struct packed_block blocks[SLAB_BLOCKS];
	struct packed_reader reader;
	struct packed_view view;
	struct error error;
	uint32_t count = 0, directory_blocks;
	uint16_t list[SLAB_BLOCKS], places[SLAB_BLOCKS], plugs[SLAB_BLOCKS];
	uint64_t scattered[BITMAP_WORDS(SLAB_BLOCKS)], holes[BITMAP_WORDS(SLAB_BLOCKS)] = { 0 },
						       live[BITMAP_WORDS(SLAB_BLOCKS)] = { 0 };
	struct packed_reader opened;
	bool plain = true;

	fuzz_take(&input, block, sizeof(block));
	if (sealed)
		seal(block);
	if (packed_open(&reader, block, 1, SLAB_BLOCKS, 9, &pool_uuid, &error))
		return 0;
	opened = reader;
	(void)packed_scattered(&opened, scattered);
	while (packed_next(&reader, &view)) {
		packed_list(view.slots, view.count, SLAB_BLOCKS, list);
		packed_places(&view, NULL, SLAB_BLOCKS, places);
		for (uint32_t k = 0; k < view.count; k++) {
			CHECK(
			    list[k] < SLAB_BLOCKS && places[k] >= 1 && places[k] < SLAB_BLOCKS - 1);
			CHECK(packed_rank(view.slots, view.count, SLAB_BLOCKS, list[k]) ==
			      (int32_t)k);
			CHECK(packed_nth(view.slots, view.count, SLAB_BLOCKS, k) == list[k]);
			if (view.places || !bitmap_test(scattered, places[k]))
				CHECK(bitmap_set(live, places[k]));
			if (count < SLAB_BLOCKS) {
				blocks[count].addr = baddr_make(view.segment, list[k]);
				blocks[count].crc = view.crcs[k];
			}
			plain &= !view.places && count < SLAB_BLOCKS - 2 &&
				 (count == 0 || blocks[count].addr.n > blocks[count - 1].addr.n);
			count++;
		}
	}
	if (plain) {
		CHECK(packed_fit(blocks, count, SLAB_BLOCKS, &directory_blocks) == count);
		packed_encode(blocks, count, SLAB_BLOCKS, 9, &pool_uuid, 1, again);
		CHECK(packed_open(&reader, again, 1, SLAB_BLOCKS, 9, &pool_uuid, &error) == 0);
	}
	/* Plugged, it can be opened, and has what was put in, and nothing else at the holes. */
	fuzz_take(&input, holes, sizeof(holes));
	bitmap_clear(holes, 0);
	bitmap_clear(holes, SLAB_BLOCKS - 1);
	count = 0;
	for (uint32_t slot = 1; slot < SLAB_BLOCKS - 1; slot++) {
		if (!bitmap_test(holes, slot) || fuzz_byte(&input) & 1)
			continue;
		blocks[count].addr = baddr_make(1000 + slot / 16, slot);
		blocks[count].crc = slot;
		plugs[count++] = (uint16_t)slot;
	}
	if (!packed_plug(&opened, holes, blocks, plugs, count, 9, &pool_uuid, 1, again))
		return 0;
	CHECK(packed_open(&reader, again, 1, SLAB_BLOCKS, 9, &pool_uuid, &error) == 0);
	(void)packed_scattered(&reader, scattered);
	while (packed_next(&reader, &view)) {
		packed_places(&view, NULL, SLAB_BLOCKS, places);
		for (uint32_t k = 0; k < view.count && view.places; k++)
			if (bitmap_test(holes, places[k]))
				CHECK(view.crcs[k] == places[k] && count-- > 0);
	}
	CHECK(count == 0);
	return 0;
}
