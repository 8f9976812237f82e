/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device_watch.h"

#include <stdlib.h>

#include "core/buffer.h"

/* What the backend gets in place of the submitter's request. */
struct shadow {
	struct device_io io;
	struct list link;     /* of `unused` */
	struct device_io *of; /* NULL: it was given up */
	struct device_watch *watch;
	struct iovec iov; /* of a READ or WRITE: all of `buffer` */
	void *buffer;
};

static void look(struct timer *timer);

static uint64_t
now_ns(const struct device_watch *watch)
{
	return watch->device->reactor->now_ns;
}

void
device_watch_begin(struct device_watch *watch, struct device *device, bool shadowed)
{
	CHECK(!device->watch && watch->patience_ns > 0 && watch->limit_ns >= watch->patience_ns);
	watch->device = device;
	watch->shadowed = shadowed;
	watch->told = false;
	watch->given_up = 0;
	list_init(&watch->waiting);
	list_init(&watch->unused);
	timer_init(&watch->timer, look);
	watch->buffers = shadowed ? buffer_pool_create(0) : NULL;
	device->watch = watch;
}

void
device_watch_end(struct device *device)
{
	struct device_watch *watch = device->watch;

	if (!watch)
		return;
	reactor_timer_cancel(device->reactor, &watch->timer);
	watch->stalled = NULL;
	watch->answers = NULL;
}

void
device_watch_free(struct device_watch *watch)
{
	struct list *node;

	if (!watch)
		return;
	CHECK(list_empty(&watch->waiting) && watch->given_up == 0);
	reactor_timer_cancel(watch->device->reactor, &watch->timer);
	while ((node = list_pop_front(&watch->unused)))
		free(container_of(node, struct shadow, link));
	if (watch->buffers)
		buffer_pool_free(watch->buffers);
	free(watch);
}

/* --- shadows --- */

static void
copy_out(const struct device_io *io, const uint8_t *from)
{
	for (uint32_t i = 0; i < io->iov_count; i++) {
		memcpy(io->iov[i].iov_base, from, io->iov[i].iov_len);
		from += io->iov[i].iov_len;
	}
}

static void
copy_in(const struct device_io *io, uint8_t *to)
{
	for (uint32_t i = 0; i < io->iov_count; i++) {
		memcpy(to, io->iov[i].iov_base, io->iov[i].iov_len);
		to += io->iov[i].iov_len;
	}
}

static void
shadow_put(struct shadow *shadow)
{
	struct device_watch *watch = shadow->watch;

	if (shadow->buffer)
		buffer_put(watch->buffers, shadow->buffer, shadow->io.len_bytes);
	list_push_front(&watch->unused, &shadow->link);
}

static void
shadow_done(struct device_io *io)
{
	struct shadow *shadow = container_of(io, struct shadow, io);
	struct device_io *of = shadow->of;

	if (!of) {
		shadow->watch->given_up--;
		return shadow_put(shadow);
	}
	list_remove(&of->link);
	of->shadow = NULL;
	of->error = io->error;
	if (io->op == DEVICE_READ && !io->error)
		copy_out(of, shadow->buffer);
	shadow_put(shadow);
	of->done(of);
}

static struct shadow *
shadow_get(struct device_watch *watch, struct device_io *of)
{
	struct list *node = list_pop_front(&watch->unused);
	struct shadow *shadow =
	    node ? container_of(node, struct shadow, link) : xcalloc(1, sizeof(*shadow));
	struct device_io *io = &shadow->io;

	shadow->of = of;
	shadow->watch = watch;
	shadow->buffer = NULL;
	*io = (struct device_io){
		.op = of->op,
		.offset_bytes = of->offset_bytes,
		.len_bytes = of->len_bytes,
		.done = shadow_done,
		.device = watch->device,
	};
	list_init(&io->link);
	if (of->op == DEVICE_READ || of->op == DEVICE_WRITE) {
		shadow->buffer = buffer_get_beyond(watch->buffers, of->len_bytes);
		if (!shadow->buffer)
			out_of_memory(of->len_bytes);
		shadow->iov = (struct iovec){ shadow->buffer, of->len_bytes };
		io->iov = &shadow->iov;
		io->iov_count = 1;
	}
	if (of->op == DEVICE_WRITE)
		copy_in(of, shadow->buffer);
	of->shadow = shadow;
	return shadow;
}

void
device_watch_submit(struct device_watch *watch, struct device_io *io)
{
	struct device *device = watch->device;

	io->since_ns = now_ns(watch);
	io->shadow = NULL;
	list_push_back(&watch->waiting, &io->link);
	if (watch->timer.heap_index == 0 && watch->stalled)
		reactor_timer_start(device->reactor, &watch->timer, watch->patience_ns);
	device->in_flight++;
	device->ops->submit(device, watch->shadowed ? &shadow_get(watch, io)->io : io);
}

/* --- giving up --- */

static void
give_up(struct device_watch *watch, struct list *requests, int error)
{
	struct list *node;

	/* What done() submits waits elsewhere, and nothing of the list is done from inside it. */
	while ((node = list_pop_front(requests))) {
		struct device_io *io = container_of(node, struct device_io, link);

		io->shadow->of = NULL;
		io->shadow = NULL;
		watch->given_up++;
		io->error = error;
		io->done(io);
	}
}

void
device_watch_give_up(struct device_watch *watch, int error)
{
	struct list all;

	CHECK(watch->shadowed);
	list_init(&all);
	list_splice_back(&all, &watch->waiting);
	give_up(watch, &all, error);
}

/* READs for which there is another place. */
static void
give_up_late_reads(struct device_watch *watch)
{
	struct list late;

	list_init(&late);
	list_for_each_safe(node, &watch->waiting) {
		struct device_io *io = container_of(node, struct device_io, link);

		if (now_ns(watch) - io->since_ns < watch->patience_ns)
			break;
		if (io->op != DEVICE_READ || !io->may_give_up)
			continue;
		list_remove(&io->link);
		list_push_back(&late, &io->link);
	}
	give_up(watch, &late, -ETIME);
}

static uint64_t
waited_ns(const struct device_watch *watch)
{
	if (list_empty(&watch->waiting))
		return 0;
	return now_ns(watch) - list_first(&watch->waiting, struct device_io, link)->since_ns;
}

bool
device_watch_is_slow(const struct device *device)
{
	const struct device_watch *watch = device->watch;

	return watch && (watch->given_up > 0 || waited_ns(watch) >= watch->patience_ns);
}

static void
look(struct timer *timer)
{
	struct device_watch *watch = container_of(timer, struct device_watch, timer);
	uint64_t cached_bytes = 0;

	if (watch->shadowed)
		give_up_late_reads(watch);
	if (watch->stalled && waited_ns(watch) >= watch->limit_ns) {
		watch->told = true;
		watch->stalled(watch, waited_ns(watch));
	} else if (watch->told && watch->given_up == 0) {
		watch->told = false;
		watch->answers(watch);
	}
	/* An idle device has no timer, and soon no memory. */
	if (watch->buffers)
		cached_bytes = buffer_pool_trim(watch->buffers);
	if (watch->stalled && (!list_empty(&watch->waiting) || watch->told || cached_bytes > 0) &&
	    watch->timer.heap_index == 0)
		reactor_timer_start(watch->device->reactor, &watch->timer, watch->patience_ns / 2);
}
