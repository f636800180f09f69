"""Slabs as objects: to whom they belong, which are unlinked, and how a client gets at one."""

from __future__ import annotations

import errno
import os
import resource
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.contract.errors import ConfigError, MemoryLimitError
from streamerd.memory.room import SHM_MOUNT
from streamerd.shm.slabs import (
    create_slab,
    inode_of,
    is_open_elsewhere,
    open_readonly,
    open_slab,
    readonly_mount,
    remove_slab,
    slab_name,
)

SIZE = 100_000


@pytest.fixture
def name() -> Iterator[str]:
    name = slab_name(secrets.token_hex(4), "", "", 1)
    yield name
    Path(SHM_MOUNT + name).unlink(missing_ok=True)


@pytest.fixture
def slab(name: str) -> Iterator[int]:
    fd = create_slab(name, SIZE)
    yield fd
    os.close(fd)


def test_a_limit_of_files_sizes_is_named(name: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    try:
        with pytest.raises(MemoryLimitError, match="LimitFSIZE"):
            create_slab(name, SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not Path(SHM_MOUNT + name).exists()


@pytest.mark.parametrize("umask", [0, 0o777])
def test_it_belongs_to_its_user_alone(name: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        fd = create_slab(name, SIZE)
    finally:
        os.umask(before)
    found = os.fstat(fd)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert (found.st_size >= SIZE, found.st_blocks) == (True, 0)
    os.pwrite(fd, b"x", 0)
    assert os.pread(fd, 1, 0) == b"x"
    os.close(fd)


def test_a_name_that_is_taken_is_left_alone(name: str, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("kept")
    Path(SHM_MOUNT + name).symlink_to(theirs)
    with pytest.raises(ConfigError, match=f"{name} exists already"):
        create_slab(name, SIZE)
    assert not remove_slab(name)
    assert theirs.read_text() == "kept"
    assert Path(SHM_MOUNT + name).is_symlink()


def test_only_the_object_that_is_meant_is_unlinked(name: str, slab: int) -> None:
    inode = os.fstat(slab).st_ino
    assert inode_of(name) == inode
    os.unlink(SHM_MOUNT + name)
    other = create_slab(name, SIZE)
    assert not remove_slab(name, inode)
    assert inode_of(name) == os.fstat(other).st_ino != inode
    with pytest.raises(OSError, match="another object") as caught:
        open_slab(name, inode)
    assert caught.value.errno == errno.ESTALE
    assert remove_slab(name, os.fstat(other).st_ino)
    assert not remove_slab(name)
    os.close(other)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give an object away")
def test_a_strangers_object_is_neither_opened_nor_unlinked(name: str, slab: int) -> None:
    os.fchown(slab, 12345, 12345)
    assert not remove_slab(name)
    with pytest.raises(OSError, match="another object"):
        open_slab(name, os.fstat(slab).st_ino)


@pytest.mark.parametrize("unlinked", [False, True])
def test_a_client_gets_a_descriptor_that_cannot_write(name: str, slab: int, unlinked: bool) -> None:
    if unlinked:
        os.unlink(SHM_MOUNT + name)
    os.pwrite(slab, b"bytes", 7)
    given = open_readonly(slab, name)
    assert os.pread(given, 5, 7) == b"bytes"
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.pwrite(given, b"x", 0)
    assert not os.get_inheritable(given)
    os.close(given)


def test_who_else_has_it_open_shows(name: str, slab: int) -> None:
    assert not is_open_elsewhere(slab)
    given = open_readonly(slab, name)
    assert is_open_elsewhere(slab)
    os.unlink(SHM_MOUNT + name)
    assert is_open_elsewhere(slab)
    os.close(given)
    assert not is_open_elsewhere(slab)


def test_a_mount_that_is_none_is_refused_if_it_was_named(tmp_path: Path) -> None:
    for path, wrong in (
        (str(tmp_path / "nothing"), "cannot be used"),
        ("/proc", f"is not a second mount of {SHM_MOUNT}"),
        (SHM_MOUNT, "can be written to"),
    ):
        with pytest.raises(ConfigError, match=rf"readonly_shm: {path} {wrong}"):
            readonly_mount(path)


REOPENS = """
import os, sys
from streamerd.memory.room import SHM_MOUNT
from streamerd.shm.slabs import create_slab, open_readonly, readonly_mount
path, name = sys.argv[1:]
fd = create_slab(name, 4096)
os.pwrite(fd, b"bytes", 0)

def reopened(given):
    try:
        os.close(os.open(f"/proc/self/fd/{given}", os.O_RDWR))
    except OSError as error:
        return os.strerror(error.errno)
    return "opened"

mount = readonly_mount(path)
through = open_readonly(fd, name, mount)
assert os.pread(through, 5, 0) == b"bytes"
print(reopened(through))
print(reopened(open_readonly(fd, name)))
os.unlink(SHM_MOUNT + name)
os.close(os.open(SHM_MOUNT + name, os.O_CREAT | os.O_EXCL))
other = open_readonly(fd, name, mount)
print(os.pread(other, 5, 0).decode())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_through_a_read_only_mount_not_even_root_can_write(name: str, tmp_path: Path) -> None:
    bind = f"mount --bind {SHM_MOUNT} {tmp_path} && mount -o remount,bind,ro {tmp_path}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{bind} && exec "$@"', "sh",
         sys.executable, "-c", REOPENS, str(tmp_path), name],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["Read-only file system", "opened", "bytes"]
    assert "event=slab_opened_without_readonly_mount" in done.stderr
