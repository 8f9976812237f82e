/* SPDX-License-Identifier: Apache-2.0 */
/* Default target names: what an IQN has no letter for is written :XX, and so is a pool's dot. */
#include "frontends/iscsi/iscsi_names.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define TARGET_PREFIX "iqn.2026-11.io.quarry:"

static size_t
put_part(char *out, const char *part, bool dots)
{
	size_t at = 0;

	for (; *part; part++) {
		if (islower((unsigned char)*part) || isdigit((unsigned char)*part) ||
		    *part == '-' || (dots && *part == '.'))
			out[at++] = *part;
		else
			at += (size_t)sprintf(out + at, ":%02x", (unsigned char)*part);
	}
	return at;
}

void
iscsi_target_name(const struct name *name, char out[ISCSI_NAME_BYTES_MAX + 1])
{
	char text[sizeof(TARGET_PREFIX) + 9 * (NAME_SIZE + 1)];
	size_t at = (size_t)sprintf(text, TARGET_PREFIX);

	at += put_part(text + at, name->pool, false);
	text[at++] = '.';
	at += put_part(text + at, name->volume, true);
	if (name->snapshot[0]) {
		at += put_part(text + at, "@", false);
		at += put_part(text + at, name->snapshot, true);
	}
	text[at] = '\0';
	out[0] = '\0';
	if (at <= ISCSI_NAME_BYTES_MAX)
		memcpy(out, text, at + 1);
}

int
iscsi_target_parse(const char *target, struct name *name)
{
	char text[ISCSI_NAME_BYTES_MAX + 2];
	size_t at = 0;
	bool in_volume = false;

	if (strncmp(target, TARGET_PREFIX, strlen(TARGET_PREFIX)) != 0)
		return -EINVAL;
	for (target += strlen(TARGET_PREFIX); *target; target++) {
		char hex[3] = { 0 };

		if (*target == ':') {
			if (!isxdigit((unsigned char)target[1]) ||
			    !isxdigit((unsigned char)target[2]))
				return -EINVAL;
			memcpy(hex, target + 1, 2);
			text[at++] = (char)strtoul(hex, NULL, 16);
			target += 2;
		} else if (*target == '.' && !in_volume) {
			text[at++] = '/';
			in_volume = true;
		} else {
			text[at++] = *target;
		}
	}
	text[at] = '\0';
	return in_volume && strlen(text) == at ? name_parse(name, text, NULL) : -EINVAL;
}
