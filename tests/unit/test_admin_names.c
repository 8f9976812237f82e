/* SPDX-License-Identifier: Apache-2.0 */
/* Names: what is one, what is not and with which words, and that printing gives them back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "metadata/name.h"

#define A64 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define A128 A64 A64
#define A40 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define RULE ": 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit"

static void
test_good(void **state)
{
	static const struct {
		const char *text;
		const char *pool, *volume, *snapshot;
	} cases[] = {
		{ "tank", "tank", "", "" },
		{ "0", "0", "", "" },
		{ "tank/vm1", "tank", "vm1", "" },
		{ "tank/vm1@monday", "tank", "vm1", "monday" },
		{ "T.a_n-k/9-._@2026-01-01", "T.a_n-k", "9-._", "2026-01-01" },
		{ A128 "/" A128 "@" A128, A128, A128, A128 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char text[NAME_TEXT_SIZE];
		struct name name;

		assert_int_equal(name_parse(&name, cases[i].text, NULL), 0);
		assert_string_equal(name.pool, cases[i].pool);
		assert_string_equal(name.volume, cases[i].volume);
		assert_string_equal(name.snapshot, cases[i].snapshot);
		assert_int_equal(name_format(&name, text), strlen(cases[i].text));
		assert_string_equal(text, cases[i].text);
	}
}

static void
test_bad(void **state)
{
	static const struct {
		const char *text;
		const char *error;
	} cases[] = {
		{ "", "\"\" is not a pool name" RULE },
		{ ".tank", "\".tank\" is not a pool name" RULE },
		{ "-tank", "\"-tank\" is not a pool name" RULE },
		{ "_", "\"_\" is not a pool name" RULE },
		{ "ta nk", "\"ta nk\" is not a pool name" RULE },
		{ "tank\n", "\"tank\n\" is not a pool name" RULE },
		{ "t\xc3\xa4nk", "\"t\xc3\xa4nk\" is not a pool name" RULE },
		{ "/vm1", "\"\" is not a pool name" RULE },
		{ "tank/", "\"\" is not a volume name" RULE },
		{ "tank//vm1", "\"/vm1\" is not a volume name" RULE },
		{ "tank/a/b", "\"a/b\" is not a volume name" RULE },
		{ "tank/..", "\"..\" is not a volume name" RULE },
		{ "tank/@monday", "\"\" is not a volume name" RULE },
		{ "tank/vm1@", "\"\" is not a snapshot name" RULE },
		{ "tank/vm1@a@b", "\"a@b\" is not a snapshot name" RULE },
		{ "tank/vm1@a/b", "\"a/b\" is not a snapshot name" RULE },
		{ "tank@monday", "\"tank@monday\": a snapshot is named pool/volume@snapshot" },
		{ "@", "\"\" is not a pool name" RULE },
		{ A128 "a", "the pool name \"" A40 "…\" is too long: 129 bytes, of at most 128" },
		{ "tank/" A128 A64,
		    "the volume name \"" A40 "…\" is too long: 192 bytes, of at most 128" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error error = { 0 };
		struct name name;

		assert_int_equal(name_parse(&name, cases[i].text, &error), -EINVAL);
		assert_string_equal(error.text, cases[i].error);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
