/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where to listen, as the URIs of the NBD project (doc/uri.md) write it:
 *
 *   nbd://ADDRESS[:PORT][?tls=off|on|require]      nbds:// is the same with tls=require
 *   nbd+unix:///?socket=PATH[&tls=…]               nbds+unix://
 */
#ifndef QUARRY_FRONTENDS_NBD_URI_H
#define QUARRY_FRONTENDS_NBD_URI_H

#include "core/base/error.h"
#include "frontends/nbd/nbd_proto.h"
#include "frontends/stream/stream_address.h"

enum nbd_tls_policy {
	NBD_TLS_OFF,
	NBD_TLS_ON,      /* who asks for it gets it */
	NBD_TLS_REQUIRE, /* nothing else is answered before */
};

struct nbd_address {
	bool is_unix;
	bool tls_given; /* else the server's own setting counts */
	enum nbd_tls_policy tls;
	struct stream_address tcp;
	char path[108]; /* Unix socket */
};

/* 0, or -EINVAL with a text for the operator. */
int nbd_address_parse(struct nbd_address *address, const char *uri, struct error *error) must_check;

int nbd_tls_policy_parse(
    const char *text, enum nbd_tls_policy *policy, struct error *error) must_check;

#endif
