/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Map nodes in memory.
 *
 * A node on disk has an address; one that was changed since has none until the next checkpoint
 * writes it, so the entry that points to it (in its parent, or the root of an image) holds its
 * index here instead: a *virtual* address (bit 63).  `refs` counts the entries that hold it, and
 * the node stays in memory as long as there are any.
 *
 *   DIRTY   changed since the last cut; changed in place
 *   FROZEN  part of the checkpoint that is being written; whoever changes it makes a copy
 *   CLEAN   as on disk; found by address; evicted when old and nobody holds it
 *   DEAD    was freed before it was ever written; goes with its last reference
 *
 *            load               change                cut               encode
 *   (disk) --------> CLEAN ----------------> DIRTY ----------> FROZEN ---------> CLEAN
 *
 * A node that takes the place of one that nobody else shares remembers it in `replaces`; that
 * address is dead as soon as the new node is written.  `condemned`: a FROZEN node that the present
 * state does not need any more; it is written (the checkpoint needs it) but never counted live.
 *
 * Pins: whoever looks up a path and will change it after having waited holds a pin; no node that
 * was touched, made or copied since is evicted, so the change finds all of its path in memory.
 */
#ifndef QUARRY_METADATA_NODE_H
#define QUARRY_METADATA_NODE_H

#include "core/base/error.h"
#include "core/base/list.h"
#include "metadata/format.h"
#include "metadata/space.h"

#define NODE_VIRTUAL (1ull << 63)

enum node_state {
	NODE_UNUSED,
	NODE_CLEAN,
	NODE_DIRTY,
	NODE_FROZEN,
	NODE_DEAD,
};

/* Whoever looks for a node misses a line of the processor's cache here: it is one. */
struct node {
	struct map_entry *entries; /* MAP_FANOUT of them */
	union {
		uint64_t addr;     /* CLEAN: on disk */
		uint64_t replaces; /* DIRTY, FROZEN: 0, or an address, perhaps virtual */
	};
	uint64_t last_used;
	struct list link; /* unused, clean, dirty[level], frozen[level] or none */
	uint32_t index;
	uint32_t hash_next; /* index + 1 */
	uint32_t epoch;
	uint32_t crc;
	uint32_t refs;
	uint8_t level; /* 0: a leaf, its entries point to data */
	uint8_t state;
	bool condemned : 1;
	bool writing : 1; /* CLEAN, but its write is in flight: not evicted */
	bool used : 1;    /* since it was put into its place in `clean` */
};
static_assert(sizeof(struct node) == 64, "a node is a line of the cache");

struct node_pin {
	struct list link;
	uint64_t stamp;
};

#define NODE_CHUNK_BYTES (2u << 20) /* of entries: a huge page */
struct node_chunk;

struct nodes {
	struct space *space;
	struct node_chunk **chunks;
	uint32_t chunk_count;
	uint32_t *buckets; /* hash of CLEAN nodes by address */
	uint32_t bucket_mask;
	struct list unused;
	/* CLEAN without references, to be evicted from the front; but whoever was used meanwhile
	 * goes to the back once more.  So a use moves nothing. */
	struct list clean;
	struct list dirty[MAP_LEVELS_MAX];
	struct list frozen[MAP_LEVELS_MAX];
	struct list pins; /* the oldest first */
	uint64_t clock;
	uint64_t budget; /* nodes; exceeded only by what is pinned, dirty or frozen */
	uint64_t in_use;
	uint64_t dirty_count;
	uint64_t frozen_count;
};

void nodes_init(struct nodes *nodes, struct space *space, uint64_t budget_bytes);
void nodes_fini(struct nodes *nodes);

void node_pin_begin(struct nodes *nodes, struct node_pin *pin);
void node_pin_end(struct nodes *nodes, struct node_pin *pin);

/* The node that @entry points to, if it is in memory; a virtual entry whose node has an address by
 * now gets it.  Counts as use. */
struct node *node_find(struct nodes *nodes, struct map_entry *entry);

/* Whether both entries point to the same node, whichever way they name it. */
bool node_same(struct nodes *nodes, struct map_entry *a, struct map_entry *b);

/* A virtual entry whose node has an address by now gets it; one whose node is DEAD becomes a hole.
 */
void node_settle(struct nodes *nodes, struct map_entry *entry);

/* Takes a block read from disk, whose CRC was checked, as the node of @entry (unless another load
 * brought it meanwhile). */
void node_insert(
    struct nodes *nodes, const struct map_entry *entry, uint8_t level, const void *block);

/* A new DIRTY node, all holes; @entry becomes the reference to it. */
struct node *node_create(
    struct nodes *nodes, struct map_entry *entry, uint8_t level, uint32_t epoch);

/*
 * Makes what @entry points to changeable and returns it: in place if it is DIRTY or CLEAN and
 * @exclusive, otherwise as a copy.  @exclusive: no other image shares it.  It must be in memory.
 */
struct node *node_make_dirty(
    struct nodes *nodes, struct map_entry *entry, bool exclusive, uint32_t epoch);

/* The present state does not need the node behind @entry any more; the reference stays. */
void node_condemn(struct nodes *nodes, struct map_entry *entry);
/* Drops the reference itself and clears @entry. */
void node_release(struct nodes *nodes, struct map_entry *entry);
/* One more holder of the same reference (a root that is shared). */
void node_share(struct nodes *nodes, const struct map_entry *entry);

/* The cut of a checkpoint: all that is DIRTY becomes FROZEN. */
void nodes_freeze(struct nodes *nodes);
/* The same for the DIRTY nodes of one tree only. */
void nodes_freeze_tree(struct nodes *nodes, const struct map_entry *root);
/* The next one to write, children before parents; NULL: none is left. */
struct node *nodes_next_frozen(struct nodes *nodes);
/* Writes @node as it goes to @addr into @block; it is CLEAN then, with `writing` set until the
 * caller clears it by node_written(). Returns the CRC (mixed with the address). */
uint32_t node_encode(struct nodes *nodes, struct node *node, struct baddr addr, void *block);
void node_written(struct nodes *nodes, struct node *node);

/* Lets go of old CLEAN nodes until the budget is kept, as far as pins allow. */
void nodes_evict(struct nodes *nodes);

#endif
