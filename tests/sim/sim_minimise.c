/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The minimiser: leaves out of a failing seed what it also fails without.
 *
 * First whole lives, devices and depth, then operations, by delta debugging: halves, quarters, …,
 * single ones.  Each operation draws from a stream of its own, so leaving one out changes the
 * others as little as can be.  A variant counts as failing whatever the failure says.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/base/bitmap.h"
#include "tests/sim/sim_seeds.h"

static bool
fails(const struct seeds *seeds, uint64_t seed, const struct sim_cut *cut)
{
	struct seeds one = *seeds;

	one.start = seed;
	one.count = 1;
	one.jobs = 1;
	one.quiet = true;
	one.cut = cut;
	seeds_run(&one);
	return one.failed > 0;
}

/* Lowers *@limit as far as it goes; 0 means that there is none. */
static void
lower(const struct seeds *seeds, uint64_t seed, struct sim_cut *cut, unsigned *limit, unsigned most)
{
	for (unsigned n = 1; n<most; n = n * 2> n + 2 ? n + 2 : n * 2) {
		*limit = n;
		if (fails(seeds, seed, cut))
			return;
	}
	*limit = 0;
}

static void
set_range(uint64_t *bits, unsigned first, unsigned end, bool on)
{
	for (unsigned i = first; i < end; i++) {
		if (on)
			bitmap_set(bits, i);
		else
			bitmap_clear(bits, i);
	}
}

static void
leave_out(const struct seeds *seeds, uint64_t seed, struct sim_cut *cut)
{
	unsigned step = SIM_CUT_OPS;

	for (; step >= 1; step /= 2) {
		for (unsigned first = 0; first < SIM_CUT_OPS; first += step) {
			uint64_t before[ARRAY_SIZE(cut->without)];

			memcpy(before, cut->without, sizeof(before));
			set_range(cut->without, first, first + step, true);
			if (memcmp(before, cut->without, sizeof(before)) == 0 ||
			    fails(seeds, seed, cut))
				continue;
			memcpy(cut->without, before, sizeof(before));
		}
	}
}

static void
print_command(const struct seeds *seeds, uint64_t seed, const struct sim_cut *cut)
{
	const char *separator = " --without ";

	printf("%s --seed %llu --trace", seeds->program, (unsigned long long)seed);
	if (cut->lives)
		printf(" --lives %u", cut->lives);
	if (cut->copies)
		printf(" --copies %u", cut->copies);
	if (cut->devices)
		printf(" --devices %u", cut->devices);
	if (cut->depth)
		printf(" --depth %u", cut->depth);
	for (unsigned i = 0, end; i < SIM_CUT_OPS; i = end + 1) {
		for (end = i; end < SIM_CUT_OPS && bitmap_test(cut->without, end); end++)
			;
		if (end == i)
			continue;
		printf("%s%u-%u", separator, i, end - 1);
		separator = ",";
	}
	printf("\n");
}

bool
minimise(const struct seeds *seeds, uint64_t seed)
{
	struct sim_cut *cut = xcalloc(1, sizeof(*cut));
	unsigned left;

	if (!fails(seeds, seed, cut)) {
		free(cut);
		return false;
	}
	lower(seeds, seed, cut, &cut->lives, 6);
	lower(seeds, seed, cut, &cut->devices, SIM_DEVICES_MAX);
	lower(seeds, seed, cut, &cut->depth, 64);
	leave_out(seeds, seed, cut);
	left = SIM_CUT_OPS - (unsigned)bitmap_count(cut->without, SIM_CUT_OPS);
	printf("seed %llu fails with %u operations:\n", (unsigned long long)seed, left);
	print_command(seeds, seed, cut);
	free(cut);
	return true;
}
