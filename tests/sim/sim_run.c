/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lives of a pool.
 *
 * A life begins with pool_create() or pool_import() and ends with pool_stop() or a crash, which may
 * come at any event: while the pool is made, opened, at work or closed.  After each import the
 * disks are compared with the model; the last life ends with nothing left.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "tests/sim/sim.h"

#define STALL_NS (15ull * 1000 * 1000 * 1000)
#define STALL_STEPS 3000000u

struct sim *the_sim;

static void check_taken(struct sim *sim);
static void check_durable(struct sim *sim);

/* --- events --- */

static void
no_crash(struct sim *sim)
{
	sim->crash_in = 0;
	sim->crash_phase = CHECKPOINT_IDLE;
}

/* --- devices that are left out are counted --- */

void __real_space_leave_out(struct space *space, uint32_t index);
void __wrap_space_leave_out(struct space *space, uint32_t index);

void
__wrap_space_leave_out(struct space *space, uint32_t index)
{
	the_sim->stats.left_out++;
	sim_trace(the_sim, "  device %u is left out", index);
	__real_space_leave_out(space, index);
}

static void
crash(struct sim *sim)
{
	static const enum memory_crash modes[] = { MEMORY_CRASH_KILL, MEMORY_CRASH_NONE,
		MEMORY_CRASH_WRITES, MEMORY_CRASH_SECTORS };
	struct history *h = &sim->history;
	enum memory_crash mode;
	unsigned i;

	do {
		i = (unsigned)random_below(&sim->crash_random, 4);
	} while (!(sim->weather.crash_modes >> i & 1));
	mode = modes[i];
	if (sim->pool)
		history_capture(sim, sim->pool);
	if (sim->online) {
		h->required =
		    mode == MEMORY_CRASH_KILL ? max_u64(h->promised, h->acked) : h->promised;
	} else if (mode != MEMORY_CRASH_KILL) {
		h->required = h->promised;
	}
	sim_trace(sim, "crash %u (promised %llu, answered %llu, applied %llu, required %llu)", mode,
	    (unsigned long long)h->promised, (unsigned long long)h->acked,
	    (unsigned long long)h->present->sequence, (unsigned long long)h->required);
	for (uint32_t d = 0; d < sim->weather.device_count; d++) {
		uint64_t chance = random_next(&sim->crash_random);

		/* What is out of use and closed may have something in its cache all the same. */
		if (!sim->devices[d] && sim->weather.devices_return)
			sim->devices[d] = sim_open_disk(sim, d, 1);
		if (!sim->devices[d])
			continue;
		memory_device_crash(fault_device_inner(sim->devices[d]), chance, mode);
		fault_crash(sim->devices[d]);
	}
	sim->stats.crashes++;
	sim->crashed = true;
	no_crash(sim);
	sim->online = false;
	sim->stopping = false;
	sim->pool = NULL;
	sim->faults.read_count = 0;
	work_forget(sim);
}

void
sim_step(struct sim *sim)
{
	uint64_t deadline_ns;

	sim->events++;
	sim->crash_phase_after -= sim->crash_phase_after > 0;
	if ((sim->crash_in && --sim->crash_in == 0) ||
	    (sim->crash_phase != CHECKPOINT_IDLE && sim->crash_phase_after == 0 && sim->pool &&
		sim->pool->checkpoint.phase == sim->crash_phase && --sim->crash_phase_in == 0)) {
		crash(sim);
		return;
	}
	faults_tick(sim);
	reactor_run_turn(sim->reactor, sim->now_ns);
	check_taken(sim);
	check_durable(sim);
	devices_step(sim);
	deadline_ns = reactor_next_deadline_ns(sim->reactor);
	if (deadline_ns != UINT64_MAX && list_empty(&sim->reactor->ready) &&
	    list_empty(&sim->reactor->turn_end))
		sim->now_ns = max_u64(sim->now_ns, deadline_ns);
}

void
sim_run_until(struct sim *sim, bool (*done)(struct sim *sim))
{
	uint64_t steps = 0;
	uint64_t progress_ns = sim->progress_ns;

	while (!sim->crashed && !done(sim)) {
		bool held = faults_held(sim);

		sim_step(sim);
		if (sim->crashed || done(sim))
			return;
		if (held || faults_held(sim)) /* who waits has a reason */
			sim->progress_ns = sim->now_ns;
		if (progress_ns != sim->progress_ns)
			steps = 0;
		progress_ns = sim->progress_ns;
		if (!faults_held(sim) && list_empty(&sim->reactor->ready) &&
		    list_empty(&sim->reactor->turn_end) &&
		    reactor_next_deadline_ns(sim->reactor) == UINT64_MAX)
			sim_fail(sim, "nothing will ever happen again");
		if (sim->now_ns > sim->progress_ns + STALL_NS)
			sim_fail(sim, "no progress for %llu s",
			    (unsigned long long)(STALL_NS / 1000000000));
		if (++steps > STALL_STEPS)
			sim_fail(sim, "no progress in %u events", STALL_STEPS);
	}
}

struct device *
sim_open_disk(struct sim *sim, uint32_t d, uint64_t seed)
{
	struct memory_device_options options = {
		.seed = seed,
		.delay_ns_max = sim->weather.delay_ns_max,
		.prepare_space = sim->weather.prepare_space,
		.gives_back = sim->weather.gives_back,
	};
	char name[16];

	snprintf(name, sizeof(name), "disk%u", d);
	return faults_wrap(sim, memory_device_open(sim->disks[d], sim->reactor, name, &options));
}

/* Where devices misbehave the engine has a lot to report. */
static void
be_loud(const struct sim *sim)
{
	bool quiet = (sim->weather.faults || sim->faults.damaged) && !sim->trace;

	diag_set_level((enum diag_level)(quiet ? 0 : sim->loud));
}

static void
boot(struct sim *sim)
{
	sim->crashed = false;
	no_crash(sim);
	sim->history.captured = false;
	sim->faults.struck = false;
	sim->faults.misdirect_relocation = false;
	sim->faults.flushes_failed = 0;
	be_loud(sim);
	sim->reactor = xcalloc(1, sizeof(*sim->reactor));
	reactor_init(sim->reactor);
	reactor_set_current(sim->reactor);
	memset(sim->pools, 0, sizeof(sim->pools));
	for (uint32_t d = 0; d < sim->weather.device_count; d++)
		sim->devices[d] = sim_open_disk(sim, d, random_next(&sim->crash_random) | 1);
}

/* The pool has closed them. */
static void
devices_gone(struct sim *sim)
{
	memset(sim->devices, 0, sizeof(sim->devices));
}

noreturn_fn void __wrap_check_failed(const char *condition, const char *file, int line);

noreturn_fn void
__wrap_check_failed(const char *condition, const char *file, int line)
{
	the_sim->faults.struck = false;
	sim_fail(the_sim, "%s does not hold at %s:%d", condition, file, line);
}

/* --- opening --- */

struct opening {
	struct pool_start start;
	bool done;
	bool readonly; /* it is there, but takes no writes */
};

static struct opening *opening;

static void
opened(struct pool_start *start)
{
	struct opening *o = container_of(start, struct opening, start);
	struct sim *sim = the_sim;

	o->done = true;
	sim->progress_ns = sim->now_ns;
	if (start->error.code) {
		devices_gone(sim);
		return;
	}
	sim->pool = start->pool;
	sim->pool->checkpoint.writes_max = sim->weather.checkpoint_writes;
	if (sim->pool->state != POOL_ONLINE && sim->faults.struck + sim->faults.damaged > 0) {
		sim_trace(sim, "the pool takes no writes: %s", sim->pool->state_reason);
		o->readonly = true;
		return;
	}
	if (sim->pool->state != POOL_ONLINE)
		sim_fail(sim, "the pool opens, but is not online: %s", sim->pool->state_reason);
	sim->online = true;
	for (uint32_t d = 0; d < sim->pool->device_count; d++)
		sim->stats.degraded +=
		    sim->pool->space.devices[d].out && !sim->pool->space.devices[d].removed;
	if (sim->history.recovering) {
		sim->stats.imports++;
		history_recovered(sim, sim->pool);
	} else {
		sim->history.base->sequence = sim->pool->log.applied_sequence;
		sim->history.present->sequence = sim->pool->log.applied_sequence;
		sim->history.promised = sim->pool->log.applied_sequence;
		sim->history.acked = sim->pool->log.applied_sequence;
	}
	sim->history.unfinished_create = false;
	if (!sim->faults.damaged)
		walk_pool(sim, "after opening");
}

static bool
is_opened(struct sim *sim)
{
	(void)sim;
	return opening->done;
}

static uint64_t
no_clock(void)
{
	return 1700000000;
}

static void
plan_crash(struct sim *sim, uint64_t one_in, uint64_t within)
{
	sim->crash_in = random_one_in(&sim->crash_random, one_in)
			    ? 1 + random_below(&sim->crash_random, within)
			    : 0;
	/* Some moments are short, and the most dangerous ones. */
	sim->crash_phase = CHECKPOINT_IDLE;
	if (sim->crash_in && random_one_in(&sim->crash_random, 3)) {
		sim->crash_phase =
		    CHECKPOINT_TABLE + random_below(&sim->crash_random,
					   CHECKPOINT_FLUSH_SUPERBLOCK + 1 - CHECKPOINT_TABLE);
		sim->crash_phase_in = 1 + random_below(&sim->crash_random, 8);
		/* Not always in the first checkpoint. */
		sim->crash_phase_after = random_below(&sim->crash_random, 2) * sim->crash_in;
		sim->crash_in += sim->crash_phase_after;
	}
}

/*
 * The pool was opened and takes no writes: if only something passed by, it is killed, to be opened
 * once more; if it is damaged, what it shows is compared.  True: it is gone.
 */
static bool
damaged_opened(struct sim *sim)
{
	if (!sim->faults.damaged) {
		crash(sim);
		return true;
	}
	sim->stats.readonly++;
	sim->over = true;
	sim->unknown = !history_readonly(sim, sim->pool);
	return false;
}

/* Those for an import, in any order; perhaps one is @missing.  Returns how many. */
static uint32_t
choose_devices(struct sim *sim, struct device **devices, uint32_t *missing)
{
	uint32_t first = (uint32_t)random_below(&sim->random, sim->joined);
	uint32_t indexes[SIM_DEVICES_MAX], count = 0, kept = 0, joined = sim->joined;

	for (uint32_t i = 0; i < joined; i++) {
		uint32_t d = (first + i) % joined;

		sim->was_removed[d] = devices_removed(sim, d);
		if (!sim->was_removed[d])
			indexes[count++] = d;
	}
	sim->omitted = sim->may_omit && sim->weather.copies > 1 &&
		       !sim->history.unfinished_create && !sim->faults.damaged &&
		       random_one_in(&sim->random, 4) && count > 1;
	/* Half of a newest set that not all of it had may have gone on without the rest, by force,
	 * and the rest and who was left out are more than half of the one before. */
	if (sim->omitted && sim->forced && !devices_know(sim, indexes[count - 1]))
		sim->omitted = false;
	if (sim->omitted) {
		*missing = indexes[--count];
		joined = devices_on_disks(sim, *missing);
	}
	for (uint32_t i = 0; i < count; i++)
		if (indexes[i] < joined)
			devices[kept++] = sim->devices[indexes[i]];
	return kept;
}

#define STALL_TIMEOUT_NS (50ull * 1000 * 1000)

/* True: the pool is online; false: a crash came, or there is no pool (of an unfinished create). */
static bool
open_pool(struct sim *sim, bool create)
{
	struct pool_config config = {
		.reactor = sim->reactor,
		.node_cache_bytes = sim->weather.node_cache_bytes,
		.clock_s = no_clock,
		/* Of some seeds; virtual time passes when nothing else happens. */
		.stall_timeout_ns = mix64(sim->seed ^ 0x57a11) % 2 ? STALL_TIMEOUT_NS : 0,
	};

	opening = xcalloc(1, sizeof(*opening));
	opening->start.done = opened;
	sim->progress_ns = sim->now_ns;
	sim->history.recovering = !create;
	sim->history.started = false;
	sim_trace(sim, "%s", create ? "create" : "import");
	if (create) {
		sim->history.unfinished_create = true;
		sim->joined = sim->weather.devices_at_first;
		memset(sim->was_removed, 0, sizeof(sim->was_removed));
		pool_create(&config, "p", sim->devices, sim->joined, sim->weather.slab_blocks,
		    sim->weather.copies, &opening->start);
	} else {
		struct device *devices[SIM_DEVICES_MAX];
		uint32_t missing = UINT32_MAX, count;

		sim->joined = devices_on_disks(sim, missing);
		count = choose_devices(sim, devices, &missing);
		if (sim->omitted) {
			sim->joined = devices_on_disks(sim, missing);
			config.force = devices_know(sim, missing);
			sim->forced |= config.force && sim->weather.devices_return;
			sim_trace(
			    sim, "without disk%u%s", missing, config.force ? ", by force" : "");
		}
		pool_import(&config, devices, count, &opening->start);
	}
	sim_run_until(sim, is_opened);
	if (sim->crashed)
		return false;
	no_crash(sim);
	if (opening->readonly)
		return !damaged_opened(sim);
	if (sim->faults.damaged && !opening->start.error.code)
		sim->over = true;
	if (opening->start.error.code && sim->faults.damaged) {
		sim_trace(sim, "no pool: %s", opening->start.error.text);
		sim->stats.unopened++;
		sim->over = true;
		return false;
	}
	if (opening->start.error.code && sim->omitted && opening->start.error.code == -ENODEV) {
		sim_trace(sim, "not without: %s", opening->start.error.text);
		return false;
	}
	if (opening->start.error.code && sim->faults.struck) {
		sim_trace(sim, "not now: %s", opening->start.error.text);
		return false;
	}
	if (opening->start.error.code) {
		if (!sim->history.unfinished_create || create)
			sim_fail(sim, "%s fails: %s", create ? "create" : "import",
			    opening->start.error.text);
		sim_trace(sim, "no pool: %s", opening->start.error.text);
		return false;
	}
	return true;
}

static void
reopen(struct sim *sim)
{
	for (;;) {
		boot(sim);
		plan_crash(sim, 3, random_one_in(&sim->crash_random, 2) ? 60 : 300);
		if (random_one_in(&sim->random, 5))
			faults_strike(sim);
		sim->may_omit = true;
		bool opens = open_pool(sim, false);

		sim->may_omit = false;
		if (opens)
			break;
		if (sim->over)
			return;
		if (sim->crashed || sim->faults.struck || sim->omitted)
			continue;
		/* An unfinished create left no pool; its devices were closed. */
		boot(sim);
		if (open_pool(sim, true))
			break;
	}
	if (!sim->unknown)
		work_open_all(sim);
}

/* --- closing --- */

struct closing {
	struct pool_stop stop;
	bool done;
};

static struct closing *closing;

static void
stopped(struct pool_stop *stop)
{
	struct closing *c = container_of(stop, struct closing, stop);
	struct sim *sim = the_sim;

	c->done = true;
	sim->progress_ns = sim->now_ns;
	if (stop->error && sim->faults.struck + sim->faults.damaged == 0)
		sim_fail(sim, "the pool's end fails: %s", strerror(-stop->error));
	if (!stop->error)
		history_promise(sim, sim->history.present->sequence);
	sim->history.required = sim->history.promised;
	devices_gone(sim);
	sim->online = false;
	sim->pool = NULL;
}

static bool
is_stopped(struct sim *sim)
{
	return closing->done && sim->io_count == 0 && sim->admin_count == 0;
}

static void
stop(struct sim *sim)
{
	closing = xcalloc(1, sizeof(*closing));
	closing->stop.done = stopped;
	sim_trace(sim, "stop");
	sim->stopping = true;
	sim->progress_ns = sim->now_ns;
	list_for_each(node, &sim->admins) {
		container_of(node, struct sim_admin, link)->must_succeed = false;
	}
	faults_end_reads(sim);
	pool_stop(sim->pool, &closing->stop);
	sim_run_until(sim, is_stopped);
	if (sim->crashed)
		return;
	sim->stopping = false;
	no_crash(sim);
	work_close_all(sim);
	for (unsigned i = 0; i < 4; i++)
		sim_step(sim);
	if (reactor_next_deadline_ns(sim->reactor) != UINT64_MAX)
		sim_fail(sim, "a timer is armed after the end of the pool");
}

/* --- quiet --- */

static bool
is_quiet(struct sim *sim)
{
	const struct pool *pool = sim->pool;

	return sim->io_count == 0 && sim->admin_count == 0 && !pool->admin_busy && log_idle(pool) &&
	       pool->checkpoint.phase == CHECKPOINT_IDLE && reaper_idle(pool) &&
	       !task_queued(&pool->reaper.step) && !pool->reaper.waiting &&
	       !node_loads_pending(pool) && housekeeping_idle(pool) && relocation_idle(pool);
}

static struct waiter checkpoint_waiter;
static bool checkpoint_is_done;

static void
checkpoint_woken(struct waiter *waiter, int error)
{
	(void)waiter;
	if (error && !the_sim->faults.struck)
		sim_fail(the_sim, "a checkpoint fails: %s", the_sim->pool->state_reason);
	checkpoint_is_done = true;
}

static bool
checkpoint_done(struct sim *sim)
{
	return checkpoint_is_done && is_quiet(sim);
}

static void
quiesce(struct sim *sim)
{
	sim->progress_ns = sim->now_ns;
	sim_run_until(sim, is_quiet);
	if (sim->crashed)
		return;
	waiter_init(&checkpoint_waiter, checkpoint_woken);
	checkpoint_is_done = false;
	sim->progress_ns = sim->now_ns;
	checkpoint_start(sim->pool, &checkpoint_waiter);
	sim_run_until(sim, checkpoint_done);
}

/* Comparable with the model, after all that devices did. */
static bool
is_sound(const struct sim *sim)
{
	return sim->pool->state == POOL_ONLINE && !sim->faults.damaged;
}

static void
check_quiet(struct sim *sim, const char *when)
{
	work_drain(sim);
	if (sim->crashed)
		return;
	quiesce(sim);
	if (!sim->crashed && is_sound(sim))
		walk_pool(sim, when);
}

/* A bit rots under a block that is in use: EIO, and the right bytes once it is mended; but if it
 * lies elsewhere too, it is read from there. */
static void
rot(struct sim *sim)
{
	uint64_t volume_id, lba, offset_bytes[COPIES_MAX];
	struct memory_disk *disks[COPIES_MAX];
	uint8_t block[BLOCK_BYTES];
	struct slab *places[COPIES_MAX];
	struct space *space = &sim->pool->space;
	struct baddr addr;
	uint32_t slot;
	unsigned count, rotten;

	if (!walk_find_block(sim, &volume_id, &lba, &addr))
		return;
	count = space_places(space, space_place(space, addr, &slot), places);
	rotten =
	    random_one_in(&sim->random, 2) ? count : (unsigned)random_below(&sim->random, count);
	for (unsigned i = 0; i < count; i++) {
		disks[i] = memory_device_disk(
		    fault_device_inner(pool_device(sim->pool, places[i]->device)));
		offset_bytes[i] = space_offset_bytes(space, places[i], slot);
		memory_disk_read(disks[i], offset_bytes[i], block, BLOCK_BYTES);
	}
	for (unsigned i = 0; i < rotten; i++)
		memory_disk_flip_bit(disks[i],
		    offset_bytes[i] + random_below(&sim->random, BLOCK_BYTES),
		    (unsigned)random_below(&sim->random, 8));
	diag_set_level((enum diag_level)0);
	work_read_block(sim, volume_id, lba, rotten == count);
	be_loud(sim);
	if (sim->crashed)
		sim_fail(sim, "a crash while a bit is flipped");
	for (unsigned i = 0; i < count; i++)
		memory_disk_write(disks[i], offset_bytes[i], block, BLOCK_BYTES);
	work_read_block(sim, volume_id, lba, false);
}

static void
live(struct sim *sim)
{
	if (random_one_in(&sim->crash_random, 4))
		plan_crash(sim, 1, 1000000);
	else
		plan_crash(sim, 1, 4ull * sim->weather.ops);
	work(sim, 0, sim->weather.ops);
	if (sim->crashed)
		return;
	if (random_one_in(&sim->random, 2)) {
		faults_calm(sim);
		work_drain(sim);
		if (!sim->crashed && is_sound(sim))
			check_quiet(sim, "at rest");
		if (!sim->crashed && is_sound(sim) && random_one_in(&sim->random, 3)) {
			no_crash(sim);
			rot(sim);
			work_verify(sim, 2);
		}
		if (!sim->crashed)
			work(sim, sim->weather.ops, sim->weather.ops / 4);
	}
	if (!sim->crashed)
		stop(sim);
}

static void
last_life(struct sim *sim)
{
	uint64_t most;

	work_verify(sim, random_one_in(&sim->random, 4) ? 1 : 6);
	check_quiet(sim, "before everything is deleted");
	work_delete_all(sim);
	for (unsigned i = 0; i < 3; i++)
		check_quiet(sim, "after everything was deleted");
	if (!list_empty(&sim->pool->catalog.images) || !list_empty(&sim->pool->catalog.deleted))
		sim_fail(sim, "images are left after everything was deleted");
	if (sim->pool->space.live_blocks > 8)
		sim_fail(sim, "%llu blocks are live after everything was deleted",
		    (unsigned long long)sim->pool->space.live_blocks);
	if (sim->pool->space.leaving_count > 0)
		sim_fail(sim, "a device is leaving, and never empty");
	most = sim->pool->space.slab_count - sim->pool->space.free_count;
	if (most > 8)
		sim_fail(sim, "%llu slabs are taken after everything was deleted",
		    (unsigned long long)most);
	stop(sim);
	boot(sim);
	open_pool(sim, false);
	stop(sim);
}

/* Whatever a damaged pool still shows is right; then it ends. */
static void
end_damaged(struct sim *sim)
{
	if (!sim->pool)
		return;
	faults_calm(sim);
	if (!sim->unknown)
		work_verify(sim, 1);
	stop(sim);
}

void
sim_run(struct sim *sim)
{
	the_sim = sim;
	list_init(&sim->handles);
	list_init(&sim->ios);
	list_init(&sim->admins);
	sim->random.state = mix64(sim->seed ^ 0x5ea5);
	sim->crash_random.state = mix64(sim->seed ^ 0xc4a5);
	table_init(&sim->issued);
	work_draw(sim);
	history_begin(&sim->history);
	for (uint32_t d = 0; d < sim->weather.device_count; d++)
		sim->disks[d] = memory_disk_create(sim->weather.device_bytes[d]);
	boot(sim);
	plan_crash(sim, 6, 60);
	if (!open_pool(sim, true))
		reopen(sim);
	if (sim->over)
		return end_damaged(sim);
	for (unsigned i = 0; i < sim->weather.lives; i++) {
		sim->life = i;
		live(sim);
		if (i + 1 == sim->weather.lives && !sim->faults.damaged)
			sim->weather.faults = 0;
		reopen(sim);
		if (sim->over)
			return end_damaged(sim);
		if (random_one_in(&sim->random, 2))
			work_verify(sim, 4);
	}
	no_crash(sim);
	last_life(sim);
}

/* --- so is what devices that come back have --- */

uint32_t __real_space_rejoin(
    struct space *space, uint32_t index, const struct space *was, bool trusted);
uint32_t __wrap_space_rejoin(
    struct space *space, uint32_t index, const struct space *was, bool trusted);

uint32_t
__wrap_space_rejoin(struct space *space, uint32_t index, const struct space *was, bool trusted)
{
	uint32_t taken = __real_space_rejoin(space, index, was, trusted);

	sim_trace(the_sim, "  device %u joins, with %u slabs that it has still%s", index, taken,
	    trusted ? "" : ", not trusted");
	the_sim->stats.taken_over += taken;
	the_sim->was_out = true;
	faults_strike_joining(the_sim, index);
	return taken;
}

/* --- the last batch of a slab is applied before it is sealed --- */

void __real_space_seal_slab(struct space *space, struct slab *slab, uint32_t age);
void __wrap_space_seal_slab(struct space *space, struct slab *slab, uint32_t age);

void
__wrap_space_seal_slab(struct space *space, struct slab *slab, uint32_t age)
{
	const struct pool *pool = the_sim->pool;

	/* A checkpoint might free it, if nothing else on it is live. */
	if (pool && space == &pool->space && pool->state == POOL_ONLINE) {
		list_for_each(node, &pool->log.batches) {
			if (container_of(node, struct batch, link)->slab == slab)
				sim_fail(the_sim, "a slab is sealed under a batch in flight");
		}
	}
	__real_space_seal_slab(space, slab, age);
}

/* --- what a flush covers is durable when it ends --- */

/* A flush that was begun in this turn and is under way has made nothing durable. */
static void
check_durable(struct sim *sim)
{
	static const struct pool *pool;
	static uint64_t round, durable;
	static uint32_t flushes_left;
	const struct log *log = sim->pool ? &sim->pool->log : NULL;

	if (log && pool == sim->pool && flushes_left == 0 && log->flushes_left > 0 &&
	    log->flush_round == round + 1 && log->durable_sequence > durable)
		sim_fail(sim, "batch %llu counts as durable before it was flushed",
		    (unsigned long long)log->durable_sequence);
	pool = sim->pool;
	round = log ? log->flush_round : 0;
	durable = log ? log->durable_sequence : 0;
	flushes_left = log ? log->flushes_left : 0;
}

/* --- relocation leaves room for a checkpoint --- */

struct slab *__real_space_take(struct space *space, uint32_t after_device);
struct slab *__wrap_space_take(struct space *space, uint32_t after_device);

static struct slab *taken_last; /* when there was no room for a checkpoint left beside it */

struct slab *
__wrap_space_take(struct space *space, uint32_t after_device)
{
	struct slab *slab = __real_space_take(space, after_device);
	const struct pool *pool = the_sim->pool;

	taken_last = NULL;
	if (slab && pool && space == &pool->space) {
		uint64_t slabs = space->free_count + (pool->log.next_slab != NULL);
		uint64_t blocks = slabs * space->slab_blocks + space->slab_blocks - pool->log.slot;

		if (blocks < checkpoint_blocks_max(pool))
			taken_last = slab;
	}
	return slab;
}

/* The log may take the last one, for the checkpoint. */
static void
check_taken(struct sim *sim)
{
	if (taken_last && sim->pool && sim->pool->relocation.slab == taken_last)
		sim_fail(sim, "relocation took a slab that the next checkpoint may need");
	taken_last = NULL;
}

/* --- relocation is counted --- */

void __real_space_pack(struct space *space, struct slab *slab, uint64_t number,
    uint32_t directory_blocks, struct packed_reader *reader, uint32_t age);
void __wrap_space_pack(struct space *space, struct slab *slab, uint64_t number,
    uint32_t directory_blocks, struct packed_reader *reader, uint32_t age);

void
__wrap_space_pack(struct space *space, struct slab *slab, uint64_t number,
    uint32_t directory_blocks, struct packed_reader *reader, uint32_t age)
{
	the_sim->stats.moves++;
	the_sim->progress_ns = the_sim->now_ns;
	__real_space_pack(space, slab, number, directory_blocks, reader, age);
}

void __real_space_plug(struct space *space, struct slab *slab, const struct packed_reader *reader,
    const struct packed_block *blocks, const uint16_t *places, uint32_t count, uint32_t age);
void __wrap_space_plug(struct space *space, struct slab *slab, const struct packed_reader *reader,
    const struct packed_block *blocks, const uint16_t *places, uint32_t count, uint32_t age);

void
__wrap_space_plug(struct space *space, struct slab *slab, const struct packed_reader *reader,
    const struct packed_block *blocks, const uint16_t *places, uint32_t count, uint32_t age)
{
	the_sim->stats.plugs++;
	the_sim->progress_ns = the_sim->now_ns;
	__real_space_plug(space, slab, reader, blocks, places, count, age);
}

/* --- telling --- */

void
sim_trace(struct sim *sim, const char *format, ...)
{
	char line[1024];
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	CHECK(len >= 0 && (size_t)len < sizeof(line));
	for (int i = 0; i + 8 <= len; i += 8) {
		uint64_t word;

		memcpy(&word, line + i, 8);
		sim->hash = mix64(sim->hash ^ word);
	}
	sim->hash = mix64(sim->hash + (uint64_t)len + sim->now_ns);
	if (sim->trace)
		printf("%10.3f ms %6llu  %s\n", (double)sim->now_ns / 1e6,
		    (unsigned long long)sim->events, line);
}

static void
dump(const struct sim *sim)
{
	const struct pool *pool = sim->pool;

	printf("  at event %llu, %.3f ms; %u requests and %u administrative ones in flight\n",
	    (unsigned long long)sim->events, (double)sim->now_ns / 1e6, sim->io_count,
	    sim->admin_count);
	for (uint32_t d = 0; d < sim->weather.device_count && !sim->crashed && sim->pool; d++)
		if (sim->devices[d])
			printf("  disk%u: %u in flight\n", d,
			    memory_device_in_flight(sim->devices[d]));
	if (!pool)
		return;
	printf("  pool: state %d (%s), checkpoint %llu in phase %d%s, %llu of %llu slabs free "
	       "(%llu held "
	       "back)\n",
	    pool->state, pool->state_reason, (unsigned long long)pool->checkpoint_number,
	    pool->checkpoint.phase, pool->checkpoint.again ? " and again" : "",
	    (unsigned long long)pool->space.free_count, (unsigned long long)pool->space.slab_count,
	    (unsigned long long)pool->reserve_slabs);
	printf("  log: sequence %llu, applied %llu, durable %llu, %u in flight%s%s%s; slot %u%s\n",
	    (unsigned long long)pool->log.sequence, (unsigned long long)pool->log.applied_sequence,
	    (unsigned long long)pool->log.durable_sequence, pool->log.in_flight,
	    pool->log.open ? ", one open" : "", list_empty(&pool->log.waiters) ? "" : ", waiters",
	    list_empty(&pool->log.flush_waiters) ? "" : ", flush waiters", pool->log.slot,
	    pool->log.next_slab ? "" : ", no next slab");
	printf("  nodes: %llu in use of %llu, %llu dirty, %llu frozen (at most %llu)\n",
	    (unsigned long long)pool->nodes.in_use, (unsigned long long)pool->nodes.budget,
	    (unsigned long long)pool->nodes.dirty_count,
	    (unsigned long long)pool->nodes.frozen_count,
	    (unsigned long long)pool->dirty_nodes_max);
	printf("  live: %llu of at most %llu blocks, %llu to come; relocation in phase %d\n",
	    (unsigned long long)pool->space.live_blocks, (unsigned long long)pool->live_blocks_max,
	    (unsigned long long)pool->log.pending_blocks, pool->relocation.phase);
	printf("  reaper: %s%s%s; %llu requests in flight; %llu loads\n",
	    reaper_idle(pool) ? "idle" : "busy", pool->reaper.waiting ? ", waiting" : "",
	    pool->reaper.stuck ? ", stuck" : "", (unsigned long long)pool->requests_in_flight,
	    (unsigned long long)pool->loads.count);
	unsigned n = 0;
	list_for_each(node, &sim->ios) {
		const struct sim_io *s = container_of(node, struct sim_io, link);

		if (n++ < 5)
			printf("  request %llu: op %u, %llu+%llu of volume %llu\n",
			    (unsigned long long)s->number, s->io.op,
			    (unsigned long long)s->io.offset_bytes,
			    (unsigned long long)s->io.len_bytes,
			    (unsigned long long)s->handle->volume_id);
	}
}

void
sim_fail(struct sim *sim, const char *format, ...)
{
	va_list args;

	printf("seed %llu: ", (unsigned long long)sim->seed);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	dump(sim);
	fflush(stdout);
	_Exit(1);
}
