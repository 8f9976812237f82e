#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 480
#
# Is a full pool a clean error and not a catastrophe?
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# Writes random megabytes to a volume until it is full: prints how many, and has to see ENOSPC.
fill_up() {
    $PYTHON - "$(uri "$1")" "$2" <<'PYTHON'
import os, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
done = 0
try:
    while done < int(sys.argv[2]):
        h.pwrite(done.to_bytes(8, "little") * (1 << 17), done << 20)
        done += 1
except nbd.Error as error:
    assert error.errno == "ENOSPC", error.errno
else:
    sys.exit("it never became full")
# What is there can be read, flushed and trimmed, on the same connection.
for i in range(done):
    assert h.pread(1 << 20, i << 20) == i.to_bytes(8, "little") * (1 << 17), i
h.flush()
try:
    h.pwrite(b"x" * (1 << 20), done << 20)
    h.pwrite(b"x" * (1 << 20), (done + 1) << 20)
except nbd.Error as error:
    assert error.errno == "ENOSPC", error.errno
else:
    sys.exit("and then there was room again")
print(done)
PYTHON
}

test_a_full_pool_says_so_and_goes_on() {
    start_with_pool 96M
    quarry volume create tank/a 1G
    quarry volume create tank/b 1G
    qemu-io -f raw -c 'write -P 7 0 32M' "$(uri b)" >/dev/null
    local megabytes
    megabytes=$(fill_up a 1024)
    echo "# full after $megabytes MiB beside 32 MiB, in a pool of 192 MiB"
    [ "$megabytes" -gt 64 ] || fail "full after $megabytes MiB"
    # Administration goes on.
    quarry list >/dev/null
    quarry snapshot create tank/b@s
    # A trim of whole megabytes makes room again, in the end.
    $PYTHON - "$(uri a)" "$megabytes" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.trim(int(sys.argv[2]) << 20, 0)
assert h.pread(1 << 20, 0) == bytes(1 << 20)
PYTHON
    wait_for 20 takes_writes a
    stop_daemon
    restart_with_pool
    qemu-io -f raw -c 'read -P 7 0 32M' "$(uri b)" >read.out
    refuses grep -i failed read.out
}

takes_writes() {
    qemu-io -f raw -c 'write -P 5 0 16M' "$(uri "$1")" >write.out 2>&1 && ! grep -q -i -E 'failed|error|no space' write.out
}

test_deleting_a_volume_makes_room() {
    start_with_pool 96M
    quarry volume create tank/a 1G
    quarry volume create tank/b 1G
    fill_up a 1024 >/dev/null
    quarry volume delete --yes tank/a
    wait_for 20 takes_writes b
    qemu-io -f raw -c 'read -P 5 0 16M' "$(uri b)" >read.out
    refuses grep -i failed read.out
}

# A deleted volume of which each block has a map node of its own takes a while to be freed: a write
# that finds the pool full meanwhile waits for that.
test_a_write_waits_for_what_is_being_deleted() {
    start_with_pool 128M
    quarry volume create tank/wide 10T
    quarry volume create tank/v 1G
    $PYTHON - "$(uri wide)" "$(uri v)" "$BUILD/quarry" "$SOCK" <<'PYTHON'
import subprocess, sys, nbd
wide, v = nbd.NBD(), nbd.NBD()
wide.connect_uri(sys.argv[1])
v.connect_uri(sys.argv[2])
count, under_way, full = 0, 0, False
def done(error):
    global under_way, full
    under_way -= 1
    full = full or error.value == 28
    return 1
while not full or under_way:
    while not full and under_way < 64:
        wide.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"w" * 4096)), count << 21, completion=done)
        count += 1
        under_way += 1
    wide.poll(-1)
wide.shutdown()
assert count > 10000, count
def fill(megabytes):
    for i in range(megabytes):
        v.pwrite(i.to_bytes(8, "little") * (1 << 17), i << 20)
try:
    fill(16)
except nbd.Error as error:
    assert error.errno == "ENOSPC", error.errno
else:
    sys.exit("the pool was not full")
subprocess.run([sys.argv[3], "--socket", sys.argv[4], "volume", "delete", "tank/wide", "--force"], check=True)
fill(128)
for i in range(128):
    assert v.pread(1 << 20, i << 20) == i.to_bytes(8, "little") * (1 << 17), i
print(f"# {count} blocks and map nodes deleted, 128 MiB written meanwhile")
PYTHON
}

test_a_full_pool_survives_kill_and_restart() {
    start_with_pool 96M
    quarry volume create tank/a 1G
    local megabytes
    megabytes=$(fill_up a 1024)
    kill9_daemon
    restart_with_pool
    $PYTHON - "$(uri a)" "$megabytes" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for i in range(int(sys.argv[2])):
    assert h.pread(1 << 20, i << 20) == i.to_bytes(8, "little") * (1 << 17), i
PYTHON
    quarry volume create tank/b 64M
    quarry volume delete --yes tank/a
    wait_for 20 takes_writes b
}

# Filling and trimming over and over must not leak space.
test_space_does_not_leak() {
    start_with_pool 96M
    quarry volume create tank/a 64M
    local i
    for i in 1 2 3 4 5 6; do
        wait_for 20 takes_writes a
        qemu-io -f raw -c "write -P $i 16M 48M" "$(uri a)" >write.out
        refuses grep -i -E 'failed|error|no space' write.out
        qemu-io -f raw -c "read -P $i 16M 48M" "$(uri a)" >read.out
        refuses grep -i failed read.out
        qemu-io -f raw -c 'discard 0 64M' "$(uri a)" >/dev/null
        quarry volume list >/dev/null
    done
}

# Four writers until nothing more fits; then, at 100 %, random overwrites of many times the pool's size,
# with trims and what was trimmed written again; a delete makes room for the rest.  All without a
# restart, and every block is as it was last written.
# Writes end within a segment, not before it: what is left of it would be lost until it is cleaned.
test_large_writes_leave_no_gaps() {
    start_daemon
    quarry pool create tank "$T/disk0.img" "$T/disk1.img" --size 1G
    quarry volume create tank/v 1G
    fill_volume v 400
    allocated=$(quarry pool status tank --json | json "d['pools'][0]['allocated_bytes'] >> 20")
    [ "$allocated" -le 440 ] || fail "400 MiB in pieces of 1 MiB take $allocated MiB"
}

# fill_volume NAME MIB
fill_volume() {
    $PYTHON - "$(uri "$1")" "$2" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for i in range(int(sys.argv[2])):
    h.pwrite((i + 1).to_bytes(8, "little") * (1 << 17), i << 20)
PYTHON
}

test_full_and_back() {
    start_with_pool 40M
    local v
    for v in a b c d; do quarry volume create "tank/$v" 1G; done
    $PYTHON - "$BUILD/quarry" "$SOCK" "$(uri a)" "$(uri b)" "$(uri c)" "$(uri d)" <<'PYTHON'
import random, subprocess, sys, threading, time, nbd
BLOCK = 16384
POOL_BLOCKS = (80 << 20) // BLOCK
TIMES = 5
def content(volume, number, version):
    return (b"%02d %08d %08d " % (volume, number, version)) * (BLOCK // 21) + b"." * (BLOCK % 21)
class Writer:
    def __init__(self, volume, uri):
        self.volume, self.versions, self.error, self.choice = volume, [], None, random.Random(volume)
        self.h = nbd.NBD()
        self.h.connect_uri(uri)
    def write(self, number, version):
        self.h.pwrite(content(self.volume, number, version), number * BLOCK)
        if number == len(self.versions):
            self.versions.append(version)
        self.versions[number] = version
    def fill(self):
        try:
            while True:
                self.write(len(self.versions), 0)
        except nbd.Error as error:
            self.error = error.errno
    def overwrite(self):
        for version in range(1, TIMES * POOL_BLOCKS // 4 + 1):
            self.write(self.choice.randrange(len(self.versions)), version)
    def trim_and_write_again(self):
        for _ in range(5):
            some = self.choice.sample(range(len(self.versions)), len(self.versions) // 8)
            for number in some:
                self.h.trim(BLOCK, number * BLOCK)
                self.versions[number] = None
            self.verify(some)
            for number in some:
                self.write(number, self.choice.randrange(10**8))
    def verify(self, numbers=None):
        for number in numbers or range(len(self.versions)):
            version = self.versions[number]
            want = bytes(BLOCK) if version is None else content(self.volume, number, version)
            assert self.h.pread(BLOCK, number * BLOCK) == want, (number, version)
writers = [Writer(i, uri) for i, uri in enumerate(sys.argv[3:])]
def together(call):
    problems = []
    def run(writer):
        try:
            call(writer)
        except BaseException as problem:
            problems.append((writer.volume, problem))
    threads = [threading.Thread(target=run, args=(w,)) for w in writers]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not problems, problems
together(Writer.fill)
blocks = sum(len(w.versions) for w in writers)
print("# full with %d KiB: %s" % (blocks * BLOCK // 1024, [w.error for w in writers]))
assert all(w.error == "ENOSPC" for w in writers), [w.error for w in writers]
began = time.time()
together(Writer.overwrite)
print("# %d MiB of overwrites at 100 %% in %d s" % (TIMES * POOL_BLOCKS * BLOCK >> 20, time.time() - began))
together(Writer.verify)
together(Writer.trim_and_write_again)
together(Writer.verify)
# The last volume goes: the writers of the others go on at once, as long as its space is being freed.
gone = writers.pop()
gone.h.shutdown()
subprocess.run([sys.argv[1], "--socket", sys.argv[2], "volume", "delete", "--yes", "--force", "tank/d"], check=True)
more = len(gone.versions) // 4
def write_more(writer):
    for _ in range(more):
        writer.write(len(writer.versions), 1)
together(write_more)
together(Writer.verify)
PYTHON
    quarry pool status tank
}

# --- on-full=pause ---

# fill_and_wait VOLUME MEGABYTES FILE: fills it until a write waits, then says so in FILE and goes on
# when there is room, up to MEGABYTES; at last reads all of it back.
fill_and_wait() {
    $PYTHON - "$(uri "$1")" "$2" "$3" <<'PYTHON'
import sys, time, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
count, waited = int(sys.argv[2]), 0
for i in range(count):
    cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(i.to_bytes(8, "little") * (1 << 17))), i << 20)
    began = time.time()
    while not h.aio_command_completed(cookie):
        h.poll(100)
        if time.time() - began > 1 and not waited:
            waited = i
            # The same connection goes on reading, and trims nothing of ours.
            assert h.pread(1 << 20, 0) == bytes(1 << 20)
            h.trim(1 << 20, count << 20)
            h.flush()
            open(sys.argv[3], "w").write(str(i))
assert waited, "no write ever had to wait"
for i in range(count):
    assert h.pread(1 << 20, i << 20) == i.to_bytes(8, "little") * (1 << 17), i
PYTHON
}

waits_for_room() {
    [ "$(image_field "tank/$1" waiting)" -gt 0 ]
}

test_writes_of_a_pausing_volume_wait_for_room() {
    start_with_pool 96M
    quarry volume create tank/old 1G
    quarry volume create tank/new 1G
    qemu-io -f raw -c 'write -P 7 0 64M' "$(uri old)" >/dev/null
    quarry volume set tank/new on-full=pause
    expect pause "$(image_field tank/new on_full)" "the policy"
    expect None "$(image_field tank/new on_full_timeout_seconds)" "the time limit"
    fill_and_wait new 130 waiting &
    local writer=$!
    wait_for 60 test -s waiting
    waits_for_room new || fail "list does not show that it waits"
    quarry pool status tank | grep -q 'tank/new: 1 write waits for room' || fail "status does not show it"
    # The other volume says ENOSPC, reads and trims; what it trims lets the waiting one go on.
    $PYTHON - "$(uri old)" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
try:
    for i in range(80, 100):
        h.pwrite(b"y" * (1 << 20), i << 20)
    sys.exit("there was room")
except nbd.Error as error:
    assert error.errno == "ENOSPC", error.errno
assert h.pread(1 << 20, 0) == b"\x07" * (1 << 20)
PYTHON
    quarry volume delete --yes tank/old
    wait "$writer" || fail "the writer failed"
    refuses waits_for_room new
}

test_a_larger_pool_lets_writes_go_on() {
    start_with_pool 64M
    quarry volume create tank/a 1G
    quarry volume set tank/a on-full=pause
    fill_and_wait a 150 waiting &
    local writer=$!
    wait_for 60 test -s waiting
    quarry device add tank "$T/more.img" --size 256M
    wait "$writer" || fail "the writer failed"
}

# A time limit; a policy that changes while writes wait; a client, a volume and a daemon that go away.
test_waiting_ends_cleanly() {
    start_with_pool 64M
    quarry volume create tank/a 1G
    quarry volume create tank/b 1G
    local began=$SECONDS
    quarry volume set tank/a on-full=pause on-full-timeout=3s
    expect 3 "$(image_field tank/a on_full_timeout_seconds)" "the time limit"
    fill_up a 1024 >/dev/null
    [ $((SECONDS - began)) -ge 6 ] || fail "two writes waited less than 6 s in all" # fill_up meets it twice
    # set to error
    quarry volume set tank/a on-full-timeout=none
    block_writer a &
    local writer=$!
    wait_for 20 waits_for_room a
    quarry volume set tank/a on-full=error
    wait "$writer" || fail "after on-full=error: status $?"
    # the client goes away
    quarry volume set tank/a on-full=pause
    block_writer a &
    writer=$!
    wait_for 20 waits_for_room a
    kill -KILL "$writer"
    wait "$writer" 2>/dev/null || true
    wait_for 20 has_clients a 0
    refuses waits_for_room a
    # the volume shrinks, is rolled back and goes away
    quarry snapshot create tank/a@s
    block_writer a &
    writer=$!
    wait_for 20 waits_for_room a
    quarry rollback --yes tank/a@s 2>/dev/null || true # refused: it has clients
    quarry volume resize --yes --force tank/a 900M
    waits_for_room a || fail "a resize ended the write"
    quarry volume delete --yes --force tank/a
    wait "$writer" && fail "a write into a deleted volume succeeded"
    # the daemon ends
    wait_for 20 takes_writes b
    quarry volume set tank/b on-full=pause
    fill_and_wait b 1000 waiting 2>/dev/null &
    writer=$!
    wait_for 60 test -s waiting
    began=$SECONDS
    stop_daemon
    [ $((SECONDS - began)) -lt $((15 * SLOW)) ] || fail "the daemon took $((SECONDS - began)) s to end"
    wait "$writer" && fail "a write that waited succeeded when the daemon ended"
    restart_with_pool
    expect pause "$(image_field tank/b on_full)" "the policy after a restart"
}

# One write into the far end of a full volume: 0 if it fails for ENOSPC.
block_writer() {
    exec $PYTHON - "$(uri "$1")" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
try:
    for i in range(64):
        h.pwrite(b"z" * (1 << 20), (800 + i) << 20)
except nbd.Error as error:
    sys.exit(0 if error.errno == "ENOSPC" else 3)
sys.exit(4)
PYTHON
}

has_clients() {
    [ "$(image_field "tank/$1" clients)" = "$2" ]
}

run_tests
