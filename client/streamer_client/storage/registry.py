"""Which storage reads a source: one line for each kind, by the scheme of its URI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.uris import scheme_of
from streamer_client.storage.contract import CallerEnvironment, Storage
from streamer_client.storage.http.shown import shown, without_secrets
from streamer_client.storage.local import LocalStorage
from streamer_client.storage.object_uri import without_user

_PATH: Final = ""
"""What `scheme_of` says of a path, and of `file://`."""


def _s3_storage(environment: Mapping[str, str]) -> Storage:
    from streamer_client.storage.s3.storage import S3Storage  # noqa: PLC0415 - as all object stores

    return S3Storage(environment)


def _s3_caller(uri: str, environ: Mapping[str, str]) -> CallerEnvironment:
    from streamer_client.storage.s3.caller import S3Caller  # noqa: PLC0415 - imports botocore

    return S3Caller(uri, environ)


def _web_storage(environment: Mapping[str, str]) -> Storage:
    from streamer_client.storage.web.storage import WebStorage  # noqa: PLC0415

    return WebStorage(environment)


def _web_caller(uri: str, environ: Mapping[str, str]) -> CallerEnvironment:
    from streamer_client.storage.web.caller import WebCaller  # noqa: PLC0415

    return WebCaller(uri, environ)


def _gs_storage(environment: Mapping[str, str]) -> Storage:
    from streamer_client.storage.gs.storage import GsStorage  # noqa: PLC0415

    return GsStorage(environment)


def _gs_caller(uri: str, environ: Mapping[str, str]) -> CallerEnvironment:
    from streamer_client.storage.gs.caller import GsCaller  # noqa: PLC0415

    return GsCaller(uri, environ)


def _az_storage(environment: Mapping[str, str]) -> Storage:
    from streamer_client.storage.az.storage import AzStorage  # noqa: PLC0415

    return AzStorage(environment)


def _az_caller(uri: str, environ: Mapping[str, str]) -> CallerEnvironment:
    from streamer_client.storage.az.caller import AzCaller  # noqa: PLC0415

    return AzCaller(uri, environ)


_STORAGES: Final[Mapping[str, Callable[[Mapping[str, str]], Storage]]] = {
    _PATH: lambda _environment: LocalStorage(),
    "s3": _s3_storage,
    "http": _web_storage,
    "https": _web_storage,
    "gs": _gs_storage,
    "az": _az_storage,
}

_WEB: Final = frozenset({"http", "https"})
_LITERAL: Final = frozenset({"s3", "gs"})


class _NoEnvironment:
    """Files are read by whoever may read them; nothing of the caller's environment matters."""

    def variables(self) -> dict[str, str]:
        return {}


_ENVIRONMENTS: Final[Mapping[str, Callable[[str, Mapping[str, str]], CallerEnvironment]]] = {
    _PATH: lambda _uri, _environ: _NoEnvironment(),
    "s3": _s3_caller,
    "http": _web_caller,
    "https": _web_caller,
    "gs": _gs_caller,
    "az": _az_caller,
}


def caller_environment(uri: str, environ: Mapping[str, str]) -> CallerEnvironment:
    """What of the calling process's environment goes along with an open of `uri`.

    Args:
        uri: a source or a shard.
        environ: the caller's whole environment.

    Raises:
        ConfigError: no storage reads that kind.
    """
    factory = _ENVIRONMENTS.get(scheme_of(uri))
    if factory is None:
        raise _unreadable(uri)
    return factory(uri, environ)


def public_uri(uri: str) -> str:
    """The source or shard as it may be sent, kept, logged and shown.

    A password or signature of a web server travels with `caller_environment` instead, which is
    asked with the URI as the user gave it. Object stores take none from a URI: there environment
    and storage refuse it, and this hides it.
    """
    scheme = scheme_of(uri)
    if scheme == _PATH:
        return uri
    if scheme in _WEB:
        return without_secrets(uri)
    public = without_user(uri)
    # A name may have ? and = in it, and stays what it is; az:// has no such names.
    return public if scheme in _LITERAL else shown(public)


def storage_for(uri: str, environment: Mapping[str, str]) -> Storage:
    """The storage that reads `uri`, a path or a URI.

    Args:
        uri: a source or a shard.
        environment: the variables of whoever asks that bear on reading (credentials, endpoint).

    Raises:
        ConfigError: no storage reads that kind; the text names the kinds that can be read.
    """
    factory = _STORAGES.get(scheme_of(uri))
    if factory is None:
        raise _unreadable(uri)
    return factory(environment)


def _unreadable(uri: str) -> ConfigError:
    known = ", ".join(f"{name}://" for name in sorted({*_STORAGES, "file"}) if name)
    return ConfigError(
        f"{public_uri(uri)}: unknown kind of source {scheme_of(uri)}://; give a path, or {known}"
    )
