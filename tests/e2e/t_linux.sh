#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
#
# The Linux kernel's own NBD client, with real filesystems on our volumes: `make e2e`.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/integration/tls.sh
. "$HERE/tls.sh"

boot_nbd() { boot "$1" "PORT=$PORT" "${@:2}"; }

start_for_guests() {
    start_daemon --listen nbd://127.0.0.1:0
    make_pool 2G
    PORT=$(sed -n 's/.*listening at nbd:\/\/127.0.0.1:\([0-9]*\).*/\1/p' quarryd.log | head -n 1)
}

test_ext4_and_xfs_over_four_connections() {
    vm_or_skip
    start_for_guests
    quarry volume create tank/v 256M
    quarry volume create tank/x 512M
    boot_nbd filesystems
    when_asked live
    quarry snapshot create tank/v@live
    quarry clone tank/v@live tank/clone
    when_asked frozen
    quarry snapshot create tank/v@frozen
    when_asked space
    local before after
    before=$(image_field tank/v used_bytes)
    quarry volume create tank/measured 4M
    when_asked trimmed
    after=$(image_field tank/v used_bytes)
    echo "# used by tank/v: $before bytes, after fstrim $after"
    [ $((before - after)) -gt 40000000 ] # and what was deleted before
    when_asked resize
    quarry volume resize tank/v 512M
    vm_end 300
}

test_power_off_in_the_middle_of_writes() {
    vm_or_skip
    start_for_guests
    quarry volume create tank/v 256M
    boot_nbd writer
    wait_for 240 asked_or_ended "synced 25"
    vm_said "^synced 25" || { vm_end 1; fail "the guest does not write"; }
    vm_power_off
    local synced
    synced=$(tr -d '\r' <vm.out | sed -n 's/^synced \([0-9]*\)$/\1/p' | tail -n 1)
    boot_nbd checker "SYNCED=$synced"
    vm_end 240
}

# kill -9 and stops of the daemon while a filesystem on `quarry attach` is written: the kernel sees pauses.
test_an_attached_device_outlives_the_daemon() {
    vm_or_skip
    start_for_guests
    quarry volume create tank/v 256M
    VM_FILES=$BUILD/quarry boot_nbd attached
    local round
    for round in 1 2 3 4; do
        when_asked "restart $round"
        if [ $((round % 2)) = 1 ]; then kill9_daemon; else stop_daemon; fi
        sleep 1 # away for a while; what is written meanwhile waits
        restart_with_pool --listen "nbd://127.0.0.1:$PORT"
    done
    vm_end 300
}

# As an administrator has it: `make install`, systemd's unit, a configuration file. systemctl restart, stop and start, and
# kills after which systemd starts it again, under a libnbd client that comes back and a filesystem on `quarry attach`.
test_systemd_restarts_it_under_clients() {
    vm_or_skip
    local port socket_port client
    port=$(free_port)
    socket_port=$(free_port)
    make -s -C "$ROOT" install BUILD="${BUILD#"$ROOT"/}" DESTDIR="$T/installed" >install.log
    tar -c -C installed -f installed.tar .
    # outside NAME PORT LEAST: writes until the guest has seen enough, then verifies, and tells it.
    outside() {
        rm -f enough told
        $PYTHON "$HERE/numbered_writer.py" "nbd://127.0.0.1:$2/tank/$1" &
        client=$!
        when_asked "verify $1"
        : >enough
        wait $client
        echo "# $(cat told) writes and reconnections of the client of tank/$1"
        [ "$(cut -d ' ' -f 2 told)" -ge "$3" ]
        nbdcopy "$HERE/numbered_writer.py" "nbd://127.0.0.1:$port/tank/$1.done"
    }
    VM_INIT=systemd VM_FILES=$T/installed.tar VM_PORTS="$port:10809 $socket_port:10810" boot systemd
    when_asked "write v"
    outside v "$port" 6
    when_asked "write s"
    outside s "$socket_port" 3
    vm_end 300
}

# Machines whose root filesystems are clones of one image: they boot, each keeps what is its own.
test_guests_boot_from_clones() {
    vm_or_skip
    start_for_guests
    local image=$VM_CACHE/$VM_KEY/root.ext4 guest
    quarry volume create tank/image "$(stat -c %s "$image")"
    nbdcopy "$image" "$(uri image)"
    quarry snapshot create tank/image@golden
    for guest in one two; do
        quarry clone tank/image@golden tank/$guest
        VM_ROOT="file=$(uri $guest),discard=unmap" boot_nbd booted "WHO=$guest" "KNOWN="
        vm_end 240
    done
    for guest in one two; do
        VM_ROOT="file=$(uri $guest),discard=unmap" boot_nbd booted "WHO=again" "KNOWN=$guest"
        vm_end 240
    done
    nbdcopy "$(uri image@golden)" golden
    cmp golden "$image"
    echo "# two guests use $(image_field tank/one used_bytes) bytes each, alone $(image_field tank/one unique_bytes)"
}

# Our daemon on a kernel that has TLS, in the guest; its clients are here, GnuTLS's and OpenSSL's.
test_the_kernel_encrypts_what_is_sent() {
    vm_or_skip
    make_certificates
    local plain_port before
    PORT=$(free_port)
    plain_port=$(free_port)
    VM_FILES="$BUILD/quarry $BUILD/quarryd $(echo pki/server/*.pem)" VM_PORTS="$PORT:10809 $plain_port:10810" boot kernel_tls
    when_asked clients
    uri() { echo "nbds://localhost:$PORT/tank/v?tls-certificates=$T/pki/alice"; }
    head -c 8000000 /dev/urandom >data
    truncate -s 64M data
    nbdcopy --connections=4 --requests=16 data "$(uri)"
    nbdcopy --connections=4 --requests=16 "$(uri)" back
    cmp data back
    local image="driver=raw,file.driver=nbd,file.host=localhost,file.port=$PORT,file.export=tank/v,file.tls-creds=t"
    qemu-io --object "tls-creds-x509,id=t,endpoint=client,dir=$T/pki/alice" -c 'write -P 7 20M 3M' -c 'read -P 7 20M 3M' \
        --image-opts "$image" >io.out
    grep -q 'read 3145728/3145728' io.out
    refuses grep -i -E 'fail|error' io.out
    vm_said 'TLS 1.3: the kernel encrypts what is sent'
    refuses vm_said 'TLSv1.3.*encrypted by OpenSSL' # the kernel does, for all of those
    # where it is switched off
    before=$(grep -c 'encrypted by the kernel' vm.out)
    nbdinfo --list "nbds://localhost:$plain_port/?tls-certificates=$T/pki/alice"
    wait_for 20 vm_said 'TLSv1.3.*encrypted by OpenSSL'
    expect "$before" "$(grep -c 'encrypted by the kernel' vm.out)" "connections with kernel TLS"
    $PYTHON "$E2E/kernel_tls.py" "$PORT" "$T/pki" "$(tr -d '\r' <vm.out | sed -n 's/^kernel //p')"
    nbdcopy "$E2E/kernel_tls.py" "nbds://localhost:$PORT/tank/done?tls-certificates=$T/pki/alice" # tells the guest
    vm_end 120
}

run_tests
