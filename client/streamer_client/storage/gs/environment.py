"""Resolves the environment that Cloud Storage is read with: a token, endpoint and options.

Runs in the client's process (a vLLM rank, streamerctl), never in the daemon.

| variable | meaning |
|---|---|
| `RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS` | 1: no credentials, for public buckets |
| `STREAMER_GCS_BEARER` | an access token from elsewhere, sent as it is |
| `RUNAI_STREAMER_GCS_CREDENTIAL_FILE` | a credential file; else Application Default Credentials |
| `STORAGE_EMULATOR_HOST`, `CLOUD_STORAGE_EMULATOR_ENDPOINT` | an emulator, without credentials |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from streamer_client.storage.environment import flag, http_environment, missing_extra
from streamer_client.storage.gs.settings import (
    ANONYMOUS,
    BEARER,
    ENDPOINT,
    USER_PROJECT,
    gs_settings,
)
from streamer_client.storage.gs.uri import gs_uri
from streamer_client.storage.http.urls import parse_endpoint

if TYPE_CHECKING:
    from streamer_client.storage.gs.credentials import GoogleCredentials

CREDENTIAL_FILES: Final = ("RUNAI_STREAMER_GCS_CREDENTIAL_FILE", "GOOGLE_APPLICATION_CREDENTIALS")
_EMULATORS: Final = ("STORAGE_EMULATOR_HOST", "CLOUD_STORAGE_EMULATOR_ENDPOINT")
_DEFAULT_UNIVERSE: Final = "googleapis.com"


class GsEnvironment:
    """See `SourceEnvironment`; each call of `resolved` returns a token that is still valid.

    Args:
        uri: the source, for errors.
        environ: all variables of the client's process. google-auth itself reads `os.environ`.
    """

    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        gs_uri(uri)
        self._uri = uri
        self._environ = environ
        self._credentials: GoogleCredentials | None = None

    def resolved(self) -> dict[str, str]:
        """Token, endpoint, project and options, under the names that `settings.py` reads.

        Raises:
            ConfigError: a variable is malformed, or google-auth is needed and not installed.
            SourceForbidden: configured credentials could not be obtained; the text says why.
        """
        found = http_environment(self._environ)
        for name in (ENDPOINT, USER_PROJECT, ANONYMOUS):
            if self._environ.get(name):
                found[name] = self._environ[name]
        emulator = next((name for name in _EMULATORS if self._environ.get(name)), "")
        if emulator:
            found[ENDPOINT] = parse_endpoint(emulator, self._environ[emulator], scheme="http")
        elif not flag(found, ANONYMOUS, default=False):
            found = self._token() | found
        gs_settings(found)  # raises here, in the process whose variables are malformed
        return found

    def _token(self) -> dict[str, str]:
        given = self._environ.get(BEARER, "").strip()
        if given:
            return {BEARER: given}
        found = self._google().variables()
        universe = found.pop("universe", _DEFAULT_UNIVERSE)
        if universe != _DEFAULT_UNIVERSE and BEARER in found:
            found[ENDPOINT] = f"https://storage.{universe}"
        return found

    def _google(self) -> GoogleCredentials:
        if self._credentials is None:
            try:
                from streamer_client.storage.gs.credentials import (  # noqa: PLC0415 - optional
                    GoogleCredentials,
                )
            except ImportError as error:
                raise missing_extra(self._uri, "gcs", error) from error
            files = (self._environ.get(name, "") for name in CREDENTIAL_FILES)
            self._credentials = GoogleCredentials(self._uri, next(filter(None, files), ""))
        return self._credentials
