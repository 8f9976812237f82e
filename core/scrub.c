/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scrub: reads everything that is live, slab by slab on one device after the other, and compares
 * each block with the checksum that lies beside it (slab_find_crcs()).
 *
 *   REST ─(start)─► NEXT ─► READ ─► CHECK ─► AGAIN (each block that seems wrong) ─► NEXT …
 *
 * - A slab that is being read counts readers, so nobody opens it.  What relocation moves meanwhile
 *   it verifies itself, so the order of the slabs is enough for all blocks to be looked at once.
 * - With copies, each is read.  A block that is wrong is healed from another one.
 * - A read that fails is repeated block by block, and a block that is wrong is read once more,
 *   before it counts as damaged.  heal_block() alone deals with those.
 * - How far it is, and what it found, is in the superblock: after a crash it goes on from the last
 *   checkpoint, which it asks for now and then.
 * - Pace: while clients have requests under way a tenth of the time, otherwise half of it.
 */
#include "core/pool_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"

#define IO_BLOCKS 256u
#define BUSY_SHARE 10u /* 1 / so much of the time is for reading */
#define IDLE_SHARE 2u
#define PAUSE_NS_MAX (1000ull * 1000 * 1000)
/* A position is made durable after so many slabs. */
#define NOTE_SLABS 64u
#define NAMED_MAX 100u
#define PLUG_WAIT_NS (10ull * 1000 * 1000)

static void scrub_step(struct pool *pool);

static void
run_step(struct task *task)
{
	scrub_step(container_of(task, struct pool, scrub.step));
}

static void
paced(struct timer *timer)
{
	scrub_step(container_of(timer, struct pool, scrub.pace));
}

void
scrub_init(struct pool *pool)
{
	struct scrub *s = &pool->scrub;

	memset(s, 0, sizeof(*s));
	task_init(&s->step, run_step);
	timer_init(&s->pace, paced);
}

static void
free_buffers(struct scrub *s)
{
	free(s->buffer);
	free(s->healed);
	s->healed = NULL;
	free(s->crcs);
	free(s->known);
	free(s->bad);
	s->buffer = NULL;
	s->crcs = NULL;
	s->known = NULL;
	s->bad = NULL;
}

void
scrub_fini(struct pool *pool)
{
	struct scrub *s = &pool->scrub;

	reactor_cancel(pool->reactor, &s->step);
	reactor_timer_cancel(pool->reactor, &s->pace);
	free_buffers(s);
	free(s->named);
}

/* --- damage --- */

static void
name_damage(struct pool *pool, uint32_t slot, const char *why)
{
	struct scrub *s = &pool->scrub;
	struct scrub_damage damage = {
		.device = s->place->device,
		.offset_bytes = space_offset_bytes(&pool->space, s->place, slot),
		.image = 0,
	};
	struct batch_piece piece;
	char owner[2 * NAME_SIZE + 80] = "it cannot be told whose it is";

	if (slab_find_owner(pool, s->slab, s->end_slot, s->buffer, slot, &piece)) {
		const struct image *image = catalog_image(&pool->catalog, piece.image);

		damage.map = piece.type != BATCH_WRITE;
		damage.image = piece.image;
		damage.at_bytes = piece.lba * BLOCK_BYTES;
		if (damage.map)
			snprintf(owner, sizeof(owner), "of a map or of the catalog");
		else if (image && image->volume)
			snprintf(owner, sizeof(owner), "of %s/%s at byte %llu", pool->name,
			    image->volume->name, (unsigned long long)damage.at_bytes);
		else
			snprintf(owner, sizeof(owner),
			    "of a volume that is deleted, as it was at "
			    "byte %llu",
			    (unsigned long long)damage.at_bytes);
	}
	if (s->named_count == NAMED_MAX)
		return;
	if (!s->named)
		s->named = xcalloc(NAMED_MAX, sizeof(*s->named));
	s->named[s->named_count++] = damage;
	diag_error("pool %s: scrub: the block at byte %llu of %s %s; %s%s", pool->name,
	    (unsigned long long)damage.offset_bytes, pool_device_name(pool, damage.device), why,
	    owner, s->named_count == NAMED_MAX ? "; more are only counted" : "");
}

static void
fetched(struct block_fetch *fetch)
{
	struct pool *pool = fetch->pool;
	struct scrub *s = &pool->scrub;

	if (fetch->error) {
		s->found.damaged_blocks++;
		name_damage(pool, s->heal_slot, s->heal_why);
	} else {
		s->found.healed_blocks++;
	}
	/* Only so many are healed at a time, the others are left as they are. */
	s->healing = true;
	if (pool->heals == 0)
		scrub_heals_ended(pool);
}

void
scrub_heals_ended(struct pool *pool)
{
	struct scrub *s = &pool->scrub;

	if (!s->healing)
		return;
	s->healing = false;
	s->reading = false;
	reactor_defer(pool->reactor, &s->step);
}

/*
 * A live block of a place that is wrong: it is read from another copy, which also writes it where
 * it is wrong.  Without a good copy all that can be done is to say so; reads of it fail, as they
 * did.  True: waits.
 */
static bool
heal_block(struct pool *pool, struct baddr addr, uint32_t slot, const char *why)
{
	struct scrub *s = &pool->scrub;
	unsigned at = 0;

	pool->devices[s->place->device].errors++;
	pool->checksum_errors++;
	while (at < s->places.count && s->places.slabs[at] != s->place)
		at++;
	if (s->places.count < 2 || at == s->places.count || !bitmap_test(s->known, slot)) {
		s->found.damaged_blocks++;
		name_damage(pool, slot, why);
		return false;
	}
	s->heal_slot = slot;
	s->heal_why = why;
	s->reading = true;
	memset(&s->fetch, 0, sizeof(s->fetch));
	s->fetch.what = "a block that is scrubbed";
	s->fetch.block = s->healed;
	s->fetch.done = fetched;
	block_fetch_start(&s->fetch, pool,
	    (struct map_entry){ .addr = addr.n, .crc = s->crcs[slot] }, &s->places, 1u << at, 0,
	    slot);
	return true;
}

/* --- reading --- */

static void
io_done(struct device_io *io)
{
	struct pool *pool = container_of(io, struct pool, scrub.io);
	struct scrub *s = &pool->scrub;
	uint64_t took_ns = pool->reactor->now_ns - s->io_began_ns;
	uint64_t share = pool->requests_in_flight > 0 ? BUSY_SHARE : IDLE_SHARE;

	s->reading = false;
	s->bytes_read += io->len_bytes;
	if (pool->state != POOL_ONLINE || s->record.state != SCRUB_RUNNING) {
		scrub_step(pool);
		return;
	}
	reactor_timer_start(pool->reactor, &s->pace, min_u64(took_ns * (share - 1), PAUSE_NS_MAX));
}

static void
submit(struct pool *pool, uint32_t slot, uint32_t blocks)
{
	struct scrub *s = &pool->scrub;

	memset(&s->io, 0, sizeof(s->io));
	s->iov.iov_base = s->buffer + (size_t)slot * BLOCK_BYTES;
	s->iov.iov_len = (size_t)blocks * BLOCK_BYTES;
	s->io.op = DEVICE_READ;
	s->io.offset_bytes = space_offset_bytes(&pool->space, s->place, slot);
	s->io.len_bytes = s->iov.iov_len;
	s->io.iov = &s->iov;
	s->io.iov_count = 1;
	s->io.done = io_done;
	s->io_began_ns = pool->reactor->now_ns;
	s->reading = true;
	device_submit(pool_device(pool, s->place->device), &s->io);
}

/* Starts reading more of the slab; false: it is read. */
static bool
read_more(struct pool *pool)
{
	struct scrub *s = &pool->scrub;

	if (s->io_blocks > 0) {
		if (s->io.error && s->io_blocks > 1)
			s->single_end = s->block + s->io_blocks; /* again, one by one */
		else if (s->io.error)
			bitmap_set(s->bad, s->block);
		if (!s->io.error || s->io_blocks == 1)
			s->block += s->io_blocks;
		s->io.error = 0;
		s->io_blocks = 0;
	}
	if (s->block >= s->end_slot)
		return false;
	s->io_blocks =
	    s->block < s->single_end ? 1 : (uint32_t)min_u64(s->end_slot - s->block, IO_BLOCKS);
	submit(pool, s->block, s->io_blocks);
	return true;
}

/* --- the order of things --- */

static bool
is_worth_reading(const struct slab *slab)
{
	return slab->live > 0 && (slab->state == SLAB_SEALED || slab->state == SLAB_PACKED ||
				     slab->state == SLAB_OPEN);
}

static uint32_t
end_of(const struct pool *pool, const struct slab *slab)
{
	uint32_t end = pool->space.slab_blocks;

	if (slab->state == SLAB_PACKED)
		return end; /* the copy of the directory, too */
	while (end > 0 && !bitmap_test(slab->live_bits, end - 1))
		end--;
	return end;
}

/* Whose copy the slab is; or itself. */
static struct slab *
leader_of(struct slab *slab)
{
	struct slab *leader = slab;

	while (leader->state == SLAB_COPY && leader->twin && leader->twin != slab)
		leader = leader->twin;
	return leader;
}

/* Takes the next slab, s->slab; false: none is left.  NULL: it is being plugged, and is looked at
 * again: between directory and blocks nothing may change. */
static bool
next_slab(struct pool *pool)
{
	struct scrub *s = &pool->scrub;
	struct scrub_record *at = &s->record;
	uint32_t slab_blocks = pool->space.slab_blocks;

	for (; at->device < pool->device_count; at->device++, at->slab = 0) {
		for (; at->slab < pool->space.devices[at->device].mark; at->slab++) {
			struct slab *slab = space_slab(&pool->space.devices[at->device], at->slab);

			struct slab *leader = leader_of(slab);

			if (!is_worth_reading(leader) || !space_place_counts(&pool->space, slab) ||
			    !pool_device(pool, at->device))
				continue;
			if (leader->plugging && !MUTANT(PLUGGED_SCRUBBED))
				return true;
			if (!s->buffer) {
				s->buffer = xalloc_pages((size_t)slab_blocks * BLOCK_BYTES);
				s->healed = xalloc_pages(BLOCK_BYTES);
				s->crcs = xcalloc(slab_blocks, sizeof(*s->crcs));
				s->known = xcalloc(slab_blocks / 64 + 1, sizeof(*s->known));
				s->bad = xcalloc(slab_blocks / 64 + 1, sizeof(*s->bad));
			}
			memset(s->bad, 0, (slab_blocks / 64 + 1) * sizeof(*s->bad));
			s->slab = leader;
			s->place = slab;
			s->segment = leader->segment;
			places_hold(pool, leader, &s->places);
			s->block = 0;
			s->io_blocks = 0;
			s->single_end = 0;
			s->end_slot = end_of(pool, leader);
			memset(&s->found, 0, sizeof(s->found));
			s->named_before = s->named_count;
			return true;
		}
	}
	return false;
}

static bool
is_wrong(const struct pool *pool, uint32_t slot, struct baddr addr)
{
	const struct scrub *s = &pool->scrub;

	return bitmap_test(s->bad, slot) ||
	       (bitmap_test(s->known, slot) &&
		   baddr_block_crc(addr, s->buffer + (size_t)slot * BLOCK_BYTES) != s->crcs[slot]);
}

/* Compares all live blocks of the slab: those that seem wrong remain in `suspects`. */
static void
check_slab(struct pool *pool)
{
	struct scrub *s = &pool->scrub;
	uint32_t slab_blocks = pool->space.slab_blocks;
	struct baddr *addrs;
	uint32_t *slots;
	uint32_t n;

	s->suspect_count = 0;
	if (!is_worth_reading(s->slab) || s->slab->segment != s->segment)
		return; /* it became free meanwhile */
	addrs = xcalloc(slab_blocks, sizeof(*addrs));
	slots = xcalloc(slab_blocks, sizeof(*slots));
	n = space_list_live(&pool->space, s->slab, addrs, slots);
	memset(s->known, 0, (slab_blocks / 64 + 1) * sizeof(*s->known));
	slab_find_crcs(pool, s->slab, s->end_slot, s->buffer, s->crcs, s->known);
	s->suspects = xcalloc(n + 1, sizeof(*s->suspects));
	for (uint32_t i = 0; i < n && slots[i] < s->end_slot; i++) {
		s->found.checked_blocks++;
		if (is_wrong(pool, slots[i], addrs[i]))
			s->suspects[s->suspect_count++] =
			    (struct scrub_suspect){ addrs[i], slots[i] };
		else if (!bitmap_test(s->known, slots[i]))
			s->found.unverified_blocks++;
	}
	free(addrs);
	free(slots);
}

/* Reads the next suspect once more; false: none is left. */
static bool
read_again(struct pool *pool)
{
	struct scrub *s = &pool->scrub;

	if (s->io_blocks > 0) {
		const struct scrub_suspect *suspect = &s->suspects[--s->suspect_count];

		s->io_blocks = 0;
		if (s->io.error)
			bitmap_set(s->bad, suspect->slot);
		else
			bitmap_clear(s->bad, suspect->slot);
		int error = s->io.error;

		s->io.error = 0;
		if (space_is_live(&pool->space, suspect->addr) &&
		    is_wrong(pool, suspect->slot, suspect->addr) &&
		    heal_block(pool, suspect->addr, suspect->slot,
			error ? "is unreadable" : "has a wrong checksum"))
			return true;
	}
	if (s->suspect_count == 0)
		return false;
	s->io_blocks = 1;
	submit(pool, s->suspects[s->suspect_count - 1].slot, 1);
	return true;
}

static void
let_slab_go(struct pool *pool)
{
	struct scrub *s = &pool->scrub;
	struct slab *slab = s->slab;

	free(s->suspects);
	s->suspects = NULL;
	s->slab = NULL;
	if (!slab)
		return;
	places_let_go(pool, &s->places);
}

/* Together with the position, so that nothing counts twice. */
static void
count_slab(struct scrub *s)
{
	s->record.checked_blocks += s->found.checked_blocks;
	s->record.damaged_blocks += s->found.damaged_blocks;
	s->record.unverified_blocks += s->found.unverified_blocks;
	s->record.healed_blocks += s->found.healed_blocks;
	s->record.slab++;
}

static void
finish(struct pool *pool)
{
	struct scrub *s = &pool->scrub;
	struct scrub_record *record = &s->record;

	record->state = SCRUB_DONE;
	record->ended_s = pool->clock_s ? (uint32_t)pool->clock_s() : 0;
	s->phase = SCRUB_REST;
	diag_info("pool %s: scrub done: %llu blocks read, %llu damaged", pool->name,
	    (unsigned long long)record->checked_blocks, (unsigned long long)record->damaged_blocks);
	checkpoint_start(pool, NULL);
}

static void
scrub_step(struct pool *pool)
{
	struct scrub *s = &pool->scrub;

	if (s->reading || s->pace.heap_index)
		return;
	if (pool->state != POOL_ONLINE || s->record.state != SCRUB_RUNNING) {
		if (s->slab) /* it is read anew when it goes on */
			s->named_count = s->named_before;
		let_slab_go(pool);
		s->phase = SCRUB_REST;
	}
	for (;;) {
		switch (s->phase) {
		case SCRUB_REST:
			free_buffers(s);
			return;
		case SCRUB_NEXT:
			if (!next_slab(pool)) {
				finish(pool);
			} else if (s->slab) {
				s->phase = SCRUB_READ;
			} else {
				reactor_timer_start(pool->reactor, &s->pace, PLUG_WAIT_NS);
				return;
			}
			continue;
		case SCRUB_READ:
			if (read_more(pool))
				return;
			check_slab(pool);
			s->phase = SCRUB_AGAIN;
			continue;
		case SCRUB_AGAIN:
			if (read_again(pool))
				return;
			let_slab_go(pool);
			count_slab(s);
			if (++s->slabs_since_note >= NOTE_SLABS) {
				s->slabs_since_note = 0;
				checkpoint_start(pool, NULL);
			}
			s->phase = SCRUB_NEXT;
			continue;
		}
	}
}

void
scrub_kick(struct pool *pool)
{
	struct scrub *s = &pool->scrub;

	if (pool->state == POOL_ONLINE && s->record.state == SCRUB_RUNNING) {
		if (s->phase != SCRUB_REST)
			return;
		s->phase = SCRUB_NEXT;
		s->began_ns = pool->reactor->now_ns;
		s->bytes_read = 0;
	} else {
		if (s->phase == SCRUB_REST)
			return;
		reactor_timer_cancel(pool->reactor, &s->pace);
	}
	reactor_defer(pool->reactor, &s->step);
}

void
scrub_start(struct pool *pool)
{
	struct scrub *s = &pool->scrub;

	if (s->record.state != SCRUB_RUNNING && s->record.state != SCRUB_PAUSED) {
		memset(&s->record, 0, sizeof(s->record));
		s->record.started_s = pool->clock_s ? (uint32_t)pool->clock_s() : 0;
		s->named_count = 0;
	}
	s->record.state = SCRUB_RUNNING;
	scrub_kick(pool);
}

void
scrub_pause(struct pool *pool)
{
	if (pool->scrub.record.state == SCRUB_RUNNING)
		pool->scrub.record.state = SCRUB_PAUSED;
	scrub_kick(pool);
}

bool
scrub_idle(const struct pool *pool)
{
	return pool->scrub.phase == SCRUB_REST;
}

/* --- what the administrator sees --- */

static void
count_slabs(const struct pool *pool, uint64_t *before, uint64_t *after)
{
	const struct scrub_record *at = &pool->scrub.record;

	*before = *after = 0;
	for (uint32_t d = 0; d < pool->device_count; d++)
		for (uint32_t i = 0; i < pool->space.devices[d].mark; i++) {
			struct slab *slab = space_slab(&pool->space.devices[d], i);

			if (!is_worth_reading(leader_of(slab)))
				continue;
			if (d < at->device || (d == at->device && i < at->slab))
				++*before;
			else
				++*after;
		}
}

void
scrub_report(const struct pool *pool, struct admin_scrub_report *report)
{
	static const char *const states[] = { "never", "running", "paused", "done" };
	const struct scrub *s = &pool->scrub;
	uint64_t before, after;

	report->state = s->record.state < ARRAY_SIZE(states) ? states[s->record.state] : states[0];
	report->started_s = s->record.started_s;
	report->ended_s = s->record.ended_s;
	report->checked_bytes = s->record.checked_blocks * BLOCK_BYTES;
	report->damaged_blocks = s->record.damaged_blocks;
	report->unverified_blocks = s->record.unverified_blocks;
	report->healed_blocks = s->record.healed_blocks;
	count_slabs(pool, &before, &after);
	if (s->record.state == SCRUB_DONE)
		report->done_permille = 1000;
	else if (s->record.state != SCRUB_NEVER && before + after > 0)
		report->done_permille = before * 1000 / (before + after);
	if (s->phase != SCRUB_REST && s->bytes_read > 0) {
		double passed_s = (double)(pool->reactor->now_ns - s->began_ns) / 1e9;
		double left = (double)after * pool->space.slab_blocks * BLOCK_BYTES;

		report->left_s = (uint64_t)(passed_s * left / (double)s->bytes_read) + 1;
	}
	report->damage = xcalloc(s->named_count + 1, sizeof(*report->damage));
	report->damage_count = s->named_count;
	for (size_t i = 0; i < s->named_count; i++) {
		const struct scrub_damage *damage = &s->named[i];
		const struct image *image = catalog_image(&pool->catalog, damage->image);
		struct admin_damage_report *out = &report->damage[i];

		out->device = xstrdup(pool_device_name(pool, damage->device));
		out->offset_bytes = damage->offset_bytes;
		if (damage->map || !image || !image->volume)
			continue;
		snprintf(out->name.pool, NAME_SIZE, "%s", pool->name);
		memcpy(out->name.volume, image->volume->name, NAME_SIZE);
		out->at_bytes = damage->at_bytes;
	}
}
