/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The iSCSI server: listeners, connections, one target for each volume.
 *
 * All of it lives on one reactor, since initiators of one volume share its SCSI state
 * (reservations, unit attentions); the volumes may live on others.
 */
#ifndef QUARRY_FRONTENDS_ISCSI_SERVER_H
#define QUARRY_FRONTENDS_ISCSI_SERVER_H

#include "core/base/error.h"
#include "core/reactor_uring.h"

struct iscsi_server;
struct target;

enum iscsi_access {
	ISCSI_ACCESS_NONE,
	ISCSI_ACCESS_READ,
	ISCSI_ACCESS_WRITE,
};

struct iscsi_server_config {
	struct target *target;
	struct reactor_uring *reactor; /* that the caller is on, or that does not run yet */
	bool default_targets;          /* a target for each volume that has no export */
	/* What the client at socket @fd, which came by the listener @listener (its URI), may do
	 * with the volume or snapshot @name; NULL: everything. */
	enum iscsi_access (*access)(
	    const void *owner, int fd, const char *listener, const char *name);
	const void *owner;
	/* limits; 0: the default */
	uint32_t connections_max;  /* 512 */
	uint64_t buffer_bytes;     /* 256 MiB, in flight */
	uint32_t login_timeout_ms; /* 15 s */
	uint32_t refusal_ms;       /* 500: a login is refused so long after its last request */
	uint32_t ping_ms;          /* 15 s: silent peers are asked, and dropped as much later */
	uint32_t stop_timeout_ms;  /* 10 s, for initiators to take their answers */
};

int iscsi_server_create(
    const struct iscsi_server_config *config, struct iscsi_server **out) must_check;

/* Listens at @uri, which stays valid: iscsi://ADDRESS[:PORT].  Blocks for name resolution. */
int iscsi_server_listen(
    struct iscsi_server *server, const char *uri, struct error *error) must_check;

/* 0, or -EINVAL and why: not such a URI. */
int iscsi_uri_check(const char *uri, struct error *error) must_check;

/* Closes all connections, aborts what is in flight; then runs @done.  Once. */
void iscsi_server_stop(struct iscsi_server *server, struct task *done);
void iscsi_server_free(struct iscsi_server *server);

#endif
