#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
#
# Snapshots, clones, rollback and diff, by what a client reads.  MANY=10000 for many snapshots.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# fill VOLUME PATTERN OFFSET LENGTH
fill() {
    qemu-io -f raw -c "write -P $2 $3 $4" "$(uri "$1")" >qemu-io.out
    refuses grep -i -E 'failed|error' qemu-io.out
}

# holds NAME PATTERN OFFSET LENGTH
holds() {
    qemu-io -r -f raw -c "read -P $2 $3 $4" "$(uri "$1")" >qemu-io.out
    refuses grep -i -E 'failed|error' qemu-io.out
}

test_a_snapshot_keeps_what_was_there() {
    start_with_pool
    quarry volume create tank/v 256M
    fill v 1 0 8M
    quarry snapshot create tank/v@one
    fill v 2 4M 8M
    quarry snapshot create tank/v@two
    qemu-io -f raw -c 'write -z 0 2M' -c 'discard 6M 1M' -c 'write -P 3 1k 1k' "$(uri v)" >/dev/null
    local i
    for i in 1 2; do
        holds v@one 1 0 8M
        holds v@one 0 8M 8M
        holds v@two 1 0 4M
        holds v@two 2 4M 8M
        holds v 0 0 1k
        holds v 3 1k 1k
        holds v 0 2k 2046k
        holds v 1 2M 2M
        holds v 2 4M 2M
        holds v 0 6M 1M
        holds v 2 7M 5M
        [ $i = 2 ] || { kill9_daemon && restart_with_pool; }
    done
}

test_rollback_and_what_was_after() {
    start_with_pool
    quarry volume create tank/v 256M
    fill v 1 0 8M
    quarry snapshot create tank/v@one
    fill v 2 0 8M
    quarry snapshot create tank/v@two
    fill v 3 0 8M
    quarry rollback --yes tank/v@one
    holds v 1 0 8M
    holds v@two 2 0 8M
    fill v 4 0 1M
    holds v@one 1 0 8M
    quarry rollback --yes tank/v@two
    holds v 2 0 8M
    stop_daemon
    restart_with_pool
    holds v 2 0 8M
    holds v@one 1 0 8M
    holds v@two 2 0 8M
}

test_clones_part_from_their_origin() {
    start_with_pool
    quarry volume create tank/v 256M
    fill v 1 0 8M
    quarry snapshot create tank/v@s
    quarry clone tank/v@s tank/c
    fill c 2 0 4M
    fill v 3 4M 4M
    holds v@s 1 0 8M
    holds c 2 0 4M
    holds c 1 4M 4M
    holds v 1 0 4M
    holds v 3 4M 4M
    # a clone of a clone
    quarry snapshot create tank/c@t
    quarry clone tank/c@t tank/d
    fill d 4 0 1M
    holds d 4 0 1M
    holds d 2 1M 3M
    holds d 1 4M 4M
    holds c 2 0 4M
    expect tank/v@s "$(image_field tank/c origin)" "origin of the clone"
    expect 1 "$(quarry list | grep -c 'tank/c@t\|@t')" "the tree shows the clone's snapshot"
}

test_deletion_gives_space_back_and_nothing_else() {
    start_with_pool 512M
    quarry volume create tank/v 256M
    fill v 1 0 64M
    quarry snapshot create tank/v@one
    fill v 2 0 32M
    quarry snapshot create tank/v@two
    quarry clone tank/v@one tank/c
    fill v 3 16M 32M
    local live
    live=$(quarry pool list --json | json "d['pools'][0]['live_bytes']")
    quarry snapshot delete --yes tank/v@two
    refuses nbdinfo "$(uri v@two)"
    wait_for 20 space_is_free $((live - 15 * MIB))
    holds v 2 0 16M
    holds v 3 16M 32M
    holds v 1 48M 16M
    holds c 1 0 64M
    holds v@one 1 0 64M
    quarry volume delete --yes tank/c
    quarry snapshot delete --yes tank/v@one
    quarry volume delete --yes tank/v
    wait_for 20 space_is_free $((4 * MIB))
    expect 0 "$(quarry volume list -H | wc -l)" "volumes left"
}

# live_bytes of the pool is at most $1
space_is_free() {
    quarry pool list --json >pool.json
    [ "$(json "d['pools'][0]['live_bytes']" <pool.json)" -le "$1" ]
}

# unique_is BYTES…: of the volumes, then of the snapshots.
unique_is() {
    local unique
    unique=$(for kind in volume snapshot; do
        quarry $kind list --json | json "' '.join(str(i['unique_bytes']) for i in d['${kind}s'])"
    done | tr '\n' ' ')
    [ "$unique" = "$* " ]
}

test_unique_is_known_after_a_restart_too() {
    start_with_pool
    quarry volume create tank/v 64M
    qemu-io -f raw -c 'write -P 1 0 8M' "$(uri v)" >/dev/null
    quarry snapshot create tank/v@a
    qemu-io -f raw -c 'write -P 2 0 4M' "$(uri v)" >/dev/null
    quarry snapshot create tank/v@b
    qemu-io -f raw -c 'write -P 3 4M 2M' -c flush "$(uri v)" >/dev/null
    # Of a's blocks the first 4 MiB are nobody else's; all of b's are a's or the volume's.
    wait_for 20 unique_is $((2 * MIB)) $((4 * MIB)) 0
    kill9_daemon
    restart_with_pool
    wait_for 20 unique_is $((2 * MIB)) $((4 * MIB)) 0
    # What is counted once is counted anew when a neighbour changes.
    qemu-io -f raw -c 'write -P 4 0 1M' "$(uri v)" >/dev/null
    wait_for 20 unique_is $((3 * MIB)) $((4 * MIB)) $((1 * MIB))
    quarry snapshot delete tank/v@a
    wait_for 20 unique_is $((3 * MIB)) $((3 * MIB))
    quarry clone tank/v@b tank/w
    wait_for 20 unique_is $((3 * MIB)) 0 0
}

test_deletion_goes_on_after_a_kill() {
    start_with_pool 1G
    quarry volume create tank/v 512M
    dd if=/dev/urandom of=rnd.img bs=1M count=128 status=none
    nbdcopy rnd.img "$(uri v)"
    quarry snapshot create tank/v@s
    fill v 9 0 64M
    quarry snapshot delete --yes tank/v@s
    kill9_daemon
    restart_with_pool
    refuses nbdinfo "$(uri v@s)"
    wait_for 30 space_is_free $((134 * MIB))
    holds v 9 0 64M
    nbdcopy "$(uri v)" back.img
    cmp -i $((64 * MIB)) -n $((64 * MIB)) rnd.img back.img
}

test_diff_lists_what_changed_and_only_that() {
    start_with_pool
    quarry volume create tank/v 1G
    fill v 1 0 8M
    quarry snapshot create tank/v@a
    expect "[]" "$(quarry diff tank/v@a tank/v --json | json "d['ranges']")" "nothing changed yet"
    fill v 2 1M 64k
    fill v 2 500M 4k
    qemu-io -f raw -c 'discard 4M 1M' "$(uri v)" >/dev/null
    expect "[(1048576, 65536, False), (4194304, 1048576, True), (524288000, 4096, False)]" \
        "$(quarry diff tank/v@a tank/v --json | json "[(r['offset_bytes'], r['length_bytes'], r['hole']) for r in d['ranges']]")" \
        "ranges"
    quarry snapshot create tank/v@b
    expect 3 "$(quarry diff tank/v@a tank/v@b --json | json "len(d['ranges'])")" "between snapshots"
    expect 0 "$(quarry diff tank/v@b tank/v --json | json "len(d['ranges'])")" "from the newer one"
}

# A copy kept up to date by diff alone is the same as the volume.
test_diff_is_enough_to_keep_a_copy() {
    start_with_pool
    local seed=${SEED:-$RANDOM} round
    echo "# SEED=$seed"
    quarry volume create tank/v 64M
    truncate -s 64M copy.img
    quarry snapshot create tank/v@r0
    for round in 1 2 3 4; do
        $PYTHON - "$(uri v)" $((seed + round)) <<'PYTHON'
import random, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
rng = random.Random(int(sys.argv[2]))
for _ in range(200):
    offset = rng.randrange((64 << 20) - (256 << 10))
    length = rng.choice((100, 4096, 20000, 262144))
    if rng.random() < 0.3:
        h.zero(length, offset)
    else:
        h.pwrite(bytes([rng.randrange(256)]) * length, offset)
h.shutdown()
PYTHON
        quarry snapshot create "tank/v@r$round"
        quarry diff "tank/v@r$((round - 1))" "tank/v@r$round" --json >diff.json
        $PYTHON - "$(uri "v@r$round")" diff.json copy.img <<'PYTHON'
import json, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
with open(sys.argv[3], "r+b") as copy:
    for r in json.load(open(sys.argv[2]))["ranges"]:
        copy.seek(r["offset_bytes"])
        at, left = r["offset_bytes"], r["length_bytes"]
        while left:
            n = min(left, 8 << 20)
            copy.write(bytes(n) if r["hole"] else h.pread(n, at))
            at, left = at + n, left - n
PYTHON
        expect "$(sha256sum <copy.img | cut -d ' ' -f 1)" "$(sum_of "v@r$round")" "the copy after round $round"
    done
}

# Two writers write the same number to two volumes, one after the other; a snapshot of both at one
# point never has the second volume ahead of the first.
test_a_group_snapshot_is_one_point() {
    start_with_pool
    quarry volume create tank/first 64M
    quarry volume create tank/second 64M
    $PYTHON - "$(uri first)" "$(uri second)" "$T/stop" <<'PYTHON' &
import os, struct, sys, nbd
first, second = nbd.NBD(), nbd.NBD()
first.connect_uri(sys.argv[1])
second.connect_uri(sys.argv[2])
number = 0
while not os.path.exists(sys.argv[3]):
    number += 1
    data = struct.pack("<Q", number) * 512
    first.pwrite(data, 0)
    second.pwrite(data, 0)
PYTHON
    local writer=$! i
    for i in $(seq 20); do quarry snapshot create "tank/first@g$i" "tank/second@g$i"; done
    touch "$T/stop"
    wait $writer
    $PYTHON - "$NBD_SOCK" <<'PYTHON'
import struct, sys, nbd
def number(name):
    h = nbd.NBD()
    h.connect_uri(f"nbd+unix:///tank/{name}?socket={sys.argv[1]}")
    value, = struct.unpack("<Q", h.pread(8, 0))
    return value
last = 0
for i in range(1, 21):
    first, second = number(f"first@g{i}"), number(f"second@g{i}")
    assert second in (first, first - 1), (i, first, second)
    assert first >= last
    last = first
assert last > 20, last
PYTHON
    # all or none
    fails_with 1 'exist|already' quarry snapshot create tank/first@new tank/second@g1
    refuses nbdinfo "$(uri first@new)"
}

test_a_snapshot_of_ten_terabytes_takes_no_time() {
    start_with_pool 4G
    quarry volume create tank/big 10T
    local written=64m
    [ $SLOW = 1 ] || written=16m
    fio --name=fill --ioengine=nbd --uri="$(uri big)" --rw=randwrite --bs=4k --iodepth=32 --size=10t \
        --io_size="${WRITTEN:-$written}" --norandommap --randrepeat=1 --output=fio.log
    $PYTHON - "$SOCK" <<'PYTHON'
import json, socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
f = s.makefile("rwb")
times = []
for i in range(20):
    began = time.monotonic()
    f.write(json.dumps({"quarry": 1, "verb": "snapshot.create", "names": [f"tank/big@s{i}"]}).encode() + b"\n")
    f.flush()
    reply = json.loads(f.readline())
    times.append((time.monotonic() - began) * 1000)
    assert reply["ok"], reply
times.sort()
print(f"# snapshot of a 10 TiB volume: median {times[10]:.2f} ms, longest {times[-1]:.2f} ms")
assert times[10] < 1000, "not O(1)"
PYTHON
    holds big@s0 0 9T 64k
}

test_many_snapshots() {
    local many=${MANY:-500} began
    start_with_pool 1G
    quarry volume create tank/v 64M
    $PYTHON - "$SOCK" "$(uri v)" "$many" <<'PYTHON'
import json, socket, sys, time, nbd
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
f = s.makefile("rwb")
h = nbd.NBD()
h.connect_uri(sys.argv[2])
began = time.monotonic()
for i in range(int(sys.argv[3])):
    h.pwrite(i.to_bytes(8, "little") * 512, 4096 * (i % 1000))
    f.write(json.dumps({"quarry": 1, "verb": "snapshot.create", "names": [f"tank/v@s{i}"]}).encode() + b"\n")
    f.flush()
    reply = json.loads(f.readline())
    assert reply["ok"], reply
print(f"# {sys.argv[3]} snapshots, with a write before each: {time.monotonic() - began:.2f} s")
PYTHON
    began=${EPOCHREALTIME/./}
    expect "$many" "$(quarry snapshot list -H | wc -l)" "snapshots listed"
    echo "# quarry snapshot list: $(((${EPOCHREALTIME/./} - began) / 1000)) ms"
    began=${EPOCHREALTIME/./}
    stop_daemon
    echo "# stop: $(((${EPOCHREALTIME/./} - began) / 1000)) ms"
    began=${EPOCHREALTIME/./}
    restart_with_pool
    echo "# start: $(((${EPOCHREALTIME/./} - began) / 1000)) ms"
    expect "$many" "$(quarry snapshot list -H | wc -l)" "snapshots listed after a restart"
    kill9_daemon
    began=${EPOCHREALTIME/./}
    restart_with_pool
    echo "# start after a kill: $(((${EPOCHREALTIME/./} - began) / 1000)) ms"
    local i
    for i in 0 $((many / 2)) $((many - 1)); do
        expect "$i" "$($PYTHON -c 'import nbd, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1])
print(int.from_bytes(h.pread(8, 4096 * (int(sys.argv[2]) % 1000)), "little"))' "$(uri "v@s$i")" "$i")" "what snapshot $i holds"
    done
}

run_tests
