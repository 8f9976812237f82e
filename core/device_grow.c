/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device_grow.h"

#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"
#include "core/base/size.h"

#define HEAD_BLOCKS 5u /* label, superblocks, device sets */

static void device_grow_step(struct device_grow *grow);

static void
run_step(struct task *task)
{
	device_grow_step(container_of(task, struct device_grow, step));
}

static struct device *
device_of(const struct device_grow *grow)
{
	return grow->pool->devices[grow->index].device;
}

/* Nothing has changed by then: only the head's label counts. */
static void
fail(struct device_grow *grow, int error)
{
	error_set(&grow->error, error, "%s: %s", device_of(grow)->name, strerror(-error));
	grow->phase = DEVICE_GROW_DONE;
}

static void
copied(struct block_reader *reader)
{
	struct device_grow *grow = container_of(reader, struct device_grow, reader);

	if (reader->error)
		fail(grow, reader->error);
	device_grow_step(grow);
}

static void
written(struct block_writer *writer)
{
	struct device_grow *grow = container_of(writer, struct device_grow, writer);

	device_written(grow->pool, writer, grow->index);
	if (writer->error)
		fail(grow, writer->error);
	device_grow_step(grow);
}

static void
woken(struct waiter *waiter, int error)
{
	struct device_grow *grow = container_of(waiter, struct device_grow, wait);

	if (error) {
		error_set(
		    &grow->error, error, "pool %s: %s", grow->pool->name, grow->pool->state_reason);
		grow->phase = DEVICE_GROW_DONE;
	}
	device_grow_step(grow);
}

/* The new label: as large as the device is now, and the table has room for. */
static int
lay_out(struct device_grow *grow)
{
	struct pool *pool = grow->pool;
	const struct space_device *space = &pool->space.devices[grow->index];
	struct label *label = &grow->label;
	struct device *device = device_of(grow);
	uint64_t slabs;
	char size[SIZE_TEXT_BYTES];

	*label = pool->devices[grow->index].label;
	if (device->ops->refresh)
		device->ops->refresh(device);
	slabs = geometry_slabs(device->size_bytes, label->slab_blocks, label->slabs_block);
	slabs = min_u64(slabs, space->slab_room);
	size_format(label->size_bytes, size);
	if (slabs > label->slab_count) {
		/* The end of it lies where that many slabs end, unless that is the device's. */
		label->size_bytes = geometry_size_bytes(
		    device->size_bytes, label->slab_blocks, label->slabs_block, (uint32_t)slabs);
		label->slab_count = slabs;
		return 0;
	}
	if (device->size_bytes < label->size_bytes + (uint64_t)label->slab_blocks * BLOCK_BYTES)
		return error_set(&grow->error, -ENODATA, "%s has %s, as before%s", device->name,
		    size,
		    device->ops->refresh ? ""
					 : ": of an export that is seen when the pool is imported");
	return error_set(&grow->error, -ENOSPC,
	    "%s has grown, but uses %s already, and no room is left in its slab table for more: "
	    "quarry device replace puts a larger one in its place",
	    device->name, size);
}

static void
read_head(struct device_grow *grow)
{
	grow->reader.done = copied;
	block_reader_start(
	    &grow->reader, device_of(grow), FORMAT_LABEL_BLOCK, HEAD_BLOCKS, grow->blocks);
}

static void
write_tail(struct device_grow *grow)
{
	uint64_t tail = (grow->label.size_bytes - FORMAT_TAIL_BYTES) / FORMAT_BLOCK_BYTES;

	label_encode(&grow->label, grow->blocks);
	grow->writer.count = 0;
	grow->writer.done = written;
	for (unsigned i = 0; i < HEAD_BLOCKS; i++)
		block_writer_add(&grow->writer, tail + FORMAT_TAIL_LABEL_BLOCK + i,
		    grow->blocks + (size_t)i * FORMAT_BLOCK_BYTES);
	block_writer_start(&grow->writer, device_of(grow));
}

static void
write_head(struct device_grow *grow)
{
	grow->writer.count = 0;
	grow->writer.done = written;
	block_writer_add(&grow->writer, FORMAT_LABEL_BLOCK, grow->blocks);
	block_writer_start(&grow->writer, device_of(grow));
}

static void
use_space(struct device_grow *grow)
{
	struct pool *pool = grow->pool;

	/* Its superblocks would go to the old end. */
	CHECK(pool->checkpoint.phase == CHECKPOINT_IDLE);
	pool->devices[grow->index].label = grow->label;
	space_grow_device(&pool->space, grow->index, (uint32_t)grow->label.slab_count);
	pool_set_limits(pool);
	housekeeping_consider(pool);
	waiters_wake(&pool->log.waiters, 0);
	volume_full_consider(pool);
	relocation_place(pool); /* copies that had no room before */
}

static void
unbar(struct device_grow *grow)
{
	if (grow->barred)
		checkpoint_unbar(grow->pool);
	grow->barred = false;
}

static void
device_grow_step(struct device_grow *grow)
{
	struct pool *pool = grow->pool;

	for (;;) {
		switch (grow->phase) {
		case DEVICE_GROW_COPY:
			/* What is copied must not change meanwhile. */
			if (pool->checkpoint.phase != CHECKPOINT_IDLE || pool->loss.active)
				return checkpoint_start(pool, &grow->wait);
			if (!MUTANT(GROWN_UNDER_CHECKPOINT)) {
				checkpoint_bar(pool);
				grow->barred = true;
			}
			grow->copied_generation = pool->device_set_generation;
			grow->phase = DEVICE_GROW_TAIL;
			return read_head(grow);
		case DEVICE_GROW_TAIL:
			grow->phase = DEVICE_GROW_HEAD;
			return write_tail(grow);
		case DEVICE_GROW_HEAD:
			grow->phase = DEVICE_GROW_CHECKPOINT;
			return write_head(grow);
		case DEVICE_GROW_CHECKPOINT:
			if (pool->space.devices[grow->index].out) {
				fail(grow, -EIO);
				continue;
			}
			if (grow->copied_generation != pool->device_set_generation) {
				/* Another device was left out: the set went to the old end. */
				unbar(grow);
				grow->phase = DEVICE_GROW_COPY;
				continue;
			}
			use_space(grow);
			unbar(grow);
			grow->phase = DEVICE_GROW_DONE;
			return checkpoint_start(pool, &grow->wait);
		case DEVICE_GROW_DONE:
			unbar(grow);
			free(grow->blocks);
			return grow->done(grow);
		}
	}
}

void
device_grow_start(struct device_grow *grow)
{
	waiter_init(&grow->wait, woken);
	task_init(&grow->step, run_step);
	memset(&grow->error, 0, sizeof(grow->error));
	grow->blocks = xalloc_pages(HEAD_BLOCKS * (size_t)FORMAT_BLOCK_BYTES);
	grow->barred = false;
	grow->phase = lay_out(grow) ? DEVICE_GROW_DONE : DEVICE_GROW_COPY;
	reactor_defer(grow->pool->reactor, &grow->step);
}
