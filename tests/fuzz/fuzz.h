/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For fuzz targets: what a target takes from its input, piece by piece.  A short input reads as
 * zeroes at its end, so every input means something.
 *
 * A target is one file, tests/fuzz/fuzz_NAME.c; the Makefile and run.sh find it by its name.  It
 * CHECKs what must hold of whatever the parser accepts; what it does not accept only has to be
 * refused without harm, which the sanitizers watch.
 */
#ifndef QUARRY_TESTS_FUZZ_FUZZ_H
#define QUARRY_TESTS_FUZZ_FUZZ_H

#include "core/base/util.h"

struct fuzz_input {
	const uint8_t *at;
	size_t left;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void
fuzz_take(struct fuzz_input *input, void *to, size_t bytes)
{
	size_t have = bytes < input->left ? bytes : input->left;

	if (have)
		memcpy(to, input->at, have);
	memset((char *)to + have, 0, bytes - have);
	input->at += have;
	input->left -= have;
}

static inline uint8_t
fuzz_byte(struct fuzz_input *input)
{
	uint8_t byte;

	fuzz_take(input, &byte, 1);
	return byte;
}

/* What is left, as a string; the caller frees it. */
static inline char *
fuzz_text(struct fuzz_input *input)
{
	size_t bytes = input->left;
	char *text = xmalloc(bytes + 1);

	fuzz_take(input, text, bytes);
	text[bytes] = '\0';
	return text;
}

#endif
