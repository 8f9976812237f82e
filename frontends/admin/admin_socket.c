/* SPDX-License-Identifier: Apache-2.0 */
#include "frontends/admin/admin_socket.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontends/stream/stream_unix.h"

#define SYSTEM_DIRECTORY "/run/quarry"
#define SYSTEM_SOCKET SYSTEM_DIRECTORY "/quarryd.sock"

enum {
	ADMIN_BACKLOG = 128
};

static bool
default_of_user(char path[ADMIN_SOCKET_PATH_SIZE])
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int len;

	if (geteuid() == 0 || !runtime || runtime[0] != '/')
		return false;
	len = snprintf(path, ADMIN_SOCKET_PATH_SIZE, "%s/quarry.sock", runtime);
	return len > 0 && (size_t)len < ADMIN_SOCKET_PATH_SIZE;
}

void
admin_socket_default(char path[ADMIN_SOCKET_PATH_SIZE])
{
	if (!default_of_user(path))
		strcpy(path, SYSTEM_SOCKET);
}

void
admin_socket_default_client(char path[ADMIN_SOCKET_PATH_SIZE])
{
	if (!default_of_user(path) || access(path, F_OK) != 0)
		strcpy(path, SYSTEM_SOCKET);
}

int
admin_socket_address(const char *path, struct sockaddr_un *address, struct error *error)
{
	size_t len = strlen(path);

	if (len == 0)
		return error_set(error, -EINVAL, "the path of the socket is empty");
	if (len >= sizeof(address->sun_path))
		return error_set(error, -EINVAL,
		    "the path of the socket has %zu characters; at most %zu are possible: %.60s…",
		    len, sizeof(address->sun_path) - 1, path);
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, path, len);
	return 0;
}

static int
socket_open(struct error *error)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return error_set(error, -errno, "cannot make a socket: %m");
	return fd;
}

int
admin_socket_listen(const char *path, struct error *error)
{
	struct sockaddr_un address;
	int rc = admin_socket_address(path, &address, error);
	int fd;

	if (rc)
		return rc;
	if (strcmp(path, SYSTEM_SOCKET) == 0 && mkdir(SYSTEM_DIRECTORY, 0755) != 0 &&
	    errno != EEXIST)
		return error_set(error, -errno, "cannot make %s: %m", SYSTEM_DIRECTORY);
	fd = socket_open(error);
	if (fd < 0)
		return fd;
	/* On Linux the mode of an unbound socket becomes that of its file: it is never open to
	 * others, not even for a moment, and the umask of other threads is left alone. */
	rc = fchmod(fd, 0600) ? -errno : stream_unix_bind(fd, &address);
	if (rc == 0)
		rc = listen(fd, ADMIN_BACKLOG) ? -errno : 0;
	if (rc == 0)
		return fd;
	close(fd);
	if (rc == -EADDRINUSE)
		return error_set(error, rc,
		    "another quarryd serves %s: stop it, or choose another --socket", path);
	if (rc == -EEXIST)
		return error_set(error, rc, "%s exists and is not a socket", path);
	return error_set(error, rc, "cannot listen on %s: %s", path, strerror(-rc));
}

int
admin_socket_connect(const char *path, struct error *error)
{
	struct sockaddr_un address;
	int rc = admin_socket_address(path, &address, error);
	int fd;

	if (rc)
		return rc;
	fd = socket_open(error);
	if (fd < 0)
		return fd;
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	rc = -errno;
	close(fd);
	if (rc == -EACCES || rc == -EPERM)
		return error_set(error, rc,
		    "no permission to connect to quarryd at %s: run as the user who started it",
		    path);
	return error_set(error, rc,
	    "quarryd does not answer at %s (%s): start it with quarryd --socket PATH, or name its "
	    "socket with --socket or QUARRY_SOCKET",
	    path, strerror(-rc));
}
