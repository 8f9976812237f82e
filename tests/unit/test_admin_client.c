/* SPDX-License-Identifier: Apache-2.0 */
/* What the quarry command makes of answers: good ones, refusals, parts, and nonsense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/socket.h>
#include <unistd.h>

/* The programs' parts are in no library. */
#include "tools/quarry_client.c"

/* Calls with an answer that is already there; the daemon's side is then closed. */
static int
call(const char *answer, json_t **result, struct client_error *error)
{
	json_t *request = json_pack("{s:i, s:s}", "quarry", 1, "verb", "list");
	char sent[64];
	int fds[2], rc;
	ssize_t len;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(send(fds[1], answer, strlen(answer), 0), strlen(answer));
	shutdown(fds[1], SHUT_WR);
	rc = client_call(fds[0], request, result, error);
	len = recv(fds[1], sent, sizeof(sent), 0);
	assert_int_equal(len, strlen("{\"quarry\":1,\"verb\":\"list\"}\n"));
	assert_memory_equal(sent, "{\"quarry\":1,\"verb\":\"list\"}\n", (size_t)len);
	json_decref(request);
	close(fds[0]);
	close(fds[1]);
	return rc;
}

static void
assert_result(const char *answer, const char *expected)
{
	struct client_error error = { 0 };
	json_t *result = NULL;
	char *text;

	assert_int_equal(call(answer, &result, &error), 0);
	text = json_dumps(result, JSON_COMPACT);
	assert_string_equal(text, expected);
	free(text);
	json_decref(result);
}

static void
test_results(void **state)
{
	assert_result("{\"quarry\":1,\"ok\":true,\"result\":{}}\n", "{}");
	assert_result(
	    "{\"quarry\":1,\"ok\":true,\"result\":{\"pools\":[]}}\nmore", "{\"pools\":[]}");
	assert_result("{\"ok\":true,\"more\":true,\"result\":{\"ranges\":[1,2]}}\n"
		      "{\"ok\":true,\"more\":true,\"result\":{\"ranges\":[]}}\n"
		      "{\"ok\":true,\"result\":{\"ranges\":[3]}}\n",
	    "{\"ranges\":[1,2,3]}");
}

/* A line longer than the first buffer. */
static void
test_long_result(void **state)
{
	static char answer[150000];
	struct client_error error = { 0 };
	json_t *result = NULL;
	size_t len = (size_t)snprintf(answer, sizeof(answer), "{\"ok\":true,\"result\":{\"x\":\"");

	memset(answer + len, 'x', 140000);
	strcpy(answer + len + 140000, "\"}}\n");
	assert_int_equal(call(answer, &result, &error), 0);
	assert_int_equal(json_string_length(json_object_get(result, "x")), 140000);
	json_decref(result);
}

static void
test_failures(void **state)
{
	static const struct {
		const char *answer;
		const char *code;
		int exit_status;
		const char *text;
	} cases[] = {
		{ "{\"ok\":false,\"error\":{\"code\":\"EBUSY\",\"exit\":1,\"message\":\"in "
		  "use\"}}\n",
		    "EBUSY", 1, "in use" },
		{ "{\"ok\":false,\"error\":{\"code\":\"EPROTO\",\"exit\":2,\"message\":\"what?\"}}"
		  "\n",
		    "EPROTO", 2, "what?" },
		{ "{\"ok\":false,\"error\":{\"code\":\"EIO\",\"exit\":0,\"message\":\"m\"}}\n",
		    "EIO", 1, "m" },
		{ "{\"ok\":false}\n", "EIO", 1, "quarryd refuses, but does not say why" },
		{ "{\"ok\":false,\"error\":7}\n", "EIO", 1,
		    "quarryd refuses, but does not say why" },
		{ "", "EPIPE", 1, "quarryd went away before it answered: see its log for why" },
		{ "{\"ok\":true", "EPIPE", 1,
		    "quarryd went away before it answered: see its log for why" },
		{ "{\"ok\":true,\"more\":true,\"result\":{\"ranges\":[1]}}\n", "EPIPE", 1,
		    "quarryd went away before it answered: see its log for why" },
		{ "{\"ok\":true,\"more\":true,\"result\":{\"ranges\":[1]}}\n"
		  "{\"ok\":false,\"error\":{\"code\":\"EIO\",\"exit\":1,\"message\":\"then "
		  "not\"}}\n",
		    "EIO", 1, "then not" },
		{ "HTTP/1.1 400 Bad Request\r\n", "EPROTO", 1,
		    "what answers is not quarryd: is the path of the socket right?" },
		{ "[]\n", "EPROTO", 1,
		    "what answers is not quarryd: is the path of the socket right?" },
		{ "{\"ok\":1}\n", "EPROTO", 1,
		    "what answers is not quarryd: is the path of the socket right?" },
		{ "\n", "EPROTO", 1,
		    "what answers is not quarryd: is the path of the socket right?" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct client_error error = { 0 };
		json_t *result = NULL;

		assert_int_equal(call(cases[i].answer, &result, &error), -EIO);
		assert_null(result);
		assert_string_equal(error.code, cases[i].code);
		assert_int_equal(error.exit_status, cases[i].exit_status);
		assert_string_equal(error.text, cases[i].text);
	}
}

/* More names than fit a request: said before anything is sent. */
static void
test_too_long(void **state)
{
	json_t *request = json_object();
	struct client_error error = { 0 };
	json_t *result = NULL;
	char *text = xmalloc(ADMIN_REQUEST_BYTES_MAX + 1);

	memset(text, 'x', ADMIN_REQUEST_BYTES_MAX);
	text[ADMIN_REQUEST_BYTES_MAX] = '\0';
	json_object_set_new(request, "name", json_string(text));
	assert_int_equal(client_call(-1, request, &result, &error), -EIO);
	assert_string_equal(error.text, "that is too much for one command: use several");
	json_decref(request);
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_results),
		cmocka_unit_test(test_long_result),
		cmocka_unit_test(test_failures),
		cmocka_unit_test(test_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
