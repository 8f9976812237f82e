/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The catalog: volumes, and the images in their family tree.
 *
 *   - An image is a tree of blocks.  A head changes; a snapshot never does.  `parent` is the older
 *     neighbour: what an image shares with anybody, it shares through its parent or its children.
 *   - A volume is a name with a head.
 *   - A note is bytes that belong to a volume (metadata/format.h); the catalog does not look
 * inside.
 *   - A deleted image stays until its blocks are freed (metadata/reap.h): it waits while it has
 * more than one child, and `cursor` says up to where it is done.
 *   - On disk: a record each in image 0, as of the last checkpoint.  Between checkpoints the log
 *     carries operations (struct catalog_op); catalog_apply() means the same in a replay.
 */
#ifndef QUARRY_METADATA_CATALOG_H
#define QUARRY_METADATA_CATALOG_H

#include "core/base/error.h"
#include "core/base/list.h"
#include "core/base/mutant.h"
#include "core/base/table.h"
#include "metadata/format.h"
#include "metadata/node.h"

struct map {
	struct map_entry root; /* addr 0: all holes */
	uint8_t levels;        /* 0: nothing was ever written */
};

/* How far a count of the blocks that only one image has has come; all 0: not begun. */
struct map_count {
	uint64_t lba; /* next to look at */
	uint64_t blocks;
	bool done;
};

struct volume_record;

/* See metadata/format.h: bytes that belong to a volume, in records of their own. */
struct note {
	uint8_t kind; /* enum note_kind */
	struct volume_record *volume;
	size_t len_bytes;
	uint8_t *bytes;
	uint64_t *ids; /* of the records, part by part */
	size_t part_count;
};

struct image {
	uint64_t id;
	struct map map;
	struct image *parent;
	struct image *child_hint;     /* a child, if it still is one */
	struct volume_record *volume; /* NULL: nobody's any more */
	uint64_t made_from; /* the id of the image that it was cut off, or began as; 0: none */
	uint32_t epoch;     /* of a snapshot: blocks of this epoch and before may be its own */
	uint32_t children;
	uint8_t kind; /* enum image_kind */
	bool deleted;
	bool dirty; /* differs from its record on disk */
	uint64_t size_bytes;
	uint64_t created_s;
	uint64_t cursor; /* deleted: blocks before it are freed */
	uint64_t mapped_blocks;
	/* A head with a parent: at least so many of its blocks are not shared with older images,
	 * since they were written after the last snapshot or rollback.  See image_own_blocks(). */
	uint64_t own_blocks;
	uint64_t changes;             /* of its record or map, since it was read */
	struct map_count unique;      /* the engine's: as far as it counted while ... */
	uint64_t unique_stamp;        /* ... nothing of that changed */
	char name[FORMAT_NAME_BYTES]; /* of a snapshot */
	struct list link;             /* of all images, by age */
	struct list deleted_link;     /* of deleted images */
	struct list volume_link;      /* snapshots of one volume, the oldest first */
	struct map cut;               /* the map as of the cut of the running checkpoint */
	uint64_t parent_id;           /* between decoding and catalog_link() */
	uint64_t volume_id;
};

struct volume_record {
	uint64_t id;
	char name[FORMAT_NAME_BYTES];
	struct uuid uuid;
	uint64_t size_bytes;
	uint64_t created_s;
	struct image *head;
	struct list snapshots;
	uint64_t head_id; /* between decoding and catalog_link() */
	uint8_t flags;    /* CATALOG_READONLY … */
	uint32_t full_timeout_s;
	struct list link;          /* of all volumes, sorted by name */
	struct list reserved_link; /* of those with CATALOG_RESERVED */
	void *runtime;             /* the engine's */
	struct note *notes[NOTE_KINDS];
};

struct catalog {
	struct nodes *nodes;
	struct image self; /* image 0 */
	struct list volumes;
	struct list images;
	struct list deleted;
	struct list reserved; /* volumes */
	struct table images_by_id;
	struct table volumes_by_id;
	struct table notes_by_id;
	struct list note_parts; /* between decoding and catalog_link() */
	struct table
	    dirty_blocks; /* block + 1 -> anything: blocks of image 0 to be written again */
	uint64_t next_id;
	uint64_t volume_count;
	uint64_t image_count;
	uint32_t epoch; /* of blocks written now */
};

void catalog_init(struct catalog *catalog, struct nodes *nodes);
void catalog_fini(struct catalog *catalog);

struct image *catalog_image(const struct catalog *catalog, uint64_t id);
struct volume_record *catalog_volume(const struct catalog *catalog, uint64_t id);
struct volume_record *catalog_find_volume(const struct catalog *catalog, const char *name);
struct image *catalog_find_snapshot(
    const struct catalog *catalog, const struct volume_record *volume, const char *name);

/*
 * Whether @op can be applied to the catalog as it is: 0, or -EEXIST, -ENOENT, -EINVAL … with the
 * reason.  Whatever passes here catalog_apply() does.
 */
int catalog_check(
    const struct catalog *catalog, const struct catalog_op *op, struct error *error) must_check;

/* @len_bytes as the operations that make them @volume's note, of which there are at most
 * NOTE_OPS_MAX; the caller frees them.  0 bytes: the note goes. */
struct catalog_op *catalog_note_ops(const struct volume_record *volume, enum note_kind kind,
    const void *bytes, size_t len_bytes, unsigned *count);
#define NOTE_OPS_MAX ((NOTE_BYTES_MAX + NOTE_PART_BYTES - 1) / NOTE_PART_BYTES)

/* Applies operations that were logged together: they share one point in time. */
int catalog_apply(struct catalog *catalog, const struct catalog_op *ops, unsigned count) must_check;

/* The image that takes what a trim cuts off @from. */
struct image *catalog_add_trimmed(struct catalog *catalog, struct image *from);

/* @image's blocks are all freed and it has at most one child: its child takes its place. */
void catalog_forget(struct catalog *catalog, struct image *image);

void catalog_mark_dirty(struct catalog *catalog, struct image *image);

/* The only child of @image; NULL if it has none. */
struct image *catalog_only_child(const struct catalog *catalog, const struct image *image);

/*
 * What blocks (by epoch) at @lba are not @image's own: it shares those of this epoch and before
 * with an older image.  A deleted ancestor counts where its cursor has not been yet.
 */
static inline uint32_t
image_shared_epoch(const struct image *image, uint64_t lba)
{
	const struct image *older = image->parent;

	while (older && older->deleted && lba < older->cursor && !MUTANT(CURSOR_IGNORED))
		older = older->parent;
	return older ? older->epoch : 0;
}

/* Blocks of a head that can be overwritten without new room; what is being trimmed included, as it
 * is among the live blocks. */
static inline uint64_t
image_own_blocks(const struct image *image)
{
	return image->parent ? image->own_blocks : image->mapped_blocks;
}

/* What @blocks that are not written yet may take at most, with their maps. */
uint64_t catalog_blocks_to_hold(uint64_t blocks);
/* What is held back for a volume so that all of it can be written; 0: it is not reserved. */
uint64_t catalog_reserved_blocks(const struct volume_record *volume);

/* The logical blocks that initiators see, of the volume and of its snapshots. */
static inline uint32_t
catalog_block_bytes(const struct volume_record *volume)
{
	return volume->flags & CATALOG_BLOCKS_4096 ? 4096 : 512;
}

/* How many images back a block of @epoch in @image's map was written: 1 in @image itself, 2 in the
 * one that it was made from … */
static inline uint32_t
image_depth(const struct image *image, uint32_t epoch)
{
	uint32_t depth = 1;

	for (const struct image *older = image->parent; older && older->epoch >= epoch;
	     older = older->parent)
		depth += !older->deleted;
	return depth;
}

/* --- records --- */

/* One block of image 0: the records with ids CATALOG_RECORDS_PER_BLOCK * index and up.  Returns how
 * many there are. */
unsigned catalog_encode_block(const struct catalog *catalog, uint64_t index, void *block);
/* A record was changed: its CRC again. */
void catalog_seal_record(struct catalog_record *record);
/* Reads a block back; parents are linked by catalog_link(). -EUCLEAN: a damaged record. */
int catalog_decode_block(
    struct catalog *catalog, uint64_t index, const void *block, struct error *error) must_check;
/* After all blocks: resolves ids to images. -EUCLEAN: one that does not exist. */
int catalog_link(struct catalog *catalog, struct error *error) must_check;

bool catalog_invariant(const struct catalog *catalog);

/* --- notes, for the catalog alone (catalog_note.c) --- */

/* What was decoded, and not linked. */
void note_parts_free(struct catalog *catalog);
void note_free(struct catalog *catalog, struct note *note);
int note_check(const struct catalog_note_op *op, struct error *error) must_check;
/* -EUCLEAN: a part does not follow the one before it. */
int note_apply(struct catalog *catalog, struct volume_record *volume,
    const struct catalog_note_op *op) must_check;
void note_encode(const struct note *note, uint64_t id, struct catalog_record *record);
int note_decode(
    struct catalog *catalog, const struct catalog_record *record, struct error *error) must_check;
int note_link(struct catalog *catalog, struct error *error) must_check;
/* The record is to be written again. */
void catalog_mark_record_dirty(struct catalog *catalog, uint64_t id);

#endif
