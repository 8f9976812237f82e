/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See quarry_dump.h.  Every structure becomes a JSON object; text is those objects, printed: the
 * members of one below each other, those of a list's items side by side.
 */
#include "tools/quarry_dump.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "metadata/reservation.h"
#include "tools/quarry_offline.h"

struct dump {
	const struct dump_options *options;
	struct offline offline;
	json_t *root; /* JSON only: section -> array of what was printed */
	const char *section;
	uint64_t image; /* of map: */
	struct device *device;
	struct label label; /* of it */
	bool labelled;
	bool failed;
};

#define NUMBER(n) ((json_int_t)(n))

static json_t *
hex(uint32_t n)
{
	char text[16];

	snprintf(text, sizeof(text), "%08x", n);
	return json_string(text);
}

static json_t *
uuid_json(const struct uuid *uuid)
{
	char text[UUID_TEXT_BYTES];

	uuid_format(uuid, text);
	return json_string(text);
}

static void
put(json_t *object, const char *key, json_t *value)
{
	CHECK(json_object_set_new(object, key, value) == 0);
}

static void
put_number(json_t *object, const char *key, uint64_t n)
{
	put(object, key, json_integer(NUMBER(n)));
}

/* What is on disk as text may be anything. */
static void
put_text(json_t *object, const char *key, const char *text, size_t size)
{
	json_t *value = json_stringn(text, strnlen(text, size));

	put(object, key, value ? value : json_string("(not UTF-8)"));
}

/* "segment:slot"; "-" of a hole. */
static void
put_addr(json_t *object, const char *key, uint64_t addr)
{
	char text[48] = "-";

	if (addr & NODE_VIRTUAL)
		snprintf(text, sizeof(text), "(in memory)");
	else if (addr)
		snprintf(text, sizeof(text), "%llu:%u",
		    (unsigned long long)baddr_segment((struct baddr){ addr }),
		    baddr_slot((struct baddr){ addr }));
	put(object, key, json_string(text));
}

static void
put_entry(json_t *object, const char *prefix, const struct map_entry *entry)
{
	char key[32];

	snprintf(key, sizeof(key), "%saddr", prefix);
	put_addr(object, key, entry->addr);
	snprintf(key, sizeof(key), "%sepoch", prefix);
	put_number(object, key, entry->epoch);
	snprintf(key, sizeof(key), "%scrc", prefix);
	put(object, key, hex(entry->crc));
}

/* --- text --- */

static void
print_scalar(const json_t *value)
{
	if (json_is_string(value))
		printf("%s", json_string_value(value));
	else if (json_is_integer(value))
		printf("%llu", (unsigned long long)json_integer_value(value));
	else
		printf("%s", json_is_true(value) ? "yes" : "no");
}

/* An item of a list: its scalars in a line, what they hold below. */
static void
print_item(json_t *item, unsigned depth)
{
	const char *key;
	json_t *value;
	size_t i;

	printf("%*s", (int)depth * 2, "");
	json_object_foreach(item, key, value)
	{
		if (json_is_array(value))
			continue;
		printf(" %s ", key);
		print_scalar(value);
	}
	putchar('\n');
	json_object_foreach(item, key, value)
	{
		json_t *inner;

		if (!json_is_array(value))
			continue;
		json_array_foreach(value, i, inner) print_item(inner, depth + 1);
	}
}

static void
print_object(json_t *object)
{
	const char *key;
	json_t *value, *item;
	size_t i;

	json_object_foreach(object, key, value)
	{
		if (!json_is_array(value)) {
			printf("  %-22s ", key);
			print_scalar(value);
			putchar('\n');
			continue;
		}
		printf("  %s\n", key);
		json_array_foreach(value, i, item) print_item(item, 1);
	}
}

/* Prints @object, or keeps it for the end. */
static void
emit(struct dump *dump, json_t *object)
{
	json_t *list;

	if (dump->options->json) {
		list = json_object_get(dump->root, dump->section);
		if (!list) {
			list = json_array();
			put(dump->root, dump->section, list);
		}
		json_array_append_new(list, object);
		return;
	}
	printf("%s\n", dump->section);
	print_object(object);
	json_decref(object);
}

/* A new object that says where it lies. */
static json_t *
placed(const struct dump *dump, uint64_t block_number)
{
	json_t *object = json_object();

	put(object, "device", json_string(dump->device->name));
	put_number(object, "byte", block_number * BLOCK_BYTES);
	return object;
}

/* --- the heads of a device --- */

static uint64_t
tail_block(const struct dump *dump)
{
	uint64_t bytes = dump->labelled ? dump->label.size_bytes : dump->device->size_bytes;

	return bytes / BLOCK_BYTES - FORMAT_TAIL_BYTES / BLOCK_BYTES;
}

static void
label_json(json_t *object, const struct label *label)
{
	put_text(object, "pool", label->pool_name, sizeof(label->pool_name));
	put(object, "pool_uuid", uuid_json(&label->pool_uuid));
	put(object, "device_uuid", uuid_json(&label->device_uuid));
	put_number(object, "device_index", label->device_index);
	put_number(object, "version", label->version);
	put_number(object, "features_compat", label->features_compat);
	put_number(object, "features_ro_compat", label->features_ro_compat);
	put_number(object, "features_incompat", label->features_incompat);
	put_number(object, "size_bytes", label->size_bytes);
	put_number(object, "slab_blocks", label->slab_blocks);
	put_number(object, "slab_count", label->slab_count);
	put_number(object, "slabs_block", label->slabs_block);
	put_number(object, "created_s", label->created_s);
}

static json_t *
places_json(const struct slab_place *places, unsigned count)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < count; i++) {
		json_t *place = json_object();

		if (places[i].device == BATCH_NO_SLAB) {
			json_decref(place);
			continue;
		}
		put_number(place, "device", places[i].device);
		put_number(place, "slab", places[i].slab);
		json_array_append_new(list, place);
	}
	return list;
}

static void
superblock_json(json_t *object, const struct superblock *s)
{
	put(object, "pool_uuid", uuid_json(&s->pool_uuid));
	put_number(object, "checkpoint", s->checkpoint);
	put_number(object, "generation", s->generation);
	put_number(object, "next_segment", s->next_segment);
	put_number(object, "next_id", s->next_id);
	put_number(object, "epoch", s->epoch);
	put_entry(object, "catalog_", &s->catalog_root);
	put_number(object, "catalog_levels", s->catalog_levels);
	put_number(object, "log_segment", s->log_segment);
	put_number(object, "log_slot", s->log_slot);
	put_number(object, "log_sequence", s->log_sequence);
	put(object, "log_previous_crc", hex(s->log_previous_crc));
	put_number(object, "log_device", s->log_device);
	put_number(object, "log_slab", s->log_slab);
	put_number(object, "log_next_segment", s->log_next_segment);
	put_number(object, "log_next_device", s->log_next_device);
	put_number(object, "log_next_slab", s->log_next_slab);
	if (s->copies > 1) {
		put_number(object, "copies", s->copies);
		put(object, "log_copies", places_json(s->log_copies, COPIES_MAX - 1));
		put(object, "log_next_copies", places_json(s->log_next_copies, COPIES_MAX - 1));
	}
	put_number(object, "durable_sequence", s->durable_sequence);
	put_number(object, "table_digest", s->table_digest & INT64_MAX);
	put_number(object, "written_s", s->written_s);
	put(object, "clean", json_boolean(s->flags & SUPERBLOCK_CLEAN));
	put_number(object, "device_count", s->device_count);
}

static void
device_set_json(json_t *object, const struct device_set *set)
{
	json_t *devices = json_array();

	put(object, "pool_uuid", uuid_json(&set->pool_uuid));
	put_number(object, "generation", set->generation);
	for (uint32_t i = 0; i < set->count; i++) {
		json_t *device = json_object();

		put_number(device, "index", set->devices[i].index);
		put(device, "uuid", uuid_json(&set->devices[i].uuid));
		put_number(device, "state", set->devices[i].state);
		put_number(device, "since", set->devices[i].since);
		put_number(device, "size_bytes", set->devices[i].size_bytes);
		json_array_append_new(devices, device);
	}
	put(object, "devices", devices);
}

/* The structure in @block_number, of which @magic is. */
static void
dump_head(struct dump *dump, const char *magic, uint64_t block_number)
{
	union {
		struct label label;
		struct superblock superblock;
		struct device_set set;
	} decoded;
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	struct error error = { 0 };
	json_t *object = placed(dump, block_number);
	int rc = overlay_read(dump->device, block_number * BLOCK_BYTES, block);

	if (rc) {
		error_set(&error, rc, "%s", strerror(-rc));
	} else if (strcmp(magic, LABEL_MAGIC) == 0) {
		rc = label_decode(&decoded.label, block, dump->device->size_bytes, &error);
		if (rc == 0)
			label_json(object, &decoded.label);
	} else if (strcmp(magic, SUPERBLOCK_MAGIC) == 0) {
		rc = superblock_decode(&decoded.superblock, block, &error);
		if (rc == 0)
			superblock_json(object, &decoded.superblock);
	} else {
		rc = device_set_decode(&decoded.set, block, &error);
		if (rc == 0)
			device_set_json(object, &decoded.set);
	}
	if (rc)
		put(object, "error", json_string(error.text));
	emit(dump, object);
}

static void
dump_label(struct dump *dump)
{
	dump_head(dump, LABEL_MAGIC, FORMAT_LABEL_BLOCK);
	dump_head(dump, LABEL_MAGIC, tail_block(dump) + FORMAT_TAIL_LABEL_BLOCK);
}

static void
dump_superblocks(struct dump *dump)
{
	for (unsigned i = 0; i < 2; i++) {
		dump_head(dump, SUPERBLOCK_MAGIC, FORMAT_SUPERBLOCK_BLOCK + i);
		dump_head(
		    dump, SUPERBLOCK_MAGIC, tail_block(dump) + FORMAT_TAIL_SUPERBLOCK_BLOCK + i);
	}
}

static void
dump_device_sets(struct dump *dump)
{
	for (unsigned i = 0; i < 2; i++) {
		dump_head(dump, DEVICE_SET_MAGIC, FORMAT_DEVICE_SET_BLOCK + i);
		dump_head(
		    dump, DEVICE_SET_MAGIC, tail_block(dump) + FORMAT_TAIL_DEVICE_SET_BLOCK + i);
	}
}

/* --- slab table --- */

static const char *
slab_state_name(uint8_t state)
{
	static const char *const names[] = { "free", "open", "sealed", "packed", "bad" };

	return state < ARRAY_SIZE(names) ? names[state] : "unknown";
}

static json_t *
slabs_json(const struct dump *dump, uint32_t page, const uint8_t *block)
{
	uint32_t slab_blocks = dump->label.slab_blocks;
	uint32_t per_page = table_records_per_page(slab_blocks);
	uint64_t end = min_u64((page + 1ull) * per_page, dump->label.slab_count);
	const uint8_t *at = block + sizeof(struct table_page);
	json_t *slabs = json_array();

	for (uint64_t i = (uint64_t)page * per_page; i < end; i++) {
		uint64_t live[BITMAP_WORDS(SLAB_BLOCKS_MAX)];
		struct slab_record record;
		json_t *object = json_object();

		memcpy(&record, at, sizeof(record));
		memcpy(live, at + sizeof(record), slab_blocks / 8);
		put_number(object, "slab", i);
		put_number(
		    object, "byte", (dump->label.slabs_block + i * slab_blocks) * BLOCK_BYTES);
		put(object, "state", json_string(slab_state_name(record.state)));
		put_number(object, "segment", record.segment);
		put_number(object, "live", bitmap_count(live, slab_blocks));
		put_number(object, "age", record.age);
		put(object, "written", json_boolean(record.flags & SLAB_WRITTEN));
		json_array_append_new(slabs, object);
		at += slab_record_bytes(slab_blocks);
	}
	return slabs;
}

/* One place of a page, for itself; returns the mark that it tells. */
static uint32_t
dump_page(struct dump *dump, uint32_t page, uint64_t block_number)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	const struct table_page *header = (const void *)block;
	json_t *object = placed(dump, block_number);
	int rc = overlay_read(dump->device, block_number * BLOCK_BYTES, block);
	uint32_t mark = 0;

	put_number(object, "page", page);
	if (rc) {
		put(object, "error", json_string(strerror(-rc)));
	} else if (!space_page_valid(&dump->label.device_uuid, page, block)) {
		put(object, "error", json_string("no page, or damaged"));
	} else {
		mark = header->mark;
		put_number(object, "checkpoint", header->checkpoint);
		if (page == 0)
			put_number(object, "mark", mark);
		put(object, "slabs", slabs_json(dump, page, block));
	}
	emit(dump, object);
	return mark;
}

/* Those that count; of others nothing is known. */
static void
dump_table(struct dump *dump)
{
	uint32_t mark = 1;

	if (!dump->labelled)
		return;
	for (uint32_t page = 0;
	     mark > (uint64_t)page * table_records_per_page(dump->label.slab_blocks); page++)
		for (unsigned i = 0; i < 2; i++)
			mark = (uint32_t)max_u64(
			    mark, dump_page(dump, page, FORMAT_TABLE_BLOCK + 2ull * page + i));
}

/* --- log: every valid batch header, slab by slab --- */

static const char *
batch_type_name(uint8_t type)
{
	static const char *const names[] = { "", "write", "zero", "node", "catalog" };

	return type < ARRAY_SIZE(names) ? names[type] : "unknown";
}

static json_t *
pieces_json(const struct batch_header *header)
{
	json_t *pieces = json_array();
	struct batch_reader reader;
	struct batch_piece piece;

	batch_read_begin(&reader, header);
	while (batch_read_next(&reader, &piece) == 1) {
		json_t *object = json_object();

		put(object, "type", json_string(batch_type_name(piece.type)));
		put_number(object, "image", piece.image);
		put_number(object, "lba", piece.lba);
		put_number(object, "blocks", piece.blocks);
		if (piece.type != BATCH_ZERO)
			put_addr(object, "addr", piece.addr.n);
		json_array_append_new(pieces, object);
	}
	return pieces;
}

static void
dump_batch(struct dump *dump, const struct batch_header *header, uint64_t block_number)
{
	json_t *object = placed(dump, block_number);

	put_addr(object, "addr", baddr_make(header->segment, header->slot).n);
	put_number(object, "generation", header->generation);
	put_number(object, "sequence", header->sequence);
	put_number(object, "durable_sequence", header->durable_sequence);
	put(object, "crc", hex(header->crc));
	put(object, "previous_crc", hex(header->previous_crc));
	put_number(object, "blocks", header->block_count);
	if (header->next_device != BATCH_NO_SLAB) {
		put_number(object, "next_segment", header->next_segment);
		put_number(object, "next_device", header->next_device);
		put_number(object, "next_slab", header->next_slab);
		if (header->next_copies > 0) {
			struct slab_place copies[COPIES_MAX - 1];

			batch_read_copies(header, copies);
			put(object, "next_copies", places_json(copies, header->next_copies));
		}
	}
	put(object, "entries", pieces_json(header));
	emit(dump, object);
}

static void
dump_log(struct dump *dump)
{
	const struct label *label = &dump->label;
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	const struct batch_header *header = (const void *)block;

	for (uint64_t i = 0; dump->labelled && i < label->slab_count; i++) {
		uint64_t first = label->slabs_block + i * label->slab_blocks;

		for (uint32_t slot = 0; slot < label->slab_blocks; slot++) {
			if (overlay_read(dump->device, (first + slot) * BLOCK_BYTES, block) ||
			    header->magic != BATCH_MAGIC ||
			    !batch_header_valid(header, &label->pool_uuid, header->segment, slot,
				label->slab_blocks))
				continue;
			dump_batch(dump, header, first + slot);
			slot += header->block_count;
		}
	}
}

/* --- directories of packed slabs: every block that begins one --- */

/* "0-3 7": so many slots, of a segment or of the slab. */
static json_t *
slots_json(const void *slots, uint32_t count, uint32_t slab_blocks)
{
	uint16_t list[SLAB_BLOCKS_MAX];
	char text[SLAB_BLOCKS_MAX * 10];
	size_t len = 0;
	uint32_t n;

	packed_list(slots, count, slab_blocks, list);
	text[0] = '\0';
	for (uint32_t i = 0; i < count; i += n) {
		for (n = 1; i + n < count && list[i + n] == list[i] + n; n++)
			;
		len +=
		    (size_t)snprintf(text + len, sizeof(text) - len, "%s%u", i ? " " : "", list[i]);
		if (n > 1)
			len += (size_t)snprintf(
			    text + len, sizeof(text) - len, "-%u", list[i + n - 1]);
	}
	return json_string(text);
}

/* @slot of the slab at @first holds a directory, or looks so; false: it does not. */
static bool
dump_directory(struct dump *dump, uint64_t first, uint32_t slot)
{
	const struct label *label = &dump->label;
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	const struct packed_directory *header = (const void *)block;
	uint32_t blocks_max = (label->slab_blocks - 1) / 2;
	struct packed_reader reader;
	struct packed_view view;
	struct error error = { 0 };
	json_t *object, *pieces;
	uint8_t *directory;
	int rc = overlay_read(dump->device, (first + slot) * BLOCK_BYTES, block);

	if (rc || header->magic != PACKED_MAGIC || header->directory_blocks == 0 ||
	    header->directory_blocks > blocks_max ||
	    header->directory_blocks > label->slab_blocks - slot ||
	    (slot > 0 && header->directory_blocks != label->slab_blocks - slot))
		return false;
	directory = xalloc_pages((size_t)header->directory_blocks * BLOCK_BYTES);
	for (uint32_t i = 0; rc == 0 && i < header->directory_blocks; i++)
		rc = overlay_read(dump->device, (first + slot + i) * BLOCK_BYTES,
		    directory + (size_t)i * BLOCK_BYTES);
	if (rc)
		error_set(&error, rc, "%s", strerror(-rc));
	else
		rc = packed_open(&reader, directory, header->directory_blocks, label->slab_blocks,
		    header->number, &label->pool_uuid, &error);
	object = placed(dump, first + slot);
	put(object, "copy", json_boolean(slot > 0));
	put_number(object, "number", header->number);
	put_number(object, "directory_blocks", header->directory_blocks);
	if (rc) {
		put(object, "error", json_string(error.text));
	} else {
		put(object, "crc", hex(header->crc));
		put_number(object, "blocks", header->block_count);
		pieces = json_array();
		while (packed_next(&reader, &view)) {
			json_t *item = json_object();

			put_number(item, "segment", view.segment);
			put_number(item, "count", view.count);
			put(item, "slots", slots_json(view.slots, view.count, label->slab_blocks));
			if (view.places)
				put(item, "places",
				    slots_json(view.places, view.count, label->slab_blocks));
			else
				put_number(item, "first", view.first);
			json_array_append_new(pieces, item);
		}
		put(object, "pieces", pieces);
	}
	emit(dump, object);
	free(directory);
	return true;
}

static void
dump_packed(struct dump *dump)
{
	const struct label *label = &dump->label;
	/* One piece a block at most, each with a slot, a place and a checksum, padded. */
	uint64_t bytes_max = sizeof(struct packed_directory) +
			     label->slab_blocks * (sizeof(struct packed_piece) + 24ull);
	uint32_t blocks_max = (uint32_t)div_round_up(bytes_max, BLOCK_BYTES);

	for (uint64_t i = 0; dump->labelled && i < label->slab_count; i++) {
		uint64_t first = label->slabs_block + i * label->slab_blocks;

		(void)dump_directory(dump, first, 0);
		for (uint32_t n = 1; n <= blocks_max; n++)
			if (dump_directory(dump, first, label->slab_blocks - n))
				break;
	}
}

/* --- catalog and maps, as an import finds them --- */

/* Not the keys: who knows one can take the registration's place. */
static void
dump_reservation(json_t *object, const struct note *note)
{
	json_t *registrants = json_array();
	struct reservation reservation;

	if (reservation_decode(&reservation, note->bytes, note->len_bytes)) {
		json_decref(registrants);
		return;
	}
	put_number(object, "type", reservation.type);
	for (int i = 0; i < (int)RESERVATION_REGISTRANTS_MAX; i++) {
		const struct reservation_registrant *one = &reservation.registrants[i];
		json_t *item;

		if (!one->used)
			continue;
		item = json_object();
		put_text(item, "initiator", one->name, sizeof(one->name));
		put(item, "holds", json_boolean(i == reservation.holder));
		json_array_append_new(registrants, item);
	}
	put(object, "registrants", registrants);
}

/* What is in them may be secret. */
static void
dump_notes(struct dump *dump, const struct volume_record *volume)
{
	static const char *const kinds[NOTE_KINDS] = { "", "exports", "reservations" };

	for (size_t i = 0; i < NOTE_KINDS; i++) {
		const struct note *note = volume->notes[i];
		json_t *object;

		if (!note)
			continue;
		object = json_object();
		put_number(object, "note", note->ids[0]);
		put(object, "kind", json_string(kinds[i]));
		put_number(object, "volume", volume->id);
		put_number(object, "bytes", note->len_bytes);
		put_number(object, "records", note->part_count);
		if (i == NOTE_RESERVATIONS)
			dump_reservation(object, note);
		emit(dump, object);
	}
}

static void
dump_catalog(void *context, struct pool *pool)
{
	struct dump *dump = context;

	list_for_each(node, &pool->catalog.volumes) {
		const struct volume_record *volume = container_of(node, struct volume_record, link);
		json_t *object = json_object();

		put_number(object, "volume", volume->id);
		put_text(object, "name", volume->name, sizeof(volume->name));
		put(object, "uuid", uuid_json(&volume->uuid));
		put_number(object, "size_bytes", volume->size_bytes);
		put_number(object, "head", volume->head ? volume->head->id : 0);
		put(object, "readonly", json_boolean(volume->flags & CATALOG_READONLY));
		put(object, "on_full",
		    json_string(volume->flags & CATALOG_PAUSE_WHEN_FULL ? "pause" : "error"));
		put_number(object, "on_full_timeout_seconds", volume->full_timeout_s);
		put(object, "reserve",
		    json_string(volume->flags & CATALOG_RESERVED ? "full" : "none"));
		put_number(object, "block_size_bytes", catalog_block_bytes(volume));
		put_number(object, "created_s", volume->created_s);
		emit(dump, object);
		dump_notes(dump, volume);
	}
	list_for_each(node, &pool->catalog.images) {
		static const char *const kinds[] = { "", "head", "snapshot", "trimmed" };
		const struct image *image = container_of(node, struct image, link);
		json_t *object = json_object();

		put_number(object, "image", image->id);
		put(object, "kind",
		    json_string(image->kind < ARRAY_SIZE(kinds) ? kinds[image->kind] : "unknown"));
		put_text(object, "name", image->name, sizeof(image->name));
		put_number(object, "volume", image->volume ? image->volume->id : 0);
		put_number(object, "parent", image->parent ? image->parent->id : 0);
		put_number(object, "children", image->children);
		put_number(object, "made_from", image->made_from);
		put_number(object, "epoch", image->epoch);
		put_number(object, "size_bytes", image->size_bytes);
		put_number(object, "mapped_blocks", image->mapped_blocks);
		put_number(object, "own_blocks", image_own_blocks(image));
		put(object, "deleted", json_boolean(image->deleted));
		put_number(object, "cursor", image->cursor);
		put_number(object, "levels", image->map.levels);
		put_entry(object, "root_", &image->map.root);
		emit(dump, object);
	}
}

/* The node behind @entry, and then those below. */
static void
dump_node(
    struct dump *dump, struct pool *pool, struct map_entry *entry, unsigned level, uint64_t first)
{
	struct map_entry entries[MAP_FANOUT];
	const struct node *node =
	    entry->addr & NODE_VIRTUAL ? node_find(&pool->nodes, entry) : NULL;
	uint32_t slot;
	const struct slab *slab = space_place(&pool->space, (struct baddr){ entry->addr }, &slot);
	json_t *object = json_object(), *list = json_array();
	const char *wrong = NULL;

	put_number(object, "level", level);
	put_number(object, "lba", first);
	put_entry(object, "", entry);
	if (node && entry->addr & NODE_VIRTUAL) {
		memcpy(entries, node->entries, sizeof(entries));
	} else if (!slab) {
		wrong = "no slab holds it";
	} else {
		struct device *device = pool_device(pool, slab->device);
		uint64_t offset_bytes = space_offset_bytes(&pool->space, slab, slot);

		put(object, "device", json_string(device->name));
		put_number(object, "byte", offset_bytes);
		if (overlay_read(device, offset_bytes, entries))
			wrong = "unreadable";
		else if (baddr_block_crc((struct baddr){ entry->addr }, entries) != entry->crc)
			wrong = "damaged (checksum)";
	}
	if (wrong)
		put(object, "error", json_string(wrong));
	for (unsigned i = 0; !wrong && i < MAP_FANOUT; i++) {
		json_t *item;

		if (entries[i].addr == 0)
			continue;
		item = json_object();
		put_number(item, "lba", first + i * map_capacity(level));
		put_entry(item, "", &entries[i]);
		json_array_append_new(list, item);
	}
	put(object, "entries", list);
	emit(dump, object);
	for (unsigned i = 0; !wrong && level > 0 && i < MAP_FANOUT; i++)
		if (entries[i].addr)
			dump_node(
			    dump, pool, &entries[i], level - 1, first + i * map_capacity(level));
}

static void
dump_map(void *context, struct pool *pool)
{
	struct dump *dump = context;
	struct image *image =
	    dump->image ? catalog_image(&pool->catalog, dump->image) : &pool->catalog.self;

	if (!image) {
		fprintf(stderr, "quarry: there is no image %llu: see quarry dump --what catalog\n",
		    (unsigned long long)dump->image);
		dump->failed = true;
	} else if (image->map.levels > 0 && image->map.root.addr) {
		dump_node(dump, pool, &image->map.root, image->map.levels - 1u, 0);
	}
}

/* --- what there is --- */

static const struct section {
	const char *name;
	void (*device)(struct dump *dump);                   /* for each device, or */
	void (*recovered)(void *context, struct pool *pool); /* for the pool */
	bool asked_for;                                      /* not without --what */
	bool has_image;
} sections[] = {
	{ "label", dump_label, NULL, false, false },
	{ "superblocks", dump_superblocks, NULL, false, false },
	{ "devices", dump_device_sets, NULL, false, false },
	{ "table", dump_table, NULL, false, false },
	{ "log", dump_log, NULL, true, false },
	{ "packed", dump_packed, NULL, true, false },
	{ "catalog", NULL, dump_catalog, false, false },
	{ "map", NULL, dump_map, true, true },
};

/* Whether @what ("map:7") is @section. */
static bool
is_section(const struct section *section, const char *what, uint64_t *image)
{
	size_t len = strlen(section->name);
	char *end;

	if (strncmp(what, section->name, len) != 0)
		return false;
	if (!section->has_image)
		return what[len] == '\0';
	if (what[len] != ':' || what[len + 1] < '0' || what[len + 1] > '9')
		return false;
	errno = 0;
	*image = strtoull(what + len + 1, &end, 10);
	return *end == '\0' && errno == 0;
}

int
dump_check_what(const char *what, struct error *error)
{
	uint64_t image;

	for (size_t i = 0; i < ARRAY_SIZE(sections); i++)
		if (is_section(&sections[i], what, &image))
			return 0;
	return error_set(error, -EINVAL,
	    "\"%.60s\" cannot be dumped: label, superblocks, devices, table, log, packed, catalog "
	    "and map:IMAGE can (IMAGE is a number that catalog shows, or 0 for the catalog itself)",
	    what);
}

static void
dump_section(struct dump *dump, const struct section *section, char *const *paths, size_t count)
{
	struct error error = { 0 };

	dump->section = section->name;
	if (offline_open(&dump->offline, paths, count, false, &error)) {
		fprintf(stderr, "quarry: %s\n", error.text);
		dump->failed = true;
		return;
	}
	for (uint32_t i = 0; section->device && i < dump->offline.count; i++) {
		dump->device = dump->offline.devices[i];
		dump->labelled = offline_find_label(dump->device, &dump->label);
		if (dump->device->size_bytes >= 2 * (uint64_t)FORMAT_TAIL_BYTES)
			section->device(dump);
	}
	if (section->recovered) {
		offline_import(&dump->offline, section->recovered, dump, false);
		if (dump->offline.import_error.code) {
			fprintf(stderr, "quarry: the pool cannot be imported: %s\n",
			    dump->offline.import_error.text);
			dump->failed = true;
		}
	}
	offline_close(&dump->offline);
}

int
dump_run(char *const *paths, size_t count, const struct dump_options *options)
{
	struct dump dump = { .options = options, .root = json_object() };

	put(dump.root, "schema", json_integer(options->json_schema));
	for (size_t i = 0; i < ARRAY_SIZE(sections) && !dump.failed; i++)
		if (options->what ? is_section(&sections[i], options->what, &dump.image)
				  : !sections[i].asked_for)
			dump_section(&dump, &sections[i], paths, count);
	if (options->json) {
		json_dumpf(dump.root, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(dump.root);
	return dump.failed ? 1 : 0;
}
