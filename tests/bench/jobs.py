# SPDX-License-Identifier: Apache-2.0
"""What is measured: a file of fio-jobs/ each, on a volume in a state."""
import dataclasses

# A volume each, by what it is for.  All but the fresh one are written from end to end before anything is measured.
FULL = "full"
FRESH = "fresh"  # made anew before each run: nothing of it was ever written
AGED = "aged"  # fills four fifths of what its pool offers, and was overwritten until the pool was written five times
SEVERAL = ["volume0", "volume1", "volume2", "volume3"]


@dataclasses.dataclass(frozen=True)
class Job:
    file: str
    state: str = ""  # the name is file and state
    volume: str = FULL
    several: bool = False
    snapshots: int = 0  # made before, where the server has such a thing
    quick: bool = False  # of `make bench`, too
    iscsi: bool = False  # over iSCSI, too

    @property
    def name(self):
        return f"{self.file} {self.state}".rstrip()

    @property
    def volumes(self):
        return SEVERAL if self.several else [self.volume]


# In this order: sequential reads come before random writes, and once more behind them.
JOBS = [
    Job("seq-write-64k-qd16", quick=True, iscsi=True),
    Job("seq-read-64k-qd16", quick=True, iscsi=True),
    Job("seq-write-1m-qd4", quick=True),
    Job("seq-read-1m-qd4", quick=True),
    Job("rand-read-4k-qd1", quick=True, iscsi=True),
    Job("rand-read-4k-qd8"),
    Job("rand-read-4k-qd32", quick=True, iscsi=True),
    Job("rand-read-4k-qd128"),
    Job("rand-read-4k-4x8"),
    Job("rand-read-4k-16x2"),
    Job("rand-read-4k-4volumes", several=True),
    Job("rand-mixed-4k-qd32", iscsi=True),
    Job("rand-write-4k-fdatasync-qd1", quick=True, iscsi=True),
    Job("rand-write-4k-fdatasync-16"),
    Job("rand-write-4k-qd1"),
    Job("rand-write-4k-qd8"),
    Job("rand-write-4k-qd32", quick=True, iscsi=True),
    Job("rand-write-4k-qd128"),
    Job("rand-write-4k-4x8"),
    Job("rand-write-4k-16x2"),
    Job("rand-write-4k-4volumes", several=True),
    Job("rand-write-4k-qd32", "into a fresh volume", volume=FRESH),
    Job("rand-read-4k-qd32", "of an aged volume", volume=AGED),
    Job("rand-write-4k-qd32", "into an aged volume", volume=AGED),
    Job("rand-write-4k-qd32", "after a snapshot", snapshots=1, quick=True),
    Job("rand-write-4k-qd32", "after 100 snapshots", snapshots=100),
    Job("seq-read-1m-qd4", "after random writes", quick=True),
]


def volume_sizes(jobs, size):
    """The bytes of each volume that these jobs need."""
    shares = {FULL: 1, FRESH: 1, AGED: 4} | {name: 16 for name in SEVERAL}
    return {volume: size // shares[volume] >> 20 << 20 for job in jobs for volume in job.volumes}
