/* SPDX-License-Identifier: Apache-2.0 */
#include "frontends/iscsi/iscsi_keys.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "metadata/export.h"

#define KEY_BYTES_MAX 63u

enum key_rule {
	KEY_LIST,        /* the first of the initiator's that we have, too */
	KEY_AND,         /* Yes if both want it */
	KEY_OR,          /* Yes if one wants it */
	KEY_MIN,         /* the smaller number */
	KEY_MAX,         /* the larger number */
	KEY_DECLARED,    /* a number that is not answered */
	KEY_NAME,        /* likewise, a name */
	KEY_TEXT,        /* likewise, of no matter to us */
	KEY_KEPT,        /* likewise, kept for who answers it: up to `high` bytes with the zero */
	KEY_SESSION,     /* SessionType */
	KEY_SENDTARGETS, /* answered elsewhere */
	KEY_REFUSED,     /* understood, and always answered like this */
};

#define NOWHERE SIZE_MAX

static const struct key {
	const char *name;
	enum key_rule rule;
	bool login_only;
	uint32_t low, high; /* numbers: the range */
	uint32_t ours;      /* numbers and booleans: what we would have */
	const char *values; /* LIST: what we know, "None,CRC32C"; REFUSED: the answer */
	size_t at;          /* of the result in struct iscsi_params */
} keys[] = {
#define AT(field) offsetof(struct iscsi_params, field)
#define KEPT(field) .high = sizeof(((struct iscsi_params *)0)->field), .at = AT(field)
	{ "HeaderDigest", KEY_LIST, true, .values = "None,CRC32C", .at = AT(header_digest) },
	{ "DataDigest", KEY_LIST, true, .values = "None,CRC32C", .at = AT(data_digest) },
	{ "AuthMethod", KEY_KEPT, true, KEPT(auth_method) },
	{ "CHAP_A", KEY_KEPT, true, KEPT(chap.algorithms) },
	{ "CHAP_I", KEY_KEPT, true, KEPT(chap.identifier) },
	{ "CHAP_C", KEY_KEPT, true, KEPT(chap.challenge) },
	{ "CHAP_N", KEY_KEPT, true, KEPT(chap.name) },
	{ "CHAP_R", KEY_KEPT, true, KEPT(chap.answer) },
	{ "TaskReporting", KEY_LIST, true, .values = "RFC3720", .at = NOWHERE },
	{ "InitialR2T", KEY_OR, true, .ours = 0, .at = AT(initial_r2t) },
	{ "ImmediateData", KEY_AND, true, .ours = 1, .at = AT(immediate_data) },
	{ "DataPDUInOrder", KEY_OR, true, .ours = 1, .at = NOWHERE },
	{ "DataSequenceInOrder", KEY_OR, true, .ours = 1, .at = NOWHERE },
	{ "MaxBurstLength", KEY_MIN, true, 512, 0xffffff, 1024 * 1024, .at = AT(max_burst_bytes) },
	{ "FirstBurstLength", KEY_MIN, true, 512, 0xffffff, 256 * 1024,
	    .at = AT(first_burst_bytes) },
	{ "MaxOutstandingR2T", KEY_MIN, true, 1, 65535, 1, .at = NOWHERE },
	{ "MaxConnections", KEY_MIN, true, 1, 65535, 1, .at = NOWHERE },
	{ "ErrorRecoveryLevel", KEY_MIN, true, 0, 2, 0, .at = NOWHERE },
	{ "DefaultTime2Wait", KEY_MAX, true, 0, 3600, 0, .at = NOWHERE },
	{ "DefaultTime2Retain", KEY_MIN, true, 0, 3600, 0, .at = NOWHERE },
	{ "iSCSIProtocolLevel", KEY_MIN, true, 0, 31, 1, .at = NOWHERE },
	{ "MaxRecvDataSegmentLength", KEY_DECLARED, false, 512, 0xffffff,
	    .at = AT(send_bytes_max) },
	{ "InitiatorName", KEY_NAME, true, .at = AT(initiator_name) },
	{ "TargetName", KEY_NAME, true, .at = AT(target_name) },
	{ "InitiatorAlias", KEY_TEXT, .at = NOWHERE },
	{ "SessionType", KEY_SESSION, true, .at = NOWHERE },
	{ "SendTargets", KEY_SENDTARGETS, .at = NOWHERE },
	{ "OFMarker", KEY_REFUSED, .values = "No", .at = NOWHERE },
	{ "IFMarker", KEY_REFUSED, .values = "No", .at = NOWHERE },
	{ "OFMarkInt", KEY_REFUSED, .values = "Reject", .at = NOWHERE },
	{ "IFMarkInt", KEY_REFUSED, .values = "Reject", .at = NOWHERE },
	{ "RDMAExtensions", KEY_REFUSED, .values = "No", .at = NOWHERE },
#undef KEPT
#undef AT
};
static_assert(ARRAY_SIZE(keys) <= 64, "a bit for each in keys_seen");

void
iscsi_params_init(struct iscsi_params *params)
{
	*params = (struct iscsi_params){
		.initial_r2t = 1,
		.immediate_data = 1,
		.max_burst_bytes = 262144,
		.first_burst_bytes = 65536,
		.send_bytes_max = 8192,
	};
}

void
iscsi_text_add(struct iscsi_text *text, const char *key, const char *value)
{
	size_t more_bytes = strlen(key) + strlen(value) + 2;

	if (text->len_bytes + more_bytes > text->capacity_bytes) {
		text->capacity_bytes = 2 * (text->len_bytes + more_bytes);
		text->bytes = xrealloc(text->bytes, text->capacity_bytes);
	}
	sprintf((char *)text->bytes + text->len_bytes, "%s=%s", key, value);
	text->len_bytes += more_bytes;
}

/* Decimal or 0x…; false: not a number that is in range. */
static bool
parse_number(const char *text, uint32_t low, uint32_t high, uint32_t *number)
{
	char *end;
	unsigned long n;

	if (!isdigit((unsigned char)text[0]))
		return false;
	n = strtoul(text, &end, text[0] == '0' && tolower((unsigned char)text[1]) == 'x' ? 16 : 10);
	*number = (uint32_t)n;
	return *end == '\0' && n >= low && n <= high;
}

/* The index of @value in the list @values; -1: it is not there. */
static int
list_index(const char *values, const char *value, size_t len_bytes)
{
	for (int index = 0;; index++) {
		size_t n = strcspn(values, ",");

		if (n == len_bytes && memcmp(values, value, n) == 0)
			return index;
		if (values[n] == '\0')
			return -1;
		values += n + 1;
	}
}

static void
take_list(const struct key *key, const char *value, uint32_t *result, struct iscsi_text *answer)
{
	char chosen[ISCSI_VALUE_BYTES_MAX + 1];

	for (const char *at = value;; at++) {
		size_t n = strcspn(at, ",");
		int index = list_index(key->values, at, n);

		if (index >= 0) {
			memcpy(chosen, at, n);
			chosen[n] = '\0';
			*result = (uint32_t)index;
			iscsi_text_add(answer, key->name, chosen);
			return;
		}
		at += n;
		if (*at == '\0')
			break;
	}
	iscsi_text_add(answer, key->name, "Reject");
}

static int
take_boolean(const struct key *key, const char *value, uint32_t *result, struct iscsi_text *answer)
{
	bool theirs = strcmp(value, "Yes") == 0;

	if (!theirs && strcmp(value, "No") != 0) {
		iscsi_text_add(answer, key->name, "Reject");
		return 0;
	}
	*result = key->rule == KEY_AND ? theirs && key->ours : theirs || key->ours;
	iscsi_text_add(answer, key->name, *result ? "Yes" : "No");
	return 0;
}

static int
take_number(const struct key *key, const char *value, uint32_t *result, struct iscsi_text *answer)
{
	char text[16];
	uint32_t theirs;

	if (!parse_number(value, key->low, key->high, &theirs)) {
		if (key->rule == KEY_DECLARED)
			return -EINVAL;
		iscsi_text_add(answer, key->name, "Reject");
		return 0;
	}
	*result = theirs;
	if (key->rule == KEY_DECLARED)
		return 0;
	*result = (uint32_t)(key->rule == KEY_MIN ? min_u64(theirs, key->ours)
						  : max_u64(theirs, key->ours));
	snprintf(text, sizeof(text), "%u", *result);
	iscsi_text_add(answer, key->name, text);
	return 0;
}

static int
take_key(struct iscsi_params *params, const struct key *key, const char *value,
    struct iscsi_text *answer)
{
	uint32_t unused = 0;
	uint32_t *result = key->at == NOWHERE ? &unused : (uint32_t *)((char *)params + key->at);

	switch (key->rule) {
	case KEY_LIST:
		take_list(key, value, result, answer);
		return 0;
	case KEY_AND:
	case KEY_OR:
		return take_boolean(key, value, result, answer);
	case KEY_MIN:
	case KEY_MAX:
	case KEY_DECLARED:
		return take_number(key, value, result, answer);
	case KEY_NAME:
		return export_name_normalize(value, (char *)params + key->at) ? 0 : -EINVAL;
	case KEY_TEXT:
		return 0;
	case KEY_KEPT:
		if (!value[0] || strlen(value) >= key->high)
			return -EINVAL;
		strcpy((char *)params + key->at, value);
		return 0;
	case KEY_SESSION:
		params->discovery = strcmp(value, "Discovery") == 0;
		return params->discovery || strcmp(value, "Normal") == 0 ? 0 : -EINVAL;
	case KEY_SENDTARGETS:
		params->sends_targets = true;
		if (strlen(value) > ISCSI_NAME_BYTES_MAX)
			return -EINVAL;
		strcpy(params->send_targets, value);
		return 0;
	case KEY_REFUSED:
		iscsi_text_add(answer, key->name, key->values);
		return 0;
	}
	CHECK(false);
}

static int
take_pair(struct iscsi_params *params, const char *name, const char *value, bool login,
    struct iscsi_text *answer)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const struct key *key = &keys[i];

		if (strcmp(key->name, name) != 0)
			continue;
		if ((key->login_only && !login) || (key->rule == KEY_SENDTARGETS && login))
			return -EINVAL;
		if (login && params->keys_seen & 1ull << i)
			return -EINVAL;
		params->keys_seen |= 1ull << i;
		return take_key(params, key, value, answer);
	}
	iscsi_text_add(answer, name, "NotUnderstood");
	return 0;
}

int
iscsi_keys_take(struct iscsi_params *params, const uint8_t *bytes, size_t len_bytes, bool login,
    struct iscsi_text *answer)
{
	size_t at = 0;

	while (at < len_bytes) {
		const char *pair = (const char *)bytes + at;
		size_t pair_bytes = strnlen(pair, len_bytes - at);
		const char *equals = memchr(pair, '=', pair_bytes);
		char name[KEY_BYTES_MAX + 1];
		char value[2 + 2 * CHAP_CHALLENGE_BYTES_MAX + 1];
		size_t name_bytes, value_bytes;
		int rc;

		if (pair_bytes == 0) { /* padding */
			at++;
			continue;
		}
		if (!equals || pair_bytes == len_bytes - at)
			return -EINVAL;
		name_bytes = (size_t)(equals - pair);
		value_bytes = pair_bytes - name_bytes - 1;
		if (name_bytes == 0 || name_bytes > KEY_BYTES_MAX || value_bytes >= sizeof(value))
			return -EINVAL;
		memcpy(name, pair, name_bytes);
		name[name_bytes] = '\0';
		memcpy(value, equals + 1, value_bytes);
		value[value_bytes] = '\0';
		if (value_bytes > ISCSI_VALUE_BYTES_MAX && strcmp(name, "CHAP_C") != 0)
			return -EINVAL;
		rc = take_pair(params, name, value, login, answer);
		if (rc)
			return rc;
		at += pair_bytes + 1;
	}
	params->first_burst_bytes =
	    (uint32_t)min_u64(params->first_burst_bytes, params->max_burst_bytes);
	return 0;
}
