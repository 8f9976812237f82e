/* SPDX-License-Identifier: Apache-2.0 */
/* What can be told of other processes. */
#ifndef QUARRY_CORE_BASE_PROCESS_H
#define QUARRY_CORE_BASE_PROCESS_H

#include <stdbool.h>

/*
 * Whether @pid has ended, though its parent may not have asked for its status yet.  What its
 * io_uring held (locks, listening sockets) the kernel lets go some time later.
 */
bool process_is_gone(int pid);

#endif
