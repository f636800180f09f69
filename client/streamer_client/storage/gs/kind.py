"""Describes `gs://` to the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer_client.storage.contract import SourceKind, Storage
from streamer_client.storage.gs.environment import GsEnvironment
from streamer_client.storage.object_uri import without_user


def _storage(environment: Mapping[str, str]) -> Storage:
    from streamer_client.storage.gs.storage import GsStorage  # noqa: PLC0415 - HTTP and TLS, 0.1 s

    return GsStorage(environment)


KIND: Final = SourceKind(
    storage=_storage,
    environment=GsEnvironment,
    # An object's name may have ? and = in it, so no text after a ? is taken for a secret.
    public_uri=without_user,
    late_modules=("streamer_client.storage.gs.storage",),
    is_object_store=True,
)
