# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2153
step "attach, 4 connections"
attach 0 tank/v -C 4
echo "fua $(cat /sys/block/nbd0/queue/fua), discard $(cat /sys/block/nbd0/queue/discard_max_bytes), $(cat /sys/block/nbd0/queue/write_cache)"
[ "$(cat /sys/block/nbd0/queue/discard_max_bytes)" != 0 ]
step "ext4"
mkfs.ext4 -q -F /dev/nbd0
mount /dev/nbd0 /mnt
fio_verify /mnt
rm /mnt/*verify*
for i in 1 2 3 4 5 6; do head -c $((i * 1500000)) /dev/urandom >/mnt/file$i; done
mkdir /mnt/many
for i in $(seq 100); do echo "$i" >/mnt/many/$i; done
sums /mnt >/tmp/sums
sync # what is only in the guest cannot be in a snapshot

step "a snapshot while it is written"
(i=0; while [ ! -e /tmp/stop ]; do i=$((i + 1)); head -c 300000 /dev/urandom >/mnt/writing$((i % 5)); done) &
writer=$!
echo "ask live"
wait_until listed tank/clone
: >/tmp/stop
wait $writer
rm /mnt/writing*

step "a snapshot while it is frozen"
fsfreeze -f /mnt
echo "ask frozen"
wait_until listed tank/v@frozen
fsfreeze -u /mnt

step "space comes back"
head -c 40000000 /dev/urandom >/mnt/large
sync
echo "ask space"
wait_until listed tank/measured
rm /mnt/large
sync # before, the blocks are not free yet
fstrim -v /mnt
sync
echo "ask trimmed"
umount /mnt
detach 0

step "resize"
echo "ask resize"
attached_with() { attach 0 tank/v -C 4 && [ "$(blockdev --getsize64 /dev/nbd0)" = "$1" ] || { detach 0; false; }; }
wait_until attached_with 536870912
e2fsck -fn /dev/nbd0 >/tmp/fsck 2>&1 || { cat /tmp/fsck; false; }
mount /dev/nbd0 /mnt
resize2fs /dev/nbd0 >/dev/null 2>&1
[ "$(df --output=size -k /mnt | tail -n 1)" -gt 400000 ]
(cd /mnt && md5sum --quiet -c /tmp/sums)
umount /mnt
e2fsck -fn /dev/nbd0 >/tmp/fsck 2>&1 || { cat /tmp/fsck; false; }
detach 0

step "the frozen snapshot, read-only"
attach 1 tank/v@frozen
[ "$(cat /sys/block/nbd1/ro)" = 1 ]
mount -o ro /dev/nbd1 /mnt
(cd /mnt && md5sum --quiet -c /tmp/sums)
umount /mnt
detach 1

step "the clone of what was being written"
attach 2 tank/clone -C 2
mount /dev/nbd2 /mnt # its journal is played
(cd /mnt && md5sum --quiet -c /tmp/sums)
echo new >/mnt/new
umount /mnt
e2fsck -fn /dev/nbd2 >/tmp/fsck 2>&1 || { cat /tmp/fsck; false; }
detach 2

step "xfs"
attach 3 tank/x -C 4
mkfs.xfs -q -f /dev/nbd3
mount /dev/nbd3 /mnt
fio_verify /mnt
fstrim /mnt
umount /mnt
xfs_repair -n /dev/nbd3 >/tmp/repair 2>&1 || { cat /tmp/repair; false; }
detach 3
kernel_is_content
step "done"
