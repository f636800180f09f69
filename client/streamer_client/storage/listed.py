"""What a listing tells of an object, and which listings are not to be believed.

Most stores list the ETag and the size that a HEAD would tell, so that no object needs a HEAD of its
own. Some list others than they serve. Where that was seen, each object is looked at, until a whole
listing agreed with its objects again. Owns that memory, one for each process. Thread-safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streamer_client.storage.remembered import Remembered

MAX_PLACES: Final = 256


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One entry of a listing."""

    key: str
    size_bytes: int = 0
    identity: str = ""
    """What a HEAD would make the object's identity; empty where the listing does not prove it."""


class Doubts:
    """Places whose listings told something else than their objects did."""

    def __init__(self) -> None:
        self._places: Remembered[str, bool] = Remembered(MAX_PLACES)

    def __contains__(self, place: str) -> bool:
        return bool(self._places.get(place))

    def add(self, place: str) -> None:
        """A listing of this place was wrong."""
        self._places.learn(place, value=True)

    def remove(self, place: str) -> None:
        """A whole listing of this place was right."""
        self._places.forget(place)


DOUBTED: Final = Doubts()
"""What this process has seen; storages are made anew for each request."""


def place_of(identity: str, uri: str) -> str:
    """The endpoint and the bucket of an object: what one listing has in common with the next."""
    scheme, _, path = uri.partition("://")
    return f"{identity.partition(' ')[0]} {scheme}://{path.partition('/')[0]}"
