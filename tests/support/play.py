"""A dialogue with the core: events in, commands out, every invariant checked after each turn.

Blocks are 64 KiB and times are seconds. One letter names a shard, and its owner's name a load.
"""

from __future__ import annotations

from typing import Final, TypeVar

from streamer_client.contract.layout import BlockRange
from streamerd.state import commands as c
from streamerd.state import events as e
from streamerd.state import invariants
from streamerd.state.core import Core
from streamerd.state.events import FailureKind, LoadKey, ShardKey, ShardSpec
from streamerd.state.load import Load
from streamerd.state.model import Model, Rules
from streamerd.state.shard import Shard
from tests.support.load_fields import load_fields

BLOCK: Final = 64 << 10

C = TypeVar("C", bound=c.Command)
Pair = tuple[str, int]
"""A shard's letter and a block."""


def key(letter: str, version: int = 0) -> ShardKey:
    return ShardKey(f"/{letter}", str(version))


def load_key(owner: str) -> LoadKey:
    return LoadKey(owner, 1)


class Play:
    """A core, and its latest commands.

    Args:
        limit: the memory limit in blocks.
        slots: how many fetches run at once.
        sizes: size in blocks by letter; a fraction makes the last block short.
        lag_s: seconds after which a reader counts as lagging.
        remote: letters of shards that are read over the network.
        remote_slots: how many fetches of remote shards run at once.
        transient: letters of shards that nothing proves to be the same later.
    """

    def __init__(
        self,
        limit: int,
        sizes: dict[str, float],
        slots: int = 100,
        lag_s: float = 30.0,
        *,
        remote: str = "",
        remote_slots: int = 100,
        transient: str = "",
    ) -> None:
        rules = Rules(BLOCK, slots, remote_slots, lag_s=lag_s, space_wait_s=30.0)
        self.remote = remote
        self.transient = transient
        self.core = Core(limit * BLOCK, rules)
        self.sizes = sizes
        self.at_s = 0.0
        self.said: list[c.AnyCommand] = []
        self.releasing: list[c.ReleaseBlocks] = []
        """Releases that no event has answered yet."""

    # --- events ---------------------------------------------------------------------------------

    def turn(self, *events: e.AnyEvent) -> list[c.AnyCommand]:
        self.said = self.core.handle(events)
        self.releasing += self.all(c.ReleaseBlocks)
        invariants.check(self.model)
        return self.said

    def opening(
        self,
        owner: str,
        letters: str,
        *,
        wants: tuple[BlockRange, ...] | None = None,
        version: int = 0,
        **options: object,
    ) -> e.LoadOpened:
        specs = tuple(
            ShardSpec(
                key(letter, version),
                int(self.sizes[letter] * BLOCK),
                letter in self.remote,
                transient=letter in self.transient,
            )
            for letter in letters
        )
        if wants is None:
            wants = tuple(
                BlockRange(index, 0, -(-spec.size_bytes // BLOCK))
                for index, spec in enumerate(specs)
            )
        fields: dict[str, object] = {"shards": specs, "wants": wants, **load_fields(options)}
        return e.LoadOpened(self.at_s, load_key(owner), **fields)  # type: ignore[arg-type]

    def open(self, owner: str, letters: str, **options: object) -> list[c.AnyCommand]:
        return self.turn(self.opening(owner, letters, **options))  # type: ignore[arg-type]

    def fetched(self, *pairs: Pair) -> list[c.AnyCommand]:
        return self.turn(*(e.BlockFetched(self.at_s, key(s), b) for s, b in pairs))

    def fetch_all(self) -> None:
        """Answer every fetch and release under way, and all that follow, until none is left."""
        while self.model.fetching or self.releasing:
            fetched = [e.BlockFetched(self.at_s, s, b) for s, b in self.model.fetching]
            self.turn(*self._answers(), *fetched)

    def _answers(self) -> list[e.BlocksReleased]:
        done, self.releasing = self.releasing, []
        return [e.BlocksReleased(self.at_s, one.shard, one.start, one.stop) for one in done]

    def fails(
        self, letter: str, block: int, kind: FailureKind = FailureKind.ERROR
    ) -> list[c.AnyCommand]:
        return self.turn(e.FetchFailed(self.at_s, key(letter), block, kind, "source", "no"))

    def refuses(
        self, letter: str, block: int, kind: FailureKind, *blamed: str
    ) -> list[c.AnyCommand]:
        """Let a store refuse the credentials that the blamed loads lend."""
        keys = tuple(load_key(owner) for owner in blamed)
        return self.turn(e.FetchFailed(self.at_s, key(letter), block, kind, "no", "text", keys))

    def supersedes(self, letter: str, version: int = 0) -> list[c.AnyCommand]:
        """Let the file have other bytes now."""
        return self.turn(e.ShardSuperseded(self.at_s, key(letter, version), "other bytes"))

    def refuses_shard(self, owner: str, letter: str) -> list[c.AnyCommand]:
        """Report that one load's bytes of a shard could not be compared."""
        event = e.ShardRefused(self.at_s, load_key(owner), key(letter), "source", "no")
        return self.turn(event)

    def renews(self, owner: str, *, newer: bool = True) -> list[c.AnyCommand]:
        return self.turn(e.CredentialsRenewed(self.at_s, load_key(owner), newer))

    def consume(self, owner: str, *ranges: tuple[int, int, int]) -> list[c.AnyCommand]:
        named = tuple(BlockRange(*item) for item in ranges)
        return self.turn(e.BlocksConsumed(self.at_s, load_key(owner), named))

    def consume_granted(self, owner: str) -> list[c.AnyCommand]:
        """Consume every block that is granted now."""
        return self.consume(owner, *((i, b, b + 1) for i, b in self.granted(owner)))

    def want(self, owner: str, *ranges: tuple[int, int, int]) -> list[c.AnyCommand]:
        named = tuple(BlockRange(*item) for item in ranges)
        return self.turn(e.WantsReplaced(self.at_s, load_key(owner), named))

    def released(self, *then: e.AnyEvent) -> list[c.AnyCommand]:
        """Carry out the releases that are under way; `then` happens in the same turn."""
        return self.turn(*self._answers(), *then)

    def close(self, owner: str) -> list[c.AnyCommand]:
        return self.turn(e.LoadClosed(self.at_s, load_key(owner)))

    def gone(self, owner: str) -> list[c.AnyCommand]:
        return self.turn(e.OwnerGone(self.at_s, owner))

    def tick(self, seconds: float = 1.0) -> list[c.AnyCommand]:
        self.at_s += seconds
        return self.turn(e.Tick(self.at_s))

    # --- what was said --------------------------------------------------------------------------

    def all(self, kind: type[C]) -> list[C]:
        return [command for command in self.said if isinstance(command, kind)]

    def only(self, kind: type[C]) -> C:
        (command,) = self.all(kind)
        return command

    def fetches(self) -> list[Pair]:
        """The fetches that the last turn began."""
        return [(fetch.shard.uri[1:], fetch.block) for fetch in self.all(c.FetchBlock)]

    def releases(self) -> list[tuple[str, int, int]]:
        return [(r.shard.uri[1:], r.start, r.stop) for r in self.all(c.ReleaseBlocks)]

    def closed(self) -> list[str]:
        """The shards whose source the last turn gave up."""
        return [command.shard.uri[1:] for command in self.all(c.CloseSource)]

    def failed(self) -> list[tuple[str, int, str]]:
        """Owner, shard and code of each failure in the last turn."""
        return [(f.load.owner, f.shard, f.code) for f in self.all(c.FailShard)]

    def announced(self) -> dict[str, tuple[BlockRange, ...]]:
        """For each owner, the blocks that the last turn granted it, in its admission or after."""
        told = {command.load.owner: command.ranges for command in self.all(c.Announce)}
        told |= {
            command.load.owner: command.granted for command in self.all(c.Admit) if command.granted
        }
        return told

    # --- what is --------------------------------------------------------------------------------

    @property
    def model(self) -> Model:
        return self.core.model

    def load(self, owner: str) -> Load:
        return self.model.loads[load_key(owner)]

    def shard(self, letter: str, version: int = 0) -> Shard:
        return self.model.shards[key(letter, version)]

    def granted(self, owner: str) -> list[tuple[int, int]]:
        load = self.load(owner)
        return [
            (index, block)
            for index, phases in enumerate(load.phases)
            for block, phase in enumerate(phases)
            if phase == 3
        ]

    def resident(self, letter: str) -> list[int]:
        states = self.shard(letter).states
        return [block for block, state in enumerate(states) if state == 2]

    @property
    def used(self) -> int:
        """The number of blocks of memory in use."""
        return self.model.ledger.used_bytes // BLOCK
