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


class Job(Redacted, frozen=True, tag=True, array_like=True):
    job: int
    """Number of the job, which its answer repeats."""


# --- jobs -----------------------------------------------------------------------------------------


class Resolve(Job, frozen=True):
    """List the shards of a source in an object store; local files are listed by their client."""

    source: str
    pattern: str | None
    files: tuple[str, ...] | None
    environment: dict[str, str]
    listings: tuple[tuple[str, bool], ...] = ()
    """What the daemon knows of `LISTINGS`, which each worker learns for itself alone."""


class LookAt(Job, frozen=True):
    """Look at objects of a store with a client's credentials; the answer is `Resolved`."""

    uris: tuple[str, ...]
    environment: dict[str, str]


class ExamineFile(msgspec.Struct, frozen=True):
    """One file whose descriptors a client passed."""

    uri: str
    """The client's name for the file, which only error texts use; the path is never opened."""
    direct: bool
    """Whether the file has a second descriptor, opened with O_DIRECT."""
    uid: int
    """Id of the user who passed the file."""


class Examine(Job, frozen=True):
    """Examine files, whose descriptors come along: a plain one of each, and a direct one if any.

    The worker closes its copies of the descriptors.
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
    """Digest of the environment, by `digest_of`. If it is given, the worker gets the environment
    once (`TakeEnvironment`) and jobs without it, since certificates make it 200 KB long."""
    backed: bool = False
    """Whether the range has been backed with memory already."""
    peers: bool = False
    """Whether to read an object's bytes from other nodes. If the plan says to read the store
    instead, the answer is `JobFailed` with `FROM_STORE`."""


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
    """The places at which a slab and its file are compared."""

    starts: tuple[int, ...]
    size_bytes: int


class Compare(Job, frozen=True):
    """Compare slabs with files; a descriptor of each slab and one of each file come along.

    The worker closes its copies of the descriptors.
    """

    files: tuple[CompareFile, ...]


class CloseSlab(Job, frozen=True):
    """Drop descriptors, mappings and readers of a slab that will be unlinked."""

    slab: int


class Forget(Job, frozen=True):
    """Forget an environment that no load has any more, and close the readers opened with it."""

    digest: str
    """Digest of the environment, by `digest_of`."""


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


class TakeSlab(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Hold a slab, whose writable descriptor comes along, under a handle."""

    handle: int


class TakeSource(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Hold a file, whose descriptors come along (plain and, if any, direct), under a handle."""

    handle: int
    stored: StoredShard


class TakeEnvironment(Redacted, frozen=True, tag=True, array_like=True):
    """Keep an environment for the jobs that name its digest."""

    digest: str
    environment: dict[str, str]


class DropEnvironment(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Forget an environment; it is sent again before the next job that names it."""

    digest: str


class TellFleet(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Tell the present members of the fleet. Before the first of these, no job reads from peers."""

    terms: Terms
    me: str
    members: frozenset[str]


class Drop(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Close the slab or file of a handle once no job that was received before uses it."""

    handle: int


class GiveUp(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A job was not answered in time: give up the thread that works on it.

    The answer is `JobFailed` with `hung`, or `StillGoing` or `Stuck`. There is none if the job's
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
    learned: tuple[tuple[str, bool | None], ...] = ()
    """What the worker learned meanwhile of `LISTINGS`; None for an entry that is gone."""


class ExaminedFile(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A file that may be read through its descriptor."""

    shard: StoredShard
    """Name, size and identity of the file. The identity has disk and owner in it, and only the
    daemon uses it."""
    ctime_ns: int
    direct_ok: bool
    """Whether the second descriptor reads the same file past the page cache."""


class Refusal(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The reason why a file is refused: code and text of an error of `contract/errors.py`."""

    code: str
    message: str


class Examined(Job, frozen=True):
    found: tuple[ExaminedFile | Refusal, ...]
    """The results in the order of the job's files."""


class Fetched(Job, frozen=True):
    checksum: int
    """XXH3-64 of the block."""
    device_bytes: int
    """Bytes from device or network, not from the page cache; -1 if the storage cannot tell."""
    retries: int = 0
    """Number of requests for this shard that were repeated since the last answer."""
    ctime_ns: int = 0
    """The ctime of the file under which all bytes were read; 0 for an object."""
    began_s: float = 0.0
    """When a thread began the job, by the monotonic clock, which the machine's processes share."""
    worker: int = 0
    """The worker's pid."""
    thread: int = 0
    """The thread's number, as the kernel has it."""


class Checksummed(Job, frozen=True):
    checksum: int
    """XXH3-64 of the range."""
    ctime_ns: int = 0
    """The ctime of the file, as in `Fetched`; 0 for a slab."""


class CompareFailure(msgspec.Struct, frozen=True):
    """The reason why a file could not be compared."""

    file: int
    """Index of the file in the job."""
    code: str
    message: str


class Compared(Job, frozen=True):
    differing: tuple[tuple[int, int], ...]
    """The pieces that differ: index of the file in the job, and offset of the piece."""
    failed: tuple[CompareFailure, ...]


class Finished(Job, frozen=True):
    """The job was carried out, and has no result."""


class JobFailed(Job, frozen=True):
    """The job was not carried out."""

    code: str
    message: str
    no_space: bool = False
    """Whether the job failed only because the shared-memory mount is full."""
    retries: int = 0
    hung: bool = False
    """Whether the job did not end within its time limit, so that its thread or worker was given
    up."""
    doubted: str = ""
    """The place whose listing contradicted the object that was read, as `place_of` names it."""


FROM_STORE: Final = "from-store"
"""The code of a `JobFailed` whose message is the reason for reading a block from the store."""

Answer = Resolved | Examined | Fetched | Checksummed | Compared | Finished | JobFailed


class StillGoing(Job, frozen=True):
    """`GiveUp` came too early: a thread has worked on the job for less than the time limit."""

    left_s: float


class Stuck(Job, frozen=True):
    """`GiveUp` cannot be obeyed: the job may write into its slab, so kill the process."""


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

    Each part follows its length. No character could separate the parts, since a value may hold any
    character, and two environments that differ must never share a connection.
    """
    digest = blake2b(digest_size=16)
    for variable in sorted(environment.items()):
        for part in map(str.encode, variable):
            digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()
