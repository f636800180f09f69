"""What operators do with what is in memory: evict, pin, unpin.

Runs in the daemon's loop, called by `requests.py`. Each answers with what was done, in words.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from streamer_client.contract.errors import MemoryLimitError, RequestRefused, SourceNotFound
from streamer_client.contract.uris import is_remote
from streamer_client.storage.local import local_path
from streamerd.service import Service
from streamerd.state import events
from streamerd.state.events import LoadKey
from streamerd.state.shard import Shard


class Cache:
    """The shards in memory, as operators name them: by source, or by file."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def shards_of(self, source: str) -> list[Shard]:
        """The shards directly under a directory or prefix, or the one that is named.

        Raises:
            SourceNotFound: nothing of it is in memory.
        """
        uri = _as_listed(source)
        found = [
            shard
            for shard in self._service.model.shards.values()
            if uri in (shard.key.uri, os.path.dirname(shard.key.uri))
        ]
        if not found:
            raise SourceNotFound(f"{source} is not in memory; `streamerctl status` lists what is")
        return found

    def evict(self, sources: tuple[str, ...], done: Callable[[str], None]) -> None:
        """Release the shards of `sources`; all that nobody keeps when there are none.

        Args:
            sources: directories, prefixes or files.
            done: called with what was released, once its memory is free.

        Raises:
            SourceNotFound: nothing of it is in memory.
            RequestRefused: somebody leases it, or it is pinned; the text says who.
        """
        if sources:
            shards = [shard for source in sources for shard in self.shards_of(source)]
            for shard in shards:
                self._refuse_if_kept(shard)
        else:
            known = self._service.model.shards.values()
            shards = [shard for shard in known if not shard.loads and not shard.pinned]
            self._service.failures.clear()
        size_bytes = sum(shard.resident_bytes for shard in shards)
        keys = tuple(shard.key for shard in shards)
        self._service.post(events.EvictRequested(self._service.now_s, keys))
        self._service.turn()
        told = f"{len(keys)} shards, {size_bytes} bytes released"
        self._service.when_gone(keys, lambda: done(told))

    def _refuse_if_kept(self, shard: Shard) -> None:
        if shard.loads:
            holders = sorted({self._holder(key) for key in shard.loads})
            raise RequestRefused(
                f"{shard.key.uri} is in use by {', '.join(holders)}; evict it when they are done"
            )
        if shard.pinned:
            raise RequestRefused(f"{shard.key.uri} is pinned; `streamerctl unpin` it first")

    def _holder(self, key: LoadKey) -> str:
        peer = self._service.peers.get(key.owner)
        if peer is None:
            return "a prefetch"
        return f"pid {peer.pid} ({peer.label})" if peer.label else f"pid {peer.pid}"

    def pin(self, source: str) -> str:
        """Keep a source until it is unpinned.

        Raises:
            SourceNotFound: nothing of it is in memory.
            MemoryLimitError: its room cannot be set aside.
        """
        shards = self.shards_of(source)
        keys = tuple(shard.key for shard in shards)
        self._service.post(events.PinRequested(self._service.now_s, keys))
        self._service.turn()
        if not all(shard.pinned for shard in shards):
            ledger = self._service.model.ledger
            raise MemoryLimitError(
                f"{source} needs {sum(shard.slab_bytes for shard in shards)} bytes set aside, and "
                f"{ledger.limit_bytes - ledger.committed_bytes} of {ledger.limit_bytes} are not "
                "promised to others (one smallest window stays free); unpin something else first"
            )
        return f"{len(shards)} shards pinned"

    def unpin(self, source: str) -> str:
        """Let a source be evicted again.

        Raises:
            SourceNotFound: nothing of it is in memory.
            RequestRefused: it is not pinned.
        """
        keys = tuple(shard.key for shard in self.shards_of(source) if shard.pinned)
        if not keys:
            raise RequestRefused(f"{source} is not pinned")
        self._service.post(events.UnpinRequested(self._service.now_s, keys))
        return f"{len(keys)} shards unpinned"


def _as_listed(source: str) -> str:
    """The source as the URIs of its shards begin."""
    if not is_remote(source):
        return local_path(source)
    scheme, _, path = source.partition("://")
    return f"{scheme.lower()}://{path.rstrip('/')}"
