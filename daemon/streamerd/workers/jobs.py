"""What the daemon asks of a worker and what it answers: typed msgpack, in frames. Pure.

The channel between them is a socket pair; its end of file is the death notice in both directions.
A frame says how many descriptors travel with it. What a worker holds (slabs, sources) is named by
handles, numbers that `lending.py` gives out; a worker is lent the descriptors behind a handle
before the first job that names it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum
from typing import Final, assert_never

import msgspec

from streamer_client.contract.printable import Redacted
from streamer_client.contract.uris import is_remote
from streamer_client.storage.contract import StoredShard

_HEAD: Final = struct.Struct("<IB")
"""Length of the body, and how many descriptors came with the frame."""

MOST_DESCRIPTORS: Final = 253
"""That a message of a Unix socket carries: SCM_MAX_FD of the kernel."""


RECEIVE_BYTES: Final = 256 << 10
"""What is asked of a socket at once."""


class Job(Redacted, frozen=True, tag=True):
    job: int
    """Number of the job; the answer carries it."""


# --- what is asked --------------------------------------------------------------------------------


class Resolve(Job, frozen=True):
    """List the shards of a source in an object store; files are opened by who may read them."""

    source: str
    pattern: str | None
    files: tuple[str, ...] | None
    environment: dict[str, str]


class ExamineFile(msgspec.Struct, frozen=True):
    """One file whose descriptors a client passed."""

    uri: str
    """What the client calls it; told in errors, never opened."""
    direct: bool
    """Whether a second descriptor came, opened with O_DIRECT."""
    uid: int
    """The user who passed it."""


class Examine(Job, frozen=True):
    """Look at files through the descriptors that come along: plain and, if any, direct of each.

    The worker closes its copies of them.
    """

    files: tuple[ExamineFile, ...]


class Fetch(Job, frozen=True):
    """Back bytes `start` to `stop` of a slab and read them from the shard."""

    slab: int
    shard: StoredShard
    source: int | None
    """Handle of the file to read through; None for an object."""
    environment: dict[str, str]
    start: int
    stop: int


class Punch(Job, frozen=True):
    """Give the memory behind bytes `start` to `stop` (whole pages) back."""

    slab: int
    start: int
    stop: int


class Checksum(Job, frozen=True):
    """Take the checksum of bytes `start` to `stop` of a slab, as they lie there."""

    slab: int
    start: int
    stop: int


class Reread(Job, frozen=True):
    """Take the checksum of bytes `start` to `stop` of a shard, read from its source once more."""

    shard: StoredShard
    source: int | None
    """Handle of the file to read through; None for an object."""
    environment: dict[str, str]
    start: int
    stop: int


class CompareFile(msgspec.Struct, frozen=True):
    """Where a slab and its file are compared."""

    starts: tuple[int, ...]
    size_bytes: int


class Compare(Job, frozen=True):
    """Compare slabs with files through the descriptors that come along: slab and file of each.

    The worker closes its copies of them.
    """

    files: tuple[CompareFile, ...]


class CloseSlab(Job, frozen=True):
    """Drop descriptors, mappings and readers of a slab that will be unlinked."""

    slab: int


class Forget(Job, frozen=True):
    """Close what was opened with an environment that no load has any more."""

    digest: str
    """Of the environment, by `environments.digest_of`."""


class Unlink(Job, frozen=True):
    """Unlink a slab with all that is in it, if the name still means it; it may take seconds."""

    name: str
    inode: int


AnyJob = (
    Resolve | Examine | Fetch | Punch | Checksum | Reread | Compare | CloseSlab | Forget | Unlink
)


# --- what is said beside jobs ---------------------------------------------------------------------


class TakeSlab(msgspec.Struct, frozen=True, tag=True):
    """Hold a slab, whose writable descriptor comes along, under a handle."""

    handle: int


class TakeSource(msgspec.Struct, frozen=True, tag=True):
    """Hold a file, whose descriptors come along (plain and, if any, direct), under a handle."""

    handle: int
    stored: StoredShard


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Close what is held under a handle as soon as no job that was received before uses it."""

    handle: int


class GiveUp(msgspec.Struct, frozen=True, tag=True):
    """A job was not answered in time: give up the thread that it has had for so long.

    Answered by `Failed` with `hung`, or by `StillGoing` or `Stuck`; by nothing where the job's
    answer is on its way already.
    """

    job: int
    limit_s: float


Request = AnyJob | TakeSlab | TakeSource | Drop | GiveUp


# --- what is answered -----------------------------------------------------------------------------


class Resolved(Job, frozen=True):
    shards: tuple[StoredShard, ...]


class ExaminedFile(msgspec.Struct, frozen=True, tag=True):
    """A file that may be read through its descriptor."""

    shard: StoredShard
    """With the identity that is known to the daemon alone: disk and owner are in it."""
    ctime_ns: int
    direct_ok: bool
    """Whether the second descriptor reads the same file past the page cache."""


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """Why a file is not read, as `errors.py` has it."""

    code: str
    message: str


class Examined(Job, frozen=True):
    found: tuple[ExaminedFile | Refusal, ...]
    """In the order of the files asked for."""


class Fetched(Job, frozen=True):
    checksum: int
    """XXH3-64 of the block."""
    device_bytes: int
    """Bytes from device or network, not from the page cache; -1 when the storage cannot tell."""
    retries: int = 0
    """Requests made again for this shard since the last answer that told them."""
    ctime_ns: int = 0
    """The ctime of the file under which all bytes were read; 0 for an object."""


class Checksummed(Job, frozen=True):
    checksum: int
    """XXH3-64 of the range."""
    ctime_ns: int = 0
    """As in `Fetched`; 0 for a slab."""


class CompareFailure(msgspec.Struct, frozen=True):
    """Why a file could not be compared."""

    file: int
    """Its place in the job."""
    code: str
    message: str


class Compared(Job, frozen=True):
    differing: tuple[tuple[int, int], ...]
    """Place of the file in the job, and start of the piece that differs."""
    failed: tuple[CompareFailure, ...]


class Finished(Job, frozen=True):
    """A job that has nothing to tell was carried out."""


class Failed(Job, frozen=True):
    """The job was not carried out."""

    code: str
    message: str
    no_space: bool = False
    """Only because the mount is full."""
    retries: int = 0
    hung: bool = False
    """It had no end within its limit; its thread, or its worker, was given up."""


Answer = Resolved | Examined | Fetched | Checksummed | Compared | Finished | Failed


class StillGoing(Job, frozen=True):
    """`GiveUp` came too early: the job waits for a thread, or has had one for a shorter time."""

    left_s: float


class Stuck(Job, frozen=True):
    """`GiveUp` cannot be obeyed: the job may write into its slab at any time. Kill this process."""


Reply = Answer | StillGoing | Stuck


def hung(job: int, what: str, limit_s: float) -> Failed:
    """The answer for a job that is not waited for any longer."""
    text = (
        f"{what}: did not answer within {limit_s:g} s and was given up; check the device, the "
        "mount or the server that it is on"
    )
    return Failed(job, "source", text, hung=True)


# --- where and with what --------------------------------------------------------------------------


class Lane(Enum):
    """Threads of a worker that wait for one kind of thing; no lane holds another up."""

    DISK = "disk"
    STORE = "store"
    """Reads over the network, many at once as each mostly waits."""
    ASIDE = "aside"
    """What is not read into slabs: listing, examining, reading again."""
    SLABS = "slabs"
    """What touches slabs alone, so that a source that hangs delays no memory's return."""


def lane_of(job: AnyJob) -> Lane:
    """Where a job is carried out."""
    match job:
        case Fetch():
            return Lane.STORE if job.source is None else Lane.DISK
        case Checksum():
            return Lane.DISK
        case Resolve() | Examine() | Reread() | Compare():
            return Lane.ASIDE
        case Punch() | CloseSlab() | Forget() | Unlink():
            return Lane.SLABS
        case _:
            assert_never(job)


def handles_of(job: AnyJob) -> tuple[int | None, int | None]:
    """Slab and source that a worker must hold for a job."""
    match job:
        case Fetch():
            return job.slab, job.source
        case Punch() | Checksum():
            return job.slab, None
        case Reread():
            return None, job.source
        case Resolve() | Examine() | Compare() | CloseSlab() | Forget() | Unlink():
            return None, None
        case _:
            assert_never(job)


def subject_of(job: AnyJob) -> str:
    """What a job is about, for the text of an error."""
    match job:
        case Fetch() | Reread():
            return f"{job.shard.uri} bytes {job.start} to {job.stop}"
        case Resolve():
            return job.source
        case Examine():
            return job.files[0].uri if len(job.files) == 1 else f"one of {len(job.files)} files"
        case Compare():
            return f"one of {len(job.files)} files"
        case Punch() | Checksum() | CloseSlab():
            return f"slab {job.slab}"
        case Forget():
            return "readers of a load that ended"
        case Unlink():
            return job.name
        case _:
            assert_never(job)


def is_local(job: Resolve) -> bool:
    """Whether a job asks for names that only whoever says them may open."""
    return not is_remote(job.source)


# --- frames ---------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
job_decoder = msgspec.msgpack.Decoder(Request)
answer_decoder = msgspec.msgpack.Decoder(Reply)


def frame(message: msgspec.Struct, descriptors: int = 0) -> bytes:
    """One message as it travels."""
    body = _encoder.encode(message)
    return _HEAD.pack(len(body), descriptors) + body


class FrameBuffer:
    """Cuts a byte stream back into messages' bodies."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take received bytes; give every whole body they complete."""
        for body, _ in self.frames(data):
            yield body

    def frames(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """As `feed`, each body with the number of descriptors that belong to it."""
        pending = self._pending
        pending += data
        start = 0
        while len(pending) - start >= _HEAD.size:
            length, descriptors = _HEAD.unpack_from(pending, start)
            stop = start + _HEAD.size + length
            if len(pending) < stop:
                break
            yield bytes(pending[start + _HEAD.size : stop]), descriptors
            start = stop
        del pending[:start]
