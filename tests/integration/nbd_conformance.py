#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What an NBD server does with each part of the protocol, found by its bytes alone.

    nbd_conformance.py table SERVER=SOCKET:EXPORT…    a Markdown table, a column for each server
    nbd_conformance.py check FILE SOCKET:EXPORT       the first column of the table in FILE is true

Exports are writable, 64 MiB, and their contents do not matter.
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
MIB = 1 << 20
SIZE = 64 * MIB


class Server:
    def __init__(self, path, export):
        self.path, self.export = path, export

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


@check("EXPORT_NAME, unknown")
def _(s):
    return export_name(s, 3, "no/such")


@check("ABORT")
def _(s):
    c = s.client()
    return reply(c, n.ABORT) + (", closed" if c.closed() else "")


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


@check("EXTENDED_HEADERS")
def _(s):
    return reply(s.client(), n.EXTENDED)


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


@check("SET_META_CONTEXT, unknown")
def _(s):
    return contexts(s, n.SET_META, "x:y")


# --- transmission ---

@check("transmission flags")
def _(s):
    flags = s.started().flags
    return ", ".join(name for bit, name in enumerate(FLAGS) if flags & 1 << bit and bit)


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
command("RESIZE", None, n.RESIZE)
command("unknown command", None, 99)


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


@check("wrong request magic")
def _(s):
    c = s.started()
    c.send(b"\xff" * 28)
    return "closed" if c.closed() else "served"


@check("DISC with requests in flight")
def _(s):
    c = s.started()
    for i in range(8):
        c.request(n.WRITE, 0, i * 4096, 4096, block)
    c.request(n.DISC)
    answered = 0
    try:
        while True:
            answered += c.reply()[0] == 0
    except n.Closed:
        return "all answered" if answered == 8 else "some answered" if answered else "none answered"


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
    path, export = text.split(":", 1)
    return Server(path, export)


def main(arguments):
    if arguments[0] == "table":
        servers = [text.split("=", 1) for text in arguments[1:]]
        columns = [[name for name, _ in CHECKS]] + [measure(server_at(at)) for _, at in servers]
        print("| asked | " + " | ".join(name for name, _ in servers) + " |")
        print("| --- " * len(columns) + "|")
        for row in zip(*columns):
            print("| " + " | ".join(row) + " |")
        return 0
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in open(arguments[1]) if line.startswith("|")]
    told = {row[0]: row[1] for row in rows if len(row) > 1}
    wrong = 0
    for (name, _), found in zip(CHECKS, measure(server_at(arguments[2]))):
        if told.get(name) != found:
            print(f"# {name}: the table says {told.get(name)!r}, the server {found!r}")
            wrong += 1
    print(f"# {len(CHECKS)} things asked, {wrong} wrong")
    return wrong != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
