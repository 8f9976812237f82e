#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# timeout: 300
#
# libiscsi's conformance suite, all of it.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# conformance BLOCK_SIZE: all tests, each on its own and over two paths, four at a time, each of the
# four on a volume of its own; the last line is left in $COUNTS, and the tests that failed in the
# file failures.  What may fail or be skipped is said, and why, in docs/ISCSI.md.
conformance() {
    local n uri units=()
    for n in 1 2 3 4; do
        quarry volume create "tank/w$n" 1G --block-size "$1"
        uri=$ISCSI/iqn.2026-11.io.quarry:tank.w$n/0
        units+=("$uri,$uri")
    done
    $PYTHON "$HERE/iscsi_conformance.py" "${units[@]}" >out || true
    COUNTS=$(tail -n 1 out)
    sed -n 's/^failed \([^:]*\):.*/\1/p' out >failures
    [ "$(tr '\n' ' ' <failures | sed 's/ $//')" = "$2" ] || cat out
    expect "$2" "$(tr '\n' ' ' <failures | sed 's/ $//')" "failures"
    # A unit that is write-protected.
    quarry snapshot create tank/w1@s
    $PYTHON "$HERE/iscsi_conformance.py" -t ReadOnly "$ISCSI/iqn.2026-11.io.quarry:tank.w1:40s/0" >out2
    grep -q "1 passed" out2
}

test_conformance_with_512_byte_blocks() {
    start_iscsi
    truncate -s 20G disk
    quarry pool create tank "$T/disk"
    conformance 512 "GetLBAStatus.UnmapSingle Sanitize.Reset"
    expect "230 tests: 213 passed, 2 failed, 15 skipped" "$COUNTS" "counts"
}

test_conformance_with_4096_byte_blocks() {
    start_iscsi
    truncate -s 20G disk
    quarry pool create tank "$T/disk"
    conformance 4096 Sanitize.Reset
    expect "230 tests: 209 passed, 1 failed, 20 skipped" "$COUNTS" "counts"
}

run_tests
