/* SPDX-License-Identifier: Apache-2.0 */
/* Reads in two groups: when they are held back, that all of them come through, and in order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "core/read_pace.h"

enum {
	READS = 32
};

/* A device that keeps what it is given, and a client that reads again once it is answered. */
struct world {
	struct device device;
	struct read_pace pace;
	struct paced_read reads[READS];
	struct device_io *given[READS];
	uint32_t given_count;
	uint32_t answered;
	uint64_t now_ns;
};

static void
world_submit(struct device *device, struct device_io *io)
{
	struct world *w = container_of(device, struct world, device);

	w->given[w->given_count++] = io;
}

static void
world_read_done(struct device_io *io)
{
	struct world *w = container_of(io->device, struct world, device);

	read_pace_done(&w->pace, w->now_ns);
	w->answered++;
}

static void
world_init(struct world *w)
{
	static const struct device_ops ops = { .submit = world_submit };
	static const struct iovec iov = { .iov_len = BLOCK_BYTES };

	*w = (struct world){ .device = { .ops = &ops, .size_bytes = MIB } };
	read_pace_init(&w->pace);
	for (uint32_t i = 0; i < READS; i++) {
		w->reads[i].io = (struct device_io){
			.op = DEVICE_READ,
			.len_bytes = BLOCK_BYTES,
			.iov = &iov,
			.iov_count = 1,
			.done = world_read_done,
		};
	}
}

static void
world_submit_all(struct world *w)
{
	for (uint32_t i = 0; i < READS; i++)
		read_pace_submit(&w->pace, &w->device, &w->reads[i]);
}

/* One turn, in which the device answers the oldest @count. */
static void
world_turn(struct world *w, uint32_t count)
{
	struct device_io *done[READS];

	assert_true(count <= w->given_count);
	w->now_ns++;
	memcpy(done, w->given, count * sizeof(done[0]));
	w->given_count -= count;
	memmove(w->given, w->given + count, w->given_count * sizeof(done[0]));
	for (uint32_t i = 0; i < count; i++)
		device_complete(done[i], 0);
}

/* Answers all, @burst at a time, and returns the most that was given to the device at once. */
static uint32_t
world_round(struct world *w, uint32_t burst)
{
	uint32_t most;

	w->answered = 0;
	world_submit_all(w);
	most = w->given_count;
	while (w->given_count > 0) {
		world_turn(w, (uint32_t)min_u64(burst, w->given_count));
		most = (uint32_t)max_u64(most, w->given_count);
	}
	assert_int_equal(w->answered, READS);
	assert_int_equal(w->pace.in_flight, 0);
	assert_int_equal(w->pace.waiting_count, 0);
	return most;
}

static void
test_bursts_are_halved(void **state)
{
	struct world w;
	uint32_t given;

	world_init(&w);
	for (uint32_t i = 0; i < 2 * READ_PACE_TURNS; i++)
		world_round(&w, READS);
	given = world_round(&w, READS);
	assert_in_range(given, READS / 2 - 1, READS / 2);

	/* In the order in which they came. */
	world_submit_all(&w);
	for (uint32_t i = 0; i < READS; i++) {
		assert_ptr_equal(w.given[0], &w.reads[i].io);
		world_turn(&w, 1);
	}

	/* A device that has become a better one gets all again. */
	for (uint32_t i = 0; i < 8 * READ_PACE_TURNS; i++)
		world_round(&w, 1);
	assert_int_equal(world_round(&w, 1), READS);
}

static void
test_one_by_one_is_left_alone(void **state)
{
	struct world w;

	world_init(&w);
	for (uint32_t i = 0; i < 4 * READ_PACE_TURNS; i++)
		assert_int_equal(world_round(&w, 2), READS);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bursts_are_halved),
		cmocka_unit_test(test_one_by_one_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
