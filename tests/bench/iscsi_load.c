/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load on one iSCSI unit, with libiscsi: iscsi-load URL JOB BLOCK_BYTES DEPTH SECONDS
 *
 *   read      random READ(16)
 *   write     random WRITE(16)
 *   sync      random WRITE(16), each followed by SYNCHRONIZE CACHE(10); a pair counts once
 *   fill      sequential WRITE(16) from the beginning to the end of the unit, SECONDS does not
 * count
 *
 * One connection, one thread.  Prints what was done and how long it took: "COUNT SECONDS".
 */
#include <err.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#define PATTERN_BYTES (1 << 20)

enum job {
	JOB_READ,
	JOB_WRITE,
	JOB_SYNC,
	JOB_FILL,
};

static struct {
	struct iscsi_context *iscsi;
	int lun;
	enum job job;
	uint32_t block_bytes;     /* of a request */
	uint32_t lba_bytes;       /* of the unit */
	uint64_t requests_in_lun; /* places of block_bytes */
	uint64_t next;            /* JOB_FILL */
	uint64_t random;
	uint64_t done;
	double end;
	unsigned in_flight;
	uint8_t pattern[PATTERN_BYTES];
} load;

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t
random_number(void)
{
	load.random ^= load.random << 13;
	load.random ^= load.random >> 7;
	load.random ^= load.random << 17;
	return load.random;
}

static void begin(void);

static void
check(int status, void *task)
{
	if (status != SCSI_STATUS_GOOD)
		errx(1, "a command failed: %s", iscsi_get_error(load.iscsi));
	scsi_free_scsi_task(task);
}

static void
was_done(struct iscsi_context *iscsi, int status, void *task, void *private_data)
{
	check(status, task);
	load.done++;
	load.in_flight--;
	begin();
}

static void
was_written(struct iscsi_context *iscsi, int status, void *task, void *private_data)
{
	check(status, task);
	if (!iscsi_synchronizecache10_task(iscsi, load.lun, 0, 0, 0, 0, was_done, NULL))
		errx(1, "SYNCHRONIZE CACHE: %s", iscsi_get_error(iscsi));
}

/* The next request, if there is to be one. */
static void
begin(void)
{
	uint64_t place = load.next;
	uint32_t bytes = load.block_bytes;
	uint8_t *data = load.pattern + random_number() % (PATTERN_BYTES - bytes) / 8 * 8;
	struct scsi_task *task;
	uint64_t lba;

	if (load.job == JOB_FILL ? load.next == load.requests_in_lun : now() >= load.end)
		return;
	if (load.job == JOB_FILL)
		load.next++;
	else
		place = random_number() % load.requests_in_lun;
	lba = place * (bytes / load.lba_bytes);
	if (load.job == JOB_READ)
		task = iscsi_read16_task(load.iscsi, load.lun, lba, bytes, (int)load.lba_bytes, 0,
		    0, 0, 0, 0, was_done, NULL);
	else
		task =
		    iscsi_write16_task(load.iscsi, load.lun, lba, data, bytes, (int)load.lba_bytes,
			0, 0, 0, 0, 0, load.job == JOB_SYNC ? was_written : was_done, NULL);
	if (!task)
		errx(1, "%s", iscsi_get_error(load.iscsi));
	load.in_flight++;
}

static void
connect_to(const char *text)
{
	struct iscsi_url *url;
	struct scsi_task *task;
	struct scsi_readcapacity16 *capacity;

	load.iscsi = iscsi_create_context("iqn.2026-11.io.quarry:load");
	url = load.iscsi ? iscsi_parse_full_url(load.iscsi, text) : NULL;
	if (!url)
		errx(1, "\"%s\" is no iscsi:// URL with a target and a LUN", text);
	load.lun = url->lun;
	iscsi_set_targetname(load.iscsi, url->target);
	iscsi_set_session_type(load.iscsi, ISCSI_SESSION_NORMAL);
	if (iscsi_full_connect_sync(load.iscsi, url->portal, url->lun))
		errx(1, "%s: %s", text, iscsi_get_error(load.iscsi));
	iscsi_destroy_url(url);
	task = iscsi_readcapacity16_sync(load.iscsi, load.lun);
	capacity = task && task->status == SCSI_STATUS_GOOD ? scsi_datain_unmarshall(task) : NULL;
	if (!capacity)
		errx(1, "READ CAPACITY(16): %s", iscsi_get_error(load.iscsi));
	load.lba_bytes = capacity->block_length;
	load.requests_in_lun =
	    (capacity->returned_lba + 1) * capacity->block_length / load.block_bytes;
	scsi_free_scsi_task(task);
}

static enum job
job_of(const char *text)
{
	static const char *const names[] = { "read", "write", "sync", "fill" };

	for (unsigned i = 0; i < 4; i++)
		if (strcmp(text, names[i]) == 0)
			return (enum job)i;
	errx(1, "\"%s\" is no job", text);
}

int
main(int argc, char **argv)
{
	double started;
	unsigned depth;

	if (argc != 6)
		errx(1, "usage: iscsi-load URL read|write|sync|fill BLOCK_BYTES DEPTH SECONDS");
	load.job = job_of(argv[2]);
	load.block_bytes = (uint32_t)atoi(argv[3]);
	depth = (unsigned)atoi(argv[4]);
	load.random = (uint64_t)(now() * 1e9) | 1;
	for (unsigned i = 0; i < PATTERN_BYTES; i++)
		load.pattern[i] = (uint8_t)random_number();
	connect_to(argv[1]);
	started = now();
	load.end = started + atof(argv[5]);
	for (unsigned i = 0; i < depth; i++)
		begin();
	while (load.in_flight) {
		struct pollfd fd = { .fd = iscsi_get_fd(load.iscsi),
			.events = (short)iscsi_which_events(load.iscsi) };

		if (poll(&fd, 1, 5000) <= 0)
			errx(1, "no answer for 5 seconds");
		if (iscsi_service(load.iscsi, fd.revents) < 0)
			errx(1, "the connection: %s", iscsi_get_error(load.iscsi));
	}
	printf("%lu %.6f\n", (unsigned long)load.done, now() - started);
	iscsi_logout_sync(load.iscsi);
	iscsi_destroy_context(load.iscsi);
	return 0;
}
