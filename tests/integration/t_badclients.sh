#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 240
#
# Does a healthy client notice anything of the worst that others do?
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

bad_client() {
    $PYTHON "$HERE/bad_clients.py" "$@"
}

# A client that writes and verifies until $T/stop exists, and tells its longest wait.
healthy_client() {
    echo 0 >turns
    $PYTHON - "$(uri healthy)" "$T/stop" turns <<'PYTHON' &
import os, sys, time, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
turns, longest = 0, 0.0
progress = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT)
while turns < 200 or not os.path.exists(sys.argv[2]):
    data = turns.to_bytes(8, "little") * 512
    began = time.monotonic()
    h.pwrite(data, turns % 4096 * 4096)
    assert h.pread(4096, turns % 4096 * 4096) == data
    longest = max(longest, time.monotonic() - began)
    turns += 1
    if turns % 50 == 0:
        os.pwrite(progress, b"%08d" % turns, 0)
    if turns % 200 == 0:
        h.flush()
h.shutdown()
print(f"# the healthy client: {turns} turns, the longest {longest * 1000:.0f} ms")
assert longest < 10
PYTHON
    HEALTHY=$!
    # Connected before the others come: libnbd does not wait for a place in a full backlog.
    wait_for 20 healthy_client_has_begun
}

healthy_client_has_begun() {
    grep -q "[1-9]" turns
}

# While others misbehave: it gets on by 200 turns in some seconds.
healthy_client_gets_on() {
    TURNS_SEEN=$((10#$(cat turns)))
    wait_for 8 turns_were_made
}

turns_were_made() {
    [ $((10#$(cat turns))) -ge $((TURNS_SEEN + 200)) ]
}

healthy_client_is_well() {
    kill -0 "$HEALTHY" || fail "the healthy client ended"
    touch "$T/stop"
    wait "$HEALTHY"
    rm "$T/stop"
    # nothing was leaked by it all: all clients are gone
    wait_for 20 clients_are_gone
}

clients_are_gone() {
    [ "$(image_field tank/v clients)" = 0 ] && [ "$(image_field tank/healthy clients)" = 0 ]
}

with_volumes() {
    start_with_pool
    quarry volume create tank/v 256M
    quarry volume create tank/healthy 64M
    healthy_client
}

test_garbage_and_cut_off_messages() {
    local seed=${SEED:-$RANDOM}
    echo "# SEED=$seed"
    with_volumes
    bad_client garbage "$NBD_SOCK" "$seed"
    bad_client half "$NBD_SOCK"
    bad_client options "$NBD_SOCK"
    bad_client commands "$NBD_SOCK" "$seed"
    healthy_client_is_well
}

test_hundreds_of_connections() {
    with_volumes
    bad_client many "$NBD_SOCK"
    healthy_client_is_well
    local before after
    before=$(find "/proc/$DAEMON/fd" | wc -l)
    bad_client many "$NBD_SOCK"
    wait_for 20 clients_are_gone
    after=$(find "/proc/$DAEMON/fd" | wc -l)
    [ "$after" -le $((before + 4)) ] || fail "descriptors: $before, then $after"
}

test_clients_that_go_away_in_the_middle() {
    with_volumes
    bad_client reset "$NBD_SOCK"
    healthy_client_is_well
}

test_a_client_that_reads_no_answers() {
    with_volumes
    mkfifo deaf.in
    bad_client deaf "$NBD_SOCK" <deaf.in >deaf.out &
    local deaf=$!
    exec {hold}>deaf.in
    wait_for 20 grep -q asked deaf.out
    local rss
    rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$DAEMON/status")
    echo "# resident while eight clients ask for 2 GiB each and take nothing: $((rss / 1024)) MiB"
    [ "$SLOW" != 1 ] || [ "$rss" -lt $((1024 * 1024)) ] || fail "memory without bound"
    healthy_client_gets_on
    exec {hold}>&-
    wait $deaf
    healthy_client_is_well
}

test_a_stopped_client_holds_nobody_up() {
    with_volumes
    bad_client stopped "$NBD_SOCK" >stopped.out &
    local client=$!
    wait_for 20 grep -q stopped stopped.out
    healthy_client_gets_on
    quarry snapshot create tank/v@s tank/healthy@s
    quarry volume delete --yes --force tank/v
    quarry volume create tank/v 64M
    kill -0 "$HEALTHY" || fail "the healthy client ended"
    # The daemon must end although that client holds its connection.
    touch "$T/stop"
    wait "$HEALTHY"
    stop_daemon
    kill -KILL $client
    wait $client || true
}

test_the_administrators_socket() {
    local seed=${SEED:-$RANDOM}
    echo "# SEED=$seed"
    with_volumes
    bad_client admin "$SOCK" "$seed"
    quarry list >/dev/null
    healthy_client_is_well
}

test_the_wrong_protocol_on_each_socket() {
    with_volumes
    # each side waits for the other to begin
    refuses timeout 3 nbdinfo "nbd+unix:///tank/v?socket=$SOCK"
    refuses timeout 20 "$BUILD/quarry" --socket "$NBD_SOCK" list
    healthy_client_is_well
}

test_idle_memory() {
    [ "$SLOW" = 1 ] || skip "sanitizers take memory of their own"
    launch_daemon --socket "$SOCK" --listen "nbd+unix:///?socket=$NBD_SOCK" --node-cache 4MiB
    $PYTHON "$HERE/ready.py" "$SOCK" "$DAEMON" 30
    make_pool 512M
    quarry volume create tank/v 1G
    local rss
    rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$DAEMON/status")
    echo "# resident, idle, a pool of 1 GiB: $((rss / 1024)) MiB"
    [ "$rss" -lt $((68 * 1024)) ] || fail "$rss KiB are resident"
    fio --name=fill --ioengine=nbd --uri="$(uri v)" --rw=randwrite --bs=4k --iodepth=32 --size=128m --output=fio.log
    rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$DAEMON/status")
    echo "# resident after 128 MiB of random writes: $((rss / 1024)) MiB"
    [ "$rss" -lt $((68 * 1024)) ] || fail "$rss KiB are resident after writing"
}

# An idle daemon sleeps.
test_idle_takes_no_time() {
    start_with_pool
    quarry volume create tank/v 64M
    qemu-io -f raw -c 'write 0 16M' "$(uri v)" >/dev/null
    wait_for 30 idle_for_a_second
}

idle_for_a_second() {
    local before after
    before=$(awk '{ print $14 + $15 }' "/proc/$DAEMON/stat")
    sleep 1
    after=$(awk '{ print $14 + $15 }' "/proc/$DAEMON/stat")
    [ "$before" = "$after" ]
}

run_tests
