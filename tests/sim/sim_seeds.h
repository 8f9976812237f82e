/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running seeds, each in a process of its own, several at a time; and what is built on that: many
 * seeds in a row, a table of mutants, and the minimiser.
 */
#ifndef QUARRY_TESTS_SIM_SEEDS_H
#define QUARRY_TESTS_SIM_SEEDS_H

#include "tests/sim/sim.h"

/* What a seed tells when it is through. */
struct outcome {
	uint64_t hash;
	uint64_t events;
	struct sim_stats stats;
};

struct seeds {
	const char *program; /* as it is to be called for a replay */
	uint64_t start;
	uint64_t count; /* UINT64_MAX: until the time is over */
	double seconds;
	unsigned jobs;
	unsigned seed_seconds; /* one that takes longer has failed */
	bool keep_going;
	bool quiet;
	const struct sim_cut *cut;
	/* results */
	uint64_t done;
	uint64_t failed;
	uint64_t first_failed; /* the lowest one, if any */
	uint64_t digest;       /* does not depend on the order in which seeds end */
	double took_s;
	struct outcome total;
};

/* Runs the seed in this process; a failure does not return. */
void seed_run(uint64_t seed, bool trace, const struct sim_cut *cut, struct outcome *outcome);
/* Runs all; without keep_going it ends when the lowest seed that fails is known. */
void seeds_run(struct seeds *seeds);
void seeds_print(const struct seeds *seeds);

/* Prints which mutants @seeds (its count for each) finds; @only: one by name, or NULL. The number
 * of those that were missed. */
unsigned mutants_run(const struct seeds *seeds, const char *only);
/* Selects one for this process; false: there is none of that name. */
bool mutant_choose(const char *name);

/* Prints the smallest command found that still fails; false: @seed does not fail. */
bool minimise(const struct seeds *seeds, uint64_t seed);

#endif
