"""Describes `http://` and `https://` to the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer_client.storage.contract import SourceKind, Storage
from streamer_client.storage.http.urls import without_secrets
from streamer_client.storage.web.environment import WebEnvironment


def _storage(environment: Mapping[str, str]) -> Storage:
    from streamer_client.storage.web.storage import WebStorage  # noqa: PLC0415 - HTTP and TLS, 0.1 s

    return WebStorage(environment)


KIND: Final = SourceKind(
    storage=_storage,
    environment=WebEnvironment,
    public_uri=without_secrets,
    late_modules=("streamer_client.storage.web.storage",),
)
