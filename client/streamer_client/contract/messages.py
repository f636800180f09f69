"""The control protocol: every message between a client and the daemon.

One msgpack-encoded struct a ZeroMQ frame, tagged by its class name; `docs/protocol.md` tells the
conversation. A message that does not decode is answered with `Failed`, never with silence. Ranges
of blocks travel, never single blocks where more are at hand.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.redacted import Redacted

PROTOCOL: Final = 3

Json = dict[str, object]


class Message(Redacted, frozen=True, tag=True, array_like=False, forbid_unknown_fields=True):
    """Base of all messages; `tag` is the class name."""


# --- client to daemon ---------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a connection. `pid_namespace` is the inode of /proc/self/ns/pid."""

    request_id: int
    protocol: int
    version: str
    pid: int
    pid_namespace: int
    label: str
    """What `status` shows for this client, for example `rank 0`."""


class Open(Message, frozen=True):
    """Asks for a load. Answered by `Opened` or `Failed`, after any number of `Waiting`.

    `load` is a number that the client chooses, unique in its connection. `files` (paths or URIs)
    wins over `pattern`, a glob on the file names directly under `source`. `want` says what is
    brought in without further word: `all` blocks, the first block of each shard (`headers`), or
    `none`. `hold` asks that whole shards stay resident until released, so that views are safe.
    """

    request_id: int
    load: int
    source: str
    files: tuple[str, ...] | None = None
    pattern: str | None = None
    want: str = "all"
    hold: bool = False
    memory_limit: int = -1
    concurrency: int | None = None
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    """What reading depends on: credentials, region, endpoint. Secret: kept in memory only."""


class Renew(Message, frozen=True):
    """The environment of a load as it is now: in answer to `CredentialsWanted`, or unasked.

    The same as before means that the client has nothing newer.
    """

    load: int
    environment: dict[str, str]


class Want(Message, frozen=True):
    """Replaces what the load still wants and was not yet granted, in order of use."""

    load: int
    ranges: tuple[BlockRange, ...]


class Consumed(Message, frozen=True):
    """Granted blocks that the client will not read again (unless it wants them again)."""

    load: int
    ranges: tuple[BlockRange, ...]


class ReleaseShards(Message, frozen=True):
    """The client holds no view of these shards any more; their leases end."""

    load: int
    shards: tuple[int, ...]


class Close(Message, frozen=True):
    """Ends a load and every lease of it."""

    load: int


class Heartbeat(Message, frozen=True):
    """Sent by the client each `heartbeat_s`, echoed by the daemon."""


class Goodbye(Message, frozen=True):
    """The client leaves; everything it holds ends."""


class GetStatus(Message, frozen=True):
    request_id: int


class GetConfig(Message, frozen=True):
    request_id: int


class Prefetch(Message, frozen=True):
    """Brings a source in, on the daemon's own account. Answered by `Accepted`, or `Failed`.

    `limit_bytes` >= 0 brings in only that many bytes, in reading order. `files` is as in `Open`.
    """

    request_id: int
    source: str
    pattern: str | None = None
    pin: bool = False
    limit_bytes: int = -1
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    files: tuple[str, ...] | None = None


class Evict(Message, frozen=True):
    """Drops the shards of `sources`; every unleased, unpinned one when empty."""

    request_id: int
    sources: tuple[str, ...] = ()


class Pin(Message, frozen=True):
    request_id: int
    source: str


class Unpin(Message, frozen=True):
    request_id: int
    source: str


class Verify(Message, frozen=True):
    """Compares what of `source` is in memory with the checksums taken when it was read.

    With `against_source`, the source itself is read again, with `environment`. Answered by
    `Verified`, after any number of `Verifying`, or by `Failed`.
    """

    request_id: int
    source: str
    against_source: bool = False
    environment: dict[str, str] = msgspec.field(default_factory=dict)


# --- daemon to client ---------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    request_id: int
    protocol: int
    version: str
    pid: int
    instance: str
    heartbeat_s: float
    """Either side takes the other for dead after three of these without a message."""


class OpenedShard(msgspec.Struct, frozen=True, array_like=True):
    """One shard of an opened load; its number is its place in `Opened.shards`."""

    uri: str
    identity: str
    slab: str
    """Name for shm_open(3)."""
    size_bytes: int
    held: bool
    """Whole shard leased until released: views are safe. Else copy granted blocks and consume."""


class Opened(Message, frozen=True):
    """The load is admitted. `granted` may be read now; more comes by `Granted`."""

    request_id: int
    load: int
    block_bytes: int
    shards: tuple[OpenedShard, ...]
    granted: tuple[BlockRange, ...]
    resident_bytes: int
    """Of all wanted bytes, those that were in memory when the load was admitted."""


class Granted(Message, frozen=True):
    """These blocks are resident and leased to the load until it consumes them."""

    load: int
    ranges: tuple[BlockRange, ...]


class ShardFailed(Message, frozen=True):
    """No further block of this shard will be granted to the load."""

    load: int
    shard: int
    code: str
    message: str


class CredentialsWanted(Message, frozen=True):
    """The credentials of this load have expired; answered by `Renew`."""

    load: int


class Waiting(Message, frozen=True):
    """The load waits for memory; `Opened` follows when there is room."""

    load: int
    needs_bytes: int
    available_bytes: int
    limit_bytes: int


class Failed(Message, frozen=True):
    """A request (`request_id`), or a whole connection (-1), was refused."""

    request_id: int
    code: str
    message: str


class Done(Message, frozen=True):
    """A request was carried out; `detail` is what there is to tell."""

    request_id: int
    detail: str = ""


class Accepted(Message, frozen=True):
    """A prefetch runs; its shards are found in `status` by these URIs."""

    request_id: int
    uris: tuple[str, ...]
    total_bytes: int


class Verifying(Message, frozen=True):
    """How far a verification is."""

    request_id: int
    done_bytes: int
    total_bytes: int


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """Bytes `start` to `stop` of a shard that are wrong, or could not be compared."""

    uri: str
    block: int
    start: int
    stop: int
    message: str


class Verified(Message, frozen=True):
    """The end of a verification; right when `findings` is empty.

    `skipped_bytes` were given up, or their shard was, before their turn came.
    """

    request_id: int
    checked_bytes: int
    skipped_bytes: int
    findings: tuple[Finding, ...]


class Status(Message, frozen=True):
    """The answer to `GetStatus`: the documented JSON of `streamerctl status --json`."""

    request_id: int
    body: Json


class Config(Message, frozen=True):
    """The answer to `GetConfig`: name to `{"value", "origin"}`."""

    request_id: int
    body: Json


ClientMessage = (
    Hello
    | Open
    | Want
    | Consumed
    | ReleaseShards
    | Close
    | Heartbeat
    | Goodbye
    | GetStatus
    | GetConfig
    | Prefetch
    | Evict
    | Pin
    | Unpin
    | Renew
    | Verify
)
DaemonMessage = (
    Welcome
    | Opened
    | Granted
    | ShardFailed
    | CredentialsWanted
    | Waiting
    | Failed
    | Done
    | Accepted
    | Verifying
    | Verified
    | Status
    | Config
    | Heartbeat
)

_encoder = msgspec.msgpack.Encoder()
_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_daemon_decoder: msgspec.msgpack.Decoder[DaemonMessage] = msgspec.msgpack.Decoder(DaemonMessage)


def encode(message: Message) -> bytes:
    """The wire form of one message."""
    return _encoder.encode(message)


def decode_client(frame: bytes | memoryview) -> ClientMessage:
    """Decode what a client sent.

    Raises:
        ProtocolMismatch: the frame is not a message of this version.
    """
    try:
        return _client_decoder.decode(frame)
    except msgspec.DecodeError as error:
        raise ProtocolMismatch(_mismatch("client", error)) from error


def decode_daemon(frame: bytes | memoryview) -> DaemonMessage:
    """Decode what the daemon sent.

    Raises:
        ProtocolMismatch: the frame is not a message of this version.
    """
    try:
        return _daemon_decoder.decode(frame)
    except msgspec.DecodeError as error:
        raise ProtocolMismatch(_mismatch("daemon", error)) from error


def _mismatch(peer: str, error: Exception) -> str:
    return (
        f"the {peer} sent a message that protocol {PROTOCOL} does not know ({error}); "
        "install the same version of streamerd on both sides"
    )
