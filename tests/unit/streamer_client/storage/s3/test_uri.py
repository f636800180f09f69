"""s3:// URIs."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.s3.uri import request_url, requested, s3_uri


@pytest.mark.parametrize(
    ("text", "bucket", "key", "prefix"),
    [
        ("s3://bucket", "bucket", "", ""),
        ("s3://bucket/", "bucket", "", ""),
        ("S3://bucket/m", "bucket", "m", "m/"),
        ("s3://bucket/m/", "bucket", "m/", "m/"),
        ("s3://bucket/m//", "bucket", "m//", "m/"),
        ("s3://bucket/a b%20c+d?e#f", "bucket", "a b%20c+d?e#f", "a b%20c+d?e#f/"),
        ("s3://My_Bucket.1/x", "My_Bucket.1", "x", "x/"),
    ],
)
def test_parts(text: str, bucket: str, key: str, prefix: str) -> None:
    uri = s3_uri(text)
    assert (uri.bucket, uri.key, uri.prefix) == (bucket, key, prefix)
    assert s3_uri(str(uri)) == uri


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("s3://", "no name of a bucket"),
        ("s3:///key", "no name of a bucket"),
        ("s3://a/key", "no name of a bucket"),
        ("s3://-ab/key", "no name of a bucket"),
        ("s3://user:p@bucket/key", "credentials have no place"),
        ("/bucket/key", "no name of a bucket"),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/x", "access points"),
        ("s3://fast--use1-az4--x-s3/key", "S3 Express"),
    ],
)
def test_what_cannot_be_read(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        s3_uri(text)


@pytest.mark.parametrize(
    "key", ["", "a/b", "a b+c%20", "ü/模", "//a//", "q?x=1&y", "a#b", "./../x"]
)
def test_a_request_carries_any_key(key: str) -> None:
    uri = s3_uri(f"s3://bucket/{key}")
    assert requested(request_url(uri, "list-type=2&x=%2F")) == uri
    assert requested(request_url(uri)) == uri


def test_names_under_it() -> None:
    assert str(s3_uri("s3://bucket/m").under("a.st")) == "s3://bucket/m/a.st"
    assert str(s3_uri("s3://bucket/").under("a.st")) == "s3://bucket/a.st"
