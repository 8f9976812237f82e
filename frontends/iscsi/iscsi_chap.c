/* SPDX-License-Identifier: Apache-2.0 */
#include "frontends/iscsi/iscsi_chap.h"

#include <ctype.h>
#include <stdlib.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

static const struct {
	enum chap_algorithm number;
	const char *name;
} algorithms[] = {
	{ CHAP_MD5, "MD5" },
	{ CHAP_SHA1, "SHA1" },
	{ CHAP_SHA256, "SHA2-256" },
	{ CHAP_SHA3_256, "SHA3-256" },
};

static const char *
algorithm_name(unsigned long number)
{
	for (size_t i = 0; i < ARRAY_SIZE(algorithms); i++)
		if (algorithms[i].number == number)
			return algorithms[i].name;
	return NULL;
}

/* Some are switched off where a policy forbids them (FIPS: MD5). */
static bool
available(unsigned long number)
{
	const char *name = algorithm_name(number);
	EVP_MD *md = name ? EVP_MD_fetch(NULL, name, NULL) : NULL;

	EVP_MD_free(md);
	return md != NULL;
}

enum chap_algorithm
chap_choose(const char *list)
{
	while (isdigit((unsigned char)*list)) {
		char *end;
		unsigned long number = strtoul(list, &end, 10);

		if ((*end == ',' || *end == '\0') && available(number))
			return (enum chap_algorithm)number;
		if (*end != ',')
			break;
		list = end + 1;
	}
	return CHAP_NONE;
}

/* --- text --- */

void
chap_format(const uint8_t *bytes, size_t len_bytes, char *text)
{
	static const char digits[] = "0123456789abcdef";

	*text++ = '0';
	*text++ = 'x';
	for (size_t i = 0; i < len_bytes; i++) {
		*text++ = digits[bytes[i] >> 4];
		*text++ = digits[bytes[i] & 15];
	}
	*text = '\0';
}

static int
digit(char c)
{
	return isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10;
}

/* An odd number of digits has a zero before it. */
static int
parse_hex(const char *text, uint8_t *bytes, size_t size)
{
	size_t digits = strlen(text);
	size_t at = 0;

	if (digits == 0 || (digits + 1) / 2 > size ||
	    strspn(text, "0123456789abcdefABCDEF") != digits)
		return -1;
	if (digits % 2)
		bytes[at++] = (uint8_t)digit(*text++);
	for (; *text; text += 2)
		bytes[at++] = (uint8_t)(digit(text[0]) << 4 | digit(text[1]));
	return (int)at;
}

static int
base64_value(char c)
{
	static const char letters[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c ? strchr(letters, c) : NULL;

	return at ? (int)(at - letters) : -1;
}

static int
parse_base64(const char *text, uint8_t *bytes, size_t size)
{
	size_t letters = strcspn(text, "=");
	size_t pads = strlen(text) - letters;
	uint32_t bits = 0;
	size_t at = 0;

	if (letters == 0 || letters % 4 == 1 || (letters + pads) % 4 || pads > 2 ||
	    strspn(text + letters, "=") != pads || letters * 3 / 4 > size)
		return -1;
	for (size_t i = 0; i < letters; i++) {
		int value = base64_value(text[i]);

		if (value < 0)
			return -1;
		bits = bits << 6 | (uint32_t)value;
		if (i % 4 != 0)
			bytes[at++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
	}
	return (int)at;
}

int
chap_parse(const char *text, uint8_t *bytes, size_t size)
{
	if (text[0] == '0' && tolower((unsigned char)text[1]) == 'x')
		return parse_hex(text + 2, bytes, size);
	if (text[0] == '0' && tolower((unsigned char)text[1]) == 'b')
		return parse_base64(text + 2, bytes, size);
	return -1;
}

int
chap_parse_identifier(const char *text)
{
	bool hex = text[0] == '0' && tolower((unsigned char)text[1]) == 'x';
	const char *digits = hex ? "0123456789abcdefABCDEF" : "0123456789";
	const char *number = text + (hex ? 2 : 0);
	size_t len = strlen(number);
	long value;

	if (len == 0 || len > 4 || strspn(number, digits) != len)
		return -1;
	value = strtol(number, NULL, hex ? 16 : 10);
	return value <= 255 ? (int)value : -1;
}

/* --- answers --- */

size_t
chap_answer(enum chap_algorithm algorithm, uint8_t identifier, const char *secret,
    const uint8_t *challenge, size_t challenge_bytes, uint8_t answer[CHAP_ANSWER_BYTES_MAX])
{
	const char *name = algorithm_name(algorithm);
	EVP_MD *md = name ? EVP_MD_fetch(NULL, name, NULL) : NULL;
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	unsigned int len_bytes = 0;

	if (!md || !context || EVP_MD_get_size(md) > (int)CHAP_ANSWER_BYTES_MAX ||
	    !EVP_DigestInit_ex2(context, md, NULL) || !EVP_DigestUpdate(context, &identifier, 1) ||
	    !EVP_DigestUpdate(context, secret, strlen(secret)) ||
	    !EVP_DigestUpdate(context, challenge, challenge_bytes) ||
	    !EVP_DigestFinal_ex(context, answer, &len_bytes))
		len_bytes = 0;
	EVP_MD_CTX_free(context);
	EVP_MD_free(md);
	return len_bytes;
}

bool
chap_equal(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
	return a_bytes == b_bytes && CRYPTO_memcmp(a, b, a_bytes) == 0;
}

bool
chap_random(uint8_t *bytes, size_t len_bytes)
{
	return RAND_bytes(bytes, (int)len_bytes) == 1;
}
