/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: operations add their blocks to the open batch; batches go to the device as one vectored
 * write each, several at a time; they are applied in the order of the log.
 *
 *   OPEN ─(turn's end, or full)─► CLOSED ─► IN_FLIGHT ─► WRITTEN ─(all before it applied)─► applied
 *
 * - A batch is closed when the reactor has nothing more to add in this turn and fewer than
 *   in_flight_max are under way; otherwise it goes on filling, so batches grow with the load.
 * - The header's CRC chain fixes the order; so a crash leaves a prefix.
 * - A segment's slab stays OPEN until the last batch on it is applied: from there a replay of the
 *   next checkpoint may begin.
 * - A header names the slab of the next segment; no segment is opened that was not named.
 * - With copies each batch goes to all places of its segment, and is WRITTEN when the last of those
 *   writes is done.
 * - Of what is held back for trims, deletes and checkpoints a pool that lost a device takes slabs
 *   with as few copies as the device set admits already (choose_next()).
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#include "core/base/mutant.h"

/* So many flushes in a row must have followed on one batch each. */
enum {
	FLUSHES_FORETOLD = 8
};

static void log_pump(struct pool *pool);
static void batch_write_done(struct device_io *io);
static void flush_ahead(struct pool *pool);

static void
turn_end(struct task *task)
{
	struct pool *pool = container_of(task, struct pool, log.turn_end);

	log_pump(pool);
}

void
log_init(struct pool *pool)
{
	struct log *log = &pool->log;

	memset(log, 0, sizeof(*log));
	list_init(&log->batches);
	list_init(&log->waiters);
	list_init(&log->flush_waiters);
	task_init(&log->turn_end, turn_end);
	log->in_flight_max = 2; /* one is written while the next one fills */
	log->sequence = 1;
	log->next_segment_number = 1;
	for (unsigned i = 0; i < LOG_BATCHES; i++) {
		struct batch *batch = xcalloc(1, sizeof(*batch));

		batch->pool = pool;
		batch->header = xalloc_pages(FORMAT_BLOCK_BYTES);
		batch->iov = xcalloc(DEVICE_IOV_MAX, sizeof(struct iovec));
		list_init(&batch->link);
		list_init(&batch->appends);
		log->all[i] = batch;
	}
	log->flush_ios = xcalloc(POOL_DEVICES_MAX, sizeof(struct pool_io));
}

void
log_fini(struct pool *pool)
{
	struct log *log = &pool->log;

	reactor_cancel(pool->reactor, &log->turn_end);
	for (unsigned i = 0; i < LOG_BATCHES; i++) {
		free(log->all[i]->header);
		free(log->all[i]->iov);
		free(log->all[i]->owned);
		free(log->all[i]);
	}
	free(log->flush_ios);
}

bool
log_idle(const struct pool *pool)
{
	const struct log *log = &pool->log;

	return !log->open && list_empty(&log->batches) && log->flushes_left == 0 &&
	       list_empty(&log->flush_waiters);
}

void
log_slab_unread(struct pool *pool, const struct slab *slab)
{
	if (slab->readers > 0 || slab->state != SLAB_FREE)
		return;
	if (!MUTANT(UNREAD_SILENT)) {
		waiters_wake(&pool->log.waiters, 0);
		relocation_slab_unread(pool);
	}
	if (pool->space.leaving_count > 0)
		device_leaving_consider(pool);
}

uint64_t
log_held_slabs(const struct pool *pool, enum log_class class)
{
	/* What a checkpoint needs, rounded up. */
	uint64_t blocks = max_u64(pool->log.held_blocks, checkpoint_blocks_max(pool));
	uint64_t checkpoint = blocks / (pool->space.slab_blocks - 2) + 1;

	switch (class) {
	case LOG_CLIENT:
		return min_u64(pool->reserve_slabs, checkpoint + 4);
	case LOG_TRIM:
		return min_u64(pool->reserve_slabs / 2, checkpoint + 2);
	case LOG_DELETE:
		return min_u64(pool->reserve_slabs / 6, checkpoint + 1);
	case LOG_CHECKPOINT:
		return 0;
	}
	CHECK(false);
}

/*
 * How many copies a segment may have at least: no less than an import counts on.  A slab that can
 * be had with all copies is one with fewer still after any device was lost, so what is held back is
 * there in a pool that lost one, though what is free may find no partner.
 */
static uint32_t
copies_least(const struct pool *pool)
{
	uint32_t now = space_copies_now(&pool->space);

	if (pool->space.copies == 1 || pool->loss.active || MUTANT(LAST_SLABS_PAIRED))
		return now;
	return MUTANT(FEWER_THAN_TOLD) ? 1 : (uint32_t)min_u64(now, max_u64(1, pool->copies_told));
}

bool
log_has_room(const struct pool *pool, enum log_class class)
{
	uint64_t slabs = pool->space.free_count;

	if (class != LOG_CLIENT && pool->space.copies > 1)
		slabs = space_count_free(&pool->space, copies_least(pool));
	slabs += pool->log.next_slab != NULL;
	if (class == LOG_CHECKPOINT || (class == LOG_CLIENT && MUTANT(ENOSPC_FLOOR)))
		return true;
	return slabs > log_held_slabs(pool, class);
}

/* --- segments --- */

static void
choose_next(struct pool *pool)
{
	struct log *log = &pool->log;
	uint32_t after = log->slab ? log->slab->device : 0, least = copies_least(pool);

	if (log->next_slab)
		return;
	if (least < space_copies_now(&pool->space) &&
	    pool->space.free_count <= log_held_slabs(pool, LOG_TRIM))
		log->next_slab = space_take_fewer(&pool->space, after, least);
	else
		log->next_slab = space_take(&pool->space, after);
	if (!log->next_slab)
		return;
	log->next_segment = log->next_segment_number++;
}

void
log_forget_next(struct pool *pool)
{
	struct log *log = &pool->log;

	if (!log->next_slab || log->next_named || log->open)
		return;
	space_unreserve(&pool->space, log->next_slab);
	log->next_slab = NULL;
}

/* Whether a place of @slab was not written before, and the first write there is slow. */
static bool
is_new(struct pool *pool, struct slab *slab)
{
	struct slab *places[COPIES_MAX];
	unsigned count = space_places(&pool->space, slab, places);

	for (unsigned i = 0; i < count; i++)
		if (!(places[i]->flags & SLAB_WRITTEN) &&
		    pool_device(pool, places[i]->device)->prepare_space)
			return true;
	return false;
}

static void
enter_segment(struct pool *pool)
{
	struct log *log = &pool->log;

	log->slab = log->next_slab;
	log->segment = log->next_segment;
	log->slot = 0;
	log->next_slab = NULL;
	log->next_named = false;
	log->slab_is_new = is_new(pool, log->slab);
	space_open_slab(&pool->space, log->slab, log->segment);
	housekeeping_segment_opened(pool);
}

/*
 * The open slab lies badly; or it is new and clients flush, which is slow there, and a slab that
 * was written before is free: the rest of the open one is left.
 */
static bool
should_leave_segment(struct pool *pool)
{
	const struct log *log = &pool->log;
	struct slab *places[COPIES_MAX];
	unsigned count;

	if (space_lies_badly(&pool->space, log->slab) && log_has_room(pool, LOG_CLIENT))
		return true;
	if (!log->slab_is_new || log->flush_round < pool->housekeeping.flush_round + 4 ||
	    !log_has_room(pool, LOG_CLIENT) || (log->next_slab && is_new(pool, log->next_slab)))
		return false;
	count = space_places(&pool->space, log->slab, places);
	for (unsigned i = 0; i < count; i++)
		if (pool->space.devices[places[i]->device].written_free_count == 0)
			return false;
	return true;
}

static void
applied_moves_to(struct log *log, uint64_t segment, struct slab *slab)
{
	log->applied_segment = segment;
	log->applied_slab = slab;
	log->applied_slot = 0;
}

static void
seal(struct pool *pool, struct slab *slab)
{
	space_seal_slab(&pool->space, slab, (uint32_t)pool->checkpoint_number);
	if (space_lies_badly(&pool->space, slab))
		relocation_place(pool);
}

/* The open segment is full enough: on to the one that was named. */
static void
switch_segment(struct pool *pool)
{
	struct log *log = &pool->log;
	struct slab *old = log->slab;

	CHECK(!log->open && log->next_named);
	enter_segment(pool);
	if (MUTANT(SEALED_EARLY) && !list_empty(&log->batches))
		seal(pool, old);
	if (list_empty(&log->batches)) {
		applied_moves_to(log, log->segment, log->slab);
		seal(pool, old);
	} else {
		struct batch *last = list_last(&log->batches, struct batch, link);

		last->then_slab = log->slab;
		last->then_segment = log->segment;
	}
}

int
log_start(struct pool *pool)
{
	struct log *log = &pool->log;

	log->slab = NULL;
	choose_next(pool);
	if (!log->next_slab)
		return -ENOSPC;
	log->previous_crc = 0;
	enter_segment(pool);
	applied_moves_to(log, log->segment, log->slab);
	log->applied_sequence = log->sequence - 1;
	log->durable_sequence = log->applied_sequence;
	log->applied_crc = 0;
	return 0;
}

/* --- filling --- */

static struct batch *
open_batch(struct pool *pool)
{
	struct log *log = &pool->log;

	for (unsigned i = 0; i < LOG_BATCHES; i++) {
		struct batch *batch = log->all[i];

		if (batch->state != BATCH_UNUSED)
			continue;
		batch->state = BATCH_OPEN;
		batch->slab = log->slab;
		batch->then_slab = NULL;
		batch->iov[0].iov_base = batch->header;
		batch->iov[0].iov_len = FORMAT_BLOCK_BYTES;
		batch->iov_count = 1;
		batch->owned_count = 0;
		batch->write_blocks = 0;
		batch_begin(batch->header, log->segment, log->slot);
		log->open = batch;
		reactor_at_turn_end(pool->reactor, &log->turn_end);
		return batch;
	}
	return NULL;
}

static void
close_batch(struct pool *pool)
{
	struct log *log = &pool->log;
	struct batch *batch = log->open;
	struct batch_header *header = batch->header;

	log->open = NULL;
	/* Late: the longer it waits, the better the choice. */
	if (log->slot + header->block_count >= pool->space.slab_blocks / 2)
		choose_next(pool);
	header->generation = pool->generation;
	header->sequence = log->sequence++;
	header->durable_sequence =
	    MUTANT(DURABLE_MARK_EARLY) ? log->applied_sequence : log->durable_sequence;
	header->previous_crc = log->previous_crc;
	if (log->next_slab) {
		struct slab_place copies[COPIES_MAX - 1];

		header->next_segment = log->next_segment;
		header->next_copies = space_name_places(
		    &pool->space, log->next_slab, &header->next_device, &header->next_slab, copies);
		batch_name_copies(header, copies);
		log->next_named = true;
	}
	header->crc = batch_crc(header, &pool->uuid);
	log->previous_crc = header->crc;
	log->slot += 1 + header->block_count;
	log->blocks_since_cut += 1 + header->block_count;
	batch->state = BATCH_CLOSED;
	list_push_back(&log->batches, &batch->link);
}

/* One slot is kept for a header that names the next slab, as long as none is known. */
static uint32_t
slots_free(const struct pool *pool, uint32_t slot)
{
	uint32_t usable = pool->space.slab_blocks - (pool->log.next_slab ? 0 : 1);

	return slot < usable ? usable - slot : 0;
}

static bool
fits_open(const struct pool *pool, uint32_t blocks, size_t entry_bytes)
{
	const struct batch *batch = pool->log.open;

	return batch && batch_room_bytes(batch->header) >= entry_bytes &&
	       slots_free(pool, batch->header->slot + 1 + batch->header->block_count) >= blocks &&
	       batch->iov_count + blocks <= DEVICE_IOV_MAX;
}

/* No slab could be taken: but free ones that are read or discarded come soon, and when a device was
 * left out fewer copies may do. */
static bool
more_may_come(const struct pool *pool)
{
	return pool->loss.active || space_count_free(&pool->space, copies_least(pool)) > 0;
}

int
log_reserve(struct pool *pool, enum log_class class, uint32_t blocks, size_t entry_bytes)
{
	struct log *log = &pool->log;

	CHECK(blocks < pool->space.slab_blocks && entry_bytes <= BATCH_ENTRY_BYTES_MAX);
	if (pool->state == POOL_FAILED)
		return -EIO;
	if (pool->state == POOL_READONLY)
		return -EROFS;
	/* It may count nodes that only whoever asks here has promised: if they find no room, and
	 * give those back to wait, there shall not seem to be room for them. */
	log->held_blocks = max_u64(log->held_blocks, checkpoint_blocks_max(pool));
	if (!log_has_room(pool, class))
		return -ENOSPC;
	while (!fits_open(pool, blocks, entry_bytes)) {
		if (log->open)
			close_batch(pool);
		if (slots_free(pool, log->slot) < blocks + 1 || should_leave_segment(pool)) {
			choose_next(pool);
			if (!log->next_slab)
				return more_may_come(pool) ? -EAGAIN : -ENOSPC;
			if (log->next_named)
				switch_segment(pool);
			/* else the batch that is opened now names it, and the loop comes here again
			 */
		}
		if (!open_batch(pool)) {
			log_pump(pool);
			return -EAGAIN;
		}
		if (!fits_open(pool, blocks, entry_bytes))
			close_batch(pool);
	}
	return 0;
}

void
log_add_data(struct pool *pool, enum batch_entry_type type, uint64_t image, uint64_t lba,
    uint32_t count, void *data, const uint32_t *crcs)
{
	struct batch *batch = pool->log.open;
	struct iovec *last = &batch->iov[batch->iov_count - 1];
	size_t bytes = (size_t)count * FORMAT_BLOCK_BYTES;

	if (type == BATCH_WRITE) {
		batch->write_blocks += count;
		pool->log.pending_blocks += count;
	}
	batch_add_blocks(batch->header, type, image, lba, count, crcs);
	if (batch->iov_count > 1 && (char *)last->iov_base + last->iov_len == (char *)data) {
		last->iov_len += bytes;
		return;
	}
	CHECK(batch->iov_count < DEVICE_IOV_MAX);
	batch->iov[batch->iov_count].iov_base = data;
	batch->iov[batch->iov_count].iov_len = bytes;
	batch->iov_count++;
}

void
log_add_zero(struct pool *pool, uint64_t image, uint64_t lba, uint64_t blocks)
{
	batch_add_zero(pool->log.open->header, image, lba, blocks);
}

void *
log_owned_blocks(struct pool *pool, uint32_t blocks)
{
	struct batch *batch = pool->log.open;
	void *memory;

	if (batch->owned_count + blocks > LOG_OWNED_BLOCKS)
		return NULL;
	if (!batch->owned)
		batch->owned = xalloc_pages((size_t)LOG_OWNED_BLOCKS * FORMAT_BLOCK_BYTES);
	memory = batch->owned + (size_t)batch->owned_count * FORMAT_BLOCK_BYTES;
	batch->owned_count += blocks;
	return memory;
}

bool
log_wait_applied(struct pool *pool, struct log_append *append)
{
	struct log *log = &pool->log;
	struct batch *batch = log->open;

	if (!batch && !list_empty(&log->batches))
		batch = list_last(&log->batches, struct batch, link);
	if (!batch)
		return false;
	list_push_back(&batch->appends, &append->link);
	return true;
}

bool
log_write_nothing(struct pool *pool, struct waiter *waiter, struct log_append *append)
{
	int rc = log_reserve(pool, LOG_CLIENT, 0, 0);

	if (rc == -EAGAIN) {
		list_push_back(&pool->log.waiters, &waiter->link);
		return true;
	}
	return !rc && log_wait_applied(pool, append);
}

/* --- writing and applying --- */

static void
submit_batch(struct pool *pool, struct batch *batch)
{
	struct slab *places[COPIES_MAX];
	unsigned count = space_places(&pool->space, batch->slab, places);

	batch->state = BATCH_IN_FLIGHT;
	pool->log.in_flight++;
	batch->writes_left = count;
	for (unsigned i = 0; i < count; i++) {
		struct batch_write *write = &batch->writes[i];
		struct device_io *io = &write->io;

		write->batch = batch;
		write->place = places[i];
		io->op = DEVICE_WRITE;
		io->offset_bytes = space_offset_bytes(&pool->space, places[i], batch->header->slot);
		io->len_bytes = (1 + (uint64_t)batch->header->block_count) * FORMAT_BLOCK_BYTES;
		io->iov = batch->iov;
		io->iov_count = batch->iov_count;
		io->done = batch_write_done;
		device_submit(pool_device(pool, places[i]->device), io);
	}
}

static const void *
block_of(void *context, uint32_t index)
{
	const struct batch *batch = context;
	size_t at = (size_t)index * FORMAT_BLOCK_BYTES;

	for (uint32_t i = 1; i < batch->iov_count; i++) {
		if (at < batch->iov[i].iov_len)
			return (const char *)batch->iov[i].iov_base + at;
		at -= batch->iov[i].iov_len;
	}
	CHECK(false);
}

static void
apply_batch(struct pool *pool, struct batch *batch)
{
	struct log *log = &pool->log;
	const struct batch_header *header = batch->header;

	log->pending_blocks -= batch->write_blocks;
	if (pool->state == POOL_FAILED)
		return;
	if (batch_apply(&pool->catalog, header, block_of, batch, 0)) {
		pool_fail(
		    pool, "batch %llu cannot be applied", (unsigned long long)header->sequence);
		return;
	}
	log->applied_sequence = header->sequence;
	log->applied_crc = header->crc;
	log->applied_slot = header->slot + 1 + header->block_count;
	if (batch->then_slab) {
		struct slab *old = log->applied_slab;

		applied_moves_to(log, batch->then_segment, batch->then_slab);
		if (!MUTANT(SEALED_EARLY))
			seal(pool, old);
	}
}

static void
apply_in_order(struct pool *pool)
{
	struct log *log = &pool->log;

	while (!list_empty(&log->batches)) {
		struct batch *batch = list_first(&log->batches, struct batch, link);
		struct list appends;
		struct list *node;

		if (MUTANT(APPLY_UNORDERED)) {
			list_for_each(later, &log->batches) {
				if (container_of(later, struct batch, link)->state == BATCH_WRITTEN)
					batch = container_of(later, struct batch, link);
			}
		}
		if (batch->state != BATCH_WRITTEN)
			return;
		list_remove(&batch->link);
		apply_batch(pool, batch);
		list_init(&appends);
		list_splice_back(&appends, &batch->appends);
		batch->state = BATCH_UNUSED;
		while ((node = list_pop_front(&appends))) {
			struct log_append *append = container_of(node, struct log_append, link);

			append->done(append, pool->state == POOL_FAILED ? -EIO : 0);
		}
	}
}

static void
batch_done(struct pool *pool, struct batch *batch)
{
	pool->log.in_flight--;
	batch->state = BATCH_WRITTEN;
	apply_in_order(pool);
	flush_ahead(pool);
	log_pump(pool);
	if (!MUTANT(WAKE_FORGOTTEN))
		waiters_wake(&pool->log.waiters, 0);
	reaper_kick(pool); /* a large trim, perhaps */
	relocation_kick(pool);
	checkpoint_consider(pool);
	volume_full_consider(pool);
}

static void
batch_write_done(struct device_io *io)
{
	struct batch_write *write = container_of(io, struct batch_write, io);
	struct batch *batch = write->batch;
	struct pool *pool = batch->pool;
	struct pool_device *device = &pool->devices[write->place->device];

	device->dirty = true;
	if (io->error && !MUTANT(WRITE_ERROR_IGNORED)) {
		device->errors++;
		device_lost(pool, io, write->place->device);
	}
	if (--batch->writes_left == 0 && !pool->loss.active)
		batch_done(pool, batch);
}

static void
log_pump(struct pool *pool)
{
	struct log *log = &pool->log;

	if (pool->state == POOL_FAILED) {
		if (log->open)
			close_batch(pool);
		list_for_each(node, &log->batches) {
			struct batch *batch = container_of(node, struct batch, link);

			if (batch->state == BATCH_CLOSED)
				batch->state = BATCH_WRITTEN;
		}
		apply_in_order(pool);
		waiters_wake(&log->waiters, -EIO);
		relocation_kick(pool);
		return;
	}
	list_for_each(node, &log->batches) {
		struct batch *batch = container_of(node, struct batch, link);

		if (batch->state == BATCH_CLOSED && log->in_flight < log->in_flight_max)
			submit_batch(pool, batch);
	}
	if (log->open && log->in_flight < log->in_flight_max) {
		struct batch *batch = log->open;

		close_batch(pool);
		submit_batch(pool, batch);
	}
}

void
log_kick(struct pool *pool)
{
	reactor_at_turn_end(pool->reactor, &pool->log.turn_end);
}

/* --- durability: one flush per device, shared by all who wait --- */

static void flush_round(struct pool *pool);

static void
flush_finish(struct pool *pool)
{
	struct log *log = &pool->log;
	struct list ready;
	struct list *node;

	if (MUTANT(FLUSH_JOINS_RUNNING))
		log->flush_target = log->applied_sequence;
	if (MUTANT(FLUSH_COVERS_CLOSED))
		log->flush_target = log->sequence - 1;
	if (!log->flush_error)
		log->durable_sequence = log->flush_target;
	list_init(&ready);
	list_for_each_safe(waiting, &log->flush_waiters) {
		struct log_flush *flush = container_of(waiting, struct log_flush, link);

		if (pool->state == POOL_FAILED || (flush->sequence <= log->durable_sequence &&
						      flush->round <= log->flush_round)) {
			list_remove(waiting);
			list_push_back(&ready, waiting);
		}
	}
	while ((node = list_pop_front(&ready))) {
		struct log_flush *flush = container_of(node, struct log_flush, link);

		flush->done(flush, pool->state == POOL_FAILED ? -EIO : 0);
	}
	if (log->flushes_left == 0 && !list_empty(&log->flush_waiters))
		flush_round(pool);
}

/* One device less; the last one ends the round, once no device is being left out. */
static void
flush_ended(struct pool *pool)
{
	struct log *log = &pool->log;

	if (log->flushes_left == 1 && pool->loss.active) {
		log->flush_held = true;
		return;
	}
	if (--log->flushes_left == 0)
		flush_finish(pool);
}

void
log_settle(struct pool *pool)
{
	struct log *log = &pool->log;
	struct batch *ready;

	do {
		ready = NULL;
		list_for_each(node, &log->batches) {
			struct batch *batch = container_of(node, struct batch, link);

			if (batch->state == BATCH_IN_FLIGHT && batch->writes_left == 0 && !ready)
				ready = batch;
		}
		if (ready)
			batch_done(pool, ready);
	} while (ready);
	if (log->flush_held) {
		log->flush_held = false;
		flush_ended(pool);
	}
	waiters_wake(&log->waiters, 0);
}

static void
flush_done(struct device_io *io)
{
	struct pool_io *one = container_of(io, struct pool_io, io);
	struct pool *pool = one->pool;
	struct log *log = &pool->log;

	/* At once: other devices may take their time, and nothing is believed meanwhile. */
	if (io->error && !MUTANT(FLUSH_ERROR_IGNORED)) {
		device_lost(pool, io, (uint32_t)(one - log->flush_ios));
		log->flush_error = pool->state == POOL_FAILED ? io->error : 0;
	}
	flush_ended(pool);
}

static void
flush_round(struct pool *pool)
{
	struct log *log = &pool->log;

	log->flush_round++;
	log->flush_target = log->applied_sequence;
	log->flush_error = 0;
	log->flushes_left = 1; /* held while they are started */
	for (uint32_t i = 0; i < pool->device_count; i++) {
		struct device_io *io = &log->flush_ios[i].io;

		if (!pool->devices[i].dirty || pool->space.devices[i].out || MUTANT(FLUSH_LEFT_OUT))
			continue;
		if (MUTANT(FLUSH_ONE_DEVICE) && log->flushes_left > 1)
			continue;
		pool->devices[i].dirty = false;
		log->flushes_left++;
		log->flush_ios[i].pool = pool;
		memset(io, 0, sizeof(*io));
		io->op = DEVICE_FLUSH;
		io->done = flush_done;
		device_submit(pool_device(pool, i), io);
	}
	housekeeping_consider(pool);
	flush_ended(pool);
}

/*
 * A client that has flushed after each of its last writes will do so again: the flush is begun with
 * the write's answer, and is half done when it is asked for.  If it is not, that was one for
 * nothing.
 */
static void
flush_ahead(struct pool *pool)
{
	struct log *log = &pool->log;

	if (log->unflushed_batches++ > 0)
		log->flushes_foretold = 0;
	if (log->flushes_foretold == FLUSHES_FORETOLD && log->flushes_left == 0 &&
	    pool->state == POOL_ONLINE) {
		flush_round(pool);
		if (MUTANT(FLUSH_AHEAD_BELIEVED))
			log->durable_sequence = log->flush_target;
	}
}

void
log_flush_asked(struct pool *pool)
{
	struct log *log = &pool->log;

	if (log->unflushed_batches == 1 && log->flushes_foretold < FLUSHES_FORETOLD)
		log->flushes_foretold++;
	log->unflushed_batches = 0;
}

static void
flush_known(struct task *task)
{
	struct log_flush *flush = container_of(task, struct log_flush, task);

	flush->done(flush, 0);
}

static void
flush_begin(struct task *task)
{
	struct log_flush *flush = container_of(task, struct log_flush, task);
	struct pool *pool = flush->pool;

	if (pool->state == POOL_FAILED) {
		flush->done(flush, -EIO);
		return;
	}
	flush->round = flush->force ? pool->log.flush_round + 1 : 0;
	list_push_back(&pool->log.flush_waiters, &flush->link);
	if (pool->log.flushes_left == 0)
		flush_round(pool);
}

void
log_flush_start(struct pool *pool, struct log_flush *flush)
{
	struct log *log = &pool->log;

	CHECK(flush->sequence <= log->applied_sequence);
	flush->pool = pool;
	if (flush->sequence <= log->durable_sequence && !flush->force && pool->state != POOL_FAILED)
		task_init(&flush->task, flush_known);
	else
		task_init(&flush->task, flush_begin);
	reactor_defer(pool->reactor, &flush->task);
}
