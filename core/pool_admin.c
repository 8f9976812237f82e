/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Administrative operations on the images of a pool, one at a time.
 *
 *   CHECK ─► PAUSE ─► SHRINK ─► APPEND ─► APPLIED ─► FLUSH ─► DONE
 *
 * An operation is a catalog_op in the log (metadata/format.h): it takes effect when its batch is
 * applied, in order with all writes, and is answered when that is durable.  Only operations that
 * take a volume's head away, or cut it, pause the volume's requests meanwhile.
 */
#include "core/pool_admin.h"

#include "core/base/size.h"
#include "core/device_add.h"
#include "core/device_grow.h"
#include "core/device_offline.h"
#include "core/device_remove.h"
#include "core/device_return.h"

#include <stdio.h>
#include <stdlib.h>

enum admin_phase {
	ADMIN_CHECK,
	ADMIN_PAUSE,
	ADMIN_SHRINK,
	ADMIN_APPEND,
	ADMIN_APPLIED,
	ADMIN_FLUSH,
	ADMIN_WALK,
	ADMIN_ADD_DEVICES,
	ADMIN_REMOVE_DEVICE,
	ADMIN_GROW_DEVICE,
	ADMIN_TAKE_DEVICE_OUT,
	ADMIN_BRING_DEVICE_BACK,
	ADMIN_SUPERBLOCK,
	ADMIN_DONE,
};

struct admin_operation {
	struct pool *pool;
	struct admin_request *request;
	void (*done)(struct admin_request *request);
	enum admin_phase phase;
	struct list link;
	struct task step;
	struct timer next;
	struct waiter wait;
	struct log_append append;
	struct log_flush flush;
	struct node_pin pin;
	bool pinned;
	struct catalog_op *ops;
	unsigned op_count;
	struct volume_runtime *paused;
	/* DIFF */
	struct image *older;
	struct image *newer;
	uint64_t lba;
	struct device_add add;       /* DEVICE_ADD, DEVICE_REPLACE */
	struct device_remove remove; /* DEVICE_REMOVE, DEVICE_REPLACE, DEVICE_FORGET */
	struct device_grow grow;     /* DEVICE_GROW */
	struct device_offline offline;
	struct device_return back; /* DEVICE_ONLINE */
};

static void admin_step(struct admin_operation *a);

static void
run_step(struct task *task)
{
	admin_step(container_of(task, struct admin_operation, step));
}

static void
run_next(struct timer *timer)
{
	admin_step(container_of(timer, struct admin_operation, next));
}

static void
woken(struct waiter *waiter, int error)
{
	struct admin_operation *a = container_of(waiter, struct admin_operation, wait);

	if (error) {
		error_set(&a->request->error, error, "pool %s: %s", a->pool->name,
		    error == -EIO ? "an I/O error; see the log" : strerror(-error));
		a->phase = ADMIN_DONE;
	}
	admin_step(a);
}

static void
applied(struct log_append *append, int error)
{
	struct admin_operation *a = container_of(append, struct admin_operation, append);

	woken(&a->wait, error);
}

static void
flushed(struct log_flush *flush, int error)
{
	struct admin_operation *a = container_of(flush, struct admin_operation, flush);

	woken(&a->wait, error);
}

/* --- CHECK: names become ids, requests become catalog operations --- */

static struct volume_record *
find_volume(struct admin_operation *a, const struct name *name)
{
	struct volume_record *volume = catalog_find_volume(&a->pool->catalog, name->volume);

	if (!volume)
		error_set(&a->request->error, -ENOENT, "pool %s has no volume %s", a->pool->name,
		    name->volume[0] ? name->volume : "without a name");
	return volume;
}

static struct image *
find_snapshot(struct admin_operation *a, const struct name *name)
{
	struct volume_record *volume = find_volume(a, name);
	struct image *snapshot;

	if (!volume)
		return NULL;
	snapshot = catalog_find_snapshot(&a->pool->catalog, volume, name->snapshot);
	if (!snapshot)
		error_set(&a->request->error, -ENOENT, "volume %s/%s has no snapshot %s",
		    a->pool->name, volume->name,
		    name->snapshot[0] ? name->snapshot : "without a name");
	return snapshot;
}

/* A volume's head or a snapshot. */
static struct image *
find_image(struct admin_operation *a, const struct name *name)
{
	struct volume_record *volume;

	if (name->snapshot[0])
		return find_snapshot(a, name);
	volume = find_volume(a, name);
	return volume ? volume->head : NULL;
}

static struct catalog_op *
add_op(struct admin_operation *a, enum catalog_op_type type, const struct volume_record *volume,
    const struct image *image)
{
	struct catalog_op *op;

	a->ops = xrealloc(a->ops, (a->op_count + 1) * sizeof(*a->ops));
	op = &a->ops[a->op_count++];
	memset(op, 0, sizeof(*op));
	op->type = (uint8_t)type;
	op->volume = volume ? volume->id : 0;
	op->image = image ? image->id : 0;
	op->created_s = a->request->created_s;
	return op;
}

static void
set_name(struct catalog_op *op, const char *name)
{
	snprintf(op->name, sizeof(op->name), "%s", name);
}

static int
refuse_clients(
    struct admin_operation *a, const struct volume_record *volume, const struct image *snapshot)
{
	uint32_t clients = volume_clients(a->pool, snapshot ? NULL : volume->runtime, snapshot);

	if (clients == 0)
		return 0;
	return error_set(&a->request->error, -EBUSY,
	    "%s/%s%s%s is in use by %u client connection%s: disconnect them%s", a->pool->name,
	    volume->name, snapshot ? "@" : "", snapshot ? snapshot->name : "", clients,
	    clients == 1 ? "" : "s", snapshot ? "" : ", or use --force");
}

static int
check_delete(struct admin_operation *a, const struct volume_record *volume)
{
	struct admin_request *request = a->request;
	unsigned snapshots = 0;

	list_for_each(node, &volume->snapshots) {
		struct image *snapshot = container_of(node, struct image, volume_link);

		snapshots++;
		if (refuse_clients(a, volume, snapshot))
			return -EBUSY;
	}
	if (request->force)
		return 0;
	if (snapshots > 0)
		return error_set(&request->error, -EBUSY,
		    "volume %s/%s has %u snapshot%s: delete them first, or use --force",
		    a->pool->name, volume->name, snapshots, snapshots == 1 ? "" : "s");
	return refuse_clients(a, volume, NULL);
}

static int
check_resize(struct admin_operation *a, const struct volume_record *volume, uint64_t size_bytes)
{
	if (size_bytes >= volume->size_bytes || a->request->force)
		return 0;
	return error_set(&a->request->error, -EINVAL,
	    "%s/%s has %llu bytes: shrinking it to %llu loses what lies behind; use --force",
	    a->pool->name, volume->name, (unsigned long long)volume->size_bytes,
	    (unsigned long long)size_bytes);
}

static int
check_names(struct admin_operation *a, bool create)
{
	struct admin_request *request = a->request;
	unsigned most = CATALOG_OPS_PER_BLOCK *
			(unsigned)min_u64(LOG_OWNED_BLOCKS, a->pool->space.slab_blocks / 2);

	if (request->name_count == 0 || request->name_count > most)
		return error_set(&request->error, -EINVAL,
		    "between 1 and %u snapshots at a time, not %zu", most, request->name_count);
	for (size_t i = 0; i < request->name_count; i++) {
		const struct name *name = &request->names[i];

		if (!name->snapshot[0])
			return error_set(&request->error, -EINVAL,
			    "%s/%s is not a snapshot: write %s/%s@NAME", name->pool, name->volume,
			    name->pool, name->volume);
		for (size_t k = 0; k < i; k++)
			if (memcmp(name, &request->names[k], sizeof(*name)) == 0)
				return error_set(&request->error, -EINVAL,
				    "%s/%s@%s is named twice", name->pool, name->volume,
				    name->snapshot);
		if (create) {
			struct volume_record *volume = find_volume(a, name);

			if (!volume)
				return -ENOENT;
			set_name(
			    add_op(a, CATALOG_OP_SNAPSHOT_CREATE, volume, NULL), name->snapshot);
		} else {
			struct image *snapshot = find_snapshot(a, name);

			if (!snapshot || refuse_clients(a, snapshot->volume, snapshot))
				return -EBUSY;
			add_op(a, CATALOG_OP_SNAPSHOT_DELETE, NULL, snapshot);
		}
	}
	return 0;
}

/* --- reserves --- */

static uint64_t
grown(uint64_t from, uint64_t to)
{
	return to > from ? to - from : 0;
}

/* How much more is to be held back for reserved volumes when @op is done. */
static uint64_t
reserve_growth(const struct pool *pool, const struct catalog_op *op)
{
	const struct volume_record *volume = catalog_volume(&pool->catalog, op->volume);
	uint64_t held = volume ? catalog_reserved_blocks(volume) : 0;
	uint64_t own = volume ? image_own_blocks(volume->head) : 0;
	uint64_t blocks = (volume ? volume->size_bytes : 0) / FORMAT_BLOCK_BYTES;
	uint64_t new_blocks = op->size_bytes / FORMAT_BLOCK_BYTES;
	bool reserved = volume && volume->flags & CATALOG_RESERVED;

	switch ((enum catalog_op_type)op->type) {
	case CATALOG_OP_VOLUME_CREATE:
		return op->flags & CATALOG_RESERVED ? catalog_blocks_to_hold(new_blocks) : 0;
	case CATALOG_OP_VOLUME_SET:
		return op->flags & CATALOG_RESERVED && !reserved
			   ? catalog_blocks_to_hold(grown(own, blocks))
			   : 0;
	case CATALOG_OP_VOLUME_RESIZE:
		return reserved ? grown(held, catalog_blocks_to_hold(grown(own, new_blocks))) : 0;
	case CATALOG_OP_SNAPSHOT_CREATE: /* from then on it shares everything */
		return reserved ? grown(held, catalog_blocks_to_hold(blocks)) : 0;
	case CATALOG_OP_ROLLBACK:
		blocks = catalog_image(&pool->catalog, op->image)->size_bytes / FORMAT_BLOCK_BYTES;
		return reserved ? grown(held, catalog_blocks_to_hold(blocks)) : 0;
	case CATALOG_OP_VOLUME_RENAME:
	case CATALOG_OP_VOLUME_DELETE:
	case CATALOG_OP_SNAPSHOT_DELETE:
	case CATALOG_OP_CLONE:
	case CATALOG_OP_NOTE:
		return 0;
	}
	CHECK(false);
}

/* Refuses what cannot be held back; otherwise holds it, until the operation is done. */
static int
check_reserve(struct admin_operation *a)
{
	struct pool *pool = a->pool;
	uint64_t used = pool_used_blocks(pool) + pool_reserved_blocks(pool);
	uint64_t more = 0;
	char needed[SIZE_TEXT_BYTES], left[SIZE_TEXT_BYTES];

	for (unsigned i = 0; i < a->op_count; i++)
		more += reserve_growth(pool, &a->ops[i]);
	if (more > 0 && used + more > pool->live_blocks_max) {
		size_format(more * FORMAT_BLOCK_BYTES, needed);
		size_format(grown(used, pool->live_blocks_max) * FORMAT_BLOCK_BYTES, left);
		return error_set(&a->request->error, -ENOSPC,
		    "pool %s cannot hold back what that takes for reserve=full: %s more, and %s is "
		    "available; delete something, add a device, or set reserve=none",
		    pool->name, needed, left);
	}
	pool->reserve_held = more;
	return 0;
}

static void
set_flag(struct catalog_op *op, uint8_t flag, bool on)
{
	op->flags = (uint8_t)((op->flags & ~flag) | (on ? flag : 0));
}

/* The operation says all of the volume's properties, as they will be. */
static int
set_properties(struct admin_operation *a, const struct volume_record *volume)
{
	const struct admin_request *request = a->request;
	struct catalog_op *op = add_op(a, CATALOG_OP_VOLUME_SET, volume, NULL);

	op->flags = volume->flags;
	op->full_timeout_s = volume->full_timeout_s;
	if (request->set & ADMIN_SET_READONLY)
		set_flag(op, CATALOG_READONLY, request->readonly);
	if (request->set & ADMIN_SET_ON_FULL)
		set_flag(op, CATALOG_PAUSE_WHEN_FULL, request->pauses_when_full);
	if (request->set & ADMIN_SET_ON_FULL_TIMEOUT)
		op->full_timeout_s = request->full_timeout_s;
	if (request->set & ADMIN_SET_RESERVE)
		set_flag(op, CATALOG_RESERVED, request->reserved);
	if (request->set & ADMIN_SET_BLOCK_SIZE)
		set_flag(op, CATALOG_BLOCKS_4096, request->block_bytes == 4096);
	if (!((op->flags ^ volume->flags) & CATALOG_BLOCKS_4096))
		return 0;
	/* Who has it open counts in blocks of the old size. */
	list_for_each(node, &volume->snapshots) {
		const struct image *snapshot = container_of(node, struct image, volume_link);

		if (refuse_clients(a, volume, snapshot))
			return -EBUSY;
	}
	if (volume_clients(a->pool, volume->runtime, NULL))
		return error_set(&a->request->error, -EBUSY,
		    "%s/%s is in use: its block size can be changed when no client is connected",
		    a->pool->name, volume->name);
	return 0;
}

static struct volume_record *
find_volume_by_uuid(struct admin_operation *a, const struct uuid *uuid)
{
	list_for_each(node, &a->pool->catalog.volumes) {
		struct volume_record *volume = container_of(node, struct volume_record, link);

		if (uuid_equal(&volume->uuid, uuid))
			return volume;
	}
	error_set(&a->request->error, -ENOENT, "the volume is gone");
	return NULL;
}

static int
set_note(struct admin_operation *a, const struct volume_record *volume, enum note_kind kind,
    const uint8_t *bytes, size_t len_bytes)
{
	if (!pool_keeps_notes(a->pool))
		return error_set(&a->request->error, -ENOTSUP,
		    "pool %s was made before exports and reservations could be kept in pools",
		    a->pool->name);
	if (len_bytes > NOTE_BYTES_MAX)
		return error_set(&a->request->error, -E2BIG,
		    "that is more than can be kept with volume %s", volume->name);
	free(a->ops);
	a->ops = catalog_note_ops(volume, kind, bytes, len_bytes, &a->op_count);
	return 0;
}

static int
check_export(struct admin_operation *a)
{
	const struct volume_record *volume = find_volume(a, &a->request->name);
	uint8_t *bytes;
	size_t len_bytes;
	int rc;

	if (!volume)
		return -ENOENT;
	rc = pool_exports_change(a->pool, volume, a->request, &bytes, &len_bytes);
	if (rc)
		return rc;
	rc = set_note(a, volume, NOTE_EXPORTS, bytes, len_bytes);
	explicit_bzero(bytes, len_bytes);
	free(bytes);
	return rc;
}

/* Which device, what becomes of it, and whether the pool can do without. */
static int
check_remove(struct admin_operation *a)
{
	struct admin_request *request = a->request;
	const struct space_device *device;
	struct geometry geometry = { 0 };
	int rc = device_find(a->pool, request->device, &a->remove.index, &request->error);

	if (rc)
		return rc;
	device = &a->pool->space.devices[a->remove.index];
	a->remove.kind = request->stop ? DEVICE_STAY : device->out ? DEVICE_FORGET : DEVICE_LEAVE;
	if (request->stop && !device->leaving)
		return error_set(&request->error, -EINVAL, "%s is not being removed from pool %s",
		    request->device, a->pool->name);
	if (request->stop)
		return 0;
	if (request->verb == ADMIN_DEVICE_REPLACE)
		geometry_of(&geometry, request->opened[0]->size_bytes, a->pool->space.slab_blocks);
	return device_remove_check(a->pool, a->remove.index, geometry.slab_count, &request->error);
}

static int
check_grow(struct admin_operation *a)
{
	struct admin_request *request = a->request;
	int rc = device_find(a->pool, request->device, &a->grow.index, &request->error);

	if (rc || !a->pool->space.devices[a->grow.index].out)
		return rc;
	return error_set(&request->error, -ENODEV, "%s is not in use: it failed, or is missing",
	    request->device);
}

static int
check_offline(struct admin_operation *a)
{
	struct admin_request *request = a->request;
	int rc = device_find(a->pool, request->device, &a->offline.index, &request->error);

	return rc ? rc : device_offline_check(a->pool, a->offline.index, &request->error);
}

static int
check_online(struct admin_operation *a)
{
	if (a->pool->space.copies > 1)
		return 0;
	return error_set(&a->request->error, -EINVAL,
	    "pool %s keeps one copy of everything: no device of it is ever out of use",
	    a->pool->name);
}

static int
build(struct admin_operation *a)
{
	struct admin_request *request = a->request;
	uint64_t size_bytes = round_up(request->size_bytes, FORMAT_BLOCK_BYTES);
	struct volume_record *volume = NULL;
	struct image *image = NULL;
	struct catalog_op *op;

	if (a->pool->state != POOL_ONLINE && request->verb != ADMIN_DIFF)
		return error_set(&request->error, -EROFS, "pool %s takes no changes: %s",
		    a->pool->name,
		    a->pool->state_reason[0] ? a->pool->state_reason : "it is being closed");
	switch (request->verb) {
	case ADMIN_VOLUME_CREATE:
		op = add_op(a, CATALOG_OP_VOLUME_CREATE, NULL, NULL);
		op->size_bytes = size_bytes;
		op->uuid = uuid_new();
		set_flag(op, CATALOG_RESERVED, request->reserved);
		set_flag(op, CATALOG_BLOCKS_4096, request->block_bytes == 4096);
		set_name(op, request->name.volume);
		return 0;
	case ADMIN_VOLUME_RESIZE:
		volume = find_volume(a, &request->name);
		if (!volume || check_resize(a, volume, size_bytes))
			return -EINVAL;
		add_op(a, CATALOG_OP_VOLUME_RESIZE, volume, NULL)->size_bytes = size_bytes;
		if (size_bytes < volume->size_bytes)
			a->paused = volume_runtime(a->pool, volume);
		return 0;
	case ADMIN_VOLUME_RENAME:
		volume = find_volume(a, &request->name);
		if (!volume)
			return -ENOENT;
		if (strcmp(request->name.pool, request->target.pool) != 0)
			return error_set(&request->error, -EINVAL,
			    "a volume cannot be renamed into another pool");
		set_name(add_op(a, CATALOG_OP_VOLUME_RENAME, volume, NULL), request->target.volume);
		return 0;
	case ADMIN_VOLUME_DELETE:
		volume = find_volume(a, &request->name);
		if (!volume || check_delete(a, volume))
			return -EBUSY;
		add_op(a, CATALOG_OP_VOLUME_DELETE, volume, NULL);
		a->paused = volume_runtime(a->pool, volume);
		return 0;
	case ADMIN_VOLUME_SET:
		volume = find_volume(a, &request->name);
		if (!volume)
			return -ENOENT;
		return set_properties(a, volume);
	case ADMIN_EXPORT_ADD:
	case ADMIN_EXPORT_REMOVE:
		return check_export(a);
	case ADMIN_NOTE_SET:
		volume = find_volume_by_uuid(a, &request->uuid);
		return volume ? set_note(a, volume, request->note, request->note_bytes,
				    request->note_len_bytes)
			      : -ENOENT;
	case ADMIN_SNAPSHOT_CREATE:
		return check_names(a, true);
	case ADMIN_SNAPSHOT_DELETE:
		return check_names(a, false);
	case ADMIN_CLONE:
		image = find_snapshot(a, &request->name);
		if (!image)
			return -ENOENT;
		if (strcmp(request->name.pool, request->target.pool) != 0)
			return error_set(&request->error, -EINVAL,
			    "a clone lies in the pool of its snapshot: write %s/%s",
			    request->name.pool, request->target.volume);
		op = add_op(a, CATALOG_OP_CLONE, NULL, image);
		op->uuid = uuid_new();
		set_flag(op, CATALOG_BLOCKS_4096,
		    image->volume->flags & CATALOG_BLOCKS_4096); /* its partitions are so */
		set_name(op, request->target.volume);
		return 0;
	case ADMIN_ROLLBACK:
		image = find_snapshot(a, &request->name);
		if (!image)
			return -ENOENT;
		if (!request->force && refuse_clients(a, image->volume, NULL))
			return -EBUSY;
		add_op(a, CATALOG_OP_ROLLBACK, image->volume, image);
		a->paused = volume_runtime(a->pool, image->volume);
		return 0;
	case ADMIN_DIFF:
		if (strcmp(request->name.pool, request->target.pool) != 0)
			return error_set(&request->error, -EINVAL,
			    "%s and %s are different pools, which share nothing",
			    request->name.pool, request->target.pool);
		a->older = find_image(a, &request->name);
		a->newer = a->older ? find_image(a, &request->target) : NULL;
		return a->newer ? 0 : -ENOENT;
	case ADMIN_DEVICE_REMOVE:
	case ADMIN_DEVICE_REPLACE:
		return check_remove(a);
	case ADMIN_DEVICE_GROW:
		return check_grow(a);
	case ADMIN_DEVICE_OFFLINE:
		return check_offline(a);
	case ADMIN_DEVICE_ONLINE:
		return check_online(a);
	case ADMIN_DEVICE_PREPARE:
		return device_return_prepare(a->pool, request->device, &request->error);
	case ADMIN_DEVICE_FORGET:
		a->remove.index = request->device_index;
		a->remove.kind = (enum device_remove_kind)request->device_kind;
		a->remove.again = true;
		return 0;
	case ADMIN_DEVICE_ADD:
	case ADMIN_POOL_SET:
	case ADMIN_POOL_REBALANCE:
	case ADMIN_SCRUB_START:
	case ADMIN_SCRUB_PAUSE:
		return 0;
	case ADMIN_POOL_CREATE:
	case ADMIN_POOL_IMPORT:
	case ADMIN_POOL_EXPORT:
	case ADMIN_POOL_DESTROY:
	case ADMIN_LIST:
		break;
	}
	CHECK(false);
}

static int
check(struct admin_operation *a)
{
	int rc = build(a);

	for (unsigned i = 0; rc == 0 && i < a->op_count; i++)
		rc = catalog_check(&a->pool->catalog, &a->ops[i], &a->request->error);
	if (rc == 0)
		rc = check_reserve(a);
	if (rc)
		a->paused = NULL;
	else
		a->pool->admin = a;
	return rc;
}

static void
dry_run(struct admin_operation *a)
{
	a->request->would = pool_would(a->pool, a->request);
	a->paused = NULL;
	a->phase = ADMIN_DONE;
}

/* --- the way through the log --- */

static void
unpin(struct admin_operation *a)
{
	if (a->pinned)
		node_pin_end(&a->pool->nodes, &a->pin);
	a->pinned = false;
}

static void
pin(struct admin_operation *a)
{
	if (!a->pinned)
		node_pin_begin(&a->pool->nodes, &a->pin);
	a->pinned = true;
}

/* As log_reserve(); of -EAGAIN the operation is woken. */
static int
reserve(struct admin_operation *a, enum log_class class, uint32_t blocks, size_t entry_bytes)
{
	struct pool *pool = a->pool;
	int rc = log_reserve(pool, class, blocks, entry_bytes);

	if (rc == -EAGAIN)
		list_push_back(&pool->log.waiters, &a->wait.link);
	if (rc == -ENOSPC && relocation_wait(pool, &a->wait))
		return -EAGAIN;
	return rc;
}

/* A volume that gets smaller: what lies behind its new end becomes a hole first.  False: waits. */
static bool
shrink(struct admin_operation *a)
{
	struct pool *pool = a->pool;
	struct volume_record *volume = catalog_volume(&pool->catalog, a->ops[0].volume);
	uint64_t first = a->ops[0].size_bytes / FORMAT_BLOCK_BYTES;
	struct map_fault fault;
	uint64_t end;
	int rc;

	if (a->ops[0].type != CATALOG_OP_VOLUME_RESIZE ||
	    a->ops[0].size_bytes >= volume->size_bytes)
		return true;
	end = volume->size_bytes / FORMAT_BLOCK_BYTES;
	pin(a);
	if (map_prepare_zero(&pool->nodes, volume->head, first, end - first, &fault) == MAP_FAULT) {
		node_load(pool, &fault, &a->wait);
		return false;
	}
	rc = reserve(a, LOG_DELETE, 0, BATCH_ZERO_BYTES);
	if (rc == -EAGAIN)
		return false;
	if (rc)
		error_set(&a->request->error, rc, "pool %s: %s", pool->name, strerror(-rc));
	else
		log_add_zero(pool, volume->head->id, first, end - first);
	return true;
}

/* What must work on a full pool. */
static bool
gives_space(const struct admin_operation *a)
{
	switch (a->ops[0].type) {
	case CATALOG_OP_VOLUME_DELETE:
	case CATALOG_OP_SNAPSHOT_DELETE:
	case CATALOG_OP_VOLUME_RESIZE:
	case CATALOG_OP_ROLLBACK:
		return true;
	default:
		return false;
	}
}

/* 0: added; -EAGAIN: waits; else an error. */
static int
append(struct admin_operation *a)
{
	struct pool *pool = a->pool;
	uint32_t blocks = (uint32_t)div_round_up(a->op_count, CATALOG_OPS_PER_BLOCK);
	uint32_t crcs[LOG_OWNED_BLOCKS];
	uint8_t *data;
	int rc =
	    reserve(a, gives_space(a) ? LOG_DELETE : LOG_TRIM, blocks, BATCH_BYTES_FOR(blocks));

	if (rc)
		return rc;
	data = log_owned_blocks(pool, blocks);
	if (!data) {
		a->append.done = applied;
		return log_wait_applied(pool, &a->append) ? -EAGAIN : -EIO;
	}
	memset(data, 0, (size_t)blocks * FORMAT_BLOCK_BYTES);
	memcpy(data, a->ops, a->op_count * sizeof(*a->ops));
	struct baddr addr = batch_next_addr(pool->log.open->header);

	for (uint32_t i = 0; i < blocks; i++)
		crcs[i] = baddr_block_crc(
		    (struct baddr){ addr.n + i }, data + (size_t)i * FORMAT_BLOCK_BYTES);
	log_add_data(pool, BATCH_CATALOG, 0, a->op_count, blocks, data, crcs);
	return 0;
}

/* Before the record of a deleted volume goes: nobody may hold on to it. */
static void
detach_volume(struct admin_operation *a)
{
	list_for_each_safe(node, &a->pool->handles) {
		struct volume *handle = container_of(node, struct volume, link);

		if (handle->runtime == a->paused)
			volume_detach(a->pool, handle);
	}
}

/* The volume is gone, its record with it. */
static void
free_runtime(struct admin_operation *a)
{
	volume_resume(a->pool, a->paused); /* what was held back is refused */
	free(a->paused);
	a->paused = NULL;
}

int
pool_admin_bars(
    const struct pool *pool, const struct volume_record *volume, const struct image *snapshot)
{
	const struct admin_operation *a = pool->admin;

	for (unsigned i = 0; a && i < a->op_count; i++) {
		const struct catalog_op *op = &a->ops[i];
		bool of_volume = op->volume == volume->id;

		if ((op->type == CATALOG_OP_VOLUME_DELETE && of_volume) ||
		    (snapshot && op->type == CATALOG_OP_SNAPSHOT_DELETE &&
			op->image == snapshot->id))
			return -ENOENT;
		if (op->type == CATALOG_OP_VOLUME_SET && of_volume &&
		    (op->flags ^ volume->flags) & CATALOG_BLOCKS_4096)
			return -EBUSY;
	}
	return 0;
}

static void
update_handles(struct admin_operation *a)
{
	list_for_each(node, &a->pool->handles) {
		struct volume *handle = container_of(node, struct volume, link);

		if (handle->runtime)
			atomic_store_explicit(&handle->size_bytes,
			    handle->runtime->record->size_bytes, memory_order_relaxed);
	}
}

/* --- DIFF --- */

static void
add_range(struct admin_request *request, uint64_t offset_bytes, uint64_t len_bytes, bool hole)
{
	struct admin_range *last =
	    request->range_count ? &request->ranges[request->range_count - 1] : NULL;

	if (last && last->hole == hole && last->offset_bytes + last->len_bytes == offset_bytes) {
		last->len_bytes += len_bytes;
		return;
	}
	if ((request->range_count & (request->range_count - 1)) == 0)
		request->ranges = xrealloc(
		    request->ranges, (request->range_count ? 2 * request->range_count : 1) *
					 sizeof(*request->ranges));
	request->ranges[request->range_count].offset_bytes = offset_bytes;
	request->ranges[request->range_count].len_bytes = len_bytes;
	request->ranges[request->range_count].hole = hole;
	request->range_count++;
}

/* False: waits. */
static bool
walk(struct admin_operation *a)
{
	uint64_t end = max_u64(a->older->size_bytes, a->newer->size_bytes) / FORMAT_BLOCK_BYTES;
	struct map_fault fault;
	uint64_t count;
	bool hole;

	for (unsigned i = 0; i < 64; i++) {
		pin(a);
		if (map_diff(&a->pool->nodes, &a->older->map, &a->newer->map, &a->lba, end, &count,
			&hole, 256, &fault) == MAP_FAULT) {
			node_load(a->pool, &fault, &a->wait);
			return false;
		}
		unpin(a);
		if (count)
			add_range(a->request, a->lba * FORMAT_BLOCK_BYTES,
			    count * FORMAT_BLOCK_BYTES, hole);
		a->lba += count;
		if (a->lba >= end)
			return true;
	}
	reactor_timer_start(a->pool->reactor, &a->next, 0); /* a turn for everybody else */
	return false;
}

/* --- DEVICE_ADD --- */

static void
devices_added(struct device_add *add)
{
	struct admin_operation *a = container_of(add, struct admin_operation, add);

	a->request->error = add->error;
	admin_step(a);
}

static void
add_devices(struct admin_operation *a)
{
	a->add.pool = a->pool;
	a->add.devices = a->request->opened;
	a->add.count = (uint32_t)a->request->device_count;
	a->add.done = devices_added;
	device_add_start(&a->add);
}

/* --- DEVICE_REMOVE --- */

static void
device_removed(struct device_remove *remove)
{
	struct admin_operation *a = container_of(remove, struct admin_operation, remove);
	struct admin_request *request = a->request;

	if (remove->error.code && request->verb == ADMIN_DEVICE_REPLACE)
		error_set(&request->error, remove->error.code,
		    "%s is a device of the pool now, but %s could not be removed: %s",
		    request->devices[0], request->device, remove->error.text);
	else
		request->error = remove->error;
	admin_step(a);
}

static void
remove_device(struct admin_operation *a)
{
	a->remove.pool = a->pool;
	a->remove.done = device_removed;
	device_remove_start(&a->remove);
}

/* --- DEVICE_GROW --- */

static void
device_grown(struct device_grow *grow)
{
	struct admin_operation *a = container_of(grow, struct admin_operation, grow);

	a->request->error = grow->error;
	admin_step(a);
}

static void
grow_device(struct admin_operation *a)
{
	a->grow.pool = a->pool;
	a->grow.done = device_grown;
	device_grow_start(&a->grow);
}

/* --- DEVICE_OFFLINE, DEVICE_ONLINE --- */

static void
device_is_offline(struct device_offline *offline)
{
	struct admin_operation *a = container_of(offline, struct admin_operation, offline);

	a->request->error = offline->error;
	admin_step(a);
}

static void
take_device_out(struct admin_operation *a)
{
	a->offline.pool = a->pool;
	a->offline.done = device_is_offline;
	device_offline_start(&a->offline);
}

static void
device_came_back(struct device_return *back)
{
	struct admin_operation *a = container_of(back, struct admin_operation, back);

	a->request->error = back->error;
	a->request->opened[0] = back->device;
	admin_step(a);
}

static void
bring_device_back(struct admin_operation *a)
{
	a->back.pool = a->pool;
	a->back.device = a->request->opened[0];
	a->back.done = device_came_back;
	device_return_start(&a->back);
}

/* What the next superblock keeps. */
static void
change_pool(struct admin_operation *a)
{
	if (a->request->verb == ADMIN_SCRUB_START)
		scrub_start(a->pool);
	else if (a->request->verb == ADMIN_POOL_REBALANCE)
		relocation_balance(a->pool, !a->request->stop);
	else if (a->request->verb == ADMIN_SCRUB_PAUSE)
		scrub_pause(a->pool);
	else
		pool_set_warn_percent(a->pool, a->request->warn_percent);
}

static void
finish(struct admin_operation *a)
{
	struct pool *pool = a->pool;
	struct admin_request *request = a->request;
	void (*done)(struct admin_request *) = a->done;

	unpin(a);
	if (a->paused && a->paused->paused)
		volume_resume(pool, a->paused);
	update_handles(a);
	pool->reserve_held = 0;
	volume_full_consider(pool); /* the policy may be another now */
	pool->admin = NULL;
	if (a->ops)
		explicit_bzero(a->ops, a->op_count * sizeof(*a->ops)); /* notes have secrets */
	free(a->ops);
	free(a);
	pool->admin_busy = false;
	reaper_kick(pool);
	checkpoint_consider(pool);
	if (!list_empty(&pool->admin_queue)) {
		struct list *node = list_pop_front(&pool->admin_queue);

		pool->admin_busy = true;
		reactor_defer(
		    pool->reactor, &container_of(node, struct admin_operation, link)->step);
	}
	done(request);
}

static void
admin_step(struct admin_operation *a)
{
	struct pool *pool = a->pool;
	int rc;

	for (;;) {
		switch (a->phase) {
		case ADMIN_CHECK:
			if (check(a))
				a->phase = ADMIN_DONE;
			else if (a->request->dry_run)
				dry_run(a);
			else if (a->request->verb == ADMIN_DIFF)
				a->phase = ADMIN_WALK;
			else if (a->request->verb == ADMIN_DEVICE_ADD ||
				 a->request->verb == ADMIN_DEVICE_REPLACE)
				a->phase = ADMIN_ADD_DEVICES;
			else if (a->request->verb == ADMIN_DEVICE_REMOVE ||
				 a->request->verb == ADMIN_DEVICE_FORGET)
				a->phase = ADMIN_REMOVE_DEVICE;
			else if (a->request->verb == ADMIN_DEVICE_GROW)
				a->phase = ADMIN_GROW_DEVICE;
			else if (a->request->verb == ADMIN_DEVICE_OFFLINE)
				a->phase = ADMIN_TAKE_DEVICE_OUT;
			else if (a->request->verb == ADMIN_DEVICE_ONLINE)
				a->phase = ADMIN_BRING_DEVICE_BACK;
			else if (a->request->verb == ADMIN_DEVICE_PREPARE)
				a->phase = ADMIN_DONE;
			else if (a->op_count == 0)
				a->phase = ADMIN_SUPERBLOCK;
			else
				a->phase = ADMIN_PAUSE;
			continue;
		case ADMIN_PAUSE:
			a->phase = ADMIN_SHRINK;
			if (a->paused)
				return volume_pause(pool, a->paused, &a->wait);
			continue;
		case ADMIN_SHRINK:
			if (!shrink(a))
				return;
			a->phase = a->request->error.code ? ADMIN_DONE : ADMIN_APPEND;
			continue;
		case ADMIN_APPEND:
			rc = append(a);
			if (rc == -EAGAIN)
				return;
			if (rc) {
				error_set(&a->request->error, rc, "pool %s: %s", pool->name,
				    rc == -ENOSPC ? "no space is left: delete something first"
						  : strerror(-rc));
				a->phase = ADMIN_DONE;
				continue;
			}
			if (a->ops[0].type == CATALOG_OP_VOLUME_DELETE)
				detach_volume(a);
			a->phase = ADMIN_APPLIED;
			a->append.done = applied;
			if (log_wait_applied(pool, &a->append))
				return;
			continue;
		case ADMIN_APPLIED:
			if (a->ops[0].type == CATALOG_OP_VOLUME_DELETE)
				free_runtime(a);
			a->phase = ADMIN_FLUSH;
			a->flush.sequence = pool->log.applied_sequence;
			a->flush.done = flushed;
			return log_flush_start(pool, &a->flush);
		case ADMIN_FLUSH:
			a->phase = ADMIN_DONE;
			continue;
		case ADMIN_WALK:
			if (!walk(a))
				return;
			a->phase = ADMIN_DONE;
			continue;
		case ADMIN_ADD_DEVICES:
			a->phase = a->request->verb == ADMIN_DEVICE_REPLACE ? ADMIN_REMOVE_DEVICE
									    : ADMIN_DONE;
			return add_devices(a);
		case ADMIN_REMOVE_DEVICE:
			a->phase = ADMIN_DONE;
			if (a->request->error.code)
				continue; /* the new one could not be added */
			return remove_device(a);
		case ADMIN_GROW_DEVICE:
			a->phase = ADMIN_DONE;
			return grow_device(a);
		case ADMIN_TAKE_DEVICE_OUT:
			a->phase = ADMIN_DONE;
			return take_device_out(a);
		case ADMIN_BRING_DEVICE_BACK:
			a->phase = ADMIN_DONE;
			return bring_device_back(a);
		case ADMIN_SUPERBLOCK:
			change_pool(a);
			a->phase = ADMIN_DONE;
			return checkpoint_start(pool, &a->wait);
		case ADMIN_DONE:
			return finish(a);
		}
	}
}

void
pool_admin(
    struct pool *pool, struct admin_request *request, void (*done)(struct admin_request *request))
{
	struct admin_operation *a = xcalloc(1, sizeof(*a));

	a->pool = pool;
	a->request = request;
	a->done = done;
	task_init(&a->step, run_step);
	timer_init(&a->next, run_next);
	waiter_init(&a->wait, woken);
	list_init(&a->link);
	list_init(&a->append.link);
	list_init(&a->flush.link);
	if (pool->admin_busy) {
		list_push_back(&pool->admin_queue, &a->link);
		return;
	}
	pool->admin_busy = true;
	reactor_defer(pool->reactor, &a->step);
}
