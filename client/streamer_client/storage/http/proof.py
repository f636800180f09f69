"""What proves an object's content: taken from an answer's headers, compared with others'. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_VERSION_HEADERS: Final = ("x-amz-version-id", "x-goog-generation", "x-ms-version-id")
_NO_VERSION: Final = ("", "null")


@dataclass(frozen=True, slots=True)
class Proof:
    """An object's content as its store names it."""

    size_bytes: int
    etag: str = ""
    """As sent, with its quotes."""
    modified: str = ""
    version: str = ""

    @property
    def strong(self) -> bool:
        """Whether equal ETags mean equal bytes (RFC 9110, section 8.8.1)."""
        return bool(self.etag) and not self.etag.startswith("W/")

    @property
    def proves(self) -> bool:
        """Whether there is anything to compare but the size."""
        return bool(self.etag or self.modified)

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


def proof_of(headers: Mapping[str, str], size_bytes: int) -> Proof:
    """The proof that an answer's headers give.

    Args:
        headers: names in lower case.
        size_bytes: of the whole object.
    """
    versions = (headers.get(name, "") for name in _VERSION_HEADERS)
    return Proof(
        size_bytes,
        headers.get("etag", ""),
        headers.get("last-modified", ""),
        next((version for version in versions if version not in _NO_VERSION), ""),
    )


def _bare(etag: str) -> str:
    """A store behind a compressing proxy sends `W/"x"` or `"x-gzip"`; some send no quotes."""
    return etag.removeprefix("W/").strip('"')
