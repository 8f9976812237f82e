#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy over the named files, or over all of them (minutes).  Rules: .clang-tidy.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ $# = 0 ]; then
    mapfile -t files < <(git ls-files --cached --others --exclude-standard -- \
        'core/*.c' 'metadata/*.c' 'backends/*.c' 'frontends/*.c' 'tools/*.c')
    set -- "${files[@]}"
fi
tidy_one() {
    local flags
    read -r -a flags < <(pkg-config --cflags liburing libisal jansson yaml-0.1 blkid)
    clang-tidy --quiet --warnings-as-errors='*' "$1" -- \
        -std=gnu17 -D_GNU_SOURCE -I. "${flags[@]}" 2>/dev/null
}
export -f tidy_one
printf '%s\0' "$@" | xargs -0 -P "$(nproc)" -n 1 bash -c 'tidy_one "$1"' tidy
