/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heartbeats: a pool is in service on one machine at a time.
 *
 * A lock keeps two daemons of one machine apart, but devices may be shared with other machines (a
 * SAN's disks, NBD exports, files on a network).  So who has a pool in service writes a block on
 * each of its devices every few seconds, and takes it back when the pool is exported.
 *
 *  1. An import that finds such a block, not taken back, of another machine or of a process that
 *     lives, reads it once more when it should have changed.  If it did, in whatever way, the
 *     import is refused: what it read of the pool before may be old by now.  Before that it has
 *     written nothing.
 *  2. Then it writes its own, and reads it again before anything else is written: of two imports at
 *     the same moment the one that wrote first sees the other.  Unless the last owner was this
 *     machine, it waits in between for long enough that the other, if it saw no block of ours, has
 *     written its own.  From here on it beats.
 *  3. Before each beat the block is read: if somebody else's is there, whom an operator let in by
 *     force, the pool fails and writes nothing more.  What was read longer ago than a beat is read
 *     again.  Each device beats by itself, so that one which stalls holds up no other.
 *
 *  4. The right to write is a lease: it ends two intervals after a beat was begun that was written,
 *     which is before an import that saw that beat last takes over.  From then on writes are held
 *     (device_gate.h), the blocks are read, and either a new beat lets the writes go on, or the
 *     pool fails and they were never made.  So a process that was stopped, or a machine that was
 *     suspended, and goes on when the pool is another's, writes nothing.
 *
 * What that cannot exclude: what the kernel, or a connection, has been given already; a virtual
 * machine whose clocks stand still while it is paused, until its next beat; --force, which does not
 * wait.  There the operator must see to it that the other one cannot write.
 */
#ifndef QUARRY_CORE_HEARTBEAT_H
#define QUARRY_CORE_HEARTBEAT_H

#include "core/pool.h"

/* Who has pools in service: this process. */
struct heartbeat_owner {
	struct uuid machine; /* since it was booted, and of its process namespace */
	uint32_t pid;
	char host[HEARTBEAT_HOST_BYTES];
	uint32_t interval_ms;
};

/* Fills in what the system says. */
void heartbeat_owner_init(struct heartbeat_owner *owner);

/* One reading or writing of one device's block. */
struct heartbeat_io {
	struct device_io io;
	struct iovec iov;
	uint8_t *block;
	struct heartbeat seen; /* read: .interval_ms 0: none that is valid */
	int error;
	void (*done)(struct heartbeat_io *one);
};

void heartbeat_io_fini(struct heartbeat_io *one);
/* done(), set before, comes from the reactor's loop. */
void heartbeat_read(struct heartbeat_io *one, struct device *device);
void heartbeat_write(
    struct heartbeat_io *one, struct device *device, const struct heartbeat *heartbeat);

/* The same of several devices at once. */
struct heartbeat_round {
	struct heartbeat_round_io {
		struct heartbeat_io one;
		struct heartbeat_round *round;
	} ios[POOL_DEVICES_MAX];
	uint32_t count;
	void (*done)(struct heartbeat_round *round);
	/* private */
	uint32_t left;
};

void heartbeat_round_init(struct heartbeat_round *round);
void heartbeat_round_fini(struct heartbeat_round *round);
void heartbeat_round_read(struct heartbeat_round *round, struct device **devices, uint32_t count);
void heartbeat_round_write(struct heartbeat_round *round, const struct heartbeat *heartbeat,
    struct device **devices, uint32_t count);

#endif
