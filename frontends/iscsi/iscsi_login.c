/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Login and text requests.
 *
 * A login request is: keys gathered until there is no C bit; keys negotiated; then, in the first
 * request, the owner asked what this initiator may use; then authentication, as far as it is:
 *
 *   METHOD ─► (ALGORITHM ─► ANSWER) ─► DONE        no stage is left before DONE
 *
 * Before full feature phase begins, an older session of the same initiator port to the same target
 * is ended (session reinstatement) and waited for, then the units are opened.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "frontends/iscsi/iscsi_session.h"
#include "metadata/export.h"

#define PORTAL_GROUP "1"

/* --- login --- */

static void
login_respond(struct iscsi_session *session, enum iscsi_login_status status)
{
	struct iscsi_control *control = iscsi_control_new(session, ISCSI_LOGIN_RESPONSE);
	unsigned next = session->bhs[1] & 3;
	bool transit = session->bhs[1] & ISCSI_TRANSIT && session->auth == ISCSI_AUTH_DONE;

	control->bhs[1] = (uint8_t)(session->stage << 2);
	if (status == ISCSI_LOGIN_SUCCESS && transit)
		control->bhs[1] |= (uint8_t)(ISCSI_TRANSIT | next);
	memcpy(control->bhs + ISCSI_AT_ISID, session->initiator.id, sizeof(session->initiator.id));
	if (status == ISCSI_LOGIN_SUCCESS && transit && next == ISCSI_STAGE_FULL_FEATURE)
		iscsi_put(control->bhs, ISCSI_AT_TSIH, 2, session->tsih);
	iscsi_put(control->bhs, ISCSI_AT_STATUS_CLASS, 2, status);
	if (status == ISCSI_LOGIN_SUCCESS) {
		control->data = session->answer.bytes;
		control->data_bytes = (uint32_t)session->answer.len_bytes;
		session->answer = (struct iscsi_text){ 0 };
	} else {
		control->closes = true;
		control->takes_stat_sn = false;
		diag_debug("%s: login refused, status %04x", session->peer, status);
	}
	iscsi_control_queue(session, control);
	if (status != ISCSI_LOGIN_SUCCESS) {
		session->phase = ISCSI_PHASE_CLOSED;
	} else if (transit) {
		session->stage = next;
		session->phase =
		    next == ISCSI_STAGE_FULL_FEATURE ? ISCSI_PHASE_FULL : ISCSI_PHASE_LOGIN;
	} else {
		session->phase = ISCSI_PHASE_LOGIN;
	}
}

/* For who asks, or what is asked for: how long that took to find out is nobody's business. */
static void
login_refuse(struct iscsi_session *session, enum iscsi_login_status status)
{
	session->phase = ISCSI_PHASE_REFUSED;
	session->refusal = status;
	session->events->refused(session);
}

void
iscsi_session_refuse(struct iscsi_session *session)
{
	if (session->phase == ISCSI_PHASE_REFUSED)
		login_respond(session, session->refusal);
}

/* --- the end of a login: the older session goes, units are opened --- */

/* Ends an older session of the same initiator port and target; true: there is one to wait for. */
static bool
reinstate(struct iscsi_session *session)
{
	list_for_each(link, &session->portal->sessions) {
		struct iscsi_session *other = container_of(link, struct iscsi_session, link);

		if (other == session || other->tsih == 0 ||
		    other->params.discovery != session->params.discovery ||
		    memcmp(other->initiator.id, session->initiator.id, SCSI_PORT_ID_BYTES) != 0 ||
		    strcmp(other->initiator.name, session->initiator.name) != 0 ||
		    strcmp(other->params.target_name, session->params.target_name) != 0)
			continue;
		session->awaits = other;
		session->phase = ISCSI_PHASE_REINSTATING;
		diag_debug("%s: its session of before is ended", session->peer);
		other->phase = ISCSI_PHASE_CLOSED;
		other->events->close(other, false);
		return true;
	}
	return false;
}

static void
login_finish(struct iscsi_session *session)
{
	if (++session->portal->next_tsih == 0)
		session->portal->next_tsih = 1;
	session->tsih = session->portal->next_tsih;
	login_respond(session, ISCSI_LOGIN_SUCCESS);
}

static bool
has_lun(const struct iscsi_session *session, uint16_t lun)
{
	for (uint32_t i = 0; i < session->luns.count; i++)
		if (session->luns.numbers[i] == lun)
			return true;
	return false;
}

static void
add_unit(struct iscsi_session *session, struct volume *volume, uint16_t lun)
{
	struct scsi_luns *luns = &session->luns;
	uint32_t at = luns->count;

	session->nexuses[luns->count] = scsi_nexus_begin(session->portal->scsi, volume,
	    session->params.target_name, &session->initiator, lun, luns);
	for (; at > 0 && luns->numbers[at - 1] > lun; at--)
		luns->numbers[at] = luns->numbers[at - 1];
	luns->numbers[at] = lun;
	luns->count++;
}

/* The next unit that is not open; NULL: all are. */
static const struct iscsi_grant *
unopened(const struct iscsi_session *session)
{
	if (session->params.discovery)
		return NULL;
	for (size_t i = 0; i < session->offer.count && session->luns.count < SCSI_LUNS_MAX; i++)
		if (!has_lun(session, session->offer.grants[i].lun))
			return &session->offer.grants[i];
	return NULL;
}

static void
open_units(struct iscsi_session *session)
{
	const struct iscsi_grant *grant = unopened(session);

	session->opening = grant != NULL;
	if (grant)
		return session->events->open(session, grant);
	if (session->phase == ISCSI_PHASE_OPENING)
		return login_finish(session);
	for (uint32_t i = 0; i < session->luns.count; i++)
		scsi_nexus_luns_changed(session->nexuses[i]);
}

void
iscsi_session_opened(struct iscsi_session *session, int error, struct volume *volume)
{
	const struct iscsi_grant *grant = unopened(session);
	bool login = session->phase == ISCSI_PHASE_OPENING;

	session->opening = false;
	if (!grant || (!login && session->phase != ISCSI_PHASE_FULL)) {
		if (!error)
			volume_close(volume);
		return;
	}
	if (!error) {
		add_unit(session, volume, grant->lun);
		return open_units(session);
	}
	if (login && error == -ENOENT)
		login_refuse(session, ISCSI_LOGIN_NOT_FOUND);
	else if (login)
		login_respond(session, ISCSI_LOGIN_UNAVAILABLE);
	else
		iscsi_session_fatal(session, "a unit that is new cannot be opened");
}

bool
iscsi_session_reoffered(struct iscsi_session *session, struct iscsi_offer *offer)
{
	bool same;

	iscsi_offer_prove(offer, &session->proof);
	iscsi_offer_restrict(offer);
	same = iscsi_offer_contains(offer, &session->offer);
	if (session->phase != ISCSI_PHASE_FULL || session->opening || !same) {
		iscsi_offer_fini(offer);
		return same;
	}
	iscsi_offer_fini(&session->offer);
	session->offer = *offer;
	if (unopened(session))
		open_units(session);
	return true;
}

/* The nexuses that the older session had are gone: now ours begin. */
void
iscsi_login_reinstated(struct iscsi_session *session)
{
	if (session->phase != ISCSI_PHASE_REINSTATING || reinstate(session))
		return;
	session->phase = ISCSI_PHASE_OPENING;
	open_units(session);
}

static void
login_transit(struct iscsi_session *session)
{
	bool transit = session->bhs[1] & ISCSI_TRANSIT && session->auth == ISCSI_AUTH_DONE;
	char number[16];

	if (session->stage == ISCSI_STAGE_OPERATIONAL && !session->params.declared) {
		snprintf(number, sizeof(number), "%u", (unsigned)ISCSI_RECEIVE_BYTES_MAX);
		iscsi_text_add(&session->answer, "MaxRecvDataSegmentLength", number);
		session->params.declared = true;
	}
	if (transit && (session->bhs[1] & 3) == ISCSI_STAGE_FULL_FEATURE) {
		session->phase = ISCSI_PHASE_REINSTATING;
		return iscsi_login_reinstated(session);
	}
	login_respond(session, ISCSI_LOGIN_SUCCESS);
}

/* --- who is it? --- */

static void
authenticated(struct iscsi_session *session)
{
	session->auth = ISCSI_AUTH_DONE;
	iscsi_offer_restrict(&session->offer);
	if (!session->params.discovery && session->offer.count == 0)
		return login_refuse(session, ISCSI_LOGIN_AUTHENTICATION);
	login_transit(session);
}

/* The first method of the initiator's that opens something. */
static void
choose_method(struct iscsi_session *session)
{
	bool none = session->params.discovery || iscsi_offer_count(&session->offer, false);
	bool chap = iscsi_offer_count(&session->offer, true);
	char *rest = NULL;

	for (char *method = strtok_r(session->params.auth_method, ",", &rest); method;
	     method = strtok_r(NULL, ",", &rest)) {
		if (chap && strcmp(method, "CHAP") == 0) {
			iscsi_text_add(&session->answer, "AuthMethod", "CHAP");
			session->auth = ISCSI_AUTH_ALGORITHM;
			return login_respond(session, ISCSI_LOGIN_SUCCESS);
		}
		if (none && strcmp(method, "None") == 0) {
			iscsi_text_add(&session->answer, "AuthMethod", "None");
			return authenticated(session);
		}
	}
	login_refuse(session, ISCSI_LOGIN_AUTHENTICATION);
}

static void
put_challenge(struct iscsi_session *session)
{
	char text[CHAP_TEXT_BYTES];

	session->chap_algorithm = chap_choose(session->params.chap.algorithms);
	if (session->chap_algorithm == CHAP_NONE)
		return login_refuse(session, ISCSI_LOGIN_AUTHENTICATION);
	if (!chap_random(session->chap_challenge, sizeof(session->chap_challenge)) ||
	    !chap_random(&session->chap_identifier, 1))
		return login_respond(session, ISCSI_LOGIN_TARGET_ERROR);
	snprintf(text, sizeof(text), "%u", session->chap_algorithm);
	iscsi_text_add(&session->answer, "CHAP_A", text);
	snprintf(text, sizeof(text), "%u", session->chap_identifier);
	iscsi_text_add(&session->answer, "CHAP_I", text);
	chap_format(session->chap_challenge, sizeof(session->chap_challenge), text);
	iscsi_text_add(&session->answer, "CHAP_C", text);
	session->auth = ISCSI_AUTH_ANSWER;
	login_respond(session, ISCSI_LOGIN_SUCCESS);
}

/* The proof that the answer shows to be known; NULL: none.  Looks at all, whichever is right. */
static const struct iscsi_proof *
check_answer(struct iscsi_session *session)
{
	uint8_t theirs[CHAP_ANSWER_BYTES_MAX];
	uint8_t right[CHAP_ANSWER_BYTES_MAX] = { 0 };
	int theirs_bytes = chap_parse(session->params.chap.answer, theirs, sizeof(theirs));
	const struct iscsi_proof *found = NULL;

	for (size_t i = 0; i < session->offer.count; i++) {
		const struct iscsi_proof *proof = session->offer.grants[i].proof;
		size_t right_bytes;
		bool same;

		if (!proof)
			continue;
		right_bytes = chap_answer(session->chap_algorithm, session->chap_identifier,
		    proof->secret, session->chap_challenge, sizeof(session->chap_challenge), right);
		same = theirs_bytes > 0 && right_bytes &&
		       chap_equal(theirs, (size_t)theirs_bytes, right, right_bytes);
		if (same && strcmp(proof->user, session->params.chap.name) == 0)
			found = proof;
	}
	explicit_bzero(right, sizeof(right));
	return found;
}

/* Mutual CHAP: our answer; false: it cannot be had. */
static bool
put_answer(struct iscsi_session *session)
{
	uint8_t challenge[CHAP_CHALLENGE_BYTES_MAX];
	uint8_t answer[CHAP_ANSWER_BYTES_MAX];
	char text[3 + 2 * CHAP_ANSWER_BYTES_MAX];
	int identifier = chap_parse_identifier(session->params.chap.identifier);
	int bytes = chap_parse(session->params.chap.challenge, challenge, sizeof(challenge));
	size_t answer_bytes;

	if (!session->proof.mutual_user[0] || identifier < 0 || bytes <= 0)
		return false;
	answer_bytes = chap_answer(session->chap_algorithm, (uint8_t)identifier,
	    session->proof.mutual_secret, challenge, (size_t)bytes, answer);
	if (answer_bytes == 0)
		return false;
	chap_format(answer, answer_bytes, text);
	iscsi_text_add(&session->answer, "CHAP_N", session->proof.mutual_user);
	iscsi_text_add(&session->answer, "CHAP_R", text);
	return true;
}

/* Our own challenge came back, for us to answer (RFC 7143 12.1.3). */
static bool
is_reflected(const struct iscsi_session *session)
{
	uint8_t challenge[CHAP_CHALLENGE_BYTES_MAX];
	int bytes = chap_parse(session->params.chap.challenge, challenge, sizeof(challenge));

	return bytes == (int)sizeof(session->chap_challenge) &&
	       memcmp(challenge, session->chap_challenge, sizeof(session->chap_challenge)) == 0;
}

static void
take_answer(struct iscsi_session *session)
{
	const struct iscsi_proof *proof;

	if (session->params.chap.challenge[0] && is_reflected(session))
		return iscsi_session_fatal(session, "it sent our own challenge back");
	proof = check_answer(session);
	if (!proof)
		return login_refuse(session, ISCSI_LOGIN_AUTHENTICATION);
	session->proof = *proof;
	iscsi_offer_prove(&session->offer, proof);
	if ((session->params.chap.challenge[0] || session->params.chap.identifier[0]) &&
	    !put_answer(session))
		return login_refuse(session, ISCSI_LOGIN_AUTHENTICATION);
	authenticated(session);
}

static void
login_authenticate(struct iscsi_session *session)
{
	const struct iscsi_params *params = &session->params;

	switch (session->auth) {
	case ISCSI_AUTH_METHOD:
		if (params->auth_method[0])
			return choose_method(session);
		/* Who goes on without a word has chosen None. */
		if (session->stage == ISCSI_STAGE_OPERATIONAL || session->bhs[1] & ISCSI_TRANSIT)
			return authenticated(session);
		return login_respond(session, ISCSI_LOGIN_SUCCESS);
	case ISCSI_AUTH_ALGORITHM:
		if (!params->chap.algorithms[0])
			return login_refuse(session, ISCSI_LOGIN_AUTHENTICATION);
		return put_challenge(session);
	case ISCSI_AUTH_ANSWER:
		if (!params->chap.name[0] || !params->chap.answer[0])
			return login_refuse(session, ISCSI_LOGIN_AUTHENTICATION);
		return take_answer(session);
	case ISCSI_AUTH_DONE:
		return login_transit(session);
	}
}

void
iscsi_session_offered(struct iscsi_session *session, struct iscsi_offer *offer)
{
	if (session->phase != ISCSI_PHASE_OFFERING)
		return iscsi_offer_fini(offer);
	session->offer = *offer;
	if (!session->params.discovery && offer->count == 0)
		return login_refuse(
		    session, offer->target_exists ? ISCSI_LOGIN_FORBIDDEN : ISCSI_LOGIN_NOT_FOUND);
	login_authenticate(session);
}

/* The keys of the leading request: who is it, and what does it want? */
static void
login_identify(struct iscsi_session *session)
{
	struct iscsi_params *params = &session->params;

	if (!params->initiator_name[0] || (!params->discovery && !params->target_name[0]))
		return login_respond(session, ISCSI_LOGIN_MISSING);
	strcpy(session->initiator.name, params->initiator_name);
	if (!params->discovery)
		iscsi_text_add(&session->answer, "TargetPortalGroupTag", PORTAL_GROUP);
	else
		params->target_name[0] = '\0';
	session->phase = ISCSI_PHASE_OFFERING;
	session->events->offer(session);
}

/* What of the header must hold; ISCSI_LOGIN_SUCCESS: all of it does. */
static enum iscsi_login_status
login_check(struct iscsi_session *session)
{
	const uint8_t *bhs = session->bhs;
	unsigned current = bhs[1] >> 2 & 3;
	unsigned next = bhs[1] & 3;

	if (bhs[3] > 0) /* version min */
		return ISCSI_LOGIN_VERSION;
	if (!session->leading) {
		session->leading = true;
		session->exp_cmd_sn = iscsi_get(bhs, ISCSI_AT_CMD_SN, 4);
		session->stat_sn = iscsi_get(bhs, ISCSI_AT_EXP_STAT_SN, 4);
		session->cid = (uint16_t)iscsi_get(bhs, ISCSI_AT_CID, 2);
		memcpy(session->initiator.id, bhs + ISCSI_AT_ISID, SCSI_PORT_ID_BYTES);
		session->stage = current;
		if (iscsi_get(bhs, ISCSI_AT_TSIH, 2)) /* no second connection */
			return ISCSI_LOGIN_NO_SESSION;
	}
	if (current != (unsigned)session->stage || current > ISCSI_STAGE_OPERATIONAL ||
	    (bhs[1] & ISCSI_TRANSIT && bhs[1] & ISCSI_CONTINUE) ||
	    (bhs[1] & ISCSI_TRANSIT && (next <= current || next == 2)))
		return ISCSI_LOGIN_INVALID;
	return ISCSI_LOGIN_SUCCESS;
}

static void
gather_keys(struct iscsi_session *session)
{
	struct iscsi_text *keys = &session->keys;

	if (session->data_bytes == 0)
		return;
	keys->bytes = xrealloc(keys->bytes, keys->len_bytes + session->data_bytes);
	memcpy(keys->bytes + keys->len_bytes, session->control_data, session->data_bytes);
	keys->len_bytes += session->data_bytes;
}

void
iscsi_login_request(struct iscsi_session *session)
{
	enum iscsi_login_status status = login_check(session);
	int rc;

	if (status != ISCSI_LOGIN_SUCCESS)
		return login_respond(session, status);
	if (session->keys.len_bytes + session->data_bytes > ISCSI_TEXT_BYTES_MAX)
		return login_respond(session, ISCSI_LOGIN_INITIATOR_ERROR);
	gather_keys(session);
	if (session->bhs[1] & ISCSI_CONTINUE)
		return login_respond(session, ISCSI_LOGIN_SUCCESS);
	explicit_bzero(&session->params.chap, sizeof(session->params.chap));
	rc = iscsi_keys_take(
	    &session->params, session->keys.bytes, session->keys.len_bytes, true, &session->answer);
	session->keys.len_bytes = 0;
	if (rc)
		return login_respond(session, ISCSI_LOGIN_INITIATOR_ERROR);
	if (!session->initiator.name[0])
		return login_identify(session);
	login_authenticate(session);
}

/* --- text requests --- */

static void
text_respond(struct iscsi_session *session)
{
	struct iscsi_control *control = iscsi_control_new(session, ISCSI_TEXT_RESPONSE);

	iscsi_put(control->bhs, ISCSI_AT_TAG, 4, session->text_tag);
	iscsi_put(control->bhs, ISCSI_AT_TTT, 4, ISCSI_NO_TAG);
	/* More than fits one PDU goes out in several: this one's rest is asked for by its TTT. */
	control->data = session->answer.bytes;
	control->data_bytes = (uint32_t)session->answer.len_bytes;
	if (control->data_bytes > session->params.send_bytes_max) {
		uint32_t rest = control->data_bytes - session->params.send_bytes_max;

		control->data_bytes = session->params.send_bytes_max;
		control->bhs[1] = ISCSI_CONTINUE;
		iscsi_put(control->bhs, ISCSI_AT_TTT, 4, 1);
		session->answer.bytes = xmalloc(rest);
		memcpy(session->answer.bytes, control->data + control->data_bytes, rest);
		session->answer.len_bytes = session->answer.capacity_bytes = rest;
	} else {
		session->answer = (struct iscsi_text){ 0 };
	}
	session->text_pending = false;
	iscsi_control_queue(session, control);
}

/* The targets of what is offered: all, one by its name, or those of a normal session. */
static void
list_targets(struct iscsi_session *session)
{
	const struct iscsi_offer *offer = &session->offer;
	const char *last = "";
	char address[sizeof(session->local_address) + 8];
	char wanted[ISCSI_NAME_BYTES_MAX + 1] = "";
	bool all;

	if (session->params.send_targets[0] == '\0') /* the target of this session */
		strcpy(wanted, session->params.target_name);
	else if (!export_name_normalize(session->params.send_targets, wanted))
		return;
	all = session->params.discovery && strcmp(wanted, "all") == 0;
	snprintf(address, sizeof(address), "%s," PORTAL_GROUP, session->local_address);
	for (size_t i = 0; i < offer->count; i++) {
		const char *target = offer->grants[i].target;

		if (strcmp(target, last) == 0 || (!all && strcmp(wanted, target) != 0))
			continue;
		iscsi_text_add(&session->answer, "TargetName", target);
		iscsi_text_add(&session->answer, "TargetAddress", address);
		last = target;
	}
}

void
iscsi_text_request(struct iscsi_session *session)
{
	int rc;

	session->text_tag = iscsi_get(session->bhs, ISCSI_AT_TAG, 4);
	if (iscsi_get(session->bhs, ISCSI_AT_TTT, 4) != ISCSI_NO_TAG &&
	    session->answer.len_bytes) { /* the rest of an answer */
		session->text_pending = true;
		return text_respond(session);
	}
	if (session->keys.len_bytes + session->data_bytes > ISCSI_TEXT_BYTES_MAX)
		return iscsi_session_fatal(session, "too long a text");
	gather_keys(session);
	session->text_pending = true;
	session->answer.len_bytes = 0;
	if (session->bhs[1] & ISCSI_CONTINUE)
		return text_respond(session);
	session->params.sends_targets = false;
	rc = iscsi_keys_take(&session->params, session->keys.bytes, session->keys.len_bytes, false,
	    &session->answer);
	session->keys.len_bytes = 0;
	if (rc)
		return iscsi_session_fatal(session, "keys that cannot be");
	if (session->params.sends_targets)
		list_targets(session);
	text_respond(session);
}
