"""Fixtures: a daemon, a client, and a file of `BLOCKS` blocks that tests touch or change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import write_blocks
from tests.support.daemon import BLOCK, DaemonProcess, daemons
from tests.support.touched_files import BLOCKS
from tests.support.visitor import Visitor


@pytest.fixture(scope="package")
def daemon() -> Iterator[DaemonProcess]:
    with daemons() as made:
        yield made.start(f"--memory-limit={64 * BLOCK}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of eight blocks."""
    (tmp_path / "m").mkdir()
    return write_blocks(tmp_path / "m" / "m.safetensors", BLOCKS)


@pytest.fixture
def client() -> Iterator[Visitor]:
    with Visitor() as visitor:
        yield visitor
