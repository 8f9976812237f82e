/* SPDX-License-Identifier: Apache-2.0 */
/* See target_world.h. */
#include "tests/unit/target_world.h"

#include <stdio.h>
#include <stdlib.h>

#include "backends/distinct.h"
#include "backends/memory.h"
#include "core/base/diag.h"

struct error world_error;

/* --- devices --- */

static unsigned
find_disk(const struct world *world, const char *path)
{
	unsigned i = 0;

	while (i < world->disk_count && strcmp(world->disks[i].path, path) != 0)
		i++;
	return i;
}

static int
backend_open(struct target_backend *backend, const char *path, uint64_t new_file_bytes,
    bool preallocate, struct reactor *reactor, struct device **device, struct error *error)
{
	struct world *world = container_of(backend, struct world, backend);
	struct memory_device_options options = { .prepare_space = preallocate };
	unsigned i = find_disk(world, path);
	struct fault_rule rule = { .effect = FAULT_FAIL, .error = -EIO };

	if (i == world->disk_count && new_file_bytes == 0)
		return -ENOENT; /* without a text */
	if (i == world->disk_count)
		i = world_disk(world, path, new_file_bytes);
	if (world->disks[i].busy)
		return error_set(error, -EBUSY, "%s is in use by somebody else", path);
	*device = fault_device_create(
	    memory_device_open(world->disks[i].disk, reactor, world->disks[i].path, &options));
	rule.op = DEVICE_WRITE;
	rule.first = (uint64_t)world->disks[i].fails_write;
	if (rule.first)
		fault_add(*device, &rule);
	rule.op = DEVICE_FLUSH;
	rule.first = (uint64_t)world->disks[i].fails_flush;
	if (rule.first)
		fault_add(*device, &rule);
	world->disks[i].device = *device;
	return 0;
}

static int
backend_probe(struct target_backend *backend, const char *path, char what[128])
{
	struct world *world = container_of(backend, struct world, backend);
	unsigned i = find_disk(world, path);

	if (i == world->disk_count || !world->disks[i].holds)
		return 0;
	snprintf(what, 128, "%s", world->disks[i].holds);
	return 1;
}

unsigned
world_disk(struct world *world, const char *path, uint64_t size_bytes)
{
	unsigned i = world->disk_count++;

	CHECK(i < WORLD_DISKS_MAX);
	snprintf(world->disks[i].path, sizeof(world->disks[i].path), "%s", path);
	world->disks[i].disk = memory_disk_create(size_bytes);
	return i;
}

/* --- the target --- */

struct world *
world_new(void)
{
	struct world *world = xcalloc(1, sizeof(*world));
	struct target_config config = {
		.node_cache_bytes = 1 * MIB,
		.backend = &world->backend,
		.reactors = world->reactors,
		.reactor_count = 1,
	};

	diag_set_level(0); /* much of what is asked for here goes wrong */
	world->reactors[0] = &world->reactor;
	reactor_init(&world->reactor);
	reactor_set_current(&world->reactor);
	world->backend.open = backend_open;
	world->backend.probe = backend_probe;
	world->backend.check_distinct = devices_check_distinct;
	world->target = target_create(&config);
	return world;
}

static bool shutdown_ended;

static void
shut_down(struct task *task)
{
	(void)task;
	shutdown_ended = true;
}

static bool
is_shut_down(const void *what)
{
	(void)what;
	return shutdown_ended;
}

void
world_free(struct world *world)
{
	struct task done;

	shutdown_ended = false;
	task_init(&done, shut_down);
	target_shutdown(world->target, &done);
	pool_sync_run(&world->reactor, is_shut_down, NULL);
	pool_sync_settle(&world->reactor);
	target_free(world->target);
	reactor_set_current(NULL);
	reactor_fini(&world->reactor);
	for (unsigned i = 0; i < world->disk_count; i++)
		memory_disk_put(world->disks[i].disk);
	free(world);
}

/* --- requests --- */

static void
set_name(struct name *name, const char *pool, const char *volume)
{
	const char *at = volume ? strchr(volume, '@') : NULL;

	memset(name, 0, sizeof(*name));
	snprintf(name->pool, NAME_SIZE, "%s", pool);
	if (at)
		snprintf(name->snapshot, NAME_SIZE, "%s", at + 1);
	if (volume)
		snprintf(name->volume, NAME_SIZE, "%.*s", at ? (int)(at - volume) : NAME_BYTES_MAX,
		    volume);
}

struct admin_request
world_request(enum admin_verb verb, const char *pool, const char *volume)
{
	struct admin_request request = { .verb = verb, .created_s = 1700000000 };

	set_name(&request.name, pool, volume);
	return request;
}

void
world_devices(struct admin_request *request, const char *paths)
{
	char *copy = xstrdup(paths), *rest = copy, *path;

	while ((path = strsep(&rest, " "))) {
		if (!path[0])
			continue;
		request->devices = xrealloc(
		    request->devices, (request->device_count + 1) * sizeof(*request->devices));
		request->devices[request->device_count++] = xstrdup(path);
	}
	free(copy);
}

void
world_names(struct admin_request *request, const char *names)
{
	char *copy = xstrdup(names), *rest = copy, *text;

	while ((text = strsep(&rest, " "))) {
		char *volume = strchr(text, '/');

		if (!text[0])
			continue;
		if (volume)
			*volume++ = 0;
		request->names =
		    xrealloc(request->names, (request->name_count + 1) * sizeof(struct name));
		set_name(&request->names[request->name_count++], text, volume);
	}
	free(copy);
}

int
world_admin(struct world *world, struct admin_request *request)
{
	int code = pool_sync_target(&world->reactor, world->target, request);

	world_error = request->error;
	admin_request_fini(request);
	pool_sync_settle(&world->reactor);
	return code;
}

int
world_create(struct world *world, const char *pool, const char *paths)
{
	struct admin_request request = world_request(ADMIN_POOL_CREATE, pool, NULL);

	world_devices(&request, paths);
	return world_admin(world, &request);
}

int
world_import(struct world *world, const char *paths)
{
	struct admin_request request = world_request(ADMIN_POOL_IMPORT, "", NULL);

	world_devices(&request, paths);
	return world_admin(world, &request);
}

int
world_do(struct world *world, enum admin_verb verb, bool force, const char *pool,
    const char *volume, const char *target)
{
	struct admin_request request = world_request(verb, pool, volume);

	request.force = force;
	request.size_bytes = 4 * MIB;
	set_name(&request.target, pool, target);
	return world_admin(world, &request);
}

/* --- clients --- */

static void
opened(struct target_open *op)
{
	op->done = NULL;
}

static bool
open_ended(const void *what)
{
	return !((const struct target_open *)what)->done;
}

struct volume *
client_open(struct world *world, const char *pool, const char *volume, bool readonly)
{
	struct target_open op = { .readonly = readonly, .client = "test", .done = opened };

	set_name(&op.name, pool, volume);
	target_open(world->target, &op);
	pool_sync_run(&world->reactor, open_ended, &op);
	memset(&world_error, 0, sizeof(world_error));
	world_error.code = op.error;
	return op.volume;
}

void
client_close(struct world *world, struct volume *volume)
{
	volume_close(volume);
	pool_sync_settle(&world->reactor);
}

int
client_write(struct world *world, struct volume *volume, uint64_t offset_bytes, uint64_t len_bytes,
    uint8_t fill)
{
	uint8_t *buffer = xalloc_pages(len_bytes);
	struct volume_io io = { .op = VOLUME_WRITE,
		.offset_bytes = offset_bytes,
		.len_bytes = len_bytes,
		.buffer = buffer };
	int error;

	memset(buffer, fill, len_bytes);
	error = pool_sync_io(&world->reactor, volume, &io);
	free(buffer);
	return error;
}

int
client_read(struct world *world, struct volume *volume, uint64_t offset_bytes, uint64_t len_bytes)
{
	uint8_t *buffer = xalloc_pages(len_bytes);
	struct volume_io io = { .op = VOLUME_READ,
		.offset_bytes = offset_bytes,
		.len_bytes = len_bytes,
		.buffer = buffer };
	int value = -1;

	if (pool_sync_io(&world->reactor, volume, &io) == 0 &&
	    memcmp(buffer, buffer + 1, len_bytes - 1) == 0)
		value = buffer[0];
	free(buffer);
	return value;
}
