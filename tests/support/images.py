"""File systems in files: mounted, unmounted, and swapped for others that look the same.

Owns loop devices for the time of a test. Also makes images that differ in the content of one file,
and in nothing that a file system tells about it.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.waiting import eventually

IMAGE_BYTES: Final = 8 << 20
_PAGE_BYTES: Final = 4096


def needs_loop_devices() -> pytest.MarkDecorator:
    why = _why_no_loop_device()
    return pytest.mark.skipif(bool(why), reason=why or "has loop devices")


@functools.cache
def _why_no_loop_device() -> str:
    tried = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"needs loop devices: {tried.stderr.strip()}"
    tried = subprocess.run(["mkfs.ext4", "-V"], capture_output=True, text=True, check=False)
    return "needs mkfs.ext4" if tried.returncode else ""


def make_image(path: Path) -> Path:
    """An empty ext4 file system."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(path)], check=True)
    return path


@contextlib.contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """A block device whose content is an image."""
    made = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=True
    )
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextlib.contextmanager
def mounted(folder: Path, *what: str) -> Iterator[Path]:
    """Mount a file system for the time of a test; nothing may use it for longer.

    Args:
        folder: folder to mount it on.
        what: arguments of `mount`: the device, or type and options.
    """
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *what, str(folder)], check=True, capture_output=True)
    try:
        yield folder
    except BaseException:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        raise
    try:
        eventually(lambda: _is_unmounted(folder), what=f"umount {folder}")
    except AssertionError:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        raise


def _is_unmounted(folder: Path) -> bool:
    tried = subprocess.run(["umount", str(folder)], capture_output=True, check=False)
    return tried.returncode == 0


def swap_content(path: str | Path, old: bytes, new: bytes) -> None:
    """Replace pages of one file in an image, or on a device, that is not mounted.

    The file system's own data, times among them, stay as they are. Pages are found by their
    content, so the replaced ones must differ from all others.
    """
    with open(path, "r+b") as image:
        whole = image.read()
        for start in range(0, len(old), _PAGE_BYTES):
            was, becomes = old[start : start + _PAGE_BYTES], new[start : start + _PAGE_BYTES]
            if was != becomes:
                at = whole.find(was)
                assert at >= 0, "the file is not in the image"
                image.seek(at)
                image.write(becomes)
