"""If a listing does not exist, the bucket is missing, in every object store."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from streamer_client.contract.errors import SourceNotFound, error_from_code
from streamer_client.storage.contract import BucketNotFound, Storage
from streamer_client.storage.http.dialect import Answer, Request
from streamer_client.storage.http.engine import HttpEngine
from streamer_client.storage.registry import object_store_schemes, storage_for

ENVIRONMENT: Mapping[str, str] = {"AZURE_STORAGE_ENDPOINT": "https://account.blob.core.windows.net"}


def listed(storage: Storage, source: str) -> None:
    storage.list_shards(source, None, None)


def listed_all(storage: Storage, source: str) -> None:
    storage.list_all(source)


def missing(_engine: HttpEngine, request: Request, **_options: object) -> Answer:
    raise SourceNotFound(f"{request.about}: does not exist: HTTP 404")


@pytest.mark.parametrize("scheme", object_store_schemes())
@pytest.mark.parametrize("listing", [listed, listed_all])
def test_a_missing_bucket_has_an_error_of_its_own(
    scheme: str, listing: Callable[[Storage, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpEngine, "ask", missing)
    source = f"{scheme}://no-such-bucket/m"
    with pytest.raises(BucketNotFound, match=f"^{source}: does not exist") as caught:
        listing(storage_for(source, ENVIRONMENT), source)
    assert isinstance(error_from_code(caught.value.code, "told"), SourceNotFound)


@pytest.mark.parametrize("scheme", object_store_schemes())
def test_a_missing_object_is_another_error(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpEngine, "ask", missing)
    source = f"{scheme}://bucket/m"
    with pytest.raises(SourceNotFound) as caught:
        storage_for(source, ENVIRONMENT).list_shards(source, None, ["m.safetensors"])
    assert not isinstance(caught.value, BucketNotFound)
