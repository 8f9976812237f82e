/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the pool from the disks by itself, from the superblock down, and compares:
 *
 *   - every pointer's checksum, and no epoch newer than the pool's;
 *   - live bits == what all images reach: deleted ones from their cursors on, the catalog's
 * included;
 *   - each image against the model: the same blocks mapped, with the same contents, and counted.
 *
 * To be called when a checkpoint is durable and nothing happened since.
 */
#include <stdlib.h>

#include "core/base/crc32c.h"
#include "tests/sim/sim.h"

struct walk {
	struct sim *sim;
	const char *when;
	const struct space *space;
	bool degraded; /* a device is out, or was */
	struct superblock superblock;
	struct table reached; /* address -> content that it was compared with, or `walk` itself */
	/* the image at hand */
	uint64_t image_id;
	const struct model_image *model;
	uint64_t cursor;
	uint64_t mapped;
	uint32_t shared_epoch; /* of the parent: newer blocks are the image's own */
	uint64_t own;
	uint64_t head_of; /* volume id, if it is a head */
	void (*leaf)(
	    struct walk *walk, uint64_t lba, const struct map_entry *entry, const void *block);
};

static struct {
	uint64_t seen;
	uint64_t volume_id;
	uint64_t lba;
	struct baddr addr;
} sample;

/* Index of the disk that is device @device of the pool. */
static struct memory_disk *
disk_of(const struct walk *walk, unsigned device)
{
	return memory_device_disk(fault_device_inner(pool_device(walk->sim->pool, device)));
}

static void
read_block(struct walk *walk, const struct map_entry *entry, uint64_t lba, uint8_t *block)
{
	struct baddr addr = { entry->addr };
	struct slab *places[COPIES_MAX];
	uint32_t slot;
	struct slab *leader =
	    entry->addr & NODE_VIRTUAL ? NULL : space_place(walk->space, addr, &slot);
	unsigned count = leader ? space_places(walk->space, leader, places) : 0;

	if (count == 0 || (count < walk->space->copies && !walk->degraded))
		sim_fail(walk->sim, "%s: block %llu of image %llu lies at %u places: %#llx",
		    walk->when, (unsigned long long)lba, (unsigned long long)walk->image_id, count,
		    (unsigned long long)entry->addr);
	for (unsigned i = 0; i < count; i++) {
		memory_disk_read(disk_of(walk, places[i]->device),
		    space_offset_bytes(walk->space, places[i], slot), block, BLOCK_BYTES);
		if ((crc32c(0, block, BLOCK_BYTES) ^ baddr_crc_mix(addr)) != entry->crc)
			sim_fail(walk->sim,
			    "%s: block or node %llu of image %llu at %llu.%u has a wrong checksum "
			    "on device %u",
			    walk->when, (unsigned long long)lba, (unsigned long long)walk->image_id,
			    (unsigned long long)baddr_segment(addr), baddr_slot(addr),
			    places[i]->device);
	}
	if (entry->epoch > walk->superblock.epoch)
		sim_fail(walk->sim, "%s: block %llu of image %llu is of epoch %u, the pool of %u",
		    walk->when, (unsigned long long)lba, (unsigned long long)walk->image_id,
		    entry->epoch, walk->superblock.epoch);
}

static void
walk_data(struct walk *walk, uint64_t lba, const struct map_entry *entry)
{
	const struct content *content = walk->model ? model_get(walk->model, lba) : NULL;
	void *known = table_get(&walk->reached, entry->addr);
	uint8_t block[BLOCK_BYTES];

	walk->mapped++;
	walk->own += entry->epoch > walk->shared_epoch;
	if (walk->leaf || !known || (content && known != content)) {
		read_block(walk, entry, lba, block);
		if (walk->leaf)
			walk->leaf(walk, lba, entry, block);
	}
	if (walk->model && !content)
		sim_fail(walk->sim, "%s: image %llu maps block %llu, which is a hole", walk->when,
		    (unsigned long long)walk->image_id, (unsigned long long)lba);
	if (content && known != content && memcmp(block, content->bytes, BLOCK_BYTES) != 0) {
		uint64_t got, want;

		memcpy(&got, block + 2048, 8);
		memcpy(&want, content->bytes + 2048, 8);
		sim_fail(walk->sim,
		    "%s: block %llu of image %llu is wrong: in its middle %#llx, not %#llx",
		    walk->when, (unsigned long long)lba, (unsigned long long)walk->image_id,
		    (unsigned long long)got, (unsigned long long)want);
	}
	table_set(&walk->reached, entry->addr,
	    content ? (void *)(uintptr_t)content
	    : known ? known
		    : (void *)walk);
	if (walk->head_of && random_below(&walk->sim->crash_random, ++sample.seen) == 0) {
		sample.volume_id = walk->head_of;
		sample.lba = lba;
		sample.addr.n = entry->addr;
	}
}

static void
walk_node(struct walk *walk, const struct map_entry *entry, unsigned level, uint64_t first)
{
	struct map_entry entries[MAP_FANOUT];

	if (entry->addr == 0 || first + (map_capacity(level + 1) - 1) < walk->cursor)
		return;
	read_block(walk, entry, first, (uint8_t *)entries);
	if (!table_get(&walk->reached, entry->addr))
		table_set(&walk->reached, entry->addr, walk);
	for (unsigned i = 0; i < MAP_FANOUT; i++) {
		uint64_t lba = first + i * map_capacity(level);

		if (entries[i].addr == 0)
			continue;
		if (level > 0)
			walk_node(walk, &entries[i], level - 1, lba);
		else if (lba >= walk->cursor)
			walk_data(walk, lba, &entries[i]);
	}
}

struct catalog_copy {
	struct catalog_record *records;
	size_t count;
};

static struct catalog_copy copied;

static uint32_t
epoch_of(uint64_t image_id)
{
	for (size_t i = 0; i < copied.count; i++)
		if (copied.records[i].id == image_id)
			return copied.records[i].epoch;
	return 0;
}

static void
walk_record(struct walk *walk, const struct catalog_record *record)
{
	const struct model *model = walk->sim->history.present;
	bool deleted = record->flags & CATALOG_DELETED;

	if (record->kind != CATALOG_IMAGE)
		return;
	walk->image_id = record->id;
	walk->model = NULL;
	walk->head_of = 0;
	walk->cursor = deleted ? record->cursor : 0;
	walk->mapped = 0;
	walk->own = 0;
	walk->shared_epoch = epoch_of(record->parent);
	list_for_each(node, &model->volumes) {
		const struct model_volume *volume = container_of(node, struct model_volume, link);

		if (volume->head_id == record->id) {
			walk->model = &volume->image;
			walk->head_of = volume->id;
		}
		list_for_each(inner, &volume->snapshots) {
			const struct model_snapshot *snapshot =
			    container_of(inner, struct model_snapshot, link);

			if (snapshot->id == record->id)
				walk->model = &snapshot->image;
		}
	}
	if (!deleted && !walk->model)
		sim_fail(walk->sim, "%s: image %llu is not of this world", walk->when,
		    (unsigned long long)record->id);
	if (deleted && walk->model)
		sim_fail(walk->sim, "%s: image %llu is deleted, but should live", walk->when,
		    (unsigned long long)record->id);
	if (record->levels > 0)
		walk_node(walk, &record->root, record->levels - 1u, 0);
	if (walk->model && walk->mapped != walk->model->blocks.count)
		sim_fail(walk->sim, "%s: image %llu maps %llu blocks, not %llu", walk->when,
		    (unsigned long long)record->id, (unsigned long long)walk->mapped,
		    (unsigned long long)walk->model->blocks.count);
	if (walk->model && list_empty(&walk->sim->pool->catalog.deleted) &&
	    walk->mapped != record->mapped_blocks)
		sim_fail(walk->sim, "%s: image %llu maps %llu blocks and says %llu", walk->when,
		    (unsigned long long)record->id, (unsigned long long)walk->mapped,
		    (unsigned long long)record->mapped_blocks);
	if (walk->head_of && record->parent && list_empty(&walk->sim->pool->catalog.deleted) &&
	    record->own_blocks > walk->own)
		sim_fail(walk->sim, "%s: image %llu has %llu blocks of its own and says %llu",
		    walk->when, (unsigned long long)record->id, (unsigned long long)walk->own,
		    (unsigned long long)record->own_blocks);
}

static void
collect_records(struct walk *walk, uint64_t lba, const struct map_entry *entry, const void *block)
{
	const struct catalog_record *records = block;

	(void)walk;
	(void)lba;
	(void)entry;
	for (unsigned i = 0; i < CATALOG_RECORDS_PER_BLOCK; i++) {
		if (records[i].magic == 0)
			continue;
		copied.records =
		    xrealloc(copied.records, (copied.count + 1) * sizeof(*copied.records));
		copied.records[copied.count++] = records[i];
	}
}

static void
newest_superblock(struct walk *walk)
{
	bool found = false;
	unsigned device = 0;

	while (walk->space->devices[device].out)
		device++;
	for (unsigned place = 0; place < 2; place++) {
		uint8_t block[BLOCK_BYTES];
		struct superblock superblock;
		struct error error;

		memory_disk_read(disk_of(walk, device),
		    (FORMAT_SUPERBLOCK_BLOCK + place) * (uint64_t)BLOCK_BYTES, block, BLOCK_BYTES);
		if (superblock_decode(&superblock, block, &error))
			continue;
		if (!found || superblock.checkpoint > walk->superblock.checkpoint)
			walk->superblock = superblock;
		found = true;
	}
	if (!found || walk->superblock.checkpoint != walk->sim->pool->checkpoint_number)
		sim_fail(walk->sim, "%s: the disk has checkpoint %llu, the pool %llu", walk->when,
		    (unsigned long long)walk->superblock.checkpoint,
		    (unsigned long long)walk->sim->pool->checkpoint_number);
}

static void
compare_live(struct walk *walk)
{
	uint64_t leaked = 0, missing = 0, example = 0, live = 0;
	const struct space *space = walk->space;
	struct baddr addrs[SLAB_BLOCKS_MAX];
	uint32_t slots[SLAB_BLOCKS_MAX];

	for (uint32_t d = 0; d < space->device_count; d++) {
		for (uint32_t i = 0; i < space->devices[d].mark; i++) {
			const struct slab *slab = space_slab(&space->devices[d], i);
			uint32_t n = space_list_live(space, slab, addrs, slots);

			live += n;
			for (uint32_t k = 0; k < n; k++) {
				if (table_get(&walk->reached, addrs[k].n))
					continue;
				leaked++;
				example = addrs[k].n;
			}
		}
	}
	for (uint64_t i = 0; i <= walk->reached.mask; i++) {
		uint64_t addr = walk->reached.slots[i].key;

		if (addr && !space_is_live(space, (struct baddr){ addr })) {
			missing++;
			example = addr;
		}
	}
	if (leaked || missing || live != space->live_blocks)
		sim_fail(walk->sim,
		    "%s: of %llu live blocks %llu are leaked, and %llu are reached but dead (as "
		    "%llu.%u)",
		    walk->when, (unsigned long long)live, (unsigned long long)leaked,
		    (unsigned long long)missing,
		    (unsigned long long)baddr_segment((struct baddr){ example }),
		    baddr_slot((struct baddr){ example }));
}

static void
compare_note(
    struct sim *sim, const char *when, const struct model_volume *volume, const struct note *note)
{
	if (note ? note->len_bytes != volume->note_bytes ||
		       crc32c(0, note->bytes, note->len_bytes) != volume->note_crc
		 : volume->note_bytes != 0)
		sim_fail(
		    sim, "%s: the note of volume %s is not as it should be", when, volume->name);
}

void
walk_pool(struct sim *sim, const char *when)
{
	struct walk walk = { .sim = sim, .when = when, .space = &sim->pool->space };
	const struct model *model = sim->history.present;
	size_t images = 0;

	sim->stats.walks++;
	for (uint32_t d = 0; d < walk.space->device_count; d++)
		walk.degraded |= walk.space->devices[d].out;
	walk.degraded |= sim->was_out;
	memset(&sample, 0, sizeof(sample));
	copied.records = NULL;
	copied.count = 0;
	table_init(&walk.reached);
	newest_superblock(&walk);
	walk.leaf = collect_records;
	if (walk.superblock.catalog_levels > 0)
		walk_node(
		    &walk, &walk.superblock.catalog_root, walk.superblock.catalog_levels - 1u, 0);
	walk.leaf = NULL;
	for (size_t i = 0; i < copied.count; i++) {
		walk_record(&walk, &copied.records[i]);
		images += copied.records[i].kind == CATALOG_VOLUME;
	}
	if (images != model_volume_count(model))
		sim_fail(sim, "%s: %zu volumes in the catalog, not %u", when, images,
		    model_volume_count(model));
	list_for_each(node, &model->volumes) {
		const struct model_volume *volume = container_of(node, struct model_volume, link);
		const struct volume_record *record =
		    catalog_find_volume(&sim->pool->catalog, volume->name);
		size_t snapshots = 0;

		if (!record || record->id != volume->id || record->head->id != volume->head_id ||
		    record->size_bytes != volume->size_bytes ||
		    (record->flags & CATALOG_READONLY) != volume->readonly ||
		    (catalog_block_bytes(record) == 4096) != volume->large_blocks)
			sim_fail(sim, "%s: volume %s is not as it should be", when, volume->name);
		compare_note(sim, when, volume, record->notes[NOTE_RESERVATIONS]);
		list_for_each(inner, &volume->snapshots) {
			const struct model_snapshot *snapshot =
			    container_of(inner, struct model_snapshot, link);
			const struct image *image =
			    catalog_find_snapshot(&sim->pool->catalog, record, snapshot->name);

			snapshots++;
			if (!image || image->id != snapshot->id ||
			    image->size_bytes != snapshot->size_bytes)
				sim_fail(sim, "%s: %s@%s is not as it should be", when,
				    volume->name, snapshot->name);
		}
		list_for_each(inner, &record->snapshots)
			snapshots--;
		if (snapshots != 0)
			sim_fail(sim, "%s: %s has other snapshots", when, volume->name);
	}
	compare_live(&walk);
	if (!space_invariant(&sim->pool->space) || !catalog_invariant(&sim->pool->catalog))
		sim_fail(sim, "%s: an invariant of space or catalog does not hold", when);
	free(copied.records);
	table_fini(&walk.reached);
}

bool
walk_find_block(struct sim *sim, uint64_t *volume_id, uint64_t *lba, struct baddr *addr)
{
	(void)sim;
	if (sample.seen == 0)
		return false;
	*volume_id = sample.volume_id;
	*lba = sample.lba;
	*addr = sample.addr;
	return true;
}
