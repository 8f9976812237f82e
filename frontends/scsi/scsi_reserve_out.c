/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PERSISTENT RESERVE OUT.
 *
 *   (wait for the turn) ─► CHANGE ─┬───────────────► APPLY ─► answer
 *                                  └─► KEEP (note) ─►┘
 *
 * PREEMPT AND ABORT is answered when what it aborted is gone, so that a node that was fenced has
 * no write under way any more.
 *
 * CHANGE makes of the unit's reservations the next ones, beside them, and notes who is to be told.
 * If they are kept over power loss (APTPL), or were until now, the next ones are then written to
 * the volume's note, durably; only after that they are APPLIED: they take effect, registrants hear
 * of it, and the command is answered.  A crash before the note is durable leaves the old ones, and
 * no answer; behind it the new ones, answered or not.  If the note cannot be written, the old ones
 * stay in force and the command fails.
 *
 * One change of a unit is under way at a time: who comes meanwhile waits for his turn (in the order
 * of unit->tasks), other commands do not.
 */
#include <stdlib.h>

#include "frontends/scsi/scsi_internal.h"

enum {
	OUT_REGISTER = 0,
	OUT_RESERVE = 1,
	OUT_RELEASE = 2,
	OUT_CLEAR = 3,
	OUT_PREEMPT = 4,
	OUT_PREEMPT_AND_ABORT = 5,
	OUT_REGISTER_AND_IGNORE = 6,
	OUT_REGISTER_AND_MOVE = 7,
	OUT_LIST_BYTES = 24,
	OUT_APTPL = 0x01,
	OUT_ALL_TG_PT = 0x04, /* every registration holds at all targets of the volume */
	OUT_SPEC_I_PT = 0x08,
	OUT_UNREG = 0x02,         /* REGISTER AND MOVE */
	TRANSPORT_ID_PORT = 0x45, /* an iSCSI name with an ISID */
};
#define ISID_DIGITS (2 * SCSI_PORT_ID_BYTES)

struct scsi_change {
	struct scsi_task *task;
	struct scsi_reservation next;
	enum scsi_asc told[RESERVATION_REGISTRANTS_MAX]; /* to registrants, by their old place */
	bool aborts; /* the tasks of those whose registration is preempted */
	uint64_t import;
	struct admin_request keep;
};

/* --- CHANGE --- */

static struct reservation_registrant *
registrant_of(struct scsi_change *change)
{
	return scsi_registrant_of(&change->next.state, &change->task->nexus->initiator);
}

static bool
holds(const struct scsi_change *change, const struct reservation_registrant *registrant)
{
	return scsi_registrant_holds(&change->next.state, registrant);
}

/* All registrants but @except. */
static void
tell_others(
    struct scsi_change *change, const struct reservation_registrant *except, enum scsi_asc asc)
{
	for (size_t i = 0; i < RESERVATION_REGISTRANTS_MAX; i++) {
		const struct reservation_registrant *registrant =
		    &change->next.state.registrants[i];

		if (registrant->used && registrant != except)
			change->told[i] = asc;
	}
}

/* @by is registered, or was. */
static void
reserve(struct scsi_change *change, uint8_t type, const struct reservation_registrant *by)
{
	struct reservation *state = &change->next.state;

	state->type = type;
	state->holder = type && !reservation_all_hold(type) ? (int16_t)(by - state->registrants)
							    : RESERVATION_NOBODY;
}

static void
reservation_end(struct scsi_change *change, const struct reservation_registrant *by)
{
	uint8_t type = change->next.state.type;

	reserve(change, RESERVATION_NONE, NULL);
	if (scsi_registrants_may(type))
		tell_others(change, by, SCSI_ASC_RESERVATIONS_RELEASED);
}

static void
unregister(struct scsi_change *change, struct reservation_registrant *registrant)
{
	bool held = holds(change, registrant);

	memset(registrant, 0, sizeof(*registrant));
	if (held && (!reservation_all_hold(change->next.state.type) ||
			reservation_is_empty(&change->next.state)))
		reservation_end(change, registrant);
}

/* NULL: there is no room. */
static struct reservation_registrant *
register_new(struct scsi_change *change, const struct scsi_initiator *initiator)
{
	for (size_t i = 0; i < RESERVATION_REGISTRANTS_MAX; i++) {
		struct reservation_registrant *registrant = &change->next.state.registrants[i];

		if (registrant->used)
			continue;
		*registrant = (struct reservation_registrant){ .used = true };
		strcpy(registrant->name, initiator->name);
		memcpy(registrant->id, initiator->id, sizeof(registrant->id));
		return registrant;
	}
	return NULL;
}
static_assert(
    RESERVATION_NAME_BYTES == SCSI_NAME_BYTES_MAX && RESERVATION_ID_BYTES == SCSI_PORT_ID_BYTES,
    "every initiator can be registered");

/* --- initiator ports that are not the sender's --- */

static int
hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef0123456789ABCDEF";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) % 16 : -1;
}

/* NAME,i,0xISID.  A name alone (all ports of a device) is none: registrants are ports. */
static bool
parse_port(const char *text, struct scsi_initiator *port)
{
	const char *separator = strstr(text, ",i,0x");
	const char *digits = separator ? separator + strlen(",i,0x") : NULL;
	size_t name_bytes = separator ? (size_t)(separator - text) : 0;

	if (name_bytes == 0 || name_bytes >= sizeof(port->name) || strlen(digits) != ISID_DIGITS)
		return false;
	*port = (struct scsi_initiator){ 0 };
	memcpy(port->name, text, name_bytes);
	for (unsigned i = 0; i < ISID_DIGITS; i++) {
		int digit = hex_digit(digits[i]);

		if (digit < 0)
			return false;
		port->id[i / 2] = (uint8_t)(port->id[i / 2] << 4 | digit);
	}
	return true;
}

/* The TransportID at @at; its length, 0: it is none of ours. */
static size_t
take_transport_id(const uint8_t *at, size_t left_bytes, struct scsi_initiator *port)
{
	size_t len_bytes = left_bytes >= 4 ? 4 + (size_t)read_be(at + 2, 2) : 0;

	if (len_bytes < 24 || len_bytes % 4 || len_bytes > left_bytes ||
	    at[0] != TRANSPORT_ID_PORT || at[1] || !memchr(at + 4, '\0', len_bytes - 4) ||
	    !parse_port((const char *)at + 4, port))
		return 0;
	return len_bytes;
}

/* --- the changes --- */

/* These finish the task and return false, or make a change that is to be applied. */

static bool
conflict(struct scsi_task *task)
{
	scsi_finish(task, SCSI_RESERVATION_CONFLICT);
	return false;
}

static bool
refuse_list(struct scsi_task *task, uint16_t byte)
{
	scsi_refuse_parameter(task, byte, 8);
	return false;
}

static bool
no_room(struct scsi_task *task)
{
	scsi_check_condition(
	    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INSUFFICIENT_REGISTRATION_RESOURCES);
	return false;
}

/* SPEC_I_PT: those ports that are listed, too; all of them, or nobody. */
static bool
register_listed(struct scsi_change *change, uint64_t key)
{
	struct scsi_task *task = change->task;
	const uint8_t *list = scsi_payload(&task->data_out);
	size_t end = task->data_out.len_bytes, bytes;

	for (size_t at = OUT_LIST_BYTES + 4; at < end; at += bytes) {
		struct scsi_initiator port;
		struct reservation_registrant *registrant;

		bytes = take_transport_id(list + at, end - at, &port);
		if (bytes == 0 || scsi_registrant_of(&change->next.state, &port))
			return refuse_list(task, (uint16_t)min_u64(at, UINT16_MAX));
		registrant = register_new(change, &port);
		if (!registrant)
			return no_room(task);
		registrant->key = key;
	}
	return true;
}

static bool
out_register(struct scsi_change *change, uint64_t key, uint64_t new_key, bool ignores)
{
	struct scsi_task *task = change->task;
	struct reservation_registrant *registrant = registrant_of(change);
	uint8_t flags = scsi_payload(&task->data_out)[20];
	bool keeps = flags & OUT_APTPL;

	if (!ignores && key != (registrant ? registrant->key : 0))
		return conflict(task);
	if (keeps && !scsi_reservation_can_be_kept(task->unit)) {
		scsi_refuse_parameter(task, 20, 0);
		return false;
	}
	if (flags & OUT_SPEC_I_PT && (registrant || !new_key))
		return refuse_list(task, registrant ? 20 : 8);
	if (new_key && !registrant)
		registrant = register_new(change, &task->nexus->initiator);
	if (new_key && !registrant)
		return no_room(task);
	if (new_key)
		registrant->key = new_key;
	else if (registrant)
		unregister(change, registrant);
	if (flags & OUT_SPEC_I_PT && !register_listed(change, new_key))
		return false;
	change->next.kept = keeps;
	change->next.generation++;
	return true;
}

/* The reservation goes to another port, which is registered if it was not. */
static bool
out_move(struct scsi_change *change, struct reservation_registrant *ours, uint64_t key)
{
	struct scsi_task *task = change->task;
	const uint8_t *list = scsi_payload(&task->data_out);
	size_t list_bytes = task->data_out.len_bytes;
	struct reservation *state = &change->next.state;
	struct reservation_registrant *registrant;
	struct scsi_initiator port;

	if (!state->type || reservation_all_hold(state->type) || !holds(change, ours))
		return conflict(task);
	if (!key)
		return refuse_list(task, 8);
	if (list[17] & OUT_APTPL && !scsi_reservation_can_be_kept(task->unit))
		return refuse_list(task, 17);
	if (read_be(list + 18, 2) != SCSI_RELATIVE_PORT)
		return refuse_list(task, 18);
	if (take_transport_id(list + OUT_LIST_BYTES, list_bytes - OUT_LIST_BYTES, &port) !=
		list_bytes - OUT_LIST_BYTES ||
	    scsi_registrant_is(ours, &port))
		return refuse_list(task, OUT_LIST_BYTES);
	registrant = scsi_registrant_of(state, &port);
	if (!registrant)
		registrant = register_new(change, &port);
	if (!registrant)
		return no_room(task);
	registrant->key = key;
	reserve(change, state->type, registrant);
	if (list[17] & OUT_UNREG)
		unregister(change, ours);
	change->next.kept = list[17] & OUT_APTPL;
	change->next.generation++;
	return true;
}

static bool
out_reserve(struct scsi_change *change, struct reservation_registrant *registrant, uint8_t type)
{
	const struct reservation *state = &change->next.state;

	if (state->type && (!holds(change, registrant) || state->type != type))
		return conflict(change->task);
	if (!state->type)
		reserve(change, type, registrant);
	return true;
}

static bool
out_release(struct scsi_change *change, struct reservation_registrant *registrant, uint8_t type)
{
	if (!holds(change, registrant))
		return true;
	if (change->next.state.type != type) {
		scsi_check_condition(change->task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_RELEASE);
		return false;
	}
	reservation_end(change, registrant);
	return true;
}

static bool
out_clear(struct scsi_change *change, const struct reservation_registrant *registrant)
{
	tell_others(change, registrant, SCSI_ASC_RESERVATIONS_PREEMPTED);
	reservation_init(&change->next.state);
	change->next.generation++;
	return true;
}

/* Removes those registered with @key (all but ours if it is 0); whether there was one. */
static bool
preempt(struct scsi_change *change, const struct reservation_registrant *ours, uint64_t key)
{
	bool found = false;

	for (size_t i = 0; i < RESERVATION_REGISTRANTS_MAX; i++) {
		struct reservation_registrant *registrant = &change->next.state.registrants[i];

		if (!registrant->used || (key && registrant->key != key))
			continue;
		found = true;
		if (registrant == ours)
			continue;
		memset(registrant, 0, sizeof(*registrant));
		change->told[i] = SCSI_ASC_REGISTRATIONS_PREEMPTED;
	}
	return found;
}

static bool
out_preempt(struct scsi_change *change, struct reservation_registrant *registrant, uint64_t key,
    uint8_t type, bool aborts)
{
	struct reservation *state = &change->next.state;
	uint8_t old = state->type;
	bool takes =
	    old &&
	    (reservation_all_hold(old) ? key == 0 : state->registrants[state->holder].key == key);

	if (key == 0 && !(old && reservation_all_hold(old))) {
		scsi_refuse_parameter(change->task, 8, 8);
		return false;
	}
	change->aborts = aborts;
	if (!preempt(change, registrant, key) && !takes)
		return conflict(change->task);
	if (takes) {
		reserve(change, type, registrant);
		if (old != type)
			tell_others(change, registrant, SCSI_ASC_RESERVATIONS_RELEASED);
	}
	change->next.generation++;
	return true;
}

/* False: the task is finished. */
static bool
make_change(struct scsi_change *change)
{
	struct scsi_task *task = change->task;
	unsigned action = task->parsed.command->service_action;
	const uint8_t *list = scsi_payload(&task->data_out);
	uint8_t type = task->parsed.bytes[2] & 0x0f;
	struct reservation_registrant *registrant = registrant_of(change);
	uint64_t key = read_be(list, 8), service_key = read_be(list + 8, 8);

	if (task->unit->reserved_by)
		return conflict(task);
	if (action == OUT_REGISTER || action == OUT_REGISTER_AND_IGNORE)
		return out_register(change, key, service_key, action == OUT_REGISTER_AND_IGNORE);
	if (!registrant || registrant->key != key)
		return conflict(task);
	switch (action) {
	case OUT_RESERVE:
		return out_reserve(change, registrant, type);
	case OUT_RELEASE:
		return out_release(change, registrant, type);
	case OUT_CLEAR:
		return out_clear(change, registrant);
	case OUT_REGISTER_AND_MOVE:
		return out_move(change, registrant, service_key);
	default:
		return out_preempt(
		    change, registrant, service_key, type, action == OUT_PREEMPT_AND_ABORT);
	}
}

/* --- APPLY --- */

static void
tell(const struct scsi_change *change, const struct reservation_registrant *registrant,
    enum scsi_asc asc)
{
	const struct scsi_nexus *by = change->task->nexus;

	list_for_each(link, &by->unit->nexuses) {
		struct scsi_nexus *nexus = container_of(link, struct scsi_nexus, link);
		const struct scsi_initiator *initiator = &nexus->initiator;

		if (!scsi_registrant_is(registrant, initiator))
			continue;
		scsi_attention(nexus, asc);
		if (change->aborts && asc == SCSI_ASC_REGISTRATIONS_PREEMPTED)
			scsi_nexus_abort_by(nexus, by);
	}
}

static void
apply(struct scsi_unit *unit, const struct scsi_change *change)
{
	struct scsi_reservation *old = xmalloc(sizeof(*old));

	*old = unit->reservation;
	unit->reservation = change->next;
	CHECK(reservation_invariant(&unit->reservation.state));
	for (size_t i = 0; i < RESERVATION_REGISTRANTS_MAX; i++)
		if (change->told[i])
			tell(change, &old->state.registrants[i], change->told[i]);
	free(old);
}

static void
change_free(struct scsi_change *change)
{
	change->task->change = NULL;
	admin_request_fini(&change->keep);
	free(change);
}

/* --- KEEP --- */

/* The change is in force.  Who is fenced has nothing under way when that is answered. */
static void
answer(struct scsi_task *task, bool aborts)
{
	task->awaits_aborts = aborts;
	if (!aborts)
		scsi_good(task);
	else
		scsi_unit_aborted(task->unit);
}

static void begin(struct scsi_task *task);

/* Those that waited go on, until there is one to wait for again. */
static void
next_turns(struct scsi_unit *unit)
{
	list_for_each_safe(link, &unit->tasks) {
		struct scsi_task *task = container_of(link, struct scsi_task, link);

		if (unit->reserving)
			return;
		if (!task->awaits_turn)
			continue;
		task->awaits_turn = false;
		/* It ends only behind this, so that the unit stays. */
		task->in_run = true;
		begin(task);
		task->in_run = false;
	}
}

static void
kept(struct admin_request *request)
{
	struct scsi_change *change = container_of(request, struct scsi_change, keep);
	struct scsi_task *task = change->task;
	struct scsi_unit *unit = task->unit;
	int error = request->error.code;
	bool aborts = change->aborts;

	CHECK(unit->reserving == task);
	unit->reserving = NULL;
	if (!error && unit->import != change->import)
		error = -ESHUTDOWN; /* the pool came back meanwhile, and the note was read */
	if (!error)
		apply(unit, change);
	change_free(change);
	task->in_run = true;
	task->io.op = VOLUME_WRITE; /* for the sense */
	if (task->aborted)
		scsi_finish(task, SCSI_TASK_ABORTED);
	else if (error == -ENOENT)
		scsi_fail(task, -ESHUTDOWN);
	else if (error)
		scsi_fail(task, error);
	else
		answer(task, aborts);
	task->in_run = false;
	next_turns(unit);
}

static void
keep(struct scsi_change *change)
{
	struct scsi_task *task = change->task;
	const struct volume_info *info = volume_info(task->nexus->volume);

	task->unit->reserving = task;
	task->change = change;
	change->import = task->unit->import;
	change->keep = (struct admin_request){
		.verb = ADMIN_NOTE_SET,
		.name = info->name,
		.uuid = info->uuid,
		.note = NOTE_RESERVATIONS,
		.done = kept,
	};
	if (change->next.kept)
		change->keep.note_bytes =
		    reservation_encode(&change->next.state, &change->keep.note_len_bytes);
	target_admin(task->unit->port->target, &change->keep);
}

static void
begin(struct scsi_task *task)
{
	struct scsi_unit *unit = task->unit;
	struct scsi_change *change;
	bool aborts;

	if (task->aborted)
		return scsi_finish(task, SCSI_TASK_ABORTED);
	change = xcalloc(1, sizeof(*change));
	change->task = task;
	change->next = unit->reservation;
	if (!make_change(change))
		return change_free(change);
	if (reservation_is_empty(&change->next.state))
		change->next.kept = false;
	if (change->next.kept || unit->reservation.kept)
		return keep(change);
	apply(unit, change);
	aborts = change->aborts;
	change_free(change);
	answer(task, aborts);
}

/* How long the list has to be, as it says itself; 0: it cannot be. */
static size_t
list_bytes_of(const struct scsi_task *task, unsigned action)
{
	const uint8_t *list = scsi_payload(&task->data_out);
	size_t bytes = task->data_out.len_bytes;

	if (bytes < OUT_LIST_BYTES)
		return 0;
	if (action == OUT_REGISTER_AND_MOVE)
		return OUT_LIST_BYTES + (size_t)read_be(list + 20, 4);
	if (action == OUT_REGISTER && list[20] & OUT_SPEC_I_PT)
		return bytes < OUT_LIST_BYTES + 4
			   ? 0
			   : OUT_LIST_BYTES + 4 + (size_t)read_be(list + 24, 4);
	return OUT_LIST_BYTES;
}

/* The flags that the action has, in the byte where it has them. */
static uint8_t
known_flags(unsigned action)
{
	switch (action) {
	case OUT_REGISTER:
		return OUT_APTPL | OUT_ALL_TG_PT | OUT_SPEC_I_PT;
	case OUT_REGISTER_AND_IGNORE:
		return OUT_APTPL | OUT_ALL_TG_PT;
	case OUT_REGISTER_AND_MOVE:
		return OUT_APTPL | OUT_UNREG;
	default:
		return OUT_APTPL; /* counts where it is registered */
	}
}

void
scsi_run_persistent_out(struct scsi_task *task)
{
	unsigned action = task->parsed.command->service_action;
	const uint8_t *list = scsi_payload(&task->data_out);
	uint16_t flags_at = action == OUT_REGISTER_AND_MOVE ? 17 : 20;
	bool has_type = action == OUT_RESERVE || action == OUT_RELEASE || action == OUT_PREEMPT ||
			action == OUT_PREEMPT_AND_ABORT;

	if (task->unit->reserved_by)
		return (void)conflict(task);
	if (list_bytes_of(task, action) == 0 ||
	    list_bytes_of(task, action) != task->data_out.len_bytes)
		return scsi_check_condition(
		    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
	if (has_type &&
	    (task->parsed.bytes[2] >> 4 || !reservation_type_known(task->parsed.bytes[2] & 0x0f)))
		return scsi_refuse_cdb(task, 2, 8);
	if (list[flags_at] & ~known_flags(action))
		return scsi_refuse_parameter(task, flags_at, 8);
	task->awaits_turn = task->unit->reserving;
	if (!task->awaits_turn)
		begin(task);
}
