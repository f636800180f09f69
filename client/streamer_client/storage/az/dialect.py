"""Speaks to Azure Blob Storage: authorises each request, and understands refusals."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from streamer_client.contract.errors import CredentialsExpired
from streamer_client.storage.az.remedies import remedy
from streamer_client.storage.az.settings import AzSettings, expiry_of
from streamer_client.storage.http.dialect import Answer, Request, Verdict
from streamer_client.storage.http.faults import ErrorDetail, refusal, refusal_text
from streamer_client.storage.http.headers import utc_now
from streamer_client.storage.http.retry import Transient
from streamer_client.storage.xml import Element, NotXml, parse_xml

API_VERSION: Final = "2019-12-12"
"""The first version of the API that reports versions of blobs. The parts that are used here have
not changed since."""

_PASSING: Final = frozenset(
    {"ServerBusy", "InternalError", "OperationTimedOut", "AccountBeingCreated"}
)

_WRONG_TOKEN: Final = ("audience", "issuer")
"""Words in Azure's refusal of a token that was never valid for this account."""


class AzDialect:
    """Requests and refusals of one account, with the credentials of one client.

    Args:
        settings: how the account is reached and asked.
        clock: the time, in UTC.
    """

    def __init__(self, settings: AzSettings, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._settings = settings
        self._clock = clock

    def prepared(self, request: Request) -> Request:
        """The request with the signature or token, if there is one."""
        url = request.url
        headers = {**request.headers, "x-ms-version": API_VERSION}
        if self._settings.sas:
            url = f"{url}{'&' if '?' in url else '?'}{self._settings.sas}"
        elif self._settings.bearer:
            headers["Authorization"] = f"Bearer {self._settings.bearer}"
        return replace(request, url=url, headers=headers)

    def refusal(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        """Judge a refusal of Azure's; see `Dialect`."""
        error = _error_element(answer)
        code = answer.headers.get("x-ms-error-code") or error.value("Code")
        detail = error.value("AuthenticationErrorDetail")
        # Further lines of the message repeat the request id and the time, which headers tell, too.
        words = (error.value("Message").strip().partition("\n")[0].strip(), detail)
        told = ErrorDetail(code, " ".join(word for word in words if word))
        text = refusal_text(sent, answer, told)
        if code in _PASSING:
            return Transient(text)
        if answer.status in (401, 403) and self._expired(answer.status, detail.lower()):
            return CredentialsExpired(
                f"{request.about}: the credentials have expired: {text}; renew "
                "AZURE_STORAGE_SAS_TOKEN, or use credentials that renew themselves (an account "
                "key, or an identity)"
            )
        what = remedy(self._settings, request, code)
        return refusal(sent, answer, told, forbidden=what, missing=what, other=what)

    def _expired(self, status: int, detail: str) -> bool:
        if self._settings.bearer:
            wrong = any(word in detail for word in _WRONG_TOKEN)
            return "token is expired" in detail or (status == 401 and not wrong)
        expiry = expiry_of(self._settings.sas)
        over = expiry is not None and expiry <= self._clock()
        return over or "not valid in the specified time frame" in detail


def _error_element(answer: Answer) -> Element:
    """The `<Error>` of a refusal; an empty one if the body is not Azure's (a proxy's page)."""
    try:
        root = parse_xml(answer.body.removeprefix(b"\xef\xbb\xbf"))
    except NotXml:
        return Element("Error")
    return root if root.name == "Error" else Element("Error")
