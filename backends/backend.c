/* SPDX-License-Identifier: Apache-2.0 */
/* The target's way to local disks and files, and to NBD exports.  Stateless: any number of threads
 * may call it. */
#include "backends/backend.h"

#include <stdlib.h>

#include "backends/distinct.h"
#include "backends/file.h"
#include "backends/nbd_device.h"
#include "backends/probe.h"

struct local_backend {
	struct target_backend backend;
	enum file_cache cache;
	struct nbd_device_options remote;
};

static int
local_open(struct target_backend *backend, const char *path, uint64_t new_file_bytes,
    bool preallocate, struct reactor *reactor, struct device **device, struct error *error)
{
	struct local_backend *local = container_of(backend, struct local_backend, backend);
	const struct file_device_options options = {
		.new_file_bytes = new_file_bytes,
		.cache = local->cache,
		.preallocate = preallocate,
		.discard = true,
	};

	if (nbd_device_is_uri(path))
		return nbd_device_open(path, &local->remote, reactor, device, error);
	return file_device_open(path, &options, reactor, device, error);
}

/* What cannot be read may well hold something. */
static int
local_probe(struct target_backend *backend, const char *path, char what[128])
{
	static_assert(PROBE_TEXT_BYTES == 128, "the text fits what the target brings");

	return (nbd_device_is_uri(path) ? nbd_device_probe(path, what)
					: device_probe(path, what)) != 0;
}

struct target_backend *
local_backend_create(bool cache_kernel, uint32_t remote_timeout_s)
{
	struct local_backend *local = xcalloc(1, sizeof(*local));

	local->backend.open = local_open;
	local->backend.probe = local_probe;
	local->backend.check_distinct = devices_check_distinct;
	local->cache = cache_kernel ? FILE_CACHE_KERNEL : FILE_CACHE_DIRECT;
	local->remote.limit_ms = remote_timeout_s ? remote_timeout_s * 1000 : NBD_DEVICE_LIMIT_MS;
	local->remote.keep_bytes = NBD_DEVICE_KEEP_BYTES;
	return &local->backend;
}

void
local_backend_free(struct target_backend *backend)
{
	if (backend)
		free(container_of(backend, struct local_backend, backend));
}
