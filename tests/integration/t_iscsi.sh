#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# timeout: 240
#
# iSCSI, with the clients of libiscsi and QEMU's: discovery, data, the conformance suite, the same
# volume over NBD, a kill, and clients that misbehave.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

TARGET=iqn.2026-11.io.quarry:tank.vm1

# Starts the daemon with an iSCSI port that is free, left in $ISCSI (a URI without a target).
start_iscsi() {
    local port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    ISCSI=iscsi://127.0.0.1:$port
    start_daemon --listen "$ISCSI" "$@"
}

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
    ! iscsi-inq "$ISCSI/iqn.2026-11.io.quarry:tank.none/0" 2>err
    grep -q -i "target not found" err
}

test_data_over_iscsi_and_nbd() {
    start_iscsi
    make_volume
    qemu-io -f raw -c "write -P 0xab 512 70000" -c "write -P 1 1M 20M" -c flush "$ISCSI/$TARGET/0" >out
    qemu-io -f raw -r -c "read -P 0xab 512 70000" -c "read -P 1 1M 20M" "nbd+unix:///tank/vm1?socket=$NBD_SOCK" >>out
    qemu-io -f raw -c "write -P 7 3M 1M" "nbd+unix:///tank/vm1?socket=$NBD_SOCK" >>out
    qemu-io -f raw -c "read -P 7 3M 1M" -c "discard 4M 1M" -c "read -P 0 4M 1M" "$ISCSI/$TARGET/0" >>out
    ! grep -i "fail\|verification" out
    [ "$(grep -c "bytes at offset" out)" = 8 ]
}

test_written_data_survive_a_kill() {
    start_iscsi
    make_volume
    qemu-io -f raw -t writeback -c "write -P 0x5a 0 8M" "$ISCSI/$TARGET/0" >out
    kill9_daemon
    start_iscsi --import "$T/disk"
    qemu-io -f raw -r -c "read -P 0x5a 0 8M" "$ISCSI/$TARGET/0" >out
    ! grep -i "fail\|verification" out
}

# conformance EXCEPT: all suites whose names do not match; failures are left in the file failures.
# What may fail is said, and why, in docs/ISCSI.md.
conformance() {
    local suite
    : >failures
    : >passed
    for suite in $(iscsi-test-cu -l | grep -o -E '^SCSI\.[A-Za-z0-9]+$' | grep -v -E "$1"); do
        iscsi-test-cu --dataloss -n -t "$suite" "$ISCSI/$TARGET/0" >cu 2>&1 || true
        sed -n 's/ had failures.*//p' cu >>failures
        awk '$1 == "tests" { print $4 }' cu >>passed
    done
    PASSED=$(paste -s -d + passed | python3 -c 'print(eval(input()))')
}

# Left out are tests that wait for seconds, or write much.
test_conformance_with_512_byte_blocks() {
    start_iscsi
    make_volume
    conformance 'Reserve6|Unmap|WriteSame'
    expect "Suite GetLBAStatus, Test UnmapSingle" "$(cat failures)" "failures"
    [ "$PASSED" -gt 180 ]
}

test_conformance_with_4096_byte_blocks() {
    start_iscsi --iscsi-block-size 4096
    make_volume
    conformance 'Reserve6|Unmap|WriteSame|Verify|Write1|Read1|OrWrite'
    expect "" "$(cat failures)" "failures"
    [ "$PASSED" -gt 80 ]
}

test_bad_clients_harm_nobody() {
    start_iscsi
    make_volume
    python3 - "$ISCSI" <<'END'
import random, socket, sys
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
for _ in range(300):
    client(bytes(random.randrange(256) for _ in range(random.randrange(400))))
for _ in range(300):                             # logins that go wrong somewhere
    text = bytearray(b"InitiatorName=iqn.x:y\0SessionType=Normal\0TargetName=iqn.2026-11.io.quarry:tank.vm1\0"
                     b"MaxBurstLength=512\0HeaderDigest=CRC32C,None\0")
    text[random.randrange(len(text))] = random.randrange(256)
    login = bhs(0x43, random.choice([0x87, 0x81, 0x04, 0x40, 0xc7]), len(text)) + bytes(text).ljust((len(text) + 3) // 4 * 4, b"\0")
    client(login + bytes(random.randrange(256) for _ in range(random.randrange(200))))
END
    iscsi-inq "$ISCSI/$TARGET/0" | grep -q "^Vendor:QUARRY"
    qemu-io -f raw -c "write -P 3 0 1M" -c "read -P 3 0 1M" "$ISCSI/$TARGET/0" >out
    ! grep -i "fail\|verification" out
}

run_tests
