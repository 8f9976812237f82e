/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sizes as people write and read them: 4096, 512MiB, 10G, 1.5T.
 *
 * Units are binary: K M G T P E, alone or as KiB MiB …, in either case; B or nothing are bytes.
 * KB, MB, GB … are refused, since half of the world means 1000 by them.  A size fits an int64_t, so
 * that it is an integer in JSON too.
 */
#ifndef QUARRY_CORE_BASE_SIZE_H
#define QUARRY_CORE_BASE_SIZE_H

#include "core/base/error.h"

/*
 * 0, or -EINVAL with what is wrong with @text and what would be right.  Zero is a size.  A fraction
 * ("0.3G") that is no whole number of 4 KiB blocks is rounded up to it; below 1 MiB, to a byte.
 */
int size_parse(const char *text, uint64_t *bytes, struct error *error) must_check;

/* "0B", "512B", "10GiB", "1.46TiB": exact if it has no point, else to three digits. */
#define SIZE_TEXT_BYTES 16
const char *size_format(uint64_t bytes, char text[SIZE_TEXT_BYTES]);

#endif
