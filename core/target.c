/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target: requests by name find their pool.
 *
 * The list of pools belongs to reactor 0, the home.  A request travels: from its own reactor to the
 * home, where the pool is found, on to the pool's reactor, where the work is done, and back.  A
 * pool that is being closed is taken off the list first, so nothing finds it any more.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/base/diag.h"
#include "core/heartbeat.h"
#include "core/pool_admin.h"
#include "core/reactor_uring.h"

#define TARGET_DEVICES_MAX 512u

struct target {
	struct target_config config;
	struct heartbeat_owner owner;
	struct reactor *home;
	struct list pools; /* struct pool, by link */
	size_t next_reactor;
	_Atomic uint64_t exports_generation;
	struct list openings; /* pools being made or imported, one at a time */
	bool opening;
	struct task *shutdown_done;
	struct pool_stop shutdown_stop;
	struct task shutdown_task;
	struct pool *shutdown_pool;
};

static uint64_t
clock_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec;
}

struct target *
target_create(const struct target_config *config)
{
	struct target *target = xcalloc(1, sizeof(*target));

	target->config = *config;
	heartbeat_owner_init(&target->owner);
	target->home = config->reactors[0];
	list_init(&target->pools);
	list_init(&target->openings);
	return target;
}

void
target_free(struct target *target)
{
	free(target);
}

/* Runs @task there: as a call if it is here already. */
static void
travel(struct reactor *to, struct task *task, void (*run)(struct task *task))
{
	task_init(task, run);
	if (to == reactor_current())
		reactor_defer(to, task);
	else
		reactor_post(to, task);
}

static struct pool *
find_pool(const struct target *target, const char *name)
{
	list_for_each(node, &target->pools) {
		struct pool *pool = container_of(node, struct pool, link);

		if (strcmp(pool->name, name) == 0)
			return pool;
	}
	return NULL;
}

/* --- opening handles --- */

static void
open_answer(struct task *task)
{
	struct target_open *op = container_of(task, struct target_open, task);

	op->done(op);
}

static void
open_on_pool(struct task *task)
{
	struct target_open *op = container_of(task, struct target_open, task);

	op->volume = volume_open(op->pool, &op->name, op->readonly, op->origin, &op->error);
	if (op->volume && op->note)
		volume_take_note(op->volume, op->note);
	travel(op->origin, &op->task, open_answer);
}

static void
open_at_home(struct task *task)
{
	struct target_open *op = container_of(task, struct target_open, task);

	op->pool = find_pool(op->target, op->name.pool);
	if (op->pool) {
		travel(op->pool->reactor, &op->task, open_on_pool);
		return;
	}
	op->error = -ENOENT;
	travel(op->origin, &op->task, open_answer);
}

void
target_open(struct target *target, struct target_open *op)
{
	op->target = target;
	op->origin = reactor_current();
	op->volume = NULL;
	travel(target->home, &op->task, open_at_home);
}

/* --- names --- */

static void names_at_home(struct task *task);

static void
names_answer(struct task *task)
{
	struct target_names *op = container_of(task, struct target_names, task);

	op->done(op);
}

static void
add_name(struct target_names *op, const struct pool *pool, const char *volume, const char *snapshot)
{
	struct name *name;

	if ((op->count & (op->count - 1)) == 0)
		op->names =
		    xrealloc(op->names, (op->count ? 2 * op->count : 1) * sizeof(*op->names));
	name = &op->names[op->count++];
	memset(name, 0, sizeof(*name));
	snprintf(name->pool, sizeof(name->pool), "%s", pool->name);
	memcpy(name->volume, volume, NAME_SIZE);
	if (snapshot)
		memcpy(name->snapshot, snapshot, NAME_SIZE);
}

static void
add_exports(struct target_names *op, const struct pool *pool, const struct volume_record *volume)
{
	const struct note *note = volume->notes[NOTE_EXPORTS];
	struct target_export *more;
	struct export_list list;

	if (!op->with_exports || !note)
		return;
	/* One that cannot be read hides the volume: rather nobody than anybody. */
	if (export_list_decode(&list, note->bytes, note->len_bytes) || list.count == 0) {
		list = (struct export_list){ 0 };
		export_list_add(&list, &(const struct export){ .allow_count = 1 });
	}
	more = xcalloc(op->export_count + list.count, sizeof(*more));
	if (op->exports) {
		memcpy(more, op->exports, op->export_count * sizeof(*more));
		explicit_bzero(op->exports, op->export_count * sizeof(*more));
		free(op->exports);
	}
	op->exports = more;
	for (size_t i = 0; i < list.count; i++) {
		struct target_export *export = &op->exports[op->export_count++];

		snprintf(export->name.pool, sizeof(export->name.pool), "%s", pool->name);
		memcpy(export->name.volume, volume->name, NAME_SIZE);
		export->item = list.items[i];
	}
	export_list_fini(&list);
}

static void
names_on_pool(struct task *task)
{
	struct target_names *op = container_of(task, struct target_names, task);
	const struct pool *pool = op->pool;

	list_for_each(node, &pool->catalog.volumes) {
		const struct volume_record *volume = container_of(node, struct volume_record, link);

		add_name(op, pool, volume->name, NULL);
		add_exports(op, pool, volume);
		if (!op->snapshots)
			continue;
		list_for_each(inner, &volume->snapshots) {
			add_name(op, pool, volume->name,
			    container_of(inner, struct image, volume_link)->name);
		}
	}
	travel(op->target->home, &op->task, names_at_home);
}

static struct pool *
nth_pool(const struct target *target, size_t n)
{
	list_for_each(node, &target->pools) {
		if (n-- == 0)
			return container_of(node, struct pool, link);
	}
	return NULL;
}

static void
names_at_home(struct task *task)
{
	struct target_names *op = container_of(task, struct target_names, task);

	op->pool = nth_pool(op->target, op->next_pool++);
	if (op->pool)
		travel(op->pool->reactor, &op->task, names_on_pool);
	else
		travel(op->origin, &op->task, names_answer);
}

void
target_names(struct target *target, struct target_names *op)
{
	op->target = target;
	op->origin = reactor_current();
	op->names = NULL;
	op->count = 0;
	op->exports = NULL;
	op->export_count = 0;
	op->next_pool = 0;
	travel(target->home, &op->task, names_at_home);
}

void
target_names_fini(struct target_names *op)
{
	if (op->exports)
		explicit_bzero(op->exports, op->export_count * sizeof(*op->exports));
	free(op->exports);
	free(op->names);
	op->exports = NULL;
	op->names = NULL;
}

uint64_t
target_exports_generation(const struct target *target)
{
	return atomic_load_explicit(&target->exports_generation, memory_order_acquire);
}

/* --- making and importing pools --- */

/* Devices are opened for a pool that is here. */
static bool
is_add(const struct admin_request *request)
{
	return request->verb == ADMIN_DEVICE_ADD || request->verb == ADMIN_DEVICE_REPLACE ||
	       request->verb == ADMIN_DEVICE_ONLINE;
}

enum opening_phase {
	OPENING_LABELS,
	OPENING_NEXT_POOL,
	OPENING_DONE
};

/* Devices are opened in a thread; the rest runs on the reactor that gets the pool. */
struct opening {
	struct target *target;
	struct admin_request *request;
	struct list link;
	struct reactor *reactor;
	struct task task;
	struct offload offload;
	struct pool_start start;
	struct pool_stop stop;
	struct admin_request prepare; /* DEVICE_ONLINE: of its pool */
	struct pool_label label;
	size_t labelled;
	enum opening_phase phase;
	struct device *devices[TARGET_DEVICES_MAX];
	struct uuid uuids[TARGET_DEVICES_MAX];
	bool unlabelled[TARGET_DEVICES_MAX];
	bool imported;         /* some pool */
	struct error no_label; /* of the first one of those */
};

static void opening_start(struct target *target);
static void opening_step(struct opening *o);
static void admin_finish(struct admin_request *request);

static void
opening_end(struct task *task)
{
	struct opening *o = container_of(task, struct opening, task);
	struct target *target = o->target;
	struct admin_request *request = o->request;

	free(o->label.block);
	free(o);
	target->opening = false;
	opening_start(target);
	admin_finish(request);
}

/* On the pool's reactor: whatever is left open is closed. */
static void
opening_close(struct task *task)
{
	struct opening *o = container_of(task, struct opening, task);

	for (size_t i = 0; i < TARGET_DEVICES_MAX; i++) {
		device_close(o->devices[i]);
		o->devices[i] = NULL;
	}
	travel(o->target->home, &o->task, opening_end);
}

/* Never from inside a device's completion. */
static void
opening_finish(struct opening *o)
{
	travel(o->reactor, &o->task, opening_close);
}

static void
back_from_home(struct task *task)
{
	opening_step(container_of(task, struct opening, task));
}

static void
refused_stopped(struct pool_stop *stop)
{
	opening_finish(container_of(stop, struct opening, stop));
}

/* On the pool's reactor: its name is taken. */
static void
opening_refused(struct task *task)
{
	struct opening *o = container_of(task, struct opening, task);

	o->stop.done = refused_stopped;
	pool_stop(o->start.pool, &o->stop);
}

/* At home: the new pool gets its name in the list. */
static void
opening_register(struct task *task)
{
	struct opening *o = container_of(task, struct opening, task);
	struct pool *pool = o->start.pool;

	if (find_pool(o->target, pool->name)) {
		error_set(&o->request->error, -EEXIST,
		    "a pool named %s is here already: export that one first", pool->name);
		travel(o->reactor, &o->task, opening_refused);
		return;
	}
	list_push_back(&o->target->pools, &pool->link);
	diag_info("pool %s is online", pool->name);
	travel(o->reactor, &o->task, back_from_home);
}

static void
pool_started(struct pool_start *start)
{
	struct opening *o = container_of(start, struct opening, start);

	if (start->error.code && o->no_label.code) {
		/* It may be what is missing. */
		error_set(&o->request->error, o->no_label.code, "%.120s; and %.130s",
		    o->no_label.text, start->error.text);
		opening_finish(o);
		return;
	}
	if (start->error.code) {
		o->request->error = start->error;
		opening_finish(o);
		return;
	}
	travel(o->target->home, &o->task, opening_register);
}

static void
configure(const struct opening *o, struct pool_config *config)
{
	config->reactor = o->reactor;
	config->node_cache_bytes = o->target->config.node_cache_bytes;
	config->clock_s = clock_s;
	config->stall_timeout_ns = o->target->config.stall_timeout_s * 1000000000ull;
	config->force = o->request->force;
	config->owner = &o->target->owner;
}

static void
label_known(struct pool_label *label)
{
	struct opening *o = container_of(label, struct opening, label);

	if (label->error.code == -ENODATA) {
		/* Perhaps it was removed from its pool: the others tell whether they lack one. */
		o->unlabelled[o->labelled++] = true;
		if (!o->no_label.code)
			error_set(&o->no_label, -ENODATA,
			    "%s: is no device of a Quarry pool (quarry pool create makes one)",
			    label->device->name);
		return opening_step(o);
	}
	if (label->error.code) {
		error_set(&o->request->error, label->error.code, "%s: %s", label->device->name,
		    label->error.text);
		return opening_finish(o);
	}
	o->uuids[o->labelled++] = label->pool_uuid;
	opening_step(o);
}

/* Takes the devices of the first pool that is left; false: none is. */
static bool
import_next(struct opening *o)
{
	struct device *devices[POOL_DEVICES_MAX];
	struct pool_config config;
	uint32_t count = 0;
	struct uuid uuid;

	for (size_t i = 0; i < o->request->device_count; i++) {
		if (!o->devices[i] || o->unlabelled[i])
			continue;
		if (count == 0)
			uuid = o->uuids[i];
		if (uuid_equal(&uuid, &o->uuids[i]) && count < POOL_DEVICES_MAX) {
			devices[count++] = o->devices[i];
			o->devices[i] = NULL;
		}
	}
	if (count == 0)
		return false;
	o->imported = true;
	configure(o, &config);
	o->start.done = pool_started;
	pool_import(&config, devices, count, &o->start);
	return true;
}

/* --- devices for a pool that is here --- */

static void
added_on_pool(struct admin_request *request)
{
	opening_finish(request->state);
}

static void
add_on_pool(struct task *task)
{
	struct opening *o = container_of(task, struct opening, task);

	o->request->opened = o->devices;
	o->request->state = o;
	pool_admin(o->start.pool, o->request, added_on_pool);
}

/* The pool may have gone, or come again, while the devices were opened. */
static void
add_at_home(struct task *task)
{
	struct opening *o = container_of(task, struct opening, task);

	o->start.pool = find_pool(o->target, o->request->name.pool);
	if (o->start.pool && o->start.pool->reactor == o->reactor) {
		travel(o->reactor, &o->task, add_on_pool);
		return;
	}
	error_set(
	    &o->request->error, -ENOENT, "pool %s was exported meanwhile", o->request->name.pool);
	opening_finish(o);
}

static void
create(struct opening *o)
{
	struct device *devices[POOL_DEVICES_MAX];
	uint32_t count = (uint32_t)o->request->device_count;
	struct pool_config config;

	for (uint32_t i = 0; i < count; i++) {
		devices[i] = o->devices[i];
		o->devices[i] = NULL;
	}
	configure(o, &config);
	o->start.done = pool_started;
	o->phase = OPENING_DONE;
	pool_create(&config, o->request->name.pool, devices, count, 0,
	    o->request->copies ? o->request->copies : 1, &o->start);
}

static void
opening_step(struct opening *o)
{
	switch (o->phase) {
	case OPENING_LABELS:
		if (o->request->verb == ADMIN_POOL_CREATE)
			return create(o);
		if (is_add(o->request)) {
			o->phase = OPENING_DONE;
			travel(o->target->home, &o->task, add_at_home);
			return;
		}
		if (o->labelled < o->request->device_count) {
			if (!o->label.block)
				o->label.block = xalloc_pages(FORMAT_BLOCK_BYTES);
			o->label.device = o->devices[o->labelled];
			o->label.done = label_known;
			return pool_label_read(&o->label);
		}
		o->phase = OPENING_NEXT_POOL;
		/* fall through */
	case OPENING_NEXT_POOL:
		if (import_next(o))
			return;
		if (o->no_label.code && o->imported)
			diag_warning("%s: it was left out", o->no_label.text);
		else if (o->no_label.code)
			o->request->error = o->no_label;
		opening_finish(o);
		return;
	case OPENING_DONE:
		opening_finish(o);
		return;
	}
}

/* In a thread: opens everything. */
static void
open_devices(struct offload *offload)
{
	struct opening *o = container_of(offload, struct opening, offload);
	struct admin_request *request = o->request;
	struct target_backend *backend = o->target->config.backend;
	bool is_new = request->verb != ADMIN_POOL_IMPORT && request->verb != ADMIN_DEVICE_ONLINE;

	if (backend->check_distinct(request->devices, request->device_count, &request->error))
		return;
	for (size_t i = 0; i < request->device_count; i++) {
		const char *path = request->devices[i];
		char what[128] = "";
		int rc;

		if (is_new && !request->force && backend->probe(backend, path, what) > 0) {
			/* What is in use is refused by force, too: then that is what is said. */
			if (backend->open(backend, path, 0, false, o->reactor, &o->devices[i],
				&request->error) != -EBUSY)
				error_set(&request->error, -EEXIST,
				    "%s is not empty (%s): use --force to overwrite it", path,
				    what);
			return;
		}
		rc = backend->open(backend, path, is_new ? request->new_file_bytes : 0,
		    is_new && request->preallocate, o->reactor, &o->devices[i], &request->error);
		if (rc) {
			if (!request->error.code)
				error_set(&request->error, rc, "%s: %s", path, strerror(-rc));
			return;
		}
	}
}

static void
devices_opened(struct offload *offload)
{
	struct opening *o = container_of(offload, struct opening, offload);

	if (o->request->error.code)
		opening_finish(o);
	else
		opening_step(o);
}

static void
start_to_open(struct opening *o)
{
	if (offload_start(&o->offload, o->reactor, open_devices, devices_opened)) {
		error_set(&o->request->error, -ENOMEM, "no thread could be started");
		opening_finish(o);
	}
}

static void
prepared(struct admin_request *request)
{
	struct opening *o = container_of(request, struct opening, prepare);

	if (!request->error.code)
		return start_to_open(o);
	o->request->error = request->error;
	opening_finish(o);
}

static void
opening_on_reactor(struct task *task)
{
	struct opening *o = container_of(task, struct opening, task);

	if (o->request->verb != ADMIN_DEVICE_ONLINE)
		return start_to_open(o);
	/* What the pool itself has open of it would be in the way. */
	o->prepare.verb = ADMIN_DEVICE_PREPARE;
	o->prepare.device = o->request->devices[0];
	pool_admin(o->start.pool, &o->prepare, prepared);
}

static void
opening_start(struct target *target)
{
	struct list *node;
	struct opening *o;

	if (target->opening || !(node = list_pop_front(&target->openings)))
		return;
	o = container_of(node, struct opening, link);
	target->opening = true;
	/* It may have gone while others were opened; whoever closes it from now on comes second. */
	o->start.pool = find_pool(target, o->request->name.pool);
	if (o->request->verb == ADMIN_DEVICE_ONLINE && !o->start.pool) {
		error_set(&o->request->error, -ENOENT, "pool %s was exported meanwhile",
		    o->request->name.pool);
		travel(target->home, &o->task, opening_end);
		return;
	}
	if (o->start.pool && is_add(o->request))
		o->reactor = o->start.pool->reactor;
	if (!o->reactor)
		o->reactor =
		    target->config.reactors[target->next_reactor++ % target->config.reactor_count];
	travel(o->reactor, &o->task, opening_on_reactor);
}

static void
open_pool(struct target *target, struct admin_request *request)
{
	struct opening *o;
	size_t most = request->verb == ADMIN_POOL_IMPORT ? TARGET_DEVICES_MAX : POOL_DEVICES_MAX;
	struct pool *pool = find_pool(target, request->name.pool);

	if (request->device_count == 0 || request->device_count > most) {
		error_set(&request->error, -EINVAL, "between 1 and %zu devices, not %zu", most,
		    request->device_count);
		return admin_finish(request);
	}
	if (request->verb == ADMIN_POOL_CREATE && pool) {
		error_set(&request->error, -EEXIST, "a pool named %s is here already",
		    request->name.pool);
		return admin_finish(request);
	}
	o = xcalloc(1, sizeof(*o));
	o->reactor = is_add(request) ? pool->reactor : NULL;
	o->target = target;
	o->request = request;
	list_push_back(&target->openings, &o->link);
	opening_start(target);
}

/* --- closing pools --- */

struct closing {
	struct target *target;
	struct admin_request *request;
	struct pool *pool;
	struct task task;
	struct pool_stop stop;
};

static void
closed_at_home(struct task *task)
{
	struct closing *c = container_of(task, struct closing, task);
	struct admin_request *request = c->request;

	if (c->stop.error)
		error_set(&request->error, c->stop.error,
		    "the pool was closed, but its last state could not be written: %s",
		    strerror(-c->stop.error));
	free(c);
	admin_finish(request);
}

static void
pool_stopped(struct pool_stop *stop)
{
	struct closing *c = container_of(stop, struct closing, stop);

	travel(c->target->home, &c->task, closed_at_home);
}

static void
refused_at_home(struct task *task)
{
	struct closing *c = container_of(task, struct closing, task);
	struct admin_request *request = c->request;

	list_push_back(&c->target->pools, &c->pool->link);
	free(c);
	admin_finish(request);
}

static int
may_close(const struct pool *pool, struct admin_request *request)
{
	unsigned clients = 0;

	list_for_each(node, &pool->handles) {
		clients++;
	}
	if (request->force)
		return 0;
	if (clients > 0)
		return error_set(&request->error, -EBUSY,
		    "pool %s is in use by %u client connection%s: disconnect them, or use --force",
		    pool->name, clients, clients == 1 ? "" : "s");
	if (request->verb == ADMIN_POOL_DESTROY && pool->catalog.volume_count > 0)
		return error_set(&request->error, -EBUSY,
		    "pool %s has %llu volume%s: delete them first, or use --force", pool->name,
		    (unsigned long long)pool->catalog.volume_count,
		    pool->catalog.volume_count == 1 ? "" : "s");
	return 0;
}

static void
close_on_pool(struct task *task)
{
	struct closing *c = container_of(task, struct closing, task);

	if (may_close(c->pool, c->request)) {
		travel(c->target->home, &c->task, refused_at_home);
		return;
	}
	c->stop.done = pool_stopped;
	c->stop.destroy = c->request->verb == ADMIN_POOL_DESTROY;
	pool_stop(c->pool, &c->stop);
}

/* A dry run: nobody else notices. */
static void
would_close_on_pool(struct task *task)
{
	struct admin_request *request = container_of(task, struct admin_request, task);

	if (may_close(request->state, request) == 0)
		request->would = pool_would(request->state, request);
	admin_finish(request);
}

static void
close_pool(struct target *target, struct pool *pool, struct admin_request *request)
{
	struct closing *c = xcalloc(1, sizeof(*c));

	c->target = target;
	c->request = request;
	c->pool = pool;
	list_remove(&pool->link);
	travel(pool->reactor, &c->task, close_on_pool);
}

/* --- administration --- */

static void
admin_answer(struct task *task)
{
	struct admin_request *request = container_of(task, struct admin_request, task);

	/* Of any change: pools come and go, and so do names. */
	if (request->verb != ADMIN_LIST && request->verb != ADMIN_DIFF &&
	    request->verb != ADMIN_NOTE_SET && !request->dry_run)
		atomic_fetch_add(&request->home->exports_generation, 1);
	request->done(request);
}

static void
admin_finish(struct admin_request *request)
{
	travel(request->origin, &request->task, admin_answer);
}

static void list_at_home(struct task *task);

struct listing {
	struct waiter counted;
	struct admin_request *request;
};

static void
report_counted(struct waiter *waiter, int error)
{
	struct listing *listing = container_of(waiter, struct listing, counted);
	struct admin_request *request = listing->request;

	(void)error; /* then less is known */
	free(listing);
	request->pools =
	    xrealloc(request->pools, (request->pool_count + 1) * sizeof(*request->pools));
	pool_report(request->state, &request->pools[request->pool_count++]);
	travel(request->home->home, &request->task, list_at_home);
}

static void
report_on_pool(struct task *task)
{
	struct listing *listing = xcalloc(1, sizeof(*listing));

	listing->request = container_of(task, struct admin_request, task);
	waiter_init(&listing->counted, report_counted);
	unique_count(listing->request->state, &listing->counted);
}

static void
list_at_home(struct task *task)
{
	struct admin_request *request = container_of(task, struct admin_request, task);
	struct target *target = request->home;
	struct pool *pool = NULL;

	if (!request->name.pool[0])
		pool = nth_pool(target, request->pool_count);
	else if (request->pool_count == 0)
		pool = find_pool(target, request->name.pool);
	if (pool) {
		request->state = pool;
		travel(pool->reactor, &request->task, report_on_pool);
		return;
	}
	if (request->name.pool[0] && request->pool_count == 0)
		error_set(&request->error, -ENOENT,
		    "there is no pool %s here (quarry pool list shows all)", request->name.pool);
	admin_finish(request);
}

static void
admin_on_pool(struct task *task)
{
	struct admin_request *request = container_of(task, struct admin_request, task);

	pool_admin(request->state, request, admin_finish);
}

static void
admin_at_home(struct task *task)
{
	struct admin_request *request = container_of(task, struct admin_request, task);
	struct target *target = request->home;
	const char *pool_name = request->name.pool;
	struct pool *pool;

	if (request->verb == ADMIN_POOL_CREATE || request->verb == ADMIN_POOL_IMPORT)
		return open_pool(target, request);
	if (request->verb == ADMIN_LIST)
		return list_at_home(task);
	if ((request->verb == ADMIN_SNAPSHOT_CREATE || request->verb == ADMIN_SNAPSHOT_DELETE) &&
	    request->name_count > 0) {
		pool_name = request->names[0].pool;
		for (size_t i = 1; i < request->name_count; i++) {
			if (strcmp(request->names[i].pool, pool_name) == 0)
				continue;
			error_set(&request->error, -EINVAL,
			    "%s and %s are different pools: one command works on one pool",
			    pool_name, request->names[i].pool);
			return admin_finish(request);
		}
	}
	pool = find_pool(target, pool_name);
	if (!pool) {
		error_set(&request->error, -ENOENT,
		    "there is no pool %s here (quarry pool list shows all)", pool_name);
		return admin_finish(request);
	}
	if (is_add(request))
		return open_pool(target, request);
	request->state = pool;
	if (request->verb == ADMIN_POOL_DESTROY && request->dry_run)
		travel(pool->reactor, &request->task, would_close_on_pool);
	else if (request->verb == ADMIN_POOL_EXPORT || request->verb == ADMIN_POOL_DESTROY)
		close_pool(target, pool, request);
	else
		travel(pool->reactor, &request->task, admin_on_pool);
}

void
target_admin(struct target *target, struct admin_request *request)
{
	request->home = target;
	request->origin = reactor_current();
	memset(&request->error, 0, sizeof(request->error));
	request->would = NULL;
	request->pools = NULL;
	request->pool_count = 0;
	request->ranges = NULL;
	request->range_count = 0;
	travel(target->home, &request->task, admin_at_home);
}

void
admin_request_fini(struct admin_request *request)
{
	for (size_t i = 0; i < request->pool_count; i++) {
		struct admin_pool_report *pool = &request->pools[i];

		for (size_t k = 0; k < pool->device_count; k++)
			free(pool->devices[k].path);
		for (size_t k = 0; k < pool->image_count; k++)
			export_list_fini(&pool->images[k].exports);
		free(pool->devices);
		for (size_t k = 0; k < pool->scrub.damage_count; k++)
			free(pool->scrub.damage[k].device);
		free(pool->scrub.damage);
		free(pool->images);
	}
	free(request->pools);
	free(request->ranges);
	for (size_t i = 0; i < request->device_count; i++)
		free(request->devices[i]);
	free(request->devices);
	free(request->device);
	free(request->names);
	if (request->export)
		explicit_bzero(request->export, sizeof(*request->export));
	free(request->export);
	free(request->note_bytes);
	free(request->would);
	memset(request, 0, sizeof(*request));
}

/* --- shutdown: one pool after another --- */

static void shutdown_next(struct task *task);

static void
shutdown_stopped(struct pool_stop *stop)
{
	struct target *target = container_of(stop, struct target, shutdown_stop);

	travel(target->home, &target->shutdown_task, shutdown_next);
}

static void
shutdown_on_pool(struct task *task)
{
	struct target *target = container_of(task, struct target, shutdown_task);

	memset(&target->shutdown_stop, 0, sizeof(target->shutdown_stop));
	target->shutdown_stop.done = shutdown_stopped;
	pool_stop(target->shutdown_pool, &target->shutdown_stop);
}

static void
shutdown_next(struct task *task)
{
	struct target *target = container_of(task, struct target, shutdown_task);
	struct list *node = list_pop_front(&target->pools);

	if (!node) {
		/* Whoever asked for one waits for its answer, and the frontends end before us. */
		CHECK(!target->opening && list_empty(&target->openings));
		reactor_defer(target->home, target->shutdown_done);
		return;
	}
	target->shutdown_pool = container_of(node, struct pool, link);
	travel(target->shutdown_pool->reactor, &target->shutdown_task, shutdown_on_pool);
}

void
target_shutdown(struct target *target, struct task *done)
{
	target->shutdown_done = done;
	travel(target->home, &target->shutdown_task, shutdown_next);
}
