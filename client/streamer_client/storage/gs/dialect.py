"""Speaks to Google Cloud Storage: authorises each request, and understands refusals. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from streamer_client.contract.errors import CredentialsExpired
from streamer_client.storage.gs.metadata import told_by
from streamer_client.storage.gs.remedies import remedy
from streamer_client.storage.gs.settings import GsSettings
from streamer_client.storage.http.dialect import Answer, Request, Verdict
from streamer_client.storage.http.faults import refusal, refusal_text
from streamer_client.storage.http.retry import Transient

_PASSING: Final = frozenset(
    {"rateLimitExceeded", "userRateLimitExceeded", "backendError", "internalError"}
)
"""Reasons of refusals that may pass by themselves, whatever their status (even 403)."""


class GsDialect:
    """Requests and refusals of one store, with the credentials of one client."""

    def __init__(self, settings: GsSettings) -> None:
        self._settings = settings

    def prepared(self, request: Request) -> Request:
        """The request with the access token, if there is one, and with the project to bill."""
        headers = dict(request.headers)
        if self._settings.bearer:
            headers["Authorization"] = f"Bearer {self._settings.bearer}"
        if self._settings.user_project:
            headers["x-goog-user-project"] = self._settings.user_project
        return replace(request, headers=headers)

    def refusal(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        """Judge a refusal of Cloud Storage's; see `Dialect`."""
        told = told_by(answer)
        text = refusal_text(sent, answer, told)
        if told.code in _PASSING:
            return Transient(text)
        if answer.status == 401 and self._settings.bearer:
            return CredentialsExpired(
                f"{request.about}: the access token is not accepted, or no longer: {text}; "
                "renew it (for example `gcloud auth application-default login`), or use "
                "credentials that renew themselves"
            )
        what = remedy(self._settings, request, told)
        return refusal(sent, answer, told, forbidden=what, missing=what, other=what)
