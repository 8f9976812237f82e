/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What nbd_device.c (requests) and nbd_link.c (the connection) share.
 *
 * Each device has a thread, which alone touches all but `inbox` and `stopping`: libnbd resolves
 * names, and closing a device must not wait for a reactor.  It takes commands from the inbox and
 * posts answers to the device's reactor.
 *
 *   submit ─► inbox ─► waiting ─► sent ─► answered ─┬─► the reactor
 *                         ▲         │               └─► kept (writes) ─► free, when a flush
 * succeeds └─────────┘ the connection died
 *
 * Invariants:
 *   - A write that was answered is in `kept`, or a flush that was sent after its answer has
 * succeeded (or the server needs none).  A new connection is used only when all that is kept has
 * been written to it again, in the order of the answers, before anything else.
 *   - A new connection is used only if the device's label is there as it was: the export of that
 * name may be another one by now, or may have forgotten everything.
 *   - If what was kept cannot be written again, or the label is another, the device is broken:
 * everything fails until it is opened anew.
 *   - Buffers of the submitter are touched by libnbd only while the handle is open: it is closed
 * before a request fails that was sent.
 */
#ifndef QUARRY_BACKENDS_NBD_DEVICE_INTERNAL_H
#define QUARRY_BACKENDS_NBD_DEVICE_INTERNAL_H

#include <libnbd.h>
#include <pthread.h>

#include "backends/nbd_device.h"

struct nbd_command {
	struct list link;
	struct device_io *io; /* NULL: a flush of our own */
	enum device_op op;
	uint64_t offset_bytes;
	uint64_t len_bytes;
	uint8_t *data;       /* READ: where to; WRITE: what */
	bool owns_data;      /* a copy; else the submitter's */
	uint64_t started_ns; /* when it was submitted */
	uint64_t sequence;   /* WRITE: of its answer; FLUSH: of the last answer that it covers */
	uint32_t parts_left; /* a large request is several of NBD's */
	int error;
};

struct nbd_device {
	struct device device;
	struct nbd_device_options options;
	pthread_t thread;
	int wake_fd; /* an eventfd: something in the inbox, or stopping */

	pthread_mutex_t lock;
	struct list inbox;
	bool stopping;

	/* the thread's own */
	struct list waiting;
	struct list sent;
	struct list answered;
	struct list kept;
	uint64_t kept_bytes;
	uint64_t answers; /* writes answered so far */
	bool flushing;    /* a flush of our own is under way */
	bool broken;

	/* the connection */
	struct nbd_handle *handle; /* NULL: there is none */
	uint64_t part_bytes;       /* at most so much in one request */
	bool can_flush;
	bool can_trim;
	uint64_t retry_ns; /* without a connection: when to try again */
	uint64_t pause_ns;
	bool told; /* the operator knows that it is away */
	/* The block with the device's label: as it is durable, and as it is. */
	uint8_t label_durable[BLOCK_BYTES];
	uint8_t label[BLOCK_BYTES];
};

#define NBD_LABEL_OFFSET_BYTES (FORMAT_LABEL_BLOCK * (uint64_t)BLOCK_BYTES)

/* Monotonic. */
uint64_t nbd_clock_ns(void);

/* --- nbd_link.c --- */

/* Connects, and finds out what the export can do; 0 or a negative errno value with a text. */
int nbd_link_open(struct nbd_device *nbd, struct error *error) must_check;
/* A new connection after one was lost: what is kept is written again.  May break the device. */
int nbd_link_restore(struct nbd_device *nbd, struct error *error) must_check;
void nbd_link_close(struct nbd_device *nbd);
/* Transfers one range and waits for it, on an open link. */
int nbd_link_transfer(struct nbd_device *nbd, enum device_op op, uint64_t offset_bytes, void *data,
    size_t len_bytes) must_check;
/* Waits for the server, or for whoever writes to wake_fd, for at most @wait_ms, and does what is to
 * be done then. */
void nbd_link_wait(struct nbd_device *nbd, int wait_ms);
/* The connection is of no use any more. */
bool nbd_link_is_dead(const struct nbd_device *nbd);

#endif
