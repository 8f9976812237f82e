/* SPDX-License-Identifier: Apache-2.0 */
/* The commands: a table, and for each how its arguments become a request. */
#include "tools/quarry.h"

#include <stdarg.h>
#include <stdlib.h>

#include "core/base/size.h"
#include "core/base/uuid.h"
#include "frontends/admin/admin_json.h"
#include "metadata/format.h"

enum name_wanted {
	WANT_POOL,
	WANT_VOLUME,
	WANT_SNAPSHOT,
	WANT_IMAGE,
	WANT_POOL_OR_VOLUME
};

static char *printf_like(1, 2) text_new(const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	int len = vasprintf(&text, format, args);
	va_end(args);
	CHECK(len >= 0);
	return text;
}

static void
request_start(struct cli *cli, const char *verb)
{
	cli->request = must_json(json_object());
	must_put(cli->request, "quarry", json_integer(ADMIN_PROTO_VERSION));
	must_put(cli->request, "verb", json_string(verb));
	if (cli->options & OPTION_FORCE)
		must_put(cli->request, "force", json_true());
	if (cli->options & OPTION_DRY_RUN)
		must_put(cli->request, "dry_run", json_true());
}

/* {"schema": 1, "volumes": [{"name": …}, …]}: what --json prints after success. */
static void
done_start(struct cli *cli, const char *plural)
{
	cli->done_json = must_json(json_object());
	must_put(cli->done_json, "schema", json_integer(CLI_JSON_SCHEMA));
	must_put(cli->done_json, plural, json_array());
}

static void
done_add(struct cli *cli, const char *plural, const char *key, const char *value)
{
	json_t *object = must_json(json_object());

	must_put(object, key, json_string(value));
	must_append(json_object_get(cli->done_json, plural), object);
}

static void
done_one(struct cli *cli, const char *plural, const char *name)
{
	done_start(cli, plural);
	done_add(cli, plural, "name", name);
}

/* Checks that @text names what is wanted. */
static int
check_name(const char *text, enum name_wanted wanted, struct name *parsed, struct error *error)
{
	static const struct {
		const char *what;
		bool pool, volume, snapshot;
	} kinds[] = {
		[WANT_POOL] = { "a pool: write tank", true, false, false },
		[WANT_VOLUME] = { "a volume: write pool/volume", false, true, false },
		[WANT_SNAPSHOT] = { "a snapshot: write pool/volume@snapshot", false, false, true },
		[WANT_IMAGE] = { "a volume or snapshot: write pool/volume or pool/volume@snapshot",
		    false, true, true },
		[WANT_POOL_OR_VOLUME] = { "a pool or a volume: write pool or pool/volume", true,
		    true, false },
	};
	struct name name;
	bool fits;

	if (name_parse(&name, text, error))
		return -EINVAL;
	fits = name.snapshot[0] ? kinds[wanted].snapshot
	       : name.volume[0] ? kinds[wanted].volume
				: kinds[wanted].pool;
	if (!fits)
		return error_set(
		    error, -EINVAL, "\"%.100s\" does not name %s", text, kinds[wanted].what);
	if (parsed)
		*parsed = name;
	return 0;
}

static int
take_name(struct cli *cli, const char *key, size_t at, enum name_wanted wanted, struct error *error)
{
	int rc = check_name(cli->args[at], wanted, NULL, error);

	if (!rc)
		must_put(cli->request, key, json_string(cli->args[at]));
	return rc;
}

static int
take_size(struct cli *cli, size_t at, char text[SIZE_TEXT_BYTES], struct error *error)
{
	uint64_t bytes;
	int rc = size_parse(cli->args[at], &bytes, error);

	if (rc)
		return rc;
	if (bytes == 0)
		return error_set(error, -EINVAL, "a volume cannot have size 0");
	must_put(cli->request, "size_bytes", json_integer((json_int_t)bytes));
	size_format(round_up(bytes, FORMAT_BLOCK_BYTES), text); /* as the daemon does */
	return 0;
}

/* The daemon has another working directory: paths are sent absolute.  URIs stay as they are. */
static char *
full_path(const struct cli *cli, const char *path)
{
	bool absolute = path[0] == '/' || strstr(path, "://");

	return absolute ? xstrdup(path) : text_new("%s/%s", cli->cwd, path);
}

static int
take_devices(struct cli *cli, size_t first, struct error *error)
{
	json_t *devices = must_json(json_array());

	must_put(cli->request, "devices", devices);
	for (size_t i = first; i < cli->arg_count; i++) {
		const char *path = cli->args[i];
		char *full = full_path(cli, path);
		json_t *value = path[0] ? json_string(full) : NULL;

		free(full);
		if (!path[0])
			return error_set(error, -EINVAL, "the path of a device is empty");
		if (!value)
			return error_set(
			    error, -EINVAL, "the path of device %zu is not UTF-8", i - first + 1);
		must_append(devices, value);
	}
	return 0;
}

/* --- pools --- */

static void
take_new_file_options(struct cli *cli)
{
	if (cli->options & OPTION_SIZE)
		must_put(cli->request, "new_file_bytes", json_integer((json_int_t)cli->size_bytes));
	if (cli->options & OPTION_PREALLOCATE)
		must_put(cli->request, "preallocate", json_true());
}

/* POOL DEVICE… */
static int
take_new_devices(struct cli *cli, struct error *error)
{
	if (take_name(cli, "name", 0, WANT_POOL, error) || take_devices(cli, 1, error))
		return -EINVAL;
	take_new_file_options(cli);
	return 0;
}

static int
build_device_add(struct cli *cli, struct error *error)
{
	request_start(cli, "device.add");
	if (take_new_devices(cli, error))
		return -EINVAL;
	cli->done_text = text_new("pool %s has %zu device%s more", cli->args[0], cli->arg_count - 1,
	    cli->arg_count == 2 ? "" : "s");
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static bool
is_uuid(const char *text)
{
	return strlen(text) == UUID_TEXT_BYTES - 1 &&
	       strspn(text, "0123456789abcdef-") == UUID_TEXT_BYTES - 1;
}

/* A device of the pool: a path, URI or UUID. */
static int
take_device(struct cli *cli, size_t at, struct error *error)
{
	const char *name = cli->args[at];
	char *full = is_uuid(name) ? xstrdup(name) : full_path(cli, name);
	json_t *value = name[0] ? json_string(full) : NULL;

	free(full);
	if (!value)
		return error_set(error, -EINVAL, "the device is %s",
		    name[0] ? "not UTF-8" : "empty: name it by path, URI or UUID");
	must_put(cli->request, "device", value);
	return 0;
}

static int
build_device_remove(struct cli *cli, struct error *error)
{
	bool stop = cli->options & OPTION_STOP;

	request_start(cli, "device.remove");
	if (take_name(cli, "name", 0, WANT_POOL, error) || take_device(cli, 1, error))
		return -EINVAL;
	if (stop)
		must_put(cli->request, "stop", json_true());
	cli->done_text =
	    stop ? text_new("%s stays in pool %s", cli->args[1], cli->args[0])
		 : text_new("%s is being removed from pool %s; to see how far that is: quarry "
			    "device list %s",
		       cli->args[1], cli->args[0], cli->args[0]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_device_offline(struct cli *cli, struct error *error)
{
	request_start(cli, "device.offline");
	if (take_name(cli, "name", 0, WANT_POOL, error) || take_device(cli, 1, error))
		return -EINVAL;
	cli->done_text = text_new("%s is out of use; to bring it back: quarry device online %s %s",
	    cli->args[1], cli->args[0], is_uuid(cli->args[1]) ? "PATH" : cli->args[1]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_device_online(struct cli *cli, struct error *error)
{
	request_start(cli, "device.online");
	if (take_name(cli, "name", 0, WANT_POOL, error) || take_devices(cli, 1, error))
		return -EINVAL;
	cli->done_text = text_new("pool %s uses %s again, and copies what it missed; to see how "
				  "far that is: quarry pool status %s",
	    cli->args[0], cli->args[1], cli->args[0]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_device_grow(struct cli *cli, struct error *error)
{
	request_start(cli, "device.grow");
	if (take_name(cli, "name", 0, WANT_POOL, error) || take_device(cli, 1, error))
		return -EINVAL;
	cli->done_text = text_new("pool %s uses the new space of %s", cli->args[0], cli->args[1]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_device_replace(struct cli *cli, struct error *error)
{
	request_start(cli, "device.replace");
	if (take_name(cli, "name", 0, WANT_POOL, error) || take_device(cli, 1, error) ||
	    take_devices(cli, 2, error))
		return -EINVAL;
	take_new_file_options(cli);
	cli->done_text = text_new("%s takes the place of %s; to see how far that is: quarry "
				  "device list %s",
	    cli->args[2], cli->args[1], cli->args[0]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_pool_create(struct cli *cli, struct error *error)
{
	request_start(cli, "pool.create");
	if (take_new_devices(cli, error))
		return -EINVAL;
	if (cli->options & OPTION_COPIES)
		must_put(cli->request, "copies", json_integer(cli->copies));
	cli->done_text = text_new(
	    "pool %s created; next: quarry volume create %s/NAME SIZE", cli->args[0], cli->args[0]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_pool_import(struct cli *cli, struct error *error)
{
	const json_t *device;
	size_t i;

	request_start(cli, "pool.import");
	if (take_devices(cli, 0, error))
		return -EINVAL;
	cli->done_text = text_new("imported; see: quarry list");
	done_start(cli, "devices");
	json_array_foreach(json_object_get(cli->request, "devices"), i, device)
	    done_add(cli, "devices", "path", json_string_value(device));
	return 0;
}

static int
build_pool_export(struct cli *cli, struct error *error)
{
	request_start(cli, "pool.export");
	if (take_name(cli, "name", 0, WANT_POOL, error))
		return -EINVAL;
	cli->done_text = text_new("pool %s exported: its devices may be moved", cli->args[0]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_pool_destroy(struct cli *cli, struct error *error)
{
	request_start(cli, "pool.destroy");
	if (take_name(cli, "name", 0, WANT_POOL, error))
		return -EINVAL;
	cli->asks = true;
	cli->done_text = text_new("pool %s destroyed", cli->args[0]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_pool_set(struct cli *cli, struct error *error)
{
	unsigned first, second;
	int end = 0;

	request_start(cli, "pool.set");
	if (take_name(cli, "name", 0, WANT_POOL, error))
		return -EINVAL;
	if (sscanf(cli->args[1], "warn=%3u,%3u%n", &first, &second, &end) != 2 ||
	    cli->args[1][end] || first == 0 || first >= second || second > 100)
		return error_set(error, -EINVAL,
		    "a pool has one property: warn=FIRST,SECOND, two growing percentages as "
		    "warn=80,90, not \"%.60s\"",
		    cli->args[1]);
	must_put(cli->request, "warn_percent", json_pack("[ii]", (int)first, (int)second));
	cli->done_text = text_new("pool %s now has %s", cli->args[0], cli->args[1]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_scrub_start(struct cli *cli, struct error *error)
{
	request_start(cli, "scrub.start");
	if (take_name(cli, "name", 0, WANT_POOL, error))
		return -EINVAL;
	cli->done_text = text_new(
	    "pool %s is being scrubbed; see: quarry scrub status %s", cli->args[0], cli->args[0]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_pool_rebalance(struct cli *cli, struct error *error)
{
	bool stop = cli->options & OPTION_STOP;

	request_start(cli, "pool.rebalance");
	if (take_name(cli, "name", 0, WANT_POOL, error))
		return -EINVAL;
	if (stop)
		must_put(cli->request, "stop", json_true());
	cli->done_text =
	    stop ? text_new("pool %s is not rebalanced any more", cli->args[0])
		 : text_new("pool %s is being rebalanced; to see how far that is: quarry pool "
			    "status %s",
		       cli->args[0], cli->args[0]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

static int
build_scrub_pause(struct cli *cli, struct error *error)
{
	request_start(cli, "scrub.pause");
	if (take_name(cli, "name", 0, WANT_POOL, error))
		return -EINVAL;
	cli->done_text = text_new(
	    "the scrub of pool %s rests; quarry scrub start goes on with it", cli->args[0]);
	done_one(cli, "pools", cli->args[0]);
	return 0;
}

/* The lists: of one pool, or of all. */
static int
build_list(struct cli *cli, struct error *error)
{
	request_start(cli, "list");
	return cli->arg_count ? take_name(cli, "name", 0, WANT_POOL, error) : 0;
}

/* --- volumes --- */

static int
take_reserve(struct cli *cli, const char *value, struct error *error)
{
	if (strcmp(value, "full") != 0 && strcmp(value, "none") != 0)
		return error_set(error, -EINVAL, "reserve is full or none, not \"%.60s\"", value);
	must_put(cli->request, "reserve", json_string(value));
	return 0;
}

static int
take_block_size(struct cli *cli, const char *value, struct error *error)
{
	bool large = strcmp(value, "4096") == 0;

	if (!large && strcmp(value, "512") != 0)
		return error_set(error, -EINVAL, "block-size is 512 or 4096, not \"%.60s\"", value);
	must_put(cli->request, "block_size_bytes", json_integer(large ? 4096 : 512));
	return 0;
}

static int
build_volume_create(struct cli *cli, struct error *error)
{
	char size[SIZE_TEXT_BYTES];

	request_start(cli, "volume.create");
	if (take_name(cli, "name", 0, WANT_VOLUME, error) || take_size(cli, 1, size, error))
		return -EINVAL;
	if (cli->options & OPTION_RESERVE && take_reserve(cli, cli->reserve, error))
		return -EINVAL;
	if (cli->options & OPTION_BLOCK_SIZE && take_block_size(cli, cli->block_size, error))
		return -EINVAL;
	cli->done_text = text_new("volume %s created, %s", cli->args[0], size);
	done_one(cli, "volumes", cli->args[0]);
	return 0;
}

static int
build_volume_resize(struct cli *cli, struct error *error)
{
	char size[SIZE_TEXT_BYTES];

	request_start(cli, "volume.resize");
	if (take_name(cli, "name", 0, WANT_VOLUME, error) || take_size(cli, 1, size, error))
		return -EINVAL;
	cli->asks = cli->options & OPTION_FORCE; /* only then it may become smaller */
	cli->done_text = text_new("volume %s resized to %s", cli->args[0], size);
	done_one(cli, "volumes", cli->args[0]);
	return 0;
}

static int
build_volume_rename(struct cli *cli, struct error *error)
{
	struct name from, to;

	request_start(cli, "volume.rename");
	if (take_name(cli, "name", 0, WANT_VOLUME, error) ||
	    take_name(cli, "target", 1, WANT_VOLUME, error) ||
	    check_name(cli->args[0], WANT_VOLUME, &from, error) ||
	    check_name(cli->args[1], WANT_VOLUME, &to, error))
		return -EINVAL;
	if (strcmp(from.pool, to.pool) != 0)
		return error_set(error, -EINVAL, "a volume stays in its pool: write %.100s/%.100s",
		    from.pool, to.volume);
	cli->done_text = text_new("volume %s is now %s", cli->args[0], cli->args[1]);
	done_one(cli, "volumes", cli->args[1]);
	return 0;
}

static int
build_volume_delete(struct cli *cli, struct error *error)
{
	request_start(cli, "volume.delete");
	if (take_name(cli, "name", 0, WANT_VOLUME, error))
		return -EINVAL;
	cli->asks = true;
	cli->done_text = text_new("volume %s deleted", cli->args[0]);
	done_one(cli, "volumes", cli->args[0]);
	return 0;
}

static int
take_switch(struct cli *cli, const char *value, struct error *error)
{
	bool on = strcmp(value, "on") == 0;

	if (!on && strcmp(value, "off") != 0)
		return error_set(error, -EINVAL, "readonly is on or off, not \"%.60s\"", value);
	must_put(cli->request, "readonly", json_boolean(on));
	return 0;
}

static int
take_on_full(struct cli *cli, const char *value, struct error *error)
{
	if (strcmp(value, "error") != 0 && strcmp(value, "pause") != 0)
		return error_set(error, -EINVAL, "on-full is error or pause, not \"%.60s\"", value);
	must_put(cli->request, "on_full", json_string(value));
	return 0;
}

static int
take_on_full_timeout(struct cli *cli, const char *value, struct error *error)
{
	static const struct {
		const char *unit;
		unsigned seconds;
	} units[] = { { "s", 1 }, { "m", 60 }, { "h", 3600 }, { "d", 86400 } };
	char *end;
	unsigned long number = strtoul(value, &end, 10);

	if (strcmp(value, "none") == 0) {
		must_put(cli->request, "on_full_timeout_seconds", json_null());
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (value[0] >= '0' && value[0] <= '9' && strcmp(end, units[i].unit) == 0 &&
		    number >= 1 && number <= UINT32_MAX / units[i].seconds) {
			must_put(cli->request, "on_full_timeout_seconds",
			    json_integer((json_int_t)(number * units[i].seconds)));
			return 0;
		}
	return error_set(error, -EINVAL,
	    "on-full-timeout is a time as 30s, 5m, 2h, 1d, or none, not \"%.60s\"", value);
}

static const struct property {
	const char *name;
	const char *values;
	int (*take)(struct cli *cli, const char *value, struct error *error);
} properties[] = {
	{ "readonly", "on|off", take_switch },
	{ "on-full", "error|pause", take_on_full },
	{ "on-full-timeout", "TIME|none", take_on_full_timeout },
	{ "reserve", "full|none", take_reserve },
	{ "block-size", "512|4096", take_block_size },
};

static int
take_property(struct cli *cli, size_t at, struct error *error)
{
	const char *text = cli->args[at];
	const char *value = strchr(text, '=');
	char known[240];
	size_t len = 0;

	if (!value)
		return error_set(error, -EINVAL,
		    "\"%.60s\" sets nothing: write PROPERTY=VALUE, as readonly=on", text);
	for (size_t i = 1; i < at; i++)
		if (strncmp(cli->args[i], text, (size_t)(value - text) + 1) == 0)
			return error_set(error, -EINVAL, "%.*s is set twice: %.60s and %.60s",
			    (int)(value - text), text, cli->args[i], text);
	for (size_t i = 0; i < ARRAY_SIZE(properties); i++)
		if (strlen(properties[i].name) == (size_t)(value - text) &&
		    strncmp(properties[i].name, text, (size_t)(value - text)) == 0)
			return properties[i].take(cli, value + 1, error);
	for (size_t i = 0; i < ARRAY_SIZE(properties); i++)
		len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s=%s", i ? ", " : "",
		    properties[i].name, properties[i].values);
	return error_set(error, -EINVAL, "a volume has no property \"%.*s\"; there is: %s",
	    (int)min_u64((uint64_t)(value - text), 60), text, known);
}

static int
build_volume_set(struct cli *cli, struct error *error)
{
	char *done = NULL;

	request_start(cli, "volume.set");
	if (take_name(cli, "name", 0, WANT_VOLUME, error))
		return -EINVAL;
	for (size_t i = 1; i < cli->arg_count; i++) {
		char *longer;

		if (take_property(cli, i, error)) {
			free(done);
			return -EINVAL;
		}
		longer = text_new("%s%s%s", done ? done : "", done ? ", " : "", cli->args[i]);
		free(done);
		done = longer;
	}
	cli->done_text = text_new("volume %s now has %s", cli->args[0], done);
	free(done);
	done_one(cli, "volumes", cli->args[0]);
	return 0;
}

/* --- snapshots --- */

static int
take_snapshot_names(struct cli *cli, struct error *error)
{
	json_t *names = must_json(json_array());

	must_put(cli->request, "names", names);
	done_start(cli, "snapshots");
	if (cli->arg_count > ADMIN_NAMES_MAX)
		return error_set(error, -EINVAL, "%zu snapshots are too many for one command: %d",
		    cli->arg_count, ADMIN_NAMES_MAX);
	for (size_t i = 0; i < cli->arg_count; i++) {
		if (check_name(cli->args[i], WANT_SNAPSHOT, NULL, error))
			return -EINVAL;
		must_append(names, json_string(cli->args[i]));
		done_add(cli, "snapshots", "name", cli->args[i]);
	}
	return 0;
}

/* "snapshot tank/a@b", or "3 snapshots". */
static char *
snapshots_text(const struct cli *cli)
{
	if (cli->arg_count == 1)
		return text_new("snapshot %s", cli->args[0]);
	return text_new("%zu snapshots", cli->arg_count);
}

static int
build_snapshot_create(struct cli *cli, struct error *error)
{
	char *what;

	request_start(cli, "snapshot.create");
	if (take_snapshot_names(cli, error))
		return -EINVAL;
	what = snapshots_text(cli);
	cli->done_text = text_new("%s created", what);
	free(what);
	return 0;
}

static int
build_snapshot_delete(struct cli *cli, struct error *error)
{
	char *what;

	request_start(cli, "snapshot.delete");
	if (take_snapshot_names(cli, error))
		return -EINVAL;
	what = snapshots_text(cli);
	cli->asks = true;
	cli->done_text = text_new(
	    "%s deleted; the space is freed in the background, see: quarry pool list", what);
	free(what);
	return 0;
}

static int
build_snapshot_list(struct cli *cli, struct error *error)
{
	request_start(cli, "list");
	if (!cli->arg_count)
		return 0;
	if (check_name(cli->args[0], WANT_POOL_OR_VOLUME, &cli->filter, error))
		return -EINVAL;
	must_put(cli->request, "name", json_string(cli->filter.pool));
	return 0;
}

/* --- exports --- */

/* The protocol, which is to be said since there will be others, and the target. */
static int
take_export(struct cli *cli, struct error *error)
{
	if (take_name(cli, "name", 0, WANT_VOLUME, error))
		return -EINVAL;
	if (!(cli->options & OPTION_ISCSI))
		return error_set(error, -EINVAL, "say over which protocol: --iscsi");
	if (cli->target)
		must_put(cli->request, "export_target", json_string(cli->target));
	return 0;
}

static int
build_export_add(struct cli *cli, struct error *error)
{
	char *end;

	request_start(cli, "export.add");
	if (take_export(cli, error))
		return -EINVAL;
	if (cli->lun) {
		unsigned long lun = strtoul(cli->lun, &end, 10);

		if (cli->lun[0] < '0' || cli->lun[0] > '9' || *end || lun > EXPORT_LUN_MAX)
			return error_set(error, -EINVAL,
			    "a LUN is a number from 0 to %u, not \"%.40s\"", EXPORT_LUN_MAX,
			    cli->lun);
		must_put(cli->request, "lun", json_integer((json_int_t)lun));
	}
	if (cli->allow)
		must_put(cli->request, "allow", json_incref(cli->allow));
	if (cli->chap_user)
		must_put(cli->request, "chap_user", json_string(cli->chap_user));
	if (cli->chap_mutual_user)
		must_put(cli->request, "chap_mutual_user", json_string(cli->chap_mutual_user));
	if ((cli->chap_secret_file && !cli->chap_user) ||
	    (cli->chap_mutual_secret_file && !cli->chap_mutual_user))
		return error_set(
		    error, -EINVAL, "a secret needs a user: --chap USER, or --chap-mutual USER");
	if (cli->chap_mutual_user && !cli->chap_user)
		return error_set(error, -EINVAL, "--chap-mutual needs --chap USER, too");
	cli->done_text = text_new("volume %s exported; see: quarry export list", cli->args[0]);
	done_one(cli, "volumes", cli->args[0]);
	return 0;
}

static int
build_export_remove(struct cli *cli, struct error *error)
{
	request_start(cli, "export.remove");
	if (take_export(cli, error))
		return -EINVAL;
	cli->asks = true;
	cli->done_text = text_new("an export of volume %s removed", cli->args[0]);
	done_one(cli, "volumes", cli->args[0]);
	return 0;
}

static int
build_clone(struct cli *cli, struct error *error)
{
	request_start(cli, "clone");
	if (take_name(cli, "name", 0, WANT_SNAPSHOT, error) ||
	    take_name(cli, "target", 1, WANT_VOLUME, error))
		return -EINVAL;
	cli->done_text = text_new("volume %s created, a clone of %s", cli->args[1], cli->args[0]);
	done_one(cli, "volumes", cli->args[1]);
	return 0;
}

static int
build_rollback(struct cli *cli, struct error *error)
{
	struct name name;
	char volume[NAME_TEXT_SIZE];

	request_start(cli, "rollback");
	if (take_name(cli, "name", 0, WANT_SNAPSHOT, error) ||
	    check_name(cli->args[0], WANT_SNAPSHOT, &name, error))
		return -EINVAL;
	name.snapshot[0] = '\0';
	name_format(&name, volume);
	cli->asks = true;
	cli->done_text = text_new("volume %s is as it was at %s", volume, cli->args[0]);
	done_one(cli, "volumes", volume);
	return 0;
}

static int
build_diff(struct cli *cli, struct error *error)
{
	request_start(cli, "diff");
	if (take_name(cli, "name", 0, WANT_IMAGE, error) ||
	    take_name(cli, "target", 1, WANT_IMAGE, error))
		return -EINVAL;
	return 0;
}

static int
build_version(struct cli *cli, struct error *error)
{
	request_start(cli, "daemon.info");
	return 0;
}

/* Asks no daemon. */
static int
build_offline(struct cli *cli, struct error *error)
{
	return 0;
}

const struct cli_command cli_commands[] = {
	{ "pool", "create", "POOL DEVICE…", "Make a pool of disks or files.",
	    "Devices that hold a filesystem, a partition table or a pool are refused without "
	    "--force.\n"
	    "Files that do not exist are made with --size SIZE, each that large.\n"
	    "Files are sparse, and get their space as it is needed, which is slow; with "
	    "--preallocate\n"
	    "they keep all of it from the beginning, and it is written once, in the background.\n"
	    "With --copies 2 or 3 everything lies on so many devices, of whatever sizes.\n\n"
	    "  quarry pool create tank /dev/sdb /dev/sdc\n"
	    "  quarry pool create safe --copies 2 /dev/sdb /dev/sdc /dev/sdd\n"
	    "  quarry pool create demo disk0.img disk1.img --size 20G\n",
	    OPTION_SIZE | OPTION_PREALLOCATE | OPTION_COPIES | OPTION_FORCE, 2,
	    1 + ADMIN_DEVICES_MAX, SHOW_DONE, build_pool_create },
	{ "pool", "import", "DEVICE…", "Take pools into service that were made before.",
	    "Name every device of each pool.  Of a pool that keeps copies some may be missing: if "
	    "the "
	    "others\ncannot know whether they have the newest data, --force imports it all the "
	    "same.\n"
	    "A pool that another machine has in service is refused, too; if that one cannot write "
	    "to the\ndevices any more, --force imports it.\n",
	    OPTION_FORCE, 1, ADMIN_DEVICES_MAX, SHOW_DONE, build_pool_import },
	{ "pool", "export", "POOL", "Take a pool out of service; it can be imported again.",
	    "Refused while clients are connected, unless by --force.\n", OPTION_FORCE, 1, 1,
	    SHOW_DONE, build_pool_export },
	{ "pool", "list", "[POOL]", "List pools, and how far background deletion is.", NULL,
	    OPTIONS_LIST, 0, 1, SHOW_POOLS, build_list },
	{ "pool", "status", "[POOL]", "Tell how pools and their devices are.", NULL, OPTION_EXACT,
	    0, 1, SHOW_POOL_STATUS, build_list },
	{ "pool", "set", "POOL warn=FIRST,SECOND", "Change when a pool warns that it fills up.",
	    "The log and quarry pool status warn when so many percent are taken; the default is "
	    "80 and 90.\n\n"
	    "  quarry pool set tank warn=70,85\n",
	    0, 2, 2, SHOW_DONE, build_pool_set },
	{ "pool", "rebalance", "POOL", "Spread what is there over all devices.",
	    "After devices were added or have grown.  In the background, and gently; --stop ends "
	    "it.\nWithout it new data goes to the emptier devices first.\n",
	    OPTION_STOP, 1, 1, SHOW_DONE, build_pool_rebalance },
	{ "pool", "destroy", "POOL", "Give up a pool and everything in it.",
	    "Refused while it has volumes or clients, unless by --force.\n",
	    OPTION_FORCE | OPTIONS_DESTRUCTIVE, 1, 1, SHOW_DONE, build_pool_destroy },
	{ "device", "add", "POOL DEVICE…", "Give a pool more space, while it is in use.",
	    "Devices that hold something are refused without --force; files that do not exist are "
	    "made\nwith --size SIZE, as by quarry pool create.\n\n"
	    "  quarry device add tank /dev/sdd\n",
	    OPTION_SIZE | OPTION_PREALLOCATE | OPTION_FORCE, 2, 1 + ADMIN_DEVICES_MAX, SHOW_DONE,
	    build_device_add },
	{ "device", "remove", "POOL DEVICE", "Take a device out of a pool, while it is in use.",
	    "What lies on it moves to the others in the background; then its label is wiped.  It "
	    "may take\nlong, goes on over a restart, and quarry device list shows how far it is; "
	    "--stop ends it, and\nthe device stays.  Refused if the others could not hold all "
	    "data and copies.  A device that was\nleft out, or is missing, is forgotten at once.  "
	    "DEVICE is a path, a URI or a UUID.\n\n"
	    "  quarry device remove tank /dev/sdb\n",
	    OPTION_STOP, 2, 2, SHOW_DONE, build_device_remove },
	{ "device", "replace", "POOL DEVICE NEW", "Put another device in the place of one.",
	    "As quarry device add NEW, and then quarry device remove DEVICE; also of a device that "
	    "failed.\n\n"
	    "  quarry device replace tank /dev/sdb /dev/sdd\n",
	    OPTION_SIZE | OPTION_PREALLOCATE | OPTION_FORCE, 3, 3, SHOW_DONE,
	    build_device_replace },
	{ "device", "offline", "POOL DEVICE", "Take a device out of use for a while.",
	    "Of pools that keep copies: the others serve, and the pool is degraded.  When the "
	    "command ends the\ndisk may be pulled.  Refused if something lies on it alone.  "
	    "DEVICE is a path, a URI or a UUID.\n\n"
	    "  quarry device offline tank /dev/sdb\n",
	    0, 2, 2, SHOW_DONE, build_device_offline },
	{ "device", "online", "POOL PATH", "Bring a device back that is out of use.",
	    "One that was taken offline, failed and was mended, or was missing at an import; PATH "
	    "is where it is\nnow.  Only what it missed is copied, in the background.  A device "
	    "that was in service without the\nothers is refused.\n\n"
	    "  quarry device online tank /dev/sdb\n",
	    0, 2, 2, SHOW_DONE, build_device_online },
	{ "device", "grow", "POOL DEVICE", "Use the space of a device that has become larger.",
	    "First enlarge the disk, or the file, while it is in use.\n\n"
	    "  truncate -s 40G disk0.img && quarry device grow tank disk0.img\n",
	    0, 2, 2, SHOW_DONE, build_device_grow },
	{ "device", "list", "[POOL]", "List the devices of pools.", NULL, OPTIONS_LIST, 0, 1,
	    SHOW_DEVICES, build_list },
	{ "scrub", "start", "POOL", "Read all data of a pool, and compare it with its checksums.",
	    "In the background, and gently; over a restart it goes on where it was.  After a pause "
	    "it\ngoes on, too.\n",
	    0, 1, 1, SHOW_DONE, build_scrub_start },
	{ "scrub", "pause", "POOL", "Have a scrub rest.", NULL, 0, 1, 1, SHOW_DONE,
	    build_scrub_pause },
	{ "scrub", "status", "[POOL]", "Tell how far scrubs are, and what they found.",
	    "quarry pool status names the damaged blocks.\n", OPTIONS_LIST, 0, 1, SHOW_SCRUBS,
	    build_list },
	{ "volume", "create", "POOL/VOLUME SIZE",
	    "Make a thin volume: it takes space as it is written.",
	    "With --reserve full room for all of it is held back: other volumes find the pool full "
	    "before\nthey take it.  A pool that has not so much left refuses, and so it does a "
	    "snapshot "
	    "of the\nvolume, which makes it share what it has written.\n\n"
	    "  quarry volume create tank/vm1 10T\n"
	    "  quarry volume create tank/db 100G --reserve full\n",
	    OPTION_RESERVE | OPTION_BLOCK_SIZE, 2, 2, SHOW_DONE, build_volume_create },
	{ "volume", "list", "[POOL]", "List volumes.", NULL, OPTIONS_LIST, 0, 1, SHOW_VOLUMES,
	    build_list },
	{ "volume", "resize", "POOL/VOLUME SIZE", "Change a volume's size.",
	    "Smaller only with --force: what lies beyond the new end is lost.\n",
	    OPTION_FORCE | OPTIONS_DESTRUCTIVE, 2, 2, SHOW_DONE, build_volume_resize },
	{ "volume", "rename", "POOL/VOLUME POOL/NEW", "Give a volume another name.",
	    "Its snapshots go with it.\n", 0, 2, 2, SHOW_DONE, build_volume_rename },
	{ "volume", "delete", "POOL/VOLUME", "Delete a volume.",
	    "Refused while it has snapshots or clients, unless by --force, which deletes its "
	    "snapshots,\n"
	    "too.  The space is freed in the background.\n",
	    OPTION_FORCE | OPTIONS_DESTRUCTIVE, 1, 1, SHOW_DONE, build_volume_delete },
	{ "volume", "set", "POOL/VOLUME PROPERTY=VALUE…", "Change a volume's properties.",
	    "readonly=on|off          refuse all writes\n"
	    "on-full=error|pause      what writes do that find the pool full: fail, or wait for "
	    "room\n"
	    "on-full-timeout=TIME     how long they wait at most (30s, 5m, 2h); none, the default: "
	    "no limit\n"
	    "reserve=full|none        hold back room for all of it\n"
	    "block-size=512|4096      the logical blocks that clients see; not while one is "
	    "connected\n\n"
	    "  quarry volume set tank/vm1 on-full=pause on-full-timeout=1h\n",
	    0, 2, 8, SHOW_DONE, build_volume_set },
	{ "snapshot", "create", "POOL/VOLUME@SNAPSHOT…",
	    "Keep volumes as they are now; several at one atomic point.",
	    "  quarry snapshot create tank/vm1@monday tank/db@monday\n", 0, 1, SIZE_MAX, SHOW_DONE,
	    build_snapshot_create },
	{ "snapshot", "list", "[POOL[/VOLUME]]", "List snapshots.", NULL, OPTIONS_LIST, 0, 1,
	    SHOW_SNAPSHOTS, build_snapshot_list },
	{ "snapshot", "delete", "POOL/VOLUME@SNAPSHOT…", "Delete snapshots.",
	    "The space is freed in the background; quarry pool list shows how far it is.\n",
	    OPTIONS_DESTRUCTIVE, 1, SIZE_MAX, SHOW_DONE, build_snapshot_delete },
	{ "export", "add", "POOL/VOLUME", "Say who may use a volume over iSCSI.",
	    "The export lies in the pool and travels with it.  Without one every initiator may use "
	    "a "
	    "volume,\nas LUN 0 of a target of its own.  With --chap initiators must know a secret "
	    "of "
	    "12 bytes or\nmore, the first line of a file that others cannot read (- is standard "
	    "input); without a file\nit is asked for.\n\n"
	    "  quarry export add tank/vm1 --iscsi --allow iqn.2004-10.org.example:host\n"
	    "  quarry export add tank/db --iscsi --target iqn.2026-11.org.example:store --lun 3 "
	    "--chap host\n",
	    OPTION_ISCSI | OPTION_TARGET | OPTION_LUN | OPTION_ALLOW | OPTION_CHAP |
		OPTION_CHAP_SECRET_FILE | OPTION_CHAP_MUTUAL | OPTION_CHAP_MUTUAL_SECRET_FILE,
	    1, 1, SHOW_DONE, build_export_add },
	{ "export", "remove", "POOL/VOLUME", "Take an export of a volume back.",
	    "Sessions that had it are ended.  After the last one is removed the volume is offered "
	    "to "
	    "all\nagain.\n",
	    OPTION_ISCSI | OPTION_TARGET | OPTIONS_DESTRUCTIVE, 1, 1, SHOW_DONE,
	    build_export_remove },
	{ "export", "list", "[POOL[/VOLUME]]", "List exports.", NULL, OPTIONS_LIST, 0, 1,
	    SHOW_EXPORTS, build_snapshot_list },
	{ "clone", NULL, "POOL/VOLUME@SNAPSHOT POOL/NEW",
	    "Make a volume that begins as a snapshot is.",
	    "  quarry clone tank/vm1@monday tank/test\n", 0, 2, 2, SHOW_DONE, build_clone },
	{ "rollback", NULL, "POOL/VOLUME@SNAPSHOT", "Make a volume as it was at a snapshot.",
	    "What was written since is lost; other snapshots stay.  Refused while clients are "
	    "connected,\nunless by --force: what they have cached is of the past then.\n",
	    OPTION_FORCE | OPTIONS_DESTRUCTIVE, 1, 1, SHOW_DONE, build_rollback },
	{ "diff", NULL, "FROM TO", "List the ranges that changed between two volumes or snapshots.",
	    "  quarry diff tank/vm1@monday tank/vm1\n\n"
	    "A range is data to copy, or a hole: zeroes in TO.\n",
	    OPTIONS_LIST, 2, 2, SHOW_DIFF, build_diff },
	{ "list", NULL, "[POOL]", "Show everything as a tree: pools, volumes, snapshots, clones.",
	    "used is what an object maps; unique is what deleting it alone would free.\n",
	    OPTIONS_LIST, 0, 1, SHOW_TREE, build_list },
	{ "check", NULL, "DEVICE…", "Check, and repair, a pool that is not in service.",
	    "Name every device of the pool.  Looks at labels, superblocks, slab table, catalog, "
	    "log and\nall maps, with --data also at all data, and writes nothing.\n\n"
	    "--repair then makes again what can be derived from the rest: labels and superblocks "
	    "from\ntheir twins, the slab table and what is marked as in use from slabs and maps.  "
	    "It never\nwrites to data.\n\n"
	    "Exit status: 0 clean (by now), 1 not, 3 the devices cannot be looked at.\n",
	    OPTION_DATA | OPTION_REPAIR, 1, POOL_DEVICES_MAX, SHOW_CHECK, build_offline },
	{ "dump", NULL, "DEVICE…", "Print what is on the devices of a pool that is not in service.",
	    "--what chooses: label, superblocks, devices, table, log (all batch headers), packed "
	    "(the\ndirectories of packed slabs, old ones too), catalog, or map:IMAGE (the map of "
	    "an "
	    "image that\nthe catalog shows).  Without it, all but log, packed and maps.\n",
	    OPTION_WHAT, 1, POOL_DEVICES_MAX, SHOW_DUMP, build_offline },
	{ "attach", NULL, "URI [DEVICE]", "Attach an NBD export to this machine's kernel.",
	    "As DEVICE (/dev/nbd0 …), or one that is free; until SIGTERM or SIGINT.  Requests wait "
	    "while the\n"
	    "server is away, for up to a day, and go on when it is back: a restart of the server "
	    "is a\n"
	    "pause.  Needs root and no daemon here; the kernel speaks no TLS.\n",
	    0, 1, 2, SHOW_ATTACH, build_offline },
	{ "version", NULL, "", "Print the versions of command and daemon.",
	    "If no daemon answers that of the command only, and the exit status is 1.\n", 0, 0, 0,
	    SHOW_VERSION, build_version },
};

const size_t cli_command_count = ARRAY_SIZE(cli_commands);
