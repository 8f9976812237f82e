/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hash table from nonzero 64-bit keys to pointers: open addressing, linear probing, deletion by
 * moving back.  The order of a walk depends on the history of the table alone.
 */
#ifndef QUARRY_CORE_BASE_TABLE_H
#define QUARRY_CORE_BASE_TABLE_H

#include "core/base/util.h"

struct table_slot {
	uint64_t key; /* 0: empty */
	void *value;
};

struct table {
	struct table_slot *slots;
	uint64_t mask; /* slots - 1 */
	uint64_t count;
};

void table_init(struct table *table);
void table_fini(struct table *table);
/* @value is not NULL; a key that is there gets the new value. */
void table_set(struct table *table, uint64_t key, void *value);
/* Returns what was there, or NULL. */
void *table_remove(struct table *table, uint64_t key);

/* Fetches the place of @key into the processor's cache. */
static inline void
table_prefetch(const struct table *table, uint64_t key)
{
	__builtin_prefetch(&table->slots[mix64(key) & table->mask]);
}

static inline void *
table_get(const struct table *table, uint64_t key)
{
	uint64_t at = mix64(key) & table->mask;

	while (table->slots[at].key) {
		if (table->slots[at].key == key)
			return table->slots[at].value;
		at = (at + 1) & table->mask;
	}
	return NULL;
}

#endif
