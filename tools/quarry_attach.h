/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `quarry attach`: an NBD export as a block device of this machine's kernel, which outlives
 * restarts of the server.  Needs no daemon of ours here.
 */
#ifndef QUARRY_TOOLS_QUARRY_ATTACH_H
#define QUARRY_TOOLS_QUARRY_ATTACH_H

#include "core/base/util.h"

/* Attaches @uri as @device ("/dev/nbd0"; NULL: one that is free), and sees to it until SIGTERM or
 * SIGINT, or until somebody else detaches it.  The exit status. */
int attach_run(const char *uri, const char *device);

#endif
