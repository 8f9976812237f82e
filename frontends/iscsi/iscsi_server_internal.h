/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the iSCSI server share; see iscsi_server.h. */
#ifndef QUARRY_FRONTENDS_ISCSI_SERVER_INTERNAL_H
#define QUARRY_FRONTENDS_ISCSI_SERVER_INTERNAL_H

#include "core/target.h"
#include "frontends/iscsi/iscsi_server.h"
#include "frontends/iscsi/iscsi_session.h"
#include "frontends/stream/stream_connection.h"
#include "frontends/stream/stream_listen.h"

struct iscsi_server {
	struct iscsi_server_config config; /* with the defaults filled in */
	struct reactor_uring *r;
	struct buffer_pool *buffers;
	struct scsi_port scsi;
	struct iscsi_portal portal;
	struct stream_listeners listeners;
	struct list connections;
	uint32_t connection_count;
	bool stopping;
	struct task *stop_done;
};

struct iscsi_connection;

void iscsi_connection_create(struct iscsi_server *server, int fd, const char *listener);
struct iscsi_connection *iscsi_connection_of(struct list *link);
/* Closes it; what is in flight finishes, unanswered. */
void iscsi_connection_kill(struct iscsi_connection *connection);
/* After the last connection, when stopping. */
void iscsi_server_check_stop(struct iscsi_server *server);
enum iscsi_access iscsi_server_access(
    const struct iscsi_server *server, int fd, const char *listener, const struct name *name);

#endif
