/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a volume is offered over iSCSI, as it lies in the pool: the note NOTE_EXPORTS, a list of
 *
 *   which target it is a unit of, and under which number,
 *   which initiators may use it, and what they must prove (CHAP).
 *
 * Encoded, a list is fields of a letter, a length and so many bytes; the field EXPORT_TARGET begins
 * an export.  Names are normalized: lower case, "iqn.", "eui." or "naa." before them.
 *
 * Secrets are in here: who frees one of these structs clears it.
 */
#ifndef QUARRY_METADATA_EXPORT_H
#define QUARRY_METADATA_EXPORT_H

#include "core/base/error.h"
#include "core/base/util.h"

#define EXPORT_NAME_BYTES 224u /* an iSCSI name with its zero */
#define EXPORT_SECRET_BYTES 256u
#define EXPORT_SECRET_BYTES_MIN 12u /* RFC 7143 12.1.3: 96 bits */
#define EXPORT_ALLOW_MAX 32u
#define EXPORT_LUN_MAX 255u
#define EXPORTS_MAX 16u /* of one volume */

enum export_field {
	EXPORT_TARGET = 'T',
	EXPORT_LUN = 'L',
	EXPORT_ALLOW = 'A',
	EXPORT_USER = 'U',
	EXPORT_SECRET = 'S',
	EXPORT_MUTUAL_USER = 'M',
	EXPORT_MUTUAL_SECRET = 'N',
};

/* Texts are zero-terminated; "" is none. */
struct export
{
	char target[EXPORT_NAME_BYTES]; /* "": the volume's own default name */
	uint8_t lun;
	uint32_t allow_count; /* 0: every initiator */
	char allow[EXPORT_ALLOW_MAX][EXPORT_NAME_BYTES];
	char user[EXPORT_NAME_BYTES]; /* CHAP: the initiator's */
	char secret[EXPORT_SECRET_BYTES];
	char mutual_user[EXPORT_NAME_BYTES]; /* the target's own */
	char mutual_secret[EXPORT_SECRET_BYTES];
};

struct export_list {
	struct export *items;
	size_t count;
};

void export_list_fini(struct export_list *list);
/* -EUCLEAN: not such a list. */
int export_list_decode(struct export_list *list, const uint8_t *bytes, size_t len_bytes) must_check;
/* From malloc; the caller clears it. */
uint8_t *export_list_encode(const struct export_list *list, size_t *len_bytes);
struct export *export_list_add(struct export_list *list, const struct export *item);
void export_list_remove(struct export_list *list, size_t index);
/* The export to @target; NULL: there is none. */
struct export *export_list_find(const struct export_list *list, const char *target);

/* Made lower case; false: no iSCSI name, whatever its type. */
bool export_name_normalize(const char *name, char out[EXPORT_NAME_BYTES]);
/* Normalizes the names in @item: 0, or -EINVAL and what is wrong. */
int export_check(struct export *item, struct error *error) must_check;
bool export_allows(const struct export *item, const char *initiator);

#endif
