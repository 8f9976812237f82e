/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands that read and write blocks.
 *
 * Those that take more than one request of the engine go on in the function that is named to
 * scsi_submit(): verify reads and compares, WRITE AND VERIFY writes before that, WRITE SAME writes
 * piece by piece, UNMAP descriptor by descriptor, and ORWRITE is read, or, compare and write, again
 * if somebody wrote in between.
 */
#include "frontends/scsi/scsi_internal.h"

#define PATTERN_PIECE_BYTES (1 * MIB)

static uint64_t
len_of(const struct scsi_task *task)
{
	return (uint64_t)task->parsed.count * task->unit->block_bytes;
}

/* --- READ, WRITE, caches --- */

void
scsi_run_read(struct scsi_task *task)
{
	uint64_t len_bytes = len_of(task);

	if (len_bytes == 0)
		return scsi_good(task);
	if (!scsi_buffer_get(task, &task->data_in, scsi_offset_bytes(task), len_bytes))
		return;
	/* What the initiator has no room for is read all the same: it is one checked unit. */
	task->data_in.len_bytes = (uint32_t)min_u64(len_bytes, task->expected_in_bytes);
	scsi_submit(
	    task, VOLUME_READ, scsi_offset_bytes(task), len_bytes, task->data_in.bytes, scsi_good);
}

/* Only what came is written: whole blocks of it. */
static uint64_t
came_bytes(const struct scsi_task *task)
{
	return round_down(task->data_out.len_bytes, task->unit->block_bytes);
}

void
scsi_run_write(struct scsi_task *task)
{
	uint64_t len_bytes = came_bytes(task);

	if (len_bytes == 0)
		return scsi_good(task);
	scsi_submit(task, VOLUME_WRITE, scsi_offset_bytes(task), len_bytes, task->data_out.bytes,
	    scsi_good);
}

void
scsi_run_write_atomic(struct scsi_task *task)
{
	if (len_of(task) > scsi_atomic_bytes_max(task->nexus))
		return scsi_refuse_cdb(task, 12, 8);
	scsi_run_write(task);
}

void
scsi_run_flush(struct scsi_task *task)
{
	scsi_submit(task, VOLUME_FLUSH, 0, 0, NULL, scsi_good);
}

static void
condition_met(struct scsi_task *task)
{
	scsi_finish(task, SCSI_CONDITION_MET);
}

void
scsi_run_pre_fetch(struct scsi_task *task)
{
	uint64_t len_bytes = len_of(task);

	if (task->parsed.count == 0)
		len_bytes =
		    scsi_blocks(task->unit) * task->unit->block_bytes - scsi_offset_bytes(task);
	if (len_bytes == 0)
		return condition_met(task);
	scsi_submit(task, VOLUME_CACHE, scsi_offset_bytes(task), len_bytes, NULL, condition_met);
}

/* --- VERIFY --- */

static void
miscompare(struct scsi_task *task, uint64_t at)
{
	scsi_sense_set(&task->reason, SCSI_MISCOMPARE, SCSI_ASC_MISCOMPARE);
	task->reason.has_information = true;
	task->reason.information = at;
	scsi_refuse(task);
}

static size_t
first_difference(const uint8_t *a, const uint8_t *b, size_t len_bytes)
{
	size_t at = 0;

	while (at < len_bytes && a[at] == b[at])
		at++;
	return at;
}

static void verify_next(struct scsi_task *task);

/* What was read is in scratch; with BYTCHK it is compared with what came, or with the one block. */
static void
verify_piece(struct scsi_task *task)
{
	uint64_t piece_bytes = task->io.len_bytes;
	const uint8_t *read = scsi_payload(&task->scratch);
	bool one_block =
	    task->parsed.command->action == SCSI_VERIFY && scsi_cdb_bytchk(&task->parsed) == 3;
	uint64_t step_bytes = one_block ? task->unit->block_bytes : piece_bytes;

	for (uint64_t at = 0; task->data_out.bytes && at < piece_bytes; at += step_bytes) {
		const uint8_t *expected =
		    scsi_payload(&task->data_out) + (one_block ? 0 : task->done_bytes);
		size_t differs = first_difference(read + at, expected, step_bytes);

		if (differs < step_bytes)
			return miscompare(task, task->done_bytes + at + differs);
	}
	task->done_bytes += piece_bytes;
	verify_next(task);
}

static void
verify_next(struct scsi_task *task)
{
	uint64_t total_bytes = len_of(task);
	uint64_t offset_bytes = scsi_offset_bytes(task) + task->done_bytes;
	uint64_t piece_bytes = min_u64(total_bytes - task->done_bytes, PATTERN_PIECE_BYTES);

	if (piece_bytes == 0)
		return scsi_good(task);
	task->scratch.offset_bytes = (uint32_t)(offset_bytes % BLOCK_BYTES);
	scsi_submit(
	    task, VOLUME_READ, offset_bytes, piece_bytes, task->scratch.bytes, verify_piece);
}

static void
verify_begin(struct scsi_task *task)
{
	task->done_bytes = 0;
	if (!scsi_buffer_get(task, &task->scratch, BLOCK_BYTES - 1, PATTERN_PIECE_BYTES))
		return;
	verify_next(task);
}

/* Without data there is nothing to compare, but what is there must be readable. */
void
scsi_run_verify(struct scsi_task *task)
{
	if (task->parsed.count == 0)
		return scsi_good(task);
	if (task->data_out.len_bytes < task->parsed.data_out_bytes)
		return scsi_refuse_cdb(task, task->parsed.command->count_at, 8);
	verify_begin(task);
}

void
scsi_run_write_verify(struct scsi_task *task)
{
	uint64_t len_bytes = came_bytes(task);

	if (len_bytes == 0)
		return scsi_good(task);
	if (len_bytes < len_of(task)) /* as WRITE: only what came */
		return scsi_submit(task, VOLUME_WRITE, scsi_offset_bytes(task), len_bytes,
		    task->data_out.bytes, scsi_good);
	scsi_submit(task, VOLUME_WRITE, scsi_offset_bytes(task), len_bytes, task->data_out.bytes,
	    verify_begin);
}

/* --- UNMAP and WRITE SAME --- */

static void unmap_next(struct scsi_task *task);

static const uint8_t *
unmap_descriptor(const struct scsi_task *task, uint32_t index)
{
	return scsi_payload(&task->data_out) + 8 + (size_t)index * 16;
}

static uint32_t
unmap_count(const struct scsi_task *task)
{
	const uint8_t *list = scsi_payload(&task->data_out);

	return (uint32_t)min_u64(read_be(list + 2, 2), task->data_out.len_bytes - 8) / 16;
}

static void
unmap_next(struct scsi_task *task)
{
	uint32_t block_bytes = task->unit->block_bytes;

	while (task->index < unmap_count(task)) {
		const uint8_t *descriptor = unmap_descriptor(task, task->index++);
		uint64_t blocks = read_be(descriptor + 8, 4);

		if (blocks)
			return scsi_submit(task, VOLUME_ZERO, read_be(descriptor, 8) * block_bytes,
			    blocks * block_bytes, NULL, unmap_next);
	}
	scsi_good(task);
}

/* All descriptors are checked before the first is done. */
void
scsi_run_unmap(struct scsi_task *task)
{
	uint64_t blocks_max = scsi_blocks(task->unit);
	uint32_t count;

	if (task->parsed.bytes[1] & 0x01) /* ANCHOR */
		return scsi_refuse_cdb(task, 1, 0);
	if (task->parsed.count == 0)
		return scsi_good(task);
	if (task->data_out.len_bytes < 8)
		return scsi_check_condition(
		    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
	count = unmap_count(task);
	if (count > SCSI_UNMAP_DESCRIPTORS_MAX)
		return scsi_refuse_parameter(task, 2, 8);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t lba = read_be(unmap_descriptor(task, i), 8);
		uint64_t blocks = read_be(unmap_descriptor(task, i) + 8, 4);

		if (lba > blocks_max || blocks > blocks_max - lba)
			return scsi_check_condition(
			    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_LBA_OUT_OF_RANGE);
	}
	task->index = 0;
	unmap_next(task);
}

static void
write_same_next(struct scsi_task *task)
{
	uint64_t offset_bytes = scsi_offset_bytes(task) + task->done_bytes;
	uint64_t piece_bytes = min_u64(len_of(task) - task->done_bytes, PATTERN_PIECE_BYTES);
	uint32_t block_bytes = task->unit->block_bytes;

	if (piece_bytes == 0)
		return scsi_good(task);
	task->done_bytes += piece_bytes;
	task->scratch.offset_bytes = (uint32_t)(offset_bytes % BLOCK_BYTES);
	/* Anew each time: the engine completes blocks at the edges. */
	for (uint64_t at = 0; at < piece_bytes; at += block_bytes)
		memcpy(
		    scsi_payload(&task->scratch) + at, scsi_payload(&task->data_out), block_bytes);
	scsi_submit(
	    task, VOLUME_WRITE, offset_bytes, piece_bytes, task->scratch.bytes, write_same_next);
}

static bool
is_zero(const uint8_t *bytes, size_t len_bytes)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, len_bytes - 1) == 0;
}

void
scsi_run_write_same(struct scsi_task *task)
{
	const uint8_t *flags = &task->parsed.bytes[1];
	bool no_data = task->parsed.command->cdb_bytes == 16 && *flags & 0x01;
	uint64_t len_bytes = len_of(task);

	if (*flags & 0x10) /* ANCHOR */
		return scsi_refuse_cdb(task, 1, 4);
	if (len_bytes == 0 || len_bytes > SCSI_WRITE_SAME_BYTES_MAX)
		return scsi_refuse_cdb(task, task->parsed.command->count_at, 8);
	/* Zeroes become holes, with the UNMAP bit or without. */
	if (no_data || is_zero(scsi_payload(&task->data_out), task->unit->block_bytes))
		return scsi_submit(
		    task, VOLUME_ZERO, scsi_offset_bytes(task), len_bytes, NULL, scsi_good);
	if (!scsi_buffer_get(
		task, &task->scratch, BLOCK_BYTES - 1, min_u64(len_bytes, PATTERN_PIECE_BYTES)))
		return;
	task->done_bytes = 0;
	write_same_next(task);
}

/* --- COMPARE AND WRITE, ORWRITE --- */

static void
compare_written(struct scsi_task *task)
{
	if (task->io.error == -ECANCELED)
		return miscompare(task, task->io.differs_at_bytes);
	scsi_good(task);
}

/* The data came as expected blocks, then new ones; the engine wants each at its place. */
void
scsi_run_compare_write(struct scsi_task *task)
{
	uint64_t len_bytes = len_of(task);
	uint64_t offset_bytes = scsi_offset_bytes(task);

	if (len_bytes == 0)
		return scsi_good(task);
	if (task->data_out.len_bytes < 2 * len_bytes ||
	    len_bytes > scsi_atomic_bytes_max(task->nexus))
		return scsi_refuse_cdb(task, 13, 8);
	if (!scsi_buffer_get(task, &task->scratch, offset_bytes, len_bytes))
		return;
	memcpy(scsi_payload(&task->scratch), scsi_payload(&task->data_out) + len_bytes, len_bytes);
	task->io.compare = scsi_payload(&task->data_out);
	scsi_submit(task, VOLUME_COMPARE_WRITE, offset_bytes, len_bytes, task->scratch.bytes,
	    compare_written);
}

static void orwrite_next(struct scsi_task *task);

static void
orwrite_written(struct scsi_task *task)
{
	if (task->io.error != -ECANCELED)
		task->done_bytes += task->io.len_bytes;
	orwrite_next(task);
}

static void
orwrite_read(struct scsi_task *task)
{
	uint64_t len_bytes = task->io.len_bytes;
	uint8_t *old = scsi_payload(&task->scratch);
	uint8_t *both = old + round_up(len_bytes, BLOCK_BYTES) + BLOCK_BYTES;
	const uint8_t *came = scsi_payload(&task->data_out) + task->done_bytes;

	for (uint64_t i = 0; i < len_bytes; i++)
		both[i] = old[i] | came[i];
	task->io.compare = old;
	scsi_submit(task, VOLUME_COMPARE_WRITE, task->io.offset_bytes, len_bytes,
	    both - task->scratch.offset_bytes, orwrite_written);
}

static void
orwrite_next(struct scsi_task *task)
{
	uint64_t offset_bytes = scsi_offset_bytes(task) + task->done_bytes;
	uint64_t piece_bytes =
	    min_u64(came_bytes(task) - task->done_bytes, scsi_atomic_bytes_max(task->nexus));

	if (piece_bytes == 0)
		return scsi_good(task);
	task->scratch.offset_bytes = (uint32_t)(offset_bytes % BLOCK_BYTES);
	scsi_submit(
	    task, VOLUME_READ, offset_bytes, piece_bytes, task->scratch.bytes, orwrite_read);
}

void
scsi_run_orwrite(struct scsi_task *task)
{
	if (came_bytes(task) == 0)
		return scsi_good(task);
	if (!scsi_buffer_get(task, &task->scratch, 0,
		2 * (min_u64(came_bytes(task), scsi_atomic_bytes_max(task->nexus)) +
			2 * BLOCK_BYTES)))
		return;
	task->done_bytes = 0;
	orwrite_next(task);
}
