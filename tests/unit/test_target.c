/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target and the administration of its pools, on memory disks: every command with good input
 * and with bad, and what the reports say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "backends/memory.h"
#include "core/pool_internal.h"
#include "tests/unit/target_world.h"

#define DISK_BYTES (24 * MIB)

static_assert(POOL_DEVICES_MAX == 120, "the tests below say so");

static int
setup(void **state)
{
	struct world *world = world_new();

	world_disk(world, "disk0", DISK_BYTES);
	world_disk(world, "disk1", DISK_BYTES);
	world_disk(world, "disk2", DISK_BYTES);
	*state = world;
	return 0;
}

static int
teardown(void **state)
{
	world_free(*state);
	return 0;
}

static void
expect_error(int code, const char *text)
{
	if (world_error.code != code || !strstr(world_error.text, text))
		fail_msg("error %d \"%s\", not %d \"%s\"", world_error.code, world_error.text, code,
		    text);
}

#define refused(code, text, call)              \
	do {                                   \
		assert_int_not_equal(call, 0); \
		expect_error(code, text);      \
	} while (0)

#define worked(call)                                                                      \
	do {                                                                              \
		if (call)                                                                 \
			fail_msg("%s: %d %s", #call, world_error.code, world_error.text); \
	} while (0)

/* The report of @pool; the caller has to admin_request_fini() it. */
static const struct admin_pool_report *
report(struct world *world, const char *pool, struct admin_request *request)
{
	*request = world_request(ADMIN_LIST, pool, NULL);
	assert_int_equal(pool_sync_target(&world->reactor, world->target, request), 0);
	assert_true(request->pool_count > 0);
	return &request->pools[0];
}

/* A pool with volume v, of which something is written. */
static void
make_pool(struct world *world)
{
	struct volume *volume;

	worked(world_create(world, "p", "disk0 disk1"));
	worked(world_do(world, ADMIN_VOLUME_CREATE, false, "p", "v", NULL));
	volume = client_open(world, "p", "v", false);
	assert_non_null(volume);
	assert_int_equal(client_write(world, volume, 0, 64 * KIB, 1), 0);
	client_close(world, volume);
}

/* --- pools --- */

static void
test_a_pool_is_made_exported_imported_and_destroyed(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	const struct admin_pool_report *pool;
	struct volume *volume;

	make_pool(world);
	pool = report(world, "p", &request);
	assert_int_equal(request.pool_count, 1);
	assert_string_equal(pool->name, "p");
	assert_string_equal(pool->state, "online");
	assert_int_equal(pool->device_count, 2);
	assert_string_equal(pool->devices[0].path, "disk0");
	assert_int_equal(pool->devices[1].size_bytes, DISK_BYTES);
	assert_int_equal(pool->image_count, 1);
	assert_int_equal(pool->images[0].used_bytes, 64 * KIB);
	assert_true(pool->images[0].unique_known);
	assert_int_equal(pool->images[0].unique_bytes, 64 * KIB);
	assert_true(pool->live_bytes >= 64 * KIB && pool->available_bytes > 16 * MIB);
	admin_request_fini(&request);

	worked(world_do(world, ADMIN_POOL_EXPORT, false, "p", NULL, NULL));
	refused(-ENOENT, "there is no pool p here",
	    world_do(world, ADMIN_LIST, false, "p", NULL, NULL));
	worked(world_import(world, "disk1 disk0"));
	volume = client_open(world, "p", "v", false);
	assert_int_equal(client_read(world, volume, 0, 64 * KIB), 1);
	client_close(world, volume);

	worked(world_do(world, ADMIN_VOLUME_DELETE, false, "p", "v", NULL));
	worked(world_do(world, ADMIN_POOL_DESTROY, false, "p", NULL, NULL));
	refused(-ENODATA, "disk0: is no device of a Quarry pool", world_import(world, "disk0"));
}

static void
test_create_refuses(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	char paths[121 * 8] = "";

	refused(-EINVAL, "between 1 and 120 devices, not 0", world_create(world, "p", ""));
	for (unsigned i = 0; i < 121; i++) {
		char path[8];

		snprintf(path, sizeof(path), "d%03u ", i);
		strcat(paths, path);
	}
	refused(-EINVAL, "between 1 and 120 devices, not 121", world_create(world, "p", paths));
	refused(
	    -ENOENT, "disk9: No such file or directory", world_create(world, "p", "disk0 disk9"));
	world->disks[1].busy = true;
	refused(-EBUSY, "disk1 is in use", world_create(world, "p", "disk0 disk1"));
	world->disks[1].busy = false;
	world_disk(world, "tiny", 4 * MIB);
	refused(-EINVAL, "too small", world_create(world, "p", "tiny"));
	world_disk(world, "small", 8 * KIB);
	refused(-EINVAL, "small", world_create(world, "p", "disk0 small"));

	world->disks[2].holds = "an ext4 filesystem";
	refused(-EEXIST, "disk2 is not empty (an ext4 filesystem): use --force",
	    world_create(world, "p", "disk2"));
	request = world_request(ADMIN_POOL_CREATE, "p", NULL);
	world_devices(&request, "disk2");
	request.force = true;
	worked(world_admin(world, &request));
	refused(-EEXIST, "a pool named p is here already", world_create(world, "p", "disk0"));
	refused(-EINVAL, "disk0 is named twice", world_create(world, "q", "disk0 disk1 disk0"));
	world->disks[2].busy = true; /* --force would not help */
	refused(-EBUSY, "disk2 is in use", world_create(world, "q", "disk2"));
	world->disks[2].busy = false;

	/* A file is made if a size is said. */
	request = world_request(ADMIN_POOL_CREATE, "q", NULL);
	world_devices(&request, "new");
	request.new_file_bytes = DISK_BYTES;
	request.preallocate = true;
	worked(world_admin(world, &request));
	const struct admin_pool_report *pool = report(world, "q", &request);

	assert_string_equal(pool->devices[0].path, "new");
	admin_request_fini(&request);
}

static void
test_create_fails_with_its_devices(void **state)
{
	struct world *world = *state;

	/* Each write in turn, until all of them are good. */
	for (int n = 1; n < 200; n++) {
		world->disks[1].fails_write = n;
		if (world_create(world, "p", "disk0 disk1") == 0) {
			assert_true(n > 5);
			break;
		}
		assert_int_equal(world_error.code, -EIO);
		refused(-ENOENT, "no pool p", world_do(world, ADMIN_LIST, false, "p", NULL, NULL));
	}
	world->disks[1].fails_write = 0;
	worked(world_do(world, ADMIN_LIST, false, "p", NULL, NULL));
	world->disks[2].fails_flush = 1;
	refused(-EIO, "", world_create(world, "q", "disk2"));
}

static void
test_import_refuses(void **state)
{
	struct world *world = *state;

	make_pool(world);
	worked(world_do(world, ADMIN_POOL_EXPORT, false, "p", NULL, NULL));
	refused(-EINVAL, "between 1 and", world_import(world, ""));
	refused(-ENOENT, "disk9", world_import(world, "disk0 disk9"));
	refused(-ENODATA,
	    "disk2: is no device of a Quarry pool (quarry pool create makes one); and pool p "
	    "has 2 devices, and device 1 is missing",
	    world_import(world, "disk0 disk2"));
	assert_int_not_equal(world_import(world, "disk0"), 0); /* half of it */
	assert_non_null(strstr(world_error.text, "device"));
	worked(world_create(world, "p", "disk2"));
	refused(-EEXIST, "a pool named p is here already: export that one first",
	    world_import(world, "disk0 disk1"));
	worked(world_do(world, ADMIN_POOL_DESTROY, false, "p", NULL, NULL));
	worked(world_import(world, "disk0 disk1"));
}

static void
test_import_takes_several_pools(void **state)
{
	struct world *world = *state;
	struct admin_request request;

	worked(world_create(world, "a", "disk0"));
	worked(world_create(world, "b", "disk1"));
	worked(world_do(world, ADMIN_POOL_EXPORT, false, "a", NULL, NULL));
	worked(world_do(world, ADMIN_POOL_EXPORT, false, "b", NULL, NULL));
	worked(world_import(world, "disk1 disk0"));
	(void)report(world, "", &request);
	assert_int_equal(request.pool_count, 2);
	admin_request_fini(&request);
}

static void
test_export_and_destroy_refuse_what_is_in_use(void **state)
{
	struct world *world = *state;
	struct volume *volume;

	make_pool(world);
	volume = client_open(world, "p", "v", false);
	refused(-EBUSY, "pool p is in use by 1 client connection: disconnect them, or use --force",
	    world_do(world, ADMIN_POOL_EXPORT, false, "p", NULL, NULL));
	refused(-EBUSY, "pool p is in use by 1 client",
	    world_do(world, ADMIN_POOL_DESTROY, false, "p", NULL, NULL));
	assert_int_equal(client_read(world, volume, 0, 4096), 1); /* it is still there */
	worked(world_do(world, ADMIN_POOL_EXPORT, true, "p", NULL, NULL));
	assert_int_equal(client_read(world, volume, 0, 4096), -1); /* ESHUTDOWN */
	client_close(world, volume);
	worked(world_import(world, "disk0 disk1"));
	refused(-EBUSY, "pool p has 1 volume: delete them first, or use --force",
	    world_do(world, ADMIN_POOL_DESTROY, false, "p", NULL, NULL));
	worked(world_do(world, ADMIN_POOL_DESTROY, true, "p", NULL, NULL));
	refused(-ENOENT, "there is no pool p here",
	    world_do(world, ADMIN_POOL_EXPORT, false, "p", NULL, NULL));
}

static void
test_export_tells_that_the_last_state_is_not_written(void **state)
{
	struct world *world = *state;
	struct volume *volume;
	struct fault_rule rule = {
		.op = DEVICE_FLUSH, .effect = FAULT_FAIL, .error = -EIO, .first = 1
	};

	make_pool(world);
	volume = client_open(world, "p", "v", false);
	assert_int_equal(client_write(world, volume, 0, 4096, 7), 0);
	client_close(world, volume);
	fault_add(world->disks[0].device, &rule);
	refused(-EIO, "the pool was closed, but its last state could not be written",
	    world_do(world, ADMIN_POOL_EXPORT, false, "p", NULL, NULL));
	worked(world_import(world, "disk0 disk1"));
}

/* --- devices --- */

static int
add_devices(struct world *world, const char *pool, const char *paths, bool force)
{
	struct admin_request request = world_request(ADMIN_DEVICE_ADD, pool, NULL);

	world_devices(&request, paths);
	request.force = force;
	return world_admin(world, &request);
}

static void
test_devices_are_added(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	const struct admin_pool_report *pool;
	char paths[120 * 8] = "";
	uint64_t bytes_before;

	make_pool(world);
	pool = report(world, "p", &request);
	bytes_before = pool->size_bytes;
	admin_request_fini(&request);
	refused(-ENOENT, "there is no pool q here", add_devices(world, "q", "disk2", false));
	refused(-EINVAL, "between 1 and 120 devices, not 0", add_devices(world, "p", "", false));
	refused(-ENOENT, "disk9", add_devices(world, "p", "disk9", false));
	world->disks[2].holds = "a partition table";
	refused(-EEXIST, "disk2 is not empty", add_devices(world, "p", "disk2", false));
	worked(add_devices(world, "p", "disk2", true));
	for (unsigned i = 0; i < 118; i++) {
		char path[8];

		snprintf(path, sizeof(path), "n%03u", i);
		world_disk(world, path, 8 * MIB);
		strcat(strcat(paths, path), " ");
	}
	refused(-EINVAL, "pool p has 3 devices: at most 120 are possible",
	    add_devices(world, "p", paths, false));
	world_disk(world, "nothing", 64 * KIB);
	assert_int_not_equal(add_devices(world, "p", "nothing", false), 0);

	pool = report(world, "p", &request);
	assert_int_equal(pool->device_count, 3);
	assert_true(pool->size_bytes > bytes_before + DISK_BYTES / 2);
	assert_string_equal(pool->state, "online");
	admin_request_fini(&request);
	worked(world_do(world, ADMIN_POOL_EXPORT, false, "p", NULL, NULL));
	worked(world_import(world, "disk0 disk1 disk2"));
}

static void
test_a_device_that_fails_is_not_added(void **state)
{
	struct world *world = *state;
	struct volume *volume;
	struct admin_request request;

	make_pool(world);
	/* Up to its label nobody needs it. */
	for (int n = 1; n <= 3; n++) {
		world->disks[2].fails_write = n;
		refused(-EIO, "writing to disk2 failed", add_devices(world, "p", "disk2", true));
		assert_string_equal(report(world, "p", &request)->state, "online");
		assert_int_equal(request.pools[0].device_count, 2);
		admin_request_fini(&request);
	}
	world->disks[2].fails_write = 0;
	volume = client_open(world, "p", "v", false);
	assert_int_equal(client_write(world, volume, 0, 4096, 9), 0);
	client_close(world, volume);
	worked(world_do(world, ADMIN_POOL_EXPORT, false, "p", NULL, NULL));
	worked(world_import(world, "disk0 disk1"));
}

/* --- volumes --- */

struct step {
	enum admin_verb verb;
	bool force;
	const char *volume;
	const char *target;
	int code;
	const char *text;
};

static void
run_steps(struct world *world, const struct step *steps, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct step *s = &steps[i];
		int code = world_do(world, s->verb, s->force, "p", s->volume, s->target);

		if (code != s->code || (code && !strstr(world_error.text, s->text)))
			fail_msg("step %zu: %d \"%s\", not %d \"%s\"", i, code, world_error.text,
			    s->code, s->text);
	}
}

static int
remove_device(struct world *world, const char *path)
{
	struct admin_request request = world_request(ADMIN_DEVICE_REMOVE, "p", NULL);

	request.device = xstrdup(path);
	return world_admin(world, &request);
}

/*
 * Whichever write to the other device fails, and whether the removal is answered well or not, what
 * is left is a pool: with the device, or without it.
 */
static void
test_a_removal_loses_nothing_when_a_write_fails(void **state)
{
	struct world *world = *state;
	unsigned without = 0, with = 0;

	for (unsigned n = 1; n <= 60; n++) {
		struct fault_rule rule = {
			.op = DEVICE_WRITE,
			.effect = FAULT_FAIL,
			.error = -EIO,
			.first = n,
			.count = 1,
		};
		struct volume *volume;

		make_pool(world);
		volume = client_open(world, "p", "v", false);
		assert_int_equal(client_write(world, volume, 0, MIB, 7), 0);
		client_close(world, volume);
		fault_add(world->disks[1].device, &rule);
		(void)remove_device(world, "disk0");
		fault_clear(world->disks[1].device);
		(void)world_do(world, ADMIN_POOL_EXPORT, true, "p", NULL, NULL);
		if (world_import(world, "disk1") == 0)
			without++;
		else
			with += world_import(world, "disk0 disk1") == 0;
		assert_int_equal(with + without, n);
		volume = client_open(world, "p", "v", true);
		assert_int_equal(client_read(world, volume, 0, MIB), 7);
		client_close(world, volume);
		worked(world_do(world, ADMIN_POOL_DESTROY, true, "p", NULL, NULL));
	}
	assert_true(with > 0 && without > 0);
}

static void
test_volumes(void **state)
{
	static const struct step steps[] = {
		{ ADMIN_VOLUME_CREATE, false, "v", NULL, -EEXIST, "v" },
		{ ADMIN_VOLUME_CREATE, false, "", NULL, -EINVAL, "" },
		{ ADMIN_VOLUME_RESIZE, false, "w", NULL, -ENOENT, "pool p has no volume w" },
		{ ADMIN_VOLUME_RESIZE, false, "", NULL, -ENOENT, "no volume without a name" },
		{ ADMIN_VOLUME_RENAME, false, "w", "x", -ENOENT, "pool p has no volume w" },
		{ ADMIN_VOLUME_RENAME, false, "v", "u", 0, "" },
		{ ADMIN_VOLUME_CREATE, false, "v", NULL, 0, "" },
		{ ADMIN_VOLUME_RENAME, false, "v", "u", -EEXIST, "u" },
		{ ADMIN_VOLUME_DELETE, false, "w", NULL, -ENOENT, "pool p has no volume w" },
		{ ADMIN_VOLUME_DELETE, false, "v", NULL, 0, "" },
		{ ADMIN_VOLUME_SET, false, "v", NULL, -ENOENT, "pool p has no volume v" },
		{ ADMIN_CLONE, false, "u@s", "c", -ENOENT, "volume p/u has no snapshot s" },
		{ ADMIN_CLONE, false, "v@s", "c", -ENOENT, "pool p has no volume v" },
		{ ADMIN_CLONE, false, "u", "c", -ENOENT, "no snapshot without a name" },
		{ ADMIN_ROLLBACK, false, "u@s", NULL, -ENOENT, "volume p/u has no snapshot s" },
		{ ADMIN_DIFF, false, "u@s", "u", -ENOENT, "volume p/u has no snapshot s" },
		{ ADMIN_DIFF, false, "u", "w", -ENOENT, "pool p has no volume w" },
		{ ADMIN_DIFF, false, "u", "u", 0, "" },
	};
	struct world *world = *state;

	make_pool(world);
	run_steps(world, steps, ARRAY_SIZE(steps));
	refused(-ENOENT, "there is no pool q here",
	    world_do(world, ADMIN_VOLUME_CREATE, false, "q", "v", NULL));
}

static void
test_resize(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	struct volume *volume;

	make_pool(world);
	volume = client_open(world, "p", "v", false);
	request = world_request(ADMIN_VOLUME_RESIZE, "p", "v");
	request.size_bytes = 8 * MIB;
	worked(world_admin(world, &request));
	assert_int_equal(volume_info(volume)->size_bytes, 8 * MIB);
	request = world_request(ADMIN_VOLUME_RESIZE, "p", "v");
	request.size_bytes = 8 * KIB;
	refused(-EINVAL, "p/v has 8388608 bytes: shrinking it to 8192 loses what lies behind",
	    world_admin(world, &request));
	request = world_request(ADMIN_VOLUME_RESIZE, "p", "v");
	request.size_bytes = 8 * KIB;
	request.force = true;
	worked(world_admin(world, &request));
	assert_int_equal(volume_info(volume)->size_bytes, 8 * KIB);
	assert_int_equal(client_write(world, volume, 8 * KIB, 4096, 1), -EINVAL);
	request = world_request(ADMIN_VOLUME_RESIZE, "p", "v");
	request.size_bytes = 64 * KIB;
	worked(world_admin(world, &request));
	assert_int_equal(client_read(world, volume, 0, 8 * KIB), 1);
	assert_int_equal(client_read(world, volume, 8 * KIB, 56 * KIB), 0);
	request = world_request(ADMIN_VOLUME_RESIZE, "p", "v");
	refused(-EINVAL, "", world_admin(world, &request)); /* to nothing */
	client_close(world, volume);
}

static void
test_readonly(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	struct volume *volume;

	make_pool(world);
	volume = client_open(world, "p", "v", false);
	request = world_request(ADMIN_VOLUME_SET, "p", "v");
	request.set = ADMIN_SET_READONLY;
	request.readonly = true;
	worked(world_admin(world, &request));
	assert_int_equal(client_write(world, volume, 0, 4096, 1), -EROFS);
	assert_true(report(world, "p", &request)->images[0].readonly);
	assert_int_equal(request.pools[0].images[0].clients, 1);
	admin_request_fini(&request);
	request = world_request(ADMIN_VOLUME_SET, "p", "v");
	request.set = ADMIN_SET_READONLY;
	worked(world_admin(world, &request));
	assert_int_equal(client_write(world, volume, 0, 4096, 1), 0);
	client_close(world, volume);
	volume = client_open(world, "p", "v", true); /* its own wish */
	assert_int_equal(client_write(world, volume, 0, 4096, 1), -EROFS);
	client_close(world, volume);
}

static int
set_block_size(struct world *world, uint32_t block_bytes)
{
	struct admin_request request = world_request(ADMIN_VOLUME_SET, "p", "v");

	request.set = ADMIN_SET_BLOCK_SIZE;
	request.block_bytes = block_bytes;
	return world_admin(world, &request);
}

static int snapshots(struct world *world, enum admin_verb verb, const char *names);

static uint32_t
block_bytes_of(struct world *world, const char *volume)
{
	struct volume *handle = client_open(world, "p", volume, false);
	uint32_t block_bytes = volume_info(handle)->block_bytes;

	client_close(world, handle);
	return block_bytes;
}

/* It goes with the volume: to its snapshots and clones, and over export and import. */
static void
test_block_size(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	struct volume *volume;

	make_pool(world);
	assert_int_equal(block_bytes_of(world, "v"), 512);
	worked(set_block_size(world, 4096));
	assert_int_equal(block_bytes_of(world, "v"), 4096);
	worked(snapshots(world, ADMIN_SNAPSHOT_CREATE, "p/v@s"));
	worked(world_do(world, ADMIN_CLONE, false, "p", "v@s", "c"));
	request = world_request(ADMIN_VOLUME_CREATE, "p", "n");
	request.size_bytes = MIB;
	request.block_bytes = 4096;
	worked(world_admin(world, &request));

	/* Not while a client has it open, or a snapshot of it; to what it is it may be set. */
	volume = client_open(world, "p", "v", false);
	refused(-EBUSY, "p/v is in use", set_block_size(world, 512));
	worked(set_block_size(world, 4096));
	client_close(world, volume);
	volume = client_open(world, "p", "v@s", false);
	refused(-EBUSY, "p/v@s is in use", set_block_size(world, 512));
	client_close(world, volume);

	worked(world_do(world, ADMIN_POOL_EXPORT, false, "p", NULL, NULL));
	worked(world_import(world, "disk0 disk1"));
	assert_int_equal(block_bytes_of(world, "v"), 4096);
	assert_int_equal(block_bytes_of(world, "v@s"), 4096);
	assert_int_equal(block_bytes_of(world, "c"), 4096);
	assert_int_equal(block_bytes_of(world, "n"), 4096);
	assert_int_equal(report(world, "p", &request)->images[0].block_bytes, 4096);
	admin_request_fini(&request);
	worked(set_block_size(world, 512));
	assert_int_equal(block_bytes_of(world, "v"), 512);
	assert_int_equal(block_bytes_of(world, "c"), 4096);
}

/* What a handle tells of the pool's room, though the pool is gone. */
static void
test_space(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	struct volume_space space;
	struct volume *volume;
	uint64_t usable_bytes, step_bytes, at;

	make_pool(world);
	request = world_request(ADMIN_VOLUME_CREATE, "p", "large");
	request.size_bytes = GIB;
	worked(world_admin(world, &request));
	volume = client_open(world, "p", "large", false);
	volume_space(volume, &space);
	usable_bytes = space.usable_bytes;
	assert_int_equal(report(world, "p", &request)->usable_bytes, usable_bytes);
	admin_request_fini(&request);
	assert_int_equal(space.warn_percent[0], 80);
	assert_int_equal(space.warn_percent[1], 90);
	assert_int_equal(space.warned_percent, 0);
	assert_true(space.available_bytes > usable_bytes / 2);
	request = world_request(ADMIN_POOL_SET, "p", NULL);
	request.warn_percent[0] = 5;
	request.warn_percent[1] = 10;
	worked(world_admin(world, &request));
	step_bytes = round_down(usable_bytes / 100, 4096);
	for (at = 0; at < 7 * step_bytes; at += step_bytes)
		assert_int_equal(client_write(world, volume, at, step_bytes, 1), 0);
	volume_space(volume, &space);
	assert_true(space.available_bytes <= usable_bytes - 7 * step_bytes);
	assert_int_equal(space.warned_percent, 5);
	assert_int_equal(volume_warned_percent(volume), 5);
	for (; at < 11 * step_bytes; at += step_bytes)
		assert_int_equal(client_write(world, volume, at, step_bytes, 1), 0);
	assert_int_equal(volume_warned_percent(volume), 10);
	worked(world_do(world, ADMIN_POOL_EXPORT, true, "p", NULL, NULL));
	assert_int_equal(volume_warned_percent(volume), 10);
	client_close(world, volume);
}

static int
snapshots(struct world *world, enum admin_verb verb, const char *names)
{
	struct admin_request request = world_request(verb, "", NULL);

	world_names(&request, names);
	return world_admin(world, &request);
}

/* The request, as a dry run, and what it says. */
static void
would(struct world *world, struct admin_request request, const char *expected)
{
	request.dry_run = true;
	if (pool_sync_target(&world->reactor, world->target, &request))
		fail_msg("%s: %s", expected, request.error.text);
	assert_string_equal(request.would, expected);
	admin_request_fini(&request);
}

static void
test_dry_runs_check_all_and_do_nothing(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	struct volume *volume;

	make_pool(world);
	worked(snapshots(world, ADMIN_SNAPSHOT_CREATE, "p/v@s p/v@t"));
	volume = client_open(world, "p", "v", false);

	/* What would be refused is. */
	request = world_request(ADMIN_VOLUME_DELETE, "p", "v");
	request.dry_run = true;
	refused(-EBUSY, "volume p/v has 2 snapshots", world_admin(world, &request));
	request = world_request(ADMIN_POOL_DESTROY, "p", NULL);
	request.dry_run = true;
	refused(-EBUSY, "pool p is in use by 1 client", world_admin(world, &request));
	request = world_request(ADMIN_VOLUME_RESIZE, "p", "v");
	request.dry_run = true;
	request.size_bytes = 4 * KIB;
	refused(-EINVAL, "use --force", world_admin(world, &request));
	request = world_request(ADMIN_ROLLBACK, "p", "v@s");
	request.dry_run = true;
	refused(-EBUSY, "p/v is in use", world_admin(world, &request));
	request = world_request(ADMIN_SNAPSHOT_DELETE, "", NULL);
	request.dry_run = true;
	world_names(&request, "p/v@s p/v@u");
	refused(-ENOENT, "has no snapshot u", world_admin(world, &request));
	request = world_request(ADMIN_EXPORT_REMOVE, "p", "v");
	request.dry_run = true;
	refused(-ENOENT, "no such export", world_admin(world, &request));
	request = world_request(ADMIN_POOL_DESTROY, "q", NULL);
	request.dry_run = true;
	refused(-ENOENT, "there is no pool q", world_admin(world, &request));

	/* What would be done is told, and not done. */
	request = world_request(ADMIN_VOLUME_DELETE, "p", "v");
	request.force = true;
	would(world, request, "delete volume p/v with its 2 snapshots, disconnecting 1 client");
	request = world_request(ADMIN_POOL_DESTROY, "p", NULL);
	request.force = true;
	would(world, request, "destroy pool p with its 1 volume, disconnecting 1 client");
	request = world_request(ADMIN_ROLLBACK, "p", "v@s");
	request.force = true;
	would(world, request,
	    "roll volume p/v back to p/v@s, losing what was written since, while it has 1 client");
	request = world_request(ADMIN_SNAPSHOT_DELETE, "", NULL);
	world_names(&request, "p/v@s p/v@t");
	would(world, request, "delete 2 snapshots");
	request = world_request(ADMIN_SNAPSHOT_DELETE, "", NULL);
	world_names(&request, "p/v@s");
	would(world, request, "delete snapshot p/v@s");
	assert_int_equal(client_write(world, volume, 0, 4096, 1), 0);
	client_close(world, volume);
	request = world_request(ADMIN_VOLUME_RESIZE, "p", "v");
	request.size_bytes = 4097;
	request.force = true;
	would(world, request, "resize volume p/v from 4MiB to 8KiB, losing what lies beyond");
	request.size_bytes = GIB;
	would(world, request, "resize volume p/v from 4MiB to 1GiB");
	request = world_request(ADMIN_EXPORT_ADD, "p", "v");
	request.export = xcalloc(1, sizeof(*request.export));
	worked(world_admin(world, &request));
	would(world, world_request(ADMIN_EXPORT_REMOVE, "p", "v"),
	    "remove the export of volume p/v, ending its sessions");

	assert_int_equal(report(world, "p", &request)->image_count, 3);
	assert_int_equal(request.pools[0].images[0].size_bytes, 4 * MIB);
	assert_int_equal(request.pools[0].images[0].exports.count, 1);
	admin_request_fini(&request);
	would(world, world_request(ADMIN_ROLLBACK, "p", "v@s"),
	    "roll volume p/v back to p/v@s, losing what was written since");
}

static void
test_snapshots_and_clones(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	const struct admin_pool_report *pool;
	struct volume *volume;

	make_pool(world);
	refused(-EINVAL, "p/v is not a snapshot: write p/v@NAME",
	    snapshots(world, ADMIN_SNAPSHOT_CREATE, "p/v"));
	refused(-EINVAL, "p/v@s is named twice",
	    snapshots(world, ADMIN_SNAPSHOT_CREATE, "p/v@s p/v@s"));
	refused(-EINVAL, "p and q are different pools: one command works on one pool",
	    snapshots(world, ADMIN_SNAPSHOT_CREATE, "p/v@s q/v@s"));
	refused(
	    -ENOENT, "pool p has no volume w", snapshots(world, ADMIN_SNAPSHOT_CREATE, "p/w@s"));
	refused(-ENOENT, "there is no pool", snapshots(world, ADMIN_SNAPSHOT_CREATE, ""));
	request = world_request(ADMIN_SNAPSHOT_CREATE, "p", NULL);
	refused(-EINVAL, "between 1 and", world_admin(world, &request));
	worked(snapshots(world, ADMIN_SNAPSHOT_CREATE, "p/v@s p/v@t"));
	refused(-EEXIST, "s", snapshots(world, ADMIN_SNAPSHOT_CREATE, "p/v@s"));

	worked(world_do(world, ADMIN_CLONE, false, "p", "v@s", "c"));
	refused(-EEXIST, "c", world_do(world, ADMIN_CLONE, false, "p", "v@s", "c"));
	request = world_request(ADMIN_CLONE, "p", "v@s");
	request.target = (struct name){ .pool = "q", .volume = "d" };
	refused(-EINVAL, "a clone lies in the pool of its snapshot: write p/d",
	    world_admin(world, &request));
	request = world_request(ADMIN_VOLUME_RENAME, "p", "v");
	request.target = (struct name){ .pool = "q", .volume = "d" };
	refused(-EINVAL, "cannot be renamed into another pool", world_admin(world, &request));

	/* Somebody looks at it. */
	volume = client_open(world, "p", "v@t", false);
	assert_int_equal(client_write(world, volume, 0, 4096, 1), -EROFS);
	refused(-EBUSY, "p/v@t is in use by 1 client connection: disconnect them",
	    snapshots(world, ADMIN_SNAPSHOT_DELETE, "p/v@t"));
	refused(
	    -EBUSY, "p/v@t is in use", world_do(world, ADMIN_VOLUME_DELETE, true, "p", "v", NULL));
	client_close(world, volume);
	refused(-ENOENT, "has no snapshot u", snapshots(world, ADMIN_SNAPSHOT_DELETE, "p/v@u"));
	refused(-EBUSY, "volume p/v has 2 snapshots: delete them first, or use --force",
	    world_do(world, ADMIN_VOLUME_DELETE, false, "p", "v", NULL));

	/* What a clone shares is not its own. */
	volume = client_open(world, "p", "c", false);
	assert_int_equal(client_write(world, volume, 0, 16 * KIB, 5), 0);
	refused(-EBUSY, "p/c is in use by 1 client connection: disconnect them, or use --force",
	    world_do(world, ADMIN_VOLUME_DELETE, false, "p", "c", NULL));
	client_close(world, volume);
	pool = report(world, "p", &request);
	assert_int_equal(pool->image_count, 4); /* c; v, with t and s */
	for (size_t i = 0; i < pool->image_count; i++) {
		const struct admin_image_report *image = &pool->images[i];

		assert_true(image->unique_known);
		if (strcmp(image->name.volume, "c") == 0) {
			assert_int_equal(image->unique_bytes, 16 * KIB);
			assert_string_equal(image->origin.volume, "v");
			assert_string_equal(image->origin.snapshot, "s");
		} else {
			assert_int_equal(image->unique_bytes, 0);
			assert_string_equal(image->origin.pool, "");
		}
	}
	admin_request_fini(&request);

	/* Back to what the snapshot holds; not under somebody's feet. */
	volume = client_open(world, "p", "v", false);
	assert_int_equal(client_write(world, volume, 0, 64 * KIB, 8), 0);
	refused(-EBUSY, "p/v is in use", world_do(world, ADMIN_ROLLBACK, false, "p", "v@s", NULL));
	worked(world_do(world, ADMIN_ROLLBACK, true, "p", "v@s", NULL));
	assert_int_equal(client_read(world, volume, 0, 64 * KIB), 1);
	client_close(world, volume);
	worked(world_do(world, ADMIN_ROLLBACK, false, "p", "v@s", NULL));
	worked(snapshots(world, ADMIN_SNAPSHOT_DELETE, "p/v@s"));
	worked(world_do(world, ADMIN_VOLUME_DELETE, true, "p", "v", NULL));
	worked(world_do(world, ADMIN_VOLUME_DELETE, false, "p", "c", NULL));
}

static void
test_diff(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	struct volume *volume;
	struct volume_io trim = {
		.op = VOLUME_TRIM, .offset_bytes = 8 * KIB, .len_bytes = 8 * KIB
	};

	make_pool(world);
	worked(snapshots(world, ADMIN_SNAPSHOT_CREATE, "p/v@s"));
	volume = client_open(world, "p", "v", false);
	assert_int_equal(client_write(world, volume, 0, 4 * KIB, 2), 0);
	assert_int_equal(client_write(world, volume, 4 * KIB, 4 * KIB, 3), 0);
	assert_int_equal(pool_sync_io(&world->reactor, volume, &trim), 0);
	assert_int_equal(client_write(world, volume, 3 * MIB, 4 * KIB, 3), 0);
	client_close(world, volume);
	request = world_request(ADMIN_DIFF, "p", "v@s");
	request.target = (struct name){ .pool = "p", .volume = "v" };
	assert_int_equal(pool_sync_target(&world->reactor, world->target, &request), 0);
	assert_int_equal(request.range_count, 3);
	assert_int_equal(request.ranges[0].offset_bytes, 0);
	assert_int_equal(request.ranges[0].len_bytes, 8 * KIB);
	assert_false(request.ranges[0].hole);
	assert_int_equal(request.ranges[1].offset_bytes, 8 * KIB);
	assert_int_equal(request.ranges[1].len_bytes, 8 * KIB);
	assert_true(request.ranges[1].hole);
	assert_int_equal(request.ranges[2].offset_bytes, 3 * MIB);
	admin_request_fini(&request);
}

/* --- pools that take no writes --- */

static void
test_a_failed_pool_says_so(void **state)
{
	struct world *world = *state;
	struct admin_request request;
	struct volume *volume;
	struct fault_rule rule = {
		.op = DEVICE_WRITE, .effect = FAULT_FAIL, .error = -EIO, .first = 1
	};

	make_pool(world);
	volume = client_open(world, "p", "v", false);
	fault_add(world->disks[0].device, &rule);
	fault_add(world->disks[1].device, &rule);
	assert_int_equal(client_write(world, volume, 0, 4096, 7), -EIO);
	assert_int_equal(client_write(world, volume, 0, 4096, 7), -EIO);
	assert_string_equal(report(world, "p", &request)->state, "failed");
	assert_non_null(strstr(request.pools[0].state_reason, "writing to disk"));
	assert_true(request.pools[0].devices[0].errors + request.pools[0].devices[1].errors > 0);
	admin_request_fini(&request);
	refused(-EROFS, "pool p takes no changes: writing to disk",
	    world_do(world, ADMIN_VOLUME_CREATE, false, "p", "w", NULL));
	worked(world_do(world, ADMIN_DIFF, false, "p", "v", "v"));
	assert_int_equal(client_read(world, volume, 4096, 4096), 1);
	client_close(world, volume);
	assert_int_not_equal(world_do(world, ADMIN_POOL_EXPORT, false, "p", NULL, NULL), 0);
	worked(world_import(world, "disk0 disk1"));
	assert_string_equal(report(world, "p", &request)->state, "online");
	admin_request_fini(&request);
}

/* While the log of an operation cannot be made durable. */
static void
test_an_operation_that_is_not_durable_fails(void **state)
{
	struct world *world = *state;
	struct fault_rule rule = {
		.op = DEVICE_FLUSH, .effect = FAULT_FAIL, .error = -EIO, .first = 1
	};

	make_pool(world);
	fault_add(world->disks[0].device, &rule);
	fault_add(world->disks[1].device, &rule);
	refused(-EIO, "pool p: an I/O error; see the log",
	    world_do(world, ADMIN_VOLUME_CREATE, false, "p", "w", NULL));
}

/* --- opening, names --- */

static void
names_listed(struct target_names *op)
{
	op->done = NULL;
}

static bool
names_ended(const void *what)
{
	return !((const struct target_names *)what)->done;
}

static size_t
count_names(struct world *world, bool with_snapshots)
{
	struct target_names op = { .snapshots = with_snapshots, .done = names_listed };

	target_names(world->target, &op);
	pool_sync_run(&world->reactor, names_ended, &op);
	free(op.names);
	return op.count;
}

static void
test_opening_and_names(void **state)
{
	struct world *world = *state;
	static const struct {
		const char *pool;
		const char *volume;
	} missing[] = { { "q", "v" }, { "p", "w" }, { "p", "v@s" }, { "p", "" } };

	assert_int_equal(count_names(world, true), 0);
	make_pool(world);
	for (size_t i = 0; i < ARRAY_SIZE(missing); i++) {
		assert_null(client_open(world, missing[i].pool, missing[i].volume, false));
		assert_int_equal(world_error.code, -ENOENT);
	}
	worked(snapshots(world, ADMIN_SNAPSHOT_CREATE, "p/v@s p/v@t"));
	worked(world_create(world, "q", "disk2"));
	worked(world_do(world, ADMIN_VOLUME_CREATE, false, "q", "v", NULL));
	assert_int_equal(count_names(world, false), 2);
	assert_int_equal(count_names(world, true), 4);
}

static void
test_shutdown_takes_handles_and_pools(void **state)
{
	struct world *world = *state;
	struct volume *volume;

	make_pool(world);
	worked(world_create(world, "q", "disk2"));
	volume = client_open(world, "p", "v", false);
	assert_int_equal(client_write(world, volume, 0, 4096, 3), 0);
	client_close(world, volume);
	/* teardown shuts both down */
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_a_pool_is_made_exported_imported_and_destroyed),
		TEST(test_create_refuses),
		TEST(test_create_fails_with_its_devices),
		TEST(test_import_refuses),
		TEST(test_import_takes_several_pools),
		TEST(test_export_and_destroy_refuse_what_is_in_use),
		TEST(test_export_tells_that_the_last_state_is_not_written),
		TEST(test_devices_are_added),
		TEST(test_a_device_that_fails_is_not_added),
		TEST(test_a_removal_loses_nothing_when_a_write_fails),
		TEST(test_volumes),
		TEST(test_resize),
		TEST(test_readonly),
		TEST(test_block_size),
		TEST(test_space),
		TEST(test_dry_runs_check_all_and_do_nothing),
		TEST(test_snapshots_and_clones),
		TEST(test_diff),
		TEST(test_a_failed_pool_says_so),
		TEST(test_an_operation_that_is_not_durable_fails),
		TEST(test_opening_and_names),
		TEST(test_shutdown_takes_handles_and_pools),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
