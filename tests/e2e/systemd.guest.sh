# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# quarryd as `make install` puts it into a system, run by systemd: restarted and killed under a filesystem on
# `quarry attach` here and a client outside; then behind a socket at which systemd listens.
trap 'echo "failed in line $LINENO: $BASH_COMMAND"; journalctl --no-pager -o cat -u quarryd | tail -n 20' ERR
step "install"
[ "$(cat /proc/1/comm)" = systemd ]
busybox tar -x -C / -f /e2e/installed.tar
mkdir -p /etc/quarry /var/lib/quarry
config() { printf '%s\n' 'listen:' '  - nbd://0.0.0.0:10809' 'node-cache: 16MiB' "$@" >/etc/quarry/quarry.yaml; }
config
systemctl daemon-reload
systemctl enable quarryd
systemctl start quarryd # it serves when this returns
truncate -s 900M /var/lib/quarry/disk
quarry pool create tank /var/lib/quarry/disk
for volume in fs v s; do quarry volume create tank/$volume 256M; done
for volume in v s; do quarry volume create tank/$volume.done 1M; done
config 'import:' '  - /var/lib/quarry/disk'
systemctl restart quarryd
quarry volume list

main_pid() { systemctl show -P MainPID quarryd; }
started_again() { [ "$(main_pid)" != "$1" ] && [ "$(systemctl is-active quarryd)" = active ] && quarry pool list; }
used() { quarry volume list -p -H -o name,used | awk -v volume="tank/$1" '$1 == volume { print $2 }'; }
used_beyond() { [ "$(used "$1")" -gt "$2" ]; }

# rounds VOLUME WAY…: it goes away in these ways while the client outside writes VOLUME, which goes on each time.
rounds() {
    local volume=$1 way pid files bytes
    echo "ask write $volume"
    wait_until used_beyond "$volume" 40000
    for way in "${@:2}"; do
        step "$way"
        pid=$(main_pid)
        case $way in
        restart) systemctl restart quarryd ;;
        kill) systemctl kill -s KILL quarryd ;; # Restart=on-failure
        stop)
            systemctl stop quarryd
            sleep 2 # away for a while; what is written meanwhile waits
            systemctl start quarryd
            ;;
        esac
        wait_until started_again "$pid"
        files=$(cat /tmp/written)
        bytes=$(used "$volume")
        [ -e /tmp/stop ] || wait_until written $((files + 2))
        wait_until used_beyond "$volume" $((bytes + 40000))
    done
    echo "$(used "$volume") bytes were written by the client outside"
    echo "ask verify $volume"
    wait_until used_beyond "$volume.done" 0
}

step "a filesystem on quarry attach"
quarry attach nbd://127.0.0.1/tank/fs /dev/nbd0 </dev/null >/tmp/attach 2>&1 &
attach=$!
wait_until sized 0
mkfs.ext4 -q -F /dev/nbd0
mount /dev/nbd0 /mnt
write_files
wait_until written 1
rounds v restart kill restart stop kill restart
stop_writing
[ "$(grep -c 'connected again' /tmp/attach)" -ge 6 ]
echo 3 >/proc/sys/vm/drop_caches
files_are_right
umount /mnt
e2fsck -fn /dev/nbd0 >/tmp/fsck 2>&1 || { cat /tmp/fsck; false; }
kill -TERM $attach
wait $attach
wait_until test ! -e /sys/block/nbd0/pid

step "a socket of systemd's"
printf '%s\n' '[Socket]' ListenStream=10810 FileDescriptorName=nbd >/etc/systemd/system/quarryd.socket
systemctl stop quarryd
systemctl daemon-reload
systemctl start quarryd.socket
[ "$(systemctl is-active quarryd || true)" = inactive ] # who connects, starts it
nbd-client -l 127.0.0.1 10810 >/tmp/exports
grep -q -x tank/s /tmp/exports
rounds s restart kill restart
systemctl stop quarryd.socket
systemctl stop quarryd
[ "$(systemctl show -P Result quarryd)" = success ]
quarry check --data /var/lib/quarry/disk >/tmp/check 2>&1 || { cat /tmp/check; false; }

step "a disk that comes late, a configuration that is wrong"
state() { [ "$(systemctl show -P ActiveState quarryd)" = "$1" ]; }
tried() { [ "$(systemctl show -P NRestarts quarryd)" -ge "$1" ]; }
mv /var/lib/quarry/disk /var/lib/quarry/away
not systemctl start quarryd
wait_until tried 7
mv /var/lib/quarry/away /var/lib/quarry/disk
wait_until state active
quarry volume list -H -o name | grep -q -x tank/v
systemctl stop quarryd
config 'nonsense: 1'
not systemctl start quarryd
state failed # nothing will be different the next time
not tried 1
kernel_is_content
step "done"
