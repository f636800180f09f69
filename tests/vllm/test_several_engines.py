"""Several engines on one node with one daemon: status tells them apart, and each byte is read once.

There are two data-parallel engines of one model and two engines of another, as one for prefill
stands beside one for decode. Their configurations are vLLM's own, and the plugin loads. No engine
is started, so that the test takes as long as importing vLLM; `make test-vllm-full` starts two.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

from tests.support.daemon import DaemonProcess, Daemons
from tests.support.waiting import eventually
from tests.vllm.conftest import checkpoint_bytes
from tests.vllm.own_daemon import OwnDaemon
from tests.vllm.starts import BASE_ENVIRONMENT, Start, Starts
from tests.vllm.test_same_answers import (
    assert_announced_once,
    assert_loaded_through,
    assert_same,
)


@pytest.fixture
def engine_args() -> Any:
    """vLLM's class, imported before anything is loaded, because vLLM keeps the frames that import
    it.
    """
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs


@pytest.fixture
def node(daemon_maker: Daemons) -> DaemonProcess:
    """A daemon through which nothing was loaded yet."""
    return daemon_maker.start("--memory-limit=128MiB")


def test_engines_of_one_node_are_told_apart_and_share_reads(
    model: Callable[[str], str],
    engine_args: Any,
    node: DaemonProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in BASE_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    engines = [
        (engine_args(model=model(kind), max_model_len=256, enforce_eager=True), dp_rank)
        for kind, dp_rank in (("qwen3-moe", 0), ("qwen3-moe", 1), ("llama", None), ("llama", None))
    ]
    with ExitStack() as loads:
        checkpoints = [
            loads.enter_context(_loading(_configuration(arguments, dp_rank, monkeypatch), node))
            for arguments, dp_rank in engines
        ]
        labels = _labels(node)
        for checkpoint in checkpoints:
            _read(checkpoint)
    assert sorted(label.partition(" engine ")[0] for label in labels) == [
        *("llama rank 0", "llama rank 0"),
        *("qwen3-moe dp 0 rank 0", "qwen3-moe dp 1 rank 0"),
    ]
    engine_ids = {label.partition(" engine ")[2] for label in labels}
    assert len(engine_ids - {"", "-"}) == len(engines)
    expected = checkpoint_bytes(model("llama")) + checkpoint_bytes(model("qwen3-moe"))
    assert node.totals()["source_read_bytes"] == expected


LABEL: Final = re.compile(r"event=client_connected .* label='(llama rank 0 engine [^']+)'")


@pytest.mark.full
def test_two_engines_that_start_at_once_share_the_daemon_that_one_starts(
    model: Callable[[str], str], starts: Starts, own_daemon: OwnDaemon
) -> None:
    start = Start(model("llama"), "runai_streamer", environment=own_daemon.environment, cold=True)
    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(starts.attempt, [start, start]))
    for answer in answers:
        assert answer.returncode == 0, answer.output[-6000:]
        assert_same(answer, starts(Start(model("llama"))))
        assert_loaded_through(own_daemon.socket, answer, ranks=1, cached=True)
    told = assert_announced_once(own_daemon.socket, *answers)
    assert len(set(LABEL.findall(told))) == 2
    size_bytes = checkpoint_bytes(model("llama"))
    eventually(lambda: own_daemon.read_bytes() == size_bytes, deadline_s=60)


def _configuration(arguments: Any, dp_rank: int | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's configuration of an engine, with the values that a launcher of two data-parallel
    engines sets.
    """
    with monkeypatch.context() as launched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these warnings come from vLLM's own code
        if dp_rank is not None:
            launched.setenv("VLLM_DP_SIZE", "2")
            launched.setenv("VLLM_DP_RANK", str(dp_rank))
            launched.setenv("VLLM_DP_RANK_LOCAL", str(dp_rank))
        return arguments.create_engine_config()


@contextmanager
def _loading(configuration: Any, node: DaemonProcess) -> Iterator[Any]:
    """An open load, as the plugin makes it in a rank of this engine."""
    from vllm.config import set_current_vllm_config

    from streamer_vllm.options import parse_options
    from streamer_vllm.session import opened

    options = parse_options({"mode": "required", "socket": node.socket}, {}, sharded=False)
    with set_current_vllm_config(configuration):
        load = opened(options, configuration.model_config.model, hold=True, bar=False)
        checkpoint = load.__enter__()
    try:
        yield checkpoint
    finally:
        load.__exit__(None, None, None)


def _read(checkpoint: Any) -> None:
    """Take every tensor and keep none: a kept tensor would keep the load's lease."""
    for _ in checkpoint.tensors():
        pass


def _labels(node: DaemonProcess) -> set[str]:
    """The labels that `status` shows for those that hold leases."""
    return {
        lease["label"]
        for source in node.status()["sources"]
        for shard in source["shards"]
        for lease in shard["leases"]
    }
