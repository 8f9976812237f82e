#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 120
#
# Does `make run` do what it promises, twice, and do the lines that it prints work?
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

start_demo() {
    QUARRY_DEMO_DIR=$T/demo setsid "$ROOT/tools/demo.sh" </dev/null >demo.out 2>&1 &
    DEMO=$!
    wait_for 30 grep -q 'Ctrl-C ends it' demo.out
}

# As Ctrl-C does: SIGINT to the whole group.
stop_demo() {
    local rc=0
    kill -INT -- "-$DEMO"
    wait "$DEMO" || rc=$?
    expect 0 "$rc" "status of the demo after Ctrl-C"
}

test_make_run_twice() {
    start_demo
    # The lines to try, as they are printed; those that only look.
    local line count=0
    while read -r line; do
        (cd "$ROOT" && bash -ec "$line" >/dev/null) || fail "\"$line\" does not work"
        count=$((count + 1))
    done < <(sed -n 's/^    \(build.*quarry --socket\|QUARRY_SOCKET\|nbdinfo\|qemu-img\|.*quarry \)/\1/p' demo.out)
    [ $count -ge 4 ] || fail "only $count lines to try in: $(cat demo.out)"
    local volume
    volume=$(grep -o -E 'nbd\+unix://[^ "]*' demo.out | head -n 1)
    expect $((10 * GIB)) "$(nbdinfo --size "$volume")" "size"
    qemu-io -f raw -c 'write -P 42 1G 1M' "$volume" >/dev/null
    stop_demo
    start_demo
    qemu-io -f raw -c 'read -P 42 1G 1M' "$volume" >io.out
    refuses grep -i failed io.out
    stop_demo
}

test_two_demos_do_not_meet() {
    start_demo
    refuses env QUARRY_DEMO_DIR="$T/demo" "$ROOT/tools/demo.sh"
    stop_demo
}

run_tests
