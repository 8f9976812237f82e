/* SPDX-License-Identifier: Apache-2.0 */
/* quarry: administers quarryd.  What it consists of is told in tools/quarry.h. */
#include "tools/quarry.h"

#include <ctype.h>
#include <stdlib.h>
#include <unistd.h>

#include "frontends/admin/admin_json.h"
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

static const char *
find_socket(const struct cli *cli, char path[ADMIN_SOCKET_PATH_SIZE])
{
	const char *from_environment = getenv("QUARRY_SOCKET");

	if (cli->socket_path)
		return cli->socket_path;
	if (from_environment && from_environment[0])
		return from_environment;
	admin_socket_default_client(path);
	return path;
}

static void
failure_of(const struct error *error, struct client_error *failure)
{
	const char *code = strerrorname_np(-error->code);

	failure->exit_status = ADMIN_EXIT_FAILED;
	snprintf(failure->code, sizeof(failure->code), "%s", code ? code : "EIO");
	snprintf(failure->text, sizeof(failure->text), "%s", error->text);
}

/* One request; 0, or *failure and its exit status. */
static int
ask_daemon(
    const struct cli *cli, const json_t *request, json_t **result, struct client_error *failure)
{
	char path[ADMIN_SOCKET_PATH_SIZE];
	struct error error = { 0 };
	int fd = admin_socket_connect(find_socket(cli, path), &error);
	int rc;

	if (fd < 0) {
		failure_of(&error, failure);
		return failure->exit_status;
	}
	rc = client_call(fd, request, result, failure);
	close(fd);
	return rc ? failure->exit_status : 0;
}

static bool
must_ask(const struct cli *cli)
{
	return cli->asks && !(cli->options & (OPTION_YES | OPTION_DRY_RUN)) &&
	       isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

/* Whether the human at the terminal agrees to what a dry run says; otherwise the exit status. */
static int
ask_human(const struct cli *cli)
{
	struct client_error failure = { 0 };
	json_t *request = must_json(json_copy(cli->request));
	json_t *result = NULL;
	char answer[16];
	int rc;

	must_put(request, "dry_run", json_true());
	rc = ask_daemon(cli, request, &result, &failure);
	json_decref(request);
	if (rc)
		return print_error(cli, &failure);
	printf("About to %s.\nGo on? [y/N] ", show_would(result));
	json_decref(result);
	fflush(stdout);
	if (fgets(answer, sizeof(answer), stdin) && tolower((unsigned char)answer[0]) == 'y')
		return 0;
	fputs("quarry: nothing was done\n", stderr);
	return ADMIN_EXIT_FAILED;
}

static int
run_at_daemon(struct cli *cli)
{
	struct client_error failure = { 0 };
	struct error error = { 0 };
	json_t *result = NULL;
	int rc;

	if (cli_read_secrets(cli, &error))
		return print_usage_error(cli, &error);
	rc = must_ask(cli) ? ask_human(cli) : 0;
	if (rc)
		return rc;
	rc = ask_daemon(cli, cli->request, &result, &failure);
	if (rc && cli->command->show == SHOW_VERSION) {
		show_result(stdout, cli, NULL);
		fprintf(stderr, "quarry: %s\n", failure.text);
		return rc;
	}
	if (!rc && show_check(cli, result, &error)) {
		failure_of(&error, &failure);
		rc = failure.exit_status;
	}
	if (rc)
		print_error(cli, &failure);
	else
		show_result(stdout, cli, result);
	json_decref(result);
	return rc;
}

static int
run(struct cli *cli)
{
	struct error error = { 0 };

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
	return run_at_daemon(cli);
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
