/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RESERVE and RELEASE (SPC-2), and persistent reservations (SPC-4 5.9): what they forbid, and what
 * is told of them.  scsi_reserve_out.c changes them.
 */
#include <stdio.h>

#include "core/base/diag.h"
#include "frontends/scsi/scsi_internal.h"

enum {
	IN_KEYS = 0,
	IN_RESERVATION = 1,
	IN_CAPABILITIES = 2,
	IN_FULL_STATUS = 3,
	FULL_STATUS_BYTES_MAX = 24 + 4 + 256,
};

/* --- registrants --- */

bool
scsi_registrant_is(
    const struct reservation_registrant *registrant, const struct scsi_initiator *initiator)
{
	return registrant->used && strcmp(registrant->name, initiator->name) == 0 &&
	       memcmp(registrant->id, initiator->id, sizeof(registrant->id)) == 0;
}

struct reservation_registrant *
scsi_registrant_of(struct reservation *reservation, const struct scsi_initiator *initiator)
{
	for (size_t i = 0; i < RESERVATION_REGISTRANTS_MAX; i++)
		if (scsi_registrant_is(&reservation->registrants[i], initiator))
			return &reservation->registrants[i];
	return NULL;
}

bool
scsi_registrants_may(uint8_t type)
{
	return type >= RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS;
}

bool
scsi_registrant_holds(
    const struct reservation *reservation, const struct reservation_registrant *registrant)
{
	return registrant && reservation->type &&
	       (reservation_all_hold(reservation->type) ||
		   registrant == &reservation->registrants[reservation->holder]);
}

void
scsi_reservation_load(struct scsi_unit *unit, const struct volume *volume)
{
	struct scsi_reservation *reservation = &unit->reservation;
	size_t len_bytes;
	const uint8_t *note = volume_note(volume, &len_bytes);

	reservation->generation = 0;
	reservation->kept = false;
	reservation_init(&reservation->state);
	if (!note)
		return;
	if (reservation_decode(&reservation->state, note, len_bytes)) {
		diag_error("%s/%s: the persistent reservations that lie in the pool cannot be "
			   "understood, nothing is reserved",
		    volume_info(volume)->name.pool, volume_info(volume)->name.volume);
		return reservation_init(&reservation->state);
	}
	reservation->kept = true;
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
	struct reservation *reservation = &unit->reservation.state;
	const struct reservation_registrant *registrant =
	    scsi_registrant_of(reservation, &nexus->initiator);
	uint8_t type = reservation->type;

	if (unit->reserved_by && unit->reserved_by != nexus)
		return true;
	if (!type || scsi_registrant_holds(reservation, registrant) ||
	    (registrant && scsi_registrants_may(type)))
		return false;
	return writes || (type != RESERVATION_WRITE_EXCLUSIVE &&
			     type != RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS &&
			     type != RESERVATION_WRITE_EXCLUSIVE_ALL);
}

bool
scsi_reservation_forbids(const struct scsi_task *task)
{
	struct scsi_unit *unit = task->unit;
	enum scsi_action action = task->parsed.command->action;
	struct reservation *reservation = &unit->reservation.state;
	const struct reservation_registrant *registrant;
	uint8_t type = reservation->type;

	if (unit->reserved_by && unit->reserved_by != task->nexus)
		return action != SCSI_INQUIRY && action != SCSI_REQUEST_SENSE &&
		       action != SCSI_REPORT_LUNS && action != SCSI_RELEASE;
	if (!type || always_allowed(task))
		return false;
	registrant = scsi_registrant_of(reservation, &task->nexus->initiator);
	if (scsi_registrant_holds(reservation, registrant) ||
	    (registrant && scsi_registrants_may(type)))
		return false;
	if (type == RESERVATION_WRITE_EXCLUSIVE ||
	    type == RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS ||
	    type == RESERVATION_WRITE_EXCLUSIVE_ALL)
		return changes_medium(task) || action == SCSI_RESERVE || action == SCSI_RELEASE ||
		       action == SCSI_START_STOP_UNIT || action == SCSI_SYNCHRONIZE_CACHE;
	return true;
}

/* --- RESERVE, RELEASE --- */

void
scsi_run_reserve(struct scsi_task *task)
{
	if (!reservation_is_empty(&task->unit->reservation.state))
		return scsi_finish(task, SCSI_RESERVATION_CONFLICT);
	task->unit->reserved_by = task->nexus;
	scsi_good(task);
}

void
scsi_run_release(struct scsi_task *task)
{
	if (!reservation_is_empty(&task->unit->reservation.state))
		return scsi_finish(task, SCSI_RESERVATION_CONFLICT);
	if (task->unit->reserved_by == task->nexus)
		task->unit->reserved_by = NULL;
	scsi_good(task);
}

/* --- PERSISTENT RESERVE IN --- */

static size_t
put_full_status(const struct reservation *reservation,
    const struct reservation_registrant *registrant, uint8_t *at)
{
	bool holds = scsi_registrant_holds(reservation, registrant);
	const uint8_t *id = registrant->id;
	uint8_t *name = at + 28;
	size_t name_bytes;

	put_be64(at, registrant->key);
	at[12] = 0x02 | holds; /* ALL_TG_PT: whatever other targets have the volume as a unit */
	at[13] = holds ? reservation->type : 0;
	put_be16(at + 18, SCSI_RELATIVE_PORT);
	at[24] = 0x45; /* iSCSI, with the initiator session's ISID */
	name_bytes = (size_t)sprintf((char *)name, "%s,i,0x%02x%02x%02x%02x%02x%02x",
	    registrant->name, id[0], id[1], id[2], id[3], id[4], id[5]);
	name_bytes = round_up(name_bytes + 1, 4);
	put_be16(at + 26, name_bytes);
	put_be32(at + 20, 4 + name_bytes);
	return 28 + name_bytes;
}

static size_t
put_registrants(const struct reservation *reservation, bool full, uint8_t *answer)
{
	size_t at = 8;

	for (size_t i = 0; i < RESERVATION_REGISTRANTS_MAX; i++) {
		const struct reservation_registrant *registrant = &reservation->registrants[i];

		if (!registrant->used)
			continue;
		if (full) {
			at += put_full_status(reservation, registrant, answer + at);
		} else {
			put_be64(answer + at, registrant->key);
			at += 8;
		}
	}
	return at;
}

static void
answer_capabilities(struct scsi_task *task)
{
	uint8_t answer[8] = { 0 };

	put_be16(answer, sizeof(answer));
	answer[2] = 0x0c | scsi_reservation_can_be_kept(task->unit); /* SIP_C, ATP_C; PTPL_C */
	answer[3] = 0x80 | task->unit->reservation.kept; /* the mask of types is valid; PTPL_A */
	answer[4] = 0xea;
	answer[5] = 0x01;
	scsi_answer_bytes(task, answer, sizeof(answer));
}

void
scsi_run_persistent_in(struct scsi_task *task)
{
	const struct reservation *reservation = &task->unit->reservation.state;
	unsigned action = task->parsed.command->service_action;
	uint8_t *answer;
	size_t at = 8;

	if (action == IN_CAPABILITIES)
		return answer_capabilities(task);
	answer = scsi_answer_begin(task, 8 + RESERVATION_REGISTRANTS_MAX * FULL_STATUS_BYTES_MAX);
	if (!answer)
		return;
	put_be32(answer, task->unit->reservation.generation);
	if (action == IN_KEYS || action == IN_FULL_STATUS) {
		at = put_registrants(reservation, action == IN_FULL_STATUS, answer);
	} else if (reservation->type) {
		if (!reservation_all_hold(reservation->type))
			put_be64(answer + 8, reservation->registrants[reservation->holder].key);
		answer[21] = reservation->type;
		at = 24;
	}
	put_be32(answer + 4, at - 8);
	scsi_answer(task, at);
}
