/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages for the operator, one line each, on stderr.  Where stderr is the journal (it is the file
 * that systemd's JOURNAL_STREAM names) each line carries its sd-daemon(3) priority prefix instead
 * of a time. Safe from any thread.
 */
#ifndef QUARRY_CORE_BASE_DIAG_H
#define QUARRY_CORE_BASE_DIAG_H

#include "core/base/util.h"

enum diag_level {
	DIAG_ERROR = 3, /* the numbers of syslog(3) */
	DIAG_WARNING = 4,
	DIAG_INFO = 6,
	DIAG_DEBUG = 7,
};

/* Messages above this level are dropped; the default is DIAG_INFO. */
void diag_set_level(enum diag_level level);
void diag_print(enum diag_level level, const char *format, ...) printf_like(2, 3);

#define diag_error(...) diag_print(DIAG_ERROR, __VA_ARGS__)
#define diag_warning(...) diag_print(DIAG_WARNING, __VA_ARGS__)
#define diag_info(...) diag_print(DIAG_INFO, __VA_ARGS__)
#define diag_debug(...) diag_print(DIAG_DEBUG, __VA_ARGS__)

#endif
