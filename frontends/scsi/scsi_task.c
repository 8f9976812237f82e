/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a task.
 *
 *   PREPARED ─► (DORMANT) ─► ENABLED ─► FINISHED ─► released
 *
 * A task is dormant while an ORDERED one is before it, or, ORDERED itself, while any is.  What an
 * enabled task does is in one function for each action; where it waits for the engine it names the
 * function that goes on (scsi_submit).
 */
#include "frontends/scsi/scsi_internal.h"

static void (*const runs[])(struct scsi_task *task) = {
	[SCSI_TEST_UNIT_READY] = scsi_run_test_unit_ready,
	[SCSI_REQUEST_SENSE] = scsi_run_request_sense,
	[SCSI_INQUIRY] = scsi_run_inquiry,
	[SCSI_MODE_SELECT] = scsi_run_mode_select,
	[SCSI_MODE_SENSE] = scsi_run_mode_sense,
	[SCSI_RESERVE] = scsi_run_reserve,
	[SCSI_RELEASE] = scsi_run_release,
	[SCSI_START_STOP_UNIT] = scsi_run_start_stop,
	[SCSI_PREVENT_ALLOW] = scsi_run_prevent_allow,
	[SCSI_READ_CAPACITY_10] = scsi_run_capacity_10,
	[SCSI_READ_CAPACITY_16] = scsi_run_capacity_16,
	[SCSI_READ] = scsi_run_read,
	[SCSI_WRITE] = scsi_run_write,
	[SCSI_WRITE_AND_VERIFY] = scsi_run_write_verify,
	[SCSI_VERIFY] = scsi_run_verify,
	[SCSI_PRE_FETCH] = scsi_run_pre_fetch,
	[SCSI_SYNCHRONIZE_CACHE] = scsi_run_flush,
	[SCSI_WRITE_SAME] = scsi_run_write_same,
	[SCSI_UNMAP] = scsi_run_unmap,
	[SCSI_COMPARE_AND_WRITE] = scsi_run_compare_write,
	[SCSI_ORWRITE] = scsi_run_orwrite,
	[SCSI_WRITE_ATOMIC] = scsi_run_write_atomic,
	[SCSI_GET_LBA_STATUS] = scsi_run_lba_status,
	[SCSI_READ_DEFECT_DATA] = scsi_run_defect_data,
	[SCSI_LOG_SENSE] = scsi_run_log_sense,
	[SCSI_PERSISTENT_RESERVE_IN] = scsi_run_persistent_in,
	[SCSI_PERSISTENT_RESERVE_OUT] = scsi_run_persistent_out,
	[SCSI_EXTENDED_COPY] = scsi_run_extended_copy,
	[SCSI_RECEIVE_COPY_RESULTS] = scsi_run_copy_results,
	[SCSI_SANITIZE] = scsi_run_sanitize,
	[SCSI_REPORT_LUNS] = scsi_run_report_luns,
	[SCSI_REPORT_TARGET_PORT_GROUPS] = scsi_run_port_groups,
	[SCSI_REPORT_OPCODES] = scsi_run_opcodes,
	[SCSI_REPORT_TASK_MANAGEMENT] = scsi_run_task_management,
};

/* --- buffers --- */

static bool
buffer_take(
    struct scsi_task *task, struct scsi_buffer *buffer, uint64_t offset_bytes, uint64_t len_bytes)
{
	struct buffer_pool *pool = task->nexus->unit->port->buffers;
	uint32_t head_bytes = (uint32_t)(offset_bytes % BLOCK_BYTES);
	size_t capacity_bytes = round_up(head_bytes + len_bytes, BLOCK_BYTES);

	buffer->bytes = buffer_get(pool, capacity_bytes);
	if (!buffer->bytes && task->may_borrow)
		buffer->bytes = buffer_get_beyond(pool, capacity_bytes);
	if (!buffer->bytes)
		return false;
	buffer->capacity_bytes = capacity_bytes;
	buffer->offset_bytes = head_bytes;
	buffer->len_bytes = (uint32_t)len_bytes;
	return true;
}

static void
buffer_drop(struct scsi_task *task, struct scsi_buffer *buffer)
{
	if (buffer->bytes)
		buffer_put(task->nexus->unit->port->buffers, buffer->bytes, buffer->capacity_bytes);
	*buffer = (struct scsi_buffer){ 0 };
}

bool
scsi_buffer_get(
    struct scsi_task *task, struct scsi_buffer *buffer, uint64_t offset_bytes, uint64_t len_bytes)
{
	if (buffer_take(task, buffer, offset_bytes, len_bytes))
		return true;
	scsi_finish(task, SCSI_BUSY);
	return false;
}

/* --- the end --- */

static void
finish_run(struct task *step)
{
	struct scsi_task *task = container_of(step, struct scsi_task, step);
	struct scsi_unit *unit = task->nexus->unit;

	list_remove(&task->link);
	if (task->attribute == SCSI_ORDERED)
		unit->ordered--;
	scsi_unit_pump(unit);
	if (task->aborted)
		scsi_unit_aborted(unit);
	task->done(task);
}

void
scsi_finish(struct scsi_task *task, enum scsi_status status)
{
	CHECK(task->state != SCSI_TASK_FINISHED);
	task->state = SCSI_TASK_FINISHED;
	task->status = status;
	if (status == SCSI_CHECK_CONDITION)
		task->sense_bytes = (uint8_t)scsi_sense_encode(
		    &task->reason, task->unit && task->unit->descriptor_sense, task->sense);
	if (status != SCSI_GOOD && status != SCSI_CONDITION_MET)
		task->data_in.len_bytes = 0;
	if (!task->refused) {
		uint64_t in_bytes = task->data_in.len_bytes;

		if (status == SCSI_GOOD && task->parsed.command->data == SCSI_DATA_IN_BLOCKS)
			in_bytes = task->parsed.data_in_bytes;
		if (status == SCSI_GOOD && task->answered_bytes)
			in_bytes = task->answered_bytes;
		task->residual_in_bytes = (int64_t)in_bytes - task->expected_in_bytes;
		task->residual_out_bytes =
		    (int64_t)task->parsed.data_out_bytes - task->expected_out_bytes;
	} else {
		task->residual_in_bytes = -(int64_t)task->expected_in_bytes;
		task->residual_out_bytes = -(int64_t)task->expected_out_bytes;
	}
	task_init(&task->step, finish_run);
	if (task->in_run)
		reactor_defer(task->nexus->unit->port->reactor, &task->step);
	else
		finish_run(&task->step);
}

void
scsi_good(struct scsi_task *task)
{
	scsi_finish(task, SCSI_GOOD);
}

void
scsi_refuse(struct scsi_task *task)
{
	scsi_finish(task, SCSI_CHECK_CONDITION);
}

void
scsi_check_condition(struct scsi_task *task, enum scsi_key key, enum scsi_asc asc)
{
	scsi_sense_set(&task->reason, key, asc);
	scsi_refuse(task);
}

void
scsi_refuse_cdb(struct scsi_task *task, uint16_t byte, unsigned bit)
{
	scsi_sense_field(&task->reason, SCSI_ASC_INVALID_FIELD_IN_CDB, true, byte, bit);
	scsi_refuse(task);
}

void
scsi_refuse_parameter(struct scsi_task *task, uint16_t byte, unsigned bit)
{
	scsi_sense_field(&task->reason, SCSI_ASC_INVALID_FIELD_IN_PARAMETERS, false, byte, bit);
	scsi_refuse(task);
}

void
scsi_fail(struct scsi_task *task, int error)
{
	bool reads = task->io.op == VOLUME_READ;

	switch (error) {
	case -ENOSPC:
		return scsi_check_condition(
		    task, SCSI_DATA_PROTECT, SCSI_ASC_SPACE_ALLOCATION_FAILED);
	case -EROFS:
		return scsi_check_condition(task, SCSI_DATA_PROTECT, SCSI_ASC_WRITE_PROTECTED);
	case -EIO:
	case -EUCLEAN:
		return scsi_check_condition(
		    task, SCSI_MEDIUM_ERROR, reads ? SCSI_ASC_READ_ERROR : SCSI_ASC_WRITE_ERROR);
	case -EINVAL: /* the volume became smaller meanwhile */
		return scsi_check_condition(task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_LBA_OUT_OF_RANGE);
	case -ESHUTDOWN:
		return scsi_check_condition(task, SCSI_NOT_READY, SCSI_ASC_NOT_READY);
	case -ENOMEM:
		return scsi_finish(task, SCSI_BUSY);
	default:
		return scsi_check_condition(task, SCSI_HARDWARE_ERROR, SCSI_ASC_INTERNAL_FAILURE);
	}
}

/* --- answers --- */

uint8_t *
scsi_answer_begin(struct scsi_task *task, size_t len_bytes)
{
	if (!scsi_buffer_get(task, &task->data_in, 0, len_bytes))
		return NULL;
	memset(task->data_in.bytes, 0, len_bytes);
	return task->data_in.bytes;
}

void
scsi_answer(struct scsi_task *task, size_t len_bytes)
{
	len_bytes = min_u64(len_bytes, task->parsed.data_in_bytes);
	task->answered_bytes = len_bytes;
	task->data_in.len_bytes = (uint32_t)min_u64(len_bytes, task->expected_in_bytes);
	scsi_good(task);
}

void
scsi_answer_bytes(struct scsi_task *task, const void *bytes, size_t len_bytes)
{
	uint8_t *to = scsi_answer_begin(task, len_bytes);

	if (!to)
		return;
	memcpy(to, bytes, len_bytes);
	scsi_answer(task, len_bytes);
}

/* --- the engine --- */

static void
io_done(struct volume_io *io)
{
	struct scsi_task *task = container_of(io, struct scsi_task, io);

	/* Something else is done for an aborted task only to its end. */
	if (task->aborted)
		scsi_finish(task, SCSI_TASK_ABORTED);
	else if (io->error && io->error != -ECANCELED &&
		 task->parsed.command->action != SCSI_EXTENDED_COPY)
		scsi_fail(task, io->error);
	else
		task->then(task);
}

void
scsi_submit(struct scsi_task *task, enum volume_op op, uint64_t offset_bytes, uint64_t len_bytes,
    void *buffer, void (*then)(struct scsi_task *task))
{
	scsi_submit_to(task, task->nexus->volume, op, offset_bytes, len_bytes, buffer, then);
}

void
scsi_submit_to(struct scsi_task *task, struct volume *volume, enum volume_op op,
    uint64_t offset_bytes, uint64_t len_bytes, void *buffer, void (*then)(struct scsi_task *task))
{
	bool changes = op != VOLUME_READ && op != VOLUME_FLUSH && op != VOLUME_STATUS;

	task->then = then;
	task->io.op = op;
	task->io.flags = changes && scsi_cdb_fua(&task->parsed) ? VOLUME_FUA : 0;
	if (task->parsed.command->action == SCSI_WRITE_ATOMIC)
		task->io.flags |= VOLUME_ATOMIC;
	task->io.offset_bytes = offset_bytes;
	task->io.len_bytes = len_bytes;
	task->io.buffer = buffer;
	task->io.done = io_done;
	volume_submit(volume, &task->io);
}

/* --- running --- */

/* The volume was resized: everybody is told, this nexus at once. */
static void
notice_size(struct scsi_nexus *nexus)
{
	uint64_t size_bytes = volume_info(nexus->volume)->size_bytes;

	if (size_bytes == nexus->unit->size_bytes)
		return;
	nexus->unit->size_bytes = size_bytes;
	scsi_attention_all(nexus->unit, NULL, SCSI_ASC_CAPACITY_CHANGED);
}

/* The pool has become fuller than a threshold: everybody is told, this nexus at once. */
static void
notice_threshold(struct scsi_nexus *nexus)
{
	unsigned percent = volume_warned_percent(nexus->volume);

	if (percent > nexus->unit->warned_percent)
		scsi_attention_all(nexus->unit, NULL, SCSI_ASC_THIN_THRESHOLD);
	nexus->unit->warned_percent = percent;
}

bool
scsi_nexus_poll(struct scsi_nexus *nexus)
{
	bool changed;

	notice_size(nexus);
	changed = nexus->announced_bytes != nexus->unit->size_bytes;
	nexus->announced_bytes = nexus->unit->size_bytes;
	return changed;
}

/* Commands that neither report nor clear a unit attention. */
static bool
ignores_attentions(enum scsi_action action)
{
	return action == SCSI_INQUIRY || action == SCSI_REPORT_LUNS || action == SCSI_REQUEST_SENSE;
}

static void
run_without_unit(struct scsi_task *task)
{
	if (task->parsed.command && !task->refused) {
		enum scsi_action action = task->parsed.command->action;

		if (action == SCSI_INQUIRY || action == SCSI_REPORT_LUNS ||
		    action == SCSI_REQUEST_SENSE)
			return runs[action](task);
	}
	scsi_check_condition(task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_LUN_NOT_SUPPORTED);
}

/* Blocks may be fewer or more than were announced: what came is written.  All else must fit. */
static bool
wrong_data_out(const struct scsi_task *task)
{
	uint32_t wanted_bytes = task->parsed.data_out_bytes;

	switch (task->parsed.command->data) {
	case SCSI_DATA_OUT_TWICE:
	case SCSI_DATA_OUT_PATTERN:
		return wanted_bytes != task->expected_out_bytes;
	case SCSI_DATA_OUT_BYTES:
	case SCSI_DATA_OUT_BYTCHK:
		return wanted_bytes > task->expected_out_bytes;
	default:
		return false;
	}
}

static void
run(struct scsi_task *task)
{
	const struct scsi_command *command = task->parsed.command;
	enum scsi_asc asc;

	if (task->aborted)
		return scsi_finish(task, SCSI_TASK_ABORTED);
	if (!task->unit)
		return run_without_unit(task);
	if (!(command && ignores_attentions(command->action)) &&
	    scsi_attention_take(task->nexus, &asc))
		return scsi_check_condition(task, SCSI_UNIT_ATTENTION, asc);
	if (command && scsi_reservation_forbids(task))
		return scsi_finish(task, SCSI_RESERVATION_CONFLICT);
	if (task->refused)
		return scsi_refuse(task);
	if (scsi_sanitize_forbids(task))
		return scsi_refuse(task);
	if (task->no_buffer)
		return scsi_finish(task, SCSI_BUSY);
	if (command->writes && scsi_unit_readonly(task->nexus))
		return scsi_check_condition(task, SCSI_DATA_PROTECT, SCSI_ASC_WRITE_PROTECTED);
	if (task->unit->stopped && (command->lba_bytes || command->action == SCSI_UNMAP ||
				       command->action == SCSI_SANITIZE))
		return scsi_check_condition(task, SCSI_NOT_READY, SCSI_ASC_STOPPED);
	if (wrong_data_out(task))
		return scsi_check_condition(
		    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
	runs[command->action](task);
}

static void
enable(struct scsi_task *task)
{
	task->state = SCSI_TASK_ENABLED;
	task->in_run = true;
	run(task);
	task->in_run = false;
}

static bool
may_run(const struct scsi_task *task)
{
	const struct scsi_unit *unit = task->nexus->unit;

	if (task->attribute == SCSI_HEAD_OF_QUEUE || unit->ordered == 0 || task->aborted)
		return true;
	list_for_each(link, &unit->tasks) {
		const struct scsi_task *other = container_of(link, struct scsi_task, link);

		if (other == task)
			return true;
		if (task->attribute == SCSI_ORDERED || other->attribute == SCSI_ORDERED)
			return false;
	}
	return true;
}

void
scsi_unit_pump(struct scsi_unit *unit)
{
	list_for_each_safe(link, &unit->tasks) {
		struct scsi_task *task = container_of(link, struct scsi_task, link);

		if (task->state == SCSI_TASK_DORMANT && may_run(task))
			enable(task);
	}
	if (unit->sanitize)
		scsi_sanitize_pump(unit->sanitize);
}

void
scsi_task_abort(struct scsi_task *task)
{
	task->aborted = true;
	task->tells_abort = false;
}

void
scsi_task_spoil(struct scsi_task *task)
{
	task->refused = true;
	scsi_sense_set(&task->reason, SCSI_ABORTED_COMMAND, SCSI_ASC_DATA_PHASE_ERROR);
}

/* --- the beginning --- */

void
scsi_task_prepare(struct scsi_task *task)
{
	struct scsi_geometry geometry;
	uint64_t wanted_bytes;

	notice_size(task->nexus);
	notice_threshold(task->nexus);
	list_init(&task->link);
	task->state = SCSI_TASK_PREPARED;
	task->unit = scsi_lun_number(task->lun) == task->nexus->lun ? task->nexus->unit : NULL;
	if (task->unit) {
		geometry.blocks = scsi_blocks(task->unit);
		geometry.block_bytes = task->unit->block_bytes;
	}
	task->refused = !scsi_cdb_parse(&task->parsed, task->cdb, task->cdb_bytes,
	    task->unit ? &geometry : NULL, &task->reason);
	if (task->refused || !task->unit)
		return;
	wanted_bytes = min_u64(task->parsed.data_out_bytes, task->expected_out_bytes);
	if (wanted_bytes == 0)
		return;
	task->no_buffer = !buffer_take(task, &task->data_out,
	    task->parsed.command->lba_bytes ? scsi_offset_bytes(task) : 0, wanted_bytes);
}

void
scsi_task_execute(struct scsi_task *task)
{
	struct scsi_unit *unit = task->nexus->unit;

	task->state = SCSI_TASK_DORMANT;
	list_push_back(&unit->tasks, &task->link);
	if (task->attribute == SCSI_ORDERED)
		unit->ordered++;
	if (may_run(task))
		enable(task);
}

void
scsi_task_release(struct scsi_task *task)
{
	CHECK(list_empty(&task->link));
	buffer_drop(task, &task->data_out);
	buffer_drop(task, &task->data_in);
	buffer_drop(task, &task->scratch);
}
