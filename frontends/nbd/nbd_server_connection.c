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
#include <stdlib.h>

#include "core/base/diag.h"
#include "frontends/nbd/nbd_server_connection.h"
#include "frontends/stream/stream_tls.h"

enum {
	INPUT_BYTES = 128 * 1024,
	REST_REQUESTS = 8,
};
static_assert(INPUT_BYTES >= 2 * NBD_OPTION_BYTES_MAX, "the longest option fits behind a move");

#define REST_NS 100000ull

/* So many bytes a client with an idle timeout takes or sends in a second, or it counts as idle. */
#define SLOWEST_BYTES_PER_SECOND (256 * KIB)

/* What a connection may hold whatever others hold: in all, connections_max times as much. */
#define MODEST_BYTES (128 * KIB)

/* --- the end of a connection --- */

static void
stop_waiting(struct nbd_connection *c)
{
	struct nbd_home *home = c->home;

	if (!nbd_connection_waits(c))
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
	nbd_op_drop(&c->stalled);
	if (!c->stream.receiving ||
	    !c->stream.receives_into) /* else the kernel may yet write into it */
		nbd_op_drop(&c->payload_op);
}

/* What is in flight ends soon, also if it waits because a pool is full. */
static void
stop_waiting_for_room(struct nbd_connection *c)
{
	if (c->volume)
		volume_stop_waiting(c->volume, true);
}

/* Frees the connection if nothing of it is in flight any more.  The last thing a caller does. */
void
nbd_connection_finish(struct nbd_connection *c)
{
	struct nbd_home *home = c->home;

	if (c->phase == CONNECTION_LIVE || !stream_idle(&c->stream) || c->asking || c->op_count)
		return;
	if (c->phase == CONNECTION_DRAINING && c->session.out.len_bytes)
		return;
	CHECK(c->payload_bytes == 0 && !c->stalled && !c->payload_op && !nbd_connection_waits(c));
	CHECK(list_empty(&c->replies) && list_empty(&c->sent));
	reactor_timer_cancel(nbd_connection_reactor(c), &c->timer);
	reactor_timer_cancel(nbd_connection_reactor(c), &c->rest_timer);
	reactor_cancel(nbd_connection_reactor(c), &c->send_task);
	nbd_connection_close_volumes(c);
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
void
nbd_connection_kill(struct nbd_connection *c)
{
	if (c->phase == CONNECTION_DEAD)
		return;
	c->phase = CONNECTION_DEAD;
	stream_shutdown(&c->stream);
	drop_input(c);
	stop_waiting_for_room(c);
	nbd_op_put_all(&c->replies);
	nbd_connection_finish(c);
}

static void
drain_timeout(struct timer *timer)
{
	nbd_connection_kill(container_of(timer, struct nbd_connection, timer));
}

/* Reads no more; answers what is in flight, then closes. */
void
nbd_connection_stop(struct nbd_connection *c)
{
	if (c->phase != CONNECTION_LIVE)
		return;
	c->phase = CONNECTION_DRAINING;
	stream_shutdown_receive(&c->stream);
	drop_input(c);
	stop_waiting_for_room(c);
	c->timer.run = drain_timeout; /* armed or not: moved */
	reactor_timer_start(nbd_connection_reactor(c), &c->timer,
	    c->home->server->config.stop_timeout_ms * 1000000ull);
	if (!c->stream.sending)
		reactor_at_turn_end(nbd_connection_reactor(c), &c->send_task);
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
	while (!list_empty(&c->replies) && stream_has_room(&c->stream, 1 + NBD_REPLY_PIECES_MAX)) {
		struct list *link = list_pop_front(&c->replies);
		const struct nbd_reply *reply = &container_of(link, struct nbd_op, link)->reply;

		stream_add(&c->stream, reply->head, reply->head_bytes);
		if (reply->tail_bytes)
			stream_add(&c->stream, reply->tail, reply->tail_bytes);
		for (uint32_t i = 0; i < reply->more_count; i++)
			stream_add(&c->stream, reply->more[i].bytes, reply->more[i].len_bytes);
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
	reactor_timer_cancel(nbd_connection_reactor(c), &c->rest_timer);
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
	nbd_connection_finish(c);
}

static void
stream_was_sent(struct stream *stream, int error)
{
	struct nbd_connection *c = container_of(stream, struct nbd_connection, stream);

	nbd_op_put_all(&c->sent);
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
		nbd_connection_kill(c);
		return;
	}
	if (!list_empty(&c->replies) || c->phase == CONNECTION_DRAINING)
		reactor_at_turn_end(nbd_connection_reactor(c), &c->send_task);
	if (c->phase == CONNECTION_LIVE)
		nbd_connection_advance(c);
	else
		nbd_connection_finish(c);
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
		nbd_connection_stop(c); /* who called goes on with it: not freed here */
		return;
	}
	c->asking = true;
	c->securing = true;
	reactor_at_turn_end(nbd_connection_reactor(c), &c->send_task);
}

static void
stream_was_secured(struct stream *stream, int error)
{
	struct nbd_connection *c = container_of(stream, struct nbd_connection, stream);
	char text[96];

	c->asking = false;
	if (c->phase != CONNECTION_LIVE) {
		nbd_connection_finish(c);
		return;
	}
	stream_tls_describe(stream, text);
	if (error) {
		diag_info("%s: no TLS: %s", c->peer, text);
		nbd_connection_kill(c);
		return;
	}
	diag_debug("%s: %s, \"%s\"", c->peer, text, stream_tls_peer_name(stream));
	c->access_peer.tls_name = stream_tls_peer_name(stream);
	nbd_session_secured(&c->session);
	nbd_connection_advance(c);
}

/* --- receiving --- */

/* Gives the stalled request its buffer; false: it has to wait. */
static bool
admit(struct nbd_connection *c)
{
	struct nbd_home *home = c->home;
	struct nbd_op *op = c->stalled;
	size_t bytes = nbd_op_buffer_bytes(&op->request);

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
			if (!nbd_connection_waits(c))
				list_push_back(&home->waiting, &c->wait_link);
			nbd_home_watch(home);
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
		c->stream.progress_ns = nbd_connection_reactor(c)->now_ns;
	} else {
		nbd_op_submit(op);
	}
	return true;
}

static void
request_start(struct nbd_connection *c)
{
	struct nbd_op *op = nbd_op_get(c);
	const struct nbd_request *request = &op->request;

	op->request = c->session.request;
	op->reply.head_bytes = 0;
	if (request->type == NBD_CMD_BLOCK_STATUS)
		op->contexts = request->contexts;
	if (request->error) {
		nbd_reply_error(&c->session, request, request->error, request->message, &op->reply);
		nbd_op_answer(op);
	} else if (request->len_bytes == 0 && request->type != NBD_CMD_FLUSH) {
		nbd_reply_done(&c->session, request, &op->reply); /* nothing, done */
		nbd_op_answer(op);
	} else {
		c->stalled = op;
	}
}

void
nbd_connection_event(struct nbd_connection *c, enum nbd_event event)
{
	switch (event) {
	case NBD_EVENT_MORE:
		break;
	case NBD_EVENT_OUTPUT:
		reactor_at_turn_end(nbd_connection_reactor(c), &c->send_task);
		break;
	case NBD_EVENT_NAMES:
		nbd_connection_ask_names(c);
		break;
	case NBD_EVENT_OPEN:
		nbd_connection_ask_open(c, &c->session.open_name);
		break;
	case NBD_EVENT_TLS:
		secure(c);
		break;
	case NBD_EVENT_REQUEST:
		request_start(c);
		break;
	case NBD_EVENT_CLOSE:
		nbd_connection_stop(c);
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
	nbd_op_submit(op);
}

/* Moves what the input has of a payload to where it belongs; false: it has nothing. */
static bool
take_payload(struct nbd_connection *c)
{
	struct nbd_op *op = c->payload_op;
	size_t len_bytes = stream_take(&c->stream, (char *)nbd_op_payload(op) + c->payload_at,
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
		    (char *)nbd_op_payload(c->payload_op) + c->payload_at, payload_left_bytes(c));
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
	reactor_timer_start(nbd_connection_reactor(c), &c->rest_timer, REST_NS);
	return true;
}

/* Gets as far as the input and the bounds allow. */
void
nbd_connection_advance(struct nbd_connection *c)
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
		nbd_connection_event(c, event);
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
		nbd_op_drop(&c->payload_op);
		nbd_connection_finish(c);
	} else if (result > 0) {
		if (stream->receives_into)
			payload_received(c, (size_t)result);
		nbd_connection_advance(c);
	} else if (result == 0) {
		nbd_connection_stop(c); /* it may have closed its half only */
	} else {
		nbd_connection_kill(c);
	}
}

static const struct stream_events stream_events = {
	.received = stream_was_received,
	.sent = stream_was_sent,
	.secured = stream_was_secured,
};

/* --- time limits --- */

static void idle_timeout(struct timer *timer);

/* A transfer is known to get on only when it is done, so a large one has more time. */
static uint64_t
idle_limit_ns(const struct nbd_connection *c)
{
	return c->home->server->config.idle_timeout_ms * 1000000ull +
	       c->payload_bytes * 1000000000ull / SLOWEST_BYTES_PER_SECOND;
}

/* In the place of the handshake's time limit. */
void
nbd_connection_idle_watch(struct nbd_connection *c)
{
	uint64_t end_ns = c->stream.progress_ns + idle_limit_ns(c);

	reactor_timer_cancel(nbd_connection_reactor(c), &c->timer);
	if (c->home->server->config.idle_timeout_ms == 0)
		return;
	c->timer.run = idle_timeout;
	reactor_timer_start(nbd_connection_reactor(c), &c->timer,
	    end_ns - min_u64(nbd_connection_reactor(c)->now_ns, end_ns));
}

static void
idle_timeout(struct timer *timer)
{
	struct nbd_connection *c = container_of(timer, struct nbd_connection, timer);

	/* It waits for us, and not we for it to take answers or to send a payload. */
	if (c->engine_count || nbd_connection_waits(c))
		c->stream.progress_ns = nbd_connection_reactor(c)->now_ns;
	if (nbd_connection_reactor(c)->now_ns - c->stream.progress_ns < idle_limit_ns(c))
		return nbd_connection_idle_watch(c);
	diag_info("%s: disconnected: idle", c->peer);
	nbd_connection_stop(c);
}

/* --- the beginning --- */

static void
handshake_timeout(struct timer *timer)
{
	struct nbd_connection *c = container_of(timer, struct nbd_connection, timer);

	diag_debug("%s: no handshake in time", c->peer);
	nbd_connection_kill(c);
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
	c->session.tls_reveals = nbd_access_tls_reveals(
	    home->server->config.access, home->server->config.access_count, peer);
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
