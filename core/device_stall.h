/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices that do not answer.
 *
 * In a pool with copies a device whose oldest request waits for longer than the limit is left out,
 * as one that fails is (device_loss.c), and what waits there is given up: reads are tried on other
 * copies, writes and flushes count as those of a device that is out.  Well before that reads for
 * which there is another copy are tried there.  `quarry device online` brings it back when the last
 * of its requests has ended.
 *
 * If something lies on no other device, as in a pool with one copy everything does, it is waited
 * for; log and status say so.
 */
#ifndef QUARRY_CORE_DEVICE_STALL_H
#define QUARRY_CORE_DEVICE_STALL_H

#include "core/pool_internal.h"

#define STALL_PATIENCE_NS_MAX (1000ull * 1000 * 1000)

/* All devices of @pool are watched from now on, if its configuration has a limit. */
void device_stall_watch(struct pool *pool);
/* It is waited for, and has not answered for longer than the limit. */
bool device_is_stalled(const struct pool *pool, uint32_t index);

#endif
