/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulator: the engine's real code on memory devices, on one thread and a virtual clock, where
 * everything that happens follows from one 64-bit seed.
 *
 *   sim_main.c      options
 *   sim_seeds.c     many seeds, a process for each; sim_mutants.c, sim_minimise.c build on it
 *   sim_run.c       the lives of a pool: create, work, crash or stop, import, compare, …, empty
 *   sim_work.c      the workload: which operations come, and in which weather
 *   sim_io.c        the clients and their requests; sim_seen.c: what of them the log carries;
 *                   sim_judge.c: which answers are right
 *   sim_admin.c     the administrator
 *   sim_faults.c    devices that misbehave, and what may be lost then
 *   sim_history.c   what the log carried, batch by batch, seen at batch_apply(): the order in which
 *                   everything took effect, and so what a crash may leave
 *   sim_model.c     the reference: an array of blocks for each image
 *   sim_devices.c   pools that get more devices, or larger ones, and lose some
 *   sim_walk.c      reads the pool from the disks by itself: reachability, contents, counters
 *
 * How a crash is judged: `history.records` has each batch since the state that is surely durable,
 * in the order of the log, those in flight at the crash included.  Recovery says up to which batch
 * it came (it calls batch_apply() too); that must be no less than what was promised (flushes, FUA,
 * administration; after a process kill all that was answered), every batch that it takes must be
 * the one that was written, and the pool must then be equal, in every byte of every image, to the
 * model after that batch.  So what survives is a prefix across all volumes at once.
 *
 * A simulation is a process: a crash abandons the memory of the pool that died.
 */
#ifndef QUARRY_TESTS_SIM_H
#define QUARRY_TESTS_SIM_H

#include "backends/fault.h"
#include "backends/memory.h"
#include "core/pool_admin.h"
#include "core/pool_internal.h"

#define SIM_DEVICES_MAX 3u

/* --- chance --- */

struct random {
	uint64_t state;
};

static inline uint64_t
random_next(struct random *random)
{
	random->state += 0x9e3779b97f4a7c15ull;
	return mix64(random->state);
}

/* 0 <= result < @n. */
static inline uint64_t
random_below(struct random *random, uint64_t n)
{
	return random_next(random) % n;
}

static inline bool
random_one_in(struct random *random, uint64_t n)
{
	return random_below(random, n) == 0;
}

/* --- the model --- */

struct content {
	uint32_t references;
	uint8_t bytes[BLOCK_BYTES];
};

/* NULL stands for a hole everywhere. */
struct content *content_get(struct content *content);
void content_put(struct content *content);
const uint8_t *content_bytes(const struct content *content);

struct model_image {
	struct table blocks; /* lba + 1 -> struct content: what is mapped */
};

struct model_snapshot {
	struct list link;
	char name[NAME_SIZE];
	uint64_t id; /* the engine's, of the image; 0: not known */
	uint64_t size_bytes;
	struct model_image image;
};

struct model_volume {
	struct list link;
	char name[NAME_SIZE];
	uint64_t id;      /* the engine's; 0: not known */
	uint64_t head_id; /* of its head image */
	uint64_t size_bytes;
	bool readonly;
	bool large_blocks;
	uint64_t note_bytes; /* of NOTE_RESERVATIONS, of which nothing else is looked at */
	uint32_t note_crc;
	struct model_image image;
	struct list snapshots;
	/* When these last changed, for judging errors. */
	uint64_t size_sequence;
	uint64_t readonly_sequence;
	bool reserved;              /* room for all of it is held back ... */
	uint64_t reserved_sequence; /* ... since then */
};

struct model {
	struct list volumes;
	uint64_t sequence; /* of the last batch that it contains */
};

struct model *model_create(void);
void model_free(struct model *model);
struct model *model_copy(const struct model *model);
struct model_volume *model_find(const struct model *model, const char *name);
struct model_volume *model_by_id(const struct model *model, uint64_t id);
struct model_volume *model_by_head(const struct model *model, uint64_t head_id);
struct model_snapshot *model_find_snapshot(const struct model_volume *volume, const char *name);
unsigned model_volume_count(const struct model *model);
struct content *model_get(const struct model_image *image, uint64_t lba);
/* Takes no reference of its own of @content beyond what it keeps; NULL makes a hole. */
void model_set(struct model_image *image, uint64_t lba, struct content *content);
void model_zero(struct model_image *image, uint64_t lba, uint64_t count);
/* All block numbers that are mapped, sorted; free() it. */
uint64_t *model_blocks(const struct model_image *image, size_t *count);

/* --- history --- */

struct record_op {
	struct catalog_op op;
	uint64_t volume_id; /* what it made, as far as known */
	uint64_t image_id;
};

struct record_entry {
	uint8_t type;
	uint64_t image;
	uint64_t lba;
	uint64_t blocks;
	struct content **contents; /* WRITE: one a block */
	struct record_op *ops;     /* CATALOG */
	unsigned op_count;
};

struct record {
	struct list link;
	uint64_t generation;
	uint64_t sequence;
	uint64_t durable; /* what its header says */
	uint64_t segment;
	const struct memory_disk *disk; /* where it lies; NULL: not known */
	uint64_t offset_bytes;
	uint32_t crc;
	struct record_entry *entries;
	unsigned entry_count;
};

struct history {
	struct model *base;    /* surely durable */
	struct model *present; /* as applied */
	struct list records;   /* behind base */
	uint64_t acked;        /* last sequence of which something was answered */
	uint64_t promised;     /* sequence that no crash may lose */
	uint64_t required;     /* ... that the last crash may not have lost */
	/* recovery */
	bool recovering;
	uint64_t replayed; /* last sequence taken */
	uint64_t replay_generation;
	bool started; /* replay is through: `replayed` and `replay_generation` are final */
	struct {
		uint64_t generation;
		uint64_t sequence;
	} attempts[64]; /* recoveries since base, that were not seen to end */
	unsigned attempt_count;
	bool unfinished_create;
	bool captured; /* what was in flight when the pool failed is in `records` */
};

struct sim;

void history_begin(struct history *history); /* of an empty pool */
/* Everything up to @sequence is durable. */
void history_promise(struct sim *sim, uint64_t sequence);
/* Before a crash: notes what is in flight in the log. */
void history_capture(struct sim *sim, const struct pool *pool);
/* A damaged pool was opened and takes no writes: as above; false: it fell back to a state before
 * all that we know. */
bool history_readonly(struct sim *sim, struct pool *pool);
/* After recovery: the model becomes what it must be now. */
void history_recovered(struct sim *sim, struct pool *pool);

/* --- requests --- */

struct sim_handle {
	struct list link;
	struct volume *volume;
	uint64_t volume_id;
	uint64_t snapshot_id; /* 0: the volume itself */
	uint32_t in_flight;
	bool gone; /* deleted under us: closed when nothing is in flight */
};

struct read_alternative {
	struct list link;
	uint64_t lba;
	struct content *content;
};

struct sim_io {
	struct list link;
	struct volume_io io;
	struct sim_handle *handle;
	uint64_t number; /* unique in a simulation, and stamped into what is written */
	unsigned zeroes; /* WRITE: one in so many blocks is all zeroes; 0: none, 1: all */
	uint64_t submit_sequence;
	uint64_t acked_at_submit;
	uint64_t lba; /* blocks that are touched */
	uint64_t count;
	uint64_t size_bytes; /* of buffer */
	uint8_t *compare;    /* COMPARE_WRITE: what the volume should hold */
	uint64_t *seen; /* WRITE, COMPARE_WRITE: a sequence a block; TRIM, ZERO: [0], [1] edges, [2]
			   rest */
	struct content **expected; /* READ, COMPARE_WRITE: at submission, */
	struct list alternatives;  /* and what came since */
	struct volume_extent extents[64];
	bool expect_error;       /* READ: damaged on purpose */
	uint64_t flushes_failed; /* before it was submitted */
};

struct sim_admin {
	struct list link;
	struct admin_request request;
	uint64_t number;
	uint64_t volume_id; /* whose size, flags or head it changes; 0: none */
	bool applied;       /* its operation was seen in the log */
	uint64_t sequence;
	bool must_succeed;
	bool rolls_back;
};

/* What a seed draws once. */
struct weather {
	uint32_t device_count;
	uint32_t devices_at_first; /* the pool is made of these; the others may join */
	uint64_t device_bytes[SIM_DEVICES_MAX];
	uint32_t slab_blocks;
	uint32_t copies;
	uint64_t node_cache_bytes;
	uint64_t delay_ns_max;
	bool prepare_space;
	bool gives_back;
	bool devices_leave;
	bool devices_grow;
	bool devices_return;        /* they go out of use, and come back */
	unsigned checkpoint_writes; /* in flight at most */
	unsigned depth;             /* requests in flight */
	unsigned volumes_max;
	unsigned lives;
	unsigned ops;          /* per life */
	uint64_t blocks_max;   /* of a write, */
	unsigned large_one_in; /* of which so many are longer than 4 */
	uint64_t spread;       /* hot area of a volume, in blocks */
	unsigned weights[16];  /* see sim_work.c */
	unsigned admin_one_in;
	unsigned crash_modes;   /* bits of enum memory_crash */
	bool huge;              /* volumes of TiBs */
	bool large_volumes;     /* none smaller than 3 MiB */
	unsigned faults;        /* kinds that occur: see sim_faults.c */
	unsigned faults_one_in; /* operations */
	unsigned hold_events;
};

struct damage {
	const struct memory_disk *disk;
	uint64_t offset_bytes;
	uint64_t len_bytes;
};

/* What devices did; `struck` and `flushes_failed` since the pool was opened, the rest for ever. */
struct faults {
	bool struck;        /* errors are excused */
	bool scrub_excused; /* ... of a scrub that may go on from then */
	uint64_t flushes_failed;
	uint64_t resume_event;     /* when what is held goes on */
	bool misdirect_relocation; /* its next read */
	uint64_t squall_event;     /* none before that */
	struct places read[64];    /* free slabs that are being read */
	unsigned read_count;
	bool damaged; /* contents are not what was acknowledged */
	bool damage_unknown;
	struct damage damages[64];
	unsigned damage_count;
};

/* What the minimiser leaves out of a seed. */
#define SIM_CUT_OPS 8192u
#define SIM_CUT_OPS_PER_LIFE 1024u

struct sim_cut {
	unsigned lives;                     /* at most; 0: as the seed draws, */
	unsigned devices;                   /* ... */
	unsigned depth;                     /* ... */
	unsigned copies;                    /* 0: as the seed draws; else so many, if it can be */
	uint64_t without[SIM_CUT_OPS / 64]; /* operations, counted by life */
};

/* Numbers that are added up over seeds. */
struct sim_stats {
	uint64_t crashes, imports, ops, admins, enospc, applied, walks, bytes, moves, plugs, scrubs;
	uint64_t faults;     /* times that a device was made to misbehave */
	uint64_t refused;    /* requests that failed for it */
	uint64_t failed;     /* pools that took no more writes */
	uint64_t readonly;   /* damaged pools that were opened read-only, */
	uint64_t unopened;   /* or refused */
	uint64_t unreadable; /* reads that damaged ones refused */
	uint64_t left_out;   /* devices that pools with copies went on without */
	uint64_t degraded;   /* pools that were opened without some device */
	uint64_t leaving;    /* devices that began to leave, */
	uint64_t removed;    /* ... and were forgotten */
	uint64_t grown;      /* devices that became larger */
	uint64_t offline;    /* devices that were taken out of use */
	uint64_t returned;   /* devices that came back, ... */
	uint64_t strangers;  /* ... and that could not, as if they had data of their own */
	uint64_t taken_over; /* slabs of those that did */
};

struct sim {
	uint64_t seed;
	bool trace;
	int loud; /* the engine's messages: enum diag_level */
	const struct sim_cut *cut;
	unsigned life;
	uint64_t hash;
	uint64_t events;
	struct random random; /* of the workload */
	struct random crash_random;
	struct weather weather;
	struct memory_disk *disks[SIM_DEVICES_MAX];
	struct device *devices[SIM_DEVICES_MAX];
	uint32_t joined;                   /* devices that are in the pool: the first ones, */
	bool was_removed[SIM_DEVICES_MAX]; /* ... but for these, when it was opened */
	bool adding;                       /* the next one */
	bool crash_at_join;                /* a crash comes soon after that */
	struct device *joining;            /* ... until the pool has it */
	bool pools[SIM_DEVICES_MAX];       /* devices that the pool has open */
	struct device *back;               /* one that comes back, until the pool has it */
	bool bringing_back;
	bool was_out; /* some device was left out, and is not now */
	bool may_omit;
	bool omitted; /* the import was not given all devices */
	bool forced;  /* one was opened by force: who did that keeps to those that have it since */
	struct reactor *reactor;
	uint64_t now_ns;
	uint64_t progress_ns;              /* when something last completed */
	uint64_t crash_in;                 /* events; 0: no crash is planned */
	enum checkpoint_phase crash_phase; /* or in this phase of a checkpoint; IDLE: in none */
	uint64_t crash_phase_in;           /* events, */
	uint64_t crash_phase_after;        /* the first that many of all left out */
	bool crashed;
	struct pool *pool; /* online; or being made or opened, once its log has begun */
	bool online;
	bool stopping;
	struct history history;
	struct list handles;
	struct list ios;
	struct list admins;
	unsigned io_count;
	unsigned admin_count;
	uint64_t next_number;
	bool refused; /* the last administrative operation found no room */
	struct faults faults;
	bool over;    /* a damaged pool: the seed ends here */
	bool unknown; /* it fell back to a state of which the model knows nothing */
	struct sim_stats stats;
	struct table issued; /* places in the log where something was written: no address twice */
};

extern struct sim *the_sim;

void sim_trace(struct sim *sim, const char *format, ...) printf_like(2, 3);
noreturn_fn void sim_fail(struct sim *sim, const char *format, ...) printf_like(2, 3);

/* One turn of the reactor, then on to the next event; crashes when that is due. */
void sim_step(struct sim *sim);
/* Until @done, or a crash; fails when nothing moves any more. */
void sim_run_until(struct sim *sim, bool (*done)(struct sim *sim));

/* sim_run.c: 0; failures do not return. */
void sim_run(struct sim *sim);

/* sim_faults.c */
void faults_draw(struct sim *sim);
void faults_draw_copies(struct sim *sim); /* of a pool that keeps copies */
bool faults_last(const struct sim *sim);  /* this seed may damage contents for good */
void faults_end_reads(struct sim *sim);   /* those of free slabs */
struct device *faults_wrap(struct sim *sim, struct device *inner);
void faults_strike(struct sim *sim);
/* As a device joins: it, or another one, fails a write soon, if such faults occur; not drawn. */
void faults_strike_joining(struct sim *sim, uint32_t joining);
/* Each event: lets go what was held for long enough. */
void faults_tick(struct sim *sim);
bool faults_held(const struct sim *sim);
/* No more faults; what is held goes on. */
void faults_calm(struct sim *sim);
/* A recovery that ends at @cut, before something that was promised, could not know better. */
bool faults_excuse_cut(struct sim *sim, uint64_t cut);

/* sim_work.c, and its parts */
void work_draw(struct sim *sim);
/* Operations @first to @first + @ops of this life. */
void work(struct sim *sim, unsigned first, unsigned ops);
/* Waits for all requests. */
void work_drain(struct sim *sim);
void work_forget(struct sim *sim); /* after a crash */
void work_open_all(struct sim *sim);
void work_close_all(struct sim *sim);
/* Reads what the model holds through the engine; about one in @one_in of it. */
void work_verify(struct sim *sim, unsigned one_in);
void work_delete_all(struct sim *sim);
/* The blocks of one image are read one by one; @expect: 0 or an error. */
void work_read_block(struct sim *sim, uint64_t volume_id, uint64_t lba, bool expect_error);
void work_entry_applied(struct sim *sim, uint64_t sequence, const struct record_entry *entry);
void work_op_applied(struct sim *sim, uint64_t sequence, const struct record_op *op);
/* Reads in flight on this volume see @content from now on. */
void work_note_change(struct sim *sim, uint64_t volume_id, uint64_t lba, struct content *content);
void work_note_range(
    struct sim *sim, const struct model_volume *volume, uint64_t lba, uint64_t count);

/* sim_devices.c */
/* How many devices the newest superblock counts, of all disks but @without. */
uint32_t devices_on_disks(const struct sim *sim, uint32_t without);
/* Whether a device, or any but it, knows that it was removed. */
bool devices_removed(const struct sim *sim, uint32_t d);
/* Makes @request remove some device, or have it stay. */
void devices_leave(struct sim *sim, struct admin_request *request);
/* Makes some disk larger, and @request use that. */
void devices_grow(struct sim *sim, struct admin_request *request);
/* Makes @request take device @n, of as many as there are, out of use, or bring it back; false: not
 * now. */
bool devices_return(struct sim *sim, struct admin_request *request, uint64_t n);
void devices_returned(struct sim *sim, const struct admin_request *request);
/* A device as a boot opens it. */
struct device *sim_open_disk(struct sim *sim, uint32_t d, uint64_t seed);
/* Makes @request add the next one. */
void devices_add(struct sim *sim, struct admin_request *request);
void devices_step(struct sim *sim);
void devices_added(struct sim *sim);
/* Whether the pool is as it was without @missing, for all that the disks say: the other devices
 * know the newest device set that there is. */
bool devices_know(const struct sim *sim, uint32_t missing);

/* sim_walk.c */
/* The disks hold a checkpoint and nothing happened since: everything is compared. */
void walk_pool(struct sim *sim, const char *when);
/* Some data block of a head that lies on a disk; false: there is none. */
bool walk_find_block(struct sim *sim, uint64_t *volume_id, uint64_t *lba, struct baddr *addr);

#endif
