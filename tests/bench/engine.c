/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/engine.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/pool_admin.h"

void
engine_check(bool good, const char *what, const char *why)
{
	if (good)
		return;
	fprintf(stderr, "%s: %s\n", what, why);
	exit(1);
}

uint64_t
engine_draw(struct engine *engine, uint64_t n)
{
	engine->random += 0x9e3779b97f4a7c15ull;
	return mix64(engine->random) % n;
}

/* --- running --- */

bool
engine_turn(struct engine *engine)
{
	uint64_t deadline_ns;

	engine->now_ns += 1000;
	if (engine->spent_ns)
		engine->now_ns = engine->spent_ns(engine) + engine->skipped_ns;
	if (reactor_run_turn(&engine->reactor, engine->now_ns))
		return true;
	deadline_ns = reactor_next_deadline_ns(&engine->reactor);
	if (deadline_ns == UINT64_MAX)
		return false;
	if (deadline_ns > engine->now_ns) {
		engine->skipped_ns += deadline_ns - engine->now_ns;
		engine->now_ns = deadline_ns;
	}
	return true;
}

void
engine_run(struct engine *engine, const bool *done)
{
	while (!*done)
		engine_check(
		    engine_turn(engine) || *done, "the engine", "nothing will ever happen again");
}

static void
submit_next(struct engine_request *request)
{
	struct engine *engine = request->engine;

	if (engine->left == 0) {
		engine->idle = engine->in_flight == 0;
		return;
	}
	engine->left--;
	engine->in_flight++;
	request->io.buffer = request->buffer;
	engine->next(engine, request);
	volume_submit(engine->volume, &request->io);
}

static void
request_done(struct volume_io *io)
{
	struct engine_request *request = container_of(io, struct engine_request, io);
	struct engine *engine = request->engine;

	engine_check(io->error == 0, "a request", strerror(-io->error));
	if (engine->answered)
		engine->answered(engine, request);
	engine->in_flight--;
	submit_next(request);
}

void
engine_begin_requests(struct engine *engine, uint64_t count)
{
	engine->left = count;
	engine->idle = false;
	for (unsigned i = 0; i < ENGINE_DEPTH; i++)
		submit_next(&engine->requests[i]);
}

void
engine_run_requests(struct engine *engine, uint64_t count)
{
	engine_begin_requests(engine, count);
	engine_run(engine, &engine->idle);
}

/* --- its life --- */

void
engine_init(struct engine *engine, uint32_t buffer_blocks)
{
	memset(engine, 0, sizeof(*engine));
	reactor_init(&engine->reactor);
	reactor_set_current(&engine->reactor);
	for (unsigned i = 0; i < ENGINE_DEPTH; i++) {
		struct engine_request *request = &engine->requests[i];

		request->engine = engine;
		request->io.done = request_done;
		request->buffer = xalloc_pages(buffer_blocks * (size_t)BLOCK_BYTES);
		memset(request->buffer, 0x5a, buffer_blocks * (size_t)BLOCK_BYTES);
	}
}

struct closing {
	struct pool_stop stop;
	bool done;
};

static void
stopped(struct pool_stop *stop)
{
	engine_check(stop->error == 0, "export", strerror(-stop->error));
	container_of(stop, struct closing, stop)->done = true;
}

void
engine_fini(struct engine *engine)
{
	struct closing closing = { .stop.done = stopped };

	volume_close(engine->volume);
	pool_stop(engine->pool, &closing.stop);
	engine_run(engine, &closing.done);
	reactor_set_current(NULL);
	reactor_fini(&engine->reactor);
	for (unsigned i = 0; i < ENGINE_DEPTH; i++)
		free(engine->requests[i].buffer);
}

void
engine_kill(struct engine *engine)
{
	nodes_fini(&engine->pool->nodes);
	space_fini(&engine->pool->space);
	engine->pool = NULL;
	engine->volume = NULL;
	engine->in_flight = 0;
	reactor_fini(&engine->reactor);
	reactor_init(&engine->reactor);
}

struct opening {
	struct pool_start start;
	bool done;
};

static void
opened(struct pool_start *start)
{
	engine_check(start->error.code == 0, "the pool", start->error.text);
	container_of(start, struct opening, start)->done = true;
}

void
engine_create_pool(
    struct engine *engine, struct device *device, uint32_t slab_blocks, uint64_t node_cache_bytes)
{
	struct pool_config config = {
		.reactor = &engine->reactor,
		.node_cache_bytes = node_cache_bytes,
	};
	struct opening opening = { .start.done = opened };

	pool_create(&config, "p", &device, 1, slab_blocks, 1, &opening.start);
	engine_run(engine, &opening.done);
	engine->pool = opening.start.pool;
}

void
engine_import_pool(struct engine *engine, struct device *device, uint64_t node_cache_bytes)
{
	struct pool_config config = {
		.reactor = &engine->reactor,
		.node_cache_bytes = node_cache_bytes,
	};
	struct opening opening = { .start.done = opened };

	pool_import(&config, &device, 1, &opening.start);
	engine_run(engine, &opening.done);
	engine->pool = opening.start.pool;
	engine_check(engine->pool->state == POOL_ONLINE, "the pool", engine->pool->state_reason);
}

struct change {
	struct admin_request request;
	bool done;
};

static void
changed(struct admin_request *request)
{
	engine_check(request->error.code == 0, "volume create", request->error.text);
	container_of(request, struct change, request)->done = true;
}

static struct name
volume_name(void)
{
	struct error error = { 0 };
	struct name name;

	engine_check(name_parse(&name, "p/v", &error) == 0, "the name", error.text);
	return name;
}

void
engine_create_volume(struct engine *engine, uint64_t size_bytes)
{
	struct change change = { 0 };

	change.request.verb = ADMIN_VOLUME_CREATE;
	change.request.name = volume_name();
	change.request.size_bytes = size_bytes;
	pool_admin(engine->pool, &change.request, changed);
	engine_run(engine, &change.done);
	engine_open_volume(engine);
}

void
engine_open_volume(struct engine *engine)
{
	struct name name = volume_name();
	int error = 0;

	engine->volume = volume_open(engine->pool, &name, false, &engine->reactor, &error);
	engine_check(engine->volume != NULL, "the volume", strerror(-error));
}
