#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 240
#
# Does a scrub find every rotten block, say whose it is, and go on where it was?
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

BLOCKS=8192

# Each block of tank/a says which one it is.
write_marked() {
    $PYTHON - "$(uri a)" $BLOCKS <<'PYTHON'
import random, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for first in range(0, int(sys.argv[2]), 64):
    h.pwrite(b"".join(b"marked block %08d|" % i + random.randbytes(4096 - 22) for i in range(first, first + 64)), first * 4096)
h.flush()
PYTHON
}

# rot COUNT FILE…: flips a bit in so many blocks in these files; writes their numbers, sorted, into rotten.
rot() {
    $PYTHON - "$@" <<'PYTHON'
import random, re, sys
places = {}
for path in sys.argv[2:]:
    data = open(path, "rb").read()
    for match in re.finditer(rb"marked block (\d{8})\|", data):
        if match.start() % 4096 == 0:
            places.setdefault(int(match.group(1)), []).append((path, match.start()))
chosen = sorted(random.Random(7).sample(sorted(places), int(sys.argv[1])))
for number in chosen:
    for path, offset in places[number]:
        with open(path, "r+b") as file:
            file.seek(offset + 100)
            byte = file.read(1)[0]
            file.seek(offset + 100)
            file.write(bytes([byte ^ 4]))
open("rotten", "w").write("\n".join(map(str, chosen)) + "\n")
PYTHON
}

scrub_field() {
    quarry scrub status --json >scrub.json
    json "d['scrubs'][0]['$1']" <scrub.json
}

scrub_is() {
    [ "$(scrub_field state)" = "$1" ]
}

# Checks what the scrub names: none that is not rotten, none twice.  What relocation has packed
# cannot be named.  Prints how many blocks it tells of, and how many it names.
named() {
    scrub_field damage >/dev/null
    $PYTHON - <<'PYTHON'
import json
damage = json.load(open("scrub.json"))["scrubs"][0]["damage"]
rotten = set(map(int, open("rotten").read().split()))
names = [d["offset_bytes"] // 4096 for d in damage if d["volume"]]
assert all(d["volume"] in ("tank/a", None) for d in damage), damage
assert len(set(names)) == len(names) and set(names) <= rotten, (names, rotten)
places = {(d["device"], d["device_offset_bytes"]) for d in damage}
assert len(places) == len(damage), "named twice"
print(len(damage), len(names))
PYTHON
}

test_every_rotten_block_is_found_and_named() {
    start_with_pool 96M
    quarry volume create tank/a 1G
    expect never "$(scrub_field state)" "state before the first"
    write_marked
    quarry scrub start tank
    wait_for 60 scrub_is "done"
    expect 0 "$(scrub_field damaged_blocks)" "damaged blocks of a sound pool"
    # Each block is read by the scrub, or by relocation, which verifies what it moves.
    quarry pool list --json >pools.json
    local read=$(($(scrub_field checked_bytes) + $(json "d['pools'][0]['relocated_bytes']" <pools.json)))
    [ "$read" -ge $((BLOCKS * 4096)) ] || fail "only $read bytes were read"
    stop_daemon
    rot 90 "${POOL_FILES[@]}"
    restart_with_pool
    expect "done" "$(scrub_field state)" "state after a restart"
    quarry scrub start tank
    wait_for 60 scrub_is "done"
    expect 90 "$(scrub_field damaged_blocks)" "damaged blocks"
    expect 0 "$(scrub_field unverified_blocks)" "unverified blocks"
    local told names
    read -r told names <<<"$(named)"
    expect 90 "$told" "blocks that it tells of"
    [ "$names" -ge 45 ] || fail "only $names of 90 blocks are named"
    quarry pool status tank >status
    expect "$names" "$(grep -c 'damaged .*disk[01].img at byte [0-9]*: tank/a at byte' status)" "blocks named by status"
    grep -q 'scrub  *done, 100.0% done, 90 damaged blocks' status || fail "status does not say what was found"
    expect 90 "$(grep -c 'scrub: the block at byte .* has a wrong checksum; ' quarryd.log)" "lines in the log"
}

test_a_thousand_rotten_blocks_are_all_counted() {
    start_with_pool 96M
    quarry volume create tank/a 1G
    write_marked
    stop_daemon
    rot 1000 "${POOL_FILES[@]}"
    restart_with_pool
    quarry scrub start tank
    wait_for 60 scrub_is "done"
    expect 1000 "$(scrub_field damaged_blocks)" "damaged blocks"
    local told names
    read -r told names <<<"$(named)"
    expect 100 "$told" "blocks that it tells of"
    [ "$names" -ge 50 ] || fail "only $names of 100 blocks are named"
}

test_a_scrub_goes_on_after_a_pause_a_kill_and_a_restart() {
    start_with_pool 96M
    quarry volume create tank/a 1G
    write_marked
    stop_daemon
    rot 200 "${POOL_FILES[@]}"
    restart_with_pool
    quarry scrub start tank
    quarry scrub pause tank
    local before
    before=$(scrub_field damaged_blocks)
    expect paused "$(scrub_field state)" "state"
    [ "$(scrub_field done_permille)" -lt 1000 ] || fail "it was over before it could be paused"
    kill9_daemon
    restart_with_pool
    expect paused "$(scrub_field state)" "state after a kill"
    expect "$before" "$(scrub_field damaged_blocks)" "damaged blocks found before the kill"
    quarry scrub start tank
    kill9_daemon
    restart_with_pool # it was running: it goes on by itself
    wait_for 60 scrub_is "done"
    expect 200 "$(scrub_field damaged_blocks)" "damaged blocks in all"
    # A new one begins from the beginning; clients work meanwhile.
    quarry scrub start tank
    qemu-io -f raw -c 'write -P 5 64M 16M' "$(uri a)" >/dev/null
    wait_for 60 scrub_is "done"
    expect 200 "$(scrub_field damaged_blocks)" "damaged blocks of the next scrub"
    fails_with 1 'no pool' quarry scrub start nosuch
}

# With two copies each block is healed from the other one.
test_a_mirror_is_healed() {
    start_daemon
    POOL_FILES=("$T/disk0.img" "$T/disk1.img")
    quarry pool create tank "${POOL_FILES[@]}" --size 128M --copies 2
    quarry volume create tank/a 1G
    write_marked
    local before
    before=$(sum_of a)
    stop_daemon
    rot 1000 "$T/disk0.img"
    restart_with_pool
    quarry scrub start tank
    wait_for 60 scrub_is "done"
    expect 0 "$(scrub_field damaged_blocks)" "damaged blocks"
    # Relocation heals what it meets first.
    echo "# $(scrub_field healed_blocks) of 1000 blocks healed by the scrub"
    [ "$(scrub_field healed_blocks)" -ge 500 ] || fail "only $(scrub_field healed_blocks) blocks were healed"
    quarry scrub start tank
    wait_for 60 scrub_is "done"
    expect 0 "$(scrub_field healed_blocks)" "blocks left for the next scrub"
    expect "$before" "$(sum_of a)" "the data"
}

run_tests
