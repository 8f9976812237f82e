/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys that the kernel gets: against the trace of RFC 8448, and against OpenSSL, whose client
 * must take records that were sealed with them, before and after a KeyUpdate.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "frontends/stream/stream_tls_kernel.h"

enum {
	RECORD_BYTES_MAX = 256,
	TAG_BYTES = 16,
	TYPE_DATA = 23,
};

/* --- RFC 8448, section 3: the server's keys for application data --- */

static void
test_keys_of_rfc_8448(void **state)
{
	static const char line[] =
	    "SERVER_TRAFFIC_SECRET_0 "
	    "cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece7 "
	    "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
	static const uint8_t key[] = { 0x9f, 0x02, 0x28, 0x3b, 0x6c, 0x9c, 0x07, 0xef, 0xc2, 0x6b,
		0xb9, 0xf2, 0xac, 0x92, 0xe3, 0x56 };
	static const uint8_t iv[] = { 0xcf, 0x78, 0x2b, 0x88, 0xdd, 0x83, 0x54, 0x9a, 0xad, 0xf1,
		0xe9, 0x84 };
	static const uint8_t zero[8];
	struct tls_secret secret = { 0 };
	struct tls_keys keys;

	(void)state;
	assert_false(tls_keys_derive(&keys, &secret, 0x1301)); /* none is known */
	tls_secret_from_keylog(&secret, line);
	assert_int_equal(secret.len_bytes, 32);
	assert_true(tls_keys_derive(&keys, &secret, 0x1301));
	assert_int_equal(keys.info.version, TLS_1_3_VERSION);
	assert_int_equal(keys.info.cipher_type, TLS_CIPHER_AES_GCM_128);
	assert_int_equal(keys.len_bytes, sizeof(struct tls12_crypto_info_aes_gcm_128));
	assert_memory_equal(keys.aes_128.key, key, sizeof(key));
	assert_memory_equal(keys.aes_128.salt, iv, 4);
	assert_memory_equal(keys.aes_128.iv, iv + 4, 8);
	assert_memory_equal(keys.aes_128.rec_seq, zero, 8);
	/* ciphers with another hash, and such as the kernel does not get from us */
	assert_false(tls_keys_derive(&keys, &secret, 0x1302));
	assert_false(tls_keys_derive(&keys, &secret, 0x1304));
	assert_false(tls_keys_derive(&keys, &secret, 0x002f));
}

static void
test_other_lines_are_passed_over(void **state)
{
	static const char *const lines[] = {
		"CLIENT_TRAFFIC_SECRET_0 cb34 a11af9f05531f856ad47116b45a95032",
		"SERVER_HANDSHAKE_TRAFFIC_SECRET cb34 a11af9f05531f856ad47116b45a95032",
		"EXPORTER_SECRET cb34 a11a",
		"CLIENT_RANDOM cb34 a11a",
		"",
		"#",
	};
	struct tls_secret secret = { .bytes = { 1 }, .len_bytes = 32 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		tls_secret_from_keylog(&secret, lines[i]);
		assert_int_equal(secret.len_bytes, 32);
		assert_int_equal(secret.bytes[0], 1);
	}
	/* one that is none is not believed, nor the one before it */
	tls_secret_from_keylog(&secret, "SERVER_TRAFFIC_SECRET_0 cb34 a11g");
	assert_int_equal(secret.len_bytes, 0);
}

/* --- OpenSSL as the client of what the kernel would send --- */

static void
secret_told(const SSL *ssl, const char *line)
{
	tls_secret_from_keylog(SSL_get_app_data(ssl), line);
}

static void
use_new_certificate(SSL_CTX *ctx)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *certificate = X509_new();

	assert_non_null(key);
	X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
	X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
	assert_int_equal(X509_set_pubkey(certificate, key), 1);
	assert_true(X509_sign(certificate, key, EVP_sha256()) > 0);
	assert_int_equal(SSL_CTX_use_certificate(ctx, certificate), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
	X509_free(certificate);
	EVP_PKEY_free(key);
}

static SSL *
new_side(SSL_CTX *ctx)
{
	SSL *ssl = SSL_new(ctx);

	SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	return ssl;
}

static void
carry(SSL *from, SSL *to)
{
	uint8_t bytes[8192];
	int n;

	while ((n = BIO_read(SSL_get_wbio(from), bytes, sizeof(bytes))) > 0)
		assert_int_equal(BIO_write(SSL_get_rbio(to), bytes, n), n);
}

static void
shake_hands(SSL *server, SSL *client)
{
	int client_done = 0, server_done = 0;

	for (int turn = 0; turn < 10 && (client_done != 1 || server_done != 1); turn++) {
		client_done = SSL_connect(client);
		carry(client, server);
		server_done = SSL_accept(server);
		carry(server, client);
	}
	assert_int_equal(client_done, 1);
	assert_int_equal(server_done, 1);
}

/* Record @number as the kernel makes it (RFC 8446, 5.2), given to the client. */
static void
send_record(SSL *client, const struct tls_keys *keys, uint64_t number, uint8_t type,
    const void *bytes, size_t len_bytes)
{
	uint8_t record[RECORD_BYTES_MAX] = { TYPE_DATA, 3, 3 };
	uint8_t nonce[12];
	const uint8_t *key;
	const EVP_CIPHER *cipher;
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n;

	switch (keys->info.cipher_type) {
	case TLS_CIPHER_AES_GCM_128:
		cipher = EVP_aes_128_gcm();
		key = keys->aes_128.key;
		memcpy(nonce, keys->aes_128.salt, 4);
		memcpy(nonce + 4, keys->aes_128.iv, 8);
		break;
	case TLS_CIPHER_AES_GCM_256:
		cipher = EVP_aes_256_gcm();
		key = keys->aes_256.key;
		memcpy(nonce, keys->aes_256.salt, 4);
		memcpy(nonce + 4, keys->aes_256.iv, 8);
		break;
	default:
		assert_int_equal(keys->info.cipher_type, TLS_CIPHER_CHACHA20_POLY1305);
		cipher = EVP_chacha20_poly1305();
		key = keys->chacha20.key;
		memcpy(nonce, keys->chacha20.iv, 12);
	}
	for (int i = 0; i < 8; i++)
		nonce[11 - i] ^= (uint8_t)(number >> 8 * i);
	record[4] = (uint8_t)(len_bytes + 1 + TAG_BYTES);
	memcpy(record + 5, bytes, len_bytes);
	record[5 + len_bytes] = type;
	assert_int_equal(EVP_EncryptInit_ex(ctx, cipher, NULL, key, nonce), 1);
	assert_int_equal(EVP_EncryptUpdate(ctx, NULL, &n, record, 5), 1);
	assert_int_equal(EVP_EncryptUpdate(ctx, record + 5, &n, record + 5, (int)len_bytes + 1), 1);
	assert_int_equal(EVP_EncryptFinal_ex(ctx, record + 5 + n, &n), 1);
	assert_int_equal(
	    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, record + 6 + len_bytes), 1);
	EVP_CIPHER_CTX_free(ctx);
	n = (int)(6 + len_bytes + TAG_BYTES);
	assert_int_equal(BIO_write(SSL_get_rbio(client), record, n), n);
}

static void
assert_client_reads(SSL *client, const char *text)
{
	char read[64];
	int n = SSL_read(client, read, sizeof(read));

	assert_int_equal(n, strlen(text));
	assert_memory_equal(read, text, strlen(text));
}

static void
check_cipher(const char *name)
{
	static const uint8_t key_update[] = { 24, 0, 0, 1, 0 };
	SSL_CTX *server_ctx = SSL_CTX_new(TLS_server_method());
	SSL_CTX *client_ctx = SSL_CTX_new(TLS_client_method());
	struct tls_secret secret = { 0 };
	struct tls_keys keys;
	SSL *server, *client;
	char byte;

	use_new_certificate(server_ctx);
	SSL_CTX_set_num_tickets(server_ctx, 0);
	SSL_CTX_set_keylog_callback(server_ctx, secret_told);
	assert_int_equal(SSL_CTX_set_ciphersuites(server_ctx, name), 1);
	server = new_side(server_ctx);
	client = new_side(client_ctx);
	SSL_set_app_data(server, &secret);
	shake_hands(server, client);
	assert_string_equal(SSL_get_cipher_name(server), name);

	assert_true(tls_keys_derive(
	    &keys, &secret, SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(server))));
	send_record(client, &keys, 0, TYPE_DATA, "first", 5);
	assert_client_reads(client, "first");
	send_record(client, &keys, 1, TYPE_DATA, "second", 6);
	assert_client_reads(client, "second");
	send_record(client, &keys, 2, TLS_RECORD_HANDSHAKE, key_update, sizeof(key_update));
	tls_secret_update(&secret);
	assert_true(tls_keys_derive(
	    &keys, &secret, SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(server))));
	send_record(client, &keys, 0, TYPE_DATA, "with new keys", 13);
	assert_client_reads(client, "with new keys");
	send_record(client, &keys, 1, TLS_RECORD_ALERT, "\1\0", 2);
	assert_int_equal(SSL_read(client, &byte, 1), 0);
	assert_int_equal(SSL_get_shutdown(client) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);

	SSL_free(server);
	SSL_free(client);
	SSL_CTX_free(server_ctx);
	SSL_CTX_free(client_ctx);
}

static void
test_openssl_takes_what_is_sealed_with_them(void **state)
{
	(void)state;
	check_cipher("TLS_AES_128_GCM_SHA256");
	check_cipher("TLS_AES_256_GCM_SHA384");
	check_cipher("TLS_CHACHA20_POLY1305_SHA256");
}

/* --- what is handed to sendmsg() --- */

static void
test_control_records(void **state)
{
	struct tls_control_record record;
	struct cmsghdr *header;

	(void)state;
	tls_control_record_init(&record, TLS_RECORD_ALERT, "\2\24", 2);
	assert_int_equal(record.message.msg_iovlen, 1);
	assert_int_equal(record.message.msg_iov->iov_len, 2);
	assert_memory_equal(record.message.msg_iov->iov_base, "\2\24", 2);
	header = CMSG_FIRSTHDR(&record.message);
	assert_non_null(header);
	assert_int_equal(header->cmsg_type, TLS_SET_RECORD_TYPE);
	assert_int_equal(header->cmsg_len, CMSG_LEN(1));
	assert_int_equal(*CMSG_DATA(header), TLS_RECORD_ALERT);
	assert_null(CMSG_NXTHDR(&record.message, header));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys_of_rfc_8448),
		cmocka_unit_test(test_other_lines_are_passed_over),
		cmocka_unit_test(test_openssl_takes_what_is_sealed_with_them),
		cmocka_unit_test(test_control_records),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
