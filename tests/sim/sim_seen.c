/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the log carries must have been asked for: a batch may only change a block as some request in
 * flight asks for, on top of what the model holds there.  Each such request notes in which batch
 * its blocks were seen; reads under way note what else they may return.
 */
#include <stdlib.h>

#include "tests/sim/sim_work.h"

/* --- payloads --- */

/* Bytes [@from, @from + @len) of a volume as request @number writes them; zero blocks included. */
void
payload_fill(const struct sim_io *s, uint8_t *to, uint64_t from, uint64_t len)
{
	while (len > 0) {
		uint64_t lba = from / BLOCK_BYTES;
		uint64_t n = min_u64(len, (lba + 1) * BLOCK_BYTES - from);

		if (s->zeroes && mix64(s->number * 1000003 + lba) % s->zeroes == 0) {
			memset(to, 0, n);
		} else {
			uint64_t at = from, end = from + n;

			while (at < end) {
				uint64_t word = s->number << 32 | ((at / 8) & 0xffffffff);
				uint64_t skip = at % 8;
				uint64_t bytes = min_u64(8 - skip, end - at);

				memcpy(to + (at - from), (char *)&word + skip, bytes);
				at += bytes;
				/* Whole words: much of the simulator's time goes by here. */
				for (; at % 8 == 0 && at + 8 <= end; at += 8) {
					word = s->number << 32 | ((at / 8) & 0xffffffff);
					memcpy(to + (at - from), &word, 8);
				}
			}
		}
		to += n;
		from += n;
		len -= n;
	}
}

bool
io_writes_data(const struct sim_io *s)
{
	return s->io.op == VOLUME_WRITE || s->io.op == VOLUME_COMPARE_WRITE;
}

bool
io_is_atomic(const struct sim *sim, const struct sim_io *s)
{
	if (s->io.op == VOLUME_COMPARE_WRITE)
		return true;
	return s->count <= (s->io.flags & VOLUME_ATOMIC
				   ? log_atomic_blocks(sim->weather.slab_blocks)
				   : log_piece_blocks(sim->weather.slab_blocks));
}

/* What @s makes of block @lba that held @old. */
void
payload_patched(
    const struct sim_io *s, uint64_t lba, const struct content *old, uint8_t block[BLOCK_BYTES])
{
	uint64_t from = max_u64(s->io.offset_bytes, lba * BLOCK_BYTES);
	uint64_t to = min_u64(s->io.offset_bytes + s->io.len_bytes, (lba + 1) * BLOCK_BYTES);

	memcpy(block, content_bytes(old), BLOCK_BYTES);
	if (io_writes_data(s))
		payload_fill(s, block + from % BLOCK_BYTES, from, to - from);
	else
		memset(block + from % BLOCK_BYTES, 0, to - from);
}

/* --- what the log carries must have been asked for --- */

bool
io_is_partial(const struct sim_io *s, uint64_t lba)
{
	return lba * BLOCK_BYTES < s->io.offset_bytes ||
	       (lba + 1) * BLOCK_BYTES > s->io.offset_bytes + s->io.len_bytes;
}

/* The whole blocks of a TRIM or ZERO. */
void
io_interior(const struct sim_io *s, uint64_t *first, uint64_t *end)
{
	*first = div_round_up(s->io.offset_bytes, BLOCK_BYTES);
	*end = (s->io.offset_bytes + s->io.len_bytes) / BLOCK_BYTES;
}

static uint64_t *
seen_place(struct sim_io *s, uint64_t lba)
{
	if (io_writes_data(s))
		return &s->seen[lba - s->lba];
	if (s->io.op == VOLUME_ZERO && io_is_partial(s, lba))
		return &s->seen[lba == s->lba ? 0 : 1];
	return NULL;
}

/* Of equal zeroes it cannot be told whose they were: the first that fits is the least to be
 * claimed. */
static void
note_seen(uint64_t *seen, uint64_t sequence)
{
	if (*seen == 0)
		*seen = sequence;
}

static bool
writes(const struct sim_io *s, uint64_t volume_id)
{
	return s->handle->volume_id == volume_id && !s->handle->snapshot_id &&
	       (io_writes_data(s) || s->io.op == VOLUME_TRIM || s->io.op == VOLUME_ZERO);
}

/* Whether @s may change block @lba, which holds @old: one that compares only if that is what it
 * expects. */
static bool
may_change(const struct sim_io *s, uint64_t lba, const struct content *old)
{
	uint64_t from = max_u64(s->io.offset_bytes, lba * BLOCK_BYTES);
	uint64_t to = min_u64(s->io.offset_bytes + s->io.len_bytes, (lba + 1) * BLOCK_BYTES);

	return s->io.op != VOLUME_COMPARE_WRITE ||
	       memcmp(s->compare + (from - s->lba * BLOCK_BYTES),
		   content_bytes(old) + from % BLOCK_BYTES, to - from) == 0;
}

static void
write_applied(struct sim *sim, struct model_volume *volume, uint64_t sequence,
    const struct record_entry *entry)
{
	for (uint64_t n = 0; n < entry->blocks; n++) {
		uint64_t lba = entry->lba + n;
		const struct content *old = model_get(&volume->image, lba);
		uint8_t block[BLOCK_BYTES];
		bool found = false;

		list_for_each(node, &sim->ios) {
			struct sim_io *s = container_of(node, struct sim_io, link);
			uint64_t *seen;

			if (!writes(s, volume->id) || lba < s->lba || lba >= s->lba + s->count)
				continue;
			seen = seen_place(s, lba);
			if (!seen || !may_change(s, lba, old))
				continue;
			payload_patched(s, lba, old, block);
			if (memcmp(block, entry->contents[n]->bytes, BLOCK_BYTES) == 0) {
				note_seen(seen, sequence);
				found = true;
			}
		}
		if (!found) {
			uint64_t word;

			memcpy(&word, entry->contents[n]->bytes, 8);
			sim_fail(sim,
			    "batch %llu writes block %llu of %s as nobody asked (begins as request "
			    "%llu)",
			    (unsigned long long)sequence, (unsigned long long)lba, volume->name,
			    (unsigned long long)word >> 32);
		}
	}
}

static bool
writes_zeroes(const struct sim_io *s, uint64_t lba)
{
	uint8_t block[BLOCK_BYTES];
	static const uint8_t zeroes[BLOCK_BYTES];

	if (io_is_partial(s, lba))
		return true; /* depends on what was there; the caller compares */
	payload_fill(s, block, lba * BLOCK_BYTES, BLOCK_BYTES);
	return memcmp(block, zeroes, BLOCK_BYTES) == 0;
}

static bool
zero_of_write(struct sim_io *s, const struct model_volume *volume, uint64_t sequence,
    const struct record_entry *entry)
{
	for (uint64_t n = 0; n < entry->blocks; n++) {
		uint64_t lba = entry->lba + n;
		uint8_t block[BLOCK_BYTES];

		if (!may_change(s, lba, model_get(&volume->image, lba)))
			return false;
		if (io_writes_data(s) && !writes_zeroes(s, lba))
			return false;
		if (s->io.op == VOLUME_ZERO && !io_is_partial(s, lba))
			return false;
		payload_patched(s, lba, model_get(&volume->image, lba), block);
		if (memcmp(block, content_bytes(NULL), BLOCK_BYTES) != 0)
			return false;
	}
	for (uint64_t n = 0; n < entry->blocks; n++)
		note_seen(seen_place(s, entry->lba + n), sequence);
	return true;
}

static void
zero_applied(struct sim *sim, struct model_volume *volume, uint64_t sequence,
    const struct record_entry *entry)
{
	bool found = false;

	list_for_each(node, &sim->ios) {
		struct sim_io *s = container_of(node, struct sim_io, link);
		uint64_t first, end;

		if (!writes(s, volume->id))
			continue;
		if (!io_writes_data(s)) {
			io_interior(s, &first, &end);
			if (entry->lba == first && first < end && entry->blocks == end - first) {
				note_seen(&s->seen[2], sequence);
				found = true;
			}
		}
		if (s->io.op != VOLUME_TRIM && entry->lba >= s->lba &&
		    entry->lba + entry->blocks <= s->lba + s->count)
			found |= zero_of_write(s, volume, sequence, entry);
	}
	list_for_each(node, &sim->admins) {
		const struct sim_admin *a = container_of(node, struct sim_admin, link);

		found |= a->request.verb == ADMIN_VOLUME_RESIZE && a->volume_id == volume->id &&
			 entry->lba == round_up(a->request.size_bytes, BLOCK_BYTES) / BLOCK_BYTES &&
			 entry->lba + entry->blocks == volume->size_bytes / BLOCK_BYTES;
	}
	if (!found)
		sim_fail(sim, "batch %llu clears blocks %llu+%llu of %s, as nobody asked",
		    (unsigned long long)sequence, (unsigned long long)entry->lba,
		    (unsigned long long)entry->blocks, volume->name);
}

void
work_entry_applied(struct sim *sim, uint64_t sequence, const struct record_entry *entry)
{
	struct model_volume *volume = model_by_head(sim->history.present, entry->image);

	if (entry->lba + entry->blocks > volume->size_bytes / BLOCK_BYTES)
		sim_fail(sim, "batch %llu changes blocks %llu+%llu of %s, behind its end",
		    (unsigned long long)sequence, (unsigned long long)entry->lba,
		    (unsigned long long)entry->blocks, volume->name);
	if (entry->type == BATCH_ZERO)
		zero_applied(sim, volume, sequence, entry);
	else
		write_applied(sim, volume, sequence, entry);
}

static void
add_alternative(struct sim_io *s, uint64_t lba, struct content *content)
{
	struct read_alternative *alternative = xcalloc(1, sizeof(*alternative));

	alternative->lba = lba;
	alternative->content = content_get(content);
	list_init(&alternative->link);
	list_push_back(&s->alternatives, &alternative->link);
}

void
work_note_change(struct sim *sim, uint64_t volume_id, uint64_t lba, struct content *content)
{
	list_for_each(node, &sim->ios) {
		struct sim_io *s = container_of(node, struct sim_io, link);

		if (s->expected && s->handle->volume_id == volume_id && !s->handle->snapshot_id &&
		    lba >= s->lba && lba < s->lba + s->count)
			add_alternative(s, lba, content);
	}
}

void
work_note_range(struct sim *sim, const struct model_volume *volume, uint64_t lba, uint64_t count)
{
	list_for_each(node, &sim->ios) {
		struct sim_io *s = container_of(node, struct sim_io, link);

		if (!s->expected || s->handle->volume_id != volume->id || s->handle->snapshot_id)
			continue;
		for (uint64_t at = max_u64(lba, s->lba); at < s->lba + s->count && at - lba < count;
		     at++)
			add_alternative(s, at, model_get(&volume->image, at));
	}
}
