/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clients: handles on volumes, and the requests that they submit.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/sim_work.h"

/* --- handles --- */

void
handle_close(struct sim *sim, struct sim_handle *handle)
{
	(void)sim;
	CHECK(handle->in_flight == 0);
	volume_close(handle->volume);
	list_remove(&handle->link);
	free(handle);
}

struct sim_handle *
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

struct sim_handle *
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

void
handles_close_gone(struct sim *sim)
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

void
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
	free(s->compare);
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
	if (io->error == -ECANCELED && io->op == VOLUME_COMPARE_WRITE) {
		judge_compare(sim, s);
	} else if (io->error) {
		judge_error(sim, s);
	} else {
		switch (io->op) {
		case VOLUME_READ:
			judge_read(sim, s);
			break;
		case VOLUME_WRITE:
		case VOLUME_COMPARE_WRITE:
			for (uint64_t i = 0; i < s->count; i++) {
				uint8_t block[BLOCK_BYTES];
				uint64_t lba = s->lba + i;
				struct content was;

				memcpy(was.bytes, (uint8_t *)io->buffer + i * BLOCK_BYTES,
				    BLOCK_BYTES);
				payload_patched(s, lba, &was, block);
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
			judge_flush(sim, s);
			history_promise(sim, s->acked_at_submit);
			break;
		case VOLUME_STATUS:
			judge_status(sim, s);
			break;
		case VOLUME_CACHE:
			break;
		}
	}
	io_free(sim, s);
}

/* --- submission --- */

struct sim_io *
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

void
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
expect(struct sim_io *s, const struct model_image *image)
{
	s->expected = xcalloc(s->count, sizeof(*s->expected));
	for (uint64_t i = 0; i < s->count; i++)
		s->expected[i] = content_get(model_get(image, s->lba + i));
}

void
io_read(struct sim *sim, struct sim_handle *handle, const struct model_image *image,
    uint64_t offset_bytes, uint64_t len_bytes, bool expect_error)
{
	struct sim_io *s = io_new(sim, handle, VOLUME_READ, offset_bytes, len_bytes);

	s->expect_error = expect_error;
	s->io.buffer = xalloc_pages(s->count * BLOCK_BYTES);
	expect(s, image);
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
	uint64_t count =
	    1 +
	    draw(sim, one_in(sim, sim->weather.large_one_in) ? blocks_max : min_u64(blocks_max, 4));

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

struct model_volume *
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

struct model_snapshot *
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
prepare_payload(struct sim *sim, struct sim_io *s)
{
	if (one_in(sim, 8))
		s->zeroes = 1 + (unsigned)draw(sim, 3);
	s->io.flags = one_in(sim, 12) ? VOLUME_FUA : 0;
	if (mix64(sim->seed ^ s->number) % 4 == 0) /* not drawn: older seeds stay what they were */
		s->io.flags |= VOLUME_ATOMIC;
	s->io.buffer = xalloc_pages(s->count * BLOCK_BYTES);
	payload_fill(s, (uint8_t *)s->io.buffer + s->io.offset_bytes % BLOCK_BYTES,
	    s->io.offset_bytes, s->io.len_bytes);
	s->seen = xcalloc(s->count, sizeof(*s->seen));
	sim->stats.bytes += s->io.len_bytes;
}

void
io_write(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume)
{
	uint64_t offset_bytes, len_bytes;
	struct sim_io *s;

	draw_range(sim, volume->size_bytes, sim->weather.blocks_max, &offset_bytes, &len_bytes);
	s = io_new(sim, handle, VOLUME_WRITE, offset_bytes, len_bytes);
	prepare_payload(sim, s);
	io_submit(sim, s);
}

/* Often it compares with what is there now, and others write meanwhile. */
void
io_compare_write(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume)
{
	uint64_t offset_bytes, len_bytes;
	struct sim_io *s;

	draw_range(sim, volume->size_bytes,
	    min_u64(sim->weather.blocks_max, log_atomic_blocks(sim->weather.slab_blocks) + 1),
	    &offset_bytes, &len_bytes);
	s = io_new(sim, handle, VOLUME_COMPARE_WRITE, offset_bytes, len_bytes);
	prepare_payload(sim, s);
	expect(s, &volume->image);
	s->compare = xcalloc(s->count, BLOCK_BYTES);
	for (uint64_t i = 0; i < s->count; i++)
		memcpy(s->compare + i * BLOCK_BYTES, content_bytes(s->expected[i]), BLOCK_BYTES);
	if (one_in(sim, 4))
		s->compare[offset_bytes % BLOCK_BYTES + draw(sim, len_bytes)] ^= 1;
	s->io.compare = s->compare + offset_bytes % BLOCK_BYTES;
	io_submit(sim, s);
}

void
io_zero(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume,
    enum volume_op op, bool huge)
{
	uint64_t offset_bytes, len_bytes;
	struct sim_io *s;

	draw_range(sim, volume->size_bytes, sim->weather.blocks_max * (one_in(sim, 4) ? 6 : 1),
	    &offset_bytes, &len_bytes);
	if (!huge && one_in(sim, 6)) { /* whole leaves of the map */
		uint64_t leaf_bytes = MAP_FANOUT * (uint64_t)BLOCK_BYTES;

		offset_bytes = round_down(offset_bytes, leaf_bytes);
		len_bytes =
		    min_u64((1 + draw(sim, 2)) * leaf_bytes, volume->size_bytes - offset_bytes);
	}
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

void
io_status(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume)
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

void
io_read_something(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume)
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
	io_read(sim, handle, snapshot ? &snapshot->image : &volume->image, offset_bytes, len_bytes,
	    false);
}
