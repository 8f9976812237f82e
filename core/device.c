/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device_gate.h"
#include "core/device_watch.h"

void
device_submit(struct device *device, struct device_io *io)
{
	CHECK(io->offset_bytes % BLOCK_BYTES == 0 && io->len_bytes % BLOCK_BYTES == 0);
	if (io->op == DEVICE_READ || io->op == DEVICE_WRITE)
		CHECK(io->iov_count > 0 && io->iov_count <= DEVICE_IOV_MAX && io->len_bytes > 0);
	CHECK(io->len_bytes <= device->size_bytes &&
	      io->offset_bytes <= device->size_bytes - io->len_bytes);
	io->device = device;
	io->error = 0;
	if (device->gate && device_gate_holds(device->gate, io))
		return;
	if (device->watch)
		return device_watch_submit(device->watch, io);
	io->shadow = NULL;
	list_init(&io->link);
	device->in_flight++;
	device->ops->submit(device, io);
}

void
device_complete(struct device_io *io, int error)
{
	CHECK(io->device->in_flight > 0 && error <= 0);
	io->device->in_flight--;
	io->error = error;
	list_remove(&io->link); /* of a device that is watched */
	io->done(io);
}

void
device_close(struct device *device)
{
	if (!device)
		return;
	device_watch_free(device->watch);
	device->watch = NULL;
	device->ops->close(device);
}
