"""Sums up where the daemon's workers spend their time, from the report of each. Pure.

`profiled.py` measures inside the workers; `profile.py` runs it and prints these lines.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

FETCH: Final = "block"
"""A whole block, from the thread's beginning to its end."""
RECEIVE: Final = "receive"
CHECKSUM: Final = "checksum"
HUGE_PAGES: Final = "huge pages"
HEAD: Final = "request and head"
REST: Final = "everything else"
MOMENTS: Final = 10
"""At how many moments, spread evenly over a load, the blocks under way are counted."""


class Spent(msgspec.Struct):
    """The time that one phase took, summed up over calls and threads."""

    calls: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, other: Spent, sign: int = 1) -> None:
        self.calls += sign * other.calls
        self.wall_s += sign * other.wall_s
        self.cpu_s += sign * other.cpu_s


class Block(msgspec.Struct, frozen=True):
    """One block that was fetched; times of CLOCK_MONOTONIC, which all processes share."""

    began_s: float
    ended_s: float
    uri: str
    start: int
    stop: int


class Told(msgspec.Struct):
    """The time that one worker spent on a block, or on all its blocks."""

    phases: dict[str, Spent] = {}
    blocks: list[Block] = []
    process_cpu_s: float = 0.0
    """All processor time of the process in its life so far, its start included."""


def of_worker(blocks: Iterable[Told]) -> Told:
    """Sum up the reports of one worker, block by block."""
    whole = Told()
    for told in blocks:
        for name, spent in told.phases.items():
            whole.phases.setdefault(name, Spent()).add(spent)
        whole.blocks.extend(told.blocks)
        whole.process_cpu_s = max(whole.process_cpu_s, told.process_cpu_s)
    return whole


def summed(workers: Iterable[Told]) -> Told:
    """Sum up all workers; the time of a block outside of all other phases is a phase, too."""
    total = Told()
    for worker in workers:
        for name, spent in worker.phases.items():
            total.phases.setdefault(name, Spent()).add(spent)
        total.blocks.extend(worker.blocks)
        total.process_cpu_s += worker.process_cpu_s
    rest = Spent()
    for name, spent in total.phases.items():
        rest.add(spent, 1 if name == FETCH else -1)
    rest.calls = total.phases.get(FETCH, rest).calls
    total.phases[REST] = rest
    total.blocks.sort(key=lambda block: block.began_s)
    return total


def in_flight(blocks: Sequence[Block], moments: int = MOMENTS) -> list[int]:
    """How many blocks were under way in the middle of each of so many equal spans."""
    first = min(block.began_s for block in blocks)
    span_s = max(block.ended_s for block in blocks) - first
    middles = [first + span_s * (place + 0.5) / moments for place in range(moments)]
    return [sum(block.began_s <= at < block.ended_s for block in blocks) for at in middles]


def ahead(blocks: Iterable[Block]) -> list[int]:
    """How many places each block arrived ahead of the first block that was still missing.

    The order is that of arrival. A rank reads objects and blocks in order, and waits for that one.
    """
    arrived = sorted(blocks, key=lambda block: block.ended_s)
    wanted = sorted(arrived, key=lambda block: (block.uri, block.start))
    places = {(block.uri, block.start): place for place, block in enumerate(wanted)}
    missing, found, distances = 0, set(), []
    for block in arrived:
        place = places[block.uri, block.start]
        distances.append(place - missing)
        found.add(place)
        while missing in found:
            missing += 1
    return distances


def lines(total: Told, connections: int) -> Iterator[str]:
    """The printed lines about one load."""
    blocks = total.blocks
    size_gb = sum(block.stop - block.start for block in blocks) / 1e9
    span_s = max(block.ended_s for block in blocks) - blocks[0].began_s
    busy_s = sum(block.ended_s - block.began_s for block in blocks)
    yield (
        f"  {len(blocks)} blocks in {span_s:.2f} s, {size_gb / span_s:.2f} GB/s; the workers' "
        f"processor time in all: {total.process_cpu_s / size_gb:.3f} s for each GB"
    )
    yield f"  {'phase':18}{'calls':>8}{'CPU s/GB':>10}{'waiting s/GB':>14}"
    for name in (RECEIVE, CHECKSUM, HUGE_PAGES, HEAD, REST, FETCH):
        spent = total.phases.get(name, Spent())
        waiting_s = max(0.0, spent.wall_s - spent.cpu_s)
        yield f"  {name:18}{spent.calls:8d}{spent.cpu_s / size_gb:10.3f}{waiting_s / size_gb:14.3f}"
    counts = " ".join(map(str, in_flight(blocks)))
    yield f"  blocks in flight, of {connections}: {busy_s / span_s:.1f}; over the load: {counts}"
    distances = sorted(ahead(blocks))
    late = distances[int(len(distances) * 0.95)]
    yield (
        "  places that an arriving block was ahead of the first missing one: "
        f"median {statistics.median(distances):.0f}, 95 % {late}, most {distances[-1]}"
    )
