/* SPDX-License-Identifier: Apache-2.0 */
/* The catalog: which operations are refused with which error, what they do, and its records. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "metadata/catalog.h"
#include "metadata/map.h"

static const struct uuid uuid = { { 1 } };
static struct space space;
static struct nodes nodes;
static struct catalog catalog;

static int
setup(void **state)
{
	space_init(&space, SLAB_BLOCKS_MIN, 1);
	space_add_device(&space, 0, &uuid, 512, 4);
	nodes_init(&nodes, &space, 0);
	catalog_init(&catalog, &nodes);
	return 0;
}

static int
teardown(void **state)
{
	assert_true(catalog_invariant(&catalog));
	catalog_fini(&catalog);
	nodes_fini(&nodes);
	space_fini(&space);
	return 0;
}

static struct catalog_op
op_make(enum catalog_op_type type, uint64_t volume, uint64_t image, const char *name)
{
	struct catalog_op op = {
		.type = (uint8_t)type,
		.volume = volume,
		.image = image,
		.size_bytes = GIB,
		.created_s = 1000,
	};

	snprintf(op.name, sizeof(op.name), "%s", name);
	return op;
}

/* Applies one operation; returns the id that a new thing gets first. */
static uint64_t
do_op(enum catalog_op_type type, uint64_t volume, uint64_t image, const char *name)
{
	struct catalog_op op = op_make(type, volume, image, name);
	uint64_t id = catalog.next_id;

	assert_int_equal(catalog_apply(&catalog, &op, 1), 0);
	assert_true(catalog_invariant(&catalog));
	return id;
}

#define CREATE CATALOG_OP_VOLUME_CREATE
#define RESIZE CATALOG_OP_VOLUME_RESIZE
#define RENAME CATALOG_OP_VOLUME_RENAME
#define DELETE CATALOG_OP_VOLUME_DELETE
#define SET CATALOG_OP_VOLUME_SET
#define SNAPSHOT CATALOG_OP_SNAPSHOT_CREATE
#define UNSNAPSHOT CATALOG_OP_SNAPSHOT_DELETE
#define CLONE CATALOG_OP_CLONE
#define ROLLBACK CATALOG_OP_ROLLBACK

/* --- what is refused --- */

static void
assert_refused(struct catalog_op op, int code, const char *text)
{
	struct error error = { 0 };
	uint64_t next_id = catalog.next_id;

	assert_int_equal(catalog_check(&catalog, &op, &error), code);
	if (!strstr(error.text, text))
		fail_msg("%s", error.text);
	assert_int_equal(catalog_apply(&catalog, &op, 1), code);
	assert_true(catalog.next_id == next_id);
}

static void
test_operations_are_refused_with_the_reason(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a"), a_head = a + 1;
	uint64_t b = do_op(CREATE, 0, 0, "b");
	uint64_t s = do_op(SNAPSHOT, a, 0, "s");
	uint64_t gone = do_op(SNAPSHOT, a, 0, "gone");

	do_op(CLONE, 0, gone, "keeps");
	do_op(UNSNAPSHOT, 0, gone, "");
	const struct {
		struct catalog_op op;
		int code;
		const char *text;
	} cases[] = {
		{ op_make(CREATE, 0, 0, "a"), -EEXIST, "a volume named a exists" },
		{ op_make(CREATE, 0, 0, ""), -EINVAL, "name" },
		{ op_make(CREATE, 0, 0, "x/y"), -EINVAL, "name" },
		{ op_make(CREATE, 0, 0, "-"), -EINVAL, "name" },
		{ op_make(RESIZE, 99, 0, ""), -ENOENT, "no such volume" },
		{ op_make(RESIZE, a_head, 0, ""), -ENOENT, "no such volume" },
		{ op_make(RENAME, a, 0, "b"), -EEXIST, "a volume named b exists" },
		{ op_make(RENAME, a, 0, "@"), -EINVAL, "name" },
		{ op_make(RENAME, 99, 0, "c"), -ENOENT, "no such volume" },
		{ op_make(DELETE, 99, 0, ""), -ENOENT, "no such volume" },
		{ op_make(SET, 0, 0, ""), -ENOENT, "no such volume" },
		{ op_make(SNAPSHOT, 99, 0, "t"), -ENOENT, "no such volume" },
		{ op_make(SNAPSHOT, a, 0, "s"), -EEXIST, "a has a snapshot named s" },
		{ op_make(SNAPSHOT, a, 0, "s s"), -EINVAL, "name" },
		{ op_make(UNSNAPSHOT, 0, 99, ""), -ENOENT, "no such snapshot" },
		{ op_make(UNSNAPSHOT, 0, 0, ""), -ENOENT, "no such snapshot" },
		{ op_make(UNSNAPSHOT, 0, a_head, ""), -ENOENT, "no such snapshot" },
		{ op_make(UNSNAPSHOT, 0, gone, ""), -ENOENT, "no such snapshot" },
		{ op_make(CLONE, 0, gone, "c"), -ENOENT, "no such snapshot" },
		{ op_make(CLONE, 0, s, "b"), -EEXIST, "a volume named b exists" },
		{ op_make(CLONE, 0, s, "."), -EINVAL, "name" },
		{ op_make(ROLLBACK, a, gone, ""), -ENOENT, "no such snapshot" },
		{ op_make(ROLLBACK, b, s, ""), -EINVAL, "belongs to another volume" },
		{ op_make(ROLLBACK, 99, s, ""), -EINVAL, "belongs to another volume" },
		{ op_make((enum catalog_op_type)0, a, 0, ""), -EUCLEAN, "not known" },
		{ op_make((enum catalog_op_type)11, a, 0, ""), -EUCLEAN, "11 is not known" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_refused(cases[i].op, cases[i].code, cases[i].text);
}

static void
test_sizes_are_whole_blocks_up_to_an_exbibyte(void **state)
{
	static const uint64_t bad[] = { 0, 1, 4095, 4097, VOLUME_BYTES_MAX + 4096, UINT64_MAX };
	uint64_t a = do_op(CREATE, 0, 0, "a");

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct catalog_op op = op_make(CREATE, 0, 0, "b");

		op.size_bytes = bad[i];
		assert_refused(op, -EINVAL, "multiple of 4096");
		op = op_make(RESIZE, a, 0, "");
		op.size_bytes = bad[i];
		assert_refused(op, -EINVAL, "multiple of 4096");
	}
	struct catalog_op op = op_make(RESIZE, a, 0, "");

	op.size_bytes = VOLUME_BYTES_MAX;
	assert_int_equal(catalog_apply(&catalog, &op, 1), 0);
}

static void
test_name_without_an_end_is_refused(void **state)
{
	struct catalog_op op = op_make(CREATE, 0, 0, "");

	memset(op.name, 'x', sizeof(op.name));
	assert_refused(op, -EINVAL, "name");
	op.name[129] = '\0';
	assert_refused(op, -EINVAL, "name");
	op.name[128] = '\0';
	assert_int_equal(catalog_apply(&catalog, &op, 1), 0);
}

/* --- what they do --- */

static void
test_volumes_are_found_and_listed_by_name(void **state)
{
	uint64_t b = do_op(CREATE, 0, 0, "b");
	uint64_t a = do_op(CREATE, 0, 0, "a");

	assert_int_equal(catalog_find_volume(&catalog, "a")->id, a);
	assert_int_equal(catalog_volume(&catalog, b)->head->id, b + 1);
	assert_int_equal(catalog_volume(&catalog, b)->head->size_bytes, GIB);
	assert_int_equal(list_first(&catalog.volumes, struct volume_record, link)->id, a);
	do_op(RENAME, a, 0, "z");
	assert_null(catalog_find_volume(&catalog, "a"));
	assert_int_equal(catalog_find_volume(&catalog, "z")->id, a);
	assert_int_equal(list_first(&catalog.volumes, struct volume_record, link)->id, b);
	assert_int_equal(catalog.epoch, 1); /* nothing is shared */
}

static void
test_resize_and_set_change_the_volume(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a");
	struct catalog_op op = op_make(RESIZE, a, 0, "");

	op.size_bytes = 5 * MIB;
	assert_int_equal(catalog_apply(&catalog, &op, 1), 0);
	assert_int_equal(catalog_volume(&catalog, a)->size_bytes, 5 * MIB);
	assert_int_equal(catalog_volume(&catalog, a)->head->size_bytes, 5 * MIB);
	op = op_make(SET, a, 0, "");
	op.flags = CATALOG_READONLY;
	assert_int_equal(catalog_apply(&catalog, &op, 1), 0);
	assert_int_equal(catalog_volume(&catalog, a)->flags, CATALOG_READONLY);
}

static void
test_snapshot_comes_between_head_and_past(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a");
	struct volume_record *volume = catalog_volume(&catalog, a);
	struct image *head = volume->head;
	struct image *s = catalog_image(&catalog, do_op(SNAPSHOT, a, 0, "s"));
	struct image *t = catalog_image(&catalog, do_op(SNAPSHOT, a, 0, "t"));

	assert_ptr_equal(head->parent, t);
	assert_ptr_equal(t->parent, s);
	assert_null(s->parent);
	assert_int_equal(s->epoch, 1);
	assert_int_equal(t->epoch, 2);
	assert_int_equal(catalog.epoch, 3);
	assert_ptr_equal(catalog_find_snapshot(&catalog, volume, "s"), s);
	assert_ptr_equal(list_first(&volume->snapshots, struct image, volume_link), s);
	assert_ptr_equal(catalog_only_child(&catalog, s), t);
	assert_int_equal(image_shared_epoch(head, 0), 2);
	assert_int_equal(image_shared_epoch(s, 0), 0);
}

static void
test_snapshots_of_one_batch_share_an_epoch(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a"), b = do_op(CREATE, 0, 0, "b");
	struct catalog_op ops[2] = { op_make(SNAPSHOT, a, 0, "s"), op_make(SNAPSHOT, b, 0, "s") };
	uint64_t id = catalog.next_id;

	assert_int_equal(catalog_apply(&catalog, ops, 2), 0);
	assert_int_equal(catalog_image(&catalog, id)->epoch, 1);
	assert_int_equal(catalog_image(&catalog, id + 1)->epoch, 1);
	assert_int_equal(catalog.epoch, 2);
}

static void
test_clone_is_a_volume_on_the_snapshot(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a");
	struct image *s = catalog_image(&catalog, do_op(SNAPSHOT, a, 0, "s"));
	uint64_t c = do_op(CLONE, 0, s->id, "c");

	assert_ptr_equal(catalog_volume(&catalog, c)->head->parent, s);
	assert_int_equal(catalog_volume(&catalog, c)->size_bytes, GIB);
	assert_int_equal(s->children, 2);
	assert_int_equal(catalog.epoch, 3);
}

static void
test_rollback_deletes_the_old_head_and_starts_on_the_snapshot(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a");
	struct image *old = catalog_volume(&catalog, a)->head;
	struct image *s = catalog_image(&catalog, do_op(SNAPSHOT, a, 0, "s"));
	struct catalog_op op = op_make(RESIZE, a, 0, "");

	op.size_bytes = 2 * GIB;
	assert_int_equal(catalog_apply(&catalog, &op, 1), 0);
	do_op(ROLLBACK, a, s->id, "");
	struct volume_record *volume = catalog_volume(&catalog, a);

	assert_ptr_not_equal(volume->head, old);
	assert_ptr_equal(volume->head->parent, s);
	assert_int_equal(volume->size_bytes, GIB);
	assert_true(old->deleted);
	assert_null(old->volume);
	assert_ptr_equal(map_reap_next(&catalog), old);
}

static void
test_deleted_image_leaves_when_it_is_forgotten_and_its_child_takes_its_place(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a");
	struct image *s = catalog_image(&catalog, do_op(SNAPSHOT, a, 0, "s"));
	struct image *t = catalog_image(&catalog, do_op(SNAPSHOT, a, 0, "t"));
	uint64_t t_id = t->id;

	do_op(UNSNAPSHOT, 0, t->id, "");
	assert_null(catalog_find_snapshot(&catalog, catalog_volume(&catalog, a), "t"));
	assert_ptr_equal(map_reap_next(&catalog), t);
	/* Behind its cursor what it shared is the head's, but for what is older still. */
	t->cursor = 100;
	assert_int_equal(image_shared_epoch(catalog_volume(&catalog, a)->head, 99), s->epoch);
	assert_int_equal(image_shared_epoch(catalog_volume(&catalog, a)->head, 100), t->epoch);
	catalog_forget(&catalog, t);
	assert_null(catalog_image(&catalog, t_id));
	assert_ptr_equal(catalog_volume(&catalog, a)->head->parent, s);
	assert_int_equal(s->children, 1);
	assert_ptr_equal(catalog_only_child(&catalog, s), catalog_volume(&catalog, a)->head);
	do_op(SNAPSHOT, a, 0, "t"); /* the name is free again */
}

static void
test_deleted_volume_takes_its_snapshots_along(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a");
	uint64_t s = do_op(SNAPSHOT, a, 0, "s");
	struct image *image;
	unsigned forgotten = 0;

	do_op(SNAPSHOT, a, 0, "t");
	do_op(CLONE, 0, s, "c");
	do_op(DELETE, a, 0, "");
	assert_null(catalog_volume(&catalog, a));
	assert_null(catalog_find_volume(&catalog, "a"));
	assert_int_equal(catalog.volume_count, 1);
	while ((image = map_reap_next(&catalog))) {
		assert_true(image->children <= 1);
		catalog_forget(&catalog, image);
		assert_true(catalog_invariant(&catalog));
		forgotten++;
	}
	/* s, too: when t and the old head are gone, the clone is its only child. */
	assert_int_equal(forgotten, 3);
	assert_int_equal(catalog.image_count, 1);
	assert_null(catalog_find_volume(&catalog, "c")->head->parent);
}

static void
test_snapshot_with_clones_waits_hidden(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a");
	uint64_t s = do_op(SNAPSHOT, a, 0, "s");

	do_op(CLONE, 0, s, "c");
	do_op(UNSNAPSHOT, 0, s, "");
	assert_null(catalog_find_snapshot(&catalog, catalog_volume(&catalog, a), "s"));
	assert_null(map_reap_next(&catalog));
	assert_non_null(catalog_image(&catalog, s));
}

static void
test_whatever_changes_marks_its_record_dirty(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a");
	struct image *head = catalog_volume(&catalog, a)->head;

	assert_non_null(table_get(&catalog.dirty_blocks, a / CATALOG_RECORDS_PER_BLOCK + 1));
	table_remove(&catalog.dirty_blocks, 1);
	head->dirty = false;
	do_op(RENAME, a, 0, "z");
	assert_non_null(table_get(&catalog.dirty_blocks, 1));
	table_remove(&catalog.dirty_blocks, 1);
	do_op(SNAPSHOT, a, 0, "s");
	assert_true(head->dirty);
	assert_non_null(table_get(&catalog.dirty_blocks, 1));
	table_remove(&catalog.dirty_blocks, 1);
	do_op(DELETE, a, 0, "");
	assert_non_null(table_get(&catalog.dirty_blocks, 1));
	catalog_mark_dirty(&catalog, &catalog.self);
	assert_int_equal(catalog.dirty_blocks.count, 1);
}

/* --- records --- */

#define BLOCKS 64u
static uint8_t blocks[BLOCKS][FORMAT_BLOCK_BYTES];

static void
encode(void)
{
	list_for_each(node, &catalog.images) {
		struct image *image = container_of(node, struct image, link);

		image->cut = image->map;
	}
	assert_true(catalog.next_id <= BLOCKS * CATALOG_RECORDS_PER_BLOCK);
	for (uint64_t i = 0; i < BLOCKS; i++)
		catalog_encode_block(&catalog, i, blocks[i]);
}

/* Into an empty catalog, as of the same superblock. */
static int
decode(struct error *error)
{
	uint64_t next_id = catalog.next_id;
	uint32_t epoch = catalog.epoch;
	int rc = 0;

	catalog_fini(&catalog);
	catalog_init(&catalog, &nodes);
	catalog.next_id = next_id;
	catalog.epoch = epoch;
	for (uint64_t i = 0; i < BLOCKS && rc == 0; i++)
		rc = catalog_decode_block(&catalog, i, blocks[i], error);
	return rc ? rc : catalog_link(&catalog, error);
}

static struct catalog_record *
record_of(uint64_t id)
{
	return (struct catalog_record *)blocks[id / CATALOG_RECORDS_PER_BLOCK] +
	       id % CATALOG_RECORDS_PER_BLOCK;
}

/* Volumes a (1, head 2, snapshots 3 and 6, a trim 7) and c (4, head 5, a clone of 3). */
static void
populate(void)
{
	struct catalog_op op = op_make(CREATE, 0, 0, "a");

	op.flags = CATALOG_READONLY;
	op.uuid = uuid;
	assert_int_equal(catalog_apply(&catalog, &op, 1), 0);
	do_op(SNAPSHOT, 1, 0, "s");
	do_op(CLONE, 0, 3, "c");
	do_op(SNAPSHOT, 1, 0, "t");
	catalog_add_trimmed(&catalog, catalog_image(&catalog, 2))->cursor = 4096;
	do_op(UNSNAPSHOT, 0, 6, "");
	catalog_image(&catalog, 3)->map = (struct map){ { 0x10001, 1, 99 }, 2 };
	catalog_image(&catalog, 3)->mapped_blocks = 321;
}

static void
test_records_round_trip(void **state)
{
	static uint8_t before[BLOCKS][FORMAT_BLOCK_BYTES];
	struct error error;

	populate();
	encode();
	memcpy(before, blocks, sizeof(before));
	assert_int_equal(decode(&error), 0);
	assert_true(catalog_invariant(&catalog));
	assert_int_equal(catalog.image_count, 5);
	assert_int_equal(catalog.volume_count, 2);
	assert_string_equal(catalog_image(&catalog, 3)->name, "s");
	assert_int_equal(catalog_image(&catalog, 3)->map.levels, 2);
	assert_int_equal(catalog_image(&catalog, 3)->mapped_blocks, 321);
	assert_ptr_equal(catalog_image(&catalog, 2)->parent, catalog_image(&catalog, 6));
	assert_true(catalog_image(&catalog, 6)->deleted);
	assert_int_equal(catalog_image(&catalog, 7)->kind, IMAGE_TRIMMED);
	assert_int_equal(catalog_image(&catalog, 7)->made_from, 2);
	assert_int_equal(catalog_image(&catalog, 7)->cursor, 4096);
	assert_int_equal(catalog_volume(&catalog, 1)->flags, CATALOG_READONLY);
	assert_true(uuid_equal(&catalog_volume(&catalog, 1)->uuid, &uuid));
	encode();
	assert_memory_equal(before, blocks, sizeof(before));
	/* It goes on as if nothing had been. */
	assert_ptr_equal(map_reap_next(&catalog), catalog_image(&catalog, 7));
	do_op(SNAPSHOT, 1, 0, "u");
}

static void
test_records_count_tells_empty_blocks(void **state)
{
	populate();
	encode();
	assert_int_equal(catalog_encode_block(&catalog, 0, blocks[0]), 7);
	assert_int_equal(catalog_encode_block(&catalog, 1, blocks[1]), 0);
}

static void
test_every_flipped_bit_of_a_record_is_found(void **state)
{
	static const uint64_t ids[] = { 1, 3 };
	struct error error;

	populate();
	encode();
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		uint8_t *bytes = (uint8_t *)record_of(ids[i]);

		for (size_t bit = 0; bit < 8 * sizeof(struct catalog_record); bit++) {
			char expected[64];

			snprintf(expected, sizeof(expected), "record %llu is damaged",
			    (unsigned long long)ids[i]);
			bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
			if (decode(&error) != -EUCLEAN)
				fail_msg("record %d, bit %zu", (int)ids[i], bit);
			assert_non_null(strstr(error.text, expected));
			bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
	}
	assert_int_equal(decode(&error), 0);
}

static void
test_record_at_another_place_is_found(void **state)
{
	struct error error;

	populate();
	encode();
	memcpy(blocks[1], blocks[0], sizeof(blocks[0]));
	assert_int_equal(decode(&error), -EUCLEAN);
	assert_non_null(strstr(error.text, "record 9 is damaged"));
	memset(blocks[1], 0, sizeof(blocks[1]));
	catalog.next_id = 7; /* 7 was never given */
	assert_int_equal(decode(&error), -EUCLEAN);
	assert_non_null(strstr(error.text, "record 7 is damaged"));
	catalog.next_id = 8;
	assert_int_equal(decode(&error), 0);
}

static void
assert_record_refused(uint64_t id, struct catalog_record record, const char *text)
{
	struct error error = { 0 };
	struct catalog_record good = *record_of(id);

	catalog_seal_record(&record);
	*record_of(id) = record;
	if (decode(&error) != -EUCLEAN)
		fail_msg("taken: %s", text);
	if (!strstr(error.text, text))
		fail_msg("%s", error.text);
	*record_of(id) = good;
	assert_int_equal(decode(&error), 0);
}

#define REFUSED(id, change, text)                              \
	do {                                                   \
		struct catalog_record record = *record_of(id); \
		record.change;                                 \
		assert_record_refused(id, record, text);       \
	} while (0)

static void
test_impossible_records_are_refused(void **state)
{
	populate();
	encode();
	REFUSED(1, kind = 4, "record 1 has kind 4");
	REFUSED(1, kind = CATALOG_NOTE, "note 1 holds impossible values");
	REFUSED(3, image_kind = 0, "image 3 holds impossible values");
	REFUSED(3, image_kind = IMAGE_TRIMMED + 1, "image 3 holds impossible values");
	REFUSED(3, levels = MAP_LEVELS_MAX + 1, "image 3 holds impossible values");
	REFUSED(3, levels = 0, "image 3 holds impossible values");
	REFUSED(3, root.addr |= NODE_VIRTUAL, "image 3 holds impossible values");
	REFUSED(3, epoch = 100, "image 3 holds impossible values");
	REFUSED(3, name[0] = (memset(record.name, 'x', sizeof(record.name)), 'x'), "damaged");
}

static void
test_links_to_what_does_not_exist_are_refused(void **state)
{
	populate();
	encode();
	REFUSED(2, parent = 30, "image 2 has no parent 30");
	REFUSED(2, parent = 2, "image 2 has no parent 2");
	REFUSED(2, parent = 1, "image 2 has no parent 1"); /* a volume */
	REFUSED(3, volume = 30, "image 3 has no volume 30");
	REFUSED(1, head = 30, "volume a has no head");
	REFUSED(1, head = 0, "volume a has no head");
	REFUSED(1, head = 5, "volume a has no head"); /* another's */
}

/* --- notes --- */

static void
reload(void)
{
	struct error error;

	encode();
	assert_int_equal(decode(&error), 0);
}

static void
set_note(uint64_t volume, enum note_kind kind, const uint8_t *bytes, size_t len_bytes)
{
	unsigned count;
	struct catalog_op *ops =
	    catalog_note_ops(catalog_volume(&catalog, volume), kind, bytes, len_bytes, &count);

	assert_int_equal(catalog_apply(&catalog, ops, count), 0);
	free(ops);
}

static void
assert_note(uint64_t volume, enum note_kind kind, const uint8_t *bytes, size_t len_bytes)
{
	const struct note *note = catalog_volume(&catalog, volume)->notes[kind];

	if (len_bytes == 0) {
		assert_null(note);
		return;
	}
	assert_non_null(note);
	assert_int_equal(note->len_bytes, len_bytes);
	assert_memory_equal(note->bytes, bytes, len_bytes);
}

/* Of every length the records say the same as the operations; a shorter one leaves none behind. */
static void
test_notes_are_kept_and_replaced(void **state)
{
	static const size_t lengths[] = { 1, NOTE_PART_BYTES, NOTE_PART_BYTES + 1,
		5 * NOTE_PART_BYTES, 3, NOTE_BYTES_MAX, 0, 7 };
	uint8_t *bytes = xmalloc(NOTE_BYTES_MAX);
	uint64_t a = do_op(CREATE, 0, 0, "a");
	uint64_t b = do_op(CREATE, 0, 0, "b");

	set_note(b, NOTE_RESERVATIONS, (const uint8_t *)"other", 5);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		for (size_t k = 0; k < lengths[i]; k++)
			bytes[k] = (uint8_t)(k * 7 + i);
		set_note(a, NOTE_EXPORTS, bytes, lengths[i]);
		assert_note(a, NOTE_EXPORTS, bytes, lengths[i]);
		reload();
		assert_note(a, NOTE_EXPORTS, bytes, lengths[i]);
		assert_note(b, NOTE_RESERVATIONS, (const uint8_t *)"other", 5);
		assert_note(b, NOTE_EXPORTS, NULL, 0);
	}
	do_op(DELETE, a, 0, "");
	reload();
	assert_int_equal(catalog.notes_by_id.count, 1);
	assert_note(b, NOTE_RESERVATIONS, (const uint8_t *)"other", 5);
	free(bytes);
}

static void
test_parts_of_notes_that_do_not_fit_are_refused(void **state)
{
	uint64_t a = do_op(CREATE, 0, 0, "a");
	struct catalog_note_op op = { .type = CATALOG_OP_NOTE, .note = NOTE_EXPORTS, .volume = a };
	static const struct {
		uint8_t note;
		uint64_t offset, size_bytes;
	} cases[] = {
		{ 0, 0, 1 }, { NOTE_KINDS, 0, 1 }, { NOTE_EXPORTS, 1, 900 },
		{ NOTE_EXPORTS, NOTE_PART_BYTES, NOTE_PART_BYTES },
		{ NOTE_EXPORTS, 0, NOTE_BYTES_MAX + 1 },
		{ NOTE_EXPORTS, NOTE_PART_BYTES, 900 }, /* without the first part */
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		op.note = cases[i].note;
		op.offset = cases[i].offset;
		op.size_bytes = cases[i].size_bytes;
		assert_int_equal(
		    catalog_apply(&catalog, (const struct catalog_op *)&op, 1), -EUCLEAN);
	}
	op = (struct catalog_note_op){
		.type = CATALOG_OP_NOTE, .note = NOTE_EXPORTS, .volume = 99, .size_bytes = 1
	};
	assert_int_equal(catalog_apply(&catalog, (const struct catalog_op *)&op, 1), -ENOENT);
}

static void
test_notes_with_lost_parts_are_refused(void **state)
{
	uint8_t bytes[3 * NOTE_PART_BYTES] = { 1 };
	uint64_t a = do_op(CREATE, 0, 0, "a");
	uint64_t note;

	set_note(a, NOTE_EXPORTS, bytes, sizeof(bytes));
	note = catalog_volume(&catalog, a)->notes[NOTE_EXPORTS]->ids[1];
	encode();
	REFUSED(note, magic = 0, "a part of a note of volume a is missing");
	REFUSED(note, volume = 30, "does not fit the others");
	REFUSED(note, head = 900, "does not fit the others"); /* where its size lies */
}

static void
test_invariant_sees_wrong_counts(void **state)
{
	populate();
	assert_true(catalog_invariant(&catalog));
	struct image *image = catalog_image(&catalog, 3);

	image->children++;
	assert_false(catalog_invariant(&catalog));
	image->children--;
	image->epoch = catalog.epoch + 1;
	assert_false(catalog_invariant(&catalog));
	image->epoch = 1;
	catalog.image_count++;
	assert_false(catalog_invariant(&catalog));
	catalog.image_count--;
	assert_true(catalog_invariant(&catalog));
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_operations_are_refused_with_the_reason),
		TEST(test_sizes_are_whole_blocks_up_to_an_exbibyte),
		TEST(test_name_without_an_end_is_refused),
		TEST(test_volumes_are_found_and_listed_by_name),
		TEST(test_resize_and_set_change_the_volume),
		TEST(test_snapshot_comes_between_head_and_past),
		TEST(test_snapshots_of_one_batch_share_an_epoch),
		TEST(test_clone_is_a_volume_on_the_snapshot),
		TEST(test_rollback_deletes_the_old_head_and_starts_on_the_snapshot),
		TEST(test_deleted_image_leaves_when_it_is_forgotten_and_its_child_takes_its_place),
		TEST(test_deleted_volume_takes_its_snapshots_along),
		TEST(test_snapshot_with_clones_waits_hidden),
		TEST(test_whatever_changes_marks_its_record_dirty),
		TEST(test_records_round_trip),
		TEST(test_records_count_tells_empty_blocks),
		TEST(test_every_flipped_bit_of_a_record_is_found),
		TEST(test_record_at_another_place_is_found),
		TEST(test_impossible_records_are_refused),
		TEST(test_links_to_what_does_not_exist_are_refused),
		TEST(test_notes_are_kept_and_replaced),
		TEST(test_parts_of_notes_that_do_not_fit_are_refused),
		TEST(test_notes_with_lost_parts_are_refused),
		TEST(test_invariant_sees_wrong_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
