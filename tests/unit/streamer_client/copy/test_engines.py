"""The staged engine on CPU memory gives the same bytes as the direct one, whatever the stage's
size.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch

from streamer_client.contract.safetensors.catalog import TensorEntry
from streamer_client.copy import engines
from streamer_client.copy.destination import Destination
from streamer_client.copy.engines import (
    CopyEngine,
    HostEngine,
    MixedEngine,
    StagedEngine,
    engine_for,
)
from streamer_client.copy.plan import block_jobs

FILE = random.Random(7).randbytes(5000)


class BytesFeed:
    def read_into(self, buffers: Sequence[memoryview], shard: int, start: int) -> None:
        assert shard == 0
        for buffer in buffers:
            buffer[:] = FILE[start : start + len(buffer)]
            start += len(buffer)


@pytest.mark.parametrize("engine", [HostEngine(1), StagedEngine(1), MixedEngine(StagedEngine(1))])
def test_bytes_arrive(engine: CopyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "STAGE_BYTES", 100)
    entries = [
        TensorEntry("a", "F32", (250,), 8, 1008),
        TensorEntry("b", "U8", (), 1008, 1009),
        TensorEntry("c", "I16", (1995,), 1009, 4999),
    ]
    placed: dict[str, Destination] = {}

    def place(entry: TensorEntry) -> Destination:
        dtype = {"F32": torch.float32, "U8": torch.uint8, "I16": torch.int16}[entry.dtype]
        placed[entry.name] = Destination(entry, torch.zeros(entry.shape, dtype=dtype))
        return placed[entry.name]

    for job in block_jobs(0, entries, 1000, place):
        for run in job.runs:
            engine.copy(cast("Any", BytesFeed()), 0, run)
    for entry in entries:
        assert bytes(placed[entry.name].flat.tolist()) == FILE[entry.start : entry.stop]


class ThreadedFeed(BytesFeed):
    threads = 3


def test_which_engine_for_which_devices() -> None:
    feed = cast("Any", ThreadedFeed())
    cpu, other = torch.device("cpu"), torch.device("xpu")
    assert isinstance(engine_for({cpu}, feed), HostEngine)
    assert isinstance(engine_for(set(), feed), HostEngine)
    assert isinstance(engine_for({cpu, other}, feed), MixedEngine)
    assert engine_for({other}, feed).threads == 3
