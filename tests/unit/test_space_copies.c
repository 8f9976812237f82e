/* SPDX-License-Identifier: Apache-2.0 */
/* Segments that lie on several devices: which they get, what the tables say of them, what a replay
 * makes of names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "metadata/space.h"

#define SLAB_BLOCKS 64u
#define TEST(name) cmocka_unit_test(name)

static struct space space;

/* A pool of devices with so many slabs each; 0 ends the list. */
static void
make(uint32_t copies, const uint32_t *slabs)
{
	space_init(&space, SLAB_BLOCKS, copies);
	for (uint32_t i = 0; slabs[i]; i++) {
		const struct uuid uuid = { { (uint8_t)(i + 1) } };

		space_add_device(&space, i, &uuid, 512, slabs[i]);
	}
}

/* How many segments find room, each on @copies devices. */
static unsigned
fill(uint32_t copies)
{
	struct slab *places[COPIES_MAX], *leader;
	unsigned n = 0;

	while ((leader = space_take(&space, n ? places[0]->device : 0))) {
		assert_int_equal(space_places(&space, leader, places), copies);
		for (uint32_t i = 0; i < copies; i++)
			for (uint32_t k = 0; k < i; k++)
				assert_int_not_equal(places[i]->device, places[k]->device);
		space_open_slab(&space, leader, ++n);
	}
	assert_true(space_invariant(&space));
	return n;
}

static void
test_all_room_that_there_is_is_found(void **state)
{
	static const struct {
		uint32_t copies;
		uint32_t slabs[5];
		unsigned room;
	} cases[] = {
		{ 2, { 10, 10 }, 10 },
		{ 2, { 10, 3 }, 3 },
		{ 2, { 10, 10, 10 }, 15 },
		{ 2, { 30, 10, 10 }, 20 },
		{ 2, { 13, 10, 10 }, 16 },
		{ 2, { 100, 1, 1, 1 }, 3 },
		{ 2, { 7, 8, 9, 40 }, 24 },
		{ 3, { 10, 10, 10 }, 10 },
		{ 3, { 90, 10, 4 }, 4 },
		{ 3, { 90, 10, 10, 4 }, 12 },
		{ 3, { 10, 10, 10, 10 }, 13 },
		/* Fewer devices than copies: as many copies as can be. */
		{ 3, { 10, 8 }, 8 },
		{ 2, { 10 }, 10 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint32_t devices = 0;

		make(cases[i].copies, cases[i].slabs);
		while (cases[i].slabs[devices])
			devices++;
		assert_int_equal(space.slab_count, cases[i].room);
		assert_int_equal(space.free_count, cases[i].room);
		assert_int_equal(fill((uint32_t)min_u64(devices, cases[i].copies)), cases[i].room);
		assert_int_equal(space.free_count, 0);
		space_fini(&space);
	}
}

static void
test_every_device_shares_segments_with_every_other(void **state)
{
	static const uint32_t slabs[] = { 60, 60, 60, 60, 0 };
	bool shared[4][4] = { { false } };
	struct slab *places[COPIES_MAX], *leader;

	make(2, slabs);
	for (uint64_t n = 1; (leader = space_take(&space, 0)); n++) {
		assert_int_equal(space_places(&space, leader, places), 2);
		shared[places[0]->device][places[1]->device] = true;
		shared[places[1]->device][places[0]->device] = true;
		space_open_slab(&space, leader, n);
	}
	for (unsigned i = 0; i < 4; i++)
		for (unsigned k = 0; k < i; k++)
			assert_true(shared[i][k]);
	space_fini(&space);
}

static void
test_what_was_taken_goes_back_whole(void **state)
{
	static const uint32_t slabs[] = { 5, 5, 5, 0 };
	struct slab *leader;

	make(3, slabs);
	leader = space_take(&space, 0);
	assert_int_equal(space.free_count, 4);
	space_unreserve(&space, leader);
	assert_int_equal(space.free_count, 5);
	assert_null(leader->twin);
	/* Opened, sealed, dead: all its places are free again. */
	leader = space_take(&space, 0);
	space_open_slab(&space, leader, 9);
	space_seal_slab(&space, leader, 1);
	assert_int_equal(space.empty_count, 1);
	space_collect_empty(&space);
	space_release(&space, NULL, NULL);
	assert_int_equal(space.free_count, 5);
	assert_true(space_invariant(&space));
	space_fini(&space);
}

/* A slab that can be had with all copies is one still, with one copy fewer, whichever device is
 * lost. */
static void
test_what_is_free_is_there_after_a_loss(void **state)
{
	static const uint32_t slabs[] = { 9, 14, 11, 0 };

	for (uint32_t lost = 0; lost < 3; lost++) {
		uint64_t had, left = 0;

		make(2, slabs);
		for (uint64_t n = 1; space.free_count > 4; n++)
			space_open_slab(&space, space_take(&space, 0), n);
		had = space.free_count;
		space_leave_out(&space, lost);
		assert_true(space_count_free(&space, 1) >= had);
		assert_int_equal(space_count_free(&space, 2), space.free_count);
		for (uint64_t n = 100;; n++) {
			uint64_t pairs = space.free_count;
			struct slab *places[COPIES_MAX], *leader = space_take_fewer(&space, 0, 1);

			if (!leader)
				break;
			assert_int_equal(space_places(&space, leader, places), 1);
			assert_true(space_lies_badly(&space, leader));
			assert_int_not_equal(leader->device, lost);
			/* Those come first that find no partner. */
			assert_true(
			    space.free_count == pairs || 2 * pairs >= space_count_free(&space, 1));
			space_open_slab(&space, leader, n);
			left++;
		}
		assert_true(left >= had);
		assert_int_equal(space.free_count, 0);
		assert_int_equal(space_copies_min(&space), 1);
		assert_true(space_invariant(&space));
		space_fini(&space);
	}
}

/* --- tables --- */

static uint8_t pages[2][2][FORMAT_BLOCK_BYTES];

static void
write_page(uint32_t device, uint64_t checkpoint)
{
	unsigned place = (unsigned)(space_page_block(&space.devices[device], 0) & 1);

	space_begin_table(&space);
	space_encode_page(&space, device, 0, checkpoint, pages[device][place]);
}

/* Two devices of so few slabs that a page holds them all; the table is read again. */
static int
read_tables(uint32_t copies, uint64_t checkpoint, struct error *error)
{
	static const uint32_t slabs[] = { 20, 20, 0 };
	int rc = 0;

	space_fini(&space);
	make(copies, slabs);
	for (uint32_t d = 0; d < 2 && rc == 0; d++)
		rc = space_decode_page(&space, d, 0, checkpoint, pages[d][0], pages[d][1], error);
	return rc;
}

static void
test_copies_find_each_other_again(void **state)
{
	static const uint32_t slabs[] = { 20, 20, 0 };
	struct slab *leader, *places[COPIES_MAX];
	struct error error;

	memset(pages, 0, sizeof(pages));
	make(2, slabs);
	leader = space_take(&space, 0);
	space_open_slab(&space, leader, 77);
	space_mark_live(&space, baddr_make(77, 5));
	write_page(0, 1);
	space_mark_live(&space, baddr_make(77, 6)); /* between the pages of one checkpoint */
	write_page(1, 1);
	assert_int_equal(read_tables(2, 1, &error), 0);
	leader = space_find(&space, 77);
	assert_int_equal(space_places(&space, leader, places), 2);
	assert_true(space_is_live(&space, baddr_make(77, 5)));
	assert_true(space_invariant(&space));
	/* What the two say differs: the next table has them alike. */
	assert_true(bitmap_test(space.devices[1].page_dirty, 0));
	/* Without copies it would be damage. */
	assert_int_equal(read_tables(1, 1, &error), -EUCLEAN);
	assert_string_equal(error.text, "segment 77 lies on two slabs");
	space_fini(&space);
}

static void
test_stale_place_is_free_in_the_table(void **state)
{
	static const uint32_t slabs[] = { 20, 20, 0 };
	struct slab *leader, *places[COPIES_MAX];
	struct error error;

	memset(pages, 0, sizeof(pages));
	make(2, slabs);
	leader = space_take(&space, 0);
	space_open_slab(&space, leader, 77);
	space_mark_live(&space, baddr_make(77, 5));
	leader->stale = true;
	assert_int_equal(space_places(&space, leader, places), 1);
	assert_ptr_not_equal(places[0], leader);
	write_page(0, 1);
	write_page(1, 1);
	assert_int_equal(read_tables(2, 1, &error), 0);
	leader = space_find(&space, 77);
	assert_int_equal(space_places(&space, leader, places), 1);
	assert_int_equal(space.live_blocks, 1);
	assert_int_equal(space.devices[0].free_count + space.devices[1].free_count, 39);
	space_fini(&space);
}

/* --- a replay --- */

static void
test_replay_opens_what_a_header_names(void **state)
{
	static const uint32_t slabs[] = { 20, 20, 0 };
	struct slab *places[COPIES_MAX], *leader, *old;

	make(2, slabs);
	/* Both are free; then one is known already; then one is another segment's. */
	places[0] = space_reach(&space, 0, 3);
	places[1] = space_reach(&space, 1, 4);
	leader = space_open_places(&space, places, 2, 50);
	assert_int_equal(space_places(&space, leader, places), 2);
	assert_ptr_equal(space_find(&space, 50), leader);
	space_mark_live(&space, baddr_make(50, 1));
	assert_ptr_equal(space_open_places(&space, places, 2, 50), leader);
	assert_true(space_is_live(&space, baddr_make(50, 1)));
	assert_int_equal(space.free_count, 19);

	space_mark_dead(&space, baddr_make(50, 1));
	places[0] = space_reach(&space, 0, 9);
	places[1] = space_reach(&space, 1, 4); /* a copy of 50 */
	old = leader;
	leader = space_open_places(&space, places, 2, 51);
	assert_int_equal(space_places(&space, leader, places), 2);
	assert_int_equal(space_places(&space, old, places), 1);
	assert_true(space_invariant(&space));
	places[0] = old; /* the leader of 50 */
	places[1] = space_reach(&space, 1, 11);
	space_open_places(&space, places, 2, 52);
	assert_null(space_find(&space, 50));
	assert_non_null(space_find(&space, 51));
	assert_true(space_invariant(&space));
	space_fini(&space);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_all_room_that_there_is_is_found),
		TEST(test_every_device_shares_segments_with_every_other),
		TEST(test_what_was_taken_goes_back_whole),
		TEST(test_what_is_free_is_there_after_a_loss),
		TEST(test_copies_find_each_other_again),
		TEST(test_stale_place_is_free_in_the_table),
		TEST(test_replay_opens_what_a_header_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
