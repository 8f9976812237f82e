/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions in full feature phase as an initiator sees them: data both ways, digests, task
 * management, the command window, what the target says of its own accord, copies between units. */
#include "tests/unit/iscsi_conversation.h"

#define STORE "iqn.2026-11.org.example:store"
#define TAG 0x1234

static uint8_t pattern[256 * 1024];

static int
setup(void **state)
{
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 31 + i / 251);
	return world_setup(state);
}

/* WRITE(10) or READ(10). */
static const uint8_t *
cdb_of(uint8_t opcode, uint32_t lba, uint32_t blocks)
{
	static uint8_t cdb[16];

	cdb[0] = opcode;
	iscsi_put(cdb, 2, 4, lba);
	iscsi_put(cdb, 7, 2, blocks);
	return cdb;
}

static struct initiator *
ready(const char *keys, size_t keys_bytes)
{
	struct initiator *i = log_in(keys, keys_bytes);

	clear_attentions(i, 0);
	return i;
}

static void
say_data(
    struct initiator *i, uint32_t ttt, uint32_t data_sn, uint32_t offset, uint32_t len, bool final)
{
	uint8_t bhs[ISCSI_BHS_BYTES] = { ISCSI_DATA_OUT, final ? 0x80 : 0 };

	iscsi_put(bhs, ISCSI_AT_TAG, 4, TAG);
	iscsi_put(bhs, ISCSI_AT_TTT, 4, ttt);
	iscsi_put(bhs, ISCSI_AT_DATA_SN, 4, data_sn);
	iscsi_put(bhs, ISCSI_AT_BUFFER_OFFSET, 4, offset);
	say_pdu(i, bhs, pattern + offset, len);
}

static struct pdu
hear_r2t(struct initiator *i, uint32_t offset, uint32_t len)
{
	struct pdu pdu = hear_one(i, ISCSI_R2T);

	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_TAG, 4), TAG);
	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_BUFFER_OFFSET, 4), offset);
	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_DESIRED_BYTES, 4), len);
	return pdu;
}

static void
hear_good(struct initiator *i)
{
	struct pdu pdu = hear_one(i, ISCSI_RESPONSE);

	if (pdu.bhs[3] != SCSI_GOOD)
		fail_msg("status %02x, sense %02x%02x", pdu.bhs[3], pdu.data[14], pdu.data[15]);
	assert_int_equal(pdu.bhs[1], 0x80); /* no residual */
}

/* --- data --- */

#define BURSTS "InitialR2T=No\0FirstBurstLength=8192\0MaxBurstLength=16384\0"
#define WAYS(digests) KEYS(NORMAL(DEFAULT_A) "\0" digests BURSTS "MaxRecvDataSegmentLength=4096")

/* Immediate, unsolicited and solicited data of one command, with all digests, in odd pieces. */
static void
test_write_of_all_kinds_of_data(void **state)
{
	static const struct {
		const char *keys;
		size_t keys_bytes;
		size_t piece_bytes;
	} ways[] = {
		{ WAYS(""), 0 },
		{ WAYS("HeaderDigest=CRC32C\0"), 0 },
		{ WAYS("DataDigest=CRC32C\0"), 0 },
		{ WAYS("HeaderDigest=CRC32C\0DataDigest=CRC32C\0"), 0 },
		{ WAYS("HeaderDigest=CRC32C\0DataDigest=CRC32C\0"), 37 },
	};

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(ways); k++) {
		struct initiator *i = ready(ways[k].keys, ways[k].keys_bytes);
		struct pdu pdu;
		uint32_t ttt, got = 0;

		i->piece_bytes = ways[k].piece_bytes;
		memset(target.images[0].data, 0, 65536);
		/* 64 blocks from block 3 on: 1,000 bytes at once, up to 8 KiB of its own accord. */
		say_command(i, 0x20, 0, TAG, cdb_of(0x2a, 3, 64), 32768, pattern, 1000);
		hear_nothing(i);
		say_data(i, ISCSI_NO_TAG, 0, 1000, 3000, false);
		say_data(i, ISCSI_NO_TAG, 1, 4000, 4192, true);
		pdu = hear_r2t(i, 8192, 16384);
		ttt = iscsi_get(pdu.bhs, ISCSI_AT_TTT, 4);
		say_data(i, ttt, 0, 8192, 10001, false);
		say_data(i, ttt, 1, 18193, 6383, true);
		pdu = hear_r2t(i, 24576, 8192);
		say_data(i, iscsi_get(pdu.bhs, ISCSI_AT_TTT, 4), 0, 24576, 8192, true);
		hear_good(i);
		assert_memory_equal(target.images[0].data + 1536, pattern, 32768);
		say_command(i, 0xc0, 0, TAG, cdb_of(0x28, 3, 64), 32768, NULL, 0);
		while (got < 32768) {
			pdu = hear_one(i, ISCSI_DATA_IN);
			assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_BUFFER_OFFSET, 4), got);
			assert_true(pdu.data_bytes <= 4096);
			assert_memory_equal(pdu.data, pattern + got, pdu.data_bytes);
			got += pdu.data_bytes;
			assert_int_equal(pdu.bhs[1] & ISCSI_STATUS_IN_DATA, got == 32768);
		}
		hear_nothing(i);
		hang_up(i);
	}
}

/* What was not agreed on, or not asked for, ends the connection, and nothing is written. */
static void
test_data_against_the_agreement(void **state)
{
	static const char no[] = NORMAL(DEFAULT_A) "\0ImmediateData=No\0InitialR2T=Yes";
	static const char small[] = NORMAL(DEFAULT_A) "\0InitialR2T=No\0FirstBurstLength=1024";
	struct initiator *i;

	(void)state;
	i = ready(no, sizeof(no));
	say_command(i, 0xa0, 0, TAG, cdb_of(0x2a, 0, 8), 4096, pattern, 512);
	assert_true(i->closed);
	hang_up(i);
	i = ready(no, sizeof(no));
	say_command(i, 0x20, 0, TAG, cdb_of(0x2a, 0, 8), 4096, NULL, 0);
	assert_true(i->closed);
	hang_up(i);
	i = ready(small, sizeof(small)); /* more than the first burst */
	say_command(i, 0x20, 0, TAG, cdb_of(0x2a, 0, 8), 4096, pattern, 512);
	say_data(i, ISCSI_NO_TAG, 0, 512, 1024, true);
	assert_true(i->closed);
	hang_up(i);
	for (unsigned wrong = 0; wrong < 3; wrong++) {
		struct pdu pdu;

		i = ready(KEYS(NORMAL(DEFAULT_A)));
		say_command(i, 0xa0, 0, TAG, cdb_of(0x2a, 0, 8), 4096, NULL, 0);
		pdu = hear_r2t(i, 0, 4096);
		say_data(i, iscsi_get(pdu.bhs, ISCSI_AT_TTT, 4), 0, wrong == 0 ? 512 : 0,
		    wrong == 1 ? 8192 : 2048, wrong == 2);
		assert_true(i->closed);
		hang_up(i);
	}
	assert_int_equal(target.images[0].data[0], 0);
	assert_int_equal(target.images[0].data[512], 0);
}

static void
test_wrong_data_sn_fails_the_command(void **state)
{
	struct initiator *i = ready(KEYS(NORMAL(DEFAULT_A)));
	struct pdu pdu;

	(void)state;
	say_command(i, 0xa0, 0, TAG, cdb_of(0x2a, 0, 8), 4096, NULL, 0);
	pdu = hear_r2t(i, 0, 4096);
	say_data(i, iscsi_get(pdu.bhs, ISCSI_AT_TTT, 4), 7, 0, 4096, true);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_ABORTED_COMMAND, SCSI_ASC_DATA_PHASE_ERROR);
	assert_int_equal(target.images[0].data[1], 0);
	hang_up(i);
}

static void
test_wrong_digests_end_the_connection(void **state)
{
	static const char keys[] = NORMAL(DEFAULT_A) "\0HeaderDigest=CRC32C\0DataDigest=CRC32C";

	(void)state;
	for (unsigned which = 0; which < 2; which++) {
		struct initiator *i = ready(keys, sizeof(keys));
		uint8_t bytes[ISCSI_BHS_BYTES + 4 + 512 + 4] = { ISCSI_COMMAND, 0xa0 };
		uint32_t crc;

		iscsi_put(bytes, ISCSI_AT_DATA_LENGTH, 3, 512);
		iscsi_put(bytes, ISCSI_AT_EXPECTED_BYTES, 4, 512);
		iscsi_put(bytes, ISCSI_AT_CMD_SN, 4, i->cmd_sn);
		memcpy(bytes + ISCSI_AT_CDB, cdb_of(0x2a, 0, 1), 10);
		memcpy(bytes + ISCSI_BHS_BYTES + 4, pattern, 512);
		crc = crc32c(0, bytes, ISCSI_BHS_BYTES) ^ (which == 0);
		memcpy(bytes + ISCSI_BHS_BYTES, &crc, 4);
		crc = crc32c(0, pattern, 512) ^ (which == 1);
		memcpy(bytes + ISCSI_BHS_BYTES + 4 + 512, &crc, 4);
		give(i, bytes, sizeof(bytes));
		assert_true(i->closed);
		assert_int_equal(target.images[0].data[1], 0);
		hang_up(i);
	}
}

static void
test_residuals(void **state)
{
	struct initiator *i = ready(KEYS(NORMAL(DEFAULT_A)));
	struct pdu pdu;

	(void)state;
	say_command(i, 0xc0, 0, TAG, cdb_of(0x28, 0, 2), 4096, NULL, 0); /* less than expected */
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(pdu.data_bytes, 1024);
	assert_true(pdu.bhs[1] & ISCSI_UNDERFLOW);
	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_RESIDUAL, 4), 3072);
	say_command(i, 0xc0, 0, TAG, cdb_of(0x28, 0, 8), 512, NULL, 0); /* more */
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(pdu.data_bytes, 512);
	assert_true(pdu.bhs[1] & ISCSI_OVERFLOW);
	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_RESIDUAL, 4), 3584);
	hang_up(i);
}

/* --- numbers --- */

static void
test_command_window(void **state)
{
	struct initiator *i = ready(KEYS(NORMAL(DEFAULT_A)));
	struct pdu pdu;
	uint32_t first;

	(void)state;
	target.images[0].hold = true;
	first = i->cmd_sn;
	for (unsigned n = 0; n < ISCSI_TASKS_MAX; n++)
		say_command(i, 0xc0, 0, n, cdb_of(0x28, n, 1), 512, NULL, 0);
	hear_nothing(i);
	/* One beyond the window, one that came before, one that comes too early: ignored. */
	say_command(i, 0xc0, 0, 999, cdb_of(0x28, 0, 1), 512, NULL, 0);
	i->cmd_sn = first;
	say_command(i, 0xc0, 0, 998, cdb_of(0x28, 0, 1), 512, NULL, 0);
	assert_false(i->closed);
	hear_nothing(i);
	fake_release(&target.images[0]);
	run(i);
	for (unsigned n = 0; n < ISCSI_TASKS_MAX; n++) {
		pdu = hear_one(i, ISCSI_DATA_IN);
		assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_TAG, 4), n);
	}
	hear_nothing(i);
	i->cmd_sn = first + ISCSI_TASKS_MAX + 1;
	say_command(i, 0xc0, 0, 997, cdb_of(0x28, 0, 1), 512, NULL, 0);
	hear_nothing(i);
	i->cmd_sn = first + ISCSI_TASKS_MAX;
	say_command(i, 0xc0, 0, 996, cdb_of(0x28, 0, 1), 512, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_EXP_CMD_SN, 4), i->cmd_sn);
	/* The window is open again, but for this command's own place until it is sent. */
	assert_true(iscsi_get(pdu.bhs, ISCSI_AT_MAX_CMD_SN, 4) - i->cmd_sn >= ISCSI_TASKS_MAX - 2);
	hang_up(i);
}

/* --- task management --- */

static uint8_t
manage(struct initiator *i, unsigned function, uint8_t lun, uint32_t referenced, bool waits)
{
	uint8_t bhs[ISCSI_BHS_BYTES] = { ISCSI_TASK_MANAGEMENT | ISCSI_IMMEDIATE,
		(uint8_t)(0x80 | function) };
	struct pdu pdu;

	bhs[ISCSI_AT_LUN + 1] = lun;
	iscsi_put(bhs, ISCSI_AT_TAG, 4, 0x77);
	iscsi_put(bhs, ISCSI_AT_REFERENCED_TAG, 4, referenced);
	iscsi_put(bhs, ISCSI_AT_CMD_SN, 4, i->cmd_sn);
	say_pdu(i, bhs, NULL, 0);
	if (waits)
		return 0xff;
	pdu = hear_one(i, ISCSI_TASK_MANAGEMENT_RESPONSE);
	return pdu.bhs[2];
}

/* The answer comes when the task is gone, and the task is not answered. */
static void
test_abort_in_flight(void **state)
{
	struct initiator *i = ready(KEYS(NORMAL(DEFAULT_A)));
	struct pdu pdu;

	(void)state;
	target.images[0].hold = true;
	say_command(i, 0xc0, 0, TAG, cdb_of(0x28, 0, 1), 512, NULL, 0);
	manage(i, 1, 0, TAG, true);
	hear_nothing(i);
	fake_release(&target.images[0]);
	run(i);
	pdu = hear_one(i, ISCSI_TASK_MANAGEMENT_RESPONSE);
	assert_int_equal(pdu.bhs[2], 0);
	hear_nothing(i);
	assert_int_equal(manage(i, 1, 0, TAG, false), 1); /* no such task */
	assert_int_equal(manage(i, 2, 9, 0, false), 2);   /* no such unit */
	assert_int_equal(manage(i, 8, 0, TAG, false), 4); /* reassign */
	assert_int_equal(manage(i, 99, 0, 0, false), 5);
	/* One that waits for its data: they are skipped afterwards. */
	say_command(i, 0xa0, 0, TAG, cdb_of(0x2a, 0, 8), 4096, NULL, 0);
	pdu = hear_r2t(i, 0, 4096);
	assert_int_equal(manage(i, 1, 0, TAG, false), 0);
	say_data(i, iscsi_get(pdu.bhs, ISCSI_AT_TTT, 4), 0, 0, 4096, true);
	hear_nothing(i);
	assert_false(i->closed);
	assert_int_equal(target.images[0].data[1], 0);
	hang_up(i);
}

/* A reset of one unit leaves tasks of another one alone. */
static void
test_reset_is_of_one_unit(void **state)
{
	struct initiator *i;
	struct pdu pdu;
	static const uint8_t test_ready[16];

	(void)state;
	add_export("p/a", STORE, 0);
	add_export("p/b", STORE, 1);
	i = ready(KEYS(NORMAL(STORE)));
	clear_attentions(i, 1);
	say_command(i, 0xa0, 1, TAG, cdb_of(0x2a, 0, 8), 4096, NULL, 0);
	pdu = hear_r2t(i, 0, 4096);
	assert_int_equal(manage(i, 5, 0, 0, false), 0);
	say_data(i, iscsi_get(pdu.bhs, ISCSI_AT_TTT, 4), 0, 0, 4096, true);
	hear_good(i);
	assert_memory_equal(target.images[1].data, pattern, 4096);
	say_command(i, 0x80, 0, 1, test_ready, 0, NULL, 0);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_UNIT_ATTENTION, SCSI_ASC_POWER_ON_OR_RESET);
	hang_up(i);
}

/* Tasks that another initiator aborted are answered (TAS), our own are not. */
static void
test_others_tasks_are_answered(void **state)
{
	static const unsigned functions[] = { 4, 5 }; /* CLEAR TASK SET, LOGICAL UNIT RESET */
	static const uint8_t test_ready[16];

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(functions); k++) {
		struct initiator *a = ready(KEYS(NORMAL(DEFAULT_A)));
		struct initiator *b = ready(
		    KEYS("InitiatorName=iqn.other\0SessionType=Normal\0TargetName=" DEFAULT_A));
		struct pdu pdu;

		target.images[0].hold = true;
		say_command(a, 0xc0, 0, TAG, cdb_of(0x28, 0, 1), 512, NULL, 0);
		say_command(b, 0xc0, 0, TAG, cdb_of(0x28, 0, 1), 512, NULL, 0);
		manage(a, functions[k], 0, 0, true);
		hear_nothing(a);
		fake_release(&target.images[0]);
		run(a);
		run(b);
		pdu = hear_one(a, ISCSI_TASK_MANAGEMENT_RESPONSE);
		assert_int_equal(pdu.bhs[2], 0);
		hear_nothing(a);
		pdu = hear_one(b, ISCSI_RESPONSE);
		assert_int_equal(pdu.bhs[3], SCSI_TASK_ABORTED);
		say_command(b, 0x80, 0, 1, test_ready, 0, NULL, 0);
		pdu = hear_one(b, ISCSI_RESPONSE);
		if (functions[k] == 5)
			assert_sense(&pdu, SCSI_UNIT_ATTENTION, SCSI_ASC_POWER_ON_OR_RESET);
		else
			assert_int_equal(pdu.bhs[3], SCSI_GOOD);
		hang_up(a);
		hang_up(b);
	}
}

/* The initiator vanishes with a write in flight: it ends, and everything is given back. */
static void
test_vanishing_with_tasks_open(void **state)
{
	struct initiator *i = ready(KEYS(NORMAL(DEFAULT_A)));

	(void)state;
	target.images[0].hold = true;
	say_command(i, 0xa0, 0, 1, cdb_of(0x2a, 0, 8), 4096, pattern, 4096);
	say_command(i, 0xa0, 0, 2, cdb_of(0x2a, 8, 8), 4096, NULL, 0); /* waits for data */
	iscsi_session_end(&i->session);
	run(i);
	assert_false(i->idle);
	fake_release(&target.images[0]);
	run(i);
	assert_true(i->idle);
	i->ended = true;
	iscsi_session_fini(&i->session);
	hang_up(i);
}

/* --- what the target says --- */

static void
test_ping(void **state)
{
	struct initiator *i = ready(KEYS(NORMAL(DEFAULT_A)));
	uint8_t bhs[ISCSI_BHS_BYTES] = { ISCSI_NOP_OUT | ISCSI_IMMEDIATE, 0x80 };
	struct pdu pdu;
	uint32_t stat_sn;

	(void)state;
	iscsi_session_ping(&i->session);
	run(i);
	pdu = hear_one(i, ISCSI_NOP_IN);
	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_TAG, 4), ISCSI_NO_TAG);
	assert_int_not_equal(iscsi_get(pdu.bhs, ISCSI_AT_TTT, 4), ISCSI_NO_TAG);
	stat_sn = iscsi_get(pdu.bhs, ISCSI_AT_STAT_SN, 4);
	assert_true(i->session.pinged);
	iscsi_put(bhs, ISCSI_AT_TAG, 4, ISCSI_NO_TAG);
	iscsi_put(bhs, ISCSI_AT_TTT, 4, iscsi_get(pdu.bhs, ISCSI_AT_TTT, 4));
	iscsi_put(bhs, ISCSI_AT_CMD_SN, 4, i->cmd_sn);
	say_pdu(i, bhs, NULL, 0);
	assert_false(i->session.pinged);
	hear_nothing(i);
	/* One of the initiator's is answered with its data, and has the number that was named. */
	iscsi_put(bhs, ISCSI_AT_TAG, 4, 5);
	iscsi_put(bhs, ISCSI_AT_TTT, 4, ISCSI_NO_TAG);
	say_pdu(i, bhs, "hello", 5);
	pdu = hear_one(i, ISCSI_NOP_IN);
	assert_int_equal(pdu.data_bytes, 5);
	assert_memory_equal(pdu.data, "hello", 5);
	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_STAT_SN, 4), stat_sn);
	hang_up(i);
}

/* A resized volume is said at once, and to the next command. */
static void
test_changed_capacity_is_said(void **state)
{
	struct initiator *i = ready(KEYS(NORMAL(DEFAULT_A)));
	static const uint8_t test_ready[16];
	struct pdu pdu;

	(void)state;
	iscsi_session_poll(&i->session);
	run(i);
	hear_nothing(i);
	fake_resize(&target.images[0], 512 << 10);
	iscsi_session_poll(&i->session);
	run(i);
	pdu = hear_one(i, ISCSI_ASYNC);
	assert_int_equal(pdu.bhs[36], 0);
	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_TAG, 4), ISCSI_NO_TAG);
	assert_int_equal(iscsi_get(pdu.data, 0, 2), pdu.data_bytes - 2);
	assert_int_equal(pdu.data[2 + 2] & 15, SCSI_UNIT_ATTENTION);
	assert_int_equal(pdu.data[2 + 12] << 8 | pdu.data[2 + 13], SCSI_ASC_CAPACITY_CHANGED);
	iscsi_session_poll(&i->session);
	run(i);
	hear_nothing(i);
	say_command(i, 0x80, 0, 1, test_ready, 0, NULL, 0);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_UNIT_ATTENTION, SCSI_ASC_CAPACITY_CHANGED);
	fake_resize(&target.images[0], 1 << 20);
	hang_up(i);
}

/* --- copies between units --- */

/* The unit's NAA designator as a target descriptor. */
static void
put_target(struct initiator *i, uint8_t lun, uint8_t descriptor[32])
{
	uint8_t cdb[16] = { 0x12, 1, 0x83, 0x01, 0x00 };
	struct pdu pdu;

	say_command(i, 0xc0, lun, 1, cdb, 256, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	memset(descriptor, 0, 32);
	descriptor[0] = 0xe4;
	memcpy(descriptor + 4, pdu.data + 4, 4 + 8);
	iscsi_put(descriptor, 29, 3, 512);
}

static void
put_segment(uint8_t segment[28], unsigned from, unsigned to, uint32_t blocks, uint32_t source,
    uint32_t destination)
{
	memset(segment, 0, 28);
	segment[0] = 0x02;
	segment[3] = 24;
	segment[5] = (uint8_t)from;
	segment[7] = (uint8_t)to;
	iscsi_put(segment, 10, 2, blocks);
	iscsi_put(segment, 16, 4, source);
	iscsi_put(segment, 24, 4, destination);
}

static struct pdu
copy(struct initiator *i, const uint8_t targets[64], const uint8_t *segments, unsigned count)
{
	uint8_t list[16 + 64 + 8 * 28] = { 42 };
	uint8_t cdb[16] = { 0x83 };
	uint32_t bytes = 16 + 64 + count * 28;

	iscsi_put(list, 2, 2, 64);
	iscsi_put(list, 8, 4, count * 28);
	memcpy(list + 16, targets, 64);
	memcpy(list + 80, segments, count * 28);
	iscsi_put(cdb, 10, 4, bytes);
	say_command(i, 0xa0, 0, TAG, cdb, bytes, list, bytes);
	return hear_one(i, ISCSI_RESPONSE);
}

static void
test_copy_between_units(void **state)
{
	uint8_t targets[64], segments[2 * 28];
	uint8_t cdb[16] = { 0x84, 0, 42, [13] = 64 };
	struct initiator *i, *other;
	struct pdu pdu;

	(void)state;
	add_export("p/a", STORE, 0);
	add_export("p/b", STORE, 1);
	add_allow(add_export("p/c", STORE, 2), "iqn.other");
	i = ready(KEYS(NORMAL(STORE)));
	clear_attentions(i, 1);
	memcpy(target.images[0].data + 1536, pattern, 100 * 512);
	put_target(i, 0, targets);
	put_target(i, 1, targets + 32);
	/* Not aligned alike; then from there back. */
	put_segment(segments, 0, 1, 100, 3, 10);
	put_segment(segments + 28, 1, 0, 2, 11, 1024);
	pdu = copy(i, targets, segments, 2);
	assert_int_equal(pdu.bhs[3], SCSI_GOOD);
	assert_memory_equal(target.images[1].data + 5120, pattern, 100 * 512);
	assert_memory_equal(target.images[0].data + 1024 * 512, pattern + 512, 1024);
	say_command(i, 0xc0, 0, 1, cdb, 64, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(pdu.data[4], 1);
	assert_int_equal(iscsi_get(pdu.data, 5, 2), 2);
	assert_int_equal(iscsi_get(pdu.data, 8, 4), 51); /* KiB */
	/* Beyond the end of the destination: what came before it is copied. */
	put_segment(segments + 28, 0, 1, 8, 0, 4095);
	pdu = copy(i, targets, segments, 2);
	assert_sense(&pdu, SCSI_COPY_ABORTED, 0);
	/* A unit of another initiator cannot be named. */
	other = connect_to();
	say_login(other, OPERATIONAL | TO_FULL,
	    KEYS("InitiatorName=iqn.other\0SessionType=Normal\0TargetName=" STORE));
	hear_login(other, ISCSI_LOGIN_SUCCESS);
	other->cmd_sn = 0;
	clear_attentions(other, 2);
	put_target(other, 2, targets + 32);
	put_segment(segments, 0, 1, 1, 0, 0);
	pdu = copy(i, targets, segments, 1);
	assert_sense(&pdu, SCSI_COPY_ABORTED, SCSI_ASC_COPY_TARGET_UNREACHABLE);
	assert_int_equal(target.images[2].data[0], 0);
	hang_up(other);
	/* An error of the engine. */
	put_target(i, 1, targets + 32);
	target.images[1].fail = -EIO;
	pdu = copy(i, targets, segments, 1);
	assert_sense(&pdu, SCSI_COPY_ABORTED, SCSI_ASC_THIRD_PARTY_FAILURE);
	target.images[1].fail = -ENOSPC;
	pdu = copy(i, targets, segments, 1);
	assert_sense(&pdu, SCSI_DATA_PROTECT, SCSI_ASC_SPACE_ALLOCATION_FAILED);
	target.images[1].fail = 0;
	hang_up(i);
}

/* Another's reservation of the destination holds for copies, too. */
static void
test_copy_honours_reservations(void **state)
{
	uint8_t targets[64], segments[28];
	static const uint8_t reserve[16] = { 0x16 };
	struct initiator *i, *other;
	struct pdu pdu;

	(void)state;
	add_export("p/a", STORE, 0);
	add_export("p/b", STORE, 1);
	i = ready(KEYS(NORMAL(STORE)));
	clear_attentions(i, 1);
	put_target(i, 0, targets);
	put_target(i, 1, targets + 32);
	put_segment(segments, 0, 1, 1, 0, 0);
	other = connect_to();
	say_login(other, OPERATIONAL | TO_FULL,
	    KEYS("InitiatorName=iqn.other\0SessionType=Normal\0TargetName=" STORE));
	hear_login(other, ISCSI_LOGIN_SUCCESS);
	other->cmd_sn = 0;
	clear_attentions(other, 1);
	say_command(other, 0x80, 1, 1, reserve, 0, NULL, 0);
	hear_good(other);
	pdu = copy(i, targets, segments, 1);
	assert_int_equal(pdu.bhs[3], SCSI_RESERVATION_CONFLICT);
	hang_up(other); /* and with it the reservation goes */
	pdu = copy(i, targets, segments, 1);
	assert_int_equal(pdu.bhs[3], SCSI_GOOD);
	hang_up(i);
}

/* --- names --- */

/* A volume and its snapshot must not pass for two paths to one disk. */
static void
test_snapshot_has_names_of_its_own(void **state)
{
	uint8_t of_volume[32], of_snapshot[32];
	struct initiator *i;

	(void)state;
	fake_add(&target, "p/a@s", 1 << 20, true);
	i = ready(KEYS(NORMAL(DEFAULT_A)));
	put_target(i, 0, of_volume);
	hang_up(i);
	fake_same_uuid = true;
	i = ready(KEYS(NORMAL(DEFAULT_A ":40s")));
	put_target(i, 0, of_snapshot);
	hang_up(i);
	fake_same_uuid = false;
	assert_memory_not_equal(of_volume, of_snapshot, sizeof(of_volume));
}

/* What one COMPARE AND WRITE may have is what survives a crash as a whole. */
static void
test_compare_and_write_is_bounded_by_atomic_writes(void **state)
{
	uint8_t limits[16] = { 0x12, 1, 0xb0, 0, 64 };
	uint8_t cdb[16] = { 0x89, [13] = 3 };
	struct initiator *i;
	struct pdu pdu;

	(void)state;
	fake_atomic_bytes_max = 4096 + 1024;
	i = ready(KEYS(NORMAL(DEFAULT_A)));
	say_command(i, 0xc0, 0, 1, limits, 64, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(pdu.data[5], 2);
	say_command(i, 0xa0, 0, TAG, cdb, 3072, pattern, 3072);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	cdb[13] = 1;
	memset(target.images[0].data, pattern[0], 1);
	memcpy(target.images[0].data, pattern, 512);
	say_command(i, 0xa0, 0, TAG, cdb, 1024, pattern, 1024);
	hear_good(i);
	assert_memory_equal(target.images[0].data, pattern + 512, 512);
	fake_atomic_bytes_max = FAKE_ATOMIC_BYTES_MAX;
	hang_up(i);
}

/* Volumes of both block sizes are units of one target: each counts in its own, and copies agree. */
static void
test_blocks_of_4096(void **state)
{
	uint8_t capacity[16] = { 0x25 };
	uint8_t limits[16] = { 0x12, 1, 0xb0, 0, 64 };
	uint8_t sense[16] = { 0x5a, 0x10, 0x08, [8] = 64 };
	uint8_t write[16] = { 0x2a, [5] = 2, [8] = 1 };
	uint8_t unmap[16] = { 0x42, [8] = 24 };
	uint8_t list[24] = { 0, 22, 0, 16, [15] = 2, [19] = 1 };
	uint8_t targets[64], segments[28];
	struct initiator *i;
	struct pdu pdu;

	(void)state;
	target.images[1].block_bytes = 4096;
	add_export("p/a", STORE, 0);
	add_export("p/b", STORE, 1);
	i = ready(KEYS(NORMAL(STORE)));
	clear_attentions(i, 1);
	say_command(i, 0xc0, 1, 1, capacity, 8, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_memory_equal(pdu.data, ((uint8_t[]){ 0, 0, 1, 0xff, 0, 0, 0x10, 0 }), 8);
	say_command(i, 0xc0, 1, 1, limits, 64, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(pdu.data[5], 255);                  /* COMPARE AND WRITE */
	assert_int_equal(pdu.data[7], 1);                    /* optimal granularity */
	assert_int_equal(iscsi_get(pdu.data, 8, 4), 8192);   /* 32 MiB */
	assert_int_equal(iscsi_get(pdu.data, 28, 4), 1);     /* granularity of UNMAP */
	assert_int_equal(iscsi_get(pdu.data, 40, 4), 65535); /* WRITE SAME */
	assert_int_equal(iscsi_get(pdu.data, 44, 4), 255);   /* WRITE ATOMIC */
	say_command(i, 0xc0, 1, 1, sense, 64, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(iscsi_get(pdu.data, 12, 4), 512); /* the long block descriptor */
	assert_int_equal(iscsi_get(pdu.data, 20, 4), 4096);
	say_command(i, 0xa0, 1, TAG, write, 4096, pattern, 4096);
	hear_good(i);
	assert_memory_equal(target.images[1].data + 8192, pattern, 4096);

	/* Eight blocks there are one here; three are a part of one. */
	put_target(i, 0, targets);
	put_target(i, 1, targets + 32);
	put_segment(segments, 1, 0, 1, 2, 8);
	pdu = copy(i, targets, segments, 1);
	assert_int_equal(pdu.bhs[3], SCSI_GOOD);
	assert_memory_equal(target.images[0].data + 4096, pattern, 4096);
	put_segment(segments, 0, 1, 3, 0, 0);
	pdu = copy(i, targets, segments, 1);
	assert_sense(&pdu, SCSI_COPY_ABORTED, SCSI_ASC_INVALID_FIELD_IN_PARAMETERS);

	say_command(i, 0xa0, 1, TAG, unmap, 24, list, 24);
	hear_good(i);
	assert_int_equal(target.images[1].data[8192], 0);
	assert_int_equal(target.images[1].data[8192 + 4095], 0);
	hang_up(i);
}

static void
test_there_are_no_defects(void **state)
{
	uint8_t ten[16] = { 0x37, 0, 0x0d, [8] = 64 };
	uint8_t twelve[16] = { 0xb7, 0x1d, [9] = 64 };
	struct initiator *i = ready(KEYS(NORMAL(DEFAULT_A)));
	struct pdu pdu;

	(void)state;
	say_command(i, 0xc0, 0, 1, ten, 64, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(pdu.data_bytes, 4);
	assert_memory_equal(pdu.data, ((uint8_t[]){ 0, 0x0d, 0, 0 }), 4);
	say_command(i, 0xc0, 0, 1, twelve, 64, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(pdu.data_bytes, 8);
	assert_memory_equal(pdu.data, ((uint8_t[]){ 0, 0x1d, 0, 0, 0, 0, 0, 0 }), 8);
	hang_up(i);
}

/* It was changed while nobody was there, though the unit stayed for a registration. */
static void
test_block_size_is_read_anew(void **state)
{
	uint8_t out[16] = { 0x5f, [8] = 24 };
	uint8_t list[24] = { [15] = 7 };
	uint8_t capacity[16] = { 0x25 };
	struct initiator *i;
	struct pdu pdu;

	(void)state;
	i = ready(KEYS(NORMAL(DEFAULT_A)));
	say_command(i, 0xa0, 0, TAG, out, 24, list, 24);
	hear_good(i);
	hang_up(i);
	target.images[0].block_bytes = 4096;
	i = ready(KEYS(NORMAL(DEFAULT_A)));
	say_command(i, 0xc0, 0, 1, capacity, 8, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_memory_equal(pdu.data, ((uint8_t[]){ 0, 0, 0, 0xff, 0, 0, 0x10, 0 }), 8);
	hang_up(i);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_write_of_all_kinds_of_data),
		TEST(test_data_against_the_agreement),
		TEST(test_wrong_data_sn_fails_the_command),
		TEST(test_wrong_digests_end_the_connection),
		TEST(test_residuals),
		TEST(test_command_window),
		TEST(test_abort_in_flight),
		TEST(test_reset_is_of_one_unit),
		TEST(test_others_tasks_are_answered),
		TEST(test_vanishing_with_tasks_open),
		TEST(test_ping),
		TEST(test_changed_capacity_is_said),
		TEST(test_copy_between_units),
		TEST(test_copy_honours_reservations),
		TEST(test_blocks_of_4096),
		TEST(test_block_size_is_read_anew),
		TEST(test_there_are_no_defects),
		TEST(test_snapshot_has_names_of_its_own),
		TEST(test_compare_and_write_is_bounded_by_atomic_writes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
