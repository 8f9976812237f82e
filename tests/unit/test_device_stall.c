/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices that do not answer, under a virtual clock: what a pool with copies, and one without, does
 * then; and that what was given up changes nothing when it ends after all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>

#include "backends/fault.h"
#include "backends/memory.h"
#include "core/device_stall.h"
#include "core/device_watch.h"
#include "core/pool_admin.h"
#include "core/pool_internal.h"
#include "core/pool_sync.h"

#define LIMIT_NS (8ull * 1000 * 1000 * 1000)
#define PATIENCE_NS (1ull * 1000 * 1000 * 1000)

static struct reactor reactor;
static struct device *devices[2];
static struct pool *pool;
static struct volume *volume;
static uint8_t *block;

static const struct pool_config config = {
	.reactor = &reactor,
	.node_cache_bytes = 1 * MIB,
	.stall_timeout_ns = LIMIT_NS,
};

static void
started(struct pool_start *start)
{
	pool = start->pool;
}

static bool
is_started(const void *start)
{
	return ((const struct pool_start *)start)->pool != NULL;
}

static void
make_pool(uint32_t copies)
{
	struct memory_device_options options = { 0 };
	struct pool_start start = { .done = started };
	struct admin_request create = { .verb = ADMIN_VOLUME_CREATE,
		.name = { .pool = "p", .volume = "v" },
		.size_bytes = 4 * MIB };
	struct name name = { .pool = "p", .volume = "v" };
	int error;

	reactor_init(&reactor);
	reactor_set_current(&reactor);
	for (unsigned i = 0; i < 2; i++)
		devices[i] = fault_device_create(
		    memory_device_create(&reactor, 24 * MIB, i ? "b" : "a", &options));
	pool_create(&config, "p", devices, 2, 64, copies, &start);
	pool_sync_run(&reactor, is_started, &start);
	assert_int_equal(pool_sync_admin(pool, &create), 0);
	volume = volume_open(pool, &name, false, &reactor, &error);
	assert_non_null(volume);
	block = xalloc_pages(BLOCK_BYTES);
}

static void
end_pool(void)
{
	struct pool_stop stop = { 0 };

	volume_close(volume);
	pool_sync_settle(&reactor);
	pool_sync_stop(&reactor, pool, &stop);
	free(block);
	reactor_set_current(NULL);
	reactor_fini(&reactor);
}

static void
stall(unsigned device, enum device_op op)
{
	struct fault_rule rule = { .op = op, .effect = FAULT_STALL, .first = 1 };

	fault_add(devices[device], &rule);
}

static int
transfer(enum volume_op op, uint64_t lba, uint8_t value)
{
	struct volume_io io = { .op = op,
		.offset_bytes = lba * BLOCK_BYTES,
		.len_bytes = op == VOLUME_FLUSH ? 0 : BLOCK_BYTES,
		.buffer = block };

	if (op == VOLUME_WRITE)
		memset(block, value, BLOCK_BYTES);
	else if (op == VOLUME_READ)
		memset(block, 0xee, BLOCK_BYTES);
	return pool_sync_io(&reactor, volume, &io);
}

static void
assert_holds(uint64_t lba, uint8_t value)
{
	assert_int_equal(transfer(VOLUME_READ, lba, 0), 0);
	for (unsigned i = 0; i < BLOCK_BYTES; i += 512)
		assert_int_equal(block[i], value);
}

static bool
is_past(const void *when)
{
	return reactor.now_ns >= *(const uint64_t *)when;
}

static void
nothing(struct timer *timer)
{
}

static void
wait_ns(uint64_t ns)
{
	uint64_t until = reactor.now_ns + ns;
	struct timer timer;

	timer_init(&timer, nothing);
	reactor_timer_start(&reactor, &timer, ns);
	pool_sync_run(&reactor, is_past, &until);
	reactor_timer_cancel(&reactor, &timer);
}

static void
test_a_device_that_takes_no_write_is_left_out(void **state)
{
	uint64_t before;

	make_pool(2);
	assert_int_equal(transfer(VOLUME_WRITE, 1, 11), 0);
	stall(1, DEVICE_WRITE);
	before = reactor.now_ns;
	assert_int_equal(transfer(VOLUME_WRITE, 2, 22), 0);
	assert_in_range(reactor.now_ns - before, LIMIT_NS, LIMIT_NS + PATIENCE_NS);
	assert_int_equal(pool->state, POOL_ONLINE);
	assert_true(pool->space.devices[1].out);
	assert_false(device_is_stalled(pool, 1));
	/* From then on nobody waits. */
	before = reactor.now_ns;
	assert_int_equal(transfer(VOLUME_WRITE, 3, 33), 0);
	assert_int_equal(transfer(VOLUME_FLUSH, 0, 0), 0);
	assert_holds(1, 11);
	assert_holds(2, 22);
	assert_holds(3, 33);
	assert_true(reactor.now_ns - before < PATIENCE_NS);
	/* It is not closed as long as it holds something, and is when it does not. */
	assert_true(fault_stalled_count(devices[1]) > 0);
	assert_false(device_let_go(pool, 1));
	fault_clear(devices[1]);
	fault_resume(devices[1]);
	wait_ns(LIMIT_NS);
	assert_int_equal(devices[1]->in_flight, 0);
	assert_true(device_let_go(pool, 1));
	assert_holds(2, 22);
	end_pool();
}

static void
test_a_device_that_does_not_flush_is_left_out(void **state)
{
	make_pool(2);
	stall(0, DEVICE_FLUSH);
	assert_int_equal(transfer(VOLUME_WRITE, 2, 22), 0);
	assert_int_equal(transfer(VOLUME_FLUSH, 0, 0), 0);
	assert_true(pool->space.devices[0].out);
	assert_holds(2, 22);
	fault_clear(devices[0]);
	fault_resume(devices[0]);
	wait_ns(LIMIT_NS);
	end_pool();
}

/* Whichever of the two is asked first. */
static void
test_a_slow_read_is_tried_on_the_other_copy(void **state)
{
	static uint8_t kept[BLOCK_BYTES];

	for (unsigned i = 0; i < 2; i++) {
		uint64_t before, stalled;

		make_pool(2);
		assert_int_equal(transfer(VOLUME_WRITE, 1, 11), 0);
		stall(i, DEVICE_READ);
		before = reactor.now_ns;
		assert_holds(1, 11);
		stalled = fault_stalled_count(devices[i]);
		assert_true(reactor.now_ns - before <= 2 * PATIENCE_NS);
		assert_int_equal(stalled, reactor.now_ns - before >= PATIENCE_NS);
		assert_false(pool->space.devices[i].out);
		/* Not asked first any more, as long as it holds that. */
		before = reactor.now_ns;
		for (unsigned n = 0; n < 10 && stalled; n++)
			assert_holds(1, 11);
		assert_int_equal(reactor.now_ns, before);
		/* What it answers at last goes nowhere. */
		memset(block, 0x5a, BLOCK_BYTES);
		memcpy(kept, block, BLOCK_BYTES);
		fault_clear(devices[i]);
		fault_resume(devices[i]);
		wait_ns(PATIENCE_NS);
		assert_memory_equal(block, kept, BLOCK_BYTES);
		assert_int_equal(pool->state, POOL_ONLINE);
		assert_int_equal(pool->devices[i].errors, 0);
		end_pool();
	}
}

static bool write_ended;

static void
written(struct volume_io *io)
{
	write_ended = true;
}

static void
test_one_copy_is_waited_for(void **state)
{
	struct volume_io io = { .op = VOLUME_WRITE, .len_bytes = BLOCK_BYTES, .done = written };

	make_pool(1);
	stall(0, DEVICE_WRITE);
	stall(1, DEVICE_WRITE);
	memset(block, 22, BLOCK_BYTES);
	io.buffer = block;
	write_ended = false;
	volume_submit(volume, &io);
	wait_ns(LIMIT_NS - PATIENCE_NS);
	assert_false(device_is_stalled(pool, 0) || device_is_stalled(pool, 1));
	wait_ns(2 * PATIENCE_NS);
	assert_true(device_is_stalled(pool, 0) || device_is_stalled(pool, 1));
	wait_ns(10 * LIMIT_NS);
	assert_false(write_ended);
	assert_int_equal(pool->state, POOL_ONLINE);
	for (unsigned i = 0; i < 2; i++) {
		fault_clear(devices[i]);
		fault_resume(devices[i]);
	}
	wait_ns(PATIENCE_NS);
	assert_true(write_ended);
	assert_int_equal(io.error, 0);
	assert_false(device_is_stalled(pool, 0) || device_is_stalled(pool, 1));
	assert_false(pool->space.devices[0].out || pool->space.devices[1].out);
	assert_holds(0, 22);
	end_pool();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_device_that_takes_no_write_is_left_out),
		cmocka_unit_test(test_a_device_that_does_not_flush_is_left_out),
		cmocka_unit_test(test_a_slow_read_is_tried_on_the_other_copy),
		cmocka_unit_test(test_one_copy_is_waited_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
