/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS 1.2 and 1.3 under a byte stream, by OpenSSL on memory BIOs: never a call that waits.
 *
 * A stream is secured once, when its owner's protocol says so (stream_tls_start()); from then on
 * stream_receive… and stream_send mean plaintext, with the contract of stream_connection.h.  What
 * the network brings is decrypted into the same places, what goes out is encrypted in pieces of
 * OUT_BYTES.  A stream that was never secured pays one comparison with NULL for it.
 *
 * Where the kernel can encrypt what a TLS 1.3 socket sends (TLS_TX), it does so, and what is sent
 * is handed to the socket as it is; what is received is OpenSSL's still.
 *
 * Refused: versions before 1.2, compression, renegotiation; sessions are not resumed, so that each
 * connection shows who it is anew.
 *
 * Credentials lie in files as nbdkit and qemu name them: ca-cert.pem, ca-crl.pem, server-cert.pem
 * and server-key.pem in one folder, and a PSK file of lines `user:hexkey`.
 */
#ifndef QUARRY_FRONTENDS_STREAM_TLS_H
#define QUARRY_FRONTENDS_STREAM_TLS_H

#include "core/base/error.h"
#include "frontends/stream/stream_connection.h"

#define STREAM_TLS_NAME_BYTES 256

struct stream_tls_context;

struct stream_tls_config {
	const char *certificates; /* a folder; NULL: none */
	const char *psk_file;     /* NULL: none; one of both at least */
	bool verify_peer;         /* a client without a certificate of ours (or a key) is refused */
	bool kernel;              /* the kernel encrypts what is sent, if it can */
};

/* Reads the files: blocking.  0, or a negative errno value with a text for the operator. */
int stream_tls_context_create(const struct stream_tls_config *config,
    struct stream_tls_context **out, struct error *error) must_check;
/* Reads the files again: blocking, from any thread.  Handshakes that begin later use what they say
 * now; if they cannot be used, all stays as it is. */
int stream_tls_context_reload(struct stream_tls_context *context, struct error *error) must_check;
void stream_tls_context_free(struct stream_tls_context *context);

/*
 * Begins the handshake, as the server; the stream is idle and its input empty.  events->secured()
 * comes when it is done (0), or failed (a negative errno value; the stream can then only be ended).
 * The owner bounds it in time, and may end it as any receive.
 */
void stream_tls_start(struct stream *stream, struct stream_tls_context *context);

/* Who the peer has shown to be: its certificate's common name, or its PSK user name; "": nobody. */
const char *stream_tls_peer_name(const struct stream *stream);
/* Version, cipher and who encrypts what is sent, for the log. */
const char *stream_tls_describe(const struct stream *stream, char text[96]);

/* --- for stream_connection.c alone --- */

void stream_tls_receive(struct stream *stream, void *into, uint32_t len_bytes);
void stream_tls_send(struct stream *stream);
void stream_tls_fini(struct stream *stream);

#endif
