"""One load as it is remembered: its figures, and how its time went, in a bounded number of samples.

Pure: time is handed in. `watch.py` keeps records up to date.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from streamerd.observe.document import LoadReport, Sample
from streamerd.state.load import Load

MOST_SAMPLES: Final = 96
"""Samples that are kept of one load. When there are more, every other one is dropped, and from then
on samples are taken half as often."""
MOST_CHARACTERS: Final = 4096
"""Length to which a record cuts the name of a source or the text of an error. The key of an object
may have 1,024 bytes in most stores, and a URL 8 KiB; an error's text may name every shard."""
BACKLOG_BLOCKS: Final = 4
"""Granted blocks that a client has not consumed: with fewer it may wait for a certain one."""
FIRST_GAP_S: Final = 0.002


class Outcome(StrEnum):
    """How a load ended."""

    RUNNING = "running"
    ENDED = "ended"
    GONE = "gone"
    FAILED = "failed"
    REFUSED = "refused"


class Phase(StrEnum):
    """What a load's time goes into."""

    MEMORY = "memory"
    """It waits for memory."""
    CREDENTIALS = "credentials"
    """It waits for renewed credentials."""
    BLOCKS = "blocks"
    """It waits for blocks, and has few or none left to copy."""
    COPYING = "copying"
    """It has granted blocks that its client has not consumed."""
    IDLE = "idle"
    """It wants nothing."""


_NOT_WAITING: Final = (Phase.IDLE, Phase.COPYING)
"""Phases in which a load waits for nothing of the daemon."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who opened a load."""

    pid: int
    uid: int
    label: str


def remembered(text: str) -> str:
    """A text as a record keeps it, cut where it is very long."""
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def phase_of(load: Load | None) -> Phase:
    """What a load does now."""
    if load is None or not load.admitted:
        return Phase.MEMORY
    if load.credentials.expired:
        return Phase.CREDENTIALS
    if not load.prefetch and _is_behind(load):
        return Phase.COPYING
    return Phase.BLOCKS if load.pending_blocks or load.wants else Phase.IDLE


def _wants_more(load: Load | None) -> bool:
    return load is None or bool(load.pending_blocks or load.wants)


def _is_behind(load: Load) -> bool:
    """Whether its client has blocks to copy, and so does not wait for those that are on their way.

    A client that reads views says what it consumed at the end alone: while its blocks arrive, it is
    taken for one that waits.
    """
    backlog_bytes = load.served_bytes - load.all_consumed_bytes
    if not load.pending_blocks:
        return backlog_bytes > 0
    return bool(load.all_consumed_bytes) and backlog_bytes >= BACKLOG_BLOCKS * _block_bytes(load)


def _block_bytes(load: Load) -> int:
    return load.shards[0].block_bytes if load.shards else 0


@dataclass(slots=True, eq=False)
class Record:
    """One load; all times are of the loop's clock, which nobody sets."""

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
    """Resident when it was admitted."""
    read_bytes: int = 0
    """Read from the source for it."""
    peer_bytes: int = 0
    """Sent for it by other nodes of the fleet."""
    served_bytes: int = 0
    consumed_bytes: int = 0
    spent_s: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(Phase, 0.0))
    """Up to `since_s`."""
    phase: Phase = Phase.MEMORY
    since_s: float = 0.0
    """Since when it is in this phase, as far as `spent_s` has not counted that."""
    complete: bool = False
    """Whether it had been granted all that it wanted."""
    last_s: float = 0.0
    """When something last happened in it."""
    gap_s: float = FIRST_GAP_S
    samples: list[Sample] = field(default_factory=list)
    sample_s: float = 0.0
    """The time from which the next sample is due."""

    def __post_init__(self) -> None:
        self.last_s = self.since_s = self.sample_s = self.opened_s

    def advance(self, load: Load | None, now_s: float) -> None:
        """Something happened: note how far it is, and what the time since went into.

        This runs in each turn of the loop for each load that the turn is about.
        """
        self.last_s = now_s
        if load is not None:
            self.served_bytes, self.consumed_bytes = load.served_bytes, load.all_consumed_bytes
        phase = phase_of(load)
        if phase is not self.phase:
            self._spend()
            self.phase = phase
        self.complete = phase in _NOT_WAITING and not _wants_more(load)
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
            outcome = Outcome.ENDED  # a process that ends with views of what it loaded
        self.outcome = outcome

    def _sample(self) -> None:
        self._spend()
        spent = self.spent_s
        self.samples.append(
            Sample(
                round(self.last_s - self.opened_s, 4),
                self.brought_bytes, self.served_bytes, self.consumed_bytes,
                round(spent[Phase.BLOCKS], 4), round(spent[Phase.COPYING], 4),
                round(spent[Phase.MEMORY], 4), round(spent[Phase.CREDENTIALS], 4),
            )
        )  # fmt: skip
        if len(self.samples) > MOST_SAMPLES:
            del self.samples[1:-1:2]
            self.gap_s *= 2
        self.sample_s = self.last_s + self.gap_s

    @property
    def seconds(self) -> float:
        """Seconds from its open to the last thing that happened in it."""
        return self.last_s - self.opened_s

    @property
    def brought_bytes(self) -> int:
        """What was brought into memory for it, from the source or from other nodes."""
        return self.read_bytes + self.peer_bytes

    @property
    def resident_bytes(self) -> int:
        """The part of `served_bytes` that was in memory when the load was admitted."""
        return max(0, min(self.admitted_bytes, self.served_bytes - self.brought_bytes))

    @property
    def shared_bytes(self) -> int:
        """The part of `served_bytes` that other loads had read meanwhile."""
        return max(0, self.served_bytes - self.brought_bytes - self.resident_bytes)

    def report(self, shift_s: float) -> LoadReport:
        """As `streamerctl report` gets it.

        Args:
            shift_s: what to add to the loop's time to get unix time.
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
            samples=tuple(self.samples),
        )
