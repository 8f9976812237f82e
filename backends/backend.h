/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon gives the target so that it can open disks and files by path. */
#ifndef QUARRY_BACKENDS_BACKEND_H
#define QUARRY_BACKENDS_BACKEND_H

#include "core/target.h"

/* Files and block devices of this machine; @cache_kernel: through the page cache instead of past
 * it. */
struct target_backend *local_backend_create(bool cache_kernel);
void local_backend_free(struct target_backend *backend);

#endif
