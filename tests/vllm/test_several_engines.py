"""Several engines on one node with one daemon: status tells them apart, and each byte is read once.

There are two data-parallel engines of one model and two engines of another, as one for prefill
stands beside one for decode. Their configurations are vLLM's own, and the plugin loads. No engine
is started, so that the test takes as long as importing vLLM.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.support.daemon import DaemonProcess, Daemons
from tests.vllm.conftest import checkpoint_bytes
from tests.vllm.starts import BASE_ENVIRONMENT


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


def _configuration(arguments: Any, dp_rank: int | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's configuration of an engine, with the values that a launcher of two data-parallel
    engines sets.
    """
    with monkeypatch.context() as launched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is vLLM's own
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
