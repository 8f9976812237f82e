/* SPDX-License-Identifier: Apache-2.0 */
#include "frontends/stream/stream_address.h"

#include <stdio.h>
#include <stdlib.h>

static bool
port_is_valid(const char *text)
{
	size_t digits = strspn(text, "0123456789");

	return digits > 0 && digits <= 5 && !text[digits] && atoi(text) <= 65535;
}

int
stream_address_parse(struct stream_address *address, const char *uri, const char *at,
    const char *scheme, const char *port_default, const char *named_by, const char **rest,
    struct error *error)
{
	bool bracketed = at[0] == '[';
	const char *host = at + bracketed;
	size_t host_bytes = strcspn(host, bracketed ? "]/?" : ":/?");
	const char *after = host + host_bytes;

	if (bracketed && *after++ != ']')
		return error_set(error, -EINVAL, "\"%.80s\": a ] is missing", uri);
	if (host_bytes == 0)
		return error_set(error, -EINVAL,
		    "\"%.80s\" has no address; for every address of this machine write "
		    "%s0.0.0.0:%s or %s[::]:%s",
		    uri, scheme, port_default, scheme, port_default);
	if (host_bytes >= sizeof(address->host))
		return error_set(error, -EINVAL, "\"%.80s…\": the address is too long", uri);
	memcpy(address->host, host, host_bytes);
	address->host[host_bytes] = '\0';
	strcpy(address->port, port_default);
	if (*after == ':') {
		size_t port_bytes = strcspn(++after, "/?");

		snprintf(address->port, sizeof(address->port), "%.*s",
		    (int)min_u64(port_bytes, sizeof(address->port) - 1), after);
		if (!port_is_valid(address->port))
			return error_set(error, -EINVAL,
			    "\"%.80s\": the port must be a number up to 65535 (an IPv6 address "
			    "stands in [ ])",
			    uri);
		after += port_bytes;
	}
	after += *after == '/';
	if (*after && *after != '?')
		return error_set(error, -EINVAL,
		    "\"%.80s\": a listen address ends after the port; %s", uri, named_by);
	*rest = after;
	return 0;
}
