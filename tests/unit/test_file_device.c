/* SPDX-License-Identifier: Apache-2.0 */
/* Files and block devices: opening and refusing, transfers, holes, errors, and what a probe sees.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/backend.h"
#include "backends/file_internal.h"
#include "backends/probe.h"
#include "core/base/diag.h"
#include "core/reactor_uring.h"

static struct reactor_uring r;
static char folder[64];
static char path[128];

static int
setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(folder, sizeof(folder), "%.40s/quarry-test-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/disk", folder);
	return reactor_uring_init(&r, 0);
}

static int
teardown(void **state)
{
	reactor_uring_fini(&r);
	unlink(path);
	return rmdir(folder);
}

/* --- one request after the other --- */

struct request {
	struct device_io io;
	struct task task;
	struct device *device;
	bool submitting;
	bool done;
};

static void
request_done(struct device_io *io)
{
	struct request *request = container_of(io, struct request, io);

	assert_false(request->submitting);
	assert_false(request->done);
	request->done = true;
	reactor_uring_stop(&r);
}

static void
request_run(struct task *task)
{
	struct request *request = container_of(task, struct request, task);

	request->submitting = true;
	device_submit(request->device, &request->io);
	request->submitting = false;
}

static int
run_io(struct device *device, enum device_op op, uint64_t offset_bytes, uint64_t len_bytes,
    const struct iovec *iov, uint32_t iov_count)
{
	struct request request = {
		.io = {
			.op = op,
			.offset_bytes = offset_bytes,
			.len_bytes = len_bytes,
			.iov = iov,
			.iov_count = iov_count,
			.done = request_done,
		},
		.device = device,
	};

	task_init(&request.task, request_run);
	reactor_defer(&r.reactor, &request.task);
	reactor_uring_run(&r);
	assert_true(request.done);
	assert_int_equal(device->in_flight, 0);
	return request.io.error;
}

static int
run_transfer(
    struct device *device, enum device_op op, uint64_t offset_bytes, void *data, uint64_t len_bytes)
{
	struct iovec iov = { data, len_bytes };

	return run_io(device, op, offset_bytes, len_bytes, &iov, 1);
}

static struct device *
open_new(uint64_t size_bytes, enum file_cache cache)
{
	const struct file_device_options options = {
		.new_file_bytes = size_bytes,
		.cache = cache,
		.discard = true,
	};
	struct device *device;
	struct error error = { 0 };

	if (file_device_open(path, &options, &r.reactor, &device, &error) < 0)
		fail_msg("%s", error.text);
	device->made = false; /* a pool has it */
	return device;
}

static int
open_error(const char *what, uint64_t size_bytes, struct error *error)
{
	const struct file_device_options options = { .new_file_bytes = size_bytes };
	struct device *device = (void *)1;
	int rc = file_device_open(what, &options, &r.reactor, &device, error);

	assert_true(rc < 0);
	assert_null(device);
	assert_int_equal(error->code, rc);
	return rc;
}

static void
fill(unsigned char *data, size_t len_bytes, uint64_t seed)
{
	for (size_t i = 0; i < len_bytes; i += 8) {
		uint64_t word = mix64(seed + i);

		memcpy(data + i, &word, 8);
	}
}

/* --- opening --- */

static void
test_new_file(void **state)
{
	struct device *device = open_new(10 * MIB + 5000, FILE_CACHE_DIRECT);
	struct stat st;

	assert_int_equal(device->size_bytes, 10 * MIB + 4096);
	assert_string_equal(device->name, path);
	assert_true(device->prepare_space);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(st.st_size, 10 * MIB + 4096);
	assert_true(st.st_blocks < 100);
	device_close(device);
	/* An existing one keeps its size. */
	device = open_new(MIB, FILE_CACHE_DIRECT);
	assert_int_equal(device->size_bytes, 10 * MIB + 4096);
	device_close(device);
}

static void
test_refusals(void **state)
{
	struct error error;
	char missing[160];

	assert_int_equal(open_error(path, 0, &error), -ENOENT);
	assert_non_null(strstr(error.text, path));
	assert_non_null(strstr(error.text, "size"));
	assert_int_equal(access(path, F_OK), -1);

	assert_int_equal(open_error(folder, 0, &error), -EINVAL);
	assert_non_null(strstr(error.text, "directory"));
	assert_int_equal(open_error("/dev/null", 0, &error), -EINVAL);

	snprintf(missing, sizeof(missing), "%s/no/disk", folder);
	assert_int_equal(open_error(missing, MIB, &error), -ENOENT);

	assert_int_equal(symlink(missing, path), 0);
	assert_int_equal(open_error(path, MIB, &error), -ENOENT);
	assert_non_null(strstr(error.text, "symbolic link"));
	unlink(path);

	/* Too small to hold a block: and it is not left lying about. */
	assert_int_equal(open_error(path, 100, &error), -EINVAL);
	assert_int_equal(access(path, F_OK), -1);
}

static void
test_opened_once(void **state)
{
	struct device *device = open_new(MIB, FILE_CACHE_DIRECT);
	struct error error;
	char alias[160];
	int fd;

	assert_int_equal(open_error(path, 0, &error), -EBUSY);
	assert_non_null(strstr(error.text, path));
	snprintf(alias, sizeof(alias), "%s/alias", folder);
	assert_int_equal(symlink(path, alias), 0);
	assert_int_equal(open_error(alias, 0, &error), -EBUSY);
	unlink(alias);
	device_close(device);

	fd = open(path, O_RDWR);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(open_error(path, MIB, &error), -EBUSY);
	assert_int_equal(access(path, F_OK), 0);
	close(fd);
	device_close(open_new(0, FILE_CACHE_DIRECT));
}

/* --- transfers --- */

static void
check_transfers(struct device *device)
{
	enum {
		PARTS = 600
	};
	const uint64_t len_bytes = PARTS * 4096;
	unsigned char *data = xalloc_pages(len_bytes);
	unsigned char *back = xalloc_pages(len_bytes);
	struct iovec iov[PARTS];

	fill(data, len_bytes, 1);
	/* Many vectors, last block first in memory. */
	for (size_t i = 0; i < PARTS; i++)
		iov[i] = (struct iovec){ data + (PARTS - 1 - i) * 4096, 4096 };
	assert_int_equal(run_io(device, DEVICE_WRITE, 8192, len_bytes, iov, PARTS), 0);
	assert_int_equal(run_io(device, DEVICE_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(run_transfer(device, DEVICE_READ, 8192, back, len_bytes), 0);
	for (size_t i = 0; i < PARTS; i++)
		assert_memory_equal(back + i * 4096, data + (PARTS - 1 - i) * 4096, 4096);

	/* The last block of the device. */
	assert_int_equal(
	    run_transfer(device, DEVICE_WRITE, device->size_bytes - 4096, data, 4096), 0);
	assert_int_equal(
	    run_transfer(device, DEVICE_READ, device->size_bytes - 4096, back, 4096), 0);
	assert_memory_equal(back, data, 4096);

	/* The hole before reads as zeroes, if it was one. */
	assert_int_equal(run_io(device, DEVICE_DISCARD, 8192, 40960, NULL, 0), 0);
	assert_int_equal(run_io(device, DEVICE_DISCARD, 8192, 0, NULL, 0), 0);
	assert_int_equal(run_transfer(device, DEVICE_READ, 8192 + 40960, back, 4096), 0);
	assert_memory_equal(back, data + (PARTS - 1 - 10) * 4096, 4096);
	free(data);
	free(back);
}

static void
test_transfers_direct(void **state)
{
	struct device *device = open_new(8 * MIB, FILE_CACHE_DIRECT);

	check_transfers(device);
	device_close(device);
}

static void
test_transfers_cached(void **state)
{
	struct device *device = open_new(8 * MIB, FILE_CACHE_KERNEL);

	check_transfers(device);
	device_close(device);
}

static void
test_discard_gives_back(void **state)
{
	struct device *device = open_new(8 * MIB, FILE_CACHE_DIRECT);
	unsigned char *data = xalloc_pages(4 * MIB);
	struct stat before;
	struct stat after;

	if (!device->gives_back) {
		device_close(device);
		free(data);
		skip();
	}
	fill(data, 4 * MIB, 7);
	assert_int_equal(run_transfer(device, DEVICE_WRITE, 0, data, 4 * MIB), 0);
	assert_int_equal(run_io(device, DEVICE_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(stat(path, &before), 0);
	assert_int_equal(run_io(device, DEVICE_DISCARD, MIB, 2 * MIB, NULL, 0), 0);
	assert_int_equal(stat(path, &after), 0);
	assert_true(before.st_blocks - after.st_blocks >= 4000);
	assert_int_equal(before.st_size, after.st_size);
	device_close(device);
	free(data);
}

/* --- many at once --- */

enum {
	DEPTH = 64,
	SLOTS = 256,
	ROUNDS = 3000
};

/* A writer of numbered blocks into slots of its own, each read back after it was written. */
struct writer {
	struct device_io io;
	struct iovec iov;
	unsigned char *data;
	uint32_t slot;
	uint64_t number;
};

static struct {
	struct device *device;
	struct writer writers[DEPTH];
	struct task start;
	uint32_t rounds;
	uint32_t running;
} many;

static void
writer_write(struct writer *writer)
{
	uint32_t index = (uint32_t)(writer - many.writers);

	if (many.rounds == ROUNDS) {
		if (--many.running == 0)
			reactor_uring_stop(&r);
		return;
	}
	writer->number = ++many.rounds;
	writer->slot = index + DEPTH * (uint32_t)(mix64(writer->number) % (SLOTS / DEPTH));
	fill(writer->data, 4096, writer->number);
	writer->io.op = DEVICE_WRITE;
	writer->io.offset_bytes = writer->slot * 4096;
	device_submit(many.device, &writer->io);
}

static void
writer_done(struct device_io *io)
{
	struct writer *writer = container_of(io, struct writer, io);
	uint64_t word = mix64(writer->number + 4088);

	assert_int_equal(io->error, 0);
	switch (io->op) {
	case DEVICE_WRITE:
		io->op = writer->number % 50 ? DEVICE_READ : DEVICE_FLUSH;
		memset(writer->data, 0, 4096);
		device_submit(many.device, io);
		return;
	case DEVICE_FLUSH:
		io->op = DEVICE_READ;
		device_submit(many.device, io);
		return;
	default:
		assert_memory_equal(writer->data + 4088, &word, 8);
		writer_write(writer);
		return;
	}
}

static void
many_start(struct task *task)
{
	many.running = DEPTH;
	for (size_t i = 0; i < DEPTH; i++)
		writer_write(&many.writers[i]);
}

static void
test_many_in_flight(void **state)
{
	memset(&many, 0, sizeof(many));
	many.device = open_new(SLOTS * 4096, FILE_CACHE_DIRECT);
	for (size_t i = 0; i < DEPTH; i++) {
		struct writer *writer = &many.writers[i];

		writer->data = xalloc_pages(4096);
		writer->iov = (struct iovec){ writer->data, 4096 };
		writer->io.len_bytes = 4096;
		writer->io.iov = &writer->iov;
		writer->io.iov_count = 1;
		writer->io.done = writer_done;
	}
	task_init(&many.start, many_start);
	reactor_defer(&r.reactor, &many.start);
	reactor_uring_run(&r);
	assert_int_equal(many.rounds, ROUNDS);
	assert_int_equal(many.device->in_flight, 0);
	for (size_t i = 0; i < DEPTH; i++)
		free(many.writers[i].data);
	device_close(many.device);
}

/* The file is cut off under the device: reads beyond its end fail, and never return less. */
static void
test_end_of_file(void **state)
{
	struct device *device = open_new(MIB, FILE_CACHE_DIRECT);
	unsigned char *data = xalloc_pages(64 * KIB);

	diag_set_level(0); /* the failures are meant */
	assert_int_equal(truncate(path, 512 * KIB + 8192), 0);
	assert_int_equal(run_transfer(device, DEVICE_READ, 512 * KIB, data, 64 * KIB), -EIO);
	assert_int_equal(run_transfer(device, DEVICE_READ, 768 * KIB, data, 64 * KIB), -EIO);
	assert_int_equal(truncate(path, 512 * KIB + 100), 0);
	assert_int_equal(run_transfer(device, DEVICE_READ, 512 * KIB, data, 4096), -EIO);
	assert_int_equal(run_transfer(device, DEVICE_READ, 448 * KIB, data, 64 * KIB), 0);
	diag_set_level(DIAG_INFO);
	device_close(device);
	free(data);
}

/* More than the kernel transfers in one go: that is 2 GiB less a page. */
static void
test_continued_transfer(void **state)
{
	enum {
		VECTOR_BYTES = 2 * 1024 * 1024 + 4096
	};
	const uint64_t len_bytes = (uint64_t)DEVICE_IOV_MAX * VECTOR_BYTES;
	struct device *device = open_new(len_bytes, FILE_CACHE_DIRECT);
	unsigned char *data = xalloc_pages(VECTOR_BYTES);
	struct iovec *iov = calloc(DEVICE_IOV_MAX, sizeof(*iov));

	assert_non_null(iov);
	/* All vectors read into one buffer: what the last one found stays. */
	for (size_t i = 0; i < DEVICE_IOV_MAX; i++)
		iov[i] = (struct iovec){ data, VECTOR_BYTES };
	memset(data, 0x11, 4096);
	assert_int_equal(run_transfer(device, DEVICE_WRITE, len_bytes - 4096, data, 4096), 0);
	assert_int_equal(run_io(device, DEVICE_READ, 0, len_bytes, iov, DEVICE_IOV_MAX), 0);
	assert_int_equal(data[VECTOR_BYTES - 1], 0x11);
	assert_int_equal(data[VECTOR_BYTES - 4097], 0);
	device_close(device);
	free(iov);
	free(data);
}

/* --- block devices, where the test may make one --- */

static int loop_fd = -1;
static char loop_path[64];

static bool
loop_attach(void)
{
	struct loop_config config = { 0 };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int number;

	if (control < 0)
		return false;
	number = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	if (number < 0)
		return false;
	snprintf(loop_path, sizeof(loop_path), "/dev/loop%d", number);
	loop_fd = open(loop_path, O_RDWR | O_CLOEXEC);
	config.fd = (uint32_t)open(path, O_RDWR | O_CLOEXEC | O_CREAT, 0600);
	config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
	if (loop_fd < 0 || ftruncate((int)config.fd, 8 * MIB) < 0 ||
	    ioctl(loop_fd, LOOP_CONFIGURE, &config) < 0) {
		close(loop_fd);
		close((int)config.fd);
		return false;
	}
	close((int)config.fd);
	return true;
}

static void
check_block_discard(struct device *device)
{
	static const unsigned char zeroes[4096];
	unsigned char *data = xalloc_pages(4096);

	fill(data, 4096, 3);
	assert_int_equal(run_transfer(device, DEVICE_WRITE, MIB, data, 4096), 0);
	assert_int_equal(run_io(device, DEVICE_DISCARD, MIB, 8192, NULL, 0), 0);
	assert_int_equal(run_transfer(device, DEVICE_READ, MIB, data, 4096), 0);
	assert_memory_equal(data, zeroes, 4096); /* what this kind of device happens to read */
	free(data);
}

static void
test_block_device(void **state)
{
	const struct file_device_options options = { .discard = true };
	struct device *device;
	struct error error = { 0 };

	if (!loop_attach())
		skip();
	if (file_device_open(loop_path, &options, &r.reactor, &device, &error) < 0)
		fail_msg("%s", error.text);
	assert_int_equal(device->size_bytes, 8 * MIB);
	assert_false(device->prepare_space);
	assert_int_equal(open_error(loop_path, 0, &error), -EBUSY);
	assert_non_null(strstr(error.text, loop_path));
	check_transfers(device);
	if (device->gives_back) {
		check_block_discard(device);
		/* As on kernels before 6.12, which have no discard in the ring. */
		file_device_of(device)->discard_in_ring = false;
		check_block_discard(device);
		assert_true(device->gives_back);
	}
	device_close(device);
	close(loop_fd);
}

/* --- probing --- */

static void
write_at(uint64_t offset_bytes, const void *data, size_t len_bytes)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 16 * MIB), 0);
	assert_int_equal(pwrite(fd, data, len_bytes, (off_t)offset_bytes), len_bytes);
	close(fd);
}

/* What was made for a pool that came to nothing goes with it, and nothing else does. */
static void
test_made_for_nothing(void **state)
{
	const struct file_device_options options = { .new_file_bytes = MIB };
	struct device *device;
	struct error error;
	char moved[160];

	assert_int_equal(file_device_open(path, &options, &r.reactor, &device, &error), 0);
	device_close(device);
	assert_int_equal(access(path, F_OK), -1);

	assert_int_equal(file_device_open(path, &options, &r.reactor, &device, &error), 0);
	snprintf(moved, sizeof(moved), "%s.moved", path);
	assert_int_equal(rename(path, moved), 0);
	write_at(MIB - 1, "", 1); /* somebody else's */
	device_close(device);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(unlink(moved), 0);

	assert_int_equal(file_device_open(path, &options, &r.reactor, &device, &error), 0);
	device_close(device);
	assert_int_equal(access(path, F_OK), 0);
}

static void
test_probe(void **state)
{
	struct target_backend *backend = local_backend_create(false, 0);
	char what[PROBE_TEXT_BYTES];
	char below[160];
	const uint32_t swap_header[3] = { 1, 4095, 0 }; /* version, last page, bad pages */
	unsigned char mbr[2] = { 0x55, 0xaa };
	unsigned char partition[16] = { 0, 1, 1, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0 };

	assert_int_equal(device_probe(path, what), 0);
	write_at(0, "", 1);
	assert_int_equal(device_probe(path, what), 0);

	write_at(510, mbr, sizeof(mbr));
	write_at(446, partition, sizeof(partition));
	assert_int_equal(device_probe(path, what), 1);
	assert_string_equal(what, "dos partition table");

	write_at(4096, "QUARRYLB", 8);
	assert_int_equal(device_probe(path, what), 1);
	assert_string_equal(what, "quarry pool");
	assert_int_equal(backend->probe(backend, path, what), 1);

	/* The first label is lost; the one in the tail still counts. */
	write_at(4096, "\0\0\0\0\0\0\0\0", 8);
	write_at(15 * MIB, "QUARRYLB", 8);
	assert_int_equal(device_probe(path, what), 1);
	assert_string_equal(what, "quarry pool");

	unlink(path);
	write_at(1024, swap_header, sizeof(swap_header));
	write_at(4086, "SWAPSPACE2", 10);
	assert_int_equal(device_probe(path, what), 1);
	assert_non_null(strstr(what, "swap"));

	/* Opening says that it cannot be used; nobody is to force anything. */
	assert_int_equal(device_probe(folder, what), 0);
	assert_int_equal(device_probe("/dev/null", what), 0);
	snprintf(below, sizeof(below), "%s/below", path);
	assert_true(device_probe(below, what) < 0);
	assert_int_equal(backend->probe(backend, below, what), 1);
	local_backend_free(backend);
}

#define with_reactor(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		with_reactor(test_new_file),
		with_reactor(test_refusals),
		with_reactor(test_opened_once),
		with_reactor(test_transfers_direct),
		with_reactor(test_transfers_cached),
		with_reactor(test_discard_gives_back),
		with_reactor(test_many_in_flight),
		with_reactor(test_end_of_file),
		with_reactor(test_continued_transfer),
		with_reactor(test_block_device),
		with_reactor(test_made_for_nothing),
		with_reactor(test_probe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
