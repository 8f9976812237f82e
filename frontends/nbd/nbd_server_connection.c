/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One client: its socket, its session, its requests in flight.
 *
 * Two machines share the connection.  The receiving one (connection_advance) parses what is there,
 * starts requests, and receives when it lacks bytes; it rests while a question is asked of the
 * target, while the handshake's output is on its way, and at a bound:
 *
 *   ADVANCE ─► (payload of a WRITE) ─► (buffer for a request) ─► next request ─► RECEIVE
 *
 * The sending one (connection_send) runs at the end of a turn and hands all answers that are ready
 * to one sendmsg.  There is at most one receive and one send in the ring.
 *
 *   LIVE ──► DRAINING ──► gone      no more input; what is in flight finishes and is answered
 *     └────────┴──► DEAD ──► gone   the socket is shut down; what is in flight finishes
 *
 * Invariants:
 *   - op_count counts the ops that are not in free_ops: stalled, payload_op, with the engine, in
 *     replies or in sent; payload_bytes is the sum of their buffers;
 *   - stalled and payload_op are never both set, and nothing is parsed while one is;
 *   - the volume is closed, and the connection freed, once: when nothing is in flight in either
 *     machine, in the engine or at the target (connection_finish).
 *
 * Resting: while REST_REQUESTS small requests or more are in the engine, nothing is received until
 * some of them are answered, or REST_NS have passed.  What the client sends meanwhile is then taken
 * at once; so requests, batches of the log, disk writes and answers grow together with the load
 * instead of each waking the others.  Large payloads gain nothing by it and do not rest.
 *
 * Waiting for a buffer (beyond MODEST_BYTES): a connection whose request finds the pool empty, or
 * others waiting, joins the end of the home's list and is tried again, in order, when a buffer came
 * back.  Holders of buffers always get on: they wait for the engine, or for a peer, whom the
 * watchdog bounds.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "frontends/nbd/nbd_server_internal.h"
#include "frontends/stream/stream_tls.h"

enum {
	INPUT_BYTES = 128 * 1024,
	STATUS_EXTENTS_MAX = 4096,
	OPS_PER_SLAB = 64,
	REST_REQUESTS = 8,
};
static_assert(INPUT_BYTES >= 2 * NBD_OPTION_BYTES_MAX, "the longest option fits behind a move");

#define WATCHDOG_PERIOD_NS 1000000000ull
#define REST_NS 100000ull

enum connection_phase {
	CONNECTION_LIVE,
	CONNECTION_DRAINING,
	CONNECTION_DEAD,
};

/* What a connection may hold whatever others hold: in all, connections_max times as much. */
#define MODEST_BYTES (128 * KIB)

struct nbd_connection {
	struct list link;      /* home->connections */
	struct list wait_link; /* home->waiting */
	struct nbd_home *home;
	const struct nbd_listener_policy *policy;
	struct nbd_peer access_peer; /* for the rules of access */
	struct nbd_client *client;   /* NULL: its connections are not counted */
	enum connection_phase phase;
	struct stream stream; /* the socket, what is received and sent */
	char peer[STREAM_PEER_BYTES];
	struct task arrive_task;
	struct timer timer; /* LIVE: the handshake's end, or of idling; DRAINING: the answers' */
	struct nbd_session session;
	struct volume *volume; /* in transmission, or while the snapshots below are opened */
	struct volume *older[NBD_CONTEXTS_MAX]; /* the snapshots of the selected contexts */
	uint32_t contexts_opened;               /* contexts that were seen to */

	/* questions to the target and the TLS handshake; at most one at a time */
	bool asking;
	struct target_open open;
	struct target_names names;

	/* receiving */
	struct nbd_op *payload_op; /* a WRITE whose payload is not complete */
	uint32_t payload_at;
	struct nbd_op *stalled; /* a request that has no buffer yet */
	bool resting;
	struct timer rest_timer;

	/* in flight */
	uint32_t op_count;
	uint32_t engine_count; /* of those: with the engine */
	uint64_t payload_bytes;

	/* sending */
	struct task send_task;
	bool sending_output; /* session.out */
	bool securing;       /* TLS begins when it is sent */
	struct list replies; /* ready */
	struct list sent;    /* in the present sendmsg */
};

static void connection_advance(struct nbd_connection *c);
static void connection_send(struct nbd_connection *c);
static void connection_finish(struct nbd_connection *c);

static struct reactor *
reactor_of(const struct nbd_connection *c)
{
	return &c->home->r->reactor;
}

static bool
waits(const struct nbd_connection *c)
{
	return !list_empty(&c->wait_link);
}

/* --- ops --- */

struct op_slab {
	struct list link;
	struct nbd_op ops[OPS_PER_SLAB];
};

static struct nbd_op *
op_get(struct nbd_connection *c)
{
	struct nbd_home *home = c->home;
	struct nbd_op *op;

	if (list_empty(&home->free_ops)) {
		struct op_slab *slab = xcalloc(1, sizeof(*slab));

		list_push_back(&home->op_slabs, &slab->link);
		for (size_t i = 0; i < OPS_PER_SLAB; i++)
			list_push_back(&home->free_ops, &slab->ops[i].link);
	}
	op = container_of(list_pop_front(&home->free_ops), struct nbd_op, link);
	op->connection = c;
	op->buffer = NULL;
	op->buffer_bytes = 0;
	op->contexts = 0;
	c->op_count++;
	return op;
}

static void
op_put(struct nbd_op *op)
{
	struct nbd_connection *c = op->connection;
	struct nbd_home *home = c->home;

	CHECK(c->op_count > 0 && list_empty(&op->link));
	if (op->buffer) {
		CHECK(c->payload_bytes >= op->buffer_bytes);
		c->payload_bytes -= op->buffer_bytes;
		buffer_put(home->buffers, op->buffer, op->buffer_bytes);
		if (!list_empty(&home->waiting))
			reactor_defer(&home->r->reactor, &home->wake_waiting);
	}
	c->op_count--;
	list_push_front(&home->free_ops, &op->link);
}

static void
op_put_all(struct list *ops)
{
	struct list *link;

	while ((link = list_pop_front(ops)))
		op_put(container_of(link, struct nbd_op, link));
}

static void
op_drop(struct nbd_op **op)
{
	if (*op)
		op_put(*op);
	*op = NULL;
}

/* The answer is encoded: it goes out at the end of the turn. */
static void
op_answer(struct nbd_op *op)
{
	struct nbd_connection *c = op->connection;

	if (c->phase == CONNECTION_DEAD) {
		op_put(op);
		return;
	}
	list_push_back(&c->replies, &op->link);
	reactor_at_turn_end(reactor_of(c), &c->send_task);
}

static void *
op_payload(const struct nbd_op *op)
{
	return (char *)op->buffer + op->request.offset_bytes % BLOCK_BYTES;
}

static void
op_encode(struct nbd_op *op)
{
	const struct nbd_session *session = &op->connection->session;
	const char *message;

	if (op->io.error) {
		enum nbd_error error = nbd_error_from(op->io.error, &message);

		nbd_reply_error(session, &op->request, error, message, &op->reply);
	} else if (op->request.type == NBD_CMD_READ) {
		nbd_reply_data(session, &op->request, op_payload(op), &op->reply);
	} else if (op->request.type == NBD_CMD_BLOCK_STATUS) {
		uint32_t context = (uint32_t)__builtin_ctz(op->contexts);

		op->contexts &= op->contexts - 1;
		nbd_reply_status(session, &op->request, context, op->io.extents,
		    op->io.extents_count, op->contexts == 0, &op->reply);
	} else {
		nbd_reply_done(session, &op->request, &op->reply);
	}
}

static void op_submit(struct nbd_op *op);

static void
op_io_done(struct volume_io *io)
{
	struct nbd_op *op = container_of(io, struct nbd_op, io);
	struct nbd_connection *c = op->connection;

	c->engine_count--;
	if (c->phase != CONNECTION_DEAD)
		op_encode(op);
	if (op->contexts && !io->error && c->phase != CONNECTION_DEAD) {
		op_submit(op); /* of the next context */
		return;
	}
	op_answer(op);
	if (c->phase == CONNECTION_DEAD)
		connection_finish(c);
}

static const enum volume_op volume_ops[] = {
	[NBD_CMD_READ] = VOLUME_READ,
	[NBD_CMD_WRITE] = VOLUME_WRITE,
	[NBD_CMD_FLUSH] = VOLUME_FLUSH,
	[NBD_CMD_TRIM] = VOLUME_TRIM,
	[NBD_CMD_CACHE] = VOLUME_CACHE,
	[NBD_CMD_WRITE_ZEROES] = VOLUME_ZERO,
	[NBD_CMD_BLOCK_STATUS] = VOLUME_STATUS,
};

/* Each context gets the same share of the buffer; beside the extents, there are chunk headers. */
static uint32_t
status_extents_max(uint32_t contexts)
{
	uint32_t count = (uint32_t)__builtin_popcount(contexts);

	return count == 1 ? STATUS_EXTENTS_MAX : STATUS_EXTENTS_MAX / count - 4;
}

/* Hands a request that has all it needs to the engine. */
static void
op_submit(struct nbd_op *op)
{
	const struct nbd_request *request = &op->request;

	op->io = (struct volume_io){
		.op = volume_ops[request->type],
		.flags = (request->flags & NBD_CMD_FLAG_FUA ? VOLUME_FUA : 0) |
			 (request->flags & NBD_CMD_FLAG_NO_HOLE ? VOLUME_NO_HOLE : 0),
		.offset_bytes = request->offset_bytes,
		.len_bytes = request->len_bytes,
		.done = op_io_done,
	};
	if (request->type == NBD_CMD_BLOCK_STATUS) {
		uint32_t context = (uint32_t)__builtin_ctz(op->contexts);

		op->io.extents = (void *)((char *)op->buffer + nbd_reply_status_next(&op->reply));
		op->io.extents_max = request->flags & NBD_CMD_FLAG_REQ_ONE
					 ? 1
					 : status_extents_max(request->contexts);
		op->io.older = op->connection->older[context];
		if (op->connection->session.contexts[context].kind == NBD_CONTEXT_DEPTH)
			op->io.flags |= VOLUME_DEPTH;
	} else {
		op->io.buffer = op->buffer;
	}
	op->connection->engine_count++;
	volume_submit(op->connection->volume, &op->io);
}

static size_t
op_buffer_bytes(const struct nbd_request *request)
{
	switch (request->type) {
	case NBD_CMD_READ:
	case NBD_CMD_WRITE:
		return round_up(
		    request->offset_bytes % BLOCK_BYTES + request->len_bytes, BLOCK_BYTES);
	case NBD_CMD_BLOCK_STATUS:
		return request->flags & NBD_CMD_FLAG_REQ_ONE
			   ? BLOCK_BYTES
			   : STATUS_EXTENTS_MAX * sizeof(struct volume_extent);
	default:
		return 0;
	}
}

/* --- the end of a connection --- */

static void
stop_waiting(struct nbd_connection *c)
{
	struct nbd_home *home = c->home;

	if (!waits(c))
		return;
	list_remove(&c->wait_link);
	if (!list_empty(&home->waiting)) /* who came behind may be content with less */
		reactor_defer(&home->r->reactor, &home->wake_waiting);
}

/* No more input: what is half received is dropped. */
static void
drop_input(struct nbd_connection *c)
{
	stop_waiting(c);
	op_drop(&c->stalled);
	if (!c->stream.receiving ||
	    !c->stream.receives_into) /* else the kernel may yet write into it */
		op_drop(&c->payload_op);
}

static void
close_volumes(struct nbd_connection *c)
{
	if (c->volume)
		volume_close(c->volume);
	c->volume = NULL;
	for (uint32_t i = 0; i < NBD_CONTEXTS_MAX; i++) {
		if (c->older[i])
			volume_close(c->older[i]);
		c->older[i] = NULL;
	}
	c->contexts_opened = 0;
}

/* What is in flight ends soon, also if it waits because a pool is full. */
static void
stop_waiting_for_room(struct nbd_connection *c)
{
	if (c->volume)
		volume_stop_waiting(c->volume, true);
}

/* Frees the connection if nothing of it is in flight any more.  The last thing a caller does. */
static void
connection_finish(struct nbd_connection *c)
{
	struct nbd_home *home = c->home;

	if (c->phase == CONNECTION_LIVE || !stream_idle(&c->stream) || c->asking || c->op_count)
		return;
	if (c->phase == CONNECTION_DRAINING && c->session.out.len_bytes)
		return;
	CHECK(c->payload_bytes == 0 && !c->stalled && !c->payload_op && !waits(c));
	CHECK(list_empty(&c->replies) && list_empty(&c->sent));
	reactor_timer_cancel(reactor_of(c), &c->timer);
	reactor_timer_cancel(reactor_of(c), &c->rest_timer);
	reactor_cancel(reactor_of(c), &c->send_task);
	close_volumes(c);
	stream_fini(&c->stream);
	list_remove(&c->link);
	nbd_session_fini(&c->session);
	diag_debug("%s: disconnected", c->peer);
	nbd_server_client_gone(home->server, c->client);
	free(c);
	atomic_fetch_sub(&home->server->connection_count, 1);
	nbd_server_connection_gone(home);
}

/* The socket is of no more use. */
static void
connection_kill(struct nbd_connection *c)
{
	if (c->phase == CONNECTION_DEAD)
		return;
	c->phase = CONNECTION_DEAD;
	stream_shutdown(&c->stream);
	drop_input(c);
	stop_waiting_for_room(c);
	op_put_all(&c->replies);
	connection_finish(c);
}

static void
drain_timeout(struct timer *timer)
{
	connection_kill(container_of(timer, struct nbd_connection, timer));
}

/* Reads no more; answers what is in flight, then closes. */
static void
connection_drain(struct nbd_connection *c)
{
	if (c->phase != CONNECTION_LIVE)
		return;
	c->phase = CONNECTION_DRAINING;
	stream_shutdown_receive(&c->stream);
	drop_input(c);
	stop_waiting_for_room(c);
	c->timer.run = drain_timeout; /* armed or not: moved */
	reactor_timer_start(
	    reactor_of(c), &c->timer, c->home->server->config.stop_timeout_ms * 1000000ull);
	if (!c->stream.sending)
		reactor_at_turn_end(reactor_of(c), &c->send_task);
}

void
nbd_connection_stop(struct nbd_connection *c)
{
	connection_drain(c);
}

/* --- sending --- */

/* Fills the message with the handshake's output or with answers. */
static void
gather(struct nbd_connection *c)
{
	stream_gather(&c->stream);
	if (c->session.out.len_bytes) {
		stream_add(&c->stream, c->session.out.bytes, c->session.out.len_bytes);
		c->sending_output = true;
		return;
	}
	while (!list_empty(&c->replies) && stream_has_room(&c->stream, 2)) {
		struct list *link = list_pop_front(&c->replies);
		const struct nbd_reply *reply = &container_of(link, struct nbd_op, link)->reply;

		stream_add(&c->stream, reply->head, reply->head_bytes);
		if (reply->tail_bytes)
			stream_add(&c->stream, reply->tail, reply->tail_bytes);
		list_push_back(&c->sent, link);
	}
}

static void
connection_send(struct nbd_connection *c)
{
	if (c->stream.sending || c->phase == CONNECTION_DEAD)
		return;
	gather(c);
	stream_send(&c->stream);
}

static void receive(struct nbd_connection *c);

static void
rest_end(struct nbd_connection *c)
{
	if (!c->resting)
		return;
	c->resting = false;
	reactor_timer_cancel(reactor_of(c), &c->rest_timer);
	if (c->phase == CONNECTION_LIVE)
		receive(c);
}

static void
rest_timeout(struct timer *timer)
{
	rest_end(container_of(timer, struct nbd_connection, rest_timer));
}

static void
send_task_run(struct task *task)
{
	struct nbd_connection *c = container_of(task, struct nbd_connection, send_task);

	connection_send(c);
	rest_end(c);
	connection_finish(c);
}

static void
stream_was_sent(struct stream *stream, int error)
{
	struct nbd_connection *c = container_of(stream, struct nbd_connection, stream);

	op_put_all(&c->sent);
	if (c->sending_output) {
		c->sending_output = false;
		c->session.out.len_bytes = 0;
	}
	if (c->securing && !error && c->phase == CONNECTION_LIVE) {
		c->securing = false;
		stream_tls_start(&c->stream, c->policy->tls_context);
		return;
	}
	if (error && c->phase != CONNECTION_DEAD) {
		connection_kill(c);
		return;
	}
	if (!list_empty(&c->replies) || c->phase == CONNECTION_DRAINING)
		reactor_at_turn_end(reactor_of(c), &c->send_task);
	if (c->phase == CONNECTION_LIVE)
		connection_advance(c);
	else
		connection_finish(c);
}

/* --- TLS --- */

/*
 * What came in plaintext behind STARTTLS, before it was granted, was either put there by somebody
 * in between or by a client that does not wait as it must: it is not looked at.
 */
static void
secure(struct nbd_connection *c)
{
	if (stream_input_bytes(&c->stream)) {
		diag_warning("%s: disconnected: it sent plaintext behind STARTTLS", c->peer);
		c->session.out.len_bytes = 0;
		connection_drain(c); /* who called goes on with it: not freed here */
		return;
	}
	c->asking = true;
	c->securing = true;
	reactor_at_turn_end(reactor_of(c), &c->send_task);
}

static void
stream_was_secured(struct stream *stream, int error)
{
	struct nbd_connection *c = container_of(stream, struct nbd_connection, stream);
	char text[96];

	c->asking = false;
	if (c->phase != CONNECTION_LIVE) {
		connection_finish(c);
		return;
	}
	stream_tls_describe(stream, text);
	if (error) {
		diag_info("%s: no TLS: %s", c->peer, text);
		connection_kill(c);
		return;
	}
	diag_debug("%s: %s, \"%s\"", c->peer, text, stream_tls_peer_name(stream));
	c->access_peer.tls_name = stream_tls_peer_name(stream);
	nbd_session_secured(&c->session);
	connection_advance(c);
}

/* --- questions to the target --- */

static void connection_event(struct nbd_connection *c, enum nbd_event event);
static void idle_timeout(struct timer *timer);

static enum nbd_access
access_to(const struct nbd_connection *c, const struct name *name)
{
	const struct nbd_server_config *config = &c->home->server->config;
	char text[NAME_TEXT_SIZE];

	name_format(name, text);
	return nbd_access(config->access, config->access_count, &c->access_peer, text);
}

static void
drop_hidden(const struct nbd_connection *c, struct target_names *names)
{
	size_t kept = 0;

	for (size_t i = 0; i < names->count; i++)
		if (access_to(c, &names->names[i]) != NBD_ACCESS_NONE)
			names->names[kept++] = names->names[i];
	names->count = kept;
}

static void
names_done(struct target_names *names)
{
	struct nbd_connection *c = container_of(names, struct nbd_connection, names);
	enum nbd_event event;

	c->asking = false;
	if (c->phase != CONNECTION_LIVE) {
		free(names->names);
		connection_finish(c);
		return;
	}
	drop_hidden(c, names);
	event = nbd_session_names(&c->session, 0, names->names, names->count);
	free(names->names);
	connection_event(c, event);
	connection_advance(c);
}

static void
describe(const struct volume_info *info, struct nbd_export *export)
{
	char uuid[UUID_TEXT_BYTES];

	uuid_format(&info->uuid, uuid);
	export->size_bytes = info->size_bytes;
	export->readonly = info->readonly;
	export->rotational = info->rotational;
	name_format(&info->name, export->name);
	snprintf(export->description, sizeof(export->description), "%s of Quarry volume %s",
	    info->name.snapshot[0] ? "snapshot" : "head", uuid);
}

/* In the place of the handshake's time limit. */
static void
idle_watch(struct nbd_connection *c)
{
	uint64_t limit_ns = c->home->server->config.idle_timeout_ms * 1000000ull;

	reactor_timer_cancel(reactor_of(c), &c->timer);
	if (limit_ns == 0)
		return;
	c->timer.run = idle_timeout;
	reactor_timer_start(reactor_of(c), &c->timer,
	    c->stream.progress_ns + limit_ns -
		min_u64(reactor_of(c)->now_ns, c->stream.progress_ns + limit_ns));
}

static void
idle_timeout(struct timer *timer)
{
	struct nbd_connection *c = container_of(timer, struct nbd_connection, timer);
	uint64_t limit_ns = c->home->server->config.idle_timeout_ms * 1000000ull;

	if (c->op_count)
		c->stream.progress_ns = reactor_of(c)->now_ns; /* it waits for us */
	if (reactor_of(c)->now_ns - c->stream.progress_ns < limit_ns)
		return idle_watch(c);
	diag_info("%s: disconnected: idle", c->peer);
	connection_drain(c);
}

static void ask_open(struct nbd_connection *c, const struct name *name);

/* The next snapshot that a selected context needs is asked for; false: there is none. */
static bool
open_contexts(struct nbd_connection *c)
{
	uint32_t count =
	    nbd_session_enters(&c->session) ? nbd_session_context_count(&c->session) : 0;

	while (c->contexts_opened < count) {
		const struct nbd_context *context = &c->session.contexts[c->contexts_opened];
		struct name name = c->session.open_name;

		if (context->snapshot[0]) {
			memcpy(name.snapshot, context->snapshot, sizeof(name.snapshot));
			ask_open(c, &name);
			return true;
		}
		c->contexts_opened++;
	}
	return false;
}

static void
open_done(struct target_open *open)
{
	struct nbd_connection *c = container_of(open, struct nbd_connection, open);
	struct nbd_export export = { 0 };
	enum nbd_event event;

	c->asking = false;
	if (!open->error && access_to(c, &open->name) == NBD_ACCESS_NONE) {
		volume_close(open->volume);
		open->error = -ENOENT;
	}
	if (!open->error && !c->volume)
		c->volume = open->volume;
	else if (!open->error)
		c->older[c->contexts_opened++] = open->volume;
	if (c->phase != CONNECTION_LIVE) {
		connection_finish(c);
		return;
	}
	if (!open->error && open_contexts(c))
		return;
	if (!open->error)
		describe(volume_info(c->volume), &export);
	event = nbd_session_opened(&c->session, open->error, &export);
	if (nbd_session_in_transmission(&c->session)) {
		idle_watch(c);
		diag_debug("%s: connected to %s", c->peer, export.name);
	} else {
		close_volumes(c);
	}
	connection_event(c, event);
	connection_advance(c);
}

static void
ask_names(struct nbd_connection *c)
{
	c->asking = true;
	c->names = (struct target_names){
		.snapshots = c->session.want_snapshots,
		.done = names_done,
	};
	target_names(c->home->server->config.target, &c->names);
}

static void
ask_open(struct nbd_connection *c, const struct name *name)
{
	c->asking = true;
	c->open = (struct target_open){
		.name = *name,
		.readonly = access_to(c, name) != NBD_ACCESS_WRITE,
		.client = c->peer,
		.done = open_done,
	};
	target_open(c->home->server->config.target, &c->open);
}

/* --- receiving --- */

/* Gives the stalled request its buffer; false: it has to wait. */
static bool
admit(struct nbd_connection *c)
{
	struct nbd_home *home = c->home;
	struct nbd_op *op = c->stalled;
	size_t bytes = op_buffer_bytes(&op->request);

	/* A connection without anything in flight may always have one request. */
	if (c->payload_bytes && c->payload_bytes + bytes > home->server->config.payload_bytes_max)
		return false; /* tried again when an answer was sent */
	if (bytes) {
		bool first = list_empty(&home->waiting) || home->waiting.next == &c->wait_link;

		op->buffer = first ? buffer_get(home->buffers, bytes) : NULL;
		/* Others that hold all of the budget must not stop a modest client. */
		if (!op->buffer && c->payload_bytes + bytes <= MODEST_BYTES)
			op->buffer = buffer_get_beyond(home->buffers, bytes);
		if (!op->buffer) {
			if (!waits(c))
				list_push_back(&home->waiting, &c->wait_link);
			if (!home->watchdog.heap_index)
				reactor_timer_start(
				    &home->r->reactor, &home->watchdog, WATCHDOG_PERIOD_NS);
			return false; /* tried again when a buffer came back */
		}
		op->buffer_bytes = bytes;
		c->payload_bytes += bytes;
		stop_waiting(c);
	}
	c->stalled = NULL;
	if (op->request.payload_bytes) {
		c->payload_op = op;
		c->payload_at = 0;
		c->stream.progress_ns = reactor_of(c)->now_ns;
	} else {
		op_submit(op);
	}
	return true;
}

static void
request_start(struct nbd_connection *c)
{
	struct nbd_op *op = op_get(c);
	const struct nbd_request *request = &op->request;

	op->request = c->session.request;
	op->reply.head_bytes = 0;
	if (request->type == NBD_CMD_BLOCK_STATUS)
		op->contexts = request->contexts;
	if (request->error) {
		nbd_reply_error(&c->session, request, request->error, request->message, &op->reply);
		op_answer(op);
	} else if (request->len_bytes == 0 && request->type != NBD_CMD_FLUSH) {
		nbd_reply_done(&c->session, request, &op->reply); /* nothing, done */
		op_answer(op);
	} else {
		c->stalled = op;
	}
}

static void
connection_event(struct nbd_connection *c, enum nbd_event event)
{
	switch (event) {
	case NBD_EVENT_MORE:
		break;
	case NBD_EVENT_OUTPUT:
		reactor_at_turn_end(reactor_of(c), &c->send_task);
		break;
	case NBD_EVENT_NAMES:
		ask_names(c);
		break;
	case NBD_EVENT_OPEN:
		ask_open(c, &c->session.open_name);
		break;
	case NBD_EVENT_TLS:
		secure(c);
		break;
	case NBD_EVENT_REQUEST:
		request_start(c);
		break;
	case NBD_EVENT_CLOSE:
		connection_drain(c);
		break;
	}
}

static void
payload_received(struct nbd_connection *c, size_t len_bytes)
{
	struct nbd_op *op = c->payload_op;

	nbd_session_payload_taken(&c->session, len_bytes);
	c->payload_at += (uint32_t)len_bytes;
	if (c->payload_at < op->request.payload_bytes)
		return;
	c->payload_op = NULL;
	op_submit(op);
}

/* Moves what the input has of a payload to where it belongs; false: it has nothing. */
static bool
take_payload(struct nbd_connection *c)
{
	struct nbd_op *op = c->payload_op;
	size_t len_bytes = stream_take(&c->stream, (char *)op_payload(op) + c->payload_at,
	    op->request.payload_bytes - c->payload_at);

	if (len_bytes == 0)
		return false;
	payload_received(c, len_bytes);
	return true;
}

static uint32_t
payload_left_bytes(const struct nbd_connection *c)
{
	return c->payload_op ? c->payload_op->request.payload_bytes - c->payload_at : 0;
}

static void
receive(struct nbd_connection *c)
{
	if (c->payload_op)
		stream_receive_payload(&c->stream,
		    (char *)op_payload(c->payload_op) + c->payload_at, payload_left_bytes(c));
	else
		stream_receive(&c->stream);
}

/* See the head of this file; true: rests now. */
static bool
rest_begin(struct nbd_connection *c)
{
	if (c->engine_count < REST_REQUESTS || c->stream.between_payloads ||
	    payload_left_bytes(c) >= STREAM_DIRECT_BYTES_MIN)
		return false;
	c->resting = true;
	reactor_timer_start(reactor_of(c), &c->rest_timer, REST_NS);
	return true;
}

/* Gets as far as the input and the bounds allow. */
static void
connection_advance(struct nbd_connection *c)
{
	if (c->stream.receiving || c->resting)
		return; /* there was too little input for anything, and no more has come */
	if (c->volume)
		c->session.export.size_bytes = volume_info(c->volume)->size_bytes;
	while (c->phase == CONNECTION_LIVE) {
		enum nbd_event event;
		size_t consumed;

		if (c->asking || c->session.out.len_bytes)
			return;
		if (c->payload_op) {
			if (take_payload(c))
				continue;
			break;
		}
		if (c->stalled) {
			if (admit(c))
				continue;
			return;
		}
		if (c->op_count >= c->home->server->config.requests_max)
			return;
		event = nbd_session_input(&c->session, stream_input(&c->stream),
		    stream_input_bytes(&c->stream), &consumed);
		stream_consume(&c->stream, consumed);
		connection_event(c, event);
		if (event == NBD_EVENT_MORE)
			break;
	}
	if (c->phase == CONNECTION_LIVE && !rest_begin(c))
		receive(c);
}

static void
stream_was_received(struct stream *stream, int32_t result)
{
	struct nbd_connection *c = container_of(stream, struct nbd_connection, stream);

	if (c->phase != CONNECTION_LIVE) {
		op_drop(&c->payload_op);
		connection_finish(c);
	} else if (result > 0) {
		if (stream->receives_into)
			payload_received(c, (size_t)result);
		connection_advance(c);
	} else if (result == 0) {
		connection_drain(c); /* it may have closed its half only */
	} else {
		connection_kill(c);
	}
}

static const struct stream_events stream_events = {
	.received = stream_was_received,
	.sent = stream_was_sent,
	.secured = stream_was_secured,
};

/* --- waiting for buffers --- */

static void
wake_waiting(struct task *task)
{
	struct nbd_home *home = container_of(task, struct nbd_home, wake_waiting);

	while (!list_empty(&home->waiting)) {
		struct list *first = home->waiting.next;

		connection_advance(container_of(first, struct nbd_connection, wait_link));
		if (home->waiting.next == first)
			return;
	}
}

/* A peer that holds buffers, and neither takes its answers nor sends the payload it announced. */
static bool
stuck(const struct nbd_connection *c)
{
	uint64_t limit_ns = c->home->server->config.stall_timeout_ms * 1000000ull;

	return c->payload_bytes && (c->stream.sending || c->payload_op) &&
	       reactor_of(c)->now_ns - c->stream.progress_ns > limit_ns;
}

static void
watchdog_run(struct timer *timer)
{
	struct nbd_home *home = container_of(timer, struct nbd_home, watchdog);

	list_for_each_safe(link, &home->connections) {
		struct nbd_connection *c = container_of(link, struct nbd_connection, link);

		if (stuck(c)) {
			diag_warning(
			    "%s: disconnected: others wait for the memory it holds", c->peer);
			connection_kill(c);
		}
	}
	if (list_empty(&home->waiting))
		return;
	reactor_timer_start(&home->r->reactor, timer, WATCHDOG_PERIOD_NS);
	reactor_defer(&home->r->reactor, &home->wake_waiting); /* the system may be out of memory */
}

/* --- the beginning --- */

static void
handshake_timeout(struct timer *timer)
{
	struct nbd_connection *c = container_of(timer, struct nbd_connection, timer);

	diag_debug("%s: no handshake in time", c->peer);
	connection_kill(c);
}

static void
arrive(struct task *task)
{
	struct nbd_connection *c = container_of(task, struct nbd_connection, arrive_task);
	struct nbd_home *home = c->home;

	list_push_back(&home->connections, &c->link);
	reactor_timer_start(
	    &home->r->reactor, &c->timer, home->server->config.handshake_timeout_ms * 1000000ull);
	diag_debug("%s: here", c->peer);
	reactor_at_turn_end(&home->r->reactor, &c->send_task); /* the greeting */
}

/* On the accepting reactor; from arrive() on it is its home's. */
struct nbd_connection *
nbd_connection_create(struct nbd_home *home, const struct nbd_listener_policy *policy,
    const struct nbd_peer *peer, struct nbd_client *client, int fd)
{
	struct nbd_connection *c = xcalloc(1, sizeof(*c));

	list_init(&c->link);
	list_init(&c->wait_link);
	c->home = home;
	c->policy = policy;
	c->access_peer = *peer;
	c->client = client;
	c->phase = CONNECTION_LIVE;
	stream_init(&c->stream, home->r, fd, INPUT_BYTES, &stream_events);
	stream_set_up_peer(&c->stream, "nbd", c->peer);
	task_init(&c->arrive_task, arrive);
	timer_init(&c->timer, handshake_timeout);
	timer_init(&c->rest_timer, rest_timeout);
	nbd_session_init(&c->session);
	c->session.tls = policy->tls;
	task_init(&c->send_task, send_task_run);
	list_init(&c->replies);
	list_init(&c->sent);
	return c;
}

struct task *
nbd_connection_arrive_task(struct nbd_connection *c)
{
	return &c->arrive_task;
}

struct nbd_connection *
nbd_connection_of(struct list *link)
{
	return container_of(link, struct nbd_connection, link);
}

void
nbd_home_init(struct nbd_home *home, struct nbd_server *server, struct reactor_uring *r)
{
	home->server = server;
	home->r = r;
	home->buffers = buffer_pool_create(server->config.buffer_bytes);
	list_init(&home->free_ops);
	list_init(&home->op_slabs);
	list_init(&home->connections);
	list_init(&home->waiting);
	task_init(&home->wake_waiting, wake_waiting);
	timer_init(&home->watchdog, watchdog_run);
}

void
nbd_home_fini(struct nbd_home *home)
{
	struct list *link;

	CHECK(list_empty(&home->connections) && list_empty(&home->waiting));
	while ((link = list_pop_front(&home->op_slabs)))
		free(container_of(link, struct op_slab, link));
	buffer_pool_free(home->buffers);
}
