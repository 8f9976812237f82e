/* SPDX-License-Identifier: Apache-2.0 */
/* The ADDRESS[:PORT][/] of a listen URI, as every protocol has it. */
#ifndef QUARRY_FRONTENDS_STREAM_ADDRESS_H
#define QUARRY_FRONTENDS_STREAM_ADDRESS_H

#include "core/base/error.h"
#include "core/base/util.h"

struct stream_address {
	char host[256]; /* a name or an address, without brackets */
	char port[8];   /* 0: the kernel chooses one */
};

/*
 * Parses @at, which is what follows @scheme ("nbd://") in @uri; *rest is left at the end, or at a
 * ?.
 * @named_by says who names what could follow the port.  0, or -EINVAL with a text for the operator.
 */
int stream_address_parse(struct stream_address *address, const char *uri, const char *at,
    const char *scheme, const char *port_default, const char *named_by, const char **rest,
    struct error *error) must_check;

#endif
