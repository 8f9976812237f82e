/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of TLS 1.3 the kernel must be told to encrypt what a socket sends (TLS_TX): keys, which
 * follow from the secret that OpenSSL agreed on (RFC 8446, 7.3), and records that are no data.
 * Knows no stream.
 */
#ifndef QUARRY_FRONTENDS_STREAM_TLS_KERNEL_H
#define QUARRY_FRONTENDS_STREAM_TLS_KERNEL_H

#include <linux/tls.h>
#include <sys/socket.h>

#include "core/base/util.h"

enum {
	TLS_SECRET_BYTES_MAX = 48, /* of SHA-384 */
	TLS_CONTROL_RECORD_BYTES_MAX = 8,
	TLS_RECORD_ALERT = 21,
	TLS_RECORD_HANDSHAKE = 22,
};

/* A traffic secret of the server; keys follow from it, and so does the next one. */
struct tls_secret {
	uint8_t bytes[TLS_SECRET_BYTES_MAX];
	uint8_t len_bytes; /* as long as the cipher's hash; 0: none is known */
};

/* As setsockopt(TLS_TX) takes it, the first record being number 0. */
struct tls_keys {
	union {
		struct tls_crypto_info info;
		struct tls12_crypto_info_aes_gcm_128 aes_128;
		struct tls12_crypto_info_aes_gcm_256 aes_256;
		struct tls12_crypto_info_chacha20_poly1305 chacha20;
	};
	socklen_t len_bytes;
};

/* Takes the secret out of a line that OpenSSL would log for a debugger; other lines change nothing.
 */
void tls_secret_from_keylog(struct tls_secret *secret, const char *line);
/* The secret that a KeyUpdate puts in its place. */
void tls_secret_update(struct tls_secret *secret);

/* Keys for @cipher_id, as SSL_CIPHER_get_protocol_id() numbers it; false: not a cipher that the
 * kernel may have, or not its secret. */
bool tls_keys_derive(
    struct tls_keys *keys, const struct tls_secret *secret, uint16_t cipher_id) must_check;

/* Whether the kernel has TLS; it loads the module if it may. */
bool tls_kernel_is_there(void);
/* Lets the kernel encrypt what @fd sends from now on; a negative errno value: nothing changed.
 * tls_socket_set_keys() does so again, with the keys behind a KeyUpdate (Linux 6.14). */
int tls_socket_take_over(int fd, const struct tls_keys *keys) must_check;
int tls_socket_set_keys(int fd, const struct tls_keys *keys) must_check;

/* A record that is no data, as sendmsg() takes it. */
struct tls_control_record {
	struct msghdr message;
	struct iovec iov;
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(1)];
	uint8_t bytes[TLS_CONTROL_RECORD_BYTES_MAX];
};

void tls_control_record_init(
    struct tls_control_record *record, uint8_t type, const void *bytes, size_t len_bytes);

#endif
