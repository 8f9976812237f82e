#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 180
#
# Pools that keep copies: what one device has lost another one serves, it is healed, and counted.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

write_content() {
    quarry volume create tank/v 48M
    qemu-io -f raw -c 'write -P 17 0 16M' "$(uri v)" >/dev/null
    quarry snapshot create tank/v@s
    qemu-io -f raw -c 'write -P 18 8M 16M' -c 'flush' "$(uri v)" >/dev/null
}

content_is_right() {
    qemu-io -r -f raw -c 'read -P 17 0 8M' -c 'read -P 18 8M 16M' -c 'read -P 0 24M 24M' "$(uri v)" >io.out
    qemu-io -r -f raw -c 'read -P 17 0 16M' -c 'read -P 0 16M 32M' "$(uri v@s)" >>io.out
    refuses grep -i -E 'failed|error' io.out
}

# rot FILE: a bit of each block of all slabs.
rot() {
    local first
    first=$("$BUILD/quarry" dump --json --what label "$1" |
        json "next(x for v in d.values() if isinstance(v, list) for x in v if 'slabs_block' in x)['slabs_block']")
    $PYTHON - "$1" "$first" <<'PYTHON'
import os, sys
path, first = sys.argv[1], int(sys.argv[2])
with open(path, "r+b") as file:
    end = os.path.getsize(path) // 4096 - 256
    at = first * 4096
    while at < end * 4096:  # only what was ever written
        try:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA) // 4096 * 4096
        except OSError:
            break
        if at >= end * 4096:
            break
        file.seek(at + 2000)
        byte = file.read(1)
        file.seek(at + 2000)
        file.write(bytes([byte[0] ^ 4]))
        at += 4096
PYTHON
}

sum_over_devices() {
    quarry device list --json | json "sum(x['$1'] for x in d['devices'])"
}

test_what_one_device_has_lost_another_serves() {
    start_daemon
    make_devices --copies 2 256M 200M 128M
    write_content
    stop_daemon
    "$BUILD/quarry" check --data "${POOL_FILES[@]}" || fail "a pool as it was left does not check"
    rot "${POOL_FILES[0]}"
    refuses "$BUILD/quarry" check --data "${POOL_FILES[@]}"
    grep -q 'disk0.img.*a copy is damaged; another one serves' refused.out || fail "check does not name the bad copy"
    restart_with_pool
    content_is_right
    content_is_right
    [ "$(sum_over_devices healed)" -gt 100 ] || fail "only $(sum_over_devices healed) blocks were healed"
    [ "$(sum_over_devices errors)" -gt 100 ] || fail "errors are not counted"
    grep -q "wrong checksum.*disk0.img" quarryd.log || fail "the log does not name the device"
}

test_after_kill_9_all_is_there() {
    start_daemon
    make_devices --copies 3 128M 128M 128M
    write_content
    kill9_daemon
    restart_with_pool
    content_is_right
    stop_daemon
    "$BUILD/quarry" check --data "${POOL_FILES[@]}"
}

pool_state() {
    quarry pool list --json | json "d['pools'][0]['state']"
}

device_state() {
    quarry device list --json | json "[x['state'] for x in d['devices']][$1]"
}

# Two of three devices know that nobody went on without them; and what they then write makes the third
# one old, whatever it says.
lacks_nothing() {
    quarry pool status tank | grep -q ' 0 MiB lack a copy'
}

test_without_one_of_three_devices() {
    start_daemon
    make_devices --copies 2 128M 128M 128M
    write_content
    kill9_daemon
    start_daemon --import "${POOL_FILES[0]}" --import "${POOL_FILES[2]}"
    expect degraded "$(pool_state)" "the pool's state"
    expect missing "$(device_state 1)" "the device's state"
    content_is_right
    qemu-io -f raw -c 'write -P 19 30M 4M' "$(uri v)" >/dev/null
    stop_daemon
    restart_with_pool
    expect degraded "$(pool_state)" "the pool's state"
    expect "left out" "$(device_state 1)" "the device's state"
    qemu-io -r -f raw -c 'read -P 19 30M 4M' "$(uri v)" >io.out
    refuses grep -i -E 'failed|error' io.out
    wait_for 60 lacks_nothing
    stop_daemon
    # The old one alone has nothing that counts.  With one that knows: all has a second copy there by now.
    start_daemon
    fails_with 1 'is missing' quarry pool import --force "${POOL_FILES[1]}"
    fails_with 1 'device 0 is missing.*--force' quarry pool import "${POOL_FILES[1]}" "${POOL_FILES[2]}"
    quarry pool import --force "${POOL_FILES[1]}" "${POOL_FILES[2]}"
    qemu-io -r -f raw -c 'read -P 17 0 8M' -c 'read -P 18 8M 16M' -c 'read -P 19 30M 4M' "$(uri v)" >io.out
    refuses grep -i -E 'failed|error' io.out
}

test_half_of_a_pool_needs_force() {
    start_daemon
    make_devices --copies 2 128M 128M
    write_content
    stop_daemon
    start_daemon
    fails_with 1 'device 0 is missing.*--force' quarry pool import "${POOL_FILES[1]}"
    quarry pool import --force "${POOL_FILES[1]}"
    content_is_right
    stop_daemon
    # From now on it is known that the other one is old.
    start_daemon
    quarry pool import "${POOL_FILES[1]}"
    content_is_right
    quarry pool export tank
    quarry pool import "${POOL_FILES[@]}"
    expect "left out" "$(device_state 0)" "the device's state"
    content_is_right
}

test_impossible_numbers_are_refused() {
    start_daemon
    truncate -s 64M a.img b.img
    fails_with 2 '--copies must be 1, 2 or 3' quarry pool create tank --copies 4 "$T/a.img" "$T/b.img"
    fails_with 1 '3 copies need as many devices: there are 2' quarry pool create tank --copies 3 "$T/a.img" "$T/b.img"
    quarry pool create tank --copies 2 "$T/a.img" "$T/b.img"
}

run_tests
