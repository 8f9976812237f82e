/* SPDX-License-Identifier: Apache-2.0 */
/* Directories of packed slabs: both forms of a piece, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "metadata/packed.h"

#define BLOCKS 512u
#define DIRECTORY_MAX 8u

static const struct uuid pool_uuid = { { 1, 2, 3 } };
static struct packed_block blocks[BLOCKS];
static _Alignas(8) uint8_t directory[DIRECTORY_MAX * FORMAT_BLOCK_BYTES];

/* @count blocks of @segment, every @step-th slot from @first on, behind the @have before. */
static uint32_t
add(uint32_t have, uint64_t segment, uint32_t first, uint32_t step, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		blocks[have + i].addr = baddr_make(segment, first + i * step);
		blocks[have + i].crc = (uint32_t)mix64(segment << 16 | i);
	}
	return have + count;
}

static int
open_directory(struct packed_reader *reader, uint32_t directory_blocks, struct error *error)
{
	return packed_open(reader, directory, directory_blocks, BLOCKS, 99, &pool_uuid, error);
}

static void
test_both_forms_round_trip(void **state)
{
	uint32_t count = add(0, 5, 3, 2, 200);
	uint32_t directory_blocks, at, i = 0;
	struct packed_reader reader;
	struct packed_view view;
	struct error error;
	uint16_t list[BLOCKS];

	count = add(count, 6, 511, 1, 1);
	count = add(count, 1ull << 46, 0, 17, 31); /* one fewer than a bitmap takes */
	count = add(count, (1ull << 46) + 1, 0, 16, 32);
	assert_int_equal(packed_fit(blocks, count, BLOCKS, &directory_blocks), count);
	assert_int_equal(directory_blocks, 1);
	packed_encode(blocks, count, BLOCKS, 99, &pool_uuid, directory_blocks, directory);
	assert_int_equal(open_directory(&reader, directory_blocks, &error), 0);
	assert_int_equal(reader.piece_count, 4);
	at = directory_blocks;
	while (packed_next(&reader, &view)) {
		assert_int_equal(view.first, at);
		packed_list(view.slots, view.count, BLOCKS, list);
		for (uint32_t k = 0; k < view.count; k++, i++, at++) {
			assert_int_equal(baddr_make(view.segment, list[k]).n, blocks[i].addr.n);
			assert_int_equal(view.crcs[k], blocks[i].crc);
			assert_int_equal(packed_rank(view.slots, view.count, BLOCKS, list[k]), k);
		}
		for (uint32_t slot = 0, k = 0; slot < BLOCKS; slot++) {
			if (k < view.count && list[k] == slot)
				k++;
			else
				assert_int_equal(
				    packed_rank(view.slots, view.count, BLOCKS, slot), -1);
		}
	}
	assert_int_equal(i, count);
}

static void
test_no_more_blocks_are_taken_than_fit(void **state)
{
	uint32_t directory_blocks, fit;

	/* One segment, and a segment for each block. */
	assert_int_equal(
	    packed_fit(blocks, add(0, 5, 0, 1, BLOCKS), BLOCKS, &directory_blocks), BLOCKS - 2);
	assert_int_equal(directory_blocks, 1);
	for (uint32_t i = 0; i < BLOCKS; i++)
		add(i, 5 + i, 7, 1, 1);
	fit = packed_fit(blocks, BLOCKS, BLOCKS, &directory_blocks);
	assert_in_range(fit + 2 * directory_blocks, BLOCKS - 2, BLOCKS);
	packed_encode(blocks, fit, BLOCKS, 99, &pool_uuid, directory_blocks, directory);
	assert_int_equal(packed_fit(blocks, 0, BLOCKS, &directory_blocks), 0);
}

/* Opens the directory and says where the block of @addr lies; 0: nowhere.  *crc: its checksum. */
static uint32_t
place_of(struct baddr addr, uint32_t *crc)
{
	uint64_t scattered[BITMAP_WORDS(BLOCKS)];
	struct packed_reader reader;
	struct packed_view view;
	struct error error;
	uint16_t places[BLOCKS];
	uint32_t found = 0;

	assert_int_equal(open_directory(&reader, 1, &error), 0);
	packed_scattered(&reader, scattered);
	while (packed_next(&reader, &view)) {
		int32_t rank =
		    packed_rank(view.slots, view.count, BLOCKS, (uint32_t)baddr_slot(addr));

		packed_places(&view, scattered, BLOCKS, places);
		if (view.segment != baddr_segment(addr) || rank < 0 ||
		    places[rank] == PACKED_NOWHERE)
			continue;
		assert_int_equal(found, 0);
		found = places[rank];
		if (view.places)
			assert_int_equal(
			    packed_nth(view.places, view.count, BLOCKS, (uint32_t)rank), found);
		*crc = view.crcs[rank];
	}
	return found;
}

/* 300 blocks lie one behind the other; every third dies and its place is taken, twice over. */
static void
test_holes_are_plugged(void **state)
{
	uint32_t at[BLOCKS] = { 0 }; /* which of the blocks lies at each place */
	static struct packed_block all[3 * BLOCKS];
	static _Alignas(8) uint8_t out[FORMAT_BLOCK_BYTES];
	uint32_t count = add(add(0, 5, 0, 1, 200), 9, 0, 2, 100), total = count;

	memcpy(all, blocks, count * sizeof(*all));
	packed_encode(all, count, BLOCKS, 99, &pool_uuid, 1, directory);
	for (uint32_t i = 0; i < count; i++)
		at[1 + i] = i + 1;
	for (uint64_t round = 0; round < 2; round++) {
		uint64_t holes[BITMAP_WORDS(BLOCKS)] = { 0 };
		uint16_t places[BLOCKS];
		struct packed_reader reader;
		struct error error;
		uint32_t n = 0, crc = 0;

		for (uint32_t place = 1 + (uint32_t)round; place <= count; place += 3) {
			bitmap_set(holes, place);
			if (place % 2 == 0) { /* the other holes stay empty */
				at[place] = 0;
				continue;
			}
			places[n] = (uint16_t)place;
			/* Of older, of the same and of newer segments. */
			all[total + n].addr =
			    baddr_make(3 + 2 * (n / 20), 300 + 20 * (uint32_t)round + n % 20);
			all[total + n].crc = place + 7;
			at[place] = total + n + 1;
			n++;
		}
		assert_int_equal(open_directory(&reader, 1, &error), 0);
		assert_true(
		    packed_plug(&reader, holes, all + total, places, n, 99, &pool_uuid, 1, out));
		memcpy(directory, out, sizeof(out));
		total += n;
		for (uint32_t place = 1; place < BLOCKS - 1; place++) {
			if (at[place] == 0)
				continue;
			assert_int_equal(place_of(all[at[place] - 1].addr, &crc), place);
			assert_int_equal(crc, all[at[place] - 1].crc);
		}
	}
}

static void
test_what_does_not_fit_is_not_plugged(void **state)
{
	static _Alignas(8) uint8_t out[FORMAT_BLOCK_BYTES];
	uint64_t holes[BITMAP_WORDS(BLOCKS)] = { 0 };
	struct packed_reader reader;
	uint16_t places[BLOCKS];
	struct error error;

	packed_encode(blocks, add(0, 5, 0, 1, BLOCKS - 2), BLOCKS, 99, &pool_uuid, 1, directory);
	assert_int_equal(open_directory(&reader, 1, &error), 0);
	for (uint32_t i = 0; i < 200; i++) { /* a segment for each takes 40 bytes and more */
		add(i, 100 + i, 1, 1, 1);
		places[i] = (uint16_t)(1 + 2 * i);
		bitmap_set(holes, places[i]);
	}
	assert_false(packed_plug(&reader, holes, blocks, places, 200, 99, &pool_uuid, 1, out));
	assert_true(packed_plug(&reader, holes, blocks, places, 20, 99, &pool_uuid, 1, out));
}

static void
reseal(void)
{
	struct packed_directory *header = (void *)directory;
	static const uint32_t zero = 0;
	uint64_t place;
	uint32_t crc;

	memcpy(&place, pool_uuid.bytes, sizeof(place));
	place ^= header->number;
	crc = crc32c(0, &place, sizeof(place));
	crc = crc32c(crc, directory, offsetof(struct packed_directory, crc));
	crc = crc32c(crc, &zero, sizeof(zero));
	header->crc = crc32c(crc, directory + 12, FORMAT_BLOCK_BYTES - 12);
}

/* Bytes at @at of a good directory become @value: what is said of it? */
static void
assert_refused(size_t at, uint64_t value, size_t bytes, bool sealed, const char *text)
{
	struct packed_reader reader;
	struct error error = { 0 };

	add(add(0, 5, 0, 2, 40), 6, 10, 3, 5);
	packed_encode(blocks, 45, BLOCKS, 99, &pool_uuid, 1, directory);
	assert_int_equal(open_directory(&reader, 1, &error), 0);
	memcpy(directory + at, &value, bytes);
	if (sealed)
		reseal();
	if (open_directory(&reader, 1, &error) != -EUCLEAN || !strstr(error.text, text))
		fail_msg("byte %zu: not '%s' but '%s'", at, text, error.text);
}

static void
test_damage_is_refused(void **state)
{
	const size_t header = sizeof(struct packed_directory);
	const size_t second = header + 16 + 64 + 160; /* a bitmap of 64 bytes, 40 crcs */

	assert_refused(0, 0, 4, true, "no directory");
	assert_refused(4, FORMAT_VERSION + 1, 4, true, "no directory");
	assert_refused(8, 1, 4, false, "checksum is wrong");
	assert_refused(header + 20, 0xff, 1, false, "checksum is wrong");
	assert_refused(12, 2, 4, true, "with 2 blocks");
	assert_refused(16, 98, 8, true, "packed slab 98");
	assert_refused(24, 1, 4, true, "a wrong count");
	assert_refused(24, 3, 4, true, "pieces out of order");
	assert_refused(24, UINT32_MAX, 4, true, "pieces out of order");
	assert_refused(28, 44, 4, true, "a wrong count");
	assert_refused(header, 0, 8, true, "pieces out of order");
	assert_refused(header, 7, 8, true, "pieces out of order");
	assert_refused(header, 1ull << 47, 8, true, "pieces out of order");
	assert_refused(header + 8, 2, 4, true, "impossible place");
	assert_refused(header + 8, BLOCKS - 40, 4, true, "impossible place");
	assert_refused(header + 8, UINT32_MAX - 1, 4, true, "impossible place");
	assert_refused(header + 12, 0, 4, true, "impossible count");
	assert_refused(header + 12, BLOCKS - 2, 4, true, "impossible slots");
	assert_refused(header + 12, BLOCKS + 1, 4, true, "impossible count");
	assert_refused(header + 12, UINT32_MAX, 4, true, "impossible count");
	assert_refused(header + 16, 0xff, 1, true, "impossible slots");
	assert_refused(second + 16, 13, 2, true, "impossible slots"); /* twice */
	assert_refused(second + 16 + 8, BLOCKS, 2, true, "impossible slots");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_forms_round_trip),
		cmocka_unit_test(test_no_more_blocks_are_taken_than_fit),
		cmocka_unit_test(test_holes_are_plugged),
		cmocka_unit_test(test_what_does_not_fit_is_not_plugged),
		cmocka_unit_test(test_damage_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
