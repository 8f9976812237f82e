# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2153
# After the power was gone: what was told to be on the disk is there, and the filesystem is sound.
step "after the power came back: $SYNCED files are known"
attach 0 tank/v
mount /dev/nbd0 /mnt
for i in $(seq "$SYNCED"); do
    [ "$(seq "$i" $((i + 20000)) | md5sum)" = "$(md5sum </mnt/file$i)" ]
done
umount /mnt
e2fsck -fn /dev/nbd0 >/tmp/fsck 2>&1 || { cat /tmp/fsck; false; }
detach 0
kernel_is_content
