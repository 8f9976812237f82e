/* SPDX-License-Identifier: Apache-2.0 */
/* Taking PDUs apart and putting them together; see iscsi_session.h. */
#include "frontends/iscsi/iscsi_session.h"

#include <stdlib.h>

#include "core/base/crc32c.h"
#include "core/base/diag.h"

/* --- answers --- */

struct iscsi_control *
iscsi_control_new(struct iscsi_session *session, enum iscsi_opcode opcode)
{
	struct iscsi_control *control = xcalloc(1, sizeof(*control));

	control->bhs[0] = (uint8_t)opcode;
	control->bhs[1] = ISCSI_FINAL;
	control->takes_stat_sn = true;
	memcpy(control->bhs + ISCSI_AT_TAG, session->bhs + ISCSI_AT_TAG, 4);
	return control;
}

void
iscsi_control_queue(struct iscsi_session *session, struct iscsi_control *control)
{
	session->controls_used++;
	list_push_back(&session->controls, &control->link);
	session->events->output(session);
}

static void
control_free(struct iscsi_session *session, struct iscsi_control *control)
{
	session->controls_used--;
	free(control->data);
	free(control);
}

/* What cannot be gone on with at error recovery level 0. */
void
iscsi_session_fatal(struct iscsi_session *session, const char *why)
{
	if (session->phase == ISCSI_PHASE_CLOSED)
		return;
	diag_debug("%s: disconnected: %s", session->peer, why);
	session->phase = ISCSI_PHASE_CLOSED;
	session->events->close(session, false);
}

static void
reject(struct iscsi_session *session, enum iscsi_reject reason)
{
	struct iscsi_control *control = iscsi_control_new(session, ISCSI_REJECT);

	control->bhs[2] = (uint8_t)reason;
	iscsi_put(control->bhs, ISCSI_AT_TAG, 4, ISCSI_NO_TAG);
	control->data = xmalloc(ISCSI_BHS_BYTES);
	memcpy(control->data, session->bhs, ISCSI_BHS_BYTES);
	control->data_bytes = ISCSI_BHS_BYTES;
	iscsi_control_queue(session, control);
}

/* --- what the target says of its own accord --- */

static bool
may_say(const struct iscsi_session *session)
{
	return session->phase == ISCSI_PHASE_FULL && session->digests && !session->closes &&
	       session->controls_used < ISCSI_CONTROLS_MAX / 2;
}

void
iscsi_session_ping(struct iscsi_session *session)
{
	struct iscsi_control *control;

	if (!may_say(session))
		return;
	control = iscsi_control_new(session, ISCSI_NOP_IN);
	control->takes_stat_sn = false; /* it names the next one */
	iscsi_put(control->bhs, ISCSI_AT_TAG, 4, ISCSI_NO_TAG);
	if (++session->next_ttt == ISCSI_NO_TAG)
		session->next_ttt = 1;
	iscsi_put(control->bhs, ISCSI_AT_TTT, 4, session->next_ttt);
	session->pinged = true;
	iscsi_control_queue(session, control);
}

/* An asynchronous message with sense data of a unit; its unit attention awaits a command, too. */
static void
say_attention(struct iscsi_session *session, uint16_t lun, enum scsi_asc asc)
{
	struct iscsi_control *control = iscsi_control_new(session, ISCSI_ASYNC);
	struct scsi_sense sense = { 0 };
	size_t sense_bytes;

	scsi_sense_set(&sense, SCSI_UNIT_ATTENTION, asc);
	control->data = xcalloc(1, 2 + SCSI_SENSE_BYTES_MAX);
	sense_bytes = scsi_sense_encode(&sense, false, control->data + 2);
	iscsi_put(control->data, 0, 2, (uint32_t)sense_bytes);
	control->data_bytes = 2 + (uint32_t)sense_bytes;
	control->bhs[ISCSI_AT_LUN + 1] = (uint8_t)lun;
	iscsi_put(control->bhs, ISCSI_AT_TAG, 4, ISCSI_NO_TAG);
	iscsi_control_queue(session, control); /* event 0: SCSI */
}

void
iscsi_session_poll(struct iscsi_session *session)
{
	if (!may_say(session))
		return;
	for (uint32_t i = 0; i < session->luns.count; i++)
		if (scsi_nexus_poll(session->nexuses[i]))
			say_attention(session, scsi_nexus_lun(session->nexuses[i]),
			    SCSI_ASC_CAPACITY_CHANGED);
}

/* --- output --- */

struct iscsi_out *
iscsi_out_begin(struct iscsi_session *session)
{
	struct iscsi_out *out;

	if (session->out_count == ISCSI_OUTS_MAX)
		return NULL;
	out = &session->outs[session->out_count++];
	memset(out->head, 0, sizeof(out->head));
	out->data = NULL;
	out->data_bytes = 0;
	out->last_of = NULL;
	out->control = NULL;
	return out;
}

/* The window: as many as there is room for. */
static uint32_t
max_cmd_sn(const struct iscsi_session *session)
{
	return session->exp_cmd_sn + ISCSI_TASKS_MAX - session->tasks_used - 1;
}

void
iscsi_out_end(struct iscsi_session *session, struct iscsi_out *out, bool takes_stat_sn)
{
	uint32_t pad_bytes = (4 - out->data_bytes % 4) % 4;
	bool full = session->digests;

	iscsi_put(out->head, ISCSI_AT_DATA_LENGTH, 3, out->data_bytes);
	if ((out->head[0] & ISCSI_OPCODE_BITS) != ISCSI_DATA_IN || takes_stat_sn)
		iscsi_put(out->head, ISCSI_AT_STAT_SN, 4, session->stat_sn);
	if (takes_stat_sn)
		session->stat_sn++;
	iscsi_put(out->head, ISCSI_AT_EXP_CMD_SN, 4, session->exp_cmd_sn);
	iscsi_put(out->head, ISCSI_AT_MAX_CMD_SN, 4, max_cmd_sn(session));
	out->head_bytes = ISCSI_BHS_BYTES;
	if (full && session->params.header_digest) {
		uint32_t crc = crc32c(0, out->head, ISCSI_BHS_BYTES);

		memcpy(out->head + ISCSI_BHS_BYTES, &crc, sizeof(crc));
		out->head_bytes += ISCSI_DIGEST_BYTES;
	}
	memset(out->tail, 0, pad_bytes);
	out->tail_bytes = pad_bytes;
	if (full && session->params.data_digest && out->data_bytes) {
		uint32_t crc = crc32c(0, out->data, out->data_bytes);

		crc = crc32c(crc, out->tail, pad_bytes);
		memcpy(out->tail + pad_bytes, &crc, sizeof(crc));
		out->tail_bytes += ISCSI_DIGEST_BYTES;
	}
}

static void
control_gather(struct iscsi_session *session, struct iscsi_control *control)
{
	struct iscsi_out *out = iscsi_out_begin(session);

	list_remove(&control->link);
	memcpy(out->head, control->bhs, ISCSI_BHS_BYTES);
	out->data = control->data;
	out->data_bytes = control->data_bytes;
	out->control = control;
	session->closes |= control->closes;
	iscsi_out_end(session, out, control->takes_stat_sn);
}

struct scsi_nexus *
iscsi_session_nexus(const struct iscsi_session *session, const uint8_t lun[8])
{
	int number = scsi_lun_number(lun);

	for (uint32_t i = 0; i < session->luns.count; i++)
		if (scsi_nexus_lun(session->nexuses[i]) == number)
			return session->nexuses[i];
	return NULL;
}

static bool
aborts_pending(const struct iscsi_session *session)
{
	for (uint32_t i = 0; i < session->luns.count; i++)
		if (scsi_aborts_pending(session->nexuses[i]))
			return true;
	return false;
}

uint32_t
iscsi_session_gather(struct iscsi_session *session)
{
	CHECK(session->out_count == 0);
	list_for_each_safe(link, &session->controls) {
		struct iscsi_control *control = container_of(link, struct iscsi_control, link);

		if (control->waits && aborts_pending(session))
			continue;
		if (session->out_count == ISCSI_OUTS_MAX)
			return session->out_count;
		control_gather(session, control);
	}
	while (!list_empty(&session->ready) &&
	       iscsi_task_gather(session, list_first(&session->ready, struct iscsi_task, ready)))
		;
	return session->out_count;
}

void
iscsi_session_sent(struct iscsi_session *session)
{
	for (uint32_t i = 0; i < session->out_count; i++) {
		struct iscsi_out *out = &session->outs[i];

		if (out->last_of)
			iscsi_task_free(out->last_of);
		if (!out->control)
			continue;
		/* Digests begin behind the last login response. */
		if (session->phase == ISCSI_PHASE_FULL &&
		    (out->head[0] & ISCSI_OPCODE_BITS) == ISCSI_LOGIN_RESPONSE)
			session->digests = true;
		control_free(session, out->control);
	}
	session->out_count = 0;
	if (session->closes)
		session->events->close(session, true);
	else if (!list_empty(&session->controls) || !list_empty(&session->ready))
		session->events->output(session);
}

/* --- input --- */

static bool
has_digest(const struct iscsi_session *session, uint32_t which)
{
	return session->digests && which;
}

static uint32_t
trailer_bytes(const struct iscsi_session *session)
{
	uint32_t pad_bytes = (4 - session->data_bytes % 4) % 4;

	if (session->data_bytes == 0)
		return 0;
	return pad_bytes +
	       (has_digest(session, session->params.data_digest) ? ISCSI_DIGEST_BYTES : 0);
}

/* Serial number arithmetic: a is before b. */
static bool
before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

/* Numbered requests come in order, on the one connection: 0 fine, -EAGAIN to be ignored. */
static int
take_cmd_sn(struct iscsi_session *session)
{
	uint32_t cmd_sn = iscsi_get(session->bhs, ISCSI_AT_CMD_SN, 4);

	if (session->bhs[0] & ISCSI_IMMEDIATE)
		return 0;
	if (cmd_sn != session->exp_cmd_sn || before(max_cmd_sn(session), cmd_sn))
		return -EAGAIN;
	session->exp_cmd_sn++;
	return 0;
}

static bool
is_numbered(unsigned opcode)
{
	return opcode == ISCSI_NOP_OUT || opcode == ISCSI_COMMAND ||
	       opcode == ISCSI_TASK_MANAGEMENT || opcode == ISCSI_TEXT || opcode == ISCSI_LOGOUT;
}

/* A header came: decides where its data go. */
static void
header_taken(struct iscsi_session *session)
{
	unsigned opcode = session->bhs[0] & ISCSI_OPCODE_BITS;
	uint32_t most_bytes = session->phase == ISCSI_PHASE_FULL ? (uint32_t)ISCSI_RECEIVE_BYTES_MAX
								 : (uint32_t)ISCSI_TEXT_BYTES_MAX;

	session->data_bytes = iscsi_get(session->bhs, ISCSI_AT_DATA_LENGTH, 3);
	session->pinged = false;
	session->payload = NULL;
	session->payload_left = 0;
	session->task = NULL;
	session->skip_left = session->data_bytes;
	session->input = ISCSI_INPUT_SKIP;
	session->crc = 0;
	if (session->data_bytes > most_bytes)
		return iscsi_session_fatal(session, "a data segment is longer than was agreed on");
	if ((opcode == ISCSI_LOGIN) != (session->phase == ISCSI_PHASE_LOGIN))
		return iscsi_session_fatal(session, "a PDU does not belong to this phase");
	if (session->params.discovery && session->phase == ISCSI_PHASE_FULL &&
	    opcode != ISCSI_TEXT && opcode != ISCSI_LOGOUT && opcode != ISCSI_NOP_OUT) {
		session->bhs[0] = ISCSI_SNACK; /* is rejected when its data are skipped */
		return;
	}
	if (is_numbered(opcode) && take_cmd_sn(session)) {
		session->bhs[0] = 0x3e; /* out of the window: silently ignored */
		return;
	}
	if (opcode == ISCSI_COMMAND) {
		iscsi_command_begin(session);
	} else if (opcode == ISCSI_DATA_OUT) {
		iscsi_data_out_begin(session);
	} else if (session->data_bytes) {
		free(session->control_data);
		session->control_data = xmalloc(session->data_bytes);
		session->payload = session->control_data;
		session->payload_left = session->data_bytes;
		session->skip_left = 0;
	}
	if (session->payload_left)
		session->input = ISCSI_INPUT_PAYLOAD;
}

static void
nop_out(struct iscsi_session *session)
{
	struct iscsi_control *control;

	if (iscsi_get(session->bhs, ISCSI_AT_TAG, 4) == ISCSI_NO_TAG)
		return; /* answers a ping of ours, or wants no answer */
	control = iscsi_control_new(session, ISCSI_NOP_IN);
	memcpy(control->bhs + ISCSI_AT_LUN, session->bhs + ISCSI_AT_LUN, 8);
	iscsi_put(control->bhs, ISCSI_AT_TTT, 4, ISCSI_NO_TAG);
	control->data = session->control_data;
	control->data_bytes =
	    (uint32_t)min_u64(session->data_bytes, session->params.send_bytes_max);
	session->control_data = NULL;
	iscsi_control_queue(session, control);
}

static void
logout(struct iscsi_session *session)
{
	struct iscsi_control *control = iscsi_control_new(session, ISCSI_LOGOUT_RESPONSE);
	unsigned reason = session->bhs[1] & 0x7f;

	if (reason == 2)
		control->bhs[2] = 2; /* recovery is not supported */
	else if (reason > 2 ||
		 (reason == 1 && iscsi_get(session->bhs, ISCSI_AT_CID, 2) != session->cid))
		control->bhs[2] = 1; /* no such CID */
	else
		control->closes = true;
	iscsi_control_queue(session, control);
}

/* A PDU is here as a whole. */
static void
pdu_taken(struct iscsi_session *session)
{
	session->input = ISCSI_INPUT_HEADER;
	switch (session->bhs[0] & ISCSI_OPCODE_BITS) {
	case ISCSI_LOGIN:
		return iscsi_login_request(session);
	case ISCSI_COMMAND:
	case ISCSI_DATA_OUT:
		return iscsi_data_out_end(session);
	case ISCSI_NOP_OUT:
		return nop_out(session);
	case ISCSI_TEXT:
		return iscsi_text_request(session);
	case ISCSI_TASK_MANAGEMENT:
		return iscsi_task_management(session);
	case ISCSI_LOGOUT:
		return logout(session);
	case 0x3e:
		return;
	default:
		return reject(session, ISCSI_REJECT_NOT_SUPPORTED);
	}
}

/* The header with what belongs to it; 0: it is not here yet. */
static size_t
take_header(struct iscsi_session *session, const uint8_t *bytes, size_t len_bytes)
{
	size_t ahs_bytes = len_bytes >= ISCSI_BHS_BYTES ? 4u * bytes[ISCSI_AT_AHS] : 0;
	size_t header_bytes = ISCSI_BHS_BYTES + ahs_bytes;
	bool digest = has_digest(session, session->params.header_digest);
	size_t whole_bytes = header_bytes + (digest ? ISCSI_DIGEST_BYTES : 0);
	uint32_t crc;

	if (len_bytes < whole_bytes)
		return 0;
	memcpy(session->bhs, bytes, ISCSI_BHS_BYTES);
	if (digest) {
		memcpy(&crc, bytes + header_bytes, sizeof(crc));
		if (crc != crc32c(0, bytes, header_bytes)) {
			iscsi_session_fatal(session, "a header digest is wrong");
			return whole_bytes;
		}
	}
	header_taken(session);
	return whole_bytes;
}

static void
cover(struct iscsi_session *session, const uint8_t *bytes, size_t len_bytes)
{
	if (has_digest(session, session->params.data_digest))
		session->crc = crc32c(session->crc, bytes, len_bytes);
}

static size_t
take_trailer(struct iscsi_session *session, const uint8_t *bytes, size_t len_bytes)
{
	uint32_t whole_bytes = trailer_bytes(session);
	uint32_t pad_bytes = (4 - session->data_bytes % 4) % 4;
	uint32_t crc;

	if (len_bytes < whole_bytes)
		return 0;
	if (whole_bytes > pad_bytes) {
		cover(session, bytes, pad_bytes);
		memcpy(&crc, bytes + pad_bytes, sizeof(crc));
		if (crc != session->crc) {
			iscsi_session_fatal(session, "a data digest is wrong");
			return whole_bytes;
		}
	}
	pdu_taken(session);
	return whole_bytes;
}

bool
iscsi_session_rests(const struct iscsi_session *session)
{
	if (session->input != ISCSI_INPUT_HEADER)
		return session->phase == ISCSI_PHASE_CLOSED;
	return (session->phase != ISCSI_PHASE_LOGIN && session->phase != ISCSI_PHASE_FULL) ||
	       session->closes || session->text_pending ||
	       session->controls_used >= ISCSI_CONTROLS_MAX ||
	       session->immediates_used >= ISCSI_IMMEDIATE_MAX ||
	       /* Digests begin only when the last login response is out. */
	       (session->phase == ISCSI_PHASE_FULL && !session->digests);
}

void
iscsi_session_payload_received(struct iscsi_session *session, size_t len_bytes)
{
	cover(session, session->payload, len_bytes);
	session->payload += len_bytes;
	session->payload_left -= (uint32_t)len_bytes;
	if (session->payload_left == 0)
		session->input = ISCSI_INPUT_SKIP;
}

uint8_t *
iscsi_session_payload(const struct iscsi_session *session, uint32_t *left_bytes)
{
	*left_bytes = session->input == ISCSI_INPUT_PAYLOAD ? session->payload_left : 0;
	return *left_bytes ? session->payload : NULL;
}

size_t
iscsi_session_input(struct iscsi_session *session, const uint8_t *bytes, size_t len_bytes)
{
	size_t at = 0;

	while (!iscsi_session_rests(session)) {
		size_t left_bytes = len_bytes - at;
		size_t n;

		switch (session->input) {
		case ISCSI_INPUT_HEADER:
			n = take_header(session, bytes + at, left_bytes);
			if (n == 0)
				return at;
			at += n;
			continue;
		case ISCSI_INPUT_PAYLOAD:
			n = min_u64(left_bytes, session->payload_left);
			if (n == 0)
				return at;
			memcpy(session->payload, bytes + at, n);
			iscsi_session_payload_received(session, n);
			at += n;
			continue;
		case ISCSI_INPUT_SKIP:
			n = min_u64(left_bytes, session->skip_left);
			if (n == 0 && session->skip_left)
				return at;
			cover(session, bytes + at, n);
			session->skip_left -= (uint32_t)n;
			at += n;
			if (session->skip_left == 0)
				session->input = ISCSI_INPUT_TRAILER;
			continue;
		case ISCSI_INPUT_TRAILER:
			n = take_trailer(session, bytes + at, left_bytes);
			if (n == 0 && session->input == ISCSI_INPUT_TRAILER)
				return at;
			at += n;
			continue;
		}
	}
	return at;
}

/* --- life --- */

void
iscsi_session_init(struct iscsi_session *session, struct iscsi_portal *portal,
    const struct iscsi_session_events *events, const char *peer)
{
	size_t count = ISCSI_TASKS_MAX + ISCSI_IMMEDIATE_MAX;

	memset(session, 0, sizeof(*session));
	session->portal = portal;
	session->events = events;
	session->peer = peer;
	iscsi_params_init(&session->params);
	list_init(&session->tasks);
	list_init(&session->ready);
	list_init(&session->controls);
	list_init(&session->free_tasks);
	list_push_back(&portal->sessions, &session->link);
	session->task_slab = xcalloc(count, sizeof(struct iscsi_task));
	for (size_t i = 0; i < count; i++) {
		struct iscsi_task *task = (struct iscsi_task *)session->task_slab + i;

		list_init(&task->ready);
		list_push_back(&session->free_tasks, &task->link);
	}
}

void
iscsi_session_end(struct iscsi_session *session)
{
	session->phase = ISCSI_PHASE_CLOSED;
	session->ending = true;
	for (uint32_t i = 0; i < session->out_count; i++) {
		struct iscsi_out *out = &session->outs[i];

		if (out->last_of)
			iscsi_task_free(out->last_of);
		if (out->control)
			control_free(session, out->control);
	}
	session->out_count = 0;
	iscsi_tasks_abandon(session);
}

void
iscsi_session_fini(struct iscsi_session *session)
{
	struct list *link;

	CHECK(list_empty(&session->tasks));
	while ((link = list_pop_front(&session->controls)))
		control_free(session, container_of(link, struct iscsi_control, link));
	for (uint32_t i = 0; i < session->luns.count; i++)
		scsi_nexus_end(session->nexuses[i]);
	list_remove(&session->link);
	list_for_each(other_link, &session->portal->sessions) {
		struct iscsi_session *other = container_of(other_link, struct iscsi_session, link);

		if (other->awaits == session) {
			other->awaits = NULL;
			iscsi_login_reinstated(other);
		}
	}
	free(session->control_data);
	free(session->keys.bytes);
	free(session->answer.bytes);
	iscsi_offer_fini(&session->offer);
	explicit_bzero(&session->proof, sizeof(session->proof));
	free(session->task_slab);
}
