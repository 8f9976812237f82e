/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool that is not in service, for the tools that look at it: its devices without a daemon, and
 * the pool as an import would find it.  It is imported by the engine itself, so that log and table
 * are read by the one mechanism that there is; read-only, what that writes stays in memory.
 */
#ifndef QUARRY_TOOLS_QUARRY_OFFLINE_H
#define QUARRY_TOOLS_QUARRY_OFFLINE_H

#include "core/device.h"
#include "core/pool_internal.h"

/* Opens @path, locked against daemons.  Not @writable: writes stay in memory, and are read back. */
int overlay_open(const char *path, bool writable, struct reactor *reactor, struct device **device,
    struct error *error) must_check;
/* One block, blocking.  0 or a negative errno value. */
int overlay_read(struct device *device, uint64_t offset_bytes, void *block) must_check;
int overlay_write(struct device *device, uint64_t offset_bytes, const void *block) must_check;
int overlay_flush(struct device *device) must_check;

/* The label of @device, of either place.  False: none. */
bool offline_find_label(struct device *device, struct label *label);

struct offline {
	struct reactor reactor; /* its clock stands still but for what is waited for */
	struct device *devices[POOL_DEVICES_MAX];
	uint32_t count;
	struct error import_error; /* of offline_import(), code 0: none */
	char state[200];           /* why the pool is not online; "" if it is */
};

/* All of @paths, or none and @error; offline_close() is due if it is 0. */
int offline_open(struct offline *offline, char *const *paths, size_t count, bool writable,
    struct error *error) must_check;
void offline_close(struct offline *offline);

/*
 * Imports the pool; @recovered sees it before the engine does anything else, if it gets that far:
 * devices and memory agree then.  @export: it is exported, as opposed to left alone.  The devices
 * are closed at the end.
 */
void offline_import(struct offline *offline, void (*recovered)(void *context, struct pool *pool),
    void *context, bool export);

#endif
