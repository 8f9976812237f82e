/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Login and text requests.
 *
 * A login request is: keys gathered until there is no C bit; keys negotiated; then, in the first
 * request of a normal session, the volume opened by its target name.  Before full feature phase
 * begins, an older session of the same initiator port to the same target is ended (session
 * reinstatement) and waited for.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "frontends/iscsi/iscsi_session.h"

#define TARGET_PREFIX "iqn.2026-11.io.quarry:"
#define PORTAL_GROUP "1"

/* --- target names: what an IQN has no letter for is written :XX, and so is a pool's dot --- */

static size_t
put_part(char *out, const char *part, bool dots)
{
	size_t at = 0;

	for (; *part; part++) {
		if (islower((unsigned char)*part) || isdigit((unsigned char)*part) ||
		    *part == '-' || (dots && *part == '.'))
			out[at++] = *part;
		else
			at += (size_t)sprintf(out + at, ":%02x", (unsigned char)*part);
	}
	return at;
}

/* "" if the name is too long for one. */
void
iscsi_target_name(const struct name *name, char out[ISCSI_NAME_BYTES_MAX + 1])
{
	char text[sizeof(TARGET_PREFIX) + 9 * (NAME_SIZE + 1)];
	size_t at = (size_t)sprintf(text, TARGET_PREFIX);

	at += put_part(text + at, name->pool, false);
	text[at++] = '.';
	at += put_part(text + at, name->volume, true);
	if (name->snapshot[0]) {
		at += put_part(text + at, "@", false);
		at += put_part(text + at, name->snapshot, true);
	}
	text[at] = '\0';
	out[0] = '\0';
	if (at <= ISCSI_NAME_BYTES_MAX)
		memcpy(out, text, at + 1);
}

int
iscsi_target_parse(const char *target, struct name *name)
{
	char text[ISCSI_NAME_BYTES_MAX + 2];
	size_t at = 0;
	bool in_volume = false;

	if (strncmp(target, TARGET_PREFIX, strlen(TARGET_PREFIX)) != 0)
		return -EINVAL;
	for (target += strlen(TARGET_PREFIX); *target; target++) {
		char hex[3] = { 0 };

		if (*target == ':') {
			if (!isxdigit((unsigned char)target[1]) ||
			    !isxdigit((unsigned char)target[2]))
				return -EINVAL;
			memcpy(hex, target + 1, 2);
			text[at++] = (char)strtoul(hex, NULL, 16);
			target += 2;
		} else if (*target == '.' && !in_volume) {
			text[at++] = '/';
			in_volume = true;
		} else {
			text[at++] = *target;
		}
	}
	text[at] = '\0';
	return in_volume && strlen(text) == at ? name_parse(name, text, NULL) : -EINVAL;
}

/* --- login --- */

static void
login_respond(struct iscsi_session *session, enum iscsi_login_status status)
{
	struct iscsi_control *control = iscsi_control_new(session, ISCSI_LOGIN_RESPONSE);
	unsigned next = session->bhs[1] & 3;
	bool transit = session->bhs[1] & ISCSI_TRANSIT;

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

/* Ends an older session of the same initiator port and target; true: there is one to wait for. */
static bool
reinstate(struct iscsi_session *session)
{
	list_for_each(link, &session->portal->sessions) {
		struct iscsi_session *other = container_of(link, struct iscsi_session, link);

		if (other == session || other->tsih == 0 || !!other->nexus != !!session->nexus ||
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

/* The nexus that the older session had is gone: now ours begins. */
void
iscsi_login_reinstated(struct iscsi_session *session)
{
	if (session->phase == ISCSI_PHASE_REINSTATING && !reinstate(session))
		login_finish(session);
}

static void
login_transit(struct iscsi_session *session)
{
	bool transit = session->bhs[1] & ISCSI_TRANSIT;
	char number[16];

	if (session->stage == ISCSI_STAGE_OPERATIONAL && !session->params.declared) {
		snprintf(number, sizeof(number), "%u", (unsigned)ISCSI_RECEIVE_BYTES_MAX);
		iscsi_text_add(&session->answer, "MaxRecvDataSegmentLength", number);
		session->params.declared = true;
	}
	if (transit && (session->bhs[1] & 3) == ISCSI_STAGE_FULL_FEATURE) {
		if (!reinstate(session))
			login_finish(session);
		return;
	}
	login_respond(session, ISCSI_LOGIN_SUCCESS);
}

void
iscsi_session_opened(struct iscsi_session *session, int error, struct volume *volume)
{
	if (session->phase != ISCSI_PHASE_OPENING) {
		if (!error)
			volume_close(volume);
		return;
	}
	if (error)
		return login_respond(
		    session, error == -ENOENT ? ISCSI_LOGIN_NOT_FOUND : ISCSI_LOGIN_UNAVAILABLE);
	session->nexus = scsi_nexus_begin(
	    session->portal->scsi, volume, session->params.target_name, &session->initiator);
	login_transit(session);
}

/* The keys of the leading request: who is it, and what does it want? */
static void
login_identify(struct iscsi_session *session)
{
	struct iscsi_params *params = &session->params;
	struct name name;

	if (!params->initiator_name[0] || (!params->discovery && !params->target_name[0]))
		return login_respond(session, ISCSI_LOGIN_MISSING);
	strcpy(session->initiator.name, params->initiator_name);
	if (params->discovery)
		return login_transit(session);
	iscsi_text_add(&session->answer, "TargetPortalGroupTag", PORTAL_GROUP);
	if (iscsi_target_parse(params->target_name, &name))
		return login_respond(session, ISCSI_LOGIN_NOT_FOUND);
	session->phase = ISCSI_PHASE_OPENING;
	session->events->open(session, &name);
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
	rc = iscsi_keys_take(
	    &session->params, session->keys.bytes, session->keys.len_bytes, true, &session->answer);
	session->keys.len_bytes = 0;
	if (rc)
		return login_respond(session, ISCSI_LOGIN_INITIATOR_ERROR);
	if (!session->initiator.name[0])
		return login_identify(session);
	login_transit(session);
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

void
iscsi_session_names(struct iscsi_session *session, const struct name *names, size_t count)
{
	char target[ISCSI_NAME_BYTES_MAX + 1];
	char address[sizeof(session->local_address) + 8];
	char wanted[ISCSI_NAME_BYTES_MAX + 1] = "";

	if (!session->text_pending)
		return;
	iscsi_name_normalize(session->params.send_targets, wanted);
	snprintf(address, sizeof(address), "%s," PORTAL_GROUP, session->local_address);
	for (size_t i = 0; i < count; i++) {
		iscsi_target_name(&names[i], target);
		if (!target[0] || (strcmp(wanted, "all") != 0 && strcmp(wanted, target) != 0))
			continue;
		iscsi_text_add(&session->answer, "TargetName", target);
		iscsi_text_add(&session->answer, "TargetAddress", address);
	}
	text_respond(session);
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
	if (!session->params.sends_targets)
		return text_respond(session);
	/* In a normal session: of its own target only. */
	if (!session->params.discovery)
		strcpy(session->params.send_targets, session->params.target_name);
	session->events->names(session);
}
