/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool: devices, one log, and the images in it.  One reactor owns it.
 */
#ifndef QUARRY_CORE_POOL_H
#define QUARRY_CORE_POOL_H

#include "core/base/error.h"
#include "core/device.h"
#include "metadata/label.h"
#include "metadata/name.h"

struct heartbeat_owner;
struct pool;
struct target;

struct pool_config {
	struct reactor *reactor;
	uint64_t node_cache_bytes;
	uint64_t (*clock_s)(void); /* seconds since 1970; may be NULL */
	/* An import goes without devices that are missing, though they may know better; and though
	 * the pool may be in service elsewhere. */
	bool force;
	/* A device that does not answer for so long is left out, if there are copies; 0: never
	 * (core/device_stall.h). */
	uint64_t stall_timeout_ns;
	/* Who has the pool in service from now on; NULL: nobody is told (core/heartbeat.h).  It
	 * outlives the pool. */
	const struct heartbeat_owner *owner;
};

/* An operation that makes, opens or closes a pool; done() from the reactor. */
struct pool_start {
	void (*done)(struct pool_start *start);
	/* An import, before it writes anything: @pool is as the devices have it, log replayed.  May
	 * be NULL; may change what a checkpoint writes (quarry check --repair does). */
	void (*recovered)(struct pool_start *start, struct pool *pool);
	struct pool *pool; /* if error.code is 0 */
	struct error error;
};

/*
 * Makes a pool of @devices, which it owns from now on (they are closed if it fails).  Whatever they
 * held is lost.  @slab_blocks: 0 for what fits the size.  @copies: of each segment, on as many
 * devices.
 */
void pool_create(const struct pool_config *config, const char *name, struct device **devices,
    uint32_t device_count, uint32_t slab_blocks, uint32_t copies, struct pool_start *start);

/* Opens the pool that lies on @devices (all of one pool, in any order; owned as above). */
void pool_import(const struct pool_config *config, struct device **devices, uint32_t device_count,
    struct pool_start *start);

/* Stops everything, takes a last checkpoint, closes the devices.  The pool is gone at done().
 * Handles that are open fail with -ESHUTDOWN. */
struct pool_stop {
	void (*done)(struct pool_stop *stop);
	int error;    /* what could not be written */
	bool destroy; /* wipe the labels instead of taking a checkpoint */
	bool abandon; /* write nothing (tests: a crash) */
};
void pool_stop(struct pool *pool, struct pool_stop *stop);

const char *pool_name(const struct pool *pool);

/* Reads the label of @device; blocks nothing: done() from the reactor. error.code -ENODATA: none.
 */
struct pool_label {
	struct device *device;
	void (*done)(struct pool_label *op);
	struct error error; /* .code 0; .text says if only the copy at the end was good */
	char pool_name[NAME_SIZE];
	struct uuid pool_uuid;
	struct uuid device_uuid;
	struct label label;
	void *block; /* one, aligned; the caller's */
	/* private */
	struct device_io io;
	struct iovec iov;
	struct task task;
	bool second;
};
void pool_label_read(struct pool_label *op);

#endif
