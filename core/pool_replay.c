/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replay: the log from the superblock's place to the first header that does not follow, or the
 * first batch whose data is not all there.  Before a position that is known to be durable that is
 * damage, not a crash: nothing is cut off, and the pool opens read-only.
 *
 * A device may also answer one read with the wrong blocks.  So nothing is taken for the end that
 * was not read twice.
 */
#include "core/pool_import_internal.h"

#include <stdio.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"

/* --- replay --- */

void
replay_begin(struct import *m)
{
	const struct superblock *s = &m->superblock;
	struct pool *pool = m->pool;

	m->sequence = s->log_sequence;
	m->previous_crc = s->log_previous_crc;
	m->durable_sequence = s->durable_sequence;
	m->segment_max = s->next_segment - 1;
	m->segment = s->log_segment;
	m->slot = s->log_slot;
	m->next_segment = s->log_next_segment;
	m->next_device = s->log_next_device;
	m->next_slab = s->log_next_slab;
	m->slab = space_find(&pool->space, s->log_segment);
	if (s->log_slot > pool->space.slab_blocks) {
		m->slot = 0;
		import_open_readonly(m, "the superblock's place in the log does not exist");
		m->phase = IMPORT_BEGIN;
		return;
	}
	if (s->checkpoint > 1 && !m->slot_seen[(s->checkpoint + 1) % 2]) {
		import_open_readonly(
		    m, "the other superblock is damaged in all places, and may have been newer");
		m->phase = IMPORT_BEGIN;
		return;
	}
	if (m->packed.damaged) {
		import_open_readonly(m, m->packed.what);
		m->phase = IMPORT_BEGIN;
		return;
	}
	if (pool->space.table_digest != s->table_digest && !MUTANT(TABLE_DIGEST_UNCHECKED)) {
		import_open_readonly(m, "a page of the slab table is older than the superblock");
		m->phase = IMPORT_BEGIN;
		return;
	}
	/* The slab may have been opened by nobody before the crash. */
	if (!m->slab || m->slab->device != s->log_device || m->slab->index != s->log_slab) {
		if (m->slab || s->log_slot != 0 || s->log_device >= pool->device_count ||
		    s->log_slab >= pool->space.devices[s->log_device].slab_count ||
		    pool->space.devices[s->log_device].slabs[s->log_slab].live > 0) {
			import_open_readonly(m, "the slab table does not know the log's segment");
			m->phase = IMPORT_BEGIN;
			return;
		}
		m->slab = &pool->space.devices[s->log_device].slabs[s->log_slab];
		space_open_slab(&pool->space, m->slab, s->log_segment);
	}
	/* A segment that was full at the checkpoint has nothing to read. */
	m->read_slot = m->slot;
	m->phase = m->slot < pool->space.slab_blocks ? IMPORT_SEGMENT : IMPORT_BATCH;
}

static void
segment_read(struct block_reader *reader)
{
	struct import *m = container_of(reader, struct import, reader);

	if (reader->error) {
		import_open_readonly(m, "the log is unreadable");
		m->phase = IMPORT_BEGIN;
	} else {
		m->phase = IMPORT_BATCH;
	}
	import_step(m);
}

void
replay_read_segment(struct import *m)
{
	struct pool *pool = m->pool;
	uint64_t block = space_offset_bytes(&pool->space, m->slab, m->slot) / FORMAT_BLOCK_BYTES;

	m->read_slot = m->slot;
	m->reader.done = segment_read;
	block_reader_start(&m->reader, pool_device(pool, m->slab->device), block,
	    pool->space.slab_blocks - m->slot, m->blocks);
}

static const struct batch_header *
header_at(const struct import *m, uint32_t slot)
{
	return (const void *)(m->blocks + (size_t)(slot - m->read_slot) * FORMAT_BLOCK_BYTES);
}

/* Whether the header at the present place is the next of the log. */
static bool
header_follows(const struct import *m, const struct batch_header *header, uint32_t slot,
    uint64_t sequence, uint32_t previous_crc)
{
	return batch_header_valid(
		   header, &m->pool->uuid, m->segment, slot, m->pool->space.slab_blocks) &&
	       header->generation == m->superblock.generation && header->sequence == sequence &&
	       header->previous_crc == previous_crc;
}

/*
 * The log seems to end at the present place.  Any later header of this generation in the segment
 * that is in memory may know that place to be durable: then this is damage, not a crash.  (What a
 * crash left behind a gap never says so: nothing behind a gap was applied, so nothing was flushed.)
 */
static void
look_beyond(struct import *m)
{
	uint32_t slab_blocks = m->pool->space.slab_blocks;

	for (uint32_t slot = m->slot; slot < slab_blocks && !MUTANT(BEYOND_NOT_SEEN); slot++) {
		const struct batch_header *header = header_at(m, slot);

		if (header->magic == BATCH_MAGIC &&
		    header->generation == m->superblock.generation &&
		    header->sequence > m->sequence &&
		    batch_header_valid(header, &m->pool->uuid, m->segment, slot, slab_blocks))
			m->durable_sequence =
			    max_u64(m->durable_sequence, header->durable_sequence);
	}
}

static void
batch_loaded(struct waiter *waiter, int error)
{
	struct replay_wait *wait = container_of(waiter, struct replay_wait, wait);
	struct import *m = wait->import;

	if (error && m->phase == IMPORT_BATCH) {
		import_open_readonly(m, "a map that the log changes is unreadable");
		m->phase = IMPORT_BEGIN;
	}
	if (--m->loads == 0)
		import_step(m);
}

/* Brings the nodes that the batch changes into memory, several at a time; false: waits. */
static bool
prepare_batch(struct import *m, const struct batch_header *header)
{
	struct batch_reader reader;
	struct batch_piece piece;

	batch_read_begin(&reader, header);
	while (m->loads < ARRAY_SIZE(m->waits) && batch_read_next(&reader, &piece) == 1) {
		struct map_fault fault;

		if (batch_prepare(&m->pool->catalog, &piece, &fault) == MAP_OK)
			continue;
		waiter_init(&m->waits[m->loads].wait, batch_loaded);
		m->waits[m->loads].import = m;
		node_load(m->pool, &fault, &m->waits[m->loads].wait);
		m->loads++;
	}
	return m->loads == 0;
}

static const void *
block_of(void *context, uint32_t index)
{
	const struct batch_header *header = context;

	return (const uint8_t *)(header + 1) + (size_t)index * FORMAT_BLOCK_BYTES;
}

/* The log ends here, or goes on in the segment that was named. */
static void
end_of_segment(struct import *m)
{
	struct pool *pool = m->pool;

	look_beyond(m);
	if (MUTANT(DURABLE_MARK_IGNORED))
		m->durable_sequence = 0;
	if (MUTANT(REPLAY_STOPS_AT_SEGMENT))
		m->tried_next = true;
	if (m->slot > 0 && m->next_device < pool->device_count &&
	    m->next_slab < pool->space.devices[m->next_device].slab_count && m->next_segment != 0 &&
	    m->next_segment >> 47 == 0 && !m->tried_next) {
		/* Only a header that follows proves that the segment was opened; see
		 * replay_take_batch().
		 */
		m->tried_next = true;
		m->read_twice = false;
		m->slab = &pool->space.devices[m->next_device].slabs[m->next_slab];
		m->segment = m->next_segment;
		m->slot = 0;
		m->phase = IMPORT_SEGMENT;
		return;
	}
	m->phase = IMPORT_BEGIN;
	if (m->sequence <= m->durable_sequence)
		import_open_readonly(m, "the log ends before a position that was durable");
}

/* True: what seems to be the end is read once more. */
static bool
read_again(struct import *m)
{
	if (m->read_twice || MUTANT(END_READ_ONCE))
		return false;
	m->read_twice = true;
	m->phase = IMPORT_SEGMENT;
	return true;
}

void
replay_take_batch(struct import *m)
{
	struct pool *pool = m->pool;
	const struct batch_header *header = header_at(m, m->slot);
	int rc;

	if (m->slot >= pool->space.slab_blocks)
		return end_of_segment(m);
	if (!header_follows(m, header, m->slot, m->sequence, m->previous_crc))
		return read_again(m) ? (void)0 : end_of_segment(m);
	m->durable_sequence = max_u64(m->durable_sequence, header->durable_sequence);
	if (!batch_data_valid(header, (const uint8_t *)(header + 1)) &&
	    !MUTANT(REPLAY_PAST_BAD_DATA)) {
		if (read_again(m))
			return;
		look_beyond(m);
		if (MUTANT(DURABLE_MARK_IGNORED))
			m->durable_sequence = 0;
		m->phase = IMPORT_BEGIN;
		if (m->sequence <= m->durable_sequence)
			import_open_readonly(
			    m, "the log holds damaged data before a durable position");
		return;
	}
	if (!m->pinned) {
		node_pin_begin(&pool->nodes, &m->pin);
		m->pinned = true;
	}
	if (!prepare_batch(m, header))
		return;
	if (m->slot == 0 && m->tried_next) {
		space_open_slab(&pool->space, m->slab, m->segment);
		m->next_device = BATCH_NO_SLAB;
	}
	m->tried_next = false;
	m->read_twice = false;
	rc = batch_apply(
	    &pool->catalog, header, block_of, (void *)(uintptr_t)header, m->superblock.checkpoint);
	node_pin_end(&pool->nodes, &m->pin);
	m->pinned = false;
	nodes_evict(&pool->nodes);
	if (rc) {
		import_open_readonly(m, "the log holds a batch that cannot be applied");
		m->phase = IMPORT_BEGIN;
		return;
	}
	m->batches++;
	m->sequence++;
	m->previous_crc = header->crc;
	m->segment_max = max_u64(m->segment_max, header->segment);
	if (header->next_device != BATCH_NO_SLAB) {
		m->next_segment = header->next_segment;
		m->next_device = header->next_device;
		m->next_slab = header->next_slab;
		m->segment_max = max_u64(m->segment_max, header->next_segment);
	}
	m->slot += 1 + header->block_count;
}
