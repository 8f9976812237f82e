/* SPDX-License-Identifier: Apache-2.0 */
/* The reference model: an array of blocks for each image.  Blocks are shared by counting. */
#include <stdio.h>
#include <stdlib.h>

#include "core/base/crc32c.h"
#include "tests/sim/sim.h"

struct content *
content_get(struct content *content)
{
	if (content)
		content->references++;
	return content;
}

void
content_put(struct content *content)
{
	if (content && --content->references == 0)
		free(content);
}

const uint8_t *
content_bytes(const struct content *content)
{
	static const uint8_t zeroes[BLOCK_BYTES];

	return content ? content->bytes : zeroes;
}

/* --- images --- */

static void
image_init(struct model_image *image)
{
	table_init(&image->blocks);
}

static void
image_fini(struct model_image *image)
{
	for (uint64_t i = 0; i <= image->blocks.mask; i++)
		if (image->blocks.slots[i].key)
			content_put(image->blocks.slots[i].value);
	table_fini(&image->blocks);
}

static void
image_copy(struct model_image *to, const struct model_image *from)
{
	image_init(to);
	for (uint64_t i = 0; i <= from->blocks.mask; i++)
		if (from->blocks.slots[i].key)
			table_set(&to->blocks, from->blocks.slots[i].key,
			    content_get(from->blocks.slots[i].value));
}

struct content *
model_get(const struct model_image *image, uint64_t lba)
{
	return table_get(&image->blocks, lba + 1);
}

void
model_set(struct model_image *image, uint64_t lba, struct content *content)
{
	struct content *old = table_get(&image->blocks, lba + 1);

	if (content)
		table_set(&image->blocks, lba + 1, content_get(content));
	else if (old)
		table_remove(&image->blocks, lba + 1);
	content_put(old);
}

static int
compare_u64(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

uint64_t *
model_blocks(const struct model_image *image, size_t *count)
{
	uint64_t *lbas = xcalloc(image->blocks.count + 1, sizeof(*lbas));

	*count = 0;
	for (uint64_t i = 0; i <= image->blocks.mask; i++)
		if (image->blocks.slots[i].key)
			lbas[(*count)++] = image->blocks.slots[i].key - 1;
	qsort(lbas, *count, sizeof(*lbas), compare_u64);
	return lbas;
}

void
model_zero(struct model_image *image, uint64_t lba, uint64_t count)
{
	size_t n;
	uint64_t *lbas;

	if (count <= 64) {
		for (uint64_t i = 0; i < count; i++)
			model_set(image, lba + i, NULL);
		return;
	}
	lbas = model_blocks(image, &n);
	for (size_t i = 0; i < n; i++)
		if (lbas[i] >= lba && lbas[i] - lba < count)
			model_set(image, lbas[i], NULL);
	free(lbas);
}

/* --- volumes --- */

static void
snapshot_free(struct model_snapshot *snapshot)
{
	list_remove(&snapshot->link);
	image_fini(&snapshot->image);
	free(snapshot);
}

static void
volume_free(struct model_volume *volume)
{
	while (!list_empty(&volume->snapshots))
		snapshot_free(list_first(&volume->snapshots, struct model_snapshot, link));
	list_remove(&volume->link);
	image_fini(&volume->image);
	free(volume);
}

struct model *
model_create(void)
{
	struct model *model = xcalloc(1, sizeof(*model));

	list_init(&model->volumes);
	return model;
}

void
model_free(struct model *model)
{
	while (model && !list_empty(&model->volumes))
		volume_free(list_first(&model->volumes, struct model_volume, link));
	free(model);
}

struct model *
model_copy(const struct model *from)
{
	struct model *model = model_create();

	model->sequence = from->sequence;
	list_for_each(node, &from->volumes) {
		const struct model_volume *old = container_of(node, struct model_volume, link);
		struct model_volume *volume = xcalloc(1, sizeof(*volume));

		*volume = *old;
		list_init(&volume->snapshots);
		image_copy(&volume->image, &old->image);
		list_push_back(&model->volumes, &volume->link);
		list_for_each(inner, &old->snapshots) {
			const struct model_snapshot *was =
			    container_of(inner, struct model_snapshot, link);
			struct model_snapshot *snapshot = xcalloc(1, sizeof(*snapshot));

			*snapshot = *was;
			image_copy(&snapshot->image, &was->image);
			list_push_back(&volume->snapshots, &snapshot->link);
		}
	}
	return model;
}

struct model_volume *
model_find(const struct model *model, const char *name)
{
	list_for_each(node, &model->volumes) {
		struct model_volume *volume = container_of(node, struct model_volume, link);

		if (strcmp(volume->name, name) == 0)
			return volume;
	}
	return NULL;
}

struct model_volume *
model_by_id(const struct model *model, uint64_t id)
{
	list_for_each(node, &model->volumes) {
		struct model_volume *volume = container_of(node, struct model_volume, link);

		if (id && volume->id == id)
			return volume;
	}
	return NULL;
}

struct model_volume *
model_by_head(const struct model *model, uint64_t head_id)
{
	list_for_each(node, &model->volumes) {
		struct model_volume *volume = container_of(node, struct model_volume, link);

		if (head_id && volume->head_id == head_id)
			return volume;
	}
	return NULL;
}

struct model_snapshot *
model_find_snapshot(const struct model_volume *volume, const char *name)
{
	list_for_each(node, &volume->snapshots) {
		struct model_snapshot *snapshot = container_of(node, struct model_snapshot, link);

		if (strcmp(snapshot->name, name) == 0)
			return snapshot;
	}
	return NULL;
}

unsigned
model_volume_count(const struct model *model)
{
	unsigned count = 0;

	list_for_each(node, &model->volumes)
		count++;
	return count;
}

/* --- what a batch does to it; see sim_history.c --- */

static struct model_snapshot *
snapshot_by_id(const struct model *model, uint64_t id, struct model_volume **volume)
{
	list_for_each(node, &model->volumes) {
		*volume = container_of(node, struct model_volume, link);
		list_for_each(inner, &(*volume)->snapshots) {
			struct model_snapshot *snapshot =
			    container_of(inner, struct model_snapshot, link);

			if (snapshot->id == id)
				return snapshot;
		}
	}
	return NULL;
}

static struct model_volume *
volume_add(struct model *model, const struct record_op *op)
{
	struct model_volume *volume = xcalloc(1, sizeof(*volume));

	memcpy(volume->name, op->op.name, NAME_SIZE);
	volume->id = op->volume_id;
	volume->head_id = op->image_id;
	volume->size_bytes = op->op.size_bytes;
	volume->readonly = op->op.flags & CATALOG_READONLY;
	volume->reserved = op->op.flags & CATALOG_RESERVED;
	volume->large_blocks = op->op.flags & CATALOG_BLOCKS_4096;
	list_init(&volume->snapshots);
	list_push_back(&model->volumes, &volume->link);
	return volume;
}

/* Parts come in order. */
static void
note_apply_part(struct model_volume *volume, const struct catalog_note_op *op)
{
	size_t bytes = min_u64(op->size_bytes - op->offset, NOTE_PART_BYTES);

	volume->note_bytes = op->size_bytes;
	volume->note_crc = crc32c(op->offset ? volume->note_crc : 0, op->bytes, bytes);
}

void model_apply_op(struct sim *sim, struct model *model, const struct record_op *record);

void
model_apply_op(struct sim *sim, struct model *model, const struct record_op *record)
{
	const struct catalog_op *op = &record->op;
	struct model_volume *volume = model_by_id(model, op->volume);
	struct model_volume *owner = NULL;
	struct model_snapshot *snapshot = op->image && op->type != CATALOG_OP_NOTE
					      ? snapshot_by_id(model, op->image, &owner)
					      : NULL;

	switch ((enum catalog_op_type)op->type) {
	case CATALOG_OP_VOLUME_CREATE:
		if (model_find(model, op->name))
			sim_fail(sim, "a volume %s was created twice", op->name);
		image_init(&volume_add(model, record)->image);
		return;
	case CATALOG_OP_CLONE:
		if (!snapshot)
			break;
		volume = volume_add(model, record);
		volume->size_bytes = snapshot->size_bytes;
		image_copy(&volume->image, &snapshot->image);
		return;
	case CATALOG_OP_SNAPSHOT_DELETE:
		if (!snapshot)
			break;
		snapshot_free(snapshot);
		return;
	case CATALOG_OP_VOLUME_RESIZE:
		if (!volume)
			break;
		volume->size_bytes = op->size_bytes;
		volume->size_sequence = model->sequence;
		size_t count;
		uint64_t *lbas = model_blocks(&volume->image, &count);

		if (count && lbas[count - 1] >= op->size_bytes / BLOCK_BYTES)
			sim_fail(sim, "%s has a block %llu behind its new end", volume->name,
			    (unsigned long long)lbas[count - 1]);
		free(lbas);
		return;
	case CATALOG_OP_VOLUME_RENAME:
		if (!volume)
			break;
		memcpy(volume->name, op->name, NAME_SIZE);
		return;
	case CATALOG_OP_VOLUME_DELETE:
		if (!volume)
			break;
		volume_free(volume);
		return;
	case CATALOG_OP_VOLUME_SET:
		if (!volume)
			break;
		volume->readonly = op->flags & CATALOG_READONLY;
		volume->readonly_sequence = model->sequence;
		volume->large_blocks = op->flags & CATALOG_BLOCKS_4096;
		volume->reserved = op->flags & CATALOG_RESERVED;
		volume->reserved_sequence = model->sequence;
		return;
	case CATALOG_OP_NOTE:
		if (!volume)
			break;
		note_apply_part(volume, (const struct catalog_note_op *)op);
		return;
	case CATALOG_OP_SNAPSHOT_CREATE:
		if (!volume)
			break;
		snapshot = xcalloc(1, sizeof(*snapshot));
		memcpy(snapshot->name, op->name, NAME_SIZE);
		snapshot->id = record->image_id;
		snapshot->size_bytes = volume->size_bytes;
		image_copy(&snapshot->image, &volume->image);
		list_push_back(&volume->snapshots, &snapshot->link);
		return;
	case CATALOG_OP_ROLLBACK:
		if (!volume || owner != volume)
			break;
		image_fini(&volume->image);
		image_copy(&volume->image, &snapshot->image);
		volume->size_bytes = snapshot->size_bytes;
		volume->size_sequence = model->sequence;
		volume->head_id = record->image_id;
		return;
	}
	sim_fail(sim, "a catalog operation of type %u on nothing: volume %llu, image %llu",
	    op->type, (unsigned long long)op->volume, (unsigned long long)op->image);
}
