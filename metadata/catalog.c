/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/catalog.h"

#include <stdlib.h>

#include "core/base/crc32c.h"
#include "core/base/mutant.h"
#include "metadata/name.h"

void
catalog_init(struct catalog *catalog, struct nodes *nodes)
{
	memset(catalog, 0, sizeof(*catalog));
	catalog->nodes = nodes;
	catalog->next_id = 1;
	catalog->epoch = 1;
	list_init(&catalog->volumes);
	list_init(&catalog->images);
	list_init(&catalog->deleted);
	list_init(&catalog->reserved);
	table_init(&catalog->images_by_id);
	table_init(&catalog->volumes_by_id);
	table_init(&catalog->notes_by_id);
	list_init(&catalog->note_parts);
	table_init(&catalog->dirty_blocks);
	catalog->self.kind = IMAGE_HEAD;
	list_init(&catalog->self.link);
	list_init(&catalog->self.deleted_link);
	list_init(&catalog->self.volume_link);
}

void
catalog_fini(struct catalog *catalog)
{
	struct list *node;

	while ((node = list_pop_front(&catalog->images)))
		free(container_of(node, struct image, link));
	while ((node = list_pop_front(&catalog->volumes))) {
		struct volume_record *volume = container_of(node, struct volume_record, link);

		for (size_t i = 0; i < NOTE_KINDS; i++)
			note_free(catalog, volume->notes[i]);
		free(volume);
	}
	note_parts_free(catalog);
	table_fini(&catalog->notes_by_id);
	table_fini(&catalog->images_by_id);
	table_fini(&catalog->volumes_by_id);
	table_fini(&catalog->dirty_blocks);
}

/* --- finding --- */

struct image *
catalog_image(const struct catalog *catalog, uint64_t id)
{
	return id ? table_get(&catalog->images_by_id, id) : (struct image *)&catalog->self;
}

struct volume_record *
catalog_volume(const struct catalog *catalog, uint64_t id)
{
	return id ? table_get(&catalog->volumes_by_id, id) : NULL;
}

struct volume_record *
catalog_find_volume(const struct catalog *catalog, const char *name)
{
	list_for_each(node, &catalog->volumes) {
		struct volume_record *volume = container_of(node, struct volume_record, link);

		if (strcmp(volume->name, name) == 0)
			return volume;
	}
	return NULL;
}

struct image *
catalog_find_snapshot(
    const struct catalog *catalog, const struct volume_record *volume, const char *name)
{
	(void)catalog;
	list_for_each(node, &volume->snapshots) {
		struct image *image = container_of(node, struct image, volume_link);

		if (strcmp(image->name, name) == 0)
			return image;
	}
	return NULL;
}

struct image *
catalog_only_child(const struct catalog *catalog, const struct image *image)
{
	if (image->children == 0)
		return NULL;
	if (image->child_hint && image->child_hint->parent == image)
		return image->child_hint;
	list_for_each(node, &catalog->images) {
		struct image *child = container_of(node, struct image, link);

		if (child->parent == image)
			return child;
	}
	CHECK(false);
}

/* --- changes --- */

void
catalog_mark_record_dirty(struct catalog *catalog, uint64_t id)
{
	table_set(&catalog->dirty_blocks, id / CATALOG_RECORDS_PER_BLOCK + 1, catalog);
}

void
catalog_mark_dirty(struct catalog *catalog, struct image *image)
{
	image->changes++;
	if (image->dirty || image == &catalog->self)
		return;
	image->dirty = true;
	catalog_mark_record_dirty(catalog, image->id);
}

static void
volume_mark_dirty(struct catalog *catalog, struct volume_record *volume)
{
	catalog_mark_record_dirty(catalog, volume->id);
}

static void
enter_volume(struct catalog *catalog, struct volume_record *volume)
{
	struct list *at = catalog->volumes.prev;

	while (at != &catalog->volumes &&
	       strcmp(container_of(at, struct volume_record, link)->name, volume->name) > 0)
		at = at->prev;
	list_insert_before(at->next, &volume->link);
}

static struct image *
new_image(struct catalog *catalog, uint64_t id, uint8_t kind)
{
	struct image *image = xcalloc(1, sizeof(*image));

	image->id = id;
	image->kind = kind;
	list_init(&image->link);
	list_init(&image->deleted_link);
	list_init(&image->volume_link);
	list_push_back(&catalog->images, &image->link);
	table_set(&catalog->images_by_id, id, image);
	catalog->image_count++;
	return image;
}

static struct volume_record *
new_volume(struct catalog *catalog, uint64_t id, const char *name)
{
	struct volume_record *volume = xcalloc(1, sizeof(*volume));

	volume->id = id;
	memcpy(volume->name, name, FORMAT_NAME_BYTES);
	list_init(&volume->snapshots);
	list_init(&volume->reserved_link);
	enter_volume(catalog, volume);
	table_set(&catalog->volumes_by_id, id, volume);
	catalog->volume_count++;
	return volume;
}

static void
set_flags(struct catalog *catalog, struct volume_record *volume, uint8_t flags)
{
	volume->flags = flags;
	list_remove(&volume->reserved_link);
	if (flags & CATALOG_RESERVED)
		list_push_back(&catalog->reserved, &volume->reserved_link);
}

static void
set_parent(struct catalog *catalog, struct image *image, struct image *parent)
{
	if (image->parent)
		image->parent->children--;
	image->parent = parent;
	if (parent) {
		parent->children++;
		parent->child_hint = image;
	}
	catalog_mark_dirty(catalog, image);
}

static void
mark_deleted(struct catalog *catalog, struct image *image)
{
	CHECK(!image->deleted);
	image->deleted = true;
	image->cursor = 0;
	image->volume = NULL;
	list_remove(&image->volume_link);
	list_push_back(&catalog->deleted, &image->deleted_link);
	catalog_mark_dirty(catalog, image);
}

/* @image shares all that @from has. */
static void
share_map(struct catalog *catalog, struct image *image, const struct image *from)
{
	image->map = from->map;
	node_share(catalog->nodes, &image->map.root);
	image->mapped_blocks = from->mapped_blocks;
	image->made_from = from->id;
}

struct image *
catalog_add_trimmed(struct catalog *catalog, struct image *from)
{
	struct image *image = new_image(catalog, catalog->next_id++, IMAGE_TRIMMED);

	image->made_from = from->id;
	image->size_bytes = from->size_bytes;
	image->epoch = catalog->epoch;
	set_parent(catalog, image, from->parent);
	mark_deleted(catalog, image);
	return image;
}

void
catalog_forget(struct catalog *catalog, struct image *image)
{
	struct image *child = catalog_only_child(catalog, image);

	CHECK(image->deleted && image->children <= 1);
	if (child)
		set_parent(catalog, child, image->parent);
	CHECK(image->children == 0);
	if (image->parent) {
		image->parent->children--;
		if (image->parent->child_hint == image)
			image->parent->child_hint = NULL;
	}
	node_release(catalog->nodes, &image->map.root);
	list_remove(&image->link);
	list_remove(&image->deleted_link);
	table_remove(&catalog->images_by_id, image->id);
	catalog_mark_record_dirty(catalog, image->id);
	catalog->image_count--;
	free(image);
}

uint64_t
catalog_blocks_to_hold(uint64_t blocks)
{
	/* A leaf for each MAP_FANOUT blocks, a node above for each MAP_FANOUT leaves, and so on. */
	return blocks ? blocks + blocks / (MAP_FANOUT - 1) + 2 * MAP_LEVELS_MAX : 0;
}

uint64_t
catalog_reserved_blocks(const struct volume_record *volume)
{
	uint64_t blocks = volume->size_bytes / FORMAT_BLOCK_BYTES;
	uint64_t own = image_own_blocks(volume->head);

	if (!(volume->flags & CATALOG_RESERVED) || own >= blocks)
		return 0;
	return catalog_blocks_to_hold(blocks - own);
}

static bool
op_name_valid(const struct catalog_op *op)
{
	size_t len = strnlen(op->name, sizeof(op->name));

	return len < sizeof(op->name) && name_part_valid(op->name, len);
}

int
catalog_check(const struct catalog *catalog, const struct catalog_op *op, struct error *error)
{
	const struct volume_record *volume = catalog_volume(catalog, op->volume);
	bool is_note = op->type == CATALOG_OP_NOTE; /* which names no image */
	const struct image *image =
	    op->image && !is_note ? catalog_image(catalog, op->image) : NULL;
	bool makes_volume = op->type == CATALOG_OP_VOLUME_CREATE || op->type == CATALOG_OP_CLONE;
	bool has_name = makes_volume || op->type == CATALOG_OP_VOLUME_RENAME ||
			op->type == CATALOG_OP_SNAPSHOT_CREATE;

	if (has_name && !op_name_valid(op))
		return error_set(error, -EINVAL, "the name is not valid");
	if ((makes_volume || op->type == CATALOG_OP_VOLUME_RENAME) &&
	    catalog_find_volume(catalog, op->name))
		return error_set(error, -EEXIST, "a volume named %s exists already", op->name);
	switch ((enum catalog_op_type)op->type) {
	case CATALOG_OP_VOLUME_CREATE:
	case CATALOG_OP_VOLUME_RESIZE:
		if (op->size_bytes == 0 || op->size_bytes > VOLUME_BYTES_MAX ||
		    op->size_bytes % FORMAT_BLOCK_BYTES)
			return error_set(error, -EINVAL,
			    "a volume's size is a multiple of 4096 bytes, from 4096 to 1 EiB");
		if (op->type == CATALOG_OP_VOLUME_CREATE)
			return 0;
		break;
	case CATALOG_OP_NOTE:
		if (note_check((const struct catalog_note_op *)op, error))
			return -EUCLEAN;
		break;
	case CATALOG_OP_VOLUME_RENAME:
	case CATALOG_OP_VOLUME_DELETE:
	case CATALOG_OP_VOLUME_SET:
		break;
	case CATALOG_OP_SNAPSHOT_CREATE:
		if (volume && catalog_find_snapshot(catalog, volume, op->name))
			return error_set(error, -EEXIST, "%s has a snapshot named %s already",
			    volume->name, op->name);
		break;
	case CATALOG_OP_SNAPSHOT_DELETE:
	case CATALOG_OP_CLONE:
	case CATALOG_OP_ROLLBACK:
		if (!image || image->kind != IMAGE_SNAPSHOT || image->deleted)
			return error_set(error, -ENOENT, "there is no such snapshot");
		if (op->type != CATALOG_OP_ROLLBACK)
			return 0;
		if (!volume || image->volume != volume)
			return error_set(error, -EINVAL, "the snapshot belongs to another volume");
		return 0;
	default:
		return error_set(
		    error, -EUCLEAN, "the catalog operation %u is not known", op->type);
	}
	if (!volume)
		return error_set(error, -ENOENT, "there is no such volume");
	return 0;
}

static void
apply_snapshot(struct catalog *catalog, struct volume_record *volume, const struct catalog_op *op)
{
	struct image *head = volume->head;
	struct image *snapshot = new_image(catalog, catalog->next_id++, IMAGE_SNAPSHOT);

	memcpy(snapshot->name, op->name, FORMAT_NAME_BYTES);
	snapshot->volume = volume;
	snapshot->size_bytes = volume->size_bytes;
	snapshot->created_s = op->created_s;
	snapshot->epoch = catalog->epoch;
	list_push_back(&volume->snapshots, &snapshot->volume_link);
	share_map(catalog, snapshot, head);
	head->own_blocks = MUTANT(RESERVE_FORGETS_SNAPSHOT) ? image_own_blocks(head) : 0;
	set_parent(catalog, snapshot, head->parent);
	if (!MUTANT(TREE_NOT_SHARED))
		set_parent(catalog, head, snapshot);
}

/* A new head whose past is @snapshot. */
static struct image *
head_from(struct catalog *catalog, struct volume_record *volume, struct image *snapshot)
{
	struct image *head = new_image(catalog, catalog->next_id++, IMAGE_HEAD);

	head->volume = volume;
	head->size_bytes = snapshot->size_bytes;
	share_map(catalog, head, snapshot);
	set_parent(catalog, head, snapshot);
	volume->head = head;
	volume->size_bytes = snapshot->size_bytes;
	volume_mark_dirty(catalog, volume);
	return head;
}

static struct volume_record *
create_volume(struct catalog *catalog, const struct catalog_op *op)
{
	struct volume_record *volume = new_volume(catalog, catalog->next_id++, op->name);

	volume->uuid = op->uuid;
	volume->created_s = op->created_s;
	set_flags(catalog, volume, op->flags);
	volume->full_timeout_s = op->full_timeout_s;
	volume_mark_dirty(catalog, volume);
	return volume;
}

static void
delete_volume(struct catalog *catalog, struct volume_record *volume)
{
	while (!list_empty(&volume->snapshots))
		mark_deleted(catalog, list_first(&volume->snapshots, struct image, volume_link));
	mark_deleted(catalog, volume->head);
	for (size_t i = 0; i < NOTE_KINDS; i++)
		note_free(catalog, volume->notes[i]);
	list_remove(&volume->link);
	list_remove(&volume->reserved_link);
	table_remove(&catalog->volumes_by_id, volume->id);
	catalog_mark_record_dirty(catalog, volume->id);
	catalog->volume_count--;
	free(volume);
}

static void
apply_one(struct catalog *catalog, const struct catalog_op *op)
{
	struct volume_record *volume = catalog_volume(catalog, op->volume);
	struct image *image = op->image ? catalog_image(catalog, op->image) : NULL;

	switch ((enum catalog_op_type)op->type) {
	case CATALOG_OP_VOLUME_CREATE:
		volume = create_volume(catalog, op);
		volume->size_bytes = op->size_bytes;
		volume->head = new_image(catalog, catalog->next_id++, IMAGE_HEAD);
		volume->head->volume = volume;
		volume->head->size_bytes = op->size_bytes;
		catalog_mark_dirty(catalog, volume->head);
		return;
	case CATALOG_OP_VOLUME_RESIZE:
		volume->size_bytes = op->size_bytes;
		volume->head->size_bytes = op->size_bytes;
		volume_mark_dirty(catalog, volume);
		catalog_mark_dirty(catalog, volume->head);
		return;
	case CATALOG_OP_VOLUME_RENAME:
		list_remove(&volume->link);
		memcpy(volume->name, op->name, FORMAT_NAME_BYTES);
		enter_volume(catalog, volume);
		volume_mark_dirty(catalog, volume);
		return;
	case CATALOG_OP_VOLUME_DELETE:
		delete_volume(catalog, volume);
		return;
	case CATALOG_OP_VOLUME_SET:
		set_flags(catalog, volume, op->flags);
		volume->full_timeout_s = op->full_timeout_s;
		volume_mark_dirty(catalog, volume);
		return;
	case CATALOG_OP_SNAPSHOT_CREATE:
		apply_snapshot(catalog, volume, op);
		return;
	case CATALOG_OP_SNAPSHOT_DELETE:
		mark_deleted(catalog, image);
		return;
	case CATALOG_OP_CLONE:
		head_from(catalog, create_volume(catalog, op), image);
		return;
	case CATALOG_OP_ROLLBACK:
		mark_deleted(catalog, volume->head);
		head_from(catalog, volume, image);
		return;
	case CATALOG_OP_NOTE: /* note_apply() */
		break;
	}
	CHECK(false);
}

int
catalog_apply(struct catalog *catalog, const struct catalog_op *ops, unsigned count)
{
	bool new_epoch = false;

	for (unsigned i = 0; i < count; i++) {
		struct error error;
		int rc = catalog_check(catalog, &ops[i], &error);

		if (rc)
			return rc;
		if (ops[i].type == CATALOG_OP_NOTE) {
			rc = note_apply(catalog, catalog_volume(catalog, ops[i].volume),
			    (const struct catalog_note_op *)&ops[i]);
			if (rc)
				return rc;
			continue;
		}
		apply_one(catalog, &ops[i]);
		new_epoch |= ops[i].type == CATALOG_OP_SNAPSHOT_CREATE ||
			     ops[i].type == CATALOG_OP_CLONE || ops[i].type == CATALOG_OP_ROLLBACK;
	}
	/* What is written from now on is newer than what was shared just now. */
	if (new_epoch && !MUTANT(EPOCH_NOT_RAISED))
		catalog->epoch++;
	return 0;
}

/* --- records --- */

static uint32_t
record_crc(const struct catalog_record *record)
{
	struct catalog_record copy = *record;

	copy.crc = 0;
	return crc32c((uint32_t)record->id, &copy, sizeof(copy));
}

void
catalog_seal_record(struct catalog_record *record)
{
	record->crc = record_crc(record);
}

static void
encode_image(const struct image *image, struct catalog_record *record)
{
	record->kind = CATALOG_IMAGE;
	record->image_kind = image->kind;
	record->flags = image->deleted ? CATALOG_DELETED : 0;
	record->levels = image->cut.levels;
	record->epoch = image->epoch;
	record->parent = image->parent ? image->parent->id : 0;
	record->volume = image->volume ? image->volume->id : 0;
	record->head = image->made_from;
	record->size_bytes = image->size_bytes;
	record->created_s = image->created_s;
	record->root = image->cut.root;
	record->cursor = MUTANT(CURSOR_NOT_KEPT) ? 0 : image->cursor;
	record->mapped_blocks = image->mapped_blocks;
	record->own_blocks = image->own_blocks;
	memcpy(record->name, image->name, FORMAT_NAME_BYTES);
}

static void
encode_volume(const struct volume_record *volume, struct catalog_record *record)
{
	record->kind = CATALOG_VOLUME;
	record->flags = volume->flags;
	record->full_timeout_s = volume->full_timeout_s;
	record->head = volume->head->id;
	record->size_bytes = volume->size_bytes;
	record->created_s = volume->created_s;
	record->uuid = volume->uuid;
	memcpy(record->name, volume->name, FORMAT_NAME_BYTES);
}

unsigned
catalog_encode_block(const struct catalog *catalog, uint64_t index, void *block)
{
	struct catalog_record *records = block;
	unsigned count = 0;

	memset(block, 0, FORMAT_BLOCK_BYTES);
	for (unsigned i = 0; i < CATALOG_RECORDS_PER_BLOCK; i++) {
		uint64_t id = index * CATALOG_RECORDS_PER_BLOCK + i;
		const struct image *image = id ? catalog_image(catalog, id) : NULL;
		const struct volume_record *volume = catalog_volume(catalog, id);
		const struct note *note = id ? table_get(&catalog->notes_by_id, id) : NULL;

		if (!image && !volume && !note)
			continue;
		records[i].magic = CATALOG_RECORD_MAGIC;
		records[i].id = id;
		if (image)
			encode_image(image, &records[i]);
		else if (note)
			note_encode(note, id, &records[i]);
		else
			encode_volume(volume, &records[i]);
		records[i].crc = record_crc(&records[i]);
		count++;
	}
	return count;
}

static int
decode_image(struct catalog *catalog, const struct catalog_record *record, struct error *error)
{
	struct image *image;

	if (record->image_kind < IMAGE_HEAD || record->image_kind > IMAGE_TRIMMED ||
	    record->levels > MAP_LEVELS_MAX || record->root.addr & NODE_VIRTUAL ||
	    (record->levels == 0 && record->root.addr) || record->epoch > catalog->epoch)
		return error_set(error, -EUCLEAN,
		    "the record of image %llu holds impossible values",
		    (unsigned long long)record->id);
	image = new_image(catalog, record->id, record->image_kind);
	image->map.root = record->root;
	image->map.levels = record->levels;
	image->epoch = record->epoch;
	image->parent_id = record->parent;
	image->volume_id = record->volume;
	image->made_from = record->head;
	image->size_bytes = record->size_bytes;
	image->created_s = record->created_s;
	image->cursor = record->cursor;
	image->mapped_blocks = record->mapped_blocks;
	image->own_blocks = record->own_blocks;
	memcpy(image->name, record->name, FORMAT_NAME_BYTES);
	if (record->flags & CATALOG_DELETED) {
		image->deleted = true;
		list_push_back(&catalog->deleted, &image->deleted_link);
	}
	return 0;
}

int
catalog_decode_block(
    struct catalog *catalog, uint64_t index, const void *block, struct error *error)
{
	const struct catalog_record *records = block;

	for (unsigned i = 0; i < CATALOG_RECORDS_PER_BLOCK; i++) {
		const struct catalog_record *record = &records[i];
		uint64_t id = index * CATALOG_RECORDS_PER_BLOCK + i;
		bool is_note = record->kind == CATALOG_NOTE; /* which has no name */
		size_t name_bytes = is_note ? 0 : strnlen(record->name, sizeof(record->name));

		if (record->magic == 0)
			continue;
		if (record->magic != CATALOG_RECORD_MAGIC || record->id != id || id == 0 ||
		    record_crc(record) != record->crc || name_bytes == sizeof(record->name) ||
		    id >= catalog->next_id)
			return error_set(error, -EUCLEAN, "the catalog's record %llu is damaged",
			    (unsigned long long)id);
		if (record->kind == CATALOG_IMAGE) {
			int rc = decode_image(catalog, record, error);

			if (rc)
				return rc;
		} else if (is_note) {
			int rc = note_decode(catalog, record, error);

			if (rc)
				return rc;
		} else if (record->kind == CATALOG_VOLUME) {
			struct volume_record *volume;

			if (record->size_bytes == 0 || record->size_bytes > VOLUME_BYTES_MAX ||
			    record->size_bytes % FORMAT_BLOCK_BYTES)
				return error_set(error, -EUCLEAN,
				    "the record of volume %llu has the impossible size %llu",
				    (unsigned long long)id, (unsigned long long)record->size_bytes);
			volume = new_volume(catalog, id, record->name);

			set_flags(catalog, volume, record->flags);
			volume->full_timeout_s = record->full_timeout_s;
			volume->head_id = record->head;
			volume->size_bytes = record->size_bytes;
			volume->created_s = record->created_s;
			volume->uuid = record->uuid;
		} else {
			return error_set(error, -EUCLEAN, "the catalog's record %llu has kind %u",
			    (unsigned long long)id, record->kind);
		}
	}
	return 0;
}

int
catalog_link(struct catalog *catalog, struct error *error)
{
	list_for_each(node, &catalog->images) {
		struct image *image = container_of(node, struct image, link);

		if (image->parent_id) {
			image->parent = catalog_image(catalog, image->parent_id);
			/* A head is older than its snapshots, but snapshots are listed by age. */
			if (!image->parent || image->parent->kind != IMAGE_SNAPSHOT ||
			    (image->kind == IMAGE_SNAPSHOT && image->parent_id >= image->id))
				return error_set(error, -EUCLEAN, "image %llu has no parent %llu",
				    (unsigned long long)image->id,
				    (unsigned long long)image->parent_id);
			image->parent->children++;
			image->parent->child_hint = image;
		}
		if (image->volume_id) {
			image->volume = catalog_volume(catalog, image->volume_id);
			if (!image->volume)
				return error_set(error, -EUCLEAN, "image %llu has no volume %llu",
				    (unsigned long long)image->id,
				    (unsigned long long)image->volume_id);
			if (image->kind == IMAGE_SNAPSHOT && !image->deleted)
				list_push_back(&image->volume->snapshots, &image->volume_link);
		}
	}
	list_for_each(node, &catalog->volumes) {
		struct volume_record *volume = container_of(node, struct volume_record, link);

		volume->head = catalog_image(catalog, volume->head_id);
		if (!volume->head || volume->head_id == 0 || volume->head->volume != volume ||
		    volume->head->kind != IMAGE_HEAD || volume->head->deleted)
			return error_set(
			    error, -EUCLEAN, "volume %s has no head image", volume->name);
	}
	return note_link(catalog, error);
}

bool
catalog_invariant(const struct catalog *catalog)
{
	uint64_t images = 0;

	list_for_each(node, &catalog->images) {
		const struct image *image = container_of(node, struct image, link);
		uint32_t children = 0;

		images++;
		if (catalog_image(catalog, image->id) != image || image->epoch > catalog->epoch)
			return false;
		list_for_each(other, &catalog->images) {
			children += container_of(other, struct image, link)->parent == image;
		}
		if (children != image->children)
			return false;
		if (image->parent && image->parent->kind != IMAGE_SNAPSHOT)
			return false;
	}
	return images == catalog->image_count && images == catalog->images_by_id.count;
}
