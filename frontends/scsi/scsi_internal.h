/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the SCSI target share; see scsi.h for the contract.
 *
 *   scsi_task.c     the life of a task, and the table of what runs it
 *   scsi_unit.c     units, nexuses, unit attentions
 *   scsi_inquiry.c  INQUIRY and its pages
 *   scsi_mode.c     MODE SENSE, MODE SELECT, LOG SENSE
 *   scsi_report.c   capacities, LUNs, port groups, LBA status and other answers
 *   scsi_medium.c   what reads and writes blocks
 *   scsi_copy.c     copies between units
 *   scsi_sanitize.c SANITIZE
 *   scsi_reserve.c  reservations: what they forbid, and what is told of them
 *   scsi_reserve_out.c  PERSISTENT RESERVE OUT
 */
#ifndef QUARRY_FRONTENDS_SCSI_INTERNAL_H
#define QUARRY_FRONTENDS_SCSI_INTERNAL_H

#include <endian.h>

#include "frontends/scsi/scsi.h"
#include "metadata/reservation.h"

#define SCSI_UNMAP_DESCRIPTORS_MAX 256u
/* Fewer than 65,536 blocks of 4096: what WRITE SAME(10) can say is the most of WRITE SAME(16), too.
 * (iscsi-test-cu takes a larger limit for leave to write as much in one command.) */
#define SCSI_WRITE_SAME_BYTES_MAX (65535 * 4 * KIB)
#define SCSI_COPIES_MAX 8u
#define SCSI_DESIGNATOR_BYTES_MAX 64u
#define SCSI_RELATIVE_PORT 1u
#define SCSI_PORT_GROUP 1u

/* Persistent reservations of one unit. */
struct scsi_reservation {
	struct reservation state;
	uint32_t generation;
	bool kept; /* APTPL: `state` is the volume's note, too */
};

enum scsi_sanitize_state {
	SCSI_SANITIZE_FINE,
	SCSI_SANITIZE_FAILED, /* until another one succeeds */
	SCSI_SANITIZE_FAILED_MAY_EXIT,
};

struct scsi_sanitize;

struct scsi_unit {
	struct list link; /* port->units */
	struct scsi_port *port;
	struct uuid uuid;
	char snapshot[NAME_SIZE]; /* "": the volume itself */
	struct uuid identity;     /* of a snapshot another one, made of both */
	uint32_t block_bytes;
	uint64_t size_bytes; /* as the initiators were told */
	struct list nexuses;
	struct list tasks;       /* executed and not finished, in order of arrival */
	uint32_t ordered;        /* of those: ORDERED ones */
	unsigned warned_percent; /* of the pool's room, as the initiators were told */
	bool descriptor_sense;
	bool write_protect;             /* SWP */
	bool stopped;                   /* START STOP UNIT */
	struct scsi_nexus *reserved_by; /* RESERVE(6/10) */
	struct scsi_reservation reservation;
	bool can_keep;                  /* the volume has notes */
	uint64_t import;                /* of the pool: the one that `reservation` is of */
	struct scsi_sanitize *sanitize; /* under way; the unit stays while it is */
	enum scsi_sanitize_state sanitize_failed;
	struct scsi_task *reserving; /* whose change is being kept: others wait for their turn */
};

/* What became of an EXTENDED COPY. */
struct scsi_copy_result {
	bool used;
	uint8_t list_id;
	uint8_t status;
	uint16_t segments;
	uint64_t bytes;
};

struct scsi_nexus {
	struct list link; /* unit->nexuses */
	struct scsi_unit *unit;
	struct volume *volume;
	uint16_t lun;
	const struct scsi_luns *luns;
	struct scsi_initiator initiator;
	char target_name[SCSI_NAME_BYTES_MAX];
	enum scsi_asc attentions[SCSI_ATTENTIONS_MAX];
	uint32_t attention_count;
	bool prevents_removal;
	uint64_t announced_bytes; /* the size that a poll of it has seen */
	struct scsi_copy_result copies[SCSI_COPIES_MAX];
	uint32_t copy_count;
};

/* --- numbers on the wire --- */

static inline void
put_be16(uint8_t *at, uint64_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static inline void
put_be32(uint8_t *at, uint64_t value)
{
	put_be16(at, value >> 16);
	put_be16(at + 2, value);
}

static inline void
put_be64(uint8_t *at, uint64_t value)
{
	put_be32(at, value >> 32);
	put_be32(at + 4, value);
}

static inline uint64_t
read_be(const uint8_t *at, unsigned len_bytes)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < len_bytes; i++)
		n = n << 8 | at[i];
	return n;
}

/* --- scsi_task.c --- */

void scsi_finish(struct scsi_task *task, enum scsi_status status);
void scsi_good(struct scsi_task *task);
void scsi_check_condition(struct scsi_task *task, enum scsi_key key, enum scsi_asc asc);
/* CHECK CONDITION with task->reason as it was set. */
void scsi_refuse(struct scsi_task *task);
/* ILLEGAL REQUEST that points at a byte (and bit up to 7) of the CDB, or of the parameters. */
void scsi_refuse_cdb(struct scsi_task *task, uint16_t byte, unsigned bit);
void scsi_refuse_parameter(struct scsi_task *task, uint16_t byte, unsigned bit);
/* What a failure of the engine is to an initiator. */
void scsi_fail(struct scsi_task *task, int error);
/* False: there was no room, and the task is finished (BUSY). */
bool scsi_buffer_get(
    struct scsi_task *task, struct scsi_buffer *buffer, uint64_t offset_bytes, uint64_t len_bytes);
/* Room for an answer, zeroed; NULL: the task is finished. */
uint8_t *scsi_answer_begin(struct scsi_task *task, size_t len_bytes);
/* GOOD, with the first @len_bytes of the answer cut to what was asked for. */
void scsi_answer(struct scsi_task *task, size_t len_bytes);
/* The same of a small answer. */
void scsi_answer_bytes(struct scsi_task *task, const void *bytes, size_t len_bytes);
/* Asks the engine, then calls @then, unless it fails: then the task is finished. */
void scsi_submit_to(struct scsi_task *task, struct volume *volume, enum volume_op op,
    uint64_t offset_bytes, uint64_t len_bytes, void *buffer, void (*then)(struct scsi_task *task));
void scsi_submit(struct scsi_task *task, enum volume_op op, uint64_t offset_bytes,
    uint64_t len_bytes, void *buffer, void (*then)(struct scsi_task *task));

static inline uint64_t
scsi_offset_bytes(const struct scsi_task *task)
{
	return task->parsed.lba * task->unit->block_bytes;
}

/* Of the pool's room thresholds and log pages count in sets of 1 MiB: 2 to the power of this. */
static inline unsigned
scsi_set_exponent(const struct scsi_unit *unit)
{
	return (unsigned)__builtin_ctzll(MIB / unit->block_bytes);
}

static inline uint64_t
scsi_blocks(const struct scsi_unit *unit)
{
	return unit->size_bytes / unit->block_bytes;
}

/* --- scsi_unit.c --- */

void scsi_attention(struct scsi_nexus *nexus, enum scsi_asc asc);
/* For all nexuses of the unit but @except. */
void scsi_attention_all(struct scsi_unit *unit, const struct scsi_nexus *except, enum scsi_asc asc);
/* The oldest, taken; false: none. */
bool scsi_attention_take(struct scsi_nexus *nexus, enum scsi_asc *asc);
bool scsi_unit_readonly(const struct scsi_nexus *nexus);
/* How long an atomic write may be, wherever it begins. */
uint64_t scsi_atomic_bytes_max(const struct scsi_nexus *nexus);
/* Continues what waited for tasks that are gone. */
void scsi_unit_pump(struct scsi_unit *unit);
/* An aborted task is gone: answers those that wait for all of them. */
void scsi_unit_aborted(struct scsi_unit *unit);
/* Frees it if nobody needs it. */
void scsi_unit_unused(struct scsi_unit *unit);
/* As scsi_nexus_abort(), on behalf of another one: the tasks are answered. */
void scsi_nexus_abort_by(struct scsi_nexus *nexus, const struct scsi_nexus *by);

/* --- what runs commands --- */

void scsi_run_inquiry(struct scsi_task *task);
void scsi_run_mode_sense(struct scsi_task *task);
void scsi_run_mode_select(struct scsi_task *task);
void scsi_run_log_sense(struct scsi_task *task);
void scsi_run_test_unit_ready(struct scsi_task *task);
void scsi_run_request_sense(struct scsi_task *task);
void scsi_run_start_stop(struct scsi_task *task);
void scsi_run_prevent_allow(struct scsi_task *task);
void scsi_run_capacity_10(struct scsi_task *task);
void scsi_run_capacity_16(struct scsi_task *task);
void scsi_run_report_luns(struct scsi_task *task);
void scsi_run_port_groups(struct scsi_task *task);
void scsi_run_opcodes(struct scsi_task *task);
void scsi_run_task_management(struct scsi_task *task);
void scsi_run_lba_status(struct scsi_task *task);
void scsi_run_defect_data(struct scsi_task *task);
void scsi_run_read(struct scsi_task *task);
void scsi_run_write(struct scsi_task *task);
void scsi_run_write_verify(struct scsi_task *task);
void scsi_run_verify(struct scsi_task *task);
void scsi_run_pre_fetch(struct scsi_task *task);
void scsi_run_flush(struct scsi_task *task);
void scsi_run_unmap(struct scsi_task *task);
void scsi_run_write_same(struct scsi_task *task);
void scsi_run_compare_write(struct scsi_task *task);
void scsi_run_orwrite(struct scsi_task *task);
void scsi_run_write_atomic(struct scsi_task *task);
void scsi_run_reserve(struct scsi_task *task);
void scsi_run_release(struct scsi_task *task);
void scsi_run_persistent_in(struct scsi_task *task);
void scsi_run_persistent_out(struct scsi_task *task);
void scsi_run_extended_copy(struct scsi_task *task);
void scsi_run_copy_results(struct scsi_task *task);
void scsi_run_sanitize(struct scsi_task *task);
/* True: SANITIZE is under way, or has failed; task->reason says so. */
bool scsi_sanitize_forbids(struct scsi_task *task);
/* What REQUEST SENSE says of it; false: nothing. */
bool scsi_sanitize_sense(const struct scsi_unit *unit, struct scsi_sense *sense);
/* A task is gone that it may wait for. */
void scsi_sanitize_pump(struct scsi_sanitize *sanitize);
/* Its nexus ends; true: @volume is its own from now on. */
bool scsi_sanitize_takes(struct scsi_sanitize *sanitize, const struct volume *volume);
/* It ends with what is in flight. */
void scsi_sanitize_stop(struct scsi_sanitize *sanitize);
/* The unit's designator of this type; its length, 0: it has none. */
size_t scsi_designator(
    const struct scsi_unit *unit, unsigned type, uint8_t bytes[SCSI_DESIGNATOR_BYTES_MAX]);
/* Whether another's reservation of its unit forbids the nexus to read, or to write. */
bool scsi_reservation_excludes(const struct scsi_nexus *nexus, bool writes);
/* Whether APTPL is possible. */
static inline bool
scsi_reservation_can_be_kept(const struct scsi_unit *unit)
{
	return unit->port->target && unit->can_keep;
}
/* As the volume's note has them, if it has: after an import. */
void scsi_reservation_load(struct scsi_unit *unit, const struct volume *volume);
/* NULL: it is not registered. */
struct reservation_registrant *scsi_registrant_of(
    struct reservation *reservation, const struct scsi_initiator *initiator);
bool scsi_registrant_holds(
    const struct reservation *reservation, const struct reservation_registrant *registrant);
/* Whether registrants are let in by a reservation of this type, whoever holds it. */
bool scsi_registrants_may(uint8_t type);
bool scsi_registrant_is(
    const struct reservation_registrant *registrant, const struct scsi_initiator *initiator);
/* Whether the reservations of the unit forbid the task. */
bool scsi_reservation_forbids(const struct scsi_task *task);

#endif
