"""Describes `gs://` to the registry."""

from __future__ import annotations

from typing import Final

from streamer_client.storage.contract import SourceKind
from streamer_client.storage.gs.environment import GsEnvironment
from streamer_client.storage.gs.storage import GsStorage
from streamer_client.storage.object_uri import without_user

KIND: Final = SourceKind(
    storage=GsStorage,
    environment=GsEnvironment,
    # The name of an object may have ? and = in it, so nothing after a ? is taken for a secret.
    public_uri=without_user,
    is_object_store=True,
)
