/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests on volumes: from the frontend's reactor to the pool's and back, and what all kinds of
 * request share.  A request holds nothing of the volume but its count in runtime->in_flight, its
 * pin, and its block lock; request_finish() gives all of it back.
 */
#include "core/base/mutant.h"
#include "core/pool_admin.h"

#include <stdio.h>
#include <stdlib.h>

const struct volume_info *
volume_info(const struct volume *volume)
{
	struct volume *v = (struct volume *)(uintptr_t)volume;

	v->info.size_bytes = atomic_load_explicit(&v->size_bytes, memory_order_relaxed);
	return &v->info;
}

const uint8_t *
volume_note(const struct volume *volume, size_t *len_bytes)
{
	*len_bytes = volume->note_len_bytes;
	return volume->note;
}

/* --- life of a request --- */

void
request_fail(struct volume_request *request, int error)
{
	if (!request->error)
		request->error = error;
}

static void
request_wake(struct waiter *waiter, int error)
{
	struct volume_request *request = container_of(waiter, struct volume_request, wait);

	if (error) {
		request_fail(request, error);
		request->phase = request->appended ? REQUEST_APPLY : REQUEST_DONE;
	}
	request->step(request);
}

void
request_pin(struct volume_request *request)
{
	if (!request->pinned) {
		node_pin_begin(&request->pool->nodes, &request->pin);
		request->pinned = true;
	}
}

void
request_unpin(struct volume_request *request)
{
	if (request->pinned) {
		node_pin_end(&request->pool->nodes, &request->pin);
		request->pinned = false;
		nodes_evict(&request->pool->nodes);
	}
}

void
request_load(struct volume_request *request)
{
	node_load(request->pool, &request->fault, &request->wait);
}

void
request_return_promise(struct volume_request *request)
{
	struct pool *pool = request->pool;

	if (!request->promised)
		return;
	pool->nodes_promised -= request->promised;
	request->promised = 0;
	waiters_wake(&pool->space_waiters, 0);
}

static struct volume_request *
request_get(struct pool *pool)
{
	struct list *node = list_pop_front(&pool->unused_requests);
	struct volume_request *request;

	if (node) {
		request = container_of(node, struct volume_request, link);
		memset(request, 0, offsetof(struct volume_request, entries));
	} else {
		request = xcalloc(1, sizeof(*request));
	}
	list_init(&request->link);
	list_init(&request->lock_link);
	list_init(&request->append.link);
	list_init(&request->flush.link);
	waiter_init(&request->wait, request_wake);
	request->pool = pool;
	return request;
}

static void
answer(struct task *task)
{
	struct volume_io *io = container_of(task, struct volume_io, task);

	io->done(io);
}

/* Hands the answer to the frontend, on its own reactor. */
static void
io_finish(struct volume_io *io, int error)
{
	struct volume *volume = io->volume;

	io->error = error;
	if (volume->reactor == volume->pool_reactor) {
		io->done(io);
		return;
	}
	task_init(&io->task, answer);
	reactor_post(volume->reactor, &io->task);
}

void
request_release(struct volume_request *request)
{
	struct pool *pool = request->pool;
	struct volume_runtime *runtime = request->runtime;

	request_unpin(request);
	request_return_promise(request);
	if (request->locked) {
		list_remove(&request->lock_link);
		waiters_wake(&runtime->lock_waiters, 0);
	}
	free(request->edges);
	list_push_front(&pool->unused_requests, &request->link);
	pool->requests_in_flight--;
	if (runtime) {
		runtime->in_flight--;
		if (runtime->in_flight == 0 && runtime->drained) {
			struct waiter *drained = runtime->drained;

			runtime->drained = NULL;
			drained->wake(drained, 0);
		}
	}
}

void
request_finish(struct volume_request *request)
{
	struct volume_io *io = request->io;
	int error = request->error;

	request_release(request);
	io_finish(io, error);
}

/* How many blocks it touches. */
static uint64_t
blocks_of(const struct volume_io *io)
{
	return div_round_up(io->offset_bytes + io->len_bytes, BLOCK_BYTES) -
	       io->offset_bytes / BLOCK_BYTES;
}

static int
check_io(const struct volume *volume, const struct volume_io *io, uint64_t size_bytes)
{
	bool changes = io->op == VOLUME_WRITE || io->op == VOLUME_COMPARE_WRITE ||
		       io->op == VOLUME_TRIM || io->op == VOLUME_ZERO;

	if (!volume->pool || (!volume->runtime && !volume->snapshot))
		return -ESHUTDOWN;
	if (volume->pool->state == POOL_FAILED && (changes || io->op == VOLUME_FLUSH))
		return -EIO;
	if (changes &&
	    (volume->snapshot || volume->readonly || volume->pool->state != POOL_ONLINE ||
		volume->runtime->record->flags & CATALOG_READONLY))
		return -EROFS;
	if (io->op == VOLUME_FLUSH)
		return 0;
	if (io->op == VOLUME_STATUS && io->older && io->older->pool != volume->pool)
		return -ESHUTDOWN;
	if (io->offset_bytes > size_bytes || io->len_bytes > size_bytes - io->offset_bytes)
		return -EINVAL;
	if ((io->op == VOLUME_READ || io->op == VOLUME_WRITE) &&
	    io->len_bytes > VOLUME_IO_BYTES_MAX)
		return -EINVAL;
	if (io->op == VOLUME_COMPARE_WRITE && io->len_bytes > 0 &&
	    blocks_of(io) * BLOCK_BYTES > volume->info.atomic_bytes_max && !MUTANT(COMPARE_LONG))
		return -EINVAL;
	return 0;
}

static void
choose_step(struct volume_request *request)
{
	switch (request->io->op) {
	case VOLUME_READ:
		request->step = volume_read_step;
		return;
	case VOLUME_WRITE:
	case VOLUME_COMPARE_WRITE:
		request->step = volume_write_step;
		return;
	case VOLUME_FLUSH:
		request->step = volume_flush_step;
		return;
	case VOLUME_TRIM:
	case VOLUME_ZERO:
		request->step = volume_zero_step;
		return;
	case VOLUME_CACHE:
		request->step = volume_cache_step;
		return;
	case VOLUME_STATUS:
		request->step = volume_status_step;
		return;
	}
	CHECK(false);
}

static void
io_begin(struct task *task)
{
	struct volume_io *io = container_of(task, struct volume_io, task);
	struct volume *volume = io->volume;
	uint64_t size_bytes = atomic_load_explicit(&volume->size_bytes, memory_order_relaxed);
	int error = check_io(volume, io, size_bytes);
	struct volume_request *request;

	if (error || (io->len_bytes == 0 && io->op != VOLUME_FLUSH)) {
		io->extents_count = 0;
		io_finish(io, error);
		return;
	}
	if (volume->runtime && volume->runtime->paused) {
		list_push_back(&volume->runtime->paused_requests, &io->task.link);
		return;
	}
	request = request_get(volume->pool);
	request->io = io;
	request->volume = volume;
	request->runtime = volume->runtime;
	request->image = volume->snapshot ? volume->snapshot : volume->runtime->record->head;
	request->done_blocks = io->full_done_blocks;
	request->lba = io->offset_bytes / BLOCK_BYTES;
	request->count = blocks_of(io);
	if (request->runtime)
		request->runtime->in_flight++;
	volume->pool->requests_in_flight++;
	choose_step(request);
	request->step(request);
}

void
volume_submit(struct volume *volume, struct volume_io *io)
{
	io->volume = volume;
	io->error = 0;
	io->full_since_ns = 0;
	io->full_done_blocks = 0;
	io->full_gives_up = false;
	task_init(&io->task, io_begin);
	if (volume->reactor == volume->pool_reactor)
		reactor_defer(volume->reactor, &io->task);
	else
		reactor_post(volume->pool_reactor, &io->task);
}

/* --- pausing a volume --- */

void
volume_pause(struct pool *pool, struct volume_runtime *runtime, struct waiter *waiter)
{
	CHECK(!runtime->paused && !runtime->drained);
	runtime->paused = true;
	volume_full_forget_progress(pool, runtime);
	if (runtime->in_flight == 0 || MUTANT(PAUSE_WAITS_NOT))
		waiter->wake(waiter, 0);
	else
		runtime->drained = waiter;
}

void
volume_resume(struct pool *pool, struct volume_runtime *runtime)
{
	struct list *node;

	CHECK(runtime->paused);
	runtime->paused = false;
	while ((node = list_pop_front(&runtime->paused_requests)))
		reactor_defer(pool->reactor, container_of(node, struct task, link));
}

/* --- handles --- */

struct volume_runtime *
volume_runtime(struct pool *pool, struct volume_record *record)
{
	struct volume_runtime *runtime = record->runtime;

	(void)pool;
	if (!runtime) {
		runtime = xcalloc(1, sizeof(*runtime));
		runtime->record = record;
		list_init(&runtime->paused_requests);
		list_init(&runtime->locks);
		list_init(&runtime->lock_waiters);
		record->runtime = runtime;
	}
	return runtime;
}

struct volume *
volume_open(
    struct pool *pool, const struct name *name, bool readonly, struct reactor *reactor, int *error)
{
	struct volume_record *record = catalog_find_volume(&pool->catalog, name->volume);
	struct image *snapshot = NULL;
	struct volume *volume;

	*error = -ENOENT;
	if (!record)
		return NULL;
	if (name->snapshot[0]) {
		snapshot = catalog_find_snapshot(&pool->catalog, record, name->snapshot);
		if (!snapshot)
			return NULL;
	}
	*error = pool_admin_bars(pool, record, snapshot);
	if (*error)
		return NULL;
	volume = xcalloc(1, sizeof(*volume));
	volume->pool = pool;
	volume->pool_reactor = pool->reactor;
	volume->reactor = reactor;
	volume->snapshot = snapshot;
	volume->readonly = readonly;
	if (!snapshot) {
		volume->runtime = volume_runtime(pool, record);
		volume->runtime->handles++;
	}
	volume->info.name = *name;
	volume->info.uuid = record->uuid;
	volume->info.size_bytes = snapshot ? snapshot->size_bytes : record->size_bytes;
	volume->fill = pool_fill_get(pool->fill);
	pool_fill_changed(pool);
	memcpy(&volume->info.import, &pool->pulse.session, sizeof(volume->info.import));
	volume->info.keeps_notes = !snapshot && pool_keeps_notes(pool);
	volume->info.block_bytes = catalog_block_bytes(record);
	volume->info.atomic_bytes_max =
	    log_atomic_blocks(pool->space.slab_blocks) * (uint64_t)BLOCK_BYTES;
	for (uint32_t i = 0; i < pool->device_count; i++)
		if (pool->devices[i].device && pool->devices[i].device->rotational)
			volume->info.rotational = true;
	volume->info.readonly =
	    snapshot || readonly || pool->state != POOL_ONLINE || record->flags & CATALOG_READONLY;
	atomic_init(&volume->size_bytes, volume->info.size_bytes);
	list_push_back(&pool->handles, &volume->link);
	return volume;
}

void
volume_take_note(struct volume *volume, enum note_kind kind)
{
	const struct note *note = volume->runtime ? volume->runtime->record->notes[kind] : NULL;

	if (!note)
		return;
	volume->note = xmalloc(note->len_bytes);
	memcpy(volume->note, note->bytes, note->len_bytes);
	volume->note_len_bytes = note->len_bytes;
}

void
volume_detach(struct pool *pool, struct volume *volume)
{
	volume_full_wake(pool, volume);
	if (volume->runtime)
		volume->runtime->handles--;
	list_remove(&volume->link);
	volume->runtime = NULL;
	volume->snapshot = NULL;
	volume->pool = NULL;
}

static void
close_handle(struct task *task)
{
	struct volume *volume = container_of(task, struct volume, task);

	if (volume->pool)
		volume_detach(volume->pool, volume);
	pool_fill_put(volume->fill);
	free(volume->note);
	free(volume);
}

void
volume_close(struct volume *volume)
{
	task_init(&volume->task, close_handle);
	if (volume->reactor == volume->pool_reactor)
		reactor_defer(volume->pool_reactor, &volume->task);
	else
		reactor_post(volume->pool_reactor, &volume->task);
}

uint32_t
volume_clients(
    const struct pool *pool, const struct volume_runtime *runtime, const struct image *snapshot)
{
	uint32_t clients = 0;

	list_for_each(node, &pool->handles) {
		const struct volume *volume = container_of(node, struct volume, link);

		clients += (runtime && volume->runtime == runtime) ||
			   (snapshot && volume->snapshot == snapshot);
	}
	return clients;
}
