"""What the daemon asks of a worker and what it answers: typed, length-prefixed msgpack.

The channel is a socket pair; its end of file is the death notice in both directions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum
from typing import Final, assert_never

import msgspec

from streamer_client.contract.redacted import Redacted
from streamer_client.contract.uris import is_remote
from streamer_client.storage.contract import StoredShard

_LENGTH: Final = struct.Struct("<I")


class Job(Redacted, frozen=True, tag=True):
    job: int
    """Number of the job; the answer carries it."""


class Resolve(Job, frozen=True):
    """List the shards of a source."""

    source: str
    pattern: str | None
    files: tuple[str, ...] | None
    environment: dict[str, str]


class Fetch(Job, frozen=True):
    """Back bytes `start` to `stop` of a slab and read them from the shard."""

    slab: str
    shard: StoredShard
    environment: dict[str, str]
    start: int
    stop: int


class Punch(Job, frozen=True):
    """Give the memory behind bytes `start` to `stop` (whole pages) back."""

    slab: str
    start: int
    stop: int


class Checksum(Job, frozen=True):
    """Take the checksum of bytes `start` to `stop` of a slab, as they lie there."""

    slab: str
    start: int
    stop: int


class Reread(Job, frozen=True):
    """Take the checksum of bytes `start` to `stop` of a shard, read from its source once more."""

    shard: StoredShard
    environment: dict[str, str]
    start: int
    stop: int


class CloseSlab(Job, frozen=True):
    """Drop descriptor and reader of a slab that will be unlinked."""

    slab: str


class Unlink(Job, frozen=True):
    """Unlink a slab with all that is in it; the larger, the longer it takes."""

    slab: str


class Resolved(Job, frozen=True):
    shards: tuple[StoredShard, ...]


class Fetched(Job, frozen=True):
    checksum: int
    """XXH3-64 of the block."""
    device_bytes: int
    """Bytes from device or network, not from the page cache; -1 when the storage cannot tell."""
    retries: int = 0
    """Requests made again for this shard since the last answer that told them."""


class Checksummed(Job, frozen=True):
    checksum: int
    """XXH3-64 of the range."""


class Finished(Job, frozen=True):
    """A `Punch`, `CloseSlab` or `Unlink` was carried out."""


class Failed(Job, frozen=True):
    """The job was not carried out. `no_space`: only because the mount is full."""

    code: str
    message: str
    no_space: bool = False
    retries: int = 0


AnyJob = Resolve | Fetch | Punch | Checksum | Reread | CloseSlab | Unlink
Answer = Resolved | Fetched | Checksummed | Finished | Failed


class Lane(Enum):
    """Threads of a worker that wait for one kind of thing; no lane holds another up."""

    DISK = "disk"
    STORE = "store"
    """Reads over the network, many at once as each mostly waits."""
    ASIDE = "aside"
    """What nobody's blocks wait for: listing sources, reading again for `verify`, unlinking."""


def lane_of(job: AnyJob) -> Lane:
    """Where a job is carried out."""
    match job:
        case Fetch():
            return Lane.STORE if is_remote(job.shard.uri) else Lane.DISK
        case Resolve() | Reread() | Unlink():
            return Lane.ASIDE
        case Punch() | Checksum() | CloseSlab():
            return Lane.DISK
        case _:
            assert_never(job)


_encoder = msgspec.msgpack.Encoder()
job_decoder = msgspec.msgpack.Decoder(AnyJob)
answer_decoder = msgspec.msgpack.Decoder(Answer)


def frame(message: Job) -> bytes:
    """One message as it travels."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Cuts a byte stream back into messages' bodies."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take received bytes; give every whole body they complete."""
        pending = self._pending
        pending += data
        start = 0
        while len(pending) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(pending, start)
            stop = start + _LENGTH.size + length
            if len(pending) < stop:
                break
            yield bytes(pending[start + _LENGTH.size : stop])
            start = stop
        del pending[:start]
