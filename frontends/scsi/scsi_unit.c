/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Units, nexuses, unit attentions.
 *
 * A unit is what all initiators of a volume have in common.  It is made by the first nexus; when
 * the last one ends it stays only if somebody ever registered with it: then it knows better than a
 * note that was read some time ago (a handle's, which may have been opened before a change).
 */
#include <stdlib.h>

#include "frontends/scsi/scsi_internal.h"

/* --- unit attentions --- */

void
scsi_attention(struct scsi_nexus *nexus, enum scsi_asc asc)
{
	for (uint32_t i = 0; i < nexus->attention_count; i++)
		if (nexus->attentions[i] == asc)
			return;
	if (nexus->attention_count == SCSI_ATTENTIONS_MAX) {
		enum scsi_asc lost;

		scsi_attention_take(nexus, &lost);
	}
	nexus->attentions[nexus->attention_count++] = asc;
}

void
scsi_attention_all(struct scsi_unit *unit, const struct scsi_nexus *except, enum scsi_asc asc)
{
	list_for_each(link, &unit->nexuses) {
		struct scsi_nexus *nexus = container_of(link, struct scsi_nexus, link);

		if (nexus != except)
			scsi_attention(nexus, asc);
	}
}

bool
scsi_attention_take(struct scsi_nexus *nexus, enum scsi_asc *asc)
{
	if (nexus->attention_count == 0)
		return false;
	*asc = nexus->attentions[0];
	nexus->attention_count--;
	memmove(nexus->attentions, nexus->attentions + 1,
	    nexus->attention_count * sizeof(nexus->attentions[0]));
	return true;
}

/* --- units --- */

static struct scsi_unit *
unit_find(struct scsi_port *port, const struct volume_info *info)
{
	list_for_each(link, &port->units) {
		struct scsi_unit *unit = container_of(link, struct scsi_unit, link);

		if (memcmp(&unit->uuid, &info->uuid, sizeof(unit->uuid)) == 0 &&
		    strcmp(unit->snapshot, info->name.snapshot) == 0)
			return unit;
	}
	return NULL;
}

/* A volume and its snapshot must never pass for two paths to one disk. */
static struct uuid
identity_of(const struct volume_info *info)
{
	struct uuid identity = info->uuid;
	uint64_t hash = 0;

	if (!info->name.snapshot[0])
		return identity;
	for (const char *c = info->name.snapshot; *c; c++)
		hash = mix64(hash + (uint8_t)*c + 1);
	for (unsigned i = 0; i < 16; i++) {
		identity.bytes[i] ^= (uint8_t)(hash >> 8 * (i % 8));
		if (i == 7)
			hash = mix64(hash);
	}
	return identity;
}

static struct scsi_unit *
unit_get(struct scsi_port *port, const struct volume *volume)
{
	const struct volume_info *info = volume_info(volume);
	struct scsi_unit *unit = unit_find(port, info);

	if (!unit) {
		unit = xcalloc(1, sizeof(*unit));
		unit->port = port;
		unit->uuid = info->uuid;
		memcpy(unit->snapshot, info->name.snapshot, sizeof(unit->snapshot));
		unit->identity = identity_of(info);
		list_init(&unit->nexuses);
		list_init(&unit->tasks);
		unit->warned_percent = volume_warned_percent(volume);
		list_push_back(&port->units, &unit->link);
	}
	/* While nobody had the volume open, or it was in another daemon, both may have changed. */
	if (unit->block_bytes != info->block_bytes || unit->size_bytes != info->size_bytes)
		scsi_attention_all(unit, NULL, SCSI_ASC_CAPACITY_CHANGED);
	unit->block_bytes = info->block_bytes;
	unit->size_bytes = info->size_bytes;
	if (unit->import != info->import) {
		unit->import = info->import;
		unit->can_keep = info->keeps_notes;
		scsi_reservation_load(unit, volume);
	}
	return unit;
}

/* What nobody has registered with, since its pool was imported, is as the volume's note says. */
static bool
unit_is_new(const struct scsi_unit *unit)
{
	return unit->reservation.generation == 0 &&
	       reservation_is_empty(&unit->reservation.state) && !unit->sanitize_failed;
}

static void
unit_free(struct scsi_unit *unit)
{
	list_remove(&unit->link);
	free(unit);
}

void
scsi_unit_unused(struct scsi_unit *unit)
{
	if (list_empty(&unit->nexuses) && unit_is_new(unit) && !unit->sanitize)
		unit_free(unit);
}

bool
scsi_unit_readonly(const struct scsi_nexus *nexus)
{
	return volume_info(nexus->volume)->readonly || nexus->unit->write_protect;
}

uint64_t
scsi_atomic_bytes_max(const struct scsi_nexus *nexus)
{
	uint64_t most_bytes = volume_info(nexus->volume)->atomic_bytes_max;

	/* One that begins within a block touches one block more. */
	if (nexus->unit->block_bytes < BLOCK_BYTES)
		most_bytes -= BLOCK_BYTES;
	return most_bytes;
}

/* --- nexuses --- */

void
scsi_nexus_luns_changed(struct scsi_nexus *nexus)
{
	scsi_attention(nexus, SCSI_ASC_LUNS_CHANGED);
}

struct scsi_nexus *
scsi_nexus_begin(struct scsi_port *port, struct volume *volume, const char *target_name,
    const struct scsi_initiator *initiator, uint16_t lun, const struct scsi_luns *luns)
{
	struct scsi_nexus *nexus = xcalloc(1, sizeof(*nexus));

	nexus->unit = unit_get(port, volume);
	nexus->volume = volume;
	nexus->lun = lun;
	nexus->announced_bytes = nexus->unit->size_bytes;
	nexus->luns = luns;
	nexus->initiator = *initiator;
	strncpy(nexus->target_name, target_name, sizeof(nexus->target_name) - 1);
	list_push_back(&nexus->unit->nexuses, &nexus->link);
	scsi_attention(nexus, SCSI_ASC_POWER_ON_OR_RESET);
	return nexus;
}

void
scsi_nexus_end(struct scsi_nexus *nexus)
{
	struct scsi_unit *unit = nexus->unit;

	list_for_each(link, &unit->tasks)
		CHECK(container_of(link, struct scsi_task, link)->nexus != nexus);
	if (unit->reserved_by == nexus)
		unit->reserved_by = NULL;
	list_remove(&nexus->link);
	if (!unit->sanitize || !scsi_sanitize_takes(unit->sanitize, nexus->volume))
		volume_close(nexus->volume);
	free(nexus);
	scsi_unit_unused(unit);
}

void
scsi_port_init(struct scsi_port *port, struct reactor *reactor, struct buffer_pool *buffers,
    struct target *target)
{
	*port = (struct scsi_port){
		.reactor = reactor,
		.buffers = buffers,
		.target = target,
	};
	list_init(&port->units);
}

void
scsi_port_stop(struct scsi_port *port)
{
	list_for_each(link, &port->units) {
		struct scsi_unit *unit = container_of(link, struct scsi_unit, link);

		if (unit->sanitize)
			scsi_sanitize_stop(unit->sanitize);
	}
}

bool
scsi_port_busy(const struct scsi_port *port)
{
	list_for_each(link, &port->units)
		if (container_of(link, struct scsi_unit, link)->sanitize)
			return true;
	return false;
}

void
scsi_port_fini(struct scsi_port *port)
{
	while (!list_empty(&port->units)) {
		struct scsi_unit *unit = list_first(&port->units, struct scsi_unit, link);

		CHECK(list_empty(&unit->nexuses) && !unit->sanitize);
		unit_free(unit);
	}
}

/* --- task management --- */

int
scsi_lun_number(const uint8_t lun[8])
{
	static const uint8_t zero[6];

	/* Peripheral devices are on bus 0; flat space has 14 bits. */
	if (memcmp(lun + 2, zero, sizeof(zero)) != 0 || lun[0] & 0x80 ||
	    (!(lun[0] & 0x40) && lun[0] & 0x3f))
		return -1;
	return (lun[0] & 0x3f) << 8 | lun[1];
}

uint16_t
scsi_nexus_lun(const struct scsi_nexus *nexus)
{
	return nexus->lun;
}

/* Those of @nexus, or all; those that are not of @by are answered. */
static void
abort_tasks(struct scsi_unit *unit, const struct scsi_nexus *nexus, const struct scsi_nexus *by)
{
	list_for_each_safe(link, &unit->tasks) {
		struct scsi_task *task = container_of(link, struct scsi_task, link);

		if (nexus && task->nexus != nexus)
			continue;
		task->tells_abort = task->nexus != by && (!task->aborted || task->tells_abort);
		task->aborted = true;
	}
	list_for_each(link, &unit->nexuses) {
		struct scsi_nexus *other = container_of(link, struct scsi_nexus, link);

		if (!nexus || other == nexus) /* also what waits because the pool is full */
			volume_stop_waiting(other->volume, false);
	}
	scsi_unit_pump(unit);
}

void
scsi_nexus_abort(struct scsi_nexus *nexus)
{
	abort_tasks(nexus->unit, nexus, nexus);
}

void
scsi_nexus_abort_by(struct scsi_nexus *nexus, const struct scsi_nexus *by)
{
	abort_tasks(nexus->unit, nexus, by);
}

void
scsi_manage(struct scsi_nexus *nexus, enum scsi_tmf function)
{
	switch (function) {
	case SCSI_ABORT_TASK_SET:
		abort_tasks(nexus->unit, nexus, nexus);
		return;
	case SCSI_CLEAR_TASK_SET:
		abort_tasks(nexus->unit, NULL, nexus);
		return;
	case SCSI_LOGICAL_UNIT_RESET:
		nexus->unit->reserved_by = NULL;
		nexus->unit->stopped = false;
		abort_tasks(nexus->unit, NULL, nexus);
		scsi_attention_all(nexus->unit, NULL, SCSI_ASC_POWER_ON_OR_RESET);
		return;
	}
}

/* What waits for those that it aborted is not one of them. */
static bool
aborts_pending(const struct scsi_unit *unit)
{
	list_for_each(link, &unit->tasks) {
		const struct scsi_task *task = container_of(link, struct scsi_task, link);

		if (task->aborted && !task->awaits_aborts)
			return true;
	}
	return false;
}

bool
scsi_aborts_pending(const struct scsi_nexus *nexus)
{
	return aborts_pending(nexus->unit);
}

void
scsi_unit_aborted(struct scsi_unit *unit)
{
	if (aborts_pending(unit))
		return;
	list_for_each_safe(link, &unit->tasks) {
		struct scsi_task *task = container_of(link, struct scsi_task, link);

		if (!task->awaits_aborts)
			continue;
		task->awaits_aborts = false;
		task->in_run = true; /* it ends only behind this, so that the unit stays */
		scsi_finish(task, task->aborted ? SCSI_TASK_ABORTED : SCSI_GOOD);
		task->in_run = false;
	}
}
