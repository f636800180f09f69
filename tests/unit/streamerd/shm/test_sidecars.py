"""The files beside the slabs: what is read back, what is refused, and who may read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from streamer_client.contract.errors import ConfigError
from streamerd.shm.sidecars import VERSION, Label, Sidecar, SidecarFolder

ONE = Sidecar(
    VERSION, "/m/ä.safetensors", "file:1", 70_000, 65536, "/streamerd.x.1", 7, b"\1\0",
    bytes(16), True, 12.5, 3, 1_700_000_000_000_000_001,
    (Label(1000, 4026531841, "/m/ä.safetensors"), Label(0, 0, "/n")), (1000, 0), False,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> SidecarFolder:
    made = SidecarFolder(str(tmp_path / "s.sock"))
    made.make()
    return made


def test_a_sidecar_comes_back_as_it_was(folder: SidecarFolder) -> None:
    other = msgspec.structs.replace(ONE, slab="/streamerd.x.2", pinned=False)
    folder.write(ONE)
    folder.write(other)
    assert folder.read_all() == [ONE, other]
    again = msgspec.structs.replace(ONE, resident=b"\1\1")
    folder.write(again)
    folder.remove(other.slab)
    folder.remove("/never")
    assert folder.read_all() == [again]


def test_only_its_user_may_read_it(folder: SidecarFolder) -> None:
    folder.write(ONE)
    (file,) = Path(folder.path).iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(folder.path).stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("streamerd.x.9.slab", b"\x93"),
        ("streamerd.x.9.slab", b""),
        ("streamerd.x.9.slab.new", msgspec.msgpack.encode(ONE)),
        ("other-name.slab", msgspec.msgpack.encode(ONE)),
        (
            "streamerd.x.1.slab",
            msgspec.msgpack.encode(msgspec.structs.replace(ONE, version=VERSION + 1)),
        ),
    ],
)
def test_what_cannot_be_understood_is_removed(
    folder: SidecarFolder, name: str, content: bytes
) -> None:
    path = Path(folder.path) / name
    path.write_bytes(content)
    assert folder.read_all() == []
    assert not path.exists()


def test_the_mark_is_there_once(folder: SidecarFolder) -> None:
    assert not folder.take_mark()
    folder.mark()
    assert folder.take_mark()
    assert not folder.take_mark()


def test_clearing_leaves_nothing(folder: SidecarFolder) -> None:
    folder.write(ONE)
    folder.mark()
    folder.clear()
    assert not Path(folder.path).exists()
    folder.clear()
    assert folder.read_all() == []


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/proc/no\.sock\.slabs"):
        SidecarFolder("/proc/no.sock").make()


def test_what_another_version_left_is_told_once(folder: SidecarFolder) -> None:
    old = msgspec.structs.replace(ONE, version=VERSION - 1, slab="/streamerd.x.2")
    folder.write(ONE)
    folder.write(old)
    future = msgspec.msgpack.encode({"version": 9, "slab": "/streamerd.x.3", "inode": 8, "new": 1})
    (Path(folder.path) / "streamerd.x.3.slab").write_bytes(future)
    assert folder.take_outdated() == [(old.slab, old.inode), ("/streamerd.x.3", 8)]
    assert folder.take_outdated() == []
    assert folder.read_all() == [ONE]


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("name", ["streamerd.x.1.slab", "streamerd.x.1.slab.new", "ended-well"])
def test_a_planted_link_is_neither_read_nor_written(
    folder: SidecarFolder, tmp_path: Path, name: str, hard: bool
) -> None:
    theirs = tmp_path / "theirs"
    content = msgspec.msgpack.encode(ONE)
    theirs.write_bytes(content)
    planted = Path(folder.path) / name
    if hard:
        planted.hardlink_to(theirs)
    else:
        planted.symlink_to(theirs)
    assert folder.read_all() == []
    assert not folder.take_mark()
    folder.write(msgspec.structs.replace(ONE, pinned=False))
    folder.mark()
    assert folder.take_mark()
    assert theirs.read_bytes() == content
    assert len(folder.read_all()) == 1


def test_a_folder_that_is_a_link_is_not_used(folder: SidecarFolder, tmp_path: Path) -> None:
    folder.write(ONE)
    os.rename(folder.path, tmp_path / "theirs")
    os.symlink(tmp_path / "theirs", folder.path)
    assert folder.read_all() == []
    folder.remove(ONE.slab)
    folder.clear()
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        folder.write(ONE)
    with pytest.raises(ConfigError, match="remove what is there"):
        folder.make()
    assert [file.name for file in (tmp_path / "theirs").iterdir()] == ["streamerd.x.1.slab"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_strangers_folder_is_not_used(folder: SidecarFolder) -> None:
    folder.write(ONE)
    os.chown(folder.path, 12345, 12345)
    assert folder.read_all() == []
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        folder.make()


def test_a_folder_that_others_may_read_is_closed_to_them(folder: SidecarFolder) -> None:
    Path(folder.path).chmod(0o750)
    folder.make()
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
