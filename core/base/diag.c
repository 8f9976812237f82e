/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/diag.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static atomic_int diag_level_max = DIAG_INFO;

void
diag_set_level(enum diag_level level)
{
	atomic_store(&diag_level_max, (int)level);
}

static const char *
level_name(enum diag_level level)
{
	switch (level) {
	case DIAG_ERROR:
		return "error";
	case DIAG_WARNING:
		return "warning";
	case DIAG_INFO:
		return "info";
	case DIAG_DEBUG:
		return "debug";
	}
	return "?";
}

/* Whether stderr is what systemd connected to the journal, and nothing put in its place since. */
static bool
stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void
diag_print(enum diag_level level, const char *format, ...)
{
	char line[1024];
	size_t len = 0;
	va_list args;

	if ((int)level > atomic_load_explicit(&diag_level_max, memory_order_relaxed))
		return;
	if (stderr_is_journal()) {
		len = (size_t)snprintf(line, sizeof(line), "<%d>", (int)level);
	} else {
		struct timespec now;
		struct tm utc;

		clock_gettime(CLOCK_REALTIME, &now);
		gmtime_r(&now.tv_sec, &utc);
		len = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%SZ ", &utc);
		len += (size_t)snprintf(line + len, sizeof(line) - len, "%s: ", level_name(level));
	}
	va_start(args, format);
	int n = vsnprintf(line + len, sizeof(line) - len - 1, format, args);
	va_end(args);
	if (n > 0)
		len = min_u64(len + (size_t)n, sizeof(line) - 2);
	line[len++] = '\n';
	/* One write a line, so that lines of several threads do not mix; nowhere to report a
	 * failure. */
	if (write(STDERR_FILENO, line, len) < 0)
		return;
}
