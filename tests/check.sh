#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the tests and counts them: tests/check.sh [lint | unit | sim | integration [NAME…] |
# e2e [NAME…]], all but e2e by default.  The last line is always "N passed, N failed".  A test program that dies counts as a
# failure even if it had not said so, and so does one that ran no test.
set -euo pipefail
cd "$(dirname "$0")/.."
export BUILD=${BUILD:-build}

passed=0
failed=0
skipped=0
failures=()

# count FILE NAME RC PASS-PATTERN FAIL-PATTERN SKIP-PATTERN
count() {
    local file=$1 name=$2 rc=$3 ok bad skip
    ok=$(grep -c -E "$4" "$file" || true)
    bad=$(grep -E "$5" "$file" | sort -u | wc -l || true) # cmocka says each twice
    skip=$(grep -c -E "$6" "$file" || true)
    if [ "$rc" != 0 ] && [ "$bad" = 0 ]; then
        echo "not ok - $name: exit status $rc"
        failures+=("$name: exit status $rc")
        bad=1
    fi
    if [ $((ok + bad + skip)) = 0 ]; then
        echo "not ok - $name: ran no test"
        failures+=("$name: ran no test")
        bad=1
    fi
    passed=$((passed + ok))
    failed=$((failed + bad))
    skipped=$((skipped + skip))
    while read -r line; do failures+=("$name: $line"); done < <(grep -E "$5" "$file" | sort -u || true)
}

# Runs a command with its output shown and kept in $log; its status is left in $rc.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
rc=0
watch() {
    rc=0
    "$@" </dev/null 2>&1 | tee "$log" || rc=$?
}

run_lint() {
    echo "== lint"
    watch tests/lint/lint.sh
    count "$log" lint "$rc" '^ok ' '^not ok ' '^skip '
}

run_unit() {
    local source name
    for source in tests/unit/test_*.c; do
        [ -e "$source" ] || continue
        name=$(basename "$source" .c)
        echo "== $BUILD/tests/$name"
        watch timeout --kill-after=5 "${UNIT_TIMEOUT:-300}" "$BUILD/tests/$name"
        count "$log" "$name" "$rc" '^\[       OK \] ' '^\[  FAILED  \] [^0-9]' '^\[  SKIPPED \] [^0-9]'
    done
}

# sim_test NAME COMMAND…: one line for it in $sim_log.
sim_test() {
    local name=$1
    shift
    watch "$@"
    if [ "$rc" = 0 ]; then echo "ok sim: $name"; else echo "not ok sim: $name, status $rc"; fi | tee -a "$sim_log"
}

regression_seeds() {
    local seed
    grep -oE '^[0-9]+( --copies [23])?' tests/sim/regressions.txt | while read -r -a seed; do
        "$BUILD/quarry-sim" --seed "${seed[@]}" || return
    done
}

# What a seed does depends on nothing else, the compiler included.
same_traces() {
    local ours theirs
    ours=$("$BUILD/quarry-sim" --seeds 60 --jobs 1 | grep digest)
    theirs=$("$1" --seeds 60 --start 1 | grep digest)
    echo "$ours with $BUILD, $theirs with $1"
    [ -n "$ours" ] && [ "$ours" = "$theirs" ]
}

# All seeds are one test: the first that fails is said, and how to replay it.
run_sim() {
    local seeds=${SEEDS:-2000}
    [ "$BUILD" = build ] || [ -n "${SEEDS:-}" ] || seeds=150
    echo "== simulator, $seeds seeds"
    sim_log=$(mktemp)
    sim_test "$seeds seeds" "$BUILD/quarry-sim" --seeds "$seeds"
    sim_test "$((seeds / 4)) seeds with two copies" "$BUILD/quarry-sim" --copies 2 --seeds $((seeds / 4))
    sim_test "$((seeds / 8)) seeds with three copies" "$BUILD/quarry-sim" --copies 3 --seeds $((seeds / 8))
    sim_test "regressions" regression_seeds
    if [ "$BUILD" = build ] && [ -x build-clang/quarry-sim ]; then
        sim_test "the same traces with gcc and clang" same_traces build-clang/quarry-sim
    fi
    count "$sim_log" sim 0 '^ok sim' '^not ok sim' '^skip '
    rm -f "$sim_log"
}

run_integration() {
    echo "== integration"
    watch tests/integration/run.sh "$@"
    count "$log" integration "$rc" '^ok ' '^not ok ' '^skip '
}

# Files one after another: each machine takes both processors.
run_e2e() {
    local name file
    for file in tests/e2e/t_*.sh; do
        name=${file#tests/e2e/t_}
        name=${name%.sh}
        [ $# = 0 ] || [[ " $* " == *" $name "* ]] || continue
        echo "== e2e $name"
        watch bash "$file"
        count "$log" "e2e $name" "$rc" '^ok ' '^not ok ' '^skip '
    done
}

started=$SECONDS
case ${1:-all} in
all)
    run_lint
    run_unit
    run_sim
    run_integration
    ;;
lint) run_lint ;;
unit) run_unit ;;
sim) run_sim ;;
integration) run_integration "${@:2}" ;;
e2e) run_e2e "${@:2}" ;;
*)
    echo "usage: $0 [lint | unit | sim | integration [NAME…] | e2e [NAME…]]" >&2
    exit 2
    ;;
esac

if [ ${#failures[@]} -gt 0 ]; then
    echo
    echo "Failed:"
    printf '  %s\n' "${failures[@]}"
fi
echo
echo "Took $((SECONDS - started)) seconds."
if [ "$skipped" -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
