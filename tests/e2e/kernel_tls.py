# SPDX-License-Identifier: Apache-2.0
"""OpenSSL clients of a server whose kernel encrypts: PORT, the folder of certificates, the server's kernel."""
import faulthandler
import os
import re
import socket
import ssl
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
import nbd_bytes as n
from tls_client import Tls

PORT, PKI, KERNEL = int(sys.argv[1]), sys.argv[2], sys.argv[3]
KERNEL_TAKES_NEW_KEYS = tuple(map(int, re.match(r"(\d+)\.(\d+)", KERNEL).groups())) >= (6, 14)


def secured(secure):
    c = n.Client(("127.0.0.1", PORT))
    assert c.final(n.STARTTLS) == n.ACK
    c.s = secure(c.s)
    c.start("tank/v")
    return c


def s_client(*options):
    def secure(s):
        s.settimeout(None)
        return Tls(s, PKI + "/ca.pem", *options)
    return secured(secure)


def python(version=ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context(cafile=PKI + "/ca.pem")
    context.minimum_version = context.maximum_version = version
    return secured(lambda s: context.wrap_socket(s, server_hostname="localhost", suppress_ragged_eofs=False))


def write(c, offset, data):
    assert c.ask(n.WRITE, 0, offset, len(data), data)[0] == 0


def reads(c, offset, data):
    assert c.ask(n.READ, n.DF, offset, len(data))[1][0][1][8:] == data


def noise(length):
    """Without a byte that s_client could take for a command."""
    return bytes(b | 0x80 for b in os.urandom(length))


def good(c, data):
    write(c, 4095, data)
    reads(c, 4095, data)


faulthandler.dump_traceback_later(120, exit=True)

# Each cipher, with records that are full, nearly so, and small.
for cipher in "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256":
    c = s_client("-tls1_3", "-ciphersuites", cipher)
    for length in 1, 4096, 16384 - 33, 16384, 16385, 300000:
        good(c, noise(length))

# Who asks for more than the socket takes gets all of it, in order.
c = python()
data = [os.urandom(1 << 20) for _ in range(16)]
for i, part in enumerate(data):
    write(c, i << 20, part)
for i, part in enumerate(data):
    c.request(n.READ, n.DF, i << 20, 1 << 20, cookie=i)
assert sorted(c.reply()[1][0][1][8:] for part in data) == sorted(data)

# New keys of the client's are followed ...
c = s_client("-tls1_3")
for turn in range(6):
    c.s.command(b"k")
    good(c, bytes([turn + 1]) * 100000)
# ... and ours, if it asks for them, are there where the kernel has them, else the connection ends.
for turn in range(3):
    for again in range(turn + 1):
        c.s.command(b"K")
    if KERNEL_TAKES_NEW_KEYS:
        good(c, bytes([turn + 9]) * 100000)
        continue
    try:
        good(c, b"x" * 1000)
        sys.exit("a kernel before 6.14 took new keys")
    except n.Closed:
        break

# The end is told: a close_notify behind the last byte, or what was wrong.
c = python()
good(c, b"y" * 5000)
c.request(n.DISC)
assert c.s.recv(100) == b""  # without it: SSLEOFError
c = python()
good(c, b"z" * 5000)
socket.socket.send(c.s, b"\x17\x03\x03\x00\x40" + bytes(64))
try:
    c.s.recv(100)
    sys.exit("a record that was forged is not answered with an alert")
except ssl.SSLError as error:
    assert "BAD_RECORD_MAC" in error.reason, error

# What the kernel cannot do, OpenSSL does: an older version, and records of a size that was agreed on.
good(python(ssl.TLSVersion.TLSv1_2), b"a" * 100000)
good(s_client("-tls1_3", "-maxfraglen", "1024"), b"b" * 100000)
