"""Resolves the environment that Azure is read with: an endpoint, and a signature or token.

Runs in the client's process (a vLLM rank, streamerctl), never in the daemon. The first variable of
this table that is set decides, as in Run:ai's streamer:

| variable | meaning |
|---|---|
| `STREAMER_AZURE_ANONYMOUS` | 1: no credentials, for public containers |
| `AZURE_STORAGE_CONNECTION_STRING` | account, endpoint, and key or signature in one |
| `AZURE_STORAGE_SAS_TOKEN` | a signature from elsewhere, sent as it is |
| `AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_KEY` | signs for an hour; the key is not sent |
| `STREAMER_AZURE_BEARER` | an access token from elsewhere, sent as it is |
| none of them | azure-identity's DefaultAzureCredential |

The account is `AZURE_STORAGE_ACCOUNT_NAME` (or `AZURE_STORAGE_ACCOUNT`), with
`AZURE_STORAGE_ENDPOINT_SUFFIX` for other clouds, or `AZURE_STORAGE_ENDPOINT`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.az.connection_string import (
    DEFAULT_SUFFIX,
    VARIABLE,
    ConnectionString,
    connection_string,
)
from streamer_client.storage.az.settings import ANONYMOUS, BEARER, ENDPOINT, SAS, az_settings
from streamer_client.storage.az.uri import az_uri
from streamer_client.storage.environment import flag, http_environment, missing_extra
from streamer_client.storage.http.headers import utc_now

if TYPE_CHECKING:
    from streamer_client.storage.az.credentials import ShortLived

ACCOUNTS: Final = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
KEYS: Final = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")
SUFFIX: Final = "AZURE_STORAGE_ENDPOINT_SUFFIX"

RENEW_BEFORE: Final = dt.timedelta(minutes=10)
"""How long a secret must still be valid when it is sent."""


class AzEnvironment:
    """See `SourceEnvironment`; each call of `resolved` returns credentials that are still valid.

    Args:
        uri: the source.
        environ: all variables of the client's process. azure-identity itself reads `os.environ`.
        clock: the time, in UTC.
    """

    def __init__(
        self, uri: str, environ: Mapping[str, str], clock: Callable[[], dt.datetime] = utc_now
    ) -> None:
        self._container = az_uri(uri).bucket
        self._uri = uri
        self._environ = environ
        self._clock = clock
        self._last: ShortLived | None = None

    def resolved(self) -> dict[str, str]:
        """Endpoint, signature or token, and options, under the names that `settings.py` reads.

        Raises:
            ConfigError: a variable is malformed, or a library is needed and not installed.
            SourceForbidden: configured credentials could not be obtained; the text says why.
        """
        found = http_environment(self._environ)
        account = self._account()
        found[ENDPOINT] = account.endpoint
        if flag(self._environ, ANONYMOUS, default=False):
            found[ANONYMOUS] = "1"
        elif account.sas:
            found[SAS] = account.sas
        elif account.key:
            found[SAS] = self._short_lived(lambda: self._signature(account))
        else:
            found[BEARER] = self._get(BEARER) or self._short_lived(self._token)
        az_settings(found)  # raises here, in the process whose variables are malformed
        return found

    def _account(self) -> ConnectionString:
        """The account as the variables describe it, in the form of a connection string."""
        text = self._get(VARIABLE)
        if text:
            return connection_string(text)
        name, endpoint = self._get(*ACCOUNTS), self._get(ENDPOINT)
        if not endpoint and name:
            suffix = (self._get(SUFFIX) or DEFAULT_SUFFIX).removeprefix("blob.")
            endpoint = f"https://{name}.blob.{suffix}"
        return ConnectionString(
            endpoint, name or account_of(endpoint), self._get(*KEYS), self._get(SAS)
        )

    def _get(self, *names: str) -> str:
        values = (self._environ.get(name, "").strip() for name in names)
        return next(filter(None, values), "")

    def _short_lived(self, make: Callable[[], ShortLived]) -> str:
        """The last secret, or a new one if the last is about to expire."""
        if self._last is None or self._last.expiry - self._clock() < RENEW_BEFORE:
            try:
                self._last = make()
            except ImportError as error:
                raise missing_extra(self._uri, "azure", error) from error
        return self._last.secret

    def _signature(self, account: ConnectionString) -> ShortLived:
        from streamer_client.storage.az.credentials import signature  # noqa: PLC0415 - optional

        if not account.account:
            raise ConfigError(
                f"{self._uri}: a key needs the name of its account; set {ACCOUNTS[0]}"
            )
        return signature(account.account, account.key, self._container, self._clock())

    def _token(self) -> ShortLived:
        from streamer_client.storage.az.credentials import token  # noqa: PLC0415 - optional

        # A missing or malformed endpoint is an error before a token is asked for.
        az_settings({ENDPOINT: self._account().endpoint})
        return token(self._uri)


def account_of(endpoint: str) -> str:
    """The account that an endpoint names: in its path, as emulators do, else in its host."""
    parts = urlsplit(endpoint)
    path = parts.path.strip("/")
    return path.partition("/")[0] if path else (parts.hostname or "").partition(".")[0]
