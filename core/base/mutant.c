/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/mutant.h"

#ifdef QUARRY_MUTANTS
enum mutant mutant_chosen;
#endif
