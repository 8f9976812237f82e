# SPDX-License-Identifier: Apache-2.0
"""What is measured against each other: quarryd, other servers and the bare file.

A server gets the volumes that the jobs need (see jobs.py), brings them into the state that a job names, and says what
it spent.  It listens on Unix sockets or on loopback, keeps everything in a directory of its own, and is ended by the
ids of its processes.
"""
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

from jobs import AGED, FRESH, FULL, volume_sizes

TICKS = os.sysconf("SC_CLK_TCK")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
from ready import wait_ready  # noqa: E402


class DoesNotStart(Exception):
    pass


def wait_until(holds, why, seconds=60):
    """For states of which the program tells no event."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise DoesNotStart(f"{why}: not within {seconds} seconds")
        time.sleep(0.01)


def stat_fields(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


class Daemon:
    """A process that is not our child, by its id; to be used like subprocess.Popen."""

    def __init__(self, pid):
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def poll(self):
        return None if not select.select([self.fd], [], [], 0)[0] else 0

    def wait(self, timeout):
        if not select.select([self.fd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)

    def send(self, number):
        try:
            signal.pidfd_send_signal(self.fd, number)
        except ProcessLookupError:
            pass

    def terminate(self):
        self.send(signal.SIGTERM)

    def kill(self):
        self.send(signal.SIGKILL)


class Server:
    """Something to measure; a bare file has no process, and its address is a path."""
    name = "?"
    note = ""
    programs = ()  # without these it is left out
    ages = False  # whether overwriting changes anything but data

    def __init__(self, bench):
        self.bench = bench
        self.processes = []
        self.dir = os.path.join(bench.dir, re.sub(r"\W+", "-", self.name))
        self.sizes = volume_sizes([job for job in bench.jobs if self.takes(job)], bench.size)

    def takes(self, job):
        return True

    def start(self):
        """Makes all volumes and serves them."""
        os.makedirs(os.path.join(self.dir, "volumes"))
        for volume in self.sizes:
            self.make_file(volume)
        self.serve()

    def serve(self):
        raise NotImplementedError

    def disk_bytes(self):
        """What it takes of the disk, the fresh volume left out: there is only one at a time."""
        return sum(size for volume, size in self.sizes.items() if volume != FRESH)

    def address(self, volume):
        """The URI, or the path of a bare file."""
        return f"nbd+unix:///{volume}?socket={self.socket()}"

    def path(self, volume):
        return os.path.join(self.dir, "volumes", volume)

    def socket(self, volume="nbd"):
        return os.path.join(self.dir, f"{volume}.sock")

    def make_file(self, volume):
        with open(self.path(volume), "wb") as file:
            if volume == FRESH:
                os.truncate(file.fileno(), self.sizes[volume])
            else:
                os.posix_fallocate(file.fileno(), 0, self.sizes[volume])

    def empty(self, volume):
        """As if it had never been written.  Of a raw file that can be done while it is served."""
        subprocess.run(["fallocate", "--punch-hole", "--offset", "0", "--length", str(self.sizes[volume]),
                        self.path(volume)], check=True)

    def prepare(self, job):
        """Brings the volume into the state that the job names.  A raw file has no snapshots: it runs as it is."""
        if job.volume == FRESH:
            self.empty(FRESH)

    def finish(self, job):
        if job.volume == FRESH:
            self.empty(FRESH)  # the disk has to hold one server's at a time

    # --- processes ---

    def run(self, *command):
        return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout

    def log(self):
        return os.path.join(self.dir, "log")

    def launch(self, *command, env=None):
        with open(self.log(), "ab") as log:
            # If we are killed, it ends.
            process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=log, env={**os.environ, **(env or {})})
        self.processes.append(process)
        return process

    def wait_for(self, holds, process, what):
        def answers():
            if process.poll() is not None:
                raise DoesNotStart(f"{self.name} ends at once")
            return holds()
        wait_until(answers, what, 20)

    def wait_for_socket(self, process, path):
        def accepts():
            with socket.socket(socket.AF_UNIX) as sock:
                return sock.connect_ex(path) == 0
        self.wait_for(accepts, process, f"{self.name} accepts a connection")

    def stop(self):
        while self.processes:  # the last first: it may be a client of the one before
            process = self.processes[-1]
            if process.poll() is None:
                self.end(process)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(60)
            self.processes.pop()

    def end(self, process):
        process.terminate()

    def measured(self):
        """The processes whose use of the machine counts."""
        return self.processes

    def usage(self):
        """(processor seconds, bytes written) so far, of ended children, too; (0, 0) for a bare file."""
        cpu = written = 0
        for process in self.measured():
            # nbd-server has a child for each connection, which counts when it has been waited for.
            wait_until(lambda pid=process.pid: not children(pid), f"{self.name}'s connections end")
            cpu += sum(int(field) for field in stat_fields(process.pid)[11:15])
            try:
                with open(f"/proc/{process.pid}/io") as file:
                    written += int(re.search(r"^write_bytes: (\d+)", file.read(), re.M).group(1))
            except PermissionError:
                pass
        return cpu / TICKS, written

    def resident(self):
        """Resident bytes, of children, too; None for a bare file."""
        def of(pid):
            try:
                with open(f"/proc/{pid}/status") as file:
                    found = re.search(r"^VmRSS:\s+(\d+)", file.read(), re.M)
                return (int(found.group(1)) * 1024 if found else 0) + sum(of(child) for child in children(pid))
            except FileNotFoundError:
                return 0  # a child that has just ended
        return sum(of(process.pid) for process in self.measured()) if self.processes else None


class Bare(Server):
    name = "bare file"
    note = "fio on the file itself, O_DIRECT and io_uring: what the disk gives"

    def serve(self):
        pass

    def address(self, volume):
        return self.path(volume)


class Quarry(Server):
    name = "quarryd"
    note = "two preallocated files in a pool, --cache direct"
    cache = "direct"
    listen = ()
    ages = True

    def start(self):
        os.makedirs(self.dir)
        admin = os.path.join(self.dir, "admin.sock")
        listen = [word for uri in (f"nbd+unix:///?socket={self.socket()}", *self.listen) for word in ("--listen", uri)]
        process = self.launch(os.path.join(self.bench.build, "quarryd"), "--socket", admin, "--cache", self.cache, *listen)
        if not wait_ready(admin, process.pid):
            raise DoesNotStart("quarryd does not start")
        self.command = [os.path.join(self.bench.build, "quarry"), "--socket", admin]
        self.snapshots = 0
        volumes = [volume for volume in self.sizes if volume != AGED]
        if volumes:
            self.create_pool("tank", self.pool_size(), 2)
            for volume in volumes:
                self.create_volume(f"tank/{volume}", self.sizes[volume])
        if AGED in self.sizes:
            self.create_pool("old", self.sizes[AGED] * 4 // 3, 1)
            self.sizes[AGED] = self.status("old")["available_bytes"] * 4 // 5 >> 20 << 20
            self.create_volume(f"old/{AGED}", self.sizes[AGED])
        self.serve()

    def serve(self):
        pass

    def pool_size(self):
        return self.bench.pool_size

    def disk_bytes(self):
        return (self.pool_size() if set(self.sizes) - {AGED} else 0) + self.sizes.get(AGED, 0) * 4 // 3

    def address(self, volume):
        return f"nbd+unix:///{'old' if volume == AGED else 'tank'}/{volume}?socket={self.socket()}"

    def quarry(self, *words):
        return self.run(*self.command, *words)

    def status(self, pool):
        return json.loads(self.quarry("pool", "status", pool, "--json"))["pools"][0]

    def create_pool(self, pool, size, count):
        files = [os.path.join(self.dir, f"{pool}{i}.img") for i in range(count)]
        self.quarry("pool", "create", pool, *files, "--size", str(size // count), "--preallocate")
        # The bare file was written before it is measured, and so is the space of the pool.
        self.wait_for_status(pool, "unprepared_bytes")

    def create_volume(self, name, size):
        self.quarry("volume", "create", name, str(size))

    def wait_for_status(self, pool, key):
        wait_until(lambda: self.status(pool)[key] == 0, f"{pool}: {key} comes to 0", 600)

    def empty(self, volume):
        self.quarry("volume", "delete", f"tank/{volume}", "--yes")
        self.wait_for_status("tank", "deleting")
        self.create_volume(f"tank/{volume}", self.sizes[volume])

    def prepare(self, job):
        super().prepare(job)
        if self.snapshots and not job.snapshots:
            self.quarry("snapshot", "delete", *self.snapshot_names(self.snapshots))
            self.wait_for_status("tank", "deleting")
            self.snapshots = 0
        if job.snapshots:
            for name in self.snapshot_names(job.snapshots)[self.snapshots:]:
                self.quarry("snapshot", "create", name)
            self.snapshots = job.snapshots

    @staticmethod
    def snapshot_names(count):
        return [f"tank/{FULL}@s{i}" for i in range(count)]


class QuarryKernel(Quarry):
    name = "quarryd cache=kernel"
    note = "the same with --cache kernel: through the page cache"
    cache = "kernel"

    def takes(self, job):
        return job.volumes == [FULL] and not job.snapshots

    def pool_size(self):
        return min(self.bench.pool_size, 2 * self.bench.size)


class QemuNbd(Server):
    """A process for each volume: it knows no other way."""
    name = "qemu-nbd"
    note = "raw file, --cache=none, io_uring where it has it; a process for each volume, the memory of all"
    programs = ("qemu-nbd",)
    format = "raw"

    def serve(self):
        for aio in ("io_uring", "native"):
            try:
                for volume in self.sizes:
                    process = self.launch("qemu-nbd", f"--format={self.format}", f"--socket={self.socket(volume)}",
                                          f"--export-name={volume}", "--persistent", "--shared=32", "--cache=none",
                                          f"--aio={aio}", self.image(volume))
                    self.wait_for_socket(process, self.socket(volume))
                return
            except DoesNotStart:
                self.stop()
                if aio == "native":
                    raise

    def image(self, volume):
        return self.path(volume)

    def address(self, volume):
        return f"nbd+unix:///{volume}?socket={self.socket(volume)}"


class QemuQcow2(QemuNbd):
    """Snapshots are overlays: each a file that lies on the one before."""
    name = "qemu-nbd qcow2"
    note = "qcow2, --cache=none; snapshots are overlays"
    programs = ("qemu-nbd", "qemu-img")
    format = "qcow2"
    options = "cluster_size=64k"
    ages = True

    def __init__(self, bench):
        super().__init__(bench)
        self.overlays = 0

    def disk_bytes(self):
        return super().disk_bytes() + self.sizes.get(FULL, 0)  # what is written after a snapshot

    def make_file(self, volume):
        self.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", self.options, self.path(volume), str(self.sizes[volume]))

    def overlay(self, number):
        return self.path(FULL) + (f".{number}" if number else "")

    def image(self, volume):
        return self.overlay(self.overlays) if volume == FULL else self.path(volume)

    def empty(self, volume):
        self.stop()
        os.unlink(self.path(volume))
        self.make_file(volume)
        self.serve()

    def prepare(self, job):
        super().prepare(job)
        if job.snapshots == self.overlays:
            return
        self.stop()
        if not job.snapshots:
            for number in range(1, self.overlays + 1):
                os.unlink(self.overlay(number))
            self.overlays = 0
        for number in range(self.overlays + 1, job.snapshots + 1):
            self.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", self.options, "-F", "qcow2",
                     "-b", self.overlay(number - 1), self.overlay(number))
        self.overlays = job.snapshots
        self.serve()


class StorageDaemon:
    """qemu-storage-daemon in the place of qemu-nbd: one process for all volumes.

    Without an I/O thread, since with one version 7.2 ends at an assertion when a client goes.
    """

    def serve(self):
        command = ["qemu-storage-daemon", "--nbd-server", f"addr.type=unix,addr.path={self.socket()},max-connections=64"]
        for volume in self.sizes:
            command += ["--blockdev", f"driver=file,node-name=file-{volume},filename={self.image(volume)},cache.direct=on,"
                                      f"aio=io_uring",
                        "--blockdev", f"driver={self.format},node-name={volume},file=file-{volume}",
                        "--export", f"type=nbd,id={volume},node-name={volume},name={volume},writable=on"]
        self.wait_for_socket(self.launch(*command), self.socket())

    def address(self, volume):
        return f"nbd+unix:///{volume}?socket={self.socket()}"


class StorageDaemonRaw(StorageDaemon, QemuNbd):
    name = "storage-daemon"
    note = "qemu-storage-daemon, raw file, cache.direct, io_uring"
    programs = ("qemu-storage-daemon",)


class StorageDaemonQcow2(StorageDaemon, QemuQcow2):
    name = "storage-daemon qcow2"
    note = "qemu-storage-daemon, qcow2 with extended_l2 and clusters of 128 KiB, cache.direct; snapshots are overlays"
    programs = ("qemu-storage-daemon", "qemu-img")
    options = "extended_l2=on,cluster_size=128k"


class Nbdkit(Server):
    name = "nbdkit"
    note = "file plugin, through the page cache"
    programs = ("nbdkit",)

    def serve(self):
        process = self.launch("nbdkit", "--foreground", "--unix", self.socket(), "file",
                              f"dir={os.path.join(self.dir, 'volumes')}")
        self.wait_for_socket(process, self.socket())


class NbdServer(Server):
    """It serves several connections only if it may put itself into the background."""
    name = "nbd-server"
    note = "through the page cache; a process for each connection"
    programs = ("nbd-server",)

    def pid_file(self):
        return os.path.join(self.dir, "pid")

    def told(self):
        """Its process id, as soon as it has written that."""
        if not os.path.exists(self.pid_file()):
            return None
        with open(self.pid_file()) as file:
            text = file.read()
        return int(text) if text.endswith("\n") else None

    def serve(self):
        config = os.path.join(self.dir, "config")
        with open(config, "w") as file:
            file.write(f"[generic]\n\tunixsock = {self.socket()}\n\tlistenaddr = 127.0.0.1\n\tport = {free_port()}\n"
                       f"\tallowlist = true\n")
            for volume in self.sizes:
                file.write(f"[{volume}]\n\texportname = {self.path(volume)}\n\tflush = true\n\tfua = true\n")
        with open(self.log(), "ab") as log:
            subprocess.run(["nbd-server", "--config-file", config, "--pid-file", self.pid_file()], check=True,
                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.told, f"{self.name} writes its process id", 20)
        self.processes = [Daemon(self.told())]
        self.wait_for_socket(self.processes[0], self.socket())

    def stop(self):
        if not self.processes and self.told():  # interrupted while it started
            self.processes = [Daemon(self.told())]
        super().stop()
        if os.path.exists(self.pid_file()):
            os.unlink(self.pid_file())


class OverIscsi:
    """What a client of iSCSI sees.  fio knows no iSCSI, so that qemu-storage-daemon is the initiator between the two, of
    these servers alike; it is not measured, but it takes its share of the processors."""
    programs = ("qemu-storage-daemon",)

    def takes(self, job):
        return job.iscsi

    def connect(self, target, lun):
        initiator = self.launch(
            "qemu-storage-daemon", "--blockdev",
            f"driver=iscsi,transport=tcp,portal=127.0.0.1:{self.port},target={target},lun={lun},node-name=lun,cache.direct=on",
            "--nbd-server", f"addr.type=unix,addr.path={self.socket('initiator')}",
            "--export", f"type=nbd,id=lun,node-name=lun,name={FULL},writable=on")
        self.wait_for_socket(initiator, self.socket("initiator"))

    def address(self, volume):
        return f"nbd+unix:///{volume}?socket={self.socket('initiator')}"

    def measured(self):
        return self.processes[:1]


class QuarryIscsi(OverIscsi, Quarry):
    name = "quarryd iSCSI"
    note = "quarryd with qemu-storage-daemon as the initiator, over TCP on loopback"

    def __init__(self, bench):
        super().__init__(bench)
        self.port = free_port()
        self.listen = (f"iscsi://127.0.0.1:{self.port}",)

    def serve(self):
        self.connect(f"iqn.2026-11.io.quarry:tank.{FULL}", 0)

    def pool_size(self):
        return min(self.bench.pool_size, 2 * self.bench.size)


class Tgt(OverIscsi, Server):
    name = "tgt iSCSI"
    note = "tgtd with --bstype aio (O_DIRECT) and the same initiator"
    programs = ("tgtd", "tgtadm", *OverIscsi.programs)
    target = "iqn.2026-11.org.example:bench"

    def serve(self):
        self.port = free_port()
        # Else its socket is in a place that all tgtd of the machine share.
        self.environment = {"TGT_IPC_SOCKET": self.socket("tgtadm")}
        process = self.launch("tgtd", "--foreground", "--iscsi", f"portal=127.0.0.1:{self.port}", env=self.environment)
        self.wait_for(lambda: self.admin("--op", "show", "--mode", "target", check=False) == 0, process, "tgtd answers")
        self.admin("--op", "new", "--mode", "target", "--tid", "1", "--targetname", self.target)
        self.admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--backing-store", self.path(FULL),
                   "--bstype", "aio")
        self.admin("--op", "bind", "--mode", "target", "--tid", "1", "--initiator-address", "127.0.0.1")
        self.connect(self.target, 1)

    def admin(self, *words, check=True):
        return subprocess.run(["tgtadm", "--lld", "iscsi", *words], check=check, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              env={**os.environ, **self.environment}).returncode

    def end(self, process):
        if process != self.processes[0]:
            return super().end(process)
        # It does not heed SIGTERM.
        self.admin("--op", "delete", "--mode", "target", "--force", "--tid", "1", check=False)
        self.admin("--op", "delete", "--mode", "system", check=False)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def left_out(kind):
    """The program that is not here and without which this cannot be measured."""
    return next((program for program in kind.programs if not shutil.which(program)), None)


KINDS = [Bare, Quarry, QemuNbd]
KINDS_FULL = [Bare, Quarry, QuarryKernel, QemuNbd, StorageDaemonRaw, QemuQcow2, StorageDaemonQcow2, Nbdkit, NbdServer,
              QuarryIscsi, Tgt]
