/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quarry check: looks at the devices of a pool that is not in service, and writes nothing.
 *
 *   - labels, superblocks and device sets, each with its twin;
 *   - the pool as an import would find it: it is imported by the engine itself, on devices whose
 *     writes stay in memory, so that the log is replayed by the one mechanism that there is;
 *   - then all maps, from the roots: places, checksums, epochs, and live bits against what is
 * reached.
 *
 * Memory: two bits for each block of the pool beside the engine's own one (32 MiB a TiB each), and
 * the blocks that the import writes.
 */
#ifndef QUARRY_TOOLS_QUARRY_CHECK_H
#define QUARRY_TOOLS_QUARRY_CHECK_H

#include "core/device.h"

struct check_options {
	bool data; /* verify the checksums of data blocks, too */
	bool json;
	int json_schema;
};

/* The exit status: 0 no problem was found, 1 some were, or the pool could not be checked. */
int check_run(char *const *paths, size_t count, const struct check_options *options);

/* Opens @path for reading, locked against daemons; writes stay in memory, and are read back. */
int overlay_open(
    const char *path, struct reactor *reactor, struct device **device, struct error *error);
/* Blocking.  0 or a negative errno value. */
int overlay_read(struct device *device, uint64_t offset_bytes, void *block);

#endif
