/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quarry dump: prints what is on the devices of a pool that is not in service, as text or JSON.
 *
 *   label, superblocks, devices, table, log   as they lie there, each for itself, damaged or not
 *   catalog, map:IMAGE                        as an import would find them (quarry_offline.h)
 *
 * Of a structure that is not valid its place and what is wrong with it are printed.
 */
#ifndef QUARRY_TOOLS_QUARRY_DUMP_H
#define QUARRY_TOOLS_QUARRY_DUMP_H

#include "core/base/error.h"

struct dump_options {
	const char *what; /* NULL: all but log and maps */
	bool json;
	int json_schema;
};

/* -EINVAL: there is no such thing as @what to print; says what there is. */
int dump_check_what(const char *what, struct error *error) must_check;

/* The exit status: 0, or 1 with a reason on stderr. */
int dump_run(char *const *paths, size_t count, const struct dump_options *options);

#endif
