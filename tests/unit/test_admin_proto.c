/* SPDX-License-Identifier: Apache-2.0 */
/* The administrator's protocol: bad requests with the exact error, every verb, every reply. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>

#include "frontends/admin/admin_proto.h"
#include "tests/unit/admin_fake.h"

static void
test_bad_requests(void **state)
{
	static const struct {
		const char *line;
		int rc;
		const char *error;
	} cases[] = {
		{ "", -EPROTO,
		    "the request is not JSON: unexpected token near end of file (byte 0)" },
		{ "{", -EPROTO,
		    "the request is not JSON: string or '}' expected near end of file (byte 1)" },
		{ "GET / HTTP/1.1", -EPROTO,
		    "the request is not JSON: invalid token near 'GET' (byte 3)" },
		{ "{} x", -EPROTO,
		    "the request is not JSON: end of file expected near 'x' (byte 4)" },
		{ "[]", -EPROTO, "a request must be a JSON object, not an array" },
		{ "7", -EPROTO, "a request must be a JSON object, not an integer" },
		{ "null", -EPROTO, "a request must be a JSON object, not null" },
		{ "\"x\"", -EPROTO, "a request must be a JSON object, not a string" },
		{ "{}", -EPROTO,
		    "\"quarry\" is missing: the protocol's version, as in \"quarry\": 1" },
		{ "{\"quarry\":\"1\"}", -EPROTO, "\"quarry\" must be an integer, not a string" },
		{ "{\"quarry\":1.0}", -EPROTO,
		    "\"quarry\" must be an integer, not a number with a fraction" },
		{ "{\"quarry\":2,\"verb\":\"list\"}", -EPROTO,
		    "this daemon speaks version 1 of the protocol, not 2: use the quarry command "
		    "that came "
		    "with it" },
		{ "{\"quarry\":1}", -EPROTO, "\"verb\" is missing" },
		{ "{\"quarry\":1,\"verb\":1}", -EPROTO,
		    "\"verb\" must be a string, not an integer" },
		{ "{\"quarry\":1,\"verb\":\"pool.eat\"}", -EPROTO,
		    "there is no verb \"pool.eat\"" },
		{ "{\"quarry\":1,\"verb\":\"\"}", -EPROTO, "there is no verb \"\"" },
		{ "{\"quarry\":1,\"verb\":\"list\",\"quarry\":1}", -EPROTO,
		    "the request is not JSON: duplicate object key near '\"quarry\"' (byte 34)" },
		{ "{\"quarry\":1,\"verb\":\"list\",\"colour\":\"red\"}", -EPROTO,
		    "list has no field \"colour\"" },
		{ "{\"quarry\":1,\"verb\":\"list\",\"size_bytes\":1}", -EPROTO,
		    "list has no field \"size_bytes\"" },
		{ "{\"quarry\":1,\"verb\":\"daemon.info\",\"name\":\"tank\"}", -EPROTO,
		    "daemon.info has no field \"name\"" },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/vm1\"}", -EPROTO,
		    "volume.create needs the field \"size_bytes\"" },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"size_bytes\":1}", -EPROTO,
		    "volume.create needs the field \"name\"" },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/"
		  "vm1\",\"size_bytes\":\"1\"}",
		    -EPROTO, "\"size_bytes\" must be an integer (bytes), not a string" },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/"
		  "vm1\",\"size_bytes\":1.5}",
		    -EPROTO,
		    "\"size_bytes\" must be an integer (bytes), not a number with a fraction" },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/"
		  "vm1\",\"size_bytes\":-1}",
		    -EINVAL, "\"size_bytes\" must not be negative" },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/"
		  "vm1\",\"size_bytes\":9223372036854775808}",
		    -EPROTO,
		    "the request is not JSON: too big integer near '9223372036854775808' (byte "
		    "85)" },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":7,\"size_bytes\":1}", -EPROTO,
		    "\"name\" must be a string, not an integer" },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank\",\"size_bytes\":1}",
		    -EINVAL, "\"name\" must name a volume, as pool/volume, not \"tank\"" },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/"
		  "a@b\",\"size_bytes\":1}",
		    -EINVAL, "\"name\" must name a volume, as pool/volume, not \"tank/a@b\"" },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/../"
		  "x\",\"size_bytes\":1}",
		    -EINVAL,
		    "\"../x\" is not a volume name: 1 to 128 of A-Z a-z 0-9 . _ -, the first a "
		    "letter or "
		    "digit" },
		{ "{\"quarry\":1,\"verb\":\"pool.destroy\",\"name\":\"tank/vm1\"}", -EINVAL,
		    "\"name\" must name a pool, not \"tank/vm1\"" },
		{ "{\"quarry\":1,\"verb\":\"pool.destroy\",\"name\":\"\"}", -EINVAL,
		    "\"\" is not a pool name: 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or "
		    "digit" },
		{ "{\"quarry\":1,\"verb\":\"pool.destroy\",\"name\":\"a\\u0000b\"}", -EPROTO,
		    "the request is not JSON: \\u0000 is not allowed without JSON_ALLOW_NUL near "
		    "'\"a\\u0000b\"' (byte 51)" },
		{ "{\"quarry\":1,\"verb\":\"pool.destroy\",\"name\":\"tank\",\"force\":1}", -EPROTO,
		    "\"force\" must be a boolean, not an integer" },
		{ "{\"quarry\":1,\"verb\":\"volume.rename\",\"name\":\"tank/a\",\"target\":\"tank/"
		  "b\","
		  "\"dry_run\":true}",
		    -EPROTO, "volume.rename has no field \"dry_run\"" },
		{ "{\"quarry\":1,\"verb\":\"rollback\",\"name\":\"tank/vm1\"}", -EINVAL,
		    "\"name\" must name a snapshot, as pool/volume@snapshot, not \"tank/vm1\"" },
		{ "{\"quarry\":1,\"verb\":\"clone\",\"name\":\"tank/a@b\",\"target\":\"tank/c@d\"}",
		    -EINVAL, "\"target\" must name a volume, as pool/volume, not \"tank/c@d\"" },
		{ "{\"quarry\":1,\"verb\":\"clone\",\"name\":\"tank/a@b\",\"target\":null}",
		    -EPROTO, "\"target\" must be a string, not null" },
		{ "{\"quarry\":1,\"verb\":\"diff\",\"name\":\"tank\",\"target\":\"tank/a\"}",
		    -EINVAL,
		    "\"name\" must name a volume or a snapshot, as pool/volume@snapshot, not "
		    "\"tank\"" },
		{ "{\"quarry\":1,\"verb\":\"pool.set\",\"name\":\"tank\",\"warn_percent\":[90,80]}",
		    -EINVAL,
		    "\"warn_percent\" must be two growing numbers from 1 to 100, as [80,90]" },
		{ "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/a\"}", -EPROTO,
		    "volume.set needs a property: readonly, on_full, on_full_timeout_seconds, "
		    "reserve, block_size_bytes" },
		{ "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/a\","
		  "\"block_size_bytes\":1024}",
		    -EINVAL, "\"block_size_bytes\" must be 512 or 4096" },
		{ "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/a\",\"on_full\":\"wait\"}",
		    -EINVAL, "\"on_full\" must be \"error\" or \"pause\", not \"wait\"" },
		{ "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/a\","
		  "\"on_full_timeout_seconds\":0}",
		    -EINVAL,
		    "\"on_full_timeout_seconds\" must be from 1 to 4294967295, or null: no limit" },
		{ "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/a\",\"readonly\":\"on\"}",
		    -EPROTO, "\"readonly\" must be a boolean, not a string" },
		{ "{\"quarry\":1,\"verb\":\"snapshot.create\",\"names\":\"tank/a@b\"}", -EPROTO,
		    "\"names\" must be an array of strings, not a string" },
		{ "{\"quarry\":1,\"verb\":\"snapshot.create\",\"names\":[]}", -EINVAL,
		    "\"names\" must not be empty" },
		{ "{\"quarry\":1,\"verb\":\"snapshot.create\",\"names\":[\"tank/a@b\",{}]}",
		    -EPROTO, "\"names\"[1] must be a string, not an object" },
		{ "{\"quarry\":1,\"verb\":\"snapshot.create\",\"names\":[\"tank/a@b\",\"tank/a\"]}",
		    -EINVAL,
		    "\"names\" must name a snapshot, as pool/volume@snapshot, not \"tank/a\"" },
		{ "{\"quarry\":1,\"verb\":\"device.remove\",\"name\":\"tank\",\"device\":1}",
		    -EPROTO, "\"device\" must be a string (a path, URI or UUID), not an integer" },
		{ "{\"quarry\":1,\"verb\":\"device.remove\",\"name\":\"tank\",\"device\":\"\"}",
		    -EINVAL, "\"device\" is empty" },
		{ "{\"quarry\":1,\"verb\":\"device.replace\",\"name\":\"tank\",\"device\":\"/a\","
		  "\"devices\":[\"/b\",\"/c\"]}",
		    -EINVAL,
		    "\"devices\" must be one device, which takes the place of \"device\", not 2" },
		{ "{\"quarry\":1,\"verb\":\"device.online\",\"name\":\"tank\",\"devices\":[\"/"
		  "b\",\"/c\"]}",
		    -EINVAL, "\"devices\" must be one device, which comes back, not 2" },
		{ "{\"quarry\":1,\"verb\":\"pool.import\",\"devices\":[true]}", -EPROTO,
		    "\"devices\"[0] must be a string, not a boolean" },
		{ "{\"quarry\":1,\"verb\":\"pool.import\",\"devices\":[\"/a\",\"disk0.img\"]}",
		    -EINVAL, "\"devices\"[1] must be an absolute path, not \"disk0.img\"" },
		{ "{\"quarry\":1,\"verb\":\"pool.import\",\"devices\":[\"\"]}", -EINVAL,
		    "\"devices\"[0] must be an absolute path, not \"\"" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct admin_message message;
		struct error error = { 0 };

		assert_int_equal(
		    admin_proto_decode(cases[i].line, strlen(cases[i].line), &message, &error),
		    cases[i].rc);
		assert_string_equal(error.text, cases[i].error);
		assert_int_equal(error.code, cases[i].rc);
	}
}

static void
test_bounds(void **state)
{
	char *line = xmalloc(ADMIN_REQUEST_BYTES_MAX + 2);
	struct admin_message message;
	struct error error = { 0 };
	size_t len;

	memset(line, ' ', ADMIN_REQUEST_BYTES_MAX + 2);
	assert_int_equal(
	    admin_proto_decode(line, ADMIN_REQUEST_BYTES_MAX + 1, &message, &error), -EPROTO);
	assert_string_equal(error.text, "the request is longer than 1048576 bytes");

	memset(line, '[', ADMIN_REQUEST_BYTES_MAX);
	assert_int_equal(
	    admin_proto_decode(line, ADMIN_REQUEST_BYTES_MAX, &message, &error), -EPROTO);

	len = (size_t)sprintf(line, "{\"quarry\":1,\"verb\":\"snapshot.delete\",\"names\":[");
	for (int i = 0; i <= ADMIN_NAMES_MAX; i++)
		len += (size_t)sprintf(line + len, "%s\"t/v@%d\"", i ? "," : "", i);
	len += (size_t)sprintf(line + len, "]}");
	assert_int_equal(admin_proto_decode(line, len, &message, &error), -EINVAL);
	assert_string_equal(error.text, "\"names\" has 4097 entries; at most 4096 are allowed");
	free(line);
}

/* Whatever bytes come: an error with a text, or a request. */
static void
test_mutations(void **state)
{
	static const char good[] =
	    "{\"quarry\":1,\"verb\":\"pool.create\",\"name\":\"tank\",\"devices\":[\"/dev/sdb\"],"
	    "\"new_file_bytes\":4096,\"force\":true}";
	uint64_t seed = 7;

	for (int round = 0; round < 20000; round++) {
		char line[sizeof(good)];
		struct admin_message message;
		struct error error = { 0 };
		size_t len = sizeof(good) - 1;

		memcpy(line, good, sizeof(good));
		for (int change = round % 4; change >= 0; change--) {
			seed = mix64(seed + 0x9e3779b97f4a7c15ull);
			line[seed % len] =
			    round % 2 ? (char)(seed >> 32) : good[(seed >> 32) % len];
		}
		if (round % 8 == 7)
			len = seed % len;
		if (admin_proto_decode(line, len, &message, &error) == 0)
			admin_request_fini(&message.request);
		else
			assert_true(error.code < 0 && error.text[0]);
	}
}

static void
decode(const char *line, struct admin_message *message)
{
	struct error error = { 0 };

	if (admin_proto_decode(line, strlen(line), message, &error))
		fail_msg("%s: %s", line, error.text);
}

static void
assert_name(const struct name *name, const char *expected)
{
	char text[NAME_TEXT_SIZE];

	name_format(name, text);
	assert_string_equal(text, expected);
}

static void
test_every_verb(void **state)
{
	static const struct {
		const char *line;
		enum admin_verb verb;
		const char *name;
		const char *target;
		size_t names, devices;
		uint64_t size_bytes, new_file_bytes;
		bool readonly, force;
	} cases[] = {
		{ "{\"quarry\":1,\"verb\":\"pool.create\",\"name\":\"tank\",\"devices\":[\"/a\",\"/"
		  "b\"],"
		  "\"new_file_bytes\":4096,\"force\":true}",
		    ADMIN_POOL_CREATE, "tank", "", 0, 2, 0, 4096, false, true },
		{ "{\"quarry\":1,\"verb\":\"pool.import\",\"devices\":[\"nbd://h/x\"]}",
		    ADMIN_POOL_IMPORT, "", "", 0, 1, 0, 0, false, false },
		{ "{\"quarry\":1,\"verb\":\"pool.export\",\"name\":\"tank\",\"force\":false}",
		    ADMIN_POOL_EXPORT, "tank", "", 0, 0, 0, 0, false, false },
		{ "{\"quarry\":1,\"verb\":\"pool.destroy\",\"name\":\"tank\",\"force\":true}",
		    ADMIN_POOL_DESTROY, "tank", "", 0, 0, 0, 0, false, true },
		{ "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/a\",\"size_bytes\":"
		  "9223372036854775807}",
		    ADMIN_VOLUME_CREATE, "tank/a", "", 0, 0, INT64_MAX, 0, false, false },
		{ "{\"quarry\":1,\"verb\":\"volume.resize\",\"name\":\"tank/"
		  "a\",\"size_bytes\":8192,"
		  "\"force\":true}",
		    ADMIN_VOLUME_RESIZE, "tank/a", "", 0, 0, 8192, 0, false, true },
		{ "{\"quarry\":1,\"verb\":\"volume.rename\",\"name\":\"tank/a\",\"target\":\"tank/"
		  "b\"}",
		    ADMIN_VOLUME_RENAME, "tank/a", "tank/b", 0, 0, 0, 0, false, false },
		{ "{\"quarry\":1,\"verb\":\"volume.delete\",\"name\":\"tank/a\"}",
		    ADMIN_VOLUME_DELETE, "tank/a", "", 0, 0, 0, 0, false, false },
		{ "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/a\",\"readonly\":true}",
		    ADMIN_VOLUME_SET, "tank/a", "", 0, 0, 0, 0, true, false },
		{ "{\"quarry\":1,\"verb\":\"snapshot.create\",\"names\":[\"tank/a@m\",\"tank/"
		  "b@m\"]}",
		    ADMIN_SNAPSHOT_CREATE, "", "", 2, 0, 0, 0, false, false },
		{ "{\"quarry\":1,\"verb\":\"snapshot.delete\",\"names\":[\"tank/a@m\"]}",
		    ADMIN_SNAPSHOT_DELETE, "", "", 1, 0, 0, 0, false, false },
		{ "{\"quarry\":1,\"verb\":\"clone\",\"name\":\"tank/a@m\",\"target\":\"tank/c\"}",
		    ADMIN_CLONE, "tank/a@m", "tank/c", 0, 0, 0, 0, false, false },
		{ "{\"quarry\":1,\"verb\":\"rollback\",\"name\":\"tank/a@m\"}", ADMIN_ROLLBACK,
		    "tank/a@m", "", 0, 0, 0, 0, false, false },
		{ "{\"quarry\":1,\"verb\":\"rollback\",\"name\":\"tank/a@m\",\"force\":true}",
		    ADMIN_ROLLBACK, "tank/a@m", "", 0, 0, 0, 0, false, true },
		{ "{\"quarry\":1,\"verb\":\"diff\",\"name\":\"tank/a@m\",\"target\":\"tank/a\"}",
		    ADMIN_DIFF, "tank/a@m", "tank/a", 0, 0, 0, 0, false, false },
		{ "{\"quarry\":1,\"verb\":\"list\"}", ADMIN_LIST, "", "", 0, 0, 0, 0, false,
		    false },
		{ "{\"verb\":\"list\",\"name\":\"tank\",\"quarry\":1}", ADMIN_LIST, "tank", "", 0,
		    0, 0, 0, false, false },
	};
	struct admin_message message;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct admin_request *request = &message.request;

		decode(cases[i].line, &message);
		assert_int_equal(message.kind, ADMIN_MESSAGE_TARGET);
		assert_int_equal(request->verb, cases[i].verb);
		assert_non_null(strstr(cases[i].line, admin_verb_name(cases[i].verb)));
		assert_name(&request->name, cases[i].name);
		assert_name(&request->target, cases[i].target);
		assert_int_equal(request->name_count, cases[i].names);
		assert_int_equal(request->device_count, cases[i].devices);
		assert_int_equal(request->size_bytes, cases[i].size_bytes);
		assert_int_equal(request->new_file_bytes, cases[i].new_file_bytes);
		assert_int_equal(request->readonly, cases[i].readonly);
		assert_int_equal(request->force, cases[i].force);
		admin_request_fini(&message.request);
	}
	decode("{\"quarry\":1,\"verb\":\"daemon.info\"}", &message);
	assert_int_equal(message.kind, ADMIN_MESSAGE_DAEMON_INFO);
	admin_request_fini(&message.request);
}

static void
test_dry_runs(void **state)
{
	static const char *const lines[] = {
		"{\"quarry\":1,\"dry_run\":true,\"verb\":\"pool.destroy\",\"name\":\"tank\"}",
		"{\"quarry\":1,\"dry_run\":true,\"verb\":\"volume.resize\",\"name\":\"tank/a\","
		"\"size_bytes\":8192}",
		"{\"quarry\":1,\"dry_run\":true,\"verb\":\"volume.delete\",\"name\":\"tank/a\"}",
		"{\"quarry\":1,\"dry_run\":true,\"verb\":\"export.remove\",\"name\":\"tank/a\"}",
		"{\"quarry\":1,\"dry_run\":true,\"verb\":\"snapshot.delete\",\"names\":[\"tank/"
		"a@m\"]}",
		"{\"quarry\":1,\"dry_run\":true,\"verb\":\"rollback\",\"name\":\"tank/a@m\"}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		struct admin_message message;

		decode(lines[i], &message);
		assert_true(message.request.dry_run);
		admin_request_fini(&message.request);
	}
}

/* The examples of the documentation are requests, and show every verb. */
static void
test_documented_examples(void **state)
{
	static const char start[] = "{\"quarry\":1,\"verb\":";
	FILE *file = fopen("docs/ADMIN-PROTOCOL.md", "r");
	unsigned seen = 0;
	char line[1024];

	if (!file)
		skip(); /* not run in the source tree */
	while (fgets(line, sizeof(line), file)) {
		struct admin_message message;

		if (strncmp(line, start, strlen(start)) != 0)
			continue;
		decode(line, &message);
		if (message.kind == ADMIN_MESSAGE_TARGET)
			seen |= 1u << message.request.verb;
		admin_request_fini(&message.request);
	}
	fclose(file);
	assert_int_equal(seen, (1u << (ADMIN_LIST + 1)) - 1);
}

/* --- replies --- */

static void
assert_next(struct admin_reply *reply, const char *expected)
{
	size_t len = 0;
	char *line = admin_reply_next(reply, &len);

	if (!expected) {
		assert_null(line);
		return;
	}
	assert_string_equal(line, expected);
	assert_int_equal(len, strlen(line));
	free(line);
}

static void
test_reply_done(void **state)
{
	struct admin_request request = { .verb = ADMIN_VOLUME_CREATE };
	struct admin_reply reply;

	admin_reply_init(&reply, &request);
	assert_next(&reply, "{\"quarry\":1,\"ok\":true,\"result\":{}}\n");
	assert_next(&reply, NULL);
	request.would = xstrdup("delete volume t/v");
	admin_reply_init(&reply, &request);
	assert_next(
	    &reply, "{\"quarry\":1,\"ok\":true,\"result\":{\"would\":\"delete volume t/v\"}}\n");
	free(request.would);
}

static void
test_reply_error(void **state)
{
	struct admin_request request = { .verb = ADMIN_DIFF };
	struct admin_reply reply;
	size_t len;
	char *line;

	error_set(&request.error, -ENOSPC, "pool \"tank\" is full: delete snapshots");
	admin_reply_init(&reply, &request);
	assert_next(&reply, "{\"quarry\":1,\"ok\":false,\"error\":{\"code\":\"ENOSPC\",\"exit\":1,"
			    "\"message\":\"pool \\\"tank\\\" is full: delete snapshots\"}}\n");
	assert_next(&reply, NULL);

	/* A text that is not UTF-8, and no text at all. */
	error_set(&request.error, -EBUSY, "/mnt/\xff is in use");
	line = admin_proto_error(ADMIN_EXIT_USAGE, &request.error, &len);
	assert_string_equal(line,
	    "{\"quarry\":1,\"ok\":false,\"error\":{\"code\":\"EBUSY\",\"exit\":2,"
	    "\"message\":\"/mnt/? is in use\"}}\n");
	free(line);
	request.error.text[0] = '\0';
	line = admin_proto_error(ADMIN_EXIT_FAILED, &request.error, &len);
	assert_string_equal(line,
	    "{\"quarry\":1,\"ok\":false,\"error\":{\"code\":\"EBUSY\",\"exit\":1,"
	    "\"message\":\"Device or resource busy\"}}\n");
	free(line);
}

static void
test_reply_daemon_info(void **state)
{
	static const char *const listeners[] = { "nbd://127.0.0.1:10809" };
	struct admin_daemon_info info = {
		.version = "1.2.3",
		.pid = 4,
		.uptime_s = 5,
		.listeners = listeners,
		.listener_count = 1,
	};
	size_t len;
	char *line = admin_proto_daemon_info(&info, &len);

	assert_string_equal(line,
	    "{\"quarry\":1,\"ok\":true,\"result\":{\"version\":\"1.2.3\",\"pid\":4,"
	    "\"uptime_seconds\":5,\"listeners\":[\"nbd://127.0.0.1:10809\"]}}\n");
	free(line);
}

static void
test_reply_diff(void **state)
{
	struct admin_range ranges[] = { { 0, 4096, false }, { 8192, 4096, true } };
	struct admin_request request = { .verb = ADMIN_DIFF };
	struct admin_reply reply;

	admin_reply_init(&reply, &request);
	assert_next(&reply, "{\"quarry\":1,\"ok\":true,\"result\":{\"ranges\":[]}}\n");
	assert_next(&reply, NULL);

	request.ranges = ranges;
	request.range_count = 2;
	admin_reply_init(&reply, &request);
	assert_next(&reply, "{\"quarry\":1,\"ok\":true,\"result\":{\"ranges\":["
			    "{\"offset_bytes\":0,\"length_bytes\":4096,\"hole\":false},"
			    "{\"offset_bytes\":8192,\"length_bytes\":4096,\"hole\":true}]}}\n");
	assert_next(&reply, NULL);
}

/* A long diff comes in parts; all but the last say that more comes. */
static void
test_reply_long_diff(void **state)
{
	struct admin_request request = { .verb = ADMIN_DIFF,
		.range_count = 2 * ADMIN_REPLY_RANGES_MAX + 1 };
	struct admin_reply reply;
	int lines = 0;
	char *line;
	size_t len;

	request.ranges = xcalloc(request.range_count, sizeof(*request.ranges));
	admin_reply_init(&reply, &request);
	while ((line = admin_reply_next(&reply, &len))) {
		lines++;
		assert_int_equal(strstr(line, "\"more\":true") != NULL, lines < 3);
		free(line);
	}
	assert_int_equal(lines, 3);
	free(request.ranges);
}

static void
test_reply_list(void **state)
{
	struct admin_device_report devices[] = {
		{ .path = (char *)"/dev/sdb",
		    .size_bytes = 1,
		    .slab_count = 2,
		    .slabs_free = 3,
		    .errors = 4,
		    .leaving = true,
		    .left_bytes = 4096,
		    .done_permille = 250,
		    .left_s = 60 },
		{ .path = NULL, .missing = true },
	};
	struct export export = {
		.target = "iqn.t",
		.lun = 3,
		.allow_count = 1,
		.allow = { "iqn.i" },
		.user = "u",
		.secret = "never to be shown",
	};
	struct admin_image_report images[] = {
		{ .kind = ADMIN_IMAGE_VOLUME,
		    .exports = { .items = &export, .count = 1 },
		    .name = { "tank", "a", "" },
		    .size_bytes = 10,
		    .block_bytes = 4096,
		    .used_bytes = 5,
		    .unique_bytes = 3,
		    .unique_known = true,
		    .created_s = 1000000000,
		    .pauses_when_full = true,
		    .full_timeout_s = 60,
		    .waiting = 3,
		    .reserved = true,
		    .reserved_bytes = 20,
		    .clients = 2 },
		{ .kind = ADMIN_IMAGE_SNAPSHOT,
		    .name = { "tank", "a", "m" },
		    .origin = { "tank", "z", "s" },
		    .block_bytes = 512,
		    .readonly = true },
	};
	struct admin_damage_report damage[] = {
		{ .device = (char *)"/dev/sdb",
		    .offset_bytes = 4096,
		    .name = { "tank", "a", "" },
		    .at_bytes = 8192 },
		{ .device = (char *)"/dev/sdb", .offset_bytes = 12288 },
	};
	struct admin_pool_report pool = {
		.name = "tank",
		.state = "readonly",
		.state_reason = "a flush failed",
		.copies = 2,
		.size_bytes = 100,
		.allocated_bytes = 50,
		.live_bytes = 40,
		.available_bytes = UINT64_MAX,
		.checkpoint = 7,
		.deleting = 1,
		.deleting_done_permille = 500,
		.relocating = true,
		.relocated_bytes = 8192,
		.usable_bytes = 30,
		.full_percent = 85,
		.warn_percent = { 80, 90 },
		.provisioned_bytes = 60,
		.reserved_bytes = 20,
		.relocation_permille = 300,
		.balancing = true,
		.balance_left_bytes = 4096,
		.balance_done_permille = 500,
		.unprepared_bytes = 4096,
		.checkpoint_running = true,
		.scrub = { .state = "running",
		    .started_s = 1000000000,
		    .done_permille = 250,
		    .left_s = 60,
		    .checked_bytes = 8192,
		    .damaged_blocks = 2,
		    .damage = damage,
		    .damage_count = 2 },
		.devices = devices,
		.device_count = 2,
		.images = images,
		.image_count = 2,
	};
	struct admin_request request = { .verb = ADMIN_LIST, .pools = &pool, .pool_count = 1 };
	struct admin_reply reply;

	admin_reply_init(&reply, &request);
	assert_next(&reply,
	    "{\"quarry\":1,\"ok\":true,\"result\":{\"pools\":[{\"name\":\"tank\","
	    "\"uuid\":\"00000000-0000-0000-0000-000000000000\",\"state\":\"readonly\","
	    "\"state_reason\":\"a flush "
	    "failed\",\"copies\":2,\"size_bytes\":100,\"allocated_bytes\":50,"
	    "\"live_bytes\":40,\"available_bytes\":9223372036854775807,\"usable_bytes\":30,"
	    "\"provisioned_bytes\":60,\"reserved_bytes\":20,\"full_percent\":85,"
	    "\"warn_percent\":[80,90],\"checkpoint\":7,"
	    "\"checkpoint_running\":true,\"deleting\":1,\"deleting_done_permille\":500,"
	    "\"relocating\":true,\"relocated_bytes\":8192,\"relocation_permille\":300,"
	    "\"rebalancing\":{\"left_bytes\":4096,\"done_permille\":500,\"seconds_left\":null},"
	    "\"unprepared_bytes\":4096,\"scrub\":{\"state\":\"running\","
	    "\"started\":\"2001-09-09T01:46:40Z\",\"ended\":null,\"done_permille\":250,"
	    "\"seconds_left\":60,\"checked_bytes\":8192,\"damaged_blocks\":2,"
	    "\"unverified_blocks\":0,\"healed_blocks\":0,\"damage\":[{\"device\":\"/dev/sdb\","
	    "\"device_offset_bytes\":4096,\"volume\":\"tank/a\",\"offset_bytes\":8192},"
	    "{\"device\":\"/dev/sdb\",\"device_offset_bytes\":12288,\"volume\":null,"
	    "\"offset_bytes\":null}]},\"devices\":"
	    "["
	    "{\"path\":\"/dev/sdb\",\"uuid\":\"00000000-0000-0000-0000-000000000000\","
	    "\"state\":\"removing\",\"removing\":{\"left_bytes\":4096,\"done_permille\":250,"
	    "\"seconds_left\":60},\"size_bytes\":1,\"slabs\":2,\"slabs_free\":3,\"errors\":4,"
	    "\"healed\":0},"
	    "{\"path\":null,\"uuid\":\"00000000-0000-0000-0000-000000000000\",\"state\":"
	    "\"missing\",\"removing\":null,"
	    "\"size_bytes\":0,\"slabs\":0,\"slabs_free\":0,\"errors\":0,\"healed\":0}],\"images\":["
	    "{\"kind\":\"volume\",\"name\":\"tank/a\","
	    "\"uuid\":\"00000000-0000-0000-0000-000000000000\",\"origin\":null,\"size_bytes\":10,"
	    "\"block_size_bytes\":4096,\"used_bytes\":5,\"unique_bytes\":3,\"created\":\"2001-09-"
	    "09T01:46:40Z\","
	    "\"readonly\":false,\"on_full\":\"pause\",\"on_full_timeout_seconds\":60,"
	    "\"waiting\":3,\"reserve\":\"full\",\"reserved_bytes\":20,\"clients\":2,\"exports\":["
	    "{\"protocol\":\"iscsi\",\"target\":\"iqn.t\",\"lun\":3,\"allow\":[\"iqn.i\"],"
	    "\"chap_user\":\"u\",\"chap_mutual_user\":null}]},"
	    "{\"kind\":\"snapshot\",\"name\":\"tank/a@m\","
	    "\"uuid\":\"00000000-0000-0000-0000-000000000000\",\"origin\":\"tank/z@s\","
	    "\"size_bytes\":0,\"block_size_bytes\":512,\"used_bytes\":0,\"unique_bytes\":null,"
	    "\"created\":null,"
	    "\"readonly\":true,\"clients\":0}]}]}}\n");
	assert_next(&reply, NULL);

	request.pool_count = 0;
	admin_reply_init(&reply, &request);
	assert_next(&reply, "{\"quarry\":1,\"ok\":true,\"result\":{\"pools\":[]}}\n");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_requests),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_mutations),
		cmocka_unit_test(test_every_verb),
		cmocka_unit_test(test_dry_runs),
		cmocka_unit_test(test_documented_examples),
		cmocka_unit_test(test_reply_done),
		cmocka_unit_test(test_reply_error),
		cmocka_unit_test(test_reply_daemon_info),
		cmocka_unit_test(test_reply_diff),
		cmocka_unit_test(test_reply_long_diff),
		cmocka_unit_test(test_reply_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
