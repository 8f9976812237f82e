/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Label, superblock, device set, heartbeat: as they are, and with magic, version and CRC made
 * right, so that what stands behind those is reached.  What is accepted means the same when written
 * and read again.
 */
#include "metadata/label.h"
#include "tests/fuzz/fuzz.h"

#define DEVICE_BYTES (64 * MIB)

static void
try_label(const void *block)
{
	struct label label, again;
	struct error error;
	uint8_t copy[FORMAT_BLOCK_BYTES];

	if (label_decode(&label, block, DEVICE_BYTES, &error))
		return;
	CHECK(strnlen(label.pool_name, sizeof(label.pool_name)) < sizeof(label.pool_name));
	CHECK(label.slab_blocks >= SLAB_BLOCKS_MIN && label.slab_blocks <= SLAB_BLOCKS_MAX);
	CHECK((label.slabs_block + label.slab_count * label.slab_blocks) * FORMAT_BLOCK_BYTES <=
	      DEVICE_BYTES);
	label_encode(&label, copy);
	CHECK(label_decode(&again, copy, DEVICE_BYTES, &error) == 0);
	CHECK(memcmp(&label, &again, sizeof(label)) == 0);
}

static void
try_superblock(const void *block)
{
	struct superblock superblock, again;
	struct error error;
	uint8_t copy[FORMAT_BLOCK_BYTES];

	if (superblock_decode(&superblock, block, &error))
		return;
	superblock_encode(&superblock, copy);
	CHECK(superblock_decode(&again, copy, &error) == 0);
	CHECK(memcmp(&superblock, &again, sizeof(superblock)) == 0);
}

static void
try_device_set(const void *block)
{
	struct device_set set, again;
	struct error error;
	uint8_t copy[FORMAT_BLOCK_BYTES];

	if (device_set_decode(&set, block, &error))
		return;
	CHECK(set.count <= POOL_DEVICES_MAX);
	device_set_encode(&set, copy);
	CHECK(device_set_decode(&again, copy, &error) == 0);
	CHECK(memcmp(&set, &again, sizeof(set)) == 0);
}

static void
try_heartbeat(const void *block)
{
	struct heartbeat heartbeat, again;
	uint8_t copy[FORMAT_BLOCK_BYTES];

	heartbeat_decode(&heartbeat, block);
	if (heartbeat.interval_ms == 0)
		return;
	CHECK(heartbeat.interval_ms <= HEARTBEAT_INTERVAL_MS_MAX);
	CHECK(strnlen(heartbeat.host, sizeof(heartbeat.host)) < sizeof(heartbeat.host));
	heartbeat_encode(&heartbeat, copy);
	heartbeat_decode(&again, copy);
	CHECK(memcmp(&heartbeat, &again, sizeof(heartbeat)) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	uint8_t kind = fuzz_byte(&input);
	union {
		uint8_t block[FORMAT_BLOCK_BYTES];
		struct label label;
		struct superblock superblock;
		struct device_set set;
		struct heartbeat heartbeat;
	} from;
	uint8_t sealed[FORMAT_BLOCK_BYTES];

	fuzz_take(&input, &from, sizeof(from));
	try_label(from.block);
	try_superblock(from.block);
	try_device_set(from.block);
	try_heartbeat(from.block);
	switch (kind % 4) {
	case 0:
		if (kind & 0x80) { /* a geometry that fits the device */
			struct geometry geometry;

			geometry_of(&geometry, DEVICE_BYTES, SLAB_BLOCKS_MIN);
			from.label.slab_blocks = SLAB_BLOCKS_MIN;
			from.label.slabs_block = geometry.slabs_block;
			from.label.slab_count = geometry.slab_count;
			from.label.size_bytes = DEVICE_BYTES;
		}
		label_encode(&from.label, sealed);
		try_label(sealed);
		break;
	case 1:
		superblock_encode(&from.superblock, sealed);
		try_superblock(sealed);
		break;
	case 2:
		heartbeat_encode(&from.heartbeat, sealed);
		try_heartbeat(sealed);
		break;
	default:
		device_set_encode(&from.set, sealed);
		try_device_set(sealed);
		break;
	}
	return 0;
}
