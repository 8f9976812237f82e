/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real reactor: a thread with one io_uring for disks and sockets alike.
 *
 * Backends and frontends get submission entries from it and embed a uring_op in what they submit;
 * its done() runs from the reactor's loop with the result and the CQE's flags.  A multishot
 * operation's done() is called for each completion; IORING_CQE_F_MORE in flags says that more come.
 */
#ifndef QUARRY_CORE_REACTOR_URING_H
#define QUARRY_CORE_REACTOR_URING_H

#include <liburing.h>
#include <pthread.h>

#include "core/reactor.h"

struct uring_op {
	void (*done)(struct uring_op *op, int32_t result, uint32_t cqe_flags);
};

struct uring_completion;

struct reactor_uring {
	struct reactor reactor;
	struct io_uring ring;
	uint32_t index; /* of this reactor in the daemon */
	pthread_t thread;
	int wake_fd; /* an eventfd, read by the ring */
	uint64_t wake_value;
	struct uring_op wake_op;
	atomic_bool stopping;
	atomic_bool sleeping; /* whoever posts must write to wake_fd */
	bool enabled;         /* the ring belongs to the thread that first ran it */
	uint64_t submissions; /* io_uring_enter calls, for statistics */
	/* Completions that had to leave a full ring before their turn; usually none. */
	struct uring_completion *aside;
	size_t aside_count;
	size_t aside_capacity;
};

/* Sets up the ring (SINGLE_ISSUER, DEFER_TASKRUN and the like where the kernel has them; the ring
 * is enabled by the thread that runs it).  0 or a negative errno value, whose cause was told. */
int reactor_uring_init(struct reactor_uring *r, uint32_t index) must_check;

/* Runs in the calling thread until reactor_uring_stop().  May be called again, by the same thread.
 */
void reactor_uring_run(struct reactor_uring *r);
/* Runs in a new thread / waits for that thread to end. */
int reactor_uring_start_thread(struct reactor_uring *r) must_check;
void reactor_uring_join(struct reactor_uring *r);

/* Ends the loop after the present turn.  From any thread, not from a signal handler. */
void reactor_uring_stop(struct reactor_uring *r);
/* Nobody runs it or posts to it any more, and no operation of a caller is in flight. */
void reactor_uring_fini(struct reactor_uring *r);

/* A cleared submission entry bound to @op (io_uring_prep_*() leaves that as it is); submits what is
 * queued if the ring is full.  With a NULL @op the completion is ignored.  Own thread, or before
 * the reactor runs.  Never NULL. */
struct io_uring_sqe *reactor_uring_sqe(struct reactor_uring *r, struct uring_op *op);

static inline struct reactor_uring *
reactor_uring_of(struct reactor *reactor)
{
	return container_of(reactor, struct reactor_uring, reactor);
}

/*
 * Blocking work (opening devices, probing, fallocate, name resolution) in a thread of its own:
 * @run is called there, then @done on @reactor.  On a reactor without threads (a simulation) @run
 * is called at once.
 */
struct offload {
	struct task task;
	struct reactor *reactor;
	void (*run)(struct offload *offload);
	void (*done)(struct offload *offload);
};
/* 0, or a negative errno value if no thread could be made (then @done is not called). */
int offload_start(struct offload *offload, struct reactor *reactor,
    void (*run)(struct offload *offload), void (*done)(struct offload *offload)) must_check;

#endif
