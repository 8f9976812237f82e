/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/name.h"

#include <stdio.h>

static bool
is_alphanumeric(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool
name_part_valid(const char *part, size_t len_bytes)
{
	if (len_bytes == 0 || len_bytes > NAME_BYTES_MAX || !is_alphanumeric(part[0]))
		return false;
	for (size_t i = 1; i < len_bytes; i++)
		if (!is_alphanumeric(part[i]) && part[i] != '.' && part[i] != '_' && part[i] != '-')
			return false;
	return true;
}

static int
take_part(char *to, const char *from, size_t len_bytes, const char *what, struct error *error)
{
	if (len_bytes > NAME_BYTES_MAX)
		return error_set(error, -EINVAL,
		    "the %s name \"%.40s…\" is too long: %zu bytes, of at most %d", what, from,
		    len_bytes, NAME_BYTES_MAX);
	if (!name_part_valid(from, len_bytes))
		return error_set(error, -EINVAL,
		    "\"%.*s\" is not a %s name: 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter "
		    "or digit",
		    (int)min_u64(len_bytes, 40), from, what);
	memcpy(to, from, len_bytes);
	to[len_bytes] = '\0';
	return 0;
}

int
name_parse(struct name *name, const char *text, struct error *error)
{
	size_t pool_bytes = strcspn(text, "/@");
	const char *rest = text + pool_bytes;
	int rc;

	memset(name, 0, sizeof(*name));
	rc = take_part(name->pool, text, pool_bytes, "pool", error);
	if (rc || *rest == '\0')
		return rc;
	if (*rest == '@')
		return error_set(
		    error, -EINVAL, "\"%.80s\": a snapshot is named pool/volume@snapshot", text);
	rest++;
	size_t volume_bytes = strcspn(rest, "@");

	rc = take_part(name->volume, rest, volume_bytes, "volume", error);
	if (rc || rest[volume_bytes] == '\0')
		return rc;
	rest += volume_bytes + 1;
	return take_part(name->snapshot, rest, strlen(rest), "snapshot", error);
}

size_t
name_format(const struct name *name, char text[NAME_TEXT_SIZE])
{
	int len = snprintf(text, NAME_TEXT_SIZE, "%s%s%s%s%s", name->pool,
	    name->volume[0] ? "/" : "", name->volume, name->snapshot[0] ? "@" : "", name->snapshot);

	return (size_t)len;
}
