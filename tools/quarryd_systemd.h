/* SPDX-License-Identifier: Apache-2.0 */
/* systemd's two small protocols: sockets that it listens at for us, and being told of our state. */
#ifndef QUARRY_TOOLS_QUARRYD_SYSTEMD_H
#define QUARRY_TOOLS_QUARRYD_SYSTEMD_H

#define SYSTEMD_NAME_BYTES 128

/* sd_notify(3): one datagram, if somebody waits for it. */
void systemd_notify(const char *state);

/* sd_listen_fds(3): how many sockets were handed over, to this very process. */
int systemd_socket_count(void);
/* The socket, from 0 on, and its name ("systemd:" and what FileDescriptorName= says). */
int systemd_socket(int i, char name[SYSTEMD_NAME_BYTES]);

#endif
