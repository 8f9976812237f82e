/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maps against a model that is a plain array per image: changes, snapshots, clones, rollbacks,
 * trims, eviction, checkpoints beside all of it, crashes, reaping, differences and counts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "tests/unit/map_world.h"

#define TINY_BUDGET (64 * FORMAT_BLOCK_BYTES)
#define LARGE_BUDGET (64 * MIB)

static struct world world;

static struct model *
new_head(struct world *w)
{
	return world_model(w, world_create_volume(w));
}

static void
reap_all(struct world *w)
{
	if (w->cutting)
		world_checkpoint_end(w, true);
	while (world_reap(w, 1 + (unsigned)world_random(w, 40)))
		;
}

/* Whatever was deleted is free, and nothing else is. */
static void
settle_and_check(struct world *w)
{
	reap_all(w);
	/* An image with two children waits for as long as both live. */
	list_for_each(node, &w->catalog.deleted) {
		assert_true(container_of(node, struct image, deleted_link)->children > 1);
	}
	while (world_count(w, true) && !list_empty(&w->catalog.deleted)) {
		world_delete_volume(w, world_any(w, true));
		reap_all(w);
	}
	world_checkpoint(w);
	world_compare(w);
	world_check_live(w);
}

/* --- single behaviours --- */

static struct map_entry
get(struct world *w, const struct model *model, uint64_t lba)
{
	struct map_entry entry;
	struct map_fault fault;

	while (map_get(&w->nodes, world_map(w, model), lba, 1, &entry, &fault) == MAP_FAULT)
		world_load(w, &fault);
	return entry;
}

static void
test_new_map_is_all_holes(void **state)
{
	struct world *w = &world;
	struct map map = { 0 };
	struct map_entry entries[300];
	struct map_fault fault;
	uint64_t run;
	uint32_t depth;

	world_init(w, 1, LARGE_BUDGET);
	memset(entries, 0xff, sizeof(entries));
	assert_int_equal(map_get(&w->nodes, &map, UINT64_MAX / 2, 300, entries, &fault), MAP_OK);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(entries[i].addr, 0);
	assert_int_equal(
	    map_run(&w->nodes, &map, NULL, 0, 1ull << 48, 1, &depth, &run, &fault), MAP_OK);
	assert_int_equal(depth, 0);
	assert_true(run == 1ull << 48);
	world_fini(w);
}

static void
test_map_grows_by_levels_and_keeps_what_it_held(void **state)
{
	struct world *w = &world;

	world_init(w, 2, LARGE_BUDGET);
	struct model *head = new_head(w);

	for (uint32_t island = 0; island < WORLD_ISLANDS; island++) {
		world_write(w, head, island * WORLD_ISLAND_BLOCKS + 7, 20);
		assert_true(map_capacity(world_map(w, head)->levels) >
			    world_lba(island * WORLD_ISLAND_BLOCKS + 26));
		world_compare(w);
	}
	assert_int_equal(world_map(w, head)->levels, 4);
	settle_and_check(w);
	world_fini(w);
}

static void
test_overwritten_block_is_dead_unless_a_snapshot_has_it(void **state)
{
	struct world *w = &world;

	world_init(w, 3, LARGE_BUDGET);
	struct model *head = new_head(w);

	world_write(w, head, 0, 1);
	struct baddr first = { get(w, head, 0).addr };

	world_write(w, head, 0, 1);
	assert_false(space_is_live(&w->space, first));
	struct baddr second = { get(w, head, 0).addr };
	struct model *snapshot = world_model(w, world_snapshot(w, head));

	world_write(w, head, 0, 1);
	assert_true(space_is_live(&w->space, second));
	struct baddr third = { get(w, head, 0).addr };

	world_write(w, head, 0, 1);
	assert_false(space_is_live(&w->space, third));
	world_delete_snapshot(w, snapshot);
	reap_all(w);
	assert_false(space_is_live(&w->space, second));
	settle_and_check(w);
	world_fini(w);
}

static void
test_snapshot_costs_no_nodes_and_never_changes(void **state)
{
	struct world *w = &world;

	world_init(w, 4, LARGE_BUDGET);
	struct model *head = new_head(w);

	for (uint32_t i = 0; i < WORLD_BLOCKS; i += 96)
		world_write(w, head, i, 8);
	uint64_t in_use = w->nodes.in_use;
	struct model *snapshot = world_model(w, world_snapshot(w, head));

	assert_int_equal(w->nodes.in_use, in_use);
	for (uint32_t i = 0; i < WORLD_BLOCKS; i += 192)
		world_write(w, head, i, 3);
	world_zero(w, head, 0, WORLD_LBA_END);
	world_compare(w);
	assert_int_not_equal(snapshot->addrs[0], 0);
	settle_and_check(w);
	world_fini(w);
}

static void
test_rollback_brings_the_snapshot_back(void **state)
{
	struct world *w = &world;

	world_init(w, 5, LARGE_BUDGET);
	struct model *head = new_head(w);

	world_write(w, head, 0, 50);
	struct model *snapshot = world_model(w, world_snapshot(w, head));

	world_write(w, head, 20, 50);
	world_rollback(w, head, snapshot);
	assert_int_equal(catalog_image(&w->catalog, head->id)->mapped_blocks, 50);
	settle_and_check(w);
	assert_int_equal(w->space.live_blocks,
	    50 + 1 + 1 + 1 /* data, their leaf, the catalog's leaf and block */);
	world_fini(w);
}

static void
test_large_trim_makes_an_image_that_is_reaped(void **state)
{
	struct world *w = &world;

	world_init(w, 6, LARGE_BUDGET);
	struct model *head = new_head(w);

	for (uint32_t island = 0; island < WORLD_ISLANDS; island++)
		world_write(w, head, island * WORLD_ISLAND_BLOCKS, 60);
	world_checkpoint(w);
	uint64_t live = w->space.live_blocks;

	world_zero(w, head, 0, 1 << 24);
	assert_false(list_empty(&w->catalog.deleted));
	/* Nothing is freed yet, but one sees nothing of it any more. */
	assert_true(w->space.live_blocks >= live);
	world_compare(w);
	settle_and_check(w);
	assert_int_equal(catalog_image(&w->catalog, head->id)->mapped_blocks, 2 * 60);
	assert_true(w->space.live_blocks < live - 4 * 60);
	world_fini(w);
}

static void
test_deleted_image_with_two_children_waits(void **state)
{
	struct world *w = &world;

	world_init(w, 7, LARGE_BUDGET);
	struct model *head = new_head(w);

	world_write(w, head, 0, 60);
	struct model *snapshot = world_model(w, world_snapshot(w, head));
	struct model *clone = world_model(w, world_clone(w, snapshot));

	world_delete_snapshot(w, snapshot);
	assert_null(map_reap_next(&w->catalog));
	world_write(w, head, 0, 60);
	world_delete_volume(w, head);
	reap_all(w);
	assert_true(list_empty(&w->catalog.deleted));
	assert_int_not_equal(clone->addrs[59], 0);
	settle_and_check(w);
	world_fini(w);
}

static void
test_faults_name_the_node_that_is_missing(void **state)
{
	struct world *w = &world;
	struct map_entry entry;
	struct map_fault fault;
	unsigned level = 4;

	world_init(w, 8, LARGE_BUDGET);
	struct model *head = new_head(w);

	world_write(w, head, WORLD_BLOCKS - 1, 1);
	world_checkpoint(w);
	world_crash(w);
	head = world_any(w, true);
	while (map_get(&w->nodes, world_map(w, head), world_lba(WORLD_BLOCKS - 1), 1, &entry,
		   &fault) == MAP_FAULT) {
		assert_int_equal(fault.level, --level);
		world_load(w, &fault);
	}
	assert_int_equal(level, 0);
	assert_true(entry.addr == head->addrs[WORLD_BLOCKS - 1]);
	world_fini(w);
}

/* --- everything by chance --- */

/* What images count as mapped is what they map. */
static void
check_mapped(struct world *w)
{
	for (unsigned i = 0; i < WORLD_IMAGES_MAX; i++) {
		const struct model *model = &w->models[i];
		uint64_t mapped = 0;

		if (!model->id)
			continue;
		for (uint32_t b = 0; b < WORLD_BLOCKS; b++)
			mapped += model->addrs[b] != 0;
		uint64_t counted = catalog_image(&w->catalog, model->id)->mapped_blocks;

		if (mapped != counted)
			fail_msg("image %llu maps %llu blocks and counts %llu",
			    (unsigned long long)model->id, (unsigned long long)mapped,
			    (unsigned long long)counted);
	}
}

static void
run_by_chance(uint64_t seed, uint64_t budget, unsigned operations, bool background, bool crashes)
{
	struct world *w = &world;

	world_init(w, seed, budget);
	w->may_disturb = background;
	for (unsigned i = 0; i < operations; i++) {
		world_operate(w);
		if (background)
			world_background(w);
		if (i % 64 == 63)
			world_compare(w);
		if (crashes && world_random(w, 50) == 0) {
			if (w->cutting && world_random(w, 2))
				world_checkpoint_end(w, false);
			world_crash(w);
			world_compare(w);
		}
		if (i % 256 == 255)
			settle_and_check(w);
	}
	settle_and_check(w);
	while (world_any(w, true))
		world_delete_volume(w, world_any(w, true));
	settle_and_check(w);
	/* What is left is nodes of the catalog. */
	assert_in_range(w->space.live_blocks, 1, 8);
	if (budget == TINY_BUDGET)
		assert_in_range(w->faults, 100, UINT64_MAX);
	world_fini(w);
}

static void
test_operations_agree_with_the_model(void **state)
{
	for (uint64_t seed = 100; seed < 102; seed++)
		run_by_chance(seed, LARGE_BUDGET, 700, false, false);
}

static void
test_operations_agree_under_eviction_and_checkpoints(void **state)
{
	for (uint64_t seed = 200; seed < 202; seed++)
		run_by_chance(seed, TINY_BUDGET, 700, true, false);
}

static void
test_crashes_lose_nothing_and_leak_nothing(void **state)
{
	for (uint64_t seed = 300; seed < 303; seed++)
		run_by_chance(seed, TINY_BUDGET, 700, true, true);
}

/* --- walks --- */

static void
operate_beside_background(struct world *w, unsigned operations)
{
	for (unsigned i = 0; i < operations; i++) {
		world_operate(w);
		world_background(w);
	}
}

static void
diff_against_model(struct world *w, const struct model *a, const struct model *b)
{
	static uint8_t found[WORLD_BLOCKS]; /* 1: data, 2: hole */
	struct map *older = world_map(w, a), *newer = world_map(w, b);
	uint64_t lba = 0, count, total = 0, expected = 0;
	struct node_pin pin;

	memset(found, 0, sizeof(found));
	node_pin_begin(&w->nodes, &pin);
	while (lba < WORLD_LBA_END) {
		struct map_fault fault;
		uint64_t before = lba;
		bool hole;

		if (map_diff(&w->nodes, older, newer, &lba, WORLD_LBA_END, &count, &hole, 3,
			&fault) == MAP_FAULT) {
			assert_true(lba >= before);
			world_load(w, &fault);
			continue;
		}
		assert_true(count || lba > before);
		assert_true(count <= MAP_FANOUT);
		for (uint32_t i = 0; i < WORLD_BLOCKS && count; i++)
			if (world_lba(i) >= lba && world_lba(i) < lba + count) {
				assert_int_equal(found[i], 0);
				found[i] = hole ? 2 : 1;
			}
		total += count;
		lba += count;
	}
	node_pin_end(&w->nodes, &pin);
	for (uint32_t i = 0; i < WORLD_BLOCKS; i++) {
		uint8_t want = a->addrs[i] == b->addrs[i] ? 0 : b->addrs[i] ? 1 : 2;

		assert_int_equal(found[i], want);
		expected += want != 0;
	}
	assert_int_equal(total, expected);
}

static void
test_diff_finds_exactly_what_differs(void **state)
{
	struct world *w = &world;

	world_init(w, 9, TINY_BUDGET);
	for (unsigned round = 0; round < 12; round++) {
		operate_beside_background(w, 40);
		struct model *a = world_any(w, false);
		struct model *b = world_any(w, false);

		if (a)
			diff_against_model(w, a, b);
	}
	world_fini(w);
}

static void
test_diff_passes_over_what_is_shared(void **state)
{
	struct world *w = &world;
	struct map_fault fault;
	uint64_t lba = 0, count;
	bool hole;

	world_init(w, 10, LARGE_BUDGET);
	struct model *head = new_head(w);

	for (uint32_t island = 0; island < WORLD_ISLANDS; island++)
		world_write(w, head, island * WORLD_ISLAND_BLOCKS, 60);
	struct model *snapshot = world_model(w, world_snapshot(w, head));

	/* The roots are the same: one look is enough. */
	assert_int_equal(map_diff(&w->nodes, world_map(w, snapshot), world_map(w, head), &lba,
			     WORLD_LBA_END, &count, &hole, 1, &fault),
	    MAP_OK);
	assert_int_equal(count, 0);
	assert_true(lba == WORLD_LBA_END);
	world_write(w, head, 3 * WORLD_ISLAND_BLOCKS + 5, 2);
	lba = 0;
	assert_int_equal(map_diff(&w->nodes, world_map(w, snapshot), world_map(w, head), &lba,
			     WORLD_LBA_END, &count, &hole, 1000, &fault),
	    MAP_OK);
	assert_true(lba == world_lba(3 * WORLD_ISLAND_BLOCKS + 5));
	assert_int_equal(count, 2);
	assert_false(hole);
	world_fini(w);
}

static void
runs_against_model(struct world *w, const struct model *model)
{
	for (unsigned n = 0; n < 200; n++) {
		uint32_t index = (uint32_t)world_random(w, WORLD_BLOCKS);
		uint32_t end = index - index % WORLD_ISLAND_BLOCKS + WORLD_ISLAND_BLOCKS;
		uint64_t count = 1 + world_random(w, end - index);
		uint64_t run, want = 0;
		struct map_fault fault;
		struct node_pin pin;
		bool complete = false;
		uint32_t depth;

		while (
		    want < count && (model->addrs[index + want] == 0) == (model->addrs[index] == 0))
			want++;
		node_pin_begin(&w->nodes, &pin);
		/* A run may end early where a node is missing, but never lies. */
		while (!complete) {
			uint64_t faults = w->faults;

			while (map_run(&w->nodes, world_map(w, model), NULL, world_lba(index),
				   count, 64, &depth, &run, &fault) == MAP_FAULT)
				world_load(w, &fault);
			assert_in_range(run, 1, want);
			assert_true((depth == 0) == (model->addrs[index] == 0));
			struct map_entry entries[WORLD_ISLAND_BLOCKS];

			while (map_get(&w->nodes, world_map(w, model), world_lba(index),
				   (uint32_t)count, entries, &fault) == MAP_FAULT)
				world_load(w, &fault);
			complete = faults == w->faults;
		}
		assert_int_equal(run, want);
		node_pin_end(&w->nodes, &pin);
	}
}

static void
test_runs_end_where_holes_begin_and_end(void **state)
{
	struct world *w = &world;

	world_init(w, 11, TINY_BUDGET);
	operate_beside_background(w, 150);
	for (unsigned i = 0; i < WORLD_IMAGES_MAX; i++)
		if (w->models[i].id)
			runs_against_model(w, &w->models[i]);
	world_fini(w);
}

static void
test_run_looks_at_no_more_leaves_than_asked(void **state)
{
	struct world *w = &world;
	struct map_fault fault;
	uint64_t run;
	uint32_t depth;

	world_init(w, 12, LARGE_BUDGET);
	struct model *head = new_head(w);

	for (uint32_t i = 0; i + 48 <= WORLD_ISLAND_BLOCKS; i += 48)
		world_write(w, head, i, 48);
	assert_int_equal(
	    map_run(&w->nodes, world_map(w, head), NULL, 10, 700, 1, &depth, &run, &fault), MAP_OK);
	assert_int_equal(run, 246);
	assert_int_equal(
	    map_run(&w->nodes, world_map(w, head), NULL, 10, 700, 3, &depth, &run, &fault), MAP_OK);
	assert_int_equal(run, 700);
	assert_int_equal(depth, 1);
	world_fini(w);
}

static void
unique_against_model(struct world *w, const struct model *model)
{
	struct map *others[MAP_UNIQUE_OTHERS_MAX];
	const struct model *other_models[MAP_UNIQUE_OTHERS_MAX];
	unsigned count = (unsigned)world_random(w, MAP_UNIQUE_OTHERS_MAX + 1);
	struct map_count unique = { 0 };
	struct map_fault fault;
	struct node_pin pin;
	uint64_t want = 0;

	for (unsigned i = 0; i < count; i++) {
		other_models[i] = world_any(w, false);
		others[i] = world_map(w, other_models[i]);
	}
	node_pin_begin(&w->nodes, &pin);
	world_compare(w);      /* brings everything in */
	while (!unique.done) { /* in pieces, all in memory */
		unsigned leaves_max = 2;

		if (map_count_unique(&w->nodes, world_map(w, model), others, count, &leaves_max,
			&unique, &fault) == MAP_FAULT)
			fail_msg("a fault, though all is in memory");
	}
	node_pin_end(&w->nodes, &pin);
	for (uint32_t i = 0; i < WORLD_BLOCKS; i++) {
		bool is = model->addrs[i] != 0;

		for (unsigned o = 0; o < count; o++)
			is &= model->addrs[i] != other_models[o]->addrs[i];
		want += is;
	}
	assert_int_equal(unique.blocks, want);
}

static void
test_unique_blocks_are_those_that_no_other_has(void **state)
{
	struct world *w = &world;

	world_init(w, 13, TINY_BUDGET);
	for (unsigned round = 0; round < 10; round++) {
		operate_beside_background(w, 40);
		struct model *model = world_any(w, false);

		if (model)
			unique_against_model(w, model);
	}
	world_fini(w);
}

static void
test_unique_is_counted_on_behind_a_fault(void **state)
{
	struct world *w = &world;
	struct map_count unique = { 0 };
	struct map_fault fault;
	unsigned leaves_max = 2;

	world_init(w, 14, LARGE_BUDGET);
	struct model *head = new_head(w);

	for (uint32_t i = 0; i < 3; i++)
		world_write(w, head, i * MAP_FANOUT, 3);
	assert_int_equal(
	    map_count_unique(&w->nodes, world_map(w, head), NULL, 0, &leaves_max, &unique, &fault),
	    MAP_OK);
	assert_int_equal(leaves_max, 0);
	assert_false(unique.done);
	assert_int_equal(unique.blocks, 6);
	world_checkpoint(w);
	world_crash(w);
	head = world_any(w, true);
	leaves_max = 1000;
	assert_int_equal(
	    map_count_unique(&w->nodes, world_map(w, head), NULL, 0, &leaves_max, &unique, &fault),
	    MAP_FAULT);
	world_compare(w); /* brings everything in */
	assert_int_equal(
	    map_count_unique(&w->nodes, world_map(w, head), NULL, 0, &leaves_max, &unique, &fault),
	    MAP_OK);
	assert_true(unique.done);
	assert_int_equal(unique.blocks, 9);
	world_fini(w);
}

static void
test_mapped_blocks_are_counted(void **state)
{
	struct world *w = &world;

	world_init(w, 15, TINY_BUDGET);
	for (unsigned i = 0; i < 400; i++) {
		world_operate(w);
		/* A count that waits for a trim to be freed is not exact until then. */
		reap_all(w);
		if (i % 16 == 0)
			check_mapped(w);
	}
	world_fini(w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_new_map_is_all_holes),
		cmocka_unit_test(test_map_grows_by_levels_and_keeps_what_it_held),
		cmocka_unit_test(test_overwritten_block_is_dead_unless_a_snapshot_has_it),
		cmocka_unit_test(test_snapshot_costs_no_nodes_and_never_changes),
		cmocka_unit_test(test_rollback_brings_the_snapshot_back),
		cmocka_unit_test(test_large_trim_makes_an_image_that_is_reaped),
		cmocka_unit_test(test_deleted_image_with_two_children_waits),
		cmocka_unit_test(test_faults_name_the_node_that_is_missing),
		cmocka_unit_test(test_operations_agree_with_the_model),
		cmocka_unit_test(test_operations_agree_under_eviction_and_checkpoints),
		cmocka_unit_test(test_crashes_lose_nothing_and_leak_nothing),
		cmocka_unit_test(test_diff_finds_exactly_what_differs),
		cmocka_unit_test(test_diff_passes_over_what_is_shared),
		cmocka_unit_test(test_runs_end_where_holes_begin_and_end),
		cmocka_unit_test(test_run_looks_at_no_more_leaves_than_asked),
		cmocka_unit_test(test_unique_blocks_are_those_that_no_other_has),
		cmocka_unit_test(test_unique_is_counted_on_behind_a_fault),
		cmocka_unit_test(test_mapped_blocks_are_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
