"""The document of `streamerctl report`: the last loads, and where their time went.

Owns the document's names, their order and their types, as the contract's `status.py` does for the
status. The daemon makes it (`report.py`) and sends it as the body of `messages.Report`; streamerctl
types it at the edge and shows it as text, as a page or as a trace. Names may be added, with a
default. Times of a load are seconds since it was opened. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from streamer_client.contract.messages import Json
from streamer_client.contract.status import typed_body


class Sample(NamedTuple):
    """How far a load was at one time. Each figure is a sum since the load was opened."""

    at_s: float
    read_bytes: int
    """From the source, or from other nodes."""
    served_bytes: int
    consumed_bytes: int
    blocks_s: float
    """Spent waiting for blocks, with few or none left to copy."""
    copying_s: float
    """Spent with granted blocks that its client had not consumed."""
    memory_s: float
    """Spent waiting for memory."""
    credentials_s: float
    """Spent waiting for renewed credentials."""


class ReadSpan(NamedTuple):
    """One block as a worker read it."""

    began_s: float
    """Unix time."""
    ended_s: float
    worker: int
    """Pid."""
    thread: int
    size_bytes: int
    load: int
    """The load's number in the report; 0 where that is not remembered any more."""
    from_node: bool = False
    """Whether another node of the fleet sent it."""


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """One load or prefetch."""

    number: int
    """Counts the daemon's loads from 1."""
    kind: str
    """`load` or `prefetch`."""
    outcome: str
    """`running`, `ended` with all it wanted, `gone` with its client before, `failed`, `refused`."""
    source: str
    store: str
    """The kind of source: `file`, `s3` and so on."""
    pid: int
    uid: int
    label: str
    shards: int
    size_bytes: int
    opened_at_s: float
    """Unix time, as of all times in one document by the calendar's clock when it was made. So a
    clock that was set meanwhile moves all of them together, and none against the others."""
    seconds: float
    """Seconds from its open to the last thing that happened in it."""
    resident_bytes: int
    """The part of `served_bytes` that was in memory when it began."""
    read_bytes: int
    """Read from the source for it."""
    shared_bytes: int
    """The part of `served_bytes` that other loads had read meanwhile."""
    served_bytes: int
    peer_bytes: int = 0
    """Sent for it by other nodes of the fleet; no part of `read_bytes`."""
    error: str = ""
    samples: tuple[Sample, ...]


class ReportDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    version: str
    pid: int
    made_at_s: float
    loads: tuple[LoadReport, ...]
    """The oldest first."""
    older_running: int = 0
    """Number of loads that run and that `loads` lacks, since too many others were opened later."""
    reads: tuple[ReadSpan, ...]
    """The latest reads of all workers; the oldest first."""

    def body(self) -> Json:
        """The document as the body of a `Report` message."""
        body: Json = msgspec.to_builtins(self)
        return body


def parse_report(body: Json) -> ReportDocument:
    """Type the body of a `Report` message.

    Raises:
        ProtocolMismatch: as `typed_body` says.
    """
    return typed_body(body, ReportDocument, "report")
