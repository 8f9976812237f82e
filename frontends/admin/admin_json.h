/* SPDX-License-Identifier: Apache-2.0 */
/* Building JSON where only running out of memory can fail, which is fatal as in xmalloc(). */
#ifndef QUARRY_FRONTENDS_ADMIN_JSON_H
#define QUARRY_FRONTENDS_ADMIN_JSON_H

#include <jansson.h>

#include "core/base/util.h"

static inline json_t *
must_json(json_t *value)
{
	CHECK(value);
	return value;
}

/* Takes @value. */
static inline void
must_put(json_t *object, const char *key, json_t *value)
{
	CHECK(value && json_object_set_new_nocheck(object, key, value) == 0);
}

/* Takes @value. */
static inline void
must_append(json_t *array, json_t *value)
{
	CHECK(value && json_array_append_new(array, value) == 0);
}

#endif
