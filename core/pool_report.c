/* SPDX-License-Identifier: Apache-2.0 */
/* What the administrator sees of a pool. */
#include <stdio.h>
#include <stdlib.h>

#include "core/device_stall.h"
#include "core/pool_admin.h"

static bool
pool_is_degraded(const struct pool *pool)
{
	for (uint32_t i = 0; i < pool->device_count; i++)
		if (pool->space.devices[i].out && !pool->space.devices[i].removed)
			return true;
	return space_count_degraded(&pool->space) > 0;
}

/* Which devices are left out, and what lacks copies for it. */
static void
tell_degraded(const struct pool *pool, char *text, size_t size)
{
	uint64_t slabs = space_count_degraded(&pool->space);
	size_t at = 0;

	for (uint32_t i = 0; i < pool->device_count && at + 60 < size; i++) {
		const struct pool_device *device = &pool->devices[i];

		if (!pool->space.devices[i].out || pool->space.devices[i].removed)
			continue;
		if (device->device || device->name)
			at += (size_t)snprintf(text + at, size - at, "%.100s is %s; ",
			    pool_device_name(pool, i), device->offline ? "offline" : "left out");
		else
			at += (size_t)snprintf(text + at, size - at, "device %u is missing; ", i);
		at = (size_t)min_u64(at, size);
	}
	if (at < size)
		snprintf(text + at, size - at, "%llu MiB lack a copy",
		    (unsigned long long)(slabs * pool->space.slab_blocks * FORMAT_BLOCK_BYTES /
					 MIB));
}

static const char *
state_name(const struct pool *pool)
{
	switch (pool->state) {
	case POOL_ONLINE:
		return pool_is_degraded(pool) ? "degraded" : "online";
	case POOL_READONLY:
		return "readonly";
	case POOL_FAILED:
		return "failed";
	case POOL_STARTING:
	case POOL_CLOSING:
		break;
	}
	return "closing";
}

static void
report_image(struct pool *pool, const struct volume_record *volume, struct image *snapshot,
    struct admin_image_report *out)
{
	struct image *image = snapshot ? snapshot : volume->head;
	uint64_t unique_blocks;

	out->kind = snapshot ? ADMIN_IMAGE_SNAPSHOT : ADMIN_IMAGE_VOLUME;
	snprintf(out->name.pool, sizeof(out->name.pool), "%s", pool->name);
	memcpy(out->name.volume, volume->name, NAME_SIZE);
	if (snapshot)
		memcpy(out->name.snapshot, snapshot->name, NAME_SIZE);
	out->uuid = volume->uuid;
	out->size_bytes = snapshot ? snapshot->size_bytes : volume->size_bytes;
	out->block_bytes = catalog_block_bytes(volume);
	out->used_bytes = image->mapped_blocks * FORMAT_BLOCK_BYTES;
	out->unique_known = unique_known(pool, image, &unique_blocks);
	if (out->unique_known)
		out->unique_bytes = unique_blocks * FORMAT_BLOCK_BYTES;
	out->created_s = snapshot ? snapshot->created_s : volume->created_s;
	out->readonly = snapshot || volume->flags & CATALOG_READONLY;
	if (!snapshot) {
		const struct volume_runtime *runtime = volume->runtime;

		out->pauses_when_full = volume->flags & CATALOG_PAUSE_WHEN_FULL;
		out->full_timeout_s = volume->full_timeout_s;
		out->waiting = runtime ? runtime->waiting : 0;
		out->reserved = volume->flags & CATALOG_RESERVED;
		out->reserved_bytes = catalog_reserved_blocks(volume) * FORMAT_BLOCK_BYTES;
	}
	out->clients = volume_clients(pool, snapshot ? NULL : volume->runtime, snapshot);
	if (!snapshot && volume->notes[NOTE_EXPORTS] &&
	    export_list_decode(&out->exports, volume->notes[NOTE_EXPORTS]->bytes,
		volume->notes[NOTE_EXPORTS]->len_bytes) == 0)
		for (size_t i = 0; i < out->exports.count; i++) {
			explicit_bzero(out->exports.items[i].secret, EXPORT_SECRET_BYTES);
			explicit_bzero(out->exports.items[i].mutual_secret, EXPORT_SECRET_BYTES);
		}
	/* A clone: its past is another volume's snapshot. */
	const struct image *past = image->parent;

	while (!snapshot && past && past->volume == volume)
		past = past->parent;
	if (!snapshot && past && past->volume) {
		memcpy(out->origin.pool, out->name.pool, NAME_SIZE);
		memcpy(out->origin.volume, past->volume->name, NAME_SIZE);
		memcpy(out->origin.snapshot, past->name, NAME_SIZE);
	}
}

static void
report_images(struct pool *pool, struct admin_pool_report *report)
{
	size_t n = 0;

	volume_full_count(pool);
	report->images = xcalloc(
	    pool->catalog.volume_count + pool->catalog.image_count, sizeof(*report->images));
	list_for_each(node, &pool->catalog.volumes) {
		const struct volume_record *volume = container_of(node, struct volume_record, link);

		report_image(pool, volume, NULL, &report->images[n++]);
		list_for_each(inner, &volume->snapshots) {
			report_image(pool, volume, container_of(inner, struct image, volume_link),
			    &report->images[n++]);
		}
	}
	report->image_count = n;
}

static void
report_deleting(const struct pool *pool, struct admin_pool_report *report)
{
	uint64_t todo = 0, done = 0;

	list_for_each(node, &pool->catalog.deleted) {
		const struct image *image = container_of(node, struct image, deleted_link);
		uint64_t end = image->map.levels ? map_capacity(image->map.levels) : 1;

		report->deleting++;
		todo += 1000;
		done +=
		    image->cursor >= end ? 1000 : (uint64_t)((double)image->cursor * 1000 / end);
	}
	report->deleting_done_permille = todo ? done * 1000 / todo : 1000;
}

static void
report_leaving(const struct pool *pool, uint32_t index, struct admin_device_report *out)
{
	const struct space_device *device = &pool->space.devices[index];
	const struct pool_device *own = &pool->devices[index];
	uint64_t used = space_count_used(&pool->space, index);
	uint64_t took_s = (pool->reactor->now_ns - own->leaving_since_ns) / 1000000000;
	uint64_t done = own->leaving_slabs > used ? own->leaving_slabs - used : 0;

	out->leaving = device->leaving;
	if (!out->leaving)
		return;
	out->left_bytes = used * pool->space.slab_blocks * FORMAT_BLOCK_BYTES;
	out->done_permille = own->leaving_slabs ? done * 1000 / own->leaving_slabs : 0;
	out->left_s = done > 0 ? max_u64(1, took_s * used / done) : 0;
}

void
pool_report(struct pool *pool, struct admin_pool_report *report)
{
	uint64_t slab_bytes = (uint64_t)pool->space.slab_blocks * FORMAT_BLOCK_BYTES;
	uint64_t used_blocks;
	uint64_t free_slabs = pool->space.free_count + (pool->log.next_slab != NULL);

	memset(report, 0, sizeof(*report));
	snprintf(report->name, sizeof(report->name), "%s", pool->name);
	report->uuid = pool->uuid;
	report->state = state_name(pool);
	snprintf(report->state_reason, sizeof(report->state_reason), "%s", pool->state_reason);
	if (pool->state == POOL_ONLINE && pool_is_degraded(pool))
		tell_degraded(pool, report->state_reason, sizeof(report->state_reason));
	report->copies = pool->space.copies;
	report->size_bytes = pool->space.slab_count * slab_bytes;
	report->allocated_bytes = (pool->space.slab_count - free_slabs) * slab_bytes;
	report->live_bytes = pool->space.live_blocks * FORMAT_BLOCK_BYTES;
	report->usable_bytes = pool->live_blocks_max * FORMAT_BLOCK_BYTES;
	report->reserved_bytes = pool_reserved_blocks(pool) * FORMAT_BLOCK_BYTES;
	list_for_each(node, &pool->catalog.volumes) {
		report->provisioned_bytes +=
		    container_of(node, struct volume_record, link)->size_bytes;
	}
	used_blocks = pool->space.live_blocks + pool->log.pending_blocks +
		      report->reserved_bytes / FORMAT_BLOCK_BYTES;
	if (used_blocks < pool->live_blocks_max)
		report->available_bytes =
		    (pool->live_blocks_max - used_blocks) * FORMAT_BLOCK_BYTES;
	relocation_report(pool, report);
	scrub_report(pool, &report->scrub);
	report->full_percent = pool_full_percent(pool);
	for (unsigned i = 0; i < WARN_LEVELS; i++)
		report->warn_percent[i] = pool->warn_percent[i];
	report->checkpoint = pool->checkpoint_number;
	report->checkpoint_running = pool->checkpoint.phase != CHECKPOINT_IDLE;
	report_deleting(pool, report);
	report->unprepared_bytes = housekeeping_unprepared_slabs(pool) * slab_bytes;
	report->devices = xcalloc(pool->device_count, sizeof(*report->devices));
	for (uint32_t i = 0; i < pool->device_count; i++) {
		struct admin_device_report *out = &report->devices[report->device_count];
		const struct pool_device *device = &pool->devices[i];

		/* As long as no device set says so, the pool is not imported without it. */
		if (pool->space.devices[i].removed && device->told)
			continue;
		report->device_count++;
		out->missing = !device->device && !device->name;
		out->path = out->missing ? NULL : xstrdup(pool_device_name(pool, i));
		out->left_out = pool->space.devices[i].out;
		out->offline = out->left_out && device->offline;
		out->stalled = device_is_stalled(pool, i);
		out->returning = pool->space.devices[i].joining;
		out->uuid = device->label.device_uuid;
		out->size_bytes = device->label.size_bytes;
		out->slab_count = pool->space.devices[i].slab_count;
		out->slabs_free = pool->space.devices[i].free_count;
		out->errors = device->errors;
		out->healed = device->healed;
		report_leaving(pool, i, out);
	}
	report_images(pool, report);
}
