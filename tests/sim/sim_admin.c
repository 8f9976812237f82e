/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The administrator: draws administrative requests, and judges what becomes of them.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/sim_work.h"

void
work_op_applied(struct sim *sim, uint64_t sequence, const struct record_op *op)
{
	static const enum admin_verb verbs[] = {
		[CATALOG_OP_VOLUME_CREATE] = ADMIN_VOLUME_CREATE,
		[CATALOG_OP_VOLUME_RESIZE] = ADMIN_VOLUME_RESIZE,
		[CATALOG_OP_VOLUME_RENAME] = ADMIN_VOLUME_RENAME,
		[CATALOG_OP_VOLUME_DELETE] = ADMIN_VOLUME_DELETE,
		[CATALOG_OP_VOLUME_SET] = ADMIN_VOLUME_SET,
		[CATALOG_OP_SNAPSHOT_CREATE] = ADMIN_SNAPSHOT_CREATE,
		[CATALOG_OP_SNAPSHOT_DELETE] = ADMIN_SNAPSHOT_DELETE,
		[CATALOG_OP_CLONE] = ADMIN_CLONE,
		[CATALOG_OP_ROLLBACK] = ADMIN_ROLLBACK,
		[CATALOG_OP_NOTE] = ADMIN_NOTE_SET,
	};
	bool found = false;

	sim_trace(sim, "  catalog operation %u: volume %llu, image %llu, %s", op->op.type,
	    (unsigned long long)op->op.volume, (unsigned long long)op->op.image, op->op.name);
	list_for_each(node, &sim->admins) {
		struct sim_admin *a = container_of(node, struct sim_admin, link);

		/* They take their turns: it is the first of this kind. */
		if (!found && a->request.verb == verbs[op->op.type] &&
		    (!a->applied || a->sequence == sequence)) {
			a->applied = true;
			a->sequence = sequence;
			found = true;
		}
	}
	if (!found)
		sim_fail(sim, "a catalog operation of type %u that nobody asked for", op->op.type);
	if (op->op.type != CATALOG_OP_VOLUME_DELETE && op->op.type != CATALOG_OP_SNAPSHOT_DELETE)
		return;
	list_for_each(node, &sim->handles) {
		struct sim_handle *handle = container_of(node, struct sim_handle, link);

		if (handle->snapshot_id &&
		    (handle->volume_id == op->op.volume || handle->snapshot_id == op->op.image))
			sim_fail(sim, "snapshot %llu is deleted while it is open",
			    (unsigned long long)handle->snapshot_id);

		if (handle->volume_id == op->op.volume)
			handle->gone = true;
	}
}

/* --- administration --- */

/* A deletion that failed on its way to the disk has sent the clients away: nobody knows its end. */
static void
disconnect(struct sim *sim, uint64_t volume_id)
{
	list_for_each(node, &sim->handles) {
		struct sim_handle *handle = container_of(node, struct sim_handle, link);

		if (sim->faults.struck && handle->volume_id == volume_id)
			handle->gone = true;
	}
}

static bool
is_scrub(const struct admin_request *request)
{
	return request->verb == ADMIN_POOL_REBALANCE || request->verb == ADMIN_SCRUB_START ||
	       request->verb == ADMIN_SCRUB_PAUSE;
}

static void
admin_done(struct admin_request *request)
{
	struct sim *sim = the_sim;
	struct sim_admin *a = container_of(request, struct sim_admin, request);
	int code = request->error.code;

	sim->progress_ns = sim->now_ns;
	sim_trace(sim, "  administration %llu: %d %s", (unsigned long long)a->number, code,
	    code ? request->error.text : "");
	if (code == 0 && request->verb == ADMIN_DEVICE_ADD) {
		devices_added(sim);
	} else if (code == 0 && request->verb == ADMIN_DEVICE_REMOVE) {
		sim->stats.leaving += !request->stop;
	} else if (code == 0 && request->verb == ADMIN_DEVICE_GROW) {
		sim->stats.grown++;
	} else if (request->verb == ADMIN_DEVICE_ONLINE || request->verb == ADMIN_DEVICE_OFFLINE ||
		   request->verb == ADMIN_DEVICE_PREPARE) {
		devices_returned(sim, request);
	} else if (code == 0 && is_scrub(request)) {
		if (sim->pool->scrub.record.damaged_blocks > 0 && !sim->faults.scrub_excused &&
		    !sim->faults.damaged)
			sim_fail(sim, "the scrub finds %llu damaged blocks in a sound pool",
			    (unsigned long long)sim->pool->scrub.record.damaged_blocks);
	} else if (code == 0 && request->verb != ADMIN_DIFF) {
		if (!a->applied)
			sim_fail(sim, "administration %llu is answered, but was not applied",
			    (unsigned long long)a->number);
		sim->history.acked = max_u64(sim->history.acked, a->sequence);
		history_promise(sim, a->sequence);
	} else if (code) {
		/* Taken all the same: it failed behind the point of no return. */
		if (request->verb == ADMIN_DEVICE_ADD && !sim->joining)
			sim->joined++;
		sim->adding &= request->verb != ADMIN_DEVICE_ADD;
		if (a->applied && !sim->faults.struck)
			sim_fail(sim, "administration %llu failed, but was applied",
			    (unsigned long long)a->number);
		sim->refused = code == -ENOSPC && (judge_reserve_used(sim) ||
						      strstr(request->error.text, "reserve=full"));
		if (a->must_succeed && !sim->refused && !sim->faults.struck && !sim->faults.damaged)
			sim_fail(sim, "administration %llu (verb %u) failed: %s",
			    (unsigned long long)a->number, request->verb, request->error.text);
	}
	if (code && request->verb == ADMIN_VOLUME_DELETE)
		disconnect(sim, a->volume_id);
	list_remove(&a->link);
	sim->admin_count--;
	admin_request_fini(request);
	free(a);
}

static struct sim_admin *
admin_new(struct sim *sim, enum admin_verb verb, const struct model_volume *volume)
{
	struct sim_admin *a = xcalloc(1, sizeof(*a));

	a->number = ++sim->next_number;
	a->request.verb = verb;
	a->request.created_s = 1700000000;
	snprintf(a->request.name.pool, NAME_SIZE, "p");
	snprintf(a->request.target.pool, NAME_SIZE, "p");
	a->must_succeed = sim->admin_count == 0;
	if (volume) {
		memcpy(a->request.name.volume, volume->name, NAME_SIZE);
		a->volume_id = volume->id;
	}
	list_init(&a->link);
	return a;
}

static void
admin_submit(struct sim *sim, struct sim_admin *a)
{
	sim_trace(sim, "administration %llu: verb %u, %s@%s -> %s, %llu bytes, %zu names",
	    (unsigned long long)a->number, a->request.verb, a->request.name.volume,
	    a->request.name.snapshot, a->request.target.volume,
	    (unsigned long long)a->request.size_bytes, a->request.name_count);
	list_push_back(&sim->admins, &a->link);
	sim->admin_count++;
	sim->stats.admins++;
	sim->progress_ns = sim->now_ns;
	pool_admin(sim->pool, &a->request, admin_done);
}

static uint64_t
draw_size(struct sim *sim)
{
	static const uint64_t sizes[] = { 4096, 64 * KIB, MIB, 3 * MIB + 4096, 20 * MIB, 300 * MIB,
		3 * GIB, TIB, 5 * TIB, 40 * TIB };

	unsigned first = sim->weather.large_volumes ? 3 : 0;

	return sizes[first + draw(sim, (sim->weather.huge ? ARRAY_SIZE(sizes) : 6) - first)];
}

/* Handles on snapshots are in the way of deletes; those that are busy may make it fail. */
static void
close_snapshots(struct sim *sim, struct sim_admin *a, uint64_t volume_id)
{
	list_for_each_safe(node, &sim->handles) {
		struct sim_handle *handle = container_of(node, struct sim_handle, link);

		if (!handle->snapshot_id || (volume_id && handle->volume_id != volume_id))
			continue;
		if (handle->in_flight)
			a->must_succeed = false;
		else
			handle_close(sim, handle);
	}
}

static void
admin_create(struct sim *sim)
{
	struct sim_admin *a = admin_new(sim, ADMIN_VOLUME_CREATE, NULL);

	snprintf(a->request.name.volume, NAME_SIZE, "v%llu", (unsigned long long)a->number);
	a->request.size_bytes = draw_size(sim);
	a->request.reserved = one_in(sim, 3);
	a->request.block_bytes = a->number % 2 ? 4096 : 512;
	admin_submit(sim, a);
}

static void
admin_snapshot(struct sim *sim)
{
	struct sim_admin *a = admin_new(sim, ADMIN_SNAPSHOT_CREATE, NULL);
	unsigned volumes = model_volume_count(sim->history.present);

	a->request.names = xcalloc(volumes, sizeof(struct name));
	list_for_each(node, &sim->history.present->volumes) {
		struct model_volume *volume = container_of(node, struct model_volume, link);

		if (a->request.name_count > 0 && one_in(sim, 2))
			continue;
		struct name *name = &a->request.names[a->request.name_count++];

		snprintf(name->pool, NAME_SIZE, "p");
		memcpy(name->volume, volume->name, NAME_SIZE);
		snprintf(name->snapshot, NAME_SIZE, "s%llu", (unsigned long long)a->number);
	}
	admin_submit(sim, a);
}

void
admin_delete_snapshots(struct sim *sim, const struct model_volume *volume)
{
	struct sim_admin *a = admin_new(sim, ADMIN_SNAPSHOT_DELETE, NULL);
	size_t count = 0;

	list_for_each(node, &volume->snapshots)
		count++;
	a->request.names = xcalloc(count, sizeof(struct name));
	list_for_each(node, &volume->snapshots) {
		const struct model_snapshot *snapshot =
		    container_of(node, struct model_snapshot, link);

		if (a->request.name_count > 0 && !one_in(sim, 4))
			continue;
		if (a->request.name_count == 0 && node->next != &volume->snapshots &&
		    one_in(sim, 2))
			continue;
		struct name *name = &a->request.names[a->request.name_count++];

		snprintf(name->pool, NAME_SIZE, "p");
		memcpy(name->volume, volume->name, NAME_SIZE);
		memcpy(name->snapshot, snapshot->name, NAME_SIZE);
	}
	close_snapshots(sim, a, volume->id);
	admin_submit(sim, a);
}

void
admin_delete_volume(struct sim *sim, const struct model_volume *volume)
{
	struct sim_admin *a = admin_new(sim, ADMIN_VOLUME_DELETE, volume);

	a->request.force = true;
	close_snapshots(sim, a, volume->id);
	admin_submit(sim, a);
}

bool
admin_add_device(struct sim *sim)
{
	struct sim_admin *a;

	if (sim->joined == sim->weather.device_count || sim->adding)
		return false;
	a = admin_new(sim, ADMIN_DEVICE_ADD, NULL);
	devices_add(sim, &a->request);
	admin_submit(sim, a);
	return true;
}

void
admin_remove_device(struct sim *sim)
{
	struct sim_admin *a = admin_new(sim, ADMIN_DEVICE_REMOVE, NULL);

	devices_leave(sim, &a->request);
	a->must_succeed = false; /* the others may be too small */
	admin_submit(sim, a);
}

void
admin_rebalance(struct sim *sim)
{
	struct sim_admin *a = admin_new(sim, ADMIN_POOL_REBALANCE, NULL);

	a->request.stop = one_in(sim, 4);
	admin_submit(sim, a);
}

void
admin_grow_device(struct sim *sim)
{
	struct sim_admin *a = admin_new(sim, ADMIN_DEVICE_GROW, NULL);

	devices_grow(sim, &a->request);
	a->must_succeed = false; /* it may be as large as before */
	admin_submit(sim, a);
}

bool
admin_return_device(struct sim *sim, uint64_t n)
{
	struct sim_admin *a = admin_new(sim, ADMIN_DEVICE_OFFLINE, NULL);

	if (!devices_return(sim, &a->request, n)) {
		free(a);
		return false;
	}
	a->must_succeed = false; /* something may lie there alone, or is under way */
	admin_submit(sim, a);
	return true;
}

static void
admin_note(struct sim *sim, const struct model_volume *volume)
{
	const struct volume_record *record = catalog_volume(&sim->pool->catalog, volume->id);
	uint32_t len_bytes = one_in(sim, 4) ? 0 : (uint32_t)draw(sim, 4 * NOTE_PART_BYTES);
	struct sim_admin *a;

	if (!record)
		return;
	a = admin_new(sim, ADMIN_NOTE_SET, volume);
	a->request.uuid = record->uuid;
	a->request.note = NOTE_RESERVATIONS;
	a->request.note_len_bytes = len_bytes;
	a->request.note_bytes = xmalloc(len_bytes + 1);
	for (uint32_t k = 0; k < len_bytes; k++)
		a->request.note_bytes[k] = (uint8_t)(a->number + k / 7);
	admin_submit(sim, a);
}

static void
admin_scrub(struct sim *sim)
{
	bool start = !one_in(sim, 4);

	sim->stats.scrubs += start && sim->pool->scrub.record.state == SCRUB_DONE;
	admin_submit(sim, admin_new(sim, start ? ADMIN_SCRUB_START : ADMIN_SCRUB_PAUSE, NULL));
}

void
admin_something(struct sim *sim)
{
	struct model_volume *volume = draw_volume(sim);
	unsigned volumes = model_volume_count(sim->history.present);
	struct model_snapshot *snapshot = volume ? draw_snapshot(sim, volume) : NULL;
	struct sim_admin *a;

	if (!volume || (volumes < sim->weather.volumes_max && one_in(sim, 4))) {
		admin_create(sim);
		return;
	}
	switch (draw(sim, 12)) {
	case 0:
	case 1:
	case 2:
		admin_snapshot(sim);
		return;
	case 3:
	case 4:
		if (snapshot)
			admin_delete_snapshots(sim, volume);
		return;
	case 5:
	case 6:
		if (!snapshot || volumes >= sim->weather.volumes_max + 2)
			return;
		a = admin_new(sim, ADMIN_CLONE, volume);
		a->volume_id = 0;
		memcpy(a->request.name.snapshot, snapshot->name, NAME_SIZE);
		snprintf(
		    a->request.target.volume, NAME_SIZE, "c%llu", (unsigned long long)a->number);
		admin_submit(sim, a);
		return;
	case 7:
	case 8:
		if (!snapshot)
			return;
		a = admin_new(sim, ADMIN_ROLLBACK, volume);
		memcpy(a->request.name.snapshot, snapshot->name, NAME_SIZE);
		a->request.force = true;
		a->rolls_back = true;
		admin_submit(sim, a);
		return;
	case 9:
		a = admin_new(sim, ADMIN_VOLUME_RESIZE, volume);
		a->request.size_bytes = draw_size(sim);
		a->request.force = true;
		admin_submit(sim, a);
		return;
	case 10:
		if (one_in(sim, 2)) {
			a = admin_new(sim, ADMIN_VOLUME_RENAME, volume);
			snprintf(a->request.target.volume, NAME_SIZE, "r%llu",
			    (unsigned long long)a->number);
		} else {
			a = admin_new(sim, ADMIN_VOLUME_SET, volume);
			a->request.set = 1 + (unsigned)draw(sim, 15);
			a->request.readonly = !volume->readonly && one_in(sim, 2);
			a->request.pauses_when_full = one_in(sim, 2);
			a->request.reserved = one_in(sim, 2);
			/* Always with a limit: who waits for ever makes no progress. */
			a->request.set |=
			    a->request.set & ADMIN_SET_ON_FULL ? ADMIN_SET_ON_FULL_TIMEOUT : 0;
			a->request.full_timeout_s = 1 + (uint32_t)draw(sim, 10);
		}
		admin_submit(sim, a);
		return;
	case 11:
		if (volumes > 1 && one_in(sim, 2))
			admin_delete_volume(sim, volume);
		else
			one_in(sim, 2) ? admin_note(sim, volume) : admin_scrub(sim);
		return;
	}
}
