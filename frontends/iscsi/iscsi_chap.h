/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CHAP as iSCSI has it (RFC 7143 12.1.3, RFC 1994): challenges, answers, and their text.
 *
 * An answer is hash(identifier, secret, challenge).  Comparing takes as long for a wrong one as for
 * the right one, and so does a user that does not exist.
 */
#ifndef QUARRY_FRONTENDS_ISCSI_CHAP_H
#define QUARRY_FRONTENDS_ISCSI_CHAP_H

#include "core/base/util.h"

#define CHAP_CHALLENGE_BYTES 32u
#define CHAP_CHALLENGE_BYTES_MAX 1024u /* of an initiator */
#define CHAP_ANSWER_BYTES_MAX 32u
#define CHAP_TEXT_BYTES (2 + 2 * CHAP_CHALLENGE_BYTES + 1) /* "0x…": ours */

enum chap_algorithm { /* IANA's numbers */
	CHAP_NONE = 0,
	CHAP_MD5 = 5,
	CHAP_SHA1 = 6,
	CHAP_SHA256 = 7,
	CHAP_SHA3_256 = 8,
};

/* The first of "7,5" that is known. */
enum chap_algorithm chap_choose(const char *list);

/* @bytes as "0x…"; @text has room for 3 + 2 * @len_bytes. */
void chap_format(const uint8_t *bytes, size_t len_bytes, char *text);
/* "0x…" or "0b…" (base64); -1: neither, or more than @size bytes. */
int chap_parse(const char *text, uint8_t *bytes, size_t size) must_check;
/* 0 to 255, decimal or hexadecimal; -1: not such a number. */
int chap_parse_identifier(const char *text) must_check;

/* How many bytes; 0: the library has no such hash. */
size_t chap_answer(enum chap_algorithm algorithm, uint8_t identifier, const char *secret,
    const uint8_t *challenge, size_t challenge_bytes, uint8_t answer[CHAP_ANSWER_BYTES_MAX]);

/* In constant time. */
bool chap_equal(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes);

/* A new challenge; false: there is no randomness, and nobody can log in. */
bool chap_random(uint8_t *bytes, size_t len_bytes) must_check;

#endif
