/* SPDX-License-Identifier: Apache-2.0 */
#include "frontends/stream/stream_unix.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "core/base/process.h"

/* Who called listen() on the socket that @fd is connected to; 0: not known. */
static int
listener_of(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 ? (int)peer.pid : 0;
}

/* 0: the server at @address is gone; -EADDRINUSE: it is there; else it cannot be told. */
static int
server_gone(const struct sockaddr_un *address)
{
	/* A full backlog may be that of a killed server: connect() waits until that is known. */
	const struct timeval patience = { .tv_sec = 5 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int pid;
	int rc;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	rc = connect(fd, (const struct sockaddr *)address, sizeof(*address)) ? -errno : 0;
	pid = rc == 0 ? listener_of(fd) : 0;
	close(fd);
	if (rc == -ECONNREFUSED || rc == -ENOENT || (pid > 0 && process_is_gone(pid)))
		return 0;
	return rc == 0 || rc == -EAGAIN ? -EADDRINUSE : rc;
}

int
stream_unix_bind(int fd, const struct sockaddr_un *address)
{
	struct stat st;
	int rc;

	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
		return 0;
	if (errno != EADDRINUSE || lstat(address->sun_path, &st) != 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	rc = server_gone(address);
	if (rc)
		return rc;
	if (unlink(address->sun_path) != 0 && errno != ENOENT)
		return -errno;
	return bind(fd, (const struct sockaddr *)address, sizeof(*address)) ? -errno : 0;
}

void
stream_unix_note(struct stream_unix_file *file, const char *path)
{
	struct stat st;

	*file = (struct stream_unix_file){ 0 };
	if (lstat(path, &st) == 0)
		*file = (struct stream_unix_file){ .dev = st.st_dev, .ino = st.st_ino };
}

void
stream_unix_remove(const struct stream_unix_file *file, const char *path)
{
	struct stat st;

	if (lstat(path, &st) == 0 && st.st_dev == file->dev && st.st_ino == file->ino)
		unlink(path);
}
