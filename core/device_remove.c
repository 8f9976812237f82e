/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device_remove.h"

#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"
#include "core/base/size.h"
#include "core/pool_admin.h"

static void device_remove_step(struct device_remove *remove);

static void
run_step(struct task *task)
{
	device_remove_step(container_of(task, struct device_remove, step));
}

static void
woken(struct waiter *waiter, int error)
{
	struct device_remove *remove = container_of(waiter, struct device_remove, wait);

	if (error) {
		error_set(&remove->error, error, "pool %s: %s", remove->pool->name,
		    remove->pool->state_reason);
		remove->phase = DEVICE_REMOVE_DONE;
	}
	device_remove_step(remove);
}

static void
applied(struct log_append *append, int error)
{
	struct device_remove *remove = container_of(append, struct device_remove, append);

	woken(&remove->wait, error);
}

/* --- what the operator asks for --- */

int
device_find(const struct pool *pool, const char *name, uint32_t *index, struct error *error)
{
	char uuid[UUID_TEXT_BYTES];

	for (uint32_t i = 0; i < pool->device_count; i++) {
		const struct pool_device *device = &pool->devices[i];

		if (pool->space.devices[i].removed && device->told)
			continue;
		uuid_format(&device->label.device_uuid, uuid);
		if (strcmp(name, uuid) != 0 && strcmp(name, pool_device_name(pool, i)) != 0)
			continue;
		*index = i;
		return 0;
	}
	return error_set(error, -ENOENT,
	    "pool %s has no device %s (quarry device list %s shows all; a UUID serves, too)",
	    pool->name, name, pool->name);
}

int
device_remove_check(
    const struct pool *pool, uint32_t index, uint32_t new_slabs, struct error *error)
{
	const struct space *space = &pool->space;
	uint32_t others = new_slabs > 0;

	if (space->devices[index].out)
		return 0; /* nothing on it counts */
	if (space->devices[index].leaving)
		return error_set(
		    error, -EALREADY, "%s is being removed already", pool_device_name(pool, index));
	for (uint32_t i = 0; i < pool->device_count; i++)
		others += i != index && !space->devices[i].out && !space->devices[i].leaving;
	if (others == 0)
		return error_set(error, -EINVAL,
		    "%s is the only device of pool %s: add another one first, or destroy the pool",
		    pool_device_name(pool, index), pool->name);
	if (others < space->copies)
		return error_set(error, -EINVAL,
		    "pool %s keeps %u copies, each on another device, and would have %u: add one "
		    "first, or use quarry device replace",
		    pool->name, space->copies, others);
	return device_check_room(pool, index, new_slabs, error);
}

int
device_check_room(const struct pool *pool, uint32_t index, uint32_t new_slabs, struct error *error)
{
	const struct space *space = &pool->space;
	uint64_t slabs = space_slabs_without(space, index, new_slabs);
	uint64_t used_blocks = pool_used_blocks(pool) + pool_reserved_blocks(pool);
	uint64_t most_blocks = pool_live_blocks_max(slabs, space->slab_blocks);
	char used[SIZE_TEXT_BYTES], most[SIZE_TEXT_BYTES];

	size_format(used_blocks * FORMAT_BLOCK_BYTES, used);
	size_format(most_blocks * FORMAT_BLOCK_BYTES, most);
	if (slabs < POOL_SLABS_MIN || used_blocks > most_blocks)
		return error_set(error, -ENOSPC,
		    "without %s pool %s could hold %s, and it holds %s: delete something, or add a "
		    "device first",
		    pool_device_name(pool, index), pool->name, most, used);
	return 0;
}

/* --- the device set, on all devices that count --- */

static void
set_written(struct block_writer *writer)
{
	struct device_remove *remove = container_of(writer, struct device_remove, writer);

	if (writer->error)
		diag_warning("pool %s: the list of devices on %s could not be written: %s",
		    remove->pool->name, writer->device->name, strerror(-writer->error));
	else
		remove->sets++;
	if (writer->error)
		remove->pool->copies_told = 0; /* tells again when there is something to tell */
	if (writer->error && remove->kind == DEVICE_LEAVE && !remove->error.code)
		error_set(&remove->error, writer->error, "writing to %s failed: %s",
		    writer->device->name, strerror(-writer->error));
	device_written(remove->pool, writer, remove->at);
	remove->at++;
	device_remove_step(remove);
}

/* False: all have it. */
static bool
write_sets(struct device_remove *remove)
{
	struct pool *pool = remove->pool;

	if (remove->at == 0) {
		remove->sets = 0;
		pool->device_set_generation++;
		pool_encode_device_set(pool, remove->block);
	}
	for (; remove->at < pool->device_count; remove->at++) {
		if (pool->space.devices[remove->at].out)
			continue;
		remove->writer.done = set_written;
		pool_write_device_set(pool, remove->at, &remove->writer, remove->block);
		return true;
	}
	return false;
}

/* --- LEAVE and STAY --- */

static void
start_leaving(struct pool *pool, uint32_t index)
{
	space_start_leaving(&pool->space, index);
	pool_set_limits(pool);
	log_forget_next(pool);
	pool->devices[index].leaving_since_ns = pool->reactor->now_ns;
	pool->devices[index].leaving_slabs = space_count_used(&pool->space, index);
}

static void
stop_leaving(struct pool *pool, uint32_t index)
{
	space_stop_leaving(&pool->space, index);
	pool_set_limits(pool);
	waiters_wake(&pool->log.waiters, 0);
	volume_full_consider(pool);
}

void
device_leaving_resume(struct pool *pool, uint32_t index)
{
	start_leaving(pool, index);
	diag_info("pool %s goes on with removing %s", pool->name, pool_device_name(pool, index));
}

static bool
lies_on(const struct pool *pool, struct slab *leader, uint32_t index)
{
	struct slab *places[COPIES_MAX];
	unsigned count = leader ? space_places(&pool->space, leader, places) : 0;

	for (unsigned i = 0; i < count; i++)
		if (places[i]->device == index)
			return true;
	return false;
}

/* The segment that is open, the next one, or that of batches under way. */
static bool
log_is_on(const struct pool *pool, uint32_t index)
{
	const struct log *log = &pool->log;

	return lies_on(pool, log->slab, index) || lies_on(pool, log->next_slab, index) ||
	       lies_on(pool, log->applied_slab, index);
}

/* Writes a batch with nothing in it, since the log goes to a segment elsewhere with the next one.
 * True: a wait began. */
static bool
move_log(struct device_remove *remove)
{
	struct pool *pool = remove->pool;

	log_forget_next(pool);
	if (!log_is_on(pool, remove->index) || ++remove->attempts > LOG_ATTEMPTS)
		return false;
	remove->append.done = applied;
	return log_write_nothing(pool, &remove->wait, &remove->append);
}

/* --- FORGET --- */

static void
wiped(struct block_writer *writer)
{
	struct device_remove *remove = container_of(writer, struct device_remove, writer);

	if (writer->error)
		diag_warning("pool %s: the label of %s could not be wiped: %s", remove->pool->name,
		    writer->device->name, strerror(-writer->error));
	device_remove_step(remove);
}

static void
wipe(struct device_remove *remove)
{
	const struct pool_device *device = &remove->pool->devices[remove->index];

	remove->writer.done = wiped;
	pool_wipe_head(&device->label, device->device, &remove->writer, remove->block, false);
}

static void
close_device(struct device_remove *remove)
{
	struct pool *pool = remove->pool;

	diag_info("pool %s: %s was removed", pool->name, pool_device_name(pool, remove->index));
	/* If something is under way on a device that failed, which may never end, then the next one
	 * who looks closes it (device_leaving_consider()). */
	device_let_go(pool, remove->index);
}

/* --- the machine --- */

static void
begin(struct device_remove *remove)
{
	struct pool *pool = remove->pool;
	const struct space_device *device = &pool->space.devices[remove->index];

	remove->phase = DEVICE_REMOVE_SETS;
	switch (remove->kind) {
	case DEVICE_LEAVE:
		if (remove->again && !device->leaving)
			remove->phase = DEVICE_REMOVE_DONE; /* meanwhile it was to stay */
		else if (!device->leaving)
			start_leaving(pool, remove->index);
		else
			remove->phase = DEVICE_REMOVE_LOG;
		return;
	case DEVICE_STAY:
		stop_leaving(pool, remove->index);
		return;
	case DEVICE_FORGET:
		if (device->removed && pool->devices[remove->index].told)
			remove->phase = DEVICE_REMOVE_WIPE;
		else if (!device->removed)
			remove->phase = DEVICE_REMOVE_QUIET;
		return;
	case DEVICE_TELL:
		return;
	}
}

/* The sets are where they can be: what follows on them? */
static enum device_remove_phase
behind_sets(struct device_remove *remove)
{
	struct pool *pool = remove->pool;

	switch (remove->kind) {
	case DEVICE_LEAVE:
		if (!remove->error.code)
			return DEVICE_REMOVE_LOG;
		/* Those that were written are overtaken. */
		stop_leaving(pool, remove->index);
		remove->kind = DEVICE_STAY;
		remove->at = 0;
		return DEVICE_REMOVE_SETS;
	case DEVICE_FORGET:
		pool->devices[remove->index].told |= remove->sets > 0;
		return DEVICE_REMOVE_WIPE;
	case DEVICE_STAY:
		if (remove->sets == 0 && !remove->error.code)
			error_set(&remove->error, -EIO,
			    "no device could be told that %s stays: an import would go on with "
			    "removing it",
			    pool_device_name(pool, remove->index));
		break;
	case DEVICE_TELL:
		break;
	}
	return DEVICE_REMOVE_DONE;
}

static void
device_remove_step(struct device_remove *remove)
{
	struct pool *pool = remove->pool;
	struct space *space = &pool->space;
	struct pool_device *device = &pool->devices[remove->index];

	for (;;) {
		switch (remove->phase) {
		case DEVICE_REMOVE_SETS:
			/* A device that is being left out just now first; a checkpoint waits for
			 * that. */
			if (remove->at == 0 && pool->loss.active)
				return checkpoint_start(pool, &remove->wait);
			if (write_sets(remove))
				return;
			remove->phase = behind_sets(remove);
			continue;
		case DEVICE_REMOVE_LOG:
			if (move_log(remove))
				return;
			relocation_place(pool);
			remove->phase = DEVICE_REMOVE_DONE;
			continue;
		case DEVICE_REMOVE_QUIET:
			if (pool->checkpoint.phase != CHECKPOINT_IDLE || pool->loss.active)
				return checkpoint_start(pool, &remove->wait);
			device->may_not_answer = space->devices[remove->index].out;
			remove->phase = DEVICE_REMOVE_DONE;
			if (!device->may_not_answer && !(space->devices[remove->index].leaving &&
							   space_is_unused(space, remove->index)))
				continue; /* it stays after all, or is read again just now */
			space_remove_device(space, remove->index);
			pool_set_limits(pool);
			remove->phase = DEVICE_REMOVE_SETS;
			if (device->may_not_answer || MUTANT(FORGOTTEN_AT_ONCE))
				continue; /* it has no part in checkpoints anyway */
			remove->phase = DEVICE_REMOVE_CHECKPOINT;
			return checkpoint_start(pool, &remove->wait);
		case DEVICE_REMOVE_CHECKPOINT:
			remove->phase = DEVICE_REMOVE_SETS;
			continue;
		case DEVICE_REMOVE_WIPE:
			remove->phase = DEVICE_REMOVE_CLOSE;
			/* If no device could be told that it is not needed, it keeps its label. */
			if (device->device && device->told && !device->may_not_answer)
				return wipe(remove);
			continue;
		case DEVICE_REMOVE_CLOSE:
			close_device(remove);
			remove->phase = DEVICE_REMOVE_DONE;
			continue;
		case DEVICE_REMOVE_DONE:
			free(remove->block);
			return remove->done(remove);
		}
	}
}

void
device_remove_start(struct device_remove *remove)
{
	waiter_init(&remove->wait, woken);
	list_init(&remove->append.link);
	task_init(&remove->step, run_step);
	memset(&remove->error, 0, sizeof(remove->error));
	remove->block = xalloc_pages(FORMAT_BLOCK_BYTES);
	remove->at = 0;
	remove->sets = 0;
	remove->attempts = 0;
	begin(remove);
	reactor_defer(remove->pool->reactor, &remove->step);
}

/* --- by itself --- */

static void
forgotten(struct admin_request *request)
{
	struct pool *pool = container_of(request, struct pool, forget);

	pool->forgetting = false;
	if (request->error.code)
		diag_warning("%s", request->error.text);
	/* If the log is there still, more batches are to come first. */
	if (request->device_kind != DEVICE_LEAVE)
		device_leaving_consider(pool);
}

static void
ask(struct pool *pool, enum device_remove_kind kind, uint32_t index)
{
	memset(&pool->forget, 0, sizeof(pool->forget));
	pool->forget.verb = ADMIN_DEVICE_FORGET;
	pool->forget.device_index = index;
	pool->forget.device_kind = (unsigned)kind;
	pool->forgetting = true;
	pool_admin(pool, &pool->forget, forgotten);
}

void
device_leaving_consider(struct pool *pool)
{
	const struct space *space = &pool->space;

	if (pool->state != POOL_ONLINE || pool->forgetting || pool->loss.active)
		return;
	for (uint32_t i = 0; i < pool->device_count; i++) {
		const struct space_device *device = &space->devices[i];

		if (device->removed && pool->devices[i].device && device_is_idle(pool, i))
			return ask(pool, DEVICE_FORGET, i);
		if (!device->leaving)
			continue;
		if (device->out || space_is_unused(space, i))
			return ask(pool, DEVICE_FORGET, i);
		if (log_is_on(pool, i) && log_has_room(pool, LOG_CLIENT) && !device->out)
			return ask(pool, DEVICE_LEAVE, i);
	}
	if (!pool->relocation.placed_durably)
		return;
	pool->relocation.placed_durably = false;
	if (pool->log.next_slab && space_lies_badly(space, pool->log.next_slab))
		return; /* it is one of the last ones, and not the table's yet */
	if (space->copies > 1 && space_copies_min(space) > pool->copies_told)
		ask(pool, DEVICE_TELL, 0);
}
