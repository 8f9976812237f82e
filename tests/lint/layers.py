#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Keeps the layers apart, by their #include lines.

    core/base <- metadata <- core <- { backends, frontends } <- tools

A file includes its own folder and what stands to the left of it.  A frontend knows neither another
frontend (but for frontends/stream, the sockets below all of them) nor a backend; a backend knows no
frontend.  Above that, some things are for some layers
only: metadata is pure (no system header that does I/O), and in a frontend only *_server.c and its
like know of sockets and io_uring.
"""
import os
import re
import sys

# layer: what it may include besides itself
MAY_USE = {
    "core/base": [],
    "metadata": ["core/base"],
    "core": ["metadata", "core/base"],
    "backends": ["core", "metadata", "core/base"],
    "frontends": ["core", "metadata", "core/base"],
    "tools": ["frontends", "backends", "core", "metadata", "core/base"],
    "tests": ["tools", "frontends", "backends", "core", "metadata", "core/base"],
}
LAYERS = ["core/base", "metadata", "core", "backends", "frontends", "tools", "tests"]

# Pure code does no I/O, has no clock, no thread, no socket.
IMPURE = re.compile(
    r"^(fcntl|unistd|pthread|threads|time|poll|signal|netdb|liburing|blkid|yaml|jansson)"
    r"(/.*)?\.h$|^sys/(socket|stat|ioctl|epoll|uio|time|eventfd|timerfd|types|un)\.h$"
    r"|^(netinet|arpa|linux|blkid)/"
)
# uuid.c and diag.c of core/base ask the system for random bytes and a stderr: that is their use.
PURE_LAYERS = ["metadata"]
SOCKETS = re.compile(r"^(sys/(socket|un|epoll)\.h|poll\.h|netdb\.h|liburing\.h|netinet/|arpa/)")

# The byte streams that frontends share: knows sockets, and no protocol.
SHARED_FRONTEND = "stream"
# A transport of SCSI uses SCSI.
FRONTEND_MAY_USE = {"iscsi": ["scsi"]}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def layer_of(path):
    if path.startswith("core/base/"):
        return "core/base"
    top = path.split("/")[0]
    return top if top in MAY_USE else None


def frontend_of(path):
    parts = path.split("/")
    return parts[1] if parts[0] == "frontends" and len(parts) > 2 else None


def complaints(path, text):
    """What is wrong with the includes of the file @path, as (line number, words)."""
    layer = layer_of(path)
    found = []
    if layer is None:
        return found
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        kind, target = match.groups()
        if kind == '"':
            if "/" not in target or target.startswith("."):
                found.append((number, f'"{target}": name it from the top of the tree'))
                continue
            other = layer_of(target)
            if other is None:
                found.append((number, f'"{target}" belongs to no layer'))
            elif other != layer and other not in MAY_USE[layer]:
                found.append((number, f"{layer} may not use {other} ({target})"))
            elif layer == "frontends" and other == layer \
                    and frontend_of(target) not in [frontend_of(path), SHARED_FRONTEND,
                                                 *FRONTEND_MAY_USE.get(frontend_of(path), [])]:
                found.append((number, f"frontend {frontend_of(path)} may not use another ({target})"))
        else:
            if layer in PURE_LAYERS and IMPURE.match(target):
                found.append((number, f"{layer} is pure: no <{target}>"))
            if layer == "frontends" and SOCKETS.match(target) and frontend_of(path) != SHARED_FRONTEND \
                    and "_server" not in os.path.basename(path) \
                    and not re.search("_(conn|socket)", os.path.basename(path)):
                found.append((number, f"only *_server.c of a frontend knows sockets: no <{target}>"))
    return found


def lint_tree():
    bad = 0
    for top in sorted({layer.split("/")[0] for layer in LAYERS}):
        for folder, _, names in sorted(os.walk(top)):
            for name in sorted(names):
                if not name.endswith((".c", ".h")):
                    continue
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as file:
                    for number, words in complaints(path, file.read()):
                        print(f"{path}:{number}: {words}")
                        bad += 1
    return bad


WRONG = [
    ("core/base/list.c", '#include "metadata/name.h"'),
    ("core/base/list.c", '#include "core/volume.h"'),
    ("metadata/map.c", '#include "core/volume.h"'),
    ("metadata/map.c", "#include <unistd.h>"),
    ("metadata/map.c", "#include <sys/socket.h>"),
    ("metadata/map.c", "#include <liburing.h>"),
    ("core/log.c", '#include "backends/file.h"'),
    ("core/log.c", '#include "frontends/nbd/nbd_proto.h"'),
    ("core/log.c", '#include "log_internal.h"'),
    ("backends/file.c", '#include "frontends/nbd/nbd_proto.h"'),
    ("backends/file.c", '#  include "tools/options.h"'),
    ("frontends/nbd/nbd_request.c", '#include "backends/file.h"'),
    ("frontends/nbd/nbd_request.c", '#include "frontends/admin/admin_json.h"'),
    ("frontends/nbd/nbd_request.c", "#include <sys/socket.h>"),
    ("frontends/nbd/nbd_request.c", '#include "frontends/scsi/scsi.h"'),
    ("frontends/scsi/scsi_task.c", '#include "frontends/iscsi/iscsi_session.h"'),
    ("frontends/stream/stream_connection.c", '#include "frontends/nbd/nbd_session.h"'),
    ("tools/quarryd.c", '#include "tests/unit/support.h"'),
]
RIGHT = [
    ("core/base/list.c", '#include "core/base/util.h"\n#include <string.h>'),
    ("metadata/map.c", '#include "core/base/util.h"\n#include "metadata/format.h"'),
    ("core/log.c", '#include "metadata/format.h"\n#include <unistd.h>'),
    ("frontends/nbd/nbd_server.c", '#include "core/target.h"\n#include <sys/socket.h>'),
    ("frontends/nbd/nbd_server.c", '#include "frontends/stream/stream_connection.h"'),
    ("frontends/stream/stream_connection.c", "#include <netdb.h>"),
    ("frontends/iscsi/iscsi_session.h", '#include "frontends/scsi/scsi.h"'),
    ("tools/quarryd.c", '#include "frontends/nbd/nbd_server.h"\n#include "backends/file.h"'),
    ("tests/unit/test_map.c", '#include "metadata/map.h"\n#include "core/device.h"'),
]


def self_test():
    bad = 0
    for path, text in WRONG:
        if not complaints(path, text):
            print(f"should have been refused: {path}: {text}")
            bad += 1
    for path, text in RIGHT:
        for _, words in complaints(path, text):
            print(f"should have been accepted: {path}: {words}")
            bad += 1
    return bad


if __name__ == "__main__":
    sys.exit(1 if (self_test() if "--self-test" in sys.argv[1:] else lint_tree()) else 0)
