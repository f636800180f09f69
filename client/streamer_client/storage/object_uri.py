"""`scheme://bucket/key`, parsed and formatted. Pure.

Keys are taken literally, as the stores' own command lines do: a percent sign is a percent sign, and
text after `?` or `#` belongs to the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from streamer_client.contract.errors import ConfigError

_USERINFO: Final = re.compile(r"(?!arn:)[^/@]*:.*@|[^/]*@", re.DOTALL)
"""Credentials before a bucket, in a URI of the form `key:secret@bucket`. A secret key may have
slashes. So a colon before the first slash is the mark of credentials, which tells them from an
object's name with an `@`: no bucket has a colon."""
HIDDEN: Final = "***@"


@dataclass(frozen=True, slots=True)
class ObjectUri:
    """An object, or everything under a prefix if the key is empty or ends in a slash."""

    scheme: str
    bucket: str
    """The bucket that holds the objects; Azure calls it a container."""
    key: str

    def __str__(self) -> str:
        base = f"{self.scheme}://{self.bucket}"
        return f"{base}/{self.key}" if self.key else base

    @property
    def prefix(self) -> str:
        """The beginning of all keys under this URI; empty for the whole bucket."""
        return f"{self.key.rstrip('/')}/" if self.key.strip("/") else ""

    def under(self, name: str) -> ObjectUri:
        """The object of this name under this prefix."""
        return ObjectUri(self.scheme, self.bucket, self.prefix + name)

    def named(self, key: str) -> ObjectUri:
        """Another object of the same bucket."""
        return ObjectUri(self.scheme, self.bucket, key)


def without_user(text: str) -> str:
    """A URI of an object in the form that may be shown, without credentials."""
    scheme, sign, rest = text.partition("://")
    found = _USERINFO.match(rest)
    if found:
        return f"{scheme}{sign}{HIDDEN}{rest[found.end() :]}"
    bucket, slash, _ = rest.partition("/")
    # Somebody may have forgotten the @; a colon then shows that these are credentials.
    if ":" in bucket and not bucket.startswith("arn:"):
        return f"{scheme}{sign}***{slash}..." if slash else f"{scheme}{sign}***"
    return text


def split_uri(text: str, scheme: str) -> tuple[str, str]:
    """Bucket and key of a URI; the bucket is empty if the URI has another scheme.

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
