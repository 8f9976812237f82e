/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a large volume costs of which every block is mapped, at random: the engine on a disk that
 * keeps maps and forgets data (forgetful.h).
 *
 *   quarry-mapped [--size BYTES] [--scatter N] [--requests N] [--latency-us N] [--rate BYTES]
 *                 [NODE-CACHE …]
 *
 * The volume is filled in pieces of 256 KiB in random order; then --scatter blocks are overwritten
 * at random.  Then, for each size of node cache: the pool was killed just before a checkpoint would
 * have been durable, so that a replay is as long as can be, and is imported from a device that
 * takes --latency-us for each request and reads --rate a second; then random reads of 4 KiB with
 * what the replay has left in the cache, with the cache filled, and random writes, 32 at a time.
 *
 * Times are the processor's, without those of the disk; of an import, with what it waited for the
 * device.  A block that is read must be the one that was written there.
 */
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "core/base/size.h"
#include "tests/bench/engine.h"
#include "tests/bench/forgetful.h"

/* What a kill abandons is no leak. */
const char *__asan_default_options(void);
const char *
__asan_default_options(void)
{
	return "detect_leaks=0";
}

#define SLAB_BLOCKS 4096u
#define PIECE_BLOCKS 64u
/* Between two sweeps: nodes that died meanwhile take memory. */
#define REQUESTS_A_SWEEP 131072u

struct mapped {
	struct engine engine;
	struct forgetful_disk disk;
	uint64_t blocks;
	uint64_t order; /* of pieces, while it is filled */
	uint64_t step;
	uint64_t nodes_most; /* dirty and frozen */
	bool kill;
};

/* What a stretch of requests took. */
struct stretch {
	struct forgetful_counts counts;
	uint64_t spent_ns;
	uint64_t checkpoints;
};

static struct mapped *
mapped_of(struct engine *engine)
{
	return container_of(engine, struct mapped, engine);
}

static uint64_t
spent_ns(struct engine *engine)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec -
	       mapped_of(engine)->disk.counts.busy_ns;
}

/* --- requests --- */

static void
next_fill(struct engine *engine, struct engine_request *request)
{
	struct mapped *mapped = mapped_of(engine);
	uint64_t pieces = mapped->blocks / PIECE_BLOCKS;
	/* Pieces are a power of two, so an odd factor meets each of them once. */
	uint64_t first = mapped->order++ * 0x9e3779b97f4a7c15ull % pieces * PIECE_BLOCKS;

	for (uint32_t i = 0; i < PIECE_BLOCKS; i++)
		forgetful_mark(request->buffer + (size_t)i * BLOCK_BYTES, (uint32_t)(first + i));
	request->io.op = VOLUME_WRITE;
	request->io.offset_bytes = first * BLOCK_BYTES;
	request->io.len_bytes = (uint64_t)PIECE_BLOCKS * BLOCK_BYTES;
}

static void
next_write(struct engine *engine, struct engine_request *request)
{
	struct mapped *mapped = mapped_of(engine);
	uint64_t block = engine_draw(engine, mapped->blocks);
	const struct nodes *nodes = &engine->pool->nodes;

	mapped->nodes_most = max_u64(mapped->nodes_most, nodes->dirty_count + nodes->frozen_count);
	forgetful_mark(request->buffer, (uint32_t)block);
	request->io.op = VOLUME_WRITE;
	request->io.offset_bytes = block * BLOCK_BYTES;
	request->io.len_bytes = BLOCK_BYTES;
}

static void
next_read(struct engine *engine, struct engine_request *request)
{
	request->io.op = VOLUME_READ;
	request->io.offset_bytes = engine_draw(engine, mapped_of(engine)->blocks) * BLOCK_BYTES;
	request->io.len_bytes = BLOCK_BYTES;
}

/* One block of each leaf, in order. */
static void
next_leaf(struct engine *engine, struct engine_request *request)
{
	request->io.op = VOLUME_READ;
	request->io.offset_bytes = mapped_of(engine)->step++ * MAP_FANOUT * BLOCK_BYTES;
	request->io.len_bytes = BLOCK_BYTES;
}

static void
check_read(struct engine *engine, struct engine_request *request)
{
	(void)engine;
	if (request->io.op == VOLUME_READ)
		engine_check(
		    forgetful_number(request->buffer) == request->io.offset_bytes / BLOCK_BYTES,
		    "a read", "it is not what was written");
}

/* --- phases --- */

static bool
is_live(void *context, uint64_t block)
{
	const struct space *space = context;
	const struct space_device *device = &space->devices[0];
	uint64_t at = block - device->slabs_block;

	if (at / space->slab_blocks >= device->mark)
		return false;
	return bitmap_test(space_slab(device, (uint32_t)(at / space->slab_blocks))->live_bits,
	    at % space->slab_blocks);
}

static void
run(struct mapped *mapped, uint64_t count,
    void (*next)(struct engine *engine, struct engine_request *request), struct stretch *stretch)
{
	struct engine *engine = &mapped->engine;
	struct pool *pool = engine->pool;

	memset(stretch, 0, sizeof(*stretch));
	stretch->checkpoints = pool->checkpoint_number;
	mapped->nodes_most = 0;
	engine->next = next;
	while (count > 0) {
		uint64_t now = min_u64(count, REQUESTS_A_SWEEP);
		struct forgetful_counts *counts = &mapped->disk.counts;
		uint64_t began_ns = spent_ns(engine);

		engine_run_requests(engine, now);
		stretch->spent_ns += spent_ns(engine) - began_ns;
		count -= now;
#define ADD(what) (stretch->counts.what += counts->what, counts->what = 0)
		ADD(reads);
		ADD(node_reads);
		ADD(read_bytes);
		ADD(head_bytes);
		ADD(data_bytes);
		ADD(header_bytes);
		ADD(other_bytes);
#undef ADD
		forgetful_sweep(
		    &mapped->disk, (uint32_t)pool->checkpoint_number, is_live, &pool->space);
	}
	stretch->checkpoints = pool->checkpoint_number - stretch->checkpoints;
}

static bool
dies(void *context)
{
	const struct mapped *mapped = context;
	const struct pool *pool = mapped->engine.pool;

	return mapped->kill && pool && pool->checkpoint.phase == CHECKPOINT_SUPERBLOCK;
}

/* Random writes until the longest replay would come. */
static void
kill_it(struct mapped *mapped)
{
	struct engine *engine = &mapped->engine;

	mapped->kill = true;
	engine->next = next_write;
	engine_begin_requests(engine, UINT64_MAX);
	while (!mapped->disk.dead)
		engine_check(engine_turn(engine), "a checkpoint", "it does not come");
	engine_kill(engine);
	mapped->kill = false;
	mapped->disk.dead = false;
}

/* --- what is printed --- */

/* What malloc() gave; the disk and the nodes of maps have none of it. */
static uint64_t
allocated_bytes(void)
{
	struct mallinfo2 memory = mallinfo2();

	return memory.uordblks + memory.hblkhd;
}

static void
print_stretch(const char *cache, const char *what, uint64_t count, const struct stretch *stretch)
{
	double per = 1 / (double)count, blocks = per / BLOCK_BYTES;

	printf("| %s | %s | %.3f | %.2f |", cache, what, (double)stretch->counts.node_reads * per,
	    (double)stretch->spent_ns * per / 1000);
	if (stretch->counts.data_bytes == 0)
		printf(" | | | |\n");
	else
		printf(" %.3f | %.3f | %.3f | %.3f |\n",
		    (double)(stretch->counts.data_bytes + stretch->counts.header_bytes +
			     stretch->counts.other_bytes + stretch->counts.head_bytes) *
			blocks,
		    (double)stretch->counts.header_bytes * blocks,
		    (double)stretch->counts.other_bytes * blocks,
		    (double)stretch->counts.head_bytes * blocks);
	fflush(stdout);
}

struct recovery {
	char cache[SIZE_TEXT_BYTES];
	char memory[SIZE_TEXT_BYTES];
	struct forgetful_counts counts;
	uint64_t allocated_before; /* also by pools that were killed */
	double total_s;
	double spent_s;
	uint64_t dirty_most;
	uint64_t checkpoint_requests; /* between two checkpoints */
};

static void
import(struct mapped *mapped, uint64_t cache_bytes, uint64_t latency_ns, uint64_t bytes_per_s,
    struct recovery *recovery)
{
	struct engine *engine = &mapped->engine;
	struct forgetful_disk *disk = &mapped->disk;
	uint64_t began_ns, skipped_ns = engine->skipped_ns;

	memset(&disk->counts, 0, sizeof(disk->counts));
	recovery->allocated_before = allocated_bytes();
	disk->latency_ns = latency_ns;
	disk->bytes_per_s = bytes_per_s;
	began_ns = spent_ns(engine);
	engine_import_pool(engine, forgetful_device_open(disk, &engine->reactor), cache_bytes);
	recovery->spent_s = (double)(spent_ns(engine) - began_ns) / 1e9;
	recovery->total_s = recovery->spent_s + (double)(engine->skipped_ns - skipped_ns) / 1e9;
	recovery->counts = disk->counts;
	memset(&disk->counts, 0, sizeof(disk->counts));
	disk->latency_ns = 0;
	disk->bytes_per_s = 0;
	engine_open_volume(engine);
}

static void
measure(struct mapped *mapped, uint64_t cache_bytes, uint64_t requests, struct recovery *recovery)
{
	struct engine *engine = &mapped->engine;
	uint64_t leaves = mapped->blocks / MAP_FANOUT;
	struct stretch stretch;

	size_format(cache_bytes, recovery->cache);
	run(mapped, min_u64(requests, leaves / 8), next_read, &stretch);
	print_stretch(
	    recovery->cache, "reads, after recovery", min_u64(requests, leaves / 8), &stretch);
	mapped->step = 0;
	run(mapped, leaves, next_leaf, &stretch);
	run(mapped, requests, next_read, &stretch);
	print_stretch(recovery->cache, "reads", requests, &stretch);
	run(mapped, requests, next_write, &stretch);
	print_stretch(recovery->cache, "writes", requests, &stretch);
	recovery->dirty_most = mapped->nodes_most;
	recovery->checkpoint_requests = requests / max_u64(stretch.checkpoints, 1);
	size_format(allocated_bytes() - recovery->allocated_before +
			engine->pool->nodes.chunk_count * (uint64_t)NODE_CHUNK_BYTES,
	    recovery->memory);
	engine_check(engine->pool->relocation.blocks_written == 0, "the pool",
	    "it relocates, and needs what its disk has forgotten");
}

static void
fill(struct mapped *mapped, uint64_t scatter)
{
	struct stretch stretch;
	uint64_t pieces = mapped->blocks / PIECE_BLOCKS;

	run(mapped, pieces, next_fill, &stretch);
	fprintf(
	    stderr, "filled in %.0f s of the engine's time, and ", (double)stretch.spent_ns / 1e9);
	run(mapped, scatter, next_write, &stretch);
	fprintf(stderr, "scattered in %.0f s\n", (double)stretch.spent_ns / 1e9);
}

static uint64_t
size_of(const char *text)
{
	struct error error = { 0 };
	uint64_t bytes = 0;

	engine_check(size_parse(text, &bytes, &error) == 0, text, error.text);
	return bytes;
}

static void
mapped_run(uint64_t size_bytes, const uint64_t *caches, unsigned cache_count, uint64_t scatter,
    uint64_t requests, uint64_t latency_ns, uint64_t bytes_per_s)
{
	struct mapped *mapped = xcalloc(1, sizeof(*mapped));
	struct engine *engine = &mapped->engine;
	struct recovery *recoveries = xcalloc(cache_count, sizeof(*recoveries));

	mapped->blocks = size_bytes / BLOCK_BYTES;
	/* Room for twice what is mapped, and so for what is measured without relocation. */
	forgetful_disk_init(&mapped->disk, 2 * size_bytes + 4096 * MIB);
	mapped->disk.dies = dies;
	mapped->disk.context = mapped;
	engine_init(engine, PIECE_BLOCKS);
	engine->spent_ns = spent_ns;
	engine->answered = check_read;
	engine_create_pool(
	    engine, forgetful_device_open(&mapped->disk, &engine->reactor), SLAB_BLOCKS, caches[0]);
	mapped->disk.data_block = engine->pool->space.devices[0].slabs_block;
	engine_create_volume(engine, size_bytes);
	fill(mapped, scatter);
	printf("| node cache | | nodes read per request | engine, µs per request | written per "
	       "byte | headers | maps | table |\n|---|---|---:|---:|---:|---:|---:|---:|\n");
	for (unsigned i = 0; i < cache_count; i++) {
		kill_it(mapped);
		if (i > 0) { /* what was killed had this cache, too */
			import(mapped, caches[i], 0, 0, &recoveries[i]);
			kill_it(mapped);
		}
		import(mapped, caches[i], latency_ns, bytes_per_s, &recoveries[i]);
		measure(mapped, caches[i], requests, &recoveries[i]);
	}
	printf("\n| node cache | writes between checkpoints | nodes dirty, at most | memory of the "
	       "engine | recovery | of it processor | device reads | MiB read | MiB written |\n"
	       "|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
	for (unsigned i = 0; i < cache_count; i++) {
		const struct recovery *r = &recoveries[i];

		printf("| %s | %llu | %llu | %s | %.2f s | %.2f s | %llu | %llu | %llu |\n",
		    r->cache, (unsigned long long)r->checkpoint_requests,
		    (unsigned long long)r->dirty_most, r->memory, r->total_s, r->spent_s,
		    (unsigned long long)r->counts.reads,
		    (unsigned long long)(r->counts.read_bytes / MIB),
		    (unsigned long long)((r->counts.head_bytes + r->counts.data_bytes +
					     r->counts.header_bytes + r->counts.other_bytes) /
					 MIB));
	}
	engine_fini(engine);
	forgetful_disk_fini(&mapped->disk);
	free(recoveries);
	free(mapped);
}

int
main(int argc, char **argv)
{
	static const struct option options[] = { { "size", required_argument, NULL, 's' },
		{ "scatter", required_argument, NULL, 'c' },
		{ "requests", required_argument, NULL, 'n' },
		{ "latency-us", required_argument, NULL, 'l' },
		{ "rate", required_argument, NULL, 'r' }, { 0 } };
	uint64_t size_bytes = 1ull << 40, scatter = 0, requests = 0, latency_us = 100;
	uint64_t bytes_per_s = 1024 * MIB;
	uint64_t caches[16];
	unsigned count = 0;
	int option;

	while ((option = getopt_long(argc, argv, "s:c:n:l:r:", options, NULL)) != -1) {
		if (option == 's')
			size_bytes = size_of(optarg);
		else if (option == 'c')
			scatter = strtoull(optarg, NULL, 10);
		else if (option == 'n')
			requests = strtoull(optarg, NULL, 10);
		else if (option == 'l')
			latency_us = strtoull(optarg, NULL, 10);
		else if (option == 'r')
			bytes_per_s = size_of(optarg);
		else
			return 2;
	}
	engine_check(size_bytes >= 1024 * MIB && size_bytes <= 8ull << 40 &&
			 (size_bytes & (size_bytes - 1)) == 0,
	    "--size", "a power of two from 1 GiB to 8 TiB is needed");
	for (; optind < argc && count < ARRAY_SIZE(caches); optind++)
		caches[count++] = size_of(argv[optind]);
	if (count == 0) {
		/* As quarryd has it; and one that holds a quarter of the map. */
		caches[count++] =
		    (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 4;
		caches[count++] = size_bytes / 1024;
	}
	diag_set_level(DIAG_ERROR);
	mapped_run(size_bytes, caches, count, scatter ? scatter : size_bytes / BLOCK_BYTES / 32,
	    requests ? requests : max_u64(size_bytes / BLOCK_BYTES / 128, 131072),
	    latency_us * 1000, bytes_per_s);
	return 0;
}
