#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""
random_damage.py QUARRY SOCKET NBD_URI VARIANTS SEED DEVICE...: damages the pool on DEVICE... (exported)
at random, again and again from its present state, and asks of each variant:

  - quarry check --data neither crashes nor hangs; it tells of damage exactly if a byte was changed that
    counts (format.py knows which, independent of it);
  - quarry check --repair neither; it succeeds if only what can be derived was damaged;
  - where it says that all is well, the pool is imported with the old content, and is clean afterwards.

With ORACLE=no in the environment, for pools of which format.py does not know all: no variant is harmless
for sure and none is told for sure; the rest holds.  COPIES: any damage to one device has left a copy of
everything, so whatever the pool is imported with, its content is the old one.
"""

import os
import random
import subprocess
import sys
import time

import nbd

from format import BLOCK, KEPT_TWICE, Pool

QUARRY, SOCKET, NBD_URI, VARIANTS, SEED = sys.argv[1:6]
PATHS = sys.argv[6:]
VOLUMES = ("v", "v@s", "c")
TIMEOUT_S = 60
MOST = 8 << 20  # to read at a time
ORACLE = os.environ.get("ORACLE") != "no"
COPIES = int(os.environ.get("COPIES", "1"))


class Blocks:
    """A pool of which nothing is known but which blocks are in use, perhaps."""

    def __init__(self, paths):
        self.data = []
        self.reachable = []
        self.packed_slabs = 0
        for device, path in enumerate(paths):
            with open(path, "rb") as file:
                data = bytearray(file.read())
            self.data.append(data)
            for at in range(0, len(data), BLOCK):
                block = data[at : at + BLOCK]
                if any(block):
                    head = at < 16 * BLOCK or at > len(data) - (2 << 20)
                    first = bytes(block[:4])
                    self.packed_slabs += first == b"QPAK"
                    kind = "head" if head else first.decode("latin1") if first[:1] == b"Q" else "data"
                    self.reachable.append((device, at, BLOCK, kind))


def run(*args):
    return subprocess.run(
        [QUARRY, "--socket", SOCKET, *args], capture_output=True, timeout=TIMEOUT_S, text=True, check=False
    )


def check(*options):
    done = run("check", "--data", *options, *PATHS)
    assert done.returncode in (0, 1, 3), f"status {done.returncode}: {done.stdout}{done.stderr}"
    assert done.returncode == 0 or done.stdout, "not clean, and no reason"
    return done


def contents():
    found = []
    for volume in VOLUMES:
        handle = nbd.NBD()
        handle.connect_uri(NBD_URI.replace("NAME", volume))
        size = handle.get_size()
        found.append(b"".join(handle.pread(min(MOST, size - at), at) for at in range(0, size, MOST)))
        handle.shutdown()
    return found


def pick(rng, pool):
    """A place: half of the time one that counts, else anywhere."""
    if rng.random() < 0.5:
        kinds = sorted({need[3] for need in pool.reachable})
        kind = rng.choice(kinds)
        device, offset, length, _ = rng.choice([need for need in pool.reachable if need[3] == kind])
        return device, offset + rng.randrange(length)
    device = rng.randrange(len(pool.data))
    return device, rng.randrange(len(pool.data[device]))


def damage(rng, pool, files):
    """Changes the bytes in @files; says what it did."""
    kind = rng.choice(("bit", "bytes", "sector", "zeroes", "swap", "copy", "truncate"))
    device, offset = pick(rng, pool)
    data = files[device]
    block = offset // BLOCK * BLOCK
    if kind == "bit":
        data[offset] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        count = min(rng.randrange(1, 64), len(data) - offset)
        data[offset : offset + count] = rng.randbytes(count)
    elif kind == "sector":
        offset = offset // 512 * 512
        data[offset : offset + 512] = rng.randbytes(512)
    elif kind == "zeroes":
        data[block : block + BLOCK] = bytes(BLOCK)
    elif kind == "truncate":
        if rng.random() < 0.5:
            del data[offset:]
        else:
            del data[len(data) - rng.randrange(1, 1 << 20) :]
    else:
        other_device, other = pick(rng, pool)
        other = other // BLOCK * BLOCK
        theirs = files[other_device][other : other + BLOCK]
        if kind == "swap":
            files[other_device][other : other + BLOCK] = data[block : block + BLOCK]
        data[block : block + BLOCK] = theirs
    return f"{kind} at {PATHS[device]}, byte {offset}"


def write(files):
    for path, data in zip(PATHS, files):
        with open(path, "wb") as file:
            file.write(data)


def changed(pool, files):
    """What was changed that counts; and whether a device became shorter."""
    kinds = set()
    for device, offset, length, what in pool.reachable:
        if files[device][offset : offset + length] != pool.data[device][offset : offset + length]:
            kinds.add(what)
    return kinds, any(len(file) < len(data) for file, data in zip(files, pool.data))


def try_variant(rng, pool, wanted, figures):
    files = [bytearray(data) for data in pool.data]
    what = damage(rng, pool, files)
    same = files == pool.data
    kinds, shorter = changed(pool, files)
    write(files)
    try:
        found = check()
        if not ORACLE and not same:
            figures["told" if found.returncode else "harmless"] += 1
        elif kinds or shorter:
            assert found.returncode != 0, f"damaged ({kinds}), but \"clean\""
            figures["told"] += 1
        else:
            assert found.returncode == 0, f"nothing that counts was damaged, but: {found.stdout}"
            figures["harmless"] += 1
        repaired = check("--repair")
        if ORACLE and kinds <= set(KEPT_TWICE) and not shorter:
            assert repaired.returncode == 0, f"{kinds} were not repaired: {repaired.stdout}{repaired.stderr}"
        if repaired.returncode == 0:
            figures["repaired"] += found.returncode != 0
            done = run("pool", "import", *PATHS)
            assert done.returncode == 0, f"not imported: {done.stderr}"
            assert contents() == wanted, "the content is not as it was"
            run("pool", "export", "tank", "--force")
            assert check().returncode == 0, "not clean after an import"
        elif COPIES > 1:
            if run("pool", "import", *PATHS).returncode == 0:
                figures["served"] += 1
                assert contents() == wanted, "the content is not as it was"
                run("pool", "export", "tank", "--force")
    except (AssertionError, subprocess.TimeoutExpired) as error:
        sys.exit(f"# {what}: {error}")


def main():
    started = time.monotonic()
    run("pool", "import", *PATHS)
    wanted = contents()
    run("pool", "export", "tank", "--force")
    pool = Pool(PATHS) if ORACLE else Blocks(PATHS)
    assert len(pool.reachable) > 500, len(pool.reachable)
    figures = {"told": 0, "harmless": 0, "repaired": 0, "served": 0}
    for i in range(int(VARIANTS)):
        try_variant(random.Random(f"{SEED} {i}"), pool, wanted, figures)
    print(
        f"# {pool.packed_slabs} packed slabs; {VARIANTS} variants in {time.monotonic() - started:.0f} s: {figures['told']} told of "
        f"(of these {figures['repaired']} repaired whole, {figures['served']} served from copies), {figures['harmless']} harmless"
    )


main()
