#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 180
#
# TLS with the clients that people have, and refusals with bytes that no client would send.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/integration/tls.sh
. "$(dirname "$0")/tls.sh"

# start_tls [FLAG…]: certificates, tank/v, and beside the plain socket one with TLS at $PORT.
start_tls() {
    [ -d pki ] || make_certificates
    start_daemon --listen "nbds://127.0.0.1:0" --listen "nbds+unix:///?socket=$T/tls.sock" "$@"
    PORT=$(sed -n 's/.*listening at nbds\{0,1\}:\/\/127.0.0.1:\([0-9]*\).*/\1/p' quarryd.log | head -n 1)
    make_pool
    quarry volume create tank/v 64M
}

tls_uri() {
    echo "nbds://localhost:$PORT/tank/v?tls-certificates=$T/pki/$1"
}

test_certificates_with_libnbd_over_tcp_and_unix() {
    make_certificates
    start_tls --tls-certificates "$T/pki/server"
    head -c 20000000 /dev/urandom >data
    truncate -s 64M data
    nbdcopy --connections=4 --requests=16 data "$(tls_uri alice)"
    nbdcopy --connections=4 --requests=16 "$(tls_uri none)" back
    cmp data back
    nbdcopy "nbds+unix://localhost/tank/v?socket=$T/tls.sock&tls-certificates=$T/pki/alice&tls-hostname=localhost" back2 ||
        nbdcopy "nbds+unix:///tank/v?socket=$T/tls.sock&tls-certificates=$T/pki/alice&tls-verify-peer=false" back2
    cmp data back2
    nbdinfo "$(tls_uri alice)" | grep -q 'protocol: newstyle-fixed with TLS'
    # in plaintext nothing is told here
    refuses nbdinfo "nbd://localhost:$PORT/tank/v"
    refuses nbdinfo --list "nbd://localhost:$PORT"
}

test_qemu_with_certificates_and_keys() {
    make_certificates
    start_tls --tls-certificates "$T/pki/server" --tls-psk-file "$T/pki/keys.psk"
    local image="driver=raw,file.driver=nbd,file.host=localhost,file.port=$PORT,file.export=tank/v,file.tls-creds=t"
    qemu-io --object "tls-creds-x509,id=t,endpoint=client,dir=$T/pki/alice" -c 'write -P 7 1M 3M' \
        --image-opts "$image" >write.out
    refuses grep -i -E 'fail|error' write.out
    mkdir psk
    cp pki/keys.psk psk/keys.psk
    qemu-io --object "tls-creds-psk,id=t,endpoint=client,dir=$T/psk,username=alice" -c 'read -P 7 1M 3M' \
        --image-opts "$image" >read.out
    grep -q '3 MiB' read.out
    refuses grep -i 'verification failed' read.out
    cp pki/other.psk psk/keys.psk
    refuses qemu-img info --object "tls-creds-psk,id=t,endpoint=client,dir=$T/psk,username=bob" --image-opts "$image"
}

test_keys_with_libnbd() {
    make_certificates
    start_tls --tls-psk-file "$T/pki/keys.psk"
    local uri="nbds+unix://alice@/tank/v?socket=$T/tls.sock&tls-psk-file="
    qemu-io -f raw -c 'write -P 3 0 1M' "$(uri v)" >/dev/null
    expect "$(sum_of v)" "$(nbdcopy "$uri$T/pki/keys.psk" - | sha256sum | cut -d ' ' -f 1)" "checksum"
    sed 's/.$/x/; y/0123456789abcdefx/1234567890bcdefa0/' pki/keys.psk | sed 's/^[^:]*:/alice:/' >pki/wrong.psk
    refuses nbdinfo "$uri$T/pki/wrong.psk"
}

# off, on and require, at each address by itself, whatever holds for the others; with certificates and with keys.
test_each_address_has_its_own_setting() {
    make_certificates
    local setting how uri listeners=() seen=()
    for setting in off on require; do listeners+=(--listen "nbd+unix:///?socket=$T/$setting.sock&tls=$setting"); done
    start_tls --tls require --tls-certificates "$T/pki/server" --tls-psk-file "$T/pki/keys.psk" "${listeners[@]}"
    for setting in off on require nbd; do # the last one has the setting of all
        for how in plain key certificate; do
            case $how in
            plain) uri="nbd+unix:///tank/v?socket=$T/$setting.sock" ;;
            key) uri="nbds+unix://alice@/tank/v?socket=$T/$setting.sock&tls-psk-file=$T/pki/keys.psk" ;;
            *) uri="nbds+unix:///tank/v?socket=$T/$setting.sock&tls-certificates=$T/pki/alice&tls-verify-peer=false" ;;
            esac
            nbdinfo --size "$uri" >size 2>refusal && seen+=("$setting:$how") || grep -q -i tls refusal
        done
    done
    expect "off:plain on:plain on:key on:certificate require:key require:certificate nbd:key nbd:certificate" "${seen[*]}" "served"
    fails_with 2 "nbds means that TLS is required" "$BUILD/quarryd" --socket "$T/x" --listen "nbds+unix:///?socket=$T/y.sock&tls=off"
}

# Who a client is, a certificate's name or the user of a key, decides what it sees and may change.
test_exports_by_name() {
    make_certificates
    local key
    key=$(openssl rand -hex 32)
    echo "bob:$key" >>pki/keys.psk
    start_tls --tls-certificates "$T/pki/server" --tls-psk-file "$T/pki/keys.psk" \
        --listen "nbd+unix:///?socket=$T/offered.sock&tls=on" \
        --export "tank/v ro" --export "tank/alice tls alice" --export "tank/b* tls bob" --export "tank/bob ro tls alice"
    quarry volume create tank/alice 64M
    quarry volume create tank/bob 64M
    seen() { nbdinfo --list --json "$1" | json "sorted((e['export-name'], e['is_read_only']) for e in d['exports'])"; }
    local by_certificate="nbds://localhost:$PORT/?tls-certificates=$T/pki" by_key="@/?socket=$T/tls.sock&tls-psk-file=$T/pki/keys.psk"
    expect "[('tank/alice', False), ('tank/bob', True), ('tank/v', True)]" "$(seen "$by_certificate/alice")" "seen by alice"
    expect "[('tank/alice', False), ('tank/bob', True), ('tank/v', True)]" "$(seen "nbds+unix://alice$by_key")" "seen by alice with a key"
    expect "[('tank/bob', False), ('tank/v', True)]" "$(seen "nbds+unix://bob$by_key")" "seen by bob"
    expect "[('tank/v', True)]" "$(seen "$by_certificate/none")" "seen by who has no certificate"
    # GnuTLS does not show a certificate that nobody here can believe
    expect "[('tank/v', True)]" "$(seen "$by_certificate/mallory")" "seen by mallory"
    refuses nbdinfo "nbds+unix://bob@/tank/alice?socket=$T/tls.sock&tls-psk-file=$T/pki/keys.psk"
    # where TLS is offered: what is there with it, and what is not at all, are told of alike without it
    expect "[('tank/v', True)]" "$(seen "nbd+unix:///?socket=$T/offered.sock")" "seen without TLS"
    openssl req -new -key pki/mallory.key -subj /CN=alice -out pki/forged.csr
    openssl x509 -req -in pki/forged.csr -CA pki/other.pem -CAkey pki/other.key -days 2 -out pki/forged.pem 2>/dev/null
    $PYTHON - "$T" <<'PYTHON'
import ssl, sys
import nbd_bytes as n
def listed(certificate, key):
    c = n.Client(sys.argv[1] + "/offered.sock")
    assert c.final(n.STARTTLS) == n.ACK
    context = ssl.create_default_context(cafile=sys.argv[1] + "/pki/ca.pem")
    context.load_cert_chain(sys.argv[1] + certificate, sys.argv[1] + key)
    c.s = context.wrap_socket(c.s, server_hostname="localhost")
    return [data[4:].decode() for kind, data in c.option(n.LIST) if kind == n.SERVER]
assert listed("/pki/alice.pem", "/pki/alice.key") == ["tank/alice", "tank/bob", "tank/v"]
try:
    sys.exit(f"with a certificate that mallory made for alice: {listed('/pki/forged.pem', '/pki/mallory.key')}")
except (ssl.SSLError, ConnectionError, n.Closed):
    pass
c = n.Client(sys.argv[1] + "/offered.sock")
c.final(n.STRUCTURED_REPLY)
hidden = [c.go("tank/alice", option=n.INFO)[-1], c.go("tank/alice")[-1], c.go("tank/none")[-1], c.go("tank/bob")[-1], c.go("x")[-1]]
assert hidden[0][0] == n.ERR_TLS_REQD and len(set(hidden)) == 1, hidden
assert c.meta(n.LIST_META, "tank/alice")[-1][0] == n.ERR_UNKNOWN
assert c.go("tank/v")[-1][0] == n.ACK
PYTHON
}

test_peers_are_verified_if_so_wished() {
    make_certificates
    start_tls --tls-certificates "$T/pki/server" --tls-verify-peer on
    expect 67108864 "$(nbdinfo --size "$(tls_uri alice)")" "size"
    refuses nbdinfo "$(tls_uri none)"
    refuses nbdinfo "$(tls_uri mallory)"
    expect 67108864 "$(nbdinfo --size "$(tls_uri alice)")" "size, after those"
}

test_a_revoked_certificate_is_refused() {
    make_certificates
    (
        cd pki
        : >index
        echo 01 >number
        printf '[ca]\ndefault_ca=c\n[c]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=2\n' >ca.cnf
        openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -revoke alice.pem
        openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -gencrl -out server/ca-crl.pem
    ) >ca.log 2>&1
    start_tls --tls-certificates "$T/pki/server"
    refuses nbdinfo "$(tls_uri alice)"
    expect 67108864 "$(nbdinfo --size "$(tls_uri none)")" "size, without a certificate"
}

test_versions() {
    make_certificates
    start_tls --tls-certificates "$T/pki/server"
    $PYTHON - "$T" <<'PYTHON'
import ssl, sys, warnings
import nbd_bytes as n
warnings.simplefilter("ignore")
for version, good in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)):
    c = n.Client(sys.argv[1] + "/tls.sock")
    assert c.final(n.STRUCTURED_REPLY) == n.ERR_TLS_REQD
    assert c.final(n.LIST) == n.ERR_TLS_REQD
    assert c.go("tank/v")[-1][0] == n.ERR_TLS_REQD
    assert c.final(n.STARTTLS, b"x") == n.ERR_INVALID
    assert c.final(n.STARTTLS) == n.ACK
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_verify_locations(sys.argv[1] + "/pki/ca.pem")
    context.minimum_version = context.maximum_version = version
    try:
        c.s = context.wrap_socket(c.s, server_hostname="localhost")
    except (ssl.SSLError, OSError):
        assert not good, version
        continue
    assert good, version
    assert c.final(n.STARTTLS) == n.ERR_INVALID  # it is there
    c.start("tank/v")
    assert c.ask(n.WRITE, 0, 4095, 100000, b"tls" * 33333 + b"x")[0] == 0
    error, chunks = c.ask(n.READ, 0, 4095, 100000)
    assert error == 0 and chunks[0][1][8:] == b"tls" * 33333 + b"x"
    c.request(n.DISC)
    assert c.closed()
PYTHON
}

# A client that says it would have spoken a later version was talked out of it by somebody in between; weak ciphers are
# not there to be talked into; a key that is wrong proves nothing, in either version.
test_downgrades_are_refused() {
    make_certificates
    start_tls --tls-certificates "$T/pki/server" --tls-psk-file "$T/pki/keys.psk"
    $PYTHON - "$T" <<'PYTHON'
import sys
import nbd_bytes as n
from tls_client import Tls
folder = sys.argv[1]
key = open(folder + "/pki/keys.psk").read().strip().split(":")[1]
wrong = key[:-1] + ("1" if key[-1] == "0" else "0")
psk = lambda key, *options: [*options, "-psk_identity", "alice", "-psk", key]
for good, options in ((True, ["-tls1_2"]), (True, ["-tls1_3", "-fallback_scsv"]), (False, ["-tls1_2", "-fallback_scsv"]),
                      (False, ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]), (False, ["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"]),
                      (False, ["-tls1_2", "-cipher", "aNULL:eNULL:@SECLEVEL=0"]),
                      (True, psk(key, "-tls1_2", "-cipher", "PSK")), (False, psk(wrong, "-tls1_2", "-cipher", "PSK")),
                      (True, psk(key, "-tls1_3")), (False, psk(wrong, "-tls1_3"))):
    c = n.Client(folder + "/tls.sock")
    assert c.final(n.STARTTLS) == n.ACK
    c.s.settimeout(None)
    c.s = Tls(c.s, folder + "/pki/ca.pem", *options)
    try:
        c.start("tank/v")
        served = c.ask(n.FLUSH)[0] == 0
    except (n.Closed, OSError):
        served = False
    assert served == good, options
PYTHON
    grep -q 'inappropriate fallback' quarryd.log
}

# Within a connection: new keys, which TLS 1.3 has (GnuTLS takes them now and then), are followed; a renegotiation,
# which TLS 1.2 has, is refused, and at once: refusals that nobody reads would be hoarded.
test_new_keys_are_followed_and_renegotiation_ends_it() {
    make_certificates
    start_tls --tls-certificates "$T/pki/server"
    $PYTHON - "$T" <<'PYTHON'
import signal, sys
import nbd_bytes as n
from tls_client import Tls
signal.alarm(60)
def secured(version):
    c = n.Client(sys.argv[1] + "/tls.sock")
    assert c.final(n.STARTTLS) == n.ACK
    c.s.settimeout(None)
    c.s = Tls(c.s, sys.argv[1] + "/pki/ca.pem", version)
    c.start("tank/v")
    return c
def good(c, data):
    assert c.ask(n.WRITE, 0, 4095, len(data), data)[0] == 0
    assert c.ask(n.READ, n.DF, 4095, len(data))[1][0][1][8:] == data
c = secured("-tls1_3")
for turn in range(10):
    c.s.command(b"K" if turn % 2 else b"k")  # asks for the other side's new keys, too; or not
    good(c, bytes([turn + 1]) * 100000)
for turn in range(10):
    c.s.command(b"K")  # again and again, before anything was sent
good(c, b"y" * 100000)
c = secured("-tls1_2")
good(c, b"x" * 100000)
c.s.command(b"R")
assert c.closed()
PYTHON
    expect 67108864 "$(nbdinfo --size "$(tls_uri none)")" "size, after those"
}

# SIGHUP: who comes later sees the new certificate, who is there goes on; files that are broken change nothing.
test_certificates_are_read_again() {
    make_certificates
    start_tls --tls-certificates "$T/pki/server"
    openssl x509 -req -in pki/server.csr -CA pki/ca.pem -CAkey pki/ca.key -days 3 \
        -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1") -out pki/renewed.pem 2>/dev/null
    $PYTHON - "$T" "$DAEMON" <<'PYTHON'
import os, shutil, signal, ssl, sys, time
import nbd_bytes as n
folder, daemon = sys.argv[1], int(sys.argv[2])
def connect():
    c = n.Client(folder + "/tls.sock")
    assert c.final(n.STARTTLS) == n.ACK
    context = ssl.create_default_context(cafile=folder + "/pki/ca.pem")
    c.s = context.wrap_socket(c.s, server_hostname="localhost")
    serial = c.s.getpeercert()["serialNumber"]
    c.start("tank/v")
    return c, serial
def reload(word):
    log = folder + "/quarryd.log"
    seen = open(log).read().count(word)
    os.kill(daemon, signal.SIGHUP)
    end = time.monotonic() + 60
    while open(log).read().count(word) == seen:
        assert time.monotonic() < end, "the daemon does not say: " + word
        time.sleep(0.02)
first, old = connect()
assert connect()[1] == old
shutil.copy(folder + "/pki/renewed.pem", folder + "/pki/server/server-cert.pem")
assert connect()[1] == old  # not before it is told
reload("were read again")
second, new = connect()
assert new != old
open(folder + "/pki/server/server-key.pem", "w").write("no key\n")
reload("goes on with what it had")
third, still = connect()
assert still == new
for c in first, second, third:
    assert c.ask(n.WRITE, 0, 0, 4096, b"x" * 4096)[0] == 0
PYTHON
}

test_plaintext_behind_starttls_is_not_believed() {
    make_certificates
    start_tls --tls-certificates "$T/pki/server" --tls on
    $PYTHON - "$T" <<'PYTHON'
import struct, sys
import nbd_bytes as n
option = lambda code, data=b"": struct.pack(">QII", n.OPT_MAGIC, code, len(data)) + data
# In one packet: an option that somebody in between would like to be taken for the client's.
for path in ("/tls.sock", "/nbd.sock"):
    c = n.Client(sys.argv[1] + path)
    c.send(option(n.STARTTLS) + option(n.STRUCTURED_REPLY) + option(n.LIST))
    try:
        assert struct.unpack(">QIII", c.take(20))[1:3] == (n.STARTTLS, n.ACK)
        data = c.take(100000)
        raise SystemExit(f"the injected options were answered: {data}")
    except n.Closed:
        pass
# Rubbish in the place of a handshake, and nothing at all: the server and others live on.
c = n.Client(sys.argv[1] + "/tls.sock")
assert c.final(n.STARTTLS) == n.ACK
c.send(b"GET / HTTP/1.0\r\n\r\n" * 100)
try:
    while True:
        c.take(1)
except n.Closed:
    pass
# Where TLS is only offered, plaintext works; what was agreed on in plaintext is forgotten with TLS.
c = n.Client(sys.argv[1] + "/nbd.sock")
c.start("tank/v")
assert c.ask(n.FLUSH)[0] == 0
PYTHON
    expect 67108864 "$(nbdinfo --size "$(tls_uri none)")" "size, after those"
}

# Clients that stop at each point of the TLS handshake hold their place only for so long, and those that go
# away there leave nothing behind.
test_unfinished_handshakes_end() {
    make_certificates
    start_tls --tls-certificates "$T/pki/server" --handshake-timeout 2
    $PYTHON - "$T" <<'PYTHON'
import ssl, sys
import nbd_bytes as n
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(sys.argv[1] + "/pki/ca.pem")
out, incoming = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, out, server_hostname="localhost")
try:
    tls.do_handshake()
except ssl.SSLWantReadError:
    pass
hello = out.read()
stopped = []
for cut in (0, 1, 5, 100, len(hello) - 1, len(hello)):
    for goes_away in (True, False):
        c = n.Client(sys.argv[1] + "/tls.sock")
        assert c.final(n.STARTTLS) == n.ACK
        c.send(hello[:cut])
        if goes_away:
            c.s.close()
        else:
            stopped.append(c)
for c in stopped:
    try:
        while True:
            c.take(1)  # the server's part of the handshake, if it came to that
    except n.Closed:
        pass
PYTHON
    expect 67108864 "$(nbdinfo --size "$(tls_uri none)")" "size, after those"
}

test_broken_credentials_are_named() {
    make_certificates
    mkdir empty
    echo "alice:xyz" >bad.psk
    local flags=(--socket "$SOCK" --listen "nbds+unix:///?socket=$T/x.sock")
    fails_with 1 "TLS needs tls-certificates" "$BUILD/quarryd" "${flags[@]}"
    fails_with 1 "cannot read .*empty/server-cert.pem" "$BUILD/quarryd" "${flags[@]}" --tls-certificates empty
    fails_with 1 "bad.psk:1: wanted is USER:KEY" "$BUILD/quarryd" "${flags[@]}" --tls-psk-file bad.psk
    fails_with 1 "cannot open nosuch" "$BUILD/quarryd" "${flags[@]}" --tls-psk-file nosuch
    cp pki/alice.key pki/server/server-key.pem
    fails_with 1 "server-key.pem: key values mismatch" "$BUILD/quarryd" "${flags[@]}" --tls-certificates pki/server
}

run_tests
