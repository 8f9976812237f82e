/* SPDX-License-Identifier: Apache-2.0 */
/* The version of the programs; the administrator's protocol has its own (admin_proto.h). */
#ifndef QUARRY_TOOLS_VERSION_H
#define QUARRY_TOOLS_VERSION_H

#define QUARRY_VERSION "0.1.0"

#endif
