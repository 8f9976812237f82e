/* SPDX-License-Identifier: Apache-2.0 */
/* Bits in arrays of 64-bit words. */
#ifndef QUARRY_CORE_BASE_BITMAP_H
#define QUARRY_CORE_BASE_BITMAP_H

#include "core/base/util.h"

#define BITMAP_WORDS(bits) (((bits) + 63) / 64)

static inline bool
bitmap_test(const uint64_t *map, uint64_t bit)
{
	return map[bit / 64] >> (bit % 64) & 1;
}

/* Returns whether the bit was clear before. */
static inline bool
bitmap_set(uint64_t *map, uint64_t bit)
{
	uint64_t mask = 1ull << (bit % 64);
	bool was_clear = !(map[bit / 64] & mask);

	map[bit / 64] |= mask;
	return was_clear;
}

/* Returns whether the bit was set before. */
static inline bool
bitmap_clear(uint64_t *map, uint64_t bit)
{
	uint64_t mask = 1ull << (bit % 64);
	bool was_set = map[bit / 64] & mask;

	map[bit / 64] &= ~mask;
	return was_set;
}

static inline uint64_t
bitmap_count(const uint64_t *map, uint64_t bits)
{
	uint64_t n = 0;

	for (uint64_t word = 0; word < BITMAP_WORDS(bits); word++)
		n += (uint64_t)__builtin_popcountll(map[word]);
	return n;
}

#endif
