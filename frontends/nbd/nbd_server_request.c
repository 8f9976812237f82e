/* SPDX-License-Identifier: Apache-2.0 */
/* Requests in flight: from the header to the engine, and to the answer. */
#include <stdlib.h>

#include "frontends/nbd/nbd_server_connection.h"

enum {
	STATUS_EXTENTS_MAX = 4096,
	OPS_PER_SLAB = 64,
};

struct op_slab {
	struct list link;
	struct nbd_op ops[OPS_PER_SLAB];
};

struct nbd_op *
nbd_op_get(struct nbd_connection *c)
{
	struct nbd_home *home = c->home;
	struct nbd_op *op;

	if (list_empty(&home->free_ops)) {
		struct op_slab *slab = xcalloc(1, sizeof(*slab));

		list_push_back(&home->op_slabs, &slab->link);
		for (size_t i = 0; i < OPS_PER_SLAB; i++)
			list_push_back(&home->free_ops, &slab->ops[i].link);
	}
	op = container_of(list_pop_front(&home->free_ops), struct nbd_op, link);
	op->connection = c;
	op->buffer = NULL;
	op->buffer_bytes = 0;
	op->contexts = 0;
	c->op_count++;
	return op;
}

void
nbd_op_put(struct nbd_op *op)
{
	struct nbd_connection *c = op->connection;
	struct nbd_home *home = c->home;

	CHECK(c->op_count > 0 && list_empty(&op->link));
	if (op->buffer) {
		CHECK(c->payload_bytes >= op->buffer_bytes);
		c->payload_bytes -= op->buffer_bytes;
		buffer_put(home->buffers, op->buffer, op->buffer_bytes);
		if (!list_empty(&home->waiting))
			reactor_defer(&home->r->reactor, &home->wake_waiting);
	}
	c->op_count--;
	list_push_front(&home->free_ops, &op->link);
}

void
nbd_op_put_all(struct list *ops)
{
	struct list *link;

	while ((link = list_pop_front(ops)))
		nbd_op_put(container_of(link, struct nbd_op, link));
}

void
nbd_op_drop(struct nbd_op **op)
{
	if (*op)
		nbd_op_put(*op);
	*op = NULL;
}

/* The answer is encoded: it goes out at the end of the turn. */
void
nbd_op_answer(struct nbd_op *op)
{
	struct nbd_connection *c = op->connection;

	if (c->phase == CONNECTION_DEAD) {
		nbd_op_put(op);
		return;
	}
	list_push_back(&c->replies, &op->link);
	reactor_at_turn_end(nbd_connection_reactor(c), &c->send_task);
}

static void
op_encode(struct nbd_op *op)
{
	const struct nbd_session *session = &op->connection->session;
	const char *message;

	if (op->io.error) {
		enum nbd_error error = nbd_error_from(op->io.error, &message);

		nbd_reply_error(session, &op->request, error, message, &op->reply);
	} else if (op->request.type == NBD_CMD_READ) {
		nbd_reply_data(session, &op->request, nbd_op_payload(op), &op->reply);
	} else if (op->request.type == NBD_CMD_BLOCK_STATUS) {
		uint32_t context = (uint32_t)__builtin_ctz(op->contexts);

		op->contexts &= op->contexts - 1;
		nbd_reply_status(session, &op->request, context, op->io.extents,
		    op->io.extents_count, op->contexts == 0, &op->reply);
	} else {
		nbd_reply_done(session, &op->request, &op->reply);
	}
}

static void
op_io_done(struct volume_io *io)
{
	struct nbd_op *op = container_of(io, struct nbd_op, io);
	struct nbd_connection *c = op->connection;

	c->engine_count--;
	if (c->phase != CONNECTION_DEAD)
		op_encode(op);
	if (op->contexts && !io->error && c->phase != CONNECTION_DEAD) {
		nbd_op_submit(op); /* of the next context */
		return;
	}
	nbd_op_answer(op);
	if (c->phase == CONNECTION_DEAD)
		nbd_connection_finish(c);
}

static const enum volume_op volume_ops[] = {
	[NBD_CMD_READ] = VOLUME_READ,
	[NBD_CMD_WRITE] = VOLUME_WRITE,
	[NBD_CMD_FLUSH] = VOLUME_FLUSH,
	[NBD_CMD_TRIM] = VOLUME_TRIM,
	[NBD_CMD_CACHE] = VOLUME_CACHE,
	[NBD_CMD_WRITE_ZEROES] = VOLUME_ZERO,
	[NBD_CMD_BLOCK_STATUS] = VOLUME_STATUS,
};

/* Each context gets the same share of the buffer; beside the extents, there are chunk headers. */
static uint32_t
status_extents_max(uint32_t contexts)
{
	uint32_t count = (uint32_t)__builtin_popcount(contexts);

	return count == 1 ? STATUS_EXTENTS_MAX : STATUS_EXTENTS_MAX / count - 4;
}

/* Hands a request that has all it needs to the engine. */
void
nbd_op_submit(struct nbd_op *op)
{
	const struct nbd_request *request = &op->request;

	op->io = (struct volume_io){
		.op = volume_ops[request->type],
		.flags = (request->flags & NBD_CMD_FLAG_FUA ? VOLUME_FUA : 0) |
			 (request->flags & NBD_CMD_FLAG_NO_HOLE ? VOLUME_NO_HOLE : 0),
		.offset_bytes = request->offset_bytes,
		.len_bytes = request->len_bytes,
		.done = op_io_done,
	};
	if (request->type == NBD_CMD_BLOCK_STATUS) {
		uint32_t context = (uint32_t)__builtin_ctz(op->contexts);

		op->io.extents = (void *)((char *)op->buffer + nbd_reply_status_next(&op->reply));
		op->io.extents_max = request->flags & NBD_CMD_FLAG_REQ_ONE
					 ? 1
					 : status_extents_max(request->contexts);
		op->io.older = op->connection->older[context];
		if (op->connection->session.contexts[context].kind == NBD_CONTEXT_DEPTH)
			op->io.flags |= VOLUME_DEPTH;
	} else {
		op->io.buffer = op->buffer;
	}
	op->connection->engine_count++;
	volume_submit(op->connection->volume, &op->io);
}

size_t
nbd_op_buffer_bytes(const struct nbd_request *request)
{
	switch (request->type) {
	case NBD_CMD_READ:
	case NBD_CMD_WRITE:
		return round_up(
		    request->offset_bytes % BLOCK_BYTES + request->len_bytes, BLOCK_BYTES);
	case NBD_CMD_BLOCK_STATUS:
		return request->flags & NBD_CMD_FLAG_REQ_ONE
			   ? BLOCK_BYTES
			   : STATUS_EXTENTS_MAX * sizeof(struct volume_extent);
	default:
		return 0;
	}
}

void
nbd_ops_free(struct nbd_home *home)
{
	struct list *link;

	while ((link = list_pop_front(&home->op_slabs)))
		free(container_of(link, struct op_slab, link));
}
