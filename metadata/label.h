/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What identifies a device and finds the pool's state: label, superblock, device set.  Blocks of
 * bytes to checked structures and back; where each lies is in format.h.
 */
#ifndef QUARRY_METADATA_LABEL_H
#define QUARRY_METADATA_LABEL_H

#include "core/base/error.h"
#include "metadata/format.h"

/* How a new device of @size_bytes is divided; of any device the tail. */
struct geometry {
	uint64_t slabs_block;
	uint64_t tail_block; /* first block of the tail */
	uint32_t slab_count; /* 0: too small */
};
void geometry_of(struct geometry *geometry, uint64_t size_bytes, uint32_t slab_blocks);

/* How many slabs a device of @size_bytes has, from @slabs_block on; no more than its table has room
 * for.  And the size of one that has @slabs, if that is fewer than @size_bytes have. */
uint32_t geometry_slabs(uint64_t size_bytes, uint32_t slab_blocks, uint64_t slabs_block);
uint64_t geometry_size_bytes(
    uint64_t size_bytes, uint32_t slab_blocks, uint64_t slabs_block, uint32_t slabs);

/* The size of a slab for a pool whose devices hold @pool_bytes together: about 1,000 slabs, within
 * the limits. */
uint32_t geometry_slab_blocks(uint64_t pool_bytes);

/* Encoders fill magic, version and CRC and write one block. */
void label_encode(const struct label *label, void *block);
void superblock_encode(const struct superblock *superblock, void *block);
void device_set_encode(const struct device_set *set, void *block);

/*
 * Decoders return 0, -ENODATA (no such structure here), or -EUCLEAN (damaged) / -ENOTSUP (a version
 * or feature that is not known), with the reason in @error.  label_decode also checks that the
 * geometry is possible on @device_bytes.
 */
int label_decode(
    struct label *label, const void *block, uint64_t device_bytes, struct error *error) must_check;
int superblock_decode(
    struct superblock *superblock, const void *block, struct error *error) must_check;
int device_set_decode(struct device_set *set, const void *block, struct error *error) must_check;

/* A block that is no heartbeat leaves .interval_ms 0. */
void heartbeat_encode(const struct heartbeat *heartbeat, void *block);
void heartbeat_decode(struct heartbeat *heartbeat, const void *block);

/* Whether @set was written after @than; a @than without devices is older than any. */
bool device_set_is_newer(const struct device_set *set, const struct device_set *than);
bool device_set_is_same(const struct device_set *set, const struct device_set *other);

/*
 * Whether device @index, which @now has OUT and whose own newest set is @its, was in service
 * without the devices that @now has in use: it then has data of its own.
 *
 * A device hears of no set from the one on that leaves it out, unless it is asked for alone; and
 * those which its own set leaves out have come back since, or it was asked alone.
 */
bool device_set_is_fork(const struct device_set *now, const struct device_set *its, uint32_t index);

/*
 * Which set speaks for the pool: @sets[i] is the newest one on device @indices[i], of those that
 * are there (.count 0: it has none).  A set that all of the devices have which it has in use, else
 * the newest; the one that counts, or @count: none does.
 *
 * The newest alone will not do.  A crash may leave a set on one device that was to leave out a
 * second one; an import of the second and a third then makes another set of the same number, and
 * the pool goes on with that.
 */
uint32_t device_set_choose(const struct device_set *sets, const uint32_t *indices, uint32_t count);

#endif
