/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device of a pool in service has become larger: its new space is used.
 *
 *   COPY ─► TAIL ─► HEAD ─► CHECKPOINT ─► done
 *
 * The new slabs are beyond the mark (metadata/space.h): the slab table, in which room for them was
 * left when the device was labelled, stays as it is.
 *
 *  1. Superblocks and device sets are copied to the new end of the device, with the new label.  No
 *     checkpoint begins until 3, and if the device set changes meanwhile, all is copied again.
 *  2. The label at the head is written.  It is this one block that makes the device larger: before
 *     it the old end counts, behind it the new one, which has all that the old one had.
 *  3. The new slabs may be used.  A checkpoint brings the superblock to the new end, too.
 */
#ifndef QUARRY_CORE_DEVICE_GROW_H
#define QUARRY_CORE_DEVICE_GROW_H

#include "core/pool_lifecycle.h"

enum device_grow_phase {
	DEVICE_GROW_COPY,
	DEVICE_GROW_TAIL,
	DEVICE_GROW_HEAD,
	DEVICE_GROW_CHECKPOINT,
	DEVICE_GROW_DONE,
};

struct device_grow {
	/* set by the owner */
	struct pool *pool;
	uint32_t index;
	void (*done)(struct device_grow *grow);
	/* result */
	struct error error;
	/* private */
	enum device_grow_phase phase;
	struct label label;         /* the new one */
	bool barred;                /* checkpoints are */
	uint64_t copied_generation; /* of the device set that was copied */
	uint8_t *blocks;
	struct block_reader reader;
	struct block_writer writer;
	struct waiter wait;
	struct task step;
};

/* @grow->pool is online, device @index in use; done() comes from the reactor.  -ENODATA: it is no
 * larger than before. */
void device_grow_start(struct device_grow *grow);

#endif
