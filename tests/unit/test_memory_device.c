/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory device: that it keeps what a disk must keep, and loses, reorders and tears what a disk
 * may; and the faults that can be put on top.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>

#include "backends/fault.h"
#include "backends/memory.h"

static struct reactor reactor;

static int
setup(void **state)
{
	reactor_init(&reactor);
	reactor_set_current(&reactor);
	return 0;
}

static int
teardown(void **state)
{
	reactor_set_current(NULL);
	reactor_fini(&reactor);
	return 0;
}

/* One step of virtual time; false: nothing is left to do. */
static bool
run_step(void)
{
	uint64_t next_ns = reactor_next_deadline_ns(&reactor);

	if (reactor_run_turn(&reactor, reactor.now_ns))
		return true;
	if (next_ns == UINT64_MAX)
		return false;
	reactor_run_turn(&reactor, next_ns);
	return true;
}

static void
run_all(void)
{
	while (run_step())
		;
}

/* --- requests --- */

struct request {
	struct device_io io;
	struct iovec iov;
	uint8_t data[2 * 4096];
	uint32_t done;
	uint32_t order; /* how many were done before */
};

static uint32_t done_count;

static void
request_done(struct device_io *io)
{
	struct request *request = container_of(io, struct request, io);

	request->done++;
	request->order = done_count++;
}

static void
start(struct request *request, struct device *device, enum device_op op, uint64_t offset_bytes,
    uint64_t len_bytes)
{
	request->iov = (struct iovec){ request->data, len_bytes };
	request->io = (struct device_io){
		.op = op,
		.offset_bytes = offset_bytes,
		.len_bytes = len_bytes,
		.iov = &request->iov,
		.iov_count = 1,
		.done = request_done,
	};
	request->done = 0;
	device_submit(device, &request->io);
	assert_int_equal(request->done, 0);
}

static int
run_io(struct device *device, enum device_op op, uint64_t offset_bytes, uint8_t byte,
    uint8_t read_back[4096])
{
	struct request *request = calloc(1, sizeof(*request));
	bool transfers = op == DEVICE_READ || op == DEVICE_WRITE;
	int error;

	assert_non_null(request);
	memset(request->data, byte, 4096);
	start(request, device, op, offset_bytes, transfers || op == DEVICE_DISCARD ? 4096 : 0);
	run_all();
	assert_int_equal(request->done, 1);
	if (read_back)
		memcpy(read_back, request->data, 4096);
	error = request->io.error;
	free(request);
	return error;
}

static void
write_block(struct device *device, uint64_t offset_bytes, uint8_t byte)
{
	assert_int_equal(run_io(device, DEVICE_WRITE, offset_bytes, byte, NULL), 0);
}

static void
flush(struct device *device)
{
	assert_int_equal(run_io(device, DEVICE_FLUSH, 0, 0, NULL), 0);
}

/* The byte that the whole block holds; -1: not all the same. */
static int
block_byte(struct memory_disk *disk, uint64_t offset_bytes)
{
	uint8_t data[4096];

	memory_disk_read(disk, offset_bytes, data, sizeof(data));
	for (size_t i = 1; i < sizeof(data); i++)
		if (data[i] != data[0])
			return -1;
	return data[0];
}

static struct device *
crash_and_reopen(struct device *device, uint64_t seed, enum memory_crash mode)
{
	const struct memory_device_options options = { .gives_back = true };
	struct memory_disk *disk = memory_disk_get(memory_device_disk(device));

	memory_device_crash(device, seed, mode);
	run_all();
	device_close(device);
	device = memory_device_open(disk, &reactor, "disk", &options);
	memory_disk_put(disk);
	return device;
}

/* --- what is kept --- */

static void
test_read_what_was_written(void **state)
{
	const struct memory_device_options options = { 0 };
	struct device *device = memory_device_create(&reactor, TIB, "disk", &options);
	uint8_t data[4096];

	assert_int_equal(run_io(device, DEVICE_READ, 512 * GIB, 1, data), 0);
	assert_int_equal(data[0], 0);
	write_block(device, TIB - 4096, 0x5a);
	assert_int_equal(run_io(device, DEVICE_READ, TIB - 4096, 1, data), 0);
	assert_int_equal(data[0], 0x5a);
	assert_int_equal(data[4095], 0x5a);
	assert_int_equal(block_byte(memory_device_disk(device), TIB - 4096), 0x5a);
	device_close(device);
}

static void
test_in_order_without_a_seed(void **state)
{
	const struct memory_device_options options = { 0 };
	struct device *device = memory_device_create(&reactor, MIB, "disk", &options);
	struct request *requests = calloc(16, sizeof(*requests));

	assert_non_null(requests);
	done_count = 0;
	for (uint32_t i = 0; i < 16; i++) {
		requests[i].data[0] = (uint8_t)i;
		start(&requests[i], device, DEVICE_WRITE, 0, 4096);
	}
	assert_int_equal(memory_device_in_flight(device), 16);
	reactor_run_turn(&reactor, 1);
	for (uint32_t i = 0; i < 16; i++) {
		assert_int_equal(requests[i].done, 1);
		assert_int_equal(requests[i].order, i);
	}
	device_close(device);
	free(requests);
}

/* The order of completion of 16 writes to one block, and the block afterwards, as a number. */
static uint64_t
fingerprint(uint64_t seed)
{
	const struct memory_device_options options = { .seed = seed };
	struct device *device = memory_device_create(&reactor, MIB, "disk", &options);
	struct request *requests = calloc(16, sizeof(*requests));
	uint64_t hash = 0;
	uint32_t last = 0;

	assert_non_null(requests);
	done_count = 0;
	for (uint32_t i = 0; i < 16; i++) {
		memset(requests[i].data, (int)i, 4096);
		start(&requests[i], device, DEVICE_WRITE, 0, 4096);
	}
	run_all();
	for (uint32_t i = 0; i < 16; i++) {
		assert_int_equal(requests[i].done, 1);
		hash = mix64(hash ^ requests[i].order);
		if (requests[i].order == 15)
			last = i;
	}
	assert_int_equal(block_byte(memory_device_disk(device), 0), last);
	device_close(device);
	free(requests);
	return hash;
}

static void
test_seeds_repeat_and_differ(void **state)
{
	uint64_t in_order = fingerprint(0);
	size_t different = 0;

	for (uint64_t seed = 1; seed < 20; seed++) {
		uint64_t hash = fingerprint(seed);

		assert_int_equal(hash, fingerprint(seed));
		different += hash != in_order;
	}
	assert_true(different >= 18);
}

/* --- what may be lost --- */

static void
test_flushed_survives_power_loss(void **state)
{
	static const enum memory_crash modes[] = {
		MEMORY_CRASH_KILL,
		MEMORY_CRASH_NONE,
		MEMORY_CRASH_WRITES,
		MEMORY_CRASH_SECTORS,
	};
	const struct memory_device_options options = { 0 };

	for (uint64_t i = 0; i < 4 * 20; i++) {
		struct device *device = memory_device_create(&reactor, MIB, "disk", &options);

		write_block(device, 8192, 1);
		flush(device);
		assert_int_equal(memory_disk_unflushed_count(memory_device_disk(device)), 0);
		device = crash_and_reopen(device, i, modes[i % 4]);
		assert_int_equal(block_byte(memory_device_disk(device), 8192), 1);
		device_close(device);
	}
}

static void
test_unflushed_is_lost_whole(void **state)
{
	const struct memory_device_options options = { 0 };
	struct device *device = memory_device_create(&reactor, MIB, "disk", &options);

	write_block(device, 0, 1);
	flush(device);
	write_block(device, 0, 2);
	write_block(device, 4096, 3);
	assert_int_equal(memory_disk_unflushed_count(memory_device_disk(device)), 2);
	device = crash_and_reopen(device, 1, MEMORY_CRASH_NONE);
	assert_int_equal(block_byte(memory_device_disk(device), 0), 1);
	assert_int_equal(block_byte(memory_device_disk(device), 4096), 0);
	device_close(device);
}

/* A kill loses no completed write; a power loss afterwards still may. */
static void
test_kill_keeps_the_cache(void **state)
{
	const struct memory_device_options options = { 0 };
	struct device *device = memory_device_create(&reactor, MIB, "disk", &options);

	write_block(device, 0, 1);
	device = crash_and_reopen(device, 1, MEMORY_CRASH_KILL);
	assert_int_equal(block_byte(memory_device_disk(device), 0), 1);
	write_block(device, 4096, 2);
	device = crash_and_reopen(device, 1, MEMORY_CRASH_NONE);
	assert_int_equal(block_byte(memory_device_disk(device), 0), 0);
	assert_int_equal(block_byte(memory_device_disk(device), 4096), 0);
	/* But a flush by the next process covers it. */
	write_block(device, 0, 3);
	device = crash_and_reopen(device, 1, MEMORY_CRASH_KILL);
	flush(device);
	device = crash_and_reopen(device, 1, MEMORY_CRASH_NONE);
	assert_int_equal(block_byte(memory_device_disk(device), 0), 3);
	device_close(device);
}

/* Over many seeds each of the outcomes that a disk may show, and no other. */
static void
test_versions_after_power_loss(void **state)
{
	const struct memory_device_options options = { 0 };
	uint32_t seen_writes[4] = { 0 };
	uint32_t torn = 0;

	for (uint64_t seed = 0; seed < 200; seed++) {
		bool tear = seed % 2;
		struct device *device = memory_device_create(&reactor, MIB, "disk", &options);
		uint8_t data[4096];
		int byte;

		write_block(device, 0, 1);
		flush(device);
		write_block(device, 0, 2);
		write_block(device, 0, 3);
		device = crash_and_reopen(
		    device, seed, tear ? MEMORY_CRASH_SECTORS : MEMORY_CRASH_WRITES);
		byte = block_byte(memory_device_disk(device), 0);
		if (!tear) {
			assert_in_range(byte, 1, 3);
			seen_writes[byte]++;
		} else {
			torn += byte < 0;
			memory_disk_read(memory_device_disk(device), 0, data, sizeof(data));
			for (size_t i = 0; i < sizeof(data); i++) {
				assert_in_range(data[i], 1, 3);
				assert_int_equal(data[i], data[i / 512 * 512]);
			}
		}
		device_close(device);
	}
	for (int byte = 1; byte <= 3; byte++)
		assert_true(seen_writes[byte] > 10);
	assert_true(torn > 80);
}

static void
test_in_flight_at_a_crash(void **state)
{
	static const enum memory_crash modes[] = { MEMORY_CRASH_KILL, MEMORY_CRASH_WRITES };
	const struct memory_device_options options = { .seed = 1 };
	struct request *requests = calloc(2, sizeof(*requests));
	uint32_t outcomes[2] = { 0 };

	assert_non_null(requests);
	for (uint64_t seed = 0; seed < 100; seed++) {
		struct device *device = memory_device_create(&reactor, MIB, "disk", &options);
		int byte;

		memset(requests[0].data, 1, 4096);
		start(&requests[0], device, DEVICE_WRITE, 0, 4096);
		start(&requests[1], device, DEVICE_READ, 4096, 4096);
		device = crash_and_reopen(device, seed, modes[seed % 2]);
		assert_int_equal(requests[0].done, 0);
		assert_int_equal(requests[1].done, 0);
		byte = block_byte(memory_device_disk(device), 0);
		assert_in_range(byte, 0, 1);
		outcomes[byte]++;
		device_close(device);
	}
	assert_true(outcomes[0] > 10 && outcomes[1] > 10);
	free(requests);
}

/* A flush covers what was completed before it was submitted, not what is in flight beside it. */
static void
test_flush_covers_only_what_was_completed(void **state)
{
	struct request *requests = calloc(2, sizeof(*requests));
	bool lost = false;

	assert_non_null(requests);
	for (uint64_t seed = 1; seed < 50; seed++) {
		const struct memory_device_options options = { .seed = seed };
		struct device *device = memory_device_create(&reactor, MIB, "disk", &options);

		write_block(device, 4096, 7);
		memset(requests[0].data, 1, 4096);
		start(&requests[0], device, DEVICE_WRITE, 0, 4096);
		start(&requests[1], device, DEVICE_FLUSH, 0, 0);
		run_all();
		device = crash_and_reopen(device, seed, MEMORY_CRASH_NONE);
		assert_int_equal(block_byte(memory_device_disk(device), 4096), 7);
		lost |= block_byte(memory_device_disk(device), 0) == 0;
		device_close(device);
	}
	assert_true(lost);
	free(requests);
}

static void
test_discard_poisons(void **state)
{
	const struct memory_device_options options = { .gives_back = true };
	struct device *device = memory_device_create(&reactor, MIB, "disk", &options);
	struct memory_disk *disk = memory_device_disk(device);

	write_block(device, 0, 1);
	flush(device);
	assert_false(memory_disk_discarded(disk, 0));
	assert_int_equal(run_io(device, DEVICE_DISCARD, 0, 0, NULL), 0);
	assert_true(memory_disk_discarded(disk, 0));
	assert_true(memory_disk_discarded(disk, 4095));
	assert_false(memory_disk_discarded(disk, 4096));
	assert_int_equal(block_byte(disk, 0), -1);
	/* It is as volatile as a write. */
	device = crash_and_reopen(device, 0, MEMORY_CRASH_NONE);
	disk = memory_device_disk(device);
	assert_int_equal(block_byte(disk, 0), 1);
	assert_int_equal(run_io(device, DEVICE_DISCARD, 0, 0, NULL), 0);
	flush(device);
	device = crash_and_reopen(device, 0, MEMORY_CRASH_NONE);
	disk = memory_device_disk(device);
	assert_true(memory_disk_discarded(disk, 0));
	write_block(device, 0, 2);
	assert_int_equal(block_byte(disk, 0), 2);
	device_close(device);
}

static void
test_contents_from_outside(void **state)
{
	const struct memory_device_options options = { 0 };
	struct device *device = memory_device_create(&reactor, MIB, "disk", &options);
	struct memory_disk *disk = memory_device_disk(device);
	char text[16] = { 0 };

	memory_disk_write(disk, 4090, "across blocks", 14);
	memory_disk_read(disk, 4090, text, 14);
	assert_string_equal(text, "across blocks");
	write_block(device, 8192, 1);
	memory_disk_flip_bit(disk, 8192 + 100, 7);
	memory_disk_read(disk, 8192 + 100, text, 1);
	assert_int_equal((uint8_t)text[0], 0x81);
	assert_int_equal(memory_disk_unflushed_count(disk), 1);
	flush(device);
	memory_disk_read(disk, 8192 + 100, text, 1);
	assert_int_equal((uint8_t)text[0], 0x81);
	device_close(device);
}

/* --- faults --- */

static void
test_fault_nth(void **state)
{
	const struct memory_device_options options = { .seed = 3 };
	struct device *device =
	    fault_device_create(memory_device_create(&reactor, MIB, "disk", &options));
	struct memory_disk *disk = memory_device_disk(fault_device_inner(device));

	fault_add(
	    device, &(struct fault_rule){ DEVICE_WRITE, FAULT_FAIL, -EIO, .first = 2, .count = 1 });
	assert_int_equal(run_io(device, DEVICE_WRITE, 0, 1, NULL), 0);
	assert_int_equal(run_io(device, DEVICE_READ, 0, 0, NULL), 0);
	assert_int_equal(run_io(device, DEVICE_WRITE, 4096, 2, NULL), -EIO);
	assert_int_equal(run_io(device, DEVICE_WRITE, 8192, 3, NULL), 0);
	assert_int_equal(block_byte(disk, 4096), 0);
	assert_int_equal(fault_count(device, DEVICE_WRITE), 3);

	fault_clear(device);
	fault_add(device, &(struct fault_rule){ DEVICE_FLUSH, FAULT_FAIL, -EIO, .first = 1 });
	assert_int_equal(run_io(device, DEVICE_FLUSH, 0, 0, NULL), -EIO);
	assert_int_equal(run_io(device, DEVICE_FLUSH, 0, 0, NULL), -EIO);

	fault_clear(device);
	fault_add(device,
	    &(struct fault_rule){ DEVICE_WRITE, FAULT_FAIL_AFTER, -EIO, .first = 1, .count = 1 });
	fault_add(
	    device, &(struct fault_rule){ DEVICE_WRITE, FAULT_LOSE, 0, .first = 2, .count = 1 });
	assert_int_equal(run_io(device, DEVICE_WRITE, 12288, 4, NULL), -EIO);
	assert_int_equal(block_byte(disk, 12288), 4);
	assert_int_equal(run_io(device, DEVICE_WRITE, 12288, 5, NULL), 0);
	assert_int_equal(block_byte(disk, 12288), 4);
	device_close(device);
}

static void
test_fault_flip(void **state)
{
	const struct memory_device_options options = { 0 };
	struct device *device =
	    fault_device_create(memory_device_create(&reactor, MIB, "disk", &options));
	uint8_t data[4096];

	fault_add_flip(device, 4096 + 10, 0);
	assert_int_equal(run_io(device, DEVICE_READ, 4096, 0, data), 0);
	assert_int_equal(data[10], 1);
	assert_int_equal(data[11], 0);
	assert_int_equal(run_io(device, DEVICE_READ, 0, 0, data), 0);
	assert_int_equal(data[10], 0);
	fault_clear(device);
	assert_int_equal(run_io(device, DEVICE_READ, 4096, 0, data), 0);
	assert_int_equal(data[10], 0);
	device_close(device);
}

static void
test_fault_stall(void **state)
{
	const struct memory_device_options options = { 0 };
	struct device *device =
	    fault_device_create(memory_device_create(&reactor, MIB, "disk", &options));
	struct request *request = calloc(1, sizeof(*request));

	assert_non_null(request);
	fault_add(
	    device, &(struct fault_rule){ DEVICE_READ, FAULT_STALL, 0, .first = 1, .count = 1 });
	start(request, device, DEVICE_READ, 0, 8192);
	run_all();
	assert_int_equal(request->done, 0);
	assert_int_equal(fault_stalled_count(device), 1);
	fault_resume(device);
	assert_int_equal(request->done, 0);
	run_all();
	assert_int_equal(request->done, 1);
	assert_int_equal(request->io.error, 0);
	device_close(device);
	free(request);
}

static void
test_crash_below_faults(void **state)
{
	const struct memory_device_options options = { .seed = 1 };
	struct device *device =
	    fault_device_create(memory_device_create(&reactor, MIB, "disk", &options));
	struct request *requests = calloc(4, sizeof(*requests));

	assert_non_null(requests);
	fault_add(device, &(struct fault_rule){ DEVICE_READ, FAULT_STALL, 0, .first = 1 });
	fault_add(device, &(struct fault_rule){ DEVICE_FLUSH, FAULT_FAIL, -EIO, .first = 1 });
	start(&requests[0], device, DEVICE_READ, 0, 4096);
	start(&requests[1], device, DEVICE_WRITE, 0, 4096);
	start(&requests[2], device, DEVICE_FLUSH, 0, 0);
	memory_device_crash(fault_device_inner(device), 1, MEMORY_CRASH_WRITES);
	fault_crash(device);
	start(&requests[3], device, DEVICE_WRITE, 0, 4096);
	run_all();
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(requests[i].done, 0);
	device_close(device);
	free(requests);
}

#define with_reactor(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		with_reactor(test_read_what_was_written),
		with_reactor(test_in_order_without_a_seed),
		with_reactor(test_seeds_repeat_and_differ),
		with_reactor(test_flushed_survives_power_loss),
		with_reactor(test_unflushed_is_lost_whole),
		with_reactor(test_kill_keeps_the_cache),
		with_reactor(test_versions_after_power_loss),
		with_reactor(test_in_flight_at_a_crash),
		with_reactor(test_flush_covers_only_what_was_completed),
		with_reactor(test_discard_poisons),
		with_reactor(test_contents_from_outside),
		with_reactor(test_fault_nth),
		with_reactor(test_fault_flip),
		with_reactor(test_fault_stall),
		with_reactor(test_crash_below_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
