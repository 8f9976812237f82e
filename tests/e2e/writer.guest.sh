# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2153
# Files, each known to be on the disk before it is told of; until the power goes.
attach 0 tank/v -C 4
mkfs.ext4 -q -F /dev/nbd0
mount /dev/nbd0 /mnt
(while :; do head -c 2000000 /dev/urandom >/mnt/noise.$RANDOM; rm -f /mnt/noise.*; done) &
for i in $(seq 100000); do
    seq "$i" $((i + 20000)) >/mnt/file$i
    sync /mnt/file$i /mnt
    echo "synced $i"
done
