/* SPDX-License-Identifier: Apache-2.0 */
/* iSCSI on the wire (RFC 7143): numbers and the fields of the basic header segment. */
#ifndef QUARRY_FRONTENDS_ISCSI_PROTO_H
#define QUARRY_FRONTENDS_ISCSI_PROTO_H

#include "core/base/util.h"

#define ISCSI_PORT_DEFAULT "3260"
#define ISCSI_BHS_BYTES 48u
#define ISCSI_DIGEST_BYTES 4u
#define ISCSI_NAME_BYTES_MAX 223u
#define ISCSI_NO_TAG 0xffffffffu
#define ISCSI_TEXT_BYTES_MAX (64 * KIB) /* of one exchange of keys */

enum iscsi_opcode {
	ISCSI_NOP_OUT = 0x00,
	ISCSI_COMMAND = 0x01,
	ISCSI_TASK_MANAGEMENT = 0x02,
	ISCSI_LOGIN = 0x03,
	ISCSI_TEXT = 0x04,
	ISCSI_DATA_OUT = 0x05,
	ISCSI_LOGOUT = 0x06,
	ISCSI_SNACK = 0x10,
	ISCSI_NOP_IN = 0x20,
	ISCSI_RESPONSE = 0x21,
	ISCSI_TASK_MANAGEMENT_RESPONSE = 0x22,
	ISCSI_LOGIN_RESPONSE = 0x23,
	ISCSI_TEXT_RESPONSE = 0x24,
	ISCSI_DATA_IN = 0x25,
	ISCSI_LOGOUT_RESPONSE = 0x26,
	ISCSI_R2T = 0x31,
	ISCSI_ASYNC = 0x32,
	ISCSI_REJECT = 0x3f,
};

/* Byte 0. */
#define ISCSI_IMMEDIATE 0x40
#define ISCSI_OPCODE_BITS 0x3f
/* Byte 1. */
#define ISCSI_FINAL 0x80
#define ISCSI_TRANSIT 0x80
#define ISCSI_CONTINUE 0x40
#define ISCSI_READ 0x40
#define ISCSI_WRITE 0x20
#define ISCSI_STATUS_IN_DATA 0x01
#define ISCSI_OVERFLOW 0x04
#define ISCSI_UNDERFLOW 0x02

/* Where the fields begin. */
enum iscsi_field {
	ISCSI_AT_AHS = 4,
	ISCSI_AT_DATA_LENGTH = 5, /* three bytes */
	ISCSI_AT_LUN = 8,
	ISCSI_AT_ISID = 8,
	ISCSI_AT_TSIH = 14,
	ISCSI_AT_TAG = 16,
	ISCSI_AT_TTT = 20,
	ISCSI_AT_EXPECTED_BYTES = 20,
	ISCSI_AT_REFERENCED_TAG = 20,
	ISCSI_AT_CID = 20,
	ISCSI_AT_CMD_SN = 24,
	ISCSI_AT_STAT_SN = 24,
	ISCSI_AT_EXP_STAT_SN = 28,
	ISCSI_AT_EXP_CMD_SN = 28,
	ISCSI_AT_CDB = 32,
	ISCSI_AT_MAX_CMD_SN = 32,
	ISCSI_AT_STATUS_CLASS = 36,
	ISCSI_AT_DATA_SN = 36,
	ISCSI_AT_R2T_SN = 36,
	ISCSI_AT_BUFFER_OFFSET = 40,
	ISCSI_AT_RESIDUAL = 44,
	ISCSI_AT_DESIRED_BYTES = 44,
};

/* Login status: class and detail. */
enum iscsi_login_status {
	ISCSI_LOGIN_SUCCESS = 0x0000,
	ISCSI_LOGIN_INITIATOR_ERROR = 0x0200,
	ISCSI_LOGIN_AUTHENTICATION = 0x0201,
	ISCSI_LOGIN_FORBIDDEN = 0x0202,
	ISCSI_LOGIN_NOT_FOUND = 0x0203,
	ISCSI_LOGIN_VERSION = 0x0205,
	ISCSI_LOGIN_MISSING = 0x0207,
	ISCSI_LOGIN_SESSION_TYPE = 0x0209,
	ISCSI_LOGIN_NO_SESSION = 0x020a,
	ISCSI_LOGIN_INVALID = 0x020b,
	ISCSI_LOGIN_TARGET_ERROR = 0x0300,
	ISCSI_LOGIN_UNAVAILABLE = 0x0301,
};

enum iscsi_stage {
	ISCSI_STAGE_SECURITY = 0,
	ISCSI_STAGE_OPERATIONAL = 1,
	ISCSI_STAGE_FULL_FEATURE = 3,
};

enum iscsi_reject {
	ISCSI_REJECT_DATA_DIGEST = 0x02,
	ISCSI_REJECT_PROTOCOL = 0x04,
	ISCSI_REJECT_NOT_SUPPORTED = 0x05,
	ISCSI_REJECT_INVALID = 0x09,
};

static inline uint32_t
iscsi_get(const uint8_t *bhs, unsigned at, unsigned len_bytes)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < len_bytes; i++)
		n = n << 8 | bhs[at + i];
	return n;
}

static inline void
iscsi_put(uint8_t *bhs, unsigned at, unsigned len_bytes, uint32_t value)
{
	while (len_bytes--) {
		bhs[at + len_bytes] = (uint8_t)value;
		value >>= 8;
	}
}

#endif
