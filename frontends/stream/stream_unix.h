/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The place of a listening UNIX socket, taken over from a server that is gone but never from one
 * that lives.  Blocks, shortly: it is called at start.
 */
#ifndef QUARRY_FRONTENDS_STREAM_UNIX_H
#define QUARRY_FRONTENDS_STREAM_UNIX_H

#include <sys/types.h>
#include <sys/un.h>

#include "core/base/util.h"

/*
 * Binds @fd to @address.  A socket there that nobody serves any more is replaced; that of a process
 * that was killed counts as such, even while the kernel, which ends the process's requests later
 * than the process, still lets clients connect to it.
 *
 * -EADDRINUSE: somebody serves it; -EEXIST: something else is there.
 */
int stream_unix_bind(int fd, const struct sockaddr_un *address) must_check;

/* A bound socket's file, to be known again. */
struct stream_unix_file {
	dev_t dev;
	ino_t ino;
};

void stream_unix_note(struct stream_unix_file *file, const char *path);
/* Removes it, unless another server has put its own there meanwhile. */
void stream_unix_remove(const struct stream_unix_file *file, const char *path);

#endif
