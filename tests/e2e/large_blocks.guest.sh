# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2153
# open-iscsi with all that it can ask to be small: each write waits for its R2T.
step "blocks of 4096 bytes, without unsolicited data"
record "$IQN" "$PORT"
set_record "$IQN" "$PORT" node.session.iscsi.InitialR2T Yes
set_record "$IQN" "$PORT" node.session.iscsi.ImmediateData No
set_record "$IQN" "$PORT" node.session.iscsi.MaxBurstLength 65536
set_record "$IQN" "$PORT" node.session.iscsi.FirstBurstLength 16384
set_record "$IQN" "$PORT" "node.conn[0].iscsi.MaxRecvDataSegmentLength" 8192
must_login "$IQN" "$PORT"
iscsiadm -m session -P 2 | grep -q "InitialR2T: Yes"
wait_until disk_at "$IQN"
[ "$(blockdev --getss "$DISK")" = 4096 ]
mkfs.ext4 -q -F "$DISK"
mount "$DISK" /mnt
fio_verify /mnt
umount /mnt
e2fsck -fn "$DISK" >/tmp/fsck 2>&1 || { cat /tmp/fsck; false; }
blkdiscard -f "$DISK"
[ "$(tr -d '\0' <"$DISK" | wc -c)" = 0 ]
logout "$IQN" "$PORT"
iscsi_is_content
step "done"
