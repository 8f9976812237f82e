/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NBD on the wire: every constant and structure of the protocol that this server speaks, and
 * nothing else.  All integers are big-endian (the suffix _be says so).
 *
 * The normative text is doc/proto.md of the NBD project; docs/NBD.md says what we do with it.
 */
#ifndef QUARRY_FRONTENDS_NBD_PROTO_H
#define QUARRY_FRONTENDS_NBD_PROTO_H

#include <endian.h>

#include "core/base/util.h"

#define NBD_PORT_DEFAULT "10809"

/* --- handshake --- */

#define NBD_MAGIC 0x4e42444d41474943ull     /* "NBDMAGIC" */
#define NBD_OPT_MAGIC 0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_REP_MAGIC 0x0003e889045565a9ull

#define NBD_STRING_BYTES_MAX 4096u /* names, queries, messages */

enum nbd_handshake_flags { /* of the server; the client's are the same bits */
	NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
	NBD_FLAG_NO_ZEROES = 1 << 1,
};

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
	NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_ERROR(n) (0x80000000u | (n))

enum nbd_option_reply {
	NBD_REP_ACK = 1,
	NBD_REP_SERVER = 2,
	NBD_REP_INFO = 3,
	NBD_REP_META_CONTEXT = 4,
};

#define NBD_REP_ERR_UNSUP NBD_REP_ERROR(1)
#define NBD_REP_ERR_POLICY NBD_REP_ERROR(2)
#define NBD_REP_ERR_INVALID NBD_REP_ERROR(3)
#define NBD_REP_ERR_PLATFORM NBD_REP_ERROR(4)
#define NBD_REP_ERR_TLS_REQD NBD_REP_ERROR(5)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERROR(6)
#define NBD_REP_ERR_SHUTDOWN NBD_REP_ERROR(7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD NBD_REP_ERROR(8)
#define NBD_REP_ERR_TOO_BIG NBD_REP_ERROR(9)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERROR(10)

enum nbd_info {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3,
};

enum nbd_transmission_flags {
	NBD_FLAG_HAS_FLAGS = 1 << 0,
	NBD_FLAG_READ_ONLY = 1 << 1,
	NBD_FLAG_SEND_FLUSH = 1 << 2,
	NBD_FLAG_SEND_FUA = 1 << 3,
	NBD_FLAG_ROTATIONAL = 1 << 4,
	NBD_FLAG_SEND_TRIM = 1 << 5,
	NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
	NBD_FLAG_SEND_DF = 1 << 7,
	NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
	NBD_FLAG_SEND_CACHE = 1 << 10,
	NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
	NBD_FLAG_BLOCK_STAT_PAYLOAD = 1 << 12, /* extended headers only */
};

#define NBD_META_ALLOCATION "base:allocation"
#define NBD_META_DEPTH "qemu:allocation-depth"
#define NBD_META_BITMAP "qemu:dirty-bitmap:" /* and the name of a snapshot */
#define NBD_META_DIFF "quarry:diff:"         /* the same */

enum nbd_state_flags { /* of base:allocation */
	NBD_STATE_HOLE = 1 << 0,
	NBD_STATE_ZERO = 1 << 1,
};
enum nbd_diff_flags {              /* of qemu:dirty-bitmap: the first; of quarry:diff: both */
	NBD_DIFF_CHANGED = 1 << 0, /* since the snapshot */
	NBD_DIFF_ZERO = 1 << 1,    /* it is changed to a hole, which reads as zeroes */
};

struct nbd_greeting_wire {
	uint64_t magic_be;
	uint64_t opt_magic_be;
	uint16_t flags_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_greeting_wire) == 18, "as in proto.md");

struct nbd_option_wire {
	uint64_t magic_be;
	uint32_t option_be;
	uint32_t len_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_option_wire) == 16, "as in proto.md");

struct nbd_option_reply_wire {
	uint64_t magic_be;
	uint32_t option_be;
	uint32_t type_be;
	uint32_t len_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_option_reply_wire) == 20, "as in proto.md");

/* --- transmission --- */

#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define NBD_EXTENDED_REPLY_MAGIC 0x6e8a278cu

enum nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

enum nbd_command_flags {
	NBD_CMD_FLAG_FUA = 1 << 0,
	NBD_CMD_FLAG_NO_HOLE = 1 << 1,
	NBD_CMD_FLAG_DF = 1 << 2,
	NBD_CMD_FLAG_REQ_ONE = 1 << 3,
	NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
	NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5, /* extended headers only */
};

#define NBD_REPLY_FLAG_DONE (1u << 0)

enum nbd_chunk {
	NBD_REPLY_TYPE_NONE = 0,
	NBD_REPLY_TYPE_OFFSET_DATA = 1,
	NBD_REPLY_TYPE_OFFSET_HOLE = 2,
	NBD_REPLY_TYPE_BLOCK_STATUS = 5,
	NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
	NBD_REPLY_TYPE_ERROR = 0x8001,
	NBD_REPLY_TYPE_ERROR_OFFSET = 0x8002,
};

enum nbd_error {
	NBD_SUCCESS = 0,
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
	NBD_ESHUTDOWN = 108,
};

struct nbd_request_wire {
	uint32_t magic_be;
	uint16_t flags_be;
	uint16_t type_be;
	uint64_t cookie; /* the client's; sent back as it came */
	uint64_t offset_be;
	uint32_t len_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_request_wire) == 28, "as in proto.md");

struct nbd_extended_request_wire {
	uint32_t magic_be;
	uint16_t flags_be;
	uint16_t type_be;
	uint64_t cookie;
	uint64_t offset_be;
	uint64_t len_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_extended_request_wire) == 32, "as in proto.md");

struct nbd_simple_reply_wire {
	uint32_t magic_be;
	uint32_t error_be;
	uint64_t cookie;
} __attribute__((packed));
static_assert(sizeof(struct nbd_simple_reply_wire) == 16, "as in proto.md");

struct nbd_chunk_wire {
	uint32_t magic_be;
	uint16_t flags_be;
	uint16_t type_be;
	uint64_t cookie;
	uint32_t len_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_chunk_wire) == 20, "as in proto.md");

struct nbd_extended_reply_wire {
	uint32_t magic_be;
	uint16_t flags_be;
	uint16_t type_be;
	uint64_t cookie;
	uint64_t offset_be; /* of the request */
	uint64_t len_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_extended_reply_wire) == 32, "as in proto.md");

struct nbd_chunk_hole_wire { /* OFFSET_HOLE; OFFSET_DATA is the offset alone */
	uint64_t offset_be;
	uint32_t len_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_chunk_hole_wire) == 12, "as in proto.md");

struct nbd_chunk_error_wire { /* ERROR; the message follows */
	uint32_t error_be;
	uint16_t message_len_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_chunk_error_wire) == 6, "as in proto.md");

struct nbd_extent_wire { /* BLOCK_STATUS, behind the context's number */
	uint32_t len_be;
	uint32_t flags_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_extent_wire) == 8, "as in proto.md");

struct nbd_extent_ext_wire { /* BLOCK_STATUS_EXT, behind the context's number and a count */
	uint64_t len_be;
	uint64_t flags_be;
} __attribute__((packed));
static_assert(sizeof(struct nbd_extent_ext_wire) == 16, "as in proto.md");

#endif
