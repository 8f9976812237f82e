/* SPDX-License-Identifier: Apache-2.0 */
/* quarry check, inside: see quarry_check.h. */
#ifndef QUARRY_TOOLS_QUARRY_CHECK_INTERNAL_H
#define QUARRY_TOOLS_QUARRY_CHECK_INTERNAL_H

#include <jansson.h>

#include "tools/quarry_check.h"
#include "tools/quarry_offline.h"

struct check {
	const struct check_options *options;
	struct pool *pool; /* while it is walked */
	uint64_t problem_count;
	json_t *problems; /* what is told now goes here */
	bool mend;        /* the present pass repairs */
	bool progress;
	bool incomplete; /* some map could not be walked: what it reaches is not known */
	bool unplaced;   /* some block lies on no slab: nothing may be written to a free one */
	uint64_t blocks; /* reached */
	uint16_t **tags[POOL_DEVICES_MAX]; /* by device and slab: see quarry_check_maps.c */
	struct table conflicts;            /* addresses that were claimed twice */
	bool naming;                       /* the walk that says who claims those */
	struct image *image;               /* the one at hand */
	uint64_t family;
	char image_name[NAME_TEXT_SIZE + 32];
};

/* Tells of a problem, or, in a pass that mends, of what was done. */
void check_tell(struct check *check, const char *format, ...) printf_like(2, 3);

/* quarry_check_heads.c: labels, superblocks, device sets. */
void check_heads(struct check *check, struct offline *offline, struct device *device);
/* Writes what is damaged again from its twin, or from other devices' if all have the same. */
void check_mend_heads(struct check *check, struct offline *offline);
/* Reads @block_number; 0, or -ENODATA, -EUCLEAN, -ENOTSUP of what was wanted there, or an I/O
 * error.
 */
int check_read_superblock(struct device *device, uint64_t block_number,
    struct superblock *superblock, struct error *error);
/* The first block of the tail, by the label's size if there is one: the device may have grown. */
uint64_t check_tail_block(struct device *device);

/* quarry_check_table.c: pages of the slab table that are lost, before an import would trip. */
void check_mend_table(struct check *check, struct offline *offline);

/* quarry_check_maps.c */
void check_maps(void *check, struct pool *pool);

#endif
