/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The quarry command, inside.
 *
 *   argv ─► cli_parse (pure: quarry_args.c, quarry_commands.c) ─► struct cli with a JSON request
 *        ─► client_call (quarry_client.c: one round trip, blocking) ─► the daemon's result
 *        ─► show (quarry_show.c: rows of it; quarry_table.c: rows to text or JSON)
 *
 * Errors go to stderr in one line; the exit status is an enum admin_exit, or 0.
 */
#ifndef QUARRY_TOOLS_QUARRY_H
#define QUARRY_TOOLS_QUARRY_H

#include <jansson.h>
#include <stdio.h>

#include "core/base/error.h"
#include "frontends/admin/admin_proto.h"
#include "metadata/name.h"

enum {
	CLI_JSON_SCHEMA = 1
};

/* Which options were given, and which a command takes. */
enum {
	OPTION_SOCKET = 1 << 0,
	OPTION_JSON = 1 << 1,
	OPTION_HELP = 1 << 2,
	OPTION_VERSION = 1 << 3,
	OPTION_NO_HEADER = 1 << 4,
	OPTION_EXACT = 1 << 5,
	OPTION_COLUMNS = 1 << 6,
	OPTION_SORT = 1 << 7,
	OPTION_SORT_DESCENDING = 1 << 8,
	OPTION_SIZE = 1 << 9,
	OPTION_FORCE = 1 << 10,
	OPTION_YES = 1 << 11,
	OPTION_DRY_RUN = 1 << 12,
	OPTION_DATA = 1 << 13,
	OPTION_PREALLOCATE = 1 << 14,
	OPTION_REPAIR = 1 << 15,
	OPTION_WHAT = 1 << 16,
	OPTION_RESERVE = 1 << 17,
	OPTION_COPIES = 1 << 18,
	OPTION_ISCSI = 1 << 19,
	OPTION_TARGET = 1 << 20,
	OPTION_LUN = 1 << 21,
	OPTION_ALLOW = 1 << 22,
	OPTION_CHAP = 1 << 23,
	OPTION_CHAP_SECRET_FILE = 1 << 24,
	OPTION_CHAP_MUTUAL = 1 << 25,
	OPTION_CHAP_MUTUAL_SECRET_FILE = 1 << 26,
	OPTION_STOP = 1 << 27,
	OPTION_BLOCK_SIZE = 1 << 28,

	OPTIONS_COMMON = OPTION_SOCKET | OPTION_JSON | OPTION_HELP | OPTION_VERSION,
	OPTIONS_LIST =
	    OPTION_NO_HEADER | OPTION_EXACT | OPTION_COLUMNS | OPTION_SORT | OPTION_SORT_DESCENDING,
	OPTIONS_DESTRUCTIVE = OPTION_YES | OPTION_DRY_RUN,
};

enum show {
	SHOW_DONE, /* nothing came back but success */
	SHOW_POOLS,
	SHOW_POOL_STATUS,
	SHOW_DEVICES,
	SHOW_SCRUBS,
	SHOW_VOLUMES,
	SHOW_SNAPSHOTS,
	SHOW_TREE,
	SHOW_DIFF,
	SHOW_EXPORTS,
	SHOW_VERSION,
	SHOW_CHECK,  /* needs no daemon: quarry_check.h */
	SHOW_DUMP,   /* neither: quarry_dump.h */
	SHOW_ATTACH, /* nor this: quarry_attach.h */
};

struct cli;

struct cli_command {
	const char *noun;
	const char *verb;      /* NULL: the noun is the whole command */
	const char *arguments; /* as the usage line shows them */
	const char *summary;
	const char *details; /* whole lines */
	unsigned options;    /* beside OPTIONS_COMMON */
	size_t args_min;
	size_t args_max;
	enum show show;
	/* Turns the arguments into cli->request and the texts about it. */
	int (*build)(struct cli *cli, struct error *error);
};

extern const struct cli_command cli_commands[];
extern const size_t cli_command_count;

/* What was asked for on the command line. */
struct cli {
	const struct cli_command *command; /* NULL: help for the program or a noun, or --version */
	const char *help_noun;   /* with OPTION_HELP and no command: of this noun, if any */
	unsigned options;        /* which were given */
	const char *socket_path; /* NULL: the default */
	const char *columns;
	const char *sort;
	const char *reserve; /* --reserve */
	const char *block_size;
	unsigned copies;
	const char *what;    /* to dump; NULL: what is short */
	uint64_t size_bytes; /* of --size */
	const char *target;  /* --target, --lun and so on */
	const char *lun;
	json_t *allow; /* names of initiators; NULL: none was given */
	const char *chap_user;
	const char *chap_secret_file; /* NULL: it is asked for */
	const char *chap_mutual_user;
	const char *chap_mutual_secret_file;
	const char *cwd; /* device paths are relative to it */
	char **args;     /* arg_count, into argv */
	size_t arg_count;
	json_t *request;
	struct name filter; /* of snapshot list: this volume's only */
	bool asks;          /* it destroys something: a human is asked before */
	char *done_text;    /* after success */
	json_t *done_json;
};

/*
 * Pure: 0, or -EINVAL and a usage error.  argv's strings and @cwd must outlive @cli, which is to be
 * given to cli_fini() in either case.
 */
int cli_parse(
    int argc, char **argv, const char *cwd, struct cli *cli, struct error *error) must_check;
void cli_fini(struct cli *cli);

/* Reads the secrets that @cli names into its request: from files, or the terminal. */
int cli_read_secrets(struct cli *cli, struct error *error) must_check;

/* Help for what @cli asks about. */
void cli_print_help(FILE *out, const struct cli *cli);

/*
 * Sends @request and waits for the whole answer, whose "result" becomes *result.  Otherwise the
 * exit status, with error->text (and error->code, if the daemon gave it a name that is known here).
 */
struct client_error {
	char code[32]; /* "ENOSPC" … */
	int exit_status;
	char text[512];
};
int client_call(
    int fd, const json_t *request, json_t **result, struct client_error *error) must_check;

/* --- tables: rows are JSON objects, columns say how to print them --- */

enum column_type {
	COLUMN_TEXT,
	COLUMN_SIZE,     /* bytes */
	COLUMN_NUMBER,   /* also bytes that are always shown exactly */
	COLUMN_FLAG,     /* on, off */
	COLUMN_HOLE,     /* the same, as: hole, data */
	COLUMN_PROGRESS, /* a number of things, "<key>_done_permille" done */
	COLUMN_LENGTH,   /* of an array */
	COLUMN_WORDS,    /* an array of texts, with commas between them */
};

struct column {
	const char *name; /* for -o and -s */
	const char *json_key;
	enum column_type type;
	bool shown; /* if no -o says otherwise */
};

struct table {
	const struct column *columns;
	size_t column_count;
	const char *plural; /* of the JSON output */
};

extern const struct table table_pools, table_volumes, table_snapshots, table_tree, table_ranges;

/* NULL: @show is no table. */
const struct table *show_table(enum show show);

/* -EINVAL: @list ("name,size") has a column that is not in @table; says which there are. */
int table_check_columns(
    const struct table *table, const char *list, struct error *error) must_check;

/* Sorts (if asked for) and prints. A row's "depth" indents its first column, unless sorted. */
void table_print(FILE *out, const struct table *table, const json_t *rows, const struct cli *cli);

/* Prints a result as the command and its options want it. */
void show_result(FILE *out, const struct cli *cli, const json_t *result);
/* -ENOENT if what is to be shown is not in @result. */
int show_check(const struct cli *cli, const json_t *result, struct error *error) must_check;

/* What the result of a dry run says that would be done. */
const char *show_would(const json_t *result);

#endif
