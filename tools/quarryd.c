/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quarryd: one process that serves pools over NBD and iSCSI and takes orders from quarry.
 *
 * The main thread is reactor 0, where everything below runs; further reactors are threads that only
 * connections and pools know of.
 *
 *   IMPORT ─► LISTEN ─► SERVE ─► STOP_NBD ─► STOP_ISCSI ─► STOP_ADMIN ─► STOP_TARGET ─► END
 *      └─────────┴── (a failure, or a signal) ──▲
 *
 * The administrator's socket is taken before anything else, so that a second daemon stops there,
 * and answers once all is up: who connects early waits.  The first SIGTERM or SIGINT ends
 * SERVE: no new clients, what is in flight is finished, a checkpoint is written.  The second ends
 * the process at once, which loses nothing that was acknowledged.
 */
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/backend.h"
#include "core/base/diag.h"
#include "core/base/size.h"
#include "core/buffer.h"
#include "core/reactor_uring.h"
#include "core/target.h"
#include "frontends/admin/admin_server.h"
#include "frontends/iscsi/iscsi_server.h"
#include "frontends/nbd/nbd_server.h"
#include "tools/quarryd_config.h"
#include "tools/quarryd_systemd.h"
#include "tools/version.h"

enum phase {
	PHASE_IMPORT,
	PHASE_LISTEN,
	PHASE_SERVE,
	PHASE_STOP_NBD,
	PHASE_STOP_ISCSI,
	PHASE_STOP_ADMIN,
	PHASE_STOP_TARGET,
	PHASE_END,
};

struct daemon {
	struct daemon_config config;
	struct reactor_uring *reactors; /* reactor_count */
	struct reactor_uring **reactor_list;
	struct reactor **core_list;
	uint32_t reactor_count; /* that are set up */
	uint32_t thread_count;  /* of those, started beside the main one */
	struct target_backend *backend;
	struct target *target;
	struct nbd_server *nbd;
	struct iscsi_server *iscsi;
	struct admin_server *admin;
	enum phase phase;
	bool stop_wanted;
	bool signalled; /* once: the next one ends it at once */
	int exit_status;
	struct task step_task;
	struct admin_request import;
	int signal_fd;
	struct signalfd_siginfo signal;
	struct uring_op signal_op;
};

/* --- the machine --- */

static void
step_later(struct daemon *daemon)
{
	reactor_defer(&daemon->reactors[0].reactor, &daemon->step_task);
}

static void
import_done(struct admin_request *request)
{
	struct daemon *daemon = container_of(request, struct daemon, import);

	if (request->error.code) {
		diag_error("cannot import: %s", request->error.text);
		daemon->exit_status = 1;
		daemon->stop_wanted = true;
	}
	admin_request_fini(request);
	step_later(daemon);
}

static char *
absolute_path(const char *path)
{
	char *cwd = path[0] == '/' || strstr(path, "://") ? NULL : getcwd(NULL, 0);
	char *full;

	if (!cwd)
		return xstrdup(path);
	CHECK(asprintf(&full, "%s/%s", cwd, path) >= 0);
	free(cwd);
	return full;
}

static void
start_import(struct daemon *daemon)
{
	struct admin_request *request = &daemon->import;

	request->verb = ADMIN_POOL_IMPORT;
	request->done = import_done;
	request->devices = xcalloc(daemon->config.import_count, sizeof(*request->devices));
	request->device_count = daemon->config.import_count;
	for (size_t i = 0; i < request->device_count; i++)
		request->devices[i] = absolute_path(daemon->config.import[i]);
	target_admin(daemon->target, request);
}

static int
start_listening(struct daemon *daemon)
{
	struct error error = { 0 };
	int rc = 0;

	for (size_t i = 0; i < daemon->config.listen_count && !rc; i++) {
		const char *uri = daemon->config.listen[i];

		rc = daemon_uri_is_iscsi(uri) ? iscsi_server_listen(daemon->iscsi, uri, &error)
					      : nbd_server_listen(daemon->nbd, uri, &error);
	}
	for (int i = 0; i < systemd_socket_count() && !rc; i++) {
		char name[SYSTEMD_NAME_BYTES];
		int fd = systemd_socket(i, name);

		rc = nbd_server_listen_socket(daemon->nbd, fd, name, &error);
	}
	if (rc)
		diag_error("%s", error.text);
	return rc;
}

static void
announce(struct daemon *daemon)
{
	char list[512];
	size_t len = 0;

	list[0] = '\0';
	for (size_t i = 0; i < daemon->config.listen_count && len < sizeof(list); i++)
		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s", i ? ", " : "",
		    daemon->config.listen[i]);
	if (systemd_socket_count())
		snprintf(list + min_u64(len, sizeof(list) - 1),
		    sizeof(list) - min_u64(len, sizeof(list) - 1), "%s%d socket%s of systemd",
		    len ? ", " : "", systemd_socket_count(),
		    systemd_socket_count() == 1 ? "" : "s");
	diag_info("ready: serves %s; quarry --socket %s", list, daemon->config.socket_path);
	systemd_notify("READY=1");
}

static void
step(struct daemon *daemon)
{
	for (;;) {
		if (daemon->stop_wanted && daemon->phase <= PHASE_SERVE) {
			systemd_notify("STOPPING=1");
			daemon->phase = PHASE_STOP_NBD;
		}
		switch (daemon->phase) {
		case PHASE_IMPORT:
			daemon->phase = PHASE_LISTEN;
			if (daemon->config.import_count == 0)
				continue;
			return start_import(daemon);
		case PHASE_LISTEN:
			daemon->phase = PHASE_SERVE;
			if (start_listening(daemon)) {
				daemon->exit_status = 1;
				daemon->stop_wanted = true;
				continue;
			}
			admin_server_start(daemon->admin);
			announce(daemon);
			return;
		case PHASE_SERVE:
			return; /* stepped by a signal, above */
		case PHASE_STOP_NBD:
			daemon->phase = PHASE_STOP_ISCSI;
			return nbd_server_stop(daemon->nbd, &daemon->step_task);
		case PHASE_STOP_ISCSI:
			daemon->phase = PHASE_STOP_ADMIN;
			return iscsi_server_stop(daemon->iscsi, &daemon->step_task);
		case PHASE_STOP_ADMIN:
			daemon->phase = PHASE_STOP_TARGET;
			return admin_server_stop(daemon->admin, &daemon->step_task);
		case PHASE_STOP_TARGET:
			daemon->phase = PHASE_END;
			return target_shutdown(daemon->target, &daemon->step_task);
		case PHASE_END:
			target_free(daemon->target);
			daemon->target = NULL;
			return reactor_uring_stop(&daemon->reactors[0]);
		}
	}
}

static void
step_run(struct task *task)
{
	step(container_of(task, struct daemon, step_task));
}

/* --- signals --- */

static void
wait_for_signal(struct daemon *daemon)
{
	io_uring_prep_read(reactor_uring_sqe(&daemon->reactors[0], &daemon->signal_op),
	    daemon->signal_fd, &daemon->signal, sizeof(daemon->signal), 0);
}

static void
signal_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct daemon *daemon = container_of(op, struct daemon, signal_op);
	const char *name;

	(void)cqe_flags;
	if (result != (int32_t)sizeof(daemon->signal))
		return wait_for_signal(daemon);
	if (daemon->signal.ssi_signo == SIGHUP) {
		if (!daemon->stop_wanted)
			nbd_server_reload(daemon->nbd);
		return wait_for_signal(daemon);
	}
	name = sigabbrev_np((int)daemon->signal.ssi_signo);
	if (daemon->signalled) {
		diag_warning("SIG%s again: ends at once", name ? name : "?");
		_exit(1);
	}
	diag_info("SIG%s: finishes what is in flight, then ends; once more ends at once",
	    name ? name : "?");
	daemon->signalled = true;
	daemon->stop_wanted = true;
	if (daemon->phase == PHASE_SERVE) /* before, somebody else will step */
		step_later(daemon);
	wait_for_signal(daemon);
}

/* Signals become reads; before any thread is made, so that none gets them. */
static int
signals_init(struct daemon *daemon)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	daemon->signal_op.done = signal_done;
	daemon->signal_fd = -1;
	if (pthread_sigmask(SIG_BLOCK, &set, NULL) == 0)
		daemon->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (daemon->signal_fd < 0) {
		diag_error("cannot receive signals: %m");
		return -errno;
	}
	return 0;
}

/* --- setting up and taking down --- */

static void
raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		diag_warning("cannot raise the limit of open files: %m");
}

static int
reactors_init(struct daemon *daemon)
{
	uint32_t count = daemon->config.reactors;

	daemon->reactors = xcalloc(count, sizeof(*daemon->reactors));
	daemon->reactor_list = xcalloc(count, sizeof(*daemon->reactor_list));
	daemon->core_list = xcalloc(count, sizeof(*daemon->core_list));
	for (uint32_t i = 0; i < count; i++) {
		int rc = reactor_uring_init(&daemon->reactors[i], i);

		if (rc) {
			diag_error("cannot set up io_uring: %s (Linux 5.11 or newer is needed, and "
				   "kernel.io_uring_disabled must be 0)",
			    strerror(-rc));
			return rc;
		}
		daemon->reactor_list[i] = &daemon->reactors[i];
		daemon->core_list[i] = &daemon->reactors[i].reactor;
		daemon->reactor_count++;
	}
	return 0;
}

static int
share_socket(struct daemon *daemon, struct error *error)
{
	const char *name = daemon->config.socket_group;
	const struct group *group;

	if (!name)
		return 0;
	group = getgrnam(name);
	if (!group)
		return error_set(error, -ENOENT, "socket-group: there is no group \"%.60s\"", name);
	return admin_server_share(daemon->admin, group->gr_gid, error);
}

/* The same rules hold over every protocol. */
static enum iscsi_access
iscsi_access(const void *owner, int fd, const char *listener, const char *name)
{
	const struct daemon_config *config = owner;
	struct nbd_peer peer;

	nbd_peer_of_socket(&peer, fd);
	peer.tls_name = "";
	peer.listener = listener;
	switch (nbd_access(config->access, config->access_count, &peer, name)) {
	case NBD_ACCESS_NONE:
		return ISCSI_ACCESS_NONE;
	case NBD_ACCESS_READ:
		return ISCSI_ACCESS_READ;
	case NBD_ACCESS_WRITE:
		return ISCSI_ACCESS_WRITE;
	}
	CHECK(false);
}

static int
iscsi_create(struct daemon *daemon)
{
	struct iscsi_server_config config = {
		.target = daemon->target,
		.reactor = &daemon->reactors[0],
		.default_targets = daemon->config.iscsi_default_targets,
		.access = iscsi_access,
		.owner = &daemon->config,
		.buffer_bytes = max_u64(daemon->config.buffer_memory_bytes, 2 * BUFFER_BYTES_MAX),
	};

	return iscsi_server_create(&config, &daemon->iscsi);
}

static int
servers_create(struct daemon *daemon)
{
	const struct daemon_config *config = &daemon->config;
	struct target_config target_config = {
		.node_cache_bytes = config->node_cache_bytes,
		.stall_timeout_s = config->stall_timeout_s ? config->stall_timeout_s : 30,
		.backend = daemon->backend,
		.reactors = daemon->core_list,
		.reactor_count = daemon->reactor_count,
	};
	struct nbd_server_config nbd_config = {
		.reactors = daemon->reactor_list,
		.reactor_count = daemon->reactor_count,
		.access = config->access,
		.access_count = config->access_count,
		.connections_max = config->connections,
		.connections_per_client_max = config->connections_per_client,
		.handshake_timeout_ms = config->handshake_timeout_s * 1000,
		.idle_timeout_ms = config->idle_timeout_s * 1000,
		.tls = config->tls,
		.tls_files = {
			.certificates = config->tls_certificates,
			.psk_file = config->tls_psk_file,
			.verify_peer = config->tls_verify_peer,
			.kernel = config->tls_kernel,
		},
		.buffer_bytes =
		    max_u64(config->buffer_memory_bytes / config->reactors, 2 * BUFFER_BYTES_MAX),
	};
	struct admin_daemon_info info = { .version = QUARRY_VERSION, .pid = getpid() };
	struct error error = { 0 };
	int rc;

	daemon->target = target_create(&target_config);
	nbd_config.target = daemon->target;
	rc = nbd_server_create(&nbd_config, &daemon->nbd, &error);
	if (rc) {
		diag_error("%s", error.text);
		return rc;
	}
	rc = iscsi_create(daemon);
	if (rc) {
		diag_error("cannot set up the iSCSI server: %s", strerror(-rc));
		return rc;
	}
	rc = admin_server_create(
	    daemon->target, &daemon->reactors[0], config->socket_path, &daemon->admin, &error);
	if (!rc)
		rc = share_socket(daemon, &error);
	if (rc) {
		diag_error("%s", error.text);
		return rc;
	}
	info.listeners = (const char **)config->listen;
	info.listener_count = config->listen_count;
	admin_server_describe(daemon->admin, &info);
	return 0;
}

static int
threads_start(struct daemon *daemon)
{
	for (uint32_t i = 1; i < daemon->reactor_count; i++) {
		int rc = reactor_uring_start_thread(&daemon->reactors[i]);

		if (rc) {
			diag_error("cannot start a thread: %s", strerror(-rc));
			return rc;
		}
		daemon->thread_count++;
	}
	return 0;
}

/* Whatever of it there is. */
static void
take_down(struct daemon *daemon)
{
	for (uint32_t i = 1; i <= daemon->thread_count; i++)
		reactor_uring_stop(&daemon->reactors[i]);
	for (uint32_t i = 1; i <= daemon->thread_count; i++)
		reactor_uring_join(&daemon->reactors[i]);
	admin_server_free(daemon->admin);
	nbd_server_free(daemon->nbd);
	iscsi_server_free(daemon->iscsi);
	if (daemon->target) /* nothing of it ever ran */
		target_free(daemon->target);
	for (uint32_t i = 0; i < daemon->reactor_count; i++)
		reactor_uring_fini(&daemon->reactors[i]);
	if (daemon->backend)
		local_backend_free(daemon->backend);
	if (daemon->signal_fd >= 0)
		close(daemon->signal_fd);
	free(daemon->reactors);
	free(daemon->reactor_list);
	free(daemon->core_list);
	daemon_config_fini(&daemon->config);
}

static void
run(struct daemon *daemon)
{
	char cache[SIZE_TEXT_BYTES];

	raise_descriptor_limit();
	daemon->exit_status = 1;
	if (signals_init(daemon) || reactors_init(daemon))
		return;
	daemon->backend =
	    local_backend_create(daemon->config.cache_kernel, daemon->config.remote_timeout_s);
	if (servers_create(daemon) || threads_start(daemon))
		return;
	daemon->exit_status = 0;
	diag_info("quarryd " QUARRY_VERSION " starts: %u reactor%s, node cache %s, cache=%s",
	    daemon->reactor_count, daemon->reactor_count == 1 ? "" : "s",
	    size_format(daemon->config.node_cache_bytes, cache),
	    daemon->config.cache_kernel ? "kernel" : "direct");
	task_init(&daemon->step_task, step_run);
	step_later(daemon);
	wait_for_signal(daemon);
	reactor_uring_run(&daemon->reactors[0]);
	diag_info("ended");
}

int
main(int argc, char **argv)
{
	static struct daemon daemon;
	struct error error = { 0 };
	int rc = daemon_config_load(&daemon.config, argc, argv, &error);

	daemon.signal_fd = -1;
	if (rc) {
		fprintf(stderr, "quarryd: %s\n", error.text);
		daemon_config_fini(&daemon.config);
		return rc == -EINVAL ? 2 : 1;
	}
	if (daemon.config.help || daemon.config.version) {
		if (daemon.config.help)
			daemon_config_print_help(stdout);
		else
			printf("quarryd %s\n", QUARRY_VERSION);
		daemon_config_fini(&daemon.config);
		return 0;
	}
	diag_set_level(daemon.config.log_level);
	run(&daemon);
	take_down(&daemon);
	return daemon.exit_status;
}
