/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device_stall.h"

#include "core/base/diag.h"
#include "core/device_watch.h"
#include "core/pool_lifecycle.h"

bool
device_is_stalled(const struct pool *pool, uint32_t index)
{
	const struct device *device = pool->devices[index].device;

	return device && device->watch && device->watch->told && !pool->space.devices[index].out;
}

static bool
can_go_on_without(const struct pool *pool, uint32_t index)
{
	return (pool->state == POOL_ONLINE || pool->state == POOL_CLOSING) &&
	       space_can_leave_out(&pool->space, index);
}

static void
stalled(struct device_watch *watch, uint64_t waited_ns)
{
	struct pool *pool = watch->context;
	uint32_t index = watch->index;
	struct pool_device *device = &pool->devices[index];
	unsigned long long waited_s = waited_ns / 1000000000ull;

	if (!pool->space.devices[index].out && !pool->loss.active &&
	    can_go_on_without(pool, index)) {
		diag_error("pool %s is DEGRADED: %s has not answered for %llu s; the device is "
			   "left out",
		    pool->name, device->device->name, waited_s);
		device->errors++;
		device_take_out(pool, index);
	}
	/* Or it failed before, and some of what it was asked is not answered.  One that was removed
	 * from a pool without copies is waited for. */
	if (pool->space.devices[index].out) {
		if (pool->space.copies > 1)
			device_watch_give_up(watch, -ETIME);
		return;
	}
	if (device->stall_told || (pool->loss.active && pool->space.copies > 1))
		return; /* another one first: this is called again */
	device->stall_told = true;
	diag_error("pool %s: %s has not answered for %llu s; %s: it is waited for", pool->name,
	    device->device->name, waited_s,
	    pool->space.copies == 1 ? "the pool keeps one copy of everything"
				    : "some of what lies there lies nowhere else");
}

static void
answers(struct device_watch *watch)
{
	struct pool *pool = watch->context;
	struct pool_device *device = &pool->devices[watch->index];

	device->stall_told = false;
	diag_info("pool %s: %s answers again%s", pool->name, device->device->name,
	    pool->space.devices[watch->index].out ? ": quarry device online brings it back" : "");
}

void
device_stall_watch(struct pool *pool)
{
	for (uint32_t i = 0; i < pool->device_count; i++) {
		struct device *device = pool->devices[i].device;
		struct device_watch *watch;

		if (pool->stall_timeout_ns == 0 || !device || device->watch)
			continue;
		watch = xcalloc(1, sizeof(*watch));
		watch->limit_ns = pool->stall_timeout_ns;
		watch->patience_ns = min_u64(watch->limit_ns / 8, STALL_PATIENCE_NS_MAX);
		watch->stalled = stalled;
		watch->answers = answers;
		watch->context = pool;
		watch->index = i;
		device_watch_begin(watch, device, pool->space.copies > 1);
	}
}
