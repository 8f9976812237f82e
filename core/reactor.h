/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reactor: one thread that runs tasks, timers and completions; everything it touches it owns.
 *
 * This file is the whole of what the engine knows about running: it is the same for the real
 * reactor (reactor_uring.h adds sockets and disks on one io_uring) and for a simulated one, whose
 * clock is virtual and whose order follows from a seed.
 *
 * The asynchronous contract of the project:
 *   - an operation is a struct that its owner embeds; starting it never calls its done();
 *   - done() is called exactly once, from the reactor that started the operation, never from inside
 *     another operation's function (a completion that is known at once is deferred as a task);
 *   - so the stack is always reactor, done, step, and nothing is entered twice.
 *
 * Order of a turn: completions and posted tasks, then ready tasks until none is left, then the
 * turn-end tasks once (what gathers work for one submission: batches, replies), then ready tasks
 * again if those made any, then one submission and wait.
 */
#ifndef QUARRY_CORE_REACTOR_H
#define QUARRY_CORE_REACTOR_H

#include <stdatomic.h>

#include "core/base/list.h"

struct reactor;

struct task {
	struct list link; /* private; not queued: points at itself */
	void (*run)(struct task *task);
	struct task *posted_next; /* private to reactor_post */
};

struct timer {
	uint64_t deadline_ns;
	uint32_t heap_index; /* private; 0: not armed, otherwise index + 1 */
	void (*run)(struct timer *timer);
};

struct reactor {
	struct list ready;
	struct list turn_end;
	uint64_t now_ns;       /* monotonic; constant within a turn's step */
	struct timer **timers; /* a binary heap */
	uint32_t timer_count;
	uint32_t timer_capacity;
	_Atomic(struct task *) posted; /* newest first */
	/* A clock that goes on when the machine is suspended; NULL: now_ns is as good. */
	uint64_t (*clock_ns)(void);
	/* Ends the wait of a reactor that sleeps; called from any thread; NULL in a simulation. */
	void (*wake)(struct reactor *reactor);
};

void reactor_init(struct reactor *reactor);
void reactor_fini(struct reactor *reactor);

static inline void
task_init(struct task *task, void (*run)(struct task *task))
{
	list_init(&task->link);
	task->run = run;
	task->posted_next = NULL;
}

static inline bool
task_queued(const struct task *task)
{
	return !list_empty(&task->link);
}

/* Runs @task later in this turn; queueing a queued task again does nothing.  Own thread only. */
void reactor_defer(struct reactor *reactor, struct task *task);

/* Runs @task once at the end of this turn; as above. */
void reactor_at_turn_end(struct reactor *reactor, struct task *task);

/* Takes @task back if it is queued (not one that was posted). */
void reactor_cancel(struct reactor *reactor, struct task *task);

/* Runs @task on @reactor soon.  From any thread; @task must be in no queue. */
void reactor_post(struct reactor *reactor, struct task *task);

/* Arms @timer; an armed timer is moved.  Own thread only. */
void reactor_timer_start(struct reactor *reactor, struct timer *timer, uint64_t delay_ns);
void reactor_timer_cancel(struct reactor *reactor, struct timer *timer);

static inline void
timer_init(struct timer *timer, void (*run)(struct timer *timer))
{
	timer->deadline_ns = 0;
	timer->heap_index = 0;
	timer->run = run;
}

/* The reactor whose thread this is, or NULL. */
struct reactor *reactor_current(void);

/* --- for what drives a reactor: reactor_uring.c and simulations --- */

void reactor_set_current(struct reactor *reactor);

/* Runs due timers, posted tasks, ready tasks and turn-end tasks until none is left; returns whether
 * it ran any.  @now_ns becomes the reactor's clock. */
bool reactor_run_turn(struct reactor *reactor, uint64_t now_ns);

/* When the next timer is due; UINT64_MAX: none is armed. */
uint64_t reactor_next_deadline_ns(const struct reactor *reactor);

#endif
