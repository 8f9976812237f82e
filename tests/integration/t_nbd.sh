#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 240
#
# Do the NBD clients that people have work with our volumes, and do all of them see the same bytes?
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# A real filesystem with real files, as a raw image: make_fs IMAGE SIZE
make_fs() {
    local tree=$T/tree
    if [ ! -d "$tree" ]; then
        mkdir -p "$tree/deep/er"
        cp -r "$ROOT/core" "$ROOT/metadata" "$tree/"
        cp "$BUILD/quarryd" "$tree/deep/er/"
        ln -s ../core "$tree/deep/link"
    fi
    rm -f "$1"
    mke2fs -q -t ext4 -d "$tree" "$1" "$2" >mke2fs.log
}

test_nbdinfo_tells_size_flags_and_block_sizes() {
    start_with_pool
    quarry volume create tank/vm1 10G
    expect $((10 * GIB)) "$(nbdinfo --size "$(uri vm1)")" "size"
    nbdinfo --json "$(uri vm1)" >info.json
    for fact in "export-name:tank/vm1" "is_read_only:False" "can_multi_conn:True" "can_fua:True" \
        "can_flush:True" "can_trim:True" "can_zero:True" "can_fast_zero:True" "can_df:True" \
        "can_cache:True" "block_size_minimum:1"; do
        expect "${fact#*:}" "$(json "d['exports'][0]['${fact%%:*}']" <info.json)" "${fact%%:*}"
    done
    expect 4096 "$(json "d['exports'][0]['block_size_preferred']" <info.json)" "preferred block size"
    expect True "$(json "'base:allocation' in d['exports'][0]['contexts']" <info.json)" "base:allocation"
    expect True "$(json "d['structured']" <info.json)" "structured replies"
}

test_list_names_volumes_and_snapshots() {
    start_with_pool
    quarry volume create tank/a 1G
    quarry volume create tank/b 2G
    quarry snapshot create tank/a@monday
    nbdinfo --list --json "nbd+unix:///?socket=$NBD_SOCK" >list.json
    expect "['tank/a', 'tank/a@monday', 'tank/b']" \
        "$(json "sorted(e['export-name'] for e in d['exports'])" <list.json)" "exports"
    expect "[False, True, False]" \
        "$(json "[e['is_read_only'] for e in sorted(d['exports'], key=lambda e: e['export-name'])]" <list.json)" \
        "read-only flags"
}

test_unknown_exports_are_refused() {
    start_with_pool
    refuses nbdinfo "$(uri nosuch)"
    refuses nbdinfo "nbd+unix:///nopool/x?socket=$NBD_SOCK"
    refuses nbdinfo "nbd+unix:///tank/..%2f..?socket=$NBD_SOCK"
    refuses nbdinfo "nbd+unix:///tank?socket=$NBD_SOCK"
    quarry volume create tank/a 1G
    refuses nbdinfo "$(uri a@never)"
    nbdinfo "$(uri a)" >/dev/null
}

test_map_shows_data_and_holes() {
    start_with_pool
    quarry volume create tank/v 1G
    qemu-io -f raw -c 'write -P 1 1M 64k' -c 'write -P 2 512M 1M' "$(uri v)" >/dev/null
    nbdinfo --map --json "$(uri v)" >map.json
    expect "[(0, 1048576, 3), (1048576, 65536, 0), (1114112, 535756800, 3), (536870912, 1048576, 0), (537919488, 535822336, 3)]" \
        "$(json "[(e['offset'], e['length'], e['type']) for e in d]" <map.json)" "map"
    qemu-io -f raw -c 'discard 512M 1M' "$(uri v)" >/dev/null
    expect 65536 "$(nbdinfo --map --json "$(uri v)" | json "sum(e['length'] for e in d if e['type'] == 0)")" \
        "data left after a discard"
}

# What changed since a snapshot, as backup programs ask for it, against what is known to be written.
test_metadata_contexts_tell_what_changed() {
    start_with_pool
    quarry volume create tank/v 1G
    quarry volume create tank/other 1G
    qemu-io -f raw -c 'write -P 1 0 2M' -c 'write -P 1 300M 1M' "$(uri v)" >/dev/null
    quarry snapshot create tank/v@mon tank/other@mon
    qemu-io -f raw -c 'write -P 2 64k 64k' -c 'write -P 2 500M 4k' -c 'discard 300M 512k' "$(uri v)" >/dev/null
    quarry snapshot create tank/v@tue
    qemu-io -f raw -c 'write -P 3 1000M 4k' "$(uri v)" >/dev/null
    dirty() { nbdinfo --map="$1" --json "$2" | json "[(e['offset'], e['length'], e['type']) for e in d if e['type']]"; }
    expect "[(65536, 65536, 1), (314572800, 524288, 1), (524288000, 4096, 1), (1048576000, 4096, 1)]" \
        "$(dirty qemu:dirty-bitmap:mon "$(uri v)")" "dirty since monday"
    expect "[(65536, 65536, 1), (314572800, 524288, 3), (524288000, 4096, 1), (1048576000, 4096, 1)]" \
        "$(dirty quarry:diff:mon "$(uri v)")" "changed since monday"
    expect "[(1048576000, 4096, 1)]" "$(dirty quarry:diff:tue "$(uri v)")" "changed since tuesday"
    expect "[(65536, 65536, 1), (314572800, 524288, 3), (524288000, 4096, 1)]" \
        "$(dirty quarry:diff:mon "$(uri v@tue)")" "from monday to tuesday"
    # three images deep: monday's blocks, tuesday's, and those since
    expect "[(0, 65536, 3), (65536, 65536, 2), (131072, 1966080, 3), (315097088, 524288, 3), (524288000, 4096, 2), (1048576000, 4096, 1)]" \
        "$(dirty qemu:allocation-depth "$(uri v)")" "depth"
    expect "[(0, 65536, 2), (65536, 65536, 1), (131072, 1966080, 2), (315097088, 524288, 2), (524288000, 4096, 1)]" \
        "$(dirty qemu:allocation-depth "$(uri v@tue)")" "depth in tuesday's snapshot"
    quarry clone tank/v@mon tank/c
    qemu-io -f raw -c 'write -P 5 1M 4k' "$(uri c)" >/dev/null
    expect "[(0, 1048576, 2), (1048576, 4096, 1), (1052672, 1044480, 2), (314572800, 1048576, 2)]" \
        "$(dirty qemu:allocation-depth "$(uri c)")" "depth in a clone"
    quarry volume delete --yes tank/c
    nbdinfo --json "$(uri v)" >info.json
    expect "['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:mon', 'qemu:dirty-bitmap:tue', 'quarry:diff:mon', 'quarry:diff:tue']" \
        "$(json "sorted(d['exports'][0]['contexts'])" <info.json)" "contexts"
    refuses nbdinfo --map=quarry:diff:never "$(uri v)"
    # qemu reads the bitmap in the place of base:allocation: what is dirty it takes for a hole
    qemu-img map --output=json --image-opts \
        "driver=raw,file.driver=nbd,file.path=$NBD_SOCK,file.server.type=unix,file.server.path=$NBD_SOCK,file.export=tank/v,file.x-dirty-bitmap=qemu:dirty-bitmap:mon" >map.json 2>/dev/null ||
        qemu-img map --output=json --image-opts \
            "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=$NBD_SOCK,file.export=tank/v,file.x-dirty-bitmap=qemu:dirty-bitmap:mon" >map.json
    expect "[(65536, 65536), (314572800, 524288), (524288000, 4096), (1048576000, 4096)]" \
        "$(json "[(e['start'], e['length']) for e in d if not e['data']]" <map.json)" "qemu-img map of the bitmap"
    $PYTHON - "$NBD_SOCK" <<'PYTHON'
import struct, sys
import nbd_bytes as n
c = n.Client(sys.argv[1])
ids = c.start("tank/v", extended=True, contexts=["base:allocation", "quarry:diff:mon", "quarry:diff:tue"])
assert len(ids) == 3 and c.flags & 1 << 12, (ids, c.flags)
def status(length, payload=None, flags=0):
    if payload is None:
        c.request(n.BLOCK_STATUS, flags, 0, length)
    else:
        payload = struct.pack(">Q", length) + b"".join(struct.pack(">I", i) for i in payload)
        c.request(n.BLOCK_STATUS, flags | n.PAYLOAD_LEN, 0, len(payload), payload)
    error, chunks = c.reply()
    told = {}
    for kind, data in chunks:
        assert kind == 6
        context, count = struct.unpack(">II", data[:8])
        told[context] = [struct.unpack(">QQ", data[8 + 16 * i:24 + 16 * i]) for i in range(count)]
    return error, told
error, told = status(c.size)
assert error == 0 and set(told) == set(ids.values()), (error, told)
assert told[ids["quarry:diff:tue"]] == [(1000 << 20, 0), (4096, 1), ((24 << 20) - 4096, 0)], told
error, one = status(c.size, [ids["quarry:diff:mon"]])
assert error == 0 and list(one) == [ids["quarry:diff:mon"]] and one[ids["quarry:diff:mon"]] == told[ids["quarry:diff:mon"]]
error, first = status(c.size, flags=n.REQ_ONE)
assert error == 0 and all(len(extents) == 1 for extents in first.values()) and len(first) == 3
assert status(4096, [77])[0] == 22 and status(4096, [])[0] == 22
assert status(4096, [ids["base:allocation"]])[0] == 0  # it lives on
c.request(n.DISC)
assert c.closed()
PYTHON
    quarry snapshot delete tank/v@mon
    refuses nbdinfo --map=quarry:diff:mon "$(uri v)"
    expect "[(0, 2097152, 2), (315097088, 524288, 2), (524288000, 4096, 2), (1048576000, 4096, 1)]" \
        "$(dirty qemu:allocation-depth "$(uri v)")" "depth, without monday"
}

# peer NAME COMMAND…: another server, whose socket is peers/NAME.
peer() {
    "${@:2}" </dev/null >>peers.log 2>&1 &
    wait_for 30 test -S "peers/$1"
}

# Our column, and those of the others, if they are here in the versions of which the table tells.
test_the_conformance_table_tells_the_truth() {
    local columns=() version
    mkdir psk peers
    echo "alice:$(openssl rand -hex 32)" >psk/keys.psk
    start_with_pool
    quarry volume create tank/v 64M
    quarry snapshot create tank/v@s
    stop_daemon
    restart_with_pool --listen "nbds+unix:///?socket=$T/tls.sock" --tls-psk-file "$T/psk/keys.psk"
    columns=("Quarry=$NBD_SOCK:tank/v,$NBD_SOCK:tank/v@s,$T/tls.sock:tank/v")
    version=$(nbdkit --version | grep -o -E '[0-9]+\.[0-9]+' | head -n 1)
    if grep -q "^| asked | .*| nbdkit $version |" "$ROOT/docs/NBD.md"; then
        peer nbdkit nbdkit -f -U peers/nbdkit memory 64M
        peer nbdkit-ro nbdkit -f -r -U peers/nbdkit-ro memory 64M
        peer nbdkit-tls nbdkit -f --tls=require --tls-psk=psk/keys.psk -U peers/nbdkit-tls memory 64M
        columns+=("nbdkit $version=peers/nbdkit:,peers/nbdkit-ro:,peers/nbdkit-tls:")
    fi
    version=$(qemu-nbd --version | grep -o -E '[0-9]+\.[0-9]+' | head -n 1)
    if grep -q "^| asked | .*| qemu-nbd $version |" "$ROOT/docs/NBD.md"; then
        truncate -s 64M peers/disk peers/disk-tls
        peer qemu qemu-nbd -t -e 8 -f raw -A --discard=unmap -x v -k "$T/peers/qemu" peers/disk
        peer qemu-ro qemu-nbd -t -e 8 -f raw -r -x v -k "$T/peers/qemu-ro" peers/disk
        peer qemu-tls qemu-nbd -t -e 8 -f raw -x v --object "tls-creds-psk,id=t,endpoint=server,dir=$T/psk" --tls-creds t \
            -k "$T/peers/qemu-tls" peers/disk-tls
        columns+=("qemu-nbd $version=peers/qemu:v,peers/qemu-ro:v,peers/qemu-tls:v")
    fi
    $PYTHON "$HERE/nbd_conformance.py" check "$ROOT/docs/NBD.md" "${columns[@]}"
}

# As the disk below the pool's files is said to be by the kernel, or by the server of a remote device.
test_rotational_as_the_devices_are() {
    local disk says
    disk=/sys/dev/block/$(findmnt -n -o MAJ:MIN --target "$T" | tr -d ' ')
    says=$(cat "$disk/queue/rotational" "$disk/../queue/rotational" 2>/dev/null | head -n 1 || true)
    rotational() { nbdinfo --json "$1" | json "d['exports'][0]['is_rotational']"; }
    start_with_pool
    quarry volume create tank/v 64M
    expect "$([ "$says" = 1 ] && echo True || echo False)" "$(rotational "$(uri v)")" "rotational ($disk says: $says)"
    # of remote devices in turn both are known
    truncate -s 1G far.img
    local kind server
    for kind in False True; do
        nbdkit --foreground --exit-with-parent --unix "$T/$kind.sock" eval get_size='echo 1G' can_write='exit 0' \
            pread="dd if=$T/far.img bs=1 skip=\$4 count=\$3 iflag=fullblock,skip_bytes,count_bytes status=none" \
            pwrite="dd of=$T/far.img bs=64k seek=\$4 oflag=seek_bytes conv=notrunc iflag=fullblock status=none" \
            can_flush='exit 0' flush=: is_rotational="exit $([ $kind = True ] && echo 0 || echo 3)" &
        server=$!
        wait_for 30 test -S "$T/$kind.sock"
        quarry pool create $kind "nbd+unix:///?socket=$T/$kind.sock" --force
        quarry volume create $kind/v 64M
        expect $kind "$(rotational "nbd+unix:///$kind/v?socket=$NBD_SOCK")" "rotational"
        quarry pool export $kind
        kill -TERM $server
        wait $server || true
    done
}

# A client that is connected sees the new size in what it may ask for; who comes later, is told.
test_resize_while_connected() {
    start_with_pool
    quarry volume create tank/v 64M
    $PYTHON - "$NBD_SOCK" "$BUILD/quarry" "$SOCK" <<'PYTHON'
import subprocess, sys
import nbd_bytes as n
MIB = 1 << 20
resize = lambda size, *how: subprocess.run([sys.argv[2], "--socket", sys.argv[3], "volume", "resize", "tank/v", size, *how], check=True)
c = n.Client(sys.argv[1])
c.start("tank/v")
assert c.ask(n.WRITE, 0, 100 * MIB, 512, b"x" * 512)[0] == 28
resize("128M")
assert c.ask(n.WRITE, 0, 100 * MIB, 512, b"x" * 512)[0] == 0
late = n.Client(sys.argv[1])
late.start("tank/v")
assert late.size == 128 * MIB
error, chunks = late.ask(n.READ, n.DF, 100 * MIB, 512)
assert error == 0 and chunks[0][1][8:] == b"x" * 512
resize("96M", "--force")  # and what lies behind is gone, for both
for client in c, late:
    assert client.ask(n.READ, 0, 100 * MIB, 512)[0] == 22
    assert client.ask(n.WRITE, 0, 100 * MIB, 512, b"x" * 512)[0] == 28
resize("128M")
error, chunks = c.ask(n.READ, n.DF, 100 * MIB, 512)
assert error == 0 and chunks[0][1][8:] == bytes(512)
PYTHON
}

# A minimum of 4096 is told and kept to by who asks; qemu then reads, patches and writes by itself. The size is a multiple.
test_block_size_4096() {
    start_with_pool
    quarry volume create tank/v 10000001
    quarry volume set tank/v block-size=4096
    nbdinfo --json "$(uri v)" >info.json
    expect "[4096, 4096, 33554432, 0]" "$(json "[*(d['exports'][0]['block_size_' + x] for x in
        ('minimum', 'preferred', 'maximum')), d['exports'][0]['export-size'] % 4096]" <info.json)" "block sizes"
    qemu-io -f raw -c 'write -P 3 0 64k' -c 'write -P 4 512 512' "$(uri v)" >/dev/null
    qemu-io -f raw -c 'read -P 3 0 512' -c 'read -P 4 512 512' -c 'read -P 3 1k 63k' "$(uri v)" >read.out
    refuses grep -i -E 'pattern verification failed|error' read.out
    $PYTHON - "$NBD_SOCK" <<'PYTHON'
import struct, sys
import nbd_bytes as n
c = n.Client(sys.argv[1])
assert (n.REP_INFO, struct.pack(">HIII", 3, 4096, 4096, 32 << 20)) in c.go("tank/v", [3])
# who did not ask may not be held to it
c = n.Client(sys.argv[1])
c.start("tank/v")
assert c.ask(n.WRITE, 0, 5000, 1, b"z")[0] == 0
assert c.ask(n.READ, n.DF, 4999, 3)[1][0][1][8:] == b"\x03z\x03"
PYTHON
}

test_nbdcopy_of_ext4_both_ways() {
    start_with_pool
    make_fs fs.img 256M
    quarry volume create tank/fs 256M
    nbdcopy --connections=4 --requests=64 fs.img "$(uri fs)"
    expect "$(sha256sum <fs.img)" "$(nbdcopy "$(uri fs)" - | sha256sum)" "checksum, one connection"
    nbdcopy --connections=4 --requests=64 "$(uri fs)" back.img
    cmp fs.img back.img
    e2fsck -fn back.img >e2fsck.log
    # Over a restart too.
    stop_daemon
    restart_with_pool
    expect "$(sha256sum <fs.img | cut -d ' ' -f 1)" "$(sum_of fs)" "checksum after a restart"
}

test_nbdcopy_from_volume_to_volume() {
    start_with_pool
    make_fs fs.img 128M
    quarry volume create tank/a 128M
    quarry volume create tank/b 128M
    nbdcopy fs.img "$(uri a)"
    nbdcopy "$(uri a)" "$(uri b)"
    expect "$(sha256sum <fs.img | cut -d ' ' -f 1)" "$(sum_of b)" "checksum"
}

test_qemu_img_convert_and_compare() {
    start_with_pool
    make_fs fs.img 256M
    qemu-img convert -f raw -O qcow2 fs.img fs.qcow2
    quarry volume create tank/q 256M
    qemu-img convert -n -W -m 8 -f qcow2 -O raw fs.qcow2 "$(uri q)"
    qemu-img compare -f raw -F raw fs.img "$(uri q)"
    qemu-img compare -f qcow2 -F raw fs.qcow2 "$(uri q)"
    qemu-img convert -f raw -O qcow2 "$(uri q)" back.qcow2
    qemu-img compare -f raw -F qcow2 fs.img back.qcow2
    # compare must be able to tell a difference
    qemu-io -f raw -c 'write -P 77 100M 512' "$(uri q)" >/dev/null
    refuses qemu-img compare -f raw -F raw fs.img "$(uri q)"
}

# The same random operations of every size and alignment, on a volume and on a plain file.
test_qemu_io_patterns_match_a_plain_file() {
    start_with_pool
    local seed=${SEED:-$RANDOM}
    echo "# SEED=$seed"
    quarry volume create tank/io 64M
    truncate -s 64M model.img
    $PYTHON - "$seed" >commands <<'PYTHON'
import random, sys
rng = random.Random(int(sys.argv[1]))
size = 64 << 20
for i in range(600):
    length = rng.choice([1, 511, 512, 513, 4095, 4096, 4097, 65536, 1 << 20]) + rng.choice([0, 0, rng.randrange(4096)])
    if rng.random() < 0.5:
        length = max(512, length // 512 * 512)
        offset = rng.randrange(0, (size - length) // 512) * 512
    else:
        offset = rng.randrange(0, size - length)
    if rng.random() < 0.3:  # near the others, so that they overlap
        offset %= 1 << 20
    kind = rng.random()
    if kind < 0.65:
        print(f"write {rng.choice(['', '-f '])}-P {rng.randrange(256)} {offset} {length}")
    elif kind < 0.8:
        print(f"write -z {rng.choice(['', '-u '])}{offset} {length}")
    elif kind < 0.9:
        # Edges of a discard may be kept or zeroed: discard whole blocks, then they must read as zeroes here.
        print(f"discard {offset // 4096 * 4096} {max(4096, length // 4096 * 4096)}")
    elif kind < 0.95:
        print("flush")
    else:
        print(f"read {offset} {length}")
PYTHON
    expect 600 "$(wc -l <commands)" "number of commands"
    qemu-io -f raw "$(uri io)" <commands >nbd.out
    # a file's discard makes a hole, which reads as zeroes, too
    qemu-io -f raw -d unmap model.img <commands >file.out
    refuses grep -i -E 'failed|error' nbd.out
    qemu-img compare -f raw -F raw model.img "$(uri io)"
    stop_daemon
    restart_with_pool
    qemu-img compare -f raw -F raw model.img "$(uri io)"
}

test_edges_of_a_volume() {
    start_with_pool
    quarry volume create tank/odd 10000001 || quarry volume create tank/odd 12288
    local size
    size=$(nbdinfo --size "$(uri odd)")
    $PYTHON - "$(uri odd)" "$size" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
size = int(sys.argv[2])
assert h.get_size() == size
h.pwrite(b"x", size - 1)
assert h.pread(1, size - 1) == b"x"
h.zero(1, size - 1)
assert h.pread(1, size - 1) == b"\0"
for action, errno in ((lambda: h.pwrite(b"xy", size - 1), ("ENOSPC", "EINVAL")),
                      (lambda: h.pread(2, size - 1), ("EINVAL",)),
                      (lambda: h.pread(1, size), ("EINVAL",)),
                      (lambda: h.pread(1, 1 << 63), ("EINVAL",)),
                      (lambda: h.trim(2, size - 1), ("EINVAL", "ENOSPC")),
                      (lambda: h.zero(4096, size), ("ENOSPC", "EINVAL"))):
    try:
        action()
    except nbd.Error as error:
        assert error.errno in errno, (error.errno, errno)
    else:
        sys.exit("a request beyond the end succeeded")
assert h.pread(1, 0) == b"\0"  # the connection lives on
h.shutdown()
PYTHON
}

test_old_clients_use_export_name() {
    start_with_pool
    quarry volume create tank/old 64M
    $PYTHON - "$NBD_SOCK" <<'PYTHON'
import sys, nbd
# Without fixed newstyle a client has EXPORT_NAME and nothing else; without the no-zeroes flag it
# waits for 124 bytes of padding.
for flags in (0, nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE, nbd.HANDSHAKE_FLAG_NO_ZEROES):
    h = nbd.NBD()
    h.set_handshake_flags(flags)
    h.set_request_structured_replies(False)
    h.set_export_name("tank/old")
    h.connect_unix(sys.argv[1])
    assert h.get_size() == 64 << 20
    h.pwrite(b"old" * 1000, 4095)
    h.flush()
    assert h.pread(3000, 4095) == b"old" * 1000
    h.shutdown()
PYTHON
}

test_simple_and_structured_replies_agree() {
    start_with_pool
    quarry volume create tank/r 64M
    qemu-io -f raw -c 'write -P 9 1M 3M' "$(uri r)" >/dev/null
    $PYTHON - "$(uri r)" <<'PYTHON'
import sys, nbd
whole = []
for structured in (True, False):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.connect_uri(sys.argv[1])
    assert h.get_structured_replies_negotiated() == structured
    whole.append(b"".join(h.pread(8 << 20, at) for at in range(0, 64 << 20, 8 << 20)))
    # one request over data and holes, and one that must not be fragmented
    assert h.pread(5 << 20, 512) == whole[0][512:512 + (5 << 20)]
    if structured:
        chunks = []
        data = h.pread_structured(1 << 20, (1 << 20) - 512, lambda *chunk: chunks.append(chunk), flags=nbd.CMD_FLAG_DF)
        assert data == whole[0][(1 << 20) - 512:(2 << 20) - 512] and len(chunks) == 1
    h.shutdown()
assert whole[0] == whole[1]
assert whole[0][1 << 20:4 << 20] == b"\x09" * (3 << 20) and whole[0].count(0) == 61 << 20
PYTHON
}

test_what_one_connection_writes_the_others_see() {
    start_with_pool
    quarry volume create tank/multi 64M
    $PYTHON - "$(uri multi)" <<'PYTHON'
import sys, nbd
handles = [nbd.NBD() for _ in range(8)]
for h in handles:
    h.connect_uri(sys.argv[1])
for turn in range(400):
    writer, reader = handles[turn % 8], handles[(turn * 3 + 1) % 8]
    data = turn.to_bytes(4, "big") * 256
    writer.pwrite(data, turn * 5000, flags=nbd.CMD_FLAG_FUA if turn % 5 == 0 else 0)
    assert reader.pread(len(data), turn * 5000) == data
handles[3].flush()
for h in handles:
    h.shutdown()
PYTHON
}

test_tcp_and_unix_at_once() {
    local port
    port=$($PYTHON -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    start_daemon --listen "nbd://127.0.0.1:$port"
    make_pool
    quarry volume create tank/t 64M
    qemu-io -f raw -c 'write -P 5 0 1M' "nbd://127.0.0.1:$port/tank/t" >/dev/null
    qemu-io -f raw -c 'read -P 5 0 1M' "$(uri t)" >read.out
    refuses grep -i 'pattern verification failed' read.out
    expect 67108864 "$(nbdinfo --size "nbd://127.0.0.1:$port/tank/t")" "size over TCP"
}

test_read_only_exports_refuse_writes() {
    start_with_pool
    quarry volume create tank/ro 64M
    qemu-io -f raw -c 'write -P 1 0 64k' "$(uri ro)" >/dev/null
    quarry snapshot create tank/ro@s
    quarry volume set tank/ro readonly=on
    local name
    for name in ro ro@s; do
        nbdinfo --json "$(uri $name)" >info.json
        expect True "$(json "d['exports'][0]['is_read_only']" <info.json)" "$name is read-only"
        $PYTHON - "$(uri $name)" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.set_strict_mode(0)  # ask the server, not the library
h.connect_uri(sys.argv[1])
large = b"x" * (16 << 20)  # libnbd fails if it is refused before all of it was sent
for action in (lambda: h.pwrite(b"x" * 512, 0), lambda: h.pwrite(large, 0), lambda: h.trim(4096, 0), lambda: h.zero(4096, 0)):
    try:
        action()
    except nbd.Error as error:
        assert error.errno in ("EPERM", "EROFS"), error.errno
    else:
        sys.exit("a read-only export took a write")
assert h.pread(65536, 0) == b"\x01" * 65536
h.shutdown()
PYTHON
    done
    quarry volume set tank/ro readonly=off
    qemu-io -f raw -c 'write -P 2 0 64k' "$(uri ro)" >/dev/null
}

test_fio_verify_depth_32_over_4_connections() {
    start_with_pool
    quarry volume create tank/fio 512M
    URI=$(uri fio) SIZE=$((SLOW == 1 ? 48 : 16))m fio --output=fio.log "$ROOT/fio-jobs/verify.fio"
    refuses grep -E 'verify: bad|err= *[1-9]' fio.log
    # and everything is still right when it is read back from the disk
    stop_daemon
    restart_with_pool
    URI=$(uri fio) SIZE=$((SLOW == 1 ? 48 : 16))m fio --verify_only --output=again.log "$ROOT/fio-jobs/verify.fio"
    refuses grep -E 'verify: bad|err= *[1-9]' again.log
}

# A filesystem in a volume that is being written all the time: a snapshot taken at a moment at which
# the filesystem was consistent checks clean and stays the same, whatever is written after it.
test_filesystem_in_a_snapshot_while_the_volume_is_written() {
    start_with_pool 2G
    quarry volume create tank/live 512M
    make_fs one.img 128M
    echo "a second generation" >"$T/tree/new file"
    rm -r "$T/tree/core"
    make_fs two.img 128M
    # All the time: random writes elsewhere in the volume, over connections of their own.
    fio --name=load --ioengine=nbd --uri="$(uri live)" --rw=randwrite --bs=4k --iodepth=16 --numjobs=2 \
        --offset=128m --size=128m --time_based --runtime=600 --output=load.log &
    local load=$! round image
    for round in 1 2 3; do
        image=$([ $((round % 2)) = 1 ] && echo one || echo two)
        nbdcopy "$image.img" "$(uri live)"
        quarry snapshot create "tank/live@round$round"
        # the next generation goes over it at once, while the snapshot is read and checked
        nbdcopy "$([ $image = one ] && echo two || echo one).img" "$(uri live)" &
        local copy=$!
        nbdcopy "$(uri "live@round$round")" snap.img
        wait $copy
        truncate -s 128M snap.img
        e2fsck -fn snap.img >e2fsck.log
        cmp "$image.img" snap.img
    done
    kill -0 $load
    kill -INT $load
    wait $load || true
    nbdcopy "$(uri live@round1)" snap.img
    truncate -s 128M snap.img
    e2fsck -fn snap.img >e2fsck.log
    cmp one.img snap.img
}

# The kernel's own ext4, on a volume through a loop device, frozen only for the snapshot.
test_mounted_ext4_in_a_snapshot() {
    [ "$(id -u)" = 0 ] && [ -c /dev/fuse ] && [ -e /dev/loop-control ] && command -v nbdfuse >/dev/null &&
        command -v fusermount3 >/dev/null && (: </dev/fuse) && losetup --find >/dev/null ||
        skip "needs root, fuse3 and loop devices"
    start_with_pool 2G
    quarry volume create tank/mnt 256M
    make_fs fs.img 256M
    nbdcopy fs.img "$(uri mnt)"
    mkdir mnt
    : >volume
    nbdfuse --pidfile="$T/nbdfuse.pid" volume "$(uri mnt)" &
    wait_for 10 test -e nbdfuse.pid
    local rc=0
    (
        set -e
        mount -o loop volume mnt
        trap 'umount mnt' EXIT
        for i in 1 2 3; do
            (while cp -r mnt/deep "mnt/copy.$BASHPID" 2>/dev/null && rm -r "mnt/copy.$BASHPID"; do :; done) &
            writer=$!
            cp -r mnt/metadata "mnt/generation$i"
            fsfreeze --freeze mnt
            quarry snapshot create "tank/mnt@frozen$i"
            fsfreeze --unfreeze mnt
            nbdcopy "$(uri "mnt@frozen$i")" "frozen$i.img"
            kill $writer
            wait $writer 2>/dev/null || true
            e2fsck -fn "frozen$i.img"
            debugfs -R "ls /generation$i" "frozen$i.img" 2>/dev/null | grep -q name.c
        done
    ) || rc=$?
    fusermount3 -u volume
    return $rc
}

run_tests
