/* SPDX-License-Identifier: Apache-2.0 */
/* Batches: what is built is read back; damaged or impossible ones are found out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "core/base/crc32c.h"
#include "metadata/batch.h"

#define SEGMENT 77u
#define SLOT 5u
#define SLAB_BLOCKS 64u

static const struct uuid pool = { { 0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 5 } };
static struct batch_header header;

static void
seal(void)
{
	header.crc = batch_crc(&header, &pool);
}

static bool
valid(void)
{
	return batch_header_valid(&header, &pool, SEGMENT, SLOT, SLAB_BLOCKS);
}

/* Reads all pieces; the result of the last read. */
static int
read_all(struct batch_piece *pieces, unsigned *count)
{
	struct batch_reader reader;
	struct batch_piece piece;
	int rc;

	*count = 0;
	batch_read_begin(&reader, &header);
	while ((rc = batch_read_next(&reader, &piece)) == 1) {
		if (pieces)
			pieces[*count] = piece;
		++*count;
	}
	return rc;
}

static const uint32_t crcs[8] = { 11, 22, 33, 44, 55, 66, 77, 88 };

static void
build(void)
{
	batch_begin(&header, SEGMENT, SLOT);
	batch_add_blocks(&header, BATCH_WRITE, (1ull << 40) - 1, 1ull << 47, 3, crcs);
	batch_add_zero(&header, 2, 100, 1ull << 40);
	batch_add_blocks(&header, BATCH_NODE, 0, 9, 1, crcs + 3);
	batch_add_blocks(&header, BATCH_CATALOG, 0, 16, 2, crcs + 4);
	batch_add_blocks(&header, BATCH_WRITE, 3, 0, 2, crcs + 6);
	header.sequence = 1000;
	header.generation = 2;
	seal();
}

static void
test_pieces_come_back_as_they_were_added(void **state)
{
	struct batch_piece p[8];
	unsigned count;

	build();
	assert_true(valid());
	assert_int_equal(header.block_count, 8);
	assert_int_equal(read_all(p, &count), 0);
	assert_int_equal(count, 5);
	assert_int_equal(p[0].type, BATCH_WRITE);
	assert_true(p[0].image == (1ull << 40) - 1);
	assert_true(p[0].lba == 1ull << 47);
	assert_int_equal(p[0].blocks, 3);
	assert_true(p[0].addr.n == baddr_make(SEGMENT, SLOT + 1).n);
	assert_memory_equal(p[0].crcs, crcs, 12);
	assert_int_equal(p[1].type, BATCH_ZERO);
	assert_int_equal(p[1].image, 2);
	assert_int_equal(p[1].lba, 100);
	assert_true(p[1].blocks == 1ull << 40);
	assert_int_equal(p[2].type, BATCH_NODE);
	assert_int_equal(p[2].lba, 9);
	assert_int_equal(p[2].block_index, 3);
	assert_int_equal(p[3].type, BATCH_CATALOG);
	assert_int_equal(p[3].blocks, 2);
	assert_int_equal(p[4].block_index, 6);
	assert_true(p[4].addr.n == baddr_make(SEGMENT, SLOT + 1 + 6).n);
	assert_memory_equal(p[4].crcs, crcs + 6, 8);
}

static void
test_empty_batch_has_no_pieces(void **state)
{
	unsigned count;

	batch_begin(&header, SEGMENT, SLOT);
	seal();
	assert_true(valid());
	assert_int_equal(header.next_device, BATCH_NO_SLAB);
	assert_int_equal(batch_room_bytes(&header), BATCH_ENTRY_BYTES_MAX);
	assert_int_equal(read_all(NULL, &count), 0);
	assert_int_equal(count, 0);
}

static void
test_full_header_is_read_to_its_last_byte(void **state)
{
	unsigned count, added = 0;

	batch_begin(&header, SEGMENT, SLOT);
	while (batch_room_bytes(&header) >= BATCH_ZERO_BYTES) {
		batch_add_zero(&header, 1, added, 1);
		added++;
	}
	assert_in_range(batch_room_bytes(&header), 0, BATCH_ZERO_BYTES - 1);
	assert_int_equal(read_all(NULL, &count), 0);
	assert_int_equal(count, added);
}

static void
test_every_flipped_bit_of_a_header_is_found(void **state)
{
	uint8_t *bytes = (uint8_t *)&header;

	build();
	for (size_t bit = 0; bit < 8 * sizeof(header); bit++) {
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (valid())
			fail_msg("bit %zu", bit);
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_true(valid());
}

static void
test_header_of_another_place_or_pool_is_not_valid(void **state)
{
	struct uuid other = pool;

	build();
	assert_false(batch_header_valid(&header, &pool, SEGMENT + 1, SLOT, SLAB_BLOCKS));
	assert_false(batch_header_valid(&header, &pool, SEGMENT, SLOT + 1, SLAB_BLOCKS));
	other.bytes[7] ^= 1;
	assert_false(batch_header_valid(&header, &other, SEGMENT, SLOT, SLAB_BLOCKS));
	/* Its blocks end with the segment. */
	assert_true(batch_header_valid(&header, &pool, SEGMENT, SLOT, SLOT + 1 + 8));
	assert_false(batch_header_valid(&header, &pool, SEGMENT, SLOT, SLOT + 8));
	assert_false(batch_header_valid(&header, &pool, SEGMENT, SLOT, SLOT));
	/* As if it had been copied, crc and all, to where it says it is. */
	header.slot++;
	assert_false(batch_header_valid(&header, &pool, SEGMENT, SLOT + 1, SLAB_BLOCKS));
}

static void
test_header_with_impossible_lengths_is_not_valid(void **state)
{
	build();
	header.next_segment = (1ull << 47) - 1;
	seal();
	assert_true(valid());
	header.next_segment++; /* its addresses would be none */
	seal();
	assert_false(valid());
	build();
	header.entry_bytes = BATCH_ENTRY_BYTES_MAX + BATCH_COPIES_BYTES + 1;
	seal();
	assert_false(valid());
	build();
	header.block_count = SLAB_BLOCKS - SLOT;
	seal();
	assert_false(valid());
	header.block_count = UINT32_MAX;
	seal();
	assert_false(valid());
	build();
	header.version++;
	seal();
	assert_false(valid());
}

/* Whatever the lengths say, the reader stays within the entries and the blocks. */
static void
test_truncated_entries_are_damage(void **state)
{
	unsigned count;

	build();
	uint32_t whole = header.entry_bytes;

	for (header.entry_bytes = 0; header.entry_bytes < whole; header.entry_bytes++) {
		seal();
		assert_true(valid());
		assert_int_equal(read_all(NULL, &count), -EUCLEAN);
	}
	for (unsigned more = 1; more < 24; more++) {
		header.entry_bytes = whole + more;
		seal();
		assert_int_equal(read_all(NULL, &count), -EUCLEAN);
	}
}

static struct batch_entry *
first_entry(void)
{
	return (struct batch_entry *)header.entries;
}

static void
assert_damaged(void)
{
	unsigned count;

	seal();
	assert_true(valid());
	assert_int_equal(read_all(NULL, &count), -EUCLEAN);
}

static void
test_impossible_entries_are_damage(void **state)
{
	static const uint8_t types[] = { 0, 5, 255 };

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		build();
		first_entry()->type = types[i];
		assert_damaged();
	}
	build();
	first_entry()->count = 0;
	assert_damaged();
	build();
	first_entry()->count = UINT16_MAX;
	assert_damaged();
	build();
	header.block_count--; /* more blocks in entries than in the batch */
	assert_damaged();
	build();
	header.block_count++; /* fewer */
	assert_damaged();
	build();
	first_entry()->lba = (1ull << 48) - 2; /* the third block is beyond the last */
	assert_damaged();
	build();
	first_entry()->lba = UINT64_MAX;
	assert_damaged();
}

static void
test_impossible_zero_and_catalog_entries_are_damage(void **state)
{
	batch_begin(&header, SEGMENT, SLOT);
	batch_add_zero(&header, 1, 0, 0);
	assert_damaged();
	batch_begin(&header, SEGMENT, SLOT);
	batch_add_zero(&header, 1, 1, 1ull << 48);
	assert_damaged();
	batch_begin(&header, SEGMENT, SLOT);
	batch_add_zero(&header, 1, 1ull << 48, 1);
	assert_damaged();
	batch_begin(&header, SEGMENT, SLOT);
	batch_add_blocks(&header, BATCH_CATALOG, 0, 0, 1, crcs);
	assert_damaged();
	batch_begin(&header, SEGMENT, SLOT);
	batch_add_blocks(&header, BATCH_CATALOG, 0, CATALOG_OPS_PER_BLOCK + 1, 1, crcs);
	assert_damaged();
}

/* Any header with a right CRC is read without leaving it: the sanitizers watch. */
static void
test_any_entries_are_read_within_bounds(void **state)
{
	uint64_t seed = 1;
	unsigned ends[2] = { 0 };

	for (unsigned round = 0; round < 20000; round++) {
		struct batch_reader reader;
		struct batch_piece piece;
		int rc;

		batch_begin(&header, SEGMENT, SLOT);
		header.block_count = mix64(++seed) % (SLAB_BLOCKS - SLOT);
		header.entry_bytes = mix64(++seed) % 100;
		for (unsigned i = 0; i < 100; i++)
			header.entries[i] = (uint8_t)(mix64(++seed) % (i % 16 < 2 ? 6 : 3));
		batch_read_begin(&reader, &header);
		while ((rc = batch_read_next(&reader, &piece)) == 1) {
			assert_in_range(piece.blocks, 1, 1ull << 48);
			if (piece.type == BATCH_ZERO)
				continue;
			assert_true(piece.block_index + piece.blocks <= header.block_count);
			assert_true(
			    piece.crcs + 4 * piece.blocks <= header.entries + header.entry_bytes);
		}
		ends[rc == 0]++;
	}
	assert_true(ends[0] && ends[1]);
}

static void
test_data_is_checked_block_by_block(void **state)
{
	static uint8_t data[3][FORMAT_BLOCK_BYTES];
	uint32_t right[3];

	batch_begin(&header, SEGMENT, SLOT);
	for (unsigned i = 0; i < 3; i++) {
		memset(data[i], 'a' + (int)i, sizeof(data[i]));
		right[i] = crc32c(0, data[i], FORMAT_BLOCK_BYTES) ^
			   baddr_crc_mix(baddr_make(SEGMENT, SLOT + 1 + i));
	}
	batch_add_blocks(&header, BATCH_WRITE, 1, 0, 1, right);
	batch_add_zero(&header, 1, 0, 1);
	batch_add_blocks(&header, BATCH_WRITE, 1, 50, 2, right + 1);
	assert_true(batch_data_valid(&header, data[0]));
	for (size_t at = 0; at < sizeof(data); at += 97) {
		data[at / FORMAT_BLOCK_BYTES][at % FORMAT_BLOCK_BYTES] ^= 0x40;
		assert_false(batch_data_valid(&header, data[0]));
		data[at / FORMAT_BLOCK_BYTES][at % FORMAT_BLOCK_BYTES] ^= 0x40;
	}
	/* The same block at another place is another block. */
	memcpy(data[1], data[2], sizeof(data[1]));
	assert_false(batch_data_valid(&header, data[0]));
}

/* --- applying --- */

static struct space space;
static struct nodes nodes;
static struct catalog catalog;
static struct catalog_op op;

static const void *
op_block(void *context, uint32_t index)
{
	static struct catalog_op block[CATALOG_OPS_PER_BLOCK];

	block[0] = op;
	return block;
}

static int
apply(uint64_t replayed_checkpoint)
{
	return batch_apply(&catalog, &header, op_block, NULL, replayed_checkpoint);
}

static int
setup(void **state)
{
	space_init(&space, SLAB_BLOCKS, 1);
	space_add_device(&space, 0, &pool, 512, 16);
	space_open_slab(&space, space_pick(&space, 0, 0), SEGMENT);
	nodes_init(&nodes, &space, MIB);
	catalog_init(&catalog, &nodes);
	op = (struct catalog_op){
		.type = CATALOG_OP_VOLUME_CREATE,
		.size_bytes = GIB,
		.name = "a",
	};
	batch_begin(&header, SEGMENT, SLOT);
	batch_add_blocks(&header, BATCH_CATALOG, 0, 1, 1, crcs);
	assert_int_equal(apply(0), 0);
	return 0;
}

static int
teardown(void **state)
{
	catalog_fini(&catalog);
	nodes_fini(&nodes);
	space_fini(&space);
	return 0;
}

static void
test_applying_goes_in_the_order_of_the_entries(void **state)
{
	struct map_entry entries[4];
	struct map_fault fault;
	struct image *head = catalog_volume(&catalog, 1)->head;

	batch_begin(&header, SEGMENT, SLOT);
	batch_add_blocks(&header, BATCH_WRITE, head->id, 10, 3, crcs);
	batch_add_zero(&header, head->id, 11, 1);
	batch_add_blocks(&header, BATCH_WRITE, head->id, 12, 1, crcs + 3);
	assert_int_equal(apply(0), 0);
	assert_int_equal(map_get(&nodes, &head->map, 10, 4, entries, &fault), MAP_OK);
	assert_true(entries[0].addr == baddr_make(SEGMENT, SLOT + 1).n);
	assert_int_equal(entries[0].crc, 11);
	assert_int_equal(entries[1].addr, 0);
	assert_true(entries[2].addr == baddr_make(SEGMENT, SLOT + 4).n);
	assert_int_equal(entries[2].crc, 44);
	assert_int_equal(entries[3].addr, 0);
	assert_int_equal(space.live_blocks, 2);
}

static void
test_writes_to_what_is_no_head_are_damage(void **state)
{
	static const uint64_t images[] = { 0, 1, 99 }; /* the catalog, a volume, nothing */

	for (size_t i = 0; i < ARRAY_SIZE(images); i++) {
		batch_begin(&header, SEGMENT, SLOT);
		batch_add_blocks(&header, BATCH_WRITE, images[i], 10, 3, crcs);
		assert_int_equal(apply(0), -EUCLEAN);
		batch_begin(&header, SEGMENT, SLOT);
		batch_add_zero(&header, images[i], 10, 3);
		assert_int_equal(apply(0), -EUCLEAN);
	}
	op =
	    (struct catalog_op){ .type = CATALOG_OP_VOLUME_CREATE, .size_bytes = GIB, .name = "a" };
	batch_begin(&header, SEGMENT, SLOT);
	batch_add_blocks(&header, BATCH_CATALOG, 0, 1, 1, crcs);
	assert_int_equal(apply(0), -EUCLEAN); /* it exists */
	assert_int_equal(space.live_blocks, 0);
}

/* Only the table knows: a node may have been dead before it was written. */
static void
test_replay_does_not_make_nodes_live(void **state)
{
	batch_begin(&header, SEGMENT, SLOT);
	batch_add_blocks(&header, BATCH_NODE, 0, 9, 3, crcs);
	assert_int_equal(apply(9), 0);
	assert_int_equal(space.live_blocks, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pieces_come_back_as_they_were_added),
		cmocka_unit_test(test_empty_batch_has_no_pieces),
		cmocka_unit_test(test_full_header_is_read_to_its_last_byte),
		cmocka_unit_test(test_every_flipped_bit_of_a_header_is_found),
		cmocka_unit_test(test_header_of_another_place_or_pool_is_not_valid),
		cmocka_unit_test(test_header_with_impossible_lengths_is_not_valid),
		cmocka_unit_test(test_truncated_entries_are_damage),
		cmocka_unit_test(test_impossible_entries_are_damage),
		cmocka_unit_test(test_impossible_zero_and_catalog_entries_are_damage),
		cmocka_unit_test(test_any_entries_are_read_within_bounds),
		cmocka_unit_test(test_data_is_checked_block_by_block),
		cmocka_unit_test_setup_teardown(
		    test_applying_goes_in_the_order_of_the_entries, setup, teardown),
		cmocka_unit_test_setup_teardown(
		    test_writes_to_what_is_no_head_are_damage, setup, teardown),
		cmocka_unit_test_setup_teardown(
		    test_replay_does_not_make_nodes_live, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
