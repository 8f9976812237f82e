/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which answers are right:
 *
 *   - Whatever is answered must have been seen in the log before (sim_seen.c).
 *   - A read returns for each block something that the model held between submission and answer.
 *   - Errors need a reason.
 */
#include <stdlib.h>

#include "tests/sim/sim_work.h"

/* --- answers --- */

static bool
admin_changes(struct sim *sim, uint64_t volume_id)
{
	list_for_each(node, &sim->admins) {
		if (container_of(node, struct sim_admin, link)->volume_id == volume_id)
			return true;
	}
	return false;
}

bool
judge_reserve_used(const struct sim *sim)
{
	return sim->pool->space.free_count <= sim->pool->reserve_slabs;
}

/* A pool with copies that lost a device has less room than it had when it was promised, and a
 * device that leaves holds what is still to find room elsewhere. */
static bool
room_shrank(const struct sim *sim)
{
	const struct space *space = &sim->pool->space;
	bool out = false;

	for (uint32_t d = 0; d < space->device_count; d++)
		out |= space->devices[d].out;
	return space->leaving_count > 0 || (space->copies > 1 && (out || sim->was_out));
}

void
judge_error(struct sim *sim, struct sim_io *s)
{
	struct model_volume *volume = model_by_id(sim->history.present, s->handle->volume_id);
	bool changing = admin_changes(sim, s->handle->volume_id);

	switch (s->io.error) {
	case -ESHUTDOWN:
		if (!volume || changing || s->handle->gone || sim->stopping)
			return;
		break;
	case -EROFS:
		if (sim->faults.damaged && sim->pool->state == POOL_READONLY)
			return;
		if (!volume || changing || volume->readonly || sim->stopping ||
		    volume->readonly_sequence >= s->submit_sequence)
			return;
		break;
	case -EINVAL:
		if (!volume || changing || volume->size_sequence >= s->submit_sequence ||
		    (s->io.op == VOLUME_COMPARE_WRITE &&
			s->count > log_atomic_blocks(sim->weather.slab_blocks)))
			return;
		break;
	case -ENOSPC:
		sim->stats.enospc++;
		if (io_writes_data(s) || s->io.op == VOLUME_ZERO) {
			if (room_shrank(sim))
				return;
			if (volume && volume->reserved && !changing && !sim->stopping &&
			    volume->reserved_sequence < s->submit_sequence && !sim->faults.struck &&
			    !sim->faults.damaged)
				sim_fail(sim, "ENOSPC, but room for %s is held back", volume->name);
			/* Pieces that were added before may have let time go by since. */
			if (!sim->stopping && list_empty(&sim->pool->catalog.reserved) &&
			    sim->pool->reserve_held == 0 && io_is_atomic(sim, s) &&
			    sim->pool->space.free_count > sim->pool->reserve_slabs + 4)
				sim_fail(sim, "ENOSPC, but %llu slabs are free (%llu held back)",
				    (unsigned long long)sim->pool->space.free_count,
				    (unsigned long long)sim->pool->reserve_slabs);
			return;
		}
		/* A trim never takes what is held back for deletes and checkpoints. */
		if (s->io.op == VOLUME_TRIM && judge_reserve_used(sim))
			return;
		break;
	case -EIO:
		if (s->expect_error)
			return;
		if (sim->faults.struck || sim->faults.damaged) {
			sim->stats.refused++;
			sim->stats.unreadable += sim->over && s->io.op == VOLUME_READ;
			return;
		}
		break;
	}
	sim_fail(sim, "request %llu (op %u, %llu+%llu of volume %llu) failed: %s",
	    (unsigned long long)s->number, s->io.op, (unsigned long long)s->io.offset_bytes,
	    (unsigned long long)s->io.len_bytes, (unsigned long long)s->handle->volume_id,
	    strerror(-s->io.error));
}

static bool
read_matches(const struct sim_io *s, uint64_t lba, const struct content *content)
{
	uint64_t from = max_u64(s->io.offset_bytes, lba * BLOCK_BYTES);
	uint64_t to = min_u64(s->io.offset_bytes + s->io.len_bytes, (lba + 1) * BLOCK_BYTES);
	const uint8_t *got = (const uint8_t *)s->io.buffer + (from - s->lba * BLOCK_BYTES);

	return memcmp(got, content_bytes(content) + from % BLOCK_BYTES, to - from) == 0;
}

void
judge_read(struct sim *sim, const struct sim_io *s)
{
	for (uint64_t i = 0; i < s->count; i++) {
		bool good = read_matches(s, s->lba + i, s->expected[i]);

		list_for_each(node, &s->alternatives) {
			const struct read_alternative *alternative =
			    container_of(node, struct read_alternative, link);

			good = good || (alternative->lba == s->lba + i &&
					   read_matches(s, s->lba + i, alternative->content));
		}
		if (!good) {
			uint64_t got, want;

			memcpy(&got, (uint8_t *)s->io.buffer + i * BLOCK_BYTES + 2048, 8);
			memcpy(&want, content_bytes(s->expected[i]) + 2048, 8);
			sim_fail(sim,
			    "request %llu reads block %llu of volume %llu, image %llu wrongly: in "
			    "its middle "
			    "%#llx, not %#llx",
			    (unsigned long long)s->number, (unsigned long long)(s->lba + i),
			    (unsigned long long)s->handle->volume_id,
			    (unsigned long long)s->handle->snapshot_id, (unsigned long long)got,
			    (unsigned long long)want);
		}
	}
	if (s->expect_error)
		sim_fail(sim, "request %llu reads a damaged block without an error",
		    (unsigned long long)s->number);
}

void
judge_status(struct sim *sim, const struct sim_io *s)
{
	const struct model_volume *volume = model_by_id(sim->history.present, s->handle->volume_id);
	uint64_t at = s->io.offset_bytes;
	size_t count;

	if (s->io.extents_count == 0)
		sim_fail(sim, "STATUS without extents");
	/* Comparable only if nothing happened meanwhile. */
	if (!volume || s->submit_sequence != sim->history.present->sequence)
		return;
	uint64_t *lbas = model_blocks(&volume->image, &count);

	for (uint32_t i = 0; i < s->io.extents_count; i++) {
		const struct volume_extent *extent = &s->io.extents[i];
		uint64_t first = at / BLOCK_BYTES;
		uint64_t end = div_round_up(at + extent->len_bytes, BLOCK_BYTES);
		uint64_t mapped = 0;

		if (extent->len_bytes == 0)
			sim_fail(sim, "STATUS with an empty extent");
		for (size_t n = 0; n < count; n++)
			mapped += lbas[n] >= first && lbas[n] < end;
		if (extent->hole ? mapped > 0 : mapped != end - first)
			sim_fail(sim, "STATUS: bytes %llu+%llu of %s as %s, %llu blocks are mapped",
			    (unsigned long long)at, (unsigned long long)extent->len_bytes,
			    volume->name, extent->hole ? "hole" : "data",
			    (unsigned long long)mapped);
		at += extent->len_bytes;
	}
	if (at > s->io.offset_bytes + s->io.len_bytes)
		sim_fail(sim, "STATUS beyond what was asked");
	free(lbas);
}

/* Of less than a word there may be nothing in it that tells whose it was. */
static bool
carries_stamp(const struct sim_io *s, uint64_t lba)
{
	uint64_t from = max_u64(s->io.offset_bytes, lba * BLOCK_BYTES);
	uint64_t to = min_u64(s->io.offset_bytes + s->io.len_bytes, (lba + 1) * BLOCK_BYTES);

	return to - from >= 8;
}

/* Whether @content begins, as far as @s covers it, with @same bytes that @s expects, and goes on
 * otherwise. */
static bool
differs_behind(const struct sim_io *s, uint64_t lba, const struct content *content, uint64_t same)
{
	uint64_t from = max_u64(s->io.offset_bytes, lba * BLOCK_BYTES);
	uint64_t to = min_u64(s->io.offset_bytes + s->io.len_bytes, (lba + 1) * BLOCK_BYTES);
	const uint8_t *want = s->compare + (from - s->lba * BLOCK_BYTES);
	const uint8_t *is = content_bytes(content) + from % BLOCK_BYTES;

	return memcmp(is, want, same) == 0 && (same == to - from || is[same] != want[same]);
}

/* It says that something else is there: so it was, at some time, and nothing was written. */
void
judge_compare(struct sim *sim, const struct sim_io *s)
{
	uint64_t at = s->io.offset_bytes + s->io.differs_at_bytes;

	if (s->io.differs_at_bytes >= s->io.len_bytes)
		sim_fail(sim, "request %llu differs behind its end", (unsigned long long)s->number);
	for (uint64_t i = 0; i <= at / BLOCK_BYTES - s->lba; i++) {
		uint64_t lba = s->lba + i;
		uint64_t from = max_u64(s->io.offset_bytes, lba * BLOCK_BYTES);
		uint64_t end =
		    min_u64(s->io.offset_bytes + s->io.len_bytes, (lba + 1) * BLOCK_BYTES);
		uint64_t same = min_u64(at, end) - from;
		bool good = differs_behind(s, lba, s->expected[i], same);

		list_for_each(node, &s->alternatives) {
			const struct read_alternative *alternative =
			    container_of(node, struct read_alternative, link);

			good |= alternative->lba == lba &&
				differs_behind(s, lba, alternative->content, same);
		}
		if (!good)
			sim_fail(sim, "request %llu says that byte %llu differs: it never did",
			    (unsigned long long)s->number, (unsigned long long)at);
	}
	for (uint64_t i = 0; i < s->count; i++)
		if (s->seen[i] && !s->zeroes && carries_stamp(s, s->lba + i))
			sim_fail(sim, "request %llu found a difference, but was written",
			    (unsigned long long)s->number);
}

/* A failed flush is never believed later; but the device may be left out. */
void
judge_flush(struct sim *sim, const struct sim_io *s)
{
	bool left_out = sim->was_out;

	for (uint32_t d = 0; sim->pool && d < sim->pool->device_count; d++)
		left_out |= sim->pool->space.devices[d].out;
	if (s->flushes_failed > 0 && !left_out)
		sim_fail(sim, "request %llu was flushed, after a flush below had failed",
		    (unsigned long long)s->number);
}

/* Everything that @s asks for was seen in the log; the last of it is acknowledged. */
/*
 * What is live, and what reserved volumes have yet to write, are together never more than fit.
 * (Trims of what is shared copy nodes, for which there is some slack; with snapshots of reserved
 * volumes only a lower bound of what is their own is known.)
 */
static void
judge_reserves(struct sim *sim)
{
	const struct pool *pool = sim->pool;
	/* What an operation under way holds may be counted twice. */
	uint64_t sum = pool->space.live_blocks + pool_reserved_blocks(pool) - pool->reserve_held;

	if (!sim->faults.struck && !sim->faults.damaged && !room_shrank(sim) &&
	    pool->space.live_blocks > pool->live_blocks_max + pool->live_blocks_max / 32 + 64)
		sim_fail(sim, "%llu blocks are live, and %llu fit",
		    (unsigned long long)pool->space.live_blocks,
		    (unsigned long long)pool->live_blocks_max);
	list_for_each(node, &pool->catalog.reserved) {
		if (container_of(node, struct volume_record, reserved_link)->head->parent)
			return;
	}
	if (!list_empty(&pool->catalog.reserved) && !sim->faults.struck && !sim->faults.damaged &&
	    !room_shrank(sim) && sum > pool->live_blocks_max + pool->live_blocks_max / 32 + 64)
		sim_fail(sim, "%llu blocks are live or held back, and %llu fit",
		    (unsigned long long)sum, (unsigned long long)pool->live_blocks_max);
}

void
judge_change(struct sim *sim, const struct sim_io *s)
{
	uint64_t last = 0, first = UINT64_MAX, from, to;
	bool seen = true;

	if (io_writes_data(s)) {
		for (uint64_t i = 0; i < s->count; i++) {
			seen = seen && s->seen[i];
			last = max_u64(last, s->seen[i]);
			if (carries_stamp(s, s->lba + i))
				first = min_u64(first, s->seen[i]);
		}
		/* Whose zeroes they were cannot be told. */
		if (seen && first < last && first != UINT64_MAX && !s->zeroes &&
		    io_is_atomic(sim, s))
			sim_fail(sim,
			    "write %llu of %llu blocks was torn over batches %llu to %llu",
			    (unsigned long long)s->number, (unsigned long long)s->count,
			    (unsigned long long)first, (unsigned long long)last);
	} else {
		io_interior(s, &from, &to);
		if (from < to)
			seen = s->seen[2];
		if (s->io.op == VOLUME_ZERO) {
			if (io_is_partial(s, s->lba))
				seen = seen && s->seen[0];
			if (s->count > 1 && io_is_partial(s, s->lba + s->count - 1))
				seen = seen && s->seen[1];
		}
		for (unsigned i = 0; i < 3; i++)
			last = max_u64(last, s->seen[i]);
	}
	if (!seen)
		sim_fail(sim, "request %llu (op %u) is answered, but was not applied",
		    (unsigned long long)s->number, s->io.op);
	judge_reserves(sim);
	sim->history.acked = max_u64(sim->history.acked, last);
	if (s->io.flags & VOLUME_FUA) {
		judge_flush(sim, s);
		history_promise(sim, last);
	}
}
