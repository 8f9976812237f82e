#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 180
#
# Faults from below, and limits of the system, under a daemon with a second, healthy pool: what was
# flushed is not lost, what is served is right or an error, and the other pool's client is not disturbed.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# A second pool, and a client of it that writes and reads until $T/stop exists.
with_healthy_pool() {
    quarry pool create well "$T/well.img" --size 64M
    quarry volume create well/v 16M
    $PYTHON - "nbd+unix:///well/v?socket=$NBD_SOCK" "$T/stop" <<'PYTHON' &
import os, sys, time, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
turns, longest = 0, 0.0
while turns < 100 or not os.path.exists(sys.argv[2]):
    began = time.monotonic()
    data = turns.to_bytes(8, "little") * 512
    h.pwrite(data, turns % 1024 * 4096)
    assert h.pread(4096, turns % 1024 * 4096) == data
    if turns % 100 == 0:
        h.flush()
    longest = max(longest, time.monotonic() - began)
    turns += 1
print(f"# the other pool's client: {turns} turns, the longest {longest * 1000:.0f} ms")
assert longest < 10
PYTHON
    HEALTHY=$!
}

healthy_pool_is_well() {
    kill -0 "$HEALTHY" || fail "the healthy client ended"
    touch "$T/stop"
    wait "$HEALTHY"
    rm "$T/stop"
    quarry pool status well | grep -q -i online || fail "the other pool suffered: $(quarry pool status well)"
}

# Blocks 0.. of tank/v hold their number, written and flushed by write_flushed N.
write_flushed() {
    $PYTHON - "$(uri v)" "$1" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for i in range(int(sys.argv[2])):
    h.pwrite((i + 1).to_bytes(8, "little") * 512, i * 4096)
h.flush()
PYTHON
}

# flushed_is_there N [errors]: all of it is right; or, with "errors", right or EIO: never anything else.
flushed_is_there() {
    $PYTHON - "$(uri v)" "$@" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
errors = 0
for i in range(int(sys.argv[2])):
    try:
        assert h.pread(4096, i * 4096) == (i + 1).to_bytes(8, "little") * 512, f"block {i} is wrong"
    except nbd.Error as error:
        assert error.errno == "EIO", error.errno
        errors += 1
print(f"# {errors} of {sys.argv[2]} blocks answered with EIO")
assert errors == 0 or sys.argv[3:] == ["errors"], errors
PYTHON
}

# Writes until that fails, which has to be by an error.
write_until_it_fails() {
    $PYTHON - "$(uri v)" <<'PYTHON'
import os, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
try:
    for i in range(4000):
        h.pwrite(os.urandom(65536), (64 << 20) + i % 512 * 65536)
        if i % 8 == 0:
            h.flush()
except nbd.Error as error:
    print("# writes end with", error.errno)
    assert error.errno in ("EIO", "ENOSPC", "EPERM", "EROFS"), error.errno
else:
    sys.exit("writes never failed")
PYTHON
}

cleanup_mounts() {
    kill -KILL "$DAEMON" 2>/dev/null || true
    umount -l "$T/small" 2>/dev/null || true
    if [ -n "${LOOP:-}" ]; then losetup -d "$LOOP" 2>/dev/null || true; fi
    cleanup_test
}

# Files on a filesystem that becomes full beneath them.
test_a_full_filesystem_below() {
    mkdir small
    mount -t tmpfs -o size=24M tmpfs small 2>/dev/null || skip "a tmpfs cannot be mounted here"
    trap cleanup_mounts EXIT
    start_daemon --cache kernel
    with_healthy_pool
    POOL_FILES=("$T/small/disk0.img")
    quarry pool create tank "${POOL_FILES[@]}" --size 256M
    quarry volume create tank/v 256M
    write_flushed 500
    write_until_it_fails
    flushed_is_there 500
    healthy_pool_is_well
    quarry pool status tank | grep -q -i -E 'failed|no space' || fail "$(quarry pool status tank)"
    mount -o remount,size=512M small
    quarry pool export tank --force || true
    quarry pool import "${POOL_FILES[@]}"
    flushed_is_there 500
    write_flushed 700
    flushed_is_there 700
    quarry pool export tank
    quarry check --data "${POOL_FILES[@]}" >out || fail "not clean afterwards: $(cat out)"
    quarry pool export well --force
    stop_daemon
}

# A disk that loses its end, and later comes back with zeroes there.
test_a_disk_that_loses_its_end() {
    truncate -s 64M disk.img
    LOOP=$(losetup -f --show disk.img 2>/dev/null) || skip "there are no loop devices here"
    trap cleanup_mounts EXIT
    start_daemon
    with_healthy_pool
    POOL_FILES=("$LOOP")
    quarry pool create tank "$LOOP"
    quarry volume create tank/v 256M
    write_flushed 4000
    cp --sparse=always disk.img before.img
    truncate -s 8M disk.img
    flushed_is_there 4000 errors
    write_until_it_fails
    flushed_is_there 4000 errors
    healthy_pool_is_well
    quarry pool export tank --force || true
    # The lost part as it was once, beside what was written since: right, an error, or a refusal.
    dd if=before.img of=disk.img bs=1M skip=8 seek=8 conv=notrunc status=none
    quarry pool import "$LOOP" 2>err || grep -q . err || fail "refused without a reason"
    if [ ! -s err ]; then flushed_is_there 4000 errors; fi
    quarry pool export well --force
    stop_daemon
}

# Few descriptors: those who come too late are turned away, and nobody else notices.
test_few_descriptors() {
    (
        ulimit -n 96
        exec "$BUILD/quarryd" --socket "$SOCK" --listen "nbd+unix:///?socket=$NBD_SOCK" --node-cache 16MiB
    ) </dev/null >>quarryd.log 2>&1 &
    DAEMON=$!
    $PYTHON "$HERE/ready.py" "$SOCK" "$DAEMON" $((30 * SLOW)) || fail "quarryd does not answer"
    make_pool 64M
    quarry volume create tank/v 64M
    with_healthy_pool
    $PYTHON - "$NBD_SOCK" <<'PYTHON'
import socket, sys
held, served = [], 0
for _ in range(300):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(0.2)
    try:
        sock.connect(sys.argv[1])
        held.append(sock)
        served += len(sock.recv(18)) == 18
    except OSError:
        break
print(f"# {served} of {len(held)} connections were served with 96 descriptors")
assert 20 < served < 96, served
PYTHON
    wait_for 20 quarry list
    write_flushed 100
    flushed_is_there 100
    healthy_pool_is_well
}

# Thousands that come, read and go away without a word; descriptors and memory stay where they were.
test_thousands_of_connections() {
    start_with_pool 64M
    quarry volume create tank/v 64M
    with_healthy_pool
    churn 200
    local descriptors rss
    descriptors=$(find "/proc/$DAEMON/fd" | wc -l)
    rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$DAEMON/status")
    churn $((SLOW == 1 ? 3000 : 500))
    wait_for 20 descriptors_at_most $((descriptors + 4))
    rss=$(($(awk '/^VmRSS/ { print $2 }' "/proc/$DAEMON/status") - rss))
    echo "# resident memory grew by $rss KiB"
    [ "$SLOW" != 1 ] || [ "$rss" -lt 8192 ] || fail "memory grows with connections"
    healthy_pool_is_well
}

descriptors_at_most() {
    [ "$(find "/proc/$DAEMON/fd" | wc -l)" -le "$1" ]
}

churn() {
    $PYTHON - "$NBD_SOCK" "$1" <<'PYTHON'
import sys
from bad_clients import go, receive, request
for i in range(int(sys.argv[2])):
    sock = go(sys.argv[1])
    sock.sendall(request(0, 0, 4096))
    if i % 2:
        receive(sock, 16 + 4096)
    sock.close()
PYTHON
}

# Clients that send a byte at a time and take a byte at a time.
test_slow_clients() {
    start_with_pool 64M
    quarry volume create tank/v 64M
    with_healthy_pool
    write_flushed 100
    $PYTHON - "$NBD_SOCK" <<'PYTHON'
import sys
from bad_clients import go, receive, request
socks = [go(sys.argv[1]) for _ in range(40)]
write = request(1, 1 << 20, 600) + bytes(range(200)) * 3
for byte in range(len(write)):
    for sock in socks:
        sock.sendall(write[byte : byte + 1])
for sock in socks:
    assert receive(sock, 16)[4:8] == bytes(4)
    sock.sendall(request(0, 1 << 20, 600))
replies = [b""] * len(socks)
while len(replies[0]) < 616:
    for i, sock in enumerate(socks):
        replies[i] += receive(sock, 1)
assert all(reply[16:] == bytes(range(200)) * 3 for reply in replies)
PYTHON
    flushed_is_there 100
    healthy_pool_is_well
}

# The system refuses memory in the middle of writes: the daemon ends and says why, and a restart has all
# that was acknowledged, flushed or not.
test_memory_runs_out() {
    case $BUILD in *-address | *-thread) skip "sanitizers need address space without end" ;; esac
    start_with_pool 256M
    quarry volume create tank/v 256M
    write_flushed 300
    prlimit --pid "$DAEMON" --as=$(($(awk '/VmSize/ { print $2 * 1024 }' "/proc/$DAEMON/status") + 4 * MIB))
    # Requests of 16 MiB, many at a time: more than there is.  Then what was acknowledged stands in a file.
    $PYTHON - "$(uri v)" >acknowledged <<'PYTHON' || true
import sys, nbd
handles = []
acknowledged = set()
try:
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    for i in range(300, 600):
        h.pwrite((i + 1).to_bytes(8, "little") * 512, i * 4096)
        acknowledged.add(i)
    for i in range(16):
        handle = nbd.NBD()
        handle.connect_uri(sys.argv[1])
        handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(16 << 20)), (64 << 20) + i * (8 << 20))
        handles.append(handle)
    i = 600
    while i < 3000:
        h.pwrite((i + 1).to_bytes(8, "little") * 512, i * 4096)
        acknowledged.add(i)
        i += 1
        for handle in handles:
            if handle.aio_in_flight():
                handle.poll(0)
except nbd.Error:
    pass
print(len(acknowledged) + 300)
PYTHON
    local rc=0
    wait_daemon || rc=$?
    [ "$rc" -gt 128 ] || fail "it goes on, or ended with status $rc"
    grep -q 'out of memory: the system has no' quarryd.log || fail "it does not say why: $(tail -3 quarryd.log)"
    echo "# $(cat acknowledged) blocks were acknowledged; $(grep 'out of memory' quarryd.log | tail -1)"
    [ "$(cat acknowledged)" -ge 600 ] || fail "little was acknowledged: $(cat acknowledged)"
    restart_with_pool
    flushed_is_there "$(cat acknowledged)"
    stop_daemon
    quarry check --data "${POOL_FILES[@]}" >out || fail "not clean afterwards: $(cat out)"
}

run_tests
