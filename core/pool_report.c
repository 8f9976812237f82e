/* SPDX-License-Identifier: Apache-2.0 */
/* What the administrator sees of a pool. */
#include <stdio.h>
#include <stdlib.h>

#include "core/pool_admin.h"

static const char *
state_name(const struct pool *pool)
{
	switch (pool->state) {
	case POOL_ONLINE:
		return "online";
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
report_image(const struct pool *pool, const struct volume_record *volume,
    const struct image *snapshot, struct admin_image_report *out)
{
	const struct image *image = snapshot ? snapshot : volume->head;

	out->kind = snapshot ? ADMIN_IMAGE_SNAPSHOT : ADMIN_IMAGE_VOLUME;
	snprintf(out->name.pool, sizeof(out->name.pool), "%s", pool->name);
	memcpy(out->name.volume, volume->name, NAME_SIZE);
	if (snapshot)
		memcpy(out->name.snapshot, snapshot->name, NAME_SIZE);
	out->uuid = volume->uuid;
	out->size_bytes = snapshot ? snapshot->size_bytes : volume->size_bytes;
	out->used_bytes = image->mapped_blocks * FORMAT_BLOCK_BYTES;
	out->created_s = snapshot ? snapshot->created_s : volume->created_s;
	out->readonly = snapshot || volume->flags & CATALOG_READONLY;
	out->clients = volume_clients(pool, snapshot ? NULL : volume->runtime, snapshot);
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
report_images(const struct pool *pool, struct admin_pool_report *report)
{
	size_t n = 0;

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

void
pool_report(struct pool *pool, struct admin_pool_report *report)
{
	uint64_t slab_bytes = (uint64_t)pool->space.slab_blocks * FORMAT_BLOCK_BYTES;
	uint64_t open_left = 0;
	uint64_t free_slabs = pool->space.free_count + (pool->log.next_slab != NULL);

	memset(report, 0, sizeof(*report));
	snprintf(report->name, sizeof(report->name), "%s", pool->name);
	report->uuid = pool->uuid;
	report->state = state_name(pool);
	snprintf(report->state_reason, sizeof(report->state_reason), "%s", pool->state_reason);
	report->size_bytes = pool->space.slab_count * slab_bytes;
	report->allocated_bytes = (pool->space.slab_count - free_slabs) * slab_bytes;
	report->live_bytes = pool->space.live_blocks * FORMAT_BLOCK_BYTES;
	if (pool->log.slab)
		open_left =
		    (pool->space.slab_blocks - pool->log.slot) * (uint64_t)FORMAT_BLOCK_BYTES;
	if (free_slabs > pool->reserve_slabs)
		report->available_bytes =
		    (free_slabs - pool->reserve_slabs) * slab_bytes + open_left;
	report->checkpoint = pool->checkpoint_number;
	report->checkpoint_running = pool->checkpoint.phase != CHECKPOINT_IDLE;
	report_deleting(pool, report);
	report->devices = xcalloc(pool->device_count, sizeof(*report->devices));
	report->device_count = pool->device_count;
	for (uint32_t i = 0; i < pool->device_count; i++) {
		struct admin_device_report *out = &report->devices[i];
		const struct pool_device *device = &pool->devices[i];

		out->path = xstrdup(device->device->name);
		out->uuid = device->label.device_uuid;
		out->size_bytes = device->label.size_bytes;
		out->slab_count = pool->space.devices[i].slab_count;
		out->slabs_free = pool->space.devices[i].free_count;
		out->errors = device->errors;
	}
	report_images(pool, report);
}
