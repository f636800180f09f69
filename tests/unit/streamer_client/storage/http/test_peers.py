"""Addresses to which no request goes."""

from __future__ import annotations

import pytest

from streamer_client.storage.http.transport.connection import is_metadata_address


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "::ffff:169.254.169.254",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1%2",
        "168.63.129.16",
        "100.100.100.200",
    ],
)
def test_metadata_services(address: str) -> None:
    assert is_metadata_address(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "100.100.100.201", "fd00::1"])
def test_stores(address: str) -> None:
    assert not is_metadata_address(address)
