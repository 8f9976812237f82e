/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The persistent reservations of a volume (SPC-4 5.9), as SCSI keeps them over a loss of power: the
 * note NOTE_RESERVATIONS.  Who is registered, and what is reserved by whom.
 *
 * Encoded, it is fields of a letter, a length and so many bytes:
 *
 *   RESERVATION_TYPE        the first field, once: one byte, 0 if nothing is reserved
 *   RESERVATION_REGISTRANT  for each, 1 to RESERVATION_REGISTRANTS_MAX:
 *                           1 byte, 1 if it holds the reservation; 8 bytes key, big-endian;
 *                           6 bytes port id (iSCSI: ISID); the initiator's name, to the end
 *
 * Pure.
 */
#ifndef QUARRY_METADATA_RESERVATION_H
#define QUARRY_METADATA_RESERVATION_H

#include "core/base/error.h"
#include "core/base/util.h"

#define RESERVATION_REGISTRANTS_MAX 128u
#define RESERVATION_NAME_BYTES 224u /* an iSCSI name with its zero */
#define RESERVATION_ID_BYTES 6u
#define RESERVATION_NOBODY (-1)

enum reservation_field {
	RESERVATION_TYPE = 'T',
	RESERVATION_REGISTRANT = 'R',
};

/* Of SPC-4; written out, since they are persisted. */
enum reservation_type {
	RESERVATION_NONE = 0,
	RESERVATION_WRITE_EXCLUSIVE = 1,
	RESERVATION_EXCLUSIVE_ACCESS = 3,
	RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS = 5,
	RESERVATION_EXCLUSIVE_ACCESS_REGISTRANTS = 6,
	RESERVATION_WRITE_EXCLUSIVE_ALL = 7,
	RESERVATION_EXCLUSIVE_ACCESS_ALL = 8,
};

struct reservation_registrant {
	bool used;
	uint64_t key; /* not 0 */
	char name[RESERVATION_NAME_BYTES];
	uint8_t id[RESERVATION_ID_BYTES];
};

/*
 * Invariants: nobody is registered twice; `holder` is somebody of types that one registrant holds,
 * and RESERVATION_NOBODY otherwise; nothing is reserved while nobody is registered.
 */
struct reservation {
	uint8_t type; /* enum reservation_type */
	int16_t holder;
	struct reservation_registrant registrants[RESERVATION_REGISTRANTS_MAX];
};

bool reservation_type_known(uint8_t type); /* RESERVATION_NONE is none */
/* Every registrant holds a reservation of this type. */
bool reservation_all_hold(uint8_t type);
bool reservation_is_empty(const struct reservation *reservation); /* nobody is registered */
bool reservation_invariant(const struct reservation *reservation);
void reservation_init(struct reservation *reservation);

/* From malloc; @reservation is not empty. */
uint8_t *reservation_encode(const struct reservation *reservation, size_t *len_bytes);
/* -EUCLEAN: that is none. */
int reservation_decode(
    struct reservation *reservation, const uint8_t *bytes, size_t len_bytes) must_check;

#endif
