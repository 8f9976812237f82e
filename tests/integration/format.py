# SPDX-License-Identifier: Apache-2.0
"""
Reads a pool that was exported, by the letter of metadata/format.h and independent of the engine: an
oracle for tests that damage pools.
"""

import struct

from crc32c import crc32c

BLOCK = 4096
MASK = (1 << 64) - 1
KEPT_TWICE = ("label", "superblock", "device set", "table")


def mix64(x):
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


class Pool:
    def __init__(self, paths):
        self.data = []
        for path in paths:
            with open(path, "rb") as file:
                self.data.append(bytearray(file.read()))
        self.reachable = []  # (device, offset, length, what)
        self.devices = {}  # by index: (number of the path, slabs_block, slab_count)
        self.read_heads()
        self.read_tables()
        self.read_maps()

    def need(self, device, offset, length, what):
        self.reachable.append((device, offset, length, what))

    def read_heads(self):
        self.checkpoint = 0
        for d, data in enumerate(self.data):
            index, self.slab_blocks, size, slabs, slabs_block = struct.unpack_from("<IIQQQ", data, BLOCK + 72)
            self.devices[index] = (d, slabs_block, slabs)
            tail = size // BLOCK * BLOCK - (1 << 20)
            for at in (BLOCK, tail):
                assert data[at : at + 8] == b"QUARRYLB"
                self.need(d, at, BLOCK, "label")
            for at in (2 * BLOCK, 3 * BLOCK, tail + BLOCK, tail + 2 * BLOCK):
                if data[at : at + 8] != b"QUARRYSB":
                    continue
                self.need(d, at, 512, "superblock")
                checkpoint = struct.unpack_from("<Q", data, at + 32)[0]
                if checkpoint > self.checkpoint:
                    self.checkpoint = checkpoint
                    self.next_id = struct.unpack_from("<Q", data, at + 56)[0]
                    self.root = struct.unpack_from("<QII", data, at + 64)
                    self.levels, self.epoch = struct.unpack_from("<II", data, at + 80)
            for at in (4 * BLOCK, 5 * BLOCK, tail + 3 * BLOCK, tail + 4 * BLOCK):
                if data[at : at + 8] == b"QUARRYDS":
                    self.need(d, at, BLOCK, "device set")

    def read_tables(self):
        self.segments = {}
        self.moved = {}  # by address: blocks that are live on packed slabs
        self.packed_slabs = 0
        record = 16 + self.slab_blocks // 8
        per_page = (BLOCK - 32) // record
        for d, slabs_block, slabs in self.devices.values():
            data = self.data[d]
            mark, page = 1, 0
            while page * per_page < mark:
                best = (-1, 0)
                for at in ((8 + 2 * page) * BLOCK, (9 + 2 * page) * BLOCK):
                    version = struct.unpack_from("<Q", data, at + 8)[0]
                    if data[at : at + 4] == b"QTAB" and version <= self.checkpoint:
                        best = max(best, (version, at))
                self.need(d, best[1], BLOCK, "table")
                if page == 0:
                    mark = struct.unpack_from("<I", data, best[1] + 24)[0]
                for i in range(page * per_page, min((page + 1) * per_page, mark)):
                    at = best[1] + 32 + (i % per_page) * record
                    segment, state, _, directory_blocks = struct.unpack_from("<QBBH", data, at)
                    if state == 3:
                        self.packed_slabs += 1
                        live = int.from_bytes(data[at + 16 : at + record], "little")
                        self.read_packed(d, (slabs_block + i * self.slab_blocks) * BLOCK, directory_blocks, live)
                    elif segment:
                        self.segments[segment] = (d, (slabs_block + i * self.slab_blocks) * BLOCK)
                page += 1

    def read_packed(self, device, start, directory_blocks, live):
        data = self.data[device][start : start + directory_blocks * BLOCK]
        if not live:
            return
        self.need(device, start, directory_blocks * BLOCK, "packed directory")
        pieces, at = struct.unpack_from("<I", data, 24)[0], 64
        for _ in range(pieces):
            segment, first, count = struct.unpack_from("<QII", data, at)
            at += 16
            if count < self.slab_blocks // 16:
                slots = struct.unpack_from(f"<{count}H", data, at)
                at += -(-2 * count // 8) * 8
            else:
                bits = int.from_bytes(data[at : at + self.slab_blocks // 8], "little")
                slots = [slot for slot in range(self.slab_blocks) if bits >> slot & 1]
                at += self.slab_blocks // 8
            at += -(-4 * count // 8) * 8
            for n, slot in enumerate(slots):
                if live >> (first + n) & 1:
                    self.moved[segment << 16 | slot] = (device, start + (first + n) * BLOCK)

    def place(self, addr):
        if addr in self.moved:
            return self.moved[addr]
        device, offset = self.segments[addr >> 16]
        return device, offset + (addr & 0xFFFF) * BLOCK

    def block(self, entry, what):
        """The block that @entry points to; checks its CRC once."""
        device, offset = self.place(entry[0])
        data = self.data[device][offset : offset + BLOCK]
        if entry[0] not in self.seen:
            self.seen.add(entry[0])
            self.need(device, offset, BLOCK, what)
            self.verify(entry, data)
        return data

    def verify(self, entry, data):
        # A block in a few, for the CRC is slow here: the tests' patterns repeat.
        key = bytes(data)
        if key not in self.crcs:
            self.crcs[key] = crc32c(0, key)
        assert self.crcs[key] ^ mix64(entry[0]) & 0xFFFFFFFF == entry[2], "the oracle reads the wrong block"

    def walk(self, entry, level, lba, what, leaf, parent=None):
        """@parent: where @entry lies, (device, offset); None: in the superblock."""
        if entry[0] == 0 or (entry[0] in self.seen and what != "catalog"):
            return
        node = self.block(entry, "map node")
        device, offset = self.place(entry[0])
        self.parents[entry[0]] = parent
        for i, child in enumerate(struct.iter_unpack("<QII", node)):
            at = lba + (i << 8 * level)
            place = (device, offset + 16 * i)
            if child[0] and level:
                self.walk(child, level - 1, at, what, leaf, place)
            elif child[0]:
                self.parents[child[0]] = place
                leaf(at, child)

    def read_maps(self):
        self.seen = set()
        self.crcs = {}
        self.parents = {}  # address -> where the entry lies that was met first
        self.mapped = {}  # (image, lba) -> entry
        records = []

        def take_catalog(lba, entry):
            block = self.block(entry, "catalog")
            device, offset = self.place(entry[0])
            for i in range(0, BLOCK, 512):
                if block[i : i + 4] == b"QREC":
                    records.append((block[i : i + 512], (device, offset + i)))

        self.walk(self.root, self.levels - 1, 0, "catalog", take_catalog)
        for record, (device, offset) in records:
            if record[8] != 2:
                continue
            assert not record[10] & 2, "deleted images are not known here"
            levels, root = record[11], struct.unpack_from("<QII", record, 64)
            image = struct.unpack_from("<Q", record, 16)[0]

            def take_data(lba, entry, image=image):
                self.mapped[image, lba] = entry
                self.block(entry, "data")

            if levels:
                self.walk(root, levels - 1, 0, "image", take_data, (device, offset + 64))

    def forge(self, place, entry):
        """Makes the map entry at @place (in a leaf) @entry, with right checksums up to the superblock."""
        device, offset = place
        self.data[device][offset : offset + 16] = struct.pack("<QII", *entry)
        while True:
            start = offset // BLOCK * BLOCK
            record = offset // 512 * 512
            if self.data[device][record : record + 4] == b"QREC":
                number = struct.unpack_from("<Q", self.data[device], record + 16)[0]
                self.data[device][record + 4 : record + 8] = bytes(4)
                crc = crc32c(number, self.data[device][record : record + 512])
                struct.pack_into("<I", self.data[device], record + 4, crc)
            addr = next(addr for addr in self.parents if self.place(addr) == (device, start))
            crc = crc32c(0, self.data[device][start : start + BLOCK]) ^ mix64(addr) & 0xFFFFFFFF
            if self.parents[addr] is None:
                break
            device, offset = self.parents[addr]
            struct.pack_into("<I", self.data[device], offset + 12, crc)
        place = crc32c(0, struct.pack("<Q", self.checkpoint))
        for d, at, _, what in self.reachable:
            if what == "superblock" and struct.unpack_from("<Q", self.data[d], at + 32)[0] == self.checkpoint:
                struct.pack_into("<I", self.data[d], at + 76, crc)
                self.data[d][at + 12 : at + 16] = bytes(4)
                struct.pack_into("<I", self.data[d], at + 12, crc32c(place, self.data[d][at : at + 512]))
