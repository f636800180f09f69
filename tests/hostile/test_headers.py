"""Ten thousand headers: each is refused as corrupt, or read as the safetensors package reads it."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.hostile.judging import Calls, judge_file
from tests.hostile.mutations import files
from tests.support.safetensors_files import built, field, with_length

FILES = 10_000


def test_random_and_mutated_headers() -> None:
    passed = sum(map(judge_file, islice(files(1), FILES)))
    assert 0.1 * FILES < passed < 0.8 * FILES, "headers that are all wrong, or right, show little"


@pytest.mark.parametrize(
    "file",
    [
        built({"a": field("U8", [2**64 - 1] * 10_000, 0, 1)}, 1),
        built({"a": field("U8", [0] * 10_000, 0, 0)}, 0),
        built({str(n): 0 for n in range(10_000)}, 0),
        built({"__metadata__": {str(n): "" for n in range(10_000)}}, 0),
        with_length(b"{" * 100_000),
        with_length(b'{"a":' * 100_000),
        with_length(b'{"a},":0,' * 10_000),
        with_length(b'{"' + b"\\" * 100_000 + b'":0}'),
        with_length(b'{"' + b'\\"},' * 50_000 + b'":0}'),
        with_length(b" " * 100_000),
        with_length(b'{"a":{"dtype":"' + b"U" * 100_000 + b'","shape":[],"data_offsets":[0,0]}}'),
        with_length(b'{"a":{"dtype":"U8","shape":[' + b"9" * 100_000 + b'],"data_offsets":[0,0]}}'),
        with_length(b'{"a":{"dtype":"U8","shape":[]' + b',"shape":[]' * 10_000 + b"}}"),
    ],
    ids=range(13),
)
def test_headers_that_would_take_long(file: bytes) -> None:
    judge_file(file)


def test_calls_are_counted() -> None:
    counted = Calls()
    with counted:
        for _ in range(5):
            len("")
    assert 5 <= counted.number <= 7
