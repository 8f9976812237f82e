/* SPDX-License-Identifier: Apache-2.0 */
/* NBD exports as devices, with nbdkit as the far end: transfers, refusals, errors, and limits. What
 * happens when the far end goes away and comes back is in tests/integration/t_remote.sh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "backends/nbd_device_internal.h"
#include "core/base/diag.h"
#include "core/reactor_uring.h"

#define DISK_BYTES (32 * MIB)

static struct reactor_uring r;
static char folder[64];
static char socket_path[100];
static char disk_path[100];
static char uri[160];
static pid_t server;

static int
setup(void **state)
{
	const char *tmp = getenv("TMPDIR");
	int fd;

	snprintf(folder, sizeof(folder), "%.40s/quarry-test-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(folder))
		return -1;
	snprintf(socket_path, sizeof(socket_path), "%s/sock", folder);
	snprintf(disk_path, sizeof(disk_path), "%s/disk", folder);
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", socket_path);
	fd = open(disk_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, DISK_BYTES) < 0)
		return -1;
	close(fd);
	return reactor_uring_init(&r, 0);
}

static int
teardown(void **state)
{
	if (server > 0) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
		server = 0;
	}
	reactor_uring_fini(&r);
	unlink(socket_path);
	unlink(disk_path);
	return rmdir(folder);
}

static void
rest_a_moment(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
}

static bool
answers(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool does;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
	does = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
	close(fd);
	return does;
}

/* nbdkit with @arguments (NULL at the end), which @setting ends: filters' settings. */
static void
serve(const char *const *filters, const char *const *settings)
{
	const char *argv[24] = { "nbdkit", "--foreground", "--unix", socket_path };
	char file[120];
	size_t n = 4;

	if (system("command -v nbdkit >/dev/null") != 0)
		skip();
	snprintf(file, sizeof(file), "file=%s", disk_path);
	while (*filters)
		argv[n++] = *filters++;
	argv[n++] = "file";
	argv[n++] = file;
	while (*settings)
		argv[n++] = *settings++;
	server = fork();
	assert_true(server >= 0);
	if (server == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	while (!answers()) {
		assert_int_equal(waitpid(server, NULL, WNOHANG), 0);
		rest_a_moment();
	}
}

#define LIST(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(, ) NULL })

/* --- one request after the other --- */

struct request {
	struct device_io io;
	struct task task;
	struct device *device;
	bool done;
};

static void
request_done(struct device_io *io)
{
	container_of(io, struct request, io)->done = true;
	reactor_uring_stop(&r);
}

static void
request_submit(struct task *task)
{
	struct request *request = container_of(task, struct request, task);

	device_submit(request->device, &request->io);
}

static int
ask(struct device *device, enum device_op op, uint64_t offset_bytes, const struct iovec *iov,
    uint32_t iov_count)
{
	struct request request = {
		.io = { .op = op,
		    .offset_bytes = offset_bytes,
		    .iov = iov,
		    .iov_count = iov_count,
		    .done = request_done },
		.device = device,
	};

	for (uint32_t i = 0; i < iov_count; i++)
		request.io.len_bytes += iov[i].iov_len;
	task_init(&request.task, request_submit);
	reactor_post(&r.reactor, &request.task);
	while (!request.done)
		reactor_uring_run(&r);
	return request.io.error;
}

static int
ask_one(
    struct device *device, enum device_op op, uint64_t offset_bytes, void *data, size_t len_bytes)
{
	return ask(device, op, offset_bytes, &(struct iovec){ data, len_bytes }, 1);
}

static const struct nbd_device_options defaults = { NBD_DEVICE_LIMIT_MS, NBD_DEVICE_KEEP_BYTES };

static struct device *
open_device(const struct nbd_device_options *options)
{
	struct error error = { 0 };
	struct device *device;

	if (nbd_device_open(uri, options, &r.reactor, &device, &error) != 0)
		fail_msg("%s", error.text);
	assert_int_equal(device->size_bytes, DISK_BYTES);
	return device;
}

static void
fill(uint8_t *data, size_t len_bytes, unsigned seed)
{
	for (size_t i = 0; i < len_bytes; i++)
		data[i] = (uint8_t)(seed = seed * 1103515245 + 12345, seed >> 16);
}

/* --- cases --- */

/* Vectors, and requests that are larger than the server takes at once. */
static void
test_transfers(void **state)
{
	size_t len_bytes = 3 * MIB;
	uint8_t *written = xalloc_pages(len_bytes);
	uint8_t *read = xalloc_pages(len_bytes);
	struct device *device;
	struct iovec parts[3] = { { read, 4096 }, { read + 4096, 2 * MIB },
		{ read + 4096 + 2 * MIB, MIB - 4096 } };
	struct iovec written_parts[3];

	serve(LIST("--filter=blocksize-policy"),
	    LIST("blocksize-maximum=64K", "blocksize-error-policy=error"));
	device = open_device(&defaults);
	assert_true(device->gives_back);
	fill(written, len_bytes, 1);
	for (int i = 0; i < 3; i++)
		written_parts[i] = (struct iovec){ written + ((uint8_t *)parts[i].iov_base - read),
			parts[i].iov_len };
	assert_int_equal(ask(device, DEVICE_WRITE, 8192, written_parts, 3), 0);
	assert_int_equal(ask(device, DEVICE_READ, 8192, parts, 3), 0);
	assert_memory_equal(read, written, len_bytes);
	memset(read, 0, len_bytes);
	assert_int_equal(ask_one(device, DEVICE_READ, 8192, read, len_bytes), 0);
	assert_memory_equal(read, written, len_bytes);
	assert_int_equal(ask(device, DEVICE_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(ask_one(device, DEVICE_WRITE, DISK_BYTES - 4096, written, 4096), 0);
	assert_int_equal(ask_one(device, DEVICE_READ, DISK_BYTES - 4096, read, 4096), 0);
	assert_memory_equal(read, written, 4096);
	device_close(device);
	free(written);
	free(read);
}

static void
refused(int code, const char *word)
{
	struct error error = { 0 };
	struct device *device;

	assert_int_equal(nbd_device_open(uri, &defaults, &r.reactor, &device, &error), code);
	assert_null(device);
	if (!strstr(error.text, word))
		fail_msg("\"%s\" lacks \"%s\"", error.text, word);
}

static void
test_what_cannot_be_a_device(void **state)
{
	refused(-EIO, "sock");
	serve(LIST("--readonly"), LIST());
	refused(-EROFS, "read-only");
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	unlink(socket_path);
	serve(LIST("--filter=blocksize-policy"),
	    LIST("blocksize-minimum=64K", "blocksize-preferred=64K", "blocksize-maximum=1M"));
	refused(-ENOTSUP, "blocks of 65536");
}

/* Answered writes do not pile up: beyond the bound the device flushes, and the disk has them. */
static void
test_kept_writes_are_flushed(void **state)
{
	const struct nbd_device_options options = { NBD_DEVICE_LIMIT_MS, 64 * KIB };
	uint8_t *data = xalloc_pages(16 * KIB);
	uint8_t found[4096] = { 0 };
	struct device *device;
	int fd;

	serve(LIST("--filter=cache"), LIST("cache=writeback"));
	device = open_device(&options);
	fill(data, 16 * KIB, 2);
	fd = open(disk_path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ask_one(device, DEVICE_WRITE, 0, data, 16 * KIB), 0);
	assert_int_equal(pread(fd, found, sizeof(found), 0), sizeof(found));
	assert_int_equal(found[0] | found[1] | found[2], 0); /* the server holds it back */
	for (unsigned i = 1; i < 6; i++)
		assert_int_equal(ask_one(device, DEVICE_WRITE, i * 16 * KIB, data, 16 * KIB), 0);
	while (memcmp(found, data, sizeof(found)) != 0) {
		assert_int_equal(pread(fd, found, sizeof(found), 0), sizeof(found));
		rest_a_moment();
	}
	close(fd);
	device_close(device);
	free(data);
}

static void
test_errors_of_the_server(void **state)
{
	uint8_t *data = xalloc_pages(4096);
	struct device *device;

	serve(LIST("--filter=error"), LIST("error-pwrite=ENOSPC", "error-pwrite-rate=100%",
					  "error-trim=EIO", "error-trim-rate=100%"));
	device = open_device(&defaults);
	assert_int_equal(ask_one(device, DEVICE_WRITE, 0, data, 4096), -ENOSPC);
	assert_int_equal(ask_one(device, DEVICE_READ, 0, data, 4096), 0);
	assert_int_equal(ask(device, DEVICE_FLUSH, 0, NULL, 0), 0);
	device_close(device);
	free(data);
}

/* A server that does not answer is not waited for beyond the limit. */
static void
test_silence_ends(void **state)
{
	const struct nbd_device_options options = { 300, NBD_DEVICE_KEEP_BYTES };
	uint8_t *data = xalloc_pages(4096);
	struct device *device;

	serve(LIST("--filter=delay"), LIST("delay-write=3600"));
	device = open_device(&options);
	assert_int_equal(ask_one(device, DEVICE_WRITE, 0, data, 4096), -EIO);
	assert_int_equal(
	    ask_one(device, DEVICE_READ, 0, data, 4096), 0); /* over a new connection */
	device_close(device);
	free(data);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_transfers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_cannot_be_a_device, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kept_writes_are_flushed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_errors_of_the_server, setup, teardown),
		cmocka_unit_test_setup_teardown(test_silence_ends, setup, teardown),
	};

	diag_set_level(DIAG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
