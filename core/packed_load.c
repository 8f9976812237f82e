/* SPDX-License-Identifier: Apache-2.0 */
/*
 * At import, and of a device that comes back: reads the directories of all PACKED slabs, several at
 * a time.  Where one is damaged its copy at the slab's end serves; where both are, a pool that is
 * imported can only be read, and some of it not.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "core/base/mutant.h"
#include "core/pool_lifecycle.h"

static void load_next(struct packed_load *load);

struct packed_read {
	struct packed_load *load;
	struct block_reader reader;
	struct slab *slab; /* the leader */
	struct slab *places[COPIES_MAX];
	unsigned place_count;
	unsigned tried; /* each place has it twice */
	void *directory;
};

static struct device *
device_of(const struct packed_load *load, const struct slab *place)
{
	return load->only ? load->only : pool_device(load->pool, place->device);
}

static void
read_directory(struct packed_read *read)
{
	const struct space *space = read->load->space;
	struct slab *slab = read->slab;
	const struct slab *place = read->places[read->tried / 2];
	uint32_t slot = read->tried % 2 ? space->slab_blocks - slab->directory_blocks : 0;

	block_reader_start(&read->reader, device_of(read->load, place),
	    space_offset_bytes(space, place, slot) / FORMAT_BLOCK_BYTES, slab->directory_blocks,
	    read->directory);
}

static void
directory_read(struct block_reader *reader)
{
	struct packed_read *read = container_of(reader, struct packed_read, reader);
	struct packed_load *load = read->load;
	struct pool *pool = load->pool;
	struct packed_reader pieces;
	struct error error = { 0 };
	int rc = reader->error;

	if (rc)
		error_set(&error, rc, "%s", strerror(-rc));
	else
		rc = packed_open(&pieces, read->directory, read->slab->directory_blocks,
		    load->space->slab_blocks, read->slab->segment, &pool->uuid, &error);
	if (rc) {
		diag_warning("%s: the directory%s of packed slab %u is damaged (%s)%s",
		    device_of(load, read->places[read->tried / 2])->name,
		    read->tried % 2 ? "'s copy" : "", read->places[read->tried / 2]->index,
		    error.text, read->tried % 2 ? "" : "; its copy may serve");
		if (++read->tried < 2 * read->place_count)
			return read_directory(read);
	} else {
		rc = space_load_pieces(load->space, read->slab, &pieces, &error);
	}
	read->slab->stuck |= rc != 0;
	if (rc && load->damaged++ == 0)
		snprintf(load->what, sizeof(load->what),
		    "packed slab %u of device %u is lost: %.140s", read->slab->index,
		    read->slab->device, error.text);
	free(read->directory);
	free(read);
	load->in_flight--;
	load_next(load);
}

/* The next slab with a directory; NULL: none is left.  All dead ones too: a replay may still read
 * map nodes that died after the cut. */
static struct slab *
next_packed(struct packed_load *load)
{
	const struct space *space = load->space;

	for (; load->device < space->device_count; load->device++, load->index = 0) {
		const struct space_device *device = &space->devices[load->device];

		while (load->index < device->mark) {
			struct slab *slab = space_slab(device, load->index++);

			if (slab->state == SLAB_PACKED && (slab->live > 0 || !MUTANT(EMPTY_UNREAD)))
				return slab;
		}
	}
	return NULL;
}

static void
load_next(struct packed_load *load)
{
	struct slab *slab;

	while (load->in_flight < PACKED_LOADS && (slab = next_packed(load))) {
		struct packed_read *read = xcalloc(1, sizeof(*read));

		read->load = load;
		read->slab = slab;
		read->place_count = space_places(load->space, slab, read->places);
		read->directory = xalloc_pages(slab->directory_blocks * (size_t)FORMAT_BLOCK_BYTES);
		read->reader.done = directory_read;
		load->in_flight++;
		read_directory(read);
	}
	if (load->in_flight == 0)
		load->done(load);
}

static void
begin(struct task *task)
{
	load_next(container_of(task, struct packed_load, task));
}

void
packed_load_start(struct packed_load *load, struct pool *pool)
{
	load->pool = pool;
	load->device = 0;
	load->index = 0;
	load->in_flight = 0;
	load->damaged = 0;
	task_init(&load->task, begin);
	reactor_defer(pool->reactor, &load->task);
}
