/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target: the pools of one daemon, and the requests that frontends and the administrator make
 * of them by name.
 *
 * All functions may be called on any reactor of the daemon; done() runs on the calling reactor.
 */
#ifndef QUARRY_CORE_TARGET_H
#define QUARRY_CORE_TARGET_H

#include "core/volume.h"
#include "metadata/export.h"
#include "metadata/format.h"

struct pool;
struct target;

/* --- handles and names, for protocol frontends --- */

struct target_open {
	struct name name;    /* pool/volume or pool/volume@snapshot */
	bool readonly;       /* asked for: no writes through this handle */
	const char *client;  /* for the operator ("nbd 127.0.0.1:4711"); valid until done */
	enum note_kind note; /* the handle is to have a copy of it (volume_note()); 0: none */
	void (*done)(struct target_open *op);
	int error;             /* -ENOENT, -ESHUTDOWN … */
	struct volume *volume; /* if error is 0 */
	/* private */
	struct task task;
	struct reactor *origin;
	struct target *target;
	struct pool *pool;
};
void target_open(struct target *target, struct target_open *op);

/* One export of a volume.  Holds secrets. */
struct target_export {
	struct name name;
	struct export item;
};

/* The names of everything that can be opened: volumes, and snapshots if asked for, sorted. */
struct target_names {
	bool snapshots;
	bool with_exports;
	void (*done)(struct target_names *op);
	struct name *names;
	size_t count;
	struct target_export *exports;
	size_t export_count;
	/* private */
	struct task task;
	struct reactor *origin;
	struct target *target;
	struct pool *pool;
	size_t next_pool;
};
void target_names(struct target *target, struct target_names *op);
/* Frees the results. */
void target_names_fini(struct target_names *op);

/* Changes whenever exports may have; on any thread. */
uint64_t target_exports_generation(const struct target *target);

/* --- administration --- */

enum admin_verb {
	ADMIN_POOL_CREATE,    /* name.pool, devices[], new_file_bytes, preallocate, copies, force */
	ADMIN_POOL_IMPORT,    /* devices[] (every device of one or several pools), force */
	ADMIN_POOL_EXPORT,    /* name.pool, force: even with clients connected */
	ADMIN_POOL_DESTROY,   /* name.pool, force: even with volumes or clients */
	ADMIN_DEVICE_ADD,     /* name.pool, devices[], new_file_bytes, preallocate, force */
	ADMIN_DEVICE_REMOVE,  /* name.pool, device; stop: it stays after all */
	ADMIN_DEVICE_REPLACE, /* name.pool, device, devices[1], new_file_bytes, preallocate, force
			       */
	ADMIN_DEVICE_OFFLINE, /* name.pool, device: it is not to be used for now */
	ADMIN_DEVICE_ONLINE,  /* name.pool, devices[1]: one that is out of use comes back */
	ADMIN_DEVICE_GROW,    /* name.pool, device: it is larger than it was */
	ADMIN_VOLUME_CREATE,  /* name, size_bytes, reserved, block_bytes */
	ADMIN_VOLUME_RESIZE,  /* name, size_bytes, force: shrink */
	ADMIN_VOLUME_RENAME,  /* name, target (same pool) */
	ADMIN_VOLUME_DELETE,  /* name, force: with its snapshots, and even with clients connected */
	ADMIN_VOLUME_SET,     /* name, and the properties in `set` */
	ADMIN_EXPORT_ADD,     /* name, export; without export_has_lun the first free LUN */
	ADMIN_EXPORT_REMOVE,  /* name; export_has_target: only of export->target */
	ADMIN_SNAPSHOT_CREATE, /* names[]: all of one pool, one atomic point */
	ADMIN_SNAPSHOT_DELETE, /* names[] */
	ADMIN_CLONE,           /* name (a snapshot), target (a new volume of the same pool) */
	ADMIN_ROLLBACK,        /* name (a snapshot): the volume becomes as it was then */
	ADMIN_DIFF,            /* name, target: changed ranges, from name to target */
	ADMIN_POOL_SET,        /* name.pool, warn_percent */
	ADMIN_POOL_REBALANCE,  /* name.pool, stop */
	ADMIN_SCRUB_START,     /* name.pool: begins, or goes on where it was paused */
	ADMIN_SCRUB_PAUSE,     /* name.pool */
	ADMIN_LIST,            /* name.pool or "" for all: report */
	/* of frontends, not of the administrator: */
	ADMIN_NOTE_SET, /* name.pool, uuid (of the volume), note, note_bytes */
	/* of the pool itself: */
	ADMIN_DEVICE_FORGET, /* device_index, device_kind; see core/device_remove.h */
	/* of the target, before ADMIN_DEVICE_ONLINE: */
	ADMIN_DEVICE_PREPARE, /* device: a path */
};

/* What ADMIN_VOLUME_SET may change; the others stay as they are. */
enum admin_volume_property {
	ADMIN_SET_READONLY = 1,
	ADMIN_SET_ON_FULL = 2,
	ADMIN_SET_ON_FULL_TIMEOUT = 4,
	ADMIN_SET_RESERVE = 8,
	ADMIN_SET_BLOCK_SIZE = 16,
};

struct admin_range {
	uint64_t offset_bytes;
	uint64_t len_bytes;
	bool hole; /* in the newer image the range reads as zeroes */
};

struct admin_device_report {
	char *path;
	struct uuid uuid;
	uint64_t size_bytes;
	uint64_t slab_count;
	uint64_t slabs_free;
	bool missing;    /* then path is the last known one, or empty */
	bool left_out;   /* it failed, and what it holds is old */
	bool stalled;    /* it has not answered for long, and is waited for */
	bool offline;    /* as that, but it was asked for */
	bool returning;  /* it comes back, and does not count yet */
	uint64_t errors; /* I/O and checksum errors since import */
	uint64_t healed; /* blocks that were written again from a copy since import */
	bool leaving;    /* it is being removed, and holds so much: */
	uint64_t left_bytes;
	uint64_t done_permille; /* since the removal, or the import, began */
	uint64_t left_s;        /* 0: not known */
};

enum admin_image_kind {
	ADMIN_IMAGE_VOLUME,
	ADMIN_IMAGE_SNAPSHOT
};

struct admin_image_report {
	enum admin_image_kind kind;
	struct name name;
	struct uuid uuid;
	struct name origin; /* of a clone: the snapshot it was made of; else pool is empty */
	uint64_t size_bytes;
	uint32_t block_bytes;  /* logical blocks: 512 or 4096 */
	uint64_t used_bytes;   /* mapped by this image */
	uint64_t unique_bytes; /* would be freed if this image alone were deleted */
	bool unique_known;
	uint64_t created_s; /* seconds since 1970, UTC */
	bool readonly;
	bool pauses_when_full;   /* a volume's writes that find no room wait ... */
	uint32_t full_timeout_s; /* ... so long at most; 0: no limit */
	uint32_t waiting;        /* writes that wait for room now */
	bool reserved;           /* room for all of it is held back: */
	uint64_t reserved_bytes; /* ... what is not written yet, with its maps */
	uint32_t clients;
	struct export_list exports; /* without their secrets */
};

/* A damaged block that a scrub found. */
struct admin_damage_report {
	char *device;
	uint64_t offset_bytes; /* on the device */
	struct name name;      /* a volume that has the block, or had it; pool empty: not known */
	uint64_t at_bytes;     /* in the volume */
};

struct admin_scrub_report {
	const char *state; /* "never", "running", "paused", "done" */
	uint64_t started_s;
	uint64_t ended_s;
	uint64_t done_permille;
	uint64_t left_s; /* 0: not known */
	uint64_t checked_bytes;
	uint64_t damaged_blocks;
	uint64_t unverified_blocks;
	uint64_t healed_blocks;
	struct admin_damage_report *damage; /* the first 100 since the import */
	size_t damage_count;
};

struct admin_pool_report {
	char name[NAME_SIZE];
	struct uuid uuid;
	const char *state; /* "online", "degraded", "readonly", "failed", "incomplete" */
	char state_reason[256];
	uint32_t copies;            /* of each block, on as many devices */
	uint64_t size_bytes;        /* of all slabs; of as many as hold a copy each */
	uint64_t allocated_bytes;   /* in slabs that are not free */
	uint64_t live_bytes;        /* live blocks, data and maps */
	uint64_t available_bytes;   /* what volumes may still write */
	uint64_t usable_bytes;      /* what can be live at most */
	uint64_t provisioned_bytes; /* the sizes of all volumes */
	uint64_t reserved_bytes;    /* held back for reserved volumes */
	unsigned full_percent;      /* of usable_bytes */
	unsigned warn_percent[2];   /* it warns from then on */
	uint64_t checkpoint;
	uint64_t deleting; /* images whose space is being freed in the background */
	uint64_t deleting_done_permille;
	bool relocating;
	uint64_t relocated_bytes;     /* since the import */
	uint64_t relocation_permille; /* the share of the time that it takes */
	bool balancing;               /* devices give to others, so that all are as full */
	uint64_t balance_left_bytes;
	uint64_t balance_done_permille;
	uint64_t balance_left_s;   /* 0: not known */
	uint64_t unprepared_bytes; /* space of files that is yet to be written in advance */
	bool checkpoint_running;
	struct admin_scrub_report scrub;
	struct admin_device_report *devices;
	size_t device_count;
	struct admin_image_report
	    *images; /* each volume, followed by its snapshots, oldest first */
	size_t image_count;
};

struct admin_request {
	enum admin_verb verb;
	struct name name;
	struct name target;
	struct name *names;
	size_t name_count;
	char **devices; /* paths */
	size_t device_count;
	char *device; /* of the pool: a path, URI or UUID */
	bool stop;    /* DEVICE_REMOVE, POOL_REBALANCE */
	uint32_t device_index;
	unsigned device_kind;
	uint64_t new_file_bytes; /* POOL_CREATE: files that do not exist are made this long; 0:
				    refused */
	uint64_t size_bytes;
	uint64_t created_s; /* SNAPSHOT_CREATE, VOLUME_CREATE …: the present time */
	unsigned set;       /* VOLUME_SET: enum admin_volume_property */
	bool readonly;
	bool pauses_when_full;
	uint32_t full_timeout_s;
	bool reserved;           /* VOLUME_CREATE, VOLUME_SET */
	uint32_t block_bytes;    /* ...: 512 or 4096; 0: 512 */
	bool preallocate;        /* POOL_CREATE, DEVICE_ADD */
	uint32_t copies;         /* POOL_CREATE; 0: one */
	uint8_t warn_percent[2]; /* POOL_SET: 1 to 100, growing */
	bool force;
	bool dry_run;          /* POOL_DESTROY, VOLUME_RESIZE, VOLUME_DELETE, EXPORT_REMOVE,
				* SNAPSHOT_DELETE, ROLLBACK: everything is checked, and nothing done */
	struct export *export; /* EXPORT_…: from malloc; cleared and freed by admin_request_fini */
	bool export_has_lun;
	bool export_has_target;
	struct uuid uuid;
	enum note_kind note;
	uint8_t *note_bytes; /* from malloc; NULL: no such note any more */
	size_t note_len_bytes;
	void (*done)(struct admin_request *request);
	/* result */
	struct error error;
	char *would;                     /* dry_run: "delete volume tank/vm1" …, from malloc */
	struct admin_pool_report *pools; /* LIST; freed by admin_request_fini */
	size_t pool_count;
	struct admin_range *ranges; /* DIFF; neighbours are merged */
	size_t range_count;
	/* private */
	struct task task;
	struct reactor *origin;
	struct target *home;
	struct device **opened; /* DEVICE_ADD, DEVICE_REPLACE, DEVICE_ONLINE: device_count of them;
				 * those that are taken become NULL */
	void *state;
};

void target_admin(struct target *target, struct admin_request *request);

/* Frees what the request owns: inputs (names, devices) and results, all from malloc. */
void admin_request_fini(struct admin_request *request);

/* --- for the daemon --- */

/* How the target gets at devices; the daemon fills it, so that core knows no backend. */
struct target_backend {
	/* Opens (creates, if @new_file_bytes and it does not exist) what @path names, and allocates
	 * all space of a file if asked to: blocking, called in an offload thread.  -EBUSY: somebody
	 * has it; says why in @error. */
	int (*open)(struct target_backend *backend, const char *path, uint64_t new_file_bytes,
	    bool preallocate, struct reactor *reactor, struct device **device, struct error *error);
	/* What the device holds that must not be overwritten by accident ("ext4 filesystem",
	 * "quarry pool"…): 0 nothing, 1 something, told in @what.  Blocking. */
	int (*probe)(struct target_backend *backend, const char *path, char what[128]);
	/* -EINVAL and a text: two of @paths are the same device.  Blocking. */
	int (*check_distinct)(char *const *paths, size_t count, struct error *error);
};

struct target_config {
	uint64_t node_cache_bytes; /* per pool */
	uint32_t stall_timeout_s;  /* see struct pool_config */
	struct target_backend *backend;
	struct reactor **reactors; /* pools are spread over them; [0] is the home of the target */
	size_t reactor_count;
};

struct target *target_create(const struct target_config *config);

/* Exports all pools (checkpoint, close); @done runs on reactor 0.  Then target_free(). */
void target_shutdown(struct target *target, struct task *done);
void target_free(struct target *target);

#endif
