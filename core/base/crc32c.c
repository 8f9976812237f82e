/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/crc32c.h"

#include <isa-l/crc.h>

uint32_t
crc32c(uint32_t crc, const void *data, size_t len_bytes)
{
	/* ISA-L only reads, but its prototype lacks the const. */
	unsigned char *bytes = (unsigned char *)(uintptr_t)data;

	return ~crc32_iscsi(bytes, (int)len_bytes, ~crc);
}
