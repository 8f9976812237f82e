/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that was left out comes back: it failed and was mended, was missing at an import, or was
 * taken out of use.  What it still has is taken over as it lies there, the rest is copied.
 *
 *   LABEL ─► HEADS ─► HEARTBEAT ─► TABLE ─► PACKED ─► BEAT ─► JOIN ─► JOINED ─►
 *   SETS ─► LOG ─► done
 *
 *  1. Its label, superblocks and device sets are read beside the pool's work, and say whether it is
 *     the device that was left out, and whether it was in service without the others since: then it
 *     has data of its own, and is refused.  Its heartbeat says whether it is just now.
 *  2. Its slab table is read as of its own newest superblock, and directories.  What that has as
 *     SEALED or PACKED was durable there when the superblock was written, and did not change, as
 *     segments are written once, under a number that is used once; of packed slabs, which may have
 *     been plugged without it, the table tells.  What was OPEN may lack the last batches, and does
 *     not count.  If the table is not the one that the superblock means, nothing counts.
 *  3. While no checkpoint runs it joins (space_rejoin()): checkpoints write its table, its
 *     superblock and flush it, but nothing on it counts, and nothing new goes there.
 *  4. When such a checkpoint is durable, all devices get a device set that has it in use, itself
 *     last.
 *  5. When that is durable everywhere it counts (space_joined()), and relocation copies what it
 *     missed (relocation_place()).  The log leaves the segment that lacks a copy.
 *
 * A crash before some device has the set leaves it out, with a table that says what it has: it is
 * asked for again.  A crash after that has it in use, as it takes part in every checkpoint by then.
 * If it fails meanwhile it is left out as any device (device_loss.c); if another one does, that is
 * judged without counting it.
 */
#ifndef QUARRY_CORE_DEVICE_RETURN_H
#define QUARRY_CORE_DEVICE_RETURN_H

#include "core/pool_lifecycle.h"

enum device_return_phase {
	DEVICE_RETURN_LABEL,
	DEVICE_RETURN_HEADS,
	DEVICE_RETURN_HEARTBEAT,
	DEVICE_RETURN_TABLE,
	DEVICE_RETURN_PACKED,
	DEVICE_RETURN_BEAT,
	DEVICE_RETURN_JOIN,
	DEVICE_RETURN_JOINED,
	DEVICE_RETURN_SETS,
	DEVICE_RETURN_LOG,
	DEVICE_RETURN_DONE,
};

struct device_return {
	/* set by the owner */
	struct pool *pool;
	struct device *device; /* NULL afterwards: it is the pool's now */
	void (*done)(struct device_return *back);
	/* result */
	struct error error;
	/* private */
	enum device_return_phase phase;
	uint32_t index;
	struct pool_label label;
	struct superblock newest; /* of its own; .checkpoint 0: none */
	struct device_set set;
	uint64_t checkpoints[2];
	unsigned place; /* of the twins */
	struct space was;
	uint32_t page;
	struct packed_load packed;
	bool trusted;            /* its table is what its superblock says */
	uint32_t taken;          /* slabs */
	uint32_t at;             /* so many have the set ... */
	uint64_t set_generation; /* ... of this number */
	unsigned attempts;       /* to move the log */
	struct waiter wait;
	struct log_append append;
	struct task step;
	struct timer timer;
	struct heartbeat_io beat;
	struct heartbeat before;
	struct block_reader reader;
	struct block_writer writer;
	uint8_t *blocks;
};

/* Closes what the pool still has open of devices that are out, so that @path can be opened anew.
 * -EBUSY: something is under way there. */
int device_return_prepare(struct pool *pool, const char *path, struct error *error) must_check;

/* @back->pool is online; done() comes from the reactor. */
void device_return_start(struct device_return *back);

#endif
