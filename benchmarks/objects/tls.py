"""TLS for the benchmark's server: a certificate made at its start, and TLS in the kernel.

With kernel TLS the server encrypts on the way from sendfile to the socket, and a client's receive
returns plain bytes. It needs a kernel with the `tls` protocol and an OpenSSL built for it.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from typing import Final, NamedTuple

_TCP_ULP: Final = 31
"""The constant of <linux/tcp.h> that sets a protocol of the kernel between socket and TCP."""
_ENABLE_KTLS: Final = 1 << 3
"""OpenSSL's SSL_OP_ENABLE_KTLS, which Python's ssl module names from 3.12 on."""
_DAYS: Final = "2"
TLS_STATISTICS: Final = "/proc/net/tls_stat"
"""The statistics of this network namespace; the file exists if the kernel has TLS."""


class Certificate(NamedTuple):
    """The files of a certificate, which signs itself and so is also the bundle that trusts it."""

    bundle: str
    key: str


def make_certificate(directory: str) -> Certificate:
    """Make a certificate for 127.0.0.1."""
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
    """Why connections of this machine cannot use kernel TLS; empty if they can."""
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
    """The TLS context of a bare loop, with kernel TLS if it is available."""
    context = ssl.create_default_context(cafile=bundle)
    context.options |= _ENABLE_KTLS
    return context


def kernel_tls_opened(statistics: str) -> tuple[int, int]:
    """How many connections have sent and received by kernel TLS since the machine started.

    Args:
        statistics: the text of `TLS_STATISTICS`: on each line, a counter's name and value.
    """
    counters = dict(line.split() for line in statistics.splitlines())
    sent, received = (
        sum(int(counters.get(f"Tls{way}{how}", "0")) for how in ("Sw", "Device"))
        for way in ("Tx", "Rx")
    )
    return sent, received
