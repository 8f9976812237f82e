/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A doubly linked list whose links live in its members; an empty list points at itself, and so does
 * a node that is in no list (after list_init or list_remove).
 */
#ifndef QUARRY_CORE_BASE_LIST_H
#define QUARRY_CORE_BASE_LIST_H

#include "core/base/util.h"

struct list {
	struct list *next;
	struct list *prev;
};

static inline void
list_init(struct list *l)
{
	l->next = l;
	l->prev = l;
}

static inline bool
list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void
list_insert_before(struct list *at, struct list *node)
{
	node->next = at;
	node->prev = at->prev;
	at->prev->next = node;
	at->prev = node;
}

static inline void
list_push_back(struct list *l, struct list *node)
{
	list_insert_before(l, node);
}

static inline void
list_push_front(struct list *l, struct list *node)
{
	list_insert_before(l->next, node);
}

static inline void
list_remove(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

static inline struct list *
list_pop_front(struct list *l)
{
	struct list *node = l->next;

	if (node == l)
		return NULL;
	list_remove(node);
	return node;
}

/* Moves everything of @from to the end of @to. */
static inline void
list_splice_back(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_first(l, type, member) container_of((l)->next, type, member)
#define list_last(l, type, member) container_of((l)->prev, type, member)

#define list_for_each(pos, l) for (struct list *pos = (l)->next; pos != (l); pos = pos->next)
#define list_for_each_safe(pos, l)                                              \
	for (struct list *pos = (l)->next, *pos##_next = pos->next; pos != (l); \
	     pos = pos##_next, pos##_next = pos->next)

#endif
