"""A core whose commands are carried out as the service would, with every promise checked.

It keeps its own account of the blocks that are backed and granted, from the commands alone.
"""

from __future__ import annotations

from typing import assert_never

from hypothesis.stateful import RuleBasedStateMachine, rule

from streamer_client.contract.layout import BlockRange
from streamerd.state import commands, events
from streamerd.state.core import Core
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.model import Rules

BLOCK = 64 << 10
SIZES = (3 * BLOCK, 2 * BLOCK + 5000, 1, 6 * BLOCK - 1, 0, 2 * BLOCK)
REMOTE = (False, True, False, True, False, True)
TRANSIENT = 5
"""A file of which nothing proves that it stays the same: each open of it has a content of its own.
"""
RULES = Rules(BLOCK, slots=3, remote_slots=2, lag_s=30, space_wait_s=30, credentials_wait_s=40)
Granted = dict[LoadKey, set[tuple[int, int]]]
ForClients = (
    commands.Admit
    | commands.Announce
    | commands.FailShard
    | commands.Reject
    | commands.Finish
    | commands.ReportWaiting
    | commands.AskCredentials
)


class WatchedCore(RuleBasedStateMachine):
    """A core whose commands are carried out at once, each checked against an account of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Core(7 * BLOCK, RULES)
        self.now_s = 0.0
        self.opened = 0
        self.generation = [0] * len(SIZES)
        self.loads: dict[LoadKey, events.LoadOpened] = {}
        self.admitted: set[LoadKey] = set()
        self.held: set[LoadKey] = set()
        self.slabs: set[ShardKey] = set()
        self.sourced: set[ShardKey] = set()
        """Shards that can be read, because a load brought descriptors that were not closed since.
        """
        self.reading: list[tuple[ShardKey, int]] = []
        self.backed: set[tuple[ShardKey, int]] = set()
        self.releasing: list[commands.ReleaseBlocks] = []
        self.granted: Granted = {}
        self.proving: list[tuple[ShardKey, int]] = []
        self.mapped: set[tuple[ShardKey, int]] = set()
        """Blocks in slabs that clients of an earlier daemon still read."""
        self.failed: set[tuple[LoadKey, int]] = set()
        self.history: list[events.LoadOpened] = []
        self.gathered: list[events.AnyEvent] = []
        self.gathering = False

    # --- carrying out commands, as the service would, with every promise checked ----------------

    def turn(self, *happened: events.AnyEvent) -> None:
        """Give events to the core: at once, or within `gather` together with those that follow."""
        self.gathered += happened
        if not self.gathering:
            self.run_turns()

    @rule()
    def gather(self) -> None:
        """Give the core all events of the block in one turn."""
        self.gathering = True

    @rule()
    def run_turns(self) -> None:
        pending, self.gathered, self.gathering = self.gathered, [], False
        while pending:
            for event in pending:
                if isinstance(event, events.LoadOpened):
                    self.sourced.update(spec.key for spec in event.shards)
            made = self.core.handle(pending)
            pending = []
            for command in made:
                self.carry_out(command, pending)
            self.sourced &= self.core.model.shards.keys()

    def carry_out(self, command: commands.AnyCommand, pending: list[events.AnyEvent]) -> None:
        match command:
            case commands.CreateSlab(shard):
                assert shard not in self.slabs
                self.slabs.add(shard)
            case commands.RemoveSlab(shard):
                self.slabs.remove(shard)
                assert not any(key == shard for key, _ in [*self.backed, *self.reading])
            case commands.ReplaceSlab(shard, _, ranges):
                assert shard in self.slabs
                assert not any(key == shard for key, _ in [*self.reading, *self.proving])
                for start, stop in ranges:
                    assert not any(self.holders_of(shard, block) for block in range(start, stop))
                    self.releasing.append(commands.ReleaseBlocks(shard, start, stop))
                self.mapped = {entry for entry in self.mapped if entry[0] != shard}
            case commands.ProveBlocks(shard, start, stop):
                self.proving += [(shard, block) for block in range(start, stop)]
            case commands.FetchBlock():
                self.fetch(command)
            case commands.CloseSource(shard):
                assert shard in self.sourced, "told twice"
                self.sourced.remove(shard)
            case commands.ReleaseBlocks(shard, start, stop):
                for block in range(start, stop):
                    assert not self.holders_of(shard, block), "a granted block was taken away"
                    assert (shard, block) not in self.mapped, "taken from under old views"
                self.releasing.append(command)
            case _:
                self.tell_client(command, pending)

    def tell_client(self, command: ForClients, pending: list[events.AnyEvent]) -> None:
        match command:
            case commands.Admit(load, held, granted):
                assert load not in self.admitted
                self.admitted.add(load)
                self.granted[load] = set()
                if held:
                    self.held.add(load)
                self.take(load, granted)
            case commands.Announce(load, ranges):
                self.take(load, ranges)
            case commands.FailShard(load, shard):
                assert (load, shard) not in self.failed
                self.failed.add((load, shard))
            case commands.Reject(load):
                self.forget(load)
            case commands.Finish(load):
                pending.append(events.LoadClosed(self.now_s, load))
                self.forget(load)
            case commands.ReportWaiting():
                pass
            case commands.AskCredentials(load):
                assert load.owner != "prefetches", "nobody there to be asked"
            case _:
                assert_never(command)

    def fetch(self, command: commands.FetchBlock) -> None:
        shard, block = command.shard, command.block
        assert shard in self.slabs
        assert shard in self.sourced, "its source was closed"
        assert any(spec.key == shard for spec in self.loads[command.credentials_of].shards)
        assert not self.core.model.loads[command.credentials_of].credentials.expired
        assert (shard, block) not in self.backed
        assert (shard, block) not in self.reading
        self.reading.append((shard, block))
        assert self.reserved_bytes() <= self.core.model.ledger.limit_bytes

    def take(self, load: LoadKey, ranges: tuple[BlockRange, ...]) -> None:
        for index, start, stop in ranges:
            for block in range(start, stop):
                assert (self.key_of(load, index), block) in self.backed
                assert (index, block) not in self.granted[load]
                self.granted[load].add((index, block))

    def key_of(self, load: LoadKey, index: int) -> ShardKey:
        return self.loads[load].shards[index].key

    def holders_of(self, shard: ShardKey, block: int) -> list[LoadKey]:
        return [
            load
            for load, granted in self.granted.items()
            for index, number in granted
            if number == block and self.key_of(load, index) == shard
        ]

    def reserved_bytes(self) -> int:
        sizes = {spec.key: spec.size_bytes for load in self.history for spec in load.shards}
        return sum(
            min((block + 1) * BLOCK, -(-sizes[key] // 4096) * 4096) - block * BLOCK
            for key, block in {*self.backed, *self.reading}
        )

    def forget(self, load: LoadKey) -> None:
        self.loads.pop(load, None)
        self.granted.pop(load, None)
        self.admitted.discard(load)
        self.held.discard(load)
