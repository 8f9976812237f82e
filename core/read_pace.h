/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of clients on their way to the devices, in two groups if the devices answer in bursts.
 *
 * Many virtual disks, and some real ones, work through all that they were given and only then say
 * so.  Reads and their answers then go round in one group: disk, server and client each wait while
 * the others work.  So devices that answer a quarter and more of what is in flight at once, turn by
 * turn, are given no more than half of what there is to read: they lose little, and the other half
 * is with server and client meanwhile.  Devices that answer one by one get all at once.
 *
 * Invariant: nothing waits unless something is in flight.
 */
#ifndef QUARRY_CORE_READ_PACE_H
#define QUARRY_CORE_READ_PACE_H

#include "core/base/list.h"
#include "core/device.h"

struct read_pace {
	struct list waiting; /* struct paced_read */
	uint32_t waiting_count;
	uint32_t in_flight;
	uint32_t limit; /* of in_flight; UINT32_MAX: none */
	/* The present turn of the reactor: what was in flight when it began, what came of it. */
	uint64_t turn_ns;
	uint32_t turn_in_flight;
	uint32_t turn_done;
	/* The sums of those, of the latest READ_PACE_TURNS turns or so. */
	uint64_t begun;
	uint64_t answered;
	uint32_t outstanding; /* waiting and in flight, at most, of the latest turns */
};

#define READ_PACE_TURNS 64u
/* Fewer in flight than that say nothing, and no limit is lower. */
#define READ_PACE_LIMIT_MIN 12u

struct paced_read {
	struct list link;
	struct device *device;
	struct device_io io; /* io.done calls read_pace_done() first */
};

void read_pace_init(struct read_pace *pace);
/* As device_submit(), at once or later. */
void read_pace_submit(struct read_pace *pace, struct device *device, struct paced_read *read);
/* A read is done; submits those whose turn has come.  @now_ns: of the reactor's turn. */
void read_pace_done(struct read_pace *pace, uint64_t now_ns);

#endif
