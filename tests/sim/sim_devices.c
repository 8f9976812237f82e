/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools that get more devices, and lose some: which of the disks are in the pool, adding the next
 * one, and removing one.
 *
 * What a crash leaves of that is read off the disks: the newest superblock counts the devices, the
 * newest device set says which were removed, and an import must be given the others and no more.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/sim.h"

/* The newest device set on a disk, of all its places. */
static bool
newest_set(const struct sim *sim, uint32_t d, struct device_set *newest)
{
	static uint8_t block[FORMAT_BLOCK_BYTES];
	struct geometry geometry;
	bool found = false;

	geometry_of(&geometry, memory_disk_size_bytes(sim->disks[d]), SLAB_BLOCKS_MIN);
	for (unsigned i = 0; i < 4; i++) {
		struct device_set set;
		struct error error;
		uint64_t at = i < 2 ? FORMAT_DEVICE_SET_BLOCK + i
				    : geometry.tail_block + FORMAT_TAIL_DEVICE_SET_BLOCK + i - 2;

		memory_disk_read(sim->disks[d], at * BLOCK_BYTES, block, BLOCK_BYTES);
		if (device_set_decode(&set, block, &error))
			continue;
		if (!found || device_set_is_newer(&set, newest))
			*newest = set;
		found = true;
	}
	return found;
}

/* The one that counts, of all disks that are looked at. */
static void
find_set(const struct sim *sim, uint32_t without, struct device_set *out)
{
	static struct device_set sets[SIM_DEVICES_MAX];
	uint32_t indices[SIM_DEVICES_MAX] = { 0 };
	uint32_t count = 0;
	uint32_t chosen;

	for (uint32_t d = 0; d < sim->weather.device_count; d++) {
		memset(&sets[count], 0, sizeof(sets[count]));
		if (d == without || !newest_set(sim, d, &sets[count]))
			continue;
		indices[count++] = d;
	}
	chosen = device_set_choose(sets, indices, count);
	memset(out, 0, sizeof(*out));
	if (chosen < count)
		*out = sets[chosen];
}

uint32_t
devices_on_disks(const struct sim *sim, uint32_t without)
{
	static uint8_t block[FORMAT_BLOCK_BYTES];
	struct device_set set;
	uint64_t newest = 0;
	uint32_t count = sim->weather.devices_at_first;

	find_set(sim, without, &set);
	for (uint32_t d = 0; d < sim->weather.device_count; d++) {
		struct geometry geometry;

		/* What one that is out has is old, whatever its number. */
		if (d == without || (d < set.count && set.devices[d].state == DEVICE_STATE_OUT))
			continue;
		geometry_of(&geometry, memory_disk_size_bytes(sim->disks[d]), SLAB_BLOCKS_MIN);
		for (unsigned i = 0; i < 4; i++) {
			struct superblock superblock;
			struct error error;
			uint64_t at =
			    i < 2 ? FORMAT_SUPERBLOCK_BLOCK + i
				  : geometry.tail_block + FORMAT_TAIL_SUPERBLOCK_BLOCK + i - 2;

			memory_disk_read(sim->disks[d], at * BLOCK_BYTES, block, BLOCK_BYTES);
			if (superblock_decode(&superblock, block, &error) == 0 &&
			    superblock.checkpoint > newest) {
				newest = superblock.checkpoint;
				count = superblock.device_count;
			}
		}
	}
	return count;
}

bool
devices_know(const struct sim *sim, uint32_t missing)
{
	struct device_set its, other;

	if (!newest_set(sim, missing, &its))
		return true;
	for (uint32_t d = 0; d < sim->joined; d++)
		if (d != missing && newest_set(sim, d, &other) &&
		    !device_set_is_newer(&its, &other))
			return true;
	return false;
}

bool
devices_removed(const struct sim *sim, uint32_t d)
{
	struct device_set newest;

	find_set(sim, UINT32_MAX, &newest);
	return d < newest.count && newest.devices[d].state == DEVICE_STATE_REMOVED;
}

void
devices_leave(struct sim *sim, struct admin_request *request)
{
	uint32_t d = (uint32_t)random_below(&sim->random, sim->joined);
	char name[16];

	snprintf(name, sizeof(name), "disk%u", d);
	request->verb = ADMIN_DEVICE_REMOVE;
	request->device = xstrdup(name);
	request->stop = sim->pool->space.devices[d].leaving && random_one_in(&sim->random, 2);
}

void
devices_grow(struct sim *sim, struct admin_request *request)
{
	uint32_t d = (uint32_t)random_below(&sim->random, sim->joined);
	uint64_t size_bytes = memory_disk_size_bytes(sim->disks[d]);
	char name[16];

	/* It may have grown already, when a crash came. */
	if (size_bytes < 100 * MIB && !random_one_in(&sim->random, 4))
		memory_disk_grow(sim->disks[d],
		    size_bytes + (1 + random_below(&sim->random, 5000)) * BLOCK_BYTES);
	snprintf(name, sizeof(name), "disk%u", d);
	request->verb = ADMIN_DEVICE_GROW;
	request->device = xstrdup(name);
}

void
devices_add(struct sim *sim, struct admin_request *request)
{
	CHECK(sim->joined < sim->weather.device_count);
	sim->adding = true;
	sim->crash_at_join = random_one_in(&sim->crash_random, 2);
	sim->joining = sim->devices[sim->joined];
	request->verb = ADMIN_DEVICE_ADD;
	request->opened = &sim->joining;
	request->device_count = 1;
	request->devices = xcalloc(1, sizeof(*request->devices));
}

/* The pool has closed those that it removed, or that are out of use. */
static void
look_for_closed(struct sim *sim)
{
	for (uint32_t d = 0; sim->online && d < sim->pool->device_count; d++) {
		bool has = sim->devices[d] && sim->pool->devices[d].device;

		if (!has && sim->pools[d]) {
			sim->devices[d] = NULL;
			if (sim->pool->space.devices[d].removed) {
				sim_trace(sim, "  disk%u was removed", d);
				sim->stats.removed++;
			}
		}
		sim->pools[d] = has;
	}
}

bool
devices_return(struct sim *sim, struct admin_request *request, uint64_t n)
{
	uint32_t d = (uint32_t)(n % sim->joined);
	const struct space_device *device = &sim->pool->space.devices[d];
	char name[16];

	if (sim->bringing_back || d >= sim->pool->device_count || device->removed)
		return false;
	snprintf(name, sizeof(name), "disk%u", d);
	if (!device->out || sim->pool->devices[d].device) {
		request->verb = device->out ? ADMIN_DEVICE_PREPARE : ADMIN_DEVICE_OFFLINE;
		request->device = xstrdup(name);
		return true;
	}
	/* It may have been opened for the import, and left aside. */
	if (!sim->devices[d])
		sim->devices[d] = sim_open_disk(sim, d, n | 1);
	sim->bringing_back = true;
	sim->back = sim->devices[d];
	request->verb = ADMIN_DEVICE_ONLINE;
	request->opened = &sim->back;
	request->device_count = 1;
	request->devices = xcalloc(1, sizeof(*request->devices));
	/* Between the join and the last device set a crash does most harm. */
	if (n / 64 % 2 == 0)
		sim->crash_in = 1 + n / 128 % (n / 256 % 2 ? 100 : 600);
	return true;
}

void
devices_returned(struct sim *sim, const struct admin_request *request)
{
	int code = request->error.code;

	if (request->verb != ADMIN_DEVICE_ONLINE) {
		sim->stats.offline += request->verb == ADMIN_DEVICE_OFFLINE && code == 0;
		return;
	}
	sim->bringing_back = false;
	if (code == 0 && sim->back)
		sim_fail(sim, "a device came back, but is not the pool's");
	sim->stats.returned += code == 0;
	sim->stats.strangers += strstr(request->error.text, "was in service without") != NULL;
}

/* Between the join and the durable superblock, which is short, a crash does most harm. */
void
devices_step(struct sim *sim)
{
	look_for_closed(sim);
	if (!sim->crash_at_join || !sim->adding || sim->joining)
		return;
	sim->crash_at_join = false;
	sim->crash_in = 1 + random_below(&sim->crash_random, 60);
}

void
devices_added(struct sim *sim)
{
	sim->adding = false;
	if (sim->joining)
		sim_fail(sim, "a device was added, but is not the pool's");
	sim->joined++;
	if (sim->pool->device_count != sim->joined)
		sim_fail(
		    sim, "the pool has %u devices, not %u", sim->pool->device_count, sim->joined);
}
