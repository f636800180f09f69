"""`s3://bucket/key`, taken apart and put together. Pure.

Keys are taken literally, as the AWS command line does: a percent sign is a percent sign.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from streamer_client.contract.errors import ConfigError

_SCHEME: Final = re.compile(r"s3://", re.IGNORECASE)
# What buckets are called on AWS, and on stores that allow more (capitals, underscores).
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_EXPRESS: Final = "--x-s3"


@dataclass(frozen=True, slots=True)
class S3Uri:
    """An object, or with an empty key or one that ends in a slash, what lies under it."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}" if self.key else f"s3://{self.bucket}"

    @property
    def prefix(self) -> str:
        """What the keys under it begin with; empty for the whole bucket."""
        return f"{self.key.rstrip('/')}/" if self.key.strip("/") else ""

    def under(self, name: str) -> S3Uri:
        """The object of this name under it."""
        return S3Uri(self.bucket, self.prefix + name)

    def request_url(self, query: str = "") -> str:
        """As a request carries it until it is known which host serves it."""
        path = quote(self.key, safe="/~")
        return f"s3://{self.bucket}/{path}" + (f"?{query}" if query else "")


def s3_uri(text: str) -> S3Uri:
    """Parse a source or shard.

    Raises:
        ConfigError: it is not `s3://bucket/key`, or is of a kind that cannot be read.
    """
    scheme = _SCHEME.match(text)
    bucket, _, key = (text[scheme.end() :] if scheme else "").partition("/")
    if bucket.startswith("arn:"):
        raise ConfigError(f"{text}: access points are not known; give the bucket, or the alias")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{text}: {bucket!r} is no name of a bucket; write s3://bucket/path")
    if bucket.endswith(_EXPRESS):
        raise ConfigError(
            f"{text}: directory buckets (S3 Express) are not known; copy it to an ordinary bucket"
        )
    return S3Uri(bucket, key)


def requested(url: str) -> S3Uri:
    """The inverse of `request_url`, without its query."""
    parts = urlsplit(url)
    return S3Uri(parts.netloc, unquote(parts.path[1:]))
