"""A service that runs as a user of its own, members of the group that may use its socket, and their
files.

`setpriv` makes the users, so these tests need root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess, daemons
from tests.support.worlds import (
    GROUP,
    MEMBER,
    SERVICE,
    as_user,
    give,
    shared_folder,
)


@pytest.fixture(scope="package")
def run() -> Iterator[Path]:
    with shared_folder(SERVICE, GROUP) as folder:
        yield folder


@pytest.fixture(scope="package")
def service(run: Path) -> Iterator[DaemonProcess]:
    """A daemon that runs as a user of its own, whose socket belongs to a group."""
    with daemons() as made:
        path = run / "control.sock"
        before = as_user(SERVICE, GROUP)
        daemon = made.make("--socket-mode=0660", socket_path=path, before=before).start()
        yield daemon
        daemon.end()


@pytest.fixture
def home() -> Iterator[Path]:
    """A member's home, which nobody else may enter."""
    with shared_folder(MEMBER, MEMBER, 0o700) as folder:
        yield folder


@pytest.fixture
def model(home: Path) -> list[Path]:
    """A model of three blocks in a member's home, whose files have modes by which everybody could
    read them.
    """
    files = write_model(home / "m", shards=1, blocks=3)
    give([home / "m"], MEMBER, 0o755)
    give(files, MEMBER)
    return files
