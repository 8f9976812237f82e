/* SPDX-License-Identifier: Apache-2.0 */
#include "core/heartbeat.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/diag.h"
#include "core/base/process.h"
#include "core/pool_internal.h"

/* --- who we are --- */

static void
read_boot_id(uint64_t words[2])
{
	char text[64] = "";
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
	uint64_t hash = 0;

	if (file) {
		if (!fgets(text, sizeof(text), file))
			text[0] = '\0';
		fclose(file);
	}
	for (const char *at = text; *at; at++)
		hash = mix64(hash ^ (uint8_t)*at);
	words[0] = hash;
	words[1] = mix64(hash + 1);
}

void
heartbeat_owner_init(struct heartbeat_owner *owner)
{
	uint64_t words[2];
	struct stat namespace;

	memset(owner, 0, sizeof(*owner));
	read_boot_id(words);
	if (stat("/proc/self/ns/pid", &namespace) == 0)
		words[1] ^= mix64((uint64_t) namespace.st_ino);
	memcpy(owner->machine.bytes, words, sizeof(owner->machine.bytes));
	owner->pid = (uint32_t)getpid();
	if (gethostname(owner->host, sizeof(owner->host) - 1))
		snprintf(owner->host, sizeof(owner->host), "a machine without a name");
	owner->interval_ms = HEARTBEAT_INTERVAL_MS;
}

/* --- one device's block --- */

static void
io_done(struct device_io *io)
{
	struct heartbeat_io *one = container_of(io, struct heartbeat_io, io);

	one->error = io->error;
	if (io->op == DEVICE_READ) {
		memset(&one->seen, 0, sizeof(one->seen));
		if (!io->error)
			heartbeat_decode(&one->seen, one->block);
	}
	one->done(one);
}

static void
start(struct heartbeat_io *one, enum device_op op, struct device *device)
{
	one->iov.iov_base = one->block;
	one->iov.iov_len = FORMAT_BLOCK_BYTES;
	memset(&one->io, 0, sizeof(one->io));
	one->io.op = op;
	one->io.offset_bytes = FORMAT_HEARTBEAT_BLOCK * (uint64_t)FORMAT_BLOCK_BYTES;
	one->io.len_bytes = FORMAT_BLOCK_BYTES;
	one->io.iov = &one->iov;
	one->io.iov_count = 1;
	one->io.done = io_done;
	one->io.passes_gate = true;
	device_submit(device, &one->io);
}

static void
get_block(struct heartbeat_io *one)
{
	if (!one->block)
		one->block = xalloc_pages(FORMAT_BLOCK_BYTES);
}

void
heartbeat_io_fini(struct heartbeat_io *one)
{
	free(one->block);
}

void
heartbeat_read(struct heartbeat_io *one, struct device *device)
{
	get_block(one);
	start(one, DEVICE_READ, device);
}

void
heartbeat_write(struct heartbeat_io *one, struct device *device, const struct heartbeat *heartbeat)
{
	get_block(one);
	heartbeat_encode(heartbeat, one->block);
	start(one, DEVICE_WRITE, device);
}

/* --- rounds --- */

static void
round_io_done(struct heartbeat_io *one)
{
	struct heartbeat_round *round = container_of(one, struct heartbeat_round_io, one)->round;

	if (--round->left == 0)
		round->done(round);
}

void
heartbeat_round_init(struct heartbeat_round *round)
{
	memset(round, 0, sizeof(*round));
	for (uint32_t i = 0; i < POOL_DEVICES_MAX; i++) {
		round->ios[i].round = round;
		round->ios[i].one.done = round_io_done;
	}
}

void
heartbeat_round_fini(struct heartbeat_round *round)
{
	CHECK(round->left == 0);
	for (uint32_t i = 0; i < POOL_DEVICES_MAX; i++)
		heartbeat_io_fini(&round->ios[i].one);
}

static void
round_begin(struct heartbeat_round *round, uint32_t count)
{
	CHECK(round->left == 0 && count > 0 && count <= POOL_DEVICES_MAX);
	round->count = count;
	round->left = count;
}

void
heartbeat_round_read(struct heartbeat_round *round, struct device **devices, uint32_t count)
{
	round_begin(round, count);
	for (uint32_t i = 0; i < count; i++)
		heartbeat_read(&round->ios[i].one, devices[i]);
}

void
heartbeat_round_write(struct heartbeat_round *round, const struct heartbeat *heartbeat,
    struct device **devices, uint32_t count)
{
	round_begin(round, count);
	for (uint32_t i = 0; i < count; i++)
		heartbeat_write(&round->ios[i].one, devices[i], heartbeat);
}

/* --- of a pool in service --- */

static bool
is_in_service(const struct pool *pool, uint32_t index)
{
	return index < pool->device_count && pool->devices[index].device &&
	       !pool->space.devices[index].out && !pool->pulse.beats[index].mute;
}

void
heartbeat_of(const struct pool *pool, struct heartbeat *heartbeat)
{
	const struct pulse *pulse = &pool->pulse;

	*heartbeat = (struct heartbeat){
		.pool_uuid = pool->uuid,
		.session = pulse->session,
		.machine = pulse->owner->machine,
		.pid = pulse->owner->pid,
		.beat = pulse->beat,
		.interval_ms = pulse->owner->interval_ms,
		.released = pulse->released,
	};
	memcpy(heartbeat->host, pulse->owner->host, sizeof(heartbeat->host));
}

bool
heartbeat_may_beat(const struct pool *pool, const struct heartbeat *seen)
{
	const struct heartbeat_owner *owner = pool->pulse.owner;

	if (seen->interval_ms == 0 || seen->released || !uuid_equal(&seen->pool_uuid, &pool->uuid))
		return false;
	return !uuid_equal(&seen->machine, &owner->machine) ||
	       (seen->pid != owner->pid && !process_is_gone((int)seen->pid));
}

bool
heartbeat_has_changed(const struct heartbeat *seen, const struct heartbeat *before)
{
	return seen->beat != before->beat || seen->released != before->released ||
	       !uuid_equal(&seen->session, &before->session);
}

static bool
is_other(const struct pool *pool, const struct heartbeat *seen)
{
	return seen->interval_ms != 0 && uuid_equal(&seen->pool_uuid, &pool->uuid) &&
	       !uuid_equal(&seen->session, &pool->pulse.session);
}

static uint64_t
interval_ns(const struct pulse *pulse)
{
	return pulse->owner->interval_ms * 1000000ull;
}

/* --- the lease: who was not seen to beat for 2.5 intervals may be replaced --- */

#define LEASE_INTERVALS 2u

static bool
is_over(const struct pulse *pulse)
{
	return device_gate_now_ns(&pulse->gate) >= pulse->gate.until_ns;
}

static void
renew(struct pulse *pulse, uint64_t from_ns)
{
	device_gate_open(&pulse->gate,
	    max_u64(pulse->gate.until_ns, from_ns + LEASE_INTERVALS * interval_ns(pulse)));
}

static void
refuse(struct task *task)
{
	struct pool *pool = container_of(task, struct pool, pulse.refuse);

	device_gate_fail(&pool->pulse.gate, -EIO);
}

/* Something is to be written, and perhaps the pool is another's by now: looks at once. */
static void
lease_over(struct device_gate *gate)
{
	struct pool *pool = container_of(gate, struct pool, pulse.gate);
	struct pulse *pulse = &pool->pulse;

	if (pulse->lost || pulse->given_up)
		reactor_defer(pool->reactor, &pulse->refuse);
	else if (pulse->under_way == 0)
		reactor_timer_start(pool->reactor, &pulse->timer, 0);
}

void
heartbeat_guard(struct pool *pool)
{
	for (uint32_t i = 0; pool->pulse.started && i < pool->device_count; i++)
		if (pool->devices[i].device)
			pool->devices[i].device->gate = &pool->pulse.gate;
}

/* --- beats --- */

/* All have ended, and none was written: nobody knows whose the pool is. */
static void
give_up_lease(struct pool *pool)
{
	struct pulse *pulse = &pool->pulse;

	if (list_empty(&pulse->gate.held) || !is_over(pulse))
		return;
	if (!pulse->lost)
		pool_fail(pool, "no heartbeat could be written for so long that another machine "
				"may have taken the pool over");
	pulse->given_up = true;
	reactor_defer(pool->reactor, &pulse->refuse);
}

static void
beat_ended(struct beat *beat)
{
	struct pool *pool = beat->pool;
	struct pulse *pulse = &pool->pulse;

	beat->under_way = false;
	if (--pulse->under_way > 0)
		return;
	if (pulse->released && !pulse->lost)
		pulse->gate.until_ns = UINT64_MAX; /* what is written from now on wipes it */
	give_up_lease(pool);
	if (!pulse->stop)
		return;
	reactor_defer(pool->reactor, pulse->stop);
	pulse->stop = NULL;
}

static void
beat_written(struct heartbeat_io *one)
{
	struct beat *beat = container_of(one, struct beat, one);

	if (!one->error)
		renew(&beat->pool->pulse, beat->read_at_ns);
	beat_ended(beat);
}

static void beat_seen(struct heartbeat_io *one);

static void
beat_read(struct beat *beat)
{
	struct pool *pool = beat->pool;

	beat->read_ns = pool->reactor->now_ns;
	beat->read_at_ns = device_gate_now_ns(&pool->pulse.gate);
	beat->one.done = beat_seen;
	heartbeat_read(&beat->one, pool->devices[beat->index].device);
}

static void
beat_write(struct beat *beat)
{
	struct pool *pool = beat->pool;
	struct heartbeat heartbeat;

	heartbeat_of(pool, &heartbeat);
	beat->one.done = beat_written;
	heartbeat_write(&beat->one, pool->devices[beat->index].device, &heartbeat);
}

static void
beat_seen(struct heartbeat_io *one)
{
	struct beat *beat = container_of(one, struct beat, one);
	struct pool *pool = beat->pool;
	struct pulse *pulse = &pool->pulse;

	if (is_other(pool, &one->seen) && !pulse->lost) {
		pulse->lost = true;
		pool_fail(pool, "it was imported by %.63s (process %u), %s", one->seen.host,
		    one->seen.pid, is_over(pulse) ? "while this process stood still" : "by force");
	}
	if (pulse->lost || (pulse->stop && !pulse->released) || !is_in_service(pool, beat->index))
		beat_ended(beat);
	else if (pool->reactor->now_ns - beat->read_ns >= interval_ns(pulse))
		beat_read(beat);
	else
		beat_write(beat);
}

static struct beat *
begin_beat(struct pool *pool, uint32_t index)
{
	struct beat *beat = &pool->pulse.beats[index];

	CHECK(!beat->under_way);
	beat->pool = pool;
	beat->index = index;
	beat->under_way = true;
	pool->pulse.under_way++;
	return beat;
}

static void
tick(struct timer *timer)
{
	struct pool *pool = container_of(timer, struct pool, pulse.timer);
	struct pulse *pulse = &pool->pulse;

	reactor_timer_start(pool->reactor, &pulse->timer, interval_ns(pulse));
	pulse->beat++;
	for (uint32_t i = 0; i < pool->device_count && !pulse->lost; i++)
		if (is_in_service(pool, i) && !pulse->beats[i].under_way)
			beat_read(begin_beat(pool, i));
	/* On no device can one be written: others see none, and nothing can be told from it. */
	if (pulse->under_way == 0 && !pulse->lost)
		device_gate_open(&pulse->gate, UINT64_MAX);
}

void
heartbeat_init(struct pool *pool, const struct heartbeat_owner *owner)
{
	struct pulse *pulse = &pool->pulse;

	timer_init(&pulse->timer, tick);
	task_init(&pulse->refuse, refuse);
	device_gate_init(&pulse->gate);
	pulse->gate.reactor = pool->reactor;
	pulse->gate.closed = lease_over;
	pulse->owner = owner;
	if (owner)
		pulse->session = uuid_new();
}

void
heartbeat_fini(struct pool *pool)
{
	CHECK(pool->pulse.under_way == 0 && list_empty(&pool->pulse.gate.held));
	reactor_cancel(pool->reactor, &pool->pulse.refuse);
	reactor_timer_cancel(pool->reactor, &pool->pulse.timer);
	for (uint32_t i = 0; i < POOL_DEVICES_MAX; i++)
		heartbeat_io_fini(&pool->pulse.beats[i].one);
}

void
heartbeat_start(struct pool *pool)
{
	if (!pool->pulse.owner || pool->pulse.started)
		return;
	pool->pulse.started = true;
	renew(&pool->pulse, pool->pulse.confirmed_ns ? pool->pulse.confirmed_ns
						     : device_gate_now_ns(&pool->pulse.gate));
	heartbeat_guard(pool);
	tick(&pool->pulse.timer);
}

bool
heartbeat_stop(struct pool *pool, struct task *stopped)
{
	struct pulse *pulse = &pool->pulse;

	if (!pulse->started || pulse->released)
		return false;
	reactor_timer_cancel(pool->reactor, &pulse->timer);
	if (pulse->under_way > 0) {
		pulse->stop = stopped; /* it asks again */
		return true;
	}
	pulse->released = true;
	if (pulse->lost)
		return false; /* the block is another's */
	for (uint32_t i = 0; i < pool->device_count; i++)
		if (is_in_service(pool, i))
			beat_read(begin_beat(pool, i));
	if (pulse->under_way == 0)
		return false;
	pulse->stop = stopped;
	return true;
}
