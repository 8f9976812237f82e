/* SPDX-License-Identifier: Apache-2.0 */
/* Exports as they lie in a pool, and the rules for what may be one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>

#include "metadata/export.h"

static struct export full(void)
{
	return (struct export){
		.target = "iqn.2026-11.org.example:store",
		.lun = 7,
		.allow_count = 2,
		.allow = { "iqn.a", "eui.0123456789abcdef" },
		.user = "host",
		.secret = "secret of twelve",
		.mutual_user = "store",
		.mutual_secret = "another secret",
	};
}

static void
test_lists_round_trip(void **state)
{
	struct export plain = { .lun = 255 };
	struct export all = full();
	struct export_list list = { 0 }, back;
	size_t len_bytes;
	uint8_t *bytes;

	(void)state;
	export_list_add(&list, &plain);
	export_list_add(&list, &all);
	bytes = export_list_encode(&list, &len_bytes);
	assert_int_equal(export_list_decode(&back, bytes, len_bytes), 0);
	assert_int_equal(back.count, 2);
	assert_memory_equal(&back.items[0], &plain, sizeof(plain));
	assert_memory_equal(&back.items[1], &all, sizeof(all));
	assert_ptr_equal(export_list_find(&back, all.target), &back.items[1]);
	assert_null(export_list_find(&back, "iqn.other"));
	export_list_remove(&back, 0);
	assert_int_equal(back.count, 1);
	assert_string_equal(back.items[0].secret, all.secret);
	/* Cut anywhere it is a list of less, or none: never read beyond. */
	for (size_t cut = 0; cut < len_bytes; cut++) {
		uint8_t *less = xmalloc(cut + 1);
		struct export_list cut_list;

		memcpy(less, bytes, cut);
		if (export_list_decode(&cut_list, less, cut) == 0)
			export_list_fini(&cut_list);
		free(less);
	}
	export_list_fini(&back);
	export_list_fini(&list);
	free(bytes);
}

static void
test_damaged_lists_are_refused(void **state)
{
	static const struct {
		uint8_t bytes[8];
		size_t len_bytes;
	} cases[] = {
		{ "T", 1 },
		{ "T\1", 2 },
		{ "L\1\0", 3 },
		{ "T\0L\2\0\0", 6 },
		{ "T\0L\0", 4 },
		{ "T\0?\1x", 5 },
		{ "T\0U\2a\0", 6 },
		{ "\0\0", 2 },
	};
	struct export_list list;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(
		    export_list_decode(&list, cases[i].bytes, cases[i].len_bytes), -EUCLEAN);
}

static void
test_what_may_be_an_export(void **state)
{
	static const struct {
		const char *target, *allow, *user, *secret, *mutual_user, *mutual_secret;
		const char *text; /* of the error; NULL: good */
	} cases[] = {
		{ "", "", "", "", "", "", NULL },
		{ "IQN.2026-11.org:A", "NAA.0123", "", "", "", "", NULL },
		{ "", "", "u", "abcdefghijkl", "m", "lkjihgfedcba", NULL },
		{ "disk", "", "", "", "", "", "no iSCSI name of a target" },
		{ "iqn.", "", "", "", "", "", "no iSCSI name of a target" },
		{ "iqn.a b", "", "", "", "", "", "no iSCSI name of a target" },
		{ "", "host", "", "", "", "", "no iSCSI name of an initiator" },
		{ "", "", "u", "", "", "", "12 bytes" },
		{ "", "", "u", "abcdefghijk", "", "", "12 bytes" },
		{ "", "", "", "abcdefghijkl", "", "", "needs a user" },
		{ "", "", "", "", "m", "abcdefghijkl", "mutual CHAP needs" },
		{ "", "", "u", "abcdefghijkl", "m", "short", "12 bytes" },
		{ "", "", "u", "abcdefghijkl", "m", "abcdefghijkl", "must differ" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct export item = { .allow_count = cases[i].allow[0] ? 1 : 0 };
		struct error error = { 0 };
		int rc;

		strcpy(item.target, cases[i].target);
		strcpy(item.allow[0], cases[i].allow);
		strcpy(item.user, cases[i].user);
		strcpy(item.secret, cases[i].secret);
		strcpy(item.mutual_user, cases[i].mutual_user);
		strcpy(item.mutual_secret, cases[i].mutual_secret);
		rc = export_check(&item, &error);
		assert_int_equal(rc, cases[i].text ? -EINVAL : 0);
		if (cases[i].text && !strstr(error.text, cases[i].text))
			fail_msg("case %d: %s", (int)i, error.text);
		assert_null(strstr(error.text, "abcdefghijk"));
	}
}

static void
test_names_are_compared_in_lower_case(void **state)
{
	struct export item = { .target = "IQN.X", .allow_count = 1, .allow = { "IQN.Host" } };
	struct error error;

	(void)state;
	assert_int_equal(export_check(&item, &error), 0);
	assert_string_equal(item.target, "iqn.x");
	assert_true(export_allows(&item, "iqn.host"));
	assert_false(export_allows(&item, "iqn.hos"));
	item.allow_count = 0;
	assert_true(export_allows(&item, "iqn.other"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lists_round_trip),
		cmocka_unit_test(test_damaged_lists_are_refused),
		cmocka_unit_test(test_what_may_be_an_export),
		cmocka_unit_test(test_names_are_compared_in_lower_case),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
