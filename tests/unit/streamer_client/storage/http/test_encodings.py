"""Which values of Content-Encoding change a body's bytes."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import SourceError
from streamer_client.storage.http.connection import plain_body

QUIET = ("", "identity", "utf-8", "UTF-8", "utf8", "aws-chunked", "aws-chunked, identity")


@pytest.mark.parametrize("encoding", QUIET)
def test_values_that_say_nothing_of_the_bytes(encoding: str) -> None:
    plain_body("s3://b/k", {"content-encoding": encoding} if encoding else {})


@pytest.mark.parametrize("encoding", ["gzip", "br", "aws-chunked,gzip", "identity, zstd", "x"])
def test_packed_bodies_are_refused(encoding: str) -> None:
    with pytest.raises(SourceError, match=f"^s3://b/k: is sent with Content-Encoding {encoding}"):
        plain_body("s3://b/k", {"content-encoding": encoding})
