/* SPDX-License-Identifier: Apache-2.0 */
/* One round trip: a line out, lines in until one says no more.  Blocks, as a command may. */
#include "tools/quarry.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	REPLY_LINE_BYTES_MAX = 1 << 30
};

struct line_reader {
	int fd;
	char *bytes;
	size_t at; /* the next line begins here */
	size_t filled;
	size_t capacity;
};

static int printf_like(3, 4)
    client_fail(struct client_error *error, const char *code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	snprintf(error->code, sizeof(error->code), "%s", code);
	error->exit_status = ADMIN_EXIT_FAILED;
	return -EIO;
}

static int
send_all(int fd, const char *bytes, size_t len, struct client_error *error)
{
	while (len) {
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return client_fail(error, "EPIPE", "cannot send to quarryd: %m");
		bytes += n;
		len -= (size_t)n;
	}
	return 0;
}

/* The next line, without its newline; valid until the next call. */
static int
read_line(struct line_reader *reader, char **line, size_t *len, struct client_error *error)
{
	size_t scanned = reader->at;

	for (;;) {
		char *newline = reader->filled > scanned ? memchr(reader->bytes + scanned, '\n',
							       reader->filled - scanned)
							 : NULL;
		ssize_t n;

		if (newline) {
			*line = reader->bytes + reader->at;
			*len = (size_t)(newline - *line);
			reader->at += *len + 1;
			return 0;
		}
		if (reader->at) {
			reader->filled -= reader->at;
			memmove(reader->bytes, reader->bytes + reader->at, reader->filled);
			reader->at = 0;
		}
		scanned = reader->filled;
		if (reader->filled == reader->capacity) {
			if (reader->capacity >= REPLY_LINE_BYTES_MAX)
				return client_fail(error, "EPROTO", "quarryd's answer is too long");
			reader->capacity = reader->capacity ? 2 * reader->capacity : 65536;
			reader->bytes = xrealloc(reader->bytes, reader->capacity);
		}
		n = recv(reader->fd, reader->bytes + reader->filled,
		    reader->capacity - reader->filled, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return client_fail(error, "EPIPE", "cannot hear from quarryd: %m");
		if (n == 0)
			return client_fail(error, "EPIPE",
			    "quarryd went away before it answered: see its log for why");
		reader->filled += (size_t)n;
	}
}

static int
take_error(const json_t *reply, struct client_error *error)
{
	const json_t *object = json_object_get(reply, "error");
	const char *code = json_string_value(json_object_get(object, "code"));
	const char *text = json_string_value(json_object_get(object, "message"));
	json_int_t status = json_integer_value(json_object_get(object, "exit"));

	client_fail(error, code ? code : "EIO", "%s",
	    text ? text : "quarryd refuses, but does not say why");
	if (status >= 1 && status <= 125)
		error->exit_status = (int)status;
	return -EIO;
}

/* Adds a further part's ranges to the first; takes @part. */
static void
merge(json_t **result, json_t *part)
{
	if (!*result) {
		*result = json_incref(json_object_get(part, "result"));
	} else {
		json_t *ranges = json_object_get(*result, "ranges");

		if (json_is_array(ranges))
			json_array_extend(
			    ranges, json_object_get(json_object_get(part, "result"), "ranges"));
	}
	json_decref(part);
}

static int
read_reply(struct line_reader *reader, json_t **result, struct client_error *error)
{
	bool more = true;

	while (more) {
		char *line = NULL;
		size_t len = 0;
		json_t *reply;
		int rc = read_line(reader, &line, &len, error);

		if (rc)
			return rc;
		reply = json_loadb(line, len, 0, NULL);
		if (!json_is_object(reply) || !json_is_boolean(json_object_get(reply, "ok"))) {
			json_decref(reply);
			return client_fail(error, "EPROTO",
			    "what answers is not quarryd: is the path of the socket right?");
		}
		if (json_is_false(json_object_get(reply, "ok"))) {
			rc = take_error(reply, error);
			json_decref(reply);
			return rc;
		}
		more = json_is_true(json_object_get(reply, "more"));
		merge(result, reply);
	}
	return 0;
}

int
client_call(int fd, const json_t *request, json_t **result, struct client_error *error)
{
	struct line_reader reader = { .fd = fd };
	char *text = json_dumps(request, JSON_COMPACT);
	size_t len;
	int rc;

	CHECK(text);
	len = strlen(text);
	*result = NULL;
	if (len > ADMIN_REQUEST_BYTES_MAX) {
		free(text);
		return client_fail(error, "E2BIG", "that is too much for one command: use several");
	}
	text[len] = '\n'; /* in the terminating zero's place: what follows has a length */
	rc = send_all(fd, text, len + 1, error);
	free(text);
	if (!rc)
		rc = read_reply(&reader, result, error);
	free(reader.bytes);
	if (rc) {
		json_decref(*result);
		*result = NULL;
	}
	return rc;
}
