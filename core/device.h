/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract of a device: the only way by which the engine touches storage.
 *
 * Everything above it runs unchanged on the memory device of tests and simulations.
 *
 *   - Offsets, lengths and buffers are multiples of BLOCK_BYTES (4096).
 *   - A transfer is whole or failed: short reads and writes, EINTR and full rings end below.
 *   - done() runs from the device's reactor, never inside device_submit(), exactly once.
 *   - FLUSH makes durable every write that was completed before the FLUSH was submitted.  There is
 *     no order between requests in flight.
 *   - DISCARD gives space back; afterwards the range reads as anything.  It may do nothing.
 *   - The buffers and the io stay valid and unchanged until done().
 */
#ifndef QUARRY_CORE_DEVICE_H
#define QUARRY_CORE_DEVICE_H

#include <sys/uio.h>

#include "core/base/error.h"
#include "core/base/uuid.h"
#include "core/reactor.h"

#define BLOCK_BYTES 4096u

enum device_op {
	DEVICE_READ,
	DEVICE_WRITE,
	DEVICE_FLUSH,
	DEVICE_DISCARD,
};

struct device;

struct device_io {
	/* set by the submitter */
	enum device_op op;
	uint64_t offset_bytes;
	uint64_t len_bytes;      /* READ, WRITE: the sum of the vectors */
	const struct iovec *iov; /* READ, WRITE; stays unchanged until done */
	uint32_t iov_count;      /* at most DEVICE_IOV_MAX */
	void (*done)(struct device_io *io);
	/* READ: if it takes long it may end with -ETIME: there is another place to read from.
	 */
	bool may_give_up;
	bool passes_gate; /* see core/device_gate.h */
	/* result */
	int error; /* 0 or a negative errno value */
	/* the backend's own, while in flight */
	struct device *device;
	/* of core/device_watch.h and device_gate.h */
	struct list link;
	uint64_t since_ns;
	struct shadow *shadow;
	union {
		struct {
			void (*ring_done)(void *); /* the shape of a struct uring_op */
			uint64_t words[7];
		} scratch;
		struct task task;
		struct timer timer;
	} backend;
};

#define DEVICE_IOV_MAX 1024u

struct device_ops {
	void (*submit)(struct device *device, struct device_io *io);
	/* Looks whether it has grown, and sets size_bytes; NULL: that cannot be seen. */
	void (*refresh)(struct device *device);
	/* Frees the device; nothing is in flight.  The last call on it. */
	void (*close)(struct device *device);
};

struct device_gate;
struct device_watch;

struct device {
	const struct device_ops *ops;
	struct reactor *reactor;
	char *name; /* as the operator knows it: a path or a URI */
	uint64_t size_bytes;
	/* A first write into new space makes later flushes slow (files): write it in advance. */
	bool prepare_space;
	/* DISCARD does something, and space that is free should be given back. */
	bool gives_back;
	/* Its space was allocated when it was opened, to stay: see LABEL_PREALLOCATED. */
	bool preallocated;
	/* It seeks: what lies far apart takes long to be read. */
	bool rotational;
	/* Opening made it, and no pool has it yet: closing it removes it. */
	bool made;
	uint32_t in_flight;
	struct device_watch *watch; /* NULL: it is not watched */
	struct device_gate *gate;   /* NULL: there is none */
};

/* Checks the contract's preconditions (CHECK) and hands @io to the backend. */
void device_submit(struct device *device, struct device_io *io);

/* For backends: counts down and calls done(). From the reactor's loop only. */
void device_complete(struct device_io *io, int error);

/* Of NULL nothing.  Nothing is in flight. */
void device_close(struct device *device);

#endif
