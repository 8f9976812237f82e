/* SPDX-License-Identifier: Apache-2.0 */
/* What map.c and map_walk.c share. */
#ifndef QUARRY_METADATA_MAP_INTERNAL_H
#define QUARRY_METADATA_MAP_INTERNAL_H

#include "metadata/map.h"

static inline unsigned
map_index(uint64_t lba, unsigned level)
{
	return (unsigned)(lba >> (MAP_FANOUT_BITS * level)) & (MAP_FANOUT - 1);
}

/* The last block under the node of @level that covers @lba. */
static inline uint64_t
map_last_lba(uint64_t lba, unsigned level)
{
	return lba | (map_capacity(level + 1) - 1);
}

/* The node behind @entry (addr not 0), or NULL and @fault is filled. */
struct node *map_child(
    struct nodes *nodes, struct map_entry *entry, uint8_t level, struct map_fault *fault);

/* The leaf that holds @lba, or NULL in *@leaf where there is none; @span: how many blocks from @lba
 * on the leaf (or the hole) covers. */
enum map_result map_leaf(struct nodes *nodes, struct map *map, uint64_t lba, struct node **leaf,
    uint64_t *span, struct map_fault *fault);

#endif
