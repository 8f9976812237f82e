/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/batch.h"

#include <stdlib.h>

#include "core/base/crc32c.h"

void
batch_begin(struct batch_header *header, uint64_t segment, uint32_t slot)
{
	memset(header, 0, sizeof(*header));
	header->magic = BATCH_MAGIC;
	header->version = FORMAT_VERSION;
	header->segment = segment;
	header->slot = slot;
	header->next_device = BATCH_NO_SLAB;
	header->next_slab = BATCH_NO_SLAB;
}

static uint8_t *
add_entry(struct batch_header *header, enum batch_entry_type type, uint64_t image, uint64_t lba,
    uint32_t count, size_t bytes)
{
	uint8_t *at = header->entries + header->entry_bytes;
	struct batch_entry entry = {
		.type = (uint8_t)type,
		.image_high = (uint8_t)(image >> 32),
		.count = (uint16_t)count,
		.image_low = (uint32_t)image,
		.lba = lba,
	};

	CHECK(bytes <= batch_room_bytes(header) && count <= UINT16_MAX && image >> 40 == 0);
	memcpy(at, &entry, sizeof(entry));
	header->entry_bytes += (uint32_t)bytes;
	return at + sizeof(entry);
}

void
batch_add_blocks(struct batch_header *header, enum batch_entry_type type, uint64_t image,
    uint64_t lba, uint32_t count, const uint32_t *crcs)
{
	uint8_t *at = add_entry(header, type, image, lba, count, BATCH_BYTES_FOR(count));

	memcpy(at, crcs, count * sizeof(*crcs));
	header->block_count += count;
}

void
batch_add_zero(struct batch_header *header, uint64_t image, uint64_t lba, uint64_t blocks)
{
	uint8_t *at = add_entry(header, BATCH_ZERO, image, lba, 0, BATCH_ZERO_BYTES);

	memcpy(at, &blocks, sizeof(blocks));
}

uint32_t
batch_crc(const struct batch_header *header, const struct uuid *pool)
{
	static const uint32_t zero = 0;
	const uint8_t *bytes = (const uint8_t *)header;
	size_t at = offsetof(struct batch_header, crc);
	uint64_t place;
	uint32_t crc;

	memcpy(&place, pool->bytes, sizeof(place));
	place ^= baddr_make(header->segment, header->slot).n;
	crc = crc32c(0, &place, sizeof(place));
	crc = crc32c(crc, bytes, at);
	crc = crc32c(crc, &zero, sizeof(zero));
	return crc32c(crc, bytes + at + sizeof(zero), sizeof(*header) - at - sizeof(zero));
}

bool
batch_header_valid(const struct batch_header *header, const struct uuid *pool, uint64_t segment,
    uint32_t slot, uint32_t slab_blocks)
{
	return header->magic == BATCH_MAGIC && header->version == FORMAT_VERSION &&
	       header->segment == segment && header->slot == slot && slot < slab_blocks &&
	       header->block_count <= slab_blocks - slot - 1 && header->next_segment >> 47 == 0 &&
	       header->entry_bytes <=
		   BATCH_ENTRY_BYTES_MAX + (header->next_copies ? 0 : BATCH_COPIES_BYTES) &&
	       header->next_copies < COPIES_MAX && batch_crc(header, pool) == header->crc;
}

void
batch_name_copies(struct batch_header *header, const struct slab_place *copies)
{
	uint8_t *end = (uint8_t *)(header + 1);

	CHECK(header->next_copies < COPIES_MAX && header->entry_bytes <= BATCH_ENTRY_BYTES_MAX);
	memcpy(end - BATCH_COPIES_BYTES, copies, header->next_copies * sizeof(*copies));
}

void
batch_read_copies(const struct batch_header *header, struct slab_place *copies)
{
	const uint8_t *end = (const uint8_t *)(header + 1);

	for (unsigned i = 0; i < COPIES_MAX - 1; i++)
		copies[i] = (struct slab_place){ BATCH_NO_SLAB, BATCH_NO_SLAB };
	memcpy(copies, end - BATCH_COPIES_BYTES, header->next_copies * sizeof(*copies));
}

void
batch_read_begin(struct batch_reader *reader, const struct batch_header *header)
{
	reader->header = header;
	reader->at = 0;
	reader->block_index = 0;
}

int
batch_read_next(struct batch_reader *reader, struct batch_piece *piece)
{
	const struct batch_header *header = reader->header;
	uint32_t left = header->entry_bytes - reader->at;
	struct batch_entry entry;
	size_t bytes;

	if (left == 0)
		return reader->block_index == header->block_count ? 0 : -EUCLEAN;
	if (left < sizeof(entry))
		return -EUCLEAN;
	memcpy(&entry, header->entries + reader->at, sizeof(entry));
	piece->type = entry.type;
	piece->image = (uint64_t)entry.image_high << 32 | entry.image_low;
	piece->lba = entry.lba;
	piece->crcs = header->entries + reader->at + sizeof(entry);
	piece->block_index = reader->block_index;
	piece->addr = baddr_make(header->segment, header->slot + 1 + reader->block_index);
	switch (entry.type) {
	case BATCH_WRITE:
	case BATCH_NODE:
	case BATCH_CATALOG:
		bytes = BATCH_BYTES_FOR(entry.count);
		piece->blocks = entry.count;
		if (bytes > left || entry.count == 0 ||
		    entry.count > header->block_count - reader->block_index)
			return -EUCLEAN;
		reader->block_index += entry.count;
		break;
	case BATCH_ZERO:
		bytes = BATCH_ZERO_BYTES;
		if (bytes > left)
			return -EUCLEAN;
		memcpy(&piece->blocks, piece->crcs, sizeof(piece->blocks));
		break;
	default:
		return -EUCLEAN;
	}
	if (piece->type == BATCH_WRITE || piece->type == BATCH_ZERO) {
		uint64_t most = map_capacity(MAP_LEVELS_MAX);

		if (piece->blocks == 0 || piece->lba >= most || piece->blocks > most - piece->lba)
			return -EUCLEAN;
	}
	if (piece->type == BATCH_CATALOG &&
	    (piece->lba == 0 || piece->lba > piece->blocks * CATALOG_OPS_PER_BLOCK))
		return -EUCLEAN;
	reader->at += (uint32_t)bytes;
	return 1;
}

bool
batch_data_complete(const struct batch_header *header, uint8_t *data, const uint8_t *const *copies,
    unsigned copy_count)
{
	struct batch_reader reader;
	struct batch_piece piece;
	int rc;

	batch_read_begin(&reader, header);
	while ((rc = batch_read_next(&reader, &piece)) == 1) {
		for (uint32_t i = 0; piece.type != BATCH_ZERO && i < piece.blocks; i++) {
			size_t at = (size_t)(piece.block_index + i) * FORMAT_BLOCK_BYTES;
			struct baddr addr = { piece.addr.n + i };
			unsigned copy = 0;
			uint32_t crc;

			memcpy(&crc, piece.crcs + 4 * i, sizeof(crc));
			if (baddr_block_crc(addr, data + at) == crc)
				continue;
			while (copy < copy_count && baddr_block_crc(addr, copies[copy] + at) != crc)
				copy++;
			if (copy == copy_count)
				return false;
			memcpy(data + at, copies[copy] + at, FORMAT_BLOCK_BYTES);
		}
	}
	return rc == 0;
}

bool
batch_data_valid(const struct batch_header *header, const uint8_t *data)
{
	return batch_data_complete(header, (uint8_t *)(uintptr_t)data, NULL, 0);
}

enum map_result
batch_prepare(struct catalog *catalog, const struct batch_piece *piece, struct map_fault *fault)
{
	struct image *image;

	if (piece->type != BATCH_WRITE && piece->type != BATCH_ZERO)
		return MAP_OK;
	image = catalog_image(catalog, piece->image);
	if (!image)
		return MAP_OK; /* made by this batch, or batch_apply() says what is wrong */
	if (piece->type == BATCH_WRITE)
		return map_prepare_write(catalog->nodes, image, piece->lba, piece->blocks, fault);
	return map_prepare_zero(catalog->nodes, image, piece->lba, piece->blocks, fault);
}

static int
apply_catalog(struct catalog *catalog, const struct batch_piece *piece,
    const void *(*block)(void *context, uint32_t index), void *context)
{
	uint64_t left = piece->lba;
	struct catalog_op *ops = xcalloc(left, sizeof(*ops));
	int rc;

	for (uint32_t i = 0; left > 0; i++) {
		uint64_t n = min_u64(left, CATALOG_OPS_PER_BLOCK);

		memcpy(&ops[piece->lba - left], block(context, piece->block_index + i),
		    n * sizeof(*ops));
		left -= n;
	}
	rc = catalog_apply(catalog, ops, (unsigned)piece->lba);
	free(ops);
	return rc ? -EUCLEAN : 0;
}

static int
apply_pieces(struct catalog *catalog, const struct batch_header *header,
    const void *(*block)(void *context, uint32_t index), void *context)
{
	struct batch_reader reader;
	struct batch_piece piece;
	int rc;

	batch_read_begin(&reader, header);
	while ((rc = batch_read_next(&reader, &piece)) == 1) {
		struct image *image;

		if (piece.type != BATCH_WRITE)
			space_finish_dead(catalog->nodes->space);
		switch (piece.type) {
		case BATCH_WRITE:
		case BATCH_ZERO:
			image = piece.image ? catalog_image(catalog, piece.image) : NULL;
			if (!image || image->kind != IMAGE_HEAD || image->deleted)
				return -EUCLEAN;
			if (piece.type == BATCH_WRITE)
				map_write(catalog, image, piece.lba, (uint32_t)piece.blocks,
				    piece.addr, piece.crcs);
			else
				map_zero(catalog, image, piece.lba, piece.blocks);
			break;
		case BATCH_NODE:
			/* The checkpoint's table knows which of them are live. */
			break;
		case BATCH_CATALOG:
			rc = apply_catalog(catalog, &piece, block, context);
			if (rc)
				return rc;
			break;
		}
	}
	return rc;
}

int
batch_apply(struct catalog *catalog, const struct batch_header *header,
    const void *(*block)(void *context, uint32_t index), void *context,
    uint64_t replayed_checkpoint)
{
	int rc = apply_pieces(catalog, header, block, context);

	space_finish_dead(catalog->nodes->space);
	return rc;
}
