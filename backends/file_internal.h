/* SPDX-License-Identifier: Apache-2.0 */
/* What file_open.c makes and file.c runs. */
#ifndef QUARRY_BACKENDS_FILE_INTERNAL_H
#define QUARRY_BACKENDS_FILE_INTERNAL_H

#include "backends/file.h"

struct file_device {
	struct device device;
	int fd; /* carries the lock or the claim */
	bool block_device;
	bool discard_in_ring; /* block devices: not yet refused by the kernel */
	uint64_t errors;      /* told to the operator, ever more seldom */
	/* Block devices without discard_in_ring: the request whose ioctl runs in a thread, or NULL,
	 * and those that wait for it, linked by their offload's task. */
	struct device_io *discarding;
	struct list discards;
};

extern const struct device_ops file_device_ops;

/* As it is now; 0: that cannot be told. */
uint64_t file_size_bytes(const struct file_device *file);

static inline struct file_device *
file_device_of(struct device *device)
{
	return container_of(device, struct file_device, device);
}

#endif
