/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a list of devices names one of them twice. */
#ifndef QUARRY_BACKENDS_DISTINCT_H
#define QUARRY_BACKENDS_DISTINCT_H

#include "core/base/error.h"

/*
 * -EINVAL: two of @paths are the same file or disk, whatever links lead there, also of a file that
 * does not exist yet; URIs are compared as they are written.  Blocking.
 */
int devices_check_distinct(char *const *paths, size_t count, struct error *error) must_check;

#endif
