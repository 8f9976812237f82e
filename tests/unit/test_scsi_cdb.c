/* SPDX-License-Identifier: Apache-2.0 */
/* SCSI CDBs: what each command accepts, what sense the rest gets, and how sense data look. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>

#include "frontends/scsi/scsi_cdb.h"

#define BLOCKS 100000ull
#define BLOCKS_HEX 0x00, 0x01, 0x86, 0xa0 /* BLOCKS, and as the LBA behind the last */
#define LAST_HEX 0x00, 0x01, 0x86, 0x9f
#define ZERO_HEX 0, 0, 0, 0
#define ONES_HEX 0xff, 0xff, 0xff, 0xff

#define OPCODE SCSI_ASC_INVALID_OPCODE
#define RANGE SCSI_ASC_LBA_OUT_OF_RANGE
#define FIELD SCSI_ASC_INVALID_FIELD_IN_CDB

static const struct {
	uint8_t cdb[16];
	uint8_t len;
	enum scsi_asc asc; /* 0: good */
	int field;         /* -1: none is pointed at */
	uint32_t out_bytes, in_bytes;
} cases[] = {
	/* commands without blocks */
	{ { 0x00 }, 6, 0, -1, 0, 0 },
	{ { 0x00 }, 16, 0, -1, 0, 0 },
	{ { 0x00 }, 5, FIELD, -1, 0, 0 },
	{ { 0x00, 0, 0, 0, 1 }, 6, FIELD, 4, 0, 0 },
	{ { 0x00, 0, 0, 0, 0, 4 }, 6, FIELD, 5, 0, 0 }, /* NACA */
	{ { 0x12, 1, 0x83, 0x01, 0x00 }, 6, 0, -1, 0, 256 },
	{ { 0x12, 2 }, 6, FIELD, 1, 0, 0 }, /* CMDDT is gone */
	{ { 0x1a, 0x08, 0x3f, 0xff, 0xff }, 6, 0, -1, 0, 255 },
	{ { 0x1b, 1, 0, 0, 1 }, 6, 0, -1, 0, 0 },
	{ { 0x1e, 0, 0, 0, 4 }, 6, FIELD, 4, 0, 0 },
	{ { 0x25 }, 10, 0, -1, 0, 8 },
	{ { 0x25, 0, 0, 0, 0, 1 }, 10, FIELD, 5, 0, 0 },
	{ { 0x42, 0, 0, 0, 0, 0, 0, 0x10, 0x08 }, 10, 0, -1, 0x1008, 0 },
	{ { 0xa0, 0, 0, 0, 0, 0, ONES_HEX }, 12, 0, -1, 0, UINT32_MAX },
	/* opcodes and service actions */
	{ { 0 }, 0, OPCODE, -1, 0, 0 },
	{ { 0xff }, 6, OPCODE, -1, 0, 0 },
	{ { 0x7f }, 16, OPCODE, -1, 0, 0 },
	{ { 0x5e, 3, 0, 0, 0, 0, 0, 0, 8 }, 10, 0, -1, 0, 8 },
	{ { 0x5e, 4 }, 10, FIELD, 1, 0, 0 },
	{ { 0x5e }, 1, FIELD, -1, 0, 0 },
	{ { 0x5f, 6, 0, 0, 0, 0, 0, 0, 24 }, 10, 0, -1, 24, 0 },
	{ { 0x5f, 8 }, 10, FIELD, 1, 0, 0 },
	{ { 0x5f, 0x26 }, 10, FIELD, 1, 0, 0 },
	{ { 0x9e, 0x10, ZERO_HEX, ZERO_HEX, 0, 0, 0, 32 }, 16, 0, -1, 0, 32 },
	{ { 0x9e, 0x11 }, 16, FIELD, 1, 0, 0 },
	{ { 0xa3, 0x0c, 0x81, 0x28, 0, 0, 0, 0, 0, 64 }, 12, 0, -1, 0, 64 },
	{ { 0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0, 64 }, 12, 0, -1, 0, 64 },
	/* 6 bytes: 21 bits of LBA, and a length of 0 is 256 */
	{ { 0x08, 0x01, 0x86, 0x9f, 1 }, 6, 0, -1, 0, 512 },
	{ { 0x08, 0x01, 0x86, 0x9f, 2 }, 6, RANGE, -1, 0, 0 },
	{ { 0x08, 0, 0, 0, 0 }, 6, 0, -1, 0, 131072 },
	{ { 0x08, 0x01, 0x86, 0x9f, 0 }, 6, RANGE, -1, 0, 0 },
	{ { 0x08, 0x21, 0, 0, 1 }, 6, FIELD, 1, 0, 0 },
	{ { 0x0a, 0, 0, 5, 8 }, 6, 0, -1, 4096, 0 },
	/* 10 bytes */
	{ { 0x28, 0x18, LAST_HEX, 0, 0, 1 }, 10, 0, -1, 0, 512 },
	{ { 0x28, 0, LAST_HEX, 0, 0, 2 }, 10, RANGE, -1, 0, 0 },
	{ { 0x28, 0, BLOCKS_HEX, 0, 0, 0 }, 10, 0, -1, 0, 0 },
	{ { 0x28, 0, BLOCKS_HEX, 0, 0, 1 }, 10, RANGE, -1, 0, 0 },
	{ { 0x28, 0, 0, 1, 0x86, 0xa1, 0, 0, 0 }, 10, RANGE, -1, 0, 0 },
	{ { 0x28, 0, ONES_HEX, 0, 0, 0 }, 10, RANGE, -1, 0, 0 },
	{ { 0x28, 0x20, ZERO_HEX, 0, 0, 1 }, 10, FIELD, 1, 0, 0 }, /* RDPROTECT */
	{ { 0x28, 0, ZERO_HEX, 0x40, 0, 1 }, 10, FIELD, 6, 0, 0 },
	{ { 0x28, 0, ZERO_HEX, 0, 0 }, 9, FIELD, -1, 0, 0 },
	{ { 0x2a, 0x18, ZERO_HEX, 0x3f, 0xff, 0xff }, 10, 0, -1, 65535 * 512, 0 },
	{ { 0x2e, 0x12, ZERO_HEX, 0, 0, 1 }, 10, 0, -1, 512, 0 },
	{ { 0x2e, 0x08, ZERO_HEX, 0, 0, 1 }, 10, FIELD, 1, 0, 0 }, /* has no FUA */
	{ { 0x2e, 0x04, ZERO_HEX, 0, 0, 1 }, 10, FIELD, 1, 0, 0 },
	{ { 0x2f, 0x00, ZERO_HEX, 0, 0, 9 }, 10, 0, -1, 0, 0 },
	{ { 0x2f, 0x02, ZERO_HEX, 0, 0, 9 }, 10, 0, -1, 9 * 512, 0 },
	{ { 0x2f, 0x04, ZERO_HEX, 0, 0, 9 }, 10, FIELD, 1, 0, 0 },
	{ { 0x2f, 0x06, ZERO_HEX, 0, 0, 9 }, 10, 0, -1, 512, 0 },
	{ { 0x2f, 0x06, ZERO_HEX, 0, 0, 0 }, 10, 0, -1, 0, 0 },
	{ { 0x34, 0x02, ZERO_HEX, 0, 0xff, 0xff }, 10, 0, -1, 0, 0 },
	{ { 0x35, 0, LAST_HEX, 0, 0, 2 }, 10, RANGE, -1, 0, 0 },
	{ { 0x37, 0, 0x1d, 0, 0, 0, 0, 1, 0 }, 10, 0, -1, 0, 256 },
	{ { 0x37, 0x01, 0x1d, 0, 0, 0, 0, 1, 0 }, 10, FIELD, 1, 0, 0 },
	{ { 0xb7, 0x1d, ZERO_HEX, 0, 0, 1, 0 }, 12, 0, -1, 0, 256 },
	{ { 0x41, 0x08, ZERO_HEX, 0, 0, 9 }, 10, 0, -1, 512, 0 },
	{ { 0x41, 0x01, ZERO_HEX, 0, 0, 9 }, 10, FIELD, 1, 0, 0 }, /* NDOB: 16 bytes only */
	/* 12 bytes */
	{ { 0xa8, 0, LAST_HEX, 0, 0, 0, 1 }, 12, 0, -1, 0, 512 },
	{ { 0xa8, 0, LAST_HEX, ONES_HEX }, 12, RANGE, -1, 0, 0 },
	{ { 0xa8, 0, ZERO_HEX, 0, 1, 0, 0 }, 12, 0, -1, 0, 32 * MIB },
	{ { 0xa8, 0, ZERO_HEX, 0, 1, 0, 1 }, 12, FIELD, 6, 0, 0 }, /* beyond 32 MiB */
	{ { 0xaa, 0, ZERO_HEX, 0, 1, 0, 1 }, 12, FIELD, 6, 0, 0 },
	{ { 0xaf, 0, ZERO_HEX, 0, 1, 0, 1 }, 12, 0, -1, 0, 0 },
	/* 16 bytes */
	{ { 0x88, 0, ZERO_HEX, LAST_HEX, 0, 0, 0, 1 }, 16, 0, -1, 0, 512 },
	{ { 0x88, 0, ONES_HEX, ONES_HEX, 0, 0, 0, 1 }, 16, RANGE, -1, 0, 0 },
	{ { 0x88, 0, ONES_HEX, ONES_HEX, ONES_HEX }, 16, RANGE, -1, 0, 0 },
	{ { 0x88, 0, 0x80, 0, 0, 0, ZERO_HEX, 0, 0, 0, 0 }, 16, RANGE, -1, 0, 0 },
	{ { 0x89, 0, ZERO_HEX, ZERO_HEX, 0, 0, 0, 3 }, 16, 0, -1, 3072, 0 },
	{ { 0x89, 0, ZERO_HEX, LAST_HEX, 0, 0, 0, 2 }, 16, RANGE, -1, 0, 0 },
	{ { 0x89, 0, ZERO_HEX, ZERO_HEX, 0, 0, 1, 0 }, 16, FIELD, 12, 0, 0 },
	{ { 0x8b, 0x08, ZERO_HEX, ZERO_HEX, 0, 0, 0, 3 }, 16, 0, -1, 1536, 0 },
	{ { 0x93, 0x00, ZERO_HEX, ZERO_HEX, 0, 1, 0x86, 0xa0 }, 16, 0, -1, 512, 0 },
	{ { 0x93, 0x09, ZERO_HEX, ZERO_HEX, 0, 1, 0x86, 0xa0 }, 16, 0, -1, 0, 0 },
	{ { 0x93, 0x08, ZERO_HEX, ZERO_HEX, 0, 1, 0x86, 0xa1 }, 16, RANGE, -1, 0, 0 },
	{ { 0x9c, 0, ZERO_HEX, ZERO_HEX, 0, 0, 0, 8 }, 16, 0, -1, 4096, 0 },
	{ { 0x9e, 0x12, ZERO_HEX, LAST_HEX, 0, 0, 0, 24 }, 16, 0, -1, 0, 24 },
	{ { 0x9e, 0x12, ZERO_HEX, BLOCKS_HEX, 0, 0, 0, 24 }, 16, RANGE, -1, 0, 0 },
};

static void
test_cases(void **state)
{
	static const struct scsi_geometry geometry = { .blocks = BLOCKS, .block_bytes = 512 };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct scsi_sense sense = { 0 };
		struct scsi_cdb cdb;
		bool good = scsi_cdb_parse(&cdb, cases[i].cdb, cases[i].len, &geometry, &sense);

		if (good != (cases[i].asc == 0) || sense.asc != cases[i].asc)
			print_error("case %zu: opcode %02xh\n", i, cases[i].cdb[0]);
		assert_int_equal(sense.asc, cases[i].asc);
		assert_int_equal(good, cases[i].asc == 0);
		if (good) {
			assert_int_equal(cdb.data_out_bytes, cases[i].out_bytes);
			assert_int_equal(cdb.data_in_bytes, cases[i].in_bytes);
			continue;
		}
		assert_int_equal(sense.key, SCSI_ILLEGAL_REQUEST);
		assert_int_equal(sense.has_field ? sense.field_byte : -1, cases[i].field);
	}
}

/* With 4096-byte blocks and without a logical unit. */
static void
test_geometry(void **state)
{
	static const struct scsi_geometry geometry = { .blocks = 100, .block_bytes = 4096 };
	static const uint8_t read[10] = { 0x28, 0, 0, 0, 0, 99, 0, 0, 1 };
	static const uint8_t beyond[10] = { 0x28, 0, 0, 0, 0, 99, 0, 0, 2 };
	struct scsi_sense sense = { 0 };
	struct scsi_cdb cdb;

	assert_true(scsi_cdb_parse(&cdb, read, 10, &geometry, &sense));
	assert_int_equal(cdb.lba, 99);
	assert_int_equal(cdb.count, 1);
	assert_int_equal(cdb.data_in_bytes, 4096);
	assert_false(scsi_cdb_parse(&cdb, beyond, 10, &geometry, &sense));
	assert_int_equal(sense.asc, RANGE);
	assert_true(scsi_cdb_parse(&cdb, beyond, 10, NULL, &sense));
}

/* Every row: the bits of its fields are usable, it is found, and any other bit is refused. */
static void
test_table(void **state)
{
	for (size_t i = 0; i < scsi_command_count; i++) {
		const struct scsi_command *command = &scsi_commands[i];
		bool has_action = command->service_action != SCSI_NO_SERVICE_ACTION;
		uint8_t bytes[SCSI_CDB_BYTES_MAX] = { command->opcode };
		struct scsi_sense sense = { 0 };
		struct scsi_cdb cdb;

		print_message("%s\n", command->name);
		assert_int_equal(command->usage[0], command->opcode);
		assert_true(command->lba_at + command->lba_bytes < command->cdb_bytes);
		assert_true(command->count_at + command->count_bytes < command->cdb_bytes);
		for (unsigned k = 0; k < command->count_bytes; k++)
			assert_int_equal(command->usage[command->count_at + k], 0xff);
		for (unsigned k = 0; k < command->lba_bytes; k++)
			assert_int_equal(command->usage[command->lba_at + k],
			    command->lba_bytes == 3 && k == 0 ? 0x1f : 0xff);
		if (has_action)
			bytes[1] = command->service_action;
		assert_true(scsi_cdb_parse(&cdb, bytes, command->cdb_bytes, NULL, &sense));
		assert_ptr_equal(cdb.command, command);
		assert_false(scsi_cdb_parse(&cdb, bytes, command->cdb_bytes - 1u, NULL, &sense));
		for (unsigned bit = 8; bit < command->cdb_bytes * 8u; bit++) {
			uint8_t mask = (uint8_t)(1u << bit % 8);

			if (command->usage[bit / 8] & mask || (has_action && bit / 8 == 1))
				continue;
			bytes[bit / 8] ^= mask;
			assert_false(scsi_cdb_parse(&cdb, bytes, command->cdb_bytes, NULL, &sense));
			assert_int_equal(sense.asc, FIELD);
			assert_int_equal(sense.field_byte, bit / 8);
			assert_int_equal(sense.field_bit, bit % 8);
			bytes[bit / 8] ^= mask;
		}
	}
}

static void
test_sense(void **state)
{
	uint8_t bytes[SCSI_SENSE_BYTES_MAX];
	struct scsi_sense sense;

	scsi_sense_field(&sense, FIELD, true, 0x0102, 5);
	assert_int_equal(scsi_sense_encode(&sense, false, bytes), 18);
	static const uint8_t fixed[18] = { 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcd,
		1, 2 };
	assert_memory_equal(bytes, fixed, 18);
	assert_int_equal(scsi_sense_encode(&sense, true, bytes), 16);
	static const uint8_t descriptor[16] = { 0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcd, 1,
		2 };
	assert_memory_equal(bytes, descriptor, 16);

	scsi_sense_set(&sense, SCSI_MISCOMPARE, SCSI_ASC_MISCOMPARE);
	sense.has_information = true;
	sense.information = 0x1234;
	assert_int_equal(scsi_sense_encode(&sense, false, bytes), 18);
	static const uint8_t miscompare[18] = { 0xf0, 0, 0xe, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0,
		0x1d };
	assert_memory_equal(bytes, miscompare, 18);
	assert_int_equal(scsi_sense_encode(&sense, true, bytes), 20);
	static const uint8_t information[20] = { 0x72, 0xe, 0x1d, 0, 0, 0, 0, 12, 0, 0xa, 0x80, 0,
		0, 0, 0, 0, 0, 0, 0x12, 0x34 };
	assert_memory_equal(bytes, information, 20);
	sense.information = 1ull << 32; /* does not fit the fixed form */
	scsi_sense_encode(&sense, false, bytes);
	assert_int_equal(bytes[0], 0x70);
}

static const struct {
	uint8_t options, opcode, action;
	bool good;
	size_t len;
	uint8_t support;
} opcode_cases[] = {
	{ 1, 0x28, 0, true, 4 + 10, 0x03 },
	{ 0x81, 0x28, 0, true, 4 + 10 + 12, 0x83 },
	{ 1, 0xff, 0, true, 4, 0x01 },
	{ 0x81, 0xff, 0, true, 4, 0x01 },
	{ 1, 0x9e, 0, false, 0, 0 }, /* has service actions */
	{ 2, 0x9e, 0x12, true, 4 + 16, 0x03 },
	{ 2, 0x9e, 0x11, true, 4, 0x01 },
	{ 2, 0x28, 0, false, 0, 0 }, /* has none */
	{ 3, 0x28, 0, true, 4 + 10, 0x03 },
	{ 3, 0x28, 1, true, 4, 0x01 },
	{ 3, 0x5e, 3, true, 4 + 10, 0x03 },
	{ 4, 0x28, 0, false, 0, 0 },
};

static void
test_report_opcodes(void **state)
{
	uint8_t bytes[SCSI_OPCODES_BYTES_MAX];
	struct scsi_sense sense;
	struct scsi_cdb cdb;
	size_t len;

	for (size_t i = 0; i < ARRAY_SIZE(opcode_cases); i++) {
		const uint8_t raw[12] = { 0xa3, 0x0c, opcode_cases[i].options,
			opcode_cases[i].opcode, 0, opcode_cases[i].action };

		assert_true(scsi_cdb_parse(&cdb, raw, 12, NULL, &sense));
		assert_int_equal(
		    scsi_report_opcodes(&cdb, bytes, &len, &sense), opcode_cases[i].good);
		if (!opcode_cases[i].good) {
			assert_int_equal(sense.asc, FIELD);
			assert_int_equal(sense.field_byte, 2);
			continue;
		}
		assert_int_equal(len, opcode_cases[i].len);
		assert_int_equal(bytes[1], opcode_cases[i].support);
		if (len > 4)
			assert_int_equal(bytes[4], opcode_cases[i].opcode);
	}
	for (unsigned timeouts = 0; timeouts < 2; timeouts++) {
		const uint8_t raw[12] = { 0xa3, 0x0c, (uint8_t)(timeouts << 7) };
		size_t each = timeouts ? 20 : 8;

		assert_true(scsi_cdb_parse(&cdb, raw, 12, NULL, &sense));
		assert_true(scsi_report_opcodes(&cdb, bytes, &len, &sense));
		assert_int_equal(len, 4 + scsi_command_count * each);
		assert_int_equal(bytes[2] << 8 | bytes[3], len - 4);
		for (size_t i = 0; i < scsi_command_count; i++) {
			assert_int_equal(bytes[4 + i * each], scsi_commands[i].opcode);
			assert_int_equal(bytes[4 + i * each + 7], scsi_commands[i].cdb_bytes);
			if (timeouts)
				assert_int_equal(bytes[4 + i * each + 9], 10);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),
		cmocka_unit_test(test_geometry),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_sense),
		cmocka_unit_test(test_report_opcodes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
