"""`scheme://bucket/key`, taken apart and put together. Pure.

Keys are taken literally, as the stores' own command lines do: a percent sign is a percent sign, and
what follows `?` or `#` belongs to the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from streamer_client.contract.errors import ConfigError

_USERINFO: Final = re.compile(r"(?!arn:)[^/@]*:.*@|[^/]*@", re.DOTALL)
"""Credentials before a bucket, where somebody wrote `key:secret@bucket`. A secret key may have
slashes, so a colon before the first slash is what tells it from an object's name with an `@`: no
bucket has a colon."""
HIDDEN: Final = "***@"


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


def without_user(text: str) -> str:
    """A URI of an object as it may be shown: credentials in it are hidden."""
    scheme, sign, rest = text.partition("://")
    found = _USERINFO.match(rest)
    if found:
        return f"{scheme}{sign}{HIDDEN}{rest[found.end() :]}"
    bucket, slash, _ = rest.partition("/")
    # Somebody may have forgotten the @; no bucket has a colon.
    if ":" in bucket and not bucket.startswith("arn:"):
        return f"{scheme}{sign}***{slash}..." if slash else f"{scheme}{sign}***"
    return text


def split_uri(text: str, scheme: str) -> tuple[str, str]:
    """Bucket and key as they stand in a URI; an empty bucket where the URI has another scheme.

    Raises:
        ConfigError: the URI holds credentials, which would be shown and are not used.
    """
    start = f"{scheme}://"
    if text[: len(start)].lower() != start:
        return "", ""
    public = without_user(text)
    if public != text:
        raise ConfigError(
            f"{public}: credentials have no place in the URI of an object, which is kept and "
            "shown; set them as variables or in a profile, and write bucket and path alone"
        )
    bucket, _, key = text[len(start) :].partition("/")
    return bucket, key
