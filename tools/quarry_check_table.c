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
 * What a packed slab holds its directory says.  A block may lie at several places then, one of a
 * segment and those where relocation moved it, all with the same content; one of them may be live.
 * That is where a page that is not lost says; or else the slab that was packed last of those on
 * which the block is as the directory's checksum says; or else where the log wrote it.
 *
 * Order: pages, flush, superblock.  Until that is written, all its copies, the digest does not fit
 * and the pool is as damaged as before.
 */
#include "tools/quarry_check_internal.h"

#include <stdio.h>
#include <stdlib.h>

/* Blocks of a slab in which something begins, if anything lies there: the first one may be bad. */
#define USED_SLOTS 8u

struct rebuild {
	struct check *check;
	struct offline *offline;
	struct label labels[POOL_DEVICES_MAX];
	struct device *devices[POOL_DEVICES_MAX]; /* by index in the pool; NULL: removed */
	uint32_t slab_blocks;
	struct device_set set;        /* the newest */
	struct superblock superblock; /* the newest */
	struct space space;
	struct table known;                  /* packed slabs of good pages, by number */
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

static void
look_for_set(struct rebuild *r, struct device *device)
{
	const uint64_t blocks[2] = { FORMAT_DEVICE_SET_BLOCK,
		check_tail_block(device) + FORMAT_TAIL_DEVICE_SET_BLOCK };
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));

	for (unsigned k = 0; k < 4; k++) {
		struct device_set set;
		struct error error;

		if (overlay_read(device, (blocks[k / 2] + k % 2) * BLOCK_BYTES, block) == 0 &&
		    device_set_decode(&set, block, &error) == 0 &&
		    device_set_is_newer(&set, &r->set))
			r->set = set;
	}
}

static bool
was_removed(const struct rebuild *r, uint32_t device)
{
	return device < r->set.count && r->set.devices[device].state == DEVICE_STATE_REMOVED;
}

/* All devices there, labels that fit together, and a superblock. */
static bool
find_pool(struct rebuild *r)
{
	const struct label *first = NULL;
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
		look_for_set(r, device);
		for (unsigned k = 0; k < 4; k++)
			if (check_read_superblock(
				device, blocks[k / 2] + k % 2, &superblock, &error) == 0 &&
			    uuid_equal(&superblock.pool_uuid, &label.pool_uuid) &&
			    superblock.checkpoint > r->superblock.checkpoint)
				r->superblock = superblock;
	}
	for (uint32_t i = 0; i < POOL_DEVICES_MAX; i++) {
		bool wanted = i < r->superblock.device_count && !was_removed(r, i);

		if (wanted != (r->devices[i] != NULL))
			return false;
		if (!wanted)
			continue;
		first = first ? first : &r->labels[i];
		if (!uuid_equal(&r->labels[i].pool_uuid, &r->superblock.pool_uuid) ||
		    r->labels[i].slab_blocks != first->slab_blocks)
			return false;
	}
	r->slab_blocks = first ? first->slab_blocks : 0;
	return first;
}

static void
make_space(struct rebuild *r)
{
	space_init(&r->space, r->slab_blocks, 1);
	for (uint32_t i = 0; i < r->superblock.device_count; i++)
		if (r->devices[i])
			space_add_device(&r->space, i, &r->labels[i].device_uuid,
			    r->labels[i].slabs_block, (uint32_t)r->labels[i].slab_count);
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
	const struct uuid *uuid = &r->labels[device].device_uuid;

	return !space_page_valid(uuid, page, r->places[0]) ||
	       !space_page_valid(uuid, page, r->places[1]);
}

/* Decodes pages from @page on. */
static void
judge_pages(struct rebuild *r, uint32_t d, uint32_t page)
{
	for (; page < r->space.devices[d].page_count; page++) {
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

static bool
place_counts(const struct rebuild *r, uint32_t d, uint32_t page, unsigned place)
{
	struct table_page header;

	memcpy(&header, r->places[place], sizeof(header));
	return space_page_valid(&r->labels[d].device_uuid, page, r->places[place]) &&
	       header.checkpoint <= r->superblock.checkpoint;
}

/* Something of the pool was written to slab @index: a batch begins in its first blocks, or a
 * directory. */
static bool
looks_used(struct rebuild *r, uint32_t d, uint64_t index)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	const struct batch_header *header = (const void *)block;
	uint64_t first = r->labels[d].slabs_block + index * r->slab_blocks;

	for (uint32_t slot = 0; slot < USED_SLOTS; slot++) {
		if (overlay_read(r->devices[d], (first + slot) * BLOCK_BYTES, block))
			return true;
		if (header->magic == PACKED_MAGIC ||
		    (header->magic == BATCH_MAGIC &&
			batch_header_valid(header, &r->superblock.pool_uuid, header->segment, slot,
			    r->slab_blocks)))
			return true;
	}
	return false;
}

/* Page 0, which is lost, said how many slabs were used: those of all pages that are there, and on
 * which something lies.  Too many do no harm: the maps correct what is said of them. */
static void
look_for_mark(struct rebuild *r, uint32_t d)
{
	uint32_t per_page = table_records_per_page(r->slab_blocks);
	uint64_t slabs = r->labels[d].slab_count, known = r->space.devices[d].mark, mark = slabs;
	uint32_t first = r->space.devices[d].page_count;

	for (; mark > known; mark--) {
		uint32_t page = (uint32_t)((mark - 1) / per_page);

		if (looks_used(r, d, mark - 1))
			break;
		if (mark != slabs && mark % per_page != 0)
			continue;
		read_places(r, d, page);
		if (place_counts(r, d, page, 0) || place_counts(r, d, page, 1))
			break;
	}
	if (mark > 0)
		(void)space_reach(&r->space, d, (uint32_t)mark - 1);
	judge_pages(r, d, first);
}

static void
find_lost_pages(struct rebuild *r)
{
	bool none_suspect;

	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		uint64_t pages =
		    div_round_up(r->labels[d].slab_count, table_records_per_page(r->slab_blocks));

		r->lost[d] = xcalloc(BITMAP_WORDS(pages) + 1, sizeof(uint64_t));
		r->suspect[d] = xcalloc(BITMAP_WORDS(pages) + 1, sizeof(uint64_t));
		if (!r->devices[d])
			continue;
		judge_pages(r, d, 0);
		if (bitmap_test(r->lost[d], 0))
			look_for_mark(r, d);
	}
	if (r->lost_count > 0 || r->space.table_digest == r->superblock.table_digest)
		return;
	/* An older version passed for the right one: of a suspect, or else of any page. */
	none_suspect = r->suspect_count == 0;
	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		if (r->devices[d] && (none_suspect || bitmap_test(r->suspect[d], 0)))
			look_for_mark(r, d);
		for (uint32_t page = 0; page < r->space.devices[d].page_count; page++) {
			if (!none_suspect && !bitmap_test(r->suspect[d], page))
				continue;
			r->lost_count += bitmap_set(r->lost[d], page);
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

/* The superblock says where the log goes on; what was on these slabs before is not needed. */
static bool
is_of_log(const struct rebuild *r, const struct slab *slab)
{
	return slab->device == r->superblock.log_device && slab->index == r->superblock.log_slab;
}

static bool
is_next_of_log(const struct rebuild *r, const struct slab *slab)
{
	return slab->device == r->superblock.log_next_device &&
	       slab->index == r->superblock.log_next_slab;
}

/* --- packed slabs --- */

/* A slab whose page is lost, and on which a directory begins. */
struct found_packed {
	struct slab *slab;
	uint64_t number;
	uint32_t directory_blocks;
};

/* Reads the directory of @slab that begins at @slot into @directory.  -EUCLEAN, or an I/O error. */
static int
read_directory(struct rebuild *r, const struct slab *slab, uint32_t slot, uint64_t number,
    uint32_t directory_blocks, void *directory, struct packed_reader *reader)
{
	struct error error;

	for (uint32_t i = 0; i < directory_blocks; i++) {
		int rc = overlay_read(r->devices[slab->device],
		    space_offset_bytes(&r->space, slab, slot + i),
		    (uint8_t *)directory + (size_t)i * BLOCK_BYTES);

		if (rc)
			return rc;
	}
	return packed_open(reader, directory, directory_blocks, r->space.slab_blocks, number,
	    &r->superblock.pool_uuid, &error);
}

/* What lies on the slabs that good pages have as packed.  False: they contradict each other. */
static bool
load_packed(struct rebuild *r, void *directory)
{
	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		for (uint32_t i = 0; i < r->space.devices[d].mark; i++) {
			struct slab *slab = space_slab(&r->space.devices[d], i);
			uint32_t blocks = slab->directory_blocks;
			struct packed_reader reader;
			struct error error;

			if (slab->state != SLAB_PACKED)
				continue;
			table_set(&r->known, slab->segment, slab);
			/* Of one that has lost both the import tells. */
			if (read_directory(r, slab, 0, slab->segment, blocks, directory, &reader) &&
			    read_directory(r, slab, r->space.slab_blocks - blocks, slab->segment,
				blocks, directory, &reader))
				continue;
			if (space_load_pieces(&r->space, slab, &reader, &error))
				return false;
		}
	}
	return true;
}

/* Adds @slab to @found if a directory begins there that a table may know. */
static size_t
look_for_directory(
    struct rebuild *r, struct slab *slab, struct found_packed *found, size_t count, void *directory)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	const struct packed_directory *header = (const void *)block;
	struct packed_reader reader;

	if (is_of_log(r, slab) || is_next_of_log(r, slab) ||
	    overlay_read(r->devices[slab->device], space_offset_bytes(&r->space, slab, 0), block) ||
	    header->magic != PACKED_MAGIC || header->directory_blocks == 0 ||
	    2ull * header->directory_blocks >= r->space.slab_blocks ||
	    header->number >= r->superblock.next_segment || table_get(&r->known, header->number) ||
	    read_directory(
		r, slab, 0, header->number, header->directory_blocks, directory, &reader))
		return count;
	found[count] = (struct found_packed){ slab, header->number, header->directory_blocks };
	return count + 1;
}

static int
compare_found(const void *left, const void *right)
{
	const struct found_packed *a = left, *b = right;

	return a->number < b->number ? 1 : a->number > b->number ? -1 : 0;
}

/* The slab is packed again; live is what lies nowhere else, if it is as it should be. */
static void
restore_packed(struct rebuild *r, const struct found_packed *found, void *directory)
{
	struct slab *slab = found->slab;
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	uint16_t list[SLAB_BLOCKS_MAX], places[SLAB_BLOCKS_MAX];
	uint64_t scattered[BITMAP_WORDS(SLAB_BLOCKS_MAX)];
	struct packed_reader reader;
	struct packed_view view;

	if (read_directory(r, slab, 0, found->number, found->directory_blocks, directory, &reader))
		return;
	space_restore_packed(&r->space, slab, found->number, found->directory_blocks, &reader,
	    (uint32_t)r->superblock.checkpoint);
	(void)packed_scattered(&reader, scattered);
	while (packed_next(&reader, &view)) {
		packed_list(view.slots, view.count, r->space.slab_blocks, list);
		packed_places(&view, scattered, r->space.slab_blocks, places);
		for (uint32_t k = 0; k < view.count; k++) {
			struct baddr addr = baddr_make(view.segment, list[k]);

			if (space_is_live(&r->space, addr) || places[k] == PACKED_NOWHERE)
				continue;
			if (overlay_read(r->devices[slab->device],
				space_offset_bytes(&r->space, slab, places[k]), block) == 0 &&
			    baddr_block_crc(addr, block) == view.crcs[k])
				space_set_slot(&r->space, slab, places[k], true);
		}
	}
}

/* The next slab, from @slab on of @device, whose page is lost, and where to go on; NULL: none. */
static struct slab *
next_lost_slab(struct rebuild *r, uint32_t *device, uint32_t *slab)
{
	uint32_t per_page = table_records_per_page(r->space.slab_blocks);

	for (; *device < r->superblock.device_count; ++*device, *slab = 0)
		while (*slab < r->space.devices[*device].mark) {
			uint32_t i = (*slab)++;

			if (bitmap_test(r->lost[*device], i / per_page))
				return space_slab(&r->space.devices[*device], i);
		}
	return NULL;
}

static void
restore_all_packed(struct rebuild *r, void *directory)
{
	struct found_packed *found = xcalloc(r->space.span_count, sizeof(*found));
	uint32_t device = 0, at = 0;
	struct slab *slab;
	size_t count = 0;

	while ((slab = next_lost_slab(r, &device, &at)))
		count = look_for_directory(r, slab, found, count, directory);
	qsort(found, count, sizeof(*found), compare_found);
	for (size_t i = 0; i < count; i++)
		if (i == 0 || found[i].number != found[i - 1].number)
			restore_packed(r, &found[i], directory);
	free(found);
}

/* --- segments --- */

static void
rebuild_slab(struct rebuild *r, struct slab *slab)
{
	uint64_t segment = r->superblock.log_segment;
	uint32_t written = r->superblock.log_slot;

	if (slab->state != SLAB_FREE || is_next_of_log(r, slab))
		return;
	if (!is_of_log(r, slab)) {
		segment = segment_on(r, slab);
		written = r->space.slab_blocks;
	}
	/* A segment that a good page knows elsewhere is an old copy here. */
	if (segment == 0 || space_find(&r->space, segment))
		return;
	space_open_slab(&r->space, slab, segment);
	space_seal_slab(&r->space, slab, (uint32_t)r->superblock.checkpoint);
	for (uint32_t slot = 0; slot < written; slot++)
		space_mark_live(&r->space, baddr_make(segment, slot));
}

/* The table once more, without what is lost, and then that from the slabs. */
static bool
rebuild_pages(struct rebuild *r)
{
	uint32_t device = 0, at = 0, marks[POOL_DEVICES_MAX];
	struct slab *slab;
	bool consistent;
	void *directory;

	for (uint32_t d = 0; d < r->superblock.device_count; d++)
		marks[d] = r->space.devices[d].mark;
	space_fini(&r->space);
	make_space(r);
	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		if (marks[d] > 0)
			(void)space_reach(&r->space, d, marks[d] - 1);
		for (uint32_t page = 0; page < r->space.devices[d].page_count; page++) {
			if (bitmap_test(r->lost[d], page))
				continue;
			read_places(r, d, page);
			if (!decode_page(r, &r->space, d, page))
				return false;
		}
	}
	directory = xalloc_pages(r->space.slab_blocks / 2 * (size_t)BLOCK_BYTES);
	table_init(&r->known);
	consistent = load_packed(r, directory);
	if (consistent) {
		restore_all_packed(r, directory);
		while ((slab = next_lost_slab(r, &device, &at)))
			rebuild_slab(r, slab);
	}
	table_fini(&r->known);
	free(directory);
	return consistent;
}

static int
write_pages(struct rebuild *r)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));

	space_begin_table(&r->space);
	for (uint32_t d = 0; d < r->superblock.device_count; d++) {
		const struct space_device *device = &r->space.devices[d];
		int rc = 0;

		if (!r->devices[d])
			continue;
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
		uint64_t blocks[2] = { FORMAT_SUPERBLOCK_BLOCK + place };

		if (!r->devices[d])
			continue;
		blocks[1] = check_tail_block(r->devices[d]) + FORMAT_TAIL_SUPERBLOCK_BLOCK + place;
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
		if (!rebuild_pages(r)) {
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
