/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client and an owner for struct nbd_session, for tests: builds what a client sends, feeds it in
 * pieces of any size, answers the session's questions out of a small list of exports, and keeps
 * what came of it: all output, and all requests.
 */
#ifndef QUARRY_TESTS_UNIT_NBD_CONVERSATION_H
#define QUARRY_TESTS_UNIT_NBD_CONVERSATION_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "frontends/nbd/nbd_session.h"

struct bytes {
	uint8_t *at;
	size_t len;
	size_t capacity;
};

static inline void
add(struct bytes *b, const void *data, size_t len)
{
	if (b->len + len >= b->capacity) {
		b->capacity = 2 * (b->len + len) + 64;
		b->at = xrealloc(b->at, b->capacity);
	}
	if (len)
		memcpy(b->at + b->len, data, len);
	b->len += len;
}

static inline void
add_u16(struct bytes *b, uint16_t n)
{
	n = htobe16(n);
	add(b, &n, sizeof(n));
}

static inline void
add_u32(struct bytes *b, uint32_t n)
{
	n = htobe32(n);
	add(b, &n, sizeof(n));
}

static inline void
add_u64(struct bytes *b, uint64_t n)
{
	n = htobe64(n);
	add(b, &n, sizeof(n));
}

static inline void
add_text(struct bytes *b, const char *text)
{
	add_u32(b, (uint32_t)strlen(text));
	add(b, text, strlen(text));
}

static inline void
add_option(struct bytes *b, uint32_t option, const void *data, size_t len)
{
	add_u64(b, NBD_OPT_MAGIC);
	add_u32(b, option);
	add_u32(b, (uint32_t)len);
	add(b, data, len);
}

/* GO or INFO; @infos is a string of digits. */
static inline void
add_go(struct bytes *b, uint32_t option, const char *name, const char *infos)
{
	struct bytes data = { 0 };

	add_text(&data, name);
	add_u16(&data, (uint16_t)strlen(infos));
	for (; *infos; infos++)
		add_u16(&data, (uint16_t)(*infos - '0'));
	add_option(b, option, data.at, data.len);
	free(data.at);
}

/* LIST_META_CONTEXT or SET_META_CONTEXT; queries end with NULL. */
static inline void
add_meta(struct bytes *b, uint32_t option, const char *name, ...)
{
	struct bytes data = { 0 };
	struct bytes queries = { 0 };
	uint32_t count = 0;
	const char *query;
	va_list args;

	va_start(args, name);
	while ((query = va_arg(args, const char *))) {
		add_text(&queries, query);
		count++;
	}
	va_end(args);
	add_text(&data, name);
	add_u32(&data, count);
	add(&data, queries.at, queries.len);
	add_option(b, option, data.at, data.len);
	free(data.at);
	free(queries.at);
}

static inline void
add_request(
    struct bytes *b, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint32_t len)
{
	add_u32(b, NBD_REQUEST_MAGIC);
	add_u16(b, flags);
	add_u16(b, type);
	add(b, &cookie, sizeof(cookie));
	add_u64(b, offset);
	add_u32(b, len);
}

/* As above with extended headers. */
static inline void
add_request_ext(
    struct bytes *b, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint64_t len)
{
	add_u32(b, NBD_EXTENDED_REQUEST_MAGIC);
	add_u16(b, flags);
	add_u16(b, type);
	add(b, &cookie, sizeof(cookie));
	add_u64(b, offset);
	add_u64(b, len);
}

#define REQUESTS_MAX 4096

struct conversation {
	struct nbd_session session;
	bool one_volume; /* the target has but one */
	bool closed;
	struct bytes in; /* not yet consumed */
	struct bytes out;
	struct nbd_request requests[REQUESTS_MAX];
	size_t request_count;
	uint64_t payload_sum; /* of payload bytes, weighted by their place */
	uint64_t payload_bytes;
	uint32_t payload_left;
};

#define TEST_EXPORT_BYTES (1 * GIB + 777)

static inline enum nbd_event
answer(struct conversation *c, enum nbd_event event)
{
	static const struct name names[] = {
		{ "tank", "a", "" },
		{ "tank", "a", "s" },
		{ "tank", "b", "" },
	};
	struct nbd_session *s = &c->session;
	struct nbd_export export = { .size_bytes = TEST_EXPORT_BYTES };
	int error = -ENOENT;

	if (event == NBD_EVENT_NAMES) {
		struct name volumes[2] = { names[0], names[2] };

		if (s->want_snapshots)
			return nbd_session_names(s, 0, names, 3);
		return nbd_session_names(s, 0, volumes, c->one_volume ? 1 : 2);
	}
	if (strcmp(s->open_name.volume, "busy") == 0)
		error = -EBUSY;
	if (strcmp(s->open_name.volume, "leaving") == 0)
		error = -ESHUTDOWN;
	if (strcmp(s->open_name.volume, "broken") == 0)
		error = -EIO;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (memcmp(&names[i], &s->open_name, sizeof(names[i])) == 0)
			error = 0;
	name_format(&s->open_name, export.name);
	export.block_bytes = strcmp(s->open_name.volume, "b") == 0 ? 4096 : 512;
	snprintf(export.description, sizeof(export.description), "about %s", s->open_name.volume);
	export.readonly = s->open_name.snapshot[0];
	return nbd_session_opened(s, error, &export);
}

static inline void
take_output(struct conversation *c)
{
	add(&c->out, c->session.out.bytes, c->session.out.len_bytes);
	c->session.out.len_bytes = 0;
}

static inline void
consume(struct conversation *c, size_t len)
{
	memmove(c->in.at, c->in.at + len, c->in.len - len);
	c->in.len -= len;
}

static inline void
take_payload_bytes(struct conversation *c)
{
	size_t len = min_u64(c->in.len, c->payload_left);

	for (size_t i = 0; i < len; i++)
		c->payload_sum += (++c->payload_bytes) * c->in.at[i];
	nbd_session_payload_taken(&c->session, len);
	c->payload_left -= (uint32_t)len;
	consume(c, len);
}

static inline void
feed(struct conversation *c, const void *data, size_t len)
{
	add(&c->in, data, len);
	while (!c->closed) {
		enum nbd_event event;
		size_t consumed;

		if (c->payload_left) {
			if (c->in.len == 0)
				return;
			take_payload_bytes(c);
			continue;
		}
		event = nbd_session_input(&c->session, c->in.at, c->in.len, &consumed);
		CHECK(consumed <= c->in.len);
		consume(c, consumed);
		while (event == NBD_EVENT_NAMES || event == NBD_EVENT_OPEN)
			event = answer(c, event);
		take_output(c);
		if (event == NBD_EVENT_TLS)
			nbd_session_secured(&c->session); /* by a peer that needs no bytes */
		if (event == NBD_EVENT_MORE)
			return;
		if (event == NBD_EVENT_REQUEST) {
			CHECK(c->request_count < REQUESTS_MAX);
			c->requests[c->request_count++] = c->session.request;
			c->payload_left = c->session.request.payload_bytes;
		}
		c->closed = event == NBD_EVENT_CLOSE;
	}
}

/* What the listener of the next conversations says of TLS. */
static enum nbd_tls_policy conversation_tls;
static bool conversation_tls_reveals;

/* A conversation in which @input arrives in pieces of @piece bytes. */
static inline struct conversation *
converse(const struct bytes *input, size_t piece, bool one_volume)
{
	struct conversation *c = xcalloc(1, sizeof(*c));

	c->one_volume = one_volume;
	add(&c->in, NULL, 0);
	nbd_session_init(&c->session);
	c->session.tls = conversation_tls;
	c->session.tls_reveals = conversation_tls_reveals;
	take_output(c);
	for (size_t at = 0; at < input->len; at += piece)
		feed(c, input->at + at, min_u64(piece, input->len - at));
	return c;
}

static inline void
conversation_free(struct conversation *c)
{
	nbd_session_fini(&c->session);
	free(c->in.at);
	free(c->out.at);
	free(c);
}

#endif
