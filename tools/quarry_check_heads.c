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
	bool own;      /* every device has another one */
	unsigned slot; /* else: its version's remainder by 2 */
} kinds[] = {
	{ "the label", LABEL_MAGIC, FORMAT_LABEL_BLOCK, FORMAT_TAIL_LABEL_BLOCK, true, 0 },
	{ "superblock 0", SUPERBLOCK_MAGIC, FORMAT_SUPERBLOCK_BLOCK, FORMAT_TAIL_SUPERBLOCK_BLOCK,
	    false, 0 },
	{ "superblock 1", SUPERBLOCK_MAGIC, FORMAT_SUPERBLOCK_BLOCK + 1,
	    FORMAT_TAIL_SUPERBLOCK_BLOCK + 1, false, 1 },
	{ "device set 0", DEVICE_SET_MAGIC, FORMAT_DEVICE_SET_BLOCK, FORMAT_TAIL_DEVICE_SET_BLOCK,
	    false, 0 },
	{ "device set 1", DEVICE_SET_MAGIC, FORMAT_DEVICE_SET_BLOCK + 1,
	    FORMAT_TAIL_DEVICE_SET_BLOCK + 1, false, 1 },
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

uint64_t
check_tail_block(struct device *device)
{
	struct label label;

	return tail_of(offline_find_label(device, &label) ? label.size_bytes : device->size_bytes);
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
	if (rc == 0 && !kind->own && twin->version % 2 != kind->slot) {
		error_set(&twin->error, -EUCLEAN, "it belongs to another place");
		return;
	}
	twin->state = rc == 0 ? TWIN_VALID : all_zero(twin->block) ? TWIN_EMPTY : TWIN_DAMAGED;
}

/* How many of the two labels on @device are of the device @uuid. */
static unsigned
labels_of(struct device *device, const struct uuid *uuid)
{
	unsigned count = 0;

	for (unsigned i = 0; i < 2; i++) {
		struct label label;
		struct twin twin;

		read_twin(device, &kinds[0], twin_block(device, &kinds[0], i), &twin);
		memcpy(&label, twin.block, sizeof(label));
		count += twin.state == TWIN_VALID && uuid_equal(&label.device_uuid, uuid);
	}
	return count;
}

/* Whether the slab table on @device, going by its first page, is that of the device with @label. */
static bool
table_is_of(struct device *device, const struct label *label)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));

	for (unsigned i = 0; i < 2; i++)
		if (overlay_read(device, (FORMAT_TABLE_BLOCK + i) * BLOCK_BYTES, block) == 0 &&
		    space_page_valid(&label->device_uuid, 0, block))
			return true;
	return false;
}

/* A label is another device's if that one has it twice, and this one once; or if this device's slab
 * table is not its, but its twin's. */
static void
look_for_foreign(
    struct offline *offline, struct device *device, struct twin *twin, const struct twin *other)
{
	struct label label, other_label;

	memcpy(&label, twin->block, sizeof(label));
	memcpy(&other_label, other->block, sizeof(other_label));
	if (twin->state != TWIN_VALID || labels_of(device, &label.device_uuid) == 2)
		return;
	for (uint32_t d = 0; d < offline->count; d++) {
		unsigned count = labels_of(offline->devices[d], &label.device_uuid);

		if (offline->devices[d] == device || count == 0 ||
		    (count == 1 && (other->state != TWIN_VALID || table_is_of(device, &label) ||
				       !table_is_of(device, &other_label))))
			continue;
		twin->state = TWIN_DAMAGED;
		error_set(&twin->error, -EUCLEAN, "it is that of %s", offline->devices[d]->name);
	}
}

/* Both twins of @kind on @device. */
static void
read_twins(struct offline *offline, struct device *device, const struct head_kind *kind,
    struct twin twins[2], uint64_t places[2])
{
	for (unsigned i = 0; i < 2; i++) {
		places[i] = twin_block(device, kind, i);
		read_twin(device, kind, places[i], &twins[i]);
	}
	for (unsigned i = 0; kind->own && i < 2; i++)
		look_for_foreign(offline, device, &twins[i], &twins[!i]);
}

/* Whether so few checkpoints were written to @device that a crash may have left places empty that
 * were about to be written for the first time: of a new pool, or of a device that just joined. */
static bool
is_young(struct device *device)
{
	uint64_t newest = 0;
	unsigned slots = 0;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct twin twins[2];

		if (strcmp(kinds[k].magic, SUPERBLOCK_MAGIC) != 0)
			continue;
		for (unsigned i = 0; i < 2; i++) {
			read_twin(device, &kinds[k], twin_block(device, &kinds[k], i), &twins[i]);
			newest = max_u64(newest, twins[i].version);
		}
		slots += twins[0].state == TWIN_VALID || twins[1].state == TWIN_VALID;
	}
	return newest <= 2 || slots < 2;
}

/* Whether @twin is not what it should be. */
static bool
is_damaged(
    const struct head_kind *kind, const struct twin *twin, const struct twin *other, bool young)
{
	if (twin->state != TWIN_EMPTY)
		return twin->state == TWIN_DAMAGED;
	return kind->own || (!young && other->state == TWIN_VALID);
}

void
check_heads(struct check *check, struct offline *offline, struct device *device)
{
	struct twin twins[2];
	bool young;

	if (!large_enough(device)) {
		check_tell(check, "%s is too small to belong to a pool", device->name);
		return;
	}
	young = is_young(device);
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		uint64_t places[2];

		read_twins(offline, device, &kinds[k], twins, places);
		for (unsigned i = 0; i < 2; i++)
			if (is_damaged(&kinds[k], &twins[i], &twins[!i], young))
				check_tell(check, "%s, byte %llu: %s is damaged (%s); %s",
				    device->name, (unsigned long long)(places[i] * BLOCK_BYTES),
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
	struct twin twins[2];
	uint64_t places[2];

	source->state = TWIN_DAMAGED;
	for (uint32_t d = 0; d < offline->count; d++) {
		if (kind->own && offline->devices[d] != device)
			continue;
		read_twins(offline, offline->devices[d], kind, twins, places);
		for (unsigned i = 0; i < 2; i++)
			if (twins[i].state == TWIN_VALID &&
			    (source->state != TWIN_VALID || twins[i].version > source->version))
				*source = twins[i];
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
		bool young;

		if (!large_enough(device))
			continue;
		young = is_young(device);
		for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
			uint64_t places[2];

			read_twins(offline, device, &kinds[k], twins, places);
			for (unsigned i = 0; i < 2; i++)
				if (is_damaged(&kinds[k], &twins[i], &twins[!i], young) &&
				    find_source(offline, device, &kinds[k], &source))
					mend_twin(check, device, &kinds[k], places[i], &source);
		}
	}
}
