/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mounting anything: a valid pool on a memory device (two volumes, a snapshot, a clone, a deleted
 * one that is being freed, packed slabs) is changed here and there, its checksums are made right
 * again up to the superblock, and it is imported.  Either that is refused, or volumes are read,
 * written, trimmed and deleted; then it is stopped.  Nothing may crash or hang, and what is
 * accepted keeps the invariants of space and catalog.
 *
 * An input is a list of changes: kind of structure, number of it, offset, width, value.
 */
#include <stdlib.h>

#include "backends/memory.h"
#include "core/base/diag.h"
#include "core/pool_admin.h"
#include "core/pool_internal.h"
#include "core/pool_sync.h"
#include "tests/fuzz/fuzz.h"

#define SLAB_BLOCKS 64u
#define DISK_BYTES (10 * MIB)
#define DISK_BLOCKS (DISK_BYTES / BLOCK_BYTES)
#define CHANGES_MAX 16u

enum place_kind {
	PLACE_LABEL,
	PLACE_SUPERBLOCK,
	PLACE_TABLE,
	PLACE_CATALOG, /* a block of records */
	PLACE_CATALOG_NODE,
	PLACE_NODE,
	PLACE_BATCH,
	PLACE_PACKED, /* a directory; its copy follows it */
	PLACE_KINDS,
};

/* A structure in the image, and where the checksum of its block lies: an entry in another block. */
struct place {
	uint64_t block;
	struct baddr addr;
	uint64_t parent_block; /* 0: none */
	uint32_t parent_offset;
};

static struct {
	bool made;
	struct reactor reactor;
	uint64_t used[DISK_BLOCKS]; /* blocks that are not zeroes */
	size_t used_count;
	uint8_t *bytes; /* the image */
	struct place *places[PLACE_KINDS];
	size_t counts[PLACE_KINDS];
	struct label label;
	struct superblock superblock;
} base;

/* --- running an engine --- */

static const struct pool_config config = {
	.reactor = &base.reactor,
	.node_cache_bytes = 1 * MIB,
};

static struct pool *
open_pool(struct memory_disk *disk, bool create)
{
	struct memory_device_options options = { 0 };
	struct device *device = memory_device_open(disk, &base.reactor, "disk", &options);
	struct pool_start start = { 0 };

	return create ? pool_sync_create(&config, "p", &device, 1, SLAB_BLOCKS, &start)
		      : pool_sync_import(&config, &device, 1, &start);
}

static void
close_pool(struct pool *pool, bool abandon)
{
	struct pool_stop stop = { .abandon = abandon };

	pool_sync_stop(&base.reactor, pool, &stop);
}

static void
name_set(struct name *name, const char *volume, const char *snapshot)
{
	memset(name, 0, sizeof(*name));
	memcpy(name->pool, "p", 2);
	memcpy(name->volume, volume, strlen(volume));
	memcpy(name->snapshot, snapshot, strlen(snapshot));
}

static void
administer(struct pool *pool, enum admin_verb verb, const char *volume, const char *snapshot,
    const char *target)
{
	struct admin_request request = { .verb = verb, .force = true, .size_bytes = 4 * MIB };

	name_set(&request.name, volume, snapshot);
	name_set(&request.target, target, "");
	if (verb == ADMIN_SNAPSHOT_CREATE || verb == ADMIN_SNAPSHOT_DELETE) {
		request.names = xcalloc(1, sizeof(struct name));
		request.names[0] = request.name;
		request.name_count = 1;
	}
	(void)pool_sync_admin(pool, &request);
	admin_request_fini(&request);
}

static int
transfer(struct volume *volume, enum volume_op op, uint64_t offset_bytes, uint64_t len_bytes,
    uint8_t fill)
{
	static uint8_t buffer[64 * KIB] __attribute__((aligned(BLOCK_BYTES)));
	struct volume_io io = {
		.op = op,
		.offset_bytes = offset_bytes,
		.len_bytes = len_bytes,
		.buffer = buffer,
	};

	memset(buffer, fill, sizeof(buffer));
	return pool_sync_io(&base.reactor, volume, &io);
}

/* --- the valid pool --- */

static void
write_volume(struct pool *pool, const char *name_text, unsigned first, unsigned count, uint8_t fill)
{
	struct volume *volume;
	struct name name;
	int error;

	name_set(&name, name_text, "");
	volume = volume_open(pool, &name, false, &base.reactor, &error);
	CHECK(volume);
	for (unsigned i = 0; i < count; i++)
		CHECK(transfer(volume, VOLUME_WRITE, (first + i) * 96 * KIB, 32 * KIB,
			  (uint8_t)(fill + i)) == 0);
	volume_close(volume);
}

static void
add_place(enum place_kind kind, uint64_t block, struct baddr addr, uint64_t parent_block,
    uint32_t parent_offset)
{
	base.places[kind] =
	    xrealloc(base.places[kind], (base.counts[kind] + 1) * sizeof(struct place));
	base.places[kind][base.counts[kind]++] =
	    (struct place){ block, addr, parent_block, parent_offset };
}

static uint8_t *
at(uint64_t block)
{
	return base.bytes + block * BLOCK_BYTES;
}

static uint64_t
block_of(const struct pool *pool, struct baddr addr)
{
	uint32_t slot;
	const struct slab *slab = space_place(&pool->space, addr, &slot);

	CHECK(slab);
	return space_offset_bytes(&pool->space, slab, slot) / BLOCK_BYTES;
}

/* Children before parents, as their checksums are to be made. */
static void
add_tree(const struct pool *pool, enum place_kind kind, const struct map_entry *root,
    unsigned level, uint64_t parent_block, uint32_t parent_offset)
{
	uint64_t block = block_of(pool, (struct baddr){ root->addr });
	const struct map_entry *entries = (const void *)at(block);

	for (unsigned i = 0; i < MAP_FANOUT; i++) {
		uint32_t offset = i * (uint32_t)sizeof(struct map_entry);

		if (entries[i].addr == 0)
			continue;
		if (level > 0)
			add_tree(pool, kind, &entries[i], level - 1, block, offset);
		else if (kind == PLACE_CATALOG_NODE)
			add_place(PLACE_CATALOG, block_of(pool, (struct baddr){ entries[i].addr }),
			    (struct baddr){ entries[i].addr }, block, offset);
	}
	add_place(kind, block, (struct baddr){ root->addr }, parent_block, parent_offset);
}

static void
find_places(const struct pool *pool)
{
	add_place(PLACE_LABEL, FORMAT_LABEL_BLOCK, (struct baddr){ 0 }, 0, 0);
	add_place(PLACE_SUPERBLOCK, FORMAT_SUPERBLOCK_BLOCK + base.superblock.checkpoint % 2,
	    (struct baddr){ 0 }, 0, 0);
	for (uint32_t page = 0; page < 2 * pool->space.devices[0].page_count; page++)
		add_place(PLACE_TABLE, FORMAT_TABLE_BLOCK + page, (struct baddr){ page / 2 }, 0, 0);
	add_tree(pool, PLACE_CATALOG_NODE, &base.superblock.catalog_root,
	    base.superblock.catalog_levels - 1u, 0, 0);
	for (size_t i = 0; i < base.counts[PLACE_CATALOG]; i++) {
		uint64_t block = base.places[PLACE_CATALOG][i].block;

		for (unsigned k = 0; k < CATALOG_RECORDS_PER_BLOCK; k++) {
			const struct catalog_record *record =
			    (const struct catalog_record *)(void *)at(block) + k;

			if (record->kind == CATALOG_IMAGE && record->levels > 0 &&
			    record->root.addr)
				add_tree(pool, PLACE_NODE, &record->root, record->levels - 1u,
				    block,
				    (uint32_t)(k * sizeof(*record) +
					       offsetof(struct catalog_record, root)));
		}
	}
	for (uint32_t i = 0; i < pool->space.devices[0].mark; i++) {
		const struct slab *slab = space_slab(&pool->space.devices[0], i);

		if (slab->state == SLAB_PACKED)
			add_place(PLACE_PACKED,
			    space_offset_bytes(&pool->space, slab, 0) / BLOCK_BYTES,
			    (struct baddr){ slab->directory_blocks }, 0, 0);
	}
	CHECK(base.counts[PLACE_PACKED] > 0);
	for (uint64_t block = base.label.slabs_block;
	     block < DISK_BLOCKS - FORMAT_TAIL_BYTES / BLOCK_BYTES; block++) {
		const struct batch_header *header = (const void *)at(block);

		if (header->magic == BATCH_MAGIC && batch_header_valid(header, &pool->uuid,
							header->segment, header->slot, SLAB_BLOCKS))
			add_place(
			    PLACE_BATCH, block, baddr_make(header->segment, header->slot), 0, 0);
	}
}

static bool
relocated(const void *what)
{
	const struct pool *pool = what;

	return pool->relocation.passes >= 2 && relocation_idle(pool);
}

/* Slabs that are partly dead, and no wish to have many of them: two passes at least. */
static void
relocate(struct pool *pool)
{
	uint64_t usual = pool->relocate_slabs;

	for (unsigned i = 0; i < 8; i++) {
		write_volume(pool, "a", 0, 3, (uint8_t)(60 + i));
		write_volume(pool, "b", 4 * i, 4, (uint8_t)(100 + i));
	}
	pool->relocate_slabs = pool->space.slab_count;
	relocation_kick(pool);
	pool_sync_run(&base.reactor, relocated, pool);
	pool->relocate_slabs = usual;
}

static void
make_base(void)
{
	struct memory_disk *disk = memory_disk_create(DISK_BYTES);
	struct error error;
	struct pool *pool;

	diag_set_level(DIAG_ERROR);
	reactor_init(&base.reactor);
	reactor_set_current(&base.reactor);
	pool = open_pool(disk, true);
	CHECK(pool);
	administer(pool, ADMIN_VOLUME_CREATE, "a", "", "");
	administer(pool, ADMIN_VOLUME_CREATE, "b", "", "");
	write_volume(pool, "a", 0, 12, 1);
	administer(pool, ADMIN_SNAPSHOT_CREATE, "a", "s", "");
	administer(pool, ADMIN_CLONE, "a", "s", "c");
	write_volume(pool, "a", 0, 6, 50);
	relocate(pool);
	close_pool(pool, false);
	/* And something to replay. */
	pool = open_pool(disk, false);
	write_volume(pool, "c", 0, 4, 150);
	administer(pool, ADMIN_VOLUME_DELETE, "b", "", "");
	base.bytes = xalloc_pages(DISK_BYTES);
	memory_disk_read(disk, 0, base.bytes, DISK_BYTES);
	CHECK(label_decode(&base.label, at(FORMAT_LABEL_BLOCK), DISK_BYTES, &error) == 0);
	for (unsigned i = 0; i < 2; i++) {
		struct superblock superblock;

		if (superblock_decode(&superblock, at(FORMAT_SUPERBLOCK_BLOCK + i), &error) == 0 &&
		    superblock.checkpoint > base.superblock.checkpoint)
			base.superblock = superblock;
	}
	find_places(pool);
	close_pool(pool, true);
	memory_disk_put(disk);
	for (uint64_t block = 0; block < DISK_BLOCKS; block++) {
		const uint8_t *bytes = at(block);

		if (bytes[0] || memcmp(bytes, bytes + 1, BLOCK_BYTES - 1) != 0)
			base.used[base.used_count++] = block;
	}
	base.made = true;
}

/* --- changes --- */

/* Checksums again, from the leaves up. */
static void
seal(const struct label *label)
{
	const struct batch_header *previous = NULL;
	struct superblock superblock;
	uint64_t tail = DISK_BLOCKS - FORMAT_TAIL_BYTES / BLOCK_BYTES;
	uint64_t superblock_block = base.places[PLACE_SUPERBLOCK][0].block;
	static const enum place_kind order[] = { PLACE_NODE, PLACE_CATALOG, PLACE_CATALOG_NODE };

	memcpy(&superblock, at(superblock_block), sizeof(superblock));
	for (unsigned k = 0; k < ARRAY_SIZE(order); k++) {
		for (size_t i = 0; i < base.counts[order[k]]; i++) {
			const struct place *place = &base.places[order[k]][i];
			struct catalog_record *records = (void *)at(place->block);
			uint32_t crc;

			for (unsigned n = 0;
			     order[k] == PLACE_CATALOG && n < CATALOG_RECORDS_PER_BLOCK; n++)
				if (records[n].magic)
					catalog_seal_record(&records[n]);
			crc = baddr_block_crc(place->addr, at(place->block));
			if (place->parent_block)
				memcpy(at(place->parent_block) + place->parent_offset +
					   offsetof(struct map_entry, crc),
				    &crc, sizeof(crc));
			else
				superblock.catalog_root.crc = crc;
		}
	}
	for (size_t i = 0; i < base.counts[PLACE_TABLE]; i++) {
		uint8_t *page = at(base.places[PLACE_TABLE][i].block);
		uint32_t crc = 0;

		memcpy(page + offsetof(struct table_page, crc), &crc, sizeof(crc));
		crc = crc32c((uint32_t)base.places[PLACE_TABLE][i].addr.n, &base.label.device_uuid,
		    sizeof(struct uuid));
		crc = crc32c(crc, page, BLOCK_BYTES);
		memcpy(page + offsetof(struct table_page, crc), &crc, sizeof(crc));
	}
	for (size_t i = 0; i < base.counts[PLACE_PACKED]; i++) {
		const struct place *place = &base.places[PLACE_PACKED][i];
		uint32_t blocks = (uint32_t)place->addr.n;

		packed_seal(at(place->block), blocks, &base.label.pool_uuid);
		memcpy(at(place->block + SLAB_BLOCKS - blocks), at(place->block),
		    (size_t)blocks * BLOCK_BYTES);
	}
	for (size_t i = 0; i < base.counts[PLACE_BATCH]; i++) {
		struct batch_header *header = (void *)at(base.places[PLACE_BATCH][i].block);

		/* The chain holds, unless a sequence was changed. */
		if (previous && header->sequence == previous->sequence + 1 &&
		    header->generation == previous->generation)
			header->previous_crc = previous->crc;
		header->crc = batch_crc(header, &base.label.pool_uuid);
		previous = header;
	}
	superblock_encode(&superblock, at(superblock_block));
	memcpy(at(tail + superblock_block - FORMAT_SUPERBLOCK_BLOCK + FORMAT_TAIL_SUPERBLOCK_BLOCK),
	    at(superblock_block), BLOCK_BYTES);
	label_encode(label, at(FORMAT_LABEL_BLOCK));
	memcpy(at(tail + FORMAT_TAIL_LABEL_BLOCK), at(FORMAT_LABEL_BLOCK), BLOCK_BYTES);
}

static void
change(struct fuzz_input *input)
{
	/* Where the bytes that mean something are. */
	static const uint16_t used_bytes[PLACE_KINDS] = {
		[PLACE_LABEL] = 256,
		[PLACE_SUPERBLOCK] = 176,
		[PLACE_TABLE] = BLOCK_BYTES,
		[PLACE_CATALOG] = BLOCK_BYTES,
		[PLACE_CATALOG_NODE] = 4 * sizeof(struct map_entry),
		[PLACE_NODE] = 32 * sizeof(struct map_entry),
		[PLACE_BATCH] = 160,
		[PLACE_PACKED] = 512,
	};
	enum place_kind kind = fuzz_byte(input) % PLACE_KINDS;
	const struct place *place = &base.places[kind][fuzz_byte(input) % base.counts[kind]];
	uint8_t how = fuzz_byte(input);
	unsigned width = 1u << how % 4;
	uint64_t value = 0, old = 0;
	uint16_t offset;

	fuzz_take(input, &offset, sizeof(offset));
	offset = (uint16_t)(offset % used_bytes[kind] / width * width);
	if (how & 4) {
		memcpy(&old, at(place->block) + offset, width);
		value = old + (uint64_t)(int64_t)(int8_t)fuzz_byte(input);
	} else {
		fuzz_take(input, &value, width);
	}
	memcpy(at(place->block) + offset, &value, width);
}

/* --- a session on it --- */

static void
use(struct pool *pool, struct fuzz_input *input)
{
	static const char *const volumes[] = { "a", "c", "b" };
	uint8_t what = fuzz_byte(input);

	for (unsigned i = 0; i < ARRAY_SIZE(volumes); i++) {
		struct volume *volume;
		struct name name;
		int error;

		name_set(&name, volumes[i], "");
		volume = volume_open(pool, &name, false, &base.reactor, &error);
		if (!volume)
			continue;
		for (unsigned k = 0; k < 8; k++)
			(void)transfer(volume, VOLUME_READ, k * 64 * KIB, 64 * KIB, 0);
		if (what & 1u)
			(void)transfer(volume, VOLUME_WRITE, 40 * KIB, 64 * KIB, 7);
		if (what & 2u)
			(void)transfer(volume, VOLUME_WRITE, 100 * KIB + 5, 3000, 8);
		if (what & 4u)
			(void)transfer(volume, VOLUME_TRIM, 128 * KIB, 512 * KIB, 0);
		(void)transfer(volume, VOLUME_FLUSH, 0, 0, 0);
		volume_close(volume);
	}
	if (what & 8u)
		administer(pool, ADMIN_SNAPSHOT_DELETE, "a", "s", "");
	if (what & 16u)
		administer(pool, ADMIN_ROLLBACK, "a", "s", "");
	if (what & 32u)
		administer(pool, ADMIN_VOLUME_DELETE, "c", "", "");
}

/* A pool that opened read-only says what contradicts itself, and is as it was found; any other
 * holds its invariants. */
static bool
tables_agree(const struct pool *pool)
{
	return catalog_invariant(&pool->catalog) &&
	       (pool->state == POOL_READONLY || space_invariant(&pool->space));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	struct memory_disk *disk;
	struct pool *pool;
	uint8_t *pristine;
	struct label label;

	if (!base.made)
		make_base();
	pristine = xmalloc(base.used_count * BLOCK_BYTES);
	for (size_t i = 0; i < base.used_count; i++)
		memcpy(pristine + i * BLOCK_BYTES, at(base.used[i]), BLOCK_BYTES);
	for (unsigned i = fuzz_byte(&input) % CHANGES_MAX; i > 0 && input.left > 0; i--)
		change(&input);
	memcpy(&label, at(FORMAT_LABEL_BLOCK), sizeof(label));
	seal(&label);
	disk = memory_disk_create(DISK_BYTES);
	for (size_t i = 0; i < base.used_count; i++) {
		memory_disk_write(disk, base.used[i] * BLOCK_BYTES, at(base.used[i]), BLOCK_BYTES);
		memcpy(at(base.used[i]), pristine + i * BLOCK_BYTES, BLOCK_BYTES);
	}
	free(pristine);

	pool = open_pool(disk, false);
	if (pool) {
		CHECK(tables_agree(pool));
		use(pool, &input);
		CHECK(tables_agree(pool));
		close_pool(pool, false);
		pool = open_pool(disk, false);
		if (pool)
			close_pool(pool, false);
	}
	memory_disk_put(disk);
	return 0;
}
