# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2153
# A filesystem on `quarry attach`, written while the server goes away and comes back.
step "attach"
/e2e/quarry attach "nbd://$HOST:$PORT/tank/v" /dev/nbd0 </dev/null >/tmp/attach 2>&1 &
attach=$!
wait_until sized 0
mkfs.ext4 -q -F /dev/nbd0
mount /dev/nbd0 /mnt

write_files

for round in 1 2 3 4; do
    step "restart $round"
    wait_until written 1
    before=$(cat /tmp/written)
    echo "ask restart $round"
    again() { [ "$(grep -c 'connected again' /tmp/attach)" -ge "$round" ]; }
    wait_until again
    wait_until written $((before + 3)) # it goes on
done
stop_writing
echo 3 >/proc/sys/vm/drop_caches
files_are_right
umount /mnt
e2fsck -fn /dev/nbd0 >/tmp/fsck 2>&1 || { cat /tmp/fsck; false; }

step "detach"
kill -TERM $attach
wait $attach
wait_until test ! -e /sys/block/nbd0/pid
cat /tmp/attach
kernel_is_content
step "done"
