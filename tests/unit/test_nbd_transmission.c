/* SPDX-License-Identifier: Apache-2.0 */
/* NBD transmission: which requests are valid, what errors the others get, and how answers look. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/nbd_conversation.h"

#define END TEST_EXPORT_BYTES
#define FUA NBD_CMD_FLAG_FUA
#define DF NBD_CMD_FLAG_DF
#define ONE NBD_CMD_FLAG_REQ_ONE
#define NO_HOLE NBD_CMD_FLAG_NO_HOLE
#define FAST NBD_CMD_FLAG_FAST_ZERO
#define PAYLOAD NBD_CMD_FLAG_PAYLOAD_LEN

enum mode {
	SIMPLE,
	STRUCTURED,
	STATUS, /* structured, with base:allocation */
	READ_ONLY,
	EXTENDED,
};

static void
build_handshake(struct bytes *b, enum mode mode)
{
	const char *name = mode == READ_ONLY ? "tank/a@s" : "tank/a";

	add_u32(b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	if (mode == EXTENDED)
		add_option(b, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	else if (mode != SIMPLE)
		add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	if (mode == STATUS || mode == EXTENDED)
		add_meta(b, NBD_OPT_SET_META_CONTEXT, name, NBD_META_ALLOCATION, NULL);
	add_go(b, NBD_OPT_GO, name, "");
}

static const struct {
	enum mode mode;
	uint16_t type;
	uint16_t flags;
	uint64_t offset;
	uint64_t len;
	enum nbd_error error;
} cases[] = {
	/* within the export, to its last byte */
	{ SIMPLE, NBD_CMD_READ, 0, 0, 1, 0 },
	{ SIMPLE, NBD_CMD_READ, FUA, END - 1, 1, 0 },
	{ SIMPLE, NBD_CMD_READ, 0, END, 0, 0 },
	{ SIMPLE, NBD_CMD_READ, 0, 513, 32 * MIB, 0 },
	{ SIMPLE, NBD_CMD_WRITE, 0, END - 10, 10, 0 },
	{ SIMPLE, NBD_CMD_WRITE, FUA, 0, 4096, 0 },
	{ SIMPLE, NBD_CMD_WRITE, 0, 0, 0, 0 },
	{ SIMPLE, NBD_CMD_FLUSH, 0, 0, 0, 0 },
	{ SIMPLE, NBD_CMD_FLUSH, FUA, 0, 0, 0 },
	{ SIMPLE, NBD_CMD_TRIM, FUA, 0, GIB, 0 },
	{ SIMPLE, NBD_CMD_CACHE, 0, 0, GIB, 0 },
	{ SIMPLE, NBD_CMD_WRITE_ZEROES, FUA | NO_HOLE | FAST, 1, GIB, 0 },
	{ STATUS, NBD_CMD_BLOCK_STATUS, 0, 0, GIB, 0 },
	{ STATUS, NBD_CMD_BLOCK_STATUS, ONE | FUA, END - 1, 1, 0 },
	{ STRUCTURED, NBD_CMD_READ, DF, 0, 32 * MIB, 0 },
	/* beyond its end */
	{ SIMPLE, NBD_CMD_READ, 0, END, 1, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_READ, 0, END - 1, 2, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_READ, 0, UINT64_MAX, 2, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_READ, 0, END + 1, 0, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_WRITE, 0, END - 1, 2, NBD_ENOSPC },
	{ SIMPLE, NBD_CMD_WRITE, 0, UINT64_MAX - 1, 2, NBD_ENOSPC },
	{ SIMPLE, NBD_CMD_WRITE_ZEROES, 0, 778, GIB, NBD_ENOSPC },
	{ SIMPLE, NBD_CMD_TRIM, 0, 778, GIB, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_CACHE, 0, END, 1, NBD_EINVAL },
	{ STATUS, NBD_CMD_BLOCK_STATUS, 0, END - 1, 2, NBD_EINVAL },
	/* too large */
	{ SIMPLE, NBD_CMD_READ, 0, 0, 32 * MIB + 1, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_READ, 0, 0, UINT32_MAX, NBD_EINVAL },
	{ STRUCTURED, NBD_CMD_READ, DF, 0, 32 * MIB + 1, NBD_EOVERFLOW },
	{ SIMPLE, NBD_CMD_WRITE, 0, 0, 32 * MIB + 1, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_WRITE, 0, 0, 64 * MIB, NBD_EINVAL },
	/* unknown, or not negotiated, or not valid there */
	{ SIMPLE, 8, 0, 0, 0, NBD_EINVAL },
	{ SIMPLE, 0xffff, 0, 0, 0, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_READ, DF, 0, 1, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_READ, NO_HOLE, 0, 1, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_READ, 0x8000, 0, 1, NBD_EINVAL },
	{ STRUCTURED, NBD_CMD_WRITE, DF, 0, 5, NBD_EINVAL },
	{ STRUCTURED, NBD_CMD_WRITE, PAYLOAD, 0, 5, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_TRIM, NO_HOLE, 0, 1, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_FLUSH, ONE, 0, 0, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_FLUSH, 0, 1, 0, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_FLUSH, 0, 0, 1, NBD_EINVAL },
	{ SIMPLE, NBD_CMD_BLOCK_STATUS, 0, 0, 1, NBD_EINVAL },
	{ STRUCTURED, NBD_CMD_BLOCK_STATUS, 0, 0, 1, NBD_EINVAL },
	{ STATUS, NBD_CMD_BLOCK_STATUS, 0, 0, 0, NBD_EINVAL },
	{ STATUS, NBD_CMD_BLOCK_STATUS, DF, 0, 1, NBD_EINVAL },
	/* a snapshot */
	{ READ_ONLY, NBD_CMD_READ, 0, 0, 1, 0 },
	{ READ_ONLY, NBD_CMD_FLUSH, 0, 0, 0, 0 },
	{ READ_ONLY, NBD_CMD_WRITE, 0, 0, 5, NBD_EPERM },
	{ READ_ONLY, NBD_CMD_WRITE, 0, END, 5, NBD_EPERM },
	{ READ_ONLY, NBD_CMD_TRIM, 0, 0, 5, NBD_EPERM },
	{ READ_ONLY, NBD_CMD_WRITE_ZEROES, 0, 0, 5, NBD_EPERM },
	/* extended headers: lengths of 64 bits, and any command may bring a payload */
	{ EXTENDED, NBD_CMD_READ, DF, 0, 4096, 0 },
	{ EXTENDED, NBD_CMD_READ, 0, 0, 1ull << 33, NBD_EINVAL },
	{ EXTENDED, NBD_CMD_TRIM, 0, 0, END, 0 },
	{ EXTENDED, NBD_CMD_TRIM, 0, 0, UINT64_MAX, NBD_EINVAL },
	{ EXTENDED, NBD_CMD_WRITE_ZEROES, 0, 1, UINT64_MAX, NBD_ENOSPC },
	{ EXTENDED, NBD_CMD_WRITE, PAYLOAD, 0, 4096, 0 },
	{ EXTENDED, NBD_CMD_WRITE, 0, 0, 4096, 0 }, /* against the rules, but clear */
	{ EXTENDED, NBD_CMD_BLOCK_STATUS, 0, 0, END, 0 },
	{ EXTENDED, NBD_CMD_BLOCK_STATUS, PAYLOAD, 0, 16, NBD_EINVAL },
	{ EXTENDED, NBD_CMD_READ, PAYLOAD, 0, 16, NBD_EINVAL },
};

static void
add_case(struct bytes *b, size_t i, uint64_t cookie)
{
	bool extended = cases[i].mode == EXTENDED;

	if (extended)
		add_request_ext(
		    b, cases[i].flags, cases[i].type, cookie, cases[i].offset, cases[i].len);
	else
		add_request(b, cases[i].flags, cases[i].type, cookie, cases[i].offset,
		    (uint32_t)cases[i].len);
	if (cases[i].type == NBD_CMD_WRITE || (extended && cases[i].flags & PAYLOAD)) {
		uint8_t *payload = xcalloc(1, cases[i].len + 1);

		memset(payload, (int)i, cases[i].len);
		add(b, payload, cases[i].len);
		free(payload);
	}
}

static void
check_case(size_t i, uint64_t cookie, const struct nbd_request *request)
{
	if (request->error != cases[i].error)
		fail_msg("case %zu: error %d, not %d", i, request->error, cases[i].error);
	assert_true(request->cookie == cookie);
	assert_int_equal(request->type, cases[i].type);
	assert_int_equal(request->flags, cases[i].flags);
	assert_true(request->offset_bytes == cases[i].offset);
	assert_true(request->len_bytes == cases[i].len);
	assert_int_equal(request->payload_bytes,
	    !cases[i].error && cases[i].type == NBD_CMD_WRITE ? cases[i].len : 0);
	assert_int_equal(!request->message, !request->error);
}

/* Each request by itself, then a valid one behind it: the stream is still in step. */
static void
test_requests_are_checked(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bytes input = { 0 };
		struct conversation *c;

		build_handshake(&input, cases[i].mode);
		add_case(&input, i, 1000 + i);
		if (cases[i].mode == EXTENDED)
			add_request_ext(&input, 0, NBD_CMD_FLUSH, 7, 0, 0);
		else
			add_request(&input, 0, NBD_CMD_FLUSH, 7, 0, 0);
		c = converse(&input, input.len, false);
		if (c->request_count != 2)
			fail_msg("case %zu: %zu requests", i, c->request_count);
		check_case(i, 1000 + i, &c->requests[0]);
		assert_true(c->requests[1].cookie == 7);
		assert_int_equal(c->requests[1].error, 0);
		assert_false(c->closed);
		conversation_free(c);
		free(input.at);
	}
}

/* Who still sends a payload is not answered: clients (libnbd) do not expect it. */
static void
test_refusals_wait_for_the_payload(void **state)
{
	struct bytes input = { 0 };
	struct conversation *c;
	uint8_t payload[5000] = { 0 };

	build_handshake(&input, READ_ONLY);
	add_request(&input, 0, NBD_CMD_WRITE, 1, 0, sizeof(payload));
	add(&input, payload, sizeof(payload) - 1);
	c = converse(&input, input.len, false);
	assert_int_equal(c->request_count, 0);
	feed(c, payload, 1);
	assert_int_equal(c->request_count, 1);
	assert_true(c->requests[0].cookie == 1);
	assert_int_equal(c->requests[0].error, NBD_EPERM);
	conversation_free(c);
	free(input.at);
}

static void
build_many(struct bytes *b, enum mode mode)
{
	build_handshake(b, mode);
	for (size_t round = 0; round < 3; round++)
		for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
			if (cases[i].mode == mode && cases[i].len <= 4096)
				add_case(b, i, i);
}

/* Many frames in one buffer, or one in many pieces. */
static void
test_pieces_make_no_difference(void **state)
{
	static const size_t pieces[] = { 1, 2, 27, 28, 29, 4096, 5000 };

	for (enum mode mode = SIMPLE; mode <= EXTENDED; mode++) {
		struct bytes input = { 0 };
		struct conversation *whole;

		build_many(&input, mode);
		whole = converse(&input, input.len, false);
		assert_true(whole->request_count >= 3);
		assert_int_equal(whole->in.len, 0);
		for (size_t p = 0; p < ARRAY_SIZE(pieces); p++) {
			struct conversation *c = converse(&input, pieces[p], false);

			assert_int_equal(c->request_count, whole->request_count);
			for (size_t i = 0; i < c->request_count; i++) {
				const struct nbd_request *a = &c->requests[i];
				const struct nbd_request *b = &whole->requests[i];

				assert_true(a->cookie == b->cookie && a->error == b->error &&
					    a->offset_bytes == b->offset_bytes &&
					    a->len_bytes == b->len_bytes);
			}
			assert_true(c->payload_sum == whole->payload_sum);
			assert_int_equal(c->out.len, whole->out.len);
			assert_memory_equal(c->out.at, whole->out.at, c->out.len);
			conversation_free(c);
		}
		conversation_free(whole);
		free(input.at);
	}
}

static void
test_truncation_gives_a_prefix(void **state)
{
	struct bytes input = { 0 };
	struct conversation *whole;

	build_handshake(&input, SIMPLE);
	add_request(&input, 0, NBD_CMD_WRITE, 1, 0, 5);
	add(&input, "hello", 5);
	add_request(&input, DF, NBD_CMD_WRITE, 2, 0, 5);
	add(&input, "wrong", 5);
	add_request(&input, 0, NBD_CMD_READ, 3, 0, 5);
	whole = converse(&input, input.len, false);
	assert_int_equal(whole->request_count, 3);
	for (size_t len = 0; len < input.len; len++) {
		struct bytes part = { .at = input.at, .len = len };
		struct conversation *c = converse(&part, max_u64(len, 1), false);

		assert_true(c->request_count < 3);
		for (size_t i = 0; i < c->request_count; i++)
			assert_true(c->requests[i].cookie == whole->requests[i].cookie);
		conversation_free(c);
	}
	conversation_free(whole);
	free(input.at);
}

static void
expect_close(void (*build)(struct bytes *b))
{
	struct bytes input = { 0 };
	struct conversation *c;

	build_handshake(&input, SIMPLE);
	build(&input);
	add_request(&input, 0, NBD_CMD_FLUSH, 9, 0, 0);
	c = converse(&input, input.len, false);
	assert_true(c->closed);
	assert_int_equal(c->request_count, 0);
	conversation_free(c);
	free(input.at);
}

static void
build_disc(struct bytes *b)
{
	add_request(b, 0, NBD_CMD_DISC, 1, 0, 0);
}

static void
build_bad_magic(struct bytes *b)
{
	add_request_ext(b, 0, NBD_CMD_READ, 1, 0, 1); /* not negotiated */
}

static void
build_huge_write(struct bytes *b)
{
	add_request(b, 0, NBD_CMD_WRITE, 1, 0, NBD_PAYLOAD_SKIP_BYTES_MAX + 1);
}

static void
test_some_requests_end_it(void **state)
{
	expect_close(build_disc);
	expect_close(build_bad_magic);
	expect_close(build_huge_write);
}

static void
test_garbage_is_survived(void **state)
{
	uint64_t random = 7;

	for (size_t round = 0; round < 1500; round++) {
		struct bytes input = { 0 };
		struct conversation *c;
		size_t start;

		build_handshake(&input, round % (EXTENDED + 1));
		start = input.len;
		for (size_t i = 0; i < 20; i++) {
			size_t n = (random = mix64(random + i)) % ARRAY_SIZE(cases);

			if (cases[n].len <= 4096)
				add_case(&input, n, i);
		}
		for (size_t n = 0; n < 8 && input.len > start; n++) {
			random = mix64(random + n);
			input.at[start + random % (input.len - start)] = (uint8_t)(random >> 40);
		}
		c = converse(&input, input.len, false);
		for (size_t i = 0; i < c->request_count; i++) {
			const struct nbd_request *request = &c->requests[i];

			if (!request->error)
				assert_true(request->offset_bytes <= END &&
					    request->len_bytes <= END - request->offset_bytes);
			assert_true(request->payload_bytes <= NBD_PAYLOAD_BYTES_MAX);
		}
		conversation_free(c);
		free(input.at);
	}
}

/* --- answers --- */

static const struct nbd_session simple = { .state = NBD_SESSION_HEADER };
static const struct nbd_session structured = { .state = NBD_SESSION_HEADER, .structured = true };
static const struct nbd_session extended = {
	.state = NBD_SESSION_HEADER,
	.structured = true,
	.extended = true,
};

static void
expect_head(const struct nbd_reply *reply, const char *hex)
{
	char text[2 * NBD_REPLY_HEAD_BYTES_MAX + 1];

	for (size_t i = 0; i < reply->head_bytes; i++)
		snprintf(text + 2 * i, 3, "%02x", reply->head[i]);
	assert_string_equal(text, hex);
}

static struct nbd_request
request_of(uint16_t type, uint16_t flags, uint64_t offset, uint64_t len)
{
	struct nbd_request request = {
		.type = type,
		.flags = flags,
		.offset_bytes = offset,
		.len_bytes = len,
	};

	memcpy(&request.cookie, "\1\2\3\4\5\6\7\10", 8);
	return request;
}

#define COOKIE "0102030405060708"
#define OFFSET_4096 "0000000000001000"

static void
test_success_without_data(void **state)
{
	struct nbd_request write = request_of(NBD_CMD_WRITE, 0, 4096, 1);
	struct nbd_request read = request_of(NBD_CMD_READ, 0, 4096, 0);
	struct nbd_reply reply;

	nbd_reply_done(&simple, &write, &reply);
	expect_head(&reply, "6744669800000000" COOKIE);
	assert_int_equal(reply.tail_bytes, 0);
	nbd_reply_done(&structured, &write, &reply);
	expect_head(&reply, "6744669800000000" COOKIE);
	nbd_reply_done(&structured, &read, &reply);
	expect_head(&reply, "668e33ef00010000" COOKIE "00000000");
	nbd_reply_done(&extended, &write, &reply);
	expect_head(&reply, "6e8a278c00010000" COOKIE OFFSET_4096 "0000000000000000");
}

static void
test_errors(void **state)
{
	struct nbd_request read = request_of(NBD_CMD_READ, 0, 4096, 1);
	struct nbd_reply reply;

	nbd_reply_error(&simple, &read, NBD_EIO, "disk", &reply);
	expect_head(&reply, "6744669800000005" COOKIE);
	assert_int_equal(reply.tail_bytes, 0);
	nbd_reply_error(&structured, &read, NBD_EIO, "disk", &reply);
	expect_head(&reply, "668e33ef00018001" COOKIE "0000000a"
			    "000000050004");
	assert_int_equal(reply.tail_bytes, 4);
	assert_memory_equal(reply.tail, "disk", 4);
	nbd_reply_error(&structured, &read, NBD_ESHUTDOWN, NULL, &reply);
	expect_head(&reply, "668e33ef00018001" COOKIE "00000006"
			    "0000006c0000");
	nbd_reply_error(&extended, &read, NBD_EIO, "disk", &reply);
	expect_head(&reply, "6e8a278c00018001" COOKIE OFFSET_4096 "000000000000000a"
			    "000000050004");
}

static void
test_data(void **state)
{
	struct nbd_request read = request_of(NBD_CMD_READ, 0, 4096, 512);
	struct nbd_request plain = request_of(NBD_CMD_READ, DF, 4096, 512);
	uint8_t data[512] = { 0 };
	struct nbd_reply reply;

	nbd_reply_data(&simple, &read, data, &reply);
	expect_head(&reply, "6744669800000000" COOKIE);
	assert_ptr_equal(reply.tail, data);
	assert_int_equal(reply.tail_bytes, 512);
	nbd_reply_data(&structured, &read, data, &reply);
	expect_head(&reply, "668e33ef00010002" COOKIE "0000000c" OFFSET_4096 "00000200");
	assert_int_equal(reply.tail_bytes, 0);
	nbd_reply_data(&structured, &plain, data, &reply);
	expect_head(&reply, "668e33ef00010001" COOKIE "00000208" OFFSET_4096);
	assert_int_equal(reply.tail_bytes, 512);
	data[511] = 1;
	nbd_reply_data(&structured, &read, data, &reply);
	expect_head(&reply, "668e33ef00010001" COOKIE "00000208" OFFSET_4096);
	nbd_reply_data(&extended, &read, data, &reply);
	expect_head(&reply, "6e8a278c00010001" COOKIE OFFSET_4096 "0000000000000208" OFFSET_4096);
}

/* What goes over the wire. */
static void
flatten(const struct nbd_reply *reply, struct bytes *to)
{
	to->len = 0;
	add(to, reply->head, reply->head_bytes);
	add(to, reply->tail, reply->tail_bytes);
	for (uint32_t i = 0; i < reply->more_count; i++)
		add(to, reply->more[i].bytes, reply->more[i].len_bytes);
}

static uint64_t
take_be(const uint8_t **at, size_t len)
{
	uint64_t n = 0;

	for (; len; len--)
		n = n << 8 | *(*at)++;
	return n;
}

/* Reads the chunks of a READ at 4096 into @data; their kinds, as D and H, go to @kinds. */
static void
reassemble(const struct bytes *wire, bool is_extended, uint8_t *data, size_t len, char *kinds)
{
	const uint8_t *at = wire->at;
	bool last = false;
	size_t done = 0;

	while (at < wire->at + wire->len) {
		uint64_t kind, chunk_len, offset;

		assert_false(last);
		assert_int_equal(take_be(&at, 4),
		    is_extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
		last = take_be(&at, 2) & NBD_REPLY_FLAG_DONE;
		kind = take_be(&at, 2);
		at += 8;
		if (is_extended)
			assert_int_equal(take_be(&at, 8), 4096);
		chunk_len = take_be(&at, is_extended ? 8 : 4) - 8;
		offset = take_be(&at, 8) - 4096;
		assert_int_equal(offset, done);
		if (kind == NBD_REPLY_TYPE_OFFSET_HOLE) {
			assert_int_equal(chunk_len, 4);
			chunk_len = take_be(&at, 4);
			*kinds++ = 'H';
		} else {
			assert_int_equal(kind, NBD_REPLY_TYPE_OFFSET_DATA);
			*kinds++ = 'D';
		}
		assert_true(chunk_len > 0 && chunk_len <= len - done);
		memset(data + done, 0, chunk_len);
		if (kind == NBD_REPLY_TYPE_OFFSET_DATA) {
			memcpy(data + done, at, chunk_len);
			at += chunk_len;
		}
		done += chunk_len;
	}
	*kinds = 0;
	assert_true(last && done == len);
}

/* A READ across data and holes: D and H are 64 KiB each, d and h 4 KiB. */
static void
test_sparse_data(void **state)
{
	static const struct {
		const char *content;
		const char *kinds;
	} sparse[] = {
		{ "DH", "DH" },
		{ "HD", "HD" },
		{ "HDH", "HDH" },
		{ "DHD", "DHD" },
		{ "dHd", "DHD" },
		{ "DDHHHDHdDH", "DHDHDH" },
		{ "DhhhD", "D" },
		{ "HhdhhhhD", "HD" },
		{ "DHDHDHDHDHDHDHDHDHDHDHDHDH", "DHDHDHDHDHDHDHD" },
		{ "HDHDHDHDHDHDHDHDHDHDHDHDHDHD", "HDHDHDHDHDHDHDHD" },
	};
	struct bytes wire = { 0 };

	for (size_t i = 0; i < 2 * ARRAY_SIZE(sparse); i++) {
		bool is_extended = i % 2;
		struct bytes data = { 0 };
		struct nbd_request read;
		struct nbd_reply reply;
		uint8_t *original, *got;
		char kinds[100];

		for (const char *c = sparse[i / 2].content; *c; c++) {
			size_t len = *c == 'D' || *c == 'H' ? 64 * KIB : 4096;
			uint8_t *block = xcalloc(1, len);

			/* data that looks like zeroes at first */
			for (size_t at = 0; (*c == 'D' || *c == 'd') && at < len; at += 4096)
				block[at + 4095] = 1;
			add(&data, block, len);
			free(block);
		}
		original = xmalloc(data.len);
		memcpy(original, data.at, data.len);
		got = xmalloc(data.len);
		read = request_of(NBD_CMD_READ, 0, 4096, (uint32_t)data.len);
		nbd_reply_data(is_extended ? &extended : &structured, &read, data.at, &reply);
		flatten(&reply, &wire);
		reassemble(&wire, is_extended, got, data.len, kinds);
		assert_string_equal(kinds, sparse[i / 2].kinds);
		assert_memory_equal(got, original, data.len);

		/* Not to be fragmented, or without chunks: it is as it is. */
		memcpy(data.at, original, data.len);
		nbd_reply_data(&simple, &read, data.at, &reply);
		assert_true(
		    reply.tail == data.at && reply.tail_bytes == data.len && !reply.more_count);
		read.flags = DF;
		nbd_reply_data(is_extended ? &extended : &structured, &read, data.at, &reply);
		assert_true(
		    reply.tail == data.at && reply.tail_bytes == data.len && !reply.more_count);
		assert_memory_equal(data.at, original, data.len);
		free(original);
		free(got);
		free(data.at);
	}
	free(wire.at);
}

/* Pieces begin and end anywhere; holes are told of as whole blocks of the export. */
static void
test_sparse_data_at_random(void **state)
{
	uint64_t random = 1;
	struct bytes wire = { 0 };

	for (size_t round = 0; round < 300; round++) {
		size_t len = 1 + (random = mix64(random + round)) % (2 * MIB);
		uint8_t *data = xcalloc(1, len + 1), *original = xmalloc(len), *got = xmalloc(len);
		struct nbd_request read = request_of(NBD_CMD_READ, 0, 4096, (uint32_t)len);
		struct nbd_reply reply;
		char kinds[100];

		for (size_t n = 0; n <= round % 12; n++) {
			random = mix64(random + n);
			memset(data + random % len, (int)n,
			    min_u64(random >> 32 & 0xffff, len - random % len));
		}
		data[0] = 1; /* else it may be one hole, which has no bound */
		memcpy(original, data, len);
		nbd_reply_data(&structured, &read, data, &reply);
		flatten(&reply, &wire);
		reassemble(&wire, false, got, len, kinds);
		assert_memory_equal(got, original, len);
		free(data);
		free(original);
		free(got);
	}
	free(wire.at);
}

static void
test_status(void **state)
{
	struct nbd_request all = request_of(NBD_CMD_BLOCK_STATUS, 0, 4096, 8192);
	struct nbd_request one = request_of(NBD_CMD_BLOCK_STATUS, ONE, 4096, 8192);
	struct volume_extent extents[3];
	static const struct volume_extent original[3] = { { 4096, true, false, 0 },
		{ 1, false, false, 1 }, { GIB, true, false, 0 } };
	static const uint8_t wire[] = { 0, 0, 16, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 15,
		255, 0, 0, 0, 3 };
	struct nbd_reply reply;

	memcpy(extents, original, sizeof(extents));
	reply.head_bytes = 0;
	nbd_reply_status(&structured, &all, 0, extents, 3, true, &reply);
	expect_head(&reply, "668e33ef00010005" COOKIE "0000001c"
			    "00000001");
	assert_int_equal(reply.tail_bytes, sizeof(wire));
	assert_memory_equal(reply.tail, wire, sizeof(wire));

	memcpy(extents, original, sizeof(extents));
	reply.head_bytes = 0;
	nbd_reply_status(&structured, &one, 0, extents, 3, true, &reply);
	assert_int_equal(reply.tail_bytes, 8);
	assert_memory_equal(reply.tail, wire, 8);

	memcpy(extents, original, sizeof(extents));
	reply.head_bytes = 0;
	nbd_reply_status(&extended, &all, 0, extents, 3, true, &reply);
	expect_head(&reply, "6e8a278c00010006" COOKIE OFFSET_4096 "0000000000000038"
			    "0000000100000003");
	assert_int_equal(reply.tail_bytes, 48);
	assert_int_equal(((const uint8_t *)reply.tail)[15], 3);
}

/* Two contexts: the second chunk stands behind the first; what they say of one extent differs. */
static void
test_status_of_two_contexts(void **state)
{
	struct nbd_request request = request_of(NBD_CMD_BLOCK_STATUS, 0, 4096, 8192);
	struct nbd_session session = {
		.structured = true,
		.contexts = { { .kind = NBD_CONTEXT_DIFF }, { .kind = NBD_CONTEXT_BITMAP } },
		.context_count = 2,
	};
	static const struct volume_extent original[3] = { { 4096, false, false, 3 },
		{ 1024, false, true, 3 }, { GIB, true, true, 0 } };
	static const uint8_t first[] = { 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 1, 0, 0, 12,
		0, 0, 0, 0, 3 };
	static const uint8_t second[] = { 0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 5 };
	static const uint8_t behind_cookie[] = { 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 16, 0, 0, 0, 0, 0,
		0, 0, 16, 0, 0, 0, 0, 1 };
	uint64_t buffer[64];
	struct nbd_reply reply = { .head_bytes = 0 };
	const uint8_t *tail = (const uint8_t *)buffer;
	size_t next;

	assert_int_equal(nbd_reply_status_next(&reply), 0);
	memcpy(buffer, original, sizeof(original));
	nbd_reply_status(&session, &request, 0, (void *)buffer, 3, false, &reply);
	expect_head(&reply, "668e33ef00000005" COOKIE "0000001c"
			    "00000001");
	next = nbd_reply_status_next(&reply);
	assert_true(next >= reply.tail_bytes + 24 && next % 8 == 0);
	memcpy((char *)buffer + next, original, sizeof(original));
	nbd_reply_status(&session, &request, 1, (void *)((char *)buffer + next), 3, true, &reply);
	assert_ptr_equal(reply.tail, buffer);
	assert_int_equal(reply.tail_bytes, sizeof(first) + 24 + 16);
	assert_memory_equal(tail, first, sizeof(first));
	assert_memory_equal(tail + sizeof(first), second, sizeof(second));
	assert_memory_equal(tail + sizeof(first) + 16, behind_cookie, sizeof(behind_cookie));
}

/* BLOCK_STATUS with a payload: which contexts are to be told. */
static void
test_status_payload(void **state)
{
	static const struct {
		uint64_t len_bytes;
		uint32_t ids[3];
		size_t payload_bytes;
		uint32_t contexts;
		enum nbd_error error;
	} payloads[] = {
		{ 8192, { 2 }, 12, 2, 0 },
		{ 8192, { 2, 1 }, 16, 3, 0 },
		{ TEST_EXPORT_BYTES, { 1 }, 12, 1, 0 },
		{ TEST_EXPORT_BYTES + 1, { 1 }, 12, 1, NBD_EINVAL },
		{ 0, { 1 }, 12, 1, NBD_EINVAL },
		{ 8192, { 1, 1 }, 16, 0, NBD_EINVAL },
		{ 8192, { 3 }, 12, 0, NBD_EINVAL },
		{ 8192, { 0 }, 12, 0, NBD_EINVAL },
		{ 8192, { 1 }, 8, 0, NBD_EINVAL },
		{ 8192, { 1, 2 }, 13, 0, NBD_EINVAL },
		{ 8192, { 1 }, 4000, 0, NBD_EINVAL },
	};
	struct bytes input = { 0 };

	add_u32(&input, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	add_option(&input, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	add_meta(
	    &input, NBD_OPT_SET_META_CONTEXT, "tank/a", "base:allocation", "quarry:diff:s", NULL);
	add_go(&input, NBD_OPT_GO, "tank/a", "");
	for (size_t i = 0; i < ARRAY_SIZE(payloads); i++) {
		uint8_t payload[4000] = { 0 };
		uint64_t len_be = htobe64(payloads[i].len_bytes);

		memcpy(payload, &len_be, 8);
		for (size_t k = 0; k < 3; k++) {
			uint32_t id_be = htobe32(payloads[i].ids[k]);

			memcpy(payload + 8 + 4 * k, &id_be, 4);
		}
		add_request_ext(&input, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, i, 0,
		    payloads[i].payload_bytes);
		add(&input, payload, payloads[i].payload_bytes);
	}
	add_request_ext(&input, 0, NBD_CMD_BLOCK_STATUS, 99, 0, 1);
	for (size_t piece = 1; piece <= input.len; piece = piece * 3 + 1) {
		struct conversation *c = converse(&input, piece, false);

		assert_int_equal(c->request_count, ARRAY_SIZE(payloads) + 1);
		for (size_t i = 0; i < ARRAY_SIZE(payloads); i++) {
			const struct nbd_request *request = &c->requests[i];

			assert_int_equal(request->cookie, i);
			assert_int_equal(request->error, payloads[i].error);
			assert_int_equal(request->payload_bytes, 0);
			if (request->error)
				continue;
			assert_int_equal(request->len_bytes, payloads[i].len_bytes);
			assert_int_equal(request->contexts, payloads[i].contexts);
		}
		assert_int_equal(c->requests[ARRAY_SIZE(payloads)].contexts, 3);
		conversation_free(c);
	}
	free(input.at);
}

static void
test_every_error_has_a_name(void **state)
{
	static const struct {
		int error;
		enum nbd_error nbd;
	} expected[] = {
		{ -EIO, NBD_EIO },
		{ -EUCLEAN, NBD_EIO },
		{ -ENOSPC, NBD_ENOSPC },
		{ -EINVAL, NBD_EINVAL },
		{ -EROFS, NBD_EPERM },
		{ -ENOMEM, NBD_ENOMEM },
		{ -ENOTSUP, NBD_ENOTSUP },
		{ -ESHUTDOWN, NBD_ESHUTDOWN },
		{ -EXDEV, NBD_EIO },
	};

	for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
		const char *message = NULL;

		assert_int_equal(nbd_error_from(expected[i].error, &message), expected[i].nbd);
		assert_non_null(message);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests_are_checked),
		cmocka_unit_test(test_refusals_wait_for_the_payload),
		cmocka_unit_test(test_pieces_make_no_difference),
		cmocka_unit_test(test_truncation_gives_a_prefix),
		cmocka_unit_test(test_some_requests_end_it),
		cmocka_unit_test(test_garbage_is_survived),
		cmocka_unit_test(test_success_without_data),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_data),
		cmocka_unit_test(test_sparse_data),
		cmocka_unit_test(test_sparse_data_at_random),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_status_of_two_contexts),
		cmocka_unit_test(test_status_payload),
		cmocka_unit_test(test_every_error_has_a_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
