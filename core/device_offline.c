/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device_offline.h"

#include "core/base/diag.h"
#include "core/device_remove.h"

/* So long it is waited for what is under way there; then it is closed later, or never. */
#define LOOKS_MAX 1000u
#define LOOK_AGAIN_NS (5ull * 1000 * 1000)

static void device_offline_step(struct device_offline *offline);

static void
run_step(struct task *task)
{
	device_offline_step(container_of(task, struct device_offline, step));
}

static void
look_again(struct timer *timer)
{
	device_offline_step(container_of(timer, struct device_offline, timer));
}

static void
woken(struct waiter *waiter, int error)
{
	struct device_offline *offline = container_of(waiter, struct device_offline, wait);

	if (error) {
		error_set(&offline->error, error, "pool %s: %s", offline->pool->name,
		    offline->pool->state_reason);
		offline->phase = DEVICE_OFFLINE_DONE;
	}
	device_offline_step(offline);
}

static int
refuse_alone(const struct pool *pool, uint32_t index, struct error *error)
{
	return error_set(error, -EBUSY,
	    "some of what lies on %s lies nowhere else now: wait until quarry pool status %s shows "
	    "that nothing lacks a copy",
	    pool_device_name(pool, index), pool->name);
}

int
device_offline_check(const struct pool *pool, uint32_t index, struct error *error)
{
	const struct space_device *device = &pool->space.devices[index];

	if (pool->space.copies == 1)
		return error_set(error, -EINVAL,
		    "pool %s keeps one copy of everything, and cannot do without %s: quarry device "
		    "remove moves what lies on it to the others first",
		    pool->name, pool_device_name(pool, index));
	if (device->out)
		return error_set(
		    error, -EALREADY, "%s is out of use already", pool_device_name(pool, index));
	if (device->leaving)
		return error_set(error, -EBUSY,
		    "%s is being removed: quarry device remove --stop first",
		    pool_device_name(pool, index));
	if (!space_can_leave_out(&pool->space, index))
		return refuse_alone(pool, index, error);
	return device_check_room(pool, index, 0, error);
}

static void
take_out(struct device_offline *offline)
{
	struct pool *pool = offline->pool;

	if (pool->space.devices[offline->index].out)
		return; /* it failed meanwhile */
	if (!space_can_leave_out(&pool->space, offline->index)) {
		refuse_alone(pool, offline->index, &offline->error);
		return;
	}
	diag_warning("pool %s is DEGRADED: %s is taken out of use", pool->name,
	    pool_device_name(pool, offline->index));
	device_take_out(pool, offline->index);
}

static void
device_offline_step(struct device_offline *offline)
{
	struct pool *pool = offline->pool;

	for (;;) {
		switch (offline->phase) {
		case DEVICE_OFFLINE_CHECKPOINT:
			offline->phase = DEVICE_OFFLINE_OUT;
			return checkpoint_start(pool, &offline->wait);
		case DEVICE_OFFLINE_OUT:
			/* Another device that is being left out just now first; a checkpoint waits
			 * for that. */
			if (pool->loss.active)
				return checkpoint_start(pool, &offline->wait);
			take_out(offline);
			offline->phase = DEVICE_OFFLINE_TOLD;
			continue;
		case DEVICE_OFFLINE_TOLD:
			if (offline->error.code) {
				offline->phase = DEVICE_OFFLINE_DONE;
				continue;
			}
			if (pool->loss.active)
				return checkpoint_start(pool, &offline->wait);
			pool->devices[offline->index].offline = true;
			offline->phase = DEVICE_OFFLINE_IDLE;
			continue;
		case DEVICE_OFFLINE_IDLE:
			if (!device_let_go(pool, offline->index) && offline->looks++ < LOOKS_MAX) {
				reactor_timer_start(pool->reactor, &offline->timer, LOOK_AGAIN_NS);
				return;
			}
			if (pool->devices[offline->index].device)
				diag_warning("pool %s: %s is out of use, but not closed: it does "
					     "not answer",
				    pool->name, pool_device_name(pool, offline->index));
			offline->phase = DEVICE_OFFLINE_DONE;
			continue;
		case DEVICE_OFFLINE_DONE:
			return offline->done(offline);
		}
	}
}

void
device_offline_start(struct device_offline *offline)
{
	waiter_init(&offline->wait, woken);
	task_init(&offline->step, run_step);
	timer_init(&offline->timer, look_again);
	memset(&offline->error, 0, sizeof(offline->error));
	offline->looks = 0;
	offline->phase = DEVICE_OFFLINE_CHECKPOINT;
	reactor_defer(offline->pool->reactor, &offline->step);
}
