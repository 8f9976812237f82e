#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Quarry beside other NBD servers and the bare file, on this machine, in one run.

    make bench [BENCHFLAGS=…]       quarryd, qemu-nbd and the bare file; under 10 minutes
    make bench-full [BENCHFLAGS=…]  more servers, jobs and rounds, and plots; hours
    make bench-full BENCHFLAGS="--only rand-read --servers quarryd,nbdkit --rounds 1 --seconds 1 --size 256"

Every server (servers.py) has files of its own on the same filesystem, serves its volumes over a Unix socket, and
flushes honestly.  Each volume is written once from end to end; then all jobs (jobs.py, fio-jobs/) run, and of each job
all servers, one after the other, in an order that turns with each round.  What counts is the median over the rounds.
Beside IOPS and latency: processor time of the server per 100,000 requests, bytes written to the device per byte written
by the client, and resident memory while the job runs.

The result (report.py, plot.py) goes to docs/benchmarks.json (of bench-full docs/benchmarks-full.json and
docs/benchmarks.svg) and between the markers in docs/BENCHMARKS.md, if nothing was left out; it is compared with the
committed JSON by ratios to the bare file, and what fell is said.
"""
import argparse
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import plot  # noqa: E402
import report  # noqa: E402
from jobs import FRESH, JOBS  # noqa: E402
from servers import KINDS, KINDS_FULL, ROOT, Bare, DoesNotStart, Quarry, left_out  # noqa: E402, F401


class Bench:
    def __init__(self, args):
        self.args = args
        self.build = os.path.abspath(os.path.join(ROOT, os.environ.get("BUILD", "build")))
        self.size = args.size << 20
        self.pool_size = args.pool_size << 20
        self.dir = os.path.join(args.dir, f"quarry-bench-{os.getpid()}")
        self.jobs = [job for job in JOBS if (args.full or job.quick) and
                     (not args.only or any(text in job.name for text in args.only))]
        if not self.jobs:
            sys.exit(f"no job has {' or '.join(args.only)} in its name")
        self.missing = {}
        kinds = [kind for kind in (KINDS_FULL if args.full else KINDS) if self.chosen(kind)]
        servers = [kind(self) for kind in kinds]
        self.jobs = [job for job in self.jobs if any(server.takes(job) for server in servers if server.name != Bare.name)]
        self.servers = [server for server in (kind(self) for kind in kinds) if server.sizes]

    def chosen(self, kind):
        if self.args.servers and kind.name not in self.args.servers + [Bare.name]:
            return False
        if left_out(kind):
            self.missing[kind.name] = left_out(kind)
            print(f"{kind.name} is left out: there is no {left_out(kind)} here")
            return False
        return True

    def job_file(self, server, job, path):
        """The job as it is in fio-jobs/; of a bare file the engine is another."""
        with open(os.path.join(ROOT, "fio-jobs", f"{job.file}.fio")) as file:
            text = file.read()
        if not server.processes:
            text = text.replace("ioengine=nbd\n", "ioengine=io_uring\ndirect=1\n")
            text = re.sub(r"^uri=", "filename=", text, flags=re.M)
            text = text.replace("\nfsync=1\n", "\nfdatasync=1\n")
        with open(path, "w") as file:
            file.write(text)

    def fio(self, server, job, seconds):
        """One run of one job: fio's own JSON of it, and what the server spent."""
        server.prepare(job)
        path, out = os.path.join(self.dir, "job.fio"), os.path.join(self.dir, "fio.json")
        self.job_file(server, job, path)
        environment = {**os.environ, "SIZE": str(server.sizes[job.volumes[0]]), "RUNTIME": str(seconds)}
        environment |= {"URI": server.address(job.volumes[0])}
        environment |= {f"URI{i}": server.address(volume) for i, volume in enumerate(job.volumes)}
        for _ in range(20):  # nbd-server listens for 10
            cpu, written = server.usage()
            status, said, resident = self.run_fio(server, ["--output-format=json", f"--output={out}", path], environment,
                                                  seconds * 2 / 3)
            # Linux's answer to more connections at once than a server listens for: nothing was measured yet.
            if status == 0 or "server backlog overflowed" not in said:
                break
        if status:
            sys.exit(f"{job.name} on {server.name}: fio ended with status {status}\n{said}")
        cpu_after, written_after = server.usage()
        server.finish(job)
        with open(out) as file:
            result = json.loads(strip_noise(file.read()))
        return digest(result["jobs"][0], cpu_after - cpu, written_after - written, resident)

    @staticmethod
    def run_fio(server, arguments, environment, look_after):
        """Its status, what it said on stderr, and what the server has in memory meanwhile."""
        with subprocess.Popen(["fio", *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              env=environment) as fio:
            try:
                try:
                    fio.communicate(timeout=look_after)
                except subprocess.TimeoutExpired:
                    pass
                resident = server.resident()
                said = fio.communicate()[1]
            except BaseException:
                fio.terminate()  # it ends its own processes
                raise
        return fio.returncode, said, resident

    def fill(self, server, volume, **options):
        """Every block is written once, with data that no one can leave out."""
        address = server.address(volume)
        target = {"ioengine": "nbd", "uri": address} if server.processes else \
            {"ioengine": "io_uring", "direct": 1, "filename": address}
        options = target | {"rw": "write", "bs": "1m", "iodepth": 8, "size": server.sizes[volume], "refill_buffers": 1,
                            "end_fsync": 1} | options
        subprocess.run(["fio", "--output=/dev/null", "--name=fill", *(f"--{key}={value}" for key, value in options.items())],
                       check=True, stdin=subprocess.DEVNULL)

    def age(self, server, volume):
        """Random overwrites of five times what the pool holds, of which the volume is four fifths."""
        self.fill(server, volume, rw="randwrite", bs="4k", iodepth=32, io_size=server.sizes[volume] * 25 // 4,
                  randrepeat=0, norandommap=1)

    def check_space(self):
        needed = sum(server.disk_bytes() for server in self.servers)
        needed += self.size if any(job.volume == FRESH for job in self.jobs) else 0
        free = shutil.disk_usage(self.args.dir).free
        if needed > free:
            sys.exit(f"{self.args.dir} has {free >> 30} GiB free, and {needed >> 30} GiB are needed: "
                     "choose a smaller --size, or another --dir")

    def start(self):
        for server in self.servers:
            print(f"{server.name}: {', '.join(server.sizes)}", flush=True)
            server.start()
            for volume in server.sizes:
                if volume != FRESH:
                    self.fill(server, volume)
                if volume == "aged" and server.ages:
                    self.age(server, volume)

    def run(self):
        takers = {job: [server for server in self.servers if server.takes(job)] for job in self.jobs}
        results = {job: {server.name: [] for server in takers[job]} for job in self.jobs}
        self.check_space()
        os.makedirs(self.dir)
        try:
            self.start()
            for number in range(self.args.rounds):
                for job in self.jobs:
                    turn = number % len(takers[job])
                    for server in takers[job][turn:] + takers[job][:turn]:
                        results[job][server.name].append(self.fio(server, job, self.args.seconds))
                    print(f"round {number + 1}, {job.name}: " + ", ".join(
                        f"{server.name} {report.human(results[job][server.name][-1])}" for server in takers[job]), flush=True)
            resident = {server.name: server.resident() for server in self.servers}
        except DoesNotStart as error:
            sys.exit(f"{error}; {self.logs()}")
        finally:
            self.clean_up()
        return {
            "schema": 1,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "machine": report.machine(),
            "rounds": self.args.rounds, "seconds": self.args.seconds, "volume_bytes": self.size,
            "servers": {server.name: server.note for server in self.servers},
            "missing": self.missing,
            "resident_bytes": resident,
            "jobs": {job.name: {name: report.median(runs) for name, runs in by.items()} for job, by in results.items()},
        }

    def logs(self):
        """The last words of all servers, since their directory is about to go."""
        words = []
        for server in self.servers:
            if os.path.exists(server.log()):
                with open(server.log(), errors="replace") as file:
                    words += [f"\n  {server.name}: {line.rstrip()}" for line in file.readlines()[-3:]]
        return "what was said last:" + ("".join(words) or " nothing")

    def clean_up(self):
        # A second signal does not leave servers behind.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for server in self.servers:
            try:
                server.stop()
            except Exception as error:  # the others are to be stopped all the same
                print(f"{server.name} does not end: {error!r}", file=sys.stderr)
        if not self.args.keep:
            shutil.rmtree(self.dir)


def strip_noise(text):
    """fio's JSON, without what its engines print in front of it."""
    return text[text.index("{"):]


def digest(job, cpu, written, resident):
    read, write, sync = job["read"], job["write"], job["sync"]
    ios = read["total_ios"] + write["total_ios"]
    if job["error"] or not ios:
        sys.exit(f"fio failed: error {job['error']}")
    seconds = max(read["runtime"], write["runtime"]) / 1000
    if write["total_ios"] and sync["total_ios"] and sync["total_ios"] <= 16:
        seconds += sync["lat_ns"]["max"] / 1e9  # the flush at the end counts
    main = write if write["total_ios"] > read["total_ios"] else read
    percentile = main["clat_ns"].get("percentile", {})
    latency = {key: percentile.get(f"{value:.6f}", 0) / 1000 for key, value in (("p50", 50), ("p99", 99), ("p999", 99.9))}
    if sync["total_ios"] > 16:  # a write is done when it is durable
        latency = {key: latency[key] + sync["lat_ns"].get("percentile", {}).get(f"{value:.6f}", 0) / 1000
                   for key, value in (("p50", 50), ("p99", 99), ("p999", 99.9))}
    return {
        "iops": ios / seconds,
        "bytes_per_second": (read["io_bytes"] + write["io_bytes"]) / seconds,
        "latency_us": latency,
        "cpu_seconds_per_100k": cpu / ios * 100000 if cpu else None,
        "device_bytes_per_byte": written / write["io_bytes"] if write["io_bytes"] and written else None,
        "resident_bytes": resident,
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all jobs and servers")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT",
                        help="jobs with this in their names; may be repeated")
    parser.add_argument("--servers", type=lambda text: text.split(","), metavar="NAME,…",
                        help="these, and the bare file: " + ", ".join(kind.name for kind in KINDS_FULL))
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seconds", type=int, default=None, help="of each run")
    parser.add_argument("--size", type=int, default=None, metavar="MIB", help="of the volume")
    parser.add_argument("--pool-size", type=int, default=None, metavar="MIB", help="its files are preallocated")
    parser.add_argument("--dir", default="/var/tmp", help="where the files are made")
    parser.add_argument("--keep", action="store_true", help="leave the files")
    parser.add_argument("--no-docs", action="store_true", help="do not touch docs/")
    parser.add_argument("--json", metavar="FILE", help="otherwise it goes to bench.json in the build's folder")
    parser.add_argument("--svg", metavar="FILE", help="plots, made by gnuplot")
    args = parser.parse_args()
    args.rounds = args.rounds or (5 if args.full else 3)
    args.seconds = args.seconds or (5 if args.full else 4)  # of 90 runs: within ten minutes with what is around them
    args.size = args.size or 2048
    args.pool_size = args.pool_size or (args.size * 9 // 2 if args.full else args.size * 12)
    unknown = set(args.servers or []) - {kind.name for kind in KINDS_FULL}
    if unknown:
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    return args


def main():
    args = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    bench = Bench(args)
    result = bench.run()
    report.write_json(result, args.json or os.path.join(bench.build, "bench.json"))
    print("\n" + report.table(result))
    if args.svg:
        plot.svg(result, args.svg)
    if not args.no_docs and not args.only and not args.servers:
        report.publish(result, args.full)


if __name__ == "__main__":
    main()
