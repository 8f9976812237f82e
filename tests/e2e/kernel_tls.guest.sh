# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# quarryd on a kernel that has TLS; who its clients are, and what they do, is decided outside.
step "serve"
modprobe tls
echo "kernel $(uname -r)"
mkdir /tmp/pki
cp /e2e/*.pem /tmp/pki
serve() { exec /e2e/quarryd --log-level debug --tls-certificates /tmp/pki --node-cache 16MiB "$@" 2>&1; }
serve --socket /tmp/q.sock --listen nbds://0.0.0.0 &
daemon=$!
serve --socket /tmp/plain.sock --listen nbds://0.0.0.0:10810 --tls-kernel off &
plain=$!
quarry() { /e2e/quarry --socket /tmp/q.sock "$@"; }
wait_until quarry pool list
wait_until /e2e/quarry --socket /tmp/plain.sock pool list
truncate -s 300M /tmp/disk
quarry pool create tank /tmp/disk
quarry volume create tank/v 64M
quarry volume create tank/done 1M
echo "ask clients"
written() { quarry volume list -p -H -o name,used | grep -q -E 'tank/done\s+[1-9]'; }
wait_until written

step "see"
cat /proc/net/tls_stat
count() { sed -n "s/^$1 *\t*//p" /proc/net/tls_stat; }
[ "$(count TlsTxSw)" -ge 12 ]
[ "$(count TlsRxSw)" = 0 ]
[ "$(count TlsTxDevice)" = 0 ]
none() { [ "$(count TlsCurrTxSw)" = 0 ]; }
wait_until none
kill -TERM $daemon $plain
wait $daemon
wait $plain
kernel_is_content
step "done"
