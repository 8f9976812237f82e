/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target of volumes in memory, for tests of frontends without the engine.  Included by a test
 * program; its functions take the place of the engine's.
 *
 * An image is to be used from one reactor at a time.  Completions are deferred as the contract
 * demands.  Blocks that were never written, or zeroed or trimmed since, are holes.  A volume can be
 * told to hold its requests (`held`) or fail them.
 */
#ifndef QUARRY_TESTS_UNIT_FAKE_TARGET_H
#define QUARRY_TESTS_UNIT_FAKE_TARGET_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core/base/bitmap.h"
#include "core/target.h"

#define FAKE_VOLUMES_MAX 8
#define FAKE_ATOMIC_BYTES_MAX (1020 * KIB)

/* Of what is opened from now on. */
static uint64_t fake_atomic_bytes_max __attribute__((unused)) = FAKE_ATOMIC_BYTES_MAX;
static bool fake_same_uuid __attribute__((unused)); /* all are of one volume */

struct fake_image {
	struct name name;
	uint64_t size_bytes;
	bool readonly;
	uint32_t block_bytes; /* 512, unless it is set before it is opened */
	uint8_t *data;
	uint64_t *mapped; /* a bit per block */
	int fail;         /* every request fails with it */
	bool hold;        /* requests are kept in held */
	struct list held; /* of volume_io.task.link */
	uint32_t opens;
	uint32_t open_now;
	uint64_t flushes;
	uint64_t fua_count;
	/* Of kind NOTE_RESERVATIONS, if it keeps any. */
	bool keeps_notes;
	uint8_t *note;
	size_t note_len_bytes;
	uint32_t notes_set;
};

struct target {
	struct fake_image images[FAKE_VOLUMES_MAX];
	size_t image_count;
	uint64_t import;
	struct volume_space space;
	int admin_fails;
	bool admin_holds; /* requests are kept in admin_held */
	struct list admin_held;
};

/* Smaller, that is: its memory stays as it is.  Handles see it. */
static inline void
fake_resize(struct fake_image *image, uint64_t size_bytes)
{
	image->size_bytes = size_bytes;
}

struct volume {
	struct target *target;
	struct fake_image *image;
	struct volume_info info;
	uint32_t in_flight;
	uint8_t *note;
	size_t note_len_bytes;
};

static inline struct fake_image *
fake_add(struct target *target, const char *name, uint64_t size_bytes, bool readonly)
{
	struct fake_image *image = &target->images[target->image_count++];
	int rc = name_parse(&image->name, name, NULL);

	CHECK(rc == 0 && target->image_count <= FAKE_VOLUMES_MAX);
	image->size_bytes = size_bytes;
	image->readonly = readonly;
	image->block_bytes = 512;
	image->data = mmap(NULL, round_up(size_bytes, 4096) + 4096, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(image->data != MAP_FAILED);
	image->mapped = xcalloc(BITMAP_WORDS(div_round_up(size_bytes, 4096)), sizeof(uint64_t));
	list_init(&image->held);
	return image;
}

static inline void
fake_fini(struct target *target)
{
	for (size_t i = 0; i < target->image_count; i++) {
		struct fake_image *image = &target->images[i];

		CHECK(image->open_now == 0);
		munmap(image->data, round_up(image->size_bytes, 4096) + 4096);
		free(image->mapped);
		free(image->note);
	}
}

/* --- core/target.h --- */

static void
fake_open_run(struct task *task)
{
	struct target_open *op = container_of(task, struct target_open, task);
	char text[NAME_TEXT_SIZE];

	op->error = -ENOENT;
	name_format(&op->name, text);
	for (size_t i = 0; i < op->target->image_count; i++) {
		struct fake_image *image = &op->target->images[i];
		char other[NAME_TEXT_SIZE];

		name_format(&image->name, other);
		if (strcmp(text, other) != 0)
			continue;
		op->error = 0;
		op->volume = xcalloc(1, sizeof(*op->volume));
		op->volume->target = op->target;
		op->volume->image = image;
		op->volume->info.name = image->name;
		op->volume->info.uuid.bytes[0] = (uint8_t)(fake_same_uuid ? 1 : i + 1);
		op->volume->info.atomic_bytes_max = fake_atomic_bytes_max;
		op->volume->info.size_bytes = image->size_bytes;
		op->volume->info.block_bytes = image->block_bytes;
		op->volume->info.import = op->target->import;
		op->volume->info.keeps_notes = image->keeps_notes;
		if (op->note && image->note) {
			op->volume->note = xmalloc(image->note_len_bytes);
			memcpy(op->volume->note, image->note, image->note_len_bytes);
			op->volume->note_len_bytes = image->note_len_bytes;
		}
		op->volume->info.readonly = image->readonly || op->readonly;
		image->opens++;
		image->open_now++;
	}
	op->done(op);
}

void
target_open(struct target *target, struct target_open *op)
{
	op->target = target;
	task_init(&op->task, fake_open_run);
	reactor_defer(reactor_current(), &op->task);
}

static void
fake_names_run(struct task *task)
{
	struct target_names *op = container_of(task, struct target_names, task);

	op->names = xcalloc(FAKE_VOLUMES_MAX, sizeof(op->names[0]));
	op->count = 0;
	for (size_t i = 0; i < op->target->image_count; i++)
		if (op->snapshots || !op->target->images[i].name.snapshot[0])
			op->names[op->count++] = op->target->images[i].name;
	op->done(op);
}

void
target_names_fini(struct target_names *op)
{
	free(op->names);
	op->names = NULL;
}

void
target_names(struct target *target, struct target_names *op)
{
	op->target = target;
	task_init(&op->task, fake_names_run);
	reactor_defer(reactor_current(), &op->task);
}

/* ADMIN_NOTE_SET and no other verb. */
static void
fake_admin_run(struct task *task)
{
	struct admin_request *request = container_of(task, struct admin_request, task);
	struct target *target = request->home;
	struct fake_image *image = NULL;

	CHECK(request->verb == ADMIN_NOTE_SET && request->note == NOTE_RESERVATIONS);
	for (size_t i = 0; i < target->image_count; i++)
		if (request->uuid.bytes[0] == i + 1)
			image = &target->images[i];
	request->error.code = image ? target->admin_fails : -ENOENT;
	if (!request->error.code) {
		free(image->note);
		image->note = request->note_bytes;
		image->note_len_bytes = request->note_len_bytes;
		image->notes_set++;
		request->note_bytes = NULL;
	}
	request->done(request);
}

void
target_admin(struct target *target, struct admin_request *request)
{
	request->home = target;
	task_init(&request->task, fake_admin_run);
	if (target->admin_holds)
		list_push_back(&target->admin_held, &request->task.link);
	else
		reactor_defer(reactor_current(), &request->task);
}

static inline void
fake_release_admin(struct target *target)
{
	target->admin_holds = false;
	list_splice_back(&reactor_current()->ready, &target->admin_held);
}

void
admin_request_fini(struct admin_request *request)
{
	free(request->note_bytes);
}

/* --- core/volume.h --- */

void
volume_space(const struct volume *volume, struct volume_space *space)
{
	*space = volume->target->space;
}

unsigned
volume_warned_percent(const struct volume *volume)
{
	return volume->target->space.warned_percent;
}

const uint8_t *
volume_note(const struct volume *volume, size_t *len_bytes)
{
	*len_bytes = volume->note_len_bytes;
	return volume->note;
}

const struct volume_info *
volume_info(const struct volume *volume)
{
	((struct volume *)(uintptr_t)volume)->info.size_bytes = volume->image->size_bytes;
	return &volume->info;
}

static void
fake_status(struct volume_io *io, const struct fake_image *image)
{
	uint64_t at = io->offset_bytes;
	uint64_t end = at + io->len_bytes;

	io->extents_count = 0;
	while (at < end) {
		bool hole = !bitmap_test(image->mapped, at / 4096);
		uint64_t next = min_u64(end, round_down(at, 4096) + 4096);
		struct volume_extent *last =
		    io->extents_count ? &io->extents[io->extents_count - 1] : NULL;

		if (last && last->hole == hole) {
			last->len_bytes += next - at;
		} else {
			if (io->extents_count == io->extents_max)
				return;
			io->extents[io->extents_count++] = (struct volume_extent){
				.len_bytes = next - at, .hole = hole, .depth = !hole
			};
		}
		at = next;
	}
}

static void
fake_clear(struct fake_image *image, uint64_t offset_bytes, uint64_t len_bytes)
{
	uint64_t first = div_round_up(offset_bytes, 4096);
	uint64_t end = (offset_bytes + len_bytes) / 4096;

	memset(image->data + offset_bytes, 0, len_bytes);
	for (uint64_t block = first; block < end; block++)
		bitmap_clear(image->mapped, block);
}

static void
fake_run(struct task *task)
{
	struct volume_io *io = container_of(task, struct volume_io, task);
	struct fake_image *image = io->volume->image;
	uint8_t *payload = (uint8_t *)io->buffer + io->offset_bytes % 4096;

	io->error = image->fail;
	image->fua_count += !!(io->flags & VOLUME_FUA);
	if (!io->error) {
		switch (io->op) {
		case VOLUME_READ:
			memcpy(payload, image->data + io->offset_bytes, io->len_bytes);
			break;
		case VOLUME_COMPARE_WRITE:
			if (memcmp(image->data + io->offset_bytes, io->compare, io->len_bytes)) {
				io->error = -ECANCELED;
				break;
			}
			/* fall through */
		case VOLUME_WRITE:
			memcpy(image->data + io->offset_bytes, payload, io->len_bytes);
			for (uint64_t block = io->offset_bytes / 4096;
			     block * 4096 < io->offset_bytes + io->len_bytes; block++)
				bitmap_set(image->mapped, block);
			break;
		case VOLUME_FLUSH:
			image->flushes++;
			break;
		case VOLUME_TRIM:
		case VOLUME_ZERO:
			fake_clear(image, io->offset_bytes, io->len_bytes);
			break;
		case VOLUME_CACHE:
			break;
		case VOLUME_STATUS:
			fake_status(io, image);
			break;
		}
	}
	io->volume->in_flight--;
	io->done(io);
}

void
volume_submit(struct volume *volume, struct volume_io *io)
{
	CHECK(io->offset_bytes <= volume->info.size_bytes &&
	      io->len_bytes <= volume->info.size_bytes - io->offset_bytes);
	CHECK(!volume->info.readonly || io->op == VOLUME_READ || io->op == VOLUME_FLUSH ||
	      io->op == VOLUME_CACHE || io->op == VOLUME_STATUS);
	CHECK((uintptr_t)io->buffer % 4096 == 0);
	io->volume = volume;
	volume->in_flight++;
	task_init(&io->task, fake_run);
	if (volume->image->hold)
		list_push_back(&volume->image->held, &io->task.link);
	else
		reactor_defer(reactor_current(), &io->task);
}

static inline void
fake_release(struct fake_image *image)
{
	image->hold = false;
	list_splice_back(&reactor_current()->ready, &image->held);
}

/* Nothing of ours ever waits for room. */
void
volume_stop_waiting(struct volume *volume, bool for_good)
{
	(void)volume;
	(void)for_good;
}

void
volume_close(struct volume *volume)
{
	CHECK(volume->in_flight == 0);
	volume->image->open_now--;
	free(volume->note);
	free(volume);
}

#endif
