"""The simulated fleets: one where all is well, and others with one kind of trouble each."""

from __future__ import annotations

import random
from typing import Final

from benchmarks.fleet_simulation.network import BLOCK_BYTES, Node, Outcome, Simulation, Ways
from streamerd.fleet.plan.search import View

LISTS: Final = 10
"""How many different lists of members there are if lists differ; each lacks an equal part."""


def names(count: int) -> list[str]:
    return [f"node-{number:04}" for number in range(count)]


def all_at_once(count: int, _ideal_s: float) -> list[Node]:
    shared = View.of("node-0000", frozenset(names(count))).nodes
    return [Node(name, View(name, shared)) for name in names(count)]


def tenth(nodes: list[Node]) -> list[Node]:
    return random.Random(5).sample(nodes, max(1, len(nodes) // 10))


def some_fall_silent(count: int, ideal_s: float) -> list[Node]:
    nodes = all_at_once(count, ideal_s)
    for node in tenth(nodes):
        node.dies_s = ideal_s / 2
    return nodes


def some_die(count: int, ideal_s: float) -> list[Node]:
    nodes = some_fall_silent(count, ideal_s)
    for node in nodes:
        node.silence_s = 0.0
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
    "well": ("all start at once", all_at_once),
    "die": ("a tenth dies halfway, connections are refused", some_die),
    "silent": ("a tenth falls silent halfway, each time found out after 1 s", some_fall_silent),
    "late": ("a tenth comes when the others are done", some_late),
    "lists": ("ten lists of members, each without another tenth", lists_differ),
}
"""For each word that chooses a case: the case's name in the table, and what makes its nodes."""


def simulate(case: str, count: int, blocks: int, gbit: float, uploads: int) -> Outcome:
    """Run a case of `CASES`."""
    tick_s = BLOCK_BYTES * 8 / (gbit * 1e9)
    _, make = CASES[case]
    return Simulation(make(count, blocks * tick_s), blocks, Ways(tick_s, uploads=uploads)).run()
