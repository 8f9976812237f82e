/* SPDX-License-Identifier: Apache-2.0 */
/* What relocate.c and relocate_plug.c share: a pass, and its I/O. */
#ifndef QUARRY_CORE_RELOCATE_INTERNAL_H
#define QUARRY_CORE_RELOCATE_INTERNAL_H

#include "core/pool_internal.h"

/* So many requests a pass has under way at most. */
#define RELOCATION_IOS 192u

struct relocation_victim {
	struct slab *slab;
	uint32_t end_slot; /* behind the last block that is moved */
	struct places places;
};

/* A block that is moved. */
struct relocation_move {
	struct packed_block block;
	uint32_t slot; /* of the victim */
	uint32_t victim;
	bool taken;
	uint8_t bad; /* a bitmap of the victim's places */
};

struct relocation_io {
	struct device_io io;
	struct iovec iov;
	struct pool *pool;
	struct slab *slab;
};

/* Requests are added, and then submitted together; when all are done, and the pace allows, the step
 * goes on.  A failed write or flush is a lost device's; of a read the error is in r->error. */
void relocation_add_io(struct pool *pool, enum device_op op, struct slab *place, uint32_t slot,
    uint32_t blocks, uint8_t *buffer);
void relocation_submit(struct pool *pool);

/* @count moves from @first on, as directories want them; from malloc. */
struct packed_block *relocation_blocks(const struct relocation *r, uint32_t first, uint32_t count);

/*
 * Plugging: the moves go into holes.  True: there are enough; the slabs that have them are held.
 * False: there are not.
 */
bool plug_begin(struct pool *pool);
/* Whether a table that is being made, or another one, may give more holes: it is another one if
 * @worth blocks died since. */
bool plug_may_find_more(const struct pool *pool, uint64_t worth);
/* Reads the directories of the targets; false: they are read. */
bool plug_read(struct pool *pool);
/* The moves are in memory, in r->to: each gets its hole.  False: no directory has room. */
bool plug_assign(struct pool *pool);
/* Writes blocks, directories, their copies; false: all is written. */
bool plug_write(struct pool *pool);
/* The switch, or the end of a pass that was given up. */
void plug_switch(struct pool *pool);
void plug_let_go(struct pool *pool);
void plug_fini(struct pool *pool);

#endif
