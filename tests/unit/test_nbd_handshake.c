/* SPDX-License-Identifier: Apache-2.0 */
/* The NBD handshake: what each option is answered with, however its bytes arrive. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/nbd_conversation.h"

/* --- the server's output as text --- */

struct cursor {
	const uint8_t *at;
	size_t left;
};

static uint64_t
get(struct cursor *in, size_t len)
{
	uint64_t n = 0;

	assert_true(in->left >= len);
	for (size_t i = 0; i < len; i++)
		n = n << 8 | in->at[i];
	in->at += len;
	in->left -= len;
	return n;
}

static const char *
reply_name(uint32_t type)
{
	static const struct {
		uint32_t type;
		const char *name;
	} names[] = {
		{ NBD_REP_ACK, "ack" },
		{ NBD_REP_ERR_UNSUP, "UNSUP" },
		{ NBD_REP_ERR_POLICY, "POLICY" },
		{ NBD_REP_ERR_INVALID, "INVALID" },
		{ NBD_REP_ERR_TLS_REQD, "TLS_REQD" },
		{ NBD_REP_ERR_UNKNOWN, "UNKNOWN" },
		{ NBD_REP_ERR_SHUTDOWN, "SHUTDOWN" },
		{ NBD_REP_ERR_TOO_BIG, "TOO_BIG" },
		{ NBD_REP_ERR_EXT_HEADER_REQD, "EXT_HEADER_REQD" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].type == type)
			return names[i].name;
	fail_msg("reply type %#x", type);
	return NULL;
}

static void
print_info(FILE *text, struct cursor data)
{
	uint16_t info = (uint16_t)get(&data, 2);

	if (info == NBD_INFO_EXPORT) {
		uint64_t size = get(&data, 8);

		fprintf(text, "export %llu ", (unsigned long long)size);
		fprintf(text, "%#x", (unsigned int)get(&data, 2));
		assert_int_equal(data.left, 0);
	} else if (info == NBD_INFO_BLOCK_SIZE) {
		fprintf(text, "block %u", (unsigned int)get(&data, 4));
		fprintf(text, " %u", (unsigned int)get(&data, 4));
		fprintf(text, " %u", (unsigned int)get(&data, 4));
		assert_int_equal(data.left, 0);
	} else {
		fprintf(text, "%s %.*s", info == NBD_INFO_NAME ? "name" : "description",
		    (int)data.left, (const char *)data.at);
	}
}

static void
print_reply(FILE *text, uint32_t type, struct cursor data)
{
	switch (type) {
	case NBD_REP_SERVER: {
		uint64_t len = get(&data, 4);

		assert_int_equal(len, data.left);
		fprintf(text, "server %.*s", (int)data.left, (const char *)data.at);
		break;
	}
	case NBD_REP_INFO:
		print_info(text, data);
		break;
	case NBD_REP_META_CONTEXT:
		fprintf(text, "meta %u", (unsigned int)get(&data, 4));
		fprintf(text, " %.*s", (int)data.left, (const char *)data.at);
		break;
	default: /* an error has a message for humans, an acknowledgement nothing */
		fprintf(text, "%s", reply_name(type));
		assert_int_equal(data.left > 0, type != NBD_REP_ACK);
		break;
	}
}

static bool
begins_with_magic(const struct cursor *in)
{
	uint64_t magic_be;

	memcpy(&magic_be, in->at, sizeof(magic_be));
	return be64toh(magic_be) == NBD_REP_MAGIC;
}

/* "OPTION reply; OPTION reply; …", and what became of the session. */
static char *
transcript(const struct conversation *c)
{
	struct cursor in = { c->out.at, c->out.len };
	char *result;
	size_t size;
	FILE *text = open_memstream(&result, &size);

	assert_true(get(&in, 8) == NBD_MAGIC);
	assert_true(get(&in, 8) == NBD_OPT_MAGIC);
	assert_int_equal(get(&in, 2), NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	while (in.left) {
		struct cursor data;
		uint32_t type;

		if (in.left >= 8 && !begins_with_magic(&in)) {
			fprintf(text, "raw %zu; ", in.left);
			break;
		}
		assert_true(get(&in, 8) == NBD_REP_MAGIC);
		fprintf(text, "%u ", (unsigned int)get(&in, 4));
		type = (uint32_t)get(&in, 4);
		data.left = get(&in, 4);
		data.at = in.at;
		assert_true(data.left <= in.left);
		print_reply(text, type, data);
		fprintf(text, "; ");
		in.at += data.left;
		in.left -= data.left;
	}
	fprintf(text, "%s",
	    c->closed                                  ? "closed"
	    : nbd_session_in_transmission(&c->session) ? "transmission"
						       : "option");
	if (nbd_session_in_transmission(&c->session) && c->session.context_count)
		fprintf(text, " %u contexts", c->session.context_count);
	fclose(text);
	return result;
}

/* --- cases --- */

/* HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES MULTI_CONN CACHE FAST_ZERO */
#define FLAGS "0xd6d"
#define FLAGS_DF "0xded"
#define FLAGS_EXT "0x1ded"
#define FLAGS_DF_RO "0xdef"
#define SIZE "1073742601"

static void
build_flags(struct bytes *b)
{
	add_u32(b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

static void
build_silence(struct bytes *b)
{
}

static void
build_unknown_flags(struct bytes *b)
{
	add_u32(b, 4 | NBD_FLAG_FIXED_NEWSTYLE);
}

static void
build_bad_magic(struct bytes *b)
{
	build_flags(b);
	add_u64(b, NBD_OPT_MAGIC + 1);
	add_u64(b, 0);
}

static void
build_export_name(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_EXPORT_NAME, "tank/a", 6);
}

static void
build_export_name_zeroes(struct bytes *b)
{
	add_u32(b, NBD_FLAG_FIXED_NEWSTYLE);
	add_option(b, NBD_OPT_EXPORT_NAME, "tank/a", 6);
}

static void
build_export_name_oldest(struct bytes *b)
{
	add_u32(b, 0);
	add_option(b, NBD_OPT_EXPORT_NAME, "tank/a", 6);
}

static void
build_export_name_unknown(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_EXPORT_NAME, "tank/nothing", 12);
}

static void
build_export_name_long(struct bytes *b)
{
	char name[5000];

	memset(name, 'x', sizeof(name));
	build_flags(b);
	add_option(b, NBD_OPT_EXPORT_NAME, name, sizeof(name));
}

static void
build_abort(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_ABORT, NULL, 0);
	add_option(b, NBD_OPT_LIST, NULL, 0);
}

static void
build_list(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_LIST, "x", 1);
	add_option(b, NBD_OPT_LIST, NULL, 0);
}

static void
build_unsupported(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_STARTTLS, NULL, 0);
	add_option(b, 4, "peek", 4);
	add_option(b, 0, NULL, 0);
	add_option(b, 0xffffffff, "?", 1);
}

static void
build_too_big(struct bytes *b)
{
	size_t len = NBD_OPTION_BYTES_MAX + 1;
	char *data = xcalloc(1, len);

	build_flags(b);
	add_option(b, NBD_OPT_GO, data, len);
	add_option(b, 77, data, len);
	add_option(b, NBD_OPT_INFO, data, len - 1);
	free(data);
}

static void
build_huge(struct bytes *b)
{
	build_flags(b);
	add_u64(b, NBD_OPT_MAGIC);
	add_u32(b, NBD_OPT_GO);
	add_u32(b, NBD_OPTION_SKIP_BYTES_MAX + 1);
}

static void
build_go(struct bytes *b)
{
	build_flags(b);
	add_go(b, NBD_OPT_GO, "tank/a", "");
}

static void
build_go_snapshot(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, "x", 1);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_go(b, NBD_OPT_GO, "tank/a@s", "01239");
}

static void
build_info_then_go(struct bytes *b)
{
	build_flags(b);
	add_go(b, NBD_OPT_INFO, "tank/b", "3");
	add_go(b, NBD_OPT_GO, "tank/b", "1");
}

static void
build_go_refused(struct bytes *b)
{
	build_flags(b);
	add_go(b, NBD_OPT_GO, "tank/none", "");
	add_go(b, NBD_OPT_GO, "tank", "");
	add_go(b, NBD_OPT_GO, "../etc/passwd", "");
	add_go(b, NBD_OPT_GO, "tank/busy", "");
	add_go(b, NBD_OPT_GO, "tank/leaving", "");
	add_go(b, NBD_OPT_GO, "tank/broken", "");
}

static void
build_go_malformed(struct bytes *b)
{
	static const uint8_t zero_in_name[] = { 0, 0, 0, 7, 't', 'a', 'n', 'k', 0, '/', 'a', 0, 0 };
	static const uint8_t beyond[] = { 0, 0, 0, 9, 't', 'a', 'n', 'k', '/', 'a', 0, 0 };
	static const uint8_t huge[] = { 255, 255, 255, 255, 't', 0, 0 };
	static const uint8_t infos[] = { 0, 0, 0, 1, 't', 0, 2, 0, 1 };
	static const uint8_t rest[] = { 0, 0, 0, 1, 't', 0, 0, 0 };
	char *name = xcalloc(1, 4200);

	build_flags(b);
	add_option(b, NBD_OPT_GO, NULL, 0);
	add_option(b, NBD_OPT_GO, "\0\0\0", 3);
	add_option(b, NBD_OPT_GO, beyond, sizeof(beyond));
	add_option(b, NBD_OPT_GO, huge, sizeof(huge));
	add_option(b, NBD_OPT_GO, infos, sizeof(infos));
	add_option(b, NBD_OPT_GO, rest, sizeof(rest));
	add_option(b, NBD_OPT_GO, zero_in_name, sizeof(zero_in_name));
	memset(name, 'n', 4097);
	add_go(b, NBD_OPT_GO, name, "");
	name[4096] = 0;
	add_go(b, NBD_OPT_GO, name, "");
	free(name);
}

static void
build_default(struct bytes *b)
{
	build_flags(b);
	add_go(b, NBD_OPT_GO, "", "1");
}

static void
build_default_export_name(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_EXPORT_NAME, NULL, 0);
}

static void
build_meta_early(struct bytes *b)
{
	build_flags(b);
	add_meta(b, NBD_OPT_SET_META_CONTEXT, "tank/a", NBD_META_ALLOCATION, NULL);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/a", NULL);
	add_go(b, NBD_OPT_GO, "tank/a", "");
}

static void
build_meta_list(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/a", NULL);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/a", "base:", NULL);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/a", "x-y:z", "base:allocation", NULL);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/a", "qemu:", NULL);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/none", NULL);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/a", "allocation", NULL);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/a", "qemu:dirty-bitmap:", NULL);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/a", "quarry:", NULL);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/a", "quarry:diff:s", "base:", "quarry:diff:s",
	    NULL);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/b", "quarry:", NULL); /* has no snapshot */
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/a", "quarry:diff:t", "qemu:x:", ":", NULL);
}

/* Several; unknown ones, namespaces and repetitions select nothing. */
static void
build_meta_many(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta(b, NBD_OPT_SET_META_CONTEXT, "tank/a", "quarry:diff:s",
	    "qemu:", "quarry:diff:", "quarry:diff:t", "qemu:dirty-bitmap:s", "qemu:dirty-bitmap:s",
	    "base:allocationx", "qemu:allocation-depth", "base:allocation", NULL);
	add_go(b, NBD_OPT_GO, "tank/a", "");
}

/* @count queries: of a context each, or all but the last of the same. */
static void
add_meta_many(struct bytes *b, uint32_t option, uint32_t count, bool same)
{
	struct bytes data = { 0 };
	char query[32];

	add_text(&data, "tank/a");
	add_u32(&data, count);
	for (uint32_t i = 0; i < count; i++) {
		snprintf(
		    query, sizeof(query), "quarry:diff:%c", i == count - 1 ? 's' : (int)('A' + i));
		add_text(&data, same && i < count - 1 ? "base:allocation" : query);
	}
	add_option(b, option, data.at, data.len);
	free(data.at);
}

/* As many queries as can be selected, and more, which fails; the same one again is none more. */
static void
build_meta_too_many(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta_many(b, NBD_OPT_LIST_META_CONTEXT, NBD_CONTEXTS_MAX, false);
	add_meta_many(b, NBD_OPT_LIST_META_CONTEXT, NBD_CONTEXTS_MAX + 1, false);
	add_meta_many(b, NBD_OPT_SET_META_CONTEXT, 40, true);
	add_meta_many(b, NBD_OPT_SET_META_CONTEXT, NBD_CONTEXTS_MAX + 1, false);
	add_meta_many(b, NBD_OPT_SET_META_CONTEXT, 40, true);
	add_go(b, NBD_OPT_GO, "tank/a", "");
}

static void
build_meta_set(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta(b, NBD_OPT_SET_META_CONTEXT, "tank/a", "base:", NULL);
	add_meta(
	    b, NBD_OPT_SET_META_CONTEXT, "tank/a", NBD_META_ALLOCATION, NBD_META_ALLOCATION, NULL);
	add_go(b, NBD_OPT_GO, "tank/a", "");
}

static void
build_meta_of_other(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta(b, NBD_OPT_SET_META_CONTEXT, "tank/b", NBD_META_ALLOCATION, NULL);
	add_go(b, NBD_OPT_GO, "tank/a", "");
}

static void
build_meta_replaced(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta(b, NBD_OPT_SET_META_CONTEXT, "tank/a", NBD_META_ALLOCATION, NULL);
	add_meta(b, NBD_OPT_SET_META_CONTEXT, "tank/a", NULL);
	add_go(b, NBD_OPT_GO, "tank/a", "");
}

static void
build_meta_malformed(struct bytes *b)
{
	static const uint8_t many[] = { 0, 0, 0, 1, 't', 255, 255, 255, 255 };
	static const uint8_t rest[] = { 0, 0, 0, 1, 't', 0, 0, 0, 0, 9 };

	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_option(b, NBD_OPT_SET_META_CONTEXT, NULL, 0);
	add_option(b, NBD_OPT_SET_META_CONTEXT, many, sizeof(many));
	add_option(b, NBD_OPT_SET_META_CONTEXT, rest, sizeof(rest));
}

/* A context's name ends where its string does, not at a zero byte. */
static void
build_meta_zero_byte(struct bytes *b)
{
	static const uint8_t of_snapshot[] = "\0\0\0\6tank/a\0\0\0\1\0\0\0\17quarry:diff:s\0x";

	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_option(b, NBD_OPT_SET_META_CONTEXT, of_snapshot, sizeof(of_snapshot) - 1);
}

/* With extended headers the protocol forbids EXPORT_NAME. */
static void
build_extended_export_name(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	add_option(b, NBD_OPT_EXPORT_NAME, "tank/a", 6);
}

/* TLS is only for who speaks fixed newstyle. */
static void
build_tls_not_fixed(struct bytes *b)
{
	add_u32(b, NBD_FLAG_NO_ZEROES);
	add_option(b, NBD_OPT_STARTTLS, NULL, 0);
}

static void
build_extended(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_EXTENDED_HEADERS, "x", 1);
	add_option(b, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta(b, NBD_OPT_SET_META_CONTEXT, "tank/a", NBD_META_ALLOCATION, NULL);
	add_go(b, NBD_OPT_GO, "tank/a", "");
}

/* Everything that could be said before TLS, TLS, and the same once more. */
static void
build_tls(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta(b, NBD_OPT_SET_META_CONTEXT, "tank/a", NBD_META_ALLOCATION, NULL);
	add_option(b, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	add_option(b, NBD_OPT_LIST, NULL, 0);
	add_go(b, NBD_OPT_INFO, "tank/a", "");
	add_option(b, 77, NULL, 0);
	add_option(b, NBD_OPT_STARTTLS, "x", 1);
	add_option(b, NBD_OPT_STARTTLS, NULL, 0);
	add_option(b, NBD_OPT_STARTTLS, NULL, 0);
	add_go(b, NBD_OPT_GO, "tank/a", "");
}

/* An export that is not to be seen, by INFO, GO and other options; and once more with TLS. */
static void
build_tls_only(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta(b, NBD_OPT_LIST_META_CONTEXT, "tank/none", NULL);
	add_go(b, NBD_OPT_INFO, "tank/none", "");
	add_go(b, NBD_OPT_GO, "no name", "");
	add_go(b, NBD_OPT_INFO, "tank/a", "");
	add_option(b, NBD_OPT_STARTTLS, NULL, 0);
	add_go(b, NBD_OPT_GO, "tank/none", "");
	add_option(b, NBD_OPT_EXPORT_NAME, "tank/none", 9);
}

/* The same where TLS may show more. */
static void
build_tls_reveals(struct bytes *b)
{
	build_tls_only(b);
}

static void
build_tls_abort(struct bytes *b)
{
	build_flags(b);
	add_option(b, NBD_OPT_ABORT, NULL, 0);
}

static const struct {
	void (*build)(struct bytes *b);
	const char *expected;
	bool one_volume;
	enum nbd_tls_policy tls;
} cases[] = {
	{ build_tls,
	    "8 TLS_REQD; 10 TLS_REQD; 11 TLS_REQD; 3 TLS_REQD; 6 TLS_REQD; 77 TLS_REQD; "
	    "5 INVALID; 5 ack; 5 INVALID; 7 export " SIZE " " FLAGS "; 7 ack; transmission",
	    false, NBD_TLS_REQUIRE },
	{ build_tls,
	    "8 ack; 10 meta 1 base:allocation; 10 ack; 11 ack; 3 server tank/a; 3 server tank/a@s; "
	    "3 server tank/b; 3 ack; 6 export " SIZE " " FLAGS_EXT "; 6 ack; 77 UNSUP; "
	    "5 INVALID; 5 ack; 5 INVALID; 7 export " SIZE " " FLAGS "; 7 ack; transmission",
	    false, NBD_TLS_ON },
	{ build_tls_reveals,
	    "8 ack; 9 UNKNOWN; 6 TLS_REQD; 7 TLS_REQD; 6 export " SIZE " " FLAGS_DF
	    "; 6 ack; 5 ack; 7 UNKNOWN; closed",
	    false, NBD_TLS_ON },
	{ build_tls_only,
	    "8 ack; 9 UNKNOWN; 6 UNKNOWN; 7 UNKNOWN; 6 export " SIZE " " FLAGS_DF
	    "; 6 ack; 5 ack; 7 UNKNOWN; closed",
	    false, NBD_TLS_ON },
	{ build_tls_reveals,
	    "8 ack; 9 UNKNOWN; 6 UNKNOWN; 7 UNKNOWN; 6 export " SIZE " " FLAGS_DF
	    "; 6 ack; 5 POLICY; 7 UNKNOWN; closed",
	    false, NBD_TLS_OFF },
	{ build_tls_abort, "2 ack; closed", false, NBD_TLS_REQUIRE },
	{ build_export_name, "closed", false, NBD_TLS_REQUIRE },
	{ build_export_name, "raw 10; transmission", false, NBD_TLS_ON },
	{ build_huge, "closed", false, NBD_TLS_REQUIRE },
	{ build_silence, "option", false, NBD_TLS_OFF },
	{ build_flags, "option", false, NBD_TLS_OFF },
	{ build_unknown_flags, "closed", false, NBD_TLS_OFF },
	{ build_bad_magic, "closed", false, NBD_TLS_OFF },
	{ build_export_name, "raw 10; transmission", false, NBD_TLS_OFF },
	{ build_export_name_zeroes, "raw 134; transmission", false, NBD_TLS_OFF },
	{ build_export_name_oldest, "raw 134; transmission", false, NBD_TLS_OFF },
	{ build_export_name_unknown, "closed", false, NBD_TLS_OFF },
	{ build_export_name_long, "closed", false, NBD_TLS_OFF },
	{ build_abort, "2 ack; closed", false, NBD_TLS_OFF },
	{ build_list,
	    "3 INVALID; 3 server tank/a; 3 server tank/a@s; 3 server tank/b; 3 ack; option", false,
	    NBD_TLS_OFF },
	{ build_unsupported, "5 POLICY; 4 UNSUP; 0 UNSUP; 4294967295 UNSUP; option", false,
	    NBD_TLS_OFF },
	{ build_too_big, "7 TOO_BIG; 77 UNSUP; 6 INVALID; option", false, NBD_TLS_OFF },
	{ build_huge, "closed", false, NBD_TLS_OFF },
	{ build_go, "7 export " SIZE " " FLAGS "; 7 ack; transmission", false, NBD_TLS_OFF },
	{ build_go_snapshot,
	    "8 INVALID; 8 ack; 7 export " SIZE " " FLAGS_DF_RO
	    "; 7 name tank/a@s; 7 description about a; 7 block 1 4096 33554432; 7 ack; "
	    "transmission",
	    false, NBD_TLS_OFF },
	{ build_info_then_go,
	    "6 export " SIZE " " FLAGS "; 6 block 4096 4096 33554432; 6 ack; "
	    "7 export " SIZE " " FLAGS "; 7 name tank/b; 7 ack; transmission",
	    false, NBD_TLS_OFF },
	{ build_go_refused,
	    "7 UNKNOWN; 7 UNKNOWN; 7 UNKNOWN; 7 POLICY; 7 SHUTDOWN; 7 UNKNOWN; option", false,
	    NBD_TLS_OFF },
	{ build_go_malformed,
	    "7 INVALID; 7 INVALID; 7 INVALID; 7 INVALID; 7 INVALID; 7 INVALID; 7 UNKNOWN; "
	    "7 TOO_BIG; 7 UNKNOWN; option",
	    false, NBD_TLS_OFF },
	{ build_default, "7 UNKNOWN; option", false, NBD_TLS_OFF },
	{ build_default, "7 export " SIZE " " FLAGS "; 7 name tank/a; 7 ack; transmission", true,
	    NBD_TLS_OFF },
	{ build_default_export_name, "closed", false, NBD_TLS_OFF },
	{ build_default_export_name, "raw 10; transmission", true, NBD_TLS_OFF },
	{ build_meta_early,
	    "10 INVALID; 9 INVALID; 7 export " SIZE " " FLAGS "; 7 ack; transmission", false,
	    NBD_TLS_OFF },
	{ build_meta_list,
	    "8 ack; 9 meta 0 base:allocation; 9 meta 0 qemu:allocation-depth; "
	    "9 meta 0 qemu:dirty-bitmap:s; 9 meta 0 quarry:diff:s; 9 ack; "
	    "9 meta 0 base:allocation; 9 ack; 9 meta 0 base:allocation; 9 ack; "
	    "9 meta 0 qemu:allocation-depth; 9 meta 0 qemu:dirty-bitmap:s; 9 ack; "
	    "9 UNKNOWN; 9 INVALID; "
	    "9 meta 0 qemu:dirty-bitmap:s; 9 ack; 9 meta 0 quarry:diff:s; 9 ack; "
	    "9 meta 0 base:allocation; 9 meta 0 quarry:diff:s; 9 ack; 9 ack; 9 ack; option",
	    false, NBD_TLS_OFF },
	{ build_meta_set,
	    "8 ack; 10 ack; 10 meta 1 base:allocation; 10 ack; 7 export " SIZE " " FLAGS_DF
	    "; 7 ack; transmission 1 contexts",
	    false, NBD_TLS_OFF },
	{ build_meta_many,
	    "8 ack; 10 meta 1 base:allocation; 10 meta 2 qemu:allocation-depth; "
	    "10 meta 3 qemu:dirty-bitmap:s; 10 meta 4 quarry:diff:s; 10 ack; 7 export " SIZE
	    " " FLAGS_DF "; 7 ack; transmission 4 contexts",
	    false, NBD_TLS_OFF },
	{ build_meta_too_many,
	    "8 ack; 9 meta 0 quarry:diff:s; 9 ack; 9 TOO_BIG; "
	    "10 meta 1 base:allocation; 10 meta 2 quarry:diff:s; 10 ack; 10 TOO_BIG; "
	    "10 meta 1 base:allocation; 10 meta 2 quarry:diff:s; 10 ack; "
	    "7 export " SIZE " " FLAGS_DF "; 7 ack; transmission 2 contexts",
	    false, NBD_TLS_OFF },
	{ build_meta_of_other,
	    "8 ack; 10 meta 1 base:allocation; 10 ack; 7 export " SIZE " " FLAGS_DF
	    "; 7 ack; transmission",
	    false, NBD_TLS_OFF },
	{ build_meta_replaced,
	    "8 ack; 10 meta 1 base:allocation; 10 ack; 10 ack; 7 export " SIZE " " FLAGS_DF
	    "; 7 ack; transmission",
	    false, NBD_TLS_OFF },
	{ build_meta_malformed, "8 ack; 10 INVALID; 10 INVALID; 10 INVALID; option", false,
	    NBD_TLS_OFF },
	{ build_meta_zero_byte, "8 ack; 10 ack; option", false, NBD_TLS_OFF },
	{ build_extended_export_name, "11 ack; closed", false, NBD_TLS_OFF },
	{ build_tls_not_fixed, "5 POLICY; option", false, NBD_TLS_REQUIRE },
	{ build_too_big, "7 TLS_REQD; 77 TLS_REQD; 6 TLS_REQD; option", false, NBD_TLS_REQUIRE },
	{ build_extended,
	    "11 INVALID; 11 ack; 8 EXT_HEADER_REQD; 10 meta 1 base:allocation; 10 ack; "
	    "7 export " SIZE " " FLAGS_EXT "; 7 ack; transmission 1 contexts",
	    false, NBD_TLS_OFF },
};

static void
prepare(size_t i)
{
	conversation_tls = cases[i].tls;
	conversation_tls_reveals = cases[i].build == build_tls_reveals;
}

static void
test_options_are_answered(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bytes input = { 0 };
		struct conversation *c;
		char *text;

		prepare(i);
		cases[i].build(&input);
		c = converse(&input, max_u64(input.len, 1), cases[i].one_volume);
		text = transcript(c);
		assert_string_equal(text, cases[i].expected);
		free(text);
		conversation_free(c);
		free(input.at);
	}
}

/* However the bytes are cut, the conversation is the same. */
static void
test_pieces_make_no_difference(void **state)
{
	static const size_t pieces[] = { 1, 2, 3, 7, 16, 19, 1000 };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bytes input = { 0 };

		prepare(i);
		cases[i].build(&input);
		for (size_t p = 0; p < ARRAY_SIZE(pieces); p++) {
			struct conversation *c;
			char *text;

			if (input.len > 10000 && pieces[p] < 1000)
				continue; /* quadratic in this harness, and says no more */
			c = converse(&input, pieces[p], cases[i].one_volume);
			text = transcript(c);
			assert_string_equal(text, cases[i].expected);
			free(text);
			conversation_free(c);
		}
		free(input.at);
	}
}

/* A client that goes away after any byte has seen a prefix of the whole output. */
static void
test_truncation_gives_a_prefix(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bytes input = { 0 };
		struct conversation *whole;

		prepare(i);
		cases[i].build(&input);
		whole = converse(&input, max_u64(input.len, 1), cases[i].one_volume);
		for (size_t len = 0; len < input.len && input.len < 10000; len++) {
			struct bytes part = { .at = input.at, .len = len };
			struct conversation *c =
			    converse(&part, max_u64(len, 1), cases[i].one_volume);

			assert_true(c->out.len <= whole->out.len);
			assert_memory_equal(c->out.at, whole->out.at, c->out.len);
			assert_int_equal(c->request_count, 0);
			conversation_free(c);
		}
		conversation_free(whole);
		free(input.at);
	}
}

/* Bytes changed at random: anything may come of it but a crash, or output without bound. */
static void
test_garbage_is_survived(void **state)
{
	uint64_t random = 1;

	for (size_t round = 0; round < 4000; round++) {
		size_t i = (random = mix64(random + round)) % ARRAY_SIZE(cases);
		struct bytes input = { 0 };
		struct conversation *c;

		prepare(i);
		cases[i].build(&input);
		if (input.len > 10000 || input.len == 0) {
			free(input.at);
			continue;
		}
		for (size_t n = 0; n < 1 + round % 4; n++) {
			random = mix64(random + n);
			input.at[random % input.len] = (uint8_t)(random >> 32);
		}
		c = converse(&input, input.len, false);
		assert_true(c->out.len < 16384);
		conversation_free(c);
		free(input.at);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options_are_answered),
		cmocka_unit_test(test_pieces_make_no_difference),
		cmocka_unit_test(test_truncation_gives_a_prefix),
		cmocka_unit_test(test_garbage_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
