#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Clients as they should not be: bad_clients.py KIND SOCKET [SEED].

Each kind does its worst to one socket and ends; it fails only if it could not do it.
"""
import os
import random
import select
import signal
import socket
import struct
import sys

NBD_MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
EXPORT = b"tank/v"


def connect(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.settimeout(20)
    return sock


def receive(sock, length):
    data = b""
    while len(data) < length:
        more = sock.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def send_quietly(sock, data):
    """Sends what the server takes; it may close at any time."""
    try:
        sock.sendall(data)
        sock.settimeout(0.05)
        while sock.recv(65536):
            pass
    except (OSError, EOFError):
        pass


def option(number, data=b"", length=None):
    return OPTION_MAGIC + struct.pack(">II", number, len(data) if length is None else length) + data


def go(path):
    """A connection in transmission, by NBD_OPT_GO."""
    sock = connect(path)
    receive(sock, 18)
    sock.sendall(struct.pack(">I", 3))
    sock.sendall(option(7, struct.pack(">I", len(EXPORT)) + EXPORT + struct.pack(">H", 0)))
    while True:
        _, _, kind, length = struct.unpack(">QIII", receive(sock, 20))
        receive(sock, length)
        if kind == 1:
            return sock
        assert kind == 3, kind


def request(command, offset, length, flags=0, cookie=1, magic=0x25609513):
    return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length)


def garbage(path, rng):
    for _ in range(40):
        sock = connect(path)
        send_quietly(sock, rng.randbytes(rng.choice((1, 7, 16, 100, 5000, 300000))))
        sock.close()


def half(path, rng):
    """Every message cut off at every place that matters."""
    hello = struct.pack(">I", 3)
    whole = hello + option(7, struct.pack(">I", len(EXPORT)) + EXPORT + struct.pack(">H", 0))
    for cut in range(len(whole)):
        sock = connect(path)
        receive(sock, 18)
        sock.sendall(whole[:cut])
        sock.close()
    for cut in list(range(0, 29)) + [100, 4000]:
        sock = go(path)
        sock.sendall((request(1, 0, 65536) + bytes(65536))[:cut])
        sock.close()


def options(path, rng):
    """Options that lie about their length, do not exist, or never end."""
    for data in (option(7, b"", 0xFFFFFFFF), option(7, b"x" * 3), option(7, struct.pack(">I", 0xFFFFFFF0) + b"x" * 10),
                 option(7, struct.pack(">I", 6) + EXPORT + struct.pack(">H", 60000)), option(1, b"n" * 5000),
                 option(1, b"nosuch"), option(0x7FFFFFFF), option(10, b"\xff" * 64), option(10, struct.pack(">I", 0xFFFFFFFF)),
                 option(9, b"", 1 << 30), b"IHAVENOT" + bytes(8), option(3, b"surprise"), option(8, b"surprise"),
                 option(7, struct.pack(">I", 4) + b"\0\0\0\0" + struct.pack(">H", 0))):
        sock = connect(path)
        receive(sock, 18)
        sock.sendall(struct.pack(">I", 3))
        send_quietly(sock, data)
        sock.close()
    for flags in (0xFFFFFFFF, 4, 0x80000000):
        sock = connect(path)
        receive(sock, 18)
        send_quietly(sock, struct.pack(">I", flags))
        sock.close()
    sock = connect(path)
    receive(sock, 18)
    sock.sendall(struct.pack(">I", 3))
    send_quietly(sock, option(3) * 20000)  # LIST for ever, answers not read in time
    sock.close()


def commands(path, rng):
    """Commands out of range, unknown, oversized, with wrong flags; each answered, or the line is cut."""
    cases = [request(0, 1 << 63, 512), request(0, 0, 0xFFFFFFFF), request(0, 0, 0), request(99, 0, 512),
             request(0, (1 << 64) - 1, 512), request(4, 0, 0xFFFFFFFF), request(6, 0, 0xFFFFFFFF, 0xFFFF),
             request(7, 0, 0), request(5, 0, 0xFFFFFFFF), request(0, 0, 512, 0xFFFF), request(3, 1, 1),
             request(0, 0, 512, magic=0x12345678), request(1, 0, 1 << 31), request(1, 1 << 62, 16) + bytes(16)]
    for data in cases:
        sock = go(path)
        send_quietly(sock, data)
        sock.close()
    for _ in range(30):
        sock = go(path)
        send_quietly(sock, b"".join(request(rng.randrange(16), rng.randrange(1 << 64), rng.randrange(1 << 12),
                                            rng.choice((0, 1, 2, 8)), rng.randrange(1 << 64)) for _ in range(50)))
        sock.close()


def many(path, rng):
    """Hundreds of connections at once, some idle at each stage, then hundreds more that come and go."""
    held = []
    for i in range(300):
        held.append(go(path) if i % 3 == 0 else connect(path))
    for sock in held[::3]:
        sock.sendall(request(0, 0, 4096))
    for sock in held[::3]:
        reply = receive(sock, 16 + 4096)
        assert struct.unpack(">II", reply[:8]) == (0x67446698, 0)
    for _ in range(700):
        connect(path).close()
    for sock in held:
        sock.close()


def deaf(path, rng):
    """Asks for far more than the socket holds, reads nothing, and goes away."""
    socks = [go(path) for _ in range(8)]
    for sock in socks:
        sock.setblocking(False)
        data = b"".join(request(0, 0, 1 << 20, cookie=i) for i in range(2000))
        try:
            while data:
                data = data[sock.send(data):]
        except BlockingIOError:
            pass
    print("asked", flush=True)
    sys.stdin.read()  # stays until told to go
    for sock in socks:
        sock.close()


def stopped(path, rng):
    """In the middle of a write, and with answers to take, this client stops and stays."""
    sock = go(path)
    sock.sendall(request(0, 0, 8 << 20))
    other = go(path)
    other.sendall(request(1, 0, 1 << 20) + bytes(5000))
    print("stopped", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)


def reset(path, rng):
    """Goes away in the middle of many requests in flight."""
    for _ in range(50):
        sock = go(path)
        sock.sendall(b"".join(request(1, i << 16, 65536, cookie=i) + bytes([i & 255]) * 65536 for i in range(20))
                     + b"".join(request(0, i << 16, 65536, cookie=i) for i in range(20)))
        sock.close()


def admin(path, rng):
    """The administrator's socket: garbage, half lines, endless lines, nonsense, many connections."""
    lines = [b"\n", b"{}\n", b"[]\n", b"null\n", b"{\n", b'{"quarry":1}\n', b'{"quarry":2,"verb":"list"}\n',
             b'{"quarry":1,"verb":"nosuch"}\n', b'{"quarry":1,"verb":"list","name":5}\n',
             b'{"quarry":1,"verb":"list","surprise":true}\n', b'{"quarry":1,"verb":"volume.create"}\n',
             b'{"quarry":1,"verb":"volume.create","name":"tank/x","size_bytes":-1}\n',
             b'{"quarry":1,"verb":"volume.create","name":"tank/x","size_bytes":99999999999999999999}\n',
             b'{"quarry":1,"verb":"volume.create","name":"../x","size_bytes":1}\n',
             b'{"quarry":1,"verb":"list"} trailing\n', b"[" * 100000 + b"\n", b'"\xff\xfe"\n', b"\0" * 100 + b"\n"]
    for line in lines:
        sock = connect(path)
        sock.sendall(line)
        answer = sock.makefile("rb").readline()
        assert answer.startswith(b"{") and b'"ok":false' in answer, (line[:60], answer[:200])
        # and the connection lives on
        sock.sendall(b'{"quarry":1,"verb":"list"}\n')
        assert b'"ok":true' in sock.makefile("rb").readline(), line[:60]
        sock.close()
    for _ in range(20):
        sock = connect(path)
        send_quietly(sock, rng.randbytes(rng.choice((1, 100, 70000))))
        sock.close()
    sock = connect(path)
    send_quietly(sock, b'{"quarry":1,"verb":"' + b"x" * (4 << 20))
    sock.close()
    held = []
    for i in range(300):
        sock = connect(path)
        sock.setblocking(False)
        try:
            sock.send(b'{"quarry":1,' if i % 2 else b'{"quarry":1,"verb":"list"}\n')
        except OSError:
            pass
        held.append(sock)
    for sock in held:
        sock.close()


if __name__ == "__main__":
    signal.alarm(100)
    kinds = {f.__name__: f for f in (garbage, half, options, commands, many, deaf, stopped, reset, admin)}
    kinds[sys.argv[1]](sys.argv[2], random.Random(int((sys.argv + ["1", "1"])[3])))
