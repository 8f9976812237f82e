/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The insides of an import, which pool_import.c (what the devices say) and pool_replay.c (the log)
 * share.
 */
#ifndef QUARRY_CORE_POOL_IMPORT_INTERNAL_H
#define QUARRY_CORE_POOL_IMPORT_INTERNAL_H

#include "core/pool_lifecycle.h"

enum import_phase {
	IMPORT_LABELS,
	IMPORT_FLUSH,
	IMPORT_SUPERBLOCKS,
	IMPORT_HEARTBEAT,
	IMPORT_TABLE,
	IMPORT_PACKED,
	IMPORT_CATALOG,
	IMPORT_LINK,
	IMPORT_SEGMENT,
	IMPORT_BATCH,
	IMPORT_LEVEL,
	IMPORT_BEGIN,
	IMPORT_SPREAD,
	IMPORT_DEVICES,
	IMPORT_CHECKPOINT,
	IMPORT_MEND,
	IMPORT_DONE,
};

struct catalog_read {
	struct import *import;
	struct block_fetch fetch;
	uint64_t index;
};

struct import {
	struct pool_start *start;
	struct pool *pool;
	enum import_phase phase;
	bool ending;
	struct task step;
	struct waiter wait;
	struct node_pin pin;
	bool pinned;

	struct pool_label label_read;
	struct block_reader reader;
	struct device *given[POOL_DEVICES_MAX];
	struct device *devices[POOL_DEVICES_MAX]; /* those whose label was read */
	uint64_t sizes_bytes[POOL_DEVICES_MAX];   /* theirs, as labelled */
	uint32_t device_count;
	uint32_t device;
	uint8_t *blocks; /* TABLE_CHUNK_BLOCKS, or a slab if that is more */

	struct superblock superblock; /* the newest of the devices that count */
	bool superblock_found;
	struct superblock *newest; /* of each device that was given; .checkpoint 0: none */
	struct device_set set;     /* that counts; .count 0: none was found */
	struct device_set *sets;   /* the newest of each device that was given */
	struct heartbeat_round heartbeats;
	struct heartbeat *before; /* what was read first */
	struct timer heartbeat_timer;
	bool force;
	uint32_t set_at;
	bool set_changed;           /* devices are missing that it has ONLINE */
	unsigned place;             /* of the twins: 0 head, 1 tail */
	uint64_t checkpoints[2][2]; /* of the present device, by place and slot; 0: not valid */
	bool (*device_slots)[2];    /* a valid superblock was found there, by device */
	bool slot_seen[2];          /* ... on some device that counts */
	bool label_damaged[POOL_DEVICES_MAX]; /* one of the two copies */
	struct block_writer writer;
	uint32_t page;
	struct packed_load packed;

	uint64_t catalog_index;
	struct catalog_read *reads;
	unsigned reads_in_flight;
	unsigned read_count;

	/* replay */
	struct slab *places[COPIES_MAX]; /* where the present segment lies */
	unsigned place_count;
	unsigned copy;       /* being read, or made like the others */
	unsigned unreadable; /* places */
	/* With copies: what was read of each place; `blocks` has the best of them. */
	uint8_t *copies[COPIES_MAX];
	struct device_io level_io;
	struct iovec level_iov;
	uint32_t level_slot; /* the batch at hand, */
	uint32_t level_blocks;
	uint64_t segment;
	uint32_t slot;      /* of the next header */
	uint32_t read_slot; /* where the blocks in memory begin */
	uint64_t sequence;  /* expected */
	uint32_t previous_crc;
	uint64_t durable_sequence;
	uint64_t next_segment;
	uint32_t next_device;
	uint32_t next_slab;
	struct slab_place next_copies[COPIES_MAX - 1];
	bool tried_next;
	bool read_twice; /* what begins at `slot` */
	uint64_t segment_max;
	uint64_t batches;
	unsigned loads; /* nodes of a batch that are on their way */
	struct replay_wait {
		struct waiter wait;
		struct import *import;
	} waits[64];
};

/* Fails the import; its step then ends it. */
#define IMPORT_FAIL(m, code, ...) \
	(error_set(&(m)->start->error, (code), __VA_ARGS__), (void)((m)->phase = IMPORT_DONE))

void import_step(struct import *m);
/* There is damage that recovery must not paper over: @what. */
void import_open_readonly(struct import *m, const char *what);

/* --- pool_replay.c --- */

/* The catalog is linked: where does the log begin?  To SEGMENT, or to BEGIN if there is nothing. */
void replay_begin(struct import *m);
/* SEGMENT: reads on in the segment; then BATCH. */
void replay_read_segment(struct import *m);
/* BATCH: takes the next batch; m->loads is not 0: nodes are on their way, and a step follows. */
void replay_take_batch(struct import *m);
/* LEVEL: the batch that was taken last is written where a copy of it is missing or bad; false: no
 * more is to be done, on with BATCH. */
bool replay_level(struct import *m);

#endif
