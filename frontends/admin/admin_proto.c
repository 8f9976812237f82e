/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests: two tables say everything, the verbs (which fields each must and may have, and what its
 * names must name) and the fields (how each is taken apart).
 */
#include "frontends/admin/admin_proto.h"

#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

enum {
	FIELD_NAME = 1 << 0,
	FIELD_TARGET = 1 << 1,
	FIELD_NAMES = 1 << 2,
	FIELD_DEVICES = 1 << 3,
	FIELD_NEW_FILE_BYTES = 1 << 4,
	FIELD_SIZE_BYTES = 1 << 5,
	FIELD_READONLY = 1 << 6,
	FIELD_FORCE = 1 << 7,
	FIELD_PREALLOCATE = 1 << 8,
	FIELD_ON_FULL = 1 << 9,
	FIELD_ON_FULL_TIMEOUT = 1 << 10,
	FIELD_RESERVE = 1 << 11,
	FIELD_COPIES = 1 << 12,
	FIELD_EXPORT_TARGET = 1 << 13,
	FIELD_LUN = 1 << 14,
	FIELD_ALLOW = 1 << 15,
	FIELD_CHAP_USER = 1 << 16,
	FIELD_CHAP_SECRET = 1 << 17,
	FIELD_CHAP_MUTUAL_USER = 1 << 18,
	FIELD_CHAP_MUTUAL_SECRET = 1 << 19,
	FIELD_WARN_PERCENT = 1 << 20,
	FIELD_DEVICE = 1 << 21,
	FIELD_STOP = 1 << 22,
	FIELD_BLOCK_SIZE = 1 << 23,
	FIELD_DRY_RUN = 1 << 24,
};

enum name_kind {
	NAME_NONE,
	NAME_POOL,
	NAME_VOLUME,
	NAME_SNAPSHOT,
	NAME_IMAGE, /* a volume or a snapshot */
};

struct verb {
	const char *text;
	enum admin_message_kind kind;
	enum admin_verb verb;
	unsigned required;
	unsigned optional;
	enum name_kind name;   /* of "name" and of each of "names" */
	enum name_kind target; /* of "target" */
};

static const struct verb verbs[] = {
	{ "pool.create", ADMIN_MESSAGE_TARGET, ADMIN_POOL_CREATE, FIELD_NAME | FIELD_DEVICES,
	    FIELD_NEW_FILE_BYTES | FIELD_PREALLOCATE | FIELD_COPIES | FIELD_FORCE, NAME_POOL,
	    NAME_NONE },
	{ "device.add", ADMIN_MESSAGE_TARGET, ADMIN_DEVICE_ADD, FIELD_NAME | FIELD_DEVICES,
	    FIELD_NEW_FILE_BYTES | FIELD_PREALLOCATE | FIELD_FORCE, NAME_POOL, NAME_NONE },
	{ "device.remove", ADMIN_MESSAGE_TARGET, ADMIN_DEVICE_REMOVE, FIELD_NAME | FIELD_DEVICE,
	    FIELD_STOP, NAME_POOL, NAME_NONE },
	{ "device.offline", ADMIN_MESSAGE_TARGET, ADMIN_DEVICE_OFFLINE, FIELD_NAME | FIELD_DEVICE,
	    0, NAME_POOL, NAME_NONE },
	{ "device.online", ADMIN_MESSAGE_TARGET, ADMIN_DEVICE_ONLINE, FIELD_NAME | FIELD_DEVICES, 0,
	    NAME_POOL, NAME_NONE },
	{ "device.grow", ADMIN_MESSAGE_TARGET, ADMIN_DEVICE_GROW, FIELD_NAME | FIELD_DEVICE, 0,
	    NAME_POOL, NAME_NONE },
	{ "device.replace", ADMIN_MESSAGE_TARGET, ADMIN_DEVICE_REPLACE,
	    FIELD_NAME | FIELD_DEVICE | FIELD_DEVICES,
	    FIELD_NEW_FILE_BYTES | FIELD_PREALLOCATE | FIELD_FORCE, NAME_POOL, NAME_NONE },
	{ "pool.import", ADMIN_MESSAGE_TARGET, ADMIN_POOL_IMPORT, FIELD_DEVICES, FIELD_FORCE,
	    NAME_NONE, NAME_NONE },
	{ "pool.export", ADMIN_MESSAGE_TARGET, ADMIN_POOL_EXPORT, FIELD_NAME, FIELD_FORCE,
	    NAME_POOL, NAME_NONE },
	{ "pool.destroy", ADMIN_MESSAGE_TARGET, ADMIN_POOL_DESTROY, FIELD_NAME,
	    FIELD_FORCE | FIELD_DRY_RUN, NAME_POOL, NAME_NONE },
	{ "volume.create", ADMIN_MESSAGE_TARGET, ADMIN_VOLUME_CREATE, FIELD_NAME | FIELD_SIZE_BYTES,
	    FIELD_RESERVE | FIELD_BLOCK_SIZE, NAME_VOLUME, NAME_NONE },
	{ "volume.resize", ADMIN_MESSAGE_TARGET, ADMIN_VOLUME_RESIZE, FIELD_NAME | FIELD_SIZE_BYTES,
	    FIELD_FORCE | FIELD_DRY_RUN, NAME_VOLUME, NAME_NONE },
	{ "volume.rename", ADMIN_MESSAGE_TARGET, ADMIN_VOLUME_RENAME, FIELD_NAME | FIELD_TARGET, 0,
	    NAME_VOLUME, NAME_VOLUME },
	{ "volume.delete", ADMIN_MESSAGE_TARGET, ADMIN_VOLUME_DELETE, FIELD_NAME,
	    FIELD_FORCE | FIELD_DRY_RUN, NAME_VOLUME, NAME_NONE },
	{ "volume.set", ADMIN_MESSAGE_TARGET, ADMIN_VOLUME_SET, FIELD_NAME,
	    FIELD_READONLY | FIELD_ON_FULL | FIELD_ON_FULL_TIMEOUT | FIELD_RESERVE |
		FIELD_BLOCK_SIZE,
	    NAME_VOLUME, NAME_NONE },
	{ "export.add", ADMIN_MESSAGE_TARGET, ADMIN_EXPORT_ADD, FIELD_NAME,
	    FIELD_EXPORT_TARGET | FIELD_LUN | FIELD_ALLOW | FIELD_CHAP_USER | FIELD_CHAP_SECRET |
		FIELD_CHAP_MUTUAL_USER | FIELD_CHAP_MUTUAL_SECRET,
	    NAME_VOLUME, NAME_NONE },
	{ "export.remove", ADMIN_MESSAGE_TARGET, ADMIN_EXPORT_REMOVE, FIELD_NAME,
	    FIELD_EXPORT_TARGET | FIELD_DRY_RUN, NAME_VOLUME, NAME_NONE },
	{ "snapshot.create", ADMIN_MESSAGE_TARGET, ADMIN_SNAPSHOT_CREATE, FIELD_NAMES, 0,
	    NAME_SNAPSHOT, NAME_NONE },
	{ "snapshot.delete", ADMIN_MESSAGE_TARGET, ADMIN_SNAPSHOT_DELETE, FIELD_NAMES,
	    FIELD_DRY_RUN, NAME_SNAPSHOT, NAME_NONE },
	{ "clone", ADMIN_MESSAGE_TARGET, ADMIN_CLONE, FIELD_NAME | FIELD_TARGET, 0, NAME_SNAPSHOT,
	    NAME_VOLUME },
	{ "rollback", ADMIN_MESSAGE_TARGET, ADMIN_ROLLBACK, FIELD_NAME, FIELD_FORCE | FIELD_DRY_RUN,
	    NAME_SNAPSHOT, NAME_NONE },
	{ "diff", ADMIN_MESSAGE_TARGET, ADMIN_DIFF, FIELD_NAME | FIELD_TARGET, 0, NAME_IMAGE,
	    NAME_IMAGE },
	{ "pool.set", ADMIN_MESSAGE_TARGET, ADMIN_POOL_SET, FIELD_NAME | FIELD_WARN_PERCENT, 0,
	    NAME_POOL, NAME_NONE },
	{ "pool.rebalance", ADMIN_MESSAGE_TARGET, ADMIN_POOL_REBALANCE, FIELD_NAME, FIELD_STOP,
	    NAME_POOL, NAME_NONE },
	{ "scrub.start", ADMIN_MESSAGE_TARGET, ADMIN_SCRUB_START, FIELD_NAME, 0, NAME_POOL,
	    NAME_NONE },
	{ "scrub.pause", ADMIN_MESSAGE_TARGET, ADMIN_SCRUB_PAUSE, FIELD_NAME, 0, NAME_POOL,
	    NAME_NONE },
	{ "list", ADMIN_MESSAGE_TARGET, ADMIN_LIST, 0, FIELD_NAME, NAME_POOL, NAME_NONE },
	{ "daemon.info", ADMIN_MESSAGE_DAEMON_INFO, 0, 0, 0, NAME_NONE, NAME_NONE },
};

static const char *
type_name(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "an integer";
	case JSON_REAL:
		return "a number with a fraction";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
		return "null";
	}
	return "?";
}

static int
wrong_type(const char *key, const char *wanted, const json_t *value, struct error *error)
{
	return error_set(
	    error, -EPROTO, "\"%s\" must be %s, not %s", key, wanted, type_name(value));
}

static int
decode_one_name(const char *key, const json_t *value, enum name_kind kind, struct name *name,
    struct error *error)
{
	static const struct {
		const char *what;
		bool volume;
		bool snapshot;
	} kinds[] = {
		[NAME_POOL] = { "a pool", false, false },
		[NAME_VOLUME] = { "a volume, as pool/volume", true, false },
		[NAME_SNAPSHOT] = { "a snapshot, as pool/volume@snapshot", true, true },
		[NAME_IMAGE] = { "a volume or a snapshot, as pool/volume@snapshot", true, true },
	};
	int rc;

	if (!json_is_string(value))
		return wrong_type(key, "a string", value, error);
	rc = name_parse(name, json_string_value(value), error);
	if (rc)
		return rc;

	bool volume = name->volume[0] != '\0';
	bool snapshot = name->snapshot[0] != '\0';

	if (volume != kinds[kind].volume ||
	    (snapshot != kinds[kind].snapshot && kind != NAME_IMAGE))
		return error_set(error, -EINVAL, "\"%s\" must name %s, not \"%.100s\"", key,
		    kinds[kind].what, json_string_value(value));
	return 0;
}

static int
decode_name(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_one_name("name", value, verb->name, &request->name, error);
}

static int
decode_target(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_one_name("target", value, verb->target, &request->target, error);
}

/* Checks that @value is an array of 1 to @count_max strings. */
static int
check_strings(const char *key, const json_t *value, size_t count_max, struct error *error)
{
	const json_t *item;
	size_t i;

	if (!json_is_array(value))
		return wrong_type(key, "an array of strings", value, error);
	if (json_array_size(value) == 0)
		return error_set(error, -EINVAL, "\"%s\" must not be empty", key);
	if (json_array_size(value) > count_max)
		return error_set(error, -EINVAL, "\"%s\" has %zu entries; at most %zu are allowed",
		    key, json_array_size(value), count_max);
	json_array_foreach(value, i, item)
	{
		if (!json_is_string(item))
			return error_set(error, -EPROTO, "\"%s\"[%zu] must be a string, not %s",
			    key, i, type_name(item));
	}
	return 0;
}

static int
decode_names(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	int rc = check_strings("names", value, ADMIN_NAMES_MAX, error);
	const json_t *item;
	size_t i;

	if (rc)
		return rc;
	request->names = xcalloc(json_array_size(value), sizeof(*request->names));
	request->name_count = json_array_size(value);
	json_array_foreach(value, i, item)
	{
		rc = decode_one_name("names", item, verb->name, &request->names[i], error);
		if (rc)
			return rc;
	}
	return 0;
}

static int
decode_devices(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	int rc = check_strings("devices", value, ADMIN_DEVICES_MAX, error);
	const json_t *item;
	size_t i;

	if (rc)
		return rc;
	request->devices = xcalloc(json_array_size(value), sizeof(*request->devices));
	json_array_foreach(value, i, item)
	{
		const char *path = json_string_value(item);

		if (path[0] != '/' && !strstr(path, "://"))
			return error_set(error, -EINVAL,
			    "\"devices\"[%zu] must be an absolute path, not \"%.100s\"", i, path);
		request->devices[i] = xstrdup(path);
		request->device_count = i + 1;
	}
	if (verb->verb == ADMIN_DEVICE_REPLACE && request->device_count != 1)
		return error_set(error, -EINVAL,
		    "\"devices\" must be one device, which takes the place of \"device\", not %zu",
		    request->device_count);
	if (verb->verb == ADMIN_DEVICE_ONLINE && request->device_count != 1)
		return error_set(error, -EINVAL,
		    "\"devices\" must be one device, which comes back, not %zu",
		    request->device_count);
	return 0;
}

static int
decode_device(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	if (!json_is_string(value))
		return wrong_type("device", "a string (a path, URI or UUID)", value, error);
	if (json_string_length(value) == 0)
		return error_set(error, -EINVAL, "\"device\" is empty");
	request->device = xstrdup(json_string_value(value));
	return 0;
}

static int
decode_bytes(const char *key, const json_t *value, uint64_t *bytes, struct error *error)
{
	if (!json_is_integer(value))
		return wrong_type(key, "an integer (bytes)", value, error);
	if (json_integer_value(value) < 0)
		return error_set(error, -EINVAL, "\"%s\" must not be negative", key);
	*bytes = (uint64_t)json_integer_value(value);
	return 0;
}

static int
decode_new_file_bytes(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_bytes("new_file_bytes", value, &request->new_file_bytes, error);
}

static int
decode_size_bytes(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_bytes("size_bytes", value, &request->size_bytes, error);
}

static int
decode_bool(const char *key, const json_t *value, bool *flag, struct error *error)
{
	if (!json_is_boolean(value))
		return wrong_type(key, "a boolean", value, error);
	*flag = json_is_true(value);
	return 0;
}

static int
decode_stop(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_bool("stop", value, &request->stop, error);
}

static int
decode_readonly(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	request->set |= ADMIN_SET_READONLY;
	return decode_bool("readonly", value, &request->readonly, error);
}

/* One of two words: the first is false. */
static int
decode_choice(const char *key, const json_t *value, const char *no, const char *yes, bool *choice,
    struct error *error)
{
	if (!json_is_string(value))
		return wrong_type(key, "a string", value, error);
	*choice = strcmp(json_string_value(value), yes) == 0;
	if (!*choice && strcmp(json_string_value(value), no) != 0)
		return error_set(error, -EINVAL, "\"%s\" must be \"%s\" or \"%s\", not \"%.60s\"",
		    key, no, yes, json_string_value(value));
	return 0;
}

static int
decode_on_full(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	request->set |= ADMIN_SET_ON_FULL;
	return decode_choice("on_full", value, "error", "pause", &request->pauses_when_full, error);
}

static int
decode_reserve(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	request->set |= ADMIN_SET_RESERVE;
	return decode_choice("reserve", value, "none", "full", &request->reserved, error);
}

static int
decode_block_size(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	if (!json_is_integer(value))
		return wrong_type("block_size_bytes", "an integer", value, error);
	if (json_integer_value(value) != 512 && json_integer_value(value) != 4096)
		return error_set(error, -EINVAL, "\"block_size_bytes\" must be 512 or 4096");
	request->set |= ADMIN_SET_BLOCK_SIZE;
	request->block_bytes = (uint32_t)json_integer_value(value);
	return 0;
}

static int
decode_warn_percent(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	json_int_t last = 0;
	const json_t *item;
	size_t i;

	if (!json_is_array(value))
		return wrong_type("warn_percent", "an array of two integers", value, error);
	json_array_foreach(value, i, item)
	{
		if (i < ARRAY_SIZE(request->warn_percent) && json_is_integer(item) &&
		    json_integer_value(item) > last && json_integer_value(item) <= 100) {
			last = json_integer_value(item);
			request->warn_percent[i] = (uint8_t)last;
		}
	}
	if (json_array_size(value) != 2 || !request->warn_percent[0] || !request->warn_percent[1])
		return error_set(error, -EINVAL,
		    "\"warn_percent\" must be two growing numbers from 1 to 100, as [80,90]");
	return 0;
}

/* null: no limit. */
static int
decode_on_full_timeout(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	request->set |= ADMIN_SET_ON_FULL_TIMEOUT;
	if (json_is_null(value))
		return 0;
	if (!json_is_integer(value))
		return wrong_type(
		    "on_full_timeout_seconds", "an integer (seconds) or null", value, error);
	if (json_integer_value(value) < 1 || json_integer_value(value) > UINT32_MAX)
		return error_set(error, -EINVAL,
		    "\"on_full_timeout_seconds\" must be from 1 to 4294967295, or null: no limit");
	request->full_timeout_s = (uint32_t)json_integer_value(value);
	return 0;
}

static int
decode_force(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_bool("force", value, &request->force, error);
}

static int
decode_dry_run(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_bool("dry_run", value, &request->dry_run, error);
}

static int
decode_preallocate(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_bool("preallocate", value, &request->preallocate, error);
}

static int
decode_copies(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	uint64_t copies = 0;
	int rc = decode_bytes("copies", value, &copies, error);

	if (rc)
		return rc;
	if (copies < 1 || copies > 3)
		return error_set(error, -EINVAL, "\"copies\" must be 1, 2 or 3");
	request->copies = (uint32_t)copies;
	return 0;
}

/* --- exports --- */

static struct export *
export_of(struct admin_request *request)
{
	if (!request->export)
		request->export = xcalloc(1, sizeof(*request->export));
	return request->export;
}

/* Never tells what a secret is. */
static int
decode_text(const char *key, const json_t *value, char *to, size_t size, struct error *error)
{
	if (!json_is_string(value))
		return wrong_type(key, "a string", value, error);
	if (!json_string_length(value) || json_string_length(value) >= size)
		return error_set(error, -EINVAL, "\"%s\" has %zu bytes; it must have from 1 to %zu",
		    key, json_string_length(value), size - 1);
	strcpy(to, json_string_value(value));
	return 0;
}

static int
decode_export_target(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	request->export_has_target = true;
	return decode_text("export_target", value, export_of(request)->target,
	    sizeof(request->export->target), error);
}

static int
decode_lun(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	json_int_t lun = json_integer_value(value);

	if (!json_is_integer(value))
		return wrong_type("lun", "an integer", value, error);
	if (lun < 0 || lun > (json_int_t)EXPORT_LUN_MAX)
		return error_set(
		    error, -EINVAL, "\"lun\" must be a number from 0 to %u", EXPORT_LUN_MAX);
	export_of(request)->lun = (uint8_t)lun;
	request->export_has_lun = true;
	return 0;
}

static int
decode_allow(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	int rc = check_strings("allow", value, EXPORT_ALLOW_MAX, error);
	struct export *export = export_of(request);
	const json_t *item;
	size_t i;

	if (rc)
		return rc;
	json_array_foreach(value, i, item)
	{
		rc = decode_text(
		    "allow", item, export->allow[export->allow_count], EXPORT_NAME_BYTES, error);
		if (rc)
			return rc;
		export->allow_count++;
	}
	return 0;
}

static int
decode_chap_user(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_text("chap_user", value, export_of(request)->user, EXPORT_NAME_BYTES, error);
}

static int
decode_chap_secret(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_text(
	    "chap_secret", value, export_of(request)->secret, EXPORT_SECRET_BYTES, error);
}

static int
decode_chap_mutual_user(const struct verb *verb, const json_t *value, struct admin_request *request,
    struct error *error)
{
	return decode_text(
	    "chap_mutual_user", value, export_of(request)->mutual_user, EXPORT_NAME_BYTES, error);
}

static int
decode_chap_mutual_secret(const struct verb *verb, const json_t *value,
    struct admin_request *request, struct error *error)
{
	return decode_text("chap_mutual_secret", value, export_of(request)->mutual_secret,
	    EXPORT_SECRET_BYTES, error);
}

static const struct field {
	const char *key;
	unsigned bit;
	int (*decode)(const struct verb *verb, const json_t *value, struct admin_request *request,
	    struct error *error);
} fields[] = {
	{ "name", FIELD_NAME, decode_name },
	{ "target", FIELD_TARGET, decode_target },
	{ "names", FIELD_NAMES, decode_names },
	{ "devices", FIELD_DEVICES, decode_devices },
	{ "device", FIELD_DEVICE, decode_device },
	{ "stop", FIELD_STOP, decode_stop },
	{ "new_file_bytes", FIELD_NEW_FILE_BYTES, decode_new_file_bytes },
	{ "size_bytes", FIELD_SIZE_BYTES, decode_size_bytes },
	{ "readonly", FIELD_READONLY, decode_readonly },
	{ "force", FIELD_FORCE, decode_force },
	{ "dry_run", FIELD_DRY_RUN, decode_dry_run },
	{ "preallocate", FIELD_PREALLOCATE, decode_preallocate },
	{ "on_full", FIELD_ON_FULL, decode_on_full },
	{ "reserve", FIELD_RESERVE, decode_reserve },
	{ "block_size_bytes", FIELD_BLOCK_SIZE, decode_block_size },
	{ "warn_percent", FIELD_WARN_PERCENT, decode_warn_percent },
	{ "on_full_timeout_seconds", FIELD_ON_FULL_TIMEOUT, decode_on_full_timeout },
	{ "copies", FIELD_COPIES, decode_copies },
	{ "export_target", FIELD_EXPORT_TARGET, decode_export_target },
	{ "lun", FIELD_LUN, decode_lun },
	{ "allow", FIELD_ALLOW, decode_allow },
	{ "chap_user", FIELD_CHAP_USER, decode_chap_user },
	{ "chap_secret", FIELD_CHAP_SECRET, decode_chap_secret },
	{ "chap_mutual_user", FIELD_CHAP_MUTUAL_USER, decode_chap_mutual_user },
	{ "chap_mutual_secret", FIELD_CHAP_MUTUAL_SECRET, decode_chap_mutual_secret },
};

static const struct field *
field_find(const char *key)
{
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (strcmp(fields[i].key, key) == 0)
			return &fields[i];
	return NULL;
}

/* Checks "quarry" and "verb". */
static int
decode_head(const json_t *root, const struct verb **verb, struct error *error)
{
	const json_t *version = json_object_get(root, "quarry");
	const json_t *text = json_object_get(root, "verb");

	if (!json_is_object(root))
		return error_set(
		    error, -EPROTO, "a request must be a JSON object, not %s", type_name(root));
	if (!version)
		return error_set(error, -EPROTO,
		    "\"quarry\" is missing: the protocol's version, as in \"quarry\": %d",
		    ADMIN_PROTO_VERSION);
	if (!json_is_integer(version))
		return wrong_type("quarry", "an integer", version, error);
	if (json_integer_value(version) != ADMIN_PROTO_VERSION)
		return error_set(error, -EPROTO,
		    "this daemon speaks version %d of the protocol, not %lld: use the quarry "
		    "command "
		    "that came with it",
		    ADMIN_PROTO_VERSION, (long long)json_integer_value(version));
	if (!text)
		return error_set(error, -EPROTO, "\"verb\" is missing");
	if (!json_is_string(text))
		return wrong_type("verb", "a string", text, error);
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(verbs[i].text, json_string_value(text)) == 0) {
			*verb = &verbs[i];
			return 0;
		}
	}
	return error_set(error, -EPROTO, "there is no verb \"%.60s\"", json_string_value(text));
}

static int
decode_fields(
    const struct verb *verb, json_t *root, struct admin_request *request, struct error *error)
{
	unsigned seen = 0;
	const char *key;
	json_t *value;

	json_object_foreach(root, key, value)
	{
		const struct field *field = field_find(key);
		int rc;

		if (strcmp(key, "quarry") == 0 || strcmp(key, "verb") == 0)
			continue;
		if (!field || !(field->bit & (verb->required | verb->optional)))
			return error_set(
			    error, -EPROTO, "%s has no field \"%.60s\"", verb->text, key);
		rc = field->decode(verb, value, request, error);
		if (rc)
			return rc;
		seen |= field->bit;
	}
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (verb->required & ~seen & fields[i].bit)
			return error_set(
			    error, -EPROTO, "%s needs the field \"%s\"", verb->text, fields[i].key);
	if (verb->verb == ADMIN_VOLUME_SET && verb->kind == ADMIN_MESSAGE_TARGET && !request->set)
		return error_set(error, -EPROTO,
		    "volume.set needs a property: readonly, on_full, on_full_timeout_seconds, "
		    "reserve, block_size_bytes");
	if (verb->verb == ADMIN_EXPORT_ADD && verb->kind == ADMIN_MESSAGE_TARGET)
		return export_check(export_of(request), error);
	return 0;
}

int
admin_proto_decode(
    const char *line, size_t len_bytes, struct admin_message *message, struct error *error)
{
	const struct verb *verb = NULL;
	json_error_t json_error;
	json_t *root;
	int rc;

	memset(message, 0, sizeof(*message));
	if (len_bytes > ADMIN_REQUEST_BYTES_MAX)
		return error_set(
		    error, -EPROTO, "the request is longer than %d bytes", ADMIN_REQUEST_BYTES_MAX);
	root = json_loadb(line, len_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &json_error);
	if (!root)
		return error_set(error, -EPROTO, "the request is not JSON: %s (byte %d)",
		    json_error.text, json_error.position);
	rc = decode_head(root, &verb, error);
	if (!rc) {
		message->kind = verb->kind;
		message->request.verb = verb->verb;
		rc = decode_fields(verb, root, &message->request, error);
	}
	json_decref(root);
	if (rc) {
		admin_request_fini(&message->request);
		memset(message, 0, sizeof(*message));
	}
	return rc;
}

const char *
admin_verb_name(enum admin_verb verb)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (verbs[i].kind == ADMIN_MESSAGE_TARGET && verbs[i].verb == verb)
			return verbs[i].text;
	return "?";
}
