"""Slabs by name: those of this daemon, and the memory that goes with a name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.contract.errors import ConfigError, MemoryLimitError
from streamerd.shm import slabs
from streamerd.shm.slabs import (
    create_slab,
    inode_of,
    instance_slabs,
    is_slab_name,
    open_readonly,
    open_slab,
    readonly_mount,
    remove_slab,
    slab_name,
)


@pytest.fixture(autouse=True)
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /dev/shm."""
    monkeypatch.setattr(slabs, "SHM_MOUNT", str(tmp_path))
    return tmp_path


@pytest.fixture
def slab() -> Iterator[tuple[str, int]]:
    """A slab's name and descriptor."""
    name = slab_name("inst", "/m/a", "file:1", 0)
    fd = create_slab(name, 5000)
    yield name, fd
    os.close(fd)


def test_a_name_is_of_one_content_of_one_shard_of_one_daemon() -> None:
    name = slab_name("inst", "/m/a", "file:1", 0)
    assert name.startswith("/streamerd.inst.")
    assert is_slab_name(name)
    others = [
        slab_name("other", "/m/a", "file:1", 0),
        slab_name("inst", "/m/b", "file:1", 0),
        slab_name("inst", "/m/a", "file:2", 0),
        slab_name("inst", "/m/a", "file:1", 1),
    ]
    assert len({name, *others}) == 5


@pytest.mark.parametrize("name", ["streamerd.x.y", "/other.x", "/streamerd.x/../../etc/passwd"])
def test_what_no_slab_is_called(name: str) -> None:
    assert not is_slab_name(name)


def test_a_slab_is_its_users_alone_of_whole_pages_and_without_memory(
    slab: tuple[str, int], mount: Path
) -> None:
    name, fd = slab
    found = os.fstat(fd)
    assert (found.st_mode & 0o777, found.st_size, found.st_blocks) == (0o600, 8192, 0)
    assert instance_slabs("inst") == [name]
    assert instance_slabs("ins") == []
    assert (mount / name[1:]).exists()


def test_a_name_that_is_taken_is_refused_and_stays(slab: tuple[str, int], mount: Path) -> None:
    name, _ = slab
    with pytest.raises(ConfigError, match="exists already and is not this daemon's"):
        create_slab(name, 1)
    assert (mount / name[1:]).stat().st_size == 8192


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.ENOSPC, MemoryLimitError, "free memory"),
        (errno.EMFILE, MemoryLimitError, "LimitNOFILE"),
        (errno.ENOENT, ConfigError, "mounted"),
        (errno.EACCES, ConfigError, "no permission"),
    ],
)
def test_why_there_is_no_slab_is_told_with_what_to_do(
    number: int, kind: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(kind, match=told):
        create_slab("/streamerd.inst.x", 1)


def test_a_slab_that_cannot_be_sized_leaves_nothing(
    mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(MemoryLimitError):
        create_slab("/streamerd.inst.x", 1)
    assert list(mount.iterdir()) == []


def test_another_object_of_that_name_is_neither_opened_nor_removed(
    slab: tuple[str, int], mount: Path
) -> None:
    name, _ = slab
    inode = inode_of(name)
    os.close(open_slab(name, inode))
    with pytest.raises(OSError, match="another object has that name"):
        open_slab(name, inode + 1)
    assert not remove_slab(name, inode + 1)
    assert remove_slab(name, inode)
    assert not remove_slab(name, inode), "it is gone"
    (mount / name[1:]).symlink_to("/dev/null")
    assert not remove_slab(name), "a link is no slab"


def test_a_client_gets_a_descriptor_that_only_reads(slab: tuple[str, int], mount: Path) -> None:
    name, fd = slab
    through = open_readonly(fd, name, str(mount))
    remove_slab(name)
    without = open_readonly(fd, name, str(mount))
    for each in (through, without):
        assert os.path.samestat(os.fstat(each), os.fstat(fd))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(each, b"x")
        os.close(each)


def test_a_readonly_mount_that_can_be_written_to_is_none(mount: Path) -> None:
    with pytest.raises(ConfigError, match="can be written to; bind"):
        readonly_mount(str(mount))
    with pytest.raises(ConfigError, match="cannot be used"):
        readonly_mount(str(mount / "nowhere"))
