/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The administrator's socket with a target that does nothing: well-behaved clients, and the others.
 * The reactor runs in a thread, the client's side in the test's own, with blocking calls.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frontends/admin/admin_server.h"
#include "frontends/admin/admin_socket.h"
#include "tests/unit/admin_fake.h"

enum {
	IMAGES = 3000,
	RANGES = 20000
};

static char directory[] = "/tmp/quarry-test-admin-XXXXXX";
static char socket_path[64];

static struct reactor_uring reactor;
static struct admin_server *server;
static struct task start_task, stop_task, stopped_task, release_task;
static sem_t started, stopped, held;
static struct admin_request *held_request;

/* --- the fake target --- */

static void
fake_run(struct task *task)
{
	struct admin_request *request = container_of(task, struct admin_request, task);

	switch (request->verb) {
	case ADMIN_LIST:
		request->pools = xcalloc(1, sizeof(*request->pools));
		request->pool_count = 1;
		strcpy(request->pools[0].name, "tank");
		request->pools[0].state = "online";
		request->pools[0].images = xcalloc(IMAGES, sizeof(struct admin_image_report));
		request->pools[0].image_count = IMAGES;
		for (int i = 0; i < IMAGES; i++) {
			struct name *name = &request->pools[0].images[i].name;

			strcpy(name->pool, "tank");
			snprintf(name->volume, sizeof(name->volume), "v%d", i);
		}
		break;
	case ADMIN_DIFF:
		request->ranges = xcalloc(RANGES, sizeof(*request->ranges));
		request->range_count = RANGES;
		break;
	case ADMIN_POOL_DESTROY:
		error_set(&request->error, -EBUSY, "pool %s is in use", request->name.pool);
		break;
	default:
		assert_true(request->created_s > 1700000000);
		break;
	}
	request->done(request);
}

void
target_admin(struct target *target, struct admin_request *request)
{
	task_init(&request->task, fake_run);
	if (request->verb == ADMIN_ROLLBACK) { /* until the test lets it go */
		held_request = request;
		sem_post(&held);
		return;
	}
	reactor_defer(&reactor.reactor, &request->task);
}

static void
release_run(struct task *task)
{
	reactor_defer(&reactor.reactor, &held_request->task);
}

/* --- the server's thread --- */

static void
start_run(struct task *task)
{
	admin_server_start(server);
	sem_post(&started);
}

static void
stopped_run(struct task *task)
{
	sem_post(&stopped);
}

static void
stop_run(struct task *task)
{
	admin_server_stop(server, &stopped_task);
}

static int
set_up(void **state)
{
	static const char *const listeners[] = { "nbd://here" };
	const struct admin_daemon_info info = {
		.version = "7", .pid = 42, .listeners = listeners, .listener_count = 1
	};
	struct error error = { 0 };

	sem_init(&started, 0, 0);
	sem_init(&stopped, 0, 0);
	sem_init(&held, 0, 0);
	assert_int_equal(reactor_uring_init(&reactor, 0), 0);
	assert_int_equal(admin_server_create(NULL, &reactor, socket_path, &server, &error), 0);
	admin_server_describe(server, &info);
	assert_int_equal(reactor_uring_start_thread(&reactor), 0);
	task_init(&start_task, start_run);
	task_init(&stop_task, stop_run);
	task_init(&stopped_task, stopped_run);
	task_init(&release_task, release_run);
	reactor_post(&reactor.reactor, &start_task);
	sem_wait(&started);
	return 0;
}

static int
tear_down(void **state)
{
	reactor_post(&reactor.reactor, &stop_task);
	sem_wait(&stopped);
	assert_int_equal(access(socket_path, F_OK), -1);
	reactor_uring_stop(&reactor);
	reactor_uring_join(&reactor);
	admin_server_free(server);
	reactor_uring_fini(&reactor);
	sem_destroy(&started);
	sem_destroy(&stopped);
	sem_destroy(&held);
	return 0;
}

/* --- a client --- */

static int
client(void)
{
	struct error error = { 0 };
	int fd = admin_socket_connect(socket_path, &error);

	if (fd < 0)
		fail_msg("%s", error.text);
	return fd;
}

static void
say(int fd, const char *text)
{
	size_t len = strlen(text);

	for (size_t sent = 0; sent < len;) { /* a long one may be sent in parts */
		ssize_t n = send(fd, text + sent, len - sent, MSG_NOSIGNAL);

		assert_true(n > 0);
		sent += (size_t)n;
	}
}

/* Reads a line of up to 4 KiB whole, a longer one cut; returns its length, 0 at the end. */
static size_t
hear(int fd, char line[4096])
{
	size_t len = 0;
	char c;

	while (recv(fd, &c, 1, 0) == 1) {
		if (len < 4095)
			line[len] = c;
		len++;
		if (c == '\n')
			break;
	}
	line[min_u64(len, 4095)] = '\0';
	return len;
}

static void
assert_heard(int fd, const char *expected)
{
	char line[4096];

	hear(fd, line);
	assert_string_equal(line, expected);
}

#define LIST "{\"quarry\":1,\"verb\":\"list\"}\n"
#define CREATE "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"t/v\",\"size_bytes\":1}\n"
#define ROLLBACK "{\"quarry\":1,\"verb\":\"rollback\",\"name\":\"t/v@s\"}\n"
#define DIFF "{\"quarry\":1,\"verb\":\"diff\",\"name\":\"t/v@s\",\"target\":\"t/v\"}\n"
#define DONE "{\"quarry\":1,\"ok\":true,\"result\":{}}\n"

static void
test_requests_in_sequence(void **state)
{
	int fd = client();

	say(fd, CREATE);
	assert_heard(fd, DONE);
	say(fd, CREATE CREATE "{\"quarry\":1,\"verb\":\"pool.destroy\",\"name\":\"t\"}\n" CREATE);
	assert_heard(fd, DONE);
	assert_heard(fd, DONE);
	assert_heard(fd, "{\"quarry\":1,\"ok\":false,\"error\":{\"code\":\"EBUSY\",\"exit\":1,"
			 "\"message\":\"pool t is in use\"}}\n");
	assert_heard(fd, DONE);
	say(fd, "{\"quarry\":1,\"verb\":\"daemon.info\"}\n");
	assert_heard(fd, "{\"quarry\":1,\"ok\":true,\"result\":{\"version\":\"7\",\"pid\":42,"
			 "\"uptime_seconds\":0,\"listeners\":[\"nbd://here\"]}}\n");
	close(fd);
}

static void
test_request_in_pieces(void **state)
{
	static const char text[] = CREATE CREATE;
	int fd = client();

	for (size_t i = 0; i < sizeof(text) - 1; i++)
		assert_int_equal(send(fd, text + i, 1, MSG_NOSIGNAL), 1);
	assert_heard(fd, DONE);
	assert_heard(fd, DONE);
	close(fd);
}

/* A bad line is answered, and the next one is served. */
static void
test_garbage(void **state)
{
	int fd = client();

	say(fd, "GET / HTTP/1.1\r\n");
	assert_heard(fd,
	    "{\"quarry\":1,\"ok\":false,\"error\":{\"code\":\"EPROTO\",\"exit\":2,"
	    "\"message\":\"the request is not JSON: invalid token near 'GET' (byte 3)\"}}\n");
	say(fd, CREATE);
	assert_heard(fd, DONE);
	close(fd);
}

static void
test_too_long(void **state)
{
	size_t len = ADMIN_REQUEST_BYTES_MAX + 4096;
	char *text = xmalloc(len);
	char line[4096];
	int fd = client();

	memset(text, 'x', len);
	for (size_t sent = 0; sent < len;) {
		ssize_t n = send(fd, text + sent, len - sent, MSG_NOSIGNAL);

		if (n < 0)
			break; /* it is closed as soon as it is known to be too long */
		sent += (size_t)n;
	}
	assert_heard(fd, "{\"quarry\":1,\"ok\":false,\"error\":{\"code\":\"EPROTO\",\"exit\":2,"
			 "\"message\":\"the request is longer than 1048576 bytes\"}}\n");
	assert_int_equal(hear(fd, line), 0);
	close(fd);
	free(text);
}

/* The longest request that is one: it is refused for what it says only. */
static void
test_longest(void **state)
{
	char *text = xmalloc(ADMIN_REQUEST_BYTES_MAX + 2);
	char line[4096];
	int fd = client();

	memset(text, ' ', ADMIN_REQUEST_BYTES_MAX);
	strcpy(text + ADMIN_REQUEST_BYTES_MAX, "\n");
	say(fd, text);
	hear(fd, line);
	assert_non_null(strstr(line, "the request is not JSON"));
	say(fd, CREATE);
	assert_heard(fd, DONE);
	close(fd);
	free(text);
}

static void
test_hang_ups(void **state)
{
	int fd;

	close(client());
	fd = client();
	say(fd, "{\"quarry\":1,");
	close(fd);
	fd = client(); /* does not take its answer */
	say(fd, LIST DIFF LIST);
	close(fd);
	fd = client(); /* gone while it is worked for */
	say(fd, ROLLBACK);
	sem_wait(&held);
	close(fd);
	reactor_post(&reactor.reactor, &release_task);
	fd = client();
	say(fd, CREATE);
	assert_heard(fd, DONE);
	close(fd);
}

/* Sent, then only the sending side is closed, as "nc" does. */
static void
test_half_closed(void **state)
{
	int fd = client();

	say(fd, CREATE);
	shutdown(fd, SHUT_WR);
	assert_heard(fd, DONE);
	close(fd);
}

static void
test_long_replies(void **state)
{
	char line[4096];
	int fd = client();
	int lines = 0;

	say(fd, LIST);
	assert_true(hear(fd, line) > IMAGES * 100);
	assert_non_null(strstr(line, "\"name\":\"tank/v0\""));
	say(fd, DIFF);
	do {
		lines++;
		hear(fd, line);
		assert_non_null(strstr(line, "\"ranges\":["));
	} while (strstr(line, "\"more\":true"));
	assert_int_equal(lines, (RANGES + ADMIN_REPLY_RANGES_MAX - 1) / ADMIN_REPLY_RANGES_MAX);
	close(fd);
}

/* Clients that say nothing, or half a line, or take no answer, do not lock others out. */
static void
test_silent_clients(void **state)
{
	enum {
		CLIENTS = 4 * ADMIN_CONNECTIONS_MAX
	};
	int fds[CLIENTS];
	int fd;

	for (int i = 0; i < CLIENTS; i++) {
		fds[i] = client();
		/* Those that were closed meanwhile do not hear it. */
		if (i % 3)
			send(fds[i], i % 3 == 1 ? "{\"quarry\"" : LIST DIFF,
			    strlen(i % 3 == 1 ? "{\"quarry\"" : LIST DIFF), MSG_NOSIGNAL);
	}
	fd = client();
	say(fd, CREATE);
	assert_heard(fd, DONE);
	close(fd);
	for (int i = 0; i < CLIENTS; i++)
		close(fds[i]);
}

/* --- the socket's file --- */

/* A process that listens at @path with @fd, and ends. */
static void
end_as_listener(int fd, const char *path)
{
	struct sockaddr_un address;
	struct error error = { 0 };
	pid_t child;
	int status;

	assert_int_equal(admin_socket_address(path, &address, &error), 0);
	child = fork();
	if (child == 0)
		_exit(bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 1));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void
test_socket_file(void **state)
{
	struct admin_server *second = NULL;
	struct error error = { 0 };
	char path[80], expected[256];
	struct stat st;
	int fd;

	assert_int_equal(stat(socket_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(
	    admin_server_create(NULL, &reactor, socket_path, &second, &error), -EADDRINUSE);
	snprintf(expected, sizeof(expected),
	    "another quarryd serves %s: stop it, or choose another --socket", socket_path);
	assert_string_equal(error.text, expected);

	snprintf(path, sizeof(path), "%s/file", directory);
	fclose(fopen(path, "w"));
	assert_int_equal(admin_server_create(NULL, &reactor, path, &second, &error), -EEXIST);
	snprintf(expected, sizeof(expected), "%s exists and is not a socket", path);
	assert_string_equal(error.text, expected);
	unlink(path);

	/* What a daemon that was killed has left. */
	fd = admin_socket_listen(path, &error);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(admin_socket_connect(path, &error), -ECONNREFUSED);
	assert_int_equal(admin_server_create(NULL, &reactor, path, &second, &error), 0);
	admin_server_free(second);
	assert_int_equal(access(path, F_OK), -1);

	/* ... whose socket the kernel has not let go of yet: one that we hold for it. */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	end_as_listener(fd, path);
	assert_int_equal(admin_server_create(NULL, &reactor, path, &second, &error), 0);
	admin_server_free(second);
	close(fd);

	snprintf(path, sizeof(path), "%s/none/s", directory);
	assert_int_equal(admin_server_create(NULL, &reactor, path, &second, &error), -ENOENT);
	assert_int_equal(admin_server_create(NULL, &reactor, "", &second, &error), -EINVAL);
	assert_string_equal(error.text, "the path of the socket is empty");
}

/* --- stopping --- */

/* A request in flight is finished and answered; others are closed. */
static void
test_stop(void **state)
{
	int idle, busy;
	char line[4096];

	set_up(NULL);
	idle = client();
	say(idle, CREATE);
	assert_heard(idle, DONE);
	busy = client();
	say(busy, ROLLBACK CREATE);
	sem_wait(&held);
	reactor_post(&reactor.reactor, &stop_task);
	assert_int_equal(hear(idle, line), 0);
	reactor_post(&reactor.reactor, &release_task);
	assert_heard(busy, DONE);
	assert_int_equal(hear(busy, line), 0);
	sem_wait(&stopped);
	assert_int_equal(access(socket_path, F_OK), -1);
	reactor_uring_stop(&reactor);
	reactor_uring_join(&reactor);
	admin_server_free(server);
	reactor_uring_fini(&reactor);
	close(idle);
	close(busy);
}

/* Who connects before the start waits, and is served then. */
static void
test_early_client(void **state)
{
	struct error error = { 0 };
	int fd;

	sem_init(&started, 0, 0);
	sem_init(&stopped, 0, 0);
	assert_int_equal(reactor_uring_init(&reactor, 0), 0);
	assert_int_equal(admin_server_create(NULL, &reactor, socket_path, &server, &error), 0);
	fd = client();
	say(fd, CREATE);
	assert_int_equal(reactor_uring_start_thread(&reactor), 0);
	task_init(&start_task, start_run);
	task_init(&stop_task, stop_run);
	task_init(&stopped_task, stopped_run);
	reactor_post(&reactor.reactor, &start_task);
	assert_heard(fd, DONE);
	close(fd);
	tear_down(NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_requests_in_sequence, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_request_in_pieces, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_garbage, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_too_long, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_longest, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_hang_ups, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_half_closed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_long_replies, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_silent_clients, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_socket_file, set_up, tear_down),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_early_client),
	};
	int failed;

	signal(SIGPIPE, SIG_IGN);
	if (!mkdtemp(directory))
		return 1;
	snprintf(socket_path, sizeof(socket_path), "%s/s", directory);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return failed;
}
