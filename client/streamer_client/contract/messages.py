"""The control protocol: every message between a client and the daemon.

One msgpack-encoded struct a ZeroMQ frame, tagged by its class name; what a client sends has its
token before it, see `handover.py`. `docs/protocol.md` tells the conversation. Ranges of blocks
travel, never single blocks where more are at hand.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeVar

import msgspec

from streamer_client.contract.errors import ConfigError, ProtocolMismatch
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.limits import MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES, MAX_RANGES
from streamer_client.contract.printable import printable
from streamer_client.contract.redacted import Redacted

PROTOCOL: Final = 4

Json = dict[str, object]
Ranges = Annotated[tuple[BlockRange, ...], msgspec.Meta(max_length=MAX_RANGES)]
"""Held against its bound before the first range is decoded: a million took 1.6 s."""


class Message(Redacted, frozen=True, tag=True, array_like=False, forbid_unknown_fields=True):
    """Base of all messages; `tag` is the class name."""


# --- client to daemon ---------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a connection."""

    request_id: int
    protocol: int
    version: str
    pid: int
    """As the client sees it; shown where the kernel does not tell the daemon one."""
    label: str
    """What `status` shows for this client, for example `rank 0`."""
    world: int = 0
    """Inode of the client's mount namespace: its names mean something beside others' of the same
    one only. A hint, trusted for nothing but which of the same user's names replaces which."""


class Open(Message, frozen=True):
    """Asks for a load. Answered by `Opened` or `Failed`, after any number of `Waiting`.

    `load` is a number that the client chooses, unique in its connection. Local files were handed
    over on the descriptor socket before, as `transfer`; `source` is then for people only. Objects
    are named: `files` (URIs) wins over `pattern`, a glob on the names directly under `source`.
    `want` says what is brought in without further word: `all` blocks, the first block of each shard
    (`headers`), or `none`. `hold` asks that whole shards stay resident until released, so that
    views are safe.
    """

    request_id: int
    load: int
    source: str
    transfer: int = 0
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
    ranges: Ranges


class Consumed(Message, frozen=True):
    """Granted blocks that the client will not read again (unless it wants them again)."""

    load: int
    ranges: Ranges


class ReleaseShards(Message, frozen=True):
    """The client holds no view of these shards any more; their leases end."""

    load: int
    shards: tuple[int, ...]


class Close(Message, frozen=True):
    """Ends a load and every lease of it."""

    load: int


class Drop(Message, frozen=True):
    """The client names this transfer no more; what was opened from it goes on."""

    transfer: int


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

    `limit_bytes` >= 0 brings in only that many bytes, in reading order. `transfer` and `files` are
    as in `Open`.
    """

    request_id: int
    source: str
    transfer: int = 0
    pattern: str | None = None
    pin: bool = False
    limit_bytes: int = -1
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    files: tuple[str, ...] | None = None


class Evict(Message, frozen=True):
    """Drops the shards of `sources`; every unleased, unpinned one when empty.

    Local files that can still be opened were handed over as `transfer`; what is known by one of the
    `sources` as a name that the same user gave counts too.
    """

    request_id: int
    sources: tuple[str, ...] = ()
    transfer: int = 0


class Pin(Message, frozen=True):
    """Keeps a source in memory; `source` and `transfer` are as in `Evict`."""

    request_id: int
    source: str
    transfer: int = 0


class Unpin(Message, frozen=True):
    """Ends a `Pin`; `source` and `transfer` are as in `Evict`."""

    request_id: int
    source: str
    transfer: int = 0


class Verify(Message, frozen=True):
    """Compares what of `source` is in memory with the checksums taken when it was read.

    `source` and `transfer` are as in `Evict`.

    With `against_source`, the source itself is read again, with `environment`. Answered by
    `Verified`, after any number of `Verifying`, or by `Failed`.
    """

    request_id: int
    source: str
    transfer: int = 0
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
    """The client takes the daemon for dead after three of these without a message."""
    proof: bytes
    """As in the `Greeting` of the descriptor socket: before it agrees, nothing secret is sent."""


class OpenedShard(msgspec.Struct, frozen=True, array_like=True):
    """One shard of an opened load; its number is its place in `Opened.shards`.

    The slab of each that is not empty follows as a descriptor, in `Slabs`.
    """

    uri: str
    identity: str
    size_bytes: int
    held: bool
    """Whole shard leased until released: views are safe. Else copy granted blocks and consume."""


class Opened(Message, frozen=True):
    """The load is admitted. `granted` may be read now; more comes by `Granted`."""

    request_id: int
    load: int
    block_bytes: int
    shards: tuple[OpenedShard, ...]
    granted: Ranges
    resident_bytes: int
    """Of all bytes of its shards, those that were in memory when the load was admitted."""
    compared: bool = True
    """False where what is in memory is still being compared with the files as they are now: the
    load may copy meanwhile, and counts only with `Compared`."""


class Granted(Message, frozen=True):
    """These blocks are resident and leased to the load until it consumes them."""

    load: int
    ranges: Ranges


class ShardFailed(Message, frozen=True):
    """No further block of this shard will be granted to the load."""

    load: int
    shard: int
    code: str
    message: str


class Comparing(Message, frozen=True):
    """What the load was granted is being compared with its files again: one was touched."""

    load: int


class Compared(Message, frozen=True):
    """What the load was granted is what its files hold; a difference is told by `ShardFailed`."""

    load: int


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
    """A prefetch runs; its shards are found in `status` by these ids."""

    request_id: int
    ids: tuple[str, ...]
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
    | Drop
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
    | Comparing
    | Compared
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

_NAME_CHARACTERS: Final = 64
"""Fields and messages of any version have shorter names."""
_QUOTED: Final = re.compile(r"(?:unknown field `|Invalid value ')(.*)['`]", re.DOTALL)

_encoder = msgspec.msgpack.Encoder()
_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_daemon_decoder: msgspec.msgpack.Decoder[DaemonMessage] = msgspec.msgpack.Decoder(DaemonMessage)


def encode(message: Message) -> bytes:
    """The wire form of one message.

    Raises:
        ConfigError: it holds what the wire cannot carry: a name that is no UTF-8, or a number of
            more than 64 bits.
    """
    try:
        return _encoder.encode(message)
    except (UnicodeEncodeError, OverflowError) as error:
        what = (
            "a name that is not UTF-8" if isinstance(error, UnicodeError) else "too large a number"
        )
        raise ConfigError(
            f"{type(message).__name__} holds {what} and cannot be sent; rename the file, or "
            "correct the number"
        ) from None


def decode_client(frame: bytes | memoryview) -> ClientMessage:
    """Decode what a client sent, whatever it is.

    Raises:
        ProtocolMismatch: the frame is not a message of this version.
    """
    return _decoded(_client_decoder, frame, "client", MAX_MESSAGE_BYTES)


def decode_daemon(frame: bytes | memoryview) -> DaemonMessage:
    """Decode what the daemon sent, whatever it is.

    Raises:
        ProtocolMismatch: the frame is not a message of this version.
    """
    return _decoded(_daemon_decoder, frame, "daemon", MAX_ANSWER_BYTES)


Decoded = TypeVar("Decoded")


def _decoded(
    decoder: msgspec.msgpack.Decoder[Decoded], frame: bytes | memoryview, peer: str, most: int
) -> Decoded:
    """Decode, and let no error out but one: what msgspec raises hangs on what was sent.

    `DecodeError` for nearly all; `UnicodeDecodeError` for a text that is not UTF-8; RecursionError
    for what is nested deeply, which it meets at the interpreter's limit, in 50 us however long the
    frame is, so that nothing needs to be looked through before. Lengths that lie are held against
    the frame's end before anything is allocated for them. Of a field told twice the last counts.
    The cause is not kept: its text is unescaped, and as long as the sender liked.
    """
    if len(frame) > most:
        raise ProtocolMismatch(
            f"the {peer} sent a message of {len(frame)} bytes, and {most} is the most; ask for "
            "less at once, or install the same version of streamerd on both sides"
        )
    try:
        return decoder.decode(frame)
    except msgspec.DecodeError as error:
        reason = _reason(str(error))
    except UnicodeDecodeError:
        reason = "a text in it is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except (MemoryError, OverflowError, ValueError) as error:
        reason = f"{type(error).__name__} on the way"
    raise ProtocolMismatch(
        f"the {peer} sent a message that protocol {PROTOCOL} does not know ({reason}); "
        "install the same version of streamerd on both sides"
    )


def _reason(told: str) -> str:
    """What msgspec says. It quotes names of fields and kinds, which are shown only as such."""
    quoted = _QUOTED.search(told)
    if quoted is None:
        return printable(told)
    name = quoted[1]
    if name.isprintable() and len(name) <= _NAME_CHARACTERS:
        return told
    return f"a name in it is no word of the protocol, {len(name)} characters long"
