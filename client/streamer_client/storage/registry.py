"""Which storage reads a source: one line for each kind, by the scheme of its URI."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.contract import Storage
from streamer_client.storage.local import LocalStorage

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PATH: Final = ""

_STORAGES: Final[Mapping[str, Callable[[Mapping[str, str]], Storage]]] = {
    _PATH: lambda _environment: LocalStorage(),
    "file": lambda _environment: LocalStorage(),
}

_OBJECT_STORES: Final = frozenset({"s3", "gs", "az", "http", "https"})


def storage_for(uri: str, environment: Mapping[str, str]) -> Storage:
    """The storage that reads `uri`, a path or a URI.

    Args:
        uri: a source or a shard.
        environment: the variables of whoever asks that bear on reading (credentials, endpoint).

    Raises:
        ConfigError: no storage reads that kind; the text names the kinds that can be read.
    """
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else _PATH
    factory = _STORAGES.get(scheme)
    if factory is not None:
        return factory(environment)
    known = ", ".join(f"{name}://" for name in sorted(_STORAGES) if name)
    if scheme in _OBJECT_STORES:
        raise ConfigError(
            f"{uri}: this version reads local paths only (plain, or {known}), no object storage; "
            "copy the checkpoint to a local directory and give that"
        )
    raise ConfigError(f"{uri}: unknown kind of source {scheme}://; give a path, or {known}")
