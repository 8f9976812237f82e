/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that is larger than memory: of a block of data that begins with a marker it keeps the
 * marker's number alone, and makes the block again when it is read.  All other blocks it keeps.
 *
 * What a log leaves behind (headers, map nodes that died) has to be given up, too: whoever knows
 * what is not needed sweeps now and then.  What was given up reads as rubbish.
 *
 * The disk outlives its device, as it does when a process is killed.  It has no volatile cache.
 */
#ifndef QUARRY_TESTS_BENCH_FORGETFUL_H
#define QUARRY_TESTS_BENCH_FORGETFUL_H

#include "core/device.h"

struct forgetful_counts {
	uint64_t reads;
	uint64_t node_reads; /* of those: one block, that is no data */
	uint64_t read_bytes;
	uint64_t head_bytes; /* written: before data_block; behind it */
	uint64_t data_bytes;
	uint64_t header_bytes;
	uint64_t other_bytes; /* map nodes, the catalog */
	uint64_t flushes;
	uint64_t busy_ns; /* what the disk took of the processor's time */
};

struct forgetful_disk {
	uint64_t blocks;
	uint64_t data_block; /* where the log begins; 0: not known yet */
	/* How long the device takes; all 0: everything is done within the turn. */
	uint64_t latency_ns;
	uint64_t bytes_per_s; /* 0: any */
	struct forgetful_counts counts;
	/* Asked before each request; true: from this one on nothing is done.  NULL: never. */
	bool (*dies)(void *context);
	void *context;
	bool dead;
	/* private */
	uint32_t *what;   /* by block, see forgetful.c */
	uint8_t *kept;    /* blocks */
	uint32_t *owners; /* of those: the block, */
	uint32_t *deaths; /* and the round in which it was found to be needed no more; 0: it is */
	uint32_t *unused;
	uint32_t kept_end;
	uint32_t unused_count;
	uint32_t kept_max;
	uint64_t busy_until_ns;
	uint64_t clock_ns; /* what looking at the clock takes */
};

void forgetful_disk_init(struct forgetful_disk *disk, uint64_t size_bytes);
void forgetful_disk_fini(struct forgetful_disk *disk);

struct device *forgetful_device_open(struct forgetful_disk *disk, struct reactor *reactor);

/* Of a block of data: makes it the one of @number, less than 2^31, whatever was in it. */
void forgetful_mark(void *block, uint32_t number);
/* The number of a block that was marked; UINT32_MAX: it was not. */
uint32_t forgetful_number(const void *block);
/* What a block that is to be marked must hold; it can be marked again and again. */
void forgetful_fill(void *block);

/*
 * Gives up what is not needed in @round, nor was in a sweep two rounds before and since.  Not
 * called while anything is in flight.
 */
void forgetful_sweep(struct forgetful_disk *disk, uint32_t round,
    bool (*needed)(void *context, uint64_t block), void *context);

/* Blocks that are kept now. */
uint32_t forgetful_kept(const struct forgetful_disk *disk);

#endif
