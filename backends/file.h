/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regular files and block devices as devices of a pool, through the reactor's io_uring.
 *
 * One device is opened once: a file is locked (flock) and a block device claimed (O_EXCL), against
 * another daemon, a mount, and a second mention of it under another name.
 */
#ifndef QUARRY_BACKENDS_FILE_H
#define QUARRY_BACKENDS_FILE_H

#include "core/device.h"

enum file_cache {
	FILE_CACHE_DIRECT, /* O_DIRECT: past the page cache, where the filesystem can do that */
	FILE_CACHE_KERNEL, /* through the page cache */
};

struct file_device_options {
	/* A regular file that does not exist is made this long (and sparse); 0: it must exist. */
	uint64_t new_file_bytes;
	enum file_cache cache;
	/* The space of a regular file is allocated, all of it; -ENOSPC if there is too little. */
	bool preallocate;
	/* DISCARD punches holes, or is passed on to the disk; otherwise it does nothing. */
	bool discard;
};

/*
 * Blocking: call it in an offload thread.  @reactor is a reactor_uring; the device belongs to it.
 *
 * -ENOENT: there is no such file and none was asked for; -EBUSY: somebody else has it; -EINVAL: it
 * cannot be a device (a directory, empty); -EACCES and the like as they come.  @error tells the
 * operator.
 */
int file_device_open(const char *path, const struct file_device_options *options,
    struct reactor *reactor, struct device **device, struct error *error) must_check;

#endif
