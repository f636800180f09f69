"""Answers of a quantised model: its tokens and log-probabilities are those of `auto`, bit for bit.

The last tests show what `streamerctl shard` says where vLLM quantises while it loads.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.daemon import DaemonProcess
from tests.vllm.loading.kinds import KINDS, online_is_lacking
from tests.vllm.starts import Start, Starts
from tests.vllm.test_same_answers import assert_same, through


def test_a_quantised_model(starts: Starts, daemon: DaemonProcess, tmp_path: Path) -> None:
    model = tmp_path / "int8"
    KINDS["int8"].make(model, 0)
    more = '{"max_model_len": 128}'
    ours = starts(Start(str(model), "runai_streamer", environment=through(daemon), more=more))
    assert_same(ours, starts(Start(str(model), more=more)))
    assert ours.tokens


@pytest.mark.skipif(bool(online_is_lacking()), reason=online_is_lacking())
def test_no_shards_of_what_vllm_quantises_while_it_loads(starts: Starts, tmp_path: Path) -> None:
    """Told in the last line, though it is a worker that finds it; and nothing is left."""
    kind = KINDS["online"]
    model, out = tmp_path / "experts", tmp_path / "out"
    kind.make(model, 0)
    done = starts.run(
        *("streamer_vllm.sharding.command", str(model), str(out), "--tensor-parallel-size", "1"),
        *("--quantization", kind.arguments["quantization"]),
    )
    assert done.returncode == os.EX_CONFIG
    assert "\nstreamerctl shard: vLLM quantises weights while it loads them" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["experts"]
