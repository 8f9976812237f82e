#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 180
#
# Devices that several daemons can reach, as machines that share a SAN do: a pool is in service in one of them.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# An export of disk0.img that any number of daemons may write to, without a lock.
start_far() {
    FAR_URI="nbd+unix:///?socket=$T/far.sock"
    truncate -s 256M "$T/disk0.img"
    nbdkit --foreground --exit-with-parent --unix "$T/far.sock" file "$T/disk0.img" >>far.log 2>&1 &
    wait_for 30 nbdinfo --size "$FAR_URI" >/dev/null 2>&1
}

# A second daemon, with sockets of its own.
start_second() {
    "$BUILD/quarryd" --socket "$T/second.sock" --listen "nbd+unix:///?socket=$T/second-nbd.sock" \
        --node-cache 16MiB >>second.log 2>&1 </dev/null &
    SECOND=$!
    $PYTHON "$HERE/ready.py" "$T/second.sock" "$SECOND" $((30 * SLOW)) || fail "the second quarryd does not answer"
}

end_second() {
    kill -TERM "$SECOND"
    wait "$SECOND" || fail "the second quarryd ended with status $?: $(tail -n 5 second.log)"
}

second() { "$BUILD/quarry" --socket "$T/second.sock" "$@"; }

test_a_pool_in_service_elsewhere_is_refused() {
    start_far
    start_daemon
    quarry pool create tank "$FAR_URI"
    quarry volume create tank/v 16M
    qemu-io -f raw -c 'write -P 7 0 4M' -c flush "$(uri v)" >/dev/null
    start_second
    fails_with 1 "in service on $(hostname).*process $DAEMON.*--force" second pool import "$FAR_URI"
    # It had written nothing: the first one goes on.
    qemu-io -f raw -c 'write -P 8 0 1M' -c flush "$(uri v)" >/dev/null
    quarry pool export tank
    # Once it was exported there is nothing to wait for.
    before=$(date +%s%N)
    second pool import "$FAR_URI"
    [ $(($(date +%s%N) - before)) -lt $((5000000000 * SLOW)) ] || fail "an exported pool is waited for"
    fails_with 1 'in service on' quarry pool import "$FAR_URI"
    second pool export tank
    quarry pool import "$FAR_URI"
    qemu-io -r -f raw -c 'read -P 8 0 1M' -c 'read -P 7 1M 3M' "$(uri v)" >io.out
    refuses grep -i -E 'failed|error' io.out
    end_second
}

test_who_was_killed_is_not_waited_for() {
    start_far
    start_daemon
    quarry pool create tank "$FAR_URI"
    kill9_daemon
    start_second
    before=$(date +%s%N)
    second pool import "$FAR_URI"
    [ $(($(date +%s%N) - before)) -lt $((5000000000 * SLOW)) ] || fail "a process that is gone is waited for"
    end_second
}

test_by_force_the_other_one_stops_writing() {
    start_far
    start_daemon
    quarry pool create tank "$FAR_URI"
    quarry volume create tank/v 16M
    start_second
    second pool import --force "$FAR_URI"
    wait_for 20 pool_is failed
    quarry pool status tank >status.out
    grep -q "imported by $(hostname) (process $SECOND), by force" status.out || fail "$(cat status.out)"
    refuses qemu-io -f raw -c 'write -P 8 0 1M' -c flush "$(uri v)"
    second pool status tank --json | json "d['pools'][0]['state']" | grep -qx online || fail "the new one is not online"
    # The old one does not take the second one's heartbeat back.
    quarry pool export tank || true
    fails_with 1 'in service on' quarry pool import "$FAR_URI"
    end_second
}

# Stopped for longer than its lease, with a writer at work: another daemon takes the pool over, and when the first one
# goes on it finds that out before it writes.
test_who_stood_still_writes_nothing() {
    start_far
    start_daemon
    quarry pool create tank "$FAR_URI"
    quarry volume create tank/v 16M
    qemu-io -f raw -c 'write -P 7 0 4M' -c flush "$(uri v)" >/dev/null
    fio --name=w --ioengine=nbd --uri="$(uri v)" --rw=randwrite --bs=4k --iodepth=4 --offset=8M --size=8M --time_based \
        --runtime=600 --rate_iops=200 --output=fio.out >/dev/null 2>&1 &
    local writer=$!
    sleep 1
    kill -STOP "$DAEMON"
    start_second
    second pool import "$FAR_URI" # without force
    qemu-io -f raw -c 'write -P 9 0 8M' -c flush "nbd+unix:///tank/v?socket=$T/second-nbd.sock" >/dev/null
    kill -CONT "$DAEMON"
    wait_for 20 pool_is failed
    kill -KILL "$writer" 2>/dev/null || true # it may have ended by itself
    wait "$writer" 2>/dev/null || true
    quarry pool status tank >status.out
    grep -q "imported by $(hostname) (process $SECOND), while this process stood still" status.out || fail "$(cat status.out)"
    refuses qemu-io -f raw -c 'write -P 8 0 1M' -c flush "$(uri v)"
    second pool export tank
    "$BUILD/quarry" check --data "$T/disk0.img" || fail "somebody wrote to the pool"
    second pool import "$FAR_URI"
    qemu-io -r -f raw -c 'read -P 9 0 8M' "nbd+unix:///tank/v?socket=$T/second-nbd.sock" >io.out
    refuses grep -i -E 'failed|error' io.out
    end_second
}

# forge_heartbeat INTERVAL_MS [RELEASED]: of another machine, which is silent, or has taken it back.
forge_heartbeat() {
    $PYTHON - "$T/disk0.img" "$1" "${2:-0}" <<'PYTHON'
import struct, sys
from crc32c import crc32c
BLOCK = 4096
with open(sys.argv[1], "r+b") as file:
    file.seek(6 * BLOCK)
    beat = bytearray(file.read(512))
    assert beat[:8] == b"QUARRYHB"
    beat[48:64] = b"another machine!"
    struct.pack_into("<QIII", beat, 64, 1000, int(sys.argv[2]), 1, int(sys.argv[3]))
    beat[88:152] = b"far-away".ljust(64, b"\0")
    beat[12:16] = bytes(4)
    crc = crc32c(crc32c(0, struct.pack("<Q", 6)), beat)
    struct.pack_into("<I", beat, 12, crc)
    file.seek(6 * BLOCK)
    file.write(beat)
PYTHON
}

test_a_silent_machine_is_waited_for() {
    start_daemon
    make_pool 128M 1
    quarry pool export tank
    forge_heartbeat 400
    before=$(date +%s%N)
    quarry pool import "${POOL_FILES[0]}"
    [ $(($(date +%s%N) - before)) -ge 1000000000 ] || fail "it was not waited for"
    grep -q 'in service on far-away (process 1), and was not exported: looks for 1000 ms' quarryd.log ||
        fail "the log does not say what is waited for"
    quarry pool export tank
    # --force waits for nothing; an impossible block is none.
    forge_heartbeat 60000
    quarry pool import --force "${POOL_FILES[0]}"
    quarry pool export tank
    forge_heartbeat 60001
    quarry pool import "${POOL_FILES[0]}"
}

is_looking() {
    grep -q 'looks for 5000 ms' quarryd.log
}

# What the import had read of the pool is old by then.
test_who_exports_while_it_is_waited_for_is_noticed() {
    start_daemon
    make_pool 128M 1
    quarry pool export tank
    forge_heartbeat 2000
    (fails_with 1 'pool tank was exported by far-away .process 1. just now: import it again' \
        quarry pool import "${POOL_FILES[0]}") &
    wait_for 10 is_looking
    forge_heartbeat 2000 1
    wait $! || fail "it was not noticed"
    quarry pool import "${POOL_FILES[0]}"
}

run_tests
