# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2153
# open-iscsi, for the guest scripts that use it; put behind guest.sh.
export LC_ALL=C
mkdir -p /run/udev /run/lock/iscsi /etc/iscsi /var/lib/iscsi
mount -t tmpfs nodes /var/lib/iscsi
/lib/systemd/systemd-udevd --daemon
modprobe iscsi_tcp
modprobe sd_mod
modprobe sg
echo "InitiatorName=iqn.2004-10.org.example:host" >/etc/iscsi/initiatorname.iscsi
cat >/etc/iscsi/iscsid.conf <<'CONF'
iscsid.startup = /usr/sbin/iscsid
node.startup = manual
node.session.auth.chap_algs = SHA3-256,SHA256,SHA1,MD5
discovery.sendtargets.auth.chap_algs = SHA3-256,SHA256,SHA1,MD5
node.session.timeo.replacement_timeout = 120
node.conn[0].timeo.login_timeout = 30
node.conn[0].timeo.noop_out_interval = 5
node.conn[0].timeo.noop_out_timeout = 10
CONF
iscsid

# record IQN PORT [IFACE]: by hand, since discovery tells the address that our loopback has outside.
record() { iscsiadm -m node -o new -T "$1" -p "$HOST:$2,1" ${3:+-I "$3"} >/dev/null; }

# set_record IQN PORT NAME VALUE
set_record() { iscsiadm -m node -T "$1" -p "$HOST:$2" -o update -n "$3" -v "$4"; }

# login IQN PORT [IFACE]
login() { iscsiadm -m node -T "$1" -p "$HOST:$2" ${3:+-I "$3"} --login >/tmp/login 2>&1; }

logout() { iscsiadm -m node -T "$1" -p "$HOST:$2" ${3:+-I "$3"} --logout >/tmp/logout 2>&1 || { cat /tmp/logout; return 1; }; }

must_login() { login "$@" || { cat /tmp/login; return 1; }; }

# disk_at WORD…: the disk of the session whose `iscsiadm -P 3` has all words, in DISK.
disk_at() {
    local words="$*"
    # shellcheck disable=SC2016
    DISK=$(iscsiadm -m session -P 3 | awk -v words="$words" '
        BEGIN { n = split(words, want, " ") }
        /^Target:/ { target = $0 }
        /Current Portal:/ { text = target }
        { text = text " " $0 }
        /Attached scsi disk/ {
            ok = 1
            for (i = 1; i <= n; i++) if (!index(text, want[i])) ok = 0
            if (ok) { print "/dev/" $4; exit }
        }')
    [ -n "$DISK" ] && [ -b "$DISK" ]
}

cmp() { busybox cmp "$@"; }

# has_size DISK BYTES
has_size() { [ "$(blockdev --getsize64 "$1")" = "$2" ]; }

# Sessions may break and come again, but nothing may fail.
iscsi_is_content() { kernel_is_content && ! dmesg | grep -E 'rejecting I/O|Sense Key|FAILED Result'; }
