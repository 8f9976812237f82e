/* SPDX-License-Identifier: Apache-2.0 */
/* Listen addresses, as the URIs of the NBD project (doc/uri.md) write them. */
#include "tools/quarryd_config.h"

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

static int
parse_unix(struct listen_address *address, const char *uri, const char *rest, struct error *error)
{
	int rc;

	if (strncmp(rest, "/?socket=", strlen("/?socket=")) != 0)
		return error_set(error, -EINVAL, "\"%.80s\": write nbd+unix:///?socket=PATH", uri);
	rest += strlen("/?socket=");
	if (strchr(rest, '&'))
		return error_set(
		    error, -EINVAL, "\"%.80s\": nothing but the socket may be given", uri);
	rc = percent_decode(rest, address->path, sizeof(address->path));
	if (rc == -ENAMETOOLONG)
		return error_set(error, -EINVAL,
		    "\"%.80s\": the path of a socket has at most %zu characters", uri,
		    sizeof(address->path) - 1);
	if (rc)
		return error_set(error, -EINVAL, "\"%.80s\": two hex digits must follow a %%", uri);
	if (address->path[0] != '/')
		return error_set(
		    error, -EINVAL, "\"%.80s\": the socket's path must begin with /", uri);
	address->is_unix = true;
	return 0;
}

static int
parse_port(const char *text, uint16_t *port)
{
	unsigned value = 0;

	if (!*text || strlen(text) > 5)
		return -EINVAL;
	for (; *text >= '0' && *text <= '9'; text++)
		value = 10 * value + (unsigned)(*text - '0');
	if (*text || value == 0 || value > 65535)
		return -EINVAL;
	*port = (uint16_t)value;
	return 0;
}

static int
parse_tcp(struct listen_address *address, const char *uri, const char *rest, struct error *error)
{
	bool bracketed = rest[0] == '[';
	size_t host_bytes = bracketed ? strcspn(rest + 1, "]/") : strcspn(rest, ":/");
	const char *host = bracketed ? rest + 1 : rest;
	const char *after = host + host_bytes;
	char port[8] = "";
	size_t port_bytes;

	if (bracketed && *after++ != ']')
		return error_set(error, -EINVAL, "\"%.80s\": a ] is missing", uri);
	if (host_bytes == 0)
		return error_set(error, -EINVAL,
		    "\"%.80s\" has no address; for every address of this machine write "
		    "nbd://0.0.0.0:%d or nbd://[::]:%d",
		    uri, NBD_PORT_DEFAULT, NBD_PORT_DEFAULT);
	if (host_bytes >= sizeof(address->host))
		return error_set(error, -EINVAL, "\"%.80s…\": the address is too long", uri);
	memcpy(address->host, host, host_bytes);
	address->host[host_bytes] = '\0';
	address->port = NBD_PORT_DEFAULT;
	if (*after == ':') {
		port_bytes = strcspn(++after, "/");
		snprintf(port, sizeof(port), "%.*s", (int)min_u64(port_bytes, 7), after);
		if (parse_port(port, &address->port))
			return error_set(error, -EINVAL,
			    "\"%.80s\": the port must be a number from 1 to 65535 (an IPv6 address "
			    "stands in [ ])",
			    uri);
		after += port_bytes;
	}
	if (strcmp(after, "") != 0 && strcmp(after, "/") != 0)
		return error_set(error, -EINVAL,
		    "\"%.80s\": a listen address ends after the port; exports are named by clients",
		    uri);
	return 0;
}

int
listen_address_parse(struct listen_address *address, const char *uri, struct error *error)
{
	static const char unix_scheme[] = "nbd+unix://";
	static const char tcp_scheme[] = "nbd://";
	int rc;

	memset(address, 0, sizeof(*address));
	if (strncmp(uri, unix_scheme, strlen(unix_scheme)) == 0)
		rc = parse_unix(address, uri, uri + strlen(unix_scheme), error);
	else if (strncmp(uri, tcp_scheme, strlen(tcp_scheme)) == 0)
		rc = parse_tcp(address, uri, uri + strlen(tcp_scheme), error);
	else if (strncmp(uri, "nbds", 4) == 0)
		rc = error_set(
		    error, -EINVAL, "\"%.80s\": TLS is not there yet; " WHAT_IS_RIGHT, uri);
	else
		rc = error_set(error, -EINVAL,
		    "\"%.80s\" is not an address to listen on; " WHAT_IS_RIGHT, uri);
	if (!rc)
		address->uri = xstrdup(uri);
	return rc;
}
