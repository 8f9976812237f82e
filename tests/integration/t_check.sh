#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 420
#
# quarry check: nothing to say of a pool that was exported or killed; damage is named with its place
# and with what it affects.  It writes nothing.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# flip FILE OFFSET: flips bits in one byte.
flip() {
    $PYTHON - "$@" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1)[0]
    file.seek(int(sys.argv[2]))
    file.write(bytes([byte ^ 0x41]))
PYTHON
}

# Offset of the first block in FILE that is full of BYTE.
block_of() {
    $PYTHON - "$@" <<'PYTHON'
import sys
with open(sys.argv[1], "rb") as file:
    offset = 1 << 16
    while (block := (file.seek(offset), file.read(4096))[1]) != bytes([int(sys.argv[2])]) * 4096:
        assert block, "there is no such block"
        offset += 4096
print(offset)
PYTHON
}

fill() {
    start_with_pool 96M "${1:-1}"
    quarry volume create tank/v 16M
    qemu-io -f raw -c 'write -P 17 0 8M' "$(uri v)" >/dev/null
    quarry snapshot create tank/v@s
    qemu-io -f raw -c 'write -P 18 4M 6M' -c 'discard 6M 1M' "$(uri v)" >/dev/null
    quarry clone tank/v@s tank/c
    qemu-io -f raw -c 'write -P 19 0 4k' "$(uri c)" >/dev/null
}

is_clean() {
    local before after
    before=$(cat "${POOL_FILES[@]}" | sha256sum)
    quarry check --data "${POOL_FILES[@]}" >out || fail "not clean: $(cat out)"
    after=$(cat "${POOL_FILES[@]}" | sha256sum)
    expect "$before" "$after" "the devices' contents"
    grep -q ' 0 problems' out || fail "no verdict: $(cat out)"
}

# finds REGEX OPTION…: one problem at least, among them one like this.
finds() {
    local regex=$1 rc=0
    shift
    quarry check "$@" "${POOL_FILES[@]}" >out 2>err || rc=$?
    expect "${STATUS:-1}" "$rc" "status of quarry check, which said: $(cat out err)"
    grep -q -E -- "$regex" out || fail "no \"$regex\" in: $(cat out err)"
}

test_an_exported_pool_is_clean() {
    fill 2
    stop_daemon
    is_clean
    expect True "$(quarry check --json "${POOL_FILES[@]}" | json "d['clean']")" "clean, in JSON"
}

test_a_killed_pool_is_clean() {
    fill 2
    kill9_daemon
    is_clean
    restart_with_pool
    quarry volume delete tank/c
    qemu-io -f raw -c 'write -P 20 1M 8M' "$(uri v)" >/dev/null
    kill9_daemon
    is_clean
}

test_a_pool_that_got_a_device_is_clean() {
    fill
    truncate -s 64M "$T/disk1.img"
    POOL_FILES+=("$T/disk1.img")
    quarry device add tank "$T/disk1.img"
    kill9_daemon
    is_clean
    restart_with_pool
    qemu-io -f raw -c 'write -P 21 0 8M' "$(uri c)" >/dev/null
    stop_daemon
    is_clean
}

# fill_packed [MIB]: small random overwrites until relocation has packed slabs; of a volume of 40 MiB.
fill_packed() {
    start_with_pool 32M
    quarry volume create tank/v "${1:-40}M"
    quarry volume create tank/c 1M
    $PYTHON - "$(uri v)" <<'PYTHON'
import random, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
rng = random.Random(3)
size = h.get_size() >> 20
for i in range(size):
    h.pwrite(bytes([i + 1]) * (1 << 20), i << 20)
for i in range(12000):
    h.pwrite(bytes([i % 255 + 1]) * 4096, rng.randrange(size << 8) * 4096)
h.flush()
PYTHON
    quarry snapshot create tank/v@s
}

packed_slabs() {
    quarry dump "${POOL_FILES[@]}" --what table --json | json \
        "'\n'.join('%s %d' % (p['device'], s['byte']) for p in d['table'] for s in p.get('slabs', []) if s['state'] == 'packed' and s['live'])" | sort -u
}

test_a_pool_with_packed_slabs_is_clean() {
    fill_packed
    kill9_daemon
    is_clean
    restart_with_pool
    stop_daemon
    is_clean
    packed_slabs >packed
    echo "# $(wc -l <packed) packed slabs"
    [ "$(wc -l <packed)" -gt 3 ] || fail "relocation did nothing"

    # Their directories, told twice each, name as many blocks as lie behind them.  The kill may have come
    # between the two of slabs that were being plugged: of those one pass has some, and they differ.
    quarry dump "${POOL_FILES[@]}" --what packed --json >out.json
    local told differ=0
    while read -r device byte; do
        told=$(json "' '.join(str(any(p['device'] == '$device' and not p['copy'] and p['byte'] == $byte
            and p['blocks'] == sum(q['count'] for q in p['pieces']) and 'error' not in p
            and any(c['copy'] == copy and c.get('pieces') == p['pieces'] for c in d['packed']) for p in d['packed']))
            for copy in (False, True))" <out.json)
        [ "$told" != "True False" ] || differ=$((differ + 1))
        [[ $told == True* ]] || fail "the directory at $byte of $device is not as it should be"
    done <packed
    [ "$differ" -le 32 ] && [ "$differ" -lt "$(($(wc -l <packed) / 2))" ] || fail "$differ directories differ from their copies"
    quarry dump "${POOL_FILES[@]}" --what packed >out
    grep -q -E 'slots' out || fail "no slots: $(head out)"
}

test_damaged_directories_are_repaired() {
    fill_packed
    SUMS="$(sum_of v) $(sum_of v@s) $(sum_of c)"
    stop_daemon
    local device at damaged=0
    packed_slabs >packed
    while read -r device at; do
        flip "$device" $((at + 24))
        damaged=$((damaged + 1))
        [ $damaged -lt 3 ] || break
    done <packed
    finds 'the directory of a packed slab is damaged; its copy serves'
    repairs 'the directory of a packed slab was written again from its copy'
}

test_a_pool_in_use_is_refused() {
    fill
    STATUS=3 finds 'disk0.img is in use'
}

test_a_missing_device_is_named() {
    fill 2
    stop_daemon
    POOL_FILES=("${POOL_FILES[0]}")
    finds 'device 1 is missing'
}

test_damaged_twins_are_named() {
    fill
    stop_daemon
    local at tail
    tail=$(($(stat -c %s "${POOL_FILES[0]}") / MIB * MIB - MIB))
    for at in 4096 8192 12288 "$tail" $((tail + 4096)) $((tail + 8192)); do
        flip "${POOL_FILES[0]}" $((at + 40))
        finds "disk0.img, byte $at: .* is damaged .*its twin serves"
        flip "${POOL_FILES[0]}" $((at + 40))
    done
    is_clean
}

test_damaged_data_is_found_with_its_volume_and_range() {
    fill
    stop_daemon
    local at
    at=$(block_of "${POOL_FILES[0]}" 19)
    flip "${POOL_FILES[0]}" $((at + 100))
    quarry check "${POOL_FILES[@]}" >out || fail "data was read without --data: $(cat out)"
    finds "disk0.img, byte $at: volume tank/c, bytes 0 to 4095 .*wrong checksum" --data
    quarry check --data --json "${POOL_FILES[@]}" >out.json || true
    expect 1 "$(json "d['problem_count']" <out.json)" "problems"
    expect False "$(json "d['clean']" <out.json)" "clean"
}

test_damaged_maps_are_found_with_their_range() {
    fill
    stop_daemon
    local at rc found=0
    # Map nodes of the last checkpoints: 16-byte entries, whose epochs are small.
    $PYTHON - "${POOL_FILES[0]}" >places <<'PYTHON'
import struct, sys
with open(sys.argv[1], "rb") as file:
    data = file.read()
for offset in range(1 << 16, len(data) - (1 << 20), 4096):
    entries = [e for e in struct.iter_unpack("<QII", data[offset:offset + 4096]) if e[0]]
    if entries and all(0 < addr >> 16 < 1 << 40 and 0 < epoch < 100 for addr, epoch, crc in entries):
        print(offset)
PYTHON
    [ -s places ] || fail "no map node was found on the device"
    while read -r at; do
        flip "${POOL_FILES[0]}" $((at + 8))
        rc=0
        quarry check "${POOL_FILES[@]}" >out 2>&1 || rc=$?
        [ "$rc" -le 1 ] || fail "status $rc: $(cat out)"
        if [ "$rc" = 1 ]; then
            found=$((found + 1))
            cat out >>all
        fi
        flip "${POOL_FILES[0]}" $((at + 8))
    done <places
    echo "# $found of $(wc -l <places) nodes are in use"
    grep -q -E 'volume tank/v, bytes [0-9]+ to [0-9]+ .*map node is damaged' all || fail "$(cat all)"
}

# repairs REGEX: so it says, and all is well then; what volumes hold is as before.
repairs() {
    quarry check --repair "${POOL_FILES[@]}" >out || fail "not repaired: $(cat out)"
    grep -q -E -- "$1" out || fail "no \"$1\" in: $(cat out)"
    is_clean
    restart_with_pool
    expect "$SUMS" "$(sum_of v) $(sum_of v@s) $(sum_of c)" "the volumes' contents"
    stop_daemon
    quarry check "${POOL_FILES[@]}" >out || fail "not clean after an import: $(cat out)"
}

fill_and_sum() {
    fill "$@"
    SUMS="$(sum_of v) $(sum_of v@s) $(sum_of c)"
    stop_daemon
}

test_damaged_twins_are_repaired() {
    fill_and_sum 2
    local at tail
    tail=$(($(stat -c %s "${POOL_FILES[0]}") / MIB * MIB - MIB))
    for at in 4096 8192 12288 20480; do flip "${POOL_FILES[0]}" $((at + 40)); done
    for at in $tail $((tail + 8192)) $((tail + 16384)); do flip "${POOL_FILES[1]}" $((at + 40)); done
    finds 'device set 1 is damaged'
    repairs 'disk0.img, byte 20480: device set 1 was written again from its twin'
}

# Both places of each page, or the newer one only, so that the older takes its place.
test_a_lost_slab_table_is_made_again() { fill && lose_slab_table both; }
test_a_slab_table_that_is_too_old_is_made_again() { fill && lose_slab_table newer; }
test_a_lost_slab_table_of_packed_slabs_is_made_again() { fill_packed && lose_slab_table both; }
test_a_slab_table_of_packed_slabs_that_is_too_old_is_made_again() { fill_packed && lose_slab_table newer; }

lose_slab_table() {
    local file which=$1
    SUMS="$(sum_of v) $(sum_of v@s) $(sum_of c)"
    stop_daemon
    restart_with_pool # so that pages have two versions
    stop_daemon
    file=${POOL_FILES[0]}
    $PYTHON - "$file" $which <<'PYTHON'
import struct, sys
with open(sys.argv[1], "r+b") as file:
    file.seek(4096)
    slab_blocks, _, slabs, slabs_block = struct.unpack_from("<IQQQ", file.read(4096), 76)
    pages = -(-slabs // (4064 // (16 + slab_blocks // 8)))
    damaged = 0
    for page in range(pages):
        places = [(8 + 2 * page + i) * 4096 for i in range(2)]
        versions = []
        for at in places:
            file.seek(at)
            block = file.read(4096)
            versions.append(struct.unpack_from("<Q", block, 8)[0] if block[:4] == b"QTAB" else 0)
        if sys.argv[2] == "newer" and not all(versions):
            continue
        for at, version in zip(places, versions):
            if sys.argv[2] == "both" or version == max(versions):
                file.seek(at + 100)
                file.write(b"\xaa\x55")
                damaged += 1
assert damaged > 0, damaged
print("#", damaged, "of", pages, "pages damaged,", sys.argv[2])
PYTHON
    finds 'cannot be imported|can only be opened read-only'
    repairs 'page [0-9]+ of the slab table was made again'
}

# A live bit or two more, or less, than there should be, behind a right checksum.
test_wrong_live_bits_are_repaired() {
    fill_and_sum
    local what
    for what in all none; do
        $PYTHON - "${POOL_FILES[0]}" $what <<'PYTHON'
import struct, sys

from crc32c import crc32c
with open(sys.argv[1], "r+b") as file:
    file.seek(4096)
    label = file.read(4096)
    device_uuid = label[56:72]
    slab_blocks, _, slabs, slabs_block = struct.unpack_from("<IQQQ", label, 76)
    record = 16 + slab_blocks // 8
    per_page = 4064 // record
    pages = -(-slabs // per_page)
    for page in range(pages):
        for place in range(2):
            file.seek((8 + 2 * page + place) * 4096)
            block = bytearray(file.read(4096))
            if block[:4] != b"QTAB":
                continue
            for i in range(per_page):
                at = 32 + i * record
                if block[at + 8] == 2:
                    block[at + 16:at + record] = (b"\xff" if sys.argv[2] == "all" else b"\0") * (record - 16)
            block[4:8] = bytes(4)
            block[4:8] = struct.pack("<I", crc32c(crc32c(page, device_uuid), block))
            file.seek((8 + 2 * page + place) * 4096)
            file.write(block)
PYTHON
        finds "$([ $what = all ] && echo 'space is lost' || echo 'in use but marked as dead')"
        repairs 'blocks of this slab are marked as in use now'
    done
}

# Damaged at random, with an oracle: VARIANTS=1000 ONLY=random SEED=n tests/integration/t_check.sh
test_random_damage_is_told_and_repaired() {
    start_with_pool 16M 2
    quarry volume create tank/v 4M
    $PYTHON - "$(uri v)" <<'PYTHON'
import random, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
rng = random.Random(1)
for i in range(256):
    h.pwrite(rng.randbytes(4096), i * 4096)
    if i % 16 == 0:
        h.flush()
PYTHON
    quarry snapshot create tank/v@s
    qemu-io -f raw -c 'write -P 18 512k 1M' -c 'discard 256k 128k' "$(uri v)" >/dev/null
    quarry clone tank/v@s tank/c
    qemu-io -f raw -c 'write -P 19 0 64k' "$(uri c)" >/dev/null
    quarry pool export tank
    local seed=${SEED:-$RANDOM}
    echo "# SEED=$seed"
    $PYTHON "$HERE/random_damage.py" "$BUILD/quarry" "$SOCK" "$(uri NAME)" \
        "${VARIANTS:-$((SLOW == 1 ? 100 : 25))}" "$seed" "${POOL_FILES[@]}"
}

# try_random_damage NAME=VALUE…: for random_damage.py
try_random_damage() {
    local seed=${SEED:-$RANDOM}
    echo "# SEED=$seed"
    env ORACLE=no "$@" $PYTHON "$HERE/random_damage.py" "$BUILD/quarry" "$SOCK" "$(uri NAME)" \
        "${VARIANTS:-$((SLOW == 1 ? 30 : 10))}" "$seed" "${POOL_FILES[@]}"
}

# Packed slabs, some of which were plugged, as a full pool does: with scattered pieces.
test_random_damage_of_packed_slabs_gives_nothing_wrong() {
    fill_packed 52
    quarry pool export tank
    quarry dump "${POOL_FILES[@]}" --what packed --json >out.json
    [ "$(json "sum('places' in q for p in d['packed'] for q in p.get('pieces', []))" <out.json)" -gt 5 ] ||
        fail "nothing was plugged"
    try_random_damage
}

# With copies, a device of which was out and came back, so that device sets are many and copies uneven.
test_random_damage_of_copies_gives_nothing_wrong() {
    start_daemon
    make_devices --copies 2 16M 16M 16M
    quarry volume create tank/v 6M
    qemu-io -f raw -c 'write -P 17 0 4M' "$(uri v)" >/dev/null
    quarry snapshot create tank/v@s
    quarry clone tank/v@s tank/c
    quarry device offline tank "${POOL_FILES[1]}"
    qemu-io -f raw -c 'write -P 18 512k 1M' -c 'discard 256k 128k' "$(uri v)" >/dev/null
    quarry device online tank "${POOL_FILES[1]}"
    wait_for 30 pool_is online
    qemu-io -f raw -c 'write -P 19 0 64k' "$(uri c)" >/dev/null
    quarry pool export tank
    try_random_damage COPIES=2
}

# An entry of one volume is forged to be that of another, unrelated one, with right checksums.
test_a_block_that_is_claimed_twice_is_told_with_both() {
    start_with_pool 16M 2
    quarry volume create tank/v 4M
    quarry volume create tank/w 4M
    qemu-io -f raw -c 'write -P 1 0 112k' "$(uri v)" >/dev/null
    qemu-io -f raw -c 'write -P 2 0 64k' "$(uri w)" >/dev/null
    stop_daemon
    restart_with_pool # so that no batch to be replayed has the checksums of maps
    stop_daemon
    $PYTHON - "${POOL_FILES[@]}" <<'PYTHON'
import sys
from format import Pool
pool = Pool(sys.argv[1:])
first, second = sorted({image for image, _ in pool.mapped})
pool.forge(pool.parents[pool.mapped[second, 5][0]], pool.mapped[first, 3])
for path, data in zip(sys.argv[1:], pool.data):
    with open(path, "wb") as file:
        file.write(data)
PYTHON
    finds 'volume tank/w, bytes 20480 to 24575 .* is also in use elsewhere' --data
    grep -q 'volume tank/v, bytes 12288 to 16383 .*: this is where it is in use elsewhere' out || fail "$(cat out)"
    grep -q 'marked as in use, but no image reaches' out || fail "the block that was lost is not told: $(cat out)"
}

test_every_structure_can_be_dumped() {
    fill 2
    stop_daemon
    local what images
    images=$(quarry dump "${POOL_FILES[@]}" --what catalog --json | json "' '.join('map:%d' % i['image'] for i in d['catalog'] if 'image' in i)")
    for what in label superblocks devices table log catalog map:0 $images; do
        quarry dump "${POOL_FILES[@]}" --what "$what" >out || fail "$what: $(cat out)"
        [ -s out ] || fail "nothing of $what"
        quarry dump "${POOL_FILES[@]}" --what "$what" --json >out.json
        [ "$(json "len(d['${what%:*}'])" <out.json)" -gt 0 ] || fail "nothing of $what in JSON"
    done
    quarry dump "${POOL_FILES[@]}" >out
    grep -q -E 'pool +tank' out || fail "no pool: $(head out)"
    flip "${POOL_FILES[1]}" 4200
    quarry dump "${POOL_FILES[@]}" --what label --json >out.json
    expect "1" "$(json "len([l for l in d['label'] if 'checksum' in l.get('error', '')])" <out.json)" "damaged labels"
    fails_with 2 'cannot be dumped: label, ' quarry dump "${POOL_FILES[@]}" --what blocks
    fails_with 1 'no image 99' quarry dump "${POOL_FILES[@]}" --what map:99
}

run_tests
