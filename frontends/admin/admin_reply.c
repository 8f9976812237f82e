/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replies: a finished request's report as JSON, a line at a time.
 *
 * Only the changed ranges of a diff are without bound, so only they are cut into several lines.
 * Running out of memory is fatal here as in xmalloc: a reply is about as large as the report that
 * it is made of.
 */
#include "frontends/admin/admin_proto.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "frontends/admin/admin_json.h"

/* @text, with what is not UTF-8 (a path from a disk, say) replaced by '?'. */
static json_t *
text_json(const char *text)
{
	json_t *value = json_string(text);
	char *copy;

	if (value)
		return value;
	copy = xstrdup(text);
	for (char *c = copy; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	value = must_json(json_string(copy));
	free(copy);
	return value;
}

static json_t *
text_or_null_json(const char *text)
{
	return text && text[0] ? text_json(text) : json_null();
}

static json_t *
name_json(const struct name *name)
{
	char text[NAME_TEXT_SIZE];

	if (!name->pool[0])
		return json_null();
	name_format(name, text);
	return text_json(text);
}

static json_t *
uuid_json(const struct uuid *uuid)
{
	char text[UUID_TEXT_BYTES];

	uuid_format(uuid, text);
	return text_json(text);
}

/* RFC 3339, UTC; null: not known. */
static json_t *
time_json(uint64_t seconds)
{
	time_t when = (time_t)seconds;
	struct tm utc;
	char text[40];

	if (seconds == 0 || seconds > 253402300799 /* the year 9999 */)
		return json_null();
	gmtime_r(&when, &utc);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
	return text_json(text);
}

static json_t *
bytes_json(uint64_t bytes)
{
	return must_json(json_integer((json_int_t)min_u64(bytes, INT64_MAX)));
}

/* How far something is that moves data in the background; null: it is not under way. */
static json_t *
moving_json(bool moving, uint64_t left_bytes, uint64_t done_permille, uint64_t left_s)
{
	json_t *object;

	if (!moving)
		return must_json(json_null());
	object = must_json(json_object());
	must_put(object, "left_bytes", bytes_json(left_bytes));
	must_put(object, "done_permille", bytes_json(done_permille));
	must_put(object, "seconds_left", left_s ? bytes_json(left_s) : must_json(json_null()));
	return object;
}

static json_t *
device_json(const struct admin_device_report *device)
{
	json_t *object = must_json(json_object());

	must_put(object, "path", text_or_null_json(device->path));
	must_put(object, "uuid", uuid_json(&device->uuid));
	must_put(object, "state",
	    text_json(device->missing     ? "missing"
		      : device->offline   ? "offline"
		      : device->left_out  ? "left out"
		      : device->stalled   ? "not answering"
		      : device->returning ? "returning"
		      : device->leaving   ? "removing"
					  : "online"));
	must_put(object, "removing",
	    moving_json(
		device->leaving, device->left_bytes, device->done_permille, device->left_s));
	must_put(object, "size_bytes", bytes_json(device->size_bytes));
	must_put(object, "slabs", bytes_json(device->slab_count));
	must_put(object, "slabs_free", bytes_json(device->slabs_free));
	must_put(object, "errors", bytes_json(device->errors));
	must_put(object, "healed", bytes_json(device->healed));
	return object;
}

static json_t *
exports_json(const struct export_list *list)
{
	json_t *exports = must_json(json_array());

	for (size_t i = 0; i < list->count; i++) {
		const struct export *export = &list->items[i];
		json_t *object = must_json(json_object());
		json_t *allow = must_json(json_array());

		for (uint32_t k = 0; k < export->allow_count; k++)
			must_append(allow, text_json(export->allow[k]));
		must_put(object, "protocol", text_json("iscsi"));
		must_put(object, "target", text_or_null_json(export->target));
		must_put(object, "lun", bytes_json(export->lun));
		must_put(object, "allow", allow);
		must_put(object, "chap_user", text_or_null_json(export->user));
		must_put(object, "chap_mutual_user", text_or_null_json(export->mutual_user));
		must_append(exports, object);
	}
	return exports;
}

static json_t *
image_json(const struct admin_image_report *image)
{
	json_t *object = must_json(json_object());

	must_put(
	    object, "kind", text_json(image->kind == ADMIN_IMAGE_SNAPSHOT ? "snapshot" : "volume"));
	must_put(object, "name", name_json(&image->name));
	must_put(object, "uuid", uuid_json(&image->uuid));
	must_put(object, "origin", name_json(&image->origin));
	must_put(object, "size_bytes", bytes_json(image->size_bytes));
	must_put(object, "block_size_bytes", bytes_json(image->block_bytes));
	must_put(object, "used_bytes", bytes_json(image->used_bytes));
	must_put(object, "unique_bytes",
	    image->unique_known ? bytes_json(image->unique_bytes) : json_null());
	must_put(object, "created", time_json(image->created_s));
	must_put(object, "readonly", json_boolean(image->readonly));
	if (image->kind == ADMIN_IMAGE_VOLUME) {
		must_put(object, "on_full", text_json(image->pauses_when_full ? "pause" : "error"));
		must_put(object, "on_full_timeout_seconds",
		    image->full_timeout_s ? bytes_json(image->full_timeout_s) : json_null());
		must_put(object, "waiting", bytes_json(image->waiting));
		must_put(object, "reserve", text_json(image->reserved ? "full" : "none"));
		must_put(object, "reserved_bytes", bytes_json(image->reserved_bytes));
	}
	must_put(object, "clients", bytes_json(image->clients));
	if (image->kind == ADMIN_IMAGE_VOLUME)
		must_put(object, "exports", exports_json(&image->exports));
	return object;
}

static json_t *
scrub_json(const struct admin_scrub_report *scrub)
{
	json_t *object = must_json(json_object());
	json_t *damage = must_json(json_array());

	for (size_t i = 0; i < scrub->damage_count; i++) {
		const struct admin_damage_report *block = &scrub->damage[i];
		json_t *item = must_json(json_object());

		must_put(item, "device", text_or_null_json(block->device));
		must_put(item, "device_offset_bytes", bytes_json(block->offset_bytes));
		must_put(item, "volume", name_json(&block->name));
		must_put(item, "offset_bytes",
		    block->name.pool[0] ? bytes_json(block->at_bytes) : json_null());
		must_append(damage, item);
	}
	must_put(object, "state", text_or_null_json(scrub->state));
	must_put(object, "started", time_json(scrub->started_s));
	must_put(object, "ended", time_json(scrub->ended_s));
	must_put(object, "done_permille", bytes_json(scrub->done_permille));
	must_put(object, "seconds_left", scrub->left_s ? bytes_json(scrub->left_s) : json_null());
	must_put(object, "checked_bytes", bytes_json(scrub->checked_bytes));
	must_put(object, "damaged_blocks", bytes_json(scrub->damaged_blocks));
	must_put(object, "unverified_blocks", bytes_json(scrub->unverified_blocks));
	must_put(object, "healed_blocks", bytes_json(scrub->healed_blocks));
	must_put(object, "damage", damage);
	return object;
}

static json_t *
pool_json(const struct admin_pool_report *pool)
{
	json_t *object = must_json(json_object());
	json_t *devices = must_json(json_array());
	json_t *images = must_json(json_array());

	for (size_t i = 0; i < pool->device_count; i++)
		must_append(devices, device_json(&pool->devices[i]));
	for (size_t i = 0; i < pool->image_count; i++)
		must_append(images, image_json(&pool->images[i]));
	must_put(object, "name", text_json(pool->name));
	must_put(object, "uuid", uuid_json(&pool->uuid));
	must_put(object, "state", text_or_null_json(pool->state));
	must_put(object, "state_reason", text_or_null_json(pool->state_reason));
	must_put(object, "copies", bytes_json(pool->copies));
	must_put(object, "size_bytes", bytes_json(pool->size_bytes));
	must_put(object, "allocated_bytes", bytes_json(pool->allocated_bytes));
	must_put(object, "live_bytes", bytes_json(pool->live_bytes));
	must_put(object, "available_bytes", bytes_json(pool->available_bytes));
	must_put(object, "usable_bytes", bytes_json(pool->usable_bytes));
	must_put(object, "provisioned_bytes", bytes_json(pool->provisioned_bytes));
	must_put(object, "reserved_bytes", bytes_json(pool->reserved_bytes));
	must_put(object, "full_percent", bytes_json(pool->full_percent));
	must_put(object, "warn_percent",
	    must_json(json_pack("[ii]", pool->warn_percent[0], pool->warn_percent[1])));
	must_put(object, "checkpoint", bytes_json(pool->checkpoint));
	must_put(object, "checkpoint_running", json_boolean(pool->checkpoint_running));
	must_put(object, "deleting", bytes_json(pool->deleting));
	must_put(object, "deleting_done_permille", bytes_json(pool->deleting_done_permille));
	must_put(object, "relocating", json_boolean(pool->relocating));
	must_put(object, "relocated_bytes", bytes_json(pool->relocated_bytes));
	must_put(object, "relocation_permille", bytes_json(pool->relocation_permille));
	must_put(object, "rebalancing",
	    moving_json(pool->balancing, pool->balance_left_bytes, pool->balance_done_permille,
		pool->balance_left_s));
	must_put(object, "unprepared_bytes", bytes_json(pool->unprepared_bytes));
	must_put(object, "scrub", scrub_json(&pool->scrub));
	must_put(object, "devices", devices);
	must_put(object, "images", images);
	return object;
}

static json_t *
range_json(const struct admin_range *range)
{
	json_t *object = must_json(json_object());

	must_put(object, "offset_bytes", bytes_json(range->offset_bytes));
	must_put(object, "length_bytes", bytes_json(range->len_bytes));
	must_put(object, "hole", json_boolean(range->hole));
	return object;
}

/* Takes @root. */
static char *
to_line(json_t *root, size_t *len_bytes)
{
	size_t len = json_dumpb(root, NULL, 0, JSON_COMPACT);
	char *line = xmalloc(len + 2);

	CHECK(len > 0 && json_dumpb(root, line, len, JSON_COMPACT) == len);
	line[len] = '\n';
	line[len + 1] = '\0';
	*len_bytes = len + 1;
	json_decref(root);
	return line;
}

/* Takes @result. */
static char *
result_line(json_t *result, bool more, size_t *len_bytes)
{
	json_t *root = must_json(json_object());

	must_put(root, "quarry", bytes_json(ADMIN_PROTO_VERSION));
	must_put(root, "ok", json_true());
	if (more)
		must_put(root, "more", json_true());
	must_put(root, "result", result);
	return to_line(root, len_bytes);
}

char *
admin_proto_error(enum admin_exit exit_status, const struct error *error, size_t *len_bytes)
{
	json_t *root = must_json(json_object());
	json_t *object = must_json(json_object());
	const char *code = strerrorname_np(-error->code);
	const char *text = error->text[0] ? error->text : strerror(-error->code);

	must_put(object, "code", text_json(code ? code : "EIO"));
	must_put(object, "exit", bytes_json(exit_status));
	must_put(object, "message", text_json(text));
	must_put(root, "quarry", bytes_json(ADMIN_PROTO_VERSION));
	must_put(root, "ok", json_false());
	must_put(root, "error", object);
	return to_line(root, len_bytes);
}

char *
admin_proto_daemon_info(const struct admin_daemon_info *info, size_t *len_bytes)
{
	json_t *result = must_json(json_object());
	json_t *listeners = must_json(json_array());

	for (size_t i = 0; i < info->listener_count; i++)
		must_append(listeners, text_json(info->listeners[i]));
	must_put(result, "version", text_or_null_json(info->version));
	must_put(result, "pid", must_json(json_integer(info->pid)));
	must_put(result, "uptime_seconds", bytes_json(info->uptime_s));
	must_put(result, "listeners", listeners);
	return result_line(result, false, len_bytes);
}

void
admin_reply_init(struct admin_reply *reply, const struct admin_request *request)
{
	reply->request = request;
	reply->next_range = 0;
	reply->finished = false;
}

static char *
ranges_line(struct admin_reply *reply, size_t *len_bytes)
{
	const struct admin_request *request = reply->request;
	size_t end = min_u64(request->range_count, reply->next_range + ADMIN_REPLY_RANGES_MAX);
	json_t *result = must_json(json_object());
	json_t *ranges = must_json(json_array());

	for (; reply->next_range < end; reply->next_range++)
		must_append(ranges, range_json(&request->ranges[reply->next_range]));
	must_put(result, "ranges", ranges);
	reply->finished = end == request->range_count;
	return result_line(result, !reply->finished, len_bytes);
}

char *
admin_reply_next(struct admin_reply *reply, size_t *len_bytes)
{
	const struct admin_request *request = reply->request;
	json_t *result;

	if (reply->finished)
		return NULL;
	if (request->error.code) {
		reply->finished = true;
		return admin_proto_error(ADMIN_EXIT_FAILED, &request->error, len_bytes);
	}
	if (request->verb == ADMIN_DIFF)
		return ranges_line(reply, len_bytes);
	reply->finished = true;
	result = must_json(json_object());
	if (request->verb == ADMIN_LIST) {
		json_t *pools = must_json(json_array());

		for (size_t i = 0; i < request->pool_count; i++)
			must_append(pools, pool_json(&request->pools[i]));
		must_put(result, "pools", pools);
	}
	if (request->would)
		must_put(result, "would", text_json(request->would));
	return result_line(result, false, len_bytes);
}
