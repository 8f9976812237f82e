#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 180
#
# Who sees which exports, who may change them, and who may not hold a place: addresses, listeners,
# limits, timeouts, sockets that systemd hands over, and clients that outlive the daemon.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

# The port of the TCP listener.
port() {
    sed -n 's/.*listening at nbds\{0,1\}:\/\/127.0.0.1:\([0-9]*\).*/\1/p' quarryd.log | tail -n 1
}

names_at() {
    nbdinfo --list --json "$1" | json "sorted(e['export-name'] for e in d['exports'])"
}

test_rules_by_address_and_listener() {
    start_daemon --listen nbd://127.0.0.1:0 --listen "nbd+unix:///?socket=$T/second.sock" \
        --export 'tank/* ro' --export 'tank/* from unix' --export '!tank/secret*' \
        --export "tank/secret at nbd+unix:///?socket=$T/second.sock"
    make_pool
    local v
    for v in a secret; do quarry volume create tank/$v 64M; done
    quarry snapshot create tank/a@s tank/secret@s
    expect "['tank/a', 'tank/a@s']" "$(names_at "nbd+unix:///?socket=$NBD_SOCK")" "seen at the first socket"
    expect "['tank/a', 'tank/a@s', 'tank/secret']" "$(names_at "nbd+unix:///?socket=$T/second.sock")" "seen at the second"
    expect "['tank/a', 'tank/a@s']" "$(names_at "nbd://127.0.0.1:$(port)")" "seen over TCP"
    # what is hidden cannot be opened either, nor compared with
    refuses nbdinfo "$(uri secret)"
    refuses nbdinfo "nbd://127.0.0.1:$(port)/tank/secret"
    refuses nbdinfo --map=quarry:diff:s "nbd+unix:///tank/secret?socket=$T/second.sock"
    nbdinfo --map=quarry:diff:s "$(uri a)" >/dev/null
    # over TCP everything is read-only
    qemu-io -f raw -c 'write -P 1 0 64k' "$(uri a)" >/dev/null
    expect True "$(nbdinfo --json "nbd://127.0.0.1:$(port)/tank/a" | json "d['exports'][0]['is_read_only']")" "read-only"
    $PYTHON - "$(port)" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(f"nbd://127.0.0.1:{sys.argv[1]}/tank/a")
try:
    h.pwrite(b"x" * 512, 0)
    sys.exit("it could be written")
except nbd.Error as error:
    assert error.errno == "EPERM", error.errno
assert h.pread(65536, 0) == b"\x01" * 65536
PYTHON
}

test_connections_are_limited_per_client_and_in_total() {
    start_daemon --listen nbd://127.0.0.1:0 --connections 5 --connections-per-client 2
    make_pool
    quarry volume create tank/a 64M
    $PYTHON - "$(port)" "$NBD_SOCK" <<'PYTHON'
import os, socket, sys, time
import nbd_bytes as n
def tcp(address):
    s = socket.socket()
    s.settimeout(60)
    s.bind((address, 0))
    s.connect(("127.0.0.1", int(sys.argv[1])))
    return s
def greeted(s):
    try:
        return len(s.recv(18, socket.MSG_WAITALL)) == 18
    except ConnectionError:
        return False
first = [tcp("127.0.0.2") for _ in range(3)]
assert [greeted(s) for s in first] == [True, True, False]
other = tcp("127.0.0.3")
assert greeted(other)  # another client is not concerned
first[0].close()
while True:  # the place is free when the server has seen it
    again = tcp("127.0.0.2")
    if greeted(again):
        break
# over a Unix socket a client is a user of this machine
def refused_at_socket():
    try:
        n.Client(sys.argv[2])
        return False
    except (n.Closed, ConnectionError):
        return True
local = [n.Client(sys.argv[2]) for _ in range(2)]
for c in local:
    c.start("tank/a")
assert refused_at_socket(), "a third of this user"
other.close()
if os.getuid() == 0:
    os.chmod(sys.argv[2], 0o666)
    os.chmod(os.path.dirname(sys.argv[2]), 0o755)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        while refused_at_socket():  # until the server has seen that one is gone
            time.sleep(0.01)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
late = tcp("127.0.0.4")  # and all together they are five
while not greeted(late):
    late = tcp("127.0.0.4")
assert not greeted(tcp("127.0.0.5")), "a sixth connection"
assert local[0].ask(n.FLUSH)[0] == 0
PYTHON
}

test_silent_clients_are_disconnected() {
    start_daemon --handshake-timeout 1 --idle-timeout 1
    make_pool
    quarry volume create tank/a 64M
    $PYTHON - "$NBD_SOCK" <<'PYTHON'
import sys, time
import nbd_bytes as n
silent = n.Client(sys.argv[1])
idle = n.Client(sys.argv[1])
idle.start("tank/a")
busy = n.Client(sys.argv[1])
busy.start("tank/a")
end = time.monotonic() + 2.5
while time.monotonic() < end:
    assert busy.ask(n.READ, 0, 0, 512)[0] == 0
    time.sleep(0.05)  # a client that asks now and then
assert silent.closed() and idle.closed()
assert busy.ask(n.FLUSH)[0] == 0
PYTHON
}

# As systemd does it: two sockets from 3 on, one of them named.
test_sockets_from_systemd() {
    $PYTHON - "$BUILD/quarryd" "$SOCK" "$T" >quarryd.pid <<'PYTHON'
import os, socket, sys
unix = socket.socket(socket.AF_UNIX)
unix.bind(sys.argv[3] + "/passed.sock")
unix.listen()
tcp = socket.socket()
tcp.bind(("127.0.0.1", 0))
tcp.listen()
print(tcp.getsockname()[1], file=open(sys.argv[3] + "/port", "w"))
pid = os.fork()
if pid == 0:
    low = os.dup2(unix.fileno(), 100), os.dup2(tcp.fileno(), 101)
    os.dup2(100, 3)
    os.dup2(101, 4)
    log = os.open(sys.argv[3] + "/quarryd.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(5, 200)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="local:")
    os.execv(sys.argv[1], [sys.argv[1], "--socket", sys.argv[2], "--export", "* ro", "--export", "* at systemd:local"])
print(pid)
PYTHON
    local pid
    pid=$(cat quarryd.pid)
    $PYTHON "$HERE/ready.py" "$SOCK" "$pid" $((30 * SLOW))
    make_pool
    quarry volume create tank/a 64M
    qemu-io -f raw -c 'write -P 5 0 1M' "nbd+unix:///tank/a?socket=$T/passed.sock" >/dev/null
    expect True "$(nbdinfo --json "nbd://127.0.0.1:$(cat port)/tank/a" | json "d['exports'][0]['is_read_only']")" "read-only"
    grep -q 'ready: serves 2 sockets of systemd' quarryd.log
    kill -TERM "$pid"
    $PYTHON "$HERE/ready.py" --ended "$pid" $((60 * SLOW))
    [ -S passed.sock ] # systemd's, not ours to remove
    LISTEN_PID=1 LISTEN_FDS=1 fails_with 1 "." "$BUILD/quarryd" --socket "$SOCK" --listen nbd://192.0.2.1:1
}

# kill -9, or a stop, and a restart, again and again, under a client that writes and comes back: every write
# that was acknowledged is there, and the client only sees a pause.
test_a_client_that_retries_outlives_the_daemon() {
    start_with_pool
    quarry volume create tank/a 64M
    $PYTHON "$HERE/numbered_writer.py" "$(uri a)" &
    local client=$! i
    for i in 1 2 3 4; do
        sleep 0.5 # of writing
        if [ $((i % 2)) = 1 ]; then kill9_daemon; else stop_daemon; fi
        restart_with_pool
    done
    : >enough
    wait $client
    echo "# $(cat told) writes and reconnections"
    [ "$(cut -d ' ' -f 2 told)" -ge 3 ]
}

run_tests
