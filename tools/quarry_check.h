/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quarry check: looks at the devices of a pool that is not in service, and writes nothing.
 *
 *   - labels, superblocks and device sets, each with its twin (quarry_check_heads.c);
 *   - the pool as an import would find it (quarry_offline.h), after the log was replayed;
 *   - then all maps, from the roots: places, checksums, epochs, blocks that are claimed twice, and
 *     live bits against what is reached (quarry_check_maps.c).
 *
 * --repair then makes again what can be derived from the rest, and looks once more: twins from each
 * other, slab-table pages from the batch headers on the slabs (quarry_check_table.c), live bits
 * from the maps.  It writes no block of a volume or snapshot, and cuts no log off.  A crash in the
 * middle of it leaves what was damaged before damaged, no more.
 *
 * Memory: two bytes for each block of the slabs in use (512 MiB a TiB), beside the engine's own
 * bit.
 */
#ifndef QUARRY_TOOLS_QUARRY_CHECK_H
#define QUARRY_TOOLS_QUARRY_CHECK_H

#include "core/base/util.h"

struct check_options {
	bool data; /* verify the checksums of data blocks, too */
	bool repair;
	bool json;
	int json_schema;
};

/* The exit status: 0 all is well (by now); 1 it is not; 3 the devices cannot be looked at. */
enum {
	CHECK_EXIT_PROBLEMS = 1,
	CHECK_EXIT_NOT_CHECKED = 3,
};
int check_run(char *const *paths, size_t count, const struct check_options *options);

#endif
