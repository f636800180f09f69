"""`s3://bucket/key`, parsed and formatted. Pure.

Keys are taken literally, as the AWS command line does: a percent sign is a percent sign.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.object_uri import ObjectUri, split_uri

SCHEME: Final = "s3"
# This matches bucket names of AWS, and of stores that allow more (capitals, underscores).
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_EXPRESS: Final = "--x-s3"


def s3_uri(text: str) -> ObjectUri:
    """Parse a source or shard.

    Raises:
        ConfigError: the text is not `s3://bucket/key`, or names a kind of bucket that cannot be
            read.
    """
    bucket, key = split_uri(text, SCHEME)
    if bucket.startswith("arn:"):
        raise ConfigError(f"{text}: access points are not supported; give the bucket or the alias")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{text}: {bucket!r} is no name of a bucket; write s3://bucket/path")
    if bucket.endswith(_EXPRESS):
        raise ConfigError(
            f"{text}: directory buckets (S3 Express) are not supported; copy the checkpoint to an "
            "ordinary bucket"
        )
    return ObjectUri(SCHEME, bucket, key)


def request_url(uri: ObjectUri, query: str = "") -> str:
    """The URL of a request, in which `S3Dialect.prepared` will replace `s3://` by the host."""
    path = quote(uri.key, safe="/~")
    return f"{SCHEME}://{uri.bucket}/{path}" + (f"?{query}" if query else "")


def requested(url: str) -> ObjectUri:
    """The inverse of `request_url`, without its query."""
    parts = urlsplit(url)
    return ObjectUri(SCHEME, parts.netloc, unquote(parts.path[1:]))
