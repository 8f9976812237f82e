/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bugs that are planted on purpose, to prove that the simulator finds such (`make mutants`).
 *
 * `if (MUTANT(NAME))` is the wrong behaviour.  It is constant and false, and so no code at all,
 * unless QUARRY_MUTANTS is defined; then at most one of them is active in a process.
 */
#ifndef QUARRY_CORE_BASE_MUTANT_H
#define QUARRY_CORE_BASE_MUTANT_H

#include <stdbool.h>

#define MUTANTS(X)                                                                                \
	X(FLUSH_LEFT_OUT, "log: a flush is answered without any device being flushed")            \
	X(FLUSH_ONE_DEVICE, "log: only the first dirty device is flushed")                        \
	X(FLUSH_COVERS_CLOSED, "log: a flush also covers batches that are not written yet")       \
	X(FLUSH_JOINS_RUNNING, "log: who comes during a flush is answered by that one")           \
	X(FLUSH_AHEAD_BELIEVED, "log: a flush begun ahead counts before it is done")              \
	X(FLUSH_ERROR_IGNORED, "log: a failed flush is taken for a good one")                     \
	X(FUA_NOT_FLUSHED, "write: FUA is answered when applied")                                 \
	X(APPLY_UNORDERED, "log: batches are applied as they complete")                           \
	X(ACK_BEFORE_WRITE, "write: answered when its blocks are in the open batch")              \
	X(TRIM_WAITS_NOT, "zero: a TRIM is answered before it is applied")                        \
	X(WRITE_ERROR_IGNORED, "log: a failed write is taken for a good one")                     \
	X(BARRIER_LEFT_OUT, "write: a patch reads before earlier writes are applied")             \
	X(PATCH_UNLOCKED, "write: patches of one block do not wait for each other")               \
	X(LOCK_NOT_SEEN, "write: whole blocks go past the lock of a patch")                       \
	X(READER_NOT_COUNTED, "read: a slab that is being read counts no readers")                \
	X(DISCARD_WHILE_READ, "housekeeping: a slab is given back while it is being read")        \
	X(READER_IGNORED, "space: a slab is picked though it is being read")                      \
	X(READ_CRC_UNCHECKED, "read: the checksum of data is not checked")                        \
	X(NODE_CRC_UNCHECKED, "node load: the checksum of a node is not checked")                 \
	X(SLAB_FREED_EARLY, "space: a dead slab is free at once, without a checkpoint")           \
	X(SLAB_FREED_AT_CUT, "space: what died after the cut is released with it")                \
	X(DEAD_NOT_SET, "map: a replaced block stays live")                                       \
	X(DEAD_ALWAYS, "map: a replaced block is dead though a snapshot has it")                  \
	X(EPOCH_OFF_BY_ONE, "map: a block of the snapshot's own epoch counts as newer")           \
	X(EPOCH_NOT_RAISED, "catalog: a snapshot does not raise the epoch")                       \
	X(ZERO_FORGETS_TAIL, "map: a large ZERO leaves its last block")                           \
	X(TREE_NOT_SHARED, "catalog: a snapshot's parent is not its head's")                      \
	X(DEVICE_USED_EARLY, "device add: the log uses a device that no superblock counts yet")   \
	X(FAMILY_RULE, "reaper: an image with two children is not kept")                          \
	X(CURSOR_NOT_KEPT, "catalog: the reaper's cursor is not written")                         \
	X(REAPER_IN_CHECKPOINT, "reaper: goes on between cut and slab table")                     \
	X(REAPER_FORGETS_YOUNGER, "reaper: frees blocks that the child still has")                \
	X(SUPERBLOCK_BEFORE_FLUSH, "checkpoint: no flush before the superblock")                  \
	X(SUPERBLOCK_NOT_FLUSHED, "checkpoint: no flush after the superblock")                    \
	X(SUPERBLOCK_ONE_PLACE, "checkpoint: each superblock is written over the last one")       \
	X(SUPERBLOCK_LATE_PLACE, "checkpoint: the log's place is that of the end, not the cut's") \
	X(NODES_UNORDERED, "checkpoint: parents are written before their children")               \
	X(TABLE_ONE_PLACE, "checkpoint: a page of the slab table is written over in place")       \
	X(TABLE_PAGE_LEFT_OUT, "checkpoint: a dirty page of the slab table is not written")       \
	X(NAMED_NOT_KEPT, "checkpoint: the superblock does not name the next slab")               \
	X(REPLAY_PAST_BAD_DATA, "import: data checksums of the log's tail are not checked")       \
	X(REPLAY_STOPS_AT_SEGMENT, "import: replay ends with the segment")                        \
	X(SEGMENT_GAP_LEFT_OUT, "import: segment numbers go on without a gap")                    \
	X(CUT_NOT_DURABLE, "import: clients are served before the cut is durable")                \
	X(IMPORT_NOT_FLUSHED, "import: what a killed daemon left in caches is not flushed")       \
	X(DURABLE_MARK_IGNORED, "import: damage before a durable position is cut off")            \
	X(RESERVE_NOT_HELD, "full: what is held back for reserved volumes is given to others")    \
	X(RESERVE_FORGETS_SNAPSHOT, "catalog: after a snapshot blocks still count as own")        \
	X(ENOSPC_FLOOR, "log: clients may use what is held back")                                 \
	X(NODES_NOT_BOUNDED, "write: dirty nodes are not bounded by what a checkpoint can write") \
	X(WAKE_FORGOTTEN, "log: who waits for a batch is not woken")                              \
	X(MAPPED_NOT_COUNTED, "map: zeroed blocks still count as mapped")                         \
	X(SWITCH_IN_CHECKPOINT, "relocation: switches between cut and slab table")                \
	X(DEAD_MOVED_LIVE, "relocation: what died during the pass is live in the new slab")       \
	X(MOVED_LIVE_TWICE, "relocation: what moved stays live where it lay")                     \
	X(VICTIM_UNCHECKED, "relocation: the checksum beside a block is not compared")            \
	X(STUCK_TRIED_AGAIN, "relocation: a slab with a damaged block is tried again")            \
	X(PASS_TAKES_LAST, "relocation: takes a slab that the next checkpoint needs")             \
	X(EXHAUSTED_SILENT, "relocation: who waits is not told that nothing can be gained")       \
	X(UNREAD_SILENT, "relocation: who waits for a slab is not told that it was read")         \
	X(NODE_DEATH_IGNORED, "table alone: frees slabs on which a map node died since the cut")  \
	X(SEALED_CUT_IGNORED, "table alone: frees slabs that were sealed since the cut")          \
	X(TABLE_ALONE_AFTER_REAPER, "table alone: though the reaper worked since the cut")        \
	X(EMPTY_UNREAD, "import: directories of packed slabs that are all dead are not read")     \
	X(LIVE_NOT_BOUNDED, "write: what is live in all is not bounded")                          \
	X(PROMISE_HELD, "write: who waits for a lock keeps its promise of nodes")                 \
	X(COMPARE_LONG, "compare and write: more blocks than can be written at once")             \
	X(COMPARE_UNLOCKED, "compare and write: others may write between the two")                \
	X(COMPARE_BEGINNING, "compare and write: only the first 512 bytes are compared")          \
	X(PAUSE_WAITS_NOT, "admin: a paused volume's requests are not waited for")                \
	X(PIN_IGNORED, "node cache: evicts what a request under way has touched")                 \
	X(FROZEN_CHANGED, "map: a node that a checkpoint is writing is changed in place")         \
	X(REPLACED_LEAKS, "map: the node that a new one replaces stays live")                     \
	X(CONDEMNED_LIVE, "map: a node that died before it was written is live")                  \
	X(CURSOR_IGNORED, "map: behind a reaper's cursor blocks count as shared still")           \
	X(SEALED_EARLY, "log: a slab is sealed before its last batch is applied")                 \
	X(END_READ_ONCE, "import: what seems to be the log's end is not read twice")              \
	X(BEYOND_NOT_SEEN, "import: later headers of the log's last segment are not looked at")   \
	X(TABLE_DIGEST_UNCHECKED, "import: an older page of the slab table passes")               \
	X(LOSS_NOT_DURABLE, "device loss: it is not made durable before the pool goes on")        \
	X(STALE_BELIEVED, "import: a device that was left out is one among equals")               \
	X(COPIES_NOT_LEVELLED,                                                                    \
	    "import: what one copy of the log's end lacks is not written there")                  \
	X(SET_NOT_SPREAD, "import: a device set that only some devices have stays there")         \
	X(SUPERBLOCK_NOT_SPREAD, "import: so does a superblock")                                  \
	X(PLUGGED_EARLY, "plugging: what is dead is written over before a table says so durably") \
	X(PLUGGED_UNDER_READER, "plugging: slabs that are being read are plugged")                \
	X(PLUG_NOT_FLUSHED, "plugging: a directory and its copy are written without a flush")     \
	X(PLUGGED_TWICE, "plugging: holes that were plugged since they were noted are plugged")   \
	X(PLUGGED_SCRUBBED, "plugging: a scrub reads a slab meanwhile")                           \
	X(DEAD_MOVES_KEPT, "relocation: what died before it was read is in the directory")        \
	X(NAMED_NOT_TOLD,                                                                         \
	    "device loss: copies_min leaves out the segment that the log goes to next")           \
	X(LAST_SLABS_PAIRED, "full: the last slabs of a degraded pool need a partner")            \
	X(FEWER_THAN_TOLD, "full: the last slabs have fewer copies than an import counts on")     \
	X(OPEN_TAKEN_OVER,                                                                        \
	    "device online: a segment that was still open when the device left counts as whole")  \
	X(STALE_FORGOTTEN, "device online: places that lack something count again")               \
	X(PLUGGED_ELSEWHERE,                                                                      \
	    "device online: packed slabs that were plugged without it count as whole")            \
	X(RETURN_NOT_TOLD, "device online: it counts before a device set has it in use")          \
	X(RETURN_NOT_WRITTEN, "device online: it is told in use before its table is written")     \
	X(JOINING_RELIED_ON, "device online: before it counts another one is left out for it")    \
	X(LEAVING_NOT_HELD, "device remove: slabs that become free there may be used")            \
	X(FORGOTTEN_IN_USE, "device remove: the device is forgotten while it holds something")    \
	X(FORGOTTEN_AT_ONCE, "device remove: before a checkpoint does without it is durable")     \
	X(RAISED_NOT_WRITTEN, "space: pages of slabs that were never used are taken as they are") \
	X(PLACES_NOT_FOUND_AGAIN,                                                                 \
	    "read: no copy that came back since it began, and no new block, is tried")            \
	X(MARK_TOLD_LATE, "space: page 0 tells the mark of the table before")                     \
	X(NEWEST_SET_BELIEVED,                                                                    \
	    "import: the newest device set counts, also if a crash cut it short")                 \
	X(GROWN_UNDER_CHECKPOINT, "device grow: checkpoints begin while the head is copied")      \
	X(DURABLE_MARK_EARLY, "log: headers say that what was applied is durable")

#ifdef QUARRY_MUTANTS
enum mutant {
	MUTANT_NONE,
#define MUTANT_NUMBER(name, what) MUTANT_##name,
	MUTANTS(MUTANT_NUMBER)
#undef MUTANT_NUMBER
	MUTANT_COUNT
};

extern enum mutant mutant_chosen;
#define MUTANT(name) (mutant_chosen == MUTANT_##name)
#else
#define MUTANT(name) false
#endif

#endif
