/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/distinct.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "backends/nbd_device.h"

/* Of a file that may yet be made: what its folder is, and its name there.  NULL: not known. */
static char *
identity_in_folder(const char *path)
{
	char *for_folder = xstrdup(path);
	char *for_name = xstrdup(path);
	char *text = NULL;
	struct stat st;

	if (stat(dirname(for_folder), &st) == 0)
		CHECK(asprintf(&text, "%llx:%llx %s", (unsigned long long)st.st_dev,
			  (unsigned long long)st.st_ino, basename(for_name)) >= 0);
	free(for_folder);
	free(for_name);
	return text;
}

/* The same text for the same device, from malloc; the path, if nothing can be found out. */
static char *
identity_of(const char *path)
{
	char *text = NULL;
	struct stat st;

	if (nbd_device_is_uri(path))
		return xstrdup(path);
	if (stat(path, &st) != 0)
		text = identity_in_folder(path);
	else if (S_ISBLK(st.st_mode))
		CHECK(asprintf(&text, "disk %llx", (unsigned long long)st.st_rdev) >= 0);
	else
		CHECK(asprintf(&text, "%llx:%llx", (unsigned long long)st.st_dev,
			  (unsigned long long)st.st_ino) >= 0);
	return text ? text : xstrdup(path);
}

int
devices_check_distinct(char *const *paths, size_t count, struct error *error)
{
	char **identities = xcalloc(count, sizeof(*identities));
	int rc = 0;

	for (size_t i = 0; i < count && !rc; i++) {
		identities[i] = identity_of(paths[i]);
		for (size_t k = 0; k < i && !rc; k++) {
			bool alike = strcmp(paths[i], paths[k]) == 0;

			if (strcmp(identities[i], identities[k]) == 0)
				rc = error_set(error, -EINVAL, "%s is named twice%s%s", paths[k],
				    alike ? "" : ", also as ", alike ? "" : paths[i]);
		}
	}
	for (size_t i = 0; i < count; i++)
		free(identities[i]);
	free(identities);
	return rc;
}
