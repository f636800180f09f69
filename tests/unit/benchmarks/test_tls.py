"""Reading whether the kernel has TLS of its own."""

from __future__ import annotations

from benchmarks.objects.tls import kernel_tls_opened

STATISTICS = """\
TlsCurrTxSw                     \t1
TlsTxSw                         \t4
TlsRxSw                         \t3
TlsTxDevice                     \t2
"""


def test_connections_are_counted_whoever_encrypts() -> None:
    assert kernel_tls_opened(STATISTICS) == (6, 3)


def test_a_kernel_that_counts_nothing_has_none() -> None:
    assert kernel_tls_opened("") == (0, 0)
