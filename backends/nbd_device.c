/* SPDX-License-Identifier: Apache-2.0 */
/* An NBD export as a device: requests, and the thread that sees to them (nbd_device_internal.h). */
#include "backends/nbd_device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backends/nbd_device_internal.h"
#include "core/base/diag.h"
#include "metadata/format.h"

#define NS_PER_MS 1000000ull
#define PAUSE_NS_MIN (50 * NS_PER_MS)
#define PAUSE_NS_MAX (2000 * NS_PER_MS)
/* So often expired requests are looked for. */
#define LOOK_MS 100
/* A probe looks at so much of both ends. */
#define PROBE_BYTES (4 * MIB)

bool
nbd_device_is_uri(const char *path)
{
	static const char *const schemes[] = { "nbd://", "nbds://", "nbd+unix://", "nbds+unix://" };

	for (size_t i = 0; i < ARRAY_SIZE(schemes); i++)
		if (strncmp(path, schemes[i], strlen(schemes[i])) == 0)
			return true;
	return false;
}

static struct nbd_device *
nbd_device_of(struct device *device)
{
	return container_of(device, struct nbd_device, device);
}

/* --- commands --- */

static void
command_free(struct nbd_command *command)
{
	if (command->owns_data)
		free(command->data);
	free(command);
}

/* Writes are copied: they are kept beyond their answer. */
static struct nbd_command *
command_new(struct device_io *io)
{
	struct nbd_command *command = xcalloc(1, sizeof(*command));
	size_t at = 0;

	list_init(&command->link);
	command->io = io;
	command->op = io->op;
	command->offset_bytes = io->offset_bytes;
	command->len_bytes = io->len_bytes;
	command->started_ns = nbd_clock_ns();
	if (io->op == DEVICE_READ && io->iov_count == 1) {
		command->data = io->iov->iov_base;
	} else if (io->op == DEVICE_READ || io->op == DEVICE_WRITE) {
		command->data = xalloc_pages(io->len_bytes);
		command->owns_data = true;
	}
	for (uint32_t i = 0; io->op == DEVICE_WRITE && i < io->iov_count; i++) {
		memcpy(command->data + at, io->iov[i].iov_base, io->iov[i].iov_len);
		at += io->iov[i].iov_len;
	}
	return command;
}

static void
complete_task(struct task *task)
{
	struct device_io *io = container_of(task, struct device_io, backend.task);

	device_complete(io, io->error);
}

/* Hands the answer to the reactor.  What the command held goes, or is kept. */
static void
answer(struct nbd_device *nbd, struct nbd_command *command, int error)
{
	struct device_io *io = command->io;
	size_t at = 0;

	if (error && error != -ENOSPC)
		error = -EIO;
	if (command->op == DEVICE_READ && command->owns_data && error == 0)
		for (uint32_t i = 0; i < io->iov_count; i++) {
			memcpy(io->iov[i].iov_base, command->data + at, io->iov[i].iov_len);
			at += io->iov[i].iov_len;
		}
	list_remove(&command->link);
	if (command->op == DEVICE_WRITE && error == 0) {
		command->io = NULL;
		command->sequence = ++nbd->answers;
		if (command->offset_bytes <= NBD_LABEL_OFFSET_BYTES &&
		    command->offset_bytes + command->len_bytes > NBD_LABEL_OFFSET_BYTES)
			memcpy(nbd->label,
			    command->data + (NBD_LABEL_OFFSET_BYTES - command->offset_bytes),
			    BLOCK_BYTES);
		if (nbd->can_flush) {
			list_push_back(&nbd->kept, &command->link);
			nbd->kept_bytes += command->len_bytes;
			command = NULL;
		}
	}
	if (command)
		command_free(command);
	io->error = error;
	task_init(&io->backend.task, complete_task);
	reactor_post(nbd->device.reactor, &io->backend.task);
}

/* A flush that was sent after the answer @sequence has succeeded. */
static void
forget_kept(struct nbd_device *nbd, uint64_t sequence)
{
	while (!list_empty(&nbd->kept)) {
		struct nbd_command *command =
		    container_of(nbd->kept.next, struct nbd_command, link);

		if (command->sequence > sequence)
			break;
		nbd->kept_bytes -= command->len_bytes;
		list_remove(&command->link);
		command_free(command);
	}
	if (list_empty(&nbd->kept))
		memcpy(nbd->label_durable, nbd->label, BLOCK_BYTES);
}

static const char *
op_name(enum device_op op)
{
	static const char *const names[] = { "read", "write", "flush", "discard" };

	return names[op];
}

static void
finish(struct nbd_device *nbd, struct nbd_command *command)
{
	if (command->op == DEVICE_FLUSH && command->error == 0)
		forget_kept(nbd, command->sequence);
	if (!command->io) {
		nbd->flushing = false;
		list_remove(&command->link);
		command_free(command);
		return;
	}
	if (command->error)
		diag_error("%s: %s of %llu bytes at %llu failed: %s", nbd->device.name,
		    op_name(command->op), (unsigned long long)command->len_bytes,
		    (unsigned long long)command->offset_bytes, strerror(-command->error));
	answer(nbd, command, command->error);
}

/* --- sending --- */

static int
part_done(void *context, int *error)
{
	struct nbd_command *command = context;

	if (*error && !command->error)
		command->error = -*error;
	CHECK(command->parts_left > 0);
	command->parts_left--;
	return 1;
}

/* Each is one of NBD's requests; a failure to send makes the handle dead. */
static int64_t
send_part(struct nbd_device *nbd, struct nbd_command *command, uint64_t at, uint64_t len_bytes)
{
	nbd_completion_callback done = { .callback = part_done, .user_data = command };
	uint64_t offset_bytes = command->offset_bytes + at;

	switch (command->op) {
	case DEVICE_READ:
		return nbd_aio_pread(
		    nbd->handle, command->data + at, len_bytes, offset_bytes, done, 0);
	case DEVICE_WRITE:
		return nbd_aio_pwrite(
		    nbd->handle, command->data + at, len_bytes, offset_bytes, done, 0);
	case DEVICE_FLUSH:
		return nbd_aio_flush(nbd->handle, done, 0);
	case DEVICE_DISCARD:
		return nbd_aio_trim(nbd->handle, len_bytes, offset_bytes, done, 0);
	}
	return -1;
}

static void
send_command(struct nbd_device *nbd, struct nbd_command *command)
{
	uint64_t at = 0;

	list_remove(&command->link);
	list_push_back(&nbd->sent, &command->link);
	command->error = 0;
	command->parts_left = 0;
	if ((command->op == DEVICE_FLUSH && !nbd->can_flush) ||
	    (command->op == DEVICE_DISCARD && (!nbd->can_trim || command->len_bytes == 0)))
		return; /* nothing to ask for */
	if (command->op == DEVICE_FLUSH)
		command->sequence = nbd->answers;
	do {
		uint64_t len_bytes = min_u64(command->len_bytes - at, nbd->part_bytes);

		command->parts_left++;
		if (send_part(nbd, command, at, len_bytes) < 0) {
			command->parts_left--;
			command->error = command->error ? command->error : -EIO;
			return;
		}
		at += len_bytes;
	} while (at < command->len_bytes);
}

static void
flush_kept(struct nbd_device *nbd)
{
	struct nbd_command *command;

	if (nbd->flushing || nbd->kept_bytes <= nbd->options.keep_bytes)
		return;
	nbd->flushing = true;
	command = xcalloc(1, sizeof(*command));
	list_init(&command->link);
	command->op = DEVICE_FLUSH;
	command->started_ns = nbd_clock_ns();
	list_push_back(&nbd->waiting, &command->link);
}

static void
send_waiting(struct nbd_device *nbd)
{
	flush_kept(nbd);
	list_for_each_safe(node, &nbd->waiting) {
		struct nbd_command *command = container_of(node, struct nbd_command, link);

		/* Writes wait for a flush rather than fill the memory. */
		if (command->op == DEVICE_WRITE && nbd->flushing &&
		    nbd->kept_bytes > 4 * nbd->options.keep_bytes)
			continue;
		send_command(nbd, command);
		if (nbd_link_is_dead(nbd))
			return;
	}
}

/* --- the connection's life --- */

/* All that was sent and is not answered waits again.  Nothing is answered from here. */
static void
link_lost(struct nbd_device *nbd)
{
	nbd_link_close(nbd);
	while (!list_empty(&nbd->sent)) {
		struct nbd_command *command =
		    container_of(nbd->sent.prev, struct nbd_command, link);

		list_remove(&command->link);
		list_push_front(&nbd->waiting, &command->link);
		command->error = 0;
		command->parts_left = 0;
	}
	nbd->pause_ns = PAUSE_NS_MIN;
	nbd->retry_ns = nbd_clock_ns();
	if (!nbd->told)
		diag_warning("%s: the connection was lost", nbd->device.name);
	nbd->told = true;
}

static void
try_link(struct nbd_device *nbd)
{
	struct error error = { 0 };

	if (nbd->broken || nbd_clock_ns() < nbd->retry_ns)
		return;
	if (nbd_link_restore(nbd, &error) == 0) {
		diag_info("%s: connected again", nbd->device.name);
		nbd->told = false;
		return;
	}
	if (nbd->pause_ns == PAUSE_NS_MIN && !nbd->broken)
		diag_warning("%s; trying on", error.text);
	nbd->retry_ns = nbd_clock_ns() + nbd->pause_ns;
	nbd->pause_ns = min_u64(2 * nbd->pause_ns, PAUSE_NS_MAX);
}

static bool
all_parts_done(const struct nbd_command *command)
{
	return command->parts_left == 0;
}

/* What the server has answered, in the order of sending. */
static void
take_answers(struct nbd_device *nbd)
{
	bool dead = nbd_link_is_dead(nbd);

	list_for_each_safe(node, &nbd->sent) {
		struct nbd_command *command = container_of(node, struct nbd_command, link);

		if (!all_parts_done(command))
			continue;
		/* The server did not say that: the connection ended, or is about to. */
		if (command->error && (dead || command->error == -ESHUTDOWN)) {
			dead = true;
			continue;
		}
		finish(nbd, command);
	}
	if (dead)
		link_lost(nbd);
}

static bool
is_over(const struct nbd_device *nbd, const struct nbd_command *command, uint64_t now_ns)
{
	return nbd->broken || now_ns - command->started_ns > nbd->options.limit_ms * NS_PER_MS;
}

/* Fails what has waited for too long.  What was sent and is not answered ends the connection. */
static void
expire(struct nbd_device *nbd)
{
	uint64_t now_ns = nbd_clock_ns();

	list_for_each(node, &nbd->sent)
		if (is_over(nbd, container_of(node, struct nbd_command, link), now_ns)) {
			diag_error("%s: no answer for %u s", nbd->device.name,
			    nbd->options.limit_ms / 1000);
			link_lost(nbd);
			break;
		}
	list_for_each_safe(node, &nbd->waiting) {
		struct nbd_command *command = container_of(node, struct nbd_command, link);

		if (!is_over(nbd, command, now_ns))
			continue;
		command->error = -ETIMEDOUT;
		finish(nbd, command);
	}
}

/* Whether to go on. */
static bool
take_inbox(struct nbd_device *nbd)
{
	bool stop;

	pthread_mutex_lock(&nbd->lock);
	while (!list_empty(&nbd->inbox)) {
		struct list *node = list_pop_front(&nbd->inbox);

		list_push_back(&nbd->waiting, node);
	}
	stop = nbd->stopping;
	pthread_mutex_unlock(&nbd->lock);
	return !stop;
}

static int
wait_ms(const struct nbd_device *nbd)
{
	bool idle = list_empty(&nbd->sent) && list_empty(&nbd->waiting);

	if (!nbd->handle && !nbd->broken)
		return (int)(PAUSE_NS_MIN / NS_PER_MS);
	return idle ? -1 : LOOK_MS;
}

static void *
run(void *context)
{
	struct nbd_device *nbd = context;

	while (take_inbox(nbd)) {
		if (!nbd->handle)
			try_link(nbd);
		if (nbd->handle)
			send_waiting(nbd);
		if (nbd->handle)
			take_answers(nbd);
		expire(nbd);
		nbd_link_wait(nbd, wait_ms(nbd));
		if (nbd->handle)
			take_answers(nbd);
	}
	return NULL;
}

/* --- the device --- */

static void
wake(struct nbd_device *nbd)
{
	uint64_t one = 1;

	CHECK(write(nbd->wake_fd, &one, sizeof(one)) == sizeof(one));
}

static void
nbd_submit(struct device *device, struct device_io *io)
{
	struct nbd_device *nbd = nbd_device_of(device);
	struct nbd_command *command = command_new(io);

	pthread_mutex_lock(&nbd->lock);
	list_push_back(&nbd->inbox, &command->link);
	pthread_mutex_unlock(&nbd->lock);
	wake(nbd);
}

static void
free_list(struct list *list)
{
	struct list *node;

	while ((node = list_pop_front(list)))
		command_free(container_of(node, struct nbd_command, link));
}

static void
nbd_device_free(struct nbd_device *nbd)
{
	nbd_link_close(nbd);
	free_list(&nbd->sent); /* a flush of our own */
	free_list(&nbd->waiting);
	free_list(&nbd->kept);
	close(nbd->wake_fd);
	pthread_mutex_destroy(&nbd->lock);
	free(nbd->device.name);
	free(nbd);
}

static void
nbd_device_close(struct device *device)
{
	struct nbd_device *nbd = nbd_device_of(device);

	CHECK(device->in_flight == 0);
	pthread_mutex_lock(&nbd->lock);
	nbd->stopping = true;
	pthread_mutex_unlock(&nbd->lock);
	wake(nbd);
	pthread_join(nbd->thread, NULL);
	nbd_device_free(nbd);
}

static const struct device_ops nbd_device_ops = {
	.submit = nbd_submit,
	.close = nbd_device_close,
};

/* Connected, without a thread. */
static int
device_new(const char *uri, struct nbd_device **created, struct error *error)
{
	struct nbd_device *nbd = xcalloc(1, sizeof(*nbd));
	int rc;

	nbd->device.ops = &nbd_device_ops;
	nbd->device.name = xstrdup(uri);
	list_init(&nbd->inbox);
	list_init(&nbd->waiting);
	list_init(&nbd->sent);
	list_init(&nbd->kept);
	pthread_mutex_init(&nbd->lock, NULL);
	nbd->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (nbd->wake_fd < 0)
		rc = error_set(error, -errno, "%s: no eventfd: %s", uri, strerror(errno));
	else
		rc = nbd_link_open(nbd, error);
	if (rc) {
		nbd_device_free(nbd);
		return rc;
	}
	*created = nbd;
	return 0;
}

int
nbd_device_open(const char *uri, const struct nbd_device_options *options, struct reactor *reactor,
    struct device **device, struct error *error)
{
	struct nbd_device *nbd;
	int rc = device_new(uri, &nbd, error);

	*device = NULL;
	if (rc)
		return rc;
	nbd->options = *options;
	nbd->device.reactor = reactor;
	nbd->device.gives_back = nbd->can_trim;
	rc = pthread_create(&nbd->thread, NULL, run, nbd);
	if (rc) {
		nbd_device_free(nbd);
		return error_set(error, -rc, "%s: no thread could be started", uri);
	}
	*device = &nbd->device;
	return 0;
}

/* Both ends of the export in a file, as which device_probe() knows it. */
static int
copy_ends(struct nbd_device *nbd, int fd)
{
	uint64_t size_bytes = nbd->device.size_bytes;
	uint64_t head_bytes = min_u64(PROBE_BYTES, size_bytes);
	uint64_t tail_bytes = min_u64(PROBE_BYTES, size_bytes);
	uint8_t *buffer = xalloc_pages(PROBE_BYTES);
	int rc = ftruncate(fd, (off_t)size_bytes) < 0 ? -errno : 0;

	if (rc == 0)
		rc = nbd_link_transfer(nbd, DEVICE_READ, 0, buffer, head_bytes);
	if (rc == 0 && pwrite(fd, buffer, head_bytes, 0) != (ssize_t)head_bytes)
		rc = -EIO;
	if (rc == 0)
		rc = nbd_link_transfer(
		    nbd, DEVICE_READ, size_bytes - tail_bytes, buffer, tail_bytes);
	if (rc == 0 &&
	    pwrite(fd, buffer, tail_bytes, (off_t)(size_bytes - tail_bytes)) != (ssize_t)tail_bytes)
		rc = -EIO;
	free(buffer);
	return rc;
}

int
nbd_device_probe(const char *uri, char what[PROBE_TEXT_BYTES])
{
	struct error error = { 0 };
	struct nbd_device *nbd;
	char path[64];
	int found, fd;

	what[0] = '\0';
	if (device_new(uri, &nbd, &error))
		return 0; /* opening it says why */
	fd = memfd_create("probe", MFD_CLOEXEC);
	found = fd < 0 ? -errno : copy_ends(nbd, fd);
	if (found == 0) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		found = device_probe(path, what);
	} else {
		snprintf(what, PROBE_TEXT_BYTES, "contents that cannot be read");
	}
	if (fd >= 0)
		close(fd);
	nbd_device_free(nbd);
	return found;
}
