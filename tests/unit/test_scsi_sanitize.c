/* SPDX-License-Identifier: Apache-2.0 */
/* SANITIZE as initiators see it: what it empties or overwrites, what waits for it, and what ends
 * it. */
#include "tests/unit/iscsi_conversation.h"

#include "frontends/scsi/scsi_internal.h"

#define VOLUME_C "iqn.2026-11.io.quarry:p.c" /* of 3 MiB */
#define OTHER "InitiatorName=iqn.other\0SessionType=Normal\0TargetName=" VOLUME_C
#define TAG 0x1234

enum action {
	SANITIZE_OVERWRITE = 0x01,
	SANITIZE_BLOCK_ERASE = 0x02,
	SANITIZE_EXIT_FAILURE = 0x1f,
	SANITIZE_IMMED = 0x80,
	SANITIZE_AUSE = 0x20,
	SANITIZE_INVERT = 0x80,
};

static struct fake_image *image;

static int
setup(void **state)
{
	world_setup(state);
	image = &target.images[2];
	memset(image->data, 'a', image->size_bytes);
	for (size_t block = 0; block < image->size_bytes / 4096; block++)
		bitmap_set(image->mapped, block);
	return 0;
}

static struct initiator *
enter(const char *keys, size_t keys_bytes)
{
	struct initiator *i = log_in(keys, keys_bytes);

	clear_attentions(i, 0);
	return i;
}

/* The unit is not ready: there is one attention. */
static struct initiator *
enter_meanwhile(const char *keys, size_t keys_bytes)
{
	static const uint8_t test_ready[16];
	struct initiator *i = log_in(keys, keys_bytes);
	struct pdu pdu;

	say_command(i, 0x80, 0, TAG, test_ready, 0, NULL, 0);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_UNIT_ATTENTION, SCSI_ASC_POWER_ON_OR_RESET);
	return i;
}

static void
say_sanitize(struct initiator *i, unsigned action, const void *list, size_t list_bytes)
{
	uint8_t cdb[16] = { 0x48, (uint8_t)action };

	put_be16(cdb + 7, list_bytes);
	say_command(
	    i, list_bytes ? 0xa0 : 0x80, 0, TAG, cdb, (uint32_t)list_bytes, list, list_bytes);
}

static void
say_overwrite(struct initiator *i, unsigned flags, unsigned count, const char *pattern)
{
	uint8_t list[512 + 4] = { (uint8_t)count };
	size_t pattern_bytes = strlen(pattern);

	put_be16(list + 2, pattern_bytes);
	memcpy(list + 4, pattern, pattern_bytes);
	say_sanitize(i, SANITIZE_OVERWRITE | flags, list, 4 + pattern_bytes);
}

static uint8_t
hear_status(struct initiator *i)
{
	return hear_one(i, ISCSI_RESPONSE).bhs[3];
}

static void
hear_sense(struct initiator *i, unsigned key, unsigned asc)
{
	struct pdu pdu = hear_one(i, ISCSI_RESPONSE);

	assert_sense(&pdu, key, asc);
}

static void
say_write(struct initiator *i)
{
	static const uint8_t cdb[16] = { 0x2a, [8] = 1 };
	static const uint8_t block[512] = { 1 };

	say_command(i, 0xa0, 0, TAG, cdb, 512, block, 512);
}

static void
assert_in_progress(struct initiator *i)
{
	static const uint8_t test_ready[16];

	say_command(i, 0x80, 0, TAG, test_ready, 0, NULL, 0);
	hear_sense(i, SCSI_NOT_READY, SCSI_ASC_SANITIZE_IN_PROGRESS);
	say_write(i);
	hear_sense(i, SCSI_NOT_READY, SCSI_ASC_SANITIZE_IN_PROGRESS);
	say_sanitize(i, SANITIZE_BLOCK_ERASE, NULL, 0);
	hear_sense(i, SCSI_NOT_READY, SCSI_ASC_SANITIZE_IN_PROGRESS);
}

/* Fixed sense data. */
static const uint8_t *
request_sense(struct initiator *i)
{
	static const uint8_t cdb[16] = { 0x03, [4] = 18 };

	say_command(i, 0xc0, 0, TAG, cdb, 18, NULL, 0);
	return hear_one(i, ISCSI_DATA_IN).data;
}

/* What is held is done; what comes of it is held again. */
static void
step(struct initiator *i)
{
	fake_release(image);
	image->hold = true;
	run(i);
}

static void
assert_all(uint8_t byte, bool mapped)
{
	for (uint64_t at = 0; at < image->size_bytes; at++)
		assert_int_equal(image->data[at], byte);
	for (uint64_t block = 0; block < image->size_bytes / 4096; block++)
		assert_true(bitmap_test(image->mapped, block) == mapped);
}

/* It waits for what was there before, nothing comes in meanwhile, and it is answered when all is
 * durable. */
static void
test_block_erase(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(VOLUME_C))), *b = enter(KEYS(OTHER));

	(void)state;
	image->hold = true;
	say_write(b);
	say_sanitize(a, SANITIZE_BLOCK_ERASE, NULL, 0);
	hear_nothing(a);
	assert_in_progress(a);
	assert_in_progress(b);
	step(b); /* the write */
	assert_int_equal(hear_status(b), SCSI_GOOD);
	assert_int_equal(image->data[0], 1);
	step(a); /* ZERO */
	assert_all(0, false);
	hear_nothing(a);
	assert_int_equal(image->flushes, 0);
	step(a); /* FLUSH */
	assert_int_equal(image->flushes, 1);
	assert_int_equal(hear_status(a), SCSI_GOOD);
	image->hold = false;
	say_write(b);
	assert_int_equal(hear_status(b), SCSI_GOOD);
	hang_up(a);
	hang_up(b);
}

/* Emptied first, durably: then IMMED is answered. */
static void
test_overwrite_immediate(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(VOLUME_C)));
	const uint8_t *sense;

	(void)state;
	image->hold = true;
	say_overwrite(a, SANITIZE_IMMED, 1, "\x5a");
	step(a);
	hear_nothing(a);
	step(a);
	assert_int_equal(hear_status(a), SCSI_GOOD);
	assert_all(0, false);
	assert_in_progress(a);
	step(a);
	step(a);
	sense = request_sense(a);
	assert_int_equal(sense[2], SCSI_NOT_READY);
	assert_int_equal(sense[12] << 8 | sense[13], SCSI_ASC_SANITIZE_IN_PROGRESS);
	assert_int_equal(sense[15], 0x80);
	assert_int_equal(sense[16] << 8 | sense[17], 0xffff); /* the last of three is under way */
	step(a);
	assert_all(0x5a, true);
	assert_int_equal(request_sense(a)[2], SCSI_NOT_READY);
	step(a);
	assert_int_equal(request_sense(a)[2], SCSI_NO_SENSE);
	hang_up(a);
}

static void
test_patterns(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(VOLUME_C)));

	(void)state;
	say_overwrite(a, 0, 3, "abc");
	assert_int_equal(hear_status(a), SCSI_GOOD);
	for (uint64_t block = 0; block < image->size_bytes; block += 512)
		for (unsigned at = 0; at < 512; at++)
			assert_int_equal(image->data[block + at], "abc"[at % 3]);
	say_overwrite(a, 0, SANITIZE_INVERT | 3, "\x0f");
	assert_int_equal(hear_status(a), SCSI_GOOD);
	assert_all(0x0f, true);
	say_overwrite(a, 0, SANITIZE_INVERT | 2, "\x0f");
	assert_int_equal(hear_status(a), SCSI_GOOD);
	assert_all(0xf0, true);
	hang_up(a);
}

static void
test_parameters(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(VOLUME_C)));
	uint8_t list[4 + 513] = { 1, 0, 0, 1 };

	(void)state;
	for (size_t len = 0; len <= 4; len++) {
		say_sanitize(a, SANITIZE_OVERWRITE, list, len);
		hear_sense(a, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	}
	say_sanitize(a, SANITIZE_OVERWRITE, list, 4 + 513);
	hear_sense(a, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	list[3] = 2; /* longer than what came */
	say_sanitize(a, SANITIZE_OVERWRITE, list, 4 + 1);
	hear_sense(a, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	list[3] = 0;
	say_sanitize(a, SANITIZE_OVERWRITE, list, 4 + 1);
	hear_sense(a, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	list[3] = 1;
	list[0] = 0; /* never */
	say_sanitize(a, SANITIZE_OVERWRITE, list, 4 + 1);
	hear_sense(a, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	list[0] = 0x21; /* TEST */
	say_sanitize(a, SANITIZE_OVERWRITE, list, 4 + 1);
	hear_sense(a, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	say_sanitize(a, SANITIZE_BLOCK_ERASE, list, 8);
	hear_sense(a, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	say_sanitize(a, 0x03, NULL, 0); /* CRYPTO ERASE */
	hear_sense(a, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	say_sanitize(a, SANITIZE_BLOCK_ERASE | 0x40, NULL, 0); /* ZNR */
	hear_sense(a, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	assert_all('a', true);
	hang_up(a);
}

static void
say_reset(struct initiator *i)
{
	uint8_t bhs[ISCSI_BHS_BYTES] = { ISCSI_TASK_MANAGEMENT | ISCSI_IMMEDIATE, 0x80 | 5 };

	iscsi_put(bhs, ISCSI_AT_CMD_SN, 4, i->cmd_sn);
	say_pdu(i, bhs, NULL, 0);
}

/* A reset, and the session's end, take the command, and not what it began. */
static void
test_it_goes_on(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(VOLUME_C))), *b;

	(void)state;
	image->hold = true;
	say_overwrite(a, 0, 1, "\x5a");
	say_reset(a);
	hear_nothing(a);
	step(a);
	assert_int_equal(
	    hear_one(a, ISCSI_TASK_MANAGEMENT_RESPONSE).bhs[2], 0); /* and no other answer */
	hang_up(a);
	assert_int_equal(image->open_now, 1);
	b = enter_meanwhile(KEYS(OTHER));
	assert_in_progress(b);
	for (unsigned k = 0; k < 5; k++) /* FLUSH, pieces, FLUSH */
		step(b);
	assert_all(0x5a, true);
	assert_int_equal(image->open_now, 1); /* b's */
	image->hold = false;
	say_write(b);
	assert_int_equal(hear_status(b), SCSI_GOOD);
	hang_up(b);
}

/* With nobody there at its end; and stopped with the daemon. */
static void
test_it_ends_alone(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(VOLUME_C)));

	(void)state;
	say_overwrite(a, SANITIZE_IMMED, 1, "\x5a");
	hang_up(a);
	while (reactor_run_turn(&reactor, reactor.now_ns))
		;
	assert_false(scsi_port_busy(&scsi));
	assert_true(list_empty(&scsi.units));
	assert_all(0x5a, true);
	a = enter(KEYS(NORMAL(VOLUME_C)));
	image->hold = true;
	say_overwrite(a, SANITIZE_IMMED, 1, "\xa5");
	for (unsigned k = 0; k < 3; k++)
		step(a);
	hang_up(a);
	assert_true(scsi_port_busy(&scsi));
	scsi_port_stop(&scsi);
	fake_release(image);
	while (reactor_run_turn(&reactor, reactor.now_ns))
		;
	assert_false(scsi_port_busy(&scsi));
	assert_int_equal(image->data[0], 0xa5);
	assert_int_equal(image->data[image->size_bytes - 1], 0);
}

/* Until one succeeds, or the failure is left where that was allowed. */
static void
test_failure(void **state)
{
	static const uint8_t test_ready[16];
	struct initiator *a = enter(KEYS(NORMAL(VOLUME_C)));

	(void)state;
	say_sanitize(a, SANITIZE_EXIT_FAILURE, NULL, 0);
	assert_int_equal(hear_status(a), SCSI_GOOD);
	image->fail = -EIO;
	say_sanitize(a, SANITIZE_BLOCK_ERASE, NULL, 0);
	hear_sense(a, SCSI_MEDIUM_ERROR, SCSI_ASC_SANITIZE_FAILED);
	image->fail = 0;
	say_command(a, 0x80, 0, TAG, test_ready, 0, NULL, 0);
	hear_sense(a, SCSI_MEDIUM_ERROR, SCSI_ASC_SANITIZE_FAILED);
	assert_int_equal(request_sense(a)[2], SCSI_MEDIUM_ERROR);
	say_sanitize(a, SANITIZE_EXIT_FAILURE, NULL, 0);
	hear_sense(a, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	hang_up(a);
	a = enter_meanwhile(KEYS(NORMAL(VOLUME_C))); /* it is the unit's */
	say_write(a);
	hear_sense(a, SCSI_MEDIUM_ERROR, SCSI_ASC_SANITIZE_FAILED);
	image->fail = -ENOSPC;
	say_overwrite(a, SANITIZE_AUSE, 1, "\x5a");
	hear_sense(a, SCSI_MEDIUM_ERROR, SCSI_ASC_SANITIZE_FAILED);
	image->fail = 0;
	say_sanitize(a, SANITIZE_EXIT_FAILURE, NULL, 0);
	assert_int_equal(hear_status(a), SCSI_GOOD);
	say_write(a);
	assert_int_equal(hear_status(a), SCSI_GOOD);
	image->fail = -EIO;
	say_sanitize(a, SANITIZE_BLOCK_ERASE, NULL, 0);
	hear_sense(a, SCSI_MEDIUM_ERROR, SCSI_ASC_SANITIZE_FAILED);
	image->fail = 0;
	say_sanitize(a, SANITIZE_BLOCK_ERASE, NULL, 0);
	assert_int_equal(hear_status(a), SCSI_GOOD);
	say_write(a);
	assert_int_equal(hear_status(a), SCSI_GOOD);
	hang_up(a);
}

/* Who may not write may not sanitize. */
static void
test_who_may(void **state)
{
	static const uint8_t reserve[16] = { 0x16 };
	struct initiator *a = enter(KEYS(NORMAL(VOLUME_C))), *b = enter(KEYS(OTHER));

	(void)state;
	say_command(b, 0x80, 0, TAG, reserve, 0, NULL, 0);
	assert_int_equal(hear_status(b), SCSI_GOOD);
	say_sanitize(a, SANITIZE_BLOCK_ERASE, NULL, 0);
	assert_int_equal(hear_status(a), SCSI_RESERVATION_CONFLICT);
	hang_up(b);
	image->readonly = true;
	b = enter(KEYS(OTHER));
	say_sanitize(b, SANITIZE_BLOCK_ERASE, NULL, 0);
	hear_sense(b, SCSI_DATA_PROTECT, SCSI_ASC_WRITE_PROTECTED);
	assert_all('a', true);
	hang_up(a);
	hang_up(b);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_block_erase),
		TEST(test_overwrite_immediate),
		TEST(test_patterns),
		TEST(test_parameters),
		TEST(test_it_goes_on),
		TEST(test_it_ends_alone),
		TEST(test_failure),
		TEST(test_who_may),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
