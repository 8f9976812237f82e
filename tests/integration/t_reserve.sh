#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 240
#
# Does reserve=full hold back room for a whole volume, whatever the others do?
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# fill VOLUME MEGABYTES SEED: writes until it is done or ENOSPC; prints how many megabytes it wrote.
fill() {
    $PYTHON - "$(uri "$1")" "$2" "$3" <<'PYTHON'
import random, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
done = 0
choice = random.Random(int(sys.argv[3]))
try:
    while done < int(sys.argv[2]):
        h.pwrite(choice.randbytes(1 << 20), done << 20)
        done += 1
except nbd.Error as error:
    assert error.errno == "ENOSPC", error.errno
print(done)
PYTHON
}

# verify VOLUME MEGABYTES SEED: as fill wrote it.
verify() {
    $PYTHON - "$(uri "$1")" "$2" "$3" <<'PYTHON'
import random, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
choice = random.Random(int(sys.argv[3]))
for i in range(int(sys.argv[2])):
    assert h.pread(1 << 20, i << 20) == choice.randbytes(1 << 20), i
PYTHON
}

test_others_find_the_pool_full_before_they_take_the_reserve() {
    start_with_pool 96M
    quarry volume create tank/db 64M --reserve full
    quarry volume create tank/thin 1G
    expect full "$(image_field tank/db reserve)" "reserve"
    expect none "$(image_field tank/thin reserve)" "reserve"
    local reserved available
    reserved=$(pool_field reserved_bytes)
    [ "$reserved" -ge $((64 * MIB)) ] && [ "$reserved" -le $((66 * MIB)) ] || fail "reserved $reserved"
    quarry pool status tank >status
    grep -q 'provisioned.*over-committed' status || fail "status does not show the over-commitment"
    grep -q 'reserved  *64' status || fail "status does not show the reserve"
    available=$(pool_field available_bytes)
    grep -q 'filled.*warns at 80%, 90%' status || fail "status does not say how full it is"
    quarry pool set tank warn=30,95
    quarry pool status tank | grep -q 'filled.*WARNING (warns at 30%, 95%)' || fail "status does not warn"
    local thin
    thin=$(fill thin 1024 1)
    [ $((thin * MIB)) -le "$available" ] || fail "it wrote $thin MiB of $available bytes that were available"
    [ $((thin * MIB)) -ge $((available - 8 * MIB)) ] || fail "it wrote only $thin MiB of $available bytes"
    # Also over a restart; and again and again over what is its own.
    stop_daemon
    restart_with_pool
    expect full "$(image_field tank/db reserve)" "reserve after a restart"
    expect '[30, 95]' "$(pool_field warn_percent)" "thresholds after a restart"
    grep -q 'tank is .. % full' quarryd.log || fail "the log does not warn"
    local round
    for round in 2 3 4; do
        expect 64 "$(fill db 64 $round)" "megabytes of the reserved volume, round $round"
    done
    verify db 64 4
    verify thin "$thin" 1
    # A trim of it goes back to the reserve, not to the others.
    qemu-io -f raw -c 'discard 0 64M' "$(uri db)" >/dev/null
    [ "$(fill thin 1024 1)" -le $((thin + 2)) ] || fail "what was trimmed was given to others"
    expect 64 "$(fill db 64 5)" "megabytes after a trim"
    verify db 64 5
}

test_what_cannot_be_held_back_is_refused() {
    start_with_pool 96M
    local said='hold back .*reserve=full: .*MiB more, and .*MiB is available'
    fails_with 1 "$said" quarry volume create tank/huge 200M --reserve full
    fails_with 2 'reserve is full or none' quarry volume create tank/huge 200M --reserve half
    quarry volume create tank/huge 200M
    fails_with 1 "$said" quarry volume set tank/huge reserve=full
    quarry volume create tank/db 100M --reserve full
    fails_with 1 "$said" quarry volume create tank/more 100M --reserve full
    fails_with 1 "$said" quarry volume resize tank/db 200M
    expect 100 "$(fill db 100 1)" "megabytes"
    # A snapshot makes it share what it has written: all of it would have to be held back again.
    fails_with 1 "$said" quarry snapshot create tank/db@s
    quarry volume set tank/db reserve=none
    quarry snapshot create tank/db@s
    fails_with 1 "$said" quarry volume set tank/db reserve=full
    quarry snapshot delete --yes tank/db@s
    wait_for 20 quarry volume set tank/db reserve=full
    expect 0 "$(image_field tank/db reserved_bytes)" "held back for a volume that is full"
    quarry volume resize --yes --force tank/db 50M
    quarry volume create tank/more 40M --reserve full
}

test_a_snapshot_of_a_reserved_volume_can_be_overwritten() {
    start_with_pool 160M
    quarry volume create tank/db 64M --reserve full
    quarry volume create tank/thin 1G
    fill db 64 1 >/dev/null
    expect 0 "$(image_field tank/db reserved_bytes)" "held back for a volume that is full"
    quarry snapshot create tank/db@s
    [ "$(image_field tank/db reserved_bytes)" -ge $((64 * MIB)) ] || fail "a snapshot holds nothing back"
    local thin
    thin=$(fill thin 1024 9)
    expect 64 "$(fill db 64 2)" "megabytes beside the snapshot"
    verify db 64 2
    verify db@s 64 1
    verify thin "$thin" 9
    # Rolled back, all of it is shared again: no room.
    fails_with 1 'hold back' quarry rollback --yes tank/db@s
    quarry volume delete --yes tank/thin
    wait_for 20 quarry rollback --yes tank/db@s
    expect 64 "$(fill db 64 3)" "megabytes after the rollback"
}

run_tests
