/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every structure that is ever on a disk, and nothing else.
 *
 * All integers are little-endian.  Each structure carries a magic, a version and a CRC-32C of
 * itself (computed with its crc field zero) that is begun with the place where it belongs, so that
 * a stale or misdirected copy fails too.
 *
 * A segment, or a packed slab, lies on one slab, or with LABEL_COPIES on one slab each of up to
 * three devices.  Its copies are the same in every byte that counts, and each device's table has a
 * record of its own copy: a device says for itself what lies on it.
 *
 * A device, in blocks of 4096 bytes:
 *
 *      0                    zeroes, so that no older signature is found there
 *      1                    label
 *      2, 3                 superblocks: checkpoint n in number n % 2
 *      4, 5                 device set: generation n in number n % 2
 *      6                    heartbeat of whoever has the pool in service
 *      8 ...                slab table: page p in blocks 8 + 2p and 9 + 2p, alternating; up to
 *                           table_page.mark of page 0
 *      slabs_block ...      slabs, slab_blocks each
 *      tail: the last MiB   label, superblocks 0 and 1, device set 0 and 1 once more
 */
#ifndef QUARRY_METADATA_FORMAT_H
#define QUARRY_METADATA_FORMAT_H

#include "core/base/crc32c.h"
#include "core/base/uuid.h"
#include "core/base/util.h"

#define FORMAT_BLOCK_BYTES 4096u
/* 1, which no release had, wrote a record for each slab of a device. */
#define FORMAT_VERSION 2u
#define FORMAT_TAIL_BYTES (1 * MIB)

#define FORMAT_LABEL_BLOCK 1u
#define FORMAT_SUPERBLOCK_BLOCK 2u /* and the next */
#define FORMAT_DEVICE_SET_BLOCK 4u /* and the next */
#define FORMAT_HEARTBEAT_BLOCK 6u  /* it has no twin */
#define FORMAT_TABLE_BLOCK 8u
/* The same within the tail. */
#define FORMAT_TAIL_LABEL_BLOCK 0u
#define FORMAT_TAIL_SUPERBLOCK_BLOCK 1u
#define FORMAT_TAIL_DEVICE_SET_BLOCK 3u

#define SLAB_BLOCKS_MIN 64u   /* 256 KiB */
#define SLAB_BLOCKS_MAX 4096u /* 16 MiB */
#define POOL_DEVICES_MAX 120u
#define VOLUME_BYTES_MAX (1ull << 60)

/*
 * The address of a block: its place in the log, for ever.  0 is a hole.
 *
 *   bits 63..16  segment number, from 1 (bit 63 is never set on disk)
 *   bits 15..0   slot: index of the block in the segment
 */
struct baddr {
	uint64_t n;
};

#define BADDR_SLOT_BITS 16

static inline struct baddr
baddr_make(uint64_t segment, uint32_t slot)
{
	return (struct baddr){ segment << BADDR_SLOT_BITS | slot };
}

static inline uint64_t
baddr_segment(struct baddr a)
{
	return a.n >> BADDR_SLOT_BITS;
}

static inline uint32_t
baddr_slot(struct baddr a)
{
	return (uint32_t)(a.n & ((1u << BADDR_SLOT_BITS) - 1));
}

/* A block's checksum is its CRC-32C combined with its address. */
static inline uint32_t
baddr_crc_mix(struct baddr a)
{
	return (uint32_t)mix64(a.n);
}

/* The checksum of the block at @data as it lies at @a. */
static inline uint32_t
baddr_block_crc(struct baddr a, const void *data)
{
	return crc32c(0, data, FORMAT_BLOCK_BYTES) ^ baddr_crc_mix(a);
}

/* --- map --- */

#define MAP_FANOUT_BITS 8
#define MAP_FANOUT 256u
#define MAP_LEVELS_MAX 6u /* 256^6 blocks: 2^60 bytes */

struct map_entry {
	uint64_t
	    addr; /* a struct baddr; in memory also a node that has none yet (metadata/node.h) */
	uint32_t epoch; /* when the block was written */
	uint32_t crc;   /* of the block, mixed with its address */
};
static_assert(sizeof(struct map_entry) * MAP_FANOUT == FORMAT_BLOCK_BYTES, "a node is a block");

/* --- label --- */

#define LABEL_MAGIC "QUARRYLB"

/* features_compat: the space of the file is the pool's to keep; it is written once, in advance, and
 * never given back. */
#define LABEL_PREALLOCATED 1u
/* features_incompat: segments lie on more than one device (superblock.copies). */
#define LABEL_COPIES 1u
/* ... the catalog may hold notes (below). */
#define LABEL_NOTES 2u
#define LABEL_INCOMPAT_KNOWN (LABEL_COPIES | LABEL_NOTES)

/* Where a copy of a segment lies; BATCH_NO_SLAB twice: nowhere. */
struct slab_place {
	uint32_t device;
	uint32_t slab;
};
#define COPIES_MAX 3u
/* Pools with more than one copy have at most so many devices. */
#define COPIES_DEVICES_MAX 64u

struct label {
	char magic[8];
	uint32_t version;
	uint32_t crc; /* place: 1 */
	uint64_t features_compat;
	uint64_t features_ro_compat; /* unknown bits: the pool may only be read */
	uint64_t features_incompat;  /* unknown bits: the pool cannot be used */
	struct uuid pool_uuid;
	struct uuid device_uuid;
	uint32_t device_index;
	uint32_t slab_blocks;
	uint64_t size_bytes; /* of the device when it was labelled */
	uint64_t slab_count;
	uint64_t slabs_block; /* first block of slab 0 */
	uint64_t created_s;
	char pool_name[136]; /* zero-terminated */
	uint8_t reserved[FORMAT_BLOCK_BYTES - 248];
};
static_assert(sizeof(struct label) == FORMAT_BLOCK_BYTES, "a label is a block");

/* --- superblock --- */

#define SUPERBLOCK_MAGIC "QUARRYSB"
#define SUPERBLOCK_CLEAN 1u /* exported: nothing to replay */

enum scrub_state {
	SCRUB_NEVER = 0,
	SCRUB_RUNNING = 1,
	SCRUB_PAUSED = 2,
	SCRUB_DONE = 3,
};

/* How far the last scrub is, and what it found. */
struct scrub_record {
	uint8_t state;
	uint8_t reserved;
	uint16_t device; /* the next slab that it reads */
	uint32_t slab;
	uint32_t started_s;
	uint32_t ended_s;
	uint64_t checked_blocks;
	uint32_t damaged_blocks;    /* no copy is good */
	uint32_t unverified_blocks; /* the checksum beside them is lost */
	uint32_t healed_blocks;     /* from another copy */
	uint32_t reserved2;
};
static_assert(sizeof(struct scrub_record) == 40, "scrub record");

#define WARN_LEVELS 2u

struct superblock {
	char magic[8];
	uint32_t version;
	uint32_t crc; /* place: checkpoint */
	struct uuid pool_uuid;
	uint64_t checkpoint;
	uint64_t generation; /* grows with each recovery */
	uint64_t next_segment;
	uint64_t next_id; /* of images and volumes */
	struct map_entry catalog_root;
	uint32_t catalog_levels;
	uint32_t epoch;
	/* Where replay begins: the place of the first batch behind this checkpoint. */
	uint64_t log_segment;
	uint64_t log_sequence;
	uint32_t log_slot;
	uint32_t log_previous_crc;
	uint32_t log_device;
	uint32_t log_slab;
	uint64_t log_next_segment; /* where the segment behind it lies, or BATCH_NO_SLAB */
	uint32_t log_next_device;
	uint32_t log_next_slab;
	uint64_t
	    durable_sequence;  /* batches up to this one were durable; a bad one is corruption */
	uint64_t table_digest; /* of all pages of all slab tables, see space.h */
	uint64_t written_s;
	uint32_t flags;
	uint32_t device_count;
	/* More than one: the pool has LABEL_COPIES, and what follows counts. */
	uint32_t copies;
	uint32_t reserved2;
	struct slab_place log_copies[COPIES_MAX - 1]; /* beside log_device, log_slab */
	struct slab_place log_next_copies[COPIES_MAX - 1];
	uint32_t device_digests[COPIES_DEVICES_MAX]; /* of each device's pages of the table */
	struct scrub_record scrub;
	uint8_t warn_percent[WARN_LEVELS]; /* how full the pool is when it warns; 0: the default */
	uint8_t reserved[512 - 506];
};
static_assert(sizeof(struct superblock) == 512, "a superblock cannot tear");

/* --- device set --- */

#define DEVICE_SET_MAGIC "QUARRYDS"

enum device_state {
	DEVICE_STATE_ONLINE = 1,
	DEVICE_STATE_OUT = 2,     /* left out: what it holds is older than the others */
	DEVICE_STATE_LEAVING = 3, /* as ONLINE, but nothing new goes there */
	DEVICE_STATE_REMOVED = 4, /* gone for good; its index is not used again */
};

struct device_set_entry {
	struct uuid uuid;
	uint16_t index;
	/* The number of the set that left it out, or has it in use again; 0: it was in use from the
	 * beginning.  UINT16_MAX: that one, or a later one. */
	uint16_t since;
	uint32_t state;
	uint64_t size_bytes;
};

struct device_set {
	char magic[8];
	uint32_t version;
	uint32_t crc; /* place: generation */
	struct uuid pool_uuid;
	uint64_t generation;
	uint32_t count;
	uint32_t copies_min; /* of each live block, on devices that are ONLINE; 0: one */
	struct device_set_entry devices[POOL_DEVICES_MAX];
	/* The pool's when this was written: the newer set is that of the later generation, and of
	 * one generation that with the higher number.  See device_set_choose(). */
	uint64_t pool_generation;
	uint8_t reserved2[FORMAT_BLOCK_BYTES - 56 - POOL_DEVICES_MAX * 32];
};
static_assert(sizeof(struct device_set) == FORMAT_BLOCK_BYTES, "a device set is a block");

/* --- heartbeat --- */

#define HEARTBEAT_MAGIC "QUARRYHB"
#define HEARTBEAT_HOST_BYTES 64u
#define HEARTBEAT_INTERVAL_MS 3000u
#define HEARTBEAT_INTERVAL_MS_MAX 60000u

/* Who has the pool in service; see core/heartbeat.h. */
struct heartbeat {
	char magic[8];
	uint32_t version;
	uint32_t crc; /* place: 6 */
	struct uuid pool_uuid;
	struct uuid session; /* of no other import */
	struct uuid machine;
	uint64_t beat; /* grows */
	uint32_t interval_ms;
	uint32_t pid;
	uint32_t released; /* 1: the pool was exported */
	uint32_t reserved;
	char host[HEARTBEAT_HOST_BYTES]; /* zero-terminated */
	uint8_t reserved2[512 - 152];
};
static_assert(sizeof(struct heartbeat) == 512, "a heartbeat cannot tear");

/* --- slab table --- */

#define TABLE_MAGIC 0x42415451u /* "QTAB" */

enum slab_state {
	SLAB_FREE = 0,
	SLAB_OPEN = 1,
	SLAB_SEALED = 2,
	SLAB_PACKED = 3,
	SLAB_BAD = 4,
	SLAB_COPY = 255, /* never on disk: its content is another slab's, see space.h */
};

#define SLAB_WRITTEN 1u /* flags: written to since it was last given back (see device.h) */

struct table_page {
	uint32_t magic;
	uint32_t crc;        /* place: device uuid and page index */
	uint64_t checkpoint; /* the version */
	uint32_t index;
	uint32_t version;
	/* Page 0: slabs from this one on were never used.  They are FREE, whatever a page says of
	 * them, and further pages have no meaning. */
	uint32_t mark;
	uint32_t reserved;
	/* records follow: struct slab_record and the bitmap of live slots, back to back */
};
static_assert(sizeof(struct table_page) == 32, "table page header");

struct slab_record {
	uint64_t segment; /* 0: none; PACKED: its number */
	uint8_t state;
	uint8_t flags;
	uint16_t directory_blocks; /* PACKED */
	uint32_t age;              /* low bits of the checkpoint at which it was sealed */
};
static_assert(sizeof(struct slab_record) == 16, "slab record");

static inline uint32_t
slab_record_bytes(uint32_t slab_blocks)
{
	return (uint32_t)sizeof(struct slab_record) + slab_blocks / 8;
}

static inline uint32_t
table_records_per_page(uint32_t slab_blocks)
{
	return (FORMAT_BLOCK_BYTES - (uint32_t)sizeof(struct table_page)) /
	       slab_record_bytes(slab_blocks);
}

/* --- batch --- */

#define BATCH_MAGIC 0x54414251u /* "QBAT" */
#define BATCH_NO_SLAB UINT32_MAX

/*
 * The header block of a batch; its data blocks follow it in the segment, in the order of the
 * entries.  Entries are packed behind the fixed part: a struct batch_entry, then by type
 *
 *   WRITE, NODE, CATALOG   uint32_t crc[count]: count blocks follow
 *   ZERO                   uint64_t blocks
 *
 * If `next_copies` is not 0, the header ends with as many struct slab_place: where the further
 * copies of the next segment lie.
 */
struct batch_header {
	uint32_t magic;
	uint32_t version;
	uint32_t crc;          /* place: pool uuid (first 8 bytes) xor the address of the header */
	uint32_t previous_crc; /* crc of the header before it; 0: the first of a generation */
	uint64_t generation;
	uint64_t segment;
	uint64_t sequence;
	uint64_t durable_sequence;
	uint32_t slot;
	uint32_t block_count; /* data blocks that follow */
	uint32_t entry_bytes; /* of all entries */
	uint32_t next_copies;
	/* Where the next segment lies, as far as it is known. */
	uint64_t next_segment;
	uint32_t next_device;
	uint32_t next_slab;
	uint8_t entries[FORMAT_BLOCK_BYTES - 80];
};
static_assert(sizeof(struct batch_header) == FORMAT_BLOCK_BYTES, "a batch header is a block");
#define BATCH_COPIES_BYTES ((unsigned)((COPIES_MAX - 1) * sizeof(struct slab_place)))

enum batch_entry_type {
	BATCH_WRITE = 1,
	BATCH_ZERO = 2,
	BATCH_NODE = 3,    /* written by a checkpoint; `lba` is the checkpoint's number */
	BATCH_CATALOG = 4, /* blocks of struct catalog_op; `lba` is the number of operations */
};

#define IMAGE_ID_BITS 40

struct batch_entry {
	uint8_t type;
	uint8_t image_high; /* image ids have IMAGE_ID_BITS */
	uint16_t count;
	uint32_t image_low;
	uint64_t lba;
};
static_assert(sizeof(struct batch_entry) == 16, "batch entry");

/* --- packed slabs --- */

/*
 * A PACKED slab holds blocks of several segments, moved there by relocation under their unchanged
 * addresses.  It begins with a directory of `directory_blocks` blocks, and ends with a copy of it.
 * That is the header, then `piece_count` pieces back to back, then zeroes.  A piece is
 *
 *   struct packed_piece
 *   which slots of its segment lie here; `count` of them, padded to 8 bytes:
 *       count <  slab_blocks / 16    uint16_t slots[count], growing
 *       count >= slab_blocks / 16    uint64_t bits[slab_blocks / 64]
 *   first == PACKED_SCATTERED: at which slots of this slab, in the same form
 *   uint32_t crc[count]              of each, in the order of its slots; padded to 8 bytes
 *
 * The block of the n-th of these slots (from 0, upwards) lies at slot `first + n` of this slab, or
 * at the n-th of those listed.  Pieces are in the order of their segments.  Those with a `first` do
 * not overlap, nor do scattered ones; where one of those lies, it holds: relocation has plugged
 * with it what was dead there.  The slab's record in the table has `number` as its segment: drawn
 * from the log's numbers, so that a stale directory is told, and the segment of no address.  Its
 * bitmap of live slots counts the slots of this slab; those of the directory are never live.
 *
 * A segment may lie in several pieces, on several slabs, and on the slab where the log wrote it.
 * An address is live in at most one of them, and that is where it lies.
 *
 * A crc is mixed with the block's address, and is the one that was found beside the block where it
 * lay before; the block was compared with it when it was moved.
 */
#define PACKED_MAGIC 0x4b415051u /* "QPAK" */
#define PACKED_SCATTERED UINT32_MAX

struct packed_directory {
	uint32_t magic;
	uint32_t version;
	uint32_t crc; /* of all directory blocks; place: pool uuid (first 8 bytes) xor `number` */
	uint32_t directory_blocks;
	uint64_t number;
	uint32_t piece_count;
	uint32_t block_count; /* the sum of all `count` */
	uint64_t reserved[4];
};
static_assert(sizeof(struct packed_directory) == 64, "packed directory");

struct packed_piece {
	uint64_t segment;
	uint32_t first; /* slot of this slab, or PACKED_SCATTERED */
	uint32_t count; /* not 0 */
};
static_assert(sizeof(struct packed_piece) == 16, "packed piece");

/* --- catalog --- */

#define CATALOG_RECORD_MAGIC 0x43455251u /* "QREC" */
#define CATALOG_RECORDS_PER_BLOCK 8u
#define FORMAT_NAME_BYTES 136

enum catalog_record_kind {
	CATALOG_VOLUME = 1,
	CATALOG_IMAGE = 2,
	CATALOG_NOTE = 3,
};

enum image_kind {
	IMAGE_HEAD = 1,
	IMAGE_SNAPSHOT = 2,
	IMAGE_TRIMMED = 3, /* what a large trim cut off, being freed */
};

#define CATALOG_READONLY 1u        /* volume flags */
#define CATALOG_PAUSE_WHEN_FULL 2u /* ...: writes that find no room wait */
#define CATALOG_RESERVED 4u        /* ...: room for all of it is held back */
#define CATALOG_BLOCKS_4096 8u     /* ...: logical blocks of 4096 bytes, not 512 */
#define CATALOG_DELETED 2u         /* image flags */

/* Record `id` lies in image 0 at block id / 8, number id % 8. */
struct catalog_record {
	uint32_t magic; /* 0: an empty place */
	uint32_t crc;   /* place: id */
	uint8_t kind;
	uint8_t image_kind;
	uint8_t flags;
	uint8_t levels;
	uint32_t epoch;
	uint64_t id;
	uint64_t parent; /* image: the older neighbour in the family tree; 0: none */
	uint64_t volume; /* image: the volume that it belongs to; 0: none */
	uint64_t head;   /* volume: its writable image; image: what it was cut off or began as */
	uint64_t size_bytes;
	uint64_t created_s;
	struct map_entry root;
	uint64_t cursor;        /* deleted image: blocks before it are freed already */
	uint64_t mapped_blocks; /* image */
	struct uuid uuid;       /* volume */
	char name[FORMAT_NAME_BYTES];
	uint32_t full_timeout_s; /* volume: how long writes wait at most; 0: no limit */
	uint32_t reserved0;
	uint64_t own_blocks; /* head: see struct image */
	uint8_t reserved[512 - 264];
};
static_assert(sizeof(struct catalog_record) == 512, "catalog record");

/*
 * A note: bytes that somebody above the engine keeps with a volume, one of each kind.  It goes with
 * the volume, not with its snapshots or clones.  A record, or an operation, carries a part of it:
 * NOTE_PART_BYTES from `offset` on, the last one less.
 */
#define NOTE_PART_BYTES 448u
#define NOTE_BYTES_MAX (64 * KIB)

enum note_kind {
	NOTE_EXPORTS = 1,      /* metadata/export.h */
	NOTE_RESERVATIONS = 2, /* metadata/reservation.h */
	NOTE_KINDS,
};

struct catalog_note_record {
	uint32_t magic; /* as in struct catalog_record */
	uint32_t crc;
	uint8_t kind; /* CATALOG_NOTE */
	uint8_t note; /* enum note_kind */
	uint8_t reserved[6];
	uint64_t id;
	uint64_t offset;
	uint64_t volume;
	uint64_t size_bytes; /* of the whole note; not 0 */
	uint8_t bytes[NOTE_PART_BYTES];
	uint8_t reserved2[512 - 496];
};
static_assert(sizeof(struct catalog_note_record) == 512 &&
		  offsetof(struct catalog_note_record, id) == offsetof(struct catalog_record, id),
    "a note's record is a catalog record");

enum catalog_op_type {
	CATALOG_OP_VOLUME_CREATE = 1,
	CATALOG_OP_VOLUME_RESIZE = 2,
	CATALOG_OP_VOLUME_RENAME = 3,
	CATALOG_OP_VOLUME_DELETE = 4,
	CATALOG_OP_VOLUME_SET = 5,
	CATALOG_OP_SNAPSHOT_CREATE = 6,
	CATALOG_OP_SNAPSHOT_DELETE = 7,
	CATALOG_OP_CLONE = 8,
	CATALOG_OP_ROLLBACK = 9,
	CATALOG_OP_NOTE = 10, /* struct catalog_note_op */
};

/*
 * An administrative operation as the log carries it: what to do, not what comes of it, so that
 * applying it means the same at run time and in a replay.  Ids of new things are drawn when it is
 * applied.
 */
struct catalog_op {
	uint8_t type;
	uint8_t flags; /* VOLUME_SET, VOLUME_CREATE: the new flags */
	uint8_t reserved[2];
	uint32_t full_timeout_s; /* VOLUME_SET, VOLUME_CREATE */
	uint64_t volume;
	uint64_t image;
	uint64_t size_bytes;
	uint64_t created_s;
	struct uuid uuid;
	char name[FORMAT_NAME_BYTES];
	uint8_t reserved2[512 - 192];
};
static_assert(sizeof(struct catalog_op) == 512, "catalog operation");

/*
 * A part of a note.  The one at offset 0 replaces what there was; of size 0 it is the only one, and
 * there is no note any more.  All parts are logged together.
 */
struct catalog_note_op {
	uint8_t type; /* CATALOG_OP_NOTE */
	uint8_t note; /* enum note_kind */
	uint8_t reserved[6];
	uint64_t volume;
	uint64_t offset;
	uint64_t size_bytes; /* of the whole note */
	uint8_t bytes[NOTE_PART_BYTES];
	uint8_t reserved2[512 - 480];
};
static_assert(sizeof(struct catalog_note_op) == sizeof(struct catalog_op) &&
		  offsetof(struct catalog_note_op, volume) == offsetof(struct catalog_op, volume),
    "a note's operation is a catalog operation");
#define CATALOG_OPS_PER_BLOCK (FORMAT_BLOCK_BYTES / (unsigned)sizeof(struct catalog_op))

#endif
