# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2153
# open-iscsi: CHAP, digests, xfs, discard, a resize, and a daemon that is killed while it is written to.
discover() { # [USER SECRET]
    rm -rf /var/lib/iscsi/*
    iscsiadm -m discoverydb -t st -p "$HOST:$PORT" -o new >/dev/null
    if [ -n "${1:-}" ]; then
        iscsiadm -m discoverydb -t st -p "$HOST:$PORT" -o update -n discovery.sendtargets.auth.authmethod -v CHAP
        iscsiadm -m discoverydb -t st -p "$HOST:$PORT" -o update -n discovery.sendtargets.auth.username -v "$1"
        iscsiadm -m discoverydb -t st -p "$HOST:$PORT" -o update -n discovery.sendtargets.auth.password -v "$2"
    fi
    iscsiadm -m discoverydb -t st -p "$HOST:$PORT" --discover
}
step "discovery"
discover >/tmp/found || true
grep -q "$OPEN_IQN" /tmp/found
not grep -q "$IQN" /tmp/found
discover host "the secret of host" >/tmp/found
grep -q "$IQN" /tmp/found
cat /tmp/found
rm -rf /var/lib/iscsi/*

step "CHAP"
record "$IQN" "$PORT"
rc=0; login "$IQN" "$PORT" || rc=$?
[ $rc = 24 ] # iscsiadm: login failed, authorization
set_record "$IQN" "$PORT" node.session.auth.authmethod CHAP
set_record "$IQN" "$PORT" node.session.auth.username host
set_record "$IQN" "$PORT" node.session.auth.password "the secret of hose"
rc=0; login "$IQN" "$PORT" || rc=$?
[ $rc = 24 ]
set_record "$IQN" "$PORT" node.session.auth.password "the secret of host"
for algorithm in MD5 SHA1 SHA256 SHA3-256; do
    set_record "$IQN" "$PORT" node.session.auth.chap_algs $algorithm
    must_login "$IQN" "$PORT"
    logout "$IQN" "$PORT"
done
step "mutual CHAP, digests"
set_record "$IQN" "$PORT" node.session.auth.username_in store
set_record "$IQN" "$PORT" node.session.auth.password_in "another secret"
not login "$IQN" "$PORT"
set_record "$IQN" "$PORT" node.session.auth.password_in "the secret of store"
set_record "$IQN" "$PORT" "node.conn[0].iscsi.HeaderDigest" CRC32C
set_record "$IQN" "$PORT" "node.conn[0].iscsi.DataDigest" CRC32C
must_login "$IQN" "$PORT"
iscsiadm -m session -P 2 >/tmp/session
grep -q "HeaderDigest: CRC32C" /tmp/session
grep -q "DataDigest: CRC32C" /tmp/session
grep -E 'Digest|Burst|ImmediateData|InitialR2T|RecvData|XmitData|MaxOutst' /tmp/session
wait_until disk_at "$IQN"
disk=$DISK
queue=/sys/block/${disk#/dev/}/queue
echo "$disk: fua $(cat "$queue/fua"), $(cat "$queue/write_cache"), discard $(cat "$queue/discard_max_bytes"), write zeroes $(cat "$queue/write_zeroes_max_bytes")"
[ "$(cat "$queue/fua")" = 1 ]
[ "$(cat "$queue/write_cache")" = "write back" ]
[ "$(cat "$queue/discard_max_bytes")" != 0 ]

step "mkfs.xfs, fio verify"
mkfs.xfs -q -f "$disk"
mount "$disk" /mnt
fio_verify /mnt
rm /mnt/*verify*
for i in 1 2 3 4 5 6; do head -c $((i * 1500000)) /dev/urandom >/mnt/file$i; done
sums /mnt >/tmp/sums

step "space comes back"
head -c 40000000 /dev/urandom >/mnt/large
sync
echo "ask space"
grown() { iscsiadm -m session -R >/dev/null && has_size "$disk" "$1"; }
wait_until grown 604012544 # 576 MiB and 32 KiB: the sign that it was measured
rm /mnt/large
sync
fstrim -v /mnt
sync
echo "ask trimmed"

step "resize with a rescan"
wait_until grown 805306368
xfs_growfs /mnt >/dev/null
[ "$(df --output=size -k /mnt | tail -n 1)" -gt 700000 ]
(cd /mnt && md5sum --quiet -c /tmp/sums)
iscsi_is_content

step "restarts under load"
write_files
for round in 1 2 3; do
    wait_until written 1
    before=$(cat /tmp/written)
    echo "ask restart $round"
    again() { [ "$(dmesg | grep -c 'detected conn error')" -ge "$round" ]; }
    wait_until again
    before=$(cat /tmp/written)
    wait_until written $((before + 5)) # it goes on
    step "it goes on: restart $round"
done
stop_writing
umount /mnt
logout "$IQN" "$PORT"
must_login "$IQN" "$PORT"
wait_until disk_at "$IQN"
xfs_repair -n "$DISK" >/tmp/repair 2>&1 || { cat /tmp/repair; false; }
mount "$DISK" /mnt
files_are_right
(cd /mnt && md5sum --quiet -c /tmp/sums)
umount /mnt
logout "$IQN" "$PORT"
iscsi_is_content
step "done"
