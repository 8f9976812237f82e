/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One secured stream; see stream_tls.h.
 *
 *   start ─► handshake: accept ⇄ { send what it says, receive what it lacks } ─► secured()
 *   receive:  decrypt what is here; nothing: receive, decrypt … ─► received()
 *   send:     encrypt a few records, send them, until all that was gathered is out ─► sent()
 *             or, if the kernel encrypts: { new keys, if the peer asked for them }, send as it is
 *
 * The kernel takes over when the handshake is done, before anything was sent with the keys that it
 * gets: from then on only it may use them, since no two records may have the same number.  So what
 * OpenSSL writes after that, an alert, is thrown away, and sent again through the kernel.
 *
 * Invariants:
 *   - the ciphertext that the ring sends lies in to_send, which nothing touches meanwhile;
 *   - at most one receive's bytes wait in the BIO: more are received only when OpenSSL lacks some;
 *   - an alert that ends it all is sent if the socket takes it at once, else left;
 *   - what is to be sent is moved out of its BIO at once: nothing gathers there but a few
 *     KEY_UPDATES_BYTES_MAX of new keys;
 *   - the kernel's keys change between two sends, never within one.
 */
#include "frontends/stream/stream_tls_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include <openssl/err.h>

#include "core/base/diag.h"

static void handshake_step(struct stream *stream);
static void submit_key_update(struct stream *stream);

/* --- ciphertext to and from the ring --- */

static void
submit_receive(struct stream *stream)
{
	io_uring_prep_recv(reactor_uring_sqe(stream->r, &stream->receive_op), stream->fd,
	    stream->tls->received, IN_BYTES, 0);
}

static void
submit_send(struct stream *stream)
{
	struct stream_tls *tls = stream->tls;

	io_uring_prep_send(reactor_uring_sqe(stream->r, &stream->send_op), stream->fd,
	    tls->buffers->to_send + tls->send_at, tls->send_end - tls->send_at,
	    MSG_WAITALL | MSG_NOSIGNAL);
}

/* Moves what OpenSSL wants to say behind what is to be sent. */
static void
move_out(struct stream_tls *tls)
{
	int n = BIO_read(
	    tls->out, tls->buffers->to_send + tls->send_end, (int)(OUT_BYTES - tls->send_end));

	if (n > 0)
		tls->send_end += (uint32_t)n;
}

/* The last words, if the socket takes them at once. */
static void
say_farewell(struct stream *stream)
{
	struct stream_tls *tls = stream->tls;

	if (stream->sending || stream->shut)
		return; /* it would land within a record */
	if (!tls->buffers) {
		(void)BIO_reset(tls->out);
		if (tls->alert[0]) {
			tls_control_record_init(&tls->record, TLS_RECORD_ALERT, tls->alert, 2);
			(void)sendmsg(
			    stream->fd, &tls->record.message, MSG_DONTWAIT | MSG_NOSIGNAL);
		}
		return;
	}
	tls->send_at = tls->send_end = 0;
	move_out(tls);
	if (tls->send_end)
		(void)send(
		    stream->fd, tls->buffers->to_send, tls->send_end, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* --- decrypting --- */

/* > 0: so many bytes, 0: the peer's end, -EAGAIN: more must be received, or another error. */
static int32_t
decrypt(struct stream *stream)
{
	struct stream_tls *tls = stream->tls;
	uint32_t done = 0;
	int n;

	ERR_clear_error();
	do {
		n = SSL_read(tls->ssl, (char *)tls->into + done, (int)(tls->into_bytes - done));
		if (n > 0)
			done += (uint32_t)n;
	} while (n > 0 && done < tls->into_bytes);
	/*
	 * What OpenSSL says when it reads: that a renegotiation is refused, which ends it, or (TLS
	 * 1.3) its new keys, if they are asked for again before anything was sent.  Those go with
	 * what is sent next; who goes on asking is not heard, since they must not gather.
	 */
	if (!tls->buffers)
		(void)BIO_reset(tls->out); /* the kernel's keys are other ones */
	if (BIO_ctrl_pending(tls->out) >
	    (SSL_version(tls->ssl) == TLS1_3_VERSION ? KEY_UPDATES_BYTES_MAX : 0)) {
		say_farewell(stream);
		return -EBADMSG;
	}
	if (done)
		return (int32_t)done;
	switch (SSL_get_error(tls->ssl, n)) {
	case SSL_ERROR_WANT_READ:
		return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	default:
		say_farewell(stream);
		return -EBADMSG;
	}
}

static void
deliver(struct task *task)
{
	struct stream_tls *tls = container_of(task, struct stream_tls, deliver_task);

	stream_received(SSL_get_app_data(tls->ssl), tls->result);
}

void
stream_tls_receive(struct stream *stream, void *into, uint32_t len_bytes)
{
	struct stream_tls *tls = stream->tls;

	tls->into = into;
	tls->into_bytes = len_bytes;
	tls->result = decrypt(stream);
	if (tls->result == -EAGAIN)
		submit_receive(stream);
	else
		reactor_defer(&stream->r->reactor, &tls->deliver_task);
}

/* Takes what came from the network; false: nothing did, and @result says why. */
static bool
take_received(struct stream *stream, int32_t *result)
{
	struct stream_tls *tls = stream->tls;

	if (!stream->shut && (*result == -EINTR || *result == -EAGAIN)) {
		submit_receive(stream);
		*result = -EAGAIN;
		return false;
	}
	if (*result <= 0)
		return false;
	stream->progress_ns = stream->r->reactor.now_ns;
	CHECK(BIO_write(tls->in, tls->received, *result) == *result);
	return true;
}

static void
receive_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct stream *stream = container_of(op, struct stream, receive_op);

	(void)cqe_flags;
	if (take_received(stream, &result)) {
		result = decrypt(stream);
		if (result == -EAGAIN && !stream->shut)
			submit_receive(stream);
	}
	if (result != -EAGAIN || stream->shut)
		stream_received(stream, result);
}

/* --- encrypting --- */

/* The next piece of what was gathered, as one record takes it. */
static size_t
take_plain(struct stream *stream, const void **bytes)
{
	struct stream_tls *tls = stream->tls;
	size_t len_bytes = 0;

	*bytes = tls->buffers->plain;
	while (stream->send_left_bytes && len_bytes < RECORD_BYTES) {
		struct iovec *iov = stream->message.msg_iov;
		size_t n = min_u64(iov->iov_len, RECORD_BYTES - len_bytes);

		if (n == RECORD_BYTES) /* a record of its own, from where it is */
			*bytes = iov->iov_base;
		else if (n)
			memcpy(tls->buffers->plain + len_bytes, iov->iov_base, n);
		len_bytes += n;
		iov->iov_base = (char *)iov->iov_base + n;
		iov->iov_len -= n;
		stream->send_left_bytes -= n;
		if (iov->iov_len == 0)
			stream->message.msg_iov++;
	}
	return len_bytes;
}

/* Encrypts as much as fits; false: OpenSSL cannot. */
static bool
encrypt(struct stream *stream)
{
	struct stream_tls *tls = stream->tls;

	tls->send_at = tls->send_end = 0;
	while (stream->send_left_bytes && tls->send_end + RECORD_ROOM_BYTES <= OUT_BYTES) {
		const void *bytes;
		size_t len_bytes = take_plain(stream, &bytes);

		ERR_clear_error();
		if (SSL_write(tls->ssl, bytes, (int)len_bytes) != (int)len_bytes)
			return false;
		move_out(tls);
	}
	return true;
}

/* From stream_send(): something was gathered.  What cannot be encrypted is found out later. */
void
stream_tls_send(struct stream *stream)
{
	struct stream_tls *tls = stream->tls;

	if (!tls->buffers && tls->keys_wanted) {
		submit_key_update(stream);
	} else if (!tls->buffers) {
		stream_send_as_is(stream, 0); /* TLS_TX knows no MSG_WAITALL */
	} else {
		if (!encrypt(stream))
			stream_shutdown(stream); /* the send fails */
		submit_send(stream);
	}
}

/* A send ended; true: it was cut short and goes on. */
static bool
send_goes_on(struct stream *stream, int32_t result)
{
	struct stream_tls *tls = stream->tls;

	if (stream->shut)
		return false;
	if (result > 0)
		tls->send_at += (uint32_t)result;
	else if (result != -EINTR && result != -EAGAIN)
		return false;
	if (tls->send_at == tls->send_end)
		return false;
	stream->progress_ns = stream->r->reactor.now_ns;
	submit_send(stream);
	return true;
}

static void
send_done(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct stream *stream = container_of(op, struct stream, send_op);

	(void)cqe_flags;
	if (send_goes_on(stream, result))
		return;
	if (result > 0 && !stream->shut && stream->send_left_bytes) {
		stream->progress_ns = stream->r->reactor.now_ns;
		stream_tls_send(stream);
		return;
	}
	stream_sent(stream, result);
}

/* --- the kernel encrypts --- */

/* What OpenSSL says and hears beside data. */
static void
message_seen(
    int sent, int version, int type, const void *message, size_t len_bytes, SSL *ssl, void *arg)
{
	struct stream *stream = SSL_get_app_data(ssl);
	const uint8_t *bytes = message;

	(void)version;
	(void)arg;
	if (sent && type == SSL3_RT_ALERT && len_bytes == 2)
		memcpy(stream->tls->alert, bytes, 2);
	/* KeyUpdate: its type, three bytes of length, whether it asks for ours */
	if (!sent && type == SSL3_RT_HANDSHAKE && len_bytes == 5 && bytes[0] == SSL3_MT_KEY_UPDATE)
		stream->tls->keys_wanted |= bytes[4] == SSL_KEY_UPDATE_REQUESTED;
}

static bool
derive_keys(struct stream_tls *tls, struct tls_keys *keys)
{
	return tls_keys_derive(
	    keys, &tls->secret, SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(tls->ssl)));
}

/* The handshake is done.  Whoever cannot be served so goes on with OpenSSL. */
static void
let_kernel_encrypt(struct stream_tls *tls, int fd)
{
	struct tls_keys keys;

	if (tls->secret.len_bytes == 0 || SSL_version(tls->ssl) != TLS1_3_VERSION)
		return; /* not so wished, or an older version */
	/* The kernel knows of no limit but the protocol's. */
	if (SSL_SESSION_get_max_fragment_length(SSL_get_session(tls->ssl)))
		return;
	if (derive_keys(tls, &keys) && tls_socket_take_over(fd, &keys) == 0) {
		SSL_set_msg_callback(tls->ssl, message_seen);
		free(tls->buffers);
		tls->buffers = NULL;
	}
	OPENSSL_cleanse(&keys, sizeof(keys));
}

/* Our KeyUpdate went out, the last record with the old keys. */
static void
key_update_sent(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct stream *stream = container_of(op, struct stream, send_op);
	struct stream_tls *tls = stream->tls;
	struct tls_keys keys;

	(void)cqe_flags;
	if (!stream->shut && (result == -EINTR || result == -EAGAIN)) {
		submit_key_update(stream);
		return;
	}
	if (result > 0) {
		tls->keys_wanted = false;
		tls_secret_update(&tls->secret);
		CHECK(derive_keys(tls, &keys));
		result = tls_socket_set_keys(stream->fd, &keys);
		OPENSSL_cleanse(&keys, sizeof(keys));
		if (result < 0)
			diag_info("a client asks for new keys on the way, which kernel TLS has "
				  "since Linux 6.14 (\"tls-kernel off\" does without it): %s",
			    strerror(-result));
	}
	if (result == 0 && !stream->shut) {
		stream_send_as_is(stream, 0);
		return;
	}
	stream_shutdown(stream); /* nothing more may be sent, with the old keys or without */
	stream_sent(stream, result);
}

static void
submit_key_update(struct stream *stream)
{
	static const uint8_t message[] = { SSL3_MT_KEY_UPDATE, 0, 0, 1,
		SSL_KEY_UPDATE_NOT_REQUESTED };
	struct stream_tls *tls = stream->tls;

	tls_control_record_init(&tls->record, TLS_RECORD_HANDSHAKE, message, sizeof(message));
	stream->send_op.done = key_update_sent;
	io_uring_prep_sendmsg(reactor_uring_sqe(stream->r, &stream->send_op), stream->fd,
	    &tls->record.message, MSG_NOSIGNAL);
}

/* --- the handshake --- */

static void
remember_peer(struct stream_tls *tls)
{
	const SSL_CIPHER *cipher = SSL_get_current_cipher(tls->ssl);
	X509 *certificate = SSL_get0_peer_certificate(tls->ssl);
	const X509_NAME *subject;
	unsigned char *text = NULL;
	int at, len;

	/* A named key was used, and so proven, if it is what the handshake rests on. */
	if (tls->psk && (SSL_version(tls->ssl) >= TLS1_3_VERSION
				? SSL_session_reused(tls->ssl)
				: SSL_CIPHER_get_auth_nid(cipher) == NID_auth_psk))
		memcpy(tls->peer_name, tls->psk->name, sizeof(tls->peer_name));
	if (!certificate || SSL_get_verify_result(tls->ssl) != X509_V_OK)
		return;
	subject = X509_get_subject_name(certificate);
	at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	if (at < 0)
		return;
	len =
	    ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	if (len > 0 && len < (int)sizeof(tls->peer_name) && !memchr(text, 0, (size_t)len))
		memcpy(tls->peer_name, text, (size_t)len); /* the rest is zero */
	OPENSSL_free(text);
}

static void
handshake_end(struct stream *stream, int error)
{
	struct stream_tls *tls = stream->tls;

	tls->announced = true;
	stream->receiving = false;
	stream->sending = false;
	if (error) {
		say_farewell(stream);
	} else {
		remember_peer(tls);
		let_kernel_encrypt(tls, stream->fd);
		stream->receive_op.done = receive_done;
		stream->send_op.done = send_done;
	}
	stream->events->secured(stream, error);
}

static void
handshake_received(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct stream *stream = container_of(op, struct stream, receive_op);

	(void)cqe_flags;
	if (take_received(stream, &result)) {
		stream->receiving = false;
		handshake_step(stream);
	} else if (result != -EAGAIN || stream->shut) {
		handshake_end(stream, result < 0 ? result : -ECONNRESET);
	}
}

static void
handshake_sent(struct uring_op *op, int32_t result, uint32_t cqe_flags)
{
	struct stream *stream = container_of(op, struct stream, send_op);

	(void)cqe_flags;
	if (send_goes_on(stream, result))
		return;
	stream->sending = false;
	if (result <= 0 || stream->shut)
		handshake_end(stream, result < 0 ? result : -ECONNRESET);
	else
		handshake_step(stream);
}

static void
handshake_step(struct stream *stream)
{
	struct stream_tls *tls = stream->tls;
	int rc;

	ERR_clear_error();
	rc = SSL_accept(tls->ssl);
	if (rc != 1 && SSL_get_error(tls->ssl, rc) != SSL_ERROR_WANT_READ) {
		handshake_end(stream, -EPROTO);
		return;
	}
	tls->send_at = tls->send_end = 0;
	move_out(tls);
	if (rc == 1 && tls->send_end)
		tls->secret.len_bytes =
		    0; /* its keys are in use, and the kernel would count from 0 */
	if (tls->send_end) {
		stream->sending = true;
		submit_send(stream);
	} else if (rc == 1) {
		handshake_end(stream, 0);
	} else {
		stream->receiving = true;
		submit_receive(stream);
	}
}

void
stream_tls_start(struct stream *stream, struct stream_tls_context *context)
{
	struct stream_tls *tls = xcalloc(1, sizeof(*tls));

	CHECK(stream_idle(stream) && stream_input_bytes(stream) == 0 && !stream->tls);
	stream->tls = tls;
	tls->credentials = stream_tls_credentials_get(context);
	tls->buffers = xcalloc(1, sizeof(*tls->buffers));
	tls->ssl = SSL_new(tls->credentials->ctx);
	tls->in = BIO_new(BIO_s_mem());
	tls->out = BIO_new(BIO_s_mem());
	CHECK(tls->ssl && tls->in && tls->out);
	SSL_set_app_data(tls->ssl, stream);
	SSL_set_bio(tls->ssl, tls->in, tls->out);
	task_init(&tls->deliver_task, deliver);
	stream->receive_op.done = handshake_received;
	stream->send_op.done = handshake_sent;
	handshake_step(stream); /* lacks the client's first words, so it only receives */
}

/* --- what is known, and the end --- */

const char *
stream_tls_peer_name(const struct stream *stream)
{
	return stream->tls ? stream->tls->peer_name : "";
}

const char *
stream_tls_describe(const struct stream *stream, char text[96])
{
	const SSL *ssl = stream->tls->ssl;
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());

	if (SSL_is_init_finished(ssl))
		snprintf(text, 96, "%s, %s, sends encrypted by %s", SSL_get_version(ssl),
		    SSL_get_cipher_name(ssl), stream->tls->buffers ? "OpenSSL" : "the kernel");
	else
		snprintf(text, 96, "%s", reason ? reason : "the client went away");
	return text;
}

void
stream_tls_fini(struct stream *stream)
{
	struct stream_tls *tls = stream->tls;

	if (SSL_is_init_finished(tls->ssl) && SSL_shutdown(tls->ssl) == 0)
		say_farewell(stream);
	ERR_clear_error();
	SSL_free(tls->ssl); /* and its BIOs */
	stream_tls_credentials_put(tls->credentials);
	if (tls->buffers)
		explicit_bzero(tls->buffers->plain, sizeof(tls->buffers->plain));
	free(tls->buffers);
	explicit_bzero(&tls->secret, sizeof(tls->secret));
	free(tls);
}
