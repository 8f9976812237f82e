/* SPDX-License-Identifier: Apache-2.0 */
/* Persistent reservations as initiators see them, and what of them is kept over a loss of power. */
#include "tests/unit/iscsi_conversation.h"

#include "frontends/scsi/scsi_internal.h"

#define OTHER "InitiatorName=iqn.other\0SessionType=Normal\0TargetName=" DEFAULT_A
#define TAG 0x1234

enum action {
	REGISTER = 0,
	RESERVE = 1,
	RELEASE = 2,
	CLEAR = 3,
	PREEMPT = 4,
	PREEMPT_AND_ABORT = 5,
	REGISTER_AND_IGNORE = 6,
	APTPL = 1,
	KEY_A = 0xa,
	KEY_B = 0xb,
};

static int
setup(void **state)
{
	world_setup(state);
	target.images[0].keeps_notes = true;
	return 0;
}

static struct initiator *
enter(const char *keys, size_t keys_bytes)
{
	struct initiator *i = log_in(keys, keys_bytes);

	clear_attentions(i, 0);
	return i;
}

static void
say_out(struct initiator *i, enum action action, unsigned type, uint64_t key, uint64_t new_key,
    unsigned flags)
{
	uint8_t cdb[16] = { 0x5f, (uint8_t)action, (uint8_t)type, [8] = 24 };
	uint8_t list[24] = { [20] = (uint8_t)flags };

	put_be64(list, key);
	put_be64(list + 8, new_key);
	say_command(i, 0xa0, 0, TAG, cdb, 24, list, 24);
}

static uint8_t
hear_status(struct initiator *i)
{
	return hear_one(i, ISCSI_RESPONSE).bhs[3];
}

static void
out(struct initiator *i, enum action action, unsigned type, uint64_t key, uint64_t new_key,
    unsigned flags)
{
	say_out(i, action, type, key, new_key, flags);
	assert_int_equal(hear_status(i), SCSI_GOOD);
}

static const uint8_t *
in(struct initiator *i, unsigned action)
{
	uint8_t cdb[16] = { 0x5e, (uint8_t)action, [8] = 255 };

	say_command(i, 0xc0, 0, TAG, cdb, 255, NULL, 0);
	return hear_one(i, ISCSI_DATA_IN).data;
}

static uint8_t
write_of(struct initiator *i)
{
	static const uint8_t cdb[16] = { 0x2a, [8] = 1 };
	static const uint8_t block[512];

	say_command(i, 0xa0, 0, TAG, cdb, 512, block, 512);
	return hear_status(i);
}

/* The attention that awaits the next command. */
static unsigned
attention(struct initiator *i)
{
	static const uint8_t test_ready[16];
	struct pdu pdu;

	say_command(i, 0x80, 0, TAG, test_ready, 0, NULL, 0);
	pdu = hear_one(i, ISCSI_RESPONSE);
	return pdu.bhs[3] == SCSI_GOOD ? 0 : pdu.data[14] << 8 | pdu.data[15];
}

static void
assert_keys(struct initiator *i, unsigned count, uint64_t a, uint64_t b)
{
	const uint8_t *keys = in(i, 0);

	assert_int_equal(read_be(keys + 4, 4), 8 * count);
	if (count > 0)
		assert_int_equal(read_be(keys + 8, 8), a);
	if (count > 1)
		assert_int_equal(read_be(keys + 16, 8), b);
}

/* The daemon starts anew; nobody is connected. */
static void
lose_power(void)
{
	struct buffer_pool *buffers = scsi.buffers;

	scsi_port_fini(&scsi);
	target.import++;
	scsi_port_init(&scsi, &reactor, buffers, &target);
}

static void
test_what_is_kept(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A))), *b = enter(KEYS(OTHER));
	const uint8_t *answer;

	(void)state;
	assert_int_equal(in(a, 2)[2], 0x0d); /* SIP_C, ATP_C, PTPL_C */
	assert_int_equal(in(a, 2)[3], 0x80);
	out(a, REGISTER, 0, 0, KEY_A, APTPL);
	out(b, REGISTER, 0, 0, KEY_B, APTPL);
	out(a, RESERVE, 5, KEY_A, 0, 0);
	assert_int_equal(target.images[0].notes_set, 3);
	assert_int_equal(in(a, 2)[3], 0x81); /* PTPL_A */
	hang_up(a);
	hang_up(b);
	lose_power();
	b = enter(KEYS("InitiatorName=iqn.third\0SessionType=Normal\0TargetName=" DEFAULT_A));
	assert_int_equal(in(b, 2)[3], 0x81);
	assert_keys(b, 2, KEY_A, KEY_B);
	answer = in(b, 1);
	assert_int_equal(read_be(answer, 4), 0); /* a new generation */
	assert_int_equal(read_be(answer + 8, 8), KEY_A);
	assert_int_equal(answer[21], 5);
	assert_int_equal(write_of(b), SCSI_RESERVATION_CONFLICT);
	hang_up(b);
	b = enter(KEYS(OTHER)); /* registered still */
	assert_int_equal(write_of(b), SCSI_GOOD);
	a = enter(KEYS(NORMAL(DEFAULT_A)));
	out(a, RELEASE, 5, KEY_A, 0, 0);
	assert_int_equal(attention(b), SCSI_ASC_RESERVATIONS_RELEASED);
	hang_up(a);
	hang_up(b);
	lose_power();
	a = enter(KEYS(NORMAL(DEFAULT_A)));
	assert_int_equal(read_be(in(a, 1) + 4, 4), 0);
	assert_keys(a, 2, KEY_A, KEY_B);
	out(a, CLEAR, 0, KEY_A, 0, 0);
	assert_null(target.images[0].note);
	assert_int_equal(in(a, 2)[3], 0x80);
	hang_up(a);
}

/* The last APTPL that came with a registration counts for all. */
static void
test_what_is_not_kept(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A)));

	(void)state;
	out(a, REGISTER, 0, 0, KEY_A, 0);
	out(a, RESERVE, 1, KEY_A, 0, APTPL); /* means nothing here */
	assert_int_equal(target.images[0].notes_set, 0);
	out(a, REGISTER_AND_IGNORE, 0, 0, KEY_B, APTPL);
	assert_non_null(target.images[0].note);
	out(a, REGISTER, 0, KEY_B, KEY_A, 0);
	assert_null(target.images[0].note);
	hang_up(a);
	a = enter(KEYS(OTHER)); /* a session's end is no loss of power */
	assert_int_equal(write_of(a), SCSI_RESERVATION_CONFLICT);
	hang_up(a);
	lose_power();
	a = enter(KEYS(OTHER));
	assert_keys(a, 0, 0, 0);
	assert_int_equal(write_of(a), SCSI_GOOD);
	hang_up(a);
}

/* A command is answered when the note is durable; others of its kind wait, in their order, and all
 * else goes on under what was in force. */
static void
test_answered_when_durable(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A))), *b = enter(KEYS(OTHER));

	(void)state;
	out(a, REGISTER, 0, 0, KEY_A, APTPL);
	target.admin_holds = true;
	say_out(a, RESERVE, 1, KEY_A, 0, 0);
	hear_nothing(a);
	say_out(b, REGISTER, 0, 0, KEY_B, APTPL);
	say_out(b, RESERVE, 1, KEY_B, 0, 0);
	hear_nothing(b);
	assert_int_equal(write_of(b), SCSI_GOOD);
	assert_int_equal(read_be(in(b, 1) + 4, 4), 0);
	fake_release_admin(&target);
	run(a);
	run(b);
	assert_int_equal(hear_status(a), SCSI_GOOD);
	assert_int_equal(hear_status(b), SCSI_GOOD);
	assert_int_equal(hear_status(b), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(write_of(b), SCSI_RESERVATION_CONFLICT);
	hang_up(a);
	hang_up(b);
}

/* The old ones stay in force, and nobody heard of others. */
static void
test_a_note_that_cannot_be_written(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A))), *b = enter(KEYS(OTHER));
	struct pdu pdu;

	(void)state;
	out(a, REGISTER, 0, 0, KEY_A, APTPL);
	out(b, REGISTER, 0, 0, KEY_B, APTPL);
	out(a, RESERVE, 1, KEY_A, 0, 0);
	target.admin_fails = -ENOSPC;
	say_out(b, PREEMPT, 1, KEY_B, KEY_A, 0);
	pdu = hear_one(b, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_DATA_PROTECT, SCSI_ASC_SPACE_ALLOCATION_FAILED);
	target.admin_fails = -EIO;
	say_out(b, PREEMPT, 1, KEY_B, KEY_A, 0);
	pdu = hear_one(b, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_MEDIUM_ERROR, SCSI_ASC_WRITE_ERROR);
	assert_int_equal(attention(a), 0);
	assert_int_equal(write_of(a), SCSI_GOOD);
	assert_keys(a, 2, KEY_A, KEY_B);
	target.admin_fails = 0;
	out(b, PREEMPT, 1, KEY_B, KEY_A, 0);
	assert_int_equal(attention(a), SCSI_ASC_REGISTRATIONS_PREEMPTED);
	assert_int_equal(write_of(a), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(write_of(b), SCSI_GOOD);
	hang_up(a);
	hang_up(b);
}

/* It vanishes meanwhile: what was begun is done. */
static void
test_vanishing_while_it_is_kept(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A))), *b = enter(KEYS(OTHER));

	(void)state;
	out(a, REGISTER, 0, 0, KEY_A, APTPL);
	target.admin_holds = true;
	say_out(a, RESERVE, 3, KEY_A, 0, 0);
	say_out(a, RELEASE, 3, KEY_A, 0, 0); /* waits, and comes to nothing */
	iscsi_session_end(&a->session);
	fake_release_admin(&target);
	hang_up(a);
	assert_int_equal(write_of(b), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(in(b, 1)[21], 3);
	hang_up(b);
}

/* A node that was fenced may have no write under way any more when that is answered; and it is told
 * that its command is gone (TAS), instead of waiting for its own timeout. */
static void
test_preempt_and_abort_waits(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A))), *b = enter(KEYS(OTHER));
	static const uint8_t cdb[16] = { 0x2a, [8] = 1 };
	static const uint8_t block[512];

	(void)state;
	out(a, REGISTER, 0, 0, KEY_A, 0);
	out(b, REGISTER, 0, 0, KEY_B, 0);
	out(b, RESERVE, 5, KEY_B, 0, 0);
	target.images[0].hold = true;
	say_command(b, 0xa0, 0, TAG, cdb, 512, block, 512);
	say_out(a, PREEMPT_AND_ABORT, 5, KEY_A, KEY_B, 0);
	hear_nothing(a);
	hear_nothing(b);
	/* Others of its kind go on, and see what is in force already. */
	say_out(b, RESERVE, 5, KEY_B, 0, 0);
	assert_int_equal(hear_status(b), SCSI_CHECK_CONDITION);
	say_out(b, RESERVE, 5, KEY_B, 0, 0);
	assert_int_equal(hear_status(b), SCSI_RESERVATION_CONFLICT);
	fake_release(&target.images[0]);
	run(a);
	run(b);
	assert_int_equal(hear_status(a), SCSI_GOOD);
	assert_int_equal(hear_status(b), SCSI_TASK_ABORTED);
	hear_nothing(b);
	hang_up(a);
	hang_up(b);
}

/* Two that abort each other's: neither waits for the other for ever. */
static void
test_preempting_each_other(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A))), *b = enter(KEYS(OTHER));
	static const uint8_t cdb[16] = { 0x2a, [8] = 1 };
	static const uint8_t block[512];

	(void)state;
	out(a, REGISTER, 0, 0, KEY_A, 0);
	out(b, REGISTER, 0, 0, KEY_B, 0);
	target.images[0].hold = true;
	say_command(a, 0xa0, 0, TAG, cdb, 512, block, 512);
	say_command(b, 0xa0, 0, TAG, cdb, 512, block, 512);
	say_out(a, PREEMPT_AND_ABORT, 5, KEY_A, KEY_B, 0);
	hear_nothing(a);
	assert_int_equal(attention(b), SCSI_ASC_REGISTRATIONS_PREEMPTED);
	out(b, REGISTER, 0, 0, KEY_B, 0);
	say_out(b, PREEMPT_AND_ABORT, 5, KEY_B, KEY_A, 0);
	hear_nothing(b);
	fake_release(&target.images[0]);
	run(a);
	run(b);
	assert_int_equal(hear_status(b), SCSI_TASK_ABORTED); /* the write */
	assert_int_equal(hear_status(b), SCSI_GOOD);
	assert_int_equal(hear_status(a), SCSI_TASK_ABORTED);
	assert_int_equal(hear_status(a), SCSI_TASK_ABORTED); /* what preempted was preempted */
	hear_nothing(a);
	hang_up(a);
	hang_up(b);
}

/* A TransportID; its length. */
static size_t
put_port(uint8_t *at, const char *text)
{
	size_t bytes = max_u64(round_up(strlen(text) + 1, 4), 20);

	at[0] = 0x45;
	put_be16(at + 2, bytes);
	strcpy((char *)at + 4, text);
	return 4 + bytes;
}

/* With these bytes behind the fixed ones; what comes of it: 0 or the additional sense code. */
static unsigned
out_list(struct initiator *i, enum action action, uint64_t key, uint64_t new_key,
    const uint8_t fixed[8], const uint8_t *more, size_t more_bytes)
{
	uint8_t cdb[16] = { 0x5f, (uint8_t)action };
	uint8_t list[16 * KIB] = { 0 };
	size_t bytes = 24 + more_bytes;
	struct pdu pdu;

	put_be64(list, key);
	put_be64(list + 8, new_key);
	memcpy(list + 16, fixed, 8);
	memcpy(list + 24, more, more_bytes);
	put_be32(cdb + 5, bytes);
	say_command(i, 0xa0, 0, TAG, cdb, (uint32_t)bytes, list, bytes);
	pdu = hear_one(i, ISCSI_RESPONSE);
	return pdu.bhs[3] == SCSI_CHECK_CONDITION ? pdu.data[14] << 8 | pdu.data[15] : pdu.bhs[3];
}

static unsigned
register_with(struct initiator *i, const uint8_t *ids, size_t ids_bytes)
{
	static const uint8_t fixed[8] = { [4] = 0x08 };
	uint8_t more[16 * KIB - 24];

	put_be32(more, ids_bytes);
	memcpy(more + 4, ids, ids_bytes);
	return out_list(i, REGISTER, 0, KEY_A, fixed, more, 4 + ids_bytes);
}

static void
test_registering_others(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A))), *b = enter(KEYS(OTHER));
	static const char *const wrong[] = { "iqn.other", "iqn.other,i,0x8000000000",
		"iqn.other,i,0x80000000000g", ",i,0x800000000000", "iqn.other,i,0x80000000000000" };
	uint8_t ids[16 * KIB - 28];
	size_t bytes, one;
	char text[64];

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(wrong); k++) {
		memset(ids, 0, sizeof(ids));
		bytes = put_port(ids, "iqn.third,i,0x800000000000");
		bytes += put_port(ids + bytes, wrong[k]);
		assert_int_equal(register_with(a, ids, bytes), 0x2600);
	}
	memset(ids, 0, sizeof(ids));
	one = put_port(ids, "iqn.third,i,0x800000000000");
	bytes = one + put_port(ids + one, "iqn.third,i,0x800000000000"); /* twice */
	assert_int_equal(register_with(a, ids, bytes), 0x2600);
	assert_int_equal(register_with(a, ids, bytes - 4), 0x2600); /* the second is cut off */
	ids[0] = 0x05;
	assert_int_equal(register_with(a, ids, one), 0x2600);
	ids[0] = 0x45;
	memset(ids + 4, 'x', one - 4); /* no end */
	assert_int_equal(register_with(a, ids, one), 0x2600);
	memset(ids, 0, sizeof(ids));
	bytes = 0;
	for (unsigned k = 0; k < RESERVATION_REGISTRANTS_MAX; k++) { /* one too many */
		sprintf(text, "iqn.n%u,i,0x800000000000", k);
		bytes += put_port(ids + bytes, text);
	}
	assert_int_equal(register_with(a, ids, bytes), 0x5504);
	assert_keys(a, 0, 0, 0); /* all, or nobody */
	memset(ids, 0, sizeof(ids));
	bytes = put_port(ids, "iqn.other,i,0x800000000000");
	assert_int_equal(register_with(a, ids, bytes), 0);
	assert_keys(a, 2, KEY_A, KEY_A);
	out(b, RESERVE, 1, KEY_A, 0, 0);
	assert_int_equal(write_of(a), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(register_with(b, ids, bytes), SCSI_RESERVATION_CONFLICT); /* key 0 */
	out(a, REGISTER_AND_IGNORE, 0, 0, KEY_B, 0x04);                            /* ALL_TG_PT */
	hang_up(a);
	hang_up(b);
}

static unsigned
move(struct initiator *i, uint64_t key, uint64_t new_key, unsigned flags, unsigned port,
    const char *to)
{
	uint8_t fixed[8] = { [1] = (uint8_t)flags, [3] = (uint8_t)port };
	uint8_t id[512] = { 0 };
	size_t bytes = put_port(id, to);

	put_be32(fixed + 4, bytes);
	return out_list(i, (enum action)7, key, new_key, fixed, id, bytes);
}

static void
test_moving_a_reservation(void **state)
{
	static const char them[] = "iqn.other,i,0x800000000000";
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A))), *b = enter(KEYS(OTHER));

	(void)state;
	assert_int_equal(move(a, 0, KEY_B, 0, 1, them), SCSI_RESERVATION_CONFLICT);
	out(a, REGISTER, 0, 0, KEY_A, 0);
	assert_int_equal(move(a, KEY_A, KEY_B, 0, 1, them), SCSI_RESERVATION_CONFLICT);
	out(a, RESERVE, 7, KEY_A, 0, 0);
	assert_int_equal(move(a, KEY_A, KEY_B, 0, 1, them), SCSI_RESERVATION_CONFLICT);
	out(a, RELEASE, 7, KEY_A, 0, 0);
	out(a, RESERVE, 1, KEY_A, 0, 0);
	assert_int_equal(move(a, KEY_B, KEY_B, 0, 1, them), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(move(a, KEY_A, 0, 0, 1, them), 0x2600);
	assert_int_equal(move(a, KEY_A, KEY_B, 0, 2, them), 0x2600); /* no such port */
	assert_int_equal(move(a, KEY_A, KEY_B, 4, 1, them), 0x2600);
	assert_int_equal(move(a, KEY_A, KEY_B, 0, 1, "iqn.other"), 0x2600);
	assert_int_equal(move(a, KEY_A, KEY_B, 0, 1, "iqn.host,i,0x800000000000"), 0x2600);
	assert_int_equal(write_of(a), SCSI_GOOD);
	assert_int_equal(move(a, KEY_A, KEY_B, 0, 1, them), 0);
	assert_keys(a, 2, KEY_A, KEY_B);
	assert_int_equal(write_of(a), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(write_of(b), SCSI_GOOD);
	/* And back, with another key; the sender leaves; durably. */
	assert_int_equal(move(b, KEY_B, 0xc, 3, 1, "iqn.host,i,0x800000000000"), 0);
	assert_keys(a, 1, 0xc, 0);
	assert_non_null(target.images[0].note);
	assert_int_equal(write_of(a), SCSI_GOOD);
	assert_int_equal(write_of(b), SCSI_RESERVATION_CONFLICT);
	hang_up(a);
	hang_up(b);
}

/* A pool from before notes, and snapshots, which have none. */
static void
test_where_nothing_can_be_kept(void **state)
{
	struct initiator *a;
	struct pdu pdu;

	(void)state;
	target.images[0].keeps_notes = false;
	a = enter(KEYS(NORMAL(DEFAULT_A)));
	assert_int_equal(in(a, 2)[2], 0x0c);
	say_out(a, REGISTER, 0, 0, KEY_A, APTPL);
	pdu = hear_one(a, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_PARAMETERS);
	assert_int_equal(read_be(pdu.data + 2 + 16, 2), 20);
	out(a, REGISTER, 0, 0, KEY_A, 0);
	hang_up(a);
}

/* The pool was elsewhere, and is back: what was changed there counts. */
static void
test_an_import_reads_anew(void **state)
{
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A)));
	struct reservation elsewhere;

	(void)state;
	out(a, REGISTER, 0, 0, KEY_A, APTPL);
	hang_up(a);
	reservation_init(&elsewhere);
	elsewhere.registrants[0] =
	    (struct reservation_registrant){ .used = true, .key = KEY_B, .name = "iqn.c" };
	free(target.images[0].note);
	target.images[0].note = reservation_encode(&elsewhere, &target.images[0].note_len_bytes);
	a = enter(KEYS(NORMAL(DEFAULT_A)));
	assert_keys(a, 1, KEY_A, 0);
	hang_up(a);
	target.import++;
	a = enter(KEYS(NORMAL(DEFAULT_A)));
	assert_keys(a, 1, KEY_B, 0);
	hang_up(a);
	target.images[0].note[0] ^= 1; /* damaged: nobody is locked out */
	target.import++;
	diag_set_level(-1);
	a = enter(KEYS(NORMAL(DEFAULT_A)));
	assert_keys(a, 0, 0, 0);
	hang_up(a);
}

static void
opened_early(struct target_open *open)
{
	(void)open;
}

/* The note of a handle that was opened before a change is not taken for the truth. */
static void
test_an_old_handle(void **state)
{
	static const struct scsi_luns luns = { .count = 1 };
	struct initiator *a = enter(KEYS(NORMAL(DEFAULT_A)));
	struct target_open open = {
		.name = target.images[0].name,
		.note = NOTE_RESERVATIONS,
		.done = opened_early,
	};
	struct scsi_nexus *nexus;

	(void)state;
	out(a, REGISTER, 0, 0, KEY_A, APTPL);
	target_open(&target, &open);
	run(a);
	assert_non_null(open.volume);
	out(a, REGISTER, 0, KEY_A, 0, APTPL);
	hang_up(a);
	nexus = scsi_nexus_begin(
	    &scsi, open.volume, "iqn.t", &(struct scsi_initiator){ .name = "iqn.c" }, 0, &luns);
	assert_true(reservation_is_empty(&nexus->unit->reservation.state));
	scsi_nexus_end(nexus);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_is_kept),
		TEST(test_what_is_not_kept),
		TEST(test_answered_when_durable),
		TEST(test_a_note_that_cannot_be_written),
		TEST(test_vanishing_while_it_is_kept),
		TEST(test_preempt_and_abort_waits),
		TEST(test_preempting_each_other),
		TEST(test_registering_others),
		TEST(test_moving_a_reservation),
		TEST(test_where_nothing_can_be_kept),
		TEST(test_an_import_reads_anew),
		TEST(test_an_old_handle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
