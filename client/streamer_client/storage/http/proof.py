"""Proofs of an object's content, taken from an answer's headers and compared with others. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamer_client.storage.http.headers import date_of

_VERSION_HEADERS: Final = ("x-amz-version-id", "x-goog-generation", "x-ms-version-id")
_NO_VERSION: Final = ("", "null")
_NOT_STRONG: Final = "~"
"""Stands in an identity in place of `-` if a date or a weak ETag follows, not a strong ETag."""
_QUOTED: Final = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')
"""An opaque tag, as defined by RFC 9110, section 8.8.3."""
_BARE: Final = re.compile(r"[\x21\x23-\x7e\x80-\xff]+")
_SIZE: Final = re.compile(r"[0-9]{1,18}")

SETTLED_S: Final = 60.0
"""A date has whole seconds, so two contents that were written in one second have the same date. If
an answer's own Date is later by this much, that second has passed on any clock, and contents that
are written later have another date (RFC 9110, section 8.8.2.2; RFC 7232 has the minute)."""


@dataclass(frozen=True, slots=True)
class ObjectProof:
    """An object's content as its store identifies it."""

    size_bytes: int
    etag: str = ""
    """The ETag as sent, with its quotes."""
    modified: str = ""
    version: str = ""
    settled: bool = False
    """Whether the server sent `modified` at least `SETTLED_S` after that time."""

    @property
    def strong(self) -> bool:
        """Whether equal ETags mean equal bytes (RFC 9110, section 8.8.1)."""
        return bool(self.etag) and not self.etag.startswith("W/")

    @property
    def proves(self) -> bool:
        """Whether there is anything to compare besides the size."""
        return bool(self.etag or self.modified or self.version)

    @property
    def lasting(self) -> bool:
        """Whether an equal proof means equal bytes, so that resident bytes may serve another load.

        This holds for a strong ETag, for a version, and for a settled date. It does not hold for a
        weak ETag alone, which says that contents mean the same, not that their bytes are equal.
        """
        return self.strong or bool(self.version) or (bool(self.modified) and self.settled)

    def conditions(self) -> dict[str, str]:
        """Headers that make the server refuse (412) if the object is another one now."""
        if self.strong:
            return {"If-Match": self.etag}
        return {"If-Unmodified-Since": self.modified} if self.modified else {}

    def difference(self, headers: Mapping[str, str]) -> str:
        """How an answer's headers contradict this proof; empty if they do not.

        Some servers ignore conditions, so each answer is checked.
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
        """The text that stands for this content in a `StoredShard`.

        If there is a strong ETag, the text has only that and the size, since equal strong ETags of
        one object mean equal bytes. It has no version, because a listing does not tell the version:
        otherwise a listing and a HEAD would give two identities of one content.
        """
        if self.strong:
            return f"{kind}:{endpoint} {self.size_bytes} - {self.etag}"
        told = f"{self.modified} {self.etag}".rstrip()
        return f"{kind}:{endpoint} {self.size_bytes} {self.version or _NOT_STRONG} {told}"


def proof_of(headers: Mapping[str, str], size_bytes: int) -> ObjectProof:
    """The proof that an answer's headers give.

    Args:
        headers: headers with names in lower case.
        size_bytes: size of the whole object.
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


def proof_in(identity: str, kind: str, endpoint: str) -> ObjectProof | None:
    """The inverse of `ObjectProof.identity`, for an identity with a strong ETag in quotes.

    Such a proof is as good as the one that a HEAD would give, since each GET carries `If-Match`.
    The result is None for every other identity, kind or endpoint; then a HEAD is needed.
    """
    start = f"{kind}:{endpoint} "
    size, _, rest = identity.removeprefix(start).partition(" ")
    version, _, etag = rest.partition(" ")
    known = identity.startswith(start) and version == "-" and _SIZE.fullmatch(size)
    return ObjectProof(int(size), etag) if known and _QUOTED.fullmatch(etag) else None


def listed_proof(size: str, etag: str) -> ObjectProof | None:
    """The proof that an entry of a listing gives; None if it has no size or no strong ETag.

    Args:
        size: the size in decimal digits, as the listing has it.
        etag: the ETag as the listing has it; some listings leave out the quotes that headers have.
    """
    size, etag = size.strip(), etag.strip()
    quoted = f'"{etag}"' if _BARE.fullmatch(etag) and not etag.startswith("W/") else etag
    if not _SIZE.fullmatch(size) or not _QUOTED.fullmatch(quoted):
        return None
    return ObjectProof(int(size), quoted)


def _settled(modified: str, now: str) -> bool:
    then, told = date_of(modified), date_of(now)
    if then is None or told is None:
        return False
    return (told - then).total_seconds() >= SETTLED_S


def _bare(etag: str) -> str:
    """The ETag without the `W/` that a proxy may add and the quotes that some stores omit."""
    return etag.removeprefix("W/").strip('"')
