/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of the slab table that are lost: damaged in both places, or such that an older version took
 * the place of the one that the superblock means (its digest tells).
 *
 * What a slab holds its batch headers say, of whose segments the newest is the present one.  A slab
 * that is free by right may so come back as one of a segment that nothing needs any more; and all
 * of its blocks are taken for live.  That errs on the safe side: the walk over the maps corrects it
 * before anything is written to a slab (check_maps()).
 *
 * Of a pool with packed slabs an address may lie at two places, and only the table says which one
 * counts: there nothing is rebuilt.
 *
 * Order: pages, flush, superblock.  Until that is written, all its copies, the digest does not fit
 * and the pool is as damaged as before.
 */
#include "tools/quarry_check_internal.h"

#include <stdio.h>
#include <stdlib.h>

struct rebuild {
	struct check *check;
	struct offline *offline;
	struct label labels[POOL_DEVICES_MAX];
	struct device *devices[POOL_DEVICES_MAX]; /* by index in the pool */
	struct superblock superblock;             /* the newest */
	struct space space;
	uint64_t *lost[POOL_DEVICES_MAX];    /* bitmaps of pages */
	uint64_t *suspect[POOL_DEVICES_MAX]; /* pages with one place only that is valid */
	uint64_t lost_count;
	uint64_t suspect_count;
	uint8_t places[2][BLOCK_BYTES] __attribute__((aligned(8)));
};

static const char *
device_name(const struct rebuild *r, uint32_t device)
{
	return r->devices[device]->name;
}

/* All devices there, labels that fit together, and a superblock. */
static bool
find_pool(struct rebuild *r)
{
	struct superblock superblock;
	struct error error;

	for (uint32_t i = 0; i < r->offline->count; i++) {
		struct device *device = r->offline->devices[i];
		const uint64_t blocks[2] = { FORMAT_SUPERBLOCK_BLOCK,
			check_tail_block(device) + FORMAT_TAIL_SUPERBLOCK_BLOCK };
		struct label label;

		if (!offline_find_label(device, &label) || r->devices[label.device_index])
			return false;
		r->devices[label.device_index] = device;
		r->labels[label.device_index] = label;
		for (unsigned k = 0; k < 4; k++)
			if (check_read_superblock(
				device, blocks[k / 2] + k % 2, &superblock, &error) == 0 &&
			    uuid_equal(&superblock.pool_uuid, &label.pool_uuid) &&
			    superblock.checkpoint > r->superblock.checkpoint)
				r->superblock = superblock;
	}
	if (r->superblock.device_count != r->offline->count)
		return false;
	for (uint32_t i = 0; i < r->superblock.device_count; i++)
		if (!r->devices[i] ||
		    !uuid_equal(&r->labels[i].pool_uuid, &r->superblock.pool_uuid) ||
		    r->labels[i].slab_blocks != r->labels[0].slab_blocks)
			return false;
	return true;
}

static void
make_space(struct rebuild *r)
{
	space_init(&r->space, r->labels[0].slab_blocks, 1);
	for (uint32_t i = 0; i < r->superblock.device_count; i++)
		space_add_device(&r->space, i, &r->labels[i].device_uuid, r->labels[i].slabs_block,
		    (uint32_t)r->labels[i].slab_count);
}

/* Both places of a page; what is unreadable reads as zeroes, which no page is. */
static void
read_places(struct rebuild *r, uint32_t device, uint32_t page)
{
	for (unsigned i = 0; i < 2; i++)
		if (overlay_read(r->devices[device],
			(FORMAT_TABLE_BLOCK + 2ull * page + i) * BLOCK_BYTES, r->places[i]))
			memset(r->places[i], 0, BLOCK_BYTES);
}

static bool
decode_page(struct rebuild *r, struct space *space, uint32_t device, uint32_t page)
{
	struct error error;

	return space_decode_page(space, device, page, r->superblock.checkpoint, r->places[0],
		   r->places[1], &error) == 0;
}

/* Whether one place of the page does not hold up by itself. */
static bool
is_suspect(struct rebuild *r, uint32_t device, uint32_t page)
{
	bool valid = true;

	for (unsigned i = 0; valid && i < 2; i++) {
		struct space space;
		struct error error;

		space_init(&space, r->labels[0].slab_blocks, 1);
		space_add_device(&space, device, &r->labels[device].device_uuid,
		    r->labels[device].slabs_block, (uint32_t)r->labels[device].slab_count);
		valid = space_decode_page(&space, device, page, UINT64_MAX, r->places[i],
			    r->places[i], &error) == 0;
		space_fini(&space);
	}
	return !valid;
}

static void
find_lost_pages(struct rebuild *r)
{
	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		uint32_t pages = r->space.devices[d].page_count;

		r->lost[d] = xcalloc(BITMAP_WORDS(pages), sizeof(uint64_t));
		r->suspect[d] = xcalloc(BITMAP_WORDS(pages), sizeof(uint64_t));
		for (uint32_t page = 0; page < pages; page++) {
			read_places(r, d, page);
			if (!decode_page(r, &r->space, d, page)) {
				bitmap_set(r->lost[d], page);
				r->lost_count++;
			} else if (is_suspect(r, d, page)) {
				bitmap_set(r->suspect[d], page);
				r->suspect_count++;
			}
		}
	}
	if (r->lost_count > 0 || r->space.table_digest == r->superblock.table_digest)
		return;
	/* An older version passed for the right one: of a suspect, or else of any page. */
	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		for (uint32_t page = 0; page < r->space.devices[d].page_count; page++) {
			if (r->suspect_count > 0 && !bitmap_test(r->suspect[d], page))
				continue;
			bitmap_set(r->lost[d], page);
			r->lost_count++;
		}
	}
}

/* The newest segment of which a batch header lies on @slab; 0: none. */
static uint64_t
segment_on(struct rebuild *r, const struct slab *slab)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	const struct batch_header *header = (const void *)block;
	uint64_t segment = 0;

	for (uint32_t slot = 0; slot < r->space.slab_blocks; slot++) {
		if (overlay_read(
			r->devices[slab->device], space_offset_bytes(&r->space, slab, slot), block))
			continue;
		if (header->magic == BATCH_MAGIC && header->segment > segment &&
		    header->segment >> 47 == 0 &&
		    batch_header_valid(header, &r->superblock.pool_uuid, header->segment, slot,
			r->space.slab_blocks))
			segment = header->segment;
	}
	return segment;
}

/* Some slab is packed, or looks so. */
static bool
has_packed(struct rebuild *r)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	const struct packed_directory *directory = (const void *)block;

	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		const struct space_device *device = &r->space.devices[d];

		for (uint32_t i = 0; i < device->slab_count; i++) {
			const struct slab *slab = &device->slabs[i];

			if (slab->state == SLAB_PACKED ||
			    (overlay_read(r->devices[d], space_offset_bytes(&r->space, slab, 0),
				 block) == 0 &&
				directory->magic == PACKED_MAGIC))
				return true;
		}
	}
	return false;
}

static void
rebuild_slab(struct rebuild *r, struct slab *slab)
{
	uint64_t segment = segment_on(r, slab);

	/* A segment that a good page knows elsewhere is an old copy here. */
	if (segment == 0 || space_find(&r->space, segment))
		return;
	space_open_slab(&r->space, slab, segment);
	space_seal_slab(&r->space, slab, (uint32_t)r->superblock.checkpoint);
	for (uint32_t slot = 0; slot < r->space.slab_blocks; slot++)
		space_mark_live(&r->space, baddr_make(segment, slot));
}

/* The table once more, without what is lost, and then that from the slabs. */
static bool
rebuild_pages(struct rebuild *r)
{
	uint32_t per_page = table_records_per_page(r->space.slab_blocks);

	space_fini(&r->space);
	make_space(r);
	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		for (uint32_t page = 0; page < r->space.devices[d].page_count; page++) {
			if (bitmap_test(r->lost[d], page))
				continue;
			read_places(r, d, page);
			if (!decode_page(r, &r->space, d, page))
				return false;
		}
	}
	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		const struct space_device *device = &r->space.devices[d];

		for (uint32_t i = 0; i < device->slab_count; i++)
			if (bitmap_test(r->lost[d], i / per_page))
				rebuild_slab(r, &device->slabs[i]);
	}
	return true;
}

static int
write_pages(struct rebuild *r)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));

	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		const struct space_device *device = &r->space.devices[d];
		int rc = 0;

		for (uint32_t page = 0; rc == 0 && page < device->page_count; page++) {
			if (!bitmap_test(r->lost[d], page))
				continue;
			space_encode_page(&r->space, d, page, r->superblock.checkpoint, block);
			for (unsigned i = 0; rc == 0 && i < 2; i++)
				rc = overlay_write(r->devices[d],
				    (FORMAT_TABLE_BLOCK + 2ull * page + i) * BLOCK_BYTES, block);
			check_tell(r->check,
			    "%s, byte %llu: page %u of the slab table was made again from the "
			    "slabs",
			    device_name(r, d),
			    (unsigned long long)((FORMAT_TABLE_BLOCK + 2ull * page) * BLOCK_BYTES),
			    page);
		}
		if (rc == 0)
			rc = overlay_flush(r->devices[d]);
		if (rc)
			return rc;
	}
	return 0;
}

static int
write_superblock(struct rebuild *r)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	uint64_t place = r->superblock.checkpoint % 2;

	r->superblock.table_digest = r->space.table_digest;
	superblock_encode(&r->superblock, block);
	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		const uint64_t blocks[2] = { FORMAT_SUPERBLOCK_BLOCK + place,
			check_tail_block(r->devices[d]) + FORMAT_TAIL_SUPERBLOCK_BLOCK + place };

		for (unsigned i = 0; i < 2; i++) {
			int rc = overlay_write(r->devices[d], blocks[i] * BLOCK_BYTES, block);

			if (rc == 0)
				rc = overlay_flush(r->devices[d]);
			if (rc)
				return rc;
		}
	}
	return 0;
}

void
check_mend_table(struct check *check, struct offline *offline)
{
	struct rebuild *r = xcalloc(1, sizeof(*r));

	r->check = check;
	r->offline = offline;
	if (!find_pool(r)) {
		free(r);
		return; /* the import says why */
	}
	if (r->superblock.copies > 1) {
		/* What a lost page said stands on other devices too, but nothing here knows how to
		 * take it from there: the import refuses, and says which page it is. */
		free(r);
		return;
	}
	make_space(r);
	find_lost_pages(r);
	if (r->lost_count > 0) {
		if (has_packed(r)) {
			check_tell(check,
			    "pages of the slab table are lost, and cannot be made again: "
			    "the pool has packed slabs");
		} else if (!rebuild_pages(r)) {
			check_tell(
			    check, "the slab table contradicts itself and was left as it is");
		} else {
			int rc = write_pages(r);

			if (rc == 0)
				rc = write_superblock(r);
			if (rc)
				check_tell(check, "the slab table could not be written: %s",
				    strerror(-rc));
		}
	}
	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		free(r->lost[d]);
		free(r->suspect[d]);
	}
	space_fini(&r->space);
	free(r);
}
