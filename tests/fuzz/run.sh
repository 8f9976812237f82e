#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the fuzz targets, all of them or those named, for so many seconds each, as many at a time as
# there are processors: tests/fuzz/run.sh SECONDS [TARGET…].  New inputs that reach new code are kept
# in $BUILD/corpus/TARGET; one that breaks something is kept in $BUILD/crashes/TARGET, and printed.
set -euo pipefail
cd "$(dirname "$0")/../.."
BUILD=${BUILD:?the folder of the fuzz build}
seconds=${1:?seconds}
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    for file in tests/fuzz/fuzz_*.c; do
        name=${file##*/fuzz_}
        targets+=("${name%.c}")
    done
fi

run_one() {
    local name=$1 log=$BUILD/fuzz-$1.log dictionary=tests/fuzz/dictionaries/$1.dict rc=0
    local options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -max_len=8192
        -artifact_prefix="$BUILD/crashes/$name/")
    # Inputs of these are lists, which mean more when they are longer from the start.
    case $name in mount) options+=(-len_control=0 -max_len=256) ;; esac
    mkdir -p "$BUILD/corpus/$name" "$BUILD/crashes/$name"
    if [ -e "$dictionary" ]; then options+=(-dict="$dictionary"); fi
    "$BUILD/fuzz/fuzz_$name" "${options[@]}" "$BUILD/corpus/$name" tests/fuzz/corpus/"$name" >"$log" 2>&1 || rc=$?
    local inputs coverage
    inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1 || true)
    if [ "$rc" = 0 ] && [ "${inputs:-0}" -gt 0 ]; then
        echo "ok fuzz $name: $inputs inputs in $seconds s, ${coverage#cov: } edges"
    else
        grep -E 'ERROR|SUMMARY|bug:|runtime error' "$log" || tail -n 5 "$log"
        # Whoever reads this may not have the file: the input itself, to be put back by `base64 -d`.
        grep -oE "$BUILD/crashes/[^ /]+/[^ ';]+" "$log" | while read -r file; do base64 -w 0 "$file" && echo; done
        echo "not ok fuzz $name: status $rc; $log, $BUILD/crashes/$name"
    fi
}
export -f run_one
export BUILD seconds

result=$(printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c 'run_one {}' | tee /dev/stderr)
passed=$(grep -c '^ok ' <<<"$result" || true)
failed=$(grep -c '^not ok ' <<<"$result" || true)
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" = ${#targets[@]} ]
