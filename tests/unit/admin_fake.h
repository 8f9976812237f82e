/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target that does nothing, for tests of what stands before it: target_admin() hands requests to
 * the test.  Included by one file of a test program; it takes core/target.c's place there.
 */
#ifndef QUARRY_TESTS_UNIT_ADMIN_FAKE_H
#define QUARRY_TESTS_UNIT_ADMIN_FAKE_H

#include <stdlib.h>

#include "core/target.h"

void
admin_request_fini(struct admin_request *request)
{
	for (size_t i = 0; i < request->device_count; i++)
		free(request->devices[i]);
	free(request->devices);
	free(request->device);
	free(request->names);
	free(request->export);
	for (size_t i = 0; i < request->pool_count; i++) {
		for (size_t j = 0; j < request->pools[i].device_count; j++)
			free(request->pools[i].devices[j].path);
		free(request->pools[i].devices);
		free(request->pools[i].images);
	}
	free(request->pools);
	free(request->ranges);
	free(request->would);
}

#endif
