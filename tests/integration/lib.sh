# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What the integration tests share.  A test file t_NAME.sh sources this, defines functions test_*,
# and ends with `run_tests`.  Each function runs in a subshell of its own under `set -e`, in a fresh
# directory $T that is removed afterwards, and with its own daemons, which are ended with it.  A
# daemon that still runs when the test is over has to end cleanly on SIGTERM.
set -uo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=${BUILD:-build}
case $BUILD in /*) ;; *) BUILD=$ROOT/$BUILD ;; esac
HERE=$ROOT/tests/integration
PYTHON=/usr/bin/python3
TEST_FILE=$(basename "$0" .sh)
TEST_FILE=${TEST_FILE#t_}
SLOW=1 # factor for time limits
case $BUILD in *build-*) SLOW=4 ;; esac
export PYTHONPATH=$HERE PYTHONDONTWRITEBYTECODE=1
# Sanitizers: any finding ends the daemon with a status that stop_daemon refuses.
export ASAN_OPTIONS=abort_on_error=0:exitcode=99:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

KIB=1024
MIB=$((1024 * KIB))
GIB=$((1024 * MIB))
export KIB MIB GIB

# --- daemons: one at a time is "the daemon", in $DAEMON ---

DAEMON=

# start_daemon [OPTION…]: and waits until it answers.  Its NBD socket is $NBD_SOCK.
start_daemon() {
    launch_daemon --socket "$SOCK" --listen "nbd+unix:///?socket=$NBD_SOCK" --node-cache 16MiB "$@"
    $PYTHON "$HERE/ready.py" "$SOCK" "$DAEMON" $((30 * SLOW)) || fail "quarryd does not answer"
}

# A TCP port that nobody has just now.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start_iscsi [OPTION…]: a daemon with an iSCSI port that is free, left in $ISCSI (a URI without a target).
start_iscsi() {
    ISCSI=iscsi://127.0.0.1:$(free_port)
    start_daemon --listen "$ISCSI" "$@"
}

# launch_daemon OPTION…: does not wait.
launch_daemon() {
    "$BUILD/quarryd" "$@" </dev/null >>"$T/quarryd.log" 2>&1 &
    DAEMON=$!
}

# SIGTERM; it has to end cleanly, and in reasonable time.
stop_daemon() {
    local rc=0
    kill -TERM "$DAEMON"
    wait_daemon || rc=$?
    [ "$rc" = 0 ] || fail "quarryd ended with status $rc on SIGTERM"
}

# Waits for the daemon's end; its status.
wait_daemon() {
    local rc=0 pid=$DAEMON
    if ! $PYTHON "$HERE/ready.py" --ended "$pid" $((60 * SLOW)); then
        echo "# quarryd does not end"
        kill -KILL "$pid"
    fi
    wait "$pid" || rc=$?
    DAEMON=
    return $rc
}

kill9_daemon() {
    kill -KILL "$DAEMON"
    wait "$DAEMON" 2>/dev/null || true
    DAEMON=
}

quarry() {
    "$BUILD/quarry" --socket "$SOCK" "$@"
}

# make_pool [SIZE [FILES]]: tank, of two sparse files of SIZE (1G).
make_pool() {
    local size=${1:-1G} files=${2:-2} i
    POOL_FILES=()
    for ((i = 0; i < files; i++)); do POOL_FILES+=("$T/disk$i.img"); done
    quarry pool create tank "${POOL_FILES[@]}" --size "$size"
}

# make_devices [OPTION…] SIZE…: tank, of files of these sizes.
make_devices() {
    local size options=()
    POOL_FILES=()
    for size in "$@"; do
        case $size in
        -* | [0-9]) options+=("$size") ;;
        *)
            POOL_FILES+=("$T/disk${#POOL_FILES[@]}.img")
            truncate -s "$size" "${POOL_FILES[-1]}"
            ;;
        esac
    done
    quarry pool create tank "${options[@]}" "${POOL_FILES[@]}"
}

# start_with_pool [SIZE [FILES]]: a daemon and tank.
start_with_pool() {
    start_daemon
    make_pool "$@"
}

# The same pool again, after stop_daemon or kill9_daemon.
restart_with_pool() {
    local imports=() file
    for file in "${POOL_FILES[@]}"; do imports+=(--import "$file"); done
    start_daemon "${imports[@]}" "$@"
}

# uri VOLUME or VOLUME@SNAPSHOT of tank.
uri() {
    echo "nbd+unix:///tank/$1?socket=$NBD_SOCK"
}

# --- assertions ---

fail() {
    echo "# $*"
    exit 1
}

# expect WANTED GOT WHAT
expect() {
    [ "$1" = "$2" ] || fail "$3: expected \"$1\", got \"$2\""
}

# fails_with STATUS REGEX COMMAND…: it fails with this very status, and says so on stderr.
fails_with() {
    local status=$1 regex=$2 rc=0 said
    shift 2
    said=$("$@" 2>&1 >/dev/null </dev/null) || rc=$?
    [ "$rc" = "$status" ] || fail "\"$*\": status $rc, not $status; it said: $said"
    grep -q -i -E -- "$regex" <<<"$said" || fail "\"$*\" does not say \"$regex\" but: $said"
}

# refuses COMMAND…: it fails, whatever it says.
refuses() {
    if "$@" >"$T/refused.out" 2>&1 </dev/null; then
        fail "\"$*\" should have failed"
    fi
}

# not COMMAND…: it fails, and what it says goes where it would.  (With a mere ! before it, its success would not end the
# test.)
not() {
    if "$@"; then
        fail "\"$*\" should have failed"
    fi
}

# json EXPRESSION <JSON: a Python expression over the document, d.
json() {
    $PYTHON -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"
}

# device_is FILE STATE: as quarry device list has it; "gone": it is no device of the pool.
device_is() {
    local state
    state=$(quarry device list tank --json |
        json "next((x['state'] for x in d['devices'] if x['path'] == '$1'), 'gone')")
    [ "$state" = "$2" ]
}

# pool_field NAME: of the pool tank.
pool_field() {
    quarry pool list tank --json | json "d['pools'][0]['$1']"
}

pool_is() {
    [ "$(pool_field state)" = "$1" ]
}

# The checksum of all of an export.
sum_of() {
    nbdcopy --synchronous "$(uri "$1")" - | sha256sum | cut -d ' ' -f 1
}

# One field of an image in `quarry list --json`: image_field tank/v used_bytes
image_field() {
    quarry list --json >"$T/list.json"
    $PYTHON - "$T/list.json" "$1" "$2" <<'PYTHON'
import json, sys
def walk(node):
    if isinstance(node, dict):
        if node.get("name") == sys.argv[2] and sys.argv[3] in node:
            print(node[sys.argv[3]])
            sys.exit(0)
        for value in node.values():
            walk(value)
    elif isinstance(node, list):
        for value in node:
            walk(value)
walk(json.load(open(sys.argv[1])))
sys.exit(f"no {sys.argv[3]} of {sys.argv[2]} in quarry list --json")
PYTHON
}

# wait_for SECONDS COMMAND…: for what has no event to wait for (background work of the daemon).
wait_for() {
    local deadline=$((SECONDS + $1 * SLOW))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || fail "in vain: $*"
        sleep 0.1
    done
}

# start_writer SIZE [FIO-OPTION…]: writes to a new volume tank/w all the while, in the background, as one who takes no error.
start_writer() {
    quarry volume create tank/w "$1"
    fio --name=w --ioengine=nbd --uri="$(uri w)" --rw=randwrite --bs=4k --iodepth=8 --size="$1" --time_based \
        --runtime=600 "${@:2}" --verify=crc32c --do_verify=0 --verify_backlog=256 --output=fio.out &
    WRITER=$!
    # By then it takes a SIGINT, which the shell had it ignore.
    wait_for 30 is_written w
}

is_written() {
    quarry volume list --json | json "[v['used_bytes'] > 0 for v in d['volumes'] if v['name'] == 'tank/$1']" | grep -q True
}

end_writer() {
    kill -0 "$WRITER" 2>/dev/null || fail "the client met an error: $(cat fio.out)"
    kill -INT "$WRITER"
    wait "$WRITER" || true
    refuses grep -i -E 'err= *[1-9]|verify: bad|I/O error' fio.out
}

skip() {
    echo "# $*" >"$T/skipped"
    exit 0
}

# --- the run ---

# The last of what the daemon said; of a sanitizer's report, its beginning.
tail_of_log() {
    if grep -q -E 'ERROR: .*Sanitizer|runtime error:' "$T/quarryd.log" 2>/dev/null; then
        grep -E -A 30 -m 1 'ERROR: .*Sanitizer|runtime error:' "$T/quarryd.log"
    else
        tail -n 25 "$T/quarryd.log" 2>/dev/null
    fi
}

cleanup_test() {
    local rc=$? pid
    set +eE
    trap - EXIT ERR
    set +x
    if [ -n "$DAEMON" ] && [ $rc = 0 ]; then
        kill -TERM "$DAEMON"
        wait_daemon || { rc=$? && echo "# quarryd ended with status $rc on SIGTERM"; }
    fi
    for pid in $(jobs -p); do kill -KILL "$pid" 2>/dev/null; done
    wait 2>/dev/null
    if [ $rc != 0 ]; then
        echo "# status $rc; the last commands:"
        grep -v -E '^\++ (set|trap|local|exit|cleanup_test)' "$T/trace" | tail -n 12 | cut -c 1-300 | sed 's/^/#   /'
        echo "# the end of quarryd's log:"
        tail_of_log | cut -c 1-400 | sed 's/^/#   /'
        mkdir -p "$BUILD/test-logs"
        cp "$T/quarryd.log" "$BUILD/test-logs/$TEST_FILE-$CURRENT.log" 2>/dev/null
        cp "$T/trace" "$BUILD/test-logs/$TEST_FILE-$CURRENT.trace" 2>/dev/null
    fi
    exit $rc
}

run_one() {
    CURRENT=$1
    T=$(mktemp -d "${QUARRY_TEST_DIR:-/var/tmp}/quarry.XXXXXX")
    SOCK=$T/admin.sock
    NBD_SOCK=$T/nbd.sock
    local started=$SECONDS rc=0
    trap 'rm -rf "$T"; exit 143' TERM # the time is up
    (
        trap cleanup_test EXIT
        exec {trace}>"$T/trace"
        BASH_XTRACEFD=$trace
        cd "$T" || exit 1
        set -eE
        trap 'echo "# line $LINENO: $BASH_COMMAND"' ERR
        set -x
        "test_$CURRENT"
    )
    rc=$? # no "|| rc=$?" there: it would make set -e void inside
    if [ $rc != 0 ]; then
        echo "not ok $TEST_FILE: ${CURRENT//_/ }"
        failed=1
    elif [ -e "$T/skipped" ]; then
        echo "skip $TEST_FILE: ${CURRENT//_/ } $(cat "$T/skipped")"
    else
        echo "ok $TEST_FILE: ${CURRENT//_/ } ($((SECONDS - started)) s)"
    fi
    if [ -n "${KEEP:-}" ]; then echo "# kept: $T"; else rm -rf "$T"; fi
}

# Runs all functions test_*, in the order of the file; ONLY=regex picks some.
run_tests() {
    local name
    failed=0
    while read -r name; do
        [[ -z ${ONLY:-} || $name =~ $ONLY ]] && run_one "${name#test_}"
    done < <(grep -o -E '^test_[a-z0-9_]+' "$0")
    exit $failed
}
