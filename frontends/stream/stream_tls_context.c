/* SPDX-License-Identifier: Apache-2.0 */
/* What a server shows and believes: certificates, keys, and what of TLS is spoken at all. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/x509.h>

#include "core/base/diag.h"
#include "frontends/stream/stream_tls_internal.h"

enum {
	PSK_LINE_BYTES = 1024,
	PSK_KEY_BYTES_MIN = 16,
};

/* --- pre-shared keys --- */

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads `user:hexkey`; false: it is not such a line. */
static bool
parse_psk(const char *line, struct stream_tls_psk *psk)
{
	const char *colon = strchr(line, ':');
	size_t name_bytes = colon ? (size_t)(colon - line) : 0;
	const char *hex;
	size_t digits;

	if (name_bytes == 0 || name_bytes >= sizeof(psk->name))
		return false;
	hex = colon + 1;
	digits = strlen(hex);
	if (digits % 2 || digits / 2 < PSK_KEY_BYTES_MIN || digits / 2 > sizeof(psk->key))
		return false;
	memset(psk, 0, sizeof(*psk));
	memcpy(psk->name, line, name_bytes);
	for (size_t i = 0; i < digits; i += 2) {
		int high = hex_value(hex[i]);
		int low = hex_value(hex[i + 1]);

		if (high < 0 || low < 0)
			return false;
		psk->key[psk->key_bytes++] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static int
load_psks(struct stream_tls_credentials *credentials, const char *path, struct error *error)
{
	FILE *file = fopen(path, "re");
	char line[PSK_LINE_BYTES];
	struct stream_tls_psk psk;
	unsigned number = 0;
	int rc = 0;

	if (!file)
		return error_set(error, -errno, "cannot open %.150s: %m", path);
	while (!rc && fgets(line, sizeof(line), file)) {
		number++;
		line[strcspn(line, "\r\n")] = '\0';
		if (line[0] == '\0' || line[0] == '#')
			continue;
		if (!parse_psk(line, &psk)) {
			rc = error_set(error, -EINVAL,
			    "%.120s:%u: wanted is USER:KEY, with a key of %d to %zu bytes in hex "
			    "(psktool -u USER -p FILE writes one)",
			    path, number, PSK_KEY_BYTES_MIN, sizeof(psk.key));
			break;
		}
		credentials->psks = xrealloc(
		    credentials->psks, (credentials->psk_count + 1) * sizeof(*credentials->psks));
		credentials->psks[credentials->psk_count++] = psk;
	}
	explicit_bzero(line, sizeof(line));
	explicit_bzero(&psk, sizeof(psk));
	if (!rc && ferror(file))
		rc = error_set(error, -EIO, "cannot read %.150s", path);
	if (!rc && credentials->psk_count == 0)
		rc = error_set(error, -EINVAL, "%.150s has no key in it", path);
	fclose(file);
	return rc;
}

/* OpenSSL asks for the key of @identity. */
static unsigned int
psk_wanted(SSL *ssl, const char *identity, unsigned char *key, unsigned int key_size)
{
	const struct stream_tls_credentials *credentials =
	    SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	struct stream *stream = SSL_get_app_data(ssl);

	for (size_t i = 0; i < credentials->psk_count; i++) {
		const struct stream_tls_psk *psk = &credentials->psks[i];

		if (strcmp(psk->name, identity) != 0 || psk->key_bytes > key_size)
			continue;
		memcpy(key, psk->key, psk->key_bytes);
		stream->tls->psk = psk;
		return psk->key_bytes;
	}
	return 0;
}

/* OpenSSL tells of each secret: the kernel may take over with one of them. */
static void
secret_told(const SSL *ssl, const char *line)
{
	struct stream *stream = SSL_get_app_data(ssl);

	tls_secret_from_keylog(&stream->tls->secret, line);
}

/* --- certificates --- */

static int
openssl_error(struct error *error, const char *what)
{
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());

	ERR_clear_error();
	return error_set(
	    error, -EINVAL, "%.180s: %s", what, reason ? reason : "OpenSSL refuses it");
}

static int
load_certificates(SSL_CTX *ctx, const char *folder, bool verify_peer, struct error *error)
{
	char ca[PATH_BYTES], crl[PATH_BYTES], certificate[PATH_BYTES], key[PATH_BYTES];

	if (snprintf(certificate, PATH_BYTES, "%s/server-cert.pem", folder) >= PATH_BYTES)
		return error_set(error, -ENAMETOOLONG, "%.100s: the path is too long", folder);
	snprintf(ca, PATH_BYTES, "%s/ca-cert.pem", folder);
	snprintf(crl, PATH_BYTES, "%s/ca-crl.pem", folder);
	snprintf(key, PATH_BYTES, "%s/server-key.pem", folder);
	for (const char *const *path = (const char *const[]){ certificate, key, NULL }; *path;
	     path++)
		if (access(*path, R_OK) != 0)
			return error_set(error, -errno, "cannot read %.180s: %m", *path);
	if (SSL_CTX_use_certificate_chain_file(ctx, certificate) != 1)
		return openssl_error(error, certificate);
	if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
		return openssl_error(error, key);
	if (access(ca, R_OK) != 0)
		return verify_peer ? error_set(error, -errno,
					 "cannot read %.150s, which tells whom to believe: %m", ca)
				   : 0;
	if (SSL_CTX_load_verify_file(ctx, ca) != 1)
		return openssl_error(error, ca);
	SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(ca));
	if (access(crl, R_OK) == 0) {
		if (SSL_CTX_load_verify_file(ctx, crl) != 1)
			return openssl_error(error, crl);
		X509_STORE_set_flags(SSL_CTX_get_cert_store(ctx), X509_V_FLAG_CRL_CHECK);
	}
	/* Always asked for, so that a client that has one is known by it. */
	SSL_CTX_set_verify(
	    ctx, SSL_VERIFY_PEER | (verify_peer ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
	return 0;
}

/* --- the whole --- */

static void
choose_protocol(SSL_CTX *ctx)
{
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
				     SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_TICKET);
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	/* To OpenSSL a key is a session, and a server that asks for certificates needs this. */
	SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"quarry", 6);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_cipher_list(ctx, "HIGH:!aNULL:!eNULL:!kRSA:!SRP");
	SSL_CTX_set_dh_auto(ctx, 1);
}

static void
credentials_free(struct stream_tls_credentials *credentials)
{
	SSL_CTX_free(credentials->ctx);
	if (credentials->psks)
		explicit_bzero(
		    credentials->psks, credentials->psk_count * sizeof(*credentials->psks));
	free(credentials->psks);
	free(credentials);
}

static int
credentials_load(
    const struct stream_tls_config *files, struct stream_tls_credentials **out, struct error *error)
{
	struct stream_tls_credentials *credentials = xcalloc(1, sizeof(*credentials));
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	int rc = 0;

	CHECK(ctx);
	credentials->ctx = ctx;
	atomic_init(&credentials->users, 1);
	SSL_CTX_set_app_data(ctx, credentials);
	choose_protocol(ctx);
	if (files->kernel && tls_kernel_is_there()) {
		SSL_CTX_set_keylog_callback(ctx, secret_told);
		diag_info("TLS 1.3: the kernel encrypts what is sent");
	} else {
		diag_info("TLS: OpenSSL encrypts what is sent%s",
		    files->kernel ? ", since the kernel has no TLS (modprobe tls loads it)" : "");
	}
	if (!files->certificates && !files->psk_file)
		rc = error_set(error, -EINVAL, "TLS needs certificates or a file of keys");
	if (!rc && files->certificates)
		rc = load_certificates(ctx, files->certificates, files->verify_peer, error);
	if (!rc && files->psk_file) {
		rc = load_psks(credentials, files->psk_file, error);
		SSL_CTX_set_psk_server_callback(ctx, psk_wanted);
		/* A key goes with SHA-256: with another hash a client that has one is not heard. */
		SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:"
					      "TLS_AES_256_GCM_SHA384");
	}
	if (rc) {
		credentials_free(credentials);
		return rc;
	}
	*out = credentials;
	return 0;
}

struct stream_tls_credentials *
stream_tls_credentials_get(struct stream_tls_context *context)
{
	struct stream_tls_credentials *credentials;

	pthread_mutex_lock(&context->lock);
	credentials = context->present;
	atomic_fetch_add(&credentials->users, 1);
	pthread_mutex_unlock(&context->lock);
	return credentials;
}

void
stream_tls_credentials_put(struct stream_tls_credentials *credentials)
{
	if (atomic_fetch_sub(&credentials->users, 1) == 1)
		credentials_free(credentials);
}

int
stream_tls_context_create(
    const struct stream_tls_config *files, struct stream_tls_context **out, struct error *error)
{
	struct stream_tls_context *context = xcalloc(1, sizeof(*context));
	int rc = credentials_load(files, &context->present, error);

	if (rc) {
		free(context);
		return rc;
	}
	context->files = *files;
	context->files.certificates = files->certificates ? xstrdup(files->certificates) : NULL;
	context->files.psk_file = files->psk_file ? xstrdup(files->psk_file) : NULL;
	pthread_mutex_init(&context->lock, NULL);
	*out = context;
	return 0;
}

int
stream_tls_context_reload(struct stream_tls_context *context, struct error *error)
{
	struct stream_tls_credentials *read, *before;
	int rc = credentials_load(&context->files, &read, error);

	if (rc)
		return rc;
	pthread_mutex_lock(&context->lock);
	before = context->present;
	context->present = read;
	pthread_mutex_unlock(&context->lock);
	stream_tls_credentials_put(before);
	return 0;
}

void
stream_tls_context_free(struct stream_tls_context *context)
{
	if (!context)
		return;
	stream_tls_credentials_put(context->present);
	pthread_mutex_destroy(&context->lock);
	free((char *)context->files.certificates);
	free((char *)context->files.psk_file);
	free(context);
}
