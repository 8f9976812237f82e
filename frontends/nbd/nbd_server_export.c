/* SPDX-License-Identifier: Apache-2.0 */
/* What a connection asks of the target, which names and which volumes, as far as its client may see
 * them. */
#include <stdio.h>
#include <stdlib.h>

#include "core/base/diag.h"
#include "frontends/nbd/nbd_server_connection.h"

static enum nbd_access
access_to(const struct nbd_connection *c, const struct name *name)
{
	const struct nbd_server_config *config = &c->home->server->config;
	char text[NAME_TEXT_SIZE];

	name_format(name, text);
	return nbd_access(config->access, config->access_count, &c->access_peer, text);
}

static void
drop_hidden(const struct nbd_connection *c, struct target_names *names)
{
	size_t kept = 0;

	for (size_t i = 0; i < names->count; i++)
		if (access_to(c, &names->names[i]) != NBD_ACCESS_NONE)
			names->names[kept++] = names->names[i];
	names->count = kept;
}

static void
names_done(struct target_names *names)
{
	struct nbd_connection *c = container_of(names, struct nbd_connection, names);
	enum nbd_event event;

	c->asking = false;
	if (c->phase != CONNECTION_LIVE) {
		free(names->names);
		nbd_connection_finish(c);
		return;
	}
	drop_hidden(c, names);
	event = nbd_session_names(&c->session, 0, names->names, names->count);
	free(names->names);
	nbd_connection_event(c, event);
	nbd_connection_advance(c);
}

static void
describe(const struct volume_info *info, struct nbd_export *export)
{
	char uuid[UUID_TEXT_BYTES];

	uuid_format(&info->uuid, uuid);
	export->size_bytes = info->size_bytes;
	export->readonly = info->readonly;
	export->rotational = info->rotational;
	export->block_bytes = info->block_bytes;
	name_format(&info->name, export->name);
	snprintf(export->description, sizeof(export->description), "%s of Quarry volume %s",
	    info->name.snapshot[0] ? "snapshot" : "head", uuid);
}

/* The next snapshot that a selected context needs is asked for; false: there is none. */
static bool
open_contexts(struct nbd_connection *c)
{
	uint32_t count =
	    nbd_session_enters(&c->session) ? nbd_session_context_count(&c->session) : 0;

	while (c->contexts_opened < count) {
		const struct nbd_context *context = &c->session.contexts[c->contexts_opened];
		struct name name = c->session.open_name;

		if (context->snapshot[0]) {
			memcpy(name.snapshot, context->snapshot, sizeof(name.snapshot));
			nbd_connection_ask_open(c, &name);
			return true;
		}
		c->contexts_opened++;
	}
	return false;
}

static void
open_done(struct target_open *open)
{
	struct nbd_connection *c = container_of(open, struct nbd_connection, open);
	struct nbd_export export = { 0 };
	enum nbd_event event;

	c->asking = false;
	if (!open->error && !c->volume)
		c->volume = open->volume;
	else if (!open->error)
		c->older[c->contexts_opened++] = open->volume;
	if (c->phase != CONNECTION_LIVE) {
		nbd_connection_finish(c);
		return;
	}
	if (!open->error && open_contexts(c))
		return;
	if (!open->error)
		describe(volume_info(c->volume), &export);
	event = nbd_session_opened(&c->session, open->error, &export);
	if (nbd_session_in_transmission(&c->session)) {
		nbd_connection_idle_watch(c);
		diag_debug("%s: connected to %s", c->peer, export.name);
	} else {
		nbd_connection_close_volumes(c);
	}
	nbd_connection_event(c, event);
	nbd_connection_advance(c);
}

void
nbd_connection_ask_names(struct nbd_connection *c)
{
	c->asking = true;
	c->names = (struct target_names){
		.snapshots = c->session.want_snapshots,
		.done = names_done,
	};
	target_names(c->home->server->config.target, &c->names);
}

static void
open_hidden(struct task *task)
{
	open_done(&container_of(task, struct nbd_connection, hidden_task)->open);
}

void
nbd_connection_ask_open(struct nbd_connection *c, const struct name *name)
{
	enum nbd_access access = access_to(c, name);

	c->asking = true;
	c->open = (struct target_open){
		.name = *name,
		.readonly = access != NBD_ACCESS_WRITE,
		.client = c->peer,
		.done = open_done,
	};
	/* Not even opened: it would be in use, and a failure would tell that it is there. */
	if (access == NBD_ACCESS_NONE) {
		c->open.error = -ENOENT;
		task_init(&c->hidden_task, open_hidden);
		reactor_defer(nbd_connection_reactor(c), &c->hidden_task);
		return;
	}
	target_open(c->home->server->config.target, &c->open);
}

void
nbd_connection_close_volumes(struct nbd_connection *c)
{
	if (c->volume)
		volume_close(c->volume);
	c->volume = NULL;
	for (uint32_t i = 0; i < NBD_CONTEXTS_MAX; i++) {
		if (c->older[i])
			volume_close(c->older[i]);
		c->older[i] = NULL;
	}
	c->contexts_opened = 0;
}
