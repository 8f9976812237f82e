/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What making, opening and ending a pool have in common: a pool without its engine, and writing and
 * reading a few blocks of a device one after another.
 */
#ifndef QUARRY_CORE_POOL_LIFECYCLE_H
#define QUARRY_CORE_POOL_LIFECYCLE_H

#include "core/pool_internal.h"

struct pool *pool_new(const struct pool_config *config);
void pool_init_engine(struct pool *pool, uint32_t slab_blocks, uint32_t copies);
void pool_set_limits(struct pool *pool);
/* No pool has fewer; of as many as hold a copy each. */
#define POOL_SLABS_MIN 24u
/* How many blocks can be live in so many slabs. */
uint64_t pool_live_blocks_max(uint64_t slabs, uint32_t slab_blocks);
/* Closes its devices too; nothing may be under way. */
void pool_free(struct pool *pool);

void block_writer_add(struct block_writer *writer, uint64_t block, void *data);
void block_writer_start(struct block_writer *writer, struct device *device);

/* Makes the label of device @index of @pool, which has its name, UUID and slab size. */
int pool_lay_out_device(
    struct pool *pool, uint32_t index, struct device *device, struct error *error) must_check;
/* Writes label and device set of device @index, which lies on @device.  @blocks: memory for two
 * blocks, until @writer->done(). */
void pool_write_head(struct pool *pool, uint32_t index, struct device *device,
    struct block_writer *writer, void *blocks);
/* Erases all by which @device, labelled with @label now or soon, could be told to belong to a pool;
 * @foreign: also where other systems have their signatures.  @block: memory for one block, until
 * @writer->done(). */
void pool_wipe_head(const struct label *label, struct device *device, struct block_writer *writer,
    void *block, bool foreign);

/* The device set as it is now, into one block; and its way to device @index. */
void pool_encode_device_set(struct pool *pool, void *block);
void pool_write_device_set(
    struct pool *pool, uint32_t index, struct block_writer *writer, void *block);

/* Reads a range of blocks into @data. */
struct block_reader {
	void (*done)(struct block_reader *reader);
	int error;
	/* private */
	struct device_io io;
	struct iovec iov;
};
void block_reader_start(
    struct block_reader *reader, struct device *device, uint64_t block, uint64_t count, void *data);

/* packed_load.c: reads the directories of all PACKED slabs. */
#define PACKED_LOADS 32u /* at a time */
struct packed_load {
	void (*done)(struct packed_load *load);
	uint64_t damaged; /* slabs whose directories are lost; */
	char what[200];   /* the first of them */
	/* private */
	struct pool *pool;
	struct task task;
	uint32_t device;
	uint32_t index;
	uint32_t in_flight;
};
void packed_load_start(struct packed_load *load, struct pool *pool);

#endif
