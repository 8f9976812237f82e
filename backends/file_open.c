/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a file or a block device, so that nobody else can, and saying what is wrong if that
 * fails.
 *
 *   1. look at what is there; make the file if there is none and one was asked for;
 *   2. open it past the page cache, or through it if the filesystem cannot otherwise;
 *   3. claim it: O_EXCL keeps mounts, md, device mapper and other openers away from a block device;
 *      flock keeps other daemons away from a file (and from a block device's alias);
 *   4. ask for its size and what it can do.
 *
 * A file that was made here is removed again if a later step fails, or the pool that it was made
 * for comes to nothing (device.made); a crash between making it and its first use leaves an empty
 * pool file, which is sparse and takes no room.
 */
#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "backends/file_internal.h"
#include "core/base/diag.h"
#include "core/base/process.h"

/* --- who has it: read from /proc and /sys, for the operator only --- */

static bool
mount_point_of(dev_t device, char *where, size_t where_bytes)
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t line_bytes = 0;
	bool found = false;

	if (!mounts)
		return false;
	while (!found && getline(&line, &line_bytes, mounts) > 0) {
		unsigned int major_number;
		unsigned int minor_number;
		char path[200];

		if (sscanf(line, "%*d %*d %u:%u %*s %199s", &major_number, &minor_number, path) ==
			3 &&
		    makedev(major_number, minor_number) == device) {
			snprintf(where, where_bytes, "mounted on %.100s", path);
			found = true;
		}
	}
	free(line);
	fclose(mounts);
	return found;
}

static bool
stacked_device_of(dev_t device, char *which, size_t which_bytes)
{
	char path[64];
	struct dirent *entry;
	DIR *holders;
	bool found = false;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/holders", major(device), minor(device));
	holders = opendir(path);
	if (!holders)
		return false;
	while (!found && (entry = readdir(holders))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(which, which_bytes, "part of %.100s", entry->d_name);
		found = true;
	}
	closedir(holders);
	return found;
}

/* The process that holds the lock on the file; 0: it cannot be found. */
static int
lock_holder(const struct stat *st)
{
	FILE *locks = fopen("/proc/locks", "re");
	char *line = NULL;
	size_t line_bytes = 0;
	int holder = 0;

	if (!locks)
		return 0;
	while (!holder && getline(&line, &line_bytes, locks) > 0) {
		unsigned int major_number;
		unsigned int minor_number;
		unsigned long inode;
		int pid;

		if (sscanf(line, "%*d: FLOCK %*s %*s %d %x:%x:%lu", &pid, &major_number,
			&minor_number, &inode) == 4 &&
		    inode == st->st_ino && makedev(major_number, minor_number) == st->st_dev)
			holder = pid;
	}
	free(line);
	fclose(locks);
	return holder;
}

static bool
process_that_locked(const struct stat *st, char *who, size_t who_bytes)
{
	int holder = lock_holder(st);

	if (holder == getpid())
		snprintf(who, who_bytes, "already open in this daemon");
	else if (holder)
		snprintf(who, who_bytes, "locked by process %d", holder);
	return holder != 0;
}

/*
 * Locks the file.  The kernel ends the requests of a process that was killed, and with them its
 * lock, some time after the process: so while the holder is dead, this waits (nothing tells when it
 * is over; we are in a thread of our own).
 */
static int
claim(int fd, const struct stat *st)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };

	for (unsigned tries = 0; tries < 1000; tries++) {
		int holder;

		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK)
			return -errno;
		holder = lock_holder(st);
		if (holder == getpid() || (holder && !process_is_gone(holder)))
			return -EBUSY;
		nanosleep(&pause, NULL);
	}
	return -EBUSY;
}

static int
busy(const char *path, const struct stat *st, struct error *error)
{
	char by[128];

	if (S_ISBLK(st->st_mode)) {
		if (!mount_point_of(st->st_rdev, by, sizeof(by)) &&
		    !stacked_device_of(st->st_rdev, by, sizeof(by)) &&
		    !process_that_locked(st, by, sizeof(by)))
			snprintf(by, sizeof(by),
			    "something has claimed it: a mount of it or of one of its "
			    "partitions, RAID, LVM, or another daemon");
	} else if (!process_that_locked(st, by, sizeof(by))) {
		snprintf(by, sizeof(by), "another process has locked it");
	}
	return error_set(error, -EBUSY, "%s is in use: %s", path, by);
}

/* --- making a file --- */

static int
sync_folder_of(const char *path)
{
	char *copy = xstrdup(path);
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = 0;

	free(copy);
	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0)
		rc = -errno;
	close(fd);
	return rc;
}

static int
make_file(const char *path, uint64_t size_bytes, struct error *error)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int rc = 0;

	if (fd < 0)
		return error_set(error, -errno, "cannot create %s: %s", path, strerror(errno));
	if (ftruncate(fd, (off_t)size_bytes) < 0 || fsync(fd) < 0)
		rc = -errno;
	close(fd);
	if (rc == 0)
		rc = sync_folder_of(path);
	if (rc < 0) {
		unlink(path);
		return error_set(error, rc, "cannot make %s %llu bytes long: %s", path,
		    (unsigned long long)size_bytes, strerror(-rc));
	}
	return 0;
}

/* Steps 1: @made says that the file is ours to remove again. */
static int
find_or_make(
    const char *path, uint64_t new_file_bytes, struct stat *st, bool *made, struct error *error)
{
	*made = false;
	if (stat(path, st) < 0) {
		if (errno != ENOENT)
			return error_set(error, -errno, "%s: %s", path, strerror(errno));
		if (lstat(path, st) == 0)
			return error_set(
			    error, -ENOENT, "%s is a symbolic link to what does not exist", path);
		if (new_file_bytes == 0)
			return error_set(error, -ENOENT,
			    "%s does not exist (with a size, pool create makes a new file)", path);
		int rc = make_file(path, round_down(new_file_bytes, BLOCK_BYTES), error);
		if (rc < 0)
			return rc;
		*made = true;
		if (stat(path, st) < 0)
			return error_set(error, -errno, "%s: %s", path, strerror(errno));
	}
	if (S_ISDIR(st->st_mode))
		return error_set(error, -EINVAL, "%s is a directory", path);
	if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
		return error_set(error, -EINVAL, "%s is neither a file nor a block device", path);
	return 0;
}

/* --- opening and claiming --- */

/* Whether whole blocks can go past the page cache; filesystems that do not say are believed. */
static bool
takes_direct_blocks(int fd)
{
#ifdef STATX_DIOALIGN
	struct statx stx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
	    (stx.stx_mask & STATX_DIOALIGN))
		return stx.stx_dio_offset_align != 0 && stx.stx_dio_offset_align <= BLOCK_BYTES &&
		       stx.stx_dio_mem_align <= BLOCK_BYTES;
#endif
	return true;
}

/* Returns a descriptor or a negative errno value. */
static int
open_cached(const char *path, int flags, enum file_cache cache)
{
	int fd = -1;

	if (cache == FILE_CACHE_DIRECT) {
		fd = open(path, flags | O_DIRECT);
		if (fd >= 0 && takes_direct_blocks(fd))
			return fd;
		if (fd < 0 && errno != EINVAL)
			return -errno;
		if (fd >= 0)
			close(fd);
		diag_warning(
		    "%s: no direct I/O in blocks of %u bytes here; going through the page cache",
		    path, BLOCK_BYTES);
	}
	fd = open(path, flags);
	return fd < 0 ? -errno : fd;
}

/* Steps 2 and 3.  Returns a descriptor or a negative errno value. */
static int
open_and_claim(const char *path, enum file_cache cache, struct stat *st, struct error *error)
{
	int flags = O_RDWR | O_CLOEXEC | O_NOCTTY | (S_ISBLK(st->st_mode) ? O_EXCL : 0);
	mode_t type = st->st_mode & S_IFMT;
	int fd = open_cached(path, flags, cache);
	int rc;

	if (fd == -EBUSY)
		return busy(path, st, error);
	if (fd < 0)
		return error_set(error, fd, "cannot open %s: %s", path, strerror(-fd));
	if (fstat(fd, st) < 0 || (st->st_mode & S_IFMT) != type) {
		rc = error_set(error, -EINVAL, "%s was replaced while it was opened", path);
		goto err_close;
	}
	rc = claim(fd, st);
	if (rc) {
		rc = rc == -EBUSY ? busy(path, st, error)
				  : error_set(error, rc, "cannot lock %s: %s", path, strerror(-rc));
		goto err_close;
	}
	return fd;

err_close:
	close(fd);
	return rc;
}

/* --- what it can do --- */

uint64_t
file_size_bytes(const struct file_device *file)
{
	uint64_t size_bytes = 0;
	struct stat st;

	if (file->block_device)
		(void)ioctl(file->fd, BLKGETSIZE64, &size_bytes);
	else if (fstat(file->fd, &st) == 0)
		size_bytes = (uint64_t)st.st_size;
	return round_down(size_bytes, BLOCK_BYTES);
}

static int
block_device_query(struct file_device *file, struct error *error)
{
	const char *path = file->device.name;
	unsigned int logical_block_bytes = 512;
	uint64_t size_bytes;
	int readonly = 0;

	if (ioctl(file->fd, BLKGETSIZE64, &size_bytes) < 0)
		return error_set(error, -errno, "%s: size: %s", path, strerror(errno));
	if (ioctl(file->fd, BLKROGET, &readonly) == 0 && readonly)
		return error_set(error, -EROFS, "%s is read-only", path);
	if (ioctl(file->fd, BLKSSZGET, &logical_block_bytes) == 0 &&
	    logical_block_bytes > BLOCK_BYTES)
		return error_set(error, -ENOTSUP, "%s has sectors of %u bytes, more than %u", path,
		    logical_block_bytes, BLOCK_BYTES);
	file->device.size_bytes = round_down(size_bytes, BLOCK_BYTES);
	file->device.prepare_space = false;
	return 0;
}

/* Whether the disk's queue says so.  A partition has no queue of its own; its disk has. */
static bool
disk_says(dev_t disk, const char *what)
{
	static const char *const places[] = { "queue", "../queue" };

	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		unsigned long long value;
		char path[96];
		FILE *file;
		bool known;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(disk), minor(disk),
		    places[i], what);
		file = fopen(path, "re");
		if (!file)
			continue;
		known = fscanf(file, "%llu", &value) == 1;
		fclose(file);
		if (known)
			return value > 0;
	}
	return false;
}

/* Tried behind the end, where there is nothing to lose. */
static bool
filesystem_punches_holes(int fd, uint64_t size_bytes)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		   (off_t)round_up(size_bytes, BLOCK_BYTES), BLOCK_BYTES) == 0;
}

/* Step 4. */
static int
query(struct file_device *file, const struct stat *st, bool discard, struct error *error)
{
	if (file->block_device) {
		int rc = block_device_query(file, error);

		if (rc < 0)
			return rc;
		file->device.gives_back = discard && disk_says(st->st_rdev, "discard_max_bytes");
		file->discard_in_ring = true;
	} else {
		file->device.size_bytes = round_down((uint64_t)st->st_size, BLOCK_BYTES);
		file->device.prepare_space = true;
		file->device.gives_back =
		    discard && filesystem_punches_holes(file->fd, (uint64_t)st->st_size);
	}
	/* Of a file: what its filesystem lies on, if that is a disk. */
	file->device.rotational =
	    disk_says(file->block_device ? st->st_rdev : st->st_dev, "rotational");
	if (file->device.size_bytes == 0)
		return error_set(error, -EINVAL, "%s is empty", file->device.name);
	return 0;
}

/* Step 5. */
static int
preallocate(struct file_device *file, struct error *error)
{
	uint64_t size_bytes = file->device.size_bytes;

	if (file->block_device)
		return 0;
	if (fallocate(file->fd, 0, 0, (off_t)size_bytes) != 0)
		return error_set(error, -errno, "%s: cannot allocate %llu bytes: %s",
		    file->device.name, (unsigned long long)size_bytes, strerror(errno));
	file->device.preallocated = true;
	return 0;
}

int
file_device_open(const char *path, const struct file_device_options *options,
    struct reactor *reactor, struct device **device, struct error *error)
{
	struct file_device *file;
	struct stat st;
	bool made;
	int rc;

	*device = NULL;
	rc = find_or_make(path, options->new_file_bytes, &st, &made, error);
	if (rc < 0)
		goto err_remove;
	file = xcalloc(1, sizeof(*file));
	file->device.ops = &file_device_ops;
	file->device.reactor = reactor;
	file->device.name = xstrdup(path);
	file->block_device = S_ISBLK(st.st_mode);
	list_init(&file->discards);
	rc = open_and_claim(path, options->cache, &st, error);
	if (rc < 0)
		goto err_free;
	file->fd = rc;
	rc = query(file, &st, options->discard, error);
	if (rc == 0 && options->preallocate)
		rc = preallocate(file, error);
	if (rc < 0)
		goto err_close;
	file->device.made = made;
	*device = &file->device;
	return 0;

err_close:
	close(file->fd);
err_free:
	free(file->device.name);
	free(file);
err_remove:
	if (made && rc != -EBUSY) /* busy: somebody found it in the meantime */
		unlink(path);
	return rc;
}
