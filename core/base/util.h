/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small things that every file needs: checks, sizes, rounding.
 *
 * CHECK stays on in release builds: it states what the code itself promises (a bug aborts).  Bytes
 * from a disk or a client are never checked with it; they are errors, counted and reported.
 */
#ifndef QUARRY_CORE_BASE_UTIL_H
#define QUARRY_CORE_BASE_UTIL_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Every structure on disk is written as the host holds it. */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "on-disk structures are little-endian");

#define must_check __attribute__((warn_unused_result))
#define noreturn_fn __attribute__((noreturn))
#define printf_like(fmt, args) __attribute__((format(printf, fmt, args)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)
#define TIB (1024ull * GIB)

void noreturn_fn check_failed(const char *condition, const char *file, int line);
/* The system has no more: ends the program as kill -9 would, but says so. */
void noreturn_fn out_of_memory(size_t size_bytes);

#define CHECK(condition) \
	(likely(condition) ? (void)0 : check_failed(#condition, __FILE__, __LINE__))

/* Walks and recounts: only where speed does not matter (debug, simulation, fuzzing). */
#ifdef QUARRY_CHECK_SLOW
#define CHECK_SLOW(condition) CHECK(condition)
#else
#define CHECK_SLOW(condition) ((void)0)
#endif

static inline uint64_t
min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t
max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* @unit is a power of two. */
static inline uint64_t
round_down(uint64_t n, uint64_t unit)
{
	return n & ~(unit - 1);
}

static inline uint64_t
round_up(uint64_t n, uint64_t unit)
{
	return round_down(n + unit - 1, unit);
}

static inline uint64_t
div_round_up(uint64_t n, uint64_t unit)
{
	return n / unit + (n % unit != 0);
}

/* A bijective mix of 64 bits (the finaliser of SplitMix64): hashes, and checksums of places. */
static inline uint64_t
mix64(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	x ^= x >> 31;
	return x;
}

/* Allocations that are made at start or whose size is bounded: running out is fatal by design. */
void *xmalloc(size_t size_bytes);
void *xcalloc(size_t count, size_t size_bytes);
void *xrealloc(void *old, size_t size_bytes);
char *xstrdup(const char *text);
/* Memory aligned to and rounded up to 4096 bytes, zeroed; free() frees it. */
void *xalloc_pages(size_t size_bytes);

#endif
