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
	uint16_t list[SLAB_BLOCKS];

	fuzz_take(&input, block, sizeof(block));
	if (sealed)
		seal(block);
	if (packed_open(&reader, block, 1, SLAB_BLOCKS, 9, &pool_uuid, &error))
		return 0;
	while (packed_next(&reader, &view)) {
		packed_list(view.slots, view.count, SLAB_BLOCKS, list);
		for (uint32_t k = 0; k < view.count; k++, count++) {
			CHECK(view.first + k == 1 + count && list[k] < SLAB_BLOCKS);
			CHECK(packed_rank(view.slots, view.count, SLAB_BLOCKS, list[k]) ==
			      (int32_t)k);
			blocks[count].addr = baddr_make(view.segment, list[k]);
			blocks[count].crc = view.crcs[k];
			CHECK(count == 0 || blocks[count].addr.n > blocks[count - 1].addr.n);
		}
	}
	CHECK(count <= SLAB_BLOCKS - 2);
	CHECK(packed_fit(blocks, count, SLAB_BLOCKS, &directory_blocks) == count);
	packed_encode(blocks, count, SLAB_BLOCKS, 9, &pool_uuid, 1, again);
	CHECK(packed_open(&reader, again, 1, SLAB_BLOCKS, 9, &pool_uuid, &error) == 0);
	return 0;
}
