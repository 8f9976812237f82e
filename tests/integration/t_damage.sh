#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 180
#
# Damage on the devices: what is kept twice serves from its other copy, and the damage is named; what
# is wrong beyond that is refused or answered with EIO.  Wrong data is never handed out.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# The places, see metadata/format.h: at the front of a device, and again in its last MiB.
LABEL=4096
SUPERBLOCKS="8192 12288"
TAIL_LABEL=0
TAIL_SUPERBLOCKS="4096 8192"

# flip FILE OFFSET [BYTES]: flips bits in so many bytes (1) from there on.
flip() {
    $PYTHON - "$@" <<'PYTHON'
import sys
path, offset, count = sys.argv[1], int(sys.argv[2]), int((sys.argv + ["1"])[3])
with open(path, "r+b") as file:
    file.seek(offset)
    data = file.read(count)
    file.seek(offset)
    file.write(bytes(byte ^ 0x41 for byte in data))
PYTHON
}

# Offset of the tail of a file.
tail_of() {
    echo $(($(stat -c %s "$1") / MIB * MIB - MIB))
}

# A pool with known content, not running.
prepare() {
    start_with_pool 256M "${1:-1}"
    quarry volume create tank/v 48M
    qemu-io -f raw -c 'write -P 17 0 16M' "$(uri v)" >/dev/null
    quarry snapshot create tank/v@s
    qemu-io -f raw -c 'write -P 18 8M 16M' "$(uri v)" >/dev/null
    stop_daemon
    local i
    for i in "${!POOL_FILES[@]}"; do cp --sparse=always "${POOL_FILES[$i]}" "pristine$i.img"; done
}

# Undoes damage, and what an import has written since.
restore() {
    local i
    for i in "${!POOL_FILES[@]}"; do cp --sparse=always "pristine$i.img" "${POOL_FILES[$i]}"; done
}

content_is_right() {
    content_as_read
    refuses grep -i -E 'failed|error' io.out
}

content_is_right_or_an_error() {
    content_as_read
    refuses grep -i 'verification failed' io.out
}

# Says, for each MiB that is not as it was, whether it is an error or wrong data.
content_as_read() {
    $PYTHON - "$(uri v)" "$(uri v@s)" >io.out <<'PYTHON'
import sys, nbd
MIB = 1 << 20
wanted = ({range(0, 8): 17, range(8, 24): 18, range(24, 48): 0}, {range(0, 16): 17, range(16, 48): 0})
for uri, pattern in zip(sys.argv[1:], wanted):
    try:
        h = nbd.NBD()
        h.connect_uri(uri)
    except nbd.Error as error:
        print(f"failed: {uri}: {error}")
        continue
    for places, byte in pattern.items():
        for at in places:
            try:
                if h.pread(MIB, at * MIB) != bytes([byte]) * MIB:
                    print(f"verification failed: {uri} at {at} MiB")
            except nbd.Error as error:
                print(f"failed: {uri} at {at} MiB: {error}")
print("read all")
PYTHON
    grep -q 'read all' io.out || fail "the reader died: $(cat io.out)"
}

# With this damage, import has to work, tell of it in the log, and serve what was there.
survives() {
    local what=$1
    : >quarryd.log
    restart_with_pool
    content_is_right
    grep -q -i -E "$what" quarryd.log || fail "the log does not name the damaged $what"
    grep -q -F disk0.img quarryd.log || fail "the log does not name the damaged device"
    stop_daemon
    restore
}

# With this damage, import has to fail and say why.
is_refused() {
    local what=$1
    start_daemon
    fails_with 1 "$what" quarry pool import "${POOL_FILES[@]}"
    quarry list >/dev/null
    stop_daemon
    restore
}

test_the_places_are_where_this_test_thinks() {
    prepare
    local file=${POOL_FILES[0]} tail at
    tail=$(tail_of "$file")
    for at in $LABEL $((tail + TAIL_LABEL)); do
        expect QUARRYLB "$(dd if="$file" bs=1 skip="$at" count=8 status=none)" "magic of the label at $at"
    done
    for at in $SUPERBLOCKS; do
        expect QUARRYSB "$(dd if="$file" bs=1 skip="$at" count=8 status=none)" "magic of the superblock at $at"
    done
    for at in $TAIL_SUPERBLOCKS; do
        expect QUARRYSB "$(dd if="$file" bs=1 skip=$((tail + at)) count=8 status=none)" "magic of the superblock's copy at $at"
    done
}

test_this_test_tells_right_from_wrong() {
    prepare
    restart_with_pool
    content_is_right
    qemu-io -f raw -c 'write -P 99 20M 4k' "$(uri v)" >/dev/null
    content_as_read
    expect 1 "$(grep -c 'verification failed' io.out)" "places that are found to be wrong"
}

test_one_damaged_label_is_named_and_the_other_serves() {
    prepare
    local file=${POOL_FILES[0]} tail at
    tail=$(tail_of "$file")
    for at in $LABEL $((LABEL + 20)) $((LABEL + 70)) $((LABEL + 120)) $((LABEL + 4000)) $((tail + TAIL_LABEL + 30)); do
        flip "$file" "$at"
        survives label
    done
    flip "$file" $LABEL 4096
    survives label
}

test_both_labels_damaged_are_refused() {
    prepare
    flip "${POOL_FILES[0]}" $((LABEL + 40))
    flip "${POOL_FILES[0]}" $(($(tail_of "${POOL_FILES[0]}") + TAIL_LABEL + 40))
    is_refused label
}

test_damaged_superblocks_are_named_and_the_twin_serves() {
    prepare
    local file=${POOL_FILES[0]} tail at
    tail=$(tail_of "$file")
    # Both at the front, a byte each, then all of them; and both at the end.
    for at in $SUPERBLOCKS; do flip "$file" $((at + 40)); done
    survives superblock
    for at in $SUPERBLOCKS; do flip "$file" "$at" 512; done
    survives superblock
    for at in $TAIL_SUPERBLOCKS; do flip "$file" $((tail + at + 100)); done
    survives superblock
}

test_all_superblocks_damaged_are_refused() {
    prepare
    local tail at
    tail=$(tail_of "${POOL_FILES[0]}")
    for at in $SUPERBLOCKS; do flip "${POOL_FILES[0]}" $((at + 24)); done
    for at in $TAIL_SUPERBLOCKS; do flip "${POOL_FILES[0]}" $((tail + at + 24)); done
    is_refused superblock
}

# Whatever bit of the first MiB flips: served rightly, or refused; with two devices.
test_random_flips_in_the_metadata_never_give_wrong_data() {
    prepare 2
    local seed=${SEED:-$RANDOM} i at refused=0
    echo "# SEED=$seed"
    RANDOM=$seed
    for i in $(seq $((SLOW == 1 ? 12 : 6))); do
        at=$(((RANDOM * 32768 + RANDOM) % 98304 + 4096))
        flip "${POOL_FILES[0]}" $at
        start_daemon
        if quarry pool import "${POOL_FILES[@]}" 2>refusal; then
            content_is_right_or_an_error
        else
            [ -s refusal ] || fail "refused without a reason: byte $at"
            refused=$((refused + 1))
        fi
        stop_daemon
        restore
    done
    echo "# $refused of $i refused"
}

# Flipped bits in the data: EIO, or the right data, but never other bytes.
test_damaged_data_is_an_error_and_never_wrong() {
    prepare
    # Every 64 KiB of the file's data blocks, i.e. where our patterns lie, one byte.
    $PYTHON - "${POOL_FILES[0]}" <<'PYTHON'
import sys
flipped = 0
with open(sys.argv[1], "r+b") as file:
    offset = 1 << 20
    end = file.seek(0, 2) - (1 << 20)
    while offset < end:
        file.seek(offset)
        block = file.read(4096)
        if block in (b"\x11" * 4096, b"\x12" * 4096):
            file.seek(offset + 1234)
            file.write(b"\x13")
            flipped += 1
            offset += 61440
        offset += 4096
print(f"# {flipped} blocks damaged")
assert flipped > 100
PYTHON
    restart_with_pool
    $PYTHON - "$(uri v)" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
right = errors = 0
for at in range(0, 32 << 20, 4096):
    wanted = 0x11 if at < 8 << 20 else 0x12 if at < 24 << 20 else 0
    try:
        data = h.pread(4096, at)
    except nbd.Error as error:
        assert error.errno == "EIO", error.errno
        errors += 1
    else:
        assert data == bytes([wanted]) * 4096, f"wrong data at {at}"
        right += 1
print(f"# {right} blocks right, {errors} errors")
assert errors > 100 and right > 1000
# What is written over is whole again.
h.pwrite(b"\x21" * (24 << 20), 0)
assert h.pread(24 << 20, 0) == b"\x21" * (24 << 20)
PYTHON
    [ "$(quarry pool status --json | json "d['pools'][0]['devices'][0]['errors']")" -gt 100 ] ||
        fail "the errors are not counted"
    quarry pool status | grep -q -i error || fail "quarry pool status does not tell of the errors"
}

# A block in the wrong place fails too: its checksum knows where it belongs.
test_a_misplaced_block_is_an_error() {
    start_with_pool 256M 1
    quarry volume create tank/v 64M
    $PYTHON - "$(uri v)" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for i in range(64):
    h.pwrite(bytes([i + 1]) * 4096, i * 4096)
h.flush()
PYTHON
    stop_daemon
    $PYTHON - "${POOL_FILES[0]}" <<'PYTHON'
import sys
places = {}
with open(sys.argv[1], "r+b") as file:
    end = file.seek(0, 2)
    for offset in range(1 << 16, end, 4096):
        file.seek(offset)
        block = file.read(4096)
        if block and block == block[:1] * 4096 and 1 <= block[0] <= 64:
            places[block[0]] = offset
    assert len(places) == 64, len(places)
    file.seek(places[10])
    file.write(bytes([20]) * 4096)
PYTHON
    restart_with_pool
    $PYTHON - "$(uri v)" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
try:
    h.pread(4096, 9 * 4096)
except nbd.Error as error:
    assert error.errno == "EIO", error.errno
else:
    sys.exit("a block from elsewhere was taken for this one")
assert h.pread(4096, 19 * 4096) == bytes([20]) * 4096
PYTHON
}

# The log behind the last checkpoint cut short or damaged: an older state, said so, or a refusal.
test_a_file_that_became_shorter_is_refused() {
    prepare
    truncate -s 200M "${POOL_FILES[0]}"
    is_refused 'size|short|small|smaller'
    local size
    for size in 4k 8k 100k 1M; do
        truncate -s $size "${POOL_FILES[0]}"
        is_refused 'disk0.img: (is no device of a Quarry pool|the device is smaller)'
    done
}

run_tests
