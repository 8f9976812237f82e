#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Line coverage of core/ and metadata/ by the unit tests and the simulator together, by file, and
# the lines that were not reached: in $BUILD/coverage.txt and $BUILD/not-covered.txt.
# BUILD is a folder of objects built with --coverage; SEEDS says how many seeds are run.
set -euo pipefail
cd "$(dirname "$0")/.."

find "$BUILD" -name '*.gcda' -delete
for test in "$BUILD"/tests/test_*; do
    [ "${test%.d}" = "$test" ] || continue
    "$test" >"$BUILD/unit.log" 2>&1 || { tail "$BUILD/unit.log"; exit 1; }
done
"$BUILD/quarry-sim" --seeds "${SEEDS:-1000}"
"$BUILD/quarry-sim" --seeds "${SEEDS:-1000}" --copies 2
lcov --quiet --capture --directory "$BUILD" --output-file "$BUILD/all.info" >/dev/null
lcov --quiet --extract "$BUILD/all.info" '*/core/*' '*/metadata/*' --output-file "$BUILD/coverage.info"
lcov --list "$BUILD/coverage.info" >"$BUILD/coverage.txt" 2>/dev/null
awk -F '[:,]' '/^SF:/ { sub(".*/(core|metadata)/", "", $2); file = $2 }
    /^DA:/ && $3 == 0 { print file ":" $2 }' "$BUILD/coverage.info" >"$BUILD/not-covered.txt"
cat "$BUILD/coverage.txt"
