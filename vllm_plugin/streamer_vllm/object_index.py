"""Which objects a model's weights are in, by the index beside them.

What vLLM does for local files, for an object-store prefix: files that the index does not name, such
as a consolidated copy of all weights, are left out. Free of vLLM.
"""

from __future__ import annotations

import json
import os

from streamer_client.contract.errors import CorruptCheckpoint, SourceNotFound
from streamer_client.storage.contract import Storage, StoredShard
from streamer_client.storage.names import DEFAULT_PATTERN, natural_key, select, told
from streamer_client.storage.registry import caller_environment, storage_for


def needed_objects(prefix: str, index_name: str) -> list[str] | None:
    """Names under `prefix` of the safetensors objects to read.

    Returns:
        None where there is no index, so that all are to be read.

    Raises:
        SourceNotFound: nothing is there, or the index names an object that is not.
        CorruptCheckpoint: the index is malformed.
        SourceError: the store cannot be listed or read.
    """
    storage = storage_for(prefix, caller_environment(prefix, os.environ).variables())
    base = prefix.rstrip("/") + "/"
    found = {shard.uri.removeprefix(base): shard for shard in storage.list_all(prefix)}
    index = found.get(index_name)
    if index is None:
        return None
    named = set(_weight_map(_content(storage, index), index.uri).values())
    missing = sorted(named - set(found), key=natural_key)
    if missing:
        raise SourceNotFound(
            f"{prefix} lacks {told(missing)}, which its {index_name} names; is the checkpoint "
            "complete, and the index its own?"
        )
    return [name for name in select(found, DEFAULT_PATTERN) if name in named]


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
        index = json.loads(content)
        weights = index["weight_map"]
        return {str(name): str(file) for name, file in weights.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(
            f"{uri}: it has no object `weight_map` of tensor and file names ({error!r}); "
            "save or copy the index again"
        ) from error
