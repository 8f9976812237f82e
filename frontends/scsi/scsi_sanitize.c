/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SANITIZE (SBC-3 4.11, 5.23): the volume is emptied, and overwritten if that is asked for.
 *
 *   DRAIN ─► ERASE ─► FLUSH ─┬────────────────────────► END
 *                            └─► OVERWRITE ─► FLUSH ─►┘
 *
 * DRAIN waits for commands that were enabled before; none is let in from then on but those that do
 * not touch the medium.  The operation is the unit's: it goes on when its command is aborted, the
 * unit is reset or the session ends, whose handle of the volume it then has.
 *
 * ERASE is one request, for both: so when a command with IMMED is answered, behind the first FLUSH,
 * the old blocks are no part of the volume any more, durably, whatever happens to the daemon then.
 * It stops an OVERWRITE that is under way; it is not gone on with, and the rest stays holes.
 *
 * Only the last pass of an OVERWRITE is written: blocks of a log are not written over, so that the
 * passes before it would fill other places.
 */
#include <stdlib.h>

#include "frontends/scsi/scsi_internal.h"

enum {
	SANITIZE_OVERWRITE = 0x01,
	SANITIZE_EXIT_FAILURE = 0x1f,
	FLAG_IMMED = 0x80,
	FLAG_AUSE = 0x20,
	HEADER_BYTES = 4,
	COUNT_BITS = 0x1f,
	FLAG_INVERT = 0x80,
};
#define PIECE_BYTES (1 * MIB)

enum phase {
	PHASE_DRAIN,
	PHASE_ERASE,
	PHASE_ERASE_FLUSH,
	PHASE_OVERWRITE,
	PHASE_OVERWRITE_FLUSH,
	PHASE_END,
};

struct scsi_sanitize {
	struct scsi_unit *unit;
	enum phase phase;
	struct scsi_task *task; /* to be answered; NULL: it was, or is gone */
	bool immediate;
	bool may_exit; /* AUSE: a failure may be left by EXIT FAILURE MODE */
	bool stops;    /* the daemon does */
	int error;
	struct volume *volume;
	bool owns_volume; /* its nexus has ended */
	struct volume_io io;
	uint64_t size_bytes;
	uint64_t done_bytes; /* overwritten */
	uint8_t *pattern;    /* PIECE_BYTES of it; NULL: it is only to be empty */
};

static void step(struct scsi_sanitize *s);

/* --- what it lets in --- */

static bool
touches_nothing(enum scsi_action action)
{
	switch (action) {
	case SCSI_INQUIRY:
	case SCSI_REQUEST_SENSE:
	case SCSI_REPORT_LUNS:
	case SCSI_REPORT_OPCODES:
	case SCSI_REPORT_TASK_MANAGEMENT:
	case SCSI_REPORT_TARGET_PORT_GROUPS:
	case SCSI_READ_CAPACITY_10:
	case SCSI_READ_CAPACITY_16:
	case SCSI_LOG_SENSE:
	case SCSI_MODE_SENSE:
	case SCSI_PERSISTENT_RESERVE_IN:
		return true;
	default:
		return false;
	}
}

bool
scsi_sanitize_sense(const struct scsi_unit *unit, struct scsi_sense *sense)
{
	const struct scsi_sanitize *s = unit->sanitize;

	if (s) {
		scsi_sense_set(sense, SCSI_NOT_READY, SCSI_ASC_SANITIZE_IN_PROGRESS);
		sense->has_progress = true;
		if (s->size_bytes)
			sense->progress =
			    (uint16_t)(65535.0 * (double)s->done_bytes / (double)s->size_bytes);
	} else if (unit->sanitize_failed) {
		scsi_sense_set(sense, SCSI_MEDIUM_ERROR, SCSI_ASC_SANITIZE_FAILED);
	}
	return s || unit->sanitize_failed;
}

bool
scsi_sanitize_forbids(struct scsi_task *task)
{
	enum scsi_action action = task->parsed.command->action;

	if (touches_nothing(action) || (action == SCSI_SANITIZE && !task->unit->sanitize))
		return false;
	return scsi_sanitize_sense(task->unit, &task->reason);
}

/* --- the operation --- */

static void
answer(struct scsi_sanitize *s)
{
	struct scsi_task *task = s->task;

	if (!task)
		return;
	s->task = NULL;
	task->in_run = true; /* it ends only behind this */
	if (task->aborted)
		scsi_finish(task, SCSI_TASK_ABORTED);
	else if (s->error)
		scsi_check_condition(task, SCSI_MEDIUM_ERROR, SCSI_ASC_SANITIZE_FAILED);
	else
		scsi_good(task);
	task->in_run = false;
}

static bool
others_are_enabled(const struct scsi_sanitize *s)
{
	list_for_each(link, &s->unit->tasks) {
		const struct scsi_task *task = container_of(link, struct scsi_task, link);

		if (task != s->task && task->state == SCSI_TASK_ENABLED && !task->awaits_aborts)
			return true;
	}
	return false;
}

static void
io_done(struct volume_io *io)
{
	struct scsi_sanitize *s = container_of(io, struct scsi_sanitize, io);

	if (io->error) {
		s->error = io->error;
		s->phase = PHASE_END;
	}
	step(s);
}

static void
submit(struct scsi_sanitize *s, enum volume_op op, uint64_t offset_bytes, uint64_t len_bytes)
{
	s->io.op = op;
	s->io.flags = 0;
	s->io.offset_bytes = offset_bytes;
	s->io.len_bytes = len_bytes;
	s->io.buffer = op == VOLUME_WRITE ? s->pattern : NULL;
	s->io.done = io_done;
	volume_submit(s->volume, &s->io);
}

/* False: all is written. */
static bool
overwrite_next(struct scsi_sanitize *s)
{
	uint64_t piece_bytes = min_u64(s->size_bytes - s->done_bytes, PIECE_BYTES);

	if (piece_bytes == 0)
		return false;
	submit(s, VOLUME_WRITE, s->done_bytes, piece_bytes);
	s->done_bytes += piece_bytes;
	return true;
}

static void
end(struct scsi_sanitize *s)
{
	struct scsi_unit *unit = s->unit;
	struct scsi_port *port = unit->port;

	unit->sanitize = NULL;
	unit->sanitize_failed = !s->error     ? SCSI_SANITIZE_FINE
				: s->may_exit ? SCSI_SANITIZE_FAILED_MAY_EXIT
					      : SCSI_SANITIZE_FAILED;
	answer(s);
	if (s->owns_volume)
		volume_close(s->volume);
	if (s->pattern)
		buffer_put(port->buffers, s->pattern, PIECE_BYTES);
	free(s);
	scsi_unit_unused(unit);
	if (port->idle)
		port->idle(port);
}

/* A phase is set before what it names is started. */
static void
step(struct scsi_sanitize *s)
{
	if (s->task && s->task->aborted)
		answer(s); /* its command goes, the operation does not */
	switch (s->phase) {
	case PHASE_DRAIN:
		if (others_are_enabled(s))
			return;
		/* fall through */
	case PHASE_ERASE:
		s->phase = PHASE_ERASE_FLUSH;
		return submit(s, VOLUME_ZERO, 0, s->size_bytes);
	case PHASE_ERASE_FLUSH:
		s->phase = PHASE_OVERWRITE;
		return submit(s, VOLUME_FLUSH, 0, 0);
	case PHASE_OVERWRITE:
		if (s->immediate)
			answer(s);
		if (s->pattern && !s->stops && overwrite_next(s))
			return;
		s->phase = PHASE_OVERWRITE_FLUSH;
		/* fall through */
	case PHASE_OVERWRITE_FLUSH:
		s->phase = PHASE_END;
		if (s->pattern)
			return submit(s, VOLUME_FLUSH, 0, 0);
		/* fall through */
	case PHASE_END:
		return end(s);
	}
}

void
scsi_sanitize_pump(struct scsi_sanitize *s)
{
	if (s->phase == PHASE_DRAIN)
		step(s);
}

bool
scsi_sanitize_takes(struct scsi_sanitize *s, const struct volume *volume)
{
	if (s->volume == volume)
		s->owns_volume = true;
	return s->volume == volume;
}

void
scsi_sanitize_stop(struct scsi_sanitize *s)
{
	s->stops = true;
}

/* --- the command --- */

/* The parameters of OVERWRITE; false: the task is finished.  SBC-3 would have 26/00 for some of
 * these; initiators' tests expect one answer for all. */
static bool
check_pattern(struct scsi_task *task)
{
	const uint8_t *list = scsi_payload(&task->data_out);
	uint32_t block_bytes = task->unit->block_bytes;
	uint64_t pattern_bytes;

	if (task->parsed.count <= HEADER_BYTES || task->parsed.count > block_bytes + HEADER_BYTES) {
		scsi_refuse_cdb(task, 7, 8);
		return false;
	}
	pattern_bytes = read_be(list + 2, 2);
	if ((list[0] & COUNT_BITS) == 0 || list[0] & 0x60 /* TEST */ || list[1] ||
	    pattern_bytes == 0 || pattern_bytes > block_bytes ||
	    pattern_bytes > task->parsed.count - HEADER_BYTES) {
		scsi_refuse_cdb(task, 7, 8);
		return false;
	}
	return true;
}

/* Each logical block begins with the beginning of the pattern. */
static void
fill_pattern(const struct scsi_task *task, uint8_t *piece)
{
	const uint8_t *list = scsi_payload(&task->data_out);
	uint32_t block_bytes = task->unit->block_bytes;
	uint32_t pattern_bytes = (uint32_t)read_be(list + 2, 2);
	bool inverts = list[0] & FLAG_INVERT && !(list[0] & 1); /* the last of an even number */

	for (uint32_t at = 0; at < block_bytes; at++)
		piece[at] = list[HEADER_BYTES + at % pattern_bytes] ^ (inverts ? 0xff : 0);
	for (uint32_t at = block_bytes; at < PIECE_BYTES; at += block_bytes)
		memcpy(piece + at, piece, block_bytes);
}

static void
exit_failure(struct scsi_task *task)
{
	if (task->unit->sanitize_failed == SCSI_SANITIZE_FAILED)
		return scsi_refuse_cdb(task, 1, 4);
	task->unit->sanitize_failed = SCSI_SANITIZE_FINE;
	scsi_good(task);
}

void
scsi_run_sanitize(struct scsi_task *task)
{
	struct scsi_unit *unit = task->unit;
	unsigned action = task->parsed.command->service_action;
	struct scsi_sanitize *s;
	uint8_t *pattern = NULL;

	if (action == SANITIZE_EXIT_FAILURE)
		return exit_failure(task);
	if (action == SANITIZE_OVERWRITE) {
		if (!check_pattern(task))
			return;
		pattern = buffer_get_beyond(unit->port->buffers, PIECE_BYTES);
		if (!pattern)
			return scsi_finish(task, SCSI_BUSY);
		fill_pattern(task, pattern);
	}
	s = xcalloc(1, sizeof(*s));
	s->unit = unit;
	s->task = task;
	s->immediate = task->parsed.bytes[1] & FLAG_IMMED;
	s->may_exit = task->parsed.bytes[1] & FLAG_AUSE;
	s->pattern = pattern;
	s->volume = task->nexus->volume;
	s->size_bytes = volume_info(s->volume)->size_bytes;
	unit->sanitize = s;
	step(s);
}
