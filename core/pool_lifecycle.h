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
/* How many slabs there would be, of as many as hold a copy each, if device @index, which is out,
 * were in use; UINT32_MAX: all that are out. */
uint64_t pool_slabs_with(const struct pool *pool, uint32_t index);
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

/* Batches until the log is elsewhere (log_write_nothing()): one names the next segment, one is in
 * it; and the one that was named before may lie as badly. */
#define LOG_ATTEMPTS 8u

/* The device set as it is now; into one block, to be written; and its way to device @index. */
void pool_device_set(struct pool *pool, struct device_set *set);
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

/*
 * A label, and the two superblocks and two device sets behind it, at the head of a device (@place
 * 0) or at its end (1): HEADS_BLOCKS of them into @blocks.  @size_bytes is the label's: the device
 * may have grown.
 */
#define HEADS_BLOCKS 5u
void heads_read(struct block_reader *reader, struct device *device, uint64_t size_bytes,
    unsigned place, void *blocks);
/* What of them is valid, and the pool's, and newer than @newest and @set (.checkpoint, .count 0:
 * none yet) takes their place.  @checkpoints: of both superblocks; 0: not valid. */
void heads_take(const uint8_t *blocks, const struct uuid *pool_uuid, struct superblock *newest,
    struct device_set *set, uint64_t checkpoints[2]);

/* packed_load.c: reads the directories of all PACKED slabs; those of which it is lost are stuck. */
#define PACKED_LOADS 32u /* at a time */
struct packed_load {
	/* set by the owner */
	struct space *space;
	struct device *only; /* where all of it lies; NULL: on the pool's devices */
	void (*done)(struct packed_load *load);
	/* result */
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
