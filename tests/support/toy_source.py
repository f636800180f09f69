"""A kind of source in this one module: files in memory, under `toy://name/file`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from streamer_client.contract.errors import SourceChanged, SourceNotFound
from streamer_client.storage.contract import Arrived, SourceKind, StoredShard
from streamer_client.storage.object_uri import ObjectUri, split_uri
from streamer_client.storage.prefixes import ListedObject, Page, PrefixStorage

FILES: Final[dict[str, bytes]] = {}
"""The content of each file, by URI."""


class ToyReader:
    piece_bytes = 0
    retries = 0

    def __init__(self, shard: StoredShard) -> None:
        self._shard = shard

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        if _stored(self._shard.uri).identity != self._shard.identity:
            raise SourceChanged(f"{self._shard.uri}: changed; open the checkpoint again")
        target = buffer.cast("B")
        if start + len(target) > self._shard.size_bytes:
            raise ValueError(f"{self._shard.uri}: past its end")
        target[:] = FILES[self._shard.uri][start : start + len(target)]
        if arrived:
            arrived(target)
        return len(target)

    def close(self) -> None:
        """Do nothing: there is no descriptor."""


class ToyStorage(PrefixStorage):
    def uri(self, text: str) -> ObjectUri:
        return ObjectUri("toy", *split_uri(text, "toy"))

    def pages(self, uri: ObjectUri, *, deep: bool) -> Iterator[Page]:
        begin = str(uri.named(uri.prefix))
        names = [name.removeprefix(begin) for name in FILES if name.startswith(begin)]
        below = {name.partition("/")[0] + "/" for name in names if "/" in name}
        yield Page(
            tuple(ListedObject(uri.prefix + name) for name in names if deep or "/" not in name),
            () if deep else tuple(uri.prefix + name for name in below),
        )

    def look(self, uri: ObjectUri) -> StoredShard:
        return _stored(str(uri))

    def open(self, shard: StoredShard) -> ToyReader:
        try:
            found = _stored(shard.uri)
        except SourceNotFound as error:
            raise SourceChanged(f"{error}; open the checkpoint again") from error
        if found.identity != shard.identity:
            raise SourceChanged(f"{shard.uri}: changed; open the checkpoint again")
        return ToyReader(shard)


class ToyEnvironment:
    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def resolved(self) -> dict[str, str]:
        return {name: value for name, value in self._environ.items() if name == "TOY_TOKEN"}


def _stored(uri: str) -> StoredShard:
    if uri not in FILES:
        raise SourceNotFound(f"{uri}: does not exist")
    return StoredShard(uri, len(FILES[uri]), str(hash(FILES[uri])))


KIND: Final = SourceKind(
    storage=lambda _environment: ToyStorage(),
    environment=ToyEnvironment,
    public_uri=lambda uri: uri.partition("?")[0],
    is_object_store=True,
)
