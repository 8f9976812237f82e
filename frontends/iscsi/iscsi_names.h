/* SPDX-License-Identifier: Apache-2.0 */
/* The target that a volume or snapshot is without an export: iqn.2026-11.io.quarry:POOL.VOLUME. */
#ifndef QUARRY_FRONTENDS_ISCSI_NAMES_H
#define QUARRY_FRONTENDS_ISCSI_NAMES_H

#include "frontends/iscsi/iscsi_proto.h"
#include "metadata/name.h"

/* "" if the name is too long for one. */
void iscsi_target_name(const struct name *name, char out[ISCSI_NAME_BYTES_MAX + 1]);
/* And back; -EINVAL: not such a name. */
int iscsi_target_parse(const char *target, struct name *name) must_check;

#endif
