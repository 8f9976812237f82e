/* SPDX-License-Identifier: Apache-2.0 */
/* CHAP's hashes against answers computed elsewhere (Python's hashlib), and its texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "frontends/iscsi/iscsi_chap.h"

/* hash(b"\x2a" + b"secret of twelve" + bytes(range(16))) */
static const struct {
	enum chap_algorithm algorithm;
	const char *answer;
} answers[] = {
	{ CHAP_MD5, "0x769a9a1c9e5d8a1a12a283a65c2a5990" },
	{ CHAP_SHA1, "0xe4a9c8df66da6c6629e5a7e89f4ced78b6d66d72" },
	{ CHAP_SHA256, "0x0199cb65e83c1096acea614d9b5aa88f0b7dd88133e2c94070f4bd73f0862a9a" },
	{ CHAP_SHA3_256, "0x99859547933bbb47092867686fbaa5a9b9e1c2ab81b37d6ba8a5e535a6f96dae" },
};

static void
test_answers(void **state)
{
	uint8_t challenge[16], answer[CHAP_ANSWER_BYTES_MAX];
	char text[3 + 2 * CHAP_ANSWER_BYTES_MAX];

	(void)state;
	for (unsigned i = 0; i < sizeof(challenge); i++)
		challenge[i] = (uint8_t)i;
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		size_t len_bytes = chap_answer(answers[i].algorithm, 0x2a, "secret of twelve",
		    challenge, sizeof(challenge), answer);

		assert_int_not_equal(len_bytes, 0);
		chap_format(answer, len_bytes, text);
		assert_string_equal(text, answers[i].answer);
	}
	assert_int_equal(chap_answer(9, 1, "x", challenge, 1, answer), 0);
}

static void
test_algorithms_are_chosen_in_the_initiators_order(void **state)
{
	(void)state;
	assert_int_equal(chap_choose("5"), CHAP_MD5);
	assert_int_equal(chap_choose("8,7,6,5"), CHAP_SHA3_256);
	assert_int_equal(chap_choose("4,99,7,5"), CHAP_SHA256);
	assert_int_equal(chap_choose("6"), CHAP_SHA1);
	assert_int_equal(chap_choose(""), CHAP_NONE);
	assert_int_equal(chap_choose("4"), CHAP_NONE);
	assert_int_equal(chap_choose("5x"), CHAP_NONE);
	assert_int_equal(chap_choose("md5"), CHAP_NONE);
	assert_int_equal(chap_choose("99999999999999999999999999"), CHAP_NONE);
}

static void
test_texts(void **state)
{
	static const struct {
		const char *text;
		int len_bytes;
		const char *bytes;
	} cases[] = {
		{ "0x00ff", 2, "\x00\xff" },
		{ "0XaB", 1, "\xab" },
		{ "0xabc", 2, "\x0a\xbc" },
		{ "0b/wA=", 2, "\xff\x00" },
		{ "0bAAEC", 3, "\x00\x01\x02" },
		{ "0Bqg==", 1, "\xaa" },
		{ "0x", -1, "" },
		{ "0xg0", -1, "" },
		{ "ff", -1, "" },
		{ "", -1, "" },
		{ "0x0011223344", -1, "" }, /* five: too many here */
		{ "0b", -1, "" },
		{ "0bA", -1, "" },
		{ "0b=AAA", -1, "" },
		{ "0bA*==", -1, "" },
		{ "0bAAAAAAA=", -1, "" },
		{ "0bAA=A", -1, "" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t bytes[4];

		if (chap_parse(cases[i].text, bytes, sizeof(bytes)) != cases[i].len_bytes)
			fail_msg("%s", cases[i].text);
		if (cases[i].len_bytes > 0)
			assert_memory_equal(bytes, cases[i].bytes, (size_t)cases[i].len_bytes);
	}
	assert_int_equal(chap_parse_identifier("0"), 0);
	assert_int_equal(chap_parse_identifier("255"), 255);
	assert_int_equal(chap_parse_identifier("0xFf"), 255);
	assert_int_equal(chap_parse_identifier("256"), -1);
	assert_int_equal(chap_parse_identifier("-1"), -1);
	assert_int_equal(chap_parse_identifier(""), -1);
	assert_int_equal(chap_parse_identifier("1 "), -1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_algorithms_are_chosen_in_the_initiators_order),
		cmocka_unit_test(test_texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
