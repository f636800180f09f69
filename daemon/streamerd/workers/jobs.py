"""Jobs and answers: the messages between the daemon and a fetch worker. Pure.

Jobs name slabs and sources by handles, numbers that `in_daemon/lending.py` gives out. A worker gets
the descriptors behind a handle (`TakeSlab`, `TakeSource`) before the first job that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

import msgspec

from streamer_client.contract.printable import Redacted
from streamer_client.contract.uris import is_remote
from streamer_client.storage.contract import StoredShard
from streamerd.settings.fleet import Terms


class Job(Redacted, frozen=True, tag=True):
    job: int
    """Number of the job; its answer repeats it."""


# --- jobs -----------------------------------------------------------------------------------------


class Resolve(Job, frozen=True):
    """List the shards of a source in an object store; local files are listed by their client."""

    source: str
    pattern: str | None
    files: tuple[str, ...] | None
    environment: dict[str, str]


class LookAt(Job, frozen=True):
    """Look at objects of a store with a client's credentials; answered as `Resolve` is."""

    uris: tuple[str, ...]
    environment: dict[str, str]


class ExamineFile(msgspec.Struct, frozen=True):
    """One file whose descriptors a client passed."""

    uri: str
    """The client's name for it, which only error texts use; it is never opened."""
    direct: bool
    """Whether a second descriptor came, opened with O_DIRECT."""
    uid: int
    """The user who passed it."""


class Examine(Job, frozen=True):
    """Examine files; a plain descriptor of each comes along, and a direct one if it has any.

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
    digest: str = ""
    """Of the environment, by `digest_of`. Where it is given, the worker is sent the environment
    once (`TakeEnvironment`) and each job without it: certificates make it 200 KB long."""
    backed: bool = False
    """Whether the range has memory already."""
    peers: bool = False
    """Read an object's bytes from other nodes; where the plan says to read the store instead, the
    answer is `JobFailed` with `FROM_STORE`."""


class Back(Job, frozen=True):
    """Put memory behind bytes `start` to `stop` of a slab."""

    slab: int
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
    """Compare slabs with files; a descriptor of each slab and one of each file come along.

    The worker closes its copies of them.
    """

    files: tuple[CompareFile, ...]


class CloseSlab(Job, frozen=True):
    """Drop descriptors, mappings and readers of a slab that will be unlinked."""

    slab: int


class Forget(Job, frozen=True):
    """Forget an environment that no load has any more, and close the readers opened with it."""

    digest: str
    """Of the environment, by `digest_of`."""


AnyJob = (
    Resolve
    | LookAt
    | Examine
    | Fetch
    | Back
    | Punch
    | Checksum
    | Reread
    | Compare
    | CloseSlab
    | Forget
)


# --- other requests -------------------------------------------------------------------------------


class TakeSlab(msgspec.Struct, frozen=True, tag=True):
    """Hold a slab, whose writable descriptor comes along, under a handle."""

    handle: int


class TakeSource(msgspec.Struct, frozen=True, tag=True):
    """Hold a file, whose descriptors come along (plain and, if any, direct), under a handle."""

    handle: int
    stored: StoredShard


class TakeEnvironment(Redacted, frozen=True, tag=True):
    """Keep an environment for the jobs that name its digest."""

    digest: str
    environment: dict[str, str]


class DropEnvironment(msgspec.Struct, frozen=True, tag=True):
    """Forget an environment; it is sent again before the next job that names it."""

    digest: str


class TellFleet(msgspec.Struct, frozen=True, tag=True):
    """Who is in the fleet now. Before the first of these, no job reads from peers."""

    terms: Terms
    me: str
    members: frozenset[str]


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Close what is held under a handle as soon as no job that was received before uses it."""

    handle: int


class GiveUp(msgspec.Struct, frozen=True, tag=True):
    """A job was not answered in time: give up the thread that works on it.

    Answered by `JobFailed` with `hung`, or by `StillGoing` or `Stuck`; by nothing where the job's
    answer is on its way already.
    """

    job: int
    limit_s: float


Request = (
    AnyJob | TellFleet | TakeSlab | TakeSource | TakeEnvironment | DropEnvironment | Drop | GiveUp
)


# --- answers --------------------------------------------------------------------------------------


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
    """Why a file is not read: code and text of an error of `contract/errors.py`."""

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
    """Requests that were repeated for this shard, apart from those in earlier answers."""
    ctime_ns: int = 0
    """The ctime of the file under which all bytes were read; 0 for an object."""
    began_s: float = 0.0
    """When a thread began with it, by the clock that the machine's processes share (monotonic)."""
    worker: int = 0
    """The worker's pid."""
    thread: int = 0
    """The thread's number, as the kernel has it."""


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
    """The job was carried out; there is no result."""


class JobFailed(Job, frozen=True):
    """The job was not carried out."""

    code: str
    message: str
    no_space: bool = False
    """The only reason is that the shared-memory mount is full."""
    retries: int = 0
    hung: bool = False
    """The job did not end within its time limit, and its thread or worker was given up."""


FROM_STORE: Final = "from-store"
"""The code of a `JobFailed` whose message is why a block is to be read from the store."""

Answer = Resolved | Examined | Fetched | Checksummed | Compared | Finished | JobFailed


class StillGoing(Job, frozen=True):
    """`GiveUp` came too early: a thread has worked on the job for less than the time limit."""

    left_s: float


class Stuck(Job, frozen=True):
    """`GiveUp` cannot be obeyed: the job may write into its slab at any time. Kill this process."""


Reply = Answer | StillGoing | Stuck


def hung(job: int, what: str, limit_s: float) -> JobFailed:
    """The answer to a job that did not end within its time limit."""
    text = (
        f"{what}: did not answer within {limit_s:g} s and was given up; check the device, the "
        "mount or the server that it is on"
    )
    return JobFailed(job, "source", text, hung=True)


def is_local(job: Resolve) -> bool:
    """Whether a job names a path, which only the client that sent it may open."""
    return not is_remote(job.source)


# --- decoders -------------------------------------------------------------------------------------

job_decoder = msgspec.msgpack.Decoder(Request)
answer_decoder = msgspec.msgpack.Decoder(Reply)


def digest_of(environment: Mapping[str, str]) -> str:
    """A name for an environment that can be passed on and compared without its secrets.

    A length precedes each part: no character could separate the parts, since a value may hold any
    of them, and two environments that differ must never share a connection.
    """
    digest = blake2b(digest_size=16)
    for variable in sorted(environment.items()):
        for part in map(str.encode, variable):
            digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()
