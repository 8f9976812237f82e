#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 120
#
# Does `make run` do what it promises, twice, and do the lines that it prints work?
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# In a session of its own, and so that it heeds SIGINT although it is started in the background.
start_demo() {
    : >demo.out # or the lines of the demo before are found
    QUARRY_DEMO_DIR=$T/demo setsid env --default-signal=INT "$ROOT/tools/demo.sh" </dev/null >demo.out 2>&1 &
    DEMO=$!
    wait_for 30 grep -q 'Ctrl-C ends it' demo.out
}

# As Ctrl-C does: SIGINT to the whole group.
stop_demo() {
    local rc=0
    kill -INT -- "-$DEMO"
    wait "$DEMO" || rc=$?
    expect 0 "$rc" "status of the demo after Ctrl-C"
    grep -q 'Ended in order' demo.out || fail "it did not end in order: $(cat demo.out)"
}

test_make_run_twice_and_the_lines_that_it_prints() {
    start_demo
    # All lines to try, as they are printed, in a place like the top of the source tree.
    mkdir try
    ln -s "$ROOT/docs" "$ROOT/fio-jobs" try/
    sed -n 's/^    //p' demo.out >try.sh
    grep -q 'qemu-img compare' try.sh
    (cd try && bash -ex ../try.sh >../try.out 2>&1) || fail "the lines do not work: $(tail -n 5 try.out)"
    local volume
    volume=$(grep -o "nbd+unix://[^']*" demo.out | head -n 1)
    expect $((10 * GIB)) "$(nbdinfo --size "$volume")" "size"
    qemu-io -f raw -c 'write -P 42 1G 1M' "$volume" >/dev/null
    stop_demo
    start_demo
    qemu-io -f raw -c 'read -P 42 1G 1M' "$volume" >io.out
    refuses grep -i failed io.out
    stop_demo
}

test_a_second_demo_says_that_there_is_one() {
    start_demo
    fails_with 1 'running' env QUARRY_DEMO_DIR="$T/demo" "$ROOT/tools/demo.sh"
    stop_demo
}

# The tour of README.md, as it stands there but for the places of its files.  A daemon has to be up
# before the next line, as it is when a person types.
test_the_tour_of_the_readme() {
    {
        echo 'up() { pid=$!; '"$PYTHON $HERE/ready.py $SOCK"' $pid; }'
        echo 'trap "kill \$(jobs -p) 2>/dev/null || true" EXIT'
        echo 'down() { kill -TERM $pid; wait $pid; }'
        sed -n '/^## Five minutes/,/^A virtual machine/s/^    //p' "$ROOT/README.md" |
            sed -e ':join' -e '/\\$/{N;s/\\\n *//;b join' -e '}' |
            sed -e '/^make$/d' -e "s|/var/tmp/|$T/|g" -e "s|/tmp/quarry.sock|$SOCK|g" -e "s|/tmp/nbd.sock|$NBD_SOCK|g" \
                -e "s|fs\\.img|$T/fs.img|g" -e "s|build/quarry|$BUILD/quarry|g" \
                -e 's/ &$/ \&\nup/' -e 's/^\(.*--import.*\)$/down\n\1 \&\nup/'
        echo "$BUILD/quarry list | grep -q tank/test"
        echo down
    } >tour.sh
    [ "$(grep -c quarry tour.sh)" -ge 14 ] || fail "the tour is short: $(cat tour.sh)"
    expect 2 "$(grep -c '^up$' tour.sh)" "daemons that are started"
    (cd "$ROOT" && bash -ex "$T/tour.sh" >"$T/tour.out" 2>&1) || fail "the tour fails: $(tail -n 5 tour.out)"
}

run_tests
