/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's NBD client, set up and kept connected.
 *
 * What nbd-client does not do: the kernel is told (DEAD_CONN_TIMEOUT) to hold requests while there
 * is no connection, where by default it fails them at once; and it is given a new connection
 * (RECONFIGURE) when it says over netlink that one died (LINK_DEAD).
 *
 *   handshake (libnbd) ─► CONNECT ─► wait ─┬─► LINK_DEAD: handshake, again and again ─► RECONFIGURE
 * ─┐ ▲      └─► a signal: DISCONNECT                                  │
 *                                   └────────────────────────────────────────────────────────────────┘
 *
 * There is one connection, and the kernel gets no time limit for requests.  Otherwise a request
 * that is only slow would be sent again over another connection while the server still works on it,
 * and could overwrite what was written after the second one was answered.  What was in flight when
 * the connection died is sent again when the kernel next looks at it (io_timeout).
 */
#include "tools/quarry_attach.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "frontends/admin/admin_proto.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

/* How long requests wait for a server that is away, before they fail: longer than any restart. */
#define DEAD_CONN_TIMEOUT_S (24u * 3600)
/* How often the kernel looks whether a request must be sent again. */
#define RESEND_TIMEOUT_MS 5000
#define RETRY_PAUSE_MS_MIN 100
#define RETRY_PAUSE_MS_MAX 2000
/* The kernel does not tell when somebody else detaches the device. */
#define LOOK_MS 5000

#define NO_INDEX UINT32_MAX

struct attached {
	const char *uri;
	int netlink_fd;
	int signal_fd;
	uint16_t family;
	uint32_t group; /* where the kernel tells of dead connections */
	uint32_t index; /* /dev/nbdINDEX; NO_INDEX: the kernel chooses */
	uint32_t sequence;
	uint64_t size_bytes;
};

/* --- the server --- */

static uint64_t
kernel_flags(struct nbd_handle *h)
{
	uint64_t flags = 1; /* HAS_FLAGS */

	flags |= nbd_is_read_only(h) == 1 ? 1 << 1 : 0;
	flags |= nbd_can_flush(h) == 1 ? 1 << 2 : 0;
	flags |= nbd_can_fua(h) == 1 ? 1 << 3 : 0;
	flags |= nbd_is_rotational(h) == 1 ? 1 << 4 : 0;
	flags |= nbd_can_trim(h) == 1 ? 1 << 5 : 0;
	flags |= nbd_can_zero(h) == 1 ? 1 << 6 : 0;
	return flags;
}

/* A connection that is ready for requests, as the kernel speaks them; -1: told in nbd_get_error().
 */
static int
connect_server(const char *uri, uint64_t *size_bytes, uint64_t *flags)
{
	struct nbd_handle *h = nbd_create();
	int64_t size;
	int fd = -1;

	if (!h)
		return -1;
	if (nbd_set_request_structured_replies(h, false) == 0 && nbd_connect_uri(h, uri) == 0 &&
	    (size = nbd_get_size(h)) >= 0) {
		*size_bytes = (uint64_t)size;
		*flags = kernel_flags(h);
		fd = fcntl(nbd_aio_get_fd(h), F_DUPFD_CLOEXEC, 3);
	}
	if (fd >= 0 && nbd_get_tls_negotiated(h) == 1) {
		fprintf(stderr, "quarry: %s: the kernel cannot speak TLS\n", uri);
		close(fd);
		fd = -2;
	}
	nbd_close(h); /* without a word to the server: the connection lives on in @fd */
	return fd;
}

/* --- netlink --- */

struct message {
	struct nlmsghdr header;
	struct genlmsghdr generic;
	uint8_t attributes[512];
};

static void
message_begin(struct attached *a, struct message *m, uint16_t type, uint8_t command)
{
	memset(m, 0, sizeof(*m));
	m->header.nlmsg_len = NLMSG_LENGTH(sizeof(m->generic));
	m->header.nlmsg_type = type;
	m->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	m->header.nlmsg_seq = ++a->sequence;
	m->generic.cmd = command;
	m->generic.version = 1;
}

static struct nlattr *
put(struct message *m, uint16_t type, const void *data, size_t len_bytes)
{
	struct nlattr *attribute =
	    (struct nlattr *)(void *)((uint8_t *)m + NLMSG_ALIGN(m->header.nlmsg_len));

	CHECK(NLMSG_ALIGN(m->header.nlmsg_len) + NLA_HDRLEN + len_bytes <= sizeof(*m));
	attribute->nla_type = type;
	attribute->nla_len = (uint16_t)(NLA_HDRLEN + len_bytes);
	if (len_bytes)
		memcpy((uint8_t *)attribute + NLA_HDRLEN, data, len_bytes);
	m->header.nlmsg_len =
	    NLMSG_ALIGN(m->header.nlmsg_len) + (uint32_t)NLA_ALIGN(attribute->nla_len);
	return attribute;
}

static void
put_u32(struct message *m, uint16_t type, uint32_t value)
{
	put(m, type, &value, sizeof(value));
}

static void
put_u64(struct message *m, uint16_t type, uint64_t value)
{
	put(m, type, &value, sizeof(value));
}

static void
put_socket(struct message *m, int fd)
{
	struct nlattr *sockets = put(m, NBD_ATTR_SOCKETS | NLA_F_NESTED, NULL, 0);
	struct nlattr *item = put(m, NBD_SOCK_ITEM | NLA_F_NESTED, NULL, 0);

	put_u32(m, NBD_SOCK_FD, (uint32_t)fd);
	item->nla_len = (uint16_t)((uint8_t *)m + m->header.nlmsg_len - (uint8_t *)item);
	sockets->nla_len = (uint16_t)((uint8_t *)m + m->header.nlmsg_len - (uint8_t *)sockets);
}

/* The attribute @type among the @len_bytes at @at; NULL: there is none. */
static const void *
find(const void *at, size_t len_bytes, uint16_t type, size_t *found_bytes)
{
	while (len_bytes >= NLA_HDRLEN) {
		const struct nlattr *attribute = at;
		size_t step = NLA_ALIGN(attribute->nla_len);

		if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > len_bytes)
			break;
		if ((attribute->nla_type & NLA_TYPE_MASK) == type) {
			*found_bytes = attribute->nla_len - NLA_HDRLEN;
			return (const uint8_t *)at + NLA_HDRLEN;
		}
		if (step >= len_bytes)
			break;
		at = (const uint8_t *)at + step;
		len_bytes -= step;
	}
	return NULL;
}

static uint32_t
find_u32(const void *at, size_t len_bytes, uint16_t type, uint32_t otherwise)
{
	size_t found_bytes;
	const void *found = find(at, len_bytes, type, &found_bytes);
	uint32_t value = otherwise;

	if (found && found_bytes >= sizeof(value))
		memcpy(&value, found, sizeof(value));
	return value;
}

/* The group "nbd_mc_group" of the family's answer. */
static uint32_t
find_group(const void *at, size_t len_bytes)
{
	size_t groups_bytes;
	const uint8_t *groups = find(at, len_bytes, CTRL_ATTR_MCAST_GROUPS, &groups_bytes);

	while (groups && groups_bytes > NLA_HDRLEN) {
		const struct nlattr *group = (const void *)groups;
		size_t step = NLA_ALIGN(group->nla_len);

		if (step < NLA_HDRLEN || group->nla_len > groups_bytes)
			break;
		return find_u32(
		    groups + NLA_HDRLEN, group->nla_len - NLA_HDRLEN, CTRL_ATTR_MCAST_GRP_ID, 0);
	}
	return 0;
}

/*
 * Sends @m and waits for its acknowledgement; what the kernel answers before is given to @answer.
 * 0 or a negative errno value.
 */
static int
exchange(struct attached *a, const struct message *m,
    void (*answer)(struct attached *a, const void *attributes, size_t len_bytes))
{
	uint8_t buffer[8192] __attribute__((aligned(8)));

	if (send(a->netlink_fd, m, m->header.nlmsg_len, 0) < 0)
		return -errno;
	for (;;) {
		ssize_t n = recv(a->netlink_fd, buffer, sizeof(buffer), 0);
		const struct nlmsghdr *header = (const void *)buffer;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		for (; NLMSG_OK(header, (size_t)n); n -= NLMSG_ALIGN(header->nlmsg_len),
		     header =
			 (const void *)((const uint8_t *)header + NLMSG_ALIGN(header->nlmsg_len))) {
			size_t head_bytes = NLMSG_LENGTH(sizeof(struct genlmsghdr));

			if (header->nlmsg_seq != a->sequence)
				continue; /* of a group */
			if (header->nlmsg_type == NLMSG_ERROR)
				return ((const struct nlmsgerr *)NLMSG_DATA(header))->error;
			if (answer && header->nlmsg_len >= head_bytes)
				answer(a, (const uint8_t *)header + head_bytes,
				    header->nlmsg_len - head_bytes);
		}
	}
}

static void
take_family(struct attached *a, const void *attributes, size_t len_bytes)
{
	size_t found_bytes;
	const void *id = find(attributes, len_bytes, CTRL_ATTR_FAMILY_ID, &found_bytes);

	if (id && found_bytes >= sizeof(a->family))
		memcpy(&a->family, id, sizeof(a->family));
	a->group = find_group(attributes, len_bytes);
}

static int
open_netlink(int *fd)
{
	struct sockaddr_nl self = { .nl_family = AF_NETLINK };

	*fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	if (*fd < 0 || bind(*fd, (struct sockaddr *)&self, sizeof(self)) < 0)
		return -errno;
	return 0;
}

/* A socket at which the kernel's messages about dead connections arrive. */
static int
subscribe(struct attached *a, int *fd)
{
	int rc = open_netlink(fd);

	if (rc == 0 &&
	    setsockopt(*fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &a->group, sizeof(a->group)) < 0)
		rc = -errno;
	return rc;
}

static int
find_family(struct attached *a)
{
	struct message m;

	message_begin(a, &m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	put(&m, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
	return exchange(a, &m, take_family);
}

static void
take_index(struct attached *a, const void *attributes, size_t len_bytes)
{
	a->index = find_u32(attributes, len_bytes, NBD_ATTR_INDEX, a->index);
}

static int
kernel_connect(struct attached *a, int fd, uint64_t flags)
{
	struct message m;

	message_begin(a, &m, a->family, NBD_CMD_CONNECT);
	if (a->index != NO_INDEX)
		put_u32(&m, NBD_ATTR_INDEX, a->index);
	put_u64(&m, NBD_ATTR_SIZE_BYTES, a->size_bytes);
	put_u64(&m, NBD_ATTR_BLOCK_SIZE_BYTES, 512);
	put_u64(&m, NBD_ATTR_SERVER_FLAGS, flags);
	put_u64(&m, NBD_ATTR_DEAD_CONN_TIMEOUT, DEAD_CONN_TIMEOUT_S);
	put_socket(&m, fd);
	return exchange(a, &m, take_index);
}

static int
kernel_reconfigure(struct attached *a, int fd)
{
	struct message m;

	message_begin(a, &m, a->family, NBD_CMD_RECONFIGURE);
	put_u32(&m, NBD_ATTR_INDEX, a->index);
	put_u64(&m, NBD_ATTR_SIZE_BYTES, a->size_bytes);
	put_socket(&m, fd);
	return exchange(a, &m, NULL);
}

static int
kernel_disconnect(struct attached *a)
{
	struct message m;

	message_begin(a, &m, a->family, NBD_CMD_DISCONNECT);
	put_u32(&m, NBD_ATTR_INDEX, a->index);
	return exchange(a, &m, NULL);
}

/* --- seeing to it --- */

static bool
still_attached(const struct attached *a)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/nbd%u/pid", a->index);
	return access(path, F_OK) == 0;
}

static void
set_resend_timeout(const struct attached *a)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/block/nbd%u/queue/io_timeout", a->index);
	file = fopen(path, "we");
	if (file) { /* without it the kernel looks every 30 s */
		fprintf(file, "%d\n", RESEND_TIMEOUT_MS);
		fclose(file);
	}
}

/* Whether a signal came that ends us, within @wait_ms. */
static bool
told_to_end(const struct attached *a, int wait_ms)
{
	struct pollfd signal = { .fd = a->signal_fd, .events = POLLIN };

	return poll(&signal, 1, wait_ms) > 0;
}

/* Gives the kernel a new connection, as soon as there is one to be had.  false: told to end. */
static bool
reconnect(struct attached *a)
{
	int pause_ms = RETRY_PAUSE_MS_MIN;
	bool told = false;

	for (;;) {
		uint64_t size_bytes, flags;
		int fd = connect_server(a->uri, &size_bytes, &flags);
		int rc;

		if (fd >= 0) {
			a->size_bytes = size_bytes;
			rc = kernel_reconfigure(a, fd);
			close(fd);
			if (rc == 0) {
				printf("connected again\n");
				return true;
			}
			fprintf(stderr, "quarry: /dev/nbd%u does not take a new connection: %s\n",
			    a->index, strerror(-rc));
		} else if (!told) {
			fprintf(stderr, "quarry: %s; trying on\n", nbd_get_error());
			told = true;
		}
		if (told_to_end(a, pause_ms) || !still_attached(a))
			return false;
		pause_ms = pause_ms * 2 < RETRY_PAUSE_MS_MAX ? pause_ms * 2 : RETRY_PAUSE_MS_MAX;
	}
}

/* Whether the kernel said that our device lost its connection. */
static bool
link_died(const struct attached *a, int fd)
{
	uint8_t buffer[4096] __attribute__((aligned(8)));
	ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
	const struct nlmsghdr *header = (const void *)buffer;
	size_t head_bytes = NLMSG_LENGTH(sizeof(struct genlmsghdr));

	if (n < 0) /* told more than there was room for: it may have been that */
		return errno == ENOBUFS;
	return NLMSG_OK(header, (size_t)n) && header->nlmsg_len >= head_bytes &&
	       ((const struct genlmsghdr *)NLMSG_DATA(header))->cmd == NBD_CMD_LINK_DEAD &&
	       find_u32(buffer + head_bytes, header->nlmsg_len - head_bytes, NBD_ATTR_INDEX,
		   NO_INDEX) == a->index;
}

static int
watch(struct attached *a, int events_fd)
{
	for (;;) {
		struct pollfd fds[] = { { .fd = events_fd, .events = POLLIN },
			{ .fd = a->signal_fd, .events = POLLIN } };

		fflush(stdout);
		if (poll(fds, ARRAY_SIZE(fds), LOOK_MS) < 0 && errno != EINTR)
			return -errno;
		if (fds[1].revents)
			break;
		if (!still_attached(a)) {
			printf("/dev/nbd%u was detached by somebody else\n", a->index);
			return 0;
		}
		if (fds[0].revents && link_died(a, events_fd) && !reconnect(a))
			break;
	}
	return still_attached(a) ? kernel_disconnect(a) : 0;
}

static int
failed(const char *what, const char *why)
{
	fprintf(stderr, "quarry: %s: %s\n", what, why);
	return ADMIN_EXIT_FAILED;
}

static void
prepare_process(struct attached *a)
{
	sigset_t ends;

	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	a->signal_fd = signalfd(-1, &ends, SFD_CLOEXEC);
	/* Who frees memory may wait for us: nothing of ours may wait for memory. */
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	(void)mlockall(MCL_CURRENT | MCL_FUTURE);
}

int
attach_run(const char *uri, const char *device)
{
	struct attached a = { .uri = uri, .index = NO_INDEX };
	uint64_t flags;
	int events_fd, fd, rc;
	char rest;

	if (device && sscanf(device, "/dev/nbd%u%c", &a.index, &rest) != 1) {
		fprintf(stderr,
		    "quarry: %s is no device for NBD; those are /dev/nbd0, /dev/nbd1 …\n", device);
		return ADMIN_EXIT_USAGE;
	}
	prepare_process(&a);
	rc = open_netlink(&a.netlink_fd);
	if (rc == 0)
		rc = find_family(&a);
	if (rc)
		return failed(
		    "the kernel has no NBD client (modprobe nbd loads it)", strerror(-rc));
	rc = subscribe(&a, &events_fd); /* before there is anything to miss */
	if (rc)
		return failed("netlink", strerror(-rc));
	fd = connect_server(uri, &a.size_bytes, &flags);
	if (fd == -2)
		return ADMIN_EXIT_FAILED;
	if (fd < 0)
		return failed(uri, nbd_get_error());
	rc = kernel_connect(&a, fd, flags);
	close(fd);
	if (rc)
		return failed(device ? device : "no device", rc == -EPERM   ? "only root may attach"
							     : rc == -EBUSY ? "it is in use"
									    : strerror(-rc));
	set_resend_timeout(&a);
	printf("%s attached as /dev/nbd%u\n", uri, a.index);
	rc = watch(&a, events_fd);
	return rc ? failed("detach", strerror(-rc)) : 0;
}
