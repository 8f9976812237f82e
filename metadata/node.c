/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/node.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "core/base/mutant.h"

#define CHUNK_NODES (NODE_CHUNK_BYTES / FORMAT_BLOCK_BYTES)

/* An eviction passes over so many nodes at most that were used since it last met them. */
#define CHANCES 16u

struct node_chunk {
	struct node nodes[CHUNK_NODES];
	void *pages;
};

static struct node *
node_at(const struct nodes *nodes, uint64_t virtual_addr)
{
	uint64_t index = virtual_addr & ~NODE_VIRTUAL;

	CHECK(index / CHUNK_NODES < nodes->chunk_count);
	return &nodes->chunks[index / CHUNK_NODES]->nodes[index % CHUNK_NODES];
}

void
nodes_init(struct nodes *nodes, struct space *space, uint64_t budget_bytes)
{
	uint32_t buckets = 1024;

	memset(nodes, 0, sizeof(*nodes));
	nodes->space = space;
	nodes->budget = max_u64(budget_bytes / FORMAT_BLOCK_BYTES, 64);
	while (buckets < nodes->budget && buckets < 1u << 24)
		buckets *= 2;
	nodes->bucket_mask = buckets - 1;
	nodes->buckets = xcalloc(buckets, sizeof(uint32_t));
	list_init(&nodes->unused);
	list_init(&nodes->clean);
	list_init(&nodes->pins);
	for (unsigned level = 0; level < MAP_LEVELS_MAX; level++) {
		list_init(&nodes->dirty[level]);
		list_init(&nodes->frozen[level]);
	}
}

void
nodes_fini(struct nodes *nodes)
{
	for (uint32_t i = 0; i < nodes->chunk_count; i++) {
		munmap(nodes->chunks[i]->pages, NODE_CHUNK_BYTES);
		free(nodes->chunks[i]);
	}
	free(nodes->chunks);
	free(nodes->buckets);
}

/* --- memory --- */

static void
add_chunk(struct nodes *nodes)
{
	struct node_chunk *chunk = xalloc_pages(sizeof(*chunk));
	size_t bytes = NODE_CHUNK_BYTES;

	chunk->pages =
	    mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (chunk->pages == MAP_FAILED)
		out_of_memory(bytes);
	/* A hint only: a lookup touches one line of a random node, so TLB misses are what it costs.
	 */
	(void)madvise(chunk->pages, bytes, MADV_HUGEPAGE);
	nodes->chunks =
	    xrealloc(nodes->chunks, (nodes->chunk_count + 1) * sizeof(struct node_chunk *));
	nodes->chunks[nodes->chunk_count] = chunk;
	for (uint32_t i = 0; i < CHUNK_NODES; i++) {
		struct node *node = &chunk->nodes[i];

		node->index = nodes->chunk_count * CHUNK_NODES + i;
		node->entries =
		    (struct map_entry *)((char *)chunk->pages + (size_t)i * FORMAT_BLOCK_BYTES);
		list_push_back(&nodes->unused, &node->link);
	}
	nodes->chunk_count++;
}

static void touch(struct nodes *nodes, struct node *node);
static void evict_one(struct nodes *nodes);

static struct node *
take_unused(struct nodes *nodes, uint8_t level, uint8_t state)
{
	struct node *node;

	if (nodes->in_use >= nodes->budget)
		evict_one(nodes);
	if (list_empty(&nodes->unused))
		add_chunk(nodes);
	node = list_first(&nodes->unused, struct node, link);
	list_remove(&node->link);
	node->addr = 0;
	node->hash_next = 0;
	node->refs = 0;
	node->crc = 0;
	node->level = level;
	node->state = state;
	node->condemned = false;
	node->writing = false;
	node->last_used = nodes->clock;
	nodes->in_use++;
	return node;
}

static void
give_back(struct nodes *nodes, struct node *node)
{
	CHECK(node->refs == 0);
	list_remove(&node->link);
	node->state = NODE_UNUSED;
	nodes->in_use--;
	list_push_front(&nodes->unused, &node->link);
}

/* --- the hash of clean nodes --- */

static uint32_t *
bucket_of(struct nodes *nodes, uint64_t addr)
{
	return &nodes->buckets[mix64(addr) & nodes->bucket_mask];
}

static void
hash_add(struct nodes *nodes, struct node *node)
{
	uint32_t *bucket = bucket_of(nodes, node->addr);

	node->hash_next = *bucket;
	*bucket = node->index + 1;
}

static void
hash_remove(struct nodes *nodes, struct node *node)
{
	uint32_t *at = bucket_of(nodes, node->addr);

	while (*at != node->index + 1) {
		CHECK(*at);
		at = &node_at(nodes, *at - 1)->hash_next;
	}
	*at = node->hash_next;
	node->hash_next = 0;
}

static struct node *
hash_find(struct nodes *nodes, uint64_t addr)
{
	uint32_t at = *bucket_of(nodes, addr);

	while (at) {
		struct node *node = node_at(nodes, at - 1);

		if (node->addr == addr)
			return node;
		at = node->hash_next;
	}
	return NULL;
}

/* --- use and eviction --- */

static void
touch(struct nodes *nodes, struct node *node)
{
	/* Whoever only reads leaves the line clean. */
	if (node->last_used != nodes->clock)
		node->last_used = nodes->clock;
	if (!node->used)
		node->used = true;
}

/* A CLEAN node that nobody holds may be evicted from now on. */
static void
offer(struct nodes *nodes, struct node *node)
{
	if (node->state == NODE_CLEAN && node->refs == 0 && !node->writing &&
	    list_empty(&node->link)) {
		node->last_used = nodes->clock;
		node->used = false;
		list_push_back(&nodes->clean, &node->link);
	}
}

void
node_pin_begin(struct nodes *nodes, struct node_pin *pin)
{
	pin->stamp = ++nodes->clock;
	list_push_back(&nodes->pins, &pin->link);
}

void
node_pin_end(struct nodes *nodes, struct node_pin *pin)
{
	(void)nodes;
	list_remove(&pin->link);
}

static void
drop_clean(struct nodes *nodes, struct node *node)
{
	hash_remove(nodes, node);
	give_back(nodes, node);
}

static bool
evictable(const struct nodes *nodes, const struct node *node)
{
	return MUTANT(PIN_IGNORED) || list_empty(&nodes->pins) ||
	       node->last_used < list_first(&nodes->pins, struct node_pin, link)->stamp;
}

static void
evict_one(struct nodes *nodes)
{
	for (unsigned i = 0; i <= CHANCES && !list_empty(&nodes->clean); i++) {
		struct node *node = list_first(&nodes->clean, struct node, link);

		if ((!node->used || i == CHANCES) && evictable(nodes, node)) {
			drop_clean(nodes, node);
			return;
		}
		node->used = false;
		list_remove(&node->link);
		list_push_back(&nodes->clean, &node->link);
	}
}

void
nodes_evict(struct nodes *nodes)
{
	while (nodes->in_use > nodes->budget) {
		uint64_t before = nodes->in_use;

		evict_one(nodes);
		if (nodes->in_use == before)
			return;
	}
}

/* --- references --- */

/* A virtual entry whose node has its address gets it, and so lets go of the node. */
static void
resolve(struct nodes *nodes, struct map_entry *entry, struct node *node)
{
	CHECK(node->state == NODE_CLEAN && node->refs > 0);
	entry->addr = node->addr;
	entry->crc = node->crc;
	entry->epoch = node->epoch;
	node->refs--;
	offer(nodes, node);
}

struct node *
node_find(struct nodes *nodes, struct map_entry *entry)
{
	struct node *node;

	CHECK(entry->addr);
	if (entry->addr & NODE_VIRTUAL) {
		node = node_at(nodes, entry->addr);
		if (node->state == NODE_CLEAN)
			resolve(nodes, entry, node);
	} else {
		node = hash_find(nodes, entry->addr);
	}
	if (node)
		touch(nodes, node);
	return node;
}

void
node_settle(struct nodes *nodes, struct map_entry *entry)
{
	if (!(entry->addr & NODE_VIRTUAL))
		return;
	struct node *node = node_at(nodes, entry->addr);

	if (node->state == NODE_CLEAN)
		resolve(nodes, entry, node);
	else if (node->state == NODE_DEAD)
		node_release(nodes, entry);
}

bool
node_same(struct nodes *nodes, struct map_entry *a, struct map_entry *b)
{
	if (!a || !b || !a->addr || !b->addr)
		return false;
	node_settle(nodes, a);
	node_settle(nodes, b);
	return a->addr && a->addr == b->addr;
}

void
node_insert(struct nodes *nodes, const struct map_entry *entry, uint8_t level, const void *block)
{
	struct node *node;

	CHECK(entry->addr && !(entry->addr & NODE_VIRTUAL));
	if (hash_find(nodes, entry->addr))
		return;
	node = take_unused(nodes, level, NODE_CLEAN);
	memcpy(node->entries, block, FORMAT_BLOCK_BYTES);
	node->addr = entry->addr;
	node->crc = entry->crc;
	node->epoch = entry->epoch;
	hash_add(nodes, node);
	offer(nodes, node);
}

static void
enter_dirty(struct nodes *nodes, struct node *node)
{
	node->state = NODE_DIRTY;
	list_push_back(&nodes->dirty[node->level], &node->link);
	nodes->dirty_count++;
}

static void
point_to(struct map_entry *entry, struct node *node)
{
	entry->addr = NODE_VIRTUAL | node->index;
	entry->epoch = node->epoch;
	entry->crc = 0;
	node->refs++;
}

struct node *
node_create(struct nodes *nodes, struct map_entry *entry, uint8_t level, uint32_t epoch)
{
	struct node *node = take_unused(nodes, level, NODE_UNUSED);

	memset(node->entries, 0, FORMAT_BLOCK_BYTES);
	node->epoch = epoch;
	enter_dirty(nodes, node);
	point_to(entry, node);
	return node;
}

void
node_share(struct nodes *nodes, const struct map_entry *entry)
{
	if (entry->addr & NODE_VIRTUAL) {
		struct node *node = node_at(nodes, entry->addr);

		if (node->state == NODE_CLEAN && !list_empty(&node->link))
			list_remove(&node->link);
		node->refs++;
	}
}

/* Lets go of one reference; what nobody needs is freed, its children with it. */
static void
unref(struct nodes *nodes, struct node *node)
{
	CHECK(node->refs > 0);
	if (--node->refs > 0)
		return;
	switch ((enum node_state)node->state) {
	case NODE_CLEAN:
		offer(nodes, node);
		return;
	case NODE_FROZEN:
		return; /* until it is written */
	case NODE_DIRTY:
		nodes->dirty_count--;
		break;
	case NODE_DEAD:
		break;
	case NODE_UNUSED:
		CHECK(false);
	}
	for (unsigned i = 0; node->level > 0 && i < MAP_FANOUT; i++)
		if (node->entries[i].addr & NODE_VIRTUAL)
			unref(nodes, node_at(nodes, node->entries[i].addr));
	if (node->replaces & NODE_VIRTUAL)
		unref(nodes, node_at(nodes, node->replaces));
	node->replaces = 0;
	give_back(nodes, node);
}

/* What @node stood for on disk is not needed by the state that comes. */
static void
kill_replaced(struct nodes *nodes, struct node *node)
{
	uint64_t addr = node->replaces;

	node->replaces = 0;
	if (addr & NODE_VIRTUAL) {
		struct node *old = node_at(nodes, addr);

		if (old->state == NODE_CLEAN)
			space_mark_node_dead(nodes->space, (struct baddr){ old->addr });
		else
			old->condemned = true;
		unref(nodes, old);
	} else if (addr && !MUTANT(REPLACED_LEAKS)) {
		space_mark_node_dead(nodes->space, (struct baddr){ addr });
	}
}

void
node_condemn(struct nodes *nodes, struct map_entry *entry)
{
	if (!(entry->addr & NODE_VIRTUAL)) {
		space_mark_node_dead(nodes->space, (struct baddr){ entry->addr });
		return;
	}
	struct node *node = node_at(nodes, entry->addr);

	switch ((enum node_state)node->state) {
	case NODE_CLEAN:
		resolve(nodes, entry, node);
		space_mark_node_dead(nodes->space, (struct baddr){ entry->addr });
		return;
	case NODE_FROZEN:
		node->condemned = true;
		return;
	case NODE_DIRTY:
		kill_replaced(nodes, node);
		list_remove(&node->link);
		nodes->dirty_count--;
		node->state = NODE_DEAD;
		return;
	case NODE_DEAD:
		return;
	case NODE_UNUSED:
		CHECK(false);
	}
}

void
node_release(struct nodes *nodes, struct map_entry *entry)
{
	if (entry->addr & NODE_VIRTUAL)
		unref(nodes, node_at(nodes, entry->addr));
	memset(entry, 0, sizeof(*entry));
}

static struct node *
copy_node(struct nodes *nodes, struct node *from, uint32_t epoch)
{
	struct node *node = take_unused(nodes, from->level, NODE_UNUSED);

	memcpy(node->entries, from->entries, FORMAT_BLOCK_BYTES);
	for (unsigned i = 0; node->level > 0 && i < MAP_FANOUT; i++)
		node_share(nodes, &node->entries[i]);
	node->epoch = epoch;
	enter_dirty(nodes, node);
	return node;
}

struct node *
node_make_dirty(struct nodes *nodes, struct map_entry *entry, bool exclusive, uint32_t epoch)
{
	struct node *node = node_find(nodes, entry);
	struct node *copy;

	CHECK(node && node->state != NODE_DEAD);
	if (exclusive &&
	    (node->state == NODE_DIRTY || (node->state == NODE_FROZEN && MUTANT(FROZEN_CHANGED)))) {
		node->epoch = epoch;
		entry->epoch = epoch;
		return node;
	}
	/* A CLEAN node that older parents still hold by index keeps its address for them. */
	if (exclusive && node->state == NODE_CLEAN && node->refs == 0) {
		hash_remove(nodes, node);
		list_remove(&node->link);
		node->epoch = epoch; /* and `replaces` what it was */
		enter_dirty(nodes, node);
		point_to(entry, node);
		return node;
	}
	/* `node` must outlive the allocation: hold it. */
	node->refs++;
	if (!list_empty(&node->link) && node->state == NODE_CLEAN)
		list_remove(&node->link);
	copy = copy_node(nodes, node, epoch);
	if (exclusive) {
		if (node->state == NODE_CLEAN) {
			copy->replaces = node->addr;
		} else {
			copy->replaces = NODE_VIRTUAL | node->index;
			node->refs++;
		}
	}
	if (entry->addr & NODE_VIRTUAL)
		unref(nodes, node);
	point_to(entry, copy);
	unref(nodes, node);
	return copy;
}

/* --- checkpoint --- */

void
nodes_freeze(struct nodes *nodes)
{
	CHECK(nodes->frozen_count == 0);
	for (unsigned level = 0; level < MAP_LEVELS_MAX; level++) {
		list_for_each(link, &nodes->dirty[level]) {
			container_of(link, struct node, link)->state = NODE_FROZEN;
		}
		list_splice_back(&nodes->frozen[level], &nodes->dirty[level]);
	}
	nodes->frozen_count = nodes->dirty_count;
	nodes->dirty_count = 0;
}

void
nodes_freeze_tree(struct nodes *nodes, const struct map_entry *root)
{
	struct node *node;

	if (!(root->addr & NODE_VIRTUAL))
		return;
	node = node_at(nodes, root->addr);
	if (node->state != NODE_DIRTY)
		return;
	node->state = NODE_FROZEN;
	list_remove(&node->link);
	list_push_back(&nodes->frozen[node->level], &node->link);
	nodes->dirty_count--;
	nodes->frozen_count++;
	for (unsigned i = 0; node->level > 0 && i < MAP_FANOUT; i++)
		nodes_freeze_tree(nodes, &node->entries[i]);
}

struct node *
nodes_next_frozen(struct nodes *nodes)
{
	for (unsigned i = 0; i < MAP_LEVELS_MAX; i++) {
		unsigned level = MUTANT(NODES_UNORDERED) ? MAP_LEVELS_MAX - 1 - i : i;

		if (!list_empty(&nodes->frozen[level]))
			return list_first(&nodes->frozen[level], struct node, link);
	}
	return NULL;
}

uint32_t
node_encode(struct nodes *nodes, struct node *node, struct baddr addr, void *block)
{
	CHECK(node->state == NODE_FROZEN);
	for (unsigned i = 0; node->level > 0 && i < MAP_FANOUT; i++) {
		struct map_entry *entry = &node->entries[i];

		if (!(entry->addr & NODE_VIRTUAL))
			continue;
		struct node *child = node_at(nodes, entry->addr);

		if (child->state == NODE_DEAD)
			node_release(nodes, entry);
		else
			resolve(nodes, entry, child);
	}
	memcpy(block, node->entries, FORMAT_BLOCK_BYTES);
	kill_replaced(nodes, node);
	list_remove(&node->link);
	nodes->frozen_count--;
	node->state = NODE_CLEAN;
	node->addr = addr.n;
	node->crc = baddr_block_crc(addr, block);
	node->writing = true;
	if (!node->condemned || MUTANT(CONDEMNED_LIVE))
		space_mark_live(nodes->space, addr);
	node->condemned = false;
	hash_add(nodes, node);
	return node->crc;
}

void
node_written(struct nodes *nodes, struct node *node)
{
	node->writing = false;
	offer(nodes, node);
}
