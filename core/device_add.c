/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device_add.h"

#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"

static void device_add_step(struct device_add *add);

static void
run_step(struct task *task)
{
	device_add_step(container_of(task, struct device_add, step));
}

static void
written(struct block_writer *writer)
{
	struct device_add *add = container_of(writer, struct device_add, writer);

	if (writer->error && add->phase == DEVICE_ADD_HEADS) {
		/* They are the pool's, and a recovery knows it: only the list lags behind. */
		device_written(add->pool, writer, add->at);
		diag_warning("pool %s: the list of devices on %s could not be written: %s",
		    add->pool->name, writer->device->name, strerror(-writer->error));
	} else if (writer->error) {
		error_set(&add->error, writer->error, "writing to %s failed: %s",
		    writer->device->name, strerror(-writer->error));
		add->phase = DEVICE_ADD_DONE;
	}
	add->at++;
	device_add_step(add);
}

static void
woken(struct waiter *waiter, int error)
{
	struct device_add *add = container_of(waiter, struct device_add, wait);

	if (error) {
		error_set(
		    &add->error, error, "pool %s: %s", add->pool->name, add->pool->state_reason);
		add->phase = DEVICE_ADD_DONE;
	}
	device_add_step(add);
}

/* The labels of the new devices stand in the pool behind those of its own. */
static int
lay_out(struct device_add *add)
{
	struct pool *pool = add->pool;

	add->first = pool->device_count;
	if (add->count > POOL_DEVICES_MAX - pool->device_count)
		return error_set(&add->error, -EINVAL,
		    "pool %s has %u devices: at most %u are possible", pool->name,
		    pool->device_count, POOL_DEVICES_MAX);
	if (pool->space.copies > 1 && pool->device_count + add->count > COPIES_DEVICES_MAX)
		return error_set(&add->error, -EINVAL,
		    "pool %s keeps copies, and has %u devices: at most %u are possible", pool->name,
		    pool->device_count, COPIES_DEVICES_MAX);
	for (uint32_t i = 0; i < add->count; i++) {
		int rc = pool_lay_out_device(pool, add->first + i, add->devices[i], &add->error);

		if (rc)
			return rc;
	}
	return 0;
}

/* Writes the heads of devices in turn, from @first on; false: all are written. */
static bool
write_heads(struct device_add *add, uint32_t first, bool erase)
{
	struct pool *pool = add->pool;
	uint32_t index = first + add->at;
	struct device *device;

	while (index < pool->device_count && pool->space.devices[index].out) {
		add->at++;
		index++;
	}
	if (index == add->first + add->count)
		return false;
	device = index < pool->device_count ? pool->devices[index].device
					    : add->devices[index - add->first];
	if (erase)
		pool_wipe_head(
		    &pool->devices[index].label, device, &add->writer, add->blocks, true);
	else
		pool_write_head(pool, index, device, &add->writer, add->blocks);
	return true;
}

/* Between two checkpoints: what one cuts and what it writes must be of the same devices. */
static void
join(struct device_add *add)
{
	struct pool *pool = add->pool;

	for (uint32_t i = add->first; i < add->first + add->count; i++) {
		const struct label *label = &pool->devices[i].label;

		pool->devices[i].device = add->devices[i - add->first];
		pool->devices[i].device->made = false;
		add->devices[i - add->first] = NULL;
		pool->device_count++;
		space_add_device(&pool->space, i, &label->device_uuid, label->slabs_block,
		    (uint32_t)label->slab_count);
		if (!MUTANT(DEVICE_USED_EARLY))
			space_hold_device(&pool->space, i);
	}
	checkpoint_start(pool, &add->wait);
}

static void
open_slabs(struct device_add *add)
{
	struct pool *pool = add->pool;

	for (uint32_t i = add->first; i < add->first + add->count && !MUTANT(DEVICE_USED_EARLY);
	     i++)
		space_unhold_device(&pool->space, i);
	pool_set_limits(pool);
	housekeeping_start(pool);
	waiters_wake(&pool->log.waiters, 0);
	volume_full_consider(pool);
	relocation_place(pool); /* copies that had no room before */
	pool->device_set_generation++;
}

static void
device_add_step(struct device_add *add)
{
	struct pool *pool = add->pool;

	for (;;) {
		switch (add->phase) {
		case DEVICE_ADD_ERASE:
			if (write_heads(add, add->first, true))
				return;
			add->at = 0;
			add->phase = DEVICE_ADD_LABEL;
			continue;
		case DEVICE_ADD_LABEL:
			if (write_heads(add, add->first, false))
				return;
			add->phase = DEVICE_ADD_QUIET;
			continue;
		case DEVICE_ADD_QUIET:
			if (pool->checkpoint.phase != CHECKPOINT_IDLE)
				return checkpoint_start(pool, &add->wait);
			add->phase = DEVICE_ADD_CHECKPOINT;
			return join(add);
		case DEVICE_ADD_CHECKPOINT:
			open_slabs(add);
			add->at = 0;
			add->phase = DEVICE_ADD_HEADS;
			continue;
		case DEVICE_ADD_HEADS:
			if (write_heads(add, 0, false))
				return;
			add->phase = DEVICE_ADD_DONE;
			continue;
		case DEVICE_ADD_DONE:
			free(add->blocks);
			return add->done(add);
		}
	}
}

void
device_add_start(struct device_add *add)
{
	waiter_init(&add->wait, woken);
	task_init(&add->step, run_step);
	memset(&add->error, 0, sizeof(add->error));
	add->blocks = xalloc_pages(2 * (size_t)FORMAT_BLOCK_BYTES);
	add->at = 0;
	add->writer.done = written;
	add->phase = lay_out(add) ? DEVICE_ADD_DONE : DEVICE_ADD_ERASE;
	reactor_defer(add->pool->reactor, &add->step);
}
