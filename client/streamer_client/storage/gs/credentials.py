"""Access tokens from google-auth: from a credential file, gcloud's login or a metadata server.

Runs in the client's process. Importing this module imports google-auth; `environment.py` does so
when a token is first needed.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any, Final

import google.auth
import requests
from google.auth import exceptions
from google.auth.credentials import Credentials
from google.auth.transport.requests import Request

from streamer_client.contract.errors import SourceForbidden
from streamer_client.storage.gs.settings import ANONYMOUS, BEARER, USER_PROJECT

logger = logging.getLogger(__name__)

SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_only",)
"""The only use of the token, whatever rights the account has."""


class GoogleCredentials:
    """Credentials that are found once, and whose token is renewed when it is about to expire.

    Args:
        uri: the source, for the text of errors.
        file: a credential file; if empty, Application Default Credentials are used.
    """

    def __init__(self, uri: str, file: str) -> None:
        self._uri = uri
        self._file = file
        self._sought = False
        self._credentials: Credentials | None = None

    def variables(self) -> dict[str, str]:
        """The token, project and `universe` to send with an open; empty without credentials.

        Raises:
            SourceForbidden: credentials are configured and could not be obtained.
        """
        credentials = self._found()
        if credentials is None:
            return {}
        # google-auth calls a token invalid some minutes before it expires.
        if not credentials.valid:
            self._renew(credentials)
        found = {
            BEARER: str(credentials.token or ""),
            USER_PROJECT: str(getattr(credentials, "quota_project_id", None) or ""),
            "universe": str(getattr(credentials, "universe_domain", "") or ""),
        }
        return {name: value for name, value in found.items() if value}

    def _found(self) -> Credentials | None:
        if not self._sought:
            self._credentials = self._from_file() if self._file else self._default()
            self._sought = True
        return self._credentials

    def _from_file(self) -> Credentials:
        try:
            with warnings.catch_warnings():
                # google-auth warns that the file may come from a stranger; the user chose it.
                warnings.simplefilter("ignore", DeprecationWarning)
                load: Any = google.auth.load_credentials_from_file  # google-auth has no type for it
                found: Credentials = load(self._file, scopes=SCOPES)[0]
        except (exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise SourceForbidden(
                f"{self._uri}: the credential file {self._file} cannot be used: {error}; correct "
                "RUNAI_STREAMER_GCS_CREDENTIAL_FILE or GOOGLE_APPLICATION_CREDENTIALS"
            ) from error
        return found

    def _default(self) -> Credentials | None:
        try:
            found: Credentials = google.auth.default(scopes=SCOPES)[0]
        except exceptions.DefaultCredentialsError as error:
            logger.info("event=no_google_credentials source=%r reason=%r", self._uri, str(error))
            return None
        return found

    def _renew(self, credentials: Any) -> None:
        try:
            with requests.Session() as session:
                credentials.refresh(Request(session=session))
        except (exceptions.GoogleAuthError, OSError) as error:
            raise SourceForbidden(
                f"{self._uri}: credentials are configured, and no access token could be obtained: "
                f"{_first_line(error)}; renew them (for example `gcloud auth application-default "
                f"login`), or set {ANONYMOUS}=1 for a public bucket"
            ) from error


def _first_line(error: Exception) -> str:
    """The first line of the message; the lines after it may be the token server's whole answer."""
    told: object = error
    while isinstance(told, Exception) and told.args:
        told = told.args[0]
    return str(told).partition("\n")[0][:300]
