/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors are negative errno values, one meaning each.  What the engine returns:
 *
 *   -EIO        the data or the device under it is unreadable, damaged, or failed
 *   -ENOSPC     the pool has no room for this write
 *   -EINVAL     out of range, or against the rules
 *   -EROFS      the volume, snapshot or pool takes no writes
 *   -ENOENT     there is no such pool, volume or snapshot
 *   -EEXIST     the name is taken
 *   -EBUSY      in use: clients are connected, clones or snapshots depend on it
 *   -ESHUTDOWN  the volume or the pool was deleted, exported, or is going away
 *   -EUCLEAN    a structure on disk is damaged (and which one has been said)
 *   -ENOTSUP    this version does not know how
 *   -ECANCELED  a compare-and-write found something else
 *   -ENOMEM     more memory than the limits allow
 *
 * A text for the operator travels beside the number in a struct error.
 */
#ifndef QUARRY_CORE_BASE_ERROR_H
#define QUARRY_CORE_BASE_ERROR_H

#include <errno.h>

#include "core/base/util.h"

struct error {
	int code; /* 0 or a negative errno value */
	char text[256];
};

/* Fills @error (which may be NULL) and returns @code: `return error_set(e, -EINVAL, "...");` */
int error_set(struct error *error, int code, const char *format, ...) printf_like(3, 4);

#endif
