#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Does kill -9 of quarryd lose anything that it acknowledged?

    crash.py --quarryd PATH --quarry PATH --dir DIR [--kills 20] [--seed N] [--node-cache 4MiB]

Four writers, each with a connection and a part of the volume of its own, keep 16 requests in flight:
writes of one to eight blocks, writes of single sectors (which the server has to patch into blocks),
zeroes, FUA, flushes.  Every unit (block or sector) is filled with a stamp: volume part, unit, and a
sequence number.  After a random number of acknowledged requests quarryd is killed, started again on
the same files, and every unit is read:

  * it holds the last acknowledged write, or the one that was in flight over it (there is at most
    one), and nothing else: not an older one, not a mixture (a unit is never torn);
  * a request of several blocks that was in flight is there as a whole or not at all.

Snapshots are taken meanwhile.  One that was acknowledged is there after each later kill, holds for
every unit what was acknowledged before it was asked for or something written later but before it was
there, and never changes.  Checks go on over all kills; the writers go on where they were.
"""
import argparse
import hashlib
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time

import nbd

from ready import wait_ready

BLOCK = 4096
SECTOR = 512
WRITERS = 4
DEPTH = 16
BLOCKS_PER_WRITER = 1536
SECTORS_PER_WRITER = 1024
PART_BYTES = BLOCKS_PER_WRITER * BLOCK + SECTORS_PER_WRITER * SECTOR
VOLUME_BYTES = WRITERS * PART_BYTES
SNAPSHOTS_KEPT = 4
ZERO = "zero"


def fail(words):
    sys.exit(f"# FAILED: {words}")


def stamp(unit, sequence, length):
    return struct.pack("<QQ", unit ^ 0x5155415252590000, sequence) * (length // 16)


def unstamp(unit, data):
    """The sequence number in a unit's data; 0 for zeroes; None if it is torn or foreign."""
    if data.count(0) == len(data):
        return 0
    head, sequence = struct.unpack_from("<QQ", data)
    if head != unit ^ 0x5155415252590000 or data != data[:16] * (len(data) // 16):
        return None
    return sequence


class Unit:
    """What may be in one block or sector, as sequence numbers; zeroes count as a write of zeroes."""
    __slots__ = ("offset", "length", "acked", "acked_zero", "flying", "flying_zero", "zeroed")

    def __init__(self, offset, length):
        self.offset, self.length = offset, length
        self.acked, self.acked_zero = 0, True  # never written
        self.flying, self.flying_zero = 0, False
        self.zeroed = 0  # the last time that zeroes were asked for

    def may_hold(self):
        """{what may be read}: sequence number, or 0 for zeroes."""
        allowed = {0 if self.acked_zero else self.acked}
        if self.flying:
            allowed.add(0 if self.flying_zero else self.flying)
        return allowed


class Writer:
    def __init__(self, crash, index):
        self.crash, self.index = crash, index
        base = index * PART_BYTES
        self.blocks = [Unit(base + i * BLOCK, BLOCK) for i in range(BLOCKS_PER_WRITER)]
        base += BLOCKS_PER_WRITER * BLOCK
        self.sectors = [Unit(base + i * SECTOR, SECTOR) for i in range(SECTORS_PER_WRITER)]
        self.handle = None
        self.in_flight = 0
        self.requests = {}  # sequence: units, of what is in flight

    def connect(self):
        self.handle = nbd.NBD()
        self.handle.connect_uri(self.crash.uri())
        self.in_flight = 0

    def fill(self):
        while self.in_flight < DEPTH:
            self.submit_one()

    def choose(self, rng):
        if rng.random() < 0.25:
            units, first, count = self.sectors, rng.randrange(SECTORS_PER_WRITER), 1
        else:
            # Half of the writes go to a few blocks, so that batches overwrite one another.
            units, count = self.blocks, rng.choice((1, 1, 1, 1, 2, 4, 8))
            first = rng.randrange(64 if rng.random() < 0.5 else BLOCKS_PER_WRITER - count)
        chosen = units[first:first + count]
        return chosen if chosen and not any(unit.flying for unit in chosen) else None

    def submit_one(self):
        rng = self.crash.rng
        flags = nbd.CMD_FLAG_FUA if rng.random() < 0.05 else 0
        self.in_flight += 1
        self.crash.sequence += 1
        sequence = self.crash.sequence
        if rng.random() < 0.02:
            self.handle.aio_flush(completion=lambda error: self.completed([], sequence, error))
            return
        units = None
        while units is None:
            units = self.choose(rng)
        zero = rng.random() < 0.1
        for unit in units:
            unit.flying, unit.flying_zero = sequence, zero
            if zero:
                unit.zeroed = sequence
        self.requests[sequence] = units
        length = sum(unit.length for unit in units)

        def done(error):
            return self.completed(units, sequence, error)

        if zero:
            self.handle.aio_zero(length, units[0].offset, completion=done, flags=flags)
        else:
            data = b"".join(stamp(unit.offset, sequence, unit.length) for unit in units)
            self.handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), units[0].offset,
                                   completion=done, flags=flags)

    def completed(self, units, sequence, error):
        self.in_flight -= 1
        if error.value:
            self.crash.errors += 1  # of the lost connection: what was in flight stays so
            return 1
        for unit in units:
            unit.acked, unit.acked_zero, unit.flying = sequence, unit.flying_zero, 0
        self.requests.pop(sequence, None)
        self.crash.acked += 1
        return 1

    def read_part(self, handle):
        base = self.index * PART_BYTES
        return handle.pread(PART_BYTES, base)

    def check(self, data):
        """Checks the part's content after a crash, and settles what was in flight."""
        base = self.index * PART_BYTES
        held = {}
        for unit in self.blocks + self.sectors:
            at = unit.offset - base
            sequence = unstamp(unit.offset, data[at:at + unit.length])
            if sequence not in unit.may_hold():
                fail(f"unit at {unit.offset} ({unit.length} bytes) holds "
                     f"{'torn or foreign bytes' if sequence is None else sequence}, "
                     f"may hold {sorted(unit.may_hold())}")
            held[unit.offset] = sequence
        for sequence, units in self.requests.items():
            # Whole, or not at all.  (Zeroes over zeroes look the same: both are right.)
            wanted = 0 if units[0].flying_zero else sequence
            new = [held[unit.offset] == wanted for unit in units]
            old = [held[unit.offset] == (0 if unit.acked_zero else unit.acked) for unit in units]
            if not all(new) and not all(old):
                fail(f"the write {sequence} of {len(units)} blocks at {units[0].offset} is there in part: {new}")
        for unit in self.blocks + self.sectors:
            if unit.flying:
                sequence = held[unit.offset]
                if sequence == unit.flying or (sequence == 0 and unit.flying_zero):
                    unit.acked, unit.acked_zero = unit.flying, unit.flying_zero
                unit.flying = 0
        self.requests = {}


class Snapshot:
    """A snapshot under way or there: for each unit, the oldest that it may hold."""

    def __init__(self, crash, name):
        self.name = name
        # Every write that was acknowledged by now is in it.
        self.least = {unit.offset: (0 if unit.acked_zero else unit.acked, unit.acked)
                      for unit in crash.units()}
        self.asked_at = crash.sequence
        self.digest = None
        self.process = subprocess.Popen(crash.quarry_command("snapshot", "create", name),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def check(self, crash):
        """Reads all of it; the first time against the bounds, later against the first time."""
        handle = nbd.NBD()
        handle.connect_uri(crash.uri(self.name))
        data = b"".join(handle.pread(min(8 << 20, VOLUME_BYTES - at), at)
                        for at in range(0, VOLUME_BYTES, 8 << 20))
        handle.shutdown()
        digest = hashlib.sha256(data).hexdigest()
        if self.digest and digest != self.digest:
            fail(f"snapshot {self.name} changed")
        if not self.digest:
            for unit in crash.units():
                sequence = unstamp(unit.offset, data[unit.offset:unit.offset + unit.length])
                oldest_held, oldest = self.least[unit.offset]
                # Zeroes are right if they were there, or were asked for later.
                late_enough = unit.zeroed > oldest if sequence == 0 else (sequence or 0) > oldest
                if sequence != oldest_held and not late_enough:
                    fail(f"snapshot {self.name}: unit at {unit.offset} holds {sequence}, not {oldest_held} or later")
        self.digest = digest


class Crash:
    def __init__(self, args):
        self.args = args
        self.rng = random.Random(args.seed)
        self.sequence = self.acked = self.errors = 0
        self.daemon = None
        self.socket = os.path.join(args.dir, "admin.sock")
        self.nbd_socket = os.path.join(args.dir, "nbd.sock")
        self.files = [os.path.join(args.dir, f"disk{i}.img") for i in range(2)]
        self.writers = [Writer(self, i) for i in range(WRITERS)]
        self.snapshots = []
        self.snapshots_made = 0

    def units(self):
        for writer in self.writers:
            yield from writer.blocks
            yield from writer.sectors

    def uri(self, name="tank/crash"):
        return f"nbd+unix:///{name}?socket={self.nbd_socket}"

    def quarry_command(self, *arguments):
        return [self.args.quarry, "--socket", self.socket, *arguments]

    def quarry(self, *arguments):
        done = subprocess.run(self.quarry_command(*arguments), capture_output=True, text=True)
        if done.returncode:
            fail(f"quarry {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def start(self, *arguments):
        log = open(os.path.join(self.args.dir, "quarryd.log"), "ab")
        began = time.monotonic()
        self.daemon = subprocess.Popen(
            [self.args.quarryd, "--socket", self.socket, "--node-cache", self.args.node_cache,
             "--listen", f"nbd+unix:///?socket={self.nbd_socket}", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if not wait_ready(self.socket, self.daemon.pid, 60):
            fail("quarryd does not come up again")
        return time.monotonic() - began

    def kill(self):
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def pump(self, until):
        """Keeps the writers busy until the condition holds, or a connection is lost."""
        poll = select.poll()
        by_fd = {writer.handle.aio_get_fd(): writer for writer in self.writers}
        deadline = time.monotonic() + 120
        while not until():
            if time.monotonic() > deadline:
                fail("the writers make no progress")
            for fd, writer in by_fd.items():
                writer.fill()
                direction = writer.handle.aio_get_direction()
                poll.register(fd, (select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0) |
                              (select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE else 0))
            for fd, events in poll.poll(1000):
                handle = by_fd[fd].handle
                direction = handle.aio_get_direction()
                if events & select.POLLIN and direction & nbd.AIO_DIRECTION_READ:
                    handle.aio_notify_read()
                elif events & select.POLLOUT and direction & nbd.AIO_DIRECTION_WRITE:
                    handle.aio_notify_write()
                elif events & (select.POLLERR | select.POLLHUP):
                    fail("a connection was lost before the kill")

    def drain(self):
        """After the kill: takes what was still sent before it."""
        for writer in self.writers:
            try:
                while writer.handle.aio_is_ready() or writer.handle.aio_is_processing():
                    if writer.handle.aio_get_direction() & nbd.AIO_DIRECTION_READ:
                        writer.handle.aio_notify_read()
                    else:
                        writer.handle.aio_notify_write()
            except nbd.Error:
                pass
            writer.handle = None

    def take_snapshot(self):
        if len(self.snapshots) >= SNAPSHOTS_KEPT:
            gone = self.snapshots.pop(self.rng.randrange(len(self.snapshots)))
            self.quarry("snapshot", "delete", "--yes", gone.name)
        self.snapshots_made += 1
        return Snapshot(self, f"tank/crash@s{self.snapshots_made}")

    def one_round(self, number):
        for writer in self.writers:
            writer.connect()
        goal = self.acked + self.rng.randrange(1, 6000)
        under_way = None
        if self.rng.random() < 0.7:
            middle = self.acked + (goal - self.acked) // 2
            self.pump(lambda: self.acked >= middle)
            under_way = self.take_snapshot()
            if self.rng.random() < 0.7:  # else the kill may come before it is there
                self.pump(lambda: under_way.process.poll() is not None)
                if under_way.process.returncode:
                    fail(f"snapshot: {under_way.process.stderr.read().decode()}")
                under_way.check(self)
        self.pump(lambda: self.acked >= goal)
        for writer in self.writers:
            writer.fill()
        time.sleep(self.rng.random() * 0.003)  # into whatever the daemon makes of these
        self.kill()
        self.drain()
        flying = sum(len(writer.requests) for writer in self.writers)
        seconds = self.start(*(option for file in self.files for option in ("--import", file)))
        if under_way:
            under_way.process.communicate()
            listed = f'"{under_way.name}"' in self.quarry("snapshot", "list", "--json")
            if under_way.process.returncode == 0 and not listed:
                fail(f"{under_way.name} was acknowledged and is not there")
            if listed:
                self.snapshots.append(under_way)
        handle = nbd.NBD()
        handle.connect_uri(self.uri())
        for writer in self.writers:
            writer.check(writer.read_part(handle))
        handle.shutdown()
        for snapshot in self.snapshots:
            snapshot.check(self)
        print(f"# kill {number}: {self.acked} acknowledged, {flying} in flight, "
              f"{len(self.snapshots)} snapshots, back after {seconds:.2f} s", flush=True)

    def run(self):
        self.start()
        self.quarry("pool", "create", "tank", *self.files, "--size", self.args.pool_size)
        self.quarry("volume", "create", "tank/crash", str(VOLUME_BYTES))
        for number in range(1, self.args.kills + 1):
            self.one_round(number)
        self.daemon.terminate()
        if self.daemon.wait(60) != 0:
            fail(f"quarryd ended with status {self.daemon.returncode} on SIGTERM")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quarryd", required=True)
    parser.add_argument("--quarry", required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--node-cache", default="4MiB")
    parser.add_argument("--pool-size", default="2G")
    args = parser.parse_args()
    print(f"# seed {args.seed}", flush=True)
    crash = Crash(args)
    try:
        crash.run()
    finally:
        if crash.daemon and crash.daemon.poll() is None:
            crash.kill()


if __name__ == "__main__":
    main()
