/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch: what one append to the log writes, a header block and its data blocks.
 *
 * The builder fills a header entry by entry; the reader takes one apart, checking every length.
 * batch_apply() is the one place where a batch changes maps and catalog: at run time when its write
 * is complete, and in a replay.
 */
#ifndef QUARRY_METADATA_BATCH_H
#define QUARRY_METADATA_BATCH_H

#include "metadata/catalog.h"
#include "metadata/map.h"

/* There is always room for the names of copies behind the entries. */
#define BATCH_ENTRY_BYTES_MAX \
	(FORMAT_BLOCK_BYTES - (unsigned)offsetof(struct batch_header, entries) - BATCH_COPIES_BYTES)

/* Begins a batch at @segment, @slot. */
void batch_begin(struct batch_header *header, uint64_t segment, uint32_t slot);

/* How many entry bytes a piece of @blocks with CRCs takes / a ZERO takes. */
#define BATCH_BYTES_FOR(blocks) (sizeof(struct batch_entry) + 4ull * (blocks))
#define BATCH_ZERO_BYTES (sizeof(struct batch_entry) + 8ull)

static inline unsigned
batch_room_bytes(const struct batch_header *header)
{
	return BATCH_ENTRY_BYTES_MAX - header->entry_bytes;
}

/* The address of the next data block. */
static inline struct baddr
batch_next_addr(const struct batch_header *header)
{
	return baddr_make(header->segment, header->slot + 1 + header->block_count);
}

/* Each needs its room (CHECK).  @crcs are mixed with the addresses. */
void batch_add_blocks(struct batch_header *header, enum batch_entry_type type, uint64_t image,
    uint64_t lba, uint32_t count, const uint32_t *crcs);
void batch_add_zero(struct batch_header *header, uint64_t image, uint64_t lba, uint64_t blocks);

uint32_t batch_crc(const struct batch_header *header, const struct uuid *pool);

/* Magic, version, CRC, and that everything lies within a segment of @slab_blocks. */
bool batch_header_valid(const struct batch_header *header, const struct uuid *pool,
    uint64_t segment, uint32_t slot, uint32_t slab_blocks);

/* Where the further copies of the next segment lie, header->next_copies of them. */
void batch_name_copies(struct batch_header *header, const struct slab_place *copies);
/* As above; those that are not there are BATCH_NO_SLAB. */
void batch_read_copies(const struct batch_header *header, struct slab_place *copies);

/* One entry, taken apart. */
struct batch_piece {
	uint8_t type;
	uint64_t image;
	uint64_t lba;
	uint64_t blocks;      /* WRITE, NODE, CATALOG: of data; ZERO: of the range */
	struct baddr addr;    /* of the first data block */
	uint32_t block_index; /* of the first data block, in the batch */
	const uint8_t *crcs;  /* unaligned */
};

struct batch_reader {
	const struct batch_header *header;
	uint32_t at;
	uint32_t block_index;
};

void batch_read_begin(struct batch_reader *reader, const struct batch_header *header);
/* 1 and the next piece; 0: no more; -EUCLEAN: damaged. */
int batch_read_next(struct batch_reader *reader, struct batch_piece *piece) must_check;

/* Whether the CRCs of all data blocks are right; @data: block_count blocks, one after another. */
bool batch_data_valid(const struct batch_header *header, const uint8_t *data);
/* As above; blocks that are not right are taken from @copies where one has them. */
bool batch_data_complete(const struct batch_header *header, uint8_t *data,
    const uint8_t *const *copies, unsigned copy_count);

/* Faults in what applying @piece will walk. */
enum map_result batch_prepare(
    struct catalog *catalog, const struct batch_piece *piece, struct map_fault *fault) must_check;

/*
 * Applies a batch.  @data: its blocks (only those of CATALOG entries are read).
 * @replayed_checkpoint: at run time 0; in a replay the one that it began from.  NODE entries change
 * nothing: at run time whoever wrote them said what is live; in a replay the slab table shows it,
 * as it was written behind them, and may know some of them dead again. -EUCLEAN: an entry that
 * makes no sense.
 */
int batch_apply(struct catalog *catalog, const struct batch_header *header,
    const void *(*block)(void *context, uint32_t index), void *context,
    uint64_t replayed_checkpoint) must_check;

#endif
