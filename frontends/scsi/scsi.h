/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SCSI target: what a transport (iSCSI first) hands commands to.
 *
 * STATE: this is the contract that transports and the implementation are written against.  Of it,
 * scsi_cdb.c (commands, CDB checks, sense data) exists; nothing that is declared in this file has
 * a body yet.  Whoever adds one removes it from this sentence.
 *
 *   transport                          this layer                           backend
 *   scsi_task_start()  ──────────────► parse, order, reserve, check
 *     ◄── wants_data(): n bytes, here
 *   (receives into data_out)
 *   scsi_task_data_ready() ──────────► execute ──────────────────────────► submit(volume_io)
 *     ◄── done(): status, sense, data_in, residuals ◄────────────────────── io.done()
 *   (sends, then) scsi_task_release()
 *
 * Words are SAM's: an I_T *nexus* is one initiator port at one of our ports; a *task* is one
 * command.  A target, its LUNs, nexuses and tasks live on one reactor; nothing is locked.  Volumes
 * may live on others (core/volume.h).
 *
 * The asynchronous contract of core/reactor.h holds: neither wants_data() nor done() is called from
 * inside scsi_task_start(); each at most once; done() exactly once for a task that was started,
 * aborted or not.  An aborted task's done() comes when nothing of it is in flight any more.
 *
 * Invariants:
 *   - a task's memory is the transport's; its buffers come from the target's buffer pool, and are
 *     bounded by SCSI_TRANSFER_BYTES_MAX (COMPARE AND WRITE and 12-byte CDBs included);
 *   - nothing is asked of the backend before all data-out of the task has arrived;
 *   - a task that changes the medium is not started on a LUN whose reservation forbids it, and the
 *     reservation is checked when the task becomes enabled, not when it arrives;
 *   - each established unit attention is reported once to each nexus that it concerns.
 */
#ifndef QUARRY_FRONTENDS_SCSI_H
#define QUARRY_FRONTENDS_SCSI_H

#include "core/base/uuid.h"
#include "core/buffer.h"
#include "core/volume.h"
#include "frontends/scsi/scsi_cdb.h"

#define SCSI_NAME_BYTES_MAX 224u /* of a port: iSCSI's 223 and a zero */
#define SCSI_PORT_ID_BYTES 6u    /* ISID; other transports: zeroes */
#define SCSI_LUNS_MAX 256u       /* per target: one byte, peripheral device addressing */
#define SCSI_TASKS_MAX 128u      /* per LUN and nexus; beyond it TASK SET FULL */
#define SCSI_ATTENTIONS_MAX 8u   /* per nexus and LUN; more: the oldest is 29/00 instead */
#define SCSI_REGISTRANTS_MAX 512u

struct scsi_lun;
struct scsi_nexus;
struct scsi_target;
struct scsi_task;

/* --- backend: what a LUN stands on --- */

/* A volume, or a piece of memory in unit tests. */
struct scsi_backend {
	/* As volume_submit(): done() comes from the reactor, never from inside the call. */
	void (*submit)(struct scsi_backend *backend, struct volume_io *io);
	/* As of now: the layer compares, and establishes CAPACITY DATA HAS CHANGED. */
	uint64_t (*size_bytes)(const struct scsi_backend *backend);
};

/* --- LUNs --- */

struct scsi_lun_config {
	struct scsi_backend *backend;
	struct uuid uuid;     /* the volume's: NAA and EUI identifiers and the serial number follow
				 from it, and so are stable over rename, restart and import */
	uint32_t block_bytes; /* 512 or 4096; a tail of the volume shorter than that is not shown */
	bool readonly;
	char product[17]; /* INQUIRY; padded with spaces */

	/*
	 * Persistent state: registrations and the reservation with APTPL set, and saved mode pages.
	 * @blob is versioned and checksummed and at most SCSI_STATE_BYTES_MAX long; the owner
	 * makes it durable and then calls @saved once, with 0 or a negative errno value, not from
	 * inside the call.  PERSISTENT RESERVE OUT is answered GOOD after that only.  NULL: APTPL
	 * and saving are not offered.
	 */
	void (*save)(void *owner, const void *blob, size_t len_bytes,
	    void (*saved)(struct scsi_lun *lun, int error), struct scsi_lun *lun);
	void *owner;
	const void *state; /* what was saved last; NULL: nothing.  -EUCLEAN if it is damaged */
	size_t state_bytes;
};

#define SCSI_STATE_BYTES_MAX (256 * KIB)

/* A LUN may belong to several targets (paths); it counts its users. */
int scsi_lun_create(const struct scsi_lun_config *config, struct scsi_lun **lun) must_check;
void scsi_lun_put(struct scsi_lun *lun);

/* The volume was resized: CAPACITY DATA HAS CHANGED (2A/09) for every nexus that sees it. */
void scsi_lun_resized(struct scsi_lun *lun);
/* The pool came near to full: THIN PROVISIONING SOFT THRESHOLD REACHED (38/07). */
void scsi_lun_threshold(struct scsi_lun *lun);

/* --- targets --- */

struct scsi_target_config {
	char port_name[SCSI_NAME_BYTES_MAX]; /* iSCSI: "iqn…,t,0x0001" */
	char device_name[SCSI_NAME_BYTES_MAX];
	uint16_t relative_port; /* from 1 */
	uint16_t port_group;
	uint8_t protocol; /* PROTOCOL IDENTIFIER: 5 is iSCSI */
	struct reactor *reactor;
	struct buffer_pool *buffers;
};

struct scsi_target *scsi_target_create(const struct scsi_target_config *config);
/* No nexus is left. */
void scsi_target_free(struct scsi_target *target);

/* Who sees which LUN the transport decides: asked for each nexus when it begins, and again after
 * scsi_target_luns_changed(), which establishes REPORTED LUNS DATA HAS CHANGED (3F/0E). */
int scsi_target_add_lun(
    struct scsi_target *target, uint8_t number, struct scsi_lun *lun) must_check;
/* Aborts its tasks; done() runs when none of them is left, never from inside the call. */
void scsi_target_remove_lun(
    struct scsi_target *target, uint8_t number, void (*done)(void *arg), void *arg);
void scsi_target_luns_changed(struct scsi_target *target);

/* --- nexuses --- */

struct scsi_nexus_config {
	char initiator_name[SCSI_NAME_BYTES_MAX];
	uint8_t initiator_id[SCSI_PORT_ID_BYTES]; /* name and ISID make the registrant's identity */
	/* Masking: may this initiator use LUN @number?  NULL: all. */
	bool (*allows)(void *owner, uint8_t number);
	void *owner;
};

/* The transport has ended an older nexus of the same port and name before (session
 * reinstatement).  POWER ON OR RESET (29/00) awaits the first command on each LUN. */
struct scsi_nexus *scsi_nexus_begin(
    struct scsi_target *target, const struct scsi_nexus_config *config);
/* I_T nexus loss: aborts all its tasks and releases RESERVE(6/10); persistent registrations stay.
 * The nexus is gone when done() runs, after the done() of its last task. */
void scsi_nexus_end(struct scsi_nexus *nexus, void (*done)(void *arg), void *arg);

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
	void *bytes; /* NULL: none */
	size_t capacity_bytes;
	uint32_t offset_bytes;
	uint32_t len_bytes;
};

struct scsi_task {
	/* --- set by the transport --- */
	struct scsi_nexus *nexus;
	uint8_t lun[8]; /* as on the wire */
	uint64_t tag;   /* of the nexus, for task management */
	enum scsi_attribute attribute;
	uint8_t cdb[SCSI_CDB_BYTES_MAX];
	uint8_t cdb_bytes;           /* a longer CDB is cut to 16 here: no command has one */
	uint32_t expected_out_bytes; /* what the initiator would send */
	uint32_t expected_in_bytes;  /* what it has room for */
	/* The task wants task->data_out.len_bytes bytes (never more than expected_out_bytes), at
	 * the place named.  What else the initiator sends is dropped.  A task that wants none
	 * skips this.  Immediate data that came already is copied there by the transport. */
	void (*wants_data)(struct scsi_task *task);
	void (*done)(struct scsi_task *task);

	/* --- results, valid in done() until scsi_task_release() --- */
	enum scsi_status status;
	uint8_t sense[SCSI_SENSE_BYTES_MAX];
	uint8_t sense_bytes;
	struct scsi_buffer data_out;
	struct scsi_buffer data_in; /* no longer than expected_in_bytes */
	/* What the command would have moved, less what the initiator expected: positive is an
	 * overflow, negative an underflow. */
	int64_t residual_out_bytes;
	int64_t residual_in_bytes;
	bool aborted; /* by task management: do not answer, unless TAS says SCSI_TASK_ABORTED */

	/* --- private --- */
	struct list link;
	struct scsi_lun *unit;
	struct scsi_cdb parsed;
	struct scsi_sense reason;
	uint8_t phase;
	struct task step;
	struct volume_io io;
	uint64_t done_bytes;
	void *state; /* of the few commands that need more */
};

void scsi_task_start(struct scsi_task *task);
/* All of data_out has arrived.  @error: the transport gave up on it (-EIO); the task ends with
 * ABORTED COMMAND. */
void scsi_task_data_ready(struct scsi_task *task, int error);
/* Gives the buffers back; the task's memory is the transport's again. */
void scsi_task_release(struct scsi_task *task);

/* --- task management --- */

enum scsi_tmf {
	SCSI_ABORT_TASK,
	SCSI_ABORT_TASK_SET, /* of this nexus on the LUN */
	SCSI_CLEAR_TASK_SET, /* of all nexuses; the others get COMMANDS CLEARED (2F/00) */
	SCSI_LOGICAL_UNIT_RESET,
	SCSI_TARGET_WARM_RESET,
	SCSI_TARGET_COLD_RESET, /* the transport then ends the nexuses */
	SCSI_QUERY_TASK,
	SCSI_QUERY_TASK_SET,
};

enum scsi_tmf_response {
	SCSI_TMF_COMPLETE,
	SCSI_TMF_SUCCEEDED, /* QUERY: it is there */
	SCSI_TMF_TASK_DOES_NOT_EXIST,
	SCSI_TMF_LUN_DOES_NOT_EXIST,
	SCSI_TMF_REJECTED,
};

/* done() runs after the done() of every task that was aborted, never from inside the call. */
struct scsi_tmf_request {
	struct scsi_nexus *nexus;
	enum scsi_tmf function;
	uint8_t lun[8];
	uint64_t tag; /* ABORT_TASK, QUERY_TASK */
	void (*done)(struct scsi_tmf_request *request);
	enum scsi_tmf_response response;
	/* private */
	struct task step;
	struct list link;
	uint32_t tasks_left;
};

void scsi_tmf_start(struct scsi_tmf_request *request);

#endif
