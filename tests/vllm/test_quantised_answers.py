"""Answers of a quantised model: its tokens and log-probabilities are those of `auto`,
bit for bit.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import DaemonProcess
from tests.vllm.loading.kinds import KINDS
from tests.vllm.starts import Start, Starts
from tests.vllm.test_same_answers import assert_same, through


def test_a_quantised_model(starts: Starts, daemon: DaemonProcess, tmp_path: Path) -> None:
    model = tmp_path / "int8"
    KINDS["int8"].make(model, 0)
    more = '{"max_model_len": 128}'
    ours = starts(Start(str(model), "runai_streamer", environment=through(daemon), more=more))
    assert_same(ours, starts(Start(str(model), more=more)))
    assert ours.tokens
