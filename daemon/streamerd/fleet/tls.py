"""TLS between nodes: each node shows a certificate of the fleet's own authority and asks for one.

Names in certificates are not compared: every node with a certificate that the authority signed is a
member, at whatever address. So the authority must sign nodes of this fleet and nothing else. Used
by the fleet's process and by fetch workers.
"""

from __future__ import annotations

import ssl
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamerd.settings.fleet import Certificates

_ALPN: Final = ["http/1.1"]


def server_context(files: Certificates) -> ssl.SSLContext:
    """The context for connections that other nodes make to this node.

    Raises:
        ConfigError: a file cannot be used.
    """
    return _context(ssl.PROTOCOL_TLS_SERVER, files)


def client_context(files: Certificates) -> ssl.SSLContext:
    """The context for connections that this node makes to other nodes.

    Raises:
        ConfigError: a file cannot be used.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def _context(protocol: int, files: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(files.cert, files.key)
        context.load_verify_locations(cafile=files.ca)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"the fleet's certificates cannot be used ({files.cert}, {files.key}, {files.ca}): "
            f"{error}; each must be a PEM file that the daemon's user can read, and the key "
            "must belong to the certificate"
        ) from error
    context.set_alpn_protocols(_ALPN)
    return context
