/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batch headers: raw, or with magic, place and CRC made right.  Whatever is accepted lies within
 * its segment, and so does each of its pieces.
 */
#include "metadata/batch.h"
#include "tests/fuzz/fuzz.h"

#define SLAB_BLOCKS 64u

static const struct uuid pool_uuid = { { 4, 5, 6 } };

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	uint8_t kind = fuzz_byte(&input);
	struct batch_header header;
	struct batch_reader reader;
	struct batch_piece piece;
	uint64_t blocks = 0;
	int rc;

	fuzz_take(&input, &header, sizeof(header));
	if (kind & 1) {
		header.magic = BATCH_MAGIC;
		header.version = FORMAT_VERSION;
		header.segment = 7;
		header.slot %= SLAB_BLOCKS;
	}
	if (kind & 2)
		header.block_count %= SLAB_BLOCKS;
	if (kind & 4)
		header.entry_bytes %= BATCH_ENTRY_BYTES_MAX + 1;
	if (kind & 1)
		header.crc = batch_crc(&header, &pool_uuid);
	if (!batch_header_valid(&header, &pool_uuid, 7, header.slot, SLAB_BLOCKS))
		return 0;
	CHECK(header.slot + 1 + (uint64_t)header.block_count <= SLAB_BLOCKS);
	batch_read_begin(&reader, &header);
	while ((rc = batch_read_next(&reader, &piece)) > 0) {
		if (piece.type == BATCH_ZERO)
			continue;
		CHECK(piece.block_index + piece.blocks <= header.block_count);
		CHECK(baddr_segment(piece.addr) == 7);
		CHECK(baddr_slot(piece.addr) + piece.blocks <= SLAB_BLOCKS);
		CHECK(piece.crcs >= header.entries &&
		      piece.crcs + 4 * piece.blocks <= header.entries + sizeof(header.entries));
		blocks += piece.blocks;
	}
	CHECK(rc == 0 || rc == -EUCLEAN);
	CHECK(blocks <= header.block_count);
	return 0;
}
