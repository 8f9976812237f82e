/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SCSI commands as bytes: one table of all commands, the check of a CDB against it, and sense data.
 *
 * Pure: nothing here waits, allocates or keeps state.  A CDB that scsi_cdb_parse() accepts has a
 * known opcode and service action, no bit set that the command does not define, and, if it names
 * blocks, names only blocks that exist and no more than one transfer may move.  The table's usage
 * bytes are those of REPORT SUPPORTED OPERATION CODES, so what is told and what is checked are one.
 */
#ifndef QUARRY_FRONTENDS_SCSI_CDB_H
#define QUARRY_FRONTENDS_SCSI_CDB_H

#include "core/base/util.h"

#define SCSI_CDB_BYTES_MAX 16u
#define SCSI_TRANSFER_BYTES_MAX (32 * MIB) /* of one command, either way */
#define SCSI_COMPARE_BLOCKS_MAX 255u       /* COMPARE AND WRITE has one byte for it */

enum scsi_status {
	SCSI_GOOD = 0x00,
	SCSI_CHECK_CONDITION = 0x02,
	SCSI_CONDITION_MET = 0x04,
	SCSI_BUSY = 0x08,
	SCSI_RESERVATION_CONFLICT = 0x18,
	SCSI_TASK_SET_FULL = 0x28,
	SCSI_ACA_ACTIVE = 0x30,
	SCSI_TASK_ABORTED = 0x40,
};

enum scsi_key {
	SCSI_NO_SENSE = 0x0,
	SCSI_NOT_READY = 0x2,
	SCSI_MEDIUM_ERROR = 0x3,
	SCSI_HARDWARE_ERROR = 0x4,
	SCSI_ILLEGAL_REQUEST = 0x5,
	SCSI_UNIT_ATTENTION = 0x6,
	SCSI_DATA_PROTECT = 0x7,
	SCSI_COPY_ABORTED = 0xa,
	SCSI_ABORTED_COMMAND = 0xb,
	SCSI_MISCOMPARE = 0xe,
};

/* Additional sense code and qualifier. */
enum scsi_asc {
	SCSI_ASC_NONE = 0x0000,
	SCSI_ASC_NOT_READY = 0x0400,
	SCSI_ASC_STOPPED = 0x0402, /* initializing command required */
	SCSI_ASC_SANITIZE_IN_PROGRESS = 0x041b,
	SCSI_ASC_WRITE_ERROR = 0x0c00,
	SCSI_ASC_THIRD_PARTY_FAILURE = 0x0d01,
	SCSI_ASC_COPY_TARGET_UNREACHABLE = 0x0d02,
	SCSI_ASC_READ_ERROR = 0x1100,
	SCSI_ASC_PARAMETER_LIST_LENGTH = 0x1a00,
	SCSI_ASC_MISCOMPARE = 0x1d00,
	SCSI_ASC_INVALID_OPCODE = 0x2000,
	SCSI_ASC_LBA_OUT_OF_RANGE = 0x2100,
	SCSI_ASC_INVALID_FIELD_IN_CDB = 0x2400,
	SCSI_ASC_LUN_NOT_SUPPORTED = 0x2500,
	SCSI_ASC_INVALID_FIELD_IN_PARAMETERS = 0x2600,
	SCSI_ASC_INVALID_RELEASE = 0x2604, /* of a persistent reservation */
	SCSI_ASC_TOO_MANY_TARGETS = 0x2606,
	SCSI_ASC_UNSUPPORTED_TARGET = 0x2607,
	SCSI_ASC_TOO_MANY_SEGMENTS = 0x2608,
	SCSI_ASC_UNSUPPORTED_SEGMENT = 0x2609,
	SCSI_ASC_INLINE_DATA_LENGTH = 0x260b,
	SCSI_ASC_WRITE_PROTECTED = 0x2700,
	SCSI_ASC_SPACE_ALLOCATION_FAILED = 0x2707,
	SCSI_ASC_POWER_ON_OR_RESET = 0x2900,
	SCSI_ASC_NEXUS_LOSS = 0x2907,
	SCSI_ASC_MODE_PARAMETERS_CHANGED = 0x2a01,
	SCSI_ASC_RESERVATIONS_PREEMPTED = 0x2a03,
	SCSI_ASC_RESERVATIONS_RELEASED = 0x2a04,
	SCSI_ASC_REGISTRATIONS_PREEMPTED = 0x2a05,
	SCSI_ASC_CAPACITY_CHANGED = 0x2a09,
	SCSI_ASC_SANITIZE_FAILED = 0x3103,
	SCSI_ASC_THIN_THRESHOLD = 0x3807,
	SCSI_ASC_LUNS_CHANGED = 0x3f0e,
	SCSI_ASC_INTERNAL_FAILURE = 0x4400,
	SCSI_ASC_DATA_PHASE_ERROR = 0x4b00,
	SCSI_ASC_REMOVAL_PREVENTED = 0x5302,
	SCSI_ASC_INSUFFICIENT_REGISTRATION_RESOURCES = 0x5504,
};

/* What a command does; one for all its lengths. */
enum scsi_action {
	SCSI_TEST_UNIT_READY,
	SCSI_REQUEST_SENSE,
	SCSI_INQUIRY,
	SCSI_MODE_SELECT,
	SCSI_MODE_SENSE,
	SCSI_RESERVE,
	SCSI_RELEASE,
	SCSI_START_STOP_UNIT,
	SCSI_PREVENT_ALLOW,
	SCSI_READ_CAPACITY_10,
	SCSI_READ_CAPACITY_16,
	SCSI_READ,
	SCSI_WRITE,
	SCSI_WRITE_AND_VERIFY,
	SCSI_VERIFY,
	SCSI_PRE_FETCH,
	SCSI_SYNCHRONIZE_CACHE,
	SCSI_WRITE_SAME,
	SCSI_UNMAP,
	SCSI_COMPARE_AND_WRITE,
	SCSI_ORWRITE,
	SCSI_WRITE_ATOMIC,
	SCSI_GET_LBA_STATUS,
	SCSI_READ_DEFECT_DATA,
	SCSI_LOG_SENSE,
	SCSI_PERSISTENT_RESERVE_IN,
	SCSI_PERSISTENT_RESERVE_OUT,
	SCSI_EXTENDED_COPY,
	SCSI_RECEIVE_COPY_RESULTS,
	SCSI_SANITIZE,
	SCSI_REPORT_LUNS,
	SCSI_REPORT_TARGET_PORT_GROUPS,
	SCSI_REPORT_OPCODES,
	SCSI_REPORT_TASK_MANAGEMENT,
};

/* Which data moves, and what the CDB's length field counts. */
enum scsi_data {
	SCSI_DATA_NONE,
	SCSI_DATA_IN_BLOCKS,   /* READ: that many blocks */
	SCSI_DATA_IN_BYTES,    /* at most that many bytes: ALLOCATION LENGTH */
	SCSI_DATA_OUT_BLOCKS,  /* WRITE: that many blocks */
	SCSI_DATA_OUT_BYTES,   /* exactly that many bytes: PARAMETER LIST LENGTH */
	SCSI_DATA_OUT_TWICE,   /* COMPARE AND WRITE: expected blocks, then new ones */
	SCSI_DATA_OUT_PATTERN, /* WRITE SAME: one block, none with NDOB */
	SCSI_DATA_OUT_BYTCHK,  /* VERIFY: none, all blocks, or one, as BYTCHK says */
};

#define SCSI_NO_SERVICE_ACTION 0xffu

struct scsi_command {
	const char *name;
	uint8_t opcode;
	uint8_t service_action; /* SCSI_NO_SERVICE_ACTION: the opcode is all */
	uint8_t cdb_bytes;
	uint8_t lba_at, lba_bytes;     /* 0 bytes: names no blocks */
	uint8_t count_at, count_bytes; /* 0 bytes: has no length */
	enum scsi_action action;
	enum scsi_data data;
	bool writes;         /* changes the medium: refused on what is read-only */
	bool lba_must_exist; /* beyond the end even with a length of 0 */
	bool count_no_data;  /* the length counts blocks, but none of them is transferred */
	uint8_t usage[SCSI_CDB_BYTES_MAX]; /* bits that may be set; [0] is the opcode */
};

struct scsi_sense {
	enum scsi_key key;
	enum scsi_asc asc;
	bool has_information; /* e.g. the offset of a miscompare */
	bool has_field;       /* where the mistake is */
	bool field_in_cdb;    /* otherwise in the parameter list */
	bool has_bit;
	uint8_t field_bit;
	uint16_t field_byte;
	uint64_t information;
	bool has_progress; /* instead of a field */
	uint16_t progress; /* of 65,536 */
};

#define SCSI_SENSE_BYTES_MAX 32u

/* What a CDB is checked against. */
struct scsi_geometry {
	uint64_t blocks;
	uint32_t block_bytes; /* 512 or 4096 */
};

struct scsi_cdb {
	const struct scsi_command *command;
	uint64_t lba;
	uint32_t count; /* of blocks or bytes, as command->data says; READ(6)'s 0 is 256 here */
	uint32_t data_out_bytes;           /* what the command wants from the initiator */
	uint32_t data_in_bytes;            /* the most that it sends */
	uint8_t bytes[SCSI_CDB_BYTES_MAX]; /* as received, zeroes behind */
};

/* Flags of byte 1, in the commands that have them. */
static inline bool
scsi_cdb_fua(const struct scsi_cdb *cdb)
{
	return cdb->command->usage[1] & cdb->bytes[1] & 0x08;
}

static inline unsigned
scsi_cdb_bytchk(const struct scsi_cdb *cdb)
{
	return cdb->bytes[1] >> 1 & 3;
}

/* Checks and decodes @len_bytes of CDB (a transport's padding behind it is fine).  @geometry is
 * NULL where there is no logical unit.  False: @sense says why; CHECK CONDITION. */
bool scsi_cdb_parse(struct scsi_cdb *cdb, const uint8_t *bytes, size_t len_bytes,
    const struct scsi_geometry *geometry, struct scsi_sense *sense) must_check;

/* The table, by opcode and service action; for REPORT SUPPORTED OPERATION CODES. */
extern const struct scsi_command scsi_commands[];
extern const size_t scsi_command_count;

/* The answer to REPORT SUPPORTED OPERATION CODES; @bytes holds SCSI_OPCODES_BYTES_MAX.
 * False: @sense says why. */
#define SCSI_OPCODES_BYTES_MAX 2048u
bool scsi_report_opcodes(const struct scsi_cdb *cdb, uint8_t *bytes, size_t *len_bytes,
    struct scsi_sense *sense) must_check;

void scsi_sense_set(struct scsi_sense *sense, enum scsi_key key, enum scsi_asc asc);
/* ILLEGAL REQUEST with a pointer at the field; @bit beyond 7: the byte as a whole. */
void scsi_sense_field(
    struct scsi_sense *sense, enum scsi_asc asc, bool in_cdb, uint16_t byte, unsigned bit);
/* Writes fixed (70h) or descriptor (72h) sense data; returns its length. */
size_t scsi_sense_encode(
    const struct scsi_sense *sense, bool descriptor, uint8_t bytes[SCSI_SENSE_BYTES_MAX]);

#endif
