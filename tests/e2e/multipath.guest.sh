# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2153
# dm-multipath over two portals; one path is cut while files are written: reset first, then silent.
step "two paths"
modprobe dm-multipath
modprobe dm-service-time
cat >/etc/multipath.conf <<'CONF'
defaults {
    find_multipaths no
    user_friendly_names no
    path_grouping_policy multibus
    path_selector "round-robin 0"
    no_path_retry 60
    polling_interval 1
    max_polling_interval 2
}
CONF
modprobe dm-round-robin
for port in "$PORT" "$PORT2"; do
    record "$IQN" "$port"
    set_record "$IQN" "$port" node.session.timeo.replacement_timeout 5
    set_record "$IQN" "$port" "node.conn[0].timeo.noop_out_interval" 2
    set_record "$IQN" "$port" "node.conn[0].timeo.noop_out_timeout" 3
done
multipathd -d -s >/tmp/multipathd 2>&1 &
must_login "$IQN" "$PORT"
must_login "$IQN" "$PORT2"
wait_until disk_at "$IQN" ":$PORT,"
one=$DISK
wait_until disk_at "$IQN" ":$PORT2,"
two=$DISK
active() { [ "$(multipathd show paths raw format "%d %t" | grep -c " active")" = "$1" ]; }
wait_until active 2
wwid=$(multipathd show maps raw format "%n" | head -n 1)
disk=/dev/mapper/$wwid
wait_until test -e "$disk"
multipath -ll
# Both are one unit: the same names, by whatever path.
sg_vpd -p 0x83 "$one" >/tmp/one
sg_vpd -p 0x83 "$two" >/tmp/two
cmp /tmp/one /tmp/two
fio --name=ends --filename="$disk" --rw=randread --bs=4k --iodepth=8 --ioengine=libaio --direct=1 --number_ios=400 \
    --size=64m --output=/tmp/fio.log
used() { awk -v disk="$1" '$3 == disk { print $4 }' /proc/diskstats; }
[ "$(used "${one#/dev/}")" -gt 100 ]
[ "$(used "${two#/dev/}")" -gt 100 ]

step "xfs, written while paths go and come"
mkfs.xfs -q -f "$disk"
mount "$disk" /mnt
write_files
goes_on() { wait_until written $(($(cat /tmp/written) + 10)); }
wait_until written 10
for how in reset silent; do
    echo "ask $how"
    wait_until active 1
    step "one path is left ($how)"
    goes_on
    echo "ask $how again"
    wait_until active 2
    step "two paths again"
    goes_on
done
echo "ask restart"
wait_until active 0
step "no path is left"
wait_until active 2
step "both are there again"
goes_on
stop_writing
fio_verify /mnt
umount /mnt
xfs_repair -n "$disk" >/tmp/repair 2>&1 || { cat /tmp/repair; false; }
echo 3 >/proc/sys/vm/drop_caches
mount "$disk" /mnt
files_are_right
umount /mnt
# Paths have failed; the map has not, and neither has the filesystem.
kernel_never_said 'dm-[0-9]+.*I/O error|I/O error.*dm-[0-9]|BUG|Oops|XFS.*(error|orrupt)|hung task'
step "done"
