/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CHAP secrets come from files or the terminal, never from the command line, which everybody on the
 * machine can read.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "frontends/admin/admin_json.h"
#include "tools/quarry.h"

/* The first line. */
static int
read_line(FILE *in, const char *what, char secret[EXPORT_SECRET_BYTES], struct error *error)
{
	size_t len;

	if (!fgets(secret, EXPORT_SECRET_BYTES, in))
		return error_set(error, -EINVAL, "%s has no secret", what);
	len = strcspn(secret, "\r\n");
	if (!secret[len] && len == EXPORT_SECRET_BYTES - 1)
		return error_set(error, -EINVAL, "%s: a secret has at most %u bytes", what,
		    EXPORT_SECRET_BYTES - 2);
	secret[len] = '\0';
	return 0;
}

static int
read_file(const char *path, char secret[EXPORT_SECRET_BYTES], struct error *error)
{
	struct stat stat;
	FILE *in;
	int rc;

	if (strcmp(path, "-") == 0)
		return read_line(stdin, "standard input", secret, error);
	in = fopen(path, "re");
	if (!in)
		return error_set(error, -EINVAL, "%.200s: %s", path, strerror(errno));
	if (fstat(fileno(in), &stat) == 0 && S_ISREG(stat.st_mode) && stat.st_mode & 0007)
		rc = error_set(error, -EINVAL,
		    "%.200s can be read by everybody: chmod 600 it, and take a new secret", path);
	else
		rc = read_line(in, path, secret, error);
	fclose(in);
	return rc;
}

static int
ask(const char *user, char secret[EXPORT_SECRET_BYTES], struct error *error)
{
	struct termios before, silent;
	FILE *terminal = fopen("/dev/tty", "r+e");
	int rc;

	if (!terminal || tcgetattr(fileno(terminal), &before) != 0) {
		if (terminal)
			fclose(terminal);
		return error_set(error, -EINVAL,
		    "there is no terminal to ask for the secret of %.100s: name a file, with "
		    "--chap-secret-file or --chap-mutual-secret-file",
		    user);
	}
	silent = before;
	silent.c_lflag &= ~(tcflag_t)ECHO;
	setbuf(terminal, NULL);
	fprintf(terminal, "CHAP secret of %s: ", user);
	tcsetattr(fileno(terminal), TCSAFLUSH, &silent);
	rc = read_line(terminal, "the terminal", secret, error);
	tcsetattr(fileno(terminal), TCSAFLUSH, &before);
	fputc('\n', terminal);
	fclose(terminal);
	return rc;
}

static int
take_secret(
    struct cli *cli, const char *key, const char *user, const char *path, struct error *error)
{
	char secret[EXPORT_SECRET_BYTES] = "";
	json_t *value;
	int rc;

	if (!user)
		return 0;
	rc = path ? read_file(path, secret, error) : ask(user, secret, error);
	value = rc ? NULL : json_string(secret);
	if (!rc && !value)
		rc = error_set(error, -EINVAL, "the secret of %.100s is not UTF-8", user);
	if (value)
		must_put(cli->request, key, value);
	explicit_bzero(secret, sizeof(secret));
	return rc;
}

int
cli_read_secrets(struct cli *cli, struct error *error)
{
	int rc = take_secret(cli, "chap_secret", cli->chap_user, cli->chap_secret_file, error);

	if (!rc)
		rc = take_secret(cli, "chap_mutual_secret", cli->chap_mutual_user,
		    cli->chap_mutual_secret_file, error);
	return rc;
}
