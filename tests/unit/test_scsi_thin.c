/* SPDX-License-Identifier: Apache-2.0 */
/* What an initiator is told of the pool's room: thresholds, and how much there is. */
#include "tests/unit/iscsi_conversation.h"

#include "frontends/scsi/scsi_internal.h"

#define OTHER "InitiatorName=iqn.other\0SessionType=Normal\0TargetName=" DEFAULT_A

static int
setup(void **state)
{
	world_setup(state);
	target.space = (struct volume_space){
		.usable_bytes = 1000 * MIB,
		.available_bytes = 400 * MIB + 5,
		.warn_percent = { 80, 90 },
	};
	return 0;
}

static struct initiator *
enter(const char *keys, size_t keys_bytes)
{
	struct initiator *i = log_in(keys, keys_bytes);

	clear_attentions(i, 0);
	return i;
}

/* Of the next command; 0: none. */
static unsigned
attention(struct initiator *i)
{
	static const uint8_t test_ready[16];
	struct pdu pdu;

	say_command(i, 0x80, 0, 1, test_ready, 0, NULL, 0);
	pdu = hear_one(i, ISCSI_RESPONSE);
	if (pdu.bhs[3] == SCSI_GOOD)
		return 0;
	assert_int_equal(pdu.data[4] & 15, SCSI_UNIT_ATTENTION);
	return pdu.data[14] << 8 | pdu.data[15];
}

static struct pdu
answer(struct initiator *i, const uint8_t cdb[16])
{
	say_command(i, 0xc0, 0, 1, cdb, 255, NULL, 0);
	return hear_one(i, ISCSI_DATA_IN);
}

static void
test_thresholds_are_told(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A))), *b = enter(KEYS(OTHER));

	(void)state;
	assert_int_equal(attention(a), 0);
	target.space.warned_percent = 80;
	assert_int_equal(attention(a), SCSI_ASC_THIN_THRESHOLD);
	assert_int_equal(attention(a), 0);
	assert_int_equal(attention(b), SCSI_ASC_THIN_THRESHOLD); /* each of them, once */
	assert_int_equal(attention(b), 0);
	target.space.warned_percent = 90;
	assert_int_equal(attention(b), SCSI_ASC_THIN_THRESHOLD);
	target.space.warned_percent = 80; /* better is no news */
	assert_int_equal(attention(b), 0);
	assert_int_equal(attention(a), SCSI_ASC_THIN_THRESHOLD);
	assert_int_equal(attention(a), 0);
	target.space.warned_percent = 0;
	assert_int_equal(attention(a), 0);
	target.space.warned_percent = 80;
	assert_int_equal(attention(a), SCSI_ASC_THIN_THRESHOLD);
	hang_up(a);
	hang_up(b);
	a = enter(KEYS(NORMAL(DEFAULT_A))); /* it is so already */
	assert_int_equal(attention(a), 0);
	hang_up(a);
}

static void
test_log_page(void **state)
{
	static const uint8_t supported[] = { 0x00, 0, 0, 3, 0x00, 0x0c, 0x2f };
	static const uint8_t expected[] = { 0x0c, 0, 0, 24, 0, 1, 0x03, 8, 0, 0, 0x01, 0x90, 0x02,
		0, 0, 0, 0, 2, 0x03, 8, 0, 0, 0x02, 0x58, 0x02, 0, 0, 0 };
	uint8_t cdb[16] = { 0x4d, 0, 0x40, [8] = 255 };
	struct initiator *i = enter(KEYS(NORMAL(DEFAULT_A)));
	struct pdu pdu = answer(i, cdb);

	(void)state;
	assert_int_equal(pdu.data_bytes, sizeof(supported));
	assert_memory_equal(pdu.data, supported, sizeof(supported));
	cdb[2] = 0x4c;
	pdu = answer(i, cdb);
	assert_int_equal(pdu.data_bytes, sizeof(expected));
	assert_memory_equal(pdu.data, expected, sizeof(expected));
	cdb[6] = 2; /* from the second parameter on */
	pdu = answer(i, cdb);
	assert_int_equal(pdu.data_bytes, 16);
	assert_int_equal(pdu.data[3], 12);
	assert_memory_equal(pdu.data + 4, expected + 16, 12);
	cdb[6] = 3;
	say_command(i, 0xc0, 0, 1, cdb, 255, NULL, 0);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	cdb[6] = 0;
	cdb[2] = 0x6f;
	pdu = answer(i, cdb);
	assert_int_equal(pdu.data_bytes, 12);
	hang_up(i);
}

static void
test_mode_page(void **state)
{
	static const uint8_t page[32] = { 0x5c, 0x02, 0, 28, [16] = 0x80, 1, 0, 0, 0, 0, 0, 200,
		0x80, 1, 0, 0, 0, 0, 0, 100 };
	uint8_t sense[16] = { 0x1a, 0x08, 0x1c, 0x02, 255 };
	uint8_t select[16] = { 0x15, 0x10, [4] = 36 };
	uint8_t provisioning[16] = { 0x12, 1, 0xb2, 0, 255 };
	uint8_t list[36] = { 0 };
	struct initiator *i = enter(KEYS(NORMAL(DEFAULT_A)));
	struct pdu pdu = answer(i, sense);

	(void)state;
	assert_int_equal(pdu.data_bytes, 4 + sizeof(page));
	assert_memory_equal(pdu.data + 4, page, sizeof(page));
	sense[3] = 0;
	assert_int_equal(answer(i, sense).data_bytes, 4 + 12);
	sense[3] = 0xff; /* with its subpages */
	assert_int_equal(answer(i, sense).data_bytes, 4 + 12 + 32);
	sense[2] = 0x3f;
	assert_int_equal(answer(i, sense).data_bytes, 4 + 20 + 12 + 12 + 32);
	sense[3] = 0;
	assert_int_equal(answer(i, sense).data_bytes, 4 + 20 + 12 + 12);
	sense[3] = 3;
	say_command(i, 0xc0, 0, 1, sense, 255, NULL, 0);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	/* As it is it may be set; nothing of it may be changed. */
	memcpy(list + 4, page, sizeof(page));
	say_command(i, 0xa0, 0, 1, select, 36, list, 36);
	assert_int_equal(hear_one(i, ISCSI_RESPONSE).bhs[3], SCSI_GOOD);
	list[4 + 23]--;
	say_command(i, 0xa0, 0, 1, select, 36, list, 36);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_PARAMETERS);
	assert_int_equal(iscsi_get(pdu.data, 2 + 16, 2), 4 + 23);
	list[4 + 23]++;
	list[4 + 3]++; /* longer than the list */
	say_command(i, 0xa0, 0, 1, select, 36, list, 36);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
	pdu = answer(i, provisioning);
	assert_int_equal(pdu.data[4], 11); /* sets of 2^11 blocks */
	hang_up(i);
	target.images[0].block_bytes = 4096;
	i = enter(KEYS(NORMAL(DEFAULT_A)));
	assert_int_equal(answer(i, provisioning).data[4], 8);
	hang_up(i);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_thresholds_are_told),
		TEST(test_log_page),
		TEST(test_mode_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
