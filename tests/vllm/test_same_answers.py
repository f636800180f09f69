"""The same tokens and log-probabilities as with `--load-format auto`, bit for bit."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.waiting import eventually
from tests.vllm.conftest import CUSTOM_PATTERN, checkpoint_bytes
from tests.vllm.own_daemon import OwnDaemon
from tests.vllm.starts import Answer, Start, Starts

ISSUE_OPTIONS = (("concurrency", 16), ("memory_limit", 5368709120))
LOADED = re.compile(
    r"streamerd: rank=(\d+) event=loaded dp_rank=0 source=\S+ bytes=(\d+) copied=\d+ "
    r"seconds=[\d.]+ gb_per_s=[\d.]+ "
    r"from_memory=(\d+)% via=(\S+) socket=(\S+)"
)
STARTED = re.compile(
    r"INFO .*streamerd: rank=\d+ event=daemon_started pid=\d+ socket=(\S+) log=(\S+)"
)

Model = Callable[[str], str]
Environment = tuple[tuple[str, str], ...]


def through(daemon: DaemonProcess) -> Environment:
    return (("STREAMERD_MODE", "required"), ("STREAMERD_SOCKET", daemon.socket))


def assert_same(answer: Answer, reference: Answer) -> None:
    assert answer.tokens == reference.tokens
    assert answer.logprobs == reference.logprobs
    assert answer.prompt_logprobs == reference.prompt_logprobs
    assert answer.digests == reference.digests


def assert_loaded_through(socket: str, answer: Answer, ranks: int, *, cached: bool = False) -> None:
    """Check that each rank's log says that it loaded through this daemon.

    With `cached`, ranks may also have taken the files from the page cache.
    """
    lines = LOADED.findall(answer.output)
    assert sorted(int(rank) for rank, *_ in lines) == list(range(ranks)), answer.output[-4000:]
    ways = {"daemon", "page-cache"} if cached else {"daemon"}
    assert {where for *_, where in lines} == {socket}
    assert {via for *_, via, _ in lines} <= ways
    assert answer.output.count("Loading safetensors using streamerd: 100% Completed") == 1
    assert not re.search("event=(missing_weights|vllm_lacks|stale_index)", answer.output)


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen3-moe"])
def test_the_models_are_worth_comparing(kind: str, model: Model, starts: Starts) -> None:
    reference = starts(Start(model(kind)))
    for tokens, logprobs in zip(reference.tokens, reference.prompt_logprobs, strict=True):
        assert len(set(tokens)) > len(tokens) / 2
        assert statistics.stdev(logprobs) > 1
        assert min(logprobs) < -math.log(258)


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen3-moe"])
def test_one_rank_unsharded(
    kind: str, model: Model, starts: Starts, counted_daemon: DaemonProcess
) -> None:
    before = counted_daemon.totals()["source_read_bytes"]
    answer = starts(Start(model(kind), "runai_streamer", environment=through(counted_daemon)))
    assert_same(answer, starts(Start(model(kind))))
    assert_loaded_through(counted_daemon.socket, answer, ranks=1)
    assert counted_daemon.totals()["source_read_bytes"] - before == checkpoint_bytes(model(kind))


def test_two_ranks_unsharded(model: Model, starts: Starts, daemon: DaemonProcess) -> None:
    answer = starts(
        Start(model("llama"), "runai_streamer", tensor_parallel_size=2, environment=through(daemon))
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))
    assert_loaded_through(daemon.socket, answer, ranks=2)


def test_two_ranks_sharded(
    default_shards: str, model: Model, starts: Starts, counted_daemon: DaemonProcess
) -> None:
    before = counted_daemon.totals()["source_read_bytes"]
    answer = starts(
        Start(
            default_shards,
            "runai_streamer_sharded",
            tensor_parallel_size=2,
            extra=ISSUE_OPTIONS,
            environment=through(counted_daemon),
        )
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))
    assert_loaded_through(counted_daemon.socket, answer, ranks=2)
    assert counted_daemon.totals()["source_read_bytes"] - before == checkpoint_bytes(default_shards)


def test_two_ranks_sharded_with_a_pattern(
    custom_shards: str, model: Model, starts: Starts, daemon: DaemonProcess
) -> None:
    answer = starts(
        Start(
            custom_shards,
            "runai_streamer_sharded",
            tensor_parallel_size=2,
            extra=(*ISSUE_OPTIONS, ("pattern", CUSTOM_PATTERN)),
            environment=through(daemon),
        )
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))
    assert_loaded_through(daemon.socket, answer, ranks=2)


def test_a_limit_of_an_eighth_of_the_checkpoint(
    model: Model, starts: Starts, small_daemon: DaemonProcess
) -> None:
    answer = starts(
        Start(
            model("llama"),
            "runai_streamer",
            extra=ISSUE_OPTIONS,
            environment=through(small_daemon),
        )
    )
    assert_same(answer, starts(Start(model("llama"))))
    assert_loaded_through(small_daemon.socket, answer, ranks=1)
    assert small_daemon.allocated_bytes() <= checkpoint_bytes(model("llama")) // 8


def assert_announced_once(socket: str, *answers: Answer) -> str:
    """Check that one rank alone said among vLLM's lines that it started the daemon.

    Returns:
        The text of the daemon's log, whose path that line names.
    """
    ((used, log),) = STARTED.findall("".join(answer.output for answer in answers))
    assert used == socket
    told = Path(log).read_text()
    assert "event=ready" in told
    return told


def test_a_daemon_that_auto_starts_serves_both_ranks(
    default_shards: str, model: Model, starts: Starts, own_daemon: OwnDaemon
) -> None:
    answer = starts(
        Start(
            default_shards,
            "runai_streamer_sharded",
            tensor_parallel_size=2,
            environment=own_daemon.environment,
            cold=True,
        )
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))
    assert_loaded_through(own_daemon.socket, answer, ranks=2, cached=True)
    assert_announced_once(own_daemon.socket, answer)
    # The daemon reads what came from the page cache once both ranks have loaded.
    size_bytes = checkpoint_bytes(default_shards)
    eventually(lambda: own_daemon.read_bytes() == size_bytes, deadline_s=60)
