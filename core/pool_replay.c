/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replay: the log from the superblock's place to the first header that does not follow, or the
 * first batch whose data is not all there.  Before a position that is known to be durable that is
 * damage, not a crash: nothing is cut off, and the pool opens read-only.
 *
 * A device may also answer one read with the wrong blocks.  So nothing is taken for the end that
 * was not read twice.
 *
 * Copies may differ at the end: one device has the last batch, another has not.  Each header and
 * each block is taken from whichever copy has it, so the log is as long as the copies together make
 * it; and before the next batch is looked at, the last one is written where it was missing or bad.
 * So all that is replayed has all its copies, which the checkpoint of the new generation makes
 * durable before anybody sees it.  A crash in the middle begins again.
 */
#include "core/pool_import_internal.h"

#include <stdio.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"

/* --- replay --- */

/* The slabs that are named and exist. */
static unsigned
find_places(struct import *m, uint32_t device, uint32_t slab, const struct slab_place *copies,
    struct slab **places)
{
	struct space *space = &m->pool->space;
	struct slab_place named[COPIES_MAX] = { { device, slab } };
	unsigned count = 0;

	memcpy(&named[1], copies, (COPIES_MAX - 1) * sizeof(*copies));
	for (unsigned i = 0; i < space->copies; i++) {
		const struct slab_place *name = &named[i];
		bool twice = false;

		for (unsigned k = 0; k < count; k++)
			twice |= places[k]->device == name->device;
		if (!twice && name->device < m->pool->device_count &&
		    name->slab < space->devices[name->device].slab_count &&
		    !space->devices[name->device].out)
			places[count++] = space_reach(space, name->device, name->slab);
	}
	return count;
}

static bool
table_is_older(const struct import *m)
{
	const struct space *space = &m->pool->space;

	if (space->copies == 1)
		return space->table_digest != m->superblock.table_digest;
	for (uint32_t i = 0; i < m->pool->device_count; i++)
		if (!space->devices[i].out &&
		    space_device_digest(space, i) != m->superblock.device_digests[i])
			return true;
	return false;
}

/*
 * A device that left, and a superblock of a table without it: the crash came before the device set
 * that has it removed.
 */
static void
accept_gone(struct import *m)
{
	struct space *space = &m->pool->space;

	for (uint32_t i = 0; i < m->pool->device_count; i++) {
		const struct space_device *device = &space->devices[i];
		bool without =
		    space->copies == 1
			? space->table_digest - device->digest == m->superblock.table_digest
			: m->superblock.device_digests[i] == space_digest_of_none();

		if (i >= m->set.count || m->set.devices[i].state != DEVICE_STATE_LEAVING ||
		    device->out || !without || !space_is_unused(space, i))
			continue;
		space_start_leaving(space, i);
		space_remove_device(space, i);
		m->set_changed = true;
	}
}

/* The slabs of the superblock's segment; false: the table contradicts it. */
static bool
find_segment(struct import *m)
{
	const struct superblock *s = &m->superblock;
	struct space *space = &m->pool->space;
	struct slab *leader = space_find(space, s->log_segment);
	bool known = false;

	m->place_count = find_places(m, s->log_device, s->log_slab, s->log_copies, m->places);
	for (unsigned i = 0; i < m->place_count; i++)
		known |= leader && space_leader(m->places[i]) == leader;
	if (!known) {
		/* The slab may have been opened by nobody before the crash. */
		if (leader || s->log_slot != 0 || m->place_count == 0)
			return false;
		for (unsigned i = 0; i < m->place_count; i++)
			if (space_leader(m->places[i])->live > 0)
				return false;
		leader = space_open_places(space, m->places, m->place_count, s->log_segment);
	}
	m->place_count = space_places(space, leader, m->places);
	return true;
}

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
	memcpy(m->next_copies, s->log_next_copies, sizeof(m->next_copies));
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
	accept_gone(m);
	if (table_is_older(m) && !MUTANT(TABLE_DIGEST_UNCHECKED)) {
		import_open_readonly(m, "a page of the slab table is older than the superblock");
		m->phase = IMPORT_BEGIN;
		return;
	}
	if (!find_segment(m)) {
		import_open_readonly(m, "the slab table does not know the log's segment");
		m->phase = IMPORT_BEGIN;
		return;
	}
	/* A segment that was full at the checkpoint has nothing to read. */
	m->read_slot = m->slot;
	m->phase = m->slot < pool->space.slab_blocks ? IMPORT_SEGMENT : IMPORT_BATCH;
}

static void read_place(struct import *m);

/* What was read of place @copy; without copies that is `blocks`. */
static uint8_t *
read_of(const struct import *m, unsigned copy)
{
	return m->copies[copy] ? m->copies[copy] : m->blocks;
}

static void
place_read(struct block_reader *reader)
{
	struct import *m = container_of(reader, struct import, reader);
	size_t bytes = (size_t)(m->pool->space.slab_blocks - m->read_slot) * FORMAT_BLOCK_BYTES;
	uint32_t device = m->places[m->copy]->device;

	if (reader->error) {
		memset(read_of(m, m->copy), 0, bytes);
		m->unreadable++;
		m->pool->devices[device].errors++;
		diag_warning("%s: the log is unreadable: %s", pool_device(m->pool, device)->name,
		    strerror(-reader->error));
	}
	if (++m->copy < m->place_count)
		return read_place(m);
	m->phase = IMPORT_BATCH;
	if (m->unreadable == m->place_count) {
		import_open_readonly(m, "the log is unreadable");
		m->phase = IMPORT_BEGIN;
	} else if (m->copies[0]) {
		memcpy(m->blocks, m->copies[0], bytes);
	}
	import_step(m);
}

static void
read_place(struct import *m)
{
	struct pool *pool = m->pool;
	const struct slab *slab = m->places[m->copy];

	m->reader.done = place_read;
	block_reader_start(&m->reader, pool_device(pool, slab->device),
	    space_offset_bytes(&pool->space, slab, m->slot) / FORMAT_BLOCK_BYTES,
	    pool->space.slab_blocks - m->slot, read_of(m, m->copy));
}

void
replay_read_segment(struct import *m)
{
	m->read_slot = m->slot;
	m->copy = 0;
	m->unreadable = 0;
	read_place(m);
}

/* Where block @slot of the segment, as place @copy has it, is in memory. */
static const uint8_t *
copy_at(const struct import *m, unsigned copy, uint32_t slot)
{
	return read_of(m, copy) + (size_t)(slot - m->read_slot) * FORMAT_BLOCK_BYTES;
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

	for (unsigned i = 0;
	     i < m->place_count * (slab_blocks - m->slot) && !MUTANT(BEYOND_NOT_SEEN); i++) {
		uint32_t slot = m->slot + i / m->place_count;
		const struct batch_header *header =
		    (const void *)copy_at(m, i % m->place_count, slot);

		if (header->magic == BATCH_MAGIC &&
		    header->generation == m->superblock.generation &&
		    header->sequence > m->sequence &&
		    batch_header_valid(header, &m->pool->uuid, m->segment, slot, slab_blocks))
			m->durable_sequence =
			    max_u64(m->durable_sequence, header->durable_sequence);
	}
}

/* The next header of the log, from whichever copy has it; NULL: none. */
static const struct batch_header *
find_header(struct import *m)
{
	const struct batch_header *header = header_at(m, m->slot);

	if (header_follows(m, header, m->slot, m->sequence, m->previous_crc))
		return header;
	for (unsigned i = 0; m->copies[0] && i < m->place_count; i++) {
		const struct batch_header *copy = (const void *)copy_at(m, i, m->slot);

		if (!header_follows(m, copy, m->slot, m->sequence, m->previous_crc))
			continue;
		memcpy((void *)(uintptr_t)header, copy, FORMAT_BLOCK_BYTES);
		return header;
	}
	return NULL;
}

/* All its blocks, each from whichever copy has it; false: one is nowhere. */
static bool
complete(struct import *m, const struct batch_header *header)
{
	const uint8_t *copies[COPIES_MAX];
	unsigned count = m->copies[0] && header->block_count > 0 ? m->place_count : 0;

	for (unsigned i = 0; i < count; i++)
		copies[i] = copy_at(m, i, m->slot + 1);
	return batch_data_complete(header, (uint8_t *)(uintptr_t)(header + 1), copies, count);
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
	struct slab *places[COPIES_MAX];
	unsigned count = find_places(m, m->next_device, m->next_slab, m->next_copies, places);

	look_beyond(m);
	if (MUTANT(DURABLE_MARK_IGNORED))
		m->durable_sequence = 0;
	if (MUTANT(REPLAY_STOPS_AT_SEGMENT))
		m->tried_next = true;

	if (m->slot > 0 && count > 0 && m->next_segment != 0 && m->next_segment >> 47 == 0 &&
	    !m->tried_next) {
		/* Only a header that follows proves that the segment was opened; see
		 * replay_take_batch().
		 */
		m->tried_next = true;
		m->read_twice = false;
		memcpy(m->places, places, sizeof(places));
		m->place_count = count;
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
	const struct batch_header *header;
	int rc;

	if (m->slot >= pool->space.slab_blocks)
		return end_of_segment(m);
	header = find_header(m);
	if (!header)
		return read_again(m) ? (void)0 : end_of_segment(m);
	m->durable_sequence = max_u64(m->durable_sequence, header->durable_sequence);
	if (!complete(m, header) && !MUTANT(REPLAY_PAST_BAD_DATA)) {
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
		space_open_places(&pool->space, m->places, m->place_count, m->segment);
		m->next_device = BATCH_NO_SLAB;
		m->next_slab = BATCH_NO_SLAB;
		memset(m->next_copies, 0xff, sizeof(m->next_copies));
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
		batch_read_copies(header, m->next_copies);
		m->segment_max = max_u64(m->segment_max, header->next_segment);
	}
	m->level_slot = m->slot;
	m->level_blocks = 1 + header->block_count;
	m->copy = 0;
	m->slot += 1 + header->block_count;
	if (m->copies[0] && pool->state == POOL_STARTING)
		m->phase = IMPORT_LEVEL;
}

static void
levelled(struct device_io *io)
{
	struct import *m = container_of(io, struct import, level_io);
	uint32_t device = m->places[m->copy]->device;

	m->pool->devices[device].dirty = true;
	if (io->error) {
		m->pool->devices[device].errors++;
		import_open_readonly(m, "a copy of the log's end cannot be written");
		m->phase = IMPORT_BEGIN;
	}
	m->copy++;
	import_step(m);
}

bool
replay_level(struct import *m)
{
	size_t bytes = (size_t)m->level_blocks * FORMAT_BLOCK_BYTES;
	const uint8_t *good = (const uint8_t *)header_at(m, m->level_slot);

	for (; m->copy < m->place_count; m->copy++) {
		const struct slab *slab = m->places[m->copy];
		struct device_io *io = &m->level_io;

		if (memcmp(copy_at(m, m->copy, m->level_slot), good, bytes) == 0 ||
		    MUTANT(COPIES_NOT_LEVELLED))
			continue;
		memset(io, 0, sizeof(*io));
		m->level_iov.iov_base = (void *)(uintptr_t)good;
		m->level_iov.iov_len = bytes;
		io->op = DEVICE_WRITE;
		io->offset_bytes = space_offset_bytes(&m->pool->space, slab, m->level_slot);
		io->len_bytes = bytes;
		io->iov = &m->level_iov;
		io->iov_count = 1;
		io->done = levelled;
		device_submit(pool_device(m->pool, slab->device), io);
		return true;
	}
	m->phase = IMPORT_BATCH;
	return false;
}
