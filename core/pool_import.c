/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a pool: what its devices say, and recovery from a crash.
 *
 *   LABELS ─► FLUSH ─► SUPERBLOCKS ─► HEARTBEAT ─► TABLE ─► PACKED ─► CATALOG ─► LINK ─► SEGMENT ─►
 * BATCH (─► LEVEL: its copies are made alike) ─► … ─► BEGIN ─► done
 *
 *  1. Labels: all devices of one pool, each there.  Of label and superblocks every device has
 * twins; a damaged one is reported, its twin serves.
 *  2. The newest valid superblock wins.  Slab tables, the directories of packed slabs and the
 *     catalog are read as of it.
 *  3. The log is replayed, batch by batch, from the superblock's place: to the first header that
 * does not follow, or the first batch whose data is not all there.  Before a position that is known
 * to be durable that is damage, not a crash: nothing is cut off, the pool opens read-only and says
 *     what is lost.
 *  4. The cut is final: a new generation begins in a fresh segment, with segment numbers behind a
 *     gap, and a checkpoint of it is durable before the first client is served.  A crash in the
 * middle of all this changes nothing: it begins again from the same superblock.
 */
#include "core/pool_import_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"

/* More segments than can be in flight at once. */
#define SEGMENT_GAP (1u << 16)
/* Numbers have 47 bits, and a generation begins with 46: enough for four million recoveries, and in
 * each for more than any device can write. */
#define SEGMENT_GAP_RANDOM ((1u << 24) - SEGMENT_GAP)
#define SEGMENT_FIRST_BITS 46
#define CATALOG_READS 64u
#define TABLE_CHUNK_BLOCKS 256u

static void
run_step(struct task *task)
{
	import_step(container_of(task, struct import, step));
}

void
import_open_readonly(struct import *m, const char *what)
{
	struct pool *pool = m->pool;

	pool->state = POOL_READONLY;
	snprintf(pool->state_reason, sizeof(pool->state_reason), "%s", what);
	diag_error("pool %s is damaged and opens read-only: %s", pool->name, what);
}

/* --- labels --- */

static void label_read_done(struct device_io *io);

static void
label_decode_or_twin(struct pool_label *op)
{
	struct label label;
	struct error first;
	int rc = op->io.error;

	if (rc)
		error_set(&first, rc, "the label is unreadable: %s", strerror(-rc));
	else
		rc = label_decode(&label, op->block, op->device->size_bytes, &first);
	if (rc == 0) {
		op->error.code = 0;
		if (op->second)
			diag_warning("%s: %s; its copy at the end of the device serves",
			    op->device->name, op->error.text);
		memcpy(op->pool_name, label.pool_name, NAME_SIZE);
		op->pool_name[NAME_SIZE - 1] = '\0';
		op->pool_uuid = label.pool_uuid;
		op->device_uuid = label.device_uuid;
		op->label = label;
		op->done(op);
		return;
	}
	/* The error of the first copy says more, unless only the second shows that there is a pool.
	 */
	if (!op->second || (op->error.code == -ENODATA && rc != -ENODATA))
		op->error = first;
	if (op->second) {
		op->done(op);
		return;
	}
	op->second = true;
	op->io.offset_bytes = round_down(op->device->size_bytes, BLOCK_BYTES) - FORMAT_TAIL_BYTES;
	op->io.done = label_read_done;
	device_submit(op->device, &op->io);
}

static void
label_read_done(struct device_io *io)
{
	label_decode_or_twin(container_of(io, struct pool_label, io));
}

static void
too_small(struct task *task)
{
	struct pool_label *op = container_of(task, struct pool_label, task);

	error_set(&op->error, -ENODATA, "too small to belong to a pool (%llu bytes)",
	    (unsigned long long)op->device->size_bytes);
	op->done(op);
}

void
pool_label_read(struct pool_label *op)
{
	if (op->device->size_bytes < 2 * (uint64_t)FORMAT_TAIL_BYTES) {
		task_init(&op->task, too_small);
		reactor_defer(op->device->reactor, &op->task);
		return;
	}

	memset(&op->error, 0, sizeof(op->error));
	op->second = false;
	op->iov.iov_base = op->block;
	op->iov.iov_len = FORMAT_BLOCK_BYTES;
	memset(&op->io, 0, sizeof(op->io));
	op->io.op = DEVICE_READ;
	op->io.offset_bytes = FORMAT_LABEL_BLOCK * (uint64_t)FORMAT_BLOCK_BYTES;
	op->io.len_bytes = FORMAT_BLOCK_BYTES;
	op->io.iov = &op->iov;
	op->io.iov_count = 1;
	op->io.done = label_read_done;
	device_submit(op->device, &op->io);
}

static void
take_label(struct pool_label *op)
{
	struct import *m = container_of(op, struct import, label_read);
	struct pool *pool = m->pool;
	struct device *device = op->device;
	uint32_t index = op->label.device_index;

	if (op->error.code) {
		IMPORT_FAIL(m, op->error.code, "%s: %s", device->name, op->error.text);
	} else if (m->device > 0 && !uuid_equal(&op->pool_uuid, &pool->uuid)) {
		IMPORT_FAIL(m, -EINVAL, "%s belongs to another pool (%s) than %s (%s)",
		    device->name, op->pool_name, m->devices[0]->name, pool->name);
	} else if (pool->devices[index].device) {
		IMPORT_FAIL(m, -EINVAL, "%s and %s are the same device of pool %s", device->name,
		    pool->devices[index].device->name, op->pool_name);
	} else {
		if (m->device == 0) {
			pool->uuid = op->pool_uuid;
			memcpy(pool->name, op->pool_name, NAME_SIZE);
			pool->created_s = op->label.created_s;
		}
		pool->devices[index].device = device;
		pool->devices[index].label = op->label;
		m->devices[m->device] = device;
		m->sizes_bytes[m->device] = op->label.size_bytes;
		m->label_damaged[m->device] = op->second;
		m->device++;
	}
	import_step(m);
}

/* --- what a killed daemon left in the devices' caches is durable before it is trusted --- */

static void
device_flushed(struct block_writer *writer)
{
	struct import *m = container_of(writer, struct import, writer);

	if (writer->error)
		IMPORT_FAIL(m, -EIO, "%s cannot be flushed: %s", m->given[m->device]->name,
		    strerror(-writer->error));
	m->device++;
	import_step(m);
}

static void
flush_device(struct import *m)
{
	m->writer.count = 0;
	m->writer.done = device_flushed;
	block_writer_start(&m->writer, m->given[m->device]);
}

/* --- superblocks --- */

static const char *
place_name(unsigned place)
{
	return place == 0 ? "at the head" : "at the end";
}

/* Twins are written together: one without the other was damaged. */
static void
compare_twins(struct import *m, const struct device *device)
{
	for (unsigned slot = 0; slot < 2; slot++) {
		for (unsigned place = 0; place < 2; place++) {
			if (m->checkpoints[place][slot] == 0 && m->checkpoints[!place][slot] != 0)
				diag_warning("%s: superblock %u %s is damaged; its twin %s serves",
				    device->name, slot, place_name(place), place_name(!place));
			if (m->checkpoints[place][slot] != 0)
				m->device_slots[m->device][slot] = true;
		}
	}
}

static void
check_label_copy(struct import *m, const struct device *device)
{
	struct label label;
	struct error error;

	if (label_decode(&label, m->blocks, device->size_bytes, &error) == 0)
		return;
	diag_warning("%s: the label's copy at the end is damaged (%s); the first serves",
	    device->name, error.text);
	m->label_damaged[m->device] = true;
}

static void
superblocks_read(struct block_reader *reader)
{
	struct import *m = container_of(reader, struct import, reader);
	struct device *device = m->devices[m->device];

	memset(m->checkpoints[m->place], 0, sizeof(m->checkpoints[m->place]));
	if (reader->error)
		diag_warning("%s: label and superblocks %s are unreadable: %s", device->name,
		    place_name(m->place), strerror(-reader->error));
	else
		heads_take(m->blocks, &m->pool->uuid, &m->newest[m->device], &m->sets[m->device],
		    m->checkpoints[m->place]);
	if (!reader->error && m->place == 1)
		check_label_copy(m, device);
	m->place++;
	if (m->place == 2) {
		compare_twins(m, device);
		m->place = 0;
		m->device++;
	}
	import_step(m);
}

static void
read_superblocks(struct import *m)
{
	m->reader.done = superblocks_read;
	heads_read(
	    &m->reader, m->devices[m->device], m->sizes_bytes[m->device], m->place, m->blocks);
}

static bool
has_state(const struct import *m, uint32_t index, enum device_state state)
{
	return index < m->set.count && m->set.devices[index].state == (uint32_t)state;
}

static bool
is_removed(const struct import *m, uint32_t index)
{
	return has_state(m, index, DEVICE_STATE_REMOVED);
}

static bool
is_out(const struct import *m, uint32_t index)
{
	return (has_state(m, index, DEVICE_STATE_OUT) && !MUTANT(STALE_BELIEVED)) ||
	       is_removed(m, index);
}

static uint32_t
index_of(const struct import *m, const struct device *device)
{
	uint32_t index = 0;

	while (m->pool->devices[index].device != device)
		index++;
	return index;
}

static void
choose_set(struct import *m)
{
	uint32_t indices[POOL_DEVICES_MAX];
	uint32_t chosen;

	for (uint32_t i = 0; i < m->device_count; i++)
		indices[i] = index_of(m, m->devices[i]);
	chosen = device_set_choose(m->sets, indices, m->device_count);
	if (chosen < m->device_count)
		m->set = m->sets[chosen];
	/* The next one is newer than all, whichever counts now. */
	for (uint32_t i = 0; i < m->device_count; i++)
		m->pool->device_set_generation =
		    max_u64(m->pool->device_set_generation, m->sets[i].generation);
}

/* The newest superblock, of devices that were not left out. */
static void
choose_superblock(struct import *m)
{
	for (uint32_t i = 0; i < m->device_count; i++) {
		if (is_out(m, index_of(m, m->devices[i])))
			continue;
		for (unsigned slot = 0; slot < 2; slot++)
			m->slot_seen[slot] |= m->device_slots[i][slot];
		if (m->newest[i].checkpoint > m->superblock.checkpoint) {
			m->superblock = m->newest[i];
			m->superblock_found = true;
		}
	}
}

/* Some device that is in use does not have the set: a crash came before it was written there, and
 * where that device alone is asked it would be unknown. */
static bool
set_is_scarce(const struct import *m)
{
	for (uint32_t i = 0; i < m->device_count; i++)
		if (!is_out(m, index_of(m, m->devices[i])) &&
		    !device_set_is_same(&m->set, &m->sets[i]))
			return true;
	return false;
}

/*
 * Devices that the newest set has as ONLINE are missing: can the pool do without?  That everything
 * lies elsewhere too is not enough: the devices that are here may be those that were left out,
 * which only the missing ones know.  More than half of a set that is the newest of any of them
 * cannot be (device_loss.c).
 */
static bool
accept_devices(struct import *m)
{
	struct pool *pool = m->pool;
	uint32_t copies_min = (uint32_t)max_u64(1, m->set.copies_min);
	uint32_t online = 0, missing = 0, first = 0;

	for (uint32_t i = 0; i < pool->device_count; i++) {
		if (!is_removed(m, i) || !pool->devices[i].device)
			continue;
		if (uuid_equal(&pool->devices[i].label.device_uuid, &m->set.devices[i].uuid))
			continue; /* a crash came before its label was wiped: that is done now */
		IMPORT_FAIL(m, -EINVAL, "%s is no device of pool %s any more: leave it out",
		    pool->devices[i].device->name, pool->name);
		return false;
	}
	for (uint32_t i = pool->device_count; i-- > 0;) {
		if (is_out(m, i))
			continue;
		online++;
		if (pool->devices[i].device)
			continue;
		missing++;
		first = i;
	}
	m->set_changed = set_is_scarce(m) && !MUTANT(SET_NOT_SPREAD);
	if (missing == 0)
		return true;
	if (m->superblock.copies > 1 && missing >= copies_min) {
		IMPORT_FAIL(m, -ENODEV,
		    "pool %s has %u devices, and device %u is missing: what lies on it may lie "
		    "nowhere else; name all of them",
		    pool->name, pool->device_count, first);
		return false;
	}
	if (m->superblock.copies <= 1) {
		IMPORT_FAIL(m, -ENODEV,
		    "pool %s has %u devices, and device %u is missing: name all of them",
		    pool->name, pool->device_count, first);
		return false;
	}
	if (2 * (online - missing) <= online && !m->force) {
		IMPORT_FAIL(m, -ENODEV,
		    "pool %s has %u devices, and device %u is missing: it may have been in use "
		    "when "
		    "the others were not, and have newer data; if it is lost for good, --force "
		    "imports the pool without it",
		    pool->name, pool->device_count, first);
		return false;
	}
	m->set_changed = true;
	return true;
}

/* Nothing on devices that are missing, or were left out, counts. */
static void
leave_out(struct import *m)
{
	struct pool *pool = m->pool;

	for (uint32_t i = 0; i < m->set.count; i++) {
		pool->devices[i].set_has_out =
		    has_state(m, i, DEVICE_STATE_OUT) || is_removed(m, i);
		pool->devices[i].set_since = m->set.devices[i].since;
	}
	for (uint32_t i = 0; i < pool->device_count; i++) {
		struct pool_device *device = &pool->devices[i];

		if (!is_out(m, i) && device->device)
			continue;
		pool->space.devices[i].out = true;
		pool->space.devices[i].removed = is_removed(m, i);
		pool->space.device_count = (uint32_t)max_u64(pool->space.device_count, i + 1);
		if (device->device && is_removed(m, i)) {
			diag_info(
			    "pool %s: %s was removed from it", pool->name, device->device->name);
			continue;
		}
		if (device->device) {
			diag_warning(
			    "pool %s is DEGRADED: %s was left out, and what it holds is old",
			    pool->name, device->device->name);
			continue;
		}
		device->label.device_uuid = m->set.devices[i].uuid;
		device->label.size_bytes = m->set.devices[i].size_bytes;
		if (!is_removed(m, i))
			diag_warning("pool %s is DEGRADED: device %u is missing", pool->name, i);
	}
}

/* All labels and superblocks are known: is the pool complete? */
static void
accept_superblock(struct import *m)
{
	struct pool *pool = m->pool;
	const struct label *first = NULL;

	choose_set(m);
	choose_superblock(m);
	if (!m->superblock_found) {
		IMPORT_FAIL(m, -EUCLEAN,
		    "pool %s: no valid superblock is left (all copies on all devices are damaged)",
		    pool->name);
		return;
	}
	pool->device_count = m->superblock.device_count;
	pool->copies_told = m->set.copies_min;
	if (!accept_devices(m))
		return;
	for (uint32_t i = 0; i < pool->device_count; i++) {
		if (!pool->devices[i].device || is_out(m, i))
			continue;
		first = first ? first : &pool->devices[i].label;
		if (pool->devices[i].label.slab_blocks != first->slab_blocks) {
			IMPORT_FAIL(m, -EUCLEAN,
			    "pool %s: the labels disagree about the size of slabs", pool->name);
			return;
		}
	}
	for (uint32_t i = pool->device_count; i < POOL_DEVICES_MAX; i++) {
		if (!pool->devices[i].device)
			continue;
		IMPORT_FAIL(m, -EINVAL,
		    "%s was being added to pool %s, which was interrupted: leave it out, and add "
		    "it "
		    "again with --force",
		    pool->devices[i].device->name, pool->name);
		return;
	}
	if ((m->superblock.copies > 1) != ((first->features_incompat & LABEL_COPIES) != 0)) {
		IMPORT_FAIL(m, -EUCLEAN,
		    "pool %s: labels and superblock disagree about the copies that it keeps",
		    pool->name);
		return;
	}
	pool_init_engine(pool, first->slab_blocks, (uint32_t)max_u64(1, m->superblock.copies));
	leave_out(m);
	for (uint32_t i = 0; i < pool->device_count; i++) {
		const struct label *label = &pool->devices[i].label;

		if (pool->space.devices[i].out)
			continue;
		space_add_device(&pool->space, i, &label->device_uuid, label->slabs_block,
		    (uint32_t)label->slab_count);
	}
	free(m->blocks);
	m->blocks = xalloc_pages(
	    (size_t)FORMAT_BLOCK_BYTES * max_u64(first->slab_blocks, TABLE_CHUNK_BLOCKS));
	for (uint32_t i = 0; pool->space.copies > 1 && i < COPIES_MAX; i++)
		m->copies[i] = xalloc_pages((size_t)FORMAT_BLOCK_BYTES * first->slab_blocks);
	pool->generation = m->superblock.generation;
	pool->checkpoint_number = m->superblock.checkpoint;
	pool->scrub.record = m->superblock.scrub;
	pool_set_warn_percent(pool, m->superblock.warn_percent);
	pool->catalog.epoch = m->superblock.epoch;
	pool->catalog.next_id = m->superblock.next_id;
	pool->catalog.self.map.root = m->superblock.catalog_root;
	pool->catalog.self.map.levels = (uint8_t)m->superblock.catalog_levels;
	m->device = 0;
	m->page = 0;
	m->phase = pool->pulse.owner ? IMPORT_HEARTBEAT : IMPORT_TABLE;
}

/* --- heartbeats: is the pool in service elsewhere? --- */

/* Those that count. */
static uint32_t
heartbeat_devices(const struct import *m, struct device **devices)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < m->device_count; i++)
		if (!m->pool->space.devices[index_of(m, m->devices[i])].out)
			devices[count++] = m->devices[i];
	return count;
}

static bool
is_ours(const struct import *m, const struct heartbeat *seen)
{
	return uuid_equal(&seen->session, &m->pool->pulse.session);
}

static void
refuse_other(struct import *m, const struct heartbeat *seen)
{
	if (seen->released)
		IMPORT_FAIL(m, -EBUSY,
		    "pool %s was exported by %.63s (process %u) just now: import it again",
		    m->pool->name, seen->host, seen->pid);
	else
		IMPORT_FAIL(m, -EBUSY,
		    "pool %s is in service on %.63s (process %u): export it there first; if that "
		    "machine cannot write to the devices any more, --force imports it",
		    m->pool->name, seen->host, seen->pid);
}

/* The block is there, with others; nobody else wrote one meanwhile. */
static void
heartbeat_confirmed(struct heartbeat_round *round)
{
	struct import *m = container_of(round, struct import, heartbeats);

	for (uint32_t i = 0; i < round->count; i++) {
		const struct heartbeat *seen = &round->ios[i].one.seen;

		if (seen->interval_ms != 0 && uuid_equal(&seen->pool_uuid, &m->pool->uuid) &&
		    !is_ours(m, seen) && heartbeat_has_changed(seen, &m->before[i]))
			return refuse_other(m, seen), import_step(m);
	}
	heartbeat_start(m->pool);
	import_step(m);
}

static void
confirm(struct timer *timer)
{
	struct import *m = container_of(timer, struct import, heartbeat_timer);
	struct device *devices[POOL_DEVICES_MAX];
	uint32_t count = heartbeat_devices(m, devices);

	m->pool->pulse.confirmed_ns = device_gate_now_ns(&m->pool->pulse.gate);
	m->heartbeats.done = heartbeat_confirmed;
	heartbeat_round_read(&m->heartbeats, devices, count);
}

/* How long another machine that saw no block of ours may take to write its own. */
static uint64_t
confirm_after_ns(const struct import *m)
{
	const struct heartbeat_owner *owner = m->pool->pulse.owner;

	for (uint32_t i = 0; i < m->heartbeats.count; i++)
		if (m->before[i].interval_ms == 0 ||
		    !uuid_equal(&m->before[i].machine, &owner->machine))
			return owner->interval_ms / 3 * 1000000ull;
	return 0;
}

static void
heartbeat_written(struct heartbeat_round *round)
{
	struct import *m = container_of(round, struct import, heartbeats);

	/* The pool will find out for itself what such a device is good for. */
	for (uint32_t i = 0; i < round->count; i++) {
		const struct heartbeat_io *one = &round->ios[i].one;
		struct device *device = one->io.device;

		if (!one->error)
			continue;
		diag_warning("pool %s: no heartbeat on %s: %s", m->pool->name, device->name,
		    strerror(-one->error));
		m->pool->pulse.beats[index_of(m, device)].mute = true;
	}
	timer_init(&m->heartbeat_timer, confirm);
	reactor_timer_start(m->pool->reactor, &m->heartbeat_timer, confirm_after_ns(m));
}

/* Nobody else has the pool: it is ours. */
static void
take_over(struct import *m)
{
	struct device *devices[POOL_DEVICES_MAX];
	uint32_t count = heartbeat_devices(m, devices);
	struct heartbeat heartbeat;

	m->phase = IMPORT_TABLE;
	m->pool->pulse.beat++;
	heartbeat_of(m->pool, &heartbeat);
	m->heartbeats.done = heartbeat_written;
	heartbeat_round_write(&m->heartbeats, &heartbeat, devices, count);
}

static void
heartbeats_again(struct heartbeat_round *round)
{
	struct import *m = container_of(round, struct import, heartbeats);

	for (uint32_t i = 0; i < round->count; i++)
		if (heartbeat_has_changed(&round->ios[i].one.seen, &m->before[i]))
			return refuse_other(m, &round->ios[i].one.seen), import_step(m);
	take_over(m);
}

static void
waited(struct timer *timer)
{
	struct import *m = container_of(timer, struct import, heartbeat_timer);
	struct device *devices[POOL_DEVICES_MAX];
	uint32_t count = heartbeat_devices(m, devices);

	m->heartbeats.done = heartbeats_again;
	heartbeat_round_read(&m->heartbeats, devices, count);
}

static void
heartbeats_read(struct heartbeat_round *round)
{
	struct import *m = container_of(round, struct import, heartbeats);
	const struct heartbeat *suspect = NULL;

	for (uint32_t i = 0; i < round->count; i++) {
		m->before[i] = round->ios[i].one.seen;
		if (heartbeat_may_beat(m->pool, &m->before[i]))
			suspect = &m->before[i];
	}
	if (!suspect || m->force)
		return take_over(m);
	diag_info("pool %s was in service on %.63s (process %u), and was not exported: looks for "
		  "%u ms whether it still is",
	    m->pool->name, suspect->host, suspect->pid, suspect->interval_ms * 5 / 2);
	timer_init(&m->heartbeat_timer, waited);
	reactor_timer_start(
	    m->pool->reactor, &m->heartbeat_timer, suspect->interval_ms * 2500000ull);
}

static void
look_for_heartbeats(struct import *m)
{
	struct device *devices[POOL_DEVICES_MAX];
	uint32_t count = heartbeat_devices(m, devices);

	m->heartbeats.done = heartbeats_read;
	heartbeat_round_read(&m->heartbeats, devices, count);
}

/* --- slab tables --- */

static uint32_t
pages_in_chunk(const struct import *m)
{
	const struct space_device *device = &m->pool->space.devices[m->device];

	return (uint32_t)min_u64(device->page_count - m->page, TABLE_CHUNK_BLOCKS / 2);
}

static void
table_read(struct block_reader *reader)
{
	struct import *m = container_of(reader, struct import, reader);
	struct space *space = &m->pool->space;
	uint32_t pages = pages_in_chunk(m);

	if (reader->error) {
		IMPORT_FAIL(m, -EIO, "pool %s: the slab table on %s is unreadable: %s",
		    m->pool->name, m->pool->devices[m->device].device->name,
		    strerror(-reader->error));
		return import_step(m);
	}
	for (uint32_t i = 0; i < pages; i++) {
		const uint8_t *at = m->blocks + 2 * (size_t)i * FORMAT_BLOCK_BYTES;
		struct error error;
		int rc = space_decode_page(space, m->device, m->page + i, m->superblock.checkpoint,
		    at, at + FORMAT_BLOCK_BYTES, &error);

		if (rc) {
			IMPORT_FAIL(m, rc, "pool %s: %s", m->pool->name, error.text);
			return import_step(m);
		}
	}
	m->page += pages;
	if (m->page == space->devices[m->device].page_count) {
		m->page = 0;
		m->device++;
	}
	import_step(m);
}

static void
read_table(struct import *m)
{
	m->reader.done = table_read;
	block_reader_start(&m->reader, m->pool->devices[m->device].device,
	    FORMAT_TABLE_BLOCK + 2ull * m->page, 2ull * pages_in_chunk(m), m->blocks);
}

static void
packed_loaded(struct packed_load *load)
{
	import_step(container_of(load, struct import, packed));
}

/* --- catalog --- */

static void
woken(struct waiter *waiter, int error)
{
	struct import *m = container_of(waiter, struct import, wait);

	if (error)
		IMPORT_FAIL(m, error, "pool %s: the catalog's map is unreadable", m->pool->name);
	import_step(m);
}

static void
catalog_block_done(struct block_fetch *fetch)
{
	struct catalog_read *read = container_of(fetch, struct catalog_read, fetch);
	struct import *m = read->import;

	if (m->phase == IMPORT_CATALOG && fetch->error)
		IMPORT_FAIL(m, -EUCLEAN, "pool %s: block %llu of the catalog is damaged",
		    m->pool->name, (unsigned long long)read->index);
	if (--m->reads_in_flight == 0)
		import_step(m);
}

static void
decode_catalog_chunk(struct import *m)
{
	for (unsigned i = 0; i < m->read_count && m->phase == IMPORT_CATALOG; i++) {
		struct error error;
		int rc = catalog_decode_block(
		    &m->pool->catalog, m->reads[i].index, m->reads[i].fetch.block, &error);

		if (rc)
			IMPORT_FAIL(m, rc, "pool %s: %s", m->pool->name, error.text);
	}
	m->read_count = 0;
}

/* Starts reading the next blocks of the catalog; false: a wait began. */
static bool
read_catalog(struct import *m)
{
	struct pool *pool = m->pool;
	struct map *map = &pool->catalog.self.map;
	uint64_t end = pool->catalog.next_id / CATALOG_RECORDS_PER_BLOCK + 1;

	if (!m->pinned) {
		node_pin_begin(&pool->nodes, &m->pin);
		m->pinned = true;
	}
	m->reads_in_flight = 1;
	while (m->catalog_index < end && m->read_count < CATALOG_READS) {
		struct map_entry entry;
		struct map_fault fault;
		uint64_t run;
		uint32_t depth;

		if (map_run(&pool->nodes, map, NULL, m->catalog_index, end - m->catalog_index, 64,
			&depth, &run, &fault) == MAP_FAULT ||
		    map_get(&pool->nodes, map, m->catalog_index, 1, &entry, &fault) == MAP_FAULT) {
			if (m->read_count > 0)
				break;
			node_load(pool, &fault, &m->wait);
			return false;
		}
		if (depth == 0) {
			m->catalog_index += run;
			continue;
		}
		struct catalog_read *read = &m->reads[m->read_count];

		m->read_count++;
		read->import = m;
		read->index = m->catalog_index++;
		read->fetch.what = "a block of the catalog";
		read->fetch.done = catalog_block_done;
		m->reads_in_flight++;
		block_fetch_start(&read->fetch, pool, entry, NULL, 0, 0, 0);
	}
	if (m->read_count == 0 && m->phase == IMPORT_CATALOG)
		m->phase = IMPORT_LINK;
	return --m->reads_in_flight == 0;
}

/* --- a new generation --- */

static void
seal_all(struct pool *pool)
{
	for (uint32_t d = 0; d < pool->space.device_count; d++) {
		struct space_device *device = &pool->space.devices[d];

		for (uint32_t i = 0; i < device->mark; i++)
			if (space_slab(device, i)->state == SLAB_OPEN)
				space_seal_slab(&pool->space, space_slab(device, i),
				    (uint32_t)pool->checkpoint_number);
	}
}

static void
checkpoint_done(struct waiter *waiter, int error)
{
	struct import *m = container_of(waiter, struct import, wait);

	/* Then the pool failed and has said why; it can be read as it was found. */
	(void)error;
	import_step(m);
}

/*
 * A recovery that a crash ends is followed by one from the same superblock.  Chance keeps the two
 * from issuing the same addresses, so that nothing which the first one wrote can be taken for the
 * second one's.
 */
static uint64_t
segment_gap(void)
{
	struct uuid uuid = uuid_new();
	uint64_t word;

	if (MUTANT(SEGMENT_GAP_LEFT_OUT))
		return 1;
	memcpy(&word, &uuid, sizeof(word));
	return SEGMENT_GAP + mix64(word) % SEGMENT_GAP_RANDOM;
}

/* True: a wait began. */
static bool
begin_generation(struct import *m)
{
	struct pool *pool = m->pool;
	struct log *log = &pool->log;

	m->phase = IMPORT_MEND;
	m->device = 0;
	m->set_at = 0;
	if (m->pinned) {
		node_pin_end(&pool->nodes, &m->pin);
		m->pinned = false;
	}
	if (m->start->recovered)
		m->start->recovered(m->start, pool);
	pool_set_limits(pool);
	log->next_segment_number = m->segment_max + segment_gap();
	log->sequence = m->sequence;
	if (log->next_segment_number >> SEGMENT_FIRST_BITS && pool->state != POOL_READONLY)
		import_open_readonly(m, "the numbers of segments are used up");
	if (pool->state == POOL_READONLY)
		return false;
	for (uint32_t i = 0; i < pool->device_count; i++)
		if (has_state(m, i, DEVICE_STATE_LEAVING) && !pool->space.devices[i].out)
			device_leaving_resume(pool, i);
	for (uint32_t i = 0; i < pool->device_count; i++)
		pool->devices[i].told = pool->space.devices[i].removed;
	seal_all(pool);
	relocation_place(pool); /* what lies badly was known to the dead daemon alone */
	pool->generation++;
	if (m->set_changed) /* the log is written to when that set is durable */
		pool->copies_told = space_copies_min(&pool->space);
	if (log_start(pool)) {
		import_open_readonly(m, "no slab is free to begin a log in");
		return false;
	}
	diag_info("pool %s: checkpoint %llu, %llu batches replayed", pool->name,
	    (unsigned long long)m->superblock.checkpoint, (unsigned long long)m->batches);
	m->phase = IMPORT_SPREAD;
	return false;
}

static void
set_written(struct block_writer *writer)
{
	struct import *m = container_of(writer, struct import, writer);

	if (writer->error) {
		import_open_readonly(
		    m, "the list of devices has changed, and one of them cannot be written to");
		m->phase = IMPORT_MEND;
	}
	m->set_at++;
	import_step(m);
}

/* Devices that are missing are left out from now on, and the others know that before anything is
 * written without them.  True: a wait began. */
static bool
write_device_sets(struct import *m)
{
	struct pool *pool = m->pool;

	if (m->set_changed && m->set_at == 0) {
		pool->device_set_generation++;
		pool_encode_device_set(pool, m->blocks);
	}
	for (; m->set_changed && m->set_at < pool->device_count; m->set_at++) {
		if (pool->space.devices[m->set_at].out)
			continue;
		m->writer.done = set_written;
		pool_write_device_set(pool, m->set_at, &m->writer, m->blocks);
		return true;
	}
	m->phase = IMPORT_CHECKPOINT;
	return false;
}

static void
superblock_written(struct block_writer *writer)
{
	struct import *m = container_of(writer, struct import, writer);

	if (writer->error) {
		import_open_readonly(
		    m, "the newest superblock is not on all devices, and cannot be written there");
		m->phase = IMPORT_MEND;
	}
	m->device++;
	import_step(m);
}

/*
 * The superblock of which this generation begins may be on some devices only, as the crash came
 * when it was written.  All get it before the first table page of a newer one takes the place of a
 * page that an older superblock means: else those devices could not be opened without these.  True:
 * a wait began.
 */
static bool
spread_superblock(struct import *m)
{
	for (; m->device < m->device_count && m->superblock.copies > 1; m->device++) {
		struct device *device = m->devices[m->device];
		uint32_t index = index_of(m, device);
		const struct label *label = &m->pool->devices[index].label;
		uint64_t place = m->superblock.checkpoint % 2;
		struct geometry geometry;

		if (m->pool->space.devices[index].out ||
		    m->newest[m->device].checkpoint == m->superblock.checkpoint ||
		    MUTANT(SUPERBLOCK_NOT_SPREAD))
			continue;
		geometry_of(&geometry, label->size_bytes, label->slab_blocks);
		superblock_encode(&m->superblock, m->blocks);
		m->writer.count = 0;
		m->writer.done = superblock_written;
		block_writer_add(&m->writer, FORMAT_SUPERBLOCK_BLOCK + place, m->blocks);
		block_writer_add(&m->writer,
		    geometry.tail_block + FORMAT_TAIL_SUPERBLOCK_BLOCK + place, m->blocks);
		block_writer_start(&m->writer, device);
		return true;
	}
	m->device = 0;
	m->phase = IMPORT_DEVICES;
	return false;
}

/* True: a wait began. */
static bool
begin_checkpoint(struct import *m)
{
	m->phase = IMPORT_MEND;
	waiter_init(&m->wait, checkpoint_done);
	if (MUTANT(CUT_NOT_DURABLE)) {
		checkpoint_start(m->pool, NULL);
		return false;
	}
	checkpoint_start(m->pool, &m->wait);
	return true;
}

static void
label_mended(struct block_writer *writer)
{
	struct import *m = container_of(writer, struct import, writer);

	if (writer->error)
		diag_warning("%s: the damaged label could not be written again: %s",
		    m->devices[m->device]->name, strerror(-writer->error));
	m->device++;
	import_step(m);
}

/* Writes the labels of devices that lost one again; true: a wait began. */
static bool
mend_labels(struct import *m)
{
	struct pool *pool = m->pool;

	for (; m->device < m->device_count; m->device++) {
		struct device *device = m->devices[m->device];
		uint32_t index = index_of(m, device);
		struct geometry geometry;

		if (!m->label_damaged[m->device] || pool->state != POOL_STARTING)
			continue;
		if (pool->space.devices[index].out)
			continue;
		label_encode(&pool->devices[index].label, m->blocks);
		geometry_of(
		    &geometry, pool->devices[index].label.size_bytes, pool->space.slab_blocks);
		m->writer.count = 0;
		m->writer.done = label_mended;
		block_writer_add(&m->writer, FORMAT_LABEL_BLOCK, m->blocks);
		block_writer_add(
		    &m->writer, geometry.tail_block + FORMAT_TAIL_LABEL_BLOCK, m->blocks);
		block_writer_start(&m->writer, device);
		return true;
	}
	return false;
}

static void
finish(struct import *m)
{
	struct pool_start *start = m->start;
	struct pool *pool = m->pool;

	if (m->reads)
		for (unsigned i = 0; i < CATALOG_READS; i++)
			free(m->reads[i].fetch.block);
	free(m->reads);
	free(m->label_read.block);
	free(m->newest);
	free(m->device_slots);
	free(m->sets);
	free(m->before);
	heartbeat_round_fini(&m->heartbeats);
	free(m->blocks);
	for (unsigned i = 0; i < COPIES_MAX; i++)
		free(m->copies[i]);
	if (start->error.code) {
		/* Devices that were not placed yet are the pool's to close too. */
		for (uint32_t i = 0; i < POOL_DEVICES_MAX; i++)
			pool->devices[i].device = NULL;
		for (uint32_t i = 0; i < m->device_count; i++)
			pool->devices[i].device = m->given[i];
		pool_free(pool);
		start->pool = NULL;
	} else {
		if (pool->state == POOL_STARTING)
			pool->state = POOL_ONLINE;
		housekeeping_start(pool);
		reaper_kick(pool);
		relocation_kick(pool);
		scrub_kick(pool);
		start->pool = pool;
	}
	free(m);
	start->done(start);
}

void
import_step(struct import *m)
{
	for (;;) {
		switch (m->phase) {
		case IMPORT_LABELS:
			if (m->device < m->device_count) {
				m->label_read.device = m->given[m->device];
				m->label_read.done = take_label;
				return pool_label_read(&m->label_read);
			}
			m->device = 0;
			m->phase = IMPORT_FLUSH;
			continue;
		case IMPORT_FLUSH:
			if (m->device < m->device_count && !MUTANT(IMPORT_NOT_FLUSHED))
				return flush_device(m);
			m->device = 0;
			m->phase = IMPORT_SUPERBLOCKS;
			continue;
		case IMPORT_SUPERBLOCKS:
			if (m->device < m->device_count)
				return read_superblocks(m);
			accept_superblock(m);
			continue;
		case IMPORT_HEARTBEAT:
			return look_for_heartbeats(m);
		case IMPORT_TABLE:
			while (m->device < m->pool->device_count &&
			       m->pool->space.devices[m->device].out)
				m->device++;
			if (m->device < m->pool->device_count)
				return read_table(m);
			m->phase = IMPORT_PACKED;
			continue;
		case IMPORT_PACKED:
			m->phase = IMPORT_CATALOG;
			m->packed.space = &m->pool->space;
			m->packed.done = packed_loaded;
			return packed_load_start(&m->packed, m->pool);
		case IMPORT_CATALOG:
			decode_catalog_chunk(m);
			if (m->phase == IMPORT_CATALOG && !read_catalog(m))
				return;
			continue;
		case IMPORT_LINK:
			if (catalog_link(&m->pool->catalog, &m->start->error)) {
				m->phase = IMPORT_DONE;
				continue;
			}
			replay_begin(m);
			continue;
		case IMPORT_SEGMENT:
			return replay_read_segment(m);
		case IMPORT_BATCH:
			replay_take_batch(m);
			if (m->loads > 0)
				return;
			continue;
		case IMPORT_LEVEL:
			if (replay_level(m))
				return;
			continue;
		case IMPORT_BEGIN:
			if (m->pool->pulse.lost) {
				IMPORT_FAIL(
				    m, -EBUSY, "pool %s: %s", m->pool->name, m->pool->state_reason);
				continue;
			}
			if (begin_generation(m))
				return;
			continue;
		case IMPORT_SPREAD:
			if (spread_superblock(m))
				return;
			continue;
		case IMPORT_DEVICES:
			if (write_device_sets(m))
				return;
			continue;
		case IMPORT_CHECKPOINT:
			if (begin_checkpoint(m))
				return;
			continue;
		case IMPORT_MEND:
			if (mend_labels(m))
				return;
			m->phase = IMPORT_DONE;
			continue;
		case IMPORT_DONE:
			if (m->start->error.code && heartbeat_stop(m->pool, &m->step))
				return;
			/* Not from inside a device's completion: devices may be closed. */
			if (!m->ending) {
				m->ending = true;
				reactor_defer(m->pool->reactor, &m->step);
				return;
			}
			return finish(m);
		}
	}
}

void
pool_import(const struct pool_config *config, struct device **devices, uint32_t device_count,
    struct pool_start *start)
{
	struct import *m = xcalloc(1, sizeof(*m));

	CHECK(device_count > 0 && device_count <= POOL_DEVICES_MAX);
	m->start = start;
	m->pool = pool_new(config);
	m->device_count = device_count;
	memcpy(m->given, devices, device_count * sizeof(struct device *));
	m->newest = xcalloc(device_count, sizeof(*m->newest));
	m->device_slots = xcalloc(device_count, sizeof(*m->device_slots));
	m->sets = xcalloc(device_count, sizeof(*m->sets));
	m->before = xcalloc(device_count, sizeof(*m->before));
	heartbeat_round_init(&m->heartbeats);
	m->force = config->force;
	m->label_read.block = xalloc_pages(FORMAT_BLOCK_BYTES);
	m->blocks = xalloc_pages(5 * (size_t)FORMAT_BLOCK_BYTES);
	m->reads = xcalloc(CATALOG_READS, sizeof(*m->reads));
	for (unsigned i = 0; i < CATALOG_READS; i++)
		m->reads[i].fetch.block = xalloc_pages(FORMAT_BLOCK_BYTES);
	waiter_init(&m->wait, woken);
	task_init(&m->step, run_step);
	memset(&start->error, 0, sizeof(start->error));
	start->pool = NULL;
	reactor_defer(config->reactor, &m->step);
}
