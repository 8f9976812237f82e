/* SPDX-License-Identifier: Apache-2.0 */
/* How a volume is exported over iSCSI, as a pool's note has it: what is accepted is the same when
 * it is written and read again. */
#include <stdlib.h>

#include "metadata/export.h"
#include "tests/fuzz/fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct export_list list, again;
	size_t len_bytes;
	uint8_t *bytes;

	if (export_list_decode(&list, data, size))
		return 0;
	CHECK(list.count <= EXPORTS_MAX);
	bytes = export_list_encode(&list, &len_bytes);
	CHECK(export_list_decode(&again, bytes, len_bytes) == 0);
	CHECK(again.count == list.count);
	for (size_t i = 0; i < list.count; i++) {
		const struct export *item = &list.items[i];

		CHECK(item->allow_count <= EXPORT_ALLOW_MAX);
		/* Nobody who was kept out comes in. */
		CHECK(again.items[i].allow_count == item->allow_count);
		for (uint32_t k = 0; k < item->allow_count; k++)
			CHECK(strcmp(again.items[i].allow[k], item->allow[k]) == 0);
		CHECK(strcmp(again.items[i].target, item->target) == 0);
		CHECK(again.items[i].lun == item->lun);
		CHECK(strcmp(again.items[i].user, item->user) == 0);
		CHECK(strcmp(again.items[i].secret, item->secret) == 0);
		CHECK(strcmp(again.items[i].mutual_user, item->mutual_user) == 0);
		CHECK(strcmp(again.items[i].mutual_secret, item->mutual_secret) == 0);
	}
	free(bytes);
	export_list_fini(&list);
	export_list_fini(&again);
	return 0;
}
