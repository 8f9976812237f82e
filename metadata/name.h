/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names: pool, pool/volume, pool/volume@snapshot.  Each part is
 * [A-Za-z0-9][A-Za-z0-9._-]{0,127}.
 */
#ifndef QUARRY_METADATA_NAME_H
#define QUARRY_METADATA_NAME_H

#include "core/base/error.h"

#define NAME_BYTES_MAX 128             /* without the terminating zero */
#define NAME_SIZE (NAME_BYTES_MAX + 1) /* with it */

struct name {
	char pool[NAME_SIZE];
	char volume[NAME_SIZE];   /* empty: the name of a pool */
	char snapshot[NAME_SIZE]; /* empty: not the name of a snapshot */
};

/* One part. */
bool name_part_valid(const char *part, size_t len_bytes);

/* 0, or -EINVAL with what is wrong with @text and what would be right. */
int name_parse(struct name *name, const char *text, struct error *error) must_check;

/* Writes "pool/volume@snapshot" (or the shorter forms); returns the length. */
#define NAME_TEXT_SIZE (3 * NAME_BYTES_MAX + 3)
size_t name_format(const struct name *name, char text[NAME_TEXT_SIZE]);

#endif
