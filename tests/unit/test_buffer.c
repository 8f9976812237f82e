/* SPDX-License-Identifier: Apache-2.0 */
/* Payload buffers: sizes and alignment, the budget, recycling, and giving memory back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "core/buffer.h"

static void
test_sizes(void **state)
{
	static const struct {
		size_t len_bytes;
		uint64_t takes_bytes;
	} cases[] = {
		{ 1, 4 * KIB },
		{ 4096, 4 * KIB },
		{ 4097, 8 * KIB },
		{ 65536, 64 * KIB },
		{ 65537, 128 * KIB },
		{ MIB, MIB },
		{ MIB + 1, MIB + 4096 },
		{ BUFFER_BYTES_MAX, BUFFER_BYTES_MAX },
	};
	struct buffer_pool *pool = buffer_pool_create(64 * MIB);

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		unsigned char *buffer = buffer_get(pool, cases[i].len_bytes);

		assert_non_null(buffer);
		assert_int_equal((uintptr_t)buffer % 4096, 0);
		assert_int_equal(buffer_pool_used_bytes(pool), cases[i].takes_bytes);
		memset(buffer, 0x5a, round_up(cases[i].len_bytes, 4096));
		buffer_put(pool, buffer, cases[i].len_bytes);
		assert_int_equal(buffer_pool_used_bytes(pool), 0);
	}
	buffer_put(pool, NULL, 4096);
	buffer_pool_free(pool);
	buffer_pool_free(NULL);
}

static void
test_budget(void **state)
{
	struct buffer_pool *pool = buffer_pool_create(64 * KIB);
	void *first = buffer_get(pool, 32 * KIB);
	void *second = buffer_get(pool, 20 * KIB); /* takes 32 KiB */

	assert_non_null(first);
	assert_non_null(second);
	assert_null(buffer_get(pool, 1));
	buffer_put(pool, first, 32 * KIB);
	assert_null(buffer_get(pool, 33 * KIB));
	/* What is cached does not count. */
	first = buffer_get(pool, 4096);
	assert_non_null(first);
	buffer_put(pool, first, 4096);
	buffer_put(pool, second, 20 * KIB);
	first = buffer_get(pool, 64 * KIB);
	assert_non_null(first);
	buffer_put(pool, first, 64 * KIB);
	buffer_pool_free(pool);
}

static void
test_recycling(void **state)
{
	struct buffer_pool *pool = buffer_pool_create(64 * MIB);
	void *first = buffer_get(pool, 100 * KIB);
	void *second;

	buffer_put(pool, first, 100 * KIB);
	second = buffer_get(pool, 128 * KIB); /* the same class */
	assert_ptr_equal(first, second);
	buffer_put(pool, second, 128 * KIB);
	buffer_pool_free(pool);
}

static void
test_trim(void **state)
{
	struct buffer_pool *pool = buffer_pool_create(64 * MIB);
	void *buffers[8];

	for (size_t i = 0; i < ARRAY_SIZE(buffers); i++) {
		buffers[i] = buffer_get(pool, 64 * KIB);
		assert_non_null(buffers[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(buffers); i++)
		buffer_put(pool, buffers[i], 64 * KIB);
	/* All eight were in use since the beginning. */
	assert_int_equal(buffer_pool_trim(pool), 8 * 64 * KIB);
	/* Since then at most two were. */
	for (int round = 0; round < 10; round++) {
		buffers[0] = buffer_get(pool, 64 * KIB);
		buffers[1] = buffer_get(pool, 64 * KIB);
		buffer_put(pool, buffers[0], 64 * KIB);
		buffer_put(pool, buffers[1], 64 * KIB);
	}
	assert_int_equal(buffer_pool_trim(pool), 2 * 64 * KIB);
	/* And since then none. */
	assert_int_equal(buffer_pool_trim(pool), 0);
	buffer_pool_free(pool);
}

static void
test_cache_is_bounded(void **state)
{
	struct buffer_pool *pool = buffer_pool_create(GIB);
	void *buffers[64];

	for (size_t i = 0; i < ARRAY_SIZE(buffers); i++) {
		buffers[i] = buffer_get(pool, MIB);
		assert_non_null(buffers[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(buffers); i++)
		buffer_put(pool, buffers[i], MIB);
	assert_in_range(buffer_pool_trim(pool), MIB, 32 * MIB);
	buffer_pool_free(pool);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_budget),
		cmocka_unit_test(test_recycling),
		cmocka_unit_test(test_trim),
		cmocka_unit_test(test_cache_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
