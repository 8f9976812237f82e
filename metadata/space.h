/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Space: the slabs of all devices, which segment of the log lies on which, and which slots of it
 * are live.
 *
 * Life of a slab:  FREE -> OPEN (the log writes to it) -> SEALED -> (all dead) EMPTY -> FREE
 *
 * Invariants:
 *   - a segment lies on one slab; `segments` finds it;
 *   - live == the number of set bits;
 *   - a slab that is SEALED with live == 0 is on `empty`; it becomes FREE only when a checkpoint
 *     whose cut saw it there is durable (space_collect_empty, space_release);
 *   - table pages whose records changed since they were last encoded are marked dirty.
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
#include "metadata/format.h"

struct slab {
	uint64_t segment; /* 0: none */
	uint64_t *live_bits;
	struct list link; /* on `empty`, on its device's `free`, or in none */
	uint32_t device;
	uint32_t index; /* on its device */
	uint32_t live;
	uint32_t readers; /* reads in flight: not opened before they end */
	uint32_t age;
	uint8_t state;
	uint8_t flags;
	bool releasing; /* waits for a checkpoint to be durable */
};

struct space_device {
	bool present;
	struct uuid uuid;
	uint64_t slabs_block;
	uint32_t slab_count;
	uint32_t free_count;
	uint32_t written_free_count; /* of those: with SLAB_WRITTEN, first in the list */
	struct slab *slabs;
	uint64_t *bits; /* the memory of all live_bits */
	struct list free;
	uint32_t page_count;
	uint8_t *page_place;       /* which of its two places holds the current version */
	uint64_t *page_checkpoint; /* the version of the current one */
	uint64_t *page_dirty;      /* bitmap */
};

struct space {
	uint32_t slab_blocks;
	uint32_t device_count;
	struct space_device devices[POOL_DEVICES_MAX];
	struct table segments; /* segment number -> struct slab */
	struct list empty;
	uint64_t slab_count;
	uint64_t free_count;
	uint64_t live_blocks;
	uint64_t table_digest; /* sum over pages of a hash of (device, page, version) */
};

void space_init(struct space *space, uint32_t slab_blocks);
void space_fini(struct space *space);

/* All slabs FREE and all pages dirty with version 0 (as a new pool has it). */
void space_add_device(struct space *space, uint32_t index, const struct uuid *uuid,
    uint64_t slabs_block, uint32_t slab_count);

static inline struct slab *
space_find(const struct space *space, uint64_t segment)
{
	return table_get(&space->segments, segment);
}

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
void space_seal_slab(struct space *space, struct slab *slab, uint32_t age);

void space_mark_live(struct space *space, struct baddr addr);
void space_mark_dead(struct space *space, struct baddr addr);
bool space_is_live(const struct space *space, struct baddr addr);

/* At a checkpoint's cut: what is all dead now is released when this checkpoint is durable; its
 * table has it as free, so that a recovery finds no less space than there was. */
void space_collect_empty(struct space *space);
/* Calls @released for each such slab after it became FREE. */
void space_release(
    struct space *space, void (*released)(void *context, struct slab *slab), void *context);

/* The next slab to open: on the device after @after_device that has most of its share free; NULL if
 * fewer than @reserve slabs would be left.  It stays FREE until it is opened. */
struct slab *space_pick(struct space *space, uint32_t after_device, uint64_t reserve);
/* A free slab of @device that was not written to since it was given back; NULL: none. */
struct slab *space_pick_unwritten(struct space *space, uint32_t device);
/* Takes @slab off the free list (somebody has plans for it) / puts it back, perhaps written now. */
void space_reserve(struct space *space, struct slab *slab);
void space_unreserve(struct space *space, struct slab *slab);
/* Space of @slab was given back to the device: a first write to it is one again. */
void space_slab_given_back(struct space *space, struct slab *slab);

/* --- table pages --- */

/* Block number of the place to which dirty page @page goes next. */
uint64_t space_page_block(const struct space_device *device, uint32_t page);
/* Writes page @page as of now into @block; marks it clean and its other place current. */
void space_encode_page(
    struct space *space, uint32_t device, uint32_t page, uint64_t checkpoint, void *block);
/* Takes the newer valid one of both places that is not newer than @checkpoint.  -EUCLEAN: neither.
 * Records are checked; slabs get their states, segments are found. */
int space_decode_page(struct space *space, uint32_t device, uint32_t page, uint64_t checkpoint,
    const void *first_place, const void *second_place, struct error *error) must_check;

/* Recounts everything; false if an invariant does not hold. */
bool space_invariant(const struct space *space);

#endif
