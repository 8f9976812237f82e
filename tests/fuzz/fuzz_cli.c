/* SPDX-License-Identifier: Apache-2.0 */
/* quarry's command line: arguments are the lines of the input. */
#include <stdlib.h>

#include "tests/fuzz/fuzz.h"
#include "tools/quarry.h"

#define ARGUMENTS_MAX 16

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	char *text = fuzz_text(&input);
	char *argv[ARGUMENTS_MAX + 2] = { "quarry" };
	int argc = 1;
	char *rest = text;
	struct cli cli;
	struct error error = { 0 };

	while (argc <= ARGUMENTS_MAX && rest)
		argv[argc++] = strsep(&rest, "\n");
	if (cli_parse(argc, argv, "/", &cli, &error))
		CHECK(error.text[0]);
	cli_fini(&cli);
	free(text);
	return 0;
}
