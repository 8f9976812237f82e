/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine without a server, for measurements of it alone: a pool on one device, one volume, and
 * requests of which so many are always in flight.  What goes wrong ends the program.
 */
#ifndef QUARRY_TESTS_BENCH_ENGINE_H
#define QUARRY_TESTS_BENCH_ENGINE_H

#include "core/pool_internal.h"

#define ENGINE_DEPTH 32u

struct engine;

struct engine_request {
	struct volume_io io;
	struct engine *engine;
	uint8_t *buffer; /* of buffer_blocks */
};

struct engine {
	struct reactor reactor;
	struct pool *pool;
	struct volume *volume;
	struct engine_request requests[ENGINE_DEPTH];
	/* Sets op, offset and length of the next request. */
	void (*next)(struct engine *engine, struct engine_request *request);
	/* One that was answered without an error; NULL: nobody cares. */
	void (*answered)(struct engine *engine, struct engine_request *request);
	uint64_t left; /* requests to begin */
	unsigned in_flight;
	bool idle;
	uint64_t random;
	/* The clock of the reactor is virtual: a microsecond for each turn; or, if spent_ns() is
	 * set, what that says.  And what would be waited for is skipped. */
	uint64_t (*spent_ns)(struct engine *engine);
	uint64_t now_ns;
	uint64_t skipped_ns;
};

/* Unless @good, ends the program. */
void engine_check(bool good, const char *what, const char *why);

void engine_init(struct engine *engine, uint32_t buffer_blocks);
/* Ends it in good order: the pool with a last checkpoint. */
void engine_fini(struct engine *engine);

/* The reactor forgets all that it was to do, as if the process had been killed and begun again; the
 * pool is leaked, except for what is large. */
void engine_kill(struct engine *engine);

void engine_create_pool(
    struct engine *engine, struct device *device, uint32_t slab_blocks, uint64_t node_cache_bytes);
void engine_import_pool(struct engine *engine, struct device *device, uint64_t node_cache_bytes);
void engine_create_volume(struct engine *engine, uint64_t size_bytes);
void engine_open_volume(struct engine *engine);

/* One turn, or what is waited for; false: nothing will ever happen again. */
bool engine_turn(struct engine *engine);
void engine_run(struct engine *engine, const bool *done);
/* Begins @count requests. */
void engine_begin_requests(struct engine *engine, uint64_t count);
/* Runs @count requests. */
void engine_run_requests(struct engine *engine, uint64_t count);

/* Less than @n. */
uint64_t engine_draw(struct engine *engine, uint64_t n);

#endif
