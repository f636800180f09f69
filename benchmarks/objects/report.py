"""The measurements as lines of text: a table, the cost of a delay, and ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Final

import msgspec

from benchmarks.objects.load import Measured

PLAIN: Final = ""
DELAY: Final = "delay"
BARE: Final = ("bare", "bare, huge pages")
PROCESSES: Final = (
    "bare processes, private",
    "bare processes, faults",
    "bare processes, huge",
)
STREAMING: Final = ("streamerd", "streamerd gpu", "streamerd gpu, kept")
"""Ways that yield tensors while others are on their way; the rest yield all at once."""
RUNAI: Final = ("runai", "runai, connections", "runai, kept")
GPU: Final = ("streamerd gpu", "streamerd gpu, into", "streamerd gpu, kept")
COMPARED: Final = (
    *(("streamerd prefetch", peer, 0.85) for peer in PROCESSES),
    *((way, peer, 0.75) for way in GPU for peer in PROCESSES),
    *((way, peer, 1.8) for way in GPU for peer in (*RUNAI, "runai, gpu")),
    *(("streamerd", peer, 0.9) for peer in BARE),
    ("streamerd direct", "bare, existing memory", 0.9),
    *(("streamerd", peer, 3.0) for peer in RUNAI),
    ("streamerd direct", "runai", 3.0),
    *(("streamerd", peer, 1.0) for peer in ("boto3", "awscrt", "obstore")),
)
"""Ratios that were hoped for: one way, the way it is compared with, and the ratio."""


class Row(msgspec.Struct):
    """The repetitions of one way with one checkpoint over one link."""

    checkpoint: str
    link: str
    way: str
    size_bytes: int
    runs: list[Measured] = []

    def median(self, field: str) -> float:
        return float(statistics.median(getattr(run, field) for run in self.runs))

    def rate(self) -> float:
        """GB/s of the whole load."""
        return self.size_bytes / self.median("seconds") / 1e9

    def first_byte_s(self, delay_s: float) -> float:
        """Seconds from the start until the server sent the first byte of an object."""
        return self.median("first_get_s") + (delay_s if self.link == DELAY else 0.0)

    def rate_after_first_byte(self, delay_s: float) -> float:
        """GB/s from the first byte of an object on."""
        return self.size_bytes / (self.median("seconds") - self.first_byte_s(delay_s)) / 1e9


def table(rows: list[Row]) -> Iterator[str]:
    """The medians, and every value of the seconds at the end."""
    yield (
        f"{'objects':>8} {'link':6}{'way':25}{'seconds':>8}{'GB/s':>7}{'CPU s':>7}{'nginx s':>8}"
        f"{'GETs':>6}{'HEADs':>6}{'lists':>6}{'other':>6}{'bytes x':>8}{'again x':>8}"
        "   all seconds"
    )
    before = None
    for row in rows:
        if before not in (None, (row.checkpoint, row.link)):
            yield ""
        before = row.checkpoint, row.link
        yield (
            f"{row.checkpoint:>8} {row.link:6}{row.way:25}{row.median('seconds'):8.2f}"
            f"{row.rate():7.2f}{row.median('cpu_s'):7.2f}{row.median('server_cpu_s'):8.2f}"
            f"{row.median('gets'):6.0f}{row.median('heads'):6.0f}{row.median('listings'):6.0f}"
            f"{row.median('refused'):6.0f}{row.median('body_bytes') / row.size_bytes:8.3f}"
            f"{row.median('again_bytes') / row.size_bytes:8.3f}   "
            + " ".join(f"{run.seconds:.2f}" for run in row.runs)
        )


def delays(rows: list[Row], delay_s: float) -> Iterator[str]:
    """The cost of the delay of each request, beside the same load without it."""
    plain = {(row.checkpoint, row.way): row for row in rows if row.link == PLAIN}
    delayed = [row for row in rows if row.link == DELAY]
    if not delayed:
        return
    yield f"each request answered {delay_s * 1e3:.0f} ms later; times from the start, in delays"
    yield (
        f"{'objects':>8} {'way':25}{'first byte':>11}{'first tensor':>13}"
        f"{'GB/s after':>11}{'without':>9}{'share':>7}"
    )
    for row in delayed:
        beside = plain[row.checkpoint, row.way]
        rate, without = row.rate_after_first_byte(delay_s), beside.rate_after_first_byte(delay_s)
        first_tensor = f"{row.median('first_tensor_s') / delay_s:.1f}"
        yield (
            f"{row.checkpoint:>8} {row.way:25}{row.first_byte_s(delay_s) / delay_s:11.1f}"
            f"{first_tensor if row.way in STREAMING else '-':>13}{rate:11.2f}{without:9.2f}"
            f"{rate / without:7.2f}"
        )


def comparisons(rows: list[Row]) -> Iterator[tuple[str, float]]:
    """How many times as fast as a peer streamerd was, with the words that say so."""
    seconds = {(row.checkpoint, row.link, row.way): row.median("seconds") for row in rows}
    for checkpoint, link in dict.fromkeys((row.checkpoint, row.link) for row in rows):
        for ours, peer, wanted in COMPARED:
            mine, other = (seconds.get((checkpoint, link, way)) for way in (ours, peer))
            if mine and other:
                over = f" over {link}" if link else ""
                text = f"{checkpoint} objects{over}, {ours} against {peer} (wanted {wanted:g} x)"
                yield text, other / mine
