"""`az://container/blob`, and the URLs that lead to it. Pure.

The account is no part of the URI: variables name the account, as for Run:ai's streamer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.urls import shown
from streamer_client.storage.object_uri import ObjectUri, split_uri

SCHEME: Final = "az"

# https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
_CONTAINER: Final = re.compile(r"\$(?:root|web)|[a-z0-9](?:-?[a-z0-9]){2,62}")
_SIGNED: Final = re.compile(r"[?&]sig=")


def az_uri(text: str) -> ObjectUri:
    """Parse a source or shard.

    Raises:
        ConfigError: the text is not `az://container/blob`, or holds a signature, which would be
            shown.
    """
    container, key = split_uri(text, SCHEME)
    if _SIGNED.search(key):
        raise ConfigError(
            f"{shown(text)}: a signature has no place in an az:// URI; set "
            "AZURE_STORAGE_SAS_TOKEN to what follows the question mark"
        )
    if not _CONTAINER.fullmatch(container):
        raise ConfigError(
            f"{shown(text)}: {container!r} is no name of a container; write az://container/path, "
            "and the account in AZURE_STORAGE_ACCOUNT_NAME"
        )
    return ObjectUri(SCHEME, container, key)


def blob_url(endpoint: str, uri: ObjectUri) -> str:
    """The URL of a blob."""
    return f"{endpoint}/{quote(uri.bucket)}/{quote(uri.key, safe='/~')}"


def listing_url(endpoint: str, uri: ObjectUri, query: Mapping[str, str]) -> str:
    """The URL at which a container's blobs are listed."""
    return f"{endpoint}/{quote(uri.bucket)}?{urlencode(query, quote_via=quote, safe='')}"
