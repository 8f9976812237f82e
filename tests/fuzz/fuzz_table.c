/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slab table pages: two places of each page, raw or with magic and CRC made right.  Whatever table
 * is accepted keeps the invariants of metadata/space.h, and is found again when encoded.
 */
#include "metadata/space.h"
#include "tests/fuzz/fuzz.h"

#define SLAB_BLOCKS 64u
#define SLABS 8u /* small, so that inputs are; one page */

static const struct uuid device_uuid = { { 1, 2, 3 } };

static void
seal(uint8_t *block)
{
	struct table_page *header = (struct table_page *)(void *)block;
	uint32_t crc;

	header->magic = TABLE_MAGIC;
	header->version = FORMAT_VERSION;
	header->index = 0;
	if (header->mark == 0)
		header->mark = SLABS;
	header->crc = 0;
	crc = crc32c(0, &device_uuid, sizeof(device_uuid));
	header->crc = crc32c(crc, block, FORMAT_BLOCK_BYTES);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	uint8_t kind = fuzz_byte(&input);
	size_t used = sizeof(struct table_page) + SLABS * slab_record_bytes(SLAB_BLOCKS);
	static _Alignas(8) uint8_t places[2][FORMAT_BLOCK_BYTES];
	struct space space;
	struct error error;

	memset(places, 0, sizeof(places));
	for (unsigned i = 0; i < 2; i++) {
		fuzz_take(&input, places[i], used);
		if (kind & 1u << i)
			seal(places[i]);
	}
	space_init(&space, SLAB_BLOCKS, 1);
	space_add_device(&space, 0, &device_uuid, 512, SLABS);
	if (space_decode_page(&space, 0, 0, 1000, places[0], places[1], &error) == 0) {
		uint64_t live = space.live_blocks, free_count = space.free_count;

		CHECK(space_invariant(&space));
		space_begin_table(&space);
		space_encode_page(&space, 0, 0, 1001, places[0]);
		space_fini(&space);
		space_init(&space, SLAB_BLOCKS, 1);
		space_add_device(&space, 0, &device_uuid, 512, SLABS);
		CHECK(space_decode_page(&space, 0, 0, 1001, places[0], places[0], &error) == 0);
		CHECK(space.live_blocks == live && space.free_count == free_count);
	}
	space_fini(&space);
	return 0;
}
