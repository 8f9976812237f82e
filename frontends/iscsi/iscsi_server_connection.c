/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection: its socket and its session.
 *
 *   LIVE ─► FLUSHING ─► DEAD ─► gone
 *
 * FLUSHING sends what the session has gathered (a logout's or a refused login's answer).  DEAD: the
 * socket is shut down; when nothing of it is in the ring, the session ends; when its tasks are done
 * and no question is asked of the target, the connection is freed.
 */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "frontends/iscsi/iscsi_server_internal.h"

enum {
	INPUT_BYTES = 128 * 1024,
	OUT_PIECES = 3,
};

#define WATCH_PERIOD_NS 1000000000ull
#define STALL_NS 60000000000ull /* a peer that takes nothing of what waits for it */

enum connection_phase {
	CONNECTION_LIVE,
	CONNECTION_FLUSHING,
	CONNECTION_DEAD,
};

struct iscsi_connection {
	struct list link; /* server->connections */
	struct iscsi_server *server;
	enum connection_phase phase;
	const char *listener; /* the URI */
	struct stream stream;
	char peer[STREAM_PEER_BYTES];
	struct iscsi_session session;
	bool session_ended;
	bool idle; /* the session has no task left */
	uint64_t arrived_ns;
	uint64_t received_ns;
	struct timer watch;
	struct timer refusal;
	uint64_t exports_generation; /* as the session knows them */
	struct task step;            /* send, parse on, or end: at the end of a turn */
	struct target_open open;
	struct target_names names;
	bool asking;
};

static void
step_later(struct iscsi_connection *c)
{
	reactor_at_turn_end(&c->server->r->reactor, &c->step);
}

/* --- the end --- */

static void
connection_free(struct iscsi_connection *c)
{
	struct iscsi_server *server = c->server;

	reactor_timer_cancel(&server->r->reactor, &c->watch);
	reactor_timer_cancel(&server->r->reactor, &c->refusal);
	reactor_cancel(&server->r->reactor, &c->step);
	iscsi_session_fini(&c->session);
	stream_fini(&c->stream);
	list_remove(&c->link);
	diag_debug("%s: disconnected", c->peer);
	free(c);
	server->connection_count--;
	iscsi_server_check_stop(server);
}

void
iscsi_connection_kill(struct iscsi_connection *c)
{
	if (c->phase == CONNECTION_DEAD)
		return;
	c->phase = CONNECTION_DEAD;
	stream_shutdown(&c->stream);
	step_later(c);
}

/* The last thing its caller does. */
static void
connection_end(struct iscsi_connection *c)
{
	if (!stream_idle(&c->stream))
		return;
	if (!c->session_ended) {
		c->session_ended = true;
		iscsi_session_end(&c->session);
	}
	if (c->idle && !c->asking)
		connection_free(c);
}

/* --- sending and receiving --- */

static void
send_some(struct iscsi_connection *c)
{
	uint32_t count;

	if (c->stream.sending || c->session.out_count)
		return;
	count = iscsi_session_gather(&c->session);
	if (count == 0)
		return;
	stream_gather(&c->stream);
	for (uint32_t i = 0; i < count; i++) {
		const struct iscsi_out *out = &c->session.outs[i];

		stream_add(&c->stream, out->head, out->head_bytes);
		if (out->data_bytes)
			stream_add(&c->stream, out->data, out->data_bytes);
		if (out->tail_bytes)
			stream_add(&c->stream, out->tail, out->tail_bytes);
	}
	stream_send(&c->stream);
}
static_assert(ISCSI_OUTS_MAX * OUT_PIECES <= STREAM_IOV_MAX, "all that is gathered is sent");

static void
parse(struct iscsi_connection *c)
{
	uint32_t left_bytes;
	uint8_t *into;

	if (c->stream.receiving || c->phase != CONNECTION_LIVE)
		return;
	stream_consume(&c->stream, iscsi_session_input(&c->session, stream_input(&c->stream),
				       stream_input_bytes(&c->stream)));
	if (c->phase != CONNECTION_LIVE || iscsi_session_rests(&c->session))
		return;
	into = iscsi_session_payload(&c->session, &left_bytes);
	if (into)
		stream_receive_payload(&c->stream, into, left_bytes);
	else
		stream_receive(&c->stream);
}

static void
step_run(struct task *task)
{
	struct iscsi_connection *c = container_of(task, struct iscsi_connection, step);

	if (c->phase == CONNECTION_DEAD)
		return connection_end(c);
	send_some(c);
	parse(c);
}

static void
was_received(struct stream *stream, int32_t result)
{
	struct iscsi_connection *c = container_of(stream, struct iscsi_connection, stream);

	if (c->phase == CONNECTION_DEAD)
		return connection_end(c);
	if (result <= 0)
		return iscsi_connection_kill(c);
	c->received_ns = c->server->r->reactor.now_ns;
	if (stream->receives_into)
		iscsi_session_payload_received(&c->session, (size_t)result);
	parse(c);
}

static void
was_sent(struct stream *stream, int error)
{
	struct iscsi_connection *c = container_of(stream, struct iscsi_connection, stream);

	if (error || c->phase == CONNECTION_DEAD) {
		iscsi_connection_kill(c);
		return step_later(c);
	}
	iscsi_session_sent(&c->session);
	step_later(c); /* what waited for room */
}

static const struct stream_events stream_events = {
	.received = was_received,
	.sent = was_sent,
};

/* --- what the session asks for --- */

static struct iscsi_connection *
connection_of(struct iscsi_session *session)
{
	return container_of(session, struct iscsi_connection, session);
}

static enum iscsi_access
access_to(const struct iscsi_connection *c, const struct name *name)
{
	return iscsi_server_access(c->server, c->stream.fd, c->listener, name);
}

static void
open_done(struct target_open *open)
{
	struct iscsi_connection *c = container_of(open, struct iscsi_connection, open);

	c->asking = false;
	iscsi_session_opened(&c->session, open->error, open->volume);
	step_later(c);
}

static void
session_open(struct iscsi_session *session, const struct iscsi_grant *grant)
{
	struct iscsi_connection *c = connection_of(session);

	c->asking = true;
	c->open = (struct target_open){
		.name = grant->name,
		.readonly = grant->readonly,
		.client = c->peer,
		.note = NOTE_RESERVATIONS,
		.done = open_done,
	};
	target_open(c->server->config.target, &c->open);
}

/* What the rules of the configuration hide is not there. */
static void
hide_names(const struct iscsi_connection *c, struct target_names *names)
{
	size_t kept = 0;

	for (size_t i = 0; i < names->count; i++)
		if (access_to(c, &names->names[i]) != ISCSI_ACCESS_NONE)
			names->names[kept++] = names->names[i];
	names->count = kept;
}

static void
make_offer(const struct iscsi_connection *c, struct target_names *names, struct iscsi_offer *offer)
{
	const struct iscsi_session *session = &c->session;
	size_t kept = 0;

	hide_names(c, names);
	iscsi_offer_make(offer, names, c->server->config.default_targets, session->initiator.name,
	    session->params.discovery ? NULL : session->params.target_name);
	for (size_t i = 0; i < offer->count; i++) {
		struct iscsi_grant grant = offer->grants[i];
		enum iscsi_access access = access_to(c, &grant.name);

		grant.readonly = access == ISCSI_ACCESS_READ;
		if (access == ISCSI_ACCESS_NONE)
			iscsi_proof_free(grant.proof);
		else
			offer->grants[kept++] = grant;
	}
	offer->count = kept;
}

static void
names_done(struct target_names *names)
{
	struct iscsi_connection *c = container_of(names, struct iscsi_connection, names);
	struct iscsi_offer offer;

	c->asking = false;
	make_offer(c, names, &offer);
	target_names_fini(names);
	if (c->session.phase != ISCSI_PHASE_FULL) {
		iscsi_session_offered(&c->session, &offer);
	} else if (!iscsi_session_reoffered(&c->session, &offer)) {
		diag_info("%s: disconnected: its exports were changed", c->peer);
		iscsi_connection_kill(c);
	}
	step_later(c);
}

static void
session_offer(struct iscsi_session *session)
{
	struct iscsi_connection *c = connection_of(session);

	c->asking = true;
	c->exports_generation = target_exports_generation(c->server->config.target);
	c->names = (struct target_names){
		.with_exports = true,
		.snapshots = !session->params.discovery,
		.done = names_done,
	};
	target_names(c->server->config.target, &c->names);
}

static void
refuse_now(struct timer *timer)
{
	struct iscsi_connection *c = container_of(timer, struct iscsi_connection, refusal);

	iscsi_session_refuse(&c->session);
	step_later(c);
}

static void
session_refused(struct iscsi_session *session)
{
	struct iscsi_connection *c = connection_of(session);
	struct reactor *reactor = &c->server->r->reactor;
	uint64_t due_ns = c->received_ns + c->server->config.refusal_ms * 1000000ull;

	diag_info("%s: %s is refused %s", c->peer, session->initiator.name,
	    session->params.discovery ? "discovery" : session->params.target_name);
	reactor_timer_start(
	    reactor, &c->refusal, due_ns > reactor->now_ns ? due_ns - reactor->now_ns : 0);
}

static void
session_output(struct iscsi_session *session)
{
	step_later(connection_of(session));
}

static void
session_close(struct iscsi_session *session, bool flush)
{
	struct iscsi_connection *c = connection_of(session);

	(void)flush; /* it was sent when this is asked for */
	iscsi_connection_kill(c);
}

static void
session_idle(struct iscsi_session *session)
{
	struct iscsi_connection *c = connection_of(session);

	c->idle = true;
	step_later(c);
}

static const struct iscsi_session_events session_events = {
	.offer = session_offer,
	.open = session_open,
	.refused = session_refused,
	.output = session_output,
	.close = session_close,
	.idle = session_idle,
};

/* --- the beginning --- */

/* False: it is gone, and so is the connection. */
static bool
watch_peer(struct iscsi_connection *c)
{
	uint64_t now_ns = c->server->r->reactor.now_ns;
	uint64_t ping_ns = c->server->config.ping_ms * 1000000ull;

	iscsi_session_poll(&c->session);
	if (!c->stream.receiving || c->session.params.discovery) {
		c->received_ns = now_ns; /* we do not listen: it cannot be heard */
	} else if (c->session.pinged && now_ns - c->received_ns > 2 * ping_ns) {
		diag_info("%s: disconnected: it does not answer", c->peer);
		iscsi_connection_kill(c);
		return false;
	} else if (!c->session.pinged && now_ns - c->received_ns > ping_ns) {
		iscsi_session_ping(&c->session);
	}
	return true;
}

static void
watch(struct timer *timer)
{
	struct iscsi_connection *c = container_of(timer, struct iscsi_connection, watch);
	struct reactor *reactor = &c->server->r->reactor;
	uint64_t login_ns = c->server->config.login_timeout_ms * 1000000ull;

	if (c->session.phase < ISCSI_PHASE_FULL && reactor->now_ns - c->arrived_ns > login_ns) {
		diag_debug("%s: no login in time", c->peer);
		return iscsi_connection_kill(c);
	}
	if (c->stream.sending && reactor->now_ns - c->stream.progress_ns > STALL_NS) {
		diag_warning("%s: disconnected: it takes no answers", c->peer);
		return iscsi_connection_kill(c);
	}
	if (c->session.phase == ISCSI_PHASE_FULL && !watch_peer(c))
		return;
	if (c->session.phase == ISCSI_PHASE_FULL && !c->asking && !c->session.params.discovery &&
	    c->exports_generation != target_exports_generation(c->server->config.target))
		session_offer(&c->session);
	reactor_timer_start(reactor, timer, WATCH_PERIOD_NS);
}

/* What a client is told in TargetAddress: the address that it reached us at. */
static void
name_local_address(struct iscsi_connection *c)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	char host[64], port[8];

	if (getsockname(c->stream.fd, (struct sockaddr *)&address, &len) != 0 ||
	    getnameinfo((struct sockaddr *)&address, len, host, sizeof(host), port, sizeof(port),
		NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return;
	snprintf(c->session.local_address, sizeof(c->session.local_address),
	    address.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

struct iscsi_connection *
iscsi_connection_of(struct list *link)
{
	return container_of(link, struct iscsi_connection, link);
}

void
iscsi_connection_create(struct iscsi_server *server, int fd, const char *listener)
{
	struct iscsi_connection *c = xcalloc(1, sizeof(*c));

	c->server = server;
	c->listener = listener;
	stream_init(&c->stream, server->r, fd, INPUT_BYTES, &stream_events);
	stream_set_up_peer(&c->stream, "iscsi", c->peer);
	iscsi_session_init(&c->session, &server->portal, &session_events, c->peer);
	name_local_address(c);
	task_init(&c->step, step_run);
	timer_init(&c->watch, watch);
	timer_init(&c->refusal, refuse_now);
	c->arrived_ns = server->r->reactor.now_ns;
	reactor_timer_start(&server->r->reactor, &c->watch, WATCH_PERIOD_NS);
	list_push_back(&server->connections, &c->link);
	server->connection_count++;
	step_later(c);
}
