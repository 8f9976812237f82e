/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device_gate.h"

void
device_gate_init(struct device_gate *gate)
{
	list_init(&gate->held);
}

bool
device_gate_holds(struct device_gate *gate, struct device_io *io)
{
	if ((io->op != DEVICE_WRITE && io->op != DEVICE_DISCARD) || io->passes_gate ||
	    device_gate_now_ns(gate) < gate->until_ns)
		return false;
	list_push_back(&gate->held, &io->link);
	io->device->in_flight++;
	gate->closed(gate);
	return true;
}

void
device_gate_open(struct device_gate *gate, uint64_t until_ns)
{
	struct list held;
	struct list *node;

	gate->until_ns = until_ns;
	list_init(&held);
	list_splice_back(&held, &gate->held);
	while ((node = list_pop_front(&held))) {
		struct device_io *io = container_of(node, struct device_io, link);

		io->device->in_flight--;
		device_submit(io->device, io);
	}
}

void
device_gate_fail(struct device_gate *gate, int error)
{
	struct list held;
	struct list *node;

	list_init(&held);
	list_splice_back(&held, &gate->held);
	while ((node = list_pop_front(&held))) {
		struct device_io *io = container_of(node, struct device_io, link);

		io->device->in_flight--;
		io->error = error;
		io->done(io);
	}
}
