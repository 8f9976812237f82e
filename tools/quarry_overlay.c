/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device over a file or disk, for one that is not in service.  Read-only: what is written stays
 * in memory, block by block.  Otherwise everything goes through, and blocks the caller: there is
 * nobody else to serve.
 *
 * An NBD export is only read: nothing tells whether a daemon has it in service, which must not be
 * written to.
 */
#include <fcntl.h>
#include <libnbd.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/nbd_device.h"
#include "core/base/table.h"
#include "tools/quarry_offline.h"

struct overlay {
	struct device device;
	struct table blocks;    /* number + 1 -> what was written there, if not writable */
	int fd;                 /* -1: an NBD export */
	struct nbd_handle *nbd; /* NULL: a file */
	bool writable;
};

static struct overlay *
overlay_of(struct device *device)
{
	return container_of(device, struct overlay, device);
}

int
overlay_read(struct device *device, uint64_t offset_bytes, void *block)
{
	struct overlay *overlay = overlay_of(device);
	const void *written = table_get(&overlay->blocks, offset_bytes / BLOCK_BYTES + 1);
	size_t have = 0;

	if (written) {
		memcpy(block, written, BLOCK_BYTES);
		return 0;
	}
	if (overlay->nbd)
		return nbd_pread(overlay->nbd, block, BLOCK_BYTES, offset_bytes, 0) < 0 ? -EIO : 0;
	while (have < BLOCK_BYTES) {
		ssize_t got = pread(overlay->fd, (uint8_t *)block + have, BLOCK_BYTES - have,
		    (off_t)(offset_bytes + have));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		have += (size_t)got;
	}
	return 0;
}

static int
write_through(const struct overlay *overlay, uint64_t offset_bytes, const void *block)
{
	size_t have = 0;

	while (have < BLOCK_BYTES) {
		ssize_t got = pwrite(overlay->fd, (const uint8_t *)block + have, BLOCK_BYTES - have,
		    (off_t)(offset_bytes + have));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		have += (size_t)got;
	}
	return 0;
}

int
overlay_write(struct device *device, uint64_t offset_bytes, const void *block)
{
	struct overlay *overlay = overlay_of(device);
	uint64_t key = offset_bytes / BLOCK_BYTES + 1;
	void *copy = table_get(&overlay->blocks, key);

	if (overlay->writable)
		return write_through(overlay, offset_bytes, block);
	if (!copy) {
		copy = xcalloc(1, BLOCK_BYTES);
		table_set(&overlay->blocks, key, copy);
	}
	memcpy(copy, block, BLOCK_BYTES);
	return 0;
}

int
overlay_flush(struct device *device)
{
	const struct overlay *overlay = overlay_of(device);

	return overlay->writable && fdatasync(overlay->fd) < 0 ? -errno : 0;
}

/* The vectors are whole blocks each: everything that the engine hands out is. */
static int
transfer(struct overlay *overlay, const struct device_io *io)
{
	uint64_t offset_bytes = io->offset_bytes;

	for (uint32_t i = 0; i < io->iov_count; i++) {
		uint8_t *at = io->iov[i].iov_base;

		for (size_t done = 0; done < io->iov[i].iov_len; done += BLOCK_BYTES) {
			int rc = io->op == DEVICE_WRITE
				     ? overlay_write(&overlay->device, offset_bytes, at + done)
				     : overlay_read(&overlay->device, offset_bytes, at + done);

			if (rc)
				return rc;
			offset_bytes += BLOCK_BYTES;
		}
	}
	return 0;
}

static void
run_io(struct task *task)
{
	struct device_io *io = container_of(task, struct device_io, backend.task);
	int rc = 0;

	if (io->op == DEVICE_READ || io->op == DEVICE_WRITE)
		rc = transfer(overlay_of(io->device), io);
	else if (io->op == DEVICE_FLUSH)
		rc = overlay_flush(io->device);
	device_complete(io, rc);
}

static void
overlay_submit(struct device *device, struct device_io *io)
{
	task_init(&io->backend.task, run_io);
	reactor_defer(device->reactor, &io->backend.task);
}

static void
overlay_close(struct device *device)
{
	struct overlay *overlay = overlay_of(device);

	for (uint64_t i = 0; i <= overlay->blocks.mask; i++)
		if (overlay->blocks.slots[i].key)
			free(overlay->blocks.slots[i].value);
	table_fini(&overlay->blocks);
	if (overlay->fd >= 0)
		close(overlay->fd);
	nbd_close(overlay->nbd);
	free(device->name);
	free(overlay);
}

static const struct device_ops overlay_ops = {
	.submit = overlay_submit,
	.close = overlay_close,
};

static struct device *
overlay_new(const char *path, uint64_t size_bytes, bool writable, struct reactor *reactor)
{
	struct overlay *overlay = xcalloc(1, sizeof(*overlay));

	overlay->device.ops = &overlay_ops;
	overlay->device.reactor = reactor;
	overlay->device.name = xstrdup(path);
	overlay->device.size_bytes = round_down(size_bytes, BLOCK_BYTES);
	overlay->fd = -1;
	overlay->writable = writable;
	table_init(&overlay->blocks);
	return &overlay->device;
}

static int
open_export(const char *uri, struct reactor *reactor, struct device **device, struct error *error)
{
	struct nbd_handle *nbd = nbd_create();
	int64_t size_bytes = -1;

	if (nbd && nbd_set_uri_allow_local_file(nbd, true) == 0 && nbd_connect_uri(nbd, uri) == 0)
		size_bytes = nbd_get_size(nbd);
	if (size_bytes < (int64_t)BLOCK_BYTES) {
		int rc = size_bytes < 0 ? error_set(error, -EIO, "%s: %s", uri, nbd_get_error())
					: error_set(error, -EINVAL, "%s is empty", uri);

		nbd_close(nbd);
		return rc;
	}
	*device = overlay_new(uri, (uint64_t)size_bytes, false, reactor);
	overlay_of(*device)->nbd = nbd;
	return 0;
}

int
overlay_open(const char *path, bool writable, struct reactor *reactor, struct device **device,
    struct error *error)
{
	struct stat st;
	off_t size_bytes;
	int fd;

	if (nbd_device_is_uri(path) && writable)
		return error_set(error, -ENOTSUP,
		    "%s cannot be repaired over NBD: run this where its disk is", path);
	if (nbd_device_is_uri(path))
		return open_export(path, reactor, device, error);
	if (stat(path, &st) < 0)
		return error_set(error, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(error, -EINVAL, "%s is neither a file nor a block device", path);
	fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY |
			    (S_ISBLK(st.st_mode) ? O_EXCL : 0));
	if (fd < 0)
		return error_set(error, -errno, "cannot open %s: %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int rc =
		    errno == EWOULDBLOCK
			? error_set(error, -EBUSY, "%s is in use: export its pool first", path)
			: error_set(error, -errno, "cannot lock %s: %s", path, strerror(errno));

		close(fd);
		return rc;
	}
	size_bytes = lseek(fd, 0, SEEK_END);
	if (size_bytes < (off_t)BLOCK_BYTES) {
		close(fd);
		return error_set(error, -EINVAL, "%s is empty", path);
	}
	*device = overlay_new(path, (uint64_t)size_bytes, writable, reactor);
	overlay_of(*device)->fd = fd;
	return 0;
}
