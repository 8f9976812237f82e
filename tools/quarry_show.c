/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What came back, as rows of tables, as a tree, as text, and as JSON.  A result comes from the
 * daemon of the same protocol version; what it lacks all the same is shown as "-".
 */
#include "tools/quarry.h"

#include <stdlib.h>

#include "core/base/size.h"
#include "frontends/admin/admin_json.h"
#include "frontends/iscsi/iscsi_names.h"
#include "tools/version.h"

static const struct column pool_columns[] = {
	{ "name", "name", COLUMN_TEXT, true },
	{ "state", "state", COLUMN_TEXT, true },
	{ "size", "size_bytes", COLUMN_SIZE, true },
	{ "allocated", "allocated_bytes", COLUMN_SIZE, true },
	{ "live", "live_bytes", COLUMN_SIZE, false },
	{ "available", "available_bytes", COLUMN_SIZE, true },
	{ "provisioned", "provisioned_bytes", COLUMN_SIZE, true },
	{ "reserved", "reserved_bytes", COLUMN_SIZE, false },
	{ "devices", "devices", COLUMN_LENGTH, true },
	{ "deleting", "deleting", COLUMN_PROGRESS, true },
	{ "checkpoint", "checkpoint", COLUMN_NUMBER, false },
	{ "reason", "state_reason", COLUMN_TEXT, false },
	{ "uuid", "uuid", COLUMN_TEXT, false },
};

static const struct column volume_columns[] = {
	{ "name", "name", COLUMN_TEXT, true },
	{ "size", "size_bytes", COLUMN_SIZE, true },
	{ "used", "used_bytes", COLUMN_SIZE, true },
	{ "unique", "unique_bytes", COLUMN_SIZE, true },
	{ "readonly", "readonly", COLUMN_FLAG, true },
	{ "clients", "clients", COLUMN_NUMBER, true },
	{ "onfull", "on_full", COLUMN_TEXT, false },
	{ "timeout", "on_full_timeout_seconds", COLUMN_NUMBER, false },
	{ "waiting", "waiting", COLUMN_NUMBER, false },
	{ "reserve", "reserve", COLUMN_TEXT, false },
	{ "reserved", "reserved_bytes", COLUMN_SIZE, false },
	{ "blocksize", "block_size_bytes", COLUMN_NUMBER, false },
	{ "origin", "origin", COLUMN_TEXT, true },
	{ "created", "created", COLUMN_TEXT, false },
	{ "uuid", "uuid", COLUMN_TEXT, false },
};

static const struct column snapshot_columns[] = {
	{ "name", "name", COLUMN_TEXT, true },
	{ "size", "size_bytes", COLUMN_SIZE, true },
	{ "used", "used_bytes", COLUMN_SIZE, true },
	{ "unique", "unique_bytes", COLUMN_SIZE, true },
	{ "created", "created", COLUMN_TEXT, true },
	{ "clients", "clients", COLUMN_NUMBER, false },
	{ "uuid", "uuid", COLUMN_TEXT, false },
};

static const struct column tree_columns[] = {
	{ "name", "name", COLUMN_TEXT, true },
	{ "kind", "kind", COLUMN_TEXT, true },
	{ "size", "size_bytes", COLUMN_SIZE, true },
	{ "used", "used_bytes", COLUMN_SIZE, true },
	{ "unique", "unique_bytes", COLUMN_SIZE, true },
	{ "origin", "origin", COLUMN_TEXT, false },
	{ "created", "created", COLUMN_TEXT, false },
	{ "uuid", "uuid", COLUMN_TEXT, false },
};

static const struct column range_columns[] = {
	{ "offset", "offset_bytes", COLUMN_NUMBER, true },
	{ "length", "length_bytes", COLUMN_NUMBER, true },
	{ "kind", "hole", COLUMN_HOLE, true },
};

static const struct column export_columns[] = {
	{ "name", "name", COLUMN_TEXT, true },
	{ "protocol", "protocol", COLUMN_TEXT, true },
	{ "target", "target", COLUMN_TEXT, true },
	{ "lun", "lun", COLUMN_NUMBER, true },
	{ "allow", "allow", COLUMN_WORDS, true },
	{ "chap", "chap_user", COLUMN_TEXT, true },
	{ "mutual", "chap_mutual_user", COLUMN_TEXT, false },
};

static const struct column scrub_columns[] = {
	{ "pool", "pool", COLUMN_TEXT, true },
	{ "state", "state", COLUMN_TEXT, true },
	{ "done", "done", COLUMN_TEXT, true },
	{ "left", "left", COLUMN_TEXT, true },
	{ "checked", "checked_bytes", COLUMN_SIZE, true },
	{ "damaged", "damaged_blocks", COLUMN_NUMBER, true },
	{ "healed", "healed_blocks", COLUMN_NUMBER, false },
	{ "unverified", "unverified_blocks", COLUMN_NUMBER, false },
	{ "started", "started", COLUMN_TEXT, true },
	{ "ended", "ended", COLUMN_TEXT, true },
};

static const struct table table_scrubs = { scrub_columns, ARRAY_SIZE(scrub_columns), "scrubs" };
const struct table table_pools = { pool_columns, ARRAY_SIZE(pool_columns), "pools" };
const struct table table_volumes = { volume_columns, ARRAY_SIZE(volume_columns), "volumes" };
const struct table table_snapshots = { snapshot_columns, ARRAY_SIZE(snapshot_columns),
	"snapshots" };
const struct table table_tree = { tree_columns, ARRAY_SIZE(tree_columns), "pools" };
const struct table table_ranges = { range_columns, ARRAY_SIZE(range_columns), "ranges" };

static const struct column pool_device_columns[] = {
	{ "pool", "pool", COLUMN_TEXT, true },
	{ "path", "path", COLUMN_TEXT, true },
	{ "state", "state", COLUMN_TEXT, true },
	{ "size", "size_bytes", COLUMN_SIZE, true },
	{ "slabs", "slabs", COLUMN_NUMBER, true },
	{ "free", "slabs_free", COLUMN_NUMBER, true },
	{ "errors", "errors", COLUMN_NUMBER, true },
	{ "healed", "healed", COLUMN_NUMBER, true },
	{ "uuid", "uuid", COLUMN_TEXT, false },
};
static const struct table table_exports = { export_columns, ARRAY_SIZE(export_columns), "exports" };
static const struct table table_devices_of_pools = { pool_device_columns,
	ARRAY_SIZE(pool_device_columns), "devices" };
/* ... of one pool, whose name stands above. */
static const struct table table_devices = { pool_device_columns + 1,
	ARRAY_SIZE(pool_device_columns) - 1, "devices" };

const struct table *
show_table(enum show show)
{
	switch (show) {
	case SHOW_POOLS:
		return &table_pools;
	case SHOW_VOLUMES:
		return &table_volumes;
	case SHOW_SNAPSHOTS:
		return &table_snapshots;
	case SHOW_TREE:
		return &table_tree;
	case SHOW_DIFF:
		return &table_ranges;
	case SHOW_DEVICES:
		return &table_devices_of_pools;
	case SHOW_EXPORTS:
		return &table_exports;
	case SHOW_SCRUBS:
		return &table_scrubs;
	case SHOW_DONE:
	case SHOW_POOL_STATUS:
	case SHOW_CHECK:
	case SHOW_DUMP:
	case SHOW_ATTACH:
	case SHOW_VERSION:
		return NULL;
	}
	return NULL;
}

static const char *
text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

static bool
is_snapshot(const json_t *image)
{
	return strcmp(text_of(image, "kind"), "snapshot") == 0;
}

/* Takes @value. */
static void
print_json(FILE *out, json_t *value)
{
	json_dumpf(value, out, JSON_INDENT(2));
	fputc('\n', out);
	json_decref(value);
}

/* {"schema": 1, "<plural>": rows}; takes @rows. */
static void
print_rows_json(FILE *out, const char *plural, json_t *rows)
{
	json_t *root = must_json(json_object());

	must_put(root, "schema", json_integer(CLI_JSON_SCHEMA));
	must_put(root, plural, rows);
	print_json(out, root);
}

/* --- rows --- */

/* "3 min", and so on: about. */
static void
format_time(json_int_t seconds, char text[32])
{
	if (seconds < 120)
		snprintf(text, 32, "%lld s", (long long)seconds);
	else if (seconds < 2 * 3600)
		snprintf(text, 32, "%lld min", (long long)seconds / 60);
	else
		snprintf(text, 32, "%lld h", (long long)seconds / 3600);
}

/* For tables with how far a removal is as text of the state. */
static json_t *
device_row(const json_t *pool, const json_t *device, bool json)
{
	json_t *row = must_json(json_copy((json_t *)(uintptr_t)device));
	const json_t *removing = json_object_get(device, "removing");
	const json_t *left = json_object_get(removing, "seconds_left");
	json_int_t permille = json_integer_value(json_object_get(removing, "done_permille"));
	char time[32] = "", text[80];

	must_put(row, "pool", json_incref(json_object_get(pool, "name")));
	if (json || !json_is_object(removing))
		return row;
	if (json_is_integer(left))
		format_time(json_integer_value(left), time);
	snprintf(text, sizeof(text), "removing, %lld.%lld%%%s%s%s", (long long)permille / 10,
	    (long long)permille % 10, time[0] ? ", " : "", time, time[0] ? " left" : "");
	must_put(row, "state", json_string(text));
	return row;
}

static json_t *
device_rows(const json_t *pools, bool json)
{
	json_t *rows = must_json(json_array());
	const json_t *pool, *device;
	size_t i, k;

	json_array_foreach(pools, i, pool)
	{
		json_array_foreach(json_object_get(pool, "devices"), k, device)
		    must_append(rows, device_row(pool, device, json));
	}
	return rows;
}

/* The scrub of each pool; for tables with what is done and left as text. */
static json_t *
scrub_rows(const json_t *pools, bool json)
{
	json_t *rows = must_json(json_array());
	const json_t *pool;
	size_t i;

	json_array_foreach(pools, i, pool)
	{
		json_t *row = must_json(json_copy(json_object_get(pool, "scrub")));
		json_int_t permille = json_integer_value(json_object_get(row, "done_permille"));
		const json_t *left = json_object_get(row, "seconds_left");
		char text[32];

		must_put(row, "pool", json_incref(json_object_get(pool, "name")));
		must_append(rows, row);
		if (json)
			continue;
		snprintf(text, sizeof(text), "%lld.%lld%%", (long long)permille / 10,
		    (long long)permille % 10);
		must_put(row, "done", json_string(text));
		if (json_is_integer(left)) {
			format_time(json_integer_value(left), text);
			must_put(row, "left", json_string(text));
		}
	}
	return rows;
}

static json_t *
pool_rows(const json_t *pools)
{
	json_t *rows = must_json(json_array());
	const json_t *pool;
	size_t i;

	json_array_foreach(pools, i, pool)
	{
		json_t *row = must_json(json_copy((json_t *)(uintptr_t)pool));

		json_object_del(row, "images");
		must_append(rows, row);
	}
	return rows;
}

/* Whether "tank/vm1@monday" is a snapshot of @filter, which may be empty. */
static bool
passes(const struct name *filter, const char *name)
{
	struct name parsed;

	if (!filter->volume[0])
		return true;
	return name_parse(&parsed, name, NULL) == 0 && strcmp(parsed.volume, filter->volume) == 0;
}

static json_t *
image_rows(const json_t *pools, bool snapshots, const struct name *filter)
{
	json_t *rows = must_json(json_array());
	const json_t *pool;
	json_t *image;
	size_t i, j;

	json_array_foreach(pools, i, pool) json_array_foreach(json_object_get(pool, "images"), j,
	    image) if (is_snapshot(image) == snapshots && passes(filter, text_of(image, "name")))
	    must_append(rows, json_incref(image));
	return rows;
}

/* Each with the volume's name, and that of the target, which may follow from it. */
static json_t *
export_rows(const json_t *pools, const struct name *filter)
{
	json_t *images = image_rows(pools, false, filter);
	json_t *rows = must_json(json_array());
	const json_t *image, *export;
	size_t i, k;

	json_array_foreach(images, i, image)
	{
		json_array_foreach(json_object_get(image, "exports"), k, export)
		{
			json_t *row = must_json(json_copy((json_t *)(uintptr_t) export));
			char target[ISCSI_NAME_BYTES_MAX + 1];
			struct name name;

			must_put(row, "name", json_string(text_of(image, "name")));
			if (json_is_null(json_object_get(row, "target")) &&
			    name_parse(&name, text_of(image, "name"), NULL) == 0) {
				iscsi_target_name(&name, target);
				must_put(row, "target", json_string(target));
			}
			must_append(rows, row);
		}
	}
	json_decref(images);
	return rows;
}

/* --- the tree --- */

/* {"tank/vm1@monday": [clone, …]} */
static json_t *
clones_by_origin(const json_t *images)
{
	json_t *origins = must_json(json_object());
	json_t *image;
	size_t i;

	json_array_foreach(images, i, image) if (is_snapshot(image))
	    must_put(origins, text_of(image, "name"), json_array());
	json_array_foreach(images, i, image)
	{
		json_t *clones = json_object_get(origins, text_of(image, "origin"));

		if (clones && !is_snapshot(image))
			must_append(clones, json_incref(image));
	}
	return origins;
}

/* {"tank/vm1": [snapshot, …]} */
static json_t *
snapshots_by_volume(const json_t *images)
{
	json_t *volumes = must_json(json_object());
	json_t *image;
	size_t i;

	json_array_foreach(images, i, image) if (!is_snapshot(image))
	    must_put(volumes, text_of(image, "name"), json_array());
	json_array_foreach(images, i, image)
	{
		const char *name = text_of(image, "name");
		json_t *snapshots =
		    is_snapshot(image) ? json_object_getn(volumes, name, strcspn(name, "@")) : NULL;

		if (snapshots)
			must_append(snapshots, json_incref(image));
	}
	return volumes;
}

static void
append_at_depth(json_t *rows, json_t *object, int depth)
{
	json_t *row = must_json(json_copy(object));

	must_put(row, "depth", json_integer(depth));
	must_append(rows, row);
}

/* A volume, its snapshots, their clones, and so on down. */
static void
append_volume(
    json_t *rows, json_t *volume, int depth, const json_t *snapshots, const json_t *clones)
{
	json_t *snapshot, *clone;
	size_t i, j;

	append_at_depth(rows, volume, depth);
	json_array_foreach(json_object_get(snapshots, text_of(volume, "name")), i, snapshot)
	{
		append_at_depth(rows, snapshot, depth + 1);
		json_array_foreach(json_object_get(clones, text_of(snapshot, "name")), j, clone)
		    append_volume(rows, clone, depth + 2, snapshots, clones);
	}
}

static void
append_pool(json_t *rows, const json_t *pool)
{
	const json_t *images = json_object_get(pool, "images");
	json_t *snapshots = snapshots_by_volume(images);
	json_t *clones = clones_by_origin(images);
	json_t *row = must_json(json_object());
	json_t *image;
	size_t i;

	must_put(row, "kind", json_string("pool"));
	must_put(row, "depth", json_integer(0));
	must_put(row, "name", json_string(text_of(pool, "name")));
	must_put(row, "uuid", json_string(text_of(pool, "uuid")));
	json_object_set(row, "size_bytes", json_object_get(pool, "size_bytes"));
	json_object_set(row, "used_bytes", json_object_get(pool, "allocated_bytes"));
	must_append(rows, row);
	json_array_foreach(images, i,
	    image) if (!is_snapshot(image) && !json_object_get(clones, text_of(image, "origin")))
	    append_volume(rows, image, 1, snapshots, clones);
	json_decref(snapshots);
	json_decref(clones);
}

static json_t *
tree_rows(const json_t *pools)
{
	json_t *rows = must_json(json_array());
	const json_t *pool;
	size_t i;

	json_array_foreach(pools, i, pool) append_pool(rows, pool);
	return rows;
}

/* pools with volumes with snapshots; a clone is a volume that tells its origin. */
static json_t *
tree_json(const json_t *pools)
{
	json_t *rows = pool_rows(pools);
	json_t *pool;
	size_t i, j;

	json_array_foreach(rows, i, pool)
	{
		const json_t *images = json_object_get(json_array_get(pools, i), "images");
		json_t *snapshots = snapshots_by_volume(images);
		json_t *volumes = must_json(json_array());
		json_t *image;

		json_array_foreach(images, j, image)
		{
			if (is_snapshot(image))
				continue;
			json_t *volume = must_json(json_copy(image));

			must_put(volume, "snapshots",
			    json_incref(json_object_get(snapshots, text_of(image, "name"))));
			must_append(volumes, volume);
		}
		must_put(pool, "volumes", volumes);
		json_decref(snapshots);
	}
	return rows;
}

/* --- pool status --- */

static void
print_bytes(FILE *out, const char *label, const json_t *pool, const char *key, bool exact)
{
	uint64_t bytes = (uint64_t)json_integer_value(json_object_get(pool, key));
	char text[SIZE_TEXT_BYTES];

	if (exact)
		fprintf(out, "  %-12s%llu\n", label, (unsigned long long)bytes);
	else
		fprintf(out, "  %-12s%s\n", label, size_format(bytes, text));
}

/* What all volumes would take if they were full, against what there is. */
static void
print_commitment(FILE *out, const json_t *pool, bool exact)
{
	uint64_t usable = (uint64_t)json_integer_value(json_object_get(pool, "usable_bytes"));
	uint64_t provisioned =
	    (uint64_t)json_integer_value(json_object_get(pool, "provisioned_bytes"));
	char text[SIZE_TEXT_BYTES], of[SIZE_TEXT_BYTES];

	if (exact)
		fprintf(out, "  %-12s%llu of %llu usable\n", "provisioned",
		    (unsigned long long)provisioned, (unsigned long long)usable);
	else
		fprintf(out, "  %-12s%s of %s usable%s\n", "provisioned",
		    size_format(provisioned, text), size_format(usable, of),
		    provisioned > usable ? ": over-committed" : "");
	print_bytes(out, "reserved", pool, "reserved_bytes", exact);
}

static void
print_fill(FILE *out, const json_t *pool)
{
	const json_t *warn = json_object_get(pool, "warn_percent");
	json_int_t percent = json_integer_value(json_object_get(pool, "full_percent"));
	json_int_t first = json_integer_value(json_array_get(warn, 0));

	fprintf(out, "  %-12s%lld%%%s (warns at %lld%%, %lld%%)\n", "filled", (long long)percent,
	    first && percent >= first ? ": WARNING" : "", (long long)first,
	    (long long)json_integer_value(json_array_get(warn, 1)));
}

/* Volumes whose writes wait because the pool is full. */
static void
print_waiting(FILE *out, const json_t *pool)
{
	const json_t *image;
	size_t i;

	json_array_foreach(json_object_get(pool, "images"), i, image)
	{
		json_int_t waiting = json_integer_value(json_object_get(image, "waiting"));

		if (waiting)
			fprintf(out, "  %-12s%s: %lld write%s wait%s for room\n", "full",
			    text_of(image, "name"), (long long)waiting, waiting == 1 ? "" : "s",
			    waiting == 1 ? "s" : "");
	}
}

/* What the scrub does, or found. */
static void
print_scrub(FILE *out, const json_t *pool)
{
	const json_t *scrub = json_object_get(pool, "scrub");
	json_int_t permille = json_integer_value(json_object_get(scrub, "done_permille"));
	const json_t *left = json_object_get(scrub, "seconds_left");
	const json_t *block;
	char text[32];
	size_t i;

	if (strcmp(text_of(scrub, "state"), "never") == 0)
		return;
	fprintf(out, "  %-12s%s, %lld.%lld%% done", "scrub", text_of(scrub, "state"),
	    (long long)permille / 10, (long long)permille % 10);
	if (json_is_integer(left)) {
		format_time(json_integer_value(left), text);
		fprintf(out, ", about %s left", text);
	}
	fprintf(out, ", %lld damaged blocks\n",
	    (long long)json_integer_value(json_object_get(scrub, "damaged_blocks")));
	json_array_foreach(json_object_get(scrub, "damage"), i, block)
	{
		const json_t *volume = json_object_get(block, "volume");

		fprintf(out, "  %-12s%s at byte %lld", "damaged", text_of(block, "device"),
		    (long long)json_integer_value(json_object_get(block, "device_offset_bytes")));
		if (json_is_string(volume))
			fprintf(out, ": %s at byte %lld", json_string_value(volume),
			    (long long)json_integer_value(json_object_get(block, "offset_bytes")));
		fputs("\n", out);
	}
}

static void
print_rebalancing(FILE *out, const json_t *pool)
{
	const json_t *moving = json_object_get(pool, "rebalancing");
	const json_t *left = json_object_get(moving, "seconds_left");
	json_int_t permille = json_integer_value(json_object_get(moving, "done_permille"));
	char size[SIZE_TEXT_BYTES], time[32];

	if (!json_is_object(moving))
		return;
	size_format((uint64_t)json_integer_value(json_object_get(moving, "left_bytes")), size);
	fprintf(out, "  %-12s%lld.%lld%% done, %s left", "rebalancing", (long long)permille / 10,
	    (long long)permille % 10, size);
	if (json_is_integer(left)) {
		format_time(json_integer_value(left), time);
		fprintf(out, ", about %s", time);
	}
	fputs("\n", out);
}

static void
print_pool_status(FILE *out, const struct cli *cli, const json_t *pool)
{
	bool exact = cli->options & OPTION_EXACT;
	const char *reason = json_string_value(json_object_get(pool, "state_reason"));
	json_int_t deleting = json_integer_value(json_object_get(pool, "deleting"));
	json_int_t permille = json_integer_value(json_object_get(pool, "deleting_done_permille"));

	fprintf(out, "pool %s: %s%s%s\n", text_of(pool, "name"), text_of(pool, "state"),
	    reason ? ", " : "", reason ? reason : "");
	fprintf(out, "  %-12s%s\n", "uuid", text_of(pool, "uuid"));
	print_bytes(out, "size", pool, "size_bytes", exact);
	print_bytes(out, "allocated", pool, "allocated_bytes", exact);
	print_bytes(out, "live", pool, "live_bytes", exact);
	print_bytes(out, "available", pool, "available_bytes", exact);
	print_fill(out, pool);
	print_commitment(out, pool, exact);
	fprintf(out, "  %-12s%lld%s\n", "checkpoint",
	    (long long)json_integer_value(json_object_get(pool, "checkpoint")),
	    json_is_true(json_object_get(pool, "checkpoint_running"))
		? ", the next is being written"
		: "");
	print_waiting(out, pool);
	if (deleting)
		fprintf(out, "  %-12s%lld in the background, %lld.%lld%% done\n", "deleting",
		    (long long)deleting, (long long)permille / 10, (long long)permille % 10);
	if (json_is_true(json_object_get(pool, "relocating"))) {
		json_int_t share = json_integer_value(json_object_get(pool, "relocation_permille"));
		char moved[SIZE_TEXT_BYTES];

		size_format(
		    (uint64_t)json_integer_value(json_object_get(pool, "relocated_bytes")), moved);
		fprintf(out, "  %-12sat %lld.%lld%% of its speed, %s moved since the import\n",
		    "relocating", (long long)share / 10, (long long)share % 10, moved);
	}
	print_rebalancing(out, pool);
	print_scrub(out, pool);
	if (json_integer_value(json_object_get(pool, "unprepared_bytes")))
		print_bytes(out, "unprepared", pool, "unprepared_bytes", exact);
	fputs("\n", out);

	json_t *rows = must_json(json_array());
	const json_t *device;
	size_t i;

	json_array_foreach(json_object_get(pool, "devices"), i, device)
	    must_append(rows, device_row(pool, device, false));
	table_print(out, &table_devices, rows, cli);
	json_decref(rows);
}

static void
show_status(FILE *out, const struct cli *cli, const json_t *pools)
{
	const json_t *pool;
	size_t i;

	if (json_array_size(pools) == 0)
		fputs("no pools; make one: quarry pool create POOL DEVICE…\n", out);
	json_array_foreach(pools, i, pool)
	{
		if (i)
			fputs("\n", out);
		print_pool_status(out, cli, pool);
	}
}

/* --- version --- */

/* @result is NULL if no daemon answers. */
static void
show_version(FILE *out, const struct cli *cli, const json_t *result)
{
	const json_t *listeners = json_object_get(result, "listeners");
	const json_t *listener;
	size_t i;

	if (cli->options & OPTION_JSON) {
		json_t *programs = must_json(json_array());
		json_t *command = must_json(json_object());

		must_put(command, "name", json_string("quarry"));
		must_put(command, "version", json_string(QUARRY_VERSION));
		must_append(programs, command);
		if (result) {
			json_t *daemon = must_json(json_copy((json_t *)(uintptr_t)result));

			must_put(daemon, "name", json_string("quarryd"));
			must_append(programs, daemon);
		}
		print_rows_json(out, "programs", programs);
		return;
	}
	fprintf(out, "quarry %s\n", QUARRY_VERSION);
	if (!result)
		return;
	fprintf(out, "quarryd %s, process %lld, up for %lld s\n", text_of(result, "version"),
	    (long long)json_integer_value(json_object_get(result, "pid")),
	    (long long)json_integer_value(json_object_get(result, "uptime_seconds")));
	json_array_foreach(listeners, i, listener)
	    fprintf(out, "  listens on %s\n", json_string_value(listener));
}

/* What was asked for is there? */
int
show_check(const struct cli *cli, const json_t *result, struct error *error)
{
	json_t *rows;
	size_t count;

	if (cli->command->show != SHOW_SNAPSHOTS || !cli->filter.volume[0])
		return 0;
	rows = image_rows(json_object_get(result, "pools"), false, &cli->filter);
	count = json_array_size(rows);
	json_decref(rows);
	if (count == 0)
		return error_set(error, -ENOENT, "pool %s has no volume %s", cli->filter.pool,
		    cli->filter.volume);
	return 0;
}

const char *
show_would(const json_t *result)
{
	return text_of(result, "would");
}

/* Of what can be a dry run. */
static void
show_done(FILE *out, const struct cli *cli, const json_t *result)
{
	bool json = cli->options & OPTION_JSON;

	if (!(cli->options & OPTION_DRY_RUN) && json)
		print_json(out, json_incref(cli->done_json));
	else if (!(cli->options & OPTION_DRY_RUN))
		fprintf(out, "%s\n", cli->done_text);
	else if (json)
		print_json(out, must_json(json_pack("{s:i, s:s}", "schema", CLI_JSON_SCHEMA,
				    "would", show_would(result))));
	else
		fprintf(out, "would %s\n", show_would(result));
}

void
show_result(FILE *out, const struct cli *cli, const json_t *result)
{
	enum show show = cli->command->show;
	bool json = cli->options & OPTION_JSON;
	const json_t *pools = json_object_get(result, "pools");
	json_t *rows = NULL;

	switch (show) {
	case SHOW_DONE:
		show_done(out, cli, result);
		return;
	case SHOW_CHECK:
	case SHOW_DUMP:
	case SHOW_ATTACH: /* prints itself */
		return;
	case SHOW_VERSION:
		show_version(out, cli, result);
		return;
	case SHOW_POOL_STATUS:
		if (json)
			print_rows_json(out, "pools", pool_rows(pools));
		else
			show_status(out, cli, pools);
		return;
	case SHOW_POOLS:
		rows = pool_rows(pools);
		break;
	case SHOW_VOLUMES:
		rows = image_rows(pools, false, &cli->filter);
		break;
	case SHOW_SNAPSHOTS:
		rows = image_rows(pools, true, &cli->filter);
		break;
	case SHOW_DEVICES:
		rows = device_rows(pools, json);
		break;
	case SHOW_EXPORTS:
		rows = export_rows(pools, &cli->filter);
		break;
	case SHOW_SCRUBS:
		rows = scrub_rows(pools, json);
		break;
	case SHOW_TREE:
		rows = json ? tree_json(pools) : tree_rows(pools);
		break;
	case SHOW_DIFF:
		rows = json_incref(json_object_get(result, "ranges"));
		break;
	}
	if (!rows)
		rows = must_json(json_array());
	if (json) {
		print_rows_json(out, show_table(show)->plural, rows);
		return;
	}
	table_print(out, show_table(show), rows, cli);
	json_decref(rows);
}
