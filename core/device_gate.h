/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A gate before the devices of a pool: from a moment on, whatever changes something there waits,
 * until who keeps the gate opens it anew, or says that it never will be.
 *
 * The moment is told by a clock that goes on while the machine is suspended, and is looked at with
 * each request, not once a turn: a process may be stopped anywhere.
 */
#ifndef QUARRY_CORE_DEVICE_GATE_H
#define QUARRY_CORE_DEVICE_GATE_H

#include "core/device.h"

struct device_gate {
	/* set by the owner */
	struct reactor *reactor;
	uint64_t until_ns; /* by device_gate_now_ns() */
	/* Something is held now; may not end it from here. */
	void (*closed)(struct device_gate *gate);
	/* private */
	struct list held;
};

static inline uint64_t
device_gate_now_ns(const struct device_gate *gate)
{
	return gate->reactor->clock_ns ? gate->reactor->clock_ns() : gate->reactor->now_ns;
}

void device_gate_init(struct device_gate *gate);
/* Open until then; what was held goes on. */
void device_gate_open(struct device_gate *gate, uint64_t until_ns);
/* What is held ends with @error.  From the reactor's loop. */
void device_gate_fail(struct device_gate *gate, int error);

/* For device_submit(): whether @io is held. */
bool device_gate_holds(struct device_gate *gate, struct device_io *io);

#endif
