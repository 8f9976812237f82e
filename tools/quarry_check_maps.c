/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All maps from their roots, as an import found them: places, checksums, epochs; then live bits
 * against what was reached.
 *
 * Every block that is reached gets a tag: 16 bits of a hash of what it is for: family (images that
 * may share blocks), level, block number.  It is 0 of none.  A block that is reached again with
 * another tag is claimed twice (two claims have the same tag by chance once in 65,535 times).  A
 * second walk says who claims those.
 */
#include "tools/quarry_check_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "metadata/export.h"
#include "metadata/reservation.h"

#define CONFLICTS_NAMED_MAX 256u

/* What a node that replaces another keeps live until it is written itself. */
#define TAG_REPLACED 1u

static void
show_progress(const struct check *check)
{
	uint64_t live = max_u64(check->pool->space.live_blocks, 1);
	unsigned done = (unsigned)min_u64(check->blocks * 40 / live, 40);

	fprintf(stderr, "\r[%-40.*s] %3u %%", (int)done, "########################################",
	    (unsigned)min_u64(check->blocks * 100 / live, 100));
}

/* What a fault at @entry concerns, in words. */
static void
place_text(const struct check *check, const struct map_entry *entry, uint64_t lba, uint64_t blocks,
    char *text, size_t size)
{
	const struct space *space = &check->pool->space;
	struct baddr addr = { entry->addr };
	uint32_t slot;
	const struct slab *slab = space_place(space, addr, &slot);
	char where[300] = "";

	if (slab)
		snprintf(where, sizeof(where),
		    "%s, byte %llu: ", check->pool->devices[slab->device].device->name,
		    (unsigned long long)space_offset_bytes(space, slab, slot));
	snprintf(text, size, "%s%s, bytes %llu to %llu (and what shares them)", where,
	    check->image_name, (unsigned long long)(lba * BLOCK_BYTES),
	    (unsigned long long)((lba + blocks) * BLOCK_BYTES - 1));
}

static void
fault(struct check *check, const struct map_entry *entry, uint64_t lba, uint64_t blocks,
    const char *what)
{
	char place[700];

	if (check->naming || check->mend)
		return;
	place_text(check, entry, lba, blocks, place, sizeof(place));
	check_tell(check, "%s: %s", place, what);
}

enum visit {
	VISIT_NEW,
	VISIT_KNOWN, /* reached before, by a relative */
	VISIT_BAD    /* was told of */
};

static uint16_t
tag_of(const struct check *check, uint64_t lba, uint64_t blocks, bool data)
{
	uint64_t hash = mix64(mix64(mix64(check->family) + blocks * 2 + data) + lba);

	return (uint16_t)(2 + hash % (UINT16_MAX - 1));
}

/* The place of the tag of slot @slot of @slab. */
static uint16_t *
tag_at(struct check *check, const struct slab *slab, uint32_t slot)
{
	uint16_t **tags = &check->tags[slab->device][slab->index];

	if (!*tags)
		*tags = xcalloc(check->pool->space.slab_blocks, sizeof(uint16_t));
	return &(*tags)[slot];
}

static enum visit
claimed_twice(struct check *check, const struct map_entry *entry, uint64_t lba, uint64_t blocks,
    const char *kind)
{
	char what[200];

	snprintf(what, sizeof(what), "its %s is also in use elsewhere: one of both is wrong", kind);
	fault(check, entry, lba, blocks, what);
	if (!check->naming && check->conflicts.count < CONFLICTS_NAMED_MAX)
		table_set(&check->conflicts, entry->addr, check);
	return VISIT_BAD;
}

/* In the walk that names: who came first. */
static void
name_claimant(struct check *check, const struct map_entry *entry, uint64_t lba, uint64_t blocks)
{
	char place[700];

	if (!table_get(&check->conflicts, entry->addr))
		return;
	place_text(check, entry, lba, blocks, place, sizeof(place));
	check_tell(check, "%s: this is where it is in use elsewhere", place);
}

/* Reads all copies of a block, and tells of those that are bad while another one serves.  0;
 * -EUCLEAN: all are damaged; or the error of the last. */
static int
read_copies(struct check *check, struct slab *leader, uint32_t slot, const struct map_entry *entry,
    uint8_t *block)
{
	const struct space *space = &check->pool->space;
	uint8_t copy[BLOCK_BYTES] __attribute__((aligned(8)));
	struct slab *places[COPIES_MAX];
	int errors[COPIES_MAX];
	unsigned count = space_places(space, leader, places);
	int rc = -ENODEV;
	bool good = false;

	for (unsigned i = 0; i < count; i++) {
		errors[i] = overlay_read(pool_device(check->pool, places[i]->device),
		    space_offset_bytes(space, places[i], slot), copy);
		if (!errors[i] &&
		    baddr_block_crc((struct baddr){ entry->addr }, copy) != entry->crc)
			errors[i] = -EUCLEAN;
		rc = errors[i] && !good ? errors[i] : 0;
		if (errors[i])
			continue;
		good = true;
		memcpy(block, copy, BLOCK_BYTES);
	}
	for (unsigned i = 0; good && i < count; i++)
		if (errors[i] && !check->naming && !check->mend)
			check_tell(check, "%s, byte %llu: a copy is %s; another one serves",
			    pool_device(check->pool, places[i]->device)->name,
			    (unsigned long long)space_offset_bytes(space, places[i], slot),
			    errors[i] == -EUCLEAN ? "damaged" : "unreadable");
	return rc;
}

/* Notes that @entry is reached; reads the block it points to if @block is not NULL. */
static enum visit
visit(struct check *check, const struct map_entry *entry, uint64_t lba, uint64_t blocks, bool data,
    uint8_t *block)
{
	struct pool *pool = check->pool;
	struct baddr addr = { entry->addr };
	uint32_t slot;
	struct slab *slab = space_place(&pool->space, addr, &slot);
	const char *kind = data ? "data" : "map node";
	uint16_t tag = tag_of(check, lba, blocks, data);
	uint16_t *seen;
	char what[200];
	int rc;

	if (!slab) {
		snprintf(what, sizeof(what),
		    "its %s lies in segment %llu, slot %u, which no slab holds", kind,
		    (unsigned long long)baddr_segment(addr), baddr_slot(addr));
		check->unplaced = true;
		fault(check, entry, lba, blocks, what);
		return VISIT_BAD;
	}
	seen = tag_at(check, slab, slot);
	if (*seen == tag)
		return VISIT_KNOWN;
	if (*seen)
		return claimed_twice(check, entry, lba, blocks, kind);
	*seen = tag;
	if (check->naming)
		name_claimant(check, entry, lba, blocks);
	else
		check->blocks++;
	if (entry->epoch > pool->catalog.epoch) {
		snprintf(what, sizeof(what), "its %s is of epoch %u, the pool of %u", kind,
		    entry->epoch, pool->catalog.epoch);
		fault(check, entry, lba, blocks, what);
	}
	if (check->progress && check->blocks % 4096 == 0)
		show_progress(check);
	if (!bitmap_test(slab->live_bits, slot)) {
		snprintf(what, sizeof(what), "its %s is in use but marked as dead: it can be lost",
		    kind);
		fault(check, entry, lba, blocks, what);
	}
	if (!block)
		return VISIT_NEW;
	rc = read_copies(check, slab, slot, entry, block);
	if (rc) {
		snprintf(what, sizeof(what), "its %s %s%s", kind,
		    rc != -EUCLEAN ? "is unreadable: " : "is damaged (wrong checksum)",
		    rc != -EUCLEAN ? strerror(-rc) : "");
		fault(check, entry, lba, blocks, what);
		return VISIT_BAD;
	}
	return VISIT_NEW;
}

static void
walk_data(struct check *check, const struct map_entry *entry, uint64_t lba)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	bool read = check->options->data && !check->mend && !check->naming;

	(void)visit(check, entry, lba, 1, true, read ? block : NULL);
}

/*
 * The tree of nodes at @level below @entry.  What another image reached before is not walked again:
 * images come by their cursors, so it was walked at least as far.
 */
static void
walk_node(struct check *check, struct map_entry *entry, unsigned level, uint64_t first)
{
	uint64_t cursor = check->image->deleted ? check->image->cursor : 0;
	struct map_entry entries[MAP_FANOUT];
	const struct node *node;

	if (entry->addr == 0 || first + (map_capacity(level + 1) - 1) < cursor)
		return;
	/* A node that the replay changed has no place yet. */
	node = entry->addr & NODE_VIRTUAL ? node_find(&check->pool->nodes, entry) : NULL;
	if (node && entry->addr & NODE_VIRTUAL) {
		memcpy(entries, node->entries, sizeof(entries));
	} else {
		enum visit seen =
		    visit(check, entry, first, map_capacity(level + 1), false, (uint8_t *)entries);

		if (seen == VISIT_BAD)
			check->incomplete = true;
		if (seen != VISIT_NEW)
			return;
	}
	for (unsigned i = 0; i < MAP_FANOUT; i++) {
		uint64_t lba = first + i * map_capacity(level);

		if (entries[i].addr == 0)
			continue;
		if (level > 0)
			walk_node(check, &entries[i], level - 1, lba);
		else if (lba >= cursor)
			walk_data(check, &entries[i], lba);
	}
}

static void
name_image(struct check *check)
{
	const struct image *image = check->image;
	char *text = check->image_name;
	size_t size = sizeof(check->image_name);

	if (image == &check->pool->catalog.self)
		snprintf(text, size, "the catalog of pool %s", check->pool->name);
	else if (image->deleted || !image->volume)
		snprintf(text, size, "deleted image %llu", (unsigned long long)image->id);
	else if (image->kind == IMAGE_SNAPSHOT)
		snprintf(text, size, "snapshot %s/%s@%s", check->pool->name, image->volume->name,
		    image->name);
	else
		snprintf(text, size, "volume %s/%s", check->pool->name, image->volume->name);
}

/* The id of the oldest ancestor; a family tree cannot be deeper than there are images. */
static uint64_t
family_of(const struct catalog *catalog, const struct image *image)
{
	for (uint64_t depth = 0; image->parent && depth < catalog->image_count; depth++)
		image = image->parent;
	return image->id;
}

static void
walk_image(struct check *check, struct image *image)
{
	const struct catalog *catalog = &check->pool->catalog;

	check->image = image;
	check->family = image == &catalog->self ? 0 : family_of(catalog, image);
	name_image(check);
	if (image->map.levels > 0)
		walk_node(check, &image->map.root, image->map.levels - 1u, 0);
	if (!image->deleted && image != &catalog->self && !image->volume && !check->naming &&
	    !check->mend)
		check_tell(check, "image %llu belongs to no volume and is not deleted",
		    (unsigned long long)image->id);
}

static int
by_cursor(const void *left, const void *right)
{
	const struct image *a = *(struct image *const *)left;
	const struct image *b = *(struct image *const *)right;
	uint64_t a_cursor = a->deleted ? a->cursor : 0;
	uint64_t b_cursor = b->deleted ? b->cursor : 0;

	if (a_cursor != b_cursor)
		return a_cursor < b_cursor ? -1 : 1;
	return a->id < b->id ? -1 : a->id > b->id;
}

static void
free_tags(struct check *check)
{
	const struct space *space = &check->pool->space;

	for (uint32_t d = 0; d < space->device_count; d++) {
		for (uint32_t i = 0; check->tags[d] && i < space->devices[d].mark; i++)
			free(check->tags[d][i]);
		free(check->tags[d]);
		check->tags[d] = NULL;
	}
}

static void
walk_images(struct check *check)
{
	struct catalog *catalog = &check->pool->catalog;
	const struct space *space = &check->pool->space;
	struct image **images = xcalloc(catalog->image_count + 1, sizeof(struct image *));
	size_t count = 0;

	for (uint32_t d = 0; d < space->device_count; d++)
		check->tags[d] = xcalloc(space->devices[d].mark, sizeof(uint16_t *));
	images[count++] = &catalog->self;
	list_for_each(node, &catalog->images) {
		CHECK(count <= catalog->image_count);
		images[count++] = container_of(node, struct image, link);
	}
	qsort(images, count, sizeof(struct image *), by_cursor);
	for (size_t i = 0; i < count; i++)
		walk_image(check, images[i]);
	free(images);
}

/* What was replaced by nodes that are not written yet is live until they are. */
static void
add_replaced(struct check *check)
{
	const struct nodes *nodes = &check->pool->nodes;

	for (unsigned level = 0; level < MAP_LEVELS_MAX; level++) {
		list_for_each(link, &nodes->dirty[level]) {
			struct baddr addr = { container_of(link, struct node, link)->replaces };
			uint32_t slot;
			const struct slab *slab = space_place(&check->pool->space, addr, &slot);
			uint16_t *seen;

			if (!slab)
				continue;
			seen = tag_at(check, slab, slot);
			if (*seen == 0)
				*seen = TAG_REPLACED;
		}
	}
}

static bool
is_reached(const struct check *check, const struct slab *slab, uint32_t slot)
{
	const uint16_t *tags = check->tags[slab->device][slab->index];

	return tags && tags[slot];
}

/* Makes the live bits of @slab what was reached: none are taken away if not all was. */
static void
mend_slab(struct check *check, struct slab *slab)
{
	struct space *space = &check->pool->space;
	uint64_t set = 0, cleared = 0;

	for (uint32_t slot = 0; slab->segment && slot < space->slab_blocks; slot++) {
		bool reached = is_reached(check, slab, slot);

		if (reached == bitmap_test(slab->live_bits, slot))
			continue;
		if (reached) {
			space_set_slot(space, slab, slot, true);
			set++;
		} else if (!check->incomplete) {
			space_set_slot(space, slab, slot, false);
			cleared++;
		}
	}
	if (set || cleared)
		check_tell(check,
		    "%s, byte %llu: %llu blocks of this slab are marked as in use now, and %llu "
		    "as free",
		    check->pool->devices[slab->device].device->name,
		    (unsigned long long)space_offset_bytes(space, slab, 0), (unsigned long long)set,
		    (unsigned long long)cleared);
}

/* What is marked as live, but nothing reaches. */
static void
find_leaks(struct check *check, const struct slab *slab)
{
	const struct space *space = &check->pool->space;
	uint64_t leaked = 0;

	for (uint32_t slot = 0; slab->live > 0 && slot < space->slab_blocks; slot++)
		leaked += bitmap_test(slab->live_bits, slot) && !is_reached(check, slab, slot);
	if (leaked)
		check_tell(check,
		    "%s, byte %llu: %llu blocks of this slab are marked as in use, but no image "
		    "reaches them: space is lost, no volume is affected",
		    check->pool->devices[slab->device].device->name,
		    (unsigned long long)space_offset_bytes(space, slab, 0),
		    (unsigned long long)leaked);
}

static void
compare_live_bits(struct check *check)
{
	const struct space *space = &check->pool->space;

	add_replaced(check);
	for (uint32_t d = 0; d < space->device_count; d++) {
		for (uint32_t i = 0; i < space->devices[d].mark; i++) {
			struct slab *slab = space_slab(&space->devices[d], i);

			if (check->mend && check->pool->state == POOL_STARTING)
				mend_slab(check, slab);
			else if (!check->mend && !check->incomplete)
				find_leaks(check, slab);
		}
	}
}

/* The directories of packed slabs, each with its copy at the slab's end. */
static void
check_directory(struct check *check, const struct slab *slab)
{
	const struct space *space = &check->pool->space;
	struct device *device = pool_device(check->pool, slab->device);
	size_t bytes = slab->directory_blocks * (size_t)BLOCK_BYTES;
	const uint32_t slots[2] = { 0, space->slab_blocks - slab->directory_blocks };
	bool valid[2];
	uint8_t *copies[2];

	for (unsigned i = 0; i < 2; i++) {
		uint64_t offset_bytes = space_offset_bytes(space, slab, slots[i]);
		struct packed_reader reader;
		struct error error;
		int rc = 0;

		copies[i] = xalloc_pages(bytes);
		for (size_t at = 0; rc == 0 && at < bytes; at += BLOCK_BYTES)
			rc = overlay_read(device, offset_bytes + at, copies[i] + at);
		valid[i] = rc == 0 &&
			   packed_open(&reader, copies[i], slab->directory_blocks,
			       space->slab_blocks, slab->segment, &check->pool->uuid, &error) == 0;
	}
	for (unsigned i = 0; i < 2; i++) {
		uint64_t offset_bytes = space_offset_bytes(space, slab, slots[i]);
		int rc = 0;

		if (valid[i] || (check->mend && !valid[!i]))
			continue;
		for (size_t at = 0; check->mend && rc == 0 && at < bytes; at += BLOCK_BYTES)
			rc = overlay_write(device, offset_bytes + at, copies[!i] + at);
		check_tell(check, "%s, byte %llu: the directory of a packed slab %s", device->name,
		    (unsigned long long)offset_bytes,
		    !check->mend ? (valid[!i] ? "is damaged; its copy serves, and no volume is "
						"affected"
					      : "is damaged, and so is its copy")
		    : rc         ? "could not be written again"
				 : "was written again from its copy");
	}
	free(copies[0]);
	free(copies[1]);
}

static void
check_directories(struct check *check)
{
	const struct space *space = &check->pool->space;

	for (uint32_t d = 0; d < space->device_count; d++) {
		for (uint32_t i = 0; i < space->devices[d].mark; i++) {
			const struct slab *slab = space_slab(&space->devices[d], i);

			if (slab->state == SLAB_PACKED && slab->live > 0)
				check_directory(check, slab);
		}
	}
}

/* What the catalog does not look into: others act on it. */
static void
check_notes(struct check *check)
{
	list_for_each(node, &check->pool->catalog.volumes) {
		const struct volume_record *volume = container_of(node, struct volume_record, link);
		const struct note *exports = volume->notes[NOTE_EXPORTS];
		const struct note *reservations = volume->notes[NOTE_RESERVATIONS];
		struct export_list list = { 0 };
		struct reservation reservation;

		if (exports && export_list_decode(&list, exports->bytes, exports->len_bytes))
			check_tell(
			    check, "the exports of volume %s cannot be understood", volume->name);
		export_list_fini(&list);
		if (reservations &&
		    reservation_decode(&reservation, reservations->bytes, reservations->len_bytes))
			check_tell(check, "the reservations of volume %s cannot be understood",
			    volume->name);
	}
}

void
check_maps(void *context, struct pool *pool)
{
	struct check *check = context;

	check->pool = pool;
	check->blocks = 0;
	check->incomplete = false;
	check->unplaced = false;
	table_init(&check->conflicts);
	if (pool->state == POOL_READONLY) {
		if (!check->mend)
			check_tell(check, "pool %s can only be opened read-only: %s", pool->name,
			    pool->state_reason);
		check->incomplete = true;
	}
	check_directories(check);
	check_notes(check);
	walk_images(check);
	if (check->mend && check->unplaced && pool->state == POOL_STARTING) {
		/* What is missing may lie on a slab that the table has as free. */
		pool->state = POOL_READONLY;
		check_tell(check, "blocks are missing: nothing more is written to the pool");
	}
	compare_live_bits(check);
	if (!check->mend && (!space_invariant(&pool->space) || !catalog_invariant(&pool->catalog)))
		check_tell(
		    check, "pool %s: its slab table or family tree contradicts itself", pool->name);
	free_tags(check);
	if (check->conflicts.count > 0 && !check->mend) {
		check->naming = true;
		walk_images(check);
		free_tags(check);
		check->naming = false;
	}
	table_fini(&check->conflicts);
	check->pool = NULL;
}
