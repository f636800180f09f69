"""The index beside a checkpoint's files, which tells the file of each tensor. Imports no vLLM.

Owns reading `model.safetensors.index.json`, from a directory or an object store, and the form of
the names in it. `choice.py`, or whoever opens the named files, finds out whether they exist.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamer_client.contract.errors import CorruptCheckpoint, SourceForbidden, SourceNotFound
from streamer_client.contract.uris import is_remote
from streamer_client.storage.contract import Storage, StoredShard
from streamer_client.storage.names import natural_key
from streamer_client.storage.registry import source_environment, storage_for

INDEX_NAME: Final = "model.safetensors.index.json"
MOST_BYTES: Final = 256 << 20
"""The longest index, which is read as a whole: it has room for more than a million names."""


@dataclass(frozen=True, slots=True)
class Index:
    """The content of an index."""

    uri: str
    owners: Mapping[str, str]
    """The file of each tensor, relative to the folder of the index, without `./`."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the index names, part-2 before part-10."""
        return tuple(sorted(set(self.owners.values()), key=natural_key))


def read_index(folder: str, name: str = INDEX_NAME) -> Index | None:
    """The index in a directory or under a prefix; None if there is none.

    Raises:
        CorruptCheckpoint: the index is malformed, or names a file outside of the folder.
        SourceError: the store does not answer.
    """
    content = _remote_content(folder, name) if is_remote(folder) else _content(folder, name)
    if content is None:
        return None
    uri = f"{folder.rstrip('/')}/{name}"
    owners = {tensor: _normal(file, uri) for tensor, file in _weight_map(content, uri).items()}
    return Index(uri, owners)


def read_small_file(folder: str, name: str) -> bytes | None:
    """The content of a file in a directory or under a prefix; None if the file is missing.

    Raises:
        CorruptCheckpoint: the file is larger than any such file can be.
        SourceError: the store does not answer.
    """
    return _remote_content(folder, name) if is_remote(folder) else _content(folder, name)


def _content(folder: str, name: str) -> bytes | None:
    try:
        with open(os.path.join(folder, name), "rb") as file:
            _check_size(file.name, os.fstat(file.fileno()).st_size)
            return file.read()
    except FileNotFoundError:
        return None


def _remote_content(prefix: str, name: str) -> bytes | None:
    storage = storage_for(prefix, source_environment(prefix, os.environ).resolved())
    try:
        (found,) = storage.list_shards(prefix, None, [name])
    except (SourceNotFound, SourceForbidden):
        return None  # without the right to list, missing files look forbidden
    return _object(storage, found)


def _object(storage: Storage, shard: StoredShard) -> bytes:
    _check_size(shard.uri, shard.size_bytes)
    reader = storage.open(shard)
    try:
        content = bytearray(shard.size_bytes)
        if content:
            reader.readinto(memoryview(content), 0)
        return bytes(content)
    finally:
        reader.close()


def _check_size(uri: str, size_bytes: int) -> None:
    if size_bytes > MOST_BYTES:
        raise CorruptCheckpoint(
            f"{uri}: it has {size_bytes} bytes, and {MOST_BYTES} is the most for a file of its "
            "kind; save or copy it again"
        )


def _weight_map(content: bytes, uri: str) -> dict[str, str]:
    """The file name of each tensor.

    Raises:
        CorruptCheckpoint: the content is no index.
    """
    try:
        weights = json.loads(content)["weight_map"]
        found = {str(name): str(file) for name, file in weights.items()}
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise _no_index(uri, repr(error)) from error
    if not found:
        raise _no_index(uri, "it is empty")
    return found


def _normal(file: str, uri: str) -> str:
    """The file's name without `./` and the like.

    Raises:
        CorruptCheckpoint: the name leads out of the checkpoint.
    """
    name = posixpath.normpath(file)
    if name.startswith(("/", "../")) or name in {"..", "."}:
        raise CorruptCheckpoint(
            f"{uri}: it names the file {file!r}, which is not below the index; save or copy the "
            "index again"
        )
    return name


def _no_index(uri: str, why: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{uri}: it has no object `weight_map` of tensor and file names ({why}); save or copy the "
        "index again"
    )
