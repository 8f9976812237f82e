/* SPDX-License-Identifier: Apache-2.0 */
/* The floor: CRC-32C, lists, bitmaps, tables, UUIDs, errors; and names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "core/base/bitmap.h"
#include "core/base/crc32c.h"
#include "core/base/error.h"
#include "core/base/list.h"
#include "core/base/table.h"
#include "core/base/uuid.h"
#include "metadata/name.h"

static uint64_t
next_random(uint64_t *seed)
{
	*seed += 0x9e3779b97f4a7c15ull;
	return mix64(*seed);
}

/* --- CRC-32C --- */

/* RFC 3720, appendix B.4. */
static void
test_crc32c_of_known_texts(void **state)
{
	uint8_t bytes[32];

	assert_int_equal(crc32c(0, "", 0), 0);
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(crc32c(0, bytes, sizeof(bytes)), 0x8a9136aa);
	memset(bytes, 0xff, sizeof(bytes));
	assert_int_equal(crc32c(0, bytes, sizeof(bytes)), 0x62a8ab43);
	for (uint8_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = i;
	assert_int_equal(crc32c(0, bytes, sizeof(bytes)), 0x46dd794e);
}

static void
test_crc32c_continues_wherever_it_was_cut(void **state)
{
	uint8_t bytes[300];
	uint64_t seed = 1;
	uint32_t whole;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)next_random(&seed);
	whole = crc32c(0, bytes, sizeof(bytes));
	for (size_t cut = 0; cut <= sizeof(bytes); cut++)
		assert_int_equal(
		    crc32c(crc32c(0, bytes, cut), bytes + cut, sizeof(bytes) - cut), whole);
}

/* --- lists --- */

struct item {
	int n;
	struct list link;
};

static void
assert_list(const struct list *l, const char *expected)
{
	const struct list *back = l->prev;
	size_t i = 0;

	list_for_each(node, l) {
		assert_int_equal(container_of(node, struct item, link)->n, expected[i]);
		assert_ptr_equal(node->next->prev, node);
		i++;
	}
	assert_int_equal(expected[i], '\0');
	for (; i > 0; i--, back = back->prev)
		assert_int_equal(container_of(back, struct item, link)->n, expected[i - 1]);
	assert_ptr_equal(back, l);
	assert_int_equal(list_empty(l), expected[0] == '\0');
}

static void
test_list_keeps_order_both_ways(void **state)
{
	struct item a = { .n = 'a' }, b = { .n = 'b' }, c = { .n = 'c' }, d = { .n = 'd' };
	struct list l, m;

	list_init(&l);
	list_init(&m);
	assert_list(&l, "");
	assert_null(list_pop_front(&l));
	list_push_back(&l, &b.link);
	list_push_back(&l, &d.link);
	list_push_front(&l, &a.link);
	list_insert_before(&d.link, &c.link);
	assert_list(&l, "abcd");
	assert_ptr_equal(list_first(&l, struct item, link), &a);
	assert_ptr_equal(list_last(&l, struct item, link), &d);
	list_remove(&b.link);
	assert_list(&l, "acd");
	list_push_back(&m, &b.link);
	list_splice_back(&l, &m);
	assert_list(&l, "acdb");
	assert_list(&m, "");
	list_splice_back(&l, &m);
	assert_list(&l, "acdb");
	assert_ptr_equal(list_pop_front(&l), &a.link);
	assert_list(&l, "cdb");
}

static void
test_removed_list_node_is_in_no_list(void **state)
{
	struct item a = { .n = 'a' };
	struct list l;

	list_init(&l);
	list_push_back(&l, &a.link);
	list_remove(&a.link);
	assert_true(list_empty(&a.link));
	list_remove(&a.link); /* harmless */
	assert_list(&l, "");
}

static void
test_list_walk_may_remove_where_it_stands(void **state)
{
	struct item items[5];
	struct list l;

	list_init(&l);
	for (int i = 0; i < 5; i++) {
		items[i].n = 'a' + i;
		list_push_back(&l, &items[i].link);
	}
	list_for_each_safe(node, &l) {
		if (container_of(node, struct item, link)->n % 2)
			list_remove(node);
	}
	assert_list(&l, "bd");
}

/* --- bitmaps --- */

static void
test_bitmap_says_what_changed(void **state)
{
	uint64_t map[BITMAP_WORDS(130)] = { 0 };

	assert_int_equal(ARRAY_SIZE(map), 3);
	for (uint64_t bit = 0; bit < 130; bit++) {
		assert_false(bitmap_test(map, bit));
		assert_true(bitmap_set(map, bit));
		assert_false(bitmap_set(map, bit));
		assert_true(bitmap_test(map, bit));
		assert_int_equal(bitmap_count(map, 130), bit + 1);
	}
	for (uint64_t bit = 0; bit < 130; bit++) {
		assert_true(bitmap_clear(map, bit));
		assert_false(bitmap_clear(map, bit));
		assert_false(bitmap_test(map, bit));
		assert_int_equal(bitmap_count(map, 130), 129 - bit);
	}
}

/* --- tables --- */

#define KEYS 4000u

static void
check_table(const struct table *table, void *const *values, const uint64_t *keys)
{
	uint64_t count = 0;

	for (unsigned i = 0; i < KEYS; i++) {
		assert_ptr_equal(table_get(table, keys[i]), values[i]);
		count += values[i] != NULL;
	}
	assert_int_equal(table->count, count);
}

static void
table_by_chance(const uint64_t *keys, uint64_t seed)
{
	static void *values[KEYS];
	static char something[KEYS];
	struct table table;

	memset(values, 0, sizeof(values));
	table_init(&table);
	for (unsigned i = 0; i < 20000; i++) {
		unsigned k = (unsigned)(next_random(&seed) % (i < 10000 ? KEYS : KEYS / 8));

		if (next_random(&seed) % 2) {
			values[k] = &something[next_random(&seed) % KEYS];
			table_set(&table, keys[k], values[k]);
		} else {
			assert_ptr_equal(table_remove(&table, keys[k]), values[k]);
			values[k] = NULL;
		}
		if (i % 2000 == 0)
			check_table(&table, values, keys);
	}
	check_table(&table, values, keys);
	for (unsigned k = 0; k < KEYS; k++)
		assert_ptr_equal(table_remove(&table, keys[k]), values[k]);
	assert_int_equal(table.count, 0);
	for (uint64_t i = 0; i <= table.mask; i++)
		assert_int_equal(table.slots[i].key, 0);
	table_fini(&table);
}

static void
test_table_agrees_with_an_array(void **state)
{
	static uint64_t keys[KEYS];

	for (unsigned i = 0; i < KEYS; i++)
		keys[i] = i + 1;
	table_by_chance(keys, 1);
	for (unsigned i = 0; i < KEYS; i++)
		keys[i] = UINT64_MAX - i * 65536ull;
	table_by_chance(keys, 2);
}

/* All keys want the last slots, so that runs go round the end; each order of removal is tried. */
static void
test_table_removes_across_its_end(void **state)
{
	uint64_t keys[5];
	unsigned found = 0;
	static char value[5];
	struct table table;

	for (uint64_t key = 1; found < ARRAY_SIZE(keys); key++) {
		uint64_t home = mix64(key) & 15;

		if (home == (found == 4 ? 0u : 14u + found / 2))
			keys[found++] = key;
	}
	for (unsigned order = 0; order < 5 * 4 * 3; order++) {
		unsigned first = order % 5, second = (first + 1 + order / 5 % 4) % 5;
		unsigned third = order / 20;

		table_init(&table);
		assert_int_equal(table.mask, 15);
		for (unsigned i = 0; i < 5; i++)
			table_set(&table, keys[(i + third) % 5], &value[(i + third) % 5]);
		assert_ptr_equal(table_remove(&table, keys[first]), &value[first]);
		assert_ptr_equal(table_remove(&table, keys[second]), &value[second]);
		for (unsigned i = 0; i < 5; i++)
			assert_ptr_equal(table_get(&table, keys[i]),
			    i == first || i == second ? NULL : &value[i]);
		assert_null(table_remove(&table, keys[first]));
		assert_int_equal(table.count, 3);
		table_fini(&table);
	}
}

/* --- UUIDs --- */

static void
test_uuid_is_version_4_and_prints_in_groups(void **state)
{
	uint8_t random[16];
	char text[UUID_TEXT_BYTES];
	struct uuid uuid;

	for (uint8_t i = 0; i < 16; i++)
		random[i] = (uint8_t)(0x11 * i);
	uuid = uuid_from_random(random);
	uuid_format(&uuid, text);
	assert_string_equal(text, "00112233-4455-4677-8899-aabbccddeeff");
	memset(random, 0xff, sizeof(random));
	uuid = uuid_from_random(random);
	uuid_format(&uuid, text);
	assert_string_equal(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

static void
test_uuid_is_never_given_twice(void **state)
{
	struct uuid a = uuid_new(), b = uuid_new();

	assert_false(uuid_equal(&a, &b));
	b = a;
	assert_true(uuid_equal(&a, &b));
	for (unsigned bit = 0; bit < 128; bit++) {
		b = a;
		b.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_false(uuid_equal(&a, &b));
	}
}

/* --- errors --- */

static void
test_error_carries_code_and_text(void **state)
{
	struct error error;
	char long_text[600];

	assert_int_equal(error_set(&error, -ENOSPC, "%s is %u", "it", 7), -ENOSPC);
	assert_int_equal(error.code, -ENOSPC);
	assert_string_equal(error.text, "it is 7");
	assert_int_equal(error_set(NULL, -EIO, "nobody listens"), -EIO);
	memset(long_text, 'x', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = '\0';
	assert_int_equal(error_set(&error, -EIO, "%s", long_text), -EIO);
	assert_int_equal(strlen(error.text), sizeof(error.text) - 1);
}

/* --- rounding --- */

static void
test_rounding(void **state)
{
	assert_int_equal(round_down(8191, 4096), 4096);
	assert_int_equal(round_up(4097, 4096), 8192);
	assert_int_equal(round_up(4096, 4096), 4096);
	assert_int_equal(div_round_up(0, 7), 0);
	assert_int_equal(div_round_up(7, 7), 1);
	assert_int_equal(div_round_up(8, 7), 2);
	assert_true(div_round_up(UINT64_MAX, 2) == 1ull << 63);
}

/* --- names --- */

#define X16 "xxxxxxxxxxxxxxxx"
#define X128 X16 X16 X16 X16 X16 X16 X16 X16

static void
test_names_that_are_valid(void **state)
{
	static const struct {
		const char *text;
		const char *pool, *volume, *snapshot;
	} cases[] = {
		{ "tank", "tank", "", "" },
		{ "0", "0", "", "" },
		{ "tank/a", "tank", "a", "" },
		{ "tank/a@s", "tank", "a", "s" },
		{ "T-_./9..@2026-11-22_10.30", "T-_.", "9..", "2026-11-22_10.30" },
		{ X128 "/" X128 "@" X128, X128, X128, X128 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct name name;
		char text[NAME_TEXT_SIZE];

		assert_int_equal(name_parse(&name, cases[i].text, NULL), 0);
		assert_string_equal(name.pool, cases[i].pool);
		assert_string_equal(name.volume, cases[i].volume);
		assert_string_equal(name.snapshot, cases[i].snapshot);
		assert_int_equal(name_format(&name, text), strlen(cases[i].text));
		assert_string_equal(text, cases[i].text);
	}
}

static void
test_names_that_are_refused_say_which_part(void **state)
{
	static const struct {
		const char *text;
		const char *part;
	} cases[] = {
		{ "", "pool name" },
		{ "/", "pool name" },
		{ "/a", "pool name" },
		{ "@s", "pool name" },
		{ ".tank", "pool name" },
		{ "-tank", "pool name" },
		{ "ta nk", "pool name" },
		{ "t\xc3\xa4nk", "pool name" },
		{ X128 "x", "pool name" },
		{ "tank@s", "pool/volume@snapshot" },
		{ "tank/", "volume name" },
		{ "tank/@s", "volume name" },
		{ "tank//a", "volume name" },
		{ "tank/a/b", "volume name" },
		{ "tank/_a", "volume name" },
		{ "tank/a\n", "volume name" },
		{ "tank/" X128 "x", "volume name" },
		{ "tank/a@", "snapshot name" },
		{ "tank/a@s@t", "snapshot name" },
		{ "tank/a@s/t", "snapshot name" },
		{ "tank/a@.", "snapshot name" },
		{ "tank/a@" X128 "x", "snapshot name" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error error = { 0 };
		struct name name;

		assert_int_equal(name_parse(&name, cases[i].text, &error), -EINVAL);
		assert_int_equal(error.code, -EINVAL);
		if (!strstr(error.text, cases[i].part))
			fail_msg("%s: %s", cases[i].text, error.text);
	}
}

static void
test_name_part_has_a_length_of_its_own(void **state)
{
	assert_true(name_part_valid("a/b", 1));
	assert_false(name_part_valid("a/b", 2));
	assert_false(name_part_valid("a", 0));
	assert_false(name_part_valid("a\0b", 3));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crc32c_of_known_texts),
		cmocka_unit_test(test_crc32c_continues_wherever_it_was_cut),
		cmocka_unit_test(test_list_keeps_order_both_ways),
		cmocka_unit_test(test_removed_list_node_is_in_no_list),
		cmocka_unit_test(test_list_walk_may_remove_where_it_stands),
		cmocka_unit_test(test_bitmap_says_what_changed),
		cmocka_unit_test(test_table_agrees_with_an_array),
		cmocka_unit_test(test_table_removes_across_its_end),
		cmocka_unit_test(test_uuid_is_version_4_and_prints_in_groups),
		cmocka_unit_test(test_uuid_is_never_given_twice),
		cmocka_unit_test(test_error_carries_code_and_text),
		cmocka_unit_test(test_rounding),
		cmocka_unit_test(test_names_that_are_valid),
		cmocka_unit_test(test_names_that_are_refused_say_which_part),
		cmocka_unit_test(test_name_part_has_a_length_of_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
