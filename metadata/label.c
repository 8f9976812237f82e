/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/label.h"

#include "core/base/crc32c.h"
#include "core/base/mutant.h"

/* So many times its size a device can grow to, by the room in its table. */
#define TABLE_ROOM 8u
/* ... if that takes no more than this part of it. */
#define TABLE_ROOM_PART 128u

static uint64_t
table_blocks_for(uint64_t slabs, uint32_t slab_blocks)
{
	return 2 * div_round_up(slabs, table_records_per_page(slab_blocks));
}

uint32_t
geometry_slabs(uint64_t size_bytes, uint32_t slab_blocks, uint64_t slabs_block)
{
	uint64_t end = size_bytes / FORMAT_BLOCK_BYTES;
	uint64_t tail_blocks = FORMAT_TAIL_BYTES / FORMAT_BLOCK_BYTES;
	uint64_t room;

	if (slabs_block <= FORMAT_TABLE_BLOCK || end < tail_blocks ||
	    end - tail_blocks <= slabs_block)
		return 0;
	room = (slabs_block - FORMAT_TABLE_BLOCK) / 2 * table_records_per_page(slab_blocks);
	return (uint32_t)min_u64(
	    min_u64((end - tail_blocks - slabs_block) / slab_blocks, room), UINT32_MAX - 1);
}

uint64_t
geometry_size_bytes(uint64_t size_bytes, uint32_t slab_blocks, uint64_t slabs_block, uint32_t slabs)
{
	uint64_t blocks = slabs_block + (uint64_t)slabs * slab_blocks;

	if (geometry_slabs(size_bytes, slab_blocks, slabs_block) == slabs)
		return size_bytes;
	return blocks * FORMAT_BLOCK_BYTES + FORMAT_TAIL_BYTES;
}

void
geometry_of(struct geometry *geometry, uint64_t size_bytes, uint32_t slab_blocks)
{
	uint64_t blocks = size_bytes / FORMAT_BLOCK_BYTES;
	uint64_t tail_blocks = FORMAT_TAIL_BYTES / FORMAT_BLOCK_BYTES;

	memset(geometry, 0, sizeof(*geometry));
	if (blocks < FORMAT_TABLE_BLOCK + tail_blocks + slab_blocks)
		return;
	geometry->tail_block = blocks - tail_blocks;
	/* The table is sized for as many slabs as there could be without it, and for growth. */
	uint64_t slabs_most = (geometry->tail_block - FORMAT_TABLE_BLOCK) / slab_blocks;
	uint64_t table_blocks = table_blocks_for(slabs_most, slab_blocks);
	uint64_t room_blocks = min_u64(
	    table_blocks_for(slabs_most * TABLE_ROOM, slab_blocks), blocks / TABLE_ROOM_PART);

	geometry->slabs_block = FORMAT_TABLE_BLOCK + max_u64(table_blocks, room_blocks);
	geometry->slabs_block = round_up(geometry->slabs_block, 256); /* whole MiBs */
	geometry->slab_count = geometry_slabs(size_bytes, slab_blocks, geometry->slabs_block);
}

uint32_t
geometry_slab_blocks(uint64_t pool_bytes)
{
	uint32_t slab_blocks = SLAB_BLOCKS_MAX;

	while (slab_blocks > SLAB_BLOCKS_MIN &&
	       pool_bytes / ((uint64_t)slab_blocks * FORMAT_BLOCK_BYTES) < 1000)
		slab_blocks /= 2;
	return slab_blocks;
}

/* The CRC of @size bytes at @block, whose field @crc_field counts as zero, begun with @place. */
static uint32_t
crc_of(const void *block, size_t size, size_t crc_offset, uint64_t place)
{
	static const uint32_t zero = 0;
	const uint8_t *bytes = block;
	uint32_t crc = crc32c(0, &place, sizeof(place));

	crc = crc32c(crc, bytes, crc_offset);
	crc = crc32c(crc, &zero, sizeof(zero));
	return crc32c(crc, bytes + crc_offset + sizeof(zero), size - crc_offset - sizeof(zero));
}

#define CRC_OF(structure, place) \
	crc_of((structure), sizeof(*(structure)), offsetof(typeof(*(structure)), crc), (place))

void
label_encode(const struct label *label, void *block)
{
	struct label *out = block;

	memcpy(out, label, sizeof(*out));
	memcpy(out->magic, LABEL_MAGIC, sizeof(out->magic));
	out->version = FORMAT_VERSION;
	out->crc = CRC_OF(out, FORMAT_LABEL_BLOCK);
}

int
label_decode(struct label *label, const void *block, uint64_t device_bytes, struct error *error)
{
	uint32_t slabs;

	memcpy(label, block, sizeof(*label));
	if (memcmp(label->magic, LABEL_MAGIC, sizeof(label->magic)) != 0)
		return error_set(error, -ENODATA, "no Quarry label");
	if (CRC_OF(label, FORMAT_LABEL_BLOCK) != label->crc)
		return error_set(error, -EUCLEAN, "the label is damaged (checksum)");
	if (label->version != FORMAT_VERSION ||
	    label->features_incompat & ~(uint64_t)LABEL_INCOMPAT_KNOWN)
		return error_set(error, -ENOTSUP,
		    "the label has format version %u, features %llx: this program knows version %u",
		    label->version, (unsigned long long)label->features_incompat, FORMAT_VERSION);
	if (label->slab_blocks < SLAB_BLOCKS_MIN || label->slab_blocks > SLAB_BLOCKS_MAX ||
	    label->slab_blocks & (label->slab_blocks - 1) ||
	    label->device_index >= POOL_DEVICES_MAX ||
	    memchr(label->pool_name, '\0', sizeof(label->pool_name)) == NULL)
		return error_set(error, -EUCLEAN, "the label holds impossible values");
	slabs = geometry_slabs(label->size_bytes, label->slab_blocks, label->slabs_block);
	if (slabs == 0 || slabs != label->slab_count)
		return error_set(error, -EUCLEAN, "the label's geometry is impossible");
	if (label->size_bytes > device_bytes)
		return error_set(error, -EUCLEAN,
		    "the device is smaller (%llu bytes) than when it was labelled (%llu)",
		    (unsigned long long)device_bytes, (unsigned long long)label->size_bytes);
	return 0;
}

void
superblock_encode(const struct superblock *superblock, void *block)
{
	struct superblock *out = block;

	memset(block, 0, FORMAT_BLOCK_BYTES);
	memcpy(out, superblock, sizeof(*out));
	memcpy(out->magic, SUPERBLOCK_MAGIC, sizeof(out->magic));
	out->version = FORMAT_VERSION;
	out->crc = CRC_OF(out, out->checkpoint);
}

int
superblock_decode(struct superblock *superblock, const void *block, struct error *error)
{
	memcpy(superblock, block, sizeof(*superblock));
	if (memcmp(superblock->magic, SUPERBLOCK_MAGIC, sizeof(superblock->magic)) != 0)
		return error_set(error, -ENODATA, "no superblock");
	if (CRC_OF(superblock, superblock->checkpoint) != superblock->crc)
		return error_set(error, -EUCLEAN, "the superblock is damaged (checksum)");
	if (superblock->version != FORMAT_VERSION)
		return error_set(error, -ENOTSUP,
		    "the superblock has format version %u: this program knows version %u",
		    superblock->version, FORMAT_VERSION);
	if (superblock->catalog_levels > MAP_LEVELS_MAX || superblock->epoch == 0 ||
	    superblock->device_count == 0 || superblock->device_count > POOL_DEVICES_MAX ||
	    superblock->copies > COPIES_MAX ||
	    (superblock->copies > 1 && superblock->device_count > COPIES_DEVICES_MAX) ||
	    superblock->next_segment == 0 || superblock->next_segment >> 47 ||
	    superblock->next_id == 0 || superblock->next_id >> IMAGE_ID_BITS ||
	    superblock->catalog_root.addr >> 63 ||
	    (superblock->catalog_levels == 0 && superblock->catalog_root.addr) ||
	    superblock->log_segment == 0 || superblock->log_segment >= superblock->next_segment ||
	    (superblock->log_next_device != BATCH_NO_SLAB &&
		(superblock->log_next_segment == 0 ||
		    superblock->log_next_segment >= superblock->next_segment)))
		return error_set(error, -EUCLEAN, "the superblock holds impossible values");
	return 0;
}

void
device_set_encode(const struct device_set *set, void *block)
{
	struct device_set *out = block;

	memcpy(out, set, sizeof(*out));
	memcpy(out->magic, DEVICE_SET_MAGIC, sizeof(out->magic));
	out->version = FORMAT_VERSION;
	out->crc = CRC_OF(out, out->generation);
}

int
device_set_decode(struct device_set *set, const void *block, struct error *error)
{
	memcpy(set, block, sizeof(*set));
	if (memcmp(set->magic, DEVICE_SET_MAGIC, sizeof(set->magic)) != 0)
		return error_set(error, -ENODATA, "no device set");
	if (CRC_OF(set, set->generation) != set->crc)
		return error_set(error, -EUCLEAN, "the device set is damaged (checksum)");
	if (set->version != FORMAT_VERSION || set->count == 0 || set->count > POOL_DEVICES_MAX)
		return error_set(error, -EUCLEAN, "the device set holds impossible values");
	for (uint32_t i = 0; i < set->count; i++)
		if (set->devices[i].index >= POOL_DEVICES_MAX ||
		    set->devices[i].state < DEVICE_STATE_ONLINE ||
		    set->devices[i].state > DEVICE_STATE_REMOVED)
			return error_set(error, -EUCLEAN, "the device set holds impossible values");
	return 0;
}

bool
device_set_is_newer(const struct device_set *set, const struct device_set *than)
{
	if (than->count == 0 || set->pool_generation != than->pool_generation)
		return than->count == 0 || set->pool_generation > than->pool_generation;
	return set->generation > than->generation;
}

bool
device_set_is_same(const struct device_set *set, const struct device_set *other)
{
	return set->pool_generation == other->pool_generation &&
	       set->generation == other->generation && set->crc == other->crc;
}

static bool
has_in_use(const struct device_set *set, uint32_t index)
{
	return index < set->count && (set->devices[index].state == DEVICE_STATE_ONLINE ||
					 set->devices[index].state == DEVICE_STATE_LEAVING);
}

bool
device_set_is_fork(const struct device_set *now, const struct device_set *its, uint32_t index)
{
	uint64_t heard = min_u64(its->generation, UINT16_MAX);

	/* Where it is out itself it is not asked. */
	if (!has_in_use(its, index))
		return false;
	for (uint32_t i = 0; i < now->count; i++)
		if (i != index && has_in_use(now, i) && i < its->count && !has_in_use(its, i) &&
		    (heard >= now->devices[i].since || heard >= now->devices[index].since))
			return true;
	return false;
}

static bool
all_have_it(const struct device_set *set, const struct device_set *sets, const uint32_t *indices,
    uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t index = indices[i];

		if (index < set->count && (set->devices[index].state == DEVICE_STATE_OUT ||
					      set->devices[index].state == DEVICE_STATE_REMOVED))
			continue;
		if (!device_set_is_same(set, &sets[i]))
			return false;
	}
	return true;
}

uint32_t
device_set_choose(const struct device_set *sets, const uint32_t *indices, uint32_t count)
{
	uint32_t best = count;
	bool best_complete = false;

	for (uint32_t i = 0; i < count; i++) {
		bool complete = sets[i].count && (all_have_it(&sets[i], sets, indices, count) &&
						     !MUTANT(NEWEST_SET_BELIEVED));

		if (sets[i].count == 0 || (best < count && complete < best_complete))
			continue;
		if (best < count && complete == best_complete &&
		    !device_set_is_newer(&sets[i], &sets[best]))
			continue;
		best = i;
		best_complete = complete;
	}
	return best;
}

void
heartbeat_encode(const struct heartbeat *heartbeat, void *block)
{
	struct heartbeat *out = block;

	memset(block, 0, FORMAT_BLOCK_BYTES);
	memcpy(out, heartbeat, sizeof(*out));
	memcpy(out->magic, HEARTBEAT_MAGIC, sizeof(out->magic));
	out->version = FORMAT_VERSION;
	out->crc = CRC_OF(out, FORMAT_HEARTBEAT_BLOCK);
}

void
heartbeat_decode(struct heartbeat *heartbeat, const void *block)
{
	memcpy(heartbeat, block, sizeof(*heartbeat));
	if (memcmp(heartbeat->magic, HEARTBEAT_MAGIC, sizeof(heartbeat->magic)) != 0 ||
	    CRC_OF(heartbeat, FORMAT_HEARTBEAT_BLOCK) != heartbeat->crc ||
	    heartbeat->version != FORMAT_VERSION ||
	    heartbeat->interval_ms > HEARTBEAT_INTERVAL_MS_MAX ||
	    memchr(heartbeat->host, '\0', sizeof(heartbeat->host)) == NULL)
		heartbeat->interval_ms = 0;
}
