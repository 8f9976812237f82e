/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a frontend sees of a volume or snapshot: a handle, its facts, and requests.
 *
 * A handle (struct volume) is opened through core/target.h, counts as a client of the volume (which
 * cannot be deleted meanwhile, unless by force) and is used from the reactor that opened it.  The
 * pool's engine may live on another reactor: requests then travel as messages, unseen by the
 * frontend.
 *
 * Buffers: a request's payload begins at `buffer + offset_bytes % BLOCK_BYTES`, where `buffer` is
 * aligned to BLOCK_BYTES and long enough for every block that the request touches, so that whole
 * blocks go to and from the device without a copy.  The engine may fill the edges outside the
 * payload.  Until done() buffer and request belong to the engine.
 */
#ifndef QUARRY_CORE_VOLUME_H
#define QUARRY_CORE_VOLUME_H

#include "core/base/error.h"
#include "core/base/uuid.h"
#include "core/device.h"
#include "metadata/name.h"

struct volume;
struct volume_io;

enum volume_op {
	VOLUME_READ,
	VOLUME_WRITE,
	VOLUME_FLUSH,  /* everything that was answered before, on any connection, is durable */
	VOLUME_TRIM,   /* a hint: whole blocks become holes, edges are left as they are */
	VOLUME_ZERO,   /* reads as zeroes afterwards, to the byte */
	VOLUME_CACHE,  /* load the maps (a hint) */
	VOLUME_STATUS, /* which ranges are holes, or differ from a snapshot */
	VOLUME_COMPARE_WRITE, /* a WRITE, if what is there equals @compare; one atomic step */
};

enum volume_flags {
	VOLUME_FUA = 1, /* WRITE, TRIM, ZERO: durable when answered */
	VOLUME_NO_HOLE =
	    2, /* ZERO: accepted; a hole costs nothing to write again, so it is no promise */
	VOLUME_DEPTH = 4,  /* STATUS without io->older: tell depths apart */
	VOLUME_ATOMIC = 8, /* WRITE: one atomic step, up to volume_info()->atomic_bytes_max */
};

struct volume_extent {
	uint64_t len_bytes;
	bool hole;    /* not mapped; reads as zeroes (with io->older: if it is changed) */
	bool changed; /* differs from io->older */
	/* VOLUME_DEPTH: how many images back it was written; 1: this one, 0: a hole.  Else 0. */
	uint32_t depth;
};

#define VOLUME_IO_BYTES_MAX \
	(32 * MIB) /* READ and WRITE; other requests may cover the whole volume */

struct volume_io {
	/* set by the frontend */
	enum volume_op op;
	uint32_t flags;
	uint64_t offset_bytes;         /* any byte; a request must lie within the volume */
	uint64_t len_bytes;            /* READ, WRITE: 1 to VOLUME_IO_BYTES_MAX; 0 does nothing */
	void *buffer;                  /* see above */
	struct volume_extent *extents; /* STATUS: filled from offset_bytes on, neighbours differ */
	uint32_t extents_max;          /* STATUS: at least 1 */
	struct volume *older; /* STATUS: NULL, or a handle of a snapshot of the same pool, open
				 while this is in flight: say what is changed since */
	const void *compare;  /* COMPARE_WRITE: len_bytes, anywhere; -ECANCELED: it is different */
	void (*done)(struct volume_io *io);
	/* result */
	int error;                 /* 0 or a negative errno value, as in core/base/error.h */
	uint32_t extents_count;    /* STATUS: at least 1 if error is 0 */
	uint64_t differs_at_bytes; /* COMPARE_WRITE, -ECANCELED: the first byte that differs */
	/* the engine's own, while in flight */
	struct volume *volume;
	struct task task;
	uint64_t full_since_ns;    /* when it first found the pool full; 0: it did not */
	uint64_t full_done_blocks; /* written before it had to wait */
	bool full_grows;           /* it waits for room, not for free slabs alone */
	bool full_gives_up;
};

struct volume_info {
	struct name name;
	struct uuid uuid; /* of the volume; stable over rename, export and import */
	uint64_t size_bytes;
	/* The logical blocks that initiators are to see: 512 or 4096.  The engine itself takes
	 * requests to the byte. */
	uint32_t block_bytes;
	/* A WRITE that touches no more blocks than fit in here is applied, and survives a crash, as
	 * a whole or not at all; a COMPARE_WRITE may not touch more.  At least a block. */
	uint64_t atomic_bytes_max;
	uint64_t import;  /* which one of the pool, a random number; 0: it has no owner */
	bool keeps_notes; /* the pool can, and it is no snapshot */
	bool readonly;
	bool rotational; /* some of it lies on devices that seek */
};

/* Facts as they were when the handle was opened or the size last changed; any time. */
const struct volume_info *volume_info(const struct volume *volume);

/* The pool's room, as it is just now; any time, on any thread. */
struct volume_space {
	uint64_t usable_bytes; /* what can be written at most, by all volumes */
	uint64_t available_bytes;
	uint8_t warn_percent[2]; /* the thresholds, growing */
	uint8_t warned_percent;  /* the highest of those that was passed; 0: none.  It falls only
				  * when the pool is well below */
};
void volume_space(const struct volume *volume, struct volume_space *space);
/* That one alone. */
unsigned volume_warned_percent(const struct volume *volume);

/* The note that was asked for when the handle was opened, as it was then; NULL: there was none. */
const uint8_t *volume_note(const struct volume *volume, size_t *len_bytes);

/* Starts @io (a request beyond the end, on a read-only volume … fails through done()). */
void volume_submit(struct volume *volume, struct volume_io *io);

/*
 * Writes of this handle that wait because the pool is full (volume_full.c) wait no longer: they are
 * done if there is room, and fail with -ENOSPC if not; @for_good: nor do later ones wait.
 */
void volume_stop_waiting(struct volume *volume, bool for_good);

/* Gives the handle back; nothing may be in flight.  The handle is gone on return. */
void volume_close(struct volume *volume);

#endif
