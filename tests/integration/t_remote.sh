#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
#
# Devices that are NBD exports, of nbdkit and qemu-nbd: pools on them, and what happens when the far end goes away,
# comes back, forgets what was not flushed, or is another one.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

FAR=()

# far NUMBER: nbdkit with disk NUMBER; what is not flushed is lost when it is killed.
far() {
    nbdkit --foreground --exit-with-parent --unix "$T/far$1.sock" --filter=cache file "$T/disk$1.img" cache=writeback >>far.log 2>&1 &
    FAR[$1]=$!
    wait_for 30 answers "$1"
}

# The same with qemu-nbd, over TCP.
far_qemu() {
    [ -e "far$1.port" ] || $PYTHON -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' >"far$1.port"
    qemu-nbd --persistent --format=raw --cache=writeback --bind=127.0.0.1 --port="$(cat "far$1.port")" -x disk \
        --shared=10 "$T/disk$1.img" >>far.log 2>&1 &
    FAR[$1]=$!
    wait_for 30 answers_qemu "$1"
}

answers() { nbdinfo --size "$(far_uri "$1")" >/dev/null 2>&1; }
answers_qemu() { nbdinfo --size "$(qemu_uri "$1")" >/dev/null 2>&1; }
far_uri() { echo "nbd+unix:///?socket=$T/far$1.sock"; }
qemu_uri() { echo "nbd://127.0.0.1:$(cat "far$1.port")/disk"; }

kill_far() {
    kill -KILL "${FAR[$1]}"
    wait "${FAR[$1]}" 2>/dev/null || true
    rm -f "$T/far$1.sock"
}

end_far() {
    local pid
    for pid in "${FAR[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${FAR[@]}"; do wait "$pid" 2>/dev/null || true; done
}

test_a_pool_of_exports_and_a_file() {
    start_daemon
    truncate -s 1G disk0.img disk1.img
    mke2fs -q -t ext4 -L precious disk1.img
    far 0
    far_qemu 1
    fails_with 1 "nbd://127.0.0.1:1/x" quarry pool create tank nbd://127.0.0.1:1/x
    fails_with 1 'not empty.*precious' quarry pool create tank "$(far_uri 0)" "$(qemu_uri 1)"
    quarry pool create tank --force "$(far_uri 0)" "$(qemu_uri 1)"
    quarry device add tank "$T/local.img" --size 1G
    expect "$(far_uri 0) $(qemu_uri 1) $T/local.img" \
        "$(quarry device list tank --json | json "' '.join(x['path'] for x in d['devices'])")" "the devices"
    quarry volume create tank/v 128M
    head -c 60000000 /dev/urandom >data
    truncate -s 128M data
    nbdcopy data "$(uri v)"
    nbdcopy "$(uri v)" back
    cmp data back
    stop_daemon
    # the same by name at start, in another order
    start_daemon --import "$T/local.img" --import "$(qemu_uri 1)" --import "$(far_uri 0)"
    nbdcopy "$(uri v)" back
    cmp data back
    quarry pool export tank
    fails_with 1 'pool "tank"' quarry pool create other "$(far_uri 0)"
    quarry check --data "$(far_uri 0)" "$(qemu_uri 1)" "$T/local.img"
    quarry dump "$(far_uri 0)" "$(qemu_uri 1)" "$T/local.img" >dump.txt
    grep -q tank dump.txt
    # a label is damaged: that is found, but not mended from afar; an import does it
    qemu-io -f raw -c 'write -P 0 4k 4k' -c flush "$(far_uri 0)" >/dev/null
    local status=0
    quarry check --repair "$(far_uri 0)" "$(qemu_uri 1)" "$T/local.img" >check.txt || status=$?
    expect 3 $status "status of a repair"
    grep -q 'where its disk is' check.txt
    quarry pool import "$(far_uri 0)" "$(qemu_uri 1)" "$T/local.img"
    quarry pool destroy --yes --force tank
    end_far
}

# A writer with a stamp in each block; what it was told to be written is there, whatever happens below.
write_and_verify() {
    $PYTHON - "$(uri v)" <<'PYTHON'
import nbd, os, random, struct, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
rng = random.Random(5)
blocks, turn = {}, 0
while not os.path.exists("enough"):
    turn += 1
    if turn % 100 == 0:
        h.flush()
    first, count = rng.randrange(16000), rng.randrange(1, 17)
    h.pwrite(b"".join(struct.pack(">QQ", b, turn) * 256 for b in range(first, first + count)), first * 4096)
    blocks.update((b, turn) for b in range(first, first + count))
    open("turn.new", "w").write(str(turn))
    os.replace("turn.new", "turn")
for b, t in blocks.items():
    assert h.pread(4096, b * 4096) == struct.pack(">QQ", b, t) * 256, b
open("told", "w").write(f"{turn} writes, {len(blocks)} blocks")
open("blocks", "w").write("\n".join(f"{b} {t}" for b, t in blocks.items()))
PYTHON
}

verify_again() {
    $PYTHON - "$(uri v)" <<'PYTHON'
import nbd, struct, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for line in open("blocks"):
    b, t = map(int, line.split())
    assert h.pread(4096, b * 4096) == struct.pack(">QQ", b, t) * 256, b
PYTHON
}

turns() { cat turn 2>/dev/null || echo 0; }
beyond() { [ "$(turns)" -gt "$1" ]; }

# outlive BEGIN URI: the far end, begun by `BEGIN 0`, is killed four times under load.
outlive() {
    local before
    start_daemon
    truncate -s 1G disk0.img
    $1 0
    quarry pool create tank "$2"
    quarry volume create tank/v 128M
    write_and_verify &
    local writer=$!
    for _ in 1 2 3 4; do
        before=$(turns)
        wait_for 60 beyond $((before + 50))
        kill_far 0
        sleep 0.5 # away for a while
        before=$(turns)
        $1 0
        wait_for 60 beyond $((before + 20)) # it goes on
    done
    : >enough
    wait $writer
    echo "# $(cat told)"
    [ "$(grep -c 'connected again' quarryd.log)" -ge 4 ]
    # all of it is at the far end, not only here
    stop_daemon
    kill_far 0
    $1 0
    start_daemon --import "$2"
    verify_again
    stop_daemon
    end_far
}

test_nbdkit_that_forgets_what_was_not_flushed() {
    outlive far "$(far_uri 0)"
}

test_qemu_nbd_killed_and_brought_back() {
    $PYTHON -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' >far0.port
    outlive far_qemu "$(qemu_uri 0)"
}

# Away for too long: an I/O error, said and kept to, until the pool is imported anew; nothing that was acknowledged
# is lost by it.
test_a_far_end_that_stays_away() {
    start_daemon --remote-timeout 2
    truncate -s 1G disk0.img
    far 0
    quarry pool create tank "$(far_uri 0)"
    quarry volume create tank/v 128M
    qemu-io -f raw -c 'write -P 7 0 8M' "$(uri v)" >/dev/null
    kill_far 0
    refuses qemu-io -f raw -c 'write -P 8 0 8M' -c flush "$(uri v)" # within seconds
    grep -q 'failed: Connection timed out' quarryd.log
    expect failed "$(quarry pool list --json | json "d['pools'][0]['state']")" "state"
    far 0
    wait_for 30 grep -q 'connected again' quarryd.log
    fails_with 1 "last state could not be written" quarry pool export tank --force
    quarry pool import "$(far_uri 0)"
    qemu-io -f raw -c 'read -P 7 4M 4M' "$(uri v)" >read.out
    refuses grep -i 'verification failed' read.out
    stop_daemon
    end_far
}

# Another disk under the same name is not written to.
test_another_disk_in_its_place() {
    start_daemon
    truncate -s 1G disk0.img
    far 0
    quarry pool create tank "$(far_uri 0)"
    quarry volume create tank/v 128M
    kill_far 0
    mv disk0.img ours.img
    truncate -s 1G disk0.img
    far 0
    wait_for 30 grep -q 'is not the device that it was' quarryd.log
    refuses qemu-io -f raw -c 'write -P 8 0 8M' -c flush "$(uri v)"
    stop_daemon
    expect 0 "$(stat -c %b disk0.img)" "blocks of the other disk that were written"
    kill_far 0
    mv ours.img disk0.img
    far 0
    start_daemon --import "$(far_uri 0)"
    qemu-io -f raw -c 'write -P 8 0 8M' -c flush "$(uri v)" >/dev/null
    stop_daemon
    end_far
}

run_tests
