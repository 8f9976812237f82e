/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An export of an NBD server as a device of a pool.
 *
 * The server may go away and come back.  Meanwhile requests wait; then they are sent again.  Writes
 * that were answered but not yet flushed are kept and sent again as well, so that a flush means
 * what it says even if the server lost them: see nbd_device_internal.h.
 */
#ifndef QUARRY_BACKENDS_NBD_DEVICE_H
#define QUARRY_BACKENDS_NBD_DEVICE_H

#include "backends/probe.h"
#include "core/device.h"

struct nbd_device_options {
	/* How long a request may take, reconnections included, before it fails with -EIO. */
	uint32_t limit_ms;
	/* How many bytes of answered writes are kept before the device flushes on its own. */
	uint64_t keep_bytes;
};

#define NBD_DEVICE_LIMIT_MS 30000u
#define NBD_DEVICE_KEEP_BYTES (64 * MIB)

/* Whether @path is a URI of an NBD export: nbd://, nbds://, nbd+unix://, nbds+unix://. */
bool nbd_device_is_uri(const char *path);

/*
 * Blocking: call it in an offload thread.  The device belongs to @reactor.  @error tells the
 * operator why it cannot be used: -EIO no connection, -EROFS, -ENOTSUP blocks of more than 4096
 * bytes, -EINVAL empty.
 */
int nbd_device_open(const char *uri, const struct nbd_device_options *options,
    struct reactor *reactor, struct device **device, struct error *error) must_check;

/* As device_probe(). */
int nbd_device_probe(const char *uri, char what[PROBE_TEXT_BYTES]) must_check;

#endif
