/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/uuid.h"

#include <stdio.h>
#include <sys/random.h>

struct uuid
uuid_from_random(const uint8_t random[16])
{
	struct uuid uuid;

	memcpy(uuid.bytes, random, sizeof(uuid.bytes));
	uuid.bytes[6] = (uint8_t)((uuid.bytes[6] & 0x0f) | 0x40);
	uuid.bytes[8] = (uint8_t)((uuid.bytes[8] & 0x3f) | 0x80);
	return uuid;
}

struct uuid
uuid_new(void)
{
	uint8_t random[16];

	CHECK(getrandom(random, sizeof(random), 0) == (ssize_t)sizeof(random));
	return uuid_from_random(random);
}

void
uuid_format(const struct uuid *uuid, char text[UUID_TEXT_BYTES])
{
	const uint8_t *b = uuid->bytes;

	snprintf(text, UUID_TEXT_BYTES,
	    "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
	    b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
	    b[15]);
}
