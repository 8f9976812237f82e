/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool as a whole: its memory, its limits, its failure, and its end.
 *
 * Stopping:  PAUSE (no handles, no new requests) ─► DRAIN (what is under way ends) ─► CHECKPOINT ─►
 * RELEASE (the heartbeat) ─► close.
 */
#include "core/pool_internal.h"
#include "core/pool_lifecycle.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "core/device_watch.h"

struct device *
pool_device(const struct pool *pool, uint32_t index)
{
	return index < pool->device_count ? pool->devices[index].device : NULL;
}

const char *
pool_device_name(const struct pool *pool, uint32_t index)
{
	const struct device *device = pool_device(pool, index);

	if (!device && index < pool->device_count && pool->devices[index].name)
		return pool->devices[index].name;
	return device ? device->name : "a device that is not there";
}

const char *
pool_name(const struct pool *pool)
{
	return pool->name;
}

void
pool_fail(struct pool *pool, const char *format, ...)
{
	va_list args;

	if (pool->state == POOL_FAILED)
		return;
	va_start(args, format);
	vsnprintf(pool->state_reason, sizeof(pool->state_reason), format, args);
	va_end(args);
	pool->state = POOL_FAILED;
	diag_error("pool %s takes no more writes: %s; what was read stays readable, and after the "
		   "device is mended `quarry pool export %s` and import bring it back",
	    pool->name, pool->state_reason, pool->name);
	/* Batches and flushes that wait are ended by the log's next turn. */
	log_kick(pool);
	volume_full_wake(pool, NULL);
}

struct pool *
pool_new(const struct pool_config *config)
{
	struct pool *pool = xcalloc(1, sizeof(*pool));

	pool->reactor = config->reactor;
	pool->clock_s = config->clock_s;
	pool->state = POOL_STARTING;
	pool->node_cache_bytes = config->node_cache_bytes;
	pool->stall_timeout_ns = config->stall_timeout_ns;
	heartbeat_init(pool, config->owner);
	list_init(&pool->link);
	list_init(&pool->space_waiters);
	list_init(&pool->full_waiters);
	volume_full_init(pool);
	pool->fill = pool_fill_new();
	pool_set_warn_percent(pool, (const uint8_t[WARN_LEVELS]){ 0 });
	list_init(&pool->handles);
	list_init(&pool->unused_requests);
	list_init(&pool->unused_runs);
	read_pace_init(&pool->read_pace);
	list_init(&pool->admin_queue);
	table_init(&pool->loads);
	return pool;
}

/* What depends on the geometry, once that is known. */
void
pool_init_engine(struct pool *pool, uint32_t slab_blocks, uint32_t copies)
{
	space_init(&pool->space, slab_blocks, copies);
	nodes_init(&pool->nodes, &pool->space, pool->node_cache_bytes);
	catalog_init(&pool->catalog, &pool->nodes);
	log_init(pool);
	checkpoint_init(pool);
	reaper_init(pool);
	unique_init(pool);
	relocation_init(pool);
	scrub_init(pool);
	housekeeping_init(pool);
	device_loss_init(pool);
	pool->engine = true;
}

static uint64_t
reserve_of(uint64_t slabs)
{
	/* What a checkpoint may write at worst must fit into what is held back, with the log's own
	 * open segments and room for deletes. */
	return max_u64(6, min_u64(slabs / 64, 64));
}

uint64_t
pool_live_blocks_max(uint64_t slabs, uint32_t slab_blocks)
{
	uint64_t taken = reserve_of(slabs) + 1 + slabs / 32;

	/* What is live beyond this could not be packed so that the rest stays free. */
	return slabs > taken ? (slabs - taken) * (slab_blocks - 2 - slab_blocks / 256) : 0;
}

uint64_t
pool_slabs_with(const struct pool *pool, uint32_t index)
{
	uint32_t slabs[POOL_DEVICES_MAX] = { 0 };

	for (uint32_t i = 0; i < pool->device_count; i++) {
		struct geometry geometry;

		if (index != i && index != UINT32_MAX)
			continue;
		slabs[i] = pool->space.devices[i].slab_count;
		if (slabs[i] > 0)
			continue;
		/* It is missing, and the others know its size. */
		geometry_of(&geometry, pool->devices[i].label.size_bytes, pool->space.slab_blocks);
		slabs[i] = geometry.slab_count;
	}
	return space_slabs_with(&pool->space, slabs);
}

void
pool_set_limits(struct pool *pool)
{
	uint64_t slabs = pool->space.slab_count;
	uint64_t blocks = slabs * pool->space.slab_blocks;

	pool->reserve_slabs = reserve_of(slabs);
	pool->relocate_slabs = max_u64(4, min_u64(slabs / 64, 256));
	/* A device that is out shall find room when it comes back: without the smaller one of two
	 * more would seem to fit than they hold together. */
	if (pool->space.copies > 1)
		slabs = min_u64(slabs, pool_slabs_with(pool, UINT32_MAX));
	pool->live_blocks_max = pool_live_blocks_max(slabs, pool->space.slab_blocks);
	pool->dirty_nodes_max = max_u64(
	    min_u64(pool->nodes.budget / 2, pool->reserve_slabs * pool->space.slab_blocks * 3 / 8),
	    32);
	pool->checkpoint_blocks = min_u64(64 * 1024, max_u64(blocks / 8, 256));
}

static void
free_runtimes(struct pool *pool)
{
	list_for_each(node, &pool->catalog.volumes) {
		free(container_of(node, struct volume_record, link)->runtime);
	}
}

static void
free_list_of(struct list *list, size_t link_offset)
{
	struct list *node;

	while ((node = list_pop_front(list)))
		free((char *)node - link_offset);
}

/* What never answers, of one that was left out, cannot be closed either. */
static void
close_device(struct pool_device *device)
{
	if (!device->device)
		return;
	device_watch_end(device->device);
	if (device->device->watch && device->device->in_flight > 0)
		diag_warning("%s stays open: it does not answer", device->device->name);
	else
		device_close(device->device);
}

void
pool_free(struct pool *pool)
{
	heartbeat_fini(pool);
	for (uint32_t i = 0; i < POOL_DEVICES_MAX; i++) {
		close_device(&pool->devices[i]);
		free(pool->devices[i].name);
	}
	if (pool->engine) {
		free_runtimes(pool);
		volume_full_fini(pool);
		housekeeping_fini(pool);
		scrub_fini(pool);
		relocation_fini(pool);
		checkpoint_fini(pool);
		reactor_cancel(pool->reactor, &pool->reaper.step);
		reactor_timer_cancel(pool->reactor, &pool->reaper.next);
		log_fini(pool);
		catalog_fini(&pool->catalog);
		nodes_fini(&pool->nodes);
		space_fini(&pool->space);
	}
	free_list_of(&pool->unused_requests, offsetof(struct volume_request, link));
	free_list_of(&pool->unused_runs, 0);
	table_fini(&pool->loads);
	pool_fill_put(pool->fill);
	free(pool);
}

/* --- stopping --- */

enum stop_phase {
	STOP_PAUSE,
	STOP_DRAIN,
	STOP_CHECKPOINT,
	STOP_RELEASE,
	STOP_WIPE,
	STOP_CLOSE
};

struct stopping {
	struct pool *pool;
	struct pool_stop *stop;
	enum stop_phase phase;
	struct task step;
	struct waiter wait;
	struct timer poll;
	struct block_writer writer;
	uint32_t device;
	void *zeroes;
};

static void stop_step(struct stopping *s);

static void
stop_run(struct task *task)
{
	stop_step(container_of(task, struct stopping, step));
}

static void
stop_poll(struct timer *timer)
{
	stop_step(container_of(timer, struct stopping, poll));
}

static void
stop_wake(struct waiter *waiter, int error)
{
	struct stopping *s = container_of(waiter, struct stopping, wait);

	if (error && !s->stop->error)
		s->stop->error = error;
	/* Not from inside the checkpoint: the pool may be freed. */
	reactor_defer(s->pool->reactor, &s->step);
}

static void
wiped(struct block_writer *writer)
{
	struct stopping *s = container_of(writer, struct stopping, writer);

	if (writer->error && !s->stop->error)
		s->stop->error = writer->error;
	s->device++;
	reactor_defer(s->pool->reactor, &s->step);
}

static void
detach_all(struct pool *pool)
{
	while (!list_empty(&pool->handles))
		volume_detach(pool, list_first(&pool->handles, struct volume, link));
}

static bool
is_quiet(const struct pool *pool)
{
	return pool->requests_in_flight == 0 && log_idle(pool) && !node_loads_pending(pool) &&
	       !pool->reaper.waiting && !pool->unique.active && housekeeping_idle(pool) &&
	       relocation_idle(pool) && scrub_idle(pool) && pool->heals == 0 &&
	       !pool->loss.active && !pool->admin_busy && pool->checkpoint.phase == CHECKPOINT_IDLE;
}

/* One device after the other. */
static void
wipe(struct stopping *s)
{
	const struct pool_device *device = &s->pool->devices[s->device];

	if (!device->device) {
		s->device++;
		reactor_defer(s->pool->reactor, &s->step);
		return;
	}
	s->writer.done = wiped;
	pool_wipe_head(&device->label, device->device, &s->writer, s->zeroes, false);
}

static void
stop_step(struct stopping *s)
{
	struct pool *pool = s->pool;
	struct pool_stop *stop = s->stop;

	for (;;) {
		switch (s->phase) {
		case STOP_PAUSE:
			detach_all(pool);
			s->phase = STOP_DRAIN;
			continue;
		case STOP_DRAIN:
			/* Everything under way ends by itself, and whoever paused a volume resumes
			 * it (what was held back is refused then); nothing new begins. */
			relocation_kick(pool);
			scrub_kick(pool);
			if (!is_quiet(pool)) {
				reactor_timer_start(pool->reactor, &s->poll, 1000 * 1000);
				return;
			}
			if (stop->destroy) {
				s->zeroes = xalloc_pages(FORMAT_BLOCK_BYTES);
				s->phase = STOP_RELEASE;
				continue;
			}
			s->phase = STOP_RELEASE;
			if (stop->abandon || pool->was_readonly)
				continue;
			if (pool->state == POOL_FAILED) {
				stop->error = -EIO;
				continue;
			}
			pool->checkpoint.mark_clean = true;
			s->phase = STOP_CHECKPOINT;
			checkpoint_start(pool, &s->wait);
			return;
		case STOP_CHECKPOINT:
			s->phase = STOP_RELEASE;
			continue;
		case STOP_RELEASE:
			if (heartbeat_stop(pool, &s->step))
				return;
			s->phase = stop->destroy ? STOP_WIPE : STOP_CLOSE;
			continue;
		case STOP_WIPE:
			if (s->device < pool->device_count)
				return wipe(s);
			s->phase = STOP_CLOSE;
			continue;
		case STOP_CLOSE:
			free(s->zeroes);
			pool_free(pool);
			free(s);
			return stop->done(stop);
		}
	}
}

void
pool_stop(struct pool *pool, struct pool_stop *stop)
{
	struct stopping *s = xcalloc(1, sizeof(*s));

	s->pool = pool;
	s->stop = stop;
	stop->error = 0;
	task_init(&s->step, stop_run);
	timer_init(&s->poll, stop_poll);
	waiter_init(&s->wait, stop_wake);
	if (pool->state == POOL_READONLY)
		pool->was_readonly = true;
	if (pool->state == POOL_ONLINE || pool->state == POOL_READONLY)
		pool->state = POOL_CLOSING;
	reactor_defer(pool->reactor, &s->step);
}
