/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every device says of itself at its head and again in its tail.  Twins are written together:
 * one that is missing or damaged beside a valid one was damaged.
 */
#include "tools/quarry_check_internal.h"

#include <stdio.h>

/* In the order of head and tail alike: see metadata/format.h. */
static const struct head_kind {
	const char *what;
	const char *magic;
	uint64_t head_block;
	uint64_t tail_block;
	bool own; /* every device has another one */
} kinds[] = {
	{ "the label", LABEL_MAGIC, FORMAT_LABEL_BLOCK, FORMAT_TAIL_LABEL_BLOCK, true },
	{ "superblock 0", SUPERBLOCK_MAGIC, FORMAT_SUPERBLOCK_BLOCK, FORMAT_TAIL_SUPERBLOCK_BLOCK,
	    false },
	{ "superblock 1", SUPERBLOCK_MAGIC, FORMAT_SUPERBLOCK_BLOCK + 1,
	    FORMAT_TAIL_SUPERBLOCK_BLOCK + 1, false },
	{ "device set 0", DEVICE_SET_MAGIC, FORMAT_DEVICE_SET_BLOCK, FORMAT_TAIL_DEVICE_SET_BLOCK,
	    false },
	{ "device set 1", DEVICE_SET_MAGIC, FORMAT_DEVICE_SET_BLOCK + 1,
	    FORMAT_TAIL_DEVICE_SET_BLOCK + 1, false },
};

enum twin_state {
	TWIN_VALID,
	TWIN_EMPTY, /* never written */
	TWIN_DAMAGED
};

struct twin {
	enum twin_state state;
	uint64_t version; /* VALID: checkpoint or generation; 0 of a label */
	struct error error;
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
};

static bool
all_zero(const uint8_t *block)
{
	return block[0] == 0 && memcmp(block, block + 1, BLOCK_BYTES - 1) == 0;
}

static int
read_block(struct device *device, uint64_t block_number, void *block, struct error *error)
{
	int rc = overlay_read(device, block_number * BLOCK_BYTES, block);

	return rc ? error_set(error, rc, "%s", strerror(-rc)) : 0;
}

int
check_read_label(
    struct device *device, uint64_t block_number, struct label *label, struct error *error)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	int rc = read_block(device, block_number, block, error);

	return rc ? rc : label_decode(label, block, device->size_bytes, error);
}

int
check_read_superblock(struct device *device, uint64_t block_number, struct superblock *superblock,
    struct error *error)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	int rc = read_block(device, block_number, block, error);

	return rc ? rc : superblock_decode(superblock, block, error);
}

static uint64_t
tail_of(uint64_t size_bytes)
{
	return size_bytes / BLOCK_BYTES - FORMAT_TAIL_BYTES / BLOCK_BYTES;
}

bool
check_find_label(struct device *device, struct label *label)
{
	struct error error;

	return check_read_label(device, FORMAT_LABEL_BLOCK, label, &error) == 0 ||
	       check_read_label(device, tail_of(device->size_bytes) + FORMAT_TAIL_LABEL_BLOCK,
		   label, &error) == 0;
}

uint64_t
check_tail_block(struct device *device)
{
	struct label label;

	return tail_of(check_find_label(device, &label) ? label.size_bytes : device->size_bytes);
}

static bool
large_enough(const struct device *device)
{
	return device->size_bytes >= 2 * (uint64_t)FORMAT_TAIL_BYTES;
}

static uint64_t
twin_block(struct device *device, const struct head_kind *kind, unsigned place)
{
	return place == 0 ? kind->head_block : check_tail_block(device) + kind->tail_block;
}

static void
read_twin(
    struct device *device, const struct head_kind *kind, uint64_t block_number, struct twin *twin)
{
	union {
		struct label label;
		struct superblock superblock;
		struct device_set set;
	} decoded;
	int rc = read_block(device, block_number, twin->block, &twin->error);

	twin->version = 0;
	twin->state = TWIN_DAMAGED;
	if (rc)
		return;
	if (strcmp(kind->magic, LABEL_MAGIC) == 0) {
		rc = label_decode(&decoded.label, twin->block, device->size_bytes, &twin->error);
	} else if (strcmp(kind->magic, SUPERBLOCK_MAGIC) == 0) {
		rc = superblock_decode(&decoded.superblock, twin->block, &twin->error);
		twin->version = rc ? 0 : decoded.superblock.checkpoint;
	} else {
		rc = device_set_decode(&decoded.set, twin->block, &twin->error);
		twin->version = rc ? 0 : decoded.set.generation;
	}
	twin->state = rc == 0 ? TWIN_VALID : all_zero(twin->block) ? TWIN_EMPTY : TWIN_DAMAGED;
}

/* Whether @twin should not be as it is, by the other one.  Only the first version of all may be
 * missing for a crash. */
static bool
is_damaged(const struct twin *twin, const struct twin *other)
{
	if (twin->state == TWIN_VALID)
		return false;
	return twin->state == TWIN_DAMAGED ||
	       (other->state == TWIN_VALID && (other->version == 0 || other->version > 2));
}

void
check_heads(struct check *check, struct device *device)
{
	struct twin twins[2];

	if (!large_enough(device)) {
		check_tell(check, "%s is too small to belong to a pool", device->name);
		return;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		for (unsigned i = 0; i < 2; i++)
			read_twin(device, &kinds[k], twin_block(device, &kinds[k], i), &twins[i]);
		for (unsigned i = 0; i < 2; i++)
			if (is_damaged(&twins[i], &twins[!i]))
				check_tell(check, "%s, byte %llu: %s is damaged (%s); %s",
				    device->name,
				    (unsigned long long)(twin_block(device, &kinds[k], i) *
							 BLOCK_BYTES),
				    kinds[k].what, twins[i].error.text,
				    twins[!i].state == TWIN_VALID
					? "its twin serves, and no volume is affected"
					: "its twin does not serve either: the whole pool may be "
					  "affected");
	}
}

/* The newest valid one of @kind: of the twins on @device, or of all devices if they are the same.
 */
static bool
find_source(struct offline *offline, struct device *device, const struct head_kind *kind,
    struct twin *source)
{
	struct twin twin;

	source->state = TWIN_DAMAGED;
	for (uint32_t d = 0; d < offline->count; d++) {
		if (kind->own && offline->devices[d] != device)
			continue;
		for (unsigned place = 0; place < 2; place++) {
			read_twin(offline->devices[d], kind,
			    twin_block(offline->devices[d], kind, place), &twin);
			if (twin.state == TWIN_VALID &&
			    (source->state != TWIN_VALID || twin.version > source->version))
				*source = twin;
		}
	}
	return source->state == TWIN_VALID;
}

static void
mend_twin(struct check *check, struct device *device, const struct head_kind *kind,
    uint64_t block_number, const struct twin *source)
{
	int rc = overlay_write(device, block_number * BLOCK_BYTES, source->block);

	if (rc == 0)
		rc = overlay_flush(device);
	check_tell(check, "%s, byte %llu: %s %s%s", device->name,
	    (unsigned long long)(block_number * BLOCK_BYTES), kind->what,
	    rc ? "could not be written again: " : "was written again from its twin",
	    rc ? strerror(-rc) : "");
}

void
check_mend_heads(struct check *check, struct offline *offline)
{
	struct twin twins[2], source;

	for (uint32_t d = 0; d < offline->count; d++) {
		struct device *device = offline->devices[d];

		if (!large_enough(device))
			continue;
		for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
			uint64_t places[2];

			for (unsigned i = 0; i < 2; i++) {
				places[i] = twin_block(device, &kinds[k], i);
				read_twin(device, &kinds[k], places[i], &twins[i]);
			}
			for (unsigned i = 0; i < 2; i++)
				if (is_damaged(&twins[i], &twins[!i]) &&
				    find_source(offline, device, &kinds[k], &source))
					mend_twin(check, device, &kinds[k], places[i], &source);
		}
	}
}
