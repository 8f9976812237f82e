/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frees in the background what deleted images and large trims leave behind: a few nodes at a time,
 * between the clients' requests.  Where it stands is in the images' cursors, which checkpoints
 * keep; a crash makes it go on from there.
 */
#include "core/base/mutant.h"
#include "core/pool_internal.h"

#define NODES_AT_A_TIME 64u

static void
unpin(struct pool *pool)
{
	if (pool->reaper.pinned)
		node_pin_end(&pool->nodes, &pool->reaper.pin);
	pool->reaper.pinned = false;
	nodes_evict(&pool->nodes);
}

static bool
must_rest(const struct pool *pool)
{
	return !MUTANT(REAPER_IN_CHECKPOINT) && pool->checkpoint.phase >= CHECKPOINT_NODES &&
	       pool->checkpoint.phase <= CHECKPOINT_TABLE;
}

static void
reaper_step(struct task *task)
{
	struct pool *pool = container_of(task, struct pool, reaper.step);
	struct reaper *r = &pool->reaper;
	struct image *image = map_reap_next(&pool->catalog);
	struct map_fault fault;
	enum map_result result;
	bool finished;

	if (must_rest(pool)) {
		unpin(pool); /* the checkpoint kicks it */
		return;
	}
	if (!image || pool->state != POOL_ONLINE) {
		unpin(pool);
		/* What became empty is free when the next checkpoint is durable. */
		if (pool->state == POOL_ONLINE && !list_empty(&pool->space.empty))
			checkpoint_start(pool, NULL);
		volume_full_consider(pool);
		return;
	}
	if (!r->pinned) {
		node_pin_begin(&pool->nodes, &r->pin);
		r->pinned = true;
	}
	r->progressed = true;
	result = map_reap(&pool->catalog, image, NODES_AT_A_TIME, &finished, &fault);
	if (result == MAP_FAULT) {
		r->waiting = true;
		node_load(pool, &fault, &r->wait);
		return;
	}
	unpin(pool);
	if (finished)
		catalog_forget(&pool->catalog, image);
	volume_full_consider(pool);
	reactor_timer_start(pool->reactor, &r->next, 0);
}

static void
next_turn(struct timer *timer)
{
	struct pool *pool = container_of(timer, struct pool, reaper.next);

	reaper_step(&pool->reaper.step);
}

static void
loaded(struct waiter *waiter, int error)
{
	struct pool *pool = container_of(waiter, struct pool, reaper.wait);
	struct reaper *r = &pool->reaper;

	r->waiting = false;
	if (error) {
		/* Nothing is freed that is not known to be free: its space stays taken. */
		unpin(pool);
		r->stuck = true;
		volume_full_consider(pool);
		return;
	}
	reaper_step(&r->step);
}

void
reaper_init(struct pool *pool)
{
	task_init(&pool->reaper.step, reaper_step);
	timer_init(&pool->reaper.next, next_turn);
	waiter_init(&pool->reaper.wait, loaded);
}

bool
reaper_idle(const struct pool *pool)
{
	return pool->reaper.stuck || !map_reap_next(&pool->catalog);
}

void
reaper_kick(struct pool *pool)
{
	if (!pool->reaper.waiting && !pool->reaper.stuck && pool->reaper.next.heap_index == 0 &&
	    map_reap_next(&pool->catalog))
		reactor_defer(pool->reactor, &pool->reaper.step);
}
