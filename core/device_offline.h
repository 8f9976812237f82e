/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking a device out of use on purpose, while the pool is in service: to pull a disk, to restart
 * the machine that serves it.
 *
 *   CHECKPOINT ─► OUT ─► TOLD ─► IDLE ─► done
 *
 *  1. A checkpoint: what the device has by then it need not be given when it comes back
 *     (device_return.h).
 *  2. It is left out as if it had failed (device_loss.c): all other devices have a device set that
 *     says so, durably, before anything is answered without it.
 *  3. When nothing is under way on it any more it is closed, and the disk may be pulled.
 *
 * It is refused if something lies on it alone, or if the others have no room for what the pool
 * holds: a failure does not ask, but an operator can wait.
 */
#ifndef QUARRY_CORE_DEVICE_OFFLINE_H
#define QUARRY_CORE_DEVICE_OFFLINE_H

#include "core/pool_lifecycle.h"

enum device_offline_phase {
	DEVICE_OFFLINE_CHECKPOINT,
	DEVICE_OFFLINE_OUT,
	DEVICE_OFFLINE_TOLD,
	DEVICE_OFFLINE_IDLE,
	DEVICE_OFFLINE_DONE,
};

struct device_offline {
	/* set by the owner */
	struct pool *pool;
	uint32_t index;
	void (*done)(struct device_offline *offline);
	/* result */
	struct error error;
	/* private */
	enum device_offline_phase phase;
	unsigned looks; /* whether it is idle */
	struct waiter wait;
	struct task step;
	struct timer timer;
};

/* Whether the pool can do without device @index: -EINVAL, -EALREADY, -EBUSY, -ENOSPC. */
int device_offline_check(const struct pool *pool, uint32_t index, struct error *error) must_check;

/* @offline->pool is online; done() comes from the reactor. */
void device_offline_start(struct device_offline *offline);

#endif
