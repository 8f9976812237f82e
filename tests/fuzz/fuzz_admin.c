/* SPDX-License-Identifier: Apache-2.0 */
/* A line of the administrator's protocol. */
#include <stdlib.h>

#include "frontends/admin/admin_proto.h"
#include "tests/fuzz/fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	struct admin_message message;
	struct error error = { 0 };
	char *line = fuzz_text(&input);
	int rc = admin_proto_decode(line, size, &message, &error);

	free(line);
	if (rc == 0) {
		if (message.kind == ADMIN_MESSAGE_TARGET)
			admin_request_fini(&message.request);
	} else {
		size_t len_bytes;

		CHECK(rc == -EPROTO || rc == -EINVAL);
		CHECK(error.text[0]);
		free(admin_proto_error(ADMIN_EXIT_USAGE, &error, &len_bytes));
	}
	return 0;
}
