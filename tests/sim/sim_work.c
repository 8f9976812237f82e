/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workload: the weather that a seed draws, the mix of operations, and looking at everything.
 * Requests are in sim_io.c, administration in sim_admin.c.
 */
#include <stdlib.h>

#include "core/base/bitmap.h"
#include "tests/sim/sim_work.h"

enum {
	OP_WRITE,
	OP_READ,
	OP_FLUSH,
	OP_TRIM,
	OP_TRIM_HUGE,
	OP_ZERO,
	OP_ZERO_HUGE,
	OP_STATUS,
	OP_CACHE,
	OP_CHECKPOINT,
	OP_IDLE,
	OP_REPORT,
	OP_INVARIANTS,
	OP_OPEN,
	OP_COMPARE,
	OP_COUNT,
};

static const unsigned usual_weights[OP_COUNT] = { 60, 20, 4, 3, 1, 3, 1, 2, 1, 1, 1, 1, 1, 1, 4 };

void
work_draw(struct sim *sim)
{
	static const uint32_t slab_blocks[] = { 64, 64, 128, 256 };
	static const uint64_t delays_ns[] = { 1000, 100 * 1000, 2000 * 1000 };
	static const unsigned depths[] = { 1, 4, 16, 64 };
	static const uint64_t sizes[] = { 2, 2, 4, 4, 8, 8, 16, 32, 64, 600 };
	static const uint64_t spreads[] = { 4, 64, 1024, 8192 };
	struct weather *w = &sim->weather;

	w->device_count = 1 + (uint32_t)draw(sim, SIM_DEVICES_MAX);
	w->slab_blocks = slab_blocks[draw(sim, ARRAY_SIZE(slab_blocks))];
	for (uint32_t i = 0; i < w->device_count; i++) {
		w->device_bytes[i] = (8 + draw(sim, 40)) * MIB;
		w->device_bytes[i] += draw(sim, 200) * BLOCK_BYTES;
	}
	while (w->device_bytes[0] < 30ull * w->slab_blocks * BLOCK_BYTES)
		w->device_bytes[0] += 7 * MIB;
	w->node_cache_bytes = one_in(sim, 2) ? 0 : draw(sim, 1024) * BLOCK_BYTES;
	w->delay_ns_max = delays_ns[draw(sim, ARRAY_SIZE(delays_ns))];
	w->prepare_space = one_in(sim, 3);
	w->gives_back = one_in(sim, 2);
	w->depth = depths[draw(sim, ARRAY_SIZE(depths))];
	w->volumes_max = 1 + (unsigned)draw(sim, 6);
	w->lives = 1 + (unsigned)draw(sim, 5);
	w->ops = 20 + (unsigned)draw(sim, 250);
	w->blocks_max = sizes[draw(sim, ARRAY_SIZE(sizes))];
	w->large_one_in = 4;
	w->spread = spreads[draw(sim, ARRAY_SIZE(spreads))];
	w->admin_one_in = one_in(sim, 4) ? 1000000 : 4 + (unsigned)draw(sim, 40);
	w->crash_modes = 1 + (unsigned)draw(sim, 15);
	w->huge = one_in(sim, 2);
	faults_draw(sim);
	if (one_in(sim, 6)) { /* a pool that fills up */
		w->device_count = 1 + (uint32_t)draw(sim, 2);
		w->slab_blocks = 64;
		w->device_bytes[0] = 10 * MIB;
		w->device_bytes[1] = 7 * MIB;
		w->blocks_max = 100;
		w->spread = one_in(sim, 2) ? 8192 : 256; /* or goes round and round */
		w->ops = 200;
		w->hold_events = 4000;
	}
	if (sim->cut) {
		w->lives =
		    sim->cut->lives ? (unsigned)min_u64(w->lives, sim->cut->lives) : w->lives;
		w->depth =
		    sim->cut->depth ? (unsigned)min_u64(w->depth, sim->cut->depth) : w->depth;
		if (sim->cut->devices)
			w->device_count = (unsigned)min_u64(w->device_count, sim->cut->devices);
	}
	if (one_in(sim, 5)) { /* a pool that is overwritten many times */
		w->device_count = 1 + (uint32_t)draw(sim, SIM_DEVICES_MAX);
		w->slab_blocks = 64;
		w->device_bytes[0] = 10 * MIB;
		w->device_bytes[1] = 9 * MIB;
		w->device_bytes[2] = 8 * MIB;
		w->blocks_max = 1 + draw(sim, 60);
		w->large_one_in = one_in(sim, 2) ? 1 : 4;
		w->large_volumes = true;
		w->lives += 2;
		w->spread = 200 + draw(sim, 1500);
		w->volumes_max = 1 + (unsigned)draw(sim, 2);
		w->ops = 600;
		w->huge = false;
	}
	for (unsigned i = 0; i < OP_COUNT; i++) {
		w->weights[i] = usual_weights[i];
		if (one_in(sim, 5))
			w->weights[i] *= 4;
		if (i != OP_WRITE && one_in(sim, 6))
			w->weights[i] = 0;
	}
	w->checkpoint_writes = one_in(sim, 2) ? 1 : CHECKPOINT_WRITES;
	w->devices_at_first = w->device_count;
	if (one_in(sim, 2))
		w->devices_at_first -= (uint32_t)draw(sim, w->device_count);
	/* Only with --copies: so the other seeds stay what they were. */
	w->copies = sim->cut && sim->cut->copies ? sim->cut->copies : 1;
	if (w->copies > 1)
		faults_draw_copies(sim);
	w->device_count = (uint32_t)max_u64(w->device_count, w->copies);
	w->devices_at_first = (uint32_t)max_u64(w->devices_at_first, w->copies);
	if (w->copies > 1)
		w->device_bytes[0] =
		    max_u64(w->device_bytes[0], 30ull * w->slab_blocks * BLOCK_BYTES + 4 * MIB);
	for (uint32_t i = 0; i < w->device_count && w->copies > 1; i++)
		w->device_bytes[i] = max_u64(w->device_bytes[i],
		    round_down(
			w->device_bytes[0] / 16 * (15 + mix64(sim->seed + i) % 2), BLOCK_BYTES));
	/* Not drawn: the other seeds stay what they were. */
	w->devices_leave = w->device_count > 1 && mix64(sim->seed ^ 11ull << 32) % 4 == 0;
	w->devices_grow = mix64(sim->seed ^ 13ull << 32) % 6 == 0;
	w->devices_return = w->copies > 1 && mix64(sim->seed ^ 17ull << 32) % 3 == 0;
	sim_trace(sim,
	    "%u copies, %u devices, %u at first, slabs of %u, cache %llu KiB, delay %llu ns, depth "
	    "%u, up to "
	    "%u volumes, "
	    "%u lives of %u ops, writes of %llu, spread %llu%s%s%s%s%s",
	    w->copies, w->device_count, w->devices_at_first, w->slab_blocks,
	    (unsigned long long)w->node_cache_bytes / 1024, (unsigned long long)w->delay_ns_max,
	    w->depth, w->volumes_max, w->lives, w->ops, (unsigned long long)w->blocks_max,
	    (unsigned long long)w->spread, w->prepare_space ? ", prepares" : "",
	    w->gives_back ? ", gives back" : "", w->devices_leave ? ", devices leave" : "",
	    w->devices_grow ? ", devices grow" : "",
	    w->devices_return ? ", devices go and come back" : "");
}

/* --- the mix --- */

static bool
all_done(struct sim *sim)
{
	return sim->io_count == 0 && sim->admin_count == 0;
}

static bool
some_done(struct sim *sim)
{
	return sim->io_count < sim->weather.depth && sim->admin_count < 3;
}

static void
check_invariants(struct sim *sim)
{
	/* What a damaged pool that is read-only shows may contradict itself. */
	if (sim->pool->state != POOL_READONLY && !space_invariant(&sim->pool->space))
		sim_fail(sim, "space_invariant does not hold");
	if (!catalog_invariant(&sim->pool->catalog))
		sim_fail(sim, "catalog_invariant does not hold");
	if (sim->pool->state == POOL_FAILED && !sim->faults.struck && !sim->faults.damaged)
		sim_fail(sim, "the pool failed: %s", sim->pool->state_reason);
}

static void
free_report(struct admin_pool_report *report)
{
	for (size_t i = 0; i < report->device_count; i++)
		free(report->devices[i].path);
	free(report->devices);
	free(report->images);
}

/* As databases do: write, flush, write, flush; so often that the log flushes ahead. */
static void
commit_often(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume)
{
	for (uint64_t n = 4 + draw(sim, 24); n > 0; n--) {
		sim_run_until(sim, all_done);
		if (sim->crashed || handle->gone)
			return;
		io_write(sim, handle, volume);
		sim_run_until(sim, all_done);
		if (sim->crashed || handle->gone)
			return;
		io_submit(sim, io_new(sim, handle, VOLUME_FLUSH, 0, 0));
	}
}

static void
one_op(struct sim *sim)
{
	unsigned total = 0, op = 0;
	struct model_volume *volume = draw_volume(sim);
	struct sim_handle *handle = volume ? handle_find(sim, volume->id, 0) : NULL;
	struct admin_pool_report report;

	if (sim->joined < sim->weather.device_count && one_in(sim, 50) && admin_add_device(sim))
		return;
	if (sim->weather.devices_leave && one_in(sim, 60)) {
		admin_remove_device(sim);
		return;
	}
	if (sim->weather.devices_grow && one_in(sim, 70)) {
		if (one_in(sim, 3))
			admin_rebalance(sim);
		else
			admin_grow_device(sim);
		return;
	}
	if (one_in(sim, sim->weather.admin_one_in) || !volume) {
		if (volume || sim->admin_count == 0)
			admin_something(sim);
		return;
	}
	for (unsigned i = 0; i < OP_COUNT; i++)
		total += sim->weather.weights[i];
	for (uint64_t n = draw(sim, total); n >= sim->weather.weights[op]; op++)
		n -= sim->weather.weights[op];
	if (!handle && (op <= OP_CACHE || op == OP_COMPARE)) {
		handle = handle_open(sim, volume, NULL);
		if (!handle)
			return;
	}
	switch (op) {
	case OP_WRITE:
		io_write(sim, handle, volume);
		return;
	case OP_COMPARE:
		io_compare_write(sim, handle, volume);
		return;
	case OP_READ:
		io_read_something(sim, handle, volume);
		return;
	case OP_FLUSH:
		io_submit(sim, io_new(sim, handle, VOLUME_FLUSH, 0, 0));
		if (one_in(sim, 4))
			commit_often(sim, handle, volume);
		return;
	case OP_TRIM:
	case OP_TRIM_HUGE:
		io_zero(sim, handle, volume, VOLUME_TRIM, op == OP_TRIM_HUGE);
		return;
	case OP_ZERO:
	case OP_ZERO_HUGE:
		io_zero(sim, handle, volume, VOLUME_ZERO, op == OP_ZERO_HUGE);
		return;
	case OP_STATUS:
		io_status(sim, handle, volume);
		return;
	case OP_CACHE:
		io_submit(sim, io_new(sim, handle, VOLUME_CACHE, 0, volume->size_bytes));
		return;
	case OP_CHECKPOINT:
		sim_trace(sim, "checkpoint");
		checkpoint_start(sim->pool, NULL);
		return;
	case OP_IDLE:
		if (all_done(sim) && one_in(sim, 4))
			sim->now_ns += 30ull * 1000 * 1000 * 1000;
		return;
	case OP_REPORT:
		pool_report(sim->pool, &report);
		if (report.image_count < model_volume_count(sim->history.present))
			sim_fail(sim, "the report lacks volumes");
		free_report(&report);
		return;
	case OP_INVARIANTS:
		check_invariants(sim);
		return;
	case OP_OPEN:
		work_open_all(sim);
		return;
	}
}

/* Not drawn, as the weather of it: the other operations stay what they were. */
static bool
return_device(struct sim *sim, uint64_t index)
{
	uint64_t n = mix64(sim->seed ^ 17ull << 32 ^ mix64(index + 1));

	return sim->weather.devices_return && n % 24 == 0 && admin_return_device(sim, n / 24);
}

void
work(struct sim *sim, unsigned first, unsigned ops)
{
	struct random usual = sim->random;

	for (unsigned i = first; i < first + ops && !sim->crashed; i++) {
		uint64_t index = (uint64_t)sim->life * SIM_CUT_OPS_PER_LIFE + i;

		CHECK(index < SIM_CUT_OPS && i < SIM_CUT_OPS_PER_LIFE);
		if (sim->cut && bitmap_test(sim->cut->without, index))
			continue;
		sim_run_until(sim, some_done);
		if (sim->crashed)
			break;
		/* A stream of its own: without one operation the others stay as they are. */
		sim->random.state = mix64(sim->seed ^ mix64(index + 1));
		if (sim->weather.faults && one_in(sim, sim->weather.faults_one_in))
			faults_strike(sim);
		handles_close_gone(sim);
		sim_trace(sim, "operation %llu", (unsigned long long)index);
		if (!return_device(sim, index))
			one_op(sim);
		if (!one_in(sim, 4))
			continue;
		for (uint64_t steps = draw(sim, 12); steps > 0 && !sim->crashed; steps--)
			sim_step(sim);
	}
	sim->random = usual;
	(void)random_next(&sim->random);
}

void
work_drain(struct sim *sim)
{
	sim_run_until(sim, all_done);
	if (!sim->crashed) {
		handles_close_gone(sim);
		check_invariants(sim);
	}
}

void
work_forget(struct sim *sim)
{
	sim->adding = false;
	sim->bringing_back = false;
	while (!list_empty(&sim->ios))
		io_free(sim, list_first(&sim->ios, struct sim_io, link));
	while (!list_empty(&sim->admins)) {
		struct sim_admin *a = list_first(&sim->admins, struct sim_admin, link);

		list_remove(&a->link);
		sim->admin_count--;
		free(a);
	}
	while (!list_empty(&sim->handles)) {
		struct sim_handle *handle = list_first(&sim->handles, struct sim_handle, link);

		list_remove(&handle->link);
		free(handle);
	}
}

/* --- looking at everything --- */

static void
verify_image(struct sim *sim, struct sim_handle *handle, const struct model_image *image,
    uint64_t size_bytes, unsigned one_in_n)
{
	size_t count, n;
	uint64_t *lbas = model_blocks(image, &count);

	for (size_t i = 0; i < count && !sim->crashed; i += n) {
		for (n = 1; i + n < count && n < 512 && lbas[i + n] - lbas[i + n - 1] < 8; n++)
			;
		if (!one_in(sim, one_in_n))
			continue;
		uint64_t first = lbas[i] - min_u64(lbas[i], draw(sim, 3));
		uint64_t end =
		    min_u64(lbas[i + n - 1] + 1 + draw(sim, 3), size_bytes / BLOCK_BYTES);

		io_read(
		    sim, handle, image, first * BLOCK_BYTES, (end - first) * BLOCK_BYTES, false);
		sim_run_until(sim, some_done);
	}
	free(lbas);
}

void
work_verify(struct sim *sim, unsigned one_in_n)
{
	const struct model *model = sim->history.present;

	list_for_each(node, &model->volumes) {
		const struct model_volume *volume = container_of(node, struct model_volume, link);
		struct sim_handle *handle = handle_open(sim, volume, NULL);

		verify_image(sim, handle, &volume->image, volume->size_bytes, one_in_n);
		if (sim->crashed)
			return;
		list_for_each(inner, &volume->snapshots) {
			const struct model_snapshot *snapshot =
			    container_of(inner, struct model_snapshot, link);

			handle = handle_open(sim, volume, snapshot);
			verify_image(sim, handle, &snapshot->image, snapshot->size_bytes, one_in_n);
			if (sim->crashed)
				return;
		}
	}
	work_drain(sim);
}

void
work_read_block(struct sim *sim, uint64_t volume_id, uint64_t lba, bool expect_error)
{
	const struct model_volume *volume = model_by_id(sim->history.present, volume_id);
	struct sim_handle *handle = handle_open(sim, volume, NULL);

	io_read(sim, handle, &volume->image, lba * BLOCK_BYTES, BLOCK_BYTES, expect_error);
	sim_run_until(sim, all_done);
}

void
work_delete_all(struct sim *sim)
{
	while (!sim->crashed && !list_empty(&sim->history.present->volumes)) {
		struct model_volume *volume = draw_volume(sim);

		if (!list_empty(&volume->snapshots) && one_in(sim, 2))
			admin_delete_snapshots(sim, volume);
		else
			admin_delete_volume(sim, volume);
		sim->refused = false;
		sim_run_until(sim, all_done);
		handles_close_gone(sim);
		if (sim->refused)
			sim_fail(sim, "there is no room for a delete");
	}
}
