/* SPDX-License-Identifier: Apache-2.0 */
/* quarry: administers quarryd.  What it consists of is told in tools/quarry.h. */
#include "tools/quarry.h"

#include <ctype.h>
#include <stdlib.h>
#include <unistd.h>

#include "frontends/admin/admin_socket.h"
#include "tools/quarry_attach.h"
#include "tools/quarry_check.h"
#include "tools/quarry_dump.h"
#include "tools/version.h"

static int
print_error(const struct cli *cli, const struct client_error *error)
{
	fprintf(stderr, "quarry: %s\n", error->text);
	if (cli->options & OPTION_JSON) {
		json_t *root =
		    json_pack("{s:i, s:{s:s, s:i, s:s}}", "schema", CLI_JSON_SCHEMA, "error",
			"code", error->code, "exit", error->exit_status, "message", error->text);

		if (root) {
			json_dumpf(root, stdout, JSON_INDENT(2));
			putchar('\n');
		}
		json_decref(root);
	}
	return error->exit_status;
}

static int
print_usage_error(const struct cli *cli, const struct error *error)
{
	struct client_error shown = { .code = "EINVAL", .exit_status = ADMIN_EXIT_USAGE };

	snprintf(shown.text, sizeof(shown.text), "%s", error->text);
	return print_error(cli, &shown);
}

static void
find_socket(const struct cli *cli, char path[ADMIN_SOCKET_PATH_SIZE], const char **shown)
{
	const char *from_environment = getenv("QUARRY_SOCKET");

	*shown = cli->socket_path;
	if (!*shown && from_environment && from_environment[0])
		*shown = from_environment;
	if (!*shown) {
		admin_socket_default_client(path);
		*shown = path;
	}
}

/* Whether a human at a terminal agrees; scripts are not asked. */
static bool
agreed(const struct cli *cli)
{
	char answer[16];

	if (!cli->action || (cli->options & OPTION_YES) || !isatty(STDIN_FILENO) ||
	    !isatty(STDOUT_FILENO))
		return true;
	printf("About to %s.\nGo on? [y/N] ", cli->action);
	fflush(stdout);
	return fgets(answer, sizeof(answer), stdin) && tolower((unsigned char)answer[0]) == 'y';
}

static int
print_failure(const struct cli *cli, const struct error *error)
{
	struct client_error failure = { .exit_status = ADMIN_EXIT_FAILED };
	const char *code = strerrorname_np(-error->code);

	snprintf(failure.code, sizeof(failure.code), "%s", code ? code : "EIO");
	snprintf(failure.text, sizeof(failure.text), "%s", error->text);
	return print_error(cli, &failure);
}

static int
run(struct cli *cli)
{
	char path_default[ADMIN_SOCKET_PATH_SIZE];
	const char *path;
	struct client_error failure = { 0 };
	struct error error = { 0 };
	json_t *result = NULL;
	int fd, rc;

	if (cli->command->show == SHOW_CHECK)
		return check_run(cli->args, cli->arg_count,
		    &(struct check_options){
			.data = cli->options & OPTION_DATA,
			.repair = cli->options & OPTION_REPAIR,
			.json = cli->options & OPTION_JSON,
			.json_schema = CLI_JSON_SCHEMA,
		    });
	if (cli->command->show == SHOW_ATTACH)
		return attach_run(cli->args[0], cli->arg_count > 1 ? cli->args[1] : NULL);
	if (cli->what && dump_check_what(cli->what, &error))
		return print_usage_error(cli, &error);
	if (cli->command->show == SHOW_DUMP)
		return dump_run(cli->args, cli->arg_count,
		    &(struct dump_options){
			.what = cli->what,
			.json = cli->options & OPTION_JSON,
			.json_schema = CLI_JSON_SCHEMA,
		    });
	if (cli->options & OPTION_DRY_RUN) {
		if (cli->action)
			printf("would %s\n", cli->action);
		else
			printf("would do: %s\n", cli->done_text);
		return 0;
	}
	if (cli_read_secrets(cli, &error))
		return print_usage_error(cli, &error);
	if (!agreed(cli)) {
		fputs("quarry: nothing was done\n", stderr);
		return ADMIN_EXIT_FAILED;
	}
	find_socket(cli, path_default, &path);
	fd = admin_socket_connect(path, &error);
	if (fd < 0) {
		if (cli->command->show == SHOW_VERSION) {
			show_result(stdout, cli, NULL);
			fprintf(stderr, "quarry: %s\n", error.text);
			return ADMIN_EXIT_FAILED;
		}
		return print_failure(cli, &error);
	}
	rc = client_call(fd, cli->request, &result, &failure);
	close(fd);
	if (rc)
		return print_error(cli, &failure);
	if (show_check(cli, result, &error)) {
		json_decref(result);
		return print_failure(cli, &error);
	}
	show_result(stdout, cli, result);
	json_decref(result);
	return 0;
}

int
main(int argc, char **argv)
{
	struct cli cli;
	struct error error = { 0 };
	char *cwd = getcwd(NULL, 0);
	int status = 0;

	if (cli_parse(argc, argv, cwd ? cwd : "", &cli, &error))
		status = print_usage_error(&cli, &error);
	else if (cli.options & OPTION_HELP)
		cli_print_help(stdout, &cli);
	else if (cli.options & OPTION_VERSION)
		printf("quarry %s\n", QUARRY_VERSION);
	else
		status = run(&cli);
	cli_fini(&cli);
	free(cwd);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "quarry: cannot write the output: %m\n");
		return ADMIN_EXIT_FAILED;
	}
	return status;
}
