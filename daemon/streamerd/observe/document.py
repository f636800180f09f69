"""The document of `streamerctl report`: the last loads, and where their time went.

This module owns the document's names, their order and their types, as the contract's `status.py`
does for the status. The daemon makes the document (`report.py`) and sends it as the body of
`messages.Report`. streamerctl parses it into these types and shows it as text, as a page or as a
trace. Later versions may add names that have a default. Times of a load are seconds since it was
opened. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from streamer_client.contract.messages import Json
from streamer_client.contract.status import typed_body


class Sample(NamedTuple):
    """How far a load had come at one time. Each figure is a sum since the load was opened."""

    at_s: float
    read_bytes: int
    """Bytes that were read for the load from the source or from other nodes."""
    served_bytes: int
    consumed_bytes: int
    blocks_s: float
    """Seconds in which the load waited for blocks and had few or none left to copy."""
    copying_s: float
    """Seconds in which the load had granted blocks that its client had not consumed."""
    memory_s: float
    """Seconds in which the load waited for memory."""
    credentials_s: float
    """Seconds in which the load waited for renewed credentials."""


class ReadSpan(NamedTuple):
    """One read of a block by a worker."""

    began_s: float
    """The unix time at which a thread of the worker began the read."""
    ended_s: float
    worker: int
    """The worker's pid."""
    thread: int
    size_bytes: int
    load: int
    """The load's number in the report; 0 if the load is not remembered any more."""
    from_node: bool = False
    """Whether another node of the fleet sent it."""


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """One load or prefetch."""

    number: int
    """The load's number, counted from the daemon's start; the first is 1."""
    kind: str
    """`load` or `prefetch`."""
    outcome: str
    """`running`, `ended` (it had all that it wanted), `gone` (its client left before that),
    `failed` or `refused`."""
    source: str
    store: str
    """The kind of source: `file`, `s3` and so on."""
    pid: int
    uid: int
    label: str
    shards: int
    size_bytes: int
    opened_at_s: float
    """Unix time. All unix times of a document are computed from the calendar's clock at the moment
    when it was made. So if that clock was set meanwhile, all times move together."""
    seconds: float
    """Seconds from its open to the last thing that happened in it."""
    resident_bytes: int
    """The part of `served_bytes` that was resident when the load began."""
    read_bytes: int
    """Bytes that were read from the source for this load."""
    shared_bytes: int
    """The part of `served_bytes` that was read for other loads meanwhile."""
    served_bytes: int
    peer_bytes: int = 0
    """Bytes that other nodes of the fleet sent for this load; `read_bytes` does not include
    them."""
    error: str = ""
    samples: tuple[Sample, ...]


class ReportDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    version: str
    pid: int
    made_at_s: float
    loads: tuple[LoadReport, ...]
    """The remembered loads, the oldest first."""
    older_running: int = 0
    """Number of running loads that `loads` leaves out, since too many loads were opened after
    them."""
    reads: tuple[ReadSpan, ...]
    """The latest reads of all workers; the oldest first."""

    def body(self) -> Json:
        """The document as the body of a `Report` message."""
        body: Json = msgspec.to_builtins(self)
        return body


def parse_report(body: Json) -> ReportDocument:
    """Parse the body of a `Report` message into its types.

    Raises:
        ProtocolMismatch: the body is not this document; see `typed_body`.
    """
    return typed_body(body, ReportDocument, "report")
