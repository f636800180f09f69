"""One file under many names is one shard; two files that repeat every number are two."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import write_blocks
from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.images import (
    loop_device,
    make_image,
    mounted,
    needs_loop_devices,
    swap_content,
)
from tests.support.touched_files import BLOCKS, read_and_proven
from tests.support.visitor import Refusal, Visitor, digest_of, digests_of
from tests.support.worlds import (
    needs_root,
    shards_of,
)


def test_a_file_of_four_names_is_read_and_kept_once(
    daemon: DaemonProcess, client: Visitor, tmp_path: Path
) -> None:
    """The names are two snapshots of one blob, as in a Hugging Face cache, a link to a folder, and
    a hard link.
    """
    blobs, one, two = (tmp_path / name for name in ("blobs", "snapshots/a", "snapshots/b"))
    for folder in (blobs, one, two):
        folder.mkdir(parents=True)
    blob = write_blocks(blobs / "0123abcd", 4)
    names = [one / "m.safetensors", two / "m.safetensors", tmp_path / "hard.safetensors"]
    for name in names[:2]:
        name.symlink_to("../../blobs/0123abcd")
    names[2].hardlink_to(blob)
    (tmp_path / "link").symlink_to(two)
    names.append(tmp_path / "link" / "m.safetensors")
    read, _ = read_and_proven(daemon)
    slabs = len(shards_of(daemon.socket))
    for name in names:
        assert client.load(daemon.socket, name)["digests"] == {name.name: digest_of(blob)}
    assert read_and_proven(daemon)[0] - read == 4 * BLOCK
    assert len(shards_of(daemon.socket)) - slabs == 1


@needs_root()
def test_a_bind_mount_of_a_file_is_the_file(
    daemon: DaemonProcess, client: Visitor, model: Path, tmp_path: Path
) -> None:
    client.load(daemon.socket, model)
    with mounted(tmp_path / "elsewhere", "--bind", str(model.parent)) as folder:
        found = client.load(daemon.socket, folder)
    assert found["resident_bytes"] == BLOCKS * BLOCK


def numbers_of(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@needs_root()
def test_a_tmpfs_made_again_with_the_same_numbers_is_another(
    daemon: DaemonProcess, client: Visitor, tmp_path: Path
) -> None:
    """Device, inode, size and mtime are the same; this needs no image and no loop device."""
    seen = []
    for seed in (1, 2):
        with mounted(tmp_path / "fs", "-t", "tmpfs", "tmpfs") as folder:
            file = write_blocks(folder / "m.safetensors", 4, seed=seed)
            os.utime(file, ns=(10**18, 10**18))
            seen.append(numbers_of(file))
            assert client.load(daemon.socket, file)["digests"] == digests_of([file])
    if seen[0] != seen[1]:
        pytest.skip("this kernel gave the second tmpfs other numbers: somebody else mounts too")


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """Two file systems that differ in the content of one file, and in nothing that
    `fstat` tells.
    """
    one, other = make_image(tmp_path / "one.img"), tmp_path / "other.img"
    old = write_blocks(tmp_path / "m", 4, seed=1)
    with loop_device(one) as device, mounted(tmp_path / "fs", device) as folder:
        shutil.copy2(old, folder / "m.safetensors")
    shutil.copy(one, other)
    new = write_blocks(tmp_path / "m", 4, seed=2).read_bytes()
    with loop_device(one) as device, mounted(tmp_path / "fs", device) as folder:
        first = (folder / "m.safetensors").read_bytes()
    swap_content(other, first, new)
    return one, other


@needs_root()
@needs_loop_devices()
@pytest.mark.parametrize("mode", ["required", "auto"])
def test_another_image_in_the_place_of_one_is_another(
    daemon: DaemonProcess, client: Visitor, tmp_path: Path, images: tuple[Path, Path], mode: str
) -> None:
    seen, digests = [], []
    for image in images:
        with loop_device(image) as device, mounted(tmp_path / "fs", "-o", "ro", device) as folder:
            file = folder / "m.safetensors"
            seen.append((*numbers_of(file), file.stat().st_ctime_ns))
            found = client.load(daemon.socket, file, mode=mode)
            assert found["digests"] == digests_of([file])
            digests.append(found["digests"])
    assert seen[0][1:] == seen[1][1:]
    assert digests[0] != digests[1]


@needs_root()
@needs_loop_devices()
@pytest.mark.parametrize("mode", ["required", "auto"])
def test_an_image_changed_below_its_device_is_seen_by_its_pages(
    daemon: DaemonProcess, client: Visitor, tmp_path: Path, images: tuple[Path, Path], mode: str
) -> None:
    """The images repeat everything, also the inode's ctime and the disk's own number; they differ
    only in the file's content.
    """
    one, other = images
    seen = []
    with loop_device(one) as device:
        for content in (None, other):
            if content is not None:
                with open(device, "r+b") as disk:
                    disk.write(content.read_bytes())
            with mounted(tmp_path / "fs", "-o", "ro", device) as folder:
                file = folder / "m.safetensors"
                seen.append((*numbers_of(file), file.stat().st_ctime_ns))
                outcome = _whole(client, daemon, file, mode)
                assert outcome == digests_of([file])
    assert seen[0] == seen[1]


def _whole(client: Visitor, daemon: DaemonProcess, file: Path, mode: str) -> object:
    """The bytes of a load; it is made once more if the first one finds other bytes in memory."""
    try:
        return client.load(daemon.socket, file, mode=mode)["digests"]
    except Refusal as refused:
        if refused.kind != "SourceChanged":
            raise
        client.ask("close")
    return client.load(daemon.socket, file, mode=mode)["digests"]
