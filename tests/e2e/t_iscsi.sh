#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
#
# The Linux kernel's iSCSI initiator, with open-iscsi, multipath-tools and sg3-utils: `make e2e`.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

IQN=iqn.2026-11.io.quarry:tank.v

boot_iscsi() {
    cat "$E2E/guest.sh" "$E2E/iscsi_guest.sh" "$E2E/$1.guest.sh" >script
    vm_start script "IQN=$IQN" "PORT=${ISCSI##*:}" "${@:2}"
}

test_open_iscsi_with_chap_digests_and_xfs() {
    vm_or_skip
    start_iscsi
    make_pool 2G
    quarry volume create tank/v 512M
    quarry volume create tank/open 16M
    printf 'the secret of host' >secret
    printf 'the secret of store' >mutual
    chmod 600 secret mutual
    quarry export add tank/v --iscsi --chap host --chap-secret-file secret \
        --chap-mutual store --chap-mutual-secret-file mutual
    boot_iscsi open_iscsi "OPEN_IQN=iqn.2026-11.io.quarry:tank.open"
    when_asked space
    local before after round
    before=$(image_field tank/v used_bytes)
    quarry volume resize tank/v $((576 * MIB + 32 * KIB))
    when_asked trimmed
    after=$(image_field tank/v used_bytes)
    echo "# used by tank/v: $before bytes, after fstrim $after"
    [ $((before - after)) -gt 40000000 ]
    quarry volume resize tank/v 768M
    for round in 1 2 3; do
        when_asked "restart $round"
        kill9_daemon
        restart_with_pool --listen "$ISCSI"
    done
    vm_end 300
}

test_blocks_of_4096_without_unsolicited_data() {
    vm_or_skip
    start_iscsi
    make_pool 2G
    quarry volume create tank/v 128M --block-size 4096
    boot_iscsi large_blocks
    vm_end 300
}

PROXY=

# A second portal, by way of a proxy that can be cut off.
start_proxy() {
    $PYTHON "$E2E/proxy.py" "$PORT2" "$PORT3" >proxy.out 2>&1 &
    PROXY=$!
    wait_for 10 grep -q listening proxy.out
}

test_multipath_with_a_path_cut_under_load() {
    vm_or_skip
    PORT2=$(free_port)
    PORT3=$(free_port)
    start_iscsi --listen "iscsi://127.0.0.1:$PORT3"
    make_pool 2G
    quarry volume create tank/v 512M
    start_proxy
    boot_iscsi multipath "PORT2=$PORT2"
    when_asked reset
    kill -KILL "$PROXY"
    wait "$PROXY" || true
    when_asked "reset again"
    start_proxy
    # What is still in a silent path must not come once it was given up: the server drops the session first.
    when_asked silent
    kill -STOP "$PROXY"
    when_asked "silent again"
    wait_for 60 grep -q "it does not answer" quarryd.log
    kill -CONT "$PROXY"
    when_asked restart
    kill9_daemon
    wait_for 120 asked_or_ended "== no path is left"
    restart_with_pool --listen "$ISCSI" --listen "iscsi://127.0.0.1:$PORT3"
    vm_end 300
}

test_two_initiators_fight_and_sg3_utils() {
    vm_or_skip
    start_iscsi
    make_pool 2G
    quarry volume create tank/v 512M
    boot_iscsi reservations
    when_asked restart
    kill9_daemon
    restart_with_pool --listen "$ISCSI"
    vm_end 300
}

run_tests
