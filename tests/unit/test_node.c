/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes: their states, who holds them, what a checkpoint writes, what is evicted and what not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "core/base/crc32c.h"
#include "metadata/node.h"

static const struct uuid uuid = { { 1 } };
static struct space space;
static struct nodes nodes;
static uint32_t slot;
static uint8_t block[FORMAT_BLOCK_BYTES];

static int
setup(void **state)
{
	space_init(&space, SLAB_BLOCKS_MAX, 1);
	space_add_device(&space, 0, &uuid, 512, 4);
	space_open_slab(&space, space_pick(&space, 0, 0), 1);
	slot = 1;
	nodes_init(&nodes, &space, 0); /* the least: 64 nodes */
	return 0;
}

static int
teardown(void **state)
{
	nodes_fini(&nodes);
	space_fini(&space);
	return 0;
}

/* Writes all frozen nodes; returns how many. */
static unsigned
write_frozen(void)
{
	unsigned written = 0;
	struct node *node;
	uint8_t last_level = 0;

	while ((node = nodes_next_frozen(&nodes))) {
		struct baddr addr = baddr_make(1, slot++);
		uint32_t crc;

		assert_true(node->level >= last_level); /* children first */
		last_level = node->level;
		crc = node_encode(&nodes, node, addr, block);
		assert_int_equal(crc, crc32c(0, block, FORMAT_BLOCK_BYTES) ^ baddr_crc_mix(addr));
		node_written(&nodes, node);
		written++;
	}
	return written;
}

static unsigned
checkpoint(void)
{
	nodes_freeze(&nodes);
	return write_frozen();
}

/* A leaf on disk at the address that @entry gets; it is not in memory. */
static void
leaf_on_disk(struct map_entry *entry)
{
	entry->addr = baddr_make(1, slot++).n;
	entry->epoch = 1;
	entry->crc = 7;
	space_mark_live(&space, (struct baddr){ entry->addr });
}

static void
load(const struct map_entry *entry)
{
	memset(block, 0, sizeof(block));
	((struct map_entry *)block)[3].addr = entry->addr + 1000;
	node_insert(&nodes, entry, 0, block);
}

static void
test_new_node_is_dirty_and_empty(void **state)
{
	struct map_entry entry;
	struct node *node = node_create(&nodes, &entry, 2, 9);

	assert_true(entry.addr & NODE_VIRTUAL);
	assert_ptr_equal(node_find(&nodes, &entry), node);
	assert_int_equal(node->state, NODE_DIRTY);
	assert_int_equal(node->level, 2);
	assert_int_equal(entry.epoch, 9);
	assert_int_equal(nodes.dirty_count, 1);
	for (unsigned i = 0; i < MAP_FANOUT; i++)
		assert_int_equal(node->entries[i].addr, 0);
	assert_ptr_equal(node_make_dirty(&nodes, &entry, true, 10), node);
	assert_int_equal(entry.epoch, 10);
	node_release(&nodes, &entry);
	assert_int_equal(entry.addr, 0);
	assert_int_equal(nodes.in_use, 0);
	assert_int_equal(nodes.dirty_count, 0);
}

static void
test_written_node_gets_its_address_where_it_is_held(void **state)
{
	struct map_entry root;
	struct node *top = node_create(&nodes, &root, 1, 1);
	struct node *leaf = node_create(&nodes, &top->entries[5], 0, 1);

	leaf->entries[9] = (struct map_entry){ 1234, 1, 5678 };
	assert_int_equal(checkpoint(), 2);
	/* The parent was written last, with the child's address in it. */
	assert_true(((struct map_entry *)block)[5].addr == baddr_make(1, 1).n);
	assert_int_equal(((struct map_entry *)block)[5].crc, leaf->crc);
	assert_true(root.addr & NODE_VIRTUAL);
	node_settle(&nodes, &root);
	assert_true(root.addr == baddr_make(1, 2).n);
	assert_ptr_equal(node_find(&nodes, &root), top);
	assert_int_equal(top->state, NODE_CLEAN);
	assert_int_equal(space.live_blocks, 2);
	assert_int_equal(nodes.frozen_count, 0);
}

static void
test_missing_node_is_not_found_until_it_is_loaded(void **state)
{
	struct map_entry entry;
	struct node *node;

	leaf_on_disk(&entry);
	assert_null(node_find(&nodes, &entry));
	load(&entry);
	node = node_find(&nodes, &entry);
	assert_non_null(node);
	assert_true(node->entries[3].addr == entry.addr + 1000);
	load(&entry); /* another load of the same: no second one */
	assert_ptr_equal(node_find(&nodes, &entry), node);
	assert_int_equal(nodes.in_use, 1);
}

static void
test_clean_node_of_one_owner_is_changed_in_place_and_replaces_its_block(void **state)
{
	struct map_entry entry;
	struct baddr old;
	struct node *node;

	leaf_on_disk(&entry);
	old.n = entry.addr;
	load(&entry);
	node = node_find(&nodes, &entry);
	assert_ptr_equal(node_make_dirty(&nodes, &entry, true, 2), node);
	assert_true(space_is_live(&space, old)); /* the last checkpoint needs it */
	checkpoint();
	assert_false(space_is_live(&space, old));
	node_settle(&nodes, &entry);
	assert_true(space_is_live(&space, (struct baddr){ entry.addr }));
	assert_int_equal(space.live_blocks, 1);
}

static void
test_shared_clean_node_is_copied_and_its_block_lives(void **state)
{
	struct map_entry entry, other;
	struct node *node, *copy;

	leaf_on_disk(&entry);
	other = entry;
	load(&entry);
	node = node_find(&nodes, &entry);
	copy = node_make_dirty(&nodes, &entry, false, 2);
	assert_ptr_not_equal(copy, node);
	copy->entries[3].addr = 1;
	assert_true(node->entries[3].addr == other.addr + 1000);
	checkpoint();
	assert_true(space_is_live(&space, (struct baddr){ other.addr }));
	assert_int_equal(space.live_blocks, 2);
}

static void
test_change_of_a_frozen_node_does_not_reach_the_checkpoint(void **state)
{
	struct map_entry entry;
	struct node *node = node_create(&nodes, &entry, 0, 1);
	struct node *copy;

	node->entries[0].addr = 111;
	nodes_freeze(&nodes);
	copy = node_make_dirty(&nodes, &entry, true, 1);
	assert_ptr_not_equal(copy, node);
	copy->entries[0].addr = 222;
	assert_int_equal(write_frozen(), 1);
	assert_int_equal(((struct map_entry *)block)[0].addr, 111);
	assert_int_equal(space.live_blocks, 1);
	/* The next one writes the copy, and what it replaces is dead. */
	assert_int_equal(checkpoint(), 1);
	assert_int_equal(((struct map_entry *)block)[0].addr, 222);
	assert_int_equal(space.live_blocks, 1);
	assert_true(space_is_live(&space, baddr_make(1, 2)));
}

static void
test_condemned_frozen_node_is_written_but_never_live(void **state)
{
	struct map_entry root;
	struct node *top = node_create(&nodes, &root, 1, 1);

	node_create(&nodes, &top->entries[0], 0, 1);
	nodes_freeze(&nodes);
	struct node *copy = node_make_dirty(&nodes, &root, true, 1);

	node_condemn(&nodes, &copy->entries[0]);
	node_release(&nodes, &copy->entries[0]);
	assert_int_equal(write_frozen(), 2);
	assert_true(((struct map_entry *)block)[0].addr == baddr_make(1, 1).n);
	assert_false(space_is_live(&space, baddr_make(1, 1)));
	assert_true(space_is_live(&space, baddr_make(1, 2)));
	assert_int_equal(checkpoint(), 1);
	assert_int_equal(space.live_blocks, 1);
}

static void
test_condemned_dirty_node_kills_what_it_replaced_and_is_not_written(void **state)
{
	struct map_entry entry;
	struct baddr old;

	leaf_on_disk(&entry);
	old.n = entry.addr;
	load(&entry);
	node_make_dirty(&nodes, &entry, true, 2);
	node_condemn(&nodes, &entry);
	node_condemn(&nodes, &entry); /* twice is once */
	assert_false(space_is_live(&space, old));
	assert_int_equal(nodes.dirty_count, 0);
	assert_int_equal(checkpoint(), 0);
	node_settle(&nodes, &entry);
	assert_int_equal(entry.addr, 0);
	assert_int_equal(nodes.in_use, 0);
}

static void
test_condemned_clean_node_is_dead(void **state)
{
	struct map_entry entry;

	leaf_on_disk(&entry);
	node_condemn(&nodes, &entry);
	assert_int_equal(space.live_blocks, 0);
	node_create(&nodes, &entry, 0, 1);
	checkpoint();
	assert_int_equal(space.live_blocks, 1);
	node_condemn(&nodes, &entry); /* known by its index, has an address by now */
	assert_int_equal(space.live_blocks, 0);
	assert_false(entry.addr & NODE_VIRTUAL);
}

static void
test_dead_child_is_a_hole_in_its_parent(void **state)
{
	struct map_entry root;
	struct node *top = node_create(&nodes, &root, 1, 1);

	node_create(&nodes, &top->entries[7], 0, 1);
	node_condemn(&nodes, &top->entries[7]);
	assert_int_equal(checkpoint(), 1);
	assert_int_equal(((struct map_entry *)block)[7].addr, 0);
	assert_int_equal(nodes.in_use, 1);
}

static void
test_shared_root_lives_until_its_last_holder_lets_go(void **state)
{
	struct map_entry root, other;
	struct node *top = node_create(&nodes, &root, 1, 1);

	node_create(&nodes, &top->entries[0], 0, 1);
	other = root;
	node_share(&nodes, &other);
	assert_true(node_same(&nodes, &root, &other));
	struct node *copy = node_make_dirty(&nodes, &other, false, 2);

	assert_false(node_same(&nodes, &root, &other));
	assert_true(node_same(&nodes, &top->entries[0], &copy->entries[0]));
	assert_int_equal(nodes.in_use, 3);
	node_release(&nodes, &root);
	assert_int_equal(nodes.in_use, 2); /* the leaf is the copy's too */
	node_release(&nodes, &other);
	assert_int_equal(nodes.in_use, 0);
}

static void
test_same_node_is_known_by_index_and_by_address(void **state)
{
	struct map_entry a, b, hole = { 0 };

	node_create(&nodes, &a, 0, 1);
	b = a;
	node_share(&nodes, &b);
	checkpoint();
	node_settle(&nodes, &a);
	assert_true(a.addr != b.addr);
	assert_true(node_same(&nodes, &a, &b));
	assert_true(a.addr == b.addr);
	assert_false(node_same(&nodes, &hole, &hole));
	assert_false(node_same(&nodes, NULL, &a));
}

static void
test_freezing_one_tree_leaves_the_others(void **state)
{
	struct map_entry a, b;
	struct node *top = node_create(&nodes, &a, 1, 1);

	node_create(&nodes, &top->entries[0], 0, 1);
	node_create(&nodes, &b, 0, 1);
	nodes_freeze_tree(&nodes, &a);
	assert_int_equal(nodes.frozen_count, 2);
	assert_int_equal(nodes.dirty_count, 1);
	assert_int_equal(write_frozen(), 2);
	assert_int_equal(node_find(&nodes, &b)->state, NODE_DIRTY);
}

static void
test_oldest_clean_nodes_are_evicted_first(void **state)
{
	struct map_entry entries[100];

	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++) {
		leaf_on_disk(&entries[i]);
		load(&entries[i]);
		assert_true(nodes.in_use <= nodes.budget);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
		assert_int_equal(node_find(&nodes, &entries[i]) != NULL,
		    i >= ARRAY_SIZE(entries) - nodes.budget);
}

/* A node that is used goes to the back once, and so outlives all that were not. */
static void
test_used_nodes_outlive_the_others(void **state)
{
	struct map_entry entries[100];
	unsigned used = 3;

	for (unsigned i = 0; i < nodes.budget; i++) {
		leaf_on_disk(&entries[i]);
		load(&entries[i]);
	}
	assert_non_null(node_find(&nodes, &entries[used]));
	for (unsigned i = (unsigned)nodes.budget; i < ARRAY_SIZE(entries); i++) {
		leaf_on_disk(&entries[i]);
		load(&entries[i]);
	}
	assert_int_equal(nodes.in_use, nodes.budget);
	for (unsigned i = 0; i < ARRAY_SIZE(entries) - nodes.budget + 1; i++)
		assert_int_equal(node_find(&nodes, &entries[i]) != NULL, i == used);
}

/* However many are used all the time, the budget is kept, by a bounded walk. */
static void
test_budget_is_kept_when_all_nodes_are_used(void **state)
{
	struct map_entry entries[100];

	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++) {
		leaf_on_disk(&entries[i]);
		load(&entries[i]);
		for (unsigned k = 0; k <= i; k++)
			(void)node_find(&nodes, &entries[k]);
		assert_true(nodes.in_use <= nodes.budget);
	}
	assert_non_null(node_find(&nodes, &entries[ARRAY_SIZE(entries) - 1]));
}

static void
test_nothing_touched_since_a_pin_is_evicted(void **state)
{
	struct map_entry before, entries[100];
	struct node_pin pin;

	leaf_on_disk(&before);
	load(&before);
	node_pin_begin(&nodes, &pin);
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++) {
		leaf_on_disk(&entries[i]);
		load(&entries[i]);
	}
	assert_null(node_find(&nodes, &before)); /* older than the pin */
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
		assert_non_null(node_find(&nodes, &entries[i]));
	nodes_evict(&nodes);
	assert_int_equal(nodes.in_use, ARRAY_SIZE(entries));
	node_pin_end(&nodes, &pin);
	nodes_evict(&nodes);
	assert_int_equal(nodes.in_use, nodes.budget);
}

static void
test_dirty_nodes_and_those_being_written_are_not_evicted(void **state)
{
	struct map_entry entries[100];
	struct node *node;

	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
		node_create(&nodes, &entries[i], 0, 1);
	nodes_evict(&nodes);
	assert_int_equal(nodes.in_use, ARRAY_SIZE(entries));
	nodes_freeze(&nodes);
	while ((node = nodes_next_frozen(&nodes)))
		node_encode(&nodes, node, baddr_make(1, slot++), block);
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
		node_settle(&nodes, &entries[i]);
	nodes_evict(&nodes);
	assert_int_equal(nodes.in_use, ARRAY_SIZE(entries));
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
		node_written(&nodes, node_find(&nodes, &entries[i]));
	nodes_evict(&nodes);
	assert_int_equal(nodes.in_use, nodes.budget);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_new_node_is_dirty_and_empty),
		TEST(test_written_node_gets_its_address_where_it_is_held),
		TEST(test_missing_node_is_not_found_until_it_is_loaded),
		TEST(test_clean_node_of_one_owner_is_changed_in_place_and_replaces_its_block),
		TEST(test_shared_clean_node_is_copied_and_its_block_lives),
		TEST(test_change_of_a_frozen_node_does_not_reach_the_checkpoint),
		TEST(test_condemned_frozen_node_is_written_but_never_live),
		TEST(test_condemned_dirty_node_kills_what_it_replaced_and_is_not_written),
		TEST(test_condemned_clean_node_is_dead),
		TEST(test_dead_child_is_a_hole_in_its_parent),
		TEST(test_shared_root_lives_until_its_last_holder_lets_go),
		TEST(test_same_node_is_known_by_index_and_by_address),
		TEST(test_freezing_one_tree_leaves_the_others),
		TEST(test_oldest_clean_nodes_are_evicted_first),
		TEST(test_used_nodes_outlive_the_others),
		TEST(test_budget_is_kept_when_all_nodes_are_used),
		TEST(test_nothing_touched_since_a_pin_is_evicted),
		TEST(test_dirty_nodes_and_those_being_written_are_not_evicted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
