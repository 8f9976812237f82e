/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it costs to overwrite an aged pool: the engine on a memory device, one volume that fills so
 * much of the pool, random 4 KiB overwrites (uniform, or 80 % of them in 20 % of the blocks) until
 * the pool was written five times over; then as much again is measured.
 *
 *   quarry-aged [--slabs N] [--slab-blocks N] [--uniform | --skewed] [PERCENT …]
 *
 * A line for each: bytes that relocation and clients wrote, and all bytes that the device got
 * (headers, maps and tables too), each per byte of the clients.  Then nobody uses the pool: what
 * relocation moves until nothing will happen any more, and the slabs that are free by then.  The
 * clock is virtual, so the figures are the same wherever it runs.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "backends/memory.h"
#include "core/base/diag.h"
#include "core/pool_admin.h"
#include "core/pool_internal.h"

#define DEPTH 32u
#define DEVICE_BYTES_PER_SLAB(blocks) ((uint64_t)(blocks)*BLOCK_BYTES)

struct aged {
	struct reactor reactor;
	struct pool *pool;
	struct volume *volume;
	struct request {
		struct volume_io io;
		struct aged *aged;
	} requests[DEPTH];
	uint8_t *buffer;
	uint64_t blocks; /* of the volume */
	uint64_t next;   /* write; the first `blocks` fill it in order */
	uint64_t end;
	uint64_t random;
	bool skewed;
	unsigned in_flight;
	bool done;
	uint64_t now_ns;
	uint64_t device_bytes;
	uint64_t table_bytes; /* of those: before the slabs */
	void (*submit)(struct device *device, struct device_io *io);
};

static struct aged *the_aged;

static void
check(bool good, const char *what, const char *why)
{
	if (good)
		return;
	fprintf(stderr, "%s: %s\n", what, why);
	exit(1);
}

static void
run(struct aged *aged, const bool *done)
{
	while (!*done) {
		uint64_t deadline_ns;

		aged->now_ns += 1000;
		if (reactor_run_turn(&aged->reactor, aged->now_ns) || *done)
			continue;
		deadline_ns = reactor_next_deadline_ns(&aged->reactor);
		check(deadline_ns != UINT64_MAX, "the engine", "nothing will ever happen again");
		aged->now_ns = max_u64(aged->now_ns, deadline_ns);
	}
}

static uint64_t
draw(struct aged *aged, uint64_t n)
{
	aged->random += 0x9e3779b97f4a7c15ull;
	return mix64(aged->random) % n;
}

static uint64_t
next_block(struct aged *aged)
{
	uint64_t hot = aged->blocks / 5;

	if (aged->next < aged->blocks)
		return aged->next;
	if (!aged->skewed)
		return draw(aged, aged->blocks);
	return draw(aged, 5) < 4 ? draw(aged, hot) : hot + draw(aged, aged->blocks - hot);
}

static void
submit_next(struct request *request)
{
	struct aged *aged = request->aged;

	if (aged->next == aged->end) {
		aged->done = aged->in_flight == 0;
		return;
	}
	request->io.op = VOLUME_WRITE;
	request->io.offset_bytes = next_block(aged) * BLOCK_BYTES;
	request->io.len_bytes = BLOCK_BYTES;
	request->io.buffer = aged->buffer;
	aged->next++;
	aged->in_flight++;
	volume_submit(aged->volume, &request->io);
}

static void
written(struct volume_io *io)
{
	struct request *request = container_of(io, struct request, io);

	check(io->error == 0, "a write", strerror(-io->error));
	request->aged->in_flight--;
	submit_next(request);
}

static void
write_blocks(struct aged *aged, uint64_t count)
{
	aged->end = aged->next + count;
	aged->done = false;
	for (unsigned i = 0; i < DEPTH; i++) {
		aged->requests[i].aged = aged;
		aged->requests[i].io.done = written;
		submit_next(&aged->requests[i]);
	}
	run(aged, &aged->done);
}

static void
counted_submit(struct device *device, struct device_io *io)
{
	if (io->op == DEVICE_WRITE)
		the_aged->device_bytes += io->len_bytes;
	if (io->op == DEVICE_WRITE && the_aged->pool &&
	    io->offset_bytes < the_aged->pool->space.devices[0].slabs_block * BLOCK_BYTES)
		the_aged->table_bytes += io->len_bytes;
	the_aged->submit(device, io);
}

struct opening {
	struct pool_start start;
	bool done;
};

static void
created(struct pool_start *start)
{
	check(start->error.code == 0, "create", start->error.text);
	container_of(start, struct opening, start)->done = true;
}

struct change {
	struct admin_request request;
	bool done;
};

static void
changed(struct admin_request *request)
{
	check(request->error.code == 0, "volume create", request->error.text);
	container_of(request, struct change, request)->done = true;
}

struct closing {
	struct pool_stop stop;
	bool done;
};

static void
stopped(struct pool_stop *stop)
{
	check(stop->error == 0, "export", strerror(-stop->error));
	container_of(stop, struct closing, stop)->done = true;
}

/* Until nothing will ever happen again. */
static void
rest(struct aged *aged)
{
	uint64_t moved = aged->pool->relocation.blocks_written;
	uint64_t slabs = aged->pool->space.free_count + aged->pool->space.empty_count;
	uint64_t began_ns = aged->now_ns, deadline_ns;

	for (;;) {
		aged->now_ns += 1000;
		if (reactor_run_turn(&aged->reactor, aged->now_ns))
			continue;
		deadline_ns = reactor_next_deadline_ns(&aged->reactor);
		if (deadline_ns == UINT64_MAX)
			break;
		check(aged->now_ns - began_ns < 3600ull * 1000 * 1000 * 1000, "an idle pool",
		    "it has worked for an hour, and has not come to an end");
		aged->now_ns = max_u64(aged->now_ns, deadline_ns);
	}
	moved = aged->pool->relocation.blocks_written - moved;
	printf(" %.1f %% | %llu → %llu |\n",
	    100 * (double)moved /
		(double)(aged->pool->space.slab_count * aged->pool->space.slab_blocks),
	    (unsigned long long)slabs,
	    (unsigned long long)(aged->pool->space.free_count + aged->pool->space.empty_count));
}

static void
measure(uint64_t slabs, uint32_t slab_blocks, unsigned percent, bool skewed)
{
	struct aged *aged = xcalloc(1, sizeof(*aged));
	struct memory_device_options options = { 0 };
	struct pool_config config = { .reactor = &aged->reactor, .node_cache_bytes = 256 * MIB };
	struct opening opening = { .start.done = created };
	struct change change = { 0 };
	struct closing closing = { .stop.done = stopped };
	uint64_t pool_blocks, moved, device_bytes, headers, table_bytes;
	struct device_ops ops;
	struct device *device;
	struct error named = { 0 };
	int error = 0;

	the_aged = aged;
	aged->skewed = skewed;
	reactor_init(&aged->reactor);
	reactor_set_current(&aged->reactor);
	device = memory_device_create(
	    &aged->reactor, slabs * slab_blocks * BLOCK_BYTES + 8 * MIB, "memory", &options);
	ops = *device->ops;
	aged->submit = ops.submit;
	ops.submit = counted_submit;
	device->ops = &ops;
	pool_create(&config, "p", &device, 1, slab_blocks, 1, &opening.start);
	run(aged, &opening.done);
	aged->pool = opening.start.pool;
	pool_blocks = aged->pool->space.slab_count * slab_blocks;
	aged->blocks = pool_blocks * percent / 100;
	change.request.verb = ADMIN_VOLUME_CREATE;
	check(name_parse(&change.request.name, "p/v", &named) == 0, "name", named.text);
	change.request.size_bytes = aged->blocks * BLOCK_BYTES;
	pool_admin(aged->pool, &change.request, changed);
	run(aged, &change.done);
	aged->volume = volume_open(aged->pool, &change.request.name, false, &aged->reactor, &error);
	check(aged->volume != NULL, "open", strerror(-error));
	aged->buffer = xalloc_pages(BLOCK_BYTES);
	memset(aged->buffer, 0x5a, BLOCK_BYTES);
	write_blocks(aged, aged->blocks);
	write_blocks(aged, 5 * pool_blocks);
	moved = aged->pool->relocation.blocks_written;
	device_bytes = aged->device_bytes;
	table_bytes = aged->table_bytes;
	headers = aged->pool->log.sequence;
	write_blocks(aged, pool_blocks);
	moved = aged->pool->relocation.blocks_written - moved;
	device_bytes = aged->device_bytes - device_bytes;
	table_bytes = aged->table_bytes - table_bytes;
	headers = aged->pool->log.sequence - headers;
	double client = (double)pool_blocks;
	double all = (double)device_bytes / BLOCK_BYTES / client;
	double table = (double)table_bytes / BLOCK_BYTES / client;

	printf("| %u %% | %s | %.2f | %.2f | %.3f | %.3f | %.3f |", percent,
	    skewed ? "80/20" : "uniform", 1 + (double)moved / client, all, (double)headers / client,
	    all - 1 - (double)(moved + headers) / client - table, table);
	rest(aged);
	fflush(stdout);
	volume_close(aged->volume);
	pool_stop(aged->pool, &closing.stop);
	run(aged, &closing.done);
	reactor_set_current(NULL);
	reactor_fini(&aged->reactor);
	free(aged->buffer);
	free(aged);
}

int
main(int argc, char **argv)
{
	static const struct option options[] = { { "slabs", required_argument, NULL, 's' },
		{ "slab-blocks", required_argument, NULL, 'b' },
		{ "uniform", no_argument, NULL, 'u' }, { "skewed", no_argument, NULL, 'k' },
		{ 0 } };
	static char *usual[] = { "50", "70", "80", "90" };
	uint64_t slabs = 1024;
	uint32_t slab_blocks = 256;
	unsigned first = 0, last = 1;
	char **percents = usual;
	int count = (int)ARRAY_SIZE(usual), option;

	while ((option = getopt_long(argc, argv, "s:b:uk", options, NULL)) != -1) {
		if (option == 's')
			slabs = strtoull(optarg, NULL, 10);
		else if (option == 'b')
			slab_blocks = (uint32_t)strtoul(optarg, NULL, 10);
		else if (option == 'u')
			last = 0;
		else if (option == 'k')
			first = 1;
		else
			return 2;
	}
	if (optind < argc) {
		percents = argv + optind;
		count = argc - optind;
	}
	diag_set_level(DIAG_ERROR);
	printf("%llu slabs of %u blocks\n\n| full | load | relocation and clients | the device | "
	       "headers | maps | table | moved at rest | free slabs |\n"
	       "|---|---|---:|---:|---:|---:|---:|---:|---:|\n",
	    (unsigned long long)slabs, slab_blocks);
	for (unsigned skewed = first; skewed <= last; skewed++)
		for (int i = 0; i < count; i++)
			measure(
			    slabs, slab_blocks, (unsigned)strtoul(percents[i], NULL, 10), skewed);
	return 0;
}
