/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes that find the pool full.
 *
 * A write that finds no room, and none that relocation or a checkpoint could make at once, waits
 * here if its volume says so (on-full=pause), up to the volume's time limit; of any volume as long
 * as the reaper is still freeing what was deleted.  It then fails with -ENOSPC.
 *
 * - Who waits holds nothing: no lock on blocks, no nodes, no place among a volume's requests under
 *   way.  What it had added to the log is applied before.  So reads, trims, deletes, rollbacks and
 *   the pool's end go on past it.
 * - It goes on by beginning anew (io_begin()), with all checks: the volume may be smaller,
 *   read-only or gone by now.  The pieces that it has written are not written again, unless the
 *   volume was paused for an operation meanwhile: then they may be gone.
 * - A reserved volume's room is held back from all others: live blocks, and what the reserved
 *   volumes have yet to write, are never more than fit.  So its own writes are not asked.
 * - volume_full_consider() is called wherever room may have come or gone: a batch was applied, the
 *   reaper freed something, a checkpoint ended, a device was added.
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#include "core/base/mutant.h"

static void
time_is_up(struct timer *timer)
{
	volume_full_consider(container_of(timer, struct pool, full_timer));
}

void
volume_full_init(struct pool *pool)
{
	timer_init(&pool->full_timer, time_is_up);
}

void
volume_full_fini(struct pool *pool)
{
	CHECK(list_empty(&pool->full_waiters));
	reactor_timer_cancel(pool->reactor, &pool->full_timer);
}

static struct volume_io *
io_of(struct list *node)
{
	return container_of(container_of(node, struct task, link), struct volume_io, task);
}

/* --- room --- */

uint64_t
pool_used_blocks(const struct pool *pool)
{
	return pool->space.live_blocks + pool->log.pending_blocks + pool->nodes.dirty_count;
}

uint64_t
pool_reserved_blocks(const struct pool *pool)
{
	uint64_t blocks = pool->reserve_held;

	list_for_each(node, &pool->catalog.reserved) {
		blocks += catalog_reserved_blocks(
		    container_of(node, struct volume_record, reserved_link));
	}
	return blocks;
}

bool
pool_is_full(const struct pool *pool, uint64_t blocks)
{
	uint64_t used = pool_used_blocks(pool) + blocks;

	return (used > pool->live_blocks_max ||
		   (!MUTANT(RESERVE_NOT_HELD) &&
		       used + pool_reserved_blocks(pool) > pool->live_blocks_max)) &&
	       !MUTANT(LIVE_NOT_BOUNDED);
}

unsigned
pool_full_percent(const struct pool *pool)
{
	uint64_t taken = pool->space.live_blocks + pool_reserved_blocks(pool);

	return (unsigned)min_u64(taken * 100 / pool->live_blocks_max, 100);
}

void
pool_set_warn_percent(struct pool *pool, const uint8_t percent[WARN_LEVELS])
{
	static const uint8_t defaults[WARN_LEVELS] = { 80, 90 };

	for (unsigned i = 0; i < WARN_LEVELS; i++)
		pool->warn_percent[i] = percent[i] ? percent[i] : defaults[i];
	pool->fill_warned_percent = 0;
}

/* --- who waits how long --- */

static bool
pauses(const struct volume *volume)
{
	return volume->runtime && volume->runtime->record->flags & CATALOG_PAUSE_WHEN_FULL;
}

/* When @io gives up; UINT64_MAX: never. */
static uint64_t
deadline_ns(const struct volume_io *io)
{
	uint64_t timeout_s = io->volume->runtime->record->full_timeout_s;

	return timeout_s ? io->full_since_ns + timeout_s * 1000000000ull : UINT64_MAX;
}

bool
volume_full_may_wait(struct volume_request *request)
{
	struct pool *pool = request->pool;
	struct volume_io *io = request->io;

	if (pool->state != POOL_ONLINE || !request->volume->runtime ||
	    request->volume->waits_no_more || io->full_gives_up)
		return false;
	if (io->full_since_ns == 0)
		io->full_since_ns = max_u64(pool->reactor->now_ns, 1);
	if (io->op != VOLUME_TRIM && pauses(request->volume) &&
	    pool->reactor->now_ns < deadline_ns(io))
		return true;
	return !reaper_idle(pool);
}

void
volume_full_wait(struct volume_request *request)
{
	struct pool *pool = request->pool;
	struct volume_io *io = request->io;

	CHECK(!request->appended && !request->error);
	if (io->op == VOLUME_WRITE)
		io->full_done_blocks = request->done_blocks;
	list_push_back(&pool->full_waiters, &io->task.link);
	request_release(request);
	/* Only now: what the request had promised may have been all that there seemed to lack. */
	io->full_grows = log_has_room(pool, LOG_CLIENT);
	volume_full_consider(pool);
}

/* --- going on --- */

static void
go_on(struct pool *pool, struct volume_io *io)
{
	list_remove(&io->task.link);
	reactor_defer(pool->reactor, &io->task);
}

/* Blocks that @io has yet to write, at most: of zeroes only the edges are written. */
static uint64_t
blocks_left(const struct volume_io *io)
{
	if (io->op != VOLUME_WRITE && io->op != VOLUME_COMPARE_WRITE)
		return 2;
	return (io->offset_bytes % BLOCK_BYTES + io->len_bytes) / BLOCK_BYTES + 1 -
	       io->full_done_blocks;
}

/* Whether it is worth another try; @given: blocks for others that go on now. */
static bool
may_go_on(const struct pool *pool, const struct volume_io *io, uint64_t *given)
{
	const struct volume *volume = io->volume;
	uint64_t blocks = blocks_left(io);

	if (pool->state != POOL_ONLINE || !volume->runtime || volume->waits_no_more)
		return true;
	/* As volume_full_may_wait() has it: else they would chase each other. */
	if (!(pauses(volume) && io->op != VOLUME_TRIM && pool->reactor->now_ns < deadline_ns(io)) &&
	    reaper_idle(pool))
		return true;
	if (!log_has_room(pool, LOG_CLIENT) && pool->relocation.exhausted)
		return false;
	if (io->full_grows && !(volume->runtime->record->flags & CATALOG_RESERVED) &&
	    pool_is_full(pool, blocks + *given))
		return false;
	*given += blocks;
	return true;
}

void
volume_full_consider(struct pool *pool)
{
	uint64_t given = 0, next_ns = UINT64_MAX;

	pool_fill_changed(pool);
	if (list_empty(&pool->full_waiters))
		return;
	list_for_each_safe(node, &pool->full_waiters) {
		struct volume_io *io = io_of(node);

		if (may_go_on(pool, io, &given))
			go_on(pool, io);
		else if (pauses(io->volume) && deadline_ns(io) > pool->reactor->now_ns)
			next_ns = min_u64(next_ns, deadline_ns(io));
	}
	if (next_ns != UINT64_MAX)
		reactor_timer_start(
		    pool->reactor, &pool->full_timer, next_ns - pool->reactor->now_ns);
}

void
volume_full_wake(struct pool *pool, const struct volume *volume)
{
	list_for_each_safe(node, &pool->full_waiters) {
		struct volume_io *io = io_of(node);

		if (!volume || io->volume == volume)
			go_on(pool, io);
	}
}

void
volume_full_forget_progress(struct pool *pool, const struct volume_runtime *runtime)
{
	list_for_each(node, &pool->full_waiters) {
		struct volume_io *io = io_of(node);

		if (io->volume->runtime == runtime)
			io->full_done_blocks = 0;
	}
}

void
volume_full_count(struct pool *pool)
{
	list_for_each(node, &pool->catalog.volumes) {
		struct volume_runtime *runtime =
		    container_of(node, struct volume_record, link)->runtime;

		if (runtime)
			runtime->waiting = 0;
	}
	list_for_each(node, &pool->full_waiters) {
		struct volume_runtime *runtime = io_of(node)->volume->runtime;

		if (runtime)
			runtime->waiting++;
	}
}

/* --- the client gives up --- */

static void
stop_waiting(struct task *task)
{
	struct volume *volume = container_of(task, struct volume, stop_task);

	atomic_store(&volume->stop_queued, false);
	if (!volume->pool)
		return;
	list_for_each(node, &volume->pool->full_waiters) {
		if (io_of(node)->volume == volume)
			io_of(node)->full_gives_up = true;
	}
	volume_full_wake(volume->pool, volume);
}

void
volume_stop_waiting(struct volume *volume, bool for_good)
{
	if (for_good)
		volume->waits_no_more = true;
	if (atomic_exchange(&volume->stop_queued, true))
		return;
	task_init(&volume->stop_task, stop_waiting);
	if (volume->reactor == volume->pool_reactor)
		reactor_defer(volume->pool_reactor, &volume->stop_task);
	else
		reactor_post(volume->pool_reactor, &volume->stop_task);
}
