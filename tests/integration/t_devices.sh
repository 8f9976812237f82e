#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 240
#
# Devices leave a pool that is in use: they are emptied, forgotten, replaced; copies that were lost
# with one are made again.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

write_content() {
    quarry volume create tank/v 64M
    qemu-io -f raw -c 'write -P 17 0 32M' "$(uri v)" >/dev/null
    quarry snapshot create tank/v@s
    qemu-io -f raw -c 'write -P 18 8M 32M' -c 'flush' "$(uri v)" >/dev/null
}

content_is_right() {
    qemu-io -r -f raw -c 'read -P 17 0 8M' -c 'read -P 18 8M 32M' -c 'read -P 0 40M 24M' "$(uri v)" >io.out
    qemu-io -r -f raw -c 'read -P 17 0 32M' -c 'read -P 0 32M 32M' "$(uri v@s)" >>io.out
    refuses grep -i -E 'failed|error' io.out
}

test_a_device_is_removed_while_it_is_written() {
    start_daemon
    make_devices 512M 384M 384M
    write_content
    start_writer 64M
    quarry device remove tank "${POOL_FILES[1]}"
    wait_for 60 device_is "${POOL_FILES[1]}" gone
    end_writer
    expect online "$(quarry pool list tank --json | json "d['pools'][0]['state']")" "the pool"
    content_is_right
    quarry snapshot create tank/w@end
    before=$(sum_of w@end)
    # The others do without.
    stop_daemon
    refuses "$BUILD/quarry" check "${POOL_FILES[1]}"
    POOL_FILES=("${POOL_FILES[0]}" "${POOL_FILES[2]}")
    "$BUILD/quarry" check --data "${POOL_FILES[@]}" || fail "the pool does not check"
    # A lost page of the slab table is made again without it, too.
    dd if=/dev/zero of="${POOL_FILES[1]}" bs=4096 seek=8 count=2 conv=notrunc status=none
    refuses "$BUILD/quarry" check "${POOL_FILES[@]}"
    "$BUILD/quarry" check --repair "${POOL_FILES[@]}" || fail "a lost page is not made again"
    restart_with_pool
    content_is_right
    expect "$before" "$(sum_of w@end)" "what was written meanwhile"
    # It has no label any more, and serves again as a new one.
    fails_with 1 'no device of a Quarry pool' quarry pool import "$T/disk1.img"
    quarry device add tank "$T/disk1.img"
    quarry device list tank --json | json "len(d['devices'])" | grep -qx 3 || fail "not three devices"
    content_is_right
}

test_a_removal_goes_on_after_a_crash() {
    start_daemon
    make_devices 512M 512M
    write_content
    quarry device remove tank "${POOL_FILES[0]}"
    kill9_daemon
    restart_with_pool
    wait_for 60 device_is "${POOL_FILES[0]}" gone
    content_is_right
    kill9_daemon
    POOL_FILES=("${POOL_FILES[1]}")
    restart_with_pool
    content_is_right
    stop_daemon
    "$BUILD/quarry" check --data "${POOL_FILES[@]}" || fail "the pool does not check"
}

test_what_cannot_be_removed_is_refused() {
    start_daemon
    make_devices 300M 64M
    write_content
    fails_with 1 'could hold .*add a device' quarry device remove tank "${POOL_FILES[0]}"
    fails_with 1 'no device .*/nowhere' quarry device remove tank /nowhere
    fails_with 1 'not being removed' quarry device remove tank "${POOL_FILES[1]}" --stop
    fails_with 2 'missing' quarry device remove tank
    fails_with 1 'too small' quarry device replace tank "${POOL_FILES[1]}" "$T/tiny.img" --size 1M
    device_is "${POOL_FILES[0]}" online || fail "a removal that was refused left a trace"
    uuid=$(quarry device list tank --json | json "d['devices'][1]['uuid']")
    quarry device remove tank "$uuid"
    wait_for 60 device_is "${POOL_FILES[1]}" gone
    fails_with 1 'only device' quarry device remove tank "${POOL_FILES[0]}"
    content_is_right
}

test_a_removal_can_be_stopped() {
    start_daemon
    make_devices 1G 1G
    quarry volume create tank/big 700M
    qemu-io -f raw -c 'write -P 9 0 400M' "$(uri big)" >/dev/null
    quarry device remove tank "${POOL_FILES[0]}"
    if device_is "${POOL_FILES[0]}" removing; then
        quarry device list tank >list.out
        grep -q 'removing, [0-9.]*%' list.out || fail "the table does not say how far it is: $(cat list.out)"
        fails_with 1 'already' quarry device remove tank "${POOL_FILES[0]}"
        if quarry device remove tank "${POOL_FILES[0]}" --stop; then
            device_is "${POOL_FILES[0]}" online || fail "it does not stay"
            quarry device remove tank "${POOL_FILES[0]}"
        fi
    fi
    wait_for 60 device_is "${POOL_FILES[0]}" gone
    qemu-io -r -f raw -c 'read -P 9 0 400M' "$(uri big)" >io.out
    refuses grep -i -E 'failed|error' io.out
}

test_a_device_is_replaced() {
    start_daemon
    make_devices 256M 256M
    write_content
    quarry device replace tank "${POOL_FILES[0]}" "$T/new.img" --size 512M
    wait_for 60 device_is "${POOL_FILES[0]}" gone
    device_is "$T/new.img" online || fail "the new device is not there"
    content_is_right
    stop_daemon
    POOL_FILES=("$T/new.img" "${POOL_FILES[1]}")
    "$BUILD/quarry" check --data "${POOL_FILES[@]}" || fail "the pool does not check"
    restart_with_pool
    content_is_right
}

# free_share FILE: of its slabs, in percent.
free_share() {
    quarry device list tank --json | json "next(x['slabs_free'] * 100 // x['slabs'] for x in d['devices'] if x['path'] == '$1')"
}

rests() {
    [ "$(quarry list --json >/dev/null && quarry pool list tank --json | json "d['pools'][0]['rebalancing']")" = None ]
}

test_a_pool_is_rebalanced() {
    start_daemon
    make_devices 512M
    quarry volume create tank/v 400M
    qemu-io -f raw -c 'write -P 5 0 400M' -c flush "$(uri v)" >/dev/null
    quarry device add tank "$T/more.img" --size 512M
    [ "$(free_share "$T/more.img")" -gt 95 ] || fail "the new device is not empty"
    quarry pool rebalance tank
    wait_for 60 rests
    first=$(free_share "${POOL_FILES[0]}") second=$(free_share "$T/more.img")
    [ $((second - first)) -lt 10 ] || fail "$first % and $second % are free"
    qemu-io -r -f raw -c 'read -P 5 0 400M' "$(uri v)" >io.out
    refuses grep -i -E 'failed|error' io.out
    # There is nothing to do now; and what runs can be stopped.
    quarry pool rebalance tank
    rests || fail "it is rebalanced for ever"
    quarry pool rebalance tank --stop
    stop_daemon
    "$BUILD/quarry" check --data "${POOL_FILES[0]}" "$T/more.img" || fail "the pool does not check"
}

test_a_device_grows() {
    start_daemon
    make_devices 128M 128M
    write_content
    fails_with 1 'as before' quarry device grow tank "${POOL_FILES[0]}"
    size=$(quarry pool list tank --json | json "d['pools'][0]['size_bytes']")
    truncate -s 300M "${POOL_FILES[0]}"
    quarry device grow tank "${POOL_FILES[0]}"
    grown=$(quarry pool list tank --json | json "d['pools'][0]['size_bytes']")
    [ $((grown - size)) -gt $((170 * MIB)) ] || fail "from $size to $grown bytes only"
    quarry volume create tank/w 256M
    qemu-io -f raw -c 'write -P 21 0 220M' -c flush "$(uri w)" >/dev/null
    kill9_daemon
    restart_with_pool
    content_is_right
    qemu-io -r -f raw -c 'read -P 21 0 220M' "$(uri w)" >io.out
    refuses grep -i -E 'failed|error' io.out
    stop_daemon
    # Its ends are where they belong.
    "$BUILD/quarry" check --data "${POOL_FILES[@]}" || fail "the pool does not check"
    dd if=/dev/zero of="${POOL_FILES[0]}" bs=4096 seek=1 count=5 conv=notrunc status=none
    restart_with_pool
    content_is_right
    # More than its table, or the memory for it, has room for is not lost: a new import goes on.
    truncate -s 8G "${POOL_FILES[0]}"
    quarry device grow tank "${POOL_FILES[0]}"
    stop_daemon
    "$BUILD/quarry" check "${POOL_FILES[@]}" || fail "the pool does not check"
    restart_with_pool
    content_is_right
}

test_copies_are_made_again_without_the_device_that_is_lost() {
    start_daemon
    make_devices --copies 2 256M 256M 256M
    write_content
    stop_daemon
    lost=${POOL_FILES[0]}
    POOL_FILES=("${POOL_FILES[1]}" "${POOL_FILES[2]}")
    restart_with_pool
    content_is_right
    uuid=$(quarry device list tank --json | json "next(x['uuid'] for x in d['devices'] if x['state'] == 'missing')")
    # All of it gets its second copy on the two that are left; then one of them is enough.
    wait_for 60 quarry_lacks_nothing
    quarry device remove tank "$uuid"
    pool_is online || fail "the pool is not online without a device that is gone for good"
    stop_daemon
    rm "${POOL_FILES[0]}"
    POOL_FILES=("${POOL_FILES[1]}")
    start_daemon
    quarry pool import "${POOL_FILES[@]}" --force
    content_is_right
    # The one that was removed is no device of it any more.
    fails_with 1 'removed|missing' quarry pool import "$lost"
}

quarry_lacks_nothing() {
    quarry pool status tank | grep -q ' 0 MiB lack a copy'
}

test_a_failed_device_is_replaced() {
    start_daemon
    make_devices --copies 2 256M 256M
    write_content
    stop_daemon
    rm "${POOL_FILES[0]}"
    POOL_FILES=("${POOL_FILES[1]}")
    start_daemon
    quarry pool import "${POOL_FILES[@]}" --force
    pool_is degraded || fail "the pool is not degraded"
    uuid=$(quarry device list tank --json | json "next(x['uuid'] for x in d['devices'] if x['state'] == 'missing')")
    quarry device replace tank "$uuid" "$T/new.img" --size 256M
    wait_for 60 pool_is online
    content_is_right
    stop_daemon
    "$BUILD/quarry" check --data "${POOL_FILES[0]}" "$T/new.img" || fail "the pool does not check"
}

# What tells that a file is a device of a pool, as bytes that can be put back.
save_label() {
    dd if="$1" of="$1.head" bs=4096 skip=1 count=1 status=none
    dd if="$1" of="$1.tail" bs=4096 skip=$((($(stat -c %s "$1") - MIB) / 4096)) count=1 status=none
}

put_label_back() {
    dd if="$1.head" of="$1" bs=4096 seek=1 conv=notrunc status=none
    dd if="$1.tail" of="$1" bs=4096 seek=$((($(stat -c %s "$1") - MIB) / 4096)) conv=notrunc status=none
}

test_a_removed_device_does_no_harm_where_it_is_named() {
    start_daemon
    make_devices 256M 256M
    write_content
    save_label "${POOL_FILES[1]}"
    quarry device remove tank "${POOL_FILES[1]}"
    wait_for 60 device_is "${POOL_FILES[1]}" gone
    quarry pool export tank
    # As if a crash had come before its label was wiped; then without one, as one's list may still have it.
    put_label_back "${POOL_FILES[1]}"
    for _ in 1 2; do
        quarry pool import "${POOL_FILES[@]}"
        content_is_right
        device_is "${POOL_FILES[1]}" gone || fail "it is listed"
        wait_for 30 has_no_label "${POOL_FILES[1]}"
        quarry pool export tank
    done
    # What is missing is told all the same.
    truncate -s 0 "${POOL_FILES[0]}"
    truncate -s 256M "${POOL_FILES[0]}"
    fails_with 1 'is no device of a Quarry pool' quarry pool import "${POOL_FILES[@]}"
}

has_no_label() {
    cmp -s -n 4096 -i 4096:0 "$1" /dev/zero
}

test_a_device_that_was_removed_is_added_again() {
    start_daemon
    make_devices 256M 256M
    write_content
    quarry device remove tank "${POOL_FILES[1]}"
    wait_for 60 device_is "${POOL_FILES[1]}" gone
    quarry pool export tank
    quarry pool import "${POOL_FILES[0]}"
    quarry device add tank "${POOL_FILES[1]}"
    # The pool beats there, too, and does not take its own last beat for somebody else's.
    wait_for 20 has_heartbeat "${POOL_FILES[1]}"
    pool_is online || fail "$(quarry pool status tank)"
    content_is_right
}

has_heartbeat() {
    cmp -s -n 8 -i $((6 * 4096)):0 "$1" <(printf QUARRYHB)
}

run_tests
