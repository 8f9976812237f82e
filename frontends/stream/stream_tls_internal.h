/* SPDX-License-Identifier: Apache-2.0 */
/* What the two files of TLS share: the credentials of a server, and the state of a stream. */
#ifndef QUARRY_FRONTENDS_STREAM_TLS_INTERNAL_H
#define QUARRY_FRONTENDS_STREAM_TLS_INTERNAL_H

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "frontends/stream/stream_tls.h"
#include "frontends/stream/stream_tls_kernel.h"

enum {
	PATH_BYTES = 4096,
	RECORD_BYTES = 16384,              /* of plaintext; the protocol's longest */
	RECORD_ROOM_BYTES = 17 * 1024,     /* what such a record is at most when encrypted */
	KEY_UPDATES_BYTES_MAX = 512,       /* what may stand before the first one of a send */
	IN_BYTES = 32 * 1024,              /* received at once */
	OUT_BYTES = 6 * RECORD_ROOM_BYTES, /* sent at once */
};

struct stream_tls_psk {
	char name[STREAM_TLS_NAME_BYTES];
	uint8_t key[64];
	uint8_t key_bytes;
};

static_assert(RECORD_BYTES + 256 + KEY_UPDATES_BYTES_MAX <= RECORD_ROOM_BYTES, "RFC 8446, 5.2");

/* Not changed after they were read; shared by all reactors. */
struct stream_tls_credentials {
	atomic_uint users; /* streams, and the context as long as they are its present ones */
	SSL_CTX *ctx;
	struct stream_tls_psk *psks;
	size_t psk_count;
};

struct stream_tls_context {
	struct stream_tls_config files; /* copies */
	pthread_mutex_t lock;           /* of present; taken when a handshake begins */
	struct stream_tls_credentials *present;
};

struct stream_tls_credentials *stream_tls_credentials_get(struct stream_tls_context *context);
void stream_tls_credentials_put(struct stream_tls_credentials *credentials);

/* Where what is sent is encrypted. */
struct stream_tls_buffers {
	uint8_t plain[RECORD_BYTES]; /* where small pieces become one record */
	uint8_t to_send[OUT_BYTES];
};

struct stream_tls {
	struct stream_tls_credentials *credentials;
	SSL *ssl;
	BIO *in;                          /* ciphertext that was received */
	BIO *out;                         /* ciphertext to be sent; moved to to_send at once */
	bool announced;                   /* secured() came */
	const struct stream_tls_psk *psk; /* that the peer named, not yet that it has */
	char peer_name[STREAM_TLS_NAME_BYTES];

	/* the present receive */
	void *into;
	uint32_t into_bytes;
	int32_t result; /* that deliver_task tells */
	struct task deliver_task;
	uint8_t received[IN_BYTES];

	/* the present send; NULL: the kernel encrypts, and nothing that OpenSSL would say is sent
	 */
	struct stream_tls_buffers *buffers;
	uint32_t send_at;
	uint32_t send_end;

	/* what the kernel does in OpenSSL's place */
	struct tls_secret secret; /* of the keys that it has, or will have */
	bool keys_wanted;         /* the peer asked for new ones, before what is sent next */
	uint8_t alert[2];         /* OpenSSL's last one, of level 0: none */
	struct tls_control_record record;
};

#endif
