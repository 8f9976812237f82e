/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How full a pool is, for those that look on: the operator's log, and frontends.
 *
 * What frontends see is one struct of the pool, which its handles share.  The pool's reactor writes
 * it wherever the room may have changed, and any thread reads it; it outlives the pool as long as a
 * handle has it.  Its members are each right, though not of one moment.
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#include "core/base/diag.h"

struct pool_fill {
	_Atomic uint32_t users;
	_Atomic uint64_t usable_bytes;
	_Atomic uint64_t available_bytes;
	_Atomic uint8_t warn_percent[WARN_LEVELS];
	_Atomic uint8_t warned_percent;
};

struct pool_fill *
pool_fill_new(void)
{
	struct pool_fill *fill = xcalloc(1, sizeof(*fill));

	atomic_init(&fill->users, 1);
	return fill;
}

struct pool_fill *
pool_fill_get(struct pool_fill *fill)
{
	atomic_fetch_add_explicit(&fill->users, 1, memory_order_relaxed);
	return fill;
}

void
pool_fill_put(struct pool_fill *fill)
{
	if (fill && atomic_fetch_sub_explicit(&fill->users, 1, memory_order_acq_rel) == 1)
		free(fill);
}

/* Once for each threshold that is passed, and again only after it was well below. */
static void
warn(struct pool *pool)
{
	unsigned percent = pool_full_percent(pool);
	unsigned passed = 0;

	for (unsigned i = 0; i < WARN_LEVELS; i++)
		if (percent >= pool->warn_percent[i])
			passed = pool->warn_percent[i];
	if (passed > pool->fill_warned_percent)
		diag_warning("pool %s is %u %% full: at 100 %% its volumes take no more data",
		    pool->name, percent);
	if (passed > pool->fill_warned_percent || percent + 5 < pool->fill_warned_percent)
		pool->fill_warned_percent = passed;
}

void
pool_fill_changed(struct pool *pool)
{
	struct pool_fill *fill = pool->fill;
	uint64_t taken = pool_used_blocks(pool) + pool_reserved_blocks(pool);
	uint64_t most = pool->live_blocks_max;

	warn(pool);
	atomic_store_explicit(&fill->usable_bytes, most * BLOCK_BYTES, memory_order_relaxed);
	atomic_store_explicit(&fill->available_bytes,
	    taken < most ? (most - taken) * BLOCK_BYTES : 0, memory_order_relaxed);
	for (unsigned i = 0; i < WARN_LEVELS; i++)
		atomic_store_explicit(
		    &fill->warn_percent[i], pool->warn_percent[i], memory_order_relaxed);
	atomic_store_explicit(
	    &fill->warned_percent, (uint8_t)pool->fill_warned_percent, memory_order_relaxed);
}

void
volume_space(const struct volume *volume, struct volume_space *space)
{
	const struct pool_fill *fill = volume->fill;

	space->usable_bytes = atomic_load_explicit(&fill->usable_bytes, memory_order_relaxed);
	space->available_bytes = min_u64(space->usable_bytes,
	    atomic_load_explicit(&fill->available_bytes, memory_order_relaxed));
	for (unsigned i = 0; i < WARN_LEVELS; i++)
		space->warn_percent[i] =
		    atomic_load_explicit(&fill->warn_percent[i], memory_order_relaxed);
	space->warned_percent = atomic_load_explicit(&fill->warned_percent, memory_order_relaxed);
}

unsigned
volume_warned_percent(const struct volume *volume)
{
	return atomic_load_explicit(&volume->fill->warned_percent, memory_order_relaxed);
}
