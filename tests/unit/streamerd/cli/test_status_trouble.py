"""`streamerctl status` where memory lingers or file systems hang, and where they do not."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from tests.support.sample_status import GIB, empty_body, memory

from streamer_client.contract.status import parse_status
from streamerd.cli.status_view import status_view


def shown(body: dict[str, Any]) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(status_view(parse_status(body)))
    return capture.get()


def test_a_quiet_node() -> None:
    page = shown(empty_body())
    assert "beside it" not in page
    assert "threads lost" not in page


def test_trouble_is_told() -> None:
    body = empty_body() | {"memory": memory(used_bytes=GIB, lingering_bytes=2 * GIB)}
    body["totals"] |= {"lost_threads": 4, "retired_workers": 1}
    page = shown(body)
    assert "beside it 2.00 GiB that old clients still map" in page
    assert "4 threads lost to file systems that hang, 1 workers replaced for that" in page
