/* SPDX-License-Identifier: Apache-2.0 */
/* quarryd's configuration file. */
#include <stdlib.h>

#include "tests/fuzz/fuzz.h"
#include "tools/quarryd_config.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	char *text = fuzz_text(&input);
	struct daemon_config config;
	struct error error = { 0 };
	int rc;

	daemon_config_init(&config);
	rc = daemon_config_parse_yaml(&config, "quarryd.yaml", text, size, &error);
	CHECK(rc <= 0);
	if (rc)
		CHECK(error.text[0]);
	daemon_config_fini(&config);
	free(text);
	return 0;
}
