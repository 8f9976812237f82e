/* SPDX-License-Identifier: Apache-2.0 */
/* The slab table: pages of records, two places each. */
#include "metadata/space_internal.h"

#include "core/base/crc32c.h"
#include "core/base/mutant.h"

static uint64_t
page_digest(uint32_t device, uint32_t page, uint64_t checkpoint)
{
	if (checkpoint == 0)
		return 0; /* as if it were not there */
	return mix64(mix64((uint64_t)device << 32 | page) + checkpoint);
}

void
space_set_page_version(struct space *space, uint32_t index, uint32_t page, uint64_t checkpoint)
{
	struct space_device *device = &space->devices[index];
	uint64_t change = page_digest(index, page, checkpoint) -
			  page_digest(index, page, device->page_checkpoint[page]);

	device->digest += change;
	space->table_digest += change;
	device->page_checkpoint[page] = checkpoint;
}

/* Of this slab alone; of a leader whose twins' records stay as they are. */
void
space_mark_place_dirty(struct space *space, const struct slab *slab)
{
	bitmap_set(space->devices[slab->device].page_dirty,
	    slab->index / table_records_per_page(space->slab_blocks));
}

void
space_mark_dirty(struct space *space, struct slab *slab)
{
	for_each_place(place, slab) space_mark_place_dirty(space, place);
}

/* --- table pages --- */

void
space_begin_table(struct space *space)
{
	for (uint32_t i = 0; i < space->device_count; i++)
		if (!MUTANT(MARK_TOLD_LATE) || space->devices[i].told_mark == 0)
			space->devices[i].told_mark = space->devices[i].mark;
}

uint64_t
space_page_block(const struct space_device *device, uint32_t page)
{
	if (MUTANT(TABLE_ONE_PLACE))
		return FORMAT_TABLE_BLOCK + 2ull * page;
	return FORMAT_TABLE_BLOCK + 2ull * page + !device->page_place[page];
}

static uint32_t
page_crc(const struct uuid *device_uuid, uint32_t page, void *block)
{
	struct table_page *header = block;
	uint32_t stored = header->crc;
	uint32_t crc;

	header->crc = 0;
	crc = crc32c(page, device_uuid, sizeof(*device_uuid));
	crc = crc32c(crc, block, FORMAT_BLOCK_BYTES);
	header->crc = stored;
	return crc;
}

void
space_encode_page(
    struct space *space, uint32_t device_index, uint32_t page, uint64_t checkpoint, void *block)
{
	struct space_device *device = &space->devices[device_index];
	uint32_t per_page = table_records_per_page(space->slab_blocks);
	struct table_page *header = block;
	uint8_t *at = (uint8_t *)block + sizeof(*header);

	memset(block, 0, FORMAT_BLOCK_BYTES);
	header->magic = TABLE_MAGIC;
	header->version = FORMAT_VERSION;
	header->checkpoint = checkpoint;
	header->index = page;
	header->mark = page == 0 ? device->told_mark : 0;
	for (uint32_t i = page * per_page; i < (page + 1) * per_page && i < device->mark; i++) {
		const struct slab *slab = space_leader(space_slab(device, i));
		bool stale = space_slab(device, i)->stale;
		bool free = slab->releasing || stale;
		struct slab_record record = {
			.segment = free ? 0 : slab->segment,
			.state = free ? SLAB_FREE : slab->state,
			.flags = space_slab(device, i)->flags,
			.directory_blocks = free ? 0 : slab->directory_blocks,
			.age = slab->age,
		};

		memcpy(at, &record, sizeof(record));
		if (!stale)
			memcpy(at + sizeof(record), slab->live_bits, space->slab_blocks / 8);
		at += slab_record_bytes(space->slab_blocks);
	}
	header->crc = page_crc(&device->uuid, page, block);
	space_set_page_version(space, device_index, page, checkpoint);
	device->page_place[page] = !device->page_place[page];
	if (page > 0 || device->told_mark == device->mark)
		bitmap_clear(device->page_dirty, page);
}

bool
space_page_valid(const struct uuid *device_uuid, uint32_t page, const void *block)
{
	struct table_page header;
	uint8_t copy[FORMAT_BLOCK_BYTES];

	memcpy(&header, block, sizeof(header));
	if (header.magic != TABLE_MAGIC || header.version != FORMAT_VERSION || header.index != page)
		return false;
	memcpy(copy, block, sizeof(copy));
	return page_crc(device_uuid, page, copy) == header.crc;
}

/*
 * @slab is a further copy of what lies at @leader: what its table says of it is as true as what the
 * leader's says, but may be of another moment of the same checkpoint; the next table has both
 * alike.
 */
static int
take_copy(struct space *space, struct slab *leader, struct slab *slab,
    const struct slab_record *record, const uint8_t *bits, struct error *error)
{
	unsigned copies = 1;

	for_each_place(place, leader)
	{
		copies++;
		if (place->device == slab->device)
			copies = COPIES_MAX + 1;
	}
	if (copies > space->copies ||
	    (leader->state == SLAB_PACKED) != (record->state == SLAB_PACKED) ||
	    leader->directory_blocks != record->directory_blocks)
		return error_set(error, -EUCLEAN, "segment %llu lies on two slabs",
		    (unsigned long long)record->segment);
	space_link_twin(leader, slab);
	slab->state = SLAB_COPY;
	slab->segment = record->segment;
	if (leader->state != record->state || leader->age != record->age ||
	    memcmp(leader->live_bits, bits, space->slab_blocks / 8) != 0)
		space_mark_place_dirty(space, slab);
	return 0;
}

static int
take_record(struct space *space, struct slab *slab, const uint8_t *at, struct error *error)
{
	struct slab_record record;

	memcpy(&record, at, sizeof(record));
	if (record.state > SLAB_PACKED)
		return error_set(error, -EUCLEAN, "slab %u of device %u has the unknown state %u",
		    slab->index, slab->device, record.state);
	if ((record.state == SLAB_FREE) != (record.segment == 0) || record.segment >> 47)
		return error_set(error, -EUCLEAN, "slab %u of device %u has the wrong segment %llu",
		    slab->index, slab->device, (unsigned long long)record.segment);
	if ((record.state == SLAB_PACKED) != (record.directory_blocks != 0) ||
	    2u * record.directory_blocks >= space->slab_blocks)
		return error_set(error, -EUCLEAN,
		    "slab %u of device %u has a directory of %u blocks", slab->index, slab->device,
		    record.directory_blocks);
	space_leave_free(space, slab);
	slab->flags = record.flags & SLAB_WRITTEN;
	slab->age = record.age;
	if (record.state == SLAB_FREE) {
		space_enter_free(space, slab);
		return 0;
	}
	struct slab *leader = record.state == SLAB_PACKED
				  ? table_get(&space->numbers, record.segment)
				  : space_find(space, record.segment);

	if (leader)
		return take_copy(space, leader, slab, &record, at + sizeof(record), error);
	slab->state = record.state;
	slab->directory_blocks = record.directory_blocks;
	if (record.state == SLAB_PACKED) {
		slab->segment = record.segment; /* space_load_pieces() is still to come */
		if (space->copies > 1)
			table_set(&space->numbers, record.segment, slab);
	} else {
		space_set_own(space, slab, record.segment);
	}
	memcpy(slab->live_bits, at + sizeof(record), space->slab_blocks / 8);
	slab->live = (uint16_t)bitmap_count(slab->live_bits, space->slab_blocks);
	slab->live_first = space->slab_blocks - 1;
	space->live_blocks += slab->live;
	space_look_empty(space, slab);
	return 0;
}

static int
take_mark(struct space *space, uint32_t index, const void *block, struct error *error)
{
	struct space_device *device = &space->devices[index];
	struct table_page header;

	memcpy(&header, block, sizeof(header));
	if (header.mark == 0 || header.mark > device->slab_count)
		return error_set(error, -EUCLEAN, "of device %u %u slabs were used, and it has %u",
		    index, header.mark, device->slab_count);
	space_raise_mark(space, index, header.mark);
	device->told_mark = header.mark;
	return 0;
}

int
space_decode_page(struct space *space, uint32_t device_index, uint32_t page, uint64_t checkpoint,
    const void *first_place, const void *second_place, struct error *error)
{
	struct space_device *device = &space->devices[device_index];
	const void *places[2] = { first_place, second_place };
	uint32_t per_page = table_records_per_page(space->slab_blocks);
	const uint8_t *best = NULL;
	uint64_t best_checkpoint = 0;
	bool newer_seen = false;

	for (uint8_t i = 0; i < 2; i++) {
		struct table_page header;

		if (!space_page_valid(&device->uuid, page, places[i]))
			continue;
		memcpy(&header, places[i], sizeof(header));
		if (header.checkpoint > checkpoint) {
			newer_seen = true;
			continue;
		}
		if (!best || header.checkpoint > best_checkpoint) {
			best = places[i];
			best_checkpoint = header.checkpoint;
			device->page_place[page] = i;
		}
	}
	if (!best)
		return error_set(error, -EUCLEAN,
		    "slab table page %u of device %u is damaged in both places", page,
		    device_index);
	if (page == 0 && take_mark(space, device_index, best, error))
		return error->code;
	space_set_page_version(space, device_index, page, best_checkpoint);
	/* A version that no superblock ever named must not be taken for a good one later. */
	if (newer_seen)
		bitmap_set(device->page_dirty, page);
	else
		bitmap_clear(device->page_dirty, page);
	best += sizeof(struct table_page);
	for (uint32_t i = page * per_page; i < (page + 1) * per_page && i < device->mark; i++) {
		int rc = take_record(space, space_slab(device, i), best, error);

		if (rc)
			return rc;
		best += slab_record_bytes(space->slab_blocks);
	}
	return 0;
}
