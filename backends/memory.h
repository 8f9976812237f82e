/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk in memory, for tests and simulations: sparse, deterministic, and as treacherous as a real
 * one.
 *
 * The disk (contents and volatile cache, shared and counted) and the device (a handle that a
 * reactor has on it) are two things, so that a test can crash the one and open the other again.
 *
 * What it models:
 *   - a completed write sits in a volatile cache until a FLUSH that was submitted after it
 * completed; reads see the cache;
 *   - requests in flight complete in any order (a seed decides), so overlapping writes may take
 * effect either way round;
 *   - a crash keeps a choice of what was not flushed, by write or by 512-byte sector, those in
 * flight included;
 *   - what was discarded reads as a poison pattern, never as zeroes or as what it was.
 * And it checks what the submitter promises: a write's buffer may not change while it is in flight.
 *
 * It runs on any reactor, without threads, files or clocks of its own.
 */
#ifndef QUARRY_BACKENDS_MEMORY_H
#define QUARRY_BACKENDS_MEMORY_H

#include "core/device.h"

#define MEMORY_SECTOR_BYTES 512u

/* --- the disk --- */

struct memory_disk;

/* Never-written space reads as zeroes.  Only what was written takes memory, so 1 TiB is no trouble.
 * The caller holds the first reference. */
struct memory_disk *memory_disk_create(uint64_t size_bytes);
struct memory_disk *memory_disk_get(struct memory_disk *disk);
void memory_disk_put(struct memory_disk *disk); /* NULL does nothing */
uint64_t memory_disk_size_bytes(const struct memory_disk *disk);
/* It becomes larger; what is new reads as zeroes. */
void memory_disk_grow(struct memory_disk *disk, uint64_t size_bytes);

/* Contents as a read would find them now; any place and length within the disk. */
void memory_disk_read(
    const struct memory_disk *disk, uint64_t offset_bytes, void *data, size_t len_bytes);
/* Changes the contents for good: first everything in the cache becomes durable. */
void memory_disk_write(
    struct memory_disk *disk, uint64_t offset_bytes, const void *data, size_t len_bytes);
/* Rots one bit, in the cache and beneath it; what is flushed and what is not stays as it is. */
void memory_disk_flip_bit(struct memory_disk *disk, uint64_t offset_bytes, unsigned int bit);

/* Whether the sector that @offset_bytes lies in reads as discarded. */
bool memory_disk_discarded(const struct memory_disk *disk, uint64_t offset_bytes);
/* Writes and discards that a power loss could still undo. */
size_t memory_disk_unflushed_count(const struct memory_disk *disk);
/* Everything in the cache becomes durable. */
void memory_disk_flush(struct memory_disk *disk);

/* --- the device --- */

struct memory_device_options {
	/* Decides order and delays; 0: everything completes in this turn, in the order of
	 * submission. */
	uint64_t seed;
	/* With a seed: a request takes up to so long, by the reactor's clock; 0: 100 µs. */
	uint64_t delay_ns_max;
	bool prepare_space; /* as the device's */
	bool gives_back;    /* as the device's; if false DISCARD does nothing */
};

/* Opens @disk (and takes a reference to it). */
struct device *memory_device_open(struct memory_disk *disk, struct reactor *reactor,
    const char *name, const struct memory_device_options *options);

/* A disk that lives as long as its device. */
struct device *memory_device_create(struct reactor *reactor, uint64_t size_bytes, const char *name,
    const struct memory_device_options *options);

struct memory_disk *memory_device_disk(struct device *device);
/* Requests submitted and not yet done. */
uint32_t memory_device_in_flight(const struct device *device);

enum memory_crash {
	/* The process dies: what was completed stays (in the cache: a later power loss may still
	 * take it), each write in flight took effect or did not. */
	MEMORY_CRASH_KILL,
	/* Power loss: nothing that was not flushed survives. */
	MEMORY_CRASH_NONE,
	/* Power loss: each unflushed write, completed or in flight, survives or does not. */
	MEMORY_CRASH_WRITES,
	/* Power loss: each sector of each of them does. */
	MEMORY_CRASH_SECTORS,
};

/*
 * Ends the device's life as @mode and @seed say: what is in flight is dropped, and neither its
 * done() nor that of anything submitted later is ever called.  Then device_close(); the disk can be
 * opened again.  To be called outside of the reactor's turns, while the buffers in flight still
 * exist.
 */
void memory_device_crash(struct device *device, uint64_t seed, enum memory_crash mode);

#endif
