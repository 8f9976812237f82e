#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What an NBD server does with each part of the protocol, found by its bytes alone.

    nbd_conformance.py table NAME=SERVER…     a Markdown table, a column for each server
    nbd_conformance.py check FILE NAME=SERVER…  the columns so named of the table in FILE are true, and it has all rows

A SERVER is three of SOCKET:EXPORT with commas between: a writable export, a read-only one, and one at a
socket where TLS is required.  All are of 64 MiB, and their contents do not matter.
"""
import struct
import sys

import nbd_bytes as n

REPLIES = {
    n.ACK: "ACK", n.ERR_UNSUP: "ERR_UNSUP", n.ERR_POLICY: "ERR_POLICY", n.ERR_INVALID: "ERR_INVALID",
    n.ERR_PLATFORM: "ERR_PLATFORM", n.ERR_TLS_REQD: "ERR_TLS_REQD", n.ERR_UNKNOWN: "ERR_UNKNOWN",
    n.ERR_SHUTDOWN: "ERR_SHUTDOWN", n.ERR_BLOCK_SIZE_REQD: "ERR_BLOCK_SIZE_REQD", n.ERR_TOO_BIG: "ERR_TOO_BIG",
    n.ERR_EXT_HEADER_REQD: "ERR_EXT_HEADER_REQD",
}
ERRORS = {0: "ok", 1: "EPERM", 5: "EIO", 12: "ENOMEM", 22: "EINVAL", 28: "ENOSPC", 75: "EOVERFLOW", 95: "ENOTSUP",
          108: "ESHUTDOWN"}
INFOS = {0: "EXPORT", 1: "NAME", 2: "DESCRIPTION", 3: "BLOCK_SIZE"}
FLAGS = ["HAS_FLAGS", "READ_ONLY", "FLUSH", "FUA", "ROTATIONAL", "TRIM", "WRITE_ZEROES", "DF", "MULTI_CONN", "RESIZE",
         "CACHE", "FAST_ZERO", "PAYLOAD"]
ALWAYS, NOT_ALWAYS = "all answered", "not always answered"
MIB = 1 << 20
SIZE = 64 * MIB


def flag_names(flags):
    """ROTATIONAL is left out: it tells of the disks below, which are not the same everywhere."""
    return ", ".join(name for bit, name in enumerate(FLAGS) if flags & 1 << bit and bit and name != "ROTATIONAL")


class Server:
    def __init__(self, path, export, readonly=None, tls=None):
        self.path, self.export, self.readonly, self.tls = path, export, readonly, tls

    def client(self, flags=3):
        return n.Client(self.path, flags)

    def started(self, **how):
        c = self.client()
        c.granted = c.start(self.export, **how)
        return c


CHECKS = []


def check(name):
    return lambda function: CHECKS.append((name, function))


def reply(c, option, data=b"", length=None):
    return REPLIES.get(c.final(option, data, length), "?")


# --- handshake ---

@check("handshake flags")
def _(s):
    flags = s.client().server_flags
    return ", ".join(name for bit, name in enumerate(["FIXED_NEWSTYLE", "NO_ZEROES"]) if flags & 1 << bit)


@check("unknown client flags")
def _(s):
    return "closed" if s.client(flags=3 | 1 << 7).closed() else "served"


@check("wrong option magic")
def _(s):
    c = s.client()
    c.send(struct.pack(">QII", n.OPT_MAGIC ^ 1, n.LIST, 0))
    return "closed" if c.closed() else "served"


def export_name(s, flags, name):
    c = s.client(flags)
    c.send(struct.pack(">QII", n.OPT_MAGIC, n.EXPORT_NAME, len(name)) + name.encode())
    size, _ = struct.unpack(">QH", c.take(10))
    if not flags & 2:
        assert c.take(124) == bytes(124)
    return "served" if size == SIZE and c.ask(n.READ, 0, 0, 512)[0] == 0 else "?"


@check("EXPORT_NAME")
def _(s):
    return export_name(s, 3, s.export)


@check("EXPORT_NAME with 124 zeroes")
def _(s):
    return export_name(s, 1, s.export)


@check("EXPORT_NAME without FIXED_NEWSTYLE")
def _(s):
    return export_name(s, 2, s.export)


@check("EXPORT_NAME after EXTENDED_HEADERS")
def _(s):
    c = s.client()
    if c.final(n.EXTENDED) != n.ACK:
        return "not offered"
    c.send(struct.pack(">QII", n.OPT_MAGIC, n.EXPORT_NAME, len(s.export)) + s.export.encode())
    return "closed" if c.closed() else "served"


@check("EXPORT_NAME, unknown")
def _(s):
    return export_name(s, 3, "no/such")


@check("ABORT")
def _(s):
    c = s.client()
    return reply(c, n.ABORT) + (", closed" if c.closed() else "")


@check("ABORT with data")
def _(s):
    c = s.client()
    return reply(c, n.ABORT, b"data") + (", closed" if c.closed() else "")


@check("LIST")
def _(s):
    names = [data[4:].decode() for kind, data in s.client().option(n.LIST) if kind == n.SERVER]
    return "names the export" if s.export in names else "does not name it"


@check("LIST with data")
def _(s):
    return reply(s.client(), n.LIST, b"x")


@check("STARTTLS where TLS is off")
def _(s):
    return reply(s.client(), n.STARTTLS)


@check("STARTTLS with data")
def _(s):
    return reply(s.tls.client(), n.STARTTLS, b"x")


@check("STARTTLS where TLS is required")
def _(s):
    return reply(s.tls.client(), n.STARTTLS)


@check("STARTTLS without FIXED_NEWSTYLE")
def _(s):
    return reply(s.tls.client(flags=2), n.STARTTLS)


@check("EXPORT_NAME before TLS that is required")
def _(s):
    return export_name(s.tls, 3, s.tls.export)


def before_tls(name, option, data=b""):
    check(f"{name} before TLS that is required")(lambda s: reply(s.tls.client(), option, data))


before_tls("ABORT", n.ABORT)
before_tls("LIST", n.LIST)
before_tls("INFO", n.INFO, n.text("x") + b"\0\0")
before_tls("GO", n.GO, n.text("x") + b"\0\0")
before_tls("STRUCTURED_REPLY", n.STRUCTURED_REPLY)
before_tls("SET_META_CONTEXT", n.SET_META, n.text("x") + b"\0\0\0\0")
before_tls("an unknown option", 77)
before_tls("an option of 1 MiB", n.LIST, bytes(MIB))


def told(s, option, infos):
    c = s.client()
    replies = c.go(s.export, infos, option)
    return [data for kind, data in replies if kind == n.REP_INFO], REPLIES.get(replies[-1][0], "?")


@check("INFO, nothing asked for")
def _(s):
    infos, final = told(s, n.INFO, [])
    return ", ".join([INFOS[d[1]] for d in sorted(infos)] + [final])


@check("INFO, kinds that are unknown")
def _(s):
    infos, final = told(s, n.INFO, [77, 40000])
    return ", ".join([INFOS[d[1]] for d in sorted(infos)] + [final])


@check("GO after INFO tells the same")
def _(s):
    c = s.client()
    first, second = ([r for r in c.go(s.export, range(4), option) if r[0] == n.REP_INFO] for option in (n.INFO, n.GO))
    return "yes" if sorted(first) == sorted(second) else "no"


@check("GO, a name of 4097 bytes")
def _(s):
    return reply(s.client(), n.GO, n.text("x" * 4097) + b"\0\0")


@check("GO, a name with a zero byte")
def _(s):
    return reply(s.client(), n.GO, n.text(s.export + "\0x") + b"\0\0")


@check("INFO, all kinds asked for")
def _(s):
    told = [struct.unpack(">H", d[:2])[0] for kind, d in s.client().go(s.export, range(4), n.INFO) if kind == n.REP_INFO]
    return ", ".join(INFOS[i] for i in sorted(told))


@check("INFO_BLOCK_SIZE")
def _(s):
    for kind, data in s.client().go(s.export, [3], n.INFO):
        if kind == n.REP_INFO and data[:2] == b"\0\3":
            return ", ".join(str(x) for x in struct.unpack(">III", data[2:]))
    return "-"


@check("GO, unknown export")
def _(s):
    return REPLIES[s.client().go("no/such")[-1][0]]


@check("GO, lengths that do not add up")
def _(s):
    return reply(s.client(), n.GO, struct.pack(">I", 1000) + b"x")


@check("option of 1 MiB")
def _(s):
    return reply(s.client(), n.LIST, bytes(MIB))


@check("unknown option")
def _(s):
    return reply(s.client(), 77, b"data")


@check("PEEK_EXPORT")
def _(s):
    return reply(s.client(), 4)


@check("STRUCTURED_REPLY")
def _(s):
    return reply(s.client(), n.STRUCTURED_REPLY)


@check("STRUCTURED_REPLY with data")
def _(s):
    return reply(s.client(), n.STRUCTURED_REPLY, b"x")


@check("EXTENDED_HEADERS")
def _(s):
    return reply(s.client(), n.EXTENDED)


@check("EXTENDED_HEADERS with data")
def _(s):
    return reply(s.client(), n.EXTENDED, b"x")


@check("STRUCTURED_REPLY after EXTENDED_HEADERS")
def _(s):
    c = s.client()
    return reply(c, n.STRUCTURED_REPLY) if c.final(n.EXTENDED) == n.ACK else "not offered"


@check("LIST_META_CONTEXT before STRUCTURED_REPLY")
def _(s):
    return REPLIES[s.client().meta(n.LIST_META, s.export)[-1][0]]


@check("SET_META_CONTEXT before STRUCTURED_REPLY")
def _(s):
    return REPLIES[s.client().meta(n.SET_META, s.export, "base:allocation")[-1][0]]


def contexts(s, option, *queries):
    c = s.client()
    c.final(n.STRUCTURED_REPLY)
    return ", ".join(sorted(d[4:].decode() for kind, d in c.meta(option, s.export, *queries) if kind == n.META_CONTEXT)) or "none"


@check("LIST_META_CONTEXT, no query")
def _(s):
    return contexts(s, n.LIST_META)


@check("LIST_META_CONTEXT qemu:")
def _(s):
    return contexts(s, n.LIST_META, "qemu:")


@check("SET_META_CONTEXT, two at once")
def _(s):
    return contexts(s, n.SET_META, "base:allocation", "qemu:allocation-depth")


@check("LIST_META_CONTEXT base:")
def _(s):
    return contexts(s, n.LIST_META, "base:")


@check("LIST_META_CONTEXT, an unknown namespace")
def _(s):
    return contexts(s, n.LIST_META, "x-none:")


def meta_reply(name, option, data):
    @check(name)
    def _(s):
        c = s.client()
        c.final(n.STRUCTURED_REPLY)
        return reply(c, option, data(s))


meta_reply("LIST_META_CONTEXT, a query without a colon", n.LIST_META,
           lambda s: n.text(s.export) + struct.pack(">I", 1) + n.text("base"))
meta_reply("LIST_META_CONTEXT, a query that is longer than the option", n.LIST_META,
           lambda s: n.text(s.export) + struct.pack(">II", 1, 1000) + b"base:")
meta_reply("SET_META_CONTEXT, unknown export", n.SET_META,
           lambda s: n.text("no/such") + struct.pack(">I", 1) + n.text("base:allocation"))


@check("SET_META_CONTEXT, no query")
def _(s):
    return contexts(s, n.SET_META)


@check("SET_META_CONTEXT base:")
def _(s):
    return contexts(s, n.SET_META, "base:")


def status_after(name, *sets):
    """BLOCK_STATUS after each of @sets, (export or None for ours, queries)."""
    @check(name)
    def _(s):
        c = s.client()
        c.final(n.STRUCTURED_REPLY)
        c.structured = True
        for export, queries in sets:
            c.meta(n.SET_META, s.export if export is None else export, *queries)
        assert c.go(s.export)[-1][0] == n.ACK
        return ERRORS[c.ask(n.BLOCK_STATUS, 0, 0, 4096)[0]]


status_after("BLOCK_STATUS, the last SET selected nothing", (None, ["base:allocation"]), (None, []))
status_after("BLOCK_STATUS, the last SET was of another export", (None, ["base:allocation"]), ("no/such", ["base:allocation"]))


@check("SET_META_CONTEXT, unknown")
def _(s):
    return contexts(s, n.SET_META, "x:y")


# --- transmission ---

@check("transmission flags")
def _(s):
    return flag_names(s.started().flags)


def command(name, flag, command, flags=0, offset=0, length=4096, payload=b"", **how):
    """Asks, and whether the connection is still good."""
    @check(name)
    def _(s):
        c = s.started(**how)
        if flag is not None and not c.flags & 1 << flag:
            return "not offered"
        error, chunks = c.ask(command, flags, offset, length, payload)
        alive = c.ask(n.READ, 0, 0, 512)[0] == 0
        return ERRORS.get(error, str(error)) + ("" if alive else ", closed")


block = bytes(range(256)) * 16
command("READ", None, n.READ)
command("READ, simple replies", None, n.READ, structured=False)
command("READ with FUA", 3, n.READ, n.FUA)
command("READ with DF", 7, n.READ, n.DF)
command("READ of 1 byte at 4097", None, n.READ, 0, 4097, 1)
command("READ beyond the end", None, n.READ, 0, SIZE - 512, 1024)
command("READ of nothing", None, n.READ, 0, 0, 0)
command("READ of 40 MiB", None, n.READ, 0, 0, 40 * MIB)
command("READ with an unknown flag", None, n.READ, 1 << 15)
command("WRITE", None, n.WRITE, 0, 0, 4096, block)
command("WRITE with FUA", 3, n.WRITE, n.FUA, 0, 4096, block)
command("WRITE of 1 byte at 4097", None, n.WRITE, 0, 4097, 1, b"x")
command("WRITE beyond the end", None, n.WRITE, 0, SIZE - 512, 1024, block[:1024])
command("WRITE of 40 MiB", None, n.WRITE, 0, 0, 40 * MIB, bytes(40 * MIB))
command("FLUSH", 2, n.FLUSH, 0, 0, 0)
command("FLUSH with a length", 2, n.FLUSH, 0, 0, 4096)
command("TRIM", 5, n.TRIM)
command("TRIM with FUA", 5, n.TRIM, n.FUA)
command("TRIM beyond the end", 5, n.TRIM, 0, SIZE - 512, 4096)
command("WRITE_ZEROES", 6, n.WRITE_ZEROES)
command("WRITE_ZEROES with NO_HOLE", 6, n.WRITE_ZEROES, n.NO_HOLE)
command("WRITE_ZEROES with FAST_ZERO", 11, n.WRITE_ZEROES, n.FAST_ZERO)
command("WRITE_ZEROES beyond the end", 6, n.WRITE_ZEROES, 0, SIZE - 512, 4096)
command("WRITE_ZEROES of all", 6, n.WRITE_ZEROES, 0, 0, SIZE)
command("CACHE", 10, n.CACHE)
command("BLOCK_STATUS", None, n.BLOCK_STATUS, contexts=["base:allocation"])
command("BLOCK_STATUS with REQ_ONE", None, n.BLOCK_STATUS, n.REQ_ONE, contexts=["base:allocation"])
command("BLOCK_STATUS without a context", None, n.BLOCK_STATUS)
command("BLOCK_STATUS of nothing", None, n.BLOCK_STATUS, 0, 0, 0, contexts=["base:allocation"])
command("READ of 32 MiB", None, n.READ, 0, 0, 32 * MIB)
command("READ with DF of 64 KiB", 7, n.READ, n.DF, 0, 65536)
command("READ with DF of 40 MiB", 7, n.READ, n.DF, 0, 40 * MIB)
command("READ with NO_HOLE", None, n.READ, n.NO_HOLE)
command("READ with DF, simple replies", None, n.READ, n.DF, structured=False)
command("READ with PAYLOAD_LEN, no extended headers", None, n.READ, n.PAYLOAD_LEN)
command("WRITE of 32 MiB", None, n.WRITE, 0, 0, 32 * MIB, bytes(32 * MIB))
command("WRITE of nothing", None, n.WRITE, 0, 0, 0)
command("WRITE with DF", None, n.WRITE, n.DF, 0, 4096, block)
command("WRITE with an unknown flag", None, n.WRITE, 1 << 15, 0, 4096, block)
command("FLUSH with FUA", 2, n.FLUSH, n.FUA, 0, 0)
command("FLUSH with an unknown flag", 2, n.FLUSH, 1 << 15, 0, 0)
command("TRIM of nothing", 5, n.TRIM, 0, 0, 0)
command("TRIM of all", 5, n.TRIM, 0, 0, SIZE)
command("TRIM with an unknown flag", 5, n.TRIM, 1 << 15)
command("WRITE_ZEROES with FUA", 6, n.WRITE_ZEROES, n.FUA)
command("WRITE_ZEROES with NO_HOLE and FAST_ZERO", 11, n.WRITE_ZEROES, n.NO_HOLE | n.FAST_ZERO)
command("WRITE_ZEROES of nothing", 6, n.WRITE_ZEROES, 0, 0, 0)
command("WRITE_ZEROES of 1 byte at 4097", 6, n.WRITE_ZEROES, 0, 4097, 1)
command("WRITE_ZEROES with an unknown flag", 6, n.WRITE_ZEROES, 1 << 15)
command("CACHE with FUA", 10, n.CACHE, n.FUA)
command("CACHE of nothing", 10, n.CACHE, 0, 0, 0)
command("CACHE of all", 10, n.CACHE, 0, 0, SIZE)
command("CACHE beyond the end", 10, n.CACHE, 0, SIZE - 512, 4096)
command("CACHE with an unknown flag", 10, n.CACHE, 1 << 15)
command("BLOCK_STATUS with FUA", 3, n.BLOCK_STATUS, n.FUA, contexts=["base:allocation"])
command("BLOCK_STATUS beyond the end", None, n.BLOCK_STATUS, 0, SIZE - 512, 4096, contexts=["base:allocation"])
command("BLOCK_STATUS with an unknown flag", None, n.BLOCK_STATUS, 1 << 15, contexts=["base:allocation"])
command("RESIZE", None, n.RESIZE)
command("unknown command", None, 99)


def readonly(name, *request):
    @check(f"read-only: {name}")
    def _(s):
        c = s.readonly.started()
        error, _ = c.ask(*request)
        alive = c.ask(n.READ, 0, 0, 512)[0] == 0
        return ERRORS.get(error, str(error)) + ("" if alive else ", closed")


@check("read-only: transmission flags")
def _(s):
    return flag_names(s.readonly.started().flags)


readonly("READ", n.READ, 0, 0, 4096)
readonly("WRITE", n.WRITE, 0, 0, 4096, block)
readonly("WRITE_ZEROES", n.WRITE_ZEROES, 0, 0, 4096)
readonly("TRIM", n.TRIM, 0, 0, 4096)
readonly("FLUSH", n.FLUSH, 0, 0, 0)
readonly("CACHE", n.CACHE, 0, 0, 4096)


def extents(c, flags=0, offset=0, length=SIZE):
    """Of the one context: [(length, flags)]."""
    error, chunks = c.ask(n.BLOCK_STATUS, flags, offset, length)
    assert error == 0 and len(chunks) == 1
    data = chunks[0][1][4:]
    return [struct.unpack(">II", data[at:at + 8]) for at in range(0, len(data), 8)]


@check("base:allocation of zeroes between data")
def _(s):
    c = s.started(contexts=["base:allocation"])
    for request in ((n.WRITE, 0, 0, 3 * MIB, b"x" * (3 * MIB)), (n.WRITE_ZEROES, 0, MIB, MIB)):
        assert c.ask(*request)[0] == 0
    told = extents(c, length=3 * MIB)
    return ", ".join(f"{length // MIB} MiB {flags}" for length, flags in told)


@check("BLOCK_STATUS with REQ_ONE, how many, how long")
def _(s):
    c = s.started(contexts=["base:allocation"])
    c.ask(n.WRITE, 0, 0, MIB, b"x" * MIB)
    told = extents(c, n.REQ_ONE, 0, 8192)
    return f"{len(told)}, {'within' if told[0][0] <= 8192 else 'beyond'} the request"


@check("an error of a READ, structured replies")
def _(s):
    c = s.started()
    c.request(n.READ, 0, SIZE, 512)
    magic, flags, kind, cookie, size = struct.unpack(">IHHQI", c.take(20))
    message = struct.unpack(">IH", c.take(size)[:6])[1]
    assert magic == 0x668E33EF and cookie == 7 and flags & 1 and kind == 0x8001
    return "error chunk with a message" if message else "error chunk"


@check("BLOCK_STATUS of two contexts")
def _(s):
    c = s.started(contexts=["base:allocation", "qemu:allocation-depth"])
    return f"{len(c.ask(n.BLOCK_STATUS, 0, 0, SIZE)[1])} chunks"


@check("READ of a hole")
def _(s):
    c = s.started()
    if c.flags & 1 << 6:
        c.ask(n.WRITE_ZEROES, 0, 0, MIB)
    return "OFFSET_HOLE" if c.ask(n.READ, 0, 0, MIB)[1][0][0] == 2 else "OFFSET_DATA"


def across(name, flags):
    """A READ of data, a hole, and data."""
    @check(name)
    def _(s):
        c = s.started()
        block = bytes(range(1, 256)) * 257
        for at in 0, 2 * MIB:
            assert c.ask(n.WRITE, 0, at, MIB, (block * 17)[:MIB])[0] == 0
        assert c.ask(n.WRITE_ZEROES, 0, MIB, MIB)[0] == 0
        error, chunks = c.ask(n.READ, flags, 0, 3 * MIB)
        assert error == 0
        whole = bytearray(b"?" * 3 * MIB)
        for kind, data in chunks:
            at, = struct.unpack(">Q", data[:8])
            data = data[8:] if kind == 1 else bytes(struct.unpack(">I", data[8:])[0])
            whole[at:at + len(data)] = data
        assert whole == (block * 17)[:MIB] + bytes(MIB) + (block * 17)[:MIB]
        return ", ".join({1: "OFFSET_DATA", 2: "OFFSET_HOLE"}[kind] for kind, _ in sorted(chunks, key=lambda chunk: chunk[1][:8]))


across("READ across data and a hole", 0)
across("READ across data and a hole with DF", n.DF)


@check("extended READ, and WRITE_ZEROES with a 64-bit length")
def _(s):
    c = s.client()
    if c.final(n.EXTENDED) != n.ACK:
        return "not offered"
    c = s.started(extended=True)
    errors = [c.ask(n.READ, 0, 0, 512)[0], c.ask(n.WRITE_ZEROES, 0, 0, 1 << 33)[0]]
    return ", ".join(ERRORS[e] for e in errors)


@check("BLOCK_STATUS with a payload")
def _(s):
    c = s.client()
    if c.final(n.EXTENDED) != n.ACK:
        return "not offered"
    c = s.started(extended=True, contexts=["base:allocation", "qemu:allocation-depth"])
    payload = struct.pack(">QI", SIZE, c.granted["qemu:allocation-depth"])
    c.request(n.BLOCK_STATUS, n.PAYLOAD_LEN, 0, len(payload), payload)
    error, chunks = c.reply()
    return f"{ERRORS[error]}, {len(chunks)} chunk"


def extended(name, *request, **how):
    @check("extended: " + name)
    def _(s):
        if s.client().final(n.EXTENDED) != n.ACK:
            return "not offered"
        c = s.started(extended=True, **how)
        error, chunks = c.ask(*request)
        alive = c.ask(n.READ, 0, 0, 512)[0] == 0
        kinds = {1: "DATA", 2: "HOLE", 5: "BLOCK_STATUS", 6: "BLOCK_STATUS_EXT"}
        return ", ".join([ERRORS.get(error, str(error))] + [kinds[k] for k, _ in chunks if k]) + ("" if alive else ", closed")


extended("WRITE with PAYLOAD_LEN", n.WRITE, n.PAYLOAD_LEN, 0, 4096, block)
extended("READ with PAYLOAD_LEN", n.READ, n.PAYLOAD_LEN, 0, 4096, block)
extended("FLUSH with PAYLOAD_LEN", n.FLUSH, n.PAYLOAD_LEN, 0, 4096, block)
extended("BLOCK_STATUS", n.BLOCK_STATUS, 0, 0, SIZE, contexts=["base:allocation"])
extended("BLOCK_STATUS with a payload that names nothing known", n.BLOCK_STATUS, n.PAYLOAD_LEN, 0, 12,
         struct.pack(">QI", SIZE, 99), contexts=["base:allocation"])
extended("TRIM with a 64-bit length", n.TRIM, 0, 0, 1 << 33)
extended("CACHE with a 64-bit length", n.CACHE, 0, 0, 1 << 33)


@check("extended: the reply has the request's offset and cookie")
def _(s):
    if s.client().final(n.EXTENDED) != n.ACK:
        return "not offered"
    c = s.started(extended=True)
    c.request(n.READ, 0, 12288, 512, cookie=1 << 63 | 5)
    magic, _, _, cookie, offset, _ = struct.unpack(">IHHQQQ", c.take(32))
    return "yes" if (magic, cookie, offset) == (0x6E8A278C, 1 << 63 | 5, 12288) else "no"


@check("extended: a compact request")
def _(s):
    if s.client().final(n.EXTENDED) != n.ACK:
        return "not offered"
    c = s.started(extended=True)
    c.extended = False
    c.request(n.READ, 0, 0, 512)
    c.send(bytes(8))
    return "closed" if c.closed() else "served"


@check("wrong request magic")
def _(s):
    c = s.started()
    c.send(b"\xff" * 28)
    return "closed" if c.closed() else "served"


@check("DISC with requests in flight")
def _(s):
    """Asked more than once: who does not wait for them may be in luck."""
    for _ in range(30):
        c = s.started()
        for i in range(8):
            c.request(n.WRITE, 0, i * 4096, 4096, block)
        c.request(n.DISC)
        answered = 0
        try:
            while True:
                answered += c.reply()[0] == 0
        except n.Closed:
            pass
        if answered < 8:
            return NOT_ALWAYS
    return ALWAYS


def measure(server):
    column = []
    for _, function in CHECKS:
        try:
            column.append(function(server))
        except (n.Closed, ConnectionError):
            column.append("closed")
        except (AssertionError, TimeoutError, struct.error, KeyError) as error:
            column.append("unclear: " + type(error).__name__)
    return column


def server_at(text):
    writable, readonly, tls = (Server(*at.split(":", 1)) for at in text.split(","))
    return Server(writable.path, writable.export, readonly, tls)


def check_table(path, servers):
    with open(path, encoding="utf-8") as file:
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in file if line.startswith("|")]
    head = next(i for i, row in enumerate(rows) if row[0] == "asked")
    told = {row[0]: row for row in rows[head + 2:]}
    asked = [name for name, _ in CHECKS]
    wrong = 0
    for name in set(told).symmetric_difference(asked):
        print(f"# {name}: is asked, or stands in the table, but not both")
        wrong += 1
    for server, at in servers:
        column = rows[head].index(server)
        for name, found in zip(asked, measure(server_at(at))):
            says = told[name][column] if name in told else found
            if says != found and (says, found) != (NOT_ALWAYS, ALWAYS):  # it may be in luck
                print(f"# {name}: the table says {says!r}, {server} {found!r}")
                wrong += 1
    print(f"# {len(CHECKS)} things asked of {', '.join(name for name, _ in servers)}: {wrong} wrong")
    return wrong != 0


def main(arguments):
    servers = [text.split("=", 1) for text in arguments[1 if arguments[0] == "table" else 2:]]
    if arguments[0] == "table":
        columns = [[name for name, _ in CHECKS]] + [measure(server_at(at)) for _, at in servers]
        print("| asked | " + " | ".join(name for name, _ in servers) + " |")
        print("| --- " * len(columns) + "|")
        for row in zip(*columns):
            print("| " + " | ".join(row) + " |")
        return 0
    return check_table(arguments[1], servers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
