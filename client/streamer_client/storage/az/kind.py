"""Describes `az://` to the registry."""

from __future__ import annotations

from typing import Final

from streamer_client.storage.az.environment import AzEnvironment
from streamer_client.storage.az.storage import AzStorage
from streamer_client.storage.contract import SourceKind
from streamer_client.storage.http.urls import shown
from streamer_client.storage.object_uri import without_user


def _public_uri(uri: str) -> str:
    """The URI without credentials. It has no query, so a signature written there is hidden too."""
    return shown(without_user(uri))


KIND: Final = SourceKind(
    storage=AzStorage,
    environment=AzEnvironment,
    public_uri=_public_uri,
    is_object_store=True,
)
