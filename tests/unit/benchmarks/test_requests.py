"""The requests that the benchmark's server got."""

from __future__ import annotations

import pytest
from benchmarks.objects.requests import Asked, parsed, summed

LINES = (
    'GET 200 900 1000.500 0.500 "-" /.listings/objects-1.xml\n',
    'HEAD 200 0 1001.000 0.000 "-" /objects-1/model/a b.safetensors\n',
    'GET 206 8 1002.500 0.250 "bytes=0-7" /objects-1/model/a b.safetensors\n',
    'GET 200 20 1002.750 0.750 "-" /objects-1/model/c.safetensors\n',
    'GET 416 190 1003.000 0.000 "bytes=90-99" /objects-1/model/c.safetensors\n',
)


def get(uri: str, start: int, stop: int) -> Asked:
    return Asked("get", uri, 0.0, stop - start, start, stop)


def test_requests_are_counted_by_kind() -> None:
    found = summed(parsed(LINES))

    assert (found.gets, found.heads, found.listings, found.refused) == (2, 1, 1, 1)
    assert found.body_bytes == 28


def test_the_first_get_is_the_one_that_came_first_whichever_ended_first() -> None:
    assert summed(parsed(LINES)).first_get_s == 1002.0
    assert summed(parsed(LINES[:2])).first_get_s is None


def test_a_line_tells_the_bytes_that_were_asked_for() -> None:
    ranged, whole = list(parsed(LINES))[2:4]

    assert (ranged.start, ranged.stop) == (0, 8)
    assert (whole.start, whole.stop) == (0, 20)


def test_a_line_that_is_none_of_ours_is_no_request() -> None:
    with pytest.raises(ValueError, match="not a line of this server's log"):
        list(parsed(["something else\n"]))


@pytest.mark.parametrize(
    ("asked", "again_bytes"),
    [
        ([get("a", 8, 16), get("a", 0, 8)], 0),
        ([get("a", 0, 8), get("b", 0, 8)], 0),
        ([get("a", 0, 8), get("a", 0, 8)], 8),
        ([get("a", 0, 8), get("a", 6, 12)], 2),
        ([get("a", 0, 16), get("a", 4, 8), get("a", 12, 20)], 8),
        ([get("a", 0, 8)] * 3, 16),
    ],
)
def test_bytes_that_were_asked_for_again(asked: list[Asked], again_bytes: int) -> None:
    assert summed(asked).again_bytes == again_bytes
