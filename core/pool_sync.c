/* SPDX-License-Identifier: Apache-2.0 */
/* See pool_sync.h.  An operation that has ended has no done() any more. */
#include "core/pool_sync.h"

#include "core/pool_admin.h"

void
pool_sync_run(struct reactor *reactor, bool (*ended)(const void *what), const void *what)
{
	while (!ended(what)) {
		bool ran = reactor_run_turn(reactor, reactor->now_ns);
		uint64_t next_ns = reactor_next_deadline_ns(reactor);

		if (ran || ended(what))
			continue;
		CHECK(next_ns != UINT64_MAX);
		reactor_run_turn(reactor, max_u64(next_ns, reactor->now_ns));
	}
}

void
pool_sync_settle(struct reactor *reactor)
{
	while (reactor_run_turn(reactor, reactor->now_ns))
		;
}

/* --- making, opening and ending pools --- */

static void
started(struct pool_start *start)
{
	start->done = NULL;
}

static bool
start_ended(const void *what)
{
	return !((const struct pool_start *)what)->done;
}

struct pool *
pool_sync_create(const struct pool_config *config, const char *name, struct device **devices,
    uint32_t device_count, uint32_t slab_blocks, struct pool_start *start)
{
	start->done = started;
	pool_create(config, name, devices, device_count, slab_blocks, 1, start);
	pool_sync_run(config->reactor, start_ended, start);
	return start->error.code ? NULL : start->pool;
}

struct pool *
pool_sync_import(const struct pool_config *config, struct device **devices, uint32_t device_count,
    struct pool_start *start)
{
	start->done = started;
	pool_import(config, devices, device_count, start);
	pool_sync_run(config->reactor, start_ended, start);
	return start->error.code ? NULL : start->pool;
}

static void
stopped(struct pool_stop *stop)
{
	stop->done = NULL;
}

static bool
stop_ended(const void *what)
{
	return !((const struct pool_stop *)what)->done;
}

void
pool_sync_stop(struct reactor *reactor, struct pool *pool, struct pool_stop *stop)
{
	stop->done = stopped;
	pool_stop(pool, stop);
	pool_sync_run(reactor, stop_ended, stop);
}

/* --- requests --- */

static void
administered(struct admin_request *request)
{
	request->done = NULL;
}

static bool
admin_ended(const void *what)
{
	return !((const struct admin_request *)what)->done;
}

int
pool_sync_admin(struct pool *pool, struct admin_request *request)
{
	request->done = administered;
	pool_admin(pool, request, administered);
	pool_sync_run(pool->reactor, admin_ended, request);
	return request->error.code;
}

int
pool_sync_target(struct reactor *reactor, struct target *target, struct admin_request *request)
{
	request->done = administered;
	target_admin(target, request);
	pool_sync_run(reactor, admin_ended, request);
	return request->error.code;
}

static void
transferred(struct volume_io *io)
{
	io->done = NULL;
}

static bool
io_ended(const void *what)
{
	return !((const struct volume_io *)what)->done;
}

int
pool_sync_io(struct reactor *reactor, struct volume *volume, struct volume_io *io)
{
	io->done = transferred;
	volume_submit(volume, io);
	pool_sync_run(reactor, io_ended, io);
	return io->error;
}
