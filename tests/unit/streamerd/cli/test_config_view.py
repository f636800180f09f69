"""The table of `streamerctl config`."""

import io

import pytest
from rich.console import Console

from streamer_client.contract.errors import ProtocolMismatch
from streamerd.cli.config import config_view


def test_sizes_are_shown_in_bytes_and_for_reading() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(
        config_view(
            {
                "memory_limit": {"value": 64 << 30, "origin": "flag --memory-limit"},
                "workers": {"value": 4, "origin": "default"},
                "ephemeral": {"value": False, "origin": "/etc/streamerd/streamerd.toml"},
            }
        )
    )
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "key           value                   from",
        "memory_limit  68719476736 (64.0 GiB)  flag --memory-limit",
        "workers       4                       default",
        "ephemeral     false                   /etc/streamerd/streamerd.toml",
    ]


def test_a_body_of_another_shape_is_a_mismatch() -> None:
    with pytest.raises(ProtocolMismatch, match="not as documented"):
        config_view({"workers": 4})
