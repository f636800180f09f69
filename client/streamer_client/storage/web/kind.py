"""Describes `http://` and `https://` to the registry."""

from __future__ import annotations

from typing import Final

from streamer_client.storage.contract import SourceKind
from streamer_client.storage.http.urls import without_secrets
from streamer_client.storage.web.environment import WebEnvironment
from streamer_client.storage.web.storage import WebStorage

KIND: Final = SourceKind(storage=WebStorage, environment=WebEnvironment, public_uri=without_secrets)
