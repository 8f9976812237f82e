/* SPDX-License-Identifier: Apache-2.0 */
#include "frontends/admin/admin_server.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "frontends/admin/admin_socket.h"
#include "frontends/stream/stream_unix.h"

enum {
	RECEIVE_BYTES_MIN = 4096,    /* the buffer of a connection that has said little */
	ENCODE_OFFLOAD_IMAGES = 256, /* a longer list is turned into text in a thread of its own */
};

#define STOP_GRACE_NS (3ull * 1000 * 1000 * 1000)
#define ACCEPT_RETRY_NS (100ull * 1000 * 1000)

/*
 * A connection.
 *
 *   RECEIVE ─► PARSE ─► WORK ─► ENCODE ─► SEND ─► (more to send? ENCODE) ─► PARSE …
 *                 └─► (no whole line) RECEIVE
 *
 * and from RECEIVE and SEND, when the peer is gone or the server stops, ─► CLOSE.  At most one
 * thing is in flight: the op, the request, or the offload, so CLOSE may free.
 */
enum phase {
	PHASE_RECEIVE, /* the phase names what is waited for */
	PHASE_WORK,
	PHASE_ENCODE,
	PHASE_SEND,
};

struct connection {
	struct list
	    link; /* in server->connections: who waits for its client longest stands first */
	struct admin_server *server;
	int fd;
	enum phase phase;
	bool closing;      /* after what is being sent */
	bool request_live; /* the request's memory is held, for its reply */
	struct uring_op op;
	struct offload offload;
	char *in;
	size_t in_at;      /* the line that is next begins here */
	size_t in_scanned; /* up to here it has no newline */
	size_t in_bytes;   /* received */
	size_t in_capacity;
	struct admin_message message;
	struct admin_reply reply;
	char *out;
	size_t out_bytes;
	size_t out_sent;
};

struct admin_server {
	struct target *target;
	struct reactor_uring *reactor;
	char path[ADMIN_SOCKET_PATH_SIZE];
	struct stream_unix_file file;
	int fd;
	struct uring_op accept_op;
	bool accepting; /* accept_op is in flight */
	bool stopping;
	bool told_accept_error;
	struct timer timer; /* to accept again; when stopping, to cut off who does not read */
	struct list connections;
	uint32_t connection_count;
	struct task *stopped;
	struct admin_daemon_info info;
	uint64_t started_ns;
};

static void accept_next(struct admin_server *server);
static void parse(struct connection *c);
static void encode(struct connection *c);

static void
maybe_stopped(struct admin_server *server)
{
	if (!server->stopping || server->accepting || server->connection_count || !server->stopped)
		return;
	reactor_timer_cancel(&server->reactor->reactor, &server->timer);
	reactor_defer(&server->reactor->reactor, server->stopped);
	server->stopped = NULL;
}

static void
drop_request(struct connection *c)
{
	if (c->request_live)
		admin_request_fini(&c->message.request);
	c->request_live = false;
}

static void
connection_free(struct connection *c)
{
	struct admin_server *server = c->server;

	drop_request(c);
	list_remove(&c->link);
	server->connection_count--;
	close(c->fd);
	free(c->in);
	free(c->out);
	free(c);
	accept_next(server);
	maybe_stopped(server);
}

/* The client's turn begins: whoever is longest in it is the first to be closed for another. */
static void
waits_for_client(struct connection *c, enum phase phase)
{
	c->phase = phase;
	list_remove(&c->link);
	list_push_back(&c->server->connections, &c->link);
}

/* --- receiving --- */

static void
receive(struct connection *c)
{
	struct io_uring_sqe *sqe;

	if (c->server->stopping)
		return connection_free(c);
	if (c->in_at) {
		c->in_bytes -= c->in_at;
		memmove(c->in, c->in + c->in_at, c->in_bytes);
		c->in_scanned -= c->in_at;
		c->in_at = 0;
	}
	if (c->in_bytes == c->in_capacity) {
		c->in_capacity = c->in_capacity ? 2 * c->in_capacity : RECEIVE_BYTES_MIN;
		c->in = xrealloc(c->in, c->in_capacity);
	}
	waits_for_client(c, PHASE_RECEIVE);
	sqe = reactor_uring_sqe(c->server->reactor, &c->op);
	io_uring_prep_recv(sqe, c->fd, c->in + c->in_bytes, c->in_capacity - c->in_bytes, 0);
}

static void
received(struct connection *c, int32_t result)
{
	if (result == -EINTR || result == -EAGAIN)
		return receive(c);
	if (result <= 0) /* gone; half a line means nothing */
		return connection_free(c);
	c->in_bytes += (size_t)result;
	parse(c);
}

/* --- sending --- */

static void
send_rest(struct connection *c)
{
	struct io_uring_sqe *sqe;

	waits_for_client(c, PHASE_SEND);
	sqe = reactor_uring_sqe(c->server->reactor, &c->op);
	io_uring_prep_send(
	    sqe, c->fd, c->out + c->out_sent, c->out_bytes - c->out_sent, MSG_NOSIGNAL);
}

static void
send_line(struct connection *c, char *line, size_t len_bytes)
{
	free(c->out);
	c->out = line;
	c->out_bytes = len_bytes;
	c->out_sent = 0;
	send_rest(c);
}

static void
send_error(struct connection *c, enum admin_exit exit_status, const struct error *error)
{
	size_t len_bytes;
	char *line = admin_proto_error(exit_status, error, &len_bytes);

	send_line(c, line, len_bytes);
}

static void
sent(struct connection *c, int32_t result)
{
	if (result < 0 && result != -EINTR && result != -EAGAIN)
		return connection_free(c);
	if (result > 0)
		c->out_sent += (size_t)result;
	if (c->out_sent < c->out_bytes)
		return send_rest(c);
	free(c->out);
	c->out = NULL;
	if (c->request_live && !c->reply.finished)
		return encode(c);
	drop_request(c);
	if (c->closing)
		return connection_free(c);
	parse(c);
}

static void
op_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct connection *c = container_of(op, struct connection, op);

	(void)cqe_flags;
	if (c->phase == PHASE_RECEIVE)
		return received(c, result);
	CHECK(c->phase == PHASE_SEND);
	sent(c, result);
}

/* --- one request --- */

static void
encode_run(struct offload *offload)
{
	struct connection *c = container_of(offload, struct connection, offload);

	c->out = admin_reply_next(&c->reply, &c->out_bytes);
}

static void
encode_done(struct offload *offload)
{
	struct connection *c = container_of(offload, struct connection, offload);

	CHECK(c->out);
	c->out_sent = 0;
	send_rest(c);
}

/* The next line of the reply; a long list takes many milliseconds, which clients shall not feel. */
static void
encode(struct connection *c)
{
	const struct admin_request *request = &c->message.request;
	size_t images = 0;

	c->phase = PHASE_ENCODE;
	for (size_t i = 0; i < request->pool_count; i++)
		images += request->pools[i].image_count;
	if (images > ENCODE_OFFLOAD_IMAGES &&
	    offload_start(&c->offload, &c->server->reactor->reactor, encode_run, encode_done) == 0)
		return;
	encode_run(&c->offload);
	encode_done(&c->offload);
}

static void
request_done(struct admin_request *request)
{
	struct connection *c = container_of(request, struct connection, message.request);

	CHECK(c->phase == PHASE_WORK);
	if (request->error.code)
		diag_info("%s refused: %s", admin_verb_name(request->verb), request->error.text);
	admin_reply_init(&c->reply, request);
	encode(c);
}

static void
answer_daemon_info(struct connection *c)
{
	struct admin_server *server = c->server;
	struct admin_daemon_info info = server->info;
	size_t len_bytes;
	char *line;

	info.uptime_s = (server->reactor->reactor.now_ns - server->started_ns) / 1000000000ull;
	line = admin_proto_daemon_info(&info, &len_bytes);
	send_line(c, line, len_bytes);
}

static void
handle_line(struct connection *c, const char *line, size_t len_bytes)
{
	struct error error = { 0 };

	if (admin_proto_decode(line, len_bytes, &c->message, &error))
		return send_error(c, ADMIN_EXIT_USAGE, &error);
	c->request_live = true;
	if (c->message.kind == ADMIN_MESSAGE_DAEMON_INFO) {
		drop_request(c);
		return answer_daemon_info(c);
	}
	c->message.request.created_s = (uint64_t)time(NULL);
	c->message.request.done = request_done;
	c->phase = PHASE_WORK;
	if (c->message.request.verb != ADMIN_LIST && c->message.request.verb != ADMIN_DIFF)
		diag_debug("%s asked for", admin_verb_name(c->message.request.verb));
	target_admin(c->server->target, &c->message.request);
}

/* Takes the first line of what was received, if it is complete. */
static void
parse(struct connection *c)
{
	const char *line = c->in + c->in_at;
	const char *newline = NULL;
	size_t line_bytes = c->in_bytes - c->in_at;

	if (c->server->stopping)
		return connection_free(c);
	if (c->in_bytes > c->in_scanned)
		newline = memchr(c->in + c->in_scanned, '\n', c->in_bytes - c->in_scanned);
	if (newline)
		line_bytes = (size_t)(newline - line);
	if (line_bytes > ADMIN_REQUEST_BYTES_MAX) {
		struct error error = { 0 };

		error_set(&error, -EPROTO, "the request is longer than %d bytes",
		    ADMIN_REQUEST_BYTES_MAX);
		c->closing = true;
		return send_error(c, ADMIN_EXIT_USAGE, &error);
	}
	if (!newline) {
		c->in_scanned = c->in_bytes;
		return receive(c);
	}
	c->in_at += line_bytes + 1;
	c->in_scanned = c->in_at;
	handle_line(c, line, line_bytes);
}

/* --- accepting --- */

/* Cuts off the connection that waits for its client longest; its op then completes. */
static void
evict_one(struct admin_server *server)
{
	list_for_each(at, &server->connections) {
		struct connection *c = container_of(at, struct connection, link);

		if (c->phase == PHASE_RECEIVE || c->phase == PHASE_SEND) {
			shutdown(c->fd, SHUT_RDWR);
			return;
		}
	}
}

static void
connection_start(struct admin_server *server, int fd)
{
	struct connection *c = xcalloc(1, sizeof(*c));

	c->server = server;
	c->fd = fd;
	c->op.done = op_done;
	list_push_back(&server->connections, &c->link);
	server->connection_count++;
	receive(c);
}

static void
accepted(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct admin_server *server = container_of(op, struct admin_server, accept_op);

	(void)cqe_flags;
	server->accepting = false;
	if (server->stopping) {
		if (result >= 0)
			close(result);
		return maybe_stopped(server);
	}
	if (result < 0) {
		if (result == -EINTR || result == -EAGAIN || result == -ECONNABORTED)
			return accept_next(server);
		/* Out of descriptors or memory: others will give some back. */
		if (!server->told_accept_error)
			diag_warning("cannot accept on %s: %s", server->path, strerror(-result));
		server->told_accept_error = true;
		return reactor_timer_start(
		    &server->reactor->reactor, &server->timer, ACCEPT_RETRY_NS);
	}
	server->told_accept_error = false;
	connection_start(server, result);
	if (server->connection_count > ADMIN_CONNECTIONS_MAX)
		evict_one(server); /* accepting goes on when a connection has ended */
	accept_next(server);
}

static void
accept_next(struct admin_server *server)
{
	if (server->accepting || server->stopping || server->timer.heap_index ||
	    server->connection_count > ADMIN_CONNECTIONS_MAX)
		return;
	server->accepting = true;
	io_uring_prep_accept(reactor_uring_sqe(server->reactor, &server->accept_op), server->fd,
	    NULL, NULL, SOCK_CLOEXEC);
}

/* --- the server --- */

static void
cut_off_all(struct admin_server *server)
{
	list_for_each(at, &server->connections)
		shutdown(container_of(at, struct connection, link)->fd, SHUT_RDWR);
}

static void
timer_run(struct timer *timer)
{
	struct admin_server *server = container_of(timer, struct admin_server, timer);

	if (server->stopping)
		cut_off_all(server); /* what is at work is answered into nothing */
	else
		accept_next(server);
}

int
admin_server_create(struct target *target, struct reactor_uring *reactor, const char *path,
    struct admin_server **server, struct error *error)
{
	struct admin_server *s = xcalloc(1, sizeof(*s));

	s->fd = admin_socket_listen(path, error);
	if (s->fd < 0) {
		int rc = s->fd;

		free(s);
		return rc;
	}
	strcpy(s->path, path); /* it fits, since it was bound */
	stream_unix_note(&s->file, path);
	s->target = target;
	s->reactor = reactor;
	s->accept_op.done = accepted;
	list_init(&s->connections);
	timer_init(&s->timer, timer_run);
	s->info.version = "";
	s->info.pid = getpid();
	*server = s;
	return 0;
}

int
admin_server_share(struct admin_server *server, gid_t gid, struct error *error)
{
	if (chown(server->path, (uid_t)-1, gid) != 0 || chmod(server->path, 0660) != 0)
		return error_set(
		    error, -errno, "cannot give %s to group %u: %m", server->path, (unsigned)gid);
	return 0;
}

void
admin_server_describe(struct admin_server *server, const struct admin_daemon_info *info)
{
	server->info = *info;
}

void
admin_server_start(struct admin_server *server)
{
	CHECK(reactor_current() == &server->reactor->reactor && !server->stopping);
	server->started_ns = server->reactor->reactor.now_ns;
	accept_next(server);
}

void
admin_server_stop(struct admin_server *server, struct task *done)
{
	CHECK(reactor_current() == &server->reactor->reactor && !server->stopping);
	server->stopping = true;
	server->stopped = done;
	stream_unix_remove(&server->file, server->path);
	shutdown(server->fd, SHUT_RDWR); /* ends the accept */
	list_for_each(at, &server->connections) {
		struct connection *c = container_of(at, struct connection, link);

		if (c->phase == PHASE_RECEIVE)
			shutdown(c->fd, SHUT_RDWR);
	}
	reactor_timer_start(&server->reactor->reactor, &server->timer, STOP_GRACE_NS);
	maybe_stopped(server);
}

void
admin_server_free(struct admin_server *server)
{
	if (!server)
		return;
	CHECK(server->connection_count == 0 && !server->accepting);
	if (!server->stopping)
		stream_unix_remove(&server->file, server->path);
	close(server->fd);
	free(server);
}
