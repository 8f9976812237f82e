#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Quarry beside other NBD servers and the bare file, on this machine, in one run.

    make bench [BENCHFLAGS=…]       quarryd, qemu-nbd and the bare file; under 10 minutes
    make bench-full                 more peers, jobs and rounds

Every server has a file of its own on the same filesystem, serves one volume over a Unix socket, and
flushes honestly.  Each volume is written once from end to end; then all jobs of fio-jobs/ run, and
of each job all servers, one after the other, in an order that turns with each round.  What counts is
the median over the rounds.  Beside IOPS and latency: processor time of the server per 100,000
requests, bytes written to the device per byte written by the client, and resident memory.

The result goes to docs/benchmarks.json and between the markers in docs/BENCHMARKS.md; it is compared
with the committed benchmarks.json by ratios to the bare file, and what fell is said.
"""
import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
from ready import wait_ready  # noqa: E402

# Names of fio-jobs/*.fio; what follows a space says in which state of the volume, see prepare().
# Sequential reads come before random writes, and once more behind them.
AFTER_SNAPSHOT = "rand-write-4k-qd32 after a snapshot"
AFTER_SNAPSHOTS = "rand-write-4k-qd32 after 100 snapshots"
JOBS = ["seq-write-64k-qd16", "seq-read-64k-qd16", "seq-write-1m-qd4", "seq-read-1m-qd4", "rand-read-4k-qd1",
        "rand-read-4k-qd32", "rand-write-4k-fdatasync-qd1", "rand-write-4k-qd32", AFTER_SNAPSHOT,
        "seq-read-1m-qd4 after random writes"]
JOBS_FULL = JOBS[:6] + ["rand-mixed-4k-qd32", "rand-write-4k-qd1", "rand-write-4k-fdatasync-qd1",
                        "rand-write-4k-fdatasync-16", "rand-write-4k-qd32", AFTER_SNAPSHOT, AFTER_SNAPSHOTS, JOBS[-1]]
TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """Something to measure; a bare file has no process and no URI."""
    name = "?"
    note = ""

    def __init__(self, bench):
        self.bench = bench
        self.process = None
        self.uri = None
        self.file = os.path.join(bench.dir, f"{self.name}.img")
        self.socket = os.path.join(bench.dir, f"{self.name}.sock")

    def start(self):
        raise NotImplementedError

    def prepare(self, job):
        """Brings the volume into the state that the job names.  A raw file has no snapshots: it runs as it is."""

    def make_file(self):
        with open(self.file, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.bench.size)

    def launch(self, *command, wait_for_socket=True):
        log = open(os.path.join(self.bench.dir, f"{self.name}.log"), "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait_for_socket:
            deadline = time.monotonic() + 20
            while not self.accepts():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{self.name} does not start: see {log.name}")
                time.sleep(0.01)  # of these programs there is no event to wait for

    def accepts(self):
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(self.socket)
                return True
            except OSError:
                return False

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def usage(self):
        """(processor seconds, bytes written) of the process so far, (0, 0) for a bare file."""
        if not self.process:
            return 0.0, 0
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        written = 0
        try:
            with open(f"/proc/{self.process.pid}/io") as file:
                written = int(re.search(r"^write_bytes: (\d+)", file.read(), re.M).group(1))
        except PermissionError:
            pass
        return (int(fields[11]) + int(fields[12])) / TICKS, written

    def resident(self):
        if not self.process:
            return None
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"^VmRSS:\s+(\d+)", file.read(), re.M).group(1)) * 1024


class Bare(Server):
    name = "bare file"
    note = "fio on the file itself, O_DIRECT and io_uring: what the disk gives"

    def __init__(self, bench):
        super().__init__(bench)
        self.file = os.path.join(bench.dir, "bare.img")

    def start(self):
        self.make_file()


class Quarry(Server):
    name = "quarryd"
    note = "two preallocated files in a pool, --cache direct"

    def start(self):
        admin = os.path.join(self.bench.dir, "admin.sock")
        self.launch(os.path.join(self.bench.build, "quarryd"), "--socket", admin,
                    "--listen", f"nbd+unix:///?socket={self.socket}", wait_for_socket=False)
        if not wait_ready(admin, self.process.pid):
            sys.exit("quarryd does not start")
        quarry = [os.path.join(self.bench.build, "quarry"), "--socket", admin]
        disks = [os.path.join(self.bench.dir, f"quarry{i}.img") for i in range(2)]
        subprocess.run(quarry + ["pool", "create", "tank", *disks, "--size", str(self.bench.pool_size // 2),
                                 "--preallocate"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(quarry + ["volume", "create", "tank/bench", str(self.bench.size)],
                       check=True, stdout=subprocess.DEVNULL)
        self.uri = f"nbd+unix:///tank/bench?socket={self.socket}"
        self.quarry = quarry
        self.snapshots = 0
        self.wait_prepared(quarry)

    def prepare(self, job):
        wanted = {AFTER_SNAPSHOT: 1, AFTER_SNAPSHOTS: 100}.get(job, 0)
        if self.snapshots and not wanted:
            subprocess.run(self.quarry + ["snapshot", "delete", *self.snapshot_names(self.snapshots)],
                           check=True, stdout=subprocess.DEVNULL)
        for name in self.snapshot_names(wanted)[self.snapshots:]:
            subprocess.run(self.quarry + ["snapshot", "create", name], check=True, stdout=subprocess.DEVNULL)
        self.snapshots = wanted

    @staticmethod
    def snapshot_names(count):
        return [f"tank/bench@s{i}" for i in range(count)]

    @staticmethod
    def wait_prepared(quarry):
        """The bare file was written before it is measured, and so is the space of the pool."""
        while True:
            status = subprocess.run(quarry + ["pool", "status", "tank", "--json"], check=True, capture_output=True)
            if json.loads(status.stdout)["pools"][0]["unprepared_bytes"] == 0:
                return
            time.sleep(0.2)


class QemuNbd(Server):
    name = "qemu-nbd"
    note = "raw file, --cache=none, io_uring where it has it"

    def start(self):
        self.make_file()
        for aio in ("io_uring", "native"):
            try:
                self.launch("qemu-nbd", "--format=raw", f"--socket={self.socket}", "--export-name=bench", "--persistent",
                            "--shared=32", "--cache=none", f"--aio={aio}", self.file)
                break
            except SystemExit:
                if aio == "native":
                    raise
        self.uri = f"nbd+unix:///bench?socket={self.socket}"


class QemuQcow2(Server):
    name = "qemu-nbd qcow2"
    note = "qcow2, metadata preallocated by writing, --cache=none"

    def start(self):
        self.file += ".qcow2"
        self.socket = os.path.join(self.bench.dir, "qcow2.sock")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.file, str(self.bench.size)], check=True)
        self.launch("qemu-nbd", "--format=qcow2", f"--socket={self.socket}", "--export-name=bench", "--persistent",
                    "--shared=32", "--cache=none", "--aio=native", self.file)
        self.uri = f"nbd+unix:///bench?socket={self.socket}"


class Nbdkit(Server):
    name = "nbdkit"
    note = "file plugin, through the page cache"

    def start(self):
        self.make_file()
        self.launch("nbdkit", "--foreground", "--unix", self.socket, "--exportname", "bench", "file", self.file)
        self.uri = f"nbd+unix:///bench?socket={self.socket}"


class NbdServer(Server):
    name = "nbd-server"
    note = "through the page cache"

    def start(self):
        self.make_file()
        config = os.path.join(self.bench.dir, "nbd-server.conf")
        with open(config, "w") as file:
            file.write(f"[generic]\n\tunixsock = {self.socket}\n\tlistenaddr = 127.0.0.1\n\tport = {free_port()}\n"
                       f"\tallowlist = true\n[bench]\n\texportname = {self.file}\n\tflush = true\n\tfua = true\n")
        self.launch("nbd-server", "--dont-fork", "--config-file", config)
        self.uri = f"nbd+unix:///bench?socket={self.socket}"

    def usage(self):
        # It serves each connection in a child, whose time comes to it when the child has ended.
        if not self.process:
            return 0.0, 0
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return sum(int(fields[i]) for i in (11, 12, 13, 14)) / TICKS, 0


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Bench:
    def __init__(self, args):
        self.args = args
        self.build = os.path.abspath(os.path.join(ROOT, os.environ.get("BUILD", "build")))
        self.size = args.size << 20
        self.pool_size = args.pool_size << 20
        self.dir = os.path.join(args.dir, f"quarry-bench-{os.getpid()}")
        os.makedirs(self.dir)
        kinds = [Bare, Quarry, QemuNbd] + ([QemuQcow2, Nbdkit, NbdServer] if args.full else [])
        self.servers = [kind(self) for kind in kinds]
        self.jobs = args.jobs or (JOBS_FULL if args.full else JOBS)

    def fio(self, server, job, seconds):
        """One run of one job: fio's own JSON of it, and what the server spent."""
        with open(os.path.join(ROOT, "fio-jobs", f"{job.split(' ')[0]}.fio")) as file:
            text = file.read()
        server.prepare(job)
        if not server.uri:
            text = text.replace("ioengine=nbd\n", "ioengine=io_uring\ndirect=1\n")
            text = text.replace("uri=${URI}\n", f"filename={server.file}\n")
            text = text.replace("\nfsync=1\n", "\nfdatasync=1\n")
        path = os.path.join(self.dir, "job.fio")
        with open(path, "w") as file:
            file.write(text)
        out = os.path.join(self.dir, "fio.json")
        cpu, written = server.usage()
        subprocess.run(["fio", "--output-format=json", f"--output={out}", path], check=True, stdin=subprocess.DEVNULL,
                       env={**os.environ, "URI": server.uri or "", "SIZE": str(self.size), "RUNTIME": str(seconds)})
        cpu_after, written_after = server.usage()
        with open(out) as file:
            result = json.loads(strip_noise(file.read()))
        return digest(result["jobs"][0], cpu_after - cpu, written_after - written)

    def fill(self, server):
        """Every block is written once, with data that no one can leave out."""
        job = os.path.join(self.dir, "fill.fio")
        target = f"ioengine=nbd\nuri={server.uri}\n" if server.uri else f"ioengine=io_uring\ndirect=1\nfilename={server.file}\n"
        with open(job, "w") as file:
            file.write(f"[fill]\n{target}rw=write\nbs=1m\niodepth=8\nsize={self.size}\nrefill_buffers\nend_fsync=1\n")
        subprocess.run(["fio", "--output=/dev/null", job], check=True, stdin=subprocess.DEVNULL)

    def run(self):
        results = {job: {server.name: [] for server in self.servers} for job in self.jobs}
        try:
            for server in self.servers:
                server.start()
                self.fill(server)
            for number in range(self.args.rounds):
                for job in self.jobs:
                    turn = number % len(self.servers)
                    for server in self.servers[turn:] + self.servers[:turn]:
                        results[job][server.name].append(self.fio(server, job, self.args.seconds))
                    print(f"round {number + 1}, {job}: " + ", ".join(
                        f"{server.name} {human(results[job][server.name][-1])}" for server in self.servers), flush=True)
            resident = {server.name: server.resident() for server in self.servers}
        finally:
            for server in self.servers:
                server.stop()
            if not self.args.keep:
                shutil.rmtree(self.dir)
        return {
            "schema": 1,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "machine": machine(),
            "rounds": self.args.rounds, "seconds": self.args.seconds, "volume_bytes": self.size,
            "servers": {server.name: server.note for server in self.servers},
            "resident_bytes": resident,
            "jobs": {job: {name: median(runs) for name, runs in by.items()} for job, by in results.items()},
        }


def strip_noise(text):
    """fio's JSON, without what its engines print in front of it."""
    return text[text.index("{"):]


def digest(job, cpu, written):
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
    }


def median(runs):
    def of(get):
        values = [get(run) for run in runs]
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    iops = sorted(run["iops"] for run in runs)
    return {
        "iops": of(lambda r: r["iops"]), "iops_least": iops[0], "iops_most": iops[-1],
        "bytes_per_second": of(lambda r: r["bytes_per_second"]),
        "latency_us": {key: of(lambda r, k=key: r["latency_us"][k]) for key in ("p50", "p99", "p999")},
        "cpu_seconds_per_100k": of(lambda r: r["cpu_seconds_per_100k"]),
        "device_bytes_per_byte": of(lambda r: r["device_bytes_per_byte"]),
    }


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read()).group(1)) >> 20
    return f"{os.cpu_count()} x {model}, {memory} GiB, Linux {platform.release()}"


def human(result):
    if "4k" not in result.get("job", "4k") or result["bytes_per_second"] / result["iops"] > 5000:
        return f"{result['bytes_per_second'] / 1e6:,.0f} MB/s"
    return f"{result['iops'] / 1000:,.1f}k" if result["iops"] >= 1000 else f"{result['iops']:.0f}"


def table(result):
    """The tables for docs/BENCHMARKS.md."""
    names = list(result["servers"])
    lines = [f"{result['date'][:10]}, {result['machine']}; a volume of {result['volume_bytes'] >> 20} MiB, "
             f"{result['rounds']} rounds of {result['seconds']} seconds each, medians.", ""]
    lines += ["| job | " + " | ".join(names) + " | quarryd : bare file | quarryd : best other server |",
              "|---|" + "---:|" * (len(names) + 2)]
    for job, by in result["jobs"].items():
        others = [by[name]["iops"] for name in names if name not in ("bare file", "quarryd")]
        row = [human(by[name]) for name in names]
        row.append(f"{by['quarryd']['iops'] / by['bare file']['iops']:.2f}")
        row.append(f"{by['quarryd']['iops'] / max(others):.2f}" if others else "")
        lines.append(f"| {job} | " + " | ".join(row) + " |")
    lines += ["", "Latency in µs (50 / 99 / 99.9 % of all requests are faster):", ""]
    lines += ["| job | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for job, by in result["jobs"].items():
        lines.append(f"| {job} | " + " | ".join(" / ".join(f"{by[name]['latency_us'][p]:,.0f}" for p in ("p50", "p99", "p999"))
                                                for name in names) + " |")
    served = [name for name in names if name != "bare file"]
    lines += ["", "Processor seconds of the server per 100,000 requests · bytes written to the device per byte of the client:", ""]
    lines += ["| job | " + " | ".join(served) + " |", "|---|" + "---:|" * len(served)]
    for job, by in result["jobs"].items():
        cells = []
        for name in served:
            cpu, amplification = by[name]["cpu_seconds_per_100k"], by[name]["device_bytes_per_byte"]
            cells.append((f"{cpu:.2f}" if cpu is not None else "?") + (f" · {amplification:.2f}" if amplification else ""))
        lines.append(f"| {job} | " + " | ".join(cells) + " |")
    resident = ", ".join(f"{name} {result['resident_bytes'][name] >> 20} MiB" for name in served)
    lines += ["", f"Resident memory at the end: {resident}.", ""]
    lines += [f"- **{name}**: {note}" for name, note in result["servers"].items()]
    return "\n".join(lines)


def compare(result, before):
    """What fell by more than a tenth, as a ratio to the bare file of its own run."""
    fell = []
    for job, by in result["jobs"].items():
        old = before.get("jobs", {}).get(job)
        if not old or "quarryd" not in old or "bare file" not in old:
            continue
        was = old["quarryd"]["iops"] / old["bare file"]["iops"]
        now = by["quarryd"]["iops"] / by["bare file"]["iops"]
        if now < 0.9 * was:
            fell.append(f"{job}: {was:.2f} of the bare file before, {now:.2f} now")
    return fell


def publish(result):
    docs = os.path.join(ROOT, "docs")
    before = subprocess.run(["git", "-C", ROOT, "show", "HEAD:docs/benchmarks.json"], capture_output=True, text=True)
    with open(os.path.join(docs, "benchmarks.json"), "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    page = os.path.join(docs, "BENCHMARKS.md")
    with open(page) as file:
        text = file.read()
    begin, end = "<!-- make bench writes from here -->", "<!-- to here -->"
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    with open(page, "w") as file:
        file.write(f"{head}{begin}\n{table(result)}\n{end}{tail}")
    if before.returncode == 0:
        fell = compare(result, json.loads(before.stdout))
        print("\nBeside the committed figures: " + ("nothing fell." if not fell else "these fell:"))
        for line in fell:
            print(f"  {line}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seconds", type=int, default=None, help="of each run")
    parser.add_argument("--size", type=int, default=None, metavar="MIB", help="of the volume")
    parser.add_argument("--pool-size", type=int, default=24 << 10, metavar="MIB", help="its files are preallocated")
    parser.add_argument("--dir", default="/var/tmp", help="where the files are made")
    parser.add_argument("--keep", action="store_true", help="leave the files")
    parser.add_argument("--no-docs", action="store_true", help="do not touch docs/")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("jobs", nargs="*", help="names of fio-jobs/*.fio, or as the tables have them")
    args = parser.parse_args()
    args.rounds = args.rounds or (5 if args.full else 3)
    args.seconds = args.seconds or (10 if args.full else 5)
    args.size = args.size or (4096 if args.full else 2048)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    result = Bench(args).run()
    print("\n" + table(result))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)
    if not args.no_docs and not args.jobs:
        publish(result)


if __name__ == "__main__":
    main()
