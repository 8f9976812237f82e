/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine without a daemon: each call runs the reactor until the operation is done.
 *
 * For offline tools, tests and fuzzers, on a plain reactor (reactor_init()) whose clock stands
 * still but for what is waited for, and on devices that need no thread and no ring.  Never from
 * within a turn.  If nothing can happen any more that would end an operation, that is a bug, and
 * asserted.
 */
#ifndef QUARRY_CORE_POOL_SYNC_H
#define QUARRY_CORE_POOL_SYNC_H

#include "core/pool.h"
#include "core/target.h"

/* Turns of the reactor until @ended says so of @what. */
void pool_sync_run(struct reactor *reactor, bool (*ended)(const void *what), const void *what);
/* What is ready now, and what that leads to at once: a handle that was closed is gone then. */
void pool_sync_settle(struct reactor *reactor);

/* As pool_create() (without copies), pool_import() and pool_stop(); done() is theirs.  The pool, or
 * NULL. */
struct pool *pool_sync_create(const struct pool_config *config, const char *name,
    struct device **devices, uint32_t device_count, uint32_t slab_blocks, struct pool_start *start);
struct pool *pool_sync_import(const struct pool_config *config, struct device **devices,
    uint32_t device_count, struct pool_start *start);
void pool_sync_stop(struct reactor *reactor, struct pool *pool, struct pool_stop *stop);

/* As pool_admin(), target_admin() and volume_submit(); each returns the error. */
int pool_sync_admin(struct pool *pool, struct admin_request *request);
int pool_sync_target(struct reactor *reactor, struct target *target, struct admin_request *request);
int pool_sync_io(struct reactor *reactor, struct volume *volume, struct volume_io *io);

#endif
