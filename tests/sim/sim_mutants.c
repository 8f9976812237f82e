/* SPDX-License-Identifier: Apache-2.0 */
/* The table of mutants: which planted bug is found at which seed. */
#include <stdio.h>

#include "core/base/mutant.h"
#include "tests/sim/sim_seeds.h"

#ifdef QUARRY_MUTANTS

static const struct {
	const char *name;
	const char *what;
} mutants[] = { { "NONE", "" },
#define MUTANT_ROW(name, what) { #name, what },
	MUTANTS(MUTANT_ROW)
#undef MUTANT_ROW
};

bool
mutant_choose(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(mutants); i++) {
		if (strcmp(name, mutants[i].name) == 0) {
			mutant_chosen = (enum mutant)i;
			return true;
		}
	}
	return false;
}

unsigned
mutants_run(const struct seeds *seeds, const char *only)
{
	unsigned missed = 0, run = 0;

	for (unsigned i = 1; i < ARRAY_SIZE(mutants); i++) {
		struct seeds mine = *seeds;
		struct sim_cut copies = seeds->cut ? *seeds->cut : (struct sim_cut){ 0 };
		bool may_have_more = !copies.copies;

		if (only && strcmp(only, mutants[i].name) != 0)
			continue;
		run++;
		mutant_chosen = (enum mutant)i;
		seeds_run(&mine);
		/* Some show in pools with copies only. */
		while (!mine.failed && may_have_more && copies.copies < COPIES_MAX) {
			copies.copies = copies.copies ? copies.copies + 1 : 2;
			mine = *seeds;
			mine.cut = &copies;
			seeds_run(&mine);
		}
		printf("%-24s %-74s ", mutants[i].name, mutants[i].what);
		if (mine.failed)
			printf("caught at seed %llu", (unsigned long long)mine.first_failed);
		if (mine.failed && mine.cut == &copies)
			printf(" with --copies %u\n", copies.copies);
		else if (mine.failed)
			printf("\n");
		else
			printf("MISSED by %llu seeds\n", (unsigned long long)mine.done);
		fflush(stdout);
		missed += mine.failed == 0;
	}
	mutant_chosen = MUTANT_NONE;
	printf("%u of %u mutants caught\n", run - missed, run);
	return run ? missed : 1;
}

#else

bool
mutant_choose(const char *name)
{
	(void)name;
	return false;
}

unsigned
mutants_run(const struct seeds *seeds, const char *only)
{
	(void)seeds;
	(void)only;
	printf("this program was built without mutants: make mutants\n");
	return 1;
}

#endif
