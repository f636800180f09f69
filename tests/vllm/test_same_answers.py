"""The same tokens and prompt log-probabilities as with `--load-format auto`, bit for bit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest

from tests.vllm.conftest import CUSTOM_PATTERN
from tests.vllm.starts import Answer, Start, Starts

ISSUE_OPTIONS = (("concurrency", 16), ("memory_limit", 5368709120))
DIRECT = (("STREAMERD_MODE", "direct"),)

Model = Callable[[str], str]


def assert_same(answer: Answer, reference: Answer) -> None:
    assert answer.tokens == reference.tokens
    assert answer.prompt_logprobs == reference.prompt_logprobs
    assert answer.digests == reference.digests


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen3-moe"])
def test_the_models_are_worth_comparing(kind: str, model: Model, starts: Starts) -> None:
    reference = starts(Start(model(kind)))
    for tokens, logprobs in zip(reference.tokens, reference.prompt_logprobs, strict=True):
        assert len(set(tokens)) > len(tokens) / 3
        assert statistics.stdev(logprobs) > 0.5
        assert min(logprobs) < -math.log(258)


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen3-moe"])
def test_one_rank_unsharded(kind: str, model: Model, starts: Starts) -> None:
    answer = starts(Start(model(kind), "runai_streamer", environment=DIRECT))
    assert_same(answer, starts(Start(model(kind))))


def test_two_ranks_unsharded(model: Model, starts: Starts) -> None:
    answer = starts(
        Start(model("llama"), "runai_streamer", tensor_parallel_size=2, environment=DIRECT)
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))


def test_two_ranks_sharded(default_shards: str, model: Model, starts: Starts) -> None:
    answer = starts(
        Start(
            default_shards,
            "runai_streamer_sharded",
            tensor_parallel_size=2,
            extra=ISSUE_OPTIONS,
            environment=DIRECT,
        )
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))


def test_two_ranks_sharded_with_a_pattern(custom_shards: str, model: Model, starts: Starts) -> None:
    answer = starts(
        Start(
            custom_shards,
            "runai_streamer_sharded",
            tensor_parallel_size=2,
            extra=(*ISSUE_OPTIONS, ("pattern", CUSTOM_PATTERN)),
            environment=DIRECT,
        )
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))
