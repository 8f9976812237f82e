/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that wraps another one and goes wrong when told to: for tests.
 *
 * Requests of a kind are counted from 1 (fault_count tells how many there were), so "fail the
 * first, then the second, until none is left" is a loop.  Without rules everything passes through.
 */
#ifndef QUARRY_BACKENDS_FAULT_H
#define QUARRY_BACKENDS_FAULT_H

#include "core/device.h"

enum fault_effect {
	FAULT_FAIL,       /* nothing is done, done() gets the error */
	FAULT_FAIL_AFTER, /* it is done, and done() gets the error all the same */
	FAULT_LOSE,       /* nothing is done, done() says that it was (a lost write) */
	FAULT_STALL,      /* waits until fault_resume() */
	FAULT_MISDIRECT,  /* READ, WRITE: done `shift_bytes` beside its place, if that is on the
			     device */
};

struct fault_rule {
	enum device_op op;
	enum fault_effect effect;
	int error;      /* FAULT_FAIL, FAULT_FAIL_AFTER: negative */
	uint64_t first; /* the first request of that kind that it hits, counted from now: 1 is the
			   next */
	uint64_t count; /* and so many in all; 0: all from there on */
	int64_t shift_bytes; /* FAULT_MISDIRECT: whole blocks */
};

/* Takes @inner over: closing the wrapper closes it. */
struct device *fault_device_create(struct device *inner);
struct device *fault_device_inner(struct device *device);

/* Of several rules that hit a request the first one added counts. */
void fault_add(struct device *device, const struct fault_rule *rule);

/* From now on each read that covers @offset_bytes finds @bit of that byte wrong. */
void fault_add_flip(struct device *device, uint64_t offset_bytes, unsigned int bit);

/* Reads that touch these bytes fail with -EIO from now on, until a write covers them all. */
void fault_add_bad(struct device *device, uint64_t offset_bytes, uint64_t len_bytes);

/* A request was falsified by an effect other than FAULT_STALL. */
struct fault_hit {
	struct device *device;
	enum device_op op;
	enum fault_effect effect;
	uint64_t offset_bytes; /* where it was meant to be done */
	uint64_t len_bytes;
	int64_t shift_bytes;
};

/* @hit is called for each, for errors when they are reported; NULL: nobody is told. */
void fault_watch(
    struct device *device, void (*hit)(void *context, const struct fault_hit *hit), void *context);

/* Forgets all rules, flips and bad places.  What is stalled stays so. */
void fault_clear(struct device *device);

/* Lets go what is stalled, in its order. */
void fault_resume(struct device *device);
size_t fault_stalled_count(const struct device *device);

/* With the crash of the device inside: what is in flight here is dropped as well, and neither its
 * done() nor that of anything submitted later is ever called.  Then device_close(). */
void fault_crash(struct device *device);

/* Requests of this kind submitted so far. */
uint64_t fault_count(const struct device *device, enum device_op op);

#endif
