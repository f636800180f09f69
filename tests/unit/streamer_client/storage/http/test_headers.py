"""Whether an answer's headers show that it has the requested bytes."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import SourceChanged, SourceError
from streamer_client.storage.http.headers import check_range, plain_body, range_header, total_size


def checked(status: int, start: int, stop: int, size: int, **headers: str) -> int:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return check_range("s3://b/k", status, given, start, stop, size)


def test_the_header_counts_its_last_byte_in() -> None:
    assert range_header(0, 1) == {"Range": "bytes=0-0"}
    assert range_header(8, 16) == {"Range": "bytes=8-15"}


@pytest.mark.parametrize("text", ["bytes 10-19/100", "bytes 10-19/*", "Bytes  10-19/100 "])
def test_the_range_asked_for(text: str) -> None:
    assert checked(206, 10, 20, 100, content_range=text) == 10


def test_a_server_may_send_less() -> None:
    assert checked(206, 10, 20, 100, content_range="bytes 10-14/100") == 5


@pytest.mark.parametrize(
    "text",
    [
        *("", "bytes 0-9/100", "bytes 11-19/100", "bytes 10-20/100", "bytes 10-9/100"),
        *("items 1-2/3", f"bytes 10-19/{'9' * 5000}"),
    ],
)
def test_another_range_is_no_change_but_an_error(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        checked(206, 10, 20, 100, content_range=text)
    assert not isinstance(caught.value, SourceChanged)
    assert str(caught.value).startswith("s3://b/k: ")


@pytest.mark.parametrize(
    ("status", "start", "stop", "headers"),
    [
        (206, 10, 20, {"content_range": "bytes 10-19/101"}),
        (200, 0, 100, {"content_length": "101"}),
        (200, 10, 20, {"content_length": "10"}),
    ],
)
def test_another_size_is_a_change(
    status: int, start: int, stop: int, headers: dict[str, str]
) -> None:
    with pytest.raises(SourceChanged, match="open the checkpoint again"):
        checked(status, start, stop, 100, **headers)


def test_everything_is_right_only_when_everything_was_asked_for() -> None:
    assert checked(200, 0, 100, 100, content_length="100") == 100
    assert checked(200, 0, 100, 100) == 100
    for start, stop in ((0, 99), (1, 100), (10, 20)):
        with pytest.raises(SourceError, match="honours Range"):
            checked(200, start, stop, 100, content_length="100")


def test_size_of_the_whole() -> None:
    assert total_size(200, {"content-length": "7"}) == 7
    assert total_size(200, {}) is None
    assert total_size(200, {"content-length": "x"}) is None
    assert total_size(206, {"content-range": "bytes 0-0/9", "content-length": "1"}) == 9
    assert total_size(206, {"content-range": "bytes 0-0/*", "content-length": "1"}) is None
    assert total_size(416, {"content-range": "bytes */0"}) == 0
    assert total_size(416, {}) is None


def test_a_size_of_any_number_of_digits_is_no_failure_of_the_parser() -> None:
    long = "9" * 5000
    assert total_size(200, {"content-length": long}) is None
    assert total_size(206, {"content-range": f"bytes 0-0/{long}"}) is None
    assert total_size(416, {"content-range": f"bytes */{long}"}) is None


QUIET = ("", "identity", "utf-8", "UTF-8", "utf8", "aws-chunked", "aws-chunked, identity")


@pytest.mark.parametrize("encoding", QUIET)
def test_values_that_say_nothing_of_the_bytes(encoding: str) -> None:
    plain_body("s3://b/k", {"content-encoding": encoding} if encoding else {})


@pytest.mark.parametrize("encoding", ["gzip", "br", "aws-chunked,gzip", "identity, zstd", "x"])
def test_packed_bodies_are_refused(encoding: str) -> None:
    with pytest.raises(SourceError, match=f"^s3://b/k: is sent with Content-Encoding {encoding}"):
        plain_body("s3://b/k", {"content-encoding": encoding})
