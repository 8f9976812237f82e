#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 180
#
# The command line: exit statuses 0, 1 and 2, reasons on stderr, JSON that parses, refusals that
# protect what is there.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# status | what stderr must say (a regular expression) | the arguments
bad_arguments() {
    cat <<'TABLE'
2 | usage|command        | frobnicate
2 | create.*import       | pool
2 | frobnicate.*create   | pool frobnicate
2 | usage|argument|DEVICE | pool create
2 | usage|argument|DEVICE | pool create tank2
2 | usage|argument|SIZE  | volume create tank/x
2 | usage|too m          | volume create tank/x 1G 2G
2 | option|--frobnicate  | list --frobnicate
2 | option|-Q            | list -Q
2 | socket|value|needs   | list --socket
2 | column               | list -o nosuchcolumn
2 | name|option          | pool create -bad d0.img --size 1G
2 | name                 | pool create a/b d0.img --size 1G
2 | name                 | pool create a@b d0.img --size 1G
2 | pool/volume          | volume create tank 1G
2 | name                 | volume create tank/ 1G
2 | name                 | volume create /x 1G
2 | name                 | volume create tank/a/b 1G
2 | name                 | volume create tank/.hidden 1G
2 | volume               | volume create tank/x@s 1G
2 | snapshot             | snapshot create tank/v
2 | snapshot|name        | snapshot create tank/v@
2 | name                 | snapshot create tank/v@a@b
2 | snapshot             | snapshot delete --yes tank/v
2 | snapshot             | clone tank/v tank/c
2 | snapshot             | rollback --yes tank/v
2 | size|number          | volume create tank/x ten
2 | size|number|option   | volume create tank/x -1G
2 | size|number|unit     | volume create tank/x 10X
2 | size|number|0        | volume create tank/x 0
2 | size|large|range     | volume create tank/x 99999999999999999999999
2 | size|number          | pool create tank2 d9.img --size nonsense
2 | readonly|property    | volume set tank/v colour=blue
2 | on.*off              | volume set tank/v readonly=maybe
2 | readonly|property|=  | volume set tank/v readonly
2 | readonly.*twice      | volume set tank/v readonly=on readonly=on
2 | pool                 | volume rename tank/v other/v
1 | nosuch               | volume create nosuch/x 1G
1 | nosuch               | volume delete --yes tank/nosuch
1 | nosuch               | volume resize tank/nosuch 1G
1 | nosuch               | volume rename tank/nosuch tank/other
1 | nosuch               | volume set tank/nosuch readonly=on
1 | nosuch               | snapshot create tank/nosuch@s
1 | nosuch               | snapshot delete --yes tank/v@nosuch
1 | nosuch               | clone tank/v@nosuch tank/c
1 | nosuch               | rollback --yes tank/v@nosuch
1 | nosuch               | diff tank/v@nosuch tank/v
1 | different pools      | diff tank/v@s nosuch/v
1 | nosuch               | snapshot list tank/nosuch
1 | directory            | pool create tank2 .
1 | neither              | pool create tank2 /dev/null --size 64M
1 | nosuch               | pool export nosuch
1 | nosuch               | pool destroy --yes nosuch
2 | no device for NBD    | attach nbd://127.0.0.1:1/x /dev/sda
2 | missing              | attach
1 | nosuch               | list nosuch
1 | exist                | volume create tank/v 1G
1 | exist|already        | snapshot create tank/v@s
1 | exist                | volume rename tank/w tank/v
1 | exist                | clone tank/v@s tank/v
1 | nosuch.img           | pool create tank2 nosuch.img
1 | nosuch.img           | pool import nosuch.img
1 | exist|already        | pool create tank d9.img --size 64M
1 | small                | pool create tiny tiny.img --size 4096
1 | smaller|shrink|force | volume resize tank/v 1M
1 | snapshot             | volume delete --yes tank/v
1 | volume               | pool destroy --yes tank
TABLE
}

test_bad_arguments() {
    start_with_pool
    quarry volume create tank/v 64M
    quarry volume create tank/w 64M
    quarry snapshot create tank/v@s
    local status regex arguments words count=0 bad=0
    while IFS= read -r line; do
        status=${line%% | *}
        arguments=${line##* | }
        regex=${line#* | }
        regex=$(sed 's/ *$//' <<<"${regex% | *}")
        read -r -a words <<<"$arguments"
        (fails_with "$status" "$regex" quarry "${words[@]}") || bad=$((bad + 1))
        count=$((count + 1))
    done < <(bad_arguments)
    [ $count -gt 50 ] || fail "only $count lines of the table were tried"
    [ $bad = 0 ] || fail "$bad of $count"
    # and nothing happened by all that
    expect "tank/v tank/w" "$(quarry volume list --json | json "' '.join(v['name'] for v in d['volumes'])")" "volumes"
}

test_help_for_everything() {
    local command
    for command in "" pool "pool create" "pool import" "pool export" "pool list" "pool status" "pool destroy" \
        volume "volume create" "volume list" "volume resize" "volume rename" "volume delete" "volume set" \
        snapshot "snapshot create" "snapshot list" "snapshot delete" clone rollback diff list attach version; do
        # shellcheck disable=SC2086
        quarry $command --help >help.txt
        grep -q -i usage help.txt || fail "quarry $command --help has no usage"
    done
    "$BUILD/quarryd" --help >help.txt
    local option
    for option in --config --socket --listen --import; do
        grep -q -e "$option" help.txt || fail "quarryd --help does not name $option"
    done
}

test_json_of_everything_parses() {
    start_with_pool
    quarry volume create tank/v 1G --json | json 'd["schema"]' >schema
    expect 1 "$(cat schema)" "schema"
    quarry snapshot create tank/v@s --json | json 'd["schema"]' >/dev/null
    quarry clone tank/v@s tank/c --json | json 'd["schema"]' >/dev/null
    quarry list --json | json 'd["schema"]' >/dev/null
    expect "online" "$(quarry pool list --json | json "d['pools'][0]['state']")" "state"
    expect 2 "$(quarry pool status --json | json "len(d['pools'][0]['devices'])")" "devices"
    expect $((1 << 30)) "$(quarry volume list --json | json "[v for v in d['volumes'] if v['name'] == 'tank/v'][0]['size_bytes']")" "size"
    expect "tank/v@s" "$(quarry snapshot list --json | json "d['snapshots'][0]['name']")" "snapshot"
    quarry diff tank/v@s tank/v --json | json 'd["schema"]' >/dev/null
    quarry version --json | json 'd["schema"]' >/dev/null
    quarry volume delete --yes tank/c --json | json 'd["schema"]' >/dev/null
}

test_no_daemon_is_said_plainly() {
    fails_with 1 "$SOCK" quarry list
    : >"$SOCK"
    fails_with 1 "$SOCK" quarry list
    fails_with 1 "quarryd does not answer at $SOCK" quarry version
    if quarry version --json >version.json; then fail "quarry version should have failed"; fi
    expect "quarry" "$(json "' '.join(p['name'] for p in d['programs'])" <version.json)" "programs"
}

test_socket_from_the_environment() {
    start_with_pool
    QUARRY_SOCKET=$SOCK "$BUILD/quarry" volume create tank/env 1G
    expect 1 "$(QUARRY_SOCKET=$SOCK "$BUILD/quarry" volume list -H | wc -l)" "volumes"
}

test_devices_with_something_on_them_are_refused() {
    start_daemon
    truncate -s 256M fs.img part.img
    mke2fs -q -t ext4 fs.img
    printf 'label: gpt\nsize=100M\n' | /usr/sbin/sfdisk -q part.img
    fails_with 1 'ext4' quarry pool create tank "$T/fs.img"
    fails_with 1 'partition|gpt' quarry pool create tank "$T/part.img"
    e2fsck -fn fs.img >/dev/null # it was left alone
    quarry pool create one "$T/one.img" --size 256M
    quarry pool export one
    fails_with 1 'pool|quarry' quarry pool create tank "$T/one.img"
    quarry pool import "$T/one.img"
    quarry pool export one
    # --force means it
    quarry pool create --force tank "$T/fs.img" "$T/part.img" "$T/one.img"
    quarry volume create tank/v 1G
    qemu-io -f raw -c 'write -P 1 0 64M' -c 'read -P 1 0 64M' "$(uri v)" >io.out
    refuses grep -i failed io.out
    stop_daemon
    start_daemon --import "$T/fs.img" --import "$T/part.img" --import "$T/one.img"
    expect tank/v "$(quarry volume list --json | json "d['volumes'][0]['name']")" "volume"
}

test_a_device_twice_is_refused() {
    start_daemon
    fails_with 1 'd.img is named twice' quarry pool create tank d.img d.img --size 256M
    fails_with 1 'd.img is named twice, also as .*/./d.img' quarry pool create tank d.img ./d.img --size 256M
    [ ! -e d.img ] || fail "a file was made for nothing"
    truncate -s 256M d2.img
    ln -s d2.img link.img
    ln d2.img hard.img
    fails_with 1 'd2.img is named twice, also as .*/link.img' quarry pool create tank d2.img link.img
    quarry pool create tank d2.img
    quarry pool export tank
    fails_with 1 'd2.img is named twice, also as .*/hard.img' quarry pool create --force other d2.img hard.img
    fails_with 1 'd2.img is named twice' quarry pool import d2.img d2.img
    refuses quarry check d2.img link.img
    grep -q 'd2.img is named twice, also as link.img' refused.out || fail "not said: $(cat refused.out)"
    fails_with 1 'd2.img is named twice' quarry dump d2.img d2.img
    quarry pool import link.img
    fails_with 1 'x.img is named twice' quarry device add tank x.img "$T/x.img" --size 256M
}

# With --force nothing would be different.
test_a_device_in_use_is_refused_without_a_word_of_force() {
    start_with_pool
    local command
    truncate -s 64M other.img
    for command in "pool create other ${POOL_FILES[0]}" "pool create --force other ${POOL_FILES[0]}" \
        "pool create other other.img ${POOL_FILES[1]}" "device add tank ${POOL_FILES[0]}" \
        "device replace tank ${POOL_FILES[0]} ${POOL_FILES[1]}" "pool import ${POOL_FILES[*]}"; do
        # shellcheck disable=SC2086
        fails_with 1 'disk[01].img is in use: already open in this daemon' quarry $command
        # shellcheck disable=SC2086
        refuses quarry $command
        refuses grep -e --force refused.out
    done
}

test_a_second_daemon_on_the_same_files_is_refused() {
    start_with_pool
    quarry volume create tank/v 64M
    local first=$DAEMON rc=0
    "$BUILD/quarryd" --socket "$T/second.sock" --import "${POOL_FILES[0]}" --import "${POOL_FILES[1]}" \
        </dev/null >second.log 2>&1 &
    local second=$!
    if $PYTHON "$HERE/ready.py" "$T/second.sock" $second 20; then
        # It runs without the pool, or it did not start at all: both are right, serving it is not.
        expect 0 "$("$BUILD/quarry" --socket "$T/second.sock" pool list -H | wc -l)" "pools of the second daemon"
        fails_with 1 'use|busy|lock' "$BUILD/quarry" --socket "$T/second.sock" pool import "${POOL_FILES[@]}"
        kill -TERM $second
    fi
    wait $second || rc=$?
    grep -q -i -E 'use|busy|lock' second.log || fail "the second daemon does not say why: $(cat second.log)"
    DAEMON=$first
    qemu-io -f raw -c 'write -P 1 0 1M' "$(uri v)" >/dev/null
}

test_a_second_daemon_on_the_same_socket_is_refused() {
    start_with_pool
    local rc=0
    timeout 20 "$BUILD/quarryd" --socket "$SOCK" </dev/null >second.log 2>&1 || rc=$?
    [ $rc != 0 ] && [ $rc != 124 ] || fail "the second daemon ran: status $rc"
    grep -q -F "$SOCK" second.log || fail "it does not name the socket: $(cat second.log)"
    quarry list >/dev/null
    # but the socket of a dead daemon is in nobody's way
    kill9_daemon
    restart_with_pool
    quarry list >/dev/null
}

# Whose socket's file was taken away does not take away that of its successor.
test_a_socket_of_another_daemon_is_left_alone() {
    start_daemon
    local first=$DAEMON
    rm "$SOCK" "$NBD_SOCK"
    start_daemon
    kill -TERM "$first"
    wait "$first"
    [ -S "$SOCK" ] || fail "the second daemon's socket is gone"
    [ -S "$NBD_SOCK" ] || fail "the second daemon's NBD socket is gone"
    quarry list
    nbdinfo --list "nbd+unix:///?socket=$NBD_SOCK"
}

test_bad_daemon_arguments() {
    local rc
    # shellcheck disable=SC2086
    while IFS='|' read -r regex arguments; do
        rc=0
        timeout 20 "$BUILD/quarryd" --socket "$SOCK" $arguments </dev/null >d.out 2>&1 || rc=$?
        [ $rc != 0 ] && [ $rc != 124 ] || fail "quarryd $arguments: status $rc"
        grep -q -i -E -- "$regex" d.out || fail "quarryd $arguments does not say \"$regex\": $(cat d.out)"
    done <<'TABLE'
frobnicate|--frobnicate
listen|--listen
gopher|--listen gopher://localhost
port|--listen nbd://127.0.0.1:99999
/nonexistent/quarryd.yaml|--config /nonexistent/quarryd.yaml
size|--node-cache lots
1EiB is more than the memory of this machine, [0-9.]+[MGT]iB|--node-cache 1E
TABLE
    echo 'node-cache: 1E' >quarryd.yaml
    fails_with 2 'quarryd.yaml:1: node-cache: 1EiB is more than' timeout 20 "$BUILD/quarryd" --config quarryd.yaml
}

# JOURNAL_STREAM is inherited by whatever a service starts, also with its stderr somewhere else.
test_log_priorities_are_for_the_journal_only() {
    JOURNAL_STREAM=1:1 start_daemon
    stop_daemon
    grep -q -E '^[0-9]{4}-[-0-9T:]*Z info: ready' quarryd.log || fail "no time in: $(cat quarryd.log)"
    refuses grep '^<' quarryd.log
    JOURNAL_STREAM=$(stat -c %d:%i quarryd.log) start_daemon
    grep -q '^<6>ready' quarryd.log || fail "no priority in: $(cat quarryd.log)"
}

test_a_volume_in_use_is_not_deleted() {
    start_with_pool
    quarry volume create tank/busy 64M
    mkfifo hold
    $PYTHON - "$(uri busy)" hold <<'PYTHON' &
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
open(sys.argv[2], "w").close()  # connected
open(sys.argv[2]).read()        # until told
try:
    h.pread(512, 0)
except nbd.Error:
    pass
PYTHON
    local client=$!
    cat hold
    fails_with 1 'client|connect|use|busy' quarry volume delete --yes tank/busy
    fails_with 1 'client|connect|use|busy' quarry pool export tank
    quarry snapshot create tank/busy@s
    fails_with 1 'use --force' quarry rollback --yes tank/busy@s
    quarry rollback --yes --force tank/busy@s
    expect 1 "$(image_field tank/busy clients)" "clients"
    quarry volume delete --yes --force tank/busy
    echo >hold
    wait $client
    expect 0 "$(quarry volume list -H | wc -l)" "volumes"
}

# dry_run WOULD COMMAND…: what it would do, as text and as JSON.
dry_run() {
    local would=$1
    shift
    expect "would $would" "$(quarry "$@" --dry-run)" "$*"
    expect "$would" "$(quarry "$@" -n --json | json 'd["would"]')" "$* --json"
}

# at_terminal COMMAND…: quarry at a terminal of its own, where standard input is typed.
at_terminal() {
    script -qec "'$BUILD/quarry' --socket '$SOCK' $*" /dev/null
}

test_dry_runs_are_decided_by_the_daemon() {
    fails_with 1 'does not answer' quarry volume delete --dry-run tank/v
    start_with_pool
    quarry volume create tank/v 64M
    quarry snapshot create tank/v@s tank/v@t
    fails_with 1 'nosuch' quarry volume delete -n tank/nosuch
    fails_with 1 'volume tank/v has 2 snapshots' quarry volume delete -n tank/v
    fails_with 1 'use --force' quarry volume resize -n tank/v 32M
    fails_with 1 'pool tank has 1 volume' quarry pool destroy -n tank
    fails_with 1 'has no snapshot u' quarry snapshot delete -n tank/v@s tank/v@u
    fails_with 1 'no such export' quarry export remove -n tank/v --iscsi
    fails_with 2 'takes no --dry-run' quarry volume rename -n tank/v tank/w
    quarry export add tank/v --iscsi
    local before
    before=$(quarry list --json)
    dry_run 'delete volume tank/v with its 2 snapshots' volume delete -f tank/v
    dry_run 'resize volume tank/v from 64MiB to 32MiB, losing what lies beyond' volume resize -f tank/v 32M
    dry_run 'destroy pool tank with its 1 volume' pool destroy -f tank
    dry_run 'delete snapshot tank/v@s' snapshot delete tank/v@s
    dry_run 'roll volume tank/v back to tank/v@s, losing what was written since' rollback tank/v@s
    dry_run 'remove the export of volume tank/v, ending its sessions' export remove tank/v --iscsi
    expect "$before" "$(quarry list --json)" "what is there afterwards"
}

test_a_human_is_asked() {
    start_with_pool
    quarry volume create tank/v 64M
    quarry snapshot create tank/v@s
    at_terminal volume delete tank/v </dev/null >said && fail "it was deleted with a snapshot"
    refuses grep 'Go on' said # there is nothing to ask
    echo n | at_terminal volume delete -f tank/v >said && fail "no is yes"
    grep -q 'About to delete volume tank/v with its 1 snapshot\.' said || fail "asked: $(cat said)"
    grep -q 'nothing was done' said || fail "said: $(cat said)"
    expect "tank/v" "$(quarry volume list -H -o name)" "volumes"
    echo y | at_terminal volume delete -f tank/v >said || fail "said: $(cat said)"
    expect "" "$(quarry volume list -H -o name)" "volumes"
}

test_names_at_their_limits() {
    start_daemon
    local long
    long=$(printf 'a%.0s' {1..128})
    quarry pool create "$long" "$T/d.img" --size 256M
    quarry volume create "$long/$long" 1G
    quarry snapshot create "$long/$long@$long"
    nbdinfo --size "nbd+unix:///$long/$long@$long?socket=$NBD_SOCK"
    fails_with 2 'volume name.*129 bytes.*at most 128' quarry volume create "$long/${long}b" 1G
    quarry list --json | json 'd["schema"]' >/dev/null
    local name
    for name in 0 A a.b a_b a-b 9-._z; do quarry volume create "$long/$name" 1M; done
    stop_daemon
    start_daemon --import "$T/d.img"
    expect 7 "$(quarry volume list -H | wc -l)" "volumes after a restart"
}

test_resize_rename_and_readonly_last() {
    start_with_pool
    quarry volume create tank/v 64M
    qemu-io -f raw -c 'write -P 3 60M 4M' "$(uri v)" >/dev/null
    quarry volume resize tank/v 1.5T
    expect 1649267441664 "$(nbdinfo --size "$(uri v)")" "size"
    quarry volume rename tank/v tank/renamed
    refuses nbdinfo "$(uri v)"
    quarry volume set tank/renamed readonly=on
    stop_daemon
    restart_with_pool
    expect 1649267441664 "$(nbdinfo --size "$(uri renamed)")" "size after a restart"
    expect True "$(image_field tank/renamed readonly)" "readonly"
    qemu-io -r -f raw -c 'read -P 3 60M 4M' -c 'read -P 0 64M 64M' "$(uri renamed)" >io.out
    refuses grep -i failed io.out
    quarry volume set tank/renamed readonly=off
    # What a shrink cut off does not come back.
    quarry volume resize --force --yes tank/renamed 62M
    quarry volume resize tank/renamed 64M
    qemu-io -f raw -c 'read -P 3 60M 2M' -c 'read -P 0 62M 2M' "$(uri renamed)" >io.out
    refuses grep -i failed io.out
}

prepared() {
    [ "$(quarry pool status tank --json | json 'd["pools"][0]["unprepared_bytes"]')" = 0 ]
}

# kept WHAT: each file still has all of its 64 MiB.
kept() {
    local file
    for file in "${POOL_FILES[@]}"; do
        [ "$(($(stat -c '%b * %B' "$file")))" -ge $((64 * MIB)) ] || fail "$file lost space $1"
    done
}

test_a_preallocated_pool_keeps_its_space() {
    start_daemon
    POOL_FILES=("$T/a.img" "$T/b.img")
    quarry pool create tank "${POOL_FILES[@]}" --size 64M --preallocate
    kept "at once"
    wait_for 30 prepared
    stop_daemon
    restart_with_pool
    prepared || fail "what was prepared before is not known any more"
    quarry volume create tank/v 64M
    nbdcopy --synchronous <(head -c 40M /dev/urandom) "$(uri v)"
    quarry volume delete tank/v
    wait_for 30 eval '[ "$(quarry pool status tank --json | json "d[\"pools\"][0][\"deleting\"]")" = 0 ]'
    stop_daemon
    kept "after a volume was deleted"
}

test_devices_are_added_in_service() {
    start_with_pool 32M 1
    quarry volume create tank/v 200M
    head -c 100M /dev/urandom >"$T/data"
    refuses nbdcopy --synchronous "$T/data" "$(uri v)" # the pool is too small
    fails_with 1 'too small' quarry device add tank "$T/tiny.img" --size 1M
    fails_with 1 'too small' quarry pool create tiny "$T/tiny.img" --size 1M
    fails_with 1 'No such file' quarry pool create two "$T/tiny.img" "$T/no/other.img" --size 1G
    [ ! -e "$T/tiny.img" ] || fail "a file was left that was made for nothing"
    fails_with 1 'no pool' quarry device add lake "$T/new.img" --size 64M
    mke2fs -q -t ext4 "$T/ext4.img" 32M
    fails_with 1 'ext4.*--force' quarry device add tank "$T/ext4.img"
    fails_with 1 'in use' quarry device add tank "${POOL_FILES[0]}" --force
    quarry device add tank "$T/ext4.img" "$T/new.img" --size 200M --force
    expect "3" "$(quarry device list tank --json | json 'len(d["devices"])')" "devices"
    nbdcopy --synchronous "$T/data" "$(uri v)"
    kill9_daemon
    POOL_FILES+=("$T/ext4.img")
    start_daemon
    fails_with 1 'missing' quarry pool import "${POOL_FILES[@]}"
    stop_daemon
    POOL_FILES+=("$T/new.img")
    restart_with_pool
    nbdcopy --synchronous "$(uri v)" "$T/back"
    cmp -n $((100 * MIB)) "$T/data" "$T/back"
    stop_daemon
    "$BUILD/quarry" check --data "${POOL_FILES[@]}"
}

test_export_import_destroy() {
    start_with_pool
    quarry volume create tank/v 64M
    qemu-io -f raw -c 'write -P 3 0 4M' "$(uri v)" >/dev/null
    quarry pool export tank
    refuses nbdinfo "$(uri v)"
    expect 0 "$(quarry pool list -H | wc -l)" "pools"
    # A pool with a device missing says so.
    fails_with 1 'missing|device' quarry pool import "${POOL_FILES[0]}"
    # Found under other names, in another order.
    mv disk0.img moved.img
    quarry pool import "$T/disk1.img" "$T/moved.img"
    qemu-io -f raw -c 'read -P 3 0 4M' "$(uri v)" >io.out
    refuses grep -i failed io.out
    quarry volume delete --yes tank/v
    quarry pool destroy --yes tank
    fails_with 1 'pool|label' quarry pool import "$T/disk1.img" "$T/moved.img"
    quarry pool create again "$T/disk1.img" "$T/moved.img"
}

test_a_size_is_rounded_up_and_said() {
    start_with_pool 128M 1
    quarry volume create tank/odd 1 | grep -qx 'volume tank/odd created, 4KiB' || fail "the size that it got is not said"
    expect 4096 "$(image_field tank/odd size_bytes)" "the size"
    quarry volume resize tank/odd 4097 | grep -q '8KiB' || fail "the size that it got is not said"
    expect 8192 "$(image_field tank/odd size_bytes)" "the size"
}

run_tests
