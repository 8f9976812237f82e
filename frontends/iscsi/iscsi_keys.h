/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys of login and text requests: what was agreed on, and the rules by which (RFC 7143 13).
 *
 * Pure: a key and its value in, the answer's text out.
 */
#ifndef QUARRY_FRONTENDS_ISCSI_KEYS_H
#define QUARRY_FRONTENDS_ISCSI_KEYS_H

#include "frontends/iscsi/iscsi_proto.h"

#define ISCSI_RECEIVE_BYTES_MAX (256 * KIB) /* our MaxRecvDataSegmentLength */

struct iscsi_text {
	uint8_t *bytes;
	size_t len_bytes;
	size_t capacity_bytes;
};

struct iscsi_params {
	uint32_t header_digest; /* 1: CRC32C */
	uint32_t data_digest;
	uint32_t initial_r2t;
	uint32_t immediate_data;
	uint32_t max_burst_bytes;
	uint32_t first_burst_bytes;
	uint32_t send_bytes_max; /* the initiator's MaxRecvDataSegmentLength */
	uint32_t keys_seen;      /* a bit for each key of the table, so that none comes twice */
	char initiator_name[ISCSI_NAME_BYTES_MAX + 1];
	char target_name[ISCSI_NAME_BYTES_MAX + 1];
	char send_targets[ISCSI_NAME_BYTES_MAX + 1];
	bool sends_targets; /* SendTargets was asked */
	bool discovery;
	bool declared; /* our own declarations went out */
};

void iscsi_params_init(struct iscsi_params *params);

void iscsi_text_add(struct iscsi_text *text, const char *key, const char *value);

/*
 * Takes the keys of @bytes (KEY=VALUE, zeroes between them) and puts the answers into @answer.
 * @login: before full feature phase.  0, or -EINVAL: the text is malformed, a value is impossible,
 * or a key comes at the wrong time or twice.
 */
int iscsi_keys_take(struct iscsi_params *params, const uint8_t *bytes, size_t len_bytes, bool login,
    struct iscsi_text *answer) must_check;

/* Names are compared without regard to case: made lower here.  False: not a name. */
bool iscsi_name_normalize(const char *name, char out[ISCSI_NAME_BYTES_MAX + 1]);

#endif
