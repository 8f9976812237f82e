#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A pool to play with: quarryd in the foreground, on two sparse files, with one volume of 10 GiB over
# NBD.  `make run` builds and starts this.  The files stay, so the next run has what this one wrote.
#
#   QUARRY_DEMO_DIR   where the files are (default: ~/.local/state/quarry-demo)
#   QUARRY_DEMO_PORT  the port on 127.0.0.1 (default: 10809, or the next that is free)
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build}

if [ -n "${QUARRY_DEMO_DIR:-}" ]; then
    dir=$QUARRY_DEMO_DIR
elif [ -n "${XDG_STATE_HOME:-}${HOME:-}" ]; then
    dir=${XDG_STATE_HOME:-$HOME/.local/state}/quarry-demo
else
    dir=$PWD/$build/demo
fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
# A socket's path has at most 107 bytes.
sockets=$dir
[ ${#dir} -le 90 ] || sockets=$(mktemp -d)
socket=$sockets/quarryd.sock
nbd_socket=$sockets/nbd.sock
disks=("$dir/disk0.img" "$dir/disk1.img")
log=$dir/quarryd.log

say_and_end() {
    printf '%s\n' "$@" >&2
    exit 1
}

exec {lock}>"$dir/.lock"
flock --nonblock "$lock" || say_and_end "A demo is running on $dir already; see: $build/quarry --socket $socket list"

port=
for try in ${QUARRY_DEMO_PORT:-$(seq 10809 10839)}; do
    if ! (: <>"/dev/tcp/127.0.0.1/$try") 2>/dev/null; then
        port=$try
        break
    fi
done
[ -n "$port" ] || say_and_end "The port ${QUARRY_DEMO_PORT:-10809} of 127.0.0.1 is in use."

options=(--socket "$socket" --listen "nbd://127.0.0.1:$port" --listen "nbd+unix:///?socket=$nbd_socket"
    --node-cache 256MiB)
fresh=true
if [ -e "$dir/.made" ]; then
    fresh=false
    options+=(--import "${disks[0]}" --import "${disks[1]}")
else
    rm -f "${disks[@]}" # of a first run that came to no pool
fi

# In a session of its own, so that Ctrl-C comes to this script alone, which then ends it in order.
daemon=
stopping=false
end_daemon() {
    stopping=true
    [ -z "$daemon" ] || kill -TERM "$daemon" 2>/dev/null || true
}
trap end_daemon INT TERM HUP
# The daemon's words go through a pipe, so that "ready" can be waited for, to the terminal and a log.
exec {words}< <(exec {lock}>&-; exec setsid bash -c 'echo $$; exec "$@" 2>&1' quarryd "$build/quarryd" "${options[@]}" </dev/null)
read -r daemon <&"$words"

ready=false
: >"$log"
while read -r line <&"$words"; do
    echo "$line" >>"$log"
    if [[ $line == *ready* ]]; then
        ready=true
        break
    fi
done
if ! $ready; then
    cat "$log" >&2
    $stopping || say_and_end "quarryd did not start.  To begin anew: rm -r $dir"
    exit 0
fi
# From here on what it says is shown as it comes, behind what is said below.

quarry() {
    "$build/quarry" --socket "$socket" "$@"
}

give_up() {
    end_daemon
    say_and_end "$@"
}

if $fresh; then
    quarry pool create tank "${disks[@]}" --size 8G >>"$log" || give_up "No pool could be made in $dir."
    quarry volume create tank/demo 10G >>"$log" || give_up "No volume could be made."
    : >"$dir/.made"
fi

uri="nbd+unix:///tank/demo?socket=$nbd_socket"
quarry list
cat <<END

The pool tank lies on two sparse files in $dir.
Its volume tank/demo is served over NBD, at nbd://127.0.0.1:$port/tank/demo and on a Unix socket.
In another terminal, in $PWD:

    export QUARRY_SOCKET=$socket
    $build/quarry list
    $build/quarry snapshot create tank/demo@now
    $build/quarry diff tank/demo@now tank/demo

and, from the Debian packages libnbd-bin, qemu-utils, e2fsprogs and fio:

    nbdinfo '$uri'
    truncate -s 10G fs.img && mke2fs -q -t ext4 -d docs fs.img && nbdcopy fs.img '$uri'
    qemu-img compare -f raw -F raw fs.img '$uri'
    qemu-io -f raw -c 'write -P 7 1M 64k' -c 'read -P 7 1M 64k' 'nbd://127.0.0.1:$port/tank/demo'
    URI='$uri' SIZE=64m fio fio-jobs/verify.fio

Ctrl-C ends it; the next \`make run\` goes on with the same pool.

END

# Shows what the daemon says until it ends.  A signal interrupts read, not the daemon's last words.
while true; do
    if read -r line <&"$words"; then
        echo "$line" | tee -a "$log"
    elif ! kill -0 "$daemon" 2>/dev/null; then
        break
    fi
done
[ "$sockets" = "$dir" ] || rm -rf "$sockets"
$stopping || say_and_end "quarryd ended by itself; its last words are above and in $log."
echo "Ended in order."
