"""Opens objects without a HEAD, if their identity already has all that a HEAD would tell.

Owns what happens when the store then serves another content than its listing told: one HEAD tells
which is right. Leaves reading to `reader.py`. Runs in the threads of workers and, without a daemon,
of the client.
"""

from __future__ import annotations

from streamer_client.contract.errors import SourceChanged, SourceError
from streamer_client.storage.contract import Arrived, StoredShard
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.engine import HttpEngine
from streamer_client.storage.http.proof import ObjectProof, proof_in
from streamer_client.storage.http.reader import ObjectReader, changed, look_at, unchanged
from streamer_client.storage.remembered import LISTINGS, place_of


def opened(
    engine: HttpEngine, request: Request, shard: StoredShard, kind: str, endpoint: str
) -> ObjectReader:
    """A reader of a shard; it sends a HEAD only if the identity has no strong ETag.

    With a strong ETag each GET carries `If-Match`, so that the first read notices a change.

    Args:
        engine: sends the requests.
        request: a HEAD of the object, not yet prepared.
        shard: the shard to read.
        kind: the kind of store, with which the identity begins.
        endpoint: the store's endpoint, which follows in the identity.

    Raises:
        SourceChanged: the HEAD found another object, or none.
        SourceError: the HEAD could not be answered.
    """
    proof = proof_in(shard.identity, kind, endpoint)
    if proof is None or proof.size_bytes != shard.size_bytes:
        proof = unchanged(engine, request, shard, kind, endpoint)
    elif not shard.looked_at:
        return ListedReader(engine, shard, request, proof)
    return ObjectReader(engine, shard, request, proof)


class ListedReader(ObjectReader):
    """Reads an object that is known only from a listing.

    Args:
        engine: sends the requests.
        shard: the shard to read.
        request: a HEAD of the object, not yet prepared, without conditions.
        proof: the proof that the listing gave.
    """

    def __init__(
        self, engine: HttpEngine, shard: StoredShard, request: Request, proof: ObjectProof
    ) -> None:
        super().__init__(engine, shard, request, proof)
        self._listed = shard
        self._head = request
        self._asks = engine

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        """Read as `ObjectReader.readinto` does; if the object seems changed, a HEAD tells how."""
        try:
            return super().readinto(buffer, start, arrived)
        except SourceChanged as error:
            truth = self._truth()
            if truth is None:
                raise
            raise truth from error

    def _truth(self) -> SourceChanged | None:
        """How a HEAD contradicts the listing; None if it does not."""
        shard = self._listed
        kind, _, endpoint = shard.identity.partition(" ")[0].partition(":")
        try:
            found = look_at(self._asks, self._head).proof.identity(kind, endpoint)
        except SourceError:
            return None
        if found == shard.identity:
            return None
        LISTINGS.learn(place_of(shard.identity, shard.uri), value=False)
        return changed(
            shard,
            f"listed as {shard.identity}, found {found}; should nothing have been written, then "
            "the store lists other ETags than it serves, and the next open looks at each object",
        )
