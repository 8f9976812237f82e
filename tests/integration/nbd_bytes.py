# SPDX-License-Identifier: Apache-2.0
"""An NBD client of raw bytes, for what no library would send."""
import socket
import struct

OPT_MAGIC = 0x49484156454F5054
REP_MAGIC = 0x3E889045565A9
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED = 1, 2, 3, 5, 6, 7, 8, 9, 10, 11
ACK, SERVER, REP_INFO, META_CONTEXT = 1, 2, 3, 4
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_PLATFORM, ERR_TLS_REQD, ERR_UNKNOWN, ERR_SHUTDOWN, ERR_BLOCK_SIZE_REQD, \
    ERR_TOO_BIG, ERR_EXT_HEADER_REQD = (0x80000000 + n for n in range(1, 11))
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, RESIZE = range(9)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << n for n in range(6))


class Closed(Exception):
    pass


def text(name):
    return struct.pack(">I", len(name)) + name.encode()


class Client:
    """Connected to the Unix socket @path, or a (host, port); the greeting is read and answered with @flags."""

    def __init__(self, path, flags=3):
        self.s = socket.socket(socket.AF_INET if isinstance(path, tuple) else socket.AF_UNIX)
        self.s.settimeout(60)
        self.s.connect(path)
        magic, opt, self.server_flags = struct.unpack(">QQH", self.take(18))
        assert (magic, opt) == (0x4E42444D41474943, OPT_MAGIC)
        self.extended = self.structured = False
        self.send(struct.pack(">I", flags))

    def send(self, data):
        self.s.sendall(data)

    def take(self, n):
        data = bytearray()
        while len(data) < n:
            try:
                more = self.s.recv(n - len(data))
            except ConnectionError:
                more = b""
            if not more:
                raise Closed()
            data += more
        return bytes(data)

    def option(self, option, data=b"", length=None):
        """Sends an option; its replies as a list of (type, data), the last one final."""
        self.send(struct.pack(">QII", OPT_MAGIC, option, len(data) if length is None else length) + data)
        replies = []
        while True:
            magic, of, kind, size = struct.unpack(">QIII", self.take(20))
            assert magic == REP_MAGIC and of == option, (hex(magic), of)
            replies.append((kind, self.take(size)))
            if kind == ACK or kind >= 0x80000000:
                return replies

    def final(self, option, data=b"", length=None):
        return self.option(option, data, length)[-1][0]

    def go(self, name, infos=(), option=GO):
        return self.option(option, text(name) + struct.pack(">H", len(infos)) + b"".join(struct.pack(">H", i) for i in infos))

    def meta(self, option, name, *queries):
        return self.option(option, text(name) + struct.pack(">I", len(queries)) + b"".join(text(q) for q in queries))

    def start(self, name, structured=True, extended=False, contexts=()):
        """Into transmission; the contexts that were granted, by name."""
        granted = {}
        if structured:
            assert self.final(STRUCTURED_REPLY) == ACK
        if extended:
            assert self.final(EXTENDED) == ACK
        self.structured, self.extended = structured or extended, extended
        if contexts:
            for kind, data in self.meta(SET_META, name, *contexts):
                if kind == META_CONTEXT:
                    granted[data[4:].decode()] = struct.unpack(">I", data[:4])[0]
        replies = self.go(name)
        assert replies[-1][0] == ACK, replies
        export = next(data for kind, data in replies if kind == REP_INFO and data[:2] == b"\0\0")
        self.size, self.flags = struct.unpack(">QH", export[2:12])
        return granted

    def request(self, command, flags=0, offset=0, length=0, payload=b"", cookie=7):
        if self.extended:
            header = struct.pack(">IHHQQQ", 0x21E41C71, flags, command, cookie, offset, length)
        else:
            header = struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length)
        self.send(header + payload)

    def reply(self, length=0):
        """(error, chunks) of one request's answer; a chunk is (type, data). @length: of a simple READ."""
        chunks, error = [], 0
        while True:
            magic = struct.unpack(">I", self.take(4))[0]
            if magic == 0x67446698:
                error, _ = struct.unpack(">IQ", self.take(12))
                return error, [(1, self.take(length))] if length and not error else []
            if magic == 0x668E33EF:
                flags, kind, _, size = struct.unpack(">HHQI", self.take(16))
            else:
                assert magic == 0x6E8A278C, hex(magic)
                flags, kind, _, _, size = struct.unpack(">HHQQQ", self.take(28))
            data = self.take(size)
            if kind & 0x8000:
                error = struct.unpack(">I", data[:4])[0]
            else:
                chunks.append((kind, data))
            if flags & 1:
                return error, chunks

    def ask(self, command, flags=0, offset=0, length=0, payload=b""):
        self.request(command, flags, offset, length, payload)
        return self.reply(length if command == READ and not self.structured else 0)

    def closed(self):
        """Whether the server has ended the connection (and said nothing more)."""
        try:
            self.take(1)
        except Closed:
            return True
        return False
