/* SPDX-License-Identifier: Apache-2.0 */
/* What systemd hands over, and what it waits for. */
#include "tools/quarryd_systemd.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/diag.h"

enum {
	SOCKETS_START = 3, /* SD_LISTEN_FDS_START */
	SOCKETS_MAX = 256,
};

void
systemd_notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t len = path ? strlen(path) : 0;
	int fd;

	if (len < 2 || len >= sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@'))
		return;
	memcpy(address.sun_path, path, len);
	if (path[0] == '@')
		address.sun_path[0] = '\0'; /* an abstract name */
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address,
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
		diag_warning("cannot tell systemd \"%s\": %m", state);
	close(fd);
}

int
systemd_socket_count(void)
{
	const char *pid = getenv("LISTEN_PID");
	const char *count = getenv("LISTEN_FDS");
	int n = pid && count && atoi(pid) == (int)getpid() ? atoi(count) : 0;

	return n < 0 ? 0 : n > SOCKETS_MAX ? SOCKETS_MAX : n;
}

int
systemd_socket(int i, char name[SYSTEMD_NAME_BYTES])
{
	const char *names = getenv("LISTEN_FDNAMES");
	size_t len;

	for (int n = 0; names && n < i; n++) {
		names = strchr(names, ':');
		names = names ? names + 1 : NULL;
	}
	len = names ? strcspn(names, ":") : 0;
	if (len)
		snprintf(name, SYSTEMD_NAME_BYTES, "systemd:%.*s", (int)min_u64(len, 100), names);
	else
		snprintf(name, SYSTEMD_NAME_BYTES, "systemd:%d", i);
	fcntl(SOCKETS_START + i, F_SETFD, FD_CLOEXEC);
	return SOCKETS_START + i;
}
