"""Decides how one wanted block comes to this node: whom to ask, when to wait or read the store.

For each block the nodes that load it form a tree over their order. Each node asks the node above
it, and the first node, the owner, reads the store. A node is therefore asked for a block by few
others, however large the fleet is, and those few are asked by others in turn. A node that fails is
left out of the tree, and the next node in order takes its place. A node only waits for nodes before
it in the order, so no nodes can wait for each other in a circle, whatever lists of members they
have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from streamerd.fleet.plan.events import (
    ALONE,
    CORRUPT,
    OWNER,
    SILENT,
    WAITED,
    AnyEvent,
    Arrived,
    Ask,
    Command,
    Corrupt,
    Done,
    NotThere,
    NotYet,
    Pause,
    PauseOver,
    ReadStore,
    SentElsewhere,
    Silent,
)
from streamerd.fleet.plan.ranking import BlockName, rank, stands_before
from streamerd.fleet.plan.standing import Standing


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that searches decide by."""

    wait_s: float = 20.0
    """How long a block waits for the fleet while the fleet hands this node nothing."""
    longest_wait_s: float = 60.0
    """How long a block waits at most, even while other blocks arrive."""
    branches: int = 2
    """How many nodes ask the same node for a block: the branches of the tree at each node."""
    late_questions: int = 3
    """How many nodes an owner asks for its block before it reads the store."""
    silences: int = 3
    """How many peers may be silent to one search before it reads the store."""
    redirects: int = 3
    """How many times in a row a busy peer may name another."""
    first_pause_s: float = 0.02
    longest_pause_s: float = 0.25
    """The longest pause between two questions. Pauses grow from `first_pause_s` to this."""


@dataclass(frozen=True, slots=True)
class View:
    """The nodes that a node knows at one moment."""

    me: str
    nodes: tuple[str, ...]
    """The members that are known to load the shard, or else all members. This node is one of
    them."""

    @classmethod
    def of(cls, me: str, members: frozenset[str]) -> View:
        """A view with this node among its members, sorted so that equal sets give equal views."""
        return cls(me, tuple(sorted(members | {me})))


class Search:
    """One block that this node wants, from the first question to its end.

    Args:
        block: the wanted block.
        standing: how this node's peers behave; all of its searches share it.
        rules: the settings, such as how long to wait.
        at_s: the present time.
    """

    __slots__ = (
        "_asked", "_began_s", "_block", "_out", "_pause_s", "_redirects", "_rules",
        "_silences", "_standing",
    )  # fmt: skip

    def __init__(self, block: BlockName, standing: Standing, rules: Rules, at_s: float) -> None:
        self._block = block
        self._standing = standing
        self._rules = rules
        self._began_s = at_s
        self._asked: str | None = None
        self._out: set[str] = set()
        self._silences = 0
        self._redirects = 0
        self._pause_s = rules.first_pause_s

    def begin(self, view: View) -> Command:
        """The first command."""
        return self._choose(view, self._began_s)

    def told(self, event: AnyEvent, view: View) -> Command:
        """The next command, now that `event` tells how the last one ended; `view` may be new."""
        at_s, peer = event.at_s, self._asked
        match event:
            case PauseOver():
                return self._choose(view, at_s)
            case _ if peer is None:
                raise ValueError(f"{type(event).__name__}, but no peer was asked for {self._block}")
            case Silent():
                return self._silent(peer, view, at_s)
        self._standing.answered(peer)
        match event:
            case Arrived():
                self._standing.helped(peer, self._block.shard, at_s)
                return Done()
            case SentElsewhere():
                return self._sent_to(event.holder, view, at_s)
            case NotYet():
                return self._not_yet(peer, view, at_s, holds=event.holds)
            case NotThere():
                if not event.loads_shard:
                    self._standing.elsewhere(peer, self._block.shard, at_s)
                return self._without(peer, view, at_s)
            case Corrupt():
                self._standing.lied(peer)
                return ReadStore(CORRUPT)
            case _:
                assert_never(event)

    def _choose(self, view: View, at_s: float) -> Command:
        """Ask the node above this one; if this node is the owner, ask the nodes below it."""
        order = rank(view.nodes, self._block)
        mine = order.index(view.me)
        self._redirects = 0
        out = self._out | self._standing.out(self._block.shard, at_s)
        before = order[:mine]
        if out:
            before = tuple(peer for peer in before if peer not in out)
        if before:
            above = before[(len(before) - 1) // self._rules.branches]
            return self._ask(above, patient=True, at_s=at_s)
        # A node that came late owns blocks that the nodes below it may have already. So it asks
        # each of them, but waits for none, since that node may be waiting for this one.
        below = order[mine + 1 : mine + 1 + self._rules.late_questions]
        for peer in below:
            if peer not in out:
                return self._ask(peer, patient=False, at_s=at_s)
        return ReadStore(OWNER if len(order) > 1 else ALONE)

    def _may_ask(self, peer: str, at_s: float) -> bool:
        return peer not in self._out and self._standing.usable(peer, self._block.shard, at_s)

    def _ask(self, peer: str, *, patient: bool, at_s: float) -> Ask:
        self._standing.tried(peer, at_s)
        self._asked = peer
        return Ask(peer, patient)

    def _silent(self, peer: str, view: View, at_s: float) -> Command:
        self._standing.silent(peer, at_s)
        self._silences += 1
        if self._silences >= self._rules.silences:
            return ReadStore(SILENT)
        return self._without(peer, view, at_s)

    def _without(self, peer: str, view: View, at_s: float) -> Command:
        """Go on as if the peer did not exist, for this block."""
        self._out.add(peer)
        return self._choose(view, at_s)

    def _sent_to(self, holder: str, view: View, at_s: float) -> Command:
        """Ask the named holder if it is a known member; a peer must not choose any address."""
        self._redirects += 1
        known = holder in view.nodes and holder != view.me
        if known and self._redirects <= self._rules.redirects and self._may_ask(holder, at_s):
            return self._ask(holder, patient=True, at_s=at_s)
        return self._pause(at_s)

    def _not_yet(self, peer: str, view: View, at_s: float, *, holds: bool) -> Command:
        # A peer before this node in the order never waits for this node in turn.
        if holds or stands_before(peer, view.me, self._block):
            return self._pause(at_s)
        return self._without(peer, view, at_s)

    def _pause(self, at_s: float) -> Command:
        if self._is_over(at_s):
            if self._asked is not None:
                self._standing.slow(self._asked, at_s)
            return ReadStore(WAITED)
        self._asked = None
        wait_s = self._pause_s
        self._pause_s = min(wait_s * 1.5, self._rules.longest_pause_s)
        return Pause(wait_s)

    def _is_over(self, at_s: float) -> bool:
        helped_s = self._standing.helped_s
        since_s = self._began_s if helped_s is None else max(self._began_s, helped_s)
        rules = self._rules
        return at_s - since_s >= rules.wait_s or at_s - self._began_s >= rules.longest_wait_s
