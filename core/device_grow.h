/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device of a pool in service has become larger: its new space is used.
 *
 *   PAGES ─► COPY ─► TAIL ─► HEAD ─► CHECKPOINT ─► done
 *
 *  1. The pages of the slab table for the new slabs are written, in the room that was left for them
 *     when the device was labelled.  All slabs are free there, of version 0: the digest of the
 * table stays what it was.
 *  2. Superblocks and device sets are copied to the new end of the device, with the new label.  No
 *     checkpoint begins until 4, and if the device set changes meanwhile, all is copied again.
 *  3. The label at the head is written.  It is this one block that makes the device larger: before
 *     it the old end counts, behind it the new one, which has all that the old one had.
 *  4. The new slabs may be used.  A checkpoint brings the superblock to the new end, too.
 */
#ifndef QUARRY_CORE_DEVICE_GROW_H
#define QUARRY_CORE_DEVICE_GROW_H

#include "core/pool_lifecycle.h"

enum device_grow_phase {
	DEVICE_GROW_PAGES,
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
	uint32_t page;              /* next to write */
	bool barred;                /* checkpoints are */
	uint64_t copied_generation; /* of the device set that was copied */
	uint8_t *blocks;
	struct block_reader reader;
	struct block_writer writer;
	struct device_io io;
	struct iovec iov;
	struct waiter wait;
	struct task step;
};

/* @grow->pool is online, device @index in use; done() comes from the reactor.  -ENODATA: it is no
 * larger than before. */
void device_grow_start(struct device_grow *grow);

#endif
