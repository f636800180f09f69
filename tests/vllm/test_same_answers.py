"""The same tokens and log-probabilities as with `--load-format auto`, bit for bit."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import streamer_client
from tests.support.daemon import DaemonProcess
from tests.support.waiting import eventually
from tests.vllm.conftest import CUSTOM_PATTERN, checkpoint_bytes
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


def assert_announced_once(socket: str, answer: Answer) -> None:
    """Check that the one rank that started the daemon said so among vLLM's lines, with the path of
    the daemon's log.
    """
    ((used, log),) = STARTED.findall(answer.output)
    assert used == socket
    assert "event=ready" in Path(log).read_text()


@pytest.fixture
def runtime_directory() -> Iterator[Path]:
    """The folder of this user's own daemon; the fixture ends the daemon that was started there."""
    with tempfile.TemporaryDirectory(prefix="strd-") as directory:
        yield Path(directory)
        pid = _own_daemon(directory)["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), 15)


def _own_daemon(directory: str) -> dict[str, object]:
    with streamer_client.connect(f"{directory}/streamerd/control.sock") as client:
        return client.admin.status()


def test_a_daemon_that_auto_starts_serves_both_ranks(
    default_shards: str, model: Model, starts: Starts, runtime_directory: Path
) -> None:
    environment = (
        ("XDG_RUNTIME_DIR", str(runtime_directory)),
        ("STREAMERD_BLOCK_SIZE", "64KiB"),
        ("STREAMERD_MEMORY_LIMIT", "64MiB"),
    )
    answer = starts(
        Start(
            default_shards,
            "runai_streamer_sharded",
            tensor_parallel_size=2,
            environment=environment,
            cold=True,
        )
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))
    socket = f"{runtime_directory}/streamerd/control.sock"
    assert_loaded_through(socket, answer, ranks=2, cached=True)
    assert_announced_once(socket, answer)

    def read_bytes() -> int:
        totals = json.loads(json.dumps(_own_daemon(str(runtime_directory))["totals"]))
        return int(totals["source_read_bytes"])

    # What came from the page cache is brought in when both have loaded.
    eventually(lambda: read_bytes() == checkpoint_bytes(default_shards), deadline_s=60)
