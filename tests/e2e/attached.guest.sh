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

# Files, and what they should be; each is on the disk when it is counted.
(
    for ((i = 0; ; i++)); do
        [ ! -e /tmp/stop ] || break
        seq "$i" $((i + 20000)) >/mnt/file$((i % 40))
        sync /mnt/file$((i % 40)) || { : >/tmp/failed; break; }
        echo "$i" >/tmp/written
    done
) &
writer=$!
written() { [ "$(cat /tmp/written)" -ge "$1" ]; }

for round in 1 2 3 4; do
    step "restart $round"
    wait_until written 1
    before=$(cat /tmp/written)
    echo "ask restart $round"
    again() { [ "$(grep -c 'connected again' /tmp/attach)" -ge "$round" ]; }
    wait_until again
    wait_until written $((before + 3)) # it goes on
done
: >/tmp/stop
wait $writer
[ ! -e /tmp/failed ]
last=$(cat /tmp/written)
echo "$last files were written"
echo 3 >/proc/sys/vm/drop_caches
for ((i = last; i > last - 40 && i >= 0; i--)); do
    [ "$(seq "$i" $((i + 20000)) | md5sum)" = "$(md5sum </mnt/file$((i % 40)))" ]
done
umount /mnt
e2fsck -fn /dev/nbd0 >/tmp/fsck 2>&1 || { cat /tmp/fsck; false; }

step "detach"
kill -TERM $attach
wait $attach
wait_until test ! -e /sys/block/nbd0/pid
cat /tmp/attach
kernel_is_content
step "done"
