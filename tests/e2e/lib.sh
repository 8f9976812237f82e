# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What the tests of tests/e2e share: a guest that runs a script of ours, and asks us to act.
# shellcheck source=tests/e2e/vm.sh
. "$(dirname "${BASH_SOURCE[0]}")/vm.sh"

E2E=$ROOT/tests/e2e

# boot NAME [K=V]…: the guest runs NAME.guest.sh.
boot() {
    cat "$E2E/guest.sh" "$E2E/$1.guest.sh" >script
    vm_start script "${@:2}"
}

# The guest asks by a line, we act, and it sees that by itself.
when_asked() {
    wait_for 240 asked_or_ended "ask $1"
    vm_said "^ask $1" || { vm_end 1; fail "the guest did not ask: $1"; }
}

asked_or_ended() { vm_said "^$1" || vm_ended; }
