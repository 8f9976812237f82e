#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the integration tests: run.sh [NAME…], all of them by default, two files at a time (JOBS=n).
# Each test says "ok …", "not ok …" or "skip …" on a line; what stands before it in "# …" belongs to
# it.  A file's line "# timeout: SECONDS" bounds it.  Files named first in ORDER take longest.
set -uo pipefail
cd "$(dirname "$0")" || exit
export BUILD=${BUILD:-build}
ORDER="conformance crash nbd snapshots"

if [ $# -gt 0 ]; then
    names=("$@")
else
    names=()
    for name in $ORDER; do [ -e "t_$name.sh" ] && names+=("$name"); done
    for file in t_*.sh; do
        name=${file#t_}
        name=${name%.sh}
        [[ " $ORDER " == *" $name "* ]] || names+=("$name")
    done
fi

slow=1
case $BUILD in *build-*) slow=4 ;; esac
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT
failed=0
declare -A running=()

finish_one() {
    local pid rc=0 name
    wait -n -p pid || rc=$?
    name=${running[$pid]}
    unset "running[$pid]"
    cat "$outputs/$name"
    case $rc in
    0) ;;
    124 | 137) echo "not ok $name: took too long" ;;
    *) grep -q '^not ok ' "$outputs/$name" || echo "not ok $name: exit status $rc" ;;
    esac
    [ $rc = 0 ] || failed=1
    if [ $rc = 0 ] && ! grep -q -E '^(ok|skip) ' "$outputs/$name"; then
        echo "not ok $name: ran no test"
        failed=1
    fi
}

for name in "${names[@]}"; do
    if [ ! -e "t_$name.sh" ]; then
        echo "not ok $name: there is no tests/integration/t_$name.sh"
        failed=1
        continue
    fi
    [ ${#running[@]} -lt "${JOBS:-2}" ] || finish_one
    limit=$(sed -n 's/^# timeout: //p' "t_$name.sh")
    # timeout(1) ends the whole process group that it makes: the daemons of the test, too.
    timeout --kill-after=20 $((${limit:-120} * slow)) bash "t_$name.sh" >"$outputs/$name" 2>&1 </dev/null &
    running[$!]=$name
done
while [ ${#running[@]} -gt 0 ]; do finish_one; done
exit $failed
