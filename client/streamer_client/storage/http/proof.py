"""What proves an object's content: taken from an answer's headers, compared with others'. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamer_client.storage.http.headers import date_of

_VERSION_HEADERS: Final = ("x-amz-version-id", "x-goog-generation", "x-ms-version-id")
_NO_VERSION: Final = ("", "null")

SETTLED_S: Final = 60.0
"""A date has whole seconds, so two contents that were written in one second have the same date.
Where an answer's own Date is later by this much, that second has passed on any clock, and contents
that are written later have another date (RFC 9110, section 8.8.2.2; the minute is RFC 7232's)."""


@dataclass(frozen=True, slots=True)
class ObjectProof:
    """An object's content as its store names it."""

    size_bytes: int
    etag: str = ""
    """As sent, with its quotes."""
    modified: str = ""
    version: str = ""
    settled: bool = False
    """Whether `modified` was `SETTLED_S` ago or more when the server sent it."""

    @property
    def strong(self) -> bool:
        """Whether equal ETags mean equal bytes (RFC 9110, section 8.8.1)."""
        return bool(self.etag) and not self.etag.startswith("W/")

    @property
    def proves(self) -> bool:
        """Whether there is anything to compare but the size."""
        return bool(self.etag or self.modified or self.version)

    @property
    def lasting(self) -> bool:
        """Whether an equal proof means equal bytes, so that another load may get what is in memory.

        A strong ETag or a version does; a date once it is settled. A weak ETag alone does not: it
        says that contents mean the same, not that they are.
        """
        return self.strong or bool(self.version) or (bool(self.modified) and self.settled)

    def conditions(self) -> dict[str, str]:
        """Headers that make the server refuse (412) when the object is another one by now."""
        if self.strong:
            return {"If-Match": self.etag}
        return {"If-Unmodified-Since": self.modified} if self.modified else {}

    def difference(self, headers: Mapping[str, str]) -> str:
        """How an answer's headers contradict this proof; empty if they do not.

        Servers exist that ignore conditions, so each answer is looked at.
        """
        found = proof_of(headers, self.size_bytes)
        if self.etag and found.etag and _bare(self.etag) != _bare(found.etag):
            return f"expected ETag {self.etag}, found {found.etag}"
        if self.version and found.version and self.version != found.version:
            return f"expected version {self.version}, found {found.version}"
        if not self.strong and self.modified and found.modified not in ("", self.modified):
            return f"expected to be of {self.modified}, found of {found.modified}"
        return ""

    def identity(self, kind: str, endpoint: str) -> str:
        """The text that stands for this content in a `StoredShard`."""
        told = self.etag if self.strong else f"{self.modified} {self.etag}".rstrip()
        return f"{kind}:{endpoint} {self.size_bytes} {self.version or '-'} {told}"


def proof_of(headers: Mapping[str, str], size_bytes: int) -> ObjectProof:
    """The proof that an answer's headers give.

    Args:
        headers: names in lower case.
        size_bytes: of the whole object.
    """
    versions = (headers.get(name, "") for name in _VERSION_HEADERS)
    modified = headers.get("last-modified", "")
    return ObjectProof(
        size_bytes,
        headers.get("etag", ""),
        modified,
        next((version for version in versions if version not in _NO_VERSION), ""),
        settled=_settled(modified, headers.get("date", "")),
    )


def _settled(modified: str, now: str) -> bool:
    then, told = date_of(modified), date_of(now)
    if then is None or told is None:
        return False
    return (told - then).total_seconds() >= SETTLED_S


def _bare(etag: str) -> str:
    """The ETag without the `W/` that a proxy may add and the quotes that some stores omit."""
    return etag.removeprefix("W/").strip('"')
