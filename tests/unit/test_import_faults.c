/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool that was killed is imported from a device that answers one read falsely: the first, then
 * the second, until there is none left.  Either the import says that something is wrong (it is
 * refused, or the pool is not online), or all that was flushed is there.  Likewise of a disk of
 * which one block is damaged for good: each of the log's open segment, each page of the slab table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>

#include "backends/fault.h"
#include "backends/memory.h"
#include "core/base/diag.h"
#include "core/pool_admin.h"
#include "core/pool_internal.h"
#include "core/pool_sync.h"

#define DISK_BYTES (24 * MIB)
#define WRITES 40u

static struct reactor reactor;
static const struct pool_config config = { .reactor = &reactor, .node_cache_bytes = 1 * MIB };

static int
transfer(struct pool *pool, enum volume_op op, uint64_t lba, uint8_t *block)
{
	const struct name name = { .pool = "p", .volume = "v" };
	struct volume_io io = { .op = op,
		.offset_bytes = lba * BLOCK_BYTES,
		.len_bytes = op == VOLUME_FLUSH ? 0 : BLOCK_BYTES,
		.buffer = block };
	int error;
	struct volume *volume = volume_open(pool, &name, false, &reactor, &error);

	if (!volume)
		return error;
	error = pool_sync_io(&reactor, volume, &io);
	volume_close(volume);
	pool_sync_settle(&reactor);
	return error;
}

static struct pool *
open_pool(struct device *device, bool create)
{
	struct pool_start start = { 0 };

	return create ? pool_sync_create(&config, "p", &device, 1, 64, &start)
		      : pool_sync_import(&config, &device, 1, &start);
}

static void
abandon_pool(struct pool *pool)
{
	struct pool_stop stop = { .abandon = true };

	pool_sync_stop(&reactor, pool, &stop);
}

/* Block @lba as it was written last: 13 blocks, each of them again and again. */
static void
fill(uint8_t *block, unsigned number)
{
	memset(block, (int)(number + 1), BLOCK_BYTES);
}

/* Where what can be damaged lies on the disk of killed_pool(). */
static uint64_t log_block, log_end_block;
static uint32_t table_pages;

/* What the disk of a pool holds that was killed after its last flush; nothing is in a cache.
 * @flushes: each write was flushed, which each header says of those before it. */
static uint8_t *
killed_pool(bool flushes)
{
	struct memory_device_options options = { 0 };
	struct memory_disk *disk = memory_disk_create(DISK_BYTES);
	uint8_t *block = xalloc_pages(BLOCK_BYTES);
	uint8_t *image = xmalloc(DISK_BYTES);
	struct pool *pool = open_pool(memory_device_open(disk, &reactor, "disk", &options), true);
	struct admin_request create = { .verb = ADMIN_VOLUME_CREATE,
		.name = { .pool = "p", .volume = "v" },
		.size_bytes = 4 * MIB };

	assert_non_null(pool);
	assert_int_equal(pool_sync_admin(pool, &create), 0);
	for (unsigned i = 0; i < WRITES; i++) {
		fill(block, i);
		assert_int_equal(transfer(pool, VOLUME_WRITE, i % 13, block), 0);
		if (flushes)
			assert_int_equal(transfer(pool, VOLUME_FLUSH, 0, NULL), 0);
		if (!flushes || i != WRITES / 2)
			continue;
		/* So that pages of the table have two versions, and the log is short. */
		pool_sync_stop(&reactor, pool, &(struct pool_stop){ 0 });
		pool = open_pool(memory_device_open(disk, &reactor, "disk", &options), false);
		assert_non_null(pool);
	}
	assert_int_equal(transfer(pool, VOLUME_FLUSH, 0, NULL), 0);
	memory_disk_read(disk, 0, image, DISK_BYTES);
	log_block = space_offset_bytes(&pool->space, pool->log.slab, 0) / BLOCK_BYTES;
	log_end_block = log_block + pool->log.slot;
	table_pages = pool->space.devices[0].page_count;
	abandon_pool(pool);
	memory_disk_put(disk);
	free(block);
	return image;
}

/* Of what was flushed, but for the last @last writes, nothing is anything else; it may be
 * unreadable. */
static void
verify(struct pool *pool, unsigned last, const char *what, uint64_t number)
{
	uint8_t *block = xalloc_pages(BLOCK_BYTES), *expected = xmalloc(BLOCK_BYTES);

	for (unsigned i = WRITES - 13; i < WRITES - last; i++) {
		int error = transfer(pool, VOLUME_READ, i % 13, block);

		fill(expected, i);
		if (error == 0 && memcmp(block, expected, BLOCK_BYTES) != 0)
			fail_msg("%s %llu: block %u is not what was flushed", what,
			    (unsigned long long)number, i % 13);
	}
	free(block);
	free(expected);
}

/* True: the fault was met. */
static bool
import_with(const uint8_t *image, uint64_t read, int64_t shift_bytes, unsigned *online)
{
	const struct fault_rule rule = { .op = DEVICE_READ,
		.effect = FAULT_MISDIRECT,
		.first = read,
		.count = 1,
		.shift_bytes = shift_bytes };
	struct memory_device_options options = { 0 };
	struct memory_disk *disk = memory_disk_create(DISK_BYTES);
	struct device *device;
	struct pool *pool;
	bool met = true;

	memory_disk_write(disk, 0, image, DISK_BYTES);
	device = fault_device_create(memory_device_open(disk, &reactor, "disk", &options));
	memory_disk_put(disk); /* the device has it */
	fault_add(device, &rule);
	pool = open_pool(device, false);
	if (pool) {
		met = fault_count(device, DEVICE_READ) >= read;
		*online += pool->state == POOL_ONLINE;
		if (pool->state == POOL_ONLINE)
			verify(
			    pool, 0, shift_bytes < 0 ? "read shifted back" : "read shifted", read);
		abandon_pool(pool);
	}
	return met;
}

static void
test_every_read_misdirected_once(void **state)
{
	static const int64_t shifts[] = { -3, -1, 1, 7, 64 };
	uint8_t *image = killed_pool(false);
	unsigned imports = 0, online = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shifts); i++)
		for (uint64_t read = 1;
		     import_with(image, read, shifts[i] * (int64_t)BLOCK_BYTES, &online); read++)
			imports++;
	assert_true(imports > 20);
	assert_true(online > imports / 4); /* most reads have a twin, or are read again */
	free(image);
}

/* Imports @image with a bit of @block wrong; whether the pool is online. */
static bool
import_damaged(const uint8_t *image, uint64_t block, unsigned last, const char *what)
{
	struct memory_device_options options = { 0 };
	struct memory_disk *disk = memory_disk_create(DISK_BYTES);
	struct pool *pool;
	bool online;

	memory_disk_write(disk, 0, image, DISK_BYTES);
	memory_disk_flip_bit(disk, block * BLOCK_BYTES + 40, 3);
	pool = open_pool(memory_device_open(disk, &reactor, "disk", &options), false);
	memory_disk_put(disk);
	if (!pool)
		return false;
	online = pool->state == POOL_ONLINE;
	if (online)
		verify(pool, last, what, block);
	abandon_pool(pool);
	return online;
}

/* A header that says what is durable tells of it, unless it is one of the last two. */
static void
test_every_block_of_the_open_segment_damaged(void **state)
{
	uint8_t *image = killed_pool(true);
	unsigned told = 0;

	(void)state;
	for (uint64_t block = log_block; block < log_end_block; block++)
		told += !import_damaged(image, block, 2, "log");
	assert_true(log_end_block - log_block > 20);
	assert_true(told > (log_end_block - log_block) / 2);
	free(image);
}

/* Of each page one place is the one that counts: without it the other one is not believed. */
static void
test_every_page_of_the_slab_table_damaged(void **state)
{
	uint8_t *image = killed_pool(true);

	(void)state;
	for (uint32_t page = 0; page < table_pages; page++) {
		uint64_t block = FORMAT_TABLE_BLOCK + 2 * page;
		unsigned online = import_damaged(image, block, 0, "table") +
				  import_damaged(image, block + 1, 0, "table");

		assert_int_equal(online, 1);
	}
	free(image);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_read_misdirected_once),
		cmocka_unit_test(test_every_block_of_the_open_segment_damaged),
		cmocka_unit_test(test_every_page_of_the_slab_table_damaged),
	};

	diag_set_level(DIAG_ERROR);
	reactor_init(&reactor);
	reactor_set_current(&reactor);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
