"""Unlinked slabs count as lingering as long as clients have them open."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from streamerd.memory.room import SHM_MOUNT
from streamerd.shm.lingering import Lingering
from streamerd.shm.slabs import create_slab, remove_slab, slab_name

SIZE = 64 << 10


@pytest.fixture
def lingering() -> Iterator[Lingering]:
    made = Lingering()
    yield made
    made.close()


@pytest.fixture
def unlinked() -> tuple[int, int]:
    """A slab without a name, as two descriptors: the daemon's and a client's."""
    name = slab_name(secrets.token_hex(4), "", "", 1)
    fd = create_slab(name, SIZE)
    theirs = os.open(SHM_MOUNT + name, os.O_RDONLY)
    os.posix_fallocate(fd, 0, SIZE)
    remove_slab(name)
    return fd, theirs


def test_what_nobody_else_has_open_is_not_kept(
    lingering: Lingering, unlinked: tuple[int, int]
) -> None:
    fd, theirs = unlinked
    os.close(theirs)
    assert not lingering.keep(fd)
    assert lingering.size_bytes == 0
    os.close(fd)  # the descriptor still belongs to the caller


def test_what_somebody_has_open_is_counted_until_they_let_go(
    lingering: Lingering, unlinked: tuple[int, int]
) -> None:
    fd, theirs = unlinked
    assert lingering.keep(fd)
    lingering.look()
    assert lingering.size_bytes == SIZE
    os.close(theirs)
    lingering.look()
    assert lingering.size_bytes == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_the_daemons_end_forgets_them(lingering: Lingering, unlinked: tuple[int, int]) -> None:
    fd, theirs = unlinked
    assert lingering.keep(fd)
    lingering.close()
    assert lingering.size_bytes == 0
    os.close(theirs)
