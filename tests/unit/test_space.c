/* SPDX-License-Identifier: Apache-2.0 */
/* Slabs, segments and live slots; table pages with their two places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "core/base/crc32c.h"
#include "metadata/space.h"

#define SLAB_BLOCKS 64u
#define SLABS 400u /* several pages */

static const struct uuid device_uuid = { { 1, 2, 3 } };

struct disk {
	uint8_t pages[8][2][FORMAT_BLOCK_BYTES];
};

static struct space space;
static struct disk disk;

static void
begin(void)
{
	space_init(&space, SLAB_BLOCKS, 1);
	space_add_device(&space, 0, &device_uuid, 512, SLABS);
}

static int
setup(void **state)
{
	begin();
	return 0;
}

static int
teardown(void **state)
{
	space_fini(&space);
	return 0;
}

static struct slab *
open_slab(uint64_t segment)
{
	struct slab *slab = space_pick(&space, 0, 0);

	assert_non_null(slab);
	space_open_slab(&space, slab, segment);
	return slab;
}

/* --- slabs --- */

static void
test_new_device_is_all_free(void **state)
{
	assert_int_equal(space.slab_count, SLABS);
	assert_int_equal(space.free_count, SLABS);
	assert_int_equal(space.live_blocks, 0);
	assert_null(space_find(&space, 1));
	assert_true(space_invariant(&space));
}

static void
test_open_slab_is_found_by_its_segment(void **state)
{
	struct slab *slab = open_slab(7);

	assert_ptr_equal(space_find(&space, 7), slab);
	assert_int_equal(slab->state, SLAB_OPEN);
	assert_int_equal(space.free_count, SLABS - 1);
	assert_ptr_not_equal(space_pick(&space, 0, 0), slab);
	assert_int_equal(space_offset_bytes(&space, slab, 3),
	    (512ull + slab->index * SLAB_BLOCKS + 3) * FORMAT_BLOCK_BYTES);
	assert_true(space_invariant(&space));
}

static void
test_marking_twice_is_marking_once(void **state)
{
	struct slab *slab = open_slab(7);
	struct baddr addr = baddr_make(7, 63);

	assert_false(space_is_live(&space, addr));
	for (unsigned i = 0; i < 2; i++) {
		space_mark_live(&space, addr);
		assert_true(space_is_live(&space, addr));
		assert_int_equal(slab->live, 1);
		assert_int_equal(space.live_blocks, 1);
	}
	for (unsigned i = 0; i < 2; i++) {
		space_mark_dead(&space, addr);
		assert_false(space_is_live(&space, addr));
		assert_int_equal(slab->live, 0);
		assert_int_equal(space.live_blocks, 0);
	}
	assert_true(space_invariant(&space));
}

static void
test_what_dies_soon_is_dead_when_that_is_finished(void **state)
{
	struct slab *slab = open_slab(7);

	for (unsigned count = 1; count < SLAB_BLOCKS; count++) {
		for (unsigned slot = 0; slot < count; slot++)
			space_mark_live(&space, baddr_make(7, slot));
		for (unsigned slot = 0; slot < count; slot++) {
			space_mark_dead_soon(&space, baddr_make(7, slot));
			space_mark_dead_soon(&space, baddr_make(8, slot)); /* lies nowhere */
			assert_true(slab->live + slot + 1 >= count &&
				    slab->live + slot + 1 <= count + SPACE_DYING);
		}
		space_finish_dead(&space);
		assert_int_equal(slab->live, 0);
		assert_true(space_invariant(&space));
	}
}

static void
test_dead_addresses_that_lie_nowhere_are_ignored(void **state)
{
	open_slab(7);
	space_mark_live(&space, baddr_make(7, 0));
	space_mark_dead(&space, baddr_make(8, 0));
	space_mark_dead(&space, baddr_make(7, SLAB_BLOCKS));
	assert_false(space_is_live(&space, baddr_make(7, SLAB_BLOCKS)));
	assert_false(space_is_live(&space, baddr_make(8, 0)));
	assert_int_equal(space.live_blocks, 1);
}

static unsigned released_count;
static struct slab *released_slab;

static void
released(void *context, struct slab *slab)
{
	assert_ptr_equal(context, &space);
	assert_int_equal(slab->state, SLAB_FREE);
	released_slab = slab;
	released_count++;
}

static unsigned
release(void)
{
	released_count = 0;
	space_release(&space, released, &space);
	assert_true(space_invariant(&space));
	return released_count;
}

static void
test_slab_is_free_when_the_checkpoint_that_saw_it_empty_is_durable(void **state)
{
	struct slab *slab = open_slab(7);

	space_mark_live(&space, baddr_make(7, 1));
	space_mark_dead(&space, baddr_make(7, 1));
	assert_true(list_empty(&space.empty)); /* open slabs are never empty */
	space_collect_empty(&space);
	space_seal_slab(&space, slab, 5);
	assert_false(list_empty(&space.empty));
	assert_int_equal(release(), 0); /* the cut had not seen it */
	space_collect_empty(&space);
	assert_int_equal(release(), 1);
	assert_ptr_equal(released_slab, slab);
	assert_null(space_find(&space, 7));
	assert_int_equal(space.free_count, SLABS);
	assert_true(slab->flags & SLAB_WRITTEN);
	assert_int_equal(release(), 0);
}

/* A replay from the cut may read it where it was. */
static void
test_table_alone_leaves_a_slab_whose_node_died_since_the_cut(void **state)
{
	struct slab *node = open_slab(7), *data = open_slab(8);

	space_mark_live(&space, baddr_make(7, 1));
	space_mark_live(&space, baddr_make(8, 1));
	space_seal_slab(&space, node, 5);
	space_seal_slab(&space, data, 5);
	space_collect_empty(&space); /* the cut */
	assert_int_equal(release(), 0);
	space_mark_node_dead(&space, baddr_make(7, 1));
	space_mark_dead(&space, baddr_make(8, 1));
	assert_int_equal(space.empty_count, 2);
	assert_int_equal(space_count_needless(&space), 1);
	space_collect_needless(&space);
	assert_int_equal(release(), 1);
	assert_ptr_equal(released_slab, data);
	space_collect_empty(&space);
	assert_int_equal(release(), 1);
	assert_ptr_equal(released_slab, node);
}

static void
test_last_dead_block_empties_a_sealed_slab(void **state)
{
	struct slab *slab = open_slab(7);

	for (uint32_t slot = 1; slot < SLAB_BLOCKS; slot++)
		space_mark_live(&space, baddr_make(7, slot));
	space_seal_slab(&space, slab, 5);
	for (uint32_t slot = 1; slot < SLAB_BLOCKS; slot++) {
		assert_true(list_empty(&space.empty));
		space_mark_dead(&space, baddr_make(7, slot));
	}
	space_collect_empty(&space);
	assert_int_equal(release(), 1);
}

static void
test_slab_that_comes_back_to_life_is_not_released(void **state)
{
	struct slab *slab = open_slab(7);

	space_seal_slab(&space, slab, 5);
	space_collect_empty(&space);
	space_mark_live(&space, baddr_make(7, 9));
	assert_int_equal(release(), 0);
	assert_ptr_equal(space_find(&space, 7), slab);
	/* Empty again: for the next cut only. */
	space_mark_dead(&space, baddr_make(7, 9));
	assert_int_equal(release(), 0);
	space_collect_empty(&space);
	assert_int_equal(release(), 1);
}

static void
test_opening_forgets_another_segment_but_keeps_the_same(void **state)
{
	struct slab *slab = open_slab(7);

	space_mark_live(&space, baddr_make(7, 9));
	space_seal_slab(&space, slab, 1);
	space_open_slab(&space, slab, 7); /* a replay comes to it */
	assert_true(space_is_live(&space, baddr_make(7, 9)));
	assert_int_equal(slab->state, SLAB_OPEN);
	assert_true(space_invariant(&space));
	space_mark_dead(&space, baddr_make(7, 9));
	space_seal_slab(&space, slab, 1);
	assert_false(list_empty(&space.empty));
	space_open_slab(&space, slab, 7);
	assert_true(list_empty(&space.empty));
	space_mark_live(&space, baddr_make(7, 9));
	space_open_slab(&space, slab, 8);
	assert_null(space_find(&space, 7));
	assert_int_equal(slab->live, 0);
	assert_int_equal(space.live_blocks, 0);
	assert_true(space_invariant(&space));
}

/* --- choosing --- */

static void
test_pick_keeps_the_reserve(void **state)
{
	for (uint32_t i = 0; i < SLABS - 10; i++) {
		struct slab *slab = space_pick(&space, 0, 10);

		assert_non_null(slab);
		space_open_slab(&space, slab, i + 1);
	}
	assert_null(space_pick(&space, 0, 10));
	assert_non_null(space_pick(&space, 0, 9));
	assert_true(space_invariant(&space));
}

static void
test_pick_passes_over_slabs_that_are_being_read(void **state)
{
	struct slab *first = space_pick(&space, 0, 0);

	first->readers = 1;
	assert_ptr_not_equal(space_pick(&space, 0, 0), first);
	for (uint32_t i = 0; i < SLABS; i++)
		space_reach(&space, 0, i)->readers = 1;
	assert_null(space_pick(&space, 0, 0));
	assert_null(space_pick_unwritten(&space, 0));
}

static void
test_devices_take_turns_and_fill_up_together(void **state)
{
	struct uuid other = { { 9 } };
	uint32_t last = 0;

	space_add_device(&space, 1, &other, 512, 2 * SLABS);
	for (uint64_t i = 0; i < 3 * SLABS - 6; i++) {
		struct slab *slab = space_pick(&space, last, 0);

		last = slab->device;
		space_open_slab(&space, slab, i + 1);
		const struct space_device *a = &space.devices[0], *b = &space.devices[1];

		assert_in_range(
		    64 + a->free_count * 64 / a->slab_count - b->free_count * 64 / b->slab_count,
		    62, 66);
	}
	assert_true(space_invariant(&space));
}

static void
test_device_that_leaves_takes_nothing_new_and_empties(void **state)
{
	struct uuid other = { { 9 } };
	struct slab *slab = open_slab(7), *reserved;

	space_add_device(&space, 1, &other, 512, 2 * SLABS);
	space_mark_live(&space, baddr_make(7, 3));
	reserved = space_reach(&space, 0, 2);
	space_reserve(&space, reserved);
	assert_int_equal(space_slabs_without(&space, 0, 0), 2 * SLABS);
	assert_int_equal(space_slabs_without(&space, 0, 5), 2 * SLABS + 5);
	space_start_leaving(&space, 0);
	assert_int_equal(space.slab_count, 2 * SLABS);
	assert_int_equal(space.free_count, 2 * SLABS);
	assert_true(space_lies_badly(&space, slab));
	assert_int_equal(space_count_used(&space, 0), 1);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(space_pick(&space, i % 2, 0)->device, 1);
	/* Who had plans for a slab gives it back: it is held, too. */
	assert_false(space_is_unused(&space, 0));
	space_unreserve(&space, reserved);
	assert_int_equal(space.free_count, 2 * SLABS);
	space_seal_slab(&space, slab, 1);
	space_mark_dead(&space, baddr_make(7, 3));
	assert_true(space_invariant(&space));
	assert_false(space_is_unused(&space, 0));
	space_collect_empty(&space);
	release();
	assert_true(space_is_unused(&space, 0));
	slab->readers++;
	assert_false(space_is_unused(&space, 0));
	slab->readers--;
	uint64_t digest = space.table_digest - space.devices[0].digest;

	space_remove_device(&space, 0);
	assert_int_equal(space.leaving_count, 0);
	assert_int_equal(space.table_digest, digest);
	assert_true(space_invariant(&space));
}

static void
test_device_that_stays_after_all_has_its_slabs_back(void **state)
{
	struct uuid other = { { 9 } };

	space_add_device(&space, 1, &other, 512, SLABS);
	struct slab *slab = open_slab(7);

	space_start_leaving(&space, slab->device);
	assert_true(space_lies_badly(&space, slab));
	space_stop_leaving(&space, slab->device);
	assert_false(space_lies_badly(&space, slab));
	assert_int_equal(space.slab_count, 2 * SLABS);
	assert_int_equal(space.free_count, 2 * SLABS - 1);
	assert_true(space_invariant(&space));
}

static void
test_written_slabs_are_taken_first(void **state)
{
	struct slab *slab = open_slab(7);

	assert_non_null(space_pick_unwritten(&space, 0));
	space_seal_slab(&space, slab, 1);
	space_collect_empty(&space);
	release();
	assert_int_equal(space.devices[0].written_free_count, 1);
	assert_ptr_equal(space_pick(&space, 0, 0), slab);
	assert_ptr_not_equal(space_pick_unwritten(&space, 0), slab);
	space_slab_given_back(&space, slab);
	assert_int_equal(space.devices[0].written_free_count, 0);
	assert_ptr_not_equal(space_pick(&space, 0, 0), slab);
	assert_ptr_equal(space_pick_unwritten(&space, 0), slab);
	assert_true(space_invariant(&space));
}

static void
test_reserved_slab_is_not_picked(void **state)
{
	struct slab *slab = space_pick(&space, 0, 0);

	space_reserve(&space, slab);
	assert_int_equal(space.free_count, SLABS - 1);
	assert_ptr_not_equal(space_pick(&space, 0, 0), slab);
	space_slab_given_back(&space, slab); /* not while somebody has plans */
	assert_true(space_invariant(&space));
	slab->flags |= SLAB_WRITTEN;
	space_unreserve(&space, slab);
	assert_int_equal(space.free_count, SLABS);
	assert_ptr_equal(space_pick(&space, 0, 0), slab);
	assert_true(space_invariant(&space));
}

/* --- table pages --- */

static bool
is_dirty(uint32_t page)
{
	return bitmap_test(space.devices[0].page_dirty, page);
}

/* Writes the dirty pages, as a checkpoint does; returns how many. */
static unsigned
write_pages(uint64_t checkpoint)
{
	unsigned written = 0;

	space_begin_table(&space);
	for (uint32_t page = 0; page < space.devices[0].page_count; page++) {
		if (!is_dirty(page))
			continue;
		uint64_t block = space_page_block(&space.devices[0], page);

		assert_int_equal((block - FORMAT_TABLE_BLOCK) / 2, page);
		space_encode_page(&space, 0, page, checkpoint,
		    disk.pages[page][block - FORMAT_TABLE_BLOCK - 2 * page]);
		assert_false(is_dirty(page));
		written++;
	}
	return written;
}

static int
read_pages(uint64_t checkpoint, struct error *error)
{
	space_fini(&space);
	begin();
	for (uint32_t page = 0; page < space.devices[0].page_count; page++) {
		int rc = space_decode_page(
		    &space, 0, page, checkpoint, disk.pages[page][0], disk.pages[page][1], error);

		if (rc)
			return rc;
	}
	assert_true(space_invariant(&space));
	return 0;
}

static void
test_pages_round_trip(void **state)
{
	struct error error;
	uint64_t seed = 1, digest;

	memset(&disk, 0, sizeof(disk));
	(void)space_reach(&space, 0, SLABS - 1);
	for (uint64_t segment = 1; segment < SLABS - 20; segment++) {
		struct slab *slab = open_slab(segment);

		for (unsigned i = 0; i < segment % 40; i++)
			space_mark_live(&space, baddr_make(segment, mix64(seed++) % SLAB_BLOCKS));
		if (segment % 7)
			space_seal_slab(&space, slab, (uint32_t)segment);
	}
	assert_int_equal(write_pages(1), space.devices[0].page_count);
	digest = space.table_digest;
	static struct slab before[SLABS];
	static uint64_t bits[SLABS];
	static bool in_list[SLABS];
	uint64_t live = space.live_blocks, free_count = space.free_count;

	for (uint32_t i = 0; i < SLABS; i++) {
		struct slab *slab = space_reach(&space, 0, i);

		before[i] = *slab;
		bits[i] = *slab->live_bits;
		in_list[i] = !list_empty(&slab->link);
	}
	assert_int_equal(read_pages(1, &error), 0);
	assert_true(space.table_digest == digest);
	assert_int_equal(space.live_blocks, live);
	assert_int_equal(space.free_count, free_count);
	for (uint32_t i = 0; i < SLABS; i++) {
		const struct slab *slab = space_reach(&space, 0, i);

		assert_true(*slab->live_bits == bits[i]);
		assert_int_equal(slab->segment, before[i].segment);
		assert_int_equal(slab->state, before[i].state);
		assert_int_equal(slab->flags, before[i].flags);
		assert_int_equal(slab->age, before[i].age);
		assert_int_equal(!list_empty(&slab->link), in_list[i]);
	}
	for (uint32_t page = 0; page < space.devices[0].page_count; page++)
		assert_false(is_dirty(page));
}

static void
test_only_changed_pages_are_dirty(void **state)
{
	uint32_t per_page = table_records_per_page(SLAB_BLOCKS);
	struct slab *slab = space_reach(&space, 0, per_page + 1);

	space_reach(&space, 0, SLABS - 1);
	assert_true(space.devices[0].page_count > 2);
	write_pages(1);
	space_open_slab(&space, slab, 3);
	assert_true(is_dirty(1));
	assert_int_equal(write_pages(2), 1);
	space_mark_live(&space, baddr_make(3, 1));
	assert_int_equal(write_pages(3), 1);
	space_mark_live(&space, baddr_make(3, 1));
	assert_int_equal(write_pages(4), 0);
	space_mark_dead(&space, baddr_make(3, 1));
	assert_int_equal(write_pages(5), 1);
	space_seal_slab(&space, slab, 1);
	assert_int_equal(write_pages(6), 1);
	space_collect_empty(&space);
	assert_int_equal(release(), 1);
	assert_int_equal(write_pages(7), 1);
	space_slab_given_back(&space, slab);
	assert_int_equal(write_pages(8), 1);
}

/* Versions 1 and 2 of page 0 in its two places; segment 3 came with version 2. */
static void
write_two_versions(void)
{
	memset(&disk, 0, sizeof(disk));
	space_open_slab(&space, space_reach(&space, 0, 0), 2);
	write_pages(1);
	space_open_slab(&space, space_reach(&space, 0, 1), 3);
	assert_int_equal(write_pages(2), 1);
}

static void
test_newest_place_that_is_not_newer_than_the_checkpoint_serves(void **state)
{
	struct error error;
	uint64_t digest_1, digest_2;

	write_two_versions();
	digest_2 = space.table_digest;
	assert_int_equal(read_pages(2, &error), 0);
	assert_non_null(space_find(&space, 3));
	assert_true(space.table_digest == digest_2);
	assert_false(is_dirty(0));
	/* The checkpoint that wrote version 2 never came to be. */
	assert_int_equal(read_pages(1, &error), 0);
	assert_non_null(space_find(&space, 2));
	assert_null(space_find(&space, 3));
	digest_1 = space.table_digest;
	assert_true(digest_1 != digest_2);
	/* Its page must not be taken for a good one later: it is written over first. */
	assert_true(is_dirty(0));
	assert_int_equal(write_pages(2), 1);
	assert_int_equal(read_pages(2, &error), 0);
	assert_null(space_find(&space, 3));
	assert_true(space.table_digest == digest_2);
}

static void
test_next_version_goes_to_the_older_place(void **state)
{
	struct error error;

	write_two_versions();
	for (uint64_t checkpoint = 3; checkpoint < 8; checkpoint++) {
		uint64_t block;

		assert_int_equal(read_pages(checkpoint - 1, &error), 0);
		block = space_page_block(&space.devices[0], 0);
		space_open_slab(&space, space_reach(&space, 0, checkpoint), 10 + checkpoint);
		write_pages(checkpoint);
		assert_int_equal(space_page_block(&space.devices[0], 0) ^ 1, block);
		assert_int_equal(read_pages(checkpoint - 1, &error), 0);
		assert_null(space_find(&space, 10 + checkpoint));
	}
}

static void
test_flipped_bit_makes_the_other_place_serve_and_shows_in_the_digest(void **state)
{
	struct error error;
	uint64_t digest;
	unsigned newer;

	write_two_versions();
	digest = space.table_digest;
	newer = space.devices[0].page_place[0];
	for (size_t bit = 0; bit < 8 * FORMAT_BLOCK_BYTES; bit += bit < 8 * 100 ? 1 : 61) {
		disk.pages[0][newer][bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(read_pages(2, &error), 0);
		assert_null(space_find(&space, 3));
		assert_true(space.table_digest != digest);
		disk.pages[0][newer][bit / 8] ^= (uint8_t)(1 << bit % 8);
		/* In the older one it does no harm. */
		disk.pages[0][!newer][bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(read_pages(2, &error), 0);
		assert_true(space.table_digest == digest);
		disk.pages[0][!newer][bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}

static void
test_damage_in_both_places_is_named(void **state)
{
	struct error error;

	write_two_versions();
	disk.pages[0][0][1000] ^= 1;
	disk.pages[0][1][2000] ^= 1;
	assert_int_equal(read_pages(2, &error), -EUCLEAN);
	assert_string_equal(error.text, "slab table page 0 of device 0 is damaged in both places");
}

static void
test_page_of_another_place_or_device_is_not_taken(void **state)
{
	const struct uuid other = { { 1, 2, 4 } };
	struct error error;

	memset(&disk, 0, sizeof(disk));
	space_reach(&space, 0, SLABS - 1);
	write_pages(1);
	memcpy(disk.pages[1], disk.pages[0], sizeof(disk.pages[0]));
	assert_int_equal(read_pages(1, &error), -EUCLEAN);
	assert_non_null(strstr(error.text, "page 1 of device 0"));
	space_fini(&space);
	space_init(&space, SLAB_BLOCKS, 1);
	space_add_device(&space, 0, &other, 512, SLABS);
	assert_int_equal(
	    space_decode_page(&space, 0, 0, 1, disk.pages[0][0], disk.pages[0][1], &error),
	    -EUCLEAN);
}

/* --- pages that somebody made --- */

static struct slab_record *
record_at(uint8_t *page, unsigned index)
{
	return (struct slab_record *)(page + sizeof(struct table_page) +
				      index * slab_record_bytes(SLAB_BLOCKS));
}

static void
reseal(uint8_t *page, uint32_t index)
{
	struct table_page *header = (struct table_page *)page;

	header->crc = 0;
	header->crc =
	    crc32c(crc32c(index, &device_uuid, sizeof(device_uuid)), page, FORMAT_BLOCK_BYTES);
}

/* --- the mark: slabs from there on were never used --- */

static void
test_what_was_never_used_takes_no_record(void **state)
{
	const struct space_device *device = &space.devices[0];
	uint32_t first = space.devices[0].mark;
	struct error error;

	memset(&disk, 0, sizeof(disk));
	assert_true(first < 10);
	assert_int_equal(space.free_count, SLABS);
	assert_int_equal(write_pages(1), 1);
	for (uint32_t n = 0; n < first; n++)
		open_slab(10 + n);
	assert_int_equal(device->mark, first);
	assert_int_equal(write_pages(2), 1);
	assert_int_equal(open_slab(1000)->index, first);
	assert_int_equal(device->mark, 2 * first);
	assert_int_equal(space.free_count, SLABS - first - 1);
	assert_true(space_invariant(&space));
	assert_int_equal(write_pages(3), 1);
	assert_int_equal(read_pages(3, &error), 0);
	assert_int_equal(device->mark, 2 * first);
	assert_non_null(space_find(&space, 1000));
	assert_int_equal(space.free_count, SLABS - first - 1);
	/* The table before had none of it. */
	assert_int_equal(read_pages(2, &error), 0);
	assert_int_equal(device->mark, first);
	assert_int_equal(space.free_count, SLABS - first);
}

static void
test_what_is_free_below_the_mark_comes_first(void **state)
{
	uint32_t first = space.devices[0].mark;

	for (uint32_t n = 0; n < 3 * SLABS; n++) {
		struct slab *slab = open_slab(10 + n);

		assert_true(slab->index < first);
		space_seal_slab(&space, slab, 1);
		space_collect_empty(&space);
		assert_int_equal(release(), 1);
	}
	assert_int_equal(space.devices[0].mark, first);
}

/* A page beyond the first, and page 0, which tells of it. */
static void
test_mark_on_another_page(void **state)
{
	uint32_t per_page = table_records_per_page(SLAB_BLOCKS);
	struct error error;

	memset(&disk, 0, sizeof(disk));
	assert_int_equal(write_pages(1), 1);
	(void)space_reach(&space, 0, per_page - 1);
	assert_int_equal(write_pages(2), 1);
	space_open_slab(&space, space_reach(&space, 0, per_page), 5);
	assert_int_equal(write_pages(3), 2);
	assert_int_equal(read_pages(3, &error), 0);
	assert_non_null(space_find(&space, 5));
	assert_int_equal(read_pages(2, &error), 0);
	assert_null(space_find(&space, 5));
	assert_int_equal(space.devices[0].mark, per_page);
}

/* What is used while the table is being written is none of it, even if its record gets there. */
static void
test_mark_is_that_of_its_own_table(void **state)
{
	struct space_device *device = &space.devices[0];
	uint32_t first = space.devices[0].mark;
	struct error error;

	memset(&disk, 0, sizeof(disk));
	space_begin_table(&space);
	space_open_slab(&space, space_reach(&space, 0, first + 3), 5);
	space_encode_page(&space, 0, 0, 1, disk.pages[0][space_page_block(device, 0) & 1]);
	assert_true(is_dirty(0));
	assert_int_equal(read_pages(1, &error), 0);
	assert_int_equal(device->mark, first);
	assert_null(space_find(&space, 5));
	assert_false(is_dirty(0));
	/* Nor does it come back when the mark is raised for something else. */
	(void)space_reach(&space, 0, first);
	assert_int_equal(write_pages(2), 1);
	assert_int_equal(read_pages(2, &error), 0);
	assert_null(space_find(&space, 5));
	assert_true(device->mark > first + 3);
}

static void
test_mark_of_a_device_that_grows(void **state)
{
	static const struct uuid uuid = { { 7 } };
	uint32_t first = space.devices[0].mark;
	const struct space_device *device = &space.devices[1];

	space_add_device(&space, 1, &uuid, 4096, first);
	assert_int_equal(device->mark, first);
	space_grow_device(&space, 1, 3 * first);
	assert_int_equal(device->mark, first);
	assert_int_equal(device->free_count, 3 * first);
	assert_int_equal(space.free_count, SLABS + 3 * first);
	space_start_leaving(&space, 1);
	assert_int_equal(space.free_count, SLABS);
	(void)space_reach(&space, 1, first); /* as a replay may */
	assert_int_equal(space.free_count, SLABS);
	assert_true(space_is_unused(&space, 1));
	space_stop_leaving(&space, 1);
	assert_int_equal(space.free_count, SLABS + 3 * first);
	assert_true(space_invariant(&space));
}

static void
test_impossible_marks_are_refused(void **state)
{
	static const uint32_t counts[] = { 0, SLABS + 1, UINT32_MAX };
	struct error error;

	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
		uint8_t *page;

		space_fini(&space);
		begin();
		memset(&disk, 0, sizeof(disk));
		write_pages(1);
		page = disk.pages[0][space.devices[0].page_place[0]];
		((struct table_page *)page)->mark = counts[i];
		reseal(page, 0);
		assert_int_equal(read_pages(1, &error), -EUCLEAN);
		assert_non_null(strstr(error.text, "slabs were used, and it has 400"));
	}
}

/* A sweep meets each slab below the marks, whatever lies between. */
static void
test_sweep_meets_all_slabs(void **state)
{
	static const struct uuid uuid = { { 7 } };
	uint32_t met = 0;

	space_add_device(&space, 1, &uuid, 4096, 1000);
	(void)space_reach(&space, 1, 500);
	for (uint64_t n = 0; n < space.span_count; n++)
		met += space_nth_slab(&space, n) != NULL;
	assert_int_equal(met, space.devices[0].mark + space.devices[1].mark);
	assert_true(space.span_count < 2 * met);
}

/* --- records that cannot be, with a right checksum --- */

static void
assert_record_refused(struct slab_record record, const char *text)
{
	struct error error = { 0 };
	uint8_t *page;

	space_fini(&space);
	begin();
	memset(&disk, 0, sizeof(disk));
	space_open_slab(&space, space_reach(&space, 0, 0), 5);
	write_pages(1);
	page = disk.pages[0][space.devices[0].page_place[0]];
	*record_at(page, 4) = record;
	reseal(page, 0);
	if (read_pages(1, &error) != -EUCLEAN)
		fail_msg("taken: %s", text);
	if (!strstr(error.text, text))
		fail_msg("%s", error.text);
}

static void
test_impossible_records_are_refused(void **state)
{
	typedef struct slab_record record;

	assert_record_refused((record){ .state = 77, .segment = 9 }, "unknown state 77");
	assert_record_refused((record){ .state = SLAB_BAD, .segment = 9 }, "unknown state 4");
	assert_record_refused(
	    (record){ .state = SLAB_PACKED, .segment = 9 }, "directory of 0 blocks");
	assert_record_refused(
	    (record){ .state = SLAB_PACKED, .segment = 9, .directory_blocks = SLAB_BLOCKS / 2 },
	    "directory of 32 blocks");
	assert_record_refused((record){ .state = SLAB_SEALED, .segment = 9, .directory_blocks = 1 },
	    "directory of 1 blocks");
	assert_record_refused((record){ .state = SLAB_FREE, .segment = 9 }, "wrong segment 9");
	assert_record_refused((record){ .state = SLAB_SEALED }, "wrong segment 0");
	assert_record_refused((record){ .state = SLAB_OPEN }, "wrong segment 0");
	assert_record_refused(
	    (record){ .state = SLAB_OPEN, .segment = 1ull << 47 }, "wrong segment");
	assert_record_refused(
	    (record){ .state = SLAB_SEALED, .segment = 5 }, "segment 5 lies on two slabs");
}

/* --- packed slabs --- */

static const struct uuid pool_uuid = { { 7 } };
static _Alignas(8) uint8_t directory[FORMAT_BLOCK_BYTES];

/* Packs @count blocks into a fresh slab, as relocation does. */
static struct slab *
pack(uint64_t number, const struct packed_block *blocks, uint32_t count)
{
	struct slab *slab = space_pick(&space, 0, 0);
	struct packed_reader reader;
	struct error error;

	space_reserve(&space, slab);
	packed_encode(blocks, count, SLAB_BLOCKS, number, &pool_uuid, 1, directory);
	assert_int_equal(
	    packed_open(&reader, directory, 1, SLAB_BLOCKS, number, &pool_uuid, &error), 0);
	space_pack(&space, slab, number, 1, &reader, 1);
	return slab;
}

static void
write_segment(uint64_t segment, uint32_t first, uint32_t step)
{
	struct slab *slab = open_slab(segment);

	for (uint32_t slot = first; slot < SLAB_BLOCKS; slot += step)
		space_mark_live(&space, baddr_make(segment, slot));
	space_seal_slab(&space, slab, 1);
}

static void
test_packed_blocks_keep_their_addresses(void **state)
{
	struct packed_block blocks[SLAB_BLOCKS];
	struct baddr addrs[SLAB_BLOCKS];
	uint32_t slots[SLAB_BLOCKS], slot, n = 0;
	struct slab *first, *second, *packed;

	write_segment(7, 1, 4);  /* 16 live: a bitmap */
	write_segment(9, 0, 32); /* 2: a list */
	first = space_find(&space, 7);
	second = space_find(&space, 9);
	n = space_list_live(&space, first, addrs, slots);
	n += space_list_live(&space, second, addrs + n, slots + n);
	assert_int_equal(n, 18);
	for (uint32_t i = 0; i < n; i++)
		blocks[i] = (struct packed_block){ addrs[i], i };
	space_mark_dead(&space, baddr_make(7, 5)); /* while they are on their way */
	packed = pack(11, blocks, n);
	assert_int_equal(packed->live, 17);
	assert_int_equal(first->live, 0);
	assert_int_equal(space.empty_count, 2);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(space_is_live(&space, addrs[i]), addrs[i].n != baddr_make(7, 5).n);
		if (!space_is_live(&space, addrs[i]))
			continue;
		assert_ptr_equal(space_place(&space, addrs[i], &slot), packed);
		assert_int_equal(slot, 1 + i);
	}
	assert_int_equal(space_run(&space, addrs[0], 60), 1); /* 7.1 and 7.5 are not neighbours */
	assert_true(space_invariant(&space));
	space_collect_empty(&space);
	assert_int_equal(release(), 2);
	assert_null(space_find(&space, 7));
	assert_ptr_equal(space_place(&space, baddr_make(7, 9), &slot), packed);
	assert_null(space_place(&space, baddr_make(7, 10), &slot));
	for (uint32_t i = 0; i < n; i++)
		space_mark_dead(&space, addrs[i]);
	space_collect_empty(&space);
	assert_int_equal(release(), 1);
	assert_null(space_place(&space, baddr_make(7, 9), &slot));
	assert_int_equal(space.segments.count, 0);
	assert_true(space_invariant(&space));
}

static void
test_segment_may_move_in_parts_and_again(void **state)
{
	struct packed_block part[SLAB_BLOCKS];
	struct slab *packed, *again;
	uint32_t slot;

	write_segment(7, 0, 2);
	for (uint32_t i = 0; i < 20; i++)
		part[i].addr = baddr_make(7, 2 * i);
	packed = pack(11, part, 20);
	assert_ptr_equal(space_place(&space, baddr_make(7, 38), &slot), packed);
	assert_ptr_equal(space_place(&space, baddr_make(7, 40), &slot), space_find(&space, 7));
	assert_int_equal(slot, 40);
	/* The rest of it, and some of what moved before. */
	for (uint32_t i = 0; i < 22; i++)
		part[i].addr = baddr_make(7, 20 + 2 * i);
	again = pack(12, part, 22);
	assert_int_equal(packed->live, 10);
	assert_int_equal(space_find(&space, 7)->live, 0);
	assert_int_equal(again->live, 22);
	assert_true(space_invariant(&space));
	/* The log cannot bring back what has moved. */
	space_mark_dead(&space, baddr_make(7, 0));
	space_mark_dead(&space, baddr_make(7, 62));
	assert_int_equal(space.live_blocks, 30);
	assert_true(space_invariant(&space));
}

static void
test_packed_slabs_are_found_again(void **state)
{
	struct packed_block blocks[SLAB_BLOCKS];
	struct packed_reader reader;
	struct error error;
	struct slab *packed;
	uint32_t index, slot;

	write_segment(7, 0, 2);
	for (uint32_t i = 0; i < 32; i++)
		blocks[i].addr = baddr_make(7, 2 * i);
	packed = pack(11, blocks, 32);
	index = packed->index;
	space_mark_dead(&space, baddr_make(7, 4));
	write_pages(3);
	space_fini(&space);
	begin();
	assert_int_equal(read_pages(3, &error), 0);
	packed = space_reach(&space, 0, index);
	assert_int_equal(packed->state, SLAB_PACKED);
	assert_int_equal(packed->segment, 11);
	assert_int_equal(packed->directory_blocks, 1);
	assert_int_equal(
	    packed_open(&reader, directory, 1, SLAB_BLOCKS, 11, &pool_uuid, &error), 0);
	assert_int_equal(space_load_pieces(&space, packed, &reader, &error), 0);
	assert_false(space_is_live(&space, baddr_make(7, 4)));
	assert_ptr_equal(space_place(&space, baddr_make(7, 6), &slot), packed);
	assert_int_equal(slot, 1 + 3);
	assert_int_equal(space.live_blocks, 31);
	assert_true(space_invariant(&space));
}

static void
test_directory_that_contradicts_the_table_is_refused(void **state)
{
	struct packed_block blocks[1] = { { baddr_make(7, 0), 5 } };
	struct packed_reader reader;
	struct error error;
	struct slab *slab = space_reach(&space, 0, 9);

	write_segment(7, 0, 2);
	space_reserve(&space, slab);
	slab->state = SLAB_PACKED;
	slab->segment = 11;
	slab->directory_blocks = 1;
	bitmap_set(slab->live_bits, 1);
	packed_encode(blocks, 1, SLAB_BLOCKS, 11, &pool_uuid, 1, directory);
	assert_int_equal(
	    packed_open(&reader, directory, 1, SLAB_BLOCKS, 11, &pool_uuid, &error), 0);
	assert_int_equal(space_load_pieces(&space, slab, &reader, &error), -EUCLEAN);
	assert_non_null(strstr(error.text, "live at two places"));
}

static void
test_live_slot_that_no_piece_has_is_refused(void **state)
{
	struct packed_block blocks[1] = { { baddr_make(7, 0), 5 } };
	struct packed_reader reader;
	struct error error;
	struct slab *slab = space_reach(&space, 0, 9);

	space_reserve(&space, slab);
	slab->state = SLAB_PACKED;
	slab->segment = 11;
	slab->directory_blocks = 1;
	bitmap_set(slab->live_bits, 2);
	packed_encode(blocks, 1, SLAB_BLOCKS, 11, &pool_uuid, 1, directory);
	assert_int_equal(
	    packed_open(&reader, directory, 1, SLAB_BLOCKS, 11, &pool_uuid, &error), 0);
	assert_int_equal(space_load_pieces(&space, slab, &reader, &error), -EUCLEAN);
	assert_non_null(strstr(error.text, "its directory does not have it"));
}

/* Every third block of a packed slab dies, and what lives of two segments goes there. */
static void
test_plugged_blocks_keep_their_addresses(void **state)
{
	static _Alignas(8) uint8_t changed[FORMAT_BLOCK_BYTES];
	struct packed_block blocks[SLAB_BLOCKS], moved[SLAB_BLOCKS];
	uint64_t holes[BITMAP_WORDS(SLAB_BLOCKS)] = { 0 };
	uint16_t places[SLAB_BLOCKS];
	struct packed_reader reader;
	struct baddr addrs[SLAB_BLOCKS];
	uint32_t slots[SLAB_BLOCKS], slot, n, count = 0;
	struct slab *packed, *seventh, *ninth;
	struct error error;

	write_segment(5, 0, 1);
	n = space_list_live(&space, space_find(&space, 5), addrs, slots) - 2;
	for (uint32_t i = 0; i < n; i++)
		blocks[i] = (struct packed_block){ addrs[i], i };
	packed = pack(11, blocks, n);
	for (uint32_t i = 0; i < n; i += 3)
		space_mark_dead(&space, addrs[i]);
	write_segment(7, 3, 8);
	write_segment(9, 0, 16);
	seventh = space_find(&space, 7);
	ninth = space_find(&space, 9);
	count = space_list_live(&space, seventh, addrs, slots);
	count += space_list_live(&space, ninth, addrs + count, slots + count);
	assert_int_equal(count, 12);
	for (uint32_t i = 0; i < count; i++) {
		moved[i] = (struct packed_block){ addrs[i], 100 + i };
		places[i] = (uint16_t)(1 + 3 * i);
		bitmap_set(holes, places[i]);
	}
	assert_int_equal(
	    packed_open(&reader, directory, 1, SLAB_BLOCKS, 11, &pool_uuid, &error), 0);
	assert_true(packed_plug(&reader, holes, moved, places, count, 11, &pool_uuid, 1, changed));
	assert_int_equal(packed_open(&reader, changed, 1, SLAB_BLOCKS, 11, &pool_uuid, &error), 0);
	assert_true(space_may_plug(&space, packed, true));
	assert_false(space_may_plug(&space, packed, false)); /* packed since the last cut */
	assert_false(space_may_plug(&space, seventh, true));
	space_mark_dead(&space, addrs[2]); /* while it is on its way */
	space_plug(&space, packed, &reader, moved, places, count, 2);
	assert_true(space_invariant(&space));
	assert_int_equal(seventh->live + ninth->live, 0);
	assert_int_equal(packed->live, n - (n + 2) / 3 + count - 1);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(space_is_live(&space, addrs[i]), i != 2);
		if (i == 2)
			continue;
		assert_ptr_equal(space_place(&space, addrs[i], &slot), packed);
		assert_int_equal(slot, places[i]);
	}
	for (uint32_t i = 0; i < n; i++) { /* what was there is where it was */
		assert_int_equal(space_is_live(&space, baddr_make(5, i)), i % 3 != 0);
		if (i % 3 == 0)
			continue;
		assert_ptr_equal(space_place(&space, baddr_make(5, i), &slot), packed);
		assert_int_equal(slot, 1 + i);
	}
	assert_int_equal(space_list_live(&space, packed, addrs, slots), packed->live);
	/* A dead address that a replay marks live is so where the log wrote it. */
	space_mark_live(&space, baddr_make(7, 3 + 2 * 8));
	assert_int_equal(seventh->live, 1);
	assert_true(space_invariant(&space));
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_new_device_is_all_free),
		TEST(test_open_slab_is_found_by_its_segment),
		TEST(test_marking_twice_is_marking_once),
		TEST(test_what_dies_soon_is_dead_when_that_is_finished),
		TEST(test_dead_addresses_that_lie_nowhere_are_ignored),
		TEST(test_slab_is_free_when_the_checkpoint_that_saw_it_empty_is_durable),
		TEST(test_table_alone_leaves_a_slab_whose_node_died_since_the_cut),
		TEST(test_last_dead_block_empties_a_sealed_slab),
		TEST(test_slab_that_comes_back_to_life_is_not_released),
		TEST(test_opening_forgets_another_segment_but_keeps_the_same),
		TEST(test_pick_keeps_the_reserve),
		TEST(test_pick_passes_over_slabs_that_are_being_read),
		TEST(test_devices_take_turns_and_fill_up_together),
		TEST(test_device_that_leaves_takes_nothing_new_and_empties),
		TEST(test_device_that_stays_after_all_has_its_slabs_back),
		TEST(test_written_slabs_are_taken_first),
		TEST(test_reserved_slab_is_not_picked),
		TEST(test_pages_round_trip),
		TEST(test_only_changed_pages_are_dirty),
		TEST(test_newest_place_that_is_not_newer_than_the_checkpoint_serves),
		TEST(test_next_version_goes_to_the_older_place),
		TEST(test_flipped_bit_makes_the_other_place_serve_and_shows_in_the_digest),
		TEST(test_damage_in_both_places_is_named),
		TEST(test_page_of_another_place_or_device_is_not_taken),
		TEST(test_what_was_never_used_takes_no_record),
		TEST(test_what_is_free_below_the_mark_comes_first),
		TEST(test_mark_on_another_page),
		TEST(test_mark_is_that_of_its_own_table),
		TEST(test_mark_of_a_device_that_grows),
		TEST(test_impossible_marks_are_refused),
		TEST(test_sweep_meets_all_slabs),
		TEST(test_impossible_records_are_refused),
		TEST(test_packed_blocks_keep_their_addresses),
		TEST(test_segment_may_move_in_parts_and_again),
		TEST(test_packed_slabs_are_found_again),
		TEST(test_directory_that_contradicts_the_table_is_refused),
		TEST(test_live_slot_that_no_piece_has_is_refused),
		TEST(test_plugged_blocks_keep_their_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
