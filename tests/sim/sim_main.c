/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quarry-sim: runs seeds, each in a process of its own, and tells how to replay those that fail.
 *
 *   quarry-sim --seed N [--trace]
 *   quarry-sim [--seeds N] [--start S] [--seconds T] [--keep-going]
 */
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "tests/sim/sim.h"

#define SEED_SECONDS_MAX 120u

struct outcome {
	uint64_t hash;
	uint64_t events;
	uint64_t crashes;
	uint64_t imports;
	uint64_t ops;
	uint64_t admins;
	uint64_t enospc;
	uint64_t bytes;
	uint64_t exhausted;
	uint64_t moves;
};

/* What a crash abandons is no leak. */
const char *__asan_default_options(void);

const char *
__asan_default_options(void)
{
	return "detect_leaks=0:abort_on_error=1:quarantine_size_mb=32";
}

static void
run_seed(uint64_t seed, bool trace, struct outcome *outcome)
{
	struct sim *sim = xcalloc(1, sizeof(*sim));

	sim->seed = seed;
	sim->trace = trace;
	diag_set_level(trace ? DIAG_DEBUG : DIAG_ERROR);
	sim_run(sim);
	outcome->hash = sim->hash;
	outcome->events = sim->events;
	outcome->crashes = sim->stats.crashes;
	outcome->imports = sim->stats.imports;
	outcome->ops = sim->stats.ops;
	outcome->admins = sim->stats.admins;
	outcome->enospc = sim->stats.enospc;
	outcome->bytes = sim->stats.bytes;
	outcome->exhausted = sim->stats.exhausted;
	outcome->moves = sim->stats.moves;
}

/* False: the seed failed. */
static bool
run_apart(const char *program, uint64_t seed, struct outcome *outcome)
{
	int ends[2];
	int status;
	pid_t child;
	bool whole;

	CHECK(pipe(ends) == 0);
	fflush(NULL);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		close(ends[0]);
		alarm(SEED_SECONDS_MAX);
		run_seed(seed, false, outcome);
		_exit(
		    write(ends[1], outcome, sizeof(*outcome)) == (ssize_t)sizeof(*outcome) ? 0 : 1);
	}
	close(ends[1]);
	whole = read(ends[0], outcome, sizeof(*outcome)) == (ssize_t)sizeof(*outcome);
	close(ends[0]);
	CHECK(waitpid(child, &status, 0) == child);
	if (whole && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	if (WIFSIGNALED(status))
		printf("seed %llu: killed by signal %d%s\n", (unsigned long long)seed,
		    WTERMSIG(status), WTERMSIG(status) == SIGALRM ? " (it took too long)" : "");
	printf("replay: %s --seed %llu --trace\n", program, (unsigned long long)seed);
	fflush(stdout);
	return false;
}

static double
now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "seeds", required_argument, NULL, 'n' },
		{ "start", required_argument, NULL, 'b' },
		{ "seconds", required_argument, NULL, 't' },
		{ "trace", no_argument, NULL, 'v' },
		{ "keep-going", no_argument, NULL, 'k' },
		{ 0 },
	};
	uint64_t seeds = 1000, start = 1, done = 0, failed = 0, digest = 0, single = 0;
	struct outcome total = { 0 };
	bool trace = false, keep_going = false, one = false;
	double seconds = 1e9, began = now_s();
	int option;

	/* Seeds are short: memory is kept, and pages are no larger than what is touched of them. */
	(void)mallopt(M_MMAP_THRESHOLD, 1 << 30);
	(void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
	(void)mallopt(M_TOP_PAD, 16 << 20);
	(void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			single = strtoull(optarg, NULL, 0);
			one = true;
			break;
		case 'n':
			seeds = strtoull(optarg, NULL, 0);
			break;
		case 'b':
			start = strtoull(optarg, NULL, 0);
			break;
		case 't':
			seconds = strtod(optarg, NULL);
			seeds = UINT64_MAX;
			break;
		case 'v':
			trace = true;
			break;
		case 'k':
			keep_going = true;
			break;
		default:
			fprintf(stderr,
			    "usage: %s --seed N [--trace]\n"
			    "       %s [--seeds N] [--start S] [--seconds T] [--keep-going]\n",
			    argv[0], argv[0]);
			return 2;
		}
	}
	if (one) {
		struct outcome outcome = { 0 };

		run_seed(single, trace, &outcome);
		printf("seed %llu: %llu events, %llu crashes, %llu imports, %llu requests, %llu "
		       "administrative; trace %016llx\n",
		    (unsigned long long)single, (unsigned long long)outcome.events,
		    (unsigned long long)outcome.crashes, (unsigned long long)outcome.imports,
		    (unsigned long long)outcome.ops, (unsigned long long)outcome.admins,
		    (unsigned long long)outcome.hash);
		return 0;
	}
	for (; done < seeds && now_s() - began < seconds; done++) {
		struct outcome outcome = { 0 };

		if (!run_apart(argv[0], start + done, &outcome)) {
			failed++;
			if (!keep_going) {
				done++;
				break;
			}
			continue;
		}
		digest = mix64(digest ^ outcome.hash);
		total.events += outcome.events;
		total.crashes += outcome.crashes;
		total.imports += outcome.imports;
		total.ops += outcome.ops;
		total.admins += outcome.admins;
		total.enospc += outcome.enospc;
		total.bytes += outcome.bytes;
		total.exhausted += outcome.exhausted;
		total.moves += outcome.moves;
	}
	printf(
	    "%llu seeds from %llu on, %llu failed, %.1f a second; %llu events, %llu crashes, %llu "
	    "imports, %llu requests (%llu without space), %llu administrative, %llu MiB; %llu "
	    "slabs packed; %llu pools exhausted; digest "
	    "%016llx\n",
	    (unsigned long long)done, (unsigned long long)start, (unsigned long long)failed,
	    (double)done / (now_s() - began), (unsigned long long)total.events,
	    (unsigned long long)total.crashes, (unsigned long long)total.imports,
	    (unsigned long long)total.ops, (unsigned long long)total.enospc,
	    (unsigned long long)total.admins, (unsigned long long)(total.bytes / MIB),
	    (unsigned long long)total.moves, (unsigned long long)total.exhausted,
	    (unsigned long long)digest);
	return failed ? 1 : 0;
}
