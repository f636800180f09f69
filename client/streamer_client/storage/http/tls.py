"""TLS contexts: one for each set of trusted certificates in a process."""

from __future__ import annotations

import functools
import os
import ssl
from importlib.util import find_spec

from streamer_client.contract.errors import ConfigError


@functools.lru_cache(maxsize=8)
def tls_context(ca_bundle: str, verify: bool) -> ssl.SSLContext:
    """A client's context; certificates and host names are verified unless told otherwise.

    Args:
        ca_bundle: a PEM file of the only authorities to trust; empty: the system's, or where the
            system has none (slim containers) those that come with botocore.
        verify: False trusts anybody.

    Raises:
        ConfigError: the bundle cannot be read or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca_bundle or _fallback_bundle())
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"CA bundle {ca_bundle}: cannot be used: {error}; AWS_CA_BUNDLE must name a PEM file "
            f"of certificates that user id {os.geteuid()} can read, also where the daemon runs"
        ) from error
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _fallback_bundle() -> str | None:
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(os.scandir(paths.capath))):
        return None
    botocore = find_spec("botocore")  # looked up, not imported
    if botocore is None or botocore.origin is None:
        return None
    bundle = os.path.join(os.path.dirname(botocore.origin), "cacert.pem")
    return bundle if os.path.exists(bundle) else None
