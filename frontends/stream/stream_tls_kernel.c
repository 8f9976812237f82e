/* SPDX-License-Identifier: Apache-2.0 */
/* Keys for the kernel's TLS; see stream_tls_kernel.h. */
#include "frontends/stream/stream_tls_kernel.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <string.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum {
	IV_BYTES = 12,
	SALT_BYTES = 4, /* how the kernel calls the first part of an AES-GCM IV */
	LABEL_BYTES_MAX = 32,
	/* RFC 8446, B.4 */
	AES_128_GCM_SHA256 = 0x1301,
	AES_256_GCM_SHA384 = 0x1302,
	CHACHA20_POLY1305_SHA256 = 0x1303,
};

static_assert(TLS_CIPHER_AES_GCM_128_SALT_SIZE == SALT_BYTES, "AES-128-GCM");
static_assert(TLS_CIPHER_AES_GCM_256_SALT_SIZE == SALT_BYTES, "AES-256-GCM");
static_assert(TLS_CIPHER_CHACHA20_POLY1305_IV_SIZE == IV_BYTES, "ChaCha20-Poly1305");

/* --- secrets --- */

void
tls_secret_from_keylog(struct tls_secret *secret, const char *line)
{
	static const char label[] = "SERVER_TRAFFIC_SECRET_0 ";
	const char *hex = strrchr(line, ' ');
	size_t len_bytes;

	if (strncmp(line, label, strlen(label)) != 0)
		return;
	secret->len_bytes = 0;
	if (OPENSSL_hexstr2buf_ex(
		secret->bytes, sizeof(secret->bytes), &len_bytes, hex + 1, '\0') == 1)
		secret->len_bytes = (uint8_t)len_bytes;
}

/*
 * HKDF-Expand-Label (RFC 8446, 7.1) without a context.  Nothing that is wanted is longer than the
 * hash, so it is one HMAC, of
 *
 *     SIZE  MEANING
 *        2  bytes wanted
 *        1  length of the label
 *           "tls13 " and what the label is called
 *        1  length of the context: 0
 *        1  number of the block: 1
 */
static void
expand_label(const struct tls_secret *secret, const char *name, uint8_t *out, size_t len_bytes)
{
	uint8_t info[LABEL_BYTES_MAX] = { 0, (uint8_t)len_bytes };
	uint8_t block[EVP_MAX_MD_SIZE];
	size_t label_bytes = strlen("tls13 ") + strlen(name);
	const EVP_MD *hash = secret->len_bytes == 48 ? EVP_sha384() : EVP_sha256();

	CHECK(len_bytes <= secret->len_bytes && 3 + label_bytes + 2 <= sizeof(info));
	info[2] = (uint8_t)label_bytes;
	memcpy(info + 3, "tls13 ", strlen("tls13 "));
	memcpy(info + 3 + strlen("tls13 "), name, strlen(name));
	info[3 + label_bytes + 1] = 1;
	CHECK(HMAC(hash, secret->bytes, secret->len_bytes, info, 3 + label_bytes + 2, block, NULL));
	memcpy(out, block, len_bytes);
	OPENSSL_cleanse(block, sizeof(block));
}

void
tls_secret_update(struct tls_secret *secret)
{
	uint8_t next[TLS_SECRET_BYTES_MAX];

	expand_label(secret, "traffic upd", next, secret->len_bytes);
	memcpy(secret->bytes, next, secret->len_bytes);
	OPENSSL_cleanse(next, sizeof(next));
}

/* --- keys --- */

bool
tls_keys_derive(struct tls_keys *keys, const struct tls_secret *secret, uint16_t cipher_id)
{
	const size_t hash_bytes = cipher_id == AES_256_GCM_SHA384 ? 48 : 32;
	uint8_t iv[IV_BYTES];

	*keys = (struct tls_keys){ .info.version = TLS_1_3_VERSION };
	if (secret->len_bytes != hash_bytes)
		return false;
	expand_label(secret, "iv", iv, IV_BYTES);
	switch (cipher_id) {
	case AES_128_GCM_SHA256:
		keys->len_bytes = sizeof(keys->aes_128);
		keys->info.cipher_type = TLS_CIPHER_AES_GCM_128;
		expand_label(secret, "key", keys->aes_128.key, sizeof(keys->aes_128.key));
		memcpy(keys->aes_128.salt, iv, SALT_BYTES);
		memcpy(keys->aes_128.iv, iv + SALT_BYTES, IV_BYTES - SALT_BYTES);
		return true;
	case AES_256_GCM_SHA384:
		keys->len_bytes = sizeof(keys->aes_256);
		keys->info.cipher_type = TLS_CIPHER_AES_GCM_256;
		expand_label(secret, "key", keys->aes_256.key, sizeof(keys->aes_256.key));
		memcpy(keys->aes_256.salt, iv, SALT_BYTES);
		memcpy(keys->aes_256.iv, iv + SALT_BYTES, IV_BYTES - SALT_BYTES);
		return true;
	case CHACHA20_POLY1305_SHA256:
		keys->len_bytes = sizeof(keys->chacha20);
		keys->info.cipher_type = TLS_CIPHER_CHACHA20_POLY1305;
		expand_label(secret, "key", keys->chacha20.key, sizeof(keys->chacha20.key));
		memcpy(keys->chacha20.iv, iv, IV_BYTES);
		return true;
	}
	return false;
}

/* --- the socket --- */

bool
tls_kernel_is_there(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* Only connected sockets can have it; of others it says so. */
	bool is_there = fd >= 0 &&
			setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) != 0 &&
			errno == ENOTCONN;

	if (fd >= 0)
		close(fd);
	return is_there;
}

int
tls_socket_set_keys(int fd, const struct tls_keys *keys)
{
	return setsockopt(fd, SOL_TLS, TLS_TX, &keys->info, keys->len_bytes) == 0 ? 0 : -errno;
}

/* A socket that has the ULP but no keys still sends what it is given, as it is. */
int
tls_socket_take_over(int fd, const struct tls_keys *keys)
{
	if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) != 0)
		return -errno;
	return tls_socket_set_keys(fd, keys);
}

void
tls_control_record_init(
    struct tls_control_record *record, uint8_t type, const void *bytes, size_t len_bytes)
{
	struct cmsghdr *header;

	CHECK(len_bytes <= sizeof(record->bytes));
	memcpy(record->bytes, bytes, len_bytes);
	record->iov = (struct iovec){ .iov_base = record->bytes, .iov_len = len_bytes };
	record->message = (struct msghdr){
		.msg_iov = &record->iov,
		.msg_iovlen = 1,
		.msg_control = record->control,
		.msg_controllen = sizeof(record->control),
	};
	header = CMSG_FIRSTHDR(&record->message);
	header->cmsg_level = SOL_TLS;
	header->cmsg_type = TLS_SET_RECORD_TYPE;
	header->cmsg_len = CMSG_LEN(1);
	*CMSG_DATA(header) = type;
}
