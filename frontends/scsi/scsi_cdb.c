/* SPDX-License-Identifier: Apache-2.0 */
#include "frontends/scsi/scsi_cdb.h"

#include <endian.h>

#define GROUP 0x3f
#define NONE SCSI_NO_SERVICE_ACTION
#define LBA_32 0xff, 0xff, 0xff, 0xff
#define LBA_64 LBA_32, LBA_32
#define LEN_16 0xff, 0xff
#define LEN_32 0xff, 0xff, 0xff, 0xff

/* clang-format off */
/* READ, WRITE and their like in 10, 12 and 16 bytes; @b1 are the bits of byte 1. */
#define BLOCKS_10(text, op, b1, what, moves, ...) \
	{ .name = text, .opcode = op, .service_action = NONE, .cdb_bytes = 10, .lba_at = 2, \
	  .lba_bytes = 4, .count_at = 7, .count_bytes = 2, .action = what, .data = moves, \
	  .usage = { op, b1, LBA_32, GROUP, LEN_16 }, __VA_ARGS__ }
#define BLOCKS_12(text, op, b1, what, moves, ...) \
	{ .name = text, .opcode = op, .service_action = NONE, .cdb_bytes = 12, .lba_at = 2, \
	  .lba_bytes = 4, .count_at = 6, .count_bytes = 4, .action = what, .data = moves, \
	  .usage = { op, b1, LBA_32, LEN_32, GROUP }, __VA_ARGS__ }
#define BLOCKS_16(text, op, b1, what, moves, ...) \
	{ .name = text, .opcode = op, .service_action = NONE, .cdb_bytes = 16, .lba_at = 2, \
	  .lba_bytes = 8, .count_at = 10, .count_bytes = 4, .action = what, .data = moves, \
	  .usage = { op, b1, LBA_64, LEN_32, GROUP }, __VA_ARGS__ }
/* Commands without blocks. */
#define PLAIN(text, op, sa, len, what, moves, at, size, ...) \
	{ .name = text, .opcode = op, .service_action = sa, .cdb_bytes = len, .count_at = at, \
	  .count_bytes = size, .action = what, .data = moves, .usage = { op, __VA_ARGS__ } }
#define RESERVE_IN(text, sa) \
	PLAIN(text, 0x5e, sa, 10, SCSI_PERSISTENT_RESERVE_IN, SCSI_DATA_IN_BYTES, 7, 2, \
	    sa, 0, 0, 0, 0, 0, LEN_16)
#define RESERVE_OUT(text, sa) \
	PLAIN(text, 0x5f, sa, 10, SCSI_PERSISTENT_RESERVE_OUT, SCSI_DATA_OUT_BYTES, 5, 4, \
	    sa, 0xff, 0, 0, LEN_32)

/* @flags: IMMED, AUSE. */
#define SANITIZE(text, sa, flags, moves, at, size, ...) \
	{ .name = text, .opcode = 0x48, .service_action = sa, .cdb_bytes = 10, .count_at = at, \
	  .count_bytes = size, .action = SCSI_SANITIZE, .data = moves, .writes = true, \
	  .usage = { 0x48, (flags) | (sa), 0, 0, 0, 0, 0, __VA_ARGS__ } }

#define RESULTS(text, sa) \
	PLAIN(text, 0x84, sa, 16, SCSI_RECEIVE_COPY_RESULTS, SCSI_DATA_IN_BYTES, 10, 4, \
	    sa, 0xff, 0, 0, 0, 0, 0, 0, 0, LEN_32)

const struct scsi_command scsi_commands[] = {
	PLAIN("TEST UNIT READY", 0x00, NONE, 6, SCSI_TEST_UNIT_READY, SCSI_DATA_NONE, 0, 0, 0),
	PLAIN("REQUEST SENSE", 0x03, NONE, 6, SCSI_REQUEST_SENSE, SCSI_DATA_IN_BYTES, 4, 1,
	    0x01, 0, 0, 0xff),
	{ .name = "READ(6)", .opcode = 0x08, .service_action = NONE, .cdb_bytes = 6, .lba_at = 1,
	  .lba_bytes = 3, .count_at = 4, .count_bytes = 1, .action = SCSI_READ,
	  .data = SCSI_DATA_IN_BLOCKS, .usage = { 0x08, 0x1f, 0xff, 0xff, 0xff } },
	{ .name = "WRITE(6)", .opcode = 0x0a, .service_action = NONE, .cdb_bytes = 6, .lba_at = 1,
	  .lba_bytes = 3, .count_at = 4, .count_bytes = 1, .action = SCSI_WRITE, .writes = true,
	  .data = SCSI_DATA_OUT_BLOCKS, .usage = { 0x0a, 0x1f, 0xff, 0xff, 0xff } },
	PLAIN("INQUIRY", 0x12, NONE, 6, SCSI_INQUIRY, SCSI_DATA_IN_BYTES, 3, 2,
	    0x01, 0xff, LEN_16),
	PLAIN("MODE SELECT(6)", 0x15, NONE, 6, SCSI_MODE_SELECT, SCSI_DATA_OUT_BYTES, 4, 1,
	    0x11, 0, 0, 0xff),
	PLAIN("RESERVE(6)", 0x16, NONE, 6, SCSI_RESERVE, SCSI_DATA_NONE, 0, 0, 0),
	PLAIN("RELEASE(6)", 0x17, NONE, 6, SCSI_RELEASE, SCSI_DATA_NONE, 0, 0, 0),
	PLAIN("MODE SENSE(6)", 0x1a, NONE, 6, SCSI_MODE_SENSE, SCSI_DATA_IN_BYTES, 4, 1,
	    0x08, 0xff, 0xff, 0xff),
	PLAIN("START STOP UNIT", 0x1b, NONE, 6, SCSI_START_STOP_UNIT, SCSI_DATA_NONE, 0, 0,
	    0x01, 0, 0x0f, 0xf7),
	PLAIN("PREVENT ALLOW MEDIUM REMOVAL", 0x1e, NONE, 6, SCSI_PREVENT_ALLOW, SCSI_DATA_NONE,
	    0, 0, 0, 0, 0, 0x03),
	PLAIN("READ CAPACITY(10)", 0x25, NONE, 10, SCSI_READ_CAPACITY_10, SCSI_DATA_NONE, 0, 0, 0),
	BLOCKS_10("READ(10)", 0x28, 0x1c, SCSI_READ, SCSI_DATA_IN_BLOCKS),
	BLOCKS_10("WRITE(10)", 0x2a, 0x18, SCSI_WRITE, SCSI_DATA_OUT_BLOCKS, .writes = true),
	BLOCKS_10("WRITE AND VERIFY(10)", 0x2e, 0x16, SCSI_WRITE_AND_VERIFY, SCSI_DATA_OUT_BLOCKS,
	    .writes = true),
	BLOCKS_10("VERIFY(10)", 0x2f, 0x16, SCSI_VERIFY, SCSI_DATA_OUT_BYTCHK),
	BLOCKS_10("PRE-FETCH(10)", 0x34, 0x02, SCSI_PRE_FETCH, SCSI_DATA_NONE,
	    .count_no_data = true),
	BLOCKS_10("SYNCHRONIZE CACHE(10)", 0x35, 0x02, SCSI_SYNCHRONIZE_CACHE, SCSI_DATA_NONE,
	    .count_no_data = true),
	PLAIN("READ DEFECT DATA(10)", 0x37, NONE, 10, SCSI_READ_DEFECT_DATA, SCSI_DATA_IN_BYTES, 7, 2,
	    0, 0x1f, 0, 0, 0, 0, LEN_16),
	BLOCKS_10("WRITE SAME(10)", 0x41, 0x18, SCSI_WRITE_SAME, SCSI_DATA_OUT_PATTERN,
	    .writes = true, .count_no_data = true),
	PLAIN("UNMAP", 0x42, NONE, 10, SCSI_UNMAP, SCSI_DATA_OUT_BYTES, 7, 2,
	    0x01, 0, 0, 0, 0, GROUP, LEN_16),
	SANITIZE("SANITIZE: OVERWRITE", 0x01, 0xa0, SCSI_DATA_OUT_BYTES, 7, 2, LEN_16),
	SANITIZE("SANITIZE: BLOCK ERASE", 0x02, 0xa0, SCSI_DATA_NONE, 0, 0, 0, 0),
	SANITIZE("SANITIZE: EXIT FAILURE MODE", 0x1f, 0, SCSI_DATA_NONE, 0, 0, 0, 0),
	PLAIN("LOG SENSE", 0x4d, NONE, 10, SCSI_LOG_SENSE, SCSI_DATA_IN_BYTES, 7, 2,
	    0x01, 0xff, 0xff, 0, 0xff, 0xff, LEN_16),
	PLAIN("MODE SELECT(10)", 0x55, NONE, 10, SCSI_MODE_SELECT, SCSI_DATA_OUT_BYTES, 7, 2,
	    0x11, 0, 0, 0, 0, 0, LEN_16),
	PLAIN("RESERVE(10)", 0x56, NONE, 10, SCSI_RESERVE, SCSI_DATA_NONE, 0, 0, 0),
	PLAIN("RELEASE(10)", 0x57, NONE, 10, SCSI_RELEASE, SCSI_DATA_NONE, 0, 0, 0),
	PLAIN("MODE SENSE(10)", 0x5a, NONE, 10, SCSI_MODE_SENSE, SCSI_DATA_IN_BYTES, 7, 2,
	    0x18, 0xff, 0xff, 0, 0, 0, LEN_16),
	RESERVE_IN("PERSISTENT RESERVE IN: READ KEYS", 0x00),
	RESERVE_IN("PERSISTENT RESERVE IN: READ RESERVATION", 0x01),
	RESERVE_IN("PERSISTENT RESERVE IN: REPORT CAPABILITIES", 0x02),
	RESERVE_IN("PERSISTENT RESERVE IN: READ FULL STATUS", 0x03),
	RESERVE_OUT("PERSISTENT RESERVE OUT: REGISTER", 0x00),
	RESERVE_OUT("PERSISTENT RESERVE OUT: RESERVE", 0x01),
	RESERVE_OUT("PERSISTENT RESERVE OUT: RELEASE", 0x02),
	RESERVE_OUT("PERSISTENT RESERVE OUT: CLEAR", 0x03),
	RESERVE_OUT("PERSISTENT RESERVE OUT: PREEMPT", 0x04),
	RESERVE_OUT("PERSISTENT RESERVE OUT: PREEMPT AND ABORT", 0x05),
	RESERVE_OUT("PERSISTENT RESERVE OUT: REGISTER AND IGNORE EXISTING KEY", 0x06),
	RESERVE_OUT("PERSISTENT RESERVE OUT: REGISTER AND MOVE", 0x07),
	{ .name = "EXTENDED COPY(LID1)", .opcode = 0x83, .service_action = 0x00, .cdb_bytes = 16,
	  .count_at = 10, .count_bytes = 4, .action = SCSI_EXTENDED_COPY,
	  .data = SCSI_DATA_OUT_BYTES,
	  .usage = { 0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, LEN_32 } },
	RESULTS("RECEIVE COPY STATUS(LID1)", 0x00),
	RESULTS("RECEIVE COPY OPERATING PARAMETERS", 0x03),
	BLOCKS_16("READ(16)", 0x88, 0x1c, SCSI_READ, SCSI_DATA_IN_BLOCKS),
	{ .name = "COMPARE AND WRITE", .opcode = 0x89, .service_action = NONE, .cdb_bytes = 16,
	  .lba_at = 2, .lba_bytes = 8, .count_at = 13, .count_bytes = 1, .writes = true,
	  .action = SCSI_COMPARE_AND_WRITE, .data = SCSI_DATA_OUT_TWICE,
	  .usage = { 0x89, 0x18, LBA_64, 0, 0, 0, 0xff, GROUP } },
	BLOCKS_16("WRITE(16)", 0x8a, 0x18, SCSI_WRITE, SCSI_DATA_OUT_BLOCKS, .writes = true),
	BLOCKS_16("ORWRITE(16)", 0x8b, 0x18, SCSI_ORWRITE, SCSI_DATA_OUT_BLOCKS, .writes = true),
	BLOCKS_16("WRITE AND VERIFY(16)", 0x8e, 0x16, SCSI_WRITE_AND_VERIFY, SCSI_DATA_OUT_BLOCKS,
	    .writes = true),
	BLOCKS_16("VERIFY(16)", 0x8f, 0x16, SCSI_VERIFY, SCSI_DATA_OUT_BYTCHK),
	BLOCKS_16("PRE-FETCH(16)", 0x90, 0x02, SCSI_PRE_FETCH, SCSI_DATA_NONE,
	    .count_no_data = true),
	BLOCKS_16("SYNCHRONIZE CACHE(16)", 0x91, 0x02, SCSI_SYNCHRONIZE_CACHE, SCSI_DATA_NONE,
	    .count_no_data = true),
	BLOCKS_16("WRITE SAME(16)", 0x93, 0x19, SCSI_WRITE_SAME, SCSI_DATA_OUT_PATTERN,
	    .writes = true, .count_no_data = true),
	{ .name = "WRITE ATOMIC(16)", .opcode = 0x9c, .service_action = NONE, .cdb_bytes = 16,
	  .lba_at = 2, .lba_bytes = 8, .count_at = 12, .count_bytes = 2, .writes = true,
	  .action = SCSI_WRITE_ATOMIC, .data = SCSI_DATA_OUT_BLOCKS,
	  .usage = { 0x9c, 0x18, LBA_64, LEN_16, LEN_16, GROUP } },
	PLAIN("READ CAPACITY(16)", 0x9e, 0x10, 16, SCSI_READ_CAPACITY_16, SCSI_DATA_IN_BYTES,
	    10, 4, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, LEN_32),
	{ .name = "GET LBA STATUS", .opcode = 0x9e, .service_action = 0x12, .cdb_bytes = 16,
	  .lba_at = 2, .lba_bytes = 8, .count_at = 10, .count_bytes = 4, .lba_must_exist = true,
	  .action = SCSI_GET_LBA_STATUS, .data = SCSI_DATA_IN_BYTES,
	  .usage = { 0x9e, 0x12, LBA_64, LEN_32 } },
	PLAIN("REPORT LUNS", 0xa0, NONE, 12, SCSI_REPORT_LUNS, SCSI_DATA_IN_BYTES, 6, 4,
	    0, 0xff, 0, 0, 0, LEN_32),
	PLAIN("REPORT TARGET PORT GROUPS", 0xa3, 0x0a, 12, SCSI_REPORT_TARGET_PORT_GROUPS,
	    SCSI_DATA_IN_BYTES, 6, 4, 0xea, 0, 0, 0, 0, LEN_32),
	PLAIN("REPORT SUPPORTED OPERATION CODES", 0xa3, 0x0c, 12, SCSI_REPORT_OPCODES,
	    SCSI_DATA_IN_BYTES, 6, 4, 0x0c, 0x87, 0xff, 0xff, 0xff, LEN_32),
	PLAIN("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", 0xa3, 0x0d, 12,
	    SCSI_REPORT_TASK_MANAGEMENT, SCSI_DATA_IN_BYTES, 6, 4, 0x0d, 0x80, 0, 0, 0, LEN_32),
	BLOCKS_12("READ(12)", 0xa8, 0x1c, SCSI_READ, SCSI_DATA_IN_BLOCKS),
	BLOCKS_12("WRITE(12)", 0xaa, 0x18, SCSI_WRITE, SCSI_DATA_OUT_BLOCKS, .writes = true),
	BLOCKS_12("WRITE AND VERIFY(12)", 0xae, 0x16, SCSI_WRITE_AND_VERIFY, SCSI_DATA_OUT_BLOCKS,
	    .writes = true),
	BLOCKS_12("VERIFY(12)", 0xaf, 0x16, SCSI_VERIFY, SCSI_DATA_OUT_BYTCHK),
	PLAIN("READ DEFECT DATA(12)", 0xb7, NONE, 12, SCSI_READ_DEFECT_DATA, SCSI_DATA_IN_BYTES, 6, 4,
	    0x1f, LBA_32, LEN_32),
};
/* clang-format on */

const size_t scsi_command_count = ARRAY_SIZE(scsi_commands);

#define SERVICE_ACTION_BITS 0x1f

/* --- sense --- */

void
scsi_sense_set(struct scsi_sense *sense, enum scsi_key key, enum scsi_asc asc)
{
	*sense = (struct scsi_sense){ .key = key, .asc = asc };
}

void
scsi_sense_field(
    struct scsi_sense *sense, enum scsi_asc asc, bool in_cdb, uint16_t byte, unsigned bit)
{
	scsi_sense_set(sense, SCSI_ILLEGAL_REQUEST, asc);
	sense->has_field = true;
	sense->field_in_cdb = in_cdb;
	sense->field_byte = byte;
	sense->has_bit = bit <= 7;
	sense->field_bit = bit <= 7 ? (uint8_t)bit : 0;
}

/* The three bytes of what is specific to the key: a pointer at a field, or how far something is. */
static void
encode_specific(const struct scsi_sense *sense, uint8_t *bytes)
{
	if (sense->has_progress) {
		bytes[0] = 0x80;
		bytes[1] = (uint8_t)(sense->progress >> 8);
		bytes[2] = (uint8_t)sense->progress;
		return;
	}
	bytes[0] = (uint8_t)(0x80 | (sense->field_in_cdb ? 0x40 : 0) |
			     (sense->has_bit ? 0x08 | sense->field_bit : 0));
	bytes[1] = (uint8_t)(sense->field_byte >> 8);
	bytes[2] = (uint8_t)sense->field_byte;
}

static size_t
encode_fixed(const struct scsi_sense *sense, uint8_t *bytes)
{
	bytes[0] = 0x70;
	/* Four bytes of information hold what fits; otherwise it is not valid. */
	if (sense->has_information && sense->information <= UINT32_MAX) {
		uint32_t information_be = htobe32((uint32_t)sense->information);

		bytes[0] |= 0x80;
		memcpy(bytes + 3, &information_be, sizeof(information_be));
	}
	bytes[2] = (uint8_t)sense->key;
	bytes[7] = 10;
	bytes[12] = (uint8_t)(sense->asc >> 8);
	bytes[13] = (uint8_t)sense->asc;
	if (sense->has_field || sense->has_progress)
		encode_specific(sense, bytes + 15);
	return 18;
}

static size_t
encode_descriptors(const struct scsi_sense *sense, uint8_t *bytes)
{
	size_t len_bytes = 8;

	bytes[0] = 0x72;
	bytes[1] = (uint8_t)sense->key;
	bytes[2] = (uint8_t)(sense->asc >> 8);
	bytes[3] = (uint8_t)sense->asc;
	if (sense->has_information) {
		uint64_t information_be = htobe64(sense->information);

		bytes[len_bytes + 1] = 0x0a;
		bytes[len_bytes + 2] = 0x80;
		memcpy(bytes + len_bytes + 4, &information_be, sizeof(information_be));
		len_bytes += 12;
	}
	if (sense->has_field || sense->has_progress) {
		bytes[len_bytes] = 0x02;
		bytes[len_bytes + 1] = 0x06;
		encode_specific(sense, bytes + len_bytes + 4);
		len_bytes += 8;
	}
	bytes[7] = (uint8_t)(len_bytes - 8);
	return len_bytes;
}

size_t
scsi_sense_encode(
    const struct scsi_sense *sense, bool descriptor, uint8_t bytes[SCSI_SENSE_BYTES_MAX])
{
	memset(bytes, 0, SCSI_SENSE_BYTES_MAX);
	return descriptor ? encode_descriptors(sense, bytes) : encode_fixed(sense, bytes);
}

/* --- parsing --- */

static uint64_t
get_be(const uint8_t *bytes, unsigned len_bytes)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < len_bytes; i++)
		n = n << 8 | bytes[i];
	return n;
}

/* NULL: @opcode_known tells whether another service action would do. */
static const struct scsi_command *
find_command(const uint8_t *bytes, size_t len_bytes, bool *opcode_known)
{
	uint8_t service_action = len_bytes > 1 ? bytes[1] & SERVICE_ACTION_BITS : 0;

	*opcode_known = false;
	for (size_t i = 0; i < ARRAY_SIZE(scsi_commands); i++) {
		const struct scsi_command *command = &scsi_commands[i];

		if (command->opcode != bytes[0])
			continue;
		*opcode_known = true;
		if (command->service_action == SCSI_NO_SERVICE_ACTION ||
		    command->service_action == service_action)
			return command;
	}
	return NULL;
}

static bool
field_error(struct scsi_sense *sense, uint16_t byte, unsigned bit)
{
	scsi_sense_field(sense, SCSI_ASC_INVALID_FIELD_IN_CDB, true, byte, bit);
	return false;
}

static bool
check_bits(const struct scsi_cdb *cdb, struct scsi_sense *sense)
{
	for (uint16_t i = 1; i < cdb->command->cdb_bytes; i++) {
		uint8_t allowed = cdb->command->usage[i];
		uint8_t wrong;

		/* A service action is a number, and was compared: its other bits are not flags. */
		if (i == 1 && cdb->command->service_action != SCSI_NO_SERVICE_ACTION)
			allowed |= SERVICE_ACTION_BITS;
		wrong = cdb->bytes[i] & (uint8_t)~allowed;
		if (wrong)
			return field_error(sense, i, 31 - (unsigned)__builtin_clz(wrong));
	}
	if ((cdb->command->action == SCSI_VERIFY ||
		cdb->command->action == SCSI_WRITE_AND_VERIFY) &&
	    (scsi_cdb_bytchk(cdb) == 2 ||
		(scsi_cdb_bytchk(cdb) == 3 && cdb->command->action != SCSI_VERIFY)))
		return field_error(sense, 1, 2);
	return true;
}

static bool
check_range(
    const struct scsi_cdb *cdb, const struct scsi_geometry *geometry, struct scsi_sense *sense)
{
	uint64_t blocks = cdb->command->data == SCSI_DATA_IN_BYTES ? 0 : cdb->count;

	if (cdb->lba > geometry->blocks || blocks > geometry->blocks - cdb->lba ||
	    (cdb->command->lba_must_exist && cdb->lba == geometry->blocks)) {
		scsi_sense_set(sense, SCSI_ILLEGAL_REQUEST, SCSI_ASC_LBA_OUT_OF_RANGE);
		return false;
	}
	return true;
}

/* How many bytes the initiator is to send. */
static uint64_t
data_out_bytes(const struct scsi_cdb *cdb, uint32_t block_bytes)
{
	uint64_t all_bytes = (uint64_t)cdb->count * block_bytes;

	switch (cdb->command->data) {
	case SCSI_DATA_NONE:
	case SCSI_DATA_IN_BLOCKS:
	case SCSI_DATA_IN_BYTES:
		return 0;
	case SCSI_DATA_OUT_BLOCKS:
		return all_bytes;
	case SCSI_DATA_OUT_BYTES:
		return cdb->count;
	case SCSI_DATA_OUT_TWICE:
		return 2 * all_bytes;
	case SCSI_DATA_OUT_PATTERN:
		return cdb->command->usage[1] & cdb->bytes[1] & 0x01 ? 0 : block_bytes;
	case SCSI_DATA_OUT_BYTCHK:
		if (scsi_cdb_bytchk(cdb) == 0 || cdb->count == 0)
			return 0;
		return scsi_cdb_bytchk(cdb) == 1 ? all_bytes : block_bytes;
	}
	CHECK(false);
}

static bool
measure_data(struct scsi_cdb *cdb, uint32_t block_bytes, struct scsi_sense *sense)
{
	uint64_t out_bytes = data_out_bytes(cdb, block_bytes);
	uint64_t in_bytes = 0;

	if (cdb->command->data == SCSI_DATA_IN_BLOCKS)
		in_bytes = (uint64_t)cdb->count * block_bytes;
	else if (cdb->command->data == SCSI_DATA_IN_BYTES)
		in_bytes = cdb->count;
	else if (cdb->command->action == SCSI_READ_CAPACITY_10)
		in_bytes = 8; /* the only answer whose length the CDB does not bound */
	/* An allocation length may be anything: answers are short. */
	if (out_bytes > SCSI_TRANSFER_BYTES_MAX ||
	    (cdb->command->data == SCSI_DATA_IN_BLOCKS && in_bytes > SCSI_TRANSFER_BYTES_MAX))
		return field_error(sense, cdb->command->count_at, 8);
	cdb->data_out_bytes = (uint32_t)out_bytes;
	cdb->data_in_bytes = (uint32_t)in_bytes;
	return true;
}

bool
scsi_cdb_parse(struct scsi_cdb *cdb, const uint8_t *bytes, size_t len_bytes,
    const struct scsi_geometry *geometry, struct scsi_sense *sense)
{
	const struct scsi_command *command;
	bool opcode_known = false;

	*cdb = (struct scsi_cdb){ 0 };
	command = len_bytes ? find_command(bytes, len_bytes, &opcode_known) : NULL;
	if (!command && opcode_known)
		return field_error(sense, 1, 4);
	if (!command) {
		scsi_sense_set(sense, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_OPCODE);
		return false;
	}
	if (len_bytes < command->cdb_bytes) {
		scsi_sense_set(sense, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
		return false;
	}
	cdb->command = command;
	memcpy(cdb->bytes, bytes, command->cdb_bytes);
	if (!check_bits(cdb, sense))
		return false;
	cdb->lba = get_be(cdb->bytes + command->lba_at, command->lba_bytes);
	cdb->count = (uint32_t)get_be(cdb->bytes + command->count_at, command->count_bytes);
	if (command->lba_bytes == 3) {
		cdb->lba &= 0x1fffff;
		cdb->count = cdb->count ? cdb->count : 256;
	}
	if (geometry && command->lba_bytes && !check_range(cdb, geometry, sense))
		return false;
	return measure_data(cdb, geometry ? geometry->block_bytes : 512, sense);
}

/* --- REPORT SUPPORTED OPERATION CODES --- */

#define OPCODE_BYTES 8
#define TIMEOUTS_BYTES 12
static_assert(
    4 + ARRAY_SIZE(scsi_commands) * (OPCODE_BYTES + TIMEOUTS_BYTES) <= SCSI_OPCODES_BYTES_MAX,
    "the longest answer fits");

/* No command has a timeout that we could promise: zeroes behind the length. */
static size_t
put_timeouts(uint8_t *bytes)
{
	memset(bytes, 0, TIMEOUTS_BYTES);
	bytes[1] = TIMEOUTS_BYTES - 2;
	return TIMEOUTS_BYTES;
}

static size_t
put_all_commands(uint8_t *bytes, bool timeouts)
{
	size_t at = 4;
	uint32_t list_be;

	for (size_t i = 0; i < ARRAY_SIZE(scsi_commands); i++) {
		const struct scsi_command *command = &scsi_commands[i];
		bool has_action = command->service_action != SCSI_NO_SERVICE_ACTION;

		memset(bytes + at, 0, OPCODE_BYTES);
		bytes[at] = command->opcode;
		bytes[at + 3] = has_action ? command->service_action : 0;
		bytes[at + 5] = (uint8_t)((timeouts ? 2 : 0) | (has_action ? 1 : 0));
		bytes[at + 7] = command->cdb_bytes;
		at += OPCODE_BYTES;
		if (timeouts)
			at += put_timeouts(bytes + at);
	}
	list_be = htobe32((uint32_t)at - 4);
	memcpy(bytes, &list_be, sizeof(list_be));
	return at;
}

/* @command is NULL: not supported. */
static size_t
put_one_command(uint8_t *bytes, const struct scsi_command *command, bool timeouts)
{
	size_t at = 4;

	memset(bytes, 0, 4);
	if (!command) {
		bytes[1] = 1;
		return at;
	}
	bytes[1] = timeouts ? 0x83 : 0x03;
	bytes[3] = command->cdb_bytes;
	memcpy(bytes + at, command->usage, command->cdb_bytes);
	at += command->cdb_bytes;
	return timeouts ? at + put_timeouts(bytes + at) : at;
}

bool
scsi_report_opcodes(
    const struct scsi_cdb *cdb, uint8_t *bytes, size_t *len_bytes, struct scsi_sense *sense)
{
	enum {
		ALL,
		BY_OPCODE,
		BY_SERVICE_ACTION,
		BY_EITHER
	};
	bool timeouts = cdb->bytes[2] & 0x80;
	unsigned options = cdb->bytes[2] & 7;
	uint64_t action = get_be(cdb->bytes + 4, 2);
	const struct scsi_command *found = NULL;

	if (options == ALL) {
		*len_bytes = put_all_commands(bytes, timeouts);
		return true;
	}
	if (options > BY_EITHER)
		return field_error(sense, 2, 2);
	for (size_t i = 0; i < ARRAY_SIZE(scsi_commands); i++) {
		const struct scsi_command *command = &scsi_commands[i];
		bool has_action = command->service_action != SCSI_NO_SERVICE_ACTION;

		if (command->opcode != cdb->bytes[3])
			continue;
		/* The option must suit the opcode. */
		if ((options == BY_OPCODE && has_action) ||
		    (options == BY_SERVICE_ACTION && !has_action))
			return field_error(sense, 2, 2);
		if (has_action ? action == command->service_action
			       : options != BY_EITHER || action == 0)
			found = command;
	}
	*len_bytes = put_one_command(bytes, found, timeouts);
	return true;
}
