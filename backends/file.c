/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files and block devices on io_uring.
 *
 * A request's state lives in its device_io (struct file_request over backend.scratch), so nothing
 * is allocated on the way, except for the rest of the vectors after a short transfer, which a disk
 * never makes and a file seldom.
 *
 *   submit ─► SQE ─► request_done ─┬─► device_complete
 *               ▲                  │
 *               └── the rest ◄─────┘  (short, interrupted, no memory just then)
 *
 * DISCARD on a file is a hole punched, which io_uring does in a kernel thread.  On a block device
 * it is the discard command of io_uring where the kernel has it (Linux 6.12), otherwise an ioctl in
 * a thread of ours, one at a time.
 */
#include "backends/file_internal.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "core/reactor_uring.h"

/* Later than the headers of Debian 12 (linux/blkdev.h of 6.12). */
#ifndef BLOCK_URING_CMD_DISCARD
#define BLOCK_URING_CMD_DISCARD _IO(0x12, 0)
#endif

/* How often in a row a transfer may make no progress before it counts as failed. */
#define ATTEMPTS_MAX 100u

struct file_request {
	struct uring_op op;
	uint64_t done_bytes;
	struct iovec
	    *rest; /* the vectors behind done_bytes, once a transfer was short; ours to free */
	uint32_t rest_count;
	uint32_t attempts; /* since the last progress */
};

struct discard_request {
	struct offload offload;
	int error;
};

static_assert(sizeof(struct file_request) <= sizeof(((struct device_io *)0)->backend.scratch),
    "a request's state fits its device_io");
static_assert(sizeof(struct discard_request) <= sizeof(((struct device_io *)0)->backend.scratch),
    "an offloaded discard fits its device_io");

static struct file_request *
request_of(struct device_io *io)
{
	return (struct file_request *)(void *)&io->backend.scratch;
}

static struct device_io *
request_io(struct file_request *request)
{
	return container_of((void *)request, struct device_io, backend.scratch);
}

/* --- submission --- */

static void request_done(struct uring_op *op, int32_t result, uint32_t cqe_flags);
static void discard_offload(struct file_device *file, struct device_io *io);

static void
transfer_submit(struct file_device *file, struct device_io *io, struct io_uring_sqe *sqe)
{
	struct file_request *request = request_of(io);
	const struct iovec *iov = request->rest ? request->rest : io->iov;
	uint32_t count = request->rest ? request->rest_count : io->iov_count;
	uint64_t at_bytes = io->offset_bytes + request->done_bytes;
	bool read = io->op == DEVICE_READ;

	/* A single vector need not be fetched from memory. */
	if (count == 1 && iov->iov_len <= GIB)
		io_uring_prep_rw(read ? IORING_OP_READ : IORING_OP_WRITE, sqe, file->fd,
		    iov->iov_base, (unsigned int)iov->iov_len, at_bytes);
	else
		io_uring_prep_rw(
		    read ? IORING_OP_READV : IORING_OP_WRITEV, sqe, file->fd, iov, count, at_bytes);
}

static void
discard_submit(struct file_device *file, struct device_io *io, struct io_uring_sqe *sqe)
{
	if (!file->block_device) {
		io_uring_prep_fallocate(sqe, file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		    (off_t)io->offset_bytes, (off_t)io->len_bytes);
		return;
	}
	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, file->fd, NULL, 0, 0);
	sqe->cmd_op = BLOCK_URING_CMD_DISCARD;
	sqe->addr = io->offset_bytes;
	sqe->addr3 = io->len_bytes;
}

static void
request_submit(struct file_device *file, struct device_io *io)
{
	struct reactor_uring *reactor = reactor_uring_of(file->device.reactor);
	struct io_uring_sqe *sqe = reactor_uring_sqe(reactor, &request_of(io)->op);

	switch (io->op) {
	case DEVICE_READ:
	case DEVICE_WRITE:
		transfer_submit(file, io, sqe);
		return;
	case DEVICE_FLUSH:
		io_uring_prep_fsync(sqe, file->fd, IORING_FSYNC_DATASYNC);
		return;
	case DEVICE_DISCARD:
		if (file->device.gives_back && io->len_bytes > 0)
			discard_submit(file, io, sqe);
		else
			io_uring_prep_nop(sqe);
		return;
	}
}

static void
file_submit(struct device *device, struct device_io *io)
{
	struct file_device *file = file_device_of(device);

	CHECK(reactor_current() == device->reactor);
	if (io->op == DEVICE_DISCARD && file->block_device && !file->discard_in_ring &&
	    device->gives_back && io->len_bytes > 0) {
		discard_offload(file, io);
		return;
	}
	*request_of(io) = (struct file_request){ .op.done = request_done };
	request_submit(file, io);
}

/* --- completion --- */

static const char *
op_name(enum device_op op)
{
	switch (op) {
	case DEVICE_READ:
		return "read";
	case DEVICE_WRITE:
		return "write";
	case DEVICE_FLUSH:
		return "flush";
	case DEVICE_DISCARD:
		return "discard";
	}
	return "?";
}

/* Says what failed (each of the first ten times, then at 16, 32, 64 …) and leaves the errors that
 * the engine knows. */
static int
failure(struct file_device *file, const struct device_io *io, int error)
{
	file->errors++;
	if (file->errors <= 10 || (file->errors & (file->errors - 1)) == 0)
		diag_error("%s: %s of %llu bytes at %llu failed: %s (failure %llu of this device)",
		    file->device.name, op_name(io->op), (unsigned long long)io->len_bytes,
		    (unsigned long long)io->offset_bytes, strerror(-error),
		    (unsigned long long)file->errors);
	if (error == -ENOSPC || error == -EDQUOT)
		return -ENOSPC;
	return -EIO;
}

static void
request_finish(struct device_io *io, int error)
{
	free(request_of(io)->rest);
	device_complete(io, error);
}

/* Makes the vectors of what is still to be transferred. */
static void
request_advance(struct device_io *io)
{
	struct file_request *request = request_of(io);
	uint64_t skip_bytes = request->done_bytes;
	uint32_t i = 0;

	while (skip_bytes >= io->iov[i].iov_len)
		skip_bytes -= io->iov[i++].iov_len;
	if (!request->rest)
		request->rest = xmalloc(io->iov_count * sizeof(struct iovec));
	request->rest_count = io->iov_count - i;
	memcpy(request->rest, &io->iov[i], request->rest_count * sizeof(struct iovec));
	request->rest[0].iov_base = (char *)request->rest[0].iov_base + skip_bytes;
	request->rest[0].iov_len -= skip_bytes;
}

static bool
error_passes(int result)
{
	return result == -EINTR || result == -EAGAIN;
}

static void
transfer_done(struct file_device *file, struct device_io *io, int32_t result)
{
	struct file_request *request = request_of(io);

	if (result ==
	    0) { /* the end of the file, where there should be none; or no room said oddly */
		request_finish(io, failure(file, io, -EIO));
		return;
	}
	if (result > 0) {
		/* Whole blocks only: O_DIRECT goes on at an aligned place or not at all. */
		uint64_t progress_bytes = (uint64_t)result;

		if (request->done_bytes + progress_bytes < io->len_bytes)
			progress_bytes = round_down(progress_bytes, BLOCK_BYTES);
		request->done_bytes += progress_bytes;
		CHECK(request->done_bytes <= io->len_bytes);
		if (request->done_bytes == io->len_bytes) {
			request_finish(io, 0);
			return;
		}
		if (progress_bytes > 0)
			request->attempts = 0;
		request_advance(io);
	}
	if (++request->attempts > ATTEMPTS_MAX) {
		request_finish(io, failure(file, io, result < 0 ? result : -EIO));
		return;
	}
	request_submit(file, io);
}

static void
discard_done(struct file_device *file, struct device_io *io, int32_t result)
{
	if (result == -EOPNOTSUPP && file->block_device && file->discard_in_ring) {
		/* The kernel may be older than the command, or the disk cannot: the ioctl knows. */
		file->discard_in_ring = false;
		discard_offload(file, io);
		return;
	}
	if (result == -EOPNOTSUPP) {
		file->device.gives_back = false;
		result = 0;
	}
	request_finish(io, result < 0 ? failure(file, io, result) : 0);
}

static void
request_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct file_request *request = container_of(op, struct file_request, op);
	struct device_io *io = request_io(request);
	struct file_device *file = file_device_of(io->device);

	/* A failed flush is not tried again: the kernel reports it once and forgets the data. */
	if (io->op == DEVICE_FLUSH && result != -EINTR) {
		request_finish(io, result < 0 ? failure(file, io, result) : 0);
		return;
	}
	if (result < 0 && error_passes(result) && ++request->attempts <= ATTEMPTS_MAX) {
		request_submit(file, io);
		return;
	}
	if (io->op == DEVICE_DISCARD)
		discard_done(file, io, result);
	else if (result < 0)
		request_finish(io, failure(file, io, result));
	else
		transfer_done(file, io, result);
}

/* --- discards of block devices without the help of the ring --- */

static struct discard_request *
discard_of(struct device_io *io)
{
	return (struct discard_request *)(void *)&io->backend.scratch;
}

static struct device_io *
discard_io(struct discard_request *request)
{
	return container_of((void *)request, struct device_io, backend.scratch);
}

static void
discard_run(struct offload *offload)
{
	struct discard_request *request = container_of(offload, struct discard_request, offload);
	struct device_io *io = discard_io(request);
	uint64_t range[2] = { io->offset_bytes, io->len_bytes };

	while (ioctl(file_device_of(io->device)->fd, BLKDISCARD, range) < 0) {
		if (errno == EINTR)
			continue;
		request->error = -errno;
		return;
	}
}

static void discard_next(struct file_device *file);

static void
discard_offload_done(struct offload *offload)
{
	struct discard_request *request = container_of(offload, struct discard_request, offload);
	struct device_io *io = discard_io(request);
	struct file_device *file = file_device_of(io->device);
	int error = request->error;

	file->discarding = NULL;
	discard_next(file);
	if (error == -EOPNOTSUPP) {
		file->device.gives_back = false;
		error = 0;
	}
	device_complete(io, error ? failure(file, io, error) : 0);
}

static void
discard_skipped(struct task *task)
{
	discard_offload_done(container_of(task, struct offload, task));
}

static void
discard_next(struct file_device *file)
{
	struct list *node = file->discarding ? NULL : list_pop_front(&file->discards);
	struct offload *offload;

	if (!node)
		return;
	offload = container_of(node, struct offload, task.link);
	file->discarding = discard_io(container_of(offload, struct discard_request, offload));
	if (offload_start(offload, file->device.reactor, discard_run, discard_offload_done) < 0) {
		/* No thread to be had: space is not given back this time. */
		task_init(&offload->task, discard_skipped);
		reactor_defer(file->device.reactor, &offload->task);
	}
}

static void
discard_offload(struct file_device *file, struct device_io *io)
{
	struct discard_request *request = discard_of(io);

	memset(request, 0, sizeof(*request));
	list_push_back(&file->discards, &request->offload.task.link);
	discard_next(file);
}

/* --- the end --- */

static void
remove_made(const struct file_device *file)
{
	struct stat ours, there;

	/* Somebody may have put something else in its place. */
	if (fstat(file->fd, &ours) == 0 && stat(file->device.name, &there) == 0 &&
	    ours.st_dev == there.st_dev && ours.st_ino == there.st_ino)
		unlink(file->device.name);
}

static void
file_close(struct device *device)
{
	struct file_device *file = file_device_of(device);

	CHECK(device->in_flight == 0 && !file->discarding && list_empty(&file->discards));
	if (device->made)
		remove_made(file);
	close(file->fd);
	free(device->name);
	free(file);
}

static void
file_refresh(struct device *device)
{
	struct file_device *file = file_device_of(device);
	uint64_t size_bytes = file_size_bytes(file);

	/* One that has shrunk fails where it is used. */
	if (size_bytes > device->size_bytes)
		device->size_bytes = size_bytes;
}

const struct device_ops file_device_ops = {
	.refresh = file_refresh,
	.submit = file_submit,
	.close = file_close,
};
