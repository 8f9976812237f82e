/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon gives the target so that it can open disks and files by path, and NBD exports by
 * URI. */
#ifndef QUARRY_BACKENDS_BACKEND_H
#define QUARRY_BACKENDS_BACKEND_H

#include "core/target.h"

/* Files and block devices of this machine, and NBD exports of any.  @cache_kernel: files through
 * the page cache instead of past it; @remote_timeout_s: how long requests wait for an export that
 * is away, 0: the default. */
struct target_backend *local_backend_create(bool cache_kernel, uint32_t remote_timeout_s);
void local_backend_free(struct target_backend *backend);

#endif
