"""The meaning of a failed request, by the answer's status or by how no answer came. Pure.

Turns a status, an `OSError` or an exception of `http.client` into `Transient` (it may pass by
itself) or a typed error with its remedy. Leaves a store's own error codes to its dialect.
"""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamer_client.contract.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
    StreamerError,
)
from streamer_client.storage.http.dialect import Answer, Request
from streamer_client.storage.http.headers import date_of
from streamer_client.storage.http.proxies import Proxy
from streamer_client.storage.http.retry import Transient
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.transport.deadline import TooSlow
from streamer_client.storage.http.urls import endpoint_of, origin_of, shown

MAY_PASS: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

_REQUEST_IDS: Final = (
    "x-amz-request-id",
    "x-amz-id-2",
    "x-ms-request-id",
    "x-guploader-uploadid",
    "x-request-id",
    "cf-ray",
)


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """The store's own description of an error, as far as there is one."""

    code: str = ""
    message: str = ""


def refusal_text(request: Request, answer: Answer, told: ErrorDetail) -> str:
    """Status, the store's words, endpoint and request id, for the middle of an error's text."""
    words = [f"HTTP {answer.status}", told.code]
    if told.message:
        words.append(f'"{shown(told.message)[:300]}"')
    ids = [f"{name} {answer.headers[name]}" for name in _REQUEST_IDS if name in answer.headers]
    told_ids = f" ({', '.join(ids)})" if ids else ""
    said = " ".join(word for word in words if word)
    return f"{said} from {endpoint_of(request.url)}{told_ids}"


def refusal(
    request: Request,
    answer: Answer,
    told: ErrorDetail,
    *,
    forbidden: str = "",
    missing: str = "",
    other: str = "",
) -> StreamerError | Transient:
    """The meaning of a status alone.

    Args:
        request: the request that was sent.
        answer: the refusal.
        told: the store's own description of the error.
        forbidden: the remedy for 401 and 403.
        missing: the remedy for 404.
        other: the remedy for all statuses without a special meaning.
    """
    text = refusal_text(request, answer, told)
    match answer.status:
        case status if status in MAY_PASS:
            return Transient(text, after_s=retry_after_s(answer.headers))
        case 401 | 403:
            remedy = forbidden or "give credentials that may read it"
            return SourceForbidden(f"{request.about}: may not be read: {text}; {remedy}")
        case 407:
            remedy = "write it as http://user:password@host:port in HTTP_PROXY or ALL_PROXY"
            return SourceForbidden(f"{request.about}: the proxy wants a password: {text}; {remedy}")
        case 404 | 410:
            remedy = missing or "check the name for typing errors"
            return SourceNotFound(f"{request.about}: does not exist: {text}; {remedy}")
        case 412 | 416:
            return SourceChanged(
                f"{request.about}: changed since the load began: {text}; "
                "open the checkpoint again when nothing writes to it"
            )
        case _:
            remedy = other or "check the endpoint, and what the store's log says of this request"
            return SourceError(f"{request.about}: refused: {text}; {remedy}")


def retry_after_s(headers: Mapping[str, str]) -> float:
    """The seconds that Retry-After asks to wait (RFC 9110, section 10.2.3); 0 without one."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    then, now = date_of(text), date_of(headers.get("date", ""))
    return max(0.0, (then - now).total_seconds()) if then and now else 0.0


Fault = OSError | http.client.HTTPException

_UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)


def transport_fault(
    error: Fault, request: Request, settings: HttpSettings
) -> Transient | SourceError:
    """The meaning of a failure without an answer, or in the middle of one."""
    origin = origin_of(request.url)
    proxy = settings.proxies.of(origin)
    where = f"{origin} (through the proxy {proxy})" if proxy else str(origin)
    if isinstance(error, ssl.SSLError):
        return _tls_fault(error, request, where, settings)
    if isinstance(error, socket.gaierror):
        host = proxy.host if proxy else origin.host
        return Transient(
            f"the name {host} of {where} does not resolve: {error.strerror}",
            remedy=_proxy_remedy(proxy)
            if proxy
            else "check the endpoint and region for typing errors, and DNS",
            connecting=True,
        )
    if isinstance(error, TooSlow):
        return Transient(
            f"{where} {error}",
            remedy="look at the store's load and at the network between; fewer connections "
            "(`connections`, `concurrency`) leave more to each",
        )
    if isinstance(error, TimeoutError):
        return Transient(
            f"{where} sent nothing for {settings.read_timeout_s:g} s, or did not accept a "
            f"connection within {settings.connect_timeout_s:g} s",
            remedy="check network and firewall; a slow store may need a larger "
            f"{settings.names.read_timeout}",
        )
    if isinstance(error, OSError) and str(error).startswith("Tunnel connection failed"):
        return _tunnel_fault(error, request, where, proxy.variable if proxy else "HTTPS_PROXY")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return SourceError(
            f"{request.about}: no connection to {where}: {error.strerror}; raise the limit of "
            "open files (`ulimit -n`, LimitNOFILE)"
        )
    return _lost(error, where, proxy)


def _proxy_remedy(proxy: Proxy) -> str:
    return f"check {proxy.variable} and that the proxy runs, or list the store's host in NO_PROXY"


def _lost(error: Fault, where: str, proxy: Proxy | None) -> Transient:
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return Transient(
            f"no connection to {where}: {error.strerror}",
            remedy=_proxy_remedy(proxy)
            if proxy
            else "check that the endpoint is right, that the store runs, and the firewall",
            connecting=True,
        )
    if isinstance(error, http.client.RemoteDisconnected):
        return Transient(f"{where} closed the connection without an answer")
    if isinstance(error, http.client.BadStatusLine):
        return Transient(
            f"{where} does not answer in HTTP: {str(error)[:80]!r}",
            remedy="check the endpoint's port, and whether it wants https://",
        )
    text = str(error) or type(error).__name__
    return Transient(f"the connection to {where} broke: {shown(text)[:200]}")


def _tls_fault(
    error: ssl.SSLError, request: Request, where: str, settings: HttpSettings
) -> Transient | SourceError:
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = "those of the client's CA bundle" if settings.authorities else "the system's"
        return SourceError(
            f"{request.about}: the certificate of {where} is not trusted: {error.verify_message} "
            f"(trusted are: {trusted}); set {settings.names.authorities}, where the load is "
            "started, to a PEM file with the authority that signed it, or correct the endpoint's "
            "name"
        )
    # Errors that the ssl module raises without OpenSSL have no reason.
    reason = str(getattr(error, "reason", None) or error).replace("_", " ").lower()
    if "wrong version number" in reason or "http request" in reason:
        return SourceError(
            f"{request.about}: {where} does not speak TLS; write the endpoint with http://, or "
            "give the port that speaks TLS"
        )
    return Transient(f"TLS with {where} broke: {reason}", remedy="look at the store's TLS set-up")


def _tunnel_fault(
    error: OSError, request: Request, where: str, variable: str
) -> Transient | SourceError:
    found = re.search(r"failed: (\d+)", str(error))
    status = int(found[1]) if found else 0
    text = f"no tunnel to {where}: the proxy says: {str(error)[:200]}"
    if status == 407:
        return SourceForbidden(
            f"{request.about}: {text}; write the proxy as http://user:password@host:port in "
            f"{variable}"
        )
    if 400 <= status < 500:
        return SourceForbidden(
            f"{request.about}: {text}; let the proxy allow this host, or list it in NO_PROXY to go "
            "past the proxy"
        )
    return Transient(text, remedy="look at the proxy's state, or list the host in NO_PROXY")
