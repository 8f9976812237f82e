/* SPDX-License-Identifier: Apache-2.0 */
/* One accepted byte stream; see stream_connection.h for the contract. */
#include "frontends/stream/stream_connection.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "frontends/stream/stream_tls.h"

enum {
	/* After such a payload the next one is expected: do not take much of it into the input. */
	INPUT_BYTES_BETWEEN_PAYLOADS = 4096,
};

/* --- receiving --- */

size_t
stream_take(struct stream *stream, void *into, size_t len_bytes)
{
	len_bytes = min_u64(len_bytes, stream_input_bytes(stream));
	if (len_bytes)
		memcpy(into, stream_input(stream), len_bytes);
	stream_consume(stream, len_bytes);
	return len_bytes;
}

static void
submit_receive(struct stream *stream, void *into, uint32_t len_bytes, int flags)
{
	struct io_uring_sqe *sqe;

	stream->receiving = true;
	if (stream->tls) {
		stream_tls_receive(stream, into, len_bytes);
		return;
	}
	sqe = reactor_uring_sqe(stream->r, &stream->receive_op);
	io_uring_prep_recv(sqe, stream->fd, into, len_bytes, flags);
	if (stream->poll_first && stream->poll_first_works)
		sqe->ioprio = IORING_RECVSEND_POLL_FIRST;
}

static void
receive_input(struct stream *stream)
{
	uint32_t space;

	if (stream->input_at) { /* what is left is less than what is parsed as a whole */
		memmove(stream->input, stream_input(stream), stream_input_bytes(stream));
		stream->input_end -= stream->input_at;
		stream->input_at = 0;
	}
	space = stream->input_bytes - stream->input_end;
	CHECK(space > 0);
	if (stream->between_payloads)
		space = (uint32_t)min_u64(space, INPUT_BYTES_BETWEEN_PAYLOADS);
	stream->between_payloads = false;
	submit_receive(stream, stream->input + stream->input_end, space, 0);
}

void
stream_receive_payload(struct stream *stream, void *into, uint32_t left_bytes)
{
	CHECK(!stream->receiving);
	stream->into = into;
	stream->into_bytes = left_bytes;
	stream->receives_into = left_bytes >= STREAM_DIRECT_BYTES_MIN;
	if (!stream->receives_into) {
		receive_input(stream);
		return;
	}
	stream->between_payloads = true;
	submit_receive(stream, into, left_bytes, MSG_WAITALL);
}

void
stream_receive(struct stream *stream)
{
	stream_receive_payload(stream, NULL, 0);
}

/* A failure that says only to try again. */
static bool
receive_retries(struct stream *stream, int32_t result)
{
	if (result == -EINVAL && stream->poll_first && stream->poll_first_works) {
		stream->poll_first_works = false;
		return true;
	}
	return result == -EINTR || result == -EAGAIN;
}

void
stream_received(struct stream *stream, int32_t result)
{
	stream->receiving = false;
	stream->progress_ns = stream->r->reactor.now_ns;
	if (result > 0 && !stream->receives_into)
		stream->input_end += (uint32_t)result;
	stream->events->received(stream, result);
}

static void
receive_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct stream *stream = container_of(op, struct stream, receive_op);

	stream->poll_first = !(cqe_flags & IORING_CQE_F_SOCK_NONEMPTY);
	if (!stream->shut && result < 0 && receive_retries(stream, result)) {
		stream->receiving = false;
		stream_receive_payload(stream, stream->into, stream->into_bytes);
		return;
	}
	stream_received(stream, result);
}

/* --- sending --- */

static void send_done(struct uring_op *op, int32_t result, uint32_t cqe_flags);

void
stream_send_as_is(struct stream *stream, int flags)
{
	stream->send_op.done = send_done;
	io_uring_prep_sendmsg(reactor_uring_sqe(stream->r, &stream->send_op), stream->fd,
	    &stream->message, (unsigned)(flags | MSG_NOSIGNAL));
}

static void
submit_send(struct stream *stream)
{
	stream->sending = true;
	if (stream->tls)
		stream_tls_send(stream);
	else
		stream_send_as_is(stream, MSG_WAITALL);
}

void
stream_send(struct stream *stream)
{
	CHECK(!stream->sending);
	if (stream->send_left_bytes == 0)
		return;
	stream->progress_ns = stream->r->reactor.now_ns;
	submit_send(stream);
}

/* A send that was cut short goes on behind what was taken. */
static void
skip_sent(struct stream *stream, size_t len_bytes)
{
	stream->send_left_bytes -= len_bytes;
	while (len_bytes >= stream->message.msg_iov->iov_len) {
		len_bytes -= stream->message.msg_iov->iov_len;
		stream->message.msg_iov++;
		stream->message.msg_iovlen--;
	}
	stream->message.msg_iov->iov_base = (char *)stream->message.msg_iov->iov_base + len_bytes;
	stream->message.msg_iov->iov_len -= len_bytes;
}

void
stream_sent(struct stream *stream, int32_t result)
{
	stream->sending = false;
	stream->progress_ns = stream->r->reactor.now_ns;
	stream->events->sent(stream, result > 0 ? 0 : result < 0 ? result : -EPIPE);
}

static void
send_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct stream *stream = container_of(op, struct stream, send_op);
	bool again = result == -EINTR || result == -EAGAIN;

	(void)cqe_flags;
	if (!stream->shut && (again || (result > 0 && (size_t)result < stream->send_left_bytes))) {
		if (!again) {
			stream->progress_ns = stream->r->reactor.now_ns;
			skip_sent(stream, (size_t)result);
		}
		submit_send(stream);
		return;
	}
	stream_sent(stream, result);
}

/* --- the end --- */

void
stream_shutdown_receive(struct stream *stream)
{
	if (stream->receiving)
		shutdown(stream->fd, SHUT_RD);
}

void
stream_shutdown(struct stream *stream)
{
	stream->shut = true;
	shutdown(stream->fd, SHUT_RDWR);
}

void
stream_fini(struct stream *stream)
{
	CHECK(stream_idle(stream));
	if (stream->tls)
		stream_tls_fini(stream);
	close(stream->fd);
	free(stream->input);
}

/* --- the beginning --- */

static void
set_socket_options(int fd)
{
	static const struct {
		int level;
		int name;
		int value;
	} values[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		/* A peer that lost its power is noticed within two minutes. */
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 60 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 10 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 6 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		(void)setsockopt(
		    fd, values[i].level, values[i].name, &values[i].value, sizeof(int));
}

void
stream_set_up_peer(const struct stream *stream, const char *protocol, char name[STREAM_PEER_BYTES])
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	char host[64];
	char port[8];

	snprintf(name, STREAM_PEER_BYTES, "%s unix", protocol);
	if (getpeername(stream->fd, (struct sockaddr *)&address, &len) != 0 ||
	    (address.ss_family != AF_INET && address.ss_family != AF_INET6))
		return;
	set_socket_options(stream->fd);
	if (getnameinfo((struct sockaddr *)&address, len, host, sizeof(host), port, sizeof(port),
		NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		snprintf(name, STREAM_PEER_BYTES,
		    address.ss_family == AF_INET6 ? "%s [%s]:%s" : "%s %s:%s", protocol, host,
		    port);
}

void
stream_init(struct stream *stream, struct reactor_uring *r, int fd, uint32_t input_bytes,
    const struct stream_events *events)
{
	*stream = (struct stream){
		.r = r,
		.events = events,
		.fd = fd,
		.poll_first_works = true,
		.receive_op.done = receive_done,
		.send_op.done = send_done,
		.input = xmalloc(input_bytes),
		.input_bytes = input_bytes,
	};
}
