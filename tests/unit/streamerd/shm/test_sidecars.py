"""The files beside the slabs: what comes back, what is refused, and who may read them."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from streamer_client.contract.errors import ConfigError
from streamerd.shm.sidecars import VERSION, Sidecar, SidecarFolder

ONE = Sidecar(
    VERSION, "/m/ä.safetensors", "file:1", 70_000, 65536, "/streamerd.x.1", 7, b"\1\0",
    bytes(16), True, 12.5,
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
