/* SPDX-License-Identifier: Apache-2.0 */
/* Listen addresses, as the URIs of the NBD project (doc/uri.md) write them. */
#include "frontends/nbd/nbd_uri.h"

#include <stdio.h>
#include <stdlib.h>

#define WHAT_IS_RIGHT "write nbd://ADDRESS:PORT or nbd+unix:///?socket=PATH"

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Undoes %41; -EINVAL: no two digits follow, or a zero byte; -ENAMETOOLONG. */
static int
percent_decode(const char *from, char *to, size_t size)
{
	size_t len = 0;

	for (; *from; from++) {
		char c = *from;

		if (c == '%') {
			int high = hex_digit(from[1]);
			int low = high < 0 ? -1 : hex_digit(from[2]);

			if (low < 0 || high * 16 + low == 0)
				return -EINVAL;
			c = (char)(high * 16 + low);
			from += 2;
		}
		if (len + 1 >= size)
			return -ENAMETOOLONG;
		to[len++] = c;
	}
	to[len] = '\0';
	return 0;
}

/* --- the query: socket=PATH and tls=off|on|require --- */

int
nbd_tls_policy_parse(const char *text, enum nbd_tls_policy *policy, struct error *error)
{
	static const char *const words[] = {
		[NBD_TLS_OFF] = "off",
		[NBD_TLS_ON] = "on",
		[NBD_TLS_REQUIRE] = "require",
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcmp(words[i], text) == 0) {
			*policy = (enum nbd_tls_policy)i;
			return 0;
		}
	}
	return error_set(error, -EINVAL, "\"%.40s\" is none of off, on and require", text);
}

static int
take_socket(struct nbd_address *address, const char *uri, const char *value, struct error *error)
{
	int rc = percent_decode(value, address->path, sizeof(address->path));

	if (rc == -ENAMETOOLONG)
		return error_set(error, -EINVAL,
		    "\"%.80s\": the path of a socket has at most %zu characters", uri,
		    sizeof(address->path) - 1);
	if (rc)
		return error_set(error, -EINVAL, "\"%.80s\": two hex digits must follow a %%", uri);
	if (address->path[0] != '/')
		return error_set(
		    error, -EINVAL, "\"%.80s\": the socket's path must begin with /", uri);
	return 0;
}

static int
take_tls(struct nbd_address *address, const char *uri, const char *value, struct error *error)
{
	enum nbd_tls_policy policy = NBD_TLS_OFF;
	struct error inner = { 0 };

	if (nbd_tls_policy_parse(value, &policy, &inner))
		return error_set(error, -EINVAL, "\"%.80s\": tls=%s", uri, inner.text);
	if (address->tls_given && policy != address->tls)
		return error_set(error, -EINVAL, "\"%.80s\": nbds means that TLS is required", uri);
	address->tls = policy;
	address->tls_given = true;
	return 0;
}

/* @rest: what stands behind the ?, or "". */
static int
parse_query(struct nbd_address *address, const char *uri, const char *rest, struct error *error)
{
	static const struct {
		const char *key;
		bool for_unix;
		int (*take)(struct nbd_address *address, const char *uri, const char *value,
		    struct error *error);
	} keys[] = {
		{ "socket=", true, take_socket },
		{ "tls=", false, take_tls },
	};
	char value[512];

	while (*rest) {
		size_t len = strcspn(rest, "&");
		size_t i;
		int rc;

		for (i = 0; i < ARRAY_SIZE(keys); i++)
			if (strncmp(rest, keys[i].key, strlen(keys[i].key)) == 0 &&
			    (address->is_unix || !keys[i].for_unix))
				break;
		if (i == ARRAY_SIZE(keys))
			return error_set(error, -EINVAL,
			    "\"%.80s\": nothing but %stls= may stand behind the ?", uri,
			    address->is_unix ? "socket= and " : "");
		len -= strlen(keys[i].key);
		rest += strlen(keys[i].key);
		snprintf(value, sizeof(value), "%.*s", (int)min_u64(len, sizeof(value) - 1), rest);
		rc = keys[i].take(address, uri, value, error);
		if (rc)
			return rc;
		rest += len;
		rest += *rest == '&';
	}
	return 0;
}

static int
parse_unix(struct nbd_address *address, const char *uri, const char *rest, struct error *error)
{
	address->is_unix = true;
	rest += *rest == '/';
	if (*rest != '?' || !strstr(rest, "socket="))
		return error_set(error, -EINVAL, "\"%.80s\": write nbd+unix:///?socket=PATH", uri);
	return parse_query(address, uri, rest + 1, error);
}

static int
parse_tcp(struct nbd_address *address, const char *uri, const char *rest, struct error *error)
{
	int rc = stream_address_parse(&address->tcp, uri, rest, "nbd://", NBD_PORT_DEFAULT,
	    "exports are named by clients", &rest, error);

	return rc ? rc : parse_query(address, uri, rest + (*rest == '?'), error);
}

int
nbd_address_parse(struct nbd_address *address, const char *uri, struct error *error)
{
	static const struct {
		const char *scheme;
		bool tls;
		int (*parse)(struct nbd_address *address, const char *uri, const char *rest,
		    struct error *error);
	} schemes[] = {
		{ "nbd://", false, parse_tcp },
		{ "nbds://", true, parse_tcp },
		{ "nbd+unix://", false, parse_unix },
		{ "nbds+unix://", true, parse_unix },
	};

	memset(address, 0, sizeof(*address));
	for (size_t i = 0; i < ARRAY_SIZE(schemes); i++) {
		size_t len = strlen(schemes[i].scheme);

		if (strncmp(uri, schemes[i].scheme, len) != 0)
			continue;
		address->tls_given = schemes[i].tls;
		address->tls = schemes[i].tls ? NBD_TLS_REQUIRE : NBD_TLS_OFF;
		return schemes[i].parse(address, uri, uri + len, error);
	}
	return error_set(error, -EINVAL,
	    "\"%.80s\" is not an address to listen on; " WHAT_IS_RIGHT " (nbds for TLS)", uri);
}
