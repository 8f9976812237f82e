/* SPDX-License-Identifier: Apache-2.0 */
#include "core/reactor.h"

#include <stdlib.h>

static _Thread_local struct reactor *current_reactor;

struct reactor *
reactor_current(void)
{
	return current_reactor;
}

void
reactor_set_current(struct reactor *reactor)
{
	current_reactor = reactor;
}

void
reactor_init(struct reactor *reactor)
{
	memset(reactor, 0, sizeof(*reactor));
	list_init(&reactor->ready);
	list_init(&reactor->turn_end);
	atomic_init(&reactor->posted, NULL);
}

void
reactor_fini(struct reactor *reactor)
{
	free(reactor->timers);
	reactor->timers = NULL;
}

void
reactor_defer(struct reactor *reactor, struct task *task)
{
	if (!task_queued(task))
		list_push_back(&reactor->ready, &task->link);
}

void
reactor_at_turn_end(struct reactor *reactor, struct task *task)
{
	if (!task_queued(task))
		list_push_back(&reactor->turn_end, &task->link);
}

void
reactor_cancel(struct reactor *reactor, struct task *task)
{
	(void)reactor;
	list_remove(&task->link);
}

void
reactor_post(struct reactor *reactor, struct task *task)
{
	struct task *head = atomic_load_explicit(&reactor->posted, memory_order_relaxed);

	do {
		task->posted_next = head;
	} while (!atomic_compare_exchange_weak_explicit(
	    &reactor->posted, &head, task, memory_order_release, memory_order_relaxed));
	/* Whoever posts into an empty queue wakes; the others ride along. */
	if (!head && reactor->wake && reactor != current_reactor)
		reactor->wake(reactor);
}

static void
take_posted(struct reactor *reactor)
{
	struct task *task;
	struct task *in_order = NULL;

	if (!atomic_load_explicit(&reactor->posted, memory_order_relaxed))
		return;
	task = atomic_exchange_explicit(&reactor->posted, NULL, memory_order_acquire);
	while (task) {
		struct task *next = task->posted_next;

		task->posted_next = in_order;
		in_order = task;
		task = next;
	}
	while (in_order) {
		task = in_order;
		in_order = task->posted_next;
		list_push_back(&reactor->ready, &task->link);
	}
}

/* --- timers: a binary heap, the earliest first; equal deadlines in no particular order --- */

static void
heap_place(struct reactor *reactor, uint32_t at, struct timer *timer)
{
	reactor->timers[at] = timer;
	timer->heap_index = at + 1;
}

static void
heap_sift(struct reactor *reactor, uint32_t at, struct timer *timer)
{
	while (at > 0 && reactor->timers[(at - 1) / 2]->deadline_ns > timer->deadline_ns) {
		heap_place(reactor, at, reactor->timers[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	for (;;) {
		uint32_t child = 2 * at + 1;

		if (child >= reactor->timer_count)
			break;
		if (child + 1 < reactor->timer_count &&
		    reactor->timers[child + 1]->deadline_ns < reactor->timers[child]->deadline_ns)
			child++;
		if (reactor->timers[child]->deadline_ns >= timer->deadline_ns)
			break;
		heap_place(reactor, at, reactor->timers[child]);
		at = child;
	}
	heap_place(reactor, at, timer);
}

void
reactor_timer_cancel(struct reactor *reactor, struct timer *timer)
{
	uint32_t at;

	if (timer->heap_index == 0)
		return;
	at = timer->heap_index - 1;
	timer->heap_index = 0;
	struct timer *last = reactor->timers[--reactor->timer_count];
	if (last != timer)
		heap_sift(reactor, at, last);
}

void
reactor_timer_start(struct reactor *reactor, struct timer *timer, uint64_t delay_ns)
{
	reactor_timer_cancel(reactor, timer);
	if (reactor->timer_count == reactor->timer_capacity) {
		reactor->timer_capacity =
		    reactor->timer_capacity ? 2 * reactor->timer_capacity : 16;
		reactor->timers =
		    xrealloc(reactor->timers, reactor->timer_capacity * sizeof(struct timer *));
	}
	timer->deadline_ns = reactor->now_ns + delay_ns;
	heap_sift(reactor, reactor->timer_count++, timer);
}

uint64_t
reactor_next_deadline_ns(const struct reactor *reactor)
{
	return reactor->timer_count ? reactor->timers[0]->deadline_ns : UINT64_MAX;
}

static bool
run_list(struct list *tasks)
{
	bool ran = false;
	struct list *node;

	while ((node = list_pop_front(tasks))) {
		struct task *task = container_of(node, struct task, link);

		ran = true;
		task->run(task);
	}
	return ran;
}

bool
reactor_run_turn(struct reactor *reactor, uint64_t now_ns)
{
	bool ran = false;

	reactor->now_ns = now_ns;
	take_posted(reactor);
	while (reactor->timer_count && reactor->timers[0]->deadline_ns <= now_ns) {
		struct timer *timer = reactor->timers[0];

		reactor_timer_cancel(reactor, timer);
		timer->run(timer);
		ran = true;
	}
	do {
		struct list gathered;

		ran |= run_list(&reactor->ready);
		list_init(&gathered);
		list_splice_back(&gathered, &reactor->turn_end);
		ran |= run_list(&gathered);
	} while (!list_empty(&reactor->ready));
	return ran;
}
