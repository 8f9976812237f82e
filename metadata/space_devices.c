/* SPDX-License-Identifier: Apache-2.0 */
/* Copies on several devices; devices that are left out, come back, leave, or are fuller than
 * others. */
#include "metadata/space_internal.h"

#include "core/base/mutant.h"

/* --- copies --- */

uint32_t
space_copies_now(const struct space *space)
{
	uint32_t devices = 0;

	if (space->copies == 1)
		return 1;
	for (uint32_t i = 0; i < space->device_count; i++)
		devices += space_takes_new(&space->devices[i]);
	return (uint32_t)max_u64(1, min_u64(devices, space->copies));
}

/* How many times @copies of them can be had, each from another device, if there are @counts. */
static uint64_t
count_groups(const uint64_t *counts, uint32_t device_count, uint32_t copies)
{
	uint64_t largest[COPIES_MAX] = { 0 }; /* in falling order */
	uint64_t sum = 0, groups;

	for (uint32_t i = 0; i < device_count; i++) {
		uint64_t count = counts[i];

		sum += count;
		for (uint32_t k = 0; k < copies; k++) {
			uint64_t smaller = min_u64(count, largest[k]);

			largest[k] = max_u64(count, largest[k]);
			count = smaller;
		}
	}
	/* Each group takes at most one from a device: however many of the largest are left aside,
	 * the others must have the rest. */
	groups = sum / copies;
	for (uint32_t k = 0; k + 1 < copies; k++) {
		sum -= largest[k];
		groups = min_u64(groups, sum / (copies - 1 - k));
	}
	return groups;
}

uint64_t
space_count_free(const struct space *space, uint32_t copies)
{
	uint64_t counts[POOL_DEVICES_MAX];

	for (uint32_t i = 0; i < space->device_count; i++) {
		const struct space_device *device = &space->devices[i];

		counts[i] = space_takes_new(device) ? device->free_count : 0;
	}
	return count_groups(counts, space->device_count, copies);
}

void
space_recount(struct space *space)
{
	uint64_t all[POOL_DEVICES_MAX];

	for (uint32_t i = 0; i < space->device_count; i++) {
		const struct space_device *device = &space->devices[i];

		all[i] = space_takes_new(device) ? device->slab_count : 0;
	}
	space->free_count = space_count_free(space, space_copies_now(space));
	space->slab_count = count_groups(all, space->device_count, space_copies_now(space));
}

void
space_link_twin(struct slab *leader, struct slab *copy)
{
	CHECK(!copy->twin && copy != leader);
	copy->twin = leader->twin ? leader->twin : leader;
	leader->twin = copy;
}

void
space_unlink_twin(struct slab *slab)
{
	struct slab *before = slab->twin;

	if (!before)
		return;
	while (before->twin != slab)
		before = before->twin;
	before->twin = slab->twin == before ? NULL : slab->twin;
	slab->twin = NULL;
}

unsigned
space_places(const struct space *space, struct slab *leader, struct slab **places)
{
	unsigned n = 0;

	for_each_place(place, leader)
	{
		if (space_place_counts(space, place) && n < COPIES_MAX)
			places[n++] = place;
	}
	return n;
}

unsigned
space_name_places(const struct space *space, struct slab *leader, uint32_t *device, uint32_t *slab,
    struct slab_place *others)
{
	struct slab *places[COPIES_MAX];
	unsigned count = space_places(space, leader, places);

	CHECK(count > 0);
	*device = places[0]->device;
	*slab = places[0]->index;
	for (unsigned i = 1; i < COPIES_MAX; i++)
		others[i - 1] = i < count
				    ? (struct slab_place){ places[i]->device, places[i]->index }
				    : (struct slab_place){ BATCH_NO_SLAB, BATCH_NO_SLAB };
	return count - 1;
}
/* --- devices that are left out --- */

static unsigned
count_places(const struct space *space, struct slab *leader, uint32_t but_of)
{
	struct slab *places[COPIES_MAX];
	unsigned count = space_places(space, leader, places), n = 0;

	for (unsigned i = 0; i < count; i++)
		n += places[i]->device != but_of;
	return n;
}

/* Whether what lies at @leader can be used without device @index. */
static bool
lies_elsewhere(const struct space *space, struct slab *leader, uint32_t index)
{
	for_each_place(place, leader)
	{
		const struct space_device *device = &space->devices[place->device];

		if (place->device != index &&
		    (space_place_counts(space, place) ||
			(MUTANT(JOINING_RELIED_ON) && device->joining && !place->stale)))
			return true;
	}
	return false;
}

bool
space_can_leave_out(const struct space *space, uint32_t index)
{
	const struct space_device *device = &space->devices[index];
	bool others = false;

	for (uint32_t i = 0; i < space->device_count; i++)
		others |= i != index && space->devices[i].present && !space->devices[i].out &&
			  !space->devices[i].joining;
	for (uint32_t i = 0; others && i < device->mark; i++) {
		struct slab *slab = space_slab(device, i);

		if ((slab->state != SLAB_FREE || slab->twin) && !slab->stale &&
		    !lies_elsewhere(space, space_leader(slab), index))
			return false;
	}
	return others && space->copies > 1;
}

void
space_leave_out(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	for (uint32_t i = 0; i < device->mark; i++) {
		struct slab *slab = space_slab(device, i);

		if (slab->state == SLAB_FREE && !list_empty(&slab->link))
			space_leave_free(space, slab);
		slab->stale = slab->twin != NULL;
		slab->held &= device->leaving;
	}
	space_hold_fresh(space, device, true);
	device->joining = false;
	device->out = true;
	space_recount(space);
}

uint32_t
space_copies_min(const struct space *space)
{
	uint32_t least = space_copies_now(space);

	for (uint32_t d = 0; least > 1 && d < space->device_count; d++) {
		for (uint32_t i = 0; i < space->devices[d].mark; i++) {
			struct slab *slab = space_slab(&space->devices[d], i);

			/* Also of what the log has named, and goes to next. */
			if ((slab->state != SLAB_FREE || (slab->twin && !MUTANT(NAMED_NOT_TOLD))) &&
			    slab->state != SLAB_COPY)
				least =
				    (uint32_t)min_u64(least, count_places(space, slab, UINT32_MAX));
		}
	}
	return least;
}

uint64_t
space_count_degraded(const struct space *space)
{
	uint64_t n = 0;

	for (uint32_t d = 0; space->copies > 1 && d < space->device_count; d++) {
		for (uint32_t i = 0; i < space->devices[d].mark; i++) {
			struct slab *slab = space_slab(&space->devices[d], i);

			n += slab->state != SLAB_FREE && slab->state != SLAB_COPY &&
			     slab->live > 0 &&
			     count_places(space, slab, UINT32_MAX) < space->copies;
		}
	}
	return n;
}

/* --- devices that come back --- */

/* All PACKED slabs by their numbers, which are no addresses. */
static void
number_packed(const struct space *space, struct table *numbers)
{
	table_init(numbers);
	for (uint32_t d = 0; d < space->device_count; d++)
		for (uint32_t i = 0; i < space->devices[d].mark; i++) {
			struct slab *slab = space_slab(&space->devices[d], i);

			if (slab->state == SLAB_PACKED)
				table_set(numbers, slab->segment, slab);
		}
}

/* Whether the PACKED @leader is as it was when the table had it as @was: nothing was put into its
 * holes, nor is just now.  What takes the place of a block that died shows by its age: it waits for
 * a table that has that block as dead. */
static bool
is_as_it_was(const struct space *space, const struct slab *leader, const struct slab *was)
{
	if (MUTANT(PLUGGED_ELSEWHERE))
		return true;
	if (leader->plugging || was->stuck || leader->age != was->age)
		return false;
	for (uint32_t word = 0; word < space->slab_blocks / 64; word++)
		if (leader->live_bits[word] & ~was->live_bits[word])
			return false;
	return true;
}

/* The leader of what its own table says that @slab holds, all of it; NULL: that is gone, lies on
 * enough devices, or may lack something here. */
static struct slab *
find_missed(const struct space *space, const struct table *numbers, const struct slab *slab,
    const struct slab *was)
{
	struct slab *leader = NULL;
	uint8_t state = was->state;

	if (state == SLAB_OPEN && MUTANT(OPEN_TAKEN_OVER))
		state = SLAB_SEALED;
	if (state == SLAB_SEALED)
		leader = space_find(space, was->segment);
	else if (state == SLAB_PACKED)
		leader = table_get(numbers, was->segment);
	if (leader && state == SLAB_PACKED && !is_as_it_was(space, leader, was))
		return NULL;
	if (!leader || leader->state != state ||
	    leader->directory_blocks != was->directory_blocks || leader->live == 0 ||
	    leader->releasing || count_places(space, leader, UINT32_MAX) >= space->copies)
		return NULL;
	for_each_place(place, leader)
	{
		if (place->device == slab->device && place != slab)
			return NULL;
	}
	return leader;
}

/* True: @slab is a place of @leader that has all there is. */
static bool
take_over(struct slab *leader, struct slab *slab)
{
	if (slab->state != SLAB_FREE && space_leader(slab) == leader) {
		slab->stale = false;
		return true;
	}
	if (slab->state != SLAB_FREE || slab->twin)
		return false; /* it is meant for something else */
	space_link_twin(leader, slab);
	slab->state = SLAB_COPY;
	slab->segment = leader->segment;
	slab->flags |= SLAB_WRITTEN;
	slab->held = false;
	return true;
}

/* The pages as they are on the device; all are to be written, each to its older place. */
static void
take_pages(struct space *space, uint32_t index, const struct space_device *was)
{
	struct space_device *device = &space->devices[index];

	space_raise_mark(space, index, was->mark);
	for (uint32_t page = 0; page < device->page_count; page++) {
		bool has = page < was->page_count;

		device->page_place[page] = has && was->page_place[page];
		space_set_page_version(space, index, page, has ? was->page_checkpoint[page] : 0);
		bitmap_set(device->page_dirty, page);
	}
}

uint32_t
space_rejoin(struct space *space, uint32_t index, const struct space *was, bool trusted)
{
	struct space_device *device = &space->devices[index];
	const struct space_device *old = &was->devices[index];
	struct table numbers;
	uint32_t taken = 0;

	CHECK(space->copies > 1 && device->out && !device->removed && !device->leaving);
	if (!device->present) {
		space_add_device(space, index, &old->uuid, old->slabs_block, old->slab_count);
		space_hold_fresh(space, device, true);
		for (uint32_t i = 0; i < device->mark; i++)
			space_leave_free(space, space_slab(device, i));
	} else if (old->slab_count > device->slab_count) {
		space_grow_device(space, index, old->slab_count);
	}
	CHECK(device->slab_count == old->slab_count && device->slabs_block == old->slabs_block);
	device->out = false;
	device->joining = true;
	take_pages(space, index, old);
	number_packed(space, &numbers);
	for (uint32_t i = 0; i < device->mark; i++) {
		struct slab *slab = space_slab(device, i), *leader = NULL;
		const struct slab *was_slab = i < old->mark ? space_slab(old, i) : NULL;

		CHECK(slab->readers == 0 && (slab->state != SLAB_FREE || list_empty(&slab->link)));
		slab->held = slab->state == SLAB_FREE && !slab->twin;
		slab->stale = slab->twin && !MUTANT(STALE_FORGOTTEN);
		if (slab->held && trusted && was_slab)
			slab->flags = was_slab->flags;
		if (trusted && was_slab)
			leader = find_missed(space, &numbers, slab, was_slab);
		taken += leader && take_over(leader, slab);
	}
	table_fini(&numbers);
	space_recount(space);
	return taken;
}

uint64_t
space_slabs_with(const struct space *space, const uint32_t *slabs)
{
	uint64_t all[POOL_DEVICES_MAX] = { 0 };
	uint32_t devices = 0;

	for (uint32_t i = 0; i < space->device_count; i++) {
		const struct space_device *device = &space->devices[i];

		if (device->removed || device->leaving)
			continue;
		all[i] = device->out ? slabs[i] : device->slab_count;
		devices += all[i] > 0;
	}
	return count_groups(
	    all, space->device_count, (uint32_t)max_u64(1, min_u64(devices, space->copies)));
}

/* The slabs of the device that were held are free. */
static void
let_held_go(struct space *space, struct space_device *device)
{
	for (uint32_t i = 0; i < device->mark; i++) {
		struct slab *slab = space_slab(device, i);

		if (!slab->held)
			continue;
		slab->held = false;
		space_enter_free(space, slab);
	}
	space_hold_fresh(space, device, false);
	space_recount(space);
}

void
space_joined(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	CHECK(device->joining);
	device->joining = false;
	let_held_go(space, device);
}

/* --- devices that leave --- */

void
space_start_leaving(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	CHECK(device->present && !device->leaving && !device->removed);
	device->leaving = true;
	space->leaving_count++;
	for (uint32_t i = 0; i < device->mark; i++) {
		struct slab *slab = space_slab(device, i);

		if (slab->state != SLAB_FREE || list_empty(&slab->link))
			continue;
		space_leave_free(space, slab);
		slab->held = true;
	}
	space_hold_fresh(space, device, true);
	space_recount(space);
}

static void
leave_no_more(struct space *space, struct space_device *device)
{
	space->leaving_count -= device->leaving;
	device->leaving = false;
}

void
space_stop_leaving(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	leave_no_more(space, device);
	let_held_go(space, device);
}

bool
space_lies_badly(const struct space *space, struct slab *leader)
{
	unsigned count = 0;

	if (space->copies == 1)
		return space->devices[leader->device].leaving;
	for_each_place(place, leader)
	{
		if (!space_place_counts(space, place))
			continue;
		if (space->devices[place->device].leaving)
			return true;
		count++;
	}
	return count < space_copies_now(space);
}

uint32_t
space_count_used(const struct space *space, uint32_t index)
{
	const struct space_device *device = &space->devices[index];
	uint32_t n = 0;

	for (uint32_t i = 0; i < device->mark; i++)
		n += space_slab(device, i)->state != SLAB_FREE;
	return n;
}

bool
space_is_unused(const struct space *space, uint32_t index)
{
	const struct space_device *device = &space->devices[index];

	for (uint32_t i = 0; i < device->mark; i++) {
		const struct slab *slab = space_slab(device, i);

		if (MUTANT(FORGOTTEN_IN_USE) && slab->state == SLAB_SEALED)
			continue;
		if (slab->state != SLAB_FREE || slab->readers > 0 || slab->twin ||
		    !(slab->held || !list_empty(&slab->link)))
			return false;
	}
	return true;
}

bool
space_is_read(const struct space *space, uint32_t index)
{
	const struct space_device *device = &space->devices[index];

	for (uint32_t i = 0; i < device->mark; i++)
		if (space_slab(device, i)->readers > 0)
			return true;
	return false;
}

void
space_remove_device(struct space *space, uint32_t index)
{
	struct space_device *device = &space->devices[index];

	CHECK(device->out || (device->leaving && space_is_unused(space, index)));
	leave_no_more(space, device);
	device->out = true;
	device->removed = true;
	space->table_digest -= device->digest;
	device->digest = 0;
	space_recount(space);
}

uint64_t
space_slabs_without(const struct space *space, uint32_t index, uint32_t more)
{
	uint64_t all[POOL_DEVICES_MAX + 1] = { 0 };
	uint32_t devices = more > 0;

	for (uint32_t i = 0; i < space->device_count; i++) {
		if (i == index || !space_takes_new(&space->devices[i]))
			continue;
		all[i] = space->devices[i].slab_count;
		devices++;
	}
	all[space->device_count] = more;
	return count_groups(
	    all, space->device_count + 1, (uint32_t)max_u64(1, min_u64(devices, space->copies)));
}

/* --- balance --- */

uint64_t
space_find_fuller(const struct space *space, bool *fuller)
{
	uint64_t used = 0, slabs = 0, beyond = 0;

	for (uint32_t i = 0; i < space->device_count; i++) {
		const struct space_device *device = &space->devices[i];

		if (!space_takes_new(device))
			continue;
		used += device->slab_count - device->free_count;
		slabs += device->slab_count;
	}
	for (uint32_t i = 0; i < space->device_count; i++) {
		const struct space_device *device = &space->devices[i];
		uint64_t own = device->slab_count - device->free_count;
		uint64_t share = slabs ? used * device->slab_count / slabs : 0;

		fuller[i] = space_takes_new(device) &&
			    own > share + 1 + max_u64(1, device->slab_count / 32);
		beyond += fuller[i] ? own - share - 1 : 0;
	}
	return beyond;
}

bool
space_lies_on(const struct space *space, struct slab *leader, const bool *devices)
{
	bool lies = false;

	for_each_place(place, leader) lies |=
	    space_place_counts(space, place) && devices[place->device];
	return lies;
}
