/* SPDX-License-Identifier: Apache-2.0 */
/* See quarry_check.h. */
#include "tools/quarry_check.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "core/pool_internal.h"

#define NODE_CACHE_BYTES (64 * MIB)
#define PROBLEMS_SHOWN_MAX 1000u

struct check {
	const struct check_options *options;
	struct reactor reactor;
	struct pool *pool;
	uint64_t problem_count;
	json_t *problems;
	bool progress;
	bool incomplete; /* some map could not be walked: what it reaches is not known */
	uint64_t blocks; /* reached */
	/* Bitmaps by device: slab after slab, a bit a slot. */
	uint64_t *reached[POOL_DEVICES_MAX]; /* by any image */
	uint64_t *own[POOL_DEVICES_MAX];     /* by the image at hand */
	struct image *image;
	char image_name[NAME_TEXT_SIZE + 32];
	bool ended;
};

static void printf_like(2, 3) problem(struct check *check, const char *format, ...)
{
	char text[1024];
	va_list args;

	if (check->problem_count++ >= PROBLEMS_SHOWN_MAX)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (check->progress)
		fputs("\r\033[K", stderr);
	if (check->options->json)
		json_array_append_new(check->problems, json_string(text));
	else
		printf("%s\n", text);
}

/* --- what each device says of itself --- */

static bool
all_zero(const uint8_t *block)
{
	return block[0] == 0 && memcmp(block, block + 1, BLOCK_BYTES - 1) == 0;
}

/* Twins of one kind: 0 valid, 1 never written, or damaged. */
enum twin_state {
	TWIN_VALID,
	TWIN_EMPTY,
	TWIN_DAMAGED
};

static enum twin_state
look_at_twin(
    struct device *device, uint64_t block_number, const char *magic, uint64_t *version, char *why)
{
	union {
		struct label label;
		struct superblock superblock;
		struct device_set set;
	} decoded;
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	struct error error = { 0 };
	int rc = overlay_read(device, block_number * BLOCK_BYTES, block);

	*version = 0;
	if (rc) {
		snprintf(why, sizeof(error.text), "%s", strerror(-rc));
		return TWIN_DAMAGED;
	}
	if (strcmp(magic, LABEL_MAGIC) == 0) {
		rc = label_decode(&decoded.label, block, device->size_bytes, &error);
	} else if (strcmp(magic, SUPERBLOCK_MAGIC) == 0) {
		rc = superblock_decode(&decoded.superblock, block, &error);
		*version = rc ? 0 : decoded.superblock.checkpoint;
	} else {
		rc = device_set_decode(&decoded.set, block, &error);
		*version = rc ? 0 : decoded.set.generation;
	}
	snprintf(why, sizeof(error.text), "%s", error.text);
	return rc == 0 ? TWIN_VALID : all_zero(block) ? TWIN_EMPTY : TWIN_DAMAGED;
}

static void
check_twins(struct check *check, struct device *device, const char *what, const char *magic,
    uint64_t head_block, uint64_t tail_block)
{
	const uint64_t blocks[2] = { head_block, tail_block };
	enum twin_state states[2];
	uint64_t versions[2];
	char why[2][sizeof(((struct error *)0)->text)];

	for (unsigned i = 0; i < 2; i++)
		states[i] = look_at_twin(device, blocks[i], magic, &versions[i], why[i]);
	for (unsigned i = 0; i < 2; i++) {
		bool twin_valid = states[!i] == TWIN_VALID;

		/* Twins are written together; only the first version may be missing for a crash. */
		if (states[i] == TWIN_VALID ||
		    (states[i] == TWIN_EMPTY &&
			(!twin_valid || (versions[!i] != 0 && versions[!i] <= 2))))
			continue;
		problem(check, "%s, byte %llu: %s is damaged (%s); %s", device->name,
		    (unsigned long long)(blocks[i] * BLOCK_BYTES), what, why[i],
		    twin_valid ? "its twin serves, and no volume is affected"
			       : "its twin does not serve either: the whole pool may be affected");
	}
}

static void
check_device(struct check *check, struct device *device)
{
	uint64_t size_bytes = round_down(device->size_bytes, BLOCK_BYTES);
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	struct error error;
	struct label label;
	uint64_t tail;

	if (size_bytes < 2 * (uint64_t)FORMAT_TAIL_BYTES) {
		problem(check, "%s is too small to belong to a pool", device->name);
		return;
	}
	/* By the label's size: the device may have grown. */
	if (overlay_read(device, FORMAT_LABEL_BLOCK * (uint64_t)BLOCK_BYTES, block) == 0 &&
	    label_decode(&label, block, device->size_bytes, &error) == 0)
		size_bytes = label.size_bytes;
	tail = size_bytes / BLOCK_BYTES - FORMAT_TAIL_BYTES / BLOCK_BYTES;
	check_twins(check, device, "the label", LABEL_MAGIC, FORMAT_LABEL_BLOCK,
	    tail + FORMAT_TAIL_LABEL_BLOCK);
	for (unsigned i = 0; i < 2; i++) {
		check_twins(check, device, i ? "superblock 1" : "superblock 0", SUPERBLOCK_MAGIC,
		    FORMAT_SUPERBLOCK_BLOCK + i, tail + FORMAT_TAIL_SUPERBLOCK_BLOCK + i);
		check_twins(check, device, i ? "device set 1" : "device set 0", DEVICE_SET_MAGIC,
		    FORMAT_DEVICE_SET_BLOCK + i, tail + FORMAT_TAIL_DEVICE_SET_BLOCK + i);
	}
}

/* --- maps --- */

static void
show_progress(const struct check *check)
{
	uint64_t live = max_u64(check->pool->space.live_blocks, 1);
	unsigned done = (unsigned)min_u64(check->blocks * 40 / live, 40);

	fprintf(stderr, "\r[%-40.*s] %3u %%", (int)done, "########################################",
	    (unsigned)min_u64(check->blocks * 100 / live, 100));
}

/* What a fault at @entry concerns, in words. */
static void
place_text(const struct check *check, const struct map_entry *entry, uint64_t lba, uint64_t blocks,
    char *text, size_t size)
{
	const struct space *space = &check->pool->space;
	struct baddr addr = { entry->addr };
	uint32_t slot;
	const struct slab *slab = space_place(space, addr, &slot);
	char where[300] = "";

	if (slab)
		snprintf(where, sizeof(where),
		    "%s, byte %llu: ", check->pool->devices[slab->device].device->name,
		    (unsigned long long)space_offset_bytes(space, slab, slot));
	snprintf(text, size, "%s%s, bytes %llu to %llu (and what shares them)", where,
	    check->image_name, (unsigned long long)(lba * BLOCK_BYTES),
	    (unsigned long long)((lba + blocks) * BLOCK_BYTES - 1));
}

static void
fault(struct check *check, const struct map_entry *entry, uint64_t lba, uint64_t blocks,
    const char *what)
{
	char place[700];

	place_text(check, entry, lba, blocks, place, sizeof(place));
	problem(check, "%s: %s", place, what);
}

enum visit {
	VISIT_NEW,
	VISIT_KNOWN, /* reached before, by another image */
	VISIT_BAD    /* was told of */
};

/* Notes that @entry is reached; reads the block it points to if @block is not NULL. */
static enum visit
visit(struct check *check, const struct map_entry *entry, uint64_t lba, uint64_t blocks,
    const char *kind, uint8_t *block)
{
	struct pool *pool = check->pool;
	struct baddr addr = { entry->addr };
	uint32_t slot;
	const struct slab *slab = space_place(&pool->space, addr, &slot);
	char what[200];
	uint64_t bit;
	int rc;

	if (!slab) {
		snprintf(what, sizeof(what),
		    "its %s lies in segment %llu, slot %u, which no slab holds", kind,
		    (unsigned long long)baddr_segment(addr), baddr_slot(addr));
		fault(check, entry, lba, blocks, what);
		return VISIT_BAD;
	}
	bit = (uint64_t)slab->index * pool->space.slab_blocks + slot;
	if (!bitmap_set(check->own[slab->device], bit)) {
		snprintf(what, sizeof(what), "its %s is used at two places of this image", kind);
		fault(check, entry, lba, blocks, what);
		return VISIT_BAD;
	}
	if (entry->epoch > pool->catalog.epoch) {
		snprintf(what, sizeof(what), "its %s is of epoch %u, the pool of %u", kind,
		    entry->epoch, pool->catalog.epoch);
		fault(check, entry, lba, blocks, what);
	}
	if (!bitmap_set(check->reached[slab->device], bit))
		return VISIT_KNOWN;
	check->blocks++;
	if (check->progress && check->blocks % 4096 == 0)
		show_progress(check);
	if (!bitmap_test(slab->live_bits, slot)) {
		snprintf(what, sizeof(what), "its %s is in use but marked as dead: it can be lost",
		    kind);
		fault(check, entry, lba, blocks, what);
	}
	if (!block)
		return VISIT_NEW;
	rc = overlay_read(
	    pool_device(pool, slab->device), space_offset_bytes(&pool->space, slab, slot), block);
	if (rc || baddr_block_crc(addr, block) != entry->crc) {
		snprintf(what, sizeof(what), "its %s %s%s", kind,
		    rc ? "is unreadable: " : "is damaged (wrong checksum)",
		    rc ? strerror(-rc) : "");
		fault(check, entry, lba, blocks, what);
		return VISIT_BAD;
	}
	return VISIT_NEW;
}

static void
walk_data(struct check *check, const struct map_entry *entry, uint64_t lba)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));

	(void)visit(check, entry, lba, 1, "data", check->options->data ? block : NULL);
}

/*
 * The tree of nodes at @level below @entry.  What another image reached before is not walked again:
 * images come by their cursors, so it was walked at least as far.
 */
static void
walk_node(struct check *check, struct map_entry *entry, unsigned level, uint64_t first)
{
	uint64_t cursor = check->image->deleted ? check->image->cursor : 0;
	struct map_entry entries[MAP_FANOUT];
	const struct node *node;

	if (entry->addr == 0 || first + (map_capacity(level + 1) - 1) < cursor)
		return;
	node = entry->addr & NODE_VIRTUAL ? node_find(&check->pool->nodes, entry) : NULL;
	if (node && entry->addr & NODE_VIRTUAL) {
		memcpy(
		    entries, node->entries, sizeof(entries)); /* a replay that was not finished */
	} else {
		enum visit seen = visit(
		    check, entry, first, map_capacity(level + 1), "map node", (uint8_t *)entries);

		if (seen == VISIT_BAD)
			check->incomplete = true;
		if (seen != VISIT_NEW)
			return;
	}
	for (unsigned i = 0; i < MAP_FANOUT; i++) {
		uint64_t lba = first + i * map_capacity(level);

		if (entries[i].addr == 0)
			continue;
		if (level > 0)
			walk_node(check, &entries[i], level - 1, lba);
		else if (lba >= cursor)
			walk_data(check, &entries[i], lba);
	}
}

static void
name_image(struct check *check)
{
	const struct image *image = check->image;
	char *text = check->image_name;
	size_t size = sizeof(check->image_name);

	if (image == &check->pool->catalog.self)
		snprintf(text, size, "the catalog of pool %s", check->pool->name);
	else if (image->deleted || !image->volume)
		snprintf(text, size, "deleted image %llu", (unsigned long long)image->id);
	else if (image->kind == IMAGE_SNAPSHOT)
		snprintf(text, size, "snapshot %s/%s@%s", check->pool->name, image->volume->name,
		    image->name);
	else
		snprintf(text, size, "volume %s/%s", check->pool->name, image->volume->name);
}

static void
walk_image(struct check *check, struct image *image)
{
	const struct space *space = &check->pool->space;

	check->image = image;
	name_image(check);
	for (uint32_t d = 0; d < space->device_count; d++)
		memset(check->own[d], 0,
		    BITMAP_WORDS((uint64_t)space->devices[d].slab_count * space->slab_blocks) * 8);
	if (image->map.levels > 0)
		walk_node(check, &image->map.root, image->map.levels - 1u, 0);
	if (!image->deleted && image != &check->pool->catalog.self && !image->volume)
		problem(check, "image %llu belongs to no volume and is not deleted",
		    (unsigned long long)image->id);
}

static int
by_cursor(const void *left, const void *right)
{
	const struct image *a = *(struct image *const *)left;
	const struct image *b = *(struct image *const *)right;
	uint64_t a_cursor = a->deleted ? a->cursor : 0;
	uint64_t b_cursor = b->deleted ? b->cursor : 0;

	if (a_cursor != b_cursor)
		return a_cursor < b_cursor ? -1 : 1;
	return a->id < b->id ? -1 : a->id > b->id;
}

static void
walk_images(struct check *check)
{
	struct catalog *catalog = &check->pool->catalog;
	struct image **images = xcalloc(catalog->image_count + 1, sizeof(struct image *));
	size_t count = 0;

	images[count++] = &catalog->self;
	list_for_each(node, &catalog->images) {
		CHECK(count <= catalog->image_count);
		images[count++] = container_of(node, struct image, link);
	}
	qsort(images, count, sizeof(struct image *), by_cursor);
	for (size_t i = 0; i < count; i++)
		walk_image(check, images[i]);
	free(images);
}

/* What is marked as live, but nothing reaches. */
static void
find_leaks(struct check *check)
{
	const struct space *space = &check->pool->space;

	for (uint32_t d = 0; d < space->device_count; d++) {
		for (uint32_t i = 0; i < space->devices[d].slab_count; i++) {
			const struct slab *slab = &space->devices[d].slabs[i];
			uint64_t leaked = 0;

			for (uint32_t slot = 0; slab->live > 0 && slot < space->slab_blocks; slot++)
				leaked += bitmap_test(slab->live_bits, slot) &&
					  !bitmap_test(check->reached[d],
					      (uint64_t)i * space->slab_blocks + slot);
			if (leaked)
				problem(check,
				    "%s, byte %llu: %llu blocks of this slab are marked as in use, "
				    "but "
				    "no image reaches them: space is lost, no volume is affected",
				    check->pool->devices[d].device->name,
				    (unsigned long long)space_offset_bytes(space, slab, 0),
				    (unsigned long long)leaked);
		}
	}
}

static void
check_pool(struct check *check)
{
	struct pool *pool = check->pool;
	const struct space *space = &pool->space;

	if (pool->state != POOL_ONLINE) {
		problem(check, "pool %s could only be opened read-only: %s", pool->name,
		    pool->state_reason);
		check->incomplete = true;
	}
	for (uint32_t d = 0; d < space->device_count; d++) {
		uint64_t words =
		    BITMAP_WORDS((uint64_t)space->devices[d].slab_count * space->slab_blocks);

		check->reached[d] = xcalloc(words, sizeof(uint64_t));
		check->own[d] = xcalloc(words, sizeof(uint64_t));
	}
	walk_images(check);
	if (!check->incomplete)
		find_leaks(check);
	if (!space_invariant(space) || !catalog_invariant(&pool->catalog))
		problem(
		    check, "pool %s: its slab table or family tree contradicts itself", pool->name);
	for (uint32_t d = 0; d < space->device_count; d++) {
		free(check->reached[d]);
		free(check->own[d]);
	}
}

/* --- the import, on a reactor of our own whose clock stands still --- */

struct opening {
	struct pool_start start;
	struct check *check;
};

/* Here, before the engine does anything else: what is on the devices and what is in memory agree.
 */
static void
opened(struct pool_start *start)
{
	struct check *check = container_of(start, struct opening, start)->check;

	check->pool = start->pool;
	if (start->error.code)
		problem(check, "the pool cannot be imported: %s", start->error.text);
	else
		check_pool(check);
	check->ended = true;
}

struct closing {
	struct pool_stop stop;
	bool ended;
};

static void
closed(struct pool_stop *stop)
{
	container_of(stop, struct closing, stop)->ended = true;
}

static void
run_until(struct check *check, const bool *ended)
{
	while (!*ended) {
		bool ran = reactor_run_turn(&check->reactor, check->reactor.now_ns);
		uint64_t next_ns = reactor_next_deadline_ns(&check->reactor);

		if (ran || *ended)
			continue;
		CHECK(next_ns != UINT64_MAX);
		reactor_run_turn(&check->reactor, next_ns);
	}
}

static void
check_devices(struct check *check, struct device **devices, uint32_t count)
{
	const struct pool_config config = {
		.reactor = &check->reactor,
		.node_cache_bytes = NODE_CACHE_BYTES,
	};
	struct opening opening = { .start.done = opened, .check = check };
	struct closing closing = { .stop = { .done = closed, .abandon = true } };

	for (uint32_t i = 0; i < count; i++)
		check_device(check, devices[i]);
	pool_import(&config, devices, count, &opening.start);
	run_until(check, &check->ended);
	if (check->pool) {
		pool_stop(check->pool, &closing.stop);
		run_until(check, &closing.ended);
	}
}

static void
report(struct check *check)
{
	if (check->progress)
		fputs("\r\033[K", stderr);
	if (check->options->json) {
		json_t *root = json_pack("{s:i, s:b, s:b, s:I, s:I, s:O}", "schema",
		    check->options->json_schema, "clean", check->problem_count == 0, "data",
		    check->options->data, "blocks", (json_int_t)check->blocks, "problem_count",
		    (json_int_t)check->problem_count, "problems", check->problems);

		CHECK(root);
		json_dumpf(root, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(root);
		return;
	}
	if (check->problem_count > PROBLEMS_SHOWN_MAX)
		printf("… and more of the kind\n");
	printf("%llu blocks in use looked at%s: %llu problems\n", (unsigned long long)check->blocks,
	    check->options->data ? ", data verified" : "; data not verified (--data does)",
	    (unsigned long long)check->problem_count);
	if (check->incomplete)
		printf("Not all could be read, so lost space was not looked for.\n");
}

int
check_run(char *const *paths, size_t count, const struct check_options *options)
{
	struct check check = { .options = options };
	struct device *devices[POOL_DEVICES_MAX];
	struct error error = { 0 };
	uint32_t opened_count = 0;

	CHECK(count <= POOL_DEVICES_MAX);
	check.problems = json_array();
	check.progress = isatty(STDERR_FILENO);
	diag_set_level(DIAG_ERROR);
	reactor_init(&check.reactor);
	reactor_set_current(&check.reactor);
	while (opened_count < count && overlay_open(paths[opened_count], &check.reactor,
					   &devices[opened_count], &error) == 0)
		opened_count++;
	if (opened_count < count) {
		problem(&check, "%s", error.text);
		while (opened_count > 0)
			device_close(devices[--opened_count]);
	} else {
		check_devices(&check, devices, (uint32_t)count);
	}
	report(&check);
	json_decref(check.problems);
	reactor_set_current(NULL);
	reactor_fini(&check.reactor);
	return check.problem_count ? 1 : 0;
}
