"""`gs://bucket/object`, and the URLs of the JSON API that lead to it. Pure.

An object's name is one segment of the path, with its slashes encoded like everything else:
https://cloud.google.com/storage/docs/request-endpoints#encoding
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.object_uri import ObjectUri, split_uri

SCHEME: Final = "gs"

# https://cloud.google.com/storage/docs/buckets#naming; a name with dots may have 222 characters.
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


def gs_uri(text: str) -> ObjectUri:
    """Parse a source or shard.

    Raises:
        ConfigError: the text is not `gs://bucket/object`.
    """
    bucket, key = split_uri(text, SCHEME)
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{text}: {bucket!r} is no name of a bucket; write gs://bucket/path")
    return ObjectUri(SCHEME, bucket, key)


def object_url(endpoint: str, uri: ObjectUri, query: Mapping[str, str]) -> str:
    """The URL of an object's metadata or, with `alt=media`, of its content."""
    return f"{objects_url(endpoint, uri)}/{quote(uri.key, safe='')}?{_encoded(query)}"


def listing_url(endpoint: str, uri: ObjectUri, query: Mapping[str, str]) -> str:
    """The URL at which a bucket's objects are listed."""
    return f"{objects_url(endpoint, uri)}?{_encoded(query)}"


def objects_url(endpoint: str, uri: ObjectUri) -> str:
    """The URL of a bucket's collection of objects."""
    return f"{endpoint}/storage/v1/b/{quote(uri.bucket, safe='')}/o"


def _encoded(query: Mapping[str, str]) -> str:
    return urlencode(query, quote_via=quote, safe="")
