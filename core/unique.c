/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of each image is its own: the blocks that deleting it alone would free.
 *
 * Counted when somebody asks: all images, one after the other.  Who asked waits for a quarter of a
 * second at most, and is told what is known by then; the rest is counted for whoever asks next.
 * What was counted is kept until the image or a neighbour in the family tree changes
 * (image->unique_stamp); so the counts of snapshots, which do not change, are made once.
 *
 *   idle ─(unique_count)─► step ⇄ load a node ─► … ─► all were looked at ─► idle
 *
 * A step looks at LEAVES_AT_A_TIME leaves, so that clients' requests pass between them.  An image
 * that changes meanwhile is left for the next time.
 */
#include "core/pool_internal.h"

#define LEAVES_AT_A_TIME 256u
#define WAIT_MAX_NS 250000000ull

/* --- one image --- */

static uint64_t
stamp_add(uint64_t stamp, const struct image *image)
{
	return mix64(mix64(stamp ^ image->id) ^ image->changes);
}

/* The maps that may share blocks with @image, and a stamp of all; false: they cannot be looked at
 * now, or are too many. */
static bool
neighbours(struct pool *pool, const struct image *image, struct map **maps, unsigned *count,
    uint64_t *stamp)
{
	*count = 0;
	*stamp = stamp_add(1, image);
	if (image->parent && image->parent->cursor > 0)
		return false; /* being freed: what it shares changes hands just now */
	if (image->parent) {
		maps[(*count)++] = &image->parent->map;
		*stamp = stamp_add(*stamp, image->parent);
	}
	if (image->children == 1) {
		struct image *child = catalog_only_child(&pool->catalog, image);

		maps[(*count)++] = &child->map;
		*stamp = stamp_add(*stamp, child);
	} else if (image->children > 1) {
		if (image->children > MAP_UNIQUE_OTHERS_MAX - 1 || pool->catalog.image_count > 1000)
			return false;
		list_for_each(node, &pool->catalog.images) {
			struct image *child = container_of(node, struct image, link);

			if (child->parent != image)
				continue;
			maps[(*count)++] = &child->map;
			*stamp = stamp_add(*stamp, child);
		}
	}
	return true;
}

bool
unique_known(struct pool *pool, const struct image *image, uint64_t *blocks)
{
	struct map *maps[MAP_UNIQUE_OTHERS_MAX];
	unsigned count;
	uint64_t stamp;

	*blocks = image->mapped_blocks;
	if (!image->parent && image->children == 0)
		return true;
	*blocks = image->unique.blocks;
	return neighbours(pool, image, maps, &count, &stamp) && image->unique.done &&
	       image->unique_stamp == stamp;
}

/* --- all of them --- */

static void
unpin(struct pool *pool)
{
	if (pool->unique.pinned)
		node_pin_end(&pool->nodes, &pool->unique.pin);
	pool->unique.pinned = false;
	nodes_evict(&pool->nodes);
}

static void
finish(struct pool *pool)
{
	unpin(pool);
	reactor_timer_cancel(pool->reactor, &pool->unique.limit);
	waiters_wake(&pool->unique.waiters, 0);
	pool->unique.active = false;
}

static void
waited(struct timer *timer)
{
	waiters_wake(&container_of(timer, struct pool, unique.limit)->unique.waiters, 0);
}

/* The first image, and the one behind @image; NULL: that was the last one. */
static struct image *
image_behind(struct pool *pool, struct image *image)
{
	struct list *images = &pool->catalog.images;
	struct list *next = image ? image->link.next : images->next;

	return next == images ? NULL : container_of(next, struct image, link);
}

/* Counts on; MAP_OK and not done: @leaves are used up. */
static enum map_result
count_image(struct pool *pool, struct image *image, unsigned *leaves, struct map_fault *fault)
{
	struct map *maps[MAP_UNIQUE_OTHERS_MAX];
	unsigned count;
	uint64_t stamp;

	if (image->deleted || image->kind == IMAGE_TRIMMED ||
	    (!image->parent && image->children == 0) ||
	    !neighbours(pool, image, maps, &count, &stamp))
		return MAP_OK;
	if (image->unique_stamp != stamp && pool->unique.image_id == image->id)
		return MAP_OK;
	if (image->unique_stamp != stamp)
		image->unique = (struct map_count){ 0 };
	image->unique_stamp = stamp;
	pool->unique.image_id = image->id;
	if (image->unique.done)
		return MAP_OK;
	return map_count_unique(
	    &pool->nodes, &image->map, maps, count, leaves, &image->unique, fault);
}

static void
step(struct task *task)
{
	struct pool *pool = container_of(task, struct pool, unique.step);
	struct unique *u = &pool->unique;
	unsigned leaves = LEAVES_AT_A_TIME;
	/* It may be gone since the last step: then all are looked at again. */
	struct image *image = u->image_id ? catalog_image(&pool->catalog, u->image_id) : NULL;

	if (!image)
		image = image_behind(pool, NULL);
	for (; image; image = image_behind(pool, image)) {
		struct map_fault fault;

		if (pool->state == POOL_CLOSING)
			break;
		if (!u->pinned) {
			node_pin_begin(&pool->nodes, &u->pin);
			u->pinned = true;
		}
		if (count_image(pool, image, &leaves, &fault) == MAP_FAULT) {
			node_load(pool, &fault, &u->load);
			return;
		}
		if (leaves == 0) {
			unpin(pool);
			reactor_timer_start(pool->reactor, &u->next, 0);
			return;
		}
	}
	finish(pool);
}

static void
next_turn(struct timer *timer)
{
	step(&container_of(timer, struct pool, unique.next)->unique.step);
}

/* What cannot be read is not known. */
static void
loaded(struct waiter *waiter, int error)
{
	struct pool *pool = container_of(waiter, struct pool, unique.load);

	if (error)
		finish(pool);
	else
		step(&pool->unique.step);
}

void
unique_init(struct pool *pool)
{
	list_init(&pool->unique.waiters);
	task_init(&pool->unique.step, step);
	timer_init(&pool->unique.next, next_turn);
	timer_init(&pool->unique.limit, waited);
	waiter_init(&pool->unique.load, loaded);
}

void
unique_count(struct pool *pool, struct waiter *waiter)
{
	struct unique *u = &pool->unique;

	list_push_back(&u->waiters, &waiter->link);
	if (u->limit.heap_index == 0)
		reactor_timer_start(pool->reactor, &u->limit, WAIT_MAX_NS);
	if (u->active)
		return;
	u->active = true;
	u->image_id = 0;
	reactor_defer(pool->reactor, &u->step);
}
