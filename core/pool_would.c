/* SPDX-License-Identifier: Apache-2.0 */
/* What a request that destroys something would do, in words: the answer to a dry run. */
#include <stdio.h>

#include "core/base/size.h"
#include "core/pool_admin.h"

enum {
	PHRASE_BYTES = 64
};

/* " with 2 snapshots": nothing, if there is none. */
static const char *
counted(char phrase[PHRASE_BYTES], const char *before, uint64_t count, const char *what)
{
	phrase[0] = '\0';
	if (count)
		snprintf(phrase, PHRASE_BYTES, "%s%llu %s%s", before, (unsigned long long)count,
		    what, count == 1 ? "" : "s");
	return phrase;
}

static uint64_t
list_count(const struct list *list)
{
	uint64_t count = 0;

	list_for_each(node, list) {
		count++;
	}
	return count;
}

char *
pool_would(const struct pool *pool, const struct admin_request *request)
{
	const struct name *name =
	    request->verb == ADMIN_SNAPSHOT_DELETE ? request->names : &request->name;
	const struct volume_record *volume =
	    name->volume[0] ? catalog_find_volume(&pool->catalog, name->volume) : NULL;
	uint64_t size_bytes = round_up(request->size_bytes, FORMAT_BLOCK_BYTES);
	uint64_t clients =
	    volume ? volume_clients(pool, volume->runtime, NULL) : list_count(&pool->handles);
	char with[PHRASE_BYTES], ending[PHRASE_BYTES];
	char from[SIZE_TEXT_BYTES], to[SIZE_TEXT_BYTES];
	char text[NAME_TEXT_SIZE];
	char *would = NULL;
	int len = -1;

	name_format(name, text);
	counted(ending, request->verb == ADMIN_ROLLBACK ? ", while it has " : ", disconnecting ",
	    clients, "client");
	switch (request->verb) {
	case ADMIN_POOL_DESTROY:
		len = asprintf(&would, "destroy pool %s%s%s", text,
		    counted(with, " with its ", pool->catalog.volume_count, "volume"), ending);
		break;
	case ADMIN_VOLUME_RESIZE:
		len = asprintf(&would, "resize volume %s from %s to %s%s", text,
		    size_format(volume->size_bytes, from), size_format(size_bytes, to),
		    size_bytes < volume->size_bytes ? ", losing what lies beyond" : "");
		break;
	case ADMIN_VOLUME_DELETE:
		len = asprintf(&would, "delete volume %s%s%s", text,
		    counted(with, " with its ", list_count(&volume->snapshots), "snapshot"),
		    ending);
		break;
	case ADMIN_EXPORT_REMOVE:
		len = asprintf(&would, "remove the export of volume %s%s%s, ending its sessions",
		    text, request->export_has_target ? " at " : "",
		    request->export_has_target ? request->export->target : "");
		break;
	case ADMIN_SNAPSHOT_DELETE:
		if (request->name_count == 1)
			len = asprintf(&would, "delete snapshot %s", text);
		else
			len = asprintf(&would, "delete %zu snapshots", request->name_count);
		break;
	case ADMIN_ROLLBACK:
		len = asprintf(&would,
		    "roll volume %s/%s back to %s, losing what was written since%s", name->pool,
		    name->volume, text, ending);
		break;
	default:
		break;
	}
	CHECK(len >= 0); /* there are no dry runs of others */
	return would;
}
