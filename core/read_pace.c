/* SPDX-License-Identifier: Apache-2.0 */
#include "core/read_pace.h"

void
read_pace_init(struct read_pace *pace)
{
	*pace = (struct read_pace){ .limit = UINT32_MAX };
	list_init(&pace->waiting);
}

static void
submit(struct read_pace *pace, struct paced_read *read)
{
	pace->in_flight++;
	device_submit(read->device, &read->io);
}

void
read_pace_submit(struct read_pace *pace, struct device *device, struct paced_read *read)
{
	read->device = device;
	if (pace->in_flight < pace->limit) {
		submit(pace, read);
	} else {
		list_push_back(&pace->waiting, &read->link);
		pace->waiting_count++;
	}
	pace->outstanding =
	    (uint32_t)max_u64(pace->outstanding, pace->in_flight + pace->waiting_count);
}

/* Learns from the turn that is over. */
static void
judge(struct read_pace *pace)
{
	if (pace->turn_in_flight < READ_PACE_LIMIT_MIN)
		return;
	pace->begun += pace->turn_in_flight - pace->begun / READ_PACE_TURNS;
	pace->answered += pace->turn_done - pace->answered / READ_PACE_TURNS;
	if (4 * pace->answered >= pace->begun)
		pace->limit = (uint32_t)max_u64(READ_PACE_LIMIT_MIN, (pace->outstanding + 1) / 2);
	else
		pace->limit = UINT32_MAX;
	/* Forgets slowly how much there was. */
	pace->outstanding -= (pace->outstanding + 63) / 64;
}

void
read_pace_done(struct read_pace *pace, uint64_t now_ns)
{
	if (now_ns != pace->turn_ns) {
		judge(pace);
		pace->turn_ns = now_ns;
		pace->turn_in_flight = pace->in_flight;
		pace->turn_done = 0;
	}
	pace->turn_done++;
	pace->in_flight--;
	while (pace->waiting_count > 0 && pace->in_flight < pace->limit) {
		struct list *node = list_pop_front(&pace->waiting);

		pace->waiting_count--;
		submit(pace, container_of(node, struct paced_read, link));
	}
}
