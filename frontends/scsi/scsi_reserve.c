/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RESERVE and RELEASE (SPC-2), and persistent reservations (SPC-4 5.9), without APTPL: they last
 * until the daemon ends.
 */
#include <stdio.h>

#include "frontends/scsi/scsi_internal.h"

enum {
	PR_WRITE_EXCLUSIVE = 1,
	PR_EXCLUSIVE_ACCESS = 3,
	PR_WRITE_EXCLUSIVE_REGISTRANTS = 5,
	PR_EXCLUSIVE_ACCESS_REGISTRANTS = 6,
	PR_WRITE_EXCLUSIVE_ALL = 7,
	PR_EXCLUSIVE_ACCESS_ALL = 8,
	IN_KEYS = 0,
	IN_RESERVATION = 1,
	IN_CAPABILITIES = 2,
	IN_FULL_STATUS = 3,
	OUT_REGISTER = 0,
	OUT_RESERVE = 1,
	OUT_RELEASE = 2,
	OUT_CLEAR = 3,
	OUT_PREEMPT = 4,
	OUT_PREEMPT_AND_ABORT = 5,
	OUT_REGISTER_AND_IGNORE = 6,
	OUT_REGISTER_AND_MOVE = 7,
	OUT_LIST_BYTES = 24,
	FULL_STATUS_BYTES_MAX = 24 + 4 + 256,
};

/* --- registrants --- */

static struct scsi_registrant *
registrant_of(struct scsi_unit *unit, const struct scsi_initiator *initiator)
{
	for (size_t i = 0; i < SCSI_REGISTRANTS_MAX; i++) {
		struct scsi_registrant *registrant = &unit->reservation.registrants[i];

		if (registrant->used && scsi_initiator_equal(&registrant->initiator, initiator))
			return registrant;
	}
	return NULL;
}

/* Every registrant holds a reservation of these types. */
static bool
all_hold(uint8_t type)
{
	return type == PR_WRITE_EXCLUSIVE_ALL || type == PR_EXCLUSIVE_ACCESS_ALL;
}

static bool
registrants_may(uint8_t type)
{
	return type >= PR_WRITE_EXCLUSIVE_REGISTRANTS;
}

static bool
holds(const struct scsi_unit *unit, const struct scsi_registrant *registrant)
{
	return registrant && unit->reservation.type &&
	       (all_hold(unit->reservation.type) || unit->reservation.holder == registrant);
}

static void
tell(struct scsi_unit *unit, const struct scsi_initiator *initiator, enum scsi_asc asc)
{
	list_for_each(link, &unit->nexuses) {
		struct scsi_nexus *nexus = container_of(link, struct scsi_nexus, link);

		if (scsi_initiator_equal(&nexus->initiator, initiator))
			scsi_attention(nexus, asc);
	}
}

/* All registrants but @except. */
static void
tell_registrants(struct scsi_unit *unit, const struct scsi_registrant *except, enum scsi_asc asc)
{
	for (size_t i = 0; i < SCSI_REGISTRANTS_MAX; i++) {
		const struct scsi_registrant *registrant = &unit->reservation.registrants[i];

		if (registrant->used && registrant != except)
			tell(unit, &registrant->initiator, asc);
	}
}

static void
reservation_end(struct scsi_unit *unit, const struct scsi_registrant *by)
{
	uint8_t type = unit->reservation.type;

	unit->reservation.type = 0;
	unit->reservation.holder = NULL;
	if (registrants_may(type))
		tell_registrants(unit, by, SCSI_ASC_RESERVATIONS_RELEASED);
}

static bool
others_registered(const struct scsi_unit *unit, const struct scsi_registrant *except)
{
	for (size_t i = 0; i < SCSI_REGISTRANTS_MAX; i++)
		if (unit->reservation.registrants[i].used &&
		    &unit->reservation.registrants[i] != except)
			return true;
	return false;
}

static void
unregister(struct scsi_unit *unit, struct scsi_registrant *registrant)
{
	bool held = holds(unit, registrant);

	registrant->used = false;
	if (held && (!all_hold(unit->reservation.type) || !others_registered(unit, registrant)))
		reservation_end(unit, registrant);
}

/* --- what a reservation forbids --- */

static bool
changes_medium(const struct scsi_task *task)
{
	const struct scsi_command *command = task->parsed.command;

	return command->writes || command->action == SCSI_MODE_SELECT ||
	       command->action == SCSI_UNMAP || command->action == SCSI_EXTENDED_COPY;
}

static bool
always_allowed(const struct scsi_task *task)
{
	switch (task->parsed.command->action) {
	case SCSI_INQUIRY:
	case SCSI_REQUEST_SENSE:
	case SCSI_REPORT_LUNS:
	case SCSI_REPORT_OPCODES:
	case SCSI_REPORT_TASK_MANAGEMENT:
	case SCSI_REPORT_TARGET_PORT_GROUPS:
	case SCSI_PERSISTENT_RESERVE_IN:
	case SCSI_PERSISTENT_RESERVE_OUT:
	case SCSI_TEST_UNIT_READY:
	case SCSI_READ_CAPACITY_10:
	case SCSI_READ_CAPACITY_16:
	case SCSI_LOG_SENSE:
		return true;
	case SCSI_PREVENT_ALLOW:
		return !(task->parsed.bytes[4] & 1);
	case SCSI_START_STOP_UNIT:
		return task->parsed.bytes[4] & 1;
	default:
		return false;
	}
}

bool
scsi_reservation_excludes(const struct scsi_nexus *nexus, bool writes)
{
	struct scsi_unit *unit = nexus->unit;
	const struct scsi_registrant *registrant = registrant_of(unit, &nexus->initiator);
	uint8_t type = unit->reservation.type;

	if (unit->reserved_by && unit->reserved_by != nexus)
		return true;
	if (!type || holds(unit, registrant) || (registrant && registrants_may(type)))
		return false;
	return writes || (type != PR_WRITE_EXCLUSIVE && type != PR_WRITE_EXCLUSIVE_REGISTRANTS &&
			     type != PR_WRITE_EXCLUSIVE_ALL);
}

bool
scsi_reservation_forbids(const struct scsi_task *task)
{
	struct scsi_unit *unit = task->unit;
	enum scsi_action action = task->parsed.command->action;
	const struct scsi_registrant *registrant;
	uint8_t type = unit->reservation.type;

	if (unit->reserved_by && unit->reserved_by != task->nexus)
		return action != SCSI_INQUIRY && action != SCSI_REQUEST_SENSE &&
		       action != SCSI_REPORT_LUNS && action != SCSI_RELEASE;
	if (!type || always_allowed(task))
		return false;
	registrant = registrant_of(unit, &task->nexus->initiator);
	if (holds(unit, registrant) || (registrant && registrants_may(type)))
		return false;
	if (type == PR_WRITE_EXCLUSIVE || type == PR_WRITE_EXCLUSIVE_REGISTRANTS ||
	    type == PR_WRITE_EXCLUSIVE_ALL)
		return changes_medium(task) || action == SCSI_RESERVE || action == SCSI_RELEASE ||
		       action == SCSI_START_STOP_UNIT || action == SCSI_SYNCHRONIZE_CACHE;
	return true;
}

/* --- RESERVE, RELEASE --- */

void
scsi_run_reserve(struct scsi_task *task)
{
	if (others_registered(task->unit, NULL))
		return scsi_finish(task, SCSI_RESERVATION_CONFLICT);
	task->unit->reserved_by = task->nexus;
	scsi_good(task);
}

void
scsi_run_release(struct scsi_task *task)
{
	if (others_registered(task->unit, NULL))
		return scsi_finish(task, SCSI_RESERVATION_CONFLICT);
	if (task->unit->reserved_by == task->nexus)
		task->unit->reserved_by = NULL;
	scsi_good(task);
}

/* --- PERSISTENT RESERVE IN --- */

static size_t
put_full_status(const struct scsi_unit *unit, const struct scsi_registrant *registrant, uint8_t *at)
{
	const uint8_t *id = registrant->initiator.id;
	uint8_t *name = at + 28;
	size_t name_bytes;

	put_be64(at, registrant->key);
	at[12] = holds(unit, registrant) ? 1 : 0;
	at[13] = holds(unit, registrant) ? unit->reservation.type : 0;
	put_be16(at + 18, SCSI_RELATIVE_PORT);
	at[24] = 0x45; /* iSCSI, with the initiator session's ISID */
	name_bytes = (size_t)sprintf((char *)name, "%s,i,0x%02x%02x%02x%02x%02x%02x",
	    registrant->initiator.name, id[0], id[1], id[2], id[3], id[4], id[5]);
	name_bytes = round_up(name_bytes + 1, 4);
	put_be16(at + 26, name_bytes);
	put_be32(at + 20, 4 + name_bytes);
	return 28 + name_bytes;
}

static size_t
put_registrants(const struct scsi_task *task, bool full, uint8_t *answer)
{
	struct scsi_reservation *reservation = &task->unit->reservation;
	size_t at = 8;

	for (size_t i = 0; i < SCSI_REGISTRANTS_MAX; i++) {
		const struct scsi_registrant *registrant = &reservation->registrants[i];

		if (!registrant->used)
			continue;
		if (full) {
			at += put_full_status(task->unit, registrant, answer + at);
		} else {
			put_be64(answer + at, registrant->key);
			at += 8;
		}
	}
	return at;
}

void
scsi_run_persistent_in(struct scsi_task *task)
{
	struct scsi_reservation *reservation = &task->unit->reservation;
	unsigned action = task->parsed.command->service_action;
	uint8_t *answer = scsi_answer_begin(task, 8 + SCSI_REGISTRANTS_MAX * FULL_STATUS_BYTES_MAX);
	size_t at = 8;

	if (!answer)
		return;
	if (action == IN_CAPABILITIES) {
		put_be16(answer, 8);
		answer[2] = 0x00; /* no APTPL, no ALL_TG_PT */
		answer[3] = 0x80; /* the mask of types is valid */
		answer[4] = 0xea;
		answer[5] = 0x01;
		return scsi_answer(task, 8);
	}
	put_be32(answer, reservation->generation);
	if (action == IN_KEYS || action == IN_FULL_STATUS) {
		at = put_registrants(task, action == IN_FULL_STATUS, answer);
	} else if (reservation->type) {
		if (!all_hold(reservation->type))
			put_be64(answer + 8, reservation->holder->key);
		answer[21] = reservation->type;
		at = 24;
	}
	put_be32(answer + 4, at - 8);
	scsi_answer(task, at);
}

/* --- PERSISTENT RESERVE OUT --- */

static void
conflict(struct scsi_task *task)
{
	scsi_finish(task, SCSI_RESERVATION_CONFLICT);
}

static void
out_register(struct scsi_task *task, struct scsi_registrant *registrant, uint64_t key,
    uint64_t new_key, bool ignores)
{
	struct scsi_unit *unit = task->unit;

	if (!ignores && key != (registrant ? registrant->key : 0))
		return conflict(task);
	for (size_t i = 0; !registrant && new_key && i < SCSI_REGISTRANTS_MAX; i++) {
		if (unit->reservation.registrants[i].used)
			continue;
		registrant = &unit->reservation.registrants[i];
		*registrant = (struct scsi_registrant){
			.initiator = task->nexus->initiator,
			.used = true,
		};
	}
	if (new_key && !registrant)
		return scsi_check_condition(
		    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INSUFFICIENT_REGISTRATION_RESOURCES);
	if (new_key)
		registrant->key = new_key;
	else if (registrant)
		unregister(unit, registrant);
	unit->reservation.generation++;
	scsi_good(task);
}

static void
out_reserve(struct scsi_task *task, struct scsi_registrant *registrant, uint8_t type)
{
	struct scsi_reservation *reservation = &task->unit->reservation;

	if (reservation->type) {
		if (!holds(task->unit, registrant) || reservation->type != type)
			return conflict(task);
		return scsi_good(task);
	}
	reservation->type = type;
	reservation->holder = all_hold(type) ? NULL : registrant;
	scsi_good(task);
}

static void
out_release(struct scsi_task *task, struct scsi_registrant *registrant, uint8_t type)
{
	if (!holds(task->unit, registrant))
		return scsi_good(task);
	if (task->unit->reservation.type != type) {
		scsi_sense_set(&task->reason, SCSI_ILLEGAL_REQUEST, (enum scsi_asc)0x2604);
		return scsi_refuse(task); /* INVALID RELEASE OF PERSISTENT RESERVATION */
	}
	reservation_end(task->unit, registrant);
	scsi_good(task);
}

static void
out_clear(struct scsi_task *task, struct scsi_registrant *registrant)
{
	struct scsi_reservation *reservation = &task->unit->reservation;

	tell_registrants(task->unit, registrant, SCSI_ASC_RESERVATIONS_PREEMPTED);
	memset(reservation->registrants, 0, sizeof(reservation->registrants));
	reservation->type = 0;
	reservation->holder = NULL;
	reservation->generation++;
	scsi_good(task);
}

static void
abort_tasks_of(struct scsi_unit *unit, const struct scsi_initiator *initiator)
{
	list_for_each(link, &unit->nexuses) {
		struct scsi_nexus *nexus = container_of(link, struct scsi_nexus, link);

		if (scsi_initiator_equal(&nexus->initiator, initiator))
			scsi_nexus_abort(nexus);
	}
}

/* Removes those registered with @key (all but ours if it is 0); whether there was one. */
static bool
preempt(struct scsi_task *task, const struct scsi_registrant *ours, uint64_t key, bool aborts)
{
	struct scsi_unit *unit = task->unit;
	bool found = false;

	for (size_t i = 0; i < SCSI_REGISTRANTS_MAX; i++) {
		struct scsi_registrant *registrant = &unit->reservation.registrants[i];

		if (!registrant->used || (key && registrant->key != key))
			continue;
		found = true;
		if (registrant == ours)
			continue;
		registrant->used = false;
		tell(unit, &registrant->initiator, SCSI_ASC_REGISTRATIONS_PREEMPTED);
		if (aborts)
			abort_tasks_of(unit, &registrant->initiator);
	}
	return found;
}

static void
out_preempt(struct scsi_task *task, struct scsi_registrant *registrant, uint64_t key, uint8_t type,
    bool aborts)
{
	struct scsi_reservation *reservation = &task->unit->reservation;
	bool takes = reservation->type &&
		     (all_hold(reservation->type) ? key == 0 : reservation->holder->key == key);

	if (key == 0 && !(reservation->type && all_hold(reservation->type)))
		return scsi_refuse_parameter(task, 8, 8);
	if (takes) {
		uint8_t old = reservation->type;

		reservation->type = type;
		reservation->holder = all_hold(type) ? NULL : registrant;
		preempt(task, registrant, key, aborts);
		if (old != type)
			tell_registrants(task->unit, registrant, SCSI_ASC_RESERVATIONS_RELEASED);
	} else if (!preempt(task, registrant, key, aborts)) {
		return conflict(task);
	}
	reservation->generation++;
	scsi_good(task);
}

static bool
type_known(uint8_t type)
{
	return type == PR_WRITE_EXCLUSIVE || type == PR_EXCLUSIVE_ACCESS ||
	       (type >= PR_WRITE_EXCLUSIVE_REGISTRANTS && type <= PR_EXCLUSIVE_ACCESS_ALL);
}

void
scsi_run_persistent_out(struct scsi_task *task)
{
	unsigned action = task->parsed.command->service_action;
	const uint8_t *list = scsi_payload(&task->data_out);
	uint8_t type = task->parsed.bytes[2] & 0x0f;
	bool has_type = action == OUT_RESERVE || action == OUT_RELEASE || action == OUT_PREEMPT ||
			action == OUT_PREEMPT_AND_ABORT;
	bool registers = action == OUT_REGISTER || action == OUT_REGISTER_AND_IGNORE;
	struct scsi_registrant *registrant = registrant_of(task->unit, &task->nexus->initiator);
	uint64_t key, service_key;

	if (task->unit->reserved_by)
		return conflict(task);
	if (task->data_out.len_bytes != OUT_LIST_BYTES)
		return scsi_check_condition(
		    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
	if (has_type && (task->parsed.bytes[2] >> 4 || !type_known(type)))
		return scsi_refuse_cdb(task, 2, 8);
	if (list[20]) /* SPEC_I_PT, ALL_TG_PT, APTPL */
		return scsi_refuse_parameter(task, 20, 8);
	key = read_be(list, 8);
	service_key = read_be(list + 8, 8);
	if (registers)
		return out_register(
		    task, registrant, key, service_key, action == OUT_REGISTER_AND_IGNORE);
	if (!registrant || registrant->key != key)
		return conflict(task);
	switch (action) {
	case OUT_RESERVE:
		return out_reserve(task, registrant, type);
	case OUT_RELEASE:
		return out_release(task, registrant, type);
	case OUT_CLEAR:
		return out_clear(task, registrant);
	default:
		return out_preempt(
		    task, registrant, service_key, type, action == OUT_PREEMPT_AND_ABORT);
	}
}
