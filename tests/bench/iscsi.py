#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""quarryd beside tgt and the bare file, with a libiscsi client (iscsi_load.c).

    make bench-iscsi [BENCHFLAGS="--rounds 3 --seconds 3 --size 2048 --dir DIR"]

All lie on files of one filesystem that were written from end to end before.  The rounds are interleaved, their order
turns, medians count.  tgt is left out if it is not installed (see docs/BENCHMARKS.md).  The bare file is measured by fio
with O_DIRECT and io_uring.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import ROOT, TICKS, free_port, stat_fields, wait_ready, wait_until  # noqa: E402

TARGET = "iqn.2026-11.org.example:bench"
# name, iscsi-load's job, bytes, depth, fio's options
# Reads before random writes: these scatter the blocks of a log.
JOBS = [
    ("4k random read, QD32", "read", 4096, 32, {"rw": "randread"}),
    ("64k random read, QD16", "read", 65536, 16, {"rw": "randread"}),
    ("4k random write, QD32", "write", 4096, 32, {"rw": "randwrite"}),
    ("4k write + sync, QD1", "sync", 4096, 1, {"rw": "randwrite", "fdatasync": 1}),
    ("64k random read, QD16, after random writes", "read", 65536, 16, {"rw": "randread"}),
]


class Bare:
    name = "bare file"

    def __init__(self, bench):
        self.path = os.path.join(bench.dir, "bare.img")
        bench.make_file(self.path)
        subprocess.run(["fio", "--name=fill", f"--filename={self.path}", f"--size={bench.size}", "--rw=write", "--bs=1m",
                        "--direct=1", "--ioengine=io_uring", "--iodepth=4", "--end_fsync=1", "--output=/dev/null"], check=True)

    def measure(self, job, seconds):
        _, _, size, depth, options = job
        out = subprocess.run(
            ["fio", "--name=job", f"--filename={self.path}", f"--bs={size}", f"--iodepth={depth}", "--direct=1", "--time_based",
             "--ioengine=io_uring", f"--runtime={seconds}", "--output-format=json", "--norandommap", "--randrepeat=0",
             *(f"--{key}={value}" for key, value in options.items())], check=True, stdout=subprocess.PIPE, text=True).stdout
        result = json.loads(out[out.index("{"):])["jobs"][0]
        return (result["read"]["iops"] or result["write"]["iops"]), None

    def stop(self):
        pass


class Served:
    def url(self):
        raise NotImplementedError

    def load(self, job, size, depth, seconds):
        out = subprocess.run([os.path.join(self.bench.build, "iscsi-load"), self.url(), job, str(size), str(depth), str(seconds)],
                             check=True, stdout=subprocess.PIPE, text=True).stdout
        return int(out.split()[0]), float(out.split()[1])

    def cpu_s(self):
        fields = stat_fields(self.process.pid)
        return (int(fields[11]) + int(fields[12])) / TICKS

    def measure(self, job, seconds):
        _, kind, size, depth, _ = job
        before = self.cpu_s()
        count, took_s = self.load(kind, size, depth, seconds)
        return count / took_s, (self.cpu_s() - before) / count * 100000

    def launch(self, *command, **options):
        with open(os.path.join(self.bench.dir, f"{self.name}.log"), "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)


class Quarry(Served):
    name = "quarryd"

    def __init__(self, bench):
        self.bench, self.port = bench, free_port()
        admin = os.path.join(bench.dir, "admin.sock")
        self.launch(os.path.join(bench.build, "quarryd"), "--socket", admin, "--listen", f"iscsi://127.0.0.1:{self.port}")
        if not wait_ready(admin, self.process.pid):
            sys.exit("quarryd does not start")
        command = [os.path.join(bench.build, "quarry"), "--socket", admin]
        files = [os.path.join(bench.dir, f"quarry{i}.img") for i in range(2)]
        subprocess.run([*command, "pool", "create", "tank", *files, "--size", str(bench.size), "--preallocate"], check=True,
                       stdout=subprocess.DEVNULL)
        status = [*command, "pool", "status", "tank", "--json"]
        wait_until(lambda: json.loads(subprocess.run(status, check=True, stdout=subprocess.PIPE).stdout)
                   ["pools"][0]["unprepared_bytes"] == 0, "the files are written", 600)
        subprocess.run([*command, "volume", "create", "tank/full", str(bench.size)], check=True, stdout=subprocess.DEVNULL)
        self.load("fill", 262144, 8, 0)

    def url(self):
        return f"iscsi://127.0.0.1:{self.port}/iqn.2026-11.io.quarry:tank.full/0"

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


class Tgt(Served):
    name = "tgt"

    def __init__(self, bench):
        self.bench, self.port = bench, free_port()
        path = os.path.join(bench.dir, "tgt.img")
        bench.make_file(path)
        self.environment = {**os.environ, "TGT_IPC_SOCKET": os.path.join(bench.dir, "tgtadm.sock")}
        self.launch("tgtd", "--foreground", "--iscsi", f"portal=127.0.0.1:{self.port}", env=self.environment)
        wait_until(lambda: self.admin("--op", "show", "--mode", "target", check=False) == 0, "tgtd answers")
        self.admin("--op", "new", "--mode", "target", "--tid", "1", "--targetname", TARGET)
        self.admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--backing-store", path, "--bstype", "aio")
        self.admin("--op", "bind", "--mode", "target", "--tid", "1", "--initiator-address", "127.0.0.1")
        self.load("fill", 262144, 8, 0)

    def admin(self, *words, check=True):
        return subprocess.run(["tgtadm", "--lld", "iscsi", *words], check=check, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment).returncode

    def url(self):
        return f"iscsi://127.0.0.1:{self.port}/{TARGET}/1"

    def stop(self):
        # It does not heed SIGTERM.
        self.admin("--op", "delete", "--mode", "target", "--force", "--tid", "1", check=False)
        self.admin("--op", "delete", "--mode", "system", check=False)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Bench:
    def __init__(self, args):
        self.size = args.size << 20
        self.build = os.path.join(ROOT, os.environ.get("BUILD", "build"))
        self.dir = tempfile.mkdtemp(prefix="quarry-bench.", dir=args.dir)

    def make_file(self, path):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.size)


def cell(results):
    if not results:
        return "-"
    text = f"{statistics.median(rate for rate, _ in results) / 1000:.1f}k"
    if results[0][1] is not None:
        text += f" · {statistics.median(cpu for _, cpu in results):.2f}"
    return text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--size", type=int, default=2048, help="of the unit, in MiB")
    parser.add_argument("--dir", default="/var/tmp")
    args = parser.parse_args()
    bench = Bench(args)
    kinds = [Bare, Quarry] + ([Tgt] if shutil.which("tgtd") else [])
    if Tgt not in kinds:
        print("tgt is not installed and left out", file=sys.stderr)
    running = []
    results = {}
    try:
        for kind in kinds:
            running.append(kind(bench))
        for job in JOBS:
            for number in range(args.rounds):
                order = running[number % len(running):] + running[:number % len(running)]
                for server in order:
                    results.setdefault((job[0], server.name), []).append(server.measure(job, args.seconds))
    finally:
        for server in running:
            server.stop()
        shutil.rmtree(bench.dir)
    print("| job | " + " | ".join(server.name for server in running) + " |")
    print("|---|" + "---:|" * len(running))
    for job in JOBS:
        print(f"| {job[0]} | " + " | ".join(cell(results[job[0], server.name]) for server in running) + " |")


if __name__ == "__main__":
    main()
