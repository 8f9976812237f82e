/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EXTENDED COPY (LID1), from blocks to blocks, and RECEIVE COPY RESULTS (SPC-4 6.4, 6.18).
 *
 * The parameter list is checked as a whole before anything is copied; then segments are copied one
 * after another, a piece at a time: read, write.  Targets are units that the same initiator has at
 * this target: others cannot be named, so masks hold for copies, too, and a nexus does not end
 * while a task of its session is there.
 */
#include "frontends/scsi/scsi_internal.h"

enum {
	HEADER_BYTES = 16,
	TARGET_BYTES = 32,
	SEGMENT_BYTES = 28,
	TARGETS_MAX = 16,
	SEGMENTS_MAX = 64,
	LIST_BYTES_MAX = TARGETS_MAX * TARGET_BYTES + SEGMENTS_MAX * SEGMENT_BYTES,
	TYPE_TARGET = 0xe4,  /* identification descriptor */
	TYPE_SEGMENT = 0x02, /* block device to block device */
	RESULT_LIMITS = 3,
};
#define PIECE_BYTES (1 * MIB)

/* --- the parameter list --- */

static const uint8_t *
list_of(const struct scsi_task *task)
{
	return scsi_payload(&task->data_out);
}

static uint32_t
targets_bytes(const struct scsi_task *task)
{
	return (uint32_t)read_be(list_of(task) + 2, 2);
}

static const uint8_t *
segment_of(const struct scsi_task *task, uint32_t index)
{
	return list_of(task) + HEADER_BYTES + targets_bytes(task) + index * SEGMENT_BYTES;
}

static uint32_t
segments(const struct scsi_task *task)
{
	return (uint32_t)read_be(list_of(task) + 8, 4) / SEGMENT_BYTES;
}

static bool
designates(const struct scsi_unit *unit, const uint8_t *target)
{
	uint8_t designator[SCSI_DESIGNATOR_BYTES_MAX];
	size_t len_bytes = scsi_designator(unit, target[5] & 0x0f, designator);

	/* Longer ones are cut to the 20 bytes that there are. */
	len_bytes = min_u64(len_bytes, 20);
	return len_bytes && (target[5] & 0x30) == 0 && target[7] == len_bytes &&
	       memcmp(target + 8, designator, len_bytes) == 0;
}

/* NULL: the initiator has no such unit here. */
static struct scsi_nexus *
target_nexus(const struct scsi_task *task, unsigned index)
{
	const uint8_t *target = list_of(task) + HEADER_BYTES + index * TARGET_BYTES;

	list_for_each(link, &task->unit->port->units) {
		struct scsi_unit *unit = container_of(link, struct scsi_unit, link);

		if (!designates(unit, target))
			continue;
		list_for_each(inner, &unit->nexuses) {
			struct scsi_nexus *nexus = container_of(inner, struct scsi_nexus, link);

			if (nexus->luns == task->nexus->luns)
				return nexus;
		}
	}
	return NULL;
}

static void
refuse_list(struct scsi_task *task, enum scsi_asc asc)
{
	scsi_check_condition(task, SCSI_ILLEGAL_REQUEST, asc);
}

/* Header and target descriptors; false: the task is finished. */
static bool
check_targets(struct scsi_task *task)
{
	const uint8_t *list = list_of(task);
	uint32_t len_bytes = task->data_out.len_bytes;
	uint32_t bytes = targets_bytes(task);
	uint64_t segments_bytes = read_be(list + 8, 4);

	if (read_be(list + 12, 4)) {
		refuse_list(task, SCSI_ASC_INLINE_DATA_LENGTH);
		return false;
	}
	if (bytes + segments_bytes > LIST_BYTES_MAX) {
		refuse_list(task, SCSI_ASC_PARAMETER_LIST_LENGTH);
		return false;
	}
	if (bytes / TARGET_BYTES > TARGETS_MAX) {
		refuse_list(task, SCSI_ASC_TOO_MANY_TARGETS);
		return false;
	}
	if (segments_bytes / SEGMENT_BYTES > SEGMENTS_MAX) {
		refuse_list(task, SCSI_ASC_TOO_MANY_SEGMENTS);
		return false;
	}
	if (bytes % TARGET_BYTES) {
		scsi_refuse_parameter(task, 2, 8);
		return false;
	}
	if (bytes + segments_bytes > len_bytes - HEADER_BYTES) {
		refuse_list(task, SCSI_ASC_PARAMETER_LIST_LENGTH);
		return false;
	}
	for (uint32_t i = 0; i < bytes / TARGET_BYTES; i++) {
		const uint8_t *target = list + HEADER_BYTES + i * TARGET_BYTES;

		if (target[0] != TYPE_TARGET) {
			refuse_list(task, SCSI_ASC_UNSUPPORTED_TARGET);
			return false;
		}
		if (target[1] & 0x20 || target[1] & 0x1f) { /* NUL, or no disk */
			scsi_refuse_parameter(
			    task, (uint16_t)(HEADER_BYTES + i * TARGET_BYTES + 1), 8);
			return false;
		}
	}
	return true;
}

static bool
check_segments(struct scsi_task *task)
{
	uint32_t bytes = (uint32_t)read_be(list_of(task) + 8, 4);

	for (uint32_t at = 0; at < bytes; at += SEGMENT_BYTES) {
		const uint8_t *segment = segment_of(task, at / SEGMENT_BYTES);
		uint16_t byte = (uint16_t)(segment - list_of(task));

		if (segment[0] != TYPE_SEGMENT) {
			refuse_list(task, SCSI_ASC_UNSUPPORTED_SEGMENT);
			return false;
		}
		if (bytes - at < SEGMENT_BYTES) {
			refuse_list(task, SCSI_ASC_PARAMETER_LIST_LENGTH);
			return false;
		}
		if (read_be(segment + 2, 2) != SEGMENT_BYTES - 4) {
			scsi_refuse_parameter(task, (uint16_t)(byte + 2), 8);
			return false;
		}
	}
	return true;
}

/* --- copying --- */

static void copy_next(struct scsi_task *task);

/* What RECEIVE COPY RESULTS will tell. */
static void
remember(struct scsi_task *task, uint8_t status)
{
	struct scsi_nexus *nexus = task->nexus;
	struct scsi_copy_result *result =
	    &nexus->copies[nexus->copy_count++ % ARRAY_SIZE(nexus->copies)];
	unsigned usage = list_of(task)[1] >> 3 & 3;

	if (usage == 3) { /* no list identifier */
		nexus->copy_count--;
		return;
	}
	*result = (struct scsi_copy_result){
		.used = true,
		.list_id = list_of(task)[0],
		.status = status,
		.segments = (uint16_t)task->index,
		.bytes = task->answered_bytes,
	};
}

static void
abort_copy(struct scsi_task *task, enum scsi_asc asc)
{
	remember(task, 2);
	task->answered_bytes = 0;
	scsi_check_condition(task, SCSI_COPY_ABORTED, asc);
}

static void
copy_failed(struct scsi_task *task)
{
	int error = task->io.error;

	if (error == -EIO || error == -EUCLEAN || error == -ESHUTDOWN)
		return abort_copy(task, SCSI_ASC_THIRD_PARTY_FAILURE);
	remember(task, 2);
	task->answered_bytes = 0;
	scsi_fail(task, error);
}

struct segment {
	struct scsi_nexus *from, *to;
	uint64_t from_bytes, to_bytes, len_bytes;
};

/* False: the task is finished. */
static bool
find_segment(struct scsi_task *task, struct segment *s)
{
	const uint8_t *at = segment_of(task, task->index);
	uint64_t source_lba = read_be(at + 12, 8), target_lba = read_be(at + 20, 8);
	uint64_t blocks = read_be(at + 8 + 2, 2);
	unsigned source = (unsigned)read_be(at + 4, 2), target = (unsigned)read_be(at + 6, 2);
	const struct scsi_nexus *counts;

	if (max_u64(source, target) >= targets_bytes(task) / TARGET_BYTES) {
		abort_copy(task, SCSI_ASC_NONE);
		return false;
	}
	s->from = target_nexus(task, source);
	s->to = target_nexus(task, target);
	if (!s->from || !s->to || s->from->unit->sanitize || s->to->unit->sanitize) {
		abort_copy(task, SCSI_ASC_COPY_TARGET_UNREACHABLE);
		return false;
	}
	counts = at[1] & 0x02 ? s->to : s->from; /* DC: whose blocks are counted */
	s->len_bytes = blocks * counts->unit->block_bytes;
	if (source_lba > scsi_blocks(s->from->unit) || target_lba > scsi_blocks(s->to->unit) ||
	    s->len_bytes > (scsi_blocks(s->from->unit) - source_lba) * s->from->unit->block_bytes ||
	    s->len_bytes > (scsi_blocks(s->to->unit) - target_lba) * s->to->unit->block_bytes) {
		abort_copy(task, SCSI_ASC_NONE);
		return false;
	}
	if (s->len_bytes % s->to->unit->block_bytes || s->len_bytes % s->from->unit->block_bytes) {
		abort_copy(task, SCSI_ASC_INVALID_FIELD_IN_PARAMETERS);
		return false;
	}
	if (scsi_unit_readonly(s->to)) {
		remember(task, 2);
		scsi_check_condition(task, SCSI_DATA_PROTECT, SCSI_ASC_WRITE_PROTECTED);
		return false;
	}
	if (scsi_reservation_excludes(s->from, false) || scsi_reservation_excludes(s->to, true)) {
		remember(task, 2);
		scsi_finish(task, SCSI_RESERVATION_CONFLICT);
		return false;
	}
	s->from_bytes = source_lba * s->from->unit->block_bytes;
	s->to_bytes = target_lba * s->to->unit->block_bytes;
	return true;
}

static void
copy_written(struct scsi_task *task)
{
	if (task->io.error)
		return copy_failed(task);
	task->done_bytes += task->io.len_bytes;
	task->answered_bytes += task->io.len_bytes;
	copy_next(task);
}

static void
copy_read(struct scsi_task *task)
{
	uint64_t len_bytes = task->io.len_bytes;
	struct segment s;
	uint8_t *bytes = task->scratch.bytes;
	uint64_t to_bytes;

	if (task->io.error)
		return copy_failed(task);
	if (!find_segment(task, &s))
		return;
	to_bytes = s.to_bytes + task->done_bytes;
	/* Each place wants the payload at its own offset within a block. */
	memmove(
	    bytes + to_bytes % BLOCK_BYTES, bytes + task->io.offset_bytes % BLOCK_BYTES, len_bytes);
	scsi_submit_to(task, s.to->volume, VOLUME_WRITE, to_bytes, len_bytes, bytes, copy_written);
}

static void
copy_next(struct scsi_task *task)
{
	struct segment s;
	uint64_t piece_bytes;

	for (;;) {
		if (task->index == segments(task)) {
			remember(task, 1);
			task->answered_bytes = 0;
			return scsi_good(task);
		}
		if (!find_segment(task, &s))
			return;
		piece_bytes = min_u64(s.len_bytes - task->done_bytes, PIECE_BYTES);
		if (piece_bytes)
			break;
		task->index++;
		task->done_bytes = 0;
	}
	scsi_submit_to(task, s.from->volume, VOLUME_READ, s.from_bytes + task->done_bytes,
	    piece_bytes, task->scratch.bytes, copy_read);
}

void
scsi_run_extended_copy(struct scsi_task *task)
{
	if (task->data_out.len_bytes == 0)
		return scsi_good(task);
	if (task->data_out.len_bytes < HEADER_BYTES)
		return refuse_list(task, SCSI_ASC_PARAMETER_LIST_LENGTH);
	if (!check_targets(task) || !check_segments(task))
		return;
	if (!scsi_buffer_get(task, &task->scratch, 0, PIECE_BYTES + 2 * BLOCK_BYTES))
		return;
	task->index = 0;
	task->done_bytes = 0;
	copy_next(task);
}

/* --- RECEIVE COPY RESULTS --- */

static void
copy_limits(struct scsi_task *task)
{
	uint8_t answer[46] = { 0 };

	put_be32(answer, sizeof(answer) - 4);
	answer[4] = 0x01; /* SNLID */
	put_be16(answer + 8, TARGETS_MAX);
	put_be16(answer + 10, SEGMENTS_MAX);
	put_be32(answer + 12, LIST_BYTES_MAX);
	put_be32(answer + 16, 65535 * task->unit->block_bytes); /* of one segment */
	put_be16(answer + 34, SCSI_COPIES_MAX);
	answer[36] = SCSI_COPIES_MAX;
	answer[37] = (uint8_t)__builtin_ctz(task->unit->block_bytes);
	answer[43] = 2;
	answer[44] = TYPE_SEGMENT;
	answer[45] = TYPE_TARGET;
	scsi_answer_bytes(task, answer, sizeof(answer));
}

static void
copy_status(struct scsi_task *task)
{
	const struct scsi_nexus *nexus = task->nexus;
	uint8_t answer[12] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(nexus->copies); i++) {
		const struct scsi_copy_result *result = &nexus->copies[i];

		if (!result->used || result->list_id != task->parsed.bytes[2])
			continue;
		put_be32(answer, sizeof(answer) - 4);
		answer[4] = result->status;
		put_be16(answer + 5, result->segments);
		answer[7] = 1; /* KiB */
		put_be32(answer + 8, result->bytes / KIB);
		return scsi_answer_bytes(task, answer, sizeof(answer));
	}
	scsi_refuse_cdb(task, 2, 8);
}

void
scsi_run_copy_results(struct scsi_task *task)
{
	if (task->parsed.command->service_action == RESULT_LIMITS)
		copy_limits(task);
	else
		copy_status(task);
}
