/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two machines on one disk, each with a reactor that runs, or stands still as one that was
 * suspended does; one virtual clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>

#include "backends/fault.h"
#include "backends/memory.h"
#include "core/pool_admin.h"
#include "core/pool_internal.h"
#include "core/pool_sync.h"

#define DISK_BYTES (24 * MIB)
#define INTERVAL_NS (3ull * 1000 * 1000 * 1000)

static struct memory_disk *disk;

static struct machine {
	struct reactor reactor;
	struct heartbeat_owner owner;
	struct pool_config config;
	struct pool *pool;
	struct volume *volume;
	struct device *device;
	uint8_t *block;
	struct volume_io io;
	bool ended;
} machines[2];

static void
set_up(struct machine *m)
{
	struct memory_device_options options = { .seed = 5 }; /* an answer takes a while */
	unsigned number = (unsigned)(m - machines);

	memset(m, 0, sizeof(*m));
	reactor_init(&m->reactor);
	m->reactor.now_ns = machines[!number].reactor.now_ns;
	heartbeat_owner_init(&m->owner);
	m->owner.machine.bytes[0] ^= (uint8_t)(1 + number);
	m->owner.interval_ms = INTERVAL_NS / 1000000;
	m->config = (struct pool_config){
		.reactor = &m->reactor,
		.node_cache_bytes = 1 * MIB,
		.owner = &m->owner,
	};
	m->block = xalloc_pages(BLOCK_BYTES);
	m->device = fault_device_create(
	    memory_device_open(disk, &m->reactor, number ? "b" : "a", &options));
	reactor_set_current(&m->reactor);
}

static void
open_volume(struct machine *m)
{
	const struct name name = { .pool = "p", .volume = "v" };
	int error;

	m->volume = volume_open(m->pool, &name, false, &m->reactor, &error);
	assert_non_null(m->volume);
}

static void
create_pool(struct machine *m)
{
	struct pool_start start = { 0 };
	struct admin_request create = { .verb = ADMIN_VOLUME_CREATE,
		.name = { .pool = "p", .volume = "v" },
		.size_bytes = 4 * MIB };

	disk = memory_disk_create(DISK_BYTES);
	set_up(m);
	m->pool = pool_sync_create(&m->config, "p", &m->device, 1, 64, &start);
	assert_non_null(m->pool);
	assert_int_equal(pool_sync_admin(m->pool, &create), 0);
	open_volume(m);
}

static void
end_machine(struct machine *m)
{
	struct pool_stop stop = { 0 };

	reactor_set_current(&m->reactor);
	if (m->volume)
		volume_close(m->volume);
	pool_sync_settle(&m->reactor);
	pool_sync_stop(&m->reactor, m->pool, &stop);
	free(m->block);
	reactor_set_current(NULL);
	reactor_fini(&m->reactor);
}

static void
ended(struct volume_io *io)
{
	container_of(io, struct machine, io)->ended = true;
}

static bool
has_ended(const void *m)
{
	return ((const struct machine *)m)->ended;
}

static void
submit(struct machine *m, enum volume_op op, uint8_t value)
{
	m->ended = false;
	m->io = (struct volume_io){
		.op = op, .len_bytes = BLOCK_BYTES, .buffer = m->block, .done = ended
	};
	if (op == VOLUME_WRITE)
		memset(m->block, value, BLOCK_BYTES);
	volume_submit(m->volume, &m->io);
}

static int
transfer(struct machine *m, enum volume_op op, uint8_t value)
{
	reactor_set_current(&m->reactor);
	submit(m, op, value);
	pool_sync_run(&m->reactor, has_ended, m);
	if (op == VOLUME_READ && m->io.error == 0)
		assert_int_equal(m->block[17], value);
	return m->io.error;
}

/* The machine runs for so long. */
static void
run_for(struct machine *m, uint64_t ns)
{
	uint64_t end_ns = m->reactor.now_ns + ns;

	reactor_set_current(&m->reactor);
	for (;;) {
		uint64_t next_ns = reactor_next_deadline_ns(&m->reactor);

		if (reactor_run_turn(&m->reactor, m->reactor.now_ns))
			continue;
		if (next_ns > end_ns)
			break;
		(void)reactor_run_turn(&m->reactor, max_u64(next_ns, m->reactor.now_ns));
	}
	(void)reactor_run_turn(&m->reactor, end_ns);
}

static uint8_t *
image_of_disk(void)
{
	uint8_t *image = xmalloc(DISK_BYTES);

	memory_disk_read(disk, 0, image, DISK_BYTES);
	return image;
}

static void
assert_disk_is(uint8_t *image)
{
	uint8_t *now = image_of_disk();

	for (size_t i = 0; i < DISK_BYTES; i++)
		if (now[i] != image[i])
			fail_msg("byte %zu was written", i);
	free(now);
	free(image);
}

static void
test_who_was_replaced_while_it_stood_still_writes_nothing(void **state)
{
	struct machine *a = &machines[0], *b = &machines[1];
	struct pool_start start = { 0 };
	uint8_t *image;

	create_pool(a);
	assert_int_equal(transfer(a, VOLUME_WRITE, 1), 0);
	run_for(a, 2 * INTERVAL_NS);
	/* It stands still, with writes that wait to be submitted in its next turn. */
	reactor_set_current(&a->reactor);
	submit(a, VOLUME_WRITE, 2);
	set_up(b);
	b->pool = pool_sync_import(&b->config, &b->device, 1, &start);
	assert_non_null(b->pool);
	assert_true(b->reactor.now_ns - a->reactor.now_ns >= 5 * INTERVAL_NS / 2);
	open_volume(b);
	assert_int_equal(transfer(b, VOLUME_READ, 1), 0);
	assert_int_equal(transfer(b, VOLUME_WRITE, 3), 0);
	/* It goes on. */
	image = image_of_disk();
	reactor_set_current(&a->reactor);
	(void)reactor_run_turn(&a->reactor, b->reactor.now_ns);
	run_for(a, INTERVAL_NS);
	assert_true(a->ended);
	assert_int_equal(a->io.error, -EIO);
	assert_int_equal(a->pool->state, POOL_FAILED);
	assert_non_null(strstr(a->pool->state_reason, "while this process stood still"));
	assert_int_equal(transfer(a, VOLUME_WRITE, 4), -EIO);
	end_machine(a);
	assert_disk_is(image);
	assert_int_equal(transfer(b, VOLUME_READ, 3), 0);
	end_machine(b);
	memory_disk_put(disk);
}

static void
test_who_stood_still_and_was_not_replaced_goes_on(void **state)
{
	struct machine *a = &machines[0];

	create_pool(a);
	assert_int_equal(transfer(a, VOLUME_WRITE, 1), 0);
	run_for(a, INTERVAL_NS);
	submit(a, VOLUME_WRITE, 2);
	(void)reactor_run_turn(&a->reactor, a->reactor.now_ns + 100 * INTERVAL_NS);
	run_for(a, INTERVAL_NS / 10);
	assert_true(a->ended);
	assert_int_equal(a->io.error, 0);
	assert_int_equal(transfer(a, VOLUME_READ, 2), 0);
	end_machine(a);
	memory_disk_put(disk);
}

/* In service the lease is renewed before it ends. */
static void
test_nothing_is_held_in_service(void **state)
{
	struct machine *a = &machines[0];

	create_pool(a);
	for (unsigned i = 0; i < 50; i++) {
		uint64_t before;

		run_for(a, INTERVAL_NS * (1 + i % 7) / 5);
		before = a->reactor.now_ns;
		assert_int_equal(transfer(a, VOLUME_WRITE, (uint8_t)i), 0);
		assert_true(a->reactor.now_ns - before < INTERVAL_NS / 100);
	}
	end_machine(a);
	memory_disk_put(disk);
}

/* Nobody can say whose the pool is. */
static void
test_without_a_beat_writes_end(void **state)
{
	struct machine *a = &machines[0];
	struct fault_rule rule = {
		.op = DEVICE_WRITE, .effect = FAULT_FAIL, .error = -EIO, .first = 1
	};

	create_pool(a);
	fault_add(a->device, &rule);
	run_for(a, 3 * INTERVAL_NS);
	assert_int_equal(transfer(a, VOLUME_WRITE, 2), -EIO);
	assert_int_equal(a->pool->state, POOL_FAILED);
	assert_non_null(strstr(a->pool->state_reason, "no heartbeat could be written"));
	end_machine(a);
	memory_disk_put(disk);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_who_was_replaced_while_it_stood_still_writes_nothing),
		cmocka_unit_test(test_who_stood_still_and_was_not_replaced_goes_on),
		cmocka_unit_test(test_nothing_is_held_in_service),
		cmocka_unit_test(test_without_a_beat_writes_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
