/* SPDX-License-Identifier: Apache-2.0 */
/* See quarry_offline.h. */
#include "tools/quarry_offline.h"

#include <stdio.h>

#include "backends/distinct.h"
#include "core/base/diag.h"
#include "core/pool_sync.h"

#define NODE_CACHE_BYTES (64 * MIB)

static bool
label_at(struct device *device, uint64_t offset_bytes, struct label *label)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	struct error error;

	return overlay_read(device, offset_bytes, block) == 0 &&
	       label_decode(label, block, device->size_bytes, &error) == 0;
}

bool
offline_find_label(struct device *device, struct label *label)
{
	return label_at(device, FORMAT_LABEL_BLOCK * (uint64_t)BLOCK_BYTES, label) ||
	       (device->size_bytes > FORMAT_TAIL_BYTES &&
		   label_at(device,
		       device->size_bytes - FORMAT_TAIL_BYTES +
			   FORMAT_TAIL_LABEL_BLOCK * (uint64_t)BLOCK_BYTES,
		       label));
}

int
offline_open(
    struct offline *offline, char *const *paths, size_t count, bool writable, struct error *error)
{
	int rc = devices_check_distinct(paths, count, error);

	CHECK(count <= POOL_DEVICES_MAX);
	memset(offline, 0, sizeof(*offline));
	if (rc)
		return rc;
	diag_set_level(DIAG_ERROR);
	reactor_init(&offline->reactor);
	reactor_set_current(&offline->reactor);
	for (; offline->count < count; offline->count++) {
		rc = overlay_open(paths[offline->count], writable, &offline->reactor,
		    &offline->devices[offline->count], error);

		if (rc) {
			offline_close(offline);
			return rc;
		}
	}
	return 0;
}

void
offline_close(struct offline *offline)
{
	while (offline->count > 0)
		device_close(offline->devices[--offline->count]);
	reactor_set_current(NULL);
	reactor_fini(&offline->reactor);
}

struct opening {
	struct pool_start start;
	void (*recovered)(void *context, struct pool *pool);
	void *context;
};

static void
recovered(struct pool_start *start, struct pool *pool)
{
	struct opening *opening = container_of(start, struct opening, start);

	opening->recovered(opening->context, pool);
}

void
offline_import(struct offline *offline, void (*on_recovered)(void *context, struct pool *pool),
    void *context, bool export)
{
	const struct pool_config config = {
		.reactor = &offline->reactor,
		.node_cache_bytes = NODE_CACHE_BYTES,
	};
	struct opening opening = {
		.start = { .recovered = recovered },
		.recovered = on_recovered,
		.context = context,
	};
	struct pool_stop stop = { .abandon = !export };
	struct pool *pool;

	pool = pool_sync_import(&config, offline->devices, offline->count, &opening.start);
	offline->count = 0; /* the pool closes them */
	offline->import_error = opening.start.error;
	if (!pool)
		return;
	if (pool->state != POOL_ONLINE)
		snprintf(offline->state, sizeof(offline->state), "%s", pool->state_reason);
	pool_sync_stop(&offline->reactor, pool, &stop);
	if (stop.error && export && !offline->state[0])
		snprintf(offline->state, sizeof(offline->state), "it could not be exported: %s",
		    strerror(-stop.error));
}
