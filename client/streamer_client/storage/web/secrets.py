"""The secrets of a URL, which are sent apart from it so that it can be stored and shown. Pure.

| variable | meaning |
|---|---|
| `STREAMER_HTTP_USERINFO` | `user:password` for basic authentication, as it may stand in a URL |
| `STREAMER_HTTP_QUERY` | signature or token parameters that each URL of the source needs |
| `STREAMER_HTTP_BEARER` | a token for `Authorization: Bearer` |
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from streamer_client.storage.http.urls import is_secret

USERINFO: Final = "STREAMER_HTTP_USERINFO"
QUERY: Final = "STREAMER_HTTP_QUERY"
BEARER: Final = "STREAMER_HTTP_BEARER"

VARIABLES: Final = (USERINFO, QUERY, BEARER)


@dataclass(frozen=True, slots=True)
class UrlSecrets:
    """The secrets that a request for a URL adds to it."""

    userinfo: str = field(default="", repr=False)
    query: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)

    def headers(self) -> dict[str, str]:
        """The Authorization header, if there is anything to say."""
        if self.bearer:
            return {"Authorization": f"Bearer {self.bearer}"}
        if not self.userinfo:
            return {}
        user, _, password = self.userinfo.partition(":")
        pair = f"{unquote(user)}:{unquote(password)}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    def signed(self, url: str) -> str:
        """The URL with the parameters that it needs."""
        if not self.query:
            return url
        return f"{url}{'&' if '?' in url else '?'}{self.query}"

    def as_environment(self) -> dict[str, str]:
        """The variables under which the secrets are sent with an open."""
        values = (self.userinfo, self.query, self.bearer)
        return {name: value for name, value in zip(VARIABLES, values, strict=True) if value}


def secrets_of(url: str, environment: Mapping[str, str]) -> UrlSecrets:
    """The secrets in a URL, or else those of the variables."""
    parts = urlsplit(url)
    userinfo = parts.netloc.rpartition("@")[0]
    query = "&".join(part for part in parts.query.split("&") if is_secret(part))
    return UrlSecrets(
        userinfo or environment.get(USERINFO, ""),
        query or environment.get(QUERY, ""),
        "" if userinfo else environment.get(BEARER, ""),
    )
