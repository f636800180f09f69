"""A store whose listing of one prefix has as many keys, and such keys, as a test says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs, urlsplit

from tests.support.fault_proxy import Asked, Backend, Reply

PAGE_KEYS: Final = 1000
ENDLESS: Final = 1 << 60
"""So many keys that pages of one key each never end."""


class LongListing:
    """A backend of a `FaultProxy`; another backend has the objects.

    Args:
        objects: the backend that answers everything but listings.
        prefix: the listed prefix.
        others: how many keys belong to no checkpoint; they come first.
        keys: the last keys, percent-encoded as in a listing.
    """

    def __init__(self, objects: Backend, prefix: str, others: int, keys: Sequence[str]) -> None:
        self._objects = objects
        self._prefix = prefix
        self._others = others
        self._keys = keys

    def answer(self, asked: Asked) -> Reply:
        query = parse_qs(urlsplit(asked.target).query)
        if "list-type" not in query:
            return self._objects.answer(asked)
        first = int(query.get("continuation-token", ["0"])[0])
        stop = min(
            first + (1 if self._others == ENDLESS else PAGE_KEYS), self._others + len(self._keys)
        )
        text = "".join(
            f"<Contents><Key>{self._prefix}/{self._key(place)}</Key><Size>1000</Size></Contents>"
            for place in range(first, stop)
        )
        more = stop < self._others + len(self._keys)
        text += f"<IsTruncated>{str(more).lower()}</IsTruncated><EncodingType>url</EncodingType>"
        if more:
            text += f"<NextContinuationToken>{stop}</NextContinuationToken>"
        body = f"<ListBucketResult>{text}</ListBucketResult>"
        return Reply(200, {"Content-Type": "application/xml"}, body.encode())

    def _key(self, place: int) -> str:
        if place < self._others:
            return f"note-{place:06d}.txt"
        return self._keys[place - self._others]
