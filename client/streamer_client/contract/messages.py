"""The control protocol: every message between a client and the daemon.

Each message is one struct in one ZeroMQ frame, tagged by its class name; `codec.py` has the wire
form, and `docs/protocol.md` tells the conversation. Each message of a client follows its token, see
`handover.py`. Blocks travel as ranges wherever several are at hand. Pure.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from streamer_client.contract.layout import BlockRange
from streamer_client.contract.limits import MAX_RANGES
from streamer_client.contract.options import LoadOptions
from streamer_client.contract.printable import Redacted

PROTOCOL: Final = 5

Json = dict[str, object]
FirstWant = Literal["all", "none"]
Ranges = Annotated[tuple[BlockRange, ...], msgspec.Meta(max_length=MAX_RANGES)]
"""Ranges whose number is checked before the first is decoded: a million took 1.6 s."""


class Message(Redacted, frozen=True, tag=True, array_like=False, forbid_unknown_fields=True):
    """Base of all messages; `tag` is the class name."""


# --- client to daemon ---------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a connection."""

    request_id: int
    protocol: int
    version: str
    pid: int
    """The client's pid as the client sees it, shown if the kernel tells the daemon none."""
    label: str
    """The name that `status` shows for this client, for example `rank 0`."""
    world: int = 0
    """Inode of the client's mount namespace, as only paths in one namespace are comparable; a hint
    that only decides which of a user's names replaces which."""


class Open(Message, frozen=True):
    """Asks for a load. Answered by `Opened` or `Failed`, after any number of `Waiting`.

    `load` is a number that the client chooses, unique in its connection. Local files were handed
    over on the descriptor socket before, as `transfer`; `source` is then for people only. Objects
    are named: `files` (URIs) wins over `pattern`, a glob on the names directly under `source`.
    `want` says which blocks are brought in without further word: `all`, or `none`.
    """

    request_id: int
    load: int
    source: str
    transfer: int = 0
    files: tuple[str, ...] | None = None
    pattern: str | None = None
    want: FirstWant = "all"
    options: LoadOptions = LoadOptions()
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    """Credentials, region, endpoint: what reading depends on. Secret, so kept in memory only."""


class Renew(Message, frozen=True):
    """The environment of a load as it is now: the answer to `CredentialsWanted`, or unasked.

    An unchanged environment means that the client has nothing newer.
    """

    load: int
    environment: dict[str, str]


class Want(Message, frozen=True):
    """Replaces the load's list of blocks that it wants and was not yet granted, in order of use."""

    load: int
    ranges: Ranges


class Consumed(Message, frozen=True):
    """Granted blocks that the client will not read again (unless it wants them again)."""

    load: int
    ranges: Ranges


class Copied(Message, frozen=True):
    """Tensor bytes that the client copied since its last `Copied`, for `status` and metrics."""

    copied_bytes: int
    page_cache_bytes: int = 0
    """The part of `copied_bytes` that came from the page cache."""
    direct_bytes: int = 0
    """The part of `copied_bytes` that the client read itself, without the daemon."""


class ReleaseShards(Message, frozen=True):
    """The client holds no view of these shards any more; their leases end."""

    load: int
    shards: tuple[int, ...]


class Close(Message, frozen=True):
    """Ends a load and every lease of it."""

    load: int


class Drop(Message, frozen=True):
    """The client names this transfer no more; loads that were opened from it go on."""

    transfer: int


class Heartbeat(Message, frozen=True):
    """Sent by the client each `heartbeat_s`, echoed by the daemon."""


class Goodbye(Message, frozen=True):
    """The client leaves; everything it holds ends."""


class GetStatus(Message, frozen=True):
    request_id: int


class GetConfig(Message, frozen=True):
    request_id: int


class GetReport(Message, frozen=True):
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
    """Drops the shards of `sources`; if there are none, every shard without a lease or a pin.

    Local files that can still be opened were handed over as `transfer`. A name in `sources` also
    counts if the same user gave it to a shard before.
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
    """Compares the resident blocks of `source` with the checksums taken when they were read.

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
    heartbeat_s: float
    """Seconds; the client takes the daemon for dead after three of these without a message."""
    proof: bytes
    """The same as in `Greeting`; the client sends nothing secret before it has compared them."""


class OpenedShard(msgspec.Struct, frozen=True, array_like=True):
    """One shard of an opened load; its number is its place in `Opened.shards`.

    The slab of each that is not empty follows as a descriptor, in `Slabs`.
    """

    uri: str
    identity: str
    size_bytes: int
    held: bool
    """True: the whole shard is leased until released, so views are safe. Else copy and consume."""


class Opened(Message, frozen=True):
    """The load is admitted. `granted` may be read now; more comes by `Granted`."""

    request_id: int
    load: int
    block_bytes: int
    shards: tuple[OpenedShard, ...]
    granted: Ranges
    resident_bytes: int
    """How many bytes of the load's shards were in memory when the load was admitted."""
    compared: bool = True
    """False while resident bytes are still compared with their files; then copies that the load
    makes meanwhile are valid only after `Compared`."""


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
    """A file was touched, so the blocks granted to the load are compared with its files again."""

    load: int


class Compared(Message, frozen=True):
    """The blocks granted to the load equal its files; `ShardFailed` would tell a difference."""

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
    """A request was carried out; `detail` tells its outcome."""

    request_id: int
    detail: str = ""


class Accepted(Message, frozen=True):
    """A prefetch runs; `status` shows its shards by these ids."""

    request_id: int
    ids: tuple[str, ...]
    total_bytes: int


class Verifying(Message, frozen=True):
    """How far a verification has got."""

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
    """The end of a verification; all is right when `findings` is empty.

    `skipped_bytes` counts blocks that were given up, alone or with their shard, before their turn.
    """

    request_id: int
    checked_bytes: int
    skipped_bytes: int
    findings: tuple[Finding, ...]


class Status(Message, frozen=True):
    """The answer to `GetStatus`: the documented JSON of `streamerctl status --json`."""

    request_id: int
    body: Json


class Report(Message, frozen=True):
    """The answer to `GetReport`: what `streamerctl report` shows."""

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
    | Copied
    | ReleaseShards
    | Close
    | Drop
    | Heartbeat
    | Goodbye
    | GetStatus
    | GetConfig
    | GetReport
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
    | Report
    | Config
    | Heartbeat
)
