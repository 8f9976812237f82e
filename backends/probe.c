/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our own labels first, by their magic alone: a damaged one is still somebody's data.  Then
 * everything that libblkid knows: filesystems, RAID and LVM members, swap, partition tables.
 */
#include "backends/probe.h"

#include <blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "metadata/format.h"

static int
size_of(int fd, const struct stat *st, uint64_t *size_bytes)
{
	*size_bytes = (uint64_t)st->st_size;
	if (S_ISBLK(st->st_mode) && ioctl(fd, BLKGETSIZE64, size_bytes) < 0)
		return -errno;
	return 0;
}

/* Looks for a label at @offset_bytes. */
static bool
label_at(int fd, uint64_t offset_bytes, char what[PROBE_TEXT_BYTES])
{
	struct label label;
	size_t name_bytes = 0;

	if (pread(fd, &label, sizeof(label), (off_t)offset_bytes) != (ssize_t)sizeof(label) ||
	    memcmp(label.magic, LABEL_MAGIC, sizeof(label.magic)) != 0)
		return false;
	/* The name is what the disk says: shown only as far as it is plain text. */
	while (name_bytes < 64 && label.pool_name[name_bytes] > ' ' &&
	       label.pool_name[name_bytes] < 0x7f && label.pool_name[name_bytes] != '"')
		name_bytes++;
	if (name_bytes)
		snprintf(what, PROBE_TEXT_BYTES, "quarry pool \"%.*s\"", (int)name_bytes,
		    label.pool_name);
	else
		snprintf(what, PROBE_TEXT_BYTES, "quarry pool");
	return true;
}

static bool
find_label(int fd, uint64_t size_bytes, char what[PROBE_TEXT_BYTES])
{
	uint64_t end_bytes = round_down(size_bytes, FORMAT_BLOCK_BYTES);

	if (label_at(fd, FORMAT_LABEL_BLOCK * FORMAT_BLOCK_BYTES, what))
		return true;
	return end_bytes > FORMAT_TAIL_BYTES &&
	       label_at(fd,
		   end_bytes - FORMAT_TAIL_BYTES + FORMAT_TAIL_LABEL_BLOCK * FORMAT_BLOCK_BYTES,
		   what);
}

/* What libblkid found, in words; false: nothing that says what it is. */
static bool
describe(blkid_probe probe, char what[PROBE_TEXT_BYTES])
{
	const char *type = NULL;
	const char *usage = NULL;
	const char *label = NULL;
	const char *kind = "";

	if (blkid_probe_lookup_value(probe, "TYPE", &type, NULL) == 0) {
		(void)blkid_probe_lookup_value(probe, "USAGE", &usage, NULL);
		(void)blkid_probe_lookup_value(probe, "LABEL", &label, NULL);
		if (usage && strcmp(usage, "filesystem") == 0)
			kind = " filesystem";
		else if (usage && strcmp(usage, "raid") == 0)
			kind = " (a member of a RAID or a volume group)";
		else if (usage && strcmp(usage, "crypto") == 0)
			kind = " (encrypted)";
		snprintf(what, PROBE_TEXT_BYTES, "%.32s%s%s%.40s%s", type, kind, label ? " \"" : "",
		    label ? label : "", label ? "\"" : "");
		return true;
	}
	if (blkid_probe_lookup_value(probe, "PTTYPE", &type, NULL) == 0) {
		snprintf(what, PROBE_TEXT_BYTES, "%.32s partition table", type);
		return true;
	}
	return false;
}

static int
find_foreign(int fd, char what[PROBE_TEXT_BYTES])
{
	blkid_probe probe = blkid_new_probe();
	int found = 0;

	if (!probe)
		return -ENOMEM;
	if (blkid_probe_set_device(probe, fd, 0, 0) == 0) {
		(void)blkid_probe_enable_superblocks(probe, 1);
		(void)blkid_probe_set_superblocks_flags(
		    probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL);
		(void)blkid_probe_enable_partitions(probe, 1);
		switch (blkid_do_safeprobe(probe)) {
		case 0:
			found = 1;
			if (!describe(probe, what))
				snprintf(
				    what, PROBE_TEXT_BYTES, "something that libblkid recognises");
			break;
		case 1: /* nothing */
			break;
		case -2:
			found = 1;
			snprintf(what, PROBE_TEXT_BYTES, "signatures of more than one filesystem");
			break;
		default:
			found = -EIO;
			break;
		}
	} else {
		found = -EIO;
	}
	blkid_free_probe(probe);
	return found;
}

int
device_probe(const char *path, char what[PROBE_TEXT_BYTES])
{
	struct stat st;
	uint64_t size_bytes;
	int found;
	int fd;

	what[0] = '\0';
	if (stat(path, &st) < 0) {
		found = -errno;
		if (found == -ENOENT)
			return 0;
		goto out;
	}
	/* Opening a pipe would wait; opening a device may have effects of its own.  What it is, and
	 * that it cannot be used, whoever opens it says. */
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0) {
		found = -errno;
		goto out;
	}
	found = size_of(fd, &st, &size_bytes);
	if (found == 0 && size_bytes > 0)
		found = find_label(fd, size_bytes, what) ? 1 : find_foreign(fd, what);
	close(fd);
out:
	if (found < 0)
		snprintf(
		    what, PROBE_TEXT_BYTES, "contents that cannot be read (%s)", strerror(-found));
	return found;
}
