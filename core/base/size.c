/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/size.h"

#include <stdio.h>

static const char unit_letters[] = "KMGTPE";

enum {
	FRACTION_DIGITS_MAX = 18, /* so that fraction * unit fits 128 bits */
	TEXT_SHOWN_MAX = 40,      /* of what was given, in a message */
};

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static char
to_upper(char c)
{
	return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

static int
refuse(const char *text, const char *why, struct error *error)
{
	return error_set(error, -EINVAL, "\"%.*s\" is not a size: %s", TEXT_SHOWN_MAX, text, why);
}

/* The unit that @suffix names, as a shift; -1: none. */
static int
unit_shift(const char *suffix)
{
	char letter = to_upper(suffix[0]);
	const char *found;

	if (letter == '\0' || (letter == 'B' && suffix[1] == '\0'))
		return 0;
	found = strchr(unit_letters, letter);
	if (!found)
		return -1;
	if (suffix[1] != '\0' &&
	    !(to_upper(suffix[1]) == 'I' && to_upper(suffix[2]) == 'B' && suffix[3] == '\0'))
		return -1;
	return 10 * (int)(found - unit_letters + 1);
}

static bool
is_decimal_unit(const char *suffix)
{
	return suffix[0] != '\0' && strchr(unit_letters, to_upper(suffix[0])) &&
	       to_upper(suffix[1]) == 'B' && suffix[2] == '\0';
}

int
size_parse(const char *text, uint64_t *bytes, struct error *error)
{
	const char *at = text;
	uint64_t whole = 0;
	uint64_t fraction = 0;
	uint64_t fraction_scale = 1;
	bool overflow = false;

	if (*at == '-')
		return refuse(text, "it cannot be negative", error);
	if (!is_digit(*at))
		return refuse(
		    text, "write a number and a unit, as 4096, 512MiB, 10G or 1.5T", error);
	for (; is_digit(*at); at++)
		overflow |= __builtin_mul_overflow(whole, 10, &whole) ||
			    __builtin_add_overflow(whole, (uint64_t)(*at - '0'), &whole);
	if (*at == '.') {
		int digits = 0;

		at++;
		for (; is_digit(*at); at++, digits++) {
			if (digits >= FRACTION_DIGITS_MAX)
				return refuse(text, "it has too many digits", error);
			fraction = 10 * fraction + (uint64_t)(*at - '0');
			fraction_scale *= 10;
		}
		if (digits == 0)
			return refuse(text, "a digit must follow the point", error);
	}
	if (is_decimal_unit(at))
		return error_set(error, -EINVAL,
		    "\"%.*s\" is ambiguous: for units of 1024 leave out the B, as in %.*s",
		    TEXT_SHOWN_MAX, text, (int)min_u64(strlen(text) - 1, TEXT_SHOWN_MAX), text);

	int shift = unit_shift(at);

	if (shift < 0)
		return refuse(text, "the units are K, M, G, T, P and E (or KiB, MiB …)", error);

	/* Both terms are below 2^124. */
	unsigned __int128 total = (unsigned __int128)whole << shift;
	unsigned __int128 part = (unsigned __int128)fraction << shift;
	uint64_t grain = shift >= 20 ? 4096 : 1;

	total += (part + fraction_scale - 1) / fraction_scale;
	if (fraction)
		total = (total + grain - 1) / grain * grain;
	if (overflow || total > INT64_MAX)
		return refuse(text, "it is larger than 8 EiB", error);
	*bytes = (uint64_t)total;
	return 0;
}

const char *
size_format(uint64_t bytes, char text[SIZE_TEXT_BYTES])
{
	int unit = 0; /* 0: bytes, 1: KiB … */
	int decimals;

	while (unit < 6 && bytes >> (10 * unit) >= 1024)
		unit++;
	if (unit == 0) {
		snprintf(text, SIZE_TEXT_BYTES, "%uB", (unsigned)bytes);
		return text;
	}
	if (bytes % (1ull << (10 * unit)) == 0) {
		snprintf(text, SIZE_TEXT_BYTES, "%u%ciB", (unsigned)(bytes >> (10 * unit)),
		    unit_letters[unit - 1]);
		return text;
	}
	double value = (double)bytes / (double)(1ull << (10 * unit));

	if (value >= 1023.5 && unit < 6) { /* would be rounded to 1024 */
		value /= 1024;
		unit++;
	}
	decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
	snprintf(text, SIZE_TEXT_BYTES, "%.*f%ciB", decimals, value, unit_letters[unit - 1]);
	return text;
}
