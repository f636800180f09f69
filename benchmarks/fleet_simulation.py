"""Simulates a fleet that starts at once, with the real decisions of `streamerd.fleet.plan`.

    python -m benchmarks.fleet_simulation [--nodes N ...] [--blocks N] [--gbit N]

Only wires and time are simulated. Each node, and the store, sends at most one block a tick, and
each node receives at most one. A question takes an eighth of a tick. The ideal is the time in which
one node alone would receive the file at the full rate of its link. Prints the table of
docs/fleet.md.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, assert_never

from streamerd.fleet.plan import events
from streamerd.fleet.plan.ranking import BlockName
from streamerd.fleet.plan.search import Rules, Search, View
from streamerd.fleet.plan.standing import Standing
from streamerd.fleet.plan.uploads import Give, Later, Nothing, SendTo, Uploads

BLOCK_BYTES: Final = 8 << 20
QUESTION_TICKS: Final = 1 / 8
"""What a question takes, in ticks."""
SLOTS: Final = 32
"""Blocks that a node has on their way at once, as the daemon's default is."""
UPLOADS: Final = 16
LISTS: Final = 10
"""How many different lists of members there are where lists differ; each lacks as great a part."""
SILENCE_S: Final = 1.0
"""After this time a question that nobody answers counts as silence."""
HOLD_S: Final = 1.0
"""How long a node holds a question back whose block it does not hand over yet."""
STORE: Final = "store"


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


@dataclass(slots=True, eq=False)
class Node:
    name: str
    view: View
    starts_s: float = 0.0
    dies_s: float = float("inf")
    silence_s: float = SILENCE_S
    """How long it takes others to find out, each time they ask, that it died."""
    standing: Standing = field(default_factory=Standing)
    uploads: Uploads = field(default_factory=lambda: Uploads(UPLOADS))
    searches: dict[int, Search] = field(default_factory=dict)
    next_block: int = 0
    blocks: set[int] = field(default_factory=set)
    held_back: list[Question] = field(default_factory=list)
    store_blocks: int = 0
    ended_s: float | None = None
    dead: bool = False


@dataclass(slots=True, eq=False)
class Outcome:
    """What a run came to."""

    nodes: list[Node]
    blocks: int
    tick_s: float
    cpu_s: float

    def over_ideal(self, nodes: list[Node]) -> float:
        """The time of the last of some nodes, over the time of one alone at full rate."""
        return max(
            ((node.ended_s or float("inf")) - node.starts_s) / (self.blocks * self.tick_s)
            for node in nodes
        )

    def from_store(self, nodes: list[Node]) -> float:
        """What some nodes read from the store, in files."""
        return sum(node.store_blocks for node in nodes) / self.blocks


class Simulation:
    """One run."""

    def __init__(self, nodes: list[Node], blocks: int, tick_s: float, rules: Rules) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._blocks = blocks
        self._tick_s = tick_s
        self._rules = rules
        self._now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0
        self._flows: dict[str, dict[Flow, None]] = {name: {} for name in (*self._nodes, STORE)}
        self._chance = random.Random(3)

    def run(self) -> Outcome:
        began_s = time.process_time()
        for node in self._nodes.values():
            self._at(node.starts_s, lambda node=node: self._begin(node))  # type: ignore[misc]  # mypy cannot infer a lambda's default
            if node.dies_s < float("inf"):
                self._at(node.dies_s, lambda node=node: self._die(node))  # type: ignore[misc]  # as above
        tick = 0
        while any(node.ended_s is None and not node.dead for node in self._nodes.values()):
            tick += 1
            while self._due and self._due[0][0] < tick * self._tick_s:
                self._now_s, _, action = heapq.heappop(self._due)
                action()
            self._now_s = tick * self._tick_s
            self._send()
        nodes = list(self._nodes.values())
        return Outcome(nodes, self._blocks, self._tick_s, time.process_time() - began_s)

    def _at(self, at_s: float, action: Callable[[], object]) -> None:
        self._number += 1
        heapq.heappush(self._due, (at_s, self._number, action))

    def _begin(self, node: Node) -> None:
        while node.next_block < self._blocks and len(node.searches) < SLOTS:
            block = node.next_block
            node.next_block += 1
            search = Search(name_of(block), node.standing, self._rules, self._now_s)
            node.searches[block] = search
            self._obey(node, block, search.begin(node.view))

    def _die(self, node: Node) -> None:
        node.dead = True
        node.searches.clear()
        for question in node.held_back:
            self._after_silence(question.node, question.block, node.silence_s)
        flows = [flow for flows in self._flows.values() for flow in flows]
        for flow in flows:
            if node.name in (flow.source, flow.node.name):
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
                self._at(
                    self._now_s + self._tick_s * QUESTION_TICKS, lambda: self._ask(question, peer)
                )
            case events.Pause():
                until_s = self._now_s + command.wait_s
                self._at(until_s, lambda: self._tell(node, block, events.PauseOver(self._now_s)))
            case events.ReadStore():
                node.store_blocks += 1
                self._start_flow(Flow(STORE, node, block))
            case events.Done():
                self._has(node, block)
            case _:
                assert_never(command)

    def _ask(self, question: Question, peer: Node) -> None:
        if peer.dead:
            self._after_silence(question.node, question.block, peer.silence_s)
        elif not self._answer(peer, question, last=not question.patient):
            peer.held_back.append(question)
            self._at(self._now_s + HOLD_S, lambda: self._answer(peer, question, last=True))

    def _answer(self, peer: Node, question: Question, *, last: bool) -> bool:
        """Answer a question, unless the answer is to come again and there is time to wait."""
        now_s, node, block = self._now_s, question.node, question.block
        if question.answered or peer.dead or node.dead:
            return True
        loads = peer.starts_s <= now_s
        held = block in peer.blocks
        reply = peer.uploads.asked(node.name, name_of(block), held=held, awaited=loads)
        if isinstance(reply, Later) and not last:
            return False
        question.answered = True
        match reply:
            case Give():
                self._start_flow(Flow(peer.name, node, block))
            case SendTo():
                self._tell(node, block, events.SentElsewhere(now_s, reply.holder))
            case Later():
                self._tell(node, block, events.NotYet(now_s, reply.holds))
            case Nothing():
                self._tell(node, block, events.NotThere(now_s, loads))
            case _:
                assert_never(reply)
        return True

    def _answer_held_back(self, peer: Node) -> None:
        peer.held_back = [
            question for question in peer.held_back if not self._answer(peer, question, last=False)
        ]

    def _after_silence(self, node: Node, block: int, silence_s: float) -> None:
        at_s = self._now_s + silence_s
        self._at(at_s, lambda: self._tell(node, block, events.Silent(self._now_s)))

    def _has(self, node: Node, block: int) -> None:
        node.blocks.add(block)
        del node.searches[block]
        self._answer_held_back(node)
        self._begin(node)
        if len(node.blocks) == self._blocks:
            node.ended_s = self._now_s

    # --- wires ------------------------------------------------------------------------------------

    def _start_flow(self, flow: Flow) -> None:
        self._flows[flow.source][flow] = None

    def _end_flow(self, flow: Flow, *, whole: bool) -> None:
        del self._flows[flow.source][flow]
        if flow.source != STORE:
            peer = self._nodes[flow.source]
            peer.uploads.ended(flow.node.name, name_of(flow.block), whole=whole)
            self._answer_held_back(peer)

    def _send(self) -> None:
        """Let each node, and the store, send a block to a node that receives none in this tick."""
        sources = [source for source, flows in self._flows.items() if flows]
        self._chance.shuffle(sources)
        receiving: set[str] = set()
        sent = []
        for source in sources:
            flow = next(
                (one for one in self._flows[source] if one.node.name not in receiving), None
            )
            if flow is not None:
                receiving.add(flow.node.name)
                sent.append(flow)
        for flow in sent:
            self._end_flow(flow, whole=True)
            if flow.source == STORE:
                self._has(flow.node, flow.block)
            else:
                self._tell(flow.node, flow.block, events.Arrived(self._now_s))


def name_of(block: int) -> BlockName:
    return BlockName("simulated", block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)


# --- cases ----------------------------------------------------------------------------------------


def names(count: int) -> list[str]:
    return [f"node-{number:04}" for number in range(count)]


def all_at_once(count: int, _ideal_s: float) -> list[Node]:
    view = frozenset(names(count))
    shared = View.of("node-0000", view).nodes
    return [Node(name, View(name, shared)) for name in names(count)]


def tenth(nodes: list[Node]) -> Iterator[Node]:
    return iter(random.Random(5).sample(nodes, max(1, len(nodes) // 10)))


def some_die(count: int, ideal_s: float) -> list[Node]:
    nodes = some_fall_silent(count, ideal_s)
    for node in nodes:
        node.silence_s = 0.0
    return nodes


def some_fall_silent(count: int, ideal_s: float) -> list[Node]:
    nodes = all_at_once(count, ideal_s)
    for node in tenth(nodes):
        node.dies_s = ideal_s / 2
    return nodes


def some_late(count: int, ideal_s: float) -> list[Node]:
    nodes = all_at_once(count, ideal_s)
    for node in tenth(nodes):
        node.starts_s = 2 * ideal_s
    return nodes


def lists_differ(count: int, _ideal_s: float) -> list[Node]:
    everyone = names(count)
    nodes = []
    for number, name in enumerate(everyone):
        missing = {other for other in everyone[number % LISTS :: LISTS] if other != name}
        nodes.append(Node(name, View.of(name, frozenset(everyone) - missing)))
    return nodes


CASES: Final = {
    "all start at once": all_at_once,
    "a tenth dies halfway, connections are refused": some_die,
    "a tenth falls silent halfway, seen after 1 s each": some_fall_silent,
    "a tenth comes when the others are done": some_late,
    "ten lists of members, each without another tenth": lists_differ,
}


def simulate(
    case: str, count: int, blocks: int, gbit: float, rules: Rules | None = None
) -> Outcome:
    tick_s = BLOCK_BYTES * 8 / (gbit * 1e9)
    nodes = CASES[case](count, blocks * tick_s)
    return Simulation(nodes, blocks, tick_s, rules or Rules()).run()


def main() -> None:
    parser = argparse.ArgumentParser(description="simulate a fleet's plan")
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--blocks", type=int, default=500)
    parser.add_argument("--gbit", type=float, default=10.0, help="rate of every link, Gbit/s")
    arguments = parser.parse_args()
    print("| nodes | case | last node, time over ideal | from the store / file | late nodes |")
    print("|---|---|---|---|---|")
    for count in arguments.nodes:
        for case in CASES:
            outcome = simulate(case, count, arguments.blocks, arguments.gbit)
            alive = [node for node in outcome.nodes if not node.dead]
            early = [node for node in alive if not node.starts_s]
            late = [node for node in alive if node.starts_s]
            told = (
                f"{outcome.over_ideal(late):.2f}, {outcome.from_store(late):.2f} from the store"
                if late
                else ""
            )
            print(
                f"| {count} | {case} | {outcome.over_ideal(early):.2f} "
                f"| {outcome.from_store(outcome.nodes):.2f} | {told} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
