"""Nodes, wires and time of a simulated fleet, in one thread; all chance is seeded.

Stands for the daemon, the network and the store; leaves every decision to `streamerd.fleet.plan`. A
tick is the time of one block over a link. Time goes in steps of a quarter of a tick. In each step
each node, and the store, sends a quarter of a block to one node. The blocks that it sends take
turns, and each node receives at most one quarter. A question takes an eighth of a tick.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Final, assert_never

from streamerd.fleet.plan import events
from streamerd.fleet.plan.ranking import BlockName
from streamerd.fleet.plan.search import Rules, Search, View
from streamerd.fleet.plan.standing import Standing
from streamerd.fleet.plan.uploads import Give, Later, Nothing, SendTo, Uploads
from streamerd.reading.peer_reads import ReadSlots, store_reads_at_once

BLOCK_BYTES: Final = 8 << 20
PIECES: Final = 4
"""In how many pieces a block goes over the wire; they take turns with its sender's other blocks."""
QUESTION_TICKS: Final = 1 / 8
STORE: Final = "store"


@dataclass(frozen=True, slots=True)
class Ways:
    """The settings that all nodes of a run share."""

    tick_s: float
    """The time of one block over a link."""
    rules: Rules = field(default_factory=Rules)
    uploads: int = 16
    """The setting `fleet_uploads`: how many uploads a node has at once."""
    on_their_way: int = 96
    """How many blocks a node has on their way at once: as many as a daemon reads from peers and
    from the store, by default."""
    connections: int = 32
    """How many blocks a node that nobody else loads with reads from the store at once."""
    hold_s: float = 1.0
    """How long a node holds back its answer if it cannot hand the block over yet."""


@dataclass(slots=True, eq=False)
class Question:
    """A node's question for a block, which a peer holds back until it has an answer."""

    node: Node
    block: int
    patient: bool
    answered: bool = False


@dataclass(slots=True, eq=False)
class Flow:
    """A block on its way."""

    source: str
    node: Node
    block: int
    pieces: int = PIECES
    """How many pieces are still to come."""


@dataclass(slots=True, eq=False)
class Node:
    """A node and its state."""

    name: str
    view: View
    starts_s: float = 0.0
    dies_s: float = float("inf")
    silence_s: float = 1.0
    """How long other nodes take, at each question, to find out that this node has died."""
    standing: Standing = field(default_factory=Standing)
    uploads: Uploads = field(default_factory=lambda: Uploads(1))
    searches: dict[int, Search] = field(default_factory=dict)
    next_block: int = 0
    blocks: set[int] = field(default_factory=set)
    held_back: dict[int, list[Question]] = field(default_factory=dict)
    """Questions for blocks that this node does not have yet, by block."""
    queue: deque[Question] = field(default_factory=deque)
    """Questions for blocks that this node has, while all its uploads are busy."""
    to_store: set[int] = field(default_factory=set)
    """Blocks that are read from the store now or next."""
    store: ReadSlots = field(default_factory=lambda: ReadSlots(lambda _: 1))
    store_blocks: int = 0
    ended_s: float | None = None
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of a run."""

    nodes: list[Node]
    blocks: int
    tick_s: float

    def over_ideal(self, nodes: Iterable[Node]) -> float:
        """The last of some nodes' times, over the time of a single node at full rate."""
        ended = (node.ended_s if node.ended_s is not None else float("inf") for node in nodes)
        starts = (node.starts_s for node in nodes)
        took_s = max(end - start for end, start in zip(ended, starts, strict=True))
        return took_s / (self.blocks * self.tick_s)

    def from_store(self, nodes: Iterable[Node]) -> float:
        """How much some nodes read from the store, in files."""
        return sum(node.store_blocks for node in nodes) / self.blocks


class Simulation:
    """One run: every node loads all blocks, in their order."""

    def __init__(self, nodes: list[Node], blocks: int, ways: Ways) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._blocks = blocks
        self._ways = ways
        self._now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0
        self._flows: dict[str, list[Flow]] = {name: [] for name in (*self._nodes, STORE)}
        self._chance = random.Random(3)
        for node in nodes:
            node.uploads = Uploads(ways.uploads)
            node.store = ReadSlots(lambda here, node=node: self._at_the_store(node, here))  # type: ignore[misc]  # mypy cannot infer a lambda's default

    def run(self) -> Outcome:
        """Run until each living node has all blocks."""
        nodes = list(self._nodes.values())
        for node in nodes:
            self._at(node.starts_s, lambda node=node: self._begin(node))  # type: ignore[misc]  # mypy cannot infer a lambda's default
            if node.dies_s < float("inf"):
                self._at(node.dies_s, lambda node=node: self._die(node))  # type: ignore[misc]  # as above
        step = 0
        step_s = self._ways.tick_s / PIECES
        while any(node.ended_s is None and not node.dead for node in nodes):
            step += 1
            while self._due and self._due[0][0] < step * step_s:
                self._now_s, _, action = heapq.heappop(self._due)
                action()
            self._now_s = step * step_s
            self._send()
        return Outcome(nodes, self._blocks, self._ways.tick_s)

    def _at_the_store(self, node: Node, here: int) -> int:
        searches = len(node.searches) - len(node.to_store)
        return store_reads_at_once(self._ways.connections, here, searches)

    def _at(self, at_s: float, action: Callable[[], object]) -> None:
        self._number += 1
        heapq.heappush(self._due, (at_s, self._number, action))

    def _begin(self, node: Node) -> None:
        while node.next_block < self._blocks and len(node.searches) < self._ways.on_their_way:
            block = node.next_block
            node.next_block += 1
            search = Search(name_of(block), node.standing, self._ways.rules, self._now_s)
            node.searches[block] = search
            self._obey(node, block, search.begin(node.view))

    def _die(self, node: Node) -> None:
        node.dead = True
        node.searches.clear()
        for question in (*node.queue, *itertools.chain(*node.held_back.values())):
            if not question.answered:
                self._after_silence(question.node, question.block, node.silence_s)
        for flow in [flow for flows in self._flows.values() for flow in flows]:
            if node.name == flow.source or node is flow.node:
                self._end_flow(flow, whole=False)
                if flow.node is not node:
                    self._after_silence(flow.node, flow.block, node.silence_s)

    def _tell(self, node: Node, block: int, event: events.AnyEvent) -> None:
        search = node.searches.get(block)
        if search is not None:
            self._obey(node, block, search.told(event, node.view))

    def _obey(self, node: Node, block: int, command: events.Command) -> None:
        match command:
            case events.Ask():
                peer = self._nodes[command.peer]
                question = Question(node, block, command.patient)
                at_s = self._now_s + self._ways.tick_s * QUESTION_TICKS
                self._at(at_s, lambda: self._ask(question, peer))
            case events.Pause():
                until_s = self._now_s + command.wait_s
                self._at(until_s, lambda: self._tell(node, block, events.PauseOver(self._now_s)))
            case events.ReadStore():
                node.store_blocks += 1
                node.to_store.add(block)
                node.store.begin(lambda: self._flows[STORE].append(Flow(STORE, node, block)))
            case events.Done():
                self._has(node, block)
            case _:
                assert_never(command)

    # --- questions --------------------------------------------------------------------------------

    def _ask(self, question: Question, peer: Node) -> None:
        if peer.dead:
            self._after_silence(question.node, question.block, peer.silence_s)
        elif not self._answer(peer, question, last=not question.patient):
            if question.block in peer.blocks:
                peer.queue.append(question)
            else:
                peer.held_back.setdefault(question.block, []).append(question)
            self._at(
                self._now_s + self._ways.hold_s, lambda: self._answer(peer, question, last=True)
            )

    def _answer(self, peer: Node, question: Question, *, last: bool) -> bool:
        """Answer a question, unless it is to be asked again and there is time to wait."""
        node, block = question.node, question.block
        if question.answered or peer.dead or node.dead:
            return True
        loads, held = peer.starts_s <= self._now_s, block in peer.blocks
        reply = peer.uploads.asked(node.name, name_of(block), held=held, awaited=loads)
        if isinstance(reply, Later) and not last:
            return False
        question.answered = True
        match reply:
            case Give():
                self._flows[peer.name].append(Flow(peer.name, node, block))
            case SendTo():
                self._tell(node, block, events.SentElsewhere(self._now_s, reply.holder))
            case Later():
                self._tell(node, block, events.NotYet(self._now_s, reply.holds))
            case Nothing():
                self._tell(node, block, events.NotThere(self._now_s, loads))
            case _:
                assert_never(reply)
        return True

    def _answer_queue(self, peer: Node) -> None:
        """Answer waiting questions in order after an upload ended, until one takes its place."""
        for _ in range(len(peer.queue)):
            if peer.uploads.under_way >= self._ways.uploads:
                break
            question = peer.queue.popleft()
            if not self._answer(peer, question, last=False):
                peer.queue.append(question)

    def _after_silence(self, node: Node, block: int, silence_s: float) -> None:
        at_s = self._now_s + silence_s
        self._at(at_s, lambda: self._tell(node, block, events.Silent(self._now_s)))

    def _has(self, node: Node, block: int) -> None:
        node.blocks.add(block)
        del node.searches[block]
        if block in node.to_store:
            node.to_store.remove(block)
            node.store.end()
        else:
            node.store.go_on()
        for question in node.held_back.pop(block, ()):
            if not self._answer(node, question, last=False):
                node.queue.append(question)
        self._begin(node)
        if len(node.blocks) == self._blocks:
            node.ended_s = self._now_s

    # --- wires ------------------------------------------------------------------------------------

    def _end_flow(self, flow: Flow, *, whole: bool) -> None:
        self._flows[flow.source].remove(flow)
        if flow.source == STORE:
            return
        peer = self._nodes[flow.source]
        peer.uploads.ended(flow.node.name, name_of(flow.block), whole=whole)
        self._answer_queue(peer)

    def _send(self) -> None:
        """Let each node, and the store, send a piece to a node that receives none in this step."""
        sources = [flows for flows in self._flows.values() if flows]
        self._chance.shuffle(sources)
        receiving: set[str] = set()
        ended = []
        for flows in sources:
            for at, flow in enumerate(flows):
                if flow.node.name in receiving:
                    continue
                receiving.add(flow.node.name)
                flow.pieces -= 1
                if not flow.pieces:
                    ended.append(flow)
                else:
                    flows.append(flows.pop(at))
                break
        for flow in ended:
            self._end_flow(flow, whole=True)
            if flow.source == STORE:
                self._has(flow.node, flow.block)
            else:
                self._tell(flow.node, flow.block, events.Arrived(self._now_s))


@cache
def name_of(block: int) -> BlockName:
    """The plan's name of a block."""
    return BlockName("simulated", block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
