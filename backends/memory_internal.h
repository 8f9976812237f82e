/* SPDX-License-Identifier: Apache-2.0 */
/* Between the contents of a memory disk (memory_disk.c) and its requests (memory.c). */
#ifndef QUARRY_BACKENDS_MEMORY_INTERNAL_H
#define QUARRY_BACKENDS_MEMORY_INTERNAL_H

#include "backends/memory.h"
#include "core/base/bitmap.h"

/* A write or a discard that took effect and was not flushed. */
struct memory_change {
	struct list link;
	uint64_t sequence; /* of taking effect */
	uint64_t offset_bytes;
	uint64_t len_bytes;
	bool discard;
	uint8_t data[]; /* len_bytes; none for a discard */
};

/* @data is the caller's to fill; whole sectors. */
struct memory_change *memory_change_create(uint64_t offset_bytes, uint64_t len_bytes, bool discard);

/* Reads see @change from now on; the disk owns it. */
void memory_disk_apply(struct memory_disk *disk, struct memory_change *change);

/* The sequence of the change that took effect last; a flush covers those up to it. */
uint64_t memory_disk_sequence(const struct memory_disk *disk);
void memory_disk_flush_until(struct memory_disk *disk, uint64_t sequence);

struct memory_random {
	uint64_t state;
};

static inline uint64_t
memory_random_next(struct memory_random *random)
{
	random->state += 0x9e3779b97f4a7c15ull;
	return mix64(random->state);
}

void memory_disk_power_loss(
    struct memory_disk *disk, struct memory_random *random, enum memory_crash mode);

#endif
