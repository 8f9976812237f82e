/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD server over real sockets, on a target in memory: data, bounds, disconnects, stopping.
 *
 * The server runs on reactors in threads of their own; the test is its clients, with blocking
 * sockets.  What has to happen "soon" is awaited by asking the reactor again, never by sleeping.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "frontends/nbd/nbd_server.h"
#include "tests/unit/fake_target.h"
#include "tests/unit/nbd_conversation.h"

#define REACTORS_MAX 2

struct fixture {
	char directory[32];
	char path[64];
	char uri[96];
	struct target target;
	struct fake_image *a;
	struct fake_image *b;
	struct reactor_uring reactors[REACTORS_MAX];
	size_t reactor_count;
	struct nbd_server *server;
	bool held; /* found by await_held() */
};

/* --- calls on a reactor --- */

struct call {
	struct task task;
	void (*run)(struct fixture *f);
	struct fixture *fixture;
	sem_t done;
};

static void
call_run(struct task *task)
{
	struct call *call = container_of(task, struct call, task);

	if (call->run)
		call->run(call->fixture);
	sem_post(&call->done);
}

static void
on_reactor(struct fixture *f, size_t index, void (*run)(struct fixture *f))
{
	struct call call = { .run = run, .fixture = f };

	task_init(&call.task, call_run);
	sem_init(&call.done, 0, 0);
	reactor_post(&f->reactors[index].reactor, &call.task);
	while (sem_wait(&call.done) != 0)
		;
	sem_destroy(&call.done);
}

static void
await_connections(struct fixture *f, uint32_t count)
{
	while (nbd_server_connection_count(f->server) != count)
		for (size_t i = 0; i < f->reactor_count; i++)
			on_reactor(f, i, NULL);
}

/* --- the server --- */

static void
start(struct fixture *f, struct nbd_server_config config, size_t reactor_count)
{
	struct reactor_uring *reactors[REACTORS_MAX];
	struct error error;

	memset(f, 0, sizeof(*f));
	diag_set_level(DIAG_ERROR);
	strcpy(f->directory, "/tmp/quarry-nbd-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/socket", f->directory);
	snprintf(f->uri, sizeof(f->uri), "nbd+unix:///?socket=%s", f->path);
	f->a = fake_add(&f->target, "tank/a", TEST_EXPORT_BYTES, false);
	f->b = fake_add(&f->target, "tank/b", 64 * MIB, false);
	f->reactor_count = reactor_count;
	for (size_t i = 0; i < reactor_count; i++) {
		reactors[i] = &f->reactors[i];
		assert_int_equal(reactor_uring_init(reactors[i], (uint32_t)i), 0);
	}
	config.target = &f->target;
	config.reactors = reactors;
	config.reactor_count = reactor_count;
	assert_int_equal(nbd_server_create(&config, &f->server, &error), 0);
	assert_int_equal(nbd_server_listen(f->server, f->uri, &error), 0);
	for (size_t i = 0; i < reactor_count; i++)
		assert_int_equal(reactor_uring_start_thread(reactors[i]), 0);
}

struct stop_call {
	struct task task;
	sem_t done;
};
static struct stop_call stop_call;

static void
stop_done(struct task *task)
{
	sem_post(&container_of(task, struct stop_call, task)->done);
}

static void
stop_begin_run(struct fixture *f)
{
	nbd_server_stop(f->server, &stop_call.task);
}

static void
stop_begin(struct fixture *f)
{
	task_init(&stop_call.task, stop_done);
	sem_init(&stop_call.done, 0, 0);
	on_reactor(f, 0, stop_begin_run);
}

static void
stop_end(struct fixture *f)
{
	struct stat st;

	while (sem_wait(&stop_call.done) != 0)
		;
	sem_destroy(&stop_call.done);
	assert_int_equal(nbd_server_connection_count(f->server), 0);
	for (size_t i = 0; i < f->reactor_count; i++) {
		reactor_uring_stop(&f->reactors[i]);
		reactor_uring_join(&f->reactors[i]);
	}
	nbd_server_free(f->server);
	for (size_t i = 0; i < f->reactor_count; i++)
		reactor_uring_fini(&f->reactors[i]);
	fake_fini(&f->target); /* all volumes were closed */
	assert_int_not_equal(stat(f->path, &st), 0);
	rmdir(f->directory);
}

static void
stop(struct fixture *f)
{
	stop_begin(f);
	stop_end(f);
}

/* --- clients --- */

static int
connect_to(const struct fixture *f)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(address.sun_path, f->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void
send_all(int fd, const void *data, size_t len)
{
	const char *at = data;

	while (len) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

		assert_true(n > 0);
		at += n;
		len -= (size_t)n;
	}
}

static void
receive_all(int fd, void *data, size_t len)
{
	char *at = data;

	/* MSG_WAITALL may end early: the kernel interrupts the thread that created a ring when it
	 * takes that ring down, some time after io_uring_queue_exit(). */
	while (len) {
		ssize_t n = recv(fd, at, len, MSG_WAITALL);

		assert_true(n > 0);
		at += n;
		len -= (size_t)n;
	}
}

static void
expect_end(int fd)
{
	char byte;

	assert_true(recv(fd, &byte, 1, 0) <= 0);
	close(fd);
}

static void
send_bytes(int fd, struct bytes *b)
{
	send_all(fd, b->at, b->len);
	free(b->at);
	*b = (struct bytes){ 0 };
}

/* In transmission, with simple replies. */
static int
open_export(const struct fixture *f, const char *name)
{
	struct bytes b = { 0 };
	int fd = connect_to(f);
	char answer[18 + 10];

	add_u32(&b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	add_option(&b, NBD_OPT_EXPORT_NAME, name, strlen(name));
	send_bytes(fd, &b);
	receive_all(fd, answer, sizeof(answer));
	return fd;
}

static void
send_request(
    int fd, uint16_t type, uint64_t cookie, uint64_t offset, uint32_t len, const void *data)
{
	struct bytes b = { 0 };

	add_request(&b, 0, type, cookie, offset, len);
	if (data)
		add(&b, data, len);
	send_bytes(fd, &b);
}

/* Receives the header of a reply; returns its cookie. */
static uint64_t
receive_reply(int fd, enum nbd_error error)
{
	struct nbd_simple_reply_wire reply;

	receive_all(fd, &reply, sizeof(reply));
	assert_int_equal(be32toh(reply.magic_be), NBD_SIMPLE_REPLY_MAGIC);
	assert_int_equal(be32toh(reply.error_be), error);
	return reply.cookie;
}

static void
pattern(uint8_t *data, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)(mix64(seed + i / 8) >> (i % 8 * 8));
}

/* --- data --- */

static void
test_what_is_written_is_read(void **state)
{
	static const struct {
		uint64_t offset;
		uint32_t len;
	} ranges[] = {
		{ 0, 4096 },
		{ 1, 1 },
		{ 4095, 2 },
		{ 12345, 70000 },
		{ 200000, 131072 },
		{ 1 * MIB, 1 * MIB },
		{ 3 * MIB + 511, 5 * MIB + 3 },
		{ 16 * MIB + 4095, 32 * MIB },
		{ TEST_EXPORT_BYTES - 777, 777 },
	};
	uint8_t *data = xmalloc(32 * MIB);
	uint8_t *back = xmalloc(32 * MIB);
	struct fixture f;
	int fd;

	start(&f, (struct nbd_server_config){ 0 }, 1);
	fd = open_export(&f, "tank/a");
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		pattern(data, ranges[i].len, i);
		send_request(fd, NBD_CMD_WRITE, i, ranges[i].offset, ranges[i].len, data);
		assert_int_equal(receive_reply(fd, 0), i);
		on_reactor(&f, 0, NULL); /* what it did is seen here */
		assert_memory_equal(f.a->data + ranges[i].offset, data, ranges[i].len);
		send_request(fd, NBD_CMD_READ, i, ranges[i].offset, ranges[i].len, NULL);
		assert_int_equal(receive_reply(fd, 0), i);
		receive_all(fd, back, ranges[i].len);
		assert_memory_equal(back, data, ranges[i].len);
	}
	send_request(fd, NBD_CMD_FLUSH, 1, 0, 0, NULL);
	receive_reply(fd, 0);
	on_reactor(&f, 0, NULL);
	assert_int_equal(f.a->flushes, 1);
	send_request(fd, NBD_CMD_DISC, 1, 0, 0, NULL);
	expect_end(fd);
	stop(&f);
	free(data);
	free(back);
}

struct writer {
	int fd;
	struct bytes bytes;
	pthread_t thread;
};

static void *
writer_run(void *arg)
{
	struct writer *w = arg;

	send_all(w->fd, w->bytes.at, w->bytes.len);
	return NULL;
}

/* Sends @bytes beside the caller, who receives. */
static void
writer_start(struct writer *w, int fd, struct bytes bytes)
{
	w->fd = fd;
	w->bytes = bytes;
	assert_int_equal(pthread_create(&w->thread, NULL, writer_run, w), 0);
}

static void
writer_join(struct writer *w)
{
	pthread_join(w->thread, NULL);
	free(w->bytes.at);
}

/* A long stream of writes of all sizes on disjoint ranges, none awaited; then the same of reads. */
static void
run_pipeline(struct fixture *f, const char *name, struct fake_image *image, size_t count)
{
	uint64_t *offsets = xcalloc(count + 1, sizeof(uint64_t));
	uint8_t *data = xmalloc(64 * MIB);
	bool *seen = xcalloc(2 * count, sizeof(bool));
	struct bytes bytes = { 0 };
	int fd = open_export(f, name);
	struct writer w;

	for (size_t i = 0; i < count; i++) {
		uint64_t random = mix64(i + 99);
		uint64_t len = i % 50 == 0  ? 1 + random % (1 * MIB)
			       : i % 7 == 0 ? 1 + random % 40000
					    : 1 + random % 5000;

		offsets[i + 1] = offsets[i] + len;
	}
	assert_true(offsets[count] <= 64 * MIB);
	pattern(data, offsets[count], 5);
	for (size_t i = 0; i < count; i++) {
		uint32_t len = (uint32_t)(offsets[i + 1] - offsets[i]);

		add_request(&bytes, 0, NBD_CMD_WRITE, i, offsets[i], len);
		add(&bytes, data + offsets[i], len);
	}
	writer_start(&w, fd, bytes);
	for (size_t i = 0; i < count; i++) {
		uint64_t cookie = receive_reply(fd, 0);

		assert_true(cookie < count && !seen[cookie]);
		seen[cookie] = true;
	}
	writer_join(&w);
	for (size_t i = 0; i < f->reactor_count; i++)
		on_reactor(f, i, NULL); /* what they did is seen here */
	assert_memory_equal(image->data, data, offsets[count]);

	bytes = (struct bytes){ 0 };
	for (size_t i = 0; i < count; i++)
		add_request(&bytes, 0, NBD_CMD_READ, count + i, offsets[i],
		    (uint32_t)(offsets[i + 1] - offsets[i]));
	writer_start(&w, fd, bytes);
	for (size_t i = 0; i < count; i++) {
		uint64_t cookie = receive_reply(fd, 0);
		uint8_t *back = xmalloc(1 * MIB);
		size_t at = cookie - count;

		assert_true(at < count && !seen[cookie]);
		seen[cookie] = true;
		receive_all(fd, back, offsets[at + 1] - offsets[at]);
		assert_memory_equal(back, data + offsets[at], offsets[at + 1] - offsets[at]);
		free(back);
	}
	writer_join(&w);
	close(fd);
	free(offsets);
	free(data);
	free(seen);
}

static void
test_pipelined_requests(void **state)
{
	struct fixture f;

	start(&f, (struct nbd_server_config){ 0 }, 1);
	run_pipeline(&f, "tank/a", f.a, 2000);
	await_connections(&f, 0);
	stop(&f);
}

static void
test_pipelined_requests_within_small_bounds(void **state)
{
	struct fixture f;

	start(&f,
	    (struct nbd_server_config){
		.requests_max = 3,
		.payload_bytes_max = 20000,
		.buffer_bytes = 66 * MIB,
	    },
	    1);
	run_pipeline(&f, "tank/a", f.a, 1000);
	stop(&f);
}

struct pipeline {
	pthread_t thread;
	struct fixture *fixture;
	const char *name;
	struct fake_image *image;
};

static void *
pipeline_run(void *arg)
{
	struct pipeline *p = arg;

	run_pipeline(p->fixture, p->name, p->image, 500);
	return NULL;
}

static void
test_connections_are_spread(void **state)
{
	struct fixture f;
	struct pipeline pipelines[2];

	start(&f, (struct nbd_server_config){ 0 }, 2);
	pipelines[0] = (struct pipeline){ .fixture = &f, .name = "tank/a", .image = f.a };
	pipelines[1] = (struct pipeline){ .fixture = &f, .name = "tank/b", .image = f.b };
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(
		    pthread_create(&pipelines[i].thread, NULL, pipeline_run, &pipelines[i]), 0);
	for (size_t i = 0; i < 2; i++)
		pthread_join(pipelines[i].thread, NULL);
	stop(&f);
}

/* Two connections whose payloads never fit the buffers together: each in its turn. */
static void
test_buffers_are_waited_for(void **state)
{
	uint8_t *data = xcalloc(1, 32 * MIB);
	struct writer writers[3];
	struct fixture f;
	int fds[3];

	start(&f, (struct nbd_server_config){ .buffer_bytes = 66 * MIB }, 1);
	pattern(data, 32 * MIB, 3);
	for (size_t i = 0; i < 3; i++) {
		struct bytes bytes = { 0 };

		fds[i] = open_export(&f, "tank/a");
		for (size_t n = 0; n < 3; n++) {
			add_request(&bytes, 0, NBD_CMD_WRITE, n, (3 * i + n) * 33 * MIB, 32 * MIB);
			add(&bytes, data, 32 * MIB);
		}
		writer_start(&writers[i], fds[i], bytes);
	}
	for (size_t n = 0; n < 3; n++)
		for (size_t i = 0; i < 3; i++)
			receive_reply(fds[i], 0);
	for (size_t i = 0; i < 3; i++) {
		writer_join(&writers[i]);
		close(fds[i]);
	}
	on_reactor(&f, 0, NULL);
	for (size_t i = 0; i < 9; i++)
		assert_memory_equal(f.a->data + i * 33 * MIB, data, 32 * MIB);
	stop(&f);
	free(data);
}

/* Holders of all buffers that send nothing more do not keep the others out for ever. */
static void
test_stuck_holders_are_disconnected(void **state)
{
	struct fixture f;
	int holders[2];
	int fd;

	start(&f, (struct nbd_server_config){ .buffer_bytes = 66 * MIB, .stall_timeout_ms = 1 }, 1);
	for (size_t i = 0; i < 2; i++) {
		holders[i] = open_export(&f, "tank/a");
		send_request(holders[i], NBD_CMD_WRITE, 1, 0, 32 * MIB, NULL);
		/* It was admitted when a request behind it, on another connection, is answered. */
		fd = open_export(&f, "tank/a");
		send_request(fd, NBD_CMD_FLUSH, 1, 0, 0, NULL);
		receive_reply(fd, 0);
		close(fd);
	}
	fd = open_export(&f, "tank/a");
	send_request(fd, NBD_CMD_READ, 2, 0, 32 * MIB, NULL);
	receive_reply(fd, 0);
	expect_end(holders[0]);
	expect_end(holders[1]);
	close(fd);
	stop(&f);
}

/* --- disconnects --- */

static void
hold(struct fixture *f)
{
	f->a->hold = true;
}

static void
release(struct fixture *f)
{
	fake_release(f->a);
}

static void
look_for_held(struct fixture *f)
{
	f->held = !list_empty(&f->a->held);
}

static void
await_held(struct fixture *f)
{
	do
		on_reactor(f, 0, look_for_held);
	while (!f->held);
}

static void
test_disconnect_at_every_byte(void **state)
{
	struct bytes input = { 0 };
	struct fixture f;

	add_u32(&input, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	add_option(&input, NBD_OPT_LIST, NULL, 0);
	add_go(&input, NBD_OPT_GO, "tank/a", "");
	add_request(&input, 0, NBD_CMD_READ, 1, 0, 300);
	add_request(&input, 0, NBD_CMD_WRITE, 1, 10, 50);
	add(&input, "01234567890123456789012345678901234567890123456789", 50);
	start(&f, (struct nbd_server_config){ 0 }, 1);
	for (size_t len = 0; len <= input.len; len++) {
		int fd = connect_to(&f);

		send_all(fd, input.at, len);
		close(fd);
	}
	await_connections(&f, 0);
	stop(&f);
	free(input.at);
}

static void
test_disconnect_with_requests_in_flight(void **state)
{
	uint8_t *data = xcalloc(1, 1 * MIB);
	struct fixture f;
	int fd;

	start(&f, (struct nbd_server_config){ 0 }, 1);
	fd = open_export(&f, "tank/a");
	on_reactor(&f, 0, hold);
	for (size_t i = 0; i < 10; i++) {
		send_request(fd, NBD_CMD_READ, i, i * MIB, 1 * MIB, NULL);
		send_request(fd, NBD_CMD_WRITE, i, i * MIB, 1 * MIB, data);
	}
	await_held(&f);
	send_request(fd, NBD_CMD_WRITE, 1, 0, 1 * MIB, NULL); /* and never its payload */
	close(fd);
	assert_int_equal(nbd_server_connection_count(f.server), 1);
	on_reactor(&f, 0, release);
	await_connections(&f, 0);
	stop(&f);
	free(data);
}

static void
test_a_half_closed_client_gets_its_answers(void **state)
{
	struct fixture f;
	char data[100];
	int fd;

	start(&f, (struct nbd_server_config){ 0 }, 1);
	fd = open_export(&f, "tank/a");
	on_reactor(&f, 0, hold);
	send_request(fd, NBD_CMD_READ, 77, 0, sizeof(data), NULL);
	await_held(&f);
	shutdown(fd, SHUT_WR);
	on_reactor(&f, 0, release);
	assert_int_equal(receive_reply(fd, 0), 77);
	receive_all(fd, data, sizeof(data));
	expect_end(fd);
	stop(&f);
}

/* Asks for far more than sockets hold, reads nothing of it, and goes. */
static void
test_a_client_that_does_not_read(void **state)
{
	struct fixture f;
	int fd;

	start(&f, (struct nbd_server_config){ 0 }, 1);
	fd = open_export(&f, "tank/b");
	for (size_t i = 0; i < 20; i++)
		send_request(fd, NBD_CMD_READ, i, 0, 8 * MIB, NULL);
	on_reactor(&f, 0, NULL);
	close(fd);
	await_connections(&f, 0);
	stop(&f);
}

/* --- stopping and limits --- */

static void
test_stop_answers_what_is_in_flight(void **state)
{
	struct fixture f;
	int idle;
	int fd;

	start(&f, (struct nbd_server_config){ 0 }, 1);
	idle = open_export(&f, "tank/a");
	fd = open_export(&f, "tank/a");
	on_reactor(&f, 0, hold);
	send_request(fd, NBD_CMD_WRITE, 5, 0, 5, "hello");
	await_held(&f);
	stop_begin(&f);
	expect_end(idle);
	on_reactor(&f, 0, release);
	assert_int_equal(receive_reply(fd, 0), 5);
	expect_end(fd);
	stop_end(&f);
}

static void
test_stop_does_not_wait_for_ever(void **state)
{
	struct fixture f;
	int fd;

	start(&f, (struct nbd_server_config){ .stop_timeout_ms = 1 }, 1);
	fd = open_export(&f, "tank/b");
	for (size_t i = 0; i < 20; i++)
		send_request(fd, NBD_CMD_READ, i, 0, 8 * MIB, NULL);
	on_reactor(&f, 0, NULL);
	stop(&f);
	close(fd);
}

static void
test_the_handshake_has_a_time_limit(void **state)
{
	struct fixture f;
	char greeting[18];
	int idle;
	int fd;

	start(&f, (struct nbd_server_config){ .handshake_timeout_ms = 20 }, 1);
	fd = open_export(&f, "tank/a");
	idle = connect_to(&f);
	receive_all(idle, greeting, sizeof(greeting));
	expect_end(idle);
	send_request(fd, NBD_CMD_FLUSH, 1, 0, 0, NULL); /* transmission has none */
	receive_reply(fd, 0);
	close(fd);
	stop(&f);
}

/* Requests do not keep a place for who takes no answers, or sends no payload; what we are busy with
 * does. */
static void
test_idle_clients_lose_their_places(void **state)
{
	struct nbd_server_config config = { .idle_timeout_ms = 500, .stop_timeout_ms = 1 };
	struct fixture f;
	int fds[3];

	start(&f, config, 1);
	fds[0] = open_export(&f, "tank/a");
	on_reactor(&f, 0, hold);
	send_request(fds[0], NBD_CMD_FLUSH, 7, 0, 0, NULL);
	await_held(&f);
	fds[1] = open_export(&f, "tank/b");
	send_request(fds[1], NBD_CMD_WRITE, 1, 0, 4096, NULL); /* and no payload */
	fds[2] = open_export(&f, "tank/b");
	send_request(fds[2], NBD_CMD_READ, 1, 0, 300 * KIB, NULL); /* more than a socket holds */
	await_connections(&f, 1);
	on_reactor(&f, 0, release);
	assert_int_equal(receive_reply(fds[0], 0), 7);
	expect_end(fds[0]);
	close(fds[1]);
	close(fds[2]);
	stop(&f);
}

/* As if it were not there: not even opened, which might fail in a way that tells. */
static void
test_what_is_hidden_is_not_opened(void **state)
{
	struct nbd_access_rule rule;
	struct nbd_server_config config = { .access = &rule, .access_count = 1 };
	struct error error;
	struct fixture f;

	assert_int_equal(nbd_access_parse(&rule, "tank/a", &error), 0);
	start(&f, config, 1);
	for (size_t i = 0; i < 2; i++) {
		static const char *const names[] = { "tank/b", "tank/none" };
		struct nbd_option_reply_wire reply;
		struct bytes b = { 0 };
		char greeting[18];
		int fd = connect_to(&f);

		add_u32(&b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
		add_go(&b, NBD_OPT_GO, names[i], "");
		send_bytes(fd, &b);
		receive_all(fd, greeting, sizeof(greeting));
		receive_all(fd, &reply, sizeof(reply));
		assert_int_equal(be32toh(reply.type_be), NBD_REP_ERR_UNKNOWN);
		close(fd);
	}
	await_connections(&f, 0);
	assert_int_equal(f.b->opens, 0);
	close(open_export(&f, "tank/a"));
	stop(&f);
}

static void
test_connections_are_limited(void **state)
{
	struct fixture f;
	int first;

	start(&f, (struct nbd_server_config){ .connections_max = 1 }, 1);
	first = open_export(&f, "tank/a");
	expect_end(connect_to(&f));
	close(first);
	await_connections(&f, 0);
	close(open_export(&f, "tank/a"));
	stop(&f);
}

static void
fail_full(struct fixture *f)
{
	f->a->fail = -ENOSPC;
}

static void
fail_damaged(struct fixture *f)
{
	f->a->fail = -EUCLEAN;
}

static void
fail_not(struct fixture *f)
{
	f->a->fail = 0;
}

static void
test_errors_reach_the_client(void **state)
{
	struct fixture f;
	int fd;

	start(&f, (struct nbd_server_config){ 0 }, 1);
	fd = open_export(&f, "tank/a");
	on_reactor(&f, 0, fail_full);
	send_request(fd, NBD_CMD_WRITE, 5, 0, 5, "hello");
	receive_reply(fd, NBD_ENOSPC);
	on_reactor(&f, 0, fail_damaged);
	send_request(fd, NBD_CMD_READ, 6, 0, 5, NULL);
	receive_reply(fd, NBD_EIO);
	on_reactor(&f, 0, fail_not);
	send_request(fd, NBD_CMD_FLUSH, 7, 0, 0, NULL);
	assert_int_equal(receive_reply(fd, 0), 7);
	close(fd);
	stop(&f);
}

/* --- listening --- */

static void
test_uris(void **state)
{
	static const char *const bad[] = { "", "nbd", "nbd:/", "http://x", "nbds://localhost",
		"nbd://localhost:", "nbd://localhost:x", "nbd://localhost:70000",
		"nbd://localhost:123456", "nbd://[::1", "nbd://[::1]x", "nbd://127.0.0.1/export",
		"nbd://127.0.0.1?x=y", "nbd+unix://", "nbd+unix:///",
		"nbd+unix:///?socket=", "nbd+unix:///name?socket=/tmp/x",
		"nbd+unix:///?socket=/tmp/x&y=z", "nbd+unix:///?socket=%00",
		"nbd+unix:///?socket=%2" };
	char too_long[300] = "nbd+unix:///?socket=";
	struct error error;
	struct fixture f;

	start(&f, (struct nbd_server_config){ 0 }, 1);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		memset(&error, 0, sizeof(error));
		assert_int_equal(nbd_server_listen(f.server, bad[i], &error), -EINVAL);
		assert_int_equal(error.code, -EINVAL);
		assert_true(strlen(error.text) > 0);
	}
	memset(too_long + strlen(too_long), 'x', 200);
	assert_int_equal(nbd_server_listen(f.server, too_long, &error), -EINVAL);
	stop(&f);
}

static void
listen_run(struct fixture *f)
{
	struct error error;

	assert_int_equal(nbd_server_listen(f->server, f->uri, &error), -EADDRINUSE);
	assert_int_equal(nbd_server_listen(f->server, "nbd://127.0.0.1:0", &error), 0);
	assert_int_equal(nbd_server_listen(f->server, "nbd://localhost:0/", &error), 0);
}

static void
test_a_live_socket_is_left_alone(void **state)
{
	struct fixture f;

	start(&f, (struct nbd_server_config){ 0 }, 1);
	on_reactor(&f, 0, listen_run);
	close(open_export(&f, "tank/a"));
	stop(&f);
}

static void
test_a_stale_socket_is_replaced(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	char directory[] = "/tmp/quarry-nbd-XXXXXX";
	struct reactor_uring reactor;
	struct reactor_uring *reactors[] = { &reactor };
	struct target target = { 0 };
	struct nbd_server_config config = {
		.target = &target,
		.reactors = reactors,
		.reactor_count = 1,
	};
	struct nbd_server *server;
	struct error error;
	struct stat st;
	char uri[200];

	assert_non_null(mkdtemp(directory));
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/a b", directory);
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s/a%%20b", directory);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	assert_int_equal(reactor_uring_init(&reactor, 0), 0);
	assert_int_equal(nbd_server_create(&config, &server, &error), 0);
	assert_int_equal(nbd_server_listen(server, uri, &error), 0);
	assert_int_equal(stat(address.sun_path, &st), 0);
	nbd_server_free(server);
	reactor_uring_fini(&reactor);
	assert_int_not_equal(stat(address.sun_path, &st), 0);

	/* What is no socket is not removed. */
	fclose(fopen(address.sun_path, "w"));
	assert_int_equal(reactor_uring_init(&reactor, 0), 0);
	assert_int_equal(nbd_server_create(&config, &server, &error), 0);
	assert_int_equal(nbd_server_listen(server, uri, &error), -EEXIST);
	nbd_server_free(server);
	reactor_uring_fini(&reactor);
	assert_int_equal(unlink(address.sun_path), 0);
	rmdir(directory);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_written_is_read),
		cmocka_unit_test(test_pipelined_requests),
		cmocka_unit_test(test_pipelined_requests_within_small_bounds),
		cmocka_unit_test(test_connections_are_spread),
		cmocka_unit_test(test_buffers_are_waited_for),
		cmocka_unit_test(test_stuck_holders_are_disconnected),
		cmocka_unit_test(test_disconnect_at_every_byte),
		cmocka_unit_test(test_disconnect_with_requests_in_flight),
		cmocka_unit_test(test_a_half_closed_client_gets_its_answers),
		cmocka_unit_test(test_a_client_that_does_not_read),
		cmocka_unit_test(test_stop_answers_what_is_in_flight),
		cmocka_unit_test(test_stop_does_not_wait_for_ever),
		cmocka_unit_test(test_the_handshake_has_a_time_limit),
		cmocka_unit_test(test_idle_clients_lose_their_places),
		cmocka_unit_test(test_what_is_hidden_is_not_opened),
		cmocka_unit_test(test_connections_are_limited),
		cmocka_unit_test(test_errors_reach_the_client),
		cmocka_unit_test(test_uris),
		cmocka_unit_test(test_a_live_socket_is_left_alone),
		cmocka_unit_test(test_a_stale_socket_is_replaced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
