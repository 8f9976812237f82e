/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clients and the administrator: draws requests, and judges answers.
 *
 *   - A batch may only change a block as some request in flight asks for, on top of what the model
 *     holds there; and whatever is answered must have been seen in the log before.
 *   - A read returns for each block something that the model held between submission and answer.
 *   - Errors need a reason.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/base/bitmap.h"
#include "tests/sim/sim.h"

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
	OP_COUNT,
};

static const unsigned usual_weights[OP_COUNT] = { 60, 20, 4, 3, 1, 3, 1, 2, 1, 1, 1, 1, 1, 1 };

static uint64_t
draw(struct sim *sim, uint64_t n)
{
	return random_below(&sim->random, n);
}

static bool
one_in(struct sim *sim, uint64_t n)
{
	return random_one_in(&sim->random, n);
}

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
		w->device_count = 1 + (uint32_t)draw(sim, 2);
		w->slab_blocks = 64;
		w->device_bytes[0] = 10 * MIB;
		w->device_bytes[1] = 9 * MIB;
		w->blocks_max = 1 + draw(sim, 60);
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
	w->devices_at_first = w->device_count;
	if (one_in(sim, 2))
		w->devices_at_first -= (uint32_t)draw(sim, w->device_count);
	sim_trace(sim,
	    "%u devices, %u at first, slabs of %u, cache %llu KiB, delay %llu ns, depth %u, up to "
	    "%u volumes, "
	    "%u lives of %u ops, writes of %llu, spread %llu%s%s",
	    w->device_count, w->devices_at_first, w->slab_blocks,
	    (unsigned long long)w->node_cache_bytes / 1024, (unsigned long long)w->delay_ns_max,
	    w->depth, w->volumes_max, w->lives, w->ops, (unsigned long long)w->blocks_max,
	    (unsigned long long)w->spread, w->prepare_space ? ", prepares" : "",
	    w->gives_back ? ", gives back" : "");
}

/* --- payloads --- */

/* Bytes [@from, @from + @len) of a volume as request @number writes them; zero blocks included. */
static void
fill(const struct sim_io *s, uint8_t *to, uint64_t from, uint64_t len)
{
	while (len > 0) {
		uint64_t lba = from / BLOCK_BYTES;
		uint64_t n = min_u64(len, (lba + 1) * BLOCK_BYTES - from);

		if (s->zeroes && mix64(s->number * 1000003 + lba) % s->zeroes == 0) {
			memset(to, 0, n);
		} else {
			uint64_t at = from;

			while (at < from + n) {
				uint64_t word = s->number << 32 | ((at / 8) & 0xffffffff);
				uint64_t skip = at % 8;
				uint64_t bytes = min_u64(8 - skip, from + n - at);

				memcpy(to + (at - from), (char *)&word + skip, bytes);
				at += bytes;
			}
		}
		to += n;
		from += n;
		len -= n;
	}
}

/* What @s makes of block @lba that held @old. */
static void
patched(const struct sim_io *s, uint64_t lba, const struct content *old, uint8_t block[BLOCK_BYTES])
{
	uint64_t from = max_u64(s->io.offset_bytes, lba * BLOCK_BYTES);
	uint64_t to = min_u64(s->io.offset_bytes + s->io.len_bytes, (lba + 1) * BLOCK_BYTES);

	memcpy(block, content_bytes(old), BLOCK_BYTES);
	if (s->io.op == VOLUME_WRITE)
		fill(s, block + from % BLOCK_BYTES, from, to - from);
	else
		memset(block + from % BLOCK_BYTES, 0, to - from);
}

/* --- what the log carries must have been asked for --- */

static bool
is_partial(const struct sim_io *s, uint64_t lba)
{
	return lba * BLOCK_BYTES < s->io.offset_bytes ||
	       (lba + 1) * BLOCK_BYTES > s->io.offset_bytes + s->io.len_bytes;
}

/* The whole blocks of a TRIM or ZERO. */
static void
interior(const struct sim_io *s, uint64_t *first, uint64_t *end)
{
	*first = div_round_up(s->io.offset_bytes, BLOCK_BYTES);
	*end = (s->io.offset_bytes + s->io.len_bytes) / BLOCK_BYTES;
}

static uint64_t *
seen_place(struct sim_io *s, uint64_t lba)
{
	if (s->io.op == VOLUME_WRITE)
		return &s->seen[lba - s->lba];
	if (s->io.op == VOLUME_ZERO && is_partial(s, lba))
		return &s->seen[lba == s->lba ? 0 : 1];
	return NULL;
}

/* Of equal zeroes it cannot be told whose they were: the first that fits is the least to be
 * claimed. */
static void
note_seen(uint64_t *seen, uint64_t sequence)
{
	if (*seen == 0)
		*seen = sequence;
}

static bool
writes(const struct sim_io *s, uint64_t volume_id)
{
	return s->handle->volume_id == volume_id && !s->handle->snapshot_id &&
	       (s->io.op == VOLUME_WRITE || s->io.op == VOLUME_TRIM || s->io.op == VOLUME_ZERO);
}

static void
write_applied(struct sim *sim, struct model_volume *volume, uint64_t sequence,
    const struct record_entry *entry)
{
	for (uint64_t n = 0; n < entry->blocks; n++) {
		uint64_t lba = entry->lba + n;
		const struct content *old = model_get(&volume->image, lba);
		uint8_t block[BLOCK_BYTES];
		bool found = false;

		list_for_each(node, &sim->ios) {
			struct sim_io *s = container_of(node, struct sim_io, link);
			uint64_t *seen;

			if (!writes(s, volume->id) || lba < s->lba || lba >= s->lba + s->count)
				continue;
			seen = seen_place(s, lba);
			if (!seen)
				continue;
			patched(s, lba, old, block);
			if (memcmp(block, entry->contents[n]->bytes, BLOCK_BYTES) == 0) {
				note_seen(seen, sequence);
				found = true;
			}
		}
		if (!found) {
			uint64_t word;

			memcpy(&word, entry->contents[n]->bytes, 8);
			sim_fail(sim,
			    "batch %llu writes block %llu of %s as nobody asked (begins as request "
			    "%llu)",
			    (unsigned long long)sequence, (unsigned long long)lba, volume->name,
			    (unsigned long long)word >> 32);
		}
	}
}

static bool
writes_zeroes(const struct sim_io *s, uint64_t lba)
{
	uint8_t block[BLOCK_BYTES];
	static const uint8_t zeroes[BLOCK_BYTES];

	if (is_partial(s, lba))
		return true; /* depends on what was there; the caller compares */
	fill(s, block, lba * BLOCK_BYTES, BLOCK_BYTES);
	return memcmp(block, zeroes, BLOCK_BYTES) == 0;
}

static bool
zero_of_write(struct sim_io *s, const struct model_volume *volume, uint64_t sequence,
    const struct record_entry *entry)
{
	for (uint64_t n = 0; n < entry->blocks; n++) {
		uint64_t lba = entry->lba + n;
		uint8_t block[BLOCK_BYTES];

		if (s->io.op == VOLUME_WRITE && !writes_zeroes(s, lba))
			return false;
		if (s->io.op == VOLUME_ZERO && !is_partial(s, lba))
			return false;
		patched(s, lba, model_get(&volume->image, lba), block);
		if (memcmp(block, content_bytes(NULL), BLOCK_BYTES) != 0)
			return false;
	}
	for (uint64_t n = 0; n < entry->blocks; n++)
		note_seen(seen_place(s, entry->lba + n), sequence);
	return true;
}

static void
zero_applied(struct sim *sim, struct model_volume *volume, uint64_t sequence,
    const struct record_entry *entry)
{
	bool found = false;

	list_for_each(node, &sim->ios) {
		struct sim_io *s = container_of(node, struct sim_io, link);
		uint64_t first, end;

		if (!writes(s, volume->id))
			continue;
		if (s->io.op != VOLUME_WRITE) {
			interior(s, &first, &end);
			if (entry->lba == first && first < end && entry->blocks == end - first) {
				note_seen(&s->seen[2], sequence);
				found = true;
			}
		}
		if (s->io.op != VOLUME_TRIM && entry->lba >= s->lba &&
		    entry->lba + entry->blocks <= s->lba + s->count)
			found |= zero_of_write(s, volume, sequence, entry);
	}
	list_for_each(node, &sim->admins) {
		const struct sim_admin *a = container_of(node, struct sim_admin, link);

		found |= a->request.verb == ADMIN_VOLUME_RESIZE && a->volume_id == volume->id &&
			 entry->lba == round_up(a->request.size_bytes, BLOCK_BYTES) / BLOCK_BYTES &&
			 entry->lba + entry->blocks == volume->size_bytes / BLOCK_BYTES;
	}
	if (!found)
		sim_fail(sim, "batch %llu clears blocks %llu+%llu of %s, as nobody asked",
		    (unsigned long long)sequence, (unsigned long long)entry->lba,
		    (unsigned long long)entry->blocks, volume->name);
}

void
work_entry_applied(struct sim *sim, uint64_t sequence, const struct record_entry *entry)
{
	struct model_volume *volume = model_by_head(sim->history.present, entry->image);

	if (entry->lba + entry->blocks > volume->size_bytes / BLOCK_BYTES)
		sim_fail(sim, "batch %llu changes blocks %llu+%llu of %s, behind its end",
		    (unsigned long long)sequence, (unsigned long long)entry->lba,
		    (unsigned long long)entry->blocks, volume->name);
	if (entry->type == BATCH_ZERO)
		zero_applied(sim, volume, sequence, entry);
	else
		write_applied(sim, volume, sequence, entry);
}

void
work_op_applied(struct sim *sim, uint64_t sequence, const struct record_op *op)
{
	static const enum admin_verb verbs[] = {
		[CATALOG_OP_VOLUME_CREATE] = ADMIN_VOLUME_CREATE,
		[CATALOG_OP_VOLUME_RESIZE] = ADMIN_VOLUME_RESIZE,
		[CATALOG_OP_VOLUME_RENAME] = ADMIN_VOLUME_RENAME,
		[CATALOG_OP_VOLUME_DELETE] = ADMIN_VOLUME_DELETE,
		[CATALOG_OP_VOLUME_SET] = ADMIN_VOLUME_SET,
		[CATALOG_OP_SNAPSHOT_CREATE] = ADMIN_SNAPSHOT_CREATE,
		[CATALOG_OP_SNAPSHOT_DELETE] = ADMIN_SNAPSHOT_DELETE,
		[CATALOG_OP_CLONE] = ADMIN_CLONE,
		[CATALOG_OP_ROLLBACK] = ADMIN_ROLLBACK,
	};
	bool found = false;

	sim_trace(sim, "  catalog operation %u: volume %llu, image %llu, %s", op->op.type,
	    (unsigned long long)op->op.volume, (unsigned long long)op->op.image, op->op.name);
	list_for_each(node, &sim->admins) {
		struct sim_admin *a = container_of(node, struct sim_admin, link);

		/* They take their turns: it is the first of this kind. */
		if (!found && a->request.verb == verbs[op->op.type] &&
		    (!a->applied || a->sequence == sequence)) {
			a->applied = true;
			a->sequence = sequence;
			found = true;
		}
	}
	if (!found)
		sim_fail(sim, "a catalog operation of type %u that nobody asked for", op->op.type);
	if (op->op.type != CATALOG_OP_VOLUME_DELETE && op->op.type != CATALOG_OP_SNAPSHOT_DELETE)
		return;
	list_for_each(node, &sim->handles) {
		struct sim_handle *handle = container_of(node, struct sim_handle, link);

		if (handle->snapshot_id &&
		    (handle->volume_id == op->op.volume || handle->snapshot_id == op->op.image))
			sim_fail(sim, "snapshot %llu is deleted while it is open",
			    (unsigned long long)handle->snapshot_id);

		if (handle->volume_id == op->op.volume)
			handle->gone = true;
	}
}

static void
add_alternative(struct sim_io *s, uint64_t lba, struct content *content)
{
	struct read_alternative *alternative = xcalloc(1, sizeof(*alternative));

	alternative->lba = lba;
	alternative->content = content_get(content);
	list_init(&alternative->link);
	list_push_back(&s->alternatives, &alternative->link);
}

void
work_note_change(struct sim *sim, uint64_t volume_id, uint64_t lba, struct content *content)
{
	list_for_each(node, &sim->ios) {
		struct sim_io *s = container_of(node, struct sim_io, link);

		if (s->io.op == VOLUME_READ && s->handle->volume_id == volume_id &&
		    !s->handle->snapshot_id && lba >= s->lba && lba < s->lba + s->count)
			add_alternative(s, lba, content);
	}
}

void
work_note_range(struct sim *sim, const struct model_volume *volume, uint64_t lba, uint64_t count)
{
	list_for_each(node, &sim->ios) {
		struct sim_io *s = container_of(node, struct sim_io, link);

		if (s->io.op != VOLUME_READ || s->handle->volume_id != volume->id ||
		    s->handle->snapshot_id)
			continue;
		for (uint64_t at = max_u64(lba, s->lba); at < s->lba + s->count && at - lba < count;
		     at++)
			add_alternative(s, at, model_get(&volume->image, at));
	}
}

/* --- handles --- */

static void
handle_close(struct sim *sim, struct sim_handle *handle)
{
	(void)sim;
	CHECK(handle->in_flight == 0);
	volume_close(handle->volume);
	list_remove(&handle->link);
	free(handle);
}

static struct sim_handle *
handle_find(struct sim *sim, uint64_t volume_id, uint64_t snapshot_id)
{
	list_for_each(node, &sim->handles) {
		struct sim_handle *handle = container_of(node, struct sim_handle, link);

		if (!handle->gone && handle->volume_id == volume_id &&
		    handle->snapshot_id == snapshot_id)
			return handle;
	}
	return NULL;
}

static struct sim_handle *
handle_open(
    struct sim *sim, const struct model_volume *volume, const struct model_snapshot *snapshot)
{
	struct sim_handle *handle = handle_find(sim, volume->id, snapshot ? snapshot->id : 0);
	struct name name = { 0 };
	int error;

	if (handle)
		return handle;
	snprintf(name.pool, sizeof(name.pool), "p");
	memcpy(name.volume, volume->name, NAME_SIZE);
	if (snapshot)
		memcpy(name.snapshot, snapshot->name, NAME_SIZE);
	handle = xcalloc(1, sizeof(*handle));
	handle->volume = volume_open(sim->pool, &name, false, sim->reactor, &error);
	if (!handle->volume) {
		/* It is being deleted, perhaps. */
		free(handle);
		if (sim->admin_count == 0)
			sim_fail(sim, "%s@%s cannot be opened: %s", name.volume, name.snapshot,
			    strerror(-error));
		return NULL;
	}
	handle->volume_id = volume->id;
	handle->snapshot_id = snapshot ? snapshot->id : 0;
	/* A handle on a snapshot is in the administrator's way, until he has checked. */
	list_for_each(node, &sim->admins) {
		if (snapshot)
			container_of(node, struct sim_admin, link)->must_succeed = false;
	}
	if (volume_info(handle->volume)->size_bytes !=
	    (snapshot ? snapshot->size_bytes : volume->size_bytes))
		sim_fail(sim, "%s@%s has the wrong size", name.volume, name.snapshot);
	list_init(&handle->link);
	list_push_back(&sim->handles, &handle->link);
	return handle;
}

void
work_open_all(struct sim *sim)
{
	list_for_each(node, &sim->history.present->volumes)
		handle_open(sim, container_of(node, struct model_volume, link), NULL);
}

static void
close_gone(struct sim *sim)
{
	list_for_each_safe(node, &sim->handles) {
		struct sim_handle *handle = container_of(node, struct sim_handle, link);

		if (handle->gone && handle->in_flight == 0)
			handle_close(sim, handle);
	}
}

void
work_close_all(struct sim *sim)
{
	list_for_each_safe(node, &sim->handles) {
		handle_close(sim, container_of(node, struct sim_handle, link));
	}
}

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

static bool
reserve_is_used(const struct sim *sim)
{
	return sim->pool->space.free_count <= sim->pool->reserve_slabs;
}

static void
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
		if (!volume || changing || volume->size_sequence >= s->submit_sequence)
			return;
		break;
	case -ENOSPC:
		sim->stats.enospc++;
		if (s->io.op == VOLUME_WRITE || s->io.op == VOLUME_ZERO) {
			/* Pieces that were added before may have let time go by since. */
			if (!sim->stopping && s->count < sim->weather.slab_blocks - 2 &&
			    sim->pool->space.free_count > sim->pool->reserve_slabs + 4)
				sim_fail(sim, "ENOSPC, but %llu slabs are free (%llu held back)",
				    (unsigned long long)sim->pool->space.free_count,
				    (unsigned long long)sim->pool->reserve_slabs);
			return;
		}
		/* A trim never takes what is held back for deletes and checkpoints. */
		if (s->io.op == VOLUME_TRIM && reserve_is_used(sim))
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

static void
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

static void
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

/* A failed flush is never believed later. */
static void
flush_is_true(struct sim *sim, const struct sim_io *s)
{
	if (s->flushes_failed > 0)
		sim_fail(sim, "request %llu was flushed, after a flush below had failed",
		    (unsigned long long)s->number);
}

/* Everything that @s asks for was seen in the log; the last of it is acknowledged. */
static void
judge_change(struct sim *sim, const struct sim_io *s)
{
	uint64_t last = 0, first = UINT64_MAX, from, to;
	bool seen = true;

	if (s->io.op == VOLUME_WRITE) {
		for (uint64_t i = 0; i < s->count; i++) {
			seen = seen && s->seen[i];
			last = max_u64(last, s->seen[i]);
			if (carries_stamp(s, s->lba + i))
				first = min_u64(first, s->seen[i]);
		}
		/* Whose zeroes they were cannot be told. */
		if (seen && first < last && first != UINT64_MAX && !s->zeroes &&
		    s->count <= min_u64(LOG_PIECE_BLOCKS, sim->weather.slab_blocks - 2))
			sim_fail(sim,
			    "write %llu of %llu blocks was torn over batches %llu to %llu",
			    (unsigned long long)s->number, (unsigned long long)s->count,
			    (unsigned long long)first, (unsigned long long)last);
	} else {
		interior(s, &from, &to);
		if (from < to)
			seen = s->seen[2];
		if (s->io.op == VOLUME_ZERO) {
			if (is_partial(s, s->lba))
				seen = seen && s->seen[0];
			if (s->count > 1 && is_partial(s, s->lba + s->count - 1))
				seen = seen && s->seen[1];
		}
		for (unsigned i = 0; i < 3; i++)
			last = max_u64(last, s->seen[i]);
	}
	if (!seen)
		sim_fail(sim, "request %llu (op %u) is answered, but was not applied",
		    (unsigned long long)s->number, s->io.op);
	sim->history.acked = max_u64(sim->history.acked, last);
	if (s->io.flags & VOLUME_FUA) {
		flush_is_true(sim, s);
		history_promise(sim, last);
	}
}

static void
io_free(struct sim *sim, struct sim_io *s)
{
	for (uint64_t i = 0; s->expected && i < s->count; i++)
		content_put(s->expected[i]);
	while (!list_empty(&s->alternatives)) {
		struct read_alternative *alternative =
		    list_first(&s->alternatives, struct read_alternative, link);

		list_remove(&alternative->link);
		content_put(alternative->content);
		free(alternative);
	}
	list_remove(&s->link);
	sim->io_count--;
	s->handle->in_flight--;
	free(s->expected);
	free(s->seen);
	free(s->io.buffer);
	free(s);
}

static void
io_done(struct volume_io *io)
{
	struct sim *sim = the_sim;
	struct sim_io *s = container_of(io, struct sim_io, io);

	sim->progress_ns = sim->now_ns;
	sim_trace(sim, "  done %llu: %d", (unsigned long long)s->number, io->error);
	if (io->error) {
		judge_error(sim, s);
	} else {
		switch (io->op) {
		case VOLUME_READ:
			judge_read(sim, s);
			break;
		case VOLUME_WRITE:
			for (uint64_t i = 0; i < s->count; i++) {
				uint8_t block[BLOCK_BYTES];
				uint64_t lba = s->lba + i;
				struct content was;

				memcpy(was.bytes, (uint8_t *)io->buffer + i * BLOCK_BYTES,
				    BLOCK_BYTES);
				patched(s, lba, &was, block);
				if (memcmp(block, was.bytes, BLOCK_BYTES) != 0)
					sim_fail(sim, "the payload of write %llu was changed",
					    (unsigned long long)s->number);
			}
			judge_change(sim, s);
			break;
		case VOLUME_TRIM:
		case VOLUME_ZERO:
			judge_change(sim, s);
			break;
		case VOLUME_FLUSH:
			flush_is_true(sim, s);
			history_promise(sim, s->acked_at_submit);
			break;
		case VOLUME_STATUS:
			judge_status(sim, s);
			break;
		case VOLUME_CACHE:
			break;
		case VOLUME_COMPARE_WRITE: /* the workload has none yet */
			CHECK(false);
		}
	}
	io_free(sim, s);
}

/* --- submission --- */

static struct sim_io *
io_new(struct sim *sim, struct sim_handle *handle, enum volume_op op, uint64_t offset_bytes,
    uint64_t len_bytes)
{
	struct sim_io *s = xcalloc(1, sizeof(*s));

	s->handle = handle;
	s->number = ++sim->next_number;
	s->io.op = op;
	s->io.offset_bytes = offset_bytes;
	s->io.len_bytes = len_bytes;
	s->io.done = io_done;
	s->lba = offset_bytes / BLOCK_BYTES;
	s->count = div_round_up(offset_bytes + len_bytes, BLOCK_BYTES) - s->lba;
	s->submit_sequence = sim->history.present->sequence;
	s->acked_at_submit = sim->history.acked;
	s->flushes_failed = sim->faults.flushes_failed;
	list_init(&s->link);
	list_init(&s->alternatives);
	return s;
}

static void
io_submit(struct sim *sim, struct sim_io *s)
{
	if (sim->io_count == 0)
		sim->progress_ns = sim->now_ns;
	sim_trace(sim, "request %llu: op %u%s, volume %llu, image %llu, %llu+%llu",
	    (unsigned long long)s->number, s->io.op, s->io.flags & VOLUME_FUA ? " FUA" : "",
	    (unsigned long long)s->handle->volume_id, (unsigned long long)s->handle->snapshot_id,
	    (unsigned long long)s->io.offset_bytes, (unsigned long long)s->io.len_bytes);
	list_push_back(&sim->ios, &s->link);
	sim->io_count++;
	s->handle->in_flight++;
	sim->stats.ops++;
	volume_submit(s->handle->volume, &s->io);
}

static void
submit_read(struct sim *sim, struct sim_handle *handle, const struct model_image *image,
    uint64_t offset_bytes, uint64_t len_bytes, bool expect_error)
{
	struct sim_io *s = io_new(sim, handle, VOLUME_READ, offset_bytes, len_bytes);

	s->expect_error = expect_error;
	s->io.buffer = xalloc_pages(s->count * BLOCK_BYTES);
	s->expected = xcalloc(s->count, sizeof(*s->expected));
	for (uint64_t i = 0; i < s->count; i++)
		s->expected[i] = content_get(model_get(image, s->lba + i));
	sim->stats.bytes += len_bytes;
	io_submit(sim, s);
}

/* A place in a volume of @size_bytes: in one of a few areas. */
static uint64_t
draw_block(struct sim *sim, uint64_t size_bytes)
{
	uint64_t blocks = size_bytes / BLOCK_BYTES;
	uint64_t spread = min_u64(sim->weather.spread, blocks);
	uint64_t area = draw(sim, 4);
	uint64_t base = 0;

	if (area == 1)
		base = blocks - spread;
	else if (area == 2)
		base = blocks / 3 < blocks - spread ? blocks / 3 : 0;
	return base + (one_in(sim, 3) ? draw(sim, min_u64(spread, 12)) : draw(sim, spread));
}

static void
draw_range(struct sim *sim, uint64_t size_bytes, uint64_t blocks_max, uint64_t *offset_bytes,
    uint64_t *len_bytes)
{
	uint64_t count = 1 + draw(sim, one_in(sim, 4) ? blocks_max : min_u64(blocks_max, 4));

	*offset_bytes = draw_block(sim, size_bytes) * BLOCK_BYTES;
	*len_bytes = count * BLOCK_BYTES;
	if (one_in(sim, 4)) {
		uint64_t unit = one_in(sim, 3) ? 1 : 512;

		*offset_bytes += draw(sim, BLOCK_BYTES / unit) * unit;
		*len_bytes = (1 + draw(sim, *len_bytes / unit)) * unit;
	}
	*offset_bytes = min_u64(*offset_bytes, size_bytes - 1);
	*len_bytes = min_u64(*len_bytes, size_bytes - *offset_bytes);
}

static struct model_volume *
draw_volume(struct sim *sim)
{
	unsigned count = model_volume_count(sim->history.present);
	uint64_t n = count ? draw(sim, count) : 0;

	list_for_each(node, &sim->history.present->volumes) {
		if (n-- == 0)
			return container_of(node, struct model_volume, link);
	}
	return NULL;
}

static struct model_snapshot *
draw_snapshot(struct sim *sim, const struct model_volume *volume)
{
	uint64_t count = 0, n;

	list_for_each(node, &volume->snapshots)
		count++;
	if (count == 0)
		return NULL;
	n = draw(sim, count);
	list_for_each(node, &volume->snapshots) {
		if (n-- == 0)
			return container_of(node, struct model_snapshot, link);
	}
	return NULL;
}

static void
submit_write(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume)
{
	uint64_t offset_bytes, len_bytes;
	struct sim_io *s;

	draw_range(sim, volume->size_bytes, sim->weather.blocks_max, &offset_bytes, &len_bytes);
	s = io_new(sim, handle, VOLUME_WRITE, offset_bytes, len_bytes);
	if (one_in(sim, 8))
		s->zeroes = 1 + (unsigned)draw(sim, 3);
	s->io.flags = one_in(sim, 12) ? VOLUME_FUA : 0;
	s->io.buffer = xalloc_pages(s->count * BLOCK_BYTES);
	fill(s, (uint8_t *)s->io.buffer + offset_bytes % BLOCK_BYTES, offset_bytes, len_bytes);
	s->seen = xcalloc(s->count, sizeof(*s->seen));
	sim->stats.bytes += len_bytes;
	io_submit(sim, s);
}

static void
submit_zero(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume,
    enum volume_op op, bool huge)
{
	uint64_t offset_bytes, len_bytes;
	struct sim_io *s;

	draw_range(sim, volume->size_bytes, sim->weather.blocks_max * (one_in(sim, 4) ? 6 : 1),
	    &offset_bytes, &len_bytes);
	if (huge) {
		if (one_in(sim, 3))
			offset_bytes = 0;
		len_bytes = volume->size_bytes - offset_bytes;
		if (one_in(sim, 2))
			len_bytes = 1 + draw(sim, len_bytes);
	}
	s = io_new(sim, handle, op, offset_bytes, len_bytes);
	s->io.flags = one_in(sim, 8) ? VOLUME_FUA : 0;
	s->seen = xcalloc(3, sizeof(*s->seen));
	io_submit(sim, s);
}

static void
submit_status(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume)
{
	uint64_t offset_bytes, len_bytes;
	struct sim_io *s;

	draw_range(sim, volume->size_bytes, 1024, &offset_bytes, &len_bytes);
	if (one_in(sim, 2))
		len_bytes = volume->size_bytes - offset_bytes;
	s = io_new(sim, handle, VOLUME_STATUS, offset_bytes, len_bytes);
	s->io.extents = s->extents;
	s->io.extents_max = 1 + (uint32_t)draw(sim, ARRAY_SIZE(s->extents));
	io_submit(sim, s);
}

static void
read_something(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume)
{
	const struct model_snapshot *snapshot = one_in(sim, 3) ? draw_snapshot(sim, volume) : NULL;
	uint64_t size_bytes = snapshot ? snapshot->size_bytes : volume->size_bytes;
	uint64_t offset_bytes, len_bytes;

	if (snapshot && snapshot->id) {
		handle = handle_open(sim, volume, snapshot);
		if (!handle)
			return;
	} else {
		snapshot = NULL;
	}
	size_bytes = snapshot ? snapshot->size_bytes : volume->size_bytes;
	draw_range(sim, size_bytes, sim->weather.blocks_max, &offset_bytes, &len_bytes);
	submit_read(sim, handle, snapshot ? &snapshot->image : &volume->image, offset_bytes,
	    len_bytes, false);
}

/* --- administration --- */

/* A deletion that failed on its way to the disk has sent the clients away: nobody knows its end. */
static void
disconnect(struct sim *sim, uint64_t volume_id)
{
	list_for_each(node, &sim->handles) {
		struct sim_handle *handle = container_of(node, struct sim_handle, link);

		if (sim->faults.struck && handle->volume_id == volume_id)
			handle->gone = true;
	}
}

static void
admin_done(struct admin_request *request)
{
	struct sim *sim = the_sim;
	struct sim_admin *a = container_of(request, struct sim_admin, request);
	int code = request->error.code;

	sim->progress_ns = sim->now_ns;
	sim_trace(sim, "  administration %llu: %d %s", (unsigned long long)a->number, code,
	    code ? request->error.text : "");
	if (code == 0 && request->verb == ADMIN_DEVICE_ADD) {
		devices_added(sim);
	} else if (code == 0 && request->verb != ADMIN_DIFF) {
		if (!a->applied)
			sim_fail(sim, "administration %llu is answered, but was not applied",
			    (unsigned long long)a->number);
		sim->history.acked = max_u64(sim->history.acked, a->sequence);
		history_promise(sim, a->sequence);
	} else if (code) {
		/* Taken all the same: it failed behind the point of no return. */
		if (request->verb == ADMIN_DEVICE_ADD && !sim->joining)
			sim->joined++;
		sim->adding &= request->verb != ADMIN_DEVICE_ADD;
		if (a->applied && !sim->faults.struck)
			sim_fail(sim, "administration %llu failed, but was applied",
			    (unsigned long long)a->number);
		sim->refused = code == -ENOSPC && reserve_is_used(sim);
		if (a->must_succeed && !sim->refused && !sim->faults.struck && !sim->faults.damaged)
			sim_fail(sim, "administration %llu (verb %u) failed: %s",
			    (unsigned long long)a->number, request->verb, request->error.text);
	}
	if (code && request->verb == ADMIN_VOLUME_DELETE)
		disconnect(sim, a->volume_id);
	list_remove(&a->link);
	sim->admin_count--;
	admin_request_fini(request);
	free(a);
}

static struct sim_admin *
admin_new(struct sim *sim, enum admin_verb verb, const struct model_volume *volume)
{
	struct sim_admin *a = xcalloc(1, sizeof(*a));

	a->number = ++sim->next_number;
	a->request.verb = verb;
	a->request.created_s = 1700000000;
	snprintf(a->request.name.pool, NAME_SIZE, "p");
	snprintf(a->request.target.pool, NAME_SIZE, "p");
	a->must_succeed = sim->admin_count == 0;
	if (volume) {
		memcpy(a->request.name.volume, volume->name, NAME_SIZE);
		a->volume_id = volume->id;
	}
	list_init(&a->link);
	return a;
}

static void
admin_submit(struct sim *sim, struct sim_admin *a)
{
	sim_trace(sim, "administration %llu: verb %u, %s@%s -> %s, %llu bytes, %zu names",
	    (unsigned long long)a->number, a->request.verb, a->request.name.volume,
	    a->request.name.snapshot, a->request.target.volume,
	    (unsigned long long)a->request.size_bytes, a->request.name_count);
	list_push_back(&sim->admins, &a->link);
	sim->admin_count++;
	sim->stats.admins++;
	sim->progress_ns = sim->now_ns;
	pool_admin(sim->pool, &a->request, admin_done);
}

static uint64_t
draw_size(struct sim *sim)
{
	static const uint64_t sizes[] = { 4096, 64 * KIB, MIB, 3 * MIB + 4096, 20 * MIB, 300 * MIB,
		3 * GIB, TIB, 5 * TIB, 40 * TIB };

	return sizes[draw(sim, sim->weather.huge ? ARRAY_SIZE(sizes) : 6)];
}

/* Handles on snapshots are in the way of deletes; those that are busy may make it fail. */
static void
close_snapshots(struct sim *sim, struct sim_admin *a, uint64_t volume_id)
{
	list_for_each_safe(node, &sim->handles) {
		struct sim_handle *handle = container_of(node, struct sim_handle, link);

		if (!handle->snapshot_id || (volume_id && handle->volume_id != volume_id))
			continue;
		if (handle->in_flight)
			a->must_succeed = false;
		else
			handle_close(sim, handle);
	}
}

static void
admin_create(struct sim *sim)
{
	struct sim_admin *a = admin_new(sim, ADMIN_VOLUME_CREATE, NULL);

	snprintf(a->request.name.volume, NAME_SIZE, "v%llu", (unsigned long long)a->number);
	a->request.size_bytes = draw_size(sim);
	admin_submit(sim, a);
}

static void
admin_snapshot(struct sim *sim)
{
	struct sim_admin *a = admin_new(sim, ADMIN_SNAPSHOT_CREATE, NULL);
	unsigned volumes = model_volume_count(sim->history.present);

	a->request.names = xcalloc(volumes, sizeof(struct name));
	list_for_each(node, &sim->history.present->volumes) {
		struct model_volume *volume = container_of(node, struct model_volume, link);

		if (a->request.name_count > 0 && one_in(sim, 2))
			continue;
		struct name *name = &a->request.names[a->request.name_count++];

		snprintf(name->pool, NAME_SIZE, "p");
		memcpy(name->volume, volume->name, NAME_SIZE);
		snprintf(name->snapshot, NAME_SIZE, "s%llu", (unsigned long long)a->number);
	}
	admin_submit(sim, a);
}

static void
admin_delete_snapshots(struct sim *sim, const struct model_volume *volume)
{
	struct sim_admin *a = admin_new(sim, ADMIN_SNAPSHOT_DELETE, NULL);
	size_t count = 0;

	list_for_each(node, &volume->snapshots)
		count++;
	a->request.names = xcalloc(count, sizeof(struct name));
	list_for_each(node, &volume->snapshots) {
		const struct model_snapshot *snapshot =
		    container_of(node, struct model_snapshot, link);

		if (a->request.name_count > 0 && !one_in(sim, 4))
			continue;
		if (a->request.name_count == 0 && node->next != &volume->snapshots &&
		    one_in(sim, 2))
			continue;
		struct name *name = &a->request.names[a->request.name_count++];

		snprintf(name->pool, NAME_SIZE, "p");
		memcpy(name->volume, volume->name, NAME_SIZE);
		memcpy(name->snapshot, snapshot->name, NAME_SIZE);
	}
	close_snapshots(sim, a, volume->id);
	admin_submit(sim, a);
}

static void
admin_delete_volume(struct sim *sim, const struct model_volume *volume)
{
	struct sim_admin *a = admin_new(sim, ADMIN_VOLUME_DELETE, volume);

	a->request.force = true;
	close_snapshots(sim, a, volume->id);
	admin_submit(sim, a);
}

static bool
admin_add_device(struct sim *sim)
{
	struct sim_admin *a;

	if (sim->joined == sim->weather.device_count || sim->adding)
		return false;
	a = admin_new(sim, ADMIN_DEVICE_ADD, NULL);
	devices_add(sim, &a->request);
	admin_submit(sim, a);
	return true;
}

static void
administrate(struct sim *sim)
{
	struct model_volume *volume = draw_volume(sim);
	unsigned volumes = model_volume_count(sim->history.present);
	struct model_snapshot *snapshot = volume ? draw_snapshot(sim, volume) : NULL;
	struct sim_admin *a;

	if (!volume || (volumes < sim->weather.volumes_max && one_in(sim, 4))) {
		admin_create(sim);
		return;
	}
	switch (draw(sim, 12)) {
	case 0:
	case 1:
	case 2:
		admin_snapshot(sim);
		return;
	case 3:
	case 4:
		if (snapshot)
			admin_delete_snapshots(sim, volume);
		return;
	case 5:
	case 6:
		if (!snapshot || volumes >= sim->weather.volumes_max + 2)
			return;
		a = admin_new(sim, ADMIN_CLONE, volume);
		a->volume_id = 0;
		memcpy(a->request.name.snapshot, snapshot->name, NAME_SIZE);
		snprintf(
		    a->request.target.volume, NAME_SIZE, "c%llu", (unsigned long long)a->number);
		admin_submit(sim, a);
		return;
	case 7:
	case 8:
		if (!snapshot)
			return;
		a = admin_new(sim, ADMIN_ROLLBACK, volume);
		memcpy(a->request.name.snapshot, snapshot->name, NAME_SIZE);
		a->request.force = true;
		a->rolls_back = true;
		admin_submit(sim, a);
		return;
	case 9:
		a = admin_new(sim, ADMIN_VOLUME_RESIZE, volume);
		a->request.size_bytes = draw_size(sim);
		a->request.force = true;
		admin_submit(sim, a);
		return;
	case 10:
		if (one_in(sim, 2)) {
			a = admin_new(sim, ADMIN_VOLUME_RENAME, volume);
			snprintf(a->request.target.volume, NAME_SIZE, "r%llu",
			    (unsigned long long)a->number);
		} else {
			a = admin_new(sim, ADMIN_VOLUME_SET, volume);
			a->request.readonly = !volume->readonly && one_in(sim, 2);
		}
		admin_submit(sim, a);
		return;
	case 11:
		if (volumes > 1 && one_in(sim, 2))
			admin_delete_volume(sim, volume);
		return;
	}
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
	if (!space_invariant(&sim->pool->space))
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

static void
one_op(struct sim *sim)
{
	unsigned total = 0, op = 0;
	struct model_volume *volume = draw_volume(sim);
	struct sim_handle *handle = volume ? handle_find(sim, volume->id, 0) : NULL;
	struct admin_pool_report report;

	if (sim->joined < sim->weather.device_count && one_in(sim, 50) && admin_add_device(sim))
		return;
	if (one_in(sim, sim->weather.admin_one_in) || !volume) {
		if (volume || sim->admin_count == 0)
			administrate(sim);
		return;
	}
	for (unsigned i = 0; i < OP_COUNT; i++)
		total += sim->weather.weights[i];
	for (uint64_t n = draw(sim, total); n >= sim->weather.weights[op]; op++)
		n -= sim->weather.weights[op];
	if (!handle && op <= OP_CACHE) {
		handle = handle_open(sim, volume, NULL);
		if (!handle)
			return;
	}
	switch (op) {
	case OP_WRITE:
		submit_write(sim, handle, volume);
		return;
	case OP_READ:
		read_something(sim, handle, volume);
		return;
	case OP_FLUSH:
		io_submit(sim, io_new(sim, handle, VOLUME_FLUSH, 0, 0));
		return;
	case OP_TRIM:
	case OP_TRIM_HUGE:
		submit_zero(sim, handle, volume, VOLUME_TRIM, op == OP_TRIM_HUGE);
		return;
	case OP_ZERO:
	case OP_ZERO_HUGE:
		submit_zero(sim, handle, volume, VOLUME_ZERO, op == OP_ZERO_HUGE);
		return;
	case OP_STATUS:
		submit_status(sim, handle, volume);
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
		close_gone(sim);
		sim_trace(sim, "operation %llu", (unsigned long long)index);
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
		close_gone(sim);
		check_invariants(sim);
	}
}

void
work_forget(struct sim *sim)
{
	sim->adding = false;
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

		submit_read(
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

	submit_read(sim, handle, &volume->image, lba * BLOCK_BYTES, BLOCK_BYTES, expect_error);
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
		close_gone(sim);
		if (sim->refused)
			sim_fail(sim, "there is no room for a delete");
	}
}
