/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Space: the slabs of all devices, which pieces of the log lie on which, and which slots of them
 * are live.
 *
 * Life of a slab:  FREE -> OPEN (the log writes to it) -> SEALED -> (all dead) EMPTY -> FREE
 *                  FREE -> PACKED (relocation moved blocks to it) -> (all dead) EMPTY -> FREE
 *
 * Invariants:
 *   - a segment lies in pieces: all of its slots on the slab where the log wrote it, and lists of
 *     slots on packed slabs; `segments` finds the first of them;
 *   - on a slab scattered pieces hold, whatever another piece says of their places;
 *   - an address is live in at most one piece: that is where it lies;
 *   - bits count the slots of slabs; live == the number of set bits;
 *   - a slab that is SEALED or PACKED with live == 0 is on `empty`; it becomes FREE only when a
 *     checkpoint whose cut saw it there is durable (space_collect_empty, space_release);
 *   - table pages whose records changed since they were last encoded are marked dirty.
 *
 * The mark of a device: slabs from there on were never used.  They are FREE, and take no record in
 * the table, no memory and no time; `free_count` and `slab_count` count them.  The mark only grows,
 * a few slabs at a time: when a slab is looked for and none below it is free, or a replay meets one
 * beyond it (space_reach()).  Page 0 tells it on disk, and is written in one table with the pages
 * of those slabs (space_begin_table()): so each checkpoint has the mark of its own table, and what
 * its log uses beyond that a replay finds out for itself.
 *
 * Copies: with space.copies > 1 a segment, or a packed slab, lies on several slabs of different
 * devices, a ring of `twin`.  One of them, the leader, has its state, pieces and live bits, and is
 * the slab that everybody means; the others are in state SLAB_COPY.  A place of the ring counts
 * unless it is stale or its device is out.  In the table every slab has a record of its own.
 * `free_count` and `slab_count` count how many times there is room for all copies.
 *
 * Devices that leave: their free slabs are held, off the free list, and so is each that becomes
 * free.  So they empty, as relocation moves what lies badly (space_lies_badly()), until nothing is
 * left.
 *
 * Devices that come back (space_rejoin()): each place where the device has all of what lies
 * elsewhere is one of the ring again, the others stay stale until what they lack has moved or is
 * gone.  None of them counts, and its free slabs are held, until the device is the pool's
 * (space_joined()).
 *
 * Marking dead is idempotent, and marking an address dead whose segment is gone does nothing:
 * addresses are never used again.
 */
#ifndef QUARRY_METADATA_SPACE_H
#define QUARRY_METADATA_SPACE_H

#include "core/base/bitmap.h"
#include "core/base/error.h"
#include "core/base/list.h"
#include "core/base/table.h"
#include "metadata/packed.h"

struct slab;

/* Slots of a segment on a slab, side by side. */
struct space_piece {
	uint64_t segment;
	struct slab *slab;
	struct space_piece *next; /* of the same segment */
	uint32_t first;           /* slot of the slab; */
	uint32_t count;
	const void *slots;  /* see packed.h; NULL: all of them, each at its own place */
	const void *places; /* of a scattered piece: the slots of the slab */
};

/* Two lines of the processor's cache, and then live_bits: marking a block live or dead touches the
 * first line, and the one of its bit. */
struct slab {
	union {
		/* 0: none; PACKED: its number, which is no address's */
		uint64_t segment;
		struct space_piece own; /* of a segment that the log writes or wrote here */
	};
	struct slab *twin; /* the next one of the ring; NULL: there is no copy */
	uint32_t index;    /* on its device */
	uint16_t live;
	uint8_t device;
	uint8_t state;

	struct space_piece *pieces; /* what lies here: `own`, or what a directory says; NULL */
	const uint64_t *scattered;  /* slots where scattered pieces hold; NULL: there are none */
	struct list link;           /* on `empty`, on its device's `free`, or in none */
	uint64_t filled_segment;    /* the log's next one when it was plugged; 0: it was not */
	uint32_t sealed_cut;        /* the last cut when it was sealed or packed */
	uint32_t node_died_cut;     /* the last cut when a map node on it died */
	uint32_t readers;           /* reads in flight: not opened before they end */
	uint32_t age;
	uint16_t piece_count;
	uint16_t live_first; /* when it was sealed or packed; after an import at most what can be */
	uint16_t directory_blocks;
	uint8_t flags;
	bool releasing : 1; /* waits for a checkpoint to be durable */
	bool stuck : 1;     /* something on it is unreadable: it is not moved */
	bool stale : 1;     /* a place that lacks some of what its twins have */
	bool held : 1;      /* FREE, but off the free list since its device leaves, or joins */
	bool plugging : 1;  /* its holes and its directory are being written */

	uint64_t live_bits[]; /* one a slot */
};
static_assert(offsetof(struct slab, pieces) == 64, "what is marked is in one line of the cache");
static_assert(offsetof(struct slab, live_bits) == 128, "a slab is two lines, and its bits");
static_assert(SLAB_BLOCKS_MAX <= UINT16_MAX && POOL_DEVICES_MAX <= UINT8_MAX, "they fit");

struct space_device {
	bool present;
	bool out;     /* left out: nothing on it counts */
	bool leaving; /* what lies on it counts, but nothing new goes there */
	bool removed; /* out, and not to come back */
	bool joining; /* it comes back: nothing on it counts yet, but checkpoints write its table */
	struct uuid uuid;
	uint64_t slabs_block;
	uint32_t slab_count;
	uint32_t slab_room;  /* so many it may grow to: there is room in the table */
	uint32_t mark;       /* those from here on were never used */
	uint32_t span;       /* a number not below `mark` that grows in large steps, for sweeps */
	bool fresh_held;     /* those from the mark on are held, as `held` of a slab */
	uint32_t free_count; /* on `free`, and from the mark on if they are not held */
	uint32_t written_free_count; /* of those: with SLAB_WRITTEN, first in the list */
	uint8_t **chunks;            /* see space_slab() */
	size_t slab_bytes;           /* of a struct slab with its bits */
	uint32_t chunk_count;
	struct list free;
	uint32_t page_count;       /* with records of slabs below the mark; at least one */
	uint32_t page_room;        /* there is memory for so many: */
	uint32_t told_mark;        /* as the table has it that is being written, or was last */
	uint8_t *page_place;       /* which of its two places holds the current version */
	uint64_t *page_checkpoint; /* the version of the current one */
	uint64_t *page_dirty;      /* bitmap */
	uint64_t digest;           /* sum over its pages */
};

#define SPACE_DYING 16u

struct space {
	uint32_t slab_blocks;
	uint32_t device_count;
	uint32_t copies;
	uint32_t leaving_count; /* devices */
	uint64_t taken;         /* how often space_take() gave something */
	struct table numbers;   /* of PACKED slabs as the table has them, to find copies */
	struct space_device devices[POOL_DEVICES_MAX];
	struct table segments; /* segment number -> struct space_piece */
	struct list empty;
	uint64_t empty_count;
	uint32_t cut; /* number of the last cut, since the pool was opened */
	uint64_t slab_count;
	uint64_t free_count;
	uint64_t span_count; /* the sum of all `span` */
	uint64_t live_blocks;
	uint64_t deaths; /* of blocks, since the pool was opened */
	struct {
		struct baddr addrs[SPACE_DYING]; /* a ring */
		uint32_t asked;                  /* how many ever were; */
		uint32_t marked;
	} dying;               /* see space_mark_dead_soon() */
	uint64_t table_digest; /* sum over pages of a hash of (device, page, version) */
};

void space_init(struct space *space, uint32_t slab_blocks, uint32_t copies);
void space_fini(struct space *space);

/* All slabs FREE, the mark as low as can be, and all pages dirty with version 0 (as a new pool has
 * it). */
void space_add_device(struct space *space, uint32_t index, const struct uuid *uuid,
    uint64_t slabs_block, uint32_t slab_count);

#define SPACE_CHUNK_SLABS 32u

/* Slab @index of the device, below the mark.  They do not move. */
static inline struct slab *
space_slab(const struct space_device *device, uint32_t index)
{
	uint8_t *chunk = device->chunks[index / SPACE_CHUNK_SLABS];

	return (struct slab *)(chunk + index % SPACE_CHUNK_SLABS * device->slab_bytes);
}

/* ... of any: the mark is raised above it if need be. */
struct slab *space_reach(struct space *space, uint32_t device, uint32_t index);
/* Slab @n of span_count; NULL: of those from a mark on. */
struct slab *space_nth_slab(const struct space *space, uint64_t n);

/* The device has @slab_count slabs now, at most slab_room; the new ones are FREE. */
void space_grow_device(struct space *space, uint32_t index, uint32_t slab_count);

/* The slab where the log wrote @segment; NULL: it is free again, or never was. */
struct slab *space_find(const struct space *space, uint64_t segment);

/* Where @addr lies: *slot of the slab that is returned; NULL: nowhere.  Of an address that is dead
 * everywhere some place where it once was. */
struct slab *space_place(const struct space *space, struct baddr addr, uint32_t *slot);
/* How many of the @count addresses from @addr on lie side by side (at least 1), if it does. */
uint32_t space_run(const struct space *space, struct baddr addr, uint32_t count);

/* Whether what lies on this very slab, leader or copy, can be used. */
static inline bool
space_place_counts(const struct space *space, const struct slab *slab)
{
	const struct space_device *device = &space->devices[slab->device];

	return !slab->stale && !device->out && !device->joining;
}

/* The slab that has state, pieces and live bits of what lies on @slab. */
static inline struct slab *
space_leader(struct slab *slab)
{
	while (slab->state == SLAB_COPY)
		slab = slab->twin;
	return slab;
}

/* How many copies a segment that is opened now gets. */
uint32_t space_copies_now(const struct space *space);
/* The places of @leader that count; at most COPIES_MAX. */
unsigned space_places(const struct space *space, struct slab *leader, struct slab **places);
/* As @places, for the disk: the first into @device and @slab, the others, or BATCH_NO_SLAB, behind
 * it.  Returns how many others there are. */
unsigned space_name_places(const struct space *space, struct slab *leader, uint32_t *device,
    uint32_t *slab, struct slab_place *others);

/* Byte offset of slot @slot of @slab on its device. */
static inline uint64_t
space_offset_bytes(const struct space *space, const struct slab *slab, uint32_t slot)
{
	return (space->devices[slab->device].slabs_block +
		   (uint64_t)slab->index * space->slab_blocks + slot) *
	       FORMAT_BLOCK_BYTES;
}

/* Opens @slab for @segment: all slots dead.  In a replay a slab may be another segment's, which is
 * forgotten, or this one's already: then what the table says of its slots stays. */
void space_open_slab(struct space *space, struct slab *slab, uint64_t segment);
/* In a replay: opens @segment on @places, as a header names them, and returns the leader. */
struct slab *space_open_places(
    struct space *space, struct slab **places, unsigned count, uint64_t segment);
void space_seal_slab(struct space *space, struct slab *slab, uint32_t age);

/* Of what the log just wrote; what relocation has moved already stays as it is. */
void space_mark_live(struct space *space, struct baddr addr);
void space_mark_dead(struct space *space, struct baddr addr);
/* The same for many: what is random is fetched into the processor's cache meanwhile, and the last
 * ones are marked by space_finish_dead() only, which is called before anybody looks. */
void space_mark_dead_soon(struct space *space, struct baddr addr);
void space_finish_dead(struct space *space);
/* Of a map node: a replay from the last cut may still read it. */
void space_mark_node_dead(struct space *space, struct baddr addr);
/* For a repair: slot @slot of @slab becomes live or dead, whatever lies there. */
void space_set_slot(struct space *space, struct slab *slab, uint32_t slot, bool live);
bool space_is_live(const struct space *space, struct baddr addr);

/* At a checkpoint's cut: what is all dead now is released when this checkpoint is durable; its
 * table has it as free, so that a recovery finds no less space than there was. */
void space_collect_empty(struct space *space);
/* Without a cut: how many slabs are all dead that nothing needs which begins at the last cut: no
 * batch behind it lies there, and no map node that it still had.  These alone are released when the
 * table that is written now is durable. */
uint64_t space_count_needless(const struct space *space);
void space_collect_needless(struct space *space);
/* Calls @released for each such slab, copies too, after it became FREE. */
void space_release(
    struct space *space, void (*released)(void *context, struct slab *slab), void *context);

/* All live blocks of @slab, in the order of its slots: their addresses and slots; @addrs and @slots
 * have space for slab_blocks. */
uint32_t space_list_live(
    const struct space *space, const struct slab *slab, struct baddr *addrs, uint32_t *slots);
/*
 * The switch: @slab (FREE, reserved) becomes PACKED with the directory in @reader, which was opened
 * with @number; what of its blocks is still live lies there from now on, and no more where it lay.
 */
void space_pack(struct space *space, struct slab *slab, uint64_t number, uint32_t directory_blocks,
    struct packed_reader *reader, uint32_t age);
/*
 * The switch of plugging: the directory of @slab (PACKED) is now the one in @reader, which has the
 * @count @blocks at @places; those that are still live lie there from now on, and no more where
 * they lay.
 */
void space_plug(struct space *space, struct slab *slab, const struct packed_reader *reader,
    const struct packed_block *blocks, const uint16_t *places, uint32_t count, uint32_t age);
/* @slab is being plugged, until it is no more: places of it that do not count now will lack that.
 */
void space_begin_plugging(struct space *space, struct slab *slab);
/* Whether what is dead on @slab can be written over when a table is durable that is made now:
 * without a cut it takes that nothing which begins at the last cut needs any of it. */
bool space_may_plug(const struct space *space, const struct slab *slab, bool cut);
/* For a repair: @slab (FREE) is PACKED again with the directory in @reader, all of it dead until
 * space_set_slot() says otherwise. */
void space_restore_packed(struct space *space, struct slab *slab, uint64_t number,
    uint32_t directory_blocks, const struct packed_reader *reader, uint32_t age);
/* At import: the directory of a PACKED slab, whose record was in the table.  -EUCLEAN: it and the
 * table contradict each other. */
int space_load_pieces(struct space *space, struct slab *slab, struct packed_reader *reader,
    struct error *error) must_check;

/* The next slab to open: on the device after @after_device that has most of its share free; NULL if
 * fewer than @reserve slabs would be left.  It stays FREE until it is opened. */
struct slab *space_pick(struct space *space, uint32_t after_device, uint64_t reserve);
/* As space_pick(), with copies on other devices, and all of them off the free lists, until they are
 * opened, packed, or given back (space_unreserve).  NULL: there is no room, or what is free is
 * being read. */
struct slab *space_take(struct space *space, uint32_t after_device);
/* As space_take(), with fewer @copies than there could be, of the devices with most free slabs. */
struct slab *space_take_fewer(struct space *space, uint32_t after_device, uint32_t copies);
/* How many times @copies could be had of what is free. */
uint64_t space_count_free(const struct space *space, uint32_t copies);
/* A free slab of @device that was not written to since it was given back; NULL: none. */
struct slab *space_pick_unwritten(struct space *space, uint32_t device);
/* Takes @slab off the free list (somebody has plans for it) / puts it back, perhaps written now. */
void space_reserve(struct space *space, struct slab *slab);
void space_unreserve(struct space *space, struct slab *slab);
/* Space of @slab was given back to the device: a first write to it is one again. */
void space_slab_given_back(struct space *space, struct slab *slab);

/* --- devices that are left out --- */

/* Whether everything that lies on the device lies on another one too, that is not out. */
bool space_can_leave_out(const struct space *space, uint32_t index);
/* Nothing on the device counts any more, and nothing is free there. */
void space_leave_out(struct space *space, uint32_t index);
/* How many copies there are of everything, and of what has its slabs already, at least. */
uint32_t space_copies_min(const struct space *space);
/* How many segments and packed slabs have fewer copies than the pool is to keep. */
uint64_t space_count_degraded(const struct space *space);

/* --- devices that come back --- */

/*
 * Device @index, which is out, is joining.  @was is a space with that device alone, as its own
 * table has it, with directories; @trusted: that is what the device's superblock says of it, so
 * what it has as SEALED is there as a whole, and what it has as PACKED if that was not plugged
 * since.  All its pages are to be written.  The label's geometry is @was's,
 * and nothing is read there.  Returns how many slabs are taken over as they are.
 */
uint32_t space_rejoin(
    struct space *space, uint32_t index, const struct space *was, bool trusted) must_check;
/* What lies there counts from now on, and its free slabs may be used. */
void space_joined(struct space *space, uint32_t index);

/* What slab_count would be if those that are out, but not for good, were in use, with so many
 * @slabs (POOL_DEVICES_MAX; 0: it is not) each. */
uint64_t space_slabs_with(const struct space *space, const uint32_t *slabs);

/* --- devices that leave --- */

/* Nothing new goes to the device / it stays after all. */
void space_start_leaving(struct space *space, uint32_t index);
void space_stop_leaving(struct space *space, uint32_t index);
/* Whether what lies on @leader should lie elsewhere: on a device that leaves, or on fewer than it
 * could. */
bool space_lies_badly(const struct space *space, struct slab *leader);
/* Slabs of the device that something lies on. */
uint32_t space_count_used(const struct space *space, uint32_t index);
/* Nothing lies on the device, is read there, or has plans for it. */
bool space_is_unused(const struct space *space, uint32_t index);
/* Somebody reads from the device. */
bool space_is_read(const struct space *space, uint32_t index);
/* The device is gone for good: of one that is unused, or out. */
void space_remove_device(struct space *space, uint32_t index);
/* What slab_count would be without the device, and with one of @more slabs (0: none) instead. */
uint64_t space_slabs_without(const struct space *space, uint32_t index, uint32_t more);

/* How many slabs lie on devices that are fuller than the average, beyond it; those devices are set
 * in @fuller (POOL_DEVICES_MAX).  A device that would not be after it had given one is not. */
uint64_t space_find_fuller(const struct space *space, bool *fuller);
/* Whether a place of @leader lies on one of them. */
bool space_lies_on(const struct space *space, struct slab *leader, const bool *devices);

/* --- table pages --- */

/* Of the versions of a device's pages, as a superblock with copies has it. */
static inline uint32_t
space_device_digest(const struct space *space, uint32_t device)
{
	return (uint32_t)mix64(space->devices[device].digest);
}

/* ... of a device that was removed. */
static inline uint32_t
space_digest_of_none(void)
{
	return (uint32_t)mix64(0);
}

/* All dirty pages are going to be written, as one version; pages that become dirty from now on may
 * be written with them, or not. */
void space_begin_table(struct space *space);
/* Block number of the place to which dirty page @page goes next. */
uint64_t space_page_block(const struct space_device *device, uint32_t page);
/* Writes page @page as of now into @block, page 0 with the mark of space_begin_table(); marks it
 * clean, unless the mark was raised since, and its other place current. */
void space_encode_page(
    struct space *space, uint32_t device, uint32_t page, uint64_t checkpoint, void *block);
/* All slabs of a device that was just added are off its free list, until they are let go. */
void space_hold_device(struct space *space, uint32_t index);
void space_unhold_device(struct space *space, uint32_t index);
/* A slab that is reserved was written to, all of it. */
void space_slab_written(struct space *space, struct slab *slab);
/* Whether @block is page @page of the device's table, of whatever version. */
bool space_page_valid(const struct uuid *device_uuid, uint32_t page, const void *block);
/* Takes the newer valid one of both places that is not newer than @checkpoint.  -EUCLEAN: neither.
 * Records are checked; slabs get their states, segments are found.  Page 0 comes first: it sets the
 * mark, and so how many others there are. */
int space_decode_page(struct space *space, uint32_t device, uint32_t page, uint64_t checkpoint,
    const void *first_place, const void *second_place, struct error *error) must_check;

/* Recounts everything; false if an invariant does not hold. */
bool space_invariant(const struct space *space);

#endif
