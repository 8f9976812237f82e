/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Payload memory: blocks-aligned buffers of 4 KiB to BUFFER_BYTES_MAX, recycled per reactor by size
 * class, under one budget.  Not thread-safe: each reactor has its own pool, and a buffer goes back
 * to the pool that it came from.
 */
#ifndef QUARRY_CORE_BUFFER_H
#define QUARRY_CORE_BUFFER_H

#include "core/base/util.h"

/* A 32 MiB payload that starts and ends within a block. */
#define BUFFER_BYTES_MAX (32 * MIB + 8192)

struct buffer_pool;

struct buffer_pool *buffer_pool_create(uint64_t budget_bytes);
void buffer_pool_free(struct buffer_pool *pool);

/* At least @len_bytes, 4096-aligned, not cleared; NULL when the budget, or the system's memory, is
 * used up (try again after a buffer was put back). */
void *buffer_get(struct buffer_pool *pool, size_t len_bytes);
/* The same beyond the budget: the caller bounds how much.  NULL: the system is out of memory. */
void *buffer_get_beyond(struct buffer_pool *pool, size_t len_bytes);
/* @len_bytes as it was asked for; NULL does nothing. */
void buffer_put(struct buffer_pool *pool, void *buffer, size_t len_bytes);
uint64_t buffer_pool_used_bytes(const struct buffer_pool *pool);

/* Gives back to the system what was cached but not needed since the last call; returns what is
 * still cached.  For a timer that runs while there is traffic, and a second or two after it: 0 says
 * that there is nothing left to trim.  Without it up to 32 MiB stay cached. */
uint64_t buffer_pool_trim(struct buffer_pool *pool);

#endif
