/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/mutant.h"

#ifdef QUARRY_MUTANTS
#include <stdlib.h>
#include <string.h>

enum mutant mutant_chosen;

static const char *const names[] = { "NONE",
#define MUTANT_NAME(name, what) #name,
	MUTANTS(MUTANT_NAME)
#undef MUTANT_NAME
};

/* Programs other than the simulator take it from the environment. */
__attribute__((constructor)) static void
choose(void)
{
	const char *name = getenv("QUARRY_MUTANT");

	for (unsigned i = 0; name && i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0)
			mutant_chosen = (enum mutant)i;
}
#endif
