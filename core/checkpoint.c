/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoint: a state of all maps and tables on disk, from which the log is replayed.
 *
 *   cut ─► NODES ─► CATALOG ─► CATALOG_NODES ─► SETTLE ─► TABLE ─► FLUSH ─► SUPERBLOCK
 *       ─► FLUSH_SUPERBLOCK ─► durable
 *
 *  1. The cut, in one step: all dirty nodes are frozen (later changes copy them), the records of
 *     changed images and volumes are encoded, the place behind the last applied batch is noted.
 *  2. Frozen nodes go to the log, children first; then the catalog's blocks, with the roots that
 * are known now; then the nodes of the catalog's own map.  Clients go on between the pieces.
 *  3. When all of that is applied, the dirty pages of the slab tables are written, each to its
 * older place.  They may show more than the cut: whatever they show beyond it is in batches that
 * the flush that follows makes durable, and a replay of those comes to the same.
 *  4. Flush, superblock, flush.
 *  5. Slabs that were all dead at the cut are free now.
 *
 * A crash before the superblock is durable leaves the old checkpoint, with all that it needs; after
 * it the new one.
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"

#define AGE_MAX_NS (20ull * 1000 * 1000 * 1000)

static void checkpoint_step(struct pool *pool);

static void
run_step(struct task *task)
{
	checkpoint_step(container_of(task, struct pool, checkpoint.step));
}

static void
wake(struct waiter *waiter, int error)
{
	struct pool *pool = container_of(waiter, struct pool, checkpoint.wait);

	if (error)
		pool_fail(pool, "a checkpoint could not be written: %s", strerror(-error));
	checkpoint_step(pool);
}

static void
aged(struct timer *timer)
{
	struct pool *pool = container_of(timer, struct pool, checkpoint.timer);

	if (pool->state == POOL_ONLINE)
		checkpoint_start(pool, NULL);
}

void
checkpoint_init(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;

	memset(c, 0, sizeof(*c));
	task_init(&c->step, run_step);
	timer_init(&c->timer, aged);
	waiter_init(&c->wait, wake);
	list_init(&c->waiters);
	list_init(&c->again_waiters);
	list_init(&c->append.link);
	list_init(&c->flush.link);
	c->writes_max = CHECKPOINT_WRITES;
	for (unsigned i = 0; i < CHECKPOINT_WRITES; i++)
		c->writes[i].block = xalloc_pages(FORMAT_BLOCK_BYTES);
}

static void
free_blocks(struct checkpoint *c)
{
	for (size_t i = 0; i < c->block_count; i++)
		free(c->blocks[i].block);
	free(c->blocks);
	c->blocks = NULL;
	c->block_count = 0;
	c->block_next = 0;
}

static void
free_table_pages(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;

	for (uint32_t i = 0; c->table_pages && i < pool->space.device_count; i++)
		free(c->table_pages[i]);
	free(c->table_pages);
	c->table_pages = NULL;
}

void
checkpoint_fini(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;

	reactor_cancel(pool->reactor, &c->step);
	reactor_timer_cancel(pool->reactor, &c->timer);
	free_blocks(c);
	free_table_pages(pool);
	for (unsigned i = 0; i < CHECKPOINT_WRITES; i++)
		free(c->writes[i].block);
}

/* --- the cut --- */

static void
cut_block(struct pool *pool, uint64_t index, struct checkpoint_block *out)
{
	out->index = index;
	out->block = xalloc_pages(FORMAT_BLOCK_BYTES);
	for (unsigned i = 0; i < CATALOG_RECORDS_PER_BLOCK; i++) {
		uint64_t id = index * CATALOG_RECORDS_PER_BLOCK + i;
		struct image *image = id ? catalog_image(&pool->catalog, id) : NULL;

		if (image) {
			image->dirty = false;
			image->cut = image->map;
		}
	}
	out->records = catalog_encode_block(&pool->catalog, index, out->block);
	/* The block holds references to roots that have no address yet. */
	struct catalog_record *records = (struct catalog_record *)out->block;

	for (unsigned i = 0; i < CATALOG_RECORDS_PER_BLOCK; i++)
		if (records[i].kind == CATALOG_IMAGE)
			node_share(&pool->nodes, &records[i].root);
}

static void
cut_catalog(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;
	struct table *dirty = &pool->catalog.dirty_blocks;
	size_t n = 0;

	c->blocks = xcalloc(dirty->count, sizeof(*c->blocks));
	for (uint64_t i = 0; i <= dirty->mask; i++)
		if (dirty->slots[i].key)
			cut_block(pool, dirty->slots[i].key - 1, &c->blocks[n++]);
	CHECK(n == dirty->count);
	c->block_count = n;
	c->block_next = 0;
	table_fini(dirty);
	table_init(dirty);
}

void
pool_set_superblock(struct pool *pool, struct superblock *superblock)
{
	const struct log *log = &pool->log;

	memset(superblock, 0, sizeof(*superblock));
	superblock->pool_uuid = pool->uuid;
	superblock->checkpoint = pool->checkpoint_number + 1;
	superblock->generation = pool->generation;
	superblock->next_segment = log->next_segment_number;
	superblock->next_id = pool->catalog.next_id;
	superblock->epoch = pool->catalog.epoch;
	superblock->log_segment = log->applied_segment;
	superblock->log_sequence = log->applied_sequence + 1;
	superblock->log_slot = log->applied_slot;
	superblock->log_previous_crc = log->applied_crc;
	superblock->copies = pool->space.copies > 1 ? pool->space.copies : 0;
	space_name_places(&pool->space, log->applied_slab, &superblock->log_device,
	    &superblock->log_slab, superblock->log_copies);
	superblock->log_next_device = BATCH_NO_SLAB;
	superblock->log_next_slab = BATCH_NO_SLAB;
	memset(superblock->log_next_copies, 0xff, sizeof(superblock->log_next_copies));
	if (log->applied_slab == log->slab && log->next_slab && !MUTANT(NAMED_NOT_KEPT)) {
		superblock->log_next_segment = log->next_segment;
		space_name_places(&pool->space, log->next_slab, &superblock->log_next_device,
		    &superblock->log_next_slab, superblock->log_next_copies);
	}
	if (pool->space.copies == 1) {
		memset(superblock->log_copies, 0, sizeof(superblock->log_copies));
		memset(superblock->log_next_copies, 0, sizeof(superblock->log_next_copies));
	}
	superblock->device_count = pool->device_count;
	superblock->scrub = pool->scrub.record;
	memcpy(superblock->warn_percent, pool->warn_percent, sizeof(pool->warn_percent));
	superblock->written_s = pool->clock_s ? pool->clock_s() : 0;
}

static void
cut(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;

	c->again = false;
	reactor_timer_cancel(pool->reactor, &c->timer);
	list_splice_back(&c->waiters, &c->again_waiters);
	nodes_freeze(&pool->nodes);
	cut_catalog(pool);
	space_collect_empty(&pool->space);
	plug_note_holes(pool, true);
	pool->reaper.progressed = false;
	pool_set_superblock(pool, &c->superblock);
	pool->log.blocks_since_cut = 0;
	c->phase = CHECKPOINT_NODES;
}

/* --- nodes and catalog blocks go to the log --- */

static void
applied(struct log_append *append, int error)
{
	struct checkpoint *c = container_of(append, struct checkpoint, append);
	struct pool *pool = container_of(c, struct pool, checkpoint);

	(void)error; /* then the pool failed, and has said so */
	for (unsigned i = 0; i < c->writing_count; i++)
		node_written(&pool->nodes, c->writing[i]);
	c->writing_count = 0;
	c->append_pending = false;
	checkpoint_step(pool);
}

static bool
wait_applied(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;

	c->append.done = applied;
	c->append_pending = log_wait_applied(pool, &c->append);
	return c->append_pending;
}

/* Room for one block of the checkpoint in the open batch; false: waits. */
static bool
reserve_block(struct pool *pool, uint8_t **block)
{
	struct checkpoint *c = &pool->checkpoint;

	for (;;) {
		int rc = log_reserve(pool, LOG_CHECKPOINT, 1, BATCH_BYTES_FOR(1));

		if (rc == -EAGAIN) {
			list_push_back(&pool->log.waiters, &c->wait.link);
			return false;
		}
		if (rc) {
			pool_fail(pool, "no room for a checkpoint: %s", strerror(-rc));
			reactor_defer(pool->reactor, &c->step);
			return false;
		}
		*block = log_owned_blocks(pool, 1);
		if (*block)
			return true;
		/* This batch carries all it can: the next piece waits for it. */
		if (wait_applied(pool))
			return false;
	}
}

static void
add_block(struct pool *pool, uint8_t *block, uint32_t crc)
{
	log_add_data(pool, BATCH_NODE, 0, pool->checkpoint.superblock.checkpoint, 1, block, &crc);
}

/* False: waits. */
static bool
write_nodes(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;
	struct node *node;

	while ((node = nodes_next_frozen(&pool->nodes))) {
		uint8_t *block;

		if (c->writing_count == ARRAY_SIZE(c->writing)) {
			if (wait_applied(pool))
				return false;
			continue;
		}
		if (!reserve_block(pool, &block))
			return false;
		add_block(pool, block,
		    node_encode(
			&pool->nodes, node, batch_next_addr(pool->log.open->header), block));
		c->writing[c->writing_count++] = node;
	}
	return true;
}

/* The roots have their addresses now. */
static void
settle_roots(struct pool *pool, struct checkpoint_block *block)
{
	struct catalog_record *records = (struct catalog_record *)block->block;

	for (unsigned i = 0; i < CATALOG_RECORDS_PER_BLOCK; i++) {
		if (records[i].kind != CATALOG_IMAGE || !(records[i].root.addr & NODE_VIRTUAL))
			continue;
		node_settle(&pool->nodes, &records[i].root);
		if (records[i].root.addr == 0)
			records[i].levels = 0;
		catalog_seal_record(&records[i]);
	}
}

static bool
write_catalog(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;
	struct image *self = &pool->catalog.self;

	while (c->block_next < c->block_count) {
		struct checkpoint_block *from = &c->blocks[c->block_next];
		struct map_fault fault;
		uint8_t *block;
		uint32_t crc;
		struct baddr addr;

		if (!c->pinned) {
			node_pin_begin(&pool->nodes, &c->pin);
			c->pinned = true;
		}
		if (map_prepare_write(&pool->nodes, self, from->index, 1, &fault) == MAP_FAULT) {
			node_load(pool, &fault, &c->wait);
			return false;
		}
		if (from->records == 0) {
			map_zero(&pool->catalog, self, from->index, 1);
			c->block_next++;
			continue;
		}
		if (!reserve_block(pool, &block))
			return false;
		settle_roots(pool, from);
		memcpy(block, from->block, FORMAT_BLOCK_BYTES);
		addr = batch_next_addr(pool->log.open->header);
		crc = baddr_block_crc(addr, block);
		add_block(pool, block, crc);
		map_write(&pool->catalog, self, from->index, 1, addr, (const uint8_t *)&crc);
		space_finish_dead(&pool->space);
		c->block_next++;
	}
	if (c->pinned) {
		node_pin_end(&pool->nodes, &c->pin);
		c->pinned = false;
	}
	free_blocks(c);
	return true;
}

/* --- the slab table, and the superblock: written beside the log --- */

static void
write_done(struct device_io *io)
{
	struct checkpoint_write *write = container_of(io, struct checkpoint_write, io);
	struct pool *pool = write->pool;

	write->busy = false;
	pool->checkpoint.writes_in_flight--;
	pool->devices[write->device].dirty = true;
	if (io->error) {
		pool->devices[write->device].errors++;
		device_lost(pool, io, write->device);
	}
	checkpoint_step(pool);
}

static struct checkpoint_write *
free_write(struct checkpoint *c)
{
	for (unsigned i = 0; i < c->writes_max; i++)
		if (!c->writes[i].busy)
			return &c->writes[i];
	return NULL;
}

static void
submit_write(struct pool *pool, struct checkpoint_write *write, uint32_t device, uint64_t block)
{
	write->busy = true;
	write->pool = pool;
	write->device = device;
	write->iov.iov_base = write->block;
	write->iov.iov_len = FORMAT_BLOCK_BYTES;
	write->io.op = DEVICE_WRITE;
	write->io.offset_bytes = block * FORMAT_BLOCK_BYTES;
	write->io.len_bytes = FORMAT_BLOCK_BYTES;
	write->io.iov = &write->iov;
	write->io.iov_count = 1;
	write->io.done = write_done;
	pool->checkpoint.writes_in_flight++;
	device_submit(pool_device(pool, device), &write->io);
}

static void
begin_table(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;

	space_begin_table(&pool->space);
	c->table_pages = xcalloc(pool->space.device_count, sizeof(*c->table_pages));
	for (uint32_t i = 0; i < pool->space.device_count; i++) {
		const struct space_device *device = &pool->space.devices[i];
		size_t words = BITMAP_WORDS(device->page_count);

		c->table_pages[i] = xcalloc(words, sizeof(uint64_t));
		if (device->present && !device->out)
			memcpy(c->table_pages[i], device->page_dirty, words * sizeof(uint64_t));
		if (MUTANT(TABLE_PAGE_LEFT_OUT))
			bitmap_clear(c->table_pages[i], 0);
	}
	c->table_device = 0;
	c->table_page = 0;
}

/* The next page to write; false: none is left. */
static bool
next_page(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;

	for (; c->table_device < pool->space.device_count; c->table_device++) {
		const struct space_device *device = &pool->space.devices[c->table_device];

		for (; c->table_page < device->page_count; c->table_page++)
			if (!device->out &&
			    bitmap_test(c->table_pages[c->table_device], c->table_page))
				return true;
		c->table_page = 0;
	}
	return false;
}

static bool
write_table(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;
	struct checkpoint_write *write;

	while (next_page(pool) && (write = free_write(c))) {
		const struct space_device *device = &pool->space.devices[c->table_device];
		uint64_t block = space_page_block(device, c->table_page);

		space_encode_page(&pool->space, c->table_device, c->table_page,
		    c->superblock.checkpoint, write->block);
		submit_write(pool, write, c->table_device, block);
		c->table_page++;
	}
	if (c->writes_in_flight > 0)
		return false;
	free_table_pages(pool);
	return true;
}

static void
write_superblock(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;
	uint64_t place = MUTANT(SUPERBLOCK_ONE_PLACE) ? 0 : c->superblock.checkpoint % 2;

	/* A device at a time is quick enough: there are two writes each. */
	while (c->table_device < pool->device_count * 2) {
		uint32_t device = c->table_device / 2;
		const struct label *label = &pool->devices[device].label;
		struct checkpoint_write *write = free_write(c);
		struct geometry geometry;

		if (pool->space.devices[device].out) {
			c->table_device++;
			continue;
		}
		if (!write)
			return;
		geometry_of(&geometry, label->size_bytes, label->slab_blocks);
		superblock_encode(&c->superblock, write->block);
		submit_write(pool, write, device,
		    (c->table_device % 2 == 0
			    ? FORMAT_SUPERBLOCK_BLOCK
			    : geometry.tail_block + FORMAT_TAIL_SUPERBLOCK_BLOCK) +
			place);
		c->table_device++;
	}
}

static void
flushed(struct log_flush *flush, int error)
{
	struct checkpoint *c = container_of(flush, struct checkpoint, flush);
	struct pool *pool = container_of(c, struct pool, checkpoint);

	(void)error; /* then the pool failed, and has said so */
	checkpoint_step(pool);
}

static void
start_flush(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;

	c->flush.sequence = pool->log.applied_sequence;
	c->flush.force = true;
	c->flush.done = flushed;
	log_flush_start(pool, &c->flush);
}

static void
end(struct pool *pool, int error)
{
	struct checkpoint *c = &pool->checkpoint;
	struct list waiters;

	if (c->pinned) {
		node_pin_end(&pool->nodes, &c->pin);
		c->pinned = false;
	}
	free_blocks(c);
	free_table_pages(pool);
	c->phase = CHECKPOINT_IDLE;
	if (!error) {
		pool->checkpoint_number = c->superblock.checkpoint;
		space_release(&pool->space, housekeeping_slab_released, pool);
		plug_notes_durable(pool);
		nodes_evict(&pool->nodes);
		pool->log.held_blocks = 0;
	}
	list_init(&waiters);
	list_splice_back(&waiters, &c->waiters);
	if (error)
		list_splice_back(&waiters, &c->again_waiters);
	/* First: who waits may need what relocation can do now. */
	relocation_checkpoint_ended(pool);
	/* Before another one begins: some of them wait for none to run. */
	waiters_wake(&waiters, error);
	if (!error && c->again)
		checkpoint_start(pool, NULL);
	else if (!error)
		checkpoint_consider(pool);
	pool_fill_changed(pool);
}

void
checkpoint_settle(struct pool *pool)
{
	if (!pool->checkpoint.held)
		return;
	pool->checkpoint.held = false;
	reactor_defer(pool->reactor, &pool->checkpoint.step);
}

static void
checkpoint_step(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;

	for (;;) {
		if (pool->loss.active) {
			c->held = true;
			return;
		}
		if ((pool->state == POOL_FAILED || pool->state == POOL_READONLY) &&
		    c->phase != CHECKPOINT_IDLE) {
			/* What is under way comes home first. */
			if (c->writes_in_flight > 0 || c->append_pending ||
			    !list_empty(&c->flush.link) || !list_empty(&c->wait.link))
				return;
			return end(pool, -EIO);
		}
		switch (c->phase) {
		case CHECKPOINT_IDLE:
			return;
		case CHECKPOINT_NODES:
			if (!write_nodes(pool))
				return;
			c->phase = CHECKPOINT_CATALOG;
			continue;
		case CHECKPOINT_CATALOG:
			if (!write_catalog(pool))
				return;
			nodes_freeze_tree(&pool->nodes, &pool->catalog.self.map.root);
			c->phase = CHECKPOINT_CATALOG_NODES;
			continue;
		case CHECKPOINT_CATALOG_NODES:
			if (!write_nodes(pool))
				return;
			c->phase = CHECKPOINT_SETTLE;
			if (wait_applied(pool))
				return;
			applied(&c->append, 0);
			return;
		case CHECKPOINT_SETTLE:
			if (MUTANT(SUPERBLOCK_LATE_PLACE))
				pool_set_superblock(pool, &c->superblock);
			if (pool->catalog.self.map.root.addr)
				node_settle(&pool->nodes, &pool->catalog.self.map.root);
			c->superblock.catalog_root = pool->catalog.self.map.root;
			c->superblock.catalog_levels =
			    c->superblock.catalog_root.addr ? pool->catalog.self.map.levels : 0;
			begin_table(pool);
			c->phase = CHECKPOINT_TABLE;
			continue;
		case CHECKPOINT_TABLE:
			if (!write_table(pool))
				return;
			c->phase = CHECKPOINT_FLUSH;
			reaper_kick(pool); /* they had to rest */
			relocation_kick(pool);
			if (MUTANT(SUPERBLOCK_BEFORE_FLUSH))
				continue;
			return start_flush(pool);
		case CHECKPOINT_FLUSH:
			c->superblock.table_digest = pool->space.table_digest;
			for (uint32_t i = 0; pool->space.copies > 1 && i < pool->device_count; i++)
				c->superblock.device_digests[i] =
				    space_device_digest(&pool->space, i);
			c->superblock.durable_sequence = pool->log.durable_sequence;
			c->superblock.flags = c->mark_clean ? SUPERBLOCK_CLEAN : 0;
			c->table_device = 0;
			c->phase = CHECKPOINT_SUPERBLOCK;
			continue;
		case CHECKPOINT_SUPERBLOCK:
			write_superblock(pool);
			if (c->writes_in_flight > 0)
				return;
			c->phase = CHECKPOINT_FLUSH_SUPERBLOCK;
			if (MUTANT(SUPERBLOCK_NOT_FLUSHED))
				continue;
			return start_flush(pool);
		case CHECKPOINT_FLUSH_SUPERBLOCK:
			return end(pool, 0);
		}
	}
}

/* --- when --- */

uint64_t
checkpoint_blocks_max(const struct pool *pool)
{
	uint64_t blocks = pool->nodes.dirty_count + pool->nodes.frozen_count +
			  pool->nodes_promised + 4 * pool->catalog.dirty_blocks.count + 8;

	return blocks + blocks / 8;
}

void
checkpoint_start(struct pool *pool, struct waiter *waiter)
{
	struct checkpoint *c = &pool->checkpoint;

	if (waiter)
		list_push_back(&c->again_waiters, &waiter->link);
	if (c->phase != CHECKPOINT_IDLE || c->barred) {
		c->again |= waiter != NULL;
		return;
	}
	if (pool->state == POOL_FAILED || pool->state == POOL_READONLY) {
		/* Nobody is called from here: the step does it. */
		c->phase = CHECKPOINT_NODES;
		reactor_defer(pool->reactor, &c->step);
		list_splice_back(&c->waiters, &c->again_waiters);
		return;
	}
	cut(pool);
	reactor_defer(pool->reactor, &c->step);
}

void
checkpoint_bar(struct pool *pool)
{
	CHECK(pool->checkpoint.phase == CHECKPOINT_IDLE && !pool->checkpoint.barred);
	pool->checkpoint.barred = true;
}

void
checkpoint_unbar(struct pool *pool)
{
	pool->checkpoint.barred = false;
	if (pool->checkpoint.again)
		checkpoint_start(pool, NULL);
	else
		checkpoint_consider(pool);
}

/*
 * A table without a cut: the superblock keeps its maps, catalog and place in the log, so a replay
 * begins where it began, and meets a table that shows more than before.  All that is in durable
 * batches by then, as always; only what the reaper did is not, so it may not have done anything.
 */
static bool
begin_table_alone(struct pool *pool, bool for_slabs)
{
	struct checkpoint *c = &pool->checkpoint;
	uint64_t needless = space_count_needless(&pool->space);

	if (c->phase != CHECKPOINT_IDLE || c->barred || pool->state != POOL_ONLINE ||
	    (pool->reaper.progressed && !MUTANT(TABLE_ALONE_AFTER_REAPER)) ||
	    c->superblock.checkpoint != pool->checkpoint_number ||
	    c->superblock.device_count != pool->device_count)
		return false;
	if (for_slabs && (needless == 0 || needless < pool->space.empty_count / 2))
		return false;
	space_collect_needless(&pool->space);
	plug_note_holes(pool, false);
	c->superblock.checkpoint++;
	c->superblock.next_segment = pool->log.next_segment_number;
	begin_table(pool);
	c->phase = CHECKPOINT_TABLE;
	reactor_defer(pool->reactor, &c->step);
	return true;
}

static void
table_or_checkpoint(struct pool *pool, bool for_slabs, struct waiter *waiter)
{
	if (!begin_table_alone(pool, for_slabs))
		checkpoint_start(pool, waiter);
	else if (waiter)
		list_push_back(&pool->checkpoint.waiters, &waiter->link);
}

void
checkpoint_free_slabs(struct pool *pool, struct waiter *waiter)
{
	table_or_checkpoint(pool, true, waiter);
}

void
checkpoint_find_holes(struct pool *pool, struct waiter *waiter)
{
	table_or_checkpoint(pool, false, waiter);
}

/* Slabs are empty that would help. */
static bool
slabs_wait(const struct pool *pool)
{
	uint64_t free_slabs = pool->space.free_count + (pool->log.next_slab != NULL);
	uint64_t few = max_u64(1, pool->relocate_slabs / 4);

	/* As late as may be: each checkpoint writes maps, and flushes.  But before clients would
	 * wait for it; and while relocation makes more of them, for more than one. */
	return pool->space.empty_count >= (relocation_produces(pool) ? few : 1) &&
	       free_slabs <= log_held_slabs(pool, LOG_CLIENT) + few;
}

void
checkpoint_consider(struct pool *pool)
{
	struct checkpoint *c = &pool->checkpoint;
	const struct log *log = &pool->log;

	if (c->phase != CHECKPOINT_IDLE || c->barred || pool->state != POOL_ONLINE)
		return;
	if (log->blocks_since_cut > pool->checkpoint_blocks ||
	    pool->nodes.dirty_count > pool->dirty_nodes_max / 4 * 3) {
		checkpoint_start(pool, NULL);
		return;
	}
	if (slabs_wait(pool)) {
		checkpoint_free_slabs(pool, NULL);
		return;
	}
	/* What was changed is on disk soon, and an idle pool sleeps. */
	if (c->timer.heap_index == 0 && log->applied_sequence + 1 != c->superblock.log_sequence &&
	    (pool->nodes.dirty_count > 0 || pool->catalog.dirty_blocks.count > 0))
		reactor_timer_start(pool->reactor, &c->timer, AGE_MAX_NS);
}
