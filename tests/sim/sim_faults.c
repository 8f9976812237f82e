/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices that misbehave, as a seed's weather has it.
 *
 *   passing    held requests (they come late, nothing else), read, write and flush errors, bad
 * places, misdirected reads, a full or vanished device.  The pool may refuse work and fail; when it
 *              was opened again everything that was promised is there.
 *   lasting    rotten bits, writes that are lost or land elsewhere although they were acknowledged.
 *              The pool may answer EIO, open read-only or not at all; it never returns a wrong
 * byte, and loses nothing silently of which a later header said that it was durable.
 */
#include <errno.h>

#include "core/base/bitmap.h"
#include "core/relocate_internal.h"
#include "tests/sim/sim.h"

enum fault_kind {
	KIND_HOLD,
	KIND_READ_ERROR,
	KIND_BAD_PLACE,
	KIND_READ_MISDIRECTED,
	KIND_WRITE_ERROR,
	KIND_FLUSH_ERROR,
	KIND_FULL,
	KIND_VANISHED,
	/* lasting */
	KIND_ROT,
	KIND_LOST,
	KIND_WRITE_MISDIRECTED,
	KIND_COUNT,
};

static const char *const kind_names[] = { "requests are held", "reads fail", "a bad place",
	"reads are misdirected", "writes fail", "flushes fail", "the device is full",
	"the device vanishes", "a bit rots", "a write is lost", "a write is misdirected" };

static uint64_t
draw(struct sim *sim, uint64_t n)
{
	return random_below(&sim->random, n);
}

void
faults_draw(struct sim *sim)
{
	struct weather *w = &sim->weather;

	w->faults = draw(sim, 2) ? 0 : 1u << KIND_HOLD;
	w->faults_one_in = 5 + (unsigned)draw(sim, 60);
	w->hold_events = 50u << draw(sim, 7);
	switch (draw(sim, 8)) {
	case 0: /* passing ones */
	case 1:
		w->faults |= (unsigned)draw(sim, 1u << KIND_ROT);
		break;
	case 2: /* lasting ones, and nothing else */
		w->faults |= 1u << (KIND_ROT + draw(sim, KIND_COUNT - KIND_ROT));
		break;
	case 3: /* all there are */
		w->faults |= (unsigned)draw(sim, 1u << KIND_COUNT);
		break;
	}
}

void
faults_draw_copies(struct sim *sim)
{
	/* Devices that fail are what copies are for. */
	if (mix64(sim->seed + 77) % 2)
		sim->weather.faults |=
		    1u << KIND_WRITE_ERROR | 1u << KIND_FLUSH_ERROR | 1u << KIND_VANISHED;
}

bool
faults_last(const struct sim *sim)
{
	return sim->weather.faults >> KIND_ROT;
}

static void
note_damage(struct sim *sim, const struct device *device, uint64_t offset_bytes, uint64_t len_bytes)
{
	struct faults *f = &sim->faults;

	for (uint32_t d = 0; d < sim->weather.device_count; d++) {
		if (sim->devices[d] != device)
			continue;
		if (f->damage_count < ARRAY_SIZE(f->damages))
			f->damages[f->damage_count++] =
			    (struct damage){ sim->disks[d], offset_bytes, len_bytes };
		else
			f->damage_unknown = true;
	}
	f->damaged = true;
}

static void
fault_hit(void *context, const struct fault_hit *hit)
{
	struct sim *sim = context;
	struct faults *f = &sim->faults;

	sim_trace(sim, "  fault %u on %s: operation %u at %llu+%llu", hit->effect,
	    hit->device->name, hit->op, (unsigned long long)hit->offset_bytes,
	    (unsigned long long)hit->len_bytes);
	f->struck = true;
	f->scrub_excused = true;
	/* One that is only being added is none of the pool's yet. */
	for (uint32_t d = 0; d < sim->joined; d++)
		if (sim->devices[d] == hit->device && hit->op == DEVICE_FLUSH &&
		    hit->effect == FAULT_FAIL &&
		    !(sim->online && sim->pool->space.devices[d].removed))
			f->flushes_failed++;
	if (hit->op == DEVICE_WRITE &&
	    (hit->effect == FAULT_LOSE || hit->effect == FAULT_MISDIRECT)) {
		note_damage(sim, hit->device, hit->offset_bytes, hit->len_bytes);
		if (hit->effect == FAULT_MISDIRECT)
			note_damage(sim, hit->device,
			    hit->offset_bytes + (uint64_t)hit->shift_bytes, hit->len_bytes);
	}
}

struct device *
faults_wrap(struct sim *sim, struct device *inner)
{
	struct device *device = fault_device_create(inner);

	fault_watch(device, fault_hit, sim);
	return device;
}

/* The device that relocation is reading from; NULL: none. */
static struct device *
relocation_reads(const struct sim *sim)
{
	for (uint32_t d = 0; sim->online && d < sim->weather.device_count; d++)
		if (sim->pool->relocation.phase == RELOCATION_READ &&
		    sim->pool->relocation.ios[0].io.device == sim->devices[d])
			return sim->devices[d];
	return NULL;
}

static void
add(struct sim *sim, struct device *device, enum device_op op, enum fault_effect effect, int error)
{
	struct fault_rule rule = {
		.op = op,
		.effect = effect,
		.error = error,
	};

	/* One by one: the order in which an initializer is evaluated is the compiler's. */
	rule.first = 1 + draw(sim, sim->online ? 4 : 40); /* an import reads many places */
	rule.count = 1 + draw(sim, 3);
	/* Once only: a device that answers the same read wrongly each time cannot be told from one
	 * that has lost what was there, and the log's end is read twice. */
	if (op == DEVICE_READ && effect == FAULT_MISDIRECT) {
		rule.count = 1;
		rule.first = relocation_reads(sim) == device ? 1 : rule.first;
	}
	if (effect == FAULT_MISDIRECT)
		rule.shift_bytes = ((int64_t)draw(sim, 65) - 32) * (int64_t)BLOCK_BYTES;
	fault_add(device, &rule);
}

/* A block of the slab of disk @d that has least that is live: relocation takes it next. */
static bool
place_of_victim(const struct sim *sim, uint32_t d, uint64_t *offset_bytes)
{
	const struct slab *victim = NULL;

	for (uint32_t i = 0; sim->online && i < sim->pool->device_count; i++) {
		const struct space_device *device = &sim->pool->space.devices[i];

		for (uint32_t n = 0;
		     pool_device(sim->pool, i) == sim->devices[d] && n < device->mark; n++) {
			const struct slab *slab = space_slab(device, n);

			if (slab->state == SLAB_SEALED && slab->live > 0 &&
			    (!victim || slab->live < victim->live))
				victim = slab;
		}
	}
	for (uint32_t slot = 0; victim && slot < sim->pool->space.slab_blocks; slot++) {
		if (!bitmap_test(victim->live_bits, slot))
			continue;
		*offset_bytes = space_offset_bytes(&sim->pool->space, victim, slot);
		return true;
	}
	return false;
}

/* Some place of a slab in use, of a structure at the head, or anywhere. */
static uint64_t
interesting_place(struct sim *sim, uint32_t d)
{
	const struct space_device *device = NULL;

	for (uint32_t i = 0; sim->pool && i < sim->pool->device_count; i++)
		if (pool_device(sim->pool, i) == sim->devices[d] &&
		    sim->pool->space.devices[i].mark > 0)
			device = &sim->pool->space.devices[i];
	if (device && !draw(sim, 3) && sim->pool->log.slab && sim->pool->log.slot > 0 &&
	    pool_device(sim->pool, sim->pool->log.slab->device) == sim->devices[d]) {
		/* The log's end, where a replay must tell damage from a crash. */
		uint32_t back = (uint32_t)draw(sim, min_u64(sim->pool->log.slot, 20));

		return space_offset_bytes(
			   &sim->pool->space, sim->pool->log.slab, sim->pool->log.slot - 1 - back) +
		       draw(sim, BLOCK_BYTES);
	}
	for (unsigned tries = 0; device && tries < 20 && draw(sim, 4); tries++) {
		const struct slab *slab =
		    space_slab(device, (uint32_t)draw(sim, device->slab_count) % device->mark);
		uint32_t slot = (uint32_t)draw(sim, sim->pool->space.slab_blocks);

		if (slab->segment &&
		    (slab->state == SLAB_OPEN || bitmap_test(slab->live_bits, slot)))
			return space_offset_bytes(&sim->pool->space, slab, slot) +
			       draw(sim, BLOCK_BYTES);
	}
	return draw(sim, draw(sim, 2) ? memory_disk_size_bytes(sim->disks[d]) : 32 * BLOCK_BYTES);
}

static void
rot_bit(struct sim *sim, uint32_t d)
{
	uint64_t offset_bytes = interesting_place(sim, d);

	memory_disk_flip_bit(sim->disks[d], offset_bytes, (unsigned)draw(sim, 8));
	note_damage(sim, sim->devices[d], offset_bytes, 1);
	sim->faults.struck = true;
}

void
faults_strike(struct sim *sim)
{
	uint32_t d = (uint32_t)draw(sim, sim->weather.device_count);
	struct device *device = sim->devices[d];
	uint64_t blocks, place;
	unsigned kind;

	if (!sim->weather.faults || !device)
		return;
	do {
		kind = (unsigned)draw(sim, KIND_COUNT);
	} while (!(sim->weather.faults >> kind & 1));
	/* Errors end a pool's life: they are rare, so that there is one. */
	if (kind != KIND_HOLD && draw(sim, 5))
		return;
	sim_trace(sim, "weather: %s (%s)", kind_names[kind], device->name);
	sim->stats.faults++;
	switch ((enum fault_kind)kind) {
	case KIND_HOLD:
		add(sim, device, draw(sim, 2) ? DEVICE_READ : (enum device_op)draw(sim, 3),
		    FAULT_STALL, 0);
		sim->faults.resume_event = sim->events + 1 + draw(sim, sim->weather.hold_events);
		return;
	case KIND_READ_ERROR:
		return add(sim, device, DEVICE_READ, FAULT_FAIL, -EIO);
	case KIND_BAD_PLACE:
		blocks = 1 + draw(sim, 100);
		if (draw(sim, 2) && place_of_victim(sim, d, &place))
			return fault_add_bad(device, place, BLOCK_BYTES);
		return fault_add_bad(device, round_down(interesting_place(sim, d), BLOCK_BYTES),
		    blocks * BLOCK_BYTES);
	case KIND_READ_MISDIRECTED:
		if (sim->online && draw(sim, 2)) {
			sim->faults.misdirect_relocation = true;
			return;
		}
		return add(sim, device, DEVICE_READ, FAULT_MISDIRECT, 0);
	case KIND_WRITE_ERROR:
		return add(
		    sim, device, DEVICE_WRITE, draw(sim, 2) ? FAULT_FAIL : FAULT_FAIL_AFTER, -EIO);
	case KIND_FLUSH_ERROR:
		return add(sim, device, DEVICE_FLUSH, FAULT_FAIL, -EIO);
	case KIND_FULL:
		return add(sim, device, DEVICE_WRITE, FAULT_FAIL, -ENOSPC);
	case KIND_VANISHED:
		for (unsigned op = DEVICE_READ; op <= DEVICE_FLUSH; op++)
			add(sim, device, (enum device_op)op, FAULT_FAIL, -EIO);
		return;
	case KIND_ROT:
		return rot_bit(sim, d);
	case KIND_LOST:
		return add(sim, device, DEVICE_WRITE, FAULT_LOSE, 0);
	case KIND_WRITE_MISDIRECTED:
		return add(sim, device, DEVICE_WRITE, FAULT_MISDIRECT, 0);
	case KIND_COUNT:
		CHECK(false);
	}
}

void
faults_strike_joining(struct sim *sim, uint32_t joining)
{
	uint64_t n = mix64(sim->seed ^ mix64(sim->events));
	uint32_t d = n % 3 == 0 ? joining : (uint32_t)(n / 3 % sim->joined);
	struct fault_rule rule = {
		.op = DEVICE_WRITE,
		.effect = FAULT_FAIL,
		.error = -EIO,
		.first = 1 + n / 64 % 8,
		.count = 1,
	};

	if (!(sim->weather.faults >> KIND_WRITE_ERROR & 1) || n / 512 % 3 != 0 || !sim->devices[d])
		return;
	sim_trace(
	    sim, "weather: writes fail (%s), as disk%u joins", sim->devices[d]->name, joining);
	sim->stats.faults++;
	fault_add(sim->devices[d], &rule);
}

/* --- held requests --- */

bool
faults_held(const struct sim *sim)
{
	for (uint32_t d = 0; d < sim->weather.device_count; d++)
		if (sim->devices[d] && fault_stalled_count(sim->devices[d]) > 0)
			return true;
	return sim->faults.read_count > 0;
}

/* --- squalls: some seeds have weather that comes at the worst moment --- */

enum squall {
	SQUALL_FLIP,    /* a bit of what relocation reads is wrong, as long as the pool is open */
	SQUALL_BAD,     /* who waits for room waits for a slab that cannot be read */
	SQUALL_READERS, /* slow reads of all that is free by now */
	SQUALL_COUNT,
};

/* A live block of a victim that is still to be read. */
static bool
place_relocation_reads(
    const struct sim *sim, uint64_t n, struct device **device, uint64_t *offset_bytes)
{
	const struct relocation *r = &sim->pool->relocation;
	const struct relocation_move *move;
	struct slab *slab;

	if (r->phase != RELOCATION_READ || r->move_count == 0)
		return false;
	move = &r->moves[n % r->move_count];
	if (move->victim <= r->victim)
		return false;
	slab = r->victims[move->victim].places.slabs[0];
	*device = pool_device(sim->pool, slab->device);
	*offset_bytes = space_offset_bytes(&sim->pool->space, slab, move->slot);
	return true;
}

/* As if they were read since before they became free. */
static void
read_all_free(struct sim *sim)
{
	struct faults *f = &sim->faults;

	for (uint32_t i = 0; i < sim->pool->device_count; i++) {
		if (!sim->pool->space.devices[i].present)
			continue;
		list_for_each(node, &sim->pool->space.devices[i].free) {
			if (f->read_count < ARRAY_SIZE(f->read))
				places_hold(sim->pool, container_of(node, struct slab, link),
				    &f->read[f->read_count++]);
		}
	}
}

void
faults_end_reads(struct sim *sim)
{
	struct faults *f = &sim->faults;

	for (unsigned i = 0; i < f->read_count && sim->pool; i++)
		places_let_go(sim->pool, &f->read[i]);
	f->read_count = 0;
}

static void
squall(struct sim *sim)
{
	uint64_t n = mix64(sim->seed ^ 0x5c0a8a), now = mix64(n ^ sim->events), place;
	struct faults *f = &sim->faults;
	struct device *device;
	uint32_t d = (uint32_t)(now % sim->weather.device_count);

	if (n % 4 != 0 || !sim->weather.faults || faults_last(sim) || !sim->online ||
	    sim->events < f->squall_event)
		return;
	switch ((enum squall)(n / 4 % SQUALL_COUNT)) {
	case SQUALL_FLIP:
		if (!place_relocation_reads(sim, now, &device, &place))
			return;
		fault_add_flip(device, place + now % BLOCK_BYTES, (unsigned)(now >> 40) % 8);
		sim_trace(sim, "weather: relocation reads a wrong bit (%s)", device->name);
		f->struck = true;
		f->scrub_excused = true;
		break;
	case SQUALL_BAD:
		if (list_empty(&sim->pool->relocation.waiters) || !sim->devices[d] ||
		    !place_of_victim(sim, d, &place))
			return;
		sim_trace(sim, "weather: a bad place (%s)", sim->devices[d]->name);
		fault_add_bad(sim->devices[d], place, BLOCK_BYTES);
		break;
	case SQUALL_READERS:
		if (sim->pool->space.free_count > 12 || f->read_count > 0)
			return;
		read_all_free(sim);
		sim_trace(sim, "weather: all that is free is being read");
		f->resume_event = sim->events + 200 + now / 64 % 4000;
		break;
	case SQUALL_COUNT:
		CHECK(false);
	}
	sim->stats.faults++;
	f->squall_event = sim->events + 50 + (now >> 32) % 1000;
}

void
faults_tick(struct sim *sim)
{
	bool idle;

	squall(sim);
	if (sim->faults.misdirect_relocation && relocation_reads(sim)) {
		add(sim, relocation_reads(sim), DEVICE_READ, FAULT_MISDIRECT, 0);
		sim->faults.misdirect_relocation = false;
	}
	if (!sim->weather.faults || !faults_held(sim))
		return;
	idle = list_empty(&sim->reactor->ready) && list_empty(&sim->reactor->turn_end) &&
	       reactor_next_deadline_ns(sim->reactor) == UINT64_MAX;
	sim->progress_ns = sim->now_ns; /* who waits for them has a reason */
	if (!idle && sim->events < sim->faults.resume_event)
		return;
	for (uint32_t d = 0; d < sim->weather.device_count; d++)
		if (sim->devices[d])
			fault_resume(sim->devices[d]);
	faults_end_reads(sim);
}

void
faults_calm(struct sim *sim)
{
	sim->faults.misdirect_relocation = false;
	sim->progress_ns = sim->now_ns;
	faults_end_reads(sim);
	for (uint32_t d = 0; d < sim->weather.device_count; d++) {
		if (!sim->devices[d])
			continue;
		fault_clear(sim->devices[d]);
		fault_resume(sim->devices[d]);
	}
}

/* --- what may be lost --- */

static bool
hit_by_damage(const struct faults *f, const struct memory_disk *disk, uint64_t offset_bytes,
    uint64_t len_bytes)
{
	if (f->damage_unknown)
		return true;
	for (unsigned i = 0; i < f->damage_count; i++) {
		const struct damage *damage = &f->damages[i];

		if (damage->disk == disk && damage->offset_bytes < offset_bytes + len_bytes &&
		    offset_bytes < damage->offset_bytes + damage->len_bytes)
			return true;
	}
	return false;
}

/* Superblocks lie at the head and at the tail. */
static bool
superblock_damaged(const struct sim *sim)
{
	for (uint32_t d = 0; d < sim->weather.device_count; d++) {
		const struct memory_disk *disk = sim->disks[d];
		uint64_t size_bytes = memory_disk_size_bytes(disk);

		if (hit_by_damage(&sim->faults, disk, 0, FORMAT_TABLE_BLOCK * BLOCK_BYTES) ||
		    hit_by_damage(&sim->faults, disk, size_bytes - 2 * FORMAT_TAIL_BYTES,
			2 * FORMAT_TAIL_BYTES))
			return true;
	}
	return false;
}

bool
faults_excuse_cut(struct sim *sim, uint64_t cut)
{
	const struct history *h = &sim->history;
	const struct record *missing = NULL;

	if (!sim->faults.damaged)
		return false;
	if (superblock_damaged(sim))
		return true;
	list_for_each(node, &h->records) {
		const struct record *record = container_of(node, struct record, link);

		if (record->sequence == cut + 1)
			missing = record;
		/* A header on the same slab that is whole, and says what it was. */
		if (missing && record->durable >= cut + 1 && record->segment == missing->segment &&
		    record->sequence <= h->required &&
		    !hit_by_damage(&sim->faults, record->disk, record->offset_bytes, BLOCK_BYTES))
			return false;
	}
	return true;
}
