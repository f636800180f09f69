"""TLS for the benchmark's server: a certificate made when it starts, and the kernel's part in it.

With kernel TLS the server encrypts on the way from sendfile to the socket, and a client's receive
returns plain bytes. It takes a kernel with the `tls` protocol and an OpenSSL that was built for it.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from typing import Final, NamedTuple

_TCP_ULP: Final = 31
"""Of <linux/tcp.h>: names the protocol that a connection's bytes pass through in the kernel."""
_ENABLE_KTLS: Final = 1 << 3
"""OpenSSL's SSL_OP_ENABLE_KTLS, which Python's ssl module names from 3.12 on."""
_DAYS: Final = "2"
TLS_STATISTICS: Final = "/proc/net/tls_stat"
"""Of this network namespace; it is there where the kernel has TLS."""


class Certificate(NamedTuple):
    """Its files; it signs itself, so that it is also the bundle to trust it by."""

    bundle: str
    key: str


def make_certificate(directory: str) -> Certificate:
    """A certificate for 127.0.0.1."""
    made = Certificate(os.path.join(directory, "bundle.pem"), os.path.join(directory, "key.pem"))
    command = ["openssl", "req", "-x509", "-nodes", "-days", _DAYS, "-subj", "/CN=127.0.0.1"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", made.key, "-out", made.bundle]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise SystemExit("--tls needs the openssl command: apt-get install openssl") from error
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"openssl made no certificate: {error.stderr}") from error
    return made


def without_kernel_tls() -> str:
    """Why connections of this machine cannot use kernel TLS; empty where they can."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as connected,
    ):
        try:
            connected.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
        except OSError as error:
            return f"this kernel has none ({error.strerror})"
    return ""


def client_context(bundle: str) -> ssl.SSLContext:
    """What a bare loop connects with, with kernel TLS where it can be had."""
    context = ssl.create_default_context(cafile=bundle)
    context.options |= _ENABLE_KTLS
    return context


def kernel_tls_opened(statistics: str) -> tuple[int, int]:
    """How many connections have sent and received by kernel TLS since the machine started.

    Args:
        statistics: the text of `TLS_STATISTICS`: a counter's name and value a line.
    """
    counters = dict(line.split() for line in statistics.splitlines())
    sent, received = (
        sum(int(counters.get(f"Tls{way}{how}", "0")) for how in ("Sw", "Device"))
        for way in ("Tx", "Rx")
    )
    return sent, received
