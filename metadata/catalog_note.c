/* SPDX-License-Identifier: Apache-2.0 */
/* Notes of volumes: operations and records, part by part; see metadata/format.h. */
#include <stdlib.h>

#include "metadata/catalog.h"

/* A record that was read, until all are. */
struct note_part {
	struct list link;
	struct catalog_note_record record;
};

static size_t
parts_of(uint64_t len_bytes)
{
	return (size_t)div_round_up(len_bytes, NOTE_PART_BYTES);
}

static size_t
part_bytes(uint64_t offset, uint64_t len_bytes)
{
	return (size_t)min_u64(len_bytes - offset, NOTE_PART_BYTES);
}

/* The records from @keep on go. */
static void
drop_records(struct catalog *catalog, struct note *note, size_t keep)
{
	for (size_t i = keep; i < note->part_count; i++) {
		if (note->ids[i])
			table_remove(&catalog->notes_by_id, note->ids[i]);
		catalog_mark_record_dirty(catalog, note->ids[i]);
	}
	note->part_count = min_u64(keep, note->part_count);
}

void
note_free(struct catalog *catalog, struct note *note)
{
	if (!note)
		return;
	drop_records(catalog, note, 0);
	note->volume->notes[note->kind] = NULL;
	if (note->bytes)
		explicit_bzero(note->bytes, note->len_bytes); /* it may hold secrets */
	free(note->bytes);
	free(note->ids);
	free(note);
}

void
note_parts_free(struct catalog *catalog)
{
	struct list *node;

	while ((node = list_pop_front(&catalog->note_parts)))
		free(container_of(node, struct note_part, link));
}

static struct note *
note_get(struct volume_record *volume, uint8_t kind)
{
	struct note *note = volume->notes[kind];

	if (note)
		return note;
	note = xcalloc(1, sizeof(*note));
	note->kind = kind;
	note->volume = volume;
	volume->notes[kind] = note;
	return note;
}

static void
set_length(struct note *note, uint64_t len_bytes)
{
	if (note->bytes)
		explicit_bzero(note->bytes, note->len_bytes);
	free(note->bytes);
	note->bytes = xcalloc(1, len_bytes);
	note->len_bytes = len_bytes;
	note->ids = xrealloc(note->ids, parts_of(len_bytes) * sizeof(*note->ids));
}

/* --- operations --- */

struct catalog_op *
catalog_note_ops(const struct volume_record *volume, enum note_kind kind, const void *bytes,
    size_t len_bytes, unsigned *count)
{
	size_t parts = max_u64(parts_of(len_bytes), 1);
	struct catalog_note_op *ops = xcalloc(parts, sizeof(*ops));

	CHECK(len_bytes <= NOTE_BYTES_MAX);
	for (size_t i = 0; i < parts; i++) {
		ops[i].type = CATALOG_OP_NOTE;
		ops[i].note = (uint8_t)kind;
		ops[i].volume = volume->id;
		ops[i].offset = i * NOTE_PART_BYTES;
		ops[i].size_bytes = len_bytes;
		if (len_bytes)
			memcpy(ops[i].bytes, (const uint8_t *)bytes + ops[i].offset,
			    part_bytes(ops[i].offset, len_bytes));
	}
	*count = (unsigned)parts;
	return (struct catalog_op *)ops;
}

static bool
place_possible(uint8_t kind, uint64_t offset, uint64_t size_bytes)
{
	return kind > 0 && kind < NOTE_KINDS && size_bytes <= NOTE_BYTES_MAX &&
	       offset % NOTE_PART_BYTES == 0 && (offset == 0 || offset < size_bytes);
}

int
note_check(const struct catalog_note_op *op, struct error *error)
{
	if (!place_possible(op->note, op->offset, op->size_bytes))
		return error_set(error, -EUCLEAN, "a note of kind %u and %llu bytes cannot be",
		    op->note, (unsigned long long)op->size_bytes);
	return 0;
}

int
note_apply(struct catalog *catalog, struct volume_record *volume, const struct catalog_note_op *op)
{
	struct note *note;

	if (op->size_bytes == 0) {
		note_free(catalog, volume->notes[op->note]);
		return 0;
	}
	note = note_get(volume, op->note);
	if (op->offset == 0) {
		drop_records(catalog, note, parts_of(op->size_bytes));
		set_length(note, op->size_bytes);
		while (note->part_count < parts_of(op->size_bytes)) {
			note->ids[note->part_count++] = catalog->next_id;
			table_set(&catalog->notes_by_id, catalog->next_id++, note);
		}
		for (size_t i = 0; i < note->part_count; i++)
			catalog_mark_record_dirty(catalog, note->ids[i]);
	} else if (note->len_bytes != op->size_bytes) {
		return -EUCLEAN;
	}
	memcpy(note->bytes + op->offset, op->bytes, part_bytes(op->offset, op->size_bytes));
	return 0;
}

/* --- records --- */

void
note_encode(const struct note *note, uint64_t id, struct catalog_record *record)
{
	struct catalog_note_record *out = (struct catalog_note_record *)record;
	size_t part = 0;

	while (note->ids[part] != id)
		CHECK(++part < note->part_count);
	out->kind = CATALOG_NOTE;
	out->note = note->kind;
	out->offset = part * NOTE_PART_BYTES;
	out->volume = note->volume->id;
	out->size_bytes = note->len_bytes;
	memcpy(out->bytes, note->bytes + out->offset, part_bytes(out->offset, note->len_bytes));
}

int
note_decode(struct catalog *catalog, const struct catalog_record *record, struct error *error)
{
	struct note_part *part = xcalloc(1, sizeof(*part));

	memcpy(&part->record, record, sizeof(part->record));
	list_push_back(&catalog->note_parts, &part->link);
	if (!place_possible(part->record.note, part->record.offset, part->record.size_bytes) ||
	    part->record.size_bytes == 0)
		return error_set(error, -EUCLEAN, "the record of note %llu holds impossible values",
		    (unsigned long long)record->id);
	return 0;
}

static int
link_part(struct catalog *catalog, const struct catalog_note_record *record)
{
	struct volume_record *volume = catalog_volume(catalog, record->volume);
	size_t index = record->offset / NOTE_PART_BYTES;
	struct note *note;

	if (!volume)
		return -EUCLEAN;
	note = note_get(volume, record->note);
	if (!note->bytes) {
		set_length(note, record->size_bytes);
		memset(note->ids, 0, parts_of(record->size_bytes) * sizeof(*note->ids));
		note->part_count = parts_of(record->size_bytes);
	}
	if (note->len_bytes != record->size_bytes || note->ids[index])
		return -EUCLEAN;
	note->ids[index] = record->id;
	table_set(&catalog->notes_by_id, record->id, note);
	memcpy(note->bytes + record->offset, record->bytes,
	    part_bytes(record->offset, record->size_bytes));
	return 0;
}

/* Whether all parts of @volume's notes came. */
static bool
notes_whole(const struct volume_record *volume)
{
	for (size_t kind = 0; kind < NOTE_KINDS; kind++) {
		const struct note *note = volume->notes[kind];

		for (size_t i = 0; note && i < note->part_count; i++)
			if (note->ids[i] == 0)
				return false;
	}
	return true;
}

int
note_link(struct catalog *catalog, struct error *error)
{
	list_for_each(node, &catalog->note_parts) {
		const struct note_part *part = container_of(node, struct note_part, link);

		if (link_part(catalog, &part->record))
			return error_set(error, -EUCLEAN,
			    "the record of note %llu does not fit the others",
			    (unsigned long long)part->record.id);
	}
	note_parts_free(catalog);
	list_for_each(node, &catalog->volumes) {
		const struct volume_record *volume = container_of(node, struct volume_record, link);

		if (!notes_whole(volume))
			return error_set(error, -EUCLEAN,
			    "a part of a note of volume %s is missing", volume->name);
	}
	return 0;
}
