"""TLS contexts: one for each set of trusted certificates in a process.

Certificates of a caller come as text (`authorities.py`): no file that it names is opened here.
"""

from __future__ import annotations

import functools
import os
import ssl
from importlib.util import find_spec

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.settings import AUTHORITIES


@functools.lru_cache(maxsize=8)
def tls_context(authorities: str, verify: bool) -> ssl.SSLContext:
    """A client's context; certificates and host names are verified unless told otherwise.

    Args:
        authorities: certificates in PEM of the only authorities to trust; empty: the system's, or
            where the system has none (slim containers) those that come with botocore.
        verify: False trusts anybody.

    Raises:
        ConfigError: they are no certificates, or the system's cannot be read.
    """
    context = _trusting(authorities) if authorities else _trusting_the_system()
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(authorities: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=authorities)
    except (ssl.SSLError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{AUTHORITIES}: cannot be used: {error}; the file that AWS_CA_BUNDLE or SSL_CERT_FILE "
            "names must hold whole certificates in PEM"
        ) from error


def _trusting_the_system() -> ssl.SSLContext:
    bundle = _fallback_bundle()
    try:
        return ssl.create_default_context(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the system's authorities cannot be used: {bundle or 'default paths'}: {error}; "
            "install ca-certificates, or name a PEM file in AWS_CA_BUNDLE"
        ) from error


def _fallback_bundle() -> str | None:
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(os.scandir(paths.capath))):
        return None
    botocore = find_spec("botocore")  # looked up, not imported
    if botocore is None or botocore.origin is None:
        return None
    bundle = os.path.join(os.path.dirname(botocore.origin), "cacert.pem")
    return bundle if os.path.exists(bundle) else None
