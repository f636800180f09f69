"""Describes `az://` to the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer_client.storage.az.environment import AzEnvironment
from streamer_client.storage.contract import SourceKind, Storage
from streamer_client.storage.http.urls import shown
from streamer_client.storage.object_uri import without_user


def _storage(environment: Mapping[str, str]) -> Storage:
    from streamer_client.storage.az.storage import AzStorage  # noqa: PLC0415 - HTTP and TLS, 0.1 s

    return AzStorage(environment)


def _public_uri(uri: str) -> str:
    """The URI without credentials. It has no query, so a signature written there is hidden too."""
    return shown(without_user(uri))


KIND: Final = SourceKind(
    storage=_storage,
    environment=AzEnvironment,
    public_uri=_public_uri,
    late_modules=("streamer_client.storage.az.storage",),
    is_object_store=True,
)
