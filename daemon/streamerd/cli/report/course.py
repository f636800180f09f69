"""Computes from a report how each load's time ran, throughput, and which loads belong together.

This module is pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from streamerd.observe.document import LoadReport, ReadSpan, ReportDocument, Sample

PHASES: Final = ("memory", "credentials", "blocks", "copying")
"""The things that a load spends time on, in the order in which one interval shows them."""
APART_S: Final = 5.0
"""Loads with a pause of this length between them belong to different bursts."""
BINS: Final = 120


class Run(NamedTuple):
    """A stretch of time that a load spent in one phase, between two unix times."""

    phase: str
    began_s: float
    ended_s: float


class Throughput(NamedTuple):
    """Bytes a second at one unix time."""

    at_s: float
    read: float
    served: float


class Burst(NamedTuple):
    """Loads that ran at the same time or shortly after each other, with the reads of that time."""

    began_s: float
    ended_s: float
    loads: tuple[LoadReport, ...]
    reads: tuple[ReadSpan, ...]


def spent_s(load: LoadReport) -> dict[str, float]:
    """Seconds that a load spent in each phase."""
    last = load.samples[-1] if load.samples else Sample(0, 0, 0, 0, 0, 0, 0, 0)
    return {
        "memory": last.memory_s,
        "credentials": last.credentials_s,
        "blocks": last.blocks_s,
        "copying": last.copying_s,
    }


def runs(load: LoadReport) -> list[Run]:
    """The phases of a load in order of time; between two samples their real order is not known."""
    found: list[Run] = []
    for before, after in pairwise(load.samples):
        at_s = load.opened_at_s + before.at_s
        for phase, seconds in _between(before, after):
            if found and found[-1].phase == phase and at_s - found[-1].ended_s < 1e-3:
                found[-1] = found[-1]._replace(ended_s=at_s + seconds)
            else:
                found.append(Run(phase, at_s, at_s + seconds))
            at_s += seconds
    return found


def _between(before: Sample, after: Sample) -> Iterator[tuple[str, float]]:
    for phase in PHASES:
        seconds = getattr(after, f"{phase}_s") - getattr(before, f"{phase}_s")
        if seconds > 0:
            yield phase, seconds


def bursts(document: ReportDocument) -> list[Burst]:
    """The loads in groups that belong together, the latest group last."""
    groups: list[list[LoadReport]] = []
    ended_s = float("-inf")
    for load in sorted(document.loads, key=lambda load: load.opened_at_s):
        if load.opened_at_s > ended_s + APART_S:
            groups.append([])
        groups[-1].append(load)
        ended_s = max(ended_s, load.opened_at_s + load.seconds)
    return [_burst(group, document.reads) for group in groups]


def _burst(loads: Sequence[LoadReport], reads: Sequence[ReadSpan]) -> Burst:
    numbers = {load.number for load in loads}
    began_s = min(load.opened_at_s for load in loads)
    ended_s = max(load.opened_at_s + load.seconds for load in loads)
    meanwhile = tuple(
        read
        for read in reads
        if read.load in numbers or (not read.load and began_s <= read.ended_s <= ended_s)
    )
    return Burst(began_s, ended_s, tuple(loads), meanwhile)


def throughput(burst: Burst) -> list[Throughput]:
    """Bytes read and served a second in each of `BINS` equal parts of a burst's time."""
    width_s = max((burst.ended_s - burst.began_s) / BINS, 1e-3)
    read, served = [0.0] * BINS, [0.0] * BINS
    for load in burst.loads:
        for before, after in pairwise(load.samples):
            span = (
                load.opened_at_s + before.at_s - burst.began_s,
                load.opened_at_s + after.at_s - burst.began_s,
            )
            _spread(read, span, after.read_bytes - before.read_bytes, width_s)
            _spread(served, span, after.served_bytes - before.served_bytes, width_s)
    return [
        Throughput(burst.began_s + (place + 0.5) * width_s, read[place], served[place])
        for place in range(BINS)
    ]


def _spread(bins: list[float], span: tuple[float, float], size: int, width_s: float) -> None:
    """Distribute bytes that came evenly within a span of time over the bins of that time."""
    began_s, ended_s = span
    if not size:
        return
    first, last = (min(int(at_s / width_s), BINS - 1) for at_s in span)
    length_s = max(ended_s - began_s, 1e-9)
    for place in range(first, last + 1):
        inside_s = min(ended_s, (place + 1) * width_s) - max(began_s, place * width_s)
        share = 1.0 if first == last else max(inside_s, 0.0) / length_s
        bins[place] += size * share / width_s
