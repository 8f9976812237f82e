/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device_return.h"

#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"
#include "core/base/size.h"

#define PAGE_BLOCKS 256u

static void device_return_step(struct device_return *back);

static void
run_step(struct task *task)
{
	device_return_step(container_of(task, struct device_return, step));
}

#define REFUSE(back, code, ...) \
	(error_set(&(back)->error, (code), __VA_ARGS__), (void)((back)->phase = DEVICE_RETURN_DONE))

static void
woken(struct waiter *waiter, int error)
{
	struct device_return *back = container_of(waiter, struct device_return, wait);

	/* Once it is in use, that is that: the log moves with the next write, or the pool failed.
	 */
	if (error && back->phase != DEVICE_RETURN_LOG)
		REFUSE(back, error, "pool %s: %s", back->pool->name, back->pool->state_reason);
	device_return_step(back);
}

static void
applied(struct log_append *append, int error)
{
	struct device_return *back = container_of(append, struct device_return, append);

	woken(&back->wait, error);
}

int
device_return_prepare(struct pool *pool, const char *path, struct error *error)
{
	for (uint32_t i = 0; i < pool->device_count; i++) {
		struct device *device = pool->devices[i].device;

		if (!pool->space.devices[i].out || !device || device_let_go(pool, i) ||
		    strcmp(device->name, path) != 0)
			continue;
		return error_set(error, -EBUSY,
		    "%s was left out, and does not answer: %u requests are under way there still",
		    path, device->in_flight);
	}
	return 0;
}

/* --- which device it is --- */

static const char *
name_of(const struct device_return *back)
{
	return back->device->name;
}

/* Whether the label is that of a device of the pool which is out. */
static void
judge_label(struct device_return *back)
{
	struct pool *pool = back->pool;
	const struct pool_label *label = &back->label;
	uint32_t index = label->label.device_index;
	const struct space_device *device = &pool->space.devices[index];

	if (label->error.code == -ENODATA)
		return REFUSE(back, -ENODATA,
		    "%s is no device of a Quarry pool: quarry device add %s makes it a new one",
		    name_of(back), pool->name);
	if (label->error.code)
		return REFUSE(back, label->error.code, "%s: %s", name_of(back), label->error.text);
	if (!uuid_equal(&label->pool_uuid, &pool->uuid))
		return REFUSE(back, -EINVAL,
		    "%s belongs to another pool (%s): what is brought back is a device of pool %s",
		    name_of(back), label->pool_name, pool->name);
	if (index >= pool->device_count)
		return REFUSE(back, -EINVAL,
		    "%s was being added to pool %s, which was interrupted: quarry device add "
		    "--force adds it",
		    name_of(back), pool->name);
	if (device->removed ||
	    !uuid_equal(&label->device_uuid, &pool->devices[index].label.device_uuid))
		return REFUSE(back, -EINVAL,
		    "%s was removed from pool %s: quarry device add --force makes it a new device",
		    name_of(back), pool->name);
	if (!device->out)
		return REFUSE(back, -EALREADY, "%s is in use already as a device of pool %s",
		    name_of(back), pool->name);
	if (device->leaving)
		return REFUSE(back, -EBUSY,
		    "%s is being removed from pool %s: afterwards quarry device add --force makes "
		    "it a new device",
		    name_of(back), pool->name);
	if (label->label.slab_blocks != pool->space.slab_blocks ||
	    !(label->label.features_incompat & LABEL_COPIES) ||
	    (device->present && (label->label.slabs_block != device->slabs_block ||
				    label->label.slab_count < device->slab_count ||
				    label->label.slab_count > device->slab_room)))
		return REFUSE(back, -EUCLEAN, "the label of %s is not as pool %s knows it",
		    name_of(back), pool->name);
	back->index = index;
}

static void
label_read(struct pool_label *label)
{
	struct device_return *back = container_of(label, struct device_return, label);

	back->phase = DEVICE_RETURN_HEADS;
	judge_label(back);
	if (back->phase == DEVICE_RETURN_HEADS && !device_let_go(back->pool, back->index))
		REFUSE(back, -EBUSY, "%s was left out, and requests are under way there still",
		    pool_device_name(back->pool, back->index));
	device_return_step(back);
}

/* Whether it was in service without the others. */
static void
judge_heads(struct device_return *back)
{
	struct pool *pool = back->pool;
	struct device_set now;
	bool fork;

	pool_device_set(pool, &now);
	fork = back->newest.generation > pool->generation ||
	       back->newest.checkpoint > pool->checkpoint_number + 1 ||
	       (back->set.count > 0 && device_set_is_fork(&now, &back->set, back->index));
	if (fork)
		REFUSE(back, -EINVAL,
		    "%s was in service without the other devices of pool %s, and has data of its "
		    "own: quarry device add --force makes it a new, empty device",
		    name_of(back), pool->name);
	/* Without a set of its own nobody can say so. */
	back->trusted = back->newest.checkpoint > 0 && back->set.count > 0;
}

static void
heads_were_read(struct block_reader *reader)
{
	struct device_return *back = container_of(reader, struct device_return, reader);

	if (!reader->error)
		heads_take(
		    back->blocks, &back->pool->uuid, &back->newest, &back->set, back->checkpoints);
	if (++back->place < 2)
		return device_return_step(back);
	back->phase = DEVICE_RETURN_HEARTBEAT;
	judge_heads(back);
	device_return_step(back);
}

/* --- is it in service elsewhere? --- */

static void
refuse_other(struct device_return *back)
{
	REFUSE(back, -EBUSY, "%s is in service on %.63s (process %u)", name_of(back),
	    back->beat.seen.host, back->beat.seen.pid);
}

static void
heartbeat_seen_again(struct heartbeat_io *one)
{
	struct device_return *back = container_of(one, struct device_return, beat);

	if (heartbeat_has_changed(&one->seen, &back->before))
		refuse_other(back);
	device_return_step(back);
}

static void
waited(struct timer *timer)
{
	struct device_return *back = container_of(timer, struct device_return, timer);

	back->beat.done = heartbeat_seen_again;
	heartbeat_read(&back->beat, back->device);
}

static void
heartbeat_seen(struct heartbeat_io *one)
{
	struct device_return *back = container_of(one, struct device_return, beat);

	back->before = one->seen;
	if (!heartbeat_may_beat(back->pool, &one->seen))
		return device_return_step(back);
	timer_init(&back->timer, waited);
	reactor_timer_start(back->pool->reactor, &back->timer, one->seen.interval_ms * 2500000ull);
}

static void
beat_written(struct heartbeat_io *one)
{
	struct device_return *back = container_of(one, struct device_return, beat);

	if (one->error)
		REFUSE(back, one->error, "%s: %s", name_of(back), strerror(-one->error));
	device_return_step(back);
}

/* Before the pool's pulse looks at it. */
static void
write_beat(struct device_return *back)
{
	struct heartbeat heartbeat;

	heartbeat_of(back->pool, &heartbeat);
	back->beat.done = beat_written;
	heartbeat_write(&back->beat, back->device, &heartbeat);
}

/* --- what it has --- */

static uint32_t
pages_in_chunk(const struct device_return *back)
{
	uint32_t count = back->was.devices[back->index].page_count;

	return (uint32_t)min_u64(count - back->page, PAGE_BLOCKS / 2);
}

static void
pages_read(struct block_reader *reader)
{
	struct device_return *back = container_of(reader, struct device_return, reader);
	uint32_t pages = pages_in_chunk(back);
	struct error error;

	if (reader->error)
		REFUSE(back, reader->error, "%s: %s", name_of(back), strerror(-reader->error));
	for (uint32_t i = 0; i < pages && !reader->error; i++) {
		const uint8_t *at = back->blocks + 2 * (size_t)i * FORMAT_BLOCK_BYTES;

		if (space_decode_page(&back->was, back->index, back->page + i,
			back->newest.checkpoint, at, at + FORMAT_BLOCK_BYTES, &error) == 0)
			continue;
		diag_warning("%s: %s", name_of(back), error.text);
		back->trusted = false;
	}
	back->page += pages;
	device_return_step(back);
}

/* True: a wait began. */
static bool
read_table(struct device_return *back)
{
	const struct label *label = &back->label.label;

	if (!back->was.device_count) {
		space_init(&back->was, label->slab_blocks, back->pool->space.copies);
		space_add_device(&back->was, back->index, &label->device_uuid, label->slabs_block,
		    (uint32_t)label->slab_count);
	}
	if (back->page == back->was.devices[back->index].page_count)
		return false;
	back->reader.done = pages_read;
	block_reader_start(&back->reader, back->device, FORMAT_TABLE_BLOCK + 2ull * back->page,
	    2ull * pages_in_chunk(back), back->blocks);
	return true;
}

static bool
table_is_whole(const struct device_return *back)
{
	return space_device_digest(&back->was, back->index) ==
	       back->newest.device_digests[back->index];
}

static void
packed_loaded(struct packed_load *load)
{
	device_return_step(container_of(load, struct device_return, packed));
}

/* --- it joins --- */

/* Of what the larger ones hold alone there may be more than fits with all copies. */
static bool
has_room(struct device_return *back)
{
	struct pool *pool = back->pool;
	uint64_t used_blocks = pool_used_blocks(pool) + pool_reserved_blocks(pool);
	uint64_t slabs = pool_slabs_with(pool, back->index);
	uint64_t most_blocks = pool_live_blocks_max(slabs, pool->space.slab_blocks);
	char used[SIZE_TEXT_BYTES], most[SIZE_TEXT_BYTES];

	/* A full pool is a little over; and one that gets room is helped. */
	if (used_blocks <= most_blocks + most_blocks / 32 || slabs >= pool->space.slab_count)
		return true;
	size_format(used_blocks * FORMAT_BLOCK_BYTES, used);
	size_format(most_blocks * FORMAT_BLOCK_BYTES, most);
	REFUSE(back, -ENOSPC,
	    "with %s pool %s could hold %s with all copies, and it holds %s: delete something, or "
	    "add a device first",
	    name_of(back), pool->name, most, used);
	return false;
}

static void
join(struct device_return *back)
{
	struct pool *pool = back->pool;
	struct pool_device *device = &pool->devices[back->index];

	CHECK(!device->device && pool->checkpoint.phase == CHECKPOINT_IDLE);
	device->device = back->device;
	back->device = NULL;
	device->label = back->label.label;
	device->dirty = true; /* whatever was in its cache is durable with the checkpoint */
	device->offline = false;
	device->told_in_use = false;
	pool->pulse.beats[back->index].mute = false;
	back->taken = space_rejoin(&pool->space, back->index, &back->was, back->trusted);
	CHECK_SLOW(space_invariant(&pool->space));
}

/* It counts from now on. */
static void
use(struct device_return *back)
{
	struct pool *pool = back->pool;

	space_joined(&pool->space, back->index);
	pool->devices[back->index].told_in_use = false;
	pool_set_limits(pool);
	diag_info(
	    "pool %s: %s is in use again: %u of its slabs are taken over as they are, and %llu "
	    "segments are to be copied",
	    pool->name, pool_device_name(pool, back->index), back->taken,
	    (unsigned long long)space_count_degraded(&pool->space));
	housekeeping_start(pool);
	waiters_wake(&pool->log.waiters, 0);
	volume_full_consider(pool);
	relocation_place(pool);
}

/* --- all devices hear of it --- */

/* It is the last one. */
static uint32_t
teller(const struct device_return *back)
{
	return (back->index + 1 + back->at) % back->pool->device_count;
}

static void
set_written(struct block_writer *writer)
{
	struct device_return *back = container_of(writer, struct device_return, writer);

	if (writer->error)
		device_lost(back->pool, &writer->io, teller(back));
	back->at++;
	device_return_step(back);
}

/* True: a wait began. */
static bool
write_sets(struct device_return *back)
{
	struct pool *pool = back->pool;

	if (back->at == 0) {
		pool->devices[back->index].told_in_use = true;
		back->set_generation = ++pool->device_set_generation;
		pool_encode_device_set(pool, back->blocks);
	}
	for (; back->at < pool->device_count; back->at++) {
		if (pool->space.devices[teller(back)].out)
			continue;
		back->writer.done = set_written;
		pool_write_device_set(pool, teller(back), &back->writer, back->blocks);
		return true;
	}
	return false;
}

/* --- the log --- */

/* True: a wait began. */
static bool
move_log(struct device_return *back)
{
	struct pool *pool = back->pool;
	const struct log *log = &pool->log;

	log_forget_next(pool);
	if (pool->state != POOL_ONLINE || ++back->attempts > LOG_ATTEMPTS ||
	    (!space_lies_badly(&pool->space, log->slab) &&
		!space_lies_badly(&pool->space, log->applied_slab) &&
		!(log->next_slab && space_lies_badly(&pool->space, log->next_slab))))
		return false;
	back->append.done = applied;
	return log_write_nothing(pool, &back->wait, &back->append);
}

/* --- the machine --- */

/* Whether it failed since it joined, or the pool did. */
static bool
has_failed(struct device_return *back)
{
	struct pool *pool = back->pool;

	if (pool->state == POOL_FAILED)
		REFUSE(back, -EIO, "pool %s: %s", pool->name, pool->state_reason);
	else if (pool->space.devices[back->index].out)
		REFUSE(back, -EIO, "%s failed as it was brought back; see the log",
		    pool_device_name(pool, back->index));
	return back->phase == DEVICE_RETURN_DONE;
}

static void
device_return_step(struct device_return *back)
{
	struct pool *pool = back->pool;

	for (;;) {
		switch (back->phase) {
		case DEVICE_RETURN_LABEL:
			back->label.device = back->device;
			back->label.done = label_read;
			back->label.block = back->blocks;
			return pool_label_read(&back->label);
		case DEVICE_RETURN_HEADS:
			back->reader.done = heads_were_read;
			return heads_read(&back->reader, back->device, back->label.label.size_bytes,
			    back->place, back->blocks);
		case DEVICE_RETURN_HEARTBEAT:
			back->phase = DEVICE_RETURN_TABLE;
			if (!pool->pulse.owner)
				continue;
			back->beat.done = heartbeat_seen;
			return heartbeat_read(&back->beat, back->device);
		case DEVICE_RETURN_TABLE:
			if (read_table(back))
				return;
			back->phase = DEVICE_RETURN_PACKED;
			if (!back->trusted || table_is_whole(back))
				continue;
			diag_warning("%s: its slab table is not the one that its superblock means: "
				     "all is copied to it",
			    name_of(back));
			back->trusted = false;
			continue;
		case DEVICE_RETURN_PACKED:
			back->phase = DEVICE_RETURN_BEAT;
			if (!back->trusted)
				continue;
			back->packed.space = &back->was;
			back->packed.only = back->device;
			back->packed.done = packed_loaded;
			return packed_load_start(&back->packed, pool);
		case DEVICE_RETURN_BEAT:
			back->phase = DEVICE_RETURN_JOIN;
			if (!pool->pulse.owner)
				continue;
			return write_beat(back);
		case DEVICE_RETURN_JOIN:
			/* What a checkpoint cuts and what it writes must be of the same devices. */
			if (pool->checkpoint.phase != CHECKPOINT_IDLE || pool->loss.active)
				return checkpoint_start(pool, &back->wait);
			if (pool->state == POOL_FAILED) {
				REFUSE(back, -EIO, "pool %s: %s", pool->name, pool->state_reason);
				continue;
			}
			if (!has_room(back))
				continue;
			join(back);
			back->phase = DEVICE_RETURN_JOINED;
			if (MUTANT(RETURN_NOT_WRITTEN))
				continue;
			return checkpoint_start(pool, &back->wait);
		case DEVICE_RETURN_JOINED:
			if (has_failed(back))
				continue;
			back->phase = DEVICE_RETURN_SETS;
			if (MUTANT(RETURN_NOT_TOLD)) {
				use(back);
				back->phase = DEVICE_RETURN_LOG;
			}
			continue;
		case DEVICE_RETURN_SETS:
			if (has_failed(back))
				continue;
			/* One that is being left out just now first; a checkpoint waits for that.
			 */
			if (pool->loss.active) {
				back->at = 0;
				return checkpoint_start(pool, &back->wait);
			}
			if (write_sets(back))
				return;
			if (pool->loss.active ||
			    back->set_generation != pool->device_set_generation) {
				back->at = 0;
				continue;
			}
			use(back);
			back->phase = DEVICE_RETURN_LOG;
			continue;
		case DEVICE_RETURN_LOG:
			if (move_log(back))
				return;
			back->phase = DEVICE_RETURN_DONE;
			continue;
		case DEVICE_RETURN_DONE:
			heartbeat_io_fini(&back->beat);
			if (back->was.device_count)
				space_fini(&back->was);
			free(back->blocks);
			return back->done(back);
		}
	}
}

void
device_return_start(struct device_return *back)
{
	waiter_init(&back->wait, woken);
	task_init(&back->step, run_step);
	memset(&back->error, 0, sizeof(back->error));
	memset(&back->newest, 0, sizeof(back->newest));
	memset(&back->set, 0, sizeof(back->set));
	memset(&back->was, 0, sizeof(back->was));
	memset(&back->beat, 0, sizeof(back->beat));
	back->place = 0;
	back->page = 0;
	back->at = 0;
	back->attempts = 0;
	list_init(&back->append.link);
	back->trusted = false;
	back->blocks = xalloc_pages(PAGE_BLOCKS * (size_t)FORMAT_BLOCK_BYTES);
	back->phase = DEVICE_RETURN_LABEL;
	reactor_defer(back->pool->reactor, &back->step);
}
