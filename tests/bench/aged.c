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

#include "backends/memory.h"
#include "core/base/diag.h"
#include "tests/bench/engine.h"

struct aged {
	struct engine engine;
	uint64_t blocks; /* of the volume */
	uint64_t filled; /* of those: in order, before anything is overwritten */
	bool skewed;
	uint64_t device_bytes;
	uint64_t table_bytes; /* of those: before the slabs */
	void (*submit)(struct device *device, struct device_io *io);
};

static struct aged *the_aged;

static uint64_t
next_block(struct aged *aged)
{
	struct engine *engine = &aged->engine;
	uint64_t hot = aged->blocks / 5;

	if (aged->filled < aged->blocks)
		return aged->filled++;
	if (!aged->skewed)
		return engine_draw(engine, aged->blocks);
	return engine_draw(engine, 5) < 4 ? engine_draw(engine, hot)
					  : hot + engine_draw(engine, aged->blocks - hot);
}

static void
next_write(struct engine *engine, struct engine_request *request)
{
	struct aged *aged = container_of(engine, struct aged, engine);

	request->io.op = VOLUME_WRITE;
	request->io.offset_bytes = next_block(aged) * BLOCK_BYTES;
	request->io.len_bytes = BLOCK_BYTES;
}

static void
counted_submit(struct device *device, struct device_io *io)
{
	const struct pool *pool = the_aged->engine.pool;

	if (io->op == DEVICE_WRITE)
		the_aged->device_bytes += io->len_bytes;
	if (io->op == DEVICE_WRITE && pool &&
	    io->offset_bytes < pool->space.devices[0].slabs_block * BLOCK_BYTES)
		the_aged->table_bytes += io->len_bytes;
	the_aged->submit(device, io);
}

/* Until nothing will ever happen again. */
static void
rest(struct aged *aged)
{
	const struct pool *pool = aged->engine.pool;
	uint64_t moved = pool->relocation.blocks_written;
	uint64_t slabs = pool->space.free_count + pool->space.empty_count;
	uint64_t began_ns = aged->engine.now_ns;

	while (engine_turn(&aged->engine))
		engine_check(aged->engine.now_ns - began_ns < 3600ull * 1000 * 1000 * 1000,
		    "an idle pool", "it has worked for an hour, and has not come to an end");
	moved = pool->relocation.blocks_written - moved;
	printf(" %.1f %% | %llu → %llu |\n",
	    100 * (double)moved / (double)(pool->space.slab_count * pool->space.slab_blocks),
	    (unsigned long long)slabs,
	    (unsigned long long)(pool->space.free_count + pool->space.empty_count));
}

static void
measure(uint64_t slabs, uint32_t slab_blocks, unsigned percent, bool skewed)
{
	struct aged *aged = xcalloc(1, sizeof(*aged));
	struct engine *engine = &aged->engine;
	struct memory_device_options options = { 0 };
	uint64_t pool_blocks, moved, device_bytes, headers, table_bytes;
	struct device_ops ops;
	struct device *device;

	the_aged = aged;
	aged->skewed = skewed;
	engine_init(engine, 1);
	engine->next = next_write;
	device = memory_device_create(
	    &engine->reactor, slabs * slab_blocks * BLOCK_BYTES + 8 * MIB, "memory", &options);
	ops = *device->ops;
	aged->submit = ops.submit;
	ops.submit = counted_submit;
	device->ops = &ops;
	engine_create_pool(engine, device, slab_blocks, 256 * MIB);
	pool_blocks = engine->pool->space.slab_count * slab_blocks;
	aged->blocks = pool_blocks * percent / 100;
	engine_create_volume(engine, aged->blocks * BLOCK_BYTES);
	engine_run_requests(engine, aged->blocks);
	engine_run_requests(engine, 5 * pool_blocks);
	moved = engine->pool->relocation.blocks_written;
	device_bytes = aged->device_bytes;
	table_bytes = aged->table_bytes;
	headers = engine->pool->log.sequence;
	engine_run_requests(engine, pool_blocks);
	moved = engine->pool->relocation.blocks_written - moved;
	device_bytes = aged->device_bytes - device_bytes;
	table_bytes = aged->table_bytes - table_bytes;
	headers = engine->pool->log.sequence - headers;
	double client = (double)pool_blocks;
	double all = (double)device_bytes / BLOCK_BYTES / client;
	double table = (double)table_bytes / BLOCK_BYTES / client;

	printf("| %u %% | %s | %.2f | %.2f | %.3f | %.3f | %.3f |", percent,
	    skewed ? "80/20" : "uniform", 1 + (double)moved / client, all, (double)headers / client,
	    all - 1 - (double)(moved + headers) / client - table, table);
	rest(aged);
	fflush(stdout);
	engine_fini(engine);
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
