/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool that was killed is imported from a device that answers one read falsely: the first, then
 * the second, until there is none left.  Either the import says that something is wrong (it is
 * refused, or the pool is not online), or all that was flushed is there.
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

#define DISK_BYTES (24 * MIB)
#define WRITES 40u
#define TURNS_MAX 1000000u

static struct reactor reactor;
static const struct pool_config config = { .reactor = &reactor, .node_cache_bytes = 1 * MIB };

struct opening {
	struct pool_start start;
	bool ended;
};

struct io {
	struct volume_io io;
	bool ended;
};

struct admin {
	struct admin_request request;
	bool ended;
};

struct closing {
	struct pool_stop stop;
	bool ended;
};

static void
opened(struct pool_start *start)
{
	container_of(start, struct opening, start)->ended = true;
}

static void
io_done(struct volume_io *io)
{
	container_of(io, struct io, io)->ended = true;
}

static void
admin_done(struct admin_request *request)
{
	container_of(request, struct admin, request)->ended = true;
}

static void
closed(struct pool_stop *stop)
{
	container_of(stop, struct closing, stop)->ended = true;
}

static void
run_until(const bool *ended)
{
	for (unsigned turn = 0; !*ended; turn++) {
		bool ran = reactor_run_turn(&reactor, reactor.now_ns);
		uint64_t next_ns = reactor_next_deadline_ns(&reactor);

		assert_true(turn < TURNS_MAX);
		if (!ran && !*ended)
			reactor_run_turn(&reactor, max_u64(next_ns, reactor.now_ns));
	}
}

static int
transfer(struct pool *pool, enum volume_op op, uint64_t lba, uint8_t *block)
{
	const struct name name = { .pool = "p", .volume = "v" };
	struct io io = { .io = { .op = op,
			     .offset_bytes = lba * BLOCK_BYTES,
			     .len_bytes = op == VOLUME_FLUSH ? 0 : BLOCK_BYTES,
			     .buffer = block,
			     .done = io_done } };
	int error;
	struct volume *volume = volume_open(pool, &name, false, &reactor, &error);

	if (!volume)
		return error;
	volume_submit(volume, &io.io);
	run_until(&io.ended);
	volume_close(volume);
	reactor_run_turn(&reactor, reactor.now_ns);
	return io.io.error;
}

static struct pool *
open_pool(struct device *device, bool create, struct opening *opening)
{
	memset(opening, 0, sizeof(*opening));
	opening->start.done = opened;
	if (create)
		pool_create(&config, "p", &device, 1, 64, &opening->start);
	else
		pool_import(&config, &device, 1, &opening->start);
	run_until(&opening->ended);
	return opening->start.pool;
}

static void
close_pool(struct pool *pool, bool abandon)
{
	struct closing closing = { .stop = { .done = closed, .abandon = abandon } };

	pool_stop(pool, &closing.stop);
	run_until(&closing.ended);
}

/* Block @lba as it was written last: 13 blocks, each of them again and again. */
static void
fill(uint8_t *block, unsigned number)
{
	memset(block, (int)(number + 1), BLOCK_BYTES);
}

/* What the disk of a pool holds that was killed after its last flush; nothing is in a cache. */
static uint8_t *
killed_pool(void)
{
	struct memory_device_options options = { 0 };
	struct memory_disk *disk = memory_disk_create(DISK_BYTES);
	uint8_t *block = xalloc_pages(BLOCK_BYTES);
	uint8_t *image = xmalloc(DISK_BYTES);
	struct opening opening;
	struct pool *pool =
	    open_pool(memory_device_open(disk, &reactor, "disk", &options), true, &opening);
	struct admin admin = { .request = { .verb = ADMIN_VOLUME_CREATE,
				   .name = { .pool = "p", .volume = "v" },
				   .size_bytes = 4 * MIB } };

	assert_non_null(pool);
	pool_admin(pool, &admin.request, admin_done);
	run_until(&admin.ended);
	assert_int_equal(admin.request.error.code, 0);
	for (unsigned i = 0; i < WRITES; i++) {
		fill(block, i);
		assert_int_equal(transfer(pool, VOLUME_WRITE, i % 13, block), 0);
	}
	assert_int_equal(transfer(pool, VOLUME_FLUSH, 0, NULL), 0);
	memory_disk_read(disk, 0, image, DISK_BYTES);
	close_pool(pool, true);
	memory_disk_put(disk);
	free(block);
	return image;
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
	uint8_t *block = xalloc_pages(BLOCK_BYTES);
	uint8_t *expected = xmalloc(BLOCK_BYTES);
	struct opening opening;
	struct device *device;
	struct pool *pool;
	bool met = true;

	memory_disk_write(disk, 0, image, DISK_BYTES);
	device = fault_device_create(memory_device_open(disk, &reactor, "disk", &options));
	memory_disk_put(disk); /* the device has it */
	fault_add(device, &rule);
	pool = open_pool(device, false, &opening);
	if (pool) {
		met = fault_count(device, DEVICE_READ) >= read;
		*online += pool->state == POOL_ONLINE;
		for (unsigned i = WRITES - 13; pool->state == POOL_ONLINE && i < WRITES; i++) {
			int error = transfer(pool, VOLUME_READ, i % 13, block);

			fill(expected, i);
			if (error == 0 && memcmp(block, expected, BLOCK_BYTES) != 0)
				fail_msg(
				    "read %llu shifted by %lld: block %u is not what was flushed",
				    (unsigned long long)read, (long long)shift_bytes, i % 13);
		}
		close_pool(pool, true);
	}
	free(block);
	free(expected);
	return met;
}

static void
test_every_read_misdirected_once(void **state)
{
	static const int64_t shifts[] = { -3, -1, 1, 7, 64 };
	uint8_t *image = killed_pool();
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

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_read_misdirected_once),
	};

	diag_set_level(DIAG_ERROR);
	reactor_init(&reactor);
	reactor_set_current(&reactor);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
