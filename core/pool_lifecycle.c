/* SPDX-License-Identifier: Apache-2.0 */
#include "core/pool_lifecycle.h"

static void
writer_step(struct device_io *io)
{
	struct block_writer *writer = container_of(io, struct block_writer, io);

	if (io->error) {
		writer->error = io->error;
		writer->done(writer);
		return;
	}
	if (writer->next > writer->count) {
		writer->done(writer);
		return;
	}
	memset(io, 0, sizeof(*io));
	io->done = writer_step;
	if (writer->next == writer->count) {
		writer->next++;
		io->op = DEVICE_FLUSH;
	} else {
		writer->iov.iov_base = writer->blocks[writer->next].data;
		writer->iov.iov_len = FORMAT_BLOCK_BYTES;
		io->op = DEVICE_WRITE;
		io->offset_bytes = writer->blocks[writer->next].block * FORMAT_BLOCK_BYTES;
		io->len_bytes = FORMAT_BLOCK_BYTES;
		io->iov = &writer->iov;
		io->iov_count = 1;
		writer->next++;
	}
	device_submit(writer->device, io);
}

void
block_writer_add(struct block_writer *writer, uint64_t block, void *data)
{
	CHECK(writer->count < ARRAY_SIZE(writer->blocks));
	writer->blocks[writer->count].block = block;
	writer->blocks[writer->count].data = data;
	writer->count++;
}

void
block_writer_start(struct block_writer *writer, struct device *device)
{
	writer->device = device;
	writer->error = 0;
	writer->next = 0;
	writer->io.error = 0;
	writer_step(&writer->io);
}

static void
read_done(struct device_io *io)
{
	struct block_reader *reader = container_of(io, struct block_reader, io);

	reader->error = io->error;
	reader->done(reader);
}

void
block_reader_start(
    struct block_reader *reader, struct device *device, uint64_t block, uint64_t count, void *data)
{
	struct device_io *io = &reader->io;

	memset(io, 0, sizeof(*io));
	reader->error = 0;
	reader->iov.iov_base = data;
	reader->iov.iov_len = count * FORMAT_BLOCK_BYTES;
	io->op = DEVICE_READ;
	io->offset_bytes = block * FORMAT_BLOCK_BYTES;
	io->len_bytes = count * FORMAT_BLOCK_BYTES;
	io->iov = &reader->iov;
	io->iov_count = 1;
	io->done = read_done;
	device_submit(device, io);
}

/* --- labels and device sets --- */

void
heads_read(struct block_reader *reader, struct device *device, uint64_t size_bytes, unsigned place,
    void *blocks)
{
	uint64_t tail = size_bytes / FORMAT_BLOCK_BYTES - FORMAT_TAIL_BYTES / FORMAT_BLOCK_BYTES;

	static_assert(FORMAT_SUPERBLOCK_BLOCK == FORMAT_LABEL_BLOCK + 1 &&
			  FORMAT_TAIL_SUPERBLOCK_BLOCK == FORMAT_TAIL_LABEL_BLOCK + 1 &&
			  FORMAT_DEVICE_SET_BLOCK == FORMAT_LABEL_BLOCK + 3 &&
			  FORMAT_TAIL_DEVICE_SET_BLOCK == FORMAT_TAIL_LABEL_BLOCK + 3,
	    "superblocks and device sets lie behind the label");
	block_reader_start(reader, device,
	    place ? tail + FORMAT_TAIL_LABEL_BLOCK : FORMAT_LABEL_BLOCK, HEADS_BLOCKS, blocks);
}

void
heads_take(const uint8_t *blocks, const struct uuid *pool_uuid, struct superblock *newest,
    struct device_set *set, uint64_t checkpoints[2])
{
	struct superblock superblock;
	struct device_set one;
	struct error error;

	for (unsigned slot = 0; slot < 2; slot++) {
		const uint8_t *block = blocks + (1 + slot) * (size_t)FORMAT_BLOCK_BYTES;

		checkpoints[slot] = 0;
		if (superblock_decode(&superblock, block, &error) ||
		    superblock.checkpoint % 2 != slot ||
		    !uuid_equal(&superblock.pool_uuid, pool_uuid))
			continue;
		if (superblock.checkpoint > newest->checkpoint)
			*newest = superblock;
		checkpoints[slot] = superblock.checkpoint;
	}
	for (unsigned i = 0; i < 2; i++) {
		const uint8_t *block = blocks + (3 + i) * (size_t)FORMAT_BLOCK_BYTES;

		if (device_set_decode(&one, block, &error) == 0 &&
		    uuid_equal(&one.pool_uuid, pool_uuid) && device_set_is_newer(&one, set))
			*set = one;
	}
}

bool
pool_keeps_notes(const struct pool *pool)
{
	for (uint32_t i = 0; i < pool->device_count; i++)
		if (pool->devices[i].label.features_incompat & LABEL_NOTES)
			return true;
	return false;
}

int
pool_lay_out_device(struct pool *pool, uint32_t index, struct device *device, struct error *error)
{
	struct label *label = &pool->devices[index].label;
	struct geometry geometry;

	memset(label, 0, sizeof(*label));
	label->size_bytes = device->size_bytes;
	geometry_of(&geometry, label->size_bytes, pool->space.slab_blocks);
	if (geometry.slab_count < 4)
		return error_set(error, -EINVAL,
		    "%s is too small: %llu bytes; a device of pool %s needs at least %llu",
		    device->name, (unsigned long long)label->size_bytes, pool->name,
		    (unsigned long long)max_u64(
			16 * MIB, 8 * (uint64_t)pool->space.slab_blocks * FORMAT_BLOCK_BYTES));
	if (pool->space.copies > 1)
		label->features_incompat |= LABEL_COPIES;
	if (device->preallocated)
		label->features_compat |= LABEL_PREALLOCATED;
	/* All labels of a pool say the same. */
	if (index == 0 || pool_keeps_notes(pool))
		label->features_incompat |= LABEL_NOTES;
	label->pool_uuid = pool->uuid;
	label->device_uuid = uuid_new();
	label->device_index = index;
	label->slab_blocks = pool->space.slab_blocks;
	label->slab_count = geometry.slab_count;
	label->slabs_block = geometry.slabs_block;
	label->created_s = pool->created_s;
	memcpy(label->pool_name, pool->name, sizeof(pool->name));
	return 0;
}

static enum device_state
state_of(const struct space_device *device, bool told_in_use)
{
	if (device->removed)
		return DEVICE_STATE_REMOVED;
	if (device->out || (device->joining && !told_in_use))
		return DEVICE_STATE_OUT;
	return device->leaving ? DEVICE_STATE_LEAVING : DEVICE_STATE_ONLINE;
}

void
pool_device_set(struct pool *pool, struct device_set *set)
{
	*set = (struct device_set){
		.pool_uuid = pool->uuid,
		.generation = pool->device_set_generation,
		.count = pool->device_count,
		.copies_min = pool->space.copies > 1 ? space_copies_min(&pool->space) : 0,
		.pool_generation = pool->generation,
	};
	for (uint32_t i = 0; i < pool->device_count; i++) {
		struct pool_device *device = &pool->devices[i];
		enum device_state state = state_of(&pool->space.devices[i], device->told_in_use);
		bool out = state == DEVICE_STATE_OUT || state == DEVICE_STATE_REMOVED;

		if (out != device->set_has_out)
			device->set_since = set->generation;
		device->set_has_out = out;
		set->devices[i].uuid = device->label.device_uuid;
		set->devices[i].index = (uint16_t)i;
		set->devices[i].since = (uint16_t)min_u64(device->set_since, UINT16_MAX);
		set->devices[i].state = state;
		set->devices[i].size_bytes = device->label.size_bytes;
	}
}

void
pool_encode_device_set(struct pool *pool, void *block)
{
	struct device_set set;

	pool_device_set(pool, &set);
	pool->copies_told = set.copies_min;
	device_set_encode(&set, block);
}

void
pool_write_device_set(struct pool *pool, uint32_t index, struct block_writer *writer, void *block)
{
	const struct label *label = &pool->devices[index].label;
	uint64_t place = ((struct device_set *)block)->generation % 2;
	struct geometry geometry;

	geometry_of(&geometry, label->size_bytes, label->slab_blocks);
	writer->count = 0;
	block_writer_add(writer, FORMAT_DEVICE_SET_BLOCK + place, block);
	block_writer_add(writer, geometry.tail_block + FORMAT_TAIL_DEVICE_SET_BLOCK + place, block);
	block_writer_start(writer, pool->devices[index].device);
}

void
pool_write_head(struct pool *pool, uint32_t index, struct device *device,
    struct block_writer *writer, void *blocks)
{
	const struct label *head = &pool->devices[index].label;
	void *label = blocks;
	void *set = (uint8_t *)blocks + FORMAT_BLOCK_BYTES;
	uint64_t place = pool->device_set_generation % 2;
	struct geometry geometry;

	geometry_of(&geometry, head->size_bytes, head->slab_blocks);
	memset(blocks, 0, 2 * (size_t)FORMAT_BLOCK_BYTES);
	pool_encode_device_set(pool, set);
	label_encode(head, label);
	writer->count = 0;
	block_writer_add(writer, FORMAT_DEVICE_SET_BLOCK + place, set);
	block_writer_add(writer, geometry.tail_block + FORMAT_TAIL_DEVICE_SET_BLOCK + place, set);
	block_writer_add(writer, FORMAT_LABEL_BLOCK, label);
	block_writer_add(writer, geometry.tail_block + FORMAT_TAIL_LABEL_BLOCK, label);
	block_writer_start(writer, device);
}

void
pool_wipe_head(const struct label *label, struct device *device, struct block_writer *writer,
    void *block, bool foreign)
{
	struct geometry geometry;

	geometry_of(&geometry, label->size_bytes, label->slab_blocks);
	memset(block, 0, FORMAT_BLOCK_BYTES);
	writer->count = 0;
	/* The labels first: what follows means nothing without them. */
	block_writer_add(writer, FORMAT_LABEL_BLOCK, block);
	block_writer_add(writer, geometry.tail_block + FORMAT_TAIL_LABEL_BLOCK, block);
	for (unsigned i = FORMAT_SUPERBLOCK_BLOCK; i <= FORMAT_HEARTBEAT_BLOCK; i++)
		block_writer_add(writer, i, block);
	for (unsigned i = FORMAT_TAIL_SUPERBLOCK_BLOCK; i < FORMAT_TAIL_DEVICE_SET_BLOCK + 2; i++)
		block_writer_add(writer, geometry.tail_block + i, block);
	if (foreign) {
		block_writer_add(writer, 0, block);
		block_writer_add(writer,
		    geometry.tail_block + FORMAT_TAIL_BYTES / FORMAT_BLOCK_BYTES - 1, block);
	}
	block_writer_start(writer, device);
}
