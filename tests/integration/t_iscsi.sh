#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# timeout: 240
#
# iSCSI, with the clients of libiscsi and QEMU's: discovery, data, access, the same volume over NBD,
# reservations, thresholds, a kill, and clients that misbehave.  t_conformance.sh has libiscsi's suite.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

TARGET=iqn.2026-11.io.quarry:tank.vm1

make_volume() {
    truncate -s 20G disk
    quarry pool create tank "$T/disk"
    quarry volume create tank/vm1 200M
}

test_discovery_and_identity() {
    start_iscsi
    make_volume
    quarry volume create tank/VM_2 10M
    iscsi-ls -s "$ISCSI" >found
    grep -q "^Target:$TARGET Portal:127.0.0.1:" found
    grep -q "^Target:iqn.2026-11.io.quarry:tank.:56:4d:5f2 " found # what an IQN cannot hold is escaped
    grep -q "Type:DIRECT_ACCESS (Size:199M)" found
    iscsi-inq "$ISCSI/$TARGET/0" | grep -q "^Vendor:QUARRY"
    iscsi-inq "$ISCSI/iqn.2026-11.io.quarry:tank.:56:4d:5f2/0" | grep -q "^Product:VOLUME"
    not iscsi-inq "$ISCSI/iqn.2026-11.io.quarry:tank.none/0" 2>err
    grep -q -i "target not found" err
}

test_data_over_iscsi_and_nbd() {
    start_iscsi
    make_volume
    qemu-io -f raw -c "write -P 0xab 512 70000" -c "write -P 1 1M 20M" -c flush "$ISCSI/$TARGET/0" >out
    qemu-io -f raw -r -c "read -P 0xab 512 70000" -c "read -P 1 1M 20M" "nbd+unix:///tank/vm1?socket=$NBD_SOCK" >>out
    qemu-io -f raw -c "write -P 7 3M 1M" "nbd+unix:///tank/vm1?socket=$NBD_SOCK" >>out
    qemu-io -f raw -c "read -P 7 3M 1M" -c "discard 4M 1M" -c "read -P 0 4M 1M" "$ISCSI/$TARGET/0" >>out
    not grep -i "fail\|verification" out
    [ "$(grep -c "bytes at offset" out)" = 8 ]
}

# sees VOLUME BYTES: over iSCSI (READ CAPACITY) and over NBD (the minimum).
sees() {
    local minimum=1
    [ "$2" = 512 ] || minimum=4096
    iscsi-readcapacity16 "$ISCSI/iqn.2026-11.io.quarry:tank.$1/0" >capacity
    grep -q "^LOGICAL BLOCK LENGTH IN BYTES:$2\$" capacity
    grep -q "^RETURNED LOGICAL BLOCK ADDRESS:$((20 * 1048576 / $2 - 1))\$" capacity
    expect "$minimum" "$(nbdinfo --json "nbd+unix:///tank/$1?socket=$NBD_SOCK" | json "d['exports'][0]['block_size_minimum']")" "NBD's minimum"
}

test_block_size_goes_with_the_volume() {
    start_iscsi
    make_volume
    quarry volume create tank/small 20M
    quarry volume create tank/large 20M --block-size 4096
    sees small 512
    sees large 4096
    # The same bytes, whatever they are counted in.
    qemu-io -f raw -c "write -P 0x5a 40k 8k" -c flush "$ISCSI/iqn.2026-11.io.quarry:tank.large/0" >out
    quarry snapshot create tank/large@s
    quarry clone tank/large@s tank/clone
    sees clone 4096
    kill9_daemon
    start_iscsi --import "$T/disk"
    sees large 4096
    quarry pool export tank
    quarry pool import "$T/disk"
    sees large 4096
    sees clone 4096
    # Nobody's blocks change under him.
    mkfifo go
    timeout -k 1 30 qemu-io -f raw "$ISCSI/iqn.2026-11.io.quarry:tank.large/0" <go >out2 2>&1 7>&- &
    local client=$!
    exec 7>go
    wait_for 10 is_used large 1
    not quarry volume set tank/large block-size=512 2>err
    grep -q "in use" err
    quarry volume set tank/large block-size=4096
    exec 7>&-
    wait "$client"
    wait_for 10 is_used large 0
    quarry volume set tank/large block-size=512
    quarry volume set tank/small block-size=4096
    sees large 512
    sees small 4096
    sees clone 4096
    qemu-io -f raw -r -c "read -P 0x5a 40k 8k" "$ISCSI/iqn.2026-11.io.quarry:tank.large/0" >>out
    qemu-io -f raw -r -c "read -P 0x5a 40k 8k" "$ISCSI/iqn.2026-11.io.quarry:tank.clone/0" >>out
    not grep -i "fail\|verification" out
    expect "clone 4096
large 512
small 4096
vm1 512" "$(quarry volume list -H -o name,blocksize | sed 's,^tank/,,' | tr '\t' ' ')" "block sizes"
}

# is_used VOLUME CLIENTS
is_used() {
    [ "$(quarry volume list -H -o name,clients | sed -n "s,^tank/$1\t,,p")" = "$2" ]
}

test_written_data_survive_a_kill() {
    start_iscsi
    make_volume
    qemu-io -f raw -t writeback -c "write -P 0x5a 0 8M" "$ISCSI/$TARGET/0" >out
    kill9_daemon
    start_iscsi --import "$T/disk"
    qemu-io -f raw -r -c "read -P 0x5a 0 8M" "$ISCSI/$TARGET/0" >out
    not grep -i "fail\|verification" out
}

# --- exports ---

HOST=iqn.2004-10.org.example:host
STORE=iqn.2026-11.org.example:store

# targets [INITIATOR [USER%SECRET]]: what discovery shows.
targets() {
    iscsi-ls -i "${1:-$HOST}" "${ISCSI/iscsi:\/\//iscsi://${2:+$2@}}" | sed -n 's/^Target:\([^ ]*\) .*/\1/p'
}

# opens INITIATOR TARGET/LUN [USER%SECRET]
opens() {
    iscsi-inq -i "$1" "${ISCSI/iscsi:\/\//iscsi://${3:+$3@}}/$2" >inq 2>err
}

test_exports_say_who_may_use_what() {
    start_iscsi
    make_volume
    quarry volume create tank/b 10M
    quarry volume create tank/c 10M
    quarry snapshot create tank/vm1@s
    expect 3 "$(targets | wc -l)" "targets"
    quarry export add tank/vm1 --iscsi --target "$STORE" --allow "$HOST"
    quarry export add tank/b --iscsi --target "$STORE" --allow "iqn.other,$HOST"
    quarry export add tank/c --iscsi --target "$STORE" --lun 7 --allow iqn.other
    expect "tank/vm1 0 $HOST
tank/b 1 iqn.other,$HOST
tank/c 7 iqn.other" "$(quarry export list -H -o name,lun,allow | sort -t '	' -k2 | tr '\t' ' ')" "exports"
    expect "$STORE" "$(targets "$HOST")" "targets of the host"
    expect "$STORE" "$(targets iqn.other)" "targets of another"
    expect "" "$(targets iqn.third)" "targets of a third"
    opens "$HOST" "$STORE/0"
    opens "$HOST" "$STORE/1"
    not opens "$HOST" "$STORE/7"
    opens iqn.other "$STORE/7"
    not opens iqn.other "$STORE/0"
    not opens iqn.third "$STORE/0"
    grep -q "Target authorization error\|denied\|forbidden\|0x0202\|(514)" err
    # Neither by its default name, nor by a snapshot's.
    not opens "$HOST" "$TARGET/0"
    not opens "$HOST" "$TARGET:40s/0"
    # It lies in the pool, and goes with it.
    kill9_daemon
    start_iscsi --import "$T/disk" --iscsi-default-targets off
    opens "$HOST" "$STORE/1"
    not opens iqn.third "$STORE/1"
    quarry pool export tank
    expect "" "$(targets "$HOST")" "targets of an exported pool"
    quarry pool import "$T/disk"
    opens iqn.other "$STORE/7"
    quarry export remove tank/b --iscsi
    not opens "$HOST" "$STORE/1"
    not opens "$HOST" iqn.2026-11.io.quarry:tank.b/0 # the configuration says no
    not quarry export remove tank/b --iscsi 2>err
    grep -q "no such export" err
    not quarry export add tank/b --iscsi --target "$STORE" --lun 0 2>err
    grep -q "no LUN 0" err
    not quarry export add tank/b --iscsi --target disk 2>err
    grep -q "no iSCSI name" err
    not quarry export add tank/b 2>err
    grep -q "\-\-iscsi" err
}

test_chap_with_secrets_in_the_pool() {
    start_iscsi --log-level debug
    make_volume
    quarry volume create tank/b 10M
    printf 'the secret of host\nrest\n' >secret
    printf 'the secret of store' >mutual
    chmod 600 secret mutual
    quarry export add tank/vm1 --iscsi --chap host --chap-secret-file secret \
        --chap-mutual store --chap-mutual-secret-file mutual
    expect "iqn.2026-11.io.quarry:tank.b" "$(targets)" "without a proof"
    expect "$TARGET" "$(targets "$HOST" "host%the secret of host" | grep vm1)" "with one"
    opens "$HOST" "$TARGET/0" "host%the secret of host"
    not opens "$HOST" "$TARGET/0"
    not opens "$HOST" "$TARGET/0" "host%the secret of hose"
    not opens "$HOST" "$TARGET/0" "hose%the secret of host"
    opens "$HOST" iqn.2026-11.io.quarry:tank.b/0
    opens "$HOST" "$TARGET/0?target_user=store&target_password=the secret of store" "host%the secret of host"
    not opens "$HOST" "$TARGET/0?target_user=store&target_password=another secret" "host%the secret of host"
    # Secrets are in no list, log or dump, and not taken from files that all can read.
    quarry export list --json >out
    quarry list --json >>out
    not grep "secret of" out "$T/quarryd.log"
    chmod 644 secret
    not quarry export add tank/b --iscsi --chap host --chap-secret-file secret 2>err
    grep -q "read by everybody" err
    not quarry export add tank/b --iscsi --chap host </dev/null 2>err
    grep -q "terminal" err
    echo short | tee short >/dev/null
    chmod 600 short
    not quarry export add tank/b --iscsi --chap host --chap-secret-file short 2>err
    grep -q "12 bytes" err
    chmod 600 secret
    not quarry export add tank/b --iscsi --chap host --chap-secret-file secret --chap-mutual m --chap-mutual-secret-file secret 2>err
    grep -q "must differ" err
    quarry pool export tank
    "$BUILD/quarry" dump disk >out
    not grep "secret of" out
}

# All refusals take as long as each other: what is compared is the shortest with the longest.
test_refusals_take_a_constant_time() {
    start_iscsi
    make_volume
    printf 'the secret of host' >secret
    chmod 600 secret
    quarry volume create tank/b 10M
    quarry export add tank/vm1 --iscsi --chap host --chap-secret-file secret
    quarry export add tank/b --iscsi --allow iqn.other
    python3 - "$ISCSI" <<'END'
import hashlib, socket, sys, time
host, port = sys.argv[1][len("iscsi://"):].split(":")
def login(s, flags, **keys):
    text = b"".join(f"{k}={v}".encode() + b"\0" for k, v in keys.items())
    start = time.monotonic()
    s.sendall((bytes([0x43, flags, 0, 0, 0]) + len(text).to_bytes(3, "big")).ljust(48, b"\0") + text.ljust((len(text) + 3) // 4 * 4, b"\0"))
    head = s.recv(48, socket.MSG_WAITALL)
    took = time.monotonic() - start
    length = int.from_bytes(head[5:8], "big")
    body = s.recv((length + 3) // 4 * 4, socket.MSG_WAITALL)
    return took, int.from_bytes(head[36:38], "big"), dict(p.split("=", 1) for p in body.decode().split("\0") if p)
def attempt(target, status, user=None):
    with socket.create_connection((host, int(port))) as s:
        names = dict(InitiatorName="iqn.host", SessionType="Normal", TargetName=target)
        if not user:
            took, got, _ = login(s, 0x87, **names)
        else:
            login(s, 0, AuthMethod="CHAP", **names)
            login(s, 0, CHAP_A=7)
            took, got, _ = login(s, 0x83, CHAP_N=user, CHAP_R="0x" + hashlib.sha256(b"wrong").hexdigest())
    assert got == status, (target, hex(got))
    return took
own = "iqn.2026-11.io.quarry:tank."
times = [attempt("iqn.none", 0x203), attempt(own + "none", 0x203), attempt(own + "b", 0x202),
         attempt(own + "vm1", 0x201), attempt(own + "vm1", 0x201, "host"), attempt(own + "vm1", 0x201, "nobody")]
assert min(times) >= 0.5, times
assert max(times) < 5, times
END
}

# A session loses its unit: it is ended, and what it was at is not there any more.
test_removed_export_ends_its_sessions() {
    start_iscsi --iscsi-default-targets off
    make_volume
    quarry export add tank/vm1 --iscsi
    mkfifo go
    # It would try for ever to come back.
    timeout -k 1 30 qemu-io -f raw "$ISCSI/$TARGET/0" <go >out 2>&1 7>&- &
    local client=$!
    exec 7>go
    wait_for 10 has_clients 1
    quarry export remove tank/vm1 --iscsi --yes
    wait_for 10 grep -q "its exports were changed" "$T/quarryd.log"
    wait_for 10 has_clients 0
    not opens "$HOST" "$TARGET/0"
    kill $client
    exec 7>&-
}

has_clients() {
    [ "$(quarry volume list -H -o clients)" = "$1" ]
}

# client PYTHON…: with s and t, sessions of two initiators with the volume.
client() {
    PYTHONPATH=$HERE $PYTHON -c "
from iscsi_client import Session
s = Session('$ISCSI/$TARGET/0', 'iqn.host')
t = Session('$ISCSI/$TARGET/0', 'iqn.other')
$1"
}

# The pool fills up: a session with nothing to do but read hears of it, and what is left is told.
test_thin_thresholds_are_told() {
    start_iscsi
    truncate -s 256M disk
    quarry pool create tank "$T/disk"
    quarry volume create tank/vm1 1G
    client '
def resources():
    data = s.good([0x4d, 0, 0x4c, 0, 0, 0, 0, 0, 64], in_bytes=64)
    assert data[:4] == bytes([0x0c, 0, 0, 24])
    return [int.from_bytes(data[at + 4:at + 8], "big") for at in (4, 16)]
def heard(session):
    status, sense, _ = session.command([0x28, 0, 0, 0, 0, 0, 0, 0, 1], in_bytes=512)
    return status == 2 and sense == (6, 0x3807)
available, used = resources()
thresholds = s.good([0x1a, 8, 0x1c, 2, 64], in_bytes=64)[4:]
first = int.from_bytes(thresholds[20:24], "big")
assert available > 150 and used < 20 and (available + used) // 5 in (first, first - 1), (available, used, first)
at = 0
while not heard(t):
    assert at < available * 2048, "it was not told"
    for lba in range(at, at + 1024, 64):
        assert s.write(lba, bytes([1]) * 32768) in (0, 2)
    at += 1024
left, used_then = resources()
assert abs(left - first) <= 4, (left, first)
assert left + used_then == available + used
assert not heard(t)
'
    grep -q "pool tank is 80 % full" "$T/quarryd.log"
}

# elsewhere PYTHON: as client, of a daemon of its own that imports the pool.
elsewhere() {
    local first=$DAEMON ISCSI
    ISCSI=iscsi://127.0.0.1:$(free_port)
    launch_daemon --socket "$T/elsewhere.sock" --listen "$ISCSI" --import "$T/disk"
    $PYTHON "$HERE/ready.py" "$T/elsewhere.sock" "$DAEMON" $((30 * SLOW)) || fail "the other quarryd does not answer"
    client "$1"
    stop_daemon
    DAEMON=$first
}

# The kernel lets go of a killed daemon's devices a moment later.
is_clean() {
    "$BUILD/quarry" check disk >out 2>&1
}

# What was answered is there: after a kill, and elsewhere.
test_reservations_are_kept() {
    start_iscsi
    make_volume
    client '
assert s.good([0x5e, 2, 0, 0, 0, 0, 0, 0, 8], in_bytes=8)[2:4] == b"\x0d\x80"
assert s.reserve_out(0, 0, 0, 10, 1) == 0
assert t.reserve_out(0, 0, 0, 11, 1) == 0
assert s.reserve_out(1, 3, 10) == 0
assert t.write(0, bytes(512)) == 0x18
'
    kill9_daemon
    start_iscsi --import "$T/disk"
    client '
assert s.good([0x5e, 2, 0, 0, 0, 0, 0, 0, 8], in_bytes=8)[2:4] == b"\x0d\x81"
assert s.keys() == [10, 11]
assert s.reservation() == (10, 3)
assert t.write(0, bytes(512)) == 0x18
assert s.write(0, bytes(512)) == 0
assert t.reserve_out(5, 5, 11, 10) == 0   # PREEMPT AND ABORT: the other host is taken for dead
assert s.write(0, bytes(512)) == 2, "an attention"
assert s.write(0, bytes(512)) == 0x18
'
    kill9_daemon
    wait_for 10 is_clean
    "$BUILD/quarry" dump disk --what catalog >out
    grep -q "iqn.other" out
    # Another daemon has the pool for a while, and this one, which remembers, again.
    start_iscsi
    quarry pool import "$T/disk"
    client 'assert s.keys() == [11] and s.reservation() == (11, 5)'
    quarry pool export tank
    elsewhere 'assert s.reserve_out(6, 0, 0, 13, 1) == 0'
    quarry pool import "$T/disk"
    client '
assert sorted(s.keys()) == [11, 13] and s.reservation() == (11, 5)
assert s.write(0, bytes(512)) == 0, "it is registered now"
'
    # Not kept: the last registration says so.
    client '
assert t.reserve_out(6, 0, 0, 12, 0) == 0
assert sorted(t.keys()) == [12, 13] and t.reservation() == (12, 5)
'
    kill9_daemon
    start_iscsi --import "$T/disk"
    client 'assert s.keys() == [] and s.reservation() is None and s.write(0, bytes(512)) == 0'
}

test_bad_clients_harm_nobody() {
    start_iscsi
    make_volume
    python3 - "$ISCSI" <<'END'
import random, socket, sys
from concurrent.futures import ThreadPoolExecutor
host, port = sys.argv[1][len("iscsi://"):].split(":")
random.seed(1)
def client(data):
    with socket.create_connection((host, int(port))) as s:
        s.settimeout(5)
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass
        except OSError:
            pass
def bhs(opcode, flags=0x80, length=0, rest=b""):
    return (bytes([opcode, flags, 0, 0, 0]) + length.to_bytes(3, "big") + rest).ljust(48, b"\0")
client(b"")
client(b"GET / HTTP/1.0\r\n\r\n" * 10)
client(bhs(0x01))                                # a command before login
client(bhs(0x43, 0x87, 0xffffff))                # a text too long
client(bhs(0x43, 0x87, 16) + b"InitiatorName=\0\0")
client(bhs(0x43, 0x87, 8) + b"nonsense")
many = ThreadPoolExecutor(32) # a refusal takes half a second
for _ in range(300):
    many.submit(client, bytes(random.randrange(256) for _ in range(random.randrange(400))))
for _ in range(300):                             # logins that go wrong somewhere
    text = bytearray(b"InitiatorName=iqn.x:y\0SessionType=Normal\0TargetName=iqn.2026-11.io.quarry:tank.vm1\0"
                     b"MaxBurstLength=512\0HeaderDigest=CRC32C,None\0")
    text[random.randrange(len(text))] = random.randrange(256)
    login = bhs(0x43, random.choice([0x87, 0x81, 0x04, 0x40, 0xc7]), len(text)) + bytes(text).ljust((len(text) + 3) // 4 * 4, b"\0")
    many.submit(client, login + bytes(random.randrange(256) for _ in range(random.randrange(200))))
many.shutdown()
END
    iscsi-inq "$ISCSI/$TARGET/0" | grep -q "^Vendor:QUARRY"
    qemu-io -f raw -c "write -P 3 0 1M" -c "read -P 3 0 1M" "$ISCSI/$TARGET/0" >out
    not grep -i "fail\|verification" out
}

run_tests
