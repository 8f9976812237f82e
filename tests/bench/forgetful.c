/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/forgetful.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "metadata/batch.h"

/* what[block]: 0: never written; a number with NUMBER; GIVEN_UP; or an index into `kept`. */
#define NUMBER (1u << 31)
#define GIVEN_UP (NUMBER - 1)

struct marker {
	uint8_t magic[12];
	uint32_t number;
};

static const uint8_t marker_magic[12] = "\xa7QUARRYMARK\x7a";

struct forgetful_device {
	struct device device;
	struct forgetful_disk *disk;
	struct list submitted; /* struct device_io, by its task's link */
	struct task complete;
};

static uint64_t
clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* What it takes to look at the clock: more than a block does. */
static uint64_t
measure_clock_ns(void)
{
	uint64_t began_ns = clock_ns();

	for (unsigned i = 0; i < 10000; i++)
		(void)clock_ns();
	return (clock_ns() - began_ns) / 10001;
}

/* Memory that is there when it is touched. */
static void *
reserve(uint64_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		out_of_memory(bytes);
	return memory;
}

void
forgetful_disk_init(struct forgetful_disk *disk, uint64_t size_bytes)
{
	memset(disk, 0, sizeof(*disk));
	disk->blocks = size_bytes / BLOCK_BYTES;
	CHECK(disk->blocks <= UINT32_MAX);
	disk->kept_max = (uint32_t)min_u64(disk->blocks, GIVEN_UP);
	disk->kept_end = 1;
	disk->clock_ns = measure_clock_ns();
	disk->what = reserve(disk->blocks * sizeof(uint32_t));
	disk->kept = reserve((uint64_t)disk->kept_max * BLOCK_BYTES);
	disk->owners = reserve((uint64_t)disk->kept_max * sizeof(uint32_t));
	disk->deaths = reserve((uint64_t)disk->kept_max * sizeof(uint32_t));
	disk->unused = reserve((uint64_t)disk->kept_max * sizeof(uint32_t));
}

void
forgetful_disk_fini(struct forgetful_disk *disk)
{
	munmap(disk->what, disk->blocks * sizeof(uint32_t));
	munmap(disk->kept, (uint64_t)disk->kept_max * BLOCK_BYTES);
	munmap(disk->owners, (uint64_t)disk->kept_max * sizeof(uint32_t));
	munmap(disk->deaths, (uint64_t)disk->kept_max * sizeof(uint32_t));
	munmap(disk->unused, (uint64_t)disk->kept_max * sizeof(uint32_t));
}

/* --- blocks --- */

void
forgetful_fill(void *block)
{
	memset(block, 0x5a, BLOCK_BYTES);
}

void
forgetful_mark(void *block, uint32_t number)
{
	struct marker *marker = block;

	memcpy(marker->magic, marker_magic, sizeof(marker_magic));
	marker->number = number;
}

uint32_t
forgetful_number(const void *block)
{
	const struct marker *marker = block;

	return memcmp(marker->magic, marker_magic, sizeof(marker_magic)) == 0 ? marker->number
									      : UINT32_MAX;
}

static bool
is_kept(uint32_t what)
{
	return what != 0 && what != GIVEN_UP && !(what & NUMBER);
}

static uint8_t *
kept_block(const struct forgetful_disk *disk, uint32_t what)
{
	return disk->kept + (uint64_t)what * BLOCK_BYTES;
}

static void
give_up(struct forgetful_disk *disk, uint32_t index, uint32_t becomes)
{
	disk->what[disk->owners[index]] = becomes;
	disk->owners[index] = UINT32_MAX;
	disk->unused[disk->unused_count++] = index;
}

static void
write_block(struct forgetful_disk *disk, uint64_t at, const void *block)
{
	uint32_t number = forgetful_number(block), *what = &disk->what[at];

	if (number != UINT32_MAX) {
		if (is_kept(*what))
			give_up(disk, *what, 0);
		*what = NUMBER | number;
		return;
	}
	if (!is_kept(*what)) {
		*what = disk->unused_count ? disk->unused[--disk->unused_count] : disk->kept_end++;
		CHECK(*what < disk->kept_max);
		disk->owners[*what] = (uint32_t)at;
	}
	disk->deaths[*what] = 0;
	memcpy(kept_block(disk, *what), block, BLOCK_BYTES);
}

static void
read_block(const struct forgetful_disk *disk, uint64_t at, void *block)
{
	uint32_t what = disk->what[at];

	if (what & NUMBER) {
		forgetful_fill(block);
		forgetful_mark(block, what & ~NUMBER);
	} else if (is_kept(what)) {
		memcpy(block, kept_block(disk, what), BLOCK_BYTES);
	} else {
		memset(block, what ? 0xdb : 0, BLOCK_BYTES);
	}
}

void
forgetful_sweep(struct forgetful_disk *disk, uint32_t round,
    bool (*needed)(void *context, uint64_t block), void *context)
{
	for (uint32_t i = 1; i < disk->kept_end; i++) {
		uint32_t owner = disk->owners[i];

		if (owner == UINT32_MAX || owner < disk->data_block)
			continue;
		if (needed(context, owner))
			disk->deaths[i] = 0;
		else if (disk->deaths[i] == 0)
			disk->deaths[i] = round;
		else if (disk->deaths[i] + 2 <= round)
			give_up(disk, i, GIVEN_UP);
	}
}

uint32_t
forgetful_kept(const struct forgetful_disk *disk)
{
	return disk->kept_end - 1 - disk->unused_count;
}

/* --- requests --- */

static void
count_read(struct forgetful_disk *disk, const struct device_io *io)
{
	uint64_t at = io->offset_bytes / BLOCK_BYTES;

	disk->counts.reads++;
	disk->counts.read_bytes += io->len_bytes;
	disk->counts.node_reads += disk->data_block && at >= disk->data_block &&
				   io->len_bytes == BLOCK_BYTES && is_kept(disk->what[at]);
}

static void
count_write(struct forgetful_disk *disk, uint64_t at, const void *block)
{
	if (!disk->data_block || at < disk->data_block)
		disk->counts.head_bytes += BLOCK_BYTES;
	else if (forgetful_number(block) != UINT32_MAX)
		disk->counts.data_bytes += BLOCK_BYTES;
	else if (((const struct batch_header *)block)->magic == BATCH_MAGIC)
		disk->counts.header_bytes += BLOCK_BYTES;
	else
		disk->counts.other_bytes += BLOCK_BYTES;
}

static void
take_effect(struct forgetful_disk *disk, struct device_io *io)
{
	uint64_t at = io->offset_bytes / BLOCK_BYTES;

	if (io->op == DEVICE_FLUSH)
		disk->counts.flushes++;
	if (io->op == DEVICE_READ)
		count_read(disk, io);
	if (io->op != DEVICE_READ && io->op != DEVICE_WRITE)
		return;
	for (uint32_t i = 0; i < io->iov_count; i++) {
		uint8_t *block = io->iov[i].iov_base;

		for (size_t left = io->iov[i].iov_len; left > 0; left -= BLOCK_BYTES) {
			if (io->op == DEVICE_READ) {
				read_block(disk, at, block);
			} else {
				count_write(disk, at, block);
				write_block(disk, at, block);
			}
			at++;
			block += BLOCK_BYTES;
		}
	}
}

/* All that is in the list, so that the clock is looked at but twice. */
static void
complete(struct forgetful_disk *disk, struct list *ios)
{
	uint64_t began_ns = clock_ns();
	struct list *link;

	if (disk->dead)
		return;
	list_for_each(one, ios) {
		take_effect(disk, container_of(one, struct device_io, backend.task.link));
	}
	disk->counts.busy_ns += clock_ns() - began_ns + disk->clock_ns;
	while ((link = list_pop_front(ios)))
		device_complete(container_of(link, struct device_io, backend.task.link), 0);
}

static void
complete_submitted(struct task *task)
{
	struct forgetful_device *forgetful = container_of(task, struct forgetful_device, complete);
	struct list ios;

	list_init(&ios);
	list_splice_back(&ios, &forgetful->submitted);
	complete(forgetful->disk, &ios);
}

static void
complete_timer(struct timer *timer)
{
	struct device_io *io = container_of(timer, struct device_io, backend.timer);
	struct list ios;

	list_init(&ios);
	list_push_back(&ios, &io->backend.task.link);
	complete(container_of(io->device, struct forgetful_device, device)->disk, &ios);
}

static void
forgetful_submit(struct device *device, struct device_io *io)
{
	struct forgetful_device *forgetful = container_of(device, struct forgetful_device, device);
	struct forgetful_disk *disk = forgetful->disk;
	uint64_t now_ns = device->reactor->now_ns;

	disk->dead |= disk->dies && disk->dies(disk->context);
	if (disk->dead)
		return;
	if (!disk->latency_ns && !disk->bytes_per_s) {
		list_push_back(&forgetful->submitted, &io->backend.task.link);
		reactor_defer(device->reactor, &forgetful->complete);
		return;
	}
	disk->busy_until_ns = max_u64(disk->busy_until_ns, now_ns);
	if (disk->bytes_per_s && (io->op == DEVICE_READ || io->op == DEVICE_WRITE))
		disk->busy_until_ns += io->len_bytes * 1000000000 / disk->bytes_per_s;
	timer_init(&io->backend.timer, complete_timer);
	reactor_timer_start(
	    device->reactor, &io->backend.timer, disk->busy_until_ns - now_ns + disk->latency_ns);
}

static void
forgetful_close(struct device *device)
{
	free(device->name);
	free(container_of(device, struct forgetful_device, device));
}

static const struct device_ops forgetful_ops = {
	.submit = forgetful_submit,
	.close = forgetful_close,
};

struct device *
forgetful_device_open(struct forgetful_disk *disk, struct reactor *reactor)
{
	struct forgetful_device *forgetful = xcalloc(1, sizeof(*forgetful));

	forgetful->disk = disk;
	list_init(&forgetful->submitted);
	task_init(&forgetful->complete, complete_submitted);
	forgetful->device.ops = &forgetful_ops;
	forgetful->device.reactor = reactor;
	forgetful->device.name = xstrdup("forgetful");
	forgetful->device.size_bytes = disk->blocks * BLOCK_BYTES;
	return &forgetful->device;
}
