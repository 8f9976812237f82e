/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The insides of a pool: what log, checkpoint, recovery and the operations on volumes share.
 *
 * Everything here belongs to the pool's reactor; nothing is locked.
 */
#ifndef QUARRY_CORE_POOL_INTERNAL_H
#define QUARRY_CORE_POOL_INTERNAL_H

#include "core/device.h"
#include "core/device_gate.h"
#include "core/heartbeat.h"
#include "core/pool.h"
#include "core/read_pace.h"
#include "core/target.h"
#include "core/volume.h"
#include "metadata/batch.h"
#include "metadata/catalog.h"
#include "metadata/label.h"
#include "metadata/map.h"
#include "metadata/node.h"
#include "metadata/space.h"

/* Somebody who waits for something; woken once, with the error that ended the wait or 0. */
struct waiter {
	struct list link;
	void (*wake)(struct waiter *waiter, int error);
};

static inline void
waiter_init(struct waiter *waiter, void (*wake)(struct waiter *waiter, int error))
{
	list_init(&waiter->link);
	waiter->wake = wake;
}

/* Wakes all who wait now (those that begin to wait meanwhile are not woken). */
void waiters_wake(struct list *waiters, int error);

/* --- copies (copies.c) --- */

/* The slabs on which something lies, the one to read first of all; held, so that none is opened. */
struct places {
	struct slab *slabs[COPIES_MAX];
	unsigned count;
};
void places_hold(struct pool *pool, struct slab *leader, struct places *places);
void places_let_go(struct pool *pool, const struct places *places);
/* What lies at @slot of @place is not @block, and shall be: writes it in the background. */
void place_heal(struct pool *pool, struct slab *place, uint32_t slot, const void *block);

/* Reads a block of which the checksum is known, from whichever copy is good; bad ones are healed.
 */
struct block_fetch {
	const char *what; /* it is, for messages */
	void *block;
	void (*done)(struct block_fetch *fetch); /* may free it */
	int error;
	/* private */
	struct pool *pool;
	struct baddr addr;
	uint32_t crc;
	struct places places;
	uint32_t slot;
	unsigned at;
	unsigned bad;  /* a bitmap of places */
	unsigned late; /* ... of those that did not answer in time */
	struct device_io io;
	struct iovec iov;
	struct task task;
};
/* @held: NULL; or where it lies, at @slot, when the caller holds that and knows @bad of it to be
 * bad already, or @late as well to be slow. */
void block_fetch_start(struct block_fetch *fetch, struct pool *pool, struct map_entry entry,
    const struct places *held, unsigned bad, unsigned late, uint32_t slot);

/* --- the log (log.c) --- */

#define LOG_BATCHES 16u
/* What goes into a batch as a whole, or not at all, has at most so many blocks. */
#define LOG_PIECE_BLOCKS 256u
/* So many if it is to be atomic, ... */
static inline uint32_t
log_atomic_blocks(uint32_t slab_blocks)
{
	return (uint32_t)min_u64(LOG_PIECE_BLOCKS, slab_blocks - 2);
}
/* ... else fewer: what does not fit at a segment's end is lost until the slab is cleaned. */
static inline uint32_t
log_piece_blocks(uint32_t slab_blocks)
{
	return (uint32_t)min_u64(
	    log_atomic_blocks(slab_blocks), min_u64(64, max_u64(8, slab_blocks / 16)));
}

enum batch_state {
	BATCH_UNUSED,
	BATCH_OPEN,
	BATCH_CLOSED,
	BATCH_IN_FLIGHT,
	BATCH_WRITTEN
};

struct batch_write {
	struct device_io io;
	struct batch *batch;
	struct slab *place;
};

struct batch {
	struct pool *pool;
	struct list link; /* of log->batches: those not applied yet, in the order of the log */
	struct batch_header *header;
	struct iovec *iov; /* [0] is the header */
	uint32_t iov_count;
	enum batch_state state;
	struct slab *slab;
	struct slab *then_slab; /* the last batch of its segment: where the log goes on */
	uint64_t then_segment;
	uint32_t write_blocks; /* of WRITE entries */
	struct list appends;   /* struct log_append: whom to tell when it is applied */
	uint8_t *owned; /* blocks that the batch brings itself (nodes, catalog); LOG_OWNED_BLOCKS */
	uint32_t owned_count;
	unsigned writes_left;
	struct batch_write writes[COPIES_MAX];
};

#define LOG_OWNED_BLOCKS 64u

/* What of the log an operation waits for: its blocks are in a batch; done() when that is applied.
 */
struct log_append {
	struct list link;
	void (*done)(struct log_append *append, int error);
};

struct log_flush {
	struct list link;
	uint64_t sequence; /* what must be durable */
	bool force;        /* also what was written to the devices outside of the log */
	void (*done)(struct log_flush *flush, int error);
	/* private */
	struct pool *pool;
	uint64_t round;
	struct task task;
};

struct pool_io {
	struct device_io io;
	struct pool *pool;
};

struct log {
	struct batch *all[LOG_BATCHES];
	struct batch *open;  /* the one that is being filled; NULL: none */
	struct list batches; /* closed ones, until they are applied */
	uint32_t in_flight;
	uint32_t in_flight_max;
	struct task turn_end;
	struct slab *slab;      /* of the open segment; NULL: none yet */
	struct slab *next_slab; /* reserved for the next segment */
	uint64_t segment;
	uint64_t next_segment_number; /* never issued yet */
	uint64_t next_segment;        /* the number meant for next_slab */
	bool next_named;              /* a header of this segment tells about next_slab */
	uint32_t slot;                /* where the next header goes */
	uint64_t sequence;            /* of the next batch */
	uint32_t previous_crc;
	uint64_t applied_sequence;
	uint64_t durable_sequence;
	/* The place behind the last batch applied: where a replay from now would begin. */
	uint64_t applied_segment;
	uint32_t applied_slot;
	uint32_t applied_crc;
	struct slab *applied_slab;
	uint64_t blocks_since_cut;
	uint64_t held_blocks;    /* most that a checkpoint would have written since the last one */
	uint64_t pending_blocks; /* of WRITE entries that are not applied yet */
	bool slab_is_new;        /* the open slab was not written before: flushes are slow */
	struct list waiters;     /* for a batch to be free */
	struct list flush_waiters;
	uint32_t flushes_left; /* devices not done yet; 0: no flush is running */
	bool flush_held;       /* it is done, but a device is being left out */
	uint64_t flush_round;  /* number of the last one begun */
	uint64_t flush_target;
	int flush_error;
	/* Batches applied since a client's last FLUSH, and how often in a row that was one. */
	uint32_t unflushed_batches;
	uint32_t flushes_foretold;
	struct pool_io *flush_ios; /* one a device */
};

/* --- background work --- */

enum checkpoint_phase {
	CHECKPOINT_IDLE,
	CHECKPOINT_NODES,
	CHECKPOINT_CATALOG,
	CHECKPOINT_CATALOG_NODES,
	CHECKPOINT_SETTLE,
	CHECKPOINT_TABLE,
	CHECKPOINT_FLUSH,
	CHECKPOINT_SUPERBLOCK,
	CHECKPOINT_FLUSH_SUPERBLOCK,
};

struct checkpoint_block {
	uint64_t index; /* in image 0 */
	unsigned records;
	uint8_t *block;
};

#define CHECKPOINT_WRITES 32u

struct checkpoint_write {
	struct device_io io;
	struct iovec iov;
	void *block;
	struct pool *pool;
	uint32_t device;
	bool busy;
};

struct checkpoint {
	enum checkpoint_phase phase;
	bool again; /* asked for while one was running */
	bool mark_clean;
	bool held;   /* until a device is left out */
	bool barred; /* none begins: see checkpoint_bar() */
	struct task step;
	struct timer timer;
	struct superblock superblock;
	struct checkpoint_block *blocks;
	size_t block_count;
	size_t block_next;
	struct node_pin pin;
	bool pinned;
	struct waiter wait;
	struct log_append append;
	bool append_pending;
	struct log_flush flush;
	struct node *writing[LOG_OWNED_BLOCKS];
	unsigned writing_count;
	uint64_t **table_pages; /* a bitmap a device: pages to write */
	uint32_t table_device;
	uint32_t table_page;
	struct checkpoint_write writes[CHECKPOINT_WRITES];
	unsigned writes_max; /* at a time; the simulator has fewer */
	unsigned writes_in_flight;
	struct list waiters;       /* for the running one to end */
	struct list again_waiters; /* for the one after it */
};

struct reaper {
	struct task step;
	struct waiter wait;
	struct node_pin pin;
	bool pinned;
	bool waiting;
	struct timer next; /* a turn between two pieces, for everybody else */
	bool progressed;   /* since the last cut */
	bool stuck;        /* a map that is to be freed is unreadable */
};

/* See unique.c. */
struct unique {
	bool active;
	struct list waiters;
	struct task step;
	struct timer next;  /* a turn between two pieces, for everybody else */
	struct timer limit; /* of those who wait */
	struct waiter load;
	struct node_pin pin;
	bool pinned;
	uint64_t image_id; /* being counted; 0: none yet */
};

/* See relocate.c. */
enum relocation_phase {
	RELOCATION_IDLE,
	RELOCATION_CHOOSE,
	RELOCATION_DIRECTORIES, /* plugging: of the slabs with holes */
	RELOCATION_READ,
	RELOCATION_CHECK,
	RELOCATION_WRITE,
	RELOCATION_PLUG,
	RELOCATION_SWITCH,
	RELOCATION_CHECKPOINT,
};

/* Slabs whose holes may be plugged when the table is durable that was made when they were noted. */
struct plug_notes {
	struct plug_note {
		struct slab *slab;
		uint64_t number;
		uint32_t hole_count;
		uint64_t *holes;
	} * list;
	uint64_t *holes; /* the memory of them all */
	uint32_t count;
	uint32_t next;   /* those before it were used */
	uint64_t deaths; /* of blocks, when they were noted */
};

/* See relocate_plug.c. */
struct plug {
	struct plug_notes durable;
	struct plug_notes coming; /* the table is being made */
	uint64_t look_at;         /* the slab looked at last, of all */
	bool dry;                 /* another table may give more holes */
	/* the present pass */
	bool active;
	struct plug_target *targets;
	uint32_t target_count;
	uint32_t target;  /* being read or written */
	unsigned attempt; /* to read its directory */
	uint32_t at;      /* next of its blocks to write */
	unsigned stage;
};

struct relocation {
	enum relocation_phase phase;
	struct task step;
	struct timer pace;
	struct waiter wait;
	struct list waiters;     /* who needs space: woken when there is some, or none will come */
	bool gentle;             /* nobody needs it: the pool rests */
	bool exhausted;          /* nothing can be gained now ... */
	uint64_t exhausted_dead; /* ... with so many dead blocks in the pool */
	bool misplaced;          /* some slabs may lie badly: all are looked at, ... */
	uint64_t place_at;       /* the slab looked at last */
	uint64_t place_looked;   /* ... and so many in a row did not, */
	uint64_t place_of;       /* ... of so many */
	uint64_t balance_left;   /* blocks that are to move from fuller devices to others, */
	uint64_t balance_blocks; /* ... of so many when that began */
	uint64_t balance_began_ns;
	bool placed;         /* some were moved since a checkpoint was asked for */
	bool placed_durably; /* none lies badly, and a checkpoint has it so */
	unsigned fruitless;  /* checkpoints in a row without a pass between them */
	uint64_t look_at;    /* the slab looked at last, of all */
	uint64_t stride;     /* from one to the next that is looked at, of so many */
	uint64_t stride_of;
	uint64_t looked; /* at so many in a row without finding any that pay */
	/* the present pass */
	struct relocation_victim *victims;
	uint32_t victim_count;
	uint32_t victim; /* being read */
	struct relocation_move *moves;
	uint32_t move_count;
	uint32_t move; /* next to check */
	uint32_t directory_blocks;
	uint64_t number;
	struct slab *slab; /* where they go */
	uint32_t block;    /* next to read or write */
	uint32_t *crcs;    /* a victim's checksums; */
	uint64_t *known;   /* those of these slots */
	bool again;        /* some of its blocks are to be read from another copy */
	uint8_t *from;     /* a victim as it lies */
	uint8_t *to;       /* the new slab, or what goes into holes */
	uint32_t to_blocks;
	unsigned place; /* of the victim's, that is read */
	struct relocation_io *ios;
	unsigned ios_left;
	int error; /* of a read */
	struct plug plug;
	uint64_t io_began_ns;
	uint64_t pass_ns;     /* how long the present pass's writes took */
	double pack_block_ns; /* ... a block: in a new slab, side by side; */
	double plug_block_ns; /* ... in a hole, flush included.  0: not known yet */
	/* since the pool was opened */
	uint64_t passes;
	uint64_t blocks_moved;
	uint64_t blocks_written; /* directories included */
};

/* See scrub.c. */
enum scrub_phase {
	SCRUB_REST,
	SCRUB_NEXT,
	SCRUB_READ,
	SCRUB_AGAIN,
};

struct scrub_suspect {
	struct baddr addr;
	uint32_t slot;
};

struct scrub_damage {
	uint32_t device;
	uint64_t offset_bytes; /* on the device */
	uint64_t image;        /* 0: not known */
	uint64_t at_bytes;     /* in the image */
	bool map;
};

struct scrub {
	enum scrub_phase phase;
	struct scrub_record record;
	struct scrub_record found; /* in the present slab */
	size_t named_before;       /* it */
	struct task step;
	struct timer pace;
	struct slab *slab;    /* the leader of what is read */
	struct slab *place;   /* the copy that is being read */
	struct places places; /* all copies; held */
	uint8_t *healed;      /* a block, from another copy */
	struct block_fetch fetch;
	uint32_t heal_slot;
	const char *heal_why;
	uint64_t segment; /* of it, when that began */
	uint32_t end_slot;
	uint32_t block;      /* next to read */
	uint32_t io_blocks;  /* under way, or just done; 0: none */
	uint32_t single_end; /* before it blocks are read one by one */
	bool reading;
	bool healing;    /* ... and what was read is written where it was wrong */
	uint8_t *buffer; /* the slab */
	uint32_t *crcs;
	uint64_t *known; /* bitmaps of slots: there is a checksum, */
	uint64_t *bad;   /* ... unreadable */
	struct scrub_suspect *suspects;
	uint32_t suspect_count;
	uint32_t slabs_since_note;
	struct device_io io;
	struct iovec iov;
	uint64_t io_began_ns;
	uint64_t began_ns; /* when it last began or went on, and what it read since */
	uint64_t bytes_read;
	struct scrub_damage *named; /* the first ones found since the import */
	size_t named_count;
};

/* See housekeeping.c. */
struct housekeeping {
	struct device_io io;
	struct iovec iov[4];
	struct slab *slab; /* being written ahead, off the free list; NULL: none */
	uint32_t block;    /* next to write */
	bool failed;
	struct timer pause;
	uint64_t piece_began_ns;
	uint64_t flush_round; /* the log's, when the open segment was begun */
	void *zeroes;
	struct list discards; /* struct slab_discard; the first is under way if `discarding` */
	bool discarding;
	struct device_io discard_io;
};

/* Writes single blocks of one device in turn, then flushes it. */
struct block_writer {
	struct {
		uint64_t block;
		void *data;
	} blocks[16];
	unsigned count;
	void (*done)(struct block_writer *writer);
	int error;
	/* private */
	struct device *device;
	struct device_io io;
	struct iovec iov;
	unsigned next;
};

/* See device_loss.c. */
struct device_loss {
	bool active; /* a device is being left out: nothing is answered meanwhile */
	uint32_t device;
	uint32_t at; /* whose device set is written */
	uint8_t *block;
	struct block_writer writer;
	struct task step;
};

/* See heartbeat.h. */
struct pulse {
	const struct heartbeat_owner *owner; /* NULL: it has none */
	struct uuid session;
	uint64_t beat;
	bool started;
	bool lost;          /* somebody else has the pool in service */
	bool released;      /* it was taken back */
	uint32_t under_way; /* of beats */
	struct task *stop;  /* who waits for those to end */
	struct timer timer;
	struct device_gate gate; /* open as long as no other machine can believe that we are gone */
	uint64_t confirmed_ns;   /* by the gate's clock: the pool was ours then, at an import */
	bool given_up;           /* no beat could be written: the gate stays closed */
	struct task refuse;      /* ends what is held there */
	struct beat {
		struct heartbeat_io one;
		struct pool *pool;
		uint64_t read_ns;    /* when the reading of it was begun */
		uint64_t read_at_ns; /* ... by the gate's clock */
		uint32_t index;      /* of the device */
		bool under_way;
		bool mute; /* it could not be written at the import */
	} beats[POOL_DEVICES_MAX];
};

struct pool_device {
	struct device *device; /* NULL: missing */
	struct label label;
	bool dirty; /* written to since its last flush */
	uint64_t errors;
	uint64_t healed; /* blocks that were bad here, and were written again from a copy */
	uint64_t leaving_since_ns; /* it, in this daemon: then it had ... */
	uint32_t leaving_slabs;    /* ... so many with something on them */
	bool may_not_answer;       /* it was removed because it had failed */
	bool told;                 /* it was removed, and a device set says so */
	char *name;                /* of one that was closed; NULL: not known, or `device` has it */
	bool offline;              /* it is out because that was asked for */
	bool stall_told;           /* it does not answer, is waited for, and the log says so */
	bool told_in_use;          /* it is joining, and device sets say that it is in use */
	bool set_has_out;          /* the last device set has it OUT, or REMOVED, ... */
	uint64_t set_since;        /* ... or not, since the one of this number; 0: always */
};

/* --- volumes --- */

struct volume_request;

/* What the engine keeps of a volume that is in use. */
struct volume_runtime {
	struct volume_record *record;
	uint32_t handles;
	uint32_t in_flight;
	bool paused; /* requests wait, for an operation on the volume */
	struct list paused_requests;
	struct waiter *drained; /* whoever paused it waits for in_flight to be 0 */
	uint32_t waiting;       /* writes that wait for room: volume_full_count() */
	struct list locks;      /* of requests that patch blocks */
	struct list lock_waiters;
};

/* A handle. */
struct volume {
	struct list link;               /* pool->handles */
	struct pool *pool;              /* NULL: the pool is gone */
	struct volume_runtime *runtime; /* NULL: a snapshot, or gone */
	struct image *snapshot;         /* NULL: a volume, or gone */
	struct reactor *pool_reactor;
	struct reactor *reactor; /* of the frontend */
	struct volume_info info;
	_Atomic uint64_t size_bytes;
	bool readonly;          /* asked for by the client */
	struct pool_fill *fill; /* outlives the pool */
	uint8_t *note;          /* volume_note() */
	size_t note_len_bytes;
	struct task task;
	struct task stop_task; /* volume_stop_waiting() */
	_Atomic bool stop_queued;
	_Atomic bool waits_no_more;
};

#define REQUEST_CHUNK_BLOCKS 256u

enum request_phase {
	REQUEST_BEGIN,
	REQUEST_LOOKUP,
	REQUEST_READ,
	REQUEST_LOCK,
	REQUEST_BARRIER,
	REQUEST_EDGE_LOOKUP,
	REQUEST_EDGE_READ,
	REQUEST_PREPARE,
	REQUEST_APPEND,
	REQUEST_WAIT, /* the pool is full */
	REQUEST_APPLY,
	REQUEST_FLUSH,
	REQUEST_DONE,
};

/* One request under way: see volume_io.c, volume_read.c, volume_write.c. */
struct volume_request {
	struct list link; /* unused_ops, or paused_requests */
	struct pool *pool;
	struct volume *volume;
	struct volume_runtime *runtime;
	struct image *image;
	struct volume_io *io;
	void (*step)(struct volume_request *request);
	enum request_phase phase;
	int error;
	uint64_t lba; /* the whole blocks that the request touches */
	uint64_t count;
	uint64_t done_blocks;
	struct waiter wait;
	struct node_pin pin;
	bool pinned;
	bool locked;
	uint64_t promised; /* nodes that applying may make dirty: counted in pool->nodes_promised */
	bool appended;     /* blocks of ours are in a batch that is not known to be applied */
	uint8_t retries;
	uint8_t edge; /* 0 head, 1 tail */
	struct list lock_link;
	uint8_t *edges; /* two blocks, for partial ones */
	struct log_append append;
	struct log_flush flush;
	struct map_fault fault;
	uint32_t runs_left;
	bool look_again; /* READ: what was looked up lies nowhere any more, ... */
	bool looked_again;
	uint32_t chunk_blocks;
	struct map_entry entries[REQUEST_CHUNK_BLOCKS];
};

enum pool_state {
	POOL_STARTING,
	POOL_ONLINE,
	POOL_READONLY,
	POOL_FAILED,
	POOL_CLOSING
};

struct pool {
	struct target *target;
	struct reactor *reactor;
	struct list link; /* the target's */
	char name[NAME_SIZE];
	struct uuid uuid;
	enum pool_state state;
	char state_reason[200];
	uint64_t created_s;
	struct pool_device devices[POOL_DEVICES_MAX];
	uint32_t device_count;
	uint64_t device_set_generation;
	struct space space;
	struct nodes nodes;
	struct catalog catalog;
	struct log log;
	struct checkpoint checkpoint;
	struct reaper reaper;
	struct unique unique;
	struct relocation relocation;
	struct scrub scrub;
	uint64_t stall_timeout_ns;
	struct housekeeping housekeeping;
	bool engine; /* the parts above are set up */
	bool was_readonly;
	uint64_t node_cache_bytes;
	uint64_t generation;
	uint64_t checkpoint_number; /* of the last durable one */
	uint64_t reserve_slabs;     /* most that is held back for checkpoints, deletes and trims */
	uint64_t relocate_slabs;    /* over so many above those, relocation gathers speed */
	struct pool_fill *fill;     /* see pool_fill.c */
	unsigned fill_warned_percent;
	uint8_t warn_percent[WARN_LEVELS]; /* when that is passed, growing */
	uint64_t live_blocks_max;          /* beyond, nobody gets more; overwriting goes on */
	uint64_t dirty_nodes_max;
	uint64_t nodes_promised;    /* what writes under way may yet make dirty */
	uint64_t checkpoint_blocks; /* of log between two checkpoints */
	struct table loads;         /* address -> struct node_load */
	struct list space_waiters;  /* writes that wait until others are applied */
	struct list full_waiters;   /* struct volume_io, by its task: see volume_full.c */
	struct timer full_timer;
	uint64_t reserve_held; /* for the operation under way */
	struct list handles;   /* struct volume */
	struct list unused_requests;
	struct read_pace read_pace; /* of clients' reads */
	struct list unused_runs;    /* struct read_run */
	uint64_t requests_in_flight;
	struct list admin_queue; /* struct admin_request_state */
	bool admin_busy;
	struct admin_operation *admin; /* the one under way that passed its checks; NULL: none */
	uint64_t (*clock_s)(void);     /* the time of day, for records */
	uint64_t checksum_errors;
	unsigned heals; /* under way */
	struct device_loss loss;
	struct pulse pulse;
	uint32_t copies_told;        /* copies_min of the last device set */
	struct admin_request forget; /* of device_leaving_consider(): */
	bool forgetting;             /* ... it is under way */
};

struct device *pool_device(const struct pool *pool, uint32_t index);
/* For messages: also of one that is missing. */
const char *pool_device_name(const struct pool *pool, uint32_t index);
/* Labels of all of its devices say so; that of a missing one is not known. */
bool pool_keeps_notes(const struct pool *pool);

/* The pool takes no more writes: a write or flush below failed, so nothing newer can be promised.
 */
void pool_fail(struct pool *pool, const char *format, ...) printf_like(2, 3);

/* log.c */
void log_init(struct pool *pool);
void log_fini(struct pool *pool);
/* Begins a generation in a fresh segment. -ENOSPC. */
int log_start(struct pool *pool) must_check;

/*
 * Who asks for room, and so how far down the reserve it gets some: a trim never takes what a delete
 * needs, nor a delete what a checkpoint needs.
 */
enum log_class {
	LOG_CLIENT,
	LOG_TRIM,
	LOG_DELETE,
	LOG_CHECKPOINT,
};

/*
 * Makes room in the open batch for @blocks data blocks and @entry_bytes.  0: there is;
 * -EAGAIN: wait in log.waiters; -ENOSPC: the pool is full for this class; -EROFS, -EIO: it takes no
 * writes.
 */
int log_reserve(
    struct pool *pool, enum log_class class, uint32_t blocks, size_t entry_bytes) must_check;
/* After log_reserve(); @data (blocks) must stay until the append is done. */
void log_add_data(struct pool *pool, enum batch_entry_type type, uint64_t image, uint64_t lba,
    uint32_t count, void *data, const uint32_t *crcs);
void log_add_zero(struct pool *pool, uint64_t image, uint64_t lba, uint64_t blocks);
/* Memory of @blocks blocks that lives as long as the batch; NULL: no more in this one. */
void *log_owned_blocks(struct pool *pool, uint32_t blocks);
/* True: @append is told when all that was added so far is applied; false: it is already. */
bool log_wait_applied(struct pool *pool, struct log_append *append) must_check;
/* Has a batch with nothing in it written, so that the log leaves a segment that lies badly.  True:
 * @append is told when it is applied, or @waiter is woken when there may be room for it. */
bool log_write_nothing(
    struct pool *pool, struct waiter *waiter, struct log_append *append) must_check;
/* Sends what is open without waiting for the turn's end. */
void log_kick(struct pool *pool);
/* A client asked for FLUSH, see flush_ahead() in log.c. */
void log_flush_asked(struct pool *pool);
/* Durable up to @flush->sequence (at most applied_sequence). */
void log_flush_start(struct pool *pool, struct log_flush *flush);
bool log_idle(const struct pool *pool);
/* A reader of @slab is through: the log may have waited for that. */
void log_slab_unread(struct pool *pool, const struct slab *slab);
/* Whether enough slabs are left for @class to go on. */
bool log_has_room(const struct pool *pool, enum log_class class);
/* How many slabs @class leaves free, as much as a checkpoint would write, at most
 * since the last one, and some more. */
uint64_t log_held_slabs(const struct pool *pool, enum log_class class);

/* node_load.c */
void node_load(struct pool *pool, const struct map_fault *fault, struct waiter *waiter);
bool node_loads_pending(const struct pool *pool);

/* device_loss.c */
void device_loss_init(struct pool *pool);
/* A write or a flush of the pool failed: its device is left out, or the pool fails. */
void device_lost(struct pool *pool, struct device_io *io, uint32_t index);
/* It is left out as above, though it did not fail; no other one is just now, and it can be. */
void device_take_out(struct pool *pool, uint32_t index);
/* Nothing is under way on the device, or will be if it is out. */
bool device_is_idle(const struct pool *pool, uint32_t index);
/* Closes a device that is out; false: something is under way there. */
bool device_let_go(struct pool *pool, uint32_t index);
/* After blocks were written to device @index: if that failed as it was flushed, nobody knows what
 * of the pool's other writes was lost, and the device is lost as above. */
void device_written(struct pool *pool, struct block_writer *writer, uint32_t index);
/* No device is being left out any more: what was held goes on. */
void log_settle(struct pool *pool);
void checkpoint_settle(struct pool *pool);
/* The next segment was meant for slabs that do not count any more: another one, if it can be. */
void log_forget_next(struct pool *pool);

/* unique.c */
void unique_init(struct pool *pool);
/* Counts on, and wakes @waiter when all is known, or not before long. */
void unique_count(struct pool *pool, struct waiter *waiter);
/* How many blocks only @image has; false: not known. */
bool unique_known(struct pool *pool, const struct image *image, uint64_t *blocks);

/* heartbeat.c */
void heartbeat_init(struct pool *pool, const struct heartbeat_owner *owner);
void heartbeat_fini(struct pool *pool);
/* The block as it is now. */
void heartbeat_of(const struct pool *pool, struct heartbeat *heartbeat);
/* The pool is in service: beats from now on. */
void heartbeat_start(struct pool *pool);
/* Devices that joined since: what is written there waits, too, when the lease is over. */
void heartbeat_guard(struct pool *pool);
/* It is not any more: takes the block back.  True: @stopped runs when that is done, or may be asked
 * for once more. */
bool heartbeat_stop(struct pool *pool, struct task *stopped);
/* Whether who wrote what was @seen on a device of the pool may be alive, and is not us. */
bool heartbeat_may_beat(const struct pool *pool, const struct heartbeat *seen);
bool heartbeat_has_changed(const struct heartbeat *seen, const struct heartbeat *before);

/* device_remove.c */
/* At import, before the log begins: the device leaves. */
void device_leaving_resume(struct pool *pool, uint32_t index);
/* Devices that leave may be empty now, or copies be restored: then what follows begins. */
void device_leaving_consider(struct pool *pool);

/* checkpoint.c */
void checkpoint_init(struct pool *pool);
void checkpoint_fini(struct pool *pool);
/* While none runs: none begins until checkpoint_unbar().  Who asks for one waits. */
void checkpoint_bar(struct pool *pool);
void checkpoint_unbar(struct pool *pool);
/* Starts one (or has one follow the running one); @waiter may be NULL. */
void checkpoint_start(struct pool *pool, struct waiter *waiter);
/*
 * What is empty shall be free: by a new table alone, if nothing needs those slabs that begins at
 * the last cut; else by a whole checkpoint.
 */
void checkpoint_free_slabs(struct pool *pool, struct waiter *waiter);
/* A new table, so that holes can be plugged. */
void checkpoint_find_holes(struct pool *pool, struct waiter *waiter);
/* Starts one if the log, the dirty nodes or the lack of space ask for it. */
void checkpoint_consider(struct pool *pool);
/* Blocks that one from now may write at most. */
uint64_t checkpoint_blocks_max(const struct pool *pool);

/* reaper.c */
void reaper_init(struct pool *pool);
void reaper_kick(struct pool *pool);
bool reaper_idle(const struct pool *pool);

/* pool_fill.c */
struct pool_fill *pool_fill_new(void);
struct pool_fill *pool_fill_get(struct pool_fill *fill);
void pool_fill_put(struct pool_fill *fill); /* on any thread */
/* The room has changed, or may have: warns, and lets frontends see it. */
void pool_fill_changed(struct pool *pool);

/* How full the pool is for volumes that are not reserved. */
unsigned pool_full_percent(const struct pool *pool);
/* How full it is when it warns; 0: the default. */
void pool_set_warn_percent(struct pool *pool, const uint8_t percent[WARN_LEVELS]);

/* relocate.c */
void relocation_init(struct pool *pool);
void relocation_fini(struct pool *pool);
/* Something changed: begins if there is need, ends if the pool does. */
void relocation_kick(struct pool *pool);
void relocation_checkpoint_ended(struct pool *pool);
/* A free slab, which nobody could open, is not read any more. */
void relocation_slab_unread(struct pool *pool);
/* There is no room in the log: true: @waiter is woken when there may be; false: none will come. */
bool relocation_wait(struct pool *pool, struct waiter *waiter) must_check;
/* A table is being made, of a checkpoint's cut or without one: what is dead now may be written over
 * when it is durable / which it is (relocate_plug.c). */
void plug_note_holes(struct pool *pool, bool is_cut);
void plug_notes_durable(struct pool *pool);
/* The slab behind *look_at, which moves on: all of them in turn, and soon some of everywhere. */
struct slab *relocation_next_slab(struct pool *pool, uint64_t *look_at);
bool relocation_idle(const struct pool *pool);
/* A pass is under way. */
bool relocation_produces(const struct pool *pool);
/* Slabs lie badly (space_lies_badly()): they are moved. */
void relocation_place(struct pool *pool);
/* Fuller devices give some of what they have to others, until all are about as full / no more. */
void relocation_balance(struct pool *pool, bool on);
void relocation_report(const struct pool *pool, struct admin_pool_report *report);

/* The checksums that lie beside the blocks of @slab, whose first @end_slot blocks are in @blocks:
 * into crcs[slot], for slots that become set in @known. */
void slab_find_crcs(const struct pool *pool, const struct slab *slab, uint32_t end_slot,
    const uint8_t *blocks, uint32_t *crcs, uint64_t *known);
/* Whose block the log wrote to @slot: the piece of one block; false: it cannot be told. */
bool slab_find_owner(const struct pool *pool, const struct slab *slab, uint32_t end_slot,
    const uint8_t *blocks, uint32_t slot, struct batch_piece *owner);

/* scrub.c */
void scrub_init(struct pool *pool);
void scrub_fini(struct pool *pool);
void scrub_start(struct pool *pool);
void scrub_pause(struct pool *pool);
/* The pool is online, or no longer: goes on, or rests. */
void scrub_kick(struct pool *pool);
/* No block is being healed any more. */
void scrub_heals_ended(struct pool *pool);
bool scrub_idle(const struct pool *pool);
void scrub_report(const struct pool *pool, struct admin_scrub_report *report);

/* housekeeping.c */
void housekeeping_init(struct pool *pool);
void housekeeping_fini(struct pool *pool);
/* The pool is online. */
void housekeeping_start(struct pool *pool);
/* Free slabs of preallocated files that are yet to be written ahead. */
uint64_t housekeeping_unprepared_slabs(const struct pool *pool);
void housekeeping_slab_released(void *pool, struct slab *slab);
/* Writes some slab ahead if that pays now. */
void housekeeping_consider(struct pool *pool);
/* The log went on to another segment: as above, and flushes are counted anew. */
void housekeeping_segment_opened(struct pool *pool);
bool housekeeping_idle(const struct pool *pool);

/* volume_full.c */
void volume_full_init(struct pool *pool);
void volume_full_fini(struct pool *pool);
/* Live blocks, and what may become live. */
uint64_t pool_used_blocks(const struct pool *pool);
/* What is held back for reserved volumes: O(their number). */
uint64_t pool_reserved_blocks(const struct pool *pool);
/* Whether @blocks more are too many, if not for a reserved volume. */
bool pool_is_full(const struct pool *pool, uint64_t blocks);
/* Whether a write that found no room may wait for some. */
bool volume_full_may_wait(struct volume_request *request);
/* Takes the request apart and has its volume_io wait; nothing of it is in a batch. */
void volume_full_wait(struct volume_request *request);
/* There may be room now: whoever waits for it goes on. */
void volume_full_consider(struct pool *pool);
/* All who wait (of one handle) begin anew, and find out why. */
void volume_full_wake(struct pool *pool, const struct volume *volume);
/* The volume's content may change otherwise than by writes. */
void volume_full_forget_progress(struct pool *pool, const struct volume_runtime *runtime);
/* Counts those who wait into runtime->waiting of all volumes. */
void volume_full_count(struct pool *pool);

/* volume_io.c */
void request_finish(struct volume_request *request);
/* As above, but the volume_io is not answered. */
void request_release(struct volume_request *request);
/* Records the first error. */
void request_fail(struct volume_request *request, int error);
/* For a map fault: loads the node, then steps again. */
void request_load(struct volume_request *request);
void request_pin(struct volume_request *request);
void request_unpin(struct volume_request *request);
void request_return_promise(struct volume_request *request);
struct volume_runtime *volume_runtime(struct pool *pool, struct volume_record *record);
/* Requests wait from now on; @waiter (its wake) is called, perhaps at once, when none is under way.
 */
void volume_pause(struct pool *pool, struct volume_runtime *runtime, struct waiter *waiter);
void volume_resume(struct pool *pool, struct volume_runtime *runtime);
/* The handle gets a copy of the volume's note, if there is one. */
void volume_take_note(struct volume *volume, enum note_kind kind);
/* The volume or pool goes away: its handles fail from now on. */
void volume_detach(struct pool *pool, struct volume *volume);
struct volume *volume_open(
    struct pool *pool, const struct name *name, bool readonly, struct reactor *reactor, int *error);
uint32_t volume_clients(
    const struct pool *pool, const struct volume_runtime *runtime, const struct image *snapshot);

/* volume_read.c, volume_write.c, volume_status.c: the step functions. */
void volume_read_step(struct volume_request *request);
void volume_write_step(struct volume_request *request);
void volume_zero_step(struct volume_request *request);
void volume_flush_step(struct volume_request *request);
void volume_cache_step(struct volume_request *request);
void volume_status_step(struct volume_request *request);
/* Reads @count blocks (at most REQUEST_CHUNK_BLOCKS) as request->entries say into @buffer and
 * checks them; then steps. True: nothing had to be read. */
bool request_read_blocks(
    struct volume_request *request, uint32_t count, uint8_t *buffer) must_check;

/* pool_start.c */
void pool_set_superblock(struct pool *pool, struct superblock *superblock);

#endif
