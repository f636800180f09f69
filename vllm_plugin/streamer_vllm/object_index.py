"""Which objects a model's weights are in, by the index beside them.

What vLLM does for local files, for an object-store prefix: files that the index does not name, such
as a consolidated copy of all weights, are left out. Free of vLLM.
"""

from __future__ import annotations

import json
import os

from streamer_client.contract.errors import CorruptCheckpoint, SourceForbidden, SourceNotFound
from streamer_client.storage.contract import Storage, StoredShard
from streamer_client.storage.names import natural_key
from streamer_client.storage.registry import source_environment, storage_for


def needed_objects(prefix: str, index_name: str) -> list[str] | None:
    """Names under `prefix` of the objects to read, part-2 before part-10.

    Whether they are there is left to whoever opens them, who asks the store anyway.

    Returns:
        None where there is no index, so that all safetensors objects are to be read.

    Raises:
        CorruptCheckpoint: the index is malformed.
        SourceError: the store does not answer.
    """
    storage = storage_for(prefix, source_environment(prefix, os.environ).resolved())
    try:
        (index,) = storage.list_shards(prefix, None, [index_name])
    except (SourceNotFound, SourceForbidden):
        return None  # who may not list is told the latter of what is not there
    weights = _weight_map(_content(storage, index), index.uri)
    return sorted(set(weights.values()), key=natural_key)


def _content(storage: Storage, shard: StoredShard) -> bytes:
    reader = storage.open(shard)
    try:
        content = bytearray(shard.size_bytes)
        if content:
            reader.readinto(memoryview(content), 0)
        return bytes(content)
    finally:
        reader.close()


def _weight_map(content: bytes, uri: str) -> dict[str, str]:
    """Tensor to file name.

    Raises:
        CorruptCheckpoint: it is no index.
    """
    try:
        weights = json.loads(content)["weight_map"]
        found = {str(name): str(file) for name, file in weights.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _no_index(uri, repr(error)) from error
    if not found:
        raise _no_index(uri, "it is empty")
    return found


def _no_index(uri: str, why: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{uri}: it has no object `weight_map` of tensor and file names ({why}); save or copy the "
        "index again"
    )
