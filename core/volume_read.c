/* SPDX-License-Identifier: Apache-2.0 */
/*
 * READ, CACHE and STATUS.
 *
 *   LOOKUP ─► READ ─► (next chunk: LOOKUP …) ─► DONE
 *
 * A chunk is looked up in one step, so it shows one state; its blocks are then read where they lie,
 * one device read per contiguous run, and every block's checksum is verified.  A slab that is read
 * counts its readers: it is not opened again before they are through.  What is bad, and lies on
 * other devices too, is read there, block by block.
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"

struct read_run {
	struct paced_read read; /* its link is also for what is unused */
	struct iovec iov;
	struct volume_request *request;
	struct places places; /* [0] is read */
	uint32_t slot;
	uint32_t first; /* index into request->entries */
	uint32_t count;
	uint32_t next; /* block of the run that is to be verified */
	struct block_fetch fetch;
};

static struct read_run *
run_get(struct pool *pool)
{
	struct list *node = list_pop_front(&pool->unused_runs);
	struct read_run *run =
	    node ? container_of(node, struct read_run, read.link) : xcalloc(1, sizeof(*run));

	list_init(&run->read.link);
	return run;
}

static void
report(struct volume_request *request, const struct read_run *run, uint32_t block, const char *what)
{
	struct pool *pool = request->pool;

	pool->devices[run->places.slabs[0]->device].errors++;
	diag_error("pool %s: %s: block %llu of image %llu, at byte %llu of %s", pool->name, what,
	    (unsigned long long)(request->lba + request->done_blocks + run->first + block),
	    (unsigned long long)request->image->id,
	    (unsigned long long)(run->read.io.offset_bytes + (uint64_t)block * BLOCK_BYTES),
	    run->read.io.device->name);
}

static void
run_end(struct read_run *run)
{
	struct volume_request *request = run->request;
	struct pool *pool = request->pool;
	struct places places = run->places;

	list_push_front(&pool->unused_runs, &run->read.link);
	if (--request->runs_left == 0)
		request->step(request);
	places_let_go(pool, &places);
}

static void verify(struct read_run *run);

/*
 * A block that no device gives.  If it was overwritten meanwhile its slab may be free: where that
 * is held on a device that is left out now, there is nothing to read it from, and the new block
 * serves.
 */
static void
not_there(struct volume_request *request)
{
	if (request->io->op == VOLUME_READ && !request->looked_again &&
	    !MUTANT(PLACES_NOT_FOUND_AGAIN))
		request->look_again = true;
	else
		request_fail(request, -EIO);
}

static void
fetched(struct block_fetch *fetch)
{
	struct read_run *run = container_of(fetch, struct read_run, fetch);

	if (fetch->error)
		not_there(run->request);
	verify(run);
}

static void
verify(struct read_run *run)
{
	struct volume_request *request = run->request;

	while (run->next < run->count && !request->error && !request->look_again) {
		uint32_t i = run->next++;
		uint8_t *block = (uint8_t *)run->iov.iov_base + (size_t)i * BLOCK_BYTES;
		const struct map_entry *entry = &request->entries[run->first + i];
		bool failed = run->read.io.error != 0;

		if (!failed &&
		    (likely(baddr_block_crc((struct baddr){ entry->addr }, block) == entry->crc) ||
			MUTANT(READ_CRC_UNCHECKED)))
			continue;
		request->pool->checksum_errors += !failed;
		if (!failed || (i == 0 && run->read.io.error != -ETIME))
			report(request, run, i,
			    failed ? strerror(-run->read.io.error) : "wrong checksum");
		if (request->pool->space.copies == 1) {
			request_fail(request, -EIO);
			break;
		}
		run->fetch.what = "a block";
		run->fetch.block = block;
		run->fetch.done = fetched;
		return block_fetch_start(&run->fetch, request->pool, *entry, &run->places, 1,
		    run->read.io.error == -ETIME, run->slot + i);
	}
	run_end(run);
}

static void
run_done(struct device_io *io)
{
	struct read_run *run = container_of(io, struct read_run, read.io);
	struct pool *pool = run->request->pool;

	read_pace_done(&pool->read_pace, pool->reactor->now_ns);
	verify(run);
}

/* The length of the run of blocks that lie side by side from entry @first on. */
static uint32_t
run_length(
    const struct space *space, const struct map_entry *entries, uint32_t first, uint32_t count)
{
	uint32_t n = 1;

	if (entries[first].addr == 0) {
		while (first + n < count && entries[first + n].addr == 0)
			n++;
		return n;
	}
	/* Slots never overflow into the segment number: a segment is shorter than that. */
	while (first + n < count && entries[first + n].addr == entries[first].addr + n)
		n++;
	return space_run(space, (struct baddr){ entries[first].addr }, n);
}

static bool
submit_run(struct volume_request *request, uint32_t first, uint32_t count, uint8_t *buffer)
{
	struct pool *pool = request->pool;
	struct baddr addr = { request->entries[first].addr };
	uint32_t slot;
	struct slab *slab = space_place(&pool->space, addr, &slot);
	struct read_run *run = run_get(pool);

	run->places.count = 0;
	if (slab)
		places_hold(pool, slab, &run->places);
	if (run->places.count == 0) {
		list_push_front(&pool->unused_runs, &run->read.link);
		diag_error(
		    "pool %s: block %llu of image %llu lies at segment %llu, which does not exist",
		    pool->name, (unsigned long long)(request->lba + request->done_blocks + first),
		    (unsigned long long)request->image->id,
		    (unsigned long long)baddr_segment(addr));
		request_fail(request, -EIO);
		return false;
	}
	run->request = request;
	run->slot = slot;
	run->next = 0;
	run->first = first;
	run->count = count;
	run->iov.iov_base = buffer;
	run->iov.iov_len = (size_t)count * BLOCK_BYTES;
	run->read.io.op = DEVICE_READ;
	run->read.io.offset_bytes = space_offset_bytes(&pool->space, run->places.slabs[0], slot);
	run->read.io.len_bytes = run->iov.iov_len;
	run->read.io.iov = &run->iov;
	run->read.io.iov_count = 1;
	run->read.io.may_give_up = run->places.count > 1;
	run->read.io.done = run_done;
	request->runs_left++;
	read_pace_submit(
	    &pool->read_pace, pool_device(pool, run->places.slabs[0]->device), &run->read);
	return true;
}

bool
request_read_blocks(struct volume_request *request, uint32_t count, uint8_t *buffer)
{
	uint32_t n;

	request->runs_left = 0;
	for (uint32_t first = 0; first < count; first += n) {
		uint8_t *at = buffer + (size_t)first * BLOCK_BYTES;

		n = run_length(&request->pool->space, request->entries, first, count);
		if (request->entries[first].addr == 0)
			memset(at, 0, (size_t)n * BLOCK_BYTES);
		else if (!submit_run(request, first, n, at))
			break;
	}
	return request->runs_left == 0;
}

void
volume_read_step(struct volume_request *request)
{
	for (;;) {
		switch (request->phase) {
		case REQUEST_BEGIN:
			request->phase = REQUEST_LOOKUP;
			continue;
		case REQUEST_LOOKUP:
			request_pin(request);
			request->chunk_blocks = (uint32_t)min_u64(
			    request->count - request->done_blocks, REQUEST_CHUNK_BLOCKS);
			if (map_get(&request->pool->nodes, &request->image->map,
				request->lba + request->done_blocks, request->chunk_blocks,
				request->entries, &request->fault) == MAP_FAULT)
				return request_load(request);
			request_unpin(request);
			request->phase = REQUEST_READ;
			if (!request_read_blocks(request, request->chunk_blocks,
				(uint8_t *)request->io->buffer +
				    request->done_blocks * BLOCK_BYTES))
				return;
			continue;
		case REQUEST_READ:
			if (request->look_again && !request->error) {
				request->looked_again = true;
				request->look_again = false;
				request->phase = REQUEST_LOOKUP;
				continue;
			}
			request->done_blocks += request->chunk_blocks;
			request->phase = request->error || request->done_blocks == request->count
					     ? REQUEST_DONE
					     : REQUEST_LOOKUP;
			continue;
		case REQUEST_DONE:
			return request_finish(request);
		default:
			CHECK(false);
		}
	}
}

/* --- STATUS --- */

/* False: there is no room for it. */
static bool
add_extent(struct volume_request *request, uint64_t blocks, bool changed, bool hole, uint32_t depth)
{
	struct volume_io *io = request->io;
	struct volume_extent *last = io->extents_count ? &io->extents[io->extents_count - 1] : NULL;
	uint64_t lba = request->lba + request->done_blocks;
	uint64_t first_byte = max_u64(lba * BLOCK_BYTES, io->offset_bytes);
	uint64_t end_byte = min_u64((lba + blocks) * BLOCK_BYTES, io->offset_bytes + io->len_bytes);

	if (!last || last->hole != hole || last->changed != changed || last->depth != depth) {
		if (io->extents_count == io->extents_max)
			return false;
		last = &io->extents[io->extents_count++];
		*last = (struct volume_extent){ .hole = hole, .changed = changed, .depth = depth };
	}
	last->len_bytes += end_byte - first_byte;
	request->done_blocks += blocks;
	return true;
}

#define STATUS_LEAVES_MAX 1024u

/* The next run of blocks that are all data (of one depth) or all holes; false: the answer is long
 * enough. */
static bool
status_run(struct volume_request *request, enum map_result *result)
{
	bool depths = request->io->flags & VOLUME_DEPTH;
	uint32_t depth = 0;
	uint64_t run;

	*result =
	    map_run(&request->pool->nodes, &request->image->map, depths ? request->image : NULL,
		request->lba + request->done_blocks, request->count - request->done_blocks,
		STATUS_LEAVES_MAX, &depth, &run, &request->fault);
	if (*result == MAP_FAULT)
		return false;
	return add_extent(request, run, false, depth == 0, depths ? depth : 0) &&
	       run < STATUS_LEAVES_MAX * MAP_FANOUT / 2;
}

/* The next run that is the same as in the older image, and the one behind it that is not. */
static bool
status_difference(struct volume_request *request, enum map_result *result)
{
	struct image *older = request->io->older->snapshot;
	uint64_t lba = request->lba + request->done_blocks;
	uint64_t at = lba;
	uint64_t changed;
	bool hole;

	*result = MAP_OK;
	if (!older) { /* deleted by force */
		request_fail(request, -ESHUTDOWN);
		return false;
	}
	*result = map_diff(&request->pool->nodes, &older->map, &request->image->map, &at,
	    request->lba + request->count, &changed, &hole, STATUS_LEAVES_MAX, &request->fault);
	if (*result == MAP_FAULT)
		return false;
	if (at > lba && !add_extent(request, at - lba, false, false, 0))
		return false;
	return changed && add_extent(request, changed, true, hole, 0);
}

void
volume_status_step(struct volume_request *request)
{
	if (request->phase == REQUEST_BEGIN) {
		request->io->extents_count = 0;
		request->phase = REQUEST_LOOKUP;
	}
	/* A shorter answer than asked for is an answer. */
	while (request->phase == REQUEST_LOOKUP && request->done_blocks < request->count) {
		enum map_result result;
		bool goes_on;

		request_pin(request);
		goes_on = request->io->older ? status_difference(request, &result)
					     : status_run(request, &result);
		if (result == MAP_FAULT)
			return request_load(request);
		request_unpin(request); /* or all of a large volume's map would stay in memory */
		if (!goes_on)
			break;
	}
	request_finish(request);
}

/* --- CACHE: brings the maps of the range into memory --- */

void
volume_cache_step(struct volume_request *request)
{
	if (request->phase == REQUEST_BEGIN)
		request->phase = REQUEST_LOOKUP;
	request_pin(request);
	if (request->phase == REQUEST_LOOKUP &&
	    map_prepare_write(&request->pool->nodes, request->image, request->lba,
		min_u64(request->count, 64 * MAP_FANOUT), &request->fault) == MAP_FAULT)
		return request_load(request);
	request_finish(request);
}

/* --- FLUSH --- */

static void
flush_done(struct log_flush *flush, int error)
{
	struct volume_request *request = container_of(flush, struct volume_request, flush);

	if (error)
		request_fail(request, error);
	request->phase = REQUEST_DONE;
	request->step(request);
}

void
volume_flush_step(struct volume_request *request)
{
	if (request->phase == REQUEST_DONE)
		return request_finish(request);
	request->flush.sequence = request->pool->log.applied_sequence;
	request->flush.done = flush_done;
	log_flush_asked(request->pool);
	log_flush_start(request->pool, &request->flush);
}
