#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Overwriting a pool that is nearly full, on a real file: latency at 80 %, throughput at 95 %.

    make bench-aged-latency [BENCHFLAGS=…]

Full means: of what the pool offers to volumes (live + available in `quarry pool status`), so 95 % leaves the
twentieth part of that, and what the pool holds back besides.

 1. A volume is written up to 80 %.  Random 4 KiB overwrites at a steady rate, while there are free slabs left and
    nothing is cleaned: their p99.9 is what the rest is compared with.
 2. As fast as it goes, until the pool was written twice over.
 3. The steady rate again, while relocation works: p99.9, and of each second.
 4. The volume is written up to 95 %, and overwritten as in 2 and then for a measured time.
 5. The bare file, random 4 KiB overwrites as fast as it goes.
"""
import argparse
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench  # noqa: E402
from jobs import FULL, Job  # noqa: E402


def fio(work, name, target, **options):
    """One job of random or sequential writes; the result, and (ms, ns) of each request if it is paced."""
    options = {"name": name, "rw": "randwrite", "bs": "4k", "iodepth": 32, "refill_buffers": 1,
               "randrepeat": 0, "norandommap": 1} | target | options
    out = os.path.join(work, f"{name}.json")
    command = ["fio", "--output-format=json", f"--output={out}"]
    if "rate_iops" in options:
        options |= {"write_lat_log": os.path.join(work, name), "log_unix_epoch": 0}
    subprocess.run(command + [f"--{key}={value}" for key, value in options.items()], check=True,
                   stdin=subprocess.DEVNULL)
    with open(out) as file:
        result = json.loads(bench.strip_noise(file.read()))["jobs"][0]["write"]
    times = []
    if "rate_iops" in options:
        with open(os.path.join(work, f"{name}_clat.1.log")) as file:
            for line in file:
                fields = line.split(",")
                times.append((int(fields[0]), int(fields[1])))
    return result, times


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def us(ns):
    return f"{ns / 1000:,.0f}"


def curve(times):
    seconds = {}
    for ms, ns in times:
        seconds.setdefault(ms // 1000, []).append(ns)
    return [(second, percentile(seconds[second], 0.5), percentile(seconds[second], 0.999), max(seconds[second]))
            for second in sorted(seconds)]


class Setup:
    """What bench.Quarry looks at."""

    def __init__(self, args):
        self.build = os.path.abspath(os.path.join(bench.ROOT, os.environ.get("BUILD", "build")))
        self.pool_size = args.pool_size << 20
        self.size = self.pool_size
        self.jobs = [Job("")]
        self.dir = os.path.join(args.dir, f"quarry-aged-{os.getpid()}")
        os.makedirs(self.dir)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default="/var/tmp", help="where the files go (default: /var/tmp)")
    parser.add_argument("--pool-size", type=int, default=2048, metavar="MiB")
    parser.add_argument("--rate", type=int, default=3000, metavar="IOPS", help="the steady one")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--skip-95", action="store_true")
    args = parser.parse_args()
    setup = Setup(args)
    server = bench.Quarry(setup)
    try:
        server.start()
        pool = server.status("tank")
        offered = pool["live_bytes"] + pool["available_bytes"]
        target = {"ioengine": "nbd", "uri": server.address(FULL)}
        most = lambda percent: offered * percent // 100 >> 20 << 20  # noqa: E731

        print(f"{pool['size_bytes'] >> 20} MiB, of which {offered >> 20} for volumes; steady: {args.rate} writes a second")
        size = most(80)
        fio(setup.dir, "fill", target, rw="write", bs="1m", size=size, iodepth=8, norandommap=0)
        before = server.status("tank")["relocated_bytes"]
        _, quiet = fio(setup.dir, "quiet", target, size=size, runtime=args.seconds, time_based=1, rate_iops=args.rate)
        moved = server.status("tank")["relocated_bytes"] - before
        if moved:
            print(f"relocation has begun too early ({moved >> 20} MiB): the comparison is with some of it")
        age(setup, target, size)
        before = server.status("tank")["relocated_bytes"]
        _, busy = fio(setup.dir, "busy", target, size=size, runtime=args.seconds, time_based=1, rate_iops=args.rate)
        moved = server.status("tank")["relocated_bytes"] - before
        print("\n| 80 % full, steady | p50, µs | p99 | p99.9 | most |\n|---|---:|---:|---:|---:|")
        for name, times in (("nothing is cleaned", quiet), (f"{moved >> 20} MiB relocated", busy)):
            values = [ns for _, ns in times]
            print(f"| {name} | " + " | ".join(us(percentile(values, p)) for p in (0.5, 0.99, 0.999, 1)) + " |")
        print("\n| second | p50, µs | p99.9 | most | | cleaning: p50 | p99.9 | most |\n|---|---:|---:|---:|---|---:|---:|---:|")
        for a, b in zip(curve(quiet), curve(busy)):
            print(f"| {a[0]} | " + " | ".join(map(us, a[1:])) + " | | " + " | ".join(map(us, b[1:])) + " |")
        if not args.skip_95:
            throughput(setup, server, target, size, most(95), args.seconds)
    finally:
        server.stop()
        subprocess.run(["rm", "-rf", setup.dir], check=False)


def age(setup, target, size):
    fio(setup.dir, "age", target, size=size, io_size=2 * setup.pool_size)


def throughput(setup, server, target, from_bytes, size, seconds):
    fio(setup.dir, "more", target, rw="write", bs="1m", offset=from_bytes, size=size - from_bytes, iodepth=8,
        norandommap=0)
    age(setup, target, size)
    aged, _ = fio(setup.dir, "full", target, size=size, runtime=seconds, time_based=1)
    pool = server.status("tank")
    percent = 100 * pool["live_bytes"] / (pool["live_bytes"] + pool["available_bytes"])
    bare_file = os.path.join(setup.dir, "bare.img")
    bare = {"ioengine": "io_uring", "direct": 1, "filename": bare_file}
    fio(setup.dir, "bare-fill", bare, rw="write", bs="1m", size=size, iodepth=8, norandommap=0)
    raw, _ = fio(setup.dir, "bare", bare, size=size, runtime=seconds, time_based=1)
    print(f"\nrandom overwrites at {percent:.0f} %: {aged['iops']:,.0f} a second; the bare file: {raw['iops']:,.0f} "
          f"({aged['iops'] / raw['iops']:.2f})")


if __name__ == "__main__":
    main()
