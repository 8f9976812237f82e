/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which exports a client sees, and which of them it may change: a list of rules, each
 *
 *   [!]PATTERN [ro] [from NET[,NET]…] [tls NAME] [at URI]
 *
 * PATTERN is a shell pattern over export names (* matches / too); with ! before it, it hides what
 * it matches, otherwise it offers it: ro, read-only.  A rule counts for the clients that meet all
 * of its conditions: an address in one of the NETs (ADDRESS[/BITS], or unix), a name shown by TLS
 * (a pattern; a certificate's common name or the user of a pre-shared key), a listener (the URI as
 * it was given).  The last rule that counts for the client and matches the name decides.  What none
 * matches is offered if there is no rule or the first one only hides, else hidden.
 */
#ifndef QUARRY_FRONTENDS_NBD_SERVER_ACCESS_H
#define QUARRY_FRONTENDS_NBD_SERVER_ACCESS_H

#include "core/base/error.h"
#include "core/base/util.h"

#define NBD_ACCESS_NETS_MAX 8u

enum nbd_access {
	NBD_ACCESS_NONE,
	NBD_ACCESS_READ,
	NBD_ACCESS_WRITE,
};

struct nbd_net {
	bool is_unix;
	uint8_t address[16]; /* IPv4 as ::ffff:a.b.c.d */
	uint32_t bits;       /* of it that count */
};

struct nbd_access_rule {
	bool hides;
	bool readonly;
	char pattern[256];
	struct nbd_net nets[NBD_ACCESS_NETS_MAX];
	uint32_t net_count; /* 0: from anywhere */
	char tls_name[256]; /* a pattern; "": whoever it is */
	char listener[256]; /* "": any */
};

/* Who a client is, as far as rules ask. */
struct nbd_peer {
	bool is_unix;
	uint8_t address[16];  /* is_unix: the user's number, at the end */
	const char *tls_name; /* "": none was shown */
	const char *listener;
};

/* 0, or -EINVAL with a text for the operator. */
int nbd_access_parse(
    struct nbd_access_rule *rule, const char *text, struct error *error) must_check;

enum nbd_access nbd_access(const struct nbd_access_rule *rules, size_t count,
    const struct nbd_peer *peer, const char *name);

/* Whether @peer may see more under a name that TLS shows. */
bool nbd_access_tls_reveals(
    const struct nbd_access_rule *rules, size_t count, const struct nbd_peer *peer);

/* Where the other end of the socket is; names are left out. */
void nbd_peer_of_socket(struct nbd_peer *peer, int fd);

#endif
