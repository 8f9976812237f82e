/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sizes, names and listen addresses as people type them.  What is accepted is within its bounds and
 * means the same when it is written and read again; what is refused has a reason.
 */
#include <stdlib.h>

#include "core/base/size.h"
#include "metadata/name.h"
#include "tests/fuzz/fuzz.h"
#include "tools/quarryd_config.h"

static void
try_size(const char *text)
{
	struct error error = { 0 };
	char written[SIZE_TEXT_BYTES];
	uint64_t bytes, again;

	if (size_parse(text, &bytes, &error)) {
		CHECK(error.text[0]);
		return;
	}
	CHECK(bytes <= INT64_MAX);
	CHECK(strlen(size_format(bytes, written)) < SIZE_TEXT_BYTES);
	if (bytes < 1ull << 62) /* rounding up to three digits may leave the range */
		CHECK(size_parse(written, &again, &error) == 0);
}

static void
try_name(const char *text)
{
	struct error error = { 0 };
	struct name name, again;
	char written[NAME_TEXT_SIZE];

	if (name_parse(&name, text, &error)) {
		CHECK(error.text[0]);
		return;
	}
	CHECK(name_format(&name, written) == strlen(text) && strcmp(written, text) == 0);
	CHECK(name_parse(&again, written, &error) == 0);
}

static void
try_listen(const char *text)
{
	struct error error = { 0 };
	struct nbd_address address = { 0 };

	if (nbd_address_parse(&address, text, &error))
		CHECK(error.text[0]);
	else if (address.is_unix)
		CHECK(address.path[0]);
	else
		CHECK(address.tcp.host[0] && address.tcp.port[0]);
}

static void
try_access(const char *text)
{
	static const struct nbd_peer peer = { .tls_name = "alice", .listener = "" };
	struct error error = { 0 };
	struct nbd_access_rule rule;

	if (nbd_access_parse(&rule, text, &error))
		CHECK(error.text[0]);
	else
		(void)nbd_access(&rule, 1, &peer, "tank/vm1");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	char *text = fuzz_text(&input);

	try_size(text);
	try_name(text);
	try_listen(text);
	try_access(text);
	free(text);
	return 0;
}
