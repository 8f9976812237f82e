#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 240
#
# The benchmark measures what it says, and leaves nothing behind.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

bench() {
    BUILD=$BUILD $PYTHON "$ROOT/tests/bench/bench.py" --dir "$T" --no-docs --rounds 2 --seconds 1 --size 64 "$@"
}

# Every server has the directory in its arguments.
nothing_left() {
    [ -z "$(ls -d "$T"/quarry-bench-* 2>/dev/null)" ] || fail "files are left"
    ! grep -lzF "$T/quarry-bench-" /proc/[0-9]*/cmdline 2>/dev/null || fail "a process is left"
}

test_every_cell_has_its_figures() {
    bench --full --servers quarryd --only rand-read-4k-4volumes --only fresh --only 'into an aged' --only snapshots \
        --json "$T/out.json" >"$T/tables"
    [ "$(grep -c '^| rand-write-4k-qd32 after 100 snapshots |.*[0-9]' "$T/tables")" = 4 ] || fail "not in all tables"
    nothing_left
    $PYTHON - "$T/out.json" <<'PYTHON'
import json, sys
result = json.load(open(sys.argv[1]))
jobs = result["jobs"]
assert len(jobs) == 4, list(jobs)
for name, by in jobs.items():
    assert set(by) == {"bare file", "quarryd"}, name
    for cell in by.values():
        assert cell["iops"] > 0 and cell["bytes_per_second"] > 4000 * cell["iops"], (name, cell)
        latency = cell["latency_us"]
        assert 0 < latency["p50"] <= latency["p99"] <= latency["p999"], (name, cell)
    ours = by["quarryd"]
    assert ours["resident_bytes"] > 1 << 20, (name, ours)
    assert ours["cpu_seconds_per_100k"] > 0, (name, ours)
    assert ours["device_bytes_per_byte"] is None if "read" in name else ours["device_bytes_per_byte"] > 0.9, (name, ours)
PYTHON
}

test_every_job_says_what_it_answers() {
    local file
    for file in "$ROOT"/fio-jobs/*.fio; do
        sed -n 2p "$file" | grep -q '^# .*?$' || fail "$file: the second line asks no question"
    done
    $PYTHON - "$ROOT" <<'PYTHON'
import os, sys
sys.path.insert(0, os.path.join(sys.argv[1], "tests/bench"))
from jobs import JOBS
there = {name[:-4] for name in os.listdir(os.path.join(sys.argv[1], "fio-jobs")) if name.endswith(".fio")}
used = {job.file for job in JOBS}
assert used == there - {"verify"}, used ^ (there - {"verify"})
PYTHON
}

# A small volume, killed and recovered with a cache that holds its map, and with one that does not.
test_a_mapped_volume_has_its_figures() {
    # What a kill abandons is no leak.
    ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 "$BUILD/quarry-mapped" --size 2G --requests 20000 64M 6M >"$T/table"
    $PYTHON - "$T/table" <<'PYTHON'
import sys
rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in open(sys.argv[1]) if line.startswith("| ")]
figures = {(row[0], row[1]): row[2:] for row in rows if len(row) == 8}
for cache, least, most in (("64MiB", 0, 0), ("6MiB", 0.1, 1)):
    assert least <= float(figures[cache, "reads"][0]) <= most, figures
    writes = [float(cell) for cell in figures[cache, "writes"]]
    assert 1 < writes[2] < 3 and abs(writes[2] - 1 - sum(writes[3:])) < 0.01, writes
recoveries = {row[0]: row[1:] for row in rows if len(row) == 9}
for cache in "64MiB", "6MiB":
    assert int(recoveries[cache][5]) > 100 and float(recoveries[cache][3].split()[0]) < 20, recoveries
PYTHON
}

# While it measures it is told to end: servers and files go, too.
test_nothing_is_left_when_it_is_stopped() {
    mkfifo "$T/says"
    BUILD=$BUILD $PYTHON -u "$ROOT/tests/bench/bench.py" --dir "$T" --no-docs --rounds 100 --seconds 1 --size 64 \
        --only rand-read-4k-qd1 --servers quarryd >"$T/says" &
    local pid=$! rc=0 line
    while read -r line; do
        case $line in "round 2"*) kill -TERM "$pid" ;; esac
    done <"$T/says"
    wait "$pid" || rc=$?
    [ "$rc" = 143 ] || fail "status $rc"
    nothing_left
}

run_tests
