/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Payload buffers by size class.
 *
 * Sizes up to 1 MiB are rounded up to a power of two and recycled, last in first out (the warmest
 * first); larger ones come from the system and go back to it.  What counts against the budget is
 * what is handed out, as rounded; what is cached on top of that is bounded, and buffer_pool_trim()
 * gives back what a period did not need.
 *
 * A cached buffer's first bytes link it to the next one; the rest is poisoned for AddressSanitizer,
 * so that use after buffer_put() is found in spite of the recycling.
 */
#include "core/buffer.h"

#include <sanitizer/asan_interface.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
	CLASS_BITS_MIN = 12, /* 4 KiB */
	CLASS_BITS_MAX = 20, /* 1 MiB */
	CLASS_COUNT = CLASS_BITS_MAX - CLASS_BITS_MIN + 1,
	/* From here on memory is mapped, so that it really leaves the process when it is freed. */
	MAPPED_BYTES_MIN = 64 * 1024,
	CACHED_BYTES_MAX = 32 * 1024 * 1024,
};

struct free_buffer {
	struct free_buffer *next;
};

struct buffer_class {
	struct free_buffer *free;
	uint32_t free_count;
	uint32_t free_count_min; /* since the last trim: that many were never needed */
};

/*
 * Invariants:
 *   - used_bytes <= budget_bytes, but for what was taken by buffer_get_beyond();
 *   - cached_bytes is the sum over the classes of free_count times the class's size, and at most
 *     CACHED_BYTES_MAX.
 */
struct buffer_pool {
	uint64_t budget_bytes;
	uint64_t used_bytes;
	uint64_t cached_bytes;
	struct buffer_class classes[CLASS_COUNT];
};

/* What a buffer for @len_bytes really takes. */
static size_t
rounded_bytes(size_t len_bytes)
{
	if (len_bytes <= 1u << CLASS_BITS_MIN)
		return 1u << CLASS_BITS_MIN;
	if (len_bytes > 1u << CLASS_BITS_MAX)
		return round_up(len_bytes, 4096);
	return (size_t)1 << (64 - __builtin_clzll(len_bytes - 1));
}

static struct buffer_class *
class_of(struct buffer_pool *pool, size_t size_bytes)
{
	if (size_bytes > 1u << CLASS_BITS_MAX)
		return NULL;
	return &pool->classes[__builtin_ctzll(size_bytes) - CLASS_BITS_MIN];
}

static size_t
class_bytes(const struct buffer_pool *pool, const struct buffer_class *class)
{
	return (size_t)1 << (CLASS_BITS_MIN + (class - pool->classes));
}

static void *
memory_get(size_t size_bytes)
{
	void *memory;

	if (size_bytes < MAPPED_BYTES_MIN)
		return aligned_alloc(4096, size_bytes);
	memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

static void
memory_put(void *memory, size_t size_bytes)
{
	if (size_bytes < MAPPED_BYTES_MIN)
		free(memory);
	else
		munmap(memory, size_bytes);
}

static void
cache_push(struct buffer_pool *pool, struct buffer_class *class, void *buffer, size_t size_bytes)
{
	struct free_buffer *free_buffer = buffer;

	free_buffer->next = class->free;
	class->free = free_buffer;
	class->free_count++;
	pool->cached_bytes += size_bytes;
	/* Not the link: LeakSanitizer follows none that is poisoned. */
	ASAN_POISON_MEMORY_REGION(free_buffer + 1, size_bytes - sizeof(*free_buffer));
}

static void *
cache_pop(struct buffer_pool *pool, struct buffer_class *class, size_t size_bytes)
{
	struct free_buffer *buffer = class->free;

	if (!buffer)
		return NULL;
	CHECK(class->free_count > 0 && pool->cached_bytes >= size_bytes);
	ASAN_UNPOISON_MEMORY_REGION(buffer, size_bytes);
	class->free = buffer->next;
	class->free_count--;
	if (class->free_count_min > class->free_count)
		class->free_count_min = class->free_count;
	pool->cached_bytes -= size_bytes;
	return buffer;
}

struct buffer_pool *
buffer_pool_create(uint64_t budget_bytes)
{
	struct buffer_pool *pool = xcalloc(1, sizeof(*pool));

	pool->budget_bytes = budget_bytes;
	return pool;
}

void
buffer_pool_free(struct buffer_pool *pool)
{
	if (!pool)
		return;
	CHECK(pool->used_bytes == 0);
	for (struct buffer_class *class = pool->classes; class < pool->classes + CLASS_COUNT;
	     class ++) {
		size_t size_bytes = class_bytes(pool, class);
		void *buffer;

		while ((buffer = cache_pop(pool, class, size_bytes)))
			memory_put(buffer, size_bytes);
	}
	CHECK(pool->cached_bytes == 0);
	free(pool);
}

void *
buffer_get(struct buffer_pool *pool, size_t len_bytes)
{
	if (pool->used_bytes + rounded_bytes(len_bytes) > pool->budget_bytes)
		return NULL;
	void *buffer = buffer_get_beyond(pool, len_bytes);

	if (!buffer && pool->used_bytes == 0)
		out_of_memory(len_bytes); /* nobody would put one back */
	return buffer;
}

void *
buffer_get_beyond(struct buffer_pool *pool, size_t len_bytes)
{
	size_t size_bytes = rounded_bytes(len_bytes);
	struct buffer_class *class = class_of(pool, size_bytes);
	void *buffer = NULL;

	CHECK(len_bytes > 0 && len_bytes <= BUFFER_BYTES_MAX);
	if (class)
		buffer = cache_pop(pool, class, size_bytes);
	if (!buffer)
		buffer = memory_get(size_bytes);
	if (buffer)
		pool->used_bytes += size_bytes;
	CHECK((uintptr_t)buffer % 4096 == 0);
	return buffer;
}

void
buffer_put(struct buffer_pool *pool, void *buffer, size_t len_bytes)
{
	size_t size_bytes = rounded_bytes(len_bytes);
	struct buffer_class *class = class_of(pool, size_bytes);

	if (!buffer)
		return;
	CHECK(pool->used_bytes >= size_bytes);
	pool->used_bytes -= size_bytes;
	if (class && pool->cached_bytes + size_bytes <= CACHED_BYTES_MAX)
		cache_push(pool, class, buffer, size_bytes);
	else
		memory_put(buffer, size_bytes);
}

uint64_t
buffer_pool_trim(struct buffer_pool *pool)
{
	for (struct buffer_class *class = pool->classes; class < pool->classes + CLASS_COUNT;
	     class ++) {
		size_t size_bytes = class_bytes(pool, class);

		for (uint32_t idle = class->free_count_min; idle > 0; idle--)
			memory_put(cache_pop(pool, class, size_bytes), size_bytes);
		class->free_count_min = class->free_count;
	}
	return pool->cached_bytes;
}

uint64_t
buffer_pool_used_bytes(const struct buffer_pool *pool)
{
	return pool->used_bytes;
}
