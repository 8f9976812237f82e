/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the log carried, and so what a crash may leave.
 *
 * The linker redirects functions of the engine to here (--wrap): pool_fail(), since batches on
 * their way then may be on disk or not; batch_apply(), where each
 * batch takes effect, at run time and in a replay; log_start(), where a recovery has found its cut;
 * and uuid_new(), so that UUIDs follow from the seed.
 *
 * Recoveries that a crash ended: each has cut the log at some sequence under a generation of its
 * own. If its checkpoint became durable, the next recovery begins at that cut, and says so by the
 * generation; if not, it may come to another cut.  No client's batch is written in between.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/sim.h"

void model_apply_op(struct sim *sim, struct model *model, const struct record_op *record);

int __real_batch_apply(struct catalog *catalog, const struct batch_header *header,
    const void *(*block)(void *context, uint32_t index), void *context, uint64_t live_checkpoint);
int __wrap_batch_apply(struct catalog *catalog, const struct batch_header *header,
    const void *(*block)(void *context, uint32_t index), void *context, uint64_t live_checkpoint);
int __real_log_start(struct pool *pool);
int __wrap_log_start(struct pool *pool);
int __real_log_reserve(
    struct pool *pool, enum log_class class, uint32_t blocks, size_t entry_bytes);
int __wrap_log_reserve(
    struct pool *pool, enum log_class class, uint32_t blocks, size_t entry_bytes);
void __real_pool_fail(struct pool *pool, const char *format, ...) printf_like(2, 3);
void __wrap_pool_fail(struct pool *pool, const char *format, ...) printf_like(2, 3);
struct uuid __wrap_uuid_new(void);

struct uuid
__wrap_uuid_new(void)
{
	uint64_t words[2] = { mix64(the_sim->seed ^ ++the_sim->next_number), the_sim->next_number };
	uint8_t bytes[16];

	memcpy(bytes, words, sizeof(bytes));
	return uuid_from_random(bytes);
}

/* --- records --- */

static void
record_free(struct record *record)
{
	for (unsigned i = 0; i < record->entry_count; i++) {
		struct record_entry *entry = &record->entries[i];

		for (uint64_t n = 0; entry->contents && n < entry->blocks; n++)
			content_put(entry->contents[n]);
		free(entry->contents);
		free(entry->ops);
	}
	free(record->entries);
	list_remove(&record->link);
	free(record);
}

static void
copy_ops(struct record_entry *entry, const struct batch_piece *piece,
    const void *(*block)(void *context, uint32_t index), void *context)
{
	entry->op_count = (unsigned)piece->lba;
	entry->ops = xcalloc(entry->op_count, sizeof(*entry->ops));
	for (unsigned i = 0; i < entry->op_count; i++) {
		const struct catalog_op *ops =
		    block(context, piece->block_index + i / CATALOG_OPS_PER_BLOCK);

		entry->ops[i].op = ops[i % CATALOG_OPS_PER_BLOCK];
	}
}

static void
record_locate(struct sim *sim, struct record *record, const struct batch_header *header)
{
	const struct space *space = &sim->pool->space;
	struct slab *leader = space_find(space, header->segment), *places[COPIES_MAX];

	if (!leader || space_places(space, leader, places) == 0)
		return;
	record->disk =
	    memory_device_disk(fault_device_inner(pool_device(sim->pool, places[0]->device)));
	record->offset_bytes = space_offset_bytes(space, places[0], header->slot);
}

static struct record *
record_make(struct sim *sim, const struct batch_header *header,
    const void *(*block)(void *context, uint32_t index), void *context)
{
	struct record *record = xcalloc(1, sizeof(*record));
	struct batch_reader reader;
	struct batch_piece piece;
	int rc;

	list_init(&record->link);
	record->generation = header->generation;
	record->sequence = header->sequence;
	record->crc = header->crc;
	record->durable = header->durable_sequence;
	record->segment = header->segment;
	record_locate(sim, record, header);
	record->entries =
	    xcalloc(header->entry_bytes / sizeof(struct batch_entry) + 1, sizeof(*record->entries));
	batch_read_begin(&reader, header);
	while ((rc = batch_read_next(&reader, &piece)) == 1) {
		struct record_entry *entry = &record->entries[record->entry_count];

		if (piece.type == BATCH_NODE)
			continue;
		record->entry_count++;
		entry->type = piece.type;
		entry->image = piece.image;
		entry->lba = piece.lba;
		entry->blocks = piece.blocks;
		if (piece.type == BATCH_CATALOG) {
			copy_ops(entry, &piece, block, context);
		} else if (piece.type == BATCH_WRITE) {
			entry->contents = xcalloc(piece.blocks, sizeof(*entry->contents));
			for (uint32_t i = 0; i < piece.blocks; i++) {
				entry->contents[i] = xmalloc(sizeof(struct content));
				entry->contents[i]->references = 1;
				memcpy(entry->contents[i]->bytes,
				    block(context, piece.block_index + i), BLOCK_BYTES);
			}
		}
	}
	if (rc)
		sim_fail(sim, "batch %llu is damaged", (unsigned long long)header->sequence);
	return record;
}

/* Changes @model as @record says; @live: it happens now, and requests are to be compared. */
static void
record_apply(struct sim *sim, struct model *model, const struct record *record, bool live)
{
	if (record->sequence != model->sequence + 1)
		sim_fail(sim, "batch %llu follows batch %llu", (unsigned long long)record->sequence,
		    (unsigned long long)model->sequence);
	model->sequence = record->sequence;
	for (unsigned i = 0; i < record->entry_count; i++) {
		const struct record_entry *entry = &record->entries[i];
		struct model_volume *volume = NULL;

		if (entry->type == BATCH_CATALOG) {
			for (unsigned n = 0; n < entry->op_count; n++) {
				if (live)
					work_op_applied(sim, record->sequence, &entry->ops[n]);
				model_apply_op(sim, model, &entry->ops[n]);
				volume = model_by_id(model, entry->ops[n].op.volume);
				if (live && entry->ops[n].op.type == CATALOG_OP_ROLLBACK)
					work_note_range(sim, volume, 0, UINT64_MAX);
			}
			continue;
		}
		volume = model_by_head(model, entry->image);
		if (!volume)
			sim_fail(sim, "batch %llu writes to image %llu, which is no head",
			    (unsigned long long)record->sequence, (unsigned long long)entry->image);
		if (live)
			work_entry_applied(sim, record->sequence, entry);
		if (entry->type == BATCH_ZERO) {
			model_zero(&volume->image, entry->lba, entry->blocks);
			if (live)
				work_note_range(sim, volume, entry->lba, entry->blocks);
			continue;
		}
		for (uint64_t n = 0; n < entry->blocks; n++) {
			model_set(&volume->image, entry->lba + n, entry->contents[n]);
			if (live)
				work_note_change(
				    sim, volume->id, entry->lba + n, entry->contents[n]);
		}
	}
}

/* Ids that the operations of @record made, as the catalog has them now. */
static void
learn_ids(struct sim *sim, const struct catalog *catalog, struct record *record)
{
	for (unsigned i = 0; i < record->entry_count; i++) {
		for (unsigned n = 0; n < record->entries[i].op_count; n++) {
			struct record_op *op = &record->entries[i].ops[n];
			const struct volume_record *volume;
			const struct image *image;

			if (op->op.type == CATALOG_OP_VOLUME_CREATE ||
			    op->op.type == CATALOG_OP_CLONE)
				volume = catalog_find_volume(catalog, op->op.name);
			else if (op->op.type == CATALOG_OP_SNAPSHOT_CREATE ||
				 op->op.type == CATALOG_OP_ROLLBACK)
				volume = catalog_volume(catalog, op->op.volume);
			else
				continue;
			if (!volume)
				sim_fail(sim, "a catalog operation left no volume");
			image = op->op.type == CATALOG_OP_SNAPSHOT_CREATE
				    ? catalog_find_snapshot(catalog, volume, op->op.name)
				    : volume->head;
			if (!image)
				sim_fail(sim, "a catalog operation left no image");
			op->volume_id = volume->id;
			op->image_id = image->id;
		}
	}
}

/* --- at run time --- */

static void
applied_now(struct sim *sim, struct record *record)
{
	struct history *h = &sim->history;

	record_apply(sim, h->present, record, true);
	list_push_back(&h->records, &record->link);
	sim->stats.applied++;
}

static struct record *
record_find(const struct history *h, uint64_t sequence)
{
	list_for_each(node, &h->records) {
		struct record *record = container_of(node, struct record, link);

		if (record->sequence == sequence)
			return record;
	}
	return NULL;
}

/* Recovery takes a batch: it must be one that we know. */
static void
replayed(struct sim *sim, const struct batch_header *header)
{
	struct history *h = &sim->history;
	const struct record *record = record_find(h, header->sequence);
	bool own = false;

	h->replayed = header->sequence;
	h->replay_generation = header->generation;
	/* Batches of a recovery that was cut short carry nothing but nodes. */
	for (unsigned i = 0; i < h->attempt_count; i++)
		own |= h->attempts[i].generation == header->generation;
	if (own)
		return;
	if (header->sequence <= h->base->sequence)
		return; /* before what we keep: the checkpoint is older than the last promise */
	if (!record || record->crc != header->crc || record->generation != header->generation)
		sim_fail(sim, "recovery takes batch %llu of generation %llu, which is not ours",
		    (unsigned long long)header->sequence, (unsigned long long)header->generation);
}

/* No place in the log is ever written twice, not even by a recovery that a crash ended. */
static void
issued(struct sim *sim, const struct batch_header *header)
{
	uint64_t place = baddr_make(header->segment, header->slot).n;

	if (table_get(&sim->issued, place))
		sim_fail(sim, "address %llu.%u is issued twice",
		    (unsigned long long)header->segment, header->slot);
	table_set(&sim->issued, place, sim);
}

int
__wrap_batch_apply(struct catalog *catalog, const struct batch_header *header,
    const void *(*block)(void *context, uint32_t index), void *context, uint64_t live_checkpoint)
{
	struct sim *sim = the_sim;
	struct history *h = &sim->history;
	struct record *record;
	int rc;

	if (live_checkpoint) {
		replayed(sim, header);
		sim_trace(sim, "  replay %llu", (unsigned long long)header->sequence);
		return __real_batch_apply(catalog, header, block, context, live_checkpoint);
	}
	issued(sim, header);
	sim_trace(sim, "  apply %llu at %llu.%u: %u blocks, %u bytes of entries",
	    (unsigned long long)header->sequence, (unsigned long long)header->segment, header->slot,
	    header->block_count, header->entry_bytes);
	if (!sim->online) {
		/* A checkpoint of pool_create() or recovery. */
		rc = __real_batch_apply(catalog, header, block, context, live_checkpoint);
		record = record_make(sim, header, block, context);
		if (record->entry_count)
			sim_fail(sim, "a batch with entries before the pool is online");
		record_free(record);
		if (h->started)
			h->replayed = header->sequence;
		return rc;
	}
	record = record_make(sim, header, block, context);
	rc = __real_batch_apply(catalog, header, block, context, live_checkpoint);
	if (rc)
		sim_fail(sim, "batch %llu cannot be applied", (unsigned long long)header->sequence);
	if (sim->pool->nodes.dirty_count + sim->pool->nodes.frozen_count >
	    sim->pool->dirty_nodes_max + 4 * MAP_LEVELS_MAX)
		sim_fail(sim, "%llu nodes are dirty, and a checkpoint can write %llu",
		    (unsigned long long)(sim->pool->nodes.dirty_count +
					 sim->pool->nodes.frozen_count),
		    (unsigned long long)sim->pool->dirty_nodes_max);
	learn_ids(sim, catalog, record);
	applied_now(sim, record);
	return rc;
}

void
__wrap_pool_fail(struct pool *pool, const char *format, ...)
{
	struct sim *sim = the_sim;
	char text[200];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (pool->state != POOL_FAILED) {
		sim_trace(sim, "  the pool fails: %s", text);
		sim->stats.failed++;
		if (sim->pool == pool) {
			history_capture(sim, pool);
			sim->history.captured = true;
		}
	}
	__real_pool_fail(pool, "%s", text);
}

/* Clients never take what is held back. */
int
__wrap_log_reserve(struct pool *pool, enum log_class class, uint32_t blocks, size_t entry_bytes)
{
	uint64_t slabs = pool->space.free_count + (pool->log.next_slab != NULL);
	/* A checkpoint of all that is dirty, and two slabs for trims and deletes beside it. */
	uint64_t checkpoint = pool->nodes.dirty_count + pool->nodes.frozen_count +
			      pool->nodes_promised + 2 * (uint64_t)pool->space.slab_blocks;
	int rc = __real_log_reserve(pool, class, blocks, entry_bytes);

	if (rc == 0 && class == LOG_CLIENT &&
	    slabs * pool->space.slab_blocks <=
		min_u64(checkpoint, pool->reserve_slabs * (uint64_t)pool->space.slab_blocks))
		sim_fail(the_sim, "a client gets room, but only %llu slabs are free",
		    (unsigned long long)slabs);
	return rc;
}

/* The replay is over: it knew where all that the last cut still had lies, dead by now or not. */
static void
check_directories(const struct pool *pool)
{
	for (uint32_t d = 0; d < pool->space.device_count; d++) {
		const struct space_device *device = &pool->space.devices[d];

		for (uint32_t i = 0; i < device->mark; i++)
			if (space_slab(device, i)->state == SLAB_PACKED &&
			    space_slab(device, i)->piece_count == 0)
				sim_fail(the_sim, "the directory of a packed slab was not read");
	}
}

int
__wrap_log_start(struct pool *pool)
{
	struct history *h = &the_sim->history;
	int rc;

	check_directories(pool);
	rc = __real_log_start(pool);

	the_sim->pool = pool;
	if (!h->recovering)
		return rc;
	h->started = true;
	h->replayed = pool->log.sequence - 1;
	h->replay_generation = pool->generation - 1;
	sim_trace(the_sim, "recovery cuts behind %llu of generation %llu",
	    (unsigned long long)h->replayed, (unsigned long long)h->replay_generation);
	/* Did it begin at the cut of an earlier one? */
	uint64_t cut = h->replayed;
	for (unsigned i = 0; i < h->attempt_count; i++)
		if (h->attempts[i].generation == h->replay_generation)
			cut = h->attempts[i].sequence;
	if (h->attempt_count == ARRAY_SIZE(h->attempts))
		sim_fail(the_sim, "too many recoveries");
	h->attempts[h->attempt_count].generation = pool->generation;
	h->attempts[h->attempt_count].sequence = cut;
	/* Of several with this generation only the last can have left anything. */
	for (unsigned i = 0; i < h->attempt_count; i++)
		if (h->attempts[i].generation == pool->generation)
			h->attempts[i].generation = 0;
	h->attempt_count++;
	if (cut < h->required && !faults_excuse_cut(the_sim, cut))
		sim_fail(the_sim, "recovery ends at batch %llu, but %llu was promised to be there",
		    (unsigned long long)cut, (unsigned long long)h->required);
	return rc;
}

/* --- promises and crashes --- */

void
history_begin(struct history *h)
{
	memset(h, 0, sizeof(*h));
	h->base = model_create();
	h->present = model_create();
	list_init(&h->records);
}

static void
advance_base(struct sim *sim, uint64_t sequence)
{
	struct history *h = &sim->history;

	while (!list_empty(&h->records)) {
		struct record *record = list_first(&h->records, struct record, link);

		if (record->sequence > sequence)
			return;
		record_apply(sim, h->base, record, false);
		record_free(record);
	}
}

void
history_promise(struct sim *sim, uint64_t sequence)
{
	struct history *h = &sim->history;

	if (sequence <= h->promised)
		return;
	h->promised = sequence;
	/* A damaged pool may fall back to anything since it was opened. */
	if (!faults_last(sim))
		advance_base(sim, sequence);
}

static const void *
block_of(void *context, uint32_t index)
{
	const struct batch *batch = context;
	size_t at = (size_t)index * BLOCK_BYTES;

	for (uint32_t i = 1; i < batch->iov_count; i++) {
		if (at < batch->iov[i].iov_len)
			return (const char *)batch->iov[i].iov_base + at;
		at -= batch->iov[i].iov_len;
	}
	CHECK(false);
}

void
history_capture(struct sim *sim, const struct pool *pool)
{
	if (sim->history.captured)
		return;
	list_for_each(node, &pool->log.batches) {
		struct batch *batch = container_of(node, struct batch, link);
		struct record *record;

		issued(sim, batch->header);
		if (!sim->online)
			continue;
		record = record_make(sim, batch->header, block_of, batch);
		list_push_back(&sim->history.records, &record->link);
	}
}

/* What the catalog calls things is what the model knows already, or learns now. */
static void
sync_ids(struct sim *sim, struct model *model, const struct catalog *catalog)
{
	list_for_each(node, &model->volumes) {
		struct model_volume *volume = container_of(node, struct model_volume, link);
		const struct volume_record *record = catalog_find_volume(catalog, volume->name);

		if (!record)
			sim_fail(sim, "volume %s is lost", volume->name);
		if ((volume->id && volume->id != record->id) ||
		    (volume->head_id && volume->head_id != record->head->id))
			sim_fail(sim, "volume %s has another id: %llu, head %llu", volume->name,
			    (unsigned long long)record->id, (unsigned long long)record->head->id);
		volume->id = record->id;
		volume->head_id = record->head->id;
		list_for_each(inner, &volume->snapshots) {
			struct model_snapshot *snapshot =
			    container_of(inner, struct model_snapshot, link);
			const struct image *image =
			    catalog_find_snapshot(catalog, record, snapshot->name);

			if (!image)
				sim_fail(
				    sim, "snapshot %s@%s is lost", volume->name, snapshot->name);
			if (snapshot->id && snapshot->id != image->id)
				sim_fail(sim, "snapshot %s@%s has another id", volume->name,
				    snapshot->name);
			snapshot->id = image->id;
		}
	}
}

/* What the pool shows is the state at @cut. */
static bool
fall_back(struct sim *sim, const struct pool *pool, uint64_t cut)
{
	struct history *h = &sim->history;

	if (h->base->sequence > cut)
		return false;
	advance_base(sim, cut);
	while (!list_empty(&h->records))
		record_free(list_first(&h->records, struct record, link));
	if (h->base->sequence != cut)
		sim_fail(sim, "recovery ends at batch %llu, which we never wrote (up to %llu)",
		    (unsigned long long)cut, (unsigned long long)h->base->sequence);
	sync_ids(sim, h->base, &pool->catalog);
	return true;
}

bool
history_readonly(struct sim *sim, struct pool *pool)
{
	struct history *h = &sim->history;
	uint64_t cut = pool->log.sequence - 1;

	for (unsigned i = 0; i < h->attempt_count; i++)
		if (h->attempts[i].generation == pool->generation)
			cut = h->attempts[i].sequence;
	if (!fall_back(sim, pool, cut))
		return false;
	model_free(h->present);
	h->present = model_copy(h->base);
	return true;
}

void
history_recovered(struct sim *sim, struct pool *pool)
{
	struct history *h = &sim->history;
	uint64_t cut = h->attempt_count ? h->attempts[h->attempt_count - 1].sequence : h->replayed;
	uint64_t last = h->replayed;

	if (!fall_back(sim, pool, cut)) {
		if (!faults_excuse_cut(sim, cut))
			sim_fail(sim, "recovery ends at batch %llu, but %llu is durable",
			    (unsigned long long)cut, (unsigned long long)h->base->sequence);
		sim->unknown = true;
		return;
	}
	/* Its own checkpoint, and what was applied since. */
	h->base->sequence = max_u64(last, pool->log.applied_sequence);
	model_free(h->present);
	h->present = model_copy(h->base);
	h->acked = h->base->sequence;
	h->promised = h->base->sequence;
	h->attempt_count = 0;
	h->recovering = false;
	h->started = false;
}
