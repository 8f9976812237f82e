/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The administration socket's place in the filesystem: what daemon and command agree on.
 * The functions block, shortly: they are called at start, by programs.
 */
#ifndef QUARRY_FRONTENDS_ADMIN_SOCKET_H
#define QUARRY_FRONTENDS_ADMIN_SOCKET_H

#include <sys/types.h>
#include <sys/un.h>

#include "core/base/error.h"

#define ADMIN_SOCKET_PATH_SIZE sizeof(((struct sockaddr_un *)0)->sun_path)

/*
 * Where a daemon of the present user listens if nothing else was said: /run/quarry/quarryd.sock for
 * root, otherwise $XDG_RUNTIME_DIR/quarry.sock if that is set.
 */
void admin_socket_default(char path[ADMIN_SOCKET_PATH_SIZE]);

/* Where a command looks if nothing else was said: as above, but without a socket in the user's own
 * place the system's daemon is tried. */
void admin_socket_default_client(char path[ADMIN_SOCKET_PATH_SIZE]);

/* -EINVAL: @path is empty or too long for a socket. */
int admin_socket_address(
    const char *path, struct sockaddr_un *address, struct error *error) must_check;

/*
 * Makes a listening socket at @path, mode 0600, and returns its descriptor.  A socket that nobody
 * serves any more is replaced; -EADDRINUSE: somebody does; -EEXIST: @path is no socket.
 */
int admin_socket_listen(const char *path, struct error *error) must_check;

/* Connects and returns the descriptor, or a negative errno value. */
int admin_socket_connect(const char *path, struct error *error) must_check;

#endif
