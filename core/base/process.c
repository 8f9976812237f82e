/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/process.h"

#include <stdio.h>
#include <string.h>

bool
process_is_gone(int pid)
{
	char path[64];
	char line[512] = "";
	const char *state;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return true;
	if (!fgets(line, sizeof(line), file))
		line[0] = '\0';
	fclose(file);
	/* The state stands behind the name, which is in parentheses. */
	state = strrchr(line, ')');
	return !state || (state[1] == ' ' && strchr("ZX", state[2]));
}
