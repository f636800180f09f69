"""TLS contexts, one for each set of trusted certificates in a process, and certificate files.

A client reads the file that its user names, and sends the certificates in it, not the path. A
daemon has other files and other rights; by its errors, or by hanging at a FIFO, it would tell what
lies at a path. So `read_bundle` runs in the client's process, and `tls_context` opens no file that
a client named.
"""

from __future__ import annotations

import functools
import os
import re
import ssl
import stat
from importlib.util import find_spec
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.sizes import format_size

MAX_BUNDLE_BYTES: Final = 384 << 10
"""The most bytes of one file. Debian's whole bundle has 220 KiB, and certifi's with its comments
290 KiB; a request's environment (`MAX_ENVIRONMENT_BYTES`) must hold it beside credentials."""

_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)


@functools.lru_cache(maxsize=8)
def tls_context(authorities: str, verify: bool, variable: str = "") -> ssl.SSLContext:
    """A client's context; it verifies certificates and host names unless told otherwise.

    Args:
        authorities: the only certificates to trust, in PEM. If empty, these are the system's, or
            those of botocore if the system has none, as in slim containers.
        verify: whether to verify; False trusts any server.
        variable: the variable that names trusted certificates, for the text of errors.

    Raises:
        ConfigError: the certificates are malformed, or the system's cannot be read.
    """
    context = _trusting(authorities, variable) if authorities else _trusting_the_system(variable)
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(authorities: str, variable: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=authorities)
    except (ssl.SSLError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the certificates that were sent along cannot be used: {error}; the file that "
            f"{variable} names must hold whole certificates in PEM"
        ) from error


def _trusting_the_system(variable: str) -> ssl.SSLContext:
    bundle = _fallback_bundle()
    try:
        return ssl.create_default_context(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the system's authorities cannot be used: {bundle or 'default paths'}: {error}; "
            f"install ca-certificates, or name a PEM file in {variable}"
        ) from error


def _fallback_bundle() -> str | None:
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(os.scandir(paths.capath))):
        return None
    botocore = find_spec("botocore")  # looks it up without importing it
    if botocore is None or botocore.origin is None:
        return None
    bundle = os.path.join(os.path.dirname(botocore.origin), "cacert.pem")
    return bundle if os.path.exists(bundle) else None


def read_bundle(who: str, path: str) -> str:
    """The certificates in a PEM file; a key beside them in the file is left out.

    Args:
        who: the name of the file for the text of errors.
        path: path of a regular file; a FIFO or device is refused, as reading it could hang.

    Raises:
        ConfigError: the file is not regular, too long, not readable, or holds no certificate.
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
        raise _unusable(who, path, f"it has more than {most}; leave only the authorities you need")
    return data


def _unusable(who: str, path: str, why: str) -> ConfigError:
    return ConfigError(
        f"{who}={path}: cannot be used: {why}; it must name a PEM file of certificates that user "
        f"id {os.geteuid()} can read, or be unset to trust the system's authorities"
    )
