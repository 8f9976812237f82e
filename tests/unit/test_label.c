/* SPDX-License-Identifier: Apache-2.0 */
/* Label, superblock, device set: round trips, damage of every bit, impossible values, geometry. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "core/base/crc32c.h"
#include "metadata/label.h"

#define DEVICE_BYTES (64 * MIB + 12345)

static uint8_t block[FORMAT_BLOCK_BYTES];

static struct label
good_label(void)
{
	struct label label = {
		.features_compat = 5, /* unknown ones are nobody's business */
		.features_ro_compat = 9,
		.pool_uuid = uuid_new(),
		.device_uuid = uuid_new(),
		.device_index = 3,
		.slab_blocks = SLAB_BLOCKS_MIN,
		.size_bytes = DEVICE_BYTES,
		.created_s = 1234567,
		.pool_name = "tank",
	};
	struct geometry geometry;

	geometry_of(&geometry, label.size_bytes, label.slab_blocks);
	label.slab_count = geometry.slab_count;
	label.slabs_block = geometry.slabs_block;
	return label;
}

static struct superblock
good_superblock(void)
{
	struct superblock superblock = {
		.pool_uuid = uuid_new(),
		.checkpoint = 77,
		.generation = 3,
		.next_segment = 1000,
		.next_id = 12,
		.catalog_root = { baddr_make(999, 63).n, 2, 0x1234 },
		.catalog_levels = 1,
		.epoch = 5,
		.log_segment = 999,
		.log_sequence = 4444,
		.log_next_device = BATCH_NO_SLAB,
		.durable_sequence = 4443,
		.table_digest = 0x0123456789abcdef,
		.device_count = 2,
	};

	return superblock;
}

static struct device_set
good_device_set(void)
{
	struct device_set set = {
		.pool_uuid = uuid_new(),
		.generation = 8,
		.count = 2,
		.devices = { { .uuid = uuid_new(), .state = DEVICE_STATE_ONLINE },
		    { .uuid = uuid_new(), .index = 1, .state = DEVICE_STATE_ONLINE } },
	};

	return set;
}

/* --- round trips --- */

static void
test_label_round_trip(void **state)
{
	struct label label = good_label(), out;
	struct error error;

	label_encode(&label, block);
	assert_int_equal(label_decode(&out, block, DEVICE_BYTES, &error), 0);
	assert_memory_equal(out.magic, LABEL_MAGIC, 8);
	assert_int_equal(out.version, FORMAT_VERSION);
	assert_memory_equal(&out.features_compat, &label.features_compat,
	    sizeof(label) - offsetof(struct label, features_compat));
	/* A device that has grown is still this one. */
	assert_int_equal(label_decode(&out, block, DEVICE_BYTES + GIB, &error), 0);
}

static void
test_superblock_round_trip(void **state)
{
	struct superblock superblock = good_superblock(), out;
	struct error error;

	memset(block, 0xff, sizeof(block));
	superblock_encode(&superblock, block);
	assert_int_equal(superblock_decode(&out, block, &error), 0);
	assert_memory_equal(&out.pool_uuid, &superblock.pool_uuid,
	    sizeof(out) - offsetof(struct superblock, pool_uuid));
	for (size_t i = sizeof(out); i < sizeof(block); i++)
		assert_int_equal(block[i], 0);
}

static void
test_device_set_round_trip(void **state)
{
	struct device_set set = good_device_set(), out;
	struct error error;

	device_set_encode(&set, block);
	assert_int_equal(device_set_decode(&out, block, &error), 0);
	assert_memory_equal(
	    &out.pool_uuid, &set.pool_uuid, sizeof(out) - offsetof(struct device_set, pool_uuid));
}

static void
test_newer_device_set_is_of_the_later_generation_of_the_pool(void **state)
{
	struct device_set set = good_device_set(), other = set, none = { 0 };

	assert_true(device_set_is_newer(&set, &none));
	assert_false(device_set_is_newer(&set, &other));
	set.generation++;
	assert_true(device_set_is_newer(&set, &other));
	assert_false(device_set_is_newer(&other, &set));
	other.pool_generation++;
	assert_true(device_set_is_newer(&other, &set));
	assert_false(device_set_is_newer(&set, &other));
}

static void
test_the_device_set_that_counts_is_one_that_all_have(void **state)
{
	enum {
		NONE = -1
	};
	/* Of three devices: the number of the set there, and which of them it has as OUT. */
	static const struct {
		struct {
			unsigned number;
			int out;
		} sets[3];
		uint32_t chosen;
	} cases[] = {
		{ { { 5, NONE }, { 5, NONE }, { 5, NONE } }, 0 },
		/* device 2 is lost: 0 and 1 know, or a crash came when only 0 did */
		{ { { 6, 2 }, { 6, 2 }, { 5, NONE } }, 0 },
		{ { { 6, 2 }, { 5, NONE }, { 5, NONE } }, 0 },
		/* ... and then 1 and 2 went on without 0, which may have tried several times */
		{ { { 6, 2 }, { 6, 0 }, { 6, 0 } }, 1 },
		{ { { 9, 2 }, { 6, 0 }, { 6, 0 } }, 1 },
		{ { { 9, 2 }, { 6, 0 }, { 0, 0 } }, 0 },
		{ { { 0, 0 }, { 6, 0 }, { 6, 0 } }, 1 },
		{ { { 0, 0 }, { 0, 0 }, { 5, NONE } }, 2 },
		{ { { 0, 0 }, { 0, 0 }, { 0, 0 } }, 3 },
	};
	static const uint32_t indices[3] = { 0, 1, 2 };
	const struct device_set one = good_device_set();

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		static struct device_set sets[3];

		memset(sets, 0, sizeof(sets));
		for (unsigned d = 0; d < 3; d++) {
			struct device_set set = one;
			struct error error;

			if (cases[i].sets[d].number == 0)
				continue;
			set.count = 3;
			set.generation = cases[i].sets[d].number;
			for (int k = 0; k < 3; k++) {
				set.devices[k] = set.devices[0];
				set.devices[k].uuid.bytes[0] = (uint8_t)k;
				set.devices[k].index = (uint16_t)k;
				set.devices[k].state = k == cases[i].sets[d].out
							   ? DEVICE_STATE_OUT
							   : DEVICE_STATE_ONLINE;
			}
			device_set_encode(&set, block);
			assert_int_equal(device_set_decode(&sets[d], block, &error), 0);
		}
		assert_int_equal(device_set_choose(sets, indices, 3), cases[i].chosen);
	}
}

static void
test_a_device_that_was_asked_alone_is_a_fork(void **state)
{
	enum {
		IN = DEVICE_STATE_ONLINE,
		OUT = DEVICE_STATE_OUT,
	};
	/* Device 2 is out; what it and the others say of all three. */
	static const struct {
		unsigned since[3]; /* now */
		unsigned heard;    /* the number of its own set */
		unsigned its[3];
		bool fork;
	} cases[] = {
		/* It was lost with set 6, and knows of all before, some of all before, nothing. */
		{ { 0, 0, 6 }, 5, { IN, IN, IN }, false },
		{ { 0, 0, 6 }, 2, { IN, IN, IN }, false },
		/* It was imported alone, while the others were, or before, or after. */
		{ { 0, 0, 6 }, 6, { OUT, OUT, IN }, true },
		{ { 0, 0, 6 }, 9, { OUT, OUT, IN }, true },
		{ { 0, 0, 6 }, 4, { OUT, OUT, IN }, true },
		/* It knew that another one was out, which came back since; or did not. */
		{ { 5, 0, 6 }, 4, { OUT, IN, IN }, false },
		{ { 8, 0, 6 }, 4, { OUT, IN, IN }, false },
		{ { 3, 0, 6 }, 4, { OUT, IN, IN }, true },
		{ { 8, 0, 6 }, 7, { OUT, IN, IN }, true },
		/* Sets of which a crash left the rest unwritten. */
		{ { 0, 0, 6 }, 6, { IN, IN, IN }, false },
		/* It was coming back, and out in all that it heard. */
		{ { 9, 0, 6 }, 8, { OUT, IN, OUT }, false },
		/* Numbers beyond what is kept. */
		{ { 0, 0, UINT16_MAX }, 70000, { IN, IN, IN }, false },
		{ { UINT16_MAX, 0, UINT16_MAX }, 70000, { OUT, IN, IN }, true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct device_set now = good_device_set(), its = now;

		now.count = its.count = 3;
		its.generation = cases[i].heard;
		for (unsigned d = 0; d < 3; d++) {
			now.devices[d].since = (uint16_t)cases[i].since[d];
			now.devices[d].state = d == 2 ? OUT : IN;
			its.devices[d].state = cases[i].its[d];
		}
		assert_int_equal(device_set_is_fork(&now, &its, 2), cases[i].fork);
	}
}

static void
test_heartbeat_round_trip_and_every_damage_makes_it_none(void **state)
{
	struct heartbeat heartbeat = { .pool_uuid = uuid_new(),
		.session = uuid_new(),
		.beat = 7,
		.interval_ms = HEARTBEAT_INTERVAL_MS,
		.pid = 4711,
		.host = "far-away" };
	struct heartbeat out;

	heartbeat_encode(&heartbeat, block);
	heartbeat_decode(&out, block);
	assert_memory_equal(&out.pool_uuid, &heartbeat.pool_uuid,
	    sizeof(out) - offsetof(struct heartbeat, pool_uuid));
	for (size_t bit = 0; bit < 8 * sizeof(heartbeat); bit++) {
		block[bit / 8] ^= (uint8_t)(1u << bit % 8);
		heartbeat_decode(&out, block);
		assert_int_equal(out.interval_ms, 0);
		block[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	/* Values that would have an import wait for ever, or read beyond the name. */
	heartbeat.interval_ms = HEARTBEAT_INTERVAL_MS_MAX + 1;
	heartbeat_encode(&heartbeat, block);
	heartbeat_decode(&out, block);
	assert_int_equal(out.interval_ms, 0);
	heartbeat.interval_ms = 1;
	memset(heartbeat.host, 'x', sizeof(heartbeat.host));
	heartbeat_encode(&heartbeat, block);
	heartbeat_decode(&out, block);
	assert_int_equal(out.interval_ms, 0);
	memset(block, 0, sizeof(block));
	heartbeat_decode(&out, block);
	assert_int_equal(out.interval_ms, 0);
}

/* --- every bit --- */

static int
decode_label(struct error *error)
{
	struct label out;

	return label_decode(&out, block, DEVICE_BYTES, error);
}

static int
decode_superblock(struct error *error)
{
	struct superblock out;

	return superblock_decode(&out, block, error);
}

static int
decode_device_set(struct error *error)
{
	struct device_set out;

	return device_set_decode(&out, block, error);
}

static void
flip_every_bit(int (*decode)(struct error *error), size_t bytes, const char *noun)
{
	struct error error;

	assert_int_equal(decode(&error), 0);
	for (size_t bit = 0; bit < 8 * bytes; bit++) {
		bool in_magic = bit < 64;

		block[bit / 8] ^= (uint8_t)(1 << bit % 8);
		memset(&error, 0, sizeof(error));
		if (decode(&error) != (in_magic ? -ENODATA : -EUCLEAN))
			fail_msg("bit %zu: %d %s", bit, error.code, error.text);
		if (!strstr(error.text, noun) ||
		    (!in_magic && !strstr(error.text, "damaged (checksum)")))
			fail_msg("bit %zu: %s", bit, error.text);
		block[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(decode(&error), 0);
}

static void
test_every_flipped_bit_of_a_label_is_found(void **state)
{
	struct label label = good_label();

	label_encode(&label, block);
	flip_every_bit(decode_label, sizeof(label), "label");
}

static void
test_every_flipped_bit_of_a_superblock_is_found(void **state)
{
	struct superblock superblock = good_superblock();

	superblock_encode(&superblock, block);
	flip_every_bit(decode_superblock, sizeof(superblock), "superblock");
}

static void
test_every_flipped_bit_of_a_device_set_is_found(void **state)
{
	struct device_set set = good_device_set();

	device_set_encode(&set, block);
	flip_every_bit(decode_device_set, sizeof(set), "device set");
}

static void
test_empty_blocks_are_nothing_rather_than_damaged(void **state)
{
	struct error error;

	memset(block, 0, sizeof(block));
	assert_int_equal(decode_label(&error), -ENODATA);
	assert_int_equal(decode_superblock(&error), -ENODATA);
	assert_int_equal(decode_device_set(&error), -ENODATA);
}

/* --- values that cannot be, with a right checksum --- */

/* The checksum as format.h describes it: begun with the place, its own field zero. */
static void
reseal(size_t bytes, size_t crc_offset, uint64_t place)
{
	uint32_t crc = 0;

	memset(block + crc_offset, 0, sizeof(crc));
	crc = crc32c(crc32c(0, &place, sizeof(place)), block, bytes);
	memcpy(block + crc_offset, &crc, sizeof(crc));
}

static void
assert_label(struct label *label, int code, const char *text)
{
	struct error error = { 0 };

	label_encode(label, block);
	assert_int_equal(decode_label(&error), code);
	assert_non_null(strstr(error.text, text));
}

static void
test_label_of_another_version_or_feature_is_not_supported(void **state)
{
	struct label label = good_label();
	struct error error = { 0 };

	label.features_incompat = 1ull << 63;
	assert_label(&label, -ENOTSUP, "features 8000000000000000");
	label = good_label();
	label_encode(&label, block);
	((struct label *)block)->version = FORMAT_VERSION + 1;
	reseal(sizeof(label), offsetof(struct label, crc), FORMAT_LABEL_BLOCK);
	assert_int_equal(decode_label(&error), -ENOTSUP);
	assert_non_null(strstr(error.text, "format version 3"));
	((struct label *)block)->version = 1; /* whose tables had all slabs */
	reseal(sizeof(label), offsetof(struct label, crc), FORMAT_LABEL_BLOCK);
	assert_int_equal(decode_label(&error), -ENOTSUP);
	assert_non_null(strstr(error.text, "format version 1,"));
	assert_non_null(strstr(error.text, "this program knows version 2"));
}

static void
test_label_with_impossible_values_is_refused(void **state)
{
	static const uint32_t slab_blocks[] = { 0, 1, SLAB_BLOCKS_MIN / 2, SLAB_BLOCKS_MIN + 1,
		SLAB_BLOCKS_MAX * 2, 96, UINT32_MAX };
	struct label label;

	for (size_t i = 0; i < ARRAY_SIZE(slab_blocks); i++) {
		label = good_label();
		label.slab_blocks = slab_blocks[i];
		assert_label(&label, -EUCLEAN, "impossible");
	}
	label = good_label();
	label.device_index = POOL_DEVICES_MAX;
	assert_label(&label, -EUCLEAN, "impossible");
	label = good_label();
	memset(label.pool_name, 'x', sizeof(label.pool_name));
	assert_label(&label, -EUCLEAN, "impossible");
}

static void
test_label_with_impossible_geometry_is_refused(void **state)
{
	struct label label = good_label();

	label.slab_count++;
	assert_label(&label, -EUCLEAN, "geometry is impossible");
	label = good_label();
	label.slabs_block += 256;
	assert_label(&label, -EUCLEAN, "geometry is impossible");
	label = good_label();
	label.slab_blocks *= 2;
	assert_label(&label, -EUCLEAN, "geometry is impossible");
	label = good_label();
	label.size_bytes += 10 * MIB;
	assert_label(&label, -EUCLEAN, "geometry is impossible");
	/* So small that there is no slab at all: nothing contradicts, and yet. */
	label = good_label();
	label.size_bytes = 0;
	label.slab_count = 0;
	label.slabs_block = 0;
	assert_label(&label, -EUCLEAN, "geometry is impossible");
}

static void
test_label_of_a_device_that_shrank_says_both_sizes(void **state)
{
	struct label label = good_label(), out;
	struct error error;

	label_encode(&label, block);
	assert_int_equal(label_decode(&out, block, DEVICE_BYTES - 1, &error), -EUCLEAN);
	assert_non_null(strstr(error.text, "67121208"));
	assert_non_null(strstr(error.text, "67121209"));
}

static void
test_superblock_with_impossible_values_is_refused(void **state)
{
	struct superblock bad[13];
	struct error error;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		bad[i] = good_superblock();
	bad[0].catalog_levels = MAP_LEVELS_MAX + 1;
	bad[1].epoch = 0;
	bad[2].device_count = 0;
	bad[3].device_count = POOL_DEVICES_MAX + 1;
	bad[4].next_segment = 1ull << 47;
	bad[5].catalog_root.addr |= 1ull << 63; /* not on disk */
	bad[6].catalog_levels = 0;              /* with a root */
	bad[7].next_segment = 0;
	bad[8].next_id = 0;
	bad[9].next_id = 1ull << IMAGE_ID_BITS;
	bad[10].log_segment = 0;
	bad[11].log_segment = bad[11].next_segment;
	bad[12].log_next_device = 0;
	bad[12].log_next_segment = bad[12].next_segment;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		superblock_encode(&bad[i], block);
		if (decode_superblock(&error) != -EUCLEAN)
			fail_msg("case %zu is taken", i);
		assert_non_null(strstr(error.text, "impossible"));
	}
}

static void
test_superblock_of_another_version_is_not_supported(void **state)
{
	struct superblock superblock = good_superblock();
	struct error error;

	superblock_encode(&superblock, block);
	((struct superblock *)block)->version = FORMAT_VERSION + 1;
	reseal(sizeof(superblock), offsetof(struct superblock, crc), superblock.checkpoint);
	assert_int_equal(decode_superblock(&error), -ENOTSUP);
}

static void
test_device_set_with_impossible_values_is_refused(void **state)
{
	struct device_set bad[5] = { good_device_set(), good_device_set(), good_device_set(),
		good_device_set(), good_device_set() };
	struct error error;

	bad[0].count = 0;
	bad[1].count = POOL_DEVICES_MAX + 1;
	bad[2].devices[1].index = POOL_DEVICES_MAX;
	bad[3].devices[1].state = 0;
	bad[4].devices[0].state = DEVICE_STATE_REMOVED + 1;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		device_set_encode(&bad[i], block);
		assert_int_equal(decode_device_set(&error), -EUCLEAN);
		assert_non_null(strstr(error.text, "impossible"));
	}
}

/* --- geometry --- */

static void
check_geometry(uint64_t size_bytes, uint32_t slab_blocks)
{
	uint64_t blocks = size_bytes / FORMAT_BLOCK_BYTES;
	struct geometry g;

	geometry_of(&g, size_bytes, slab_blocks);
	if (g.slab_count == 0) {
		/* Only where there is no room: a slab, the tail, and a MiB and its share of table.
		 */
		assert_true(blocks < slab_blocks + 256 + 2 * 256);
		return;
	}
	uint64_t slabs_end = g.slabs_block + (uint64_t)g.slab_count * slab_blocks;
	uint64_t pages = div_round_up(g.slab_count, table_records_per_page(slab_blocks));

	assert_true(g.tail_block == blocks - 256);
	assert_true(slabs_end <= g.tail_block);
	assert_true(g.slabs_block >= FORMAT_TABLE_BLOCK + 2 * pages);
	assert_int_equal(g.slabs_block % 256, 0);
	/* No slab was forgotten, and the table wastes little. */
	assert_true(slabs_end + slab_blocks > g.tail_block);
	assert_true(g.slabs_block <=
		    max_u64(blocks / 128, 2 * pages + 2 + pages / 16) + 256 + FORMAT_TABLE_BLOCK);
	/* Unless it is very small, it can grow to more than four times its size. */
	if (blocks > 128 * 1024)
		assert_true(
		    geometry_slabs(4 * size_bytes, slab_blocks, g.slabs_block) >= 4 * g.slab_count);
	uint64_t smaller =
	    geometry_size_bytes(size_bytes, slab_blocks, g.slabs_block, g.slab_count);

	assert_int_equal(smaller, size_bytes);
	if (g.slab_count > 1) {
		smaller =
		    geometry_size_bytes(size_bytes, slab_blocks, g.slabs_block, g.slab_count - 1);
		assert_true(smaller < size_bytes);
		assert_int_equal(
		    geometry_slabs(smaller, slab_blocks, g.slabs_block), g.slab_count - 1);
	}
}

static void
test_geometry_never_overlaps_and_wastes_little(void **state)
{
	for (uint32_t slab_blocks = SLAB_BLOCKS_MIN; slab_blocks <= SLAB_BLOCKS_MAX;
	     slab_blocks *= 2) {
		for (uint64_t size = 0; size < 40 * MIB; size += 37 * KIB)
			check_geometry(size, slab_blocks);
		for (uint64_t size = MIB;
		     size < 4096 * TIB && size / MIB < slab_blocks * 1000000ull;
		     size += size / 7 + 4097)
			check_geometry(size, slab_blocks);
	}
}

static void
test_table_page_holds_its_records(void **state)
{
	for (uint32_t slab_blocks = SLAB_BLOCKS_MIN; slab_blocks <= SLAB_BLOCKS_MAX;
	     slab_blocks *= 2) {
		uint32_t used =
		    (uint32_t)sizeof(struct table_page) +
		    table_records_per_page(slab_blocks) * slab_record_bytes(slab_blocks);

		assert_in_range(used, FORMAT_BLOCK_BYTES - slab_record_bytes(slab_blocks) + 1,
		    FORMAT_BLOCK_BYTES);
	}
}

static void
test_slabs_grow_with_the_pool(void **state)
{
	uint32_t last = 0;

	assert_int_equal(geometry_slab_blocks(0), SLAB_BLOCKS_MIN);
	assert_int_equal(geometry_slab_blocks(UINT64_MAX), SLAB_BLOCKS_MAX);
	assert_int_equal(geometry_slab_blocks(16 * GIB), SLAB_BLOCKS_MAX);
	for (uint64_t size = MIB; size < TIB; size += size / 3) {
		uint32_t slab_blocks = geometry_slab_blocks(size);
		uint64_t slabs = size / (slab_blocks * (uint64_t)FORMAT_BLOCK_BYTES);

		assert_true(slab_blocks >= last);
		assert_int_equal(slab_blocks & (slab_blocks - 1), 0);
		assert_true(slabs >= 1000 || slab_blocks == SLAB_BLOCKS_MIN);
		assert_true(slabs < 2001 || slab_blocks == SLAB_BLOCKS_MAX);
		last = slab_blocks;
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_label_round_trip),
		cmocka_unit_test(test_superblock_round_trip),
		cmocka_unit_test(test_device_set_round_trip),
		cmocka_unit_test(test_every_flipped_bit_of_a_label_is_found),
		cmocka_unit_test(test_every_flipped_bit_of_a_superblock_is_found),
		cmocka_unit_test(test_every_flipped_bit_of_a_device_set_is_found),
		cmocka_unit_test(test_newer_device_set_is_of_the_later_generation_of_the_pool),
		cmocka_unit_test(test_the_device_set_that_counts_is_one_that_all_have),
		cmocka_unit_test(test_a_device_that_was_asked_alone_is_a_fork),
		cmocka_unit_test(test_heartbeat_round_trip_and_every_damage_makes_it_none),
		cmocka_unit_test(test_empty_blocks_are_nothing_rather_than_damaged),
		cmocka_unit_test(test_label_of_another_version_or_feature_is_not_supported),
		cmocka_unit_test(test_label_with_impossible_values_is_refused),
		cmocka_unit_test(test_label_with_impossible_geometry_is_refused),
		cmocka_unit_test(test_label_of_a_device_that_shrank_says_both_sizes),
		cmocka_unit_test(test_superblock_with_impossible_values_is_refused),
		cmocka_unit_test(test_superblock_of_another_version_is_not_supported),
		cmocka_unit_test(test_device_set_with_impossible_values_is_refused),
		cmocka_unit_test(test_geometry_never_overlaps_and_wastes_little),
		cmocka_unit_test(test_table_page_holds_its_records),
		cmocka_unit_test(test_slabs_grow_with_the_pool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
