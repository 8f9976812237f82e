#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 200
#
# Devices that stop answering, without an error: nbdkit under SIGSTOP.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

far() {
    nbdkit --foreground --exit-with-parent --unix "$T/far.sock" file "$T/far.img" >>far.log 2>&1 &
    FAR=$!
    wait_for 30 answers
}

answers() { nbdinfo --size "$(far_uri)" >/dev/null 2>&1; }
far_uri() { echo "nbd+unix:///?socket=$T/far.sock"; }

end_far() {
    kill -TERM "$FAR"
    wait "$FAR" 2>/dev/null || true
}

stop_far() { kill -STOP "$FAR"; }

comes_back() { quarry device online tank "$(far_uri)" 2>>online.log; }

# Clients wait once, for as long as the limit; a read not even for that.
test_a_device_that_stops_answering_is_left_out_and_comes_back() {
    start_daemon --stall-timeout 3 --remote-timeout 600
    truncate -s 512M far.img
    far
    truncate -s 512M near.img
    quarry pool create tank --copies 2 "$T/near.img" "$(far_uri)"
    quarry volume create tank/v 64M
    qemu-io -f raw -c 'write -P 17 0 64M' -c flush "$(uri v)" >/dev/null
    start_writer 24M --rate_iops=400
    stop_far
    qemu-io -r -f raw -c 'read -P 17 0 64M' "$(uri v)" >io.out
    refuses grep -i -E 'failed|error' io.out
    wait_for 30 pool_is degraded
    device_is "$(far_uri)" 'left out' || fail "$(quarry device list tank)"
    grep -q 'has not answered for 3 s; the device is left out' quarryd.log || fail "the log does not say why"
    quarry pool status tank | grep -q 'is left out' || fail "$(quarry pool status tank)"
    qemu-io -f raw -c 'write -P 18 0 16M' -c flush "$(uri v)" >/dev/null
    # What it holds keeps it from coming back.
    fails_with 1 'requests are under way there still' quarry device online tank "$(far_uri)"
    kill -CONT "$FAR"
    wait_for 30 comes_back
    wait_for 60 pool_is online
    end_writer
    qemu-io -r -f raw -c 'read -P 18 0 16M' -c 'read -P 17 16M 48M' "$(uri v)" >io.out
    refuses grep -i -E 'failed|error' io.out
    quarry scrub start tank
    wait_for 60 is_scrubbed
    expect 0 "$(quarry scrub status tank --json | json "d['scrubs'][0]['damaged_blocks']")" "damaged blocks"
    stop_daemon
    end_far
}

is_scrubbed() {
    quarry scrub status tank --json | json "d['scrubs'][0]['state']" | grep -q 'done'
}

# Of a pool that keeps one copy it is waited for.
test_the_only_copy_is_waited_for() {
    start_daemon --stall-timeout 1 --remote-timeout 600
    truncate -s 512M far.img
    far
    quarry pool create tank "$(far_uri)"
    start_writer 24M --rate_iops=400
    stop_far
    wait_for 30 device_is "$(far_uri)" 'not answering'
    grep -q 'keeps one copy of everything: it is waited for' quarryd.log || fail "the log does not say so"
    kill -CONT "$FAR"
    wait_for 30 device_is "$(far_uri)" online
    pool_is online || fail "$(quarry pool list)"
    end_writer
    stop_daemon
    end_far
}

# The daemon ends, though a device that was left out holds requests for good.
test_the_daemon_ends_without_it() {
    start_daemon --stall-timeout 1 --remote-timeout 600
    truncate -s 512M far.img
    far
    truncate -s 512M near.img
    quarry pool create tank --copies 2 "$T/near.img" "$(far_uri)"
    quarry volume create tank/v 64M
    stop_far
    qemu-io -f raw -c 'write -P 17 0 64M' -c flush "$(uri v)" >/dev/null
    wait_for 30 pool_is degraded
    stop_daemon
    kill -CONT "$FAR"
    start_daemon --import "$T/near.img" --import "$(far_uri)"
    qemu-io -r -f raw -c 'read -P 17 0 64M' "$(uri v)" >io.out
    refuses grep -i -E 'failed|error' io.out
    stop_daemon
    end_far
}

run_tests
