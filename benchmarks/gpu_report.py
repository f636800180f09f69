"""The report of the GPU benchmark: rows of medians, and the ratios that were hoped for."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from benchmarks import gpu_slices

INTO, TENSORS = "streamerd into", "streamerd tensors"
ALONE = "reading alone, O_DIRECT"
Ratio = tuple[str, float, float]
"""A comparison in words, the measured ratio, and the ratio that was hoped for."""


class Row(msgspec.Struct):
    """The repetitions of one loader on one checkpoint in one state."""

    checkpoint: str
    state: str
    loader: str
    size_bytes: int
    seconds: list[float] = []
    first_s: list[float] = []
    error: str = ""
    verified: bool = False

    @property
    def gb_per_s(self) -> float:
        return self.size_bytes / statistics.median(self.seconds) / 1e9 if self.seconds else 0.0


def table(rows: Sequence[Row], ceiling: float) -> Iterator[str]:
    for row in rows:
        name = f"{row.checkpoint:12}{row.state:10}{row.loader:32}"
        if not row.seconds:
            yield f"{name} failed: {row.error[:90]}"
            continue
        seconds = statistics.median(row.seconds)
        first = f"{statistics.median(row.first_s) * 1e3:8.0f}" if row.first_s else " " * 8
        over = f"{row.gb_per_s * 1e9 / ceiling:6.2f}" if ceiling else ""
        runs = " ".join(f"{one:.3f}" for one in row.seconds)
        yield f"{name}{seconds:8.3f} s{row.gb_per_s:7.2f} GB/s{over} first {first} ms  ({runs})"


def comparisons(
    rows: Sequence[Row], ceiling: float, *, disk_gib: int, rank_gib: int
) -> Iterator[Ratio]:
    """The comparisons that were hoped for, for both ways of loading."""
    rate = {(row.checkpoint, row.state, row.loader): row.gb_per_s for row in rows}
    yield from _of_slices(rate, ceiling)
    for loader in (INTO, TENSORS):
        for name, wanted in (("dense-12", 0.80), ("dense-48", 0.88)):
            if (mine := rate.get((name, "memory", loader))) and ceiling:
                yield f"{name} over pinned copies, {loader}", mine * 1e9 / ceiling, wanted
        for text, wanted, name, state, peer in _wanted(disk_gib):
            mine, other = rate.get((name, state, loader)), rate.get((name, state, peer))
            if mine and other:
                yield f"{text} over {peer}, {loader}", mine / other, wanted
        ranks = f"rank-{rank_gib}"
        pair = rate.get((ranks, "two ranks", loader))
        alone = rate.get((ranks, "one rank", loader))
        peers = rate.get((ranks, "two ranks", "instanttensor"))
        if pair and alone:
            yield f"two ranks over one, {loader}", pair / alone, 1.3
        if pair and peers:
            yield f"two ranks over two of instanttensor, {loader}", pair / peers, 1.05


def _of_slices(rate: Mapping[tuple[str, str, str], float], ceiling: float) -> Iterator[Ratio]:
    """A rank's share over the link, and the cost of slices if one rank takes everything."""
    mine = rate.get(("llama-70b", "memory", gpu_slices.SLICES))
    if mine and ceiling:
        yield "share of one of 8 ranks over pinned copies", mine * 1e9 / ceiling, 0.75
    auto = rate.get(("llama-70b", "memory", gpu_slices.ALONE_AUTO))
    off = rate.get(("llama-70b", "memory", gpu_slices.ALONE_OFF))
    if auto and off:
        yield "one rank alone, slices auto over off", auto / off, 1 / 1.02


def _wanted(disk_gib: int) -> Iterator[tuple[str, float, str, str, str]]:
    """Comparisons with a peer: text, ratio hoped for, checkpoint, state, peer."""
    disk = f"dense-{disk_gib}"
    yield "12 GiB", 1.05, "dense-12", "memory", "instanttensor"
    for peer in ("runai", "runai buffered"):
        yield "12 GiB", 6.5, "dense-12", "memory", peer
    for name in ("small-64k", "small-4k"):
        yield name, 3.0, name, "memory", "safetensors"
        yield name, 1.0, name, "memory", "instanttensor"
    yield "cold, rate", 1 / 1.05, disk, "cold", ALONE
    yield "warm, first load", 3.0, disk, "warm", "safetensors"
