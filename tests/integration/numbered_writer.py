#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A libnbd client that writes numbered blocks and connects anew whenever its connection dies.

    numbered_writer.py URI      until there is a file "enough"; then each block is what was last acknowledged

It leaves "WRITES CONNECTIONS-ANEW" in the file "told".
"""
import os
import struct
import sys
import time

import nbd

BLOCK = 4096


def connect():
    while True:
        h = nbd.NBD()
        try:
            h.connect_uri(sys.argv[1])
            return h
        except nbd.Error:
            time.sleep(0.02)  # the daemon is away


h = connect()
blocks = h.get_size() // BLOCK
acknowledged = {}
turn = anew = 0
while not os.path.exists("enough"):
    turn += 1
    block, data = turn * 7919 % blocks, struct.pack(">Q", turn) * (BLOCK // 8)
    while True:
        try:
            h.pwrite(data, block * BLOCK)
            break
        except nbd.Error:
            anew += 1
            h = connect()
    acknowledged[block] = data
for block, data in acknowledged.items():
    assert h.pread(BLOCK, block * BLOCK) == data, block
with open("told", "w", encoding="ascii") as told:
    told.write(f"{turn} {anew}")
