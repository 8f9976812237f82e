/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reactor on one io_uring.
 *
 * The loop, once round:
 *   1. run tasks, timers and turn-end tasks until none is left (reactor_run_turn);
 *   2. one system call submits all that they queued and waits for the first completion, for the
 * next timer, or not at all if a task was posted meanwhile;
 *   3. call done() for every completion there is.
 *
 * Nothing is polled: with no timer armed and nothing in flight the thread sleeps in step 2.
 *
 * Waking.  A poster pushes its task and then exchanges `sleeping` to false; the reactor exchanges
 * it to true and then looks at the posted tasks.  Whichever exchange is the later one sees what the
 * other side did before its own: either the reactor finds the task, or the poster finds the reactor
 * asleep and writes the eventfd.  A reactor that is busy is not written to at all.
 */
#include "core/reactor_uring.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "core/base/error.h"

enum {
	SQ_ENTRIES = 512,
	CQ_ENTRIES = 8 * SQ_ENTRIES,
	/* Kernel threads for what cannot be started without blocking: of files and disks, of
	 * others. */
	WORKERS_BOUNDED_MAX = 16,
	WORKERS_UNBOUNDED_MAX = 16,
	OFFLOAD_STACK_BYTES = 1024 * 1024,
};

/* A completion that was taken off the full ring before its done() could be called. */
struct uring_completion {
	struct uring_op *op;
	int32_t result;
	uint32_t cqe_flags;
};

static uint64_t
clock_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static uint64_t
clock_boot_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* --- waking --- */

static void
uring_wake(struct reactor *reactor)
{
	struct reactor_uring *r = reactor_uring_of(reactor);
	uint64_t one = 1;

	if (!atomic_exchange(&r->sleeping, false))
		return;
	while (write(r->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void
wake_arm(struct reactor_uring *r)
{
	struct io_uring_sqe *sqe = reactor_uring_sqe(r, &r->wake_op);

	io_uring_prep_read(sqe, r->wake_fd, &r->wake_value, sizeof(r->wake_value), 0);
}

static void
wake_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	wake_arm(container_of(op, struct reactor_uring, wake_op));
}

/* --- set-up --- */

static int
ring_setup(struct io_uring *ring)
{
	/* The best first: SINGLE_ISSUER is of Linux 6.0, DEFER_TASKRUN of 6.1, COOP_TASKRUN
	 * of 5.19. */
	static const uint32_t steps[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int rc = -EINVAL;

	for (size_t i = 0; i < ARRAY_SIZE(steps) && rc == -EINVAL; i++) {
		struct io_uring_params params = {
			.flags = steps[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE |
				 IORING_SETUP_CLAMP,
			.cq_entries = CQ_ENTRIES,
		};

		rc = io_uring_queue_init_params(SQ_ENTRIES, ring, &params);
		if (rc == 0 && !(params.features & IORING_FEAT_EXT_ARG)) {
			io_uring_queue_exit(ring);
			return -ENOTSUP; /* older than Linux 5.11 */
		}
	}
	return rc;
}

static const char *
ring_advice(int rc)
{
	switch (rc) {
	case -EPERM:
	case -EACCES:
		return " (see sysctl kernel.io_uring_disabled; a container's seccomp profile may "
		       "forbid it)";
	case -ENOSYS:
	case -EINVAL:
	case -ENOTSUP:
		return " (Linux 5.11 is needed, and 6.1 recommended; a container may hide it)";
	default:
		return "";
	}
}

int
reactor_uring_init(struct reactor_uring *r, uint32_t index)
{
	int rc;

	memset(r, 0, sizeof(*r));
	reactor_init(&r->reactor);
	r->reactor.wake = uring_wake;
	r->reactor.clock_ns = clock_boot_ns;
	r->reactor.now_ns = clock_now_ns();
	r->index = index;
	r->wake_op.done = wake_done;
	atomic_init(&r->stopping, false);
	atomic_init(&r->sleeping, false);

	/* Not EFD_NONBLOCK: the ring would then give the read back at once instead of waiting. */
	r->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (r->wake_fd < 0) {
		rc = -errno;
		goto err_fini_reactor;
	}
	rc = ring_setup(&r->ring);
	if (rc < 0) {
		diag_error("io_uring: %s%s", strerror(-rc), ring_advice(rc));
		goto err_close_wake;
	}
	io_uring_ring_dontfork(&r->ring);
	return 0;

err_close_wake:
	close(r->wake_fd);
err_fini_reactor:
	reactor_fini(&r->reactor);
	return rc;
}

/* In the thread that runs the reactor, the first time: from here on the ring is that thread's. */
static void
ring_enable(struct reactor_uring *r)
{
	unsigned int workers[2] = { WORKERS_BOUNDED_MAX, WORKERS_UNBOUNDED_MAX };
	int rc = io_uring_register(r->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);

	CHECK(rc >= 0);
	/* Both only make it faster or tamer; without them it works as well. */
	(void)io_uring_register_ring_fd(&r->ring);
	(void)io_uring_register_iowq_max_workers(&r->ring, workers);
	r->enabled = true;
	wake_arm(r);
}

/* --- submission --- */

/* Takes completions off a ring so full that the kernel accepts no more; their done() comes later.
 */
static void
set_completions_aside(struct reactor_uring *r)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&r->ring, &cqe) == 0) {
		if (r->aside_count == r->aside_capacity) {
			r->aside_capacity = r->aside_capacity ? 2 * r->aside_capacity : 256;
			r->aside =
			    xrealloc(r->aside, r->aside_capacity * sizeof(struct uring_completion));
		}
		r->aside[r->aside_count++] = (struct uring_completion){
			.op = io_uring_cqe_get_data(cqe),
			.result = cqe->res,
			.cqe_flags = cqe->flags,
		};
		io_uring_cqe_seen(&r->ring, cqe);
	}
}

/* What io_uring_enter may say in passing: interrupted, time is up, completions must be taken first,
 * no memory for a request just now.  Anything else is a bug of ours. */
static bool
enter_error_passes(int rc)
{
	return rc == -EINTR || rc == -ETIME || rc == -EBUSY || rc == -EAGAIN || rc == -ENOMEM;
}

struct io_uring_sqe *
reactor_uring_sqe(struct reactor_uring *r, struct uring_op *op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	while (unlikely(!sqe)) {
		int rc = io_uring_submit(&r->ring);

		r->submissions++;
		CHECK(rc >= 0 || enter_error_passes(rc));
		if (rc < 0)
			set_completions_aside(r);
		sqe = io_uring_get_sqe(&r->ring);
	}
	memset(sqe, 0, sizeof(*sqe));
	io_uring_sqe_set_data(sqe, op);
	return sqe;
}

/* --- the loop --- */

static bool
has_work(const struct reactor_uring *r)
{
	return !list_empty(&r->reactor.ready) || !list_empty(&r->reactor.turn_end) ||
	       atomic_load(&r->reactor.posted) || r->aside_count || atomic_load(&r->stopping);
}

static void
submit_and_wait(struct reactor_uring *r)
{
	uint64_t deadline_ns = reactor_next_deadline_ns(&r->reactor);
	struct __kernel_timespec timeout;
	struct io_uring_cqe *cqe;
	bool sleeps = !has_work(r);
	int rc;

	if (sleeps && deadline_ns != UINT64_MAX) {
		uint64_t now_ns = clock_now_ns();

		if (deadline_ns <= now_ns) {
			sleeps = false;
		} else {
			timeout.tv_sec = (int64_t)((deadline_ns - now_ns) / 1000000000ull);
			timeout.tv_nsec = (int64_t)((deadline_ns - now_ns) % 1000000000ull);
		}
	}
	if (sleeps) {
		atomic_exchange(&r->sleeping, true);
		if (has_work(r)) { /* posted since we looked: see the head of this file */
			atomic_store(&r->sleeping, false);
			sleeps = false;
		}
	}
	if (sleeps) {
		rc = io_uring_submit_and_wait_timeout(
		    &r->ring, &cqe, 1, deadline_ns == UINT64_MAX ? NULL : &timeout, NULL);
		atomic_store(&r->sleeping, false);
	} else {
		rc = io_uring_submit_and_get_events(&r->ring);
	}
	r->submissions++;
	CHECK(rc >= 0 || enter_error_passes(rc));
}

static void
call_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	if (op)
		op->done(op, result, cqe_flags);
}

static void
drain_completions(struct reactor_uring *r)
{
	struct io_uring_cqe *cqe;

	/* What was set aside came first.  A done() may add to it. */
	for (size_t i = 0; i < r->aside_count; i++)
		call_done(r->aside[i].op, r->aside[i].result, r->aside[i].cqe_flags);
	r->aside_count = 0;

	while (!r->aside_count && io_uring_peek_cqe(&r->ring, &cqe) == 0) {
		struct uring_op *op = io_uring_cqe_get_data(cqe);
		int32_t result = cqe->res;
		uint32_t cqe_flags = cqe->flags;

		/* Given back before done(), which may submit and so have it filled again. */
		io_uring_cqe_seen(&r->ring, cqe);
		call_done(op, result, cqe_flags);
	}
}

void
reactor_uring_run(struct reactor_uring *r)
{
	CHECK(!reactor_current());
	reactor_set_current(&r->reactor);
	if (!r->enabled)
		ring_enable(r);
	r->reactor.now_ns = clock_now_ns();
	for (;;) {
		reactor_run_turn(&r->reactor, r->reactor.now_ns);
		if (atomic_load(&r->stopping))
			break;
		submit_and_wait(r);
		r->reactor.now_ns = clock_now_ns();
		drain_completions(r);
	}
	atomic_store(&r->stopping, false);
	reactor_set_current(NULL);
}

void
reactor_uring_stop(struct reactor_uring *r)
{
	atomic_store(&r->stopping, true);
	uring_wake(&r->reactor);
}

/* --- threads --- */

/* A thread that gets no signals: those are for the thread that asked for them. */
static int
thread_create_quiet(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	sigset_t all;
	sigset_t before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(thread, attr, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -rc;
}

static void *
reactor_thread(void *arg)
{
	struct reactor_uring *r = arg;
	char name[16];

	snprintf(name, sizeof(name), "reactor-%u", r->index % 1000);
	pthread_setname_np(pthread_self(), name);
	reactor_uring_run(r);
	return NULL;
}

int
reactor_uring_start_thread(struct reactor_uring *r)
{
	return thread_create_quiet(&r->thread, NULL, reactor_thread, r);
}

void
reactor_uring_join(struct reactor_uring *r)
{
	int rc = pthread_join(r->thread, NULL);

	CHECK(rc == 0);
}

/* --- offloaded work --- */

/*
 * Held while a finished job is posted.  The job's done() may be what ends the daemon: without it
 * the reactor could be gone before its poster has finished waking it.
 */
static pthread_mutex_t offload_post_lock = PTHREAD_MUTEX_INITIALIZER;

static void
offload_finished(struct task *task)
{
	struct offload *offload = container_of(task, struct offload, task);

	offload->done(offload); /* may free it */
}

static void *
offload_thread(void *arg)
{
	struct offload *offload = arg;

	pthread_setname_np(pthread_self(), "offload");
	offload->run(offload);
	pthread_mutex_lock(&offload_post_lock);
	reactor_post(offload->reactor, &offload->task);
	pthread_mutex_unlock(&offload_post_lock);
	return NULL;
}

int
offload_start(struct offload *offload, struct reactor *reactor,
    void (*run)(struct offload *offload), void (*done)(struct offload *offload))
{
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	task_init(&offload->task, offload_finished);
	offload->reactor = reactor;
	offload->run = run;
	offload->done = done;

	if (!reactor->wake) { /* a simulation has no threads: here and now, so that it repeats */
		run(offload);
		reactor_defer(reactor, &offload->task);
		return 0;
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, OFFLOAD_STACK_BYTES);
	rc = thread_create_quiet(&thread, &attr, offload_thread, offload);
	pthread_attr_destroy(&attr);
	return rc;
}

void
reactor_uring_fini(struct reactor_uring *r)
{
	pthread_mutex_lock(&offload_post_lock);
	pthread_mutex_unlock(&offload_post_lock);
	io_uring_queue_exit(&r->ring);
	close(r->wake_fd);
	free(r->aside);
	reactor_fini(&r->reactor);
}
