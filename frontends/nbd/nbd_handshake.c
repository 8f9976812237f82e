/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handshake: greeting, client flags, options, up to the first byte of transmission.
 *
 * An option is worked on when all of its data are there.  A handler either answers at once or asks
 * the owner (names, or an export to be opened) and is continued by nbd_session_names() and
 * nbd_session_opened().  After every answer the session pauses with OUTPUT, so at most one option's
 * answer is ever held.
 *
 * What has no answer in the protocol closes the connection: a wrong magic, unknown client flags, an
 * EXPORT_NAME that cannot be served.
 */
#include "frontends/nbd/nbd_session.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* --- output --- */

static void *
output_grow(struct nbd_output *out, size_t len_bytes)
{
	size_t end = out->len_bytes + len_bytes;

	if (end > out->capacity_bytes) {
		out->capacity_bytes = max_u64(end, max_u64(2 * out->capacity_bytes, 512));
		out->bytes = xrealloc(out->bytes, out->capacity_bytes);
	}
	out->len_bytes = end;
	return out->bytes + end - len_bytes;
}

static void
put_bytes(struct nbd_output *out, const void *bytes, size_t len_bytes)
{
	if (len_bytes)
		memcpy(output_grow(out, len_bytes), bytes, len_bytes);
}

static void
put_u16(struct nbd_output *out, uint16_t n)
{
	n = htobe16(n);
	put_bytes(out, &n, sizeof(n));
}

static void
put_u32(struct nbd_output *out, uint32_t n)
{
	n = htobe32(n);
	put_bytes(out, &n, sizeof(n));
}

static void
put_u64(struct nbd_output *out, uint64_t n)
{
	n = htobe64(n);
	put_bytes(out, &n, sizeof(n));
}

static void
put_reply_header(struct nbd_session *session, uint32_t type, size_t len_bytes)
{
	struct nbd_option_reply_wire header = {
		.magic_be = htobe64(NBD_REP_MAGIC),
		.option_be = htobe32(session->option),
		.type_be = htobe32(type),
		.len_be = htobe32((uint32_t)len_bytes),
	};

	put_bytes(&session->out, &header, sizeof(header));
}

static enum nbd_event
next_option(struct nbd_session *session)
{
	session->state = NBD_SESSION_OPTION;
	return NBD_EVENT_OUTPUT;
}

static enum nbd_event
close_session(struct nbd_session *session)
{
	session->state = NBD_SESSION_CLOSED;
	return NBD_EVENT_CLOSE;
}

/* The final reply to the present option. */
static enum nbd_event
acknowledge(struct nbd_session *session)
{
	put_reply_header(session, NBD_REP_ACK, 0);
	return next_option(session);
}

static enum nbd_event printf_like(3, 4)
    refuse(struct nbd_session *session, uint32_t type, const char *format, ...)
{
	char text[NAME_TEXT_SIZE + 160];
	va_list args;
	int n;

	if (session->option == NBD_OPT_EXPORT_NAME)
		return close_session(session);
	va_start(args, format);
	n = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	n = n < 0 ? 0 : (int)min_u64((uint64_t)n, sizeof(text) - 1);
	put_reply_header(session, type, (size_t)n);
	put_bytes(&session->out, text, (size_t)n);
	return next_option(session);
}

/* --- input: a bounded cursor over an option's data --- */

struct reader {
	const uint8_t *at;
	size_t left;
	bool bad; /* read beyond the end: all that was read since is zero */
};

static const uint8_t *
get_bytes(struct reader *in, size_t len_bytes)
{
	const uint8_t *at = in->at;

	if (in->bad || len_bytes > in->left) {
		in->bad = true;
		return NULL;
	}
	in->at += len_bytes;
	in->left -= len_bytes;
	return at;
}

static uint32_t
get_u32(struct reader *in)
{
	const uint8_t *at = get_bytes(in, 4);
	uint32_t n = 0;

	if (at)
		memcpy(&n, at, sizeof(n));
	return be32toh(n);
}

static uint16_t
get_u16(struct reader *in)
{
	const uint8_t *at = get_bytes(in, 2);
	uint16_t n = 0;

	if (at)
		memcpy(&n, at, sizeof(n));
	return be16toh(n);
}

/* --- exports --- */

/*
 * Without TLS an export that needs it must be answered with TLS_REQD.  So that this does not tell
 * what there is, all that the client cannot see is answered so.
 */
static bool
tls_may_reveal(const struct nbd_session *session)
{
	return session->tls_reveals && session->tls == NBD_TLS_ON && !session->secure &&
	       session->fixed_newstyle &&
	       (session->option == NBD_OPT_INFO || session->option == NBD_OPT_GO);
}

static enum nbd_event
refuse_unknown(struct nbd_session *session)
{
	if (tls_may_reveal(session))
		return refuse(session, NBD_REP_ERR_TLS_REQD,
		    "no such export, or one that is served with TLS only");
	return refuse(session, NBD_REP_ERR_UNKNOWN,
	    "no such export; exports are named pool/volume or pool/volume@snapshot");
}

static enum nbd_event
ask_open(struct nbd_session *session)
{
	session->state = NBD_SESSION_OPEN;
	return NBD_EVENT_OPEN;
}

static enum nbd_event
ask_names(struct nbd_session *session, bool snapshots)
{
	session->want_snapshots = snapshots;
	session->state = NBD_SESSION_NAMES;
	return NBD_EVENT_NAMES;
}

/* Asks the owner for the export that the present option names. */
static enum nbd_event
find_export(struct nbd_session *session, const uint8_t *name, size_t len_bytes)
{
	/* A name that is longer or contains a zero byte is not one of ours. */
	if (len_bytes >= sizeof(session->export_name) || (len_bytes && memchr(name, 0, len_bytes)))
		return refuse_unknown(session);
	if (len_bytes)
		memcpy(session->export_name, name, len_bytes);
	session->export_name[len_bytes] = 0;
	if (len_bytes == 0)
		return ask_names(session, false);
	if (name_parse(&session->open_name, session->export_name, NULL) != 0 ||
	    !session->open_name.volume[0])
		return refuse_unknown(session);
	return ask_open(session);
}

static void
put_info(struct nbd_session *session, enum nbd_info info, const char *text)
{
	put_reply_header(session, NBD_REP_INFO, 2 + strlen(text));
	put_u16(&session->out, info);
	put_bytes(&session->out, text, strlen(text));
}

static void
put_infos(struct nbd_session *session, const struct nbd_export *export)
{
	put_reply_header(session, NBD_REP_INFO, 12);
	put_u16(&session->out, NBD_INFO_EXPORT);
	put_u64(&session->out, export->size_bytes);
	put_u16(&session->out, nbd_transmission_flags(session, export));
	if (session->infos & 1u << NBD_INFO_NAME)
		put_info(session, NBD_INFO_NAME, export->name);
	if (session->infos & 1u << NBD_INFO_DESCRIPTION)
		put_info(session, NBD_INFO_DESCRIPTION, export->description);
	if (session->infos & 1u << NBD_INFO_BLOCK_SIZE) {
		put_reply_header(session, NBD_REP_INFO, 14);
		put_u16(&session->out, NBD_INFO_BLOCK_SIZE);
		put_u32(&session->out, export->block_bytes == BLOCK_BYTES ? BLOCK_BYTES : 1);
		put_u32(&session->out, BLOCK_BYTES);
		put_u32(&session->out, NBD_PAYLOAD_BYTES_MAX);
	}
}

static enum nbd_event
begin_transmission(struct nbd_session *session, const struct nbd_export *export)
{
	session->context_count = nbd_session_context_count(session); /* else: for another export */
	session->export = *export;
	session->state = NBD_SESSION_HEADER;
	return NBD_EVENT_OUTPUT;
}

/* --- options --- */

static enum nbd_event
option_export_name(struct nbd_session *session, struct reader *in)
{
	if (session->extended) /* as proto.md has it: GO, which can say what is wrong */
		return close_session(session);
	return find_export(session, in->at, in->left);
}

static enum nbd_event
option_abort(struct nbd_session *session, struct reader *in)
{
	(void)in; /* whatever came with it: the client wants to go */
	put_reply_header(session, NBD_REP_ACK, 0);
	return close_session(session);
}

static enum nbd_event
option_list(struct nbd_session *session, struct reader *in)
{
	if (in->left)
		return refuse(session, NBD_REP_ERR_INVALID, "LIST takes no data");
	return ask_names(session, true);
}

static enum nbd_event
option_info(struct nbd_session *session, struct reader *in)
{
	uint32_t name_bytes = get_u32(in);
	const uint8_t *name = get_bytes(in, name_bytes);
	uint16_t count = get_u16(in);

	session->infos = 0;
	for (uint16_t i = 0; i < count && !in->bad; i++) {
		uint16_t info = get_u16(in);

		if (info < 32)
			session->infos |= 1u << info;
	}
	if (in->bad || in->left)
		return refuse(
		    session, NBD_REP_ERR_INVALID, "lengths within the option do not add up");
	if (name_bytes > NBD_STRING_BYTES_MAX)
		return refuse(session, NBD_REP_ERR_TOO_BIG, "the export name is too long");
	return find_export(session, name, name_bytes);
}

static enum nbd_event
option_structured_reply(struct nbd_session *session, struct reader *in)
{
	if (in->left)
		return refuse(session, NBD_REP_ERR_INVALID, "STRUCTURED_REPLY takes no data");
	if (session->extended)
		return refuse(
		    session, NBD_REP_ERR_EXT_HEADER_REQD, "extended headers are already agreed on");
	session->structured = true;
	return acknowledge(session);
}

static enum nbd_event
option_extended_headers(struct nbd_session *session, struct reader *in)
{
	if (in->left)
		return refuse(session, NBD_REP_ERR_INVALID, "EXTENDED_HEADERS takes no data");
	session->extended = true;
	session->structured = true; /* implied */
	return acknowledge(session);
}

static enum nbd_event
option_starttls(struct nbd_session *session, struct reader *in)
{
	if (in->left)
		return refuse(session, NBD_REP_ERR_INVALID, "STARTTLS takes no data");
	if (session->secure)
		return refuse(session, NBD_REP_ERR_INVALID, "TLS is already there");
	if (session->tls == NBD_TLS_OFF)
		return refuse(session, NBD_REP_ERR_POLICY, "this address serves without TLS");
	if (!session->fixed_newstyle)
		return refuse(session, NBD_REP_ERR_POLICY, "TLS is for fixed newstyle clients");
	put_reply_header(session, NBD_REP_ACK, 0);
	session->state = NBD_SESSION_TLS;
	return NBD_EVENT_TLS;
}

void
nbd_session_secured(struct nbd_session *session)
{
	CHECK(session->state == NBD_SESSION_TLS);
	session->secure = true;
	session->structured = false;
	session->extended = false;
	session->context_count = 0;
	session->state = NBD_SESSION_OPTION;
}

/* --- metadata contexts --- */

static const struct {
	const char *text;
	bool of_snapshot; /* the name of one follows */
} context_kinds[] = {
	[NBD_CONTEXT_ALLOCATION] = { NBD_META_ALLOCATION, false },
	[NBD_CONTEXT_DEPTH] = { NBD_META_DEPTH, false },
	[NBD_CONTEXT_BITMAP] = { NBD_META_BITMAP, true },
	[NBD_CONTEXT_DIFF] = { NBD_META_DIFF, true },
};

/* Adds to what was asked for, if it is not there yet; false: it is too much. */
static bool
add_query(struct nbd_session *session, const struct nbd_context *context)
{
	for (uint32_t i = 0; i < session->query_count; i++)
		if (memcmp(&session->queries[i], context, sizeof(*context)) == 0)
			return true;
	if (session->query_count == NBD_CONTEXTS_MAX)
		return false;
	session->queries[session->query_count++] = *context;
	return true;
}

/* Takes note of a query, of which what is not known selects nothing; false: they are too many. */
static bool
take_query(struct nbd_session *session, const char *query, size_t len_bytes, bool list)
{
	bool fits = true;

	for (size_t kind = 0; kind < ARRAY_SIZE(context_kinds); kind++) {
		const char *text = context_kinds[kind].text;
		size_t text_bytes = strlen(text);
		bool whole = len_bytes >= text_bytes && memcmp(query, text, text_bytes) == 0;
		size_t rest_bytes = whole ? len_bytes - text_bytes : 0;
		struct nbd_context context;

		/* A LIST's query that ends with a colon stands for all that begin with it. */
		if (list && query[len_bytes - 1] == ':' && len_bytes <= text_bytes &&
		    memcmp(query, text, len_bytes) == 0)
			session->meta_all |= 1u << kind;
		else if (whole && !memchr(query, 0, len_bytes) &&
			 (context_kinds[kind].of_snapshot ? rest_bytes && rest_bytes < NAME_SIZE
							  : rest_bytes == 0)) {
			memset(&context, 0, sizeof(context));
			context.kind = (enum nbd_context_kind)kind;
			memcpy(context.snapshot, query + text_bytes, rest_bytes);
			fits &= add_query(session, &context);
		}
	}
	return fits;
}

static enum nbd_event
option_meta_context(struct nbd_session *session, struct reader *in)
{
	bool list = session->option == NBD_OPT_LIST_META_CONTEXT;
	uint32_t name_bytes = get_u32(in);
	const uint8_t *name = get_bytes(in, name_bytes);
	uint32_t count = get_u32(in);
	bool no_namespace = false;
	bool too_long = name_bytes > NBD_STRING_BYTES_MAX;
	bool too_many = false;

	if (!list)
		session->context_count = 0; /* each SET replaces the one before, failed or not */
	if (!session->structured)
		return refuse(session, NBD_REP_ERR_INVALID, "structured replies come first");
	session->query_count = 0;
	session->meta_all = list && count == 0 ? UINT32_MAX : 0;
	for (uint32_t i = 0; i < count && !in->bad; i++) {
		uint32_t len_bytes = get_u32(in);
		const uint8_t *query = get_bytes(in, len_bytes);

		if (!query)
			break;
		too_long |= len_bytes > NBD_STRING_BYTES_MAX;
		no_namespace |= !memchr(query, ':', len_bytes);
		if (!no_namespace)
			too_many |= !take_query(session, (const char *)query, len_bytes, list);
	}
	if (in->bad || in->left)
		return refuse(
		    session, NBD_REP_ERR_INVALID, "lengths within the option do not add up");
	if (too_long)
		return refuse(session, NBD_REP_ERR_TOO_BIG, "a string is too long");
	if (no_namespace)
		return refuse(
		    session, NBD_REP_ERR_INVALID, "a query begins with a namespace and a colon");
	if (too_many)
		return refuse(session, NBD_REP_ERR_TOO_BIG, "at most %u contexts can be named",
		    NBD_CONTEXTS_MAX);
	return find_export(session, name, name_bytes);
}

/* Tells of @kind (of the snapshot) if it was asked for, and selects it if that is what is wanted.
 */
static void
offer_context(struct nbd_session *session, enum nbd_context_kind kind, const char *snapshot)
{
	bool list = session->option == NBD_OPT_LIST_META_CONTEXT;
	const char *text = context_kinds[kind].text;
	bool wanted = session->meta_all & 1u << kind;
	uint32_t id = 0;

	for (uint32_t i = 0; i < session->query_count && !wanted; i++)
		wanted = session->queries[i].kind == kind &&
			 strcmp(session->queries[i].snapshot, snapshot) == 0;
	if (!wanted)
		return;
	if (!list) { /* there are no more than queries: each of those is met once */
		struct nbd_context *context = &session->contexts[session->context_count++];

		context->kind = kind;
		snprintf(context->snapshot, sizeof(context->snapshot), "%s", snapshot);
		id = session->context_count;
	}
	put_reply_header(session, NBD_REP_META_CONTEXT, 4 + strlen(text) + strlen(snapshot));
	put_u32(&session->out, id);
	put_bytes(&session->out, text, strlen(text));
	put_bytes(&session->out, snapshot, strlen(snapshot));
}

/* @names: what there is; of interest are the snapshots of the export's volume. */
static enum nbd_event
finish_meta_names(struct nbd_session *session, const struct name *names, size_t count)
{
	for (size_t kind = 0; kind < ARRAY_SIZE(context_kinds); kind++) {
		if (!context_kinds[kind].of_snapshot) {
			offer_context(session, (enum nbd_context_kind)kind, "");
			continue;
		}
		for (size_t i = 0; i < count; i++)
			if (names[i].snapshot[0] &&
			    strcmp(names[i].pool, session->open_name.pool) == 0 &&
			    strcmp(names[i].volume, session->open_name.volume) == 0)
				offer_context(
				    session, (enum nbd_context_kind)kind, names[i].snapshot);
	}
	if (session->option == NBD_OPT_SET_META_CONTEXT)
		memcpy(session->meta_name, session->export_name, sizeof(session->meta_name));
	return acknowledge(session);
}

/* What an option does once its export is open. */
static enum nbd_event
finish_export_name(struct nbd_session *session, const struct nbd_export *export)
{
	put_u64(&session->out, export->size_bytes);
	put_u16(&session->out, nbd_transmission_flags(session, export));
	if (!session->no_zeroes)
		memset(output_grow(&session->out, 124), 0, 124);
	return begin_transmission(session, export);
}

static enum nbd_event
finish_info(struct nbd_session *session, const struct nbd_export *export)
{
	put_infos(session, export);
	return acknowledge(session);
}

static enum nbd_event
finish_go(struct nbd_session *session, const struct nbd_export *export)
{
	put_infos(session, export);
	put_reply_header(session, NBD_REP_ACK, 0);
	return begin_transmission(session, export);
}

static enum nbd_event
finish_meta_context(struct nbd_session *session, const struct nbd_export *export)
{
	(void)export;
	for (uint32_t i = 0; i < session->query_count; i++)
		if (context_kinds[session->queries[i].kind].of_snapshot)
			return ask_names(session, true);
	if (session->meta_all & (1u << NBD_CONTEXT_BITMAP | 1u << NBD_CONTEXT_DIFF))
		return ask_names(session, true);
	return finish_meta_names(session, NULL, 0);
}

static const struct option {
	uint32_t code;
	enum nbd_event (*handle)(struct nbd_session *session, struct reader *in);
	enum nbd_event (*finish)(struct nbd_session *session, const struct nbd_export *export);
} options[] = {
	{ NBD_OPT_EXPORT_NAME, option_export_name, finish_export_name },
	{ NBD_OPT_ABORT, option_abort, NULL },
	{ NBD_OPT_LIST, option_list, NULL },
	{ NBD_OPT_STARTTLS, option_starttls, NULL },
	{ NBD_OPT_INFO, option_info, finish_info },
	{ NBD_OPT_GO, option_info, finish_go },
	{ NBD_OPT_STRUCTURED_REPLY, option_structured_reply, NULL },
	{ NBD_OPT_LIST_META_CONTEXT, option_meta_context, finish_meta_context },
	{ NBD_OPT_SET_META_CONTEXT, option_meta_context, finish_meta_context },
	{ NBD_OPT_EXTENDED_HEADERS, option_extended_headers, NULL },
};

static const struct option *
option_find(uint32_t code)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (options[i].code == code)
			return &options[i];
	return NULL;
}

/* --- the owner's answers --- */

static void
put_server(struct nbd_session *session, const struct name *name)
{
	char text[NAME_TEXT_SIZE];
	size_t len_bytes = name_format(name, text);

	put_reply_header(session, NBD_REP_SERVER, 4 + len_bytes);
	put_u32(&session->out, (uint32_t)len_bytes);
	put_bytes(&session->out, text, len_bytes);
}

static enum nbd_event
refuse_error(struct nbd_session *session, int error)
{
	const char *message;

	switch (error) {
	case -ENOENT:
		return refuse_unknown(session);
	case -ESHUTDOWN:
		return refuse(session, NBD_REP_ERR_SHUTDOWN, "the export is going away");
	case -EBUSY:
	case -EPERM:
	case -EACCES:
		return refuse(session, NBD_REP_ERR_POLICY, "the export is not open to this client");
	default:
		(void)nbd_error_from(error, &message);
		return refuse(
		    session, NBD_REP_ERR_UNKNOWN, "the export cannot be opened: %s", message);
	}
}

enum nbd_event
nbd_session_names(struct nbd_session *session, int error, const struct name *names, size_t count)
{
	CHECK(session->state == NBD_SESSION_NAMES);
	if (error)
		return refuse_error(session, error);
	if (session->option == NBD_OPT_LIST) {
		for (size_t i = 0; i < count; i++)
			put_server(session, &names[i]);
		return acknowledge(session);
	}
	if (session->want_snapshots)
		return finish_meta_names(session, names, count);
	/* The default export: it is clear which one is meant if there is only one. */
	if (count == 0 && tls_may_reveal(session))
		return refuse_unknown(session);
	if (count == 0)
		return refuse(session, NBD_REP_ERR_UNKNOWN, "there is no volume yet");
	if (count > 1)
		return refuse(session, NBD_REP_ERR_UNKNOWN,
		    "there are %zu volumes: name one, as pool/volume", count);
	session->open_name = names[0];
	return ask_open(session);
}

enum nbd_event
nbd_session_opened(struct nbd_session *session, int error, const struct nbd_export *export)
{
	CHECK(session->state == NBD_SESSION_OPEN);
	if (error)
		return refuse_error(session, error);
	return option_find(session->option)->finish(session, export);
}

/* --- input --- */

static enum nbd_event
client_flags_input(
    struct nbd_session *session, const uint8_t *bytes, size_t len_bytes, size_t *consumed)
{
	uint32_t flags;

	if (len_bytes < sizeof(flags))
		return NBD_EVENT_MORE;
	memcpy(&flags, bytes, sizeof(flags));
	flags = be32toh(flags);
	*consumed = sizeof(flags);
	if (flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
		return close_session(session); /* as proto.md demands */
	session->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	session->fixed_newstyle = flags & NBD_FLAG_FIXED_NEWSTYLE;
	session->state = NBD_SESSION_OPTION;
	return NBD_EVENT_MORE;
}

/* Before TLS that is required, only what leads to it or away. */
static bool
needs_tls(const struct nbd_session *session)
{
	return session->tls == NBD_TLS_REQUIRE && !session->secure &&
	       session->option != NBD_OPT_STARTTLS && session->option != NBD_OPT_ABORT;
}

static enum nbd_event
option_input(struct nbd_session *session, const uint8_t *bytes, size_t len_bytes, size_t *consumed)
{
	struct nbd_option_wire header;
	const struct option *option;
	struct reader in;
	uint32_t data_bytes;

	if (len_bytes < sizeof(header))
		return NBD_EVENT_MORE;
	memcpy(&header, bytes, sizeof(header));
	data_bytes = be32toh(header.len_be);
	session->option = be32toh(header.option_be);
	if (be64toh(header.magic_be) != NBD_OPT_MAGIC)
		return close_session(session);
	if (data_bytes > NBD_OPTION_BYTES_MAX) {
		if (session->option == NBD_OPT_EXPORT_NAME ||
		    data_bytes > NBD_OPTION_SKIP_BYTES_MAX)
			return close_session(session);
		session->skip_bytes = data_bytes;
		session->state = NBD_SESSION_SKIP_OPTION;
		*consumed = sizeof(header);
		return NBD_EVENT_MORE;
	}
	if (len_bytes - sizeof(header) < data_bytes)
		return NBD_EVENT_MORE;
	*consumed = sizeof(header) + data_bytes;
	in = (struct reader){ .at = bytes + sizeof(header), .left = data_bytes };
	if (needs_tls(session))
		return refuse(session, NBD_REP_ERR_TLS_REQD, "TLS comes first here");
	option = option_find(session->option);
	if (!option)
		return refuse(
		    session, NBD_REP_ERR_UNSUP, "option %u is not supported", session->option);
	return option->handle(session, &in);
}

static enum nbd_event
skip_option_input(struct nbd_session *session, size_t len_bytes, size_t *consumed)
{
	*consumed = min_u64(len_bytes, session->skip_bytes);
	session->skip_bytes -= *consumed;
	if (session->skip_bytes)
		return NBD_EVENT_MORE;
	if (needs_tls(session))
		return refuse(session, NBD_REP_ERR_TLS_REQD, "TLS comes first here");
	if (!option_find(session->option))
		return refuse(
		    session, NBD_REP_ERR_UNSUP, "option %u is not supported", session->option);
	return refuse(session, NBD_REP_ERR_TOO_BIG, "an option has at most %llu bytes of data",
	    NBD_OPTION_BYTES_MAX);
}

/* One step; MORE with nothing consumed means that bytes are missing. */
enum nbd_event
nbd_handshake_input(
    struct nbd_session *session, const uint8_t *bytes, size_t len_bytes, size_t *consumed)
{
	switch (session->state) {
	case NBD_SESSION_CLIENT_FLAGS:
		return client_flags_input(session, bytes, len_bytes, consumed);
	case NBD_SESSION_OPTION:
		return option_input(session, bytes, len_bytes, consumed);
	case NBD_SESSION_SKIP_OPTION:
		return skip_option_input(session, len_bytes, consumed);
	case NBD_SESSION_TLS:
	case NBD_SESSION_NAMES:
	case NBD_SESSION_OPEN:
	case NBD_SESSION_HEADER:
	case NBD_SESSION_PAYLOAD:
	case NBD_SESSION_SKIP_PAYLOAD:
	case NBD_SESSION_CLOSED:
		break;
	}
	CHECK(!"the owner answers questions before it brings more input");
	return NBD_EVENT_CLOSE;
}

void
nbd_session_init(struct nbd_session *session)
{
	struct nbd_greeting_wire greeting = {
		.magic_be = htobe64(NBD_MAGIC),
		.opt_magic_be = htobe64(NBD_OPT_MAGIC),
		.flags_be = htobe16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
	};

	memset(session, 0, sizeof(*session));
	session->state = NBD_SESSION_CLIENT_FLAGS;
	put_bytes(&session->out, &greeting, sizeof(greeting));
}

void
nbd_session_fini(struct nbd_session *session)
{
	free(session->out.bytes);
	session->out = (struct nbd_output){ 0 };
}

enum nbd_event
nbd_session_input(
    struct nbd_session *session, const uint8_t *bytes, size_t len_bytes, size_t *consumed)
{
	*consumed = 0;
	for (;;) {
		size_t used = 0;
		enum nbd_event event;

		if (session->state == NBD_SESSION_CLOSED)
			return NBD_EVENT_CLOSE;
		if (session->state >= NBD_SESSION_HEADER)
			event = nbd_transmission_input(
			    session, bytes + *consumed, len_bytes - *consumed, &used);
		else
			event = nbd_handshake_input(
			    session, bytes + *consumed, len_bytes - *consumed, &used);
		*consumed += used;
		if (event != NBD_EVENT_MORE || used == 0)
			return event;
	}
}
