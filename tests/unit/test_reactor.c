/* SPDX-License-Identifier: Apache-2.0 */
/* The real reactor: order of tasks, timers, posts from other threads, a full ring, idleness,
 * offloads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/reactor_uring.h"

static struct reactor_uring r;

static uint64_t
clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static int
setup(void **state)
{
	return reactor_uring_init(&r, 0);
}

static int
teardown(void **state)
{
	reactor_uring_fini(&r);
	return 0;
}

/* --- tasks --- */

static char order[64];
static struct task task_a;
static struct task task_b;
static struct task task_end;
static struct task task_stop;

static void
note(char c)
{
	size_t len = strlen(order);

	assert_true(len + 1 < sizeof(order));
	order[len] = c;
	order[len + 1] = '\0';
}

static void
run_stop(struct task *task)
{
	reactor_uring_stop(&r);
}

static void
run_end(struct task *task)
{
	note('e');
	reactor_at_turn_end(&r.reactor, &task_stop);
}

static void
run_b(struct task *task)
{
	note('b');
}

static void
run_a(struct task *task)
{
	note('a');
	reactor_at_turn_end(&r.reactor, &task_end);
	reactor_defer(&r.reactor, &task_b);
	reactor_defer(&r.reactor, &task_b);
}

static void
test_task_order(void **state)
{
	order[0] = '\0';
	task_init(&task_a, run_a);
	task_init(&task_b, run_b);
	task_init(&task_end, run_end);
	task_init(&task_stop, run_stop);
	reactor_defer(&r.reactor, &task_a);
	reactor_uring_run(&r);
	/* A turn-end task queued by a turn-end task does run, without anything else to wake for. */
	assert_string_equal(order, "abe");
	assert_null(reactor_current());
}

static int posts_left;

static void
run_post_again(struct task *task)
{
	assert_ptr_equal(reactor_current(), &r.reactor);
	if (--posts_left > 0)
		reactor_post(&r.reactor, task);
	else
		reactor_uring_stop(&r);
}

static void
test_post_from_own_thread(void **state)
{
	posts_left = 100;
	task_init(&task_a, run_post_again);
	reactor_post(&r.reactor, &task_a);
	reactor_uring_run(&r);
	assert_int_equal(posts_left, 0);
}

/* --- timers --- */

static struct timer timer_1;
static struct timer timer_2;
static struct timer timer_never;

static void
run_timer_1(struct timer *timer)
{
	assert_true(r.reactor.now_ns >= timer->deadline_ns);
	note('1');
	reactor_timer_cancel(&r.reactor, &timer_never);
}

static void
run_timer_2(struct timer *timer)
{
	assert_true(r.reactor.now_ns >= timer->deadline_ns);
	note('2');
	reactor_uring_stop(&r);
}

static void
run_timer_never(struct timer *timer)
{
	note('!');
}

static void
run_start_timers(struct task *task)
{
	reactor_timer_start(&r.reactor, &timer_2, 2000000);
	reactor_timer_start(&r.reactor, &timer_never, 1500000);
	reactor_timer_start(&r.reactor, &timer_1, 1000000);
}

static void
test_timers(void **state)
{
	uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);

	order[0] = '\0';
	timer_init(&timer_1, run_timer_1);
	timer_init(&timer_2, run_timer_2);
	timer_init(&timer_never, run_timer_never);
	task_init(&task_a, run_start_timers);
	reactor_defer(&r.reactor, &task_a);
	reactor_uring_run(&r);
	/* On a machine so busy that 1 and the other are due in the same turn, 1 still comes first.
	 */
	assert_string_equal(order, "12");
	assert_true(clock_ns(CLOCK_MONOTONIC) - start_ns >= 2000000);
}

/* --- completions --- */

static struct {
	struct uring_op op;
	uint32_t done;
	uint32_t wanted;
} nops;

static void
nop_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	assert_int_equal(result, 0);
	if (++nops.done == nops.wanted)
		reactor_uring_stop(&r);
}

static void
run_nops(struct task *task)
{
	for (uint32_t i = 0; i < nops.wanted; i++) {
		io_uring_prep_nop(reactor_uring_sqe(&r, &nops.op));
		if (i % 1000 == 0)
			io_uring_prep_nop(reactor_uring_sqe(&r, NULL));
	}
}

/* More than the submission queue and the completion queue hold. */
static void
test_full_ring(void **state)
{
	nops.op.done = nop_done;
	nops.done = 0;
	nops.wanted = 50000;
	task_init(&task_a, run_nops);
	reactor_defer(&r.reactor, &task_a);
	reactor_uring_run(&r);
	assert_int_equal(nops.done, nops.wanted);
}

/* --- other threads --- */

enum {
	POSTERS = 4,
	POSTS = 2000
};

struct posted {
	struct task task;
	uint32_t poster;
	uint32_t number;
};

static struct posted posted[POSTERS][POSTS];
static uint32_t posted_next[POSTERS];
static uint32_t posted_count;

static void
run_posted(struct task *task)
{
	struct posted *p = container_of(task, struct posted, task);

	/* Each poster's come in its order. */
	assert_int_equal(p->number, posted_next[p->poster]++);
	posted_count++;
}

static void *
poster_thread(void *arg)
{
	uint32_t poster = (uint32_t)(uintptr_t)arg;

	for (uint32_t i = 0; i < POSTS; i++) {
		struct posted *p = &posted[poster][i];

		p->poster = poster;
		p->number = i;
		task_init(&p->task, run_posted);
		reactor_post(&r.reactor, &p->task);
		if (i % 64 == 0)
			sched_yield(); /* lets the reactor fall asleep now and then */
	}
	return NULL;
}

static void
test_post_from_threads(void **state)
{
	pthread_t threads[POSTERS];

	memset(posted_next, 0, sizeof(posted_next));
	posted_count = 0;
	assert_int_equal(reactor_uring_start_thread(&r), 0);
	for (uintptr_t i = 0; i < POSTERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, poster_thread, (void *)i), 0);
	for (size_t i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	task_init(&task_stop, run_stop);
	reactor_post(&r.reactor, &task_stop); /* behind all of them */
	reactor_uring_join(&r);
	assert_int_equal(posted_count, POSTERS * POSTS);
}

/* Every post finds a sleeping reactor: none is lost. */
struct ping {
	struct task task;
	struct task answer;
	struct reactor_uring other;
	uint32_t left;
};

static void
run_ping(struct task *task)
{
	struct ping *ping = container_of(task, struct ping, task);

	reactor_post(&r.reactor, &ping->answer);
}

static void
run_answer(struct task *task)
{
	struct ping *ping = container_of(task, struct ping, answer);

	if (--ping->left == 0)
		reactor_uring_stop(&r);
	else
		reactor_post(&ping->other.reactor, &ping->task);
}

static void
test_ping_pong(void **state)
{
	struct ping *ping = calloc(1, sizeof(*ping));

	assert_non_null(ping);
	assert_int_equal(reactor_uring_init(&ping->other, 1), 0);
	assert_int_equal(reactor_uring_start_thread(&ping->other), 0);
	task_init(&ping->task, run_ping);
	task_init(&ping->answer, run_answer);
	ping->left = 5000;
	reactor_post(&ping->other.reactor, &ping->task);
	reactor_uring_run(&r);
	assert_int_equal(ping->left, 0);
	reactor_uring_stop(&ping->other);
	reactor_uring_join(&ping->other);
	reactor_uring_fini(&ping->other);
	free(ping);
}

/* A reactor with nothing to do makes no system call at all. */
static struct timer timer_idle;
static uint64_t submissions_before;
static uint64_t cpu_before_ns;

static void
run_idle_end(struct timer *timer)
{
	/* The one wait that this timer ended; two if the clock woke us a little early. */
	assert_in_range(r.submissions - submissions_before, 1, 3);
	assert_true(clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_before_ns < 20000000);
	reactor_uring_stop(&r);
}

static void
run_idle(struct task *task)
{
	submissions_before = r.submissions;
	cpu_before_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	reactor_timer_start(&r.reactor, &timer_idle, 50000000);
}

static void
test_idle(void **state)
{
	timer_init(&timer_idle, run_idle_end);
	task_init(&task_a, run_idle);
	reactor_defer(&r.reactor, &task_a);
	reactor_uring_run(&r);
}

static void
test_stop_before_run(void **state)
{
	reactor_uring_stop(&r);
	reactor_uring_run(&r);
	/* And once more: the stop was used up. */
	task_init(&task_stop, run_stop);
	reactor_defer(&r.reactor, &task_stop);
	reactor_uring_run(&r);
}

/* --- offloads --- */

struct job {
	struct offload offload;
	pthread_t ran_on;
	bool done;
};

static uint32_t jobs_left;

static void
job_run(struct offload *offload)
{
	struct job *job = container_of(offload, struct job, offload);

	job->ran_on = pthread_self();
	assert_null(reactor_current());
}

static void
job_done(struct offload *offload)
{
	struct job *job = container_of(offload, struct job, offload);

	assert_ptr_equal(reactor_current(), &r.reactor);
	assert_false(pthread_equal(job->ran_on, pthread_self()));
	job->done = true;
	if (--jobs_left == 0)
		reactor_uring_stop(&r);
}

static struct job jobs[20];

static void
run_jobs(struct task *task)
{
	for (size_t i = 0; i < ARRAY_SIZE(jobs); i++) {
		assert_int_equal(offload_start(&jobs[i].offload, &r.reactor, job_run, job_done), 0);
		assert_false(jobs[i].done);
	}
}

static void
test_offload(void **state)
{
	memset(jobs, 0, sizeof(jobs));
	jobs_left = ARRAY_SIZE(jobs);
	task_init(&task_a, run_jobs);
	reactor_defer(&r.reactor, &task_a);
	reactor_uring_run(&r);
	for (size_t i = 0; i < ARRAY_SIZE(jobs); i++)
		assert_true(jobs[i].done);
}

static bool simulated_ran;
static bool simulated_done;

static void
simulated_run(struct offload *offload)
{
	simulated_ran = true;
}

static void
simulated_finish(struct offload *offload)
{
	simulated_done = true;
}

static void
test_offload_in_a_simulation(void **state)
{
	struct offload offload;
	struct reactor reactor;

	reactor_init(&reactor);
	reactor_set_current(&reactor);
	assert_int_equal(offload_start(&offload, &reactor, simulated_run, simulated_finish), 0);
	assert_true(simulated_ran);
	assert_false(simulated_done);
	reactor_run_turn(&reactor, 1);
	assert_true(simulated_done);
	reactor_set_current(NULL);
	reactor_fini(&reactor);
}

#define with_reactor(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		with_reactor(test_task_order),
		with_reactor(test_post_from_own_thread),
		with_reactor(test_timers),
		with_reactor(test_full_ring),
		with_reactor(test_post_from_threads),
		with_reactor(test_ping_pong),
		with_reactor(test_idle),
		with_reactor(test_stop_before_run),
		with_reactor(test_offload),
		cmocka_unit_test(test_offload_in_a_simulation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
