"""The authorities that a caller trusts: read where it runs, so that nobody else opens its files.

`AWS_CA_BUNDLE` and `SSL_CERT_FILE` name a file. What travels with an open is what stands in it,
under a name of our own (`settings.AUTHORITIES`): a daemon has other files and other rights, and
would tell by its errors, or by hanging in a FIFO, what lies at a path. Runs in the caller's
process.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.sizes import format_size
from streamer_client.storage.http.settings import AUTHORITIES

MAX_BUNDLE_BYTES: Final = 384 << 10
"""Of one file. Debian's whole bundle has 220 KiB, certifi's with its comments 290; a request's
environment (`MAX_ENVIRONMENT_BYTES`) has to hold it beside credentials."""

_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)


def authorities_of(environ: Mapping[str, str], *, profile: str = "") -> dict[str, str]:
    """The certificates of the bundle that the caller names, under the name that travels.

    Args:
        environ: the caller's variables; `AWS_CA_BUNDLE` goes before a profile's, `SSL_CERT_FILE`
            comes last.
        profile: the file that a profile's `ca_bundle` names.

    Returns:
        Nothing where no file is named: then the authorities of whoever reads are trusted.

    Raises:
        ConfigError: the file cannot be used; the text says who names it.
    """
    named = (
        ("AWS_CA_BUNDLE", environ.get("AWS_CA_BUNDLE", "")),
        ("ca_bundle of the profile", profile),
        ("SSL_CERT_FILE", environ.get("SSL_CERT_FILE", "")),
    )
    who, path = next(((who, path) for who, path in named if path), ("", ""))
    return {AUTHORITIES: read_bundle(who, os.path.expanduser(path))} if path else {}


def read_bundle(who: str, path: str) -> str:
    """The certificates in a PEM file, and nothing else of it: a key beside them stays here.

    Args:
        who: names the file, for errors.
        path: of a regular file; a FIFO or device would be waited for.

    Raises:
        ConfigError: it is none, is too long, may not be read, or holds no certificate.
    """
    found = _CERTIFICATE.findall(_read(who, path).decode("ascii", errors="replace"))
    if not found:
        raise _unusable(who, path, "it holds no certificate (BEGIN CERTIFICATE)")
    return "\n".join(found) + "\n"


def _read(who: str, path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unusable(who, path, getattr(error, "strerror", None) or str(error)) from error
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        data = os.read(fd, MAX_BUNDLE_BYTES + 1) if regular else b""
    except OSError as error:
        raise _unusable(who, path, error.strerror or str(error)) from error
    finally:
        os.close(fd)
    if not regular:
        raise _unusable(who, path, "it is no regular file")
    if len(data) > MAX_BUNDLE_BYTES:
        most = format_size(MAX_BUNDLE_BYTES)
        raise _unusable(who, path, f"it has more than {most}; name the authorities you need alone")
    return data


def _unusable(who: str, path: str, why: str) -> ConfigError:
    return ConfigError(
        f"{who}={path}: cannot be used: {why}; it must name a PEM file of certificates that user "
        f"id {os.geteuid()} can read, or be unset to trust the system's authorities"
    )
