/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/reservation.h"

#include <stdlib.h>

#define FIXED_BYTES (1 + 8 + RESERVATION_ID_BYTES) /* of a registrant, before its name */

static_assert(FIXED_BYTES + RESERVATION_NAME_BYTES <= 256, "a field's length has one byte");

bool
reservation_type_known(uint8_t type)
{
	return type == RESERVATION_WRITE_EXCLUSIVE || type == RESERVATION_EXCLUSIVE_ACCESS ||
	       (type >= RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS &&
		   type <= RESERVATION_EXCLUSIVE_ACCESS_ALL);
}

bool
reservation_all_hold(uint8_t type)
{
	return type == RESERVATION_WRITE_EXCLUSIVE_ALL || type == RESERVATION_EXCLUSIVE_ACCESS_ALL;
}

bool
reservation_is_empty(const struct reservation *reservation)
{
	for (size_t i = 0; i < RESERVATION_REGISTRANTS_MAX; i++)
		if (reservation->registrants[i].used)
			return false;
	return true;
}

static bool
registered_before(const struct reservation *reservation, size_t at)
{
	const struct reservation_registrant *one = &reservation->registrants[at];

	for (size_t i = 0; i < at; i++) {
		const struct reservation_registrant *other = &reservation->registrants[i];

		if (other->used && strcmp(other->name, one->name) == 0 &&
		    memcmp(other->id, one->id, sizeof(one->id)) == 0)
			return true;
	}
	return false;
}

bool
reservation_invariant(const struct reservation *reservation)
{
	bool one_holds = reservation->type && !reservation_all_hold(reservation->type);

	if (reservation->type &&
	    (!reservation_type_known(reservation->type) || reservation_is_empty(reservation)))
		return false;
	if (one_holds ? reservation->holder < 0 ||
			    reservation->holder >= (int)RESERVATION_REGISTRANTS_MAX ||
			    !reservation->registrants[reservation->holder].used
		      : reservation->holder != RESERVATION_NOBODY)
		return false;
	for (size_t i = 0; i < RESERVATION_REGISTRANTS_MAX; i++) {
		const struct reservation_registrant *one = &reservation->registrants[i];

		if (one->used && (!one->key || !one->name[0] || registered_before(reservation, i)))
			return false;
	}
	return true;
}

void
reservation_init(struct reservation *reservation)
{
	*reservation = (struct reservation){ .holder = RESERVATION_NOBODY };
}

/* --- encoding --- */

uint8_t *
reservation_encode(const struct reservation *reservation, size_t *len_bytes)
{
	uint8_t *bytes = xcalloc(RESERVATION_REGISTRANTS_MAX + 1, 256 + 2);
	uint8_t *at = bytes;

	CHECK(reservation_invariant(reservation) && !reservation_is_empty(reservation));
	*at++ = RESERVATION_TYPE;
	*at++ = 1;
	*at++ = reservation->type;
	for (int i = 0; i < (int)RESERVATION_REGISTRANTS_MAX; i++) {
		const struct reservation_registrant *one = &reservation->registrants[i];
		size_t name_bytes = strlen(one->name);

		if (!one->used)
			continue;
		*at++ = RESERVATION_REGISTRANT;
		*at++ = (uint8_t)(FIXED_BYTES + name_bytes);
		*at++ = i == reservation->holder;
		for (int shift = 56; shift >= 0; shift -= 8)
			*at++ = (uint8_t)(one->key >> shift);
		memcpy(at, one->id, sizeof(one->id));
		memcpy(at + sizeof(one->id), one->name, name_bytes);
		at += sizeof(one->id) + name_bytes;
	}
	*len_bytes = (size_t)(at - bytes);
	return bytes;
}

static int
take_registrant(struct reservation *reservation, int index, const uint8_t *at, size_t len_bytes)
{
	struct reservation_registrant *one = &reservation->registrants[index];
	size_t name_bytes = len_bytes - FIXED_BYTES;

	if (len_bytes <= FIXED_BYTES || name_bytes >= sizeof(one->name) ||
	    memchr(at + FIXED_BYTES, '\0', name_bytes) || at[0] > 1)
		return -EUCLEAN;
	if (at[0] && reservation->holder != RESERVATION_NOBODY)
		return -EUCLEAN;
	if (at[0])
		reservation->holder = (int16_t)index;
	one->used = true;
	for (int i = 0; i < 8; i++)
		one->key = one->key << 8 | at[1 + i];
	memcpy(one->id, at + 9, sizeof(one->id));
	memcpy(one->name, at + FIXED_BYTES, name_bytes);
	return 0;
}

int
reservation_decode(struct reservation *reservation, const uint8_t *bytes, size_t len_bytes)
{
	int count = 0;

	reservation_init(reservation);
	if (len_bytes < 3 || bytes[0] != RESERVATION_TYPE || bytes[1] != 1)
		return -EUCLEAN;
	reservation->type = bytes[2];
	for (size_t at = 3; at < len_bytes; at += 2 + (size_t)bytes[at + 1]) {
		if (len_bytes - at < 2 || len_bytes - at - 2 < bytes[at + 1] ||
		    bytes[at] != RESERVATION_REGISTRANT ||
		    count == (int)RESERVATION_REGISTRANTS_MAX ||
		    take_registrant(reservation, count++, bytes + at + 2, bytes[at + 1]))
			return -EUCLEAN;
	}
	return count > 0 && reservation_invariant(reservation) ? 0 : -EUCLEAN;
}
