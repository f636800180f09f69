"""The table of kinds of sources, and every question whose answer depends on the kind.

Owns which module reads a URI's scheme; leaves everything that a kind does to that module's `KIND`.
A new kind of source is a folder of its own and one line of the table. Modules are imported when the
first source of their kind is named, so that a process that reads files loads no store. Runs in
clients, in `streamerctl` and in workers.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.uris import scheme_of
from streamer_client.storage.contract import (
    CredentialsReport,
    SourceEnvironment,
    SourceKind,
    Storage,
)
from streamer_client.storage.http.urls import shown
from streamer_client.storage.object_uri import without_user

KINDS: Final[dict[str, str]] = {
    "": "streamer_client.storage.local",  # a path, or file://
    "s3": "streamer_client.storage.s3.kind",
    "gs": "streamer_client.storage.gs.kind",
    "az": "streamer_client.storage.az.kind",
    "http": "streamer_client.storage.web.kind",
    "https": "streamer_client.storage.web.kind",
}
"""The module of each scheme's kind; the schemes are those of `scheme_of`."""


def storage_for(uri: str, environment: Mapping[str, str]) -> Storage:
    """The storage that reads a source or shard.

    Args:
        uri: a path or a URI.
        environment: the environment that the client sent: credentials, endpoint and options.

    Raises:
        ConfigError: nothing reads that kind, or a variable is malformed.
    """
    return _kind_of(uri).storage(environment)


def source_environment(uri: str, environ: Mapping[str, str]) -> SourceEnvironment:
    """The object that finds the environment for reading `uri`.

    Args:
        uri: a source or a shard.
        environ: all variables of the client's process.

    Raises:
        ConfigError: nothing reads that kind, or the URI is malformed.
    """
    return _kind_of(uri).environment(uri, environ)


def public_uri(uri: str) -> str:
    """The source or shard in the form that may be sent, stored, logged and shown.

    The password or signature in a web server's URL travels in the environment instead;
    `source_environment` takes it from the user's URI. Object stores take no credentials from a URI.
    Their environments and storages refuse a URI that has some, and this function hides them.
    """
    scheme = scheme_of(uri)
    return _kind(scheme).public_uri(uri) if scheme in KINDS else shown(without_user(uri))


def credentials_report(uri: str, environment: Mapping[str, str]) -> CredentialsReport | None:
    """The facts that may be told of an environment's credentials; None if there are none."""
    return _kind_of(uri).credentials(environment)


def import_all() -> None:
    """Import all modules that the kinds import late, so that no reading waits for it.

    A process that forks readers calls this; a module that is not installed is left out.
    """
    for scheme in KINDS:
        for module in _kind(scheme).late_modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)


def object_store_schemes() -> list[str]:
    """Schemes of the kinds that are object stores."""
    return sorted(scheme for scheme in KINDS if _kind(scheme).is_object_store)


def _kind_of(uri: str) -> SourceKind:
    scheme = scheme_of(uri)
    if scheme not in KINDS:
        known = ", ".join(f"{name}://" for name in sorted({*KINDS, "file"}) if name)
        raise ConfigError(
            f"{public_uri(uri)}: unknown kind of source {scheme}://; give a path, or {known}"
        )
    return _kind(scheme)


def _kind(scheme: str) -> SourceKind:
    kind: object = importlib.import_module(KINDS[scheme]).KIND
    if not isinstance(kind, SourceKind):
        raise TypeError(f"{KINDS[scheme]}.KIND is no SourceKind, but {kind!r}")
    return kind
