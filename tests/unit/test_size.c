/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes: what is accepted, what is refused with which words, and how they are printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "core/base/size.h"

static void
test_parse_good(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {
		{ "0", 0 },
		{ "4096", 4096 },
		{ "4096B", 4096 },
		{ "1k", KIB },
		{ "512MiB", 512 * MIB },
		{ "512mib", 512 * MIB },
		{ "10G", 10 * GIB },
		{ "10g", 10 * GIB },
		{ "1.5T", TIB + TIB / 2 },
		{ "1.5TiB", TIB + TIB / 2 },
		{ "1.0", 1 },
		{ "1.5K", 1536 },
		{ "0.1K", 103 },       /* rounded up to a byte */
		{ "0.1G", 107376640 }, /* 107374182.4, rounded up to 4 KiB */
		{ "1P", KIB * TIB },
		{ "7E", 7 * MIB * TIB },
		{ "7.999E", 9222219115350171648 },
		{ "9223372036854775807", INT64_MAX },
		{ "0000000000000000000000010G", 10 * GIB },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error error = { 0 };
		uint64_t bytes = 1;

		assert_int_equal(size_parse(cases[i].text, &bytes, &error), 0);
		if (bytes != cases[i].bytes)
			fail_msg("%s: %llu", cases[i].text, (unsigned long long)bytes);
	}
}

static void
test_parse_bad(void **state)
{
	static const struct {
		const char *text;
		const char *error;
	} cases[] = {
		{ "",
		    "\"\" is not a size: write a number and a unit, as 4096, 512MiB, 10G or 1.5T" },
		{ "G", "\"G\" is not a size: write a number and a unit, as 4096, 512MiB, 10G or "
		       "1.5T" },
		{ " 1", "\" 1\" is not a size: write a number and a unit, as 4096, 512MiB, 10G or "
			"1.5T" },
		{ "+1", "\"+1\" is not a size: write a number and a unit, as 4096, 512MiB, 10G or "
			"1.5T" },
		{ ".5G", "\".5G\" is not a size: write a number and a unit, as 4096, 512MiB, 10G "
			 "or 1.5T" },
		{ "-10G", "\"-10G\" is not a size: it cannot be negative" },
		{ "10X",
		    "\"10X\" is not a size: the units are K, M, G, T, P and E (or KiB, MiB …)" },
		{ "10 G",
		    "\"10 G\" is not a size: the units are K, M, G, T, P and E (or KiB, MiB …)" },
		{ "10Gi",
		    "\"10Gi\" is not a size: the units are K, M, G, T, P and E (or KiB, MiB …)" },
		{ "10GiBs",
		    "\"10GiBs\" is not a size: the units are K, M, G, T, P and E (or KiB, MiB …)" },
		{ "1e3",
		    "\"1e3\" is not a size: the units are K, M, G, T, P and E (or KiB, MiB …)" },
		{ "0x10",
		    "\"0x10\" is not a size: the units are K, M, G, T, P and E (or KiB, MiB …)" },
		{ "1,5G",
		    "\"1,5G\" is not a size: the units are K, M, G, T, P and E (or KiB, MiB …)" },
		{ "1.G", "\"1.G\" is not a size: a digit must follow the point" },
		{ "1.1234567890123456789G",
		    "\"1.1234567890123456789G\" is not a size: it has too many digits" },
		{ "10GB", "\"10GB\" is ambiguous: for units of 1024 leave out the B, as in 10G" },
		{ "1.5tb",
		    "\"1.5tb\" is ambiguous: for units of 1024 leave out the B, as in 1.5t" },
		{ "8E", "\"8E\" is not a size: it is larger than 8 EiB" },
		{ "9223372036854775808",
		    "\"9223372036854775808\" is not a size: it is larger than 8 EiB" },
		{ "18446744073709551616",
		    "\"18446744073709551616\" is not a size: it is larger than 8 EiB" },
		{ "99999999999999999999999E",
		    "\"99999999999999999999999E\" is not a size: it is larger than 8 EiB" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error error = { 0 };
		uint64_t bytes = 77;

		assert_int_equal(size_parse(cases[i].text, &bytes, &error), -EINVAL);
		assert_int_equal(error.code, -EINVAL);
		assert_string_equal(error.text, cases[i].error);
		assert_int_equal(bytes, 77);
	}
}

static void
test_format(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{ 0, "0B" },
		{ 1, "1B" },
		{ 1023, "1023B" },
		{ 1024, "1KiB" },
		{ 1536, "1.50KiB" },
		{ 10 * GIB, "10GiB" },
		{ 1500 * GIB, "1.46TiB" },
		{ 14 * GIB + 600 * MIB, "14.6GiB" },
		{ 146 * MIB + 1, "146MiB" },
		{ MIB - 1, "1.00MiB" },
		{ GIB - 1, "1.00GiB" },
		{ 1023 * MIB, "1023MiB" },
		{ 10 * KIB - 1, "10.0KiB" },
		{ 100 * KIB - 1, "100KiB" },
		{ UINT64_MAX, "16.0EiB" },
	};
	char text[SIZE_TEXT_BYTES];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(size_format(cases[i].bytes, text), cases[i].text);
}

/* What is printed can be typed again, and means nearly the same. */
static void
test_format_parses(void **state)
{
	for (uint64_t bytes = 1; bytes < INT64_MAX / 3; bytes = bytes * 3 + 1) {
		char text[SIZE_TEXT_BYTES];
		uint64_t again;

		assert_int_equal(size_parse(size_format(bytes, text), &again, NULL), 0);
		uint64_t off = again > bytes ? again - bytes : bytes - again;

		assert_true(off <= bytes / 100 + 4096);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse_good),
		cmocka_unit_test(test_parse_bad),
		cmocka_unit_test(test_format),
		cmocka_unit_test(test_format_parses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
