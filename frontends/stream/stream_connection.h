/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One accepted byte stream on a reactor: what every frontend needs below its protocol.
 *
 * The contract:
 *   - at most one receive and one send are in the ring; the owner starts both, and hears of each
 *     end exactly once, from the reactor's loop, never inside the call that started it;
 *   - received bytes wait in one fixed input until they are consumed; a payload is received
 *     straight into the owner's memory (stream_receive_payload()), what of it the input already has
 *     is copied there by stream_take();
 *   - what goes out is gathered by stream_add() and handed to one sendmsg; the bytes are the
 *     owner's, who keeps them until sent().  sent() comes when all of it is with the kernel;
 *   - nothing is allocated, copied or called for each request beyond that.
 *
 * The owner embeds the stream, belongs to its reactor, and calls stream_fini() when stream_idle().
 * stream_init() and stream_set_up_peer() may run on another reactor before the stream is handed
 * over.
 */
#ifndef QUARRY_FRONTENDS_STREAM_CONNECTION_H
#define QUARRY_FRONTENDS_STREAM_CONNECTION_H

#include <sys/socket.h>

#include "core/reactor_uring.h"

#define STREAM_IOV_MAX 512u
#define STREAM_SEND_BYTES_MAX (2 * MIB)
#define STREAM_PEER_BYTES 96
/* What is left of a payload is received straight into its buffer from this size on. */
#define STREAM_DIRECT_BYTES_MIN (16 * KIB)

struct stream;

struct stream_events {
	/* A receive ended.  @result: > 0, that many bytes came, into the input, or where
	 * stream_receive_payload() said; 0, the peer sends no more; else a negative errno value. */
	void (*received)(struct stream *stream, int32_t result);
	/* All that was gathered went out (0), or the stream can send no more. */
	void (*sent)(struct stream *stream, int error);
	/* What stream_tls_start() began is done (0) or failed; NULL: the owner never calls it. */
	void (*secured)(struct stream *stream, int error);
};

struct stream {
	struct reactor_uring *r;
	struct stream_tls *tls; /* NULL: plaintext; see stream_tls.h */
	const struct stream_events *events;
	int fd;
	bool receiving;
	bool sending;
	bool receives_into;    /* the present receive goes to the owner's memory */
	bool poll_first;       /* the socket was empty after the last receive */
	bool poll_first_works; /* Linux 5.19 */
	bool between_payloads; /* the last receive was of a large payload: another may follow */
	bool shut;             /* a cut-short send is not continued */
	uint64_t progress_ns;  /* when the peer last took or gave something */

	/* input[input_at .. input_end) is not consumed yet */
	struct uring_op receive_op;
	uint8_t *input;
	uint32_t input_bytes;
	uint32_t input_at;
	uint32_t input_end;
	void *into;
	uint32_t into_bytes;

	struct uring_op send_op;
	size_t send_left_bytes;
	struct msghdr message;
	struct iovec iov[STREAM_IOV_MAX];
};

/* Takes over @fd; the input holds @input_bytes: the longest thing that is parsed as a whole. */
void stream_init(struct stream *stream, struct reactor_uring *r, int fd, uint32_t input_bytes,
    const struct stream_events *events);
/* Closes the socket; the stream is idle. */
void stream_fini(struct stream *stream);

/* "nbd 192.0.2.1:4711", "nbd unix"; sets what TCP sockets need (no delay, keepalive). */
void stream_set_up_peer(
    const struct stream *stream, const char *protocol, char name[STREAM_PEER_BYTES]);

/* Unconsumed input. */
static inline const uint8_t *
stream_input(const struct stream *stream)
{
	return stream->input + stream->input_at;
}

static inline uint32_t
stream_input_bytes(const struct stream *stream)
{
	return stream->input_end - stream->input_at;
}

static inline void
stream_consume(struct stream *stream, size_t len_bytes)
{
	CHECK(len_bytes <= stream_input_bytes(stream));
	stream->input_at += (uint32_t)len_bytes;
}

/* Copies at most @len_bytes out of the input; how many. */
size_t stream_take(struct stream *stream, void *into, size_t len_bytes);

/* Receives more input; there is room for it, and no receive is under way. */
void stream_receive(struct stream *stream);
/*
 * Receives what is missing of a payload, of which the input has nothing: large ones straight into
 * @into (stream->receives_into tells in received(), the bytes count there), small ones into the
 * input, so that what follows comes along.
 */
void stream_receive_payload(struct stream *stream, void *into, uint32_t left_bytes);

/* Gathers; not while a send is under way. */
static inline void
stream_gather(struct stream *stream)
{
	CHECK(!stream->sending);
	stream->message = (struct msghdr){ .msg_iov = stream->iov };
	stream->send_left_bytes = 0;
}

/* Whether @pieces more may be added to what is gathered. */
static inline bool
stream_has_room(const struct stream *stream, size_t pieces)
{
	return stream->message.msg_iovlen + pieces <= STREAM_IOV_MAX &&
	       stream->send_left_bytes < STREAM_SEND_BYTES_MAX;
}

static inline void
stream_add(struct stream *stream, const void *bytes, size_t len_bytes)
{
	stream->iov[stream->message.msg_iovlen++] =
	    (struct iovec){ .iov_base = (void *)(uintptr_t)bytes, .iov_len = len_bytes };
	stream->send_left_bytes += len_bytes;
}

/* Sends what was gathered; nothing if that is nothing. */
void stream_send(struct stream *stream);

/* No more input: ends the receive that is under way. */
void stream_shutdown_receive(struct stream *stream);
/* The socket is of no more use: ends both. */
void stream_shutdown(struct stream *stream);

/* --- for stream_tls.c alone --- */

/* Hands what was gathered to the socket as it is, with MSG_NOSIGNAL and @flags. */
void stream_send_as_is(struct stream *stream, int flags);
/* The ends of what it did in the place of the ring. */
void stream_received(struct stream *stream, int32_t result);
void stream_sent(struct stream *stream, int32_t result);

/* Nothing is in the ring. */
static inline bool
stream_idle(const struct stream *stream)
{
	return !stream->receiving && !stream->sending;
}

#endif
