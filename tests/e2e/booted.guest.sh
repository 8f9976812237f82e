# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2153
# The root filesystem is on a clone: ours alone, and as we left it.
step "root is $(awk '$2 == "/" { print $1, $3 }' /proc/mounts)"
if [ -z "$KNOWN" ]; then
    [ ! -e /etc/who ]
    echo "$WHO" >/etc/who
    head -c 20000000 /dev/urandom >/var/data
    md5sum /var/data >/etc/data.md5
    sync
    fstrim -v /
else
    [ "$(cat /etc/who)" = "$KNOWN" ]
    md5sum -c /etc/data.md5
fi
kernel_never_said 'I/O error|EXT4-fs error'
step "done"
