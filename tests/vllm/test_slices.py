"""Ranks that fetch slices have the parameters of stock vLLM, and copied no more than their part."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.support.daemon import DaemonProcess
from tests.vllm.starts import Start, Starts
from tests.vllm.test_same_answers import through

SLICED = ("STREAMERD_SLICES_ON_CPU", "4096")
COPIED = re.compile(r"bytes=(\d+) copied=(\d+)")


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("kind", ["llama", "tied", "qwen3-moe"])
def test_parameters_and_bytes(
    kind: str,
    ranks: int,
    model: Callable[[str], str],
    starts: Starts,
    many_daemons: object,
    daemon: DaemonProcess,
) -> None:
    answer = starts(
        Start(
            model(kind),
            "runai_streamer",
            action="load",
            tensor_parallel_size=ranks,
            environment=(*through(daemon), SLICED),
        )
    )
    reference = starts(Start(model(kind), action="load", tensor_parallel_size=ranks))
    assert answer.digests == reference.digests
    shares = [int(copied) / int(whole) for whole, copied in COPIED.findall(answer.output)]
    assert len(shares) == ranks
    assert max(shares) <= {2: 0.53, 4: 0.29}[ranks], shares
