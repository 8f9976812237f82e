/* SPDX-License-Identifier: Apache-2.0 */
/* What a disk or a file holds already, so that it is not overwritten by accident. */
#ifndef QUARRY_BACKENDS_PROBE_H
#define QUARRY_BACKENDS_PROBE_H

#include "core/base/util.h"

#define PROBE_TEXT_BYTES 128

/*
 * 1 and a text for the operator in @what (`ext4 filesystem "backup"`, `gpt partition table`,
 * `quarry pool`) if something was recognised; 0 if nothing was, or @path does not exist or is
 * neither a file nor a block device; a negative errno value and a text if it could not be found
 * out.  Reads only; blocking.
 */
int device_probe(const char *path, char what[PROBE_TEXT_BYTES]) must_check;

#endif
