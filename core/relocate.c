/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Relocation: moves the live blocks of slabs that are partly dead, packed, into a fresh slab, so
 * that their slabs become free.  Addresses do not change, and nothing goes to the log.
 *
 *   IDLE ─► CHOOSE ─► READ and CHECK (each victim) ─► WRITE ─► SWITCH ─► CHOOSE …
 *             └─► CHECKPOINT (frees what was emptied) ─► CHOOSE …
 *
 *  1. Victims are those whose cost falls slowest if they are left alone: of a share `dead` of which
 *     more dies at the rate r, that is (1 - dead) * r / dead^2.  Rates are counted by the log's own
 *     clock, the segment number.  If all rates are the same that means the emptiest; otherwise hot
 *     slabs, which soon will be emptier, wait, and cold ones do not keep their dead blocks for
 *     ever.  Of a large pool a part is looked at, each time another.  Of the best ones those are
 * packed together whose rates are most alike: so hot and cold stay apart.
 *  2. A victim is read as far as it is live, and each block compared with the checksum that lies
 *     beside it: in the batch headers, or in the directory of a packed slab.  What does not match
 *     is read from the next copy, and healed.  If there is none, the slab is left alone from then
 *     on, and named: what can be read of it can be read there.
 *  3. The blocks, in the order of their addresses, are written behind a directory (packed.h).
 *  4. The switch is one step, never between a checkpoint's cut and its table: a table shows all of
 *     it or nothing.  What died meanwhile is not live in the new slab either.
 *  5. Victims that are all dead now are free when the next checkpoint is durable.
 *
 * While nobody uses the pool, slabs are moved that are at least half dead, so that a burst finds
 * free ones.  Of two or more such slabs a pass makes one that is not, so this comes to an end; it
 * begins only with the end of a checkpoint, and so needs no timer.
 *
 * What lies badly, on a device that leaves or on fewer devices than the pool keeps copies, is moved
 * whatever is dead of it, after such a thing happened (relocation_place()): all slabs are looked at
 * until none of them does.  While clients work that takes a part of the time; what they need comes
 * first.
 *
 * Where victims are mostly live, their blocks go into the holes of packed slabs instead of a new
 * slab (relocate_plug.c): reading, checking and the switch are the same.
 *
 * A crash before a table that shows the switch is durable leaves the old slabs, which nobody has
 * touched, and the new one free; after it the new one, whose blocks the same flush made durable.
 * While they are read, victims count as being read, so nobody opens them.
 */
#include "core/relocate_internal.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"

/* A device that stalled once must not put relocation to sleep while the pool fills up. */
/* Share of the time when nobody uses the pool, and what is moved then at most: half a slab live. */
#define IDLE_SHARE 0.25
/* Share of the time, while clients work, for what lies badly. */
#define PLACE_SHARE 0.4
/* ... and for what would better lie elsewhere. */
#define BALANCE_SHARE 0.15
#define PAUSE_NS_MAX (1000ull * 1000 * 1000)
#define VICTIMS_MAX 256u
/* Small enough that clients' requests, which queue behind them in the device, do not wait long:
 * with 1 MiB at a time a tenth of them took 1.5 ms, three times as long as with 128 KiB. */
#define IO_BLOCKS 32u
#define READS_MAX 4u
/* Of a step, so that clients do not wait for it: slabs that are looked at, blocks that are checked.
 */
#define LOOK_SLABS 4096u
#define CHECK_BLOCKS 128u
/* Slabs that are less live are packed, whatever it takes. */
#define PLUG_LIVE_SHARE 0.4
/* How much longer writing a block at a random place takes, as long as nobody has tried; and as how
 * much a pass in which something else was done counts, so that it is tried again one day. */
#define PLUG_RATIO_FIRST 2.5
#define PLUG_RATIO_FORGET 0.002
/* A pass that plugs moves so many blocks, if that is several slabs. */
#define PLUG_BLOCKS_MIN 1024u
/* Checkpoints in a row from which nothing was gained. */
#define FRUITLESS_MAX 3

struct candidate {
	struct slab *slab;
	double score;
	double rate; /* share of its live blocks that die while the log writes a segment */
};

static void relocation_step(struct pool *pool);

static void
run_step(struct task *task)
{
	relocation_step(container_of(task, struct pool, relocation.step));
}

static void
paced(struct timer *timer)
{
	relocation_step(container_of(timer, struct pool, relocation.pace));
}

static void
checkpoint_ended(struct waiter *waiter, int error)
{
	struct pool *pool = container_of(waiter, struct pool, relocation.wait);

	/* Else the pool failed, and has said so. */
	pool->relocation.placed_durably = !error && !pool->relocation.misplaced;
	pool->relocation.phase = RELOCATION_CHOOSE;
	reactor_defer(pool->reactor, &pool->relocation.step);
}

void
relocation_init(struct pool *pool)
{
	struct relocation *r = &pool->relocation;

	memset(r, 0, sizeof(*r));
	task_init(&r->step, run_step);
	timer_init(&r->pace, paced);
	waiter_init(&r->wait, checkpoint_ended);
	list_init(&r->waiters);
}

static void
free_buffers(struct relocation *r)
{
	free(r->victims);
	free(r->moves);
	free(r->crcs);
	free(r->known);
	free(r->from);
	free(r->to);
	free(r->ios);
	r->ios = NULL;
	r->victims = NULL;
	r->moves = NULL;
	r->crcs = NULL;
	r->known = NULL;
	r->from = NULL;
	r->to = NULL;
	r->to_blocks = 0;
}

void
relocation_fini(struct pool *pool)
{
	reactor_cancel(pool->reactor, &pool->relocation.step);
	reactor_timer_cancel(pool->reactor, &pool->relocation.pace);
	free_buffers(&pool->relocation);
	plug_fini(pool);
}

/* --- how much is to be done --- */

/* Slabs that are free, or will be when a checkpoint is durable. */
static uint64_t
slabs_coming(const struct pool *pool)
{
	const struct space *space = &pool->space;

	/* What is empty on a device that leaves will not be. */
	return space->free_count + (space->leaving_count ? 0 : space->empty_count) +
	       (pool->log.next_slab != NULL);
}

/* 0 nothing to do … 1 all there is: over the last `relocate_slabs` above what is held back. */
static double
need(const struct pool *pool)
{
	uint64_t floor = log_held_slabs(pool, LOG_CLIENT) + 1;
	/* Of the open segment what is left of it, so that this changes smoothly. */
	double have =
	    (double)slabs_coming(pool) - (double)pool->log.slot / (double)pool->space.slab_blocks;
	double share = ((double)floor - have) / (double)pool->relocate_slabs + 1;

	if (!list_empty(&pool->relocation.waiters) || share >= 1)
		return 1;
	return share > 0 ? share : 0;
}

/* What could be gained at most, of all slabs that are not free. */
static uint64_t
dead_blocks(const struct pool *pool)
{
	const struct space *space = &pool->space;
	uint64_t slabs = space->slab_count - min_u64(space->slab_count, space->free_count);
	uint64_t blocks;

	/* What lies there is among the live blocks, the slabs are not counted. */
	for (uint32_t i = 0; i < space->device_count; i++)
		slabs += space->devices[i].leaving ? space->devices[i].mark : 0;
	blocks = slabs * space->slab_blocks;
	/* Of the open segment, and the next one, what is not written yet is not dead. */
	uint64_t others = space->live_blocks + space->slab_blocks - pool->log.slot +
			  (pool->log.next_slab ? space->slab_blocks : 0);

	return blocks > others ? blocks - others : 0;
}

/* Nobody has used the pool since the cut of the last checkpoint, nor does now. */
static bool
pool_rests(const struct pool *pool)
{
	return pool->state == POOL_ONLINE && pool->requests_in_flight == 0 &&
	       pool->nodes.dirty_count == 0 && pool->catalog.dirty_blocks.count == 0 &&
	       pool->checkpoint.phase == CHECKPOINT_IDLE && reaper_idle(pool);
}

static double
urgency(const struct pool *pool)
{
	double share = need(pool);

	if (pool->relocation.misplaced && pool->state == POOL_ONLINE) {
		double least = pool->relocation.balance_left > 0 && pool->space.leaving_count == 0
				   ? BALANCE_SHARE
				   : PLACE_SHARE;

		return pool->requests_in_flight == 0 || share > least ? 1 : least;
	}
	return share < IDLE_SHARE && pool_rests(pool) ? IDLE_SHARE : share;
}

/* Whether there is room for a checkpoint beside the slab that a pass takes. */
static bool
may_take_slab(const struct pool *pool)
{
	const struct log *log = &pool->log;
	uint64_t slab_blocks = pool->space.slab_blocks - 2;
	uint64_t left = log->slot < slab_blocks ? slab_blocks - log->slot : 0;

	if (pool->space.free_count == 0)
		return false;
	left += (pool->space.free_count - 1 + (log->next_slab != NULL)) * slab_blocks;
	return left >= checkpoint_blocks_max(pool) || MUTANT(PASS_TAKES_LAST);
}

/* --- victims --- */

static int
by_score(const void *left, const void *right)
{
	const struct candidate *a = left, *b = right;

	if (a->score != b->score)
		return a->score > b->score ? -1 : 1;
	if (a->slab->device != b->slab->device)
		return a->slab->device < b->slab->device ? -1 : 1;
	return a->slab->index < b->slab->index ? -1 : 1;
}

static int
by_address(const void *left, const void *right)
{
	const struct relocation_move *a = left, *b = right;

	return a->block.addr.n < b->block.addr.n ? -1 : a->block.addr.n > b->block.addr.n;
}

static bool
is_candidate(const struct pool *pool, const struct slab *slab)
{
	uint32_t slab_blocks = pool->space.slab_blocks;

	uint32_t most =
	    pool->relocation.gentle ? slab_blocks / 2 : slab_blocks - slab_blocks / 64 - 3;

	return (slab->state == SLAB_SEALED || slab->state == SLAB_PACKED) && !slab->stuck &&
	       slab->live > 0 && slab->live <= most;
}

static struct candidate
judge(const struct pool *pool, struct slab *slab)
{
	uint64_t now = pool->log.next_segment_number;
	uint64_t since = slab->filled_segment ? slab->filled_segment : slab->segment;
	double age = since < now ? (double)(now - since) : 1;
	double first = (double)max_u64(slab->live_first, slab->live);
	double dead = 1 - (double)slab->live / pool->space.slab_blocks;
	/* Half a block more, so that it is never 0. */
	double rate = log(first / ((double)slab->live - 0.5)) / age;

	return (struct candidate){ slab, dead * dead / ((1 - dead) * rate), rate };
}

/* A step through @count things that meets all of them, and soon some of everywhere. */
static uint64_t
stride(uint64_t count)
{
	uint64_t step = (uint64_t)((double)count * 0.618) + 1;

	for (;; step++) {
		uint64_t a = count, b = step;

		while (b) {
			uint64_t rest = a % b;

			a = b;
			b = rest;
		}
		if (a == 1)
			return step;
	}
}

struct slab *
relocation_next_slab(struct pool *pool, uint64_t *look_at)
{
	struct relocation *r = &pool->relocation;
	uint64_t count = pool->space.span_count;

	if (r->stride_of != count) {
		r->stride_of = count;
		r->stride = stride(count);
		r->looked = 0; /* it meets all from here on */
	}
	*look_at = (*look_at + r->stride) % count;
	return space_nth_slab(&pool->space, *look_at);
}

/*
 * Slabs that could be moved, best first; the caller frees them.  Of a large pool a part is looked
 * at, each time another: the best of some thousands is hardly worse than the best of all.
 */
static struct candidate *
find_candidates(struct pool *pool, uint32_t *count, uint64_t *dead_blocks)
{
	struct relocation *r = &pool->relocation;
	const struct space *space = &pool->space;
	uint32_t looks = (uint32_t)min_u64(space->span_count, LOOK_SLABS);
	struct candidate *all = xcalloc(looks + 1, sizeof(*all));
	uint32_t n = 0;

	*dead_blocks = 0;
	for (uint32_t i = 0; i < looks; i++) {
		struct slab *slab = relocation_next_slab(pool, &r->look_at);

		if (!slab || !is_candidate(pool, slab))
			continue;
		*dead_blocks += space->slab_blocks - slab->live;
		all[n++] = judge(pool, slab);
	}
	r->looked += looks;
	qsort(all, n, sizeof(*all), by_score);
	*count = n;
	return all;
}

/* Of those from @first on that are nearly as good, the one whose rate is most like @rate. */
static uint32_t
most_alike(const struct candidate *all, uint32_t first, uint32_t end, double rate)
{
	uint32_t best = first;
	double best_ratio = 0;

	for (uint32_t i = first; i < end && all[i].score > 0.7 * all[first].score; i++) {
		double ratio = all[i].rate < rate ? all[i].rate / rate : rate / all[i].rate;

		if (ratio > best_ratio) {
			best_ratio = ratio;
			best = i;
		}
	}
	return best;
}

static void
add_victim(struct pool *pool, struct slab *slab)
{
	struct relocation *r = &pool->relocation;
	struct baddr *addrs = xcalloc(slab->live, sizeof(*addrs));
	uint32_t *slots = xcalloc(slab->live, sizeof(*slots));
	uint32_t n = space_list_live(&pool->space, slab, addrs, slots);

	for (uint32_t i = 0; i < n; i++)
		r->moves[r->move_count++] = (struct relocation_move){
			.block.addr = addrs[i], .slot = slots[i], .victim = r->victim_count
		};
	r->victims[r->victim_count++] = (struct relocation_victim){ .slab = slab };
	free(addrs);
	free(slots);
}

struct packed_block *
relocation_blocks(const struct relocation *r, uint32_t first, uint32_t count)
{
	struct packed_block *blocks = xcalloc(count + 1, sizeof(*blocks));

	for (uint32_t i = 0; i < count; i++)
		blocks[i] = r->moves[first + i].block;
	return blocks;
}

static void
set_end_slots(struct relocation *r)
{
	for (uint32_t i = 0; i < r->move_count; i++) {
		struct relocation_victim *victim = &r->victims[r->moves[i].victim];

		if (r->moves[i].slot >= victim->end_slot)
			victim->end_slot = r->moves[i].slot + 1;
	}
}

/* So many blocks of the last victims stay where they are: they do not fit. */
static void
fit_moves(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	uint32_t slab_blocks = pool->space.slab_blocks;
	uint32_t fit;

	/* Victims that were added last lose blocks first. */
	if (r->move_count > slab_blocks)
		r->move_count = slab_blocks;
	qsort(r->moves, r->move_count, sizeof(*r->moves), by_address);
	for (;;) {
		struct packed_block *blocks = relocation_blocks(r, 0, r->move_count);

		fit = packed_fit(blocks, r->move_count, slab_blocks, &r->directory_blocks);
		free(blocks);
		if (fit == r->move_count)
			break;
		/* The excess is taken off the last victim that has any. */
		uint32_t excess = r->move_count - fit, last = 0, kept = 0;

		for (uint32_t i = 0; i < r->move_count; i++)
			if (r->moves[i].victim > last)
				last = r->moves[i].victim;
		for (uint32_t i = r->move_count; i-- > 0 && excess > 0;)
			if (r->moves[i].victim == last) {
				r->moves[i].victim = UINT32_MAX;
				excess--;
			}
		for (uint32_t i = 0; i < r->move_count; i++)
			if (r->moves[i].victim != UINT32_MAX)
				r->moves[kept++] = r->moves[i];
		r->move_count = kept;
	}
	set_end_slots(r);
}

/* Whether the pass gains something: what is filled is full, or two slabs or more become one. */
static bool
pays(const struct pool *pool)
{
	const struct relocation *r = &pool->relocation;
	uint32_t moved[VICTIMS_MAX] = { 0 };
	uint32_t emptied = 0;

	for (uint32_t i = 0; i < r->move_count; i++)
		moved[r->moves[i].victim]++;
	for (uint32_t i = 0; i < r->victim_count; i++)
		emptied += moved[i] == r->victims[i].slab->live;
	return emptied >= 2 || (emptied == 1 && r->victim_count > 1);
}

/* No victims yet, and memory for some. */
static void
begin_victims(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	uint32_t slab_blocks = pool->space.slab_blocks;
	size_t most = max_u64(slab_blocks, PLUG_BLOCKS_MIN);

	r->victim_count = 0;
	r->move_count = 0;
	r->pass_ns = 0;
	if (r->victims)
		return;
	r->victims = xcalloc(VICTIMS_MAX, sizeof(*r->victims));
	r->moves = xcalloc(most + slab_blocks, sizeof(*r->moves));
	r->crcs = xcalloc(slab_blocks, sizeof(*r->crcs));
	r->known = xcalloc(BITMAP_WORDS(slab_blocks), sizeof(*r->known));
	r->ios = xcalloc(RELOCATION_IOS, sizeof(*r->ios));
}

static double
plug_ratio(const struct relocation *r)
{
	return r->plug_block_ns > 0 && r->pack_block_ns > 0 ? r->plug_block_ns / r->pack_block_ns
							    : PLUG_RATIO_FIRST;
}

/*
 * Of a slab whose share u is live packing reads and writes u / (1 - u) blocks for each that is
 * gained, plugging u, but at random places.
 */
static bool
plug_is_better(const struct pool *pool, const struct slab *victim)
{
	double live = (double)victim->live / pool->space.slab_blocks;

	return live > PLUG_LIVE_SHARE && (1 - live) * (1 + plug_ratio(&pool->relocation)) < 2;
}

/* The first @count candidates are the victims. */
static void
take_victims(struct pool *pool, const struct candidate *all, uint32_t count)
{
	struct relocation *r = &pool->relocation;

	r->victim_count = 0;
	r->move_count = 0;
	for (uint32_t i = 0; i < count; i++)
		add_victim(pool, all[i].slab);
	qsort(r->moves, r->move_count, sizeof(*r->moves), by_address);
	set_end_slots(r);
}

/* The best victims go into holes, if there are enough, so many that what a pass takes beside its
 * blocks counts little.  r->plug.dry: there are not, but may be when the table is durable that is
 * being made, or another one. */
static bool
choose_plug(struct pool *pool, const struct candidate *all, uint32_t count)
{
	struct relocation *r = &pool->relocation;
	uint64_t worth = list_empty(&r->waiters) ? all[0].slab->live / 2 : 1;
	uint32_t n = 1, blocks = all[0].slab->live;

	while (n < count && n < VICTIMS_MAX && blocks + all[n].slab->live <= PLUG_BLOCKS_MIN &&
	       plug_is_better(pool, all[n].slab))
		blocks += all[n++].slab->live;
	for (; n > 0; n /= 2) {
		take_victims(pool, all, n);
		if (plug_begin(pool))
			return true;
	}
	r->plug.dry = r->fruitless < FRUITLESS_MAX && plug_may_find_more(pool, worth);
	return false;
}

/* Chooses what the next pass moves; false: nothing that pays. */
static bool
choose_victims(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	uint32_t slab_blocks = pool->space.slab_blocks;
	uint32_t count, window;
	uint64_t dead_blocks;
	struct candidate *all = find_candidates(pool, &count, &dead_blocks);
	struct slab *best = count ? all[0].slab : NULL;
	bool paying;

	begin_victims(pool);
	if (best && !r->gentle && plug_is_better(pool, best) &&
	    (choose_plug(pool, all, count) || r->plug.dry)) {
		free(all);
		return r->plug.active;
	}
	begin_victims(pool);
	window = (uint32_t)max_u64(4, count / 16);
	for (uint32_t next = 0;
	     next < count && r->victim_count < VICTIMS_MAX && r->move_count < slab_blocks; next++) {
		uint32_t end = (uint32_t)min_u64(count, next + window);
		uint32_t pick = next ? most_alike(all, next, end, all[0].rate) : 0;
		struct candidate chosen = all[pick];

		/* The others keep their order. */
		memmove(&all[next + 1], &all[next], (pick - next) * sizeof(*all));
		all[next] = chosen;
		add_victim(pool, chosen.slab);
	}
	paying = false;
	if (dead_blocks >= slab_blocks && r->victim_count > 0) {
		fit_moves(pool);
		paying = pays(pool);
	}
	/* Whatever is dead of it. */
	if (!paying && best && !r->gentle)
		paying = choose_plug(pool, all, 1);
	free(all);
	return paying;
}

/* The next ones that lie badly, as many as fit; false: none of those that were looked at. */
static bool
choose_misplaced(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	struct space *space = &pool->space;
	uint64_t step = stride(space->span_count), last_at = 0;
	bool fuller[POOL_DEVICES_MAX] = { false };
	uint32_t count;

	begin_victims(pool);
	if (r->place_of != space->span_count) {
		r->place_of = space->span_count;
		r->place_looked = 0;
	}
	if (r->balance_left > 0 && space_find_fuller(space, fuller) == 0)
		r->balance_left = 0;
	for (uint32_t i = 0; i < min_u64(space->span_count, LOOK_SLABS) && r->misplaced &&
			     r->victim_count < VICTIMS_MAX && r->move_count < space->slab_blocks;
	     i++) {
		r->place_at = (r->place_at + step) % space->span_count;
		struct slab *slab = space_nth_slab(space, r->place_at);

		r->place_looked++;
		if (!slab || (slab->state != SLAB_SEALED && slab->state != SLAB_PACKED) ||
		    slab->stuck || slab->live == 0)
			continue;
		if (!space_lies_badly(space, slab) &&
		    !(r->balance_left > 0 && space_lies_on(space, slab, fuller)))
			continue;
		add_victim(pool, slab);
		last_at = r->place_at;
	}
	if (r->victim_count == 0)
		return false;
	r->place_looked = 0;
	count = r->move_count;
	fit_moves(pool);
	/* The last one, of which some is left, is the first of the next pass. */
	if (r->move_count < count)
		r->place_at = (last_at + space->span_count - step) % space->span_count;
	return true;
}

/* --- moving --- */

static void
io_done(struct device_io *io)
{
	struct relocation_io *one = container_of(io, struct relocation_io, io);
	struct pool *pool = one->pool;
	struct relocation *r = &pool->relocation;
	struct pool_device *device = &pool->devices[one->slab->device];
	double share = urgency(pool);
	uint64_t took_ns = pool->reactor->now_ns - r->io_began_ns;

	if (io->op == DEVICE_WRITE)
		device->dirty = true;
	if (io->error)
		device->errors++;
	if (io->error && io->op != DEVICE_READ)
		device_lost(pool, io, one->slab->device);
	else if (io->error)
		r->error = io->error;
	if (--r->ios_left > 0)
		return;
	if (r->phase == RELOCATION_WRITE || r->phase == RELOCATION_PLUG)
		r->pass_ns += took_ns;
	if (share >= 1 || pool->state != POOL_ONLINE) {
		relocation_step(pool);
		return;
	}
	/* So that it takes about that share of the time. */
	share = share < 0.02 ? 0.02 : share;
	reactor_timer_start(pool->reactor, &r->pace,
	    min_u64((uint64_t)((double)took_ns * (1 - share) / share), PAUSE_NS_MAX));
}

void
relocation_add_io(struct pool *pool, enum device_op op, struct slab *place, uint32_t slot,
    uint32_t blocks, uint8_t *buffer)
{
	struct relocation *r = &pool->relocation;
	struct relocation_io *one = &r->ios[r->ios_left++];

	CHECK(r->ios_left <= RELOCATION_IOS);
	*one = (struct relocation_io){
		.io = { .op = op, .done = io_done },
		.iov = { buffer, (size_t)blocks * BLOCK_BYTES },
		.pool = pool,
		.slab = place,
	};
	if (op == DEVICE_FLUSH)
		return;
	one->io.offset_bytes = space_offset_bytes(&pool->space, place, slot);
	one->io.len_bytes = one->iov.iov_len;
	one->io.iov = &one->iov;
	one->io.iov_count = 1;
}

void
relocation_submit(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	unsigned count = r->ios_left;

	r->io_began_ns = pool->reactor->now_ns;
	for (unsigned i = 0; i < count; i++)
		device_submit(pool_device(pool, r->ios[i].slab->device), &r->ios[i].io);
}

static void
submit_write(struct pool *pool, uint32_t slot, uint32_t blocks, uint8_t *buffer)
{
	struct slab *places[COPIES_MAX];
	unsigned count = space_places(&pool->space, pool->relocation.slab, places);

	for (unsigned i = 0; i < count; i++)
		relocation_add_io(pool, DEVICE_WRITE, places[i], slot, blocks, buffer);
	relocation_submit(pool);
}

static void
leave_alone(struct pool *pool, struct slab *slab, uint32_t slot, const char *why)
{
	slab->stuck = !MUTANT(STUCK_TRIED_AGAIN);
	diag_error("pool %s: at byte %llu of %s: %s; the slab is left as it is", pool->name,
	    (unsigned long long)space_offset_bytes(&pool->space, slab, slot),
	    pool_device_name(pool, slab->device), why);
}

/* All of the victim that is moved was read, or could not be (r->error). */
static void
begin_check(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	const struct relocation_victim *victim = &r->victims[r->victim];

	memset(r->known, 0, BITMAP_WORDS(pool->space.slab_blocks) * sizeof(*r->known));
	if (!r->error)
		slab_find_crcs(pool, victim->slab, victim->end_slot, r->from, r->crcs, r->known);
	r->move = 0;
	r->again = false;
}

/* Copies some of the victim's blocks to their new places, from r->move on; false: some are not as
 * they should be, and there is no other copy to be read. */
static bool
check_blocks(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	const struct relocation_victim *victim = &r->victims[r->victim];
	struct slab *place = victim->places.slabs[r->place];
	bool last = r->place + 1 == victim->places.count;

	for (uint32_t checked = 0; r->move < r->move_count && checked < CHECK_BLOCKS; r->move++) {
		struct relocation_move *move = &r->moves[r->move];
		const uint8_t *block = r->from + (size_t)move->slot * BLOCK_BYTES;

		if (move->victim != r->victim || move->taken ||
		    !space_is_live(&pool->space, move->block.addr))
			continue;
		checked++;
		if (!bitmap_test(r->known, move->slot) ||
		    (baddr_block_crc(move->block.addr, block) != r->crcs[move->slot] &&
			!MUTANT(VICTIM_UNCHECKED))) {
			if (!r->error) {
				pool->checksum_errors++;
				pool->devices[place->device].errors++;
			}
			move->bad |= (uint8_t)(1u << r->place);
			r->again = !last;
			if (!last)
				continue;
			leave_alone(pool, place, move->slot,
			    r->error ? strerror(-r->error)
			    : bitmap_test(r->known, move->slot)
				? "a block has a wrong checksum"
				: "the checksum of a block is lost");
			victim->slab->stuck = !MUTANT(STUCK_TRIED_AGAIN);
			return false;
		}
		move->taken = true;
		move->block.crc = r->crcs[move->slot];
		memcpy(r->to + (size_t)(r->directory_blocks + r->move) * BLOCK_BYTES, block,
		    BLOCK_BYTES);
		for (unsigned k = 0; move->bad >> k; k++)
			if (move->bad >> k & 1)
				place_heal(pool, victim->places.slabs[k], move->slot, block);
	}
	return true;
}

static void
let_victims_go(struct pool *pool)
{
	struct relocation *r = &pool->relocation;

	for (uint32_t i = 0; i < r->victim_count; i++) {
		places_let_go(pool, &r->victims[i].places);
	}
	r->victim_count = 0;
}

static void
give_up_pass(struct pool *pool)
{
	struct relocation *r = &pool->relocation;

	if (r->slab)
		space_unreserve(&pool->space, r->slab);
	r->slab = NULL;
	plug_let_go(pool);
	let_victims_go(pool);
	r->phase = RELOCATION_CHOOSE;
}

/* Those that died before they were read were not taken: the directory does not have them, for
 * whoever replays the log may still read a map node where it was.  False: none is left. */
static bool
drop_dead_moves(struct relocation *r)
{
	uint8_t *blocks = r->to + (size_t)r->directory_blocks * BLOCK_BYTES;
	uint32_t kept = 0;

	for (uint32_t i = 0; i < r->move_count; i++) {
		if (!r->moves[i].taken)
			continue;
		if (kept < i) {
			r->moves[kept] = r->moves[i];
			memcpy(blocks + (size_t)kept * BLOCK_BYTES,
			    blocks + (size_t)i * BLOCK_BYTES, BLOCK_BYTES);
		}
		kept++;
	}
	r->move_count = kept;
	return kept > 0;
}

static void
encode_directory(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	uint32_t slab_blocks = pool->space.slab_blocks;
	struct packed_block *blocks = relocation_blocks(r, 0, r->move_count);

	r->number = pool->log.next_segment_number++;
	packed_encode(
	    blocks, r->move_count, slab_blocks, r->number, &pool->uuid, r->directory_blocks, r->to);
	free(blocks);
	r->block = 0;
}

/* Starts reading more of the present victim, much at once if it is urgent; false: it is read. */
static bool
read_victim(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	const struct relocation_victim *victim = &r->victims[r->victim];
	struct slab *place = victim->places.slabs[r->place];
	unsigned most = urgency(pool) >= 1 ? READS_MAX : 1;

	while (r->block < victim->end_slot && r->ios_left < most) {
		uint32_t n = (uint32_t)min_u64(victim->end_slot - r->block, IO_BLOCKS);

		relocation_add_io(pool, DEVICE_READ, place, r->block, n,
		    r->from + (size_t)r->block * BLOCK_BYTES);
		r->block += n;
	}
	if (r->ios_left == 0)
		return false;
	relocation_submit(pool);
	return true;
}

/* Starts writing more of the new slab, the copy of its directory last; false: it is written. */
static bool
write_slab(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	uint32_t end = r->directory_blocks + r->move_count;
	uint32_t n = (uint32_t)min_u64(end - min_u64(r->block, end), IO_BLOCKS);

	if (n > 0) {
		submit_write(pool, r->block, n, r->to + (size_t)r->block * BLOCK_BYTES);
		r->block += n;
		r->blocks_written += n;
		return true;
	}
	if (r->block > end)
		return false;
	r->block = end + 1;
	r->blocks_written += r->directory_blocks;
	submit_write(
	    pool, pool->space.slab_blocks - r->directory_blocks, r->directory_blocks, r->to);
	return true;
}

static bool
must_rest(const struct pool *pool)
{
	return !MUTANT(SWITCH_IN_CHECKPOINT) && pool->checkpoint.phase >= CHECKPOINT_NODES &&
	       pool->checkpoint.phase <= CHECKPOINT_TABLE;
}

static void
look_for_misplaced(struct relocation *r)
{
	r->misplaced = true;
	r->placed_durably = false;
	r->place_looked = 0;
	r->exhausted = false;
}

/* A device that stalled once says little. */
static void
learn(double *block_ns, double now_ns)
{
	if (*block_ns == 0)
		*block_ns = now_ns;
	*block_ns += 0.1 * (fmin(now_ns, 4 * *block_ns) - *block_ns);
}

static void
learn_from_pass(struct relocation *r)
{
	double block_ns = (double)r->pass_ns / r->move_count;

	learn(r->plug.active ? &r->plug_block_ns : &r->pack_block_ns, block_ns);
	if (!r->plug.active)
		r->plug_block_ns +=
		    PLUG_RATIO_FORGET * (PLUG_RATIO_FIRST * r->pack_block_ns - r->plug_block_ns);
}

static void
switch_over(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	struct packed_reader reader;
	struct error error;

	r->fruitless = 0;
	learn_from_pass(r);
	if (r->plug.active) {
		plug_switch(pool);
		return;
	}

	CHECK(packed_open(&reader, r->to, r->directory_blocks, pool->space.slab_blocks, r->number,
		  &pool->uuid, &error) == 0);
	space_pack(&pool->space, r->slab, r->number, r->directory_blocks, &reader,
	    (uint32_t)pool->checkpoint_number);
	CHECK_SLOW(space_invariant(&pool->space));
	r->placed |= r->misplaced;
	r->balance_left -= min_u64(r->balance_left, r->move_count);
	if (space_lies_badly(&pool->space, r->slab))
		look_for_misplaced(r); /* a device left, or was lost, meanwhile */
	r->slab = NULL;
	r->passes++;
	r->blocks_moved += r->move_count;
}

/* --- the machine --- */

/*
 * What is moved next; false: nothing of what was looked at, and *more is to be looked at.  Room for
 * clients comes first; what lies badly takes none of what they have.
 */
static bool
choose(struct pool *pool, bool *more)
{
	struct relocation *r = &pool->relocation;

	*more = true;
	if (!r->gentle || !r->misplaced) {
		if (choose_victims(pool))
			return true;
		if (r->looked < pool->space.span_count)
			return false;
	}
	*more = false;
	if (!r->misplaced || !log_has_room(pool, LOG_CLIENT) || !list_empty(&r->waiters))
		return false;
	if (choose_misplaced(pool))
		return true;
	*more = r->place_looked < pool->space.span_count;
	return false;
}

/* Nothing lies badly any more, as far as it can be moved.  True: a checkpoint frees what was
 * emptied, and has copies that were made. */
static bool
end_placing(struct pool *pool)
{
	struct relocation *r = &pool->relocation;

	r->misplaced = false;
	r->place_looked = 0;
	r->balance_left = 0;
	if (!r->placed && pool->space.leaving_count == 0) {
		r->placed_durably = true;
		return false;
	}
	r->placed = false;
	r->phase = RELOCATION_CHECKPOINT;
	checkpoint_start(pool, &r->wait);
	return true;
}

/* Of megabytes, and so not before something is to be moved. */
static void
begin_buffers(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	uint32_t slab_blocks = pool->space.slab_blocks;
	uint32_t to_blocks = r->plug.active ? r->move_count : slab_blocks;

	if (!r->from)
		r->from = xalloc_pages((size_t)slab_blocks * BLOCK_BYTES);
	if (to_blocks <= r->to_blocks)
		return;
	free(r->to);
	r->to = xalloc_pages((size_t)to_blocks * BLOCK_BYTES);
	r->to_blocks = to_blocks;
}

/* True: a pass begins; false: it waits for a checkpoint, or rests. */
static bool
begin_pass(struct pool *pool)
{
	struct relocation *r = &pool->relocation;
	bool chosen, room, more;

	r->gentle = need(pool) == 0;
	r->plug.dry = false; /* of the pass before */
	chosen = choose(pool, &more);
	room = r->plug.active || may_take_slab(pool);

	if (chosen && room && !r->plug.active)
		r->slab = space_take(&pool->space, r->victims[0].slab->device);
	if (chosen && (r->slab || r->plug.active)) {
		begin_buffers(pool);
		for (uint32_t i = 0; i < r->victim_count; i++)
			places_hold(pool, r->victims[i].slab, &r->victims[i].places);
		r->victim = 0;
		r->place = 0;
		r->error = 0;
		r->block = 0;
		r->phase = r->plug.active ? RELOCATION_DIRECTORIES : RELOCATION_READ;
		r->looked = 0;
		return true;
	}
	r->victim_count = 0;
	if (chosen && room) { /* what is free is still being read */
		r->looked = 0;
		r->phase = RELOCATION_IDLE;
		return false;
	}
	if (!chosen && r->plug.dry) {
		r->fruitless++;
		r->phase = RELOCATION_CHECKPOINT;
		if (pool->checkpoint.phase != CHECKPOINT_IDLE)
			list_push_back(&pool->checkpoint.waiters, &r->wait.link);
		else
			checkpoint_find_holes(pool, &r->wait);
		return false;
	}
	if (!chosen && r->misplaced && r->place_looked >= pool->space.span_count)
		return !end_placing(pool);
	if (!chosen && more)
		return true; /* the others may have something */
	/* A checkpoint frees what is empty, and makes room for the next pass. */
	if (r->fruitless < FRUITLESS_MAX && (pool->space.empty_count > 0 || chosen) &&
	    (!list_empty(&r->waiters) || chosen)) {
		r->fruitless++;
		r->phase = RELOCATION_CHECKPOINT;
		checkpoint_free_slabs(pool, &r->wait);
		return false;
	}
	r->looked = 0;
	r->exhausted = !r->gentle; /* when there is more dead, that may give something */
	r->exhausted_dead = dead_blocks(pool);
	r->fruitless = 0;
	r->phase = RELOCATION_IDLE;
	if (!MUTANT(EXHAUSTED_SILENT))
		waiters_wake(&r->waiters, 0);
	return false;
}

static void
relocation_step(struct pool *pool)
{
	struct relocation *r = &pool->relocation;

	for (;;) {
		if (pool->state != POOL_ONLINE && r->phase != RELOCATION_IDLE &&
		    r->phase != RELOCATION_CHECKPOINT) {
			give_up_pass(pool);
			r->phase = RELOCATION_IDLE;
		}
		switch (r->phase) {
		case RELOCATION_IDLE:
			free_buffers(r);
			if (pool->state != POOL_ONLINE)
				waiters_wake(&r->waiters, pool->state == POOL_FAILED ? -EIO : 0);
			device_leaving_consider(pool);
			return;
		case RELOCATION_CHOOSE:
			if (log_has_room(pool, LOG_CLIENT))
				waiters_wake(&r->waiters, 0);
			if (urgency(pool) == 0)
				r->phase = RELOCATION_IDLE;
			else if (!begin_pass(pool) && r->phase == RELOCATION_CHECKPOINT)
				return;
			if (r->phase == RELOCATION_CHOOSE) {
				reactor_defer(pool->reactor, &r->step);
				return;
			}
			continue;
		case RELOCATION_DIRECTORIES:
			if (plug_read(pool))
				return;
			r->block = 0;
			r->phase = RELOCATION_READ;
			continue;
		case RELOCATION_READ:
			if (!r->error && read_victim(pool))
				return;
			begin_check(pool);
			r->phase = RELOCATION_CHECK;
			continue;
		case RELOCATION_CHECK:
			if (!check_blocks(pool)) {
				r->error = 0;
				give_up_pass(pool);
				continue;
			}
			if (r->move < r->move_count) {
				reactor_defer(pool->reactor, &r->step);
				return;
			}
			r->block = 0;
			r->phase = RELOCATION_READ;
			r->error = 0;
			r->place = r->again ? r->place + 1 : 0;
			if (r->again || ++r->victim < r->victim_count)
				continue;
			/* All is in memory.  Who died and is free by now may be all that the log
			 * has. */
			if (!MUTANT(DEAD_MOVES_KEPT) && !drop_dead_moves(r)) {
				give_up_pass(pool);
				continue;
			}
			let_victims_go(pool);
			r->phase = r->plug.active ? RELOCATION_PLUG : RELOCATION_WRITE;
			if (!r->plug.active)
				encode_directory(pool);
			else if (!plug_assign(pool))
				give_up_pass(pool);
			continue;
		case RELOCATION_WRITE:
			if (write_slab(pool))
				return;
			r->phase = RELOCATION_SWITCH;
			continue;
		case RELOCATION_PLUG:
			if (plug_write(pool))
				return;
			r->phase = RELOCATION_SWITCH;
			continue;
		case RELOCATION_SWITCH:
			if (must_rest(pool))
				return; /* the checkpoint kicks it */
			switch_over(pool);
			r->phase = RELOCATION_CHOOSE;
			checkpoint_consider(pool);
			continue;
		case RELOCATION_CHECKPOINT:
			return; /* checkpoint_ended() goes on */
		}
	}
}

void
relocation_kick(struct pool *pool)
{
	struct relocation *r = &pool->relocation;

	if (r->pace.heap_index && (pool->state != POOL_ONLINE || urgency(pool) >= 1)) {
		reactor_timer_cancel(pool->reactor, &r->pace);
		reactor_defer(pool->reactor, &r->step);
		return;
	}
	if (r->phase == RELOCATION_SWITCH ||
	    (r->phase == RELOCATION_IDLE && pool->state != POOL_ONLINE)) {
		reactor_defer(pool->reactor, &r->step);
		return;
	}
	if (r->phase != RELOCATION_IDLE || urgency(pool) == 0 ||
	    (r->exhausted && dead_blocks(pool) < r->exhausted_dead + pool->space.slab_blocks / 4))
		return;
	r->exhausted = false;
	r->phase = RELOCATION_CHOOSE;
	reactor_defer(pool->reactor, &r->step);
}

void
relocation_slab_unread(struct pool *pool)
{
	if (pool->relocation.phase == RELOCATION_IDLE)
		relocation_kick(pool);
}

void
relocation_checkpoint_ended(struct pool *pool)
{
	pool->relocation.exhausted = false;
	waiters_wake(&pool->relocation.waiters, 0);
	relocation_kick(pool);
	volume_full_consider(pool);
	device_leaving_consider(pool);
}

void
relocation_place(struct pool *pool)
{
	struct relocation *r = &pool->relocation;

	if (pool->space.copies == 1 && pool->space.leaving_count == 0)
		return;
	look_for_misplaced(r);
	relocation_kick(pool);
}

void
relocation_balance(struct pool *pool, bool on)
{
	struct relocation *r = &pool->relocation;
	bool fuller[POOL_DEVICES_MAX];

	r->balance_left = on ? space_find_fuller(&pool->space, fuller) : 0;
	r->balance_left *= pool->space.slab_blocks;
	r->balance_blocks = r->balance_left;
	r->balance_began_ns = pool->reactor->now_ns;
	if (r->balance_left == 0)
		return;
	look_for_misplaced(r);
	relocation_kick(pool);
}

bool
relocation_wait(struct pool *pool, struct waiter *waiter)
{
	struct relocation *r = &pool->relocation;

	if (pool->state != POOL_ONLINE)
		return false;
	relocation_kick(pool);
	if (r->exhausted)
		return false;
	list_push_back(&r->waiters, &waiter->link);
	relocation_kick(pool);
	return true;
}

bool
relocation_idle(const struct pool *pool)
{
	return pool->relocation.phase == RELOCATION_IDLE && list_empty(&pool->relocation.waiters);
}

bool
relocation_produces(const struct pool *pool)
{
	enum relocation_phase phase = pool->relocation.phase;

	return phase != RELOCATION_IDLE && phase != RELOCATION_CHECKPOINT;
}

void
relocation_report(const struct pool *pool, struct admin_pool_report *report)
{
	const struct relocation *r = &pool->relocation;

	report->relocating = r->phase != RELOCATION_IDLE;
	report->relocated_bytes = r->blocks_moved * BLOCK_BYTES;
	report->relocation_permille = report->relocating ? (uint64_t)(urgency(pool) * 1000) : 0;
	report->balancing = r->balance_left > 0;
	if (!report->balancing)
		return;
	uint64_t done = r->balance_blocks - r->balance_left;
	uint64_t took_s = (pool->reactor->now_ns - r->balance_began_ns) / 1000000000;

	report->balance_left_bytes = r->balance_left * BLOCK_BYTES;
	report->balance_done_permille = done * 1000 / r->balance_blocks;
	report->balance_left_s = done > 0 ? max_u64(1, took_s * r->balance_left / done) : 0;
}
