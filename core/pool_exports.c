/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of a volume's exports (metadata/export.h) when one is added or removed. */
#include <stdlib.h>

#include "core/pool_admin.h"

/* The first number at @target that no volume of the pool has; -1: @wanted, or all, are taken. */
static int
choose_lun(const struct pool *pool, const char *target, int wanted)
{
	bool taken[EXPORT_LUN_MAX + 1] = { false };

	list_for_each(node, &pool->catalog.volumes) {
		const struct volume_record *volume = container_of(node, struct volume_record, link);
		const struct note *note = volume->notes[NOTE_EXPORTS];
		struct export_list list;

		if (!target[0] || !note || export_list_decode(&list, note->bytes, note->len_bytes))
			continue;
		for (size_t i = 0; i < list.count; i++)
			if (strcmp(list.items[i].target, target) == 0)
				taken[list.items[i].lun] = true;
		export_list_fini(&list);
	}
	for (int lun = wanted < 0 ? 0 : wanted; lun <= (int)EXPORT_LUN_MAX; lun++) {
		if (!taken[lun])
			return lun;
		if (wanted >= 0)
			return -1;
	}
	return -1;
}

static int
add_export(const struct pool *pool, const struct volume_record *volume,
    struct admin_request *request, struct export_list *list)
{
	struct export *export = request->export;
	int lun;

	if (export_check(export, &request->error))
		return -EINVAL;
	if (export_list_find(list, export->target))
		return error_set(&request->error, -EEXIST,
		    "volume %s/%s is exported at that target already: remove that export first",
		    pool->name, volume->name);
	if (list->count == EXPORTS_MAX)
		return error_set(
		    &request->error, -EINVAL, "a volume has at most %u exports", EXPORTS_MAX);
	lun = choose_lun(pool, export->target, request->export_has_lun ? export->lun : -1);
	if (lun < 0)
		return error_set(&request->error, -EEXIST, "target %s has no LUN %u to give away",
		    export->target, export->lun);
	export->lun = (uint8_t)lun;
	export_list_add(list, export);
	return 0;
}

static int
remove_export(const struct pool *pool, const struct volume_record *volume,
    struct admin_request *request, struct export_list *list)
{
	struct export *found = list->items;

	if (request->export_has_target) {
		if (export_check(request->export, &request->error))
			return -EINVAL;
		found = export_list_find(list, request->export->target);
	}
	if (!found)
		return error_set(&request->error, -ENOENT,
		    "volume %s/%s has no such export (quarry export list shows all)", pool->name,
		    volume->name);
	if (!request->export_has_target && list->count > 1)
		return error_set(&request->error, -EINVAL,
		    "volume %s/%s has %zu exports: say which with --target", pool->name,
		    volume->name, list->count);
	export_list_remove(list, (size_t)(found - list->items));
	return 0;
}

int
pool_exports_change(const struct pool *pool, const struct volume_record *volume,
    struct admin_request *request, uint8_t **bytes, size_t *len_bytes)
{
	const struct note *note = volume->notes[NOTE_EXPORTS];
	struct export_list list = { 0 };
	int rc;

	if (note && export_list_decode(&list, note->bytes, note->len_bytes))
		return error_set(&request->error, -EUCLEAN,
		    "the exports of volume %s/%s cannot be understood", pool->name, volume->name);
	rc = request->verb == ADMIN_EXPORT_ADD ? add_export(pool, volume, request, &list)
					       : remove_export(pool, volume, request, &list);
	if (rc == 0)
		*bytes = export_list_encode(&list, len_bytes);
	export_list_fini(&list);
	return rc;
}
