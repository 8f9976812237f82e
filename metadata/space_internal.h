/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of metadata/space.h share:
 *
 *   space.c          life of a slab: free, opened, sealed, emptied, free again
 *   space_pieces.c   which slots of which segments lie on a slab, and which are live; moving them
 *   space_devices.c  copies; devices that are left out, come back, leave
 *   space_table.c    records on disk
 */
#ifndef QUARRY_METADATA_SPACE_INTERNAL_H
#define QUARRY_METADATA_SPACE_INTERNAL_H

#include "metadata/space.h"

/* Goes once round the ring, from @leader on. */
#define for_each_place(place, leader)                                    \
	for (struct slab *place = (leader), *end_ = NULL; place != end_; \
	     end_ = (leader), place = place->twin ? place->twin : (leader))

/* --- space.c --- */

/* Slabs below @mark are known from now on, as free as they were, and their pages dirty; that page 0
 * tells of it is up to the caller. */
void space_raise_mark(struct space *space, uint32_t device, uint32_t mark);
/* Whether slabs from the mark on are not to be had. */
void space_hold_fresh(struct space *space, struct space_device *device, bool hold);
/* Off and onto its device's free list; a slab of a device that leaves or joins is held instead. */
void space_leave_free(struct space *space, struct slab *slab);
void space_enter_free(struct space *space, struct slab *slab);
/* On `empty`. */
bool space_is_empty(const struct slab *slab);
void space_leave_empty(struct space *space, struct slab *slab);
/* Puts a slab that is all dead there. */
void space_look_empty(struct space *space, struct slab *slab);
/* Nothing that begins at the last cut needs what is dead on the slab. */
bool space_is_needless(const struct space *space, const struct slab *slab);

/* --- space_pieces.c --- */

/* All of @segment lies on @slab, where the log writes it. */
void space_set_own(struct space *space, struct slab *slab, uint64_t segment);
/* Forgets what lay on @slab and what was live of it; it is in no list afterwards. */
void space_forget(struct space *space, struct slab *slab);

/* --- space_devices.c --- */

/* Whether new slabs of the device may be opened. */
static inline bool
space_takes_new(const struct space_device *device)
{
	return device->present && !device->out && !device->leaving && !device->joining;
}

/* free_count and slab_count. */
void space_recount(struct space *space);
void space_link_twin(struct slab *leader, struct slab *copy);
void space_unlink_twin(struct slab *slab);

/* --- space_table.c --- */

void space_set_page_version(
    struct space *space, uint32_t device, uint32_t page, uint64_t checkpoint);
/* Of this slab alone; of a leader whose twins' records stay as they are. */
void space_mark_place_dirty(struct space *space, const struct slab *slab);
void space_mark_dirty(struct space *space, struct slab *slab);

#endif
