/* SPDX-License-Identifier: Apache-2.0 */
/* See quarry_check.h: the passes, and what is said of them. */
#include "tools/quarry_check_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PROBLEMS_SHOWN_MAX 1000u

void
check_tell(struct check *check, const char *format, ...)
{
	char text[1024];
	va_list args;

	if (check->problem_count++ >= PROBLEMS_SHOWN_MAX)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (check->progress)
		fputs("\r\033[K", stderr);
	if (check->options->json)
		json_array_append_new(check->problems, json_string(text));
	else
		printf("%s\n", text);
}

/* One pass over the devices, which tells of problems and writes nothing. */
static void
look(struct check *check, struct offline *offline)
{
	for (uint32_t i = 0; i < offline->count; i++)
		check_heads(check, offline, offline->devices[i]);
	offline_import(offline, check_maps, check, false);
	if (offline->import_error.code)
		check_tell(check, "the pool cannot be imported: %s", offline->import_error.text);
	else if (offline->state[0] && check->problem_count == 0)
		check_tell(check, "the pool would not come into service: %s", offline->state);
}

/* All devices are of one pool, as far as they say. */
static bool
one_pool(struct offline *offline)
{
	struct label first, label;
	bool any = false;

	for (uint32_t i = 0; i < offline->count; i++) {
		if (!offline_find_label(offline->devices[i], &label))
			continue;
		if (any && !uuid_equal(&first.pool_uuid, &label.pool_uuid))
			return false;
		first = label;
		any = true;
	}
	return any;
}

/* One that mends what it can, and tells of it. */
static void
mend(struct check *check, struct offline *offline)
{
	if (!one_pool(offline))
		return;
	check_mend_heads(check, offline);
	check_mend_table(check, offline);
	offline_import(offline, check_maps, check, true);
}

static json_t *
take_problems(struct check *check)
{
	json_t *problems = check->problems;

	check->problems = json_array();
	check->problem_count = 0;
	return problems;
}

/* Opens the devices for a pass; false: they cannot be, and that was told. */
static bool
open_for(struct check *check, char *const *paths, size_t count, struct offline *offline)
{
	struct error error = { 0 };

	if (offline_open(offline, paths, count, check->mend, &error) == 0)
		return true;
	check_tell(check, "%s", error.text);
	return false;
}

static void
end_of_list(const struct check *check)
{
	if (check->progress)
		fputs("\r\033[K", stderr);
	if (check->problem_count > PROBLEMS_SHOWN_MAX && !check->options->json)
		printf("… and more of the kind\n");
}

static void
say_found(const struct check *check)
{
	printf("%llu blocks in use looked at%s: %llu problems\n", (unsigned long long)check->blocks,
	    check->options->data ? ", data verified" : "; data not verified (--data does)",
	    (unsigned long long)check->problem_count);
	if (check->incomplete)
		printf("Not all could be read, so lost space was not looked for.\n");
}

/* Pass 2 and 3.  False: the devices could not be opened. */
static bool
repair(struct check *check, char *const *paths, size_t count, json_t *root)
{
	struct offline offline;
	bool json = check->options->json;
	json_t *found = take_problems(check);

	json_object_set_new(root, "found", found);
	check->mend = true;
	if (!json)
		printf("Repairing:\n");
	if (!open_for(check, paths, count, &offline))
		return false;
	mend(check, &offline);
	offline_close(&offline);
	end_of_list(check);
	if (!json && check->problem_count == 0)
		printf("nothing of it can be repaired\n");
	json_object_set_new(root, "repairs", take_problems(check));

	check->mend = false;
	if (!json)
		printf("After that:\n");
	if (!open_for(check, paths, count, &offline))
		return false;
	look(check, &offline);
	offline_close(&offline);
	end_of_list(check);
	if (!json)
		say_found(check);
	return true;
}

int
check_run(char *const *paths, size_t count, const struct check_options *options)
{
	struct check check = { .options = options };
	json_t *root = json_object();
	struct offline offline;
	bool looked;

	check.problems = json_array();
	check.progress = isatty(STDERR_FILENO);
	looked = open_for(&check, paths, count, &offline);
	if (looked) {
		look(&check, &offline);
		offline_close(&offline);
		end_of_list(&check);
		if (!options->json)
			say_found(&check);
		if (options->repair && check.problem_count > 0)
			looked = repair(&check, paths, count, root);
	}
	if (options->json) {
		json_object_set_new(root, "schema", json_integer(options->json_schema));
		json_object_set_new(root, "checked", json_boolean(looked));
		json_object_set_new(root, "clean", json_boolean(check.problem_count == 0));
		json_object_set_new(root, "data", json_boolean(options->data));
		json_object_set_new(root, "blocks", json_integer((json_int_t)check.blocks));
		json_object_set_new(
		    root, "problem_count", json_integer((json_int_t)check.problem_count));
		json_object_set(root, "problems", check.problems);
		json_dumpf(root, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(root);
	json_decref(check.problems);
	return !looked ? CHECK_EXIT_NOT_CHECKED : check.problem_count ? CHECK_EXIT_PROBLEMS : 0;
}
