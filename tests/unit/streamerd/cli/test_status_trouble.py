"""`streamerctl status` where memory lingers or file systems hang, and where neither is so."""

from __future__ import annotations

from rich.console import Console

from streamerd.cli.status_body import Memory, StatusBody, Totals
from streamerd.cli.status_view import status_view

GIB = 1 << 30


def shown(memory: Memory, totals: Totals) -> str:
    body = StatusBody("0.1.0", 1, 2.0, "/run/s", "1a2b3c4d", memory, (), (), totals)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(status_view(body))
    return capture.get()


def test_a_quiet_node() -> None:
    page = shown(Memory(4 * GIB, GIB, 0, 0), Totals(0, 0, 0, 0, 0, 0, 0, 0, 0))
    assert "beside it" not in page
    assert "threads lost" not in page


def test_trouble_is_told() -> None:
    memory = Memory(4 * GIB, GIB, 0, 0, lingering_bytes=2 * GIB)
    page = shown(memory, Totals(0, 0, 0, 0, 0, 0, 0, 0, 0, lost_threads=4, retired_workers=1))
    assert "beside it 2.00 GiB that old clients still map" in page
    assert "4 threads lost to file systems that hang, 1 workers replaced for that" in page
