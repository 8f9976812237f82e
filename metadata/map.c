/* SPDX-License-Identifier: Apache-2.0 */
/* Lookup and change of one tree; walks over several are in map_walk.c. */
#include "metadata/map.h"

#include "core/base/mutant.h"
#include "metadata/map_internal.h"

struct node *
map_child(struct nodes *nodes, struct map_entry *entry, uint8_t level, struct map_fault *fault)
{
	struct node *node = node_find(nodes, entry);

	if (!node) {
		fault->entry = *entry;
		fault->level = level;
	}
	return node;
}

/* The leaf that holds @lba: NULL in *@leaf where there is none (@span: how far the hole reaches).
 */
enum map_result
map_leaf(struct nodes *nodes, struct map *map, uint64_t lba, struct node **leaf, uint64_t *span,
    struct map_fault *fault)
{
	struct map_entry *entry = &map->root;

	*leaf = NULL;
	if (lba >= map_capacity(map->levels) || map->levels == 0) {
		*span = UINT64_MAX - lba;
		return MAP_OK;
	}
	for (unsigned level = map->levels; level-- > 0;) {
		if (entry->addr == 0) {
			*span = map_capacity(level + 1) - (lba & (map_capacity(level + 1) - 1));
			return MAP_OK;
		}
		struct node *node = map_child(nodes, entry, (uint8_t)level, fault);

		if (!node)
			return MAP_FAULT;
		if (level == 0)
			*leaf = node;
		else
			entry = &node->entries[map_index(lba, level)];
	}
	*span = MAP_FANOUT - map_index(lba, 0);
	return MAP_OK;
}

enum map_result
map_get(struct nodes *nodes, struct map *map, uint64_t lba, uint32_t count,
    struct map_entry *entries, struct map_fault *fault)
{
	while (count > 0) {
		struct node *leaf;
		uint64_t span;

		if (map_leaf(nodes, map, lba, &leaf, &span, fault) == MAP_FAULT)
			return MAP_FAULT;
		uint32_t n = (uint32_t)min_u64(count, span);

		if (leaf)
			memcpy(entries, &leaf->entries[map_index(lba, 0)], n * sizeof(*entries));
		else
			memset(entries, 0, n * sizeof(*entries));
		entries += n;
		lba += n;
		count -= n;
	}
	return MAP_OK;
}

/* Of a leaf's entry; @before is the one before it, of @before_depth, or NULL: most are alike. */
static uint32_t
entry_depth(const struct image *image, const struct map_entry *entry,
    const struct map_entry *before, uint32_t before_depth)
{
	if (entry->addr == 0)
		return 0;
	if (!image)
		return 1;
	if (before && before->addr && before->epoch == entry->epoch)
		return before_depth;
	return image_depth(image, entry->epoch);
}

enum map_result
map_run(struct nodes *nodes, struct map *map, const struct image *image, uint64_t lba,
    uint64_t count, unsigned nodes_max, uint32_t *depth, uint64_t *run, struct map_fault *fault)
{
	*run = 0;
	while (*run < count && nodes_max-- > 0) {
		struct node *leaf;
		uint64_t span;

		if (map_leaf(nodes, map, lba + *run, &leaf, &span, fault) == MAP_FAULT)
			return *run ? MAP_OK : MAP_FAULT;
		span = min_u64(span, count - *run);
		if (!leaf) {
			if (*run && *depth)
				return MAP_OK;
			*depth = 0;
			*run += span;
			continue;
		}
		const struct map_entry *entry = &leaf->entries[map_index(lba + *run, 0)];

		for (uint64_t i = 0; i < span; i++, entry++) {
			uint32_t this = entry_depth(image, entry, i ? entry - 1 : NULL, *depth);

			if (*run && *depth != this)
				return MAP_OK;
			*depth = this;
			++*run;
		}
	}
	return MAP_OK;
}

/* --- preparing --- */

enum map_result
map_prepare_write(
    struct nodes *nodes, struct image *image, uint64_t lba, uint64_t count, struct map_fault *fault)
{
	while (count > 0) {
		struct node *leaf;
		uint64_t span;

		if (map_leaf(nodes, &image->map, lba, &leaf, &span, fault) == MAP_FAULT)
			return MAP_FAULT;
		if (leaf) /* its entry will be changed soon */
			__builtin_prefetch(&leaf->entries[map_index(lba, 0)], 1);
		span = min_u64(span, count);
		lba += span;
		count -= span;
	}
	return MAP_OK;
}

enum map_result
map_prepare_zero(
    struct nodes *nodes, struct image *image, uint64_t lba, uint64_t count, struct map_fault *fault)
{
	struct node *leaf;
	uint64_t span;

	if (count <= MAP_ZERO_INLINE_BLOCKS)
		return map_prepare_write(nodes, image, lba, count, fault);
	/* Only the paths along both edges are changed; what lies between is cut off unseen. */
	if (map_leaf(nodes, &image->map, lba, &leaf, &span, fault) == MAP_FAULT)
		return MAP_FAULT;
	return map_leaf(nodes, &image->map, lba + count - 1, &leaf, &span, fault);
}

/* --- changing --- */

static bool
exclusive(const struct image *image, const struct map_entry *entry, uint64_t lba, unsigned level)
{
	return entry->epoch + MUTANT(EPOCH_OFF_BY_ONE) >
	       image_shared_epoch(image, map_last_lba(lba, level));
}

static void
add_levels(struct catalog *catalog, struct image *image, uint64_t lba)
{
	while (image->map.levels == 0 || lba >= map_capacity(image->map.levels)) {
		CHECK(image->map.levels < MAP_LEVELS_MAX);
		if (image->map.root.addr) {
			struct map_entry old = image->map.root;
			struct map_entry root;
			struct node *node =
			    node_create(catalog->nodes, &root, image->map.levels, catalog->epoch);

			node->entries[0] = old;
			image->map.root = root;
		}
		image->map.levels++;
	}
}

/* Makes the node behind @entry changeable; @lba is any block under it. */
static struct node *
dirty_child(struct catalog *catalog, struct image *image, struct map_entry *entry, uint64_t lba,
    unsigned level)
{
	if (entry->addr == 0)
		return node_create(catalog->nodes, entry, (uint8_t)level, catalog->epoch);
	return node_make_dirty(
	    catalog->nodes, entry, exclusive(image, entry, lba, level), catalog->epoch);
}

/* The place of the entry at @level that covers @lba, in changeable nodes. */
static struct map_entry *
dirty_path(struct catalog *catalog, struct image *image, uint64_t lba, unsigned to_level)
{
	struct map_entry *entry = &image->map.root;

	for (unsigned level = image->map.levels; level-- > to_level;) {
		struct node *node = dirty_child(catalog, image, entry, lba, level);

		entry = &node->entries[map_index(lba, level)];
	}
	return entry;
}

/* The block behind @entry is replaced: true: it was the image's own, and is marked dead, now or
 * @soon. */
static bool
replace_block(
    struct catalog *catalog, struct image *image, struct map_entry *entry, uint64_t lba, bool soon)
{
	struct space *space = catalog->nodes->space;
	struct baddr addr = { entry->addr };
	bool own = entry->addr &&
		   (entry->epoch + MUTANT(EPOCH_OFF_BY_ONE) > image_shared_epoch(image, lba) ||
		       MUTANT(DEAD_ALWAYS));

	if (own && !MUTANT(DEAD_NOT_SET)) {
		if (soon)
			space_mark_dead_soon(space, addr);
		else
			space_mark_dead(space, addr);
	}
	return own;
}

static void
lose_own(struct image *image, uint64_t blocks)
{
	image->own_blocks -= min_u64(blocks, image->own_blocks);
}

void
map_write(struct catalog *catalog, struct image *image, uint64_t lba, uint32_t count,
    struct baddr addr, const uint8_t *crcs)
{
	add_levels(catalog, image, lba + count - 1);
	while (count > 0) {
		struct map_entry *entry = dirty_path(catalog, image, lba, 0);
		uint32_t n = (uint32_t)min_u64(count, MAP_FANOUT - map_index(lba, 0));

		for (uint32_t i = 0; i < n; i++, entry++) {
			if (!replace_block(catalog, image, entry, lba + i, true))
				image->own_blocks++;
			if (entry->addr == 0)
				image->mapped_blocks++;
			entry->addr = addr.n + i;
			entry->epoch = catalog->epoch;
			memcpy(&entry->crc, crcs, sizeof(entry->crc));
			crcs += sizeof(entry->crc);
			space_mark_live(catalog->nodes->space, (struct baddr){ entry->addr });
		}
		addr.n += n;
		lba += n;
		count -= n;
	}
	catalog_mark_dirty(catalog, image);
}

struct zeroing {
	struct catalog *catalog;
	struct image *image;
	uint64_t lba; /* first of the whole range */
	uint64_t end;
	bool inline_only;
	struct image *trimmed; /* made when the first subtree is cut off */
};

static void
zero_leaf_entries(struct zeroing *z, struct node *leaf, uint64_t first, uint64_t lba, uint64_t end)
{
	for (uint64_t at = lba; at < end; at++) {
		struct map_entry *entry = &leaf->entries[at - first];

		if (entry->addr == 0)
			continue;
		if (replace_block(z->catalog, z->image, entry, at, false))
			lose_own(z->image, 1);
		memset(entry, 0, sizeof(*entry));
		z->image->mapped_blocks -= !MUTANT(MAPPED_NOT_COUNTED);
	}
}

/* Moves the whole subtree behind @entry out of the image. */
static void
cut_off(struct zeroing *z, struct map_entry *entry, unsigned level, uint64_t first)
{
	struct catalog *catalog = z->catalog;

	if (z->inline_only) {
		bool own = exclusive(z->image, entry, first, level);
		struct node *node = node_find(catalog->nodes, entry);

		CHECK(level == 0 && node);
		if (own) {
			for (unsigned i = 0; i < MAP_FANOUT; i++)
				if (replace_block(
					catalog, z->image, &node->entries[i], first + i, false))
					lose_own(z->image, 1);
		}
		for (unsigned i = 0; i < MAP_FANOUT; i++)
			z->image->mapped_blocks -= node->entries[i].addr != 0;
		if (own)
			node_condemn(catalog->nodes, entry);
		node_release(catalog->nodes, entry);
		return;
	}
	if (!z->trimmed) {
		z->trimmed = catalog_add_trimmed(catalog, z->image);
		z->trimmed->map.levels = z->image->map.levels;
	}
	struct map_entry *place = dirty_path(catalog, z->trimmed, first, level + 1);

	CHECK(place->addr == 0);
	lose_own(z->image, map_capacity(level + 1)); /* at most: nobody has counted them */
	*place = *entry;
	memset(entry, 0, sizeof(*entry));
}

static void
zero_subtree(struct zeroing *z, struct map_entry *entry, unsigned level, uint64_t first)
{
	uint64_t lba = max_u64(z->lba, first);
	uint64_t end = min_u64(z->end, first + map_capacity(level + 1));

	if (entry->addr == 0 || lba >= end)
		return;
	if (end - lba == map_capacity(level + 1) && (level == 0 || !z->inline_only)) {
		cut_off(z, entry, level, first);
		return;
	}
	struct node *node = dirty_child(z->catalog, z->image, entry, lba, level);

	if (level == 0) {
		zero_leaf_entries(z, node, first, lba, end);
		return;
	}
	uint64_t child_blocks = map_capacity(level);

	for (uint64_t i = (lba - first) / child_blocks; i <= (end - 1 - first) / child_blocks; i++)
		zero_subtree(z, &node->entries[i], level - 1, first + i * child_blocks);
}

void
map_zero(struct catalog *catalog, struct image *image, uint64_t lba, uint64_t count)
{
	struct zeroing z = {
		.catalog = catalog,
		.image = image,
		.lba = lba,
		.end = lba + count,
		.inline_only = count <= MAP_ZERO_INLINE_BLOCKS,
	};

	if (MUTANT(ZERO_FORGETS_TAIL) && count > MAP_ZERO_INLINE_BLOCKS)
		z.end--;
	if (image->map.levels == 0)
		return;
	zero_subtree(&z, &image->map.root, image->map.levels - 1u, 0);
	catalog_mark_dirty(catalog, image);
}
