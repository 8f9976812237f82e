/* SPDX-License-Identifier: Apache-2.0 */
/* Names that two machines never give twice (RFC 9562, version 4). */
#ifndef QUARRY_CORE_BASE_UUID_H
#define QUARRY_CORE_BASE_UUID_H

#include "core/base/util.h"

#define UUID_TEXT_BYTES 37

struct uuid {
	uint8_t bytes[16];
};

/* Makes a version 4 UUID of 16 random bytes that the caller brings. */
struct uuid uuid_from_random(const uint8_t random[16]);
/* Takes the random bytes from the system. */
struct uuid uuid_new(void);
void uuid_format(const struct uuid *uuid, char text[UUID_TEXT_BYTES]);

static inline bool
uuid_equal(const struct uuid *a, const struct uuid *b)
{
	return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

#endif
