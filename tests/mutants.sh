#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The table of planted bugs (core/base/mutant.h): at which seed the simulator finds each, of SEEDS at
# most, or which unit test does.  MUTANT=name runs one.  BUILD is built with MUTANTS=1.
set -euo pipefail
cd "$(dirname "$0")/.."

# What shows only when one certain read, block or moment goes wrong: unit tests go through all of them
# in turn.
BY_UNIT_TEST=" NODE_DEATH_IGNORED END_READ_ONCE BEYOND_NOT_SEEN TABLE_DIGEST_UNCHECKED
JOINING_RELIED_ON NEWEST_SET_BELIEVED "
BY_UNIT_TEST=${BY_UNIT_TEST//$'\n'/ }

# The first unit test that fails; prints nothing if none does.
unit_test() {
    local program output

    for program in "$BUILD"/tests/test_{space,space_return,import_faults,label}; do
        output=$(QUARRY_MUTANT=$1 timeout 120 "$program" 2>&1) && continue
        echo "caught by $(basename "$program"):" \
            "$(sed -n 's/^\[  FAILED  \] \(test_[a-z_0-9]*\)$/\1/p' <<<"$output" | head -1)"
        return
    done
}

missed=0
for name in ${MUTANT:-$(sed -n 's/^\tX(\([A-Z_0-9]*\),.*/\1/p' core/base/mutant.h)}; do
    case $BY_UNIT_TEST in
    *" $name "*)
        found=$(unit_test "$name")
        printf '%-24s %s\n' "$name" "${found:-MISSED by the unit tests}"
        [ -n "$found" ] || missed=$((missed + 1))
        ;;
    *)
        "$BUILD/quarry-sim" --mutants --mutant "$name" --seeds "${SEEDS:-10000}" \
            --jobs "${JOBS:-2}" 2>/dev/null | head -1
        [ "${PIPESTATUS[0]}" = 0 ] || missed=$((missed + 1))
        ;;
    esac
done
echo "$missed missed"
[ "$missed" = 0 ]
