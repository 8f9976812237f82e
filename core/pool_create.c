/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making a pool.
 *
 *   ERASE ─► CHECKPOINT ─► LABEL ─► done
 *
 * Labels go last: a pool whose making was interrupted is none.  What the devices held before is
 * erased first, so that it is not found again either.
 */
#include "core/pool_lifecycle.h"

#include <stdio.h>
#include <stdlib.h>

enum create_phase {
	CREATE_ERASE,
	CREATE_CHECKPOINT,
	CREATE_LABEL,
	CREATE_DONE
};

struct creation {
	struct pool *pool;
	struct pool_start *start;
	enum create_phase phase;
	bool ending;
	uint32_t device;
	struct block_writer writer;
	struct waiter wait;
	struct task step;
	uint8_t *blocks; /* two: a label and a device set */
};

static void create_step(struct creation *c);

static void
run_step(struct task *task)
{
	create_step(container_of(task, struct creation, step));
}

static void
written(struct block_writer *writer)
{
	struct creation *c = container_of(writer, struct creation, writer);

	if (writer->error) {
		error_set(&c->start->error, writer->error, "writing to %s failed: %s",
		    c->pool->devices[c->device].device->name, strerror(-writer->error));
		c->phase = CREATE_DONE;
	}
	c->device++;
	create_step(c);
}

static void
woken(struct waiter *waiter, int error)
{
	struct creation *c = container_of(waiter, struct creation, wait);

	if (error) {
		error_set(&c->start->error, error, "%s", c->pool->state_reason);
		c->phase = CREATE_DONE;
	}
	create_step(c);
}

static void
write_device(struct creation *c, bool erase)
{
	struct pool_device *device = &c->pool->devices[c->device];

	c->writer.done = written;
	if (erase)
		pool_wipe_head(&device->label, device->device, &c->writer, c->blocks, true);
	else
		pool_write_head(c->pool, c->device, device->device, &c->writer, c->blocks);
}

static void
finish(struct creation *c)
{
	struct pool_start *start = c->start;

	free(c->blocks);
	if (start->error.code) {
		pool_free(c->pool);
		start->pool = NULL;
	} else {
		c->pool->state = POOL_ONLINE;
		for (uint32_t i = 0; i < c->pool->device_count; i++)
			c->pool->devices[i].device->made = false;
		housekeeping_start(c->pool);
		heartbeat_start(c->pool);
		start->pool = c->pool;
	}
	free(c);
	start->done(start);
}

static void
create_step(struct creation *c)
{
	for (;;) {
		switch (c->phase) {
		case CREATE_ERASE:
			if (c->device < c->pool->device_count)
				return write_device(c, true);
			c->phase = CREATE_CHECKPOINT;
			continue;
		case CREATE_CHECKPOINT:
			c->phase = CREATE_LABEL;
			c->device = 0;
			return checkpoint_start(c->pool, &c->wait);
		case CREATE_LABEL:
			if (c->device < c->pool->device_count)
				return write_device(c, false);
			c->phase = CREATE_DONE;
			continue;
		case CREATE_DONE:
			/* Not from inside a device's completion: devices may be closed. */
			if (!c->ending) {
				c->ending = true;
				reactor_defer(c->pool->reactor, &c->step);
				return;
			}
			return finish(c);
		}
	}
}

static int
lay_out(
    struct pool *pool, const char *name, uint32_t slab_blocks, uint32_t copies, struct error *error)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < pool->device_count; i++)
		total += pool->devices[i].device->size_bytes;
	if (slab_blocks == 0)
		slab_blocks = geometry_slab_blocks(total);
	if (copies < 1 || copies > COPIES_MAX)
		return error_set(
		    error, -EINVAL, "%u copies: 1 to %u are possible", copies, COPIES_MAX);
	if (copies > pool->device_count)
		return error_set(error, -EINVAL, "%u copies need as many devices: there %s %u",
		    copies, pool->device_count == 1 ? "is" : "are", pool->device_count);
	if (copies > 1 && pool->device_count > COPIES_DEVICES_MAX)
		return error_set(error, -EINVAL,
		    "a pool with copies has at most %u devices: here are %u", COPIES_DEVICES_MAX,
		    pool->device_count);
	pool_init_engine(pool, slab_blocks, copies);
	snprintf(pool->name, sizeof(pool->name), "%s", name);
	pool->uuid = uuid_new();
	pool->created_s = pool->clock_s ? pool->clock_s() : 0;
	for (uint32_t i = 0; i < pool->device_count; i++) {
		const struct label *label = &pool->devices[i].label;
		int rc = pool_lay_out_device(pool, i, pool->devices[i].device, error);

		if (rc)
			return rc;
		space_add_device(&pool->space, i, &label->device_uuid, label->slabs_block,
		    (uint32_t)label->slab_count);
	}
	if (pool->space.slab_count < POOL_SLABS_MIN)
		return error_set(error, -EINVAL,
		    "the devices are too small for a pool: together they need at least 16 MiB%s",
		    copies > 1 ? " for each copy" : "");
	return 0;
}

void
pool_create(const struct pool_config *config, const char *name, struct device **devices,
    uint32_t device_count, uint32_t slab_blocks, uint32_t copies, struct pool_start *start)
{
	struct creation *c = xcalloc(1, sizeof(*c));
	struct pool *pool = pool_new(config);

	CHECK(device_count > 0 && device_count <= POOL_DEVICES_MAX);
	c->pool = pool;
	c->start = start;
	c->blocks = xalloc_pages(2 * (size_t)FORMAT_BLOCK_BYTES);
	task_init(&c->step, run_step);
	waiter_init(&c->wait, woken);
	memset(&start->error, 0, sizeof(start->error));
	start->pool = NULL;
	pool->device_count = device_count;
	pool->device_set_generation = 1;
	for (uint32_t i = 0; i < device_count; i++)
		pool->devices[i].device = devices[i];
	if (lay_out(pool, name, slab_blocks, copies, &start->error)) {
		c->phase = CREATE_DONE;
	} else {
		pool->generation = 1;
		pool_set_limits(pool);
		if (log_start(pool)) {
			error_set(&start->error, -ENOSPC, "the devices are too small for a pool");
			c->phase = CREATE_DONE;
		}
	}
	reactor_defer(pool->reactor, &c->step);
}
