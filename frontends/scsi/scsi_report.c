/* SPDX-License-Identifier: Apache-2.0 */
/* Small answers about the unit and the target, and commands that only change a flag. */
#include "frontends/scsi/scsi_internal.h"

#define LBA_STATUS_EXTENTS_MAX 128u

void
scsi_run_test_unit_ready(struct scsi_task *task)
{
	if (task->unit->stopped)
		return scsi_check_condition(task, SCSI_NOT_READY, SCSI_ASC_STOPPED);
	scsi_good(task);
}

/* A unit attention that waits is the sense data, and is then reported. */
void
scsi_run_request_sense(struct scsi_task *task)
{
	struct scsi_sense sense = { 0 };
	uint8_t bytes[SCSI_SENSE_BYTES_MAX];
	enum scsi_asc asc;
	size_t len_bytes;

	if (!task->unit)
		scsi_sense_set(&sense, SCSI_ILLEGAL_REQUEST, SCSI_ASC_LUN_NOT_SUPPORTED);
	else if (scsi_attention_take(task->nexus, &asc))
		scsi_sense_set(&sense, SCSI_UNIT_ATTENTION, asc);
	else if (!scsi_sanitize_sense(task->unit, &sense) && task->unit->stopped)
		scsi_sense_set(&sense, SCSI_NOT_READY, SCSI_ASC_STOPPED);
	len_bytes = scsi_sense_encode(&sense, task->parsed.bytes[1] & 1, bytes);
	scsi_answer_bytes(task, bytes, len_bytes);
}

void
scsi_run_start_stop(struct scsi_task *task)
{
	bool start = task->parsed.bytes[4] & 0x01;
	bool load_eject = task->parsed.bytes[4] & 0x02;
	unsigned power = task->parsed.bytes[4] >> 4;

	if (load_eject && !start) {
		list_for_each(link, &task->unit->nexuses)
			if (container_of(link, struct scsi_nexus, link)->prevents_removal)
				return scsi_check_condition(
				    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_REMOVAL_PREVENTED);
	}
	if (power == 0) /* otherwise START is to be ignored */
		task->unit->stopped = !start;
	scsi_good(task);
}

void
scsi_run_prevent_allow(struct scsi_task *task)
{
	task->nexus->prevents_removal = task->parsed.bytes[4] & 0x01;
	scsi_good(task);
}

void
scsi_run_capacity_10(struct scsi_task *task)
{
	uint8_t answer[8];

	put_be32(answer, min_u64(scsi_blocks(task->unit) - 1, UINT32_MAX));
	put_be32(answer + 4, task->unit->block_bytes);
	scsi_answer_bytes(task, answer, sizeof(answer));
}

void
scsi_run_capacity_16(struct scsi_task *task)
{
	uint8_t answer[32] = { 0 };

	put_be64(answer, scsi_blocks(task->unit) - 1);
	put_be32(answer + 8, task->unit->block_bytes);
	answer[13] = (uint8_t)__builtin_ctz(BLOCK_BYTES / task->unit->block_bytes);
	answer[14] = 0xc0; /* LBPME, LBPRZ */
	scsi_answer_bytes(task, answer, sizeof(answer));
}

void
scsi_run_report_luns(struct scsi_task *task)
{
	const struct scsi_luns *luns = task->nexus->luns;
	uint8_t select = task->parsed.bytes[2];
	uint8_t *answer;

	if (select != 0x00 && select != 0x01 && select != 0x02)
		return scsi_refuse_cdb(task, 2, 8);
	if (task->parsed.count < 16)
		return scsi_refuse_cdb(task, 6, 8);
	answer = scsi_answer_begin(task, 8 + 8 * SCSI_LUNS_MAX);
	if (!answer)
		return;
	if (select == 0x01) /* well-known ones only: there are none */
		return scsi_answer(task, 8);
	put_be32(answer, 8 * luns->count);
	for (uint32_t i = 0; i < luns->count; i++)
		answer[8 + 8 * i + 1] = (uint8_t)luns->numbers[i];
	scsi_answer(task, 8 + 8 * luns->count);
}

/* One group, one port, which is active and optimized. */
void
scsi_run_port_groups(struct scsi_task *task)
{
	bool extended = task->parsed.bytes[1] >> 5 == 1;
	uint8_t answer[20] = { 0 };
	size_t at = extended ? 8 : 4;

	if (task->parsed.bytes[1] >> 5 > 1)
		return scsi_refuse_cdb(task, 1, 7);
	put_be32(answer, at + 12 - 4);
	if (extended)
		answer[4] = 0x10;
	answer[at + 1] = 0x01; /* AO_SUP: no other state is ever entered */
	put_be16(answer + at + 2, SCSI_PORT_GROUP);
	answer[at + 7] = 1;
	put_be16(answer + at + 10, SCSI_RELATIVE_PORT);
	scsi_answer_bytes(task, answer, at + 12);
}

void
scsi_run_opcodes(struct scsi_task *task)
{
	uint8_t *answer = scsi_answer_begin(task, SCSI_OPCODES_BYTES_MAX);
	size_t len_bytes;

	if (!answer)
		return;
	if (!scsi_report_opcodes(&task->parsed, answer, &len_bytes, &task->reason))
		return scsi_refuse(task);
	scsi_answer(task, len_bytes);
}

void
scsi_run_task_management(struct scsi_task *task)
{
	uint8_t answer[16] = { 0 };
	bool extended = task->parsed.bytes[2] & 0x80;

	/* ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET */
	answer[0] = 0x80 | 0x40 | 0x10 | 0x08 | 0x02;
	answer[3] = extended ? 12 : 0;
	scsi_answer_bytes(task, answer, extended ? 16 : 4);
}

/* Defects are the pool's, and healed, or told to its operator: an initiator's blocks have none. */
void
scsi_run_defect_data(struct scsi_task *task)
{
	bool twelve = task->parsed.command->cdb_bytes == 12;
	uint8_t answer[8] = { 0 };

	/* The lists that were asked for, in the format that was, and empty. */
	answer[1] = task->parsed.bytes[twelve ? 1 : 2] & 0x1f;
	scsi_answer_bytes(task, answer, twelve ? 8 : 4);
}

/* --- GET LBA STATUS --- */

static void
lba_status_known(struct scsi_task *task)
{
	const struct volume_extent *extents = task->io.extents;
	uint32_t block_bytes = task->unit->block_bytes;
	uint64_t byte = task->io.offset_bytes;
	uint64_t end = byte;
	uint8_t *answer = task->data_in.bytes;
	size_t at = 8;

	for (uint32_t i = 0; i < task->io.extents_count; i++)
		end += extents[i].len_bytes;
	end = round_down(end, block_bytes);
	for (uint32_t i = 0; i < task->io.extents_count && byte < end; i++) {
		uint64_t blocks = min_u64(extents[i].len_bytes, end - byte) / block_bytes;

		blocks = min_u64(blocks, UINT32_MAX);
		put_be64(answer + at, byte / block_bytes);
		put_be32(answer + at + 8, blocks);
		answer[at + 12] = extents[i].hole ? 1 : 0; /* deallocated, mapped */
		at += 16;
		byte += blocks * block_bytes;
		if (blocks == UINT32_MAX)
			break;
	}
	put_be32(answer, at - 4);
	scsi_answer(task, at);
}

void
scsi_run_lba_status(struct scsi_task *task)
{
	struct scsi_unit *unit = task->unit;
	uint64_t offset_bytes = scsi_offset_bytes(task);
	uint64_t end_bytes = scsi_blocks(unit) * unit->block_bytes;
	uint32_t fits = (uint32_t)(max_u64(task->parsed.count, 24) - 8) / 16;

	if (task->parsed.count < 24)
		return scsi_refuse_cdb(task, 10, 8);
	if (!scsi_answer_begin(task, 8 + 16 * LBA_STATUS_EXTENTS_MAX) ||
	    !scsi_buffer_get(
		task, &task->scratch, 0, LBA_STATUS_EXTENTS_MAX * sizeof(struct volume_extent)))
		return;
	task->io.extents = (struct volume_extent *)task->scratch.bytes;
	task->io.extents_max = (uint32_t)min_u64(fits, LBA_STATUS_EXTENTS_MAX);
	scsi_submit(
	    task, VOLUME_STATUS, offset_bytes, end_bytes - offset_bytes, NULL, lba_status_known);
}
