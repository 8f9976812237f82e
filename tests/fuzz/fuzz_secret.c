/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that hold secrets: keys for TLS (`user:hexkey` lines) and a CHAP secret, the first line.
 * What is accepted is within its bounds; what is refused has a reason.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontends/admin/admin_json.h"
#include "frontends/stream/stream_tls.h"
#include "tests/fuzz/fuzz.h"
#include "tools/quarry.h"

static void
try_keys(const char *path)
{
	const struct stream_tls_config config = { .psk_file = path };
	struct stream_tls_context *context;
	struct error error = { 0 };

	if (stream_tls_context_create(&config, &context, &error)) {
		CHECK(error.text[0]);
		return;
	}
	CHECK(stream_tls_context_reload(context, &error) == 0);
	stream_tls_context_free(context);
}

static void
try_secret(const char *path)
{
	struct cli cli = { .chap_user = "u", .chap_secret_file = path };
	struct error error = { 0 };
	const char *secret;

	cli.request = json_object();
	if (cli_read_secrets(&cli, &error)) {
		CHECK(error.text[0]);
	} else {
		secret = json_string_value(json_object_get(cli.request, "chap_secret"));
		CHECK(secret && strlen(secret) < EXPORT_SECRET_BYTES && !strpbrk(secret, "\r\n"));
	}
	json_decref(cli.request);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int file = -1;
	char path[64];

	if (file < 0) {
		file = memfd_create("secret", 0);
		CHECK(file >= 0 && fchmod(file, 0600) == 0);
	}
	CHECK(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	try_keys(path);
	try_secret(path);
	return 0;
}
