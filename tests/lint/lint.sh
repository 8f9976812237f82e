#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# All quick lints, one "ok NAME", "not ok NAME" or "skip NAME" line each, behind what they have to say.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

failed=0
lint() {
    local name=$1
    shift
    if "$@"; then
        echo "ok lint $name"
    else
        echo "not ok lint $name"
        failed=1
    fi
}

lint_with() { # lint_with PROGRAM NAME COMMAND…: skipped where there is no such program
    local program=$1
    shift
    if command -v "$program" >/dev/null; then
        lint "$@"
    else
        echo "skip lint $1: no $program here"
    fi
}

# sources GLOB…: the files of those names (or that very path), build products left out.
sources() {
    local glob
    for glob in "$@"; do
        find . -type d \( -name .git -o -name build -o -name 'build-*' \) -prune -o \
            -type f \( -name "$glob" -o -path "./$glob" \) -print
    done | sort
}

formatting() {
    local files
    mapfile -t files < <(sources '*.c' '*.h')
    clang-format --dry-run --Werror "${files[@]}"
}

shell_scripts() {
    local files
    mapfile -t files < <(sources '*.sh' .ci/run)
    shellcheck --severity=warning --external-sources --source-path=SCRIPTDIR "${files[@]}"
}

# `! command` by itself: set -e does not see its success.  Tests write not, refuses or fails_with.
negations() {
    local files
    mapfile -t files < <(sources '*.sh' .ci/run)
    ! grep -n -E '^ *! ' "${files[@]}" | grep -v ' || '
}

python_scripts() {
    local files
    mapfile -t files < <(sources '*.py')
    /usr/bin/python3 - "${files[@]}" <<'PYTHON'
import ast, sys
for path in sys.argv[1:]:
    ast.parse(open(path).read(), path)
PYTHON
}

licence_lines() {
    local bad=0 file
    while read -r file; do
        head -n 3 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' && continue
        echo "$file: no SPDX-License-Identifier: Apache-2.0 in its first three lines"
        bad=1
    done < <(sources '*.c' '*.h' '*.sh' '*.py' '*.fio' Makefile .ci/run)
    return "$bad"
}

lint "layers point one way" /usr/bin/python3 tests/lint/layers.py
lint "the layers lint finds what is wrong" /usr/bin/python3 tests/lint/layers.py --self-test
lint "every source names its licence" licence_lines
lint_with clang-format "formatting" formatting
lint_with shellcheck "shell scripts" shell_scripts
lint "no check that cannot fail" negations
lint "python scripts parse" python_scripts
exit $failed
