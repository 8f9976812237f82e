/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli, reflected, RFC 3720 appendix B.4), in hardware through ISA-L. */
#ifndef QUARRY_CORE_BASE_CRC32C_H
#define QUARRY_CORE_BASE_CRC32C_H

#include "core/base/util.h"

/* crc32c(0, "123456789", 9) == 0xe3069283; to continue, pass the previous result. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len_bytes);

#endif
