"""Decides which threads of a worker carry a job out, and which handles the job needs. Pure."""

from __future__ import annotations

from enum import Enum
from typing import assert_never

from streamerd.workers.jobs import (
    AnyJob,
    Back,
    Checksum,
    CloseSlab,
    Compare,
    Examine,
    Fetch,
    Forget,
    LookAt,
    Punch,
    Reread,
    Resolve,
)


class WorkerLane(Enum):
    """A group of a worker's threads for one kind of work, so that no kind holds another up."""

    DISK = "disk"
    STORE = "store"
    """Reads over the network. There are many threads, since each mostly waits."""
    PEERS = "peers"
    """Reads from other nodes, which may wait until those nodes have the bytes themselves."""
    ASIDE = "aside"
    """Work whose result does not go into slabs: listing, examining, reading again."""
    SLABS = "slabs"
    """Work on slabs alone, so that memory is released in time even while a source hangs."""


def lane_of(job: AnyJob) -> WorkerLane:
    """The lane whose threads carry the job out."""
    match job:
        case Fetch():
            if job.peers:
                return WorkerLane.PEERS
            return WorkerLane.STORE if job.source is None else WorkerLane.DISK
        case Checksum():
            return WorkerLane.DISK
        case Resolve() | LookAt() | Examine() | Reread() | Compare():
            return WorkerLane.ASIDE
        case Back() | Punch() | CloseSlab() | Forget():
            return WorkerLane.SLABS
        case _:
            assert_never(job)


def handles_of(job: AnyJob) -> tuple[int | None, int | None]:
    """Handles of the slab and the source that a worker must have borrowed for a job."""
    match job:
        case Fetch():
            return job.slab, job.source
        case Back() | Punch() | Checksum():
            return job.slab, None
        case Reread():
            return None, job.source
        case Resolve() | LookAt() | Examine() | Compare() | CloseSlab() | Forget():
            return None, None
        case _:
            assert_never(job)


def subject_of(job: AnyJob) -> str:
    """The subject of a job in words, for an error text."""
    match job:
        case Fetch() | Reread():
            return f"{job.shard.uri} bytes {job.start} to {job.stop}"
        case Resolve():
            return job.source
        case LookAt():
            return job.uris[0] if len(job.uris) == 1 else f"one of {len(job.uris)} objects"
        case Examine():
            return job.files[0].uri if len(job.files) == 1 else f"one of {len(job.files)} files"
        case Compare():
            return f"one of {len(job.files)} files"
        case Back() | Punch() | Checksum() | CloseSlab():
            return f"slab {job.slab}"
        case Forget():
            return "readers of a load that ended"
        case _:
            assert_never(job)
