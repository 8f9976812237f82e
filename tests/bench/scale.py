#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What grows with a pool, and how: on sparse files, so that they take the space of what is used.

    make bench-scale [BENCHFLAGS="--tib 1 100 1024 --volumes 10000"]

For each size: how long the pool takes to be made, and what that writes; then volumes are made, and for some of them
snapshots; a checkpoint without and with something changed; kill -9, and how long it takes until the pool is served
again.  Memory is the daemon's resident memory.
"""
import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
from ready import wait_ready  # noqa: E402

FILE_TIB_MAX = 15  # ext4 holds files of up to 16 TiB


class Daemon:
    def __init__(self, build, work, *flags):
        self.socket_path = os.path.join(work, "q.sock")
        began = time.monotonic()
        self.process = subprocess.Popen(
            [os.path.join(build, "quarryd"), "--socket", self.socket_path, "--listen",
             f"nbd+unix:///?socket={work}/n.sock", *flags], stderr=open(os.path.join(work, "log"), "a"))
        wait_ready(self.socket_path, self.process.pid, 3600)
        self.start_s = time.monotonic() - began
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(self.socket_path)
        self.lines = self.connection.makefile("rw")

    def ask(self, verb, **fields):
        self.lines.write(json.dumps({"quarry": 1, "verb": verb, **fields}) + "\n")
        self.lines.flush()
        while True:
            answer = json.loads(self.lines.readline())
            if not answer.get("ok"):
                raise SystemExit(f"{verb}: {answer['error']['message']}")
            if not answer.get("more"):
                return answer["result"]

    def proc(self, name, field):
        with open(f"/proc/{self.process.pid}/{name}") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key == field:
                    return int(value.split()[0])
        raise KeyError(field)

    def memory_mib(self):
        return self.proc("status", "VmRSS") / 1024

    def written_mib(self):
        return self.proc("io", "write_bytes") / 2**20

    def kill(self):
        self.connection.close()
        self.process.kill()
        self.process.wait()


def timed(call):
    began = time.monotonic()
    call()
    return time.monotonic() - began


def checkpoint_mib(daemon):
    """What the next checkpoint writes; or more, as slabs are written ahead in the background."""
    before = daemon.written_mib()
    daemon.ask("pool.set", name="tank", warn_percent=[80, 90])
    return daemon.written_mib() - before


def measure(build, parent, tib, volumes):
    work = os.path.join(parent, f"quarry-scale-{os.getpid()}")
    os.makedirs(work)
    try:
        files = []
        for i in range(-(-tib // FILE_TIB_MAX)):
            files.append(os.path.join(work, f"{i}.img"))
            with open(files[-1], "w") as file:
                file.truncate(min(FILE_TIB_MAX, tib - i * FILE_TIB_MAX) << 40)
        daemon = Daemon(build, work)
        create_s = timed(lambda: daemon.ask("pool.create", name="tank", devices=files))
        create_mib = daemon.written_mib()
        empty_mib = daemon.memory_mib()
        volumes_s = timed(lambda: [daemon.ask("volume.create", name=f"tank/v{i}", size_bytes=10 << 30)
                                   for i in range(volumes)])
        nothing_mib = min(checkpoint_mib(daemon) for _ in range(5))
        snapshots = [timed(lambda n=i: daemon.ask("snapshot.create", names=[f"tank/v{n}@s"]))
                     for i in range(min(100, volumes))]
        changed_mib = checkpoint_mib(daemon)
        full_mib = daemon.memory_mib()
        daemon.kill()
        daemon = Daemon(build, work, *[word for path in files for word in ("--import", path)])
        start_s, start_mib = daemon.start_s, daemon.memory_mib()
        daemon.kill()
        print(f"| {tib:,} TiB | {create_s:.1f} s, {create_mib:,.0f} MiB | {empty_mib:,.0f} MiB | {volumes_s:.1f} s | "
              f"{full_mib:,.0f} MiB | {nothing_mib:.2f} / {changed_mib:.2f} MiB | "
              f"{statistics.median(snapshots) * 1000:.2f} / {max(snapshots) * 1000:.1f} ms | "
              f"{start_s:.1f} s, {start_mib:,.0f} MiB |", flush=True)
    finally:
        shutil.rmtree(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tib", type=int, nargs="+", default=[1, 100, 1024])
    parser.add_argument("--volumes", type=int, default=10000)
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    build = os.path.abspath(os.path.join(ROOT, os.environ.get("BUILD", "build")))
    print(f"| pool | made in, written | memory, empty | {args.volumes:,} volumes in | memory | "
          "checkpoint of nothing / of 100 snapshots | a snapshot: median / most | served after kill -9, memory |\n"
          "|---|---|---:|---:|---:|---:|---:|---|", flush=True)
    for tib in args.tib:
        measure(build, args.dir, tib, args.volumes)


if __name__ == "__main__":
    main()
