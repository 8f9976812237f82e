/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/error.h"

#include <stdarg.h>
#include <stdio.h>

int
error_set(struct error *error, int code, const char *format, ...)
{
	va_list args;

	CHECK(code < 0);
	if (error) {
		error->code = code;
		va_start(args, format);
		vsnprintf(error->text, sizeof(error->text), format, args);
		va_end(args);
	}
	return code;
}
