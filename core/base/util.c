/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/util.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"

void
check_failed(const char *condition, const char *file, int line)
{
	diag_error("bug: %s does not hold at %s:%d", condition, file, line);
	abort();
}

void
out_of_memory(size_t size_bytes)
{
	diag_error("out of memory: the system has no %zu bytes; what was acknowledged is safe, and "
		   "served again after a restart (limits: --node-cache, --buffer-memory)",
	    size_bytes);
	abort();
}

static void *
or_die(void *memory, size_t size_bytes)
{
	if (unlikely(!memory))
		out_of_memory(size_bytes);
	return memory;
}

void *
xmalloc(size_t size_bytes)
{
	return or_die(malloc(size_bytes ? size_bytes : 1), size_bytes);
}

void *
xcalloc(size_t count, size_t size_bytes)
{
	return or_die(calloc(count ? count : 1, size_bytes ? size_bytes : 1), count * size_bytes);
}

void *
xrealloc(void *old, size_t size_bytes)
{
	return or_die(realloc(old, size_bytes ? size_bytes : 1), size_bytes);
}

char *
xstrdup(const char *text)
{
	return or_die(strdup(text), strlen(text));
}

void *
xalloc_pages(size_t size_bytes)
{
	size_t rounded = round_up(size_bytes, 4096);
	void *memory = or_die(aligned_alloc(4096, rounded), rounded);

	memset(memory, 0, rounded);
	return memory;
}
