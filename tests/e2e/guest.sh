# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What the guest's scripts share; put before each of them.
set -e
step() { echo "== $* (at $(cut -d ' ' -f 1 /proc/uptime) s)"; }
trap 'echo "failed in line $LINENO: $BASH_COMMAND"' ERR

# wait_until COMMAND…: at most two minutes, as everything is slow here
wait_until() {
    local i
    for ((i = 0; i < 1200; i++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "in vain: $*"
    return 1
}

# attach NUMBER EXPORT [OPTION…]
attach() {
    nbd-client "$HOST" "$PORT" "/dev/nbd$1" -N "$2" -b 4096 "${@:3}" </dev/null >/tmp/attach 2>&1 || { cat /tmp/attach; return 1; }
    wait_until sized "$1"
}

sized() { [ "$(cat "/sys/block/nbd$1/size")" != 0 ]; }

detach() {
    nbd-client -d "/dev/nbd$1" >/dev/null
    wait_until test ! -e "/sys/block/nbd$1/pid"
}

listed() { nbd-client -l "$HOST" "$PORT" | grep -q -x "$1"; }

sums() { (cd "$1" && find . -type f -not -path './fio*' | sort | xargs md5sum); }

# Random writes with checksums, read back.
fio_verify() {
    fio --name=verify --directory="$1" --size=16m --rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=16 \
        --numjobs=2 --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --fsync=32 --eta=never --output=/tmp/fio.log ||
        { cat /tmp/fio.log; return 1; }
}

# not COMMAND…: it fails.  (With a mere ! before it, its success would not end the script.)
not() { if "$@"; then echo "should have failed: $*"; return 1; fi; }

# Writes files to /mnt in the background; each is on the disk when it is counted.
write_files() {
    (
        for ((i = 0; ; i++)); do
            [ ! -e /tmp/stop ] || break
            seq "$i" $((i + 20000)) >/mnt/written$((i % 40))
            sync /mnt/written$((i % 40)) || { : >/tmp/failed; break; }
            echo "$i" >/tmp/written
        done
    ) &
    writer=$!
}

# written NUMBER: so many were.
written() { [ "$(cat /tmp/written)" -ge "$1" ]; }

stop_writing() {
    : >/tmp/stop
    wait "$writer"
    not test -e /tmp/failed
    echo "$(cat /tmp/written) files were written"
}

# The last ones are what they should be.
files_are_right() {
    local i last
    last=$(cat /tmp/written)
    for ((i = last; i > last - 40 && i >= 0; i--)); do
        [ "$(seq "$i" $((i + 20000)) | md5sum)" = "$(md5sum </mnt/written$((i % 40)))" ] || { echo "file $i is wrong"; return 1; }
    done
}

kernel_never_said() { ! dmesg | grep -E "$1"; }
kernel_is_content() { kernel_never_said 'I/O error|BUG|Oops|EXT4-fs error|XFS.*(error|orrupt)|hung task'; }
modprobe nbd
