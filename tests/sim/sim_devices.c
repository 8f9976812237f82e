/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools that get more devices: which of the disks are in the pool, and adding the next one.
 *
 * What a crash leaves of an add is read off the disks: the newest superblock counts the devices,
 * and an import must be given those and no others.
 */
#include <stdlib.h>

#include "tests/sim/sim.h"

uint32_t
devices_on_disks(const struct sim *sim)
{
	static uint8_t block[FORMAT_BLOCK_BYTES];
	uint64_t newest = 0;
	uint32_t count = sim->joined;

	for (uint32_t d = 0; d < sim->weather.device_count; d++) {
		struct geometry geometry;

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
		if (!found || set.pool_generation > newest->pool_generation ||
		    (set.pool_generation == newest->pool_generation &&
			set.generation > newest->generation))
			*newest = set;
		found = true;
	}
	return found;
}

bool
devices_know(const struct sim *sim, uint32_t missing)
{
	struct device_set its, other;

	if (!newest_set(sim, missing, &its))
		return true;
	for (uint32_t d = 0; d < sim->joined; d++)
		if (d != missing && newest_set(sim, d, &other) &&
		    (other.pool_generation > its.pool_generation ||
			(other.pool_generation == its.pool_generation &&
			    other.generation >= its.generation)))
			return true;
	return false;
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

/* Between the join and the durable superblock, which is short, a crash does most harm. */
void
devices_step(struct sim *sim)
{
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
