"""`scheme://bucket/key`, taken apart and put together. Pure.

Keys are taken literally, as the stores' own command lines do: a percent sign is a percent sign, and
what follows `?` or `#` belongs to the name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ObjectUri:
    """An object, or with an empty key or one that ends in a slash, what lies under it."""

    scheme: str
    bucket: str
    """What holds the objects; Azure calls it a container."""
    key: str

    def __str__(self) -> str:
        base = f"{self.scheme}://{self.bucket}"
        return f"{base}/{self.key}" if self.key else base

    @property
    def prefix(self) -> str:
        """What the keys under it begin with; empty for the whole bucket."""
        return f"{self.key.rstrip('/')}/" if self.key.strip("/") else ""

    def under(self, name: str) -> ObjectUri:
        """The object of this name under it."""
        return ObjectUri(self.scheme, self.bucket, self.prefix + name)

    def named(self, key: str) -> ObjectUri:
        """Another object of the same bucket."""
        return ObjectUri(self.scheme, self.bucket, key)


def split_uri(text: str, scheme: str) -> tuple[str, str]:
    """Bucket and key as they stand in a URI; an empty bucket where it is not of this scheme."""
    start = f"{scheme}://"
    if text[: len(start)].lower() != start:
        return "", ""
    bucket, _, key = text[len(start) :].partition("/")
    return bucket, key
