/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contents of a memory disk: what is durable, and the volatile cache on top.
 *
 * A table of chunks holds, for each block, its durable contents and, if the cache knows better, its
 * cached ones.  The versions between the two are a list of unflushed changes in the order in which
 * they took effect; flushing takes the oldest of them and carries them over into the durable
 * contents.
 *
 * Contents are a pointer: NULL for zeroes, a mark for "all eight sectors discarded", or 4 KiB.
 */
#include "backends/memory_internal.h"

#include <stdlib.h>

enum {
	CHUNK_BLOCKS = 256,
	SECTORS_PER_BLOCK = BLOCK_BYTES / MEMORY_SECTOR_BYTES,
};

typedef uint8_t *contents;

/* Contents of a block that was discarded whole: generated when looked at. */
static uint8_t discarded_mark;
#define DISCARDED (&discarded_mark)

struct block {
	contents durable;
	contents cached;          /* valid if unflushed_count > 0 */
	uint32_t unflushed_count; /* changes in the list that touch this block */
};

struct chunk {
	struct block blocks[CHUNK_BLOCKS];
};

/*
 * Invariants:
 *   - unflushed is sorted by sequence, and each sequence is at most disk->sequence;
 *   - a block's unflushed_count is the number of changes in unflushed that touch it; without any
 * its cached contents are NULL and not used.
 */
struct memory_disk {
	uint32_t references;
	uint64_t size_bytes;
	struct chunk **chunks;
	uint64_t chunk_count;
	struct list unflushed;
	size_t unflushed_count;
	uint64_t sequence; /* of the youngest change */
};

/* --- blocks --- */

static struct block *
block_at(const struct memory_disk *disk, uint64_t block_index)
{
	struct chunk *chunk = disk->chunks[block_index / CHUNK_BLOCKS];

	return chunk ? &chunk->blocks[block_index % CHUNK_BLOCKS] : NULL;
}

static struct block *
block_make(struct memory_disk *disk, uint64_t block_index)
{
	struct chunk **chunk = &disk->chunks[block_index / CHUNK_BLOCKS];

	if (!*chunk)
		*chunk = xcalloc(1, sizeof(**chunk));
	return &(*chunk)->blocks[block_index % CHUNK_BLOCKS];
}

/* A discarded sector holds words that depend on where it is: no two are alike and none is zero. */
static void
poison_sector(uint8_t *data, uint64_t sector_index)
{
	for (uint64_t word = 0; word < MEMORY_SECTOR_BYTES / 8; word++) {
		uint64_t value = mix64((sector_index * 64 + word) ^ 0xdeadd15cadedb10cull) | 1;

		memcpy(data + 8 * word, &value, 8);
	}
}

static void
poison(uint8_t *data, uint64_t offset_bytes, uint64_t len_bytes)
{
	for (uint64_t done = 0; done < len_bytes; done += MEMORY_SECTOR_BYTES)
		poison_sector(data + done, (offset_bytes + done) / MEMORY_SECTOR_BYTES);
}

static void
contents_free(contents *c)
{
	if (*c != DISCARDED)
		free(*c);
	*c = NULL;
}

/* Turns @c into bytes that can be changed. */
static uint8_t *
contents_bytes(contents *c, uint64_t block_index)
{
	uint8_t *bytes = *c;

	if (bytes && bytes != DISCARDED)
		return bytes;
	bytes = xcalloc(1, BLOCK_BYTES);
	if (*c == DISCARDED)
		poison(bytes, block_index * BLOCK_BYTES, BLOCK_BYTES);
	*c = bytes;
	return bytes;
}

static contents
contents_copy(contents c)
{
	uint8_t *bytes;

	if (!c || c == DISCARDED)
		return c;
	bytes = xmalloc(BLOCK_BYTES);
	memcpy(bytes, c, BLOCK_BYTES);
	return bytes;
}

/* What the block at @block_index holds, in @bytes. */
static void
contents_read(contents c, uint64_t block_index, uint8_t bytes[BLOCK_BYTES])
{
	if (!c)
		memset(bytes, 0, BLOCK_BYTES);
	else if (c == DISCARDED)
		poison(bytes, block_index * BLOCK_BYTES, BLOCK_BYTES);
	else
		memcpy(bytes, c, BLOCK_BYTES);
}

/* The sectors of @block_index that @change touches and that @keep, if any, has set: as bits. */
static uint8_t
sectors_of(const struct memory_change *change, uint64_t block_index, const uint64_t *keep)
{
	uint64_t first = change->offset_bytes / MEMORY_SECTOR_BYTES;
	uint64_t count = change->len_bytes / MEMORY_SECTOR_BYTES;
	uint8_t sectors = 0;

	for (uint64_t i = 0; i < SECTORS_PER_BLOCK; i++) {
		uint64_t sector = block_index * SECTORS_PER_BLOCK + i;

		if (sector >= first && sector < first + count &&
		    (!keep || bitmap_test(keep, sector - first)))
			sectors |= (uint8_t)(1u << i);
	}
	return sectors;
}

/* Makes @change, or the sectors of it in @keep, in @c. */
static void
contents_change(
    contents *c, uint64_t block_index, const struct memory_change *change, const uint64_t *keep)
{
	uint8_t sectors = sectors_of(change, block_index, keep);
	uint8_t *bytes;

	if (!sectors)
		return;
	if (sectors == 0xff && change->discard) {
		contents_free(c);
		*c = DISCARDED;
		return;
	}
	bytes = contents_bytes(c, block_index);
	for (uint64_t i = 0; i < SECTORS_PER_BLOCK; i++) {
		uint64_t at_bytes = block_index * BLOCK_BYTES + i * MEMORY_SECTOR_BYTES;

		if (!(sectors >> i & 1))
			continue;
		if (change->discard)
			poison(bytes + i * MEMORY_SECTOR_BYTES, at_bytes, MEMORY_SECTOR_BYTES);
		else
			memcpy(bytes + i * MEMORY_SECTOR_BYTES,
			    change->data + (at_bytes - change->offset_bytes), MEMORY_SECTOR_BYTES);
	}
}

/* --- changes --- */

static uint64_t
first_block(const struct memory_change *change)
{
	return change->offset_bytes / BLOCK_BYTES;
}

static uint64_t
end_block(const struct memory_change *change)
{
	return div_round_up(change->offset_bytes + change->len_bytes, BLOCK_BYTES);
}

struct memory_change *
memory_change_create(uint64_t offset_bytes, uint64_t len_bytes, bool discard)
{
	struct memory_change *change = xmalloc(sizeof(*change) + (discard ? 0 : len_bytes));

	CHECK(offset_bytes % MEMORY_SECTOR_BYTES == 0 && len_bytes % MEMORY_SECTOR_BYTES == 0);
	list_init(&change->link);
	change->sequence = 0;
	change->offset_bytes = offset_bytes;
	change->len_bytes = len_bytes;
	change->discard = discard;
	return change;
}

void
memory_disk_apply(struct memory_disk *disk, struct memory_change *change)
{
	change->sequence = ++disk->sequence;
	list_push_back(&disk->unflushed, &change->link);
	disk->unflushed_count++;
	for (uint64_t i = first_block(change); i < end_block(change); i++) {
		struct block *block = block_make(disk, i);

		if (block->unflushed_count++ == 0)
			block->cached = contents_copy(block->durable);
		contents_change(&block->cached, i, change, NULL);
	}
}

/* Takes @change out of the cache and frees it; the sectors in @keep (NULL: all) become durable. */
static void
settle(struct memory_disk *disk, struct memory_change *change, bool survives, const uint64_t *keep)
{
	for (uint64_t i = first_block(change); i < end_block(change); i++) {
		struct block *block = block_at(disk, i);

		CHECK(block && block->unflushed_count > 0);
		if (survives)
			contents_change(&block->durable, i, change, keep);
		if (--block->unflushed_count == 0)
			contents_free(&block->cached);
	}
	list_remove(&change->link);
	disk->unflushed_count--;
	free(change);
}

void
memory_disk_flush_until(struct memory_disk *disk, uint64_t sequence)
{
	while (!list_empty(&disk->unflushed)) {
		struct memory_change *oldest =
		    list_first(&disk->unflushed, struct memory_change, link);

		if (oldest->sequence > sequence)
			break;
		settle(disk, oldest, true, NULL);
	}
}

uint64_t
memory_disk_sequence(const struct memory_disk *disk)
{
	return disk->sequence;
}

void
memory_disk_power_loss(
    struct memory_disk *disk, struct memory_random *random, enum memory_crash mode)
{
	/* From the oldest on, so that of several that survive the youngest is seen. */
	while (!list_empty(&disk->unflushed)) {
		struct memory_change *change =
		    list_first(&disk->unflushed, struct memory_change, link);
		uint64_t sectors = change->len_bytes / MEMORY_SECTOR_BYTES;
		uint64_t *keep;

		switch (mode) {
		case MEMORY_CRASH_KILL:
			return;
		case MEMORY_CRASH_NONE:
			settle(disk, change, false, NULL);
			continue;
		case MEMORY_CRASH_WRITES:
			settle(disk, change, memory_random_next(random) & 1, NULL);
			continue;
		case MEMORY_CRASH_SECTORS:
			keep = xcalloc(BITMAP_WORDS(sectors), sizeof(*keep));
			for (uint64_t word = 0; word < BITMAP_WORDS(sectors); word++)
				keep[word] = memory_random_next(random);
			settle(disk, change, true, keep);
			free(keep);
			continue;
		}
	}
}

/* --- the whole --- */

struct memory_disk *
memory_disk_create(uint64_t size_bytes)
{
	struct memory_disk *disk = xcalloc(1, sizeof(*disk));

	CHECK(size_bytes > 0 && size_bytes % BLOCK_BYTES == 0);
	disk->references = 1;
	disk->size_bytes = size_bytes;
	disk->chunk_count = div_round_up(size_bytes / BLOCK_BYTES, CHUNK_BLOCKS);
	disk->chunks = xcalloc(disk->chunk_count, sizeof(*disk->chunks));
	list_init(&disk->unflushed);
	return disk;
}

struct memory_disk *
memory_disk_get(struct memory_disk *disk)
{
	CHECK(disk->references > 0);
	disk->references++;
	return disk;
}

void
memory_disk_put(struct memory_disk *disk)
{
	struct list *node;

	if (!disk)
		return;
	CHECK(disk->references > 0);
	if (--disk->references > 0)
		return;
	while ((node = list_pop_front(&disk->unflushed)))
		free(container_of(node, struct memory_change, link));
	for (uint64_t i = 0; i < disk->chunk_count; i++) {
		struct chunk *chunk = disk->chunks[i];

		for (size_t n = 0; chunk && n < CHUNK_BLOCKS; n++) {
			contents_free(&chunk->blocks[n].durable);
			contents_free(&chunk->blocks[n].cached);
		}
		free(chunk);
	}
	free(disk->chunks);
	free(disk);
}

uint64_t
memory_disk_size_bytes(const struct memory_disk *disk)
{
	return disk->size_bytes;
}

void
memory_disk_grow(struct memory_disk *disk, uint64_t size_bytes)
{
	uint64_t chunks = div_round_up(size_bytes / BLOCK_BYTES, CHUNK_BLOCKS);

	CHECK(size_bytes >= disk->size_bytes && size_bytes % BLOCK_BYTES == 0);
	disk->chunks = xrealloc(disk->chunks, chunks * sizeof(*disk->chunks));
	for (uint64_t i = disk->chunk_count; i < chunks; i++)
		disk->chunks[i] = NULL;
	disk->chunk_count = chunks;
	disk->size_bytes = size_bytes;
}

size_t
memory_disk_unflushed_count(const struct memory_disk *disk)
{
	return disk->unflushed_count;
}

void
memory_disk_flush(struct memory_disk *disk)
{
	memory_disk_flush_until(disk, disk->sequence);
}

static void
check_range(const struct memory_disk *disk, uint64_t offset_bytes, uint64_t len_bytes)
{
	CHECK(len_bytes <= disk->size_bytes && offset_bytes <= disk->size_bytes - len_bytes);
}

/* What a read of the block finds. */
static contents
visible(const struct block *block)
{
	if (!block)
		return NULL;
	return block->unflushed_count ? block->cached : block->durable;
}

void
memory_disk_read(
    const struct memory_disk *disk, uint64_t offset_bytes, void *data, size_t len_bytes)
{
	uint8_t *to = data;

	check_range(disk, offset_bytes, len_bytes);
	while (len_bytes > 0) {
		uint64_t index = offset_bytes / BLOCK_BYTES;
		uint64_t within = offset_bytes % BLOCK_BYTES;
		size_t part = min_u64(len_bytes, BLOCK_BYTES - within);
		uint8_t bytes[BLOCK_BYTES];

		if (part == BLOCK_BYTES) {
			contents_read(visible(block_at(disk, index)), index, to);
		} else {
			contents_read(visible(block_at(disk, index)), index, bytes);
			memcpy(to, bytes + within, part);
		}
		to += part;
		offset_bytes += part;
		len_bytes -= part;
	}
}

void
memory_disk_write(
    struct memory_disk *disk, uint64_t offset_bytes, const void *data, size_t len_bytes)
{
	const uint8_t *from = data;

	check_range(disk, offset_bytes, len_bytes);
	memory_disk_flush(disk);
	while (len_bytes > 0) {
		uint64_t index = offset_bytes / BLOCK_BYTES;
		uint64_t within = offset_bytes % BLOCK_BYTES;
		size_t part = min_u64(len_bytes, BLOCK_BYTES - within);
		struct block *block = block_make(disk, index);

		memcpy(contents_bytes(&block->durable, index) + within, from, part);
		from += part;
		offset_bytes += part;
		len_bytes -= part;
	}
}

void
memory_disk_flip_bit(struct memory_disk *disk, uint64_t offset_bytes, unsigned int bit)
{
	uint64_t index = offset_bytes / BLOCK_BYTES;
	uint64_t within = offset_bytes % BLOCK_BYTES;
	uint8_t mask = (uint8_t)(1u << bit);
	struct block *block = block_make(disk, index);

	CHECK(bit < 8);
	check_range(disk, offset_bytes, 1);
	contents_bytes(&block->durable, index)[within] ^= mask;
	if (block->unflushed_count)
		contents_bytes(&block->cached, index)[within] ^= mask;
	list_for_each(node, &disk->unflushed) {
		struct memory_change *change = container_of(node, struct memory_change, link);

		if (!change->discard && offset_bytes >= change->offset_bytes &&
		    offset_bytes - change->offset_bytes < change->len_bytes)
			change->data[offset_bytes - change->offset_bytes] ^= mask;
	}
}

bool
memory_disk_discarded(const struct memory_disk *disk, uint64_t offset_bytes)
{
	uint8_t poisoned[MEMORY_SECTOR_BYTES];
	uint8_t data[MEMORY_SECTOR_BYTES];

	offset_bytes = round_down(offset_bytes, MEMORY_SECTOR_BYTES);
	memory_disk_read(disk, offset_bytes, data, sizeof(data));
	poison(poisoned, offset_bytes, sizeof(poisoned));
	return memcmp(data, poisoned, sizeof(data)) == 0;
}
