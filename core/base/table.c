/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/table.h"

#include <stdlib.h>

void
table_init(struct table *table)
{
	table->mask = 15;
	table->count = 0;
	table->slots = xcalloc(table->mask + 1, sizeof(struct table_slot));
}

void
table_fini(struct table *table)
{
	free(table->slots);
	table->slots = NULL;
	table->count = 0;
}

static void
place(struct table *table, uint64_t key, void *value)
{
	uint64_t at = mix64(key) & table->mask;

	while (table->slots[at].key && table->slots[at].key != key)
		at = (at + 1) & table->mask;
	if (!table->slots[at].key)
		table->count++;
	table->slots[at].key = key;
	table->slots[at].value = value;
}

static void
grow(struct table *table)
{
	struct table_slot *old = table->slots;
	uint64_t old_slots = table->mask + 1;

	table->mask = 2 * old_slots - 1;
	table->count = 0;
	table->slots = xcalloc(2 * old_slots, sizeof(struct table_slot));
	for (uint64_t i = 0; i < old_slots; i++)
		if (old[i].key)
			place(table, old[i].key, old[i].value);
	free(old);
}

void
table_set(struct table *table, uint64_t key, void *value)
{
	CHECK(key && value);
	if (4 * (table->count + 1) > 3 * (table->mask + 1))
		grow(table);
	place(table, key, value);
}

void *
table_remove(struct table *table, uint64_t key)
{
	uint64_t at = mix64(key) & table->mask;
	void *value;

	while (table->slots[at].key != key) {
		if (!table->slots[at].key)
			return NULL;
		at = (at + 1) & table->mask;
	}
	value = table->slots[at].value;
	table->count--;
	/* Move back whoever would no longer be found behind the gap. */
	for (uint64_t next = (at + 1) & table->mask; table->slots[next].key;
	     next = (next + 1) & table->mask) {
		uint64_t home = mix64(table->slots[next].key) & table->mask;

		if (((next - home) & table->mask) >= ((next - at) & table->mask)) {
			table->slots[at] = table->slots[next];
			at = next;
		}
	}
	table->slots[at].key = 0;
	table->slots[at].value = NULL;
	return value;
}
