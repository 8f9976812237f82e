/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Adding devices to a pool that is in service.
 *
 *   ERASE ─► LABEL ─► QUIET ─► CHECKPOINT ─► HEADS ─► done
 *
 *  1. What the new devices held is erased, and they get labels.
 *  2. When no checkpoint is running they join the pool, without a free slab to be had, and a
 *     checkpoint begins: it writes their slab tables, and its superblock, on all devices, counts
 *     them.
 *  3. When that is durable their slabs are free to be used.  So no batch ever lies on, or names, a
 *     device that a recovery would not know.
 *  4. All devices get a device set that lists the new ones.
 *
 * A crash before the superblock is durable leaves the pool as it was; the new devices then carry
 * labels of a pool that does not count them, and an import that is given them says so.
 */
#ifndef QUARRY_CORE_DEVICE_ADD_H
#define QUARRY_CORE_DEVICE_ADD_H

#include "core/pool_lifecycle.h"

enum device_add_phase {
	DEVICE_ADD_ERASE,
	DEVICE_ADD_LABEL,
	DEVICE_ADD_QUIET,
	DEVICE_ADD_CHECKPOINT,
	DEVICE_ADD_HEADS,
	DEVICE_ADD_DONE,
};

struct device_add {
	/* set by the owner */
	struct pool *pool;
	struct device **devices; /* NULL in it: the device is the pool's now */
	uint32_t count;
	void (*done)(struct device_add *add);
	/* result */
	struct error error;
	/* private */
	enum device_add_phase phase;
	uint32_t at;
	uint32_t first; /* index of the first new device */
	struct waiter wait;
	struct task step;
	struct block_writer writer;
	void *blocks;
};

/* @add->pool is online; done() comes from the reactor. */
void device_add_start(struct device_add *add);

#endif
