/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the workload share: see sim_work.c. */
#ifndef QUARRY_TESTS_SIM_WORK_H
#define QUARRY_TESTS_SIM_WORK_H

#include "tests/sim/sim.h"

static inline uint64_t
draw(struct sim *sim, uint64_t n)
{
	return random_below(&sim->random, n);
}

static inline bool
one_in(struct sim *sim, uint64_t n)
{
	return random_one_in(&sim->random, n);
}

/* --- sim_seen.c --- */

void payload_fill(const struct sim_io *s, uint8_t *to, uint64_t from, uint64_t len);
void payload_patched(
    const struct sim_io *s, uint64_t lba, const struct content *old, uint8_t block[BLOCK_BYTES]);
bool io_writes_data(const struct sim_io *s);
/* The most blocks that are written as a whole, or not at all. */
bool io_is_atomic(const struct sim *sim, const struct sim_io *s);
bool io_is_partial(const struct sim_io *s, uint64_t lba);
void io_interior(const struct sim_io *s, uint64_t *first, uint64_t *end);

/* --- sim_judge.c --- */

void judge_error(struct sim *sim, struct sim_io *s);
void judge_read(struct sim *sim, const struct sim_io *s);
void judge_compare(struct sim *sim, const struct sim_io *s);
void judge_status(struct sim *sim, const struct sim_io *s);
void judge_change(struct sim *sim, const struct sim_io *s);
void judge_flush(struct sim *sim, const struct sim_io *s);
bool judge_reserve_used(const struct sim *sim);

/* --- sim_io.c --- */

struct sim_handle *handle_open(
    struct sim *sim, const struct model_volume *volume, const struct model_snapshot *snapshot);
struct sim_handle *handle_find(struct sim *sim, uint64_t volume_id, uint64_t snapshot_id);
void handle_close(struct sim *sim, struct sim_handle *handle);
void handles_close_gone(struct sim *sim);
struct sim_io *io_new(struct sim *sim, struct sim_handle *handle, enum volume_op op,
    uint64_t offset_bytes, uint64_t len_bytes);
void io_submit(struct sim *sim, struct sim_io *s);
void io_free(struct sim *sim, struct sim_io *s);
void io_read(struct sim *sim, struct sim_handle *handle, const struct model_image *image,
    uint64_t offset_bytes, uint64_t len_bytes, bool expect_error);
void io_write(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume);
void io_compare_write(
    struct sim *sim, struct sim_handle *handle, const struct model_volume *volume);
void io_zero(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume,
    enum volume_op op, bool huge);
void io_status(struct sim *sim, struct sim_handle *handle, const struct model_volume *volume);
void io_read_something(
    struct sim *sim, struct sim_handle *handle, const struct model_volume *volume);
struct model_volume *draw_volume(struct sim *sim);
struct model_snapshot *draw_snapshot(struct sim *sim, const struct model_volume *volume);

/* --- sim_admin.c --- */

void admin_something(struct sim *sim);
bool admin_add_device(struct sim *sim);
void admin_remove_device(struct sim *sim);
void admin_grow_device(struct sim *sim);
/* False: nothing of the kind can be done now. */
bool admin_return_device(struct sim *sim, uint64_t n);
void admin_rebalance(struct sim *sim);
void admin_delete_snapshots(struct sim *sim, const struct model_volume *volume);
void admin_delete_volume(struct sim *sim, const struct model_volume *volume);

#endif
