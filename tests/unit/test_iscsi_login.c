/* SPDX-License-Identifier: Apache-2.0 */
/* iSCSI logins as an initiator sees them: stages, refusals, CHAP, discovery, units and masks. */
#include "tests/unit/iscsi_conversation.h"

#define STORE "iqn.2026-11.org.example:store"

/* --- stages --- */

static void
test_login_through_all_stages(void **state)
{
	struct initiator *i = connect_to();
	struct pdu pdu;

	(void)state;
	say_login(i, SECURITY | TO_OPERATIONAL, KEYS(NORMAL(DEFAULT_A) "\0AuthMethod=CHAP,None"));
	pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);
	assert_int_equal(pdu.bhs[1], SECURITY | TO_OPERATIONAL);
	assert_string_equal(key_of(&pdu, "AuthMethod"), "None");
	assert_string_equal(key_of(&pdu, "TargetPortalGroupTag"), "1");
	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_TSIH, 2), 0);
	say_login(i, OPERATIONAL & ~0x80, KEYS("HeaderDigest=None"));
	pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);
	assert_int_equal(pdu.bhs[1], 4);
	assert_string_equal(key_of(&pdu, "HeaderDigest"), "None");
	assert_string_equal(key_of(&pdu, "MaxRecvDataSegmentLength"), "262144");
	say_login(i, OPERATIONAL | TO_FULL, NULL, 0);
	pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);
	assert_int_equal(pdu.bhs[1], OPERATIONAL | TO_FULL);
	assert_int_not_equal(iscsi_get(pdu.bhs, ISCSI_AT_TSIH, 2), 0);
	assert_int_equal(target.images[0].open_now, 1);
	hang_up(i);
	assert_int_equal(target.images[0].open_now, 0);
}

/* Keys in several PDUs, and those in pieces of a byte. */
static void
test_login_in_pieces(void **state)
{
	static const char keys[] = NORMAL(DEFAULT_A) "\0MaxBurstLength=4096";
	struct initiator *i = connect_to();
	struct pdu pdu;

	(void)state;
	i->piece_bytes = 1;
	for (size_t at = 0; at < sizeof(keys) - 10; at += 10) {
		say_login(i, 0x44, keys + at, 10);
		pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);
		assert_int_equal(pdu.data_bytes, 0);
		assert_int_equal(pdu.bhs[1], 4);
		if (at + 20 > sizeof(keys) - 1) {
			say_login(i, OPERATIONAL | TO_FULL, keys + at + 10, sizeof(keys) - at - 10);
			break;
		}
	}
	pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);
	assert_string_equal(key_of(&pdu, "MaxBurstLength"), "4096");
	hang_up(i);
}

static void
test_refusals(void **state)
{
	static const struct {
		unsigned flags;
		const char *keys;
		size_t keys_bytes;
		enum iscsi_login_status status;
	} cases[] = {
		{ OPERATIONAL | TO_FULL, KEYS("SessionType=Normal\0TargetName=" DEFAULT_A),
		    ISCSI_LOGIN_MISSING },
		{ OPERATIONAL | TO_FULL, KEYS("InitiatorName=iqn.host"), ISCSI_LOGIN_MISSING },
		{ OPERATIONAL | TO_FULL, NULL, 0, ISCSI_LOGIN_MISSING },
		{ OPERATIONAL | TO_FULL, KEYS(NORMAL("iqn.none")), ISCSI_LOGIN_NOT_FOUND },
		{ OPERATIONAL | TO_FULL, KEYS(NORMAL("iqn.2026-11.io.quarry:p.z")),
		    ISCSI_LOGIN_NOT_FOUND },
		{ SECURITY | TO_FULL, KEYS(NORMAL(DEFAULT_A) "\0AuthMethod=CHAP"),
		    ISCSI_LOGIN_AUTHENTICATION },
		{ SECURITY | TO_FULL, KEYS(NORMAL(DEFAULT_A) "\0AuthMethod=KRB5,SRP"),
		    ISCSI_LOGIN_AUTHENTICATION },
		{ OPERATIONAL | TO_FULL, KEYS("nonsense"), ISCSI_LOGIN_INITIATOR_ERROR },
		{ OPERATIONAL | TO_FULL, KEYS("SessionType=Odd"), ISCSI_LOGIN_INITIATOR_ERROR },
		/* stages that cannot be */
		{ OPERATIONAL | TO_OPERATIONAL, KEYS(NORMAL(DEFAULT_A)), ISCSI_LOGIN_INVALID },
		{ OPERATIONAL | 2, KEYS(NORMAL(DEFAULT_A)), ISCSI_LOGIN_INVALID },
		{ SECURITY, KEYS(NORMAL(DEFAULT_A)), ISCSI_LOGIN_INVALID },
		{ 0x8c | TO_FULL, KEYS(NORMAL(DEFAULT_A)), ISCSI_LOGIN_INVALID },
		{ 0xc4 | TO_FULL, KEYS(NORMAL(DEFAULT_A)), ISCSI_LOGIN_INVALID },
	};

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(cases); k++) {
		struct initiator *i = connect_to();

		say_login(i, cases[k].flags, cases[k].keys, cases[k].keys_bytes);
		hear_login(i, cases[k].status);
		hear_nothing(i);
		hang_up(i);
	}
	for (size_t k = 0; k < target.image_count; k++)
		assert_int_equal(target.images[k].opens, 0);
}

/* Version, TSIH, and a text without an end. */
static void
test_refusals_by_the_header(void **state)
{
	struct initiator *i = connect_to();
	uint8_t bhs[ISCSI_BHS_BYTES] = { 0x43, OPERATIONAL | TO_FULL };
	static char much[16384];

	(void)state;
	bhs[3] = 1;
	say_pdu(i, bhs, KEYS(NORMAL(DEFAULT_A)));
	hear_login(i, ISCSI_LOGIN_VERSION);
	hang_up(i);

	i = connect_to();
	bhs[3] = 0;
	bhs[ISCSI_AT_TSIH + 1] = 9;
	say_pdu(i, bhs, KEYS(NORMAL(DEFAULT_A)));
	hear_login(i, ISCSI_LOGIN_NO_SESSION);
	hang_up(i);

	i = connect_to();
	for (unsigned n = 0; n < 4; n++) {
		say_login(i, 0x44, much, sizeof(much));
		hear_login(i, ISCSI_LOGIN_SUCCESS);
	}
	say_login(i, 0x44, much, sizeof(much));
	hear_login(i, ISCSI_LOGIN_INITIATOR_ERROR);
	hang_up(i);

	/* a command before the login, and a login after it */
	i = connect_to();
	bhs[0] = ISCSI_COMMAND;
	say_pdu(i, bhs, NULL, 0);
	assert_true(i->closed);
	hear_nothing(i);
	hang_up(i);
	i = log_in(KEYS(NORMAL(DEFAULT_A)));
	say_login(i, OPERATIONAL | TO_FULL, NULL, 0);
	assert_true(i->closed);
	hang_up(i);
}

/* Nothing is heard of a refusal before the owner says so. */
static void
test_refusal_waits(void **state)
{
	struct initiator *i = connect_to();

	(void)state;
	i->waits_refused = true;
	say_login(i, OPERATIONAL | TO_FULL, KEYS(NORMAL("iqn.none")));
	assert_true(i->refused);
	hear_nothing(i);
	i->waits_refused = false;
	run(i);
	hear_login(i, ISCSI_LOGIN_NOT_FOUND);
	hang_up(i);
}

/* --- exports --- */

static void
assert_luns(struct initiator *i, const uint8_t *expected, uint32_t count)
{
	uint8_t cdb[16] = { 0xa0, [8] = 0x10 };
	struct pdu pdu;

	say_command(i, 0xc0, 0, 1, cdb, 4096, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(iscsi_get(pdu.data, 0, 4), 8 * count);
	for (uint32_t k = 0; k < count; k++)
		assert_int_equal(pdu.data[8 + 8 * k + 1], expected[k]);
}

static uint32_t
capacity(struct initiator *i, uint8_t lun)
{
	uint8_t cdb[16] = { 0x25 };
	struct pdu pdu;

	say_command(i, 0xc0, lun, 1, cdb, 8, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	return (iscsi_get(pdu.data, 0, 4) + 1) * 512;
}

static void
test_units_of_a_target_are_masked(void **state)
{
	struct initiator *i;
	struct pdu pdu;
	uint8_t inquiry[16] = { 0x12, 0, 0, 0, 96 };

	(void)state;
	add_export("p/c", STORE, 9);
	add_allow(add_export("p/a", STORE, 0), "iqn.other");
	add_allow(add_export("p/b", STORE, 2), "iqn.host");
	i = log_in(KEYS(NORMAL(STORE)));
	assert_luns(i, (const uint8_t[]){ 2, 9 }, 2);
	assert_int_equal(target.images[0].opens, 0);
	clear_attentions(i, 2);
	clear_attentions(i, 9);
	assert_int_equal(capacity(i, 2), 2 << 20);
	assert_int_equal(capacity(i, 9), 3 << 20);
	/* LUN 0 is not there, but says so as it should. */
	say_command(i, 0xc0, 0, 1, inquiry, 96, NULL, 0);
	pdu = hear_one(i, ISCSI_DATA_IN);
	assert_int_equal(pdu.data[0], 0x7f);
	inquiry[0] = 0;
	inquiry[4] = 0;
	say_command(i, 0x80, 0, 1, inquiry, 0, NULL, 0);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_ILLEGAL_REQUEST, SCSI_ASC_LUN_NOT_SUPPORTED);
	hang_up(i);
}

static void
test_denied_initiators(void **state)
{
	struct initiator *i = connect_to();

	(void)state;
	add_allow(add_export("p/a", STORE, 0), "iqn.other");
	say_login(i, OPERATIONAL | TO_FULL, KEYS(NORMAL(STORE)));
	hear_login(i, ISCSI_LOGIN_FORBIDDEN);
	hang_up(i);
	/* With an export a volume has no default target, */
	i = connect_to();
	say_login(i, OPERATIONAL | TO_FULL, KEYS(NORMAL(DEFAULT_A)));
	hear_login(i, ISCSI_LOGIN_NOT_FOUND);
	hang_up(i);
	/* unless that is what it is exported as, */
	add_export("p/b", "", 0);
	hang_up(log_in(KEYS(NORMAL("iqn.2026-11.io.quarry:p.b"))));
	/* and without one only if defaults are wanted. */
	hang_up(log_in(KEYS(NORMAL("iqn.2026-11.io.quarry:p.c"))));
	default_targets = false;
	i = connect_to();
	say_login(i, OPERATIONAL | TO_FULL, KEYS(NORMAL("iqn.2026-11.io.quarry:p.c")));
	hear_login(i, ISCSI_LOGIN_NOT_FOUND);
	hang_up(i);
}

/* --- discovery --- */

static struct pdu
send_targets(struct initiator *i, const char *what)
{
	uint8_t bhs[ISCSI_BHS_BYTES] = { ISCSI_TEXT, 0x80 };
	char text[300];
	int len = snprintf(text, sizeof(text), "SendTargets=%s", what);

	iscsi_put(bhs, ISCSI_AT_TAG, 4, 7);
	iscsi_put(bhs, ISCSI_AT_TTT, 4, ISCSI_NO_TAG);
	iscsi_put(bhs, ISCSI_AT_CMD_SN, 4, i->cmd_sn++);
	say_pdu(i, bhs, text, (size_t)len + 1);
	return hear_one(i, ISCSI_TEXT_RESPONSE);
}

static unsigned
targets_in(const struct pdu *pdu, const char *name)
{
	unsigned count = 0;
	const char *at = (const char *)pdu->data;

	for (; at < (const char *)pdu->data + pdu->data_bytes; at += strlen(at) + 1)
		count +=
		    strncmp(at, "TargetName=", 11) == 0 && (!name || strcmp(at + 11, name) == 0);
	return count;
}

static void
test_discovery_shows_what_may_be_used(void **state)
{
	struct initiator *i;
	struct pdu pdu;

	(void)state;
	add_allow(add_export("p/a", STORE, 0), "iqn.other");
	add_chap(add_export("p/b", "iqn.secret", 0), "u", "secret of twelve");
	i = log_in(KEYS("InitiatorName=iqn.host\0SessionType=Discovery"));
	pdu = send_targets(i, "All");
	assert_int_equal(targets_in(&pdu, NULL), 1);
	assert_int_equal(targets_in(&pdu, "iqn.2026-11.io.quarry:p.c"), 1);
	assert_string_equal(key_of(&pdu, "TargetAddress"), "192.0.2.1:3260,1");
	pdu = send_targets(i, STORE);
	assert_int_equal(pdu.data_bytes, 0);
	hang_up(i);
	/* Several units are one target. */
	add_export("p/c", STORE, 1);
	i = log_in(KEYS("InitiatorName=iqn.other\0SessionType=Discovery"));
	pdu = send_targets(i, "All");
	assert_int_equal(targets_in(&pdu, NULL), 1);
	assert_int_equal(targets_in(&pdu, STORE), 1);
	hang_up(i);
	/* In a normal session: its own. */
	i = log_in(KEYS("InitiatorName=iqn.other\0SessionType=Normal\0TargetName=" STORE));
	pdu = send_targets(i, "");
	assert_int_equal(targets_in(&pdu, STORE), 1);
	pdu = send_targets(i, "All");
	assert_int_equal(pdu.data_bytes, 0);
	hang_up(i);
}

/* --- CHAP --- */

struct chap_talk {
	const char *user, *secret;
	enum chap_algorithm algorithm;
	const char *mutual_secret; /* NULL: the target need not prove itself */
	bool reflects;             /* the target's own challenge */
	const char *answer;        /* instead of the right one */
};

#define WITH(u, s, a) .user = (u), .secret = (s), .algorithm = (a)

/* Up to the answer to the answer. */
static struct initiator *
chap(const char *names, size_t names_bytes, const struct chap_talk *talk)
{
	struct initiator *i = connect_to();
	uint8_t challenge[CHAP_CHALLENGE_BYTES_MAX], answer[CHAP_ANSWER_BYTES_MAX];
	char text[4096], hex[CHAP_TEXT_BYTES + 100];
	struct pdu pdu;
	int bytes, at;

	at = (int)names_bytes;
	memcpy(text, names, names_bytes);
	at += snprintf(text + at, sizeof(text) - (size_t)at, "AuthMethod=CHAP,None") + 1;
	say_login(i, SECURITY | TO_OPERATIONAL, text, (size_t)at);
	pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);
	assert_int_equal(pdu.bhs[1], 0); /* no stage is left yet */
	assert_string_equal(key_of(&pdu, "AuthMethod"), "CHAP");
	at = snprintf(text, sizeof(text), "CHAP_A=99,%u", talk->algorithm) + 1;
	say_login(i, 0, text, (size_t)at);
	pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);
	assert_int_equal(atoi(key_of(&pdu, "CHAP_A")), talk->algorithm);
	bytes = chap_parse(key_of(&pdu, "CHAP_C"), challenge, sizeof(challenge));
	assert_int_equal(bytes, CHAP_CHALLENGE_BYTES);
	chap_format(answer,
	    chap_answer(talk->algorithm, (uint8_t)atoi(key_of(&pdu, "CHAP_I")), talk->secret,
		challenge, (size_t)bytes, answer),
	    hex);
	at = snprintf(text, sizeof(text), "CHAP_N=%s", talk->user) + 1;
	at += snprintf(text + at, sizeof(text) - (size_t)at, "CHAP_R=%s",
		  talk->answer ? talk->answer : hex) +
	      1;
	if (talk->mutual_secret) {
		if (!talk->reflects)
			memset(challenge, 0x5a, 16);
		chap_format(challenge, talk->reflects ? (size_t)bytes : 16, hex);
		at += snprintf(text + at, sizeof(text) - (size_t)at, "CHAP_I=77") + 1;
		at += snprintf(text + at, sizeof(text) - (size_t)at, "CHAP_C=%s", hex) + 1;
	}
	say_login(i, SECURITY | TO_OPERATIONAL, text, (size_t)at);
	return i;
}

static void
finish_login(struct initiator *i)
{
	i->cmd_sn = 0;
	say_login(i, OPERATIONAL | TO_FULL, NULL, 0);
	hear_login(i, ISCSI_LOGIN_SUCCESS);
	clear_attentions(i, 0);
	hang_up(i);
}

static void
test_chap(void **state)
{
	static const enum chap_algorithm algorithms[] = { CHAP_MD5, CHAP_SHA1, CHAP_SHA256,
		CHAP_SHA3_256 };

	(void)state;
	add_chap(add_export("p/a", "", 0), "host", "secret of twelve");
	for (size_t k = 0; k < ARRAY_SIZE(algorithms); k++) {
		struct chap_talk talk = { WITH("host", "secret of twelve", algorithms[k]) };
		struct initiator *i = chap(KEYS(NORMAL(DEFAULT_A)), &talk);
		struct pdu pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);

		assert_int_equal(pdu.bhs[1], SECURITY | TO_OPERATIONAL);
		assert_null(key_of(&pdu, "CHAP_R"));
		finish_login(i);
	}
}

static void
test_mutual_chap(void **state)
{
	struct chap_talk talk = { WITH("host", "secret of twelve", CHAP_SHA256),
		.mutual_secret = "the other secret" };
	uint8_t challenge[16], answer[CHAP_ANSWER_BYTES_MAX];
	char hex[100];
	struct initiator *i;
	struct pdu pdu;
	struct export *item = add_chap(add_export("p/a", "", 0), "host", "secret of twelve");

	(void)state;
	/* The target has nothing to prove itself with. */
	i = chap(KEYS(NORMAL(DEFAULT_A)), &talk);
	hear_login(i, ISCSI_LOGIN_AUTHENTICATION);
	hang_up(i);
	strcpy(item->mutual_user, "store");
	strcpy(item->mutual_secret, "the other secret");
	i = chap(KEYS(NORMAL(DEFAULT_A)), &talk);
	pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);
	memset(challenge, 0x5a, sizeof(challenge));
	chap_format(answer,
	    chap_answer(CHAP_SHA256, 77, talk.mutual_secret, challenge, sizeof(challenge), answer),
	    hex);
	assert_string_equal(key_of(&pdu, "CHAP_N"), "store");
	assert_string_equal(key_of(&pdu, "CHAP_R"), hex);
	finish_login(i);
	/* It never answers its own challenge. */
	talk.reflects = true;
	i = chap(KEYS(NORMAL(DEFAULT_A)), &talk);
	assert_true(i->closed);
	hear_nothing(i);
	hang_up(i);
}

static void
test_wrong_answers(void **state)
{
	static const struct chap_talk talks[] = {
		{ WITH("host", "secret of twelvf", CHAP_SHA256) },
		{ WITH("Host", "secret of twelve", CHAP_SHA256) },
		{ WITH("nobody", "secret of twelve", CHAP_MD5) },
		{ WITH("host", "secret of twelve", CHAP_MD5), .answer = "0x" },
		{ WITH("host", "secret of twelve", CHAP_MD5), .answer = "0x00" },
		{ WITH("host", "secret of twelve", CHAP_MD5), .answer = "nonsense" },
		/* the secret of an export that is not for this initiator */
		{ WITH("rival", "rivals secret", CHAP_MD5) },
	};

	(void)state;
	add_chap(add_export("p/a", STORE, 0), "host", "secret of twelve");
	add_allow(add_chap(add_export("p/b", STORE, 1), "rival", "rivals secret"), "iqn.rival");
	for (size_t k = 0; k < ARRAY_SIZE(talks); k++) {
		struct initiator *i = chap(KEYS(NORMAL(STORE)), &talks[k]);

		hear_login(i, ISCSI_LOGIN_AUTHENTICATION);
		hear_nothing(i);
		hang_up(i);
	}
	assert_int_equal(target.images[0].opens, 0);
}

/* A target that wants CHAP takes nobody who leaves it out, whichever way. */
static void
test_chap_cannot_be_passed_by(void **state)
{
	static const struct {
		unsigned flags;
		const char *keys;
		size_t keys_bytes;
	} ways[] = {
		{ SECURITY | TO_OPERATIONAL, KEYS(NORMAL(DEFAULT_A) "\0AuthMethod=None") },
		{ SECURITY | TO_FULL, KEYS(NORMAL(DEFAULT_A)) },
		{ OPERATIONAL | TO_FULL, KEYS(NORMAL(DEFAULT_A)) },
		{ 4, KEYS(NORMAL(DEFAULT_A)) },
	};
	static const struct {
		const char *keys;
		size_t keys_bytes;
	} seconds[] = {
		{ NULL, 0 },
		{ KEYS("CHAP_A=99") },
		{ KEYS("CHAP_N=host\0CHAP_R=0x00") },
		{ KEYS("AuthMethod=None") },
	};

	(void)state;
	add_chap(add_export("p/a", "", 0), "host", "secret of twelve");
	for (size_t k = 0; k < ARRAY_SIZE(ways); k++) {
		struct initiator *i = connect_to();

		say_login(i, ways[k].flags, ways[k].keys, ways[k].keys_bytes);
		hear_login(i, ISCSI_LOGIN_AUTHENTICATION);
		hang_up(i);
	}
	for (size_t k = 0; k < ARRAY_SIZE(seconds); k++) {
		struct initiator *i = connect_to();
		struct pdu pdu;

		say_login(i, SECURITY | TO_FULL, KEYS(NORMAL(DEFAULT_A) "\0AuthMethod=CHAP"));
		pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);
		assert_int_equal(pdu.bhs[1], 0);
		say_login(i, SECURITY | TO_FULL, seconds[k].keys, seconds[k].keys_bytes);
		pdu = hear_one(i, ISCSI_LOGIN_RESPONSE);
		assert_int_equal(pdu.bhs[ISCSI_AT_STATUS_CLASS], 2);
		assert_true(i->closed);
		hang_up(i);
	}
	assert_int_equal(target.images[0].opens, 0);
}

/* Who proves to be a user sees the units of that user, and those that need no proof. */
static void
test_chap_decides_on_units_and_discovery(void **state)
{
	struct chap_talk talk = { WITH("host", "secret of twelve", CHAP_SHA1) };
	struct initiator *i;
	struct pdu pdu;

	(void)state;
	add_chap(add_export("p/a", STORE, 0), "host", "secret of twelve");
	add_chap(add_export("p/b", STORE, 1), "rival", "rivals secret");
	add_export("p/c", STORE, 2);
	i = chap(KEYS(NORMAL(STORE)), &talk);
	hear_login(i, ISCSI_LOGIN_SUCCESS);
	i->cmd_sn = 0;
	say_login(i, OPERATIONAL | TO_FULL, NULL, 0);
	hear_login(i, ISCSI_LOGIN_SUCCESS);
	assert_luns(i, (const uint8_t[]){ 0, 2 }, 2);
	hang_up(i);
	i = log_in(KEYS(NORMAL(STORE)));
	assert_luns(i, (const uint8_t[]){ 2 }, 1);
	hang_up(i);

	strcpy(exports[1].item.target, "iqn.rivals");
	strcpy(exports[0].item.target, "iqn.hosts");
	i = chap(KEYS("InitiatorName=iqn.host\0SessionType=Discovery"), &talk);
	hear_login(i, ISCSI_LOGIN_SUCCESS);
	say_login(i, OPERATIONAL | TO_FULL, NULL, 0);
	hear_login(i, ISCSI_LOGIN_SUCCESS);
	i->cmd_sn = 0;
	pdu = send_targets(i, "All");
	assert_int_equal(targets_in(&pdu, NULL), 2);
	assert_int_equal(targets_in(&pdu, "iqn.hosts"), 1);
	assert_int_equal(targets_in(&pdu, STORE), 1);
	hang_up(i);
}

/* --- changes under a session --- */

static void
test_exports_change_under_a_session(void **state)
{
	struct iscsi_offer offer;
	static const uint8_t ready[16];
	struct initiator *i;
	struct pdu pdu;

	(void)state;
	add_export("p/a", STORE, 0);
	i = log_in(KEYS(NORMAL(STORE)));
	clear_attentions(i, 0);
	make_offer(i, &offer);
	assert_true(iscsi_session_reoffered(&i->session, &offer));
	/* One more: it is opened, and said. */
	add_export("p/b", STORE, 4);
	add_chap(add_export("p/c", STORE, 5), "host", "secret of twelve");
	make_offer(i, &offer);
	assert_true(iscsi_session_reoffered(&i->session, &offer));
	run(i);
	assert_luns(i, (const uint8_t[]){ 0, 4 }, 2);
	say_command(i, 0x80, 0, 1, ready, 0, NULL, 0);
	pdu = hear_one(i, ISCSI_RESPONSE);
	assert_sense(&pdu, SCSI_UNIT_ATTENTION, SCSI_ASC_LUNS_CHANGED);
	clear_attentions(i, 4);
	assert_int_equal(capacity(i, 4), 2 << 20);
	/* One that it has is not its own any more: it has to go. */
	add_allow(&exports[0].item, "iqn.other");
	make_offer(i, &offer);
	assert_false(iscsi_session_reoffered(&i->session, &offer));
	hang_up(i);
}

/* The same initiator port logs in again: the older session goes first. */
static void
test_reinstatement(void **state)
{
	struct initiator *old = log_in(KEYS(NORMAL(DEFAULT_A)));
	struct initiator *new = connect_to();

	(void)state;
	say_login(new, OPERATIONAL | TO_FULL, KEYS(NORMAL(DEFAULT_A)));
	assert_true(old->closed);
	hear_nothing(new);
	assert_int_equal(target.images[0].open_now, 1);
	end(old);
	run(new);
	hear_login(new, ISCSI_LOGIN_SUCCESS);
	assert_int_equal(target.images[0].open_now, 1);
	assert_int_equal(target.images[0].opens, 2);
	hang_up(old);
	hang_up(new);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_login_through_all_stages),
		TEST(test_login_in_pieces),
		TEST(test_refusals),
		TEST(test_refusals_by_the_header),
		TEST(test_refusal_waits),
		TEST(test_units_of_a_target_are_masked),
		TEST(test_denied_initiators),
		TEST(test_discovery_shows_what_may_be_used),
		TEST(test_chap),
		TEST(test_mutual_chap),
		TEST(test_wrong_answers),
		TEST(test_chap_cannot_be_passed_by),
		TEST(test_chap_decides_on_units_and_discovery),
		TEST(test_exports_change_under_a_session),
		TEST(test_reinstatement),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
