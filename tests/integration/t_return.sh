#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
#
# Devices of pools that keep copies go out of use and come back: what they have is taken over, what
# they missed is copied, and then one of them is enough again.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# Much that stays as it is.
write_content() {
    quarry volume create tank/v 128M
    qemu-io -f raw -c 'write -P 17 0 96M' "$(uri v)" >/dev/null
    quarry snapshot create tank/v@s
    qemu-io -f raw -c 'write -P 18 8M 16M' -c 'flush' "$(uri v)" >/dev/null
}

content_is_right() {
    qemu-io -r -f raw -c 'read -P 17 0 8M' -c 'read -P 18 8M 16M' -c 'read -P 17 24M 72M' "$(uri v)" >io.out
    qemu-io -r -f raw -c 'read -P 17 0 96M' -c 'read -P 0 96M 32M' "$(uri v@s)" >>io.out
    refuses grep -i -E 'failed|error' io.out
}

is_scrubbed() {
    quarry scrub status tank --json | json "d['scrubs'][0]['state']" | grep -q 'done'
}

scrub_finds_nothing() {
    quarry scrub start tank
    wait_for 60 is_scrubbed
    quarry scrub status tank --json >scrub.json
    [ "$(json "d['scrubs'][0]['damaged_blocks'] + d['scrubs'][0]['healed_blocks']" <scrub.json)" = 0 ] ||
        fail "a scrub finds something: $(cat scrub.json)"
}

test_a_device_goes_and_comes_back_while_it_is_written() {
    start_daemon
    make_devices --copies 2 512M 512M
    write_content
    start_writer 24M --rate_iops=400
    quarry device offline tank "${POOL_FILES[1]}"
    device_is "${POOL_FILES[1]}" offline || fail "$(quarry device list tank)"
    pool_is degraded || fail "the pool is not degraded"
    quarry pool status tank | grep -q 'disk1.img is offline' || fail "$(quarry pool status tank)"
    # It is closed: the disk may be pulled, and be another one's.
    refuses fuser -s "${POOL_FILES[1]}"
    mv "${POOL_FILES[1]}" "$T/elsewhere.img"
    fails_with 1 'out of use already' quarry device offline tank "${POOL_FILES[1]}"
    fails_with 1 'lies nowhere else|out of use|only device' quarry device offline tank "${POOL_FILES[0]}"
    qemu-io -f raw -c 'write -P 21 96M 8M' -c flush "$(uri v)" >/dev/null
    sleep 1
    moved=$(pool_field relocated_bytes)
    quarry device online tank "$T/elsewhere.img"
    device_is "$T/elsewhere.img" online || fail "$(quarry device list tank)"
    wait_for 60 pool_is online
    moved=$(($(pool_field relocated_bytes) - moved))
    grep -q 'of its slabs are taken over as they are' quarryd.log || fail "the log does not say what was taken over"
    [ "$moved" -lt $((80 * MIB)) ] || fail "$moved bytes were copied, though most of it was there"
    echo "# copied $((moved / MIB)) MiB; $(grep -o '[0-9]* of its slabs.*' quarryd.log)"
    end_writer
    content_is_right
    scrub_finds_nothing
    stop_daemon
    "$BUILD/quarry" check --data "${POOL_FILES[0]}" "$T/elsewhere.img" || fail "the pool does not check"
    # The one that came back is enough.
    rm "${POOL_FILES[0]}"
    start_daemon
    quarry pool import --force "$T/elsewhere.img"
    content_is_right
    qemu-io -r -f raw -c 'read -P 21 96M 8M' "$(uri v)" >io.out
    refuses grep -i -E 'failed|error' io.out
}

test_a_device_that_was_missing_comes_back() {
    start_daemon
    make_devices --copies 2 256M 256M 256M
    write_content
    kill9_daemon
    start_daemon --import "${POOL_FILES[0]}" --import "${POOL_FILES[2]}"
    qemu-io -f raw -c 'write -P 21 96M 4M' -c flush "$(uri v)" >/dev/null
    quarry device online tank "${POOL_FILES[1]}"
    wait_for 60 pool_is online
    content_is_right
    # Again, left out by the pool's own knowledge, and with a crash right behind it.
    quarry device offline tank "${POOL_FILES[0]}"
    qemu-io -f raw -c 'write -P 22 100M 4M' -c flush "$(uri v)" >/dev/null
    kill9_daemon
    restart_with_pool
    device_is "${POOL_FILES[0]}" "left out" || fail "$(quarry device list tank)"
    quarry device online tank "${POOL_FILES[0]}"
    kill9_daemon
    restart_with_pool
    device_is "${POOL_FILES[0]}" online || fail "$(quarry device list tank)"
    wait_for 60 pool_is online
    content_is_right
    qemu-io -r -f raw -c 'read -P 21 96M 4M' -c 'read -P 22 100M 4M' "$(uri v)" >io.out
    refuses grep -i -E 'failed|error' io.out
    scrub_finds_nothing
    stop_daemon
    # Any one may go.
    start_daemon --import "${POOL_FILES[0]}" --import "${POOL_FILES[1]}"
    content_is_right
}

test_other_devices_are_refused() {
    start_daemon
    make_devices --copies 2 256M 256M
    write_content
    fails_with 1 'is in use' quarry device online tank "${POOL_FILES[1]}"
    quarry device offline tank "${POOL_FILES[1]}"
    fails_with 1 'no-such.img' quarry device online tank "$T/no-such.img"
    [ ! -e "$T/no-such.img" ] || fail "a file was made"
    truncate -s 64M plain.img
    fails_with 1 'is no device of a Quarry pool' quarry device online tank "$T/plain.img"
    truncate -s 64M c.img d.img
    quarry pool create other "$T/c.img"
    quarry pool create two "$T/d.img"
    fails_with 1 'keeps one copy.*quarry device remove' quarry device offline other "$T/c.img"
    fails_with 1 'keeps one copy' quarry device online other "${POOL_FILES[1]}"
    quarry pool export two
    fails_with 1 'belongs to another pool .two.' quarry device online tank "$T/d.img"
    cp --sparse=always "${POOL_FILES[0]}" copy.img
    fails_with 1 'is in use already' quarry device online tank "$T/copy.img"
    cp --sparse=always "${POOL_FILES[1]}" small.img
    truncate -s 128M small.img
    fails_with 1 'small.img' quarry device online tank "$T/small.img"
    quarry device online tank "${POOL_FILES[1]}"
    wait_for 60 pool_is online
}

test_a_device_with_data_of_its_own_is_refused() {
    start_daemon
    make_devices --copies 2 256M 256M
    write_content
    quarry pool export tank
    # Both alone, one after the other.
    quarry pool import --force "${POOL_FILES[1]}"
    qemu-io -f raw -c 'write -P 30 0 1M' -c flush "$(uri v)" >/dev/null
    quarry pool export tank
    quarry pool import --force "${POOL_FILES[0]}"
    qemu-io -f raw -c 'write -P 17 0 1M' -c flush "$(uri v)" >/dev/null
    fails_with 1 'was in service without the other devices.*device add --force' quarry device online tank "${POOL_FILES[1]}"
    content_is_right
    quarry device add --force tank "${POOL_FILES[1]}"
    wait_for 60 lacks_nothing
    content_is_right
}

lacks_nothing() {
    quarry pool status tank | grep -q ' 0 MiB lack a copy'
}

test_a_table_that_cannot_be_believed_is_no_harm() {
    start_daemon
    make_devices --copies 2 256M 256M
    write_content
    quarry device offline tank "${POOL_FILES[1]}"
    # Both places of the table's first page.
    dd if=/dev/zero of="${POOL_FILES[1]}" bs=4096 seek=8 count=2 conv=notrunc status=none
    quarry device online tank "${POOL_FILES[1]}"
    wait_for 60 pool_is online
    grep -q ' 0 of its slabs are taken over' quarryd.log || fail "something was taken over: $(tail -3 quarryd.log)"
    content_is_right
    scrub_finds_nothing
    stop_daemon
    "$BUILD/quarry" check --data "${POOL_FILES[@]}" || fail "the pool does not check"
    rm "${POOL_FILES[0]}"
    start_daemon
    quarry pool import --force "${POOL_FILES[1]}"
    content_is_right
}

run_tests
