/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests of a memory device.
 *
 * A request takes effect at one moment, that of its completion; the order of completions is drawn
 * from the seed.  That makes every order of overlapping writes possible, and an effect before the
 * completion would be no different to anybody who keeps to the contract.  Until then its state is a
 * struct memory_request, in the list of those in flight, which is what a crash goes through.
 */
#include "backends/memory_internal.h"

#include <stdlib.h>

#include "core/base/crc32c.h"

#define DELAY_NS_MAX_DEFAULT 100000u

struct memory_device {
	struct device device;
	struct memory_disk *disk;
	struct memory_device_options options;
	struct memory_random random;
	struct list in_flight; /* struct memory_request, in the order of submission */
	bool crashed;
};

struct memory_request {
	struct list link;
	struct device_io *io;
	struct task task;        /* completes it in this turn, */
	struct timer timer;      /* or later */
	uint64_t flush_sequence; /* FLUSH: what it covers */
	uint32_t payload_crc;    /* WRITE: of what was submitted */
};

static struct memory_device *
memory_device_of(const struct device *device)
{
	return container_of(device, struct memory_device, device);
}

static uint32_t
vectors_crc(const struct device_io *io)
{
	uint32_t crc = 0;

	for (uint32_t i = 0; i < io->iov_count; i++)
		crc = crc32c(crc, io->iov[i].iov_base, io->iov[i].iov_len);
	return crc;
}

static uint64_t
vectors_bytes(const struct device_io *io)
{
	uint64_t len_bytes = 0;

	for (uint32_t i = 0; i < io->iov_count; i++)
		len_bytes += io->iov[i].iov_len;
	return len_bytes;
}

/* --- taking effect --- */

static void
write_apply(struct memory_device *memory, struct memory_request *request)
{
	struct device_io *io = request->io;
	struct memory_change *change = memory_change_create(io->offset_bytes, io->len_bytes, false);
	uint8_t *to = change->data;

	CHECK(vectors_crc(io) == request->payload_crc); /* the submitter left the buffer alone */
	for (uint32_t i = 0; i < io->iov_count; i++) {
		memcpy(to, io->iov[i].iov_base, io->iov[i].iov_len);
		to += io->iov[i].iov_len;
	}
	memory_disk_apply(memory->disk, change);
}

static void
read_apply(struct memory_device *memory, struct device_io *io)
{
	uint64_t offset_bytes = io->offset_bytes;

	for (uint32_t i = 0; i < io->iov_count; i++) {
		memory_disk_read(
		    memory->disk, offset_bytes, io->iov[i].iov_base, io->iov[i].iov_len);
		offset_bytes += io->iov[i].iov_len;
	}
}

static void
request_apply(struct memory_device *memory, struct memory_request *request)
{
	struct device_io *io = request->io;

	switch (io->op) {
	case DEVICE_READ:
		read_apply(memory, io);
		return;
	case DEVICE_WRITE:
		write_apply(memory, request);
		return;
	case DEVICE_FLUSH:
		memory_disk_flush_until(memory->disk, request->flush_sequence);
		return;
	case DEVICE_DISCARD:
		if (memory->options.gives_back && io->len_bytes > 0)
			memory_disk_apply(memory->disk,
			    memory_change_create(io->offset_bytes, io->len_bytes, true));
		return;
	}
}

static void
request_complete(struct memory_request *request)
{
	struct device_io *io = request->io;

	request_apply(memory_device_of(io->device), request);
	list_remove(&request->link);
	free(request);
	device_complete(io, 0);
}

static void
request_task(struct task *task)
{
	request_complete(container_of(task, struct memory_request, task));
}

static void
request_timer(struct timer *timer)
{
	request_complete(container_of(timer, struct memory_request, timer));
}

/* --- submission --- */

/* Half of them take next to no time, so that the others are overtaken. */
static uint64_t
draw_delay_ns(struct memory_device *memory)
{
	uint64_t draw = memory_random_next(&memory->random);
	uint64_t max_ns = memory->options.delay_ns_max;

	if (draw & 1)
		max_ns = max_ns / 16 + 1;
	return (draw >> 1) % max_ns;
}

static void
memory_submit(struct device *device, struct device_io *io)
{
	struct memory_device *memory = memory_device_of(device);
	struct memory_request *request;

	if (memory->crashed)
		return;
	request = xcalloc(1, sizeof(*request));
	request->io = io;
	task_init(&request->task, request_task);
	timer_init(&request->timer, request_timer);
	list_push_back(&memory->in_flight, &request->link);

	if (io->op == DEVICE_FLUSH)
		request->flush_sequence = memory_disk_sequence(memory->disk);
	if (io->op == DEVICE_READ || io->op == DEVICE_WRITE)
		CHECK(vectors_bytes(io) == io->len_bytes);
	if (io->op == DEVICE_WRITE)
		request->payload_crc = vectors_crc(io);
	if (io->op == DEVICE_READ) /* whoever looks before done() sees that */
		for (uint32_t i = 0; i < io->iov_count; i++)
			memset(io->iov[i].iov_base, 0xa5, io->iov[i].iov_len);

	if (memory->options.seed)
		reactor_timer_start(device->reactor, &request->timer, draw_delay_ns(memory));
	else
		reactor_defer(device->reactor, &request->task);
}

/* --- the device --- */

static void
memory_close(struct device *device)
{
	struct memory_device *memory = memory_device_of(device);

	CHECK(list_empty(&memory->in_flight));
	memory_disk_put(memory->disk);
	free(device->name);
	free(memory);
}

static void
memory_refresh(struct device *device)
{
	device->size_bytes = memory_disk_size_bytes(memory_device_of(device)->disk);
}

static const struct device_ops memory_device_ops = {
	.refresh = memory_refresh,
	.submit = memory_submit,
	.close = memory_close,
};

struct device *
memory_device_open(struct memory_disk *disk, struct reactor *reactor, const char *name,
    const struct memory_device_options *options)
{
	struct memory_device *memory = xcalloc(1, sizeof(*memory));

	memory->options = *options;
	if (!memory->options.delay_ns_max)
		memory->options.delay_ns_max = DELAY_NS_MAX_DEFAULT;
	memory->random.state = options->seed;
	memory->disk = memory_disk_get(disk);
	list_init(&memory->in_flight);
	memory->device.ops = &memory_device_ops;
	memory->device.reactor = reactor;
	memory->device.name = xstrdup(name);
	memory->device.size_bytes = memory_disk_size_bytes(disk);
	memory->device.prepare_space = options->prepare_space;
	memory->device.gives_back = options->gives_back;
	return &memory->device;
}

struct device *
memory_device_create(struct reactor *reactor, uint64_t size_bytes, const char *name,
    const struct memory_device_options *options)
{
	struct memory_disk *disk = memory_disk_create(size_bytes);
	struct device *device = memory_device_open(disk, reactor, name, options);

	memory_disk_put(disk);
	return device;
}

struct memory_disk *
memory_device_disk(struct device *device)
{
	CHECK(device->ops == &memory_device_ops);
	return memory_device_of(device)->disk;
}

uint32_t
memory_device_in_flight(const struct device *device)
{
	return device->in_flight;
}

/*
 * What is in flight goes through the cache like what was completed, in an order of its own; the
 * crash then chooses among all of it.  A kill is no power loss: it chooses among those in flight
 * only.
 */
void
memory_device_crash(struct device *device, uint64_t seed, enum memory_crash mode)
{
	struct memory_device *memory = memory_device_of(device);
	struct memory_random random = { .state = seed };

	CHECK(device->ops == &memory_device_ops && !memory->crashed);
	memory->crashed = true;
	while (!list_empty(&memory->in_flight)) {
		uint64_t draw = memory_random_next(&random);
		struct list *node = draw & 2 ? memory->in_flight.next : memory->in_flight.prev;
		struct memory_request *request = container_of(node, struct memory_request, link);
		bool changes = request->io->op == DEVICE_WRITE || request->io->op == DEVICE_DISCARD;

		if (changes && (mode != MEMORY_CRASH_KILL || (draw & 1)))
			request_apply(memory, request);
		reactor_cancel(device->reactor, &request->task);
		reactor_timer_cancel(device->reactor, &request->timer);
		list_remove(&request->link);
		free(request);
	}
	memory_disk_power_loss(memory->disk, &random, mode);
}
