"""What it means when no answer came, or not all of one: what may pass, and what will not.

Owns the step from `OSError` and `http.client`'s exceptions to `Transient` or a typed error with its
remedy. Pure.
"""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl

from streamer_client.contract.errors import SourceError, SourceForbidden
from streamer_client.storage.http.deadline import TooSlow
from streamer_client.storage.http.messages import Request
from streamer_client.storage.http.origin import origin_of
from streamer_client.storage.http.proxies import Proxy
from streamer_client.storage.http.retry import Transient
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.shown import shown

Fault = OSError | http.client.HTTPException

_UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)


def transport_fault(
    error: Fault, request: Request, settings: HttpSettings
) -> Transient | SourceError:
    """The meaning of a request that failed without an answer, or in the middle of one."""
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
            "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS",
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
        trusted = "those of the caller's CA bundle" if settings.authorities else "the system's"
        return SourceError(
            f"{request.about}: the certificate of {where} is not trusted: {error.verify_message} "
            f"(trusted are: {trusted}); set AWS_CA_BUNDLE, where the load is started, to a PEM "
            "file with the authority that signed it, or correct the endpoint's name"
        )
    # Errors that ssl itself makes up have no reason.
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
    text = f"{request.about}: no tunnel to {where}: the proxy says: {str(error)[:200]}"
    if status == 407:
        return SourceForbidden(
            f"{text}; write the proxy as http://user:password@host:port in {variable}"
        )
    if 400 <= status < 500:
        return SourceForbidden(
            f"{text}; let the proxy allow this host, or list it in NO_PROXY to go past the proxy"
        )
    return Transient(text, remedy="look at the proxy's state, or list the host in NO_PROXY")
