"""Texts and URLs as they may be shown: without passwords, tokens and signatures. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

# Parameters of presigned URLs of Amazon (both versions), Google, CloudFront and Azure, and what
# others call a token.
_HIDDEN: Final = (
    r"x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|"
    r"awsaccesskeyid|googleaccessid|[\w.-]*token|[\w.-]*secret|password|policy|key-pair-id|"
    r"api[_-]?key"
)
_HIDDEN_PARAMETER: Final = re.compile(rf"(?i)(?<=[?&;#])({_HIDDEN})=[^&;#\s\"'<>]*")
_USERINFO: Final = re.compile(
    r"(?<=://)(?:"
    # up to the host, as it should be written
    r"[^/?#\s@\"']*@|"
    # A password with / ? # in it ends where a URL's host would: what follows the colon is no port,
    # and up to the last @ everything may belong to it.
    r"[^/?#\s@\"':\[\]]*:(?!\d*(?:[/?#\s\"']|$))[^\s\"']*@)"
)


def shown(text: str) -> str:
    """The text with user names, passwords, tokens and signatures taken out of its URLs."""
    return _HIDDEN_PARAMETER.sub(r"\1=***", _USERINFO.sub("", text))


def without_secrets(url: str) -> str:
    """The URL without user information and without parameters that carry a secret.

    What is left names the object and no more: two signatures of one object give the same text. So a
    fragment, which no server is ever sent, goes too.
    """
    base, question, query = without_user(url).partition("#")[0].partition("?")
    kept = "&".join(part for part in query.split("&") if not is_secret(part))
    return base + (question + kept if kept else "")


def without_user(uri: str) -> str:
    """The URI without user information, which nobody puts into an object's URI but by mistake."""
    return _USERINFO.sub("", uri, count=1)


def is_secret(parameter: str) -> bool:
    """Whether one `name=value` of a query is, or belongs to, a signature or token."""
    name = parameter.partition("=")[0].lower()
    return name.startswith(("x-amz-", "x-goog-")) or bool(re.fullmatch(_HIDDEN, name))


def endpoint_of(url: str) -> str:
    """`scheme://host:port` of a URL, to be named in errors."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
