"""The core under random histories, compared with an independent model of memory.

The machine plays clients, workers and the clock. It keeps its own account of the blocks that are
backed and granted, from the commands alone. At the end of each history it lets everybody finish:
every load must then end, or there was a deadlock.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from tests.property.watched_core import BLOCK, REMOTE, SIZES, TRANSIENT, WatchedCore

from streamer_client.contract.layout import BlockRange
from streamer_client.contract.options import LoadOptions
from streamerd.state import events, invariants
from streamerd.state.core import Core
from streamerd.state.events import FailureKind, LoadKey, ShardKey, ShardSpec


def single_blocks(specs: tuple[ShardSpec, ...]) -> list[BlockRange]:
    return [
        BlockRange(index, block, block + 1)
        for index, spec in enumerate(specs)
        for block in range(-(-spec.size_bytes // BLOCK))
    ]


class CoreMachine(WatchedCore):
    """Clients, workers and the clock act in any order."""

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
        specs = self.specs_of(numbers)
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
            LoadOptions(hold or prefetch is not None, memory_limit, concurrency),
            prefetch=prefetch is not None,
            pin=bool(prefetch),
        )
        self.loads[key] = event
        self.history.append(event)
        self.turn(event)

    def specs_of(self, numbers: list[int]) -> tuple[ShardSpec, ...]:
        """The specs of those of these files that are of the first one's kind, local or remote."""
        return tuple(
            ShardSpec(self.current(n), SIZES[n], REMOTE[n], transient=n == TRANSIENT)
            for n in numbers
            if REMOTE[n] == REMOTE[numbers[0]]
        )

    def current(self, number: int) -> ShardKey:
        """The shard that the file is now."""
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
        # The gathered events come first, so that what the core grants for them counts as granted
        # before the release.
        self.run_turns()
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
        """Let the file have other bytes under the same identity, so that its next
        edition begins.
        """
        key = self.current(number)
        self.generation[number] += 1
        self.turn(events.ShardSuperseded(self.now_s, key, "other bytes"))

    @precondition(lambda self: self.loads)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        """Report that the blocks that one load was granted could not be compared with
        their file.
        """
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
        """Let another daemon adopt the last one's slabs, for new clients."""
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
                continue  # nothing could prove later what its content is
            if not shard.resident_bytes or data.draw(st.sampled_from([False, False, True])):
                continue
            runs = shard.resident_runs()
            blocks = {(key, block) for start, stop in runs for block in range(start, stop)}
            self.slabs.add(key)
            self.backed |= blocks
            self.mapped |= blocks if in_use else set()
            adopted.append(
                events.ShardAdopted(
                    self.now_s,
                    key,
                    shard.size_bytes,
                    runs,
                    proven,
                    in_use,
                    shard.pinned,
                    0.0,
                    remote=shard.remote,
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
        # The service, too, judges what the operator asks for by the state after all earlier events.
        self.run_turns()
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
        """Let everybody finish; then every load has to end."""
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
