/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs seeds in processes of their own: a crash in a simulation abandons memory, and what fails
 * dies.
 */
#include "tests/sim/sim_seeds.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/diag.h"

#define JOBS_MAX 64u

struct job {
	pid_t child; /* 0: none */
	int end;     /* where the outcome can be read */
	uint64_t seed;
};

void
seed_run(uint64_t seed, bool trace, const struct sim_cut *cut, struct outcome *outcome)
{
	struct sim *sim = xcalloc(1, sizeof(*sim));

	sim->seed = seed;
	sim->trace = trace;
	sim->cut = cut;
	sim->loud = trace ? DIAG_DEBUG : DIAG_ERROR;
	diag_set_level((enum diag_level)sim->loud);
	sim_run(sim);
	outcome->hash = sim->hash;
	outcome->events = sim->events;
	outcome->stats = sim->stats;
}

static void
job_start(const struct seeds *seeds, struct job *job, uint64_t seed)
{
	struct outcome outcome = { 0 };
	int ends[2];

	CHECK(pipe(ends) == 0);
	fflush(NULL);
	job->child = fork();
	CHECK(job->child >= 0);
	job->seed = seed;
	job->end = ends[0];
	if (job->child > 0) {
		close(ends[1]);
		return;
	}
	close(ends[0]);
	/* Of processor time: how busy the machine is says nothing of the seed. */
	setitimer(ITIMER_PROF, &(struct itimerval){ .it_value.tv_sec = seeds->seed_seconds }, NULL);
	if (seeds->quiet &&
	    (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)))
		_exit(1);
	seed_run(seed, false, seeds->cut, &outcome);
	exit(write(ends[1], &outcome, sizeof(outcome)) == (ssize_t)sizeof(outcome) ? 0 : 1);
}

static void
add_stats(struct outcome *total, const struct outcome *outcome)
{
	uint64_t *to = (uint64_t *)&total->stats;
	const uint64_t *from = (const uint64_t *)&outcome->stats;

	static_assert(sizeof(struct sim_stats) % sizeof(uint64_t) == 0, "it is made of numbers");
	for (size_t i = 0; i < sizeof(struct sim_stats) / sizeof(uint64_t); i++)
		to[i] += from[i];
	total->events += outcome->events;
}

static void
job_failed(struct seeds *seeds, const struct job *job, int status)
{
	if (seeds->failed++ == 0 || job->seed < seeds->first_failed)
		seeds->first_failed = job->seed;
	if (seeds->quiet)
		return;
	if (WIFSIGNALED(status))
		printf("seed %llu: killed by signal %d%s\n", (unsigned long long)job->seed,
		    WTERMSIG(status), WTERMSIG(status) == SIGPROF ? " (it took too long)" : "");
	printf("replay: %s --seed %llu --trace\nshrink: %s --minimise %llu\n", seeds->program,
	    (unsigned long long)job->seed, seeds->program, (unsigned long long)job->seed);
	fflush(stdout);
}

/* Waits for some child to end. */
static void
job_end(struct seeds *seeds, struct job *jobs)
{
	struct outcome outcome;
	struct job *job = jobs;
	bool whole;
	int status;
	pid_t child = wait(&status);

	CHECK(child > 0);
	while (job->child != child)
		job++;
	whole = read(job->end, &outcome, sizeof(outcome)) == (ssize_t)sizeof(outcome);
	close(job->end);
	job->child = 0;
	seeds->done++;
	if (!whole || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		job_failed(seeds, job, status);
		return;
	}
	seeds->digest += mix64(outcome.hash ^ mix64(job->seed));
	add_stats(&seeds->total, &outcome);
}

static double
now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void
seeds_run(struct seeds *seeds)
{
	struct job jobs[JOBS_MAX] = { 0 };
	double began_s = now_s();
	uint64_t next = 0;
	unsigned running = 0;

	CHECK(seeds->jobs > 0 && seeds->jobs <= JOBS_MAX);
	for (;;) {
		while (running < seeds->jobs && next < seeds->count &&
		       now_s() - began_s < seeds->seconds &&
		       (seeds->failed == 0 || seeds->keep_going)) {
			struct job *job = jobs;

			while (job->child)
				job++;
			job_start(seeds, job, seeds->start + next++);
			running++;
		}
		if (running == 0)
			break;
		job_end(seeds, jobs);
		running--;
	}
	seeds->took_s = now_s() - began_s;
}

void
seeds_print(const struct seeds *seeds)
{
	const struct sim_stats *s = &seeds->total.stats;

	printf("%llu seeds from %llu on, %llu failed, %.1f a second\n",
	    (unsigned long long)seeds->done, (unsigned long long)seeds->start,
	    (unsigned long long)seeds->failed, (double)seeds->done / seeds->took_s);
	printf(
	    "  %llu events, %llu crashes, %llu imports, %llu requests (%llu without space), %llu "
	    "administrative, %llu MiB\n",
	    (unsigned long long)seeds->total.events, (unsigned long long)s->crashes,
	    (unsigned long long)s->imports, (unsigned long long)s->ops,
	    (unsigned long long)s->enospc, (unsigned long long)s->admins,
	    (unsigned long long)(s->bytes / MIB));
	printf("  %llu slabs packed, %llu plugged, %llu scrubs ended\n",
	    (unsigned long long)s->moves, (unsigned long long)s->plugs,
	    (unsigned long long)s->scrubs);
	printf("  %llu faults: %llu requests refused, %llu pools failed, %llu damaged ones opened "
	       "read-only, %llu not at all, %llu reads of them refused\n",
	    (unsigned long long)s->faults, (unsigned long long)s->refused,
	    (unsigned long long)s->failed, (unsigned long long)s->readonly,
	    (unsigned long long)s->unopened, (unsigned long long)s->unreadable);
	printf("  copies: %llu devices were left out, %llu were out or missing when pools were "
	       "opened\n",
	    (unsigned long long)s->left_out, (unsigned long long)s->degraded);
	printf("  %llu devices began to leave, %llu were removed, %llu became larger\n",
	    (unsigned long long)s->leaving, (unsigned long long)s->removed,
	    (unsigned long long)s->grown);
	if (s->offline + s->returned > 0)
		printf("  %llu were taken out of use; %llu came back (%llu slabs taken over, %llu "
		       "refused as strangers)\n",
		    (unsigned long long)s->offline, (unsigned long long)s->returned,
		    (unsigned long long)s->taken_over, (unsigned long long)s->strangers);
	printf("  digest %016llx\n", (unsigned long long)seeds->digest);
}
