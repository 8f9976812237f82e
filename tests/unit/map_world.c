/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/map_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "core/base/crc32c.h"

static const uint64_t island_base[WORLD_ISLANDS] = {
	0,
	1024,
	65536 - 384, /* over the edge of two levels */
	3 * 65536,
	200 * 65536 + 128,
	(1 << 24) - 300, /* ... and of three */
	2 * (1 << 24) + 77,
	3 * (1 << 24),
};

uint64_t
world_random(struct world *w, uint64_t below)
{
	w->seed += 0x9e3779b97f4a7c15ull;
	return mix64(w->seed) % below;
}

uint64_t
world_lba(uint32_t index)
{
	return island_base[index / WORLD_ISLAND_BLOCKS] + index % WORLD_ISLAND_BLOCKS;
}

/* --- the log --- */

static void
open_segment(struct world *w)
{
	w->slab = space_pick(&w->space, 0, 0);
	assert_non_null(w->slab);
	w->segment = w->next_segment++;
	w->slot = 0;
	space_open_slab(&w->space, w->slab, w->segment);
	w->segment_of[w->slab->index] = w->segment;
}

/* A batch with room for @blocks in this segment. */
static struct logged *
batch_new(struct world *w, uint32_t blocks)
{
	struct logged *logged = xcalloc(1, sizeof(*logged));

	assert_in_range(blocks, 0, WORLD_SLAB_BLOCKS - 1);
	if (w->slot + 1 + blocks > WORLD_SLAB_BLOCKS) {
		space_seal_slab(&w->space, w->slab, 0);
		open_segment(w);
	}
	logged->slab = w->slab->index;
	batch_begin(&logged->header, w->segment, w->slot);
	return logged;
}

static const void *
op_block(void *context, uint32_t index)
{
	static struct catalog_op block[CATALOG_OPS_PER_BLOCK];
	const struct logged *logged = context;

	assert_int_equal(index, 0);
	block[0] = logged->op;
	return block;
}

static void
append(struct world *w, struct logged *logged)
{
	logged->header.crc = batch_crc(&logged->header, &w->uuid);
	w->slot += 1 + logged->header.block_count;
	w->log = xrealloc(w->log, (w->log_count + 1) * sizeof(*w->log));
	w->log[w->log_count++] = logged;
}

static void
append_and_apply(struct world *w, struct logged *logged)
{
	append(w, logged);
	assert_int_equal(batch_apply(&w->catalog, &logged->header, op_block, logged, 0), 0);
}

static void
disk_put(struct world *w, struct baddr addr, const void *block)
{
	void *copy = xmalloc(FORMAT_BLOCK_BYTES);

	memcpy(copy, block, FORMAT_BLOCK_BYTES);
	assert_null(table_get(&w->disk, addr.n));
	table_set(&w->disk, addr.n, copy);
}

/* A block of the checkpoint, to be encoded for the address that is returned. */
static struct baddr
append_block(struct world *w, uint32_t crc, struct logged *logged)
{
	struct baddr addr = batch_next_addr(&logged->header);

	batch_add_blocks(&logged->header, BATCH_NODE, 0, w->cut.checkpoint, 1, &crc);
	append(w, logged);
	return addr;
}

void
world_load(struct world *w, const struct map_fault *fault)
{
	const void *block = table_get(&w->disk, fault->entry.addr);
	uint32_t crc;

	if (!block)
		fail_msg("node %llx is not on disk", (unsigned long long)fault->entry.addr);
	crc = crc32c(0, block, FORMAT_BLOCK_BYTES) ^
	      baddr_crc_mix((struct baddr){ fault->entry.addr });
	assert_int_equal(crc, fault->entry.crc);
	node_insert(&w->nodes, &fault->entry, fault->level, block);
	w->faults++;
}

/* --- the model --- */

struct model *
world_model(struct world *w, uint64_t id)
{
	for (unsigned i = 0; i < WORLD_IMAGES_MAX; i++)
		if (w->models[i].id == id)
			return &w->models[i];
	print_error("there is no model of image %llu\n", (unsigned long long)id);
	abort();
}

static struct model *
model_new(struct world *w, uint64_t id, const struct model *from, bool head, uint64_t volume)
{
	struct model *model = world_model(w, 0);

	if (from)
		memcpy(model->addrs, from->addrs, sizeof(model->addrs));
	else
		memset(model->addrs, 0, sizeof(model->addrs));
	model->id = id;
	model->head = head;
	model->volume = volume;
	return model;
}

unsigned
world_count(const struct world *w, bool heads_only)
{
	unsigned n = 0;

	for (unsigned i = 0; i < WORLD_IMAGES_MAX; i++)
		n += w->models[i].id && (w->models[i].head || !heads_only);
	return n;
}

struct model *
world_any(struct world *w, bool heads_only)
{
	unsigned count = world_count(w, heads_only);
	uint64_t n = count ? world_random(w, count) : 0;

	for (unsigned i = 0; i < WORLD_IMAGES_MAX && count; i++)
		if (w->models[i].id && (w->models[i].head || !heads_only) && n-- == 0)
			return &w->models[i];
	return NULL;
}

struct map *
world_map(struct world *w, const struct model *model)
{
	struct image *image = catalog_image(&w->catalog, model->id);

	assert_non_null(image);
	return &image->map;
}

/* --- operations --- */

static void
operate(struct world *w, struct catalog_op *op)
{
	struct logged *logged = batch_new(w, 1);
	uint32_t crc = 0;

	op->created_s = 1;
	logged->op = *op;
	batch_add_blocks(&logged->header, BATCH_CATALOG, 0, 1, 1, &crc);
	append_and_apply(w, logged);
}

static void
name_op(struct world *w, struct catalog_op *op)
{
	snprintf(op->name, sizeof(op->name), "n%llu", (unsigned long long)++w->names);
}

uint64_t
world_create_volume(struct world *w)
{
	struct catalog_op op = {
		.type = CATALOG_OP_VOLUME_CREATE,
		.size_bytes = WORLD_LBA_END * FORMAT_BLOCK_BYTES,
	};
	uint64_t volume = w->catalog.next_id;

	name_op(w, &op);
	operate(w, &op);
	return model_new(w, volume + 1, NULL, true, volume)->id;
}

uint64_t
world_snapshot(struct world *w, const struct model *head)
{
	struct catalog_op op = { .type = CATALOG_OP_SNAPSHOT_CREATE, .volume = head->volume };
	uint64_t id = w->catalog.next_id;

	name_op(w, &op);
	operate(w, &op);
	return model_new(w, id, head, false, head->volume)->id;
}

uint64_t
world_clone(struct world *w, const struct model *snapshot)
{
	struct catalog_op op = { .type = CATALOG_OP_CLONE, .image = snapshot->id };
	uint64_t volume = w->catalog.next_id;

	name_op(w, &op);
	operate(w, &op);
	return model_new(w, volume + 1, snapshot, true, volume)->id;
}

uint64_t
world_rollback(struct world *w, struct model *head, const struct model *snapshot)
{
	struct catalog_op op = {
		.type = CATALOG_OP_ROLLBACK,
		.volume = head->volume,
		.image = snapshot->id,
	};

	memcpy(head->addrs, snapshot->addrs, sizeof(head->addrs));
	head->id = w->catalog.next_id;
	operate(w, &op);
	return head->id;
}

void
world_delete_snapshot(struct world *w, struct model *snapshot)
{
	struct catalog_op op = { .type = CATALOG_OP_SNAPSHOT_DELETE, .image = snapshot->id };

	operate(w, &op);
	snapshot->id = 0;
}

void
world_delete_volume(struct world *w, struct model *head)
{
	struct catalog_op op = { .type = CATALOG_OP_VOLUME_DELETE, .volume = head->volume };
	uint64_t volume = head->volume;

	operate(w, &op);
	for (unsigned i = 0; i < WORLD_IMAGES_MAX; i++)
		if (w->models[i].volume == volume)
			w->models[i].id = 0;
}

static void
disturb(struct world *w, struct model *head)
{
	if (!w->may_disturb)
		return;
	for (unsigned n = (unsigned)world_random(w, 4); n > 0; n--)
		world_background(w);
	/* Others' changes, and what makes shared what was prepared. */
	if (world_random(w, 8) == 0 && world_count(w, false) < WORLD_IMAGES_MAX / 2)
		world_snapshot(w, head);
}

void
world_write(struct world *w, struct model *head, uint32_t index, uint32_t count)
{
	uint32_t crcs[WORLD_SLAB_BLOCKS];
	struct node_pin pin;
	struct map_fault fault;
	struct image *image = catalog_image(&w->catalog, head->id);
	uint64_t lba = world_lba(index);

	assert_true(index % WORLD_ISLAND_BLOCKS + count <= WORLD_ISLAND_BLOCKS);
	node_pin_begin(&w->nodes, &pin);
	while (map_prepare_write(&w->nodes, image, lba, count, &fault) == MAP_FAULT)
		world_load(w, &fault);
	disturb(w, head);
	struct logged *logged = batch_new(w, count);
	struct baddr addr = batch_next_addr(&logged->header);

	for (uint32_t i = 0; i < count; i++) {
		crcs[i] = (uint32_t)mix64(addr.n + i);
		head->addrs[index + i] = addr.n + i;
	}
	batch_add_blocks(&logged->header, BATCH_WRITE, head->id, lba, count, crcs);
	append_and_apply(w, logged);
	node_pin_end(&w->nodes, &pin);
}

void
world_zero(struct world *w, struct model *head, uint64_t lba, uint64_t count)
{
	struct node_pin pin;
	struct map_fault fault;
	struct image *image = catalog_image(&w->catalog, head->id);

	node_pin_begin(&w->nodes, &pin);
	while (map_prepare_zero(&w->nodes, image, lba, count, &fault) == MAP_FAULT)
		world_load(w, &fault);
	disturb(w, head);
	struct logged *logged = batch_new(w, 0);

	batch_add_zero(&logged->header, head->id, lba, count);
	append_and_apply(w, logged);
	node_pin_end(&w->nodes, &pin);
	for (uint32_t i = 0; i < WORLD_BLOCKS; i++)
		if (world_lba(i) >= lba && world_lba(i) - lba < count)
			head->addrs[i] = 0;
}

/* A range that covers leaves and larger subtrees wholly as often as partly. */
static void
zero_by_chance(struct world *w, struct model *head)
{
	uint32_t index = (uint32_t)world_random(w, WORLD_BLOCKS);
	uint64_t lba = world_lba(index);

	switch (world_random(w, 5)) {
	case 0: /* within a leaf or two */
		world_zero(w, head, lba, 1 + world_random(w, 200));
		return;
	case 1: /* whole leaves at once, and their neighbours */
		lba = round_down(lba, MAP_FANOUT);
		world_zero(w, head, lba, MAP_FANOUT * (1 + world_random(w, 4)));
		return;
	case 2: /* larger than what is done inline */
		world_zero(w, head, lba, MAP_ZERO_INLINE_BLOCKS + 1 + world_random(w, 70000));
		return;
	case 3: /* whole subtrees */
		lba = round_down(lba, 65536);
		world_zero(w, head, lba, 65536 * (1 + world_random(w, 300)));
		return;
	case 4: /* from here to the end, or everything */
		if (world_random(w, 3))
			return;
		lba = world_random(w, 2) ? lba : 0;
		world_zero(w, head, lba, WORLD_LBA_END - lba);
		return;
	}
}

void
world_operate(struct world *w)
{
	struct model *head = world_any(w, true);
	uint64_t what = world_random(w, 100);

	if (!head || (what == 0 && world_count(w, true) < 4)) {
		world_create_volume(w);
	} else if (what < 60) {
		uint32_t index = (uint32_t)world_random(w, WORLD_BLOCKS);
		uint32_t most = WORLD_ISLAND_BLOCKS - index % WORLD_ISLAND_BLOCKS;
		uint64_t count =
		    1 + world_random(w, world_random(w, 3) ? 8 : WORLD_SLAB_BLOCKS - 1);

		world_write(w, head, index, (uint32_t)min_u64(count, most));
	} else if (what < 80) {
		zero_by_chance(w, head);
	} else if (what < 88) {
		if (world_count(w, false) < 16)
			world_snapshot(w, head);
	} else {
		struct model *image = world_any(w, false);

		if (image->head && what == 99)
			world_delete_volume(w, image);
		else if (image->head)
			return;
		else if (what < 95)
			world_delete_snapshot(w, image);
		else if (what < 97 && world_count(w, false) < 16)
			world_clone(w, image);
		else
			for (unsigned i = 0; i < WORLD_IMAGES_MAX; i++)
				if (w->models[i].id && w->models[i].head &&
				    w->models[i].volume == image->volume) {
					world_rollback(w, &w->models[i], image);
					return;
				}
	}
}

void
world_background(struct world *w)
{
	switch (world_random(w, 5)) {
	case 0:
		if (!w->cutting && world_random(w, 4) == 0)
			world_checkpoint_cut(w);
		return;
	case 1:
	case 2:
		if (w->cutting)
			for (uint64_t n = world_random(w, 6); n > 0; n--)
				world_checkpoint_node(w);
		if (w->cutting && w->nodes.frozen_count == 0 && world_random(w, 4) == 0)
			world_checkpoint_end(w, true);
		return;
	case 3:
		if (!w->cutting)
			(void)world_reap(w, 1 + (unsigned)world_random(w, 8));
		return;
	case 4:
		nodes_evict(&w->nodes);
		return;
	}
}

bool
world_reap(struct world *w, unsigned nodes_max)
{
	struct image *image = map_reap_next(&w->catalog);
	struct map_fault fault;
	struct node_pin pin;
	bool finished;

	assert_false(w->cutting);
	if (!image)
		return false;
	node_pin_begin(&w->nodes, &pin);
	while (map_reap(&w->catalog, image, nodes_max, &finished, &fault) == MAP_FAULT)
		world_load(w, &fault);
	node_pin_end(&w->nodes, &pin);
	if (finished)
		catalog_forget(&w->catalog, image);
	return true;
}

/* --- checkpoint --- */

static void
cut_block(struct world *w, uint64_t index)
{
	struct catalog_record *records = &w->cut_blocks[w->cut_count * CATALOG_RECORDS_PER_BLOCK];

	for (unsigned i = 0; i < CATALOG_RECORDS_PER_BLOCK; i++) {
		uint64_t id = index * CATALOG_RECORDS_PER_BLOCK + i;
		struct image *image = id ? catalog_image(&w->catalog, id) : NULL;

		if (image) {
			image->dirty = false;
			image->cut = image->map;
		}
	}
	w->cut_index[w->cut_count] = index;
	w->cut_records[w->cut_count++] = catalog_encode_block(&w->catalog, index, records);
	for (unsigned i = 0; i < CATALOG_RECORDS_PER_BLOCK; i++)
		if (records[i].kind == CATALOG_IMAGE)
			node_share(&w->nodes, &records[i].root);
}

void
world_checkpoint_cut(struct world *w)
{
	struct table *dirty = &w->catalog.dirty_blocks;

	assert_false(w->cutting);
	w->cutting = true;
	nodes_freeze(&w->nodes);
	w->cut_blocks = xcalloc(dirty->count + 1, FORMAT_BLOCK_BYTES);
	w->cut_index = xcalloc(dirty->count + 1, sizeof(*w->cut_index));
	w->cut_records = xcalloc(dirty->count + 1, sizeof(*w->cut_records));
	w->cut_count = 0;
	for (uint64_t i = 0; i <= dirty->mask; i++)
		if (dirty->slots[i].key)
			cut_block(w, dirty->slots[i].key - 1);
	table_fini(dirty);
	table_init(dirty);
	space_collect_empty(&w->space);
	memset(&w->cut, 0, sizeof(w->cut));
	w->cut.checkpoint = w->durable.checkpoint + 1;
	w->cut.next_id = w->catalog.next_id;
	w->cut.epoch = w->catalog.epoch;
	w->cut.log_segment = w->segment;
	w->cut.log_slab = w->slab->index;
	w->cut_log = w->log_count;
}

bool
world_checkpoint_node(struct world *w)
{
	uint8_t block[FORMAT_BLOCK_BYTES];
	struct node *node = nodes_next_frozen(&w->nodes);
	struct logged *logged;
	struct baddr addr;
	uint32_t crc;

	if (!node)
		return false;
	logged = batch_new(w, 1);
	crc = node_encode(&w->nodes, node, batch_next_addr(&logged->header), block);
	addr = append_block(w, crc, logged);
	disk_put(w, addr, block);
	node_written(&w->nodes, node);
	return true;
}

static void
write_catalog_block(struct world *w, size_t n)
{
	struct catalog_record *records = &w->cut_blocks[n * CATALOG_RECORDS_PER_BLOCK];
	struct image *self = &w->catalog.self;
	struct node_pin pin;
	struct map_fault fault;

	node_pin_begin(&w->nodes, &pin);
	while (map_prepare_write(&w->nodes, self, w->cut_index[n], 1, &fault) == MAP_FAULT)
		world_load(w, &fault);
	if (w->cut_records[n] == 0) {
		map_zero(&w->catalog, self, w->cut_index[n], 1);
	} else {
		struct logged *logged = batch_new(w, 1);
		struct baddr addr = batch_next_addr(&logged->header);
		uint32_t crc;

		for (unsigned i = 0; i < CATALOG_RECORDS_PER_BLOCK; i++) {
			if (records[i].kind != CATALOG_IMAGE)
				continue;
			node_settle(&w->nodes, &records[i].root);
			assert_false(records[i].root.addr & NODE_VIRTUAL);
			if (records[i].root.addr == 0)
				records[i].levels = 0;
			catalog_seal_record(&records[i]);
		}
		crc = crc32c(0, records, FORMAT_BLOCK_BYTES) ^ baddr_crc_mix(addr);
		append_block(w, crc, logged);
		disk_put(w, addr, records);
		map_write(&w->catalog, self, w->cut_index[n], 1, addr, (const uint8_t *)&crc);
		space_finish_dead(&w->space);
	}
	node_pin_end(&w->nodes, &pin);
}

static void
released(void *context, struct slab *slab)
{
	struct world *w = context;

	for (uint32_t slot = 0; slot < WORLD_SLAB_BLOCKS; slot++)
		free(table_remove(&w->disk, baddr_make(w->segment_of[slab->index], slot).n));
}

void
world_checkpoint_end(struct world *w, bool durable)
{
	struct space_device *device = &w->space.devices[0];
	struct map *self = &w->catalog.self.map;

	while (world_checkpoint_node(w))
		;
	for (size_t n = 0; n < w->cut_count; n++)
		write_catalog_block(w, n);
	nodes_freeze_tree(&w->nodes, &self->root);
	while (world_checkpoint_node(w))
		;
	if (self->root.addr)
		node_settle(&w->nodes, &self->root);
	assert_false(self->root.addr & NODE_VIRTUAL);
	w->cut.catalog_root = self->root;
	w->cut.catalog_levels = self->root.addr ? self->levels : 0;
	space_begin_table(&w->space);
	for (uint32_t page = 0; page < device->page_count; page++) {
		if (!bitmap_test(device->page_dirty, page))
			continue;
		uint64_t place = space_page_block(device, page) - FORMAT_TABLE_BLOCK - 2ull * page;

		assert_in_range(place, 0, 1);
		space_encode_page(&w->space, 0, page, w->cut.checkpoint, w->pages[page][place]);
	}
	w->cut.table_digest = w->space.table_digest;
	free(w->cut_blocks);
	free(w->cut_index);
	free(w->cut_records);
	w->cut_blocks = NULL;
	w->cutting = false;
	if (!durable)
		return;
	w->durable = w->cut;
	space_release(&w->space, released, w);
	for (; w->log_from < w->cut_log; w->log_from++) {
		free(w->log[w->log_from]);
		w->log[w->log_from] = NULL;
	}
	nodes_evict(&w->nodes);
}

void
world_checkpoint(struct world *w)
{
	if (w->cutting)
		world_checkpoint_end(w, true);
	world_checkpoint_cut(w);
	world_checkpoint_end(w, true);
	assert_int_equal(w->nodes.frozen_count, 0);
}

/* --- crash and recovery --- */

static void
drop_memory(struct world *w)
{
	free(w->cut_blocks);
	if (w->cutting) {
		free(w->cut_index);
		free(w->cut_records);
	}
	w->cut_blocks = NULL;
	w->cutting = false;
	catalog_fini(&w->catalog);
	nodes_fini(&w->nodes);
	space_fini(&w->space);
}

static void
init_memory(struct world *w)
{
	space_init(&w->space, WORLD_SLAB_BLOCKS, 1);
	space_add_device(&w->space, 0, &w->uuid, 1024, WORLD_SLABS);
	nodes_init(&w->nodes, &w->space, w->budget_bytes);
	catalog_init(&w->catalog, &w->nodes);
}

static void
decode_catalog(struct world *w)
{
	uint64_t end = w->durable.next_id / CATALOG_RECORDS_PER_BLOCK + 1;
	struct map *self = &w->catalog.self.map;
	struct error error;

	w->catalog.epoch = w->durable.epoch;
	w->catalog.next_id = w->durable.next_id;
	self->root = w->durable.catalog_root;
	self->levels = (uint8_t)w->durable.catalog_levels;
	for (uint64_t index = 0; index < end; index++) {
		struct map_fault fault;
		struct map_entry entry;

		while (map_get(&w->nodes, self, index, 1, &entry, &fault) == MAP_FAULT)
			world_load(w, &fault);
		if (!entry.addr)
			continue;
		assert_non_null(table_get(&w->disk, entry.addr));
		assert_int_equal(catalog_decode_block(
				     &w->catalog, index, table_get(&w->disk, entry.addr), &error),
		    0);
	}
	assert_int_equal(catalog_link(&w->catalog, &error), 0);
	assert_true(catalog_invariant(&w->catalog));
}

static void
replay(struct world *w, const struct logged *logged)
{
	const struct batch_header *header = &logged->header;
	struct slab *slab = space_reach(&w->space, 0, logged->slab);
	struct batch_reader reader;
	struct batch_piece piece;
	struct node_pin pin;
	struct map_fault fault;
	int rc;

	assert_true(
	    batch_header_valid(header, &w->uuid, header->segment, header->slot, WORLD_SLAB_BLOCKS));
	if (space_find(&w->space, header->segment) != slab ||
	    (header->slot == 0 && header->segment != w->durable.log_segment))
		space_open_slab(&w->space, slab, header->segment);
	node_pin_begin(&w->nodes, &pin);
	batch_read_begin(&reader, header);
	while ((rc = batch_read_next(&reader, &piece)) == 1)
		while (batch_prepare(&w->catalog, &piece, &fault) == MAP_FAULT)
			world_load(w, &fault);
	assert_int_equal(rc, 0);
	assert_int_equal(batch_apply(&w->catalog, header, op_block, (void *)(uintptr_t)logged,
			     w->durable.checkpoint),
	    0);
	node_pin_end(&w->nodes, &pin);
	nodes_evict(&w->nodes);
}

void
world_crash(struct world *w)
{
	uint64_t next_id = w->catalog.next_id;
	uint32_t epoch = w->catalog.epoch;
	struct space_device *device;
	struct error error;

	drop_memory(w);
	init_memory(w);
	device = &w->space.devices[0];
	for (uint32_t page = 0; page < device->page_count; page++)
		if (space_decode_page(&w->space, 0, page, w->durable.checkpoint, w->pages[page][0],
			w->pages[page][1], &error))
			fail_msg("%s", error.text);
	assert_true(w->space.table_digest == w->durable.table_digest);
	decode_catalog(w);
	for (size_t i = w->log_from; i < w->log_count; i++)
		replay(w, w->log[i]);
	assert_true(w->catalog.next_id == next_id);
	assert_int_equal(w->catalog.epoch, epoch);
	assert_true(space_invariant(&w->space));
	/* A new generation. */
	for (uint32_t i = 0; i < device->mark; i++)
		if (space_slab(device, i)->state == SLAB_OPEN)
			space_seal_slab(&w->space, space_slab(device, i), 0);
	w->next_segment += 1000;
	open_segment(w);
	world_checkpoint(w);
}

/* --- checks --- */

static bool
is_live(struct world *w, uint64_t addr)
{
	return space_is_live(&w->space, (struct baddr){ addr });
}

static void
compare_model(struct world *w, const struct model *model)
{
	static struct map_entry entries[WORLD_ISLAND_BLOCKS];
	struct map *map = world_map(w, model);

	for (uint32_t index = 0; index < WORLD_BLOCKS; index++) {
		uint32_t at = index % WORLD_ISLAND_BLOCKS;
		struct map_fault fault;

		while (at == 0 && map_get(&w->nodes, map, world_lba(index), WORLD_ISLAND_BLOCKS,
				      entries, &fault) == MAP_FAULT)
			world_load(w, &fault);
		if (entries[at].addr != model->addrs[index])
			fail_msg("image %llu, block %llu: %llx instead of %llx",
			    (unsigned long long)model->id, (unsigned long long)world_lba(index),
			    (unsigned long long)entries[at].addr,
			    (unsigned long long)model->addrs[index]);
		if (!entries[at].addr)
			continue;
		assert_int_equal(entries[at].crc, (uint32_t)mix64(entries[at].addr));
		if (!is_live(w, entries[at].addr))
			fail_msg("image %llu, block %llu is not live",
			    (unsigned long long)model->id, (unsigned long long)world_lba(index));
	}
}

void
world_compare(struct world *w)
{
	struct node_pin pin;

	for (unsigned i = 0; i < WORLD_IMAGES_MAX; i++) {
		if (!w->models[i].id)
			continue;
		node_pin_begin(&w->nodes, &pin);
		compare_model(w, &w->models[i]);
		node_pin_end(&w->nodes, &pin);
		nodes_evict(&w->nodes);
	}
	assert_true(catalog_invariant(&w->catalog));
	assert_true(space_invariant(&w->space));
}

/* Counts what lies under @entry and was not counted yet. */
static void
reach(struct world *w, struct table *seen, const struct map_entry *entry, unsigned level)
{
	struct map_entry at = *entry;
	const struct map_entry *entries;

	if (at.addr == 0)
		return;
	if (at.addr & NODE_VIRTUAL) {
		/* It has its address by now; look without taking the reference over. */
		struct map_entry settled = at;

		node_share(&w->nodes, &settled);
		node_settle(&w->nodes, &settled);
		assert_false(settled.addr & NODE_VIRTUAL);
		at = settled;
	}
	if (table_get(seen, at.addr))
		return;
	table_set(seen, at.addr, w);
	if (!is_live(w, at.addr))
		fail_msg(
		    "a node of level %u at %llx is not live", level, (unsigned long long)at.addr);
	entries = table_get(&w->disk, at.addr);
	assert_non_null(entries);
	for (unsigned i = 0; i < MAP_FANOUT; i++) {
		if (level > 0) {
			reach(w, seen, &entries[i], level - 1);
		} else if (entries[i].addr && !table_get(seen, entries[i].addr)) {
			assert_true(is_live(w, entries[i].addr));
			table_set(seen, entries[i].addr, w);
		}
	}
}

static void
name_leaks(struct world *w, const struct table *seen)
{
	for (uint32_t i = 0; i < WORLD_SLABS; i++) {
		const struct slab *slab = space_reach(&w->space, 0, i);

		for (uint32_t slot = 0; slot < WORLD_SLAB_BLOCKS && slab->live; slot++) {
			uint64_t addr = baddr_make(slab->segment, slot).n;

			if (bitmap_test(slab->live_bits, slot) && !table_get(seen, addr))
				print_error("leaked: %llx, a %s\n", (unsigned long long)addr,
				    table_get(&w->disk, addr) ? "node" : "data block");
		}
	}
}

void
world_check_live(struct world *w)
{
	struct table seen;
	struct image *self = &w->catalog.self;

	assert_int_equal(w->nodes.dirty_count, 0);
	assert_true(list_empty(&w->catalog.deleted));
	table_init(&seen);
	if (self->map.levels)
		reach(w, &seen, &self->map.root, self->map.levels - 1u);
	list_for_each(node, &w->catalog.images) {
		struct image *image = container_of(node, struct image, link);

		if (image->map.levels)
			reach(w, &seen, &image->map.root, image->map.levels - 1u);
	}
	if (seen.count != w->space.live_blocks)
		name_leaks(w, &seen);
	assert_int_equal(seen.count, w->space.live_blocks);
	table_fini(&seen);
}

void
world_init(struct world *w, uint64_t seed, uint64_t budget_bytes)
{
	memset(w, 0, sizeof(*w));
	w->seed = seed;
	w->budget_bytes = budget_bytes;
	memset(w->uuid.bytes, 0x5a, sizeof(w->uuid.bytes));
	w->next_segment = 1;
	table_init(&w->disk);
	init_memory(w);
	w->pages = xcalloc(div_round_up(WORLD_SLABS, table_records_per_page(WORLD_SLAB_BLOCKS)),
	    sizeof(*w->pages));
	open_segment(w);
	world_checkpoint(w);
}

void
world_fini(struct world *w)
{
	drop_memory(w);
	for (uint64_t i = 0; i <= w->disk.mask; i++)
		free(w->disk.slots[i].value);
	table_fini(&w->disk);
	for (size_t i = 0; i < w->log_count; i++)
		free(w->log[i]);
	free(w->log);
	free(w->pages);
}
