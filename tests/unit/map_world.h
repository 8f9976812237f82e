/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool without I/O for tests of maps: one device's slabs, a log of batches, a "disk" that keeps
 * what checkpoints encoded, and a model that is a plain array of addresses per image.
 *
 * Map faults are served from the disk.  What lay in a slab is gone when the slab is released, so a
 * node that was freed too early is missed.  A crash throws the memory away: tables and catalog are
 * decoded as of the last durable checkpoint and the log is replayed.
 *
 * Blocks are looked at in islands only; the model counts them by index, see world_lba().
 */
#ifndef QUARRY_TESTS_UNIT_MAP_WORLD_H
#define QUARRY_TESTS_UNIT_MAP_WORLD_H

#include "metadata/batch.h"
#include "metadata/catalog.h"
#include "metadata/map.h"

#define WORLD_ISLANDS 8u
#define WORLD_ISLAND_BLOCKS 768u
#define WORLD_BLOCKS (WORLD_ISLANDS * WORLD_ISLAND_BLOCKS)
#define WORLD_SLAB_BLOCKS 64u
#define WORLD_SLABS 6000u
#define WORLD_IMAGES_MAX 64u
#define WORLD_LBA_END (1ull << 26)

/* What an image must hold. */
struct model {
	uint64_t id; /* 0: unused */
	bool head;
	uint64_t volume;
	uint64_t addrs[WORLD_BLOCKS];
};

struct logged {
	struct batch_header header;
	struct catalog_op op;
	uint32_t slab;
};

struct world {
	struct uuid uuid;
	struct space space;
	struct nodes nodes;
	struct catalog catalog;
	uint64_t seed;
	uint64_t budget_bytes;
	bool may_disturb;  /* things happen between preparing and applying */
	struct table disk; /* address -> block */
	uint64_t segment_of[WORLD_SLABS];
	uint8_t (*pages)[2][FORMAT_BLOCK_BYTES];
	struct model models[WORLD_IMAGES_MAX];
	uint64_t faults;

	/* the log */
	struct slab *slab;
	uint64_t segment;
	uint64_t next_segment;
	uint32_t slot;
	struct logged **log;
	size_t log_count;
	size_t log_from; /* what is before is not needed any more */
	uint64_t names;

	/* the running checkpoint */
	bool cutting;
	struct superblock cut;
	size_t cut_log;
	struct catalog_record *cut_blocks; /* CATALOG_RECORDS_PER_BLOCK each */
	uint64_t *cut_index;
	unsigned *cut_records;
	size_t cut_count;

	struct superblock durable;
};

void world_init(struct world *w, uint64_t seed, uint64_t budget_bytes);
void world_fini(struct world *w);

uint64_t world_random(struct world *w, uint64_t below);
uint64_t world_lba(uint32_t index);

struct model *world_model(struct world *w, uint64_t id);
/* The @n-th of the images that are not deleted (heads only, if so); NULL: there are none. */
struct model *world_any(struct world *w, bool heads_only);
unsigned world_count(const struct world *w, bool heads_only);
struct map *world_map(struct world *w, const struct model *model);

/* Each is a batch in the log. */
uint64_t world_create_volume(struct world *w);
uint64_t world_snapshot(struct world *w, const struct model *head);
uint64_t world_clone(struct world *w, const struct model *snapshot);
uint64_t world_rollback(struct world *w, struct model *head, const struct model *snapshot);
void world_delete_snapshot(struct world *w, struct model *snapshot);
void world_delete_volume(struct world *w, struct model *head);
void world_write(struct world *w, struct model *head, uint32_t index, uint32_t count);
void world_zero(struct world *w, struct model *head, uint64_t lba, uint64_t count);

/* One operation by chance: whatever of the above. */
void world_operate(struct world *w);
/* Something that runs beside clients: a piece of a checkpoint, of reaping, or eviction. */
void world_background(struct world *w);

void world_checkpoint_cut(struct world *w);
/* Writes one frozen node; false: there is none. */
bool world_checkpoint_node(struct world *w);
/* The rest; not @durable: as if power was lost before the superblock. */
void world_checkpoint_end(struct world *w, bool durable);
void world_checkpoint(struct world *w);

/*
 * False: nothing is left to reap.  Not between the cut and the end of a checkpoint: the table would
 * show what the walk freed, the records a cursor before it, and recovery would give away nodes that
 * the walk needs when it is repeated.
 */
bool world_reap(struct world *w, unsigned nodes_max);

void world_crash(struct world *w);

/* Reads a node from the disk into memory; the test fails if it is not there. */
void world_load(struct world *w, const struct map_fault *fault);

/* Every image holds what the model says, and all of it is live. */
void world_compare(struct world *w);
/* With nothing deleted and all written: live bits == what can be reached. */
void world_check_live(struct world *w);

#endif
