/* SPDX-License-Identifier: Apache-2.0 */
/* Persistent reservations as they lie in a pool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "metadata/format.h"
#include "metadata/reservation.h"

static struct reservation_registrant *
add(struct reservation *reservation, size_t slot, const char *name, uint64_t key)
{
	struct reservation_registrant *one = &reservation->registrants[slot];

	*one = (struct reservation_registrant){ .used = true, .key = key, .id = { 0x40, 1 } };
	snprintf(one->name, sizeof(one->name), "%s", name);
	return one;
}

static struct reservation
two(void)
{
	struct reservation reservation;

	reservation_init(&reservation);
	add(&reservation, 3, "iqn.a", 0x1122334455667788);
	add(&reservation, 9, "iqn.b", 1);
	reservation.type = RESERVATION_WRITE_EXCLUSIVE;
	reservation.holder = 9;
	return reservation;
}

static void
test_bytes(void **state)
{
	static const uint8_t expected[] = { 'T', 1, 1, 'R', 20, 0, 0x11, 0x22, 0x33, 0x44, 0x55,
		0x66, 0x77, 0x88, 0x40, 1, 0, 0, 0, 0, 'i', 'q', 'n', '.', 'a', 'R', 20, 1, 0, 0, 0,
		0, 0, 0, 0, 1, 0x40, 1, 0, 0, 0, 0, 'i', 'q', 'n', '.', 'b' };
	struct reservation reservation = two(), back;
	size_t len_bytes;
	uint8_t *bytes = reservation_encode(&reservation, &len_bytes);

	(void)state;
	assert_int_equal(len_bytes, sizeof(expected));
	assert_memory_equal(bytes, expected, len_bytes);
	assert_int_equal(reservation_decode(&back, bytes, len_bytes), 0);
	assert_int_equal(back.type, 1);
	assert_int_equal(back.holder, 1); /* slots are given anew */
	assert_string_equal(back.registrants[0].name, "iqn.a");
	assert_true(back.registrants[0].key == 0x1122334455667788);
	assert_string_equal(back.registrants[1].name, "iqn.b");
	assert_false(back.registrants[2].used);
	free(bytes);
}

/* The largest fits a note. */
static void
test_all_registrants(void **state)
{
	struct reservation reservation, back;
	size_t len_bytes;
	uint8_t *bytes;

	(void)state;
	reservation_init(&reservation);
	for (size_t i = 0; i < RESERVATION_REGISTRANTS_MAX; i++) {
		char name[RESERVATION_NAME_BYTES];

		memset(name, 'x', sizeof(name) - 1);
		name[sizeof(name) - 1] = '\0';
		add(&reservation, i, name, UINT64_MAX)->id[1] = (uint8_t)i;
	}
	reservation.type = RESERVATION_EXCLUSIVE_ACCESS_ALL;
	bytes = reservation_encode(&reservation, &len_bytes);
	assert_true(len_bytes <= NOTE_BYTES_MAX);
	assert_int_equal(reservation_decode(&back, bytes, len_bytes), 0);
	assert_memory_equal(&back, &reservation, sizeof(back));
	free(bytes);
}

/* Cut anywhere, or with any byte another one, it is never read beyond, and what is taken is
 * sound. */
static void
test_damage(void **state)
{
	struct reservation reservation = two(), back;
	size_t len_bytes, taken = 0;
	uint8_t *bytes = reservation_encode(&reservation, &len_bytes);

	(void)state;
	for (size_t cut = 0; cut < len_bytes; cut++) {
		uint8_t *less = xmalloc(cut + 1);

		memcpy(less, bytes, cut);
		/* Without its holder it is no reservation. */
		assert_int_equal(reservation_decode(&back, less, cut), -EUCLEAN);
		free(less);
	}
	for (size_t at = 0; at < len_bytes; at++)
		for (unsigned value = 0; value < 256; value++) {
			uint8_t was = bytes[at];

			bytes[at] = (uint8_t)value;
			if (reservation_decode(&back, bytes, len_bytes) == 0) {
				assert_true(reservation_invariant(&back));
				taken++;
			}
			bytes[at] = was;
		}
	assert_true(taken > len_bytes && taken < len_bytes * 256);
	free(bytes);
}

static void
test_what_cannot_be(void **state)
{
	struct reservation reservation = two();

	(void)state;
	assert_true(reservation_invariant(&reservation));
	reservation.holder = 8;
	assert_false(reservation_invariant(&reservation));
	reservation.holder = RESERVATION_NOBODY;
	assert_false(reservation_invariant(&reservation));
	reservation.type = RESERVATION_WRITE_EXCLUSIVE_ALL;
	assert_true(reservation_invariant(&reservation));
	reservation.type = 2;
	assert_false(reservation_invariant(&reservation));
	reservation = two();
	add(&reservation, 100, "iqn.a", 5); /* twice */
	assert_false(reservation_invariant(&reservation));
	reservation = two();
	reservation.registrants[3].key = 0;
	assert_false(reservation_invariant(&reservation));
	reservation_init(&reservation);
	assert_true(reservation_invariant(&reservation));
	reservation.type = RESERVATION_WRITE_EXCLUSIVE_ALL;
	assert_false(reservation_invariant(&reservation));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_all_registrants),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_what_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
