/* SPDX-License-Identifier: Apache-2.0 */
/* Administrative operations on one pool, on its reactor; see core/target.h for the requests. */
#ifndef QUARRY_CORE_POOL_ADMIN_H
#define QUARRY_CORE_POOL_ADMIN_H

#include "core/pool_internal.h"

/* Everything but what makes, opens and ends pools, and LIST. @done runs on the pool's reactor. */
void pool_admin(
    struct pool *pool, struct admin_request *request, void (*done)(struct admin_request *request));

/* Nobody may open what the operation under way deletes (-ENOENT: @volume, or @snapshot unless that
 * is NULL), or gives other logical blocks (-EBUSY). */
int pool_admin_bars(
    const struct pool *pool, const struct volume_record *volume, const struct image *snapshot);

/* EXPORT_ADD and EXPORT_REMOVE: what @volume's note is to become, from malloc; holds secrets. */
int pool_exports_change(const struct pool *pool, const struct volume_record *volume,
    struct admin_request *request, uint8_t **bytes, size_t *len_bytes) must_check;

/* What @request, a dry run that was found good, would do: "delete volume tank/vm1"; from malloc. */
char *pool_would(const struct pool *pool, const struct admin_request *request);

/* Fills @report, from malloc; at once. */
void pool_report(struct pool *pool, struct admin_pool_report *report);

#endif
