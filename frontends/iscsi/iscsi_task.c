/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SCSI commands of a session: their data in, their data and status out, and task management.
 *
 * Data-Out comes in order (DataPDUInOrder, DataSequenceInOrder), one R2T is outstanding at a time;
 * what lies beyond what the command wants is skipped.
 */
#include "core/base/diag.h"
#include "frontends/iscsi/iscsi_session.h"

static void task_done(struct scsi_task *scsi);

/* --- life of a task --- */

static struct iscsi_task *
task_new(struct iscsi_session *session)
{
	struct list *link = list_pop_front(&session->free_tasks);
	struct iscsi_task *task;

	if (!link)
		return NULL;
	task = container_of(link, struct iscsi_task, link);
	memset(task, 0, sizeof(*task));
	list_init(&task->ready);
	task->session = session;
	list_push_back(&session->tasks, &task->link);
	return task;
}

void
iscsi_task_free(struct iscsi_task *task)
{
	struct iscsi_session *session = task->session;

	CHECK(!task->executing);
	scsi_task_release(&task->scsi);
	if (task->immediate)
		session->immediates_used--;
	else
		session->tasks_used--;
	if (session->task == task) /* its data, half here, go nowhere */
		session->task = NULL;
	list_remove(&task->ready);
	list_remove(&task->link);
	list_push_front(&session->free_tasks, &task->link);
}

static struct iscsi_task *
task_find(struct iscsi_session *session, uint32_t tag)
{
	list_for_each(link, &session->tasks) {
		struct iscsi_task *task = container_of(link, struct iscsi_task, link);

		if (task->scsi.tag == tag && !task->answered)
			return task;
	}
	return NULL;
}

static void
task_ready(struct iscsi_task *task)
{
	if (list_empty(&task->ready))
		list_push_back(&task->session->ready, &task->ready);
	task->session->events->output(task->session);
}

/* Goes on when all that is under way of its data has come. */
static void
task_advance(struct iscsi_task *task)
{
	if (task->executing || task->answered || task->unsolicited ||
	    task->received_bytes < task->solicited_end)
		return;
	if (task->received_bytes < task->scsi.data_out.len_bytes) {
		task->wants_r2t = true;
		return task_ready(task);
	}
	task->executing = true;
	scsi_task_execute(&task->scsi);
}

/* --- data from the initiator --- */

/* The present PDU's data, from @offset_bytes on, are of the task. */
static void
expect_data(struct iscsi_session *session, struct iscsi_task *task, uint32_t offset_bytes)
{
	uint32_t wanted_bytes = task->scsi.data_out.len_bytes;
	uint32_t here_bytes = 0;

	session->task = task;
	if (offset_bytes < wanted_bytes)
		here_bytes = (uint32_t)min_u64(session->data_bytes, wanted_bytes - offset_bytes);
	session->payload = here_bytes ? scsi_payload(&task->scsi.data_out) + offset_bytes : NULL;
	session->payload_left = here_bytes;
	session->skip_left = session->data_bytes - here_bytes;
}

void
iscsi_command_begin(struct iscsi_session *session)
{
	static const enum scsi_attribute attributes[] = { SCSI_SIMPLE, SCSI_SIMPLE, SCSI_ORDERED,
		SCSI_HEAD_OF_QUEUE, SCSI_ACA, SCSI_SIMPLE, SCSI_SIMPLE, SCSI_SIMPLE };
	const uint8_t *bhs = session->bhs;
	uint32_t expected_bytes = iscsi_get(bhs, ISCSI_AT_EXPECTED_BYTES, 4);
	bool final = bhs[1] & ISCSI_FINAL;
	struct iscsi_task *task;

	if ((session->data_bytes && !(bhs[1] & ISCSI_WRITE)) ||
	    (session->data_bytes && !session->params.immediate_data) ||
	    session->data_bytes > expected_bytes ||
	    session->data_bytes > session->params.first_burst_bytes)
		return iscsi_session_fatal(session, "immediate data against what was agreed on");
	if (!final && (session->params.initial_r2t || !(bhs[1] & ISCSI_WRITE)))
		return iscsi_session_fatal(session, "unsolicited data against what was agreed on");
	task = task_new(session);
	if (!task)
		return iscsi_session_fatal(session, "more commands than the window allows");
	task->immediate = bhs[0] & ISCSI_IMMEDIATE;
	if (task->immediate)
		session->immediates_used++;
	else
		session->tasks_used++;
	task->scsi.nexus = iscsi_session_nexus(session, bhs + ISCSI_AT_LUN);
	if (!task->scsi.nexus) /* any: it will answer that there is no such unit */
		task->scsi.nexus = session->nexuses[0];
	task->scsi.done = task_done;
	task->scsi.tag = iscsi_get(bhs, ISCSI_AT_TAG, 4);
	task->scsi.attribute = attributes[bhs[1] & 7];
	task->scsi.may_borrow = session->tasks_used + session->immediates_used <= 1;
	memcpy(task->scsi.lun, bhs + ISCSI_AT_LUN, 8);
	memcpy(task->scsi.cdb, bhs + ISCSI_AT_CDB, 16);
	task->scsi.cdb_bytes = 16;
	if (bhs[1] & ISCSI_WRITE)
		task->scsi.expected_out_bytes = expected_bytes;
	else if (bhs[1] & ISCSI_READ)
		task->scsi.expected_in_bytes = expected_bytes;
	scsi_task_prepare(&task->scsi);
	task->unsolicited = !final;
	expect_data(session, task, 0);
}

void
iscsi_data_out_begin(struct iscsi_session *session)
{
	struct iscsi_task *task = task_find(session, iscsi_get(session->bhs, ISCSI_AT_TAG, 4));
	uint32_t offset_bytes = iscsi_get(session->bhs, ISCSI_AT_BUFFER_OFFSET, 4);
	uint32_t limit_bytes;

	if (!task || task->executing)
		return; /* of a task that was aborted: skipped */
	limit_bytes = task->unsolicited ? (uint32_t)min_u64(session->params.first_burst_bytes,
					      task->scsi.expected_out_bytes)
					: task->solicited_end;
	if (offset_bytes != task->received_bytes || session->data_bytes > limit_bytes ||
	    offset_bytes > limit_bytes - session->data_bytes)
		return iscsi_session_fatal(session, "Data-Out is not what was asked for");
	if (iscsi_get(session->bhs, ISCSI_AT_DATA_SN, 4) != task->data_out_sn++)
		scsi_task_spoil(&task->scsi);
	expect_data(session, task, offset_bytes);
}

/* The data of a command or Data-Out are all here. */
void
iscsi_data_out_end(struct iscsi_session *session)
{
	struct iscsi_task *task = session->task;
	bool is_command = (session->bhs[0] & ISCSI_OPCODE_BITS) == ISCSI_COMMAND;

	if (!task)
		return;
	session->task = NULL;
	task->received_bytes += session->data_bytes;
	if (!is_command && session->bhs[1] & ISCSI_FINAL) {
		task->unsolicited = false;
		if (task->received_bytes < task->solicited_end)
			return iscsi_session_fatal(session, "less Data-Out than was asked for");
	}
	task_advance(task);
}

/* --- answers --- */

static void
others_output(struct iscsi_session *session)
{
	list_for_each(link, &session->portal->sessions) {
		struct iscsi_session *other = container_of(link, struct iscsi_session, link);

		if (!list_empty(&other->controls))
			other->events->output(other);
	}
}

static void
task_done(struct scsi_task *scsi)
{
	struct iscsi_task *task = container_of(scsi, struct iscsi_task, scsi);
	struct iscsi_session *session = task->session;

	task->executing = false;
	task->answered = true;
	if (scsi->aborted)
		others_output(session); /* a task management response may have waited for it */
	if ((!scsi->aborted || scsi->tells_abort) && !session->ending) {
		task_ready(task);
		return;
	}
	iscsi_task_free(task);
	if (session->ending && list_empty(&session->tasks))
		session->events->idle(session);
}

static bool
gather_r2t(struct iscsi_session *session, struct iscsi_task *task)
{
	struct iscsi_out *out = iscsi_out_begin(session);
	uint32_t bytes = (uint32_t)min_u64(
	    session->params.max_burst_bytes, task->scsi.data_out.len_bytes - task->received_bytes);

	if (!out)
		return false;
	out->head[0] = ISCSI_R2T;
	out->head[1] = ISCSI_FINAL;
	memcpy(out->head + ISCSI_AT_LUN, task->scsi.lun, 8);
	iscsi_put(out->head, ISCSI_AT_TAG, 4, task->scsi.tag);
	if (++session->next_ttt == ISCSI_NO_TAG)
		session->next_ttt = 1;
	iscsi_put(out->head, ISCSI_AT_TTT, 4, session->next_ttt);
	iscsi_put(out->head, ISCSI_AT_R2T_SN, 4, task->r2t_sn++);
	iscsi_put(out->head, ISCSI_AT_BUFFER_OFFSET, 4, task->received_bytes);
	iscsi_put(out->head, ISCSI_AT_DESIRED_BYTES, 4, bytes);
	task->solicited_end = task->received_bytes + bytes;
	task->data_out_sn = 0;
	task->wants_r2t = false;
	iscsi_out_end(session, out, false);
	list_remove(&task->ready);
	return true;
}

static void
put_residual(uint8_t *head, const struct scsi_task *scsi)
{
	int64_t residual =
	    scsi->expected_out_bytes ? scsi->residual_out_bytes : scsi->residual_in_bytes;

	if (scsi->expected_out_bytes == 0 && scsi->expected_in_bytes == 0 && residual == 0)
		residual = scsi->residual_out_bytes;
	if (residual == 0)
		return;
	head[1] |= residual > 0 ? ISCSI_OVERFLOW : ISCSI_UNDERFLOW;
	iscsi_put(head, ISCSI_AT_RESIDUAL, 4, (uint32_t)(residual > 0 ? residual : -residual));
}

/* One Data-In; the last one brings the status, if that is good. */
static bool
gather_data_in(struct iscsi_session *session, struct iscsi_task *task)
{
	struct scsi_task *scsi = &task->scsi;
	struct iscsi_out *out = iscsi_out_begin(session);
	uint32_t left_bytes = scsi->data_in.len_bytes - task->sent_bytes;
	uint32_t burst_left =
	    session->params.max_burst_bytes - task->sent_bytes % session->params.max_burst_bytes;
	uint32_t bytes =
	    (uint32_t)min_u64(left_bytes, min_u64(session->params.send_bytes_max, burst_left));
	bool last = bytes == left_bytes;

	if (!out)
		return false;
	out->head[0] = ISCSI_DATA_IN;
	out->head[1] = last || bytes == burst_left ? ISCSI_FINAL : 0;
	memcpy(out->head + ISCSI_AT_LUN, scsi->lun, 8);
	iscsi_put(out->head, ISCSI_AT_TAG, 4, scsi->tag);
	iscsi_put(out->head, ISCSI_AT_TTT, 4, ISCSI_NO_TAG);
	iscsi_put(out->head, ISCSI_AT_DATA_SN, 4, task->data_in_sn++);
	iscsi_put(out->head, ISCSI_AT_BUFFER_OFFSET, 4, task->sent_bytes);
	out->data = scsi_payload(&scsi->data_in) + task->sent_bytes;
	out->data_bytes = bytes;
	task->sent_bytes += bytes;
	if (last) {
		out->head[1] |= ISCSI_STATUS_IN_DATA;
		out->head[3] = (uint8_t)scsi->status;
		put_residual(out->head, scsi);
		out->last_of = task;
		list_remove(&task->ready);
	}
	iscsi_out_end(session, out, last);
	return true;
}

static bool
gather_response(struct iscsi_session *session, struct iscsi_task *task)
{
	const struct scsi_task *scsi = &task->scsi;
	struct iscsi_out *out = iscsi_out_begin(session);

	if (!out)
		return false;
	out->head[0] = ISCSI_RESPONSE;
	out->head[1] = ISCSI_FINAL;
	out->head[3] = (uint8_t)scsi->status;
	iscsi_put(out->head, ISCSI_AT_TAG, 4, scsi->tag);
	iscsi_put(out->head, ISCSI_AT_DATA_SN, 4, task->data_in_sn);
	put_residual(out->head, scsi);
	if (scsi->sense_bytes) {
		iscsi_put(out->sense, 0, 2, scsi->sense_bytes);
		memcpy(out->sense + 2, scsi->sense, scsi->sense_bytes);
		out->data = out->sense;
		out->data_bytes = 2u + scsi->sense_bytes;
	}
	out->last_of = task;
	iscsi_out_end(session, out, true);
	list_remove(&task->ready);
	return true;
}

/* One PDU of what the task has to send; false: no room is left. */
bool
iscsi_task_gather(struct iscsi_session *session, struct iscsi_task *task)
{
	if (task->wants_r2t)
		return gather_r2t(session, task);
	if (task->scsi.data_in.len_bytes)
		return gather_data_in(session, task);
	return gather_response(session, task);
}

/* --- task management --- */

enum {
	TMF_ABORT_TASK = 1,
	TMF_ABORT_TASK_SET = 2,
	TMF_CLEAR_TASK_SET = 4,
	TMF_LOGICAL_UNIT_RESET = 5,
	TMF_WARM_RESET = 6,
	TMF_COLD_RESET = 7,
	TMF_REASSIGN = 8,
	TMF_DONE = 0,
	TMF_NO_TASK = 1,
	TMF_NO_LUN = 2,
	TMF_NO_REASSIGN = 4,
	TMF_NOT_SUPPORTED = 5,
};

/* Tasks that have not all of their data yet are only here. */
static void
drop_receiving(struct iscsi_session *session, const struct scsi_nexus *nexus)
{
	list_for_each_safe(link, &session->tasks) {
		struct iscsi_task *task = container_of(link, struct iscsi_task, link);

		if (!task->executing && !task->answered && (!nexus || task->scsi.nexus == nexus))
			iscsi_task_free(task);
	}
}

static uint8_t
abort_one(struct iscsi_session *session)
{
	struct iscsi_task *task =
	    task_find(session, iscsi_get(session->bhs, ISCSI_AT_REFERENCED_TAG, 4));

	if (!task)
		return TMF_NO_TASK;
	if (task->executing)
		scsi_task_abort(&task->scsi);
	else
		iscsi_task_free(task);
	return TMF_DONE;
}

static uint8_t
manage(struct iscsi_session *session)
{
	static const enum scsi_tmf functions[] = {
		[TMF_ABORT_TASK_SET] = SCSI_ABORT_TASK_SET,
		[TMF_CLEAR_TASK_SET] = SCSI_CLEAR_TASK_SET,
		[TMF_LOGICAL_UNIT_RESET] = SCSI_LOGICAL_UNIT_RESET,
		[TMF_WARM_RESET] = SCSI_LOGICAL_UNIT_RESET,
		[TMF_COLD_RESET] = SCSI_LOGICAL_UNIT_RESET,
	};
	unsigned function = session->bhs[1] & 0x7f;
	struct scsi_nexus *nexus = iscsi_session_nexus(session, session->bhs + ISCSI_AT_LUN);

	if (function == TMF_REASSIGN)
		return TMF_NO_REASSIGN;
	if (function != TMF_ABORT_TASK && function != TMF_ABORT_TASK_SET &&
	    (function < TMF_CLEAR_TASK_SET || function > TMF_COLD_RESET))
		return TMF_NOT_SUPPORTED;
	if (function <= TMF_LOGICAL_UNIT_RESET && !nexus)
		return TMF_NO_LUN;
	if (function == TMF_ABORT_TASK)
		return abort_one(session);
	if (function <= TMF_LOGICAL_UNIT_RESET) {
		drop_receiving(session, nexus);
		scsi_manage(nexus, functions[function]);
		return TMF_DONE;
	}
	drop_receiving(session, NULL); /* the target: all that this initiator sees of it */
	for (uint32_t i = 0; i < session->luns.count; i++)
		scsi_manage(session->nexuses[i], functions[function]);
	return TMF_DONE;
}

void
iscsi_task_management(struct iscsi_session *session)
{
	struct iscsi_control *control = iscsi_control_new(session, ISCSI_TASK_MANAGEMENT_RESPONSE);

	control->bhs[2] = manage(session);
	control->waits = true;
	control->closes = (session->bhs[1] & 0x7f) == TMF_COLD_RESET;
	iscsi_control_queue(session, control);
}

/* The session ends. */
void
iscsi_tasks_abandon(struct iscsi_session *session)
{
	list_for_each_safe(link, &session->tasks) {
		struct iscsi_task *task = container_of(link, struct iscsi_task, link);

		if (!task->executing)
			iscsi_task_free(task);
	}
	for (uint32_t i = 0; i < session->luns.count; i++)
		scsi_nexus_abort(session->nexuses[i]);
	if (list_empty(&session->tasks))
		session->events->idle(session);
}
