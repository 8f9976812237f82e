/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fault injection: each request is looked up in the rules when it is submitted, and either never
 * reaches the inner device, or is sent there as a copy whose completion may be falsified.
 */
#include "backends/fault.h"

#include <stdlib.h>

enum {
	OP_COUNT = DEVICE_DISCARD + 1
};

struct rule {
	struct list link;
	struct fault_rule rule;
	uint64_t seen; /* requests of its kind since it was added */
};

struct flip {
	struct list link;
	uint64_t offset_bytes;
	unsigned int bit;
};

struct bad {
	struct list link;
	uint64_t offset_bytes;
	uint64_t len_bytes;
};

struct fault_device {
	struct device device;
	struct device *inner;
	struct list rules;
	struct list flips;
	struct list bad;
	void (*watch)(void *context, const struct fault_hit *hit);
	void *watch_context;
	struct list in_flight; /* struct fault_request: with the inner device, or to be completed */
	struct list stalled;   /* the others */
	size_t stalled_count;
	bool crashed;
	uint64_t counts[OP_COUNT];
};

struct fault_request {
	struct list link; /* in one of the device's lists */
	struct device_io inner_io;
	struct device_io *io;
	struct task task; /* completes what never reaches the inner device */
	int error;        /* to be reported in the end */
};

static struct fault_device *
fault_device_of(const struct device *device)
{
	return container_of(device, struct fault_device, device);
}

/* --- completion --- */

static void
flip_read(struct fault_device *fault, struct device_io *io)
{
	list_for_each(node, &fault->flips) {
		struct flip *flip = container_of(node, struct flip, link);
		uint64_t at_bytes = flip->offset_bytes - io->offset_bytes;

		if (flip->offset_bytes < io->offset_bytes || at_bytes >= io->len_bytes)
			continue;
		for (uint32_t i = 0; i < io->iov_count; at_bytes -= io->iov[i++].iov_len) {
			if (at_bytes >= io->iov[i].iov_len)
				continue;
			((uint8_t *)io->iov[i].iov_base)[at_bytes] ^= (uint8_t)(1u << flip->bit);
			break;
		}
	}
}

static void
request_complete(struct fault_request *request, int error)
{
	struct device_io *io = request->io;

	list_remove(&request->link);
	free(request);
	device_complete(io, error);
}

static void
tell(
    struct fault_device *fault, const struct device_io *io, enum fault_effect effect, int64_t shift)
{
	struct fault_hit hit = {
		.device = &fault->device,
		.op = io->op,
		.effect = effect,
		.offset_bytes = io->offset_bytes,
		.len_bytes = io->len_bytes,
		.shift_bytes = shift,
	};

	if (fault->watch)
		fault->watch(fault->watch_context, &hit);
}

static void
request_task(struct task *task)
{
	struct fault_request *request = container_of(task, struct fault_request, task);

	if (request->error)
		tell(fault_device_of(request->io->device), request->io, FAULT_FAIL, 0);
	request_complete(request, request->error);
}

static void
inner_done(struct device_io *inner_io)
{
	struct fault_request *request = container_of(inner_io, struct fault_request, inner_io);
	struct fault_device *fault = fault_device_of(request->io->device);
	int error = inner_io->error;

	if (error == 0 && inner_io->op == DEVICE_READ)
		flip_read(fault, request->io);
	request_complete(request, error ? error : request->error);
}

/* --- submission --- */

static const struct fault_rule *
rule_for(struct fault_device *fault, enum device_op op)
{
	const struct fault_rule *hit = NULL;

	list_for_each(node, &fault->rules) {
		struct rule *entry = container_of(node, struct rule, link);
		const struct fault_rule *rule = &entry->rule;

		if (rule->op != op)
			continue;
		entry->seen++;
		if (!hit && entry->seen >= rule->first &&
		    (rule->count == 0 || entry->seen - rule->first < rule->count))
			hit = rule;
	}
	return hit;
}

/* Whether a read touches a bad place; a write mends those that it covers. */
static bool
meets_bad(struct fault_device *fault, const struct device_io *io)
{
	bool met = false;

	list_for_each_safe(node, &fault->bad) {
		struct bad *bad = container_of(node, struct bad, link);
		uint64_t bad_end = bad->offset_bytes + bad->len_bytes;
		uint64_t io_end = io->offset_bytes + io->len_bytes;

		if (io->op == DEVICE_READ && bad->offset_bytes < io_end &&
		    io->offset_bytes < bad_end)
			met = true;
		if (io->op == DEVICE_WRITE && io->offset_bytes <= bad->offset_bytes &&
		    bad_end <= io_end) {
			list_remove(node);
			free(bad);
		}
	}
	return met;
}

static void
pass_on(struct fault_device *fault, struct fault_request *request, int64_t shift_bytes)
{
	struct device_io *io = request->io;

	request->inner_io = (struct device_io){
		.op = io->op,
		.offset_bytes = io->offset_bytes + (uint64_t)shift_bytes,
		.len_bytes = io->len_bytes,
		.iov = io->iov,
		.iov_count = io->iov_count,
		.done = inner_done,
	};
	device_submit(fault->inner, &request->inner_io);
}

static void
misdirect(struct fault_device *fault, struct fault_request *request, int64_t shift_bytes)
{
	const struct device_io *io = request->io;
	uint64_t room = fault->device.size_bytes - io->len_bytes - io->offset_bytes;

	if (shift_bytes < 0 ? (uint64_t)-shift_bytes > io->offset_bytes
			    : (uint64_t)shift_bytes > room)
		shift_bytes = 0;
	pass_on(fault, request, shift_bytes);
}

static void
fault_submit(struct device *device, struct device_io *io)
{
	struct fault_device *fault = fault_device_of(device);
	const struct fault_rule *rule;
	struct fault_request *request;

	if (fault->crashed)
		return;
	rule = rule_for(fault, io->op);
	fault->counts[io->op]++;
	request = xcalloc(1, sizeof(*request));
	request->io = io;
	list_push_back(&fault->in_flight, &request->link);
	task_init(&request->task, request_task);
	if (!rule) {
		if (meets_bad(fault, io)) {
			request->error = -EIO;
			reactor_defer(device->reactor, &request->task);
			return;
		}
		pass_on(fault, request, 0);
		return;
	}
	if (rule->effect != FAULT_STALL && rule->effect != FAULT_FAIL)
		tell(fault, io, rule->effect, rule->shift_bytes);
	switch (rule->effect) {
	case FAULT_FAIL:
		request->error = rule->error;
		reactor_defer(device->reactor, &request->task);
		return;
	case FAULT_FAIL_AFTER:
		request->error = rule->error;
		pass_on(fault, request, 0);
		return;
	case FAULT_LOSE:
		reactor_defer(device->reactor, &request->task);
		return;
	case FAULT_STALL:
		list_remove(&request->link);
		list_push_back(&fault->stalled, &request->link);
		fault->stalled_count++;
		return;
	case FAULT_MISDIRECT:
		misdirect(fault, request, rule->shift_bytes);
		return;
	}
}

/* --- the device --- */

static void
fault_close(struct device *device)
{
	struct fault_device *fault = fault_device_of(device);

	CHECK(list_empty(&fault->stalled) && list_empty(&fault->in_flight));
	fault_clear(device);
	device_close(fault->inner);
	free(device->name);
	free(fault);
}

static void
fault_refresh(struct device *device)
{
	struct device *inner = fault_device_of(device)->inner;

	inner->ops->refresh(inner);
	device->size_bytes = inner->size_bytes;
}

static const struct device_ops fault_device_ops = {
	.refresh = fault_refresh,
	.submit = fault_submit,
	.close = fault_close,
};

struct device *
fault_device_create(struct device *inner)
{
	struct fault_device *fault = xcalloc(1, sizeof(*fault));

	fault->inner = inner;
	list_init(&fault->rules);
	list_init(&fault->flips);
	list_init(&fault->bad);
	list_init(&fault->in_flight);
	list_init(&fault->stalled);
	fault->device = (struct device){
		.ops = &fault_device_ops,
		.reactor = inner->reactor,
		.name = xstrdup(inner->name),
		.size_bytes = inner->size_bytes,
		.prepare_space = inner->prepare_space,
		.gives_back = inner->gives_back,
	};
	return &fault->device;
}

struct device *
fault_device_inner(struct device *device)
{
	CHECK(device->ops == &fault_device_ops);
	return fault_device_of(device)->inner;
}

void
fault_add(struct device *device, const struct fault_rule *rule)
{
	struct fault_device *fault = fault_device_of(device);
	struct rule *entry = xcalloc(1, sizeof(*entry));

	CHECK(device->ops == &fault_device_ops && rule->first > 0);
	CHECK((rule->effect != FAULT_FAIL && rule->effect != FAULT_FAIL_AFTER) || rule->error < 0);
	entry->rule = *rule;
	list_push_back(&fault->rules, &entry->link);
}

void
fault_add_flip(struct device *device, uint64_t offset_bytes, unsigned int bit)
{
	struct flip *flip = xcalloc(1, sizeof(*flip));

	CHECK(device->ops == &fault_device_ops && offset_bytes < device->size_bytes && bit < 8);
	flip->offset_bytes = offset_bytes;
	flip->bit = bit;
	list_push_back(&fault_device_of(device)->flips, &flip->link);
}

void
fault_add_bad(struct device *device, uint64_t offset_bytes, uint64_t len_bytes)
{
	struct bad *bad = xcalloc(1, sizeof(*bad));

	CHECK(device->ops == &fault_device_ops);
	bad->offset_bytes = offset_bytes;
	bad->len_bytes = len_bytes;
	list_push_back(&fault_device_of(device)->bad, &bad->link);
}

void
fault_watch(
    struct device *device, void (*hit)(void *context, const struct fault_hit *hit), void *context)
{
	struct fault_device *fault = fault_device_of(device);

	CHECK(device->ops == &fault_device_ops);
	fault->watch = hit;
	fault->watch_context = context;
}

void
fault_clear(struct device *device)
{
	struct fault_device *fault = fault_device_of(device);
	struct list *node;

	CHECK(device->ops == &fault_device_ops);
	while ((node = list_pop_front(&fault->rules)))
		free(container_of(node, struct rule, link));
	while ((node = list_pop_front(&fault->flips)))
		free(container_of(node, struct flip, link));
	while ((node = list_pop_front(&fault->bad)))
		free(container_of(node, struct bad, link));
}

void
fault_resume(struct device *device)
{
	struct fault_device *fault = fault_device_of(device);
	struct list *node;

	CHECK(device->ops == &fault_device_ops);
	while ((node = list_pop_front(&fault->stalled))) {
		fault->stalled_count--;
		list_push_back(&fault->in_flight, node);
		pass_on(fault, container_of(node, struct fault_request, link), 0);
	}
}

void
fault_crash(struct device *device)
{
	struct fault_device *fault = fault_device_of(device);
	struct list *node;

	CHECK(device->ops == &fault_device_ops);
	fault->crashed = true;
	fault->stalled_count = 0;
	list_splice_back(&fault->in_flight, &fault->stalled);
	while ((node = list_pop_front(&fault->in_flight))) {
		struct fault_request *request = container_of(node, struct fault_request, link);

		reactor_cancel(device->reactor, &request->task);
		free(request);
	}
}

size_t
fault_stalled_count(const struct device *device)
{
	CHECK(device->ops == &fault_device_ops);
	return fault_device_of(device)->stalled_count;
}

uint64_t
fault_count(const struct device *device, enum device_op op)
{
	CHECK(device->ops == &fault_device_ops);
	return fault_device_of(device)->counts[op];
}
