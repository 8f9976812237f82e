/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quarry-sim: runs seeds, and tells how to replay and to shrink those that fail.
 *
 *   quarry-sim --seed N [--trace]          one seed, in this process
 *   quarry-sim [--seeds N] [--start S] …   many, each in a process of its own
 *   quarry-sim --minimise N                the least of a failing seed that still fails
 *   quarry-sim --mutants                   which planted bugs are found
 */
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "core/base/bitmap.h"
#include "core/base/mutant.h"
#include "tests/sim/sim_seeds.h"

/* What a crash abandons is no leak. */
const char *__asan_default_options(void);

const char *
__asan_default_options(void)
{
	return "detect_leaks=0:abort_on_error=1:quarantine_size_mb=32";
}

static const char usage_text[] =
    "usage: quarry-sim --seed N [--trace] [CUT…]\n"
    "       quarry-sim [--seeds N | --seconds T] [--start S] [--jobs N] [--keep-going]\n"
    "       quarry-sim --minimise N\n"
    "       quarry-sim --mutants [--mutant NAME] [--seeds N] [--start S] [--jobs N]\n"
    "CUT, as --minimise prints it: --lives N, --devices N, --depth N, --copies N, --without "
    "A-B,C-D…\n"
    "--mutant NAME without --mutants runs seeds with that bug.\n";

/* A-B,C-D…: operations to leave out. */
static bool
parse_without(struct sim_cut *cut, const char *text)
{
	while (*text) {
		char *end;
		unsigned long first = strtoul(text, &end, 10), last = first;

		if (end == text)
			return false;
		if (*end == '-') {
			text = end + 1;
			last = strtoul(text, &end, 10);
		}
		if (last < first || last >= SIM_CUT_OPS || (*end && *end != ','))
			return false;
		for (; first <= last; first++)
			bitmap_set(cut->without, first);
		text = *end ? end + 1 : end;
	}
	return true;
}

static int
run_one(uint64_t seed, bool trace, const struct sim_cut *cut)
{
	struct outcome outcome = { 0 };

	seed_run(seed, trace, cut, &outcome);
	printf("seed %llu: %llu events, %llu crashes, %llu imports, %llu requests, %llu "
	       "administrative, %llu faults; trace %016llx\n",
	    (unsigned long long)seed, (unsigned long long)outcome.events,
	    (unsigned long long)outcome.stats.crashes, (unsigned long long)outcome.stats.imports,
	    (unsigned long long)outcome.stats.ops, (unsigned long long)outcome.stats.admins,
	    (unsigned long long)outcome.stats.faults, (unsigned long long)outcome.hash);
	return 0;
}

enum mode {
	MODE_SEEDS,
	MODE_ONE,
	MODE_MINIMISE,
	MODE_MUTANTS
};

struct options {
	enum mode mode;
	struct seeds seeds;
	struct sim_cut cut;
	uint64_t seed;
	bool trace;
	const char *mutant;
};

static bool
parse(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "seeds", required_argument, NULL, 'n' },
		{ "start", required_argument, NULL, 'b' },
		{ "seconds", required_argument, NULL, 't' },
		{ "jobs", required_argument, NULL, 'j' },
		{ "trace", no_argument, NULL, 'v' },
		{ "keep-going", no_argument, NULL, 'k' },
		{ "minimise", required_argument, NULL, 'm' },
		{ "mutants", no_argument, NULL, 'M' },
		{ "mutant", required_argument, NULL, 'c' },
		{ "lives", required_argument, NULL, 'l' },
		{ "devices", required_argument, NULL, 'd' },
		{ "depth", required_argument, NULL, 'q' },
		{ "copies", required_argument, NULL, 'C' },
		{ "without", required_argument, NULL, 'w' },
		{ 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (option) {
		case 's':
		case 'm':
			o->mode = option == 's' ? MODE_ONE : MODE_MINIMISE;
			o->seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			o->seeds.count = strtoull(optarg, NULL, 0);
			break;
		case 'b':
			o->seeds.start = strtoull(optarg, NULL, 0);
			break;
		case 't':
			o->seeds.seconds = strtod(optarg, NULL);
			o->seeds.count = UINT64_MAX;
			break;
		case 'j':
			o->seeds.jobs = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'v':
			o->trace = true;
			break;
		case 'k':
			o->seeds.keep_going = true;
			break;
		case 'M':
			o->mode = MODE_MUTANTS;
			break;
		case 'c':
			o->mutant = optarg;
			break;
		case 'l':
			o->cut.lives = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'd':
			o->cut.devices = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'q':
			o->cut.depth = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'C':
			o->cut.copies = (unsigned)strtoul(optarg, NULL, 0);
			if (o->cut.copies > COPIES_MAX)
				return false;
			break;
		case 'w':
			if (!parse_without(&o->cut, optarg))
				return false;
			break;
		default:
			return false;
		}
	}
	return optind == argc && o->seeds.jobs > 0 && o->seeds.jobs <= 64;
}

int
main(int argc, char **argv)
{
	struct options o = {
		.seeds = { .program = argv[0],
		    .start = 1,
		    .count = 1000,
		    .seconds = 1e9,
		    .jobs = (unsigned)sysconf(_SC_NPROCESSORS_ONLN),
		    .seed_seconds = 120 },
	};

	/* Seeds are short: memory is kept, and pages are no larger than what is touched of them. */
	(void)mallopt(M_MMAP_THRESHOLD, 1 << 30);
	(void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
	(void)mallopt(M_TOP_PAD, 16 << 20);
	(void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	if (!parse(&o, argc, argv)) {
		fputs(usage_text, stderr);
		return 2;
	}
	o.seeds.cut = &o.cut;
	if (o.mode == MODE_MUTANTS) {
		o.seeds.quiet = true;
		o.seeds.seed_seconds = 30;
		return mutants_run(&o.seeds, o.mutant) ? 1 : 0;
	}
	if (o.mutant && !mutant_choose(o.mutant)) {
		fprintf(stderr, "quarry-sim: there is no mutant %s in this program\n", o.mutant);
		return 2;
	}
	switch (o.mode) {
	case MODE_ONE:
		return run_one(o.seed, o.trace, &o.cut);
	case MODE_MINIMISE:
		if (minimise(&o.seeds, o.seed))
			return 0;
		printf("seed %llu does not fail\n", (unsigned long long)o.seed);
		return 1;
	case MODE_MUTANTS:
	case MODE_SEEDS:
		break;
	}
	seeds_run(&o.seeds);
	seeds_print(&o.seeds);
	return o.seeds.failed ? 1 : 0;
}
