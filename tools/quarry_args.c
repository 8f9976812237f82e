/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: options in any place, a command of one or two words, its arguments. */
#include "tools/quarry.h"

#include <stdlib.h>

#include "core/base/size.h"
#include "frontends/admin/admin_json.h"

static const struct option {
	char letter; /* 0: none */
	const char *text;
	unsigned bit;
	const char *value; /* NULL: takes none */
	const char *help;
} options[] = {
	{ 0, "socket", OPTION_SOCKET, "PATH", "the daemon's socket (also: QUARRY_SOCKET)" },
	{ 'j', "json", OPTION_JSON, NULL, "print JSON" },
	{ 'h', "help", OPTION_HELP, NULL, "print this help" },
	{ 'V', "version", OPTION_VERSION, NULL, "print the version" },
	{ 'H', "no-header", OPTION_NO_HEADER, NULL,
	    "for scripts: no header, tabs between columns" },
	{ 'p', "exact", OPTION_EXACT, NULL, "sizes in bytes" },
	{ 'o', "columns", OPTION_COLUMNS, "COLUMN,…", "the columns to print" },
	{ 's', "sort", OPTION_SORT, "COLUMN", "sort by this column" },
	{ 'S', "sort-descending", OPTION_SORT_DESCENDING, "COLUMN", "the same, largest first" },
	{ 0, "size", OPTION_SIZE, "SIZE", "make files that do not exist this large" },
	{ 'f', "force", OPTION_FORCE, NULL, "do it in spite of what speaks against it" },
	{ 'y', "yes", OPTION_YES, NULL, "do not ask" },
	{ 'n', "dry-run", OPTION_DRY_RUN, NULL, "say what would be done, and do nothing" },
	{ 0, "preallocate", OPTION_PREALLOCATE, NULL,
	    "allocate all space of files now, and keep it" },
	{ 0, "reserve", OPTION_RESERVE, "full|none", "hold back room for all of the volume" },
	{ 0, "block-size", OPTION_BLOCK_SIZE, "512|4096",
	    "the logical blocks that clients see (default: 512)" },
	{ 0, "copies", OPTION_COPIES, "N", "keep everything on N devices: 1, 2 or 3" },
	{ 0, "stop", OPTION_STOP, NULL, "do not go on with it" },
	{ 0, "data", OPTION_DATA, NULL, "verify the checksums of all data, too" },
	{ 0, "repair", OPTION_REPAIR, NULL, "make again what can be derived from the rest" },
	{ 0, "what", OPTION_WHAT, "WHAT", "print this only" },
	{ 0, "iscsi", OPTION_ISCSI, NULL, "over iSCSI" },
	{ 0, "target", OPTION_TARGET, "IQN", "the target (default: the volume's own)" },
	{ 0, "lun", OPTION_LUN, "N", "the unit's number there (default: the first free one)" },
	{ 0, "allow", OPTION_ALLOW, "IQN,…", "these initiators only; may be repeated" },
	{ 0, "chap", OPTION_CHAP, "USER", "initiators must prove to be USER" },
	{ 0, "chap-secret-file", OPTION_CHAP_SECRET_FILE, "FILE",
	    "has USER's secret (default: ask)" },
	{ 0, "chap-mutual", OPTION_CHAP_MUTUAL, "USER", "the target proves to be USER" },
	{ 0, "chap-mutual-secret-file", OPTION_CHAP_MUTUAL_SECRET_FILE, "FILE", "has that secret" },
};

static const struct option *
option_by_letter(char letter)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (options[i].letter == letter)
			return &options[i];
	return NULL;
}

static const struct option *
option_by_text(const char *text, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (strlen(options[i].text) == len && memcmp(options[i].text, text, len) == 0)
			return &options[i];
	return NULL;
}

/* Names between commas. */
static int
take_allow(struct cli *cli, const char *value, struct error *error)
{
	if (!cli->allow)
		cli->allow = must_json(json_array());
	for (;;) {
		size_t len = strcspn(value, ",");
		json_t *name = len ? json_stringn(value, len) : NULL;

		if (!name)
			return error_set(error, -EINVAL,
			    "--allow needs names of initiators, with commas between them");
		must_append(cli->allow, name);
		if (!value[len])
			return 0;
		value += len + 1;
	}
}

static int
take_option(struct cli *cli, const struct option *option, const char *value, struct error *error)
{
	cli->options |= option->bit;
	switch (option->bit) {
	case OPTION_SOCKET:
		if (!value[0])
			return error_set(error, -EINVAL, "--socket needs a path");
		cli->socket_path = value;
		return 0;
	case OPTION_RESERVE:
		cli->reserve = value;
		return 0;
	case OPTION_BLOCK_SIZE:
		cli->block_size = value;
		return 0;
	case OPTION_COPIES:
		if (value[0] < '1' || value[0] > '3' || value[1])
			return error_set(
			    error, -EINVAL, "--copies must be 1, 2 or 3, not \"%.60s\"", value);
		cli->copies = (unsigned)(value[0] - '0');
		return 0;
	case OPTION_WHAT:
		cli->what = value;
		return 0;
	case OPTION_COLUMNS:
		cli->columns = value;
		return 0;
	case OPTION_SORT:
	case OPTION_SORT_DESCENDING:
		if (cli->sort)
			return error_set(error, -EINVAL, "sort by one column only: -s or -S, once");
		cli->sort = value;
		return 0;
	case OPTION_TARGET:
		cli->target = value;
		return 0;
	case OPTION_LUN:
		cli->lun = value;
		return 0;
	case OPTION_ALLOW:
		return take_allow(cli, value, error);
	case OPTION_CHAP:
		cli->chap_user = value;
		return 0;
	case OPTION_CHAP_SECRET_FILE:
		cli->chap_secret_file = value;
		return 0;
	case OPTION_CHAP_MUTUAL:
		cli->chap_mutual_user = value;
		return 0;
	case OPTION_CHAP_MUTUAL_SECRET_FILE:
		cli->chap_mutual_secret_file = value;
		return 0;
	case OPTION_SIZE:
		if (size_parse(value, &cli->size_bytes, error))
			return -EINVAL;
		if (cli->size_bytes == 0)
			return error_set(error, -EINVAL, "--size must be larger than 0");
		return 0;
	default:
		return 0;
	}
}

/* "--socket=PATH", "--socket" "PATH"; *at moves on if the value is the next argument. */
static int
parse_long(struct cli *cli, int argc, char **argv, int *at, struct error *error)
{
	const char *text = argv[*at] + 2;
	const char *equals = strchr(text, '=');
	size_t len = equals ? (size_t)(equals - text) : strlen(text);
	const struct option *option = option_by_text(text, len);
	const char *value = equals ? equals + 1 : NULL;

	if (!option)
		return error_set(error, -EINVAL, "there is no option --%.*s; see: quarry --help",
		    (int)min_u64(len, 60), text);
	if (!option->value && value)
		return error_set(error, -EINVAL, "--%s takes no value", option->text);
	if (option->value && !value) {
		if (*at + 1 >= argc)
			return error_set(
			    error, -EINVAL, "--%s needs a value: %s", option->text, option->value);
		value = argv[++*at];
	}
	return take_option(cli, option, value, error);
}

/* "-Hp", "-oname,size", "-o" "name,size". */
static int
parse_short(struct cli *cli, int argc, char **argv, int *at, struct error *error)
{
	for (const char *letter = argv[*at] + 1; *letter; letter++) {
		const struct option *option = option_by_letter(*letter);
		const char *value = NULL;
		int rc;

		if (!option)
			return error_set(
			    error, -EINVAL, "there is no option -%c; see: quarry --help", *letter);
		if (option->value) {
			if (letter[1])
				value = letter + 1;
			else if (*at + 1 < argc)
				value = argv[++*at];
			else
				return error_set(error, -EINVAL, "-%c needs a value: %s", *letter,
				    option->value);
		}
		rc = take_option(cli, option, value, error);
		if (rc || option->value)
			return rc;
	}
	return 0;
}

static const struct cli_command *
command_find(const char *noun, const char *verb)
{
	for (size_t i = 0; i < cli_command_count; i++) {
		const struct cli_command *command = &cli_commands[i];

		if (strcmp(command->noun, noun) != 0)
			continue;
		if (!command->verb || (verb && strcmp(command->verb, verb) == 0))
			return command;
	}
	return NULL;
}

static bool
noun_known(const char *noun)
{
	for (size_t i = 0; i < cli_command_count; i++)
		if (strcmp(cli_commands[i].noun, noun) == 0)
			return true;
	return false;
}

static void
list_verbs(const char *noun, char *text, size_t size)
{
	size_t len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < cli_command_count && len < size; i++)
		if (strcmp(cli_commands[i].noun, noun) == 0)
			len += (size_t)snprintf(
			    text + len, size - len, "%s%s", len ? ", " : "", cli_commands[i].verb);
}

/* Finds the command in the words; what is left of them are its arguments. */
static int
find_command(struct cli *cli, char **words, size_t word_count, struct error *error)
{
	bool help = cli->options & OPTION_HELP;
	char verbs[128];

	if (word_count && strcmp(words[0], "help") == 0) {
		cli->options |= OPTION_HELP;
		help = true;
		words++;
		word_count--;
	}
	if (word_count == 0) {
		if (help || (cli->options & OPTION_VERSION))
			return 0;
		return error_set(error, -EINVAL, "what is to be done? See: quarry --help");
	}
	if (!noun_known(words[0]))
		return error_set(
		    error, -EINVAL, "there is no command \"%.60s\"; see: quarry --help", words[0]);
	cli->command = command_find(words[0], word_count > 1 ? words[1] : NULL);
	if (cli->command) {
		size_t taken = cli->command->verb ? 2 : 1;

		cli->args = words + taken;
		cli->arg_count = word_count - taken;
		return 0;
	}
	if (help && word_count == 1) {
		cli->help_noun = words[0];
		return 0;
	}
	list_verbs(words[0], verbs, sizeof(verbs));
	if (word_count == 1)
		return error_set(error, -EINVAL, "%s what? One of: %s", words[0], verbs);
	return error_set(
	    error, -EINVAL, "there is no \"%s %.60s\"; one of: %s", words[0], words[1], verbs);
}

static void
usage_line(const struct cli_command *command, char *text, size_t size)
{
	snprintf(text, size, "quarry %s%s%s%s%s", command->noun, command->verb ? " " : "",
	    command->verb ? command->verb : "", command->arguments[0] ? " " : "",
	    command->arguments);
}

static int
check_options(const struct cli *cli, struct error *error)
{
	const struct cli_command *command = cli->command;
	unsigned wrong = cli->options & ~(OPTIONS_COMMON | command->options);
	const struct table *table = show_table(command->show);

	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (wrong & options[i].bit)
			return error_set(error, -EINVAL, "%s%s%s takes no --%s", command->noun,
			    command->verb ? " " : "", command->verb ? command->verb : "",
			    options[i].text);
	if (cli->columns && table_check_columns(table, cli->columns, error))
		return -EINVAL;
	if (cli->sort && strchr(cli->sort, ','))
		return error_set(error, -EINVAL, "sort by one column only");
	if (cli->sort && table_check_columns(table, cli->sort, error))
		return -EINVAL;
	return 0;
}

static int
check_arg_count(const struct cli *cli, struct error *error)
{
	const struct cli_command *command = cli->command;
	char usage[160];

	usage_line(command, usage, sizeof(usage));
	if (cli->arg_count < command->args_min)
		return error_set(error, -EINVAL, "something is missing: %s", usage);
	if (cli->arg_count > command->args_max)
		return error_set(error, -EINVAL, "\"%.60s\" is too much: %s",
		    cli->args[command->args_max], usage);
	return 0;
}

int
cli_parse(int argc, char **argv, const char *cwd, struct cli *cli, struct error *error)
{
	size_t word_count = 0;
	bool only_words = false;
	int rc;

	memset(cli, 0, sizeof(*cli));
	cli->cwd = cwd;
	/* The words gather at the front of argv, behind the program's name. */
	for (int at = 1; at < argc; at++) {
		char *arg = argv[at];

		if (only_words || arg[0] != '-' || arg[1] == '\0') {
			argv[1 + word_count++] = arg;
			continue;
		}
		if (strcmp(arg, "--") == 0) {
			only_words = true;
			continue;
		}
		rc = arg[1] == '-' ? parse_long(cli, argc, argv, &at, error)
				   : parse_short(cli, argc, argv, &at, error);
		if (rc)
			return rc;
	}
	rc = find_command(cli, argv + 1, word_count, error);
	if (rc || !cli->command || (cli->options & (OPTION_HELP | OPTION_VERSION)))
		return rc;
	rc = check_options(cli, error);
	if (!rc)
		rc = check_arg_count(cli, error);
	if (!rc)
		rc = cli->command->build(cli, error);
	return rc;
}

void
cli_fini(struct cli *cli)
{
	json_decref(cli->request);
	json_decref(cli->done_json);
	json_decref(cli->allow);
	free(cli->done_text);
	memset(cli, 0, sizeof(*cli));
}

/* --- help --- */

static void
print_options(FILE *out, unsigned bits)
{
	fputs("\nOptions:\n", out);
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		const struct option *option = &options[i];
		char left[40];

		if (!(bits & option->bit))
			continue;
		snprintf(left, sizeof(left), "--%s%s%s", option->text, option->value ? " " : "",
		    option->value ? option->value : "");
		/* "…" is one column wide, but three bytes long. */
		fprintf(out, "  %c%c%c %-*s %s\n", option->letter ? '-' : ' ',
		    option->letter ? option->letter : ' ', option->letter ? ',' : ' ',
		    strstr(left, "…") ? 28 : 26, left, option->help);
	}
}

static void
print_command_line(FILE *out, const struct cli_command *command)
{
	char usage[160];

	usage_line(command, usage, sizeof(usage));
	fprintf(out, "  %s\n      %s\n", usage, command->summary);
}

static void
print_columns(FILE *out, const struct table *table)
{
	fputs("\nColumns (those in brackets are not shown unless asked for):\n ", out);
	for (size_t i = 0; i < table->column_count; i++)
		fprintf(out, table->columns[i].shown ? " %s" : " [%s]", table->columns[i].name);
	fputs("\n", out);
}

void
cli_print_help(FILE *out, const struct cli *cli)
{
	const struct cli_command *command = cli->command;
	char usage[160];

	if (command) {
		usage_line(command, usage, sizeof(usage));
		fprintf(out, "Usage: %s [OPTION]…\n\n%s\n", usage, command->summary);
		if (command->details)
			fprintf(out, "\n%s", command->details);
		if (command->options & OPTION_COLUMNS)
			print_columns(out, show_table(command->show));
		print_options(out, (command->options | OPTIONS_COMMON) & ~OPTION_VERSION);
		return;
	}
	if (cli->help_noun)
		fprintf(out, "Usage: quarry %s VERB …\n\n", cli->help_noun);
	else
		fputs("Usage: quarry [--socket PATH] NOUN VERB …\n\n"
		      "Administers quarryd: pools of disks and files, thin volumes, snapshots.\n"
		      "Names are pool/volume@snapshot; sizes are 10G, 1.5T, 512MiB.\n\n",
		    out);
	for (size_t i = 0; i < cli_command_count; i++)
		if (!cli->help_noun || strcmp(cli_commands[i].noun, cli->help_noun) == 0)
			print_command_line(out, &cli_commands[i]);
	fprintf(out, "\nMore: quarry %s --help\n", cli->help_noun ? "NOUN VERB" : "NOUN [VERB]");
	if (!cli->help_noun)
		print_options(out, OPTIONS_COMMON);
	fputs("\nExit status: 0 done, 1 refused or failed, 2 wrong usage.\n", out);
}
