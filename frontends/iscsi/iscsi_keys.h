/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys of login and text requests: what was agreed on, and the rules by which (RFC 7143 13).
 *
 * Pure: a key and its value in, the answer's text out.
 */
#ifndef QUARRY_FRONTENDS_ISCSI_KEYS_H
#define QUARRY_FRONTENDS_ISCSI_KEYS_H

#include "frontends/iscsi/iscsi_chap.h"
#include "frontends/iscsi/iscsi_proto.h"

#define ISCSI_RECEIVE_BYTES_MAX (256 * KIB) /* our MaxRecvDataSegmentLength */

#define ISCSI_CHAP_LIST_BYTES 64u
#define ISCSI_VALUE_BYTES_MAX 255u /* but of challenges */

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
	uint64_t keys_seen;      /* a bit for each key of the table, so that none comes twice */
	char initiator_name[ISCSI_NAME_BYTES_MAX + 1];
	char target_name[ISCSI_NAME_BYTES_MAX + 1];
	char send_targets[ISCSI_NAME_BYTES_MAX + 1];
	char auth_method[ISCSI_CHAP_LIST_BYTES]; /* what the initiator offers; "": nothing yet */
	struct {
		char algorithms[ISCSI_CHAP_LIST_BYTES];
		char identifier[8];
		char challenge[2 + 2 * CHAP_CHALLENGE_BYTES_MAX + 1];
		char name[ISCSI_VALUE_BYTES_MAX + 1];
		char answer[2 + 2 * CHAP_ANSWER_BYTES_MAX + 1];
	} chap;             /* of the present request; "": did not come */
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

#endif
