/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device of a pool in service is watched: how long its oldest request waits is known, and
 * requests may be given up.
 *
 * Who gives a request up calls its done() with an error, as if the device had failed it.  The
 * kernel, or a server, may hold it all the same, for good.  So what is handed to a backend is a
 * request of the watch's own, with memory of its own, which stays until the backend is through with
 * it; data is copied on the way.  What was given up and still ends changes nothing but the device,
 * which gets what it was to get.
 *
 * Only in pools with copies can anything be given up (`shadowed`).  In others requests go to the
 * backend as they are, and are watched only.
 *
 * Invariants: `waiting` has the submitters' requests, oldest first, that are not done; a device's
 * in_flight counts what its backend holds, given up or not.
 */
#ifndef QUARRY_CORE_DEVICE_WATCH_H
#define QUARRY_CORE_DEVICE_WATCH_H

#include "core/device.h"

struct buffer_pool;

struct device_watch {
	/* set by the owner */
	uint64_t patience_ns; /* a READ with may_give_up waits so long, then ends with -ETIME */
	uint64_t limit_ns;
	/* The oldest request waits for limit_ns or longer: called again and again.  May give up. */
	void (*stalled)(struct device_watch *watch, uint64_t waited_ns);
	/* After that: it answers again. */
	void (*answers)(struct device_watch *watch);
	void *context;
	uint32_t index; /* the owner's */
	/* private */
	struct device *device;
	bool shadowed;
	bool told; /* stalled() was called, and answers() was not */
	struct list waiting;
	uint32_t given_up; /* requests that the backend still holds */
	struct timer timer;
	struct list unused; /* struct shadow */
	struct buffer_pool *buffers;
};

/* From now on; nothing is in flight that was submitted before, or it is not watched.  @watch was
 * allocated and is the device's: closing the device frees it. */
void device_watch_begin(struct device_watch *watch, struct device *device, bool shadowed);
/* Nothing is called any more. */
void device_watch_end(struct device *device);

/* All requests end now with @error, as far as they are done(). */
void device_watch_give_up(struct device_watch *watch, int error);

/* It has not answered something for as long as `patience`. */
bool device_watch_is_slow(const struct device *device);

/* --- for core/device.c --- */

void device_watch_submit(struct device_watch *watch, struct device_io *io);
void device_watch_free(struct device_watch *watch);

#endif
