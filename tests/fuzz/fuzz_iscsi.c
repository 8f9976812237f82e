/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An iSCSI initiator's bytes, from the first on or behind a good login, against a volume of a real
 * pool on a memory device.  Behind the login the input may also be a list of SCSI commands, each of
 * which becomes a PDU with the right numbers, so that what lies below is reached.  Every answer's
 * bytes are read; when the input ends the session is ended with what is in flight.
 */
#include <stdlib.h>

#include "backends/memory.h"
#include "core/base/diag.h"
#include "core/pool_admin.h"
#include "core/pool_internal.h"
#include "core/pool_sync.h"
#include "frontends/iscsi/iscsi_session.h"
#include "tests/fuzz/fuzz.h"

#define DISK_BYTES (24 * MIB)

static struct {
	bool made;
	struct reactor reactor;
	struct pool *pool;
	struct buffer_pool *buffers;
	struct scsi_port port;
	struct iscsi_portal portal;
	struct name name;
	volatile uint32_t sum; /* of what was sent */
} world;

struct initiator {
	struct iscsi_session session;
	struct name wanted;
	bool wants_open, wants_offer, wants_refusal, closed, idle;
};

/* --- the pool --- */

static void
turn(void)
{
	uint64_t next_ns;

	if (reactor_run_turn(&world.reactor, world.reactor.now_ns))
		return;
	next_ns = reactor_next_deadline_ns(&world.reactor);
	if (next_ns != UINT64_MAX)
		reactor_run_turn(&world.reactor, max_u64(next_ns, world.reactor.now_ns));
}

static void
make_world(void)
{
	static const struct pool_config config = { .reactor = &world.reactor,
		.node_cache_bytes = 1 * MIB };
	struct pool_start start = { 0 };
	struct admin_request create = { .verb = ADMIN_VOLUME_CREATE, .size_bytes = 8 * MIB };
	struct memory_device_options options = { 0 };
	struct device *device;

	diag_set_level(DIAG_ERROR);
	reactor_init(&world.reactor);
	reactor_set_current(&world.reactor);
	device =
	    memory_device_open(memory_disk_create(DISK_BYTES), &world.reactor, "disk", &options);
	world.pool = pool_sync_create(&config, "p", &device, 1, 64, &start);
	CHECK(world.pool);
	strcpy(world.name.pool, "p");
	strcpy(world.name.volume, "v");
	create.name = world.name;
	CHECK(pool_sync_admin(world.pool, &create) == 0);
	world.buffers = buffer_pool_create(64 * MIB);
	scsi_port_init(&world.port, &world.reactor, world.buffers, NULL);
	world.portal.scsi = &world.port;
	list_init(&world.portal.sessions);
	world.made = true;
}

/* --- the session's owner --- */

static struct initiator *
initiator_of(struct iscsi_session *session)
{
	return container_of(session, struct initiator, session);
}

static void
session_open(struct iscsi_session *session, const struct iscsi_grant *grant)
{
	initiator_of(session)->wanted = grant->name;
	initiator_of(session)->wants_open = true;
}

static void
session_offer(struct iscsi_session *session)
{
	initiator_of(session)->wants_offer = true;
}

static void
session_refused(struct iscsi_session *session)
{
	initiator_of(session)->wants_refusal = true;
}

static void
session_output(struct iscsi_session *session)
{
	(void)session; /* it is gathered at every turn */
}

static void
session_close(struct iscsi_session *session, bool flush)
{
	(void)flush;
	initiator_of(session)->closed = true;
}

static void
session_idle(struct iscsi_session *session)
{
	initiator_of(session)->idle = true;
}

static bool
is_idle(const void *initiator)
{
	return ((const struct initiator *)initiator)->idle;
}

static const struct iscsi_session_events events = {
	.offer = session_offer,
	.open = session_open,
	.refused = session_refused,
	.output = session_output,
	.close = session_close,
	.idle = session_idle,
};

/* The volume as its default target, and as LUN 0 and 3 of one that wants CHAP. */
static void
make_offer(struct iscsi_session *session)
{
	struct target_export exports[2] = { 0 };
	struct target_names names = { .names = &world.name, .count = 1 };
	struct iscsi_offer offer;

	for (unsigned i = 0; i < 2; i++) {
		exports[i].name = world.name;
		exports[i].item.lun = (uint8_t)(3 * i);
		strcpy(exports[i].item.target, "iqn.chap");
		strcpy(exports[i].item.user, "u");
		strcpy(exports[i].item.secret, "abcdefghijkl");
		strcpy(exports[i].item.mutual_user, "m");
		strcpy(exports[i].item.mutual_secret, "lkjihgfedcba");
	}
	if (strcmp(session->params.target_name, "iqn.chap") == 0 || session->params.discovery) {
		names.exports = exports;
		names.export_count = 2;
	}
	iscsi_offer_make(&offer, &names, true, session->initiator.name,
	    session->params.discovery ? NULL : session->params.target_name);
	iscsi_session_offered(session, &offer);
}

static void
answer_questions(struct initiator *i)
{
	if (i->wants_open) {
		struct volume *volume;
		int error;

		i->wants_open = false;
		volume = volume_open(world.pool, &i->wanted, false, &world.reactor, &error);
		iscsi_session_opened(&i->session, volume ? 0 : error, volume);
	}
	if (i->wants_offer) {
		i->wants_offer = false;
		make_offer(&i->session);
	}
	if (i->wants_refusal) {
		i->wants_refusal = false;
		iscsi_session_refuse(&i->session);
	}
}

static uint32_t
read_all(const uint8_t *bytes, size_t len)
{
	uint32_t sum = 0;

	for (size_t k = 0; k < len; k++)
		sum = sum * 31 + bytes[k];
	return sum;
}

/* Takes what there is to send; false: nothing. */
static bool
take_output(struct initiator *i)
{
	uint32_t sum = 0;
	uint32_t count = iscsi_session_gather(&i->session);

	CHECK(count <= ISCSI_OUTS_MAX);
	for (uint32_t k = 0; k < count; k++) {
		const struct iscsi_out *out = &i->session.outs[k];

		CHECK(out->head_bytes <= sizeof(out->head) && out->tail_bytes <= sizeof(out->tail));
		sum ^= read_all(out->head, out->head_bytes) ^ read_all(out->data, out->data_bytes) ^
		       read_all(out->tail, out->tail_bytes);
	}
	world.sum ^= sum; /* so that nothing of it is left out */
	if (count)
		iscsi_session_sent(&i->session);
	return count > 0;
}

/* Gives the session one more piece of the input; false: it takes none now. */
static bool
give(struct initiator *i, const uint8_t *bytes, size_t *at, size_t end)
{
	uint32_t left_bytes = 0;
	uint8_t *into;
	size_t n;

	if (*at == end || iscsi_session_rests(&i->session))
		return false;
	into = iscsi_session_payload(&i->session, &left_bytes);
	if (into) {
		n = min_u64(left_bytes, end - *at);
		memcpy(into, bytes + *at, n);
		iscsi_session_payload_received(&i->session, n);
	} else {
		n = iscsi_session_input(&i->session, bytes + *at, end - *at);
		CHECK(n <= end - *at);
	}
	*at += n;
	return n > 0;
}

static void
converse(struct initiator *i, const uint8_t *bytes, size_t end)
{
	size_t at = 0;
	unsigned still = 0;

	while (!i->closed && still < 200) {
		bool moved = give(i, bytes, &at, end);

		answer_questions(i);
		turn();
		if (!i->closed)
			moved |= take_output(i);
		still = moved ? 0 : still + 1;
		if (at == end && list_empty(&i->session.tasks) && !moved)
			return;
	}
}

/* --- input --- */

static size_t
put_pdu(uint8_t *out, const uint8_t bhs[ISCSI_BHS_BYTES], const void *data, uint32_t bytes)
{
	memcpy(out, bhs, ISCSI_BHS_BYTES);
	out[5] = (uint8_t)(bytes >> 16);
	out[6] = (uint8_t)(bytes >> 8);
	out[7] = (uint8_t)bytes;
	memset(out + ISCSI_BHS_BYTES, 0, round_up(bytes, 4));
	if (bytes)
		memcpy(out + ISCSI_BHS_BYTES, data, bytes);
	return ISCSI_BHS_BYTES + round_up(bytes, 4);
}

static size_t
put_login(uint8_t *out, bool discovery)
{
	static const char normal[] = "InitiatorName=iqn.a\0TargetName=iqn.2026-11.io.quarry:p.v\0"
				     "SessionType=Normal\0InitialR2T=No";
	static const char finding[] = "InitiatorName=iqn.a\0SessionType=Discovery";
	const uint8_t bhs[ISCSI_BHS_BYTES] = { 0x43, 0x87, [31] = 1 };

	return discovery ? put_pdu(out, bhs, finding, sizeof(finding))
			 : put_pdu(out, bhs, normal, sizeof(normal));
}

/* Turns the rest of @input into commands: CDB, flags, lengths, some immediate data. */
static size_t
put_commands(uint8_t *out, struct fuzz_input *input)
{
	size_t len = 0;
	uint32_t cmd_sn = 1;

	while (input->left >= 4) {
		uint8_t bhs[ISCSI_BHS_BYTES] = { ISCSI_COMMAND };
		uint8_t data[64];
		uint8_t flags = fuzz_byte(input);
		uint8_t bytes = fuzz_byte(input) % sizeof(data);
		uint8_t blocks = fuzz_byte(input);

		bhs[1] = (uint8_t)(0x80 | (flags & 0x67));
		bhs[9] = flags & 0x08 ? 1 : 0;   /* another LUN */
		bhs[19] = (uint8_t)cmd_sn;       /* the tag */
		bhs[22] = (uint8_t)(blocks * 2); /* the expected length: blocks of 512 bytes */
		bhs[27] = (uint8_t)cmd_sn++;
		bhs[31] = 1;
		fuzz_take(input, bhs + 32, 16);
		bytes = flags & 0x20 ? bytes : 0;
		if (bytes)
			fuzz_take(input, data, bytes);
		len += put_pdu(out + len, bhs, data, bytes);
	}
	return len;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	uint8_t how = fuzz_byte(&input);
	struct initiator *i = xcalloc(1, sizeof(*i));
	uint8_t *bytes;
	size_t len = 0;

	if (!world.made)
		make_world();
	/* A command of 4 bytes takes up to 112. */
	bytes = xmalloc(1024 + 32 * (input.left + 4));
	iscsi_session_init(&i->session, &world.portal, &events, "fuzz");
	if (how & 1)
		len = put_login(bytes, how & 4);
	if (how & 2) {
		len += put_commands(bytes + len, &input);
	} else if (input.left) {
		memcpy(bytes + len, input.at, input.left);
		len += input.left;
	}
	converse(i, bytes, len);
	iscsi_session_end(&i->session);
	pool_sync_run(&world.reactor, is_idle, i);
	iscsi_session_fini(&i->session);
	while (scsi_port_busy(&world.port)) /* SANITIZE goes on */
		turn();
	CHECK(buffer_pool_used_bytes(world.buffers) == 0);
	pool_sync_settle(&world.reactor); /* handles close */
	free(bytes);
	free(i);
	return 0;
}
