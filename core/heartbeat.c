/* SPDX-License-Identifier: Apache-2.0 */
#include "core/heartbeat.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/diag.h"
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

/* --- rounds --- */

void
heartbeat_round_init(struct heartbeat_round *round)
{
	memset(round, 0, sizeof(*round));
}

void
heartbeat_round_fini(struct heartbeat_round *round)
{
	CHECK(round->left == 0);
	for (uint32_t i = 0; i < POOL_DEVICES_MAX; i++)
		free(round->ios[i].block);
}

static void
io_done(struct device_io *io)
{
	struct heartbeat_io *one = container_of(io, struct heartbeat_io, io);
	struct heartbeat_round *round = one->round;

	one->error = io->error;
	if (io->op == DEVICE_READ) {
		memset(&one->seen, 0, sizeof(one->seen));
		if (!io->error)
			heartbeat_decode(&one->seen, one->block);
	}
	if (--round->left == 0)
		round->done(round);
}

static void
start(struct heartbeat_round *round, enum device_op op, struct device **devices, uint32_t count)
{
	CHECK(round->left == 0 && count > 0 && count <= POOL_DEVICES_MAX);
	round->count = count;
	round->left = count;
	for (uint32_t i = 0; i < count; i++) {
		struct heartbeat_io *one = &round->ios[i];

		one->round = round;
		one->device = devices[i];
		one->iov.iov_base = one->block;
		one->iov.iov_len = FORMAT_BLOCK_BYTES;
		memset(&one->io, 0, sizeof(one->io));
		one->io.op = op;
		one->io.offset_bytes = FORMAT_HEARTBEAT_BLOCK * (uint64_t)FORMAT_BLOCK_BYTES;
		one->io.len_bytes = FORMAT_BLOCK_BYTES;
		one->io.iov = &one->iov;
		one->io.iov_count = 1;
		one->io.done = io_done;
		device_submit(devices[i], &one->io);
	}
}

static void
get_blocks(struct heartbeat_round *round, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (!round->ios[i].block)
			round->ios[i].block = xalloc_pages(FORMAT_BLOCK_BYTES);
}

void
heartbeat_round_read(struct heartbeat_round *round, struct device **devices, uint32_t count)
{
	get_blocks(round, count);
	start(round, DEVICE_READ, devices, count);
}

void
heartbeat_round_write(struct heartbeat_round *round, const struct heartbeat *heartbeat,
    struct device **devices, uint32_t count)
{
	get_blocks(round, count);
	for (uint32_t i = 0; i < count; i++)
		heartbeat_encode(heartbeat, round->ios[i].block);
	start(round, DEVICE_WRITE, devices, count);
}

/* --- of a pool in service --- */

static uint32_t
devices_in_service(const struct pool *pool, struct device **devices)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < pool->device_count; i++)
		if (pool->devices[i].device && !pool->space.devices[i].out)
			devices[count++] = pool->devices[i].device;
	return count;
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

static bool
is_other(const struct pool *pool, const struct heartbeat *seen)
{
	return seen->interval_ms != 0 && uuid_equal(&seen->pool_uuid, &pool->uuid) &&
	       !uuid_equal(&seen->session, &pool->pulse.session);
}

static void
rest(struct pool *pool)
{
	struct pulse *pulse = &pool->pulse;

	pulse->beating = false;
	if (pulse->stop) {
		reactor_defer(pool->reactor, pulse->stop);
		pulse->stop = NULL;
	} else {
		reactor_timer_start(
		    pool->reactor, &pulse->timer, pulse->owner->interval_ms * 1000000ull);
	}
}

static void
beaten(struct heartbeat_round *round)
{
	rest(container_of(round, struct pool, pulse.round));
}

static void
beat_seen(struct heartbeat_round *round)
{
	struct pool *pool = container_of(round, struct pool, pulse.round);
	struct pulse *pulse = &pool->pulse;
	struct device *devices[POOL_DEVICES_MAX];
	struct heartbeat heartbeat;
	uint32_t count = devices_in_service(pool, devices);

	for (uint32_t i = 0; i < round->count && !pulse->lost; i++) {
		const struct heartbeat *seen = &round->ios[i].seen;

		if (!is_other(pool, seen))
			continue;
		pulse->lost = true;
		pool_fail(
		    pool, "it was imported by %.63s (process %u), by force", seen->host, seen->pid);
	}
	if (pulse->lost || count == 0)
		return rest(pool);
	pulse->beat++;
	heartbeat_of(pool, &heartbeat);
	round->done = beaten;
	heartbeat_round_write(round, &heartbeat, devices, count);
}

static void
beat(struct timer *timer)
{
	struct pool *pool = container_of(timer, struct pool, pulse.timer);
	struct pulse *pulse = &pool->pulse;
	struct device *devices[POOL_DEVICES_MAX];
	uint32_t count = devices_in_service(pool, devices);

	pulse->beating = true;
	if (pulse->lost || count == 0)
		return rest(pool);
	pulse->round.done = beat_seen;
	heartbeat_round_read(&pulse->round, devices, count);
}

void
heartbeat_init(struct pool *pool, const struct heartbeat_owner *owner)
{
	struct pulse *pulse = &pool->pulse;

	heartbeat_round_init(&pulse->round);
	timer_init(&pulse->timer, beat);
	pulse->owner = owner;
	if (owner)
		pulse->session = uuid_new();
}

void
heartbeat_fini(struct pool *pool)
{
	CHECK(!pool->pulse.beating);
	reactor_timer_cancel(pool->reactor, &pool->pulse.timer);
	heartbeat_round_fini(&pool->pulse.round);
}

void
heartbeat_start(struct pool *pool)
{
	if (pool->pulse.owner && !pool->pulse.beating)
		beat(&pool->pulse.timer);
}

static void
released(struct heartbeat_round *round)
{
	struct pool *pool = container_of(round, struct pool, pulse.round);

	rest(pool);
}

bool
heartbeat_stop(struct pool *pool, struct task *stopped)
{
	struct pulse *pulse = &pool->pulse;
	struct device *devices[POOL_DEVICES_MAX];
	struct heartbeat heartbeat;
	uint32_t count = devices_in_service(pool, devices);

	if (!pulse->owner || pulse->released)
		return false;
	if (pulse->beating) {
		pulse->stop = stopped; /* it asks again */
		return true;
	}
	reactor_timer_cancel(pool->reactor, &pulse->timer);
	pulse->released = true;
	if (pulse->lost || pulse->beat == 0 || count == 0)
		return false; /* the block is another's */
	pulse->beating = true;
	pulse->stop = stopped;
	heartbeat_of(pool, &heartbeat);
	pulse->round.done = released;
	heartbeat_round_write(&pulse->round, &heartbeat, devices, count);
	return true;
}
