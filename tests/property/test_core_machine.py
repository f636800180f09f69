"""The core under random histories, held against an independent model of memory.

The machine plays clients, workers and the clock. It keeps its own account of what is backed and
what was granted, from the commands alone, and ends each history by letting everybody do their work:
every load must then end, or there was a deadlock.
"""

from __future__ import annotations

from typing import assert_never

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamer_client.contract.layout import BlockRange
from streamerd.state import commands, events, invariants
from streamerd.state.core import Core
from streamerd.state.events import FailureKind, LoadKey, ShardKey, ShardSpec
from streamerd.state.model import Rules

BLOCK = 64 << 10
SIZES = (3 * BLOCK, 2 * BLOCK + 5000, 1, 6 * BLOCK - 1, 0, 2 * BLOCK)
REMOTE = (False, True, False, True, False, True)
TRANSIENT = 5
"""The file that nothing proves to be the same later: each open of it has a content of its own."""
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


def single_blocks(specs: tuple[ShardSpec, ...]) -> list[BlockRange]:
    return [
        BlockRange(index, block, block + 1)
        for index, spec in enumerate(specs)
        for block in range(-(-spec.size_bytes // BLOCK))
    ]


class CoreMachine(RuleBasedStateMachine):
    """Clients, workers and clock, in any order."""

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
        """Shards that can be read: a load brought descriptors, which were not closed since."""
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
        """Give events to the core, at once or, in a gathering, with those to come."""
        self.gathered += happened
        if not self.gathering:
            self.run_turns()

    @rule()
    def gather(self) -> None:
        """What happens from here on reaches the core in one turn."""
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

    # --- clients --------------------------------------------------------------------------------

    @rule(
        numbers=st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=3, unique=True),
        owner=st.sampled_from("abc"),
        hold=st.booleans(),
        memory_limit=st.sampled_from([-1, 0, 3 * BLOCK]),
        concurrency=st.sampled_from([None, 1]),
        prefetch=st.sampled_from([None, False, True]),
        backwards=st.booleans(),
    )
    def open(
        self,
        numbers: list[int],
        owner: str,
        hold: bool,
        memory_limit: int,
        concurrency: int | None,
        prefetch: bool | None,
        backwards: bool,
    ) -> None:
        if len(self.loads) >= 4:
            return
        if TRANSIENT in numbers:
            self.generation[TRANSIENT] += 1
        specs = tuple(
            ShardSpec(self.current(n), SIZES[n], REMOTE[n], transient=n == TRANSIENT)
            for n in numbers
            if REMOTE[n] == REMOTE[numbers[0]]
        )
        if prefetch is not None:
            owner = "prefetches"
        wants = single_blocks(specs)
        self.opened += 1
        key = LoadKey(owner, self.opened)
        event = events.LoadOpened(
            self.now_s,
            key,
            specs,
            tuple(reversed(wants) if backwards else wants),
            hold=hold or prefetch is not None,
            prefetch=prefetch is not None,
            pin=bool(prefetch),
            memory_limit=memory_limit,
            concurrency=concurrency,
        )
        self.loads[key] = event
        self.history.append(event)
        self.turn(event)

    def current(self, number: int) -> ShardKey:
        """The shard of a file as it is now."""
        return ShardKey(f"f{number}", f"v{self.generation[number]}")

    @precondition(lambda self: self.loads)
    @rule(data=st.data(), count=st.integers(1, 4))
    def consume(self, data: st.DataObject, count: int) -> None:
        load = data.draw(st.sampled_from(sorted(self.loads)))
        if load in self.held:
            return
        blocks = sorted(self.granted.get(load, set()))[:count]
        self.granted.get(load, set()).difference_update(blocks)
        ranges = tuple(BlockRange(index, block, block + 1) for index, block in blocks)
        self.turn(events.BlocksConsumed(self.now_s, load, ranges))

    @precondition(lambda self: self.admitted)
    @rule(data=st.data())
    def change_mind(self, data: st.DataObject) -> None:
        load = data.draw(st.sampled_from(sorted(self.admitted)))
        event = self.loads[load]
        blocks = [
            (index, block)
            for index, spec in enumerate(event.shards)
            for block in range(-(-spec.size_bytes // BLOCK))
        ]
        chosen = data.draw(st.permutations(blocks)) if blocks else []
        wants = tuple(BlockRange(i, b, b + 1) for i, b in chosen[: len(chosen) // 2])
        self.turn(events.WantsReplaced(self.now_s, load, wants))

    @precondition(lambda self: self.admitted)
    @rule(data=st.data())
    def release_shard(self, data: st.DataObject) -> None:
        self.run_turns()  # what the core says of it before counts as said before
        if not self.admitted:
            return
        load = data.draw(st.sampled_from(sorted(self.admitted)))
        index = data.draw(st.integers(0, len(self.loads[load].shards) - 1))
        self.granted[load] = {entry for entry in self.granted[load] if entry[0] != index}
        self.failed.add((load, index))
        self.turn(events.ShardsReleased(self.now_s, load, (index,)))

    @precondition(lambda self: self.loads)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        load = data.draw(st.sampled_from(sorted(self.loads)))
        self.forget(load)
        self.turn(events.LoadClosed(self.now_s, load))

    @rule(owner=st.sampled_from("abc"))
    def die(self, owner: str) -> None:
        for load in [load for load in self.loads if load.owner == owner]:
            self.forget(load)
        self.turn(events.OwnerGone(self.now_s, owner))

    @rule(number=st.integers(0, len(SIZES) - 1))
    def change_file(self, number: int) -> None:
        self.generation[number] += 1

    @rule(number=st.integers(0, len(SIZES) - 1))
    def supersede(self, number: int) -> None:
        """Bytes were found to differ under the same identity: the next edition begins."""
        key = self.current(number)
        self.generation[number] += 1
        self.turn(events.ShardSuperseded(self.now_s, key, "other bytes"))

    @precondition(lambda self: self.loads)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        """What one load was granted could not be compared with its file."""
        load = data.draw(st.sampled_from(sorted(self.loads)))
        specs = self.loads[load].shards
        spec = specs[data.draw(st.integers(0, len(specs) - 1))]
        self.turn(events.ShardRefused(self.now_s, load, spec.key, "source", "no"))

    # --- workers --------------------------------------------------------------------------------

    @precondition(lambda self: self.reading)
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "ok", "ok", *FailureKind]))
    def end_fetch(self, data: st.DataObject, outcome: str | FailureKind) -> None:
        at = data.draw(st.integers(0, len(self.reading) - 1))
        shard, block = self.reading.pop(at)
        if isinstance(outcome, FailureKind):
            if outcome is not FailureKind.NO_SPACE:
                self.backed.add((shard, block))
            blamed: tuple[LoadKey, ...] = ()
            if outcome in (FailureKind.DENIED, FailureKind.EXPIRED):
                blamed = tuple(
                    data.draw(st.sets(st.sampled_from(sorted(self.loads)))) if self.loads else ()
                )
            failed = events.FetchFailed(self.now_s, shard, block, outcome, "source", "no", blamed)
            self.turn(failed)
        else:
            self.backed.add((shard, block))
            self.turn(events.BlockFetched(self.now_s, shard, block))

    @precondition(lambda self: self.releasing)
    @rule(data=st.data())
    def end_release(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.releasing) - 1))
        command = self.releasing.pop(at)
        blocks = range(command.start, command.stop)
        self.backed.difference_update((command.shard, block) for block in blocks)
        self.turn(events.BlocksReleased(self.now_s, command.shard, command.start, command.stop))

    @precondition(lambda self: self.proving)
    @rule(data=st.data(), right=st.sampled_from([True, True, False]))
    def end_proof(self, data: st.DataObject, right: bool) -> None:
        at = data.draw(st.integers(0, len(self.proving) - 1))
        shard, block = self.proving.pop(at)
        if right:
            self.turn(events.BlockProven(self.now_s, shard, block))
        else:
            self.mapped.discard((shard, block))
            self.turn(events.BlockRefuted(self.now_s, shard, block))

    @rule(data=st.data(), proven=st.booleans())
    def restart(self, data: st.DataObject, proven: bool) -> None:
        """Another daemon takes over what the last one left, for clients that come anew."""
        self.run_turns()
        old = self.core.model
        self.core = Core(old.ledger.limit_bytes, old.rules)
        for load in list(self.loads):
            self.forget(load)
        self.reading, self.releasing, self.proving = [], [], []
        self.slabs, self.backed, self.mapped, self.sourced = set(), set(), set(), set()
        self.failed = set()
        adopted = []
        for key, shard in sorted(old.shards.items()):
            in_use = data.draw(st.booleans())
            if key.uri == f"f{TRANSIENT}":
                continue  # nobody could say later what it is
            if not shard.resident_bytes or data.draw(st.sampled_from([False, False, True])):
                continue
            runs = shard.resident_runs()
            blocks = {(key, block) for start, stop in runs for block in range(start, stop)}
            self.slabs.add(key)
            self.backed |= blocks
            self.mapped |= blocks if in_use else set()
            adopted.append(
                events.ShardAdopted(
                    self.now_s, key, shard.size_bytes, runs, proven, in_use, shard.pinned, 0.0
                )
            )
        self.turn(*adopted)

    @precondition(lambda self: self.loads)
    @rule(data=st.data(), newer=st.booleans())
    def renew(self, data: st.DataObject, newer: bool) -> None:
        load = data.draw(st.sampled_from(sorted(self.loads)))
        self.turn(events.CredentialsRenewed(self.now_s, load, newer))

    # --- operator and clock ---------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.turn(events.Tick(self.now_s))

    @rule(data=st.data(), what=st.sampled_from(["evict", "pin", "unpin"]))
    def operate(self, data: st.DataObject, what: str) -> None:
        self.run_turns()  # as the service does: the operator's word is judged by what is
        known = sorted(self.core.model.shards)
        if not known:
            return
        key = data.draw(st.sampled_from(known))
        shard = self.core.model.shards[key]
        if what == "unpin":
            self.turn(events.UnpinRequested(self.now_s, (key,)))
        elif what == "pin":
            self.turn(events.PinRequested(self.now_s, (key,)))
        elif not shard.loads and not shard.pinned:
            self.turn(events.EvictRequested(self.now_s, (key,)))

    # --- what must hold -------------------------------------------------------------------------

    @invariant()
    def sums_are_true(self) -> None:
        if self.gathering:
            return
        invariants.check(self.core.model)
        resident = {
            (key, block)
            for key, shard in self.core.model.shards.items()
            for block in range(shard.blocks)
            if shard.states[block]
        }
        assert resident == {*self.backed, *self.reading}

    @invariant()
    def sources_are_open_where_something_may_be_read(self) -> None:
        if self.gathering:
            return
        for key, shard in self.core.model.shards.items():
            assert shard.sourced == (key in self.sourced)
            assert shard.needs_source == (key in self.sourced), key

    def teardown(self) -> None:
        """Everybody does their work: then every load ends."""
        self.run_turns()
        for key in list(self.core.model.shards):
            self.turn(events.UnpinRequested(self.now_s, (key,)))
        for _ in range(400):
            if not self.loads:
                break
            self.everybody_works()
        assert not self.loads, f"deadlock: {self.loads.keys()} of {self.core.model.ledger}"
        while self.reading or self.releasing or self.proving:
            self.workers_work()
        invariants.check(self.core.model)
        assert self.core.model.ledger.committed_bytes == 0
        assert not self.sourced
        assert not any(key.uri == f"f{TRANSIENT}" for key in self.core.model.shards)

    def workers_work(self) -> None:
        while self.proving:
            self.turn(events.BlockProven(self.now_s, *self.proving.pop()))
        while self.reading:
            shard, block = self.reading.pop()
            self.backed.add((shard, block))
            self.turn(events.BlockFetched(self.now_s, shard, block))
        while self.releasing:
            command = self.releasing.pop()
            blocks = range(command.start, command.stop)
            self.backed.difference_update((command.shard, block) for block in blocks)
            self.turn(events.BlocksReleased(self.now_s, command.shard, command.start, command.stop))

    def everybody_works(self) -> None:
        self.workers_work()
        for load in sorted(self.admitted):
            model = self.core.model.loads[load]
            if not model.wants and not model.pending_blocks:
                self.forget(load)
                self.turn(events.LoadClosed(self.now_s, load))
            elif load not in self.held:
                blocks = sorted(self.granted[load])
                self.granted[load].clear()
                ranges = tuple(BlockRange(index, block, block + 1) for index, block in blocks)
                self.turn(events.BlocksConsumed(self.now_s, load, ranges))
        self.now_s += 1
        self.turn(events.Tick(self.now_s))


CoreMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
TestCore = CoreMachine.TestCase
