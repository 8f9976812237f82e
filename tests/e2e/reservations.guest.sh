# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2153
# sg3-utils, and two initiators that fight for one disk as the nodes of a cluster do.
step "two initiators"
for node in a b; do
    iscsiadm -m iface -I $node -o new >/dev/null
    iscsiadm -m iface -I $node -o update -n iface.initiatorname -v iqn.2004-10.org.example:$node
    record "$IQN" "$PORT" $node
    must_login "$IQN" "$PORT" $node
done
wait_until disk_at "$IQN" example:a
a=$DISK
wait_until disk_at "$IQN" example:b
b=$DISK
[ "$a" != "$b" ]

step "sg3-utils"
sg_turs "$a"
sg_inq "$a" | grep -q "Vendor identification: QUARRY"
for page in 0x00 0x80 0x83 0x86 0xb0 0xb1 0xb2; do sg_vpd -p $page "$a" >/tmp/page || { cat /tmp/page; false; }; done
sg_vpd -p sv "$a" | grep -c . >/dev/null
sg_vpd -p 0xb2 "$a" | grep -E "LBPU|provisioned" 
sg_readcap "$a" >/tmp/capacity
sg_readcap --16 "$a" | grep -q "lbpme=1, lbprz=1"
sg_luns "$a" >/tmp/luns
sg_opcodes "$a" | grep -q "Write atomic(16)\|Extended copy"
sg_opcodes -t "$a" | grep -q "Abort task"
sg_modes "$a" | grep -q "Caching"
sg_wr_mode -p 8 "$a" >/dev/null
sg_logs -l "$a" >/tmp/logs
sg_logs -p 0xc "$a" | grep -q -i "available LBA"
sg_requests "$a" >/tmp/sense
sg_rtpg -d "$a" | grep -q -i "optimized"
sg_sync "$a"
sg_verify --lba=0 --count=64 "$a"
sg_get_lba_status --lba=0 "$a" >/tmp/lbas
head -c 4096 /dev/urandom >/tmp/block
sg_dd if=/tmp/block of="$a" bs=512 count=8 seek=8 oflag=sgio >/tmp/dd 2>&1 || { cat /tmp/dd; false; }
sg_get_lba_status --lba=8 "$a" | grep -q "mapped"
head -c 512 /tmp/block >/tmp/expected
head -c 512 /dev/urandom >/tmp/new
cat /tmp/expected /tmp/new >/tmp/both
sg_compare_and_write --in=/tmp/both --lba=8 --num=1 --xferlen=1024 "$a"
rc=0; sg_compare_and_write --in=/tmp/both --lba=8 --num=1 --xferlen=1024 "$a" >/tmp/said 2>&1 || rc=$?
[ $rc = 14 ] # miscompare
sg_write_same --lba=64 --num=64 --xferlen=512 --in=/tmp/new "$a"
sg_dd if="$a" of=/tmp/same bs=512 skip=100 count=1 iflag=sgio >/tmp/dd 2>&1
cmp /tmp/same /tmp/new
sg_unmap --force --lba=64 --num=64 "$a"
sg_dd if="$a" of=/tmp/same bs=512 skip=100 count=1 iflag=sgio >/tmp/dd 2>&1
cmp /tmp/same <(head -c 512 /dev/zero)
sg_xcopy if="$a" of="$a" bs=512 skip=8 seek=128 count=8 >/tmp/xcopy 2>&1 || { cat /tmp/xcopy; false; }
sg_dd if="$a" of=/tmp/copied bs=512 skip=128 count=1 iflag=sgio >/tmp/dd 2>&1
cmp /tmp/copied /tmp/new
sg_write_x --16 --lba=8 --num=1 --bs=512 --atomic=0 --in=/tmp/new "$a" >/tmp/said 2>&1 || cat /tmp/said
sg_start --stop "$b"
sg_start --start "$b"
sg_reset -d "$a"
sg_turs "$a" || sg_turs "$a" # the reset's attention
sg_turs "$b" || sg_turs "$b"

# Unit attentions tell what the other did; they await any command.
pr() {
    local rc i
    for i in 1 2 3 4 5; do
        rc=0
        sg_persist -n "$@" 2>/tmp/pr.$BASHPID || rc=$?
        [ $rc = 6 ] || break
    done
    return $rc
}
register() { pr --out --register-ignore --param-sark="$2" "$1" >/dev/null; } # DISK KEY
key_holds() { pr --in --read-reservation "$1" | grep -q "Key=$2"; }
writes() { dd if=/tmp/block of="$1" bs=4096 count=1 seek="${2:-100}" oflag=direct conv=notrunc 2>/tmp/dd; }

step "reservations"
register "$a" 0xa
register "$b" 0xb
[ "$(pr --in --read-keys "$a" | grep -c '^ *0x')" = 2 ]
pr --out --reserve --param-rk=0xa --prout-type=5 "$a" >/dev/null
key_holds "$b" 0xa
writes "$a"
writes "$b" # write exclusive, registrants only: it is one
pr --out --preempt-abort --param-rk=0xa --param-sark=0xb --prout-type=5 "$a" >/dev/null
not writes "$b"
pr --in --read-full-status "$a" | grep -q "iqn.2004-10.org.example:a,i,0x"
pr --in --report-capabilities "$a" | grep -q "PTPL_C): 1"
rc=0; pr --out --reserve --param-rk=0xb --prout-type=5 "$b" >/tmp/said 2>&1 || rc=$?
[ $rc = 24 ] # reservation conflict
pr --out --clear --param-rk=0xa "$a" >/dev/null
writes "$b"

# Each node takes the disk from the other, and counts a write as done if it was one while it held it.
step "a fight"
fight() { # DISK OWN OTHER
    local i won=0 lost=0
    for ((i = 0; i < 25; i++)); do
        register "$1" "$2" || true
        if pr --out --preempt-abort --param-rk="$2" --param-sark="$3" --prout-type=5 "$1" >/dev/null ||
            pr --out --reserve --param-rk="$2" --prout-type=5 "$1" >/dev/null; then
            won=$((won + 1))
        fi
        writes "$1" $((200 + i)) || lost=$((lost + 1))
    done
    echo "$2: held it $won times of 25, $lost writes were refused"
    [ $won -gt 0 ]
}
fight "$a" 0xa 0xb &
other=$!
fight "$b" 0xb 0xa
wait $other
# It ends with one that holds it, and only registered ones may write.
pr --out --clear --param-rk=0xa "$a" >/dev/null 2>&1 || pr --out --clear --param-rk=0xb "$b" >/dev/null
register "$a" 0xa
register "$b" 0xb
pr --out --reserve --param-rk=0xa --prout-type=5 "$a" >/dev/null
pr --out --preempt-abort --param-rk=0xb --param-sark=0xa --prout-type=5 "$b" >/dev/null
key_holds "$a" 0xb
[ "$(pr --in --read-keys "$a" | grep -c '^ *0x')" = 1 ]
not writes "$a"
writes "$b"

step "registered by another, moved, sanitized"
pr --out --clear --param-rk=0xb "$b" >/dev/null
register "$a" 0xa
register "$b" 0xb
pr --in --read-full-status "$a" >/tmp/full
other=$(grep -o 'iqn.2004-10.org.example:b,i,0x[0-9a-f]*' /tmp/full)
pr --out --reserve --param-rk=0xa --prout-type=3 "$a" >/dev/null
pr --out --register-move --param-rk=0xa --param-sark=0xb --param-unreg --relative-target-port=1 \
    --transport-id="$other" "$a" >/dev/null
key_holds "$b" 0xb
[ "$(pr --in --read-keys "$a" | grep -c '^ *0x')" = 1 ]
not writes "$a"
pr --out --clear --param-rk=0xb "$b" >/dev/null
mine=$(grep -o 'iqn.2004-10.org.example:a,i,0x[0-9a-f]*' /tmp/full)
pr --out --register --param-sark=0xb --param-alltgpt --transport-id="$mine" "$b" >/dev/null
[ "$(pr --in --read-keys "$a" | grep -c '^ *0x')" = 2 ]
sg_sanitize --block --quick --wait "$a"
sg_turs "$a"
[ "$(sg_dd if="$a" bs=512 skip=8 count=64 iflag=sgio 2>/dev/null | tr -d '\0' | wc -c)" = 0 ]
sg_sanitize --overwrite --pattern=/tmp/new --ipl=512 --quick --early "$a" # IMMED
wait_until sg_turs "$a"
sg_dd if="$a" of=/tmp/same bs=512 skip=1000 count=1 iflag=sgio >/tmp/dd 2>&1
cmp /tmp/same /tmp/new

step "kept over a kill"
register "$a" 0xa
pr --out --clear --param-rk=0xb "$b" >/dev/null
pr --out --register-ignore --param-sark=0xb --param-aptpl "$b" >/dev/null
pr --out --reserve --param-rk=0xb --prout-type=3 "$b" >/dev/null
echo "ask restart"
again() { [ "$(dmesg | grep -c 'detected conn error')" -ge 2 ]; }
wait_until again
wait_until sg_turs "$b"
key_holds "$b" 0xb
not writes "$a"
writes "$b"
logout "$IQN" "$PORT" a
logout "$IQN" "$PORT" b
# No command was left to its timeout (30 s).
kernel_never_said 'BUG|Oops|hung task|cmd_age=[1-9][0-9]+s'
step "done"
