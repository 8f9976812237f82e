/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SCSI target: what a transport (iSCSI first) hands commands to.
 *
 *   transport                              this layer                     engine
 *   scsi_task_prepare() ─────────────────► parse, find buffers
 *     ◄── returns: data_out.len_bytes are wanted, at this place
 *   (receives into data_out)
 *   scsi_task_execute() ─────────────────► order, reserve, check, run ──► volume_submit()
 *     ◄── done(): status, sense, data_in, residuals ◄────────────────────── io.done()
 *   (sends, then) scsi_task_release()
 *
 * Words are SAM's: a *unit* is a volume, a *task* is one command.  A *nexus* is one initiator port
 * with one unit at one of our ports (an I_T_L nexus), under a LUN; a transport begins one for each
 * unit that the initiator may use, and hands a command for a LUN that is none of them to any.  A
 * port, its units, nexuses and tasks live on one reactor; nothing is locked.  Volumes may live on
 * others (core/volume.h).
 *
 * The asynchronous contract of core/reactor.h holds: done() is never called from inside
 * scsi_task_execute(), and exactly once for a task that was executed, aborted or not.  An aborted
 * task's done() comes when nothing of it is in flight any more.
 *
 * Invariants:
 *   - a task's memory is the transport's; its buffers come from the port's buffer pool, and are
 *     bounded by SCSI_TRANSFER_BYTES_MAX;
 *   - nothing is asked of the engine before all data-out of the task has arrived;
 *   - reservations and unit attentions are looked at when a task becomes enabled, not when it
 *     arrives; each unit attention is reported once to each nexus that it concerns.
 */
#ifndef QUARRY_FRONTENDS_SCSI_H
#define QUARRY_FRONTENDS_SCSI_H

#include "core/buffer.h"
#include "core/target.h"
#include "frontends/scsi/scsi_cdb.h"

#define SCSI_NAME_BYTES_MAX 224u /* of a port: iSCSI's 223 and a zero */
#define SCSI_PORT_ID_BYTES 6u    /* ISID */
#define SCSI_ATTENTIONS_MAX 8u   /* per nexus; more: the oldest is forgotten */
#define SCSI_LUNS_MAX 256u

struct scsi_nexus;
struct scsi_unit;

/* What all units on one reactor share. */
struct scsi_port {
	struct reactor *reactor;
	struct buffer_pool *buffers;
	struct target *target; /* NULL: no reservation is kept over power loss */
	struct list units;
	/* Set by the transport; what goes on without a nexus (SANITIZE) has ended. */
	void (*idle)(struct scsi_port *port);
};

void scsi_port_init(struct scsi_port *port, struct reactor *reactor, struct buffer_pool *buffers,
    struct target *target);
/* What goes on without a nexus ends soon: when scsi_port_busy() says no. */
void scsi_port_stop(struct scsi_port *port);
bool scsi_port_busy(const struct scsi_port *port);
/* No nexus is left, and it is not busy. */
void scsi_port_fini(struct scsi_port *port);

/* --- nexuses --- */

/* An initiator port: name and ISID are a registrant's identity. */
struct scsi_initiator {
	char name[SCSI_NAME_BYTES_MAX];
	uint8_t id[SCSI_PORT_ID_BYTES];
};

/* The units of one initiator at one target. */
struct scsi_luns {
	uint16_t numbers[SCSI_LUNS_MAX]; /* growing */
	uint32_t count;
};

/* -1: none that could be ours.  Peripheral device and flat space addressing. */
int scsi_lun_number(const uint8_t lun[8]);

/*
 * The nexus is one of those that @luns, the transport's, says.  It owns @volume, which was opened
 * with NOTE_RESERVATIONS, and closes it.
 * @target_name is that of the SCSI device; the port's is it with ",t,0x0001".  The transport has
 * ended an older nexus of the same initiator port before. POWER ON OR RESET (29/00) awaits the
 * first command.
 */
struct scsi_nexus *scsi_nexus_begin(struct scsi_port *port, struct volume *volume,
    const char *target_name, const struct scsi_initiator *initiator, uint16_t lun,
    const struct scsi_luns *luns);
uint16_t scsi_nexus_lun(const struct scsi_nexus *nexus);
/* Looks at what a command would notice: true, once: the capacity has changed. */
bool scsi_nexus_poll(struct scsi_nexus *nexus);
/* REPORTED LUNS DATA HAS CHANGED (3F/0E) awaits the next command. */
void scsi_nexus_luns_changed(struct scsi_nexus *nexus);
/* I_T nexus loss: RESERVE(6/10) is released, persistent registrations stay.  None of its tasks is
 * left. */
void scsi_nexus_end(struct scsi_nexus *nexus);
/* Aborts all of its tasks: each one's done() still comes. */
void scsi_nexus_abort(struct scsi_nexus *nexus);

/* --- tasks --- */

enum scsi_attribute {
	SCSI_SIMPLE,
	SCSI_ORDERED,       /* after all before it, before all behind it */
	SCSI_HEAD_OF_QUEUE, /* before all that wait */
	SCSI_ACA,           /* never within an ACA, since NACA is refused: treated as SIMPLE */
};

/* Payload that begins at bytes + offset_bytes; bytes is aligned to BLOCK_BYTES, and the blocks that
 * the payload covers in part are there as a whole (core/volume.h). */
struct scsi_buffer {
	uint8_t *bytes; /* NULL: none */
	size_t capacity_bytes;
	uint32_t offset_bytes;
	uint32_t len_bytes;
};

/* NULL if there is none. */
static inline uint8_t *
scsi_payload(const struct scsi_buffer *buffer)
{
	return buffer->bytes ? buffer->bytes + buffer->offset_bytes : NULL;
}

enum scsi_task_state {
	SCSI_TASK_PREPARED,
	SCSI_TASK_DORMANT, /* waits for tasks before it */
	SCSI_TASK_ENABLED,
	SCSI_TASK_FINISHED, /* done() was called, or is about to be */
};

struct scsi_task {
	/* --- set by the transport; the rest is zeroes --- */
	struct scsi_nexus *nexus;
	uint8_t lun[8]; /* as on the wire */
	uint32_t tag;   /* of the nexus, for task management */
	enum scsi_attribute attribute;
	uint8_t cdb[SCSI_CDB_BYTES_MAX];
	uint8_t cdb_bytes;           /* a longer CDB is cut to 16 here: no command has one */
	uint32_t expected_out_bytes; /* what the initiator would send */
	uint32_t expected_in_bytes;  /* what it has room for */
	bool may_borrow;             /* buffers beyond the pool's budget are fine */
	void (*done)(struct scsi_task *task);

	/* --- results, valid in done() until scsi_task_release() --- */
	enum scsi_status status;
	uint8_t sense[SCSI_SENSE_BYTES_MAX];
	uint8_t sense_bytes;
	struct scsi_buffer data_out; /* from scsi_task_prepare() on */
	struct scsi_buffer data_in;  /* no longer than expected_in_bytes */
	/* What the command would have moved, less what the initiator expected: positive is an
	 * overflow, negative an underflow. */
	int64_t residual_out_bytes;
	int64_t residual_in_bytes;
	bool aborted;     /* by task management: not to be answered */
	bool tells_abort; /* … but by another initiator: to be answered, with TASK ABORTED (TAS) */

	/* --- private --- */
	enum scsi_task_state state;
	struct list link;       /* unit->tasks */
	struct scsi_unit *unit; /* NULL: there is no such LUN */
	struct scsi_cdb parsed;
	struct scsi_sense reason;
	bool refused; /* parsing failed: reason says why */
	bool no_buffer;
	bool in_run;
	struct task step;
	struct volume_io io;
	void (*then)(struct scsi_task *task); /* after io */
	struct scsi_change *change;           /* of reservations, while it is being kept */
	bool awaits_turn;   /* PERSISTENT RESERVE OUT, while another one is being kept */
	bool awaits_aborts; /* PREEMPT AND ABORT, until what it aborted is gone */
	uint64_t done_bytes;
	uint64_t answered_bytes; /* what the answer would be in full */
	uint32_t index;
	struct scsi_buffer scratch;
};

/* Parses, and finds room for data-out: data_out.len_bytes (never more than expected_out_bytes) are
 * wanted, 0 perhaps.  Then scsi_task_execute() or scsi_task_release(). */
void scsi_task_prepare(struct scsi_task *task);
/* All of data_out has arrived. */
void scsi_task_execute(struct scsi_task *task);
/* The transport lost count of its data-out: executed, it ends with ABORTED COMMAND. */
void scsi_task_spoil(struct scsi_task *task);
/* Gives the buffers back; the task's memory is the transport's again. */
void scsi_task_release(struct scsi_task *task);

/* --- task management: marks tasks; the transport answers when those that it has are done --- */

enum scsi_tmf {
	SCSI_ABORT_TASK_SET,     /* of this nexus */
	SCSI_CLEAR_TASK_SET,     /* of all nexuses; those of others end with TASK ABORTED */
	SCSI_LOGICAL_UNIT_RESET, /* the same, and reservations of RESERVE(6) go */
};

void scsi_manage(struct scsi_nexus *nexus, enum scsi_tmf function);
/* Marks @task aborted. */
void scsi_task_abort(struct scsi_task *task);
/* Whether an aborted task of the nexus's unit is still in flight. */
bool scsi_aborts_pending(const struct scsi_nexus *nexus);

#endif
