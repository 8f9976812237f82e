/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/export.h"

#include <ctype.h>
#include <stdlib.h>

void
export_list_fini(struct export_list *list)
{
	if (list->items)
		explicit_bzero(list->items, list->count * sizeof(*list->items));
	free(list->items);
	*list = (struct export_list){ 0 };
}

struct export *
export_list_add(struct export_list *list, const struct export *item)
{
	struct export *items = xcalloc(list->count + 1, sizeof(*items));
	size_t count = list->count;

	if (count)
		memcpy(items, list->items, count * sizeof(*items));
	items[count] = *item;
	export_list_fini(list);
	list->items = items;
	list->count = count + 1;
	return &items[count];
}

void
export_list_remove(struct export_list *list, size_t index)
{
	list->count--;
	memmove(&list->items[index], &list->items[index + 1],
	    (list->count - index) * sizeof(*list->items));
	explicit_bzero(&list->items[list->count], sizeof(*list->items));
}

struct export *
export_list_find(const struct export_list *list, const char *target)
{
	for (size_t i = 0; i < list->count; i++)
		if (strcmp(list->items[i].target, target) == 0)
			return &list->items[i];
	return NULL;
}

/* --- encoding --- */

static size_t
put_field(uint8_t *at, enum export_field field, const void *bytes, size_t len_bytes)
{
	at[0] = (uint8_t)field;
	at[1] = (uint8_t)len_bytes;
	memcpy(at + 2, bytes, len_bytes);
	return 2 + len_bytes;
}

static size_t
put_text(uint8_t *at, enum export_field field, const char *text)
{
	return text[0] ? put_field(at, field, text, strlen(text)) : 0;
}

uint8_t *
export_list_encode(const struct export_list *list, size_t *len_bytes)
{
	uint8_t *bytes = xcalloc(list->count + 1, sizeof(struct export) + 256);
	size_t at = 0;

	for (size_t i = 0; i < list->count; i++) {
		const struct export *item = &list->items[i];

		at += put_field(bytes + at, EXPORT_TARGET, item->target, strlen(item->target));
		at += put_field(bytes + at, EXPORT_LUN, &item->lun, 1);
		for (uint32_t k = 0; k < item->allow_count; k++)
			at += put_text(bytes + at, EXPORT_ALLOW, item->allow[k]);
		at += put_text(bytes + at, EXPORT_USER, item->user);
		at += put_text(bytes + at, EXPORT_SECRET, item->secret);
		at += put_text(bytes + at, EXPORT_MUTUAL_USER, item->mutual_user);
		at += put_text(bytes + at, EXPORT_MUTUAL_SECRET, item->mutual_secret);
	}
	*len_bytes = at;
	return bytes;
}

static int
take_text(char *to, size_t size, const uint8_t *bytes, size_t len_bytes)
{
	if (len_bytes >= size || memchr(bytes, '\0', len_bytes))
		return -EUCLEAN;
	memcpy(to, bytes, len_bytes);
	to[len_bytes] = '\0';
	return 0;
}

static int
take_field(struct export *item, uint8_t field, const uint8_t *bytes, size_t len_bytes)
{
	switch (field) {
	case EXPORT_TARGET:
		return take_text(item->target, sizeof(item->target), bytes, len_bytes);
	case EXPORT_LUN:
		item->lun = bytes[0];
		return len_bytes == 1 ? 0 : -EUCLEAN;
	case EXPORT_ALLOW:
		if (item->allow_count == EXPORT_ALLOW_MAX)
			return -EUCLEAN;
		return take_text(
		    item->allow[item->allow_count++], EXPORT_NAME_BYTES, bytes, len_bytes);
	case EXPORT_USER:
		return take_text(item->user, sizeof(item->user), bytes, len_bytes);
	case EXPORT_SECRET:
		return take_text(item->secret, sizeof(item->secret), bytes, len_bytes);
	case EXPORT_MUTUAL_USER:
		return take_text(item->mutual_user, sizeof(item->mutual_user), bytes, len_bytes);
	case EXPORT_MUTUAL_SECRET:
		return take_text(
		    item->mutual_secret, sizeof(item->mutual_secret), bytes, len_bytes);
	default:
		return -EUCLEAN;
	}
}

int
export_list_decode(struct export_list *list, const uint8_t *bytes, size_t len_bytes)
{
	struct export *item = NULL;
	static const struct export none;
	size_t at = 0;

	*list = (struct export_list){ 0 };
	while (at < len_bytes) {
		size_t field_bytes = len_bytes - at >= 2 ? bytes[at + 1] : 0;

		if (len_bytes - at < 2 + field_bytes)
			goto damaged;
		if (bytes[at] == EXPORT_TARGET && list->count < EXPORTS_MAX)
			item = export_list_add(list, &none);
		else if (bytes[at] == EXPORT_TARGET || !item)
			goto damaged;
		if ((bytes[at] != EXPORT_TARGET && field_bytes == 0) ||
		    take_field(item, bytes[at], bytes + at + 2, field_bytes))
			goto damaged;
		at += 2 + field_bytes;
	}
	return 0;
damaged:
	export_list_fini(list);
	return -EUCLEAN;
}

/* --- names --- */

bool
export_name_normalize(const char *name, char out[EXPORT_NAME_BYTES])
{
	size_t len_bytes = strlen(name);

	if (len_bytes == 0 || len_bytes >= EXPORT_NAME_BYTES)
		return false;
	for (size_t i = 0; i <= len_bytes; i++) {
		unsigned char c = (unsigned char)name[i];

		if (c && (c <= ' ' || c == 0x7f))
			return false;
		out[i] = (char)(c < 0x80 ? tolower(c) : c);
	}
	return true;
}

static int
check_name(char name[EXPORT_NAME_BYTES], const char *what, struct error *error)
{
	char normal[EXPORT_NAME_BYTES];

	if (!export_name_normalize(name, normal) ||
	    (strncmp(normal, "iqn.", 4) != 0 && strncmp(normal, "eui.", 4) != 0 &&
		strncmp(normal, "naa.", 4) != 0) ||
	    normal[4] == '\0')
		return error_set(error, -EINVAL,
		    "\"%.100s\" is no iSCSI name of %s: write it as in "
		    "iqn.2004-10.org.example:host",
		    name, what);
	strcpy(name, normal);
	return 0;
}

static int
check_secret(const char *user, const char *secret, const char *whose, struct error *error)
{
	if (!user[0] && !secret[0])
		return 0;
	if (!user[0])
		return error_set(error, -EINVAL, "a CHAP secret of %s needs a user", whose);
	if (strlen(secret) < EXPORT_SECRET_BYTES_MIN)
		return error_set(error, -EINVAL,
		    "the CHAP secret of %s must have %u bytes or more: this one has %zu", whose,
		    EXPORT_SECRET_BYTES_MIN, strlen(secret));
	return 0;
}

int
export_check(struct export *item, struct error *error)
{
	if (item->target[0] && check_name(item->target, "a target", error))
		return -EINVAL;
	for (uint32_t i = 0; i < item->allow_count; i++)
		if (check_name(item->allow[i], "an initiator", error))
			return -EINVAL;
	if (check_secret(item->user, item->secret, "the initiator", error) ||
	    check_secret(item->mutual_user, item->mutual_secret, "the target", error))
		return -EINVAL;
	if (item->mutual_user[0] && !item->user[0])
		return error_set(error, -EINVAL,
		    "mutual CHAP needs the initiator's user and secret, too: --chap USER");
	/* Otherwise an initiator could let the target answer its own challenge. */
	if (item->mutual_user[0] && strcmp(item->secret, item->mutual_secret) == 0)
		return error_set(
		    error, -EINVAL, "the CHAP secrets of initiator and target must differ");
	return 0;
}

bool
export_allows(const struct export *item, const char *initiator)
{
	for (uint32_t i = 0; i < item->allow_count; i++)
		if (strcmp(item->allow[i], initiator) == 0)
			return true;
	return item->allow_count == 0;
}
