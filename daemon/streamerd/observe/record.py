"""The record of one load: its figures, and how its time went, in a bounded number of samples.

This module is pure: its callers pass the time. `watch.py` keeps records up to date.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from streamerd.observe.document import LoadReport, Sample
from streamerd.state.load import Load

MOST_SAMPLES: Final = 96
"""The most samples of one load. Beyond it every other sample is dropped, and from then on samples
are taken half as often."""
MOST_CHARACTERS: Final = 4096
"""Length to which a record cuts the name of a source or the text of an error. The key of an object
may have 1,024 bytes in most stores, and a URL 8 KiB; an error's text may name every shard."""
BACKLOG_BLOCKS: Final = 4
"""With at least this many granted blocks that it has not consumed, a client is taken to be copying.
With fewer it may wait for a certain block."""
FIRST_GAP_S: Final = 0.002


class Outcome(StrEnum):
    """How a load ended."""

    RUNNING = "running"
    ENDED = "ended"
    GONE = "gone"
    FAILED = "failed"
    REFUSED = "refused"


class Phase(StrEnum):
    """The things that a load spends time on."""

    MEMORY = "memory"
    """The load waits for memory."""
    CREDENTIALS = "credentials"
    """The load waits for renewed credentials."""
    BLOCKS = "blocks"
    """The load waits for blocks, and has few or none left to copy."""
    COPYING = "copying"
    """The load has granted blocks that its client has not consumed."""
    IDLE = "idle"
    """The load wants no block."""


_NOT_WAITING: Final = (Phase.IDLE, Phase.COPYING)
"""Phases in which a load does not wait for the daemon."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The client or daemon that opened a load."""

    pid: int
    uid: int
    label: str


def remembered(text: str) -> str:
    """A text as a record keeps it: cut if it is very long."""
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def phase_of(load: Load | None) -> Phase:
    """The phase that a load is in now."""
    if load is None or not load.admitted:
        return Phase.MEMORY
    if load.credentials.expired:
        return Phase.CREDENTIALS
    if not load.prefetch and _is_behind(load):
        return Phase.COPYING
    return Phase.BLOCKS if load.pending_blocks or load.wants else Phase.IDLE


def _is_behind(load: Load) -> bool:
    """Whether the load's client has blocks to copy, and so does not wait for those to come.

    A client that reads views tells what it consumed only at the end. While its blocks arrive, it is
    taken for a client that waits.
    """
    backlog_bytes = load.served_bytes - load.all_consumed_bytes
    if not load.pending_blocks:
        return backlog_bytes > 0
    return bool(load.all_consumed_bytes) and backlog_bytes >= BACKLOG_BLOCKS * _block_bytes(load)


def _block_bytes(load: Load) -> int:
    return load.shards[0].block_bytes if load.shards else 0


@dataclass(slots=True, eq=False)
class Record:
    """One load. All times are of the loop's clock, which is monotonic."""

    number: int
    kind: str
    source: str
    store: str
    holder: Holder
    shards: int
    size_bytes: int
    opened_s: float
    outcome: Outcome = Outcome.RUNNING
    error: str = ""
    admitted_bytes: int = 0
    """Bytes wanted by the load that were resident when it was admitted."""
    read_bytes: int = 0
    """Bytes that were read from the source for the load."""
    peer_bytes: int = 0
    """Bytes that other nodes of the fleet sent for the load."""
    served_bytes: int = 0
    consumed_bytes: int = 0
    spent_s: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(Phase, 0.0))
    """Seconds that the load spent in each phase, up to `since_s`."""
    phase: Phase = Phase.MEMORY
    since_s: float = 0.0
    """The time up to which `spent_s` counts. The load was in `phase` ever since."""
    complete: bool = False
    """Whether the load had been granted all blocks that it wanted."""
    last_s: float = 0.0
    """When something last happened in the load."""
    gap_s: float = FIRST_GAP_S
    samples: list[Sample] = field(default_factory=list)
    sample_s: float = 0.0
    """The time from which the next sample is due."""
    load: Load | None = None
    """The core's state of the load, while it runs and once the core knows it."""

    def __post_init__(self) -> None:
        self.last_s = self.since_s = self.sample_s = self.opened_s

    def advance(self, load: Load | None, now_s: float) -> None:
        """Note how far the load has come, and in which phase it spent the time since the last call.

        Each turn of the core calls this for each load that the turn concerns.
        """
        self.last_s = now_s
        phase = phase_of(load)
        if phase is not self.phase:
            self._spend()
            self.phase = phase
        if load is not None:
            self.served_bytes, self.consumed_bytes = load.served_bytes, load.all_consumed_bytes
            wants_more = load.pending_blocks or load.wants
            self.complete = not wants_more and phase in _NOT_WAITING
        if now_s >= self.sample_s:
            self._sample()

    def _spend(self) -> None:
        self.spent_s[self.phase] += self.last_s - self.since_s
        self.since_s = self.last_s

    def end(self, load: Load | None, now_s: float, outcome: Outcome) -> None:
        """Note that the load is over; time in which its client wanted nothing does not count."""
        if self.phase in _NOT_WAITING:
            now_s = self.last_s
        complete = self.complete
        self.advance(load, now_s)
        self._sample()
        if self.error and outcome is not Outcome.REFUSED:
            outcome = Outcome.FAILED
        elif complete and outcome is Outcome.GONE:
            outcome = Outcome.ENDED  # the process used views of its load until it ended
        self.outcome = outcome

    def _sample(self) -> None:
        self._spend()
        spent_s = self.spent_s
        self.samples.append(
            Sample(
                self.last_s - self.opened_s,
                self.brought_bytes, self.served_bytes, self.consumed_bytes,
                spent_s[Phase.BLOCKS], spent_s[Phase.COPYING],
                spent_s[Phase.MEMORY], spent_s[Phase.CREDENTIALS],
            )
        )  # fmt: skip
        if len(self.samples) > MOST_SAMPLES:
            del self.samples[1:-1:2]
            self.gap_s *= 2
        self.sample_s = self.last_s + self.gap_s

    @property
    def seconds(self) -> float:
        """Seconds from the load's open to the last thing that happened in it."""
        return self.last_s - self.opened_s

    @property
    def brought_bytes(self) -> int:
        """Bytes that were brought into memory for the load, from the source or other nodes."""
        return self.read_bytes + self.peer_bytes

    @property
    def resident_bytes(self) -> int:
        """The part of `served_bytes` that was resident when the load was admitted."""
        return max(0, min(self.admitted_bytes, self.served_bytes - self.brought_bytes))

    @property
    def shared_bytes(self) -> int:
        """The part of `served_bytes` that was read for other loads meanwhile."""
        return max(0, self.served_bytes - self.brought_bytes - self.resident_bytes)

    def report(self, shift_s: float) -> LoadReport:
        """This record in the form of the report's document.

        Args:
            shift_s: the seconds to add to the loop's time to get unix time.
        """
        return LoadReport(
            number=self.number,
            kind=self.kind,
            outcome=self.outcome,
            source=self.source,
            store=self.store,
            pid=self.holder.pid,
            uid=self.holder.uid,
            label=self.holder.label,
            shards=self.shards,
            size_bytes=self.size_bytes,
            opened_at_s=round(self.opened_s + shift_s, 4),
            seconds=round(self.seconds, 4),
            resident_bytes=self.resident_bytes,
            read_bytes=self.read_bytes,
            peer_bytes=self.peer_bytes,
            shared_bytes=self.shared_bytes,
            served_bytes=self.served_bytes,
            error=self.error,
            samples=tuple(map(_rounded, self.samples)),
        )


def _rounded(sample: Sample) -> Sample:
    """A sample with its times as the report has them, in tenths of a millisecond."""
    return sample._replace(
        at_s=round(sample.at_s, 4),
        blocks_s=round(sample.blocks_s, 4),
        copying_s=round(sample.copying_s, 4),
        memory_s=round(sample.memory_s, 4),
        credentials_s=round(sample.credentials_s, 4),
    )
