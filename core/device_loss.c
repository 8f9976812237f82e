/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device of a pool with copies fails a write or a flush, or is to be taken out of use: it is left
 * out, and the pool goes on.
 *
 * From the first error on nothing new is written there, and nothing is answered, until all other
 * devices have a device set that says so, durably.  Else a crash could leave the device as one
 * among equals, and what was answered without it would be gone where it alone is asked.
 *
 * Each set goes to all devices that stay, and these are half of the last set's or more.  So whoever
 * has more than half of the devices of the newest set that it knows has the newest one there is
 * (accept_devices() in pool_import.c).
 *
 * Everything that was in flight ends as if the device had done it; batches, flushes and checkpoints
 * are held until then.  If no other device has what it alone holds, or a second one fails
 * meanwhile, the pool fails as one without copies does.
 */
#include "core/pool_lifecycle.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"

static void write_next(struct pool *pool);

static void
run_step(struct task *task)
{
	write_next(container_of(task, struct pool, loss.step));
}

void
device_loss_init(struct pool *pool)
{
	memset(&pool->loss, 0, sizeof(pool->loss));
	task_init(&pool->loss.step, run_step);
}

/* All who were held go on, and find the pool degraded, or failed. */
static void
settle(struct pool *pool)
{
	struct device_loss *loss = &pool->loss;

	loss->active = false;
	free(loss->block);
	loss->block = NULL;
	log_settle(pool);
	checkpoint_settle(pool);
	relocation_place(pool); /* what lost a copy gets another one, if there is room */
}

static void
set_written(struct block_writer *writer)
{
	struct pool *pool = container_of(writer, struct pool, loss.writer);
	struct device_loss *loss = &pool->loss;

	if (writer->error) {
		pool_fail(pool, "%s failed, and while it was left out so did %s: %s",
		    pool->devices[loss->device].device->name, pool->devices[loss->at].device->name,
		    strerror(-writer->error));
		settle(pool);
		return;
	}
	loss->at++;
	write_next(pool);
}

/* The set goes to one device after the other. */
static void
write_next(struct pool *pool)
{
	struct device_loss *loss = &pool->loss;

	for (; loss->at < pool->device_count; loss->at++) {
		if (pool->space.devices[loss->at].out)
			continue;
		loss->writer.done = set_written;
		pool_write_device_set(pool, loss->at, &loss->writer, loss->block);
		return;
	}
	diag_warning(
	    "pool %s goes on without %s", pool->name, pool->devices[loss->device].device->name);
	settle(pool);
}

void
device_take_out(struct pool *pool, uint32_t index)
{
	struct device_loss *loss = &pool->loss;

	CHECK(!loss->active && space_can_leave_out(&pool->space, index));
	space_leave_out(&pool->space, index);
	pool->devices[index].told_in_use = false;
	pool_set_limits(pool);
	log_forget_next(pool);
	if (MUTANT(LOSS_NOT_DURABLE))
		return;
	loss->active = true;
	loss->device = index;
	loss->at = 0;
	loss->block = xalloc_pages(FORMAT_BLOCK_BYTES);
	pool->device_set_generation++;
	pool_encode_device_set(pool, loss->block);
	reactor_defer(pool->reactor, &loss->step);
}

void
device_lost(struct pool *pool, struct device_io *io, uint32_t index)
{
	const char *what = io->op == DEVICE_FLUSH ? "flushing" : "writing to";
	struct device_loss *loss = &pool->loss;
	char where[40] = "";

	if (pool->state == POOL_FAILED || pool->space.devices[index].out)
		return;
	if (io->op == DEVICE_WRITE)
		snprintf(
		    where, sizeof(where), " at byte %llu", (unsigned long long)io->offset_bytes);
	if (loss->active || (pool->state != POOL_ONLINE && pool->state != POOL_CLOSING) ||
	    !space_can_leave_out(&pool->space, index)) {
		pool_fail(pool, "%s %s%s failed: %s", what, io->device->name, where,
		    strerror(-io->error));
		return;
	}
	diag_error("pool %s is DEGRADED: %s %s%s failed: %s; the device is left out", pool->name,
	    what, io->device->name, where, strerror(-io->error));
	device_take_out(pool, index);
}

void
device_written(struct pool *pool, struct block_writer *writer, uint32_t index)
{
	if (writer->error && writer->io.op == DEVICE_FLUSH)
		device_lost(pool, &writer->io, index);
}

bool
device_is_idle(const struct pool *pool, uint32_t index)
{
	const struct device *device = pool->devices[index].device;
	const struct slab *ahead = pool->housekeeping.slab;

	return (!device || device->in_flight == 0) && !pool->loss.active &&
	       !(ahead && ahead->device == index) && !space_is_read(&pool->space, index);
}

bool
device_let_go(struct pool *pool, uint32_t index)
{
	struct pool_device *device = &pool->devices[index];

	CHECK(pool->space.devices[index].out);
	if (!device_is_idle(pool, index))
		return false;
	if (!device->device)
		return true;
	free(device->name);
	device->name = xstrdup(device->device->name);
	device_close(device->device);
	device->device = NULL;
	return true;
}
