"""What the daemon asks of a worker and what it answers: typed, length-prefixed msgpack.

The channel is a socket pair; its end of file is the death notice in both directions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from streamer_client.storage.contract import StoredShard

_LENGTH: Final = struct.Struct("<I")


class Job(msgspec.Struct, frozen=True, tag=True):
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
    """Bytes that did not come from the page cache; -1 when the storage cannot tell."""


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


AnyJob = Resolve | Fetch | Punch | Checksum | CloseSlab | Unlink
Answer = Resolved | Fetched | Checksummed | Finished | Failed

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
