"""Which storage a source gets."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.local import LocalStorage
from streamer_client.storage.registry import storage_for
from streamer_client.storage.s3.storage import S3Storage


@pytest.mark.parametrize("uri", ["/m", "m", "./m", "file:///m", "FILE:///m", "C:/m", "a:b//c"])
def test_local(uri: str) -> None:
    assert isinstance(storage_for(uri, {}), LocalStorage)


@pytest.mark.parametrize("uri", ["s3://bucket/k", "S3://bucket"])
def test_s3(uri: str) -> None:
    assert isinstance(storage_for(uri, {}), S3Storage)


@pytest.mark.parametrize("uri", ["gs://b/k", "az://c/k", "https://h/k"])
def test_object_stores_are_refused_in_plain_words(uri: str) -> None:
    with pytest.raises(ConfigError, match="local paths only") as caught:
        storage_for(uri, {})
    assert str(caught.value).startswith(uri)


def test_an_unknown_scheme_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"ftp://.*file://"):
        storage_for("ftp://h/m", {})
