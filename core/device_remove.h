/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking devices out of a pool that is in service.
 *
 *   LEAVE:   SETS ─► LOG ─► done; relocation empties the device; then
 *   FORGET:  QUIET ─► CHECKPOINT ─► SETS ─► WIPE ─► CLOSE ─► done
 *   STAY:    SETS ─► done
 *   TELL:    SETS ─► done
 *
 *  1. The device's free slabs are held, and all devices get a device set that has it LEAVING: an
 *     import goes on with it.  The log moves elsewhere.
 *  2. Relocation moves what lies there (relocate.c).  A slab is free when a checkpoint is durable
 *     whose cut saw it empty; so when all are, no replay begins there, and none passes.
 *  3. A checkpoint whose table is that of the other devices is made.  When it is durable the pool
 *     does without the device: a crash from here on is followed by an import that finds it unused,
 *     or does not need it.
 *  4. All other devices get a device set that has it REMOVED; its label is wiped, and it is closed.
 *     If none can be told, the label stays: an import needs it.
 *
 * A device that was left out, or is missing, has nothing that counts: it is forgotten at once, and
 * not wiped, for it may not answer.
 *
 * The index of a device that was removed is not used again.
 */
#ifndef QUARRY_CORE_DEVICE_REMOVE_H
#define QUARRY_CORE_DEVICE_REMOVE_H

#include "core/pool_lifecycle.h"

enum device_remove_kind {
	DEVICE_LEAVE,
	DEVICE_STAY, /* it does not leave after all */
	DEVICE_FORGET,
	DEVICE_TELL, /* all devices hear how many copies there are now */
};

enum device_remove_phase {
	DEVICE_REMOVE_SETS,
	DEVICE_REMOVE_LOG,
	DEVICE_REMOVE_QUIET,
	DEVICE_REMOVE_CHECKPOINT,
	DEVICE_REMOVE_WIPE,
	DEVICE_REMOVE_CLOSE,
	DEVICE_REMOVE_DONE,
};

struct device_remove {
	/* set by the owner */
	struct pool *pool;
	enum device_remove_kind kind;
	uint32_t index;
	bool again; /* the pool itself asks, since the device was leaving */
	void (*done)(struct device_remove *remove);
	/* result */
	struct error error;
	/* private */
	enum device_remove_phase phase;
	uint32_t at;       /* whose device set is written */
	uint32_t sets;     /* that were */
	unsigned attempts; /* to move the log */
	struct waiter wait;
	struct log_append append;
	struct task step;
	struct block_writer writer;
	void *block;
};

/* @remove->pool is online; done() comes from the reactor. */
void device_remove_start(struct device_remove *remove);

/* The device that the operator calls @name: its path, URI or UUID.  -ENOENT. */
int device_find(
    const struct pool *pool, const char *name, uint32_t *index, struct error *error) must_check;

/*
 * Whether the pool can do without device @index, if one of @new_slabs slabs (0: none) comes for it:
 * -EALREADY, -EINVAL, -ENOSPC.
 */
int device_remove_check(
    const struct pool *pool, uint32_t index, uint32_t new_slabs, struct error *error) must_check;
/* Of that, whether the others could hold what the pool holds: -ENOSPC. */
int device_check_room(
    const struct pool *pool, uint32_t index, uint32_t new_slabs, struct error *error) must_check;

#endif
