/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that come back: which of their slabs are taken over, and when they count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "metadata/space.h"

#define SLAB_BLOCKS 64u
#define SLABS 20u /* of a device: all in one page */
#define SLABS_BLOCK 512u
#define TEST(name) cmocka_unit_test(name)

static struct space space;
static struct space was; /* device 1 alone, as its table has it */
static uint8_t pages[2][FORMAT_BLOCK_BYTES];

static struct uuid
uuid_of(uint32_t device)
{
	return (struct uuid){ { (uint8_t)(device + 1) } };
}

static void
make(uint32_t copies, uint32_t devices)
{
	memset(pages, 0, sizeof(pages));
	space_init(&space, SLAB_BLOCKS, copies);
	for (uint32_t i = 0; i < devices; i++) {
		const struct uuid uuid = uuid_of(i);

		space_add_device(&space, i, &uuid, SLABS_BLOCK, SLABS);
	}
}

static struct slab *
open_segment(uint64_t segment)
{
	struct slab *leader = space_take(&space, 0);

	assert_non_null(leader);
	space_open_slab(&space, leader, segment);
	space_mark_live(&space, baddr_make(segment, 3));
	return leader;
}

static struct slab *
sealed_segment(uint64_t segment)
{
	struct slab *leader = open_segment(segment);

	space_seal_slab(&space, leader, 1);
	return leader;
}

static void
write_table(uint64_t checkpoint)
{
	unsigned place = (unsigned)(space_page_block(&space.devices[1], 0) & 1);

	space_begin_table(&space);
	space_encode_page(&space, 1, 0, checkpoint, pages[place]);
}

static void
read_table(uint64_t checkpoint)
{
	const struct uuid uuid = uuid_of(1);
	struct error error;

	space_init(&was, SLAB_BLOCKS, space.copies);
	space_add_device(&was, 1, &uuid, SLABS_BLOCK, SLABS);
	assert_int_equal(space_decode_page(&was, 1, 0, checkpoint, pages[0], pages[1], &error), 0);
}

static unsigned
places_of(uint64_t segment)
{
	struct slab *places[COPIES_MAX];

	return space_places(&space, space_find(&space, segment), places);
}

static uint32_t
rejoin(uint64_t checkpoint, bool trusted)
{
	uint32_t taken;

	read_table(checkpoint);
	taken = space_rejoin(&space, 1, &was, trusted);
	space_fini(&was);
	assert_true(space_invariant(&space));
	return taken;
}

static void
test_what_was_sealed_is_taken_over_what_was_open_is_not(void **state)
{
	make(2, 2);
	sealed_segment(10);
	struct slab *open = open_segment(11);

	write_table(1);
	space_leave_out(&space, 1);
	space_seal_slab(&space, open, 1);
	sealed_segment(12); /* without it */
	assert_int_equal(places_of(10), 1);
	assert_int_equal(space.devices[1].free_count, 0);

	assert_int_equal(rejoin(1, true), 1);
	/* Nothing counts yet, and nothing new goes there. */
	assert_int_equal(places_of(10), 1);
	assert_int_equal(space_copies_now(&space), 1);
	assert_int_equal(space.devices[1].free_count, 0);
	assert_false(space_can_leave_out(&space, 0));
	assert_true(space_can_leave_out(&space, 1));
	assert_true(bitmap_test(space.devices[1].page_dirty, 0));

	space_joined(&space, 1);
	assert_true(space_invariant(&space));
	assert_int_equal(places_of(10), 2);
	assert_int_equal(places_of(11), 1);
	assert_int_equal(places_of(12), 1);
	assert_int_equal(space_copies_now(&space), 2);
	assert_int_equal(space_count_degraded(&space), 2);
	assert_true(space_lies_badly(&space, space_find(&space, 11)));
	assert_false(space_lies_badly(&space, space_find(&space, 10)));
	/* The slab of 11 is its until that has moved. */
	assert_int_equal(space.devices[1].free_count, SLABS - 2);
	space_mark_dead(&space, baddr_make(11, 3));
	space_collect_empty(&space);
	space_release(&space, NULL, NULL);
	assert_int_equal(space.devices[1].free_count, SLABS - 1);
	assert_true(space_invariant(&space));
	space_fini(&space);
}

static void
test_a_device_that_was_missing_is_made_anew(void **state)
{
	const struct uuid uuid = uuid_of(0);

	make(2, 2);
	sealed_segment(10);
	sealed_segment(11);
	write_table(4);
	space_fini(&space);
	/* An import without it, which found both, and lost one since. */
	space_init(&space, SLAB_BLOCKS, 2);
	space_add_device(&space, 0, &uuid, SLABS_BLOCK, SLABS);
	space.devices[1].out = true;
	space.device_count = 2;
	sealed_segment(10);
	assert_int_equal(rejoin(4, true), 1);
	space_joined(&space, 1);
	assert_int_equal(places_of(10), 2);
	assert_int_equal(space.devices[1].free_count, SLABS - 1);
	/* Its next page goes to the older place. */
	assert_int_equal(space.devices[1].page_checkpoint[0], 4);
	assert_true(space_invariant(&space));
	space_fini(&space);
}

static void
test_what_is_gone_dead_or_not_believed_is_not_taken_over(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct slab *leader;

		make(2, 2);
		leader = sealed_segment(10);
		write_table(1);
		space_leave_out(&space, 1);
		if (i < 3)
			space_mark_dead(&space, baddr_make(10, 3));
		if (i == 1)
			space_collect_empty(&space); /* it is releasing */
		if (i == 2) {
			space_collect_empty(&space);
			space_release(&space, NULL, NULL);
			assert_null(space_find(&space, 10));
		}
		assert_int_equal(rejoin(1, i < 3), 0);
		if (i != 2)
			assert_int_equal(places_of(10), 1);
		space_joined(&space, 1);
		assert_int_equal(space.devices[1].free_count, i == 2 ? SLABS : SLABS - 1);
		if (i == 2)
			assert_null(leader->twin);
		assert_true(space_invariant(&space));
		space_fini(&space);
	}
}

static void
test_what_lies_on_enough_devices_is_left_there(void **state)
{
	struct slab *leader;

	make(2, 3);
	/* One of the others has a copy again by now, on the third device. */
	do
		leader = sealed_segment(10 + space.taken);
	while (!(leader->device + leader->twin->device == 1));
	uint64_t segment = leader->segment;

	write_table(1);
	space_leave_out(&space, 1);
	struct slab *other = space_reach(&space, 2, SLABS - 1);

	space_reserve(&space, other);
	other->state = SLAB_COPY;
	other->segment = segment;
	other->twin = leader->twin;
	leader->twin = other;
	assert_int_equal(places_of(segment), 2);
	(void)rejoin(1, true);
	space_joined(&space, 1);
	assert_int_equal(places_of(segment), 2);
	space_fini(&space);
}

static void
test_slabs_that_somebody_has_plans_for_stay_so(void **state)
{
	struct slab *planned;
	uint32_t held;

	make(2, 2);
	planned = space_take(&space, 0); /* a pass of relocation has it */
	write_table(1);
	space_leave_out(&space, 1);
	assert_int_equal(rejoin(1, true), 0);
	held = 0;
	for (uint32_t i = 0; i < SLABS; i++)
		held += space_reach(&space, 1, i)->held;
	assert_int_equal(held, SLABS - 1);
	/* It is given up before the device counts, or after. */
	space_unreserve(&space, planned);
	assert_int_equal(space.devices[1].free_count, 0);
	space_joined(&space, 1);
	assert_int_equal(space.devices[1].free_count, SLABS);
	assert_true(space_invariant(&space));
	space_fini(&space);
}

static void
test_nothing_is_left_out_for_what_a_joining_device_has(void **state)
{
	struct slab *leader;

	make(2, 3);
	do
		leader = sealed_segment(10 + space.taken);
	while (leader->device + leader->twin->device != 1);
	write_table(1);
	space_leave_out(&space, 1);
	assert_true(rejoin(1, true) > 0);
	assert_false(space_can_leave_out(&space, 0));
	space_joined(&space, 1);
	assert_true(space_can_leave_out(&space, 0));
	space_fini(&space);
}

/* The log may have named them, and goes there whatever becomes of a place. */
static void
test_slabs_that_were_taken_count_for_the_fewest_copies(void **state)
{
	struct slab *planned;

	make(2, 3);
	do
		planned = space_take(&space, 0);
	while (planned->device != 1 && planned->twin->device != 1);
	assert_int_equal(space_copies_min(&space), 2);
	space_leave_out(&space, 1);
	assert_int_equal(space_copies_min(&space), 1);
	space_open_slab(&space, planned->device == 1 ? planned->twin : planned, 7);
	assert_int_equal(space_copies_min(&space), 1);
	space_fini(&space);
}

static void
test_a_device_that_fails_as_it_comes_back_is_out_again(void **state)
{
	make(2, 2);
	sealed_segment(10);
	write_table(1);
	space_leave_out(&space, 1);
	assert_int_equal(rejoin(1, true), 1);
	write_table(2);
	space_leave_out(&space, 1);
	assert_true(space_invariant(&space));
	assert_int_equal(places_of(10), 1);
	/* And once more. */
	assert_int_equal(rejoin(2, true), 1);
	space_joined(&space, 1);
	assert_int_equal(places_of(10), 2);
	assert_int_equal(space.devices[1].free_count, SLABS - 1);
	assert_true(space_invariant(&space));
	space_fini(&space);
}

/* --- packed slabs --- */

static uint8_t directory[FORMAT_BLOCK_BYTES];
static const struct uuid pool_uuid = { { 9 } };

/* Slots 3 and 4 of segment 10 are packed, with number 50. */
static struct slab *
packed_slab(void)
{
	const struct packed_block blocks[] = { { .addr = baddr_make(10, 3) },
		{ .addr = baddr_make(10, 4) } };
	struct packed_reader reader;
	struct error error;
	struct slab *packed;

	sealed_segment(10);
	space_mark_live(&space, baddr_make(10, 4));
	packed = space_take(&space, 0);
	packed_encode(blocks, 2, SLAB_BLOCKS, 50, &pool_uuid, 1, directory);
	assert_int_equal(
	    packed_open(&reader, directory, 1, SLAB_BLOCKS, 50, &pool_uuid, &error), 0);
	space_pack(&space, packed, 50, 1, &reader, 1);
	return packed;
}

/* What lives of segment @segment goes to slot @hole of it. */
static void
plug(struct slab *packed, uint64_t segment, uint16_t hole, uint32_t age)
{
	static uint8_t changed[FORMAT_BLOCK_BYTES];
	const struct packed_block block = { .addr = baddr_make(segment, 3) };
	struct packed_reader reader;
	struct error error;
	uint64_t holes = 1ull << hole;

	sealed_segment(segment);
	space_begin_plugging(&space, packed);
	assert_int_equal(
	    packed_open(&reader, directory, 1, SLAB_BLOCKS, 50, &pool_uuid, &error), 0);
	assert_true(packed_plug(&reader, &holes, &block, &hole, 1, 50, &pool_uuid, 1, changed));
	memcpy(directory, changed, sizeof(directory));
	assert_int_equal(
	    packed_open(&reader, directory, 1, SLAB_BLOCKS, 50, &pool_uuid, &error), 0);
	space_plug(&space, packed, &reader, &block, &hole, 1, age);
	packed->plugging = false;
}

static unsigned
places_of_packed(struct slab *packed)
{
	struct slab *places[COPIES_MAX];

	return space_places(&space, packed, places);
}

static void
test_packed_slabs_are_found_by_their_numbers(void **state)
{
	struct slab *packed;

	make(2, 2);
	packed = packed_slab();
	write_table(1);
	space_leave_out(&space, 1);
	assert_int_equal(rejoin(1, true), 1);
	space_joined(&space, 1);
	assert_int_equal(places_of_packed(packed), 2);
	space_fini(&space);
}

static void
test_what_was_plugged_elsewhere_is_not_taken_over(void **state)
{
	static const struct {
		uint16_t hole;
		uint32_t age;
		bool dies; /* again */
		unsigned taken;
	} cases[] = {
		{ 5, 2, false, 0 }, /* later */
		{ 5, 1, false, 0 }, /* with the same checkpoint: it lives where nothing did */
		{ 5, 1, true, 1 }, { 1, 2, false, 0 }, /* where something lived that died */
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct slab *packed;

		make(2, 2);
		packed = packed_slab();
		write_table(1);
		space_leave_out(&space, 1);
		if (cases[i].hole == 1)
			space_mark_dead(&space, baddr_make(10, 3));
		plug(packed, 20, cases[i].hole, cases[i].age);
		if (cases[i].dies)
			space_mark_dead(&space, baddr_make(20, 3));
		assert_int_equal(rejoin(1, true), cases[i].taken);
		space_joined(&space, 1);
		assert_int_equal(places_of_packed(packed), 1 + cases[i].taken);
		space_fini(&space);
	}
}

static void
test_what_is_plugged_before_the_device_counts_is_stale_there(void **state)
{
	struct slab *packed;

	make(2, 2);
	packed = packed_slab();
	write_table(1);
	space_leave_out(&space, 1);
	assert_int_equal(rejoin(1, true), 1);
	plug(packed, 20, 5, 2);
	space_joined(&space, 1);
	assert_int_equal(places_of_packed(packed), 1);
	space_fini(&space);
	/* It began before it joined, and ends when it counts. */
	make(2, 2);
	packed = packed_slab();
	write_table(1);
	space_leave_out(&space, 1);
	space_begin_plugging(&space, packed);
	assert_int_equal(rejoin(1, true), 0);
	space_joined(&space, 1);
	assert_int_equal(places_of_packed(packed), 1);
	space_fini(&space);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_was_sealed_is_taken_over_what_was_open_is_not),
		TEST(test_a_device_that_was_missing_is_made_anew),
		TEST(test_what_is_gone_dead_or_not_believed_is_not_taken_over),
		TEST(test_what_lies_on_enough_devices_is_left_there),
		TEST(test_slabs_that_somebody_has_plans_for_stay_so),
		TEST(test_nothing_is_left_out_for_what_a_joining_device_has),
		TEST(test_slabs_that_were_taken_count_for_the_fewest_copies),
		TEST(test_a_device_that_fails_as_it_comes_back_is_out_again),
		TEST(test_packed_slabs_are_found_by_their_numbers),
		TEST(test_what_was_plugged_elsewhere_is_not_taken_over),
		TEST(test_what_is_plugged_before_the_device_counts_is_stale_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
