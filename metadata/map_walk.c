/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walks over several related trees at once: what differs, and what only a deleted image has.
 *
 * Each call descends anew from the roots at one block number, all trees in step, and handles the
 * largest span there that can be handled at once; so trees may change between calls, and a walk is
 * resumed from a number.
 */
#include "metadata/map_internal.h"

#include "core/base/mutant.h"

/* One tree on the way down; `entry` points to the node of the present level. */
struct descent {
	struct map *map;
	struct map_entry *entry; /* NULL: a hole, or still above the root */
	bool above;
};

static void
descent_begin(struct descent *d, struct map *map, uint64_t lba)
{
	d->map = map;
	d->entry = NULL;
	d->above = map && map->levels > 0 && lba < map_capacity(map->levels);
}

/* Down to @level, from the level above. */
static enum map_result
descent_step(
    struct nodes *nodes, struct descent *d, uint64_t lba, unsigned level, struct map_fault *fault)
{
	if (d->above) {
		if (level + 1 == d->map->levels) {
			d->above = false;
			d->entry = &d->map->root;
		}
		return MAP_OK;
	}
	if (!d->entry)
		return MAP_OK;
	if (d->entry->addr == 0) {
		d->entry = NULL;
		return MAP_OK;
	}
	struct node *node = map_child(nodes, d->entry, (uint8_t)(level + 1), fault);

	if (!node)
		return MAP_FAULT;
	d->entry = &node->entries[map_index(lba, level + 1)];
	return MAP_OK;
}

static bool
is_hole(const struct descent *d)
{
	return !d->above && (!d->entry || d->entry->addr == 0);
}

/* The leaf at the end of a descent; NULL in *@leaf where there is none. */
static enum map_result
descent_leaf(struct nodes *nodes, struct descent *d, struct node **leaf, struct map_fault *fault)
{
	*leaf = NULL;
	if (is_hole(d))
		return MAP_OK;
	*leaf = map_child(nodes, d->entry, 0, fault);
	return *leaf ? MAP_OK : MAP_FAULT;
}

static uint64_t
addr_in(const struct node *leaf, unsigned index)
{
	return leaf ? leaf->entries[index].addr : 0;
}

/* --- diff --- */

static bool
differing_run(const struct node *older, const struct node *newer, uint64_t *lba, uint64_t end,
    uint64_t *count, bool *hole)
{
	uint64_t leaf_end = min_u64(map_last_lba(*lba, 0) + 1, end);

	*count = 0;
	for (; *lba + *count < leaf_end;) {
		unsigned i = map_index(*lba + *count, 0);
		bool differs = addr_in(older, i) != addr_in(newer, i);
		bool is_zero = addr_in(newer, i) == 0;

		if (*count && (!differs || is_zero != *hole))
			return true;
		if (differs) {
			*hole = is_zero;
			++*count;
		} else {
			++*lba;
		}
	}
	return *count > 0;
}

enum map_result
map_diff(struct nodes *nodes, struct map *older, struct map *newer, uint64_t *lba, uint64_t end,
    uint64_t *count, bool *hole, unsigned nodes_max, struct map_fault *fault)
{
	unsigned levels = older->levels > newer->levels ? older->levels : newer->levels;

	*count = 0;
	while (*lba < end && nodes_max-- > 0) {
		struct descent a, b;
		unsigned level = levels;
		bool passed_over = false;

		descent_begin(&a, older, *lba);
		descent_begin(&b, newer, *lba);
		if (levels == 0 || *lba >= map_capacity(levels)) {
			*lba = end;
			return MAP_OK;
		}
		while (level-- > 0) {
			if (descent_step(nodes, &a, *lba, level, fault) == MAP_FAULT ||
			    descent_step(nodes, &b, *lba, level, fault) == MAP_FAULT)
				return MAP_FAULT;
			if ((is_hole(&a) && is_hole(&b)) || node_same(nodes, a.entry, b.entry)) {
				*lba = min_u64(map_last_lba(*lba, level) + 1, end);
				passed_over = true;
				break;
			}
		}
		if (passed_over)
			continue;
		struct node *leaf_a, *leaf_b;

		if (descent_leaf(nodes, &a, &leaf_a, fault) == MAP_FAULT ||
		    descent_leaf(nodes, &b, &leaf_b, fault) == MAP_FAULT)
			return MAP_FAULT;
		if (differing_run(leaf_a, leaf_b, lba, end, count, hole))
			return MAP_OK;
	}
	return MAP_OK;
}

/* --- what only one image has --- */

static bool
in_any(struct descent *others, unsigned count, struct nodes *nodes, const struct descent *x)
{
	for (unsigned i = 0; i < count; i++)
		if (node_same(nodes, x->entry, others[i].entry))
			return true;
	return false;
}

static enum map_result
count_leaf(struct nodes *nodes, struct descent *x, struct descent *others, unsigned count,
    uint64_t *unique_blocks, struct map_fault *fault)
{
	struct node *leaves[MAP_UNIQUE_OTHERS_MAX];
	struct node *leaf;

	if (descent_leaf(nodes, x, &leaf, fault) == MAP_FAULT)
		return MAP_FAULT;
	for (unsigned i = 0; i < count; i++)
		if (descent_leaf(nodes, &others[i], &leaves[i], fault) == MAP_FAULT)
			return MAP_FAULT;
	for (unsigned slot = 0; slot < MAP_FANOUT; slot++) {
		uint64_t addr = leaf->entries[slot].addr;
		bool unique = addr != 0;

		for (unsigned i = 0; i < count && unique; i++)
			unique = addr != addr_in(leaves[i], slot);
		*unique_blocks += unique;
	}
	return MAP_OK;
}

/* The largest span at count->lba that can be handled at once. */
static enum map_result
count_span(struct nodes *nodes, struct map *map, struct map *const *maps, unsigned others,
    struct map_count *count, struct map_fault *fault)
{
	struct descent x, y[MAP_UNIQUE_OTHERS_MAX];
	unsigned level = MAP_LEVELS_MAX;

	descent_begin(&x, map, count->lba);
	for (unsigned i = 0; i < others; i++)
		descent_begin(&y[i], maps[i], count->lba);
	for (;;) {
		level--;
		for (unsigned i = 0; i < others; i++)
			if (descent_step(nodes, &y[i], count->lba, level, fault) == MAP_FAULT)
				return MAP_FAULT;
		if (level >= map->levels)
			continue;
		if (descent_step(nodes, &x, count->lba, level, fault) == MAP_FAULT)
			return MAP_FAULT;
		if (!is_hole(&x) && !in_any(y, others, nodes, &x)) {
			if (level > 0)
				continue;
			if (count_leaf(nodes, &x, y, others, &count->blocks, fault) == MAP_FAULT)
				return MAP_FAULT;
		}
		count->lba = map_last_lba(count->lba, level) + 1;
		return MAP_OK;
	}
}

enum map_result
map_count_unique(struct nodes *nodes, struct map *map, struct map *const *maps, unsigned others,
    unsigned *leaves_max, struct map_count *count, struct map_fault *fault)
{
	uint64_t end = map->levels ? map_capacity(map->levels) : 0;

	CHECK(others <= MAP_UNIQUE_OTHERS_MAX);
	for (; count->lba<end && * leaves_max> 0; (*leaves_max)--)
		if (count_span(nodes, map, maps, others, count, fault) == MAP_FAULT)
			return MAP_FAULT;
	count->done = count->lba >= end;
	return MAP_OK;
}

/* --- reaping --- */

struct image *
map_reap_next(const struct catalog *catalog)
{
	struct image *begun = NULL, *fresh = NULL;

	list_for_each(node, &catalog->deleted) {
		struct image *image = container_of(node, struct image, deleted_link);

		/* Youngest first: who has no child is in nobody's way, but may be in its parent's.
		 * One that was begun goes before its neighbours, which rely on its cursor. */
		if (image->children == 0 || MUTANT(FAMILY_RULE))
			return image;
		if (image->children == 1 && image->cursor > 0 && !begun)
			begun = image;
		if (image->children == 1 && !fresh)
			fresh = image;
	}
	return begun ? begun : fresh;
}

struct reaping {
	struct catalog *catalog;
	struct nodes *nodes;
	struct image *image;
	bool counts;          /* there are images that still count what was trimmed off them */
	uint64_t counted;     /* blocks met */
	struct descent x;     /* the image itself */
	struct descent older; /* the parent that counts at this block */
	struct descent begun; /* a parent that is being reaped itself, and may need the node */
	struct descent younger;
	/* the entries met on the way down, by level */
	struct map_entry *x_at[MAP_LEVELS_MAX];
	struct map_entry *older_at[MAP_LEVELS_MAX];
	struct map_entry *begun_at[MAP_LEVELS_MAX];
	struct map_entry *younger_at[MAP_LEVELS_MAX];
};

static struct map *
map_of(struct image *image)
{
	return image ? &image->map : NULL;
}

static void
reap_begin(struct reaping *r, uint64_t lba)
{
	struct image *older = r->image->parent;
	struct image *begun = NULL;

	while (older && older->deleted && lba < older->cursor) {
		begun = older;
		older = older->parent;
	}
	descent_begin(&r->x, &r->image->map, lba);
	descent_begin(&r->older, map_of(older), lba);
	descent_begin(&r->begun, map_of(begun), lba);
	descent_begin(&r->younger, map_of(catalog_only_child(r->catalog, r->image)), lba);
}

static enum map_result
reap_step(struct reaping *r, uint64_t lba, unsigned level, struct map_fault *fault)
{
	if (descent_step(r->nodes, &r->x, lba, level, fault) == MAP_FAULT ||
	    descent_step(r->nodes, &r->older, lba, level, fault) == MAP_FAULT ||
	    descent_step(r->nodes, &r->younger, lba, level, fault) == MAP_FAULT)
		return MAP_FAULT;
	/* Behind a node that was freed already there is nothing to compare with. */
	if (r->image->parent && map_last_lba(lba, level) < r->image->parent->cursor)
		descent_begin(&r->begun, NULL, lba);
	else if (descent_step(r->nodes, &r->begun, lba, level, fault) == MAP_FAULT)
		return MAP_FAULT;
	r->x_at[level] = r->x.entry;
	r->older_at[level] = r->older.entry;
	r->begun_at[level] = r->begun.entry;
	r->younger_at[level] = r->younger.entry;
	return MAP_OK;
}

static bool
shared_at(struct reaping *r, unsigned level)
{
	return node_same(r->nodes, r->x_at[level], r->older_at[level]) ||
	       node_same(r->nodes, r->x_at[level], r->younger_at[level]);
}

/*
 * Whether @image still counts what @trimmed was cut off with: it is the image that was trimmed, or
 * began as one that counted it.  Whoever began earlier than the trim never did.
 */
static bool
counts_trimmed(
    const struct catalog *catalog, const struct image *trimmed, const struct image *image)
{
	/* The trimmed image itself may be gone by now. */
	while (image && image->id > trimmed->id && image->made_from) {
		if (image->made_from == trimmed->made_from)
			return true;
		image = catalog_image(catalog, image->made_from);
	}
	return false;
}

/* Takes @blocks off what each live image counts that @trimmed was cut off; whether there are any.
 */
static bool
uncount(struct catalog *catalog, const struct image *trimmed, uint64_t blocks)
{
	struct image *from = catalog_image(catalog, trimmed->made_from);
	bool any = false;

	if (from && !from->deleted) {
		from->mapped_blocks -= min_u64(blocks, from->mapped_blocks);
		catalog_mark_dirty(catalog, from);
		any = true;
	}
	/* Images are listed by age. */
	for (struct list *node = catalog->images.prev; node != &catalog->images;
	     node = node->prev) {
		struct image *image = container_of(node, struct image, link);

		if (image->id < trimmed->id)
			break;
		if (image->deleted || image == from || !counts_trimmed(catalog, trimmed, image))
			continue;
		image->mapped_blocks -= min_u64(blocks, image->mapped_blocks);
		catalog_mark_dirty(catalog, image);
		any = true;
	}
	return any;
}

static enum map_result
reap_leaf(struct reaping *r, struct map_fault *fault)
{
	struct node *leaf, *older = NULL, *younger = NULL;
	uint64_t mapped = 0;
	bool own;

	if (descent_leaf(r->nodes, &r->x, &leaf, fault) == MAP_FAULT)
		return MAP_FAULT;
	own = !shared_at(r, 0);
	if (own && (descent_leaf(r->nodes, &r->older, &older, fault) == MAP_FAULT ||
		       descent_leaf(r->nodes, &r->younger, &younger, fault) == MAP_FAULT))
		return MAP_FAULT;
	for (unsigned i = 0; i < MAP_FANOUT; i++) {
		uint64_t addr = leaf->entries[i].addr;

		mapped += addr != 0;
		if (own && addr && addr != addr_in(older, i) &&
		    (addr != addr_in(younger, i) || MUTANT(REAPER_FORGETS_YOUNGER)))
			space_mark_dead(r->nodes->space, (struct baddr){ addr });
	}
	r->counted += mapped;
	return MAP_OK;
}

/* The walk leaves the nodes that end before @lba_next: those that nobody else has are free. */
static void
leave_nodes(struct reaping *r, unsigned from_level, uint64_t lba_next)
{
	for (unsigned level = from_level; level < r->image->map.levels; level++) {
		if (lba_next & (map_capacity(level + 1) - 1))
			return;
		if (!shared_at(r, level) &&
		    !node_same(r->nodes, r->x_at[level], r->begun_at[level]))
			node_condemn(r->nodes, r->x_at[level]);
	}
}

static enum map_result
reap_some(struct reaping *r, unsigned nodes_max, struct map_fault *fault)
{
	struct image *image = r->image;
	uint64_t end = map_capacity(image->map.levels);

	while (image->cursor < end && image->map.root.addr && nodes_max-- > 0) {
		uint64_t lba = image->cursor;
		unsigned level = image->map.levels;
		bool skipped = false;

		reap_begin(r, lba);
		/* The trees may be taller than this one. */
		for (unsigned above = MAP_LEVELS_MAX; above-- > level;)
			if (descent_step(r->nodes, &r->older, lba, above, fault) == MAP_FAULT ||
			    descent_step(r->nodes, &r->begun, lba, above, fault) == MAP_FAULT ||
			    descent_step(r->nodes, &r->younger, lba, above, fault) == MAP_FAULT)
				return MAP_FAULT;
		while (level-- > 0 && !skipped) {
			if (reap_step(r, lba, level, fault) == MAP_FAULT)
				return MAP_FAULT;
			bool hole = is_hole(&r->x);

			if (hole || (shared_at(r, level) && !r->counts)) {
				image->cursor = map_last_lba(lba, level) + 1;
				leave_nodes(r, level + 1, image->cursor);
				skipped = true;
			} else if (level == 0) {
				if (reap_leaf(r, fault) == MAP_FAULT)
					return MAP_FAULT;
				image->cursor = map_last_lba(lba, 0) + 1;
				leave_nodes(r, 0, image->cursor);
				skipped = true;
			}
		}
		catalog_mark_dirty(r->catalog, image);
	}
	return MAP_OK;
}

enum map_result
map_reap(struct catalog *catalog, struct image *image, unsigned nodes_max, bool *finished,
    struct map_fault *fault)
{
	struct reaping r = { .catalog = catalog, .nodes = catalog->nodes, .image = image };
	enum map_result result;

	CHECK(image->deleted && image->children <= 1);
	r.counts = image->kind == IMAGE_TRIMMED && uncount(catalog, image, 0);
	result = reap_some(&r, nodes_max, fault);
	if (r.counts && r.counted)
		uncount(catalog, image, r.counted);
	*finished = result == MAP_OK &&
		    (image->cursor >= map_capacity(image->map.levels) || image->map.root.addr == 0);
	return result;
}
