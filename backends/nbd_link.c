/* SPDX-License-Identifier: Apache-2.0 */
/* The connection of an NBD device: making it, making sure of it, and bringing it up to date. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "backends/nbd_device_internal.h"
#include "core/base/diag.h"
#include "metadata/format.h"

/* How long a connection, and each step of bringing it up to date, may take. */
#define STEP_MS 10000
#define PART_BYTES_MAX (32 * MIB)

uint64_t
nbd_clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool
nbd_link_is_dead(const struct nbd_device *nbd)
{
	return nbd_aio_is_dead(nbd->handle) || nbd_aio_is_closed(nbd->handle);
}

void
nbd_link_wait(struct nbd_device *nbd, int wait_ms)
{
	struct pollfd fds[2] = { { .fd = nbd->wake_fd, .events = POLLIN }, { .fd = -1 } };
	unsigned direction = 0;
	uint64_t count;

	if (nbd->handle && !nbd_link_is_dead(nbd)) {
		direction = nbd_aio_get_direction(nbd->handle);
		fds[1].fd = nbd_aio_get_fd(nbd->handle);
		fds[1].events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
					(direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
	}
	if (poll(fds, 2, wait_ms) <= 0)
		return;
	if (fds[0].revents && read(nbd->wake_fd, &count, sizeof(count)) < 0)
		CHECK(errno == EAGAIN || errno == EINTR);
	/* Its own failure makes the handle dead, which is looked at. */
	if (fds[1].revents & (POLLIN | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_READ)
		(void)nbd_aio_notify_read(nbd->handle);
	else if (fds[1].revents & (POLLOUT | POLLHUP | POLLERR) &&
		 direction & LIBNBD_AIO_DIRECTION_WRITE)
		(void)nbd_aio_notify_write(nbd->handle);
}

static bool
stopping(struct nbd_device *nbd)
{
	bool is;

	pthread_mutex_lock(&nbd->lock);
	is = nbd->stopping;
	pthread_mutex_unlock(&nbd->lock);
	return is;
}

/* Waits until @ready says so; -ETIMEDOUT, -ECANCELED (stopping) or -EIO (dead) if it never does. */
static int
wait_until(
    struct nbd_device *nbd, bool (*ready)(struct nbd_device *nbd, void *context), void *context)
{
	uint64_t end_ns = nbd_clock_ns() + STEP_MS * 1000000ull;

	while (!ready(nbd, context)) {
		if (nbd_link_is_dead(nbd))
			return -EIO;
		if (stopping(nbd))
			return -ECANCELED;
		if (nbd_clock_ns() >= end_ns)
			return -ETIMEDOUT;
		nbd_link_wait(nbd, 100);
	}
	return 0;
}

static bool
is_ready(struct nbd_device *nbd, void *context)
{
	(void)context;
	return nbd_aio_is_ready(nbd->handle);
}

static int
connect_to(struct nbd_device *nbd, struct error *error)
{
	const char *why;
	int rc;

	nbd->handle = nbd_create();
	if (!nbd->handle)
		return error_set(error, -ENOMEM, "%s: %s", nbd->device.name, nbd_get_error());
	/* Credentials that the operator's URI names are files. */
	if (nbd_set_uri_allow_local_file(nbd->handle, true) < 0 ||
	    nbd_set_pread_initialize(nbd->handle, false) < 0 ||
	    nbd_aio_connect_uri(nbd->handle, nbd->device.name) < 0) {
		error_set(error, -EIO, "%s: %s", nbd->device.name, nbd_get_error());
		nbd_link_close(nbd);
		return -EIO;
	}
	rc = wait_until(nbd, is_ready, NULL);
	if (rc == 0)
		return 0;
	why = rc == -EIO ? nbd_get_error() : NULL;
	error_set(error, -EIO, "%s: %s", nbd->device.name,
	    rc == -ETIMEDOUT ? "no connection within 10 seconds"
	    : why            ? why
			     : "no connection");
	nbd_link_close(nbd);
	return -EIO;
}

void
nbd_link_close(struct nbd_device *nbd)
{
	if (nbd->handle && nbd_aio_is_ready(nbd->handle))
		(void)nbd_aio_disconnect(nbd->handle, 0);
	nbd_close(nbd->handle);
	nbd->handle = NULL;
}

/* What the export is like. */
static int
look(struct nbd_device *nbd, struct error *error)
{
	int64_t size_bytes = nbd_get_size(nbd->handle);
	int64_t block_bytes = nbd_get_block_size(nbd->handle, LIBNBD_SIZE_MINIMUM);
	int64_t part_bytes = nbd_get_block_size(nbd->handle, LIBNBD_SIZE_MAXIMUM);
	const char *name = nbd->device.name;

	if (nbd_is_read_only(nbd->handle) != 0)
		return error_set(error, -EROFS, "%s is read-only", name);
	if (block_bytes > BLOCK_BYTES)
		return error_set(error, -ENOTSUP, "%s has blocks of %lld bytes, more than %u", name,
		    (long long)block_bytes, BLOCK_BYTES);
	if (size_bytes < BLOCK_BYTES)
		return error_set(error, -EINVAL, "%s is empty", name);
	if (nbd->device.size_bytes && (uint64_t)size_bytes < nbd->device.size_bytes)
		return error_set(error, -ENODEV, "%s has become smaller", name);
	nbd->part_bytes = PART_BYTES_MAX;
	if (part_bytes >= BLOCK_BYTES && (uint64_t)part_bytes < nbd->part_bytes)
		nbd->part_bytes = round_down((uint64_t)part_bytes, BLOCK_BYTES);
	nbd->can_flush = nbd_can_flush(nbd->handle) == 1;
	nbd->can_trim = nbd_can_trim(nbd->handle) == 1;
	nbd->device.rotational = nbd_is_rotational(nbd->handle) == 1;
	if (!nbd->device.size_bytes)
		nbd->device.size_bytes = round_down((uint64_t)size_bytes, BLOCK_BYTES);
	return 0;
}

/* --- one transfer --- */

struct transfer {
	bool done;
	int error;
};

static int
transferred(void *context, int *error)
{
	struct transfer *transfer = context;

	transfer->done = true;
	transfer->error = *error;
	return 1;
}

static bool
is_transferred(struct nbd_device *nbd, void *context)
{
	(void)nbd;
	return ((struct transfer *)context)->done;
}

int
nbd_link_transfer(
    struct nbd_device *nbd, enum device_op op, uint64_t offset_bytes, void *data, size_t len_bytes)
{
	for (size_t at = 0; at < len_bytes;) {
		size_t part_bytes = min_u64(len_bytes - at, nbd->part_bytes);
		struct transfer transfer = { 0 };
		nbd_completion_callback done = { .callback = transferred, .user_data = &transfer };
		int64_t cookie;
		int rc;

		cookie = op == DEVICE_READ ? nbd_aio_pread(nbd->handle, (uint8_t *)data + at,
						 part_bytes, offset_bytes + at, done, 0)
					   : nbd_aio_pwrite(nbd->handle, (uint8_t *)data + at,
						 part_bytes, offset_bytes + at, done, 0);
		rc = cookie < 0 ? -EIO : wait_until(nbd, is_transferred, &transfer);
		if (rc == 0 && transfer.error)
			rc = nbd_link_is_dead(nbd) ? -ENOTCONN : -EIO;
		else if (rc)
			rc = -ENOTCONN;
		if (rc) {
			/* The answer must not find @transfer gone. */
			if (!transfer.done)
				nbd_link_close(nbd);
			return rc;
		}
		at += part_bytes;
	}
	return 0;
}

/* --- opening and restoring --- */

int
nbd_link_open(struct nbd_device *nbd, struct error *error)
{
	int rc = connect_to(nbd, error);

	if (rc)
		return rc;
	rc = look(nbd, error);
	if (rc == 0 && nbd->device.size_bytes > NBD_LABEL_OFFSET_BYTES) {
		rc = nbd_link_transfer(
		    nbd, DEVICE_READ, NBD_LABEL_OFFSET_BYTES, nbd->label, BLOCK_BYTES);
		if (rc)
			error_set(error, -EIO, "%s cannot be read", nbd->device.name);
		memcpy(nbd->label_durable, nbd->label, BLOCK_BYTES);
	}
	if (rc)
		nbd_link_close(nbd);
	return rc ? error->code : 0;
}

/* Whether the export is still our device: 0, -ENODEV or -ENOTCONN. */
static int
check_label(struct nbd_device *nbd, struct error *error)
{
	uint8_t *block;
	int rc = 0;

	if (nbd->device.size_bytes <= NBD_LABEL_OFFSET_BYTES)
		return 0;
	block = xalloc_pages(BLOCK_BYTES);
	if (nbd_link_transfer(nbd, DEVICE_READ, NBD_LABEL_OFFSET_BYTES, block, BLOCK_BYTES))
		rc = error_set(error, -ENOTCONN, "%s: lost again", nbd->device.name);
	else if (memcmp(block, nbd->label, BLOCK_BYTES) != 0 &&
		 memcmp(block, nbd->label_durable, BLOCK_BYTES) != 0)
		rc = error_set(error, -ENODEV, "%s is not the device that it was (another label)",
		    nbd->device.name);
	free(block);
	return rc;
}

static int
write_kept(struct nbd_device *nbd, struct error *error)
{
	list_for_each(node, &nbd->kept) {
		struct nbd_command *command = container_of(node, struct nbd_command, link);
		int rc = nbd_link_transfer(
		    nbd, DEVICE_WRITE, command->offset_bytes, command->data, command->len_bytes);

		if (rc == -EIO)
			return error_set(error, -ENODEV,
			    "%s does not take again what it had taken before it was lost",
			    nbd->device.name);
		if (rc)
			return error_set(error, rc, "%s: lost again", nbd->device.name);
	}
	return 0;
}

int
nbd_link_restore(struct nbd_device *nbd, struct error *error)
{
	int rc = connect_to(nbd, error);

	if (rc)
		return rc;
	rc = look(nbd, error);
	if (rc == 0)
		rc = check_label(nbd, error);
	if (rc == 0)
		rc = write_kept(nbd, error);
	if (rc == -ENODEV || rc == -EINVAL || rc == -EROFS) {
		nbd->broken = true;
		diag_error("%s; it fails until it is opened again", error->text);
	}
	if (rc && nbd->handle)
		nbd_link_close(nbd);
	return rc;
}
