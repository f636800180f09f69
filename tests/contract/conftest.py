"""Fixtures of the tests of storages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.storage.local import LocalStorage
from streamer_client.storage.remembered import LISTINGS


@pytest.fixture(autouse=True)
def _unknown_listings() -> None:
    """Lets each test begin as a process that has listed nothing yet."""
    for place in dict(LISTINGS.items()):
        LISTINGS.forget(place)


@pytest.fixture
def storage() -> LocalStorage:
    return LocalStorage()


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user may enter, which `tmp_path` is not."""
    with tempfile.TemporaryDirectory(prefix="storage-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)
