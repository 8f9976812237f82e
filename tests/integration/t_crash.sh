#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
#
# Is anything that was acknowledged lost when quarryd is killed?  SEED=… repeats a run's choices.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

crash() {
    local seed=()
    [ -z "${SEED:-}" ] || seed=(--seed "$SEED")
    $PYTHON "$HERE/crash.py" --quarryd "$BUILD/quarryd" --quarry "$BUILD/quarry" --dir "$T" "${seed[@]}" "$@"
}

test_twenty_kills_lose_nothing_that_was_acknowledged() {
    crash --kills "${KILLS:-20}" --node-cache 16MiB
}

test_kills_with_the_smallest_node_cache() {
    crash --kills 4 --node-cache 4MiB
}

# fio's own check: what it wrote before the kill verifies after it.
test_fio_verifies_after_a_kill() {
    start_with_pool
    quarry volume create tank/fio 256M
    URI=$(uri fio) SIZE=16m fio --output=fio.log "$ROOT/fio-jobs/verify.fio"
    # killed under another load, elsewhere in the volume
    fio --name=load --ioengine=nbd --uri="$(uri fio)" --rw=randwrite --bs=4k --iodepth=16 --numjobs=4 \
        --offset=128m --size=64m --time_based --runtime=60 --output=load.log 2>load.err &
    local load=$!
    wait_for 20 has_written_much
    kill9_daemon
    wait $load || true
    restart_with_pool
    URI=$(uri fio) SIZE=16m fio --verify_only --output=again.log "$ROOT/fio-jobs/verify.fio"
    refuses grep -E 'verify: bad|err= *[1-9]' again.log
    # and that check does find what is wrong
    qemu-io -f raw -c 'write -P 1 1M 256k' "$(uri fio)" >/dev/null
    refuses env URI="$(uri fio)" SIZE=16m fio --verify_only --output=wrong.log "$ROOT/fio-jobs/verify.fio"
}

# More than 8 MiB of the load are there.
has_written_much() {
    [ "$(image_field tank/fio used_bytes)" -gt $((72 * MIB)) ]
}

test_a_second_kill_during_recovery() {
    start_with_pool
    quarry volume create tank/v 256M
    dd if=/dev/urandom of=data.img bs=1M count=48 status=none
    nbdcopy data.img "$(uri v)"
    local i imports=()
    for i in "${POOL_FILES[@]}"; do imports+=(--import "$i"); done
    kill9_daemon
    for i in 1 2 3 4 5; do
        launch_daemon --socket "$SOCK" --listen "nbd+unix:///?socket=$NBD_SOCK" "${imports[@]}"
        # at any moment of start and replay
        sleep "0.0$((RANDOM % 90 + 10))"
        kill9_daemon
    done
    restart_with_pool
    nbdcopy "$(uri v)" back.img
    truncate -s 48M back.img
    cmp data.img back.img
}

# The import finishes, is answered, and then its pool is closed cleanly.
test_a_shutdown_during_an_import_waits_for_it() {
    start_with_pool
    quarry volume create tank/v 256M
    dd if=/dev/urandom of=data.img bs=1M count=48 status=none
    nbdcopy data.img "$(uri v)"
    kill9_daemon
    start_daemon
    # In this order, long before the import is done.
    $PYTHON - "$SOCK" "$DAEMON" "${POOL_FILES[@]}" <<'PYTHON'
import json, os, signal, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(json.dumps({"quarry": 1, "verb": "pool.import", "devices": sys.argv[3:]}).encode() + b"\n")
os.kill(int(sys.argv[2]), signal.SIGTERM)
answer = s.makefile().readline()
assert json.loads(answer)["ok"], answer
PYTHON
    wait_daemon || fail "quarryd ended with status $?"
    sed -n '/batches replayed/,$p' quarryd.log >end.log
    grep SIGTERM quarryd.log
    grep 'pool tank is online' end.log
    # Closed cleanly, there is nothing to replay.
    restart_with_pool
    grep ' 0 batches replayed' quarryd.log
    nbdcopy "$(uri v)" back.img
    truncate -s 48M back.img
    cmp data.img back.img
}

run_tests
