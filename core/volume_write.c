/* SPDX-License-Identifier: Apache-2.0 */
/*
 * WRITE, COMPARE_WRITE, ZERO and TRIM.
 *
 *   BEGIN ─► LOCK ─► BARRIER ─► EDGE_LOOKUP ─► EDGE_READ ─┐   (only if a block is touched in part)
 *     └──────────────────────────────────────────────────┴─► PREPARE ─► APPEND ─► APPLY ─► FLUSH ─►
 * DONE
 *                                                                     └─► WAIT (the pool is full)
 *
 * - Whole blocks go to the log as they are.  A block that is touched in part is read, patched and
 *   written whole, under a lock on the range: no other write to it is added to the log between the
 *   read and the append, and what was added before is applied first (BARRIER).
 * - COMPARE_WRITE takes the lock, too, and reads all of its blocks instead of its edges: it goes on
 *   if they are as expected.  It touches no more blocks than one piece has, so it is applied, and
 *   survives a crash, as a whole.
 * - PREPARE brings the map's nodes into memory, so that applying cannot fail; APPEND adds the
 *   blocks to the open batch, in pieces that are atomic each; APPLY waits until the last is
 * applied.
 * - A crash before the batch is complete leaves the old blocks, after it the new ones.
 */
#include "core/pool_internal.h"

#include <stdlib.h>

#include "core/base/crc32c.h"
#include "core/base/mutant.h"

#define CRC_OF_ZERO_BLOCK 0x98f94189u /* a quick look before the whole block is compared */

static bool
is_zero_block(const uint8_t *block, uint32_t crc)
{
	return crc == CRC_OF_ZERO_BLOCK && block[0] == 0 &&
	       memcmp(block, block + 1, BLOCK_BYTES - 1) == 0;
}

/* --- locks on ranges that are patched --- */

static bool
overlaps_lock(const struct volume_request *request)
{
	if (MUTANT(PATCH_UNLOCKED) || (MUTANT(LOCK_NOT_SEEN) && request->phase == REQUEST_APPEND))
		return false;
	list_for_each(node, &request->runtime->locks) {
		const struct volume_request *other =
		    container_of(node, struct volume_request, lock_link);

		if (other != request && request->lba < other->lba + other->count &&
		    other->lba < request->lba + request->count)
			return true;
	}
	return false;
}

/* --- edges: blocks that the request touches in part --- */

static bool
writes_data(const struct volume_io *io)
{
	return io->op == VOLUME_WRITE || io->op == VOLUME_COMPARE_WRITE;
}

static uint64_t
head_bytes(const struct volume_io *io)
{
	return io->offset_bytes % BLOCK_BYTES;
}

static uint64_t
tail_bytes(const struct volume_io *io)
{
	return (BLOCK_BYTES - (io->offset_bytes + io->len_bytes) % BLOCK_BYTES) % BLOCK_BYTES;
}

static bool
edge_is_partial(const struct volume_request *request, unsigned edge)
{
	if (request->io->op == VOLUME_TRIM)
		return false; /* a hint: it was rounded to whole blocks */
	return edge == 0 ? head_bytes(request->io) != 0 : tail_bytes(request->io) != 0;
}

static uint64_t
edge_lba(const struct volume_request *request, unsigned edge)
{
	return edge == 0 ? request->lba : request->lba + request->count - 1;
}

/* Blocks that WRITE_ZEROES touches in part are written; those between become holes. */
static bool
zero_writes_edge(const struct volume_request *request, unsigned edge)
{
	/* One block that is partial at both ends is patched once. */
	return edge_is_partial(request, edge) &&
	       !(edge == 1 && request->count == 1 && edge_is_partial(request, 0));
}

/* The old content of the edge is in request->edges: completes the request's block with it. */
static void
patch_edge(struct volume_request *request, unsigned edge)
{
	struct volume_io *io = request->io;
	uint8_t *old = request->edges + edge * BLOCK_BYTES;

	if (writes_data(io)) {
		uint8_t *block =
		    (uint8_t *)io->buffer + (edge_lba(request, edge) - request->lba) * BLOCK_BYTES;

		if (edge == 0)
			memcpy(block, old, head_bytes(io));
		else
			memcpy(block + BLOCK_BYTES - tail_bytes(io),
			    old + BLOCK_BYTES - tail_bytes(io), tail_bytes(io));
		return;
	}
	uint64_t from = edge == 0 ? head_bytes(io) : 0;
	uint64_t to = BLOCK_BYTES;

	if (edge == 1 || request->count == 1)
		to -= tail_bytes(io);
	memset(old + from, 0, to - from);
}

/* All old blocks are in request->edges: compares, and completes the edges. */
static void
compare_old(struct volume_request *request)
{
	struct volume_io *io = request->io;
	const uint8_t *old = request->edges + head_bytes(io);
	const uint8_t *expected = io->compare;
	uint64_t at = 0;

	if (memcmp(old, expected,
		MUTANT(COMPARE_BEGINNING) ? min_u64(io->len_bytes, 512) : io->len_bytes) != 0) {
		while (old[at] == expected[at])
			at++;
		io->differs_at_bytes = at;
		request_fail(request, -ECANCELED);
		return;
	}
	memcpy(io->buffer, request->edges, head_bytes(io));
	at = request->count * BLOCK_BYTES - tail_bytes(io);
	memcpy((uint8_t *)io->buffer + at, request->edges + at, tail_bytes(io));
}

/* The blocks that are to be read before anything is written: the next edge, or all that are
 * compared; false: there are none (left). */
static bool
next_read(struct volume_request *request, uint64_t *lba, uint32_t *count)
{
	if (request->io->op == VOLUME_COMPARE_WRITE) {
		*lba = request->lba;
		*count = (uint32_t)request->count;
		return request->edge == 0;
	}
	while (request->edge < 2 && !edge_is_partial(request, request->edge))
		request->edge++;
	*lba = request->edge < 2 ? edge_lba(request, request->edge) : 0;
	*count = 1;
	return request->edge < 2;
}

/* --- appending --- */

/* What a piece of a WRITE becomes in the batch: runs of data and runs of zeroes. */
struct piece {
	uint64_t lba;
	uint32_t blocks;
	uint8_t *data;
	uint32_t crcs[LOG_PIECE_BLOCKS]; /* not yet mixed with addresses */
	bool zero[LOG_PIECE_BLOCKS];
	uint32_t data_blocks;
	size_t entry_bytes;
};

static uint32_t
piece_run(const struct piece *piece, uint32_t first)
{
	uint32_t n = 1;

	while (first + n < piece->blocks && piece->zero[first + n] == piece->zero[first])
		n++;
	return n;
}

static void
piece_measure(struct piece *piece)
{
	uint32_t n;

	piece->data_blocks = 0;
	piece->entry_bytes = 0;
	for (uint32_t i = 0; i < piece->blocks; i += n) {
		n = piece_run(piece, i);
		piece->data_blocks += piece->zero[i] ? 0 : n;
		piece->entry_bytes += piece->zero[i] ? BATCH_ZERO_BYTES : BATCH_BYTES_FOR(n);
	}
}

static void
piece_examine(struct piece *piece)
{
	for (uint32_t i = 0; i < piece->blocks; i++) {
		const uint8_t *block = piece->data + (size_t)i * BLOCK_BYTES;

		piece->crcs[i] = crc32c(0, block, BLOCK_BYTES);
		piece->zero[i] = is_zero_block(block, piece->crcs[i]);
	}
	piece_measure(piece);
	if (piece->entry_bytes > BATCH_ENTRY_BYTES_MAX) {
		/* Too patchy to be told in one header: zeroes are written like anything else. */
		memset(piece->zero, 0, sizeof(piece->zero));
		piece_measure(piece);
	}
}

static void
piece_add(struct pool *pool, const struct image *image, struct piece *piece)
{
	uint32_t n;

	for (uint32_t i = 0; i < piece->blocks; i += n) {
		n = piece_run(piece, i);
		if (piece->zero[i]) {
			log_add_zero(pool, image->id, piece->lba + i, n);
			continue;
		}
		struct baddr addr = batch_next_addr(pool->log.open->header);

		for (uint32_t k = 0; k < n; k++)
			piece->crcs[i + k] ^= baddr_crc_mix((struct baddr){ addr.n + k });
		log_add_data(pool, BATCH_WRITE, image->id, piece->lba + i, n,
		    piece->data + (size_t)i * BLOCK_BYTES, &piece->crcs[i]);
	}
}

/* Whether some of the blocks replace none that are the image's own. */
static bool
grows(const struct volume_request *request, uint64_t lba, uint32_t blocks)
{
	struct map_entry entries[LOG_PIECE_BLOCKS];
	struct map_fault fault;

	if (map_get(&request->pool->nodes, &request->image->map, lba, blocks, entries, &fault) ==
	    MAP_FAULT)
		return true;
	for (uint32_t i = 0; i < blocks; i++)
		if (entries[i].addr == 0 ||
		    entries[i].epoch <= image_shared_epoch(request->image, lba + i))
			return true;
	return false;
}

static int
append_blocks(struct volume_request *request, uint64_t lba, uint8_t *data, uint32_t blocks)
{
	struct piece piece = { .lba = lba, .blocks = blocks, .data = data };
	int rc;

	piece_examine(&piece);
	if (piece.data_blocks && !(request->runtime->record->flags & CATALOG_RESERVED) &&
	    pool_is_full(request->pool, piece.data_blocks) && grows(request, lba, blocks))
		return -ENOSPC;
	rc = log_reserve(request->pool, piece.data_blocks ? LOG_CLIENT : LOG_TRIM,
	    piece.data_blocks, piece.entry_bytes);
	if (rc)
		return rc;
	piece_add(request->pool, request->image, &piece);
	request->appended = true;
	return 0;
}

/* 0: all is added; otherwise as log_reserve(). */
static int
append_write(struct volume_request *request)
{
	uint32_t slab_blocks = request->pool->space.slab_blocks;
	bool atomic = request->io->op == VOLUME_COMPARE_WRITE || request->io->flags & VOLUME_ATOMIC;
	uint32_t most = atomic ? log_atomic_blocks(slab_blocks) : log_piece_blocks(slab_blocks);

	while (request->done_blocks < request->count) {
		uint32_t n = (uint32_t)min_u64(request->count - request->done_blocks, most);
		int rc = append_blocks(request, request->lba + request->done_blocks,
		    (uint8_t *)request->io->buffer + request->done_blocks * BLOCK_BYTES, n);

		if (rc)
			return rc;
		request->done_blocks += n;
	}
	return 0;
}

/* As above, for a ZERO: patched edges are blocks of data, the rest is one entry. */
static int
append_zero(struct volume_request *request)
{
	uint64_t first = request->lba + (edge_is_partial(request, 0) ? 1 : 0);
	uint64_t end = request->lba + request->count - (edge_is_partial(request, 1) ? 1 : 0);
	int rc;

	while (request->edge < 2) {
		unsigned edge = request->edge;

		if (zero_writes_edge(request, edge)) {
			rc = append_blocks(request, edge_lba(request, edge),
			    request->edges + edge * BLOCK_BYTES, 1);
			if (rc)
				return rc;
		}
		request->edge++;
	}
	if (first >= end)
		return 0;
	rc = log_reserve(request->pool, LOG_TRIM, 0, BATCH_ZERO_BYTES);
	if (rc)
		return rc;
	log_add_zero(request->pool, request->image->id, first, end - first);
	request->appended = true;
	return 0;
}

static void
applied(struct log_append *append, int error)
{
	struct volume_request *request = container_of(append, struct volume_request, append);

	if (error)
		request_fail(request, error);
	if (request->phase != REQUEST_EDGE_LOOKUP)
		request->appended = false;
	request->step(request);
}

static void
flushed(struct log_flush *flush, int error)
{
	struct volume_request *request = container_of(flush, struct volume_request, flush);

	if (error)
		request_fail(request, error);
	request->step(request);
}

/* The pool is full: is there something that frees space without anybody's doing?  True: waits. */
static bool
wait_for_space(struct volume_request *request)
{
	struct pool *pool = request->pool;
	/* Nodes count twice until a checkpoint has written them; the one under way will do. */
	bool counted = pool->nodes.dirty_count > 0 || pool->checkpoint.phase != CHECKPOINT_IDLE;

	if (!log_has_room(pool, LOG_CLIENT) && relocation_wait(pool, &request->wait))
		return true;
	/* What is replaced dies when the batches under way are applied. */
	if (pool->log.pending_blocks > 0 && pool->state != POOL_FAILED) {
		list_push_back(&pool->log.waiters, &request->wait.link);
		return true;
	}
	if ((pool->state != POOL_ONLINE && pool->state != POOL_CLOSING) || request->retries >= 4 ||
	    (list_empty(&pool->space.empty) && !(counted && request->retries == 0)))
		return false;
	request->retries++;
	checkpoint_start(pool, &request->wait);
	return true;
}

static enum map_result
prepare(struct volume_request *request)
{
	struct nodes *nodes = &request->pool->nodes;

	request_pin(request);
	if (writes_data(request->io) || request->count <= MAP_ZERO_INLINE_BLOCKS)
		return map_prepare_write(
		    nodes, request->image, request->lba, request->count, &request->fault);
	/* The range of the entry, and the edges beside it. */
	uint64_t first = request->lba + (edge_is_partial(request, 0) ? 1 : 0);
	uint64_t end = request->lba + request->count - (edge_is_partial(request, 1) ? 1 : 0);

	if (map_prepare_zero(nodes, request->image, first, end - first, &request->fault) ==
		MAP_FAULT ||
	    map_prepare_write(nodes, request->image, request->lba, 1, &request->fault) == MAP_FAULT)
		return MAP_FAULT;
	return map_prepare_write(
	    nodes, request->image, request->lba + request->count - 1, 1, &request->fault);
}

/* How many nodes applying the request makes dirty at most. */
static uint64_t
nodes_at_most(const struct volume_request *request)
{
	uint64_t last = request->lba + request->count - 1;
	uint64_t leaves = last / MAP_FANOUT - request->lba / MAP_FANOUT + 1;

	/* A large ZERO changes both edges' paths and builds the same for what it cuts off. */
	if (!writes_data(request->io) && request->count > MAP_ZERO_INLINE_BLOCKS)
		return 4 * MAP_LEVELS_MAX;
	return leaves + leaves / MAP_FANOUT + MAP_LEVELS_MAX;
}

/*
 * What a checkpoint has to write is bounded, so that it fits into the reserve: dirty nodes, and
 * those that writes under way may yet make dirty.  False: waits.
 */
static bool
promise_nodes(struct volume_request *request)
{
	struct pool *pool = request->pool;
	uint64_t dirty = pool->nodes.dirty_count + pool->nodes.frozen_count;
	uint64_t promise = nodes_at_most(request);

	if (MUTANT(NODES_NOT_BOUNDED) || request->promised || dirty + pool->nodes_promised == 0 ||
	    dirty + pool->nodes_promised + promise <= pool->dirty_nodes_max) {
		pool->nodes_promised += promise - request->promised;
		request->promised = promise;
		return true;
	}
	request_unpin(request);
	if (pool->nodes_promised == 0 || dirty > pool->dirty_nodes_max / 4)
		checkpoint_start(pool, &request->wait);
	else
		list_push_back(&pool->space_waiters, &request->wait.link);
	return false;
}

void
volume_write_step(struct volume_request *request)
{
	struct pool *pool = request->pool;
	struct volume_io *io = request->io;
	bool compares = io->op == VOLUME_COMPARE_WRITE;
	uint64_t lba;
	uint32_t count;
	int rc;

	for (;;) {
		switch (request->phase) {
		case REQUEST_BEGIN:
			if (!compares && !edge_is_partial(request, 0) &&
			    !edge_is_partial(request, 1)) {
				request->phase = REQUEST_PREPARE;
				continue;
			}
			request->phase = REQUEST_LOCK;
			continue;
		case REQUEST_LOCK:
			if (overlaps_lock(request)) {
				list_push_back(
				    &request->runtime->lock_waiters, &request->wait.link);
				return;
			}
			if (!compares || !MUTANT(COMPARE_UNLOCKED))
				list_push_back(&request->runtime->locks, &request->lock_link);
			request->locked = true;
			request->edges =
			    xalloc_pages((size_t)(compares ? request->count : 2) * BLOCK_BYTES);
			request->phase = REQUEST_BARRIER;
			continue;
		case REQUEST_BARRIER:
			request->phase = REQUEST_EDGE_LOOKUP;
			request->append.done = applied;
			if (!MUTANT(BARRIER_LEFT_OUT) && log_wait_applied(pool, &request->append))
				return;
			continue;
		case REQUEST_EDGE_LOOKUP:
			if (request->error) {
				request->phase = REQUEST_DONE;
				continue;
			}
			if (!next_read(request, &lba, &count)) {
				request->edge = 0;
				request->phase = REQUEST_PREPARE;
				continue;
			}
			request_pin(request);
			if (map_get(&pool->nodes, &request->image->map, lba, count,
				request->entries, &request->fault) == MAP_FAULT)
				return request_load(request);
			request->phase = REQUEST_EDGE_READ;
			if (!request_read_blocks(
				request, count, request->edges + request->edge * BLOCK_BYTES))
				return;
			continue;
		case REQUEST_EDGE_READ:
			if (!request->error && compares)
				compare_old(request);
			else if (!request->error)
				patch_edge(request, request->edge);
			request->edge++;
			request->phase = REQUEST_EDGE_LOOKUP;
			continue;
		case REQUEST_PREPARE:
			if (!promise_nodes(request))
				return;
			if (prepare(request) == MAP_FAULT)
				return request_load(request);
			request->phase = REQUEST_APPEND;
			continue;
		case REQUEST_APPEND:
			if (!request->locked && overlaps_lock(request)) {
				/* Who holds the lock may wait for a promise: nobody waits with one.
				 */
				request->phase = REQUEST_PREPARE;
				list_push_back(
				    &request->runtime->lock_waiters, &request->wait.link);
				if (!MUTANT(PROMISE_HELD))
					request_return_promise(request);
				return;
			}
			rc = writes_data(io) ? append_write(request) : append_zero(request);
			if (rc == -EAGAIN) {
				list_push_back(&pool->log.waiters, &request->wait.link);
				return;
			}
			if (rc == -ENOSPC && wait_for_space(request))
				return;
			if (rc == -ENOSPC && volume_full_may_wait(request)) {
				request->phase = REQUEST_WAIT;
				continue;
			}
			if (rc)
				request_fail(request, rc);
			request->phase = REQUEST_APPLY;
			continue;
		case REQUEST_WAIT:
			request->append.done = applied;
			if (request->appended && log_wait_applied(pool, &request->append))
				return;
			request->appended = false;
			if (!request->error)
				return volume_full_wait(request);
			request->phase = REQUEST_DONE;
			continue;
		case REQUEST_APPLY:
			request->phase = REQUEST_FLUSH;
			request->append.done = applied;
			if (MUTANT(ACK_BEFORE_WRITE) ||
			    (MUTANT(TRIM_WAITS_NOT) && io->op == VOLUME_TRIM))
				continue;
			if (request->appended && log_wait_applied(pool, &request->append))
				return;
			request->appended = false;
			continue;
		case REQUEST_FLUSH:
			request_unpin(request);
			request_return_promise(request);
			request->phase = REQUEST_DONE;
			if (request->error || !(io->flags & VOLUME_FUA) || MUTANT(FUA_NOT_FLUSHED))
				continue;
			request->flush.sequence = pool->log.applied_sequence;
			request->flush.done = flushed;
			return log_flush_start(pool, &request->flush);
		case REQUEST_DONE:
			return request_finish(request);
		case REQUEST_LOOKUP:
		case REQUEST_READ:
			CHECK(false);
		}
	}
}

void
volume_zero_step(struct volume_request *request)
{
	struct volume_io *io = request->io;

	if (request->phase == REQUEST_BEGIN && io->op == VOLUME_TRIM) {
		/* A hint: only whole blocks. */
		uint64_t first = div_round_up(io->offset_bytes, BLOCK_BYTES);
		uint64_t end = (io->offset_bytes + io->len_bytes) / BLOCK_BYTES;

		if (first >= end)
			return request_finish(request);
		request->lba = first;
		request->count = end - first;
	}
	volume_write_step(request);
}
