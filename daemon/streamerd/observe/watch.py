"""Keeps the records of running and ended loads up to date from the events of each turn of the core.

This module only looks on and decides nothing. The cost of a turn depends on the loads that the turn
concerns, and not on the number of open loads. Pure, except for the log lines that its listener
writes. Runs in the daemon's loop.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from streamerd.observe.record import Holder, Outcome, Phase, Record, remembered
from streamerd.reading.totals import PEER_KIND, Histogram, Read
from streamerd.service.views import ModelView
from streamerd.state import commands, events
from streamerd.state.commands import Announce, AnyCommand, FetchBlock
from streamerd.state.events import AnyEvent, BlockFetched, BlocksConsumed, LoadKey, ShardKey
from streamerd.state.load import Load

MOST_ENDED: Final = 64
"""Loads that are remembered after their end."""
MOST_READS: Final = 2048
"""Number of single reads that are remembered: 16 GiB in blocks of 8 MiB."""
LOAD_BOUNDS_S: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)


class Listener(Protocol):
    """Is told of each load when it opens and when it ends."""

    def opened(self, record: Record) -> None: ...
    def ended(self, record: Record, now_s: float) -> None: ...


@dataclass(slots=True)
class LoadTotals:
    """Sums over the loads that ended."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of loads by kind and outcome."""
    seconds: dict[str, Histogram] = field(default_factory=dict)
    """Durations in seconds of loads that ended well, by kind of source."""
    origins: Counter[str] = field(default_factory=Counter)
    """Bytes that loads were served, by their origin."""

    def add(self, record: Record) -> None:
        """Count a load that ended."""
        self.outcomes[record.kind, record.outcome.value] += 1
        self.origins["memory"] += record.resident_bytes
        brought_bytes = record.served_bytes - record.resident_bytes - record.shared_bytes
        from_nodes_bytes = min(record.peer_bytes, brought_bytes)
        self.origins["source"] += brought_bytes - from_nodes_bytes
        self.origins["other_node"] += from_nodes_bytes
        self.origins["other_load"] += record.shared_bytes
        if record.outcome is Outcome.ENDED:
            histogram = self.seconds.setdefault(record.store, Histogram(LOAD_BOUNDS_S))
            histogram.add(record.seconds)


class Watch:
    """Keeps the records.

    Args:
        model: the loads and shards.
        about: returns the owner of a load.
        called: returns a shard's URI and the kind of its source.
        listener: writes the log.
        clock: the loop's clock.
    """

    def __init__(
        self,
        model: ModelView,
        about: Callable[[str], Holder],
        called: Callable[[ShardKey], tuple[str, str]],
        listener: Listener,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._about = about
        self._called = called
        self._listener = listener
        self._clock = clock
        self._made = 0
        self.running: dict[LoadKey, Record] = {}
        self.ended: deque[Record] = deque(maxlen=MOST_ENDED)
        self.totals = LoadTotals()
        self.reads: deque[tuple[Read, int]] = deque(maxlen=MOST_READS)
        """The latest reads, each with the number of the load for which it was made; 0 if that load
        had ended."""

    def turned(self, happened: Sequence[AnyEvent], decided: Sequence[AnyCommand]) -> None:
        """Bring the records up to date after a turn of the core."""
        now_s = self._clock()
        touched: dict[LoadKey, None] = {}
        closed: dict[LoadKey, Outcome] = {}
        # The most frequent events and commands concern a block of which no load is told, or tell
        # only that a load went on.
        for event in happened:
            if isinstance(event, BlocksConsumed):
                touched[event.load] = None
            elif not isinstance(event, BlockFetched):
                self._heard(event, now_s, touched, closed)
        for command in decided:
            if isinstance(command, Announce):
                touched[command.load] = None
            elif not isinstance(command, FetchBlock):
                self._decided(command, touched, closed)
        for key in touched:
            if (record := self.running.get(key)) is not None:
                record.advance(record.load or self._load(key, record), now_s)
        for key, outcome in closed.items():
            self._end(key, now_s, outcome)

    def read(self, read: Read) -> None:
        """Note that a block was read for a load."""
        record = self.running.get(read.load)
        if record is not None and read.kind == PEER_KIND:
            record.peer_bytes += read.size_bytes
        elif record is not None:
            record.read_bytes += read.size_bytes
        self.reads.append((read, record.number if record else 0))

    def waiting(self) -> Mapping[str, int]:
        """Number of loads that wait for something else than blocks, by what they wait for."""
        counted = Counter(record.phase.value for record in self.running.values())
        return {phase.value: counted[phase.value] for phase in (Phase.MEMORY, Phase.CREDENTIALS)}

    def _heard(
        self,
        event: AnyEvent,
        now_s: float,
        touched: dict[LoadKey, None],
        closed: dict[LoadKey, Outcome],
    ) -> None:
        match event:
            case events.CredentialsRenewed() | events.WantsReplaced():
                touched[event.load] = None
            case events.LoadOpened():
                self._open(event, now_s)
            case events.LoadClosed():
                closed.setdefault(event.load, Outcome.ENDED)
            case events.OwnerGone():
                for key in [key for key in self.running if key.owner == event.owner]:
                    closed.setdefault(key, Outcome.GONE)
            case _:
                pass  # these events change no record

    def _decided(
        self,
        command: AnyCommand,
        touched: dict[LoadKey, None],
        closed: dict[LoadKey, Outcome],
    ) -> None:
        match command:
            case commands.ReportWaiting() | commands.AskCredentials():
                touched[command.load] = None
            case commands.Admit():
                touched[command.load] = None
                if (record := self.running.get(command.load)) is not None:
                    record.admitted_bytes = command.resident_bytes
            case commands.FailShard():
                touched[command.load] = None
                self._note_error((command.load,), command.message)
            case commands.Reject():
                self._note_error((command.load,), command.message)
                closed[command.load] = Outcome.REFUSED
            case _:
                pass  # these commands change no record

    def _note_error(self, keys: Iterable[LoadKey], message: str) -> None:
        for key in keys:
            record = self.running.get(key)
            if record is not None and not record.error:
                record.error = remembered(message)

    def _open(self, event: events.LoadOpened, now_s: float) -> None:
        self._made += 1
        uri, store = self._called(event.shards[0].key) if event.shards else ("", "file")
        self.running[event.load] = record = Record(
            self._made,
            "prefetch" if event.prefetch else "load",
            remembered(os.path.dirname(uri)),
            store,
            self._about(event.load.owner),
            len(event.shards),
            sum(shard.size_bytes for shard in event.shards),
            now_s,
        )
        self._listener.opened(record)

    def _load(self, key: LoadKey, record: Record) -> Load | None:
        """The core's load, which the record keeps: the core forgets a load in its last turn."""
        record.load = self._model.loads.get(key)
        return record.load

    def _end(self, key: LoadKey, now_s: float, outcome: Outcome) -> None:
        record = self.running.pop(key, None)
        if record is None:
            return
        record.end(record.load or self._load(key, record), now_s, outcome)
        record.load = None
        self.ended.append(record)
        self.totals.add(record)
        self._listener.ended(record, now_s)
