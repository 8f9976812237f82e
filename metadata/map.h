/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The map of an image: a radix tree from block numbers (lba) to addresses.
 *
 * Nothing here waits.  A function that needs a node that is not in memory returns MAP_FAULT and
 * says which in struct map_fault; its caller loads it (node_insert) and asks again, as a page fault
 * does.
 *
 * Changes come in two steps: map_prepare_*() faults in whatever the change will walk, under a
 * node_pin; map_write()/map_zero() then cannot fail, however long it took in between.
 *
 * Overwrite rule: a replaced block is dead at once if its epoch is newer than
 * image_shared_epoch(); otherwise an older image owns it and nothing happens.
 */
#ifndef QUARRY_METADATA_MAP_H
#define QUARRY_METADATA_MAP_H

#include "metadata/catalog.h"
#include "metadata/node.h"
#include "metadata/space.h"

enum map_result {
	MAP_OK,
	MAP_FAULT
};

struct map_fault {
	struct map_entry entry; /* the node's address and CRC */
	uint8_t level;
};

/* The number of blocks that a tree of @levels can hold. */
static inline uint64_t
map_capacity(unsigned levels)
{
	return 1ull << (MAP_FANOUT_BITS * levels);
}

/* Longer ranges are cut off as subtrees and freed in the background. */
#define MAP_ZERO_INLINE_BLOCKS 1024u

/* Looks up @count blocks; holes have addr 0. */
enum map_result map_get(struct nodes *nodes, struct map *map, uint64_t lba, uint32_t count,
    struct map_entry *entries, struct map_fault *fault) must_check;

/* The length of the run of blocks from @lba on (at most @count) that are all holes (*@depth 0) or
 * all mapped (1; if @image, whose map it is, is given: its image_depth(), which is then the same
 * all along); looks at no more than @nodes_max leaves.  A whole missing subtree counts in one step.
 */
enum map_result map_run(struct nodes *nodes, struct map *map, const struct image *image,
    uint64_t lba, uint64_t count, unsigned nodes_max, uint32_t *depth, uint64_t *run,
    struct map_fault *fault) must_check;

enum map_result map_prepare_write(struct nodes *nodes, struct image *image, uint64_t lba,
    uint64_t count, struct map_fault *fault) must_check;
enum map_result map_prepare_zero(struct nodes *nodes, struct image *image, uint64_t lba,
    uint64_t count, struct map_fault *fault) must_check;

/* Blocks lba.. lie at @addr.. now. @crcs: of the blocks, mixed with their addresses.  What
 * it replaces is dead when the caller has called space_finish_dead(), before anything else. */
void map_write(struct catalog *catalog, struct image *image, uint64_t lba, uint32_t count,
    struct baddr addr, const uint8_t *crcs);
/* Blocks lba.. become holes. */
void map_zero(struct catalog *catalog, struct image *image, uint64_t lba, uint64_t count);

/* --- walks over two trees --- */

/*
 * From *@lba on, where @newer differs from @older: *@lba and *@count become the next such run of
 * blocks (within one leaf), or *@count 0 at @end.  Subtrees that are the same are passed over
 * whole.  At most @nodes_max nodes are looked at in a call: MAP_OK with *@count 0 and *@lba < @end
 * means: go on from there.
 */
enum map_result map_diff(struct nodes *nodes, struct map *older, struct map *newer, uint64_t *lba,
    uint64_t end, uint64_t *count, bool *hole, unsigned nodes_max,
    struct map_fault *fault) must_check;

/*
 * Frees what the deleted @image has and neither its effective parent nor its only child (in the
 * family tree) does; goes on from image->cursor for at most @nodes_max nodes.  *@finished: all is
 * done and catalog_forget() is due.
 */
enum map_result map_reap(struct catalog *catalog, struct image *image, unsigned nodes_max,
    bool *finished, struct map_fault *fault) must_check;

/*
 * Counts the blocks of @map that none of the @others other trees has, from where @count stands, and
 * looks at no more than *@leaves_max leaves (counted down).  MAP_OK with @count not done: go on
 * from there, if nothing of all that changed meanwhile.
 */
#define MAP_UNIQUE_OTHERS_MAX 5u
enum map_result map_count_unique(struct nodes *nodes, struct map *map, struct map *const *maps,
    unsigned others, unsigned *leaves_max, struct map_count *count,
    struct map_fault *fault) must_check;

/* Which deleted image to reap next; NULL: none can be. */
struct image *map_reap_next(const struct catalog *catalog);

#endif
