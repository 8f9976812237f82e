/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An initiator that speaks bytes to iSCSI sessions, of which several share one portal, against
 * volumes in memory (fake_target.h).  Included by a test program.
 *
 * say() gives a PDU to the session, in pieces if the test wants it so, and lets everything run
 * until nothing moves; hear() takes the next PDU that came back.
 */
#ifndef QUARRY_TESTS_UNIT_ISCSI_CONVERSATION_H
#define QUARRY_TESTS_UNIT_ISCSI_CONVERSATION_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "core/base/crc32c.h"
#include "core/base/diag.h"
#include "frontends/iscsi/iscsi_session.h"
#include "tests/unit/fake_target.h"

/* A text of keys with its last zero. */
#define KEYS(text) text, sizeof(text)
#define SECURITY 0x80 /* flags of a login: from this stage … */
#define OPERATIONAL 0x84
#define TO_OPERATIONAL 1 /* … to that one */
#define TO_FULL 3

static struct reactor reactor;
static struct target target;
static struct scsi_port scsi;
static struct iscsi_portal portal;
static struct target_export exports[8];
static size_t export_count;
static bool default_targets;

struct initiator {
	struct iscsi_session session;
	const struct iscsi_grant *grant; /* to be opened */
	struct target_open open;
	bool wants_offer, refused, waits_refused, closed, idle, ended;
	size_t piece_bytes; /* input comes in pieces of this; 0: as a whole */
	bool digests;
	uint32_t cmd_sn;
	uint32_t exp_stat_sn;
	uint8_t out[1 << 21];
	size_t out_bytes, out_at;
};

struct pdu {
	const uint8_t *bhs;
	const uint8_t *data;
	uint32_t data_bytes;
};

/* --- the world --- */

static int
world_setup(void **state)
{
	(void)state;
	diag_set_level(DIAG_ERROR);
	memset(&target, 0, sizeof(target));
	target.import = 1;
	list_init(&target.admin_held);
	memset(&portal, 0, sizeof(portal));
	memset(exports, 0, sizeof(exports));
	export_count = 0;
	default_targets = true;
	reactor_init(&reactor);
	reactor_set_current(&reactor);
	fake_add(&target, "p/a", 1 << 20, false);
	fake_add(&target, "p/b", 2 << 20, false);
	fake_add(&target, "p/c", 3 << 20, false);
	scsi_port_init(&scsi, &reactor, buffer_pool_create(64 * MIB), &target);
	portal.scsi = &scsi;
	list_init(&portal.sessions);
	return 0;
}

static int
world_teardown(void **state)
{
	(void)state;
	assert_true(list_empty(&portal.sessions));
	assert_int_equal(buffer_pool_used_bytes(scsi.buffers), 0);
	scsi_port_fini(&scsi);
	buffer_pool_free(scsi.buffers);
	fake_fini(&target);
	reactor_set_current(NULL);
	reactor_fini(&reactor);
	return 0;
}

/* Of volume "p/a" … at @iqn ("": its own); the caller fills the rest. */
static inline struct export *
add_export(const char *volume, const char *iqn, uint8_t lun)
{
	struct target_export *export = &exports[export_count++];

	assert_int_equal(name_parse(&export->name, volume, NULL), 0);
	strcpy(export->item.target, iqn);
	export->item.lun = lun;
	return &export->item;
}

static inline struct export *
add_chap(struct export *item, const char *user, const char *secret)
{
	strcpy(item->user, user);
	strcpy(item->secret, secret);
	return item;
}

static inline struct export *
add_allow(struct export *item, const char *initiator)
{
	strcpy(item->allow[item->allow_count++], initiator);
	return item;
}

static void
make_offer(const struct initiator *i, struct iscsi_offer *offer)
{
	struct name names[FAKE_VOLUMES_MAX];
	struct target_names all = {
		.names = names,
		.count = target.image_count,
		.exports = exports,
		.export_count = export_count,
	};

	for (size_t k = 0; k < target.image_count; k++)
		names[k] = target.images[k].name;
	iscsi_offer_make(offer, &all, default_targets, i->session.initiator.name,
	    i->session.params.discovery ? NULL : i->session.params.target_name);
}

/* --- the session's owner --- */

static struct initiator *
initiator_of(struct iscsi_session *session)
{
	return container_of(session, struct initiator, session);
}

static void
on_offer(struct iscsi_session *session)
{
	initiator_of(session)->wants_offer = true;
}

static void
on_open(struct iscsi_session *session, const struct iscsi_grant *grant)
{
	initiator_of(session)->grant = grant;
}

static void
on_refused(struct iscsi_session *session)
{
	initiator_of(session)->refused = true;
}

static void
on_output(struct iscsi_session *session)
{
	(void)session; /* it is gathered all the time */
}

static void
on_close(struct iscsi_session *session, bool flush)
{
	(void)flush;
	initiator_of(session)->closed = true;
}

static void
on_idle(struct iscsi_session *session)
{
	initiator_of(session)->idle = true;
}

static const struct iscsi_session_events session_events = {
	.offer = on_offer,
	.open = on_open,
	.refused = on_refused,
	.output = on_output,
	.close = on_close,
	.idle = on_idle,
};

static void
opened(struct target_open *open)
{
	struct initiator *i = container_of(open, struct initiator, open);

	iscsi_session_opened(&i->session, open->error, open->volume);
}

static void
put_out(struct initiator *i, const void *bytes, size_t len_bytes)
{
	assert_true(i->out_bytes + len_bytes <= sizeof(i->out));
	if (len_bytes)
		memcpy(i->out + i->out_bytes, bytes, len_bytes);
	i->out_bytes += len_bytes;
}

static bool
gather(struct initiator *i)
{
	uint32_t count = i->session.out_count ? 0 : iscsi_session_gather(&i->session);

	for (uint32_t k = 0; k < count; k++) {
		const struct iscsi_out *out = &i->session.outs[k];

		put_out(i, out->head, out->head_bytes);
		put_out(i, out->data, out->data_bytes);
		put_out(i, out->tail, out->tail_bytes);
	}
	if (count)
		iscsi_session_sent(&i->session);
	return count > 0;
}

/* Until nothing moves. */
static void
run(struct initiator *i)
{
	bool moved = true;

	while (moved && !i->ended) {
		moved = reactor_run_turn(&reactor, reactor.now_ns);
		if (i->wants_offer) {
			struct iscsi_offer offer;

			i->wants_offer = false;
			make_offer(i, &offer);
			iscsi_session_offered(&i->session, &offer);
			moved = true;
		}
		if (i->grant) {
			i->open = (struct target_open){
				.name = i->grant->name,
				.readonly = i->grant->readonly,
				.note = NOTE_RESERVATIONS,
				.done = opened,
			};
			i->grant = NULL;
			target_open(&target, &i->open);
			moved = true;
		}
		if (i->refused && !i->waits_refused) {
			i->refused = false;
			iscsi_session_refuse(&i->session);
			moved = true;
		}
		moved |= !i->closed && gather(i);
	}
}

static struct initiator *
connect_to(void)
{
	struct initiator *i = xcalloc(1, sizeof(*i));

	iscsi_session_init(&i->session, &portal, &session_events, "test");
	strcpy(i->session.local_address, "192.0.2.1:3260");
	return i;
}

/* What came and is not taken yet stays. */
static void
end(struct initiator *i)
{
	iscsi_session_end(&i->session);
	for (unsigned turns = 0; !i->idle && turns < 1000; turns++)
		reactor_run_turn(&reactor, reactor.now_ns);
	assert_true(i->idle);
	i->ended = true;
	iscsi_session_fini(&i->session);
}

static void
hang_up(struct initiator *i)
{
	if (!i->ended)
		end(i);
	free(i);
}

/* --- speaking --- */

static void
give(struct initiator *i, const uint8_t *bytes, size_t len_bytes)
{
	size_t at = 0, shown = 0;

	while (at < len_bytes) {
		size_t taken;

		shown = i->piece_bytes ? min_u64(max_u64(shown, at) + i->piece_bytes, len_bytes)
				       : len_bytes;
		taken = iscsi_session_input(&i->session, bytes + at, shown - at);
		run(i);
		if (i->closed || (taken == 0 && shown == len_bytes))
			return;
		at += taken;
	}
	run(i);
}

/* With the header's length, padding and digests made right. */
static void
say_pdu(struct initiator *i, uint8_t bhs[ISCSI_BHS_BYTES], const void *data, size_t data_bytes)
{
	size_t padded = round_up(data_bytes, 4);
	uint8_t *bytes = xcalloc(1, ISCSI_BHS_BYTES + padded + 8);
	size_t at = ISCSI_BHS_BYTES;
	uint32_t crc;

	iscsi_put(bhs, ISCSI_AT_DATA_LENGTH, 3, (uint32_t)data_bytes);
	memcpy(bytes, bhs, ISCSI_BHS_BYTES);
	if (i->digests && i->session.params.header_digest) {
		crc = crc32c(0, bytes, ISCSI_BHS_BYTES);
		memcpy(bytes + at, &crc, 4);
		at += 4;
	}
	if (data_bytes)
		memcpy(bytes + at, data, data_bytes);
	if (i->digests && i->session.params.data_digest && data_bytes) {
		crc = crc32c(0, bytes + at, padded);
		memcpy(bytes + at + padded, &crc, 4);
		padded += 4;
	}
	give(i, bytes, at + padded);
	free(bytes);
}

static void
say_login(struct initiator *i, unsigned flags, const char *keys, size_t keys_bytes)
{
	uint8_t bhs[ISCSI_BHS_BYTES] = { ISCSI_LOGIN | ISCSI_IMMEDIATE, (uint8_t)flags };

	bhs[ISCSI_AT_ISID] = 0x80;
	iscsi_put(bhs, ISCSI_AT_CMD_SN, 4, i->cmd_sn);
	iscsi_put(bhs, ISCSI_AT_EXP_STAT_SN, 4, i->exp_stat_sn);
	say_pdu(i, bhs, keys, keys_bytes);
}

/* --- hearing --- */

static bool
hear(struct initiator *i, struct pdu *pdu)
{
	const uint8_t *at = i->out + i->out_at;
	size_t left = i->out_bytes - i->out_at;
	bool is_login;
	uint32_t crc;
	size_t bytes = ISCSI_BHS_BYTES;

	if (left == 0)
		return false;
	assert_true(left >= ISCSI_BHS_BYTES);
	is_login = (at[0] & ISCSI_OPCODE_BITS) == ISCSI_LOGIN_RESPONSE;
	pdu->bhs = at;
	pdu->data_bytes = iscsi_get(at, ISCSI_AT_DATA_LENGTH, 3);
	if (!is_login && i->digests && i->session.params.header_digest) {
		memcpy(&crc, at + bytes, 4);
		assert_int_equal(crc, crc32c(0, at, ISCSI_BHS_BYTES));
		bytes += 4;
	}
	pdu->data = at + bytes;
	if (!is_login && i->digests && i->session.params.data_digest && pdu->data_bytes) {
		memcpy(&crc, pdu->data + round_up(pdu->data_bytes, 4), 4);
		assert_int_equal(crc, crc32c(0, pdu->data, round_up(pdu->data_bytes, 4)));
		bytes += 4;
	}
	bytes += round_up(pdu->data_bytes, 4);
	assert_true(bytes <= left);
	i->out_at += bytes;
	return true;
}

static struct pdu
hear_one(struct initiator *i, unsigned opcode)
{
	struct pdu pdu;

	if (!hear(i, &pdu))
		fail_msg("nothing came, not opcode %02x", opcode);
	if ((pdu.bhs[0] & ISCSI_OPCODE_BITS) != opcode)
		fail_msg("opcode %02x came, not %02x", pdu.bhs[0], opcode);
	return pdu;
}

static inline void
hear_nothing(struct initiator *i)
{
	struct pdu pdu;

	if (hear(i, &pdu))
		fail_msg("opcode %02x came, though nothing should", pdu.bhs[0]);
}

/* The value of @key in a text; NULL: it is not there. */
static inline const char *
key_of(const struct pdu *pdu, const char *key)
{
	const char *at = (const char *)pdu->data;
	const char *end_of_text = at + pdu->data_bytes;

	for (; at < end_of_text; at += strlen(at) + 1)
		if (strncmp(at, key, strlen(key)) == 0 && at[strlen(key)] == '=')
			return at + strlen(key) + 1;
	return NULL;
}

/* A login response with this status; its flags if it is a success. */
static struct pdu
hear_login(struct initiator *i, enum iscsi_login_status status)
{
	struct pdu pdu = hear_one(i, ISCSI_LOGIN_RESPONSE);

	assert_int_equal(iscsi_get(pdu.bhs, ISCSI_AT_STATUS_CLASS, 2), status);
	if (status != ISCSI_LOGIN_SUCCESS)
		assert_true(i->closed);
	return pdu;
}

#define NORMAL(iqn) "InitiatorName=iqn.host\0SessionType=Normal\0TargetName=" iqn
#define DEFAULT_A "iqn.2026-11.io.quarry:p.a"

/* One that is logged in, with these keys beside the names. */
static struct initiator *
log_in(const char *keys, size_t keys_bytes)
{
	struct initiator *i = connect_to();
	struct pdu pdu;

	i->cmd_sn = 100;
	say_login(i, OPERATIONAL | TO_FULL, keys, keys_bytes);
	pdu = hear_login(i, ISCSI_LOGIN_SUCCESS);
	assert_int_equal(pdu.bhs[1], OPERATIONAL | TO_FULL);
	assert_int_not_equal(iscsi_get(pdu.bhs, ISCSI_AT_TSIH, 2), 0);
	i->digests = true;
	return i;
}

/* A command with all its immediate data; numbered. */
static void
say_command(struct initiator *i, unsigned flags, uint8_t lun, uint32_t tag, const uint8_t *cdb,
    uint32_t expected_bytes, const void *data, size_t data_bytes)
{
	uint8_t bhs[ISCSI_BHS_BYTES] = { ISCSI_COMMAND, (uint8_t)flags };

	bhs[ISCSI_AT_LUN + 1] = lun;
	iscsi_put(bhs, ISCSI_AT_TAG, 4, tag);
	iscsi_put(bhs, ISCSI_AT_EXPECTED_BYTES, 4, expected_bytes);
	iscsi_put(bhs, ISCSI_AT_CMD_SN, 4, i->cmd_sn++);
	memcpy(bhs + ISCSI_AT_CDB, cdb, 16);
	say_pdu(i, bhs, data, data_bytes);
}

static void
assert_sense(const struct pdu *pdu, unsigned key, unsigned asc)
{
	assert_int_equal(pdu->bhs[3], SCSI_CHECK_CONDITION);
	assert_true(pdu->data_bytes >= 2 + 14);
	assert_int_equal(pdu->data[2 + 2] & 15, key);
	assert_int_equal(pdu->data[2 + 12] << 8 | pdu->data[2 + 13], asc);
}

/* TEST UNIT READY until no unit attention waits. */
static void
clear_attentions(struct initiator *i, uint8_t lun)
{
	static const uint8_t ready[16];

	for (unsigned n = 0; n < 8; n++) {
		struct pdu pdu;

		say_command(i, 0x80, lun, 0xa0, ready, 0, NULL, 0);
		pdu = hear_one(i, ISCSI_RESPONSE);
		if (pdu.bhs[3] == SCSI_GOOD)
			return;
	}
	fail();
}

#endif
