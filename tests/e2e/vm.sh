# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# A Linux kernel as our client: Debian's, in a virtual machine of QEMU without hardware help, whose
# root is made of Debian packages and kept in a cache.  Sourced by the tests of tests/e2e.
#
#   vm_or_skip             makes the image if it is not there, or skips the test with a word why
#   vm_start SCRIPT [K=V]… boots; the guest runs SCRIPT as root with HOST=10.0.2.2, our loopback
#   vm_said REGEX          whether a line that the script printed so far matches
#   vm_end SECONDS         waits for the script's end; its status
#   vm_power_off           ends the machine as pulling the plug would
#
# What the script prints is in vm.out, the kernel's console in vm.console, both in $T.

VM_CACHE=${QUARRY_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quarry-e2e}
VM_KEY=$(sha256sum <"${BASH_SOURCE[0]}" | cut -c 1-16)
VM_KERNEL=linux-image-cloud-amd64
VM_PACKAGES="$VM_KERNEL usr-is-merged base-files bash coreutils findutils grep sed mawk util-linux mount libc-bin
    kmod systemd busybox-static nbd-client fio e2fsprogs xfsprogs udev open-iscsi multipath-tools sg3-utils
    libnbd0 liburing2 libisal2 libjansson4 libyaml-0-2 libblkid1 libssl3"
VM_PID=
VM_FILES= # what the guest finds in /e2e beside its script
VM_PORTS= # ours that lead to some of its own: "OURS:ITS …"
VM_INIT=  # "systemd": that is its first process, and the script a service that root has started
VM_ROOT=  # its disk, as qemu's -drive knows it; "": the image, as if it were new each time

# apt, asked as if nothing were installed: the packages with all that they need.
vm_apt() {
    apt-get -q -o Dir::State::status="$1/status" -o Dir::Cache::archives="$1/debs" -o Debug::NoLocking=true \
        -o APT::Sandbox::User=root -o APT::Install-Recommends=false "${@:2}"
}

# The programs and modules that come up first: they find the root and go on in it.
vm_make_initrd() {
    local root=$1 version=$2 out=$3 tree module
    tree=$(mktemp -d "$out/initrd.XXXXXX")
    mkdir -p "$tree"/{bin,modules,dev,proc,root}
    cp "$root/usr/bin/busybox" "$tree/bin/busybox"
    for module in virtio_pci virtio_blk ext4; do
        chroot "$root" modprobe -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++' >"$tree/modules/order"
    while read -r module; do cp "$root$module" "$tree/modules/"; done <"$tree/modules/order"
    cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
while read -r module; do insmod "/modules/${module##*/}"; done </modules/order
until [ -b /dev/vda ]; do usleep 20000; done
mount -t ext4 -o rw /dev/vda /root
cp -a /e2e /root/
mount --move /dev /root/dev
mount --move /proc /root/proc
exec switch_root /root /bin/busybox sh /e2e/start
INIT
    chmod +x "$tree/init"
    (cd "$tree" && find . | cpio -o -H newc --quiet) >"$out/initrd.cpio"
    rm -rf "$tree"
}

vm_make_image() {
    local work=$1 root=$1/root out=$1/out version deb dir
    mkdir -p "$work/debs/partial" "$out" "$root"
    : >"$work/status"
    # shellcheck disable=SC2086
    vm_apt "$work" -y --download-only install $VM_PACKAGES
    for dir in bin sbin lib lib64; do
        mkdir -p "$root/usr/$dir"
        ln -s "usr/$dir" "$root/$dir"
    done
    for deb in "$work"/debs/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink
    done
    version=$(ls "$root/usr/lib/modules")
    cp "$root/boot/vmlinuz-$version" "$out/kernel"
    rm -rf "${root:?}"/boot "$root"/usr/share/{doc,man,locale,info}
    printf 'root:x:0:0:root:/root:/bin/bash\n' >"$root/etc/passwd"
    echo 00000000000000000000000000000001 >"$root/etc/machine-id" # else systemd enables all that there is
    ln -sf mawk "$root/usr/bin/awk"
    ln -sf /proc/mounts "$root/etc/mtab"
    mkdir -p "$root"/{dev,proc,sys,run,tmp,mnt}
    chroot "$root" ldconfig
    chroot "$root" depmod "$version"
    vm_make_initrd "$root" "$version" "$out"
    mke2fs -q -t ext4 -m 0 -d "$root" "$out/root.ext4" $(($(du -sm "$root" | cut -f 1) * 115 / 100 + 200))M
}

vm_or_skip() {
    local image work program
    image=$VM_CACHE/$VM_KEY
    for program in qemu-system-x86_64 cpio dpkg-deb mke2fs; do
        command -v $program >/dev/null || skip "no $program: make e2e installs what it needs"
    done
    [ -e "$image/root.ext4" ] && return
    [ "$(id -u)" = 0 ] || skip "the image of the virtual machine is made as root"
    mkdir -p "$VM_CACHE"
    work=$(mktemp -d "$VM_CACHE/work.XXXXXX")
    if ! (set -e && vm_make_image "$work") >"$VM_CACHE/log" 2>&1; then
        rm -rf "$work"
        tail -n 5 "$VM_CACHE/log" | sed 's/^/# /'
        skip "the packages of the virtual machine cannot be had (see $VM_CACHE/log)"
    fi
    mv "$work/out" "$image" 2>/dev/null || true # somebody else may have been faster
    rm -rf "$work"
}

vm_start() {
    local script=$1 image setting port forwards=
    image=$VM_CACHE/$VM_KEY
    shift
    rm -rf guest vm.out
    mkdir -p guest/e2e
    cp "$script" guest/e2e/script
    # shellcheck disable=SC2086
    [ -z "$VM_FILES" ] || cp $VM_FILES guest/e2e/
    for port in $VM_PORTS; do forwards+=",hostfwd=tcp:127.0.0.1:${port%:*}-:${port#*:}"; done
    for setting in "INIT=$VM_INIT" "$@"; do echo "export ${setting%%=*}='${setting#*=}'"; done >guest/e2e/env
    cat >guest/e2e/start <<'START'
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOST=10.0.2.2 HOME=/
B=/bin/busybox
$B mount -t sysfs sys /sys
$B mount -t tmpfs tmp /tmp
$B mount -t tmpfs run /run
$B ln -sf /proc/self/fd /dev/fd
modprobe virtio_net
until [ -e /sys/class/net/eth0 ]; do $B usleep 20000; done
$B ip link set lo up
$B ip addr add 10.0.2.15/24 dev eth0
$B ip link set eth0 up
. /e2e/env
cat >/e2e/run <<'RUN'
bash /e2e/script >/dev/ttyS1 2>&1
echo "status $?" >/dev/ttyS1
/bin/busybox sync
/bin/busybox poweroff -f
RUN
[ "$INIT" = systemd ] || . /e2e/run
mkdir -p /run/systemd/system
{
    echo "[Service]"
    echo "ExecStart=/bin/bash /e2e/run"
    echo "PassEnvironment=PATH HOST HOME $($B sed -n 's/^export \([A-Z_0-9]*\)=.*/\1/p' /e2e/env | $B tr '\n' ' ')"
} >/run/systemd/system/e2e.service
exec /lib/systemd/systemd --unit=e2e.service
START
    (cd guest && find . | cpio -o -H newc --quiet) >guest.cpio
    cat "$image/initrd.cpio" guest.cpio >initrd
    : >vm.out
    qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -M q35 -accel tcg,thread=multi \
        -cpu Nehalem -smp 2 -m 1024 -kernel "$image/kernel" -initrd initrd \
        -append "console=ttyS0 quiet panic=-1 mitigations=off net.ifnames=0 rdinit=/init" \
        -serial file:vm.console -serial file:vm.out \
        -drive "if=virtio,${VM_ROOT:-file=$image/root.ext4,snapshot=on},format=raw" \
        -netdev "user,id=net$forwards" -device virtio-net-pci,netdev=net </dev/null >vm.log 2>&1 &
    VM_PID=$!
}

vm_said() {
    grep -q -E "$1" vm.out
}

vm_ended() { ! kill -0 "$VM_PID" 2>/dev/null; }

vm_end() {
    local deadline=$((SECONDS + $1)) status
    until vm_ended || [ $SECONDS -ge $deadline ]; do sleep 0.2; done
    vm_power_off
    tr -d '\r' <vm.out | sed 's/^/# guest: /' | tail -n 40
    status=$(tr -d '\r' <vm.out | sed -n 's/^status \([0-9]*\)$/\1/p')
    [ -n "$status" ] || tr -d '\r' <vm.console | tail -n 15 | sed 's/^/# console: /'
    return "${status:-1}"
}

vm_power_off() {
    kill -KILL "$VM_PID" 2>/dev/null || true
    wait "$VM_PID" 2>/dev/null || true
}
