/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target without a daemon: one plain reactor, and memory disks that are found by a path.  A disk
 * outlives its devices, so a pool can be exported and imported again.
 */
#ifndef QUARRY_TESTS_TARGET_WORLD_H
#define QUARRY_TESTS_TARGET_WORLD_H

#include "backends/fault.h"
#include "core/pool_sync.h"

#define WORLD_DISKS_MAX 130u

struct world {
	struct reactor reactor;
	struct reactor *reactors[1];
	struct target *target;
	struct target_backend backend;
	struct {
		char path[32];
		struct memory_disk *disk;
		struct device *device; /* the last one that was opened: closed, perhaps */
		bool busy;             /* somebody else has it */
		const char *holds;     /* what a probe finds; NULL: nothing */
		int fails_write; /* the n-th write after it is opened, and all later ones; 0: none
				  */
		int fails_flush; /* likewise */
	} disks[WORLD_DISKS_MAX];
	unsigned disk_count;
};

struct world *world_new(void);
/* Shuts the target down. */
void world_free(struct world *world);
/* A disk at @path; returns its index. */
unsigned world_disk(struct world *world, const char *path, uint64_t size_bytes);

/* The request that the administrator would make; @volume may be NULL, or "volume@snapshot". */
struct admin_request world_request(enum admin_verb verb, const char *pool, const char *volume);
/* Paths, separated by blanks. */
void world_devices(struct admin_request *request, const char *paths);
void world_names(struct admin_request *request, const char *names);
/* Makes it, frees it, and returns the error; its text is in world_error. */
int world_admin(struct world *world, struct admin_request *request);
extern struct error world_error;

int world_create(struct world *world, const char *pool, const char *paths);
int world_import(struct world *world, const char *paths);
/* A verb with names alone, by force or not. */
int world_do(struct world *world, enum admin_verb verb, bool force, const char *pool,
    const char *volume, const char *target);

/* NULL: world_error. */
struct volume *client_open(
    struct world *world, const char *pool, const char *volume, bool readonly);
void client_close(struct world *world, struct volume *volume);
int client_write(struct world *world, struct volume *volume, uint64_t offset_bytes,
    uint64_t len_bytes, uint8_t fill);
/* What is there; -1: the read failed, or bytes differ. */
int client_read(
    struct world *world, struct volume *volume, uint64_t offset_bytes, uint64_t len_bytes);

#endif
