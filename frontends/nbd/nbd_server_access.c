/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of access; see nbd_server_access.h. */
#include "frontends/nbd/nbd_server_access.h"

#include <arpa/inet.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void
set_ipv4(uint8_t address[16], const void *ipv4)
{
	memset(address, 0, 10);
	memset(address + 10, 0xff, 2);
	memcpy(address + 12, ipv4, 4);
}

/* --- parsing --- */

static int
parse_bits(const char *text, uint32_t bits_max, uint32_t *bits)
{
	size_t digits = strspn(text, "0123456789");

	if (digits == 0 || digits > 3 || text[digits] || (uint32_t)atoi(text) > bits_max)
		return -EINVAL;
	*bits = (uint32_t)atoi(text);
	return 0;
}

static int
parse_net(struct nbd_net *net, const char *text, struct error *error)
{
	uint32_t family_bits = 128;
	uint8_t ipv4[4];
	char address[INET6_ADDRSTRLEN + 1];
	const char *slash = strchr(text, '/');

	memset(net, 0, sizeof(*net));
	net->is_unix = strcmp(text, "unix") == 0;
	if (net->is_unix)
		return 0;
	snprintf(address, sizeof(address), "%.*s",
	    slash ? (int)min_u64((uint64_t)(slash - text), INET6_ADDRSTRLEN) : INET6_ADDRSTRLEN,
	    text);
	if (inet_pton(AF_INET, address, ipv4) == 1) {
		set_ipv4(net->address, ipv4);
		family_bits = 32;
	} else if (inet_pton(AF_INET6, address, net->address) != 1) {
		return error_set(error, -EINVAL,
		    "\"%.40s\" is no address: write 192.0.2.0/24, 2001:db8::/32 or unix", text);
	}
	net->bits = family_bits;
	if (slash && parse_bits(slash + 1, family_bits, &net->bits))
		return error_set(error, -EINVAL,
		    "\"%.40s\": behind the / stand how many bits of %u count", text, family_bits);
	net->bits += 128 - family_bits;
	return 0;
}

static int
parse_nets(struct nbd_access_rule *rule, char *text, struct error *error)
{
	char *rest = NULL;

	for (char *word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		int rc;

		if (rule->net_count == NBD_ACCESS_NETS_MAX)
			return error_set(
			    error, -EINVAL, "a rule has at most %u addresses", NBD_ACCESS_NETS_MAX);
		rc = parse_net(&rule->nets[rule->net_count++], word, error);
		if (rc)
			return rc;
	}
	return 0;
}

static int
take_text(char (*to)[256], const char *text, struct error *error)
{
	if (strlen(text) >= sizeof(*to))
		return error_set(error, -EINVAL, "\"%.40s…\" is too long", text);
	strcpy(*to, text);
	return 0;
}

/* A word behind the pattern, and the one behind that. */
static int
take_condition(
    struct nbd_access_rule *rule, const char *word, char *value, bool *used, struct error *error)
{
	*used = strcmp(word, "ro") != 0;
	if (!*used) {
		rule->readonly = true;
		return rule->hides ? error_set(error, -EINVAL,
					 "what is hidden cannot be read-only: leave out ! or ro")
				   : 0;
	}
	if (strcmp(word, "from") != 0 && strcmp(word, "tls") != 0 && strcmp(word, "at") != 0)
		return error_set(error, -EINVAL,
		    "\"%.40s\": behind a pattern may stand ro, from ADDRESS/BITS, tls NAME and "
		    "at URI",
		    word);
	if (!value)
		return error_set(error, -EINVAL, "something is missing behind \"%s\"", word);
	if (word[0] == 'f')
		return parse_nets(rule, value, error);
	return take_text(word[0] == 't' ? &rule->tls_name : &rule->listener, value, error);
}

int
nbd_access_parse(struct nbd_access_rule *rule, const char *text, struct error *error)
{
	char *copy = xstrdup(text);
	char *rest = NULL;
	char *word = strtok_r(copy, " \t", &rest);
	int rc;

	memset(rule, 0, sizeof(*rule));
	rule->hides = word && word[0] == '!';
	if (!word || !word[rule->hides])
		rc = error_set(error, -EINVAL,
		    "\"%.40s\" is no pattern: name volumes as in tank/vm1 or tank/*, with ! before "
		    "it to hide them",
		    text);
	else
		rc = take_text(&rule->pattern, word + rule->hides, error);
	word = rc ? NULL : strtok_r(NULL, " \t", &rest);
	while (!rc && word) {
		char *value = strtok_r(NULL, " \t", &rest);
		bool used;

		rc = take_condition(rule, word, value, &used, error);
		word = used ? strtok_r(NULL, " \t", &rest) : value;
	}
	free(copy);
	return rc;
}

/* --- deciding --- */

static bool
net_has(const struct nbd_net *net, const struct nbd_peer *peer)
{
	uint32_t whole = net->bits / 8;
	uint8_t mask = (uint8_t)(0xff00 >> net->bits % 8);

	if (net->is_unix || peer->is_unix)
		return net->is_unix && peer->is_unix;
	return memcmp(net->address, peer->address, whole) == 0 &&
	       (net->bits % 8 == 0 || !((net->address[whole] ^ peer->address[whole]) & mask));
}

/* Whether the rule is for who comes from there, whoever it is. */
static bool
counts_for_place(const struct nbd_access_rule *rule, const struct nbd_peer *peer)
{
	bool from = rule->net_count == 0;

	for (uint32_t i = 0; i < rule->net_count && !from; i++)
		from = net_has(&rule->nets[i], peer);
	return from && (!rule->listener[0] || strcmp(rule->listener, peer->listener) == 0);
}

static bool
counts_for(const struct nbd_access_rule *rule, const struct nbd_peer *peer)
{
	return counts_for_place(rule, peer) &&
	       (!rule->tls_name[0] ||
		   (peer->tls_name[0] && fnmatch(rule->tls_name, peer->tls_name, 0) == 0));
}

bool
nbd_access_tls_reveals(
    const struct nbd_access_rule *rules, size_t count, const struct nbd_peer *peer)
{
	for (size_t i = 0; i < count; i++)
		if (!rules[i].hides && rules[i].tls_name[0] && counts_for_place(&rules[i], peer))
			return true;
	return false;
}

enum nbd_access
nbd_access(const struct nbd_access_rule *rules, size_t count, const struct nbd_peer *peer,
    const char *name)
{
	bool offered = count == 0 || rules[0].hides;

	for (size_t i = count; i-- > 0;) {
		const struct nbd_access_rule *rule = &rules[i];

		if (fnmatch(rule->pattern, name, 0) != 0 || !counts_for(rule, peer))
			continue;
		return rule->hides      ? NBD_ACCESS_NONE
		       : rule->readonly ? NBD_ACCESS_READ
					: NBD_ACCESS_WRITE;
	}
	return offered ? NBD_ACCESS_WRITE : NBD_ACCESS_NONE;
}

void
nbd_peer_of_socket(struct nbd_peer *peer, int fd)
{
	union {
		struct sockaddr_storage any;
		struct sockaddr_in ipv4;
		struct sockaddr_in6 ipv6;
	} from;
	socklen_t len = sizeof(from);
	struct ucred who;

	*peer = (struct nbd_peer){ .tls_name = "", .listener = "" };
	if (getpeername(fd, (struct sockaddr *)&from, &len) != 0)
		return; /* it is gone already: the address :: */
	peer->is_unix = from.any.ss_family == AF_UNIX;
	len = sizeof(who);
	if (peer->is_unix && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0)
		memcpy(peer->address + 12, &who.uid, sizeof(who.uid));
	if (from.any.ss_family == AF_INET)
		set_ipv4(peer->address, &from.ipv4.sin_addr);
	else if (from.any.ss_family == AF_INET6)
		memcpy(peer->address, &from.ipv6.sin6_addr, sizeof(peer->address));
}
