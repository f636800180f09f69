"""Looks at an object without reading it: its size and what proves its content."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from streamer_client.contract.errors import SourceChanged, SourceError, SourceNotFound
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.http.content_range import range_header, total_size
from streamer_client.storage.http.engine import HttpEngine
from streamer_client.storage.http.messages import Request
from streamer_client.storage.http.proof import Proof, proof_of

_SILENT: Final = frozenset({400, 401, 403, 404, 405, 501})
"""Refusals of HEAD, which have no body: a GET of one byte tells what they mean, or passes.

It passes where only GET was signed, as with presigned URLs, or where a server knows no HEAD."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object that is there."""

    proof: Proof
    media_type: str


def probe(engine: HttpEngine, request: Request) -> Found:
    """What `request` (a HEAD) leads to.

    Raises:
        SourceNotFound: there is no such object.
        SourceForbidden: it may not be read.
        SourceError: the server does not say its size, or anything else went wrong.
    """
    answer = engine.ask(replace(request, method="HEAD"), unjudged=_SILENT)
    if answer.status in _SILENT:
        first_byte = {**request.headers, **range_header(0, 1)}
        answer = engine.ask(
            replace(request, method="GET", headers=first_byte),
            unjudged=frozenset({416}),
            limit_bytes=1,
        )
    size_bytes = total_size(answer.status, answer.headers)
    if size_bytes is None:
        raise SourceError(
            f"{request.about}: the server does not say how long it is (no Content-Length), so it "
            "cannot be read in blocks; serve it as a plain file"
        )
    return Found(
        proof_of(answer.headers, size_bytes), answer.headers.get("content-type", "").lower()
    )


def stored_shard(engine: HttpEngine, request: Request, kind: str, endpoint: str) -> StoredShard:
    """The object as a shard; its name is what `request` is about.

    Raises:
        SourceError: as `probe` says.
    """
    proof = probe(engine, request).proof
    identity = proof.identity(kind, endpoint)
    return StoredShard(request.about, proof.size_bytes, identity, validated=proof.lasting)


def unchanged(
    engine: HttpEngine, request: Request, shard: StoredShard, kind: str, endpoint: str
) -> Proof:
    """The proof of a shard that is still what it was when it was listed.

    Raises:
        SourceChanged: it is another one, or gone.
        SourceError: as `probe` says.
    """
    try:
        proof = probe(engine, request).proof
    except SourceNotFound as error:
        raise vanished(shard, error) from error
    found = proof.identity(kind, endpoint)
    if found != shard.identity:
        raise changed(shard, f"expected {shard.identity}, found {found}")
    return proof


def changed(shard: StoredShard, how: str) -> SourceChanged:
    """The error for an object that is not what it was when it was listed."""
    return SourceChanged(
        f"{shard.uri}: changed since the load began ({how}); "
        "open the checkpoint again when nothing writes to it"
    )


def vanished(shard: StoredShard, error: SourceNotFound) -> SourceChanged:
    """The error for an object that was there when it was listed."""
    told = str(error).removeprefix(f"{shard.uri}: ")
    return SourceChanged(
        f"{shard.uri}: vanished since the load began ({told}); "
        "open the checkpoint again once it is complete"
    )
